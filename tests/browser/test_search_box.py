"""The search box suggests: fields and values of the index, recent searches, saved searches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Page, Route, expect

import clipsearch
from clipsearch.store.searches import make_search, save_search
from tests.browser.axe import axe_findings
from tests.browser.conftest import HOSTILE, PATIENCE_MS, Open, Site, serve
from tests.browser.test_page import PHONE, ask, asked, settled, shown
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

LIST = ".cs-suggest"
OPTIONS = ".cs-suggest [role=option]"


def write(page: Page, text: str) -> None:
    """Type, as a person does."""
    page.click(".cs-query")
    page.keyboard.type(text)


def labels(page: Page) -> list[str]:
    return page.locator(f"{OPTIONS} .cs-suggest-text").all_inner_texts()


def test_folders_and_fields_are_suggested_and_chosen_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    box = page.locator(".cs-query")
    assert box.get_attribute("role") == "combobox"
    expect(box).to_have_attribute("aria-expanded", "false")
    write(page, "plai")
    expect(page.locator(LIST)).to_be_visible()
    expect(box).to_have_attribute("aria-expanded", "true")
    assert labels(page) == ["plain"]
    assert box.get_attribute("aria-activedescendant") is None
    page.keyboard.press("ArrowDown")
    active = str(box.get_attribute("aria-activedescendant"))
    expect(page.locator(f"#{active}")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowDown")  # back to the box
    assert box.get_attribute("aria-activedescendant") is None
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator(LIST)).to_be_hidden()
    assert asked(page) == {"q": "folder:/plain"}
    assert sorted(shown(page)) == ["plain/blue.jpg", "plain/green.jpg", "plain/red.jpg", "plain/yellow.jpg"]
    expect(box).to_be_focused()


def test_a_field_is_completed_and_then_its_values_are_suggested(open_page: Open) -> None:
    page = open_page()
    write(page, "red ori")
    expect(page.locator(OPTIONS).first).to_contain_text("orientation:")
    page.locator(OPTIONS).first.click()
    expect(page.locator(".cs-query")).to_have_value("red orientation:")
    expect(page.locator(OPTIONS)).to_have_count(3)
    page.get_by_role("option", name="Square").click()
    settled(page)
    assert asked(page) == {"q": "red orientation:square"}


def test_escape_closes_the_list_and_enter_searches_for_what_was_typed(open_page: Open) -> None:
    page = open_page()
    write(page, "plain")
    expect(page.locator(LIST)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(LIST)).to_be_hidden()
    expect(page.locator(".cs-query")).to_be_focused()
    page.keyboard.type(" re")
    page.keyboard.press("Enter")
    settled(page)
    assert asked(page) == {"q": "plain re"}
    page.wait_for_timeout(300)
    expect(page.locator(LIST)).to_be_hidden()
    write(page, "d camer")
    expect(page.locator(LIST)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(LIST)).to_be_hidden()
    expect(page.locator(".cs-query")).to_have_value("plain red camer")


def test_recent_searches_are_kept_in_this_browser_only(open_page: Open) -> None:
    page = open_page()
    requests: list[str] = []
    for query in ("blue", HOSTILE, "name:red*", "like:3"):
        ask(page, query)
    ask(page, "")
    page.on("request", lambda one: requests.append(one.url))
    page.click(".cs-query")
    expect(page.locator(OPTIONS)).to_have_count(4)
    assert labels(page) == ["name:red*", HOSTILE, "blue", "Forget recent searches"]  # a row id is of one index
    assert requests == []
    page.get_by_role("option", name="blue").click()
    settled(page)
    assert asked(page) == {"q": "blue"}
    ask(page, "")
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator(OPTIONS)).to_have_count(4)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator(LIST)).to_be_hidden()
    assert page.evaluate("localStorage.getItem('cs-recent')") == "[]"
    page.keyboard.press("ArrowDown")  # from the box to the pictures, as ever
    expect(page.locator(".cs-open:focus")).to_have_count(1)


def test_typing_never_waits_for_suggestions(open_page: Open) -> None:
    page = open_page()
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)  # the server does not answer

    page.route("**/v1/suggest", hold)
    page.click(".cs-query")
    page.evaluate(
        """() => {
          const box = document.querySelector(".cs-query");
          for (const letter of "a plain pictu") {
            box.value += letter;
            box.dispatchEvent(new InputEvent("input", {bubbles: true}));
          }
        }"""
    )
    page.wait_for_timeout(600)
    assert [(one.request.post_data_json or {})["word"] for one in held] == [
        "pictu"
    ]  # keystrokes that follow each other
    page.keyboard.type("re")
    expect(page.locator(".cs-query")).to_have_value("a plain picture")
    page.keyboard.press("Enter")
    settled(page)
    assert asked(page) == {"q": "a plain picture"}
    for one in held:
        one.abort()
    page.wait_for_timeout(300)
    expect(page.locator(LIST)).to_be_hidden()


def test_the_list_is_accessible_and_fits_a_phone(open_page: Open) -> None:
    page = open_page()
    write(page, "c")
    expect(page.locator(LIST)).to_be_visible()
    assert axe_findings(page, "suggestions") == []
    for scheme in ("light", "dark"):
        phone = open_page(**PHONE, color_scheme=scheme)
        write(phone, "c")
        expect(phone.locator(LIST)).to_be_visible()
        box = phone.locator(LIST).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390


def test_file_names_are_offered_where_no_picture_is_a_strong_match(open_page: Open) -> None:
    page = open_page()
    ask(page, "graded 7")
    named = page.locator(".cs-named")
    expect(named).to_contain_text("1 picture has this in the file name")
    named.get_by_role("button").click()
    settled(page)
    assert asked(page) == {"q": "name:graded name:7"}
    assert shown(page) == ["graded 7.jpg"]
    for query in ("yellow", "name:graded", "graded -7", "qqqq"):  # shown, a filter, an expression, in no name
        ask(page, query)
        page.wait_for_timeout(300)
        expect(named).to_be_hidden()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    """A server of its own: of pictures whose index a test changes."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        picture(number).save(photos / f"{number}.png")
    encoder = FakeEncoder()
    yield from serve([clipsearch.index(photos, encoder=encoder).index], photos, encoder)


