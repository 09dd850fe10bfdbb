"""What three thumbs up and three down gain, on words of captions and titles that stand for what people look for.

    python -m benchmarks.feedback DATA [--json FILE]

DATA holds `flickr8k-dev-0000.tar` and `fashion-dev-0000.tar` (pictures beside their texts, 1,000 each). A query is a
word; a picture is relevant if the word is in two of its captions, or in its title. The first three relevant pictures of
the plain ranking are liked, the first three others are not. Precision@20 before and after is of the pictures that were
not judged: those that were would flatter it. Also measures a word's prompt (WORD_PROMPT), and the time of a
refined search over 100,000 vectors.
"""

from __future__ import annotations

import argparse
import json
import re
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.encoder.names import load_encoder
from clipsearch.pictures.images import read_picture
from clipsearch.records import FloatArray
from clipsearch.search.embedding import WORD_PROMPT
from clipsearch.search.feedback import DOWN_WEIGHT, UP_WEIGHT, refine

JUDGED, AT = 3, 20
WORD_IN_PICTURES = (15, 200)  # fewer are chance, more are no wish
STOP = frozenset(
    word
    for line in (
        "the a an of in on and with is are to at by his her their its for from two three one man men woman women boy",
        "girl people person young into wearing while up down out through it as over front background large small near",
        "another standing sitting playing running walking other looking",
    )
    for word in line.split()
)
Refine = Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]


def read_pairs(path: Path, encoder: Any) -> tuple[FloatArray, list[list[str]]]:
    """Vectors and texts of a tar's pictures."""
    with tarfile.open(path) as tar, tempfile.TemporaryDirectory() as folder:
        members = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        names = sorted(name for name in members if name.endswith(".jpg"))
        texts, vectors, file = [], [], Path(folder) / "x.jpg"
        for start in range(0, len(names), 32):
            pixels = []
            for name in names[start : start + 32]:
                picture = members[name]
                assert picture is not None
                file.write_bytes(picture.read())
                pixels.append(read_picture(file, encoder.preprocessing, content_hash=False).pixels)
                stem = name.removesuffix(".jpg")
                words = members.get(f"{stem}.json") or members.get(f"{stem}.txt")
                assert words is not None
                raw = words.read().decode()
                texts.append(json.loads(raw)["captions"] if f"{stem}.json" in members else [raw])
            vectors.append(encoder.encode_images(np.stack(pixels)))
    return np.concatenate(vectors), texts


def relevance(texts: list[list[str]]) -> dict[str, np.ndarray[Any, Any]]:
    """For each word, which pictures it is true of. Shape of each: (N,) bool."""
    said = []
    for captions in texts:
        times = Counter(word for caption in captions for word in set(re.findall("[a-z]+", caption.lower())))
        said.append({word for word, count in times.items() if count >= min(2, len(captions))})
    low, high = WORD_IN_PICTURES
    counts = Counter(word for words in said for word in words)
    wanted = sorted(w for w, n in counts.items() if low <= n <= high and len(w) > 2 and w not in STOP)
    return {word: np.array([word in words for words in said]) for word in wanted}


def gain(vectors: FloatArray, queries: FloatArray, relevant: list[Any], method: Refine) -> dict[str, float]:
    """Precision before and after feedback, over all queries: of the pictures that were not judged, and of all."""
    before, after = [], []
    all_before, all_after = [], []
    centre = vectors.mean(axis=0)
    for query, truth in zip(queries, relevant, strict=True):
        order = np.argsort(-(vectors @ query))
        up, down = order[truth[order]][:JUDGED], order[~truth[order]][:JUDGED]
        rest = np.setdiff1d(order, np.concatenate([up, down]))
        refined = method(query, vectors[up], vectors[down], centre)
        for found, vector in ((before, query), (after, refined)):
            best = rest[np.argsort(-(vectors[rest] @ vector))][:AT]
            found.append(float(truth[best].mean()))
        for found, vector in ((all_before, query), (all_after, refined)):
            found.append(float(truth[np.argsort(-(vectors @ vector))[:AT]].mean()))
    return {
        "queries": len(before),
        "precision_before": round(float(np.mean(before)), 4),
        "precision_after": round(float(np.mean(after)), 4),
        "relative_gain": round(float(np.mean(after) / np.mean(before) - 1), 4),
        "of_all_before": round(float(np.mean(all_before)), 4),
        "of_all_after": round(float(np.mean(all_after)), 4),
        "of_all_relative_gain": round(float(np.mean(all_after) / np.mean(all_before) - 1), 4),
        "queries_made_worse": round(float(np.mean(np.array(after) < np.array(before))), 4),
    }


