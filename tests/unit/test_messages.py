"""The page's sentences in its languages: which a browser gets, and that none is missing, left over or cut."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

import clipsearch
from clipsearch import errors
from clipsearch.errors import MalformedQuery
from clipsearch.indexer import ignore
from clipsearch.pictures import folders
from clipsearch.query import parse_query
from clipsearch.query.fields import FILTERS, KINDS
from clipsearch.query.hints import hints
from clipsearch.records import COLORS, SKIP_STATUSES
from clipsearch.search.confidence import bank_things
from clipsearch.sentences import Sentence, sentence, told
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.security import LOGIN_TEXTS
from clipsearch.ui.languages import ENGLISH, Message, choose, read_languages, sent
from clipsearch.ui.page import add_page
from tests.support.fake_encoder import FakeEncoder
from tests.support.javascript import literals
from tests.support.pictures import fill

PACKAGE = Path(clipsearch.__file__).parent
ASSETS = PACKAGE / "ui" / "assets"
LANGUAGES = read_languages()
FORMS = {
    "en": {"one", "other"}, "de": {"one", "other"}, "es": {"one", "many", "other"}, "fr": {"one", "many", "other"},
    "zh-Hans": {"other"}, "ja": {"other"},
}  # fmt: skip
"""The plural forms that CLDR has for each language. The test in Chromium compares them with the browser's."""
FAMILIES = {
    "band.{}": ("strong", "maybe", "unlikely"),
    "detail.only_{}": ("person", "keyword", "column"),
    "example.{}": (
        name for name, one in FILTERS.items() if one.control and one.control.placeholder and not one.control.options
    ),
    "facet.{}": ("year", "folder", "camera", "type", "tag", "keyword", "person"),
    "filter.{}": (name for name, one in FILTERS.items() if one.control),
    "map.{}": ("alike", "earth"),
    "map.{}_label": ("alike", "earth"),
    "map.{}_title": ("alike", "earth"),
    "option.{}.{}": (
        *(f"color.{one}" for one in COLORS), *(f"is.{one}" for one in KINDS),
        *(f"orientation.{one}" for one in ("landscape", "portrait", "square")),
    ),
    "theme.{}": ("auto", "light", "dark"),
    "view.{}": ("search", "map", "status"),
    "where.{}": ("strong", "maybe", "unlikely"),
}  # fmt: skip
"""Keys that the page puts together, with what it puts in."""
FAMILIES = {pattern: tuple(parts) for pattern, parts in FAMILIES.items()}
NOT_SAID = {
    "AbortError", "Arrow", "ArrowDown", "ArrowLeft", "ArrowRight", "ArrowUp", "Backspace", "End", "Enter",
    "Escape", "Event", "Files", "Home", "NothingIndexed", "OtherIndex", "PageDown", "PageUp", "POST", "SearchExists",
    "Tab", "TagExists", "TooLarge", "UTC", "clipsearch index ./photos", "the picture",
    "input:not([type=checkbox]), textarea, select",
}  # fmt: skip
"""Texts in the page's program that look like words for people, and are names of keys and errors."""


OF_THE_SERVER = ("said.", "error.", "skipped.", "left_out.", "thing.", "login.")
"""How keys begin of what the server says."""


def forms(message: Message) -> Iterable[str]:
    return [message] if isinstance(message, str) else message.values()


def placeholders(message: Message) -> list[set[str]]:
    return [set(re.findall(r"\{(\w+)\}", form)) for form in forms(message)]


def used_keys() -> set[str]:
    """The keys that the page's program asks for."""
    keys = set()
    for file in ASSETS.glob("*.js"):
        for text, line, before in literals(file.read_text(encoding="utf-8")):
            asked = re.search(r"\bt\((?:[^()]*\?[^():]*:?\s*|[^()]*\?\s*\"\"\s*:\s*)?$", before)
            if text.startswith(("help.", *OF_THE_SERVER)) or not asked:
                continue
            if "{}" in text:
                assert text in FAMILIES, f"{file.name}:{line}: which keys can {text} be?"
                continue
            keys.add(text)
    for pattern, parts in FAMILIES.items():
        keys |= {pattern.replace("{}", part, 1).replace(".{}", "") for part in parts}
    return keys


