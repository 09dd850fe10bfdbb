"""A text tower made later against the same image tower searches an existing index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import clipsearch
from clipsearch.encoder.names import builtin_directory, load_encoder
from clipsearch.errors import EncoderMismatch, InvalidModel
from tests.support.pictures import plain


@pytest.mark.slow
def test_a_text_tower_alone_can_query(photos: Path, tmp_path: Path) -> None:
    for name, colour in {"red": (220, 30, 30), "blue": (30, 60, 220)}.items():
        plain(colour).save(photos / f"{name}.png")
    clipsearch.index(photos, model="builtin")
    later = tmp_path / "later"
    later.mkdir()
    shutil.copytree(builtin_directory() / "textual", later / "textual")
    config = json.loads((builtin_directory() / "config.json").read_text())
    config["clipsearch"]["image_fingerprint"] = load_encoder("builtin").fingerprint
    (later / "config.json").write_text(json.dumps(config))
    with clipsearch.open(photos, model=str(later)) as collection, clipsearch.open(photos) as original:
        assert [hit.path for hit in collection.search("blue", all=True)] == [
            hit.path for hit in original.search("blue", all=True)
        ]
        assert collection.search(photos / "red.png")[0].record.path == "red.png"  # by the vector that the index has
        plain((220, 30, 30)).save(tmp_path / "elsewhere.png")
        with pytest.raises(InvalidModel):
            collection.search(tmp_path / "elsewhere.png")
    config["clipsearch"]["image_fingerprint"] = "0" * 32
    (later / "config.json").write_text(json.dumps(config))
    with clipsearch.open(photos, model=str(later)) as collection, pytest.raises(EncoderMismatch):
        collection.search("blue")
