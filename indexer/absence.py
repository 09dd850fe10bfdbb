"""What became of pictures that are not seen any more.

A file that is not seen is not thereby deleted: its drive may be away. Deleted is what vanished singly from folders that
were looked at; what vanished in bulk, or where nobody could look, is missing.
"""

from __future__ import annotations

from clipsearch.indexer.catalog import Catalog
from clipsearch.indexer.scan import Scan
from clipsearch.records import IntArray

MISSING_FROM = 20
MISSING_SHARE = 0.1
"""If more than so many pictures, and more than this share of all, vanish at once, they are missing, not deleted."""
MISSING_OF_FEW = 3
"""So many are bulk, too, if they are more than half of a small collection: another drive is in the place of its own."""


def split_vanished(
    catalog: Catalog, scan: Scan, devices: dict[str, int], vanished: IntArray
) -> tuple[list[int], list[int]]:
    """Which vanished rows are deleted, and which are missing, as those are that were missing before.

    A folder that went whole, with every picture in it, is missing; so is what vanished in bulk, what nobody can look at
    and what was on another device, and what the user leaves out now.

    `devices`: the index's record of them (see Scan.devices). Shape: vanished (V,) numbers in the catalog.
    """
    missing = set(vanished[catalog.away[vanished]].tolist())
    paths = {row: catalog.path(row) for row in vanished[~catalog.away[vanished]].tolist()}
    if scan.left_out:  # the user may want it back
        missing |= {row for row, path in paths.items() if scan.leaves_out(path) is not None}
    moved = scan.moved_devices(devices)
    missing |= {row for row, path in paths.items() if scan.hides(path) or (moved and _inside(path, moved))}
    rest = [row for row in paths if row not in missing]
    pictures = int(((catalog.vector_ids >= 0) & ~catalog.away).sum())
    lost = sum(int(catalog.vector_ids[row]) >= 0 for row in rest)
    many = lost > MISSING_FROM and lost > MISSING_SHARE * pictures
    if many or (lost >= MISSING_OF_FEW and 2 * lost > pictures):
        missing |= set(rest)
    else:
        missing |= {row for row in rest if paths[row].rpartition("/")[0] not in scan.folders}
    return [row for row in rest if row not in missing], sorted(missing)


def _inside(path: str, folders: list[str]) -> bool:
    return any(folder == "" or path.startswith(folder + "/") for folder in folders)
