"""A process that trains heads on made-up features, or all of a small ViT on pictures, to be killed.

`carry_out` is what it does: it writes the checksum of the final weights, or kills itself inside a step. The tests fork
it from a server that has imported PyTorch once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xxhash

from clipsearch.pairs.reading import open_pairs
from clipsearch.training.feature_cache import CachedPairs, Features
from clipsearch.training.heads import HeadsTrainee
from clipsearch.training.loop import Loop
from clipsearch.training.order import Order
from clipsearch.training.run_folder import RunFolder
from clipsearch.training.settings import Settings
from clipsearch.training.towers import TowersTrainee
from tests.support.open_clip_models import SMALL_VIT, small_encoder
from tests.support.training_pairs import write_pairs

FORKS = multiprocessing.get_context("forkserver")
SLOW_TO_IMPORT = "torch._dynamo onnx matplotlib.figure matplotlib.backends.backend_agg clipsearch.training.heads"
PROCESSES = [__name__, "tests.faults.test_train_stops", "clipsearch.cli.train"]
FORKS.set_forkserver_preload([*PROCESSES, *SLOW_TO_IMPORT.split()])
"""Of the server of both files of tests of training: torch._dynamo, which PyTorch's first optimiser imports, takes two
seconds, and a run of the tests less than one."""

PAIRS, STEPS_PER_EPOCH, EPOCHS, DIM = 96, 6, 5, 16
STEPS = STEPS_PER_EPOCH * EPOCHS


def made_up(count: int, seed: int, views: int) -> CachedPairs:
    rng = np.random.default_rng(seed)

    def features(rows: int) -> Features:
        vectors = rng.normal(size=(rows, DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Features(rng.normal(size=(rows, 24)).astype("f2"), vectors.astype("f4"))

    numbers = np.arange(count)
    return CachedPairs(
        [features(count) for _ in range(views)], features(count), numbers, numbers, np.arange(count + 1), 0
    )


def heads_trainee() -> tuple[HeadsTrainee, Order, Settings]:
    settings = Settings(
        "heads", epochs=EPOCHS, batch=PAIRS // STEPS_PER_EPOCH, ema=0.9, checkpoint_steps=4, patience=99
    )
    model: Any = SimpleNamespace(dim=DIM, score_scale=20.0)
    train = made_up(PAIRS, 0, 2)
    trainee = HeadsTrainee(model, train, {"dev": made_up(40, 1, 1)}, settings)
    weights = np.where(np.arange(PAIRS) % 3 == 0, 2.0, 0.5).astype("f4")  # as of two sources that are mixed
    return trainee, Order(train.first_caption, PAIRS // STEPS_PER_EPOCH, settings.seed, weights=weights), settings


def full_trainee(folder: Path) -> tuple[Any, Order, Settings]:
    """Gradient caching, random views, averaged weights: all that a step draws or carries over."""
    batch = PAIRS // 4 // STEPS_PER_EPOCH
    settings = Settings(
        "full", epochs=EPOCHS, batch=batch, micro_batch=3, learning_rate=1e-3, ema=0.9, views=4, checkpoint_steps=4,
        patience=99,
    )  # fmt: skip
    config = {**SMALL_VIT, "text_cfg": {**SMALL_VIT["text_cfg"], "width": 16}}
    pairs, dev = open_pairs([folder / "train"]), open_pairs([folder / "dev"])
    trainee = TowersTrainee(small_encoder(config), settings, pairs, {"dev": dev})
    return trainee, trainee.order, settings


def write_inputs(folder: Path) -> None:
    """The pictures of `full`."""
    write_pairs(folder / "train", PAIRS // 4)
    write_pairs(folder / "dev", 8, first=100)


def carry_out(method: str, run: Path, result: Path, kill_at: int = -1) -> None:
    """Train in `run` to the end, and write to `result` what came of it; or die at a step."""
    torch.set_num_threads(1)
    trainee, order, settings = heads_trainee() if method == "heads" else full_trainee(run.parent / "pairs")
    folder = RunFolder(run)
    if not (run / "run.json").exists():
        folder.create({})
    loop = Loop(trainee, order, settings, folder)
    encode, seen = trainee.encode, 0

    def encode_or_die(part: Any) -> Any:
        nonlocal seen
        if loop.progress.step == kill_at and seen == 0:
            seen = 1
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(part)

    trainee.encode = encode_or_die  # type: ignore[method-assign]
    loop.run()
    digest = xxhash.xxh3_128()
    for name, value in sorted(loop.parameters.items()):
        digest.update(name.encode() + value.detach().numpy().tobytes())
    rows = [dict(row) for row in folder.metrics]
    result.write_text(f"{digest.hexdigest()} {xxhash.xxh3_64_hexdigest(repr(rows).encode())}")
