"""Which pictures are called copies, which of them is kept, and how few are looked at for that."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

import clipsearch
from benchmarks.common import write_index
from clipsearch.errors import NoSuchPicture
from clipsearch.indexer.build import IndexOptions, index_folder
from clipsearch.records import FloatArray, ImageRecord
from clipsearch.search import dedupe, looks
from clipsearch.search.collection import Collection
from clipsearch.vectors.hashes import MOST_BITS, near_hashes
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill, picture, scene

ROWS = 2000
EXAMPLES = max(30, int(os.environ.get("CLIPSEARCH_EXAMPLES", "0")) // 50)


def unit(vectors: FloatArray) -> FloatArray:
    result: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return result


@pytest.fixture
def vectors() -> FloatArray:
    """Pictures of 40 kinds, which have about 0.6 in common; the last hundred are near one of the first."""
    generator = np.random.default_rng(0)
    kinds = generator.standard_normal((40, 64)).astype(np.float32)
    own = generator.standard_normal((ROWS, 64)).astype(np.float32)
    made = unit(unit(kinds)[np.arange(ROWS) % 40] + 0.8 * unit(own))
    made[-100:] = unit(made[:100] + 0.3 * unit(generator.standard_normal((100, 64)).astype(np.float32)))
    return made


@pytest.fixture
def collection(tmp_path: Path, vectors: FloatArray, encoder: FakeEncoder) -> Path:
    return write_index(tmp_path / "photos", encoder, lambda: iter([vectors]))


def candidates(photos: Collection) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    done = 0
    for one, two, finished in dedupe._candidates(photos, photos.row_ids()):
        assert (one < two).all()
        pairs.update(zip(one.tolist(), two.tolist(), strict=True))
        done += finished
    assert done == len(photos)
    return pairs


@pytest.mark.slow
def test_cells_hold_nearly_every_pair_that_comparing_all_finds(
    collection: Path, vectors: FloatArray, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = vectors @ vectors.T
    near = np.argwhere(np.triu(scores, 1) >= dedupe.CANDIDATE_COSINE + 0.002)
    assert len(near) > 90
    with clipsearch.open(collection, encoder=encoder) as photos:
        every = candidates(photos)
        monkeypatch.setattr(dedupe, "EXHAUSTIVE_ROWS", 100)
        in_cells = candidates(photos)
    assert {(int(a), int(b)) for a, b in near} <= every
    assert len(every & in_cells) >= 0.97 * len(every)
    assert all(scores[one, two] >= dedupe.CANDIDATE_COSINE - 0.002 for one, two in every | in_cells)


@pytest.mark.slow
def test_a_row_has_no_more_than_so_many_neighbours(
    collection: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "CANDIDATE_COSINE", -1.0)
    with clipsearch.open(collection, encoder=encoder) as photos:
        pairs = candidates(photos)
    assert ROWS * dedupe.NEIGHBOURS / 2 <= len(pairs) <= ROWS * dedupe.NEIGHBOURS


def test_vectors_of_many_rows_at_once(collection: Path, vectors: FloatArray, encoder: FakeEncoder) -> None:
    with clipsearch.open(collection, encoder=encoder) as photos:
        wanted = [5, 1999, 5, 0, 1234]
        assert np.array_equal(photos.vectors(wanted), vectors[wanted])
        assert photos.vectors([]).shape == (0, 64)
        for unknown in (ROWS, -1, 2**70):
            with pytest.raises(NoSuchPicture, match=str(unknown)):
                photos.vectors([0, unknown])


def run_script(photos: Path, *, then: Callable[[], object] = lambda: None) -> str:
    """Write the script for an index, let something happen, run it. Returns what it says."""
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        script = dedupe.shell_script(dedupe.find_duplicates(collection), ascii)
    then()
    (photos.parent / "remove.sh").write_bytes(script)
    done = subprocess.run(["sh", photos.parent / "remove.sh"], capture_output=True, text=True, check=True)
    return done.stderr


def contents(photos: Path) -> set[bytes]:
    return {path.read_bytes() for path in photos.rglob("*") if path.suffix in (".png", ".jpg") and path.is_file()}


def indexed(photos: Path) -> None:
    index_folder(photos, FakeEncoder(), options=IndexOptions(workers=1, follow_links=True))


@pytest.mark.many
@pytest.mark.parametrize("link", ["z.png", "a.png", "sub/a.png"])
@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_no_other_name_of_a_kept_picture_is_removed(
    photos: Path, link: str, make: Callable[[Path, Path], None]
) -> None:
    fill(photos, 3)
    picture(100).save(photos / "m.png")
    shutil.copy(photos / "m.png", photos / "n.png")
    (photos / "sub").mkdir()
    make(photos / "m.png", photos / link)
    indexed(photos)
    before = contents(photos)
    assert run_script(photos) == ""
    assert contents(photos) == before
    assert (photos / "m.png").exists()


def test_a_link_is_not_kept_in_place_of_its_file(photos: Path) -> None:
    fill(photos, 3)
    (photos / "real").mkdir()
    (photos.parent / "elsewhere").mkdir()
    picture(100).save(photos.parent / "elsewhere" / "a.png")
    shutil.copy(photos.parent / "elsewhere" / "a.png", photos / "real" / "z.png")
    (photos / "album").symlink_to(photos.parent / "elsewhere")
    indexed(photos)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        (group,) = dedupe.find_duplicates(collection)
    assert group.keep.record.path == "real/z.png"


def edit(path: Path, seed: int) -> None:
    picture(seed).save(path)


def instead(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


@pytest.mark.many
@pytest.mark.parametrize(
    "happens",
    [
        lambda keep, other: keep.unlink(),
        lambda keep, other: keep.rename(keep.with_suffix(".kept")),
        lambda keep, other: edit(keep, 7),
        lambda keep, other: edit(other, 7),
        lambda keep, other: instead(keep, lambda: os.link(other, keep)),
        lambda keep, other: instead(keep, lambda: keep.symlink_to(other)),
        lambda keep, other: instead(keep, keep.mkdir),
        lambda keep, other: keep.write_bytes(b""),
        lambda keep, other: keep.write_bytes(bytes(keep.stat().st_size)),
    ],
    ids=["gone", "renamed", "edited", "other edited", "hard link", "link", "folder", "empty", "zeros"],
)
def test_a_script_that_is_out_of_date_removes_nothing(photos: Path, happens: Callable[[Path, Path], object]) -> None:
    fill(photos, 3)
    picture(100).save(photos / "a.png")
    shutil.copy(photos / "a.png", photos / "b.png")
    indexed(photos)
    assert "something changed" in run_script(photos, then=lambda: happens(photos / "a.png", photos / "b.png"))
    assert (photos / "b.png").exists()


def test_files_that_changed_since_the_last_run_are_not_the_same_by_their_rows(photos: Path) -> None:
    fill(photos, 3)
    picture(100).save(photos / "a.png")
    shutil.copy(photos / "a.png", photos / "b.png")
    indexed(photos)
    edit(photos / "b.png", 7)
    before = contents(photos)
    run_script(photos)
    assert contents(photos) == before


# -- which version is kept


def at(path: Path, hours: float) -> None:
    """Give a file a time, some hours after some day."""
    os.utime(path, (1_600_000_000 + hours * 3600,) * 2)


def with_camera() -> bytes:
    exif = Image.Exif()
    exif[0x0110] = "A camera"
    exif.get_ifd(0x8769)[0x9003] = "2020:05:06 10:11:12"
    return exif.tobytes()


def groups_of(photos: Path) -> list[tuple[str, set[str]]]:
    indexed(photos)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        groups = dedupe.find_duplicates(collection)
    return [(group.keep.record.path, {other.record.path for other in group.others}) for group in groups]


def saved_again(image: Image.Image, path: Path, how: str) -> None:
    width, height = image.size
    match how.split():
        case ["half"]:
            image.resize((width // 2, height // 2), Image.Resampling.LANCZOS).save(path, quality=90)
        case ["double"]:
            image.resize((width * 2, height * 2), Image.Resampling.BICUBIC).save(path, quality=95)
        case ["lighter"]:
            image.point(lambda value: min(255, int(value * 1.1))).save(path, quality=95)
        case [quality, *_]:
            image.save(path, quality=int(quality))


@pytest.mark.few(each="how first older")
@pytest.mark.many
@pytest.mark.parametrize("how", ["30", "50", "70", "85", "95", "100", "half", "double"])
@pytest.mark.parametrize("older", ["original", "copy"])
@pytest.mark.parametrize("first", ["a", "z"])
def test_a_copy_of_a_photo_is_found_and_never_kept(photos: Path, how: str, first: str, older: str) -> None:
    """The original names no camera, and the copy may have more bytes, and an older time."""
    for seed in range(3):
        name = f"{first}{seed}.jpg"
        scene(seed).save(photos / name, quality=75)
        at(photos / name, 0 if older == "original" else 100)
        saved_again(Image.open(photos / name), photos / f"m{seed}.jpg", how)
        at(photos / f"m{seed}.jpg", 50)
    assert groups_of(photos) == [(f"{first}{seed}.jpg", {f"m{seed}.jpg"}) for seed in range(3)]


def test_what_names_a_camera_is_kept_over_more_bytes_and_an_older_time(photos: Path) -> None:
    scene(1).save(photos / "z.jpg", quality=70, exif=with_camera())
    at(photos / "z.jpg", 1000)
    scene(1).save(photos / "b.jpg", quality=98)
    assert groups_of(photos) == [("z.jpg", {"b.jpg"})]


@pytest.mark.parametrize("copy", ["a.jpg", "a.png"])
def test_what_a_copy_was_saved_from_is_kept_whatever_its_time_says(photos: Path, copy: str) -> None:
    """Both name the camera, as editors leave it, and the original was copied here last."""
    scene(2).save(photos / "z.jpg", quality=60, exif=with_camera())
    at(photos / "z.jpg", 1000)
    with Image.open(photos / "z.jpg") as original:
        original.save(photos / copy, quality=96, exif=original.getexif().tobytes())
    at(photos / copy, 0)
    assert (photos / copy).stat().st_size > (photos / "z.jpg").stat().st_size
    assert groups_of(photos) == [("z.jpg", {copy})]


@pytest.mark.parametrize("changed", ["lighter", "sharper", "noise", "webp", "siblings", "png"])
def test_of_files_that_nothing_tells_apart_neither_is_to_delete(photos: Path, changed: str) -> None:
    """Some were changed by more than saving, some saved by what has no tables: either may be what somebody made."""
    scene(3).save(photos / "z.jpg", quality=60)
    with Image.open(photos / "z.jpg") as original:
        if changed == "siblings":
            scene(3).save(photos / "a.jpg", quality=95)
        elif changed == "webp":
            original.save(photos / "a.webp", quality=95)
        elif changed == "png":  # of a WebP
            original.save(photos / "z.webp", quality=60)
            Image.open(photos / "z.webp").save(photos / "a.png")
        else:
            pixels = np.asarray(original, np.float32)
            noise = np.random.default_rng(0).normal(0, 1, pixels.shape)
            changes: dict[str, np.ndarray] = {
                "lighter": pixels + 2,
                "noise": pixels + noise,
                "sharper": np.asarray(original.filter(ImageFilter.UnsharpMask(1, 40, 0)), np.float32),
            }
            Image.fromarray(changes[changed].clip(0, 255).round().astype(np.uint8)).save(photos / "a.jpg", quality=96)
    if changed == "png":
        (photos / "z.jpg").unlink()
    ((copy,), (source,)) = (list(photos.glob(f"{name}.*")) for name in "az")
    for older, newer in ((copy, source), (source, copy)):
        at(older, 0)
        at(newer, 100)
        indexed(photos)
        told: list[tuple[Any, ...]] = []
        with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
            assert dedupe.find_duplicates(collection, unsure=lambda *pair, told=told: told.append(pair)) == []
        assert [{one.record.path, two.record.path} for one, two in told] == [{copy.name, source.name}]


def test_of_files_with_the_same_pixels_a_camera_then_more_bytes_then_an_older_time_is_kept(photos: Path) -> None:
    scene(3).save(photos / "z.jpg", quality=80, exif=with_camera())
    plain = io.BytesIO()
    scene(3).save(plain, "JPEG", quality=80)
    (photos / "a.jpg").write_bytes(plain.getvalue())
    at(photos / "a.jpg", 0)
    at(photos / "z.jpg", 10)
    assert groups_of(photos) == [("z.jpg", {"a.jpg"})]
    head, rest = plain.getvalue()[:2], plain.getvalue()[2:]
    (photos / "z.jpg").write_bytes(head + b"\xff\xe9\0\x06abcd" + rest)
    at(photos / "z.jpg", 10)
    assert groups_of(photos) == [("z.jpg", {"a.jpg"})]
    (photos / "z.jpg").write_bytes(head + b"\xff\xe9\0\x06abcd" + rest)
    (photos / "a.jpg").write_bytes(head + b"\xff\xe9\0\x06efgh" + rest)
    at(photos / "a.jpg", 10)
    at(photos / "z.jpg", 0)
    assert groups_of(photos) == [("z.jpg", {"a.jpg"})]


def test_pixels_that_say_the_contrary_of_a_camera_leave_both(photos: Path) -> None:
    """Somebody gave a copy the metadata of the photo, which was then stripped of it."""
    scene(4).save(photos / "z.jpg", quality=70)
    with Image.open(photos / "z.jpg") as original:
        original.save(photos / "a.jpg", quality=95, exif=with_camera())
    assert groups_of(photos) == []


def moved(image: Image.Image) -> Image.Image:
    """The next picture of a series: something in it is elsewhere."""
    part = image.crop((100, 80, 180, 150))
    after = image.copy()
    after.paste(part, (120, 86))
    return after


def reworded(seed: int) -> tuple[Image.Image, Image.Image]:
    """A page, and the same with another number in it."""
    page = Image.new("RGB", (620, 877), "white")
    draw = ImageDraw.Draw(page)
    generator = np.random.default_rng(seed)
    for line in range(24):
        word = "".join(chr(97 + int(letter)) for letter in generator.integers(0, 26, 50))
        draw.text((50, 60 + line * 30), word, fill="black", font_size=16)
    other = page.copy()
    draw = ImageDraw.Draw(other)
    draw.rectangle((200, 238, 300, 262), fill="white")
    draw.text((200, 240), f"{123456 * (seed + 3)}", fill="black", font_size=16)
    return page, other


@pytest.mark.slow
def test_pictures_of_a_series_and_pages_with_other_words_are_not_copies(photos: Path) -> None:
    for seed in range(6):
        image = scene(seed)
        image.save(photos / f"s{seed}a.jpg", quality=90)
        moved(image).save(photos / f"s{seed}b.jpg", quality=90)
        for name, page in zip("ab", reworded(seed), strict=True):
            page.save(photos / f"d{seed}{name}.png")
    assert groups_of(photos) == []


def invoice(total: str) -> Image.Image:
    page = Image.new("RGB", (1240, 1754), "white")
    draw = ImageDraw.Draw(page)
    for line in range(30):
        draw.text((100, 200 + line * 40), f"Item {line}", fill="black", font_size=21)
        draw.text((950, 200 + line * 40), f"{100 + line * 50}.00", fill="black", font_size=21)
    draw.text((950, 1500), total, fill="black", font_size=21)
    return page


def test_pages_with_another_number_in_small_print_are_not_copies(photos: Path) -> None:
    invoice("1,210.00").save(photos / "a.png")
    invoice("1,270.00").save(photos / "b.png")
    invoice("1,210.00").save(photos / "again.jpg", quality=60)
    assert groups_of(photos) == [("a.png", {"again.jpg"})]


def test_something_small_in_a_large_picture_makes_it_another(photos: Path) -> None:
    wide = scene(5, (1600, 1200))
    wide.save(photos / "a.jpg", quality=90)
    at(photos / "a.jpg", 0)
    ImageDraw.Draw(wide).ellipse((900, 300, 930, 320), fill=(20, 20, 25))
    wide.save(photos / "bird.jpg", quality=90)
    wide.resize((800, 600), Image.Resampling.LANCZOS).save(photos / "half.jpg", quality=80)
    assert groups_of(photos) == [("bird.jpg", {"half.jpg"})]


@pytest.mark.parametrize(
    "other",
    [
        lambda image: image.convert("L").convert("RGB"),
        lambda image: Image.merge("RGB", image.split()[::-1]),
        lambda image: Image.merge("YCbCr", [image.convert("YCbCr").split()[n] for n in (0, 2, 1)]).convert("RGB"),
    ],
    ids=["grey", "red and blue", "Cb and Cr"],
)
def test_a_picture_in_other_colours_is_another(photos: Path, other: Callable[[Image.Image], Image.Image]) -> None:
    """Of equal brightness: what hashes and grey values see is the same."""
    product = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(product).ellipse((120, 60, 280, 240), fill=(150, 110, 80), outline="black", width=3)
    other(product).save(photos / "a.png")
    at(photos / "a.png", 0)
    product.save(photos / "b.png")
    assert groups_of(photos) == []


# -- what is no spare copy


def frames(count: int) -> list[Image.Image]:
    return [scene(seed) for seed in range(count)]


def save_all(path: Path, pictures: list[Image.Image], **options: Any) -> None:
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize("name", ["pages.tif", "moving.gif", "moving.png", "moving.webp"])
def test_files_with_several_pictures_are_copies_of_the_same_bytes_alone(photos: Path, name: str) -> None:
    options = {} if name.endswith("tif") else {"duration": 500}
    save_all(photos / name, frames(3), **options)
    shutil.copy(photos / name, photos / f"same-{name}")
    save_all(photos / f"other-{name}", frames(2), **options)
    with Image.open(photos / name) as first:
        first.convert("RGB").save(photos / "first.png")
    for path in photos.iterdir():
        at(path, 0 if path.name == "first.png" else 5)
    assert groups_of(photos) == [(name, {f"same-{name}"})]


def test_a_jpeg_with_a_second_picture_is_kept_and_never_to_delete(photos: Path) -> None:
    """Stereo pictures, and those with a gain map: in both what is seen is a whole JPEG."""
    save_all(photos / "z.jpg", frames(2), format="MPO", quality=90)
    with Image.open(photos / "z.jpg") as original:
        original.convert("RGB").save(photos / "a.jpg", quality=80)
    assert groups_of(photos) == [("z.jpg", {"a.jpg"})]
    scene(0).save(photos / "a.jpg", quality=85, exif=with_camera())
    assert groups_of(photos) == []


def with_words(**given: str) -> bytes:
    """XMP of what people write."""
    parts = "".join(
        f"<dc:subject><rdf:Bag><rdf:li>{value}</rdf:li></rdf:Bag></dc:subject>"
        if name == "keyword"
        else f"<xmp:Rating>{value}</xmp:Rating>"
        for name, value in given.items()
    )
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/">'
        f"{parts}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def with_place() -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 30.0, 0.0), 3: "E", 4: (9.0, 0.0, 0.0)})
    return exif.tobytes()


def cut_out(image: Image.Image) -> Image.Image:
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse((40, 30, 280, 210), fill=255)
    image.putalpha(mask)
    return image


def on_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=image)
    return page


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("keywords", lambda path, seen: seen.save(path, quality=80, xmp=with_words(keyword="Wedding"))),
        ("stars", lambda path, seen: seen.save(path, quality=80, xmp=with_words(rating="5"))),
        ("a place", lambda path, seen: seen.save(path, quality=80, exif=with_place())),
        ("a file beside it", lambda path, seen: path.with_name("z.jpg.xmp").write_bytes(with_words(rating="5"))),
    ],
)
def test_a_copy_with_what_the_original_lacks_is_none_to_delete(
    photos: Path, what: str, make: Callable[[Path, Image.Image], object]
) -> None:
    scene(1).save(photos / "a.jpg", quality=90)
    with Image.open(photos / "a.jpg") as original:
        original.save(photos / "z.jpg", quality=80)
        make(photos / "z.jpg", original)
    indexed(photos)
    told: list[tuple[str, str]] = []
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        spare = lambda copy, what: told.append((copy.record.path, what))  # noqa: E731
        assert dedupe.find_duplicates(collection, spare=spare) == []
    assert told == [("z.jpg", "stars" if what == "a file beside it" else what)]


@pytest.mark.parametrize(
    ("poorer", "richer"),
    [
        (("a.jpg", on_white(cut_out(scene(2))), {}), ("z.png", cut_out(scene(2)), {})),
        (("a.jpg", scene(3), {"quality": 60}), ("z.tif", scene(3).convert("CMYK"), {})),
        (("a.jpg", scene(3), {"quality": 60, "exif": with_camera()}), ("z.png", scene(3), {})),
        (
            ("a.jpg", scene(4).convert("L"), {"quality": 90, "exif": with_camera()}),
            ("z.png", Image.fromarray(np.asarray(scene(4).convert("L"), np.uint16) * 257), {}),
        ),
    ],
    ids=["transparency", "print", "without loss", "16 bits"],
)
def test_the_richer_of_two_files_is_never_to_delete(
    photos: Path, poorer: tuple[str, Image.Image, dict[str, Any]], richer: tuple[str, Image.Image, dict[str, Any]]
) -> None:
    for name, image, options in (poorer, richer):
        image.save(photos / name, **options)
    at(photos / poorer[0], 0)
    indexed(photos)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        groups = dedupe.find_duplicates(collection)
    assert richer[0] not in {other.record.path for group in groups for other in group.others}


def test_a_script_removes_nothing_if_other_bytes_of_the_same_size_came(photos: Path) -> None:
    fill(photos, 3)
    scene(1).save(photos / "a.bmp")
    scene(1).save(photos / "b.png")
    indexed(photos)
    size = (photos / "a.bmp").stat().st_size
    said = run_script(photos, then=lambda: scene(2).save(photos / "a.bmp"))
    assert (photos / "a.bmp").stat().st_size == size
    assert "something changed" in said and (photos / "b.png").exists()


@pytest.mark.parametrize("length", [0, 1, 255, 256, 70_000, (1 << 20) + 5])
def test_checksums_are_those_of_cksum(tmp_path: Path, length: int) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(np.random.default_rng(length).bytes(length))
    status = path.stat()
    copy = dedupe.Copy(ImageRecord(0, "bytes", 0, 0, 0, None), str(path), 0.0, length, mtime_ns=status.st_mtime_ns)
    with path.open("rb") as file:
        told = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, check=True).stdout
    assert dedupe._sum_of(copy) == " ".join(told.split())


def test_pictures_with_far_hashes_are_not_decoded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(8):
        scene(seed).save(photos / f"{seed}.jpg")
    Image.open(photos / "7.jpg").save(photos / "copy.jpg", quality=60)
    indexed(photos)
    read: list[str] = []

    def noting(path: str) -> looks.Look | None:
        read.append(path)
        return looks.look_at(path)

    monkeypatch.setattr(dedupe, "look_at", noting)
    with Collection(photos / ".clipsearch", encoder=FakeEncoder()) as collection:
        assert len(dedupe.find_duplicates(collection)) == 1
    assert sorted(Path(path).name for path in read) == ["7.jpg", "copy.jpg"]


def test_rows_from_before_there_were_hashes_are_compared_by_vectors(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "_hashes", lambda photos, row_ids: row_ids * 0)
    monkeypatch.setattr(dedupe, "CANDIDATE_COSINE", -1.0)
    for seed in range(4):
        scene(seed).save(photos / f"{seed}.jpg", quality=90)
    Image.open(photos / "3.jpg").save(photos / "copy.jpg", quality=60)
    assert groups_of(photos) == [("3.jpg", {"copy.jpg"})]


# -- near hashes


@settings(max_examples=EXAMPLES)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 62), max_size=6)), max_size=30),
    st.integers(0, MOST_BITS),
)
def test_near_hashes_are_those_that_comparing_all_finds(
    bases: list[int], variants: list[tuple[int, set[int]]], bits: int
) -> None:
    hashes = [*bases]
    for base, flipped in variants:
        if base < len(bases):
            hashes.append(bases[base] ^ sum(1 << bit for bit in flipped))
    found = {
        pair
        for one, two in near_hashes(np.array(hashes, np.int64), bits, 10**6)
        for pair in zip(one.tolist(), two.tolist(), strict=True)
    }
    assert found == {
        (one, two)
        for two in range(len(hashes))
        for one in range(two)
        if ((hashes[one] ^ hashes[two]) & (2**64 - 1)).bit_count() <= bits
    }


def test_of_many_equal_hashes_each_has_few_neighbours() -> None:
    hashes = np.full(5000, 77, np.int64)
    hashes[2500:] = 76
    pairs = sum(len(one) for one, _ in near_hashes(hashes, 3, 16))
    assert 5000 <= pairs <= 5000 * 16 + 2 * 16 * 16
