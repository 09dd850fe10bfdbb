"""Published ONNX exports on the Hugging Face hub: what is cached, and fetching what is not.

Looking into the cache reads only the file system: importing huggingface_hub takes a quarter of a second, which
a query would feel. Nothing but model.onnx with its weights, JSON and tokenizer files is fetched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from clipsearch.config import cache_dir, state_dir, write_small
from clipsearch.encoder import layout
from clipsearch.encoder.fingerprints import tower_files
from clipsearch.errors import ClipsearchError, HubUnreachable, ModelNotFound, OutOfSpace, first_line
from clipsearch.places import expanded

ORGANISATION = "immich-app"
CONNECT_TIMEOUT_S = 3.0
REMEMBER_OFFLINE_S = 3600.0
ALLOW_PATTERNS = ["config.json", "visual/*", "textual/*"]
IGNORE_PATTERNS = ["*.armnn", "*.rknn", "*/rknpu/*", "*/fp16/*", "*.py", "*.pkl", "*.pt", "*.bin.index.json"]
_EXPORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,94}")


def is_export_name(name: str) -> bool:
    """Whether `name` can be that of a published export: one path part, MODEL__TAG."""
    return _EXPORT_NAME.fullmatch(name) is not None and ".." not in name and "__" in name.strip("_")


def cached_export(name: str) -> Path | None:
    """The directory of a published export that is in the hub's cache and complete, else None."""
    if not is_export_name(name):
        return None
    repository = _cache_root() / f"models--{ORGANISATION}--{name}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        return None
    snapshot = repository / "snapshots" / commit
    return snapshot if is_complete(snapshot) else None


def cached_exports() -> list[str]:
    """Names of the published exports that are in the hub's cache and complete."""
    prefix = f"models--{ORGANISATION}--"
    try:
        names = sorted(entry.name.removeprefix(prefix) for entry in _cache_root().glob(f"{prefix}*"))
    except OSError:
        return []
    return [name for name in names if cached_export(name) is not None]


def is_complete(directory: Path) -> bool:
    """Whether a download has brought both towers with all their weights, and the tokenizer."""
    small = (layout.CONFIG, layout.PREPROCESS_CFG, layout.TOKENIZER)
    if not all((directory / file).is_file() for file in small):
        return False
    try:
        tower_files(directory, layout.VISUAL_MODEL)
        tower_files(directory, layout.TEXTUAL_MODEL)
    except (ClipsearchError, OSError):
        return False
    return True


def fetch_export(name: str, *, started: Callable[[], None] | None = None) -> Path:
    """Download a published export into the hub's cache, or complete it there, and return its directory.

    `started` is called once the hub has answered and before anything large is fetched.

    Raises: HubUnreachable; ModelNotFound if the hub has no such export; OutOfSpace.
    """
    if not is_export_name(name):
        raise ModelNotFound(name, "it is not the name of a published export, such as ViT-B-32-SigLIP2-256__webli")
    if (cached := cached_export(name)) is not None:
        return cached
    if offline_by_setting():
        raise HubUnreachable(name, "it is not in the cache, and HF_HUB_OFFLINE forbids downloads")
    _probe(name)
    if started is not None:
        started()
    keep_a_cache_without_home()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        directory = Path(
            snapshot_download(
                f"{ORGANISATION}/{name}",
                allow_patterns=ALLOW_PATTERNS,
                ignore_patterns=IGNORE_PATTERNS,
                etag_timeout=CONNECT_TIMEOUT_S,
            )
        )
    except GatedRepoError as error:
        raise ModelNotFound(name, "the hub requires an account for it") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(name, f"{ORGANISATION} has no such export on the hub") from error
    except LocalEntryNotFoundError as error:
        raise HubUnreachable(
            name, f"it is not in the cache, and the hub cannot be reached ({first_line(error)})"
        ) from error
    except HfHubHTTPError as error:
        raise HubUnreachable(name, f"the hub refused the download ({first_line(error)})") from error
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(_cache_root()) from error
        raise HubUnreachable(
            name, f"the download was interrupted and will resume where it stopped ({first_line(error)})"
        ) from error
    except Exception as error:  # the hub's client does not wrap all errors of its HTTP library
        raise HubUnreachable(
            name, f"the download was interrupted and will resume where it stopped ({first_line(error)})"
        ) from error
    if not is_complete(directory):
        raise ModelNotFound(name, f"{directory} lacks files of a model directory")
    return directory


