"""Long pictures are seen in pieces, wherever a picture becomes a vector."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import clipsearch
from clipsearch.encoder.pieces import encode_decoded
from clipsearch.indexer.build import index_folder
from clipsearch.pictures.images import LONG_ASPECT, piece_boxes, prepare, read_picture
from clipsearch.records import MOST_PIECES, PixelArray, Preprocessing, ResizeMode
from clipsearch.search.collection import Collection
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture

EXAMPLES = max(25, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 50)


@given(st.integers(1, 40_000), st.integers(1, 40_000))
def test_pieces_cover_a_long_picture(width: int, height: int) -> None:
    boxes = piece_boxes((width, height))
    long, short = max(width, height), min(width, height)
    if long <= LONG_ASPECT * short:
        assert boxes == []
        return
    assert 3 <= len(boxes) <= MOST_PIECES
    assert all(right - left == bottom - top == short for left, top, right, bottom in boxes)
    along = [(b[0], b[2]) if width >= height else (b[1], b[3]) for b in boxes]
    across = {(b[1], b[3]) if width >= height else (b[0], b[2]) for b in boxes}
    assert across == {(0, short)}
    assert along[0][0] == 0
    assert along[-1][1] == long
    steps = [following[0] - before[0] for before, following in itertools.pairwise(along)]
    assert max(steps) - min(steps) <= 1  # evenly
    if long <= MOST_PIECES * short:
        assert max(steps) <= short + 1


LONG = [(900, 120), (130, 1500), (4000, 500), (700, 300), (9000, 90), (60, 6000)]


@pytest.mark.few(each="mode extension size")
@pytest.mark.many
@pytest.mark.parametrize(
    ("mode", "extension", "size"),
    thinned(itertools.product(["shortest", "squash", "longest"], ["png", "jpg"], LONG), 5),
)
def test_a_piece_is_what_a_picture_of_that_part_is(
    tmp_path: Path, mode: ResizeMode, extension: str, size: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3, resize_mode=mode)
    image = picture(5, size=size)
    path = tmp_path / f"long.{extension}"
    image.save(path, quality=95)
    pieces = read_picture(path, preprocessing, pieces=True).pieces
    boxes = piece_boxes(size)
    assert len(pieces) == len(boxes)
    for piece, box in zip(pieces, boxes, strict=True):
        difference = np.abs(piece.astype(int) - prepare(image.crop(box), preprocessing))
        assert difference.mean() < (0.5 if extension == "png" else 2.5)
    assert len(read_picture(path, preprocessing).pieces) == 1


def test_orientation_comes_before_pieces(tmp_path: Path) -> None:
    preprocessing = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)
    image = picture(6, size=(1200, 150))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", quality=95, exif=exif)
    found = read_picture(tmp_path / "a.jpg", preprocessing, pieces=True)
    assert (found.width, found.height) == (1200, 150)
    for piece, box in zip(found.pieces, piece_boxes((1200, 150)), strict=True):
        assert np.abs(piece.astype(int) - prepare(image.crop(box), preprocessing)).mean() < 3


def pixels(count: int, seed: int = 0) -> PixelArray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(st.lists(st.integers(1, MOST_PIECES), min_size=1, max_size=12))
def test_encoding_together_is_encoding_alone(counts: list[int]) -> None:
    encoder = FakeEncoder()
    pictures = [pixels(count, seed) for seed, count in enumerate(counts)]
    together = encode_decoded(encoder, pictures)
    assert together.shape == (len(counts), encoder.dim)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for vector, pieces in zip(together, pictures, strict=True):
        assert np.allclose(vector, encode_decoded(encoder, [pieces])[0], atol=1e-5)
        if len(pieces) == 1:
            assert np.allclose(vector, encoder.encode_images(pieces)[0], atol=1e-5)


def test_empty_pieces_hardly_count() -> None:
    encoder = FakeEncoder()
    shown = pixels(1)
    blank = np.full((7, 32, 32, 3), 250, np.uint8)
    vector = encode_decoded(encoder, [np.concatenate([blank[:3], shown, blank[3:]])])[0]
    assert float(vector @ encoder.encode_images(shown)[0]) > 0.99
    flat = encode_decoded(encoder, [blank])[0]
    assert np.allclose(flat, encoder.encode_images(blank[:1])[0], atol=1e-5)


SIZES = [(1600, 160), (160, 1600), (5000, 100), (400, 180), (230, 100), (6000, 60), (60, 6000)]


@pytest.mark.few(each="extension size")
@pytest.mark.many
@pytest.mark.parametrize(("extension", "size"), thinned(itertools.product(["jpg", "png", "webp"], SIZES), 4))
def test_a_long_picture_finds_itself(tmp_path: Path, size: tuple[int, int], extension: str) -> None:
    for seed in range(6):
        picture(seed, size=size if seed < 3 else (90, 70)).save(tmp_path / f"{seed}.{extension}")
    report = index_folder(tmp_path, FakeEncoder())
    with Collection(report.index, encoder=FakeEncoder()) as photos:
        for seed in range(6):
            vector = photos.encode_picture(tmp_path / f"{seed}.{extension}")
            hits = photos.search_vectors(vector[None], 6)[0]
            assert Path(hits[0].path).name == f"{seed}.{extension}"
            assert hits[0].score == pytest.approx(1, abs=1e-4)
    assert clipsearch.__version__


@pytest.mark.few(each="aspect at upright")
@pytest.mark.many
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("aspect", [3, 12, 30, 100, 400])
@pytest.mark.parametrize("at", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_all_of_the_length_is_seen(aspect: int, at: float, upright: bool, tmp_path: Path) -> None:
    """What fills a tenth of the length is seen, of whatever shape the picture is; up to 32:1, a square as well."""
    short = 40
    side = short if aspect <= MOST_PIECES else aspect * short // 10
    image = Image.new("RGB", (aspect * short, short), "white")
    image.paste((200, 0, 0), (start := round(at * (aspect * short - side)), 0, start + side, short))
    if upright:
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(tmp_path / "a.png")
    pieces = read_picture(tmp_path / "a.png", Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3), pieces=True).pieces
    red = (pieces[..., 0].astype(int) - pieces[..., 1] > 150).mean(axis=(1, 2))
    assert red.max() >= (0.45 if aspect <= MOST_PIECES else 0.9)


def test_a_picture_of_any_length_takes_no_more_memory(tmp_path: Path) -> None:
    import tracemalloc

    preprocessing = Preprocessing(224, 224, (0.0,) * 3, (1.0,) * 3)
    peaks = []
    for size in ((3200, 100), (32_000, 10), (320_000, 1)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        tracemalloc.start()
        pieces = read_picture(tmp_path / "a.png", preprocessing, pieces=True).pieces
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(pieces) == MOST_PIECES
    assert max(peaks) < 3 * MOST_PIECES * 224 * 224 * 3
