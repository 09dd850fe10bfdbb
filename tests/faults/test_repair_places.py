"""`verify --repair` where something else lies in the place of our files, and where a manifest is of another index.

Set CLIPSEARCH_FILES to try every place with every kind.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipsearch.errors import ClipsearchError, IndexWarning
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.repair import repair
from clipsearch.indexer.verify import verify
from clipsearch.records import Manifest
from clipsearch.search.collection import Collection
from clipsearch.store import Writer, open_snapshot
from clipsearch.store.tags import write_tags
from tests.support.archives import jpeg, write_tar
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill
from tests.support.trees import differences, tree

FOLDERS = ["manifests", "records", "rows", "vectors", "search", "marks", "staging", "damaged"]
EVERY = "CLIPSEARCH_FILES" in os.environ


def run(folder: Path) -> None:
    index_folder(folder, FakeEncoder(), options=IndexOptions(workers=1))


def answers(index: Path) -> tuple[list[tuple[str, float]], list[str]]:
    with Collection(index, encoder=FakeEncoder()) as photos:
        hits = [(hit.record.path, round(hit.score, 3)) for hit in photos.search("red", k=1000, all=True)]
        return hits, sorted(hit.record.path for hit in photos.search("tag:dog", k=1000, all=True))


def current(index: Path) -> Manifest:
    with open_snapshot(index) as snapshot:
        return snapshot.manifest


def tagged(folder: Path, number: int) -> None:
    with Collection(folder / ".clipsearch", encoder=FakeEncoder()) as photos:
        content = photos.record(number).content_hash
    assert content is not None
    write_tags(folder / ".clipsearch", {"dog": {content: 1.0}}, extend=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fragments and a tag that was changed once."""
    folder = tmp_path_factory.mktemp("whole") / "photos"
    fill(folder, 8)
    run(folder)
    tagged(folder, 0)
    fill(folder, 5, first=20)
    run(folder)
    tagged(folder, 1)
    return folder


def places(index: Path) -> dict[str, Path]:
    manifest = current(index)
    fragment, segment, tag = manifest.fragments[-1], manifest.segments[-1], manifest.tags[0]
    assert fragment.rows_file is not None
    assert segment.hidden is None
    files = {
        "records": fragment.data,
        "rows": fragment.rows_file,
        "vectors": segment.data,
        "search": segment.mapped,
        "tag": tag.file,
    }
    return {
        **{name: index / name for name in ("INDEX", "CURRENT", "LOCK", "COMMIT", "LOCK.held")},
        "newest manifest": index / "manifests" / f"{manifest.generation:08d}.json",
        "next manifest": index / "manifests" / f"{manifest.generation + 1:08d}.json",
        "older manifest": index / "manifests" / f"{manifest.generation - 1:08d}.json",
        **{name: index / ref.path for name, ref in files.items()},
        **{f"{name}/": index / name for name in FOLDERS},
    }


