"""`verify --repair` destroys nothing, and pictures whose decoder crashed are tried again.

Set CLIPSEARCH_FILES to damage every file of an index in turn, and not one of each kind.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.store import Writer, open_snapshot
from tests.support.cases import thinned
from tests.support.commands import Commands, State
from tests.support.fake_encoder import FakeEncoder
from tests.support.faults import Family, Faults
from tests.support.pictures import fill
from tests.support.trees import differences, not_ours, tree

ONE = IndexOptions(workers=1)

# -- repair


@pytest.fixture(scope="module")
def whole(command_server: Commands, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """Two fragments, deleted rows, a tag that was changed once and another."""
    photos = tmp_path_factory.mktemp("whole") / "photos"
    fill(photos, 14)
    command_server.index(photos)
    fill(photos, 6, first=20)
    (photos / "set000" / "p00002.jpg").unlink()
    command_server.index(photos)
    first, second = photos / "set000" / "p00000.jpg", photos / "set000" / "p00001.jpg"
    for pictures in ([first], [first, second]):
        done = command_server.run("concept", "add", "dog", *pictures, "--replace", "--index", photos)
        assert done.status == 0, done.err
    assert command_server.run("concept", "add", "cat", second, "--index", photos).status == 0
    return photos, command_server.state(photos / ".clipsearch")


def files_of(index: Path) -> list[str]:
    """The files of an index that can be damaged; of each folder the last one, and all that people made."""
    found = sorted(path for path in index.rglob("*") if path.is_file() and path.stat().st_size)
    names = [path.relative_to(index).as_posix() for path in found if path.name != "LOCK"]
    if "CLIPSEARCH_FILES" in os.environ:
        return names
    last = {name.rpartition("/")[0] or name: name for name in names}
    return sorted({*last.values(), *(name for name in names if name.startswith("tags/"))})


def damage(path: Path, how: str) -> bytes:
    """Damage a file; returns what it holds then."""
    raw = path.read_bytes()
    damaged = raw[: len(raw) // 2] if how == "cut" else raw[: len(raw) // 2] + b"\xff\0\xff" + raw[len(raw) // 2 + 3 :]
    if damaged == raw:
        damaged = raw[:-1] + bytes([raw[-1] ^ 1])
    path.write_bytes(damaged)
    return damaged


@pytest.mark.few(2)  # cut, and changed without hard links
@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "changed", "changed, no hard links"])
def test_what_is_damaged_is_put_aside_and_every_picture_comes_back(
    how: str, whole: tuple[Path, State], commands: Commands, faults: Faults, tmp_path: Path
) -> None:
    """Each file of the index in turn; also on FAT, exFAT and many network drives, which have no hard links."""
    photos, state = whole
    if "no hard links" in how:
        faults.arm("link", tmp_path, error=errno.EPERM, mode="from then on")
    wrong = []
    for name in files_of(photos / ".clipsearch"):
        folder = tmp_path / "case" / "photos"
        shutil.copytree(photos, folder)
        index = folder / ".clipsearch"
        damaged = damage(index / name, how)
        pictures = tree(folder, but=index)
        done = commands.run("verify", "--repair", "--index", folder)
        if "Traceback" in done.err:
            wrong.append(f"{name}: {done.err.splitlines()[-1]}")
        kept = [path.read_bytes() for path in index.rglob("*") if path.is_file()]
        if name != "CURRENT" and damaged not in kept:
            wrong.append(f"{name}: its bytes are gone")
        if name != "INDEX":
            after = commands.state(index)
            if after.error or after.problems:
                wrong.append(f"{name}: after the repair: {after.error} {after.problems} {done.err}")
            commands.run("index", folder, "-q")
            end = commands.state(index)
            if end.paths != state.paths or end.problems:
                wrong.append(f"{name}: lost {state.paths - end.paths}, {end.problems}")
            if set(end.tags) != set(state.tags):
                wrong.append(f"{name}: tags are {end.tags}")
        wrong += [f"{name}: {said}" for said in differences(pictures, tree(folder, but=index))]
        wrong += [f"{name}: not ours: {said}" for said in not_ours(index)]
        shutil.rmtree(tmp_path / "case")
    assert not wrong, "\n".join(wrong)


@pytest.mark.few(each="family mode")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mode"), [("open", "once"), ("read", "once"), ("read", "from then on"), ("stat", "from then on")]
)
def test_a_file_that_cannot_be_read_now_is_not_lost(
    family: Family, mode: Any, whole: tuple[Path, State], commands: Commands, faults: Faults, tmp_path: Path
) -> None:
    photos, state = whole
    wrong = []
    for name in files_of(photos / ".clipsearch"):
        folder = tmp_path / "case" / "photos"
        shutil.copytree(photos, folder)
        index = folder / ".clipsearch"
        raw = (index / name).read_bytes()
        with faults.armed(family, index / name, error=errno.EIO, mode=mode):
            done = commands.run("verify", "--repair", "--index", folder)
        if "Traceback" in done.err:
            wrong.append(f"{name}: {done.err.splitlines()[-1]}")
        if name not in ("CURRENT", "INDEX") and not name.startswith("manifests/"):
            kept = [path.read_bytes() for path in index.rglob("*") if path.is_file()]
            if raw not in kept:
                wrong.append(f"{name}: gone")
        commands.run("verify", "--repair", "--index", folder)
        commands.run("index", folder, "-q")
        end = commands.state(index)
        if end.paths != state.paths or set(end.tags) != set(state.tags) or end.error or end.problems:
            wrong.append(
                f"{name}: in the end lost {state.paths - end.paths}, tags {end.tags}, {end.error}, {end.problems}"
            )
        shutil.rmtree(tmp_path / "case")
    assert not wrong, "\n".join(wrong)


@pytest.mark.few(each="cut folder")
@pytest.mark.parametrize("cut", ["CURRENT", "manifest"])
@pytest.mark.parametrize("folder", ["records", "rows", "vectors", "search"])
def test_one_copy_of_everything_is_enough_whatever_else_is_damaged(
    folder: str, cut: str, whole: tuple[Path, State], commands: Commands, tmp_path: Path
) -> None:
    """The pointer or the newest manifest, and one of the two files of rows or vectors."""
    photos = tmp_path / "photos"
    shutil.copytree(whole[0], photos)
    index = photos / ".clipsearch"
    (index / "CURRENT" if cut == "CURRENT" else sorted((index / "manifests").iterdir())[-1]).write_bytes(b"")
    for path in (index / folder).iterdir():
        path.unlink()
    done = commands.run("verify", "--repair", "--index", photos)
    assert "restored generation" in done.out + done.err
    after = commands.state(index)
    assert (after.paths, after.problems, after.error) == (whole[1].paths, (), None)
    assert set(after.tags) == set(whole[1].tags)
    assert commands.index(photos)["indexed"] == 0


@pytest.mark.parametrize("wrong", ["at the repair", "at the first run"])
def test_a_wrong_clock_makes_no_picture_of_a_repaired_index_old(
    wrong: str, tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    fill(photos, 14)
    fill(photos / "drive", 6, first=40)
    now = time.time
    off_s = -1_700_000_000 if wrong == "at the repair" else 315_360_000
    if wrong == "at the first run":
        monkeypatch.setattr(time, "time", lambda: now() + off_s)
    index_folder(photos, FakeEncoder(), options=ONE)
    monkeypatch.undo()
    (photos / "drive").rename(tmp_path / "drive")
    (photos / "drive").mkdir()
    assert index_folder(photos, FakeEncoder(), options=ONE).missing == 6
    for path in (photos / ".clipsearch" / "marks").iterdir():
        damage(path, "changed")
    if wrong == "at the repair":
        monkeypatch.setattr(time, "time", lambda: now() + off_s)
    repair(photos / ".clipsearch")
    monkeypatch.undo()
    report = index_folder(photos, FakeEncoder(), options=ONE)
    assert (report.forgotten, report.missing) == (0, 6)
    (photos / "drive").rmdir()
    (tmp_path / "drive").rename(photos / "drive")
    report = index_folder(photos, FakeEncoder(), options=ONE)
    assert (report.encoded, report.returned) == (0, 6)


@pytest.mark.parametrize("lost", thinned(["all", "main", "copy", "everything", "both", "the only ones"], 3))
def test_damaged_marks_do_not_bring_back_what_is_not_there(lost: str, tmp_path: Path, commands: Commands) -> None:
    """Pictures that were deleted, that are missing and that are left out."""
    photos = tmp_path / "photos"
    index = photos / ".clipsearch"
    fill(photos, 14)
    fill(photos / "drive", 6, first=40)
    fill(photos / "private", 4, first=60)
    commands.index(photos)
    (photos / "drive").rename(tmp_path / "drive")
    (photos / ".clipsearchignore").write_text("private\n")
    (photos / "set000" / "p00002.jpg").unlink()
    shutil.copy(photos / "set000" / "p00003.jpg", photos / "set000" / "p00004.jpg")
    commands.index(photos)
    (photos / "set000" / "p00005.jpg").unlink()
    commands.index(photos)
    if lost == "the only ones":  # as in an index of an earlier version
        with Writer(index) as writer:
            manifest = writer.current()
            assert manifest is not None
            bare = [dataclasses.replace(f, dead_copy=None, missing_copy=None) for f in manifest.fragments]
            writer.commit(dataclasses.replace(manifest, fragments=tuple(bare)))
    state = commands.state(index)
    assert len(state.paths) == 12
    newest = json.loads(sorted((index / "manifests").iterdir())[-1].read_bytes())
    fragments = newest["fragments"]
    named = [
        (fragment[name]["path"], fragment.get(f"{name}_copy", fragment[name])["path"])
        for fragment in fragments
        for name in ("dead", "missing")
        if name in fragment
    ]
    assert named
    chosen = {
        "main": [main for main, _ in named],
        "copy": [copy for _, copy in named],
        "both": [path for pair in named for path in pair],
    }.get(lost, [path.relative_to(index).as_posix() for path in (index / "marks").iterdir()])
    if lost == "everything":
        chosen += [path.relative_to(index).as_posix() for path in (index / "manifests").iterdir()]
    for name in chosen:
        damage(index / name, "changed")
    if lost in ("main", "copy"):
        assert commands.state(index, check=False).paths == state.paths
    done = commands.run("verify", "--repair", "--index", photos)
    assert "damaged" in done.out + done.err or lost == "everything"
    after = commands.state(index)
    assert (after.paths, after.problems) == (state.paths, ())
    report = commands.index(photos)
    assert (report["indexed"], report["pictures"]) == (0, 12)
    (tmp_path / "drive").rename(photos / "drive")
    (photos / ".clipsearchignore").unlink()
    report = commands.index(photos)
    assert (report["indexed"], report["pictures"]) == (0, 22)
    # Where nothing says any more that they were deleted, the two pictures are missing for a while.
    assert report["missing"] <= (0 if lost in ("main", "copy") else 2)


@pytest.mark.parametrize("which", ["of the tag", "of the tag before its last change", "all but one of each", "all"])
def test_a_repair_of_damaged_tags_ends(which: str, whole: tuple[Path, State], tmp_path: Path) -> None:
    """After it, `verify` has nothing more to say: it named damaged tags for ever where an older list still had them."""
    photos = tmp_path / "photos"
    shutil.copytree(whole[0], photos)
    index = photos / ".clipsearch"
    with open_snapshot(index) as snapshot:
        tags, before = snapshot.manifest.tags, snapshot.manifest.tags_before
    chosen = {
        "of the tag": [tag.files() for tag in tags if tag.name == "dog"],
        "of the tag before its last change": [tag.files() for tag in before],
        "all but one of each": [tag.files()[:1] for tag in (*tags, *before)],
        "all": [tag.files() for tag in (*tags, *before)],
    }[which]
    names = {file.path for files in chosen for file in files}
    assert names
    for name in names:
        damage(index / name, "changed")
    assert not verify(index).ok
    report = repair(index)
    assert report.actions
    assert len(report.put_aside) >= len(names)
    checked = verify(index)
    assert checked.ok, checked.problems
    assert not repair(index).actions
    with open_snapshot(index) as snapshot:
        kept = {tag.name for tag in snapshot.manifest.tags}
    assert kept == ({"dog"} if which == "all" else {"cat", "dog"})  # an older generation has another dog


@pytest.mark.parametrize("mended_by", ["repair", "the run"])
def test_missing_pictures_whose_vectors_are_lost_are_encoded_when_they_are_back(mended_by: str, tmp_path: Path) -> None:
    """Also where a repair of an earlier version has left their rows with vectors that are nowhere."""
    photos, drive = tmp_path / "photos", tmp_path / "photos" / "drive"
    index = photos / ".clipsearch"
    fill(photos, 30)
    index_folder(photos, FakeEncoder(), options=ONE)
    fill(drive, 6, first=40)
    index_folder(photos, FakeEncoder(), options=ONE)
    drive.rename(tmp_path / "drive")
    assert index_folder(photos, FakeEncoder(), options=ONE).missing == 6
    with Writer(index) as writer:
        manifest = writer.current()
        assert manifest is not None
        lost = manifest.segments[-1]
        assert lost.vectors == 6
        if mended_by == "the run":
            writer.commit(dataclasses.replace(manifest, segments=manifest.segments[:-1]))
    if mended_by == "repair":
        (index / lost.data.path).unlink()
        (index / lost.mapped.path).unlink()
        report = repair(index)
        assert report.lost_rows == 0
        assert any("6 missing pictures lost their vectors" in action for action in report.actions)
    checked = verify(index)
    assert (checked.ok, checked.pictures, checked.missing) == (True, 30, 6)
    assert index_folder(photos, FakeEncoder(), options=ONE).missing == 6
    (tmp_path / "drive").rename(drive)
    back = index_folder(photos, FakeEncoder(), options=ONE)
    assert (back.encoded, back.missing, back.pictures) == (6, 0, 36)
    checked = verify(index)
    assert (checked.ok, checked.pictures, checked.missing) == (True, 36, 0), checked.problems
    assert index_folder(photos, FakeEncoder(), options=ONE).encoded == 0


def test_search_files_replace_vectors_also_where_all_manifests_are_lost(tmp_path: Path) -> None:
    """The other files of vectors name the model."""
    photos, index = tmp_path / "photos", tmp_path / "photos" / ".clipsearch"
    fill(photos, 30)
    index_folder(photos, FakeEncoder(), options=ONE)
    fill(photos, 6, first=40)
    index_folder(photos, FakeEncoder(), options=ONE)
    with open_snapshot(index) as snapshot:
        segments = snapshot.manifest.segments
    assert len(segments) == 2
    damage(index / segments[1].data.path, "changed")
    shutil.rmtree(index / "manifests")
    assert repair(index).pictures == 36
    assert verify(index).ok
    assert index_folder(photos, FakeEncoder(), options=ONE).encoded == 0


def test_the_last_two_generations_are_kept(photos: Path, commands: Commands) -> None:
    """With their files: without the newest manifest, the one before it answers."""
    index = photos / ".clipsearch"
    for first in (0, 10, 20):
        fill(photos, 3, first=first)
        commands.index(photos)
    manifests = sorted((index / "manifests").glob("*.json"))
    assert len(manifests) >= 2
    manifests[-1].unlink()
    (index / "CURRENT").unlink()
    done = commands.run("verify", "--repair", "--index", photos)
    assert done.status == 0, done.out + done.err
    assert len(commands.state(index).found) >= 6
    commands.index(photos)
    assert len(commands.state(index).found) == 9


# -- crashes of decoders


def test_a_picture_whose_decoder_crashed_is_tried_again(photos: Path, commands: Commands, faults: Faults) -> None:
    fill(photos, 4)
    victim = photos / "set000" / "p00002.jpg"
    with faults.armed("read", victim, mode="kill"):
        first = commands.index(photos)
    if first["skipped"]:  # it was not tried again within the run
        assert [(skip["path"], skip["status"]) for skip in first["skipped"]] == [
            ("set000/p00002.jpg", "decoder_crashed")
        ]
        assert commands.index(photos)["indexed"] == 1
    assert len(commands.state(photos / ".clipsearch").found) == 4


def test_a_picture_that_always_crashes_is_tried_three_times_more_at_most(
    photos: Path, commands: Commands, faults: Faults
) -> None:
    fill(photos, 4)
    victim = photos / "set000" / "p00002.jpg"
    tried = []
    for _ in range(7):
        with faults.armed("read", victim, mode="kill from then on"):
            commands.index(photos)
            tried.append(faults.struck().failed > 0)
    assert tried[0] and tried[1]
    assert sum(tried[1:]) <= 3
    assert not any(tried[4:])


def test_a_picture_that_took_too_long_is_tried_again(photos: Path, commands: Commands, faults: Faults) -> None:
    fill(photos, 3)
    victim = photos / "set000" / "p00001.jpg"
    with faults.armed("read", victim, mode="stop"):
        first = commands.index(photos, "--timeout", "0.5")
    assert [skip["status"] for skip in first["skipped"]] in (["timeout"], ["decoder_crashed"])
    assert commands.index(photos)["indexed"] == 1
