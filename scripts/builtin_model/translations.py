"""Sentences in other languages that say what an English caption says, or what a picture shows.

From the folder `text` beside the tars: human translations of captions into German, French and Czech, captions that
Germans, Chinese and Japanese wrote to the same photos, and machine translations into Chinese (the first of two). The
tars no longer name their photos as these files do; they are found by their English captions.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .pairs import CaptionedPicture

FOLDER = "text"


@dataclass(frozen=True, slots=True)
class Translation:
    """A sentence. `english`: what it translates; `picture`: the number of the picture that it describes."""

    language: str
    text: str
    english: str | None
    picture: int | None


def read_translations(
    folder: Path, pictures: Sequence[CaptionedPicture], unseen: Sequence[CaptionedPicture] = ()
) -> list[Translation]:
    """Return the sentences whose English original, or whose picture among `pictures` (of Flickr8k), is known, but none
    that translates a caption of the `unseen` pictures.

    Raises: FileNotFoundError.
    """
    held_out = {_plain(text) for picture in unseen for text in picture.captions}
    numbers = {_plain(text): number for number, picture in enumerate(pictures) for text in picture.captions}
    votes: dict[str, Counter[int]] = {}
    found: list[Translation] = []
    for key, english, chinese, _ in _rows(folder / "flickr8k-zh-translated.tsv.gz", header=True):
        number = numbers.get(_plain(english))
        if number is not None:
            votes.setdefault(_photo(key), Counter())[number] += 1
            found.append(Translation("zh", chinese, english, number))
    of_photo = {photo: counted.most_common(1)[0][0] for photo, counted in votes.items()}
    for language, name in (
        ("zh", "flickr8k-zh-human"),
        ("de", "multi30k-independent-de"),
        ("ja", "flickr30k-ja-human"),
    ):
        found += [
            Translation(language, "".join(text), None, of_photo[_photo(key)])
            for key, *text in _rows(folder / f"{name}.tsv.gz")
            if _photo(key) in of_photo
        ]
    for english, *others in _rows(folder / "multi30k-train.tsv.gz", header=True):
        if _plain(english) in held_out:
            continue
        number = numbers.get(_plain(english))
        found += [
            Translation(language, text, english, number)
            for language, text in zip(("de", "fr", "cs"), others, strict=True)
        ]
    return [sentence for sentence in found if sentence.text.strip()]


def _rows(path: Path, *, header: bool = False) -> Iterator[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        if header:
            next(lines)
        for line in lines:
            yield line.rstrip("\n").split("\t")


def _photo(key: str) -> str:
    """The number of a photo on Flickr, by which all sets know it: of `667626_18933d713e.jpg#0` the first."""
    return re.split(r"\D", key, maxsplit=1)[0]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
