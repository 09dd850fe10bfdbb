"""Notice when what lies beside a picture comes, changes or goes: XMP of editors, the JSON of Google Takeout.

What lay beside a picture when its metadata was read is kept with its row as one number. A folder without any such file
costs nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.filenames import to_bytes
from clipsearch.pictures.metadata import METADATA_VERSION
from clipsearch.pictures.metadata.sidecars import family_of, is_sidecar_name
from clipsearch.records import IntArray

if TYPE_CHECKING:
    from clipsearch.indexer.catalog import Catalog

BoolArray = npt.NDArray[np.bool_]
NOT_LOOKED_AT = -1
"""Instead of what lies beside a picture, where that could not be read: the next run looks again."""


class Sidecars:
    """The files in one folder that may speak of pictures beside them."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._families: dict[str, list[bytes]] = {}
        self._numbers: dict[str, int] = {}

    def add(self, name: str) -> None:
        """Take a file that is no picture."""
        if is_sidecar_name(name):
            self._names.append(name)

    def look(self, folder: int) -> None:
        """Look at them, in a folder that holds pictures. `folder`: its descriptor."""
        for name in self._names:
            try:
                info = os.stat(name, dir_fd=folder)
                if not os.access(name, os.R_OK, dir_fd=folder):
                    continue
            except OSError:
                continue  # it is as if it were not there, until it can be read
            said = b"%d %d %s" % (info.st_size, info.st_mtime_ns, to_bytes(name))
            self._families.setdefault(family_of(name), []).append(said)

    def numbers(self, names: list[str]) -> IntArray | None:
        """For each picture a number that stands for what lies beside it, 0 for nothing; None if all are.

        Shape: (N,) int64.
        """
        if not self._families:
            return None
        found = np.fromiter((self._number(name) for name in names), np.int64, len(names))
        return found if found.any() else None

    def _number(self, name: str) -> int:
        family = family_of(name)
        files = self._families.get(family)
        if files is None:
            return 0
        if (known := self._numbers.get(family)) is None:
            digest = xxhash.xxh3_64_intdigest(b"\0".join(sorted(files)))
            known = self._numbers[family] = digest % (2**31 - 1) + 1
        return known


class Outdated:
    """Tells whose metadata has to be read again, of pictures that are unchanged themselves."""

    def __init__(self, catalog: Catalog, *, older_versions: bool) -> None:
        """`older_versions`: also what an older version of clipsearch has read."""
        self._may_be = catalog.statuses == 0
        self._sidecars: IntArray | None = None
        if any(rows.number("sidecars").any() for rows in catalog.files):
            self._sidecars = catalog.column("sidecars").astype(np.int64)
        self._old: BoolArray | None = None
        if older_versions:
            self._old = catalog.column("metadata_version") < METADATA_VERSION

    def __call__(self, rows: IntArray, sidecars: IntArray | None) -> BoolArray | None:
        """Which of `rows` are outdated, given what lies beside their files now; None if none is.

        Shapes: rows (N,) numbers in the catalog, -1 for none; sidecars (N,), see Sidecars.numbers; result (N,).
        """
        if (sidecars is None and self._sidecars is None and self._old is None) or not len(self._may_be):
            return None
        none = np.zeros(len(rows), np.int64)
        at = np.maximum(rows, 0)
        known = none if self._sidecars is None else self._sidecars[at]
        outdated: BoolArray = known != (none if sidecars is None else sidecars)
        if self._old is not None:
            outdated |= self._old[at]
        outdated &= (rows >= 0) & self._may_be[at]
        return outdated if outdated.any() else None


def has_older_versions(catalog: Catalog) -> bool:
    """Whether an older version of clipsearch has read the metadata of some picture."""
    return any((rows.number("metadata_version")[: rows.pictures] < METADATA_VERSION).any() for rows in catalog.files)
