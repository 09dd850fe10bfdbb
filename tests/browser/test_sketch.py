"""Pictures are found by a drawing: with the mouse, a finger, a pen and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Page, expect

from tests.browser.axe import axe_findings
from tests.browser.conftest import PATIENCE_MS, Open
from tests.browser.test_page import PHONE, ask, asked, first, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

DIALOG = "dialog.cs-sketch"
PAPER = ".cs-paper"
WHITE = [255, 255, 255]

At = Callable[[float, float], tuple[float, float]]


def opened(page: Page) -> At:
    """Open the sheet. Returns where a place of the paper, in shares of its sides, is in the window."""
    page.click(".cs-draw")
    expect(page.locator(DIALOG)).to_be_visible()
    box = page.locator(PAPER).bounding_box()
    assert box is not None
    left, top, width, height = box["x"], box["y"], box["width"], box["height"]
    assert width == pytest.approx(height, abs=1)
    return lambda x, y: (left + x * width, top + y * height)


def choose(page: Page, name: str) -> None:
    page.locator(DIALOG).get_by_role("button", name=name, exact=True).click()
    expect(page.locator(DIALOG).get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "true")


def stroke(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()


def colour(page: Page, x: float, y: float) -> list[int]:
    """The colour of a place of the paper."""
    return list(
        page.evaluate(
            """([x, y]) => {
              const paper = document.querySelector(".cs-paper");
              return [...paper.getContext("2d").getImageData(x * paper.width, y * paper.height, 1, 1).data].slice(0, 3);
            }""",
            [x, y],
        )
    )


def inked(page: Page) -> int:
    """How many pixels of the paper are not white."""
    return int(
        page.evaluate(
            """() => {
              const paper = document.querySelector(".cs-paper");
              const { data } = paper.getContext("2d").getImageData(0, 0, paper.width, paper.height);
              let count = 0;
              for (let n = 0; n < data.length; n += 4) count += data[n] + data[n + 1] + data[n + 2] < 765;
              return count;
            }"""
        )
    )


def fill(page: Page, at: At) -> None:
    """Shade the whole paper, as a person does: from side to side."""
    choose(page, "Width 4")
    for n in range(12):
        stroke(page, at(0.02, (n + 0.5) / 12), at(0.98, (n + 0.5) / 12))


def test_a_drawing_finds_pictures_as_a_dropped_picture_does(open_page: Open) -> None:
    page = open_page("/?all=1")
    ask(page, "blue")
    first(page, "plain/blue.jpg")
    page.evaluate(
        """() => {
          const append = FormData.prototype.append;
          FormData.prototype.append = function(name, file, ...rest) {
            (window.sent ??= []).push(file.type);
            append.call(this, name, file, ...rest);
          };
        }"""
    )
    at = opened(page)
    choose(page, "Green")
    fill(page, at)
    page.click(f"{DIALOG} .cs-main")
    expect(page.locator(DIALOG)).to_be_hidden()
    first(page, "plain/green.jpg")
    assert asked(page) == {"all": "1"}  # as of any picture that is sent: it is in no address
    expect(page.locator(".cs-chip img")).to_be_visible()
    assert page.evaluate("window.sent") == ["image/png"]
    expect(page.locator(".cs-chip img")).to_have_js_property("naturalWidth", 640)

    page.go_back()
    expect(page.locator(".cs-query")).to_have_value("blue")
    expect(page.locator(".cs-chip")).to_be_hidden()
    first(page, "plain/blue.jpg")
    page.go_forward()
    expect(page.locator(".cs-chip img")).to_be_visible()
    first(page, "plain/green.jpg")

    at = opened(page)  # the drawing is still there, to go on with
    assert colour(page, 0.5, 0.5) != WHITE
    choose(page, "Blue")
    fill(page, at)
    page.keyboard.press("Enter")
    expect(page.locator(DIALOG)).to_be_hidden()
    first(page, "plain/blue.jpg")
    page.go_back()
    first(page, "plain/green.jpg")
    page.click(".cs-chip button")
    expect(page.locator(".cs-chip")).to_be_hidden()
    expect(page.locator(".cs-summary")).to_contain_text("pictures")


def test_strokes_are_erased_undone_and_cleared(open_page: Open) -> None:
    page = open_page()
    at = opened(page)
    search, undo, clear = (
        page.locator(DIALOG).get_by_role("button", name=name) for name in ("Search with", "Undo", "Clear")
    )
    for one in (search, undo, clear):
        expect(one).to_be_disabled()
    page.keyboard.press("Enter")  # an empty paper finds nothing
    expect(page.locator(DIALOG)).to_be_visible()
    choose(page, "Width 2")
    choose(page, "Red")
    stroke(page, at(0.2, 0.3), at(0.8, 0.3))
    assert colour(page, 0.5, 0.3) == [198, 40, 40]
    assert colour(page, 0.5, 0.5) == WHITE
    thin = inked(page)
    choose(page, "Width 3")
    choose(page, "Light grey")
    stroke(page, at(0.2, 0.7), at(0.8, 0.7))
    assert colour(page, 0.5, 0.7) == [208, 208, 208]
    assert inked(page) > 3 * thin
    choose(page, "Eraser")
    stroke(page, at(0.5, 0.1), at(0.5, 0.9))
    assert colour(page, 0.5, 0.3) == colour(page, 0.5, 0.7) == WHITE
    assert colour(page, 0.3, 0.3) == [198, 40, 40]
    undo.click()
    assert colour(page, 0.5, 0.3) == [198, 40, 40]
    clear.click()
    assert inked(page) == 0
    expect(search).to_be_disabled()
    expect(page.locator(PAPER)).to_be_focused()  # the button that had it is off
    page.keyboard.press("Control+z")  # what was cleared is not lost
    assert colour(page, 0.3, 0.3) == [198, 40, 40]
    expect(search).to_be_enabled()
    for _ in range(2):
        undo.click()
    assert inked(page) == 0
    expect(undo).to_be_disabled()
    expect(page.locator(PAPER)).to_be_focused()
    page.mouse.click(*at(0.5, 0.5))  # a click is a dot
    assert inked(page) == 0  # of the eraser
    expect(search).to_be_disabled()
    choose(page, "Black")
    page.mouse.click(*at(0.5, 0.5))
    assert inked(page) > 0
    page.mouse.move(*at(0.1, 0.1))
    page.mouse.down()
    page.mouse.move(*at(0.1, -0.4), steps=4)  # a stroke that ends beside the paper
    page.mouse.up()
    page.mouse.move(*at(0.9, 0.9))
    expect(page.locator(DIALOG)).to_be_visible()
    assert colour(page, 0.1, 0.05) != WHITE
    assert colour(page, 0.9, 0.9) == WHITE


def test_a_drawing_is_made_with_keys_and_the_dialog_keeps_the_focus(open_page: Open) -> None:
    page = open_page("/?all=1")
    page.focus(".cs-draw")
    page.keyboard.press("Enter")
    expect(page.locator(PAPER)).to_be_focused()
    seen = set()
    for _ in range(40):  # Tab may pass the browser's own controls, and never the page below
        page.keyboard.press("Tab")
        where = page.evaluate(
            "(one => `${(one.closest('dialog') ?? one).tagName} ${one.title}`)(document.activeElement)"
        )
        assert where.split()[0] in ("DIALOG", "BODY")
        seen.add(where.split(" ", 1)[1])
    assert {"Close (Esc)", "Green", "Eraser", "Width 1"} <= seen
    page.focus(f"{DIALOG} [title='Green']")
    page.keyboard.press("Space")
    page.focus(f"{DIALOG} [title='Width 4']")
    page.keyboard.press("Space")
    page.focus(PAPER)
    page.keyboard.press("ArrowUp")  # moves only
    assert inked(page) == 0
    expect(page.locator(".cs-sketch-mark")).to_be_visible()
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
        for _ in range(6):
            page.keyboard.press(f"Shift+{key}")
    assert colour(page, 0.45, 0.4) == [46, 139, 61]
    page.keyboard.press("?")  # keys of the page do nothing here
    page.keyboard.press("/")
    expect(page.locator(PAPER)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(DIALOG)).to_be_hidden()
    expect(page.locator(".cs-draw")).to_be_focused()
    page.keyboard.press("Enter")
    assert colour(page, 0.45, 0.4) == [46, 139, 61]
    page.keyboard.press("Control+z")  # keys that follow each other are one line
    assert inked(page) == 0
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator(DIALOG)).to_be_hidden()
    expect(page.locator(".cs-chip img")).to_be_visible()


def test_back_closes_the_sheet_only_and_forward_opens_it_with_its_drawing(open_page: Open) -> None:
    page = open_page(**PHONE)
    start = page.url
    page.fill(".cs-query", "half a thought")
    at = opened(page)
    stroke(page, at(0.2, 0.3), at(0.8, 0.7))
    ink = inked(page)
    page.go_back()  # the first page of this tab: what is before it is not clipsearch
    assert page.url == start
    expect(page.locator(DIALOG)).to_be_hidden()
    expect(page.locator(".cs-query")).to_have_value("half a thought")
    page.go_forward()
    expect(page.locator(DIALOG)).to_be_visible()
    assert inked(page) == ink > 0
    page.keyboard.press("Escape")
    expect(page.locator(DIALOG)).to_be_hidden()
    until(page, "!history.state?.sheet")

    ask(page, "blue")
    opened(page)
    page.go_back()
    expect(page.locator(DIALOG)).to_be_hidden()
    expect(page.locator(".cs-query")).to_have_value("blue")
    opened(page)
    page.click(f"{DIALOG} .cs-main")
    expect(page.locator(".cs-chip img")).to_be_visible()
    page.go_back()  # what was asked before, and no sheet over it
    expect(page.locator(".cs-chip")).to_be_hidden()
    expect(page.locator(".cs-query")).to_have_value("blue")
    expect(page.locator(DIALOG)).to_be_hidden()
    page.go_back()
    expect(page.locator(".cs-query")).to_have_value("")
    assert page.url == start


DROP = """() => new Promise((done) => {
  const paper = document.createElement("canvas");
  paper.width = paper.height = 64;
  paper.toBlob((picture) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([picture], "a.png", { type: "image/png" }));
    document.querySelector("dialog.cs-sketch").dispatchEvent(
      new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    done();
  });
})"""


def test_a_sheet_that_was_reloaded_or_dropped_on_leaves_no_entry_behind(open_page: Open) -> None:
    page = open_page("/")
    ask(page, "blue")
    opened(page)
    page.reload()
    page.wait_for_selector("#clipsearch[data-ready]")
    expect(page.locator(DIALOG)).to_be_visible()
    page.keyboard.press("Escape")
    until(page, "!history.state?.sheet")
    opened(page)
    page.evaluate(DROP)
    expect(page.locator(".cs-chip img")).to_be_visible()
    expect(page.locator(DIALOG)).to_be_hidden()
    page.go_back()
    expect(page.locator(".cs-chip")).to_be_hidden()
    expect(page.locator(".cs-query")).to_have_value("blue")
    expect(page.locator(DIALOG)).to_be_hidden()


def test_fingers_and_pens_draw(open_page: Open) -> None:
    page = open_page(**PHONE)
    at = opened(page)
    session = page.context.new_cdp_session(page)

    def finger(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    choose(page, "Width 2")
    finger("touchStart", at(0.2, 0.2))
    for n in range(1, 9):
        finger("touchMove", at(0.2, 0.2 + 0.6 * n / 8))
        page.wait_for_timeout(16)
    finger("touchMove", at(0.2, 0.8), at(0.7, 0.7))  # another finger, which holds the phone
    finger("touchEnd")
    page.wait_for_timeout(100)
    assert colour(page, 0.2, 0.5) == [96, 96, 96]
    assert colour(page, 0.7, 0.7) == WHITE
    assert page.evaluate("[scrollY, document.querySelector('dialog.cs-sketch').scrollTop]") == [0, 0]

    def pen(kind: str, place: tuple[float, float], force: float) -> None:
        more = {"button": "left", "clickCount": 1, "pointerType": "pen", "force": force}
        session.send("Input.dispatchMouseEvent", {"type": kind, "x": place[0], "y": place[1], "buttons": 1, **more})

    areas = []
    for row, force in ((0.3, 0.1), (0.6, 0.9)):
        before = inked(page)
        pen("mousePressed", at(0.4, row), force)
        for n in range(1, 7):
            pen("mouseMoved", at(0.4 + 0.08 * n, row), force)
        pen("mouseReleased", at(0.88, row), force)
        areas.append(inked(page) - before)
    assert areas[0] > 0
    assert areas[1] > 1.7 * areas[0]


@pytest.mark.parametrize("size", ["desktop", "phone", "small phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sheet_fits_is_accessible_and_white_in_the_dark(open_page: Open, size: str, scheme: str) -> None:
    windows: dict[str, Any] = {
        "desktop": {"viewport": {"width": 1440, "height": 900}},
        "phone": PHONE,
        "small phone": {**PHONE, "viewport": {"width": 320, "height": 560}},
    }
    width = windows[size]["viewport"]["width"]
    page = open_page(color_scheme=scheme, **windows[size])
    box = page.locator(".cs-query").bounding_box()
    assert box is not None
    assert box["width"] > (80 if size == "small phone" else 140)  # room to type beside the buttons
    at = opened(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(f"(d => d.scrollWidth - d.clientWidth)(document.querySelector('{DIALOG}'))") <= 0
    if size != "small phone":
        assert page.evaluate(f"(d => d.scrollHeight - d.clientHeight)(document.querySelector('{DIALOG}'))") <= 0
    for n, name in enumerate(("Black", "Gray", "Red", "Yellow", "Green", "Blue")):
        choose(page, name)
        choose(page, f"Width {n % 4 + 1}")
        stroke(page, at(0.1 + 0.13 * n, 0.2), at(0.2 + 0.13 * n, 0.8))
    assert colour(page, 0.03, 0.03) == WHITE
    assert page.evaluate(f"getComputedStyle(document.querySelector('{PAPER}')).backgroundColor") == "rgb(255, 255, 255)"
    expect(page.locator(DIALOG)).to_contain_text("76 %")
    expect(page.locator(DIALOG)).to_contain_text("5 %")
    assert axe_findings(page, f"{size}, {scheme}") == []
