"""Animated pictures are searched by their scenes."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import clipsearch
from clipsearch.indexer.verify import verify
from clipsearch.pictures import animation
from clipsearch.pictures.images import PictureFile
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder

ENDINGS = (".gif", ".webp", ".png")


def animated(path: Path, names: list[str], *, frames: int = 6, ms: int = 200, **options: Any) -> None:
    """An animation that shows each colour for some frames."""
    pictures = []
    for name in names:
        for n in range(frames):
            picture = Image.new("RGB", (120, 80), COLOURS[name])
            picture.putpixel((n, 0), (n, n, n))  # or a frame like the one before would be left out
            pictures.append(picture)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=ms, loop=0, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    animated(folder / "party.gif", ["red", "blue", "yellow"])
    animated(folder / "party.webp", ["green", "pink"], lossless=True)
    animated(folder / "party.png", ["purple", "orange"])
    animated(folder / "still.gif", ["green"])
    Image.new("RGB", (60, 40), COLOURS["blue"]).save(folder / "blue.png")
    clipsearch.index(folder, encoder=FakeEncoder())
    return folder


def is_like(image: Image.Image, colour: str) -> bool:
    pixel = image.convert("RGB").getpixel((60, 40))
    assert isinstance(pixel, tuple)
    return max(abs(one - other) for one, other in zip(pixel, COLOURS[colour], strict=True)) < 30


def first(folder: Path, query: str) -> str:
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        hit = photos.search(query, 1, all=True)[0]
        return Path(hit.to_dict().get("where", hit.path)).name


def test_each_scene_is_found_at_its_moment(folder: Path) -> None:
    for colour, expected in (
        ("red", "party.gif#t=0"), ("yellow", "party.gif#t=2.4"), ("pink", "party.webp#t=1.2"),
        ("purple", "party.png#t=0"), ("orange", "party.png#t=1.2"), ("blue not name:party*", "blue.png"),
    ):  # fmt: skip
        assert first(folder, colour) == expected
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        assert len(photos) == 5
        assert [hit.record.view for hit in photos.search("name:still.gif")] == [""]  # nothing moves in it
        hits = photos.search("name:party.gif", each=True)
        assert sorted(hit.record.view for hit in hits) == ["t=0,1.2", "t=1.2,2.4", "t=2.4,3.6"]
        for hit in hits:
            jpeg = Image.open(io.BytesIO(photos.thumbnail(hit.record.row_id, 128)))
            colour = {"t=0": "red", "t=1.2": "blue", "t=2.4": "yellow"}[hit.record.view.split(",")[0]]
            assert is_like(jpeg, colour)
            found = photos.where(colour, hit)
            assert (found.width, found.height) == (120, 80)
    assert verify(folder / ".clipsearch").ok


@pytest.mark.slow
def test_a_server_shows_the_moment_and_sends_the_animation(folder: Path) -> None:
    with serving(folder / ".clipsearch", FakeEncoder()) as (url, _):
        hit = httpx.post(f"{url}/v1/search", json={"query": "yellow"}).json()["hits"][0]
        assert (hit["format"], hit["view"]) == ("GIF", "t=2.4,3.6")
        jpeg = Image.open(io.BytesIO(httpx.get(f"{url}{hit['thumbnail']}").content))
        assert is_like(jpeg, "yellow")
        original = httpx.get(f"{url}/v1/images/{hit['row_id']}/original", params={"content": hit["content_hash"]})
        assert original.headers["content-type"] == "image/gif"
        assert original.content == (folder / "party.gif").read_bytes()
        body = {"query": "yellow", "row_id": hit["row_id"], "content": hit["content_hash"]}
        assert httpx.post(f"{url}/v1/where", json=body).json()["width"] == 120


@pytest.mark.slow
def test_copies_renames_and_changes_of_animations(folder: Path) -> None:
    content = (folder / "still.gif").read_bytes()
    (folder / "still 2.gif").write_bytes(content)
    (folder / "still 3.gif").write_bytes(content)
    (folder / "party.gif").rename(folder / "moved.gif")
    (folder / "copy.webp").write_bytes((folder / "party.webp").read_bytes())
    encoder = FakeEncoder()
    clipsearch.index(folder, encoder=encoder)
    assert encoder.images_encoded == 0
    assert first(folder, "yellow") == "moved.gif#t=2.4"
    animated(folder / "moved.gif", ["yellow", "green"])
    clipsearch.index(folder, encoder=FakeEncoder())
    assert first(folder, "yellow") == "moved.gif#t=0"
    assert verify(folder / ".clipsearch").ok
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        assert len(photos) == 8


def test_copies_in_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        animated(folder / f"still {number}.gif", ["green"])
        animated(folder / f"party {number}.gif", ["red", "blue"])
    report = clipsearch.index(folder, encoder=FakeEncoder())
    assert not report.skipped
    with clipsearch.open(folder, encoder=FakeEncoder()) as photos:
        assert len(photos) == 6
        found = sorted(Path(hit.path).name for hit in photos.search("green", 3, all=True))
        assert found == ["still 0.gif", "still 1.gif", "still 2.gif"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_animation_that_is_cut_is_found_by_what_is_left(tmp_path: Path, ending: str) -> None:
    animated(tmp_path / f"a{ending}", ["red", "blue", "yellow"], **({"lossless": True} if ending == ".webp" else {}))
    content = (tmp_path / f"a{ending}").read_bytes()
    folder = tmp_path / "photos"
    folder.mkdir()
    for share in (0.3, 0.6, 0.9):
        (folder / f"{share}{ending}").write_bytes(content[: int(share * len(content))])
    report = clipsearch.index(folder, encoder=FakeEncoder())
    assert {skip.status for skip in report.skipped} <= {"truncated", "corrupt"}
    assert verify(folder / ".clipsearch").ok


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=80), st.integers(1, 12))
def test_frames_are_spread_over_the_time(durations_ms: list[int], most: int) -> None:
    class Frames:
        width = height = 8

        def __init__(self) -> None:
            self.info: dict[str, int] = {}

        def seek(self, number: int) -> None:
            if number >= len(durations_ms):
                raise EOFError
            self.info["duration"] = durations_ms[number]

        def load(self) -> None:
            pass

    image: Any = Frames()
    found, duration_s = animation.spread(image, lambda: None, most)
    times = [time_s for time_s, _ in found]
    assert 1 <= len(times) <= most and times[0] == 0.0
    assert all(b - a >= animation.LEAST_APART_S - 1e-9 for a, b in pairwise(times))
    shown = [ms if ms >= 20 else 100 for ms in durations_ms]
    assert duration_s == pytest.approx(sum(shown) / 1000)
    assert set(np.round(times, 3)) <= set(np.round(np.cumsum([0, *shown]) / 1000, 3))


def test_a_long_animation_takes_no_more_than_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    animated(tmp_path / "a.gif", ["red", "blue", "yellow"])
    monkeypatch.setattr(animation, "MOST_PIXELS", 120 * 80 * 8)
    with Image.open(tmp_path / "a.gif") as image:
        found, duration_s = animation.spread(image, lambda: None, 32)
    assert [time_s for time_s, _ in found] == [0.0, pytest.approx(0.6), pytest.approx(1.2)]
    assert duration_s == pytest.approx(1.6)
    monkeypatch.setattr(animation, "MOST_S", -1.0)
    with Image.open(tmp_path / "a.gif") as image:
        assert len(animation.spread(image, lambda: None, 32)[0]) == 1


def test_what_is_shown_after_the_end_is_the_last(tmp_path: Path) -> None:
    animated(tmp_path / "a.gif", ["red", "blue"])
    for time_s, colour in ((0.0, "red"), (1.1, "red"), (1.3, "blue"), (99.0, "blue")):
        with PictureFile(tmp_path / "a.gif") as file:
            image = file.open(time_s=time_s)
            assert is_like(image, colour), time_s
