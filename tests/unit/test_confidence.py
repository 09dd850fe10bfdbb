"""Confidences: their range, their order, what they do not depend on, and what is remembered of a model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import clipsearch
from clipsearch.errors import InvalidModel
from clipsearch.records import FloatArray, Preprocessing
from clipsearch.search.confidence import (
    SAMPLE_ROWS,
    Background,
    bank_texts,
    bank_things,
    bank_vectors,
    drawing_vectors,
    sample_positions,
    shipped_calibration,
)
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

BANK = len(bank_texts())
SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate_confidence.py"


def unit(rng: np.random.Generator, rows: int, dim: int = 32, *, shift: float = 0.0) -> FloatArray:
    vectors = rng.standard_normal((rows, dim)) + shift
    scaled: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def scaled(vectors: npt.NDArray[np.floating]) -> FloatArray:
    found: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_confidence", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_bank_has_no_text_twice() -> None:
    texts = bank_texts()
    assert len(texts) == len(set(texts)) > 150
    assert "a photo of an insect" in texts and not any(text != text.strip() for text in texts)


@pytest.mark.parametrize("shift", [0.0, 2.0])  # all round the sphere, and in a narrow cone
def test_a_text_stands_where_labels_do_or_where_scenes_do(shift: float) -> None:
    """Column 4 is 1 among the bank's labels and -1 among its scenes; 5 to 7 are the nearest of each, and of all."""
    rng = np.random.default_rng(8)
    things = len(bank_things())
    bank = unit(rng, BANK, dim=64, shift=shift)
    bank[:things, 0] += 1 + shift
    bank[things:, 1] += 1 + shift
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    background, scores = Background(bank, unit(rng, 50, dim=64), None), np.zeros(1, np.float32)
    own = np.stack([background.features(text, scores)[0, 4:] for text in bank])
    assert 0.7 < own[:things, 0].mean() <= 1 and -1 <= own[things:, 0].mean() < -0.7
    label, scene = (background.features(axis, scores)[0] for axis in np.eye(64, dtype=np.float32)[:2])
    assert label[4] > 0 > scene[4]
    assert label[5] > scene[5] and label[6] < scene[6]


def test_a_model_that_places_labels_and_scenes_alike_says_nothing_of_the_kind_of_a_text() -> None:
    """Else noise would tell words from sentences: an exact match was unlikely with such an encoder."""
    rng = np.random.default_rng(9)
    background = Background(unit(rng, BANK, dim=16), unit(rng, 50, dim=16), None)
    kinds = [background.features(text, np.zeros(1, np.float32))[0, 4] for text in unit(rng, 200, dim=16)]
    assert np.std(kinds) < 0.4  # in spreads of where labels stand, it would be above 3


@pytest.mark.parametrize("kind", ["text", "picture"])
@pytest.mark.parametrize("drawn", [0, 1, 30])
def test_confidences_lie_between_0_and_1_and_rise_with_the_score(kind: str, drawn: int) -> None:
    rng = np.random.default_rng(1)
    scores = np.linspace(-1, 1, 41).astype(np.float32)
    for rows in (1, 2, 300):
        for shift in (0.0, 2.0):  # vectors all round the sphere, and in a narrow cone as CLIP's are
            drawings = unit(rng, drawn, shift=shift) if drawn else None
            background = Background(unit(rng, BANK), unit(rng, rows, shift=shift), drawings)
            query = unit(rng, 1, shift=shift)[0]
            chances = shipped_calibration().confidences(background, query, scores, kind)  # type: ignore[arg-type]
            assert np.isfinite(chances).all() and chances.min() >= 0 and chances.max() <= 1
            assert (np.diff(chances) >= 0).all()
            assert chances[-1] > chances[0]


def test_of_the_other_hits_a_confidence_depends_on_the_best_only() -> None:
    rng = np.random.default_rng(2)
    background, query = Background(unit(rng, BANK), unit(rng, 200), unit(rng, 30)), unit(rng, 1)[0]
    scores = np.array([0.4, 0.25, 0.1], np.float32)
    calibration = shipped_calibration()
    together = calibration.confidences(background, query, scores, "text")
    alone = [calibration.confidences(background, query, scores[i : i + 1], "text", 0.4)[0] for i in range(3)]
    np.testing.assert_allclose(together, alone)


