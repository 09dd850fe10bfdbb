"""What a running server saves a query: whole processes with and without one, in turn.

The query with a server finds it through the state folder; the one without has an empty state folder. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import interleaved, machine, seconds_of
from clipsearch.daemon.client import ask, socket_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path, help="a folder that is indexed")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    index = arguments.index / ".clipsearch"
    command = [sys.executable, "-m", "clipsearch", "query", "a dog on a beach", "--index", arguments.index.absolute()]
    serve = [sys.executable, "-m", "clipsearch", "serve", "--index", str(arguments.index), "--port", "0"]
    server = subprocess.Popen(serve, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while ask(index, "a dog on a beach", 1, {}) is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"no server answers at {socket_path(index)}")
            time.sleep(0.1)
        with tempfile.TemporaryDirectory() as empty:
            times = interleaved(
                lambda: seconds_of(command, folder=arguments.index),
                lambda: seconds_of(command, folder=arguments.index, env={"CLIPSEARCH_STATE_DIR": empty}),
                arguments.rounds,
            )
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
    print(json.dumps({"with_server_over_without": times.summary(), "machine": machine()}, indent=1))


if __name__ == "__main__":
    main()
