"""Model names, the hub's cache, and what being offline costs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsearch.encoder import hub, kinds, names
from clipsearch.encoder.catalog import PUBLISHED, RECOMMENDED
from clipsearch.errors import HubUnreachable, InvalidArgument, InvalidModel, ModelNotFound
from tests.support.fake_encoder import FakeEncoder
from tests.support.fake_hub import COMMIT, FakeHub, fake_hub
from tests.support.tiny_models import write_model_directory


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = write_model_directory(tmp_path / "builtin")
    monkeypatch.setattr(names, "builtin_directory", lambda: directory)
    return directory


def put_in_cache(cache: Path, name: str) -> Path:
    repository = cache / f"models--immich-app--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return write_model_directory(repository / "snapshots" / COMMIT)


def test_a_directory_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model_directory(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", str(tmp_path / "mine")):
        encoder = names.load_encoder(name)
        assert encoder.name == str(tmp_path / "mine")
        assert names.load_encoder(encoder.name).fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    "name",
    ["../x__y", "a/../../b__c", "x__y/../..", "..__..", "a\\..\\b__c", "/x__y", "x__y\n", "x__" + "y" * 99, "", "."],
)
def test_names_cannot_leave_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert not hub.is_export_name(name)
    assert hub.cached_export(name) is None
    with pytest.raises((ModelNotFound, InvalidModel) if name else InvalidArgument):
        names.load_encoder(name)


def test_unknown_names_are_met_with_a_suggestion() -> None:
    with pytest.raises(ModelNotFound, match="did you mean builtin"):
        names.resolve("bultin")
    with pytest.raises(ModelNotFound, match="not a directory"):
        names.resolve("qqqqqqq")
    with pytest.raises(ModelNotFound, match="does not exist"):
        names.resolve("./qqqqqqq")
    with pytest.raises(ModelNotFound, match="--model open_clip:MODEL"):
        names.load_encoder("builtin", checkpoint="x.safetensors")


def test_builtin(builtin: Path) -> None:
    assert names.load_encoder("builtin").name == "builtin"


def test_a_cached_export_is_used_without_a_network(empty_hub_cache: Path) -> None:
    directory = put_in_cache(empty_hub_cache, RECOMMENDED)
    assert hub.cached_export(RECOMMENDED) == directory
    assert hub.cached_exports() == [RECOMMENDED]
    assert names.resolve("auto") == kinds.ResolvedModel(RECOMMENDED, "export", directory)
    assert names.load_encoder(RECOMMENDED).name == RECOMMENDED


@pytest.mark.parametrize(
    "missing", ["visual/model.onnx", "textual/tokenizer.json", "config.json", "textual/model.onnx"]
)
def test_an_export_that_is_cached_in_part_is_not_used(empty_hub_cache: Path, missing: str) -> None:
    (put_in_cache(empty_hub_cache, RECOMMENDED) / missing).unlink()
    assert hub.cached_export(RECOMMENDED) is None


def test_a_damaged_reference_in_the_cache_is_ignored(empty_hub_cache: Path) -> None:
    put_in_cache(empty_hub_cache, RECOMMENDED)
    (empty_hub_cache / f"models--immich-app--{RECOMMENDED}/refs/main").write_text("../../../..")
    assert hub.cached_export(RECOMMENDED) is None


def test_offline_by_setting_is_said_at_once(builtin: Path) -> None:
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        names.load_encoder("ViT-B-32__openai")
    lines: list[str] = []
    assert names.load_encoder("auto", notice=lines.append).name == "builtin"
    assert len(lines) == 1
    assert "HF_HUB_OFFLINE" in lines[0]
    assert "clipsearch models pull" in lines[0]
    assert "\n" not in lines[0]


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that accepts connections and never answers."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield endpoint


def test_no_answer_costs_the_time_limit_once(builtin: Path, silent_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "CONNECT_TIMEOUT_S", 0.3)
    started = time.monotonic()
    first = names.resolve("auto")
    assert time.monotonic() - started < 2
    assert first.name == "builtin"
    assert "no answer" in (first.notice or "") or "timed out" in (first.notice or "")
    monkeypatch.setattr(hub, "_probe", lambda name: pytest.fail("the network was asked again"))
    assert names.resolve("auto") == first
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.remembered_offline() is None  # another hub may be reachable


def test_the_memory_of_being_offline_ends(silent_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.remember_offline("no network")
    assert hub.remembered_offline() == "no network"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert hub.remembered_offline() is None
    monkeypatch.setattr(time, "time", lambda: now)
    hub.forget_offline()
    assert hub.remembered_offline() is None


def test_a_refused_connection_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match="cannot be reached"):
        names.pull("ViT-B-32__openai")
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(HubUnreachable, match="not http"):
        names.pull("ViT-B-32__openai")


@pytest.fixture
def local_hub(tmp_path: Path) -> Iterator[FakeHub]:
    served = write_model_directory(tmp_path / "served", external=True)
    (served / "visual/model.armnn").write_bytes(b"not needed")
    (served / "visual/rknpu/rk3588").mkdir(parents=True)
    (served / "visual/rknpu/rk3588/model.rknn").write_bytes(b"not needed")
    (served / "README.md").write_text("not needed")
    with fake_hub({f"immich-app/{RECOMMENDED}": served}) as running:
        yield running


def load_elsewhere(name: str, endpoint: str) -> dict[str, str]:
    """Load an encoder in a process of its own: the hub's client reads its settings when it is imported."""
    code = (
        "import json, sys\n"
        "from clipsearch.encoder import names\n"
        "from clipsearch.errors import ClipsearchError\n"
        "lines = []\n"
        "try:\n"
        "    encoder = names.load_encoder(sys.argv[1], notice=lines.append)\n"
        "    out = {'name': encoder.name, 'shape': str(encoder.encode_texts(['a dog']).shape)}\n"
        "except ClipsearchError as error:\n"
        "    out = {'error': type(error).__name__, 'message': str(error)}\n"
        "print(json.dumps({**out, 'notice': '|'.join(lines), 'client': str('huggingface_hub' in sys.modules)}))\n"
    )
    env = {**os.environ, "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", code, name], env=env, capture_output=True, text=True, check=True)
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.slow
def test_an_export_is_fetched_once_with_only_what_is_needed(local_hub: FakeHub) -> None:
    first = load_elsewhere("auto", local_hub.url)
    assert first["name"] == RECOMMENDED
    assert first["shape"] == "(1, 8)"
    assert "downloading" in first["notice"]
    fetched = {path.rpartition(f"{COMMIT}/")[2] for path in local_hub.requests if "/resolve/" in path}
    assert "visual/weights.bin" in fetched
    assert not [path for path in fetched if path.endswith((".armnn", ".rknn", ".md"))]
    local_hub.requests.clear()
    second = load_elsewhere("auto", local_hub.url)
    assert second == {"name": RECOMMENDED, "shape": "(1, 8)", "notice": "", "client": "False"}
    assert local_hub.requests == []


