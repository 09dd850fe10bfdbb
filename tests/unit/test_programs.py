"""What programs call through Gradio, from another process: its own client against a server that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import clipsearch
from clipsearch.ui import endpoints
from clipsearch.ui.page import add_page
from clipsearch.ui.programs import Programs
from tests.support.collections import serving, varied_index
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_main import DIM

gradio_client = pytest.importorskip("gradio_client")
ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False, analytics_enabled=False)
answers = [sorted(client.view_api(return_format="dict", print_info=False)["named_endpoints"])]
for arguments, options in json.load(sys.stdin):
    job = client.submit(*arguments, **options)
    try:
        answers.append({"found": job.result(), "said": job.outputs()})
    except Exception as error:
        answers.append({"error": getattr(error, "title", type(error).__name__), "message": str(error)})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs") / "photos"
    varied_index(folder, FakeEncoder(dim=DIM))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder / ".clipsearch", FakeEncoder(dim=DIM), interface=add_page) as (url, _):
        yield url


def call(address: str, *calls: tuple[list[Any], dict[str, Any]]) -> list[Any]:
    """The endpoints, and what each call gives to a program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, address], input=json.dumps(calls), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


def told(hit: dict[str, Any]) -> dict[str, Any]:
    return {("file" if name == "path" else name): value for name, value in hit.items() if name not in ("others",)}


