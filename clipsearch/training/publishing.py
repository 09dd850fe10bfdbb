"""A trained model on a model hub: which files of a run are sent, what is looked at first, and the one commit.

Sent are the model, the weights and the card: nothing that names the folders of this machine. What is sent cannot be
called back, so a repository is private unless asked otherwise, and one that holds something is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from clipsearch.encoder import hub
from clipsearch.encoder.layout import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from clipsearch.encoder.names import RUN_MODEL, resolve
from clipsearch.errors import NotPushed, first_line
from clipsearch.training.run_folder import CARD, REPORT, WEIGHTS

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

README = "README.md"
OURS = ("visual/", "textual/", "multilingual/", "config.json", README, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS)
READ_FOR_PATHS = (".json", ".txt", ".md", ".onnx")
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[\w])?/[A-Za-z0-9](?:[\w.-]{0,94}[\w])?", re.ASCII)
_USE = "```\nclipsearch index"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file to send: its name in the repository, and where it is, or what is in it."""

    name: str
    content: Path | bytes

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was sent where. `url` is that of the commit."""

    repository: str
    url: str
    files: list[str]
    size_bytes: int
    private: bool


def parcels_of(run: str, repository: str) -> list[Parcel]:
    """The files of a finished run that are published. Raises: NotPushed, ModelNotFound."""
    resolved = resolve(run, fetch=False)
    if resolved.kind != "run":
        raise NotPushed(run, repository, "it is not a training run", "Name the folder of a run: clipsearch train")
    folder = Path(resolved.name)
    if not (folder / REPORT).is_file() or not (folder / CARD).is_file():
        advice = f"Finish it with: clipsearch train --resume {run}"
        raise NotPushed(run, repository, f"it is not finished (it has no {REPORT} or no {CARD})", advice)
    model = folder / RUN_MODEL
    found = [
        Parcel(file.relative_to(model).as_posix(), file)
        for file in sorted(model.rglob("*"))
        if file.is_file() and not file.is_symlink() and not file.name.startswith(".")
    ]
    card = (folder / CARD).read_text(encoding="utf-8")
    card = card.replace(_USE, f"```\nhf download {repository} --local-dir MODEL_DIRECTORY\nclipsearch index", 1)
    found.append(Parcel(README, card.encode()))
    for name, own in ((OPEN_CLIP_WEIGHTS, WEIGHTS), (OPEN_CLIP_CONFIG, OPEN_CLIP_CONFIG)):
        if (folder / own).is_file():
            found.append(Parcel(name, folder / own))
    _check_paths(found, run, repository, folder)
    return found


def push(run: str, repository: str, *, public: bool = False, overwrite: bool = False) -> Pushed:
    """Send a finished run to a repository of a model hub, in one commit.

    `public`: anyone may read it. `overwrite`: the repository may hold something; its model is replaced, and other files
    stay. Raises: NotPushed, ModelNotFound.
    """
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise NotPushed(run, repository, "it is not the name of a repository", "Name one as OWNER/NAME")
    parcels = parcels_of(run, repository)
    if hub.offline_by_setting():
        raise NotPushed(run, repository, "HF_HUB_OFFLINE forbids it", "Unset it")
    hub.keep_a_cache_without_home()
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    token = get_token()
    if not token:
        advice = "Set HF_TOKEN to a token that may write, or log in with: hf auth login"
        raise NotPushed(run, repository, "the hub needs to know who you are", advice)
    api = HfApi(endpoint=hub.endpoint(), token=token)
    with _refusals(run, repository, "Nothing was sent. Try again with a connection"):
        found = _existing(api, repository)
    there = [entry.rfilename for entry in (found.siblings or [])] if found is not None else []
    if found is not None:
        _check_existing(found, there, run, repository, public, overwrite)
    with _refusals(run, repository, "Nothing was sent"):
        api.create_repo(repository, private=not public, exist_ok=True)
    sent = {parcel.name for parcel in parcels}
    stale = [name for name in there if name not in sent and (name.startswith(OURS[:3]) or name in OURS)]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(parcel.name, parcel.content) for parcel in parcels),
        *(CommitOperationDelete(name) for name in stale),
    ]
    address = f"{hub.endpoint()}/{repository}"
    advice = f"An upload is all or nothing: check {address}, and push again"
    with _refusals(run, repository, advice), _without_logs():
        commit = api.create_commit(
            repository,
            operations,
            commit_message=f"Push {PurePosixPath(Path(run).name)} with clipsearch",
            parent_commit=found.sha if found is not None and there else None,
        )
    total = sum(parcel.size_bytes for parcel in parcels)
    private = bool(found.private) if found is not None else not public
    return Pushed(repository, commit.commit_url, sorted(sent), total, private)


def _existing(api: HfApi, repository: str) -> ModelInfo | None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repository)
    except RepositoryNotFoundError:
        return None


def _check_existing(
    found: ModelInfo, there: list[str], run: str, repository: str, public: bool, overwrite: bool
) -> None:
    if not public and not found.private:
        advice = "Add --public to publish the model, or name another repository"
        raise NotPushed(run, repository, "the repository exists and anyone can read it", advice)
    if public and found.private:
        advice = "Leave out --public, or change who may read it in its settings on the hub"
        raise NotPushed(run, repository, "the repository exists and is private", advice)
    files = [name for name in there if name != ".gitattributes"]
    if files and not overwrite:
        problem = f"the repository already holds {len(files):,} files ({files[0]}{', ...' if len(files) > 1 else ''})"
        raise NotPushed(run, repository, problem, "Replace its model with --overwrite, or name another repository")


def _check_paths(parcels: list[Parcel], run: str, repository: str, folder: Path) -> None:
    """Raise NotPushed if a text or a graph names the run's folder or the user's home: those are nobody's business."""
    private = {str(folder.parent.absolute())}
    with contextlib.suppress(RuntimeError):
        private.add(str(Path.home()))
    private = {path for path in private if len(Path(path).parts) > 1}
    for parcel in parcels:
        if not parcel.name.endswith(READ_FOR_PATHS):
            continue
        data = parcel.content if isinstance(parcel.content, bytes) else parcel.content.read_bytes()
        for path in private:
            if path.encode() + b"/" in data or path.encode() + b"\\" in data:
                advice = f"Take it out of {parcel.content if isinstance(parcel.content, Path) else folder / CARD}"
                if parcel.name.endswith(".onnx"):
                    advice = "Earlier versions noted it in the graph: train again with this one"
                raise NotPushed(run, repository, f"{parcel.name} names the folder {path} of this machine", advice)


@contextlib.contextmanager
def _refusals(run: str, repository: str, advice: str) -> Iterator[None]:
    """Errors of the hub, of its client and of the network in our words."""
    try:
        yield
    except Exception as error:  # the hub's client does not wrap all errors of its HTTP library
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            advice = f"The token may not write there. {advice.partition('. Try')[0]}"
        raise NotPushed(run, repository, f"the hub rejected it ({first_line(error)})", advice) from error


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """The client draws bars of its own."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    log = logging.getLogger("huggingface_hub")
    level, shown = log.level, not are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if shown:
            enable_progress_bars()
