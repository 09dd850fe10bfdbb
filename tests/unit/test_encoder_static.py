"""Image towers in int8 with fixed scales: what they are made of, when they are taken, and what becomes of an index."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import clipsearch
from clipsearch.config import cache_dir
from clipsearch.encoder import bulk, int8, precision, static, trial
from clipsearch.encoder.bulk import LEAST_GUARDED
from clipsearch.encoder.choices import PLAIN, Choice, is_static
from clipsearch.encoder.int8 import ACCEPTED, GRAPH, RECEIPT
from clipsearch.encoder.layout import ModelDirectory, read_model_directory
from clipsearch.encoder.names import load_encoder
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.encoder.precision import LEAST_AGREEMENT, choose, load_tower
from clipsearch.encoder.rankings import LEAST_PICTURES, TEXTS, agreement
from clipsearch.encoder.static import make_static_tower, static_tower
from clipsearch.errors import InvalidModel
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.records import FloatArray, PixelArray
from clipsearch.store import open_snapshot
from tests.support.layered_models import DIM, write_layered_model

pytest.importorskip("onnx")
pytest.importorskip("openvino")


def drawings(count: int, side: int = 16) -> PixelArray:
    """Shapes in colours: pictures that differ in more than noise."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = Image.new("RGB", (64, 64), tuple(int(part) for part in rng.integers(0, 256, 3)))
        draw = ImageDraw.Draw(picture)
        for _ in range(4):
            x, y, w, h = (int(part) for part in rng.integers(4, 40, 4))
            colour = tuple(int(part) for part in rng.integers(0, 256, 3))
            (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
        made.append(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(made)


def vectors_in(model: ModelDirectory, choice: Choice, given: PixelArray) -> FloatArray:
    assert model.preprocessing is not None
    return bulk.Bulk(model, load_tower(model, choice, 1), model.preprocessing, 1).encode(given)


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    return read_model_directory(write_layered_model(tmp_path / "model"))


def test_a_tower_is_made_of_its_source_and_the_ranges_alone(model: ModelDirectory) -> None:
    name = make_static_tower(model, drawings(16))
    assert is_static(name)
    before = static_tower(model, name).read_bytes()
    shutil.rmtree(cache_dir() / static.FOLDER)
    with pytest.raises(InvalidModel, match="not in the cache folder"):
        static_tower(model, name)
    assert make_static_tower(model, drawings(16)) == name
    assert static_tower(model, name).read_bytes() == before
    assert make_static_tower(model, 255 - drawings(16) // 2) != name
    assert sorted(path.name for path in (cache_dir() / static.FOLDER).iterdir() if path.name.startswith(".")) == []


def test_a_tower_that_is_damaged_is_none(model: ModelDirectory) -> None:
    name = make_static_tower(model, drawings(4))
    file = static_tower(model, name)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InvalidModel):
        static_tower(model, name)
    assert choose(model, drawings(1), 1, name) == PLAIN
    for other in ("int8-", "int8-../../../../x", "int8-0123456789ABCDEF", "int8"):
        with pytest.raises(InvalidModel):
            static_tower(model, other)


def test_the_towers_that_were_used_longest_ago_make_room(
    model: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_static_tower(model, drawings(16)), make_static_tower(model, 255 - drawings(16) // 2)
    files = [static_tower(model, name) for name in (first, second)]
    for age, file in zip((200, 100), files, strict=True):
        os.utime(file.with_name(RECEIPT), (time.time() - age, time.time() - age))
    static_tower(model, first)  # is used
    mine = files[0].parent.parent / "mine"
    mine.mkdir()
    (mine / GRAPH).write_bytes(bytes(10_000))
    monkeypatch.setattr(int8, "MOST_BYTES", int(2.5 * files[0].stat().st_size))
    third = make_static_tower(model, drawings(16) // 2)
    assert len({first, second, third}) == 3
    assert [file.exists() for file in (*files, static_tower(model, third))] == [True, False, True]
    assert not files[1].parent.exists()
    assert (mine / GRAPH).exists()


def test_a_vector_does_not_depend_on_what_is_encoded_with_it(model: ModelDirectory) -> None:
    given = drawings(20)
    choice = Choice("openvino", make_static_tower(model, given[:8]))
    together = vectors_in(model, choice, given)
    extreme = np.concatenate([given[:1], np.full((7, 16, 16, 3), 255, np.uint8)])
    assert float(vectors_in(model, choice, extreme)[0] @ together[0]) > 0.9999999
    alone = np.concatenate([vectors_in(model, choice, picture[None]) for picture in given])
    assert (alone * together).sum(axis=1).min() > 0.9999999
    exact = vectors_in(model, PLAIN, given)
    assert 0.99 < (together * exact).sum(axis=1).mean() < 1 - 1e-7  # it is another arithmetic


def fewer_bits(bits: int) -> Any:
    def columns(values: Any, axis: int) -> tuple[Any, Any]:
        ints, scales = real(values, axis)
        step = 2 ** (8 - bits)
        return (np.rint(ints / step) * step).clip(-127, 127).astype(np.int8), scales

    real = static._columns
    return columns


def narrower(part: float) -> Any:
    def ranges(*given: Any) -> dict[str, tuple[float, float]]:
        return {name: (low * part, high * part) for name, (low, high) in real(*given).items()}

    real = static._ranges
    return ranges


def test_rankings_tell_good_towers_from_bad_ones(model: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawings(80)
    exact = vectors_in(model, PLAIN, given)

    def agreed() -> float:
        found = vectors_in(model, Choice("openvino", make_static_tower(model, given[:16])), given)
        return agreement(exact[16:], found[16:], None)

    assert agreed() >= LEAST_AGREEMENT
    with monkeypatch.context() as patch:
        patch.setattr(static, "_columns", fewer_bits(3))
        patch.setattr(static, "FORMAT", "3 bits")
        assert agreed() < LEAST_AGREEMENT
    with monkeypatch.context() as patch:
        patch.setattr(static, "_ranges", narrower(0.3))
        assert agreed() < LEAST_AGREEMENT


@pytest.mark.slow
def test_rankings_of_the_built_in_model(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("builtin", precision="fp32")
    model = read_model_directory(encoder.directory)  # type: ignore[attr-defined]
    given = drawings(80, 256)
    exact, texts = encoder.encode_images(given), encoder.encode_texts(TEXTS)

    def agreed() -> float:
        found = vectors_in(model, Choice("openvino", make_static_tower(model, given[:16])), given)
        return agreement(exact[16:], found[16:], texts)

    good = agreed()
    monkeypatch.setattr(static, "_columns", fewer_bits(4))
    monkeypatch.setattr(static, "FORMAT", "4 bits")
    assert agreed() < LEAST_AGREEMENT < good


def test_agreement_is_of_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((LEAST_PICTURES, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    turned, _ = np.linalg.qr(rng.standard_normal((32, 32)))
    turned = turned.astype(np.float32)
    assert agreement(vectors, vectors, vectors[:5]) == 1
    assert agreement(vectors, vectors @ turned, None) > 0.999  # pictures are as near to each other as they were
    assert agreement(vectors, vectors @ turned, vectors[:5]) < 0.5  # texts find others
    others = rng.standard_normal(vectors.shape).astype(np.float32)
    assert agreement(vectors, others, None) < 0.25


# When a tower is made, and when it is taken.


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A processor without bf16, on which fp32 encodes 20 pictures a second; what was measured is noted."""
    done: list[str] = []

    def measure(*_: object) -> Choice:
        done.append("fp32")
        return Choice("onnxruntime", "fp32", 8, 1.0, 1.0, 20.0, "fp32")

    def try_static(model: ModelDirectory, pixels: PixelArray, threads: int, base: Choice) -> tuple[Choice, float]:
        done.append("made")
        return Choice("openvino", make_static_tower(model, pixels[:8]), 8, 0.99, 0.9, 50.0, "", 0.95), 3.0

    monkeypatch.delenv(precision.SWITCH, raising=False)
    monkeypatch.setattr(precision, "_may_have_bf16", lambda: False)
    monkeypatch.setattr(precision, "usual_s", lambda *_: 0.05)
    monkeypatch.setattr(precision, "_measure", measure)
    monkeypatch.setattr(precision, "_try_static", try_static)
    return done


def test_a_small_folder_costs_no_trial(
    model: ModelDirectory, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_trial", lambda *_: pytest.fail("a process was started"))
    for pictures in (1, 24, 200):
        assert choose(model, drawings(min(pictures, 80)), 2, None, pictures) == PLAIN
    assert measured == []


def test_many_pictures_are_encoded_in_what_ranks_alike(model: ModelDirectory, measured: list[str]) -> None:
    given = drawings(80)
    chosen = choose(model, given, 2, None, 10_000)
    assert is_static(chosen.precision)
    assert measured == ["fp32", "made"]
    for pictures in (LEAST_GUARDED, 300, 10_000):  # kept, and not tried again: the guard does that
        assert choose(model, given[:LEAST_GUARDED], 2, None, pictures).precision == chosen.precision
    assert choose(model, given[:8], 2, None, LEAST_GUARDED - 1).precision == "fp32"
    assert choose(model, given, 2, None, 260, reuse=False).precision == "fp32"  # too few to make one for
    assert choose(model, given, 2, None, 200, reuse=False).precision == "fp32"
    assert choose(model, given, 2, chosen.precision) == chosen  # as the index is, with what it was accepted with
    assert choose(model, given, 2, "fp32") == PLAIN
    assert choose(model, given, 2).precision == "fp32"  # no index
    assert len(measured) == 2
    assert is_static(choose(model, 255 - given // 2, 2, None, 10_000, reuse=False).precision)
    assert measured[2:] == ["made"]
    assert choose(model, given, 2, chosen.precision) == chosen  # both are kept
    shutil.rmtree(cache_dir() / static.FOLDER)
    assert choose(model, given, 2, chosen.precision) == PLAIN
    assert choose(model, given[:40], 2, None, 10_000).precision == "fp32"  # too few to compare
    assert choose(model, given, 2, None, 100_000).precision == chosen.precision
    assert measured[3:] == ["made"]


def test_a_tower_without_what_it_was_accepted_with_is_none(model: ModelDirectory, measured: list[str]) -> None:
    chosen = choose(model, drawings(80), 2, None, 10_000)
    (noted,) = (cache_dir() / static.FOLDER).glob(f"*/{ACCEPTED}")
    for text in ("", "{", '"x"', noted.read_text().replace("0.95", "0.5"), noted.read_text().replace("int8-", "int9-")):
        noted.write_text(text)
        assert choose(model, drawings(1), 2, chosen.precision) == PLAIN
    noted.unlink()
    assert choose(model, drawings(1), 2, chosen.precision) == PLAIN


def test_who_wants_no_such_tower_gets_none(
    model: ModelDirectory, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(precision.SWITCH, "0")
    assert choose(model, drawings(80), 2, None, 10_000).precision == "fp32"
    assert measured == ["fp32"]
    monkeypatch.delenv(precision.SWITCH)
    chosen = choose(model, drawings(80), 2, None, 10_000)
    assert is_static(chosen.precision)
    monkeypatch.setenv(precision.SWITCH, "0")
    assert choose(model, drawings(80), 2, chosen.precision) == PLAIN
    for pictures in (100, 10_000):
        assert choose(model, drawings(80), 2, None, pictures).precision == "fp32"


def test_a_tower_is_made_only_where_it_saves_more_than_it_takes(
    model: ModelDirectory, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "MAKING_S", 20)  # 40 pictures/s are saved, and 80 are encoded half as often again
    assert choose(model, drawings(80), 2, None, 1_000).precision == "fp32"
    assert measured == ["fp32"]
    assert is_static(choose(model, drawings(80), 2, None, 1_100).precision)
    assert measured == ["fp32", "made"]


def test_small_indexes_make_a_tower_when_together_they_are_worth_it(model: ModelDirectory, measured: list[str]) -> None:
    """Making and comparing takes 1 + 1.5 * 80 / 20 s, half of fp32's time is saved: due after 14 s, 280 pictures."""
    for _ in range(2):
        assert choose(model, drawings(80), 2, None, 90).precision == "fp32"
    assert choose(model, drawings(8), 2, None, 60).precision == "fp32"
    assert choose(model, drawings(8), 2, None, 60).precision == "fp32"  # due, but there are too few to compare
    assert "made" not in measured
    chosen = choose(model, drawings(80), 2, None, 80)
    assert is_static(chosen.precision)
    assert measured == ["fp32", "made"]
    assert choose(model, drawings(64), 2, None, 64) == chosen


@pytest.mark.parametrize(("faster", "is_taken"), [(1.57, True), (1.2, False)])
def test_a_tower_may_also_beat_bf16(
    model: ModelDirectory, measured: list[str], monkeypatch: pytest.MonkeyPatch, faster: float, is_taken: bool
) -> None:
    """As where bf16 is computed without AMX, and not where it is computed with it."""
    bf16 = Choice("openvino", "bf16", 8, 0.9999, 0.9995, 40.0, "bf16 fp32")
    tried, bases = precision._try_static, []

    def try_static(*given: Any) -> tuple[Choice, float]:
        bases.append(given[3])
        found = tried(*given)
        assert found is not None
        return found[0], faster

    monkeypatch.setattr(precision, "_may_have_bf16", lambda: True)
    monkeypatch.setattr(precision, "_measure", lambda *_: bf16)
    monkeypatch.setattr(precision, "_try_static", try_static)
    due = (1 + 3.5 * 80 / 40) / 0.3 * 40
    assert choose(model, drawings(80), 2, None, int(due / 2)) == bf16
    assert bases == []
    chosen = choose(model, drawings(80), 2, None, int(due / 2) + 1)
    assert bases == [bf16]
    assert is_static(chosen.precision) == is_taken
    assert choose(model, drawings(80), 2, None, 100_000).precision == chosen.precision
    assert choose(model, drawings(24), 2, None, 24) == bf16
    assert choose(model, drawings(1), 2, "bf16").precision == "bf16"
    assert bases == [bf16]  # what is known to be slow is not tried again
    if is_taken:
        assert chosen.pictures_per_s == pytest.approx(62.8)
        shutil.rmtree(cache_dir() / static.FOLDER)
        assert choose(model, drawings(80), 2, chosen.precision) == PLAIN


@pytest.mark.parametrize(("agreed", "faster"), [(0.85, 3.0), (None, 3.0), (0.95, 1.1)])
def test_what_ranks_otherwise_or_gains_little_is_not_taken(
    model: ModelDirectory,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    agreed: float | None,
    faster: float,
) -> None:
    tried = precision._try_static

    def worse(*given: Any) -> tuple[Choice, float]:
        found = tried(*given)
        assert found is not None
        return dataclasses.replace(found[0], agreement=agreed), faster

    monkeypatch.setattr(precision, "_try_static", worse)
    assert choose(model, drawings(80), 2, None, 10_000).precision == "fp32"
    assert choose(model, drawings(80), 2, None, 100).precision == "fp32"
    assert choose(model, 255 - drawings(80), 2, None, 10_000).precision == "fp32"
    assert measured == (["fp32", "made"] if faster < 2 else ["fp32", "made", "made"])  # other pictures, the same speed


@pytest.mark.slow
def test_the_trial_measures_a_tower(model: ModelDirectory) -> None:
    tried = precision._try_static(model, drawings(80), 1, PLAIN)
    assert tried is not None
    found, faster = tried
    assert is_static(found.precision)
    assert found.agreement is not None
    assert found.agreement > LEAST_AGREEMENT / 2
    assert (found.pictures_per_s or 0) > 0
    assert 0.01 < faster < 100
    assert trial.CALIBRATING + LEAST_PICTURES <= bulk.PICTURES_TO_COMPARE


# An index of one.


def run(folder: Path, encoder: OnnxEncoder, *, reindex: bool = False) -> IndexReport:
    return index_folder(folder, encoder, options=IndexOptions(reindex=reindex, workers=1))


def noted(folder: Path) -> str | None:
    with open_snapshot(folder / ".clipsearch") as snapshot:
        return snapshot.manifest.model.precision


def save(folder: Path, given: PixelArray, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(given, first):
        Image.fromarray(picture).save(folder / f"{number:03}.png")


def test_an_index_keeps_its_tower_and_says_so_when_it_is_lost(
    tmp_path: Path, model: ModelDirectory, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "LEAST_TO_COMPARE", 80)
    monkeypatch.setattr(precision, "STATIC_FROM_FP32", (5, 1.5))
    photos, given = tmp_path / "photos", drawings(90, 40)
    save(photos, given[:82])
    encoder = OnnxEncoder(model.path, threads=2)
    assert not run(photos, encoder).warnings
    name = noted(photos)
    assert name is not None
    assert is_static(name)
    assert measured == ["fp32", "made"]
    save(photos, given[82:86], 82)
    assert not run(photos, OnnxEncoder(model.path, threads=2)).warnings
    assert measured == ["fp32", "made"]
    with clipsearch.open(photos) as opened:
        for record in opened:
            alone = opened.encode_picture(photos / record.path)
            assert float(alone @ opened.vector(record.row_id)) > 0.98  # one picture alone is encoded in fp32
    save(tmp_path / "few", given[:3])
    assert not run(tmp_path / "few", encoder).warnings  # by the encoder that has the tower loaded
    assert noted(tmp_path / "few") == "fp32"
    shutil.rmtree(cache_dir() / static.FOLDER)
    save(photos, given[86:], 86)
    (warning,) = run(photos, OnnxEncoder(model.path, threads=2)).warnings
    assert f"encoded pictures in fp32; others in the index are in {name}" in warning
    assert noted(photos) == name
    with clipsearch.open(photos) as opened:
        assert opened.search(photos / "005.png", 1)[0].record.path == "005.png"
        assert opened.encode_picture(photos / "000.png").shape == (DIM,)


def test_a_large_index_makes_its_own_where_the_kept_one_is_unfit(
    tmp_path: Path, model: ModelDirectory, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "LEAST_TO_COMPARE", 80)
    monkeypatch.setattr(precision, "STATIC_FROM_FP32", (5, 1.5))
    tried = precision._try_static

    def strict(*asked: Any) -> tuple[Choice, float]:
        found = tried(*asked)
        assert found is not None
        return dataclasses.replace(found[0], mean_cosine=0.998, least_cosine=0.99), found[1]

    monkeypatch.setattr(precision, "_try_static", strict)
    given = drawings(90, 40)
    save(tmp_path / "fog", given // 20 + 112)
    run(tmp_path / "fog", OnnxEncoder(model.path, threads=2))
    first = noted(tmp_path / "fog")
    save(tmp_path / "clear", given)
    assert not run(tmp_path / "clear", OnnxEncoder(model.path, threads=2)).warnings
    second = noted(tmp_path / "clear")
    assert measured == ["fp32", "made", "made"]
    assert first is not None
    assert second is not None
    assert is_static(first)
    assert is_static(second)
    assert first != second
    with clipsearch.open(tmp_path / "clear") as opened:
        for record in opened:  # one picture alone is encoded in fp32
            assert float(opened.encode_picture(tmp_path / "clear" / record.path) @ opened.vector(record.row_id)) > 0.95
    save(tmp_path / "some", given[:70])
    run(tmp_path / "some", OnnxEncoder(model.path, threads=2))
    assert noted(tmp_path / "some") == second  # and keeps it
