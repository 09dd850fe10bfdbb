"""Tags and concepts: words that people or programs put on pictures.

They belong to a picture's content (its xxh3-128), not to its path or row, so they survive renames, compaction and
re-indexing with another model. One immutable file per tag, named in the manifest; it says of itself what it is, so
that a repair can do without manifests. A concept is a tag with a direction among the vectors of one model: it finds
pictures that nobody has tagged. A saved search (`store.searches`) is a tag without pictures, with a query.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from clipsearch.config import read_plain, reading
from clipsearch.errors import CorruptIndex, InvalidTag, StorageError, TagExists, UnknownTag
from clipsearch.records import FileRef, FloatArray, IntArray, Manifest, SavedSearch, Sort, TagKind, TagRef
from clipsearch.store.files import HashingFile, verify_file
from clipsearch.store.hashes import hash_keys, hash_texts
from clipsearch.store.manifest import key_of
from clipsearch.store.writer import add_file, change_tags, own_files

MAGIC = b"CLIPTAG1"
HEADER = struct.Struct("<q")
NAME_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Direction:
    """What makes a tag a concept. `vector`: (D,) float32, unit L2; pictures whose cosine with it is at least
    `threshold` belong to it. It holds for vectors of the model with `fingerprint` only."""

    vector: FloatArray
    threshold: float
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Tag:
    """Which pictures carry a tag, and how surely. Shapes: hashes (N, 2) int64, ascending; scores (N,) float32.

    For a concept the scores say what it was made from: 1 for examples, -1 for counterexamples.
    """

    name: str
    hashes: IntArray
    scores: FloatArray
    direction: Direction | None = None
    written_at: str = field(default="")  # ISO 8601, UTC
    search: SavedSearch | None = None

    @property
    def kind(self) -> TagKind:
        if self.search is not None:
            return "search"
        return "tag" if self.direction is None else "concept"

    def as_dict(self) -> dict[str, float]:
        """Scores by content hash (hexadecimal)."""
        return dict(zip(hash_texts(self.hashes), self.scores.tolist(), strict=True))

    def holds(self, hashes: IntArray) -> FloatArray:
        """The score of each content hash, NaN where it does not carry the tag. Shapes: (M, 2) int64; (M,) float32."""
        found = np.full(len(hashes), np.nan, np.float32)
        if not len(self.hashes) or not len(hashes):
            return found
        at = np.searchsorted(self.hashes[:, 0], hashes[:, 0])
        while True:  # once, unless two hashes agree in their first half
            near = np.minimum(at, len(self.hashes) - 1)
            candidate = (at < len(self.hashes)) & (self.hashes[near, 0] == hashes[:, 0])
            same = candidate & (self.hashes[near, 1] == hashes[:, 1])
            found[same] = self.scores[near[same]]
            at = at + 1
            if not (candidate & ~same).any():
                return found


def make_tag(name: str, scores: Mapping[str, float], direction: Direction | None = None) -> Tag:
    """A tag from scores by content hash. Raises: InvalidTag for a name or a hash that cannot be one."""
    check_name(name)
    if direction is not None and name.removeprefix("-").isdecimal():
        raise InvalidTag(f"{name!r} cannot be the name of a concept: like:{name} means the picture with this row id")
    keys = hash_keys(list(scores))
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    values = np.array(list(scores.values()), np.float32)
    if not np.isfinite(values).all():
        raise InvalidTag("scores must be finite")
    return Tag(name, keys[order], values[order], direction)


def check_name(name: str) -> None:
    """Raise InvalidTag unless `name` can name a tag: 1 to 100 printable characters without a double quote."""
    if not 0 < len(name) <= NAME_LIMIT or not name.isprintable() or name != name.strip() or '"' in name:
        raise InvalidTag(
            f"{name!r} cannot be a name: use 1 to {NAME_LIMIT} printable characters, no double quotes, "
            "no spaces at the ends"
        )


MOST_WRITTEN = 10_000
"""Characters of a query that can be saved: what a query can have."""


def make_search(
    name: str, query: str, sort: Sort = "score", unique: bool = False, diverse: bool = False, all: bool = False
) -> SavedSearch:
    """A search to be saved. Raises: InvalidTag for a name that cannot be one; ValueError for values of no search."""
    check_name(name)
    if not isinstance(query, str) or len(query) > MOST_WRITTEN or sort not in get_args(Sort):
        raise ValueError("it is not a saved search")
    return SavedSearch(name, query, sort, bool(unique), bool(diverse), bool(all))


def renamed(tag: Tag, name: str) -> Tag:
    """The same under another name. Raises: InvalidTag."""
    check_name(name)
    search = None if tag.search is None else dataclasses.replace(tag.search, name=name)
    return dataclasses.replace(tag, name=name, search=search)


def write_tag(file: HashingFile, tag: Tag, *, copy: bool = False) -> None:
    """Layout, little-endian: 8 bytes magic, int64 length of a JSON text, that text padded to 8 bytes,
    int64 hashes[n, 2] ascending, float32 scores[n], and for a concept float32 vector[dim]."""
    direction = tag.direction
    about: dict[str, Any] = {"name": tag.name, "written_at": tag.written_at, "n": len(tag.hashes)}
    if direction is not None:
        about["concept"] = {
            "dim": len(direction.vector),
            "threshold": float(direction.threshold),
            "fingerprint": direction.fingerprint,
        }
    if tag.search is not None:
        about["search"] = dataclasses.asdict(tag.search)
    if copy:
        about["copy"] = True  # so that the two files of a tag have different names
    text = json.dumps(about).encode("ascii")
    text += b" " * (-len(text) % 8)
    file.write(MAGIC + HEADER.pack(len(text)) + text)
    file.write(np.ascontiguousarray(tag.hashes, "<i8").tobytes())
    file.write(np.ascontiguousarray(tag.scores, "<f4").tobytes())
    if direction is not None:
        file.write(np.ascontiguousarray(direction.vector, "<f4"))


def parse_tag(raw: bytes) -> Tag:
    """A tag from its file's bytes. Raises: ValueError if it is none."""
    start = len(MAGIC) + HEADER.size
    if raw[: len(MAGIC)] != MAGIC or len(raw) < start:
        raise ValueError("it is not a tag file")
    try:
        (length,) = HEADER.unpack_from(raw, len(MAGIC))
        about = json.loads(raw[start : start + length])
        n, concept = about["n"], about.get("concept")
        at = start + length
        hashes: IntArray = np.frombuffer(raw, "<i8", 2 * n, at).reshape(n, 2)
        scores: FloatArray = np.frombuffer(raw, "<f4", n, at + 16 * n)
        direction = None
        if concept is not None:
            vector: FloatArray = np.frombuffer(raw, "<f4", concept["dim"], at + 20 * n)
            direction = Direction(vector, concept["threshold"], concept["fingerprint"])
        search = None if "search" not in about else make_search(**{**about["search"], "name": about["name"]})
        return Tag(about["name"], hashes, scores, direction, about["written_at"], search)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not a tag file ({error})") from error


