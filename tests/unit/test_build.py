"""Incremental indexing with a fake encoder and real files: what is encoded, what is reused, what is kept."""

from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import clipsearch
from clipsearch.errors import EncoderMismatch, InvalidArgument, NoPictures, OtherCollection, StorageError
from clipsearch.indexer import build
from clipsearch.indexer.build import IndexOptions, IndexReport, Progress, index_folder
from clipsearch.indexer.changes import CUT_TO_NS, is_cut
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.status import read_status
from clipsearch.indexer.tune import show_tuning, tune
from clipsearch.indexer.verify import verify
from clipsearch.records import PixelArray
from clipsearch.search.collection import Collection
from clipsearch.store import Writer, read_writer
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture, plain

EXAMPLES = max(4, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 50)

ONE = IndexOptions(workers=1)


def run(folder: Path, encoder: FakeEncoder, **options: object) -> IndexReport:
    report = index_folder(folder, encoder, options=IndexOptions(**{"workers": 1, **options}))  # type: ignore[arg-type]
    checked = verify(report.index)
    assert checked.ok, checked.problems
    assert checked.pictures == report.pictures
    return report


def found_paths(folder: Path, encoder: FakeEncoder) -> set[str]:
    with Collection(folder / ".clipsearch", encoder=encoder) as photos:
        hits = photos.search("red", k=1000, all=True)
        return {hit.record.path for hit in hits}


def test_pictures_are_found_by_what_they_show(photos: Path, encoder: FakeEncoder) -> None:
    for name, colour in {"r": (220, 30, 30), "g": (30, 170, 50), "b": (30, 60, 220)}.items():
        plain(colour).save(photos / f"{name}.png")
    report = run(photos, encoder)
    assert (report.found, report.encoded, report.pictures) == (3, 3, 3)
    with Collection(photos / ".clipsearch", encoder=encoder) as collection:
        assert [Path(hit.path).name for hit in collection.search("green", k=1, all=True)] == ["g.png"]
        assert [Path(hit.path).name for hit in collection.search(photos / "b.png", k=1)] == ["b.png"]
        (hit,) = collection.search(str(photos / "r.png"), k=1)
        assert hit.rank == 1
        assert hit.score == pytest.approx(1, abs=1e-3)
        assert (hit.record.width, hit.record.height) == (40, 40)
        assert len(collection) == 3


@pytest.mark.many
@pytest.mark.parametrize("unit_ns", CUT_TO_NS)
def test_a_restore_that_cuts_file_times_opens_no_picture(photos: Path, encoder: FakeEncoder, unit_ns: int) -> None:
    paths = fill(photos, 12)
    (photos / "p.xmp").write_text("")
    times = [1_700_000_000_123_456_789 + 3_141_592_653 * number for number in range(12)]
    for path, time_ns in zip(paths, times, strict=True):
        os.utime(path, ns=(time_ns, time_ns))
    run(photos, encoder)
    for path, time_ns in zip(paths, times, strict=True):
        path.write_bytes(bytes(path.stat().st_size))  # which shows whether it is read
        cut_ns = time_ns // unit_ns * unit_ns
        os.utime(path, ns=(cut_ns, cut_ns))
    report = run(photos, encoder)
    assert (report.touched, report.encoded, report.unchanged, report.skipped) == (12, 0, 0, [])
    report = run(photos, encoder)
    assert (report.touched, report.unchanged) == (0, 12)
    for path in paths:  # written a moment later, in the same second perhaps
        late_ns = path.stat().st_mtime_ns + unit_ns
        os.utime(path, ns=(late_ns, late_ns))
    assert len(run(photos, encoder, timeout_s=5.0).skipped) + encoder.images_encoded >= 12
    assert read_status(photos / ".clipsearch").pictures <= 12


