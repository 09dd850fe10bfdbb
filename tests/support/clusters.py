"""A Ray cluster of this machine for tests, with fake encoders for its workers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.indexer.cluster import RayExecutor
from clipsearch.records import FloatArray, PixelArray
from tests.support.fake_encoder import COLOURS, FakeEncoder

REPOSITORY = Path(__file__).resolve().parents[2]
DIM = 64
POISON = "purple"


class ClusterEncoder(FakeEncoder):
    """A fake encoder that takes its time, and dies of pictures in the colour POISON.

    `hangs`: a file; whoever makes it hangs in its next call.
    """

    def __init__(
        self, pids: str = "", per_picture_s: float = 0.0, *, dies: bool = False, hangs: Path | None = None
    ) -> None:
        super().__init__(dim=DIM)
        self.hangs = hangs
        self.per_picture_s = per_picture_s
        self.dies = dies
        if pids:
            (Path(pids) / str(os.getpid())).touch()

    def encode_images(self, pixels: PixelArray) -> FloatArray:
        if self.dies:
            means = pixels.mean(axis=(1, 2))
            if (np.abs(means - np.array(COLOURS[POISON])).max(axis=1) < 8).any():
                os.kill(os.getpid(), signal.SIGKILL)
        if self.hangs is not None:
            with suppress(FileExistsError), self.hangs.open("x"):
                time.sleep(10_000)
        time.sleep(self.per_picture_s * len(pixels))
        return super().encode_images(pixels)


def ray_executor(address: str | None = None, *, pids: Path | None = None, **options: Any) -> RayExecutor:
    """Workers with a fake encoder, which write their process ids into `pids`."""
    made = {name: options.pop(name) for name in ("per_picture_s", "dies", "hangs") if name in options}
    load = partial(ClusterEncoder, "" if pids is None else str(pids), **made)
    return RayExecutor(address, load, **options)


@contextmanager
def place_for_ray() -> Iterator[Path]:
    """A short folder for Ray's files, whose sockets have short names; a token; the tests importable for workers."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra ray")  # half a gigabyte that few need: the local executor is tested all the same
    place = Path(tempfile.mkdtemp(prefix="cr", dir="/tmp"))
    wanted = {
        "RAY_TMPDIR": str(place),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(REPOSITORY),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")  # Ray reads its variables once
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield place
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def ray_cluster(nodes: int = 2) -> Iterator[Any]:
    """`ray.cluster_utils.Cluster` of so many nodes, each with one processor, without a dashboard."""
    with place_for_ray():
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for _ in range(nodes):
                add_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Any) -> Any:
    """One more node."""
    return cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20)
