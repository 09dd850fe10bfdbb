"""What people type, and what each query does: a table of 100.

Each line of `tests/fixtures/typed_queries.txt`: the query | its terms, with weights other than 1 before a colon |
what it filters by, as the query has it | parts of what is said beside the hits, or of the error after "error:".
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clipsearch
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import ClipsearchError
from clipsearch.pictures.formats import FORMATS
from clipsearch.query import Query, parse_query
from clipsearch.query.hints import hints
from clipsearch.search.collection import Collection
from clipsearch.sentences import Sentence
from clipsearch.store.tags import write_tags
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.pictures import picture

TABLE = Path(__file__).parents[1] / "fixtures" / "typed_queries.txt"


def lines() -> list[list[str]]:
    found = []
    for line in TABLE.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            cells = [cell.strip() for cell in f"{line} ".split("|")]
            found.append([*cells, *[""] * (4 - len(cells))])
    return found


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    folder = tmp_path_factory.mktemp("typed") / "photos"
    for number, place in enumerate(("", "my trips", "work", "2023/summer")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / place / f"p{number}.jpg")
    encoder = load_encoder("builtin")
    clipsearch.index(folder, encoder=encoder)
    with clipsearch.open(folder, encoder=encoder) as photos:
        first = next(iter(photos)).content_hash
        assert first is not None
    write_tags(folder / ".clipsearch", {"holiday": {first: 1.0}})
    with clipsearch.open(folder, encoder=encoder) as photos:
        assert isinstance(photos, Collection)
        yield photos


def test_the_table_has_100_queries_and_none_twice() -> None:
    queries = [query for query, *_ in lines()]
    assert len(queries) >= 100
    assert len(set(queries)) == len(queries)


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize(("query", "terms", "filters", "said"), thinned(map(tuple, lines()), 10))
def test_a_typed_query(collection: Collection, query: str, terms: str, filters: str, said: str) -> None:
    if said.startswith("error:"):
        with pytest.raises(ClipsearchError) as raised:
            collection.search(query, all=True)
        assert said.removeprefix("error:").strip() in str(raised.value)
        return
    parsed = collection.parse(query)
    found = [term.value if term.weight == 1 else f"{term.weight:g}:{term.value}" for term in parsed.terms]
    assert ", ".join(found) == terms
    assert ", ".join(parsed.source[leaf.span.start : leaf.span.end] for leaf in parsed.leaves()) == filters
    collection.search(query, all=True)
    depends_on_pictures = "nothing is certain for the whole query"  # see test_query_heads
    told = [line for line in collection.notices(query) if not line.startswith(depends_on_pictures)]
    wanted = [part.strip() for part in said.split(" & ")] if said else []
    assert len(told) == len(wanted), told
    for part, line in zip(wanted, told, strict=True):
        assert part in line
        _, _, offered = line.partition(", write: ")
        if offered:
            collection.search(offered, all=True)  # what is offered can be asked


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize(
    ("query", "readable"),
    [
        ("собака dog", "dog"),
        ("dog, собака", "dog"),
        ("강아지: dog", "dog"),
        ("dog❤️", "dog"),
        ("☀️dog", "dog"),
        ("dog -🐶", "dog"),
        ("dog (🐶)", "dog"),
        ("a dog 🐶, on grass", "a dog, on grass"),
        ("dog❤️cat", "dog cat"),
        ("dog 👩‍👧‍👦 & 🇩🇪", "dog"),
        ("dog собака (brown)", "dog (brown)"),
    ],
)
def test_only_what_the_model_reads_is_searched_for(collection: Collection, query: str, readable: str) -> None:
    assert (collection.encode_query(query) == collection.encode_query(readable)).all()
    assert any("so only the rest was searched for" in line for line in collection.notices(query))


PIECES = (
    "dog", "a beach", "2:cat", "without people", "no cars", "not a dog", "in 2019", "july 2020", "2019-2021", "red",
    "from May to July 2021", "last year", "05/06/2019", "black and white photo of", "screenshot of a chat", "!cars",
    "+", "(no people)", "people-free", "-", "- cat", "-dog", '"in quotes 2019"', "folder:x", "size:>5MB",
    "ohne Menschen", ",", "(ext:jpg or ext:png)", "not tag:y", "sin gente", "and", "but", "or", "the", "1990s",
    "in the 90s", "march 2018", "of", "on 3.4.2018", "after:2019", "color:red", "minus birds", "free of snow",
    "https://a.b/c.jpg", "2019 - 2021", "like:4",
)  # fmt: skip


def offered(query: Query) -> list[str]:
    lines = [line for line in hints(query) if isinstance(line, Sentence)]
    return [line.parts[part] for line in lines for part in ("query", "other") if part in line.parts]


@settings(max_examples=tries("CLIPSEARCH_EXAMPLES", 100, 2000), deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map(" ".join))
def test_what_is_offered_can_be_asked_keeps_the_rest_and_comes_to_an_end(text: str) -> None:
    try:
        query = parse_query(text)
    except ClipsearchError:
        return
    for instead in offered(query):
        assert instead.split() != text.split()
        meant = parse_query(instead)
        assert [leaf for leaf in meant.leaves() if leaf in query.leaves()] == query.leaves()
        kept = {term for term in query.terms if term.kind != "text"}
        assert kept <= set(meant.terms)
        words = set(re.findall(r"\w+", text)) | {"after", "before", "color", "is", "not"}
        said = {word for term in meant.terms for word in re.findall(r"\w+", term.value)}
        assert said <= words
    for _ in range(8):
        found = offered(parse_query(text))
        if not found:
            return
        text = found[0]
    pytest.fail(f"offers have no end: {text}")


@pytest.mark.parametrize(
    ("query", "filters"),
    [
        ("dog last year", "dog after:2023 before:2024"),
        ("this year", "after:2024 before:2025"),
        ("dog from last month", "dog after:2024-02 before:2024-03"),
        ("yesterday", "after:2024-02-29 before:2024-03-01"),
        ("letztes Jahr am Strand", "am Strand after:2023 before:2024"),
        ("dog 2025", None),
        ("dog april 2024", None),
        ("dog 2024", "dog after:2024 before:2025"),
        ("last year's party", None),
        ("not last year", None),
    ],
)
def test_times_that_count_from_today(query: str, filters: str | None) -> None:
    lines = hints(parse_query(query), datetime.date(2024, 3, 1))
    assert [line.partition("write: ")[2] for line in lines] == ([] if filters is None else [filters])


def test_names_of_all_formats_are_known_for_what_they_are() -> None:
    for endings in (kind.extensions.split() for kind in FORMATS):
        for ending in endings:
            (line,) = hints(parse_query(f"IMG_1234.{ending.upper()}"))
            assert f"write: name:IMG_1234.{ending.upper()}" in line
            (near,) = parse_query(f"type:{ending}").offers
            assert f"Did you mean ext:{ending}" in near


@pytest.mark.parametrize(
    "piece", ["a-", "no a, ", "not ", "1 may ", "2019 ", "in the ", "(", "l'", "a,b,c and ", "-1999"]
)
def test_no_hint_takes_long(piece: str) -> None:
    text = (piece * 10_000)[:9_000]
    began = time.process_time()
    try:
        query = parse_query(f"{text} no dogs 2019")
    except ClipsearchError:
        return
    hints(query)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("word", ["x" * 3_000, "skate" * 200, "abcdefghij" * 5])
def test_no_word_is_looked_up_for_long(collection: Collection, word: str) -> None:
    began = time.process_time()
    collection.notices(word)
    assert time.process_time() - began < 2


def test_words_that_the_model_cannot_read_are_left_out(collection: Collection) -> None:
    alone = collection.encode_query("a dog on a beach")
    with_others = collection.encode_query("a dog собака on a beach ᚠᛇᚻ 🐕\u200d🦺")
    assert (alone == with_others).all()
    assert collection.search("a dog собака on a beach", all=True) == collection.search("a dog on a beach", all=True)


@pytest.mark.parametrize("text", ["\ufeffdog", "dog\u200f", "\u202edog", "d\u200bog", "do\u00adg", "  «dog» "])
def test_characters_that_show_nothing_are_not_asked_for(text: str) -> None:
    assert [term.value for term in parse_query(text).terms] == ["dog"]


@pytest.mark.parametrize("text", ["👨\u200d👩", "می\u200cخواهم", "🏴\U000e0067\U000e0062\U000e007f", ":)", "?!"])
def test_characters_that_join_others_stay(text: str) -> None:
    assert [term.value for term in parse_query(text).terms] == [text]