def read_tag(index_dir: Path, tag: TagRef, *, afresh: bool = False) -> Tag:
    """Read a tag of a generation, from its copy where its file is damaged. Raises: CorruptIndex, StorageError."""
    try:
        return read_tag_file(index_dir, tag.file, afresh=afresh)
    except CorruptIndex:
        if tag.copy is None:
            raise
        try:
            return read_tag_file(index_dir, tag.copy, afresh=afresh)
        except CorruptIndex:
            pass
        raise


def read_tag_file(index_dir: Path, ref: FileRef, *, afresh: bool = False) -> Tag:
    """Read one file of a tag. Raises: CorruptIndex, StorageError."""
    path = verify_file(index_dir, ref, afresh=afresh)
    try:
        with reading(path):
            return parse_tag(path.read_bytes())
    except ValueError as error:
        raise CorruptIndex(path, str(error), index=index_dir) from error


def find_tag(manifest: Manifest, name: str) -> TagRef | None:
    """The tag or concept that `name` means, whatever its capitals."""
    wanted = key_of(name, "tag")
    return next((ref for ref in manifest.tags if key_of(ref.name, ref.kind) == wanted), None)


def tags_of(manifest: Manifest) -> tuple[TagRef, ...]:
    """The tags and concepts of a generation, without saved searches."""
    return tuple(ref for ref in manifest.tags if ref.kind != "search")


