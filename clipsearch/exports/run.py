"""An export, whatever it goes to."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch import config
from clipsearch.errors import ClipsearchError, InvalidTarget, MissingExtra, is_out_of_space
from clipsearch.exports import files
from clipsearch.exports.engine import Engine, Place, PlaceRefused
from clipsearch.exports.heirs import heirs_of
from clipsearch.exports.pictures import Pictures, columns
from clipsearch.exports.targets import Target, read_table, read_target
from clipsearch.filenames import readable
from clipsearch.records import IntArray
from clipsearch.search.collection import Collection

Progress = Callable[[int, int], None]  # done, of how many
CHANGED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did. `rows` are in the target now: one for each picture, and for each shot of a video. `target`
    and `table` say where ("" for a file)."""

    target: str
    table: str
    rows: int
    added: int
    changed: int = 0
    removed: int = 0


def export_index(
    index: Path,
    target: str,
    *,
    table: str | None = None,
    where: str = "",
    missing: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> ExportReport:
    """Write the pictures of an index, all that is known of them and their vectors to a file or a database.

    `target` is as in `targets.KINDS`. `where`: filters of the query language; `missing`: also pictures whose files
    cannot be seen; `overwrite`: replace a file that an earlier export wrote. In a database, rows that are the same stay
    as they are, and rows of pictures that are gone are removed. Raises: InvalidTarget, MissingExtra, InvalidQuery,
    StorageError, IndexNotFound, CorruptIndex, OutOfSpace.
    """
    found = read_target(target)
    name = read_table(table)
    if found.folder is not None and found.folder.absolute().resolve().is_relative_to(index.absolute().resolve()):
        raise InvalidTarget(found.shown, "it is inside the index. Name a place outside it")
    with Collection(index) as photos:
        pictures = Pictures(photos, where, missing=missing)
        mark = _mark(photos, pictures)
        if found.is_file:
            if table is not None:
                raise InvalidTarget(found.shown, "a file has no tables. Leave out --table")
            count = files.write(photos, pictures, found, mark, overwrite=overwrite, progress=progress)
            return ExportReport(found.shown, "", count, count)
        if overwrite:
            raise InvalidTarget(found.shown, "--overwrite is for files. A table is brought up to date without it")
        place = Place(found.address, name, columns(), photos.manifest.model.dim)
        return _to_table(pictures, found, place, mark, progress)


def _mark(photos: Collection, pictures: Pictures) -> str:
    """What is noted with the rows: of which index they are, and of which model the vectors."""
    model = photos.manifest.model
    index = config.marker_of(photos.index) or f"path:{readable(str(photos.index.absolute()))}"
    noted = {
        "version": 1,
        "index": index,
        "root": readable(str(photos.root)),
        "model": model.name,
        "fingerprint": model.fingerprint,
        "dim": model.dim,
        "metric": "cosine",
        "where": pictures.where,
    }
    return json.dumps(noted, sort_keys=True)


def load_engine(target: Target) -> type[Engine]:
    """The class that writes a target. Raises: MissingExtra."""
    try:
        module = importlib.import_module(f"clipsearch.exports.{target.kind.module}")
    except ImportError as error:
        if target.kind.extra is None or (error.name or "").startswith("clipsearch"):
            raise
        raise MissingExtra(target.kind.extra, f"exporting to {target.kind.name}") from error
    engine: type[Engine] = module.Table
    return engine


def _to_table(pictures: Pictures, target: Target, place: Place, mark: str, progress: Progress) -> ExportReport:
    counts = {"added": 0, "changed": 0, "removed": 0}
    done = 0
    engine_class = load_engine(target)
    begins = target.folder is not None and not _has_anything(target.folder)
    with _said_by(target, begins=begins):
        engine = engine_class(place)
    with _closing(engine, target) as opened:
        with _said_by(target, begins=begins):
            _take(opened, target, place, mark)
        with _said_by(target):
            known_ids, known_digests = _known(opened)
            heirs = _heirs(opened, pictures, known_ids)
        seen = np.zeros(len(known_ids), bool)
        seen[np.searchsorted(known_ids, sorted(heirs.values()))] = True
        progress(0, pictures.count)
        for rows in pictures.rows():
            at = np.minimum(np.searchsorted(known_ids, rows.row_ids), max(0, len(known_ids) - 1))
            is_known = known_ids[at] == rows.row_ids if len(known_ids) else np.zeros(len(rows), bool)
            seen[at[is_known]] = True
            is_same = is_known.copy()
            is_same[is_known] = known_digests[at[is_known]] == rows.digests[is_known]
            if not is_same.all():
                with _said_by(target):
                    _refuse_foreign(opened, target, place, rows.row_ids[~is_known].tolist())
                    if again := [(heirs[row_id], row_id) for row_id in rows.row_ids.tolist() if row_id in heirs]:
                        for start in range(0, len(again), CHANGED_AT_ONCE):
                            opened.renumber(again[start : start + CHANGED_AT_ONCE])
                        is_known |= np.isin(rows.row_ids, [row_id for _, row_id in again])
                    opened.write(rows.taken(~is_same), ~is_known[~is_same])
            counts["added"] += int((~is_known).sum())
            counts["changed"] += int((is_known & ~is_same).sum())
            done += len(rows)
            progress(done, pictures.count)
        gone = known_ids[~seen].tolist()
        if gone and not done:
            raise InvalidTarget(
                target.shown,
                f"there is no picture to export, and {place.table} has {len(gone):,}. Nothing was removed. "
                "If the drive is away, connect it and run clipsearch index; or add --missing",
            )
        with _said_by(target):
            for start in range(0, len(gone), CHANGED_AT_ONCE):
                opened.remove(gone[start : start + CHANGED_AT_ONCE])
            counts["removed"] = len(gone)
            opened.finish()
    return ExportReport(target.shown, place.table, done, **counts)


def _take(engine: Engine, target: Target, place: Place, mark: str) -> None:
    """Make sure that the table is there and is that of this export. Raises: InvalidTarget."""
    there = engine.mark()
    if there is None:
        engine.create(mark)
        return
    elsewhere = "Nothing was changed. Name another one with: --table NAME"
    try:
        before, now = json.loads(there), json.loads(mark)
        same = {name: before[name] == now[name] for name in ("version", "index", "fingerprint", "dim", "where")}
    except (ValueError, KeyError, TypeError):
        raise InvalidTarget(
            target.shown, f"{place.table} exists, and clipsearch did not create it. {elsewhere}"
        ) from None
    if not same["index"] or not same["version"]:
        problem = f"{place.table} has the pictures of another index ({before.get('root')})"
    elif not same["fingerprint"] or not same["dim"]:
        problem = f"{place.table} has vectors of the model {before.get('model')}, and the index those of {now['model']}"
    elif not same["where"]:
        asked = before["where"]
        problem = f"{place.table} has an export {f'with --where {asked!r}' if asked else 'of all pictures'}"
    else:
        engine.widen()
        return
    raise InvalidTarget(target.shown, f"{problem}. {elsewhere}")


def _refuse_foreign(engine: Engine, target: Target, place: Place, new: list[int]) -> None:
    """Raise InvalidTarget where somebody's own row has the row id of a new picture: writing would replace it."""
    found = sorted(engine.foreign(new)) if new else []
    if found:
        listed = f"{', '.join(map(str, found[:3]))}{', ...' if len(found) > 3 else ''}"
        raise InvalidTarget(
            target.shown,
            f"{place.table} has {len(found):,} of your own rows (row_id {listed}) where pictures belong now. Your rows "
            "were not changed. Give them other ids, below 0 or, in Qdrant, UUIDs, then run the same command again",
        )


def _heirs(engine: Engine, pictures: Pictures, known: IntArray) -> dict[int, int]:
    """The old row ids of pictures that have new ones, by the new ones. Shape: known (N,) int64, ascending."""
    every = pictures.row_ids()
    new, gone = np.setdiff1d(every, known), np.setdiff1d(known, every)
    return heirs_of(engine, gone, pictures.told(new)) if len(new) and len(gone) else {}


def _known(engine: Engine) -> tuple[IntArray, IntArray]:
    """Row ids, ascending, and digests of what exports wrote. 16 bytes a row, and nothing else of them."""
    parts = [(np.fromiter(ids, np.int64), np.fromiter(digests, np.int64)) for ids, digests in engine.known()]
    row_ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in parts)])
    digests = np.concatenate([np.empty(0, np.int64), *(digests for _, digests in parts)])
    unique, first = np.unique(row_ids, return_index=True)
    return unique, digests[first]


