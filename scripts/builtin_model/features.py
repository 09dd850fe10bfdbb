"""Computes the features of several views of every picture, and opens the tokenizer.

The image backbone is frozen and runs here as the very graph that is shipped, float16 weights included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino  # type: ignore[import-untyped,import-not-found,unused-ignore]
from onnx import TensorProto
from PIL import Image
from tokenizers import Tokenizer

from .graph import Array, Graph
from .image_backbone import IMAGE_SIZE, MEAN, STD, ImageBackbone
from .pairs import CaptionedPicture
from .text_backbone import CONTEXT_LENGTH

IMAGE_BATCH = 16
CROP_AREA = (0.5, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)


def prepare(picture: Image.Image, box: tuple[float, float, float, float] | None = None) -> Array:
    """Return a picture, or a box of it, as the image tower's input: (3, H, W), squashed, normalised."""
    resized = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=box)
    scaled = np.asarray(resized, dtype=np.float32) / np.float32(255)
    normalised = (scaled - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def image_features(
    backbone: ImageBackbone, pictures: Sequence[CaptionedPicture], crops: int, seed: int, workspace: Path
) -> npt.NDArray[np.float16]:
    """Return the pooled features of several views of each picture.

    The views are the picture, its mirror image, and `crops` random crops of half the area or more, half of
    them mirrored. Shape: (2 + crops, pictures, 1280).
    """
    graph = Graph("features")
    features = backbone.add_to(graph, "image")
    path = workspace / "image_backbone.onnx"
    shape: list[int | str] = ["batch", 3, IMAGE_SIZE, IMAGE_SIZE]
    graph.save(path, {"image": (TensorProto.FLOAT, shape)}, {features: ["batch", "features"]})
    # bfloat16 where the processor has it: half the time, and a cosine of 0.9997 to float32.
    tower = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    views: list[list[npt.NDArray[np.float16]]] = [[] for _ in range(2 + crops)]
    for batches in _ahead(_view_batches(pictures, crops, seed)):
        for view, batch in zip(views, batches, strict=True):
            view.append(tower(batch)[0].astype(np.float16))
    return np.stack([np.concatenate(view) for view in views])


def _view_batches(pictures: Sequence[CaptionedPicture], crops: int, seed: int) -> Iterator[list[Array]]:
    """Yield, for one batch of pictures after another, the inputs of all its views."""
    random = np.random.default_rng(seed)
    for start in range(0, len(pictures), IMAGE_BATCH):
        decoded = [picture.decode() for picture in pictures[start : start + IMAGE_BATCH]]
        whole = np.stack([prepare(picture) for picture in decoded])
        batches = [whole, np.ascontiguousarray(whole[..., ::-1])]
        for _ in range(crops):
            crop = [prepare(picture, _random_box(picture.size, random)) for picture in decoded]
            mirrored = random.random(len(crop)) < 0.5
            turned = [view[..., ::-1] if mirror else view for view, mirror in zip(crop, mirrored, strict=True)]
            batches.append(np.ascontiguousarray(np.stack(turned)))
        yield batches


def _ahead(items: Iterator[list[Array]]) -> Iterator[list[Array]]:
    """Yield the items, the next one being made in a thread while one is used."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        coming = executor.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = executor.submit(next, items, None)
            yield item


def load_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer without padding, truncating to the context length."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    return tokenizer


def _random_box(size: tuple[int, int], random: np.random.Generator) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of a random crop, in pixels. Its aspect varies around the picture's own, which
    in a panorama is the only one that half the area can have."""
    width, height = size
    while True:
        area = random.uniform(*CROP_AREA)
        aspect = np.exp(random.uniform(*np.log(CROP_ASPECT)))
        w, h = width * (area * aspect) ** 0.5, height * (area / aspect) ** 0.5
        if w <= width and h <= height:
            break
    left, top = random.uniform(0, width - w), random.uniform(0, height - h)
    return left, top, left + w, top + h
