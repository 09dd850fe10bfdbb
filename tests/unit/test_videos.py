"""Videos: frames, shots, damage, and what becomes of them in an index."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipsearch.errors import UnreadablePicture
from clipsearch.indexer import build, look, shots
from clipsearch.indexer.build import IndexOptions, IndexReport, index_folder
from clipsearch.indexer.plan import plan_index
from clipsearch.indexer.scan import FoundFile
from clipsearch.indexer.shots import divided, time_span
from clipsearch.indexer.status import read_status
from clipsearch.indexer.verify import verify
from clipsearch.pictures import formats, video
from clipsearch.pictures.appearance import NOT_SEEN
from clipsearch.pictures.images import PictureFile, open_picture
from clipsearch.pictures.pool import DecodePool, DecodeResult, DecodeTask
from clipsearch.pictures.video import VideoError, frame_at, read_part, read_said
from clipsearch.records import FloatArray
from clipsearch.search.collection import Collection
from clipsearch.server.originals import wanted_part
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill
from tests.support.videos import colours, write_video

av = pytest.importorskip("av")
COUNT = int(os.environ.get("CLIPSEARCH_VIDEOS", "4"))
CONTAINERS = {
    "mp4": "libx264",
    "mov": "libx264",
    "m4v": "libx264",
    "mkv": "libx264",
    "webm": "libvpx-vp9",
    "avi": "mpeg4",
    "3gp": "mpeg4",
}
SHOWN = ("red", "blue", "yellow", "green")


def parts(path: Path, **options: Any) -> Iterator[video.Part]:
    start_s: float | None = -1.0
    with path.open("rb") as file:
        while start_s is not None:
            part = read_part(file, start_s=start_s, **options)
            yield part
            assert part.next_s is None or part.next_s > start_s
            start_s = part.next_s


def colour_of(image: Image.Image) -> str:
    pixel = np.asarray(image.resize((1, 1))).ravel().astype(int)
    return min(COLOURS, key=lambda name: float(np.abs(pixel - COLOURS[name]).sum()))


def run(folder: Path, encoder: FakeEncoder, **options: Any) -> IndexReport:
    report = index_folder(folder, encoder, options=IndexOptions(**{"workers": 2, **options}))
    checked = verify(report.index)
    assert checked.ok, checked.problems
    return report


# -- frames


@pytest.mark.many
@pytest.mark.parametrize("ending", CONTAINERS)
def test_every_container_is_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    write_video(path, colours(SHOWN), codec=CONTAINERS[ending])
    (part,) = parts(path)
    assert part.full_size == (320, 240)
    assert part.duration_s == pytest.approx(8, abs=0.2)
    assert part.partial is None
    assert [frame.time_s for frame in part.frames] == sorted(frame.time_s for frame in part.frames)
    told = list(dict.fromkeys(colour_of(frame.image) for frame in part.frames))
    assert told == list(SHOWN)
    for frame in part.frames:  # each is shown where it is told to be
        assert colour_of(frame.image) == SHOWN[min(3, int((frame.time_s + 0.01) // 2))]
    in_pieces = [frame.time_s for part in parts(path, most=2) for frame in part.frames]
    assert in_pieces == [frame.time_s for frame in part.frames]
    with path.open("rb") as file:
        for time_s in (0.0, 1.9, 2.1, 3.3, 5.9, 7.9, 1000.0):
            image, size = frame_at(file, time_s)
            assert size == (320, 240)
            assert colour_of(image) == SHOWN[min(3, int(time_s // 2))]


@pytest.mark.parametrize("keys", [1, 12, 10_000])
def test_long_shots_have_more_frames_and_short_ones_not_too_many(keys: int, tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", colours(("red",)), size=(96, 64), seconds=20, keys=keys)
    times = [frame.time_s for part in parts(tmp_path / "x.mp4", most=3) for frame in part.frames]
    gaps = np.diff(times)
    assert times[0] == 0
    assert (gaps >= video.LEAST_APART_S - 0.05).all()
    assert (gaps <= 2 * video._BETWEEN_S).all()
    assert times[-1] >= 20 - 2 * video._BETWEEN_S


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_video_with_a_single_key_frame_is_seen_to_its_end(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    write_video(path, colours(SHOWN), size=(64, 48), seconds=40, fps=5, keys=10_000)
    (first, second) = parts(path)
    assert first.partial is second.partial is None
    assert len(first.frames) == 32
    times = [frame.time_s for frame in (*first.frames, *second.frames)]
    assert times == sorted(set(times))
    assert times[-1] > 160 - 2 * video._BETWEEN_S - 96 / 31
    for frame in (*first.frames, *second.frames):
        assert colour_of(frame.image) == SHOWN[min(3, int((frame.time_s + 0.01) // 40))]


def test_what_takes_too_long_to_reach_is_said_and_the_next_key_frame_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "x.mp4", colours(SHOWN), size=(64, 48), seconds=60, fps=5, keys=700)  # at 0 and 140 s
    seen = [frame.time_s for part in parts(tmp_path / "x.mp4", most=16) for frame in part.frames]
    assert np.diff(seen).max() < 10
    monkeypatch.setattr(video, "_MOST_FAR_S", -1.0)
    found = list(parts(tmp_path / "x.mp4", most=16))
    assert video._TOO_FAR in [part.partial for part in found]
    seen = [frame.time_s for part in found for frame in part.frames]
    assert np.diff(seen).max() > 50
    assert 140.0 in seen


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_frames_are_upright(degrees: int, tmp_path: Path) -> None:
    image = Image.new("RGB", (320, 240), COLOURS["blue"])
    image.paste(COLOURS["red"], (0, 0, 320, 120))  # above
    stored = image.rotate(-degrees, expand=True)  # what a player turns counterclockwise to show
    write_video(tmp_path / "x.mp4", [stored], size=stored.size, rotation=degrees)
    (part,) = parts(tmp_path / "x.mp4", shortest=60)
    shown = part.frames[0].image
    assert part.full_size == (320, 240)
    assert shown.size == (80, 60)
    assert colour_of(shown.crop((0, 0, 80, 25))) == "red"
    assert colour_of(shown.crop((0, 35, 80, 60))) == "blue"


def test_pixels_that_are_not_square_are_shown_as_they_should_be(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", colours(("red",)), ratio=Fraction(4, 3))
    (part,) = parts(tmp_path / "x.mp4")
    assert part.full_size == (427, 240)


def test_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    moments = [0.0, 0.1, 1.9, 2.0, 6.5, 7.0, 14.0]
    names = ["red", "red", "red", "blue", "blue", "green", "green"]
    write_video(tmp_path / "x.mkv", colours(names), moments=moments)
    (part,) = parts(tmp_path / "x.mkv")
    for frame in part.frames:
        shown = max(n for n, moment in enumerate(moments) if moment <= frame.time_s + 0.01)
        assert colour_of(frame.image) == names[shown]


def test_hdr_is_shown_in_the_colours_of_screens() -> None:
    for transfer in (16, 18):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), (200, 40, 40), np.uint8), format="rgb24")
        frame = frame.reformat(format="yuv420p10le")
        frame.color_trc, frame.colorspace, frame.color_primaries = transfer, 9, 9
        image = video._to_srgb(frame, (32, 32))
        red, green, blue = image.getpixel((16, 16))  # type: ignore[misc]
        assert red > 1.5 * max(green, blue)
    grey = np.linspace(0, 1, 64, dtype=np.float32)[:, None].repeat(3, axis=1)
    for light in (video._from_pq(grey), video._from_hlg(grey)):
        assert (np.diff(light[:, 0]) >= 0).all()
        assert light[0, 0] < 0.01
    assert video._from_pq(np.full((1, 3), 0.5807, np.float32))[0, 0] == pytest.approx(1, abs=0.02)  # 203 cd/m²


@pytest.mark.parametrize(("matrix", "wide"), [(1, 1280), (5, 320)])
def test_colours_are_those_of_the_matrix_that_is_named(matrix: int, wide: int) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((64, wide, 3), (200, 30, 40), np.uint8), format="rgb24")
    coded = frame.reformat(format="yuv444p", dst_colorspace={1: "ITU709", 5: "ITU601"}[matrix])
    coded.colorspace = matrix
    pixel = np.array(video._to_srgb(coded, (64, 32)).getpixel((30, 16)))
    assert np.abs(pixel - (200, 30, 40)).max() <= 4


def test_what_a_video_says_of_itself(tmp_path: Path) -> None:
    tags = {
        "creation_time": "2023-05-01T10:00:00.000000Z",
        "location": "+48.8577+002.2950/",
        "make": "Maker",
        "model": "X100",
    }
    write_video(tmp_path / "x.mov", colours(("red",)), tags=tags)
    with (tmp_path / "x.mov").open("rb") as file:
        said = read_said(file)
    assert said.place == (48.8577, 2.295)
    assert said.dates["video:creation_time"].utc
    with PictureFile(tmp_path / "x.mov") as opened:
        metadata, _ = opened.metadata()
    assert (metadata.taken_at, metadata.date_source) == ("2023-05-01T10:00:00", "video:creation_time")


# -- damage


def damaged(content: bytes, how: str, rng: np.random.Generator) -> bytes:
    size = len(content)
    if how == "cut":
        return content[: int(size * rng.uniform(0.02, 0.98))]
    if how == "zeroed":
        start = int(size * rng.uniform(0.1, 0.6))
        return content[:start] + bytes(size // 4) + content[start + size // 4 :]
    if how == "flipped":
        changed = bytearray(content)
        for at in rng.integers(0, size, 200):
            changed[at] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if how == "noise":
        return content[:64] + rng.bytes(size - 64)
    return content[:40] + content[size // 2 :]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A video in each container that does not shrink to nothing."""
    folder, made = tmp_path_factory.mktemp("noisy"), {}
    for ending in ("mp4", "mkv", "webm", "avi"):
        write_video(folder / f"x.{ending}", colours(SHOWN), size=(96, 64), codec=CONTAINERS[ending], noise=20)
        made[ending] = (folder / f"x.{ending}").read_bytes()
    return made


