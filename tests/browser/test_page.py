"""What people do with the page, in a real browser."""

from __future__ import annotations

import base64
import csv
import io
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page, expect

from benchmarks.common import random_blocks, write_index
from clipsearch.store import RunProgress, Writer
from tests.browser.conftest import HOSTILE, PATIENCE_MS, Open, Site, serve
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.unit.test_sub_path import proxy

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

MANY = 100_000
TOKEN = "a-token-for-tests"
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}


def shown(page: Page) -> list[str]:
    """Names of the tiles in the document, in order."""
    names = page.evaluate(
        "[...document.querySelectorAll('.cs-tile[data-id]')].sort((a, b) => a.dataset.n - b.dataset.n)"
        ".map(tile => tile.dataset.name)"
    )
    return [str(name) for name in names]


def ask(page: Page, query: str) -> None:
    page.fill(".cs-query", query)
    page.press(".cs-query", "Enter")
    settled(page)


def settled(page: Page) -> None:
    page.wait_for_timeout(50)
    page.wait_for_selector("#clipsearch:not(.cs-busy)")


def asked(page: Page) -> dict[str, str]:
    """What the address says."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def first(page: Page, name: str) -> None:
    expect(page.locator(".cs-tile[data-n='0']")).to_have_attribute("data-name", name)


def until(page: Page, condition: str) -> None:
    """Wait until an expression holds (Playwright's own way needs eval, which the page's policy forbids)."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def tile(page: Page, name: str) -> str:
    number = page.locator(f".cs-tile[data-name='{name}']").get_attribute("data-n")
    return f".cs-tile[data-n='{number}']"


def test_notices_stand_in_lines_above_the_hits_and_what_they_offer_is_asked_by_a_click(open_page: Open) -> None:
    page = open_page()
    lines = page.locator(".cs-told .cs-notice")
    ask(page, "05/06/2019")
    one, other = "after:2019-06-05 before:2019-06-06", "after:2019-05-06 before:2019-05-07"
    expect(lines.first).to_contain_text(f"write: {one} or: {other}")
    assert lines.first.locator("button").all_inner_texts() == [one, other]
    lines.first.get_by_role("button", name=other).click()
    settled(page)
    assert asked(page) == {"q": other}
    ask(page, "blue barcode last year")
    if lines.count() > 1:  # else something is likely
        assert lines.all_inner_texts()[-1].lower() == "nothing certain; nearest:"
    lines.first.locator("button").click()
    settled(page)
    assert asked(page)["q"].startswith("blue barcode after:")


def test_a_search_shows_the_best_first_with_its_thumbnail(open_page: Open) -> None:
    page = open_page()
    expect(page.locator(".cs-summary")).to_contain_text("pictures")
    ask(page, "blue")
    first(page, "plain/blue.jpg")
    expect(page.locator(".cs-tile[data-n='0'] img")).to_have_js_property("naturalWidth", 240)
    expect(page.locator(".cs-summary")).to_contain_text("result")
    assert asked(page) == {"q": "blue"}
    assert page.title() == "blue – clipsearch"


def test_what_should_be_said_of_a_query_is_said_in_a_line(open_page: Open) -> None:
    page = open_page()
    told = page.locator(".cs-told")
    expect(told).to_be_hidden()
    for query in ("date:2023", "blue camara:canon", f"<b>camara</b>:x kamera:{HOSTILE}"):
        ask(page, query)
        expect(told).to_be_visible()
        expect(told).to_contain_text("Did you mean" if "kamera" not in query else "camera:")
        tags = page.evaluate("[...document.querySelectorAll('.cs-told *')].map(({ localName }) => localName)")
        assert set(tags) <= {"span", "button", "code"}
    ask(page, "name:blue*")
    expect(told).to_be_hidden()
    ask(page, "date:2023")
    ask(page, "size:x")  # no query at all
    expect(page.locator(".cs-problem")).to_be_visible()
    expect(told).to_be_hidden()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_that_is_dropped_or_pasted_finds_others_like_it(open_page: Open, way: str) -> None:
    page = open_page("/?all=1")
    content = io.BytesIO()
    Image.new("RGB", (64, 64), COLOURS["green"]).save(content, "PNG")
    page.evaluate(
        """([text, way]) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "mine.png", {type: "image/png"}));
          const given = way === "drop" ? {dataTransfer: transfer} : {clipboardData: transfer};
          const kind = way === "drop" ? DragEvent : ClipboardEvent;
          document.body.dispatchEvent(new kind(way, {bubbles: true, cancelable: true, ...given}));
        }""",
        [base64.b64encode(content.getvalue()).decode(), way],
    )
    first(page, "plain/green.jpg")
    expect(page.locator(".cs-chip img")).to_be_visible()
    page.click(".cs-chip button")
    expect(page.locator(".cs-chip")).to_be_hidden()
    expect(page.locator(".cs-summary")).to_contain_text("pictures")


