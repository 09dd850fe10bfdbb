"""The embedded model answers other languages: from the command line, and in a server that is asked in many at once."""

from __future__ import annotations

import json
import signal
import tarfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import clipsearch as library
from clipsearch.encoder.languages import LanguageGate
from clipsearch.encoder.layout import MULTILINGUAL, read_model_directory
from clipsearch.encoder.names import builtin_directory, load_encoder
from tests.cli.test_serve import Server
from tests.support.commands import clipsearch

DRAWINGS = Path(library.__file__).parent / "training/anchor.tar"
SHOWN = ("bicycle", "bear", "pizza", "lighthouse", "piano", "snowman", "tiger", "umbrella", "watermelon", "church")
# What finds a drawing in English, and the same in German, Spanish, French, Chinese and Japanese.
SAME = {
    "bicycle": ("a bicycle", "ein Fahrrad", "una bicicleta", "un vélo", "自行车", "自転車"),
    "tiger": ("a tiger", "ein Tiger", "un tigre", "le tigre", "老虎", "虎"),
}
UNREAD = ("собака", "велосипед", "개", "자전거", "หมา", "كلب", "כלב", "σκύλος")  # no token of these scripts


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawings of everyday things, indexed with the embedded model."""
    folder = tmp_path_factory.mktemp("languages") / "drawings"
    with tarfile.open(DRAWINGS) as archive:
        for name in SHOWN:
            archive.extract(f"{name}.webp", folder, filter="data")
    clipsearch("index", "drawings", "--model", "builtin", "-q", folder=folder.parent)
    return folder


def first(drawings: Path, text: str) -> str:
    return Path(clipsearch("query", text, "--paths", "-k", "1", folder=drawings).stdout.strip()).stem


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("thing", SAME)
def test_other_languages_find_what_english_finds(drawings: Path, thing: str) -> None:
    assert [first(drawings, text) for text in SAME[thing]] == [thing] * 6


@pytest.mark.slow
def test_a_server_asked_in_many_languages_at_once_answers_each_as_if_alone(drawings: Path) -> None:
    server = Server(drawings)
    try:

        def ask(text: str) -> list[str]:
            body = json.dumps({"query": text, "k": 3, "all": True}).encode()
            address = f"http://127.0.0.1:{server.port}/v1/search"
            asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return [Path(hit["path"]).stem for hit in json.load(answer)["hits"]]

        texts = [text for texts in SAME.values() for text in texts]
        with ThreadPoolExecutor(len(texts)) as pool:
            together = list(pool.map(ask, texts))
        with library.open(drawings) as collection:
            alone = [[Path(hit.path).stem for hit in collection.search(text, k=3, all=True)] for text in texts]
        assert together == alone
        for text in UNREAD:
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(text)
            assert refused.value.code == 400 and "the model cannot read" in refused.value.read().decode()
    finally:
        server.stop(signal.SIGKILL)


def test_what_neither_tower_reads_goes_to_the_english_one() -> None:
    folder = read_model_directory(builtin_directory()).multilingual
    assert folder is not None and folder.name == MULTILINGUAL
    gate = LanguageGate.read(folder)
    assert all(gate.is_english(text) for text in UNREAD)
    assert not any(gate.is_english(text) for text in SAME["bicycle"][1:])


@pytest.mark.slow
def test_a_batch_of_all_languages_has_the_vectors_of_each_text() -> None:
    encoder = load_encoder("builtin")
    texts = [*(text for texts in SAME.values() for text in texts), *UNREAD, ""]
    together = encoder.encode_texts(texts)
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    for english, *others in (encoder.encode_texts(same) for same in SAME.values()):
        assert min(float(english @ other) for other in others) > 0.5
