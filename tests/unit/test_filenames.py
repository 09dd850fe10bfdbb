"""Names as bytes and as text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.filenames import for_parsers, from_bytes, is_utf8, native_path, readable, safe, to_bytes


@given(st.binary(max_size=40))
def test_bytes_become_text_and_bytes_again(raw: bytes) -> None:
    name = from_bytes(raw)
    assert to_bytes(name) == raw
    assert is_utf8(name) == (raw.decode("utf-8", "ignore").encode() == raw)
    readable(name).encode("utf-8")


values = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20).map(from_bytes),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(values)
def test_json_has_no_lone_surrogates(body: Any) -> None:
    clean = for_parsers(body)
    json.dumps(clean, ensure_ascii=False).encode("utf-8")
    if json.dumps(body, ensure_ascii=False).encode("utf-8", "replace") == json.dumps(body, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    ):
        assert json.loads(json.dumps(clean)) == json.loads(json.dumps(body))


def test_the_exact_bytes_stand_beside_a_name() -> None:
    found = for_parsers({"hits": [{"path": from_bytes(b"/a/\xe9\xff.jpg"), "id": 3}], "label": "\ud800"})
    assert found == {
        "hits": [{"path": "/a/\ufffd\ufffd.jpg", "path_bytes": "2f612fe9ff2e6a7067", "id": 3}],
        "label": "?",
    }


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_libraries_that_want_utf8_get_a_path(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with native_path(folder / "new.txt") as path:
        assert path.isascii()
        Path(path).write_text("x")
    assert (folder / "new.txt").read_text() == "x"
    with native_path(tmp_path / "é") as path:
        assert path == str(tmp_path / "é")


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",
        "क\u094d\u200dष",
        "👨\u200d👩\u200d👧",
        "🏴\U000e0067\U000e007f",
        "a\u00adb",
        "\u200fעברית\u200e",
        "❤\ufe0f",
    ],
)
def test_joiners_and_marks_of_direction_are_parts_of_words(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    "text",
    ["\x1b[2J", "\x07", "\x9b31m", "\x7f", "\u202eabc", "\u2066abc", "a\nb", "\r", "\u2028", "\x85", "\udce9", "\0"],
)
def test_what_terminals_obey_is_escaped(text: str) -> None:
    assert safe(text) != text and safe(text).isprintable() and safe(text).isascii()
