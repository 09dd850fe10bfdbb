"""First use: a folder without an index, which the page offers to index; and the indexes that were used before.

The folder is the one that `clipsearch ui` was started with or in, or one that is named in the page where only this
machine can ask; the indexes are those of the registry. Nothing is written before somebody asks for it, and what was
done is kept when the server ends.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from clipsearch import config
from clipsearch.encoder import Encoder
from clipsearch.errors import ClipsearchError, UnknownIndex
from clipsearch.filenames import readable, to_bytes
from clipsearch.places import expanded
from clipsearch.server import messages
from clipsearch.server.originals import is_of_this_machine
from clipsearch.server.routes import FAILED, AsciiJSON, Service, documented, told_error

if TYPE_CHECKING:
    from clipsearch.indexer.build import Progress
    from clipsearch.indexer.plan import IndexPlan

MOST_KNOWN = 12
UNFINISHED = "unfinished.json"
State = Literal["looking", "ready", "indexing", "stopping", "stopped", "done"]

_log = logging.getLogger("clipsearch.server")


class PlanAnswer(BaseModel):
    """What a run would do, as `clipsearch index --plan` tells."""

    model: str
    to_read: int
    bytes_to_read: int
    files: int
    left_out: dict[str, int]
    seconds: float | None


class SetUpAnswer(BaseModel):
    """A folder that has no index, and how far it is with one."""

    folder: str
    state: State
    plan: PlanAnswer | None
    progress: messages.RunState | None
    problem: str | None
    error: Annotated[messages.Problem | None, Field(description="The same, as answers tell errors.")]
    index: Annotated[str | None, Field(description="Name of the index, once it has pictures.")]
    others: Annotated[bool, Field(description="Whether another folder can be named instead.")]


class KnownAnswer(BaseModel):
    """An index that was used before and is not served yet."""

    id: str
    folder: str


class StartAnswer(BaseModel):
    """What the page can offer beside the indexes that are served."""

    set_up: SetUpAnswer | None
    known: list[KnownAnswer]


class OpenRequest(messages.Request):
    """An index that was used before."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="Its id, as /v1/start returns it.")]


class FolderRequest(messages.Request):
    """Another folder to index."""

    folder: Annotated[str, Field(min_length=1, max_length=4096, pattern="^[^\\x00]+$", description="Its path.")]


class OpenAnswer(BaseModel):
    """The name of an index that is served now."""

    index: str


