"""What `clipsearch query` does with hits besides printing them: it copies or opens them, out of their archives too."""

from __future__ import annotations

import filecmp
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import typer

from clipsearch.archives import file_of
from clipsearch.cli.options import EXIT_ERROR, notice, quoted
from clipsearch.cli.terminal import count
from clipsearch.errors import StorageError, UnreadablePicture
from clipsearch.records import Hit


def copy_hits(hits: Iterable[Hit], folder: Path) -> None:
    """Copy the pictures of hits into a folder, which is made if need be. No file there is overwritten.

    Raises: StorageError, and typer.Exit if a picture could not be copied.
    """
    copied = failed = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for hit in hits:
            try:
                source = Path(file_of(hit.path, hit.record))
                target = _target(folder, hit, source)
                if target is not None:
                    shutil.copyfile(source, target)
                copied += 1
            except UnreadablePicture as error:
                failed += 1
                notice(str(error))
            except FileNotFoundError:
                failed += 1
                notice(str(UnreadablePicture(hit.where, "unreadable", "there is no such file any more")))
    except OSError as error:
        raise StorageError(folder, f"cannot copy to it ({error.strerror or error})", "Name another folder.") from error
    print(f"{count(copied, 'picture')} copied to {quoted(folder)}", file=sys.stderr)
    if failed:
        raise typer.Exit(EXIT_ERROR)


def _target(folder: Path, hit: Hit, source: Path) -> Path | None:
    """What to call the copy of a hit; None if it is there already."""
    name = hit.record.place.rpartition("/")[2]
    if not Path(name).suffix:
        name += source.suffix
    stem, suffix = Path(name).stem, Path(name).suffix
    for tried in (name, f"{stem}-{hit.record.row_id}{suffix}"):
        target = folder / tried
        if not target.exists() and not target.is_symlink():
            return target
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            return None
    raise StorageError(folder / name, "another file has this name", "Name an empty folder.")


def open_hit(hit: Hit) -> None:
    """Open the picture of a hit with the program that the system has for it. Raises: UnreadablePicture."""
    typer.launch(file_of(hit.path, hit.record))
