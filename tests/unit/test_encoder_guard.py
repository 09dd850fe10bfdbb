"""No picture of a kind that was not checked keeps the vector of a tower with fixed scales that is unfit for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

import clipsearch
from clipsearch.encoder import precision, static
from clipsearch.encoder.bulk import LEAST_GUARDED, Bulk
from clipsearch.encoder.choices import PLAIN, Choice, is_static
from clipsearch.encoder.guard import EVERY, FIRST, Guard, looks
from clipsearch.encoder.layout import ModelDirectory, read_model_directory
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.encoder.precision import load_tower
from clipsearch.encoder.static import make_static_tower
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.records import FloatArray, PixelArray
from clipsearch.store import open_snapshot
from tests.support.layered_models import write_layered_model

pytest.importorskip("onnx")
pytest.importorskip("openvino")

SIDE, DIM = 32, 48
ACCEPTED = 0.995, 0.98


def photographs(count: int, seed: int = 0) -> PixelArray:
    """Smooth fields of colour, with some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 230, (count, 5, 5, 3), dtype=np.uint8)
    made = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16) for one in coarse]
    return (np.stack(made) + rng.integers(-6, 7, (count, SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


def pages(count: int) -> PixelArray:
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        page = Image.new("L", (SIDE * 3, SIDE * 3), "white")
        lines = ["".join(map(chr, rng.integers(97, 123, 14))) for _ in range(6)]
        ImageDraw.Draw(page).text((4, 4), "\n".join(lines), "black")
        made.append(np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")))
    return np.stack(made)


def noise(count: int) -> PixelArray:
    return np.random.default_rng(3).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def scribbles(count: int) -> PixelArray:
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        drawing = Image.new("RGB", (SIDE, SIDE), "white")
        ImageDraw.Draw(drawing).line([(int(x), int(y)) for x, y in rng.integers(0, SIDE, (5, 2))], "red", 2)
        made.append(np.asarray(drawing))
    return np.stack(made)


def nights(count: int) -> PixelArray:
    return photographs(count, 7) // 12


class Towers:
    """An exact tower, and one that is a little off, or wholly for some pictures. `runs`: pictures that each encoded."""

    def __init__(self, is_bad: Callable[[PixelArray], npt.NDArray[np.bool_]], shift: bool) -> None:
        rng = np.random.default_rng(1)
        self._weights = rng.standard_normal((8 * 8 * 3, DIM)).astype(np.float32)
        self._is_bad, self._shift, self.runs = is_bad, shift, {"fast": 0, "exact": 0}

    def exact(self, pixels: PixelArray) -> FloatArray:
        self.runs["exact"] += len(pixels)
        return self._vectors(pixels)

    def _vectors(self, pixels: PixelArray) -> FloatArray:
        small = pixels.reshape(len(pixels), 8, SIDE // 8, 8, SIDE // 8, 3).mean(axis=(2, 4)).astype(np.float32)
        flows = (small - small.mean(axis=(1, 2, 3), keepdims=True)).reshape(len(pixels), -1) + 20
        return _unit(flows @ self._weights)

    def fast(self, pixels: PixelArray) -> FloatArray:
        self.runs["fast"] += len(pixels)
        vectors = self._vectors(pixels)
        rng = np.random.default_rng(len(pixels))
        made = _unit(vectors + 0.05 * rng.standard_normal(vectors.shape).astype(np.float32) / np.sqrt(DIM))
        if (bad := self._is_bad(pixels)).any():
            middle = self._vectors(photographs(20)).mean(axis=0)
            made[bad] = _unit(middle[None]) if self._shift else _unit(rng.standard_normal((bad.sum(), DIM)))
        return made


def _unit(rows: npt.NDArray[Any]) -> FloatArray:
    made: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


def encoded(guard: Guard, towers: Towers, given: PixelArray) -> FloatArray:
    parts = [given[:LEAST_GUARDED], *(given[at : at + 16] for at in range(LEAST_GUARDED, len(given), 16))]
    return np.concatenate([guard.encode(part, towers.fast, towers.exact) for part in parts])


@pytest.mark.many
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("kind", [pages, noise, scribbles, nights])
def test_another_kind_after_many_photographs_is_caught(kind: Callable[[int], PixelArray], shift: bool) -> None:
    others = kind(60)
    known = {picture.tobytes() for picture in others}
    towers = Towers(lambda pixels: np.array([picture.tobytes() in known for picture in pixels]), shift)
    given = np.concatenate([photographs(630), others, photographs(30, 2)])
    guard = Guard(*ACCEPTED)
    made = encoded(guard, towers, given)
    assert (made * towers._vectors(given)).sum(axis=1).min() > 0.98
    assert guard.has_given_up
    begun = Guard(*ACCEPTED)
    encoded(begun, towers, given[:624])
    assert not begun.has_given_up


def test_one_odd_picture_costs_its_batch() -> None:
    odd = noise(1)
    towers = Towers(lambda pixels: (pixels == odd[0]).all(axis=(1, 2, 3)), False)
    given = np.concatenate([photographs(200), odd, photographs(200, 2)])
    guard = Guard(*ACCEPTED)
    made = encoded(guard, towers, given)
    assert not guard.has_given_up
    cosines = (made * towers._vectors(given)).sum(axis=1)
    assert cosines.min() > 0.98
    assert (cosines > 1 - 1e-6).sum() < 40  # the rest is of the fast tower
    before = towers.runs["exact"]
    guard.encode(odd, towers.fast, towers.exact)  # it is known to be what the tower cannot do
    assert towers.runs["exact"] > before


def test_checks_are_few() -> None:
    towers = Towers(lambda pixels: np.zeros(len(pixels), bool), False)
    guard = Guard(*ACCEPTED)
    encoded(guard, towers, photographs(2000))
    assert not guard.has_given_up
    assert FIRST < guard.checked == towers.runs["exact"] <= FIRST + 2000 / EVERY


def test_what_is_only_compared_takes_the_faster_tower() -> None:
    """Vectors that are kept instead of the fast ones are exact all the same."""
    given, compared = np.concatenate([photographs(100), pages(20)]), [0]
    towers = Towers(lambda pixels: pixels.mean(axis=(1, 2, 3)) > 200, False)
    guard = Guard(*ACCEPTED)

    def check(pixels: PixelArray) -> FloatArray:
        compared[0] += len(pixels)
        return _unit(towers._vectors(pixels) + np.float32(1e-3 / np.sqrt(DIM)))

    vectors = [guard.encode(given[at : at + 20], towers.fast, towers.exact, check) for at in range(0, 120, 20)]
    assert compared[0] == guard.checked
    bad = given.mean(axis=(1, 2, 3)) > 200
    assert bad[100:].all()
    assert towers.runs["exact"] >= bad.sum()
    np.testing.assert_allclose(np.concatenate(vectors)[bad], towers._vectors(given)[bad], atol=1e-6)


def test_a_tower_that_is_no_good_is_dropped_at_once() -> None:
    towers = Towers(lambda pixels: np.ones(len(pixels), bool), False)
    guard = Guard(*ACCEPTED)
    given = photographs(100)
    assert (encoded(guard, towers, given) * towers._vectors(given)).sum(axis=1).min() > 1 - 1e-6
    assert guard.has_given_up
    assert towers.runs["fast"] == LEAST_GUARDED


def test_rankings_among_the_checked_ones_count() -> None:
    """Pictures so alike that what is lost, which is little, is all that tells them apart."""
    rng = np.random.default_rng(0)
    middle = rng.standard_normal(DIM)
    alike = _unit((middle + 0.02 * rng.standard_normal((4000, DIM))).astype(np.float32))
    numbers = iter(range(4000))
    given = photographs(2400)
    at = {picture.tobytes(): next(numbers) for picture in given}

    def exact(pixels: PixelArray) -> FloatArray:
        return alike[[at[picture.tobytes()] for picture in pixels]]

    def fast(pixels: PixelArray) -> FloatArray:
        return _unit(exact(pixels) + 0.05 * rng.standard_normal((len(pixels), DIM)).astype(np.float32))

    guard = Guard(0.99, 0.95)
    for start in range(0, len(given), LEAST_GUARDED):
        guard.encode(given[start : start + LEAST_GUARDED], fast, exact)
    assert guard.has_given_up


def test_looks_tell_kinds_apart() -> None:
    kinds = [looks(kind(20)) for kind in (photographs, pages, noise, scribbles, nights)]
    for number, one in enumerate(kinds):
        within = np.median(np.linalg.norm(one - np.median(one, axis=0), axis=1))
        for other in kinds[number + 1 :]:
            assert np.linalg.norm(np.median(one, axis=0) - np.median(other, axis=0)) > 2 * within
    assert looks(pages(2)).shape == (2, 5)


# Real towers, and indexes.


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    return read_model_directory(write_layered_model(tmp_path / "model"))


def choose_static(
    monkeypatch: pytest.MonkeyPatch, calibrating: PixelArray, part: float = 1, *, instead_of: str = "fp32"
) -> None:
    """Every new index is to be encoded in a tower of these pictures, with so much of the ranges that they set."""
    real = static._ranges

    def ranges(*given: object) -> dict[str, tuple[float, float]]:
        return {name: (low * part, high * part) for name, (low, high) in real(*given).items()}  # type: ignore[arg-type]

    def choose(model: ModelDirectory, *_: object) -> Choice:
        with monkeypatch.context() as patch:
            patch.setattr(static, "_ranges", ranges)
            name = make_static_tower(model, calibrating)
        return precision._accepted(model, Choice("openvino", name, 8, 0.997, 0.985, 60.0, instead_of, 0.95))

    monkeypatch.setattr(precision, "choose", choose)


def indexed(folder: Path, given: PixelArray, model: ModelDirectory) -> tuple[str | None, list[float], list[str]]:
    """The precision that is noted, the cosines to fp32 in order, and the warnings."""
    folder.mkdir()
    for number, picture in enumerate(given):
        Image.fromarray(picture).save(folder / f"{number:04}.png")
    report = index_folder(folder, OnnxEncoder(model.path, threads=1), options=IndexOptions(workers=1))
    exact = OnnxEncoder(model.path, threads=1, precision="fp32").encode_images(given)
    with open_snapshot(folder / ".clipsearch") as snapshot:
        noted = snapshot.manifest.model.precision
    with clipsearch.open(folder) as photos:
        rows = {record.path: photos.vector(record.row_id) for record in photos}
    return noted, [float(a @ b) for a, b in zip(exact, (rows[p] for p in sorted(rows)), strict=True)], report.warnings


def small(given: PixelArray) -> PixelArray:
    return np.stack([np.asarray(Image.fromarray(one).resize((16, 16), Image.Resampling.BICUBIC)) for one in given])


@pytest.mark.parametrize("instead_of", ["fp32", "bf16"])  # bf16 is fp32 where the processor has none
def test_a_tower_with_ranges_too_narrow_encodes_nothing(
    tmp_path: Path, model: ModelDirectory, monkeypatch: pytest.MonkeyPatch, instead_of: str
) -> None:
    given = small(photographs(100))
    choose_static(monkeypatch, given[:16], 0.3, instead_of=instead_of)
    noted, cosines, warnings = indexed(tmp_path / "photos", given, model)
    assert noted == PLAIN.precision
    assert min(cosines) > 0.99999
    assert not warnings


@pytest.mark.parametrize("instead_of", ["fp32", "bf16"])
def test_pages_and_noise_after_pictures_in_fog_are_encoded_in_fp32(
    tmp_path: Path, model: ModelDirectory, monkeypatch: pytest.MonkeyPatch, instead_of: str
) -> None:
    fog, clear = small(photographs(100) // 20 + 112), small(np.concatenate([noise(20), pages(20)]))
    choose_static(monkeypatch, fog[:16], instead_of=instead_of)
    noted, cosines, warnings = indexed(tmp_path / "photos", np.concatenate([fog, clear]), model)
    assert noted is not None
    assert is_static(noted)
    assert max(cosines[:64]) < 1 - 1e-7  # int8
    assert min(cosines) > 0.98
    assert all("encoded pictures in fp32; others" in warning for warning in warnings)
    exact = OnnxEncoder(model.path, precision="fp32", threads=1).encode_images(clear)
    assert model.preprocessing is not None
    unwatched = Bulk(model, load_tower(model, Choice("openvino", noted), 1), model.preprocessing, 1).encode(clear)
    assert (unwatched * exact).sum(axis=1).min() < 0.95
    alone = OnnxEncoder(model.path, threads=1).in_precision(noted).encode_images(clear[:1])  # it is searched for
    assert float(alone[0] @ exact[0]) > 0.999999
