"""XMP that speaks of more than its picture, or is not quite XML."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.pictures.metadata.xmp import said_in_xmp
from tests.unit.test_metadata import xmp

OTHER = "<exif:DateTimeOriginal>2001-02-03T04:05:06</exif:DateTimeOriginal><xmp:CreateDate>2001-02-03</xmp:CreateDate>"
OTHER_ATTRIBUTES = (
    "exif:DateTimeOriginal='2001-02-03T04:05:06' photoshop:DateCreated='2001-02-03' tiff:Make='Other' "
    "exif:GPSLatitude='1,30N' exif:GPSLongitude='2,30E'"
)
NAMESPACES = "xmlns:xmpMM='http://ns.adobe.com/xap/1.0/mm/' xmlns:stEvt='http://ns.adobe.com/xap/1.0/sType/Event#' "
OF_OTHERS = [
    f"<xmpMM:Pantry><rdf:Bag><rdf:li><rdf:Description {OTHER_ATTRIBUTES}/></rdf:li></rdf:Bag></xmpMM:Pantry>",
    f"<xmpMM:Pantry><rdf:Bag><rdf:li rdf:parseType='Resource'>{OTHER}</rdf:li></rdf:Bag></xmpMM:Pantry>",
    f"<xmpMM:Ingredients><rdf:Bag><rdf:li {OTHER_ATTRIBUTES}/></rdf:Bag></xmpMM:Ingredients>",
    f"<xmpMM:DerivedFrom rdf:parseType='Resource'>{OTHER}</xmpMM:DerivedFrom>",
    f"<xmpMM:DerivedFrom {OTHER_ATTRIBUTES}/>",
    f"<xmpMM:History><rdf:Seq><rdf:li><rdf:Description>{OTHER}</rdf:Description></rdf:li></rdf:Seq></xmpMM:History>",
    f"<xmpMM:ManagedFrom><rdf:Description><xmpMM:Pantry><rdf:Description {OTHER_ATTRIBUTES}>{OTHER}</rdf:Description>"
    "</xmpMM:Pantry></rdf:Description></xmpMM:ManagedFrom>",
    f"<dc:relation><rdf:Description>{OTHER}</rdf:Description></dc:relation>",
    f"<xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType='Resource'>{OTHER}</rdf:li></rdf:Alt></xmp:Thumbnails>",
]
OWN = [
    "<exif:DateTimeOriginal>2017-03-09T21:04:33</exif:DateTimeOriginal>",
    "<exif:DateTimeOriginal rdf:parseType='Resource'><rdf:value>2017-03-09T21:04:33</rdf:value>"
    f"<xmp:CreateDate>2001-02-03</xmp:CreateDate>{OTHER}</exif:DateTimeOriginal>",
    "<exif:DateTimeOriginal><rdf:Description rdf:value='2017-03-09T21:04:33'/></exif:DateTimeOriginal>",
    "<exif:DateTimeOriginal><rdf:Seq><rdf:li>2017-03-09T21:04:33</rdf:li><rdf:li>2001-02-03</rdf:li></rdf:Seq>"
    "</exif:DateTimeOriginal>",
    "</rdf:Description><rdf:Description exif:DateTimeOriginal='2017-03-09T21:04:33'>",
    f"</rdf:Description><rdf:Description rdf:about='other'>{OF_OTHERS[0]}"
    "<exif:DateTimeOriginal>2017-03-09T21:04:33</exif:DateTimeOriginal>",
]


@pytest.mark.parametrize("of_others", OF_OTHERS)
def test_what_xmp_says_of_other_pictures_does_not_count(of_others: str) -> None:
    said = said_in_xmp(xmp(f">{of_others}", NAMESPACES))
    assert (said.dates, said.place, said.camera) == ({}, None, None)


@given(
    before=st.lists(st.sampled_from(OF_OTHERS), max_size=3),
    own=st.sampled_from(OWN),
    behind=st.lists(st.sampled_from(OF_OTHERS), max_size=3),
)
def test_what_xmp_says_of_its_picture_counts_among_others(before: list[str], own: str, behind: list[str]) -> None:
    said = said_in_xmp(xmp(f">{''.join(before)}{own}{''.join(behind)}", NAMESPACES))
    assert {name: moment.start for name, moment in said.dates.items()} == {
        "xmp:DateTimeOriginal": datetime(2017, 3, 9, 21, 4, 33)
    }


def test_other_prefixes_of_rdf_are_the_same() -> None:
    packet = xmp(f">{OF_OTHERS[1]}{OWN[0]}", NAMESPACES).replace(b"rdf:", b"r:").replace(b"xmlns:rdf", b"xmlns:r")
    assert said_in_xmp(packet).dates["xmp:DateTimeOriginal"].start == datetime(2017, 3, 9, 21, 4, 33)


def test_namespaces_without_a_prefix() -> None:
    packet = (
        b"<RDF xmlns='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><Description><CreateDate>2001-02-03</CreateDate>"
        b"<DateTimeOriginal xmlns='http://ns.adobe.com/exif/1.0/'>2017-03-09T21:04:33</DateTimeOriginal>"
        b"<ModifyDate>2001-02-03</ModifyDate></Description></RDF>"
    )
    assert {name: moment.start for name, moment in said_in_xmp(packet).dates.items()} == {
        "xmp:DateTimeOriginal": datetime(2017, 3, 9, 21, 4, 33)
    }


@pytest.mark.parametrize(
    "text",
    ["Tom & Jerry", "a&b;", "&", "&;", "&#0;", "&#x1F;", "&#8;", "&nbsp;", "&amp", "1 < 2", "<3", "<- here",
     "&lt;&#65;", "&#x41;&#10;", "AT&T & sons"],
)  # fmt: skip
@pytest.mark.parametrize("as_attribute", [False, True])
def test_text_that_is_not_escaped_loses_nothing_behind_it(text: str, as_attribute: bool) -> None:
    title = f" dc:title='{text}'>" if as_attribute else f"><dc:title>{text}</dc:title>"
    packet = xmp(f"{title}{OWN[0]}")
    assert said_in_xmp(packet).dates["xmp:DateTimeOriginal"].start == datetime(2017, 3, 9, 21, 4, 33)


@pytest.mark.slow
def test_no_packet_takes_long() -> None:
    declares = b"".join(
        b"<rdf:Description xmlns:p%d='http://ns.adobe.com/exif/1.0/'>" % number for number in range(30_000)
    )
    began = time.process_time()
    for packet in (
        b"<rdf:Description>" + b"<xmpMM:Pantry><rdf:Description>" * 60_000,
        b"<rdf:Description a='" + b"&" * 2_000_000,
        b"<x>" + declares,
        b"<rdf:Description><exif:DateTimeOriginal>" + declares,
        b"<x>" + declares.replace(b"'>", b"'/>"),
        b"<rdf:Description><exif:DateTimeOriginal>" + b"<rdf:li>2017</rdf:li>" * 90_000,
    ):
        said_in_xmp(packet)
    assert time.process_time() - began < 5
