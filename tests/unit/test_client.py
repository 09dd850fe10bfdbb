"""The typed client against a whole server, compared with a local collection."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

import clipsearch
from clipsearch.errors import AccessDenied, IndexNotFound, InvalidArgument, InvalidQuery, ServerError, UnreadablePicture
from clipsearch.remote import RemoteCollection
from clipsearch.search.collection import Collection
from clipsearch.server.app import ServerOptions, create_app
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import fill, plain

LOCAL = "http://127.0.0.1:7860"
TOKEN = "a-token-of-some-length"


@pytest.fixture
def index(photos: Path, encoder: FakeEncoder) -> Path:
    fill(photos, 12)
    for name in ("red", "blue"):
        plain(COLOURS[name]).save(photos / f"{name}.png")
    return clipsearch.index(photos, encoder=encoder).index


@pytest.fixture
def server(index: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    with TestClient(create_app([index], encoder=encoder, options=ServerOptions(token=TOKEN)), base_url=LOCAL) as server:
        yield server


def through(server: TestClient) -> httpx.MockTransport:
    """What carries requests to a server in this process."""

    def carry(request: httpx.Request) -> httpx.Response:
        headers = list(request.headers.items())
        answer = server.request(request.method, str(request.url), content=request.read(), headers=headers)
        return httpx.Response(answer.status_code, headers=list(answer.headers.items()), content=answer.content)

    return httpx.MockTransport(carry)


@pytest.fixture
def remote(server: TestClient) -> Iterator[RemoteCollection]:
    with RemoteCollection(LOCAL, token=TOKEN, transport=through(server)) as remote:
        yield remote


@pytest.fixture
def local(index: Path, encoder: FakeEncoder) -> Iterator[Collection]:
    with clipsearch.open(index, encoder=encoder) as local:
        yield local


def test_it_answers_as_a_local_collection(remote: RemoteCollection, local: Collection, photos: Path) -> None:
    def shown(hits: list[clipsearch.Hit]) -> list[object]:
        return [
            (h.rank, h.path, h.record.row_id, h.record.content_hash, pytest.approx(h.score, abs=2e-6)) for h in hits
        ]

    for query in ("red", "red - blue", "name:p0000* blue", Path(photos / "red.png")):
        for everything in (False, True):
            there, here = remote.search(query, 5, all=everything), local.search(query, 5, all=everything)
            assert shown(there) == shown(here)
            assert [hit.band for hit in there] == [hit.band for hit in here]
            assert [hit.confidence for hit in there] == pytest.approx([hit.confidence for hit in here], abs=1e-3)
    for options in ({"unique": True}, {"diverse": True}, {"like": [1], "unlike": [2]}, {"sort": "path"}):
        assert shown(remote.search("red", 5, all=True, **options)) == shown(local.search("red", 5, all=True, **options))
    assert [h.path for h in remote.search("ext:png")] == [h.path for h in local.search("ext:png")]
    assert np.isnan(remote.search("ext:png")[0].score)
    assert len(remote) == len(local) == 14


def test_records_vectors_and_thumbnails(remote: RemoteCollection, local: Collection, encoder: FakeEncoder) -> None:
    row = local.search("red", 1)[0].record.row_id
    assert row not in [hit.record.row_id for hit in remote.similar(row, 20)]
    assert remote.record(row).path == local.record(row).path == "red.png"
    assert remote.record(row).metadata == local.record(row).metadata
    np.testing.assert_array_equal(remote.vector(row), local.vector(row))
    np.testing.assert_array_equal(remote.encode_texts(["red", "x"]), encoder.encode_texts(["red", "x"]))
    assert remote.thumbnail(row, 128).startswith(b"\xff\xd8")
    assert remote.status()["indexes"][0]["name"] == "photos"


def test_errors_are_those_of_a_local_collection(
    remote: RemoteCollection, local: Collection, server: TestClient, tmp_path: Path
) -> None:
    with pytest.raises(InvalidQuery) as here:
        local.search("dog (ext:jpg or")
    with pytest.raises(InvalidQuery) as there:
        remote.search("dog (ext:jpg or")
    assert str(here.value) == str(there.value)
    for ask in (remote.record, remote.vector, remote.similar, remote.thumbnail):
        with pytest.raises(KeyError):
            ask(999)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for bad in (tmp_path / "bad.jpg", tmp_path / "missing.jpg"):
        with pytest.raises(UnreadablePicture):
            remote.search(bad)
    elsewhere = RemoteCollection(LOCAL, token=TOKEN, index="other", transport=through(server))
    with pytest.raises(IndexNotFound):
        elsewhere.search("red")
    with pytest.raises(AccessDenied, match="token"):
        RemoteCollection(LOCAL, transport=through(server)).search("red")


def test_a_server_that_is_not_there_or_is_none() -> None:
    with clipsearch.connect("http://127.0.0.1:9", timeout_s=2) as remote, pytest.raises(ServerError, match="serve"):
        remote.search("red")
    stranger = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    with pytest.raises(ServerError, match="not a clipsearch server"):
        RemoteCollection(LOCAL, transport=stranger).search("red")


STRANGERS: dict[str, Any] = {
    "a health page": {"status": "ok"},
    "indexes": {"indexes": None},
    "index": {"indexes": [{"name": "x"}], "hits": [{}], "notices": None},
    "nulls": {"hits": None, "index_id": "x", "generation": 1, "notices": [], "vectors": None, "dim": 3},
    "no vectors": {"hits": [], "index_id": "x", "generation": 1, "notices": [], "vectors": [], "dim": 3},
    "words": {"hits": [{"path": 1}], "index_id": "x", "vectors": [["a"]], "dim": 1, "indexes": [{"pictures": "many"}]},
}
CALLS: dict[str, Callable[[RemoteCollection], Any]] = {
    "search": lambda photos: photos.search("red"),
    "len": len,
    "root": lambda photos: photos.root,
    "tags": lambda photos: photos.tags,
    "generation": lambda photos: photos.generation,
    "vector": lambda photos: photos.vector(1),
    "vectors": lambda photos: photos.vectors([1]),
    "encode_text": lambda photos: photos.encode_text("red"),
    "encode_picture": lambda photos: photos.encode_picture(plain(COLOURS["red"])),
    "record": lambda photos: photos.record(1),
    "thumbnail": lambda photos: photos.thumbnail(1),
    "similar": lambda photos: photos.similar(1),
    "where": lambda photos: photos.where("red", 1),
    "notices": lambda photos: photos.notices("red"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_a_stranger_answers_is_an_error_of_ours(stranger: str, call: str) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=STRANGERS[stranger]))
    with RemoteCollection(LOCAL, transport=transport) as remote:
        if (stranger, call) in {("no vectors", "search"), ("no vectors", "similar"), ("no vectors", "notices")}:
            assert not CALLS[call](remote)
        elif (stranger, call) == ("nulls", "notices"):
            assert CALLS[call](remote) == []
        else:
            with pytest.raises(ServerError, match="not a clipsearch server"):
                CALLS[call](remote)


@pytest.mark.parametrize("kind", ["MalformedQuery", "UnreadablePicture", "NoSuchPicture", "ClipsearchError", "int"])
def test_an_error_that_lacks_what_ours_have_is_one_of_ours(kind: str) -> None:
    body = {"error": kind, "message": "no", "fields": {}}
    transport = httpx.MockTransport(lambda request: httpx.Response(400, json=body))
    with RemoteCollection(LOCAL, transport=transport) as remote:
        for call in CALLS.values():
            with pytest.raises(clipsearch.ClipsearchError):
                call(remote)


def test_a_password_in_an_address_is_sent_and_not_shown() -> None:
    sent: list[str] = []

    def carry(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization", ""))
        return httpx.Response(500, text="no")

    with RemoteCollection("http://me:se%40cret@photos.example/x@y", transport=httpx.MockTransport(carry)) as remote:
        assert remote.url == "http://photos.example/x@y"
        with pytest.raises(ServerError) as caught:
            remote.search("red")
        assert sent == ["Basic " + base64.b64encode(b"me:se@cret").decode()]
        assert "cret" not in repr(remote) + str(caught.value) + str(vars(caught.value))
    for url in ("http://me:secret@127.0.0.1:99999", "http://me:se/cret@h", "ftp://me:secret@h", "me:secret@h"):
        with pytest.raises(InvalidArgument) as refused:
            clipsearch.connect(url)
        assert "cret" not in str(refused.value) + str(vars(refused.value)), url


def test_patience_may_be_without_end_and_not_nothing() -> None:
    for endless in (float("inf"), 1e300):
        with clipsearch.connect("http://127.0.0.1:9", timeout_s=endless) as remote, pytest.raises(ServerError):
            remote.search("red")
    with pytest.raises(InvalidArgument, match="timeout_s"):
        clipsearch.connect(LOCAL, timeout_s=0)


def test_a_server_that_is_slow_is_not_said_to_be_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with clipsearch.connect(address, timeout_s=0.1) as remote, pytest.raises(ServerError) as caught:
            remote.search("red")
    assert "did not answer within 0.1 s" in str(caught.value) and "reached" not in str(caught.value)


def test_where_a_server_sends_on_to_is_said() -> None:
    moved = httpx.MockTransport(lambda request: httpx.Response(301, headers={"location": "https://photos.example/v1"}))
    with (
        RemoteCollection(LOCAL, transport=moved) as remote,
        pytest.raises(ServerError, match=r"https://photos\.example"),
    ):
        remote.search("red")


def test_names_that_are_not_utf8_arrive_whole(photos: Path, encoder: FakeEncoder) -> None:
    plain(COLOURS["red"]).save(photos / "a.png")
    (photos / "a.png").rename(photos / b"caf\xe9 \xf0\x9f\x98\x80.png".decode("utf-8", "surrogateescape"))
    index = clipsearch.index(photos, encoder=encoder).index
    with (
        TestClient(create_app([index], encoder=encoder), base_url=LOCAL) as server,
        RemoteCollection(LOCAL, transport=through(server)) as remote,
        clipsearch.open(index, encoder=encoder) as local,
    ):
        (there,), (here,) = remote.search("ext:png"), local.search("ext:png")
        assert (there.path, there.record.path) == (here.path, here.record.path)
        assert there.record.metadata == here.record.metadata
        assert Path(there.path).is_file()


def test_notices_come_with_the_answer(server: TestClient, remote: RemoteCollection) -> None:
    (line,) = remote.notices("red camara:canon")
    assert "camera:canon" in line
    answer = server.post(
        "/v1/search", json={"query": "date:2023", "all": True}, headers={"Authorization": f"Bearer {TOKEN}"}
    ).json()
    assert len(answer["notices"]) == 1 and "after:2023 before:2024" in answer["notices"][0]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:73527",  # 7991 + 65536: a socket takes the rest of a division
        "http://127.0.0.1:65536",
        "http://127.0.0.1:0",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:x",
        "http://127.0.0.1:7860:7860",
        "http://[::1",
        "http://",
        "http:///v1",
        "http://:7860",
        "http://127.0.0.1:7860/?index=scans",
        "http://127.0.0.1:7860/#top",
        "http://a..b/",
        "http://" + "a" * 70 + ".example/",
        "http://a b/",
        "http://127.0.0.1:7860\n/x",
        "http://127.0.0.1:7860/\x7f",
        "ftp://127.0.0.1:7860",
        "file:///etc/passwd",
        "127.0.0.1:7860",
        "localhost",
        "//127.0.0.1:7860",
        "",
        " ",
        "\0",
    ],
)
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        clipsearch.connect(url)
    assert caught.value.name == "url" and "http://127.0.0.1:7860" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:7860/", "https://[::1]:443/photos", "HTTP://photos.example", "http://b\u00fccher.example:80"],
)
def test_addresses_are_taken(url: str) -> None:
    with clipsearch.connect(url) as remote:
        assert remote.url == url.rstrip("/")


@pytest.mark.parametrize(
    "token",
    [
        "a\nb",
        "secret\r\nX: y",
        "secret\n",
        " secret",
        "secret ",
        "secret\0",
        "\x7f",
        "a\tb\x1b",
        b"secret",
        "secret\ud800",
    ],
)
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        clipsearch.connect(LOCAL, token)
    assert caught.value.name == "token"
    assert "secret" not in str(caught.value) and "secret" not in str(vars(caught.value))


def test_a_closed_remote_collection_says_so(remote: RemoteCollection) -> None:
    assert "closed" not in repr(remote)
    remote.close()
    assert repr(remote) == f"<RemoteCollection at {LOCAL}, closed>"


@pytest.mark.parametrize("lacks", ["kept", "row_id", "mtime_ns"])
def test_a_server_of_another_version_is_no_mistake_of_ours(server: TestClient, lacks: str) -> None:
    whole = through(server)

    def carry(request: httpx.Request) -> httpx.Response:
        answer = whole.handle_request(request).json()
        for picture in (answer, *answer.get("hits", ())):
            picture.pop(lacks, None)
        return httpx.Response(200, json=answer)

    with RemoteCollection(LOCAL, token=TOKEN, transport=httpx.MockTransport(carry)) as remote:
        calls: list[Callable[[], Any]] = [
            lambda: remote.search("red"),
            lambda: remote.similar(1),
            lambda: remote.record(1),
        ]
        for call in calls:
            with pytest.raises(ServerError, match="another version"):
                call()
