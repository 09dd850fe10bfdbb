"""An application of Gradio's components, in a script as in a notebook, called by Gradio's own client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from keyword import iskeyword
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import clipsearch
from clipsearch.errors import MissingExtra
from clipsearch.query.fields import FILTERS
from clipsearch.records import NOTHING_CERTAIN
from clipsearch.search.protocol import AnyCollection
from tests.support.cases import thinned
from tests.support.collections import serving, varied_index
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.fake_main import DIM

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks") / "photos"
    varied_index(folder, FakeEncoder(dim=DIM))
    return folder


@pytest.fixture(scope="module", params=thinned(["remote", "local"], 2))
def photos(folder: Path, request: pytest.FixtureRequest) -> Iterator[AnyCollection]:
    encoder = FakeEncoder(dim=DIM)
    if request.param == "local":
        with clipsearch.open(folder, encoder=encoder) as local:
            yield local
    else:
        with serving(folder / ".clipsearch", encoder) as (url, _), clipsearch.connect(url) as remote:
            yield remote


@pytest.fixture(scope="module")
def client(photos: AnyCollection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    blocks = clipsearch.ui.blocks(photos, title="my <b>pictures</b>")
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", footer_links=[])
    downloads = tmp_path_factory.mktemp("downloads")
    with pytest.MonkeyPatch.context() as patch:  # the client leaves a folder for each call
        patch.setattr("tempfile.tempdir", str(downloads))
        yield gradio_client.Client(url, verbose=False, analytics_enabled=False, download_files=str(downloads))
    blocks.close(verbose=False)


@pytest.mark.slow
def test_its_search_is_that_of_the_collection(client: Any, photos: AnyCollection) -> None:
    cases: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        ({"query": "red"}, "red", {}),
        ({"query": "red", "folder": "trips/**", "everything": True}, "red folder:trips/**", {"all": True}),
        ({"query": "blue", "count": 5, "unique": True, "diverse": True}, "blue", {"unique": True, "diverse": True}),
        ({"camera": "Maker X100", "tag": "seen", "sort": "path"}, 'camera:"Maker X100" tag:seen', {"sort": "path"}),
        ({"query": "red", "folder": "nowhere"}, "red folder:nowhere", {}),
    ]
    for given, query, options in cases:
        pictures, hits, summary = client.predict(**given, api_name="/search")
        expected = photos.search(query, given.get("count", 40), **options)
        assert [hit["row_id"] for hit in hits] == [hit.record.row_id for hit in expected]
        assert len(pictures) == len(expected)
        assert summary.split("\n\n")[0] == (f"{len(hits):,} pictures" if hits else "Nothing found.")
        for picture, hit in zip(pictures, expected, strict=True):
            assert picture["caption"].startswith(hit.record.path)
            assert hit.band is None or f"{100 * (hit.confidence or 0):.0f} % {hit.band}" in picture["caption"]
            assert Image.open(picture["image"]).size


@pytest.mark.slow
def test_its_summary_says_what_should_be_said_of_a_query(client: Any, photos: AnyCollection) -> None:
    certain = set()
    for query in ("a submarine", "red", "boats without people", "blue tag:none", "red camara:<b>x</b>_*y*"):
        *_, summary = client.predict(query, count=5, api_name="/search")
        first, *told = summary.split("\n\n")
        hits, notices = photos.search(query, 5), photos.notices(query)
        assert first.startswith(NOTHING_CERTAIN) == (bool(hits) and not hits.are_certain), query
        assert first.endswith("5 pictures" if hits else "Nothing found.")
        certain.add(hits.are_certain)
        assert [line.replace("\\", "") for line in told] == notices, query
        assert "<b>" not in summary.replace("\\<", "") and "*y" not in summary.replace("\\*", "")
        assert bool(notices) == (query != "a submarine"), query
    assert certain == {True, False}


@pytest.mark.slow
def test_a_picture_is_compared_alone_and_with_words(client: Any, photos: AnyCollection, tmp_path: Path) -> None:
    file = tmp_path / "blue.png"
    Image.new("RGB", (40, 30), COLOURS["blue"]).save(file)
    picture = gradio_client.handle_file(file)
    _, hits, _ = client.predict(picture=picture, count=5, api_name="/search")
    with Image.open(file) as opened:
        vector = photos.encode_picture(opened)
    assert [hit["row_id"] for hit in hits] == [hit.record.row_id for hit in photos.search("", 5, vector=vector)]
    _, hits, _ = client.predict("red", picture, everything=True, count=5, api_name="/search")
    both = photos.search("red", 5, vector=vector, all=True)
    assert [hit["row_id"] for hit in hits] == [hit.record.row_id for hit in both]
    _, hits, _ = client.predict(5, 7, api_name="/similar")
    assert [hit["row_id"] for hit in hits] == [hit.record.row_id for hit in photos.similar(5, 7)]


@pytest.mark.slow
def test_errors_are_told_and_no_file_is_opened(client: Any, photos: AnyCollection, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 30), COLOURS["red"]).save(secret)
    for query, kind in (
        ("dog (ext:jpg or", "MalformedQuery"),
        (str(secret), "InvalidQuery"),
        (f"{secret} + dog", "InvalidQuery"),
        ("./secret.png", "InvalidQuery"),
        ("like:unheard-of", "UnknownTag"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError) as raised:
            client.predict(query, api_name="/search")
        assert raised.value.title == kind, query
    with pytest.raises(gradio_client.exceptions.AppError, match="no picture 999"):
        client.predict(999, api_name="/similar")


@pytest.mark.slow
def test_every_filter_has_a_component(client: Any) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/search", "/similar"}
    names = [parameter["parameter_name"] for parameter in endpoints["/search"]["parameters"]]
    assert names[:2] == ["query", "picture"]
    assert names[-len(FILTERS) :] == [f"{name}_" if iskeyword(name) else name for name in FILTERS]
    assert all(parameter["parameter_has_default"] for parameter in endpoints["/search"]["parameters"])


def test_without_gradio_it_says_what_to_install(folder: Path) -> None:
    program = (
        "import sys\nsys.modules['gradio'] = None\nimport clipsearch\n"
        "try:\n    clipsearch.ui.blocks(None)\nexcept clipsearch.ClipsearchError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'clipsearch[ui]'" in done.stdout
    assert issubclass(MissingExtra, clipsearch.ClipsearchError)
