"""Commands of clipsearch, each in a process of its own that starts in milliseconds.

A server process has imported everything and forks for each command. What a command prints and how it ends comes back.
Whatever is forked from a process of tests has the same servers.
`Commands` has the fake encoder (tests/support/fake_main.py) stand for every model; `clipsearch` runs commands with real
ones, as whoever types them would. Run as a module, this is that server.

What is decided when Python starts needs a process of its own: locales, closed streams, terminals, what is imported.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from tests.support import breadth, decoders, faults
from tests.support.faults import environment
from tests.support.forking import Forker

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 180.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}


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


class Server:
    """A process that has imported everything, and forks for each request of this process and those forked from it."""

    def __init__(
        self, *words: str, env: Mapping[str, str], within: Sequence[str] = (), fds: Sequence[int] = ()
    ) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*within, sys.executable, "-m", "tests.support.commands", str(theirs.fileno()), *words],
                cwd=REPOSITORY,
                env=environment(env, _ONE_THREAD),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *fds),
            )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._socket, [b"?"], [theirs.fileno()])
            ours.sendall(json.dumps(request).encode("ascii"))
            ours.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: ours.recv(1 << 16), b""))
        assert answer, "the server of commands has ended"
        body: dict[str, Any] = json.loads(answer)
        return body

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


@cache
def shared(*, real: bool = False, trains: bool = False) -> Server:
    """The server of all commands that need nothing to be decided when it starts. It ends with this process."""
    forks = decoders.shared()
    forks.begin()
    words = [word for word, is_so in (("real", real), ("trains", trains)) if is_so]
    server = Server(*words, f"decoders={forks.fileno()}", env={}, fds=[forks.fileno()])
    atexit.register(server.close)
    return server


class Commands:
    """Commands with the fake encoder. `env` is the environment of each of them.

    `preload`: part of the environment that a server of their own starts with; `within`: a command that starts it.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        *,
        preload: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self._own = Server(env=preload or {}, within=within) if preload or within else None
        self._env = environment(env or {}, preload or {}, _ONE_THREAD)

    def run(self, *arguments: str | Path, cwd: Path | None = None, timeout_s: float = TIMEOUT_S) -> Done:
        """Run `clipsearch ARGUMENTS`. A command that takes longer than `timeout_s` fails the test."""
        return _run(self._server, arguments, self._env, str(cwd or "/"), timeout_s)

    def index(self, *arguments: str | Path, cwd: Path | None = None) -> dict[str, Any]:
        """The report of `clipsearch index ARGUMENTS --json`, which must succeed."""
        done = self.run("index", *arguments, "--json", "-q", "--workers", "1", cwd=cwd)
        assert done.status == 0, f"{arguments}: exit {done.status}\n{done.out}\n{done.err}"
        report: dict[str, Any] = done.json()
        return report

    def state(self, index: Path, *, check: bool = True) -> State:
        """What the index at `index` answers; `check` also verifies all of it."""
        asked = {"state": os.fspath(index), "check": check, "env": self._env, "cwd": "/", "timeout": TIMEOUT_S}
        body = self._server.ask(asked)
        assert body["status"] == 0, body["err"]
        told = json.loads(body["out"])
        return State(told["found"], tuple(told["tags"]), tuple(told["problems"]), told["error"], told["model"])

    @property
    def _server(self) -> Server:
        return self._own or shared()

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def clipsearch(
    *arguments: str | bytes | Path, folder: Path, status: int = 0, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run `clipsearch ARGUMENTS` in `folder` with real models. It must end with `status`, and without a traceback."""
    return _completed(shared(real=True), arguments, folder, status, timeout_s)


def train(
    *arguments: str | Path, folder: Path, status: int = 0, timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run `clipsearch train ARGUMENTS` likewise, in a process that has PyTorch: importing it takes four seconds."""
    return _completed(shared(real=True, trains=True), ("train", *arguments), folder, status, timeout_s)


def _completed(
    server: Server, arguments: Sequence[str | bytes | Path], folder: Path, status: int, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    words = [os.fsdecode(part) for part in arguments]
    done = _run(server, words, dict(os.environ), str(folder), timeout_s)
    assert done.status == status, f"exit {done.status}\n{done.out}\n{done.err}"
    assert "Traceback" not in done.err, done.err
    return subprocess.CompletedProcess(["clipsearch", *words], done.status, done.out, done.err)


def _run(server: Server, arguments: Sequence[str | Path], env: Mapping[str, str], cwd: str, timeout_s: float) -> Done:
    words = [os.fspath(part) for part in arguments]
    body = server.ask({"argv": words, "env": dict(env), "cwd": cwd, "timeout": timeout_s})
    done = Done(body["status"], body["out"], body["err"])
    assert not body["timed_out"], f"{arguments} took more than {timeout_s} s\n{done.out}\n{done.err}"
    return done


# -- the server


_REAL = (
    "onnxruntime tokenizers clipsearch.encoder.onnx clipsearch.cli.classify clipsearch.cli.eval clipsearch.cli.models "
    "clipsearch.encoder.choices clipsearch.encoder.int8 clipsearch.encoder.precision clipsearch.encoder.quiet "
    "clipsearch.encoder.rankings clipsearch.encoder.runs clipsearch.encoder.static"
)
_TRAINS = (
    "torch torch._dynamo onnx safetensors.torch matplotlib.figure matplotlib.backends.backend_agg "
    "clipsearch.cli.train clipsearch.training.run clipsearch.training.heads clipsearch.training.loop "
    "clipsearch.training.interpolation clipsearch.training.distributed clipsearch.training.methods "
    "clipsearch.training.verdict"
)
_BOTH = (
    "pyarrow.compute pyarrow.parquet PIL.Image numpy.ma numpy.random tarfile "
    "clipsearch.cli.app clipsearch.cli.index clipsearch.cli.query clipsearch.cli.status clipsearch.cli.verify "
    "clipsearch.cli.output clipsearch.daemon.client clipsearch.indexer.api "
    "clipsearch.indexer.build clipsearch.indexer.compact clipsearch.indexer.repair clipsearch.indexer.status "
    "clipsearch.indexer.verify clipsearch.pictures.images clipsearch.pictures.tiff clipsearch.search.collection "
    "clipsearch.search.concepts clipsearch.search.confidence clipsearch.search.filters clipsearch.store.tags "
    "clipsearch.query.heads clipsearch.query.hints clipsearch.query.rewriting clipsearch.query.spelling "
    "clipsearch.search.live"
)
"""What is imported before anything is forked."""


def _serve(requests: socket.socket, *, real: bool, trains: bool, forks: decoders.Forks) -> None:
    if real:
        from clipsearch import cores

        cores.available_cores = lambda: 1  # tests run side by side: as on a machine that has one core
    else:
        from tests.support import fake_main

        fake_main.prepare()
    for name in f"{_BOTH} {_REAL if real else ''} {_TRAINS if trains else ''}".split():
        if find_spec(name.partition(".")[0]):  # not every extra is there
            import_module(name)

    if trains and not breadth.ALL:  # a tenth of the general sentences, which a run encodes before it begins
        from clipsearch.training import methods, sentences

        vars(methods)["general_sentences"] = lambda: sentences.general_sentences(150)
    os.dup2(2, 1)
    forks.begin()
    vars(import_module("clipsearch.pictures.pool"))["subprocess"] = decoders.as_subprocess(forks)
    gc.freeze()  # no command is to look through it, and so to copy it
    forker = Forker(requests)

    def begin(_: bytes, fds: list[int]) -> None:
        (client,) = fds
        with open(client, "rb", closefd=False) as asked:
            body = asked.read()
        if not body:  # whoever asked has been killed
            os.close(client)
            return
        request = json.loads(body)
        out, err = (os.memfd_create(name) for name in ("out", "err"))

        def ended(status: int, timed_out: bool) -> None:
            texts = [os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "surrogateescape") for fd in (out, err)]
            answer = {"status": status, "out": texts[0], "err": texts[1], "timed_out": timed_out}
            with open(client, "wb", closefd=False) as told:
                told.write(json.dumps(answer).encode("ascii"))

        forker.fork(
            lambda: _be_the_command(request, out, err),
            ended,
            keeps=[client, out, err],
            gives=[out, err],
            timeout_s=request["timeout"],
        )

    forker.serve(begin, size_bytes=1, most_fds=1)


def _be_the_command(request: dict[str, Any], out: int, err: int) -> NoReturn:
    status = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(request["cwd"])
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


def _main(fd: str, *words: str) -> None:
    forks = decoders.Forks(*(int(word.removeprefix("decoders=")) for word in words if word.startswith("decoders=")))
    _serve(socket.socket(fileno=int(fd)), real="real" in words, trains="trains" in words, forks=forks)


if __name__ == "__main__":
    _main(*sys.argv[1:])
