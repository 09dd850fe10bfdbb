"""No address answers with another picture: not of another index, nor of one made anew, nor of a file that changed."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import clipsearch
from clipsearch import IndexOptions
from clipsearch.filenames import for_parsers
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.routes import AsciiJSON
from clipsearch.ui.page import add_page
from tests.support.cases import thinned
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

LOCAL = "http://127.0.0.1:7860"
HERE = ("127.0.0.1", 50_000)
SECRET = b"nobody must ever see this"
ROUNDS = int(os.environ.get("CLIPSEARCH_IDENTITY_ROUNDS", "1"))


def fill(folder: Path, colours: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, colour in enumerate(colours):
        plain(COLOURS[colour]).save(folder / f"{number}.png")
    return clipsearch.index(folder, encoder=FakeEncoder()).index


def asking(*indexes: Path, client: tuple[str, int] = HERE, **options: Any) -> TestClient:
    chosen = ServerOptions(**{"warm_pictures_after_s": None, "decode_timeout_s": 60, **options})
    app = create_app(list(indexes), encoder=FakeEncoder(), options=chosen, interface=add_page)
    return TestClient(app, base_url=LOCAL, client=client)


def rows(client: TestClient, index: str | None = None) -> dict[str, dict[str, Any]]:
    answer = client.post("/v1/gallery", json={"k": 100, "index": index}).json()
    return {hit["name"]: {**hit, "index_id": answer["index_id"]} for hit in answer["hits"]}


def original(hit: dict[str, Any]) -> str:
    return f"/v1/images/{hit['row_id']}/original?content={hit['content_hash'][:16]}"


@pytest.fixture
def client(photos: Path) -> Iterator[TestClient]:
    with asking(fill(photos, ["red", "blue", "green"])) as client:
        yield client


def colour_of(jpeg: bytes) -> str:
    pixel = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    names = sorted(set(COLOURS) - {"grey"})
    return min(names, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_addresses_of_one_index_show_no_picture_of_another(photos: Path, seed: int) -> None:
    """The same names and row ids, other colours: what each address shows is what it showed before, or nothing."""
    drawn = random.Random(seed)
    names = ["red", "green", "blue", "yellow", "purple", "pink"]
    before, after = drawn.sample(names, 4), drawn.sample(names, 4)
    kept: dict[str, str] = {}
    index = fill(photos, before)
    with asking(index) as client:
        for hit in rows(client).values():
            for size in (128, 256, 512):
                address = f"{hit['thumbnail']}&size={size}"
                answer = client.get(address)
                assert "immutable" in answer.headers["cache-control"]
                kept[address] = colour_of(answer.content)
    shutil.rmtree(index)
    with asking(fill(photos, after)) as client:
        for address, colour in kept.items():
            answer = client.get(address)
            if answer.status_code == 200:
                assert colour_of(answer.content) == colour
            else:
                assert (answer.status_code, answer.json()["error"]) == (404, "OtherPicture")
                assert "immutable" not in answer.headers.get("cache-control", "")
        for number, colour in enumerate(after):
            assert colour_of(client.get(rows(client)[f"{number}.png"]["thumbnail"]).content) == colour


def test_an_address_without_content_is_never_kept_without_asking(client: TestClient) -> None:
    answer = client.get("/v1/images/0/thumbnail")
    assert answer.headers["cache-control"] == "private, no-cache"
    again = client.get("/v1/images/0/thumbnail", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    other = client.get("/v1/images/1/thumbnail", headers={"If-None-Match": answer.headers["etag"]})
    assert other.status_code == 200


def test_a_file_that_changed_is_not_shown_under_the_address_of_what_it_was(client: TestClient, photos: Path) -> None:
    hit = rows(client)["0.png"]
    assert colour_of(client.get(f"/v1/images/{hit['row_id']}/thumbnail").content) == "red"  # kept
    plain(COLOURS["yellow"]).save(photos / "0.png")
    assert colour_of(client.get(hit["thumbnail"]).content) == "red"  # as the address says
    changed = client.get(f"{hit['thumbnail']}&size=1024")
    assert (changed.status_code, changed.json()["error"]) == (404, "OtherPicture")
    for size in (256, 1024):
        now = client.get(f"/v1/images/{hit['row_id']}/thumbnail?size={size}")
        assert colour_of(now.content) == "yellow"
        assert hit["content_hash"] not in now.headers["etag"]
    assert client.get(original(hit)).status_code == 404


@pytest.mark.slow
def test_a_picture_is_found_by_its_content_where_its_number_has_changed(photos: Path) -> None:
    index = fill(photos, ["red", "blue", "green"])
    with asking(index) as client:
        by_id = {hit["row_id"]: hit for hit in rows(client).values()}
    hit = by_id[2]
    shutil.rmtree(index)
    (photos / by_id[0]["name"]).unlink()
    with asking(fill(photos, [])) as client:
        known = client.get(f"/v1/images/{hit['row_id']}", params={"content": hit["content_hash"][:16]}).json()
        assert (known["name"], known["content_hash"]) == (hit["name"], hit["content_hash"])
        assert known["row_id"] != hit["row_id"]
        assert client.get(f"/v1/images/{known['row_id']}", params={"content": "0" * 16}).status_code == 404
        assert client.get(f"/v1/images/{known['row_id']}", params={"content": "0" * 15}).status_code == 422


@pytest.mark.slow
def test_row_ids_of_another_index_are_refused_wherever_several_are_sent(photos: Path) -> None:
    index = fill(photos, ["red", "blue"])
    with asking(index) as client:
        before = rows(client)["0.png"]["index_id"]
        assert client.get("/v1/status").json()["indexes"][0]["id"] == before
    shutil.rmtree(index)
    with asking(fill(photos, ["green", "pink"])) as client:
        now = rows(client)["0.png"]["index_id"]
        assert now != before
        requests: list[tuple[str, dict[str, Any]]] = [
            ("gallery", {"like": [0]}),
            ("gallery/rows", {}),
            ("gallery/facets", {}),
            ("gallery/map", {}),
            ("gallery/earth", {}),
            ("export", {"ids": [0], "form": "paths"}),
            ("concepts", {"name": "mine", "like": [0]}),
        ]
        for route, body in requests:
            answer = client.post(f"/v1/{route}", json={**body, "index_id": before[:8]})
            assert (answer.status_code, answer.json()["error"]) == (409, "OtherIndex"), route
            assert client.post(f"/v1/{route}", json={**body, "index_id": now}).status_code == 200, route


@pytest.mark.slow
def test_the_map_names_pictures_by_their_content(client: TestClient) -> None:
    drawn = client.post("/v1/gallery/map", json={}).json()
    known = {hit["row_id"]: hit["content_hash"][:16] for hit in rows(client).values()}
    assert dict(zip(drawn["ids"], drawn["contents"], strict=True)) == known


# --- original files


def test_an_original_is_the_file_with_a_type_of_ours(client: TestClient, photos: Path) -> None:
    answer = client.get(original(rows(client)["1.png"]))
    assert answer.content == (photos / "1.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "inline; filename=\"1.png\"; filename*=UTF-8''1.png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["cache-control"] == "private, no-store"
    assert client.get("/v1/images/1/original").status_code == 422  # without a content
    assert client.get("/v1/images/1/original?content=" + "0" * 16).status_code == 404


@pytest.mark.many
@pytest.mark.parametrize(
    ("kind", "expected", "shown"),
    [
        ("TIFF", "application/octet-stream", "attachment"),
        ("WEBP", "image/webp", "inline"),
        ("GIF", "image/gif", "inline"),
    ],
)
def test_what_browsers_do_not_show_is_saved(photos: Path, kind: str, expected: str, shown: str) -> None:
    """By what the bytes are, not by the name."""
    plain(COLOURS["red"]).save(photos / 'a "b" ü\n.png', kind)
    with asking(fill(photos, [])) as client:
        (hit,) = rows(client).values()
        answer = client.get(original(hit))
        assert answer.headers["content-type"] == expected
        assert answer.headers["content-disposition"].startswith(f'{shown}; filename="a _b_ __.png"; ')
        assert "%0A" in answer.headers["content-disposition"]


def test_a_file_put_in_the_place_of_a_picture_is_not_sent(client: TestClient, photos: Path, tmp_path: Path) -> None:
    known = rows(client)
    (tmp_path / "secret").write_bytes(SECRET)
    ways: dict[str, Callable[[Path], None]] = {
        "0.png": lambda path: path.symlink_to(tmp_path / "secret"),
        "1.png": lambda path: path.mkdir(),
        "2.png": os.mkfifo,
    }
    for name, replace in ways.items():
        (photos / name).unlink()
        replace(photos / name)
        answer = client.get(original(known[name]))
        assert answer.status_code == 404, name
        assert SECRET not in answer.content


@pytest.mark.many
@pytest.mark.parametrize(
    ("options", "headers", "client", "expected"),
    thinned(
        [
            ({}, {}, HERE, 200),
            ({"originals": False}, {}, HERE, 403),
            ({}, {"X-Forwarded-For": "203.0.113.7"}, HERE, 403),
            ({}, {"Forwarded": "for=203.0.113.7"}, HERE, 403),
            ({}, {}, ("203.0.113.7", 1), 403),
            ({"host_names": ("photos.example",)}, {}, HERE, 403),
            ({"root_path": "/photos"}, {}, HERE, 403),
            ({"local": False, "token": "x" * 20}, {"Authorization": f"Bearer {'x' * 20}"}, HERE, 403),
            ({"originals": True}, {"X-Forwarded-For": "203.0.113.7"}, HERE, 200),
            (
                {"local": False, "token": "x" * 20, "originals": True},
                {"Authorization": f"Bearer {'x' * 20}"},
                HERE,
                200,
            ),
            ({"local": False, "token": "x" * 20, "originals": True}, {}, HERE, 401),
        ],
        4,
    ),
)
def test_originals_are_for_this_machine_unless_asked(
    photos: Path, options: dict[str, Any], headers: dict[str, str], client: tuple[str, int], expected: int
) -> None:
    index = fill(photos, ["red"])
    with clipsearch.open(index, encoder=FakeEncoder()) as collection:
        content = collection.record(0).content_hash
    assert content is not None
    with asking(index, client=client, **options) as asked:
        answer = asked.get(f"/v1/images/0/original?content={content}", headers=headers)
        assert answer.status_code == expected
        if expected != 200:
            assert (photos / "0.png").read_bytes() not in answer.content


# --- large copies


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    thinned(
        [
            ((5000, 4000), 4096, (4096, 3277)),
            ((3000, 2000), 2048, (2048, 1365)),
            ((300, 200), 4096, (300, 200)),
            ((9000, 900), 2048, (6144, 614)),
            ((900, 9000), 2048, (614, 6144)),
            ((4000, 1300), 2048, (2100, 682)),
            ((9000, 900), 1024, (1024, 102)),
        ],
        3,
    ),
)
def test_large_copies_of_long_pictures_are_longer(
    photos: Path, size: tuple[int, int], asked: int, expected: tuple[int, int]
) -> None:
    """In RAW, HEIC and TIFF too: what browsers do not show is seen through them."""
    Image.effect_noise((size[0] // 50, size[1] // 50), 90).resize(size).convert("RGB").save(photos / "a.tif")
    with asking(fill(photos, [])) as client:
        answer = client.get("/v1/images/0/thumbnail", params={"size": asked})
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("text", ["plain", "\U0001f600", "caf\udce9", "\ud800", "\\ud", "a\\udce9"])
def test_answers_are_ascii_and_clean_whatever_is_in_them(text: str) -> None:
    body = {"hits": [{"path": text, "words": (text, 1)}], text: None}
    assert AsciiJSON(body).body == json.dumps(for_parsers(body), separators=(",", ":")).encode("ascii")


# --- a selection, and its export


@pytest.mark.slow
def test_places_and_rows_are_those_of_the_windows(photos: Path) -> None:
    with asking(fill(photos, ["red", "blue", "green", "pink", "red"])) as client:
        for question in ({}, {"query": "red", "all": True}, {"query": "red", "all": True, "unique": True}):
            shown = client.post("/v1/gallery", json={**question, "k": 100}).json()
            ids = [hit["row_id"] for hit in shown["hits"]]
            everything = client.post("/v1/gallery/rows", json=question).json()
            assert (everything["ids"], everything["total"]) == (ids, len(ids))
            assert client.post("/v1/gallery/rows", json={**question, "offset": 1, "k": 2}).json()["ids"] == ids[1:3]
            for place, hit in enumerate(shown["hits"]):
                for one in (hit, *hit["others"]):
                    found = client.post("/v1/gallery", json={**question, "locate": one["row_id"], "k": 1}).json()
                    assert found["position"] == place
                    assert found["located"] == {**one, "score": pytest.approx(one["score"], abs=2e-6), "others": []}
            lost = client.post("/v1/gallery", json={**question, "locate": 99}).json()
            assert (lost["position"], lost["located"]) == (None, None)
        name = client.get("/v1/images/0").json()["name"]
        other = client.post("/v1/gallery", json={"query": f"red name:{name}", "locate": 1}).json()
        assert (other["position"], other["located"]["row_id"], other["located"]["rank"]) == (None, 1, 0)
        assert 0 < other["located"]["confidence"] < 1


@pytest.mark.slow
def test_exports_are_whole_and_in_the_order_of_the_selection(client: TestClient, photos: Path) -> None:
    names = {hit["row_id"]: hit["name"] for hit in rows(client).values()}
    paths = client.post("/v1/export", json={"ids": [2, 0, 1, 0], "form": "paths"})
    assert paths.headers["content-type"].startswith("text/plain")
    assert paths.text.splitlines() == [str(photos / names[n]) for n in (2, 0, 1, 0)]
    many = client.post("/v1/export", json={"ids": [0, 1, 2] * 700, "form": "csv"})
    assert len(many.text.splitlines()) == 2101
    archive = client.post("/v1/export", json={"ids": [1, 2], "form": "zip"})
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        assert files.testzip() is None
        assert files.namelist() == [f"{n:04d}-{names[n][0]}.jpg" for n in (1, 2)]
    assert client.post("/v1/export", json={"ids": [77], "form": "paths"}).status_code == 404


@pytest.mark.slow
def test_a_file_that_became_a_link_out_of_the_folder_is_not_shown(tmp_path: Path) -> None:
    """Under no address, and by no export; unless the index follows such links."""
    for follows in (False, True):
        photos, outside = tmp_path / f"photos{follows}", tmp_path / f"outside{follows}"
        outside.mkdir()
        for folder in (photos / "sub", photos, outside):
            fill(folder, ["red", "blue"]) if folder != outside else plain(COLOURS["pink"]).save(folder / "0.png")
        shutil.rmtree(photos / "sub" / ".clipsearch")
        options = IndexOptions(follow_links=True) if follows else None
        index = clipsearch.index(photos, encoder=FakeEncoder(), options=options).index
        with asking(index) as client:
            found = rows(client)
            assert set(found) == {"0.png", "1.png", "sub/0.png", "sub/1.png"}
            (photos / "0.png").unlink()
            (photos / "0.png").symlink_to(outside / "0.png")
            shutil.rmtree(photos / "sub")
            (photos / "sub").symlink_to(outside)
            shutil.rmtree(client.app.state.service.thumbnails.folder, ignore_errors=True)  # type: ignore[attr-defined]
            for name in ("0.png", "sub/0.png"):
                row = found[name]["row_id"]
                answer = client.get(f"/v1/images/{row}/thumbnail")
                assert answer.status_code == (200 if follows else 404), (name, answer.text)
                zipped = client.post("/v1/export", json={"ids": [row], "form": "zip"})
                with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
                    assert (archive.namelist() == ["left-out.txt"]) is not follows
                assert client.get(original(found[name])).status_code == 404
            assert client.get(f"/v1/images/{found['1.png']['row_id']}/thumbnail").status_code == 200
        report = clipsearch.index(photos, encoder=FakeEncoder())
        assert report.pictures == (3 if follows else 1)
