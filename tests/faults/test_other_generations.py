"""Nothing that a person made is deleted because a manifest is lost, old, of another machine, or because locks fail."""

from __future__ import annotations

import dataclasses
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from clipsearch.errors import ClipsearchError, CorruptIndex, IndexWarning, NotAnIndex, StorageError
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.repair import _Repair, repair
from clipsearch.indexer.verify import verify
from clipsearch.records import Manifest
from clipsearch.store import Writer, open_snapshot, read_records
from clipsearch.store.files import HashingFile
from clipsearch.store.tags import find_tag, read_tag, remove_tag, write_tags
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill

pytestmark = pytest.mark.filterwarnings("ignore::clipsearch.errors.IndexWarning")


def run(photos: Path, more: int = 0) -> Path:
    """Index a folder, after `more` new pictures came."""
    fill(photos, more, first=len(list(photos.rglob("*.jpg"))))
    return index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1)).index


def tags_of(index: Path) -> dict[str, set[str]]:
    with open_snapshot(index) as snapshot:
        return {ref.name: set(read_tag(index, ref).as_dict()) for ref in snapshot.tags}


def contents(index: Path) -> list[str]:
    with open_snapshot(index) as snapshot:
        return [record.content_hash or "" for record in read_records(index, snapshot.manifest)]


@pytest.fixture
def index(photos: Path) -> Path:
    index = run(photos, 6)
    write_tags(index, {"first": dict.fromkeys(contents(index)[:2], 1.0)})
    return index


def newest(index: Path) -> Path:
    return max((index / "manifests").glob("*.json"))


def put_old_current_back(index: Path, change: Callable[[], object]) -> None:
    """Let `change` happen, twice, and have CURRENT name what it named before, as a snapshot of it would."""
    kept = {path: path.read_bytes() for path in (index / "CURRENT", newest(index))}
    for _ in range(2):
        change()
        write_tags(index, {"other": {}}, replace=True)
    for path, raw in kept.items():
        path.write_bytes(raw)


def lose_newest(index: Path) -> None:
    (index / "CURRENT").unlink()
    newest(index).unlink()


def lose_manifests(index: Path) -> None:
    for name in ("CURRENT", "COMMIT"):
        (index / name).unlink()
    shutil.rmtree(index / "manifests")


@pytest.mark.parametrize("lose", [lose_newest, lose_manifests])
def test_tags_outlive_the_manifests_that_named_them(photos: Path, index: Path, lose: Callable[[Path], None]) -> None:
    write_tags(index, {"kept": dict.fromkeys(contents(index)[2:4], 1.0)}, replace=True)
    before = tags_of(index)
    lose(index)
    with pytest.raises(CorruptIndex):
        run(photos, 1)
    repair(index)
    assert tags_of(index) == before
    for _ in range(3):
        run(photos, 1)
    assert tags_of(index) == before
    assert verify(index).ok


def test_a_newer_generation_is_kept_and_said_and_taken_back(photos: Path, index: Path) -> None:
    put_old_current_back(
        index, lambda: write_tags(index, {"kept": dict.fromkeys(contents(index)[2:4], 1.0)}, replace=True)
    )
    assert "kept" not in tags_of(index)
    assert any("it is newer" in problem.message for problem in verify(index).problems)
    for _ in range(3):
        run(photos, 1)  # an ordinary run goes on from CURRENT, and deletes nothing of the other
    repair(index)
    assert {"first", "kept"} <= tags_of(index).keys()
    assert len(contents(index)) == 9
    assert verify(index).ok


