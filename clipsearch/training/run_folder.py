"""The folder of a training run: its settings, its metrics, its curves, and the model that it made.

RUN/
  run.json              what was asked for and on what: enough to go on after a kill
  metrics.jsonl, .csv   one line for each epoch
  curves.png            the same as a picture (needs matplotlib, the extra plots)
  stopped.json          why the run was stopped, if it broke
  MODEL_CARD.md         what the model was made from and what was measured
  tensorboard/          the metrics for TensorBoard, if asked for
  report.json           the outcome: before and after, and the interpolation that was chosen; written last
  folds/                runs that hold a part of few pairs out each (see `folds`); only while the run goes on
  checkpoints/          see `checkpoints`; only while the run goes on
  unfinished.json       names of folders in which models are being made; only while they are
  model/                the model directory that `--model RUN` loads; see encoder.layout
  weights.safetensors   open_clip models only: the weights, for a later run and for GPUs; they say what pictures must
                        go through before them, as open_clip_config.json does
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clipsearch.encoder.layout import OPEN_CLIP_CONFIG
from clipsearch.encoder.names import RUN_MODEL, RUN_SETTINGS
from clipsearch.errors import ClipsearchError, StorageError
from clipsearch.evaluation.plots import check_plots
from clipsearch.removing import free_name, remove_made, remove_own
from clipsearch.training.checkpoints import FOLDER as CHECKPOINTS
from clipsearch.training.checkpoints import STATE, is_checkpoint_name, write_atomically
from clipsearch.training.settings import TrainingStopped

SETTINGS, MODEL = RUN_SETTINGS, RUN_MODEL
REPORT, METRICS, TABLE, CURVES = "report.json", "metrics.jsonl", "metrics.csv", "curves.png"
STOPPED = "stopped.json"
CARD = "MODEL_CARD.md"
FOLDS = "folds"
WEIGHTS = "weights.safetensors"
_FILES = frozenset({SETTINGS, REPORT, METRICS, TABLE, CURVES, STOPPED, CARD, WEIGHTS, OPEN_CLIP_CONFIG})
UNFINISHED = "unfinished.json"
_HALF_WRITTEN = re.compile(r"\.(.+)\.\d+\.\d{9,}")  # as `replacing` names it, with nanoseconds
_HALF_MADE = re.compile(r"\.model-[0-9a-f]{16}")

Row = dict[str, float | int | None]


class RunExists(ClipsearchError):
    """`run` already holds something."""

    def __init__(self, run: Path, problem: str, advice: str) -> None:
        self.run = run
        super().__init__(f"{run} {problem}. {advice}")


class RunFolder:
    """One run's folder. Everything in it is replaced in one step or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Row] = []

    @property
    def model(self) -> Path:
        """The model directory that the run makes."""
        return self.path / MODEL

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, keep other processes out of the run, and take away what a killed one left half written.

        Where the file system has no locks, nobody is kept out, and nothing is taken away. Raises: RunExists,
        StorageError.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, NotADirectoryError) as error:
            raise RunExists(self.path, "is not a folder", "Name a new folder with --out") from error
        except OSError as error:
            raise StorageError(self.path, error.strerror or str(error), "Name another folder with --out") from error
        try:
            with suppress(OSError):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    advice = "Wait until that has ended, or stop it with Ctrl-C, which saves"
                    raise RunExists(self.path, "is in use by another clipsearch train", advice) from None
                self._forget_half_written()
            yield
        finally:
            os.close(fd)

    def _forget_half_written(self) -> None:
        """Nobody else writes here now: what still has the name of something unfinished stays so."""
        if not (self.path / SETTINGS).is_file():
            return
        for folder in (self.path, self.path / CHECKPOINTS):
            for path in folder.iterdir() if folder.is_dir() else ():
                found = _HALF_WRITTEN.fullmatch(path.name)
                if found and (found[1] in _FILES or is_checkpoint_name(found[1])):
                    remove_own(path)
        for name in self._unfinished():
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                remove_made(path)
        (self.path / UNFINISHED).unlink(missing_ok=True)

    def _unfinished(self) -> list[str]:
        """The names that `making` has noted: what else looks like one is somebody's own."""
        names = (self.read_json(UNFINISHED) or {}).get("folders", [])
        return [name for name in names if isinstance(name, str) and _HALF_MADE.fullmatch(name)]

    @contextmanager
    def making(self) -> Iterator[Path]:
        """A new folder for what is to be whole before it gets its place. It is deleted at the end, or by the next
        process that holds the run. Raises: StorageError, OutOfSpace, OSError."""
        name = f".model-{secrets.token_hex(8)}"
        self.write_json(UNFINISHED, {"folders": [*self._unfinished(), name]})
        work = self.path / name
        work.mkdir()
        try:
            yield work
        finally:
            remove_made(work)
            left = [other for other in self._unfinished() if other != name]
            if left:
                self.write_json(UNFINISHED, {"folders": left})
            else:
                (self.path / UNFINISHED).unlink(missing_ok=True)

    def put_aside(self, name: str) -> None:
        """Give a file that somebody wrote under a name of ours another one. Raises: OSError."""
        path = self.path / name
        if os.path.lexists(path):
            path.rename(free_name(path))

    def create(self, settings: dict[str, Any]) -> None:
        """Begin a new run. Raises: RunExists, StorageError, OutOfSpace."""
        if (self.path / SETTINGS).exists():
            state = "a finished run" if (self.path / REPORT).exists() else "an unfinished run"
            advice = f"Continue it with: clipsearch train --resume {self.path}, or name another folder with --out"
            if (self.path / REPORT).exists():
                advice = "Name another folder with --out"
            raise RunExists(self.path, f"already contains {state}", advice)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunExists(self.path, "is not empty", "Name a new folder with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_json(SETTINGS, settings)

    def settings(self) -> dict[str, Any]:
        """What the run was begun with. Raises: RunExists if there is no run."""
        found = self.read_json(SETTINGS)
        if found is None:
            raise RunExists(self.path, "contains no run to resume", "Start one with: clipsearch train PAIRS --out RUN")
        return found

    def steps_done(self) -> int:
        """Of the last checkpoint."""
        state = self.read_json(f"{CHECKPOINTS}/{STATE}")
        return int(state["step"]) if state is not None else 0

    def report(self) -> dict[str, Any] | None:
        """The outcome of a finished run."""
        return self.read_json(REPORT)

    def note_stop(self, stopped: TrainingStopped) -> None:
        """Keep why the run was stopped, so that it stays so."""
        self.write_json(STOPPED, {"step": stopped.step, "problem": stopped.problem, "advice": stopped.advice})

    def check_not_stopped(self, anyway: bool) -> None:
        """Raise TrainingStopped if the run broke and is not to go on `anyway`, now or since an earlier time."""
        found = self.read_json(STOPPED)
        if found is None or found.get("anyway"):
            return
        if not anyway:
            raise TrainingStopped(
                int(found["step"]),
                str(found["problem"]),
                f"{found['advice']}. Continue as it is with: clipsearch train --resume {self.path} --anyway",
            )
        self.write_json(STOPPED, {**found, "anyway": True})

    @property
    def goes_on_anyway(self) -> bool:
        """Whether someone decided that the run goes on although it broke."""
        return bool((self.read_json(STOPPED) or {}).get("anyway"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """One of the run's JSON files, None if it is not there."""
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write one of the run's JSON files."""
        write_atomically(self.path / name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def restart_metrics(self, rows: list[Row]) -> None:
        """Forget rows that were written after the checkpoint that a run goes on from."""
        self._rows = list(rows)
        self._write_metrics()

    def add_metrics(self, row: Row) -> None:
        """Add one epoch's numbers."""
        self._rows.append(row)
        self._write_metrics()

    @property
    def metrics(self) -> list[Row]:
        """All rows so far."""
        return list(self._rows)

    def _write_metrics(self) -> None:
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        write_atomically(self.path / METRICS, lines.encode())
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self.path / TABLE, buffer.getvalue().encode())

    def draw_curves(self) -> str | None:
        """Draw the metrics as a PNG; returns why not, where that is so."""
        if find_spec("matplotlib") is None:
            return "no curves.png: it needs matplotlib: pip install 'clipsearch[plots]'"
        if not self._rows:
            return None
        check_plots("drawing curves")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        epochs = [row["epoch"] for row in self._rows]
        for axes, names in ((left, ["loss"]), (right, ["text_to_image_r1", "text_to_image_r5", "text_to_image_r10"])):
            for name in names:
                values = [row.get(name) for row in self._rows]
                known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
                axes.plot([epoch for epoch, _ in known], [value for _, value in known], marker=".", label=name)
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
        left.set_title("loss", fontsize=10)
        right.set_title("held-out recall, %", fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        write_atomically(self.path / CURVES, buffer.getvalue())
        return None
