"""Sentences for people, in English, that can be said in other languages, too: a code, and the parts that were put in.

A sentence is a text and is used as one. Only the page looks at the code: `ui/messages/` has what other languages say.
"""

from __future__ import annotations

from typing import Any


class Sentence(str):
    """A sentence. `parts`: texts, numbers, other sentences, or tuples of texts of which any one is meant."""

    code: str
    parts: dict[str, Any]


def sentence(code: str, english: str, /, *, one: str | None = None, **parts: Any) -> Sentence:
    """Say `english` with its `{parts}` put in, or `one` where the part `n` is 1. A code has the same English always."""
    template = one if one is not None and parts["n"] == 1 else english
    said = Sentence(
        template.format(**{name: _any_of(part) if isinstance(part, tuple) else part for name, part in parts.items()})
    )
    said.code, said.parts = code, parts
    return said


def told(text: object) -> dict[str, Any] | None:
    """A sentence as JSON has it: its code and parts, and of those that are sentences the English. None: it is none."""
    if not isinstance(text, Sentence):
        return None
    parts = {name: _told_part(part) for name, part in text.parts.items()}
    return {"code": text.code, "parts": parts}


def _told_part(part: Any) -> Any:
    if isinstance(part, tuple):
        return list(part)
    return {**said, "english": str(part)} if (said := told(part)) is not None else part


def _any_of(texts: tuple[str, ...]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(part for part in (", ".join(texts[:-1]), texts[-1]) if part)
