"""Which precision an image tower uses for many pictures: chosen by measurement, remembered, never at any cost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.config import cache_dir
from clipsearch.encoder import choices, precision
from clipsearch.encoder.bulk import LEAST_TO_COMPARE, MOST_LANES, Bulk, lanes_for
from clipsearch.encoder.choices import PLAIN, Choice
from clipsearch.encoder.layout import read_model_directory
from clipsearch.encoder.names import load_encoder
from clipsearch.encoder.onnx import BULK_PICTURES, OnnxEncoder
from clipsearch.encoder.precision import choose, fastest, read_measured
from clipsearch.errors import InvalidModel, MissingExtra
from clipsearch.records import FloatArray, PixelArray
from tests.support.tiny_models import write_model_directory

FP32 = Choice("onnxruntime", "fp32", 8, 1.0, 1.0, 10.0)
BF16 = Choice("openvino", "bf16", 8, 0.9999, 0.9995, 40.0)
INT8 = Choice("onnxruntime", "int8", 8, 0.9992, 0.995, 30.0)
ENGINES = [name for name in ("openvino", "onnx") if find_spec(name) is not None]


def pixels(count: int) -> PixelArray:
    return np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_the_fastest_that_agrees_is_taken() -> None:
    assert fastest([FP32]) == FP32
    assert fastest([FP32, BF16, INT8]) == BF16
    assert fastest([FP32, replace(BF16, mean_cosine=0.9989), INT8]) == INT8
    assert fastest([FP32, replace(BF16, least_cosine=0.98), replace(INT8, mean_cosine=0.99)]) == FP32
    assert fastest([FP32, replace(BF16, pictures_per_s=10.9)]) == FP32  # not worth it
    assert fastest([FP32, replace(BF16, mean_cosine=None, least_cosine=None)]) == FP32
    assert fastest([FP32, BF16, replace(BF16, per_run=16)]).per_run == 16  # measured last, with its best size
    assert fastest([FP32, replace(FP32, per_run=4)]).per_run == 4


def test_a_precision_whose_recall_was_measured_may_differ_more() -> None:
    looser = replace(BF16, mean_cosine=0.9985, least_cosine=0.979)
    assert fastest([FP32, looser]) == FP32
    assert fastest([FP32, looser], ["bf16"]) == looser
    assert fastest([FP32, looser], ["int8"]) == FP32
    assert fastest([FP32, replace(looser, mean_cosine=0.98)], ["bf16"]) == FP32


def test_checked_precisions_are_read_from_the_model(tmp_path: Path) -> None:
    def checked(name: str, own: dict[str, Any]) -> tuple[str, ...]:
        return read_model_directory(write_model_directory(tmp_path / name, own=own)).checked_precisions

    assert checked("a", {}) == ()
    assert checked("b", {"checked_precisions": ["bf16", 3]}) == ("bf16",)
    assert checked("c", {"checked_precisions": "bf16"}) == ()


def test_what_a_crashed_trial_printed_counts() -> None:
    lines = [json.dumps(asdict(FP32)), "a library says hello", json.dumps(asdict(BF16)), '{"engine": "openv']
    assert read_measured("\n".join(lines).encode()) == [FP32, BF16]
    assert read_measured(b"") == [PLAIN]
    assert read_measured(json.dumps({**asdict(BF16), "per_run": 0}).encode()) == [PLAIN]
    assert read_measured(json.dumps({**asdict(BF16), "engine": "other"}).encode()) == [PLAIN]


def test_what_small_indexes_took_is_added_up_until_a_trial_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what fp32 takes is saved, so a trial of 2 s is due after 4 s: in one index, or over several."""
    model = read_model_directory(write_model_directory(tmp_path / "model"))
    few: list[bool] = []

    def measure(*given: Any) -> Choice:
        few.append(given[3])
        return BF16

    monkeypatch.setattr(precision, "_version", lambda name: "1" if name != "onnx" else "")
    monkeypatch.setattr(precision, "_may_have_bf16", lambda: True)
    monkeypatch.setattr(precision, "_measure", measure)
    monkeypatch.setattr(precision, "usual_s", lambda *_: 0.1)
    monkeypatch.setattr(precision, "TRIAL_S", 2.0)
    for _ in range(2):
        assert choose(model, pixels(16), 2, None, 19) == PLAIN  # 3.8 s in all
    assert few == []
    assert choose(model, pixels(16), 2, None, 4) == BF16
    assert choose(model, pixels(16), 2, None, 1) == BF16  # as remembered
    assert choose(model, pixels(16), 2, "bf16") == BF16  # also by who asks for it
    assert few == [True]
    assert choose(model, pixels(16), 2, None, LEAST_TO_COMPARE) == BF16  # worth measuring well
    assert choose(model, pixels(16), 2, None, 10_000) == BF16
    assert few == [True, False]
    other = read_model_directory(write_model_directory(tmp_path / "other", seed=1))
    assert choose(other, pixels(16), 2, None, 39) == PLAIN
    other = read_model_directory(write_model_directory(tmp_path / "third", seed=2))
    assert choose(other, pixels(16), 2, None, 41) == BF16  # at once where the index itself is worth it
    assert few == [True, False, True]


