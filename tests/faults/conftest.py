from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Commands
from tests.support.faults import Faults, build
from tests.support.mounts import Mounts


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def faults(fault_library: Path) -> Iterator[Faults]:
    """Orders to `commands`."""
    with Faults(fault_library, fault_library.parent) as faults:
        yield faults


@pytest.fixture(scope="session")
def command_server(faults: Faults) -> Iterator[Commands]:
    with Commands(preload=faults.env) as commands:
        yield commands


@pytest.fixture
def commands(command_server: Commands, faults: Faults) -> Iterator[Commands]:
    """Runs commands with the fake encoder; calls that `faults` is told to fail, fail."""
    faults.disarm()
    yield command_server
    faults.disarm()


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    mounts = Mounts()
    yield mounts
    mounts.close()


@pytest.fixture(scope="session")
def obedient_server(faults: Faults) -> Iterator[Commands]:
    within: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root obeys permissions only with setpriv")
        within = [
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search",
        ]
    with Commands(preload=faults.env, within=within) as commands:
        yield commands


@pytest.fixture
def obedient(obedient_server: Commands, tmp_path: Path) -> Commands:
    """Commands of somebody whom permissions hold back, as they do not root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    report = obedient_server.run("index", closed)
    assert "ermission" in report.err or "readable" in report.err, f"permissions hold nobody back here: {report}"
    closed.rmdir()
    return obedient_server
