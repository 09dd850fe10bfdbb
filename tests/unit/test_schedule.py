"""Who does what on a cluster: `indexer.schedule`, without a cluster."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipsearch.indexer.schedule import DEPTH, MOST_CARRIED_BYTES, TRIES, Schedule, Unit
from clipsearch.pictures.pool import DecodeTask
from tests.support.breadth import tries

EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 20, 60)


def task(key: int, mode: str = "decode") -> DecodeTask:
    return DecodeTask(key, f"/photos/{key}.jpg", "hash" if mode == "hash" else "decode")


def keys(unit: Unit | None) -> list[int]:
    return [] if unit is None else [task.key for task in unit.tasks]


def filled(count: int) -> Schedule:
    schedule = Schedule()
    for key in range(count):
        schedule.add(task(key))
    return schedule


@settings(max_examples=EXAMPLES, deadline=None)
@example(seed=32, files=6, poisons=set(), most=1, workers=4, innocent_deaths=4)  # a third unit, beside a done one
@given(
    seed=st.integers(0, 2**32),
    files=st.integers(0, 40),
    poisons=st.sets(st.integers(0, 39), max_size=3),
    most=st.integers(1, 9),
    workers=st.integers(1, 4),
    innocent_deaths=st.integers(0, 12),
)
def test_each_file_is_answered_once_whatever_dies(
    seed: int, files: int, poisons: set[int], most: int, workers: int, innocent_deaths: int
) -> None:
    """Workers come, go, are slow and are killed; some files kill whoever reads them, and those alone are given up."""
    rng = random.Random(seed)
    schedule = Schedule()
    answers: Counter[int] = Counter()
    given_up: list[int] = []
    done: list[Unit] = []
    deaths = 0
    todo = iter(range(files))
    alive = [f"w{number}" for number in range(workers)]
    has: dict[str, list[Unit]] = {worker: [] for worker in alive}
    names = iter(range(workers, 10**6))
    now = 0.0

    def die(worker: str, *, to_blame: bool) -> None:
        lost = [task.key for task in schedule.lost(worker, to_blame=to_blame)]
        given_up.extend(lost)
        answers.update(lost)
        alive.remove(worker)
        del has[worker]
        new = f"w{next(names)}"
        alive.append(new)
        has[new] = []

    for _ in range(20_000):
        now += rng.random() * 10
        for key in [key for key in [next(todo, None)] if key is not None]:
            schedule.add(task(key))
        worker = rng.choice(alive)
        if rng.random() < 0.5 and (unit := schedule.next_for(worker, most, now)) is not None:
            known = [other for other in has[worker] if other not in done]  # one that another did first does not count
            assert len(unit.tasks) <= most and len(known) < DEPTH
            assert not (has[worker] and unit.tries)  # a suspect is alone
            has[worker].append(unit)
        elif has[worker]:
            unit = rng.choice(has[worker])
            if poisons.intersection(keys(unit)):
                deaths += 1
                die(worker, to_blame=True)
            elif innocent_deaths and rng.random() < 0.2:
                innocent_deaths -= 1
                die(worker, to_blame=False)
            else:
                has[worker].remove(unit)
                if schedule.answered(unit, worker, now):
                    answers.update(keys(unit))
                    done.append(unit)
        if len(answers) == files and not schedule.waiting and not any(has.values()):
            break
    assert answers == Counter(range(files))
    assert set(given_up) == {key for key in poisons if key < files}
    assert deaths <= TRIES * len(poisons) * 2  # a unit may be on two workers at once


def test_a_file_that_kills_its_worker_is_given_up_after_three_tries_and_its_neighbours_are_not() -> None:
    schedule = filled(3)
    assert keys(schedule.next_for("a", 10, 0.0)) == [0, 1, 2]
    assert schedule.lost("a", to_blame=True) == []
    done = []
    for name in ("b", "c", "d", "e", "f"):
        unit = schedule.next_for(name, 10, 1.0)
        if unit is None:
            break
        assert len(unit.tasks) == 1
        assert schedule.next_for(name, 10, 1.0) is None  # nothing beside a suspect
        if keys(unit) == [1]:
            lost = schedule.lost(name, to_blame=True)
            done += [("lost", found.key) for found in lost]
        else:
            assert schedule.answered(unit, name, 2.0)
            done.append(("read", keys(unit)[0]))
    assert sorted(done) == [("lost", 1), ("read", 0), ("read", 2)]


def test_suspects_wait_for_all_others() -> None:
    schedule = filled(4)
    schedule.next_for("a", 2, 0.0)
    schedule.lost("a", to_blame=True)
    assert keys(schedule.next_for("b", 2, 0.0)) == [2, 3]


def test_a_lost_machine_counts_as_no_try() -> None:
    schedule = filled(2)
    for number in range(10):
        assert keys(schedule.next_for(f"w{number}", 2, 0.0)) == [0, 1]
        assert schedule.lost(f"w{number}", to_blame=False) == []
    assert keys(schedule.next_for("last", 2, 0.0)) == [0, 1]


def test_a_slow_worker_does_not_hold_the_run() -> None:
    """A worker that has nothing to do does what another takes too long for; the first answer counts, once."""
    schedule = filled(4)
    slow, fast = schedule.next_for("slow", 2, 0.0), schedule.next_for("fast", 2, 0.0)
    assert slow is not None and fast is not None
    assert schedule.answered(fast, "fast", 1.0)
    assert schedule.next_for("fast", 2, 1.5) is None  # it may still come
    again = schedule.next_for("fast", 2, 60.0)
    assert again is slow
    assert schedule.next_for("third", 2, 200.0) is None  # two are enough
    assert schedule.answered(slow, "fast", 61.0)
    assert not schedule.answered(slow, "slow", 300.0)


def test_a_unit_that_two_workers_have_survives_one_of_them() -> None:
    schedule = filled(1)
    unit = schedule.next_for("slow", 1, 0.0)
    assert unit is not None and schedule.next_for("other", 1, 60.0) is unit
    assert schedule.lost("slow", to_blame=True) == []
    assert schedule.answered(unit, "other", 61.0)


def test_one_unit_is_encoded_until_the_arithmetic_is_known() -> None:
    closed = True
    schedule = Schedule(lambda: closed)
    for key, mode in enumerate(["decode", "decode", "decode", "hash", "decode"]):
        schedule.add(task(key, mode))
    first = schedule.next_for("a", 2, 0.0)
    assert first is not None and keys(first) == [0, 1]
    assert schedule.next_for("b", 2, 0.0) is None
    assert schedule.next_for("a", 2, 0.0) is None
    assert schedule.next_for("b", 2, 60.0) is first  # if that takes too long, another does it, too
    assert schedule.answered(first, "b", 61.0)
    closed = False
    assert keys(schedule.next_for("b", 5, 62.0)) == [2, 3, 4]


def test_units_that_carry_pictures_are_not_too_large() -> None:
    schedule = Schedule(carried_bytes=lambda task: MOST_CARRIED_BYTES // 3 + 1 if task.key else 2 * MOST_CARRIED_BYTES)
    for key in range(6):
        schedule.add(task(key))
    found: list[list[int]] = []
    while (unit := schedule.next_for(f"w{len(found)}", 10, 0.0)) is not None:
        found.append(keys(unit))
    assert found == [[0], [1, 2], [3, 4], [5]]


def test_a_lost_answer_is_asked_for_again() -> None:
    schedule = filled(1)
    unit = schedule.next_for("a", 1, 0.0)
    assert unit is not None
    schedule.failed(unit, "a")
    assert schedule.next_for("a", 1, 1.0) is unit


def test_names_of_plans_say_what_is_in_them() -> None:
    from clipsearch.indexer.units import FragmentPlan

    plan = FragmentPlan((task(1), task(2)), "f" * 32)
    same = FragmentPlan((dataclasses.replace(task(1), key=7), dataclasses.replace(task(2), key=8)), "f" * 32)
    others = [
        dataclasses.replace(plan, fingerprint="e" * 32),
        dataclasses.replace(plan, precision="bf16"),
        dataclasses.replace(plan, views=5),
        dataclasses.replace(plan, regions=4),
        dataclasses.replace(plan, tasks=plan.tasks[:1]),
        dataclasses.replace(plan, tasks=(task(1), task(2, "hash"))),
        dataclasses.replace(plan, tasks=(task(1), dataclasses.replace(task(2), member="a.jpg", offset=512))),
    ]
    assert plan.name == same.name
    assert len({plan.name, *(other.name for other in others)}) == 1 + len(others)
