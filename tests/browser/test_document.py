"""A document in the large view shows the page that was found, and the others below it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright")
pytest.importorskip("pypdfium2")

from playwright.sync_api import expect

import clipsearch
from tests.browser.conftest import Open, Site
from tests.browser.test_page import until
from tests.browser.test_viewer import running
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pdfs import Sheet, document
from tests.support.pictures import picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("filed") / "photos"
    photos.mkdir()
    sheets = [
        Sheet(colour=COLOURS["red"]),
        Sheet(colour=COLOURS["blue"], size=(842, 595)),
        Sheet(colour=COLOURS["yellow"]),
    ]
    (photos / "scan.pdf").write_bytes(document(sheets))
    picture(1).save(photos / "other.jpg")
    with running([clipsearch.index(photos, encoder=FakeEncoder()).index]) as site:
        yield site


def test_the_page_that_was_found_is_shown_and_others_can_be(open_page: Open, filed: Site) -> None:
    page = open_page("/?q=yellow&all=1", at=filed)
    expect(page.locator(".cs-tile[data-n='0'] .cs-moment")).to_have_text("p. 3")
    page.click(".cs-tile[data-n='0']")
    page.wait_for_selector(".cs-detail h2")
    pages = page.locator(".cs-shot")
    expect(pages).to_have_count(3)
    expect(pages.nth(2)).to_have_attribute("aria-current", "true")
    expect(page.locator(".cs-shots")).to_have_attribute("aria-label", "Pages of the document")
    shown = "document.querySelector('.pswp__item[aria-hidden=false] .pswp__img:not(.pswp__img--placeholder)')"
    until(page, f"{shown}?.complete && {shown}.naturalWidth < {shown}.naturalHeight")
    pages.nth(1).click()
    expect(pages.nth(1)).to_have_attribute("aria-current", "true")
    until(page, f"{shown}?.complete && {shown}.naturalWidth > {shown}.naturalHeight")
    box = page.evaluate(f"(({{width, height}}) => [width, height])({shown}.getBoundingClientRect())")
    assert abs(box[0] / box[1] - 842 / 595) < 0.02  # not stretched
    address = page.url
    page.keyboard.press("+")  # of this page
    until(page, "!document.querySelector('.cs-feedback').hidden")
    until(page, "!document.querySelector('#clipsearch').classList.contains('cs-busy')")
    expect(pages.nth(1)).to_have_attribute("aria-current", "true")
    assert re.search(r"id=\d+", address)[0] == re.search(r"id=\d+", page.url)[0]  # type: ignore[index]
    page.keyboard.press("+")
    until(page, "document.querySelector('.cs-feedback').hidden")
    expect(pages.nth(1)).to_have_attribute("aria-current", "true")
    page.click(".pswp__button--arrow--next")  # arrow keys move along the strip now
    until(page, "document.querySelector('.cs-detail h2')?.textContent === 'other.jpg'")
    expect(pages).to_have_count(0)
    page.click(".pswp__button--arrow--prev")
    expect(pages.nth(2)).to_have_attribute("aria-current", "true")
    until(page, f"{shown}?.complete && {shown}.naturalWidth < {shown}.naturalHeight")
