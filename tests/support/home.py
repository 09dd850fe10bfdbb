"""A home for the tests: importing this gives the process, and all that it starts, a home and caches of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_VARIABLE = "CLIPSEARCH_HOME_OF_TESTS"
_WRITTEN = (
    ".cache/clipsearch",
    ".local/state/clipsearch",
    ".cache/huggingface",
    ".cache/matplotlib",
    ".cache/torch",
    ".cache/Microsoft",
    ".config/matplotlib",
    ".gradio",
    "intel",
)
"""Where in a home clipsearch and its dependencies would write."""

_inherited = _VARIABLE in os.environ
REAL_HOME = Path(os.environ.get(f"{_VARIABLE}_REAL") or Path.home())
"""The home of whoever runs the tests."""


def _leave_home() -> Path:
    if _inherited:  # a process that one with this home has started
        return Path(os.environ[_VARIABLE])
    place = Path(tempfile.mkdtemp(prefix="clipsearch-tests-"))
    home = place / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(("XDG_", "HF_", "MPL", "CLIPSEARCH_DAEMON", "CLIPSEARCH_INDEX", "CLIPSEARCH_TIMING")):
            del os.environ[name]
    os.environ.update(
        {
            _VARIABLE: str(home),
            f"{_VARIABLE}_REAL": str(REAL_HOME),
            "HOME": str(home),
            "CLIPSEARCH_STATE_DIR": str(place / "state"),
            "CLIPSEARCH_CACHE_DIR": str(place / "cache"),
            "CLIPSEARCH_PRECISION": "fp32",  # no trial of what is fastest in every test
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(place / "hub"),
            "TORCH_HOME": str(place / "torch"),
            "CUDA_CACHE_PATH": str(place / "cuda"),
            "MPLCONFIGDIR": str(place / "matplotlib"),
            "SKIMAGE_DATADIR": str(place / "scikit-image"),
            "GRADIO_TEMP_DIR": str(place / "gradio"),
            "GRPC_VERBOSITY": "NONE",  # of a database in this process, also while another test reads what is printed
            "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "hypothesis"),
        }
    )
    return home


def _in_real_home() -> set[Path]:
    """All of it if it was empty: others write into homes that are used."""
    if _was_empty:
        return set(REAL_HOME.iterdir())
    return {REAL_HOME / name for name in _WRITTEN if (REAL_HOME / name).exists()}


_was_empty = REAL_HOME.is_dir() and not any(REAL_HOME.iterdir())
_before = _in_real_home()
HOME = _leave_home()
"""The home of the tests."""


def left_behind() -> list[str]:
    """What lies in the home of whoever runs the tests, or in that of the tests, and did not before. It may not."""
    return sorted(map(str, (_in_real_home() - _before) | set(HOME.iterdir())))


def go_back() -> None:
    """Delete the home of the tests, if it is this process's."""
    if not _inherited:
        shutil.rmtree(HOME.parent, ignore_errors=True)
