"""One fitting picture for each paragraph of a text, none twice, and gaps where nothing fits."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from clipsearch.errors import InvalidQuery
from clipsearch.filenames import to_bytes
from clipsearch.records import Hit
from clipsearch.search.collection import Collection

PARAGRAPH_LIMIT = 500
SPARE_CANDIDATES = 10


@dataclass(frozen=True, slots=True)
class Illustration:
    """A paragraph, as it stands in the text and as plain words; its picture, if one fits."""

    source: str
    text: str | None  # None for what is no prose: headings, code, tables
    hit: Hit | None = None


def illustrate(photos: Collection, text: str, *, everything: bool = False) -> list[Illustration]:
    """Choose pictures for the paragraphs of a Markdown text, for the highest sum of scores, none twice.

    Only pictures that are likely to show what a paragraph says, unless `everything`. Raises: InvalidQuery for a text
    without prose or with more than PARAGRAPH_LIMIT paragraphs.
    """
    blocks = [Illustration(block, plain_words(block)) for block in split_blocks(text)]
    told = [n for n, block in enumerate(blocks) if block.text]
    if not told:
        raise InvalidQuery("the text has no paragraph to illustrate")
    if len(told) > PARAGRAPH_LIMIT:
        raise InvalidQuery(f"the text has {len(told)} paragraphs; the limit is {PARAGRAPH_LIMIT}")
    queries = photos.encoder.encode_texts([blocks[n].text or "" for n in told])
    hits: list[dict[int, Hit]] = []
    for query, nearest in zip(queries, photos.search_vectors(queries, len(told) + SPARE_CANDIDATES), strict=True):
        found = photos.judge(nearest, query)
        hits.append({hit.record.row_id: hit for hit in found if everything or hit.band != "unlikely"})
    columns = sorted({row_id for candidates in hits for row_id in candidates})
    number = {row_id: n for n, row_id in enumerate(columns)}
    gains = np.zeros((len(told), len(columns)))
    for n, candidates in enumerate(hits):
        for row_id, hit in candidates.items():
            # over 1, so that no gain of scores is worth a gap
            gains[n, number[row_id]] = 2 + (hit.confidence if hit.confidence is not None else hit.score)
    for n, chosen in enumerate(assign(gains)):
        if chosen >= 0 and gains[n, chosen] > 0:
            block = blocks[told[n]]
            blocks[told[n]] = Illustration(block.source, block.text, hits[n][columns[chosen]])
    return blocks


def assign(gains: npt.NDArray[np.float64]) -> list[int]:
    """For each row a column of its own, with the highest sum of gains; -1 where columns run out.

    Shape: gains (R, C), not negative. The Hungarian method with potentials (Kuhn 1955, Munkres 1957), a row at a time:
    O(R * R * C), the inner loop in NumPy.
    """
    rows, wanted = gains.shape
    cost = np.concatenate([-gains, np.zeros((rows, rows))], axis=1)  # so many places for none
    columns = cost.shape[1]
    row_potential, column_potential = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)  # the row that a column belongs to
    for row in range(rows):
        least, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, bool)
        column, current = -1, row
        while True:
            reduced = cost[current] - row_potential[current] - column_potential
            better = ~done & (reduced < least)
            least[better], before[better] = reduced[better], column
            nearest = int(np.argmin(np.where(done, np.inf, least)))
            delta = least[nearest]
            row_potential[row] += delta
            row_potential[owner[done]] += delta
            column_potential[done] -= delta
            least[~done] -= delta
            done[nearest] = True
            column = nearest
            current = int(owner[column])
            if current < 0:
                break
        while column >= 0:
            previous = int(before[column])
            owner[column] = row if previous < 0 else owner[previous]
            column = previous
    chosen = [-1] * rows
    for column in range(wanted):
        if owner[column] >= 0:
            chosen[int(owner[column])] = column
    return chosen


_FENCE = re.compile(r" {0,3}(```|~~~)")


def split_blocks(text: str) -> list[str]:
    """Blocks of a Markdown text: what blank lines separate, and fenced code in one piece."""
    blocks: list[list[str]] = [[]]
    fence = ""
    for line in text.replace("\r\n", "\n").split("\n"):
        mark = _FENCE.match(line)
        if fence:
            blocks[-1].append(line)
            if mark and mark[1] == fence:
                fence = ""
                blocks.append([])
        elif mark:
            fence = mark[1]
            blocks.append([line])
        elif not line.strip():
            blocks.append([])
        elif line.startswith("#"):
            blocks += [[line], []]
        else:
            blocks[-1].append(line)
    return ["\n".join(block) for block in blocks if block]


def plain_words(block: str) -> str | None:
    """What a block says, without Markdown's signs; None for headings, code, tables, rules and HTML."""
    start = block.lstrip()
    if _FENCE.match(block) or start.startswith(("#", "|", "<")) or block.startswith(("    ", "\t")):
        return None
    text = re.sub(r"!\[[^\]\n]*\]\([^)\n]*\)", "", block)
    text = re.sub(r"\[([^\]\n]*)\]\([^)\n]*\)", r"\1", text)
    text = re.sub(r"^\s*(?:>|[-*+] |\d{1,9}[.)] )+", "", text, flags=re.MULTILINE)
    text = " ".join(re.sub(r"[*_`~]+", " ", text).split())
    return text if any(c.isalnum() for c in text) else None


