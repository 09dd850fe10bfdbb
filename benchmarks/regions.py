"""What is found by one view, by five views, and by the vectors of regions (`index --regions`), and at what place.

    python -m benchmarks.regions PAIRS.tar [--scenes 300] [--model builtin] [--cache FILE.npz] [--json FILE]

PAIRS is a tar of pictures with captions (WebDataset). Sentences: each picture is asked for with its caption. Things:
there are no boxes that people drew, so photographs are pasted into others at known sizes (as in `benchmarks.pointing`),
and each is asked for with its own caption: the one scene that has it is right, among all scenes, so its average
precision is 1 over its rank. Places: whether the tile that a scene is found by has the middle of what was pasted in it.
Bands: what confidence says of the hits of captions, with `--photos` also of those whose picture is not there. Also as
many weights of the region, and nine smaller tiles beside the four, as were tried.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import clipsearch
from benchmarks.pointing import SHORT_SIDE, SIZES, Box
from clipsearch.pairs.reading import open_pairs
from clipsearch.pictures.images import prepare, view_boxes
from clipsearch.records import FloatArray
from clipsearch.search.confidence import Background, bank_vectors, drawing_vectors, shipped_calibration
from clipsearch.search.regions import joined

NINTH = 0.4  # of both sides: a tile of three by three, which shares a quarter of its side with its neighbour
WEIGHTS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Scores = npt.NDArray[np.float32]


def boxes_of(size: tuple[int, int]) -> list[Box]:
    """The whole, four tiles, nine tiles."""
    width, height = size
    wide, high = max(1, round(NINTH * width)), max(1, round(NINTH * height))
    places = (0, 0.5, 1)
    corners = [(round(x * (width - wide)), round(y * (height - high))) for y in places for x in places]
    return [*view_boxes(size), *((left, top, left + wide, top + high) for left, top in corners)]


def scenes_of(pairs: list[tuple[bytes, str]], count: int, seed: int) -> list[tuple[Image.Image, Box, str, str]]:
    """Pictures, the box of what was pasted into each, its caption, and its class of size."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(pairs))
    made: list[tuple[Image.Image, Box, str, str]] = []
    for n in range(min(count, len(pairs) // 2)):
        background = Image.open(io.BytesIO(pairs[order[n]][0])).convert("RGB")
        scale = SHORT_SIDE / min(background.size)
        background = background.resize((round(background.width * scale), round(background.height * scale)))
        content, caption = pairs[order[len(pairs) // 2 + n]]
        image = Image.open(io.BytesIO(content)).convert("RGB")
        least, most, name = SIZES[n % len(SIZES)]
        share = float(np.exp(random.uniform(np.log(max(least, 0.005)), np.log(min(most, 0.3)))))
        factor = (share * background.width * background.height / (image.width * image.height)) ** 0.5
        factor = min(factor, background.width / image.width, background.height / image.height)
        width, height = (max(4, int(side * factor)) for side in image.size)
        left = int(random.integers(0, background.width - width + 1))
        top = int(random.integers(0, background.height - height + 1))
        background.paste(image.resize((width, height), Image.Resampling.LANCZOS), (left, top))
        made.append((background, (left, top, left + width, top + height), caption, name))
    return made


def encoded(encoder: clipsearch.Encoder, images: list[Image.Image], views: int) -> FloatArray:
    """The vectors of the whole and its tiles. Shape: (N, views, D)."""
    found = []
    for image in images:
        boxes = boxes_of(image.size)[:views]
        found.append(
            encoder.model.encode_images(np.stack([prepare(image.crop(b), encoder.model.preprocessing) for b in boxes]))
        )
    return np.stack(found)


def five(vectors: FloatArray) -> FloatArray:
    """One vector of five views. Shapes: (N, V, D); (N, D)."""
    total = vectors[:, :5].sum(axis=1) + vectors[:, 0]
    unit: FloatArray = total / np.linalg.norm(total, axis=1, keepdims=True)
    return unit


def ways(vectors: FloatArray, queries: FloatArray) -> dict[str, Scores]:
    """The scores of all pictures for all queries, by how they are made. Shape of each: (Q, N)."""
    every = np.einsum("qd,ntd->qnt", queries, vectors)
    whole, mean = every[..., 0], queries @ five(vectors).T
    found = {"one view": whole, "five views": mean}
    for name, tiles in (("4 tiles", slice(1, 5)), ("4 and 9 tiles", slice(1, 14)))[: 1 + (vectors.shape[1] > 5)]:
        best = every[..., tiles].max(axis=-1)
        for weight in WEIGHTS:
            found[f"{name}, {weight:g}"] = whole + weight * np.maximum(0, best - whole)
            found[f"{name}, {weight:g}, also where farther"] = whole + weight * (best - whole)
        found[f"five views and {name}, 0.7"] = mean + 0.7 * np.maximum(0, best - mean)
    return found


def ranks(scores: Scores) -> npt.NDArray[np.int64]:
    """At which place, from 1, each query has the picture of its own number. Shape: (Q,)."""
    own = scores[np.arange(len(scores)), np.arange(len(scores))]
    places: npt.NDArray[np.int64] = (scores > own[:, None]).sum(axis=1) + 1
    return places


def bands(encoder: clipsearch.Encoder, photos: FloatArray, own: FloatArray, others: FloatArray) -> dict[str, Any]:
    """What confidence says of whole pictures, of pictures with their tiles as `search.confidence` puts them on the same
    scale, and of these as they are. Of captions of the pictures and of others: whether their picture, or anything, is
    called maybe or strong; and how many hits are. That no other picture fits a caption is not so, but the same for all.
    """
    calibration, count = shipped_calibration(), len(photos)
    which, flat = np.repeat(np.arange(count), 4), photos[:, 1:5].reshape(-1, photos.shape[-1])
    about = bank_vectors(encoder.model), photos[:, 0], drawing_vectors(encoder.model)
    background = Background(*about, (which, flat))
    found: dict[str, Any] = {}
    for way in ("one view", "regions", "regions, not scaled"):
        told: dict[str, list[float]] = {}
        for queries, kind in ((own, "own"), (others, "other")):
            for n, query in enumerate(queries):
                scores = photos[:, 0] @ query
                if way != "one view":
                    scores = joined(scores, which, flat @ query)
                best: float | None = float(scores.max())
                if way == "regions":
                    scores, best = background.as_whole(query, scores, best)
                sure = calibration.confidences(background, query, scores, "text", best)
                for name, least in (("maybe", calibration.cut), ("strong", calibration.strong)):
                    told.setdefault(f"{kind} captions: hits at least {name}", []).append(float((sure >= least).sum()))
                    told.setdefault(f"{kind} captions: any at least {name}", []).append(float(sure.max() >= least))
                    if kind == "own":
                        told.setdefault(f"own captions: theirs is at least {name}", []).append(float(sure[n] >= least))
        found[way] = {name: round(float(np.mean(values)), 3) for name, values in told.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--photos", type=int, help="how many of the pictures are asked for by sentences")
    parser.add_argument("--views", type=int, choices=(5, 14), default=14, help="14: with nine smaller tiles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    pairs = [(pair.read(), pair.captions[0]) for pair in open_pairs(asked.pairs)]
    scenes = scenes_of(pairs, asked.scenes, asked.seed)
    encoder = clipsearch.Encoder(asked.model)
    every, pairs = pairs, pairs[: asked.photos]
    if asked.cache is not None and asked.cache.exists():
        stored = np.load(asked.cache)
        photos, made, texts, captions = (stored[name] for name in ("photos", "made", "texts", "captions"))
    else:
        began = time.process_time()
        photos = encoded(encoder, [Image.open(io.BytesIO(content)).convert("RGB") for content, _ in pairs], asked.views)
        made = encoded(encoder, [scene for scene, *_ in scenes], asked.views)
        print(f"encoded in {time.process_time() - began:.0f} s of processor time")
        texts = encoder.encode_text([caption for _, caption in pairs])
        captions = encoder.encode_text([caption for _, _, caption, _ in scenes])
        if asked.cache is not None:
            np.savez(asked.cache, photos=photos, made=made, texts=texts, captions=captions)
    report: dict[str, Any] = {"sentences": {}, "things": {}, "places": {}}
    of_sentences = ways(photos, texts)
    names = [name for *_, name in SIZES]
    classes = np.array([name for *_, name in scenes])
    things = ways(made, captions)
    print(f"{len(pairs)} sentences: R@1, 5, 10; {len(scenes)} things by share of the picture ({', '.join(names)}): mAP")
    for way, scores in things.items():
        places = ranks(of_sentences[way])
        recall = [round(float((places <= k).mean()), 4) for k in (1, 5, 10)]
        precision = 1 / ranks(scores)
        by_size = [round(float(precision[classes == name].mean()), 4) for name in names]
        report["sentences"][way], report["things"][way] = recall, [*by_size, round(float(precision.mean()), 4)]
        print(f"{way:36} {' '.join(f'{100 * r:5.1f}' for r in recall)}   {' '.join(f'{p:.3f}' for p in by_size)}"
              f"  all {precision.mean():.3f}")  # fmt: skip
    for name in names:
        hits, chances, told = [], [], 0
        for n, (image, box, _, own) in enumerate(scenes):
            if own != name:
                continue
            cosines = made[n, :5] @ captions[n]
            told += int(cosines[1:].max() > cosines[0])
            middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            inside = [b[0] <= middle[0] < b[2] and b[1] <= middle[1] < b[3] for b in view_boxes(image.size)[1:]]
            if cosines[1:].max() > cosines[0]:
                hits.append(inside[int(cosines[1:].argmax())])
                chances.append(np.mean(inside))
        report["places"][name] = {
            "cases": int((classes == name).sum()), "told": told,
            "right": round(float(np.mean(hits)), 3), "by_chance": round(float(np.mean(chances)), 3),
        }  # fmt: skip
        print(f"{name}: a tile is told of {told} of {(classes == name).sum()}, has the middle of it in "
              f"{np.mean(hits):.1%} (by chance {np.mean(chances):.1%})")  # fmt: skip
    others = encoder.encode_text([caption for _, caption in every[len(pairs) :]])
    report["bands"] = bands(encoder, photos, texts, others)
    for name in report["bands"]["one view"]:
        print(f"{name:44} {', '.join(f'{way} {told[name]}' for way, told in report['bands'].items())}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
