"""Files beside pictures that come, change or go after the pictures were read, and metadata that is read again."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.errors import UnreadablePicture
from clipsearch.indexer import build
from clipsearch.indexer.build import METADATA_IS_OLD, IndexOptions, IndexReport, Progress, index_folder
from clipsearch.indexer.scan import FoundFile, Scan, walk
from clipsearch.indexer.verify import verify
from clipsearch.pictures.images import PictureFile, read_picture
from clipsearch.pictures.metadata import METADATA_VERSION, sidecars
from clipsearch.pictures.metadata.sidecars import family_of, said_beside, says_of_whom
from clipsearch.pictures.metadata.statements import NOTHING
from clipsearch.pictures.pool import DecodePool, DecodeTask
from clipsearch.records import ImageRecord, Preprocessing
from clipsearch.search.collection import Collection
from clipsearch.store import columns, open_snapshot, read_records
from tests.faults.test_mutated_pictures import FORMATS, encoded, mutated
from tests.support.breadth import tries
from tests.support.cases import thinned
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import picture
from tests.unit.test_metadata import exif_bytes, metadata_of, xmp


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(["a.jpg", "b.png", "c.jpg", "plain/d.jpg"]):
        (folder / name).parent.mkdir(exist_ok=True)
        picture(number).save(folder / name, exif=exif_bytes({0x0132: "2001:02:03 04:05:06"}))
    return folder


def run(photos: Path, encoder: FakeEncoder | None = None, **options: object) -> IndexReport:
    report = index_folder(photos, encoder or FakeEncoder(), options=IndexOptions(**{"workers": 1, **options}))  # type: ignore[arg-type]
    checked = verify(report.index)
    assert checked.ok, checked.problems
    return report


def rows(photos: Path) -> dict[str, ImageRecord]:
    with open_snapshot(photos / ".clipsearch") as snapshot:
        found = read_records(photos / ".clipsearch", snapshot.manifest)
        assert len({record.path for record in found}) == len(found)
        return {record.path: record for record in found}


def sidecar(year: int) -> bytes:
    return xmp(f"exif:DateTimeOriginal='{year}-06-05T10:11:12'>")


def takeout(title: str, seconds: int = 1307268672) -> bytes:
    return json.dumps({"title": title, "photoTakenTime": {"timestamp": str(seconds)}}).encode()


WRITERS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "a.xmp": ("a.jpg", sidecar),
    "a.jpg.xmp": ("a.jpg", sidecar),
    "A.JPG.XMP": ("a.jpg", sidecar),
    "a.jpg.json": ("a.jpg", lambda year: takeout("a.jpg", 86_400 * 366 * (year - 1970))),
    "a.jpg.supplemental-metadata.json": ("a.jpg", lambda year: takeout("a.jpg", 86_400 * 366 * (year - 1970))),
    "a.jpg.supplem.json": ("a.jpg", lambda year: takeout("a.jpg", 86_400 * 366 * (year - 1970))),
    "A.json": (
        "a.jpg",
        lambda year: json.dumps([{"SourceFile": "x/a.jpg", "XMP:CreateDate": f"{year}:06:05 10:11:12"}]).encode(),
    ),
    "a.heic.json": ("a.jpg", lambda year: takeout("a.heic", 86_400 * 366 * (year - 1970))),
    "a.json": ("a.jpg", lambda year: takeout("a.jpg", 86_400 * 366 * (year - 1970))),
}


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("name", thinned(WRITERS, 4))
def test_what_lies_beside_a_picture_is_noticed_when_it_comes_changes_and_goes(photos: Path, name: str) -> None:
    of, content = WRITERS[name]
    first = run(photos)
    assert (first.encoded, first.described) == (4, 0)
    before = rows(photos)
    for year in (2011, 2013, None):
        if year is None:
            (photos / name).unlink()
        else:
            (photos / name).write_bytes(content(year))
        encoder = FakeEncoder()
        report = run(photos, encoder)
        assert (report.described, report.unchanged, report.encoded, encoder.images_encoded) == (1, 3, 0, 0)
        after = rows(photos)
        if year is None:
            assert after[of].metadata == before[of].metadata
            assert after[of].sidecars == 0
        else:
            assert (after[of].metadata.taken_at or "").startswith(str(year))
            assert (after[of].metadata.date_source or "").partition(":")[0] in ("sidecar", "takeout")
        assert after[of].vector_id == before[of].vector_id
        assert {p: r for p, r in after.items() if p != of} == {p: r for p, r in before.items() if p != of}
        again = run(photos)
        assert (again.described, again.unchanged, again.generation) == (0, 4, report.generation)


def test_what_it_says_is_found(photos: Path) -> None:
    run(photos)
    (photos / "plain" / "d.xmp").write_bytes(xmp("exif:GPSLatitude='48,30N' exif:GPSLongitude='11,30E'>"))
    (photos / "c.jpg.xmp").write_bytes(sidecar(2015))
    run(photos)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        assert [h.record.path for h in collection.search("after:2015 before:2016", k=9)] == ["c.jpg"]
        assert [h.record.path for h in collection.search("near:48.5,11.5,9km", k=9)] == ["plain/d.jpg"]


@pytest.mark.many
@pytest.mark.parametrize(
    ("form", "ending"),
    thinned(itertools.product(["NFC", "NFD"], ["xmp", "jpg.xmp", "jpg.json", "jpg.supplemental-metadata.json"]), 3),
)
def test_letters_in_another_form_are_the_same(photos: Path, form: Literal["NFC", "NFD"], ending: str) -> None:
    other: Literal["NFC", "NFD"] = "NFD" if form == "NFC" else "NFC"
    picture(60).save(photos / unicodedata.normalize(form, "Café Å 한.jpg"))
    run(photos)
    name = unicodedata.normalize(other, f"Café Å 한.{ending}")
    (photos / name).write_bytes(sidecar(2011) if ending.endswith("xmp") else takeout("Café Å 한.jpg"))
    assert run(photos).described == 1
    taken = rows(photos)[unicodedata.normalize(form, "Café Å 한.jpg")].metadata.taken_at
    assert (taken or "").startswith("2011-06-05")


@pytest.mark.many
@pytest.mark.parametrize(
    "name", ["a.AAE", "a.jpg.txt", "a.thm", "notes.json", "package.xmp", "b2.xmp", "plain/e.xmp", "xmp", "json", ".xmp"]
)
def test_other_files_are_not_looked_at(photos: Path, name: str) -> None:
    first = run(photos)
    (photos / name).write_bytes(sidecar(2011))
    report = run(photos)
    assert (report.described, report.unchanged, report.generation) == (0, 4, first.generation)


def test_a_folder_of_the_name_of_a_sidecar_and_a_link_to_nowhere(photos: Path) -> None:
    run(photos)
    (photos / "a.xmp").mkdir()
    (photos / "b.xmp").symlink_to("nowhere")
    os.mkfifo(photos / "c.xmp")
    report = run(photos)
    assert (report.encoded, report.pictures) == (0, 4)
    assert rows(photos)["c.jpg"].metadata.taken_at == "2001-02-03T04:05:06"


def test_one_that_may_not_be_read_is_read_once_it_may(photos: Path) -> None:
    (photos / "a.xmp").write_bytes(sidecar(2011))
    (photos / "a.xmp").chmod(0)
    if os.access(photos / "a.xmp", os.R_OK):  # permissions bind everyone but root
        pytest.skip("root may read everything")
    run(photos)
    assert rows(photos)["a.jpg"].metadata.taken_at == "2001-02-03T04:05:06"
    (photos / "a.xmp").chmod(0o644)
    assert run(photos).described == 1
    assert (rows(photos)["a.jpg"].metadata.taken_at or "").startswith("2011")


@pytest.mark.parametrize("call", ["scandir", "stat", "open"])
def test_what_cannot_be_read_is_not_nothing(photos: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "a.xmp").write_bytes(sidecar(2011))
    path = str(photos / "a.jpg")

    def fail(*arguments: object, **more: object) -> object:
        raise OSError(errno.EIO, "Input/output error")

    sidecars._listed.clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output"):
            said_beside(path)
    assert said_beside(path) != (NOTHING, NOTHING)
    (photos / "a.xmp").write_bytes(b"<x:xmpmeta")
    assert said_beside(path) == (NOTHING, NOTHING)  # that it cannot be understood is no error


def test_a_link_to_a_sidecar_is_followed(photos: Path, tmp_path: Path) -> None:
    run(photos, follow_links=True)
    (tmp_path / "elsewhere.xmp").write_bytes(sidecar(2011))
    (photos / "a.xmp").symlink_to(tmp_path / "elsewhere.xmp")
    assert run(photos).described == 1
    (tmp_path / "elsewhere.xmp").write_bytes(sidecar(20111)[:-1] + b" >")
    assert run(photos).described == 1


def test_one_that_a_new_version_of_the_picture_brings(photos: Path) -> None:
    run(photos)
    (photos / "a.xmp").write_bytes(sidecar(2011))
    picture(77).save(photos / "a.jpg")
    report = run(photos)
    assert (report.described, report.encoded) == (0, 1)
    assert rows(photos)["a.jpg"].metadata.date_source == "sidecar:DateTimeOriginal"
    assert run(photos).described == 0


@pytest.mark.slow
def test_a_picture_moved_away_from_its_sidecar_has_its_own_date_again(photos: Path) -> None:
    (photos / "a.xmp").write_bytes(sidecar(2011))
    run(photos)
    assert (rows(photos)["a.jpg"].metadata.taken_at or "").startswith("2011")
    (photos / "a.jpg").rename(photos / "plain" / "moved.jpg")
    encoder = FakeEncoder()
    report = run(photos, encoder)
    assert (report.renamed, encoder.images_encoded) == (1, 0)
    assert rows(photos)["plain/moved.jpg"].metadata.taken_at == "2001-02-03T04:05:06"
    (photos / "a.xmp").rename(photos / "plain" / "moved.jpg.xmp")
    assert run(photos).described == 1
    assert (rows(photos)["plain/moved.jpg"].metadata.taken_at or "").startswith("2011")


def test_a_copy_has_what_lies_beside_it(photos: Path) -> None:
    (photos / "a.xmp").write_bytes(sidecar(2011))
    run(photos)
    shutil.copy(photos / "a.jpg", photos / "plain" / "copy.jpg")  # without it
    shutil.copy(photos / "c.jpg", photos / "plain" / "other.jpg")
    (photos / "plain" / "other.xmp").write_bytes(sidecar(2014))
    encoder = FakeEncoder()
    report = run(photos, encoder)
    assert (report.copied, encoder.images_encoded) == (2, 0)
    found = rows(photos)
    assert found["plain/copy.jpg"].metadata.taken_at == "2001-02-03T04:05:06"
    assert (found["plain/other.jpg"].metadata.taken_at or "").startswith("2014")
    assert run(photos).described == 0


def test_a_read_that_fails_leaves_the_row_and_is_made_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos)
    before = rows(photos)
    (photos / "a.xmp").write_bytes(sidecar(2011))
    task = build._Run._task

    def hurried(self: build._Run, key: int, file: FoundFile, mode: str) -> DecodeTask:
        return dataclasses.replace(task(self, key, file, mode), path=str(photos / "gone.jpg"))  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(build._Run, "_task", hurried)
        report = run(photos)
        assert (report.described, report.unchanged, report.skipped) == (0, 4, [])
        assert rows(photos) == before
    assert run(photos).described == 1
    assert (rows(photos)["a.jpg"].metadata.taken_at or "").startswith("2011")


@pytest.mark.slow
def test_what_was_read_is_committed_while_the_run_goes_on(photos: Path) -> None:
    for number in range(4, 40):
        picture(number).save(photos / f"p{number}.jpg")
    run(photos)
    before = rows(photos)
    for number in range(4, 40):
        (photos / f"p{number}.xmp").write_bytes(sidecar(1984 + number))
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == "describe" and progress.done == 20:
            raise KeyboardInterrupt

    options = IndexOptions(workers=1, commit_rows=8)
    with pytest.raises(KeyboardInterrupt):
        index_folder(photos, FakeEncoder(), options=options, progress=stop)
    assert verify(photos / ".clipsearch").ok
    done = sum(before[path] != row for path, row in rows(photos).items())
    assert 8 <= done <= 20
    assert {p.total for p in seen if p.stage == "describe"} == {36}
    assert run(photos).described == 36 - done
    assert all(rows(photos)[f"p{n}.jpg"].metadata.taken_at == f"{1984 + n}-06-05T10:11:12" for n in range(4, 40))


# --- older versions ------------------------------------------------------------------------------------------


def make_old(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Index as the version before did: without these columns, and with fewer dates."""
    with monkeypatch.context() as patch:
        patch.setattr(build, "METADATA_VERSION", 0)
        patch.setattr("clipsearch.indexer.rows.METADATA_VERSION", 0)
        for table in ("NUMBERS", "RUN_NUMBERS"):
            known = getattr(columns, table).items()
            before = {name: column for name, column in known if name not in ("sidecars", "metadata_version")}
            patch.setattr(f"clipsearch.store.columns.{table}", before)
        patch.setattr("clipsearch.indexer.sidecars.Sidecars.numbers", lambda self, names: None)
        patch.setattr("clipsearch.indexer.look.Outdated", lambda catalog, older_versions: None)
        patch.setattr("clipsearch.indexer.build.has_older_versions", lambda catalog: False)
        index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))


