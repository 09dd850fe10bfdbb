"""What fan-out does to waiting times: a query is as slow as its slowest shard. A simulation, fed with measured times.

Queries arrive at random (Poisson) and go to all shards at once. A shard has replicas, each of which does one query at a
time, first come, first served; a query goes to the one that is free first. How long a shard works on a query is drawn
from `shards_on_disk.py --json` (each shard of as many rows as were measured there: more shards are a larger
collection), with `--call-ms` on top for the call. Who asks waits for `--timeout-ms` at most, and what has not come then
is left out: the answer is partial.

Stragglers are of two kinds. `hiccup`: one call in a hundred takes 20 times as long, as when what it needs is not in
memory. `slow`: all replicas of one shard take three times as long, as on a machine that does something else, too.

Not simulated: the server that asks (its own work, and what a filter's rows take on the network), Ray Serve's choice by
a sample of replicas, which is worse than the first that is free, and autoscaling.
"""

from __future__ import annotations

import argparse
import heapq
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

Milliseconds = npt.NDArray[np.float64]
STRAGGLERS = ("none", "hiccup", "slow")
HICCUPS, HICCUP = 0.01, 20.0
SLOW = 3.0


def simulate(
    measured: Milliseconds,
    rng: np.random.Generator,
    *,
    shards: int,
    replicas: int,
    load: float,
    stragglers: str,
    queries: int,
    call_ms: float,
) -> Milliseconds:
    """How long each query waits for each shard. `load`: the share of its time that a replica works, without stragglers.

    Shape: (queries, shards).
    """
    between = measured.mean() / (replicas * load)
    arrivals = np.cumsum(rng.exponential(between, queries))
    waits = np.empty((queries, shards))
    for shard in range(shards):
        work = rng.choice(measured, queries)
        if stragglers == "hiccup":
            work = np.where(rng.random(queries) < HICCUPS, HICCUP * work, work)
        if stragglers == "slow" and shard == 0:
            work = SLOW * work
        free = [0.0] * replicas
        for query, (arrival, spent) in enumerate(zip(arrivals.tolist(), work.tolist(), strict=True)):
            done = max(arrival, free[0]) + spent
            heapq.heapreplace(free, done)
            waits[query, shard] = done - arrival + call_ms
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="what shards_on_disk.py --json wrote")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--load", type=float, nargs="+", default=[0.3])
    parser.add_argument("--call-ms", type=float, default=0.0, help="what a call of Ray Serve takes by itself")
    parser.add_argument("--timeout-ms", type=float, default=1500.0)
    parser.add_argument("--queries", type=int, default=20_000)
    arguments = parser.parse_args()
    told = json.loads(arguments.measured.read_text(encoding="utf-8"))
    each = np.array(told["each_ms"])
    measured = each.ravel()
    print(
        f"measured: {told['rows'] // told['shards']:,} rows a shard, median {np.median(measured):.1f} ms, p99 "
        f"{np.percentile(measured, 99):.1f} ms"
    )
    # Is it right to draw them independently? The slowest of the shards that were measured, and of as many drawn:
    rng = np.random.default_rng(0)
    drawn = rng.choice(measured, (arguments.queries, each.shape[1])).max(axis=1)
    joint = each.max(axis=1)
    print(
        f"slowest of {each.shape[1]}: median {np.median(joint):.1f} ms measured, {np.median(drawn):.1f} ms drawn; p95 "
        f"{np.percentile(joint, 95):.1f} and {np.percentile(drawn, 95):.1f} ms\n"
    )
    print(f"{'shards':>6} {'replicas':>8} {'load':>5} {'stragglers':>10} {'p50':>8} {'p95':>8} {'p99':>8}  partial")
    for shards in arguments.shards:
        for replicas in arguments.replicas:
            for load in arguments.load:
                for stragglers in STRAGGLERS:
                    waits = simulate(
                        measured,
                        np.random.default_rng(1),
                        shards=shards,
                        replicas=replicas,
                        load=load,
                        stragglers=stragglers,
                        queries=arguments.queries,
                        call_ms=arguments.call_ms,
                    )
                    slowest = waits.max(axis=1)
                    p50, p95, p99 = np.percentile(np.minimum(slowest, arguments.timeout_ms), [50, 95, 99])
                    partial = (slowest > arguments.timeout_ms).mean()
                    print(
                        f"{shards:6} {replicas:8} {load:5.2f} {stragglers:>10} {p50:5.1f} ms {p95:5.1f} ms "
                        f"{p99:5.1f} ms {100 * partial:7.2f} %",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
