"""A video in the large view plays from the moment that was found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("playwright")
pytest.importorskip("av")

from playwright.sync_api import Page, expect

import clipsearch
from tests.browser.conftest import Open, Site
from tests.browser.test_page import until
from tests.browser.test_viewer import LARGE, running
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture
from tests.support.videos import colours, write_video

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("filmed") / "photos"
    photos.mkdir()
    write_video(photos / "trip.webm", colours(["red", "blue", "yellow"]), seconds=4, codec="libvpx-vp9")
    picture(1).save(photos / "other.jpg")
    with running([clipsearch.index(photos, encoder=FakeEncoder()).index]) as site:
        yield site


def test_a_video_plays_from_its_moment(open_page: Open, filmed: Site) -> None:
    page = open_page("/?q=yellow", at=filmed)
    expect(page.locator(".cs-tile[data-n='0'] .cs-moment")).to_have_text("0:08")
    page.click(".cs-tile[data-n='0']")
    page.wait_for_selector(".cs-detail h2")
    page.keyboard.press("o")
    video = page.locator(".cs-video")
    expect(video).to_have_count(1)
    assert Path(video.get_attribute("src") or "").name.endswith("#t=8")
    until(page, "document.querySelector('.cs-video')?.currentTime >= 8")
    page.keyboard.press("o")
    expect(video).to_have_count(0)


def row_in(address: str) -> int:
    found = re.search(r"[?&]id=(\d+)-", address)
    assert found is not None, address
    return int(found[1])


def fact(page: Page, name: str) -> str:
    """What the panel says under a name."""
    return page.locator(f".cs-facts dt:text-is('{name}') + dd").inner_text()


def shows(page: Page, row: int, at: str) -> None:
    """All that the page says of the shot is of one row: panel, address, strip, picture."""
    until(page, f"document.querySelector('.cs-facts')?.textContent.includes('like:{row})')")
    assert fact(page, "Moment") == at
    assert row_in(page.url) == row
    expect(page.locator(".cs-shot[aria-current=true]")).to_have_attribute("title", f"Play from {at}")
    if not page.locator(".cs-video").count():
        until(page, f"document.querySelector('{LARGE}')?.src.includes('/images/{row}/')")


def test_all_that_is_said_and_done_is_of_the_shot_that_is_shown(open_page: Open, filmed: Site) -> None:
    page = open_page("/?q=yellow&all=1", at=filmed)
    page.click(".cs-tile[data-n='0']")
    expect(page.locator(".cs-shot")).to_have_count(3)
    found = row_in(page.url)
    told = httpx.get(f"{filmed.address}/v1/images/{found}/views").json()["views"]
    red, blue, yellow = (one["row_id"] for one in told)
    shows(page, yellow, "0:08")
    likely = fact(page, "Match")
    page.locator(".cs-shot").nth(0).click()
    shows(page, red, "0:00")
    assert fact(page, "Match") != likely
    until(page, "document.querySelector('.cs-video')?.readyState > 1")
    page.evaluate("document.querySelector('.cs-video').currentTime = 5")  # as the player's own slider does
    shows(page, blue, "0:04")
    page.evaluate("document.querySelector('.cs-video').pause()")
    page.keyboard.press("o")
    expect(page.locator(".cs-video")).to_have_count(0)
    shows(page, blue, "0:04")
    page.click(".cs-detail [data-what^='More like']")
    until(page, "location.search.includes('up=')")
    until(page, "!document.querySelector('#clipsearch').classList.contains('cs-busy')")
    assert re.search(r"[?&]up=(\d+)", page.url)[1] == str(blue)  # type: ignore[index]
    shows(page, blue, "0:04")
    page.click(".cs-detail [data-what='Find similar pictures (s)']")
    until(page, f"document.querySelector('.cs-query').value === 'like:{blue}'")


def test_a_link_to_a_shot_shows_it_among_the_others(open_page: Open, filmed: Site) -> None:
    (video,) = httpx.post(f"{filmed.address}/v1/search", json={"query": "name:trip"}).json()["hits"]
    told = httpx.get(f"{filmed.address}/v1/images/{video['row_id']}/views").json()["views"]
    row = told[0]["row_id"]
    page = open_page(f"/?q=yellow&all=1&id={row}-{video['content_hash'][:16]}", at=filmed)
    expect(page.locator(".cs-shot")).to_have_count(3)
    shows(page, row, "0:00")
    assert "%" in fact(page, "Match")
    page.click(".pswp__button--arrow--next")
    until(page, "document.querySelector('.cs-detail h2')?.textContent === 'other.jpg'")
