"""The query language: what means what, what stays a sentence, and mistakes with their positions."""

from __future__ import annotations

import contextlib
import random
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import EmptyQuery, InvalidQuery, MalformedQuery
from clipsearch.query import LENGTH_LIMIT, Query, Term, parse_query, with_rows_raised
from clipsearch.query.fields import FIELDS, FILTERS, filter_rows
from clipsearch.query.nodes import AllOf, AnyOf, Filter, Glob, Near, Not, Oriented, Range, Seen, Tagged
from tests.support.breadth import tries

ROOT = Path(__file__).parents[2]
FUZZ = tries("CLIPSEARCH_EXAMPLES", 1000, 5000)
A, B = Glob("folder", ("a",)), Tagged("b")
SINCE_2020 = Range("date", 1_577_836_800_000_000, None)


@pytest.mark.parametrize(
    "sentence",
    [
        "a dog on a beach",
        "  two  spaces\tand a tab ",
        "black-and-white photo of a t-shirt",
        "the dog's ball",
        "sunset: red sky",
        "name: unknown",
        "2 dogs",
        "16:9 photo",
        "10:30 at night",
        "-5 degrees",
        "C++ and A+",
        "cat or dog",
        "cats and dogs, not birds",
        "dog (small) :)",
        "(a (b",
        'a 12" vinyl',
        "http://example.org/x.jpg",
        "either/or",
        "fish & chips -- 50% off! #1 <b>",
        "狗 在 海滩",
        "très café — été",
        "👩‍👩‍👧 :-)",
        "->",
        "...",
    ],
)
def test_a_sentence_stays_a_sentence(sentence: str) -> None:
    query = parse_query(sentence)
    assert query == Query(sentence, (Term("text", sentence.strip()),))
    assert query.terms[0].position == len(sentence) - len(sentence.lstrip())


