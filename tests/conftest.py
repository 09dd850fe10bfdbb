from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from clipsearch import gazetteer
from tests.support import breadth, decoders
from tests.support.fake_encoder import FakeEncoder
from tests.support.home import go_back, left_behind

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background of a script: processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
TESTS = Path(__file__).parent
NO_SKIPS = os.environ.get("CLIPSEARCH_NO_SKIPS", "") not in ("", "0")
RIGHTS = (
    "mounting",
    "namespaces",
    "root may",
    "two devices",
    "CUDA",
    "PILLOW_TEST_IMAGES",
    "time proves nothing",
)
"""Words of skips that no package mends: what this user, this kernel or this case is not for."""


gc.disable()  # nothing of what is imported and collected is garbage: looking through it is a sixth of a run's time


hypothesis.settings.register_profile("side by side", deadline=None)  # how long one example takes depends on the others
hypothesis.settings.register_profile("few", deadline=None, max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    """Generate fewer examples where a test does not say how many."""
    hypothesis.settings.load_profile("side by side" if breadth.ALL else "few")
    config.pluginmanager.register(breadth, "breadth")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return as_failure((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return as_failure((yield))


def as_failure(report: Report) -> Report:
    """A report of a skip as one of a failure, where CLIPSEARCH_NO_SKIPS forbids to skip for want of a program."""
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(words in reason for words in RIGHTS):
            report.outcome = "failed"
            report.longrepr = f"CLIPSEARCH_NO_SKIPS is set, and this was skipped: {reason}"
    return report


FOLDERS = ("browser", "packaging")
"""Folders all of whose tests have the mark of their name."""
ALL_TORCH = re.compile(r"^pytestmark = (?:\[\s*)?[^\]\n]*\bpytest\.mark\.torch\b", re.M)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing that is all about what was not asked for: PyTorch alone takes each process three seconds."""
    left_out = re.findall(r"\bnot (\w+)", config.option.markexpr)
    if collection_path.parent == TESTS and collection_path.is_dir():
        return (collection_path.name in FOLDERS and collection_path.name in left_out) or None
    if collection_path.suffix != ".py" or "torch" not in left_out:
        return None
    return bool(ALL_TORCH.search(collection_path.read_text(encoding="utf-8"))) or None


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark cases as slow that only `make test` tries."""
    tried = set()
    for item in items:
        if item.get_closest_marker("many") and not item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            if test in tried:
                item.add_marker("slow")
            tried.add(test)


def pytest_collection_finish() -> None:
    """From now on, look for garbage among what tests make."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that left something in a home."""
    if hasattr(session.config, "workerinput"):  # of pytest-xdist: the process that started it looks
        return
    left = left_behind()
    go_back()
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nFAILED: the tests left something in a home: {', '.join(left)}")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """PyTorch on one core: the tests already run side by side, and its threads wait for each other in vain."""
    torch = sys.modules.get("torch")  # tests that need it have imported it: three seconds for those that do not
    if torch is not None:
        torch.set_num_threads(1)


CACHE = os.environ["CLIPSEARCH_CACHE_DIR"]


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet. mktemp looks through all that there are for a free number: 2 ms a test."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def own_places(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and a registry of indexes for each test, but one table of towns, which takes four seconds to make."""
    home = next(homes)
    home.mkdir()
    monkeypatch.setenv("CLIPSEARCH_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(home / "cache"))
    monkeypatch.setattr(gazetteer, "cache_dir", lambda: Path(CACHE))


@pytest.fixture
def shared_cache(own_places: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached for a real model takes two seconds to make: share it with other tests that have one."""
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", CACHE)


ABOUT_DECODERS = ("test_decoding", "test_cores", "test_hostile_pictures", "test_odd_machines")


@pytest.fixture(autouse=True)
def forked_decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork decoders from a process that has imported what they need, where their start is not what is tested."""
    if request.path.stem not in ABOUT_DECODERS:
        monkeypatch.setattr("clipsearch.pictures.pool.subprocess", decoders.as_subprocess(decoders.shared()))


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder
