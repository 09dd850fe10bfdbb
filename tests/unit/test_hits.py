"""A hit has the same fields in every answer, and docs/api.md lists them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from clipsearch.cli.output import hits_csv
from clipsearch.records import HIT_FIELDS, Hit, ImageRecord, PictureMetadata
from clipsearch.server.mcp import Found
from clipsearch.server.messages import FoundPicture, Picture
from clipsearch.ui.exports import CSV_COLUMNS

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
OF_PICTURE = [name for name, field in HIT_FIELDS.items() if field.of_picture]


def hit() -> Hit:
    metadata = PictureMetadata("JPEG", "2023-05-01T10:00:00", "Maker X100", 48.1, 2.2, "exif:DateTimeOriginal")
    record = ImageRecord(7, "trips/a.jpg", 5, 6, 1, "0" * 32, 40, 30, metadata, partial="the last rows")
    return Hit(1, 0.5, "/photos/trips/a.jpg", record, (), 0.9, "strong")


def test_every_answer_tells_the_same_fields() -> None:
    told = hit().to_dict()
    assert list(told) == [*HIT_FIELDS, "others"]
    assert list(hit().record.to_dict("/x")) == OF_PICTURE
    assert set(FoundPicture.model_fields) == {*HIT_FIELDS, "others", "thumbnail"}
    assert set(Picture.model_fields) == {*OF_PICTURE, "thumbnail"}
    assert set(Found.model_fields) == {*(n for n, field in HIT_FIELDS.items() if field.is_brief), "others", "date"}
    assert next(csv.reader(io.StringIO(hits_csv([]).decode()))) == list(HIT_FIELDS)
    assert list(CSV_COLUMNS) == OF_PICTURE
    FoundPicture.model_validate({**told, "thumbnail": "/x"}, strict=True)
    assert Hit.from_dict(told).to_dict() == told


def test_the_documentation_lists_them() -> None:
    (table,) = re.findall(r"\*\*A hit\*\* .*?\n\n\| \| \|\n\|---\|---\|\n(.*?)\n\n", API, re.DOTALL)
    documented = [name for row in table.split("\n") for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(documented) == sorted([*HIT_FIELDS, "others", "thumbnail"])
    (left_out,) = re.findall(r"Hits with the fields above \(without ([^)]*), but with", API)
    assert re.findall(r"`(\w+)`", left_out) == [name for name, field in HIT_FIELDS.items() if not field.is_brief]
