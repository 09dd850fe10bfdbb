"""What people type, and what each query does: a table of 100.

Each line of `tests/fixtures/typed_queries.txt`: the query | its terms, with weights other than 1 before a colon |
what it filters by, as the query has it | parts of what is said beside the hits, or of the error after "error:".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import clipsearch
from clipsearch.encoder.names import load_encoder
from clipsearch.errors import ClipsearchError
from clipsearch.query import parse_query
from clipsearch.search.collection import Collection
from clipsearch.store.tags import write_tags
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
    depends_on_pictures = "nothing is certain for all of it"  # see test_query_heads
    told = [line for line in collection.notices(query) if not line.startswith(depends_on_pictures)]
    wanted = [part.strip() for part in said.split(" & ")] if said else []
    assert len(told) == len(wanted), told
    for part, line in zip(wanted, told, strict=True):
        assert part in line
        _, _, offered = line.partition(", write: ")
        if offered:
            collection.search(offered, all=True)  # what is offered can be asked


@pytest.mark.parametrize("text", ["\ufeffdog", "dog\u200f", "\u202edog", "d\u200bog", "do\u00adg", "  «dog» "])
def test_characters_that_show_nothing_are_not_asked_for(text: str) -> None:
    assert [term.value for term in parse_query(text).terms] == ["dog"]


@pytest.mark.parametrize("text", ["👨\u200d👩", "می\u200cخواهم", "🏴\U000e0067\U000e0062\U000e007f", ":)", "?!"])
def test_characters_that_join_others_stay(text: str) -> None:
    assert [term.value for term in parse_query(text).terms] == [text]