@pytest.mark.few(3)
@pytest.mark.filterwarnings("default::clipsearch.errors.IndexWarning")
@pytest.mark.parametrize("changes", range(1, 7))
def test_an_older_index_that_is_put_back_over_a_newer_one_is_said_at_once(
    changes: int, photos: Path, index: Path, tmp_path: Path
) -> None:
    """The next command goes on from the newest generation that comes from the older one, and not a step at a time."""
    shutil.copytree(index, tmp_path / "backup")
    for number in range(changes):
        write_tags(index, {f"tag {number}": {contents(index)[0]: 1.0}})
    shutil.copytree(tmp_path / "backup", index, dirs_exist_ok=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(photos, 1)
    words = " ".join(str(one.message) for one in said if issubclass(one.category, IndexWarning))
    is_newest = f"tag {changes - 1}" in tags_of(index)
    if changes == 1:
        assert is_newest
        assert not words  # as a commit that was cut short
    else:
        assert ("is the current one again" in words) if is_newest else ("verify --repair" in words)
    before = tags_of(index).keys()
    run(photos, 1)
    assert tags_of(index).keys() == before
    repair(index)
    assert f"tag {changes - 1}" in tags_of(index)
    assert verify(index).ok


def test_a_repair_goes_back_to_the_newest_generation(index: Path) -> None:
    put_old_current_back(
        index, lambda: write_tags(index, {"kept": dict.fromkeys(contents(index)[2:4], 1.0)}, replace=True)
    )
    repair(index)
    assert {"first", "kept"} <= tags_of(index).keys()
    assert verify(index).ok


def test_tags_of_two_machines_are_both_kept(photos: Path, index: Path, tmp_path: Path) -> None:
    hashes = contents(index)
    shutil.copytree(index, tmp_path / "there")
    write_tags(index, {"first": dict.fromkeys(hashes[:3], 1.0), "here": {hashes[0]: 1.0}}, replace=True)
    write_tags(tmp_path / "there", {"first": dict.fromkeys(hashes[3:5], 1.0), "there": {hashes[1]: 1.0}}, replace=True)
    for path in (tmp_path / "there" / "tags").iterdir():  # the synchroniser takes all that is new
        if not (index / "tags" / path.name).exists():
            shutil.copy(path, index / "tags" / path.name)
    report = verify(index)
    assert not report.orphans
    assert any("belong to no generation" in note for note in report.notes)
    for _ in range(3):
        run(photos, 1)
    repair(index)
    assert tags_of(index) == {"first": set(hashes[:5]), "here": {hashes[0]}, "there": {hashes[1]}}
    assert not repair(index).actions


def test_a_tag_that_was_removed_does_not_come_back(photos: Path, index: Path) -> None:
    write_tags(index, {"gone": {contents(index)[0]: 1.0}})
    remove_tag(index, "gone")
    for _ in range(3):
        run(photos, 1)
        assert not repair(index).actions
    assert tags_of(index).keys() == {"first"}
    assert len(list((index / "tags").iterdir())) <= 4  # nor does its file stay


def test_a_tag_saved_during_a_repair_is_kept(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = contents(index)
    with open_snapshot(index) as snapshot:
        ref = find_tag(snapshot.manifest, "first")
        (index / snapshot.manifest.fragments[0].rows_file.path).write_bytes(b"damaged")  # type: ignore[union-attr]
    assert ref is not None
    (index / ref.file.path).write_bytes(b"damaged")
    real = _Repair._repaired

    def save(self: _Repair, manifest: Manifest) -> Manifest:
        repaired = real(self, manifest)
        write_tags(index, {"meanwhile": {hashes[0]: 1.0}})
        return repaired

    monkeypatch.setattr(_Repair, "_repaired", save)
    repair(index)
    assert tags_of(index) == {"first": set(hashes[:2]), "meanwhile": {hashes[0]}}
    assert verify(index).ok


def test_a_commit_that_was_cut_short_is_completed(photos: Path, index: Path) -> None:
    current = (index / "CURRENT").read_bytes()
    write_tags(index, {"kept": {}})
    (index / "CURRENT").write_bytes(current)
    assert verify(index).ok
    run(photos)
    assert tags_of(index).keys() == {"first", "kept"}


@pytest.mark.few(each="name replace")
@pytest.mark.parametrize("name", ["LOCK", "COMMIT"])
@pytest.mark.parametrize("replace", [False, True])
def test_who_lost_a_lock_commits_nothing(
    index: Path, name: str, replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (index / "CURRENT").read_bytes()

    def lose() -> None:
        (index / name).unlink()
        if replace:
            (index / name).touch()

    with Writer(index) as writer:
        manifest = writer.current()
        assert manifest is not None
        if name == "LOCK":
            lose()
        else:
            from clipsearch.store import writer as module

            real = module._check_files

            def check(*arguments: object) -> None:
                lose()
                real(*arguments)  # type: ignore[arg-type]

            monkeypatch.setattr(module, "_check_files", check)
        with pytest.raises(ClipsearchError, match="was deleted, or taken over"):
            writer.commit(dataclasses.replace(manifest, recall_target=0.9))
    assert (index / "CURRENT").read_bytes() == before


def write_something(file: HashingFile) -> None:
    file.write(b"x")


def test_no_manifest_names_a_file_that_is_not_there(index: Path) -> None:
    before = (index / "CURRENT").read_bytes()
    with Writer(index) as writer:
        manifest = writer.current()
        assert manifest is not None
        lost = writer.add_file("search", ".npy", write_something)
        (index / lost.path).unlink()
        fragments = (dataclasses.replace(manifest.fragments[0], rows_file=lost),)
        with pytest.raises(ClipsearchError, match="in the meantime"):
            writer.commit(dataclasses.replace(manifest, fragments=fragments))
    assert (index / "CURRENT").read_bytes() == before


@pytest.mark.few(each="name make")
@pytest.mark.parametrize("name", ["tags/foo.tag", "records/foo.parquet", "vectors/foo.parquet", "tags/-.tag"])
@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), lambda path: path.touch()])
def test_odd_files_do_not_stop_a_repair(index: Path, name: str, make: Callable[[Path], None]) -> None:
    before = tags_of(index)
    make(index / name)
    lose_manifests(index)
    repair(index)
    assert tags_of(index) == before


