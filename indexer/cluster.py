"""Index on a Ray cluster: workers of several machines read and encode, and the process that asked for it commits.

Each worker is a Ray actor that keeps the encoder loaded, with decoding processes of its own, so that a picture that
hangs or kills its decoder costs only itself. `schedule` says who does what, `units` what is done. Nothing here writes a
file. Ray is imported when a run begins, never by a query.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import clipsearch
from clipsearch.cores import available_cores, use_cores
from clipsearch.encoder import Encoder
from clipsearch.encoder.kinds import Precision
from clipsearch.errors import ClipsearchError, ClusterError, InvalidArgument, first_line
from clipsearch.indexer.connection import address_of, check_ray, connect
from clipsearch.indexer.executors import LocalPool, Work, open_local
from clipsearch.indexer.schedule import DEPTH, TRIES, Schedule, Unit
from clipsearch.indexer.units import (
    FragmentEncoder,
    FragmentPlan,
    Receipt,
    carry,
    encode_fragment,
    is_carried,
    packed,
    unpacked,
)
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask, results_of
from clipsearch.places import is_address
from clipsearch.query.arguments import read_number
from clipsearch.records import FloatArray, Preprocessing

MOST_CPUS = 8  # of a worker on a machine without a GPU, where nobody says how many
FIRST_UNIT = 16  # pictures
LARGEST_UNIT = 1024
UNIT_S = 2.0  # of work: what a unit should be, and at most twice that is lost with a worker
_TICK_S = 0.5
_NODES_EVERY_S = 1.0
_START_TRIES = 3  # of a worker that dies before it has done anything
_NO_WORKER_S = 300.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a worker loads the model: what `load_encoder` takes."""

    model: str
    checkpoint: str | None = None
    device: str | None = None
    precision: Precision = "auto"
    allow_pickle: bool = False

    def __call__(self) -> Encoder:
        """Load it. Raises: as `load_encoder`."""
        from clipsearch.encoder.names import load_encoder

        return load_encoder(
            self.model,
            checkpoint=self.checkpoint,
            device=self.device,
            precision=self.precision,
            allow_pickle=self.allow_pickle,
        )


@dataclass(frozen=True, slots=True)
class RayExecutor:
    """The workers of a Ray cluster.

    `address` of its head; None: $RAY_ADDRESS, else one that is begun here, on this machine, for this run. A program
    that is connected to a cluster already uses that one. `load` makes the encoder on each worker (default: by its
    name). `cpus` and `gpus` of each worker: by default one with all processors of a machine, or several with MOST_CPUS
    each; one for each GPU, where there are GPUs and the model runs there. `unit_pictures`: files that a worker is
    given at once; by default what takes it about two seconds.
    """

    address: str | None = None
    load: Callable[[], Encoder] | None = None
    cpus: int | None = None
    gpus: float | None = None
    unit_pictures: int | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidArgument."""
        for name, value, least in (("cpus", self.cpus, 1), ("gpus", self.gpus, 0), ("unit", self.unit_pictures, 1)):
            if value is not None:
                read_number(name, value, least)
        if self.address is not None and self.address.startswith("ray://"):
            raise InvalidArgument("address", self.address, "HOST:PORT of the head, or auto; not a Ray Client (ray://)")

    def check(self) -> None:
        """Connect to a cluster that is not begun here, and disconnect. Raises: MissingExtra, ClusterError."""
        check_ray("indexing on a cluster")
        if address_of(self.address) is not None:
            connect(self.address).close()

    def open(self, work: Work) -> RayPool:
        """Connect, or begin a cluster. Raises: MissingExtra, ClusterError."""
        return RayPool(self, work)


@dataclass(frozen=True, slots=True)
class _Setup:
    """What each worker is told when it starts."""

    root: str | None  # None: no folder
    load: Callable[[], Encoder]
    fingerprint: str
    preprocessing: Preprocessing
    cores: int
    workers: int | None
    timeout_s: float
    max_pixels: int | None
    views: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a worker cannot work."""

    problem: str


