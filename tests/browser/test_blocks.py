"""The application of Gradio's components, in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")
pytest.importorskip("gradio")

from playwright.sync_api import Browser, Page, expect

import clipsearch
from tests.browser.conftest import PATIENCE_MS, Site
from tests.support.fake_encoder import FakeEncoder

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    with clipsearch.open(site.photos, encoder=FakeEncoder()) as photos:
        blocks = clipsearch.ui.blocks(photos)
        _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", footer_links=[])
        yield url
        blocks.close(verbose=False)


@pytest.fixture
def page(chromium: Browser, address: str) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address)
    yield page
    shots = os.environ.get("CLIPSEARCH_SCREENSHOTS")
    if shots:
        Path(shots).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(shots) / "blocks.png")
    context.close()
    assert failed == []


def test_a_search_a_filter_a_thumb_and_similar_pictures(page: Page, site: Site) -> None:
    captions = page.locator(".caption-label")
    expect(captions.first).to_be_visible()  # the newest pictures
    page.get_by_role("button", name="Filters").click()
    name = page.get_by_label("File name")
    name.press_sequentially("blue*")
    expect(captions).to_have_count(1)
    expect(captions.first).to_contain_text("plain/blue.jpg")
    name.press("Control+a")
    name.press("Backspace")
    expect(captions).not_to_have_count(1)
    page.get_by_label("Search", exact=True).fill("yellow")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(captions.first).to_contain_text("plain/yellow.jpg · ")
    expect(captions.first).to_contain_text(re.compile(r" \d\d % strong$"))

    up, similar = page.get_by_role("button", name="More of these"), page.get_by_role("button", name="Similar")
    expect(similar).to_be_disabled()
    captions.first.click()
    expect(similar).to_be_enabled()
    up.click()
    expect(page.get_by_role("button", name="Forget thumbs")).to_be_enabled()
    page.get_by_role("button", name="Forget thumbs").click()
    expect(page.get_by_role("button", name="Forget thumbs")).to_be_disabled()

    page.locator(".thumbnail-item").first.click()
    similar.click()
    expect(captions.first).not_to_contain_text("plain/yellow.jpg")


def test_a_picture_that_is_chosen_finds_its_like(page: Page, site: Site) -> None:
    expect(page.locator(".caption-label").first).to_be_visible()
    page.locator("input[type=file]").first.set_input_files(site.photos / "plain" / "green.jpg")
    expect(page.locator(".caption-label").first).to_contain_text("plain/green.jpg")
