"""Who reads and encodes, as the command line has it; the runs themselves are in tests/contract/test_executors.py."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipsearch.cli.index import app
from clipsearch.cli.terminal import progress_display
from clipsearch.cores import available_cores, use_cores
from clipsearch.errors import InvalidArgument, MissingExtra
from clipsearch.indexer.build import Progress
from clipsearch.indexer.cluster import RayExecutor
from clipsearch.indexer.connection import check_ray
from tests.support.pictures import fill


@pytest.mark.parametrize(
    "option", [["--address", "a:1"], ["--worker-cpus", "2"], ["--worker-gpus", "0"], ["--unit", "9"]]
)
def test_options_of_a_cluster_are_refused_without_one(tmp_path: Path, option: list[str]) -> None:
    fill(tmp_path, 1)
    done = CliRunner().invoke(app, [str(tmp_path), *option])
    assert done.exit_code == 2
    assert "only for --executor ray" in done.output
    assert not (tmp_path / ".clipsearch").exists()


@pytest.mark.parametrize("installed", [None, "2.59.1", "1.13.0", "odd"])
def test_ray_must_be_there_and_new_enough(installed: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingExtra, match=r"clipsearch\[ray\]"):
        check_ray("indexing on a cluster")


@pytest.mark.parametrize("installed", ["2.60.0", "2.61.0rc1", "3.0.0"])
def test_newer_ones_will_do(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed)
    check_ray("indexing on a cluster")


@pytest.mark.parametrize(
    "options", [{"cpus": 0}, {"gpus": -1}, {"unit_pictures": 0}, {"cpus": "two"}, {"address": "ray://a:1"}]
)
def test_what_a_cluster_cannot_be_given_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        RayExecutor(**options)  # type: ignore[arg-type]


def test_progress_names_machines_while_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.cli.terminal.PLAIN_EVERY_S", 0.0)
    stream = io.StringIO()
    with progress_display(stream) as report:
        report(Progress("read", 5, 10, 5))
        report(Progress("read", 6, 10, 6, nodes=(("b\x1b[2J", 2.0), ("a", 1.0))))
        report(Progress("read", 7, 10, 7, nodes=tuple((f"n{number}", float(number)) for number in range(9))))
    alone, few, many = stream.getvalue().splitlines()
    assert "(" not in alone
    assert "(a 1.0/s, b" in few and "\x1b" not in few
    assert "(9 machines: n0 0.0/s to n8 8.0/s)" in many


def test_progress_promises_no_end_while_files_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.cli.terminal.PLAIN_EVERY_S", 0.0)
    stream = io.StringIO()
    with progress_display(stream) as report:
        report(Progress("read", 5, 1000, 5, is_listing=True))
        report(Progress("read", 6, 2000, 6))
    going, known = stream.getvalue().splitlines()
    assert "5 of 1,000 files so far" in going and "left" not in going
    assert "6 of 2,000 files, " in known and known.endswith(" left")


def test_a_process_can_be_told_how_many_cores_are_its_own() -> None:
    before = available_cores()
    try:
        use_cores(1)
        assert available_cores() == 1
        use_cores(10_000)
        assert available_cores() == before
    finally:
        use_cores(None)
    assert available_cores() == before