@dataclass(frozen=True, slots=True)
class _Started:
    decoders: int


_Packed = tuple[list[DecodeResult], list[int], FloatArray | None]


class UnitWorker:
    """A Ray actor: a loaded encoder and its decoding processes."""

    def __init__(self, version: str, setup: _Setup) -> None:
        self._version = version
        self._setup = setup
        self._encoder: FragmentEncoder | None = None

    def start(self) -> _Started | Refusal:
        """Load the encoder. What keeps this machine from working is the answer."""
        setup = self._setup
        if self._version != clipsearch.__version__:
            return Refusal(f"it has clipsearch {clipsearch.__version__}, and the index is made by {self._version}")
        if setup.root is not None and not Path(setup.root).is_dir():
            return Refusal(f"it has no folder {setup.root}. Mount the pictures at the same path on each machine")
        use_cores(setup.cores)
        try:
            encoder = setup.load()
        except ClipsearchError as error:
            return Refusal(str(error))
        if encoder.fingerprint != setup.fingerprint:
            return Refusal(f"its model {encoder.name} is not the one of the index")
        pool = DecodePool(
            setup.preprocessing,
            workers=setup.workers or (available_cores() if encoder.is_on_gpu else None),
            timeout_s=setup.timeout_s,
            max_pixels=setup.max_pixels,
            pieces=True,
            views=setup.views,
        )
        self._encoder = FragmentEncoder(encoder, pool)
        return _Started(pool.workers)

    def encode(self, plan: FragmentPlan) -> tuple[Receipt, _Packed] | Refusal:
        """Do a unit. Its output is the answer."""
        assert self._encoder is not None
        made: list[list[DecodeResult]] = []
        try:
            receipt = encode_fragment(plan, self._encoder, lambda name, results: made.append(results))
        except ClipsearchError as error:
            return Refusal(str(error))
        return receipt, packed(made[0])


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    node: str  # Ray's id of its machine
    handle: Any
    starting: Any  # the reference of its start; None: it has started
    decoders: int = 0
    started_at: float = 0.0
    done: int = 0
    busy: dict[Any, Unit] = field(default_factory=dict)