def test_a_hit_is_less_likely_the_lower_it_stands_below_the_best() -> None:
    """Of two hits with one score, and in one collection, the one whose query has a better hit is less likely."""
    rng = np.random.default_rng(7)
    background, query = Background(unit(rng, BANK), unit(rng, 200), unit(rng, 30)), unit(rng, 1)[0]
    scores = np.array([0.6], np.float32)
    chances = [
        float(shipped_calibration().confidences(background, query, scores, "text", best)[0]) for best in (0.6, 0.9)
    ]
    assert chances[0] > chances[1]


def test_confidences_are_the_same_where_a_model_squeezes_its_cosines_together() -> None:
    """As CLIP does: all vectors in a narrow cone, cosines of 0.15 to 0.35; no number of the calibration knows it."""
    rng = np.random.default_rng(4)
    parts = [unit(rng, BANK), unit(rng, 300), unit(rng, 30), unit(rng, 1)]

    def confidence(share: float) -> float:
        ones = [np.ones((len(part), 1), np.float32) for part in parts]
        squeezed = [
            np.concatenate([np.sqrt(share) * part, np.sqrt(1 - share) * one], axis=1).astype(np.float32)
            for part, one in zip(parts, ones, strict=True)
        ]
        bank, sample, drawings, (query,) = squeezed
        best = (sample @ query).max(keepdims=True)
        return float(shipped_calibration().confidences(Background(bank, sample, drawings), query, best, "text")[0])

    assert confidence(0.2) == pytest.approx(confidence(1.0), abs=1e-3)
    assert 0.01 < confidence(1.0) < 0.99


@pytest.mark.parametrize("geometry", ["all round the sphere", "in a narrow cone", "on two sides"])
def test_what_shows_the_query_is_found_and_nothing_else_whatever_the_geometry(geometry: str) -> None:
    """Labels and scenes that differ in kind, and pictures of what two texts are of; then all moved, as models do."""
    rng = np.random.default_rng(12)
    dim, things = 256, len(bank_things())
    one, other = np.linalg.qr(rng.standard_normal((dim, 2)))[0].T
    shift, cosine = {"all round the sphere": (0.0, 0.0), "in a narrow cone": (1.5, 0.6), "on two sides": (0.5, -1.0)}[
        geometry
    ]

    def as_text(vectors: FloatArray) -> FloatArray:
        return scaled(vectors + shift * (cosine * one + (1 - cosine**2) ** 0.5 * other))

    def as_picture(vectors: FloatArray) -> FloatArray:
        return scaled(vectors + shift * one)

    kinds = unit(rng, 2, dim)
    bank = scaled(unit(rng, BANK, dim) + 0.6 * np.repeat(kinds, [things, BANK - things], axis=0))
    label = scaled(unit(rng, 1, dim) + 0.6 * kinds[0])
    shown = scaled(1.6 * label + unit(rng, 8, dim))
    pictures = as_picture(np.concatenate([shown, unit(rng, 200, dim)]))
    background = Background(as_text(bank), pictures, as_picture(unit(rng, 24, dim)))
    query = as_text(label)[0]
    sure, bands = shipped_calibration().judged(background, query, pictures @ query, "text")
    assert bands[int(sure.argmax())] == "strong" and "unlikely" not in bands[:8] and set(bands[8:]) == {"unlikely"}
    assert sure[8:].max() < 0.1


@pytest.mark.parametrize("encoder", [FakeEncoder(), FakeEncoder(dim=128, seed=3)], ids=["64", "128"])
def test_a_picture_that_lies_where_the_text_does_is_strong(tmp_path: Path, encoder: FakeEncoder) -> None:
    """Where a model tells but colours apart, a cosine of 1 is only four spreads above unrelated pairs."""
    rng = np.random.default_rng(2)
    for number in range(40):
        small = rng.integers(0, 256, (2, 2, 3), np.uint8)
        Image.fromarray(small).resize((32, 32), Image.Resampling.BILINEAR).save(tmp_path / f"{number}.png")
    for colour in ("yellow", "blue", "red"):
        Image.new("RGB", (32, 32), COLOURS[colour]).save(tmp_path / f"{colour}.png")
    clipsearch.index(tmp_path, encoder=encoder)
    with clipsearch.open(tmp_path, encoder=encoder) as photos:
        for colour in ("yellow", "blue", "red"):
            hits = photos.search(colour, all=True)
            assert (hits[0].record.path, hits[0].band) == (f"{colour}.png", "strong")
            assert (hits[-1].confidence or 0) < 0.1
        texts = ("bobsled", "teapot", "lighthouse")
        assert not [hit for text in texts for hit in photos.search(text) if hit.band == "strong"]