def offline_by_setting() -> bool:
    """Whether the user has told the hub's client to stay offline."""
    settings = (os.environ.get(variable, "") for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(setting.strip().upper() in ("1", "ON", "YES", "TRUE") for setting in settings)


def remembered_offline() -> str | None:
    """Why the hub could not be reached within the last hour, or None."""
    try:
        entry = json.loads((state_dir() / "hub-offline.json").read_text(encoding="utf-8"))
        age_s = time.time() - float(entry["at"])
        if entry["endpoint"] == endpoint() and 0 <= age_s < REMEMBER_OFFLINE_S:
            return str(entry["problem"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def remember_offline(problem: str) -> None:
    """Keep in mind for an hour that the hub cannot be reached, so that waiting for it costs only once."""
    entry = {"at": time.time(), "endpoint": endpoint(), "problem": problem}
    write_small(state_dir() / "hub-offline.json", json.dumps(entry))


def forget_offline() -> None:
    """The hub was reached."""
    with contextlib.suppress(OSError):
        (state_dir() / "hub-offline.json").unlink(missing_ok=True)


def _probe(name: str) -> None:
    """Ask the hub for the export, waiting at most CONNECT_TIMEOUT_S in all. Raises: HubUnreachable, ModelNotFound.

    The client's own timeouts do not cover name resolution and its retries multiply them.
    """
    status = _within(CONNECT_TIMEOUT_S, lambda: _status(f"{endpoint()}/api/models/{ORGANISATION}/{name}/revision/main"))
    if status == 404:
        raise ModelNotFound(name, f"{ORGANISATION} has no such export on the hub")
    if isinstance(status, str):
        raise HubUnreachable(name, f"it is not in the cache, and the hub cannot be reached ({status})")
    if status not in (401, 403) and status >= 400:  # those two may change with the user's token, which the client has
        raise HubUnreachable(name, f"the hub answered with status {status}")


def _status(url: str) -> int | str:
    """HTTP status of a GET, or what went wrong."""
    import ssl
    import urllib.error
    import urllib.request

    if not url.startswith(("https://", "http://")):
        return "its address (HF_ENDPOINT) is not http(s)"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="GET"), timeout=CONNECT_TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return 200  # something answers; the client brings certificates of its own and decides
        return str(getattr(reason, "strerror", None) or reason)


def _within(timeout_s: float, task: Callable[[], int | str]) -> int | str:
    """Run `task` in a thread that is left behind if it takes longer (getaddrinfo has no timeout)."""
    answers: list[int | str] = []
    thread = threading.Thread(target=lambda: answers.append(task()), daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers[0] if answers else f"no answer within {timeout_s:.0f} s"


def endpoint() -> str:
    """Address of the hub, which HF_ENDPOINT sets."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _cache_root() -> Path:
    """Where the hub's client keeps its cache, by the same settings in the same order."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if place := os.environ.get(variable):
            return expanded(os.path.expandvars(place))
    if home := os.environ.get("HF_HOME"):
        return expanded(os.path.expandvars(home)) / "hub"
    base = expanded(os.path.expandvars(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    return (base if base.is_absolute() else cache_dir()) / "huggingface" / "hub"


def keep_a_cache_without_home() -> None:
    """Call before the hub's client is imported: without a home it would make a folder called ~ in the current one."""
    root = _cache_root()
    if root.is_relative_to(cache_dir()):
        os.environ.setdefault("HF_HOME", str(root.parent))
