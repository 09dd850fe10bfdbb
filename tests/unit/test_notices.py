"""What is said of a query beside its hits: words that no model reads, and words that are nearly filters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipsearch
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import InvalidQuery
from clipsearch.query import parse_query
from clipsearch.query.fields import FILTERS
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill


@pytest.mark.parametrize(
    ("query", "offered"),
    [
        ("date:2023", "after:2023 before:2024"),
        ("dog date:2023-12", "after:2023-12 before:2024-01"),
        ("year:2019 beach", "after:2019 before:2020"),
        ("taken:2019-05-06", "after:2019-05-06 before:2019-05-07"),
        ("date:2023-05..2023-06", "after:2023-05 before:2023-07"),
        ("date:2023..", "after:2023"),
        ("date:>=2023-05", "after:2023-05"),
        ("date:>2023", "after:2024"),
        ("date:<=2023-12-31", "before:2024-01-01"),
        ("month:5", "after:2023-05 before:2023-06"),
        ("month:2023-12", "after:2023-12 before:2024-01"),
        ("day:31", "after:2023-05-31 before:2023-06-01"),
        ("day:2020-02-29", "after:2020-02-29 before:2020-03-01"),
        ("camara:canon", "camera:canon"),
        ("camrea:canon", "camera:canon"),
        ("exif:nikon", "camera:nikon"),
        ("foldr:trips", "folder:trips"),
        ("album:trips cats", "folder:trips"),
        ('directory:"my trips"', 'folder:"my trips"'),
        ("nmae:beach", "name:beach"),
        ("filename:IMG_*", "name:IMG_*"),
        ("etx:png", "ext:png"),
        ("filetype:png", "ext:png"),
        ("tga:cat", "tag:cat"),
        ("label:cat", "tag:cat"),
        ("keywords:cat", "keyword:cat"),
        ("keywrd:cat", "keyword:cat"),
        ("title:harbour", "caption:harbour"),
        ("people:anna", "person:anna"),
        ("stars:5", "rating:5"),
        ("aftr:2020", "after:2020"),
        ("since:2020-05", "after:2020-05"),
        ("until:2020", "before:2020"),
        ("wdith:>2000", "width:>2000"),
        ("hight:>2000", "height:>2000"),
        ("sise:>5MB", "size:>5MB"),
        ("gps:48.8,2.3", "near:48.8,2.3,10km"),
        ("location:-48.8,2.3,5km", "near:-48.8,2.3,5km"),
        ("exr:jpg", "ext:jpg"),
        ("kind:png", "ext:png"),
        ("kind:screenshot", "is:screenshot"),
        ("orientaton:portrait", "orientation:portrait"),
        ("lkie:cat", "like:cat"),
        ("-camara:canon", "camera:canon"),
        ("cat folder:x Camara:canon", "camera:canon"),
    ],
)
def test_nearly_filters_are_offered(query: str, offered: str) -> None:
    (line,) = parse_query(query).offers
    assert f"Did you mean {offered}?" in line
    assert not parse_query(offered).offers  # what is offered can be said


@given(
    name=st.sampled_from(["date", "month", "day", "taken", "year", "since", "until", "aftr"]),
    value=st.from_regex(r"[<>]?=?\d{1,4}([-/.]\d{1,2}){0,2}(\.\.\d{1,4}([-/.]\d{1,2}){0,2})?", fullmatch=True),
)
def test_every_offer_of_dates_can_be_said(name: str, value: str) -> None:
    for line in parse_query(f"{name}:{value}").offers:
        offered = line.partition("Did you mean ")[2].partition("? ")[0]
        assert "Did you mean" not in line or parse_query(offered).offers == ()


@pytest.mark.parametrize(
    ("query", "offered"),
    [
        ("beach size>5MB", "size:>5MB"),
        ("-width<=800", "width:<=800"),
        ("width=800", "width:800"),
        ("camera=canon", "camera:canon"),
        ("before2023", "before:2023"),
        ("dog After2023-05", "after:2023-05"),
        ("date>=2023", "after:2023"),
        ("year=2023", "after:2023 before:2024"),
    ],
)
def test_filters_without_their_colon_are_offered(query: str, offered: str) -> None:
    (line,) = parse_query(query).offers
    assert line.endswith(f"Did you mean {offered}?")
    assert not parse_query(offered).offers


@pytest.mark.parametrize(
    ("query", "filters"),
    [("date:2023-13", "after: and before:"), ("since:2020-13", "after:"), ("colour:mauve", "color:"),
     ("resolution:1920x1080", "width:"), ("location:200,300", "near:"), ("filesize:5MB", "size:")],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_not_replaced_by_another_one(query: str, filters: str) -> None:
    (line,) = parse_query(query).offers
    assert "Did you mean" not in line
    assert f" {filters}. Write " in line


@pytest.mark.many
@pytest.mark.parametrize("name", [field.known_as.split()[0] for field in FILTERS.values()] + ["foldr", "camrea"])
@given(value=st.from_regex(r"[<>]?[a-z0-9]{1,6}([.,][a-z0-9]{1,4}){0,2}", fullmatch=True))
def test_what_is_meant_has_the_value_that_was_written(name: str, value: str) -> None:
    for line in parse_query(f"{name}:{value}").offers:
        meant = line.partition("Did you mean ")[2].partition("? ")[0]
        assert not meant or meant.partition(":")[2] in (value, f"{value},10km")


@pytest.mark.parametrize(
    "query",
    ["a dog", "camera:canon", "http://example.com/x", "note:remember the milk", "sunset: red sky", "16:9",
     "movie:matrix", '"date:2023"', "C:\\pictures", "2:dog + cat", "re:union", "ratio 4:3", "Psalm 23:4", "like:dog",
     "iso:100", "lens:50mm", "e=mc2", "to=5", "x>5", "size>big", "on2023", "tab2023", "is=quiet", "size<",
     "before2023nine"],
)  # fmt: skip
def test_words_with_a_colon_are_words(query: str) -> None:
    assert parse_query(query).offers == ()


@given(st.text(max_size=30), st.text(max_size=20))
def test_any_text_can_be_looked_at(name: str, value: str) -> None:
    for query in (f"{name}:{value}", f"date:{value}", f"camara:{value}"):
        try:
            found = parse_query(query)
        except InvalidQuery:
            continue
        assert all(line.isprintable() or not query.isprintable() for line in found.offers)


def test_every_filter_is_found_with_one_letter_missing() -> None:
    for name, field in FILTERS.items():
        if len(name) > 3:
            (line,) = parse_query(f"{name[:-2]}{name[-1]}:{field.examples[0].partition(':')[2]}").offers
            assert f"Did you mean {field.examples[0]}?" in line


LONG = "a very long description of " + "a dog and a cat and a horse beside the red house, " * 30


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize(
    "text",
    thinned(
        [LONG, "ein sehr langer Satz über " + "einen Hund und eine Katze und das Haus " * 40, "词" * 600, "x" * 3000], 4
    ),
)
def test_where_the_model_stops_reading_is_said(photos: Path, text: str) -> None:
    encoder = load_encoder("builtin")
    fill(photos, 1)
    clipsearch.index(photos, encoder=encoder)
    with clipsearch.open(photos, encoder=encoder) as collection:
        (line,) = collection.notices(text)
        assert "read up to: " in line
        (part,) = encoder.parts_read([text])
        assert part is not None
        whole, cut = encoder.encode_texts([text, part])
        assert whole @ cut > 0.98  # nothing behind it was read; a word may have lost its end
        if " " in text:
            assert part.split()[-2] in line
        assert collection.notices(f'"a dog" + "{text}"'.replace("  ", " ")) != []
        assert collection.notices("a dog on a beach") == []
        assert collection.notices("ext:jpg") == []
        assert len(collection.notices(f"{text} camara:canon")) == 2


def test_an_encoder_that_cannot_say_says_nothing(photos: Path) -> None:
    fill(photos, 1)
    clipsearch.index(photos, encoder=FakeEncoder())
    with clipsearch.open(photos, encoder=FakeEncoder()) as collection:
        assert collection.notices(LONG) == []
        assert len(collection.notices("date:2023")) == 1
