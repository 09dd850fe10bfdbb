"""The licence of a base model, found in its card."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsearch.encoder.names import resolve
from clipsearch.training.licences import LONGEST, licence_note

HUB = "---\nlanguage: en\nlicense: cc-by-nc-4.0\n---\n# A model\n\nUnder the Apache-2.0 licence it is not.\n"
SECTION = "# A model\n\nCode is Apache-2.0.\n\n## License\n\nWeights: MIT,\ncode too.\n\n## Use\n\nNone.\n"
ITEM = (
    "# Licensed to you\n\n| licence | MIT |\n|---|---|\n\n- It sees cats.\n- For non-commercial\n  use only.\n- No.\n"
)


@pytest.mark.parametrize(
    ("card", "note"),
    [
        (HUB, "cc-by-nc-4.0"),
        (SECTION, "Weights: MIT, code too."),
        (ITEM, "For non-commercial use only."),
        ("# A model\n\nIt sees cats.\n", None),
    ],
)
def test_notes_are_found(card: str, note: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_note(tmp_path) == note


def test_without_a_card_there_is_none(tmp_path: Path) -> None:
    assert licence_note(tmp_path) is None


def test_long_ones_are_cut(tmp_path: Path) -> None:
    (tmp_path / "MODEL_CARD.md").write_text("This licence " + "is long " * 200)
    note = licence_note(tmp_path)
    assert note is not None
    assert len(note) <= LONGEST
    assert note.endswith(("long ...", "is ..."))


def test_the_embedded_model_names_its_terms() -> None:
    directory = resolve("builtin").directory
    assert directory is not None
    note = licence_note(directory)
    assert note is not None
    assert "Flickr8k" in note
    assert "non-commercial" in note
