"""On a GPU: what share of its image tower's speed an index run reaches, and what holds the rest back.

Measures in turn, `--rounds` times: the bare forward pass over pictures that lie on the device already; the encoder with
decoded pictures in memory, in calls as an index run makes them; the same files decoded by Pillow alone in one process
for each core, and read by clipsearch alone (decoded, hashed, their metadata and colours read); the whole run,
`index_folder` into a fresh index. Prints each with its spread, the two ratios, and the agreement with fp32 on the
processor. Without --folder it makes JPEG files of 640 by 480 points; without weights those of the model are random,
which costs the same time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.common import machine, report
from clipsearch.cores import available_cores
from clipsearch.encoder.openclip import OpenClipEncoder
from clipsearch.encoder.quiet import quiet_logging
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.pictures.pool import DecodePool, DecodeTask
from clipsearch.records import PixelArray

SIZE = (640, 480)
FORWARD_RUNS = (256, 512, 1024)
AGREE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-32", help="of open_clip, with /TAG for published weights")
    parser.add_argument("--folder", type=Path, help="JPEG files")
    parser.add_argument("--files", type=int, default=6000, help="to make, without --folder")
    parser.add_argument("--pictures", type=int, default=16384, help="for the forward pass and the encoder alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()

    import torch

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device here: nothing was measured")
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or make_files(Path(made), arguments.files)
        measure(arguments, folder)


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    encoder = load(arguments.model, arguments.device)
    paths = sorted(str(path) for path in folder.rglob("*.jpg"))
    pixels = decoded(encoder, paths, arguments.pictures)
    runs: dict[str, Callable[[], float]] = {
        **{f"forward pass, {size} at once": forward(encoder, pixels, size) for size in FORWARD_RUNS},
        "encoder, decoded pictures": alone(encoder, pixels),
        "encoder, in one call": alone(encoder, pixels, len(pixels)),
        "decoding, Pillow": pillow(encoder, paths),
        "reading, clipsearch": reading(encoder, paths),
        "whole run": whole(encoder, folder, len(paths)),
    }
    for run in runs.values():
        run()
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            speeds[name].append(run())
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{arguments.model} in {encoder.precision} on {device_name(encoder)}, {available_cores()} cores")
    print(f"pictures/s, median (least to most) of {arguments.rounds} rounds in turn:")
    for name, values in speeds.items():
        print(f"  {name:28} {middle[name]:9.0f} ({min(values):.0f} to {max(values):.0f})")
    bare = max(middle[f"forward pass, {size} at once"] for size in FORWARD_RUNS)
    limit = min(bare, middle["reading, clipsearch"])
    shares = {
        "encoder_of_forward": middle["encoder, decoded pictures"] / bare,
        "run_of_slower_ceiling": middle["whole run"] / limit,
        "run_of_pillow": middle["whole run"] / min(bare, middle["decoding, Pillow"]),
    }
    least = agreement(encoder, arguments.model, pixels[:AGREE])
    print(
        f"encoder, in calls of {encoder.pictures_per_call}: {shares['encoder_of_forward']:.0%} of the best forward pass"
    )
    print(f"whole run: {shares['run_of_slower_ceiling']:.0%} of the slower of forward pass and reading")
    print(f"whole run: {shares['run_of_pillow']:.0%} of the slower of forward pass and Pillow, which only decodes")
    print(f"least cosine of {AGREE} pictures to fp32 on the processor: {least:.5f}")
    body = {
        "machine": machine("torch", "open_clip_torch"),
        "device": device_name(encoder),
        "model": arguments.model,
        "precision": encoder.precision,
        "pictures_per_s": speeds,
        "shares": shares,
        "least_cosine": least,
    }
    report(arguments.out, f"gpu_{arguments.model.replace('/', '_')}", body, {arguments.model: middle}, "pictures/s")


def load(model: str, device: str, precision: Any = "auto") -> OpenClipEncoder:
    """With published weights, or the same random ones each time."""
    import open_clip
    import torch

    name, _, tag = model.partition("/")
    if tag:
        return OpenClipEncoder(name, tag, device=device, precision=precision)
    torch.manual_seed(0)
    with quiet_logging():
        made = open_clip.create_model(name, pretrained=None)
    config = open_clip.get_model_config(name)
    return OpenClipEncoder.from_model(made, config, name=f"open_clip:{name}", device=device, precision=precision)


def device_name(encoder: OpenClipEncoder) -> str:
    import torch

    return torch.cuda.get_device_name(encoder.device) if encoder.device.startswith("cuda") else encoder.device


def forward(encoder: OpenClipEncoder, pixels: PixelArray, size: int) -> Callable[[], float]:
    """The tower alone, on pictures that are on the device."""
    import torch

    def synchronize() -> None:
        if encoder.device.startswith("cuda"):
            torch.cuda.synchronize(encoder.device)

    def run() -> float:
        with torch.inference_mode():
            tower = encoder.image_tower(pixels)
            given = torch.from_numpy(np.ascontiguousarray(pixels[:size])).to(encoder.device)
            tower(given)
            synchronize()
            began, count = time.perf_counter(), -(-len(pixels) // size)
            for _ in range(count):
                tower(given)
            synchronize()
            return count * len(given) / (time.perf_counter() - began)

    return run


def alone(encoder: OpenClipEncoder, pixels: PixelArray, at_once: int | None = None) -> Callable[[], float]:
    """Decoded pictures in ordinary memory, in calls of the size that the encoder asks for, if none is given."""

    def run() -> float:
        began, start = time.perf_counter(), 0
        while start < len(pixels):
            start += len(encoder.encode_images(pixels[start : start + (at_once or encoder.pictures_per_call)]))
        return len(pixels) / (time.perf_counter() - began)

    return run


def pillow(encoder: OpenClipEncoder, paths: list[str]) -> Callable[[], float]:
    """Decoding and shrinking alone, in a process for each core."""
    side = encoder.preprocessing.height

    def run() -> float:
        with multiprocessing.get_context("spawn").Pool(available_cores()) as pool:
            pool.starmap(shrink, [(path, side) for path in paths[: 4 * available_cores()]])
            began = time.perf_counter()
            pool.starmap(shrink, [(path, side) for path in paths], chunksize=16)
            return len(paths) / (time.perf_counter() - began)

    return run


def shrink(path: str, side: int) -> int:
    """Decode a JPEG as small as will do, and shrink it."""
    with Image.open(path) as image:
        image.draft("RGB", (side, side))
        return len(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).tobytes())


def reading(encoder: OpenClipEncoder, paths: list[str]) -> Callable[[], float]:
    """Everything that a run does with files but encoding."""

    def run() -> float:
        with DecodePool(encoder.preprocessing, workers=available_cores(), pieces=True) as pool:
            list(pool.run(tasks(paths[: 4 * available_cores()])))
            began = time.perf_counter()
            count = sum(result.skip is None for result in pool.run(tasks(paths)))
            return count / (time.perf_counter() - began)

    return run


def tasks(paths: list[str]) -> list[DecodeTask]:
    return [DecodeTask(number, path, size_bytes=Path(path).stat().st_size) for number, path in enumerate(paths)]


def whole(encoder: OpenClipEncoder, folder: Path, count: int) -> Callable[[], float]:
    """`clipsearch index`, its time from the first file seen to the last commit."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as place:
            began = time.perf_counter()
            done = index_folder(folder, encoder, index=Path(place) / "index", options=IndexOptions())
            assert done.encoded + done.copied == count, done
            return count / (time.perf_counter() - began)

    return run