@pytest.mark.slow
def test_an_older_index_opens_and_only_pictures_with_sidecars_are_looked_at(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "a.jpg.xmp").write_bytes(sidecar(2011))
    make_old(photos, monkeypatch)
    assert verify(photos / ".clipsearch").ok
    assert {row.metadata_version for row in rows(photos).values()} == {0}
    report = run(photos)
    assert (report.described, report.unchanged) == (1, 3)
    assert METADATA_IS_OLD in report.warnings
    assert "--reread-metadata" in METADATA_IS_OLD
    assert run(photos).warnings == []  # said once
    found = rows(photos)
    assert {path for path, row in found.items() if row.metadata_version == METADATA_VERSION} == {"a.jpg"}


@pytest.mark.slow
def test_metadata_of_older_versions_is_read_again_when_asked_for(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    make_old(photos, monkeypatch)
    vectors = {path: row.vector_id for path, row in rows(photos).items()}
    encoder = FakeEncoder()
    seen: list[Progress] = []
    report = index_folder(photos, encoder, options=IndexOptions(reread_metadata=True), progress=seen.append)
    assert (report.described, report.encoded, encoder.images_encoded, report.warnings) == (4, 0, 0, [])
    assert report.described_per_s > 0
    assert [p.described for p in seen if p.stage == "describe"][-1] == 4
    assert {path: row.vector_id for path, row in rows(photos).items()} == vectors
    assert {row.metadata_version for row in rows(photos).values() if row.status == "ok"} == {METADATA_VERSION}
    assert run(photos, reread_metadata=True).described == 0  # all of it is new


@pytest.mark.slow
def test_only_rows_of_older_versions_are_read_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos)
    with monkeypatch.context() as patch:
        patch.setattr(build, "METADATA_VERSION", METADATA_VERSION + 1)
        patch.setattr("clipsearch.indexer.rows.METADATA_VERSION", METADATA_VERSION + 1)
        patch.setattr("clipsearch.indexer.sidecars.METADATA_VERSION", METADATA_VERSION + 1)
        picture(50).save(photos / "new.jpg")
        assert METADATA_IS_OLD in run(photos).warnings
        report = run(photos, reread_metadata=True)
        assert (report.described, report.unchanged) == (4, 1)
        assert run(photos, reread_metadata=True).described == 0