@pytest.mark.few(each="ending how")
@pytest.mark.many
@pytest.mark.parametrize("how", ["cut", "zeroed", "flipped", "noise", "holed"])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "avi"])
def test_damaged_videos_are_read_as_far_as_they_go_or_refused_in_words(
    ending: str, how: str, noisy: dict[str, bytes], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    content = noisy[ending]
    read = 0
    with DecodePool(FakeEncoder().preprocessing, workers=2, timeout_s=20, pieces=True) as pool:
        for number in range(COUNT):
            (tmp_path / f"{number}.{ending}").write_bytes(damaged(content, how, rng))
        tasks = (DecodeTask(number, str(tmp_path / f"{number}.{ending}")) for number in range(COUNT))
        for result in pool.run(tasks):
            if result.skip is not None:
                assert result.skip[0] in ("corrupt", "truncated", "not_a_picture"), result.skip
                assert len(result.skip[1]) > 10
            else:
                read += 1
                assert result.video is not None
                assert len(result.video.times_s) > 0
    assert read or how in ("noise", "holed", "cut", "flipped")


def test_a_cut_video_says_where_it_ends(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", colours(SHOWN), size=(96, 64), faststart=True, noise=20)
    content = (tmp_path / "x.mp4").read_bytes()
    (tmp_path / "x.mp4").write_bytes(content[: len(content) * 6 // 10])
    (part,) = parts(tmp_path / "x.mp4")
    assert part.partial is not None
    assert part.partial.startswith("the video ends after 0:04 of 0:08") or "damaged" in part.partial
    assert {colour_of(frame.image) for frame in part.frames} >= {"red", "blue"}


def test_the_middle_may_be_damaged(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", colours(SHOWN), size=(96, 64), noise=20, keys=10)
    content = bytearray((tmp_path / "x.mp4").read_bytes())
    start = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 3
    content[start : start + len(content) // 5] = bytes(len(content) // 5)
    (tmp_path / "x.mp4").write_bytes(content)
    (part,) = parts(tmp_path / "x.mp4")
    assert part.partial == "parts of the video are damaged"
    assert colour_of(part.frames[0].image) == "red"
    assert colour_of(part.frames[-1].image) == "green"


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("x.mp4", b"", "empty"),
        ("x.mp4", b"hello" * 100, "not_a_picture"),
        ("x.mkv", b"\x1a\x45\xdf\xa3" + bytes(1000), "corrupt"),
        ("x.avi", b"RIFF\x10\0\0\0AVI LIST" + bytes(1000), "corrupt"),
        (
            "x.mp4",
            struct.pack(">I", 16) + b"ftypisom\0\0\2\0" + struct.pack(">I", 1000) + b"mdat" + bytes(50),
            "truncated",
        ),
        ("x.mov", struct.pack(">I", 8) + b"wide", "truncated"),
    ],
)
def test_what_is_no_video_is_called_what_it_is(name: str, content: bytes, status: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadablePicture) as caught:
        open_picture(tmp_path / name)
    assert caught.value.status == status


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UnreadablePicture, match="only sound"):
        open_picture(tmp_path / "x.mp4")


def test_no_playlist_is_followed(tmp_path: Path) -> None:
    """A file names no other: whatever it says, FFmpeg is told what it is."""
    write_video(tmp_path / "secret.mp4", colours(("red",)))
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.mp4\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n",
    ):
        with pytest.raises(VideoError):
            read_part(io.BytesIO(text.encode()))


# -- shots


@given(
    st.lists(st.tuples(st.floats(0.05, 100), st.integers(0, 3)), min_size=1, max_size=60),
    st.one_of(st.none(), st.floats(0, 10_000)),
)
def test_shots_cover_a_video_without_gaps(frames: list[tuple[float, int]], duration_s: float | None) -> None:
    times = np.cumsum([gap for gap, _ in frames]).round(3).tolist()
    vectors = np.eye(4, 8, dtype=np.float32)[[kind for _, kind in frames]]
    found = divided(times, vectors, [NOT_SEEN] * len(times), duration_s)
    changes = 1 + sum(one[1] != two[1] for one, two in itertools.pairwise(frames))
    assert len(found) == changes
    spans = [shot.view.removeprefix("t=").split(",") for shot in found]
    for (_, end), (start, *_) in itertools.pairwise(spans):
        assert end == start
    assert len({shot.view for shot in found}) == len(found)
    assert all(abs(np.linalg.norm(shot.vector) - 1) < 1e-5 for shot in found)


def test_a_span_is_a_media_fragment() -> None:
    assert [time_span(12.5, 18.0), time_span(0, 3.125), time_span(7, None), time_span(7, 7)] == [
        "t=12.5,18", "t=0,3.125", "t=7", "t=7",
    ]  # fmt: skip


# -- in an index


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filmed") / "photos"
    fill(folder, 3)
    write_video(folder / "trip.mp4", colours(SHOWN))
    write_video(
        folder / "long.mkv",
        colours([("white", "black", "pink")[n % 3] for n in range(90)]),
        size=(96, 64),
        fps=4,
        seconds=1,
    )
    return folder


@pytest.fixture
def folder(filmed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(filmed, tmp_path / "photos")


@pytest.mark.slow
def test_a_video_is_found_at_its_moment(folder: Path) -> None:
    encoder = FakeEncoder()
    report = run(folder, encoder)
    assert (report.encoded, report.pictures, report.rows) == (5, 5, 3 + 4 + 90)
    with Collection(report.index, encoder=encoder) as photos:
        for number, colour in enumerate(SHOWN):
            hit = photos.search(colour, 1)[0]
            assert hit.where == f"{folder}/trip.mp4#t={2 * number}"
            assert hit.record.view == f"t={2 * number},{2 * number + 2}"
            shown = Image.open(io.BytesIO(photos.thumbnail(hit.record.row_id)))
            assert colour_of(shown) == colour
        hits = photos.search("pink", 30, each=True)
        assert len({hit.record.view for hit in hits}) == 30
        assert min(hit.score for hit in hits) > 0.99
        assert [hit.record.path for hit in photos.search("ext:mp4", 5)] == ["trip.mp4"]
        assert "trip.mp4" in {hit.record.path for hit in photos.search("color:red", 100)}
    encoded = encoder.images_encoded
    assert run(folder, encoder).unchanged == 5
    (folder / "trip.mp4").rename(folder / "moved.mp4")
    shutil.copy(folder / "long.mkv", folder / "copy.mkv")
    report = run(folder, encoder)
    assert (report.renamed, report.copied, report.rows) == (1, 1, 3 + 4 + 180)
    assert encoder.images_encoded == encoded
    assert run(folder, encoder, reindex=True).rows == 3 + 4 + 180


@pytest.mark.slow
def test_copies_in_one_run_are_read_once(folder: Path) -> None:
    for number in range(4):
        shutil.copy(folder / "long.mkv", folder / f"copy{number}.mkv")
    encoder = FakeEncoder()
    report = run(folder, encoder, commit_s=0.0, commit_rows=1)
    assert (report.encoded, report.copied, report.rows) == (5, 4, 3 + 4 + 5 * 90)
    assert encoder.images_encoded == 3 + 4 + 90


@pytest.mark.slow
def test_memory_of_frames_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        shutil.copy(folder / "trip.mp4", folder / f"{number}.mp4")
        with (folder / f"{number}.mp4").open("ab") as file:
            file.write(struct.pack(">I", 9) + b"free" + bytes([number]))
    most = 0

    def watched(self: DecodePool, task: DecodeTask) -> None:
        nonlocal most
        submit(self, task)
        most = max(most, self.pending)

    submit = DecodePool.submit
    monkeypatch.setattr(DecodePool, "submit", watched)
    assert run(folder, FakeEncoder(), workers=1).pictures == 17
    assert most <= build.VIDEOS_AT_ONCE + 3


@pytest.mark.slow
def test_a_video_that_is_being_written_waits_for_the_next_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FakeEncoder()
    take = shots.Video.take

    def grows(self: shots.Video, *arguments: Any) -> float | None:
        with (folder / self.file.path).open("ab") as file:
            file.write(b"\0")
        return take(self, *arguments)

    monkeypatch.setattr(shots.Video, "take", grows)
    report = run(folder, encoder)
    assert report.skipped_by_status == {"unreadable": 2}
    monkeypatch.undo()
    assert run(folder, encoder).pictures == 5


@pytest.mark.slow
def test_parts_that_kill_their_decoder_are_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = build._Run._watch

    def dies(self: build._Run, watched: shots.Video, result: Any) -> Any:
        if watched.at_s >= 0 and watched.failures < 1:
            result = DecodeResult(result.key, skip=("decoder_crashed", "it died"))
        return take(self, watched, result)

    monkeypatch.setattr(build._Run, "_watch", dies)
    report = run(folder, FakeEncoder())
    assert (report.partial, report.pictures) == (1, 5)
    (partial,) = read_status(report.index).partial
    assert partial.reason == "parts of the video are damaged"


@pytest.mark.slow
def test_without_the_extra_videos_are_counted_and_those_of_the_index_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FakeEncoder()
    missing = lambda found: found.kind != "VIDEO" and formats.is_installed(found)  # noqa: E731
    monkeypatch.setattr(look, "is_installed", missing)
    report = run(folder, encoder)
    assert (report.pictures, report.other_files) == (3, {".mp4 files": 1, ".mkv files": 1})
    assert report.warnings == ["2 videos were left out. To search videos, too: pip install 'clipsearch[video]'"]
    assert plan_index(folder, encoder).to_read == 0
    monkeypatch.undo()
    assert run(folder, encoder).pictures == 5
    monkeypatch.setattr(look, "is_installed", missing)
    report = run(folder, encoder)
    assert (report.pictures, report.unchanged, report.warnings) == (5, 5, [])
    take = build._Run._take

    def refuses(self: build._Run, file: FoundFile, result: DecodeResult) -> DecodeTask | None:
        if formats.is_video_name(file.path):
            result = DecodeResult(result.key, skip=("missing_extra", formats.missing_extra("VIDEO")))
        return take(self, file, result)

    monkeypatch.setattr(build._Run, "_take", refuses)
    report = run(folder, encoder, reindex=True)  # what cannot be read now is kept
    assert (report.kept, report.pictures + report.missing) == (2, 5)


@pytest.mark.slow
def test_odd_files_are_told_apart(folder: Path) -> None:
    content = (folder / "trip.mp4").read_bytes()
    (folder / "picture.jpg").write_bytes(content)  # a video by its bytes
    (folder / "video.mp4").write_bytes((folder / "set000/p00001.jpg").read_bytes())
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    (folder / "text.webm").write_text("not at all")
    report = run(folder, FakeEncoder())
    assert {skip.path: skip.status for skip in report.skipped} == {
        "empty.mp4": "empty",
        "cut.mp4": "truncated",
        "text.webm": "not_a_picture",
    }
    assert (report.pictures, report.copied) == (7, 2)


def test_a_video_of_one_shot_without_a_name_for_it_is_read_once(tmp_path: Path) -> None:
    """It was taken for an animated picture that is still, and read again for ever."""
    (tmp_path / "photos").mkdir()
    write_video(tmp_path / "x.mp4", colours(("red",)), size=(96, 64))
    (tmp_path / "x.mp4").rename(tmp_path / "photos/clip")
    stop = threading.Event()
    timer = threading.Timer(60, stop.set)
    timer.start()
    report = index_folder(tmp_path / "photos", FakeEncoder(), options=IndexOptions(workers=1), stop=stop)
    timer.cancel()
    assert not report.interrupted
    assert (report.pictures, report.rows) == (1, 1)


@pytest.mark.slow
def test_vectors_of_moments_are_means(folder: Path) -> None:
    encoder = FakeEncoder()
    with Collection(run(folder, encoder).index, encoder=encoder) as photos:
        rows = [photos.record(int(row)) for row in photos.row_ids()]
        whole: list[FloatArray] = [photos.vector(row.row_id) for row in rows if row.path == "trip.mp4"]
    assert len(whole) == 4
    assert max(float(a @ b) for n, a in enumerate(whole) for b in whole[:n]) < shots.SAME_SHOT


@pytest.mark.slow
def test_a_server_shows_the_moment_and_sends_the_video_in_parts(folder: Path) -> None:
    encoder = FakeEncoder()
    index = run(folder, encoder).index
    content = (folder / "trip.mp4").read_bytes()
    with serving(index, encoder) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        (hit,) = client.post("/v1/search", json={"query": "yellow", "k": 1}).json()["hits"]
        assert hit["where"].endswith("trip.mp4#t=4")
        assert len(client.post("/v1/search", json={"query": "pink", "k": 30, "each": True}).json()["hits"]) == 30
        for _ in range(2):  # made, then kept
            answer = client.get(hit["thumbnail"])
            assert colour_of(Image.open(io.BytesIO(answer.content))) == "yellow"
        (other,) = client.post("/v1/search", json={"query": "red", "k": 1}).json()["hits"]
        assert other["content_hash"] == hit["content_hash"]
        assert client.get(other["thumbnail"]).headers["etag"] != answer.headers["etag"]
        address = f"/v1/images/{hit['row_id']}/original?content={hit['content_hash']}"
        whole = client.get(address)
        assert (whole.content, whole.headers["content-type"]) == (content, "video/mp4")
        assert whole.headers["accept-ranges"] == "bytes"
        for asked, part in (("0-99", content[:100]), ("100-", content[100:]), ("-50", content[-50:])):
            answer = client.get(address, headers={"range": f"bytes={asked}"})
            assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"] == f"bytes {len(content) - 50}-{len(content) - 1}/{len(content)}"
        assert client.get(address, headers={"range": f"bytes={len(content)}-"}).status_code == 416
        assert client.get(address, headers={"range": "bytes=5-2"}).content == content
        with (folder / "trip.mp4").open("ab") as file:
            file.write(b"\0")
        assert client.get(address).status_code == 404


@given(
    st.one_of(st.none(), st.from_regex(r"bytes=\d{0,6}-\d{0,6}(,\d-\d)?"), st.text(max_size=20)), st.integers(0, 10**6)
)
def test_a_part_lies_in_the_file(header: str | None, size_bytes: int) -> None:
    part = wanted_part(header, size_bytes)
    assert part is None or 0 <= part.start <= part.stop <= max(size_bytes, part.start)
    assert not part or part.stop <= size_bytes
