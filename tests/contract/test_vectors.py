"""Segments against brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.encoder.names import load_encoder
from clipsearch.errors import CorruptIndex, DimensionMismatch, InvalidQuery
from clipsearch.pictures.images import prepare
from clipsearch.records import FloatArray, IntArray, IvfParameters
from clipsearch.vectors import VectorSegment, merge, top_k, write_vectors
from clipsearch.vectors.files import as_float32
from clipsearch.vectors.inverted import RABITQ, build_ivf, ivf_code
from clipsearch.vectors.segments import import_faiss, open_faiss
from tests.support.pictures import scene


def unit(rows: npt.NDArray[np.floating[Any]]) -> FloatArray:
    scaled: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def clustered(rows: int, dim: int, *, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((50, dim))
    return unit(centres[rng.integers(0, 50, rows)] + 0.6 * rng.standard_normal((rows, dim)))


def make(folder: Path, row_ids: IntArray, rows: FloatArray, *, half: bool = False, **options: object) -> VectorSegment:
    path = folder / "vectors.npy"
    with path.open("wb") as file:
        write_vectors(file, [(row_ids, np.zeros((len(rows), 2), np.int64), rows)], len(rows), rows.shape[1], half=half)
    return VectorSegment(path, rows.shape[1], **options)  # type: ignore[arg-type]


def brute_force(row_ids: IntArray, rows: FloatArray, query: FloatArray, k: int, dead: set[int]) -> list[int]:
    scored = [(-float(np.dot(row, query)), int(i)) for i, row in zip(row_ids, rows, strict=True) if int(i) not in dead]
    return [i for _, i in sorted(scored)[:k]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_exact_search_is_brute_force(
    tmp_path_factory: pytest.TempPathFactory, rows: int, dim: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct directions: many equal scores, which must come by ascending row id.
    choices = unit(rng.standard_normal((5, dim)))
    matrix = choices[rng.integers(0, 5, rows)] if rows else np.empty((0, dim), np.float32)
    row_ids = np.sort(rng.choice(1000, rows, replace=False)).astype(np.int64)
    dead = {int(i) for i in row_ids if rng.random() < 0.2}
    exclude = np.array(sorted(dead | {2000}), np.int64)
    segment = make(tmp_path_factory.mktemp("v"), row_ids, matrix, exclude=exclude)
    queries = unit(rng.standard_normal((3, dim)))
    scores, ids = segment.search(queries, k)
    single_ids = np.stack([segment.search(query[None], k)[1][0] for query in queries])
    for q in range(3):
        exact = {int(i): np.float32(s) for i, s in zip(row_ids, matrix @ queries[q], strict=True)}
        expected = [i for i in sorted(exact, key=lambda i: (-round(float(exact[i]), 5), i)) if i not in dead][:k]
        for answer in (ids[q], single_ids[q]):
            got = [int(i) for i in answer if i >= 0]
            assert len(got) == len(expected) == min(k, rows - len(dead))
            np.testing.assert_allclose([exact[i] for i in got], [exact[i] for i in expected], atol=1e-5)
        assert np.all(np.diff(scores[q][np.isfinite(scores[q])]) <= 0)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 60),
    st.floats(0, 1),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_a_selection_is_brute_force_over_its_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: int, share: float, k: int, block: int, half: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = unit(rng.standard_normal((rows, 8))) if rows else np.empty((0, 8), np.float32)
    matrix = matrix.astype(np.float16).astype(np.float32) if half else matrix
    row_ids = np.sort(rng.choice(100, rows, replace=False)).astype(np.int64)
    dead = row_ids[rng.random(rows) < 0.2]
    selection = np.flatnonzero(rng.random(120) < share).astype(np.int64)  # some in no segment
    segment = make(tmp_path_factory.mktemp("v"), row_ids, matrix, half=half, exclude=dead)
    hidden = set(dead.tolist()) | (set(row_ids.tolist()) - set(selection.tolist()))
    queries = unit(rng.standard_normal((3, 8)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipsearch.vectors.segments.EXACT_BLOCK_ROWS", block)
        patch.setattr("clipsearch.vectors.files.GATHERED_ROWS", 5)
        patch.setattr("clipsearch.vectors.files.WIDENED_NUMBERS", 24)
        scores, ids = segment.search(queries, k, selection=selection)
        single = np.stack([segment.search(query[None], k, selection=selection)[1][0] for query in queries])
    for q in range(3):
        expected = brute_force(row_ids, matrix, queries[q], k, hidden)
        assert [int(i) for i in ids[q] if i >= 0] == expected
        assert [int(i) for i in single[q] if i >= 0] == expected
        at = np.searchsorted(row_ids, expected)
        np.testing.assert_allclose(scores[q, : len(expected)], matrix[at] @ queries[q], atol=1e-6)
        assert np.all(scores[q, len(expected) :] == -np.inf)


def test_equal_scores_come_by_row_id() -> None:
    scores, ids = top_k(np.array([[0.5, 0.9, 0.9, 0.9, 0.1]], np.float32), np.array([4, 9, 2, 7, 1]), 2)
    assert ids.tolist() == [[2, 7]]
    merged = merge([(scores, ids), (np.array([[0.9, 0.2]], np.float32), np.array([[3, 5]]))], 3)
    assert merged[1].tolist() == [[2, 3, 7]]


@pytest.fixture(scope="module", params=["4-bit codes", "1-bit codes", "1-bit codes, divided centroids"])
def large(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[VectorSegment, Path, IvfParameters, IntArray]:
    folder = tmp_path_factory.mktemp("ivf")
    code = RABITQ if "1-bit" in request.param else None
    rows = clustered(6000, 32)
    row_ids = np.arange(6000, dtype=np.int64) * 2 + 1
    segment = make(folder, row_ids, rows)
    faiss_file = folder / "x.faiss"

    def write(serialise: object) -> None:
        with faiss_file.open("wb") as file:
            serialise(file)  # type: ignore[operator]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipsearch.vectors.inverted.TWO_LEVELS_FROM_LISTS", 100 if "divided" in request.param else 10**9)
        ivf = build_ivf(segment.file, write, code=code)
    assert ivf.code == (code or "PQ16x4fs")
    opened = open_faiss(faiss_file, 32, 6000)
    assert getattr(import_faiss().downcast_index(opened.quantizer), "nlist", 0) == (
        11 if "divided" in request.param else 0
    )
    return segment, faiss_file, ivf, row_ids


def test_the_inverted_file_finds_what_exact_search_finds(
    large: tuple[VectorSegment, Path, IvfParameters, IntArray],
) -> None:
    segment, faiss_file, ivf, row_ids = large
    dead = row_ids[::7]
    exact = VectorSegment(segment.file.path, 32, exclude=dead)
    indexed = VectorSegment(segment.file.path, 32, faiss_file=faiss_file, ivf=ivf, exclude=dead)
    queries = clustered(100, 32, seed=1)
    scores, ids = indexed.search(queries, 10)
    expected_scores, expected_ids = exact.search(queries, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(ids, expected_ids, strict=True)])
    assert recall >= 0.97
    assert not np.isin(ids, dead).any()
    same = ids == expected_ids
    np.testing.assert_allclose(scores[same], expected_scores[same], atol=1e-6)  # re-ranked exactly
    np.testing.assert_array_equal(indexed.search(queries, 10, exact=True)[1], expected_ids)


@pytest.mark.few(each="kind share")
@pytest.mark.many
@pytest.mark.parametrize(
    ("kind", "least"), [("any", 0.97), ("like the query", 0.96), ("unlike another query", 0.97), ("unlike it", 0.75)]
)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.4, 0.9])
def test_filters_keep_recall(
    large: tuple[VectorSegment, Path, IvfParameters, IntArray], kind: str, least: float, share: float
) -> None:
    segment, faiss_file, ivf, row_ids = large
    dead = row_ids[::7]
    indexed = VectorSegment(segment.file.path, 32, faiss_file=faiss_file, ivf=ivf, exclude=dead)
    rows, queries = segment.file.take(np.arange(6000)), clustered(30, 32, seed=1)
    found = []
    for number, query in enumerate(queries):
        subject = queries[number - 1] if kind == "unlike another query" else query
        likeness = rows @ subject * (1 if kind == "like the query" else -1)
        order = np.random.default_rng(number).permutation(6000) if kind == "any" else np.argsort(-likeness)
        selection = np.sort(row_ids[order[: int(share * 6000)]])
        hidden = np.isin(row_ids, dead) | ~np.isin(row_ids, selection)
        scores = np.where(hidden, np.float32(-np.inf), rows @ query)[None]
        expected, ids = top_k(scores, row_ids, 10)[1], indexed.search(query[None], 10, selection=selection)[1]
        assert np.isin(ids[ids >= 0], row_ids[~hidden]).all()
        found.append(np.isin(expected, ids).mean())
    assert np.mean(found) >= least
    assert share > 0.01 or np.mean(found) == 1


def test_a_filter_that_keeps_few_finds_just_those(large: tuple[VectorSegment, Path, IvfParameters, IntArray]) -> None:
    segment, faiss_file, ivf, row_ids = large
    indexed = VectorSegment(segment.file.path, 32, faiss_file=faiss_file, ivf=ivf, exclude=row_ids[:1])
    rng = np.random.default_rng(0)
    for _ in range(20):
        selection = np.sort(rng.choice(row_ids[1:], 5, replace=False))
        scores, ids = indexed.search(clustered(2, 32, seed=3), 10, selection=np.union1d(selection, row_ids[:1]))
        assert [set(found[:5]) for found in ids.tolist()] == [set(selection.tolist())] * 2
        assert (ids[:, 5:] == -1).all()
        assert (scores[:, 5:] == -np.inf).all()
    assert (indexed.search(clustered(2, 32), 3, selection=np.array([0, 2, 99999]))[1] == -1).all()


def test_the_inverted_file_is_never_changed_by_searching(
    large: tuple[VectorSegment, Path, IvfParameters, IntArray],
) -> None:
    segment, faiss_file, ivf, _ = large
    before = faiss_file.read_bytes()
    VectorSegment(segment.file.path, 32, faiss_file=faiss_file, ivf=ivf).search(clustered(5, 32), 3)
    assert faiss_file.read_bytes() == before


def test_an_inverted_file_of_other_vectors_is_refused(
    tmp_path: Path, large: tuple[VectorSegment, Path, IvfParameters, IntArray]
) -> None:
    _, faiss_file, ivf, _ = large
    smaller = make(tmp_path, np.arange(10), clustered(10, 32))
    with pytest.raises(CorruptIndex, match="6000 rows"):
        VectorSegment(smaller.file.path, 32, faiss_file=faiss_file, ivf=ivf).load()
    faiss_file_cut = tmp_path / "cut.faiss"
    for kept in (0, 3, 4, 100, faiss_file.stat().st_size // 2):
        faiss_file_cut.write_bytes(faiss_file.read_bytes()[:kept])
        with pytest.raises(CorruptIndex, match="FAISS cannot read"):
            VectorSegment(smaller.file.path, 32, faiss_file=faiss_file_cut, ivf=ivf).load()


def test_an_error_while_the_inverted_file_is_written_comes_through(tmp_path: Path) -> None:
    class FullDisk:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        build_ivf(make(tmp_path, np.arange(600), clustered(600, 8)).file, lambda serialise: serialise(FullDisk()))


@pytest.mark.parametrize(
    ("row_ids", "rows", "problem"),
    [
        ([1, 1], [[1, 0], [0, 1]], "ascend"),
        ([2, 1], [[1, 0], [0, 1]], "ascend"),
        ([1, 2], [[1, 0], [np.nan, 1]], "vector 2"),
        ([1, 2], [[1, 0], [0, 2]], "length 2"),
        ([1, 2], [[0, 0], [0, 1]], "vector 1 has length 0"),
        ([1], [[1, 0], [0, 1]], "ids of shape"),
    ],
)
def test_vectors_that_would_spoil_a_segment_are_refused(
    tmp_path: Path, row_ids: list[int], rows: list[list[float]], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        make(tmp_path, np.array(row_ids), np.array(rows, np.float32))


def test_every_float16_is_widened_exactly() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(-1, 16)
    widened = as_float32(halves)
    assert widened.dtype == np.float32
    np.testing.assert_array_equal(widened.view(np.int32), halves.astype(np.float32).view(np.int32))


@pytest.mark.parametrize("half", [False, True])
def test_a_vectors_file_gives_back_what_was_written(tmp_path: Path, half: bool) -> None:
    rows, row_ids = clustered(300, 24), np.arange(300) * 3
    file = make(tmp_path, row_ids, rows, half=half).file
    expected = rows.astype(np.float16).astype(np.float32) if half else rows
    assert file.half == half
    assert file.path.stat().st_size == 300 * 24 * (2 if half else 4) + 300 * 24 + 3 * 128
    np.testing.assert_array_equal(np.concatenate([block for _, block in file.blocks(64)]), expected)
    np.testing.assert_array_equal(file.take(np.array([0, 7, 299])), expected[[0, 7, 299]])
    assert file.take(np.empty(0, np.int64)).shape == (0, 24)
    assert file.holds(10, row_ids[10:20], rows[10:20])
    assert not file.holds(10, row_ids[10:20], rows[11:21])
    assert not file.holds(10, row_ids[11:21], rows[10:20])
    with file.path.open("rb") as plain:  # by NumPy alone
        np.testing.assert_array_equal(np.load(plain), expected)
        np.testing.assert_array_equal(np.load(plain), row_ids)
    segment = VectorSegment(file.path, 24)
    np.testing.assert_array_equal(segment.find(21), expected[7])
    assert segment.find(22) is None


def test_writing_float16_again_changes_nothing(tmp_path: Path) -> None:
    rows = clustered(50, 24)
    first = make(tmp_path, np.arange(50), rows, half=True).file
    again = np.concatenate([block for _, block in first.blocks(50)])
    before = first.path.read_bytes()
    assert make(tmp_path, np.arange(50), again, half=True).file.path.read_bytes() == before


@pytest.mark.parametrize("dtype", ["<f8", "<i8"])
def test_vectors_of_another_kind_are_refused(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "v.npy"
    with path.open("wb") as file:
        np.save(file, np.eye(3).astype(dtype))
        np.save(file, np.arange(3))
    with pytest.raises(CorruptIndex, match="it holds"):
        VectorSegment(path, 3)


def test_dimensions_must_match(tmp_path: Path) -> None:
    segment = make(tmp_path, np.arange(4), clustered(4, 8))
    with pytest.raises(DimensionMismatch, match="have 9 dimensions, but the index has 8"):
        segment.search(clustered(1, 9), 3)
    with pytest.raises(DimensionMismatch):
        VectorSegment(segment.file.path, 9)
    with pytest.raises(InvalidQuery, match="finite"):
        segment.search(np.full((1, 8), np.nan, np.float32), 3)


def test_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(500, 16)
    whole = make(tmp_path, np.arange(500), rows, exclude=np.array([3, 170, 499]))
    queries = clustered(4, 16, seed=2)
    expected = whole.search(queries, 20)
    monkeypatch.setattr("clipsearch.vectors.segments.EXACT_BLOCK_ROWS", 64)
    scores, ids = whole.search(queries, 20)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-6)


def test_asking_for_everything_finds_everything(large: tuple[VectorSegment, Path, IvfParameters, IntArray]) -> None:
    segment, faiss_file, ivf, row_ids = large
    indexed = VectorSegment(segment.file.path, 32, faiss_file=faiss_file, ivf=ivf)
    for k in (300, 3000, 6000):
        ids = indexed.search(clustered(2, 32), k)[1]
        assert (ids >= 0).all()
    assert set(ids[0].tolist()) == set(row_ids.tolist())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 70), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_best_of_all_shares_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: int, of: int, k: int, filtered: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = unit(rng.standard_normal((rows, 8))) if rows else np.empty((0, 8), np.float32)
    row_ids = np.sort(rng.choice(100, rows, replace=False)).astype(np.int64)
    dead = row_ids[rng.random(rows) < 0.2]
    selection = np.flatnonzero(rng.random(120) < 0.5).astype(np.int64) if filtered else None
    queries = unit(rng.standard_normal((3, 8)))
    folder = tmp_path_factory.mktemp("v")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipsearch.vectors.segments.EXACT_BLOCK_ROWS", 7)
        whole = make(folder, row_ids, matrix, exclude=dead).search(queries, k, selection=selection)
        parts = [
            make(folder, row_ids, matrix, exclude=dead, share=(number, of)).search(queries, k, selection=selection)
            for number in range(of)
        ]
    for q in range(3):
        each = [{i for i in ids[q].tolist() if i >= 0} for _, ids in parts]
        assert sum(map(len, each)) == len(set().union(*each))  # none is in two shares
    scores, ids = merge(parts, k)
    np.testing.assert_array_equal(ids, whole[1])
    np.testing.assert_allclose(scores, whole[0], atol=1e-6)


def test_shares_of_an_inverted_file_find_no_less_than_the_whole(
    large: tuple[VectorSegment, Path, IvfParameters, IntArray],
) -> None:
    whole, faiss_file, ivf, row_ids = large
    rows = whole.file.take(np.arange(len(whole)))
    dead = row_ids[::7]
    queries = unit(rows[5::600] + 0.1 * np.random.default_rng(3).standard_normal((10, 32)))

    def opened(**options: Any) -> VectorSegment:
        return VectorSegment(faiss_file.parent / "vectors.npy", 32, faiss_file=faiss_file, ivf=ivf, **options)

    for selection in (None, np.setdiff1d(row_ids[1::3], dead)):
        truth = opened(exclude=dead).search(queries, 10, exact=True, selection=selection)[1]
        one = opened(exclude=dead).search(queries, 10, selection=selection)[1]
        parts = [opened(exclude=dead, share=(n, 4)).search(queries, 10, selection=selection) for n in range(4)]
        found = merge(parts, 10)[1]
        assert all((ids[:, 0] >= 0).any() for _, ids in parts)  # each has some to give
        for q in range(len(queries)):
            each = [{i for i in ids[q].tolist() if i >= 0} for _, ids in parts]
            assert sum(map(len, each)) == len(set().union(*each))
            assert not set(found[q].tolist()) & set(dead.tolist())
            assert len(np.intersect1d(found[q], truth[q])) >= len(np.intersect1d(one[q], truth[q]))


def test_the_code_of_an_inverted_file_goes_by_its_rows() -> None:
    assert [ivf_code(512, rows) for rows in (200_000, 99_999_999, 100_000_000)] == ["PQ256x4fs", "PQ256x4fs", RABITQ]
    assert ivf_code(33, 200_000) == "SQ8"


@pytest.mark.slow  # hundreds of pictures through a model
@pytest.mark.parametrize("divided", [False, True])
def test_1_bit_codes_find_what_brute_force_finds_of_a_models_vectors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_vectors: tuple[FloatArray, FloatArray, FloatArray],
    divided: bool,
) -> None:
    monkeypatch.setattr("clipsearch.vectors.inverted.TWO_LEVELS_FROM_LISTS", 10 if divided else 10**9)
    rows, pictures, sentences = model_vectors
    segment = make(tmp_path, np.arange(len(rows)), rows, half=True)

    def write(serialise: Any) -> None:
        with (tmp_path / "x.faiss").open("wb") as file:
            serialise(file)

    ivf = build_ivf(segment.file, write, code=RABITQ)
    indexed = VectorSegment(segment.file.path, rows.shape[1], faiss_file=tmp_path / "x.faiss", ivf=ivf)
    for queries in (pictures, sentences):
        expected = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :10]
        found = indexed.search(queries, 10)[1]
        assert np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)]) >= 0.95


@pytest.fixture(scope="module")
def model_vectors() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Crops of pictures that look like photographs, more of them as queries, and sentences, by the built-in model."""
    encoder = load_encoder("builtin")
    rng = np.random.default_rng(5)
    crops = []
    for seed in range(24):
        whole = scene(seed)
        for _ in range(20):
            (x, y), size = rng.integers(0, 100, 2).tolist(), int(rng.integers(100, 140))
            crops.append(prepare(whole.crop((x, y, x + size, y + size)), encoder.preprocessing))
    vectors = np.concatenate([encoder.encode_images(np.stack(crops[n : n + 100])) for n in range(0, len(crops), 100)])
    things = ("dog", "beach", "red car", "mountain lake", "old man", "street at night", "flower", "abstract texture")
    texts = [f"{view} of a {thing}" for thing in things for view in ("a photo", "a close-up", "a blurred picture")]
    return vectors[:440], vectors[440:], encoder.encode_texts(texts)
