"""Subtitles beside a video are words of its moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("av")

import clipsearch
from clipsearch.indexer.compact import compact
from clipsearch.indexer.subtitles import divided
from clipsearch.indexer.verify import verify
from clipsearch.indexer.words import ReadOptions, ReadReport, read_words
from clipsearch.pictures.subtitles import read_cues, subtitles_of
from clipsearch.records import Hit, ImageRecord, Line
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain
from tests.support.videos import colours, write_video

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
    return read_words(folder / ".clipsearch", ReadOptions(workers=1, command=["false"]))


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
