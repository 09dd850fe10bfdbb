"""Manifests as JSON, with a checksum of their own so that a repair can trust one without CURRENT.

Written in format 2. Format 1, in which a fragment had its vectors in its own Parquet file, is read as if it were
format 2: its row ids are its vector ids, and its deleted rows are the marks of every fragment. The next run writes such
fragments anew (see indexer.upgrade).
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import xxhash

from clipsearch.errors import CorruptIndex, UnsupportedIndex
from clipsearch.folding import fold
from clipsearch.records import (
    FileRef,
    Fragment,
    IvfParameters,
    Manifest,
    ModelRef,
    Rebuild,
    Segment,
    TagKind,
    TagRef,
    WordsRef,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
FORMAT_VERSION = 2
KNOWN_READER_FEATURES: frozenset[str] = frozenset({"views", "members", "rabitq", "regions"})
TILES = "tiles"  # the writer feature of an index whose pictures were encoded in several views
KNOWN_WRITER_FEATURES: frozenset[str] = frozenset({"tags", "searches", "words", "captions", TILES})
MANIFEST_NAME = re.compile(r"(\d{8,})\.json")
OWN_NAME = re.compile(r"[0-9a-f]{32}(\.[a-z]+)")
"""Names of files that belong to generations."""


def dump_manifest(manifest: Manifest) -> bytes:
    body = _plain(_with_features(manifest))
    body["checksum"] = xxhash.xxh3_128_hexdigest(_canonical(body))
    return (json.dumps(body, separators=(",", ":")) + "\n").encode("ascii")


def _with_features(manifest: Manifest) -> Manifest:
    """A manifest that keeps versions from writing that would encode pictures in one view beside others in five."""
    tiled = manifest.model.tiled or (manifest.rebuild is not None and manifest.rebuild.model.tiled)
    features = tuple(feature for feature in manifest.writer_features if feature != TILES)
    return dataclasses.replace(manifest, writer_features=(*features, TILES) if tiled else features)


def _plain(value: Any) -> Any:
    """A dataclass as JSON, without the fields that have their defaults of None, 0 or empty."""
    if dataclasses.is_dataclass(value):
        found = {}
        for field in dataclasses.fields(value):
            own = getattr(value, field.name)
            if field.default in (None, 0, ()) and own == field.default:
                continue
            found[field.name] = _plain(own)
        return found
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


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
        for feature in body.get("reader_features", ()):
            if feature not in KNOWN_READER_FEATURES:
                raise UnsupportedIndex(index_dir, f"the reader feature {feature!r}")
        parsed = _format_1(body) if version == 1 else _format_2(body)
        return _make(
            Manifest,
            {**body, "format_version": FORMAT_VERSION},
            model=_make(ModelRef, body["model"]),
            reader_features=tuple(body.get("reader_features", ())),
            writer_features=tuple(body.get("writer_features", ())),
            tags=_tags(body.get("tags", ())),
            tags_before=_tags(body.get("tags_before", ())),
            words=_words(body.get("words", ())),
            captions=_words(body.get("captions", ())),
            ancestors=_ancestors(body.get("ancestors")),
            **parsed,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptIndex(path, f"not a manifest ({error})", index=index_dir) from error


def _format_2(body: dict[str, Any]) -> dict[str, Any]:
    rebuild = body.get("rebuild")
    if rebuild is not None:
        rebuild = Rebuild(_make(ModelRef, rebuild["model"]), *_parts(rebuild))
    fragments, segments = _parts(body)
    return {"fragments": fragments, "segments": segments, "rebuild": rebuild}


def _parts(body: dict[str, Any]) -> tuple[tuple[Fragment, ...], tuple[Segment, ...]]:
    fragments = tuple(
        _make(
            Fragment, f, **_refs(f, "data", "rows_file", "dead", "missing", "columns_file", "dead_copy", "missing_copy")
        )
        for f in body.get("fragments", ())
    )
    segments = tuple(
        _make(
            Segment,
            s,
            ivf=None if s.get("ivf") is None else _make(IvfParameters, s["ivf"]),
            **_refs(s, "data", "mapped", "faiss", "hidden"),
        )
        for s in body.get("segments", ())
    )
    return fragments, segments


def _format_1(body: dict[str, Any]) -> dict[str, Any]:
    dead = _ref(body.get("tombstones"))
    count = body.get("tombstone_count", 0)
    fragments, segments = [], []
    for f in body["fragments"]:
        data = _make(FileRef, f["data"])
        first, last = f["first_row_id"], f["last_row_id"]
        segment = f["segment"]
        rows_file = columns_file = None
        if segment is not None:
            refs = _refs(segment, "vectors", "rows", "faiss", "columns")
            rows_file, columns_file = refs["rows"], refs["columns"]
            ivf = None if segment["ivf"] is None else _make(IvfParameters, segment["ivf"])
            made = Segment(data, f["vectors"], first, last, refs["vectors"], refs["faiss"], ivf, dead, count)
            segments.append(made)
        fragments.append(
            Fragment(data, f["rows"], f["vectors"], first, last, rows_file, dead, count, columns_file=columns_file)
        )
    return {
        "fragments": tuple(fragments),
        "segments": tuple(segments),
        "rebuild": None,
        "next_vector_id": body["next_row_id"],
    }


def is_of_format_1(fragment: Fragment) -> bool:
    """Whether a fragment was written in format 1: its Parquet file holds the vectors too."""
    return fragment.data.path.startswith("data/")


def needed_features(manifest: Manifest) -> tuple[str, ...]:
    """What a reader must know to read a generation correctly: only what it makes use of."""
    rebuilt = () if manifest.rebuild is None else manifest.rebuild.fragments
    fragments = (*manifest.fragments, *rebuilt)
    segments = (*manifest.segments, *(() if manifest.rebuild is None else manifest.rebuild.segments))
    models = (manifest.model, *(() if manifest.rebuild is None else (manifest.rebuild.model,)))
    used = {
        "regions": any(model.regions for model in models),  # parts of pictures are no pictures
        "members": any(f.members for f in fragments),
        "views": any(f.views for f in fragments),
        "rabitq": any(s.ivf is not None and s.ivf.code.startswith("RaBitQ") for s in segments),
    }
    return tuple(name for name, is_used in used.items() if is_used)


def _refs(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: _ref(body.get(name)) for name in names}


def _tags(bodies: Any) -> tuple[TagRef, ...]:
    return tuple(_make(TagRef, tag, **_refs(tag, "file", "copy")) for tag in bodies)


def _words(bodies: Any) -> tuple[WordsRef, ...]:
    return tuple(_make(WordsRef, words, **_refs(words, "file")) for words in bodies)


def _ancestors(bodies: Any) -> tuple[FileRef, ...] | None:
    return None if bodies is None else tuple(_make(FileRef, ref) for ref in bodies)


def _make(kind: type[T], body: dict[str, Any], **parsed: Any) -> T:
    """A record from its JSON. Fields of later versions are passed over: what must be known is in the features."""
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{**{name: value for name, value in body.items() if name in known}, **parsed})


def _ref(body: dict[str, Any] | None) -> FileRef | None:
    return None if body is None else _make(FileRef, body)


def key_of(name: str, kind: TagKind) -> str:
    """What a tag or a saved search is known by, whatever its capitals: a search may have the name of a tag."""
    return f"\0{fold(name)}" if kind == "search" else fold(name)


def manifest_name(generation: int) -> str:
    return f"{generation:08d}.json"


def manifests_of(index_dir: Path) -> dict[int, Path]:
    """Our manifests in an index, by generation, ascending; other files beside them are not ours. Raises: OSError."""
    found: dict[int, Path] = {}
    folder = index_dir / "manifests"
    for path in folder.iterdir() if folder.is_dir() else ():
        match = MANIFEST_NAME.fullmatch(path.name)
        if match is not None and not path.is_symlink():
            found[int(match[1])] = path
    return dict(sorted(found.items()))
