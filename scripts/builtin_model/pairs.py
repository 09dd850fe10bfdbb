"""What the model is trained and measured on: pictures with captions, and texts for the 1,000 classes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import timm
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """An encoded picture file and its captions."""

    data: bytes
    captions: list[str]

    def decode(self) -> Image.Image:
        """Return the picture as RGB."""
        return Image.open(io.BytesIO(self.data)).convert("RGB")


def read_tars(folder: Path, pattern: str) -> list[CaptionedPicture]:
    """Return the pictures of all matching WebDataset tars, in the order of file name and key.

    Raises: FileNotFoundError if no tar matches.
    """
    tars = sorted(folder.glob(pattern))
    if not tars:
        raise FileNotFoundError(f"no {pattern} in {folder}: give the folder of the tars with --data")
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
    for key in sorted(pictures):
        yield CaptionedPicture(pictures[key], captions[key])


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
