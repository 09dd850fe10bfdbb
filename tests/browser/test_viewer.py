"""The large view, the ways back from it, and which pictures are shown, in a real browser."""

from __future__ import annotations

import io
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

pytest.importorskip("playwright")

from playwright.sync_api import Locator, Page, Route, expect

import clipsearch
from benchmarks.common import random_blocks, write_index
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.ui.page import add_page
from tests.browser.axe import axe_findings
from tests.browser.conftest import Open, Site
from tests.browser.test_page import PHONE, ask, first, settled, shown, tile, until
from tests.support.fake_encoder import COLOURS, FakeEncoder

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=20_000)

LARGE = ".pswp__item[aria-hidden=false] .pswp__img:not(.pswp__img--placeholder)"
NAMES = ("red", "green", "blue", "yellow", "purple", "pink")
MANY = 1500


@contextmanager
def running(indexes: list[Path], port: int = 0, **options: Any) -> Iterator[Site]:
    """A server; on the same port as another before, if need be."""
    chosen = ServerOptions(warm_pictures_after_s=None, **options)
    app = create_app(indexes, encoder=FakeEncoder(), interface=add_page, options=chosen)
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", indexes[0].parent, app.state.page)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def port_of(site: Site) -> int:
    return int(site.address.rpartition(":")[2])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("viewed") / "photos"
    photos.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (1200, 800), COLOURS[name]).save(photos / f"{number} {name}.jpg")
    tall = Image.linear_gradient("L").resize((600, 5000)).convert("RGB")
    tall.save(photos / "tall.png")
    tall.transpose(Image.Transpose.ROTATE_90).save(photos / "wide.tif")
    Image.new("RGB", (4000, 3000), COLOURS["orange"]).save(photos / "huge.jpg")
    with running([clipsearch.index(photos, encoder=FakeEncoder()).index]) as site:
        yield site


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    index = write_index(tmp_path_factory.mktemp("many") / "many", FakeEncoder(64), lambda: random_blocks(MANY, 64))
    app_encoder = FakeEncoder(64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.browser.test_viewer.FakeEncoder", lambda: app_encoder)
        with running([index]) as site:
            yield site


def title(page: Page) -> Locator:
    return page.locator(".cs-detail h2")


def colour_at(page: Page, selector: str) -> str:
    """The colour in the middle of an element, as it is on the screen."""
    image = Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return min(NAMES, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))


def shown_size(page: Page) -> dict[str, float]:
    """Of the picture in the large view, and how many pixels of it were loaded."""
    size: dict[str, float] = page.evaluate(
        f"""() => {{ const image = document.querySelector('{LARGE}');
        const {{x, y, width, height}} = image?.getBoundingClientRect() ?? {{}};
        return {{x, y, width, height, natural: image?.naturalWidth ?? 0}}; }}"""
    )
    return size


def loaded(page: Page) -> dict[str, float]:
    until(page, f"document.querySelector('{LARGE}')?.naturalWidth > 0")
    page.wait_for_timeout(350)  # a zoom under way
    return shown_size(page)


# --- never the wrong picture