def test_what_the_hub_does_not_have_is_not_called_offline(local_hub: FakeHub) -> None:
    answer = load_elsewhere("ViT-B-32-SigLIP2-256__weblo", local_hub.url)
    assert answer["error"] == "ModelNotFound"
    assert f"did you mean {RECOMMENDED}" in answer["message"]


@pytest.mark.slow
def test_a_download_that_breaks_off_is_resumed(local_hub: FakeHub) -> None:
    local_hub.broken = {"textual/model.onnx"}
    answer = load_elsewhere(RECOMMENDED, local_hub.url)
    assert answer["error"] == "HubUnreachable"
    assert hub.cached_export(RECOMMENDED) is None
    local_hub.broken = set()
    local_hub.requests.clear()
    assert load_elsewhere(RECOMMENDED, local_hub.url)["name"] == RECOMMENDED
    assert not [path for path in local_hub.requests if path.endswith("visual/model.onnx")]


def test_listing_shows_what_is_here_and_what_can_be_had(builtin: Path, empty_hub_cache: Path) -> None:
    put_in_cache(empty_hub_cache, "ViT-B-32__openai")
    put_in_cache(empty_hub_cache, "Another__one")
    listed = {model.name: model for model in names.list_models()}
    assert set(listed) == {"builtin", "Another__one", *(export.name for export in PUBLISHED)}
    assert [name for name, model in listed.items() if model.available] == [
        "builtin",
        "ViT-B-32__openai",
        "Another__one",
    ]
    assert [name for name, model in listed.items() if model.recommended] == [RECOMMENDED]
    assert listed["builtin"].dim == 8
    assert listed[RECOMMENDED].dim == 768


