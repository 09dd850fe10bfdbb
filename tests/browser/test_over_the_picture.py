"""Over the picture of the large view, in Chromium: where a question matches, words, a part to search with; and the
shots of a video."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

pytest.importorskip("playwright")

from playwright.sync_api import Locator, Page, expect

import clipsearch
from clipsearch.indexer.words import ReadOptions, read_words
from tests.browser.axe import axe_findings
from tests.browser.conftest import PATIENCE_MS, Open, Site
from tests.browser.test_page import PHONE, asked, settled, until
from tests.browser.test_viewer import loaded, running, title
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.videos import colours, write_video
from tests.support.viewed import viewed_index
from tests.support.words import write_words

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

PATCH = (800, 450, 1100, 700)  # of blue, in a red picture of 1200 by 800


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("over") / "photos"
    photos.mkdir()
    patched = Image.new("RGB", (1200, 800), COLOURS["red"])
    ImageDraw.Draw(patched).rectangle(PATCH, fill=COLOURS["blue"])
    patched.save(photos / "patched.png")
    for name in ("blue", "green"):
        Image.new("RGB", (600, 400), COLOURS[name]).save(photos / f"{name}.png")
    index = clipsearch.index(photos, encoder=FakeEncoder()).index
    write_words(index, {"green.png": ["INVOICE 12", "Total 7.20", "Thank you"]})
    with running([index]) as site:
        yield site


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pytest.importorskip("av")
    photos = tmp_path_factory.mktemp("strip") / "photos"
    photos.mkdir()
    write_video(photos / "trip.webm", colours(["red", "blue", "yellow"]), seconds=4, codec="libvpx-vp9")
    (photos / "trip.srt").write_text("1\n00:00:05,500 --> 00:00:06,000\nWhere is the boarding pass?\n")
    index = clipsearch.index(photos, encoder=FakeEncoder()).index
    read_words(index, ReadOptions(workers=1))
    Image.new("RGB", (300, 200), COLOURS["pink"]).save(photos / "pink.png")
    clipsearch.index(photos, encoder=FakeEncoder())
    with running([index]) as site:
        yield site


def opened(open_page: Open, site: Site, query: str, name: str, **context: Any) -> Page:
    """The page with one picture in the large view."""
    page = open_page(f"/?all=1&unique=0&q={query}", at=site, **context)
    page.click(f".cs-tile[data-name='{name}'] .cs-open")
    expect(title(page)).to_have_text(name)
    loaded(page)
    return page


def row_of(site: Site, name: str) -> int:
    with clipsearch.open(site.photos, encoder=FakeEncoder()) as photos:
        return next(record.row_id for record in photos if record.path == name)


def place(page: Page, box: Locator) -> list[float]:
    """Where something lies over the picture: left, top, width and height in shares of it."""
    picture, own = page.locator(".cs-over").bounding_box(), box.bounding_box()
    assert picture is not None
    assert own is not None
    across, down = picture["width"], picture["height"]
    return [
        (own["x"] - picture["x"]) / across,
        (own["y"] - picture["y"]) / down,
        own["width"] / across,
        own["height"] / down,
    ]


def test_where_shows_the_place_on_request_and_how_sure_it_is(open_page: Open, looked_at: Site) -> None:
    page = opened(open_page, looked_at, "blue", "patched.png")
    requests: list[str] = []
    page.on("request", lambda one: requests.append(one.url))
    page.wait_for_timeout(300)
    assert not any("/v1/where" in url for url in requests)
    page.keyboard.press("w")
    box = page.locator(".cs-where")
    expect(box).to_have_count(1)
    expect(page.locator(".cs-heat")).to_be_visible()
    left, top, width, height = place(page, box)
    middle = (1200 * (left + width / 2), 800 * (top + height / 2))
    assert PATCH[0] < middle[0] < PATCH[2] and PATCH[1] < middle[1] < PATCH[3]
    said = page.locator(".cs-where-said")
    expect(said).to_contain_text("certain")  # a red picture
    button = page.get_by_role("button", name="Where in the picture?")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert axe_findings(page, "where") == []
    before = place(page, box)
    page.keyboard.press("z")
    page.wait_for_timeout(400)
    assert place(page, box) == pytest.approx(before, abs=0.01)  # it is zoomed with the picture
    page.keyboard.press("w")
    expect(box).to_have_count(0)
    expect(page.locator(".cs-heat")).to_be_hidden()
    expect(said).to_be_hidden()
    button.click()
    expect(box).to_have_count(1)
    page.keyboard.press("z")
    page.wait_for_timeout(400)
    page.keyboard.press("ArrowLeft")
    expect(title(page)).not_to_have_text("patched.png")
    expect(box).to_have_count(0)
    expect(said).to_be_hidden()
    assert sum("/v1/where" in url for url in requests) == 2


def test_where_is_sure_of_a_strong_match_and_says_so_of_none(open_page: Open, looked_at: Site) -> None:
    for query, words, unsure in (
        (f"like:{row_of(looked_at, 'green.png')}", re.compile(r"^The picture matches best here\.$"), 0),
        ("a submarine", re.compile(r"This place is a guess\.$"), 1),
    ):
        page = opened(open_page, looked_at, query, "green.png")
        page.keyboard.press("w")
        expect(page.locator(".cs-where-said")).to_have_text(words)
        expect(page.locator(".cs-where.cs-unsure")).to_have_count(unsure)
    page = opened(open_page, looked_at, "ext:png", "green.png")
    expect(page.get_by_role("button", name="Where in the picture?")).to_be_hidden()
    page.keyboard.press("w")
    expect(page.locator(".cs-toast")).to_contain_text("Search for something first")


def test_a_rectangle_of_the_mouse_is_searched_for(open_page: Open, looked_at: Site) -> None:
    page = opened(open_page, looked_at, "red", "patched.png")
    page.get_by_role("button", name="Search with a part of the picture").click()
    frame = page.get_by_role("application")
    expect(frame).to_be_focused()
    assert axe_findings(page, "a part") == []
    picture = page.locator(".cs-over").bounding_box()
    assert picture is not None
    scale = picture["width"] / 1200
    page.mouse.move(picture["x"] + 820 * scale, picture["y"] + 470 * scale)
    page.mouse.down()
    page.mouse.move(picture["x"] + 1000 * scale, picture["y"] + 600 * scale, steps=3)
    page.mouse.move(picture["x"] + 1080 * scale, picture["y"] + 680 * scale, steps=3)
    page.mouse.up()
    assert place(page, frame) == pytest.approx([820 / 1200, 470 / 800, 260 / 1200, 210 / 800], abs=0.01)
    page.get_by_role("button", name="Search with this part").click()
    until(page, "location.search.includes('xywh')")
    settled(page)
    query = asked(page)["q"]
    found = re.fullmatch(r"like:\d+#xywh=(\d+),(\d+),(\d+),(\d+)", query)
    assert found is not None, query
    assert [int(side) for side in found.groups()] == pytest.approx([820, 470, 260, 210], abs=6)
    expect(page.locator(".cs-viewer")).to_be_hidden()
    expect(page.locator(".cs-tile[data-n='0']")).to_have_attribute("data-name", "blue.png")


def test_a_rectangle_of_the_keyboard_is_searched_for(open_page: Open, looked_at: Site) -> None:
    page = opened(open_page, looked_at, "red", "patched.png")
    page.keyboard.press("r")
    frame = page.get_by_role("application")
    expect(frame).to_be_focused()
    start = place(page, frame)
    page.keyboard.press("Escape")
    expect(frame).to_be_hidden()
    expect(title(page)).to_have_text("patched.png")  # the large view stays
    page.keyboard.press("r")
    for key in ["ArrowRight"] * 3 + ["ArrowDown"] * 2 + ["Shift+ArrowLeft"] * 5:
        page.keyboard.press(key)
    now = place(page, frame)
    assert [a - b for a, b in zip(now, start, strict=True)] == pytest.approx([0.06, 0.04, -0.1, 0], abs=0.01)
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    moved = place(page, frame)
    assert moved[0] + moved[2] == pytest.approx(1, abs=0.01)
    for key in ["Tab"] * 6:
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.closest('.cs-viewer') !== null")
    frame.focus()
    page.keyboard.press("Enter")
    until(page, "location.search.includes('xywh')")
    settled(page)
    assert re.fullmatch(r"like:\d+#xywh=\d+,\d+,\d+,\d+", asked(page)["q"])


def test_a_rectangle_of_a_finger_is_searched_for(open_page: Open, looked_at: Site) -> None:
    page = opened(open_page, looked_at, "red", "patched.png", **PHONE, color_scheme="dark")
    page.get_by_role("button", name="Where in the picture?").tap()
    expect(page.locator(".cs-where")).to_have_count(1)
    assert axe_findings(page, "where, on a phone in the dark") == []
    page.get_by_role("button", name="Search with a part of the picture").tap()
    assert axe_findings(page, "a part, on a phone in the dark") == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    picture = page.locator(".cs-over").bounding_box()
    assert picture is not None
    scale = picture["width"] / 1200
    client = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": picture["x"] + x * scale, "y": picture["y"] + y * scale} for x, y in points]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (1080, 690))
    for x, y in ((1000, 650), (900, 550), (820, 460)):
        touch("touchMove", (x, y))
    touch("touchEnd")
    expected = [820 / 1200, 460 / 800, 260 / 1200, 230 / 800]
    assert place(page, page.get_by_role("application")) == pytest.approx(expected, abs=0.02)
    page.get_by_role("button", name="Search with this part").tap()
    until(page, "location.search.includes('xywh')")
    settled(page)
    found = re.fullmatch(r"like:\d+#xywh=(\d+),(\d+),(\d+),(\d+)", asked(page)["q"])
    assert found is not None
    assert [int(side) for side in found.groups()] == pytest.approx([820, 460, 260, 230], abs=20)


def test_words_that_were_asked_for_are_marked_and_all_on_request(open_page: Open, looked_at: Site) -> None:
    for query in ("text:invoice", "invoice"):
        page = opened(open_page, looked_at, query, "green.png")
        words = page.locator(".cs-asked")
        expect(words).to_have_count(1)
        left, top, width, height = place(page, words)
        assert [600 * left, 400 * top] == pytest.approx([4, 0], abs=3)
        assert [600 * width, 400 * height] == pytest.approx([80, 10], abs=6)
        expect(page.locator(".cs-detail")).to_contain_text("INVOICE 12")
    page.keyboard.press("t")
    expect(page.locator(".cs-all")).to_have_count(3)
    expect(page.locator(".cs-toast")).to_have_text("3 lines of words were read in this picture.")
    assert axe_findings(page, "words") == []
    page.keyboard.press("t")
    expect(page.locator(".cs-all")).to_have_count(0)
    expect(words).to_have_count(1)
    page = opened(open_page, looked_at, "blue", "blue.png")
    page.keyboard.press("t")
    expect(page.locator(".cs-toast")).to_have_text("No words were read in this picture.")


def test_the_shots_of_a_video_play_from_their_moments(open_page: Open, filmed: Site) -> None:
    page = opened(open_page, filmed, "blue", "trip.webm")
    shots = page.locator(".cs-shot")
    expect(shots).to_have_count(3)
    assert [text.strip() for text in shots.all_text_contents()] == ["0:00", "0:04", "0:08"]
    expect(page.locator(".cs-shot[aria-current=true]")).to_have_text("0:04")
    expect(page.get_by_role("button", name="Search with a part of the picture")).to_be_hidden()
    assert axe_findings(page, "shots") == []
    shots.nth(2).click()
    until(page, "document.querySelector('.cs-video')?.currentTime >= 8")
    assert Path(page.locator(".cs-video").get_attribute("src") or "").name.endswith("#t=8")
    expect(page.locator(".cs-shot[aria-current=true]")).to_have_text("0:08")
    shots.nth(0).click()
    until(page, "document.querySelector('.cs-video')?.currentTime < 3.9")
    expect(page.locator(".cs-shot[aria-current=true]")).to_have_text("0:00")
    page.keyboard.press("ArrowRight")  # within the strip
    expect(shots.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.cs-video')?.currentTime >= 4")
    page.keyboard.press("Escape")
    page.click(".cs-tile[data-name='pink.png'] .cs-open")
    expect(title(page)).to_have_text("pink.png")
    expect(page.locator(".cs-shots")).to_be_hidden()


def test_where_in_a_shot_is_asked_of_that_shot(open_page: Open, filmed: Site) -> None:
    with running([filmed.photos / ".clipsearch"], originals=False) as site:
        page = opened(open_page, site, "blue", "trip.webm")
        page.locator(".cs-shot").nth(2).click()
        expect(page.locator(".cs-video")).to_have_count(0)  # only on the machine of the server
        with page.expect_request("**/v1/where") as request:
            page.keyboard.press("w")
        expect(page.locator(".cs-where-said")).to_contain_text("guess")
        row_id = json.loads(request.value.post_data or "")["row_id"]
        views = page.request.get(f"{site.address}/v1/images/{row_id}/views").json()["views"]
        assert [one["row_id"] for one in views].index(row_id) == 2


def test_what_is_said_in_a_video_plays_from_when_it_is_said(open_page: Open, filmed: Site) -> None:
    page = opened(open_page, filmed, "text:boarding", "trip.webm")
    expect(page.locator(".cs-detail")).to_contain_text("Where is the boarding pass?")
    expect(page.locator(".cs-asked")).to_have_count(0)  # it stands nowhere in the picture
    page.keyboard.press("o")
    until(page, "document.querySelector('.cs-video')?.currentTime >= 5.5")
    assert Path(page.locator(".cs-video").get_attribute("src") or "").name.endswith("#t=5.5")


def test_the_part_that_a_hit_is_has_a_frame(open_page: Open, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (480, 360), COLOURS["red"]).save(photos / "a.png")
    index, _ = viewed_index(photos, FakeEncoder(), {"a.png": ["xywh=12,9,24,18"]}, parts=1)  # of 48 by 36
    with running([index]) as site:
        page = opened(open_page, site, "name:a.png", "a.png")
        assert place(page, page.locator(".cs-part")) == pytest.approx([0.25, 0.25, 0.5, 0.5], abs=0.01)


def test_the_tile_that_a_picture_is_found_by_has_a_frame_and_the_picture_has_parts(
    open_page: Open, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    image = Image.new("RGB", (1200, 800), COLOURS["grey"])
    image.paste(COLOURS["blue"], (800, 500, 1200, 800))
    image.save(photos / "a.png")
    Image.new("RGB", (480, 360), COLOURS["red"]).save(photos / "b.png")
    options = clipsearch.IndexOptions(regions=True)
    with running([clipsearch.index(photos, encoder=FakeEncoder(), options=options).index]) as site:
        page = opened(open_page, site, "blue name:a.png", "a.png")
        assert place(page, page.locator(".cs-part")) == pytest.approx([0.4, 0.4, 0.6, 0.6], abs=0.01)
        expect(page.locator(".cs-shot")).to_have_count(0)  # tiles are no shots
        expect(page.get_by_role("button", name="Search with a part of the picture")).to_be_visible()
        page.keyboard.press("r")
        frame = page.get_by_role("application")
        expect(frame).to_be_focused()
        for key in ["ArrowRight"] * 20 + ["ArrowDown"] * 20:  # to the lower right corner, which is blue
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        until(page, "location.search.includes('xywh')")
        settled(page)
        row = row_of(site, "a.png")
        assert asked(page)["q"] == f"like:{row}#xywh=600,400,600,400"  # of the whole picture, not of the tile
        expect(page.locator(".cs-problem")).to_be_hidden()
        expect(page.locator(".cs-tile[data-n='0']")).to_have_attribute("data-name", "a.png")


@pytest.mark.parametrize(("size", "at"), [((6400, 400), (2800, 0)), ((400, 6400), (0, 4000))])
def test_a_long_picture_opens_at_the_part_that_was_found(
    open_page: Open, tmp_path: Path, size: tuple[int, int], at: tuple[int, int]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    image = Image.new("RGB", size, COLOURS["grey"])
    image.paste(COLOURS["blue"], (*at, at[0] + 400, at[1] + 400))
    image.save(photos / "long.png")
    Image.new("RGB", (480, 360), COLOURS["red"]).save(photos / "b.png")
    options = clipsearch.IndexOptions(regions=True)
    with running([clipsearch.index(photos, encoder=FakeEncoder(), options=options).index]) as site:
        page = opened(open_page, site, "blue name:long.png", "long.png")
        frame, window = page.locator(".cs-part").bounding_box(), page.locator(".pswp").bounding_box()
        assert frame is not None
        assert window is not None
        axis, side = ("x", "width") if size[0] > size[1] else ("y", "height")
        middle = frame[axis] + frame[side] / 2  # type: ignore[literal-required]
        assert middle == pytest.approx(window[side] / 2, abs=3)  # type: ignore[literal-required]
        page = opened(open_page, site, "name:long.png", "long.png")  # found by nothing in it: from its beginning
        whole = page.locator(".cs-over").bounding_box()
        assert whole is not None
        assert whole[axis] == pytest.approx(0, abs=1)  # type: ignore[literal-required]


def test_an_animated_picture_has_a_strip_and_is_shown_as_a_picture(open_page: Open, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    frames = [Image.new("RGB", (300, 200), COLOURS[name]) for name in ("red", "blue")]
    frames[0].save(photos / "party.gif", save_all=True, append_images=frames[1:], duration=1500, loop=0)
    with running([clipsearch.index(photos, encoder=FakeEncoder()).index]) as site:
        page = opened(open_page, site, "blue", "party.gif")
        shots = page.locator(".cs-shot")
        expect(shots).to_have_count(2)
        expect(page.locator(".cs-shot[aria-current=true]")).to_have_text("0:01")
        shots.nth(0).click()
        row_id = next(one["row_id"] for one in page.request.get(f"{site.address}/v1/images/0/views").json()["views"])
        shown = ".pswp__item[aria-hidden=false] .pswp__img:not(.pswp__img--placeholder)"
        until(page, f"document.querySelector('{shown}').src.includes('/images/{row_id}/thumbnail')")
        expect(page.locator(".cs-video")).to_have_count(0)
        page.keyboard.press("o")
        expect(page.locator(".cs-toast")).to_have_text("This is the original file.")
        until(page, f"document.querySelector('{shown}').src.includes('/original')")
