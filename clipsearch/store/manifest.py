"""Manifests as JSON, with a checksum of their own so that a repair can trust one without CURRENT."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import xxhash

from clipsearch.errors import CorruptIndex, UnsupportedIndex
from clipsearch.records import FileRef, Fragment, IvfParameters, Manifest, ModelRef, Segment, TagRef

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
FORMAT_VERSION = 1
KNOWN_READER_FEATURES: frozenset[str] = frozenset()
KNOWN_WRITER_FEATURES: frozenset[str] = frozenset({"tags"})


def dump_manifest(manifest: Manifest) -> bytes:
    body = dataclasses.asdict(manifest)
    body["checksum"] = xxhash.xxh3_128_hexdigest(_canonical(body))
    return (json.dumps(body, indent=1) + "\n").encode("ascii")


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")


def load_manifest(path: Path, raw: bytes, index_dir: Path) -> Manifest:
    """Parse a manifest and check the checksum that it carries. Raises: CorruptIndex, UnsupportedIndex."""
    try:
        body = json.loads(raw)
        claimed = body.pop("checksum")
        if xxhash.xxh3_128_hexdigest(_canonical(body)) != claimed:
            raise CorruptIndex(path, "its checksum does not match its content", index=index_dir)
        version = body["format_version"]
        if version > FORMAT_VERSION:
            raise UnsupportedIndex(index_dir, f"index format {version}")
        for feature in body["reader_features"]:
            if feature not in KNOWN_READER_FEATURES:
                raise UnsupportedIndex(index_dir, f"the reader feature {feature!r}")
        return _make(
            Manifest,
            body,
            model=_make(ModelRef, body["model"]),
            fragments=tuple(_fragment(f) for f in body["fragments"]),
            tombstones=_ref(body["tombstones"]),
            reader_features=tuple(body["reader_features"]),
            writer_features=tuple(body["writer_features"]),
            tags=tuple(_make(TagRef, tag, file=_make(FileRef, tag["file"])) for tag in body.get("tags", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptIndex(path, f"it is no manifest ({error})", index=index_dir) from error


def _make(kind: type[T], body: dict[str, Any], **parsed: Any) -> T:
    """A record from its JSON. Fields of later versions are passed over: what must be known is in the features."""
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{**{name: value for name, value in body.items() if name in known}, **parsed})


def _ref(body: dict[str, Any] | None) -> FileRef | None:
    return None if body is None else _make(FileRef, body)


def _fragment(body: dict[str, Any]) -> Fragment:
    segment = body["segment"]
    if segment is not None:
        segment = _make(
            Segment,
            segment,
            vectors=_make(FileRef, segment["vectors"]),
            rows=_make(FileRef, segment["rows"]),
            faiss=_ref(segment["faiss"]),
            columns=_ref(segment.get("columns")),
            ivf=None if segment["ivf"] is None else _make(IvfParameters, segment["ivf"]),
        )
    return _make(Fragment, body, data=_make(FileRef, body["data"]), segment=segment)


def manifest_name(generation: int) -> str:
    return f"{generation:08d}.json"