def rocchio(up_weight: float, down_weight: float) -> Refine:
    return lambda q, up, down, c: q + up_weight * (up.mean(axis=0) - c) - down_weight * (down.mean(axis=0) - c)


def ridge(strength: float, prior: float) -> Refine:
    """A linear probe towards 1 and -1 that leans on the query."""

    def refined(query: FloatArray, up: FloatArray, down: FloatArray, centre: FloatArray) -> FloatArray:
        examples = np.concatenate([up, down]) - centre
        wanted = np.repeat([1.0, -1.0], [len(up), len(down)])
        gram = examples @ examples.T + strength * np.eye(len(examples))
        learned: FloatArray = prior * query + examples.T @ np.linalg.solve(gram, wanted)
        return learned

    return refined


def words_gain(vectors: FloatArray, words: list[str], relevant: list[Any], encoder: Any) -> dict[str, Any]:
    """Precision@20 of words by themselves and with their prompt, and a bootstrap interval of the difference."""
    plain = encoder.encode_texts(words)
    both = plain + encoder.encode_texts([WORD_PROMPT.format(word) for word in words])
    scores = [
        np.array([t[np.argsort(-(vectors @ q))][:AT].mean() for q, t in zip(queries, relevant, strict=True)])
        for queries in (plain, both)
    ]
    difference = scores[1] - scores[0]
    drawn = np.random.default_rng(0).integers(0, len(words), (4000, len(words)))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    return {
        "precision_plain": round(float(scores[0].mean()), 4),
        "precision_with_prompt": round(float(scores[1].mean()), 4),
        "difference_95": [round(float(low), 4), round(float(high), 4)],
    }


def milliseconds(rows: int, dim: int) -> float:
    """Time from clicks to the twenty best of `rows` vectors: the median of 20."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    centre, spent = vectors[:4096].mean(axis=0), []
    for n in range(20):
        began = time.perf_counter()
        scores = vectors @ refine(vectors[n], vectors[n + 1 : n + 4], vectors[n + 4 : n + 7], centre)
        np.argpartition(-scores, AT)[:AT]
        spent.append(1000 * (time.perf_counter() - began))
    return float(np.median(spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    encoder = load_encoder(asked.model)
    methods: dict[str, Refine] = {"clipsearch": refine}
    methods |= {f"rocchio {b:g} {g:g}": rocchio(b, g) for b in (0.5, 1, 2) for g in (0, b / 4, b / 2)}
    methods |= {f"ridge {s:g} {p:g}": ridge(s, p) for s in (0.3, 1, 3) for p in (0.5, 1, 2)}
    report: dict[str, Any] = {"model": asked.model, "weights": [UP_WEIGHT, DOWN_WEIGHT]}
    for name in ("flickr8k-dev-0000", "fashion-dev-0000"):
        vectors, texts = read_pairs(asked.data / f"{name}.tar", encoder)
        truths = relevance(texts)
        words, relevant = list(truths), list(truths.values())
        queries = encoder.encode_texts(words)
        report[name] = {method: gain(vectors, queries, relevant, fn) for method, fn in methods.items()}
        report[name]["prompt"] = words_gain(vectors, words, relevant, encoder)
    report["refined_search_100000_ms"] = round(milliseconds(100_000, encoder.dim), 1)
    text = json.dumps(report, indent=1)
    print(text)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
