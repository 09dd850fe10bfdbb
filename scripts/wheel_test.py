"""Build the wheel and use it as a stranger would: a new environment, outside the repository, core packages only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LARGEST_ENVIRONMENT_BYTES = 900_000_000
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


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        run([sys.executable, "-m", "build", "--wheel", "--outdir", str(work), str(REPOSITORY)], REPOSITORY)
        (wheel,) = work.glob("*.whl")
        check_contents(wheel)
        environment = work / "env"
        run([sys.executable, "-m", "venv", str(environment)], work)
        python = environment / "bin" / "python"
        constraints = REPOSITORY / "constraints.txt"
        run([str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), str(wheel)], work)
        check_environment(environment)
        use(environment / "bin" / "clipsearch", python, work)
    print("wheel test passed")


def check_contents(wheel: Path) -> None:
    """The wheel adds one package to site-packages, whole and not too large."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    tops = {name.split("/")[0] for name in sizes}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"clipsearch"}, tops
    model = {name: size for name, size in sizes.items() if name.startswith("clipsearch/models/builtin/")}
    for needed in ("config.json", "visual/model.onnx", "textual/model.onnx", "textual/tokenizer.json", "MODEL_CARD.md"):
        assert f"clipsearch/models/builtin/{needed}" in model, f"{needed} is missing from the wheel"
    assert sum(model.values()) <= LARGEST_MODEL_BYTES, sum(model.values())
    for needed in ("clipsearch/indexer/build.py", "clipsearch/store/writer.py", "clipsearch/py.typed"):
        assert needed in sizes, f"{needed} is missing from the wheel"
    megabytes, of_the_model = sum(sizes.values()) / 1e6, sum(model.values()) / 1e6
    print(f"{wheel.name}: {len(sizes)} files, {megabytes:.1f} MB, of which the model {of_the_model:.1f} MB")


def check_environment(environment: Path) -> None:
    """The core is light and has no PyTorch; the names `indexer` and `ui` stay free."""
    (site,) = environment.glob("lib/python*/site-packages")
    for absent in ("torch", "open_clip", "indexer", "ui", "tests"):
        assert not (site / absent).exists(), f"{absent} is in site-packages"
    size_bytes = sum(f.stat().st_size for f in environment.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"environment: {size_bytes / 1e6:.0f} MB")
    assert size_bytes < LARGEST_ENVIRONMENT_BYTES, size_bytes


def use(program: Path, python: Path, work: Path) -> None:
    """Index, ask, ask again, verify."""
    (work / "photos").mkdir()
    run([str(python), "-c", DRAW], work)
    report = json.loads(run([str(program), "index", "photos", "--model", "builtin", "--json"], work))
    assert (report["indexed"], report["pictures"], report["skipped"]) == (3, 3, []), report
    hits = json.loads(run([str(program), "query", "a blue picture", "--all", "--index", "photos", "--json"], work))
    assert [hit["rank"] for hit in hits] == [1, 2, 3], hits
    assert all(Path(hit["path"]).is_file() for hit in hits)
    run([str(python), "-c", ASK], work)
    again = json.loads(run([str(program), "index", "photos", "--json"], work))
    assert (again["indexed"], again["unchanged"]) == (0, 3), again
    run([str(program), "verify", "--index", "photos"], work)


def run(command: list[str], folder: Path) -> str:
    home = folder / "home"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "CLIPSEARCH_INDEX")}
    environment |= {
        "CLIPSEARCH_STATE_DIR": str(home / "state"),
        "CLIPSEARCH_CACHE_DIR": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
