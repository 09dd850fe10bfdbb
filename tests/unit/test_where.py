"""Where in a picture a query matches: by the features of places, by crops, from Python and the command line."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from mcp import Client
from PIL import Image, ImageDraw

import clipsearch
from clipsearch.config import marker_of
from clipsearch.encoder.dense import DenseTower
from clipsearch.encoder.layout import read_model_directory
from clipsearch.encoder.names import load_encoder
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.errors import InvalidQuery, NoSuchPicture, NotDense, OtherPicture, UnreadablePicture
from clipsearch.pictures.heatmap import HeatMap
from clipsearch.pictures.images import prepare
from clipsearch.search.confidence import DRAWINGS
from clipsearch.search.where import find_where
from clipsearch.server.mcp import assistant_server
from tests.support.archives import write_tar
from tests.support.collections import serving
from tests.support.commands import clipsearch as run
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pdfs import coloured
from tests.support.pictures import picture, scene
from tests.support.tiny_models import write_model_directory

THINGS = ("dog", "elephant", "dolphin", "butterfly")


def overlap(found: HeatMap, box: tuple[int, int, int, int]) -> float:
    """Intersection over union of the found box and one of left, top, right and bottom."""
    left, top, width, height = found.box
    across = min(left + width, box[2]) - max(left, box[0])
    down = min(top + height, box[3]) - max(top, box[1])
    both = max(0, across) * max(0, down)
    return both / (width * height + (box[2] - box[0]) * (box[3] - box[1]) - both)


def is_inside(point: tuple[int, int], box: tuple[int, int, int, int]) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def drawings() -> Image.Image:
    """Four drawings, one in each quarter."""
    sheet = Image.new("RGB", (800, 600), "white")
    with tarfile.open(DRAWINGS) as archive:
        for place, thing in enumerate(THINGS):
            stream = archive.extractfile(f"{thing}.webp")
            assert stream is not None
            image = Image.open(io.BytesIO(stream.read())).convert("RGB").resize((300, 240))
            sheet.paste(image, (50 + place % 2 * 400, 30 + place // 2 * 300))
    return sheet


def quarter(thing: str) -> tuple[int, int, int, int]:
    place = THINGS.index(thing)
    left, top = place % 2 * 400, place // 2 * 300
    return left, top, left + 400, top + 300


@pytest.fixture(scope="module")
def builtin() -> clipsearch.Encoder:
    return clipsearch.Encoder("builtin", precision="fp32")


@pytest.mark.slow
def test_halves_of_the_tower_are_the_whole(builtin: clipsearch.Encoder) -> None:
    tower = builtin.model.dense_tower()
    assert tower is not None
    for seed in range(3):
        pixels = prepare(scene(seed), builtin.model.preprocessing)
        features = tower.features(pixels)
        vector = tower.vectors(features.mean(axis=(0, 1))[None])[0]
        assert float(vector @ builtin.model.encode_images(pixels[None])[0]) > 0.99999
        assert tower.features(np.tile(pixels, (2, 3, 1))).shape == (2 * len(features), 3 * len(features), 1280)


@pytest.mark.slow
def test_a_thing_is_found_by_features(builtin: clipsearch.Encoder) -> None:
    """One that the model knows: of line drawings it knows few. How often it is right, `benchmarks/pointing.py` says."""
    found = builtin.where("a drawing of an elephant", drawings())
    assert found.by == "features" and (found.width, found.height) == (800, 600)
    assert is_inside(found.peak, quarter("elephant"))


def test_a_tower_that_cannot_be_cut_is_not(tmp_path: Path) -> None:
    external = read_model_directory(write_model_directory(tmp_path / "a", external=True))
    assert external.preprocessing is not None
    with pytest.raises(NotDense, match="other files"):
        DenseTower(external, external.preprocessing, 1)
    broken = write_model_directory(tmp_path / "b")
    content = (broken / "visual/model.onnx").read_bytes().replace(b"GlobalAveragePool", b"GlobalMaximumPool")
    (broken / "visual/model.onnx").write_bytes(content)
    with pytest.raises(NotDense, match="does not average"):
        OnnxEncoder(broken).dense_tower()


@pytest.mark.slow
def test_a_tiny_tower_of_either_kind_gives_a_map(tmp_path: Path) -> None:
    for name, external in (("a", True), ("b", False)):
        encoder = load_encoder(str(write_model_directory(tmp_path / name, external=external)))
        found = find_where(encoder, encoder.encode_texts(["red"])[0], scene(1))
        assert found.scores.shape == (36, 48) and np.isfinite(found.scores).all()
    assert found.by in ("features", "crops")


@pytest.mark.few(each="orientation colour")
@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("colour", ["blue", "green"])
def test_patches_are_found_by_crops(tmp_path: Path, orientation: int, colour: str) -> None:
    """In the upright picture, whatever way the file lies."""
    upright = Image.new("RGB", (3000, 2000), COLOURS["red"])
    box = (1800, 900, 2700, 1600)
    ImageDraw.Draw(upright).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=COLOURS[colour])
    lies = {1: upright, 6: upright.rotate(90, expand=True), 8: upright.rotate(-90, expand=True)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lies.save(tmp_path / "a.jpg", exif=exif)
    found = clipsearch.Encoder(FakeEncoder()).where(colour, tmp_path / "a.jpg")
    assert found.by == "crops" and (found.width, found.height) == (3000, 2000)
    assert is_inside(found.peak, box)
    assert overlap(found, box) > 0.5
    left, top, width, height = found.box
    assert 0 <= left < left + width <= 3000 and 0 <= top < top + height <= 2000


def test_a_map_of_nothing_is_one() -> None:
    found = clipsearch.Encoder(FakeEncoder()).where("red", Image.new("RGB", (7, 900), COLOURS["blue"]))
    assert found.scores.shape == (48, 4) and found.over(Image.new("RGB", (7, 900))).size == (7, 900)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(1).save(folder / "a.png")
    image = Image.new("RGB", (400, 300), COLOURS["red"])
    ImageDraw.Draw(image).rectangle((200, 150, 350, 270), fill=COLOURS["blue"])
    image.save(folder / "b.png")
    clipsearch.index(folder, encoder=FakeEncoder())
    return folder


@pytest.mark.slow
def test_a_collection_says_where(photos: Path) -> None:
    with clipsearch.open(photos, encoder=FakeEncoder()) as collection:
        row = next(record.row_id for record in collection if record.path == "b.png")
        hit = collection.search("name:b.png")[0]
        maps = [collection.where("blue", one) for one in (row, hit, photos / "b.png", Image.open(photos / "b.png"))]
        assert len({found.fragment for found in maps}) == 1
        assert is_inside(maps[0].peak, (200, 150, 350, 270))
        assert collection.search(f"{photos / 'b.png'}{maps[0].fragment}", all=True)  # the box is a query
        assert not is_inside(collection.where("blue - red + red - blue + red", row).peak, (200, 150, 350, 270))
        with pytest.raises(InvalidQuery, match="only filters"):
            collection.where("ext:png", row)
        with pytest.raises(NoSuchPicture):
            collection.where("blue", 999)
        with pytest.raises(UnreadablePicture):
            collection.where("blue", photos / "none.png")
        (photos / "b.png").unlink()
        with pytest.raises(UnreadablePicture, match=r"^b\.png"):
            collection.where("blue", row)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_command(tmp_path: Path) -> None:
    drawings().save(tmp_path / "sheet.png")
    done = run("where", "a drawing of an elephant", "sheet.png", "-o", "map.png", "--json", folder=tmp_path)
    told = json.loads(done.stdout)
    assert is_inside((told["peak"][0], told["peak"][1]), quarter("elephant"))
    assert told["fragment"] == "#xywh=" + ",".join(map(str, told["box"])) and len(told["scores"][0]) == 48
    with Image.open(tmp_path / "map.png") as shown:
        assert shown.size == (800, 600)
    run("index", ".", folder=tmp_path)
    line = run("where", "a drawing of an elephant", "sheet.png", folder=tmp_path).stdout.strip()
    assert line.startswith("sheet.png#xywh=")
    assert run("where", "a drawing of an elephant", line, folder=tmp_path).stdout.strip() == line
    doubtful = run("where", "a plate of spaghetti", "sheet.png", folder=tmp_path)
    assert "the place is a guess" in doubtful.stderr, doubtful
    run("query", f"./{line}", "--all", folder=tmp_path)
    run("where", "a dog", "sheet.png", "-o", "map.txt", folder=tmp_path, status=2)
    run("where", "a dog", "none.png", folder=tmp_path, status=1)


@pytest.mark.parametrize("name", ["b.png", "../photos/a.png", "link.jpg"])
def test_a_map_overwrites_nothing(photos: Path, name: str) -> None:
    (photos / "link.jpg").symlink_to("elsewhere.jpg")
    before = {path: path.read_bytes() for path in photos.glob("*.png")}
    told = run("where", "red", "b.png", "-o", name, folder=photos, status=1)
    assert "already exists" in told.stderr
    assert {path: path.read_bytes() for path in photos.glob("*.png")} == before
    assert not (photos / "elsewhere.jpg").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_command_shows_pictures_of_archives(tmp_path: Path) -> None:
    data = io.BytesIO()
    picture(1, size=(64, 48)).save(data, "PNG")
    write_tar(tmp_path / "x.tar", {"a/b.png": data.getvalue()})
    run("index", ".", "--archives", "--model", "builtin", "-q", folder=tmp_path)
    told = run("where", "red", "x.tar/a/b.png", "-o", "map.png", folder=tmp_path).stdout
    assert told.startswith("like:0#xywh=")
    assert Image.open(tmp_path / "map.png").size == (64, 48)
    as_json = json.loads(run("where", "red", "0", "--json", folder=tmp_path).stdout)
    assert as_json["path"] == str(tmp_path / "x.tar/a/b.png") and told.strip().endswith(as_json["fragment"])


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cache")
def test_the_command_names_the_page_with_the_box(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    (tmp_path / "scan.pdf").write_bytes(coloured([COLOURS[name] for name in ("red", "blue", "green")]))
    run("index", ".", "--model", "builtin", "-q", folder=tmp_path)
    with clipsearch.open(tmp_path) as photos:
        rows = {record.page: record.row_id for record in map(photos.record, photos.row_ids().tolist())}
        asked = photos.where("a dog", rows[3])
    box = ",".join(map(str, asked.box))
    told = run("where", "a dog", str(rows[3]), folder=tmp_path).stdout.strip()
    assert told == f"{tmp_path}/scan.pdf#page=3&xywh={box}"
    as_json = json.loads(run("where", "a dog", str(rows[3]), "--json", folder=tmp_path).stdout)
    assert (as_json["where"], as_json["fragment"]) == (f"{tmp_path}/scan.pdf#page=3", f"#xywh={box}")
    assert run("where", "a dog", "scan.pdf", folder=tmp_path).stdout.startswith("scan.pdf#page=1&xywh=")
    assert run("where", "a dog", "scan.pdf#page=3", folder=tmp_path).stdout.strip() == told  # as `query` prints it
    assert run("where", "a dog", told, folder=tmp_path).stdout.strip() == told
    assert "no such picture" in run("where", "a dog", "scan.pdf#page=9", folder=tmp_path, status=1).stderr


def test_every_door_shows_the_same_place(photos: Path) -> None:
    encoder = FakeEncoder()
    with clipsearch.open(photos, encoder=encoder) as here:
        row = next(record.row_id for record in here if record.path == "b.png")
        asked = here.where("blue - red", row)
        assert asked.confidence is not None and asked.band is not None
        sure, unsure = here.where("red", row), here.where("a submarine", row)
        assert sure.confidence is not None and unsure.confidence is not None
        assert sure.confidence > unsure.confidence and unsure.band == "unlikely"
        assert here.where("red", picture(3)).band is None
        told = {**asked.to_dict(), "confidence": pytest.approx(asked.to_dict()["confidence"], abs=1e-3)}
        assert HeatMap.from_dict(asked.to_dict()).to_dict() == asked.to_dict()
    with serving(photos / ".clipsearch", encoder) as (url, app), clipsearch.connect(url) as there:
        assert there.where("blue - red", row).to_dict() == told
        assert there.where("blue - red", photos / "b.png").to_dict() == told
        hit = there.search("name:b.png")[0]
        assert there.where("blue - red", hit).to_dict() == told
        body = {"query": "blue - red", "row_id": row, "content": hit.record.content_hash}
        assert httpx.post(f"{url}/v1/where", json=body).json() == {
            **told,
            "index_id": marker_of(photos / ".clipsearch"),
            "row_id": row,
        }
        png = httpx.post(f"{url}/v1/where", json={**body, "form": "png"})
        assert png.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(png.content)) as shown, Image.open(photos / "b.png") as image:
            assert shown.tobytes() == asked.over(image.convert("RGB")).tobytes()
        for wrong, status in (
            ({**body, "query": "ext:png"}, 400),
            ({**body, "query": ""}, 400),
            ({**body, "query": "red - red"}, 400),
            ({**body, "row_id": 99, "content": None}, 404),
            ({**body, "content": "0" * 16}, 404),
            ({**body, "index_id": "0" * 8}, 409),
            ({**body, "form": "svg"}, 422),
            ({"query": "red"}, 422),
        ):
            assert httpx.post(f"{url}/v1/where", json=wrong).status_code == status, wrong

        async def ask(**arguments: Any) -> Any:
            async with Client(assistant_server(app.state.service)) as client:
                return await client.call_tool("where", arguments)

        shown_to, caption = anyio.run(partial(ask, query="blue - red", row_id=row)).content
        said = json.loads(caption.text)
        assert said["box"] == list(asked.box) and said["fragment"] == f"like:{row}{asked.fragment}"
        assert "scores" not in said and base64.b64decode(shown_to.data).startswith(b"\xff\xd8")
        assert anyio.run(partial(ask, query="https://example.org/x.jpg", row_id=row)).is_error
        picture(9, size=(400, 300)).save(photos / "b.png")
        for asked_of in (body, {**body, "content": None}):
            assert httpx.post(f"{url}/v1/where", json=asked_of).status_code == 404
        with pytest.raises(OtherPicture), clipsearch.open(photos, encoder=encoder) as here:
            here.where("blue", row)
        with clipsearch.open(photos, encoder=encoder) as here:
            assert here.where("blue", photos / "b.png").confidence is None
        (photos / "b.png").unlink()
        for photo in (row, hit):
            with pytest.raises(UnreadablePicture, match=r"^b\.png"):
                there.where("blue", photo)


@pytest.mark.slow
def test_thumbs_move_the_place(photos: Path) -> None:
    """What the page asks with: the question as thumbs have moved it."""
    with serving(photos / ".clipsearch", FakeEncoder()) as (url, _):
        maps = [
            httpx.post(f"{url}/v1/where", json={"query": "blue", "row_id": 1, **more}).json()["scores"]
            for more in ({}, {"like": [0]}, {"unlike": [0]})
        ]
        assert maps[0] != maps[1] != maps[2]
