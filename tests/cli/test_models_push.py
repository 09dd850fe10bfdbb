"""`clipsearch models push` to a hub on this machine, and what is not sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clipsearch.encoder.names import load_encoder
from clipsearch.encoder.onnx import OnnxEncoder
from tests.support.fake_hub import TOKEN, FakeHub, fake_hub
from tests.support.tiny_models import write_model_directory

REPOSITORY = "me/products"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[FakeHub, Path]]:
    held = tmp_path / "hub"
    with fake_hub({}, held) as running:
        yield running, held / REPOSITORY


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, as training leaves it: the settings and the report name folders of this machine."""
    folder = tmp_path / "runs" / "products"
    write_model_directory(folder / "model", external=True)
    for name in ("run.json", "report.json"):
        (folder / name).write_text(json.dumps({"sources": [str(tmp_path / "secret" / "pairs.csv")]}))
    (folder / "metrics.csv").write_text("epoch\n")
    (folder / "weights.safetensors").write_bytes(b"weights" * 5_000)
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "MODEL_CARD.md").write_text("# products\n\n```\nclipsearch index F --model M\n```\n")
    return folder


def push(*arguments: str | Path, hub: FakeHub, token: str | None = TOKEN, code: int = 0, offline: bool = False) -> str:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= {"HF_TOKEN": token} if token else {}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    command = [sys.executable, "-m", "clipsearch", "models", "push", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_run_arrives_whole_and_private_and_names_no_folder_of_this_machine(
    hub: tuple[FakeHub, Path], run: Path, tmp_path: Path
) -> None:
    server, arrived = hub
    said = push(run, REPOSITORY, hub=server)
    assert "(private)" in said
    assert REPOSITORY not in server.public
    ours = files(run / "model") | {"README.md", "open_clip_model.safetensors", "open_clip_config.json"}
    assert files(arrived) == ours
    assert (arrived / "open_clip_model.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    assert f"hf download {REPOSITORY} --local-dir" in (arrived / "README.md").read_text()
    assert not any(str(tmp_path).encode() in body for body in server.received)
    assert not any(str(tmp_path).encode() in (arrived / name).read_bytes() for name in files(arrived))
    # whoever downloads the repository searches with it
    mine, theirs = load_encoder(str(run)), OnnxEncoder(arrived)
    assert theirs.fingerprint == mine.fingerprint
    np.testing.assert_array_equal(mine.encode_texts(["a dog"]), theirs.encode_texts(["a dog"]))


@pytest.mark.slow
def test_what_a_repository_holds_is_only_replaced_when_asked(hub: tuple[FakeHub, Path], run: Path) -> None:
    server, arrived = hub
    push(run, REPOSITORY, hub=server)
    (arrived / "notes.txt").write_text("theirs")
    before = {name: (arrived / name).read_bytes() for name in files(arrived)}
    (run / "weights.safetensors").unlink()
    (run / "open_clip_config.json").unlink()
    (run / "model" / "config.json").write_text((run / "model" / "config.json").read_text() + " ")
    assert "already holds" in push(run, REPOSITORY, hub=server, code=1)
    assert {name: (arrived / name).read_bytes() for name in files(arrived)} == before
    push(run, REPOSITORY, "--overwrite", hub=server)
    # no weights of another model stay beside this one; what is not ours does
    assert files(arrived) == files(run / "model") | {"README.md", "notes.txt"}
    assert (arrived / "config.json").read_bytes() == (run / "model" / "config.json").read_bytes()


@pytest.mark.slow
def test_nothing_becomes_public_that_was_not_asked_to(hub: tuple[FakeHub, Path], run: Path) -> None:
    server, arrived = hub
    push(run, REPOSITORY, "--public", hub=server)
    assert REPOSITORY in server.public
    shutil.rmtree(arrived)
    arrived.mkdir()
    assert "anyone can read it" in push(run, REPOSITORY, hub=server, code=1)
    assert files(arrived) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no token", "HF_TOKEN"),
        ("wrong token", "The token may not write there"),
        ("offline", "HF_HUB_OFFLINE"),
        ("unfinished", "train --resume"),
        ("no run", "not a training run"),
        ("bad name", "OWNER/NAME"),
        ("a path in the card", "names the folder"),
        ("a path in the graph", "train again"),
        ("the hub fails", "An upload is all or nothing"),
    ],
)
@pytest.mark.many
def test_a_push_that_cannot_be_is_refused_with_advice(
    hub: tuple[FakeHub, Path], run: Path, tmp_path: Path, case: str, said: str
) -> None:
    server, arrived = hub
    source, name, token = run, REPOSITORY, {"no token": None, "wrong token": "hf_other"}.get(case, TOKEN)
    if case == "unfinished":
        (run / "report.json").unlink()
    elif case == "no run":
        source = run / "model"
    elif case == "bad name":
        name = "products"
    elif case == "a path in the card":
        with open(run / "MODEL_CARD.md", "a") as file:
            file.write(f"from {run.parent}/first\n")
    elif case == "a path in the graph":
        with open(run / "model/visual/model.onnx", "ab") as graph:
            graph.write(f"{run.parent}/export.py".encode())
    elif case == "the hub fails":
        server.fails_at = "commit"
    answer = push(source, name, hub=server, token=token, code=1, offline=case == "offline")
    assert said in answer
    assert not arrived.exists() or files(arrived) == set()


@pytest.mark.slow
def test_a_dry_run_lists_the_files_and_sends_nothing(hub: tuple[FakeHub, Path], run: Path) -> None:
    server, arrived = hub
    listed = push(run, REPOSITORY, "--dry-run", hub=server, token=None)
    assert "visual/model.onnx" in listed
    assert "run.json" not in listed
    assert not arrived.exists()
    assert server.requests == []
