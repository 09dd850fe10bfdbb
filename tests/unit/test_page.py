"""The page without a browser: windows of orders, exports, the map, and the doors that stay shut."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import clipsearch
from benchmarks.common import random_blocks, write_index
from clipsearch.pictures.formats import FORMATS, IN_PARTS, UNSUPPORTED, is_installed
from clipsearch.query import parse_query
from clipsearch.query.fields import FILTERS
from clipsearch.records import NOTHING_CERTAIN
from clipsearch.search import order as ordering
from clipsearch.server.app import create_app
from clipsearch.ui.page import add_page
from clipsearch.ui.picture_map import lay_out
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill, plain

LOCAL = "http://127.0.0.1:7860"
MANY = 2500


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = tmp_path_factory.mktemp("page") / "photos"
    photos.mkdir()
    for name in ("red", "green", "blue"):
        plain(COLOURS[name]).save(photos / f"{name}.png")
    Image.new("RGB", (80, 80), COLOURS["red"]).save(photos / "=large red.png")
    fill(photos, 12)
    clipsearch.index(photos, encoder=FakeEncoder())
    return photos


@pytest.fixture
def index(indexed: Path, photos: Path) -> Path:
    return Path(shutil.copytree(indexed, photos, dirs_exist_ok=True)) / ".clipsearch"


@pytest.fixture
def client(index: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    app = create_app([index], encoder=encoder, interface=add_page)
    with TestClient(app, base_url=LOCAL) as client:
        yield client


@pytest.fixture
def many(tmp_path: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    index = write_index(tmp_path / "many", encoder, lambda: random_blocks(MANY, encoder.dim))
    with TestClient(create_app([index], encoder=encoder, interface=add_page), base_url=LOCAL) as client:
        yield client


def window(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/gallery", json={"all": True, **asked})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(found: dict[str, Any]) -> list[int]:
    return [hit["row_id"] for hit in found["hits"]]


@pytest.mark.many
@pytest.mark.parametrize("query", ["date:2023", "camara:canon cat", "cat name:* kamera:leica", "orientaton:landscape"])
def test_a_gallery_says_what_a_search_says(client: TestClient, query: str) -> None:
    answer = client.post("/v1/search", json={"query": query}).json()
    told = answer["notices"]
    uncertain = bool(answer["hits"]) and all(hit["band"] == "unlikely" for hit in answer["hits"])
    assert told[-1:] == [NOTHING_CERTAIN] if uncertain else NOTHING_CERTAIN not in told
    told = [
        line for line in told if not line.startswith("nothing is certain for the whole query")
    ]  # see test_query_heads
    assert len(told) == 1 + uncertain
    of_all = told[: len(told) - uncertain]  # likely or not
    assert window(client, query=query)["notices"] == window(client, query=query, offset=1)["notices"] == of_all
    assert window(client, query="cat")["notices"] == window(client)["notices"] == []


@pytest.mark.slow
def test_windows_together_are_the_whole_index_in_order(many: TestClient, encoder: FakeEncoder) -> None:
    assert MANY > 2 * ordering.LAST_STEP
    vectors = np.concatenate(list(random_blocks(MANY, encoder.dim)))
    expected = vectors @ encoder.encode_texts(["red"])[0]
    pages = [window(many, query="red", offset=offset, k=400) for offset in range(0, MANY, 400)]
    found = [row for page in pages for row in ids(page)]
    assert sorted(found) == list(range(MANY))
    np.testing.assert_allclose(expected[found], np.sort(expected)[::-1], atol=1e-5)
    assert {page["total"] for page in pages} == {MANY}
    ranks = [hit["rank"] for page in pages for hit in page["hits"]]
    assert ranks == list(range(1, MANY + 1))
    assert window(many, query="red", offset=MANY + 5)["hits"] == []


@pytest.mark.slow
def test_a_deep_window_first_is_the_same_as_one_after_others(many: TestClient) -> None:
    deep = window(many, query="blue", offset=2000, k=100)
    assert deep["total"] == MANY
    again = window(many, query="blue", offset=1990, k=20)
    assert ids(again)[10:] == ids(deep)[:10]


def test_without_a_question_the_newest_come_first(many: TestClient) -> None:
    newest = window(many, k=5)
    assert newest["total"] == MANY
    assert ids(newest) == [2000, 2001, 2002, 2003, 2004]  # dates are in microseconds, see write_index
    assert newest["hits"][0]["score"] is None
    by_path = window(many, k=3, sort="path", query="folder:2001/**")
    names = [hit["name"] for hit in by_path["hits"]]
    assert names == sorted(names)
    assert all(name.startswith("2001/") for name in names)


def test_filters_and_orders_hold_in_windows(client: TestClient) -> None:
    filtered = window(client, query="red folder:set000", k=3)
    assert filtered["total"] == 10
    assert all(hit["name"].startswith("set000/") for hit in filtered["hits"])
    dated = window(client, query="red", sort="path", k=100)
    names = [hit["name"] for hit in dated["hits"]]
    assert names[:3] == ["=large red.png", "blue.png", "green.png"]


def test_near_duplicates_are_folded_into_the_largest(client: TestClient) -> None:
    folded = window(client, query="red", unique=True, k=100)
    best = folded["hits"][0]
    assert (best["name"], [other["name"] for other in best["others"]]) == ("=large red.png", ["red.png"])
    plain_order = window(client, query="red", k=100)
    assert folded["total"] + sum(len(hit["others"]) for hit in folded["hits"]) == plain_order["total"] == 16
    every = ids(folded) + [other["row_id"] for hit in folded["hits"] for other in hit["others"]]
    assert sorted(every) == sorted(ids(plain_order))


def test_varied_orders_hold_everything_once(client: TestClient) -> None:
    varied = window(client, query="red", diverse=True, k=100)
    assert sorted(ids(varied)) == sorted(ids(window(client, query="red", k=100)))
    assert ids(varied) != ids(window(client, query="red", k=100))


def test_a_picture_and_words_make_one_question(client: TestClient, encoder: FakeEncoder) -> None:
    blue = encoder.encode_texts(["blue"])[0].tolist()
    assert window(client, vector=blue, k=1)["hits"][0]["name"] == "blue.png"
    assert window(client, vector=blue, query="name:green.png", k=5)["total"] == 1
    assert client.post("/v1/gallery", json={"vector": [1.0, 2.0]}).status_code == 400
    assert client.post("/v1/gallery", json={"query": "./red.png"}).status_code == 400
    assert client.post("/v1/gallery", json={"like": [999]}).status_code == 400


@pytest.mark.slow
def test_what_is_unlikely_is_left_out_of_windows_and_counted(
    many: TestClient, encoder: FakeEncoder, tmp_path: Path
) -> None:
    with clipsearch.open(tmp_path / "many", encoder=encoder) as photos:
        expected = photos.search("red", k=MANY)
        every = photos.search("red", k=MANY, all=True)
    assert len(every) == MANY
    cut = window(many, query="red", all=False, k=1000)
    assert cut["total"] == len(expected) < MANY
    assert cut["hidden"] == MANY - len(expected)
    assert [(hit["row_id"], hit["band"]) for hit in cut["hits"]] == [(h.record.row_id, h.band) for h in expected[:1000]]
    shown = window(many, query="red", all=True, k=1000)
    assert (shown["total"], shown["hidden"]) == (MANY, 0)
    assert [hit["band"] for hit in shown["hits"]] == [hit.band for hit in every[:1000]]


@pytest.mark.slow
def test_a_cut_beyond_the_first_rows_is_found(many: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(photos: Any, scores: Any, *_: Any, **__: Any) -> tuple[Any, list[str]]:
        return scores.astype(float), ["maybe" if score > 0 else "unlikely" for score in scores]

    monkeypatch.setattr("clipsearch.search.collection.Collection.confidences", judge)
    every = [hit["score"] for n in range(0, MANY, 500) for hit in window(many, query="red", offset=n, k=500)["hits"]]
    positive = sum(score > 0 for score in every)
    assert ordering.LAST_STEP < positive < MANY
    cut = window(many, query="red", all=False, offset=positive - 5, k=100)
    assert (cut["total"], cut["hidden"], len(cut["hits"])) == (positive, MANY - positive, 5)


@pytest.mark.slow
def test_thumbs_can_be_kept_as_a_concept(client: TestClient) -> None:
    rows = {hit["name"]: hit["row_id"] for hit in window(client, k=100)["hits"]}
    asked = {"name": "my red", "like": [rows["red.png"], rows["=large red.png"]], "unlike": [rows["blue.png"]]}
    assert client.post("/v1/concepts", json=asked).json() == {"index": "photos", "name": "my red"}
    found = [hit["name"] for hit in window(client, query='tag:"my red"')["hits"]]
    assert {"red.png", "=large red.png"} <= set(found)
    assert "blue.png" not in found
    again = client.post("/v1/concepts", json={**asked, "name": "MY red", "like": [rows["blue.png"]], "unlike": []})
    assert (again.status_code, again.json()["error"]) == (409, "TagExists")
    assert {hit["name"] for hit in window(client, query='tag:"my red"')["hits"]} == set(found)
    blue = {**asked, "name": "MY red", "like": [rows["blue.png"]], "unlike": [], "replace": True}
    assert client.post("/v1/concepts", json=blue).status_code == 200
    assert "blue.png" in [hit["name"] for hit in window(client, query='tag:"my red"')["hits"]]
    assert client.post("/v1/concepts", json={**asked, "name": "a\nb"}).status_code == 400
    assert client.post("/v1/concepts", json={**asked, "name": "other", "like": [999]}).status_code == 404


def test_thumbs_change_the_order(client: TestClient) -> None:
    rows = {hit["name"]: hit["row_id"] for hit in window(client, query="red", k=100)["hits"]}
    rated = window(client, query="red", like=[rows["blue.png"]], unlike=[rows["red.png"]], k=100)
    names = [hit["name"] for hit in rated["hits"]]
    assert names.index("blue.png") < names.index("red.png")


def test_a_table_cannot_run_formulas(client: TestClient, photos: Path) -> None:
    row = window(client, query='name:"=large red.png"')["hits"][0]["row_id"]
    answer = client.post("/v1/export", json={"ids": [row], "form": "csv"})
    (known,) = csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))
    assert answer.content.startswith(b"\xef\xbb\xbfpath,")
    assert known["path"] == str(photos / "=large red.png")  # an absolute path begins with a slash
    assert answer.headers["content-disposition"].startswith("attachment")
    from clipsearch.ui.exports import _cell

    assert _cell("=1+1") == "'=1+1"
    assert _cell("@x\udce9") == "'@x?"


def test_paths_are_a_line_each(tmp_path: Path) -> None:
    for name in ("a\nb.png", "caf\udce9.png", "plain.png"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    index = clipsearch.index(tmp_path, encoder=FakeEncoder()).index
    app = create_app([index], encoder=FakeEncoder(), interface=add_page)
    with TestClient(app, base_url=LOCAL) as client:
        rows = [hit["row_id"] for hit in window(client, k=10, sort="path")["hits"]]
        answer = client.post("/v1/export", json={"ids": rows, "form": "paths"})
    assert [Path(line).name for line in answer.text.splitlines()] == ["a\\x0ab.png", "caf\\xe9.png", "plain.png"]


def test_an_archive_holds_previews_and_says_what_is_missing(client: TestClient, photos: Path) -> None:
    rows = {hit["name"]: hit["row_id"] for hit in window(client, k=100)["hits"]}
    (photos / "green.png").unlink()
    asked = [rows["=large red.png"], rows["green.png"]]
    answer = client.post("/v1/export", json={"ids": asked, "form": "zip"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["0001-_large red.jpg", "left-out.txt"]
        assert Image.open(io.BytesIO(archive.read("0001-_large red.jpg"))).size == (80, 80)
        assert archive.read("left-out.txt").startswith(b"green.png: ")
    assert client.post("/v1/export", json={"ids": [999], "form": "csv"}).status_code == 404
    answer = client.post("/v1/export", json={"ids": [999, *asked, 998], "form": "zip"})
    assert answer.headers["clipsearch-left-out"] == "2"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        said = archive.read("left-out.txt").decode().splitlines()
        assert archive.namelist()[0] == "0001-_large red.jpg"
        assert [line.partition(":")[0] for line in said] == ["picture 998", "picture 999", "green.png"]
    table = client.post("/v1/export", json={"ids": [998, *asked], "form": "csv"})
    assert len(list(csv.DictReader(io.StringIO(table.content.decode("utf-8-sig"))))) == 2
    assert table.headers["clipsearch-left-out"] == "1"
    assert client.post("/v1/export", json={"ids": [], "form": "csv"}).status_code == 422
    assert client.post("/v1/export", json={"ids": [0] * 5001, "form": "zip"}).status_code == 400


def test_the_map_puts_what_is_alike_together() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 32), np.float32)
    vectors = np.repeat(centres, 40, axis=0) + 0.2 * rng.standard_normal((160, 32), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = lay_out(vectors)
    assert places.min() >= 0
    assert places.max() <= 1
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    groups = np.arange(160) // 40
    nearest = np.argsort(distances, axis=1)[:, :10]
    assert (groups[nearest] == groups[:, None]).mean() > 0.98
    np.testing.assert_array_equal(places, lay_out(vectors))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_small_maps(count: int) -> None:
    vectors = np.eye(8, dtype=np.float32)[:count]
    places = lay_out(vectors)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_large_maps_place_the_rest_beside_their_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.ui.picture_map.LANDMARKS", 60)
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 2, 400)
    vectors = np.eye(16, dtype=np.float32)[groups] + 0.1 * rng.standard_normal((400, 16), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = lay_out(vectors)
    assert places.shape == (400, 2)
    middles = [places[groups == group].mean(axis=0) for group in (0, 1)]
    own = np.linalg.norm(places - np.array(middles)[groups], axis=1)
    other = np.linalg.norm(places - np.array(middles)[1 - groups], axis=1)
    assert (own < other).mean() > 0.98


@pytest.mark.slow
def test_the_map_of_an_index(client: TestClient) -> None:
    drawn = client.post("/v1/gallery/map", json={"unique": False}).json()
    assert drawn["total"] == len(drawn["ids"]) == len(drawn["x"]) == len(drawn["y"]) == 16
    assert all(0 <= place <= 10_000 for place in drawn["x"] + drawn["y"])


# --- the document, and what is not served


def test_the_document_is_there_at_once_and_may_run_only_its_own_scripts(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'self';" in policy
    for address in (line.split('"')[-2] for line in answer.text.splitlines() if '"ui/' in line):
        asset = client.get(address)
        assert asset.status_code == 200, address
        assert "immutable" in asset.headers["cache-control"]
    folder = answer.text.split('"ui/')[1].split("/")[0]
    for name in ("../page.py", "..%2fpage.py", "%2e%2e/page.py", "page.py", "", "app.js/", "app.js%00"):
        assert client.get(f"/ui/{folder}/{name}").status_code == 404, name
    assert client.get("/ui/0000/app.js").status_code == 404
    assert client.post("/").status_code == 405


def test_the_document_has_the_tables_of_filters_and_formats(client: TestClient) -> None:
    """Every filter has a control, and only what the server reads can be sent."""
    known = json.loads(client.get("/").text.split('id="clipsearch-tables">')[1].split("</script>")[0])
    assert [line["name"] for line in known["filters"]] == list(FILTERS)
    assert "height" in FILTERS
    for line in known["filters"]:
        for value in [value for value, _ in line["options"]] or [line["placeholder"] or "2023-05-17"]:
            parse_query(f"{line['name']}:{value}").leaves()
    endings = set(known["pictures"]["extensions"])
    assert {"jpg", "png", "tif", "avif", "jp2"} <= endings
    assert endings.isdisjoint(ending for other in UNSUPPORTED for ending in other.extensions.split())
    for found in FORMATS:
        is_sent = found.kind not in IN_PARTS and is_installed(found)
        assert (endings >= set(found.extensions.split())) is is_sent


def test_no_asset_builds_markup_from_text() -> None:
    folder = Path(clipsearch.__file__).parent / "ui" / "assets"
    for file in folder.glob("*.js"):
        text = file.read_text(encoding="utf-8")
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http:"):
            assert way not in text.replace("http://www.w3.org/2000/svg", ""), (file.name, way)
