"""Vectors of real pictures and sentences: random crops of the pictures in WebDataset tars, through the built-in model.

A crop shows 8 to 100 % of a picture's area, sometimes mirrored, so one picture gives many vectors that differ as
pictures of one album do. Vectors are kept in a cache folder, because 200,000 of them take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from clipsearch.encoder.names import load_encoder
from clipsearch.pictures.images import prepare
from clipsearch.records import FloatArray, PixelArray, Preprocessing

CROPS_AT_ONCE = 128
BLOCK_ROWS = 20_000
NEIGHBOURS_FROM = 4_000
NOISE = 0.1  # length of the noise that an interpolated vector gets; vectors have length 1


def crops(data: Path, cache: Path, rows: int, *, split: str = "train") -> Path:
    """A .npy file of the vectors of `rows` random crops. Shape: (rows, D) float32, unit L2."""
    path = cache / f"crops-{split}-{rows}.npy"
    if path.exists():
        return path
    pictures = [picture for tar in _tars(data, f"*-{split}-*.tar") for picture in _members(tar, ".jpg")]
    encoder = load_encoder("builtin")
    shape = encoder.preprocessing
    rng = np.random.default_rng(rows)
    order = np.concatenate([rng.permutation(len(pictures)) for _ in range(-(-rows // len(pictures)))])[:rows]
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    vectors = np.lib.format.open_memmap(part, "r+" if part.exists() else "w+", np.float32, (rows, encoder.dim))
    first = int(np.any(vectors[::CROPS_AT_ONCE], axis=1).sum()) * CROPS_AT_ONCE  # where an earlier run stopped
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:

        def batch(start: int) -> PixelArray:
            chosen = range(start, min(start + CROPS_AT_ONCE, rows))
            return np.stack([_crop(pictures[order[n]], np.random.default_rng([rows, n]), shape) for n in chosen])

        ahead = pool.submit(batch, first)
        for start in range(first, rows, CROPS_AT_ONCE):
            pixels = ahead.result()
            if start + CROPS_AT_ONCE < rows:
                ahead = pool.submit(batch, start + CROPS_AT_ONCE)
            vectors[start : start + len(pixels)] = encoder.encode_images(pixels)
            if start // CROPS_AT_ONCE % 100 == 99:
                done = start + len(pixels)
                rate = (done - first) / (time.perf_counter() - began)
                print(f"{done:,} of {rows:,} crops, {rate:.0f}/s", file=sys.stderr)
    vectors.flush()
    part.rename(path)
    return path


def _crop(picture: bytes, rng: np.random.Generator, shape: Preprocessing) -> PixelArray:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    area, ratio = rng.uniform(0.08, 1), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(image.width, max(8, round(image.width * math.sqrt(area * ratio))))
    height = min(image.height, max(8, round(image.height * math.sqrt(area / ratio))))
    x, y = int(rng.integers(0, image.width - width + 1)), int(rng.integers(0, image.height - height + 1))
    crop = image.crop((x, y, x + width, y + height))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return prepare(crop, shape)


def sentences(data: Path, cache: Path, count: int) -> FloatArray:
    """The vectors of real captions, one of each picture first. Shape: (count, D) float32, unit L2."""
    path = cache / f"sentences-{count}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, load_encoder("builtin").encode_texts(captions(data, count)))
    vectors: FloatArray = np.load(path)
    return vectors


def captions(data: Path, count: int) -> list[str]:
    """Real captions, one of each picture first."""
    given = [json.loads(text)["captions"] for tar in _tars(data, "*-dev-*.tar") for text in _members(tar, ".json")]
    return [of_one[n] for n in range(min(map(len, given))) for of_one in given][:count]


def interpolated(real: Path, cache: Path, rows: int) -> Path:
    """A .npy file with the vectors of `real`, and as many between them as make `rows`.

    Each further vector lies at a random place between a real one and one of its ten nearest among 4,000, with noise
    of length 0.1. Shape: (rows, D) float32, unit L2.
    """
    path = cache / f"interpolated-{rows}-{real.stem}.npy"
    if path.exists():
        return path
    source: FloatArray = np.load(real, mmap_mode="r")
    part = path.with_suffix(".part")
    vectors = np.lib.format.open_memmap(part, "w+", np.float32, (rows, source.shape[1]))
    vectors[: len(source)] = source
    rng = np.random.default_rng(rows)
    for start in range(len(source), rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, rows - start)
        ours = source[np.sort(rng.choice(len(source), count, replace=count > len(source)))]
        pool = source[np.sort(rng.choice(len(source), min(NEIGHBOURS_FROM, len(source)), replace=False))]
        near = np.argpartition(-(ours @ pool.T), 10, axis=1)[np.arange(count), rng.integers(0, 10, count)]
        share = rng.random((count, 1), np.float32)
        mixed = ours * (1 - share) + pool[near] * share
        mixed += rng.standard_normal(mixed.shape, np.float32) * (NOISE / math.sqrt(mixed.shape[1]))
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        vectors[start : start + count] = mixed[rng.permutation(count)]
    vectors.flush()
    part.rename(path)
    return path


def _tars(data: Path, pattern: str) -> list[Path]:
    found = sorted(data.glob(pattern))
    if not found:
        sys.exit(f"no {pattern} in {data}: name a folder of WebDataset tars (KEY.jpg beside KEY.json) with --data")
    return found


def _members(tar: Path, suffix: str) -> Iterator[bytes]:
    with tarfile.open(tar) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(suffix) else None
            if content is not None:
                yield content.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of WebDataset tars")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--split", default="train", help="which tars: *-SPLIT-*.tar")
    arguments = parser.parse_args()
    print(crops(arguments.data, arguments.cache, arguments.rows, split=arguments.split))


if __name__ == "__main__":
    main()
