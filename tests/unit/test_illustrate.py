"""Illustrating a text: which picture goes where, what is no prose, and what a page must not become."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import InvalidQuery
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.records import Hit, ImageRecord
from clipsearch.search.collection import Collection
from clipsearch.search.illustrate import (
    Illustration,
    assign,
    illustrate,
    plain_words,
    split_blocks,
    to_html,
    to_markdown,
)
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6))
def test_the_assignment_is_the_best_there_is(rows: int, columns: int, seed: int) -> None:
    gains = np.random.default_rng(seed).random((rows, columns)).round(2)
    chosen = assign(gains)
    used = [column for column in chosen if column >= 0]
    assert len(used) == len(set(used)) == min(rows, columns)
    places = list(range(columns)) + [None] * rows
    best = max(
        sum(gains[row, at] for row, at in enumerate(order) if at is not None)
        for order in itertools.permutations(places, rows)
    )
    assert sum(gains[row, at] for row, at in enumerate(chosen) if at >= 0) == pytest.approx(best)


def test_a_large_assignment_is_quick() -> None:
    gains = np.random.default_rng(0).random((200, 800))
    chosen = assign(gains)
    assert len(set(chosen)) == 200
    assert gains[range(200), chosen].mean() > 0.98


def test_what_is_prose_and_what_is_not() -> None:
    text = "# Title\nFirst *line*\nsecond [link](x.html)\n\n```\ncode\n\nmore\n```\n\n> a quote\n\n"
    text += "- item\n\n| a | b |\n\n---\n"
    blocks = split_blocks(text)
    assert [plain_words(block) for block in blocks] == [
        None, "First line second link", None, "a quote", "item", None, None,
    ]  # fmt: skip
    assert blocks[2] == "```\ncode\n\nmore\n```"


@pytest.fixture
def photos(tmp_path: Path) -> Collection:
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "green", "blue", "yellow"):
        plain(COLOURS[colour]).save(folder / f"{colour}.png")
    index_folder(folder, FakeEncoder(), options=IndexOptions(workers=1))
    return Collection(folder / ".clipsearch", encoder=FakeEncoder())


def test_each_paragraph_gets_a_picture_of_its_own(photos: Collection) -> None:
    blocks = illustrate(photos, "# Colours\n\nred sky\n\nblue sea\n\ngreen grass\n\nred roof", everything=True)
    chosen = [None if block.hit is None else block.hit.record.path for block in blocks]
    assert chosen[0] is None
    assert chosen[2:4] == ["blue.png", "green.png"]
    assert "red.png" in (chosen[1], chosen[4])
    assert len(set(chosen[1:])) == 4
    more = illustrate(photos, "red\n\nblue\n\ngreen\n\nyellow\n\nred again\n\nblue again", everything=True)
    assert sum(block.hit is None for block in more) == 2


def test_a_text_without_prose_is_refused(photos: Collection) -> None:
    with pytest.raises(InvalidQuery, match="no paragraph"):
        illustrate(photos, "# Only\n\n```\ncode\n```\n")
    with pytest.raises(InvalidQuery, match="501 paragraphs"):
        illustrate(photos, "word\n\n" * 501)


EVIL = "<img src=x onerror=alert(1)>\"'](javascript:alert(1))\n\x1b.png"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_names_and_texts_cannot_become_markup(tmp_path: Path) -> None:
    record = ImageRecord(1, f"a/{EVIL}", 1, 1, 1, None)
    hit = Hit(1, 0.5, str(tmp_path / "a" / EVIL), record)
    blocks = [Illustration(EVIL, EVIL, hit), Illustration("# <script>", None), Illustration("gap", "gap")]
    page = Tags()
    html = to_html(blocks, EVIL, tmp_path)
    page.feed(html)
    assert [tag for tag, _ in page.seen if tag in ("img", "script")] == ["img"]
    (attributes,) = (attributes for tag, attributes in page.seen if tag == "img")
    assert set(attributes) == {"src", "alt", "loading"}
    assert (attributes["src"] or "").startswith("./a/%3Cimg")
    assert attributes["alt"] == EVIL
    assert html.count("no picture fits") == 1
    (_, shown, *_) = to_markdown([Illustration("text", "text", hit)], tmp_path).split("\n\n")
    assert shown.startswith("![\\<img src=x onerror=alert(1)\\>")
    assert shown.endswith("%5D%28javascript%3Aalert%281%29%29%0A%1B.png)\n")
