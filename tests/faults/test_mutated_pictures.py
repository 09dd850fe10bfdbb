"""Good pictures beside mutated ones: not one is lost, and each is decoded to exactly its own pixels.

CLIPSEARCH_MUTATIONS: how many mutated pictures of each format, and as many good ones (default 12);
CLIPSEARCH_MUTATION_RUNS: how many times (default 1).
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from clipsearch.pictures.images import read_picture
from clipsearch.pictures.pool import DecodePool, DecodeTask
from clipsearch.records import Preprocessing
from tests.support.breadth import tries
from tests.support.cases import thinned

COUNT = tries("CLIPSEARCH_MUTATIONS", 4, 12)
RUNS = int(os.environ.get("CLIPSEARCH_MUTATION_RUNS", "1"))
PREPROCESSING = Preprocessing(48, 48, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 85}),
    "progressive.jpg": ("JPEG", {"quality": 85, "progressive": True}),
    "cmyk.jpg": ("JPEG", {"quality": 85}),
    "lossless.jpg": ("", {}),
    "png": ("PNG", {"compress_level": 1}),
    "webp": ("WEBP", {"quality": 80}),
    "gif": ("GIF", {}),
    "raw.tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "packbits.tif": ("TIFF", {"compression": "packbits"}),
    "jpeg.tif": ("TIFF", {"compression": "jpeg"}),
    "deep.tif": ("", {}),
    "bmp": ("BMP", {}),
    "dib": ("DIB", {}),
    "ppm": ("PPM", {}),
    "jp2": ("JPEG2000", {}),
    "avif": ("AVIF", {"quality": 60, "speed": 10}),
    "heic": ("HEIF", {"quality": 60}),
}


def encoded(name: str, seed: int) -> bytes:
    """A picture of its own for each seed."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(40, 160)), int(rng.integers(40, 160)))
    if name == "lossless.jpg":  # larger: others of that size are decoded reduced
        size = (size[0] * 4, size[1] * 4)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    format_, options = FORMATS[name]
    if name == "deep.tif":
        buffer = io.BytesIO()
        samples = np.asarray(image).astype(np.uint16) * 257
        tifffile.imwrite(buffer, samples, photometric="rgb", compression="zlib", predictor=2, rowsperstrip=16)
        return buffer.getvalue()
    if name == "lossless.jpg":
        return bytes(imagecodecs.jpeg_encode(np.asarray(image), lossless=True))
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if name == "cmyk.jpg":
        image = image.convert("CMYK")
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def mutated(content: bytes, seed: int) -> bytes:
    """Bits flipped, bytes lost, doubled, moved, zeroed or replaced, in the header as often as behind it."""
    rng = np.random.default_rng(seed)
    body = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        span = len(body) if rng.random() < 0.5 else min(len(body), 300)
        at, length = int(rng.integers(span)), int(rng.integers(1, 40))
        kind = int(rng.integers(7))
        if kind == 0:
            body[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            body[at : at + length] = b""
        elif kind == 2:
            body[at:at] = body[at : at + length]
        elif kind == 3:
            body[at : at + length] = rng.bytes(length)
        elif kind == 4:
            body[at : at + length] = bytes(len(body[at : at + length]))
        elif kind == 5:
            body[at : at + 4] = bytes([255, 255, 255, int(rng.integers(256))])
        elif len(body) > 400:
            del body[int(rng.integers(300, len(body))) :]
        if len(body) < 16:
            break
    return bytes(body)


@pytest.mark.parametrize("name", thinned(FORMATS, 4))
def test_mutated_pictures_cost_no_good_one(tmp_path: Path, name: str) -> None:
    good, tasks = {}, []
    for number in range(COUNT):
        content = encoded(name, number)
        (tmp_path / f"good{number}.{name}").write_bytes(content)
        (tmp_path / f"bad{number}.{name}").write_bytes(mutated(content, 1000 + number))
        good[2 * number] = read_picture("x." + name, PREPROCESSING, content=content, pieces=True)
        tasks.append(DecodeTask(2 * number, os.fspath(tmp_path / f"good{number}.{name}")))
        tasks.append(DecodeTask(2 * number + 1, os.fspath(tmp_path / f"bad{number}.{name}")))
    for run in range(RUNS):
        order = np.random.default_rng(run).permutation(len(tasks))
        with DecodePool(PREPROCESSING, workers=2, timeout_s=30, pieces=True) as pool:
            results = {result.key: result for result in pool.run(tasks[n] for n in order)}
        assert sorted(results) == list(range(len(tasks)))
        for key, expected in good.items():
            result = results[key]
            assert result.skip is None, (run, tasks[key].path, result.skip)
            assert result.partial is None
            assert result.pieces is not None
            assert np.array_equal(result.pieces, expected.pieces), (run, tasks[key].path)
        crashed = [
            tasks[key].path for key, result in results.items() if result.skip and result.skip[0] == "decoder_crashed"
        ]
        assert len(crashed) <= COUNT // 20, crashed