def test_a_collection_of_one_kind_does_not_shift_what_a_score_means() -> None:
    """The drawings say where unrelated pairs lie, so a score means the same whatever else the bank says of a sample."""
    rng = np.random.default_rng(5)
    bank, drawings, query = unit(rng, BANK), unit(rng, 30), unit(rng, 1)[0]
    score = np.array([0.5], np.float32)
    alike = unit(rng, 200, shift=2.0)
    of_all_kinds, of_one = (Background(bank, sample, drawings) for sample in (unit(rng, 200), alike))
    assert of_all_kinds.features(query, score)[0, 0] == of_one.features(query, score)[0, 0]
    assert Background(bank, alike, None).features(query, score)[0, 0] != of_one.features(query, score)[0, 0]


def test_the_only_picture_of_a_collection_is_likelier_for_what_it_shows() -> None:
    rng = np.random.default_rng(6)
    bank, drawings, picture = unit(rng, BANK), unit(rng, 30), unit(rng, 1)
    background = Background(bank, picture, drawings)
    same, other = picture[0], unit(rng, 1)[0]
    calibration = shipped_calibration()
    found, _ = calibration.judged(background, same, picture @ same, "text")
    missed, bands = calibration.judged(background, other, picture @ other, "text")
    assert found[0] > missed[0] and bands == ["unlikely"]


def test_bands_follow_the_confidence() -> None:
    calibration = shipped_calibration()
    for bands in (calibration.text_bands, calibration.picture_bands):
        assert 0 < bands.maybe <= bands.certain < bands.strong < 1
        sure = np.array([1.0, bands.strong, bands.maybe, bands.maybe - 1e-9, 0.0])
        assert bands.of(sure, 1.0) == ["strong", "strong", "maybe", "unlikely", "unlikely"]
        assert bands.of(sure[2:], bands.certain) == ["maybe", "unlikely", "unlikely"]
        assert bands.of(sure[2:], bands.certain - 1e-9) == ["unlikely"] * 3


def test_where_the_best_hit_is_not_certain_none_is_likely_whichever_part_of_the_list_is_asked_for() -> None:
    rng, dim = np.random.default_rng(11), 128
    background = Background(unit(rng, BANK, dim), unit(rng, 200, dim), unit(rng, 30, dim))
    query = unit(rng, 1, dim)[0]
    calibration = shipped_calibration()
    scores = np.linspace(1, -0.2, 121, dtype=np.float32)
    seen: set[tuple[str, ...]] = set()
    for best in scores:
        below = scores[scores <= best]
        sure, bands = calibration.judged(background, query, below, "text")
        seen.add(tuple(sorted(set(bands))))
        assert (bands[0] == "unlikely") == (sure[0] < calibration.text_bands.certain)
        part, of_part = calibration.judged(background, query, below[3:], "text", float(best))
        np.testing.assert_allclose(part, sure[3:])
        assert of_part == bands[3:]
    assert {("unlikely",), ("maybe", "unlikely"), ("maybe", "strong", "unlikely")} <= seen


def test_a_sample_is_spread_over_all_segments() -> None:
    assert [len(rows) for rows in sample_positions([3, 0, 5])] == [3, 0, 5]
    lengths = [100_000, 10, 50_000]
    positions = sample_positions(lengths)
    assert SAMPLE_ROWS * 0.98 <= sum(map(len, positions)) <= SAMPLE_ROWS
    for rows, length in zip(positions, lengths, strict=True):
        assert (np.diff(rows) > 0).all() and (not len(rows) or (rows[0] >= 0 and rows[-1] < length))
    assert positions[0][0] == 0 and positions[2][-1] == 49_999
    assert abs(len(positions[0]) / len(positions[2]) - 2) < 0.2


class _Fingerprinted(FakeEncoder):
    text_fingerprint = "0" * 32