def to_html(blocks: Sequence[Illustration], title: str, folder: Path) -> str:
    """A page of the text with its pictures, everything from outside escaped. `folder`: where the page will be."""
    body = []
    for block in blocks:
        shown = block.source if block.text is None else block.text
        body.append(f"<pre>{html.escape(shown)}</pre>" if block.text is None else f"<p>{html.escape(shown)}</p>")
        if block.hit is not None:
            source, name = html.escape(_url(block.hit.path, folder)), html.escape(_name(block.hit))
            body.append(
                f'<figure><img src="{source}" alt="{html.escape(shown)}" loading="lazy">'
                f"<figcaption>{name} ({html.escape(_sureness(block.hit))})</figcaption></figure>"
            )
        elif block.text is not None:
            body.append('<p class="gap">no picture fits</p>')
    style = (
        "body{max-width:42rem;margin:2rem auto;padding:0 1rem;font:1.1rem/1.5 system-ui,sans-serif}"
        "img{max-width:100%}figure{margin:1rem 0}figcaption,.gap{color:#777;font-size:.85rem}pre{white-space:pre-wrap}"
    )
    head = (
        '<!doctype html>\n<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
    )
    return "\n".join([head, "<body>", *body, "</body></html>", ""])


def to_markdown(blocks: Sequence[Illustration], folder: Path) -> str:
    """The text with a picture after each paragraph that has one, and a comment after those that have none."""
    parts = []
    for block in blocks:
        parts.append(block.source)
        if block.hit is not None:
            name = re.sub(r"([\\\[\]<>*_`])", r"\\\1", _name(block.hit))
            parts.append(f"![{name} ({_sureness(block.hit)})]({_url(block.hit.path, folder)})")
        elif block.text is not None:
            parts.append("<!-- no picture fits -->")
    return "\n\n".join(parts) + "\n"


def _name(hit: Hit) -> str:
    name = hit.record.path.rpartition("/")[2]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def _sureness(hit: Hit) -> str:
    return f"score {hit.score:.3f}" if hit.confidence is None else f"{hit.band}, {100 * hit.confidence:.0f} %"


def _url(path: str, folder: Path) -> str:
    """The address of a picture from a page in `folder`; bytes that are not UTF-8 stay as they are."""
    relative = os.path.relpath(path, folder.absolute()).replace(os.sep, "/")
    return quote(to_bytes(relative if relative.startswith("../") else f"./{relative}"), safe="/.")
