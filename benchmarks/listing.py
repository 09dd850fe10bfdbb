"""What it takes to index a bucket of very many objects: memory for each, from the first run and after one was killed.

    python -m benchmarks.listing [--keys 1000000] [--read 100000]

The bucket is made up, in this process, where `s3fs` would be: one folder, of which a listing gives pages of 1,000.
`plan` lists all of `--keys`, and a tenth of them. `index` reads `--read` objects, all of one content of a few bytes,
with an executor that neither reads nor encodes pictures but makes up a content hash and a vector (64 numbers) for each:
what is measured is the process that lists, notes and commits. Then the same is killed in the middle (SIGKILL) and
started again, and the rows of both are compared with the bucket. Every measured run is a process of its own. "a key" is
what the most memory of a larger run is above that of a smaller one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fsspec
import numpy as np
import xxhash

from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.executors import Work
from clipsearch.indexer.plan import plan_index
from clipsearch.pictures.pool import DecodeResult, DecodeTask, results_of
from clipsearch.places import as_address
from clipsearch.search.collection import Collection
from tests.support.fake_encoder import FakeEncoder

ADDRESS = "s3://bucket/photos"
PAGE = 1000
CONTENT = b"made up"
TIME = datetime(2026, 1, 1, tzinfo=UTC)


class Bucket(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """What `s3fs` tells of a folder with so many objects."""

    protocol = ("s3", "s3a")
    keys = 0
    pages = 0

    def call_s3(self, method: str, **asked: Any) -> dict[str, Any]:
        """A page."""
        assert method == "list_objects_v2" and asked["Prefix"] == "photos/"
        Bucket.pages += 1
        start = int(asked.get("ContinuationToken", 0))
        stop = min(start + PAGE, self.keys)
        made: dict[str, Any] = {"Contents": [self._object(number) for number in range(start, stop)]}
        return made if stop == self.keys else {**made, "IsTruncated": True, "NextContinuationToken": str(stop)}

    def _object(self, number: int) -> dict[str, Any]:
        return {
            "Key": f"photos/{number:012d}.jpg",
            "LastModified": TIME,
            "ETag": f'"{number:032x}"',
            "Size": len(CONTENT),
            "StorageClass": "STANDARD",
        }

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        """All of the folder at once, as it was asked for before."""
        found = []
        for number in range(self.keys):
            one = self._object(number)
            found.append({**one, "Key": f"bucket/{one['Key']}", "name": f"bucket/{one['Key']}", "type": "file"})
            found[-1]["size"] = one["Size"]
        return found

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        """A copy."""
        Path(lpath).write_bytes(CONTENT)


@dataclasses.dataclass
class MakesUp:
    """An executor whose results are made up. `dies_after`: kills this process after so many."""

    dies_after: int | None = None

    def check(self) -> None:
        """It is in this process."""

    def open(self, work: Work) -> MakesUp._Pool:
        return MakesUp._Pool(work.encoder.dim, self.dies_after)

    class _Pool:
        workers = 2
        capacity = 64

        def __init__(self, dim: int, dies_after: int | None) -> None:
            self._dim = dim
            self._left = dies_after
            self._made: deque[DecodeResult] = deque()

        @property
        def pending(self) -> int:
            return len(self._made)

        def submit(self, task: DecodeTask) -> None:
            number = task.key if task.mode == "decode" else None
            content = xxhash.xxh3_128_hexdigest((task.member or task.path).encode())
            vectors = None
            if number is not None:
                made = np.random.default_rng(number).standard_normal((1, self._dim)).astype(np.float32)
                vectors = made / np.linalg.norm(made)
            self._made.append(DecodeResult(task.key, content, 1, 1, vectors=vectors))

        def next_result(self) -> DecodeResult | None:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return self._made.popleft() if self._made else None

        def run(self, tasks: Iterable[DecodeTask]) -> Iterator[DecodeResult]:
            return results_of(self, tasks)

        def rates(self) -> tuple[tuple[str, float], ...]:
            return ()

        def warnings(self) -> list[str]:
            return []

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...


def measured(what: str, keys: int, index: Path, dies_after: int | None = None) -> dict[str, Any] | None:
    """What a process says that did it; None if it was killed."""
    command = [sys.executable, "-m", "benchmarks.listing", "--do", what, "--keys", str(keys), "--index", str(index)]
    if dies_after is not None:
        command += ["--dies-after", str(dies_after)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -signal.SIGKILL and dies_after is not None:
        return None
    assert done.returncode == 0, command
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def do(what: str, keys: int, index: Path, dies_after: int | None) -> dict[str, Any]:
    """One measured run, in a process of its own."""
    fsspec.register_implementation("s3", Bucket, clobber=True)
    Bucket.keys = keys
    encoder, options, began = FakeEncoder(), IndexOptions(new=True), time.process_time()
    if what == "plan":
        plan = plan_index(as_address(ADDRESS), encoder, index=index, options=options)
        told: dict[str, Any] = {"to_read": plan.to_read, "unchanged": plan.unchanged}
    else:
        executor = MakesUp(dies_after)
        report = index_folder(as_address(ADDRESS), encoder, index=index, options=options, executor=executor)
        told = {"pictures": report.pictures, "encoded": report.encoded, "unchanged": report.unchanged}
        assert not report.missing and not report.removed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**told, "pages": Bucket.pages, "cpu_s": round(time.process_time() - began, 1), "peak_bytes": peak}


def check(index: Path, keys: int) -> None:
    """That an index has every object once."""
    with Collection(index, encoder=FakeEncoder()) as photos:
        names = sorted(photos.record(int(row)).path for row in photos.row_ids())
    assert names == [f"{number:012d}.jpg" for number in range(keys)], "rows are lost, or there twice"


def show(what: str, told: dict[str, Any] | None) -> None:
    """A line of the results."""
    if told is None:
        print(f"{what}: killed")
        return
    rest = ", ".join(f"{name} {value:,}" for name, value in told.items() if name != "peak_bytes")
    print(f"{what}: at most {told['peak_bytes'] / 1e6:.0f} MB ({rest})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--read", type=int, default=100_000)
    parser.add_argument("--do", choices=("plan", "index"), help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dies-after", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.do:
        print(json.dumps(do(asked.do, asked.keys, asked.index, asked.dies_after)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made = {}
        for what, keys in (("plan", asked.keys), ("index", asked.read)):
            for part in (keys // 10, keys):
                told = made[what, part] = measured(what, part, place / f"{what}-{part}")
                show(f"{what} of {part:,}", told)
                if what == "index":
                    check(place / f"{what}-{part}", part)
            few, all_of = made[what, keys // 10], made[what, keys]
            assert few is not None and all_of is not None
            print(f"  a key: {(all_of['peak_bytes'] - few['peak_bytes']) / (keys - keys // 10):.0f} bytes", flush=True)
        index = place / "killed"
        show("index, killed in the middle", measured("index", asked.read, index, asked.read // 2))
        show("index, started again", measured("index", asked.read, index))
        check(index, asked.read)
        show("index, started once more", measured("index", asked.read, index))
        print("every object is there once")


if __name__ == "__main__":
    main()
