"""The examples of docs/python.md and of the README's Python section run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import clipsearch
from tests.support.cases import thinned

TOP = Path(clipsearch.__file__).parent.parent


def examples(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (TOP / name).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize(("name", "count"), thinned([("README.md", 1), ("docs/python.md", 5)], 2))
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
