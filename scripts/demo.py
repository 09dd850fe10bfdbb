"""The demo: index real photographs, ask four questions, print the answers and write them as a page.

The last question has no answer among the samples, and clipsearch says that nothing is certain.

Without --photos it takes the sample photographs of scikit-image and Gradio, two packages on PyPI.
Needs clipsearch's core only: no PyTorch, nothing from a model hub.
"""

from __future__ import annotations

import argparse
import base64
import html
import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import clipsearch
from clipsearch.cli.terminal import count, duration, progress_display
from clipsearch.filenames import safe
from clipsearch.pictures.images import open_picture
from clipsearch.records import NOTHING_CERTAIN, Hits

SCIKIT_IMAGE = "scikit-image==0.26.0"
PIP_OPTIONS = "--quiet --disable-pip-version-check --no-deps --only-binary :all:"
QUESTIONS = ["a cat", "a cup of coffee", "a motorcycle", "an aircraft carrier"]
NOT_PHOTOGRAPHS = {"logo.png", "hf-logo_transpng.png", "avatar.png", "screenshot.gif", "phantom.png", "color.png"}
THUMBNAIL_PIXELS = 320
HITS = 4

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>clipsearch</title>
<style>
body {{ font: 16px system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }}
h2 {{ font-weight: 500; margin: 2rem 0 .6rem }}
.hits {{ display: flex; flex-wrap: wrap; gap: 12px }}
figure {{ margin: 0; width: 220px }}
img {{ width: 220px; height: 165px; object-fit: cover; border-radius: 6px; background: #eee }}
figcaption {{ font-size: 13px; color: #555; overflow-wrap: anywhere }}
</style>
<h1>clipsearch</h1><p>{summary}</p>
{sections}
</html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of your own pictures (default: sample photos)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder for the samples and the page (default: demo)"
    )
    parser.add_argument("questions", nargs="*", default=QUESTIONS, help="query to run")
    arguments = parser.parse_args()
    try:
        run(arguments.photos, arguments.out, arguments.questions)
    except clipsearch.ClipsearchError as error:
        sys.exit(f"demo: {safe(str(error))}")


def run(photos: Path | None, out: Path, questions: list[str]) -> None:
    """Index, ask, print, and write `out`/index.html."""
    out.mkdir(parents=True, exist_ok=True)
    index = None if photos is None else out / "index"  # nothing is written into somebody's own folder
    photos = photos or sample_photographs(out / "photos")
    with progress_display() as progress:
        report = clipsearch.index(photos, model="builtin", index=index, progress=progress)
    summary = f"{count(report.pictures, 'picture')} in {safe(str(photos))}"
    print(f"{summary}: {report.encoded} indexed now, {duration(report.seconds)}")
    sections = []
    with clipsearch.open(report.index) as collection:
        for question in questions:
            hits = collection.search(question, k=HITS)
            print(f"\n{question}")
            if not hits.are_certain:
                print(f"  {NOTHING_CERTAIN}")
            for hit in hits:
                print(f"  {hit.score:.3f}  {hit.band:8}  {safe(hit.record.path)}")
            sections.append(section(question, hits))
    page = out / "index.html"
    page.write_text(PAGE.format(summary=html.escape(summary), sections="\n".join(sections)), encoding="utf-8")
    print(f"\nResults as a page: {page.resolve().as_uri()}")
    where = f"--index {index}" if index else f"--index {photos}"
    print(f'Search again with: {Path(sys.executable).parent}/clipsearch query "..." {where}')


def section(question: str, hits: Hits) -> str:
    """One question and its pictures as HTML, with everything escaped and the thumbnails inside."""
    figures = "".join(
        f'<figure><img src="{thumbnail(hit.path)}" alt=""><figcaption>{hit.band} · {hit.score:.3f} · '
        f"{html.escape(safe(hit.record.path))}</figcaption></figure>"
        for hit in hits
    )
    heading = "" if hits.are_certain else f"<p>{NOTHING_CERTAIN}</p>"
    return f'<h2>“{html.escape(question)}”</h2>{heading}<div class="hits">{figures}</div>'


def thumbnail(path: str) -> str:
    """A picture as a small JPEG in a data: address, without its metadata."""
    buffer = io.BytesIO()
    open_picture(path, longest=THUMBNAIL_PIXELS).save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def sample_photographs(folder: Path) -> Path:
    """Fill `folder` with the photographs in scikit-image's wheel and in the installed Gradio."""
    if any(folder.glob("*/*")):
        return folder
    with tempfile.TemporaryDirectory() as download:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *PIP_OPTIONS.split(), "--dest", download, SCIKIT_IMAGE],
            check=True,
        )
        (folder / "scikit-image").mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(next(Path(download).glob("*.whl"))) as wheel:
            for name in wheel.namelist():
                file = Path(name)
                if file.parent.as_posix() == "skimage/data" and is_photograph(file):
                    (folder / "scikit-image" / file.name).write_bytes(wheel.read(name))
    gradio = importlib.util.find_spec("gradio")
    if gradio is not None and gradio.origin is not None:
        (folder / "gradio").mkdir(exist_ok=True)
        for file in sorted((Path(gradio.origin).parent / "media_assets" / "images").glob("*")):
            if is_photograph(file):
                shutil.copy(file, folder / "gradio" / file.name)
    return folder


def is_photograph(file: Path) -> bool:
    return file.suffix in {".jpg", ".jpeg", ".png"} and file.name not in NOT_PHOTOGRAPHS


if __name__ == "__main__":
    main()