def test_two_indexes_on_one_port_and_one_made_anew_never_show_each_other(open_page: Open, tmp_path: Path) -> None:
    """The same names, row ids, sizes and index name: only what is in the pictures differs."""
    folders = [tmp_path / "one" / "photos", tmp_path / "two" / "photos"]
    for folder, colours in zip(folders, (("red", "green"), ("blue", "yellow")), strict=True):
        folder.mkdir(parents=True)
        for name, colour in zip(("a", "b"), colours, strict=True):
            Image.new("RGB", (400, 400), COLOURS[colour]).save(folder / f"{name}.jpg")
    indexes = [clipsearch.index(folder, encoder=FakeEncoder()).index for folder in folders]

    def see(page: Page, expected: dict[str, str]) -> None:
        for name, colour in expected.items():
            picture = tile(page, f"{name}.jpg")
            expect(page.locator(f"{picture}.cs-loaded")).to_be_visible()
            page.wait_for_timeout(250)
            assert colour_at(page, picture) == colour, name

    with running([indexes[0]]) as site:
        port = port_of(site)
        page = open_page("/?sort=path", at=site)
        see(page, {"a": "red", "b": "green"})
        page.click(".cs-tile[data-n='0']")
        loaded(page)
        assert colour_at(page, ".pswp") == "red"
        page.keyboard.press("+")
        link = page.url
        assert re.search(r"up=\d&ix=[0-9a-f]{8}&id=\d-[0-9a-f]{16}", link)
        page.keyboard.press("Escape")
    with running([indexes[1]], port) as site:
        expect(page.locator(".cs-lost")).to_be_hidden()
        until(page, "!document.querySelector('.cs-feedback:not([hidden])')")  # the thumb was for another picture
        page.goto(f"{site.address}/?sort=path")
        page.wait_for_selector("#clipsearch[data-ready]")
        see(page, {"a": "blue", "b": "yellow"})
        page.goto(link)
        page.wait_for_selector("#clipsearch[data-ready]")
        settled(page)
        expect(page.locator(".cs-viewer")).to_be_hidden()
        until(page, "!/[?&](up|id|ix)=/.test(location.search)")
        page.goto(f"{site.address}/?sort=path")
        see(page, {"a": "blue", "b": "yellow"})
    for name, colour in (("a", "pink"), ("b", "purple")):
        Image.new("RGB", (400, 400), COLOURS[colour]).save(folders[1] / f"{name}.jpg")
    shutil.rmtree(indexes[1])
    with running([clipsearch.index(folders[1], encoder=FakeEncoder()).index], port) as site:
        page.goto(f"{site.address}/?sort=path")
        page.wait_for_selector("#clipsearch[data-ready]")
        see(page, {"a": "pink", "b": "purple"})


def test_a_link_finds_its_picture_under_another_number(open_page: Open, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (300, 200), COLOURS[name]).save(folder / f"{name}.jpg")
    index = clipsearch.index(folder, encoder=FakeEncoder()).index
    with running([index]) as site:
        page = open_page("/?sort=path", at=site)
        page.click(tile(page, "red.jpg"))
        expect(title(page)).to_have_text("red.jpg")
        link = page.url.removeprefix(site.address)
    shutil.rmtree(index)
    (folder / "blue.jpg").unlink()
    Image.new("RGB", (300, 200), COLOURS["pink"]).save(folder / "a pink one.jpg")
    with running([clipsearch.index(folder, encoder=FakeEncoder()).index]) as site:
        page = open_page(link, at=site)
        expect(title(page)).to_have_text("red.jpg")
        page.keyboard.press("ArrowLeft")
        expect(title(page)).to_have_text("green.jpg")


# --- the large view


