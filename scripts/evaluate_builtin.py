"""Measures the embedded model on the development pictures, using only the files that are shipped.

    python scripts/evaluate_builtin.py --data DIR

Prints Recall@1/5/10 both ways over `flickr8k-dev-*.tar`, the speed of the image tower in fp32, and the time from
nothing to the first text's vector in a new process. Needs no PyTorch. `clipsearch eval` gives intervals as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.evaluation.recall import RECALL_AT, Retrieval, evaluate
from clipsearch.pairs.encoding import EncodedPairs, encode_pairs
from clipsearch.pairs.reading import PairSet, open_pairs
from clipsearch.pictures.images import read_picture
from clipsearch.records import FloatArray

ROOT = Path(__file__).resolve().parent.parent
TIMED_PICTURES = 256
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


def main() -> None:
    """Print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the WebDataset tars")
    parser.add_argument("--model", type=Path, default=ROOT / "clipsearch/models/builtin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", type=Path, help="a second model: print the cosines between both")
    options = parser.parse_args()

    pairs = open_pairs(str(options.data / "flickr8k-dev-*.tar"))
    encoder = OnnxEncoder(options.model, threads=options.threads, precision="fp32")
    encoded = encode_pairs(encoder, pairs)
    print(f"{len(encoded.pictures.kept)} pictures, {len(encoded.texts)} captions")
    _print_recalls("", encoded)
    speed = _pictures_per_s(encoder, pairs)
    print(f"image tower    {speed:.0f} pictures/s, fp32, {options.threads} threads")
    if options.reference:
        expected = encode_pairs(OnnxEncoder(options.reference, threads=options.threads, precision="fp32"), pairs)
        _print_recalls("reference ", expected)
        print("cosine to it   pictures " + _cosines(encoded.pictures.vectors, expected.pictures.vectors))
        print("cosine to it   texts    " + _cosines(encoded.texts, expected.texts))
    command = [sys.executable, "-c", COLD_QUERY, str(options.model)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(5)]
    imports, query = np.median([[float(part) for part in run.split()] for run in runs], axis=0) * 1000
    print(f"cold text      {query:.0f} ms to load and encode one text, after {imports:.0f} ms of imports")


def _print_recalls(prefix: str, encoded: EncodedPairs) -> None:
    metrics = evaluate(encoded.pictures.vectors, encoded.texts, encoded.owner)
    print(f"{prefix}text to image  {_recalls(metrics.text_to_image)}")
    print(f"{prefix}image to text  {_recalls(metrics.image_to_text)}")


def _recalls(retrieval: Retrieval) -> str:
    return "  ".join(f"R@{k} {100 * retrieval.recall(k):.1f} %" for k in RECALL_AT)


def _pictures_per_s(encoder: OnnxEncoder, pairs: PairSet) -> float:
    """The speed of the image tower alone, after one run to warm up."""
    prepared = [
        read_picture(pair.source.name, encoder.preprocessing, content=pair.read(), content_hash=False).pixels
        for pair in pairs[:TIMED_PICTURES]
    ]
    pixels = np.stack(prepared)
    encoder.encode_images(pixels[: encoder.pictures_per_call])
    began = time.perf_counter()
    encoder.encode_images(pixels)
    return len(pixels) / (time.perf_counter() - began)


def _cosines(vectors: FloatArray, expected: FloatArray) -> str:
    cosines = (vectors * expected).sum(axis=1)
    return f"mean {cosines.mean():.5f}, lowest {cosines.min():.5f}"


if __name__ == "__main__":
    main()
