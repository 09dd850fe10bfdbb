"""One process of a data-parallel step: writes its loss and its averaged gradients.

The tests fork it from a server that has imported PyTorch once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from clipsearch.pairs.reading import open_pairs
from clipsearch.training import distributed
from clipsearch.training.grad_cache import whole_backward
from clipsearch.training.loop import Loop
from clipsearch.training.run import resume
from clipsearch.training.run_folder import RunFolder
from clipsearch.training.settings import Settings
from clipsearch.training.towers import TowersTrainee
from clipsearch.training.world import world_of_environment
from tests.support.open_clip_models import SMALL_VIT, small_encoder

BATCH = 12


def carry_out(
    environment: Mapping[str, str],
    folder: Path,
    out: Path,
    micro: int | None,
    measured: bool = False,
    hard: bool = False,
) -> None:
    """`environment`: RANK, WORLD_SIZE, ... as torchrun sets them. `micro`: pictures at a time, by gradient caching.

    `measured`: write the ranks of held-out pairs instead. `hard`: with both kinds of hard negatives.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    with distributed.joined(world_of_environment(), torch.device("cpu")) as world:
        pairs = open_pairs([folder])
        settings = Settings("full", epochs=2, batch=BATCH, micro_batch=micro, views=2, gradient_norm=0)
        if hard:
            settings = replace(settings, hard_negatives="both")
        trainee = TowersTrainee(small_encoder(SMALL_VIT), settings, pairs, {"dev": pairs}, world)
        if measured:
            metrics = trainee.measure("dev")
            shares = [[number for numbers, _ in groups for number in numbers] for groups in trainee._pixels.values()]
            found = {"ranks": metrics.text_to_image.ranks.tolist(), "back": metrics.image_to_text.ranks.tolist()}
            (out / f"rank{world.rank}.json").write_text(json.dumps({**found, "decoded": shares}))
            return
        loop = Loop(trainee, trainee.order, settings, RunFolder(out / "run"), world=world)
        if hard:
            loop._mine(0)
        trainee.set_training(True)
        loss = whole_backward(loop._parts(0), trainee.encode, loop._loss)
        value = distributed.mean_over_processes(float(loss), trainee.device)
        distributed.average_gradients(loop.parameters.values())
        found = {name: value.grad.clone() for name, value in loop.parameters.items() if value.grad is not None}
        found["loss"] = torch.tensor(value)
        save_file(
            {name: tensor.contiguous() for name, tensor in found.items()}, str(out / f"rank{world.rank}.safetensors")
        )


def resume_stopped(environment: Mapping[str, str], run: Path, out: Path) -> None:
    """Go on with a run that must not, and write what that raises."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    _write_raised(out, lambda: resume(run))


def end_alone(environment: Mapping[str, str], out: Path) -> None:
    """Let the last process end while the first waits for it, and write what both raise."""
    os.environ.update(environment)

    def act() -> None:
        with distributed.joined(world_of_environment(), torch.device("cpu")) as world:
            distributed.wait_for_all()  # both are connected
            if not world.is_first:
                raise MemoryError
            distributed.wait_for_all()

    _write_raised(out, act)


def _write_raised(out: Path, act: Callable[[], object]) -> None:
    try:
        act()
        said = "nothing"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    (out / f"rank{world_of_environment().rank}.json").write_text(json.dumps(said))