@pytest.mark.parametrize(
    ("source", "terms"),
    [
        ("horse + stripes", [("text", "horse", 1), ("text", "stripes", 1)]),
        ("cat - dog", [("text", "cat", 1), ("text", "dog", -1)]),
        ("dog beach -people", [("text", "dog beach", 1), ("text", "people", -1)]),
        ("dog -people beach", [("text", "dog beach", 1), ("text", "people", -1)]),
        ("dog −people", [("text", "dog", 1), ("text", "people", -1)]),
        ('dog -"fast food" +night', [("text", "dog", 1), ("text", "fast food", -1), ("text", "night", 1)]),
        ("- people", [("text", "people", -1)]),
        ("2:golden retriever - 0.5:fruit", [("text", "golden retriever", 2), ("text", "fruit", -0.5)]),
        ('"2:golden retriever" + dog', [("text", "golden retriever", 2), ("text", "dog", 1)]),
        ('2:"a + b"', [("text", "a + b", 2)]),
        ("dog -2:people", [("text", "dog", 1), ("text", "people", -2)]),
        ("“fast food” + x", [("text", "fast food", 1), ("text", "x", 1)]),
        ("./pool.jpg", [("picture", "./pool.jpg", 1)]),
        ("dog ./pool.jpg", [("text", "dog", 1), ("picture", "./pool.jpg", 1)]),
        ("a - ../x/pool.jpg", [("text", "a", 1), ("picture", "../x/pool.jpg", -1)]),
        ("/home/me/pool.jpg -dog", [("picture", "/home/me/pool.jpg", 1), ("text", "dog", -1)]),
        ('"./my pool.jpg" + a', [("picture", "./my pool.jpg", 1), ("text", "a", 1)]),
        ("cat.jpg", [("picture", "cat.jpg", 1)]),
        ("my cat.jpg - dog", [("picture", "my cat.jpg", 1), ("text", "dog", -1)]),
        ("2:cat.jpg + ~/a.png", [("picture", "cat.jpg", 2), ("picture", "~/a.png", 1)]),
        ("other.jpg", [("text", "other.jpg", 1)]),
        ("like:12", [("like", "12", 1)]),
        ("beach - 2:like:my-dog", [("text", "beach", 1), ("like", "my-dog", -2)]),
    ],
)
def test_sums_of_text_and_pictures(source: str, terms: list[tuple[str, str, float]]) -> None:
    query = parse_query(source, is_file=lambda path: path in ("cat.jpg", "my cat.jpg"))
    assert [(term.kind, term.value, term.weight) for term in query.terms] == terms
    assert query.filter is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("folder:a", A),
        ("folder:a tag:b", AllOf((A, B))),
        ("folder:a and tag:b", AllOf((A, B))),
        ("folder:a OR tag:b", AnyOf((A, B))),
        ("not folder:a", Not(A)),
        ("not not folder:a", A),
        ("-folder:a", Not(A)),
        ("- folder:a", Not(A)),
        ("+folder:a", A),
        ("-(folder:a tag:b)", Not(AllOf((A, B)))),
        ("folder:a or tag:b after:2020", AllOf((AnyOf((A, B)), SINCE_2020))),
        ("(folder:a) or (tag:b and after:2020)", AnyOf((A, AllOf((B, SINCE_2020))))),
        ("not (folder:a or tag:b)", Not(AnyOf((A, B)))),
        ("tag:B", Tagged("B")),
        ('name:"my dog (1).jpg"', Glob("name", ("my dog (1).jpg",))),
        ("name:IMG(1).jpg", Glob("name", ("IMG(1).jpg",))),
        ("ext:jpg,.PNG", Glob("ext", ("jpg", "PNG"))),
        ("FOLDER:/trips/**", Glob("folder", ("/trips/**",))),
        ("after:2020", SINCE_2020),
        ("before:2020-01-01T00:00", Range("date", None, SINCE_2020.low)),
        ("before:1969/12/31", Range("date", None, -86_400_000_000)),
        ("width:1920", Range("width", 1920, 1921)),
        ("width:>2000", Range("width", 2001, None)),
        ("height:<=800px", Range("height", None, 801)),
        ("height:100..200", Range("height", 100, 201)),
        ("height:..200", Range("height", None, 201)),
        ("size:>5MB", Range("size", 5_000_001, None)),
        ("size:>=1.5KiB", Range("size", 1536, None)),
        ("size:<0.5", Range("size", None, 1)),
        ("size:1MB..2MB", Range("size", 1_000_000, 2_000_001)),
        ("orientation:Portrait", Oriented("portrait")),
        ("is:Monochrome", Seen("is", ("monochrome",))),
        ("is:screenshot,bw", Seen("is", ("screenshot", "monochrome"))),
        ("is:panorama", Seen("is", ("panorama",))),
        ("is:portrait", Oriented("portrait")),
        ("color:Teal,grey", Seen("color", ("teal", "gray"))),
        ("not color:red", Not(Seen("color", ("red",)))),
        ("near:48.85,2.35,10km", Near(48.85, 2.35, 10_000)),
        ('near:"-33.9, 151.2, 500 m"', Near(-33.9, 151.2, 500)),
        ("place:48.85,2.35,10km", Near(48.85, 2.35, 10_000)),
        ("keyword:italy/rome", Glob("keyword", ("italy/rome",))),
        ('person:"Anna B"', Glob("person", ("Anna B",))),
        ("caption:harbour", Glob("caption", ("harbour",))),
        ("rating:>3", Range("rating", 4, None)),
        ("rating:-1", Range("rating", -1, 0)),
        ("rating:>-1", Range("rating", 0, None)),
        ("rating:<=-0.5", Range("rating", None, 0)),
        ("rating:-1..2", Range("rating", -1, 3)),
        ("rating:>= 4 stars", Range("rating", 4, None)),
    ],
)
def test_filters(source: str, expected: Filter) -> None:
    query = parse_query(source)
    assert (query.filter, query.terms) == (expected, ())


def test_every_filter_has_a_name_and_a_meaning() -> None:
    for field in FILTERS.values():
        for example in (*field.examples, *(part for part in field.say if ":" in part)):
            query = parse_query(example.strip(","))
            assert query.terms == () and query.filter is not None, example
    assert set(FIELDS) == {*FILTERS, "like"}