def test_zoom_pan_next_and_the_slideshow(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures)
    page.click(tile(page, "0 red.jpg"))
    fit = loaded(page)
    middle = (fit["x"] + fit["width"] / 2, fit["y"] + fit["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    zoomed = shown_size(page)
    assert zoomed["width"] > 1.3 * fit["width"]
    page.mouse.down()
    page.mouse.move(middle[0] - 80, middle[1] - 30, steps=4)
    page.wait_for_timeout(400)  # no flick
    page.mouse.up()
    page.wait_for_timeout(300)
    assert shown_size(page)["x"] < zoomed["x"] - 40
    page.mouse.dblclick(*middle)
    page.wait_for_timeout(400)
    assert shown_size(page)["width"] == pytest.approx(fit["width"], rel=0.02)
    page.mouse.dblclick(*middle)
    page.wait_for_timeout(400)
    assert shown_size(page)["width"] > 1.3 * fit["width"]
    page.keyboard.press("z")
    page.wait_for_timeout(300)
    page.keyboard.press("ArrowRight")
    expect(title(page)).to_have_text("1 green.jpg")
    page.clock.install()
    page.keyboard.press("p")
    page.clock.run_for(4100)
    expect(title(page)).to_have_text("2 blue.jpg")
    page.keyboard.press("p")
    page.clock.run_for(9000)
    expect(title(page)).to_have_text("2 blue.jpg")
    page.keyboard.press("p")
    page.keyboard.press("?")  # pictures do not go by behind the help
    expect(page.locator("dialog.cs-help[open]").first).to_be_visible()
    page.clock.run_for(9000)
    page.keyboard.press("Escape")
    expect(title(page)).to_have_text("2 blue.jpg")


def test_long_pictures_fill_the_window_from_their_beginning(open_page: Open, pictures: Site) -> None:
    page = open_page("/", at=pictures)
    for name, along, across in (("tall.png", "height", "width"), ("wide.tif", "width", "height")):
        page.click(tile(page, name))
        size = loaded(page)
        window = {"width": 920, "height": 800}
        assert size[along] > 2 * window[along]
        assert size[across] >= min(600, window[across]) - 1
        start = "y" if along == "height" else "x"
        assert size[start] == pytest.approx(0, abs=1)
        assert size["natural"] >= 0.9 * size["width"], "it is sharp enough to be read"
        page.mouse.move(400, 400)
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(100)
        assert shown_size(page)[start] == pytest.approx(-500, abs=2)
        page.keyboard.press("Escape")
        expect(page.locator(".cs-viewer")).to_be_hidden()


def test_the_original_is_shown_on_request_and_only_where_it_may_be(open_page: Open, pictures: Site) -> None:
    page = open_page("/?q=name:huge.jpg", at=pictures)
    until(page, "document.querySelector('.cs-summary').textContent.startsWith('1 ')")
    page.click(".cs-tile[data-n='0']")
    assert loaded(page)["natural"] == 2048
    page.keyboard.press("o")
    expect(page.locator(".cs-toast")).to_have_text("This is the original file.")
    assert shown_size(page)["natural"] == 4000
    with running([pictures.photos / ".clipsearch"], originals=False) as closed:
        page = open_page("/?q=name:huge.jpg", at=closed)
        page.click(".cs-tile[data-n='0']")
        loaded(page)
        expect(page.locator("[title='Original file (o)']")).to_be_hidden()
        page.keyboard.press("o")
        page.wait_for_timeout(200)
        assert shown_size(page)["natural"] == 2048


def test_next_goes_on_through_windows_that_were_not_loaded(open_page: Open, many: Site) -> None:
    page = open_page("/?sort=path", at=many)
    settled(page)
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    expect(page.locator(f".cs-tile[data-n='{MANY - 1}'] .cs-open")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".pswp__counter")).to_have_text(f"{MANY} / {MANY}")
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    expect(page.locator(".cs-tile[data-n='0'] .cs-open")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(130):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".pswp__counter")).to_have_text(f"131 / {MANY}")
    name = title(page)
    expect(name).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(".cs-tile[data-n='130'] .cs-open")).to_be_focused()


def test_closed_before_its_picture_is_known_the_view_still_goes_to_its_place(open_page: Open, many: Site) -> None:
    page = open_page("/?sort=path", at=many)
    settled(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator(".pswp__counter")).to_have_text(f"1 / {MANY}")

    def wait(route: Route) -> None:
        """Leave it until the route ends."""

    page.route("**/v1/**", wait)
    for _ in range(400):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".pswp__counter")).to_have_text(f"401 / {MANY}")
    page.keyboard.press("Escape")
    page.unroute("**/v1/**")
    expect(page.locator(".cs-tile[data-n='400'] .cs-open")).to_be_focused()


# --- the ways back


def test_a_deep_link_knows_its_neighbours(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures)
    page.click(tile(page, "2 blue.jpg"))
    expect(title(page)).to_have_text("2 blue.jpg")
    again = open_page(page.url.removeprefix(pictures.address), at=pictures)
    expect(title(again)).to_have_text("2 blue.jpg")
    again.keyboard.press("ArrowRight")
    expect(title(again)).to_have_text("3 yellow.jpg")
    again.keyboard.press("ArrowLeft")
    again.keyboard.press("ArrowLeft")
    expect(title(again)).to_have_text("1 green.jpg")


