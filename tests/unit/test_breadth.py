"""Variants that only breadth tries (tests/support/breadth.py): each kind is tried, and what is left out is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.support import breadth
from tests.support.breadth import few, tried_of

TESTS = Path(__file__).parents[1]


def cases(**sizes: int) -> list[frozenset[tuple[str, int]]]:
    return [frozenset(zip(sizes, places, strict=True)) for places in product(*(range(size) for size in sizes.values()))]


@pytest.mark.parametrize(
    "number, expected", [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))]
)
def test_a_number_of_cases_is_spread_over_the_list(number: int, expected: list[int]) -> None:
    assert sorted(tried_of(cases(seed=10), few(number))) == expected


def test_each_value_of_what_is_a_kind_is_tried_with_other_variants() -> None:
    made = cases(fault=4, model=3, seed=5)
    tried = [made[place] for place in tried_of(made, few(each="fault model"))]
    assert len(tried) == 4
    assert frozenset().union(*tried) >= {*(("fault", n) for n in range(4)), *(("model", n) for n in range(3))}
    assert len({value for case in tried for value in case if value[0] == "seed"}) == 4
    assert len(tried_of(made, few(9, each="fault"))) == 9
    assert tried_of(made, few(each="fault model seed")) >= {0}


def test_counts_are_few_unless_breadth_or_a_variable_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPSEARCH_KILLS", raising=False)
    monkeypatch.setattr(breadth, "ALL", False)
    assert breadth.tries("CLIPSEARCH_KILLS", 2, 8) == 2
    monkeypatch.setattr(breadth, "ALL", True)
    assert breadth.tries("CLIPSEARCH_KILLS", 2, 8) == 8
    monkeypatch.setenv("CLIPSEARCH_KILLS", "200")
    assert breadth.tries("CLIPSEARCH_KILLS", 2, 8) == 200


def test_a_test_that_stands_for_others_is_there_and_always_runs() -> None:
    texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py") if path.name != Path(__file__).name]
    stands = {name for text in texts for name in re.findall(r'\bfew\([^)\n]*like="(\w+)"', text)}
    for name in stands:
        found = [text for text in texts if re.search(rf"^(?:async )?def {name}\(", text, re.M)]
        assert found, f"{name} is to stand for others, and is not there"
        marks = re.findall(rf"((?:^@.*\n(?:^[ )\]].*\n)*)*)^def {name}\(", found[0], re.M)
        assert "like=" not in marks[0], f"{name} is left out itself"


FILE = """
import pytest
@pytest.mark.few(2)
@pytest.mark.parametrize("n", range(5))
def test_numbers(n): pass
@pytest.mark.few(each="fault")
@pytest.mark.parametrize("fault", ["cut", "gone"])
@pytest.mark.parametrize("n", range(3))
def test_faults(fault, n): pass
@pytest.mark.few(like="test_numbers")
def test_alike(): pass
def test_other(): pass
"""
FEW = {"test_numbers[0]", "test_numbers[4]", "test_faults[0-cut]", "test_faults[1-gone]", "test_other"}


def tried(folder: Path, *arguments: str, breadth: str = "") -> set[str]:
    command = [sys.executable, "-m", "pytest", "-vp", "no:cacheprovider", "-p", "tests.support.breadth", *arguments]
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent), "CLIPSEARCH_BREADTH": breadth}
    said = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True).stdout
    assert " failed" not in said and " error" not in said, said
    return set(re.findall(r"::(\S+) PASSED", said))


@pytest.mark.slow
def test_variants_are_tried_where_they_are_asked_for_or_named(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    few: x\n")
    assert tried(tmp_path) == FEW
    assert len(tried(tmp_path, breadth="all")) == 5 + 6 + 2
    assert len(tried(tmp_path, "test_some.py::test_alike", "test_some.py::test_faults")) == 1 + 6
