"""A video in the large view plays from the moment that was found, and the clip of a motion photo over its picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("playwright")
pytest.importorskip("av")

from playwright.sync_api import Page, expect

import clipsearch
from tests.browser.conftest import Open, Site
from tests.browser.test_page import until
from tests.browser.test_viewer import running
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.videos import colours, write_video

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("filmed") / "photos"
    photos.mkdir()
    write_video(photos / "trip.webm", colours(["red", "blue", "yellow"]), seconds=4, codec="libvpx-vp9")
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
        for play in (lambda: page.click(MOMENT), lambda: page.keyboard.press("m")):
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


def test_without_originals_there_is_no_moment(open_page: Open, moving: list[Path]) -> None:
    with running(moving, originals=False) as site:
        page = opened(open_page, site)
        expect(page.locator(MOMENT)).to_be_hidden()
        page.keyboard.press("m")
        expect(page.locator(".cs-video")).to_have_count(0)
