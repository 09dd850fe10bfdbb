"""Search by a part of a picture: through every door the same vector as of a picture that is cut out."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from PIL import Image, ImageDraw

import clipsearch
from clipsearch import Collection, RemoteCollection
from clipsearch.errors import ClipsearchError, InvalidQuery, MalformedQuery, UnreadablePicture
from clipsearch.pictures.images import PictureFile, open_picture, prepare, read_picture
from clipsearch.query.crops import Crop, OutsidePicture, picture_file, read_crop, split_crop
from clipsearch.records import Preprocessing
from clipsearch.server.engine import Engine
from clipsearch.server.mcp import assistant_server
from clipsearch.server.metrics import Metrics
from clipsearch.server.routes import Service
from tests.support.collections import serving
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.fake_main import DIM
from tests.support.pdfs import coloured
from tests.support.pictures import picture, plain, scene
from tests.support.videos import colours, write_video

PREPROCESSING = Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3, "bicubic", "squash")
BLUE = "20,20,60,40"  # where `quilt` is blue
SIDES = st.integers(1, 400)
NUMBERS = st.integers(0, 500)


def quilt() -> Image.Image:
    """Red, with a part that is blue."""
    image = Image.new("RGB", (200, 120), COLOURS["red"])
    ImageDraw.Draw(image).rectangle((20, 20, 79, 59), fill=COLOURS["blue"])
    return image


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each test gets a copy of."""
    folder = tmp_path_factory.mktemp("crops") / "photos"
    folder.mkdir()
    for number in range(8):
        picture(number).save(folder / f"p{number}.png")
    for name in ("red", "blue", "green"):
        plain(COLOURS[name]).save(folder / f"{name}.png")
    quilt().save(folder / "quilt.png")
    quilt().resize((199, 120)).save(folder.parent / "other.png")
    clipsearch.index(folder, encoder=FakeEncoder(dim=DIM))
    return folder


