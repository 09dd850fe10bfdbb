"""The API through its whole stack of middleware, with a fake encoder and real files."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import clipsearch
from clipsearch.pictures.images import read_picture
from clipsearch.server import messages
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.store import RunProgress, Writer
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

LOCAL = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plain pictures, one with EXIF data, and one file that is none."""
    photos = tmp_path_factory.mktemp("server") / "photos"
    photos.mkdir()
    for name in ("red", "green", "blue"):
        plain(COLOURS[name]).save(photos / f"{name}.png")
    exif = Image.Exif()
    exif[0x010F] = "SecretMaker"
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (300, 200), COLOURS["yellow"]).save(photos / "yellow.jpg", exif=exif)
    (photos / "notes.txt").write_text("hello")
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff nothing")
    clipsearch.index(photos, encoder=FakeEncoder())
    return photos


@pytest.fixture
def index(indexed: Path, photos: Path) -> Path:
    return Path(shutil.copytree(indexed, photos, dirs_exist_ok=True)) / ".clipsearch"


@pytest.fixture
def client(index: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    with TestClient(create_app([index], encoder=encoder), base_url=LOCAL) as client:
        yield client


def row_of(client: TestClient, colour: str) -> int:
    return int(client.post("/v1/search", json={"query": colour, "k": 1}).json()["hits"][0]["row_id"])


def test_a_search_finds_what_a_local_one_finds(client: TestClient, index: Path, encoder: FakeEncoder) -> None:
    answer = client.post("/v1/search", json={"query": "red", "k": 3, "all": True})
    assert answer.status_code == 200
    with clipsearch.open(index, encoder=encoder) as photos:
        hits, generation = photos.search("red", k=3, all=True), photos.manifest.generation
    found = answer.json()
    assert [(h["rank"], h["path"], h["score"], h["row_id"]) for h in found["hits"]] == [
        (hit.rank, hit.path, round(hit.score, 6), hit.record.row_id) for hit in hits
    ]
    assert found["hits"][0]["name"] == "red.png"
    assert (found["index"], found["generation"]) == ("photos", generation)


def test_hits_come_in_pages(client: TestClient) -> None:
    everything = client.post("/v1/search", json={"query": "red", "k": 4, "all": True}).json()["hits"]
    second = client.post("/v1/search", json={"query": "red", "k": 2, "offset": 2, "all": True}).json()["hits"]
    assert second == everything[2:]


@pytest.mark.slow
def test_the_query_language_and_its_options(client: TestClient, index: Path, encoder: FakeEncoder) -> None:
    def names(**asked: object) -> list[str]:
        answer = client.post("/v1/search", json=asked)
        assert answer.status_code == 200, answer.text
        return [hit["name"] for hit in answer.json()["hits"]]

    with clipsearch.open(index, encoder=encoder) as photos:
        for query in ("red - blue", "ext:jpg", "not ext:jpg red", f"like:{row_of(client, 'green')} + red"):
            for options in ({}, {"sort": "path"}, {"unique": True}, {"diverse": 0.7}):
                local = photos.search(query, 3, all=True, **options)
                assert names(query=query, k=3, all=True, **options) == [hit.record.path for hit in local]
        row = row_of(client, "blue")
        assert names(query="red") == [hit.record.path for hit in photos.search("red")]  # without what is unlikely
        learnt = photos.search("red", 4, like=[row], unlike=[row_of(client, "red")])
        assert names(query="red", k=4, like=[row], unlike=[row_of(client, "red")]) == [h.record.path for h in learnt]
    (yellow,) = client.post("/v1/search", json={"query": "ext:jpg"}).json()["hits"]
    assert yellow["score"] is None


def test_a_vector_can_be_searched_for_alone_with_terms_and_filters(client: TestClient, photos: Path) -> None:
    with (photos / "red.png").open("rb") as file:
        (vector,) = client.post("/v1/embed/upload", files={"image": file}).json()["vectors"]
    alone = client.post("/v1/search", json={"vector": vector, "k": 1}).json()["hits"]
    assert (alone[0]["name"], alone[0]["score"]) == ("red.png", pytest.approx(1, abs=1e-5))
    filtered = client.post("/v1/search", json={"vector": vector, "query": "name:blue*", "all": True}).json()["hits"]
    assert [hit["name"] for hit in filtered] == ["blue.png"]
    (blue,) = client.post("/v1/embed", json={"texts": ["blue"]}).json()["vectors"]
    by_both = client.post("/v1/search", json={"vector": vector, "query": "blue", "k": 1, "all": True}).json()["hits"][
        0
    ]["score"]
    both = np.array(vector) + np.array(blue)
    summed = client.post("/v1/search", json={"vector": both.tolist(), "k": 1, "all": True}).json()["hits"][0]["score"]
    assert by_both == pytest.approx(summed, abs=1e-5)
    for bad in ([1.0], [0.0] * 64, []):
        assert client.post("/v1/search", json={"vector": bad}).status_code == 400, bad
    nan = client.post("/v1/search", content=b'{"vector": [NaN, 1]}', headers={"content-type": "application/json"})
    assert (nan.status_code, nan.json()["message"]) == (400, "vector has numbers that are not finite")
    small, large = (
        client.post("/v1/search", json={"vector": [x] * 64, "all": True}).json()["hits"] for x in (1e-300, 1e308)
    )
    assert small and small == large


def test_a_query_that_cannot_be_understood_says_where(client: TestClient) -> None:
    answer = client.post("/v1/search", json={"query": "dog (ext:jpg or"})
    assert answer.status_code == 400
    assert answer.json()["position"] == 13
    files = client.post("/v1/search", json={"query": "dog + ./cat.jpg"})
    assert (files.status_code, files.json()["position"]) == (400, 6)
    assert client.post("/v1/search", json={"query": "like:unheard-of"}).status_code == 400
    answer = client.post("/v1/search", json={"query": "tag:unheard-of"}).json()
    assert answer["hits"] == [] and "no tag or concept is called unheard-of" in answer["notices"][-1]
    assert client.post("/v1/search", json={"query": "like:999"}).status_code == 400


@pytest.mark.slow
def test_an_upload_cannot_hurt_the_next_one(client: TestClient, encoder: FakeEncoder) -> None:
    """Lossless JPEGs, long pictures, damage: the picture after them has the vector that it has alone."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (600, 900, 3), dtype=np.uint8)
    lossless = bytes(imagecodecs.jpeg_encode(noise, lossless=True))
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "TIFF", compression="tiff_lzw")
    good = buffer.getvalue()
    alone: list[float] | None = None
    for other in (lossless, lossless[:-5000], good[:-9000], b"II*\0" + rng.bytes(500), lossless, lossless):
        client.post("/v1/embed/upload", files={"image": io.BytesIO(other)})
        answer = client.post("/v1/embed/upload", files={"image": io.BytesIO(good)})
        assert answer.status_code == 200
        alone = alone or answer.json()["vectors"][0]
        assert answer.json()["vectors"][0] == alone
    with tempfile.NamedTemporaryFile(suffix=".tif") as file:
        file.write(good)
        file.flush()
        expected = encoder.encode_images(read_picture(file.name, encoder.preprocessing).pieces)[0]
    assert alone == pytest.approx(expected.tolist(), abs=1e-5)


def test_similar_to_a_picture_of_the_index_and_to_an_upload(client: TestClient, photos: Path) -> None:
    row = row_of(client, "blue")
    by_id = client.post("/v1/similar", json={"row_id": row, "k": 2}).json()["hits"]
    with (photos / "blue.png").open("rb") as file:
        by_upload = client.post("/v1/similar/upload", files={"image": file}, data={"k": "2"}).json()["hits"]
    assert "blue.png" not in [hit["name"] for hit in by_id]
    scores = [hit.pop("score") for hit in (*by_upload, *by_id)]
    assert by_upload == by_id
    assert scores[:2] == pytest.approx(scores[2:], abs=2e-6)


def test_vectors(client: TestClient, photos: Path, encoder: FakeEncoder) -> None:
    answer = client.post("/v1/embed", json={"texts": ["red", "blue"]}).json()
    assert answer["dim"] == encoder.dim
    assert answer["vectors"] == encoder.encode_texts(["red", "blue"]).tolist()
    with (photos / "red.png").open("rb") as file:
        (vector,) = client.post("/v1/embed/upload", files={"image": file}).json()["vectors"]
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)


def test_a_thumbnail_is_small_upright_and_says_nothing_of_the_file(client: TestClient) -> None:
    row = row_of(client, "yellow")
    for size, shape in {128: (85, 128), 256: (171, 256), 512: (200, 300)}.items():
        answer = client.get(f"/v1/images/{row}/thumbnail", params={"size": size})
        assert answer.headers["content-type"] == "image/jpeg"
        image = Image.open(io.BytesIO(answer.content))
        assert image.size == shape
        assert not image.getexif()
        assert b"SecretMaker" not in answer.content
        assert image.convert("RGB").getpixel((40, 40)) == pytest.approx(COLOURS["yellow"], abs=6)
    again = client.get(
        f"/v1/images/{row}/thumbnail", params={"size": 512}, headers={"If-None-Match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.slow
def test_a_kept_thumbnail_is_not_made_again(client: TestClient, photos: Path) -> None:
    row = row_of(client, "green")
    first = client.get(f"/v1/images/{row}/thumbnail").content
    (photos / "green.png").unlink()
    assert client.get(f"/v1/images/{row}/thumbnail").content == first
    other_size = client.get(f"/v1/images/{row}/thumbnail?size=512")
    assert other_size.status_code == 422
    assert "its file is missing" in other_size.json()["message"]


def test_what_the_index_knows_of_a_picture(client: TestClient, photos: Path) -> None:
    picture = client.get(f"/v1/images/{row_of(client, 'yellow')}").json()
    assert (picture["width"], picture["height"], picture["camera"]) == (200, 300, "SecretMaker")
    assert picture["path"] == str(photos / "yellow.jpg")
    assert client.get(picture["thumbnail"]).status_code == 200


def test_state(client: TestClient) -> None:
    status = client.get("/v1/status").json()
    (state,) = status["indexes"]
    assert (state["name"], state["pictures"], state["skipped"], state["is_being_written"]) == ("photos", 4, 1, False)
    skipped = client.get("/v1/skipped").json()
    assert [s["path"] for s in skipped["skipped"]] == ["cut.jpg"]
    assert client.get("/healthz").text == "ok\n"
    metrics = client.get("/metrics").text
    assert 'clipsearch_requests_total{route="/v1/status",status="200"} 1.0' in metrics
    assert 'clipsearch_index_pictures{index="photos"} 4.0' in metrics


def test_state_says_how_far_a_run_is(client: TestClient, index: Path) -> None:
    def state() -> dict[str, Any]:
        (found,) = client.get("/v1/status").json()["indexes"]
        return {name: found[name] for name in ("is_being_written", "progress")}

    assert state() == {"is_being_written": False, "progress": None}
    with Writer(index) as writer:
        assert state() == {"is_being_written": True, "progress": None}
        writer.note(RunProgress("read", 30, 120, 25, 10.0))
        run = {"stage": "read", "done": 30, "total": 120, "encoded": 25, "seconds": 10.0}
        assert state() == {"is_being_written": True, "progress": run}
    assert state() == {"is_being_written": False, "progress": None}


def test_errors_say_what_is_wrong(client: TestClient) -> None:
    assert client.post("/v1/search", json={"query": "near:48.85"}).json()["fields"]["position"] == 5
    assert client.post("/v1/search", json={"query": "x", "index": "y"}).json()["error"] == "UnknownIndex"
    assert client.post("/v1/search", json={"query": "x", "k": 0}).status_code == 400
    assert (
        client.post("/v1/search", json={"query": "x", "k": 10_001}).json()["message"] == "k: it must be at most 10000"
    )
    assert client.post("/v1/search", json={"query": "x", "colour": 0}).status_code == 422
    assert client.post("/v1/search", content=b'{"query": "\\udc80"}').status_code == 422
    assert client.post("/v1/search", content=b"\xff{").status_code == 422
    assert client.get("/v1/images/999").status_code == 404
    assert client.get("/v1/images/999/thumbnail").json()["error"] == "NoSuchPicture"
    assert client.post("/v1/similar", json={"id": 999}).status_code == 404
    assert client.get("/v1/images/-1").status_code == 404
    assert client.get("/v1/images/99999999999999999999").status_code == 404
    assert client.get("/v1/images/x").status_code == 422
    assert client.get("/nowhere").status_code == 404


@pytest.mark.slow
def test_several_indexes(index: Path, tmp_path: Path, encoder: FakeEncoder) -> None:
    other = tmp_path / "other" / "photos"
    other.mkdir(parents=True)
    plain(COLOURS["pink"]).save(other / "pink.png")
    second = clipsearch.index(other, encoder=encoder).index
    with TestClient(create_app([index, second], encoder=encoder), base_url=LOCAL) as client:
        assert [state["name"] for state in client.get("/v1/status").json()["indexes"]] == ["photos", "photos-2"]
        (hit,) = client.post("/v1/search", json={"query": "pink", "index": "photos-2"}).json()["hits"]
        assert hit["name"] == "pink.png"
        assert client.get(hit["thumbnail"]).status_code == 200


@pytest.mark.slow
def test_names_that_are_not_utf8_and_markup_in_names(photos: Path, encoder: FakeEncoder) -> None:
    name = b"\xe9t\xe9 <img src=x onerror=alert(1)>.png"
    plain(COLOURS["red"]).save(photos / "a.png")
    (photos / "a.png").rename(photos / name.decode("utf-8", "surrogateescape"))
    index = clipsearch.index(photos, encoder=encoder).index
    with TestClient(create_app([index], encoder=encoder), base_url=LOCAL) as client:
        answer = client.post("/v1/search", json={"query": "red", "all": True})
        (hit,) = json.loads(answer.text)["hits"]
        assert bytes.fromhex(hit["name_bytes"]) == name
        assert hit["name"].encode() == name.decode("utf-8", "replace").encode()  # for parsers that are strict
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get(hit["thumbnail"]).status_code == 200


def test_a_server_that_others_can_reach_needs_a_token(index: Path, encoder: FakeEncoder) -> None:
    with (
        pytest.raises(ValueError, match="needs a token"),
        TestClient(create_app([index], encoder=encoder, options=ServerOptions(local=False))),
    ):
        pass


@pytest.mark.slow
def test_the_reference_names_every_route_and_loads_nothing(client: TestClient) -> None:
    page = client.get("/docs")
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page.text
    assert "Number of hits." in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.slow
def test_a_deleted_picture_is_not_shown_any_more(
    client: TestClient, index: Path, photos: Path, encoder: FakeEncoder
) -> None:
    row = row_of(client, "red")
    assert client.get(f"/v1/images/{row}/thumbnail").status_code == 200
    (photos / "red.png").unlink()
    newest = clipsearch.index(photos, encoder=encoder).generation
    asked = {"query": f"like:{row}", "k": 1, "all": True, "at_least_generation": newest}
    answer = client.post("/v1/search", json=asked)
    assert answer.status_code == 200  # a link to what is like it still answers
    assert answer.json()["hits"][0]["row_id"] != row
    assert client.get(f"/v1/images/{row}").status_code == 404
    assert client.get(f"/v1/images/{row}/thumbnail").status_code == 404


def test_the_fields_of_answers_are_the_documented_ones(client: TestClient) -> None:
    (hit, *_) = client.post("/v1/search", json={"query": "red", "all": True}).json()["hits"]
    of_some = {"where", "moment", "clip"}  # of videos, motion photos and Live Photos
    of_several = {"index", "index_id", "index_row_id"}
    assert set(hit) == set(messages.FoundPicture.model_fields) - of_some - of_several
    known = client.get(f"/v1/images/{hit['row_id']}").json()
    assert set(known) == set(messages.KnownPicture.model_fields) - of_some
    told = (Path(clipsearch.__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    assert not [name for name in (*hit, *of_some) if f"`{name}`" not in told]


def test_without_a_question_the_newest_are_listed(client: TestClient) -> None:
    found = client.post("/v1/search", json={}).json()
    assert (found["total"], found["hidden"], len(found["hits"])) == (4, 0, 4)
    assert found["hits"][0]["score"] is None


def test_similar_takes_a_row_or_a_path_of_the_index(client: TestClient, photos: Path) -> None:
    row = row_of(client, "blue")
    by_row = client.post("/v1/similar", json={"row_id": row}).json()["hits"]
    assert client.post("/v1/similar", json={"id": row}).json()["hits"] == by_row
    assert client.post("/v1/similar", json={"path": str(photos / "blue.png")}).json()["hits"] == by_row
    assert client.post("/v1/similar", json={"path": "blue.png"}).json()["hits"] == by_row
    assert client.post("/v1/similar", json={"path": "cut.jpg"}).status_code == 404
    for wrong in ({}, {"row_id": row, "path": "blue.png"}):
        assert client.post("/v1/similar", json=wrong).status_code == 400
