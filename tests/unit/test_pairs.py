"""Pairs in every form that people have them in, whole and broken."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.errors import InvalidPairs, UnreadablePicture
from clipsearch.folding import is_blank
from clipsearch.pairs.reading import PairSet, expand_braces, open_pairs
from tests.support.pictures import picture


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed, size=(16, 12)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures without captions."""
    for number, name in enumerate(("a.jpg", "b.jpg", "sub/c.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(number))
    return tmp_path


def contents(pairs: PairSet) -> list[tuple[str, tuple[str, ...], bytes]]:
    return [(pair.key, pair.captions, pair.read()) for pair in pairs]


EXPECTED = [
    ("a.jpg", ("a cat", "a grey cat"), jpeg(0)),
    ("sub/c.jpg", ("three, in a row",), jpeg(2)),
    ("b.jpg", ("a dog",), jpeg(1)),
]
ROWS = [("a.jpg", "a cat"), ("sub/c.jpg", " three, in a row "), ("b.jpg", "a dog\n"), ("a.jpg", "a grey cat")]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t"), ("p.csv", "\t"), ("p.csv", ";"), ("captions.txt", ",")]
)
@pytest.mark.parametrize(
    "header", [("image", "caption"), ("filepath", "title"), ("File Name", "Text"), ("\ufeffpath", "sentence")]
)
def test_a_table_of_text(folder: Path, name: str, delimiter: str, header: tuple[str, str]) -> None:
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([*header, "number"])
        writer.writerows([[*row, number] for number, row in enumerate(ROWS)])
    pairs = open_pairs(folder / name)
    assert contents(pairs) == EXPECTED
    assert (len(pairs), pairs.caption_count, pairs.bad) == (3, 4, ())


@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson", "p.json"])
def test_a_table_of_json(folder: Path, name: str) -> None:
    rows = [
        {"file_name": "a.jpg", "captions": ["a cat", "a grey cat"]},
        {"captions": ["three, in a row"], "file_name": "sub/c.jpg"},
        {"file_name": "b.jpg", "captions": [{"raw": "a dog"}]},
    ]
    text = json.dumps(rows) if name == "p.json" else "\n\n".join(map(json.dumps, rows))
    (folder / name).write_text(text)
    assert contents(open_pairs(folder / name)) == EXPECTED


@pytest.mark.parametrize("several", [False, True])
def test_a_table_of_parquet(folder: Path, several: bool) -> None:
    images, captions = (list(column) for column in zip(*ROWS, strict=True))
    table = pa.table({"path": images, "text": captions, "width": [1, 2, 3, 4]})
    if several:
        table = pa.table({"path": [row[0] for row in EXPECTED], "text": [list(row[1]) for row in EXPECTED]})
    pq.write_table(table, folder / "p.parquet", row_group_size=2)
    assert contents(open_pairs(folder / "p.parquet")) == EXPECTED


def test_captions_beside_pictures(folder: Path) -> None:
    (folder / "a.txt").write_text("a cat\n\n  a grey cat \n")
    (folder / "b.json").write_text('{"caption": "a dog"}')
    (folder / "sub/c.txt").write_text("three")
    (folder / "sub/c.json").write_text('{"captions": ["three", "in a row"]}')
    (folder / ".clipsearch").mkdir()
    (folder / ".clipsearch/x.jpg").write_bytes(jpeg(5))
    (folder / "._a.jpg").write_bytes(b"macOS")
    pairs = open_pairs(folder)
    assert [(pair.key, pair.captions) for pair in pairs] == [
        ("a", ("a cat", "a grey cat")),
        ("b", ("a dog",)),
        ("sub/c", ("three", "in a row")),
    ]
    assert pairs.bad == ()
    assert pairs[-1].read() == jpeg(2)


def test_a_folder_with_a_metadata_table(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,text\nb.jpg,a dog\n")
    assert [pair.key for pair in open_pairs(folder)] == ["b.jpg"]


def test_tars_by_pattern_and_by_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-00.tar", {"x/0.jpg": jpeg(0), "x/0.json": b'{"captions": ["zero", "nought"]}'})
    write_tar(tmp_path / "s-01.tar", {"1.txt": b"one", "1.png": jpeg(1), "1.cls": b"7", "._1.png": b"macOS"})
    expected = [("x/0", ("zero", "nought"), jpeg(0)), ("1", ("one",), jpeg(1))]
    both: list[str | Path] = [str(tmp_path / "s-00.tar"), tmp_path / "s-01.tar"]
    sources: list[Sequence[str | Path] | str | Path] = [
        both,
        tmp_path,
        str(tmp_path / "s-*.tar"),
        str(tmp_path / "s-{00..01}.tar"),
        str(tmp_path / "s-{00,01}*"),
    ]
    for source in sources:
        pairs = open_pairs(source)
        assert contents(pairs) == expected, source
        assert pairs.bad == ()
    assert pairs[1].source.name.endswith("s-01.tar/1.png")


def test_everything_that_is_wrong_is_counted_and_nothing_else_is_lost(folder: Path) -> None:
    (folder / "p.jsonl").write_text(
        '{"image": "a.jpg", "caption": "a cat"}\n'
        '{"image": "a.jpg", "caption": "  "}\n'
        '{"image": "b.jpg"}\n'
        '{"image": "gone.jpg", "caption": "a ghost"}\n'
        '{"image": "https://example.org/x.jpg", "caption": "far away"}\n'
        '{"image": "sub/c.jpg", "caption": 7}\n'
        '{"image": null, "caption": "nothing"}\n'
        '{"image": "a\\u0000.jpg", "caption": "nothing"}\n'
        "not json\n"
        "[1, 2]\n"
        '{"image": "a.jpg", "caption": "a grey cat"}\n'
    )
    pairs = open_pairs(folder / "p.jsonl")
    assert contents(pairs) == [("a.jpg", ("a cat", "a grey cat"), jpeg(0))]
    assert pairs.bad_by_reason == {
        "missing_picture": 3,
        "malformed": 3,
        "web_address": 1,
        "empty_caption": 1,
        "no_caption": 1,
    }


def test_captions_of_marks_that_show_nothing_are_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    seen = "\u200bm\u00fcde Katze \ufeff"
    captions = ["\ufeff", "\u200b \u2060\n", "\u00a0", seen]
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"image": "a.jpg", "caption": one}) + "\n" for one in captions)
    )
    pairs = open_pairs(tmp_path / "p.jsonl")
    assert contents(pairs) == [("a.jpg", (seen.strip(),), jpeg(0))]
    assert pairs.bad_by_reason == {"empty_caption": 3}


