"""A decoder process that reads words without a model: those that `write_picture` put into the first row of pixels.

Some words make it do what readers do at their worst: `hang`, `crash`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from clipsearch.pictures import worker
from clipsearch.records import Line
from tests.support.pictures import picture

REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAM = f"""
import runpy, sys
sys.path.insert(0, {str(REPOSITORY)!r})
runpy.run_module("tests.support.word_reader", run_name="__main__", alter_sys=False)
"""
COMMAND = [sys.executable, "-P", "-c", _PROGRAM]
WIDTH = 200
MARK = b"W:"


def write_picture(path: Path, text: str, seed: int) -> None:
    """A PNG whose first row of pixels says `text`; "" for a picture without words."""
    pixels = np.asarray(picture(seed, size=(WIDTH, 40))).copy()
    raw = (MARK if text else b"") + text.encode()
    row = np.zeros((WIDTH, 3), np.uint8)
    row[: len(raw), 0] = np.frombuffer(raw, np.uint8)
    pixels[0] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class FakeReader:
    """Has the interface of `clipsearch.pictures.words.Reader`."""

    def has_words(self, image: Image.Image) -> bool:
        return self._raw(image).startswith(MARK)

    def read(self, image: Image.Image) -> list[Line]:
        raw = self._raw(image)
        text = raw[len(MARK) :].split(b"\0")[0].decode() if raw.startswith(MARK) else ""
        if text == "hang":
            time.sleep(600)
        if text == "crash":
            os.abort()
        delay_s = float(os.environ.get("CLIPSEARCH_TEST_READ_S", "0"))
        time.sleep(delay_s)
        return [Line(text, (1, 0, len(text), 1), 0.9)] if text else []

    def _raw(self, image: Image.Image) -> bytes:
        return np.asarray(image.convert("RGB"))[0, :, 0].tobytes()


if __name__ == "__main__":
    worker.main(FakeReader)
