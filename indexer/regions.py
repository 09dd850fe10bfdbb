"""The regions of a picture: its tiles, or the pieces of a long one. Each is a row behind that of the picture."""

from __future__ import annotations

from clipsearch.pictures.images import piece_boxes, view_boxes
from clipsearch.pictures.pool import DecodeResult


def regions_of(result: DecodeResult) -> list[str]:
    """The locators of the regions of a decoded picture, in the order in which it was decoded; none of one that has
    none. In pixels of the upright picture (Media Fragments URI): `xywh=10,20,300,200`."""
    size = (result.width or 0, result.height or 0)
    boxes = view_boxes(size)[1:] if result.is_tiled else piece_boxes(size)
    return [f"xywh={left},{top},{right - left},{bottom - top}" for left, top, right, bottom in boxes]
