"""Training open_clip's towers: every method overfits a few pairs, checkpoints resume, two processes equal one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from clipsearch.encoder.names import load_encoder  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder  # noqa: E402
from clipsearch.pairs.reading import open_pairs  # noqa: E402
from clipsearch.training.grad_cache import whole_backward  # noqa: E402
from clipsearch.training.loop import Loop  # noqa: E402
from clipsearch.training.methods import prepare  # noqa: E402
from clipsearch.training.run import Request, train  # noqa: E402
from clipsearch.training.run_folder import RunFolder  # noqa: E402
from clipsearch.training.settings import Settings, TrainingStopped  # noqa: E402
from clipsearch.training.towers import TowersTrainee  # noqa: E402
from clipsearch.training.views import WHOLE, view_of  # noqa: E402
from clipsearch.training.world import World  # noqa: E402
from tests.support import breadth  # noqa: E402
from tests.support.open_clip_models import SMALL_RESNET, SMALL_VIT, fit_norms, small_encoder  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = pytest.mark.torch

CONFIGS = {"vit": SMALL_VIT, "resnet": SMALL_RESNET}
RATES = {"full": 2e-3, "lora": 1e-2, "locked-image": 4e-3, "heads": 1e-2}
# Longer than the captions, and narrow, for a fifth of the work and of the embeddings.
SHORT_TEXTS = {**SMALL_VIT["text_cfg"], "context_length": 16, "width": 32}
PAIRS = 32
# Exporting takes longer than training. A locked image is exported by the tests of the embedded model, too.
EXPORTED = {("vit", "full"), ("vit", "heads"), ("resnet", "lora"), ("resnet", "heads")}
if breadth.ALL:
    EXPORTED.add(("vit", "locked-image"))


def request_for(folder: Path, settings: Settings, **more: Any) -> Request:
    sources = [str(folder)]
    return Request(sources=sources, dev=sources, anchor=sources, model="", settings=settings, alpha=1.0, **more)


@pytest.mark.few(each="kind method")
@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "locked-image", "heads"])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_every_method_overfits_32_pairs(kind: str, method: Any, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", PAIRS)
    heeds: dict[str, dict[str, Any]] = {"lora": {"lora_rank": 16}, "heads": {"gate": False}}
    own = heeds.get(method, {})
    settings = Settings(
        method, epochs=160, batch=PAIRS, micro_batch=PAIRS, learning_rate=RATES[method], weight_decay=0.0, views=1,
        patience=20, keep_texts=0.0, keep_general=0.0, drop_features=0.0, drop_hidden=0.0, **own,
    )  # fmt: skip
    config = {**CONFIGS[kind], "text_cfg": SHORT_TEXTS}
    if method != "lora":  # which adds to each layer; one is enough for 32 pairs, and half the work of an export
        config["text_cfg"] = {**SHORT_TEXTS, "layers": 1}
        if kind == "vit":
            config["vision_cfg"] = {**SMALL_VIT["vision_cfg"], "layers": 1}
    base = small_encoder(config)
    pairs = open_pairs([folder])
    fit_norms(base, np.stack([view_of(pair, WHOLE, 0, base.preprocessing) for pair in pairs]))
    if (kind, method) not in EXPORTED:
        trainee = TowersTrainee(base, settings, pairs, {"dev": pairs})
        run = RunFolder(tmp_path / "run")
        run.create({})
        before = trainee.measure("dev").text_to_image.recall(1)
        Loop(trainee, trainee.order, settings, run).run()
        after = trainee.measure("dev")
        assert before < 0.2
        assert after.text_to_image.recall(1) == after.image_to_text.recall(1) == 1
        assert (trainee.trained_encoder("trained").fingerprint == base.fingerprint) == (method == "locked-image")
        return
    report = train(request_for(folder, settings), tmp_path / "run", base=base)
    assert report.dev_before["text_to_image_r1"] < 20
    assert report.dev_after["text_to_image_r1"] == 100
    assert report.dev_after["image_to_text_r1"] == 100
    assert report.same_images == (method == "locked-image")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["epoch"] < settings.epochs  # there is nothing to gain after
    weights = tmp_path / "run" / "weights.safetensors"
    assert weights.is_file() == (method != "heads")
    assert (tmp_path / "run" / "open_clip_config.json").is_file() == (method != "heads")
    # The run is a model name, and what it names finds the same.
    trained = load_encoder(str(tmp_path / "run"))
    texts = trained.encode_texts([pair.captions[0] for pair in pairs])
    images = trained.encode_images(np.stack([view_of(pair, WHOLE, 0, trained.preprocessing) for pair in pairs]))
    found = (texts @ images.T).argmax(axis=1) == np.arange(PAIRS)
    assert found.sum() >= PAIRS - 1  # merged weights round differently on other processors


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize("method", ["heads", "full"])
def test_a_picture_under_two_names_is_measured_as_one(method: Any, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 8)
    model = "builtin" if method == "heads" else ""
    base = None if method == "heads" else small_encoder(SMALL_VIT)
    found = []
    for _ in range(2):
        pairs = open_pairs([folder])
        request = Request([str(folder)], model, Settings(method, views=1, keep_general=0.0))
        run, said = RunFolder(tmp_path / "run"), lambda *_: None
        work = prepare(request, pairs, pairs, pairs, run, World(), base, said, said)
        found.append(work.trainee.measure("dev"))
        (folder / "q.png").write_bytes((folder / "p00003.png").read_bytes())
        (folder / "q.txt").write_text((folder / "p00003.txt").read_text())
    once, twice = found
    assert twice.text_to_image.ranks.tolist() == [*once.text_to_image.ranks, once.text_to_image.ranks[3]]
    assert twice.text_to_image.pictures.tolist() == [*range(8), 3]
    assert twice.image_to_text.pictures.tolist() == list(range(8))
    assert twice.image_to_text.ranks[3] == once.image_to_text.ranks[3]


def tiny_loop(folder: Path, out: Path, settings: Settings, base: OpenClipEncoder | None = None) -> Loop:
    pairs = open_pairs([folder])
    trainee = TowersTrainee(base or small_encoder(SMALL_VIT), settings, pairs, {"dev": pairs})
    run = RunFolder(out)
    run.create({})
    return Loop(trainee, trainee.order, settings, run)


def test_cached_gradients_of_towers_are_those_of_the_batch(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 12)
    found = []
    for number, micro in enumerate((None, 5)):
        settings = Settings("full", epochs=1, batch=12, micro_batch=micro, views=2)
        loop = tiny_loop(folder, tmp_path / f"run{number}", settings)
        loop.trainee.set_training(True)
        value = whole_backward(loop._parts(0), loop.trainee.encode, loop._loss)
        found.append((float(value), {name: value.grad for name, value in loop.parameters.items()}))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, gradient in found[0][1].items():
        if gradient is not None:
            torch.testing.assert_close(found[1][1][name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"ema": 0.9}, {"checkpoint_layers": True, "layer_decay": 0.5}, {"precision": "bf16"}]
)
def test_options_of_the_loop_train(options: dict[str, Any], tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 16)
    settings = Settings("full", epochs=6, batch=16, learning_rate=1e-3, views=1, patience=9, **options)
    loop = tiny_loop(folder, tmp_path / "run", settings)
    loop.run()
    losses = [row["loss"] for row in loop.folder.metrics if row["loss"] is not None]
    assert losses[-1] < losses[0] - 0.1


def test_numbers_that_are_none_stop_a_run(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 16)
    base = small_encoder(SMALL_VIT)
    with torch.no_grad():
        base.model.text_projection[0, 0] = float("nan")
    loop = tiny_loop(folder, tmp_path / "run", Settings("full", epochs=1, batch=8, learning_rate=1e9), base)
    with pytest.raises(TrainingStopped, match=r"lower learning rate \(--learning-rate 1e-05\) or a longer warm-up$"):
        loop._step(0)


def test_a_collapsing_recall_stops_a_run(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 16)
    settings = Settings("full", epochs=20, batch=16, learning_rate=2e-3, views=1, patience=20)
    loop = tiny_loop(folder, tmp_path / "run", settings)
    loop.run()
    base = loop.trainee.trained_encoder("good")  # type: ignore[attr-defined]
    wild = Settings("full", epochs=20, batch=16, learning_rate=30.0, warmup_steps=0, views=1, patience=20)
    with pytest.raises(TrainingStopped, match="lower learning rate"):
        tiny_loop(folder, tmp_path / "wild", wild, base).run()