def test_back_after_escape_does_not_open_the_picture_again(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures)
    ask(page, "red")
    page.click(".cs-tile[data-n='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(page.locator(".cs-viewer")).to_be_hidden()
    until(page, "!location.search.includes('id=')")
    page.go_back()
    expect(page.locator(".cs-query")).to_have_value("")
    expect(page.locator(".cs-viewer")).to_be_hidden()
    page.go_forward()
    expect(page.locator(".cs-query")).to_have_value("red")


def test_back_closes_the_large_view(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures)
    page.click(".cs-tile[data-n='1']")
    expect(page.locator(".cs-viewer")).to_be_visible()
    page.go_back()
    expect(page.locator(".cs-viewer")).to_be_hidden()
    expect(page.locator(".cs-tile[data-n='1'] .cs-open")).to_be_focused()


def test_back_from_similar_keeps_the_place(open_page: Open, many: Site) -> None:
    page = open_page("/?sort=path", at=many)
    settled(page)
    page.evaluate("scrollTo(0, 9000)")
    page.wait_for_timeout(300)
    before = page.evaluate("scrollY")
    n = page.evaluate("document.elementFromPoint(300, 400).closest('.cs-tile').dataset.n")
    expect(page.locator(f".cs-tile[data-n='{n}'][data-id]")).to_be_attached()
    page.hover(f".cs-tile[data-n='{n}']")
    page.click(f".cs-tile[data-n='{n}'] .cs-similar")
    expect(page.locator(".cs-query")).to_have_value(re.compile(r"like:\d+"))
    settled(page)
    until(page, "scrollY === 0")
    page.go_back()
    expect(page.locator(".cs-query")).to_have_value("")
    until(page, f"Math.abs(scrollY - {before}) < 3")


def test_back_takes_a_dropped_picture_out_of_the_question(open_page: Open, pictures: Site, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), COLOURS["green"]).save(tmp_path / "mine.png")
    page = open_page("/?all=1", at=pictures)
    ask(page, "blue")
    first(page, "2 blue.jpg")
    page.set_input_files("input[type=file]", tmp_path / "mine.png")
    first(page, "1 green.jpg")
    expect(page.locator(".cs-chip")).to_be_visible()
    page.go_back()
    expect(page.locator(".cs-query")).to_have_value("blue")
    expect(page.locator(".cs-chip")).to_be_hidden()
    first(page, "2 blue.jpg")
    page.go_forward()
    expect(page.locator(".cs-chip")).to_be_visible()
    first(page, "1 green.jpg")


def test_a_thumb_in_the_large_view_keeps_the_picture(open_page: Open, pictures: Site) -> None:
    page = open_page("/?q=red&all=1", at=pictures)
    page.click(tile(page, "3 yellow.jpg"))
    expect(title(page)).to_have_text("3 yellow.jpg")
    page.keyboard.press("+")
    settled(page)
    expect(title(page)).to_have_text("3 yellow.jpg")
    place = shown(page).index("3 yellow.jpg")
    expect(page.locator(".pswp__counter")).to_have_text(re.compile(rf"^{place + 1} / "))
    page.keyboard.press("ArrowRight")
    expect(title(page)).to_have_text(shown(page)[place + 1])


@pytest.mark.parametrize("query", ["", "ext:jpg"])
def test_a_thumb_given_while_looking_through_pictures_is_a_mark(open_page: Open, pictures: Site, query: str) -> None:
    page = open_page(f"/?sort=path&q={query}", at=pictures)
    before = shown(page)
    page.click(f".cs-tile[data-name='{before[2]}']")
    expect(title(page)).to_have_text(before[2])
    counter = page.locator(".pswp__counter").inner_text()
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile("up="))
    settled(page)
    assert page.locator(".pswp__counter").inner_text() == counter
    page.keyboard.press("ArrowRight")
    expect(title(page)).to_have_text(before[3])
    page.keyboard.press("Escape")
    expect(page.locator(".pswp--open")).to_have_count(0)
    assert shown(page) == before
    expect(page.locator(f".cs-tile[data-name='{before[2]}']")).to_have_attribute("data-rating", "1")
    page.click("text=show similar")
    expect(page.locator(".cs-query")).to_have_value(re.compile(rf"^{query} ?like:\d+$"))
    expect(page.locator(".cs-feedback")).to_be_hidden()
    first(page, before[2])


