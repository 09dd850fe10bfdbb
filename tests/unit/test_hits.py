"""A hit has the same fields in every answer, and docs/api.md lists them."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from clipsearch.cli.output import hits_csv
from clipsearch.records import HIT_FIELDS, KEPT, Hit, Hits, ImageRecord, Line, PictureMetadata
from clipsearch.server.mcp import Found
from clipsearch.server.messages import FoundPicture, Picture
from clipsearch.ui.exports import CSV_COLUMNS

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
OF_PICTURE = [name for name, field in HIT_FIELDS.items() if field.of_picture]


def hit() -> Hit:
    metadata = PictureMetadata("JPEG", "2023-05-01T10:00:00", "Maker X100", 48.1, 2.2, "exif:DateTimeOriginal")
    record = ImageRecord(7, "trips/a.jpg", 5, 6, 1, "0" * 32, 40, 30, metadata, partial="the last rows")
    return Hit(1, 0.5, "/photos/trips/a.jpg", record, (), 0.9, "strong", (Line("Total 12", (1, 2, 30, 8), 0.97),))


def test_every_answer_tells_the_same_fields() -> None:
    told = hit().to_dict()
    assert list(told) == [*HIT_FIELDS, "others", "words"]
    assert list(hit().record.to_dict("/x")) == OF_PICTURE
    assert set(FoundPicture.model_fields) == {
        *(*HIT_FIELDS, "others", "words", "clip", "thumbnail", "moment", "kept", "where"),
        *("index", "index_id", "index_row_id"),  # of a search of several indexes
    }
    assert set(Picture.model_fields) == {*OF_PICTURE, "thumbnail", "moment", "kept", "where"}
    brief = {name for name, field in HIT_FIELDS.items() if field.is_brief}
    assert set(Found.model_fields) == {*brief, "others", "words", "date", "index", "where"}
    assert next(csv.reader(io.StringIO(hits_csv([]).decode()))) == list(HIT_FIELDS)
    assert list(CSV_COLUMNS) == OF_PICTURE
    found = {**hit().to_dict(whole=True), "thumbnail": "/x"}
    FoundPicture.model_validate(found, strict=True)
    live = {**found, "kept": {**found["kept"], "live": "5B1A"}}
    FoundPicture.model_validate({**live, "clip": live, "moment": "/y"}, strict=True)


def test_no_hits_are_not_certain() -> None:
    assert Hits([hit()]).are_certain
    assert not Hits([hit()], are_certain=False).are_certain
    assert not Hits().are_certain
    assert not Hits([hit()])[1:].are_certain and Hits([hit()])[:1].are_certain
    hits = Hits([hit()])
    hits.are_certain = False
    assert not copy.deepcopy(hits).are_certain and not hits[:1].are_certain
    hits.are_certain = True
    assert copy.deepcopy(hits).are_certain
    hits.clear()
    assert not hits.are_certain


RECORDS = st.builds(
    ImageRecord,
    *(st.integers(0, 2**62), st.text(min_size=1), st.integers(0, 2**50), st.integers(-(2**62), 2**62)),
    st.integers(0, 2**64 - 1),
    st.one_of(st.none(), st.text("0123456789abcdef", min_size=32, max_size=32)),
    *(st.one_of(st.none(), st.integers(1, 10**6)), st.one_of(st.none(), st.integers(1, 10**6))),
    st.builds(PictureMetadata, st.one_of(st.none(), st.text()), live=st.one_of(st.none(), st.text())),
    member=st.text(),
    view=st.text(),
    partial=st.one_of(st.none(), st.text()),
    **{name: st.integers(-(2**63), 2**63 - 1) for name in KEPT if name != "inode"},
)


@given(record=RECORDS, others=st.lists(RECORDS, max_size=2), clip=st.one_of(st.none(), RECORDS))
def test_what_a_program_of_ours_is_told_is_the_whole_record(
    record: ImageRecord, others: list[ImageRecord], clip: ImageRecord | None
) -> None:
    folded = tuple(Hit(1, 0.25, other.path, other, (), 0.5, "maybe") for other in others)
    moving = None if clip is None else Hit(1, 0.25, clip.path, clip, (), 0.5, "maybe")
    whole = Hit(1, 0.5, record.path, record, folded, 0.9, "strong", (Line("é", (0, 1, 2, 3), 0.5),), None, moving)
    assert Hit.from_dict(json.loads(json.dumps(whole.to_dict(whole=True)))) == whole
    for exact in (False, True):
        told = json.loads(json.dumps(whole.to_dict(exact=exact)))
        again = Hit.from_dict(told)
        assert again.to_dict(exact=exact) == told
        assert again.record.traits == 0
        assert again.path == whole.path


def test_every_field_of_a_record_is_told_or_kept() -> None:
    """But what is the same of every picture that is answered."""
    fields = {field.name for field in dataclasses.fields(ImageRecord)} - {"metadata", "path"}
    assert fields - {*HIT_FIELDS, *KEPT} == {"status", "reason"}


def test_the_documentation_lists_them() -> None:
    (table,) = re.findall(r"\*\*A hit\*\* .*?\n\n\| \| \|\n\|---\|---\|\n(.*?)\n\n", API, re.DOTALL)
    documented = [name for row in table.split("\n") for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(documented) == sorted(
        [*HIT_FIELDS, "others", "words", "clip", "thumbnail", "moment", "kept", "where"]
    )
    (left_out,) = re.findall(r"Hits with the fields above \(without ([^)]*), but with", API)
    assert re.findall(r"`(\w+)`", left_out) == [name for name, field in HIT_FIELDS.items() if not field.is_brief]
