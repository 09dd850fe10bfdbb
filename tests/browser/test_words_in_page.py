"""Words that people wrote with other programs: in the panel, in the filters, in what hits are made of, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

import clipsearch
from tests.browser.conftest import HOSTILE, PATIENCE_MS, Open, Site, serve
from tests.browser.test_page import asked, settled
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture
from tests.unit.test_metadata import XMP_HEAD, segment, xmp

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

LR = "xmlns:lr='http://ns.adobe.com/lightroom/1.0/' xmlns:ext='http://iptc.org/std/Iptc4xmpExt/2008-02-29/' "


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("written") / "photos"
    photos.mkdir()
    hostile = HOSTILE.replace("<", "&lt;").replace(">", "&gt;")
    for number in range(6):
        town, person = ("Rome", "Milan")[number % 2], "Anna" if number < 2 else "Bob"
        packet = xmp(
            f"xmp:Rating='{number}'><dc:title>Trip {number} {hostile}</dc:title>"
            f"<lr:hierarchicalSubject><rdf:Bag><rdf:li>Places|Italy|{town}</rdf:li></rdf:Bag></lr:hierarchicalSubject>"
            f"<ext:PersonInImage><rdf:Bag><rdf:li>{person}</rdf:li></rdf:Bag></ext:PersonInImage>",
            LR,
        )
        picture(number, size=(160, 120)).save(photos / f"{number}.jpg")
        content = (photos / f"{number}.jpg").read_bytes()
        (photos / f"{number}.jpg").write_bytes(content[:2] + segment(0xE1, XMP_HEAD + packet) + content[2:])
    encoder = FakeEncoder()
    yield from serve([clipsearch.index(photos, encoder=encoder).index], photos, encoder)


def test_words_are_shown_and_lead_to_others(open_page: Open, written: Site) -> None:
    page = open_page("/?unique=0&q=rating%3A5", at=written)
    expect(page.locator(".cs-summary")).to_contain_text("1 result")
    page.click(".cs-tile[data-n='0'] .cs-open")
    panel = page.locator(".cs-detail")
    for text in (f"Trip 5 {HOSTILE}", "Places › Italy › Milan", "Bob", "★★★★★"):
        expect(panel).to_contain_text(text)
    panel.get_by_role("button", name="Places › Italy › Milan").click()
    settled(page)
    assert asked(page)["q"] == "rating:5 keyword:Places|Italy|Milan"


def test_filters_and_counts_of_words(open_page: Open, written: Site) -> None:
    page = open_page("/?unique=0", at=written)
    page.click(".cs-filter")
    expect(page.locator(".cs-value", has_text="Anna")).to_contain_text("2")
    page.locator(".cs-value", has_text="Places|Italy|Rome").click()
    settled(page)
    expect(page.locator(".cs-summary")).to_contain_text("3 results")
    page.select_option(".cs-filters select[name=rating]", ">=4")
    settled(page)
    assert asked(page)["q"].endswith("rating:>=4")
    expect(page.locator(".cs-summary")).to_contain_text("1 result")
    page.fill(".cs-query", "place:200,300")
    page.press(".cs-query", "Enter")
    expect(page.locator(".cs-problem")).to_contain_text("near:")
