"""What looks like a picture, and which picture a path names: by row id, by file, by the names in the index."""

from __future__ import annotations

import dataclasses
import os
import struct
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.errors import NO_SUCH_PICTURE, NoSuchPicture, OtherPicture, UnreadablePicture
from clipsearch.folding import fold_name
from clipsearch.places import absolute, is_file, is_unchanged
from clipsearch.query import Query
from clipsearch.query.arguments import A_PICTURE, LONGEST_ID, read_path, read_row_id
from clipsearch.query.crops import Crop, picture_file
from clipsearch.records import FloatArray, Hit, ImageRecord
from clipsearch.search.order import Wish, put_in_order

if TYPE_CHECKING:
    from clipsearch.search.collection import Collection


def similar_to(photos: Collection, picture: int | str | os.PathLike[str] | Hit, k: int) -> list[Hit]:
    """See `Collection.similar`."""
    if isinstance(picture, str | os.PathLike):
        path = read_path("picture", picture)
        file, crop = picture_file(path)
        if crop is not None and not is_file(file):
            is_id = file.isdecimal() and len(file) <= LONGEST_ID
            return similar_to_part(photos, int(file) if is_id else row_of_away(photos, file), crop, k)
        row_id = None if crop is not None else row_of_file(photos, path)
        if row_id is None and crop is None and not is_file(path):
            row_id = find_picture(photos, path)
        if row_id is None:
            vector, content = photos.read_picture(path)
            return similar_to_vector(photos, vector, k, content=content)
        picture = row_id
    if isinstance(picture, Hit):
        row_id = row_of_content(photos, picture.record.row_id, picture.record.content_hash, part_of(picture.record))
    else:
        row_id = read_row_id(picture, "picture", A_PICTURE)
    return similar_to_row(photos, row_id, k)


def similar_to_part(photos: Collection, row_id: int, crop: Crop, k: int, offset: int = 0) -> list[Hit]:
    """The k pictures most like a part of one of the index, which is no hit itself. Raises: NoSuchPicture,
    UnreadablePicture."""
    vector, content = photos.encode_part(row_id, crop)
    return similar_to_vector(photos, vector, k, content=content, but=row_id, offset=offset)


def row_of_away(photos: Collection, path: str) -> int:
    """The row id of a picture that is no file here. Raises: UnreadablePicture."""
    row_id = find_picture(photos, path)
    if row_id is None:
        raise UnreadablePicture(path, "unreadable", NO_SUCH_PICTURE)
    return row_id


def similar_to_row(photos: Collection, row_id: int, k: int, offset: int = 0) -> list[Hit]:
    """The k pictures most like one of the index; see `Collection.similar`. Raises: NoSuchPicture."""
    content = photos.record(row_id).content_hash  # one that was deleted since is not answered
    return similar_to_vector(photos, photos.vector(row_id), k, content=content, but=row_id, offset=offset)


def similar_to_vector(
    photos: Collection,
    vector: FloatArray,
    k: int,
    *,
    content: str | None = None,
    but: int | None = None,
    offset: int = 0,
) -> list[Hit]:
    """The k pictures nearest to a vector, shape (D,), that have other content than `content` and are not row `but`,
    from number `offset` on."""
    order = put_in_order(photos, Wish(Query("", ()), vector, all=True))
    hits: list[Hit] = []
    seen = 0
    while len(hits) < offset + k:
        window = order.window(photos, seen, offset + k + 1)
        if not window:
            break
        seen += len(window)
        hits += [h for h in window if h.record.row_id != but and (content is None or h.record.content_hash != content)]
    return [dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(hits[: offset + k], 1)][offset:]


Part = tuple[str, str]
"""What of a file is meant: a member of an archive, a view."""


def part_of(record: ImageRecord) -> Part:
    """Which part of its file a record is: of a region of a picture, the picture."""
    return record.member, "" if record.is_region else record.view


def row_of_content(photos: Collection, row_id: int, content: str | None, part: Part | None = None) -> int:
    """The row of a picture that a hit was told of: its row id, or in an index that was made anew another one.

    `content`: the first digits of its hash; None if it is not known. Raises: NoSuchPicture, OtherPicture.
    """
    if content is None:
        return row_id
    try:
        record = photos.record(row_id)
    except NoSuchPicture:
        found = find_content(photos, content, part)
        if found is None:
            raise
        return found.row_id
    if has_content(record, content, part):
        return row_id
    found = find_content(photos, content, part)
    if found is None:
        raise OtherPicture(row_id)
    return found.row_id


def has_content(record: ImageRecord, content: str | None, part: Part | None = None) -> bool:
    """Whether a record is the picture whose hash begins with `content`, and that part of it; None is any."""
    is_part = part is None or part_of(record) == part
    return is_part and (content is None or (record.content_hash or "").startswith(content))


def find_content(photos: Collection, content: str, part: Part | None = None) -> ImageRecord | None:
    """A picture of this content, by the first digits of its hash; the one with the lowest row id."""
    (wanted,) = struct.unpack("<q", bytes.fromhex(content[:16]))
    found = [columns.row_ids[columns.hashes[:, 0] == wanted] for columns in photos.columns()]
    for row_id in np.sort(np.concatenate(found)).tolist() if found else []:
        try:
            record = photos.record(row_id)
        except NoSuchPicture:  # gone
            continue
        if has_content(record, content, part):
            return record
    return None


def row_at(photos: Collection, path: str) -> int:
    """As `find_picture`. Raises: NoSuchPicture."""
    row_id = find_picture(photos, path)
    if row_id is None:
        raise NoSuchPicture(None, path)
    return row_id


def find_picture(photos: Collection, path: str) -> int | None:
    """The row id of the picture at `path` (absolute, or relative to the collection's root); None if it is no row's.

    Compares texts: the path is not opened. Letters' case and Unicode form count only where two names differ in them.
    Of several indexes, the first that has it; what is relative must be in one of them alone.
    """
    found = [by + row_id for one, by in photos.parts if (row_id := _find_picture(one, path)) is not None]
    return found[0] if len(found) == 1 or (found and os.path.isabs(path)) else None  # noqa: PTH117


def _find_picture(photos: Collection, path: str) -> int | None:
    name = os.path.normpath(path) if path else ""
    root = os.path.join(photos.root, "")  # noqa: PTH118
    name = name.removeprefix(root).replace(os.sep, "/")
    folder, _, base = fold_name(name).rpartition("/")
    near: list[int] = []
    for columns in photos.columns():
        folders = columns.texts("folder")
        if folder in folders and base:
            rows = np.flatnonzero(columns.codes("folder") == folders.index(folder))
            near += [int(columns.row_ids[row]) for row in rows if columns.names[row] == base]
    alive = np.array(near)[np.isin(near, photos.row_ids())].tolist() if near else []
    named = {row_id: photos.record(row_id).place for row_id in alive}
    exact = [row_id for row_id, own in named.items() if own == name]
    return exact[0] if exact else alive[0] if len(alive) == 1 else None


def row_of_file(photos: Collection, path: str) -> int | None:
    """The row id of the picture at `path` (absolute, or relative to the current folder) if the index has it as it is.

    None if the file has changed since, or is no picture of the index. A file that is away has not changed.
    """
    try:
        place = absolute(path)
    except OSError:  # the current folder is gone
        return None
    row_id = find_picture(photos, place)
    if row_id is None:
        return None
    record = photos.record(row_id)
    return row_id if is_unchanged(place, record.size_bytes, record.mtime_ns) else None
