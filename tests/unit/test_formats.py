"""The table of formats: consistent in itself, and with what is installed by the extras."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import UnreadablePicture
from clipsearch.pictures import formats
from clipsearch.pictures.formats import (
    FORMATS,
    UNSUPPORTED,
    Format,
    Kind,
    Unsupported,
    classify_name,
    format_of,
    identify,
)
from clipsearch.pictures.images import open_picture
from clipsearch.search.filters import _ext_fits

ROOT = Path(__file__).parents[2]
KNOWN: list[Format | Unsupported] = [*FORMATS, *UNSUPPORTED]
SIGNATURES = [signature for found in KNOWN for signature in found.signatures]


def test_every_kind_is_a_line_and_every_extension_means_one_format() -> None:
    assert {found.kind for found in FORMATS} == set(get_args(Kind))
    extensions = [extension for found in KNOWN for extension in found.extensions.split()]
    assert len(extensions) == len(set(extensions))
    assert all(extension == extension.lower().strip(".") for extension in extensions)
    for found in FORMATS:
        assert set(found.same.split()) <= set(found.extensions.split())
        assert found.signatures or found.test is not None
        assert found.plugin is not None or found.kind in ("RAW", "PDF", "MESH", "VIDEO")
        if found.plugin is not None and found.extra is None:
            assert hasattr(import_module(found.plugin[0]), found.plugin[1])


def test_an_extra_of_the_table_can_be_installed_and_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needing = [found for found in FORMATS if found.extra is not None]
    assert {found.kind for found in needing} >= {"HEIF", "RAW"}
    for found in needing:
        assert found.extra in extras and found.module is not None
        monkeypatch.setitem(sys.modules, found.module, None)  # as if it were not installed
        assert f"clipsearch[{found.extra}]" in formats.missing_extra(found.kind)
    heads = {"HEIF": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "RAW": b"FUJIFILMCCD-RAW" + bytes(100)}
    for kind, head in heads.items():
        with pytest.raises(UnreadablePicture) as caught:
            open_picture("x", content=head)
        assert (caught.value.status, caught.value.reason) == ("missing_extra", formats.missing_extra(kind))  # type: ignore[arg-type]


@given(
    st.lists(st.sampled_from([*SIGNATURES, b"RIFF", b"WEBP", b"ftyp", b"avif", b"\0"]) | st.binary(max_size=6)),
    st.sampled_from(["x", "x.nef", "x.tif", "x.jpg", ".x"]),
)
def test_any_bytes_can_be_looked_at(parts: list[bytes], name: str) -> None:
    head = b"".join(parts)
    kind = identify(head, name)
    if kind is not None:
        found = format_of(kind)
        assert head.startswith(found.signatures) or (found.test is not None and found.test(head, name))
    elif head.startswith(tuple(SIGNATURES)):
        assert formats.classify_unidentified(head, name)[0] == "unsupported_format"


def test_a_format_behind_an_extra_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names, its bytes, what is said where the extra is missing, and what `ext:` takes for the same."""
    line = Format(
        "QOI",  # type: ignore[arg-type]
        "QOI",
        "qoi qoif",
        "image/qoi",
        (b"qoif",),
        plugin=("no_such_module", "QoiImageFile"),
        same="qoi qoif",
        extra="qoi",
        module="no_such_module",
    )
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, line))
    for name in ("_FORMATS", "_KIND_OF_EXTENSION", "_USUAL"):
        monkeypatch.setattr(formats, name, dict(getattr(formats, name)))
    formats._FORMATS[line.kind] = line
    formats._KIND_OF_EXTENSION |= dict.fromkeys(line.extensions.split(), line.kind)
    formats._USUAL |= dict.fromkeys(line.same.split(), "qoi")
    assert classify_name("a.qoi") is None
    assert str(identify(b"qoif1234", "a")) == "QOI"
    assert not formats.extra_is_installed("a.qoif")
    with pytest.raises(UnreadablePicture, match=r"clipsearch\[qoi\]"):
        open_picture("a.qoi", content=b"qoif" + bytes(60))
    assert _ext_fits("qoi")("qoif")
