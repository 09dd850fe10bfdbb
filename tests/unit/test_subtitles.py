"""Subtitles beside and inside a video are words of its moments."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("av")

import clipsearch
from clipsearch.indexer import words
from clipsearch.indexer.compact import compact
from clipsearch.indexer.subtitles import divided
from clipsearch.indexer.verify import verify
from clipsearch.indexer.words import ReadOptions, ReadReport, read_words
from clipsearch.pictures import video
from clipsearch.pictures.subtitles import LONGEST_CUE, read_cues, subtitles_of
from clipsearch.pictures.video import VideoError
from clipsearch.pictures.video import read_subtitles as read_inside
from clipsearch.pictures.worker import _MAX_MESSAGE_BYTES
from clipsearch.records import Hit, ImageRecord, Line
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain
from tests.support.slow_subtitles import COMMAND
from tests.support.videos import add_subtitles, colours, write_video

SRT = """1
00:00:00,500 --> 00:00:02,000
Good <i>morning</i>, Ärzte

2
00:00:04,200 --> 00:00:05,000
Where is the
boarding pass?

3
00:00:09,000 --> 00:00:11,000
{\\an8}Gate B12
"""
VTT = "WEBVTT\n\nNOTE no one says this\n\n00:06.000 --> 00:07.000 align:start\n<v Anna>Guten Tag</v>\n"


@pytest.fixture
def filmed(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "trips").mkdir(parents=True)
    write_video(folder / "trips" / "trip.mp4", colours(["red", "blue", "yellow"]), seconds=4)
    write_video(folder / "other.mp4", colours(["green", "pink"]), seconds=3)
    plain(COLOURS["purple"]).save(folder / "a.png")
    clipsearch.index(folder, encoder=FakeEncoder())
    (folder / "trips" / "trip.srt").write_text(SRT, encoding="utf-8")
    (folder / "trips" / "Trip.de.vtt").write_text(VTT, encoding="utf-8")
    (folder / "trips" / "tripod.srt").write_text(SRT.replace("Gate", "Tripod"), encoding="utf-8")
    return folder


def read(folder: Path) -> ReadReport:
    return read_words(folder / ".clipsearch", ReadOptions(workers=1))


def found(folder: Path, query: str, **options: Any) -> list[tuple[str, list[str]]]:
    """Where each hit is, and the words that it shows."""
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        hits: list[Hit] = photos.search(query, **options)
        return [(Path(hit.to_dict().get("where", hit.path)).name, [line.text for line in hit.words]) for hit in hits]


def only_subtitles(folder: Path) -> ReadReport:
    """Read with no picture left to be read."""
    (folder / "a.png").unlink(missing_ok=True)
    clipsearch.index(folder, encoder=FakeEncoder())
    return read(folder)


@pytest.mark.slow
def test_words_find_the_moment_in_which_they_are_said(filmed: Path) -> None:
    report = only_subtitles(filmed)
    assert (report.subtitled, report.lines) == (1, 4)
    assert found(filmed, "text:morning") == [("trip.mp4#t=0", ["Good morning, Ärzte"])]
    assert found(filmed, 'text:"boarding pass"') == [("trip.mp4#t=4", ["Where is the boarding pass?"])]
    assert found(filmed, "text:gateb12 ext:mp4") == [("trip.mp4#t=8", ["Gate B12"])]
    assert found(filmed, "text:guten") == [("trip.mp4#t=4", ["Guten Tag"])]
    assert found(filmed, "boarding pass")[0] == ("trip.mp4#t=4", ["Where is the boarding pass?"])
    assert found(filmed, "text:arzte", each=True) == [("trip.mp4#t=0", ["Good morning, Ärzte"])]
    for nothing in ("text:tripod", "text:says", "text:an8", "text:anna"):
        assert found(filmed, nothing) == [], nothing
    with clipsearch.open(filmed, encoder=FakeEncoder()) as photos:
        (hit,) = photos.search("text:gate")
        assert [line.start_s for line in hit.words] == [9.0]
        assert hit.to_dict()["words"] == [{"text": "Gate B12", "box": [0, 0, 0, 0], "score": 1.0, "start_s": 9.0}]
    with serving(filmed / ".clipsearch", FakeEncoder()) as (url, _), clipsearch.connect(url) as there:
        assert [hit.words for hit in there.search("text:gate")] == [hit.words]
    assert verify(filmed / ".clipsearch").ok


@pytest.mark.slow
def test_they_are_read_again_only_if_they_change_and_go_when_they_are_gone(filmed: Path) -> None:
    assert only_subtitles(filmed).subtitled == 1
    assert read(filmed).subtitled == 0
    (filmed / "trips" / "trip.srt").write_text(SRT.replace("Gate B12", "Platform 3"), encoding="utf-8")
    assert read(filmed).subtitled == 1
    assert found(filmed, "text:gate") == []
    assert found(filmed, "text:platform") == [("trip.mp4#t=8", ["Platform 3"])]
    assert found(filmed, "text:guten") == [("trip.mp4#t=4", ["Guten Tag"])]
    (filmed / "trips" / "trip.mp4").rename(filmed / "moved.mp4")
    clipsearch.index(filmed, encoder=FakeEncoder())
    assert found(filmed, "text:platform") == [("moved.mp4#t=8", ["Platform 3"])]  # until it is read again
    compact(filmed / ".clipsearch")
    assert found(filmed, "text:platform") == [("moved.mp4#t=8", ["Platform 3"])]
    read(filmed)
    assert found(filmed, "text:platform") == []
    (filmed / "moved.mp4").unlink()
    clipsearch.index(filmed, encoder=FakeEncoder())
    compact(filmed / ".clipsearch")
    assert verify(filmed / ".clipsearch").ok


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding: str) -> None:
    cues = read_cues(SRT.replace("\n", "\r\n").encode(encoding), ".srt")
    assert [cue.text for cue in cues] == ["Good morning, Ärzte", "Where is the boarding pass?", "Gate B12"]
    assert [cue.start_s for cue in cues] == [0.5, 4.2, 9.0]


def test_which_subtitles_are_of_a_video() -> None:
    names = ["trip.srt", "TRIP.EN.vtt", "trip.en.sdh.srt", "trip.mp4.srt", "trip 2.srt", "tripod.srt", "my trip.srt"]
    assert subtitles_of("trip.mp4", names) == ["TRIP.EN.vtt", "trip.en.sdh.srt", "trip.mp4.srt", "trip.srt"]
    assert subtitles_of("Été.mov", ["été.srt", "ete.srt.srt"]) == ["été.srt"]


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_file_is_read_as_far_as_it_goes(ending: str, content: bytes) -> None:
    head = b"WEBVTT\n\n00:01.000 --> 00:02.000\nx\n\n" if ending == ".vtt" else b""
    for cue in read_cues(head + content, ending):
        assert cue.text.strip() and cue.start_s is not None and cue.start_s >= 0


@given(
    starts=st.lists(st.floats(0.1, 900), min_size=1, max_size=9, unique=True).map(sorted),
    said=st.lists(st.floats(0, 1000), max_size=12),
)
def test_a_cue_is_of_the_shot_in_which_it_begins(starts: list[float], said: list[float]) -> None:
    starts = [0.0, *starts]
    shots = [
        ImageRecord(n, "a.mp4", 1, 1, 1, "0" * 32, view=f"t={start},{start + 1}") for n, start in enumerate(starts)
    ]
    parts = divided(shots, [Line(str(n), (0, 0, 0, 0), 1.0, start_s) for n, start_s in enumerate(said)])
    assert sorted(cue.start_s or 0.0 for part in parts for cue in part) == sorted(said)
    for n, part in enumerate(parts):
        end = starts[n + 1] if n + 1 < len(starts) else float("inf")
        assert all(starts[n] <= (cue.start_s or 0.0) < end for cue in part)


def test_a_link_out_of_the_folder_is_not_read(filmed: Path) -> None:
    outside = filmed.parent / "outside.srt"
    outside.write_text(SRT.replace("Gate", "Secret"), encoding="utf-8")
    (filmed / "other.srt").symlink_to(outside)
    only_subtitles(filmed)
    assert found(filmed, "text:secret") == []


INSIDE = {
    "eng": [(0.5, r"Good {\i1}morning{\i0}, Ärzte"), (4.2, r"Where is the\Nboarding pass?")],
    "deu": [(6.0, "Guten Tag")],
}
KINDS = {"mp4": "mov_text", "mov": "mov_text", "mkv": "subrip", "ass.mkv": "ass", "vtt.mkv": "webvtt", "webm": "webvtt"}


def write_filmed(path: Path, subtitles: str, tracks: dict[str, list[tuple[float, str]]] | None = None) -> None:
    codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
    write_video(path, colours(["red", "blue", "yellow"]), seconds=4, codec=codec)
    add_subtitles(path, subtitles, INSIDE if tracks is None else tracks)


@pytest.mark.parametrize("ending", KINDS)
def test_words_inside_a_video_find_the_moment(ending: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    drawn = [(9.0, r"{\p1}m 0 0 l 100 0 100 100{\p0}")] if ending == "ass.mkv" else []  # it says nothing
    write_filmed(folder / f"trip.{ending}", KINDS[ending], {**INSIDE, "und": [(1.0, "?"), *drawn]})
    clipsearch.index(folder, encoder=FakeEncoder())
    report = read(folder)
    assert (report.subtitled, report.lines, report.skipped) == (1, 4, [])
    assert found(folder, "text:morning") == [(f"trip.{ending}#t=0", ["Good morning, Ärzte"])]
    assert found(folder, 'text:"boarding pass"') == [(f"trip.{ending}#t=4", ["Where is the boarding pass?"])]
    assert found(folder, "text:guten") == [(f"trip.{ending}#t=4", ["Guten Tag"])]
    for nothing in ("text:i1", "text:100"):
        assert found(folder, nothing) == [], nothing
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        (hit,) = photos.search("text:boarding")
        assert [line.start_s for line in hit.words] == [pytest.approx(4.2, abs=0.01)]


def test_a_video_is_looked_into_once_whether_or_not_anything_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    write_filmed(folder / "said.mkv", "subrip")
    write_video(folder / "silent.mp4", colours(["green"]))
    clipsearch.index(folder, encoder=FakeEncoder())
    assert read(folder).subtitled == 1

    def no_pool(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started again")

    monkeypatch.setattr(words, "DecodePool", no_pool)
    again = read(folder)
    assert (again.subtitled, again.lines, again.changed) == (0, 0, 0)
    assert found(folder, "text:guten") == [("said.mkv#t=4", ["Guten Tag"])]


def test_what_is_said_beside_and_inside_is_joined_and_said_once(filmed: Path) -> None:
    add_subtitles(
        filmed / "trips" / "trip.mp4", "mov_text", {"eng": [(0.5, "Good morning, Ärzte"), (8.5, "Last call")]}
    )
    assert only_subtitles(filmed).lines == 5
    assert found(filmed, "text:morning") == [("trip.mp4#t=0", ["Good morning, Ärzte"])]  # once
    assert found(filmed, 'text:"last call"') == [("trip.mp4#t=8", ["Last call"])]
    for name in ("trip.srt", "Trip.de.vtt"):
        (filmed / "trips" / name).unlink()
    assert read(filmed).lines == 2
    assert found(filmed, "text:gate") == []
    assert found(filmed, 'text:"last call"') == [("trip.mp4#t=8", ["Last call"])]


def test_of_copies_the_one_with_subtitles_beside_it_is_read(filmed: Path) -> None:
    copy = filmed / "a" / "trip.mp4"  # before the one with subtitles
    copy.parent.mkdir()
    copy.write_bytes((filmed / "trips" / "trip.mp4").read_bytes())
    assert only_subtitles(filmed).lines == 4
    assert read(filmed).lines == 0
    assert len(found(filmed, "text:gate")) == 2


def test_a_video_that_has_changed_is_read_after_the_next_index_run(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    write_filmed(folder / "trip.mkv", "subrip")
    clipsearch.index(folder, encoder=FakeEncoder())
    write_filmed(folder / "trip.mkv", "subrip", {"eng": [(1.0, "Something else")]})
    report = read(folder)
    assert (report.changed, report.lines) == (1, 0)
    status = (folder / "trip.mkv").stat()
    clipsearch.index(folder, encoder=FakeEncoder())
    write_filmed(folder / "trip.mkv", "subrip", {"eng": [(1.0, "Something what")]})  # of the same size and time
    os.utime(folder / "trip.mkv", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (folder / "trip.mkv").stat().st_size == status.st_size
    assert (read(folder).changed, found(folder, "text:something")) == (1, [])
    os.utime(folder / "trip.mkv")
    clipsearch.index(folder, encoder=FakeEncoder())
    assert read(folder).lines == 1
    assert found(folder, "text:what") == [("trip.mkv#t=0", ["Something what"])]


@pytest.mark.slow
def test_a_video_that_hangs_is_tried_three_times_and_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    write_filmed(folder / "trip.mkv", "subrip")
    write_filmed(folder / "hang.mkv", "subrip", {"eng": [(1.0, "never")]})
    clipsearch.index(folder, encoder=FakeEncoder())
    options = ReadOptions(workers=1, timeout_s=3.0, command=COMMAND)
    for attempt in range(4):
        report = read_words(folder / ".clipsearch", options)
        if attempt < 3:
            (skip,) = report.skipped
            assert (skip.path, skip.status) == ("hang.mkv", "timeout")
            assert skip.reason.startswith("its subtitles: took longer than")
        else:
            assert report.skipped == []
        assert report.subtitled == (attempt == 0)
    assert found(folder, "text:guten") == [("trip.mkv#t=4", ["Guten Tag"])]
    assert verify(folder / ".clipsearch").ok


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_subtitles_of_a_damaged_video_are_read_as_far_as_they_go(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    write_filmed(path, KINDS[ending], {"eng": [(n / 4, f"line {n}") for n in range(40)]})
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(content)
        for at in rng.integers(0, len(content), 20):
            changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed[: int(rng.integers(100, len(content) + 1))])
        with path.open("rb") as file:
            try:
                cues = read_inside(file) or []
            except VideoError as error:
                assert error.reason
                continue
        assert all(cue.text.strip() and cue.start_s is not None and cue.start_s >= 0 for cue in cues)
    path.write_bytes(content)
    with path.open("rb") as file:
        assert len(read_inside(file) or []) == 40


def test_what_a_video_says_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_filmed(tmp_path / "x.mkv", "subrip", {"eng": [(n / 100, "語" * 3000) for n in range(400)]})
    with (tmp_path / "x.mkv").open("rb") as file:
        cues = read_inside(file)
        assert cues
        assert max(len(one.text) for one in cues) == LONGEST_CUE
        told = {"cues": [[one.start_s, one.text] for one in cues], "hash": "0" * 32}
        assert 2_000_000 < len(json.dumps(told)) < _MAX_MESSAGE_BYTES
        monkeypatch.setattr(video, "_MOST_CUES", 7)
        assert len(read_inside(file) or []) == 7