@pytest.mark.parametrize("leave", ["Escape", "Back"])
def test_a_thumb_given_in_the_large_view_holds_when_it_is_left(open_page: Open, pictures: Site, leave: str) -> None:
    page = open_page("/?q=red&all=1", at=pictures)
    page.click(tile(page, "3 yellow.jpg"))
    expect(title(page)).to_have_text("3 yellow.jpg")
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile("up="))
    settled(page)
    if leave == "Back":
        page.go_back()
    else:
        page.keyboard.press("Escape")
    expect(page.locator(".pswp--open")).to_have_count(0)
    expect(page.locator(".cs-feedback")).to_contain_text("1")
    expect(page).to_have_url(re.compile("up="))
    page.reload()
    expect(page.locator(".cs-feedback")).to_contain_text("1")
    page.click(tile(page, "3 yellow.jpg"))
    page.keyboard.press("+")  # taken back
    expect(page).not_to_have_url(re.compile("up="))
    page.keyboard.press("Escape")
    expect(page.locator(".cs-feedback")).to_be_hidden()


# --- the selection


def test_a_range_begins_in_the_order_it_ends_in(open_page: Open, many: Site) -> None:
    page = open_page("/?sort=path", at=many)
    settled(page)
    page.click(".cs-tile[data-n='9']", modifiers=["Control"])
    page.keyboard.press("Escape")
    page.fill(".cs-query", "name:*1*")
    page.press(".cs-query", "Enter")
    settled(page)
    page.click(".cs-tile[data-n='3']", modifiers=["Shift"])
    expect(page.locator(".cs-selection strong")).to_have_text("1 selected")
    page.click(".cs-tile[data-n='5']", modifiers=["Shift"])
    expect(page.locator(".cs-selection strong")).to_have_text("3 selected")


def test_a_range_over_pictures_that_were_not_loaded_is_whole(open_page: Open, many: Site) -> None:
    page = open_page("/?sort=path", at=many)
    settled(page)
    page.click(".cs-tile[data-n='0']", modifiers=["Control"])
    page.keyboard.press("End")
    expect(page.locator(f".cs-tile[data-n='{MANY - 1}'][data-id]")).to_be_attached()
    page.click(f".cs-tile[data-n='{MANY - 1}']", modifiers=["Shift"])
    expect(page.locator(".cs-selection strong")).to_have_text(f"{MANY:,} selected")
    with page.expect_download() as table:
        page.click(".cs-selection >> text=CSV")
    rows = Path(table.value.path()).read_text().splitlines()
    assert len(set(rows)) == len(rows) == MANY + 1
    page.keyboard.press("Escape")
    page.keyboard.press("Control+a")
    expect(page.locator(".cs-selection strong")).to_have_text(f"{MANY:,} selected")


# --- what is shown where


def test_controls_that_do_nothing_are_not_shown(open_page: Open, pictures: Site) -> None:
    page = open_page("/", at=pictures)
    settled(page)
    order = page.locator("select[aria-label=Order]")
    expect(order).to_have_value("date")
    expect(page.locator("text=Group near-duplicates")).to_be_hidden()
    expect(page.locator("text=Varied")).to_be_hidden()
    ask(page, "red")
    expect(order).to_have_value("score")
    expect(page.locator("text=Group near-duplicates")).to_be_visible()
    expect(page.locator("text=Varied")).to_be_visible()
    order.select_option("path")
    expect(page.locator("text=Varied")).to_be_hidden()
    ask(page, "orientation:landscape")
    expect(page.locator("text=Group near-duplicates")).to_be_hidden()


