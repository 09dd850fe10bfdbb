"""Checkpoints of a run: tensors as safetensors, the rest as JSON, no pickle. Safe against a kill at any moment.

    RUN/checkpoints/
      state.json                what the last checkpoint is: step, its file with a checksum, what the run knew then
      000123.safetensors        every tensor of it: weights, optimizer moments, averaged weights
      best-000080.safetensors   the weights of the best epoch so far

`state.json` is written last and replaced by rename; tensors of ours that it does not name are left-overs and are
deleted. Ours is what has such a name and says so in its header, or what an older `state.json` named. All else stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.checksums import file_checksum
from clipsearch.errors import ClipsearchError, OutOfSpace, StorageError
from clipsearch.removing import remove_own
from clipsearch.replacing import replacing

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "checkpoints"
STATE = "state.json"
FORMAT = 1
OURS = "clipsearch"
_NAME = re.compile(r"(best-)?\d{6,}\.safetensors")
_LONGEST_HEADER_BYTES = 100 << 20


class DamagedCheckpoint(ClipsearchError):
    """The checkpoint `file` cannot be used."""

    def __init__(self, file: Path, problem: str) -> None:
        self.file = file
        self.problem = problem
        super().__init__(
            f"the checkpoint {file} cannot be used: {problem}. "
            f"Start the run again with another --out, or delete {file.parent.parent}"
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run between two steps. `facts` is JSON: best score, epochs without a better one, ..."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    best: str | None = None  # the file of the best weights, in the folder


class CheckpointFolder:
    """Writes and reads the checkpoints of one run."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the last checkpoint by this one. Raises: OutOfSpace, StorageError."""
        name = f"{checkpoint.step:06d}.safetensors"
        before = self._named()
        self._write_tensors(name, checkpoint.tensors)
        state = {
            "format": FORMAT,
            "step": checkpoint.step,
            "file": name,
            "checksum": _checksum(self.folder / name),
            "best": checkpoint.best,
            "facts": checkpoint.facts,
        }
        write_atomically(self.folder / STATE, (json.dumps(state, indent=2) + "\n").encode())
        self._delete_all_but({name, checkpoint.best}, before)

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> str:
        """Write the weights of a best epoch; the next `save` must name the file, or deletes it."""
        name = f"best-{step:06d}.safetensors"
        self._write_tensors(name, weights)
        return name

    def keep_only(self, name: str | None) -> None:
        """Delete the state and all tensors but the named file."""
        before = self._named()
        remove_own(self.folder / STATE, _is_state)
        self._delete_all_but({name}, before)

    def _named(self) -> set[str]:
        """The files that the last checkpoint names."""
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            return {str(state["file"]), str(state["best"])} if state["format"] == FORMAT else set()
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    def _delete_all_but(self, kept: set[str | None], named: set[str]) -> None:
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if file.name not in kept and _NAME.fullmatch(file.name):
                remove_own(file, lambda path: path.name in named or _is_checkpoint(path))

    def load(self) -> Checkpoint | None:
        """The last checkpoint, None if there is none. Raises: DamagedCheckpoint."""
        path = self.folder / STATE
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DamagedCheckpoint(path, str(error)) from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise DamagedCheckpoint(path, "it was written by another version of clipsearch")
        file = self.folder / str(state["file"])
        if not file.is_file() or _checksum(file) != state["checksum"]:
            raise DamagedCheckpoint(file, "its checksum does not match")
        return Checkpoint(int(state["step"]), self.load_tensors(file.name), state["facts"], state["best"])

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file of the folder. Raises: DamagedCheckpoint."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return dict(load((self.folder / name).read_bytes()))
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpoint(self.folder / name, str(error)) from error

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save

        plain = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / name, save(plain, {OURS: FOLDER}))


def is_checkpoint_name(name: str) -> bool:
    """Whether a file of `CheckpointFolder` may be called so."""
    return name == STATE or _NAME.fullmatch(name) is not None


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, fsync, rename. Raises: OutOfSpace, StorageError."""
    import errno

    try:
        with replacing(path, synced=True) as stream:
            stream.write(content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(path) from error
        advice = "Allow writing there and continue with --resume, or begin another run with --out"
        raise StorageError(path, error.strerror or str(error), advice) from error


def _is_checkpoint(file: Path) -> bool:
    """Whether the header of a safetensors file says that it is one of ours. Raises: OSError, ValueError."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length)) if length <= _LONGEST_HEADER_BYTES else None
    return isinstance(header, dict) and (header.get("__metadata__") or {}).get(OURS) == FOLDER


def _is_state(file: Path) -> bool:
    state = json.loads(file.read_text(encoding="utf-8"))
    return isinstance(state, dict) and state.keys() >= {"format", "step", "file", "checksum"}


def _checksum(file: Path) -> str:
    return file_checksum(file, remember_from_bytes=1 << 62)