def a_folder(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def a_link(path: Path, beside: Path) -> None:
    path.symlink_to(beside / "victim.txt")


def a_link_to_a_folder(path: Path, beside: Path) -> None:
    path.symlink_to(beside / "others")


def a_dangling_link(path: Path, beside: Path) -> None:
    path.symlink_to(beside / "nowhere")


def a_loop(path: Path, _: Path) -> None:
    path.symlink_to(path.name)


def a_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def a_file(path: Path, _: Path) -> None:
    path.write_text("mine")


KINDS = [a_folder, a_link, a_link_to_a_folder, a_dangling_link, a_loop, a_pipe, a_file]
PLACES = ["INDEX", "CURRENT", "LOCK", "COMMIT", "LOCK.held", "newest manifest", "next manifest", "older manifest"]
PLACES += ["records", "rows", "vectors", "search", "tag"]
PLACES += [f"{name}/" for name in FOLDERS]
CASES = [
    (place, kind)
    for place in PLACES
    for kind in KINDS
    if not (place.endswith("/") and kind is a_folder) and not (not place.endswith("/") and kind is a_file)
]


@pytest.mark.few(each="place kind")
@pytest.mark.parametrize(
    ("place", "kind"),
    CASES if EVERY else thinned(CASES[::3], 4),
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_is_no_file_of_ours_is_put_aside_and_the_index_answers_as_before(
    place: str, kind: Callable[[Path, Path], None], whole: Path, tmp_path: Path
) -> None:
    folder, beside = tmp_path / "photos", tmp_path / "beside"
    shutil.copytree(whole, folder)
    (beside / "others").mkdir(parents=True)
    (beside / "victim.txt").write_text("precious")
    (beside / "others" / "theirs.txt").write_text("precious")
    index = folder / ".clipsearch"
    path = places(index)[place]
    before, outside = answers(index), tree(beside)
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    kind(path, beside)
    found: Path | int = path.readlink() if path.is_symlink() else path.lstat().st_mode
    pictures = tree(folder, but=index)
    repair(index)
    assert answers(index) == before
    assert not verify(index).problems
    aside = [put for put in index.rglob("*") if "damaged" in put.parts and put.name.endswith(path.name)]
    if place != "damaged/":
        assert found in [put.readlink() if put.is_symlink() else put.lstat().st_mode for put in aside]
    fill(folder, 1, first=30)
    run(folder)
    assert len(answers(index)[0]) == len(before[0]) + 1
    assert not verify(index).problems
    assert not differences(outside, tree(beside))
    assert not differences(
        pictures, {name: entry for name, entry in tree(folder, but=index).items() if name in pictures}
    )


@pytest.mark.parametrize("place", ["CURRENT", "INDEX", "newest manifest", "records", "vectors", "tag"])
def test_a_link_to_the_file_itself_loses_nothing(place: str, whole: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "photos", tmp_path / "store"
    shutil.copytree(whole, folder)
    store.mkdir()
    index = folder / ".clipsearch"
    before, path = answers(index), places(index)[place]
    path.rename(store / path.name)
    path.symlink_to(store / path.name)
    kept = tree(store)
    repair(index)
    assert answers(index) == before
    assert not differences(kept, tree(store))


def test_folders_on_another_drive_stay_where_they_are(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(whole, folder)
    index = folder / ".clipsearch"
    before = answers(index)
    (index / "vectors").rename(tmp_path / "vectors")
    (index / "vectors").symlink_to(tmp_path / "vectors")
    assert not repair(index).actions
    assert answers(index) == before


@pytest.mark.parametrize("number", ["the next", "the same"])
def test_a_manifest_of_another_index_does_not_cost_ours(number: str, whole: Path, tmp_path: Path) -> None:
    """As a run commits while the drive under it is swapped, or as a file synchroniser mixes two indexes."""
    folder, other = tmp_path / "photos", tmp_path / "other"
    shutil.copytree(whole, folder)
    ours, theirs = folder / ".clipsearch", other / ".clipsearch"
    before, newest = answers(ours), current(ours)
    fill(other, 3)
    while not theirs.exists() or current(theirs).generation < newest.generation + (number == "the next"):
        fill(other, 1, first=50 + len(list(other.rglob("*.jpg"))))
        run(other)
    name = f"manifests/{current(theirs).generation:08d}.json"
    for copied in ("CURRENT", name):
        shutil.copyfile(theirs / copied, ours / copied)
    with pytest.raises(ClipsearchError):
        answers(ours)
    assert repair(ours).lost_rows == 0
    assert answers(ours) == before
    assert not verify(ours).problems


@pytest.mark.parametrize("lost", ["manifests", "manifests and COMMIT", "by an earlier version"])
def test_an_index_elsewhere_that_lost_its_manifests_finds_its_folder_again(lost: str, tmp_path: Path) -> None:
    """And is never given another one: neither the folder that it lies in, nor one with other pictures."""
    photos, index, options = tmp_path / "photos", tmp_path / "elsewhere" / "index", IndexOptions(workers=1)
    fill(photos, 12)
    fill(tmp_path / "others", 12, first=100)
    index_folder(photos, FakeEncoder(), index=index, options=options)
    if lost == "by an earlier version":
        with Writer(index) as writer:
            manifest = writer.current()
            assert manifest is not None
            writer.commit(dataclasses.replace(manifest, root=".."))
    else:
        shutil.rmtree(index / "manifests")
        (index / "CURRENT").unlink()
        if lost == "manifests and COMMIT":
            (index / "COMMIT").unlink()
        report = repair(index)
        assert report.pictures == 12
        assert verify(index).ok
    if lost == "manifests":
        assert current(index).root == str(photos)
    elif lost == "manifests and COMMIT":
        assert any("which folder" in action for action in report.actions)
        with Collection(index, encoder=FakeEncoder()) as found, pytest.warns(IndexWarning, match="which folder"):
            assert found.root == index
    with pytest.raises(ClipsearchError, match=r"index of|which folder"):
        index_folder(tmp_path / "others", FakeEncoder(), index=index, options=options)
    report_of_run = index_folder(photos, FakeEncoder(), index=index, options=options)
    assert (report_of_run.encoded, report_of_run.unchanged, report_of_run.pictures) == (0, 12, 12)
    assert current(index).root == str(photos)
    shutil.rmtree(index / "manifests")
    repair(index)
    assert current(index).root == str(photos)


def test_an_index_beside_its_pictures_that_lost_its_manifests_stays_with_them(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    fill(photos, 12)
    run(photos)
    index = photos / ".clipsearch"
    shutil.rmtree(index / "manifests")
    (index / "COMMIT").write_bytes(b"committed\n")  # as earlier versions wrote it
    photos.rename(tmp_path / "moved")
    assert repair(tmp_path / "moved" / ".clipsearch").pictures == 12
    assert current(tmp_path / "moved" / ".clipsearch").root == ".."


@pytest.mark.few(each="source commit")
@pytest.mark.parametrize("commit", ["whole", "of an earlier version", "gone"])
@pytest.mark.parametrize("source", ["folder", "folder with one tar", "tar", "tar beside", "list beside"])
def test_an_index_that_lost_its_manifests_stays_with_its_source(source: str, commit: str, tmp_path: Path) -> None:
    """A run goes on with it as before: with the folder, whatever the index is called, or with the one file."""
    photos, members = tmp_path / "photos", {f"{n}.jpg": jpeg(n) for n in range(20, 23)}
    fill(photos, 3)
    options = IndexOptions(workers=1)
    if source == "folder":
        named, index = photos, tmp_path / "photos.clipsearch"
    elif source == "folder with one tar":
        shutil.rmtree(photos)
        photos.mkdir()
        write_tar(photos / "y.tar", members)
        named, index, options = photos, photos / ".clipsearch", IndexOptions(workers=1, archives=True)
    elif source == "list beside":
        (photos / "some.txt").write_text(
            "\n".join(str(path.relative_to(photos)) for path in sorted(photos.rglob("*.jpg")))
        )
        named, index = photos / "some.txt", photos / "some.txt.clipsearch"
    else:
        named = write_tar(photos / "y.tar", members)
        index = tmp_path / "elsewhere" / "index" if source == "tar" else photos / "y.tar.clipsearch"
    index_folder(named, FakeEncoder(), index=index, options=options)
    before = current(index)
    shutil.rmtree(index / "manifests")
    (index / "CURRENT").unlink()
    if commit == "of an earlier version":
        said = (index / "COMMIT").read_bytes().splitlines(keepends=True)
        (index / "COMMIT").write_bytes(b"".join(said[:2]))
    elif commit == "gone":
        (index / "COMMIT").unlink()
    assert repair(index).pictures == 3
    found = current(index)
    assert (found.listed, found.archives) == (before.listed, before.archives)
    if commit == "whole":
        assert (found.root, found.links) == (before.root, before.links)
    report = index_folder(named, FakeEncoder(), index=index, options=IndexOptions(workers=1))
    assert (report.encoded, report.unchanged, report.pictures) == (0, 3, 3)
    assert (current(index).listed, current(index).root) == (before.listed, before.root)
