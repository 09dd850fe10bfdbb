"""Kills during training: a resumed run ends with the very weights of an uninterrupted one.

Set CLIPSEARCH_TRAIN_KILLS for more than a few kills.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")

from tests.faults.train_process import STEPS, write_inputs

pytestmark = [pytest.mark.torch, pytest.mark.slow]

KILLS = int(os.environ.get("CLIPSEARCH_TRAIN_KILLS", "4"))
REPOSITORY = Path(__file__).resolve().parents[2]


def start(method: str, run: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.train_process", method, str(run), *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(method: str, run: Path, *arguments: str) -> tuple[int, str]:
    process = start(method, run, *arguments)
    out, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode, out.strip()


@pytest.mark.parametrize("method", ["heads", "full"])
def test_resumed_weights_are_those_of_an_uninterrupted_run(method: str, tmp_path: Path) -> None:
    write_inputs(tmp_path / "pairs")
    began = time.monotonic()
    code, expected = finish(method, tmp_path / "whole")
    whole_run_s = time.monotonic() - began
    assert code == 0
    assert expected
    rng = random.Random(11)
    run, killed, finished = tmp_path / "killed", 0, 0
    while killed < KILLS:
        if killed % 2:  # at any moment, also while a checkpoint is being written
            process = start(method, run)
            time.sleep(rng.uniform(0.3, 1.0) * whole_run_s)
            process.send_signal(signal.SIGKILL)
            out, _ = process.communicate()
            code, found = process.returncode, out.strip()
        else:  # in the middle of a step
            code, found = finish(method, run, str(rng.randrange(STEPS)))
        if code == 0:
            assert found == expected
            finished += 1
            shutil.rmtree(run)
        if code != 0 or killed % 2:
            killed += 1
    code, found = finish(method, run)
    assert code == 0
    assert found == expected
