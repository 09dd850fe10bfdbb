"""Names and keywords of Unicode's emoji in many languages: short everyday texts that are the same in each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

KINDS = ("annotations", "annotationsDerived")
INHERITED = "\u2191\u2191\u2191"  # stands for what another locale says


@dataclass(frozen=True, slots=True)
class Annotations:
    """The names, and the keywords without repetition, of a language."""

    names: list[str]
    keywords: list[str]

    @property
    def texts(self) -> list[str]:
        """Names and keywords."""
        return self.names + self.keywords


def read_annotations(folder: Path, language: str) -> Annotations:
    """Read a language of the folder `common` of Unicode's CLDR. Raises: FileNotFoundError."""
    names: list[str] = []
    keywords: dict[str, None] = {}
    for kind in KINDS:
        for entry in ElementTree.parse(folder / kind / f"{language}.xml").iter("annotation"):
            text = (entry.text or "").strip()
            if not text or text == INHERITED:
                continue
            if entry.get("type") == "tts":
                names.append(text)
            else:
                keywords.update(dict.fromkeys(part.strip() for part in text.split("|")))
    return Annotations(names, list(keywords))
