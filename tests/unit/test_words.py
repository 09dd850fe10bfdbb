"""Words that people wrote with other programs: read from their files, found by filters, shown in hits."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import zipfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsearch.cli.output import hits_csv, words_of
from clipsearch.folding import fold_name
from clipsearch.indexer import build, rows
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.verify import verify
from clipsearch.pictures.metadata import describe, describe_again, read_embedded
from clipsearch.pictures.metadata.exif import exif_of_bytes
from clipsearch.pictures.metadata.iptc import said_in_iptc
from clipsearch.pictures.metadata.sidecars import said_beside
from clipsearch.pictures.metadata.statements import Said
from clipsearch.pictures.metadata.words import (
    LONGEST_CAPTION,
    MOST_CHARACTERS,
    MOST_KEYWORDS,
    NO_WORDS,
    Words,
    decoded,
    decoded_utf16,
    plain,
    stars,
    written,
)
from clipsearch.pictures.metadata.xmp import said_in_xmp
from clipsearch.pictures.worker import _MAX_MESSAGE_BYTES
from clipsearch.query import parse_query
from clipsearch.query.nodes import Filter, Glob
from clipsearch.records import ImageRecord, PictureMetadata
from clipsearch.search.collection import Collection
from clipsearch.search.filters import passing
from clipsearch.store.columns import build_columns
from tests.support.breadth import tries
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture
from tests.support.written_pictures import ARCHIVE, BESIDE, WRITTEN
from tests.unit.test_metadata import chunk, exif_bytes, jpeg_with, metadata_of, png_with, segment, xmp

EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 25, 100)
MWG = (
    "xmlns:mwg-rs='http://www.metadataworkinggroup.com/schemas/regions/' "
    "xmlns:stArea='http://ns.adobe.com/xmp/sType/Area#' xmlns:acdsee='http://ns.acdsee.com/iptc/1.0/' "
)


def filtered(filter: str | Filter, *records: PictureMetadata) -> list[bool]:
    expression = parse_query(filter).filter if isinstance(filter, str) else filter
    assert expression is not None
    columns = build_columns(
        ImageRecord(n, f"{n}.jpg", 1, 0, 1, None, metadata=metadata) for n, metadata in enumerate(records)
    )
    return [bool(one) for one in passing(expression, columns, lambda name: np.zeros(len(records), bool))]


def of(said: Said, camera: str | None = None) -> PictureMetadata:
    found = written([said.words], camera)
    return PictureMetadata("JPEG", None, camera, None, None, None, *(getattr(found, n) for n in found.__slots__))


# --- files of real programs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", [*WRITTEN, *BESIDE])
def test_what_exiftool_and_exiv2_wrote_is_read(files: Path, name: str) -> None:
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif")
    found = metadata_of(files / name, (files / name).read_bytes())
    told: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value
        for key in ("title", "caption", "keywords", "people", "rating")
        if (value := getattr(found, key))
    }
    expected = WRITTEN["regions.jpg" if name in BESIDE else name]
    if name == "listed.jpg":  # JSON has another order
        told, expected = ({**each, "people": sorted(each["people"])} for each in (told, expected))
    assert told == expected


def test_it_is_found_and_shown(files: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("basic.jpg", "regions.jpg", "rejected.jpg", "iptc.jpg", "explorer.jpg"):
        (photos / name).write_bytes((files / name).read_bytes())
    picture(1).save(photos / "takeout.jpg")
    told = {"photoTakenTime": {"timestamp": "1307268672"}, "title": "takeout.jpg", "description": "Der alte Garten"}
    (photos / "takeout.jpg.json").write_text(json.dumps({**told, "people": [{"name": "Großmutter"}]}), "utf-8")
    report = index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    checked = verify(report.index)
    assert checked.ok, checked.problems
    with Collection(report.index, encoder=FakeEncoder()) as collection:

        def found(query: str) -> list[str]:
            return [hit.record.path for hit in collection.search(query, 99, sort="path")]

        assert found("keyword:italy") == ["basic.jpg"]
        assert found("keyword:italy/rome") == found('keyword:"Places|Italy"') == found("keyword:ROM*") == ["basic.jpg"]
        assert found("keyword:urumqi") == ["basic.jpg"]
        assert found("keyword:lodz") == ["iptc.jpg"]
        assert found("keyword:dogs") == found("keyword:animals/*") == ["regions.jpg"]
        assert found("person:zoe") == found("person:bill") == ["regions.jpg"]
        assert found("person:rex") == found("person:sharp") == []
        assert found("person:grossmutter") == found("caption:garten") == ["takeout.jpg"]
        assert found("caption:harbour") == found("caption:ete") == ["basic.jpg"]
        assert found("caption:olympus") == []
        assert found("rating:>3") == ["basic.jpg", "regions.jpg"]
        assert found("rating:-1") == ["rejected.jpg"]
        assert found("not rating:-1 rating:<=3") == ["explorer.jpg"]
        (hit,) = collection.search("keyword:rome")
        answer = hit.to_dict()
        assert answer["keywords"] == ["Places|Italy|Rome", "Ürümqi, China"]
        assert answer["title"] == "Été à la plage"
        assert answer["people"] == ["Anna Müller"]
        assert answer["rating"] == 4
        assert json.loads(json.dumps(answer)) == answer
        assert words_of(hit.record.metadata).startswith("rating: 4; people: Anna Müller; keywords: Places|Italy|Rome,")
        assert "Places|Italy|Rome; Ürümqi, China" in hits_csv([hit]).decode()
        assert collection.notices("keyword:rome") == []
        (line,) = collection.notices("tag:rome")
        assert "For the 1 with this keyword, write keyword:rome" in line


# --- how other programs write it -----------------------------------------------------------------------------

LIGHTROOM = xmp(
    "xmp:Rating='5' photoshop:DateCreated='2017-03-09'>"
    "<dc:title><rdf:Alt><rdf:li xml:lang='x-default'>Wedding</rdf:li></rdf:Alt></dc:title>"
    "<dc:subject><rdf:Bag><rdf:li>wedding</rdf:li><rdf:li>Anna</rdf:li></rdf:Bag></dc:subject>"
    "<lr:hierarchicalSubject><rdf:Bag><rdf:li>events|wedding</rdf:li><rdf:li>people|Anna</rdf:li></rdf:Bag>"
    "</lr:hierarchicalSubject><mwg-rs:Regions rdf:parseType='Resource'><mwg-rs:AppliedToDimensions stDim:w='6000'/>"
    "<mwg-rs:RegionList><rdf:Bag><rdf:li><rdf:Description mwg-rs:Rotation='0' mwg-rs:Name='Anna' mwg-rs:Type='Face'>"
    "<mwg-rs:Area stArea:h='0.1' stArea:w='0.1' stArea:x='0.1' stArea:y='0.1'/></rdf:Description></rdf:li>"
    "<rdf:li><rdf:Description mwg-rs:Type='Face'/></rdf:li>"
    "</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>",
    f"{MWG} xmlns:lr='http://ns.adobe.com/lightroom/1.0/' xmlns:stDim='http://ns.adobe.com/xap/1.0/sType/Dimensions#' ",
)
EXPLORER = xmp(
    "><MicrosoftPhoto:Rating>75</MicrosoftPhoto:Rating><dc:subject><rdf:Bag xmlns:rdf='http://www.w3.org/1999/02/"
    "22-rdf-syntax-ns#'><rdf:li>wedding</rdf:li></rdf:Bag></dc:subject><MicrosoftPhoto:LastKeywordXMP><rdf:Bag>"
    "<rdf:li>events/wedding</rdf:li></rdf:Bag></MicrosoftPhoto:LastKeywordXMP><dc:title><rdf:Alt><rdf:li "
    "xml:lang='x-default'>Wedding</rdf:li></rdf:Alt></dc:title><dc:description><rdf:Alt><rdf:li "
    "xml:lang='x-default'>Wedding</rdf:li></rdf:Alt></dc:description></rdf:Description><rdf:Description "
    "rdf:about='uuid:faf5bdd5' xmlns:MP='http://ns.microsoft.com/photo/1.2/'><MP:RegionInfo><rdf:Description "
    "xmlns:MPRI='http://ns.microsoft.com/photo/1.2/t/RegionInfo#'><MPRI:Regions><rdf:Bag><rdf:li><rdf:Description "
    "xmlns:MPReg='http://ns.microsoft.com/photo/1.2/t/Region#'><MPReg:Rectangle>0.1, 0.1, 0.2, 0.2</MPReg:Rectangle>"
    "<MPReg:PersonDisplayName>Anna</MPReg:PersonDisplayName></rdf:Description></rdf:li></rdf:Bag></MPRI:Regions>"
    "</rdf:Description></MP:RegionInfo>",
    "xmlns:MicrosoftPhoto='http://ns.microsoft.com/photo/1.0' ",
)
PICASA = xmp(
    "><mwg-rs:Regions rdf:parseType='Resource'><mwg-rs:RegionList><rdf:Bag><rdf:li rdf:parseType='Resource'>"
    "<mwg-rs:Name>Anna</mwg-rs:Name><mwg-rs:Type>Face</mwg-rs:Type><mwg-rs:Area stArea:x='0.5'/>"
    "</rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions><dc:subject><rdf:Bag><rdf:li>wedding</rdf:li></rdf:Bag>"
    "</dc:subject>",
    MWG,
)
CATEGORIES = (
    '<Categories><Category Assigned="0">Places<Category Assigned="1">Rome &amp; more</Category>'
    '<Category Assigned="0">Milan</Category></Category><Category Assigned="1">Food</Category></Categories>'
)
ACDSEE = xmp(
    "><acdsee:caption>By the pool</acdsee:caption><acdsee:notes>Hot that day</acdsee:notes><acdsee:rating>4"
    f"</acdsee:rating><acdsee:categories>{escape(CATEGORIES)}</acdsee:categories>"
    "<acdsee:keywords><rdf:Bag><rdf:li>wedding</rdf:li></rdf:Bag></acdsee:keywords>",
    MWG,
)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (LIGHTROOM, ("Wedding", None, ("events|wedding", "people|Anna"), ("Anna",), 5)),
        (EXPLORER, ("Wedding", None, ("events|wedding",), ("Anna",), 4)),
        (PICASA, (None, None, ("wedding",), ("Anna",), None)),
        (ACDSEE, (None, "By the pool\nHot that day", ("wedding", "Places|Rome & more", "Food"), (), 4)),
    ],
    ids=["Lightroom", "Explorer", "Picasa", "ACDSee"],
)
def test_packets_as_programs_write_them(packet: bytes, expected: tuple[object, ...]) -> None:
    found = of(said_in_xmp(packet))
    assert (found.title, found.caption, found.keywords, found.people, found.rating) == expected
    utf16 = packet.decode().encode("utf-16")
    assert said_in_xmp(utf16) == said_in_xmp(packet)


def test_words_of_other_pictures_do_not_count() -> None:
    other = "<dc:subject><rdf:Bag><rdf:li>other</rdf:li></rdf:Bag></dc:subject><dc:title>other</dc:title>"
    packet = xmp(
        f"><xmpMM:Ingredients><rdf:Bag><rdf:li rdf:parseType='Resource'>{other}</rdf:li></rdf:Bag></xmpMM:Ingredients>"
        f"<xmpMM:DerivedFrom rdf:parseType='Resource' xmp:Rating='5'>{other}</xmpMM:DerivedFrom>"
        "<dc:subject><rdf:Bag><rdf:li>own</rdf:li></rdf:Bag></dc:subject>",
        "xmlns:xmpMM='http://ns.adobe.com/xap/1.0/mm/' ",
    )
    assert said_in_xmp(packet).words == Words(keywords=("own",))


def test_png_texts(tmp_path: Path) -> None:
    texts = {"Title": "Am See", "Description": "Grüße", "Comment": "Created with GIMP", "Keywords": "lake, summer;sun"}
    chunks = [
        chunk(b"iTXt", name.encode() + b"\0\0\0\0\0" + text.encode())
        if not text.isascii()
        else chunk(b"tEXt", name.encode() + b"\0" + text.encode())
        for name, text in texts.items()
    ]
    found = metadata_of(tmp_path / "a.png", png_with(*chunks))
    assert (found.title, found.caption, found.keywords) == ("Am See", "Grüße", ("lake", "summer", "sun"))
    for encoding in ("latin-1", "utf-8"):
        found = metadata_of(tmp_path / "a.png", png_with(chunk(b"tEXt", b"Title\0" + "Grüße".encode(encoding))))
        assert found.title == "Grüße"


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("Grüße vom See".encode(), "Grüße vom See"),
        (b"at the lake\0", "at the lake"),
        (b"CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 90\n", None),
        (b"Created with GIMP", None),
        (b"Optimized by JPEGmini 3.9", None),
        (b"LEAD Technologies Inc. V1.01\0", None),
        (b"Lavc58.54.100", None),
        (b"*", None),
    ],
)
def test_comments_of_jpeg(tmp_path: Path, comment: bytes, text: str | None) -> None:
    assert metadata_of(tmp_path / "a.jpg", jpeg_with(segment(0xFE, comment))).caption == text


# --- any text ----------------------------------------------------------------------------------------------

anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def in_xmp(text: str) -> PictureMetadata:
    li = f"<rdf:li>{escape(text)}</rdf:li>"
    region = f"<rdf:li mwg-rs:Type='Face' mwg-rs:Name='{escape(text, quote=True)}'/>"
    packet = xmp(
        f"><dc:subject><rdf:Bag>{li}</rdf:Bag></dc:subject><dc:description><rdf:Alt>{li}</rdf:Alt></dc:description>"
        f"<mwg-rs:Regions><mwg-rs:RegionList><rdf:Bag>{region}</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>",
        MWG,
    )
    return of(said_in_xmp(packet))


def in_iptc(text: str) -> PictureMetadata:
    def dataset(record: int, number: int, value: bytes) -> bytes:
        return bytes([0x1C, record, number]) + len(value).to_bytes(2, "big") + value

    value = text.encode()
    return of(said_in_iptc(dataset(1, 90, b"\x1b%G") + dataset(2, 25, value) + dataset(2, 120, value)))


def in_exif(text: str) -> PictureMetadata:
    wide = text.encode("utf-16-le") + b"\0\0"
    content = exif_bytes({0x9C9E: wide, 0x9C9C: wide, 0x4746: 3})
    return of(read_embedded("JPEG", exif_of_bytes(content)).said[0])


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(text=anything, write=st.sampled_from([in_xmp, in_iptc, in_exif]))
def test_any_text_is_found(text: str, write: Callable[[str], PictureMetadata]) -> None:
    """By what was written, and by what is shown; but where nothing would be left to compare."""
    found = write(text)
    shown = plain(text)
    for column, values in (("keyword", found.keywords), ("caption", [found.caption] if found.caption else [])):
        for value in values:
            assert filtered(Glob(column, (value,)), found) == [True]
            folded = fold_name(value)
            if '"' not in value and not set("“”„") & set(value) and value.strip() == value:
                assert filtered(f'{column}:"{value}"', found, PictureMetadata()) == [True, False]
            assert folded
    whole = "\0" not in text and fold_name(shown) not in ("", "|")
    if whole and write is not in_exif and "|" not in text and not shown.lower().startswith("darktable"):
        assert filtered(Glob("keyword", (shown,)), found) == [True]
    if whole and write is in_xmp and shown.lower() not in ("unknown", "unconfirmed", "ignored", "?"):
        attribute = " ".join(shown.split())
        assert filtered(Glob("person", (attribute,)), found) == [True]


@pytest.mark.slow
@given(texts=st.lists(st.text(max_size=300), max_size=20))
def test_what_is_kept_is_bounded_and_fits_a_message(texts: list[str]) -> None:
    many = tuple(texts) * 60
    found = written([Words(many, many, many, many, 3)], None)
    assert len(found.caption or "") <= LONGEST_CAPTION
    assert len(found.keywords) <= MOST_KEYWORDS and sum(map(len, found.keywords)) <= MOST_CHARACTERS
    for text in [found.title or "", *(found.caption or "").splitlines(), *found.keywords, *found.people]:
        assert text == text.strip() and not {"\0", "\n", "\x1b"} & set(text)
        text.encode("utf-8")
    longest = {
        "c": "\U0010ffff" * LONGEST_CAPTION,
        "k": "\U0010fffd" * MOST_CHARACTERS,
        "p": "\ufffd" * MOST_CHARACTERS,
    }
    assert len(json.dumps(longest)) < _MAX_MESSAGE_BYTES


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_told_right", [True, False])
@pytest.mark.parametrize(
    "text",
    ["A day at the sea", "Grüße aus Köln", "Сообщение от Анны", "港の写真です", "사진", "बगीचा", "שלום", "a", "日本"],
)
def test_utf16_is_read_in_either_order(text: str, order: str, is_told_right: bool) -> None:
    raw = text.encode("utf-16-le" if order == "<" else "utf-16-be")
    if not is_told_right and text == "사진":
        return  # these bytes are two letters of the same script in the other order
    told = order if is_told_right else {"<": ">", ">": "<"}[order]
    assert decoded_utf16(raw, told) == decoded_utf16(raw + b"\0\0", told) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Größe".encode(), "Größe"),
        ("Größe".encode("cp1252"), "Größe"),
        ("“été”".encode("cp1252"), "“été”"),
        (b"plain\0rest", "plain"),
        ("Гора".encode("cp1251"), ""),
        ("東京".encode("shift-jis"), ""),
    ],
)
def test_bytes_without_an_encoding(raw: bytes, text: str) -> None:
    assert decoded(raw) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"ASCII\0\0\0at the lake", "at the lake"),
        (b"ASCII\0\0\0" + "Größe".encode(), "Größe"),
        (b"\0" * 8 + b"at the lake\0\0", "at the lake"),
        (b"at the lake", "at the lake"),
        (b"        at the lake", "at the lake"),
        (b"UNICODE\0" + "Анна".encode("utf-16-le"), "Анна"),
        (b"UNICODE\0" + "Анна".encode("utf-16-be"), "Анна"),
        (b"UNICODE\0at the lake", "at the lake"),
        (b"JIS\0\0\0\0\0" + "湖".encode("iso2022_jp"), "湖"),
        (b"ASCII\0\0\0" + b"\0" * 200, None),
        (b"ASCII\0\0\0" + b" " * 200, None),
        (b"\0" * 264, None),
        (b"UNICODE\0", None),
        (b"ASCII\0\0\0oplus_32", None),
        (b"Screenshot", None),
        (
            b"ASCII\0\0\0filter: 0; fileterIntensity: 0.0; filterMask: 0; hist: (1, 2); module: photo;hw-remosaic: 0;",
            None,
        ),
        (b'ASCII\0\0\0{"sceneMode": "auto"}', None),
    ],
)
def test_user_comments(tmp_path: Path, raw: bytes, text: str | None) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif_bytes({}, {0x9286: raw}))
    assert metadata_of(tmp_path / "a.jpg", (tmp_path / "a.jpg").read_bytes()).caption == text


# --- what no person wrote -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "OLYMPUS DIGITAL CAMERA",
        "OLYMPUS DIGITAL CAMERA         ",
        "SONY DSC",
        "MINOLTA DIGITAL CAMERA",
        "KONICA MINOLTA DIGITAL CAMERA",
        "SAMSUNG",
        "SAMSUNG CAMERA PICTURES",
        "Digital Camera",
        "DIGITAL CAMERA",
        "Exif_JPEG_PICTURE",
        "EXIF JPEG",
        "Digital Still Camera",
        "PENTAX DIGITAL CAMERA",
        "<KENOX S760  / Samsung S760>",
        "DCIM\\100MEDIA\\DJI_0001.JPG",
        "default",
        "IMG_20110605_101112",
        "DSC01234",
        "P1010001",
        "Created with GIMP",
        "Processed with VSCO with a6 preset",
        "CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 90",
        "AppleMark",
        "LEAD Technologies Inc. V1.01",
        "dav",
        "hdrpl",
        "0000",
        "---",
        "2011:06:05 10:11:12",
        "ImageJ=1.53t\nimages=3",
        "d41d8cd98f00b204e9800998ecf8427e",
        "Screenshot",
        "Canon EOS 5D",
        "CANON DIGITAL CAMERA",
        "None",
        "File written by Adobe Photoshop 4.0",
    ],
)
def test_what_cameras_write_is_no_caption(text: str) -> None:
    for words in (Words(captions=(text,)), Words(titles=(text,))):
        found = written([words], "Canon EOS 5D")
        assert (found.title, found.caption) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        "Apple",
        "An apple on a table",
        "Nikon camera on the table",
        "Mount Olympus",
        "Paris 2011",
        "2011",
        "50",
        "Christmas2015",
        "Sam 2",
        "Photo of Grandma",
        "Made with love",
        "Created with joy by Anna",
        "P1",
        "❤️",
        "家",
        "No picnic today",
        "Honor",
        "<3 my dog",
        "Digital art by Anna",
        "Geburtstagsfeier_von_oma_2011_im_garten",
        "https://example.org/photo/1",
        "DSC meeting",
        "Camera: my old Leica; film: HP5; place: Ulm",
        "IMG of the year",
        "Room 0",
        "[untitled] no. 5",
    ],
)
def test_what_people_write_is_a_caption(text: str) -> None:
    assert written([Words(captions=(text,))], "Canon EOS 5D").caption == text


@pytest.mark.parametrize(
    ("titles", "captions", "title", "caption"),
    [
        ([], ["A", "B", "A"], None, "A\nB"),
        (["A"], ["A", "a."], "A", None),
        (["A"], ["A boat"], "A", "A boat"),
        ([], ["A long caption about Łódź, cut", "A long caption about"], None, "A long caption about Łódź, cut"),
        ([], ["Café in Łódź", "Caf? in ??d?"], None, "Café in Łódź"),
        (["A", "B"], ["C"], "A", "C\nB"),
        (["SONY DSC", "B"], [], "B", None),
        ([], ["two\nlines\r\n here"], None, "two lines here"),
    ],
)
def test_the_same_text_counts_once(
    titles: list[str], captions: list[str], title: str | None, caption: str | None
) -> None:
    found = written([Words(tuple(titles), tuple(captions))], None)
    assert (found.title, found.caption) == (title, caption)


@pytest.mark.parametrize(
    ("keywords", "kept"),
    [
        (["Rome", "rome", "ROME "], ["Rome"]),
        (["Rome", "Places|Italy|Rome", "Italy", "Places|Italy"], ["Places|Italy|Rome"]),
        (["darktable|changed", "a"], ["a"]),
        (["_Digikam_Internal_Tags_/x", "", "  ", "\0"], []),
        (["AC/DC", "R&B", "C++", "*"], ["AC/DC", "R&B", "C++", "*"]),
    ],
)
def test_keywords_are_kept_once(keywords: list[str], kept: list[str]) -> None:
    assert list(written([Words(keywords=tuple(keywords))], None).keywords) == kept


@pytest.mark.parametrize(
    ("value", "percent", "expected"),
    [
        ("5", False, 5),
        ("5.0", False, 5),
        ("0", False, 0),
        ("-1", False, -1),
        ("-1.0", False, -1),
        (3, False, 3),
        ("3.5", False, 4),
        ("6", False, None),
        ("99", False, None),
        ("", False, None),
        (None, False, None),
        ("nan", False, None),
        ("x", False, None),
        ("-2", False, None),
        (0, True, 0),
        (1, True, 1),
        (25, True, 2),
        (50, True, 3),
        (75, True, 4),
        (99, True, 5),
        (100, True, 5),
        (101, True, None),
        (1e400, True, None),
        ((1, 2), False, None),
    ],
)
def test_stars(value: object, percent: bool, expected: int | None) -> None:
    assert stars(value, percent=percent) == expected


def test_stars_of_an_editor_count_even_where_it_takes_them_away() -> None:
    assert written([Words(rating=4)], None, first=Words(rating=2)).rating == 2
    assert written([Words(rating=4)], None, first=Words(rating=0)).rating is None
    assert written([Words(rating=4, trust=3), Words(rating=0)], None).rating == 4
    assert written([Words(rating=4, trust=3), Words(rating=-1)], None).rating == -1


# --- beside it ----------------------------------------------------------------------------------------------


def test_files_beside_a_picture_add_theirs(tmp_path: Path) -> None:
    inside = xmp("xmp:Rating='2'><dc:subject><rdf:Bag><rdf:li>inside</rdf:li></rdf:Bag></dc:subject>")
    beside = xmp("xmp:Rating='4'><dc:subject><rdf:Bag><rdf:li>beside</rdf:li></rdf:Bag></dc:subject>")
    path = tmp_path / "a.jpg"
    embedded = read_embedded("JPEG", None, {"xmp": inside})
    path.touch()
    (tmp_path / "a.xmp").write_bytes(beside)
    found = describe(embedded, str(path))
    assert (found.keywords, found.rating) == (("beside", "inside"), 4)
    alone = describe(embedded, str(path), beside=False)
    assert (alone.keywords, alone.rating) == (("inside",), 2)
    again = describe_again(alone, str(path))
    assert (again.keywords, again.rating) == (("beside", "inside"), 4)


@given(
    people=st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(), st.dictionaries(st.text(), st.text()))))
)
def test_no_takeout_file_hurts(people: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        body = {"photoTakenTime": {"timestamp": "1307268672"}, "people": people, "description": people}
        (Path(folder) / "a.jpg.json").write_text(json.dumps(body), "utf-8")
        _, takeout = said_beside(f"{folder}/a.jpg")
        assert "takeout:photoTakenTime" in takeout.dates


# --- hostile ------------------------------------------------------------------------------------------------

LAUGHS = (
    b"<?xml version='1.0'?><!DOCTYPE lolz [<!ENTITY lol 'lol'>"
    + b"".join(b"<!ENTITY lol%d '%s'>" % (n, b"&lol%d;" % (n - 1) * 10 if n else b"&lol;" * 10) for n in range(10))
    + b"]>"
)


@pytest.mark.slow
def test_no_packet_takes_long_or_much() -> None:
    bag = b"<dc:subject><rdf:Bag>%s</rdf:Bag></dc:subject>"
    regions = "<mwg-rs:Regions><mwg-rs:RegionList><rdf:Bag>%s</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
    kw = "xmlns:mwg-kw='http://www.metadataworkinggroup.com/schemas/keywords/' "
    deep = "<rdf:li><mwg-kw:Keyword>k</mwg-kw:Keyword><mwg-kw:Children><rdf:Bag>" * 60_000
    packets = [
        LAUGHS + xmp("><dc:subject><rdf:Bag><rdf:li>&lol9;</rdf:li></rdf:Bag></dc:subject>"),
        xmp(">" + (bag % (b"<rdf:li>keyword</rdf:li>" * 300_000)).decode()),
        xmp(">" + (bag % b"".join(b"<rdf:li>k%d</rdf:li>" % n for n in range(200_000))).decode()),
        xmp(f"><dc:description>{'word ' * 2_000_000}</dc:description>"),
        xmp(f"><dc:description><rdf:Alt>{'<rdf:li>a</rdf:li>' * 300_000}</rdf:Alt></dc:description>"),
        xmp(">" + regions % ("<rdf:li mwg-rs:Name='n'/>" * 200_000), MWG),
        xmp(">" + regions % ("<rdf:li><rdf:Bag>" * 60_000), MWG),
        xmp(f"><mwg-kw:Keywords><mwg-kw:Hierarchy><rdf:Bag>{deep}", kw),
        xmp("><dc:subject><rdf:Bag><rdf:li>caf\xe9</rdf:li></rdf:Bag></dc:subject>").replace("é".encode(), b"\xe9"),
        os.urandom(2**20),
        b"<x:xmpmeta" + b"<" * 2**20,
    ]
    began = time.process_time()
    found = [written([said_in_xmp(packet).words], None) for packet in packets]
    assert time.process_time() - began < 15
    assert found[0].keywords in ((), ("&lol9;",))
    assert found[8].keywords == ("café",)
    for one in found:
        assert len(one.keywords) <= MOST_KEYWORDS and len(one.caption or "") <= LONGEST_CAPTION


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    block=st.binary(max_size=300),
    head=st.sampled_from([b"", b"\x1c\x02\x19", b"\x1c\x01\x5a\0\x03\x1b%G\x1c\x02\x19\0"]),
)
def test_no_iptc_hurts(block: bytes, head: bytes) -> None:
    words = said_in_iptc(head + block).words
    for text in (*words.keywords, *words.captions, *words.titles):
        plain(text).encode("utf-8")


# --- older indexes ------------------------------------------------------------------------------------------


def test_an_older_index_says_how_to_read_them(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "basic.jpg").write_bytes((files / "basic.jpg").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(build, "METADATA_VERSION", 2)
        patch.setattr(rows, "METADATA_VERSION", 2)
        row_of = rows.row_of
        nothing = {"title": None, "caption": None, "keywords": (), "people": (), "rating": None}
        patch.setattr(
            rows,
            "row_of",
            lambda *args: dataclasses.replace(row_of(*args), metadata=dataclasses.replace(args[-1], **nothing)),
        )
        patch.setattr("clipsearch.store.columns.LIST_COLUMNS", {})
        patch.setattr("clipsearch.store.columns.SEQUENCES", ("name",))
        for table in ("NUMBERS", "FILTER_NUMBERS"):
            from clipsearch.store import columns

            before = {name: column for name, column in getattr(columns, table).items() if name != "rating"}
            patch.setattr(columns, table, before)
        report = index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    encoder = FakeEncoder()
    with Collection(report.index, encoder=encoder) as collection:
        assert collection.search("keyword:rome") == []
        (line,) = collection.notices("keyword:rome")
        assert line.startswith("1 of 1 pictures") and line.endswith("clipsearch index --reread-metadata")
        assert collection.notices("dog") == []
    index_folder(photos, encoder, options=IndexOptions(workers=1, reread_metadata=True))
    assert verify(report.index).ok and encoder.images_encoded == 0
    with Collection(report.index, encoder=encoder) as collection:
        assert [hit.record.path for hit in collection.search("keyword:rome rating:4")] == ["basic.jpg"]
        assert collection.notices("keyword:rome") == []


def test_nothing_is_nothing() -> None:
    assert said_in_xmp(xmp(">")).words == NO_WORDS
    assert written([], None) == written([Words(("",), ("",), ("",), ("",))], None)
