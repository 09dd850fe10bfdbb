"""The browser interface: `page` is the document that it answers with, `page_routes` what that asks, `endpoints` what
programs call. `blocks` makes an application of Gradio's own components for notebooks and other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipsearch.errors import MissingExtra
from clipsearch.search.protocol import AnyCollection

if TYPE_CHECKING:
    import gradio

__all__ = ["blocks"]


def blocks(collection: AnyCollection, *, title: str = "clipsearch") -> gradio.Blocks:
    """Make a Gradio application that searches `collection`, local or remote. Launch it, or put it into another.

    It opens no file that a query names, and sends small copies of pictures only. Raises: MissingExtra.
    """
    try:
        from clipsearch.ui.components import search_blocks
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "gradio":
            raise
        raise MissingExtra("ui", "a Gradio application") from None
    return search_blocks(collection, title)
