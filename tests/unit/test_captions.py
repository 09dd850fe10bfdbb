"""Captions by a model: written in a pass, found by filters, told apart from what people wrote. A real, small CoCa."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytestmark = pytest.mark.torch

import httpx  # noqa: E402
import open_clip  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import clipsearch  # noqa: E402
from clipsearch.cli.commands import load_command  # noqa: E402
from clipsearch.cli.output import print_hit  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder  # noqa: E402
from clipsearch.errors import IndexNotFound, InvalidQuery, MissingFeature  # noqa: E402
from clipsearch.indexer import passes  # noqa: E402
from clipsearch.indexer.build import IndexOptions, Progress, index_folder  # noqa: E402
from clipsearch.indexer.captions import CaptionOptions, caption_pictures  # noqa: E402
from clipsearch.indexer.compact import compact  # noqa: E402
from clipsearch.indexer.repair import repair  # noqa: E402
from clipsearch.indexer.verify import verify  # noqa: E402
from clipsearch.pictures.images import prepare  # noqa: E402
from clipsearch.records import Hit  # noqa: E402
from clipsearch.search import rerank  # noqa: E402
from clipsearch.search.collection import Collection  # noqa: E402
from clipsearch.search.rerank import reranked  # noqa: E402
from clipsearch.search.together import open_together  # noqa: E402
from clipsearch.store import open_snapshot, read_records  # noqa: E402
from tests.support.collections import serving  # noqa: E402
from tests.support.fake_encoder import FakeEncoder  # noqa: E402
from tests.support.open_clip_models import SMALL_COCA, small_model  # noqa: E402
from tests.support.pictures import picture  # noqa: E402
from tests.support.tiny_models import any_model  # noqa: E402
from tests.support.words import write_words  # noqa: E402
from tests.support.written_pictures import ARCHIVE  # noqa: E402


class Captioning(OpenClipEncoder):
    """The small CoCa, and how many pictures it was given at a time."""

    given: list[int]
    between: Callable[[], None] | None

    def captioner(self) -> Any:
        captioner = super().captioner()
        assert captioner is not None
        captioner.pictures_per_call = 2
        written = captioner.captions

        def captions(pixels: Any) -> list[tuple[str, float]]:
            self.given.append(len(pixels))
            if self.between is not None:
                self.between()
            return written(pixels)

        captioner.captions = captions  # type: ignore[method-assign]
        return captioner


@pytest.fixture(scope="module")
def model() -> Any:
    model = small_model(SMALL_COCA)
    end, words = 49407, [2368, 1929, 525, 320]  # any four words, and then the end
    with torch.no_grad():
        model.text_decoder.text_projection[:, end] += 1.0
        model.text_decoder.text_projection[:, words] *= 30.0
    return model


@pytest.fixture
def encoder(model: Any) -> Captioning:
    made = Captioning.from_model(model, SMALL_COCA, name="coca", device="cpu", precision="fp32")
    assert isinstance(made, Captioning)
    made.given, made.between = [], None
    return made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(4):
        picture(n).save(folder / f"{n}.png")
    with zipfile.ZipFile(ARCHIVE) as archive:  # a person wrote "harbour" into it
        (folder / "basic.jpg").write_bytes(archive.read("basic.jpg"))
    return folder


def index_of(photos: Path) -> Path:
    return index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1)).index


def options(**given: Any) -> CaptionOptions:
    return CaptionOptions(workers=1, **given)


def hits_of(index: Path, query: str) -> list[Hit]:
    with Collection(index, encoder=FakeEncoder()) as collection:
        return collection.search(query, 99, sort="path")


def found(index: Path, query: str) -> list[str]:
    return [hit.record.path for hit in hits_of(index, query)]


def captions_of(index: Path) -> dict[str, list[str]]:
    with Collection(index, encoder=FakeEncoder()) as collection:
        return {
            one.place + one.fragment: [line.text for line in collection.captions.lines_of(one)] for one in collection
        }


def test_captions_are_written_found_and_told_apart(
    photos: Path, encoder: Captioning, capsys: pytest.CaptureFixture[str]
) -> None:
    index = index_of(photos)
    before = {path.name: path.read_bytes() for path in photos.iterdir() if path.is_file()}
    with Collection(index, encoder=FakeEncoder()) as collection:
        (line,) = collection.notices("generated:dog")
        assert "clipsearch caption" in line
    seen: list[Progress] = []
    report = caption_pictures(index, encoder, options(), seen.append)
    assert (report.captioned, report.known, report.skipped, report.interrupted) == (5, 0, [], False)
    assert sum(encoder.given) == 5 and max(encoder.given) == 2
    assert seen[0].stage == "captions" and (seen[-1].done, seen[-1].total) == (5, 5)
    assert {path.name: path.read_bytes() for path in photos.iterdir() if path.is_file()} == before
    assert verify(index).ok
    captions = captions_of(index)
    assert set(captions) == {*(f"{n}.png" for n in range(4)), "basic.jpg"} and all(map(all, captions.values()))
    ((text,),) = {tuple(captions["0.png"])}
    word = max(text.split(), key=len)
    with_word = sorted(name for name, (caption,) in captions.items() if word in caption)
    for query in (f"generated:{word}", f"caption:{word.upper()}", f'generated:"*{word}*"'):
        assert found(index, query) == with_word, query
    assert found(index, "generated:*") == sorted(captions)
    assert found(index, f'generated:"{text}"') == sorted(name for name, (one,) in captions.items() if text in one)
    assert found(index, f"wrote:{word}") == found(index, f"text:{word}") == []
    # What people wrote is found, as before, by what finds both, and by what finds it alone.
    assert found(index, "caption:harbour") == found(index, "wrote:harbour") == ["basic.jpg"]
    assert found(index, "generated:harbour") == [] and found(index, "generated:* wrote:harbour") == ["basic.jpg"]
    assert found(index, f"not generated:{word}") == sorted(set(captions) - set(with_word))
    (hit,) = [hit for hit in hits_of(index, f"caption:{word}") if hit.record.path == "0.png"]
    assert [(line.text, line.by, line.box) for line in hit.words] == [(text, "coca", (0, 0, 0, 0))]
    told = hit.to_dict(whole=True)
    assert told["caption"] is None and told["words"][0]["by"] == "coca"
    assert Hit.from_dict(json.loads(json.dumps(told))).words == hit.words
    print_hit(hit)
    assert 'caption by coca: "' in capsys.readouterr().out
    (hit,) = hits_of(index, "caption:harbour")
    assert hit.words == () and "harbour" in (hit.record.metadata.caption or "").lower()


@pytest.mark.slow
def test_a_second_run_captions_what_is_new_and_forgetting_forgets(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    assert caption_pictures(index, encoder, options()).captioned == 5
    shutil.copy(photos / "0.png", photos / "copy.png")
    picture(9).save(photos / "9.png")
    (photos / "1.png").unlink()
    index_of(photos)
    report = caption_pictures(index, encoder, options())
    assert (report.captioned, report.known) == (1, 4)  # the copy has the caption of its content
    assert found(index, "generated:*") == ["0.png", "2.png", "3.png", "9.png", "basic.jpg", "copy.png"]
    captions = captions_of(index)
    compact(index)
    assert captions_of(index) == captions and verify(index).ok
    assert caption_pictures(index, encoder, options(again=True)).captioned == 5
    assert captions_of(index) == captions
    assert passes.forget(index, "captions") and not passes.forget(index, "captions")
    assert found(index, "generated:*") == []
    with open_snapshot(index) as snapshot:
        assert "captions" not in snapshot.manifest.writer_features


def test_words_in_pictures_and_captions_do_not_mix(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    write_words(index, {"0.png": ["invoice"]})
    caption_pictures(index, encoder, options())
    assert found(index, "text:invoice") == ["0.png"] and found(index, "generated:invoice") == []
    with open_snapshot(index) as snapshot:
        manifest = snapshot.manifest
        assert {"words", "captions"} <= set(manifest.writer_features)
        assert len(manifest.words) == len(manifest.captions) == 1
        assert {manifest.words[0].file, manifest.captions[0].file} <= set(manifest.files())
    with Collection(index, encoder=FakeEncoder()) as collection:
        (caption,) = collection.captions.lines_of(next(iter(collection)))
        assert [line.text for line in collection.words.lines_of(next(iter(collection)))] == ["invoice"]
        assert not any(hit.words for hit in collection.search(caption.text, 5))  # a caption lifts nothing
    with open_together([index]) as collection:
        assert len(collection.search("generated:*", 99)) == 5


@pytest.mark.slow
def test_a_server_says_that_a_model_wrote_it(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    write_words(index, {"0.png": ["invoice"]})
    caption_pictures(index, encoder, options())
    with serving(index, FakeEncoder()) as (url, _), clipsearch.connect(url) as remote:
        hit = next(hit for hit in remote.search("generated:*", 99) if hit.record.path == "0.png")
        (line,) = hit.words
        assert line.by == "coca" and line.text
        told = httpx.get(f"{url}/v1/images/{hit.record.row_id}/words").json()
        assert [one["text"] for one in told["lines"]] == ["invoice"]
        assert [(one["text"], one["by"]) for one in told["captions"]] == [(line.text, "coca")]


def test_a_run_that_is_stopped_goes_on(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    encoder.between = lambda: os.kill(os.getpid(), signal.SIGINT) if len(encoder.given) == 2 else None
    report = caption_pictures(index, encoder, options())
    assert report.interrupted and 2 <= report.captioned < 5
    assert len(found(index, "generated:*")) == report.captioned
    encoder.between = None
    again = caption_pictures(index, encoder, options())
    assert (again.known, again.captioned) == (report.captioned, 5 - report.captioned)
    assert not again.interrupted


@pytest.mark.slow
def test_parts_are_committed_on_the_way_beside_an_index_run(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    counts: list[int] = []
    encoder.between = lambda: counts.append(len(found(index, "generated:*")))
    caption_pictures(index, encoder, options(commit_pictures=2))
    assert counts == [0, 2, 4]


@pytest.mark.slow
def test_what_changed_or_cannot_be_read_is_told(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    picture(50).save(photos / "0.png")
    (photos / "1.png").unlink()
    report = caption_pictures(index, encoder, options())
    assert (report.captioned, report.changed) == (3, 1)
    assert [(skip.path, skip.status) for skip in report.skipped] == [("1.png", "unreadable")]
    assert caption_pictures(index, encoder, options()).known == 3  # both are looked at again


@pytest.mark.slow
def test_pages_and_moments_have_captions_of_their_own(tmp_path: Path, encoder: Captioning) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "white")]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:], duration=1000)
    index = index_of(folder)
    with open_snapshot(index) as snapshot:
        rows = [record for record in read_records(index, snapshot.manifest) if record.status == "ok"]
    assert caption_pictures(index, encoder, options()).captioned == len(rows) > 1
    assert all(map(all, captions_of(index).values()))


@pytest.mark.slow
def test_repair_keeps_captions_apart(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    write_words(index, {"0.png": ["invoice"]})
    caption_pictures(index, encoder, options())
    captions = captions_of(index)
    for path in (index / "manifests").iterdir():
        path.write_bytes(b"damaged")
    repair(index)
    assert captions_of(index) == captions and found(index, "text:invoice") == ["0.png"]
    with open_snapshot(index) as snapshot:
        damaged = index / snapshot.manifest.captions[0].file.path
    damaged.write_bytes(damaged.read_bytes()[:-100] + bytes(100))
    assert not verify(index).ok
    assert any("clipsearch caption" in line for line in repair(index).actions)
    assert found(index, "generated:*") == [] and found(index, "text:invoice") == ["0.png"]
    assert caption_pictures(index, encoder, options()).captioned == 5
    assert captions_of(index) == captions


def test_a_query_is_reranked_on_request(photos: Path, encoder: Captioning) -> None:
    index = index_of(photos)
    (photos / "0.png").unlink()  # its row is still there, but nobody can read it
    with Collection(index, encoder=FakeEncoder()) as collection:
        before = collection.search("red", 9, all=True)
        after = collection.rerank("red", encoder, 9, all=True)
        assert len(before) == len(after) == 5
        gone = next(hit.rank for hit in before if hit.record.path == "0.png")
        assert after[gone - 1].record.path == "0.png" and after[gone - 1].likelihood is None
        read = [hit for hit in after if hit.record.path != "0.png"]
        paths = [photos / hit.record.path for hit in read]
        pixels = np.stack([prepare(Image.open(path).convert("RGB"), encoder.preprocessing) for path in paths])
        captioner = encoder.captioner()
        likely = [hit.likelihood or 0.0 for hit in read]
        np.testing.assert_allclose(likely, captioner.likelihoods(pixels, "red"), atol=1e-3)
        assert likely == sorted(likely, reverse=True) and len(set(likely)) > 1
        assert [hit.rank for hit in after] == [1, 2, 3, 4, 5]
        known = {hit.record.path: hit for hit in before}
        for hit in after:  # nothing else changes
            same = known[hit.record.path]
            assert (hit.score, hit.confidence, hit.band) == (same.score, same.confidence, same.band)
        assert collection.rerank("red", encoder, 2, offset=1, all=True) == after[1:3]
        told = read[0].to_dict(whole=True)
        assert told["likelihood"] == round(read[0].likelihood or 0, 6)
        assert all("likelihood" not in hit.to_dict() for hit in (*before, after[gone - 1]))
        for query in ("red - blue", str(photos / "1.png"), "ext:png", "red + blue"):
            with pytest.raises(InvalidQuery, match="one text"):
                collection.rerank(query, encoder)
        with pytest.raises(MissingFeature, match="cannot write captions"):
            collection.rerank("red", FakeEncoder())
        assert len(collection.rerank("red ext:png", encoder, all=True)) == 4
        wish = collection.order("red", sort="date")
        with pytest.raises(InvalidQuery, match="sorted"):
            reranked(collection, wish, encoder, captioner, 5)


@pytest.mark.slow
def test_only_the_first_are_reranked(photos: Path, encoder: Captioning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank, "RERANKED", 3)
    index = index_of(photos)
    with Collection(index, encoder=FakeEncoder()) as collection:
        before = [hit.record.path for hit in collection.search("red", 9, all=True)]
        after = collection.rerank("red", encoder, 9, all=True)
        paths = [hit.record.path for hit in after]
        assert paths[3:] == before[3:] and sorted(paths[:3]) == sorted(before[:3])
        assert [hit.likelihood is None for hit in after] == [False] * 3 + [True] * 2
        assert collection.rerank("red", encoder, 1, all=True) == after[:1]


def run(name: str, *arguments: str) -> None:
    load_command(name).main(list(arguments), prog_name=f"clipsearch {name}", standalone_mode=False)


@pytest.mark.slow
def test_the_commands_take_a_checkpoint(
    photos: Path, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "test-coca.json").write_text(json.dumps(SMALL_COCA))
    open_clip.add_model_config(tmp_path / "configs")
    weights = tmp_path / "coca.safetensors"
    save_file({name: one.contiguous() for name, one in model.state_dict().items()}, weights)
    index = clipsearch.index(photos, model=any_model(), options=IndexOptions(workers=1)).index
    with pytest.raises(MissingFeature, match="cannot write captions"):
        run("caption", "--index", str(index))  # the model of the index
    capsys.readouterr()
    run("caption", "--index", str(index), "--model", "open_clip:test-coca", "--checkpoint", str(weights), "--quiet")
    run("caption", "--index", str(index), "--model", f"open_clip:test-coca@{weights}")
    assert "0 captioned, 5 known from before in" in capsys.readouterr().out
    run("query", "generated:*", "--index", str(index))
    assert capsys.readouterr().out.count(f"caption by open_clip:test-coca@{weights}: ") == 5
    run("query", "red ext:png", "--all", "--json", "--index", str(index), "--rerank", f"open_clip:test-coca@{weights}")
    told = capsys.readouterr()
    likely = [hit["likelihood"] for hit in json.loads(told.out)]
    assert len(likely) == 4 and likely == sorted(likely, reverse=True)
    assert "the first 4 hits were reranked by open_clip:test-coca@" in told.err
    run("caption", "--index", str(index), "--forget")
    assert capsys.readouterr().out == "Forgot all captions of models.\n"


def test_a_model_that_cannot_is_told_which_can(photos: Path) -> None:
    index = index_of(photos)
    with pytest.raises(MissingFeature, match=r"fake.* cannot write captions\. Name one .*open_clip:coca_ViT-B-32/"):
        caption_pictures(index, FakeEncoder())
    with pytest.raises(IndexNotFound):
        passes.forget(photos, "captions")
