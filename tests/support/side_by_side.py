"""A plugin of pytest that runs tests side by side: `-p tests.support.side_by_side --side-by-side 3`.

This process lists the files, imports what most of them need, and forks. Each process that it forks takes the next file,
collects it and runs its tests, until none is left: a file is collected once, by whoever runs it, and what is imported
here is imported once. Only reports come back. A test that ends its process fails, and the rest of its file runs in a
new one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import strategies
from hypothesis.internal.conjecture.providers import _get_local_constants

from clipsearch.cores import import_with_sleeping_threads
from tests.support import commands

LONGEST = (
    *("test_encoder_parity", "test_names", "test_odd_machines", "test_injected_errors", "test_repair", "test_train"),
    *("test_train_kills", "test_crashes", "test_watch", "test_upgrade", "test_absence", "test_foreign_files"),
    *("test_quiet_and_locks", "test_train_towers", "test_privacy", "test_serve", "test_cli", "test_reindex_kills"),
    *("test_watch_survives", "test_where"),
)
"""Files to begin with, so that no process is left with one of them in the end."""

NEEDED = (
    "numpy.ma numpy.random pandas pyarrow.compute pyarrow.dataset pyarrow.parquet "
    "PIL.Image PIL.ImageDraw PIL.JpegImagePlugin PIL.PngImagePlugin httpx onnxruntime starlette.testclient tokenizers "
    "av faiss gradio imagecodecs jsonschema mcp onnx pillow_heif uvicorn xxhash "
    "clipsearch.cli.app clipsearch.cli.index clipsearch.cli.query clipsearch.daemon.client clipsearch.encoder.onnx "
    "clipsearch.indexer.api clipsearch.indexer.build clipsearch.indexer.compact clipsearch.indexer.repair "
    "clipsearch.indexer.verify clipsearch.pictures.images clipsearch.search.collection clipsearch.search.confidence "
    "clipsearch.search.filters clipsearch.server.app clipsearch.store.tags clipsearch.cli.ui clipsearch.cli.serve "
    "clipsearch.ui.page clipsearch.server.mcp clipsearch.server.shards clipsearch.daemon.server clipsearch.exports.run "
    "clipsearch.encoder.int8 clipsearch.evaluation.recall clipsearch.indexer.plan clipsearch.indexer.subtitles "
    "clipsearch.indexer.words clipsearch.classify.zero_shot clipsearch.pairs.encoding clipsearch.search.variety"
)
"""What is imported before anything is forked, as far as it is there."""
TORCH = "torch open_clip"

GROWN_BYTES = 3 << 29
"""A process that has grown to this is replaced after its file."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--side-by-side", type=int, default=0, metavar="PROCESSES", help="run files in so many processes")


def pytest_configure(config: pytest.Config) -> None:
    processes = config.getoption("--side-by-side")
    if processes and not config.option.collectonly:
        config.pluginmanager.register(SideBySide(config, processes))


@dataclass(slots=True)
class Worker:
    pid: int
    connection: Connection
    file: int | None = None
    test: tuple[str, tuple[str, int | None, str]] | None = None
    """The one that it has begun and not ended."""
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Rest:
    """What a process left when a test ended it: the tests of a file after that one."""

    file: int
    ended_by: str


