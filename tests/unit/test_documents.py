"""PDF documents: pages, their words, damage, and what becomes of them in an index."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from clipsearch.errors import MissingExtra, UnreadablePicture
from clipsearch.indexer import look, words
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.status import read_status
from clipsearch.indexer.verify import verify
from clipsearch.indexer.words import ReadOptions, ReadReport, read_words
from clipsearch.pictures import formats, pdf
from clipsearch.pictures.images import PictureFile, open_picture
from clipsearch.pictures.pool import DecodePool, DecodeTask
from clipsearch.search.collection import Collection
from tests.support.breadth import tries
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pdfs import Sheet, coloured, document, encrypted, with_trap
from tests.support.pictures import fill
from tests.unit.test_videos import damaged

pytest.importorskip("pypdfium2")
COUNT = tries("CLIPSEARCH_DOCUMENTS", 3, 6)
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


@pytest.mark.slow
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


# -- words


LETTER = ["Invoice RE16 TGK of the harbour office", "to be paid until Friday, 12.50 EUR", "Yours, Zoë Müller & Söhne"]


def read(index: Path, **options: Any) -> ReadReport:
    report = read_words(index, ReadOptions(workers=1, **options))
    checked = verify(index)
    assert checked.ok, checked.problems
    return report


def drawn(words: str) -> Image.Image:
    """A scan of a page of a few words."""
    image = Image.new("RGB", (1240, 1754), "white")
    ImageDraw.Draw(image).text((150, 300), words, fill="black", font=ImageFont.load_default(60))
    return image


@pytest.mark.slow
def test_words_of_text_layers_are_found_on_their_pages_without_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    fill(folder, 1)
    (folder / "book.pdf").write_bytes(document([Sheet([f"This is leaf {n} of a long book"]) for n in range(1, 41)]))
    sheets = [Sheet(["A title"]), Sheet(LETTER), Sheet(picture=drawn("MARMALADE"))]
    (folder / "letter.pdf").write_bytes(document(sheets))
    encoder = FakeEncoder()
    index = run(folder, encoder).index

    def refuse() -> None:
        raise MissingExtra("ocr", "reading the words in pictures")

    monkeypatch.setattr(words, "check_reader", refuse)
    report = read(index)
    assert (report.read, report.lacking, report.written, report.skipped) == (41, 1 + 2, 41, [])
    report = read(index)
    assert (report.read, report.lacking, report.known) == (0, 1 + 1, 40 + 2)
    with Collection(index, encoder=encoder) as photos:

        def found(query: str) -> list[str]:
            return [hit.where.rpartition("/")[2] for hit in photos.search(query, 9)]

        assert found('text:"re16 tgk"') == found("text:muller") == found("text:söhne") == ["letter.pdf#page=2"]
        assert found("text:title") == ["letter.pdf#page=1"]
        assert found('text:"leaf 37"') == ["book.pdf#page=37"]
        assert found("text:marmalade") == []
        (hit,) = photos.search("text:office", 9)
        (line,) = hit.words
        left, top, width, height = line.box
        assert line.text == LETTER[0]
        assert 60 / 595 < left / 1653 < 70 / 595
        assert 60 / 842 < top / 2339 < 80 / 842
        assert 0.5 < width / 1653 < 0.6
        assert 0.015 < height / 2339 < 0.025
        hits = photos.search("harbour office", 3)  # among what looks like it
        assert "letter.pdf#page=2" in [hit.where.rpartition("/")[2] for hit in hits]
    compact(index)
    with Collection(index, encoder=encoder) as photos:
        assert [hit.record.view for hit in photos.search("text:invoice")] == ["page=2"]
    (folder / "letter.pdf").rename(folder / "renamed.pdf")
    run(folder, encoder)
    with Collection(index, encoder=encoder) as photos:
        assert [hit.where for hit in photos.search("text:invoice")] == [f"{folder}/renamed.pdf#page=2"]
    pytest.importorskip("rapidocr")
    monkeypatch.undo()
    report = read(index)  # what waited for the reader
    assert (report.known, report.lacking) == (41, 0)
    with Collection(index, encoder=encoder) as photos:
        assert [hit.record.view for hit in photos.search("text:marmalade")] == ["page=3"]
        assert [hit.record.view for hit in photos.search("text:title")] == ["page=1"]
        (hit,) = photos.search("text:marmalade")
        (line,) = hit.words
        assert 0.1 < line.box[0] / 1653 < 0.14
        assert 0.16 < line.box[1] / 2339 < 0.21


# -- over HTTP


@pytest.mark.slow
def test_a_server_shows_the_page_and_lists_all(folder: Path) -> None:
    encoder = FakeEncoder()
    index = run(folder, encoder).index
    with serving(index, encoder) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        (hit,) = client.post("/v1/search", json={"query": "yellow", "k": 1}).json()["hits"]
        assert hit["where"].endswith("scan.pdf#page=3")
        assert len(client.post("/v1/search", json={"query": "pink", "k": 30, "each": True}).json()["hits"]) == 30
        for _ in range(2):  # made, then kept
            answer = client.get(hit["thumbnail"])
            assert colour_of(Image.open(io.BytesIO(answer.content))) == "yellow"
        asked = {"query": "yellow", "row_id": hit["row_id"], "content": hit["content_hash"]}
        found = client.post("/v1/where", json=asked)
        assert found.status_code == 200, found.text
        address = f"/v1/images/{hit['row_id']}/views?content={hit['content_hash']}"
        views = client.get(address).json()["views"]
        assert [(view["view"], view["page"], view["start_s"]) for view in views] == [
            (f"page={number}", number, None) for number in range(1, 5)
        ]
        shown = [colour_of(Image.open(io.BytesIO(client.get(view["thumbnail"]).content))) for view in views]
        assert tuple(shown) == SHOWN
        whole = client.get(f"/v1/images/{hit['row_id']}/original?content={hit['content_hash']}")
        assert whole.content == (folder / "scan.pdf").read_bytes()
        assert whole.headers["content-disposition"].startswith("attachment")  # nothing that a browser would run
        (folder / "scan.pdf").write_bytes(coloured(PAGES[::-1]))
        assert client.get(f"/v1/images/{hit['row_id']}/original?content={hit['content_hash']}").status_code == 404


# -- damage


def classified(content: bytes) -> tuple[str, str]:
    with pytest.raises(UnreadablePicture) as caught:
        open_picture("x.pdf", content=content)
    return caught.value.status, caught.value.reason


def test_what_cannot_be_read_is_called_what_it_is() -> None:
    content = coloured(PAGES)
    locked = ("unsupported_format", "the document is encrypted and needs a password")
    for _ in range(2):  # no answer depends on the one before
        assert classified(encrypted("Words", b"secret")) == locked
        assert classified(document([])) == ("corrupt", "the document is damaged: no page of it can be found")
        assert classified(content[: len(content) // 4]) == ("truncated", "the document ends before its end")
        assert classified(b"%PDF-1.7\n")[0] == "truncated"
        assert classified(b"%PDF-1.4\n" + b"noise" * 999 + b"%%EOF")[0] == "corrupt"
        assert classified(b"") == ("empty", "the file is empty")
        assert classified(b"no document at all")[0] == "not_a_picture"
    assert open_picture("x.pdf", content=b"\r\n junk \r\n" + content).size == (1653, 2339)
    assert open_picture("x.pdf", content=encrypted("Words", b"")).size == (1653, 2339)  # whose owner has a password


def test_odd_documents_are_read_as_far_as_they_go() -> None:
    def read(content: bytes) -> pdf.PagesRead:
        return pdf.read_pages(io.BytesIO(content), shortest=64)

    content = coloured(PAGES[:3])
    lies = read(content.replace(b"/Count 3", b"/Count 999999"))
    assert ([page.number for page in lies.pages], lies.next_page) == ([1, 2, 3], None)
    assert lies.partial == "some of its pages are damaged"
    loop = read(content.replace(b"/Kids[", b"/Kids[2 0 R "))  # a tree that holds itself
    assert len(loop.pages) >= 2
    assert len(read(content.replace(b"startxref", b"startxxxx")).pages) == 3
    blank, said = Sheet(), Sheet(["Words"])
    assert [page.number for page in read(document([blank, said, blank, said, blank])).pages] == [1, 2, 4]
    assert [page.number for page in read(document([blank, blank])).pages] == [1]
    lost = [b"<</Type/XObject/Subtype/Image/Width 9/Height 9/Length 0>>stream\n\nendstream"]  # what nobody can draw
    white = [Sheet(["Words"]), Sheet(commands=b"q 500 0 0 500 0 0 cm /B Do Q")]
    pages = read(document(white, extra=lost, shared=b"/XObject<</B 5 0 R>>")).pages
    assert [page.number for page in pages] == [1, 2]
    sizes = [(595, 842), (14400, 10), (10, 14400), (1, 1)]
    red = COLOURS["red"]
    for page, size in zip(read(document([Sheet(colour=red, size=size) for size in sizes])).pages, sizes, strict=True):
        assert max(page.image.size) <= 4096
        assert page.size == tuple(round(side * 200 / 72) for side in size)
    turned = read(document([Sheet(["Words"], turned=90)]))
    assert turned.pages[0].size == (2339, 1653)


def test_what_a_document_says_of_itself(tmp_path: Path) -> None:
    info = b"/Title(My report)/Keywords(tax; house)/Subject(About it)/CreationDate(D:20230501120000+02'00')"
    (tmp_path / "x.pdf").write_bytes(coloured(PAGES, info=info))
    with PictureFile(tmp_path / "x.pdf") as file:
        metadata, _ = file.metadata()
    assert (metadata.taken_at, metadata.date_source) == ("2023-05-01T12:00:00", "pdf:CreationDate")
    assert (metadata.format, metadata.title, metadata.caption) == ("PDF", "My report", "About it")
    assert metadata.keywords == ("tax", "house")


def test_lines_have_their_words_and_places() -> None:
    lines = ["A long exam-", "ple of two lines", "\N{EURO SIGN} 12.50 (net)"]
    for turned in (0, 90, 180, 270):
        found, _, size = pdf.read_lines(io.BytesIO(document([Sheet(["First", "Second"], turned=turned)])), 1)
        found.sort(key=lambda line: line.text)  # who reads a page from its side takes lines in any order
        assert [line.text for line in found] == ["First", "Second"]
        x, y = (found[0].box[at] + found[0].box[at + 2] / 2 for at in (0, 1))
        x, y = (x / size[0], y / size[1]) if turned % 180 == 0 else (y / size[1], x / size[0])
        assert min(x, 1 - x) < 0.2
        assert min(y, 1 - y) < 0.12
    found, _, _ = pdf.read_lines(io.BytesIO(document([Sheet(lines)])), 1)
    assert [line.text for line in found] == ["A long example", "of two lines", "\N{EURO SIGN} 12.50 (net)"]


@pytest.mark.many
@pytest.mark.parametrize("how", ["cut", "zeroed", "flipped", "noise", "holed"])
def test_damaged_documents_are_read_as_far_as_they_go_or_refused_in_words(how: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (200, 150, 3), np.uint8))
    content = document([Sheet(LETTER, picture=picture), Sheet(LETTER), Sheet(colour=COLOURS["red"])])
    with DecodePool(FakeEncoder().preprocessing, workers=2, timeout_s=20, pieces=True) as pool:
        for number in range(COUNT):
            (tmp_path / f"{number}.pdf").write_bytes(damaged(content, how, rng))
        tasks = (
            task
            for number in range(COUNT)
            for path in (str(tmp_path / f"{number}.pdf"),)
            for task in (
                DecodeTask(number, path),
                DecodeTask(number, path, start_s=1.0),
                DecodeTask(number, path, "words", start_s=2.0, text_only=True),
            )
        )
        for result in pool.run(tasks):
            if result.skip is not None:
                assert result.skip[0] in ("corrupt", "truncated", "not_a_picture", "unsupported_format"), result.skip
                assert len(result.skip[1]) > 10


@pytest.mark.slow
def test_a_page_that_hangs_costs_itself(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    fill(folder, 1)
    (folder / "trap.pdf").write_bytes(with_trap(40, at=17))
    (folder / "first.pdf").write_bytes(with_trap(2, at=1))
    encoder = FakeEncoder()
    report = run(folder, encoder, timeout_s=0.5)
    assert (report.pictures, report.rows, report.partial) == (2, 1 + 39, 1)
    assert report.skipped_by_status == {"timeout": 1}
    (partial,) = read_status(report.index).partial
    assert (partial.path, partial.reason) == ("trap.pdf", "some of its pages are damaged")
    with Collection(report.index, encoder=encoder) as photos:
        views = {hit.record.view for hit in photos.search("red", 99, each=True)}
    assert views - {""} == {f"page={number}" for number in range(1, 41) if number != 17}


@pytest.mark.slow
def test_a_thousand_pages_are_read_in_parts_and_bounded_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).resize((100, 150))
    (tmp_path / "long.pdf").write_bytes(document([Sheet(["Words"], picture=small)] * 1000))
    task: DecodeTask | None = DecodeTask(0, str(tmp_path / "long.pdf"))
    numbers: list[int] = []
    parts = 0
    preprocessing = FakeEncoder().preprocessing
    with DecodePool(preprocessing, workers=1, memory_limit_bytes=300 * 2**20, pieces=True) as pool:
        while task is not None:
            pool.submit(task)
            result = pool.next_result()
            assert result is not None
            assert result.video is not None, result.skip
            numbers += map(int, result.video.times_s)
            next_page = result.video.next_s
            task = None if next_page is None else DecodeTask(0, task.path, start_s=next_page)
            parts += 1
    assert numbers == list(range(1, 1001))
    assert 1 + 999 / 32 <= parts < 100


# -- forms and notes

WIDGET = b"/Subtype/Widget/F 4/DA(/F1 12 Tf)/Rect[60 500 300 540]"
FORM = Sheet(
    ["Application for a fishing licence"],
    notes=[
        WIDGET + b"/FT/Tx/T(name)/V(Ada Lovelace)",
        WIDGET + b"/FT/Tx/Ff 4096/T(address)/V(12 Analytical Row\\rLondon)",
        WIDGET + b"/FT/Tx/T(town)/V<FEFF004D00FC006E006300680065006E>",
        WIDGET + b"/FT/Ch/Ff 131072/T(fish)/Opt[(trout)(haddock)]/V(haddock)",
        WIDGET + b"/FT/Ch/Ff 131072/T(land)/Opt[[(XK)(Kosovo)][(XX)(Atlantis)]]/V(XK)",  # what is seen, not its code
        WIDGET + b"/FT/Ch/Ff 2097152/T(baits)/Opt[(worm)(fly)(maggot)]/V[(worm)(fly)]",
        WIDGET + b"/FT/Ch/Ff 393216/T(other)/Opt[(worm)]/V(breadcrumbs)",
        WIDGET + b"/FT/Tx/Ff 8192/T(password)/V(correcthorse)",
        WIDGET.replace(b"/F 4", b"/F 2") + b"/FT/Tx/T(hidden)/V(unseen)",
        WIDGET + b"/FT/Btn/T(box)/V/Yes/AS/Yes",
        WIDGET + b"/FT/Tx/T(empty)",
        b"/Subtype/FreeText/F 4/Rect[60 300 300 340]/DA(/F1 12 Tf)/Contents(approved by the warden)",
        b"/Subtype/Text/F 4/Rect[400 700 420 720]/Contents(ask again in spring)",
        b"/Subtype/Popup/F 4/Rect[400 600 500 700]/Contents(ask again in spring)",
        b"/Subtype/Link/Rect[60 700 300 740]/Contents(a link)",
        b"/Subtype/Text/F 4/Rect[1e9 -1e9 nan 7]/Contents(far away)",
    ],
)
FILLED = [
    "Ada Lovelace",
    "12 Analytical Row",
    "London",
    "M\u00fcnchen",
    "haddock",
    "Kosovo",
    "worm",
    "fly",
    "breadcrumbs",
]
FILLED += ["approved by the warden"]
NOTED = ["ask again in spring", "far away"]


def test_what_is_filled_into_a_form_and_noted_is_read() -> None:
    layer, filled, size = pdf.read_lines(io.BytesIO(document([FORM])), 1)
    assert [line.text for line in layer] == ["Application for a fishing licence"]
    assert [line.text for line in filled] == FILLED + NOTED
    left, top, width, height = filled[0].box
    scale = 200 / 72
    assert (left, top) == pytest.approx((60 * scale, (842 - 540) * scale), abs=2)
    assert (width, height) == pytest.approx((240 * scale, 40 * scale), abs=2)
    for line in filled:
        assert 0 <= line.box[0] < size[0]
        assert 0 <= line.box[1] < size[1]
    assert pdf.read_lines(io.BytesIO(document([Sheet(["Plain"])])), 1)[1] == []


def test_a_page_of_notes_without_end_is_bounded() -> None:
    long = b"/Subtype/Text/F 4/Rect[0 0 9 9]/Contents(%s)" % (b"word " * 4000)
    _, filled, _ = pdf.read_lines(io.BytesIO(document([Sheet(notes=[long] * 30)])), 1)
    assert 0 < sum(len(line.text) for line in filled) <= pdf.MOST_CHARACTERS


def test_words_of_forms_are_found_on_their_page(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "licence.pdf").write_bytes(document([Sheet(["Instructions for this licence"]), FORM]))
    index = run(folder, FakeEncoder()).index
    read(index)
    with Collection(index, encoder=FakeEncoder()) as photos:
        for words in ("lovelace", "munchen", "haddock", '"ask again"', "warden"):
            assert [hit.record.page for hit in photos.search(f"text:{words}")] == [2], words
        for words in ("correcthorse", "unseen"):
            assert not photos.search(f"text:{words}")