def test_a_file_that_is_no_picture_is_refused_with_words(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    page.set_input_files("input[type=file]", tmp_path / "broken.png")
    expect(page.locator(".cs-problem")).to_be_visible()


def test_only_files_that_can_be_read_are_taken_for_pictures(open_page: Open) -> None:
    page = open_page()
    folder = str(page.locator("script[type=module]").first.get_attribute("src")).rpartition("/")[0]
    names = ["a.JPG", "b.tif", "c.jp2", "no ending", "d.jxl", "e.svg", "f.pdf", "g.png.txt", "h"]
    types = ["", "", "", "image/png", "image/jxl", "image/svg+xml", "application/pdf", "text/plain", ""]
    taken = page.evaluate(
        """async ([folder, names, types]) => {
          const { isPicture } = await import(new URL(`${folder}/tables.js`, document.baseURI));
          return names.map((name, n) => isPicture({ name, type: types[n] }));
        }""",
        [folder, names, types],
    )
    assert taken == [True, True, True, True, False, False, False, False, False]


def test_find_similar(open_page: Open) -> None:
    page = open_page("/?q=yellow&all=1")
    first(page, "plain/yellow.jpg")
    page.hover(".cs-tile[data-n='0']")
    row = page.locator(".cs-tile[data-n='0']").get_attribute("data-id")
    page.click(".cs-tile[data-n='0'] .cs-similar")
    expect(page.locator(".cs-query")).to_have_value(f"like:{row}")
    settled(page)
    first(page, "plain/yellow.jpg")


def test_less_like_this_takes_a_picture_away_from_the_query(open_page: Open) -> None:
    page = open_page("/?q=red&all=1")
    page.click(".cs-tile[data-n='0']")
    row = page.locator(".cs-tile[data-n='0']").get_attribute("data-id")
    page.click("text=Less like this")
    expect(page.locator(".cs-query")).to_have_value(f"red - like:{row}")


def test_filters_edit_the_query_and_the_query_sets_the_filters(open_page: Open) -> None:
    page = open_page("/?all=1")
    page.click(".cs-filter")
    page.select_option("select[name=orientation]", "portrait")
    expect(page.locator(".cs-query")).to_have_value("orientation:portrait")
    expect(page.locator(".cs-summary")).to_contain_text("1 result")
    assert shown(page) == ["plain/green.jpg"]
    page.fill("input[name=folder]", "plain")
    page.press("input[name=folder]", "Tab")
    page.select_option("select[name=orientation]", "landscape")
    expect(page.locator(".cs-query")).to_have_value("orientation:landscape folder:plain")
    expect(page.locator(".cs-summary")).to_contain_text("2 results")
    assert sorted(shown(page)) == ["plain/red.jpg", "plain/yellow.jpg"]
    ask(page, 'name:"small red.png" blue')
    expect(page.locator("input[name=name]")).to_have_value("small red.png")
    expect(page.locator("input[name=folder]")).to_have_value("")
    assert shown(page) == ["small red.png"]
    page.click("text=Clear filters")
    expect(page.locator(".cs-query")).to_have_value("blue")


def test_a_mistake_in_the_query_is_shown_where_it_is(open_page: Open) -> None:
    page = open_page()
    ask(page, "dog width:abc")
    expect(page.locator(".cs-problem mark")).to_have_text("a")
    expect(page.locator(".cs-problem")).to_contain_text("needs a number")
    ask(page, "blue")
    expect(page.locator(".cs-problem")).to_be_hidden()
    first(page, "plain/blue.jpg")


def test_thumbs_change_the_order_and_can_be_taken_back(open_page: Open) -> None:
    page = open_page("/?q=red&all=1")
    first(page, "plain/red.jpg")
    before = shown(page)
    blue = before.index("plain/blue.jpg")
    page.hover(tile(page, "plain/blue.jpg"))
    page.click(f"{tile(page, 'plain/blue.jpg')} .cs-up")
    settled(page)
    page.hover(tile(page, "plain/red.jpg"))
    page.click(f"{tile(page, 'plain/red.jpg')} .cs-down")
    expect(page.locator(".cs-tile[data-n='0']")).not_to_have_attribute("data-name", "plain/red.jpg")
    settled(page)
    assert shown(page).index("plain/blue.jpg") < blue
    assert set(asked(page)) == {"q", "all", "up", "down", "ix"}
    expect(page.locator(tile(page, "plain/blue.jpg"))).to_have_attribute("data-rating", "1")
    page.click("text=reset")
    first(page, "plain/red.jpg")
    assert shown(page) == before


def test_thumbs_can_be_kept_under_a_name(open_page: Open) -> None:
    page = open_page("/?q=green&all=1")
    page.hover(".cs-tile[data-n='0']")
    page.click(".cs-tile[data-n='0'] .cs-up")
    settled(page)
    page.click("text=save as tag")
    page.fill(".cs-name-it", "lawn")
    page.press(".cs-name-it", "Enter")
    expect(page.locator(".cs-query")).to_have_value("tag:lawn")
    first(page, "plain/green.jpg")
    page = open_page("/?q=red&all=1")
    page.hover(".cs-tile[data-n='0']")
    page.click(".cs-tile[data-n='0'] .cs-up")
    settled(page)
    page.click("text=save as tag")
    page.fill(".cs-name-it", "Lawn")
    page.press(".cs-name-it", "Enter")
    expect(page.get_by_text("There is a tag with this name")).to_be_visible()
    page.click("button:has-text('Replace')")
    expect(page.locator(".cs-query")).to_have_value("tag:Lawn")
    first(page, "plain/red.jpg")


def test_what_is_unlikely_is_shown_only_when_asked_for(open_page: Open) -> None:
    page = open_page("/?q=red")
    everything = open_page("/?q=red&all=1")
    few, many = (int(one.locator(".cs-summary").inner_text().split()[0]) for one in (page, everything))
    assert few < many == 16
    bands = everything.evaluate("[...document.querySelectorAll('.cs-tile')].map(tile => tile.dataset.band)")
    assert set(bands) <= {"strong", "maybe", "unlikely"}
    assert "unlikely" in bands
    expect(page.locator(".cs-rest")).to_contain_text("pictures unlikely to match")
    left_out = int(page.locator(".cs-rest").inner_text().split()[0])
    assert left_out in (16 - few, 17 - few)  # one of the 17 is folded, among these or those
    page.click(".cs-rest button")
    expect(page.locator(".cs-summary")).to_contain_text("16 results")
    expect(page.locator(".cs-rest")).to_be_hidden()
    ask(page, "zebra crossing")
    page.uncheck("text=Unlikely matches")
    settled(page)
    count = page.locator(".cs-tile").count()
    expect(page.locator(".cs-nothing")).to_be_visible(visible=count == 0)
    ask(page, "red folder:nowhere")
    expect(page.locator(".cs-nothing")).to_contain_text("no picture matches folder:nowhere")
    expect(page.locator(".cs-told")).not_to_contain_text("nothing found")


def test_near_duplicates_are_folded_and_unfold(open_page: Open) -> None:
    page = open_page("/?q=red&all=1")
    expect(page.locator(f"{tile(page, 'plain/red.jpg')} .cs-others")).to_have_text("+1")
    assert "small red.png" not in shown(page)
    page.click(tile(page, "plain/red.jpg"))
    page.click(".cs-strip button")
    expect(page.locator(".cs-detail h2")).to_have_text("small red.png")
    page.keyboard.press("Escape")
    page.uncheck("text=Group near-duplicates")
    settled(page)
    assert {"plain/red.jpg", "small red.png"} <= set(shown(page))
    assert asked(page)["unique"] == "0"


def test_lists_of_everything_and_of_filters_leave_out_no_near_duplicate(open_page: Open) -> None:
    page = open_page("/")
    expect(page.locator(".cs-summary")).to_contain_text("18 pictures")
    for query in ("name:*red*", "name:red* OR name:small*"):  # the page cannot tell of the second that it ranks nothing
        ask(page, query)
        expect(page.locator(".cs-summary")).to_contain_text("2 results")
        assert set(shown(page)) == {"plain/red.jpg", "small red.png"}
        expect(page.locator(".cs-others")).to_have_count(0)
        page.keyboard.press("Escape")
        page.keyboard.press("Control+a")
        expect(page.locator(".cs-selection strong")).to_have_text("2 selected")
        page.keyboard.press("Escape")
    ask(page, "red")
    expect(page.locator("text=Group near-duplicates")).to_be_checked()
    expect(page.locator(f"{tile(page, 'plain/red.jpg')} .cs-others")).to_have_text("+1")
    assert "small red.png" not in shown(page)


def test_a_link_brings_back_what_it_shows(open_page: Open) -> None:
    page = open_page("/?q=folder%3Aplain+red&sort=path&all=1")
    expect(page.locator(".cs-query")).to_have_value("folder:plain red")
    names = ["plain/blue.jpg", "plain/green.jpg", "plain/red.jpg", "plain/yellow.jpg"]
    assert shown(page) == names
    page.click(".cs-tile[data-n='2']")
    expect(page.locator(".cs-detail h2")).to_have_text("red.jpg")
    link = page.url
    again = open_page(link[link.index("/", 8) :])
    expect(again.locator(".cs-detail h2")).to_have_text("red.jpg")
    assert shown(again) == names
    expect(again.locator("select[aria-label=Order]")).to_have_value("path")
    page.go_back()
    expect(page.locator(".cs-detail")).to_be_hidden()
    ask(page, "blue")
    page.go_back()
    expect(page.locator(".cs-query")).to_have_value("folder:plain red")
    settled(page)
    assert shown(page) == names


def test_everything_works_from_the_keyboard(open_page: Open) -> None:
    page = open_page("/?q=folder:plain&sort=path&all=1")
    expect(page.locator(".cs-tile[data-n='3'][data-id]")).to_be_attached()
    page.keyboard.press("/")
    expect(page.locator(".cs-query")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".cs-tile[data-n='0'] .cs-open")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".cs-tile[data-n='1'] .cs-open")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".cs-detail h2")).to_have_text("green.jpg")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".cs-detail h2")).to_have_text("red.jpg")
    page.keyboard.press("Escape")
    expect(page.locator(".cs-detail")).to_be_hidden()
    expect(page.locator(".cs-tile[data-n='2'] .cs-open")).to_be_focused()
    page.keyboard.press("x")
    expect(page.locator(".cs-selection")).to_contain_text("1 selected")
    page.keyboard.press("Escape")
    expect(page.locator(".cs-selection")).to_be_hidden()
    page.keyboard.press("Home")
    page.keyboard.press("s")
    expect(page.locator(".cs-query")).to_have_value(re.compile(r"like:\d+"))