def test_the_bank_is_encoded_once_for_each_text_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.search.confidence.cache_dir", lambda: tmp_path)
    first, second = _Fingerprinted(), _Fingerprinted()
    vectors = bank_vectors(first)
    np.testing.assert_array_equal(bank_vectors(second), vectors)
    assert (first.texts_encoded, second.texts_encoded) == (len(bank_texts()), 0)
    (file,) = (tmp_path / "backgrounds").iterdir()
    file.write_bytes(file.read_bytes()[:-7])  # cut short: made again
    np.testing.assert_array_equal(bank_vectors(second), vectors)
    assert second.texts_encoded == len(bank_texts())
    other = _Fingerprinted()
    other.text_fingerprint = "1" * 32
    bank_vectors(other)
    assert other.texts_encoded == len(bank_texts())


def test_the_drawings_are_encoded_once_for_each_image_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.search.confidence.cache_dir", lambda: tmp_path)
    first, second, other = FakeEncoder(), FakeEncoder(), FakeEncoder(seed=1)
    vectors = drawing_vectors(first)
    assert vectors is not None and vectors.shape == (first.images_encoded, first.dim) and len(vectors) >= 20
    np.testing.assert_array_equal(drawing_vectors(second), vectors)
    assert second.images_encoded == 0
    (file,) = (tmp_path / "backgrounds").iterdir()
    file.write_bytes(file.read_bytes()[:-7])  # cut short: made again
    np.testing.assert_array_equal(drawing_vectors(second), vectors)
    assert second.images_encoded == len(vectors)
    drawing_vectors(other)
    assert other.images_encoded == len(vectors)


class _TextOnly(FakeEncoder):
    """As a model directory with a text tower alone: it knows whose pictures it understands, and cannot read any."""

    @property
    def preprocessing(self) -> Preprocessing:
        raise InvalidModel(Path("fake"), "it has no image tower")

    @preprocessing.setter
    def preprocessing(self, value: Preprocessing) -> None:
        pass


def test_a_model_without_image_tower_has_the_drawings_of_the_one_it_belongs_to() -> None:
    assert drawing_vectors(_TextOnly()) is None
    kept = drawing_vectors(FakeEncoder())
    np.testing.assert_array_equal(drawing_vectors(_TextOnly()), kept)


def test_search_leaves_out_what_is_unlikely_unless_asked(tmp_path: Path) -> None:
    for colour in ("red", "green", "blue", "yellow", "black", "white"):
        plain(COLOURS[colour]).save(tmp_path / f"{colour}.png")
    clipsearch.index(tmp_path, encoder=FakeEncoder())
    with clipsearch.Collection(tmp_path / ".clipsearch", encoder=FakeEncoder()) as photos:
        everything = photos.search("red", all=True)
        assert len(everything) == 6
        assert all(hit.confidence is not None and 0 <= hit.confidence <= 1 and hit.band for hit in everything)
        shown = photos.search("red")
        likely = [hit for hit in everything if hit.band != "unlikely"]
        assert [(hit.record, hit.band) for hit in shown] == [(hit.record, hit.band) for hit in likely]
        assert [hit.confidence for hit in shown] == pytest.approx([hit.confidence for hit in likely], abs=1e-6)
        assert [hit.record.path for hit in photos.search(tmp_path / "red.png")] == ["red.png"]
        assert len(photos.search(tmp_path / "red.png", all=True)) == 6
        listed = photos.search("ext:png")
        assert len(listed) == 6 and listed[0].confidence is None and listed[0].band is None


def test_a_fit_finds_what_separates_and_never_falls_with_the_score(script: ModuleType) -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(2000) < 0.3
    features = rng.standard_normal((2000, 4))
    features[:, 0] += 1.5 * truth + features[:, 2]  # a score whose level another feature tells
    features[:, 1] -= truth  # one that would fall
    fitted = script.fit_logistic(features, truth, 2, np.ones(len(truth)))
    chances = fitted.probabilities(features)
    assert script.auroc(truth, chances) > script.auroc(truth, features[:, 0]) + 0.03
    assert fitted.weights[0] > 0 and fitted.weights[1] == 0
    far = np.full((1, 4), 1e6)
    assert 0 <= fitted.probabilities(far)[0] <= 1


def test_auroc_counts_ties_half(script: ModuleType) -> None:
    truth = np.array([True, True, False, False])
    assert script.auroc(truth, np.array([4.0, 3, 2, 1])) == 1.0
    assert script.auroc(truth, np.array([1.0, 1, 1, 1])) == 0.5
    assert script.auroc(truth, np.array([4.0, 1, 2, 3])) == 0.5
