"""What the model is trained and measured on: pictures with captions, and texts for the 1,000 classes."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import timm
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image


class Source(NamedTuple):
    """Captioned pictures of one kind. `shown`: how often an epoch shows each of them."""

    name: str
    pattern: str
    shown: int


SOURCES = (
    Source("flickr8k", "flickr8k-train-*.tar", 5),
    Source("coco", "coco-train-*.tar", 4),
    Source("textbook", "textbook-train-*.tar", 3),
    Source("food", "food-train-*.tar", 3),
)
"""What is trained on. The shares were chosen on the development pictures. Products are left out: they are what the
trainer is shown on, and measured with."""
DEVELOPMENT = Source("flickr8k-dev", "flickr8k-dev-*.tar", 0)
"""Photos to measure with, whose captions must not be trained on in translation either."""
FEWEST_WORDS, MOST_WORDS = 2, 5  # of a shortened caption, articles among them
_GOES_ON = re.compile(
    r"\b(in|on|with|while|at|near|by|next|that|who|wearing|and|of|for|from|through|over|under|behind|against|as|is|are|has"
    r"|which|to|holding|standing|sitting)\b"
)
_ARTICLE = re.compile(r"^(there is a|this is a|this is|a|an|the|some) ")
LONGEST = 400  # letters of a caption: what comes after is beyond the text tower's tokens


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """An encoded picture file and its captions."""

    data: bytes
    captions: list[str]

    def decode(self) -> Image.Image:
        """Return the picture as RGB."""
        return Image.open(io.BytesIO(self.data)).convert("RGB")


def read_source(folder: Path, source: Source) -> list[CaptionedPicture]:
    """Return the pictures of a source that have a caption, in the order of file name and key.

    Raises: FileNotFoundError if there is no tar of it.
    """
    tars = sorted(folder.glob(source.pattern))
    if not tars:
        raise FileNotFoundError(f"no {source.pattern} in {folder}: give the folder of the tars with --data")
    return [picture for tar in tars for picture in _read_tar(tar)]


def _read_tar(path: Path) -> Iterator[CaptionedPicture]:
    pictures: dict[str, bytes] = {}
    captions: dict[str, list[str]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                continue
            key, _, suffix = member.name.rpartition(".")
            if suffix == "jpg":
                pictures[key] = content.read()
            elif suffix == "json":
                captions[key] = json.loads(content.read())["captions"]
            elif suffix == "txt":
                captions[key] = [content.read().decode("utf-8").strip()]
    for key in sorted(pictures):
        said = [text[:LONGEST] for text in captions.get(key, []) if text.strip()]
        if said:
            yield CaptionedPicture(pictures[key], said)


def shorten(caption: str) -> str:
    """What somebody might type to find a picture: the caption up to the first word that goes on to say where or what
    is done, without an article."""
    text = caption.strip().rstrip(" .").lower()
    words = text.split()
    ends = (match.start() for match in _GOES_ON.finditer(text))
    end = next((end for end in ends if len(text[:end].split()) >= FEWEST_WORDS), None)
    short = " ".join(words[:MOST_WORDS]) if end is None else text[:end]
    return _ARTICLE.sub("", short).strip(" ,") or " ".join(words[:MOST_WORDS])


@dataclass(frozen=True, slots=True)
class ClassText:
    """A text that names or describes one of the 1,000 classes, and how often it is drawn in training.

    `is_name`: one of the texts that the class's own vector starts from.
    """

    label: int
    text: str
    weight: float
    is_name: bool


TEMPLATES = (
    ("{}", 3.0),
    ("a photo of a {}.", 1.0),
    ("a photo of a {}", 1.0),
    ("a picture of the {}", 1.0),
    ("a close-up photo of a {}", 1.0),
    ("there is a {} in the scene", 1.0),
)
NAME_TEMPLATES = ("{}", "a photo of a {}")
SYNONYM_WEIGHT = 0.5
DEFINITION_WEIGHT = 0.75


def class_texts() -> list[ClassText]:
    """Return names, WordNet synonyms and WordNet definitions of all classes, names in several templates."""
    texts: list[ClassText] = []
    for label, (name, (lemmas, definition)) in enumerate(zip(IMAGENET_CLASSNAMES, _wordnet(), strict=True)):
        for alias, share, leads in [
            (name, 1.0, True),
            (lemmas[0], 1.0, True),
            *((lemma, SYNONYM_WEIGHT, False) for lemma in lemmas[1:]),
        ]:
            texts += [
                ClassText(label, form.format(alias), weight * share, leads and form in NAME_TEMPLATES)
                for form, weight in TEMPLATES
            ]
        texts.append(ClassText(label, definition, DEFINITION_WEIGHT, is_name=False))
    return texts


def wordnet_texts() -> list[str]:
    """Return the lemmas and definitions of all synsets of WordNet that ImageNet has, some 60,000 texts."""
    folder = Path(timm.__file__).parent / "data" / "_info"
    lemmas = _table(folder / "imagenet_synset_to_lemma.txt").values()
    names = dict.fromkeys(name for names in lemmas for name in names.split(", "))
    return [*names, *_table(folder / "imagenet_synset_to_definition.txt").values()]


def _wordnet() -> list[tuple[list[str], str]]:
    """Return each class's lemmas and definition, from the lists that timm carries."""
    folder = Path(timm.__file__).parent / "data" / "_info"
    lemmas = _table(folder / "imagenet_synset_to_lemma.txt")
    definitions = _table(folder / "imagenet_synset_to_definition.txt")
    synsets = (folder / "imagenet_synsets.txt").read_text().split()
    return [(lemmas[synset].split(", "), definitions[synset]) for synset in synsets]


def _table(path: Path) -> dict[str, str]:
    table: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        synset, _, text = line.partition("\t")
        table[synset] = text
    return table