# --- names ---------------------------------------------------------------------------------------------------

ENDINGS = ["jpg", "JPG", "jpeg", "png", "heic", "tif", "dng", "3fr", "webp"]


@given(
    stem=st.text("aB1_- .2é(", min_size=1, max_size=60).filter(lambda s: s.strip(". ") and "/" not in s),
    addition=st.sampled_from(["", "-edited", "(1)", "-bearbeitet", "-edited(2)", "(12)"]),
    ending=st.sampled_from(ENDINGS),
    data=st.data(),
)
def test_whatever_speaks_of_a_picture_is_of_its_family(
    stem: str, addition: str, ending: str, data: st.DataObject
) -> None:
    import tempfile

    name = f"{stem}{addition}.{ending}"
    if len(name.encode()) > 200 or name.startswith("."):
        return
    counter = addition[addition.find("(") :] if "(" in addition else ""
    whole = f"{stem}.{ending}.supplemental-metadata"
    length = data.draw(st.integers(len(stem) + len(ending) + 1, len(whole)))
    candidates = [
        f"{name}.xmp",
        f"{stem}{addition}.xmp",
        f"{name}.json",
        f"{whole[:length]}{counter}.json",
        f"{stem}.{ending}"[:46] + f"{counter}.json",
        f"{stem}{addition}.json",
        f"{stem}.heic{counter}.json",
    ]
    beside = data.draw(st.sampled_from(candidates))
    with tempfile.TemporaryDirectory() as folder:
        content = sidecar(2011) if beside.endswith("xmp") else takeout(f"{stem}.{ending}")
        Path(folder, name).write_bytes(b"")
        Path(folder, beside).write_bytes(content)
        if said_beside(f"{folder}/{name}") == (NOTHING, NOTHING):
            return
        assert family_of(beside) == family_of(name)
        result = Scan()
        (block,) = walk(Path(folder), result)
        assert block.sidecars is not None
        assert (block.sidecars > 0).all()


