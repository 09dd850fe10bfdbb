"""Reading plain npy files (version 1.0, C order) without NumPy's header parser.

NumPy parses the header with `ast.literal_eval`, which on CPython 3.11 fails now and then with a SystemError
("AST constructor recursion depth mismatch") when several threads do so at once, as a server's do.
"""

from __future__ import annotations

import re
import struct
from typing import IO, Any

import numpy as np
import numpy.typing as npt

MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '(<[fi][48]|<f2)', 'fortran_order': False, 'shape': \((\d+(?:, \d+)*),?\), \}\s*", re.ASCII
)


def read_header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Read a header and leave `file` where the data begins. Raises: ValueError for anything but a plain array."""
    start = file.read(len(MAGIC) + 2)
    if len(start) != len(MAGIC) + 2 or not start.startswith(MAGIC):
        raise ValueError("it is not in NumPy format 1.0")
    (length,) = struct.unpack("<H", start[-2:])
    match = _HEADER.fullmatch(file.read(length))
    if match is None:
        raise ValueError("its NumPy header does not describe a plain array")
    return np.dtype(match[1].decode("ascii")), tuple(int(side) for side in match[2].split(b", "))


def read_array(file: IO[bytes]) -> npt.NDArray[Any]:
    """Read an array whole. Raises: ValueError for anything but a plain array, or one that is cut short."""
    dtype, shape = read_header(file)
    count = int(np.prod(shape))
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ValueError("it is cut short")
    return np.frombuffer(data, dtype).reshape(shape)