DIALOG = "dialog.cs-saved"


def test_searches_are_saved_opened_renamed_deleted_and_brought_back(open_page: Open, own: Site) -> None:
    page = open_page("/?q=name:2*&sort=date", at=own)
    page.click(".cs-star")
    page.fill(f"{DIALOG} .cs-save-as input", HOSTILE)
    page.press(f"{DIALOG} .cs-save-as input", "Enter")
    said = page.locator(f"{DIALOG} .cs-saved-said")
    expect(said).to_contain_text("Saved as")
    rows = page.locator(f"{DIALOG} li")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text(HOSTILE)
    assert axe_findings(page, "saved searches") == []
    page.fill(f"{DIALOG} .cs-save-as input", HOSTILE.upper())
    page.press(f"{DIALOG} .cs-save-as input", "Enter")
    expect(said).to_contain_text("Saved as")  # the same search under other capitals: one, and no error
    page.click(f"{DIALOG} [title^=Rename]")
    page.fill(f"{DIALOG} .cs-rename input", "twos")
    page.press(f"{DIALOG} .cs-rename input", "Enter")
    expect(rows.first.locator("strong")).to_have_text("twos")
    page.click(f"{DIALOG} [title^=Delete]")
    expect(rows).to_have_count(0)
    page.click(f"{DIALOG} .cs-saved-said button")
    expect(rows.first.locator("strong")).to_have_text("twos")
    page.keyboard.press("Escape")
    expect(page.locator(DIALOG)).to_be_hidden()
    (kept,) = page.request.get(f"{own.address}/v1/searches").json()["searches"]
    assert kept["unique"] is False  # of a list nothing is left out, also where a program asks it

    other = open_page("/", at=own)  # another browser sees it, and the box suggests it
    write(other, "two")
    other.get_by_role("option", name="twos").click()
    settled(other)
    assert asked(other) == {"q": "name:2*", "sort": "date"}
    assert shown(other) == ["2.png"]
    ask(other, "name:3*")
    other.click(".cs-star")
    other.fill(f"{DIALOG} .cs-save-as input", "Twos")
    other.press(f"{DIALOG} .cs-save-as input", "Enter")
    expect(other.locator(f"{DIALOG} .cs-saved-said")).to_contain_text("with this name")
    other.get_by_role("button", name="Replace").click()
    expect(other.locator(f"{DIALOG} .cs-saved-said")).to_contain_text("Saved as Twos")
    other.click(f"{DIALOG} .cs-saved-open")
    expect(other.locator(DIALOG)).to_be_hidden()
    assert asked(other)["q"] == "name:3*"


