"""Data-parallel training: several processes, each with its share of every batch. One process is the plain case.

What is measured is shared out, too (`gather_shares`).

Started by `torchrun`, which sets RANK, LOCAL_RANK and WORLD_SIZE. Features are gathered with their gradients, each
process computes the loss of its own rows, and gradients of parameters are averaged after the backward pass, so a
step equals that of one process with the whole batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from clipsearch.training.settings import OtherProcessEnded
from clipsearch.training.world import World

T = TypeVar("T")


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[World]:
    """Join the other processes (NCCL on CUDA, gloo elsewhere), and leave them at the end."""
    if world.size == 1 or dist.is_initialized():
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "::1", "localhost"):  # gloo would look this machine's name up
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=world.rank, world_size=world.size)
    try:
        yield world
    except RuntimeError as error:
        if _is_lost_connection(error):
            raise OtherProcessEnded(world.rank) from error
        raise
    finally:
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether a process that did not end itself could not reach one that did. Gloo has no error of its own."""
    return isinstance(error, dist.DistBackendError) or "gloo" in str(error).lower()


class _Gather(torch.autograd.Function):
    """All processes' rows below each other; the gradient of a row is the sum over the processes that used it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.count
        return gradient[first : first + ctx.count]


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks, with gradients. Every process must bring as many."""
    if not _several():
        return rows
    if not rows.requires_grad:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes, in one message for each type of number.

    A parameter that no process has used stays without one, so that the optimizer leaves it alone, as in one process.
    """
    if not _several():
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    known = list(parameters)
    if not known:
        return
    used = torch.tensor([parameter.grad is not None for parameter in known], dtype=torch.int32)
    used = used.to(known[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    for parameter, some in zip(known, used.tolist(), strict=True):
        if not some:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()


def mean_over_processes(value: float, device: torch.device) -> float:
    """The mean of a number over the processes."""
    if not _several():
        return value
    tensor = torch.tensor(value, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    dist.all_reduce(tensor)
    return float(tensor) / dist.get_world_size()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether one of the processes says so: all of them then do the same (stop, save)."""
    return mean_over_processes(float(flag), device) > 0


def gather_shares(own: list[T]) -> list[T]:
    """What all processes have, in the order of the whole: item i is the business of process i modulo their number."""
    if not _several():
        return own
    shares: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, own)
    return [item for turn in zip_longest(*shares) for item in turn if item is not None]


def of_first(tensor: Tensor, device: torch.device) -> Tensor:
    """The first process's tensor, in all of them, on the CPU. Every process must bring one of that shape."""
    if not _several():
        return tensor
    sent = tensor.to(device)
    dist.broadcast(sent, src=0)
    return sent.cpu()


def first_alone(action: Callable[[], object], world: World) -> None:
    """Have the first process do something, and the others wait until it has. Raises: what it raises.

    The others then raise OtherProcessEnded: they would wait for the first one in vain.
    """
    done = [True]
    try:
        if world.is_first:
            action()
    except BaseException:
        done = [False]
        raise
    finally:
        if _several():
            dist.broadcast_object_list(done, src=0)
    if not done[0]:
        raise OtherProcessEnded(world.rank)


def wait_for_all() -> None:
    """Return once every process has come this far."""
    if _several():
        dist.barrier()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
