"""Commands of clipsearch, each in a process of its own that starts in milliseconds.

A server process has imported everything and forks for each command. What a command prints and how it ends comes back.
`Commands` has the fake encoder (tests/support/fake_main.py) stand for every model; `clipsearch` runs commands with real
ones, as whoever types them would. Run as a module, this is that server.

What is decided when Python starts needs a process of its own: locales, closed streams, terminals, what is imported.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import decoders, faults
from tests.support.faults import environment

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended. `status` is negative where a signal ended it, as in subprocess."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class State:
    """What an index answers: each path that is found, with its score; the names of tags; what `verify` says."""

    found: dict[str, float]
    tags: tuple[str, ...]
    problems: tuple[str, ...]
    error: str | None
    model: str = "fake"  # the encoder (tests/support/fake_main.py) that it was made with

    @property
    def paths(self) -> set[str]:
        return set(self.found)


class Commands:
    """A server for commands. `env` is the environment of each of them, `within` a command that starts the server.

    `real`: models are what they are called, and each command gets the environment that this process has then.
    `trains`: PyTorch has been imported, too.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        *,
        within: Sequence[str] = (),
        real: bool = False,
        trains: bool = False,
    ) -> None:
        self._real = real
        words = [word for word, is_so in (("real", real), ("trains", trains)) if is_so]
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.support.commands", *words],
            cwd=REPOSITORY,
            env=environment(env or {}, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path, cwd: Path | None = None, timeout_s: float = TIMEOUT_S) -> Done:
        """Run `clipsearch ARGUMENTS`. A command that takes longer than `timeout_s` fails the test."""
        request: dict[str, Any] = {"argv": [os.fspath(part) for part in arguments], "timeout": timeout_s}
        if self._real:
            request["env"] = dict(os.environ)
        body = self._ask({**request, "cwd": str(cwd or "/")})
        done = Done(body["status"], body["out"], body["err"])
        assert not body["timed_out"], f"{arguments} took more than {timeout_s} s\n{done.out}\n{done.err}"
        return done

    def index(self, *arguments: str | Path, cwd: Path | None = None) -> dict[str, Any]:
        """The report of `clipsearch index ARGUMENTS --json`, which must succeed."""
        done = self.run("index", *arguments, "--json", "-q", "--workers", "1", cwd=cwd)
        assert done.status == 0, f"{arguments}: exit {done.status}\n{done.out}\n{done.err}"
        report: dict[str, Any] = done.json()
        return report

    def state(self, index: Path, *, check: bool = True) -> State:
        """What the index at `index` answers; `check` also verifies all of it."""
        body = self._ask({"state": os.fspath(index), "check": check, "cwd": "/", "timeout": TIMEOUT_S})
        assert body["status"] == 0, body["err"]
        told = json.loads(body["out"])
        return State(told["found"], tuple(told["tags"]), tuple(told["problems"]), told["error"], told["model"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the server of commands has ended"
        body: dict[str, Any] = json.loads(line)
        return body

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@cache
def _real_commands(*, trains: bool) -> Commands:
    commands = Commands(real=True, trains=trains)
    atexit.register(commands.close)
    return commands


def clipsearch(
    *arguments: str | bytes | Path, folder: Path, status: int = 0, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run `clipsearch ARGUMENTS` in `folder` with real models. It must end with `status`, and without a traceback."""
    return _run(_real_commands(trains=False), arguments, folder, status, timeout_s)


def train(
    *arguments: str | Path, folder: Path, status: int = 0, timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run `clipsearch train ARGUMENTS` likewise, in a process that has PyTorch: importing it takes four seconds."""
    return _run(_real_commands(trains=True), ("train", *arguments), folder, status, timeout_s)


def _run(
    commands: Commands, arguments: Sequence[str | bytes | Path], folder: Path, status: int, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    words = [os.fsdecode(part) for part in arguments]
    done = commands.run(*words, cwd=folder, timeout_s=timeout_s)
    assert done.status == status, f"exit {done.status}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.err, done.err
    return subprocess.CompletedProcess(["clipsearch", *words], done.status, done.out, done.err)


# -- the server


_REAL = (
    "onnxruntime tokenizers clipsearch.encoder.onnx clipsearch.cli.classify clipsearch.cli.eval clipsearch.cli.models"
)
_TRAINS = "torch clipsearch.cli.train clipsearch.training.run clipsearch.training.heads"
_BOTH = (
    "pandas pyarrow.compute pyarrow.parquet PIL.Image numpy.ma numpy.random tarfile "  # pyarrow uses pandas where it is
    "clipsearch.cli.app clipsearch.cli.index clipsearch.cli.query clipsearch.cli.status clipsearch.cli.verify "
    "clipsearch.cli.output clipsearch.daemon.client clipsearch.indexer.api "
    "clipsearch.indexer.build clipsearch.indexer.compact clipsearch.indexer.repair clipsearch.indexer.status "
    "clipsearch.indexer.verify clipsearch.pictures.images clipsearch.pictures.tiff clipsearch.search.collection "
    "clipsearch.search.concepts clipsearch.search.confidence clipsearch.search.filters clipsearch.store.tags"
)
"""What is imported before anything is forked."""


def _serve(*, real: bool, trains: bool) -> None:
    if real:
        from clipsearch import cores

        cores.available_cores = lambda: 1  # tests run side by side: as on a machine that has one core
    else:
        from tests.support import fake_main

        fake_main.prepare()
    for name in f"{_BOTH} {_REAL if real else ''} {_TRAINS if trains else ''}".split():
        import_module(name)

    asked = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    forks = decoders.Forks()
    forks.begin()
    vars(import_module("clipsearch.pictures.pool"))["subprocess"] = decoders.as_subprocess(forks)
    gc.freeze()  # no command is to look through it, and so to copy it
    for line in asked:
        body = json.dumps(_answer(json.loads(line))).encode("ascii")
        answers.write(body + b"\n")
        answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    pid = os.fork()
    if pid == 0:
        _be_the_command(request, out, err)
    deadline = time.monotonic() + request["timeout"]
    timed_out = False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            timed_out = True
            os.kill(pid, signal.SIGKILL)
            deadline += 60
        time.sleep(0.002)
    texts = []
    for fd in (out, err):
        texts.append(os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "surrogateescape"))
        os.close(fd)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "out": texts[0],
        "err": texts[1],
        "timed_out": timed_out,
    }


def _be_the_command(request: dict[str, Any], out: int, err: int) -> None:
    status = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(request["cwd"])
        if "env" in request:
            _take_environment(request["env"])
        faults.be_the_command()
        for number, name in ((1, "stdout"), (2, "stderr")):
            stream = os.fdopen(number, "w", closefd=False, encoding="utf-8", errors="surrogateescape")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        if "state" in request:
            print(json.dumps(_state(Path(request["state"]), check=request["check"])))
            status = 0
        else:
            from clipsearch.__main__ import main

            sys.argv = ["clipsearch", *request["argv"]]
            main()
            status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _take_environment(env: dict[str, str]) -> None:
    """Let this process's environment be `env`, also for the modules that have read it already."""
    from clipsearch import timing

    os.environ.clear()
    os.environ.update(env)
    timing._ASKED = env.get("CLIPSEARCH_TIMING", "") not in ("", "0")


def _state(index: Path, *, check: bool) -> dict[str, Any]:
    from clipsearch.errors import ClipsearchError, EncoderMismatch
    from clipsearch.indexer.verify import verify
    from clipsearch.search.collection import Collection
    from tests.support.fake_encoder import FakeEncoder
    from tests.support.fake_main import DIM, SEEDS

    told: dict[str, Any] = {"found": {}, "tags": [], "problems": [], "error": None, "model": "fake"}
    for model, seed in SEEDS.items():
        try:
            with Collection(index, encoder=FakeEncoder(dim=DIM, seed=seed)) as photos:
                hits = photos.search("red", k=1_000_000, all=True)
                told["tags"] = sorted(tag.name for tag in photos.tags)
        except EncoderMismatch:
            continue
        except ClipsearchError as error:
            told["error"] = f"{type(error).__name__}: {error}"
            break
        told["model"] = model
        paths = [hit.record.path for hit in hits]
        if len(paths) != len(set(paths)):
            told["problems"].append(f"{len(paths) - len(set(paths))} paths are found twice")
        told["found"] = {hit.record.path: float(hit.score or 0) for hit in hits}
        break
    if check:
        try:
            told["problems"] += [f"{problem.file}: {problem.message}" for problem in verify(index).problems]
        except ClipsearchError as error:
            told["problems"].append(f"{type(error).__name__}: {error}")
    return told


if __name__ == "__main__":
    _serve(real="real" in sys.argv[1:], trains="trains" in sys.argv[1:])
