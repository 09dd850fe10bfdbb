"""Several indexes searched together through a server: the API, the routes of the page, assistants."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from starlette.testclient import TestClient

import clipsearch
from clipsearch.cli.listening import found_indexes
from clipsearch.cli.saved import saved_search
from clipsearch.cli.ui import _places as places_to_show
from clipsearch.errors import CorruptIndex, IndexNotFound, UnknownSearch
from clipsearch.search.collection import Collection
from clipsearch.search.together import Together
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.server.engine import Engine, SharedCollection
from clipsearch.server.mcp import assistant_server
from clipsearch.ui.page_routes import add_page_routes
from tests.support.collections import serving
from tests.support.commands import Commands
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import plain

ALL = "*"
FOLDERS = {"here": ("red", "green", "orange"), "there": ("red", "blue", "pink", "brown")}


@pytest.fixture
def indexes(tmp_path: Path, encoder: FakeEncoder) -> list[Path]:
    for name, colours in FOLDERS.items():
        folder = tmp_path / name
        folder.mkdir()
        for n, colour in enumerate(colours):
            plain(COLOURS[colour]).resize((40 + n, 40 + len(colours))).save(folder / f"{colour}.png")
        clipsearch.index(folder, encoder=encoder)
    return [tmp_path / name / ".clipsearch" for name in FOLDERS]


@pytest.fixture
def client(indexes: list[Path], encoder: FakeEncoder) -> Iterator[TestClient]:
    options = ServerOptions(warm_pictures_after_s=None)
    app = create_app(indexes, encoder=encoder, options=options, interface=_page)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


def _page(app: Any, service: Any) -> Any:
    add_page_routes(app, service)
    return lambda: None


def ask(client: TestClient, route: str = "/v1/search", status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(route, json={"index": ALL, **body})
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_search_of_all_indexes_is_that_of_python(
    client: TestClient, indexes: list[Path], encoder: FakeEncoder
) -> None:
    found = ask(client, query="red", all=True)
    with clipsearch.open(indexes, encoder=encoder) as together:
        hits = together.search("red", all=True)
        assert found["index_id"] == together.identity and found["total"] == len(together) == 7
    assert [(h["row_id"], h["path"], h["band"], h["index_id"], h["index_row_id"]) for h in found["hits"]] == [
        (h.record.row_id, h.path, h.band, h.found_in.index_id, h.found_in.row_id) for h in hits if h.found_in
    ]
    assert [h["score"] for h in found["hits"]] == pytest.approx([h.score for h in hits], abs=1e-5)
    assert {h["index"] for h in found["hits"]} == set(FOLDERS) and not found["partial"]
    for hit in found["hits"]:
        alone = client.get(f"/v1/images/{hit['index_row_id']}?index={hit['index']}&index_id={hit['index_id']}").json()
        assert alone["path"] == hit["path"]


def test_row_ids_of_all_indexes_are_taken_wherever_pictures_are_named(client: TestClient) -> None:
    hit, other = ask(client, query="red", unique=False, all=True)["hits"][:2]
    assert {hit["index"], other["index"]} == set(FOLDERS)
    jpeg = client.get(hit["thumbnail"])
    assert jpeg.status_code == 200 and jpeg.headers["content-type"] == "image/jpeg"
    assert client.get(f"/v1/images/{hit['row_id']}?index=*").json()["path"] == hit["path"]
    similar = ask(client, "/v1/similar", row_id=hit["row_id"])["hits"]
    assert similar[0]["row_id"] == other["row_id"] and len(similar) == 6
    assert ask(client, query=f"like:{hit['row_id']}")["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert ask(client, query="", like=[hit["row_id"]], unlike=[other["row_id"]], all=True)["total"] == 7
    views = client.get(f"/v1/images/{hit['row_id']}/views?index=*").json()["views"]
    assert [view["row_id"] for view in views] == [hit["row_id"]]
    assert client.get(f"/v1/images/{hit['row_id']}/words?index=*").json()["lines"] == []
    exported = client.post("/v1/export", json={"index": ALL, "ids": [hit["row_id"], other["row_id"]], "form": "paths"})
    assert exported.text.split() == [hit["path"], other["path"]]
    for wrong in (0, 5):
        assert client.get(f"/v1/images/{wrong}/thumbnail?index=*").status_code == 400
        assert "is not a picture" in ask(client, "/v1/similar", 400, row_id=wrong)["message"]


@pytest.mark.slow
def test_row_ids_are_refused_once_a_copy_of_an_index_is_served_instead(
    indexes: list[Path], encoder: FakeEncoder, tmp_path: Path
) -> None:
    """The copy has other pictures since then, and the same id."""
    here, there = indexes
    copied = tmp_path / "copied"
    shutil.copytree(here.parent, copied)
    (copied / "red.png").unlink()
    plain(COLOURS["grey"]).save(copied / "grey.png")
    clipsearch.index(copied, encoder=encoder)
    copy = copied / ".clipsearch"
    known: dict[str, str] = {}
    for served in ([here, copy], [copy, here], [here, there], [there, copy], [copy, there]):
        with TestClient(create_app(served, encoder=encoder), base_url="http://127.0.0.1:7860") as client:
            for hit in ask(client, query="red", all=True)["hits"]:
                assert known.setdefault(hit["row_id"], hit["path"]) == hit["path"]
            state = client.get("/v1/status").json()["together"]["id"]
            assert known.setdefault(state, str(sorted(served))) == str(sorted(served))
    with TestClient(create_app([there, copy], encoder=encoder), base_url="http://127.0.0.1:7860") as client:
        of_both = next(name for name, what in known.items() if what == str(sorted([here, there])))
        ask(client, query="red", index_id=of_both, status=409)


@pytest.mark.slow
def test_the_page_counts_groups_and_sorts_over_all_indexes(client: TestClient) -> None:
    facets = ask(client, "/v1/gallery/facets")
    assert facets["total"] == 7 and facets["facets"]["type"][0]["count"] == 7
    rows = ask(client, "/v1/gallery/rows", query="", sort="path")
    listed = ask(client, query="", sort="path")["hits"]
    assert rows["ids"] == [hit["row_id"] for hit in listed]
    assert [Path(hit["path"]).parent.name for hit in listed] == ["here"] * 3 + ["there"] * 4
    assert ask(client, "/v1/gallery", timeline=True)["timeline"]["months"][0][1] == 7
    assert ask(client, "/v1/suggest", word="ext:p")["suggestions"][0]["count"] == 7
    drawn = ask(client, "/v1/gallery/map")
    assert sorted(drawn["ids"]) == sorted(rows["ids"])


def test_what_is_done_in_one_index_is_refused_in_a_sentence(client: TestClient) -> None:
    ids = ask(client, "/v1/gallery/rows")["ids"]
    for route, body in {
        "/v1/concepts": {"name": "mine", "like": ids[:1]},
        "/v1/searches": {"name": "mine", "query": "red"},
    }.items():
        told = ask(client, route, 400, **body)
        assert told["error"] == "OneIndexOnly" and told["message"].endswith("Name one of them: here, there")
    assert client.get("/v1/skipped?index=*").json()["error"] == "OneIndexOnly"
    assert ask(client, status=400, at_least_generation=1)["error"] == "OneIndexOnly"
    assert ask(client, status=409, index_id="0" * 32)["error"] == "OtherIndex"


@pytest.mark.slow
def test_new_pictures_of_one_index_are_found_among_all(
    client: TestClient, indexes: list[Path], encoder: FakeEncoder
) -> None:
    before = ask(client, query="purple", all=True)["hits"]
    plain(COLOURS["purple"]).save(indexes[1].parent / "purple.png")
    clipsearch.index(indexes[1].parent, encoder=encoder)
    service = client.app.state.service  # type: ignore[attr-defined]
    service.engine.index("there").reload(wait=True)
    after = ask(client, query="purple", all=True)["hits"]
    assert after[0]["name"] == "purple.png" and len(after) == len(before) + 1
    names = {hit["row_id"]: hit["path"] for hit in after}
    assert all(names[hit["row_id"]] == hit["path"] for hit in before)


def test_an_index_that_cannot_be_read_is_left_out_of_the_answer_and_named(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask(client, query="red", all=True)
    assert len(whole["hits"]) == 7
    nearest = SharedCollection.nearest

    def fail(self: SharedCollection, *args: Any, **more: Any) -> Any:
        if self.root.name == "here":
            raise OSError(5, "Input/output error")
        return nearest(self, *args, **more)

    monkeypatch.setattr(SharedCollection, "nearest", fail)
    partial = ask(client, query="blue", all=True)
    assert {hit["index"] for hit in partial["hits"]} == {"there"} and len(partial["hits"]) == 4
    assert partial["partial"] and partial["missing"] == [{"index": "here", "reason": "Input/output error"}]
    assert "here was not searched: Input/output error" in partial["notices"]


@pytest.mark.slow
def test_assistants_search_all_indexes(client: TestClient) -> None:
    async def call() -> Any:
        service = client.app.state.service  # type: ignore[attr-defined]
        async with Client(assistant_server(service)) as assistant:
            return await assistant.call_tool("search", {"query": "red", "index": ALL, "all": True})

    answer = anyio.run(call).structured_content
    assert len(answer["hits"]) == 7 and {hit["index"] for hit in answer["hits"]} == set(FOLDERS)


@pytest.mark.slow
def test_indexes_of_different_models_are_served_one_by_one(indexes: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    plain(COLOURS["red"]).save(other / "red.png")
    clipsearch.index(other, encoder=FakeEncoder(seed=3, name="other"))
    together = TestClient(create_app(indexes[:1], encoder=FakeEncoder()), base_url="http://127.0.0.1:7860")
    with together:
        assert together.get("/v1/status").json()["together"] is None
        engine = together.app.state.service.engine  # type: ignore[attr-defined]
        engine._given = None
        others = FakeEncoder(seed=3, name="other")
        engine.open = lambda index: SharedCollection(index, others, lambda kind, items: None)
        engine.add(other / ".clipsearch")
        told = together.get("/v1/status").json()["together"]
        assert told["id"] is None and f"the index {other}" in told["problem"]
        assert ask(together, status=400, query="red")["error"] == "MixedModels"


@pytest.mark.slow
def test_the_status_tells_of_all_indexes_together(client: TestClient) -> None:
    told = client.get("/v1/status").json()["together"]
    found = ask(client, query="red")
    assert told == {
        "name": ALL,
        "id": found["index_id"],
        "generation": found["generation"],
        "pictures": 7,
        "problem": None,
    }


@pytest.mark.slow
def test_nothing_is_kept_open_for_searches_of_all(client: TestClient) -> None:
    ask(client, query="red")
    engine = client.app.state.service.engine  # type: ignore[attr-defined]
    with engine.lease(ALL) as together:
        assert isinstance(together, Together)
        parts: list[Collection] = [one for one, _ in together.parts]
    with engine.lease(ALL) as again:
        assert again is together
        again.search("red", 1)
    assert all(len(one.search("red", 1)) == 1 for one in parts)  # none was closed


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


@pytest.fixture
def folders(tmp_path: Path, commands: Commands) -> list[Path]:
    """Indexed by commands, whose model is another than that of other tests."""
    for name, colours in FOLDERS.items():
        (tmp_path / name).mkdir()
        for colour in colours:
            plain(COLOURS[colour]).save(tmp_path / name / f"{colour}.png")
        commands.index(tmp_path / name)
    return [tmp_path / name for name in FOLDERS]


@pytest.mark.slow
def test_a_command_shows_in_which_folder_a_hit_is(commands: Commands, folders: list[Path]) -> None:
    named = [word for folder in folders for word in ("--index", folder)]
    shown = commands.run("query", "red", "--all", *named, cwd=folders[0].parent)
    assert shown.status == 0, shown.err
    assert {line.split()[-2] for line in shown.out.splitlines()} == {"here:", "there:"}
    assert [line.split()[-1] for line in shown.out.splitlines()][:2] == ["red.png", "red.png"]
    hits = commands.run("query", "red", "--all", "--json", *named).json()
    assert len(hits) == 7 and {hit["index"] for hit in hits} == {str(folder / ".clipsearch") for folder in folders}
    alone = commands.run("similar", str(hits[3]["index_row_id"]), "--index", hits[3]["index"], "--json")
    together = commands.run("similar", str(hits[3]["row_id"]), *named, "--json")
    assert len(alone.json()) < len(together.json()) == 6
    table = commands.run("query", "red", "--all", "--csv", *named).out.splitlines()
    assert table[0].endswith(",index,index_id,index_row_id") and len(table) == 8
    assert set(commands.run("query", "red", "--all", "--paths", *named).out.split()) == {hit["path"] for hit in hits}


@pytest.mark.slow
def test_a_command_answers_without_an_index_that_is_away(commands: Commands, folders: list[Path]) -> None:
    away = folders[0].parent / "away"
    found = commands.run(
        "query", "red", "--all", "--json", "--index", away, "--index", folders[0], "--index", folders[1]
    )
    assert len(found.json()) == 7 and found.status == 0
    assert f"{away} was not searched: no index found" in found.err
    nothing = commands.run("query", "red", "--index", away, "--index", away / "further")
    assert nothing.status == 1 and "no index found" in nothing.err


def test_a_command_that_works_with_one_index_takes_no_second(commands: Commands, folders: list[Path]) -> None:
    for words in (["status"], ["export", "out.parquet"], ["dedupe"], ["concept", "list"], ["saved", "list"]):
        done = commands.run(*words, "--index", folders[0], f"--index={folders[1]}")
        assert done.status == 2 and "--index can be given only once here" in done.err, words


@pytest.mark.slow
def test_a_saved_search_is_that_of_the_first_index_that_has_it(commands: Commands, folders: list[Path]) -> None:
    assert commands.run("saved", "add", "mine", "red", "--index", folders[1]).status == 0
    named = [word for folder in folders for word in ("--index", folder)]
    assert commands.run("query", "--saved", "mine", "--all", "--json", *named).json()[0]["name"] == "red.png"
    assert "there is no saved search 'other'" in commands.run("query", "--saved", "other", *named).err
    folders[0].rename(folders[0].with_name("away"))
    found = commands.run("query", "--saved", "mine", "--all", "--json", *named)
    assert found.json()[0]["name"] == "red.png" and f"{folders[0]} was not searched" in found.err


@pytest.mark.parametrize("first", ["away", "damaged"])
def test_a_saved_search_is_found_though_another_index_cannot_be_read(
    first: str, indexes: list[Path], commands: Commands
) -> None:
    there = indexes[1]
    assert commands.run("saved", "add", "mine", "red", "--index", there).status == 0
    if first == "away":
        indexes[0].parent.rename(indexes[0].parent.with_name("elsewhere"))
    else:
        shutil.rmtree(indexes[0] / "manifests")
    for named in ([indexes[0], there], [there, indexes[0]]):
        assert saved_search(named, "mine").query == "red"
        with pytest.raises(UnknownSearch, match=rf"no saved search 'other'. There are: mine. .*{indexes[0]}"):
            saved_search(named, "other")
    with pytest.raises((IndexNotFound, CorruptIndex)):
        saved_search([indexes[0]], "mine")


@pytest.mark.slow
def test_a_remote_collection_of_all_indexes_is_the_local_one(indexes: list[Path], encoder: FakeEncoder) -> None:
    with (
        serving(indexes, encoder) as (url, _),
        clipsearch.connect(url, index=ALL) as remote,
        clipsearch.open(indexes, encoder=encoder) as local,
    ):
        hits = remote.search("red", all=True)
        assert [hit.path for hit in hits] == [hit.path for hit in local.search("red", all=True)]
        assert {hit.found_in and hit.found_in.index for hit in hits} == set(FOLDERS)
        assert (len(remote), remote.root, remote.generation) == (len(local), local.root, local.generation)
        assert remote.similar(hits[0])[0].path == local.similar(hits[0].record.row_id)[0].path
        assert remote.thumbnail(hits[0])[:2] == b"\xff\xd8"


@pytest.mark.slow
def test_where_words_and_parts_of_a_picture_of_several(client: TestClient) -> None:
    hit = ask(client, query="blue")["hits"][0]
    row_id = hit["row_id"]
    found = ask(client, "/v1/where", query="blue", row_id=row_id, content=hit["content_hash"])
    assert (found["row_id"], found["width"], found["band"]) == (row_id, hit["width"], hit["band"])
    assert client.get(f"/v1/images/{row_id}/words", params={"index": ALL}).json()["lines"] == []
    (part,) = client.get(f"/v1/images/{row_id}/views", params={"index": ALL}).json()["views"]
    assert part["row_id"] == row_id and client.get(part["thumbnail"]).status_code == 200


@pytest.mark.slow
def test_a_server_serves_what_is_there_and_the_rest_when_it_comes(
    indexes: list[Path], encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.server.engine.RETRY_S", 0.0)
    folder, away = indexes[1].parent, tmp_path / "away"
    folder.rename(away)
    with TestClient(create_app([folder, indexes[0]], encoder=encoder), base_url="http://127.0.0.1:7860") as client:
        found = ask(client, query="red", all=True)
        assert len(found["hits"]) == 3 and found["partial"]
        assert [one["index"] for one in found["missing"]] == [str(folder)]
        state = client.get("/v1/status").json()
        assert [one["name"] for one in state["indexes"]] == ["here"] and state["together"]["pictures"] == 3
        assert state["missing"][0]["reason"].startswith("no index found")
        away.rename(folder)
        deadline = time.monotonic() + 120
        while ask(client, query="red", all=True)["partial"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(ask(client, query="red", all=True)["hits"]) == 7
        assert client.get("/v1/status").json()["missing"] == []
    with pytest.raises(IndexNotFound):
        create_app([tmp_path / "nowhere", tmp_path / "neither"], encoder=encoder)


def test_an_answer_between_the_return_of_an_index_and_the_word_of_it_is_not_kept(
    indexes: list[Path], encoder: FakeEncoder
) -> None:
    with Engine(indexes[:2], encoder=encoder) as engine:
        engine.absent = {indexes[1]: "away"}  # found, and not taken from the list yet
        with engine.lease(ALL) as photos:
            assert list(photos.missing) == [str(indexes[1])]
        engine.absent = {}
        with engine.lease(ALL) as photos:
            assert not photos.missing
        with engine.lease(ALL) as again:
            assert again is photos


def test_a_part_that_could_not_be_read_for_a_while_is_asked_again(
    indexes: list[Path], encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(indexes[:2], encoder=encoder) as engine:
        engine.wait_until_warm()

        def fails(*_: Any, **__: Any) -> Any:
            raise CorruptIndex(indexes[1], "cannot be read just now")

        with engine.lease(ALL) as photos, monkeypatch.context() as broken:
            broken.setattr(photos.parts[1][0], "nearest", fails)
            photos.search("red", all=True)
            assert len(photos.missing) == 1
        with engine.lease(ALL) as photos:
            assert len(photos.missing) == 1
        monkeypatch.setattr("clipsearch.server.engine.RETRY_S", 0.0)
        with engine.lease(ALL) as photos:
            assert not photos.missing and len(photos.search("red", all=True)) == 7


def test_places_that_are_named_may_be_away_but_not_all(indexes: list[Path], tmp_path: Path) -> None:
    here, new, away = indexes[0].parent, tmp_path / "new", tmp_path / "away"
    new.mkdir()
    assert found_indexes([away, here]) == [away, indexes[0]]
    assert places_to_show([here, away]) == ([indexes[0], away], None)
    assert places_to_show([new, here]) == ([indexes[0]], new)
    for ask_for in (found_indexes, places_to_show):
        with pytest.raises(IndexNotFound):
            ask_for([away, tmp_path / "further"])
