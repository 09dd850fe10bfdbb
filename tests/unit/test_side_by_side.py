"""Tests that run side by side (tests/support/side_by_side.py): each is told, also one that ends its process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FILES = {
    "test_ends.py": (
        "import os\n"
        "def test_before(): pass\n"
        "def test_that_ends(): os._exit(9)\n"
        "def test_after(tmp_path): (tmp_path / 'x').touch()\n"
    ),
    "test_fails.py": (
        "import pytest, warnings\n"
        "def test_that_fails():\n"
        "    print('what it printed')\n"
        "    assert [1, 2] == [1, 3]\n"
        "@pytest.mark.slow\n"
        "def test_left_out(): assert 0\n"
        "def test_that_is_skipped(): pytest.skip('no reason')\n"
        "def test_that_warns(): warnings.warn('look out')\n"
        "@pytest.fixture(scope='session')\n"
        "def broken(): yield; raise RuntimeError('at the end')\n"
        "def test_that_breaks_later(broken): pass\n"
    ),
    "test_imports.py": "import nothing_of_that_name\n",
    "test_leaves.py": (
        "import os, time\n"
        "def test_that_leaves_a_process():\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(3)\n"
        "        os._exit(0)\n"
    ),
    "test_more.py": "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_many(n): pass\n",
}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: x\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.support.side_by_side"]
    command += ["--rootdir", str(folder), "--basetemp", str(folder / "base"), "--side-by-side", "2", *arguments]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [*command, str(folder)], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_each_test_is_told_once(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    process = start(tmp_path, "-m", "not slow", "-ra")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1, out
    last = out.splitlines()[-1]
    counted = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last)}
    counted = {word.removesuffix("s"): number for word, number in counted.items() if word not in ("in",)}
    assert counted == {"failed": 2, "passed": 10, "skipped": 1, "deselected": 1, "warning": 1, "error": 2}, out
    for said in (
        "the process of this test ended with 9",
        "assert [1, 2] == [1, 3]",
        "At index 1 diff: 2 != 3",
        "what it printed",
        "no reason",
        "look out",
        "RuntimeError: at the end",
        "No module named 'nothing_of_that_name'",
    ):
        assert said in out, out


@pytest.mark.slow
def test_the_first_failure_can_be_the_last_and_ctrl_c_ends_all(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"test_{number}.py").write_text("def test_it(): assert 0\n")
    process = start(tmp_path, "-x")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and re.search("stopping after [12] failures", out), out
    assert len(re.findall(r"^FAILED", out, re.M)) <= 2, out

    waits = (
        "import os, pathlib, time\n"
        "def test_it():\n"
        "    pathlib.Path(f'{__file__}.{os.getpid()}.pid').touch()\n"
        "    time.sleep(60)\n"
    )
    for number in range(9):
        (tmp_path / f"test_{number}.py").write_text(waits)
    process = start(tmp_path)
    deadline = time.monotonic() + 120
    while len(begun := list(tmp_path.glob("*.pid"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, out
    for file in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.suffixes[-2][1:]), 0)
