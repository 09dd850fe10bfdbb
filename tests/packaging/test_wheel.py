"""Build the wheel and use it as a stranger would: a new environment, outside the repository, core packages only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.home import REAL_HOME

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
LARGEST_ENVIRONMENT_BYTES = 580_000_000  # with pip; measured 555
LARGEST_MODEL_BYTES = 45_000_000

DRAW = """
from PIL import Image, ImageDraw
for name, colour in {"sun": (250, 200, 40), "sea": (20, 90, 190), "wood": (30, 110, 40)}.items():
    Image.radial_gradient("L").convert("RGB").resize((320, 240)).save(f"photos/{name}.jpg")
    picture = Image.new("RGB", (320, 240), colour)
    ImageDraw.Draw(picture).ellipse((90, 60, 230, 180), fill=tuple(255 - c for c in colour))
    picture.save(f"photos/{name}.jpg")
"""

ASK = """
import sys, clipsearch
with clipsearch.open("photos") as photos:
    hits = photos.search("a blue picture", k=2, all=True)
assert len(hits) == 2 and hits[0].score >= hits[1].score
heavy = {"torch", "gradio", "pandas", "pyarrow"} & set(sys.modules)
assert not heavy, f"a query loaded {heavy}"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a folder in what it builds from."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("clipsearch", "indexer", "ui"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
    run([sys.executable, "-m", "build", "--wheel", "--outdir", work, source], work, home=REAL_HOME)
    (built,) = work.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and the core packages."""
    environment = tmp_path_factory.mktemp("installed") / "env"
    run([sys.executable, "-m", "venv", environment], environment.parent, home=REAL_HOME)
    install: list[str | Path] = [
        environment / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        REPOSITORY / "constraints.txt",
    ]
    run([*install, wheel], environment.parent, home=REAL_HOME)
    return environment


def test_the_wheel_adds_one_package_whole_and_not_too_large(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    tops = {name.split("/")[0] for name in sizes}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"clipsearch"}
    model = {name: size for name, size in sizes.items() if name.startswith("clipsearch/models/builtin/")}
    files = ("config.json", "visual/model.onnx", "textual/model.onnx", "textual/tokenizer.json", "MODEL_CARD.md")
    modules = ("indexer/build.py", "store/writer.py", "py.typed")
    needed = {*(f"clipsearch/models/builtin/{name}" for name in files), *(f"clipsearch/{name}" for name in modules)}
    assert needed <= sizes.keys()
    assert sum(model.values()) <= LARGEST_MODEL_BYTES
    megabytes, of_the_model = sum(sizes.values()) / 1e6, sum(model.values()) / 1e6
    print(f"{wheel.name}: {len(sizes)} files, {megabytes:.1f} MB, of which the model {of_the_model:.1f} MB")


def test_the_core_is_light_and_has_no_pytorch(environment: Path) -> None:
    """And the names `indexer` and `ui` stay free."""
    (site,) = environment.glob("lib/python*/site-packages")
    assert not [name for name in ("torch", "open_clip", "indexer", "ui", "tests") if (site / name).exists()]
    size_bytes = sum(f.stat().st_size for f in environment.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"environment: {size_bytes / 1e6:.0f} MB")
    assert size_bytes < LARGEST_ENVIRONMENT_BYTES


def test_it_indexes_answers_and_verifies(environment: Path, tmp_path: Path) -> None:
    program, python = environment / "bin" / "clipsearch", environment / "bin" / "python"
    (tmp_path / "photos").mkdir()
    run([python, "-c", DRAW], tmp_path)
    report = json.loads(run([program, "index", "photos", "--model", "builtin", "--json"], tmp_path))
    assert (report["indexed"], report["pictures"], report["skipped"]) == (3, 3, [])
    hits = json.loads(run([program, "query", "a blue picture", "--all", "--index", "photos", "--json"], tmp_path))
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert all(Path(hit["path"]).is_file() for hit in hits)
    run([python, "-c", ASK], tmp_path)
    again = json.loads(run([program, "index", "photos", "--json"], tmp_path))
    assert (again["indexed"], again["unchanged"]) == (0, 3)
    run([program, "verify", "--index", "photos"], tmp_path)


def run(command: list[str | Path], folder: Path, *, home: Path | None = None) -> str:
    """What a command prints. `home`: of the person who runs the tests, whose settings say where packages are."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if home is not None:
        environment["HOME"] = str(home)
    done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0, f"{command} failed with {done.returncode}:\n{done.stdout}"
    return done.stdout
