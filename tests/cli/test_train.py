"""`clipsearch train` from the command line, on the embedded model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import clipsearch
from clipsearch.encoder.names import load_encoder, resolve
from clipsearch.errors import EncoderMismatch, ModelNotFound
from tests.support import commands
from tests.support.training_pairs import WORDS, write_shapes

pytestmark = pytest.mark.torch


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """PyTorch is only imported in the process that training is forked from."""
    first, *rest = arguments
    if first == "train":
        return commands.train(*rest, folder=Path.cwd(), status=code)
    return commands.clipsearch(*arguments, folder=Path.cwd(), status=code)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "pairs", 12)


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "dev", 3, first=50)


QUICK = ("--batch", "24", "--epochs", "12", "--views", "1", "--patience", "12", "--quiet")


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")  # of features of the general pictures
def test_locked_image_improves_an_index_made_before(pairs: Path, held_out: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in held_out.glob("*.png"):
        shutil.copy(file, photos)
    clipsearch.index(photos, model="builtin")
    before = {file: file.read_bytes() for file in (photos / ".clipsearch").rglob("*") if file.is_file()}

    def found(model: str | None) -> int:
        with clipsearch.open(photos, model=model) as collection:
            return sum(
                Path(hit.path).name.startswith(word)
                for word in WORDS
                for hit in collection.search(f"{word} number 51", 3, all=True)
            )

    start = found(None)
    done = run(
        "train", pairs, "--model", "builtin", "--method", "locked-image", "--out", tmp_path / "run",
        "--dev", held_out, "--alpha", "1", "--no-gate", "--accept-anchor-drop", *QUICK,
    )  # fmt: skip
    assert "stay valid" in done.stdout
    assert not (tmp_path / "run/model/multilingual").exists()  # it would answer captions that the run has learned
    assert load_encoder(str(tmp_path / "run")).fingerprint == load_encoder("builtin").fingerprint
    assert found(str(tmp_path / "run")) > start + 3
    after = {file: file.read_bytes() for file in (photos / ".clipsearch").rglob("*") if file.is_file()}
    assert after == before  # nothing was encoded again
    report = clipsearch.index(photos, model=str(tmp_path / "run"))
    assert report.encoded == 0


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")  # of features of the general pictures
def test_heads_on_the_embedded_model(pairs: Path, held_out: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(
        "train", pairs, "--model", "builtin", "--out", out, "--dev", held_out, "--json", *QUICK, "--accept-anchor-drop"
    )
    report = json.loads(done.stdout)
    assert report["method"] == "heads"
    assert report["dev_after"]["text_to_image_r10"] > report["dev_before"]["text_to_image_r10"]
    assert not report["same_images"]
    assert {weighing["alpha"] for weighing in report["weighings"]} == {number / 10 for number in range(11)}
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [int(row["epoch"]) for row in rows] == [line["epoch"] for line in lines] == list(range(len(rows)))
    assert (out / "run.json").is_file()
    assert [file.suffix for file in (out / "checkpoints").iterdir()] == [".safetensors"]
    assert not list(out.rglob("*.pt"))
    # It is a model of its own: an old index is refused, a new one works without torch.
    photos = tmp_path / "photos"
    shutil.copytree(held_out, photos, ignore=shutil.ignore_patterns("*.txt"))
    clipsearch.index(photos, model="builtin")
    with clipsearch.open(photos, model=str(out)) as collection, pytest.raises(EncoderMismatch):
        collection.search("zorp")
    run("index", photos, "--model", out, "--reindex", "--quiet")
    hits = json.loads(run("query", "zorp number 51", "--index", photos, "--json", "-k", "3").stdout)
    assert Path(hits[0]["path"]).name.startswith("zorp")
    # And a base for a further run.
    second = run(
        "train", pairs, "--model", out, "--out", tmp_path / "second", "--dev", held_out, "--anchor", held_out,
        "--json", *QUICK, "--accept-anchor-drop", "--max-steps", "2", "--weight", f"{pairs}=1.5",
    )  # fmt: skip
    assert json.loads(second.stdout)["dev_before"] == report["dev_after"]
    said = "an epoch draws 108 pairs: 108 of the 72 in pairs (weight 1.5)"
    assert said in second.stderr
    assert said in (tmp_path / "second" / "MODEL_CARD.md").read_text()
    assert json.loads((tmp_path / "second" / "run.json").read_text())["request"]["weights"] == {str(pairs): 1.5}
    run("models", "export", out, tmp_path / "exported")
    assert load_encoder(str(tmp_path / "exported")).fingerprint == report["fingerprint"]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")  # of features of the general pictures
def test_losing_too_much_on_the_anchor_is_an_error(pairs: Path, held_out: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["train", pairs, "--model", "builtin", "--dev", held_out, "--alpha", "1"]
    arguments += ["--no-gate", *QUICK]
    done = run(*arguments, "--out", tmp_path / "one", "--max-anchor-drop", "0.5", code=1)
    assert "recall on general pictures fell" in done.stdout
    assert "--accept-anchor-drop" in done.stdout
    run("train", "--resume", tmp_path / "one", "--accept-anchor-drop", "--quiet")  # it says the same again


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")  # of features of the general pictures
def test_ctrl_c_saves_and_resume_goes_on(pairs: Path, held_out: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = [sys.executable, "-m", "clipsearch", "train", str(pairs), "--model", "builtin", "--out", str(out),
               "--dev", str(held_out), "--batch", "8", "--epochs", "400", "--patience", "400", "--views", "1",
               "--checkpoint-steps", "10"]  # fmt: skip
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "state.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"clipsearch train --resume {out}" in err
    with pytest.raises(ModelNotFound, match="--resume"):
        resolve(str(out))
    stopped_at = json.loads((out / "checkpoints" / "state.json").read_text())["step"]
    assert stopped_at > 0
    settings = json.loads((out / "run.json").read_text())
    settings["request"]["settings"]["epochs"] = stopped_at // 9 + 2  # enough has been seen
    (out / "run.json").write_text(json.dumps(settings))
    run("train", "--resume", out, "--accept-anchor-drop", "--quiet")
    assert resolve(str(out)).kind == "run"


@pytest.mark.slow
def test_ctrl_c_stops_the_search_for_a_learning_rate_at_once(pairs: Path, held_out: Path) -> None:
    started = [sys.executable, "-m", "clipsearch", "train", str(pairs), "--model", "builtin", "--find-lr",
               "--dev", str(held_out), "--views", "16"]  # fmt: skip
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread)
    assert process.stderr is not None
    for line in process.stderr:
        if "encoding" in line:
            break
    process.send_signal(signal.SIGINT)
    err = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "saving" not in err


def test_mistakes_are_named(pairs: Path, tmp_path: Path) -> None:
    def fails(*arguments: Any, code: int = 1) -> str:
        return run("train", *arguments, "--quiet", code=code).stderr

    assert "--out" in fails(pairs, code=2)
    assert "PAIRS" in fails("--out", tmp_path / "run", code=2)
    assert "is not SOURCE=X" in fails(pairs, "--out", tmp_path / "run", "--weight", "2", code=2)
    twice = ("--weight", f"{pairs}=2", "--weight", f"{pairs}=3")
    assert "given twice" in fails(pairs, "--out", tmp_path / "run", *twice, code=2)
    unknown = fails(pairs, "--model", "builtin", "--out", tmp_path / "run", "--weight", f"{tmp_path}=2")
    assert "which is not one of the sources of pairs" in unknown
    assert not (tmp_path / "run").exists()
    assert "lora" in fails(pairs, "--model", "builtin", "--method", "lora", "--out", tmp_path / "run")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("do not touch")
    assert "not empty" in fails(pairs, "--model", "builtin", "--out", full)
    assert "no run to resume" in fails("--resume", tmp_path / "nothing")
    for others, named in (((pairs,), "PAIRS"), (("--epochs", "3"), "--epochs"), (("--no-gate",), "--no-gate")):
        said = fails("--resume", tmp_path / "nothing", *others, code=2)
        assert "continues with the pairs and options that the run began with" in " ".join(said.split())
        assert f"leave out {named}" in " ".join(said.split())


def test_check_looks_and_trains_nothing(pairs: Path) -> None:
    plain = run("train", "--check", pairs, "--quiet").stdout
    assert "72 pictures" in plain
    assert "tokens" not in plain
    assert "the model takes 64" in run("train", "--check", pairs, "--model", "builtin", "--quiet").stdout
