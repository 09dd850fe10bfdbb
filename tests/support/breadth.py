"""How broadly `make test` tries: CLIPSEARCH_BREADTH=all (`make test-all`, and CI) tries every variant of every kind.

`@pytest.mark.few` says which cases of a test are variants of one kind, of which few are tried otherwise: `few(3)` tries
three, spread over the list, `few(each="fault model")` as many as it takes to have each fault and each model once, and
`few(like="test_name")` none, where that test tries the kind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

ALL = os.environ.get("CLIPSEARCH_BREADTH") == "all"
_Value = tuple[str, int]
"""A parameter and which of its values."""


def tries(variable: str, few: int, full: int) -> int:
    """How often something is tried: as the environment variable says, or else `few` times, or `full` for breadth."""
    return int(os.environ.get(variable) or (full if ALL else few))


@dataclass(frozen=True, slots=True)
class Few:
    number: int
    each: tuple[str, ...]
    like: str


def few(number: int = 1, /, *, each: str = "", like: str = "") -> Few:
    """What `@pytest.mark.few(...)` says."""
    assert number > 0
    return Few(number, tuple(each.split()), like)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only breadth tries. Who names a test wants all of it."""
    if ALL or any("::" in name for name in config.args):
        return
    surplus = left_out(items)
    if surplus:
        config.hook.pytest_deselected(items=surplus)
        without = set(surplus)
        items[:] = [item for item in items if item not in without]


def left_out(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The cases that only breadth tries. The first of each test is never one of them, but where another is like it."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    found: list[pytest.Item] = []
    for name, cases in tests.items():
        marker = cases[0].get_closest_marker("few")
        assert marker is not None
        said = few(*marker.args, **marker.kwargs)
        values = [_values(case) for case in cases]
        unknown = set(said.each) - {name for case in values for name, _ in case}
        assert not unknown, f"{name} has no parameter {', '.join(unknown)}"
        tried = () if said.like else tried_of(values, said)
        found += [case for number, case in enumerate(cases) if number not in tried]
    return found


def tried_of(cases: Sequence[frozenset[_Value]], said: Few) -> set[int]:
    """The places of the cases that are tried, each with its values: all values of `each`, and other ones in turn."""
    kinds = [frozenset(value for value in case if value[0] in said.each) for case in cases]
    tried, had = {0}, set(cases[0])
    while not had >= frozenset().union(*kinds):
        best = max(range(len(cases)), key=lambda place: (len(kinds[place] - had), len(cases[place] - had), -place))
        tried.add(best)
        had |= cases[best]
    rest = [place for place in range(len(cases)) if place not in tried]
    more = min(said.number - len(tried), len(rest))
    for number in range(1, more + 1):
        tried.add(rest[number * len(rest) // more - 1])
    return tried


def _values(case: pytest.Item) -> frozenset[_Value]:
    spec = getattr(case, "callspec", None)
    return frozenset() if spec is None else frozenset((name, id(value)) for name, value in spec.params.items())
