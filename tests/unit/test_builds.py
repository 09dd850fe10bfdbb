"""Which build of clipsearch runs: any change of its files makes another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import clipsearch
from clipsearch.builds import build, code_checksum


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a folder beside it that a link leads to, as `clipsearch/ui` does."""
    (tmp_path / "ui").mkdir()
    (tmp_path / "ui" / "page.py").write_text("A = 1\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ui").symlink_to("../ui")
    for folder in ("search", "models/builtin/textual", "ui/assets"):
        (package / folder).mkdir(parents=True)
    (package / "search" / "confidence.json").write_text("{}")
    (package / "models" / "builtin" / "textual" / "model.onnx").write_bytes(b"weights")
    (package / "ui" / "assets" / "app.js").write_text("let a = 1;")
    return package


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "ui" / "page.py").write_text("A = 10\n"),
        lambda package: os.utime(package / "ui" / "page.py", ns=(1, 1)),
        lambda package: (package / "more.py").write_text(""),
        lambda package: (package / "__init__.py").unlink(),
        lambda package: (package / "search" / "confidence.json").write_text('{"bands": 1}'),
        lambda package: (package / "models" / "builtin" / "textual" / "model.onnx").write_bytes(b"others"),
        lambda package: (package / "models" / "builtin" / "more.json").write_text(""),
        lambda package: (package / "ui" / "assets" / "app.js").write_text("let a = 10;"),
        lambda package: (package / "__init__.py").rename(package / "other.py"),
    ],
)
def test_a_change_of_the_package_makes_another_build(package: Path, change: object) -> None:
    before = code_checksum(package)
    assert code_checksum(package) == before
    assert callable(change)
    change(package)
    assert code_checksum(package) != before


def test_what_python_compiles_is_no_change(package: Path) -> None:
    before = code_checksum(package)
    (package / "ui" / "__pycache__").mkdir()
    (package / "ui" / "__pycache__" / "page.py").write_text("")
    assert code_checksum(package) == before


def test_a_copy_of_the_code_is_another_build(tmp_path: Path) -> None:
    """Of the same version: an upgrade in place, or another environment."""
    source = Path(clipsearch.__file__).parent
    shutil.copytree(source, tmp_path / "clipsearch", ignore=shutil.ignore_patterns("models", "assets", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", "from clipsearch.builds import build; print(build())"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("-")[0] == clipsearch.__version__
    assert done.stdout.strip() != build()