class SetUp:
    """The index of one folder: planned in a thread, and made in another when somebody asks. Close it."""

    def __init__(
        self,
        service: Service,
        folder: Path,
        *,
        encoder: Encoder | None = None,
        problem: dict[str, Any] | None = None,
    ) -> None:
        """`encoder` is used instead of the best model that is here, where given. `problem`: what was wrong before."""
        self.folder = folder.absolute()
        self._place = config.index_dir_for(self.folder)
        self._service = service
        self._encoder = encoder
        self._state: State = "looking"
        self._plan: IndexPlan | None = None
        self._progress: dict[str, Any] | None = None
        self._problem = problem
        self._name: str | None = None
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # No daemons: ending inside onnxruntime aborts the process.
        self._thread = threading.Thread(target=self._look, name="clipsearch-plan")
        self._thread.start()

    def told(self) -> dict[str, Any]:
        """See `SetUpAnswer`."""
        with self._lock:
            plan = self._plan
            return {
                "folder": readable(str(self.folder)),
                "state": self._state,
                "plan": None if plan is None else {name: plan.to_dict()[name] for name in PlanAnswer.model_fields},
                "progress": self._progress,
                "problem": None if self._problem is None else self._problem["message"],
                "error": self._problem,
                "index": self._name,
            }

    def start(self) -> dict[str, Any]:
        """Index the folder, unless that is being done."""
        with self._lock:
            if self._state in ("ready", "stopped") and not self._stop.is_set():
                self._state, self._problem = "indexing", None
                self._began = time.monotonic()
                self._thread = threading.Thread(target=self._run, name="clipsearch-index")
                self._thread.start()
        return self.told()

    def again(self, encoder: Encoder | None) -> SetUp | None:
        """Look anew at the same folder. None while something is done, and once there is an index."""
        with self._lock:
            if self._state not in ("ready", "stopped") or self._name is not None or self._stop.is_set():
                return None
            self._stop.set()
            loaded = encoder if config.is_index(self._place) else encoder or self._encoder
            return SetUp(self._service, self.folder, encoder=loaded, problem=self._problem)

    def leave(self) -> bool:
        """Give the folder up for another, unless it is being indexed or is. The thread ends soon."""
        with self._lock:
            if self._state not in ("looking", "ready", "stopped") or self._name is not None:
                return False
            self._stop.set()
            return True

    @property
    def has_ended(self) -> bool:
        """Whether its thread has."""
        return not self._thread.is_alive()

    def stop(self) -> dict[str, Any]:
        """Stop soon. What is done is kept, and `start` goes on from there."""
        with self._lock:
            if self._state == "indexing":
                self._state = "stopping"
        return self.told()

    def close(self) -> None:
        """Stop, and wait until what is done is saved."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        from clipsearch.indexer.plan import plan_index  # the page of an index does without

        problem = plan = None
        state: State = "ready"
        try:
            if config.is_index(self._place) and not self._stop.is_set():  # a run was stopped
                self._serve()
            encoder = self._loaded()
            if not self._stop.is_set():
                plan = plan_index(self.folder, encoder, stop=self._stop.is_set)
                if self._name is not None and not plan.to_read:
                    state = "done"
                    note_unfinished(self._place, unfinished=False)
        except (ClipsearchError, OSError) as error:
            problem = told_error(error)
        except Exception:
            _log.exception("planning the index of %s", self.folder)
            problem = FAILED
        with self._lock:
            self._plan, self._problem, self._state = plan, problem, state

    def _run(self) -> None:
        from clipsearch.indexer.api import index as index_pictures

        problem = None
        stopped = False
        asked = _Asked(self)
        note_unfinished(self._place, unfinished=True)
        try:
            report = index_pictures(self.folder, encoder=self._loaded(), progress=self._note, stop=asked)
            stopped = report.interrupted
            note_unfinished(self._place, unfinished=stopped)
            self._serve()
        except (ClipsearchError, OSError) as error:
            problem = told_error(error)
        except Exception:
            _log.exception("indexing %s", self.folder)
            problem = FAILED
        is_done = not stopped and problem is None
        plan = self._plan if is_done else self._left()
        with self._lock:
            self._problem, self._plan = problem, plan
            self._state = "done" if is_done else "stopped"
            self._progress = None

    def _left(self) -> IndexPlan | None:
        """What there is still to do after a run that was stopped, if that can be told."""
        from clipsearch.indexer.plan import plan_index

        try:
            plan = None if self._stop.is_set() else plan_index(self.folder, self._loaded(), stop=self._stop.is_set)
        except (ClipsearchError, OSError):  # the run said what is wrong
            return None
        except Exception:
            _log.exception("planning what is left of %s", self.folder)
            return None
        return plan if plan is not None and plan.to_read else None

    def _note(self, progress: Progress) -> None:
        with self._lock:
            self._progress = {
                "stage": progress.stage,
                "done": progress.done,
                "total": progress.total,
                "encoded": progress.encoded,
                "seconds": time.monotonic() - self._began,
            }
        if self._name is None and (self._place / "CURRENT").exists():
            try:
                self._serve()
            except (ClipsearchError, OSError) as error:  # it is tried again
                _log.warning("the index of %s cannot be opened yet: %s", self.folder, error)

    def _serve(self) -> None:
        served = self._service.engine.add(self._place)
        served.reload(wait=True)
        with self._lock:
            self._name = served.name

    def _loaded(self) -> Encoder:
        from clipsearch.encoder.names import load_encoder, model_at_hand
        from clipsearch.indexer.api import model_of

        if self._encoder is None:
            self._encoder = load_encoder(model_of(self._place) or model_at_hand())
        return self._encoder


class _Asked(threading.Event):
    """Set when a set-up is to stop, or the server ends."""

    def __init__(self, set_up: SetUp) -> None:
        super().__init__()
        self._set_up = set_up

    def is_set(self) -> bool:
        return self._set_up._stop.is_set() or self._set_up._state == "stopping"


class FirstUse:
    """The folder that is offered: another one where that may be named, and looked at again. Close it."""

    def __init__(self, service: Service, folder: Path, *, encoder: Encoder | None, others: bool) -> None:
        """`others`: whether another folder may be named."""
        self._service = service
        self._encoder = encoder
        self._others = others
        self._lock = threading.Lock()
        self._left: list[SetUp] = []
        self.set_up = SetUp(service, folder, encoder=encoder)

    def told(self) -> dict[str, Any]:
        """See `SetUpAnswer`."""
        return {**self.set_up.told(), "others": self._others}

    def start(self) -> dict[str, Any]:
        """Index the folder, or go on."""
        self.set_up.start()
        return self.told()

    def stop(self) -> dict[str, Any]:
        """Stop soon."""
        self.set_up.stop()
        return self.told()

    def look(self) -> dict[str, Any]:
        """Look again at the folder, which may have got pictures since."""
        with self._lock:
            self._replace(self.set_up.again(self._encoder))
        return self.told()

    def name(self, folder: str) -> dict[str, Any]:
        """Offer another folder, unless this one is being indexed or is. Raises: HTTPException."""
        if not self._others:
            raise HTTPException(404, "no other folder may be named on this server")
        with self._lock:
            if self.set_up.leave():
                self._replace(SetUp(self._service, expanded(folder), encoder=self._encoder))
        return self.told()

    def close(self) -> None:
        """Stop, and wait until what is done is saved."""
        with self._lock:
            for one in (*self._left, self.set_up):
                one.close()

    def _replace(self, new: SetUp | None) -> None:
        if new is not None:
            self._left = [one for one in (*self._left, self.set_up) if not one.has_ended]
            self.set_up = new


def is_unfinished(place: Path) -> bool:
    """Whether the page began the index at `place`, and the run was stopped: there is more to do."""
    return to_bytes(place.absolute()).hex() in _unfinished() and config.is_index(place)


def note_unfinished(place: Path, *, unfinished: bool) -> None:
    """Note this for the next time. If it cannot be noted, nobody is told then."""
    name = to_bytes(place.absolute()).hex()
    known = _unfinished()
    if (name in known) is not unfinished:
        kept = [*known[-MOST_KNOWN:], name] if unfinished else [one for one in known if one != name]
        config.write_small(config.state_dir() / UNFINISHED, json.dumps(kept))


def _unfinished() -> list[str]:
    try:
        return [str(one) for one in json.loads(config.read_plain(config.state_dir() / UNFINISHED, 1 << 20))]
    except (OSError, ValueError, TypeError):
        return []


class Known:
    """The indexes that were used on this machine. Only those of the registry can be opened."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def told(self) -> list[dict[str, str]]:
        """Those that are there and not served yet, the last one first."""
        return [{"id": identity, "folder": readable(str(_folder_of(path)))} for identity, path in self._there().items()]

    def open(self, identity: str) -> dict[str, str]:
        """Serve one of them. Raises: UnknownIndex, CorruptIndex, UnsupportedIndex, ModelNotFound."""
        path = self._there().get(identity)
        if path is None:
            raise UnknownIndex(identity, self._service.engine.names)
        return {"index": self._service.engine.add(path).name}

    def _there(self) -> dict[str, Path]:
        open_now = {os.path.realpath(served.path) for served in self._service.engine.indexes.values()}
        found: dict[str, Path] = {}
        for path in config.known_indexes():
            identity = config.marker_of(path)
            if identity is not None and os.path.realpath(path) not in open_now:
                found.setdefault(identity, path)
            if len(found) == MOST_KNOWN:
                break
        return found