def test_the_stream_of_an_unknown_session_ends_without_a_traceback(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = httpx.get(f"{address}/gradio_api/queue/data", params={"session_hash": "nobody"}, timeout=60)
    assert "Not Found" in answer.text
    assert not [record for record in caplog.records if record.exc_info or record.name.startswith("uvicorn")]


def test_names_that_are_no_text_have_their_bytes_beside_them() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (hit,) = endpoints.as_told([{"path": f"/photos/{name}", "name": name, "others": []}])
    assert bytes.fromhex(hit["file_bytes"]) == b"/photos/caf\xe9.jpg"
    assert bytes.fromhex(hit["name_bytes"]) == b"caf\xe9.jpg"
    json.dumps(hit).encode("utf-8")
    assert not any(name.startswith("path") for name in hit)


@pytest.mark.slow
def test_another_process_gets_what_python_gets(address: str, folder: Path) -> None:
    search = {"api_name": "/search"}
    queries: list[tuple[list[Any], dict[str, Any]]] = [
        (["red"], {}),
        (["red - blue", 5], {"all": True}),
        (["red folder:trips"], {"k": 7, "offset": 3}),
        (["blue"], {"sort": "path", "unique": True}),
        (["red"], {"like": [3], "unlike": [9], "diverse": 0.5, "all": True}),
        (["red"], {"min_confidence": 0.5, "k": 100}),
        (["a submarine"], {"unlike": [0, 140]}),
    ]
    answers = call(address, *((given, {**options, **search}) for given, options in queries))
    assert answers[0] == ["/classify", "/embed", "/index", "/search", "/similar", "/status"]
    with clipsearch.open(folder, encoder=FakeEncoder(dim=DIM)) as photos:
        for (given, options), answer in zip(queries, answers[1:], strict=True):
            expected = [told(hit.to_dict()) for hit in photos.search(*given, **options)]
            found = [told(hit) for hit in answer["found"]]
            assert expected
            for one, other in zip(expected, found, strict=True):
                assert other.pop("thumbnail").startswith("/v1/images/") and other.pop("kept")
                close = {name: pytest.approx(one.pop(name), abs=1e-3) for name in ("score", "confidence")}
                assert other == {**one, **close}


@pytest.mark.slow
def test_the_other_endpoints_answer_as_well(address: str, folder: Path) -> None:
    import base64

    with clipsearch.open(folder, encoder=FakeEncoder(dim=DIM)) as photos:
        row = photos.search("red", 1)[0].record.row_id
        near = [hit.record.row_id for hit in photos.similar(row, 5)]
        vectors = photos.encode_texts(["red", "a dog"]).tolist()
        path = next(photos.root / record.path for record in photos if (photos.root / record.path).is_file())
        of_file = photos.encode_picture(path).tolist()
        newest = [hit.record.row_id for hit in photos.search("", 3)]
    sent = base64.b64encode(path.read_bytes()).decode()
    identity = httpx.get(f"{address}/v1/status", trust_env=False).json()["indexes"][0]["id"]
    answers = call(
        address,
        ([row], {"k": 5, "index_id": identity, "api_name": "/similar"}),
        ([], {"path": str(path), "k": 2, "api_name": "/similar"}),
        ([], {"picture": f"data:image/png;base64,{sent}", "k": 2, "api_name": "/similar"}),
        ([["red", "a dog"]], {"api_name": "/embed"}),
        ([], {"picture": sent, "api_name": "/embed"}),
        ([["red", "blue"], "red", 2], {"api_name": "/classify"}),
        ([["red|crimson", "blue"]], {"k": 3, "api_name": "/classify"}),
        ([["red", "blue"]], {"row_ids": [row, 7], "index_id": identity[:8], "api_name": "/classify"}),
        ([], {"api_name": "/status"}),
    )[1:]
    found = [answer["found"] for answer in answers]
    assert [hit["row_id"] for hit in found[0]] == near
    assert len(found[1]) == len(found[2]) == 2
    assert found[3] == [pytest.approx(vector, abs=1e-6) for vector in vectors]
    assert found[4] == [pytest.approx(of_file, abs=1e-6)]
    assert [one["label"] for one in found[5]] == ["red", "red"]
    assert found[5][0]["probabilities"] == {"red": pytest.approx(1, abs=0.1), "blue": pytest.approx(0, abs=0.1)}
    assert [one["row_id"] for one in found[6]] == newest
    assert [one["row_id"] for one in found[7]] == [row, 7]
    assert found[8]["indexes"][0]["pictures"] == 300


@pytest.mark.slow
def test_errors_are_those_of_the_library(address: str) -> None:
    answers = call(
        address,
        (["dog (ext:jpg or"], {"api_name": "/search"}),
        (["red", 0], {"api_name": "/search"}),
        (["red"], {"index": "nowhere", "api_name": "/search"}),
        ([999], {"api_name": "/similar"}),
        ([1], {"path": "x", "api_name": "/similar"}),
        ([], {"picture": "not a picture", "api_name": "/similar"}),
        ([], {"picture": "bm8gcGljdHVyZQ==", "api_name": "/embed"}),
        ([["one"]], {"api_name": "/classify"}),
        ([["red", "red"]], {"api_name": "/classify"}),
        ([], {"index": "nowhere", "api_name": "/index"}),
        (["red"], {"like": [3], "index_id": "0" * 32, "api_name": "/search"}),
        ([3], {"index_id": "0" * 32, "api_name": "/similar"}),
        ([["red", "blue"]], {"row_ids": [3], "index_id": "0" * 32, "api_name": "/classify"}),
        (["red"], {"index_id": "short", "api_name": "/search"}),
    )[1:]
    assert [answer["error"] for answer in answers] == [
        "MalformedQuery",
        "InvalidQuery",
        "UnknownIndex",
        "NoSuchPicture",
        "InvalidQuery",
        "InvalidQuery",
        "UnreadablePicture",
        "WrongInput",
        "InvalidLabels",
        "UnknownIndex",
        *3 * ["OtherIndex"],
        "WrongInput",
    ]
    assert "dog (ext:jpg or\n" in answers[0]["message"]


@pytest.mark.slow
def test_a_run_is_streamed_and_its_pictures_are_found(photos: Path, encoder: FakeEncoder) -> None:
    from tests.support.pictures import fill

    fill(photos, 3)
    index = clipsearch.index(photos, encoder=encoder).index
    fill(photos, 40)
    with serving(index, encoder, interface=add_page) as (url, _):
        run, status = call(url, ([], {"api_name": "/index"}), ([], {"api_name": "/status"}))[1:]
    stages = [said["stage"] for said in run["said"]]
    assert stages[0] == "scan" and stages[-1] == "done" and len(stages) > 2
    assert (run["found"]["indexed"], run["found"]["pictures"]) == (37, 40)
    assert status["found"]["indexes"][0]["pictures"] == 40


@pytest.mark.slow
def test_the_documentation_names_the_parameters_of_every_endpoint(address: str) -> None:
    rows = re.findall(r"^\| `(/\w+)` \| (.*) \|$", (ROOT / "docs" / "ui.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = httpx.get(f"{address}/gradio_api/info", trust_env=False).json()["named_endpoints"]
    assert sorted(name for name, _ in rows) == sorted(named)
    for name, row in rows:
        parameters = {parameter["parameter_name"] for parameter in named[name]["parameters"]}
        assert set(re.findall(r"`(\w+)`", row)) == parameters, name


@pytest.mark.slow
def test_calls_that_are_none_are_refused_in_json_and_not_logged(
    address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with httpx.Client(base_url=address, timeout=60) as http:
        assert http.get("/config").status_code == 200
        functions = len(http.get("/gradio_api/info").json()["named_endpoints"])
        capfd.readouterr()
        file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
        session = {"session_hash": "x"}
        for path, body, status in (
            ("queue/join", {"data": [], "fn_index": 99, **session}, 404),
            ("queue/join", {"data": [], "fn_index": True, **session}, 404),
            ("queue/join", {"data": [], "fn_index": -1, **session}, 404),
            ("queue/join", {"data": [file] * 10, "fn_index": 0, **session}, 422),
            ("queue/join", {"data": [[[file]]] * 10, "fn_index": 0, **session}, 422),
            ("queue/join", {"data": ["red"], "fn_index": 0, **session}, 422),
            ("queue/join", {"data": {}, "fn_index": 0, **session}, 422),
            ("queue/join", [], 422),
            ("queue/join", {}, 404),
            ("call/nowhere", {"data": []}, 404),
            ("call/status", {"data": [1]}, 422),
            ("call/search", {}, 422),
            ("cancel", {}, 422),
        ):
            answer = http.post(f"/gradio_api/{path}", json=body)
            assert answer.status_code == status, (path, body, answer.text)
            assert set(answer.json()) >= {"error", "message"}
        assert http.post("/gradio_api/queue/join", content=b"{").status_code == 422
        joined = http.post("/gradio_api/call/status", json={"data": []}).json()
        said = http.get(f"/gradio_api/call/status/{joined['event_id']}").text
        assert functions == 6 and "event: complete" in said and '"pictures": 300' in said
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_client_waits_for_gradio_as_long_as_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.ui.programs.PATIENCE_S", 0.2)
    release = threading.Event()
    load = Programs._load

    async def slowly(programs: Programs) -> Any:
        await anyio.to_thread.run_sync(release.wait)
        return await load(programs)

    monkeypatch.setattr(Programs, "_load", slowly)
    with (
        serving(folder / ".clipsearch", FakeEncoder(dim=DIM), interface=add_page) as (url, _),
        httpx.Client(base_url=url, timeout=1) as http,
    ):
        assert http.get("/").status_code == 200
        threading.Timer(1.5, release.set).start()
        config = http.get("/config")
        assert config.text.startswith(" ") and config.json()["mode"] == "server"
        assert http.get("/gradio_api/info").json()["named_endpoints"]


@pytest.mark.slow
def test_without_gradio_the_command_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['gradio'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", "ui", "--index", str(folder), "--no-browser"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "pip install 'clipsearch[ui]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
