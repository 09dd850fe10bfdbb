"""Whether a folder can be indexed, where its index may be, and whether an index is of this folder."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import numpy as np

from clipsearch.archives import ARCHIVE_ENDINGS, is_archive_name
from clipsearch.archives.remote import Storage
from clipsearch.config import INDEX_DIR_NAME, index_dir_for, is_index
from clipsearch.errors import CorruptIndex, IndexNotFound, NoPictures, NotAnIndex, OtherCollection, StorageError
from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.ignore import Ignore
from clipsearch.indexer.listed import check_list
from clipsearch.indexer.scan import Scan, walk
from clipsearch.pictures.formats import classify_name
from clipsearch.places import is_address
from clipsearch.records import Manifest
from clipsearch.store.snapshot import open_snapshot, root_path

ADOPT_SHARE = 0.9
"""An index elsewhere goes over to another folder if its own is gone and so many of its pictures are in that one: a
folder that was moved. One with fewer is another folder, or a backup of a part."""
UNKNOWN_SHARE = 0.5
"""The same where nothing says any more which folder was its own: rows of pictures that were deleted may be back."""
ADOPT_SAMPLE = 1000
ELSEWHERE = -1  # no drive has this number


def check_folder(folder: Path, index: Path | None = None) -> None:
    """Raise StorageError unless `folder` is a folder, a file that is a source, or an address of object storage; or was
    an archive that `index` (see `index_dir_for`) is of, and is gone, though its drive is not."""
    if is_address(folder):
        Storage(folder)
        return
    try:
        if folder.is_dir():
            return
        if folder.is_file():
            check_list(folder)
            return
        problem = "it is not a folder" if folder.exists() else "the folder does not exist"
    except OSError as error:
        raise StorageError(
            folder, f"it cannot be read ({error.strerror})", "Check its permissions and that its drive is there."
        ) from error
    is_archive = is_archive_name(folder.name)
    index_dir = index_dir_for(folder, index)
    if is_index(index_dir) and not folder.exists():
        if is_archive and is_certainly_gone(folder):
            return
        what = "archive" if is_archive else "source"
        raise StorageError(
            folder,
            f"the {what} no longer exists",
            f"Nothing was changed: its index in {index_dir} stays. Bring it back and run the same command again, "
            f"search the index as it is with --index {index_dir}, or delete {index_dir} to forget it.",
        )
    if is_archive and not folder.exists():
        raise StorageError(folder, "the archive does not exist", "Check its name and that its drive is there.")
    raise StorageError(folder, problem, "Name the folder that holds the pictures.")


def is_certainly_gone(file: Path) -> bool:
    """Whether a file is not there, and its folder is: one with anything in it, as where no drive is mounted is not."""
    try:
        return not os.path.lexists(file) and any(True for _ in os.scandir(file.absolute().parent))
    except OSError:
        return False


def split_source(source: Path, index_dir: Path) -> tuple[Path, str]:
    """The root of a collection, absolute, and the file in it that is the source, if it is not all of it.

    The index of a file goes on with that file, also where its folder is named (as the page does). An index that has no
    whole generation says nothing of it yet: see `agreed_source`. Raises: OtherCollection.
    """
    whole = source.absolute()
    is_whole = not is_archive_name(whole.name) if is_address(whole) else source.is_dir()
    root, listed = (whole, "") if is_whole else (whole.parent, whole.name)
    if is_index(index_dir):
        with contextlib.suppress(IndexNotFound, CorruptIndex), open_snapshot(index_dir) as snapshot:
            return root, agreed_source(root, listed, index_dir, snapshot.manifest)
    return root, listed


def agreed_source(root: Path, listed: str, index_dir: Path, current: Manifest) -> str:
    """The file that an index is of, "" for all of `root`. Raises: OtherCollection if `listed` is another."""
    if listed and listed != current.listed:
        raise OtherCollection(index_dir, root_path(index_dir, current.root) / current.listed, root / listed)
    return current.listed


def nothing_in(root: Path, found: Scan) -> NoPictures | StorageError:
    for unreadable in found.unreadable:
        if unreadable.path == "" or found.holds(unreadable.path):
            place = root / unreadable.path if unreadable.path else root
            return StorageError(place, unreadable.reason, "Check its permissions and that its drive is there.")
    archives = sum(found.others[f"{ending} files"] for ending in ARCHIVE_ENDINGS)
    return NoPictures(root, found.files + sum(found.others.values()), Counter(found.left_out.values()), archives)


def check_place(index_dir: Path, root: Path) -> None:
    """Raise NotAnIndex if the index of `root` may not be in `index_dir`: where pictures are, or above them."""
    index, photos = Path(os.path.realpath(index_dir)), Path(os.path.realpath(root))
    if index == photos:
        raise NotAnIndex(index_dir, "it is the picture folder itself")
    if index in photos.parents and not is_index(index_dir):
        raise NotAnIndex(index_dir, f"it contains the pictures ({root})")


def check_pictures(root: Path, index_dir: Path, ignore: Ignore) -> None:
    """Raise before anything is made for a folder without pictures."""
    found = Scan()
    if (
        not any(
            found.archives or any(classify_name(name) is None for name in block.names)
            for block in walk(root, found, exclude=index_dir, ignore=ignore)
        )
        and not found.archives
    ):
        raise nothing_in(root, found)


def moved_from(root: Path, index_dir: Path, current: Manifest) -> Path | None:
    """Where the pictures of an index were that have moved to `root`; None if they are where they were.

    Raises: OtherCollection if it is the index of another folder.
    """
    old_root = root_path(index_dir, current.root)
    try:
        is_there = old_root == root or old_root.exists()
        is_other = is_there and not old_root.samefile(root)
    except OSError:  # a drive that does not answer is there, perhaps
        is_there = is_other = True
    if is_other and not _may_name_its_root(index_dir, current):
        beside = index_dir.name.endswith(INDEX_DIR_NAME) and root.samefile(index_dir.parent)
        if beside or holds_pictures_of(root, index_dir, current, share=UNKNOWN_SHARE):
            return None
        problem = f"it no longer says which folder it is the index of, and few of its pictures are in {root}"
        raise StorageError(index_dir, problem, "Name the folder of its pictures.")
    if is_other or not (is_there or holds_pictures_of(root, index_dir, current)):
        raise OtherCollection(index_dir, old_root, root)
    return None if is_there else old_root


def devices_before(root: Path, index_dir: Path, current: Manifest) -> dict[str, int]:
    """The drives that the folders of an index were on. Where it goes over to another folder, that is another drive:
    what is not in it may be where the folder was."""
    old_root = root_path(index_dir, current.root)
    try:
        is_same = old_root == root or old_root.samefile(root)
    except OSError:
        is_same = False
    return current.devices if is_same else {**current.devices, "": ELSEWHERE}


def _may_name_its_root(index_dir: Path, current: Manifest) -> bool:
    """Whether a manifest's root can be that of its index. An earlier `verify --repair` gave ".." also to those that lie
    elsewhere, where only `.clipsearch` in a folder has that; this one gives "" where nothing says it any more."""
    return current.root != "" and (current.root != ".." or index_dir.name.endswith(INDEX_DIR_NAME))


def holds_pictures_of(root: Path, index_dir: Path, current: Manifest, *, share: float = ADOPT_SHARE) -> bool:
    """Whether `root` holds, at the same paths, most of the pictures of an index whose own folder is gone."""
    catalog = Catalog(index_dir, current.fragments)
    chosen = np.linspace(0, len(catalog) - 1, min(len(catalog), ADOPT_SAMPLE)).astype(np.int64)
    found = 0
    for row in chosen.tolist():
        record = catalog.record(row)
        try:
            info = (root / record.path).stat()
        except OSError:
            continue
        found += info.st_size == record.file_bytes
    return len(chosen) > 0 and found >= share * len(chosen)