def test_listing_survives_a_damaged_model(builtin: Path, empty_hub_cache: Path) -> None:
    (put_in_cache(empty_hub_cache, "ViT-B-32__openai") / "config.json").write_text("{")
    (builtin / "config.json").write_text("{")
    assert not [model for model in names.list_models() if model.available]


def test_info(builtin: Path, tmp_path: Path) -> None:
    own = {"licence": "Apache-2.0", "source": "here", "score_scale": 20}
    directory = write_model_directory(tmp_path / "mine", own=own)
    found = names.info(str(directory))
    assert found.fingerprint == names.load_encoder(str(directory)).fingerprint
    assert (found.licence, found.source, found.score_scale, found.dim) == ("Apache-2.0", "here", 20, 8)
    assert found.size_bytes == sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    assert names.info("auto").name == "builtin"
    assert names.info(RECOMMENDED).available is False
    with pytest.raises(ModelNotFound):
        names.info("Another__one")


def test_an_onnx_model_says_that_it_runs_on_the_cpu(builtin: Path) -> None:
    lines: list[str] = []
    names.load_encoder("builtin", device="cuda", notice=lines.append)
    assert len(lines) == 1
    assert "open_clip" in lines[0]


@pytest.mark.parametrize("name", ["open_clip:", "open_clip:/tag"])
def test_open_clip_needs_a_model(name: str) -> None:
    with pytest.raises(ModelNotFound, match="names no model"):
        names.load_encoder(name)


def test_a_kind_of_encoder_is_a_module_and_a_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the prefix of a name, and by a file in a directory; with the precisions that the line says."""
    module = types.ModuleType("clipsearch_test_kind")
    named = kinds.ResolvedModel("paint:seven", "paint", None)
    made: list[tuple[kinds.ResolvedModel, kinds.LoadOptions]] = []

    def load(model: kinds.ResolvedModel, options: kinds.LoadOptions) -> FakeEncoder:
        made.append((model, options))
        return FakeEncoder(name=model.name)

    def describe(model: kinds.ResolvedModel, *, hashed: bool) -> kinds.ModelInfo:
        return kinds.ModelInfo(model.name, model.kind, available=True, dim=64)

    vars(module).update(load=load, describe=describe, list_models=lambda: [describe(named, hashed=False)])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = kinds.EncoderKind("paint", module.__name__, "paint:", "paint.json", ("auto", "fp32"))
    monkeypatch.setattr(kinds, "KINDS", (line, kinds.KINDS[-1]))
    monkeypatch.setattr(names, "KINDS", kinds.KINDS)
    assert names.load_encoder("paint:seven", checkpoint="w", device="cpu").name == "paint:seven"
    assert made[-1] == (named, kinds.LoadOptions("w", "cpu"))
    with pytest.raises(ValueError, match="paint:seven does not support the precision int8"):
        names.load_encoder("paint:seven", precision="int8")
    (tmp_path / "paint.json").touch()
    assert names.load_encoder(str(tmp_path)).name == str(tmp_path)
    assert made[-1][0].directory == tmp_path
    assert names.info("paint:seven").dim == names.info(str(tmp_path)).dim == 64
    assert names.pull("paint:seven").name == "paint:seven"
    assert "paint:seven" in [model.name for model in names.list_models(every_kind=True)]
    assert names.load_encoder("builtin").dim == 512  # the others are as they were