class SideBySide:
    """In the process that was started: starts the others and tells what they report."""

    def __init__(self, config: pytest.Config, processes: int) -> None:
        self._config = config
        self._processes = processes
        self._files: list[list[pytest.Item | pytest.Collector]] = []
        self._workers: list[Worker] = []
        self._is_listing = False
        self._started = 0

    def pytest_collection(self, session: pytest.Session) -> bool:
        """List files, but import none."""
        self._is_listing = True
        session.perform_collect(genitems=False)
        self._is_listing = False
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[Any]) -> None:
        if self._is_listing:
            files: dict[Path, list[pytest.Item | pytest.Collector]] = {}
            for node in items:
                for part in _files(node):
                    files.setdefault(part.path, []).append(part)
            items.clear()  # no test yet: nothing for others to choose from
            places = {name: number for number, name in enumerate(LONGEST)}
            self._files = sorted(files.values(), key=lambda parts: places.get(parts[0].path.stem, len(LONGEST)))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        gc.disable()  # nothing of what is imported is garbage
        left_out = re.findall(r"\bnot (\w+)", self._config.option.markexpr)
        if len(self._files) > 10 * self._processes:  # most of them, then
            commands.shared()
            commands.shared(real=True)
            if "torch" not in left_out:
                commands.shared(real=True, trains=True)
            for name in f"{NEEDED} {'' if 'torch' in left_out else TORCH}".split():
                with contextlib.suppress(ImportError):
                    import_with_sleeping_threads(name)
            if "torch" not in left_out:
                with contextlib.suppress(ImportError):
                    from tests.support.open_clip_models import know_operators

                    know_operators()
            strategies.text().validate()  # what Hypothesis makes for the first test that has it: seconds of work
            _get_local_constants()
        gc.freeze()
        self._basetemp = self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        reader, writer = os.pipe()  # of numbers of files: whoever is free takes the next one
        os.set_blocking(writer, False)
        os.write(writer, b"".join(number.to_bytes(2) for number in range(len(self._files))))
        os.close(writer)
        try:
            for _ in range(min(self._processes, len(self._files))):
                self._start(session, reader)
            while self._workers:
                self._listen(session, reader)
                if session.shouldfail or session.shouldstop:
                    while os.read(reader, 4096):
                        pass
        finally:
            os.close(reader)
            self._end()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _start(self, session: pytest.Session, files: int, rest: Rest | None = None) -> None:
        ours, theirs = Pipe(duplex=False)
        self._started += 1
        place = self._basetemp / f"process{self._started}"
        place.mkdir(mode=0o700)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ours.close()
                for other in self._workers:
                    other.connection.close()
                self._config.pluginmanager.unregister(self)
                _Runner(session, theirs, place).run(files, self._files, rest)
                status = 0
            except BaseException:
                theirs.send(("internal error", traceback.format_exc()))
            finally:
                theirs.close()
                os._exit(status)
        theirs.close()
        self._workers.append(Worker(pid, ours))

    def _listen(self, session: pytest.Session, files: int) -> None:
        heard = wait([worker.connection for worker in self._workers], timeout=1)
        for worker in list(self._workers):
            if worker.connection in heard:
                self._take(session, worker)
            elif worker.status is None:  # also where a process that it left behind keeps its end of the pipe
                ended, status = os.waitpid(worker.pid, os.WNOHANG)
                worker.status = os.waitstatus_to_exitcode(status) if ended else None
            if worker.status is not None and not worker.connection.closed and worker.connection.poll():
                continue  # there is more to read
            if worker.status is not None:
                worker.connection.close()
                self._workers.remove(worker)
                self._replace(session, worker, files)

    def _take(self, session: pytest.Session, worker: Worker) -> None:
        """Read one message and pass it on."""
        hook = self._config.hook
        try:
            what, body = worker.connection.recv()
        except (EOFError, OSError):
            if worker.status is None:
                worker.status = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
            worker.connection.close()
            return
        match what:
            case "file":
                worker.file = body
            case "collected":
                session.testscollected += body
            case "start":
                worker.test = body
                hook.pytest_runtest_logstart(nodeid=body[0], location=body[1])
            case "finish":
                worker.test = None
                hook.pytest_runtest_logfinish(nodeid=body[0], location=body[1])
            case "report":
                report = self._report(body)
                hook.pytest_runtest_logreport(report=report)
                terminal = self._config.pluginmanager.getplugin("terminalreporter")
                if report.failed and terminal is not None:  # the end, where pytest says it, may be half an hour away
                    terminal.write_line(f" {report.nodeid}", red=True)
            case "collect report":
                hook.pytest_collectreport(report=self._report(body))
            case "deselected":
                hook.pytest_deselected(items=[SimpleNamespace(nodeid=nodeid) for nodeid in body])
            case "warning":
                hook.pytest_warning_recorded.call_historic(kwargs=body)
            case "internal error":
                session.shouldfail = "a process of tests failed"
                print(f"\n{body}", file=sys.stderr)

    def _report(self, data: dict[str, Any]) -> Any:
        return self._config.hook.pytest_report_from_serializable(config=self._config, data=data)

    def _replace(self, session: pytest.Session, worker: Worker, files: int) -> None:
        """Go on where a process has ended before all was done."""
        if worker.test is not None:
            nodeid, location = worker.test
            told = f"the process of this test ended with {worker.status}"
            report = pytest.TestReport(nodeid, location, {}, "failed", told, "call")
            self._config.hook.pytest_runtest_logreport(report=report)
            self._config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
            if worker.file is not None and not session.shouldfail:
                self._start(session, files, Rest(worker.file, nodeid))
        elif worker.status == GROWN and not session.shouldfail:
            self._start(session, files)
        elif worker.status != 0 and not session.shouldfail:
            session.shouldfail = f"a process of tests ended with {worker.status}, between tests"

    def _end(self) -> None:
        """End what is still there, as if somebody had pressed Ctrl-C."""
        self._workers = [worker for worker in self._workers if worker.status is None]
        for sign in (signal.SIGINT, signal.SIGKILL):
            for worker in self._workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, sign)
            deadline = time.monotonic() + 10
            while self._workers and time.monotonic() < deadline:
                self._workers = [worker for worker in self._workers if not os.waitpid(worker.pid, os.WNOHANG)[0]]
                time.sleep(0.01)