class RayPool:
    """Takes tasks and gives results, as `DecodePool`, but with vectors, made by the workers of a cluster."""

    def __init__(self, executor: RayExecutor, work: Work) -> None:
        check_ray("indexing on a cluster")
        import ray

        self._ray = ray
        self._executor = executor
        self._work = work
        self._root = os.fspath(work.root)
        self._schedule = Schedule(
            lambda: not self._settled, lambda task: task.size_bytes if is_carried(task, self._root) else 0
        )
        self._precision = work.precision
        self._settled = work.precision is not None
        self._results: deque[DecodeResult] = deque()
        self._own: LocalPool | None = None  # for files that only this machine can read
        self._workers: dict[str, _Worker] = {}
        self._names = itertools.count()
        self._labels: dict[str, str] = {}  # of machines, by their ids
        self._refused: dict[str, str] = {}  # machines that cannot work, and why
        self._deaths: Counter[str] = Counter()  # of workers that had done nothing, by machine
        self._blind: Counter[str] = Counter()  # files that a machine cannot read and this one can
        self._done_of: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._looked_at = -_NODES_EVERY_S
        self._had_worker_at = time.monotonic()
        self._tasks_of: dict[int, DecodeTask] = {}
        self.pending = 0
        """How many tasks were submitted whose results were not returned yet."""
        self._connection = connect(executor.address)

    # -- the cluster

    def _alive(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _look_at_nodes(self) -> None:
        """Let each machine of the cluster have its workers."""
        now = time.monotonic()
        if now - self._looked_at < _NODES_EVERY_S:
            return
        self._looked_at = now
        alive = self._alive()
        there = {node["NodeID"] for node in alive}
        if not there and self._connection.is_local:  # it has no other machine to wait for
            raise ClusterError(
                "the cluster that this run started on this machine has ended: Ray's process raylet is gone. Finished "
                "work is kept: run the same command again"
            )
        for worker in [worker for worker in self._workers.values() if worker.node not in there]:
            self._lose(worker, to_blame=False)
        has = Counter(worker.node for worker in self._workers.values())
        for node in alive:
            node_id, resources = node["NodeID"], node["Resources"]
            self._label(node)
            if node_id in self._refused:
                continue
            count, cpus, gpus = self._share(resources)
            for _ in range(count - has[node_id]):
                self._begin(node_id, cpus, gpus)
        if self._workers:
            if any(worker.starting is None for worker in self._workers.values()):
                self._had_worker_at = now
            elif now - self._had_worker_at > _NO_WORKER_S:
                raise ClusterError(
                    f"no worker could start in {_NO_WORKER_S:.0f} s: the cluster's processors may all be in use. "
                    f"Its machines: {', '.join(sorted(self._labels[node] for node in there))}"
                )
        elif self._refused and there <= set(self._refused):
            self._give_up()
        elif self._connection.is_local and not any(self._share(node["Resources"])[0] for node in alive):
            has = alive[0]["Resources"]
            raise ClusterError(
                f"this machine has {int(has.get('CPU', 0))} processors and {int(has.get('GPU', 0))} GPUs, less than a "
                "worker is to have. Ask for less with --worker-cpus and --worker-gpus, or name a cluster with --address"
            )
        elif now - self._had_worker_at > _NO_WORKER_S:
            raise ClusterError(
                "the cluster has no machine with processors for a worker. Finished work is kept: when it has one "
                "again, the same command goes on"
            )

    def _give_up(self) -> None:
        problems = "; ".join(f"{self._labels[node]}: {why}" for node, why in self._refused.items())
        raise ClusterError(f"no machine of the cluster can work. {problems}")

    def _label(self, node: dict[str, Any]) -> None:
        if node["NodeID"] not in self._labels:
            name = str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress") or "machine")
            same = sum(label.partition(" (")[0] == name for label in self._labels.values())
            self._labels[node["NodeID"]] = name if not same else f"{name} ({same + 1})"

    def _share(self, resources: dict[str, float]) -> tuple[int, int, float]:
        """How many workers a machine gets, and the processors and GPUs of each."""
        cores, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
        if cores < 1:
            return 0, 0, 0.0
        wanted = self._executor.gpus
        each = wanted if wanted is not None else (1.0 if gpus and self._may_use_gpu() else 0.0)
        if each > 0:
            count = int(gpus / each)
            cpus = self._executor.cpus or max(1, cores // max(1, count))
            return min(count, max(1, cores // cpus)) if count else 0, cpus, each
        cpus = self._executor.cpus or min(cores, MOST_CPUS)
        return cores // cpus, cpus, 0.0

    def _may_use_gpu(self) -> bool:
        from clipsearch.encoder.kinds import OPEN_CLIP

        load = self._executor.load
        on_cpu = isinstance(load, Recipe) and load.device is not None and load.device.startswith("cpu")
        encoder = self._work.encoder
        return not on_cpu and (encoder.is_on_gpu or encoder.name.startswith(OPEN_CLIP))

    def _begin(self, node: str, cpus: int, gpus: float) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        work = self._work
        setup = _Setup(
            None if is_address(work.root) else self._root,
            self._executor.load or Recipe(work.encoder.name),
            work.encoder.fingerprint,
            work.encoder.preprocessing,
            cpus,
            work.workers,
            work.timeout_s,
            work.max_pixels,
            work.views_to_read,
        )
        actor = self._ray.remote(UnitWorker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=DEPTH,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
        )
        handle = actor.remote(clipsearch.__version__, setup)
        name = f"worker-{next(self._names)}"
        self._workers[name] = _Worker(name, node, handle, handle.start.remote())

    # -- what a run asks

    @property
    def workers(self) -> int:
        return max(1, sum(worker.decoders for worker in self._workers.values()))

    @property
    def capacity(self) -> int:
        """Enough that no worker waits, and no more: what is in here is lost with this process."""
        sizes = [self._unit_size(worker) for worker in self._workers.values()] or [FIRST_UNIT]
        return (DEPTH + 1) * sum(sizes)

    def submit(self, task: DecodeTask) -> None:
        """Queue a task; never blocks."""
        self.pending += 1
        self._schedule.add(task)

    def next_result(self) -> DecodeResult | None:
        """Wait for a result; None if nothing is pending, or nothing came for a moment. Raises: ClusterError."""
        if self.pending == 0:
            return None
        from ray.exceptions import RayError

        try:
            if not self._results:
                self._pump(_TICK_S)
            elif len(self._results) % FIRST_UNIT == 0:
                self._pump(0.0)
        except RayError as error:
            raise ClusterError(
                f"the cluster was lost: {first_line(error)}. Finished work is kept. Run the same command again"
            ) from error
        if not self._results:
            return None
        self.pending -= 1
        return self._results.popleft()

    def run(self, tasks: Iterable[DecodeTask]) -> Iterator[DecodeResult]:
        """See `DecodePool.run`."""
        return results_of(self, tasks)

    def rates(self) -> tuple[tuple[str, float], ...]:
        """Files a second of each machine that works, since its first worker started."""
        now = time.monotonic()
        there = {worker.node for worker in self._workers.values()}
        found = [
            (self._labels[node], self._done_of[node] / max(now - since, 1e-3))
            for node, since in self._since.items()
            if node in there
        ]
        return tuple(sorted(found))

    def warnings(self) -> list[str]:
        """Machines that could not do their part."""
        told = [f"{self._labels[node]} did not take part: {why}" for node, why in self._refused.items()]
        told += [
            f"{self._labels[node]} cannot read {count:,} files, so this machine read them"
            for node, count in self._blind.items()
        ]
        return sorted(told)

    # -- giving and taking units

    def _unit_size(self, worker: _Worker) -> int:
        """Files that take a worker about UNIT_S."""
        if self._executor.unit_pictures is not None:
            return self._executor.unit_pictures
        if not worker.done:
            return FIRST_UNIT
        rate = worker.done / max(time.monotonic() - worker.started_at, 1e-3)
        return max(FIRST_UNIT, min(int(rate * UNIT_S), LARGEST_UNIT))

    def _pump(self, wait_s: float) -> None:
        """Give units to workers that have time, and take the answers of those that are done."""
        self._look_at_nodes()
        self._give(whole=wait_s == 0)
        refs = [ref for worker in self._workers.values() for ref in worker.busy]
        refs += [worker.starting for worker in self._workers.values() if worker.starting is not None]
        own = self._own is not None and self._own.pending > 0
        if own and self._own is not None and (result := self._own.next_result(0.01 if wait_s else 0.0)) is not None:
            self._results.append(result)
        if not refs:
            time.sleep(0 if own else min(wait_s, 0.05))
            return
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=0.0 if own else wait_s)
        if ready:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            self._take(ref)
        if ready:
            self._give(whole=bool(self._results))

    def _give(self, *, whole: bool) -> None:
        now = time.monotonic()
        idle = [worker for worker in self._workers.values() if worker.starting is None]
        for depth in range(DEPTH):
            for worker in idle:
                if len(worker.busy) > depth:
                    continue
                unit = self._schedule.next_for(worker.name, self._unit_size(worker), now, whole=whole)
                if unit is not None:
                    tasks, carried = carry(unit.tasks, self._root)
                    plan = FragmentPlan(
                        tasks,
                        self._work.encoder.fingerprint,
                        self._precision,
                        self._work.views,
                        self._work.batch_pictures,
                        carried,
                        self._work.regions,
                    )
                    worker.busy[worker.handle.encode.remote(plan)] = unit

    def _take(self, ref: Any) -> None:
        """The answer of a worker, or its end."""
        found = [w for w in self._workers.values() if ref in w.busy or (w.starting is not None and ref == w.starting)]
        if not found:
            return  # it was lost meanwhile
        worker = found[0]
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        try:
            answer = self._ray.get(ref)
        except RayTaskError as error:
            problem = first_line(error.cause or error)
            if worker.starting is not None:
                self._refuse(worker, problem)
                return
            raise ClusterError(f"a worker on {self._labels[worker.node]}: {problem}") from error
        except ObjectLostError:
            unit = worker.busy.pop(ref, None)
            if unit is not None:
                self._schedule.failed(unit, worker.name)
            return
        except RayActorError as error:
            self._died(worker, error)
            return
        if worker.starting is not None:
            self._started(worker, answer)
            return
        unit = worker.busy.pop(ref)
        if isinstance(answer, Refusal):
            raise ClusterError(f"a worker on {self._labels[worker.node]}: {answer.problem}")
        receipt, made = answer
        now = time.monotonic()
        worker.done += receipt.files
        self._done_of[worker.node] += receipt.files
        self._deaths.pop(worker.node, None)
        if not self._schedule.answered(unit, worker.name, now):
            return
        if not self._settled and receipt.encoded:
            self._settled, self._precision = True, receipt.precision
        tasks = {task.key: task for task in unit.tasks}
        for result in unpacked(*made):
            if result.skip is not None and result.skip[0] == "unreadable" and _can_read(tasks[result.key].path):
                self._blind[worker.node] += 1
                self._read_here(tasks[result.key])
            else:
                self._results.append(result)

    def _started(self, worker: _Worker, answer: _Started | Refusal) -> None:
        if isinstance(answer, Refusal):
            self._refuse(worker, answer.problem)
            return
        worker.starting = None
        worker.decoders = answer.decoders
        worker.started_at = time.monotonic()
        self._since.setdefault(worker.node, worker.started_at)

    def _refuse(self, worker: _Worker, problem: str) -> None:
        self._refused[worker.node] = problem
        for other in [other for other in self._workers.values() if other.node == worker.node]:
            self._lose(other, to_blame=False)
        self._looked_at = -_NODES_EVERY_S

    def _died(self, worker: _Worker, error: Exception) -> None:
        """The process of a worker ended: was it what it did, or is its machine gone?"""
        alive = any(node["NodeID"] == worker.node for node in self._alive())
        if worker.starting is not None and alive:
            self._deaths[worker.node] += 1
            if self._deaths[worker.node] >= _START_TRIES:
                self._refuse(worker, f"its workers die when they start ({first_line(error)})")
                return
        self._lose(worker, to_blame=alive and "its node has died" not in str(error))
        self._looked_at = -_NODES_EVERY_S

    def _lose(self, worker: _Worker, *, to_blame: bool) -> None:
        self._workers.pop(worker.name, None)
        with contextlib.suppress(Exception):  # it is dead already, mostly
            self._ray.kill(worker.handle)
        reason = f"the worker that read it died, {TRIES} times"
        for task in self._schedule.lost(worker.name, to_blame=to_blame):
            self._results.append(DecodeResult(task.key, skip=("decoder_crashed", reason)))

    def _read_here(self, task: DecodeTask) -> None:
        """Read a file on this machine, which alone can. Its pieces are the result."""
        if self._own is None:
            self._own = open_local(self._work)
        self._own.submit(task)

    def close(self) -> None:
        """End the workers; what is pending is lost."""
        self.pending = 0
        self._results.clear()
        if self._own is not None:
            self._own.close()
        for worker in list(self._workers.values()):
            with contextlib.suppress(Exception):  # Ray ends those of a program that ended
                self._ray.kill(worker.handle)
        self._workers.clear()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _can_read(path: str) -> bool:
    """Whether this machine can read a file that another could not."""
    try:
        with open(path, "rb") as file:
            file.read(1)
        return True
    except OSError:
        return False