def add_tags(
    index_dir: Path, manifest: Manifest, tags: list[Tag], *, replace: bool = False, extend: bool = False
) -> Manifest:
    """`manifest`, not yet committed, with `tags` written.

    Of a name that is there already: `replace` forgets what it stood for; `extend` lets a tag keep its pictures beside
    the new ones. Raises: TagExists without either, and for a tag that would extend a concept; but not if it stands for
    the same pictures, so that a command can be repeated.
    """
    kept = {key_of(ref.name, ref.kind): ref for ref in manifest.tags}
    for tag in tags:  # before any is written
        older = kept.get(key_of(tag.name, tag.kind))
        if older is None or replace or (extend and older.kind == tag.kind == "tag"):
            continue
        if older.kind != tag.kind or read_tag(index_dir, older).as_dict() != tag.as_dict():
            raise TagExists(older.name, older.kind, older.pictures)
    for tag in tags:
        older = kept.get(key_of(tag.name, tag.kind))
        if older is not None and extend:
            before = read_tag(index_dir, older)
            tag = make_tag(before.name, {**before.as_dict(), **tag.as_dict()})
        kept[key_of(tag.name, tag.kind)] = written_now(index_dir, tag)
    return with_tags(manifest, kept)


def add_tag_file(index_dir: Path, tag: Tag) -> TagRef:
    """Write a tag, twice: it is a person's work, and nothing else has it."""
    file = add_file(index_dir, "tags", ".tag", lambda file: write_tag(file, tag))
    copy = add_file(index_dir, "tags", ".tag", lambda file: write_tag(file, tag, copy=True))
    return TagRef(tag.name, tag.kind, len(tag.hashes), file, copy)


def with_tags(manifest: Manifest, refs: Mapping[str, TagRef]) -> Manifest:
    """`manifest` with exactly these tags. Writers that know no tags are kept from losing them."""
    features = [feature for feature in manifest.writer_features if feature not in ("tags", "searches")]
    features += ["tags"] if refs else []
    features += ["searches"] if any(ref.kind == "search" for ref in refs.values()) else []
    return dataclasses.replace(manifest, tags=tuple(refs[key] for key in sorted(refs)), writer_features=tuple(features))


def write_tags(
    index_dir: Path,
    tags: Mapping[str, Mapping[str, float]] | list[Tag],
    *,
    replace: bool = False,
    extend: bool = False,
) -> None:
    """Write tags in one commit: by name, the score of each content hash (ImageRecord.content_hash).

    See `add_tags` for names that are there already. Raises: TagExists, ValueError for names and hashes that cannot be,
    IndexNotFound, OutOfSpace, CorruptIndex.
    """
    made = tags if isinstance(tags, list) else [make_tag(name, scores) for name, scores in tags.items()]
    change_tags(index_dir, lambda manifest: add_tags(index_dir, manifest, made, replace=replace, extend=extend))


def remove_tag(index_dir: Path, name: str) -> None:
    """Forget a tag or concept. Raises: UnknownTag, IndexNotFound, OutOfSpace."""

    def without(manifest: Manifest) -> Manifest:
        gone = find_tag(manifest, name)
        if gone is None:
            raise UnknownTag(name, [ref.name for ref in tags_of(manifest)])
        return with_tags(manifest, {key_of(ref.name, ref.kind): ref for ref in manifest.tags if ref is not gone})

    change_tags(index_dir, without)


