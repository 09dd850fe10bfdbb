"""`torch.compile` for the towers that are trained: tried before the first step, and left out where it fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clipsearch.config import cache_dir
from clipsearch.errors import first_line
from clipsearch.training.shortages import is_out_of_memory

Tower = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Towers:
    """What makes features of pixels, and of tokens."""

    image: Tower
    text: Tower


def compiled(towers: Towers, attempt: Callable[[Towers], object], notice: Callable[[str], None]) -> Towers:
    """Return the towers compiled, or as they are if that fails, which is said.

    `attempt`: a forward and a backward pass with the towers that it is given: only these compile them.
    Raises: what `attempt` raises for lack of memory.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    inductor: Any = None
    try:
        import torch._dynamo
        import torch._inductor.config as inductor

        # Dropout as without it, so that both passes of gradient caching leave the same out.
        inductor.fallback_random = True
        made = Towers(torch.compile(towers.image), torch.compile(towers.text))
        attempt(made)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        notice(f"training without torch.compile, which fails here: {first_line(error)}")
        return towers
    torch._dynamo.config.suppress_errors = True  # another size of batch that cannot be compiled runs without it
    return made
