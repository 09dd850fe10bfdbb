"""A video in the large view plays from the moment that was found, and the clip of a motion photo over its picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

pytest.importorskip("playwright")
pytest.importorskip("av")

from playwright.sync_api import Page, expect

import clipsearch
from tests.browser.conftest import Open, Site
from tests.browser.test_page import until
from tests.browser.test_viewer import LARGE, running
from tests.support.fake_encoder import COLOURS, FakeEncoder
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


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """A motion photo and a plain one."""
    photos = tmp_path_factory.mktemp("moving") / "photos"
    photos.mkdir()
    write_video(photos.parent / "clip.mp4", colours(["red", "blue"]), seconds=0.5, codec="libvpx-vp9")
    for name in ("yellow", "green"):
        Image.new("RGB", (320, 240), COLOURS[name]).save(photos / f"{name}.jpg")
    with (photos / "yellow.jpg").open("ab") as file:
        file.write(b"MotionPhoto_Data" + (photos.parent / "clip.mp4").read_bytes())
    yield [clipsearch.index(photos, encoder=FakeEncoder()).index]


def opened(open_page: Open, site: Site, **context: str) -> Page:
    page = open_page("/?q=yellow", at=site, **context)
    page.click(".cs-tile[data-n='0']")
    page.wait_for_selector(".cs-detail h2")
    return page


WATCH = """() => new MutationObserver((changes) => {
  for (const node of changes.flatMap(({ addedNodes }) => [...addedNodes])) {
    if (node.tagName !== 'VIDEO') continue;
    window.seen = { muted: node.muted };
    node.addEventListener('ended', () => { window.seen.played = node.currentTime; });
  }
}).observe(document.body, { childList: true, subtree: true })"""
MOMENT = "button[title='Play the moment (m)']"


def test_the_moment_of_a_motion_photo_plays_once_over_it(open_page: Open, moving: list[Path]) -> None:
    with running(moving) as site:
        page = opened(open_page, site)
        video = page.locator(".cs-video")
        expect(video).to_have_count(0)  # the picture first
        page.evaluate(WATCH)
        plays: list[Callable[[], None]] = [lambda: page.click(MOMENT), lambda: page.keyboard.press("m")]
        for play in plays:
            page.evaluate("window.seen = null")
            play()
            until(page, "window.seen?.played > 0.8 && window.seen.muted")
            expect(video).to_have_count(0)


def test_a_plain_picture_offers_no_moment(open_page: Open, moving: list[Path]) -> None:
    with running(moving) as site:
        page = open_page("/?q=green", at=site)
        page.click(".cs-tile[data-n='0']")
        page.wait_for_selector(".cs-detail h2")
        expect(page.locator(MOMENT)).to_be_hidden()
        page.keyboard.press("m")
        expect(page.locator(".cs-video")).to_have_count(0)


def test_who_prefers_less_motion_starts_it(open_page: Open, moving: list[Path]) -> None:
    with running(moving) as site:
        page = opened(open_page, site, reduced_motion="reduce")
        page.keyboard.press("m")
        until(page, "document.querySelector('.cs-video')?.readyState >= 2")
        assert page.evaluate(
            "document.querySelector('.cs-video').paused && document.querySelector('.cs-video').controls"
        )
        page.keyboard.press("m")
        expect(page.locator(".cs-video")).to_have_count(0)  # it has played
        page.keyboard.press("m")
        until(page, "document.querySelector('.cs-video')?.readyState >= 2")
        for _ in range(2):
            picture, clip = (page.locator(one).bounding_box() for one in (".cs-over", ".cs-video"))
            assert picture is not None
            assert clip == pytest.approx(picture, abs=1)  # nothing jumps when it begins and ends
            page.keyboard.press("z")  # also zoomed, and back
            page.wait_for_timeout(400)
        page.click(".cs-video")  # its controls are under the pointer
        expect(page.locator(".cs-video")).to_have_count(0)


def test_without_originals_there_is_no_moment(open_page: Open, moving: list[Path]) -> None:
    with running(moving, originals=False) as site:
        page = opened(open_page, site)
        expect(page.locator(MOMENT)).to_be_hidden()
        page.keyboard.press("m")
        expect(page.locator(".cs-video")).to_have_count(0)
