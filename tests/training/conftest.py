"""Training on one core: the tests already run side by side, and PyTorch's threads wait for each other in vain."""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
