"""The page in each of its languages, in a real browser: no English is left, plurals and dates are the language's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Page, expect

from clipsearch.ui.languages import ENGLISH, Language, read_languages
from clipsearch.ui.page import add_page
from tests.browser.axe import axe_findings
from tests.browser.conftest import PATIENCE_MS, Open, Site, serve
from tests.browser.test_page import PHONE, ask, settled
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture
from tests.unit.test_messages import FORMS

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

LANGUAGES = read_languages()
OTHERS = [tag for tag in LANGUAGES if tag != ENGLISH]
ASKED = ("blue", "date:2023", "blue -beach without people", "size:x", "name:nothing-of-this-name")
MADE_UP = "qps-ploc"  # every message in brackets: what is not in any is not from the file
TEXTS = """() => {
  const shown = (node) => node.nodeType === 1 && node.checkVisibility({ visibilityProperty: true });
  const found = [];
  const walk = (node) => {
    if (node.nodeType === 3 && node.data.trim()) found.push(node.data.trim());
    const tag = node.tagName ?? "";
    if (/^(SCRIPT|STYLE|CODE)$/.test(tag) || (tag && tag !== "OPTION" && !shown(node))) return;
    for (const name of ["title", "aria-label", "placeholder", "alt", "aria-valuetext"]) {
      const text = node.getAttribute?.(name);
      if (text) found.push(text);
    }
    for (const child of node.childNodes) walk(child);
  };
  walk(document.body);
  return found;
}"""

# how wide a list of options must be for the name of each: with its padding, border and arrow
WIDEST_OPTION = """selector => {
  const copy = document.querySelector(selector).cloneNode(true);
  for (const option of copy.options) option.hidden = option.disabled = false;
  copy.style.maxWidth = copy.style.width = "max-content";
  document.querySelector(selector).parentNode.append(copy);
  const { width } = copy.getBoundingClientRect();
  copy.remove();
  return width;
}"""


def texts(page: Page) -> set[str]:
    """What people read or hear on the page as it is now."""
    return {str(text) for text in page.evaluate(TEXTS)}


def every_part(page: Page) -> Iterator[tuple[str, set[str]]]:
    """Go through the page, and tell what is read at each place."""
    settled(page)
    yield "all pictures", texts(page)
    page.click(".cs-filter")
    page.wait_for_selector(".cs-facet-values h2", state="attached")
    yield "filters", texts(page)
    page.click(".cs-filter")
    for query in ASKED:
        ask(page, query)
        yield query, texts(page)
    page.fill(".cs-query", "")
    page.click(".cs-query")
    page.wait_for_selector(".cs-suggested")
    yield "suggestions", texts(page)
    page.press(".cs-query", "Escape")
    ask(page, "blue")
    page.click(".cs-tile[data-n='0'] .cs-up", force=True)
    settled(page)
    page.click(".cs-tile[data-n='0'] .cs-check", force=True)
    yield "selection and thumbs", texts(page)
    page.click(".cs-star")
    yield "saved searches", texts(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.click(".cs-tile[data-n='0'] .cs-open")
    page.wait_for_selector(".cs-detail dl")
    page.wait_for_timeout(300)
    yield "viewer", texts(page)
    page.keyboard.press("?")
    page.wait_for_selector("dialog.cs-help[open]")
    yield "help", texts(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    for view in ("map", "status"):
        page.click(f".cs-tab[data-view={view}]")
        page.wait_for_timeout(1000)
        yield view, texts(page)
    page.click(".cs-index[data-name=photos] button")
    page.wait_for_selector(".cs-skipped table")
    yield "skipped files", texts(page)


def sentences(language: Language) -> set[str]:
    """The messages of a language without their parts."""
    forms = [form for one in language.messages.values() for form in ([one] if isinstance(one, str) else one.values())]
    return {re.sub(r"\{\w+\}", "", form).strip() for form in forms}


@pytest.mark.parametrize("tag", OTHERS)
def test_no_english_is_left(open_page: Open, tag: str) -> None:
    page = open_page("/", locale=tag.removesuffix("-Hans"))
    assert page.evaluate("document.documentElement.lang") == tag
    english = sentences(LANGUAGES[ENGLISH]) - sentences(LANGUAGES[tag])
    own = sentences(LANGUAGES[tag])
    seen: set[str] = set()
    for place, found in every_part(page):
        left = {text for text in found if re.sub(r"[\d.,]+", "", text).strip() in english}
        assert left == set(), f"{place}: {left}"
        seen |= found
        if place in ("all pictures", "viewer", "help"):
            assert axe_findings(page, f"{tag}: {place}") == []
    assert len(seen & own) > 100


def test_every_text_is_a_message_or_a_name(open_page: Open, site: Site) -> None:
    made = {
        key: f"⟦{one}⟧" if isinstance(one, str) else {form: f"⟦{text}⟧" for form, text in one.items()}
        for key, one in LANGUAGES[ENGLISH].messages.items()
    }
    site.page.languages[MADE_UP] = Language(MADE_UP, "⟦⟧", made)
    try:
        page = open_page("/")
        page.context.add_cookies([{"name": "clipsearch_language", "value": MADE_UP, "url": site.address}])
        page.reload()
        page.wait_for_selector("#clipsearch[data-ready]")
        assert page.evaluate("document.documentElement.lang") == MADE_UP
        left = {
            (place, text)
            for place, found in every_part(page)
            for text in found
            if "⟦" not in text and not _is_a_name(text, site)
        }
        assert left == set()
    finally:
        del site.page.languages[MADE_UP]


def _is_a_name(text: str, site: Site) -> bool:
    """Whether a text is data: a name, a number with its unit, a date, a key, what somebody typed, or a language."""
    names = {"clipsearch", "photos", "scans", "plain", "graded", "fake", "SecretMaker", "JPEG", "PNG", "SVG"}
    names |= {language.name for language in LANGUAGES.values()}
    known = any(name in text for name in (*names, "fake-", ".jpg", ".png", ".svg", str(site.photos.parent), "like:"))
    formats = text in _formats()
    unit = re.fullmatch(r"[\W\d]*(?:(?:bytes?|kB|MB|px|sec|min|hr|km|ms|AM|PM|[A-Z][a-z]{2})[\W\d]*)*", text)
    key = re.fullmatch(r"Enter|CSV|[a-z]|[\W\d]+|\d+-\d+.*|\S+:", text)
    month = re.fullmatch(r"[A-Z][a-z]+ \d{4}", text)
    return bool(known or formats or unit or key or month or text in ASKED)


def _formats() -> set[str]:
    from clipsearch.ui.tables import extensions

    return {name for format in extensions() for name in format}  # as facets and the list of filters call them


@pytest.mark.parametrize("tag", OTHERS)
def test_first_use_has_no_english(open_page: Open, tmp_path: Path, tag: str) -> None:
    photos = tmp_path / "fotos"
    photos.mkdir()
    for number in range(5):
        picture(number, size=(160, 120)).save(photos / f"{number}.png")
    (photos / "@eaDir").mkdir()
    encoder = FakeEncoder()
    english = sentences(LANGUAGES[ENGLISH]) - sentences(LANGUAGES[tag])
    for site in serve([], photos, encoder, interface=partial(add_page, folder=photos, encoder=encoder)):
        page = open_page("/", at=site, locale=tag.removesuffix("-Hans"))
        expect(page.locator(".cs-start .cs-big")).to_be_visible()
        found = texts(page)
        assert {text for text in found if re.sub(r"[\d.,]+", "", text).strip() in english} == set()
        assert any(str(LANGUAGES[tag].messages["left_out.folders_of_nas_systems"]) in text for text in found)
        page.click(".cs-start .cs-main")
        expect(page.locator(".cs-summary")).to_contain_text("5")


def test_plural_forms_are_those_of_the_browser(open_page: Open) -> None:
    page = open_page("/")
    for tag, forms in FORMS.items():
        known = page.evaluate("tag => new Intl.PluralRules(tag).resolvedOptions().pluralCategories", tag)
        assert set(known) == forms, tag


def test_a_language_is_chosen_in_the_help_and_remembered(open_page: Open) -> None:
    page = open_page("/?q=blue", locale="de-AT")
    expect(page.locator(".cs-summary")).to_contain_text("Treffer")
    page.keyboard.press("Escape")
    page.click(".cs-help-button")
    with page.expect_navigation():
        page.locator(".cs-language select:visible").select_option("ja")
    expect(page.locator(".cs-query")).to_have_attribute("placeholder", "画像を検索")
    assert page.evaluate("document.documentElement.lang") == "ja"
    page.goto(page.url.split("?")[0])
    expect(page.locator(".cs-query")).to_have_attribute("placeholder", "画像を検索")
    page.click(".cs-help-button")
    with page.expect_navigation():
        page.locator(".cs-language select:visible").select_option("")
    expect(page.locator(".cs-query")).to_have_attribute("placeholder", "Bilder durchsuchen")


@pytest.mark.parametrize("tag", LANGUAGES)
def test_nothing_overflows_a_phone(open_page: Open, tag: str) -> None:
    page = open_page("/?q=blue&all=1", locale=tag.removesuffix("-Hans"), **PHONE)
    settled(page)
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    page.click(".cs-filter")
    assert page.evaluate(wide) <= 0
    page.click(".cs-filter")
    page.click(".cs-tab[data-view=status]")
    expect(page.locator(".cs-language select:visible")).to_be_visible()
    assert page.evaluate(wide) <= 0
    page.click(".cs-tab[data-view=map]")
    assert page.evaluate(wide) <= 0


@pytest.mark.parametrize("tag", LANGUAGES)
def test_the_order_is_chosen_beside_the_number_of_results_on_phones(open_page: Open, tag: str) -> None:
    page = open_page("/?q=blue&all=1", locale=tag.removesuffix("-Hans"), **PHONE)
    settled(page)
    for width in (360, 390):
        page.set_viewport_size({"width": width, "height": 780})
        summary, order = (page.locator(f".cs-bar-row {name}").bounding_box() for name in (".cs-summary", "select"))
        assert summary is not None
        assert order is not None
        assert abs(summary["y"] + summary["height"] / 2 - order["y"] - order["height"] / 2) < 3, width
        assert summary["x"] + summary["width"] <= order["x"] + 1
        assert page.evaluate(WIDEST_OPTION, ".cs-bar-row select") <= order["width"], width
        toggles = [box for one in page.locator(".cs-toggle:visible").all() if (box := one.bounding_box())]
        assert len(toggles) == 3
        assert min(box["y"] for box in toggles) > order["y"]
        bar = page.locator(".cs-bar-row").bounding_box()
        assert bar is not None
        assert bar["height"] < 90, width
        assert all(box["x"] + box["width"] <= width for box in (*toggles, order))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        header = page.locator(".cs-header").bounding_box()
        assert header is not None
        assert header["height"] < 120, width
