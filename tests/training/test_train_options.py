"""What can be set for a run: frozen parameters, LoRA's targets, mirroring, learning rates; and what runs short."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from clipsearch.encoder.layout import parse_preprocessing  # noqa: E402
from clipsearch.errors import OutOfSpace  # noqa: E402
from clipsearch.pairs.reading import open_pairs  # noqa: E402
from clipsearch.training.distributed import average_gradients  # noqa: E402
from clipsearch.training.freezing import frozen_by  # noqa: E402
from clipsearch.training.loop import Loop  # noqa: E402
from clipsearch.training.methods import check_method, check_trainable  # noqa: E402
from clipsearch.training.mirroring import may_be_mirrored, mirroring_notice, tells_a_side  # noqa: E402
from clipsearch.training.rates import STEPS, RateSweep, Sweeping, rate_at  # noqa: E402
from clipsearch.training.run import Request, resume, training_device  # noqa: E402
from clipsearch.training.run_folder import RunFolder  # noqa: E402
from clipsearch.training.settings import InvalidSettings, Settings, TrainingStopped, heeded  # noqa: E402
from clipsearch.training.shortages import (  # noqa: E402
    OutOfMemory,
    RunOutOfSpace,
    fitting_size,
    is_out_of_memory,
    shortages_named,
)
from clipsearch.training.tensorboard import tensorboard_writer  # noqa: E402
from clipsearch.training.towers import TowersTrainee, prepare_towers  # noqa: E402
from clipsearch.training.views import Augmentation, view_of  # noqa: E402
from clipsearch.training.world import World  # noqa: E402
from tests.support.open_clip_models import SMALL_RESNET, SMALL_VIT, small_encoder, small_model  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = pytest.mark.torch


def trainee_for(settings: Settings, folder: Path, config: dict[str, Any] = SMALL_VIT) -> TowersTrainee:
    pairs = open_pairs([write_pairs(folder, 8)])
    return TowersTrainee(small_encoder(config), settings, pairs, {"dev": pairs})


def loop_for(settings: Settings, folder: Path, **more: Any) -> Loop:
    trainee = trainee_for(settings, folder / "pairs")
    run = RunFolder(folder / "run")
    run.create({})
    return Loop(trainee, trainee.order, settings, run, **more)


def names_of(config: dict[str, Any]) -> list[str]:
    return [name for name, _ in small_model(config).named_parameters()]


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_frozen_parameters_are_those_that_were_named(config: dict[str, Any]) -> None:
    names = names_of(config)
    image = frozen_by(names, ["image"], 0)
    assert {name for name in names if image(name)} == {name for name in names if name.startswith("visual.")}
    block = frozen_by(names, ["transformer.resblocks.1.*"], 0)
    assert {name for name in names if block(name)} == {
        name for name in names if name.startswith("transformer.resblocks.1.")
    }
    first = frozen_by(names, [], 1)
    assert first("token_embedding.weight")
    assert first("transformer.resblocks.0.attn.in_proj_weight")
    assert not first("transformer.resblocks.1.attn.in_proj_weight")
    assert not first("text_projection")
    assert not any(map(frozen_by(names, [], 0), names))
    with pytest.raises(InvalidSettings, match="--freeze nothing matches no parameter"):
        frozen_by(names, ["nothing"], 0)
    with pytest.raises(InvalidSettings, match=r"--freeze-layers 99 is more than the \d layers"):
        frozen_by(names, [], 99)


@pytest.mark.parametrize(
    ("settings", "more", "said"),
    [
        (Settings("heads", freeze=("image",), precision="bf16"), {}, "--freeze and --precision would change nothing"),
        (Settings("heads", lora_rank=4, lora_alpha=1.0), {}, "--rank and --lora-alpha would change nothing"),
        (Settings("locked-image", lora_targets=("mlp",)), {}, "--lora-target would change nothing: --method locked"),
        (Settings("heads", layer_decay=0.5, checkpoint_layers=True, freeze_layers=1), {}, "--freeze-layers, --layer-d"),
        (Settings("full", lora_rank=4), {"model": "open_clip:tiny"}, "--rank would change nothing: --method full"),
        (Settings("lora", gate=False), {"model": "open_clip:tiny"}, "--no-gate would change nothing: --method lora"),
        (Settings("lora", lora_alpha=0.0), {"model": "open_clip:tiny"}, "--lora-alpha 0 multiplies"),
        (Settings("heads"), {"checkpoint": "/a.safetensors"}, "--checkpoint gives an open_clip: model its weights"),
        (
            Settings("locked-image", views=2, mirror=False),
            {},
            "--views and --no-mirror would change nothing: --method lo",
        ),
        (Settings("locked-image", smallest_crop=0.5, jitter=0.1), {}, "--crop and --jitter would change nothing"),
        (Settings("heads", views=1, mirror=True), {}, "--mirror would change nothing: with --views 1"),
        (Settings("full", views=1, jitter=0.1), {"model": "open_clip:tiny"}, "--jitter would change nothing: with --v"),
        (Settings("heads", seed=10**20), {}, "--seed 100000000000000000000 is not a number from 0 to"),
    ],
)
def test_options_that_change_nothing_are_refused(settings: Settings, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        check_method(Request(**{"sources": [], "model": "builtin", "settings": settings, **more}), None, World())


def test_defaults_and_what_is_heeded_are_not_refused() -> None:
    for settings in (
        Settings("heads", gate=False, ema=0.9),
        Settings("locked-image"),
        Settings("locked-image", views=1),
        Settings("heads", views=1),
        Settings("heads", views=2, mirror=True, smallest_crop=0.5),
    ):
        check_method(Request([], "builtin", settings), None, World())
    for settings in (
        Settings("lora", lora_rank=4, precision="bf16", freeze=("text",)),
        Settings("full"),
        Settings("locked-image", views=4, jitter=0.1),  # towers are trained on views, locked or not
    ):
        check_method(Request([], "open_clip:tiny", settings, checkpoint="/a.safetensors"), None, World())


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidSettings, match="--device xyz is not a device that PyTorch knows"):
        training_device("xyz", World())
    if not torch.cuda.is_available():
        with pytest.raises(InvalidSettings, match="--device cuda: PyTorch finds no such device here"):
            training_device("cuda", World())
    assert training_device("cpu", World()).type == "cpu"


def test_a_run_says_that_lora_cannot_have_the_rank(tmp_path: Path) -> None:
    pairs, said = open_pairs([write_pairs(tmp_path, 8)]), list[str]()
    for rank in (8, 100_000):
        settings = Settings("lora", lora_rank=rank, views=1)
        prepare_towers(small_encoder(SMALL_VIT), settings, pairs, pairs, pairs, World(), lambda *_: None, said.append)
    [line] = [line for line in said if "--rank" in line]
    assert line.startswith("--rank 100,000 is more than an eighth of the smaller side of all weights")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_on_a_device_that_is_gone_says_what_to_do(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create({"request": Request([str(tmp_path)], "builtin", Settings("heads"), device="cuda").as_json()})
    said = (
        "the run began with --device cuda, and PyTorch finds no such device here. Continue it on a machine that has one"
    )
    with pytest.raises(InvalidSettings, match=said):
        resume(run.path)


def test_lora_targets_that_the_model_lacks_are_named() -> None:
    base = small_encoder(SMALL_VIT)
    for settings, said in (
        (
            Settings("lora", lora_targets=("convolution",)),
            "--lora-target convolution fits no weight of the model. It h",
        ),
        (Settings("lora", freeze=("image", "text")), "all weights that LoRA would change are frozen"),
        (Settings("full", freeze_layers=99), "--freeze-layers 99 is more than the"),
    ):
        with pytest.raises(InvalidSettings, match=said):
            check_trainable(Request([], "open_clip:tiny", settings), base)
    check_trainable(Request([], "open_clip:tiny", Settings("lora")), base)


def test_the_card_lists_what_the_method_heeds() -> None:
    of_heads = heeded(Settings("heads").as_json(), "heads", True)
    assert "gate" in of_heads
    assert not {"lora_rank", "lora_targets", "freeze", "precision", "compile"} & set(of_heads)
    assert {"views", "mirror", "jitter"} <= set(of_heads)
    of_texts = heeded(Settings("locked-image").as_json(), "locked-image", True)
    assert not {"views", "mirror", "smallest_crop", "jitter"} & set(of_texts)
    of_lora = heeded(Settings("lora").as_json(), "lora", False)
    assert {"lora_rank", "precision", "freeze"} <= set(of_lora)
    assert not {"gate", "keep_general"} & set(of_lora)


def test_only_what_is_not_frozen_is_trained(tmp_path: Path) -> None:
    full = trainee_for(Settings("full", freeze=("text",), freeze_layers=1), tmp_path / "a")
    assert full.trained
    assert all(name.startswith("visual.") for name in full.trained)
    assert not any("resblocks.0" in name or "conv1" in name for name in full.trained)
    lora = trainee_for(Settings("lora", freeze=("image",), lora_targets=("attention",)), tmp_path / "b")
    assert lora.trained
    assert all(".attn." in name and not name.startswith("visual.") for name in lora.trained)
    mlp = trainee_for(Settings("lora", lora_targets=("mlp",)), tmp_path / "c")
    assert all(".mlp." in name for name in mlp.trained)
    with pytest.raises(InvalidSettings, match="everything is frozen"):
        trainee_for(Settings("full", freeze=("image", "text")), tmp_path / "d")


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("a dog on the left of a bench", True), ("Mann rechts im Bild", True), ("deux chats à gauche", True),
        ("左边的猫", True), ("T-shirt with a logo", True), ('a wall that says "no entry"', True),
        ("a street sign", True), ("the clock shows noon", True), ("A dog on a beach", False),
        ("bright lights", False), ("leftovers on a plate", False), ("a designer lamp", False),
        ("a couple's wedding", False),
    ],
)  # fmt: skip
def test_captions_that_a_mirror_would_make_wrong(caption: str, told: bool) -> None:
    assert tells_a_side([caption]) == told


def test_mirroring_is_off_where_captions_speak_against_it(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 20)
    (folder / "p00003.txt").write_text("a cat on the right")
    may = may_be_mirrored(open_pairs([folder]))
    assert np.flatnonzero(~may).tolist() == [3]
    assert "1 of 20 pictures" in str(mirroring_notice(may))
    (folder / "p00004.txt").write_text("a label with words")
    may = may_be_mirrored(open_pairs([folder]))
    assert not may.any()
    assert str(mirroring_notice(may)).startswith("pictures are not mirrored")
    assert may_be_mirrored(open_pairs([folder]), asked=True).all()
    assert mirroring_notice(may_be_mirrored(open_pairs([folder]), asked=True)) is None


def test_views_without_a_mirror_and_with_other_colours(tmp_path: Path) -> None:
    from PIL import Image

    ramp = np.tile(np.linspace(0, 250, 64).astype(np.uint8)[None, :, None], (64, 1, 3))  # dark to bright
    Image.fromarray(ramp).save(tmp_path / "p.png")
    (tmp_path / "p.txt").write_text("a ramp")
    [pair] = open_pairs([tmp_path])
    sides = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    preprocessing = parse_preprocessing(sides, tmp_path)

    def is_mirrored(pixels: Any) -> bool:
        return bool(pixels[:, 0].mean() > pixels[:, -1].mean())

    assert is_mirrored(view_of(pair, 1, 0, preprocessing))
    seen = [is_mirrored(view_of(pair, 2, seed, preprocessing)) for seed in range(24)]
    assert 4 < sum(seen) < 20
    for view in (1, 2, 3):
        assert not any(is_mirrored(view_of(pair, view, seed, preprocessing, mirror=False)) for seed in range(12))
    plain = view_of(pair, 2, 5, preprocessing, mirror=False)
    jittered = view_of(pair, 2, 5, preprocessing, mirror=False, augmentation=Augmentation(jitter=0.4))
    assert plain.shape == jittered.shape
    assert (plain != jittered).any()
    again = view_of(pair, 2, 5, preprocessing, mirror=False, augmentation=Augmentation(jitter=0.4))
    assert (again == jittered).all()


def test_a_sweep_suggests_a_rate_below_the_best(tmp_path: Path) -> None:
    sweep = loop_for(Settings("full", batch=8, views=1), tmp_path).sweep()
    assert sweep.suggestion is not None
    assert 1e-7 < sweep.suggestion < 1e-1
    assert sweep.rates == sorted(sweep.rates)
    assert rate_at(0) == pytest.approx(1e-7)
    assert rate_at(STEPS - 1) == pytest.approx(1.0)
    assert RateSweep([1e-3, 1e-2], [1.0, 2.0], 1e-3).suggestion is None
    sweeping = Sweeping()
    assert sweeping.add(1e-3, 1.0)
    assert not sweeping.add(1e-2, 100.0)
    assert not sweeping.add(1e-1, float("nan"))


def test_a_run_that_broke_stays_stopped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create({})
    run.check_not_stopped(False)
    run.note_stop(TrainingStopped(7, "held-out recall fell", "Try less"))
    for _ in range(2):
        with pytest.raises(TrainingStopped, match=r"step 7: held-out recall fell. Try less. .*--anyway"):
            run.check_not_stopped(False)
    decisions = [run.goes_on_anyway]
    run.check_not_stopped(True)
    decisions.append(run.goes_on_anyway)
    assert decisions == [False, True]
    run.check_not_stopped(False)  # a kill after that changes nothing


def test_a_collapse_is_judged_after_the_warmup_and_not_against_the_users_will(tmp_path: Path) -> None:
    settings = Settings("full", batch=8, epochs=100, views=1, patience=99)
    cases: list[tuple[int, dict[str, Any], bool]] = [
        (6, {}, False),
        (60, {}, True),
        (60, {"anyway": True}, False),
        (60, {"held": lambda metrics: metrics}, False),  # a turn of a cross-validation: a few pairs fall by chance
    ]
    for number, (step, more, stopped) in enumerate(cases):
        loop = loop_for(settings, tmp_path / str(number), **more)
        loop.progress.start_recall = 3.0  # nothing comes near half of it
        loop.progress.step = step
        if stopped:
            with pytest.raises(TrainingStopped, match="held-out recall@10 fell"):
                loop._end_epoch(step)
        else:
            loop._end_epoch(step)


def test_an_epoch_that_is_not_the_best_needs_no_checkpoint_of_its_own(tmp_path: Path) -> None:
    loop = loop_for(Settings("full", batch=8, epochs=9, views=1), tmp_path)
    files = tmp_path / "run" / "checkpoints"
    for step, best, saved in ((2, None, 2), (4, 0.99, 2), (6, 0.99, 2), (8, -1.0, 8)):
        if best is not None:
            loop.progress.best_score = best
        loop.progress.step = step
        loop._end_epoch(step // 2)
        assert json.loads((files / "state.json").read_text())["step"] == saved
    assert sorted(path.name for path in files.glob("*.safetensors")) == [
        "000008.safetensors",
        "best-000008.safetensors",
    ]
    loop._saved_at -= 61  # a minute ago
    loop.progress.best_score, loop.progress.step = 0.99, 10
    loop._end_epoch(5)
    assert json.loads((files / "state.json").read_text())["step"] == 10


def test_a_run_at_its_end_has_a_verdict_and_is_not_called_stopped(tmp_path: Path) -> None:
    loop = loop_for(Settings("full", batch=8, epochs=1, views=1), tmp_path)
    loop.progress.start_recall = 3.0
    loop.progress.step = loop.total_steps
    loop._end_epoch(1)
    assert loop.progress.finished


def test_out_of_memory_says_what_fits(tmp_path: Path) -> None:
    loop = loop_for(Settings("full", batch=8, micro_batch=8, views=1), tmp_path)
    encode = loop.trainee.encode

    def hungry(part: Any) -> Any:
        if len(part.pictures) > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return encode(part)

    loop.trainee.encode = hungry  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory, match=r"8 pairs at a time are too many. 2 fit. .*--micro-batch 2") as caught:
        loop._step(0)
    assert caught.value.fitting == 2
    loop.trainee.encode = lambda part: (_ for _ in ()).throw(MemoryError())  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory, match="smaller model"):
        loop._step(0)


def test_shortages_have_their_own_words(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for raised in (OutOfSpace(tmp_path), OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises(RunOutOfSpace, match=f"--resume {tmp_path}"), shortages_named(tmp_path, lambda: "x"):
            raise raised
    limited = shutil.Error([("a", "b", "[Errno 27] File too large: 'b'")])
    with (
        pytest.raises(RunOutOfSpace, match=r"Allow larger files \(ulimit -f\), then continue with"),
        shortages_named(tmp_path, lambda: "x"),
    ):
        raise limited
    said = f"while encoding pictures: .* continue with: clipsearch train --resume {tmp_path}$"
    with pytest.raises(OutOfMemory, match=said):  # noqa: SIM117
        with shortages_named(tmp_path, lambda: "encoding pictures"):
            raise MemoryError
    with pytest.raises(RuntimeError, match="another"), shortages_named(tmp_path, lambda: "x"):
        raise RuntimeError("another thing")
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a matmul primitive"))

    def attempt(size: int) -> None:
        if size > 5:
            raise RuntimeError("could not create a primitive") if size > 20 else MemoryError

    assert fitting_size(64, attempt) == 4
    assert fitting_size(1, attempt) is None


def test_metrics_reach_tensorboard_and_the_hook(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write = tensorboard_writer(tmp_path / "run")
    seen: list[dict[str, Any]] = []

    def measured(row: Any) -> None:
        seen.append(dict(row))
        write(row)

    loop = loop_for(Settings("full", batch=8, epochs=2, views=1), tmp_path, measured=measured)
    loop.run()
    assert seen == [dict(row) for row in loop.folder.metrics]
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    found = [event.value for event in events.Scalars("held-out/text_to_image_r10")]
    assert found == pytest.approx([row["text_to_image_r10"] for row in seen])


def test_unused_parameters_are_left_alone() -> None:
    unused = torch.nn.Parameter(torch.ones(3))
    average_gradients([unused])
    assert unused.grad is None