@contextmanager
def _closing(engine: Engine, target: Target) -> Iterator[Engine]:
    with _said_by(target):
        opened = engine.__enter__()
    try:
        yield opened
    except BaseException as error:
        engine.__exit__(type(error), error, error.__traceback__)
        raise
    with _said_by(target):
        engine.__exit__(None, None, None)


def _has_anything(folder: Path) -> bool:
    try:
        return next(folder.iterdir(), None) is not None
    except FileNotFoundError:
        return False
    except OSError:  # a file, or what may not be read
        return True


@contextmanager
def _said_by(target: Target, *, begins: bool = False) -> Iterator[None]:
    """Turn what the client of a database raises, which may be anything, into our word, without passwords. `begins`: the
    database is a folder that had nothing before, and has no table yet."""
    try:
        yield
    except ClipsearchError:
        raise
    except PlaceRefused as error:
        raise InvalidTarget(target.shown, str(error)) from None
    except Exception as error:
        again = "run the same command again"
        if begins and target.folder is not None and _has_anything(target.folder):
            again = f"delete {target.folder}, which this export began and could not finish, and {again}"
        if is_out_of_space(error):
            problem = f"no space left on its disk. Free some space, then {again}"
        else:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            said = target.without_secrets(" ".join(line.strip() for line in lines if line.strip()))[:500].rstrip(".?")
            check = "Check the address and that the database runs"
            if target.folder is not None:
                check = "Check that the folder can be written and holds a whole database"
            problem = f"{said}. {check}, then {again}"
        raise InvalidTarget(target.shown, problem) from (None if target.secrets else error)
