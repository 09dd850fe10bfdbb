"""How often `clipsearch where` points at what is asked for, by its size in the picture.

    python -m benchmarks.pointing PAIRS.tar [--scenes 40] [--seed 0] [--crops] [--json FILE]

PAIRS is a tar of pictures with captions (WebDataset: KEY.jpg beside KEY.json or KEY.txt). There are no boxes that
people drew: real photographs are pasted into another photograph at a known place ("pasted"), or stand side by side in
a grid ("mosaic"), and the query is the caption of one of them. A hit is a peak inside its box, as in the pointing game.
Both differ from things in one photograph: what is pasted has sharp edges and a scene of its own, and other photographs
of a mosaic may match the caption as well. `--crops` measures what any model gets; else what the model's tower allows.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import clipsearch
from clipsearch.pairs.reading import open_pairs
from clipsearch.search import where

SIZES = ((0.0, 0.02, "under 2 %"), (0.02, 0.1, "2 to 10 %"), (0.1, 1.0, "over 10 %"))
GRIDS = (2, 3, 4, 6, 8)
SHORT_SIDE = 480
MOSAIC = (960, 720)
Box = tuple[int, int, int, int]
Case = tuple[str, Image.Image, Box, str]


def cases(pairs: list[tuple[bytes, str]], scenes: int, seed: int) -> Iterator[Case]:
    """Kind, picture, box (left, top, right, bottom) and query of each."""
    random = np.random.default_rng(seed)

    def one() -> tuple[Image.Image, str]:
        content, caption = pairs[int(random.integers(len(pairs)))]
        return Image.open(io.BytesIO(content)).convert("RGB"), caption

    for _ in range(scenes):
        background, _caption = one()
        scale = SHORT_SIDE / min(background.size)
        background = background.resize((round(background.width * scale), round(background.height * scale)))
        for least, most, _name in SIZES:
            image, caption = one()
            share = float(np.exp(random.uniform(np.log(max(least, 0.005)), np.log(min(most, 0.4)))))
            factor = (share * background.width * background.height / (image.width * image.height)) ** 0.5
            width, height = (max(4, round(side * factor)) for side in image.size)
            if width > background.width or height > background.height:
                continue
            left = int(random.integers(0, background.width - width + 1))
            top = int(random.integers(0, background.height - height + 1))
            scene = background.copy()
            scene.paste(image.resize((width, height)), (left, top))
            yield "pasted", scene, (left, top, left + width, top + height), caption
        for grid in GRIDS:
            cell = (MOSAIC[0] // grid, MOSAIC[1] // grid)
            sheet = Image.new("RGB", (cell[0] * grid, cell[1] * grid))
            asked = int(random.integers(grid * grid))
            for place, number in enumerate(random.choice(len(pairs), grid * grid, replace=False).tolist()):
                content, own = pairs[number]
                at = (place % grid * cell[0], place // grid * cell[1])
                sheet.paste(Image.open(io.BytesIO(content)).convert("RGB").resize(cell), at)
                if place == asked:
                    box, caption = (*at, at[0] + cell[0], at[1] + cell[1]), own
            yield "mosaic", sheet, box, caption


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--crops", action="store_true", help="do as with a tower that cannot be cut")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    pairs = [(pair.read(), pair.captions[0]) for pair in open_pairs(asked.pairs)]
    encoder = clipsearch.Encoder(asked.model)
    if asked.crops:
        where.DENSE_SIDES = ()
        encoder.model.dense_tower = lambda: None  # type: ignore[method-assign]
    found: dict[tuple[str, str], list[tuple[bool, float, float]]] = defaultdict(list)
    seconds = []
    for kind, picture, box, caption in cases(pairs, asked.scenes, asked.seed):
        vector = encoder.encode_text(caption)
        began = time.perf_counter()
        heat = where.find_where(encoder.model, vector, picture)
        seconds.append(time.perf_counter() - began)
        share = (box[2] - box[0]) * (box[3] - box[1]) / (picture.width * picture.height)
        size = next(name for least, most, name in SIZES if share < most or most == 1.0)
        is_hit = box[0] <= heat.peak[0] < box[2] and box[1] <= heat.peak[1] < box[3]
        found[kind, size].append((is_hit, overlap(heat.box, box), share))
    report: list[dict[str, Any]] = []
    for kind in ("pasted", "mosaic"):
        for _, _, size in SIZES:
            rows = found[kind, size]
            if rows:
                hits, overlaps, shares = (np.array(column) for column in zip(*rows, strict=True))
                report.append({
                    "kind": kind, "size": size, "cases": len(rows), "points_at_it": round(float(hits.mean()), 3),
                    "by_chance": round(float(shares.mean()), 3),
                    "box_overlaps_half": round(float((overlaps >= 0.5).mean()), 3),
                })  # fmt: skip
    for row in report:
        print(
            f"{row['kind']:7} {row['size']:10} {row['cases']:4} cases: points at it {row['points_at_it']:.1%}"
            f" (by chance {row['by_chance']:.1%}), box overlaps by half {row['box_overlaps_half']:.1%}"
        )
    print(f"by {heat.by}, median {np.median(seconds):.2f} s a picture")
    if asked.json is not None:
        asked.json.write_text(json.dumps({"by": heat.by, "median_s": float(np.median(seconds)), "sizes": report}))


def overlap(found: Box, box: Box) -> float:
    """Intersection over union of left, top, width, height and left, top, right, bottom."""
    left, top, width, height = found
    across = min(left + width, box[2]) - max(left, box[0])
    down = min(top + height, box[3]) - max(top, box[1])
    both = max(0, across) * max(0, down)
    return both / (width * height + (box[2] - box[0]) * (box[3] - box[1]) - both)


if __name__ == "__main__":
    main()