def _folder_of(index: Path) -> Path:
    return index.parent if index.name == config.INDEX_DIR_NAME else index


def add_first_use(app: FastAPI, service: Service, first: FirstUse | None, known: Known | None) -> None:
    """Add what the page asks of indexes that are not served yet to `app`; what is None is not offered."""

    def told() -> dict[str, Any]:
        return {
            "set_up": None if first is None else first.told(),
            "known": [] if known is None else known.told(),
        }

    @app.get("/v1/start", tags=["page"], **documented(StartAnswer, 503))
    async def start() -> Response:
        """Show the folder that `clipsearch ui` offers to index, and the indexes used before that can be opened."""
        return await service.searches.run(lambda: AsciiJSON(told()))

    def offered() -> FirstUse:
        if first is None:
            raise HTTPException(404, "every folder that this server was started with has an index")
        return first

    @app.post("/v1/start/index", tags=["page"], **documented(SetUpAnswer, 404, 503))
    async def index() -> Response:
        """Index the folder that is offered, or go on with it."""
        return await service.searches.run(lambda: AsciiJSON(offered().start()))

    @app.post("/v1/start/stop", tags=["page"], **documented(SetUpAnswer, 404, 503))
    async def stop() -> Response:
        """Stop indexing. What is done is kept."""
        return await service.searches.run(lambda: AsciiJSON(offered().stop()))

    @app.post("/v1/start/look", tags=["page"], **documented(SetUpAnswer, 404, 503))
    async def look() -> Response:
        """Look again at the folder that is offered. Nothing is written."""
        return await service.searches.run(lambda: AsciiJSON(offered().look()))

    @app.post("/v1/start/folder", tags=["page"], **documented(SetUpAnswer, 404, 413, 422, 503))
    async def folder(asked: FolderRequest, request: Request) -> Response:
        """Offer another folder of this machine instead, where the server may. Nothing is written."""
        if not is_of_this_machine(request):
            raise HTTPException(404, "no other folder may be named from another machine")
        return await service.searches.run(lambda: AsciiJSON(offered().name(asked.folder)))

    @app.post("/v1/start/open", tags=["page"], **documented(OpenAnswer, 404, 413, 422, 503))
    async def open_known(asked: OpenRequest) -> Response:
        """Serve an index that was used before, by its id."""

        def opened() -> dict[str, str]:
            if known is None:
                raise UnknownIndex(asked.id, service.engine.names)
            return known.open(asked.id)

        return await service.searches.run(lambda: AsciiJSON(opened()))