def test_tars_and_folders_count_what_is_wrong_too(tmp_path: Path) -> None:
    members = {
        "good.jpg": jpeg(0),
        "good.txt": b"fine",
        "mute.jpg": jpeg(1),
        "blank.jpg": jpeg(2),
        "blank.txt": b" \n",
        "ghost.txt": b"who?",
        "broken.jpg": jpeg(3),
        "broken.json": b'{"caption": ',
    }
    reasons = {"no_caption": 1, "empty_caption": 1, "missing_picture": 1, "malformed": 1}
    (tmp_path / "loose").mkdir()
    for name, content in members.items():
        (tmp_path / "loose" / name).write_bytes(content)
    for source in (write_tar(tmp_path / "x.tar", members), tmp_path / "loose"):
        pairs = open_pairs(source)
        assert [pair.key for pair in pairs] == ["good"]
        assert pairs.bad_by_reason == reasons


@pytest.mark.parametrize("cut", [700, 512 * 4 + 100, 512 * 5 + 10])
def test_a_tar_that_ends_early_gives_what_it_has(tmp_path: Path, cut: int) -> None:
    whole = write_tar(tmp_path / "x.tar", {f"{n}.{s}": b"t" * 900 for n in range(3) for s in ("txt", "jpg")})
    data = whole.read_bytes()
    whole.write_bytes(data[: 512 * 6 + cut])
    pairs = open_pairs(whole)
    assert [pair.key for pair in pairs] == ["0"]
    assert pairs.bad_by_reason["damaged"] == 1