GROWN = 3
"""How a process ends that another one is to replace."""


def _files(node: pytest.Item | pytest.Collector) -> Iterator[pytest.Item | pytest.Collector]:
    """The files in a folder. What is in a file is collected by whoever runs it."""
    if not isinstance(node, pytest.Directory):
        yield node
        return
    report: pytest.CollectReport = node.ihook.pytest_make_collect_report(collector=node)
    node.ihook.pytest_collectreport(report=report)
    for part in report.result if report.passed else ():
        yield from _files(part)


class _Runner:
    """In a process that was forked: runs files and tells what is reported."""

    def __init__(self, session: pytest.Session, connection: Connection, place: Path) -> None:
        self._session = session
        self._config = session.config
        self._connection = connection
        atexit._clear()  # not this process's
        plugins = self._config.pluginmanager
        plugins.unregister(name="terminalreporter")
        capture: Any = plugins.getplugin("capturemanager")
        if capture is not None:  # its files are shared with whoever forked this process
            capture.stop_global_capturing()
            capture.start_global_capturing()
        self._config._tmp_path_factory._basetemp = place  # type: ignore[attr-defined]
        self._is_ready = False
        plugins.register(self)  # and hear again of what was warned about before
        self._is_ready = True

    def run(self, files: int, nodes: Sequence[Sequence[pytest.Item | pytest.Collector]], rest: Rest | None) -> None:
        try:
            if rest is not None:
                self._run_file(rest.file, nodes[rest.file], rest.ended_by)
            while not self._is_over() and (number := os.read(files, 2)):
                self._run_file(int.from_bytes(number), nodes[int.from_bytes(number)])
                if _resident_bytes() > GROWN_BYTES:
                    break
        finally:
            self._tear_down()
            atexit._run_exitfuncs()
        if not self._is_over() and _resident_bytes() > GROWN_BYTES:
            self._connection.close()
            os._exit(GROWN)

    def _tear_down(self) -> None:
        """End fixtures of the session. If one fails, the last test that had it may be the one to blame."""
        try:
            self._session._setupstate.teardown_exact(None)
        except Exception:
            nodeid, location = self._last
            report = pytest.TestReport(nodeid, location, {}, "failed", traceback.format_exc(), "teardown")
            self._tell("report", self._serializable(report))

    def _is_over(self) -> bool:
        return bool(self._session.shouldfail or self._session.shouldstop)

    def _run_file(self, number: int, nodes: Sequence[pytest.Item | pytest.Collector], after: str | None = None) -> None:
        self._tell("file", number)
        session = self._session
        gc.disable()  # nothing of what is imported and collected is garbage
        session.items = items = [item for node in nodes for item in session.genitems(node)]
        self._config.hook.pytest_collection_modifyitems(session=session, config=self._config, items=items)
        gc.enable()
        if after is None:
            self._tell("collected", len(items))
        else:
            places = [place for place, item in enumerate(items, 1) if item.nodeid == after]
            items = items[places[0] if places else len(items) :]
        for item, following in zip(items, [*items[1:], session], strict=False):
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=cast(pytest.Item, following))
            if self._is_over():
                break
        session.items = []
        session._collection_cache.clear()  # of what has run

    def _tell(self, what: str, body: Any) -> None:
        self._connection.send((what, body))

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._last = nodeid, location
        self._tell("start", (nodeid, location))

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._tell("finish", (nodeid, location))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tell("report", self._serializable(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._tell("collect report", self._serializable(report))

    def _serializable(self, report: pytest.TestReport | pytest.CollectReport) -> Any:
        return self._config.hook.pytest_report_to_serializable(config=self._config, report=report)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._tell("deselected", [item.nodeid for item in items])

    def pytest_warning_recorded(
        self, warning_message: Any, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        if self._is_ready:
            kind = warning_message.category
            told = warnings.WarningMessage(
                str(warning_message.message),
                kind if kind.__module__ == "builtins" else UserWarning,  # whoever hears of it has not imported others
                warning_message.filename,
                warning_message.lineno,
            )
            self._tell("warning", {"warning_message": told, "when": when, "nodeid": nodeid, "location": location})


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