def test_an_answer_that_comes_late_takes_nothing_of_a_name_being_typed(open_page: Open, own: Site) -> None:
    page = open_page("/?q=name:2*", at=own)
    page.click(".cs-star")
    page.press(f"{DIALOG} .cs-save-as input", "Enter")
    expect(page.locator(f"{DIALOG} li")).to_have_count(1)
    late: list[Route] = []
    page.route(
        "**/v1/searches*", lambda route: late.append(route) if route.request.method == "GET" else route.continue_()
    )
    page.press(f"{DIALOG} .cs-save-as input", "Enter")
    page.click(f"{DIALOG} [title^=Rename]")
    name = page.locator(f"{DIALOG} .cs-rename input")
    name.press_sequentially("twos")
    while not late:
        page.wait_for_timeout(50)
    with page.expect_response("**/v1/searches*"):
        late.pop().continue_()
    page.unroute("**/v1/searches*")
    page.wait_for_timeout(200)
    expect(name).to_have_value("twos")
    expect(name).to_be_focused()
    name.press("Enter")
    expect(page.locator(f"{DIALOG} li strong")).to_have_text("twos")


def test_a_saved_search_by_row_id_opens_where_several_indexes_are_searched(open_page: Open, tmp_path: Path) -> None:
    encoder = FakeEncoder()
    indexes: list[Path] = []
    names = {}
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            picture(number + 3 * len(indexes)).save(tmp_path / folder / f"{folder} {number}.png")
        indexes.append(clipsearch.index(tmp_path / folder, encoder=encoder).index)
        save_search(indexes[-1], make_search(f"of {folder}", "like:2"))
        with clipsearch.open(indexes[-1], encoder=encoder) as photos:
            names[folder] = Path(photos.record(2).path).name
    for site in serve(indexes, tmp_path, encoder):
        page = open_page("/?index=*", at=site)
        for folder in ("one", "two"):
            page.click(".cs-star")
            page.locator(f"{DIALOG} .cs-saved-open", has_text=f"of {folder}").click()
            settled(page)
            expect(page.locator(".cs-problem")).to_be_hidden()
            assert asked(page)["index"] == "*"
            assert shown(page)[0] == names[folder]
        page = open_page("/?index=one", at=site)
        page.click(".cs-star")
        page.click(f"{DIALOG} .cs-saved-open")
        assert asked(page)["q"] == "like:2"


def test_a_long_query_is_cut_in_the_list_of_saved_searches(open_page: Open, own: Site) -> None:
    query = " OR ".join(f"name:{number}*" for number in range(100))
    page = open_page("/?q=name:2*", at=own)
    page.fill(".cs-query", query)
    page.press(".cs-query", "Enter")
    page.wait_for_timeout(500)
    page.click(".cs-star")
    page.fill(f"{DIALOG} .cs-save-as input", "many")
    page.press(f"{DIALOG} .cs-save-as input", "Enter")
    row = page.locator(f"{DIALOG} .cs-saved-open", has_text="many")
    expect(row).to_have_attribute("title", query)
    box = row.bounding_box()
    assert box is not None
    assert box["height"] < 100


def test_saved_searches_fit_a_phone(open_page: Open, own: Site) -> None:
    for scheme in ("light", "dark"):
        page = open_page("/?q=name:2*", at=own, **PHONE, color_scheme=scheme)
        page.click(".cs-star")
        page.fill(f"{DIALOG} .cs-save-as input", f"{scheme} {'long ' * 12}")
        page.press(f"{DIALOG} .cs-save-as input", "Enter")
        expect(page.locator(f"{DIALOG} .cs-saved-said")).to_contain_text("Saved as")
        page.wait_for_timeout(1000)
        expect(page.locator(".cs-pill")).to_be_hidden()  # the pictures are the same
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(f"document.querySelector('{DIALOG}').scrollWidth") <= 390
