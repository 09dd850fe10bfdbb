"""What the page knows of filters and formats: the tables of `query.fields` and `pictures.formats`, as JSON."""

from __future__ import annotations

from typing import Any

from clipsearch.pictures.formats import FORMATS, IN_PARTS, is_installed
from clipsearch.query.fields import FILTERS


def tables() -> dict[str, Any]:
    """The filters that have a control, and which files can be sent as a question: those that can be read here.

    `shown`: formats of which a browser shows the original.
    """
    read = [found for found in FORMATS if is_installed(found) and found.kind not in IN_PARTS]
    return {
        "filters": [
            {
                "name": field.name,
                "also": field.also,
                "kind": field.kind,
                "label": field.control.label,
                "type": field.control.type,
                "placeholder": field.control.placeholder,
                "options": extensions() if field.column == "ext" else field.control.options,
            }
            for field in FILTERS.values()
            if field.control is not None
        ],
        "pictures": {
            "extensions": [extension for found in read for extension in found.extensions.split()],
            "types": [name for found in read for name in found.media_types.split()],
            "shown": [found.kind for found in FORMATS if found.shown],
        },
    }


def extensions() -> list[tuple[str, str]]:
    """The picture formats that are offered: their extension and their name."""
    return [((found.same or found.extensions).split()[0], found.label) for found in FORMATS if found.offered]