def test_a_tar_with_rubbish_inside_says_so(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {f"{n}.{s}": b"t" * 900 for n in range(3) for s in ("txt", "jpg")})
    data = bytearray(whole.read_bytes())
    data[512 * 6 : 512 * 7] = b"\x17" * 512
    whole.write_bytes(data)
    assert open_pairs(whole).bad_by_reason == {"damaged": 1}


def test_columns_can_be_named(folder: Path) -> None:
    (folder / "p.csv").write_text("image,de,image_small\nb.jpg,ein Hund,a.jpg\n")
    pairs = open_pairs(folder / "p.csv", image_column="image_small", caption_column="de")
    assert contents(pairs) == [("a.jpg", ("ein Hund",), jpeg(0))]
    with pytest.raises(InvalidPairs, match=r"no caption column \(it has: image, de, image_small\).*--caption-column"):
        open_pairs(folder / "p.csv")
    with pytest.raises(InvalidPairs, match="no column 'fr'"):
        open_pairs(folder / "p.csv", caption_column="fr")


def test_what_cannot_be_used_at_all_is_an_error_that_says_why(folder: Path) -> None:
    (folder / "urls.csv").write_text("url,caption\nhttps://example.org/a.jpg,a cat\n")
    (folder / "gone.csv").write_text("image,caption\nx.jpg,a cat\ny.jpg,\n")
    (folder / "latin.csv").write_bytes(b"image,caption\na.jpg,caf\xe9\n")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "text.tar").write_bytes(b"not a tar" * 100)
    (folder / "text.parquet").write_bytes(b"not Parquet" * 100)
    (folder / "half.json").write_text('[{"image": ')
    pq.write_table(pa.table({"image": [b"\xff\xd8"], "caption": ["x"]}), folder / "bytes.parquet")
    for source, message in {
        "urls.csv": "it contains URLs",
        "gone.csv": r"2 missing picture; first: x.jpg",
        "latin.csv": "not UTF-8",
        "empty.csv": "no image column",
        "text.tar": "not a readable tar",
        "text.parquet": "not a readable Parquet",
        "half.json": "not JSON",
        "bytes.parquet": "contains the pictures themselves",
        "none.csv": "no such file",
        "none-{1..2}.csv": "none-1.csv does not exist",
        "x.tar.gz": "no such file",
        "a.jpg": "not a table",
        "sub": "1 no caption",
    }.items():
        with pytest.raises(InvalidPairs, match=message):
            open_pairs(folder / source)


def test_a_picture_that_vanishes_later_is_unreadable(folder: Path) -> None:
    (folder / "p.csv").write_text("image,caption\nb.jpg,a dog\n")
    pairs = open_pairs(folder / "p.csv")
    (folder / "b.jpg").unlink()
    with pytest.raises(UnreadablePicture, match=r"b\.jpg: no such file"):
        pairs[0].read()


def test_a_set_survives_pickling_and_slicing(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar", {f"{n}.{s}": jpeg(n) if s == "jpg" else b"c" for n in range(5) for s in ("txt", "jpg")}
    )
    pairs = open_pairs(tmp_path / "x.tar")
    assert contents(pickle.loads(pickle.dumps(pairs))) == contents(pairs)
    assert contents(pairs[1:3]) == contents(pairs)[1:3]
    assert contents(pairs.subset([4, 0])) == [contents(pairs)[4], contents(pairs)[0]]


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    members = {"0.jpg": jpeg(0), "0.txt": b"zero", "1.jpg": jpeg(1), "1.txt": b"one"}
    (tmp_path / "x").mkdir()
    first = open_pairs(write_tar(tmp_path / "x.tar", members))
    moved = Path(shutil.copy(tmp_path / "x.tar", tmp_path / "x/y.tar"))
    assert open_pairs(moved).digest == first.digest
    swapped = jpeg(0)[:-20] + bytes(20)
    digests = {
        open_pairs(write_tar(tmp_path / "z.tar", changed)).digest
        for changed in (
            members | {"0.txt": b"null"},
            members | {"0.txt": b"zero\none"},
            members | {"1.jpg": swapped},
            dict(reversed(members.items())),
        )
    }
    assert len(digests | {first.digest, first[:1].digest}) == 6