def whole_tags(index_dir: Path, but: Container[str] = ()) -> list[tuple[Tag, TagRef]]:
    """Every whole tag file of an index, with its copy, whatever manifests say; the oldest first.

    `but`: paths of those that are left out. Raises: OSError.
    """
    found: dict[tuple[str, TagKind, str], tuple[Tag, TagRef]] = {}
    for path in sorted(own_files(index_dir, set())):
        if path.parent.name != "tags" or f"tags/{path.name}" in but:
            continue
        try:
            with reading(path):
                raw = read_plain(path)
            file = FileRef(f"tags/{path.name}", len(raw), path.stem)
            tag = read_tag_file(index_dir, file, afresh=True)
        except (CorruptIndex, StorageError):
            continue
        key = (key_of(tag.name, tag.kind), tag.kind, tag.written_at)
        if key not in found:
            found[key] = (tag, TagRef(tag.name, tag.kind, len(tag.hashes), file))
        else:
            found[key] = (tag, dataclasses.replace(found[key][1], copy=file))
    return sorted(found.values(), key=lambda one: (one[0].written_at, one[0].name))


def recover_tags(index_dir: Path) -> dict[str, TagRef]:
    """Every whole tag of an index whose manifests are lost, the newest of each name."""
    return {key_of(tag.name, tag.kind): ref for tag, ref in whole_tags(index_dir)}


def written_twice(index_dir: Path, ref: TagRef) -> TagRef:
    """A tag of which there are two files, as older versions did not write. Raises: CorruptIndex, StorageError."""
    return ref if ref.copy is not None else add_tag_file(index_dir, read_tag_file(index_dir, ref.file))


def joined(index_dir: Path, manifest: Manifest, found: list[tuple[Tag, TagRef]]) -> tuple[Manifest, list[str]]:
    """`manifest` with tags that another generation has, or none; and what that changed, in words.

    A tag of the same name gets the pictures of both. Concepts cannot be joined: a newer one gets a name of its own.
    """
    kept = {key_of(ref.name, ref.kind): ref for ref in manifest.tags}
    said: list[str] = []
    taken: list[TagRef] = []
    for tag, ref in found:
        held = kept.get(key_of(tag.name, tag.kind))
        known = None if held is None else read_tag(index_dir, held)
        if known is None:
            kept[key_of(tag.name, tag.kind)] = written_twice(index_dir, ref)
            said.append(f"the {tag.kind} {tag.name!r}, which no generation had, is back")
            continue
        if known.kind == tag.kind == "tag":
            scores = tag.as_dict() | known.as_dict()
            more = len(scores) - len(known.hashes)
            taken.append(ref)
            if more:
                kept[key_of(tag.name, tag.kind)] = written_now(index_dir, make_tag(known.name, scores))
                said.append(f"the tag {known.name!r}: added {more} pictures that had it in another generation")
        elif tag.written_at > known.written_at:
            names = (f"{tag.name[: NAME_LIMIT - 9]} ({i})" for i in itertools.count(2))
            name = next(name for name in names if key_of(name, tag.kind) not in kept)
            kept[key_of(name, tag.kind)] = written_now(index_dir, renamed(tag, name))
            taken.append(ref)
            said.append(f"the {tag.kind} {tag.name!r} of another generation is now called {name!r}")
    if taken and not said:
        said.append(
            f"{len(taken)} tags that no generation had: the tags with their names already have all of their pictures"
        )
    if not said:
        return manifest, []
    return dataclasses.replace(with_tags(manifest, kept), tags_before=(*manifest.tags_before, *taken)), said


def written_now(index_dir: Path, tag: Tag) -> TagRef:
    """Write a tag as of now."""
    written_at = datetime.now(UTC).isoformat(timespec="microseconds")
    return add_tag_file(index_dir, dataclasses.replace(tag, written_at=written_at))
