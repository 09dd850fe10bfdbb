"""Measures the embedded model on the development pictures, using only the files that are shipped.

    python scripts/evaluate_builtin.py --data DIR

Prints Recall@1/5/10 from text to image and from image to text over `flickr8k-dev-*.tar`, the speed of both
towers, and the time from nothing to the first text's vector in a new process. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from clipsearch.records import FloatArray, IntArray

ROOT = Path(__file__).resolve().parent.parent
BATCH = 16
COLD_QUERY = """
import time
start = time.perf_counter()
import sys
import numpy, onnxruntime
from tokenizers import Tokenizer
imported = time.perf_counter()
folder = sys.argv[1]
session = onnxruntime.InferenceSession(folder + "/textual/model.onnx")
tokenizer = Tokenizer.from_file(folder + "/textual/tokenizer.json")
tokenizer.no_padding()
ids = tokenizer.encode("a dog on a beach").ids
session.run(None, {"text": numpy.array([ids], dtype=numpy.int32)})
print(imported - start, time.perf_counter() - imported)
"""


class Model:
    """The shipped files, loaded."""

    def __init__(self, folder: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._visual = onnxruntime.InferenceSession(folder / "visual/model.onnx", options)
        self._textual = onnxruntime.InferenceSession(folder / "textual/model.onnx", options)
        self._tokenizer = Tokenizer.from_file(str(folder / "textual/tokenizer.json"))
        self._tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
        preprocessing = json.loads((folder / "visual/preprocess_cfg.json").read_text())
        self._height, self._width = preprocessing["size"]
        self._mean = np.asarray(preprocessing["mean"], np.float32)
        self._std = np.asarray(preprocessing["std"], np.float32)

    def prepare(self, picture: Image.Image) -> FloatArray:
        """Return the input of the image tower, (3, H, W)."""
        resized = picture.convert("RGB").resize((self._width, self._height), Image.Resampling.BICUBIC)
        scaled = np.asarray(resized, np.float32) / np.float32(255)
        return np.ascontiguousarray(((scaled - self._mean) / self._std).transpose(2, 0, 1))

    def encode_images(self, pixels: FloatArray) -> FloatArray:
        """Return unit vectors. Shapes: pixels (B, 3, H, W), result (B, D)."""
        return _unit(self._visual.run(None, {"image": pixels})[0])

    def encode_texts(self, texts: list[str]) -> FloatArray:
        """Return unit vectors, (B, D)."""
        ids = np.asarray([encoding.ids for encoding in self._tokenizer.encode_batch(texts)], np.int32)
        return _unit(self._textual.run(None, {"text": ids})[0])


def main() -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the WebDataset tars")
    parser.add_argument("--model", type=Path, default=ROOT / "clipsearch/models/builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", type=Path, help="a second model: print the cosines between both")
    options = parser.parse_args()

    pictures, captions = _read(options.data)
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    texts = [text for picture in captions for text in picture]
    images, vectors, seconds = _encode(Model(options.model, options.threads), pictures, texts)
    similarity = vectors @ images.T

    print(f"{len(pictures)} pictures, {len(texts)} captions")
    print("text to image  " + _recalls(_text_ranks(similarity, owner)))
    print("image to text  " + _recalls(_image_ranks(similarity, owner)))
    print(f"image tower    {len(pictures) / seconds:.0f} pictures/s, batch {BATCH}, {options.threads} threads")
    if options.reference:
        expected_images, expected_vectors, _ = _encode(Model(options.reference, options.threads), pictures, texts)
        print("reference      text to image  " + _recalls(_text_ranks(expected_vectors @ expected_images.T, owner)))
        print("cosine to it   pictures " + _cosines(images, expected_images))
        print("cosine to it   texts    " + _cosines(vectors, expected_vectors))
    command = [sys.executable, "-c", COLD_QUERY, str(options.model)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(5)]
    imports, query = np.median([[float(part) for part in run.split()] for run in runs], axis=0) * 1000
    print(f"cold text      {query:.0f} ms to load and encode one text, after {imports:.0f} ms of imports")


def _encode(model: Model, pictures: list[Image.Image], texts: list[str]) -> tuple[FloatArray, FloatArray, float]:
    """Return the vectors of pictures and texts, and the seconds spent in the image tower."""
    images: list[FloatArray] = []
    seconds = 0.0
    for start in range(0, len(pictures), BATCH):
        pixels = np.stack([model.prepare(picture) for picture in pictures[start : start + BATCH]])
        began = time.perf_counter()
        images.append(model.encode_images(pixels))
        seconds += time.perf_counter() - began
    vectors = [model.encode_texts(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return np.concatenate(images), np.concatenate(vectors), seconds


def _cosines(vectors: FloatArray, expected: FloatArray) -> str:
    cosines = (vectors * expected).sum(axis=1)
    return f"mean {cosines.mean():.5f}, lowest {cosines.min():.5f}"


def _read(folder: Path) -> tuple[list[Image.Image], list[list[str]]]:
    """Return the development pictures and their captions."""
    pictures: list[Image.Image] = []
    captions: list[list[str]] = []
    for path in sorted(folder.glob("flickr8k-dev-*.tar")):
        with tarfile.open(path) as archive:
            for name in sorted(archive.getnames()):
                content = archive.extractfile(name)
                if content is None:
                    continue
                if name.endswith(".jpg"):
                    pictures.append(Image.open(io.BytesIO(content.read())))
                elif name.endswith(".json"):
                    captions.append(json.loads(content.read())["captions"])
    if not pictures:
        raise SystemExit(f"no flickr8k-dev-*.tar in {folder}")
    return pictures, captions


def _text_ranks(similarity: FloatArray, owner: IntArray) -> IntArray:
    """Return for each text how many pictures score above its own. Shape: similarity (texts, pictures)."""
    own = similarity[np.arange(len(owner)), owner]
    return np.asarray((similarity > own[:, None]).sum(axis=1), dtype=np.int64)


def _image_ranks(similarity: FloatArray, owner: IntArray) -> IntArray:
    """Return for each picture how many texts score above the best of its own."""
    own = np.where(owner[:, None] == np.arange(similarity.shape[1]), similarity, -np.inf).max(axis=0)
    return np.asarray((similarity > own).sum(axis=0), dtype=np.int64)


def _recalls(ranks: IntArray) -> str:
    return "  ".join(f"R@{k} {100 * np.mean(ranks < k):.1f} %" for k in (1, 5, 10))


def _unit(vectors: npt.NDArray[np.float32]) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


if __name__ == "__main__":
    main()
