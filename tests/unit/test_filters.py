"""Filters equal a brute-force reading of the metadata, through the parser, the columns file and the index."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.errors import CorruptIndex, MalformedQuery, UnknownTag
from clipsearch.folding import fold, fold_name
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.indexer.segments import write_rows_file
from clipsearch.query import fields as query_fields
from clipsearch.query import parse_query
from clipsearch.query.fields import KINDS
from clipsearch.query.nodes import AllOf, AnyOf, Filter, Glob, Near, Not, Oriented, Range, Seen, Tagged
from clipsearch.records import COLORS, TRAITS, ImageRecord, PictureMetadata
from clipsearch.search.collection import Collection
from clipsearch.search.filters import folder_fits, passing
from clipsearch.store import RowsFile, Writer
from clipsearch.store import columns as columns_module
from clipsearch.store.columns import build_columns
from clipsearch.store.files import HashingFile
from clipsearch.store.rows import write_rows
from clipsearch.store.tags import write_tags
from tests.support.breadth import tries
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill

EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 20, 60)

words = st.sampled_from(["a", "b", "ab", "Rome", "rome 2", "Café", "cafe\u0301", "ÉTÉ", "trips", "x[1]", "\udce9", "ß"])
extensions = st.sampled_from([".jpg", ".JPEG", ".png", ".tiff", "", ".tar.gz", "."])
paths = st.builds(
    lambda folders, name, ext: "/".join([*folders, name + ext]), st.lists(words, max_size=4), words, extensions
)
pictures = st.builds(
    ImageRecord,
    row_id=st.just(0),
    path=paths,
    size_bytes=st.integers(0, 20_000_000),
    mtime_ns=st.integers(-(10**18), 2 * 10**18),
    inode=st.just(1),
    content_hash=st.binary(min_size=16, max_size=16).map(bytes.hex),
    width=st.none() | st.integers(1, 4000),
    height=st.none() | st.integers(1, 4000),
    traits=st.integers(0, 2 ** len(TRAITS) - 1),
    colors=st.integers(0, 2 ** len(COLORS) - 1),
    metadata=st.builds(
        PictureMetadata,
        taken_at=st.none()
        | st.datetimes(datetime(1950, 1, 1), datetime(2030, 1, 1)).map(datetime.isoformat)
        | st.sampled_from(["nonsense", "2023-05-01", "2023-05-01T00:00:00+02:00"]),
        camera=st.none() | st.sampled_from(["Canon EOS", "NIKON D90", "", "Käm [1]"]),
        latitude=st.none() | st.floats(-90, 90),
        longitude=st.none() | st.floats(-180, 180),
        title=st.none() | st.sampled_from(["Rome", "a", "Été à la plage"]),
        caption=st.none() | st.sampled_from(["a\nrome 2", "Käm [1]", "café"]),
        keywords=st.lists(st.sampled_from(["a", "Rome", "Places|Italy|Rome", "a|b|c", "x[1]", "Café"]), max_size=3).map(
            tuple
        ),
        people=st.lists(st.sampled_from(["Ann B", "ann", "Éva"]), max_size=2).map(tuple),
        rating=st.none() | st.sampled_from([-1, 1, 2, 3, 4, 5]),
    ),
)
collections = st.lists(pictures, max_size=25).map(
    lambda records: [dataclasses.replace(record, row_id=3 * n) for n, record in enumerate(records)]
)

quotable = st.sampled_from(
    ["a", "?", "*", "a*", "*a", "rome*", "ROME", "*.jp?g", "café", "e\u0301*", "x[1]", "b?", "ss"]
)
folders = st.lists(st.sampled_from(["a", "b", "*", "**", "ab", "rome*", "trips", "?", "CAFÉ"]), min_size=1, max_size=4)
leaves = st.one_of(
    st.builds(lambda parts, lead: f'folder:"{lead}{"/".join(parts)}"', folders, st.sampled_from(["", "/"])),
    st.builds(lambda value: f'name:"{value}"', quotable),
    st.builds(lambda value: f'camera:"{value}"', st.sampled_from(["canon", "*d90", "nikon*", "[1]", "*"])),
    st.builds(lambda value: f"ext:{value}", st.sampled_from(["jpg", "jpeg,png", ".GZ", "ti*", "tif"])),
    st.builds(
        lambda name, day: f"{name}:{day:%Y-%m-%d}",
        st.sampled_from(["after", "before"]),
        st.dates(datetime(1950, 1, 1).date(), datetime(2030, 1, 1).date()),
    ),
    st.builds(lambda name: f"{name}:2023-05", st.sampled_from(["after", "before"])),
    st.builds(
        lambda name, operator, number: f"{name}:{operator}{number}",
        st.sampled_from(["width", "height"]),
        st.sampled_from(["", "=", ">", ">=", "<", "<="]),
        st.integers(0, 4000),
    ),
    st.builds(lambda operator, number: f"size:{operator}{number}MB", st.sampled_from([">", "<="]), st.integers(0, 20)),
    st.builds(lambda shape: f"orientation:{shape}", st.sampled_from(["landscape", "portrait", "square"])),
    st.builds(lambda names: f"is:{','.join(names)}", st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)),
    st.builds(lambda names: f"color:{','.join(names)}", st.lists(st.sampled_from(COLORS), min_size=1, max_size=3)),
    st.builds(
        lambda place, km: f"near:{place[0]:.3f},{place[1]:.3f},{km}km",
        st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
        st.integers(1, 20_100),
    ),
    st.sampled_from(["tag:red", "tag:RED", 'tag:"a tag"']),
    st.builds(lambda value: f'caption:"{value}"', quotable),
    st.builds(lambda value: f'person:"{value}"', st.sampled_from(["ann", "ann*", "*b", "eva", "?"])),
    st.builds(
        lambda value: f'keyword:"{value}"',
        st.sampled_from(
            ["italy", "rome*", "*", "?", "italy|rome", "italy/r*", "a|?", "PLACES/*", "b|c", "café", "s|i"]
        ),
    ),
    st.builds(
        lambda operator, number: f"rating:{operator}{number}",
        st.sampled_from(["", "=", ">", ">=", "<", "<="]),
        st.integers(-1, 5),
    ),
)
queries = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda part: f"not ({part})"),
        inner.map(lambda part: f"-({part})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(" + " or ".join(f"({p})" for p in parts) + ")"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(" + " ".join(f"({p})" for p in parts) + ")"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}) and ({pair[1]})"),
    ),
    max_leaves=6,
)


# --- brute force: one record at a time, written from docs/query.md and not from the code ------------------


def glob_fits(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return glob_fits(pattern[1:], text) or (bool(text) and glob_fits(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and glob_fits(pattern[1:], text[1:])


def path_fits(parts: list[str], names: list[str]) -> bool:
    if not parts:
        return True  # and everything below
    if parts[0] == "**":
        return path_fits(parts[1:], names) or (bool(names) and path_fits(parts, names[1:]))
    return bool(names) and glob_fits(parts[0], names[0]) and path_fits(parts[1:], names[1:])


def same(text: str) -> str:
    latin = (
        os.fsencode(c).decode("latin-1") if "\udc80" <= c <= "\udcff" else c for c in text
    )  # as docs/query.md says
    text = "".join(b if b.isalpha() else a for a, b in zip(text, latin, strict=True))
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if unicodedata.combining(c) < 200)


def moment_of(record: ImageRecord) -> datetime:
    epoch = datetime(1970, 1, 1)
    try:
        taken = datetime.fromisoformat(record.metadata.taken_at or "")
    except ValueError:
        return epoch + timedelta(microseconds=record.mtime_ns // 1000)
    return taken.astimezone(UTC).replace(tzinfo=None) if taken.tzinfo else taken


def kilometres(a: tuple[float, float], b: tuple[float, float]) -> float:
    x, y = ([math.radians(degrees) for degrees in place] for place in (a, b))
    cosine = math.sin(x[0]) * math.sin(y[0]) + math.cos(x[0]) * math.cos(y[0]) * math.cos(y[1] - x[1])
    return 6371.0088 * math.acos(max(-1.0, min(1.0, cosine)))


def passes(record: ImageRecord, node: Filter, tags: dict[str, set[str]]) -> bool | None:
    """None where the answer hangs on rounding: at the very edge of a circle."""
    meta = record.metadata
    if isinstance(node, AllOf | AnyOf):
        answers = [passes(record, part, tags) for part in node.parts]
        decided = isinstance(node, AnyOf)
        return decided if decided in answers else None if None in answers else not decided
    if isinstance(node, Not):
        answer = passes(record, node.part, tags)
        return None if answer is None else not answer
    folder, _, name = record.path.rpartition("/")
    if isinstance(node, Tagged):
        return record.content_hash in tags[fold(node.name)]
    if isinstance(node, Oriented):
        if record.width is None or record.height is None:
            return False
        order = (record.width > record.height) - (record.width < record.height)
        return {"landscape": 1, "portrait": -1, "square": 0}[node.shape] == order
    if isinstance(node, Seen):
        names_known, bits = (COLORS, record.colors) if node.column == "color" else (TRAITS, record.traits)
        own = {name for number, name in enumerate(names_known) if bits & 2**number}
        sides = sorted((record.width or 0, record.height or 0))
        if node.column == "is" and "photo" in own and sides[1] >= 2 * sides[0]:
            own.add("panorama")
        return bool(own & set(node.names))
    if isinstance(node, Near):
        if meta.latitude is None or meta.longitude is None:
            return False
        far = kilometres((node.latitude, node.longitude), (meta.latitude, meta.longitude)) - node.radius_m / 1000
        return None if abs(far) < 0.5 else far < 0
    if isinstance(node, Range):
        value: float | None
        if node.column == "date":
            value = (moment_of(record) - datetime(1970, 1, 1)) / timedelta(microseconds=1)
        else:
            known = {"width": record.width, "height": record.height, "size": record.size_bytes, "rating": meta.rating}
            value = known[node.column]
        if value is None:
            return False
        return (node.low is None or value >= node.low) and (node.high is None or value < node.high)
    assert isinstance(node, Glob)
    for value_ in map(same, node.values):
        wild = "*" in value_ or "?" in value_
        if node.column == "folder":
            parts = [part for part in value_.split("/") if part]
            if "/" not in value_:
                parts = ["**", *parts]
            answer = path_fits(parts, same(folder).split("/") if folder else [])
        elif node.column == "ext":
            stem, dot, ext = same(name).rpartition(".")
            alias = {"jpeg": "jpg", "tiff": "tif"}
            ext, wanted = (ext if dot and stem else ""), value_.removeprefix(".")
            answer = glob_fits(wanted, ext) if wild else alias.get(ext, ext) == alias.get(wanted, wanted)
        elif node.column == "keyword":
            levels = [same(keyword).split("|") for keyword in meta.keywords]
            if not wild:
                answer = any(value_.replace("|", "/") in "/".join(parts) for parts in levels)
            else:
                parts_of = [parts[a:b] for parts in levels for a in range(len(parts)) for b in range(a + 1, 9)]
                answer = any(glob_fits(value_.replace("|", "/"), "/".join(parts)) for parts in parts_of)
        elif node.column in ("person", "caption"):
            captions = [meta.title or "", *(meta.caption or "").split("\n")]
            texts = [same(text) for text in (meta.people if node.column == "person" else captions) if text]
            answer = any(glob_fits(value_, text) if wild else value_ in text for text in texts)
        else:
            text = same(name) if node.column == "name" else None if not meta.camera else same(meta.camera)
            answer = text is not None and (glob_fits(value_, text) if wild else value_ in text)
        if answer:
            return True
    return False


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(collections, queries, st.data())
def test_filters_equal_brute_force(records: list[ImageRecord], query: str, data: st.DataObject) -> None:
    parsed = parse_query(query)
    assert parsed.filter is not None
    assert not parsed.terms
    hashes = [record.content_hash or "" for record in records]
    chosen = {name: data.draw(st.sets(st.sampled_from(hashes))) if hashes else set() for name in ("red", "a tag")}
    columns = build_columns(records)
    mask = passing(
        parsed.filter, columns, lambda name: np.array([value in chosen[fold(name)] for value in hashes], bool)
    )
    for record, found in zip(records, mask, strict=True):
        expected = passes(record, parsed.filter, chosen)
        assert expected is None or expected == found, record
    rest = passing(Not(parsed.filter), columns, lambda n: np.array([v in chosen[fold(n)] for v in hashes], bool))
    assert np.array_equal(rest, ~mask)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(collections)
def test_columns_are_read_as_they_were_written(records: list[ImageRecord]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Writer(Path(folder)) as writer:
        records = [dataclasses.replace(record, row_id=n, status="ok", reason=None) for n, record in enumerate(records)]
        columns = build_columns(records)
        ref = write_rows_file(writer, lambda: [records])
        again = RowsFile(Path(folder) / ref.path, Path(folder)).columns
        assert again == columns
        assert again.names == [fold_name(record.path).rpartition("/")[2] for record in records]
        raw = (Path(folder) / ref.path).read_bytes()
        for bad in (raw[:-1], raw[1:], b"", raw[:20], raw.replace(b"CLIPROW2", b"CLIPROWX")):
            (Path(folder) / "x").write_bytes(bad)
            with pytest.raises(CorruptIndex):
                RowsFile(Path(folder) / "x", Path(folder))


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("trips", ["trips", "trips/rome", "old/trips", "old/trips/x"], ["", "tripsx", "x-trips"]),
        ("/trips", ["trips", "trips/rome"], ["old/trips", ""]),
        ("trips/**", ["trips", "trips/rome", "trips/rome/x"], ["old/trips", ""]),
        ("trips/*", ["trips/rome", "trips/rome/x"], ["trips", "old/trips/x"]),
        ("trips/**/rome", ["trips/rome", "trips/a/rome", "trips/a/b/rome/c"], ["rome", "trips/romex"]),
        ("**/rome", ["rome", "trips/rome", "a/b/rome/c"], ["romex"]),
        ("20??", ["2023", "x/2024/y"], ["202", "20234"]),
        ("/", ["", "a"], []),
        ("**", ["", "a"], []),
    ],
)
def test_folder_patterns(pattern: str, fitting: list[str], others: list[str]) -> None:
    test = folder_fits(pattern)
    assert [folder for folder in fitting if not test(folder)] == []
    assert [folder for folder in others if test(folder)] == []


@pytest.mark.parametrize("pattern", ["*a" * 2000, "?*" * 2000, "**/a/" * 1500, "*" * 4000])
def test_no_pattern_takes_long(pattern: str) -> None:
    records = [
        ImageRecord(n, f"{'a/' * 200}{'a' * 250}{n}", 1, 1, 1, None, metadata=PictureMetadata(camera="a" * 100))
        for n in range(20)
    ]
    columns = build_columns(records)
    for name in ("folder", "name", "camera"):
        began = time.process_time()
        try:
            expression = parse_query(f"{name}:{pattern}").filter
        except MalformedQuery:
            continue
        assert expression is not None
        passing(expression, columns, lambda _: np.zeros(20, bool))
        assert time.process_time() - began < 5


# --- through the index -----------------------------------------------------------------------------------


@pytest.fixture
def index(photos: Path) -> Path:
    fill(photos, 24)
    report = index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    (photos / "set000" / "p00003.jpg").unlink()
    fill(photos, 6, first=24)
    index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1))
    return report.index


def found(index: Path, query: str, **options: object) -> list[str]:
    with Collection(index, encoder=FakeEncoder()) as collection:
        return [hit.record.path for hit in collection.search(query, 1000, all=True, **options)]  # type: ignore[call-overload]


def test_a_filter_keeps_the_order_of_the_query(index: Path) -> None:
    everything = found(index, "red")
    assert len(everything) == 29
    assert found(index, "red folder:set001") == [path for path in everything if path.startswith("set001/")]
    assert found(index, "red -folder:set001") == [path for path in everything if not path.startswith("set001/")]
    assert found(index, "red name:p00003.jpg") == []  # deleted
    assert found(index, "red name:p00007*") == ["set000/p00007.jpg"]
    assert found(index, "folder:set001 ext:png") == []


def test_filters_alone_list_by_path_or_by_date(index: Path, photos: Path) -> None:
    assert found(index, "folder:set002", sort="path") == [f"set002/p{n:05d}.jpg" for n in range(20, 30)]
    by_date = found(index, "folder:set002")
    times = [(photos / path).stat().st_mtime_ns // 1000 for path in by_date]
    assert times == sorted(times, reverse=True)
    with Collection(index) as collection:
        hits = collection.search("folder:set002", 3)
        assert [hit.rank for hit in hits] == [1, 2, 3]
        assert all(math.isnan(hit.score) for hit in hits)


def test_tags_filter_by_content(index: Path) -> None:
    with Collection(index, encoder=FakeEncoder()) as collection:
        wanted = collection.search("blue", 3, all=True)
    write_tags(index, {"my tag": {hit.record.content_hash or "": 1.0 for hit in wanted}})
    assert sorted(found(index, 'tag:"MY tag"')) == sorted(hit.record.path for hit in wanted)
    assert len(found(index, 'not tag:"my tag"')) == 26
    assert found(index, "tag:other") == []
    assert len(found(index, "not tag:other")) == len(found(index, "ext:jpg or not ext:jpg"))
    with Collection(index, encoder=FakeEncoder()) as collection:
        (line,) = collection.notices("not tag:other")
        assert "no tag or concept is called other" in line and "my tag" in line
        assert collection.search("red tag:other", all=True) == []
        with pytest.raises(UnknownTag, match="my tag"):
            collection.search("like:other")


def test_sums_and_ids_and_orders(index: Path) -> None:
    with Collection(index, encoder=FakeEncoder()) as photos:
        first, second = photos.search("red", 2, all=True)
        assert photos.search(f"like:{first.record.row_id}", 1)[0].record == first.record
        mixed = photos.query_vector(photos.parse(f"2:red - like:{second.record.row_id}"))
        assert mixed is not None
        expected = 2 * photos.encode_query("red") - photos.vector(second.record.row_id)
        assert mixed == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
        for order in ("date", "path"):
            hits = photos.search("red", 10, all=True, sort=order)
            every = photos.search("red", 99, all=True, sort=order)  # all are put in this order, not the best ten
            assert [hit.record.row_id for hit in hits] == [hit.record.row_id for hit in every[:10]]
            assert {hit.record.row_id for hit in every} == set(photos.row_ids().tolist())
            assert [hit.rank for hit in hits] == list(range(1, 11))
        assert [hit.path for hit in hits] == sorted(hit.path for hit in hits)
        with pytest.raises(MalformedQuery, match="the index has no picture 999"):
            photos.search("like:999")
        with pytest.raises(MalformedQuery, match="opens no files by path"):
            photos.search("./x.jpg", local_files=False)
        assert photos.parse(hits[0].path, local_files=True).terms[0].kind == "picture"


def test_terms_that_cancel_each_other_are_refused(index: Path) -> None:
    with Collection(index, encoder=FakeEncoder()) as photos, pytest.raises(Exception, match="cancel each other"):
        photos.search("red - red")


def test_a_filter_on_numbers_that_are_reckoned_is_a_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    line = query_fields.Field(
        "megapixels",
        "number",
        lambda columns: columns["width"].astype(np.int64) * columns["height"],
        "by millions of pixels",
        ("megapixels:>12",),
        ("megapixels:>12",),
        units={"": 10**6},
    )
    monkeypatch.setitem(query_fields.FIELDS, line.name, line)
    monkeypatch.setitem(query_fields.FILTERS, line.name, line)
    sizes = [(4000, 3000), (4001, 3000), (None, None), (1000, 1000)]
    records = [
        ImageRecord(n, f"{n}.jpg", 1, 0, 1, None, width=width, height=height) for n, (width, height) in enumerate(sizes)
    ]
    columns = build_columns(records)

    def found(query: str) -> list[int]:
        parsed = parse_query(query).filter
        assert parsed is not None
        return np.flatnonzero(passing(parsed, columns, lambda name: np.zeros(4, bool))).tolist()

    assert found("megapixels:>12") == [1]
    assert found("megapixels:<=12") == [0, 3]
    assert found("not megapixels:1..12.5") == [2]


def test_a_column_that_a_file_does_not_have_yet_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written before there was the column are read all the same."""
    records = [ImageRecord(n, f"{n}.jpg", 1, 0, 1, "0" * 32, vector_id=n) for n in range(3)]
    with (tmp_path / "old.rows").open("wb") as file:
        write_rows(HashingFile(file), lambda: [records])
    pages = columns_module.NumberColumn("<i4", lambda record: 1, unknown=0)
    monkeypatch.setitem(columns_module.NUMBERS, "pages", pages)
    monkeypatch.setitem(columns_module.TEXT_COLUMNS, "lens", columns_module.TextColumn(lambda record, parts: "50mm"))
    rows = RowsFile(tmp_path / "old.rows", tmp_path)
    assert rows.columns.whole("pages").tolist() == [0, 0, 0]
    assert (rows.columns.codes("lens").tolist(), rows.columns.texts("lens")) == ([-1, -1, -1], [])
    monkeypatch.setitem(columns_module.NUMBERS, "pages", pages._replace(unknown=None))
    with pytest.raises(CorruptIndex, match="pages"):
        RowsFile(tmp_path / "old.rows", tmp_path)
