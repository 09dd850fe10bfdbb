"""A video in the large view plays from the moment that was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")
pytest.importorskip("av")

from playwright.sync_api import expect

import clipsearch
from tests.browser.conftest import Open, Site
from tests.browser.test_page import until
from tests.browser.test_viewer import running
from tests.support.fake_encoder import FakeEncoder
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
