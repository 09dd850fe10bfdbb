"""Files of words: what `clipsearch read` found in pictures, by content hash, to be searched by parts of words.

Each is an SQLite database that is never changed once it has its name, and is opened so: without locks, without a
journal. Three letters in a row are found by its FTS5 index (trigram), fewer by going through the texts. A picture that
was read and has no words is in it, too, so that nobody reads it again; one that could not be read says why.

Texts to search are folded and without spaces (`folding.folded_words`), a line of the picture in each line: readers see
spaces where there are none, and none where there are some.

Captions that a model wrote (`clipsearch caption`) are kept in files of the same form, apart from the others: nobody is
to take them for what stands in a picture. Their texts have their spaces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

import numpy as np

from clipsearch.config import reading
from clipsearch.errors import CorruptIndex, MissingFeature
from clipsearch.folding import fold_name, folded_words
from clipsearch.records import FileRef, ImageRecord, IntArray, Line, Manifest, SkipStatus, WordsRef
from clipsearch.store.files import HashingFile, storage_errors, unlink_own, verify_file
from clipsearch.store.hashes import among, part_key
from clipsearch.store.writer import Writer, own_files

if TYPE_CHECKING:
    import sqlite3

Kind = Literal["words", "captions"]  # who says it: what stands in the picture, or a model
KINDS: tuple[Kind, ...] = ("words", "captions")
FORMAT = 1
FOLDER, SUFFIX = "words", ".words"
MERGED_AT_ONCE = 8
MOST_PICTURES = 100_000  # in one file: larger ones are not merged again
GRAM = 3  # characters of a trigram
MOST_MATCHED = 8  # words of a query that the index is asked for; the others are looked for in what it finds
_CHUNK_BYTES = 1 << 20
_ADVICE = "Use a Python with SQLite 3.34 or newer, built with FTS5: those of python.org, uv and Debian have it"
_TABLES = """
CREATE TABLE about(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pictures(
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, text TEXT NOT NULL, lines TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT, attempts INTEGER NOT NULL, thorough INTEGER NOT NULL
);
CREATE VIRTUAL TABLE found USING fts5(
    text, content='pictures', content_rowid='id', tokenize='trigram case_sensitive 1'
);
"""
_ADD = "INSERT INTO pictures(hash, text, lines, status, reason, attempts, thorough) VALUES (?, ?, ?, ?, ?, ?, ?)"
_NEXT = "SELECT id, hash, lines, status, reason, attempts, thorough FROM pictures WHERE id > ? ORDER BY id LIMIT 500"


@dataclass(frozen=True, slots=True)
class ReadPicture:
    """What reading a picture came to. `lines` are in reading order; none where it has no words, or was not read.

    `thorough`: it was read, not only looked at to see whether it has any words.
    """

    content_hash: str
    lines: tuple[Line, ...] = ()
    status: SkipStatus | None = None  # why it could not be read
    reason: str | None = None  # or, of a video, which subtitles were read: see indexer/subtitles.py; of a caption, by
    # which model it is
    attempts: int = 0  # to read it, that circumstances ended; see indexer/retries.py
    thorough: bool = True
    again: bool = False  # it was read before, and may have had other words then


def text_of(lines: Iterable[Line], kind: Kind = "words") -> str:
    """What is searched of a picture's lines."""
    fold = folded_words if kind == "words" else fold_name
    return "\n".join(folded for line in lines if (folded := fold(line.text)))


def _sqlite() -> Any:
    """The module of that name, which few Pythons lack. Raises: MissingFeature."""
    try:
        import sqlite3
    except ImportError as error:
        raise MissingFeature(f"this Python has no SQLite ({error})", _ADVICE) from error
    return sqlite3


@lru_cache(maxsize=1)
def check_sqlite() -> None:
    """Raise MissingFeature unless this Python's SQLite can make files of words."""
    sqlite3 = _sqlite()
    try:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.execute("CREATE VIRTUAL TABLE found USING fts5(text, tokenize='trigram case_sensitive 1')")
    except sqlite3.Error as error:
        raise MissingFeature(
            f"the SQLite of this Python ({sqlite3.sqlite_version}) cannot index words ({error})", _ADVICE
        ) from error


# -- writing


def add_words(writer: Writer, manifest: Manifest, pictures: Sequence[ReadPicture], kind: Kind = "words") -> Manifest:
    """`manifest`, not yet committed, with a file of what was read of some pictures; files of a size are merged.

    One with pictures that older files have other words of (`ReadPicture.again`) is not: it must stay newer than they.
    Raises: MissingFeature, OutOfSpace, StorageError, CorruptIndex.
    """
    words = words_of(manifest, kind)
    if pictures:
        words = (*words, _written(writer, kind, lambda: iter(pictures)))
    is_again = lru_cache(maxsize=None)(lambda ref: _is_again(writer.index_dir, ref))
    while (alike := _to_merge(words, is_again)) is not None:
        merged = _merged(writer, kind, alike)
        words = tuple(ref for ref in words if ref not in alike)
        words = (merged, *words) if merged is not None else words
    return with_words(manifest, words, kind)


def compacted(writer: Writer, manifest: Manifest, kept: IntArray) -> Manifest:
    """`manifest` with the words and captions of `kept` pictures alone, in as few files as they fit.

    Shape: kept (N, 2) int64, hashes.
    """
    for kind in KINDS:
        groups: list[list[WordsRef]] = []
        for ref in words_of(manifest, kind):
            if groups and sum(one.pictures for one in groups[-1]) + ref.pictures <= MOST_PICTURES:
                groups[-1].append(ref)
            else:
                groups.append([ref])
        merged = [_merged(writer, kind, tuple(group), kept, is_oldest=n == 0) for n, group in enumerate(groups)]
        manifest = with_words(manifest, tuple(ref for ref in merged if ref is not None), kind)
    return manifest


def words_of(manifest: Manifest, kind: Kind) -> tuple[WordsRef, ...]:
    """The files of one kind, the oldest first."""
    return manifest.words if kind == "words" else manifest.captions


def with_words(manifest: Manifest, words: tuple[WordsRef, ...], kind: Kind = "words") -> Manifest:
    """`manifest` with exactly these files of words. Writers that know none are kept from losing them; readers that
    know none answer as before."""
    features = tuple(feature for feature in manifest.writer_features if feature != kind)
    features = (*features, kind) if words else features
    if kind == "words":
        return dataclasses.replace(manifest, words=words, writer_features=features)
    return dataclasses.replace(manifest, captions=words, writer_features=features)


def _is_again(index_dir: Path, ref: WordsRef) -> bool:
    with WordsFile(index_dir, ref) as file:
        return file.again


def _to_merge(words: tuple[WordsRef, ...], is_again: Callable[[WordsRef], bool]) -> tuple[WordsRef, ...] | None:
    tiers: dict[int, list[WordsRef]] = {}
    for ref in words:
        if ref.pictures * MERGED_AT_ONCE <= MOST_PICTURES:
            tiers.setdefault((max(1, ref.pictures).bit_length() - 1) // 3, []).append(ref)
    many = (tier for tier in tiers.values() if len(tier) >= MERGED_AT_ONCE)
    alike = (tuple(ref for ref in tier if not is_again(ref)) for tier in many)
    return next((refs for refs in alike if len(refs) >= MERGED_AT_ONCE), None)


def _merged(
    writer: Writer, kind: Kind, refs: tuple[WordsRef, ...], kept: IntArray | None = None, *, is_oldest: bool = True
) -> WordsRef | None:
    """One file of what is in several, or in one with what is not kept; None where nothing is. `is_oldest`: no file is
    older, of which it could have other words."""
    again = False

    def pictures() -> Iterator[ReadPicture]:
        nonlocal again
        seen = set[str]()
        for ref in reversed(refs):  # the newest say what holds
            with WordsFile(writer.index_dir, ref) as file:
                again = again or (file.again and not is_oldest)
                for picture in file.pictures(kept):
                    if picture.content_hash not in seen:
                        seen.add(picture.content_hash)
                        yield picture

    if kept is not None:
        count = sum(1 for _ in pictures())
        if not count:
            return None
        if len(refs) == 1 and count == refs[0].pictures:
            return refs[0]
    return _written(writer, kind, pictures, lambda: again)


def _written(
    writer: Writer,
    kind: Kind,
    pictures: Callable[[], Iterator[ReadPicture]],
    again: Callable[[], bool] = lambda: False,
) -> WordsRef:
    """`again` is asked last: whether there are pictures in it that older files have other words of."""
    check_sqlite()
    count = written = 0
    is_again = False

    def rows() -> Iterator[tuple[Any, ...]]:
        nonlocal count, written, is_again
        for picture in pictures():
            count += 1
            written += bool(picture.lines) or picture.again  # what was changed must be looked for, too
            is_again = is_again or picture.again
            lines = [
                [line.text, *line.box, round(line.score, 3), *([] if line.start_s is None else [line.start_s])]
                for line in picture.lines
            ]
            yield (
                bytes.fromhex(picture.content_hash),
                text_of(picture.lines, kind),
                json.dumps(lines, separators=(",", ":")),
                picture.status or "ok",
                picture.reason,
                picture.attempts,
                int(picture.thorough),
            )

    sqlite3 = _sqlite()
    part = writer.index_dir / "staging" / f"{uuid.uuid4().hex}.part"
    with storage_errors(writer.index_dir):
        part.touch(exist_ok=False)
        try:
            try:
                with contextlib.closing(sqlite3.connect(_address(part, "rw"), uri=True)) as database:
                    # It is copied to its place, synced and checked; a crash leaves nothing to be rolled back.
                    database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY;")
                    database.executescript(_TABLES)
                    database.execute("INSERT INTO about VALUES ('format', ?)", (str(FORMAT),))
                    if kind != "words":
                        database.execute("INSERT INTO about VALUES ('kind', ?)", (kind,))
                    database.executemany(_ADD, rows())
                    if is_again or again():
                        database.execute("INSERT INTO about VALUES ('again', '1')")
                    database.execute("INSERT INTO found(rowid, text) SELECT id, text FROM pictures")
                    database.execute("INSERT INTO found(found) VALUES ('optimize')")
                    database.commit()
            except sqlite3.OperationalError as error:
                raise _system_error(error) from error

            def copy(file: HashingFile) -> None:
                with part.open("rb") as made:
                    while chunk := made.read(_CHUNK_BYTES):
                        file.write(chunk)

            return WordsRef(writer.add_file(FOLDER, SUFFIX, copy), count, written)
        finally:
            unlink_own(part)


def _system_error(error: sqlite3.OperationalError) -> OSError:
    """What the system said to SQLite."""
    import errno

    code = errno.ENOSPC if "full" in str(error) else errno.EIO
    return OSError(code, os.strerror(code))


# -- reading


def _address(path: Path, mode: str) -> str:
    return f"file:{quote(os.fsencode(path))}?mode={mode}"


class WordsFile:
    """A file of words, open. Safe to use from many threads. Raises: CorruptIndex, IndexAway, StorageError."""

    def __init__(self, index_dir: Path, ref: WordsRef, *, afresh: bool = False) -> None:
        self.ref = ref
        self.path = verify_file(index_dir, ref.file, afresh=afresh)
        self._index_dir = index_dir
        self._lock = threading.Lock()
        self._error = _sqlite().Error
        with self._reading():
            self._database: sqlite3.Connection = _sqlite().connect(
                _address(self.path, "ro") + "&immutable=1", uri=True, check_same_thread=False, isolation_level=None
            )
            self._database.execute("PRAGMA mmap_size=268435456")
            about = dict(self._database.execute("SELECT name, value FROM about").fetchall())
        form = about.get("format", "")
        self.again = about.get("again") == "1"
        self.kind = about.get("kind", "words")
        if form != str(FORMAT) or self.kind not in KINDS:
            raise CorruptIndex(self.path, "not a file of words that this version knows", index=index_dir)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with reading(self.path):
            try:
                yield
            except (self._error, ValueError, KeyError, TypeError) as error:
                raise CorruptIndex(self.path, f"not a file of words ({error})", index=self._index_dir) from error

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._reading():
            return self._database.execute(statement, values).fetchall()

    def holding(self, words: Sequence[str], most: int | None = None) -> list[bytes] | None:
        """The content hashes, as bytes, of pictures that hold all of some words: folded, none of them empty.

        None where more than `most` pictures would have to be looked at.
        """
        found = self._with_texts(words, most)
        return None if found is None else [content_hash for content_hash, _ in found]

    def fitting(self, parts: Sequence[str], fits: Callable[[str], bool]) -> list[bytes]:
        """The content hashes, as bytes, of pictures a line of which fits. `parts`: what stands in each such line."""
        if parts:
            found = self._with_texts(parts, None) or []
        else:
            found = self._rows("SELECT hash, text FROM pictures WHERE text != ''")
        return [content_hash for content_hash, text in found if any(map(fits, text.split("\n")))]

    def _with_texts(self, words: Sequence[str], most: int | None) -> list[tuple[Any, ...]] | None:
        by_length = sorted(set(words), key=len, reverse=True)
        asked = [word for word in by_length if len(word) >= GRAM][:MOST_MATCHED]
        limit = "" if most is None else f" LIMIT {most + 1:d}"
        if asked and self._has_grams:
            statement = (
                "SELECT pictures.hash, pictures.text FROM found JOIN pictures ON pictures.id = found.rowid "
                f"WHERE found MATCH ?{limit}"
            )
            value = " AND ".join('"' + word.replace('"', '""') + '"' for word in asked)
        else:
            asked, value = by_length[:1], by_length[0]
            statement = f"SELECT hash, text FROM pictures WHERE instr(text, ?){limit}"
        others = [word for word in by_length if word not in asked]
        rows = self._rows(statement, (value,))
        if most is not None and len(rows) > most:
            return None
        return [row for row in rows if all(word in row[1] for word in others)]

    @property
    def _has_grams(self) -> bool:
        """Whether this SQLite can search the index; it goes through the texts otherwise."""
        try:
            check_sqlite()
        except MissingFeature:
            return False
        return True

    def lines(self, content_hash: str) -> list[Line] | None:
        """The lines in a picture, in reading order; None if nothing is known of it."""
        rows = self._rows("SELECT lines, reason FROM pictures WHERE hash = ?", (bytes.fromhex(content_hash),))
        with self._reading():
            found = [
                line if self.kind == "words" else dataclasses.replace(line, by=by or "a model")
                for lines, by in rows
                for line in _lines(lines)
            ]
            return found if rows else None

    def known(self, hashes: Iterable[bytes]) -> set[bytes]:
        """Those of some content hashes of which something is known."""
        asked, found = list(hashes), set[bytes]()
        for start in range(0, len(asked), 500):
            part = asked[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(row[0] for row in self._rows(f"SELECT hash FROM pictures WHERE hash IN ({marks})", part))
        return found

    def pictures(self, kept: IntArray | None = None) -> Iterator[ReadPicture]:
        """All that is known of each picture, or of those whose hashes are kept. Shape: kept (N, 2) int64."""
        last = -1
        while rows := self._rows(_NEXT, (last,)):
            last = rows[-1][0]
            is_kept = None if kept is None else among(_keys([row[1] for row in rows]), kept)
            for n, (_, content_hash, lines, status, reason, attempts, thorough) in enumerate(rows):
                if is_kept is None or is_kept[n]:
                    with self._reading():
                        found = _lines(lines)
                    failed = None if status == "ok" else status
                    yield ReadPicture(content_hash.hex(), found, failed, reason, attempts, bool(thorough))

    def states(self) -> list[tuple[bytes, str, str | None, int, bool]]:
        """Of each picture its hash, status, the reason, attempts, and whether it was read thoroughly."""
        rows = self._rows("SELECT hash, status, reason, attempts, thorough FROM pictures")
        return [(found, status, reason, attempts, bool(thorough)) for found, status, reason, attempts, thorough in rows]

    def check(self) -> None:
        """Hold all of it against itself. Raises: CorruptIndex."""
        (problem,) = self._rows("PRAGMA integrity_check(1)")[0]
        ((count,),) = self._rows("SELECT count(*) FROM pictures")
        if problem == "ok" and count != self.ref.pictures:
            problem = f"it has {count} pictures, but the manifest says {self.ref.pictures}"
        if problem == "ok" and self._has_grams:
            # 'integrity-check' of FTS5 writes, and this file is not to be written: what its words find must be there.
            for content_hash, text in self._rows("SELECT hash, text FROM pictures WHERE text != '' LIMIT 1000"):
                longest = max(text.split("\n"), key=len)[:40]
                if len(longest) >= GRAM and content_hash not in (self.holding([longest]) or ()):
                    problem = "its index of words does not match its words"
                    break
        if problem != "ok":
            raise CorruptIndex(self.path, str(problem), index=self._index_dir)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _lines(raw: str) -> tuple[Line, ...]:
    return tuple(
        Line(text, (left, top, width, height), score, *start_s)
        for text, left, top, width, height, score, *start_s in json.loads(raw)
    )


def _keys(hashes: Sequence[bytes]) -> IntArray:
    return np.frombuffer(b"".join(hashes), "<i8").reshape(-1, 2)


class WordFiles:
    """The words of a generation: its files, opened when they are first needed. Safe to use from many threads."""

    def __init__(self, index_dir: Path, refs: tuple[WordsRef, ...]) -> None:
        self._index_dir = index_dir
        self._refs = refs
        self._files: list[WordsFile] | None = None
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Whether any words were found in any picture."""
        return any(ref.written for ref in self._refs)

    @property
    def pictures(self) -> int:
        """How many pictures were looked at."""
        return sum(ref.pictures for ref in self._refs)

    def _opened(self) -> list[WordsFile]:
        with self._lock:
            if self._files is None:
                self._files = [WordsFile(self._index_dir, ref) for ref in reversed(self._refs) if ref.written]
            return self._files

    def holding(self, words: Sequence[str]) -> IntArray:
        """The content hashes of pictures in which all of some words stand, or letters of longer ones: in any writing,
        not yet folded. Shape: (N, 2) int64. Raises: CorruptIndex."""
        return _keys(self.few(words, None) or [])

    def fitting(self, parts: Sequence[str], fits: Callable[[str], bool]) -> IntArray:
        """The content hashes of pictures a line of which fits, folded. `parts`: what stands in each such line, folded.

        Of captions only, of which no file has others than an older one. Shape: (N, 2) int64. Raises: CorruptIndex.
        """
        return _keys(sorted({found for file in self._opened() for found in file.fitting(parts, fits)}))

    def few(self, words: Sequence[str], most: int | None) -> list[bytes] | None:
        """As `holding` says, as bytes; None where more than `most` pictures would have to be looked at."""
        folded = [folded_words(word) for word in words]
        if not folded or not all(folded):
            return []
        found = set[bytes]()
        changed: list[WordsFile] = []  # newer files, in which some have other words than before
        for file in self._opened():
            own = file.holding(folded, most)
            if own is None:
                return None
            fresh = set(own)
            for newer in changed:
                fresh -= newer.known(fresh)
            found |= fresh
            if file.again:
                changed.append(file)
        return None if most is not None and len(found) > most else sorted(found)

    def states(self) -> Iterator[tuple[bytes, str, str | None, int, bool]]:
        """As `WordsFile.states` says, of all files, the oldest first. Raises: CorruptIndex."""
        for ref in self._refs:
            with WordsFile(self._index_dir, ref) as file:
                yield from file.states()

    def lines(self, content_hash: str | None) -> list[Line]:
        """The lines in a picture, in reading order. Raises: CorruptIndex."""
        if content_hash is None:
            return []
        for file in self._opened():
            lines = file.lines(content_hash)
            if lines is not None:
                return lines
        return []

    def lines_of(self, record: ImageRecord) -> list[Line]:
        """The lines in the picture of a row; of a moment of a video, what is said then. Raises: CorruptIndex."""
        lines = self.lines(record.content_hash)
        if record.content_hash is None or not record.view:
            return lines
        return [*lines, *self.lines(part_key(record.content_hash, record.view))]

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            for file in self._files or ():
                file.close()
            self._files, self._refs = [], ()


def with_recovered_words(index_dir: Path, manifest: Manifest) -> Manifest:
    """`manifest` with every whole file of words of an index whose manifests are lost. Raises: OSError."""
    found: dict[str, list[WordsRef]] = {kind: [] for kind in KINDS}
    for path in sorted(own_files(index_dir, set()), key=lambda path: path.stat().st_mtime_ns):
        if path.parent.name != FOLDER:
            continue
        file = FileRef(f"{FOLDER}/{path.name}", path.stat().st_size, path.stem)
        with contextlib.suppress(CorruptIndex), WordsFile(index_dir, WordsRef(file, 0, 0), afresh=True) as words:
            states = words.states()
            written = len(words._rows("SELECT 1 FROM pictures WHERE text != ''"))
            found[words.kind].append(WordsRef(file, len(states), written))
    for kind in KINDS:
        manifest = with_words(manifest, tuple(found[kind]), kind)
    return manifest
