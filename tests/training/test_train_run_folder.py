"""A run's folder: one process at a time, and nothing half written stays in it."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from clipsearch.errors import StorageError  # noqa: E402
from clipsearch.training.run import Request, Watch, resume, train  # noqa: E402
from clipsearch.training.run_folder import RunExists, RunFolder  # noqa: E402
from clipsearch.training.settings import InvalidSettings, Settings, TrainingInterrupted  # noqa: E402
from tests.support.tiny_models import write_model_directory  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = pytest.mark.torch


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 12)
    for number, path in enumerate(sorted(pairs.glob("*.txt"))):
        path.write_text(("a dog", "the cat", "a red beach")[number % 3])
    request = Request([str(pairs)], str(write_model_directory(tmp_path / "model")), Settings("heads"))
    run = tmp_path / "run"
    with RunFolder(run).held():
        with pytest.raises(RunExists, match="is in use by another clipsearch train"):
            train(request, run)
        assert not list(run.iterdir())
        RunFolder(run).create({"request": request.as_json(), "digests": {}})
        with pytest.raises(RunExists, match="is in use by another clipsearch train"):
            resume(run)


def test_what_a_killed_run_left_half_written_goes_and_all_else_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("run.json", {})
    folder.write_json("unfinished.json", {"folders": [".model-0123456789abcdef", "../x", 3, "metrics.csv"]})
    now = 10**12
    gone = [f".metrics.csv.12.{now}", f".weights.safetensors.1.{now}", f"checkpoints/.000012.safetensors.77.{now}"]
    gone += [".model-0123456789abcdef/model/visual.onnx", f"checkpoints/.state.json.7.{now}"]
    kept = [
        f".notes.1.{now}",
        ".run.json.1.2",  # as nobody but a person would name it
        ".model-abcd_123/mine.jpg",
        ".model-fedcba9876543210/mine.jpg",  # like one of ours, but none was noted
        ".base.abcdefgh/mine.jpg",
        "checkpoints/000012.safetensors",
        "metrics.csv",
        "checkpoints/.a.1.2",
    ]
    for name in (*gone, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with folder.held():
        pass
    assert not any((tmp_path / name).exists() for name in gone)
    assert all((tmp_path / name).is_file() for name in kept)
    assert not (tmp_path / ".model-0123456789abcdef").exists()
    assert not (tmp_path / "unfinished.json").exists()


def test_what_is_being_made_is_noted_first_and_gone_at_the_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.making() as work, folder.making() as other:
        assert work.is_dir() and other.is_dir()
        assert folder.read_json("unfinished.json") == {"folders": [work.name, other.name]}
    assert not list(tmp_path.iterdir())


def test_a_card_that_somebody_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / "MODEL_CARD.md").write_text("mine")
    RunFolder(tmp_path).put_aside("MODEL_CARD.md")
    assert (tmp_path / "MODEL_CARD.md.before").read_text() == "mine"


def test_files_of_a_run_that_another_version_wrote_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for text in ({}, {"request": {"sources": [], "new": 1}}, {"request": None}):
        folder.write_json("run.json", text)
        with pytest.raises(InvalidSettings, match=r"run\.json is not what this version of clipsearch writes"):
            resume(tmp_path)
    folder.write_json("report.json", {"run": "x"})
    with pytest.raises(RunExists, match="is a finished run without its model folder"):
        resume(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(InvalidSettings, match=r"report\.json is not what this version of clipsearch writes"):
        resume(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(RunExists, match="is not a folder"), RunFolder(tmp_path / "file").held():
        pass
    with pytest.raises((StorageError, RunExists), match="file/run"), RunFolder(tmp_path / "file" / "run").held():
        pass


def test_a_run_that_cannot_be_written_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()  # root may write into any folder, but not in the place of one
    with pytest.raises(
        StorageError, match=r"run\.json: Is a directory\. Allow writing there and continue with --resume"
    ):
        RunFolder(tmp_path).write_json("run.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_run_does_not_go_on_with_another_model_or_other_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", 12)
    for number, path in enumerate(sorted(pairs.glob("*.txt"))):
        path.write_text(("a dog", "the cat", "a red beach")[number % 3])
    model = write_model_directory(tmp_path / "model")
    settings = Settings("heads", views=1, max_steps=2, keep_general=0.0)
    request = Request([str(pairs)], str(model), settings, anchor=[str(pairs)], max_anchor_drop=100.0)
    run, stop = tmp_path / "run", Watch(interrupted=lambda: True)
    with pytest.raises(TrainingInterrupted):
        train(request, run, watch=stop)
    write_model_directory(model, seed=1)
    with pytest.raises(InvalidSettings, match="model has changed since the run started"):
        resume(run)
    write_model_directory(model)
    caption = pairs / "p00003.txt"
    caption.write_text("the beach")
    with pytest.raises(InvalidSettings, match="pairs have changed since the run started"):
        resume(run)
    caption.write_text("a dog")
    with pytest.raises(TrainingInterrupted):
        resume(run, watch=stop)
