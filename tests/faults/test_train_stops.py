"""Ctrl-C in each stage of a training run, and a disk that fills up in one: the run says so, and goes on to its end.

Three stages; set CLIPSEARCH_TRAIN_KILLS to 7 for all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from clipsearch.training.run import Request, Watch, resume, train  # noqa: E402
from clipsearch.training.settings import Settings  # noqa: E402
from clipsearch.training.shortages import RunOutOfSpace  # noqa: E402
from tests.faults.train_process import FORKS  # noqa: E402
from tests.support.mounts import Mounts  # noqa: E402
from tests.support.tiny_models import write_model_directory  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

CAPTIONS = [" ".join(words) for words in permutations(("dog", "cat", "beach", "the", "on"), 2)]
KILLS = int(os.environ.get("CLIPSEARCH_TRAIN_KILLS", "3"))
STAGES = {  # and how often each is reported until then
    "training, run 4 of 5 of the cross-validation": (1, "after step 1 of run 4 of 5"),
    "encoding pictures": (1, ""),
    "writing the model": (1, ""),
    "training": (3, "after step 3. "),
    "blending old and new weights": (1, ""),
    "training, run 1 of 5 of the cross-validation": (2, "after step 2 of run 1 of 5"),
    "encoding captions": (1, ""),
}


def write_inputs(folder: Path) -> list[str]:
    """The words of a run on few pairs that mines, and so goes through all stages."""
    pairs = write_pairs(folder / "pairs", 12)
    for number, caption in enumerate(CAPTIONS[:12]):
        (pairs / f"p{number:05d}.txt").write_text(caption)
    model = write_model_directory(folder / "model")
    words = ["train", pairs, "--model", model, "--anchor", pairs, "--views", "1", "--max-steps", "4", "--batch", "4"]
    words += ["--alpha", "1"]
    return [*map(str, words), "--hard-negatives", "mined", "--accept-anchor-drop"]


def carry_out(words: list[str], out: Path, cache: Path, stage: str | None) -> None:
    """`clipsearch` with these words; at a stage it sends itself the signal of Ctrl-C."""
    os.environ["CLIPSEARCH_CACHE_DIR"] = str(cache)
    torch.set_num_threads(1)
    from clipsearch.cli.app import main
    from clipsearch.cli.terminal import stages_display

    left = STAGES[stage][0] if stage else -1

    @contextmanager
    def display() -> Iterator[Callable[[str, int, int], None]]:
        with stages_display() as shown:

            def report(name: str, done: int, total: int) -> None:
                nonlocal left
                shown(name, done, total)
                left -= name.startswith("encoding pictures") if stage == "encoding pictures" else name == stage
                if left == 0:
                    left = -1
                    os.kill(os.getpid(), signal.SIGINT)

            yield report

    vars(import_module("clipsearch.cli.train"))["stages_display"] = display
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["clipsearch", *words]
    main()


def run(words: list[str], folder: Path, stage: str | None = None) -> tuple[int | None, str]:
    process = FORKS.Process(target=carry_out, args=(words, folder / "said", folder / "cache", stage))
    process.start()
    process.join(120)
    return process.exitcode, (folder / "said").read_text()


def outcome_of(run: Path) -> dict[str, Any]:
    found = json.loads((run / "report.json").read_text())
    return {name: value for name, value in found.items() if name not in ("run", "seconds")}


def test_ctrl_c_in_each_stage_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = write_inputs(tmp_path)
    code, said = run([*words, "--out", str(tmp_path / "whole")], tmp_path)
    assert code == 0, said
    expected = outcome_of(tmp_path / "whole")
    for number, (stage, (_, told)) in enumerate(list(STAGES.items())[:KILLS]):
        out = tmp_path / f"run{number}"
        if stage.startswith("encoding"):  # all is encoded again
            (tmp_path / "cache").rename(tmp_path / f"cache{number}")
        code, said = run([*words, "--out", str(out)], tmp_path, stage)
        assert code == 130, (stage, said)
        assert said.count("saving ...") == 1
        assert told in said
        assert said.rstrip().endswith(f"Continue with: clipsearch train --resume {out}"), said
        assert "Traceback" not in said
        code, said = run(["train", "--resume", str(out), "--accept-anchor-drop"], tmp_path)
        assert code == 0, (stage, said)
        assert outcome_of(out) == expected, stage
        assert not (out / "folds").exists()


def test_a_disk_that_fills_up_in_a_turn_of_the_cross_validation(tmp_path: Path, mounts: Mounts) -> None:
    write_inputs(tmp_path)
    pairs = [str(tmp_path / "pairs")]
    settings = Settings("heads", views=1, max_steps=4, batch=4, checkpoint_steps=1, keep_general=0.0)
    request = Request(pairs, str(tmp_path / "model"), settings, anchor=pairs, max_anchor_drop=100.0)
    expected = replace(train(request, tmp_path / "whole"), run="", seconds=0.0)
    mounts.tmpfs(tmp_path / "disk", size="4m")
    out, ballast = tmp_path / "disk" / "run", tmp_path / "disk" / "ballast"

    def report(stage: str, done: int, total: int) -> None:
        if stage.startswith("training, run 3 of 5") and done == 2 and not ballast.exists():
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

    with pytest.raises(RunOutOfSpace) as caught:
        train(request, out, watch=Watch(report))
    assert f"no space left on the disk of {out}. The last checkpoint is kept. Free some space" in str(caught.value)
    assert str(caught.value).endswith(f"clipsearch train --resume {out}")
    with pytest.raises(RunOutOfSpace):  # it still is
        resume(out)
    ballast.unlink()
    assert replace(resume(out), run="", seconds=0.0) == expected
