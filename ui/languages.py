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

    `accepted`: the header Accept-Language. `de-AT` gets `de`, and `zh-TW` gets `zh-Hans`, if there is no nearer one.
    """
    known = {tag.lower(): tag for tag in tags}
    if chosen.lower() in known:
        return known[chosen.lower()]
    alike = {tag.split("-")[0]: known[tag] for tag in sorted(known, reverse=True)}
    for wanted in _in_order(accepted):
        parts = wanted.split("-")
        for length in range(len(parts), 0, -1):
            if (tag := known.get("-".join(parts[:length]))) is not None:
                return tag
        if parts[0] in alike:
            return alike[parts[0]]
    return ENGLISH


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
