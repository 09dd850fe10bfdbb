"""The examples of docs/python.md and of the README's Python section run as they stand."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

import clipsearch

COUNTS = [("README.md", 1), ("docs/python.md", 5)]
TOP = Path(clipsearch.__file__).parent.parent


def examples(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (TOP / name).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize(("name", "count"), COUNTS)
def test_the_examples_compile_and_use_what_is_public(name: str, count: int) -> None:
    parts = examples(name)
    assert len(parts) == count
    tree = ast.parse("\n".join(parts), name)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "clipsearch"
    }
    assert used and used <= set(clipsearch.__all__)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize(("name", "count"), COUNTS)
def test_the_examples_run(name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the built-in model, wherever this runs
    (tmp_path / "photos").mkdir()
    for number, colour in enumerate(("red", "blue", "green", "black", "orange", "grey")):
        Image.new("RGB", (300, 200 + number), colour).save(tmp_path / "photos" / f"{colour}.jpg")
    parts = examples(name)
    assert len(parts) == count
    script = "\n".join(parts)
    if name == "README.md":
        script = script.replace("k=10)", "k=10, all=True)")  # plain colours are unlikely to be dogs
    named: dict[str, object] = {}
    try:
        exec(compile(script, name, "exec"), named)
    finally:
        photos = named.get("photos")
        if isinstance(photos, clipsearch.Collection):
            photos.close()
    assert named["hits"]
