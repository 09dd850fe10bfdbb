"""What stands beside a picture in a table or a tar: captions, a title, keywords, and any other column."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from clipsearch.records import PictureMetadata

CAPTION_COLUMNS = (
    "caption", "captions", "title", "text", "texts", "description", "sentence", "sentences", "comment", "alt_text",
    "alt", "raw",
)  # fmt: skip
KEYWORD_COLUMNS = ("keywords", "keyword", "tags")
MOST_CAPTION_BYTES = 2**20
MOST_COLUMNS = 64  # of a picture
MOST_LISTED = 16  # values of a column that is a list
LONGEST_VALUE = 500  # characters
LONGEST_CAPTION = 10_000


def plain_name(name: str) -> str:
    """A column's name as the lists here have it."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def clean_name(name: str) -> str:
    """A column's name as it is shown and searched."""
    return _clean(name, 100).replace("=", "_")


def captions_in(value: Any) -> list[str] | None:
    """The captions that a cell or a JSON value holds; None if it is something else."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        found: list[str] = []
        for item in value:
            if item is None:
                continue
            if isinstance(item, dict):  # {"raw": "a dog"}, as some caption sets have it
                item = next((item[name] for name in CAPTION_COLUMNS if name in item), None)
            if not isinstance(item, str):
                return None
            found.append(item)
        return found
    return None


def said_in(columns: Mapping[str, Any]) -> PictureMetadata:
    """What the columns of a picture say: its title, captions and keywords; all else as `name=value`."""
    title: str | None = None
    captions: list[str] = []
    keywords: list[str] = []
    rest: list[str] = []
    for name, value in columns.items():
        if value is None or not name.strip():
            continue
        plain = plain_name(name)
        if plain == "title" and isinstance(value, str):
            title = _clean(value, LONGEST_VALUE) or None
        elif plain in CAPTION_COLUMNS and (said := captions_in(value)) is not None:
            captions += [line for text in said for line in _clean(text, LONGEST_CAPTION, keep_lines=True).splitlines()]
        elif plain in KEYWORD_COLUMNS and isinstance(value, str | list):
            words = value.split(",") if isinstance(value, str) else value
            keywords += [word for one in words if (word := _text(one))]
        else:
            values = value[:MOST_LISTED] if isinstance(value, list) else [value]
            rest += [f"{clean_name(name)}={text}" for one in values if (text := _text(one))]
    return PictureMetadata(
        title=title,
        caption="\n".join(_distinct(captions)) or None,
        keywords=_distinct(keywords),
        columns=_distinct(rest)[:MOST_COLUMNS],
    )


def said_in_json(data: bytes) -> dict[str, Any] | None:
    """The columns in a `.json` beside a picture; None if it cannot be understood."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return {str(name): own for name, own in value.items()}
    return {"caption": value} if captions_in(value) else {}


def with_said(metadata: PictureMetadata, said: PictureMetadata) -> PictureMetadata:
    """What a picture says of itself, and what is said of it beside it. Its own title counts for more."""
    own = (metadata.caption or "").splitlines()
    captions = _distinct([*(said.caption or "").splitlines(), *own])
    return dataclasses.replace(
        metadata,
        title=metadata.title or said.title,
        caption="\n".join(captions) or None,
        keywords=_distinct([*metadata.keywords, *said.keywords]),
        columns=said.columns,
    )


def _distinct(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _text(value: Any) -> str:
    """A value of any other column as text; "" for what has none, such as bytes. A duration is in seconds."""
    if isinstance(value, str):
        return _clean(value, LONGEST_VALUE)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        value = Decimal(value // timedelta(microseconds=1)).scaleb(-6)
    if isinstance(value, Decimal):
        if not value.is_finite():
            return ""
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else f"{value:.9g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict | list | tuple):
        try:
            told = json.dumps(_plain(value), ensure_ascii=False, default=lambda one: _text(one) or None)
            return _clean(told, LONGEST_VALUE)
        except (TypeError, ValueError, RecursionError):
            return ""
    isoformat = getattr(value, "isoformat", None)  # dates of Arrow
    return _clean(str(isoformat()), LONGEST_VALUE) if callable(isoformat) else ""


def _plain(value: Any) -> Any:
    """A value as JSON has it: with keys that are texts, as those of a map need not be."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else _text(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _clean(text: str, longest: int, *, keep_lines: bool = False) -> str:
    """A text without what no letter is, and not too long."""
    text = text[: 4 * longest].encode("utf-8", "replace").decode("utf-8")
    lines = text.splitlines() if keep_lines else [text]
    clean = [" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in lines]
    return "\n".join(line for line in clean if line)[:longest].strip()
