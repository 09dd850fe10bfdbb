"""What a base model's card says of its licence, so that a model trained from it goes on saying it."""

from __future__ import annotations

import re
from pathlib import Path

CARDS = ("MODEL_CARD.md", "README.md")
LONGEST = 600  # characters

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_NAMES_A_LICENCE = re.compile(r"\blicen[cs]e|\bnon-?commercial|\bApache-2\.0|\bCC[- ]BY", re.IGNORECASE)


def licence_note(directory: Path) -> str | None:
    """The licence of a model directory without one in its config, from its card; None if no card names one.

    That is `license:` at the head of the card (as model hubs have it), or the section named so, or the first
    paragraph or list item that names one; in one line.
    """
    for name in CARDS:
        try:
            text = (directory / name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        note = _from_card(text)
        if note:
            return note if len(note) <= LONGEST else note[: LONGEST - 4].rsplit(" ", 1)[0] + " ..."
    return None


def _from_card(text: str) -> str | None:
    head = _FRONT_MATTER.match(text)
    if head:
        for line in head[1].splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("license", "licence") and value.strip():
                return value.strip().strip("\"'")
        text = text[head.end() :]
    section = re.search(r"^#+ *licen[cs](?:e|es|ing)\b.*\n+([^#]+)", text, re.IGNORECASE | re.MULTILINE)
    if section:
        return _in_one_line(section[1])
    for block in re.split(r"\n\s*\n|\n(?=[-*#|] ?)", text):
        if not block.lstrip().startswith(("#", "|")) and _NAMES_A_LICENCE.search(block):
            return _in_one_line(block)
    return None


def _in_one_line(block: str) -> str:
    return re.sub(r"^[-*] ", "", " ".join(block.split()))