def test_every_filter_is_in_its_reference() -> None:
    """docs/query.md has the table of `fields`, row by row."""
    text = (Path(__file__).parents[2] / "docs" / "query.md").read_text(encoding="utf-8")
    table = text.split("## Filters")[1].split("\n\n")[1]
    rows = [f"| {', '.join(f'`{example}`' for example in examples)} | {keeps} |" for examples, keeps in filter_rows()]
    assert table.splitlines()[2:] == rows


def test_filters_stand_anywhere_between_words_and_say_where() -> None:
    query = parse_query("a dog folder:a on a beach -tag:b - people")
    assert [(term.value, term.weight) for term in query.terms] == [("a dog on a beach", 1), ("people", -1)]
    assert query.filter == AllOf((A, Not(B)))
    assert [query.source[leaf.span.start : leaf.span.end] for leaf in query.leaves()] == ["folder:a", "tag:b"]


@pytest.mark.parametrize(
    ("source", "position", "said"),
    [
        ("dog near:48.85", 9, "near:48.85,2.35,10km"),
        ("near:91,0,1km", 5, "between -90 and 90"),
        ("near:1,2,3", 5, "not a distance"),
        ("after:2023-13", 6, "does not exist"),
        ("after:0000", 6, "does not exist"),
        ("before:yesterday", 7, "a year, a month or a day"),
        ("width:wide", 6, "needs a number"),
        ("width:>2000kg", 6, "unknown unit kg"),
        ("width:..", 6, "not a range"),
        ("size:5MB", 5, "> or <"),
        ("orientation:wide", 12, "landscape, portrait or square"),
        ('tag:""', 5, "needs a value"),
        ("dog +", 4, "nothing follows this +"),
        ("cat - - dog", 4, "nothing follows this -"),
        ("0:dog", 0, "a weight must be more than 0"),
        ('a "b', 2, "is not closed"),
        ('""', 0, "these quotes are empty"),
        ("(folder:a", 0, "never closed"),
        ("x (folder:a dog)", 12, "only contain filters"),
        ("folder:a)", 8, "no opening one"),
        ("dog or folder:a", 4, 'in double quotes: "or"'),
        ("folder:a or dog", 9, 'in double quotes: "or"'),
        ("(folder:a or dog)", 10, "only contain filters"),
        ("(" * 41 + "folder:a" + ")" * 41, 40, "nested more than 40 levels deep"),
    ],
)
def test_mistakes_have_a_position_and_advice(source: str, position: int, said: str) -> None:
    with pytest.raises(MalformedQuery) as error:
        parse_query(source)
    assert error.value.position == position
    assert error.value.query == source
    assert said in str(error.value)
    shown, caret = str(error.value).splitlines()[1:3]
    if position <= 60:
        assert shown.startswith(f"  {source[:10]}")
        assert caret == " " * (position + 2) + "^"


def test_the_caret_stands_right_below_wide_and_control_characters_and_in_long_queries() -> None:
    with pytest.raises(MalformedQuery) as error:
        parse_query("狗\x1b\n size:x")
    assert str(error.value).splitlines()[1:3] == ["  狗   size:x", "            ^"]
    with pytest.raises(MalformedQuery) as error:
        parse_query("word " * 100 + "size:x" + " word" * 100)
    shown, caret = str(error.value).splitlines()[1:3]
    assert len(shown) < 140
    assert shown[caret.index("^") - 5 :].startswith("size:x")


@pytest.mark.parametrize("source", ["", "  ", "\n"])
def test_a_query_without_a_word_is_empty(source: str) -> None:
    with pytest.raises(EmptyQuery):
        parse_query(source)


def test_a_query_has_a_length() -> None:
    with pytest.raises(InvalidQuery, match="limit is 10,000"):
        parse_query("x" * (LENGTH_LIMIT + 1))


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1).map(" ".join))
def test_words_and_numbers_are_always_a_sentence(sentence: str) -> None:
    plain = re.sub(r"[\uff01-\uff5e]", lambda match: unicodedata.normalize("NFKC", match[0]), sentence.strip())
    assert parse_query(sentence).terms == (Term("text", plain),)


