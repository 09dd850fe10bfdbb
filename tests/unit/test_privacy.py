"""What dependencies would send is switched off, and every dependency has been judged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clipsearch.privacy import NEVER_IMPORTED, SILENT, SWITCHES, switch_off

ROOT = Path(__file__).parents[2]


def test_every_dependency_was_judged() -> None:
    """A new one: read its source for what it sends or stores by itself, and put it into clipsearch.privacy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[^\w.-]", one)[0].lower() for one in listed} - {"clipsearch"}
    judged = {switch.package for switch in SWITCHES} | set(SILENT) | {"openvino"}
    assert names <= judged


@pytest.mark.parametrize(
    ("variable", "given", "kept"),
    [
        ("ORT_DISABLE_TELEMETRY", None, "1"),
        ("ORT_DISABLE_TELEMETRY", "0", "1"),
        ("ORT_DISABLE_TELEMETRY", "", "1"),
        ("ORT_DISABLE_TELEMETRY", "TRUE", "TRUE"),
        ("GRADIO_ANALYTICS_ENABLED", "True", "False"),
        ("GRADIO_ANALYTICS_ENABLED", "no", "no"),
        ("HF_HUB_DISABLE_TELEMETRY", "YES", "YES"),
        ("HF_HUB_DISABLE_TELEMETRY", "false", "1"),
        ("RAY_USAGE_STATS_ENABLED", "1", "0"),
        ("DO_NOT_TRACK", None, "1"),
    ],
)
def test_a_setting_that_is_as_strict_stays(variable: str, given: str | None, kept: str) -> None:
    environment = {} if given is None else {variable: given}
    switch_off(environment)
    assert environment[variable] == kept


def started(program: str, *, flags: tuple[str, ...] = ()) -> dict[str, str | None]:
    """What a process that knows nothing of switches sees after `program`."""
    names = [switch.variable for switch in SWITCHES]
    clean = {name: value for name, value in os.environ.items() if name not in names}
    code = f"{program}\nimport os, json; print(json.dumps({{n: os.environ.get(n) for n in {names!r}}}))"
    done = subprocess.run([sys.executable, *flags, "-c", code], env=clean, capture_output=True, text=True, check=True)
    seen: dict[str, str | None] = json.loads(done.stdout)
    return seen


@pytest.mark.many
@pytest.mark.parametrize(
    "module",
    ["", ".__main__", ".pictures.worker", ".encoder.trial", ".daemon.__main__", ".daemon.client", ".records"],
)
def test_every_process_switches_off_before_it_imports_anything_else(module: str) -> None:
    assert started(f"import clipsearch{module}") == {switch.variable: switch.off for switch in SWITCHES}


@pytest.mark.parametrize("module", NEVER_IMPORTED)
def test_a_module_that_cannot_be_switched_off_is_not_found(module: str) -> None:
    code = f"import clipsearch\ntry:\n import {module}\nexcept ModuleNotFoundError:\n print('kept out')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "kept out\n"


def test_onnxruntime_does_not_start_its_telemetry(tmp_path: Path) -> None:
    """The claim of the table, on the version that is installed."""
    code = "import clipsearch, onnxruntime; onnxruntime.SessionOptions()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_windows_is_refused_in_one_line() -> None:
    code = (
        "import sys; sys.platform = 'win32'\ntry:\n import clipsearch\nexcept ImportError as error:\n print(error)\n"
        "else:\n print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert "Windows" in done.stdout and "WSL" in done.stdout