@pytest.mark.parametrize(
    "text", ["[", "7", '{"spent-a": {"seconds": -1.0}}', '{"spent-a": {"seconds": NaN}}', '{"spent-a": 3}', "[" * 9999]
)
def test_a_damaged_memory_is_an_empty_one(text: str) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / choices.MEMORY).write_text(text)
    assert choices.spent("a") == 0
    assert choices.remembered() == {}
    choices.note_spent("a", 2.5)
    choices.remember("b", BF16)
    assert choices.spent("a") == 2.5
    assert choices.remembered() == {"b": BF16}
    for number in range(2 * choices.REMEMBERED_CHOICES):
        choices.note_spent(str(number), 1.0)
    assert len(json.loads((cache_dir() / choices.MEMORY).read_text())) == choices.REMEMBERED_CHOICES


def test_about_how_long_a_tower_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_model_directory(write_model_directory(tmp_path))
    monkeypatch.setattr(precision, "tower_bytes", lambda model: 351_000_000)
    assert precision.usual_s(model, 2) == pytest.approx(0.063, abs=0.002)  # measured: 17 pictures/s


@pytest.mark.slow
def test_a_trial_measures_every_candidate_on_the_pictures_at_hand(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    np.save(tmp_path / "pictures.npy", pixels(8))
    with (tmp_path / "pictures.npy").open("rb") as given:
        done = subprocess.run(
            [sys.executable, "-m", "clipsearch.encoder.trial", str(directory), "2"],
            stdin=given,
            capture_output=True,
            check=True,
        )
    measured = read_measured(done.stdout)
    assert (measured[0].engine, measured[0].precision) == ("onnxruntime", "fp32")
    assert all((choice.pictures_per_s or 0) > 0 for choice in measured)
    assert all((choice.mean_cosine or 0) > 0.9 for choice in measured)
    if "openvino" in ENGINES:
        assert "openvino" in {choice.engine for choice in measured}


def test_a_choice_is_remembered_for_the_tower_and_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_model_directory(write_model_directory(tmp_path / "model"))
    runs: list[int] = []

    def trial(*_: object) -> Choice:
        runs.append(1)
        return BF16

    monkeypatch.setattr(precision, "_measure", trial)
    monkeypatch.setattr(precision, "_version", lambda name: "1.0")
    assert choose(model, pixels(16), 2) == BF16
    assert choose(model, pixels(16), 2) == BF16
    assert len(runs) == 1
    choose(model, pixels(16), 4)  # other threads
    monkeypatch.setattr(precision, "_version", lambda name: "1.1")  # other versions
    choose(model, pixels(16), 2)
    choose(read_model_directory(write_model_directory(tmp_path / "other", seed=1)), pixels(16), 2)
    assert len(runs) == 4
    (cache_dir() / choices.MEMORY).write_text("[")
    assert choose(model, pixels(16), 2) == BF16
    assert len(runs) == 5


def test_a_choice_follows_the_precision_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_model_directory(write_model_directory(tmp_path / "model"))
    monkeypatch.setattr(precision, "_version", lambda name: "1.0")
    monkeypatch.setattr(precision, "_measure", lambda *_: replace(BF16, worked="bf16 fp32"))
    for _ in range(2):  # measured, and remembered
        assert choose(model, pixels(1), 2, "bf16").precision == "bf16"
        assert choose(model, pixels(1), 2, "fp32") == PLAIN
        assert choose(model, pixels(1), 2, "int8") == choices.FIXED["int8"]  # of an index that has it
        assert choose(model, pixels(1), 2, "int8-0123456789abcdef") == PLAIN  # a tower that is not here
        assert choose(model, pixels(1), 2).precision == "bf16"
    (cache_dir() / choices.MEMORY).unlink()
    monkeypatch.setattr(precision, "_measure", lambda *_: replace(PLAIN, worked="bf16 fp32"))
    assert choose(model, pixels(1), 2, "bf16") == choices.FIXED["bf16"]
    assert choose(model, pixels(1), 2) == replace(PLAIN, worked="bf16 fp32")


@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
@pytest.mark.parametrize("count", [1, 2, 5, 31, 32, 100])
def test_a_trial_has_pictures_enough_of_any_number(shape: tuple[int, int], count: int) -> None:
    given = np.random.default_rng(count).integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    found = precision.trial_pictures(given, 32)
    assert found.shape == (32, *shape, 3)
    assert len({picture.tobytes() for picture in found}) >= 4 * min(count, 5)


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("name", ["auto", "fp32", "bf16", "int8"])
def test_a_picture_has_one_vector_alone_and_among_others(tmp_path: Path, name: Any) -> None:
    needs = {"bf16": "openvino", "int8": "onnx"}.get(name)
    if needs is not None:
        pytest.importorskip(needs)
    directory, given = write_model_directory(tmp_path, dim=64), pixels(40)
    many, few = OnnxEncoder(directory, precision=name, threads=2), OnnxEncoder(directory, precision=name, threads=2)
    vectors = many.encode_images(given)
    assert many.image_precision is not None
    for encoder in (few, few.in_precision(many.image_precision)):
        for size in (1, 3, 17, 1):
            parts = [encoder.encode_images(given[at : at + size]) for at in range(0, len(given), size)]
            assert (np.concatenate(parts) * vectors).sum(axis=1).min() > 0.99999
        assert encoder.image_precision == many.image_precision


def test_indexes_of_two_arithmetics_share_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one encodes changes nothing for the other, and the weights are loaded once for each arithmetic."""
    pytest.importorskip("onnx")
    monkeypatch.setattr(precision, "_version", lambda name: "1")
    monkeypatch.setattr(precision, "_measure", lambda *_: replace(INT8, per_run=1, worked="fp32 int8"))
    directory, given = write_model_directory(tmp_path, dim=64), pixels(20)
    expected = {name: OnnxEncoder(directory, precision=name).encode_images(given) for name in ("fp32", "int8")}
    shared = OnnxEncoder(directory, threads=2)
    fp32, int8, fastest_here = (shared.in_precision(name) for name in ("fp32", "int8", None))
    for count in (1, 20, 1):
        for encoder, name in ((fp32, "fp32"), (int8, "int8"), (fastest_here, "int8"), (fp32, "fp32")):
            np.testing.assert_allclose(encoder.encode_images(given[:count]), expected[name][:count], atol=1e-6)
    assert int8._images is fp32._images
    assert len(shared._images.towers) == 2
    assert OnnxEncoder(directory, precision="fp32").in_precision("int8").encode_images(given[:1]) == pytest.approx(
        expected["fp32"][:1], abs=1e-6
    )  # the user decided


def test_an_index_in_fp32_needs_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_version", lambda name: "1")
    monkeypatch.setattr(precision, "_measure", lambda *_: pytest.fail("measured"))
    encoder = OnnxEncoder(write_model_directory(tmp_path)).in_precision("fp32")
    assert encoder.encode_images(pixels(1)).shape == (1, 8)
    assert encoder.image_precision == "fp32"


def test_without_other_libraries_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_model_directory(write_model_directory(tmp_path))
    monkeypatch.setattr(precision, "_version", lambda name: "" if name in ("openvino", "onnx") else "1")
    monkeypatch.setattr(precision, "_measure", lambda *_: pytest.fail("measured"))
    assert choose(model, pixels(16), 2) == PLAIN


def test_a_trial_that_tells_nothing_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_model_directory(write_model_directory(tmp_path))
    monkeypatch.setattr(precision, "_version", lambda name: "1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    assert choose(model, pixels(16), 2) == PLAIN
    assert not (cache_dir() / choices.MEMORY).exists()


def test_auto_falls_back_to_fp32_when_its_choice_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InvalidModel(tmp_path, "refused")

    encoder = OnnxEncoder(write_model_directory(tmp_path))
    expected = OnnxEncoder(tmp_path, precision="fp32").encode_images(pixels(20))
    monkeypatch.setattr(precision, "choose", lambda *_: INT8)
    monkeypatch.setattr("clipsearch.encoder.int8.int8_tower", refuse)
    np.testing.assert_allclose(encoder.encode_images(pixels(20)), expected, atol=1e-6)
    assert encoder.image_choice == PLAIN
    with pytest.raises(InvalidModel, match="refused"):
        OnnxEncoder(tmp_path, precision="int8").encode_images(pixels(1))


def test_nothing_is_chosen_before_the_first_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "choose", lambda *_: pytest.fail("chosen"))
    encoder = OnnxEncoder(write_model_directory(tmp_path))
    encoder.encode_texts(["a dog"])
    assert encoder.image_choice is None
    assert encoder.pictures_per_call >= BULK_PICTURES


@pytest.mark.slow
def test_auto_gives_vectors_comparable_with_fp32(tmp_path: Path) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path), threads=2)
    exact = OnnxEncoder(tmp_path, precision="fp32")
    given = pixels(40)
    assert (encoder.encode_images(given) * exact.encode_images(given)).sum(axis=1).min() > 0.99
    assert encoder.fingerprint == exact.fingerprint
    assert encoder.image_choice is not None


@pytest.mark.slow
def test_bf16_by_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    for variant in ({}, {"fixed_batch": 4}, {"external": True}, {"names": ("input", "input", "output")}):
        directory = write_model_directory(tmp_path / str(len(str(variant))), **variant)
        exact = OnnxEncoder(directory, precision="fp32").encode_images(pixels(21))
        for threads in (1, 3):
            encoder = OnnxEncoder(directory, precision="bf16", threads=threads)
            assert (encoder.encode_images(pixels(21)) * exact).sum(axis=1).min() > 0.99
            assert encoder.encode_images(pixels(1)).shape == (1, 8)
            assert encoder.image_choice is not None
            assert encoder.image_choice.engine == "openvino"


@pytest.mark.slow
def test_ctrl_c_is_a_request_after_towers_have_come_and_gone(tmp_path: Path) -> None:
    """As while `precision` compares engines: a signal's stack that is gone ended the process."""
    pytest.importorskip("openvino")
    directory = write_model_directory(tmp_path)
    program = f"""
import gc, signal
from pathlib import Path
from clipsearch.encoder.layout import read_model_directory
from clipsearch.encoder.openvino import OpenVinoTower, has_bf16
model = read_model_directory(Path({str(directory)!r}))
has_bf16()
towers = [OpenVinoTower(model, "fp32", 1, 1) for _ in range(3)]
while towers:
    del towers[0]
    gc.collect()
asked = []
signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
signal.raise_signal(signal.SIGINT)
assert asked == [signal.SIGINT]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


def test_openvino_says_what_is_wrong_with_a_model(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    directory = write_model_directory(tmp_path)
    (directory / "visual/model.onnx").write_bytes(b"\x3a\x00")
    with pytest.raises(InvalidModel, match="cannot be loaded by OpenVINO"):
        OnnxEncoder(directory, precision="bf16").encode_images(pixels(1))


def test_bf16_and_int8_name_the_extra_that_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_model_directory(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name, extra in (("bf16", "openvino"), ("int8", "int8")):
        with pytest.raises(MissingExtra, match=rf"clipsearch\[{extra}\]"):
            load_encoder(str(directory), precision=name).encode_images(pixels(1))  # type: ignore[arg-type]


def test_int8_is_made_once_and_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    from clipsearch.encoder import int8

    model = read_model_directory(write_model_directory(tmp_path, dim=64))
    exact = OnnxEncoder(tmp_path, precision="fp32").encode_images(pixels(20))
    vectors = OnnxEncoder(tmp_path, precision="int8").encode_images(pixels(20))
    assert 0.99 < (vectors * exact).sum(axis=1).mean() < 1 - 1e-7  # it is another arithmetic
    made = int8.int8_tower(model)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)  # not needed to use what is there
        assert int8.int8_tower(model) == made
    data = bytearray(made.read_bytes())
    data[-20] ^= 1
    made.write_bytes(data)
    int8.int8_tower(model)  # damaged: made again
    assert made.read_bytes() != bytes(data)


@pytest.mark.parametrize("name", ["fp16", "fp8", ""])
def test_unknown_precisions_are_refused(tmp_path: Path, name: Any) -> None:
    directory = write_model_directory(tmp_path)
    with pytest.raises(ValueError, match="precision"):
        load_encoder(str(directory), precision=name)
    with pytest.raises(ValueError, match="int8"):
        load_encoder("open_clip:ViT-B-32", precision="int8")


class Counting:
    """A tower that returns the mean colour and notes how many pictures a run had."""

    def __init__(self, fixed_batch: int | None = None) -> None:
        self.fixed_batch = fixed_batch
        self.sizes: list[int] = []

    def run(self, scaled: FloatArray) -> FloatArray:
        self.sizes.append(len(scaled))
        means: FloatArray = scaled.mean(axis=(2, 3)) @ np.eye(3, 8, dtype=np.float32)
        return means


@pytest.mark.parametrize(("count", "lanes", "sizes"), [(32, 2, [8] * 4), (9, 2, [5, 4]), (3, 4, [1] * 3), (1, 8, [1])])
def test_pictures_are_spread_over_the_lanes_in_order(tmp_path: Path, count: int, lanes: int, sizes: list[int]) -> None:
    model = read_model_directory(write_model_directory(tmp_path))
    assert model.preprocessing is not None
    tower = Counting()
    vectors = Bulk(model, tower, model.preprocessing, lanes).encode(pixels(count))
    assert sorted(tower.sizes, reverse=True) == sizes
    alone = Bulk(model, Counting(), model.preprocessing, 1)
    for picture, vector in zip(pixels(count), vectors, strict=True):
        np.testing.assert_allclose(alone.encode(picture[None])[0], vector, atol=1e-6)
    fixed = Counting(fixed_batch=5)
    np.testing.assert_allclose(Bulk(model, fixed, model.preprocessing, lanes).encode(pixels(count)), vectors, atol=1e-6)
    assert set(fixed.sizes) == {5}


def test_lanes() -> None:
    assert [lanes_for(threads) for threads in (0, 1, 2, 8, 64)] == [1, 1, 2, 8, MOST_LANES]


@pytest.mark.slow
def test_a_text_query_loads_no_image_library(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    code = (
        "import sys; from clipsearch.encoder.onnx import OnnxEncoder\n"
        f"OnnxEncoder({str(directory)!r}).encode_texts(['a dog'])\n"
        "assert not {'openvino', 'onnx', 'clipsearch.encoder.precision', 'subprocess'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
