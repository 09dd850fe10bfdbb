"""Pairs to vectors: what is kept, what is left out, and which caption is whose."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xxhash

from clipsearch.errors import InvalidPairs
from clipsearch.indexer.build import Progress
from clipsearch.pairs.encoding import encode_captions, encode_pairs
from clipsearch.pairs.reading import open_pairs
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain


def write_colours(path: Path, colours: list[str], broken: tuple[int, ...] = ()) -> Path:
    """A tar of plain pictures, each with two captions that name its colour."""
    with tarfile.open(path, "w") as archive:
        for number, colour in enumerate(colours):
            buffer = io.BytesIO()
            plain(COLOURS[colour]).save(buffer, "PNG")
            content = buffer.getvalue()[:60] if number in broken else buffer.getvalue()
            text = f"a {colour} picture\n{colour}".encode()
            for name, data in ((f"{number}.png", content), (f"{number}.txt", text)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def test_vectors_belong_to_their_pairs_and_bad_pictures_are_left_out(tmp_path: Path) -> None:
    colours = ["red", "green", "blue", "yellow", "white"]
    pairs = open_pairs(write_colours(tmp_path / "x.tar", colours, broken=(1, 3)))
    encoder = FakeEncoder()
    seen: list[Progress] = []
    encoded = encode_pairs(encoder, pairs, workers=1, batch=2, progress=seen.append)
    assert encoded.pictures.kept.tolist() == [0, 2, 4]
    assert encoded.pictures.hashes[1] == xxhash.xxh3_128_hexdigest(pairs[2].read())
    assert [(skip.path.rpartition("/")[2], skip.status) for skip in encoded.pictures.skipped] == [
        ("1.png", "truncated"),
        ("3.png", "truncated"),
    ]
    assert encoded.owner.tolist() == [0, 0, 1, 1, 2, 2]
    cosines = encoded.texts @ encoded.pictures.vectors.T
    assert cosines.argmax(axis=1).tolist() == encoded.owner.tolist()
    assert (seen[-1].done, seen[-1].total, seen[-1].encoded) == (5, 5, 3)
    part = encoded.only(np.array([1, 2, 4]))
    assert part.pictures.kept.tolist() == [2, 4]
    assert part.owner.tolist() == [0, 0, 1, 1]
    assert np.array_equal(part.texts, encoded.texts[2:])
    assert part.pictures.hashes == encoded.pictures.hashes[1:]


def test_pairs_without_a_readable_picture_are_an_error(tmp_path: Path) -> None:
    pairs = open_pairs(write_colours(tmp_path / "x.tar", ["red"], broken=(0,)))
    with pytest.raises(InvalidPairs, match="none of its pictures can be read"):
        encode_pairs(FakeEncoder(), pairs, workers=1)


def test_equal_captions_are_encoded_once() -> None:
    encoder = FakeEncoder()
    vectors = encode_captions(encoder, ["red", "blue", "red"])
    assert encoder.texts_encoded == 2
    assert np.array_equal(vectors, encoder.encode_texts(["red", "blue", "red"]))
    assert encode_captions(encoder, []).shape == (0, encoder.dim)
