"""Shards behind Ray Serve: each a deployment, with replicas for load, which Ray Serve starts, restarts and counts.

Ray Serve's own HTTP server is not started: who asks comes by clipsearch's, with its rules. Ray is imported when the
first index is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import xxhash

import clipsearch
from clipsearch.cores import available_cores
from clipsearch.encoder import Encoder
from clipsearch.errors import ClipsearchError, ClusterError, MissingExtra, first_line
from clipsearch.filenames import safe, to_bytes
from clipsearch.indexer.connection import check_ray, connect
from clipsearch.records import FloatArray, IntArray
from clipsearch.search.shard import Generation, Shard
from clipsearch.server.shards import TIMEOUT_S, Response, ShardedCollection, Shards

START_S = 120.0
AT_ONCE = 16  # queries of a replica; more wait
PER_REPLICA = 2.0  # queries at once, from which on Ray Serve starts another replica
REFRESH_S = 0.5

_log = logging.getLogger("clipsearch.server")


@dataclass(frozen=True, slots=True)
class Sharding:
    """How indexes are searched on a cluster. `address` of its head; None: $RAY_ADDRESS, else one that is begun here.
    `most_replicas`: as many as Ray Serve may start for load."""

    shards: int = 1
    replicas: int = 1
    most_replicas: int | None = None
    address: str | None = None
    timeout_s: float = TIMEOUT_S

    @property
    def most(self) -> int:
        """Replicas of a shard, at most."""
        return max(self.replicas, self.most_replicas or 0)


class Replica:
    """What a process of Ray Serve does: one shard."""

    def __init__(self, version: str, index: str, number: int, of: int) -> None:
        if version != clipsearch.__version__:
            raise ClusterError(f"it has clipsearch {clipsearch.__version__}, and the server {version}")
        self._shard = Shard(Path(index), (number, of))
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="clipsearch-shard")
        threading.Thread(target=self._refresh, name="clipsearch-refresh", daemon=True).start()

    def _refresh(self) -> None:
        """Open each new generation before somebody asks for it."""
        told = ""
        while True:
            time.sleep(REFRESH_S)
            try:
                self._shard.refresh()
                told = ""
            except (ClipsearchError, OSError) as error:
                if (line := str(error)) != told:
                    _log.warning("no new generation: %s", line)
                told = line

    async def search(
        self, generation: Generation, queries: FloatArray, k: int, exact: bool, selection: IntArray | None
    ) -> tuple[FloatArray, IntArray] | None:
        """See `Shard.search`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._shard.search, generation, queries, k, exact, selection
        )

    async def has(self, generation: Generation) -> bool:
        """See `Shard.has`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._shard.has, generation)


class _Handle:
    """A `Member`, by Ray Serve's handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def search(self, *asked: Any) -> Response:
        response: Response = self._handle.search.remote(*asked)
        return response

    def has(self, generation: Generation) -> Response:
        response: Response = self._handle.has.remote(generation)
        return response


class RayServe:
    """Deploys the shards of indexes, and ends them. Close it, or use it in a `with`."""

    def __init__(self, sharding: Sharding, indexes: int) -> None:
        """Connect, or begin a cluster for so many `indexes`. Raises: MissingExtra, ClusterError."""
        check_ray("serving from shards")
        try:
            from ray import serve
        except ModuleNotFoundError as error:
            raise MissingExtra("ray", "serving from shards") from error
        self._serve = serve
        self._sharding = sharding
        self._shards: dict[str, Shards] = {}
        self._applications: list[str] = []
        self._deploying = threading.Lock()
        cpus = max(available_cores(), indexes * sharding.shards * sharding.most)
        self._connection = connect(sharding.address, cpus=cpus)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(proxy_location="Disabled", logging_config=self._logging)
        except BaseException:
            self._connection.close()
            raise

    @property
    def _logging(self) -> dict[str, Any]:
        return {"log_level": "ERROR", "enable_access_log": False}

    def open(self, index: Path, encoder: Encoder, observe: Callable[[str, int], None]) -> ShardedCollection:
        """The newest generation of an index, for shards to search. Raises: see Collection; ClusterError."""
        return ShardedCollection.opened(index, encoder, observe, self._of(index))

    @property
    def shards(self) -> list[Shards]:
        """Of each index that was opened."""
        return list(self._shards.values())

    def _of(self, index: Path) -> Shards:
        place = os.path.realpath(index)
        with self._deploying:
            if place not in self._shards:
                self._shards[place] = self._deployed(place)
            return self._shards[place]

    def _deployed(self, place: str) -> Shards:
        """Start the shards of an index, or change those that a server before this one left. Raises: ClusterError."""
        serve, sharding = self._serve, self._sharding
        count: dict[str, Any] = {"num_replicas": sharding.replicas}
        if sharding.most > sharding.replicas:
            count = {
                "autoscaling_config": {
                    "min_replicas": sharding.replicas,
                    "max_replicas": sharding.most,
                    "target_ongoing_requests": PER_REPLICA,
                }
            }
        deployment = serve.deployment(Replica).options(
            name="shard",
            max_ongoing_requests=AT_ONCE,
            health_check_period_s=1.0,
            health_check_timeout_s=10.0,
            graceful_shutdown_timeout_s=2.0,
            ray_actor_options={"num_cpus": 1},
            logging_config=self._logging,
            **count,
        )
        known = xxhash.xxh3_64_hexdigest(to_bytes(place))
        folder = Path(place).parent.name if Path(place).name == ".clipsearch" else Path(place).name
        named = {
            f"clipsearch-{known}-{number}-of-{sharding.shards}": f"shard {number + 1} of {sharding.shards} of {folder}"
            for number in range(sharding.shards)
        }
        targets = [
            serve.RunTarget(
                deployment.bind(clipsearch.__version__, place, number, sharding.shards), name, route_prefix=None
            )
            for number, name in enumerate(named)
        ]
        self._applications += named
        try:
            serve.run_many(targets, wait_for_applications_running=False)
            self._wait(list(named))
            members = {safe(told): _Handle(serve.get_app_handle(name)) for name, told in named.items()}
        except ClusterError:
            raise
        except Exception as error:  # of many kinds, which Ray does not list
            raise ClusterError(f"the shards of {safe(place)} cannot be started: {first_line(error)}") from error
        return Shards(members, timeout_s=sharding.timeout_s, replicas=sharding.most)

    def _wait(self, names: list[str]) -> None:
        """Return when all are running. Raises: ClusterError."""
        until = time.monotonic() + START_S
        while True:
            found = self._serve.status().applications
            states = {name: found[name] for name in names if name in found}
            if all(name in states and states[name].status == "RUNNING" for name in names):
                return
            failed = [state for state in states.values() if state.status in ("DEPLOY_FAILED", "UNHEALTHY")]
            if failed or time.monotonic() > until:
                told = [
                    deployment.message
                    for state in failed or states.values()
                    for deployment in state.deployments.values()
                ]
                why = next((line for text in told for line in reversed(text.strip().splitlines()) if line), "")
                raise ClusterError(f"the shards do not start: {why or f'nothing happened in {START_S:.0f} s'}")
            time.sleep(0.1)

    def close(self) -> None:
        """End the shards; a cluster that was begun here ends."""
        for shards in self._shards.values():
            shards.close()
        self._shards.clear()
        with contextlib.suppress(Exception):  # the cluster may be gone, and they with it
            if self._connection.is_local:
                self._serve.shutdown()
            else:
                for name in self._applications:
                    self._serve.delete(name, _blocking=False)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
