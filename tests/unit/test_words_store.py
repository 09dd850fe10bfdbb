"""Words in pictures: kept, found by parts, and kept through everything that happens to an index."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import clipsearch
from clipsearch.errors import CorruptIndex, MalformedQuery, MissingFeature, UnsupportedIndex
from clipsearch.folding import folded_words
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.compact import compact
from clipsearch.indexer.repair import repair
from clipsearch.indexer.status import read_status
from clipsearch.indexer.verify import verify
from clipsearch.records import Line, Manifest, WordsRef
from clipsearch.search.collection import Collection
from clipsearch.store import Writer, open_snapshot, words
from clipsearch.store.hashes import hash_keys, hash_texts
from clipsearch.store.words import ReadPicture, WordFiles, WordsFile, add_words, compacted, text_of
from tests.support.breadth import tries
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill
from tests.support.words import line, read_picture, write_words

ONE_WORKER = IndexOptions(workers=1)


def index_of(photos: Path, pictures: int = 4) -> Path:
    fill(photos, pictures)
    return index_folder(photos, FakeEncoder(), options=ONE_WORKER).index


def manifest_of(index: Path) -> Manifest:
    with open_snapshot(index) as snapshot:
        return snapshot.manifest


@contextmanager
def opened(index: Path) -> Iterator[Collection]:
    with Collection(index, encoder=FakeEncoder()) as photos:
        yield photos


def found(index: Path, query: str) -> list[str]:
    with opened(index) as photos:
        return sorted(hit.record.path for hit in photos.search(query, k=100))


def names(index: Path) -> list[str]:
    with opened(index) as photos:
        return sorted(record.path for record in photos)


def test_text_finds_parts_of_words_in_any_writing(photos: Path) -> None:
    index = index_of(photos)
    a, b, c, d = names(index)
    write_words(index, {a: ["RE16 TGK", "Straße"], b: ["re16tgk and more"], c: ["Ｃafé №5", "請求書"], d: []})
    for query, expected in {
        "text:tgk": [a, b],
        'text:"re16 tgk"': [a, b],
        'text:"TGK re16"': [a, b],
        "text:re16tgk": [a, b],
        "text:strasse": [a],
        "text:CAFE": [c],
        "text:no5": [c],
        "text:請": [c],
        "text:求書": [c],
        "text:5": [c],
        "text:tg": [a, b],
        'text:"re16 more"': [b],
        'text:"re16 5"': [],
        "text:6t": [a, b],
        "not text:tgk": [c, d],
        "text:tgk not text:more": [a],
        "text:more or text:cafe": [b, c],
        'text:"%"': [],
        "text:_": [],
        "text:*": [],
        "text:' or text:tgk": [a, b],
    }.items():
        assert found(index, query) == expected, query
    with pytest.raises(MalformedQuery, match="text: needs a word"):
        found(index, 'text:"\u200b"')


def test_hits_show_the_lines_that_were_asked_for(photos: Path) -> None:
    index = index_of(photos)
    a, b, *_ = names(index)
    write_words(index, {a: ["Total", "EUR 12", "Thanks"], b: ["total"]})
    with opened(index) as photos_:
        first, second = sorted(photos_.search('text:"tot"'), key=lambda hit: hit.record.path)
        assert first.words == (line("Total", 0),)
        assert second.words == (line("total", 0),)
        (only,) = photos_.search('text:"total eur"')
        assert only.words == (line("Total", 0), line("EUR 12", 12))
        assert only.to_dict()["words"][1] == {"text": "EUR 12", "box": [4, 12, 48, 10], "score": 0.9}
        assert all(not hit.words for hit in photos_.search("not text:total"))


def test_where_nothing_was_read_a_line_says_how(photos: Path) -> None:
    index = index_of(photos)
    with opened(index) as collection:
        assert collection.search("text:total") == []
        assert any("clipsearch read" in told for told in collection.notices("text:total"))
        assert not any("clipsearch read" in told for told in collection.notices("red"))
    write_words(index, {names(index)[0]: []})
    with opened(index) as collection:
        assert not any("clipsearch read" in told for told in collection.notices("text:total"))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["Total 12.50", "total", 'say "no"', "%_"])


@given(texts=st.lists(st.lists(TEXTS, max_size=3), min_size=1, max_size=5), data=st.data())
@settings(max_examples=tries("CLIPSEARCH_EXAMPLES", 20, 60), deadline=None)
def test_what_is_found_is_what_holds_all_words(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("index")
    pictures = [read_picture(f"{n:032x}", *lines) for n, lines in enumerate(texts)]
    held = ["".join(lines) for lines in texts if lines] or ["x"]
    part = st.sampled_from(held).flatmap(
        lambda text: st.tuples(st.integers(0, len(text)), st.integers(1, 5)).map(lambda at: text[at[0] :][: at[1]])
    )
    asked = data.draw(st.lists(part | TEXTS, min_size=1, max_size=3))
    with Writer(folder / "i") as writer:
        refs = add_words(writer, Manifest(0, "", "..", None, 0), pictures).words  # type: ignore[arg-type]
    files = WordFiles(folder / "i", refs)
    folded = [folded_words(word) for word in asked]
    expected = {p.content_hash for p in pictures if all(folded) and all(word in text_of(p.lines) for word in folded)}
    assert set(hash_texts(files.holding(asked))) == expected
    for picture in pictures:
        assert files.lines(picture.content_hash) == list(picture.lines)
    files.close()
    shutil.rmtree(folder)


def test_files_are_merged_as_they_grow_in_number(tmp_path: Path) -> None:
    with Writer(tmp_path / "i") as writer:
        manifest = Manifest(0, "", "..", None, 0)  # type: ignore[arg-type]
        for n in range(130):
            manifest = add_words(writer, manifest, [read_picture(f"{n:032x}", f"word{n}")])
            assert len(manifest.words) <= 21
        assert sum(ref.pictures for ref in manifest.words) == 130
        manifest = add_words(writer, manifest, [ReadPicture("0" * 32, (line("other"),))] * 1)
        files = WordFiles(tmp_path / "i", manifest.words)
        assert all(len(files.holding([f"word{n}"])) for n in range(130))
        assert files.lines("0" * 32) == [line("other")]  # the newest
        files.close()


@given(changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=20))
@example(changes=[(0, 2), *((number, 3) for number in range(20, 30))])
@settings(max_examples=tries("CLIPSEARCH_EXAMPLES", 2, 4), deadline=None)
def test_what_was_read_again_is_found_by_its_newest_words_alone(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """However many files there are, in whatever order they were merged; also after compaction."""
    folder = tmp_path_factory.mktemp("index")
    now: dict[str, str | None] = {f"{n:032x}": "word1" for n in range(20)}
    with Writer(folder / "i") as writer:
        manifest = Manifest(0, "", "..", None, 0)  # type: ignore[arg-type]
        manifest = add_words(writer, manifest, [read_picture(key, "word1") for key in now])
        for number, word in changes:
            key, text = f"{number:032x}", f"word{word}" if word else None
            read = ReadPicture(key, (line(text),) if text else (), again=key in now)
            now[key] = text
            manifest = add_words(writer, manifest, [read])
        for compact in (False, True):
            if compact:
                manifest = compacted(writer, manifest, hash_keys(now))
            files = WordFiles(folder / "i", manifest.words)
            for asked in ("word1", "word2", "word3"):
                expected = {key for key, text in now.items() if text == asked}
                assert set(hash_texts(files.holding([asked]))) == expected, (asked, compact)
            for key, text in now.items():
                assert files.lines(key) == ([line(text)] if text else [])
            files.close()
    shutil.rmtree(folder)


def test_words_stay_through_renames_copies_removals_and_compaction(photos: Path) -> None:
    index = index_of(photos)
    a, b, *_ = names(index)
    write_words(index, {a: ["alpha"], b: ["beta"]})
    (photos / a).rename(photos / "renamed.png")
    shutil.copy(photos / b, photos / "copy.png")
    index_folder(photos, FakeEncoder(), options=ONE_WORKER)
    assert found(index, "text:alpha") == ["renamed.png"]
    assert found(index, "text:beta") == sorted([b, "copy.png"])
    (photos / b).unlink()
    (photos / "copy.png").unlink()
    index_folder(photos, FakeEncoder(), options=ONE_WORKER)
    assert found(index, "text:beta") == []
    (before,) = manifest_of(index).words
    assert before.pictures == 2
    compact(index)
    (after,) = manifest_of(index).words
    assert (after.pictures, after.written) == (1, 1)  # what was deleted is forgotten
    assert found(index, "text:alpha") == ["renamed.png"]
    index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1, reindex=True))
    assert found(index, "text:alpha") == ["renamed.png"]
    assert verify(index).ok
    assert read_status(index).words_read == 1


def test_damage_is_found_and_put_aside(photos: Path) -> None:
    index = index_of(photos)
    a, b, *_ = names(index)
    write_words(index, {a: ["alpha"]})
    write_words(index, {b: ["beta"]})
    first, second = manifest_of(index).words
    path = index / first.file.path
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + b"?" + whole[5001:])
    with opened(index) as photos_, pytest.raises(CorruptIndex):
        photos_.search("text:alpha")
    assert [problem.file for problem in verify(index).problems] == [first.file.path]
    report = repair(index)
    assert any("clipsearch read" in action for action in report.actions)
    assert verify(index).ok
    assert manifest_of(index).words == (second,)
    assert found(index, "text:beta") == [b]
    assert any(path.name == first.file.path.split("/")[1] for path in (index / "damaged").rglob("*.words"))


def test_a_file_that_does_not_hold_what_it_says_is_a_problem(photos: Path) -> None:
    index = index_of(photos)
    write_words(index, {names(index)[0]: ["alpha"]})
    (ref,) = manifest_of(index).words
    with WordsFile(index, ref) as file:
        file.check()
    with WordsFile(index, WordsRef(ref.file, 2, 1)) as file, pytest.raises(CorruptIndex, match="1 pictures"):
        file.check()


def test_words_come_back_where_all_manifests_are_lost(photos: Path) -> None:
    index = index_of(photos)
    a, *_ = names(index)
    write_words(index, {a: ["alpha"]})
    for path in (index / "manifests").iterdir():
        path.write_text("gone")
    repair(index)
    assert found(index, "text:alpha") == [a]


def test_older_writers_are_kept_from_losing_words_and_older_readers_answer(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(photos)
    assert "words" not in manifest_of(index).writer_features
    write_words(index, {names(index)[0]: ["alpha"]})
    manifest = manifest_of(index)
    assert manifest.writer_features == ("words",)
    assert manifest.reader_features == ()
    monkeypatch.setattr("clipsearch.store.writer.KNOWN_WRITER_FEATURES", frozenset({"tags"}))
    with Writer(index) as writer, pytest.raises(UnsupportedIndex, match="words"):
        writer.current()


def test_without_the_index_of_sqlite_texts_are_gone_through(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(photos)
    a, *_ = names(index)
    write_words(index, {a: ["alpha beta"]})

    def lacks() -> None:
        raise MissingFeature("this SQLite lacks FTS5", "Use another")

    monkeypatch.setattr(words, "check_sqlite", lacks)
    assert found(index, 'text:"alpha bet"') == [a]
    assert verify(index).ok
    with pytest.raises(MissingFeature):
        write_words(index, {a: ["gamma"]})


def test_many_threads_ask_at_once(photos: Path) -> None:
    index = index_of(photos)
    a, *_ = names(index)
    write_words(index, {a: ["alpha"]})
    failed: list[BaseException] = []
    with opened(index) as collection:

        def ask() -> None:
            try:
                for _ in range(20):
                    assert [hit.words for hit in collection.search("text:alp")] == [(line("alpha"),)]
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert isinstance(clipsearch.open(index, encoder=FakeEncoder()).words.lines(None), list)
    assert Line.from_dict(line("x").to_dict()) == line("x")
