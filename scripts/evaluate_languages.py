"""Measures how well a model understands captions in other languages than English.

    python scripts/evaluate_languages.py --stamps DIR --model builtin

DIR is the folder `usr/share/tuxpaint/stamps` of Debian's package `tuxpaint-stamps-default` (`apt-get download` it,
`dpkg-deb -x` it): pictures, each beside a text whose first line is an English caption and whose other lines are its
translations (`de.utf8=Ein Hund.`). For each language, prints how often a caption finds its own stamp among all of them,
and how many of the ten stamps that the English caption finds the translation finds as well. Stamps with the same
English caption count once, and drawings in SVG are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.encoder.names import load_encoder
from clipsearch.evaluation.recall import RECALL_AT, evaluate
from clipsearch.pairs.encoding import encode_captions, encode_pictures
from clipsearch.pairs.reading import PictureSource
from clipsearch.records import FloatArray, IntArray

SUFFIX = ".utf8"
ENGLISH = "en"
DEFAULT_LANGUAGES = "zh_CN,es,de,fr,ja,zh_TW,it,pt,nl,ru,pl,ko,tr,ar,th"
COMPARED = 10


@dataclass(frozen=True, slots=True)
class Stamp:
    """A picture and what is said of it, by language."""

    picture: Path
    captions: dict[str, str]


def main() -> None:
    """Print one table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path, required=True, help="folder of the stamps")
    parser.add_argument("--model", action="append", help="a model's name or directory; may be repeated")
    parser.add_argument("--languages", default=DEFAULT_LANGUAGES, help=f"default {DEFAULT_LANGUAGES}")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    stamps = read_stamps(options.stamps)
    for name in options.model or ["builtin"]:
        print(f"{name}, {len(stamps)} stamps")
        for line in measure(name, stamps, options.languages.split(","), options.threads):
            print(line, flush=True)


def read_stamps(folder: Path) -> list[Stamp]:
    """Return the stamps below a folder that are PNG, the first of those that share an English caption.

    Raises: FileNotFoundError if there is none.
    """
    found: dict[str, Stamp] = {}
    for text in sorted(folder.rglob("*.txt")):
        picture = text.with_suffix(".png")
        captions = parse_captions(text.read_text(encoding="utf-8", errors="replace"))
        if picture.is_file() and ENGLISH in captions:
            found.setdefault(captions[ENGLISH], Stamp(picture, captions))
    if not found:
        raise FileNotFoundError(f"no stamp with a caption in {folder}: give the folder usr/share/tuxpaint/stamps")
    return list(found.values())


def parse_captions(text: str) -> dict[str, str]:
    """Return the captions of a stamp by language; those that are empty are left out."""
    first, *others = text.splitlines() or [""]
    captions = {ENGLISH: first.strip()}
    for line in others:
        language, separator, caption = line.partition(f"{SUFFIX}=")
        if separator:
            captions[language.strip()] = caption.strip()
    return {language: caption for language, caption in captions.items() if caption}


def measure(name: str, stamps: Sequence[Stamp], languages: Sequence[str], threads: int) -> list[str]:
    """Return the lines of a model's table."""
    encoder = load_encoder(name, precision="fp32", threads=threads)
    sources = [PictureSource(str(stamp.picture), stamp.picture.stat().st_size) for stamp in stamps]
    pictures = encode_pictures(encoder, sources)
    kept = [stamps[number] for number in pictures.kept]
    english = encode_captions(encoder, [stamp.captions[ENGLISH] for stamp in kept])
    lines = [f"{'':6} captions" + "".join(f"{f'R@{k}':>7}" for k in RECALL_AT) + "  of English's ten"]
    for language in [ENGLISH, *languages]:
        owner = np.array([row for row, stamp in enumerate(kept) if language in stamp.captions], np.int64)
        if not len(owner):
            lines.append(f"{language:6} none")
            continue
        texts = encode_captions(encoder, [kept[row].captions[language] for row in owner])
        recall = evaluate(pictures.vectors, texts, owner).text_to_image
        same = shared(best(texts, pictures.vectors), best(english[owner], pictures.vectors))
        values = "".join(f"{100 * recall.recall(k):7.1f}" for k in RECALL_AT)
        lines.append(f"{language:6} {len(owner):8}{values}{100 * same:18.1f}")
    return lines


def best(texts: FloatArray, pictures: FloatArray) -> IntArray:
    """Return the rows of the COMPARED pictures that suit each text best, (T, COMPARED), in no order."""
    found: IntArray = np.argpartition(-(texts @ pictures.T), COMPARED - 1, axis=1)[:, :COMPARED]
    return found


def shared(some: IntArray, others: IntArray) -> float:
    """Return the mean share of the entries of each row of `some` that are in the same row of `others`."""
    return float(np.mean([np.isin(row, other).mean() for row, other in zip(some, others, strict=True)]))


if __name__ == "__main__":
    main()
