"""Small sets of pairs for tests of training: pictures like no other, with captions that tell them apart."""

from __future__ import annotations

from pathlib import Path

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