PIECES = [
    *(f"{name}:" for name in (*FIELDS, "..", "2", "0.5")),
    *"()\"“”+-−:;,.*?/\\'~<>=|[]{}$^#@!%&0123456789 \t\n\x00\x1b\u202e",
    *("or", "not", "and", "OR", " or ", " not ", " - ", " + ", "dog", "people", "1e9", ">", "5MB", "2023-05"),
    *("48.85,2.35,10km", "landscape", "trips/**", "./a.jpg", "/b.png", "café", "cafe\u0301", "狗", "\udcff", "\ud800"),
]


def test_any_string_gives_a_query_or_a_position() -> None:
    rng = random.Random(5)
    slowest = 0.0
    for town in ("tokyo", "qwertzuiop"):  # towns, and all of their names, are made ready once
        with contextlib.suppress(MalformedQuery):
            parse_query(f"near:{town}")
    for _ in range(FUZZ):
        parts = [rng.choice(PIECES) for _ in range(rng.randint(1, 25))]
        source = "".join(parts) * ((rng.random() < 0.02 and 50) or 1)
        began = time.process_time()
        try:
            query = parse_query(source, is_file=lambda path: path.endswith(".jpg"))
        except MalformedQuery as error:
            assert 0 <= error.position <= len(source)
        except EmptyQuery:
            assert not source.strip()
        else:
            assert query.terms or query.filter
            assert all(term.value and term.weight for term in query.terms)
            assert all(0 <= term.position < len(source) for term in query.terms)
        slowest = max(slowest, time.process_time() - began)
    assert slowest < 1


@pytest.mark.parametrize(
    "piece",
    ["- ", "(", "(not ", "-", "not ", "+a ", '"', "2:", "a -b ", "(folder:a ", "folder:a or ", "not (", "“", "./"],
)
def test_no_query_takes_long(piece: str) -> None:
    source = (piece * LENGTH_LIMIT)[: LENGTH_LIMIT - 8] + "folder:a"
    began = time.process_time()
    with contextlib.suppress(InvalidQuery):
        parse_query(source)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("query", ["dog after:2015", "name:003", "-name:003 dog", 'folder:"my trips"', "dog like:5"])
def test_the_colon_of_chinese_and_japanese_input_methods_is_one(query: str) -> None:
    meant, written = parse_query(query), parse_query(query.replace(":", "\uff1a"))
    assert written.filter == meant.filter
    assert [(term.kind, term.value) for term in written.terms] == [(term.kind, term.value) for term in meant.terms]
    if '"' not in query:
        assert parse_query(query.replace(" ", "\u3000")).filter == meant.filter


@pytest.mark.parametrize(
    ("source", "raised"),
    [
        ("like:5", "like:105"),
        ("dog +like:5 - LIKE:7 name:like", "dog +like:105 - LIKE:107 name:like"),
        ('2:like:5#xywh=1,2,30,40 like:"6"', '2:like:105#xywh=1,2,30,40 like:"106"'),
        ('like:beach like:5a "like:5" i like:/a/5', 'like:beach like:5a "like:5" i like:/a/5'),
        ('like:5 "open', 'like:5 "open'),
        ("like:100", "like:100"),  # no row id of one index, then
    ],
)
def test_row_ids_of_a_query_are_raised(source: str, raised: str) -> None:
    assert with_rows_raised(source, 100) == raised
    assert with_rows_raised(source, 0) == source


def examples() -> list[tuple[str, str, bool]]:
    """Where a query is an example in help or documents, the query, and whether it is of filters only."""
    found = []
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "clipsearch" / "cli").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for which, one, other in re.findall(r"""(clipsearch query|--where) (?:"([^"\n]+)"|'([^'\n]+)')""", text):
            found.append((path.name, one or other, which == "--where"))
    return found


@pytest.mark.parametrize(("where", "query", "filters_only"), examples())
def test_examples_mean_what_they_say(where: str, query: str, filters_only: bool) -> None:
    parsed = parse_query(query, is_file=lambda name: name.endswith(".jpg"))
    assert not parsed.offers
    assert not filters_only or (parsed.filter is not None and not parsed.terms)


def test_there_are_examples() -> None:
    assert len(examples()) > 20 and sum(only for _, _, only in examples()) >= 2
