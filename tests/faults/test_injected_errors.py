"""Each call of the system fails once, with each error: the index answers as before or as after, and never less.

Set CLIPSEARCH_INJECTIONS to a number of cases, or to "all": the first 200 calls of each kind, each with every error.
CLIPSEARCH_INJECTIONS_SEED chooses others; a fault is repeated with CLIPSEARCH_INJECTION="index: open number 7 on ...".
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipsearch.indexer.scan import PASSING
from tests.support import breadth
from tests.support.commands import Commands, State, clipsearch
from tests.support.faults import COMMAND_ONLY, FAMILIES, Family, Faults, Mode, environment
from tests.support.old_index import unpack
from tests.support.pictures import fill, picture
from tests.support.trees import differences, not_ours, tree

pytestmark = pytest.mark.slow

CASES = os.environ.get("CLIPSEARCH_INJECTIONS") or ("36" if breadth.ALL else "20")
ONE = os.environ.get("CLIPSEARCH_INJECTION")
SEED = int(os.environ.get("CLIPSEARCH_INJECTIONS_SEED", "10"))
CALLS = 200
ERRORS = (errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.ENOTCONN, errno.ESTALE)
ERRORS_OF_LOCKS = (errno.ENOLCK, errno.EBADF, errno.EIO)  # EACCES says that another holds it
NEVER = 10**9


@dataclass(frozen=True, slots=True)
class Job:
    """A command. `change` is what happens before it; `answers` whether the index answers before it, too."""

    arguments: Callable[[Path], list[str | Path]]
    change: Callable[[Path], None]
    answers: bool = True
    old: bool = False  # on an index of format 1


def change_pictures(folder: Path) -> None:
    """Three new pictures, one gone, one renamed, one with another content."""
    fill(folder, 3, first=40)
    (folder / "set000" / "p00002.jpg").unlink()
    (folder / "set000" / "p00003.jpg").rename(folder / "set001" / "moved.jpg")
    picture(77).save(folder / "set000" / "p00004.jpg")


def lose_current(folder: Path) -> None:
    (folder / ".clipsearch" / "CURRENT").unlink()


def change_nothing(folder: Path) -> None:
    pass


JOBS = {
    "index": Job(lambda folder: ["index", folder, "-q"], change_pictures),
    "compact": Job(lambda folder: ["compact", "--index", folder], change_nothing),
    "repair": Job(lambda folder: ["verify", "--repair", "--index", folder], change_nothing),
    "repair without CURRENT": Job(
        lambda folder: ["verify", "--repair", "--index", folder], lose_current, answers=False
    ),
    "upgrade": Job(lambda folder: ["index", folder, "-q"], change_nothing, old=True),
    "tag": Job(
        lambda folder: ["concept", "add", "cat", folder / "set000" / "p00005.jpg", "--index", folder], change_nothing
    ),
}


@dataclass(frozen=True, slots=True)
class Template:
    """A folder to be copied for each case, and what its index answers before and after the job."""

    folder: Path
    before: State
    after: State


@dataclass(frozen=True, slots=True)
class Case:
    job: str
    family: Family
    place: str  # "index" or "pictures"
    nth: int
    mode: Mode
    error: int

    @property
    def hides_pictures(self) -> bool:
        """Whether nobody can look at pictures: they are missing then, which the run after it must undo.

        What a drive says once only, and not again, hides none.
        """
        return self.place == "pictures" and (self.mode != "once" or self.error not in PASSING)

    def __str__(self) -> str:
        what = "killed" if self.mode == "kill" else errno.errorcode[self.error]
        return f"{self.job}: {self.family} number {self.nth} on {self.place}, {what} {self.mode}"


def copy(template: Path, to: Path) -> Path:
    """A copy that looks unchanged to the index: same names, sizes, times."""
    shutil.copytree(template, to, symlinks=True)
    return to


@pytest.fixture(scope="module")
def templates(command_server: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    """Three fragments, deleted rows, a tag, a file that is no picture and one that is damaged, ready for each job."""
    home = tmp_path_factory.mktemp("templates")
    base = home / "base" / "photos"
    for first in (0, 12, 20):
        fill(base, 8, first=first)
        command_server.index(base)
    (base / "set000" / "p00001.jpg").unlink()
    (base / "notes.txt").write_text("mine")
    (base / "set001" / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    command_server.index(base)
    done = command_server.run("concept", "add", "dog", base / "set000" / "p00000.jpg", "--index", base)
    assert done.status == 0, done.err
    made = {}
    for name, job in JOBS.items():
        folder = home / name / "photos"
        if job.old:
            unpack(folder)
        else:
            command_server.index(copy(base, folder))  # what copying changes is not part of the job
        before = command_server.state(folder / ".clipsearch")
        assert (len(before.found), before.tags, before.problems) == (10 if job.old else 23, ("dog",), ())
        job.change(folder)
        ready = copy(folder, home / name / "done" / "photos")
        done = command_server.run(*job.arguments(ready))
        assert done.status == 0, done.err
        made[name] = Template(folder, before, command_server.state(ready / ".clipsearch"))
    assert len(made["index"].after.found) == 25
    assert made["tag"].after.tags == ("cat", "dog")
    return made


def order(faults: Faults, case: Case, folder: Path) -> None:
    index = folder / ".clipsearch"
    below, but = (index, ()) if case.place == "index" else (folder, index)
    only = COMMAND_ONLY if case.mode == "kill" else 0
    faults.arm(case.family, below, but=but, nth=case.nth, error=case.error, mode=case.mode, pid=only)


def all_cases(
    commands: Commands, faults: Faults, templates: dict[str, Template], tmp_path: Path
) -> Iterator[list[Case]]:
    """The cases, a list for each kind: a job, a family of calls and whether they concern the index or the pictures."""
    for (job, template), place in itertools.product(templates.items(), ("index", "pictures")):
        folder = copy(template.folder, tmp_path / "counting" / "photos")
        index = folder / ".clipsearch"
        below, but = (index, ()) if place == "index" else (folder, index)
        faults.arm(FAMILIES, below, but=but, nth=NEVER)
        commands.run(*JOBS[job].arguments(folder))
        faults.disarm()
        shutil.rmtree(tmp_path / "counting")
        for family, calls in faults.calls().items():
            cases = []
            errors = ERRORS_OF_LOCKS if family == "flock" else ERRORS
            for nth in range(1, min(calls, CALLS) + 1):
                modes: tuple[Mode, ...] = ("once", "from then on")
                cases += [Case(job, family, place, nth, mode, error) for mode in modes for error in errors]
                if place == "index":
                    cases.append(Case(job, family, place, nth, "kill", 0))
            if cases:
                yield cases


def chosen(kinds: list[list[Case]]) -> list[Case]:
    """As many cases as are asked for, in turn from each kind."""
    if ONE is not None:
        return [case for kind in kinds for case in kind if str(case) == ONE]
    if CASES == "all":
        return [case for kind in kinds for case in kind]
    rng = random.Random(SEED)
    rng.shuffle(kinds)
    had: set[str] = set()
    found: list[list[Case]] = []
    for kind in list(kinds):  # first what has a job, a family of calls or a place that none has had
        about = {kind[0].job, kind[0].family, kind[0].place}
        if about - had:
            kinds.remove(kind)
            kinds.insert(len(found), kind)
            found.append(kind)
            had |= about
    return [rng.choice(kind) for kind in itertools.islice(itertools.cycle(kinds), int(CASES))]


def faults_of(case: Case, commands: Commands, faults: Faults, template: Template, folder: Path) -> list[str]:
    """Everything that is wrong after one case."""
    wrong: list[str] = []
    index, job = folder / ".clipsearch", JOBS[case.job]
    pictures = tree(folder, but=index)
    order(faults, case, folder)
    try:
        done = commands.run(*job.arguments(folder), timeout_s=60)
    except AssertionError as hung:
        return [f"{case} ({faults.disarm().where}): {hung}"]
    struck = faults.disarm()
    if "Traceback" in done.err:
        wrong.append("traceback: " + done.err.strip().rsplit("\n", 1)[-1])
    wrong += differences(pictures, tree(folder, but=index, times_of_folders=False))
    state = commands.state(index)
    if state.error is None:
        wrong += compare(state, template.before, template.after, may_be_away=case.hides_pictures)
    elif job.answers:
        wrong.append(f"it does not answer: {state.error}")
    if state.problems:
        mended = commands.run("verify", "--repair", "--index", index)
        if mended.status != 0 and job.answers:
            wrong.append(f"it cannot be repaired: {mended.out}{mended.err}")
        repaired = commands.state(index)
        wrong += [
            f"after repair: {said}"
            for said in (
                *repaired.problems,
                *compare(repaired, template.before, template.after, may_be_away=case.hides_pictures),
            )
        ]
    again = commands.run(*job.arguments(folder))
    if again.status != 0:
        wrong.append(f"the command fails when it is repeated without an error: {again.err.strip()}")
    end = commands.state(index)
    if (end.paths, end.tags) != (template.after.paths, template.after.tags) or end.error or end.problems:
        lost, more = template.after.paths - end.paths, end.paths - template.after.paths
        wrong.append(f"in the end: lost {lost}, too much {more}, tags {end.tags}, {end.error}, {end.problems}")
    wrong += compare(end, template.after, template.after)
    wrong += differences(pictures, tree(folder, but=index))
    wrong += [f"not ours: {name}" for name in not_ours(index)]
    if job.arguments(folder)[0] == "index":
        # What a killed command leaves half-written is deleted when it is an hour old: until then it may be another's.
        wrong += [f"left behind: {path.name}" for path in (index / "staging").glob("*") if path.suffix != ".part"]
    where = f" ({struck.where}; exit {done.status})"
    return [f"{case}{where}: {said}" for said in dict.fromkeys(wrong)]


def compare(state: State, before: State, after: State, *, may_be_away: bool = False) -> list[str]:
    """What is less in `state` than both before and after, or in neither. What may be away need not be found."""
    said = []
    lost = (before.paths & after.paths) - state.paths
    if lost and not may_be_away:
        said.append(f"{len(lost)} pictures are lost: {sorted(lost)[:3]}")
    foreign = state.paths - before.paths - after.paths
    if foreign:
        said.append(f"found without having been there: {sorted(foreign)[:3]}")
    for path in state.paths - foreign:
        scores = [known.found[path] for known in (before, after) if path in known.found]
        if all(abs(state.found[path] - score) > 2e-3 for score in scores):
            said.append(f"{path} has the vector of something else")
    tags = set(before.tags) & set(after.tags) - set(state.tags)
    if tags:
        said.append(f"tags are lost: {tags}")
    return said


def test_no_failing_call_loses_anything(
    commands: Commands, faults: Faults, templates: dict[str, Template], tmp_path: Path
) -> None:
    wrong: list[str] = []
    struck = 0
    for case in chosen(list(all_cases(commands, faults, templates, tmp_path))):
        folder = copy(templates[case.job].folder, tmp_path / "case" / "photos")
        wrong += faults_of(case, commands, faults, templates[case.job], folder)
        struck += faults.struck().failed > 0
        shutil.rmtree(tmp_path / "case")
    assert not wrong, f"{len(wrong)} faults\n" + "\n".join(wrong)
    assert struck


@pytest.mark.parametrize("job", JOBS)
def test_without_an_error_nothing_is_wrong(
    job: str, commands: Commands, faults: Faults, templates: dict[str, Template], tmp_path: Path
) -> None:
    folder = copy(templates[job].folder, tmp_path / "photos")
    case = Case(job, "open", "index", NEVER, "once", errno.EIO)
    assert faults_of(case, commands, faults, templates[job], folder) == []
    assert faults.struck().failed == 0


def test_the_check_notices_what_is_lost(
    commands: Commands, faults: Faults, templates: dict[str, Template], tmp_path: Path
) -> None:
    template = templates["compact"]
    less = State(dict(list(template.before.found.items())[1:]), (), (), None)
    assert [said.split(":")[0] for said in compare(less, template.before, template.after)] == [
        "1 pictures are lost",
        "tags are lost",
    ]


@pytest.mark.usefixtures("shared_cache")  # of what queries need of the model
def test_the_command_itself_survives_its_errors(fault_library: Path, tmp_path: Path) -> None:
    """With the embedded model and nothing put in anything's place."""
    folder = tmp_path / "photos"
    fill(folder, 5)
    index = folder / ".clipsearch"

    def found() -> list[str]:
        return clipsearch("query", "--all", "red", "--paths", "--index", folder, folder=tmp_path).stdout.split()

    clipsearch("index", folder, "--model", "builtin", "-q", folder=tmp_path)
    before = found()
    assert len(before) == 5
    with Faults(fault_library, tmp_path) as faults:
        cases: list[tuple[Family, int, int]] = [
            ("read", 7, errno.EIO),
            ("open", 20, errno.EMFILE),
            ("sync", 2, errno.ENOSPC),
        ]
        for number, (family, nth, error) in enumerate(cases):
            fill(folder, 1, first=10 + number)
            with faults.armed(family, index, nth=nth, error=error):
                done = subprocess.run(
                    [sys.executable, "-m", "clipsearch", "index", folder, "-q"],
                    env=environment(faults.env), capture_output=True, text=True, timeout=120,
                )  # fmt: skip
                assert faults.struck().failed == 1
            assert "Traceback" not in done.stderr
            assert set(before) <= set(found())
    clipsearch("index", folder, "-q", folder=tmp_path)
    assert len(found()) == 8
    clipsearch("verify", "--index", folder, folder=tmp_path)