def test_a_phone_shows_everything_within_its_width(open_page: Open) -> None:
    page = open_page("/?q=red&all=1", **PHONE)
    first(page, "plain/red.jpg")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    lefts = page.evaluate("[...document.querySelectorAll('.cs-tile')].map(t => t.getBoundingClientRect().left)")
    assert len(set(lefts)) == 3
    page.tap(".cs-filter")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.tap(".cs-filter")
    page.tap(".cs-tile[data-n='0']")
    expect(page.locator(".cs-viewer")).to_have_attribute("aria-label", "red.jpg")
    box = page.locator(".cs-viewer").bounding_box()
    assert box is not None
    assert (box["x"], box["width"]) == (0, 390)
    expect(page.locator(".cs-detail")).to_be_hidden()
    page.tap("[title='Information (i)']")
    expect(page.locator(".cs-detail h2")).to_have_text("red.jpg")
    page.tap(".cs-select")
    page.tap(".cs-detail header button")
    expect(page.locator(".cs-detail")).to_be_hidden()
    expect(page.locator(".cs-viewer")).to_be_visible()
    page.tap("[title='Close (Esc)']")
    expect(page.locator(".cs-viewer")).to_be_hidden()
    expect(page.locator(".cs-selection")).to_contain_text("1 selected")
    page.tap(".cs-tile[data-n='1'] .cs-check")
    expect(page.locator(".cs-selection")).to_contain_text("2 selected")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_page_that_needs_a_token_works_after_logging_in(open_page: Open, guarded: Site) -> None:
    page = open_page("/?q=blue", at=guarded, ready=False)
    page.fill("input[name=token]", "wrong")
    page.click("button")
    expect(page.locator("body")).to_contain_text("Wrong token")
    page.fill("input[name=token]", TOKEN)
    page.click("button")
    expect(page.locator(".cs-query")).to_have_value("blue")
    first(page, "plain/blue.jpg")
    expect(page.locator(".cs-tile[data-n='0'] img")).to_have_js_property("naturalWidth", 240)