def test_no_index_is_made_in_another(photos: Path, index: Path) -> None:
    with pytest.raises(NotAnIndex, match="in another index"):
        index_folder(photos, FakeEncoder(), index=index / "staging" / "inner")
    assert not (index / "staging" / "inner").exists()


def test_a_link_to_an_index_whose_drive_is_away_stays(photos: Path, tmp_path: Path) -> None:
    fill(photos, 1)
    (photos / ".clipsearch").symlink_to(tmp_path / "unplugged" / "index")
    with pytest.raises(StorageError, match="Connect the drive"):
        index_folder(photos, FakeEncoder())
    assert (photos / ".clipsearch").is_symlink()
    assert not (tmp_path / "unplugged").exists()


def test_a_damaged_tag_is_put_aside_before_its_name_is_used_again(index: Path) -> None:
    before = tags_of(index)
    damaged = []
    for path in sorted((index / "tags").iterdir())[::2]:
        damaged.append(path.read_bytes()[:-3])
        path.write_bytes(damaged[-1])
    lose_manifests(index)
    repair(index)
    aside = [path.read_bytes() for path in (index / "damaged").rglob("*") if path.is_file()]
    assert all(raw in aside for raw in damaged)
    assert tags_of(index).keys() <= before.keys()


@pytest.mark.parametrize(
    "twins", [("records", "vectors"), ("rows", "search"), ("records", "search"), ("rows", "vectors")]
)
def test_where_every_generation_lacks_something_the_rest_is_taken_from_either_file(
    photos: Path, index: Path, twins: tuple[str, str]
) -> None:
    """One fragment is gone in both files; of all others one of the two is there."""
    for _ in range(2):
        run(photos, 5)
    before = tags_of(index)
    with open_snapshot(index) as snapshot:
        lost = snapshot.manifest.fragments[0]
        kept = [fragment.data.path for fragment in snapshot.manifest.fragments[1:]]
    assert lost.rows_file is not None and kept
    for file in (lost.data, lost.rows_file):
        (index / file.path).unlink()
    for folder in twins:
        for path in (index / folder).iterdir():
            path.unlink()
    (index / "CURRENT").write_bytes(b"")
    report = repair(index)
    assert not any("no manifest is intact" in action for action in report.actions)
    assert report.pictures == 16 - lost.rows
    assert tags_of(index) == before
    after = index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    assert (after.encoded, after.pictures) == (0, 16)
    assert verify(index).ok


@pytest.mark.parametrize("manifests", [True, False])
def test_tags_and_vectors_outlive_all_rows(photos: Path, index: Path, manifests: bool) -> None:
    """What a person made is not out of reach because what can be read again is gone."""
    before = tags_of(index)
    for folder in ("records", "rows"):
        for path in (index / folder).iterdir():
            path.unlink()
    if manifests:
        (index / "CURRENT").write_bytes(b"")
    else:
        lose_manifests(index)
    repair(index)
    assert tags_of(index) == before
    after = index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    assert (after.encoded, after.pictures) == (0, 6)
    assert verify(index).ok


@pytest.mark.parametrize("name", ["lost+found", "System Volume Information", ".Trash-1000", ".stfolder", "@eaDir"])
def test_a_fresh_drive_can_hold_an_index(photos: Path, tmp_path: Path, name: str) -> None:
    fill(photos, 2)
    (tmp_path / "drive" / name).mkdir(parents=True)
    report = index_folder(photos, FakeEncoder(), index=tmp_path / "drive", options=IndexOptions(workers=1))
    assert report.pictures == 2
    assert (tmp_path / "drive" / name).is_dir()
