"""The few things that are needed of an ONNX file's protobuf: walking its messages, and writing fields.

Reading it with the onnx package would add a dependency and copy all weights. Knows nothing of ONNX but that it is
protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


class Data(Protocol):
    """Bytes, or a file that is mapped."""

    def __getitem__(self, at: int, /) -> int: ...


def all_fields(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of the message at data[start:end]: its number, where it begins, and from where to where its value is.

    Raises: ValueError, IndexError for what is no message.
    """
    position = start
    while position < end:
        begin = position
        tag, position = varint(data, position)
        number, kind = tag >> 3, tag & 7
        value = position
        if kind == VARINT:
            _, position = varint(data, position)
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        elif kind == BYTES:
            length, value = varint(data, position)
            position = value + length
            if position > end:
                raise ValueError("a field extends past the end of its message")
        else:
            raise ValueError("unknown wire type")
        yield number, begin, value, position
    if position != end:
        raise ValueError("a field extends past the end of its message")


def fields(data: Data, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Spans of the values of the fields number `wanted` of the message at data[start:end]."""
    return ((value, stop) for number, _, value, stop in all_fields(data, start, end) if number == wanted)


def varint(data: Data, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = data[position]
    if value < 0x80:  # nearly always
        return value, position + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")


def number_field(number: int, value: int) -> bytes:
    """A field that holds a number."""
    return _as_varint(number << 3 | VARINT) + _as_varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return _as_varint(number << 3 | BYTES) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
