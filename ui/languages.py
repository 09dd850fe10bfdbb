"""The languages of the page: the file of messages of each (`messages/`), and which one a browser gets.

A browser gets the messages of one language, in the document. What its file lacks is English, key by key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, NamedTuple

COOKIE = "clipsearch_language"
"""What the page keeps a choice in, so that the document comes in that language."""
ENGLISH = "en"
_TRADITIONAL = {"tw", "hk", "mo"}
"""Regions that write Chinese in traditional characters (CLDR's likely subtags)."""

Message = str | dict[str, str]
"""A sentence with `{parts}`; or one for each plural form of the part `n`, by CLDR's names of forms."""


class Language(NamedTuple):
    """A language: its tag, how it calls itself, and its messages by key."""

    tag: str
    name: str
    messages: Mapping[str, Message]


def read_languages() -> dict[str, Language]:
    """The languages that have a file, by tag, in the order of their tags."""
    files = [file for file in (resources.files("clipsearch.ui") / "messages").iterdir() if file.name.endswith(".json")]
    found = (Language(**json.loads(file.read_text(encoding="utf-8"))) for file in files)
    return {language.tag: language for language in sorted(found)}


def choose(tags: Iterable[str], chosen: str, accepted: str) -> str:
    """The tag of the language to show: the one that was chosen, else the first of those that are accepted.

    `accepted`: the header Accept-Language. `de-AT` gets `de`, if there is no nearer one. Another script is no other
    region: `zh-TW` gets `zh-Hans` only where nothing else that is accepted is there, or plain `zh` comes first.
    """
    known = {tag.lower(): tag for tag in tags}
    if chosen.lower() in known:
        return known[chosen.lower()]
    in_order = _in_order(accepted)
    for wanted in in_order:
        parts = wanted.split("-")
        for length in range(len(parts), 0, -1):
            if (tag := known.get("-".join(parts[:length]))) is not None:
                return tag
        if (tag := next((known[tag] for tag in sorted(known) if _written(tag) == _written(wanted)), None)) is not None:
            return tag
    for wanted in in_order:
        if (
            tag := next((known[tag] for tag in sorted(known) if _language(tag) == _language(wanted)), None)
        ) is not None:
            return tag
    return ENGLISH


def _language(tag: str) -> str:
    return tag.split("-", maxsplit=1)[0]


def _written(tag: str) -> tuple[str, bool]:
    """A language, and whether in traditional characters: of a tag in small letters."""
    language, *others = tag.split("-")
    is_traditional = "hant" in others or bool(_TRADITIONAL & set(others) and "hans" not in others)
    return language, language == "zh" and is_traditional


def sent(languages: Mapping[str, Language], tag: str, chosen: str) -> dict[str, Any]:
    """What the page gets: see `assets/messages.js`."""
    return {
        "language": tag,
        "chosen": chosen if chosen in languages else "",
        "languages": [(language.tag, language.name) for language in languages.values()],
        "messages": {**languages[ENGLISH].messages, **languages[tag].messages},
    }


def _in_order(accepted: str) -> list[str]:
    """The tags of an Accept-Language header, in small letters, the most wanted first."""
    found: list[tuple[float, str]] = []
    for part in accepted.split(","):
        tag, *parameters = (one.strip().lower() for one in part.split(";"))
        weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        try:
            found.append((float(weight), tag))
        except ValueError:
            continue
    return [tag for weight, tag in sorted(found, key=lambda one: -one[0]) if tag and weight > 0]
