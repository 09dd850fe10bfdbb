"""Folders of clipsearch's own are cleaned up, and what other people put into them stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.config import cache_dir
from clipsearch.encoder import prepared
from clipsearch.encoder.layout import copy_model_directory
from clipsearch.encoder.prepared import prepare_text_tower, prepared_text_tower
from clipsearch.errors import StorageError
from clipsearch.removing import remove_folder_of, replace_tree
from clipsearch.replacing import replacing
from clipsearch.server.thumbnails import Thumbnails
from tests.support.pictures import picture
from tests.support.tiny_models import write_model_directory


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def with_foreign(folder: Path) -> dict[Path, bytes]:
    """Files of people, with names that come near to ours."""
    key = "0123456789abcdef" * 2
    names = [
        "beach.jpg",
        "my photos/beach.jpg",
        "my photos/features.npz",
        "01/beach.jpg",
        "01/0123.jpg",
        f"02/{key}-256.jpg",
        f"01/{key}-300.jpg",
        f"01/{key}-256.jpg",  # our name, with a file that is none of ours
        f"{key}/holiday.txt",
        f"{key}/prepared.json",
        ".part-old/beach.jpg",
        f".part-{key}-abcdefgh/beach.jpg",
        "weights.npz",
        f"{key}.npz",
        f"{key.upper()}.npz",
        "000001.safetensors",
        "best-000080.safetensors",
        "best-000080 (copy).safetensors",
        "notes/state.json",
        "notes.md",
    ]
    made = {}
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine: " + name.encode())
        os.utime(path, (0, 0))
        made[path] = path.read_bytes()
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    return made


def untouched(made: dict[Path, bytes]) -> bool:
    return all(path.is_file() and path.read_bytes() == content for path, content in made.items())


def test_prepared_towers_of_others_stay(tmp_path: Path) -> None:
    model = write_model_directory(tmp_path / "model", dim=512)
    gone = prepare_text_tower(write_model_directory(tmp_path / "other", dim=512, seed=1))
    mixed = prepare_text_tower(write_model_directory(tmp_path / "third", dim=512, seed=2))
    (mixed / "beach.jpg").write_bytes(b"mine")
    for name in ("other", "third"):
        (tmp_path / name / "textual/model.onnx").unlink()
    mine = with_foreign(cache_dir() / prepared.FOLDER)
    folder = prepare_text_tower(model)
    assert untouched(mine)
    assert (mixed / "beach.jpg").read_bytes() == b"mine"
    assert not gone.exists()
    (folder / "beach.jpg").write_bytes(b"mine")
    (folder / prepared.WEIGHTS).write_bytes(b"damaged")
    from clipsearch.encoder.layout import read_model_directory

    assert prepared_text_tower(read_model_directory(model)) is None
    assert (folder / "beach.jpg").read_bytes() == b"mine"


def test_thumbnails_make_room_among_their_own(tmp_path: Path) -> None:
    from clipsearch.records import ImageRecord, PictureMetadata

    folder = tmp_path / "thumbnails"
    mine = with_foreign(folder)
    thumbnails = Thumbnails(folder, most_bytes=3000)
    try:
        for number in range(6):
            path = tmp_path / f"{number}.jpg"
            picture(number).save(path)
            record = ImageRecord(0, path.name, 1, 1, 1, None, 64, 64, PictureMetadata())
            thumbnails.get(record, str(path), 256)
    finally:
        thumbnails.close()
    ours = [path for path in folder.rglob("*.jpg") if path not in mine]
    assert len(ours) < 6
    assert untouched(mine)


def test_features_make_room_among_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feature_cache = pytest.importorskip("clipsearch.training.feature_cache")
    mine = with_foreign(tmp_path)
    arrays = {"features": np.zeros((2, 3)), "vectors": np.zeros((2, 3))}
    for name in ("one", "two"):
        feature_cache._cached(tmp_path, name, lambda: arrays)
    (tmp_path / "link.npz").symlink_to(tmp_path / "weights.npz")
    monkeypatch.setattr(feature_cache, "LARGEST_CACHE_BYTES", 0)
    feature_cache._forget_oldest(tmp_path)
    assert untouched(mine)
    assert {path for path in tmp_path.rglob("*.npz") if path not in mine} == {tmp_path / "link.npz"}


@pytest.mark.slow
def test_checkpoints_are_told_from_other_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from clipsearch.training.checkpoints import Checkpoint, CheckpointFolder

    folder = CheckpointFolder(tmp_path)
    tensors = {"a": torch.zeros(3)}
    folder.save(Checkpoint(1, tensors))
    mine = with_foreign(folder.folder)
    save_file(tensors, folder.folder / "000003.safetensors")
    mine[folder.folder / "000003.safetensors"] = (folder.folder / "000003.safetensors").read_bytes()
    left_over = folder.save_best(5, tensors)  # by a run that was killed before it could name it
    best = folder.save_best(2, tensors)
    folder.save(Checkpoint(2, tensors, {}, best))
    del mine[folder.folder / "000001.safetensors"]  # the first checkpoint's name: it was replaced, and is named
    assert untouched(mine)
    assert not (folder.folder / left_over).exists()
    assert folder.load().step == 2  # type: ignore[union-attr]
    folder.keep_only(best)
    assert untouched(mine)
    ours = {path.name for path in folder.folder.iterdir() if path.is_file() and path not in mine}
    assert ours == {best}


def test_an_overwritten_model_directory_keeps_what_is_not_of_a_model(tmp_path: Path) -> None:
    old = write_model_directory(tmp_path / "old", dim=32)
    new = write_model_directory(tmp_path / "new", dim=32, seed=1)
    (old / "visual" / "beach.jpg").write_bytes(b"mine")
    (old / "notes.md").write_bytes(b"mine")
    with pytest.raises(StorageError, match="--overwrite"):
        copy_model_directory(new, old)
    copy_model_directory(new, old, overwrite=True)
    assert contents(old) == contents(new)
    assert contents(tmp_path / "old.before") == {"visual/beach.jpg": b"mine", "notes.md": b"mine"}
    copy_model_directory(new, old, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "old.before"]


def test_a_half_written_file_takes_no_other_file_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic_ns", lambda: 1)
    other = tmp_path / f".a.{os.getpid()}.1"
    other.write_bytes(b"mine")
    with pytest.raises(FileExistsError), replacing(tmp_path / "a") as file:
        file.write(b"x")
    assert other.read_bytes() == b"mine"


@given(st.sets(st.sampled_from(["a", "b", "c", "d/e", "d/f", "g"])), st.sets(st.sampled_from(["a", "d/e", "g", "h"])))
def test_replacing_a_folder_loses_no_file_of_another_name(
    tmp_path_factory: pytest.TempPathFactory, old: set[str], new: set[str]
) -> None:
    place = tmp_path_factory.mktemp("trees")
    for folder, names in (("old", old), ("new", new)):
        (place / folder).mkdir()
        for name in names:
            (place / folder / name).parent.mkdir(exist_ok=True)
            (place / folder / name).write_text(folder)
    kept = replace_tree(place / "new", place / "old")
    assert set(contents(place / "old")) == new
    assert (set() if kept is None else set(contents(kept))) == old - new
    shutil.rmtree(place)


def test_a_folder_with_anything_else_in_it_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for foreign in ("other", "a/other"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "b").write_text("b")
        (folder / foreign).parent.mkdir(exist_ok=True)
        (folder / foreign).write_text("mine")
        before = contents(folder)
        assert not remove_folder_of(folder, ("a", "b"))
        assert contents(folder) == before
    (tmp_path / "link").symlink_to(folder)
    assert not remove_folder_of(tmp_path / "link", ("a", "b"))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "b").write_text("b")
    assert remove_folder_of(folder, ("a", "b"))
    assert not folder.exists()


@pytest.mark.slow
def test_a_drawing_replaces_drawings_only(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from clipsearch.evaluation.plots import check_plots, draw_confusion

    counts = np.eye(2, dtype=np.int64)
    photo, drawing = tmp_path / "photo.png", tmp_path / "drawing.png"
    picture(1).save(photo)
    before = photo.read_bytes()
    with pytest.raises(StorageError, match="already exists"):
        check_plots("--png", photo)
    with pytest.raises(StorageError, match="already exists"):
        draw_confusion(photo, ["a", "b"], counts, "title")
    assert photo.read_bytes() == before
    for _ in range(2):
        draw_confusion(drawing, ["a", "b"], counts, "title")
    assert drawing.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["probe.json", "probe.npz"])
def test_a_probe_takes_no_other_file_s_place(tmp_path: Path, name: str) -> None:
    from clipsearch.classify.probe import check_probe_folder

    check_probe_folder(tmp_path)
    (tmp_path / name).write_text("[1, 2]")
    with pytest.raises(StorageError, match="already exists"):
        check_probe_folder(tmp_path)


def test_a_server_takes_the_place_of_a_socket_only(tmp_path: Path) -> None:
    from clipsearch.daemon.server import LocalSocket

    place = tmp_path / "servers" / "00000000.sock"
    place.parent.mkdir()
    for mine in (place, place.with_suffix(f".{os.getpid()}")):
        mine.write_text("mine")
        nobody: Any = None
        with pytest.raises(FileExistsError):
            LocalSocket(nobody, nobody, place)
        assert mine.read_text() == "mine"
        mine.unlink()
