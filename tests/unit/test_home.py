"""The tests have a home of their own: nobody else's caches, registry or pictures have to do with them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import clipsearch
from clipsearch.config import cache_dir, state_dir
from clipsearch.places import own_folder
from tests.support.fake_encoder import FakeEncoder
from tests.support.home import HOME, REAL_HOME
from tests.support.pictures import fill


def test_nothing_leads_to_the_real_home(photos: Path) -> None:
    places = [
        Path.home(),
        cache_dir(),
        state_dir(),
        own_folder("cache"),
        own_folder("state"),
        Path(os.environ["HF_HOME"]),
    ]
    temporary = Path(tempfile.gettempdir())
    assert all(place.is_relative_to(temporary) for place in places), places
    assert not any(place == REAL_HOME or place.is_relative_to(REAL_HOME / ".cache") for place in places)
    fill(photos, 1)
    clipsearch.index(photos, encoder=FakeEncoder())
    with clipsearch.open(photos, encoder=FakeEncoder()) as collection:
        assert collection.search("red", all=True)
    assert not list(HOME.iterdir())


def test_processes_that_tests_start_have_it_too() -> None:
    program = "import pathlib, clipsearch.places as p; print(pathlib.Path.home(), p.own_folder('cache'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(HOME), str(HOME / ".cache/clipsearch")]


@pytest.mark.slow
def test_a_run_that_leaves_something_in_a_home_fails(tmp_path: Path) -> None:
    """Runs of pytest in homes that were empty, and in one that was not."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_sessionfinish\n")
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib\n"
        "from tests.support.home import HOME, REAL_HOME\n"
        "def test_it():\n"
        "    for name in os.environ.get('LEAVES', '').split():\n"
        "        (REAL_HOME / name).mkdir(parents=True)\n"
        "    if 'IN_OURS' in os.environ:\n"
        "        (HOME / 'x').touch()\n"
    )
    used = tmp_path / "used"
    (used / ".cache" / "matplotlib").mkdir(parents=True)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CLIPSEARCH_HOME_OF_TESTS")}
    cases = [
        ("one", {}, ""),
        ("two", {"LEAVES": ".hypothesis"}, ".hypothesis"),
        ("three", {"IN_OURS": "1"}, "/home/x"),
        ("used", {"LEAVES": ".cache/clipsearch what-the-user-makes-meanwhile"}, ".cache/clipsearch"),
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), "--basetemp", str(tmp_path / "base"), str(tmp_path / "test_it.py")]
    for home, more, said in cases:
        (tmp_path / home).mkdir(exist_ok=True)
        env = {**ours, "HOME": str(tmp_path / home), "PYTHONPATH": str(Path(__file__).parents[2]), **more}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        assert done.returncode == bool(said), (home, more, done.stdout)
        assert said in done.stdout and ("left something" in done.stdout) == bool(said)
