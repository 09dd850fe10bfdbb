"""First use without a terminal, and several indexes: what the page offers, and that nothing happens without a click."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

import clipsearch
from clipsearch import config
from clipsearch.ui.page import add_page
from tests.browser.axe import axe_findings
from tests.browser.conftest import HOSTILE, PATIENCE_MS, Open, Site, serve
from tests.browser.test_page import PHONE, asked, settled, shown
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

CARD = ".cs-start"


def folder_of(photos: Path, count: int) -> Path:
    photos.mkdir()
    for number in range(count):
        picture(number, size=(160, 120)).save(photos / f"{number}.png")
    return photos


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Site]:
    """A server of a folder that has no index, with a hostile name."""
    photos = folder_of(tmp_path / HOSTILE, 30)
    encoder = FakeEncoder()
    yield from serve([], photos, encoder, interface=partial(add_page, folder=photos, encoder=encoder))


def test_a_folder_is_indexed_with_one_click(open_page: Open, new: Site) -> None:
    page = open_page("/?unique=0", at=new)
    card = page.locator(CARD)
    expect(card).to_contain_text("not indexed yet")
    expect(card).to_contain_text(HOSTILE)
    expect(card.locator(".cs-big")).to_have_text("30 pictures")
    assert axe_findings(page, "first use") == []
    phone = open_page("/", at=new, **PHONE, color_scheme="dark")
    expect(phone.locator(f"{CARD} .cs-big")).to_have_text("30 pictures")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_timeout(500)
    assert not (new.photos / ".clipsearch").exists()
    page.get_by_role("button", name="Index 30 pictures").click()
    expect(page.locator(".cs-summary")).to_contain_text("30 pictures")
    expect(card).to_be_hidden()
    assert len(shown(page)) == 30
    page.click(".cs-tab[data-view=status]")
    expect(page.locator(".cs-index[data-name]")).to_contain_text("30 pictures")
    expect(page.locator(CARD)).to_be_hidden()


def test_a_folder_without_pictures_is_no_dead_end(open_page: Open, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    empty, other = tmp_path / "empty", folder_of(tmp_path / "other", 4)
    empty.mkdir()
    page_of = partial(add_page, folder=empty, encoder=encoder, other_folders=True)
    for site in serve([], empty, encoder, interface=page_of):
        page = open_page("/", at=site)
        card = page.locator(CARD)
        expect(card).to_contain_text("no pictures")
        assert axe_findings(page, "an empty folder") == []
        page.get_by_role("button", name="Check again").click()
        expect(card).to_contain_text("no pictures")
        folder_of(empty / "later", 2)
        expect(card.locator(".cs-big")).to_have_text("2 pictures")  # by itself
        page.get_by_text("Another folder").click()
        page.get_by_label("Path of a folder").fill(str(other))
        page.keyboard.press("Enter")
        expect(card.locator(".cs-big")).to_have_text("4 pictures")
        expect(card.locator("code")).to_have_text(str(other))
        page.get_by_role("button", name="Index 4 pictures").click()
        expect(page.locator(".cs-summary")).to_contain_text("4 pictures")
        assert not (empty / ".clipsearch").exists()


def test_an_index_that_was_used_before_is_opened_from_the_list(open_page: Open, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    state = config.state_dir() / "indexes.json"
    state.unlink(missing_ok=True)
    scans = clipsearch.index(folder_of(tmp_path / "scans", 3), encoder=encoder).index
    photos = clipsearch.index(folder_of(tmp_path / "photos", 5), encoder=encoder).index
    with_known = partial(add_page, open_known=True)
    for site in serve([photos], tmp_path / "photos", encoder, interface=with_known):
        page = open_page("/?q=name:*png", at=site)
        expect(page.locator(".cs-summary")).to_contain_text("5 results")
        which = page.locator(".cs-which")
        expect(which).to_be_visible()
        expect(which.locator("option")).to_have_text(["photos", str(scans.parent)])
        which.select_option(label=str(scans.parent))
        expect(page.locator(".cs-summary")).to_contain_text("3 results")
        assert asked(page) == {"q": "name:*png", "index": "scans"}
        expect(which.locator("option")).to_have_text(["photos", "scans", "All of these"])
        which.select_option("photos")
        settled(page)
        expect(page.locator(".cs-summary")).to_contain_text("5 results")


def test_what_was_stopped_is_offered_again(open_page: Open, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    photos = folder_of(tmp_path / "photos", 3)
    index = clipsearch.index(photos, encoder=encoder).index
    picture(50).save(photos / "later.png")
    for site in serve([index], photos, encoder, interface=partial(add_page, folder=photos, encoder=encoder)):
        page = open_page("/?unique=0", at=site)
        expect(page.locator(".cs-summary")).to_contain_text("3 pictures")
        page.get_by_role("button", name="Some pictures are not indexed yet").click()
        expect(page.locator(CARD)).to_contain_text("Not all of this folder is indexed")
        page.get_by_role("button", name="Index 1 picture").click()
        expect(page.locator(CARD)).to_be_hidden()
        page.click(".cs-tab[data-view=search]")
        expect(page.locator(".cs-summary")).to_contain_text("4 pictures")
        expect(page.locator(".cs-pill")).to_be_hidden()