caption = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0\x1c\x1d\x1e\x85\u2028\u2029\x0b\x0c"),
    max_size=20,
)


@given(st.lists(st.lists(caption, max_size=3), min_size=1, max_size=6))
def test_every_form_gives_the_same_pairs(tmp_path_factory: pytest.TempPathFactory, captions: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("pairs")
    for number in range(len(captions)):
        (root / f"{number}.jpg").write_bytes(bytes([number]))
    flat = [(f"{number}.jpg", said) for number, all_said in enumerate(captions) for said in all_said]
    with open(root / "p.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *flat])
    (root / "p.jsonl").write_text("\n".join(json.dumps({"image": i, "caption": c}) for i, c in flat) or " ")
    images = [f"{number}.jpg" for number in range(len(captions))]
    pq.write_table(
        pa.table({"image": images, "caption": pa.array(captions, pa.list_(pa.string()))}), root / "p.parquet"
    )
    tar = {
        f"{n}.{s}": bytes([n]) if s == "jpg" else json.dumps(c).encode()
        for n, c in enumerate(captions)
        for s in ("jpg", "json")
    }
    write_tar(root / "p.tar", tar)
    expected = [
        (f"{number}.jpg", kept, bytes([number]))
        for number, all_said in enumerate(captions)
        if (kept := tuple(said.strip() for said in all_said if not is_blank(said)))
    ]
    for name in ("p.csv", "p.jsonl", "p.parquet", "p.tar"):
        if not expected:
            with pytest.raises(InvalidPairs):
                open_pairs(root / name)
            continue
        pairs = open_pairs(root / name)
        found = [(key.removesuffix(".jpg") + ".jpg", said, data) for key, said, data in contents(pairs)]
        assert found == expected, name
        blank = sum(is_blank(said) for all_said in captions for said in all_said)
        assert pairs.bad_by_reason.get("empty_caption", 0) == blank


@given(st.integers(0, 12), st.integers(0, 12))
def test_ranges_expand_as_in_a_shell(first: int, last: int) -> None:
    step = 1 if last >= first else -1
    expected = [f"a{n:03d}b" for n in range(first, last + step, step)]
    assert expand_braces(f"a{{{first:03d}..{last:03d}}}b") == expected
    assert expand_braces(f"{{{first}..{last}}}") == [str(n) for n in range(first, last + step, step)]


def test_other_braces() -> None:
    assert expand_braces("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]
    assert expand_braces("{x}") == ["{x}"]
    assert expand_braces("x}{") == ["x}{"]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_never_more_than_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("damage")
    (root / "a.jpg").write_bytes(jpeg(0))
    table = pa.table({"image": ["a.jpg", "b.jpg"], "caption": ["one", "two"]})
    name = data.draw(st.sampled_from(["p.csv", "p.tsv", "p.jsonl", "p.json", "p.parquet", "p.tar"]))
    path = root / name
    if name == "p.tar":
        write_tar(path, {"a.jpg": b"x", "a.json": b'{"captions": ["one"]}', "b.txt": b"two"})
    elif name == "p.parquet":
        pq.write_table(table, path)
    elif name == "p.json":
        path.write_text(json.dumps(table.to_pylist()))
    elif name == "p.jsonl":
        path.write_text("\n".join(map(json.dumps, table.to_pylist())))
    else:
        path.write_text("image,caption\na.jpg,one\nb.jpg,two\n".replace(",", "\t" if name == "p.tsv" else ","))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
        content = content or bytearray(b" ")
    path.write_bytes(content)
    try:
        pairs = open_pairs(path)
    except InvalidPairs:
        return
    assert len(pairs) > 0
    assert all(pair.captions and all(text.strip() == text != "" for text in pair.captions) for pair in pairs)
    assert pairs.digest


def captioned(folder: Path, many: int) -> dict[str, str]:
    """Pictures with captions."""
    for number in range(many):
        (folder / f"{number:02d}.jpg").write_bytes(b"x%d" % number)
    return {f"{number:02d}.jpg": f"a thing, number {number}" for number in range(many)}


@pytest.mark.parametrize("later", ["", 'a 12" plate', 'the "Rose"', 'Rose"', '"quoted" text'])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_a_quote_that_is_not_closed_swallows_no_other_row(tmp_path: Path, delimiter: str, later: str) -> None:
    wanted = captioned(tmp_path, 20)
    wanted["05.jpg"] = '"Sunset over the bay'
    if later:
        wanted["11.jpg"] = later
    lines = [f"{image}{delimiter}{said}" for image, said in wanted.items()]
    if delimiter == ",":  # as it quotes all but the slips
        lines = [
            line if image == "05.jpg" or (later and image == "11.jpg") else f'{image},"{wanted[image]}"'
            for image, line in zip(wanted, lines, strict=True)
        ]
    (tmp_path / "p.txt").write_text("\n".join([f"image{delimiter}caption", *lines]) + "\n")
    pairs = open_pairs(tmp_path / "p.txt")
    found = {pair.key: pair.captions[0] for pair in pairs}
    if delimiter == "\t":
        assert (found, pairs.bad) == (wanted, ())
        return
    assert [(entry.entry, entry.reason) for entry in pairs.bad] == [("line 7", "malformed")]
    del wanted["05.jpg"]
    found |= {"11.jpg": wanted["11.jpg"]} if later == '"quoted" text' else {}  # of which CSV drops the quotes
    assert found == wanted


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_a_caption_may_have_lines_between_quotes(tmp_path: Path, delimiter: str) -> None:
    wanted = captioned(tmp_path, 3)
    wanted["01.jpg"] = 'A dog, brown\n\nruns, fast\r\nafter a "ball"; it\tis red'
    with open(tmp_path / "p.csv", "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("image", "caption"), *wanted.items()])
    pairs = open_pairs(tmp_path / "p.csv")
    assert ({pair.key: pair.captions[0] for pair in pairs}, pairs.bad) == (wanted, ())


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_an_entry_without_image_or_caption_is_counted_wherever_it_is(tmp_path: Path, ending: str) -> None:
    wanted = captioned(tmp_path, 6)
    rows = [{"image": image, "caption": said} for image, said in wanted.items()]
    rows = [{"image": "00.jpg"}, *rows[1:3], {"caption": "lost"}, {}, *rows[3:5], {"image": "05.jpg"}]
    text = json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows))
    (tmp_path / f"p.{ending}").write_text(text)
    pairs = open_pairs(tmp_path / f"p.{ending}")
    assert {pair.key for pair in pairs} == {f"0{n}.jpg" for n in range(1, 5)}
    assert pairs.bad_by_reason == {"missing_picture": 2, "no_caption": 2}
    (tmp_path / "none.jsonl").write_text('{"picture": 3}\n{"caption": "x"}\n')
    with pytest.raises(InvalidPairs, match=r"line 1: no caption column \(it has: picture\)"):
        open_pairs(tmp_path / "none.jsonl")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_tables_in_utf_16_are_read(tmp_path: Path, encoding: str) -> None:
    wanted = captioned(tmp_path, 3) | {"01.jpg": "ein Schloß \N{FIRE}"}
    mark = "" if encoding == "utf-16" else "\ufeff"
    text = "".join(f"{image}\t{said}\r\n" for image, said in {"image": "caption", **wanted}.items())
    (tmp_path / "p.txt").write_bytes((mark + text).encode(encoding))
    assert {pair.key: pair.captions[0] for pair in open_pairs(tmp_path / "p.txt")} == wanted
    lines = "".join(json.dumps({"image": i, "caption": c}, ensure_ascii=False) + "\n" for i, c in wanted.items())
    (tmp_path / "p.jsonl").write_bytes((mark + lines).encode(encoding))
    assert {pair.key: pair.captions[0] for pair in open_pairs(tmp_path / "p.jsonl")} == wanted
    (tmp_path / "cut.csv").write_bytes((mark + "image,caption\n00.jpg,a cat").encode(encoding)[:-1])
    with pytest.raises(InvalidPairs, match="begins as UTF-16, and is damaged"):
        open_pairs(tmp_path / "cut.csv")