def test_folders_without_sidecars_carry_nothing(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "notes.txt", "c.aae"):
        (tmp_path / name).write_bytes(b"x")
    (block,) = walk(tmp_path, Scan())
    assert block.sidecars is None
    assert [file.sidecars for file in block] == [0, 0]
    (tmp_path / "b.xmp").write_bytes(b"x")
    (block,) = walk(tmp_path, Scan())
    assert [file.sidecars > 0 for file in sorted(block, key=lambda file: file.path)] == [False, True]
    first = np.array(block.sidecars)
    (tmp_path / "b.xmp").write_bytes(b"xy")
    (block,) = walk(tmp_path, Scan())
    assert (np.array(block.sidecars) != first).sum() == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.xmp", True), ("a.JPG.XMP", True), ("a.jpg.json", True), ("a.heic.supplemental-metadata(1).json", True),
        ("a.jpg(1).json", True), ("x" * 46 + ".json", True), ("log.json", False), ("package-lock.json", False),
        ("a.txt", False), ("a.jpg", False), ("json", False),
    ],
)  # fmt: skip
def test_which_files_are_worth_a_look_when_they_change(name: str, expected: bool) -> None:
    assert says_of_whom(name) is expected


# --- reading metadata alone ----------------------------------------------------------------------------------