@pytest.mark.parametrize(
    ("known_s", "now_s", "expected"),
    [
        (1.5, 1.0, True),  # tar
        (3.5, 2.0, True),  # FAT
        (3.5, 1.0, False),
        (1.5, 1.5, False),  # the very same
        (1.5, 2.0, False),  # later
        (1.5, 1.4, False),  # cut to nothing that there is
        (1.4567891, 1.456789, True),
        (1.4567891, 1.45, True),  # exFAT
        (1.4567891, 1.44, False),
        (-0.5, -1.0, True),  # before 1970
        (-0.5, 0.0, False),
    ],
)
def test_times_that_are_others_cut(known_s: float, now_s: float, expected: bool) -> None:
    known, now = (np.array([round(seconds * 1e9)], np.int64) for seconds in (known_s, now_s))
    assert is_cut(known, now).tolist() == [expected]


def test_others_can_see_how_far_a_run_is(photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.indexer.build.NOTE_EVERY_S", 0.0)
    fill(photos, 5)
    (photos / "notes.txt").write_text("no picture")
    seen: list[tuple[str, int, int]] = []

    def look(progress: Progress) -> None:
        state = read_writer(photos / ".clipsearch")
        if state is not None and state.progress is not None:
            seen.append((state.progress.stage, state.progress.done, state.progress.total))

    index_folder(photos, encoder, options=IndexOptions(workers=1, batch_pictures=1), progress=look)
    assert {total for _, _, total in seen} == {5}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert {done for stage, done, _ in seen if stage == "read"} >= {0, 1, 2, 3, 4, 5}
    assert read_writer(photos / ".clipsearch") is None


def test_a_second_run_encodes_nothing(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 12)
    first = run(photos, encoder)
    again = run(photos, encoder)
    assert (again.encoded, again.unchanged, again.generation) == (0, 12, first.generation)
    assert encoder.images_encoded == 12


def test_renamed_moved_and_copied_pictures_keep_their_vectors(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 20)
    run(photos, encoder)
    (photos / "set000").rename(photos / "renamed folder")
    shutil.copy(photos / "set001" / "p00010.jpg", photos / "copy.jpg")
    shutil.move(photos / "set001" / "p00011.jpg", photos / "moved.jpg")
    report = run(photos, encoder)
    assert (report.encoded, report.renamed, report.copied, report.removed) == (0, 11, 1, 0)
    assert report.pictures == 21
    assert encoder.images_encoded == 20
    assert "renamed folder/p00003.jpg" in found_paths(photos, encoder)


def test_a_folder_of_copies_keeps_the_pixels_of_none_and_commits(photos: Path) -> None:
    encoder = FakeEncoder(size=128)
    first = fill(photos, 1)[0]
    for number in range(400):
        os.link(first, photos / f"copy{number:04}.jpg")
    stages: list[str] = []
    tracemalloc.start()
    try:
        report = index_folder(
            photos,
            encoder,
            options=IndexOptions(workers=1, batch_pictures=64, commit_rows=100),
            progress=lambda seen: stages.append(seen.stage),
        )
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.encoded, report.copied, report.pictures) == (1, 400, 401)
    assert peak_bytes < 200 * 3 * 128 * 128
    assert stages.count("commit") >= 3
    assert encoder.images_encoded == 1


def test_changed_pictures_are_encoded_again_and_deleted_ones_forgotten(photos: Path, encoder: FakeEncoder) -> None:
    paths = fill(photos, 10)
    run(photos, encoder)
    picture(999).save(paths[0])
    paths[1].unlink()
    os.utime(paths[2], ns=(1, 1))
    report = run(photos, encoder)
    assert (report.encoded, report.removed, report.touched, report.unchanged) == (1, 1, 1, 7)
    assert report.pictures == 9
    assert "set000/p00001.jpg" not in found_paths(photos, encoder)


