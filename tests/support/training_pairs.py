"""Small sets of pairs for tests of training: pictures like no other, with captions that tell them apart."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tests.support.pictures import picture

ADJECTIVES = ("red", "tall", "quiet", "old", "round", "warm", "bright", "soft")
NOUNS = ("boat", "hill", "cat", "lamp", "tree", "door", "shoe", "cloud")


def caption(number: int) -> str:
    """A caption that no other number below 4,096 has."""
    first, rest = ADJECTIVES[number % 8], number // 8
    return f"a {first} {NOUNS[rest % 8]} and a {ADJECTIVES[rest // 8 % 8]} {NOUNS[(rest // 64) % 8]}"


def write_pairs(folder: Path, count: int, *, first: int = 0) -> Path:
    """Write a folder of pictures with a .txt beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        picture(number).save(folder / f"p{number:05d}.png")
        (folder / f"p{number:05d}.txt").write_text(caption(number))
    return folder


WORDS = ("zorp", "blick", "quam", "frell", "tonk", "vusk")  # what these pairs call six shapes


def write_shapes(folder: Path, each: int, first: int = 0) -> Path:
    """Pictures of six kinds with made-up names, so that a model cannot know them beforehand."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, word in enumerate(WORDS):
        for number in range(first, first + each):
            image = Image.new("RGB", (64, 64), (255, 250 - number % 7, 245))
            draw = ImageDraw.Draw(image)
            at, colour = 8 + number % 9, (200 - 30 * kind, 20 + 35 * kind, 40 + (number * 13) % 60)
            box = (at, at, at + 38, at + 38)
            if kind % 3 == 0:
                draw.ellipse(box, fill=colour)
            elif kind % 3 == 1:
                draw.rectangle(box, outline=colour, width=7)
            else:
                draw.polygon([(at, at + 38), (at + 20, at), (at + 38, at + 38)], fill=colour)
            name = f"{word}{number:03d}"
            image.save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(f"{word} number {number}")
    return folder
