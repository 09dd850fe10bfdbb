"""What a hit names stays that picture, or is refused, when the index is made anew or changed while it is asked."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipsearch
from clipsearch import AnyCollection, RemoteCollection
from clipsearch.errors import ClipsearchError, NoSuchPicture, OtherIndex, OtherPicture, ServerError
from clipsearch.records import Hit
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill, plain

NAMES = ["blue", "green", "pink", "purple", "red", "yellow"]


def make(folder: Path, colours: list[str]) -> Path:
    """An index of one picture of each colour, whose row ids are their places in this list."""
    made = folder.with_name("made")
    made.mkdir()
    for number, colour in enumerate(colours):
        plain(COLOURS[colour]).save(made / f"{number}-{colour}.png")
    clipsearch.index(made, encoder=FakeEncoder())
    if folder.exists():
        folder.rename(folder.with_name(f"old{time.monotonic_ns()}"))
    made.rename(folder)
    return folder / ".clipsearch"


@pytest.fixture
def remote(photos: Path) -> Iterator[RemoteCollection]:
    with serving(make(photos, NAMES), FakeEncoder()) as (url, _), clipsearch.connect(url) as remote:
        yield remote


def make_anew(remote: RemoteCollection, folder: Path, colours: list[str]) -> None:
    """The index of the same folder made anew: other pictures have its row ids."""
    identity = remote.status()["indexes"][0]["id"]
    make(folder, colours)
    deadline = time.monotonic() + 120
    while remote.status()["indexes"][0]["id"] == identity:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def colour_of(name: str) -> str:
    return Path(name).stem.partition("-")[2]


def colour_in(jpeg: bytes) -> str:
    pixel = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return min(NAMES, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))


def named(photos: AnyCollection, colour: str) -> Hit:
    return next(hit for hit in photos.search("", 20) if colour_of(hit.path) == colour)


@pytest.mark.few(each="is_remote change")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("is_remote", [True, False], ids=["remote", "local"])
@pytest.mark.parametrize("change", ["pickled", "searched again", "as it is"])
def test_a_hit_is_its_picture_after_its_index_was_made_anew(
    is_remote: bool, change: str, remote: RemoteCollection, photos: Path
) -> None:
    here: AnyCollection = remote if is_remote else clipsearch.open(photos, encoder=FakeEncoder())
    red, blue = named(here, "red"), named(here, "blue")
    if change == "pickled":
        red, blue = pickle.loads(pickle.dumps((red, blue)))
    make_anew(remote, photos, ["yellow", "red", "pink", "green", "purple"])
    if not is_remote:
        here.close()
        here = clipsearch.open(photos, encoder=FakeEncoder())
    if change == "searched again":
        here.search("", 20)
    nearest = here.similar(named(here, "red") if change == "searched again" else red, 9)
    assert {colour_of(hit.path) for hit in nearest} == {"yellow", "pink", "green", "purple"}
    assert [hit.record.row_id for hit in here.similar(red, 9)] == [hit.record.row_id for hit in nearest]
    with pytest.raises((OtherPicture, NoSuchPicture)):
        here.similar(blue)
    for hit in (red, blue):
        try:
            assert colour_in(here.thumbnail(hit)) == colour_of(hit.path)
        except ClipsearchError as error:
            assert isinstance(error, OtherPicture | NoSuchPicture)
    here.close()


@pytest.mark.slow
def test_row_ids_that_hits_told_are_refused_after_their_index_was_made_anew(
    remote: RemoteCollection, photos: Path
) -> None:
    calls: dict[str, Callable[[int], Any]] = {
        "like": lambda row_id: remote.search("", 3, like=[row_id]),
        "unlike": lambda row_id: remote.search("red", 3, unlike=[row_id]),
        "like, in words": lambda row_id: remote.search(f"pink + like:{row_id}", 3),
        "like, of several": lambda row_id: remote.search(["pink", f"like:{row_id}"], 3),
        "similar": remote.similar,
        "record": remote.record,
        "vector": remote.vector,
        "vectors": lambda row_id: remote.vectors([row_id]),
        "thumbnail": remote.thumbnail,
    }
    red = named(remote, "red").record.row_id
    for call in calls.values():
        call(red)
    make_anew(remote, photos, ["yellow", "purple", "pink", "green", "blue", "red"])
    with clipsearch.open(photos, encoder=FakeEncoder()) as here:  # rows are numbered as pictures are read
        colour = next(colour_of(hit.path) for hit in here.search("", 20) if hit.record.row_id != red)
    for again in (False, True):
        if again:
            remote.search(colour, 1)  # tells of another row
        for name, call in calls.items():
            with pytest.raises(OtherIndex, match="photos is a different index now"):
                call(red)
                pytest.fail(name)
    other = remote.search(colour, 1)[0].record.row_id
    assert other != red
    with pytest.raises(OtherIndex, match="photos is a different index now"):
        remote.vectors([other, red])  # of this index, and of the one before
    remote.search("", 20)
    for call in calls.values():
        call(red)  # the row ids are those of the new index


@pytest.mark.slow
def test_pages_of_hits_show_no_other_picture(remote: RemoteCollection, photos: Path) -> None:
    from tests.unit.test_notebook import pictures_in

    hits = remote.search("", 20)
    assert [colour_in(jpeg) for jpeg in pictures_in(hits._repr_html_())] == [colour_of(hit.path) for hit in hits]
    make_anew(remote, photos, ["yellow", "purple", "pink", "green", "blue", "red"])
    shown = hits._repr_html_()
    cards = shown.split("display:inline-block")[1:]
    assert len(cards) == len(hits)
    for card, hit in zip(cards, hits, strict=True):
        assert all(colour_in(jpeg) == colour_of(hit.path) for jpeg in pictures_in(card))


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("is_remote", [True, False], ids=["remote", "local"])
def test_pages_of_hits_show_no_file_that_changed(is_remote: bool, photos: Path) -> None:
    from tests.unit.test_notebook import pictures_in

    photos.mkdir(exist_ok=True)
    for colour in ("red", "green", "pink"):
        Image.new("RGB", (40, 30), COLOURS[colour]).save(photos / f"0-{colour}.bmp")
    index = clipsearch.index(photos, encoder=FakeEncoder()).index
    with serving(index, FakeEncoder()) as (url, _), clipsearch.connect(url) as remote:
        here: AnyCollection = remote if is_remote else clipsearch.open(photos, encoder=FakeEncoder())
        hits = here.search("", sort="path")
        Image.new("RGB", (40, 30), COLOURS["blue"]).save(photos / "0-red.bmp")  # of the same size
        os.utime(photos / "0-green.bmp", ns=(7, 7))  # the same picture
        shown = [pictures_in(hit) for hit in hits._repr_html_().split("display:inline-block")[1:]]
        assert [hit.record.path for hit in hits] == ["0-green.bmp", "0-pink.bmp", "0-red.bmp"]
        assert [[colour_in(jpeg) for jpeg in jpegs] for jpegs in shown] == [["green"], ["pink"], []]
        with pytest.raises(OtherPicture):
            here.thumbnail(hits[2])
        assert colour_in(here.thumbnail(hits[2].record.row_id)) == "blue"  # a row is shown as it is now
        here.close()


class Changing:
    """Lets something happen before the request number `at` of a route is sent."""

    def __init__(
        self, remote: RemoteCollection, route: str, happen: Callable[[], None], at: int, times: int = 1
    ) -> None:
        self.asked = 0
        ask = remote._ask

        def counted(method: str, path: str, **request: Any) -> Any:
            if path == route:
                self.asked += 1
                if at <= self.asked < at + times:
                    happen()
            return ask(method, path, **request)

        remote._ask = counted  # type: ignore[method-assign]


@pytest.fixture
def many(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteCollection]:
    for name in ("MOST_AT_ONCE", "MOST_VECTORS", "MOST_TEXTS"):
        monkeypatch.setattr(f"clipsearch.remote.{name}", 5)
    fill(photos, 20)
    index = clipsearch.index(photos, encoder=FakeEncoder()).index
    with serving(index, FakeEncoder()) as (url, _), clipsearch.connect(url) as remote:
        yield remote


def index_again(remote: RemoteCollection, photos: Path) -> None:
    before = remote.generation
    clipsearch.index(photos, encoder=FakeEncoder())
    deadline = time.monotonic() + 120
    while remote.generation == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def last_of(remote: RemoteCollection) -> int:
    """The picture whose path comes last, which stays. Its number is that of its turn to be decoded."""
    return remote.search("", 100, sort="path")[-1].record.row_id


ASKED: dict[str, tuple[str, Callable[[RemoteCollection], Any]]] = {
    "search": ("/v1/search", lambda remote: remote.search("", 100, sort="path")),
    "similar": ("/v1/similar", lambda remote: remote.similar(last_of(remote), 100)),
    "similar to a file": ("/v1/similar/upload", lambda remote: remote.similar(remote.root.parent / "other.png", 100)),
}


@pytest.mark.many
@pytest.mark.parametrize("name", ASKED)
def test_an_answer_of_several_requests_is_of_one_generation(name: str, many: RemoteCollection, photos: Path) -> None:
    plain(COLOURS["red"]).save(photos.parent / "other.png")
    route, call = ASKED[name]

    def remove() -> None:
        for file in sorted(photos.rglob("*.jpg"))[:6]:
            file.unlink()
        index_again(many, photos)

    asked_with = {last_of(many)} if name == "similar" else set()
    Changing(many, route, remove, at=3)
    hits = call(many)
    here = clipsearch.open(photos, encoder=FakeEncoder())
    left = {record.row_id for record in here} - asked_with
    assert {hit.record.row_id for hit in hits} == left
    assert [hit.rank for hit in hits] == list(range(1, len(left) + 1))


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("name", ASKED)
def test_an_index_that_changes_without_end_is_said_to(name: str, many: RemoteCollection, photos: Path) -> None:
    plain(COLOURS["red"]).save(photos.parent / "other.png")
    route, call = ASKED[name]
    numbers = iter(range(100))

    def add() -> None:
        plain((next(numbers), 7, 7)).save(photos / f"new{next(numbers)}.png")
        index_again(many, photos)

    Changing(many, route, add, at=1, times=100)
    with pytest.raises(ServerError, match="was changed while its answer was fetched"):
        call(many)


@pytest.mark.slow
def test_vectors_of_several_requests_are_of_one_index(many: RemoteCollection, photos: Path) -> None:
    wanted = list(range(12))

    Changing(many, "/v1/vectors", lambda: make_anew(many, photos, (NAMES * 3)[:12]), at=2)
    found = many.vectors(wanted)
    with clipsearch.open(photos, encoder=FakeEncoder()) as here:
        np.testing.assert_allclose(found, here.vectors(wanted), atol=1e-6)


def test_a_moment_of_a_video_is_not_another_moment_of_it(photos: Path) -> None:
    make(photos, NAMES)
    with clipsearch.open(photos, encoder=FakeEncoder()) as here:
        hit = named(here, "red")
        moment = dataclasses.replace(hit, record=dataclasses.replace(hit.record, view="t=3"))
        assert colour_in(here.thumbnail(hit)) == "red"
        for call in (here.thumbnail, here.similar):
            with pytest.raises(OtherPicture):
                call(moment)
