"""The connection to a Ray cluster: one that is there, or one that begins and ends with this program."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from typing import Any

from clipsearch.cores import available_cores
from clipsearch.errors import ClusterError, MissingExtra

LEAST_RAY = (2, 60)
CONNECT_S = 10.0
OBJECT_STORE_BYTES = 256 * 2**20  # of a cluster that is begun here: what passes at once is some megabytes


def check_ray(purpose: str) -> None:
    """Raises: MissingExtra, where Ray is not installed, or one that runs code which lies in files that it reads."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = tuple(int(part) for part in version("ray").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        found = (0, 0)
    if found < LEAST_RAY:
        raise MissingExtra("ray", purpose)


class Connection:
    """This program's connection to a cluster. `is_own`: it was made here, and is closed here."""

    def __init__(self, *, is_own: bool, is_local: bool) -> None:
        self.is_own = is_own
        self.is_local = is_local
        """Whether the cluster itself was begun here."""
        if is_own:
            self._silence()

    def _silence(self) -> None:
        """Keep Ray from printing on stdout, where only answers belong, that a worker died: who gave it work sees to
        that. There is no option for it, beside `log_to_driver`, which is for what workers print.
        """
        from ray._private import worker

        self._prints = getattr(worker, "print_to_stdstream", None)
        if self._prints is not None:
            worker.print_to_stdstream = lambda *args, **named: None

    def close(self) -> None:
        """Disconnect; a cluster that was begun here ends."""
        if not self.is_own:
            return
        self.is_own = False
        import ray
        from ray._private import worker

        ray.shutdown()
        if self._prints is not None:
            worker.print_to_stdstream = self._prints


def address_of(given: str | None) -> str | None:
    """The address of the cluster to use: as given, or $RAY_ADDRESS; None for one that is begun here."""
    return given or os.environ.get("RAY_ADDRESS") or None


def connect(address: str | None, *, cpus: int | None = None) -> Connection:
    """Connect to the cluster at `address`; without one (nor $RAY_ADDRESS), begin one here, with so many `cpus` to give
    away (default: what this machine has). A program that is connected already stays so. Raises: ClusterError."""
    import ray

    if ray.is_initialized():
        return Connection(is_own=False, is_local=False)
    address = address_of(address)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        quiet |= {"address": "local", "num_cpus": cpus or available_cores(), "include_dashboard": False}
        quiet |= {"object_store_memory": OBJECT_STORE_BYTES}
    else:
        quiet |= {"address": address}
    _check_answers(address)
    umask = os.umask(0o077) if address is None else None  # Ray lets everybody read its token and its logs
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(**quiet)
        except Exception as error:  # a busy machine does not begin one in the 30 s that Ray allows
            if address is not None or "timed out" not in str(error):
                raise
            ray.shutdown()
            ray.init(**quiet)
    except Exception as error:  # of many kinds, which Ray does not list
        with contextlib.suppress(Exception):  # that it did not begin is what is told
            ray.shutdown()
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
        where = "no Ray cluster can be started here" if address is None else f"no Ray cluster at {address}"
        raise ClusterError(f"{where}: {problem}") from error
    finally:
        if umask is not None:
            os.umask(umask)
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray sets its own
    return Connection(is_own=True, is_local=address is None)


def _check_answers(address: str | None) -> None:
    """Find in seconds that nobody listens at HOST:PORT, which takes Ray minutes. Raises: ClusterError."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        problem = (error.strerror or str(error)).lower()
        raise ClusterError(f"no Ray cluster at {address}: {problem}") from error