def test_a_folder_and_its_index_can_be_copied_elsewhere(photos: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    fill(photos, 5)
    run(photos, encoder)
    shutil.copytree(photos, tmp_path / "elsewhere")
    shutil.rmtree(photos)
    with Collection(tmp_path / "elsewhere" / ".clipsearch", encoder=encoder) as collection:
        hits = collection.search("blue", k=5, all=True)
    assert len(hits) == 5
    assert all(Path(hit.path).is_file() for hit in hits)
    report = run(tmp_path / "elsewhere", encoder)
    assert (report.encoded, report.touched, report.unchanged) == (0, 0, 5)


def test_bad_files_become_rows_with_a_reason(photos: Path, encoder: FakeEncoder) -> None:
    (good,) = fill(photos, 1)
    (photos / "broken.jpg").write_bytes(good.read_bytes()[:200])
    (photos / "empty.png").touch()
    (photos / "notes.txt").write_text("hello")
    (photos / "art.psd").write_bytes(b"8BPS....")
    (photos / "gone.jpg").symlink_to(photos / "nowhere")
    report = run(photos, encoder)
    assert report.pictures == 1
    assert {skip.path: skip.status for skip in report.skipped} == {
        "broken.jpg": "truncated",
        "empty.png": "empty",
        "art.psd": "unsupported_format",
        "gone.jpg": "unreadable",
    }
    assert report.other_files == {".txt files": 1, "links to nowhere": 1}
    again = run(photos, encoder)
    assert (again.skipped_by_status, again.generation) == (report.skipped_by_status, report.generation)
    rows = dict(report.skipped_by_status)
    del rows["unreadable"]  # a link to nowhere has no row: what it may have led to is missing
    assert read_status(photos / ".clipsearch").skipped_by_status == rows
    good.with_name("broken.jpg").write_bytes(b"")
    (photos / "broken.jpg").write_bytes(good.read_bytes())
    assert run(photos, encoder).copied == 1


def test_unreadable_folders_do_not_lose_their_pictures(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 15)
    run(photos, encoder)
    real = os.open

    def refuse(place: str, *arguments: int, **more: object) -> int:
        if str(place).endswith("set001"):
            raise OSError(errno.EIO, "Input/output error")
        return real(place, *arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        report = index_folder(photos, encoder, options=ONE)
    assert (report.removed, report.missing, report.pictures) == (0, 5, 10)
    assert [skip.path for skip in report.skipped] == ["set001"]
    again = run(photos, encoder)
    assert (again.unchanged, again.returned, again.missing, again.pictures) == (15, 5, 0, 15)
    assert encoder.images_encoded == 15


def test_an_empty_mount_point_deletes_nothing(photos: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    fill(photos, 3)
    index = tmp_path / "index"
    index_folder(photos, encoder, index=index, options=ONE)
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(NoPictures):
        index_folder(photos, encoder, index=index, options=ONE)
    with Collection(index, encoder=encoder) as collection:
        assert len(collection.search("red", all=True)) == 3


def test_nothing_to_index_leaves_nothing_behind(photos: Path, encoder: FakeEncoder) -> None:
    with pytest.raises(NoPictures, match="the folder has no files"):
        index_folder(photos, encoder)
    assert not list(photos.iterdir())
    with pytest.raises(StorageError, match="the folder does not exist"):
        index_folder(photos / "nope", encoder)


def test_an_index_elsewhere_belongs_to_one_folder(photos: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    fill(photos, 2)
    other = tmp_path / "other"
    other.mkdir()
    fill(other, 2, first=50)
    index_folder(photos, encoder, index=tmp_path / "index", options=ONE)
    with pytest.raises(OtherCollection, match="photos, not of"):
        index_folder(other, encoder, index=tmp_path / "index", options=ONE)
    photos.rename(tmp_path / "moved")
    report = index_folder(tmp_path / "moved", encoder, index=tmp_path / "index", options=ONE)
    assert (report.encoded, report.pictures) == (0, 2)


def test_another_model_needs_a_reindex(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 4)
    run(photos, encoder)
    other = FakeEncoder(dim=32, seed=5, name="other")
    with pytest.raises(EncoderMismatch, match=r"built with the model fake, .* --model other --reindex"):
        run(photos, other)
    with pytest.raises(EncoderMismatch):
        Collection(photos / ".clipsearch", encoder=other)
    report = run(photos, other, reindex=True)
    assert (report.encoded, report.pictures) == (4, 4)
    with Collection(photos / ".clipsearch", encoder=other) as collection:
        assert len(collection.search("red", all=True)) == 4


@pytest.mark.slow
def test_many_small_commits_are_joined(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 60)
    report = run(photos, encoder, commit_rows=2, batch_pictures=2)
    assert report.generation > 30
    status = read_status(photos / ".clipsearch")
    assert status.fragments < 12
    assert status.pictures == 60
    for path in sorted(photos.rglob("*.jpg"))[::3]:
        path.unlink()
    run(photos, encoder)
    before = found_paths(photos, encoder)
    compacted = compact(photos / ".clipsearch")
    assert (compacted.fragments_after, compacted.deleted_rows_dropped) == (1, 20)
    assert verify(photos / ".clipsearch").ok
    assert found_paths(photos, encoder) == before
    assert len(before) == 40


class Interrupting(FakeEncoder):
    """Presses Ctrl-C in the middle of the second batch."""

    def encode_images(self, pixels: PixelArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if self.images_encoded:
            signal.raise_signal(signal.SIGINT)  # handled before it returns
        return super().encode_images(pixels)


def test_ctrl_c_keeps_what_is_done(photos: Path) -> None:
    fill(photos, 20)
    report = run(photos, Interrupting(), batch_pictures=5)
    assert report.interrupted
    assert 5 <= report.pictures < 20
    rest = run(photos, FakeEncoder())
    assert rest.encoded == 20 - report.pictures
    assert rest.pictures == 20


def test_a_request_to_stop_that_comes_too_late_is_told(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(photos, 1)
    finish = build._Run.finish

    def ctrl_c_meanwhile(being_done: build._Run) -> None:
        signal.raise_signal(signal.SIGINT)  # handled before it returns
        finish(being_done)

    monkeypatch.setattr(build._Run, "finish", ctrl_c_meanwhile)
    report = run(photos, encoder)
    assert report.asked_to_stop  # --watch ends by it
    assert not report.interrupted
    assert report.pictures == 1


def test_progress_is_told(photos: Path, encoder: FakeEncoder) -> None:
    fill(photos, 8)
    seen: list[Progress] = []
    tell: Callable[[Progress], None] = seen.append
    index_folder(photos, encoder, options=ONE, progress=tell)
    assert seen[0].stage == "scan"
    assert seen[-2:] and {p.stage for p in seen} >= {"scan", "read", "commit"}
    assert max(p.done for p in seen) == 8


class Folders(RuleBasedStateMachine):
    """Whatever happens to a folder between runs, the index holds exactly the pictures that are there."""

    @initialize(directory=st.just(None))
    def start(self, directory: None) -> None:
        import tempfile

        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name)
        self.encoder = FakeEncoder()
        self.next = 0
        self.add(2)
        self.bring_up_to_date(False)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*/*.png"))

    @rule(count=st.integers(1, 3))
    def add(self, count: int) -> None:
        for _ in range(count):
            path = self.folder / f"d{self.next % 3}" / f"{self.next}.png"
            path.parent.mkdir(exist_ok=True)
            picture(self.next, size=(12, 9)).save(path)
            self.next += 1

    @rule(choice=st.integers(0, 99))
    def delete(self, choice: int) -> None:
        if len(self.files()) > 1:
            self.files()[choice % len(self.files())].unlink()

    @rule(choice=st.integers(0, 99))
    def rename(self, choice: int) -> None:
        path = self.files()[choice % len(self.files())]
        path.rename(path.with_name(f"r{self.next}.png"))
        self.next += 1

    @rule(choice=st.integers(0, 99))
    def change(self, choice: int) -> None:
        path = self.files()[choice % len(self.files())]
        self.next += 1
        picture(1000 + self.next, size=(12, 9)).save(path)
        os.utime(path, ns=(self.next, self.next))

    @rule(choice=st.integers(0, 99))
    def copy(self, choice: int) -> None:
        path = self.files()[choice % len(self.files())]
        shutil.copy(path, path.with_name(f"c{self.next}.png"))
        self.next += 1

    @rule(small=st.booleans())
    def bring_up_to_date(self, small: bool) -> None:
        run(self.folder, self.encoder, commit_rows=2 if small else 2048)
        with Collection(self.folder / ".clipsearch", encoder=self.encoder) as collection:
            indexed = {hit.record.path: hit for hit in collection.search("red", k=1000, all=True)}
            assert set(indexed) == {p.relative_to(self.folder).as_posix() for p in self.files()}
            for path in self.files()[:2]:
                best = collection.search(path, k=1)[0]
                assert best.score == pytest.approx(1, abs=1e-4)

    @rule()
    def compact(self) -> None:
        compact(self.folder / ".clipsearch")

    @invariant()
    def is_whole(self) -> None:
        if (self.folder / ".clipsearch").exists():
            assert verify(self.folder / ".clipsearch").ok

    def teardown(self) -> None:
        self.place.cleanup()


TestFolders = Folders.TestCase
TestFolders.settings = settings(max_examples=EXAMPLES, stateful_step_count=10, deadline=None)


@pytest.mark.slow
def test_large_collections_get_inverted_files(
    photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.indexer.segments.IVF_FROM_ROWS", 160)
    fill(photos, 150)
    run(photos, encoder, commit_rows=4, batch_pictures=4)
    assert read_status(photos / ".clipsearch").inverted_files == 0
    fill(photos, 150, first=150)
    run(photos, encoder, commit_rows=4, batch_pictures=4)
    status = read_status(photos / ".clipsearch")
    assert status.inverted_files >= 1
    compact(photos / ".clipsearch")
    assert read_status(photos / ".clipsearch").inverted_files == 1
    assert len(found_paths(photos, encoder)) == 300
    index = photos / ".clipsearch"
    (segment,) = show_tuning(index).segments
    recalls = [point.recall_sentences for point in segment.curve]
    assert recalls == sorted(recalls)
    assert recalls[-1] > recalls[0]
    (low,) = tune(index, 0.6).segments
    (high,) = tune(index, 0.99).segments
    assert low.parameters.nprobe < high.parameters.nprobe
    with Collection(index, encoder=encoder) as collection:
        assert collection.manifest.recall_target == 0.99
    (victim,) = (photos / ".clipsearch" / "faiss").iterdir()
    victim.write_bytes(victim.read_bytes()[:-1])
    assert not verify(photos / ".clipsearch").ok
    assert repair(photos / ".clipsearch").lost_rows == 0
    assert verify(photos / ".clipsearch").ok


@pytest.mark.parametrize("source", ["", "paths.txt"], ids=["folder", "list"])
def test_a_first_run_that_was_killed_before_its_first_commit_is_begun_again(photos: Path, source: str) -> None:
    paths = fill(photos, 3)
    (photos / "paths.txt").write_text("\n".join(map(str, paths[:2])))
    index = photos / "index"
    with Writer(index):  # which marks the folder as an index
        pass
    assert (index / "INDEX").is_file() and not (index / "CURRENT").exists()
    report = index_folder(photos / source, FakeEncoder(), index=index)
    assert (report.pictures, report.encoded) == ((2, 2) if source else (3, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 2.0},
        {"batch_pictures": 1.5},
        {"commit_rows": "9"},
        {"max_pixels": 0},
        {"timeout_s": math.inf},
        {"recall": 0},
        {"recall": 1},
        {"follow_links": "no"},
        {"archives": "x"},
        {"reindex": "yes"},
        {"prune": 2},
        {"prune": None},
        {"new": 0},
        {"exclude": [3]},
        {"exclude": ("",)},
        {"exclude": ("!",)},
    ],
    ids=str,
)
def test_options_that_are_none_are_refused_before_anything_is_done(photos: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        clipsearch.index(photos, encoder=FakeEncoder(), options=IndexOptions(**options))
    assert not (photos / ".clipsearch").exists()


def test_no_name_is_no_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    for wrong in (
        lambda: clipsearch.index("", encoder=FakeEncoder()),
        lambda: clipsearch.index(photos, encoder=FakeEncoder(), index=""),
        lambda: clipsearch.open("", encoder=FakeEncoder()),
        lambda: clipsearch.Encoder(""),
    ):
        with pytest.raises(InvalidArgument, match="''"):
            wrong()
    assert not (photos / ".clipsearch").exists()