def test_names_that_are_markup_are_text_everywhere(open_page: Open) -> None:
    page = open_page("/?q=purple&all=1")
    first(page, f"{HOSTILE}.jpg")
    assert page.locator(".cs-tile[data-n='0'] .cs-name").inner_text() == f"{HOSTILE}.jpg"
    page.click(".cs-tile[data-n='0']")
    expect(page.locator(".cs-detail h2")).to_have_text(f"{HOSTILE}.jpg")
    page.keyboard.press("Escape")
    page.click(".cs-tab[data-view=status]")
    page.click(".cs-index[data-name=photos] .cs-button")
    expect(page.locator(".cs-skipped td").first).to_have_text(f"{HOSTILE}.svg")
    ask(page, f'name:"{HOSTILE}.jpg" {HOSTILE}')
    settled(page)
    assert page.evaluate("[...document.images].filter(image => /(^|\\/)x$/.test(image.src)).length") == 0


def test_selected_pictures_can_be_copied_and_exported(open_page: Open, site: Site) -> None:
    page = open_page("/?q=folder:plain&sort=path&all=1", permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("Escape")
    for number in (0, 2):
        page.click(f".cs-tile[data-n='{number}']", modifiers=["Control"])
    expect(page.locator(".cs-selection")).to_contain_text("2 selected")
    page.click("text=Copy paths")
    expect(page.locator(".cs-toast")).to_contain_text("2 paths copied")
    paths = [str(site.photos / "plain" / name) for name in ("blue.jpg", "red.jpg")]
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(paths)
    with page.expect_download() as table:
        page.click(".cs-selection >> text=CSV")
    rows = list(csv.DictReader(io.StringIO(Path(table.value.path()).read_text(encoding="utf-8-sig"))))
    assert [row["path"] for row in rows] == paths
    assert [row["camera"] for row in rows] == ["SecretMaker"] * 2
    with page.expect_download() as archive:
        page.click("text=ZIP of previews")
    with zipfile.ZipFile(archive.value.path()) as files:
        assert files.namelist() == ["0001-blue.jpg", "0002-red.jpg"]
        assert b"SecretMaker" not in files.read("0002-red.jpg")
        assert Image.open(io.BytesIO(files.read("0002-red.jpg"))).size == (300, 200)


def test_the_map_shows_thumbnails_and_opens_pictures(open_page: Open) -> None:
    page = open_page("/?view=map&unique=0")
    expect(page.locator(".cs-map .cs-note")).to_contain_text("18 pictures")
    canvas = page.locator(".cs-map canvas")
    box = canvas.bounding_box()
    assert box is not None
    places = [(x, y) for x in range(30, int(box["width"]), 40) for y in range(30, int(box["height"]), 40)]
    for x, y in places:
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.wait_for_timeout(20)
        if page.locator(".cs-card").is_visible():
            page.mouse.click(box["x"] + x, box["y"] + y)
            break
    expect(page.locator(".cs-detail h2")).not_to_be_empty()
    assert "id" in asked(page)


def test_several_indexes(open_page: Open) -> None:
    page = open_page()
    page.select_option(".cs-which", "scans")
    first(page, "pink.jpg")
    assert asked(page) == {"index": "scans"}
    expect(page.locator(".cs-tile img")).to_have_js_property("naturalWidth", 200)


def test_all_indexes_are_searched_together(open_page: Open) -> None:
    page = open_page("/?all=1")
    assert page.locator(".cs-which option").all_inner_texts() == ["photos", "scans", "All of these"]
    page.select_option(".cs-which", label="All of these")
    settled(page)
    assert asked(page) == {"index": "*", "all": "1"}
    expect(page.locator(".cs-summary")).to_contain_text("pictures")
    ask(page, "pink")
    first(page, "pink.jpg")
    expect(page.locator(".cs-tile[data-n='0'] img")).to_have_js_property("naturalWidth", 200)
    page.click(".cs-tile[data-n='0']")
    panel = page.locator(".cs-detail")
    expect(panel.locator("h2")).to_have_text("pink.jpg")
    expect(panel.locator("dt", has_text="Index").locator("+ dd")).to_have_text("scans")
    page.keyboard.press("s")  # similar ones, of the other index
    settled(page)
    expect(page.locator(".cs-tile[data-n='0']")).to_be_visible()
    assert asked(page)["q"].startswith("like:") and {"index", "ix"} <= asked(page).keys()
    names = shown(page)
    assert "pink.jpg" in names and any(name.startswith("plain/") for name in names)
    page.reload()
    page.wait_for_selector("#clipsearch:not(.cs-busy)")
    until(page, f"document.querySelectorAll('.cs-tile[data-id]').length >= {len(names)}")
    expect(page.locator(".cs-which")).to_have_value("*")
    assert shown(page) == names
    page.select_option(".cs-which", "photos")  # where the row id means nothing
    settled(page)
    expect(page.locator(".cs-which")).to_have_value("photos")


def test_what_is_done_in_one_index_is_refused_in_words_where_all_are_shown(open_page: Open) -> None:
    page = open_page("/?index=*&q=red&all=1")
    row = page.locator(".cs-tile[data-n='0']").get_attribute("data-id")
    page.hover(".cs-tile[data-n='0']")
    page.click(".cs-tile[data-n='0'] .cs-up")
    settled(page)
    expect(page.locator(".cs-problem")).to_be_hidden()  # thumbs learn from all of them
    assert asked(page)["up"] == row
    page.click("text=save as tag")
    page.fill(".cs-name-it", "lawn")
    page.press(".cs-name-it", "Enter")
    expect(page.get_by_text("several are searched together. Name one of them: photos, scans")).to_be_visible()


def test_the_progress_of_a_run_has_a_total_a_rate_and_an_end(open_page: Open, site: Site) -> None:
    with Writer(site.photos / ".clipsearch") as writer:
        writer.note(RunProgress("read", 30, 120, 25, 10.0))
        page = open_page("/?view=status")
        card = page.locator(".cs-index[data-name=photos]")
        expect(card.locator("progress")).to_have_js_property("max", 120)
        expect(card.locator("progress")).to_have_js_property("value", 30)
        expect(card).to_contain_text("30 of 120 files (25%) · 3.0 per second · about 30 sec left")
        expect(page.locator(".cs-index[data-name=scans]")).to_contain_text("No indexing run is in progress")
        writer.note(RunProgress("read", 2400, 12_000, 2400, 60.0))
        expect(card).to_contain_text("2,400 of 12,000 files (20%) · 40 per second · about 4 min 0 sec left")
        writer.note(RunProgress("commit", 120, 120, 110, 70.0))
        expect(card).to_contain_text("120 of 120 files (100%) · 1.7 per second · saving")
    expect(card).to_contain_text("No indexing run is in progress")
    expect(card.locator("progress")).to_have_count(0)


def test_light_and_dark(open_page: Open) -> None:
    def brightness(page: Page) -> int:
        colour = page.evaluate("getComputedStyle(document.getElementById('clipsearch')).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    dark = open_page("/", color_scheme="dark")
    assert brightness(dark) < 150
    for _ in range(3):  # auto, light, dark
        dark.click(".cs-theme")
        if dark.locator(".cs-theme").get_attribute("title") == "Theme: light":
            break
    assert brightness(dark) > 600
    dark.reload()
    dark.wait_for_selector("#clipsearch[data-ready]")
    assert brightness(dark) > 600


def test_the_first_paint_waits_for_nothing(open_page: Open) -> None:
    page = open_page("/?q=blue")
    until(page, "performance.getEntriesByName('first-contentful-paint').length")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 1000


@pytest.fixture(scope="module")
def guarded(site: Site) -> Iterator[Site]:
    yield from serve([site.photos / ".clipsearch"], site.photos, FakeEncoder(), token=TOKEN)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    encoder = FakeEncoder(64)
    folder = tmp_path_factory.mktemp("large") / "large"
    index = write_index(folder, encoder, lambda: random_blocks(MANY, 64))
    yield from serve([index], folder, encoder)


def test_a_hundred_thousand_pictures_scroll_with_few_nodes(open_page: Open, large: Site) -> None:
    page = open_page("/?q=green&all=1&unique=0", at=large)
    expect(page.locator(".cs-summary")).to_contain_text("100,000 results")
    seen = set()
    most = 0
    for share in (0.0, 0.01, 0.1, 0.35, 0.5, 0.75, 0.9, 1.0):
        page.evaluate(f"scrollTo(0, {share} * document.documentElement.scrollHeight)")
        seen_now = "document.elementFromPoint(300, 400)?.closest('.cs-tile')?.dataset"
        until(page, f"{seen_now}?.id")
        seen.add(page.evaluate(f"{seen_now}.n"))
        most = max(most, page.evaluate("document.querySelectorAll('#clipsearch *').length"))
    assert len(seen) == 8
    assert most < 2500
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    expect(page.locator(f".cs-tile[data-n='{MANY - 1}'][data-id]")).to_be_visible()
    ids = page.evaluate("[...document.querySelectorAll('.cs-tile')].map(t => t.dataset.id)")
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("strips", [True, False])
def test_the_page_works_behind_a_proxy_at_a_sub_path(
    strips: bool, site: Site, chromium: Browser, request: pytest.FixtureRequest
) -> None:
    """No request leaves the sub-path, and no file is missing."""
    indexes = [site.photos / ".clipsearch"]
    running = serve(indexes, site.photos, FakeEncoder(), root_path="/my/photos")
    behind = next(running)
    front = proxy(int(behind.address.rpartition(":")[2]), "/my/photos", strips)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{front.server_port}/my/photos/"
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    page.on("requestfailed", lambda one: wrong.append(f"{one.failure} {one.url}"))
    page.on("response", lambda one: wrong.append(f"{one.status} {one.url}") if one.status >= 400 else None)
    page.on("request", lambda one: wrong.append(one.url) if not one.url.startswith((address, "data:")) else None)
    page.goto(address)
    page.wait_for_selector("#clipsearch[data-ready]")
    ask(page, "red")
    expect(page.locator(".cs-tile[data-id] img").first).to_be_visible()
    expect(page.locator(".cs-tile[data-id] img").first).not_to_have_js_property("naturalWidth", 0)
    page.goto(page.url)  # the address of an answer
    settled(page)
    assert len(shown(page)) > 0
    context.close()
    front.shutdown()
    front.server_close()
    assert [one for one in wrong if "ERR_ABORTED" not in one] == []
    assert next(running, None) is None  # which stops the server
