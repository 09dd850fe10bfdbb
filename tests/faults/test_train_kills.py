"""Kills during training: a resumed run ends with the very weights of an uninterrupted one.

Set CLIPSEARCH_TRAIN_KILLS for more than a few kills.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")

from tests.faults.train_process import FORKS, STEPS, carry_out, write_inputs

pytestmark = [pytest.mark.torch, pytest.mark.slow]

KILLS = int(os.environ.get("CLIPSEARCH_TRAIN_KILLS", "2"))


def start(method: str, run: Path, kill_at: int = -1) -> BaseProcess:
    process = FORKS.Process(target=carry_out, args=(method, run, result_of(run), kill_at))
    process.start()
    return process


def result_of(run: Path) -> Path:
    return run.with_name("result.txt")


def finish(process: BaseProcess, run: Path) -> tuple[int, str]:
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    result = result_of(run)
    found = result.read_text() if result.is_file() else ""
    result.unlink(missing_ok=True)
    return process.exitcode, found


@pytest.mark.parametrize("method", ["heads", "full"])
def test_resumed_weights_are_those_of_an_uninterrupted_run(method: str, tmp_path: Path) -> None:
    write_inputs(tmp_path / "pairs")
    warm_up = FORKS.Process(target=int)  # until the server has imported PyTorch
    warm_up.start()
    warm_up.join()
    began = time.monotonic()
    code, expected = finish(start(method, tmp_path / "whole"), tmp_path / "whole")
    whole_run_s = time.monotonic() - began
    assert code == 0
    assert expected
    rng = random.Random(11)
    run, killed, finished = tmp_path / "killed", 0, 0
    while killed < KILLS:
        if killed % 2:  # at any moment, also while a checkpoint is being written
            process = start(method, run)
            time.sleep(rng.uniform(0.3, 1.0) * whole_run_s)
            process.kill()
            code, found = finish(process, run)
        else:  # in the middle of a step
            code, found = finish(start(method, run, rng.randrange(STEPS)), run)
        if code == 0:
            assert found == expected
            finished += 1
            shutil.rmtree(run)
        if code != 0 or killed % 2:
            killed += 1
    code, found = finish(start(method, run), run)
    assert code == 0
    assert found == expected