def decoded(encoder: OpenClipEncoder, paths: list[str], count: int) -> PixelArray:
    """So many decoded pictures, repeated where there are not so many. Shape: (count, H, W, 3)."""
    with DecodePool(encoder.preprocessing, workers=available_cores()) as pool:
        few = [result.pixels for result in pool.run(tasks(paths[:2048])) if result.pixels is not None]
    return np.stack([few[number % len(few)] for number in range(count)])


def agreement(encoder: OpenClipEncoder, model: str, pixels: PixelArray) -> float:
    """Least cosine to the same weights in fp32 on the processor."""
    exact = load(model, "cpu", "fp32").encode_images(pixels)
    return float((exact * encoder.encode_images(pixels)).sum(axis=1).min())


def make_files(folder: Path, count: int) -> Path:
    """JPEG files of about 55 kB, as photographs of that size are: shapes of all sizes, edges, grain."""
    with multiprocessing.get_context("spawn").Pool(available_cores()) as pool:
        pool.starmap(make_file, [(folder, number) for number in range(count)], chunksize=16)
    return folder


def make_file(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    total = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for cells in (3, 7, 17, 41, 99):
        noise = rng.standard_normal((cells, cells, 3)).astype(np.float32) / cells**0.8
        total += np.stack([enlarged(noise[..., channel]) for channel in range(3)], axis=2)
    total = 128 + 50 * total / total.std() + rng.normal(0, 2, total.shape)
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=88)


def enlarged(noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()