@pytest.mark.parametrize("width", [320, 360, 390, 430])
def test_the_filter_button_is_beside_the_box_on_phones(open_page: Open, site: Site, width: int) -> None:
    """With one index, and with a choice of two."""
    page = open_page("/", **{**PHONE, "viewport": {"width": width, "height": 780}})
    expect(page.locator(".cs-which")).to_be_visible()
    box, button = (page.locator(name).bounding_box() for name in (".cs-search", ".cs-filter"))
    assert box is not None
    assert button is not None
    assert abs((box["y"] + box["height"] / 2) - (button["y"] + button["height"] / 2)) < 3
    assert page.evaluate("document.documentElement.scrollWidth") == width
    header = page.locator(".cs-header").bounding_box()
    assert header is not None
    assert header["height"] < 120


def test_long_press_selects_and_swipes_turn_pages_on_phones(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures, **PHONE)
    touch = page.context.new_cdp_session(page)

    def finger(kind: str, x: float, y: float) -> None:
        points = [] if kind == "touchEnd" else [{"x": x, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    box = page.locator(".cs-tile[data-n='1'][data-id]").bounding_box()
    assert box is not None
    finger("touchStart", box["x"] + 40, box["y"] + 40)
    page.wait_for_timeout(700)
    finger("touchEnd", 0, 0)
    expect(page.locator(".cs-selection strong")).to_have_text("1 selected")
    expect(page.locator(".cs-viewer")).to_be_hidden()
    page.tap(".cs-tile[data-n='2']")
    expect(page.locator(".cs-selection strong")).to_have_text("2 selected")
    page.tap(".cs-selection .cs-plain")
    page.tap(".cs-tile[data-n='1']")
    expect(page.locator(".cs-viewer")).to_have_attribute("aria-label", "1 green.jpg")
    page.wait_for_timeout(300)
    for start, end, name in ((320, 60, "2 blue.jpg"), (60, 320, "1 green.jpg")):
        finger("touchStart", start, 400)
        for step in range(1, 9):
            finger("touchMove", start + (end - start) * step / 8, 400)
            page.wait_for_timeout(16)
        finger("touchEnd", 0, 0)
        expect(page.locator(".cs-viewer")).to_have_attribute("aria-label", name)
        page.wait_for_timeout(500)


# --- a server that goes away


def test_a_server_that_was_started_again_is_used_again(open_page: Open, pictures: Site) -> None:
    index = pictures.photos / ".clipsearch"
    with running([index]) as site:
        port = port_of(site)
        page = open_page("/?sort=path", at=site)
        expect(page.locator(".cs-tile[data-n='0'].cs-loaded")).to_be_visible()
    page.fill(".cs-query", "blue")
    page.press(".cs-query", "Enter")
    expect(page.locator(".cs-lost")).to_have_text("The server does not answer. Trying again…")
    assert len(shown(page)) == 9  # what was there stays
    with running([index], port):
        expect(page.locator(".cs-lost")).to_be_hidden()
        first(page, "2 blue.jpg")
        expect(page.locator(".cs-problem")).to_be_hidden()


def test_an_index_that_is_removed_meanwhile_is_said_in_words(
    open_page: Open, pictures: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(pictures.photos, photos)
    with running([photos / ".clipsearch"]) as site:
        page = open_page("/?sort=path", at=site)
        expect(page.locator(".cs-tile[data-n='0'].cs-loaded")).to_be_visible()
        shutil.rmtree(photos / ".clipsearch")
        for _ in range(3):
            page.wait_for_timeout(700)
            for path in ("/v1/status", "/v1/skipped", "/v1/images/0", "/metrics"):
                answer = page.request.get(site.address + path)
                assert answer.status in (200, 404, 503), (path, answer.status, answer.text())
        ask(page, "blue")
        expect(page.locator(".cs-problem, .cs-tile[data-n='0'][data-name='2 blue.jpg']").first).to_be_visible()
        clipsearch.index(photos, encoder=FakeEncoder())
        page.wait_for_timeout(1500)
        ask(page, "green")
        first(page, "1 green.jpg")
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


# --- for everybody


def test_the_keyboard_reaches_everything_and_the_focus_is_never_lost(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures)
    focused = "document.activeElement.tagName + '.' + document.activeElement.className"
    page.focus(".cs-query")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
        if "cs-open" in reached[-1]:
            break
    assert "cs-open" in reached[-1], reached
    for keys in (["x"], ["Escape"], ["Enter"], ["i"], ["i"], ["+"], ["ArrowRight"], ["x"], ["Escape"], ["End"], ["s"]):
        for key in keys:
            page.keyboard.press(key)
        settled(page)
        page.wait_for_timeout(150)
        assert not page.evaluate(focused).startswith("BODY"), keys
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_contain_text("pictures that show it")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Help")).to_be_hidden()
    page.click(".cs-tile[data-n='0'] .cs-check")
    page.click(".cs-selection .cs-plain")
    page.wait_for_timeout(150)
    assert not page.evaluate(focused).startswith("BODY")


def test_tab_stays_within_the_large_view(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures)
    page.click(".cs-tile[data-n='0']")
    loaded(page)
    for key in ["Tab"] * 25 + ["Shift+Tab"] * 5:
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.closest('.cs-viewer') !== null"), key


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_axe_findings(open_page: Open, pictures: Site, scheme: Any) -> None:
    page = open_page("/?q=red&all=1", at=pictures, color_scheme=scheme)
    found = axe_findings(page, "results")
    page.click(".cs-filter")
    page.click(".cs-tile[data-n='0'] .cs-check")
    found += axe_findings(page, "filters and a selection")
    page.click(".cs-tile[data-n='0'] .cs-open")
    loaded(page)
    found += axe_findings(page, "large view")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    found += axe_findings(page, "help")
    page.keyboard.press("Escape")
    page.click(".cs-tab[data-view=status]")
    found += axe_findings(page, "status")
    page.click(".cs-tab[data-view=map]")
    found += axe_findings(page, "map")
    assert found == []
    sizes = page.evaluate("[...document.querySelectorAll('.cs-tile')].map(t => [t.ariaPosInSet, t.ariaSetSize])")
    total = len(sizes)
    assert sorted(int(place) for place, _ in sizes) == list(range(1, total + 1))
    assert {size for _, size in sizes} == {str(total)}


def test_keys_go_far_in_the_large_view(open_page: Open, pictures: Site) -> None:
    page = open_page("/?sort=path", at=pictures)
    page.click(".cs-tile[data-n='3']")
    counter = page.locator(".pswp__counter")
    for key, place in (("End", 9), ("Home", 1), ("PageDown", 9), ("PageUp", 1)):
        page.keyboard.press(key)
        expect(counter).to_have_text(re.compile(rf"^\s*{place}\s*/\s*9\s*$"))
    expect(title(page)).to_have_text("0 red.jpg")


def test_what_an_input_method_composes_is_its_own(open_page: Open) -> None:
    page = open_page("/")
    page.click(".cs-query")
    for key in ("ArrowDown", "Escape"):
        page.evaluate(
            "key => document.activeElement.dispatchEvent("
            "new KeyboardEvent('keydown', {key, isComposing: true, keyCode: 229, bubbles: true, cancelable: true}))",
            key,
        )
        assert page.evaluate("document.activeElement.className") == "cs-query", key


def test_back_leaves_a_dialog_with_what_it_lay_over(open_page: Open) -> None:
    page = open_page("/")
    ask(page, "red")
    page.click(".cs-star")
    expect(page.locator("dialog[open]")).to_have_count(1)
    page.go_back()
    expect(page.locator("dialog[open]")).to_have_count(0)
    expect(page.locator(".cs-query")).to_have_value("")


def test_a_part_is_searched_on_a_phone_while_the_panel_is_open(open_page: Open) -> None:
    page = open_page("/?q=red", **PHONE)
    page.locator(".cs-tile[data-n='0'] .cs-open").tap()
    page.wait_for_selector(".pswp--open")
    page.locator(".cs-view[title*='(i)']").tap()
    expect(page.locator(".cs-detail")).to_be_visible()
    page.locator(".cs-view[title*='(r)']").tap()
    expect(page.locator(".cs-detail")).to_be_hidden()
    page.locator(".cs-crop-bar .cs-plain").tap()
    expect(page.locator(".cs-detail")).to_be_visible()
