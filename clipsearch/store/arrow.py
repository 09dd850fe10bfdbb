"""Arrow arrays made of their buffers, and numbers taken out of them.

`pyarrow.array` and `to_numpy` import pandas wherever it is installed, which takes 0.2 s and
50 MB, and nothing here needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

_EMPTY: dict[str, Any] = {"int64": 0, "uint64": 0, "double": 0.0, "bool": False, "string": "", "binary": b""}
LARGEST_TEXT_BYTES = 2**31 - 1  # of all texts of a column together


def from_numbers(numbers: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """An array without nulls. `numbers`, of any shape, are taken in their order."""
    import pyarrow as pa

    flat = np.ascontiguousarray(numbers, kind.to_pandas_dtype()).reshape(-1)
    return pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])


def to_numbers(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """The numbers of an array, in its own type; read-only, and without a copy of what is in one piece.

    Raises: ValueError if one of them is null, or for an array of something else.
    """
    if array.null_count:
        raise ValueError(f"{array.null_count} numbers are missing")
    dtype = np.dtype(array.type.to_pandas_dtype())
    if dtype.kind not in "iuf":
        raise ValueError(f"not numbers, but {array.type}")
    pieces = [
        np.frombuffer(piece.buffers()[1], dtype, len(piece), piece.offset * dtype.itemsize)
        for piece in getattr(array, "chunks", [array])
        if len(piece)
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty(0, dtype)])


def to_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An array of numbers, bools, texts, bytes or lists of these, null where a value is None.

    Raises: ValueError or OverflowError for what the type cannot hold.
    """
    import pyarrow as pa

    present = np.array([value is not None for value in values], bool)
    valid = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    if pa.types.is_list(kind):
        lists = [value or () for value in values] if any(values) else [()] * len(values)
        starts = np.cumsum([0, *map(len, lists)])
        flat = to_array([part for value in lists for part in value], kind.value_type)
        parts = [valid, pa.py_buffer(starts.astype(np.int32))]
        return pa.Array.from_buffers(kind, len(lists), parts, children=[flat])
    empty = _EMPTY[str(kind)]
    filled = [empty if value is None else value for value in values]
    if isinstance(empty, str):
        filled = [text.encode("utf-8") for text in filled]
    if isinstance(empty, (str, bytes)):
        ends = np.cumsum([0, *map(len, filled)])
        if ends[-1] > LARGEST_TEXT_BYTES:
            raise ValueError(f"{ends[-1]:,} bytes of text in one column")
        parts = [pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(filled))]
    elif isinstance(empty, bool):
        parts = [pa.py_buffer(np.packbits(np.array(filled, bool), bitorder="little"))]
    else:
        parts = [pa.py_buffer(np.array(filled, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(filled), [valid, *parts])
