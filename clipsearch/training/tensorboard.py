"""A run's metrics for TensorBoard, in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from clipsearch.errors import MissingExtra

FOLDER = "tensorboard"
EXTRA = "tensorboard"


def check_tensorboard() -> None:
    """Raise MissingExtra if TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtra(EXTRA, "--tensorboard") from error


def tensorboard_writer(run: Path) -> Callable[[Mapping[str, float | int | None]], None]:
    """Return what takes the rows of metrics, epoch by epoch. Raises: MissingExtra."""
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    writer: SummaryWriter | None = None

    def write(row: Mapping[str, float | int | None]) -> None:
        nonlocal writer
        if writer is None:  # not before the run has made its folder
            writer = SummaryWriter(str(run / FOLDER))
        for name, value in row.items():
            if name not in ("step", "epoch") and value is not None:
                group = "held-out" if name.endswith(("_r1", "_r5", "_r10")) else "training"
                writer.add_scalar(f"{group}/{name}", value, int(row["step"] or 0))
        writer.flush()

    return write