def test_the_pool_reads_metadata_without_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture(1, size=(200, 200)).save(path, exif=exif_bytes({0x0132: "2001:02:03 04:05:06"}))
    expected = metadata_of(path, path.read_bytes())
    path.write_bytes(path.read_bytes()[:-900])  # pixels that nobody asks for
    with DecodePool(Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3), workers=1) as pool:
        (result,) = pool.run([DecodeTask(1, str(path), "describe")])
    assert (result.metadata, result.pieces, result.skip, result.content_hash) == (expected, None, None, None)


@pytest.mark.many
@pytest.mark.parametrize("name", thinned(FORMATS, 3))
def test_metadata_of_damaged_files_is_read_where_their_pixels_are(tmp_path: Path, name: str) -> None:
    preprocessing = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)
    for number in range(tries("CLIPSEARCH_MUTATIONS", 4, 12)):
        content = encoded(name, number)
        for seed in (None, number):
            body = content if seed is None else mutated(content, seed)
            try:
                expected = read_picture("x." + name, preprocessing, content=body, pieces=True).metadata
            except UnreadablePicture:
                continue
            with PictureFile("x." + name, body) as file:
                found = file.describe(preprocessing, pieces=True)
            assert found.format == expected.format
            assert seed is not None or found == expected


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_file_can_be_described_and_then_read(tmp_path: Path, name: str, is_whole: bool) -> None:
    preprocessing = Preprocessing(32, 32, (0.0,) * 3, (1.0,) * 3)
    path = tmp_path / f"x.{name}"
    content = encoded(name, 5)
    path.write_bytes(content if is_whole else mutated(content, 3))
    try:
        expected = read_picture(path, preprocessing)
    except UnreadablePicture:
        return
    with PictureFile(path) as file:
        assert file.describe(preprocessing).format == expected.metadata.format
        assert file.content_hash() == expected.content_hash
        assert np.array_equal(file.decode(preprocessing).pieces, expected.pieces)
