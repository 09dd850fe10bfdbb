"""Reads JavaScript as far as tests need it: the texts in it."""

from __future__ import annotations

import re
from typing import NamedTuple

_BEFORE_REGEX = re.compile(r"(?:^|[(,=:\[!&|?{};+\-*%~^<>]|\breturn|=>)\s*$")
_REGEX = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\[\n])+/[a-z]*")
_PLAIN = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\\n])*)\1""")


class Literal(NamedTuple):
    """A text in a program; of a template, with `{}` for each expression in it."""

    text: str
    line: int
    before: str  # the last characters of code before it


def literals(source: str) -> list[Literal]:
    """Every text in a program, in order of their ends, without comments and regular expressions."""
    found: list[Literal] = []
    _scan(source, 0, found, in_template=False)
    return found


def _scan(source: str, at: int, found: list[Literal], *, in_template: bool) -> int:
    """Read code from `at` on, to the end or to the brace that ends an expression of a template. Returns its end."""
    code, depth = "", 0
    while at < len(source):
        letter = source[at]
        if source.startswith("//", at):
            end = source.find("\n", at)
            at = len(source) if end < 0 else end
        elif source.startswith("/*", at):
            at = source.index("*/", at) + 2
        elif letter in "\"'" and (match := _PLAIN.match(source, at)):
            found.append(Literal(match[2], _line(source, at), code[-60:]))
            at, code = match.end(), code + '""'
        elif letter == "`":
            at = _template(source, at + 1, found, code)
            code += '""'
        elif letter == "/" and _BEFORE_REGEX.search(code) and (match := _REGEX.match(source, at)):
            at, code = match.end(), code + "/ /"
        else:
            depth += (letter == "{") - (letter == "}")
            if in_template and depth < 0:
                return at + 1
            code += letter
            at += 1
    return at


def _template(source: str, at: int, found: list[Literal], before: str) -> int:
    """Read a template whose first letter is at `at`; returns where it ends."""
    text, line = "", _line(source, at)
    while source[at] != "`":
        if source[at] == "\\":
            text, at = text + source[at + 1], at + 2
        elif source.startswith("${", at):
            text, at = text + "{}", _scan(source, at + 2, found, in_template=True)
        else:
            text, at = text + source[at], at + 1
    found.append(Literal(text, line, before[-60:]))
    return at + 1


def _line(source: str, at: int) -> int:
    return source.count("\n", 0, at) + 1
