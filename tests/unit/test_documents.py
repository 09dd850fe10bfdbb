"""PDF documents: pages, their words, damage, and what becomes of them in an index."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch.errors import UnreadablePicture
from clipsearch.indexer import look
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.verify import verify
from clipsearch.pictures import formats
from clipsearch.pictures.images import open_picture
from clipsearch.search.collection import Collection
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pdfs import coloured
from tests.support.pictures import fill

pytest.importorskip("pypdfium2")
SHOWN = ("red", "blue", "yellow", "green")
PAGES = [COLOURS[name] for name in SHOWN]


def colour_of(image: Image.Image) -> str:
    pixel = np.asarray(image.resize((1, 1))).ravel().astype(int)
    return min(COLOURS, key=lambda name: float(np.abs(pixel - COLOURS[name]).sum()))


def run(folder: Path, encoder: FakeEncoder, **options: Any) -> IndexReport:
    report = index_folder(folder, encoder, options=IndexOptions(**{"workers": 2, **options}))
    checked = verify(report.index)
    assert checked.ok, checked.problems
    return report


# -- in an index


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filed") / "photos"
    fill(folder, 3)
    (folder / "scan.pdf").write_bytes(coloured(PAGES))
    many = [COLOURS[("white", "black", "pink")[number % 3]] for number in range(90)]
    (folder / "long.pdf").write_bytes(coloured(many))
    return folder


@pytest.fixture
def folder(filed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(filed, tmp_path / "photos")


def test_a_document_is_found_by_its_page(folder: Path) -> None:
    encoder = FakeEncoder()
    report = run(folder, encoder)
    assert (report.encoded, report.pictures, report.rows) == (5, 5, 3 + 4 + 90)
    with Collection(report.index, encoder=encoder) as photos:
        for number, colour in enumerate(SHOWN, 1):
            hit = photos.search(colour, 1)[0]
            assert hit.where == f"{folder}/scan.pdf#page={number}"
            assert (hit.record.view, hit.record.page) == (f"page={number}", number)
            assert (hit.record.width, hit.record.height) == (1653, 2339)
            assert colour_of(Image.open(io.BytesIO(photos.thumbnail(hit.record.row_id)))) == colour
        hits = photos.search("pink", 30, each=True)
        assert [hit.record.path for hit in hits] == ["long.pdf"] * 30
        assert len({hit.record.view for hit in hits}) == 30
        for query in ("ext:pdf", "is:document"):
            assert {hit.record.path for hit in photos.search(query, 9)} == {"scan.pdf", "long.pdf"}
    encoded = encoder.images_encoded
    assert run(folder, encoder).unchanged == 5
    (folder / "scan.pdf").rename(folder / "moved.pdf")
    shutil.copy(folder / "long.pdf", folder / "copy.pdf")
    report = run(folder, encoder)
    assert (report.renamed, report.copied, report.rows) == (1, 1, 3 + 4 + 180)
    assert encoder.images_encoded == encoded
    assert run(folder, encoder, reindex=True).rows == 3 + 4 + 180
    (folder / "moved.pdf").write_bytes(coloured(PAGES[:2]))
    (folder / "copy.pdf").unlink()
    report = run(folder, encoder)
    assert (report.removed, report.rows) == (1, 3 + 2 + 90)


def test_without_the_extra_documents_are_counted_and_those_of_the_index_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FakeEncoder()
    missing = lambda found: found.kind != "PDF" and formats.is_installed(found)  # noqa: E731
    monkeypatch.setattr(look, "is_installed", missing)
    report = run(folder, encoder)
    assert (report.pictures, report.other_files) == (3, {".pdf files": 2})
    assert report.warnings == [
        "2 PDF documents were left out. To search PDF documents, too: pip install 'clipsearch[pdf]'"
    ]
    monkeypatch.undo()
    assert run(folder, encoder).pictures == 5
    monkeypatch.setattr(look, "is_installed", missing)
    report = run(folder, encoder)
    assert (report.pictures, report.unchanged, report.warnings) == (5, 5, [])


def test_the_packages_lack_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pdf").write_bytes(coloured(PAGES))
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(UnreadablePicture, match=r"pip install 'clipsearch\[pdf\]'"):
        open_picture(tmp_path / "x.pdf")