def help_keys() -> set[str]:
    """The keys of the tables in help.js."""
    source = (ASSETS / "help.js").read_text(encoding="utf-8")
    keys = {"help.title"}
    for part, table in re.findall(r'part\("(\w+)", (\w+)', source):
        rows = re.search(rf"const {table} = (\[.*?\]);", source, re.DOTALL)
        assert rows is not None
        keys.add(f"help.{part}")
        for what, key in re.findall(r'\[(null|"[^"]*"), "(\w+)"\]', rows[1]):
            keys |= {f"help.{part}.{key}", *([f"help.{part}.{key}.what"] if what == "null" else [])}
    return keys


def test_the_page_asks_for_every_message_and_for_no_other() -> None:
    asked = used_keys() | help_keys() | {"help.open"}
    known = {key for key in LANGUAGES[ENGLISH].messages if not key.startswith(OF_THE_SERVER)}
    assert asked - known == set()
    assert known - asked == set()


def english_of_the_server() -> dict[str, Message]:
    """What `sentence` is called with in the whole package, by code, as files of messages have it."""
    found: dict[str, Message] = {}
    files = [file for part in (PACKAGE, PACKAGE / "indexer", PACKAGE / "ui") for file in part.rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sentence"):
                continue
            code, other = (ast.literal_eval(argument) for argument in node.args)
            one = [ast.literal_eval(given.value) for given in node.keywords if given.arg == "one"]
            forms = [re.sub(r"\{(\w+)(?::[^{}]*)?\}", r"{\1}", form) for form in (*one, other)]
            message: Message = dict(zip(("one", "other"), forms, strict=True)) if one else forms[0]
            assert found.setdefault(code, message) == message, f"{file.name}: {code} has another English elsewhere"
    return found


def test_every_sentence_of_the_server_is_in_the_file_of_english_messages() -> None:
    known = {
        key.removeprefix("said."): one for key, one in LANGUAGES[ENGLISH].messages.items() if key.startswith("said.")
    }
    assert known == english_of_the_server()


def test_errors_and_reasons_of_the_server_are_in_the_file() -> None:
    keys = [key.split(".", 1) for key in LANGUAGES[ENGLISH].messages if key.startswith(OF_THE_SERVER)]
    of_other_modules = {"Overloaded", "Stopping", "OriginalsClosed", "WrongInput", "Refused", "Failed", "TooLarge"}
    assert {key for kind, key in keys if kind == "error"} - of_other_modules <= set(vars(errors))
    assert [key for kind, key in keys if kind == "skipped"] == list(SKIP_STATUSES)
    left_out = {key for kind, key in keys if kind == "left_out"}
    assert {_slug(reason) for reason in {*folders.FOLDERS.values(), ignore.HIDDEN}} <= left_out
    assert {key for kind, key in keys if kind == "login"} == set(LOGIN_TEXTS) - {"language"}
    assert all(LANGUAGES[ENGLISH].messages[f"login.{key}"] == LOGIN_TEXTS[key] for kind, key in keys if kind == "login")
    assert [key for kind, key in keys if kind == "thing"] == [_slug(thing) for thing in bank_things()]


def _slug(english: str) -> str:
    """How `named` of messages.js makes a key of a few words."""
    return re.sub(r"\W+", "_", english.lower())


def test_a_sentence_is_its_english_and_can_be_said_otherwise() -> None:
    inner = sentence("write", "Write {examples}.", examples=("a", "b", "c"))
    assert inner == "Write a, b or c."
    whole = sentence("x", "{n:,} {what}", one="one {what}", n=1200, what=inner)
    assert whole == "1,200 Write a, b or c."
    assert sentence("x", "{n:,} {what}", one="one {what}", n=1, what="y") == "one y"
    assert told(whole) == {
        "code": "x",
        "parts": {
            "n": 1200,
            "what": {"code": "write", "parts": {"examples": ["a", "b", "c"]}, "english": "Write a, b or c."},
        },
    }
    assert told("no sentence") is None


@pytest.mark.parametrize(
    "query", ["size:x", "dog +", "(folder:a", "near:1,2", "is:wrong", '"dog', "rating:-5", "color:wrong"]
)
def test_what_is_wrong_with_a_query_can_be_said_in_other_languages(query: str) -> None:
    with pytest.raises(MalformedQuery) as caught:
        parse_query(query)
    assert all(isinstance(one, Sentence) for one in caught.value.sentences())
    assert len(caught.value.sentences()) == 2


@pytest.mark.parametrize("query", ["date:2023", "camara:canon", "size>5MB", "beach in 2019", "beach without people"])
def test_hints_can_be_said_in_other_languages(query: str) -> None:
    parsed = parse_query(query)
    lines = [*parsed.offers, *hints(parsed)]
    assert lines
    assert all(isinstance(line, Sentence) for line in lines)


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_language_has_every_message_with_its_parts_and_plural_forms(tag: str) -> None:
    english, messages = LANGUAGES[ENGLISH].messages, LANGUAGES[tag].messages
    assert list(messages) == list(english)  # in the same order: so that the files can be read side by side
    for key, message in messages.items():
        own = english[key]
        assert all(form.strip() == form and form for form in forms(message)), key
        if isinstance(own, dict):
            assert isinstance(message, dict), key
            assert set(message) == FORMS[tag], key
            wanted = set().union(*placeholders(own))
            found = placeholders(message)
            assert set().union(*found) == wanted, key
            assert all(wanted - parts <= {"n"} for parts in found), key  # "one path copied" needs no number
        else:
            assert isinstance(message, str), key
            assert placeholders(message) == placeholders(own), key


@pytest.mark.parametrize("file", sorted(ASSETS.glob("*.js")), ids=lambda file: file.name)
def test_the_program_of_the_page_has_no_sentence_of_its_own(file: Path) -> None:
    looks_said = re.compile(r"^[A-Z][a-z]+|[A-Za-z]{2,}[,.:;]? [A-Za-z]{2,}|[A-Za-z]{3,}(?:…|\.$|: )")
    found = [
        f"{file.name}:{line}: {text}"
        for text, line, before in literals(file.read_text(encoding="utf-8"))
        if looks_said.search(text) and text not in NOT_SAID and not _is_for_programs(text, before)
    ]
    assert found == []


def _is_for_programs(text: str, before: str) -> bool:
    """Whether a text is a selector, a font, a policy, or one that is matched with others."""
    calls = re.search(r"(?:querySelector(?:All)?|closest|matches|matchMedia|split|test|getContext|import)\($", before)
    return bool(calls) or bool(re.search(r"(?:font|FONT|\bfrom)\s*=?\s*$", before)) or text.startswith(("./", "cs-"))


def test_sentences_in_the_program_are_found() -> None:
    source = 'a("Search"); b(`${n} pictures are here`); // "Not this"\nc(/"Nor this"/.test("x"), `x ${f("or this")}`);'
    assert [one.text for one in literals(source)] == ["Search", "{} pictures are here", "x", "or this", "x {}"]


@pytest.mark.parametrize(
    ("accepted", "tag"),
    [
        ("de", "de"), ("de-AT,de;q=0.9,en;q=0.8", "de"), ("en-GB,de;q=0.9", "en"), ("nl,fr;q=0.5,de;q=0.7", "de"),
        ("nl,pt", "en"), ("", "en"), ("*", "en"), ("zh-CN", "zh-Hans"), ("zh-TW,zh;q=0.9", "zh-Hans"),
        ("zh-TW,zh;q=0.9,en-US;q=0.8,en;q=0.7", "zh-Hans"), ("zh-TW", "zh-Hans"), ("zh-TW,nl", "zh-Hans"),
        ("zh-HK,en-GB;q=0.8", "en"), ("zh-Hant,de;q=0.5", "de"), ("zh-Hant-TW,ja,en", "ja"),
        ("zh-SG,en", "zh-Hans"), ("zh,en", "zh-Hans"), ("zh-Hans-HK,en", "zh-Hans"),
        ("zh-Hant-HK", "zh-Hans"), ("DE", "de"), ("de;q=0,fr", "fr"), ("es;q=abc,ja", "ja"), (";;q=1,,", "en"),
    ],
)  # fmt: skip
def test_a_browser_gets_the_language_that_it_wants_most(accepted: str, tag: str) -> None:
    if tag in LANGUAGES:
        assert choose(LANGUAGES, "", accepted) == tag


def test_a_choice_counts_more_than_the_browser() -> None:
    assert choose(["en", "de", "fr"], "fr", "de") == "fr"
    assert choose(["en", "de", "fr"], "xx", "de") == "de"


@given(accepted=st.text(st.sampled_from("dezhfrTWq=;,.-01 *\0ß"), max_size=40), chosen=st.text(max_size=5))
def test_any_header_gets_a_language(accepted: str, chosen: str) -> None:
    assert choose(LANGUAGES, chosen, accepted) in LANGUAGES


def test_what_a_language_lacks_is_english() -> None:
    some = {**LANGUAGES, "xx": LANGUAGES[ENGLISH]._replace(tag="xx", name="X", messages={"close": "x"})}
    messages = sent(some, "xx", "")["messages"]
    assert messages == {**LANGUAGES[ENGLISH].messages, "close": "x"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    photos = tmp_path_factory.mktemp("languages") / "photos"
    fill(photos, 4)
    encoder = FakeEncoder()
    index = clipsearch.index(photos, encoder=encoder).index
    app = create_app([index], encoder=encoder, interface=add_page, options=ServerOptions(token="secret"))
    with TestClient(app, base_url="http://127.0.0.1:7860", headers={"authorization": "Bearer secret"}) as client:
        yield client


def test_the_document_comes_in_one_language(client: TestClient) -> None:
    for accepted, cookie, tag in (
        ("de-CH,fr;q=0.9", "", "de"),
        ("de", "ja", "ja"),
        ("nl", "", "en"),
        ("de", "<b>", "de"),
    ):
        headers = {"accept-language": accepted, "cookie": f"clipsearch_language={cookie}"}
        answer = client.get("/", headers=headers)
        assert f'<html lang="{tag}">' in answer.text
        assert answer.headers["content-language"] == tag
        told = re.search(r'id="clipsearch-messages">(.*?)</script>', answer.text)
        assert told is not None
        data = json.loads(told[1])
        assert (data["language"], data["chosen"]) == (tag, cookie if cookie in LANGUAGES else "")
        assert data["messages"] == LANGUAGES[tag].messages
        assert len(told[1].encode()) < 40_000


def test_the_page_that_asks_for_the_token_speaks_the_language(client: TestClient) -> None:
    answer = client.get("/login", headers={"accept-language": "fr", "authorization": ""})
    assert '<html lang="fr">' in answer.text
    assert "Jeton" in answer.text
    wrong = client.post("/login", data={"token": "x"}, headers={"accept-language": "de", "authorization": ""})
    assert "Falsches Token." in wrong.text


def test_notices_and_errors_have_codes(client: TestClient) -> None:
    answer = client.post("/v1/gallery", json={"query": "date:2023", "all": True}).json()
    assert len(answer["sentences"]) == len(answer["notices"]) == 1
    assert answer["sentences"][0]["code"] == "no_filter"
    instead = answer["sentences"][0]["parts"]["instead"]
    assert (instead["code"], instead["english"]) == ("did_you_mean", "Did you mean after:2023 before:2024?")
    nothing = client.post("/v1/gallery", json={"query": "name:nowhere"}).json()
    assert nothing["sentences"][0]["parts"]["why"]["code"] == "none_matches"
    assert "sentences" not in client.post("/v1/search", json={"query": "date:2023"}).json()
    wrong = client.post("/v1/gallery", json={"query": "size:x"}).json()
    assert [one["code"] for one in wrong["sentences"]] == ["needs_number", "or_words"]
