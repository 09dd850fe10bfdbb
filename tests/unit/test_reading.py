"""The pass that reads words: what it reads, leaves and keeps, whatever pictures and other programs do."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from clipsearch.errors import IndexLocked, IndexNotFound
from clipsearch.indexer import passes
from clipsearch.indexer.build import IndexOptions, Progress, index_folder
from clipsearch.indexer.verify import verify
from clipsearch.indexer.words import ReadOptions, ReadReport, read_words
from clipsearch.pictures import words as reader
from clipsearch.pictures.words import longest_for
from clipsearch.search.collection import Collection
from clipsearch.store import Writer, open_snapshot
from clipsearch.store.words import WordFiles
from tests.support.breadth import tries
from tests.support.commands import Commands
from tests.support.fake_encoder import FakeEncoder
from tests.support.word_reader import COMMAND, write_picture


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as running:
        yield running


KILLS = tries("CLIPSEARCH_KILLS", 2, 3)


def options(**changed: object) -> ReadOptions:
    return ReadOptions(**{"workers": 2, "command": COMMAND, "timeout_s": 60.0, **changed})  # type: ignore[arg-type]


def index_of(photos: Path, texts: dict[str, str]) -> Path:
    for seed, (name, text) in enumerate(texts.items()):
        write_picture(photos / name, text, seed)
    return index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1)).index


def counts(report: ReadReport) -> tuple[int, int, int, int]:
    return report.read, report.passed_over, report.known, len(report.skipped)


def found(index: Path, query: str) -> list[str]:
    with Collection(index, encoder=FakeEncoder()) as photos:
        return sorted(hit.record.path for hit in photos.search(query, k=100))


@pytest.mark.slow
def test_a_pass_reads_what_has_words_and_the_next_one_only_what_is_new(photos: Path) -> None:
    index = index_of(photos, {"a.png": "Total 12", "b.png": "", "c.png": "boarding pass"})
    seen: list[Progress] = []
    assert counts(read_words(index, options(), seen.append)) == (2, 1, 0, 0)
    assert [(p.stage, p.done, p.total) for p in seen][-1] == ("words", 3, 3)
    assert found(index, "text:total") == ["a.png"]
    with Collection(index, encoder=FakeEncoder()) as photos_:
        (hit,) = photos_.search("text:pass")
        assert hit.words[0].text == "boarding pass"
        assert hit.words[0].box == (1, 0, 13, 1)
    assert counts(read_words(index, options())) == (0, 0, 3, 0)
    (photos / "a.png").rename(photos / "renamed.png")  # costs nothing
    (photos / "copy.png").write_bytes((photos / "c.png").read_bytes())
    write_picture(photos / "d.png", "new words", 9)
    index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    assert counts(read_words(index, options())) == (1, 0, 3, 0)
    assert found(index, "text:words") == ["d.png"]
    assert found(index, "text:total") == ["renamed.png"]
    assert found(index, "text:boarding") == ["c.png", "copy.png"]
    assert verify(index).ok


@pytest.mark.slow
def test_all_also_reads_what_seems_to_have_no_words_and_again_begins_anew(photos: Path) -> None:
    index = index_of(photos, {"a.png": "Total", "b.png": ""})
    assert counts(read_words(index, options())) == (1, 1, 0, 0)
    assert counts(read_words(index, options(all=True))) == (1, 0, 1, 0)
    assert counts(read_words(index, options(all=True))) == (0, 0, 2, 0)
    assert counts(read_words(index, options())) == (0, 0, 2, 0)
    assert counts(read_words(index, options(again=True))) == (1, 1, 0, 0)
    assert found(index, "text:total") == ["a.png"]
    assert passes.forget(index, "words")
    assert not passes.forget(index, "words")
    assert found(index, "text:total") == []
    with open_snapshot(index) as snapshot:
        assert snapshot.manifest.writer_features == ()


@pytest.mark.slow
def test_a_picture_that_hangs_or_crashes_the_reader_costs_only_itself(photos: Path) -> None:
    texts = {f"{n}.png": f"word{n}" for n in range(6)} | {"hang.png": "hang", "crash.png": "crash"}
    index = index_of(photos, texts)
    report = read_words(index, options(timeout_s=5.0))
    assert counts(report) == (6, 0, 0, 2)
    assert {skip.path: skip.status for skip in report.skipped} == {
        "hang.png": "timeout",
        "crash.png": "decoder_crashed",
    }
    assert found(index, "text:word") == [f"{n}.png" for n in range(6)]
    for attempt in (2, 3):  # circumstances may be to blame, a few times
        assert counts(read_words(index, options(timeout_s=0.5))) == (0, 0, 6, 2), attempt
    assert counts(read_words(index, options())) == (0, 0, 8, 0)
    assert counts(read_words(index, options(timeout_s=0.3, retry_skipped=True))) == (0, 0, 6, 2)


@pytest.mark.slow
def test_a_file_that_changed_or_went_is_left_to_the_next_pass(photos: Path) -> None:
    index = index_of(photos, {"a.png": "alpha", "b.png": "beta", "c.png": "gamma"})
    write_picture(photos / "a.png", "other", 7)
    (photos / "b.png").unlink()
    report = read_words(index, options())
    assert (report.changed, counts(report)) == (1, (1, 0, 0, 1))
    assert report.skipped[0].status == "unreadable"
    assert found(index, "text:other") == []
    index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    assert counts(read_words(index, options())) == (1, 0, 1, 0)
    assert found(index, "text:other") == ["a.png"]


@pytest.mark.slow
def test_an_index_run_at_the_same_time_loses_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(photos, {f"{n}.png": f"word{n}" for n in range(6)})
    monkeypatch.setattr(passes, "LOCK_PATIENCE_S", 0.0)
    with Writer(index), pytest.raises(IndexLocked):
        read_words(index, options())
    monkeypatch.setattr(passes, "LOCK_PATIENCE_S", 30.0)
    writer = Writer(index)
    timer = threading.Timer(2.5, writer.close)
    timer.start()
    assert counts(read_words(index, options(commit_pictures=1))) == (6, 0, 0, 0)
    timer.join()
    assert found(index, "text:word") == [f"{n}.png" for n in range(6)]


_PASS = """
import sys
from pathlib import Path
from clipsearch.indexer.words import ReadOptions, read_words
from tests.support.word_reader import COMMAND
report = read_words(Path(sys.argv[1]), ReadOptions(workers=1, command=COMMAND, commit_pictures=4))
print(report.read, report.interrupted)
"""


def start(index: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PASS, str(index)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CLIPSEARCH_TEST_READ_S": "0.05"},
    )


def read_so_far(index: Path) -> int:
    """Pictures that need not be read again: on a busy machine one may have taken too long, which is noted, too."""
    with open_snapshot(index) as snapshot, contextlib.closing(WordFiles(index, snapshot.manifest.words)) as files:
        return sum(status == "ok" for _, status, *_ in files.states())


@pytest.mark.slow
def test_a_killed_pass_loses_at_most_a_batch(photos: Path) -> None:
    names = [f"{n:02d}.png" for n in range(40)]
    index = index_of(photos, {name: f"word{name[:2]}x" for name in names})
    before = 0
    for attempt in range(KILLS):
        running = start(index)
        assert running.stdout is not None
        until = time.monotonic() + 60
        while read_so_far(index) < min(before + 8, 40) and running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(random.Random(attempt).uniform(0, 0.3))
        running.kill()
        running.wait()
        running.stdout.close()
        assert verify(index).ok
        assert read_so_far(index) >= before
        before = read_so_far(index)
    report = read_words(index, options())
    assert (report.read, report.known) == (40 - before, before)
    with open_snapshot(index) as snapshot:
        files = WordFiles(index, snapshot.manifest.words)
        assert all(len(files.holding([f"word{name[:2]}x"])) == 1 for name in names)
        files.close()
    assert not any(path.suffix == ".part" and time.time() - path.stat().st_mtime > 3600 for path in index.rglob("*"))


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_pass_keeps_all_that_it_has_read(photos: Path, number: signal.Signals) -> None:
    index = index_of(photos, {f"{n:02d}.png": f"word{n:02d}" for n in range(30)})
    running = start(index)
    until = time.monotonic() + 60
    while read_so_far(index) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(number)
    said, _ = running.communicate(timeout=60)
    read, interrupted = said.split()
    assert interrupted == "True"
    assert read_so_far(index) == int(read)
    assert read_words(index, options()).read == 30 - int(read)


@pytest.mark.slow
def test_the_command_says_what_it_did_and_forgets(photos: Path, commands: Commands) -> None:
    index = index_of(photos, {"a.png": "Total 12", "b.png": "", "hang.png": "hang"})
    read_words(index, options(timeout_s=4.0))
    done = commands.run("query", "text:total", "--index", str(index))
    assert '"Total 12"' in done.out
    assert done.out.splitlines()[0].endswith("a.png")
    for _ in range(2):
        read_words(index, options(timeout_s=0.5))
    done = commands.run("read", "--index", str(index))
    assert done.status == 0, done.err
    assert done.out.startswith("0 read, 3 known from before in ")
    done = commands.run("read", "--index", str(index), "--json")
    assert done.json()["known"] == 3
    assert commands.run("read", "--forget", "--index", str(index)).out == "Forgot all words.\n"
    done = commands.run("query", "text:total", "--index", str(index))
    assert done.status == 3
    assert "clipsearch read" in done.err


def test_without_an_index_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound):
        read_words(tmp_path, options())
    with pytest.raises(IndexNotFound):
        passes.forget(tmp_path, "words")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((4000, 3000), 2000), ((800, 600), 800), ((1080, 12000), 11111), ((12000, 300), 12000), ((0, 0), 1)],
)
def test_long_pictures_stay_readable(size: tuple[int, int], expected: int) -> None:
    assert longest_for(*size) == expected


@pytest.mark.parametrize("size", [(400, 9000), (9000, 400), (1000, 2600), (30, 5000), (2000, 1000), (1, 1)])
def test_the_pieces_of_a_long_picture_share_it(size: tuple[int, int]) -> None:
    pieces = reader._pieces(size)
    along = 1 if size[1] > size[0] else 0
    parts = sorted((own[along], own[along + 2]) for _, own in pieces)
    assert parts[0][0] == 0
    assert parts[-1][1] == size[along]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(parts))
    for (left, top, right, bottom), own in pieces:
        assert left <= own[0] < own[2] <= right
        assert top <= own[1] < own[3] <= bottom


@pytest.mark.slow
def test_the_real_reader_reads_a_receipt_a_turned_one_and_a_long_one(photos: Path) -> None:
    pytest.importorskip("rapidocr")
    font = ImageFont.load_default(26)

    def sheet(lines: list[str], size: tuple[int, int]) -> Image.Image:
        image = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(image)
        for n, text in enumerate(lines):
            draw.text((30, 30 + n * (size[1] - 60) // len(lines)), text, font=font, fill="black")
        return image

    receipt = ["Corner Bakery", "Espresso 2.40", "Croissant 1.90", "Total 4.30"]
    sheet(receipt, (600, 400)).save(photos / "receipt.png")
    sheet(["Invoice 4711", "Due in March", "Thank you"], (600, 400)).rotate(90, expand=True).save(photos / "turned.jpg")
    sheet([f"message number {n}" for n in range(40)], (500, 4000)).save(photos / "chat.png")
    Image.effect_noise((600, 400), 30).convert("RGB").save(photos / "noise.png")
    index = index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1)).index
    report = read_words(index, ReadOptions(workers=1))
    assert report.read >= 3
    assert found(index, 'text:"espresso total"') == ["receipt.png"]
    assert found(index, 'text:"invoice 4711"') == ["turned.jpg"]
    with Collection(index, encoder=FakeEncoder()) as collection:
        (hit,) = collection.search('text:"number"')
        assert hit.record.path == "chat.png"
        with open_snapshot(index) as snapshot:
            files = WordFiles(index, snapshot.manifest.words)
            lines = files.lines(hit.record.content_hash)
            files.close()
        numbers = [int(line.text.split()[-1]) for line in lines if line.text.split()[-1].isdecimal()]
        assert sorted(numbers) == sorted(set(numbers)), "no line twice"
        assert len(set(numbers)) >= 38
        (hit,) = collection.search('text:"total"')
        left, top, width, height = hit.words[0].box
        assert 20 <= left <= 40
        assert 275 <= top <= 325
        assert 100 <= width <= 200
        assert 15 <= height <= 45
