"""Errors survive what programs do to them: copies, pickles, other processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import clipsearch.cli.fetch
import clipsearch.indexer.plan
import clipsearch.server.engine
import clipsearch.training.settings
from clipsearch import errors
from clipsearch.errors import ClipsearchError, IndexNotFound, MalformedQuery, NoSuchPicture, UnreadablePicture
from clipsearch.sentences import Sentence, sentence

ELSEWHERE = (clipsearch.cli.fetch, clipsearch.server.engine, clipsearch.training.settings, clipsearch.indexer.plan)


def all_kinds(of: type[ClipsearchError] = ClipsearchError) -> Iterator[type[ClipsearchError]]:
    yield of
    for kind in of.__subclasses__():
        yield from all_kinds(kind)


def same(back: ClipsearchError, error: ClipsearchError) -> bool:
    return (type(back), str(back), back.args, vars(back)) == (type(error), str(error), error.args, vars(error))


@pytest.mark.parametrize("kind", sorted(set(all_kinds()), key=str))
def test_an_error_of_any_kind_is_pickled_and_copied_as_it_is(kind: type[ClipsearchError]) -> None:
    error = kind.__new__(kind)
    error.args = (sentence("x.y", "what {n} said", n=3),)
    error.path = Path("here")  # type: ignore[attr-defined]
    error.add_note("while reading")
    backs = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for back in (*backs, copy.copy(error), copy.deepcopy(error)):
        assert same(back, error)
        (part,) = back.args
        assert isinstance(part, Sentence)
        assert (part.code, part.parts) == ("x.y", {"n": 3})


@pytest.mark.parametrize(
    "error",
    [
        NoSuchPicture(1_000_000),
        IndexNotFound([Path("/a"), "b"]),
        MalformedQuery("a (b", 2, "a bracket stays open", "Close it"),
        UnreadablePicture(Path("a.jpg"), "corrupt", "cut short"),
        errors.MissingExtra("video", "reading videos"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_says_the_same_when_it_comes_from_another_process(error: ClipsearchError) -> None:
    assert same(pickle.loads(pickle.dumps(error)), error)
