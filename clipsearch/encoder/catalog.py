"""The ONNX exports that the immich project publishes, as far as they are worth naming.

Dimensions and picture sizes are those of open_clip's configurations, `size_bytes` four bytes for each of their
parameters (what is downloaded is a few megabytes more, the tokenizer).
"""

from __future__ import annotations

from dataclasses import dataclass

RECOMMENDED = "ViT-B-32-SigLIP2-256__webli"


@dataclass(frozen=True, slots=True)
class PublishedExport:
    """One published export. `picture_side` in pixels."""

    name: str
    dim: int
    picture_side: int
    size_bytes: int
    languages: str


def _exports() -> tuple[PublishedExport, ...]:
    english, many = "English", "multilingual"
    rows: list[tuple[str, int, int, int, str]] = [
        # name, dimensions, picture side, megabytes, languages
        ("ViT-B-32-SigLIP2-256__webli", 768, 256, 1507, many),
        ("ViT-B-16-SigLIP2__webli", 768, 224, 1501, many),
        ("ViT-L-16-SigLIP2-256__webli", 1024, 256, 3526, many),
        ("ViT-L-16-SigLIP2-384__webli", 1024, 384, 3527, many),
        ("ViT-L-16-SigLIP2-512__webli", 1024, 512, 3529, many),
        ("ViT-SO400M-14-SigLIP2__webli", 1152, 224, 4542, many),
        ("ViT-SO400M-14-SigLIP2-378__webli", 1152, 378, 4544, many),
        ("ViT-SO400M-16-SigLIP2-256__webli", 1152, 256, 4543, many),
        ("ViT-SO400M-16-SigLIP2-384__webli", 1152, 384, 4544, many),
        ("ViT-SO400M-16-SigLIP2-512__webli", 1152, 512, 4546, many),
        ("ViT-gopt-16-SigLIP2-256__webli", 1536, 256, 7486, many),
        ("ViT-gopt-16-SigLIP2-384__webli", 1536, 384, 7488, many),
        ("ViT-B-16-SigLIP-i18n-256__webli", 768, 256, 1483, many),
        ("ViT-B-16-SigLIP__webli", 768, 224, 813, english),
        ("ViT-B-16-SigLIP-256__webli", 768, 256, 813, english),
        ("ViT-B-16-SigLIP-384__webli", 768, 384, 814, english),
        ("ViT-B-16-SigLIP-512__webli", 768, 512, 815, english),
        ("ViT-L-16-SigLIP-256__webli", 1024, 256, 2609, english),
        ("ViT-L-16-SigLIP-384__webli", 1024, 384, 2610, english),
        ("ViT-SO400M-14-SigLIP-384__webli", 1152, 384, 3512, english),
        ("ViT-B-32__openai", 512, 224, 605, english),
        ("ViT-B-32__laion2b-s34b-b79k", 512, 224, 605, english),
        ("ViT-B-16__openai", 512, 224, 598, english),
        ("ViT-B-16__laion400m_e32", 512, 224, 598, english),
        ("ViT-B-16-plus-240__laion400m_e32", 640, 240, 834, english),
        ("ViT-L-14__openai", 768, 224, 1710, english),
        ("ViT-L-14__laion2b-s32b-b82k", 768, 224, 1710, english),
        ("ViT-L-14-quickgelu__dfn2b", 768, 224, 1710, english),
        ("ViT-L-14-336__openai", 768, 336, 1712, english),
        ("ViT-H-14__laion2b-s32b-b79k", 1024, 224, 3944, english),
        ("ViT-H-14-quickgelu__dfn5b", 1024, 224, 3944, english),
        ("ViT-H-14-378-quickgelu__dfn5b", 1024, 378, 3947, english),
        ("ViT-g-14__laion2b-s12b-b42k", 1024, 224, 5467, english),
        ("RN50__openai", 1024, 224, 408, english),
        ("RN101__openai", 512, 224, 479, english),
        ("RN50x4__openai", 640, 288, 713, english),
        ("RN50x16__openai", 768, 384, 1164, english),
        ("RN50x64__openai", 1024, 448, 2493, english),
    ]
    return tuple(PublishedExport(name, dim, side, size * 1_000_000, words) for name, dim, side, size, words in rows)


PUBLISHED: tuple[PublishedExport, ...] = _exports()
