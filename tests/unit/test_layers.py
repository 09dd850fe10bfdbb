"""The shape of the package: what imports what, and what a query does not load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clipsearch
from clipsearch.cli.commands import COMMANDS, TRAIN_COMMANDS

PACKAGE = Path(clipsearch.__file__).parent
ROOT = PACKAGE.parent
LAW = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

LAYERS = [set(line.split("  ")[0].split()) for line in LAW.split("```")[1].strip().splitlines()]
"""Lowest first, as docs/architecture.md has them. A part imports from lower layers and from itself only."""

ONLY_IMPORTERS = {
    "pyarrow": {"archives", "store", "pairs", "exports"},
    "lancedb": {"exports"},
    "pgvector": {"exports"},
    "psycopg": {"exports"},
    "pymilvus": {"exports"},
    "qdrant_client": {"exports"},
    "faiss": {"vectors"},
    "fsspec": {"archives"},
    "torch": {"encoder", "training"},
    "open_clip": {"encoder", "training"},
    "matplotlib": {"evaluation", "training"},
    "onnxruntime": {"encoder", "training"},
    "openvino": {"encoder"},
    "fastapi": {"server", "ui"},
    "gradio": {"ui"},
    "httpx": {"remote"},
    "mcp": {"server"},
    "mcp_types": {"server"},
    "watchfiles": {"indexer"},
    "h11": {"server"},
    "uvicorn": {"cli", "server"},
    "typer": {"cli"},
    "PIL": {"pictures", "server", "training", "ui"},
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(_walk(PACKAGE)):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in ("__init__", "models", "__main__"):
            found.append((part, path))
    return found


def _walk(folder: Path) -> list[Path]:
    """Every Python file below, through the links `indexer` and `ui`, which rglob does not follow."""
    return [
        path
        for child in folder.iterdir()
        for path in (_walk(child) if child.is_dir() else [child] if child.suffix == ".py" else [])
    ]


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, wherever in it; and whether only for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "clipsearch":
                names = [f"clipsearch.{alias.name}" for alias in node.names]
            found += [(name, id(node) in typing_only) for name in names]
    return found


def rank(part: str) -> int:
    return next(n for n, layer in enumerate(LAYERS) if part in layer)


def test_imports_point_downward() -> None:
    assert len(modules()) > 250
    wrong = [
        f"{path} ({part}) imports {name}"
        for part, path in modules()
        for name, typing_only in imports_of(path)
        if not may_import(part, name, typing_only)
    ]
    assert wrong == []


def may_import(part: str, name: str, typing_only: bool) -> bool:
    top = name.split(".", maxsplit=1)[0]
    if top in ("indexer", "ui") or (top in ONLY_IMPORTERS and not typing_only and part not in ONLY_IMPORTERS[top]):
        return False
    if top != "clipsearch" or name in ("clipsearch", "clipsearch.__version__") or typing_only:
        return True
    other = name.split(".")[1]
    return other == part or rank(other) < rank(part)


@pytest.mark.parametrize(
    ("part", "name", "typing_only"),
    [("query", "clipsearch.search.order", False), ("store", "torch", False), ("cli", "indexer.build", True)],
)
def test_an_import_that_may_not_be_is_found(part: str, name: str, typing_only: bool) -> None:
    assert not may_import(part, name, typing_only)
    assert may_import("training", "torch", False) and may_import("query", "clipsearch.search", True)


def test_what_an_encoder_can_do_is_in_its_contract() -> None:
    """Outside `encoder` nobody looks for an attribute, or for a class."""
    looks = re.compile(r"(getattr|hasattr)\(.*encoder|isinstance\(.*OnnxEncoder")
    outside = [("scripts", path) for folder in ("scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(outside) > 20
    for part, path in [*modules(), *outside]:
        if part != "encoder":
            found = [line for line in path.read_text(encoding="utf-8").splitlines() if looks.search(line)]
            assert not found, f"{path}: {found}"


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_clipsearch_loads_nothing_heavy() -> None:
    heavy = {"numpy", "torch", "gradio", "pandas", "pyarrow", "faiss", "onnxruntime", "PIL", "typer"}
    assert not heavy & loaded_by("import clipsearch")


def test_a_query_that_a_server_answers_loads_not_even_numpy() -> None:
    heavy = {"numpy", "onnxruntime", "tokenizers", "ssl", "http.client", "asyncio", "httpx", "rich"} | {
        "clipsearch.query"
    }
    assert not heavy & loaded_by("import clipsearch.cli.app, clipsearch.cli.query, clipsearch.daemon.client")


def test_the_query_path_loads_only_what_it_needs() -> None:
    heavy = {
        "torch",
        "gradio",
        "fastapi",
        "uvicorn",
        "pandas",
        "pyarrow",
        "faiss",
        "PIL",
        "rich.progress",
        "huggingface_hub",
    }
    path = "clipsearch.cli.app, clipsearch.cli.query, clipsearch.search.collection, clipsearch.encoder.onnx"
    assert not heavy & loaded_by(f"import {path}")


def test_each_command_is_a_module_of_its_name_that_loads_no_other() -> None:
    files = {path.stem for path in (PACKAGE / "cli").glob("*.py") if re.search(r"^app = ", path.read_text(), re.M)}
    assert files - {"app"} == {*COMMANDS, *TRAIN_COMMANDS}
    loaded = loaded_by("from clipsearch.cli.app import app; import typer; typer.main.get_command(app)")
    assert not {f"clipsearch.cli.{name}" for name in COMMANDS} & loaded
    loaded = loaded_by("from clipsearch.cli.commands import load_command; load_command('query')")
    assert {name for name in COMMANDS if f"clipsearch.cli.{name}" in loaded} == {"query"}


def test_the_public_names_are_what_can_be_imported() -> None:
    for name in clipsearch.__all__:
        assert getattr(clipsearch, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        clipsearch.nonsense  # noqa: B018
    public = {name for name in vars(clipsearch) if not name.startswith("_")}
    submodules = {path.stem if path.suffix == ".py" else path.name for path in PACKAGE.iterdir()}
    assert public - submodules - {"annotations", "import_module", "TYPE_CHECKING", "Any"} <= set(clipsearch.__all__)


def test_the_architecture_is_one_screen_and_names_what_there_is() -> None:
    assert len(LAW.splitlines()) <= 60
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+)`", LAW))
    assert len(named) > 25
    for name in named - {"clipsearch/indexer", "clipsearch/ui"}:
        assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file(), name
    for name in ("indexer", "ui"):
        assert (PACKAGE / name).is_symlink() and (PACKAGE / name).resolve() == ROOT / name
    listed = set().union(*LAYERS)
    there = {part for part, _ in modules()}
    assert listed == there