@pytest.fixture
def folder(once: Path, tmp_path: Path) -> Path:
    shutil.copytree(once.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "photos"


@pytest.fixture
def both(folder: Path) -> Iterator[tuple[Collection, RemoteCollection, str]]:
    yield from through_both_doors(folder)


@pytest.fixture(scope="module")
def both_unchanged(once: Path) -> Iterator[tuple[Collection, RemoteCollection, str]]:
    """For tests that change nothing."""
    yield from through_both_doors(once)


def through_both_doors(folder: Path) -> Iterator[tuple[Collection, RemoteCollection, str]]:
    with (
        clipsearch.open(folder, encoder=FakeEncoder(dim=DIM)) as local,
        serving(folder / ".clipsearch", FakeEncoder(dim=DIM)) as (url, _),
        clipsearch.connect(url) as remote,
    ):
        yield local, remote, url


def row_of(photos: Collection, name: str) -> int:
    return next(record.row_id for record in photos if record.path == name)


# -- what a part is


@given(SIDES, SIDES, st.data())
def test_parts_inside_are_boxes_and_all_others_are_refused(width: int, height: int, data: st.DataObject) -> None:
    x, y, w, h = (data.draw(NUMBERS) for _ in range(4))
    crop = Crop(x, y, max(1, w), max(1, h))
    assert read_crop(str(crop)) == crop
    if x + crop.width <= width and y + crop.height <= height:
        assert crop.box((width, height)) == (x, y, x + crop.width, y + crop.height)
    else:
        with pytest.raises(OutsidePicture, match=f"{width} x {height}"):
            crop.box((width, height))


@given(SIDES, SIDES, st.data())
def test_parts_in_percent_have_pixels_in_every_picture(width: int, height: int, data: st.DataObject) -> None:
    x, y = (data.draw(st.floats(0, 99.9)) for _ in range(2))
    w, h = (data.draw(st.floats(0.01, 100 - start)) for start in (x, y))
    left, top, right, bottom = read_crop(str(Crop(x, y, max(w, 1e-6), max(h, 1e-6), in_percent=True))).box(
        (width, height)
    )
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert abs(left - x * width / 100) <= 1 and abs(bottom - (y + h) * height / 100) <= 1.5


@pytest.mark.parametrize(
    "value", ["", "1,2,3", "1,2,3,4,5", "a,2,3,4", "-1,2,3,4", "1,2,0,4", "em:1,2,3,4", "1e3,2,3,4"]
)
def test_what_is_no_part_is_refused(value: str) -> None:
    with pytest.raises(InvalidQuery, match="xywh="):
        split_crop(f"photo.jpg#xywh={value}")


def test_all_ways_to_write_one() -> None:
    assert split_crop("a.jpg#xywh=pixel:1,2,3,4") == split_crop("a.jpg#xywh=1,2,3,4") == ("a.jpg", Crop(1, 2, 3, 4))
    assert split_crop("a.jpg#xywh=percent:1,2.5,3,4") == ("a.jpg", Crop(1, 2.5, 3, 4, in_percent=True))
    assert split_crop("a.jpg") == ("a.jpg", None)


def test_a_file_of_that_name_comes_first(tmp_path: Path) -> None:
    name = str(tmp_path / "photo.jpg")
    picture(1).save(name)
    assert picture_file(f"{name}#xywh=1,2,3,4") == (name, Crop(1, 2, 3, 4))
    picture(2).save(f"{name}#xywh=1,2,3,4", "JPEG")
    assert picture_file(f"{name}#xywh=1,2,3,4") == (f"{name}#xywh=1,2,3,4", None)


# -- its pixels


@pytest.mark.few(each="orientation crop")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("crop", [Crop(0, 0, 640, 480), Crop(37, 50, 201, 99), Crop(60, 60, 40, 40, in_percent=True)])
def test_pixels_are_those_of_the_upright_picture(tmp_path: Path, orientation: int, crop: Crop) -> None:
    """Decoded at a reduced size where that is enough, at full size where the part needs it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene(3, (1600, 1200)).save(tmp_path / "a.jpg", exif=exif, quality=92)
    upright = open_picture(tmp_path / "a.jpg")
    expected = prepare(upright.crop(crop.box(upright.size)), PREPROCESSING).astype(float)
    found = read_picture(tmp_path / "a.jpg", PREPROCESSING, crop=crop)
    assert (found.width, found.height) == upright.size
    assert np.abs(found.pixels - expected).mean() < 1.5


@pytest.mark.slow
def test_a_long_part_is_seen_in_pieces(tmp_path: Path) -> None:
    scene(4, (900, 600)).save(tmp_path / "a.png")
    assert len(read_picture(tmp_path / "a.png", PREPROCESSING, crop=Crop(0, 0, 900, 100), pieces=True).pieces) > 5
    assert len(read_picture(tmp_path / "a.png", PREPROCESSING, crop=Crop(0, 0, 900, 600), pieces=True).pieces) == 1


# -- through every door


def best(photos: Any, query: Any) -> tuple[str, float]:
    hit = photos.search(query, 1, all=True)[0]
    return Path(hit.path).name, round(hit.score, 4)


@pytest.mark.slow
def test_a_part_of_a_file_finds_what_is_like_it(both: tuple[Collection, RemoteCollection, str]) -> None:
    local, remote, _ = both
    for photos in (local, remote):
        for name in (local.root.parent / "other.png", local.root / "quilt.png"):
            blue = f"{name}#xywh=" + BLUE
            for query in (blue, Path(blue), f'"{blue}"', f"1:{blue} + {blue}", f"{name}#xywh=percent:11,18,25,28"):
                assert best(photos, query) == ("blue.png", 1.0), (photos, query)
            assert best(photos, f"{name}#xywh=90,20,60,40") == ("red.png", 1.0)
            assert best(photos, f"{blue} - {name}#xywh=90,20,60,40")[0] == "blue.png"
            assert np.allclose(photos.encode_picture(blue), local.vector(row_of(local, "blue.png")), atol=1e-5)
            assert Path(photos.similar(blue, 1)[0].path).name == "blue.png"


@pytest.mark.slow
def test_relative_paths_and_names_with_spaces(
    both: tuple[Collection, RemoteCollection, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local, remote, _ = both
    monkeypatch.chdir(local.root.parent)
    quilt().save("my own quilt.png")
    for photos in (local, remote):
        for query in (f"./other.png#xywh={BLUE}", f"other.png#xywh={BLUE}", f"my own quilt.png#xywh={BLUE}"):
            assert best(photos, query) == ("blue.png", 1.0), query


@pytest.mark.slow
def test_a_file_whose_name_reads_as_a_part(
    both: tuple[Collection, RemoteCollection, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local, remote, _ = both
    monkeypatch.chdir(local.root.parent)
    plain(COLOURS["green"]).save(f"other.png#xywh={BLUE}", "PNG")
    for photos in (local, remote):
        assert best(photos, f"./other.png#xywh={BLUE}") == ("green.png", 1.0)
        assert best(photos, f"./other.png#xywh={BLUE}#xywh=1,1,5,5") == ("green.png", 1.0)


@pytest.mark.slow
def test_a_part_of_a_hit(both: tuple[Collection, RemoteCollection, str]) -> None:
    local, remote, url = both
    row = row_of(local, "quilt.png")
    for photos in (local, remote):
        assert best(photos, f"like:{row}#xywh={BLUE}") == ("blue.png", 1.0)
        assert best(photos, f"like:{row}#xywh=percent:50,50,50,50 ext:png") == ("red.png", 1.0)
        assert Path(photos.similar(f"{row}#xywh={BLUE}", 1)[0].path).name == "blue.png"
    named = {"path": f"quilt.png#xywh={BLUE}"}, {"row_id": row, "xywh": BLUE}, {"path": "quilt.png", "xywh": BLUE}
    for asked in named:
        found = httpx.post(f"{url}/v1/similar", json=asked).json()["hits"]
        assert found[0]["name"] == "blue.png" and "quilt.png" not in [hit["name"] for hit in found]
    path = f"{local.root / 'quilt.png'}#xywh={BLUE}"
    assert httpx.post(f"{url}/v1/search", json={"query": path}).json()["hits"][0]["name"] == "blue.png"
    (local.root / "quilt.png").write_bytes(as_png(quilt().rotate(180)))
    for photos in (local, remote):
        with pytest.raises(UnreadablePicture, match="changed since"):
            photos.search(f"like:{row}#xywh={BLUE},".removesuffix(","))
    (local.root / "quilt.png").unlink()
    for photos in (local, remote):
        with pytest.raises(UnreadablePicture, match=r"quilt\.png: its file is unavailable|quilt\.png: "):
            photos.search(f"like:{row}#xywh={BLUE} + red")


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_uploads(both: tuple[Collection, RemoteCollection, str]) -> None:
    local, _, url = both
    for route in ("/v1/similar/upload", "/v1/embed/upload"):
        answer = httpx.post(f"{url}{route}", files={"image": ("a.png", as_png(quilt()))}, data={"xywh": BLUE})
        assert answer.status_code == 200
        if "hits" in answer.json():
            assert answer.json()["hits"][0]["name"] == "blue.png"
        else:
            blue = local.vector(row_of(local, "blue.png"))
            assert np.allclose(answer.json()["vectors"][0], blue, atol=1e-5)
        for wrong, status in (("1,2", 400), ("900,0,10,10", 422)):
            answer = httpx.post(f"{url}{route}", files={"image": ("a.png", as_png(quilt()))}, data={"xywh": wrong})
            assert answer.status_code == status and "xywh=" in answer.json()["message"]


def write_parts(folder: Path) -> list[Path]:
    """A video, a document and a 3-D model, whose parts differ."""
    import trimesh

    write_video(folder / "scenes.mp4", colours(("red", "green", "blue", "yellow")), seconds=1.0)
    (folder / "pages.pdf").write_bytes(coloured([COLOURS["red"], COLOURS["blue"]]))
    flat = trimesh.creation.box((2.0, 1.0, 0.2))
    flat.visual = trimesh.visual.ColorVisuals(flat, face_colors=[[255, 0, 0, 255]] * 6 + [[0, 0, 255, 255]] * 6)
    flat.export(folder / "model.ply")
    return [folder / name for name in ("scenes.mp4", "pages.pdf", "model.ply")]


@pytest.mark.slow
def test_what_has_parts_is_its_first_one_through_every_door(
    both: tuple[Collection, RemoteCollection, str], tmp_path: Path
) -> None:
    local, remote, _ = both
    for path in write_parts(tmp_path):
        told = local.encode_picture(path)
        assert np.allclose(remote.encode_picture(path), told, atol=1e-5), path.name
        assert [(hit.record.row_id, round(hit.score, 4)) for hit in remote.search(path, 3, all=True)] == [
            (hit.record.row_id, round(hit.score, 4)) for hit in local.search(path, 3, all=True)
        ]


@pytest.mark.parametrize("name", ["pages.pdf", "model.ply"])
def test_a_page_is_to_a_query_what_an_index_has_seen(tmp_path: Path, name: str) -> None:
    write_parts(tmp_path)
    with PictureFile(tmp_path / name) as file:
        read, seen, _ = file.read_pages(PREPROCESSING, after=0, most=2)
        assert [page.number for page in read.pages] == [1, 2] and not np.array_equal(seen[0], seen[1])
        for number in (1, 2):
            assert np.array_equal(file.frame_at(number, PREPROCESSING).pieces[0], seen[number - 1])
        assert np.array_equal(file.decode(PREPROCESSING).pieces[0], seen[0])


WRONG: list[tuple[Callable[[Collection], str], type[ClipsearchError], str]] = [
    (lambda p: f"{p.root / 'quilt.png'}#xywh=190,0,20,20", UnreadablePicture, "200 x 120"),
    (lambda p: f"{p.root / 'quilt.png'}#xywh=0,0,200,121", UnreadablePicture, "not inside"),
    (lambda p: f"{p.root / 'quilt.png'}#xywh=percent:50,50,51,50", UnreadablePicture, "not inside"),
    (lambda p: f"{p.root / 'quilt.png'}#xywh=1,2,3", InvalidQuery, "xywh=X,Y,WIDTH,HEIGHT"),
    (lambda p: f"{p.root.parent / 'other.png'}#xywh=1,2,3", InvalidQuery, "xywh=X,Y,WIDTH,HEIGHT"),
    (lambda p: f"like:{row_of(p, 'quilt.png')}#xywh=500,0,20,20", UnreadablePicture, "200 x 120"),
    (lambda p: f"like:{row_of(p, 'quilt.png')}#xywh=9", InvalidQuery, "xywh=9"),
    (lambda p: "like:987654#xywh=0,0,2,2", MalformedQuery, "no picture 987654"),
    (lambda p: "like:reds#xywh=0,0,2,2", MalformedQuery, "only pictures have parts"),
    (lambda p: "./away.png#xywh=0,0,2,2", UnreadablePicture, "away.png"),
]


@pytest.mark.parametrize(("query", "error", "words"), WRONG)
def test_what_is_wrong_is_said_alike(
    both_unchanged: tuple[Collection, RemoteCollection, str],
    query: Callable[[Collection], str],
    error: type[ClipsearchError],
    words: str,
) -> None:
    local, remote, _ = both_unchanged
    asked = query(local)
    for photos in (local, remote):
        with pytest.raises(error, match=words):
            photos.search(asked)


@pytest.mark.slow
def test_assistants(folder: Path) -> None:
    engine = Engine([folder / ".clipsearch"], encoder=FakeEncoder(dim=DIM))
    service = Service(engine, Metrics(), search_threads=1, most_waiting=0, decode_timeout_s=10)
    try:
        with clipsearch.open(folder, encoder=FakeEncoder(dim=DIM)) as photos:
            row = row_of(photos, "quilt.png")

        async def ask(tool: str, **arguments: Any) -> Any:
            async with Client(assistant_server(service)) as client:
                return await client.call_tool(tool, arguments)

        asked = (
            ("search", {"query": f"like:{row}#xywh={BLUE}"}),
            ("similar", {"row_id": row, "xywh": BLUE}),
            ("similar", {"path": f"quilt.png#xywh={BLUE}"}),
        )
        for tool, arguments in asked:
            answer = anyio.run(partial(ask, tool, **arguments))
            body = json.loads(answer.content[0].text)
            assert Path(body["hits"][0]["path"]).name == "blue.png", (tool, body)
        answer = anyio.run(partial(ask, "similar", row_id=row, xywh="500,0,2,2"))
        assert answer.is_error and "200 x 120" in answer.content[0].text
    finally:
        service.close()
