"""What pixels say of a picture: made pictures of every kind, at the sizes and qualities that people have."""

from __future__ import annotations

import io
import math
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from skimage import data

from clipsearch.indexer.build import index_folder
from clipsearch.pictures.appearance import NOT_SEEN, Appearance, appearance
from clipsearch.pictures.images import PictureFile
from clipsearch.records import COLORS, TRAITS, Preprocessing
from clipsearch.search.collection import Collection
from tests.support.fake_encoder import FakeEncoder

PREPROCESSING = Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3)
PHOTOS = ["astronaut", "chelsea", "coffee", "rocket"]
GREY = ["camera", "moon", "brick", "gravel"]


def photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB")


def as_jpeg(image: Image.Image, quality: int = 80) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def traits(image: Image.Image, *, lossless: bool = False, camera: bool = False) -> set[str]:
    found = appearance(image, image.size, "IMG_1.jpg", lossless=lossless, camera=camera).traits
    return {trait for number, trait in enumerate(TRAITS) if found >> number & 1}


def colors(image: Image.Image) -> set[str]:
    found = appearance(image, image.size, "IMG_1.jpg").colors
    return {color for number, color in enumerate(COLORS) if found >> number & 1}


def text_page(size: tuple[int, int], ground: tuple[int, int, int], ink: tuple[int, int, int]) -> Image.Image:
    """Lines of words, as on a printed page."""
    rng, image = random.Random(1), Image.new("RGB", size, ground)
    draw, height = ImageDraw.Draw(image), size[1] // 70
    font = ImageFont.load_default(height)
    for top in range(size[1] // 10, size[1] * 9 // 10, height * 3 // 2):
        line = " ".join("abcdefghinorstu"[rng.randrange(9) :][: rng.randrange(2, 9)] for _ in range(14))
        draw.text((size[0] // 10, top), line, fill=ink, font=font)
    return image


def scanned(page: Image.Image) -> Image.Image:
    page = page.rotate(1.2, fillcolor=(245, 243, 238), resample=Image.Resampling.BICUBIC)
    pixels = np.asarray(page.filter(ImageFilter.GaussianBlur(0.7))).astype(float)
    pixels += np.random.default_rng(1).normal(0, 5, (*pixels.shape[:2], 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_are_photos_and_nothing_else(name: str) -> None:
    assert traits(as_jpeg(photo(name))) & {"photo", "monochrome", "blurred", "screenshot", "document"} == {"photo"}


@pytest.mark.few(each="name quality")
@pytest.mark.many
@pytest.mark.parametrize("name", PHOTOS + GREY)
@pytest.mark.parametrize("quality", [40, 90])
def test_without_colour_or_in_one_tone(name: str, quality: int) -> None:
    grey = photo(name).convert("L")
    assert "monochrome" in traits(as_jpeg(grey, quality))
    assert "monochrome" in traits(as_jpeg(grey.convert("RGB"), quality))
    if name in PHOTOS:
        assert "monochrome" in traits(as_jpeg(ImageOps.colorize(grey, "#201408", "#fff4e0"), 90))  # sepia
        assert "monochrome" not in traits(as_jpeg(Image.blend(grey.convert("RGB"), photo(name), 0.6), quality))


SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


def toned(image: Image.Image, how: str) -> Image.Image:
    """As photographers and old scans tone: each of these once was taken for colour."""
    rng, grey = np.random.default_rng(1), np.asarray(image.convert("L")).astype(float)[..., None]
    if how == "sepia that clips":
        pixels = 1.3 * np.asarray(image).astype(float) @ SEPIA.T
    elif how == "cyanotype":
        pixels = np.asarray(ImageOps.colorize(image.convert("L"), "#0a1c3c", "#e8f3f7", mid="#2d6496")).astype(float)
    elif how == "split toning":
        shadows, lights = np.array([-25, 0, 30]) * (1 - grey / 255), np.array([25, 8, -30]) * (grey / 255)
        pixels = grey + shadows + lights
    else:  # a scan of a print that faded, with noise of its own in each channel
        pixels = np.array([48, 40, 30]) + np.array([200, 190, 165]) * (grey / 255)
        pixels = pixels + rng.normal(0, 5, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


@pytest.mark.parametrize("how", ["sepia that clips", "cyanotype", "split toning", "faded scan"])
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_toned_pictures_are_monochrome(name: str, how: str) -> None:
    assert "monochrome" in traits(as_jpeg(toned(photo(name), how), 50))


def test_what_is_nearly_without_colour_is_not_monochrome() -> None:
    coffee = photo("coffee")
    grey = coffee.convert("L").convert("RGB")
    fog = Image.blend(Image.blend(grey, coffee, 0.7), Image.new("RGB", coffee.size, (200, 210, 220)), 0.5)
    assert "monochrome" not in traits(as_jpeg(fog))
    night = photo("astronaut").point(lambda value: value // 5)
    assert "monochrome" not in traits(as_jpeg(night, 90))
    selective = grey.copy()
    selective.paste(coffee.crop((180, 120, 330, 200)), (180, 120))
    assert "monochrome" not in traits(as_jpeg(selective))
    flat = Image.new("RGB", (300, 200), (240, 190, 60))  # three colours, each of a brightness of its own
    flat.paste((20, 60, 200), (0, 0, 100, 200))
    flat.paste((200, 30, 40), (100, 0, 200, 200))
    assert "monochrome" not in traits(flat)


def test_one_spot_of_colour_is_colour() -> None:
    image = photo("camera")
    ImageDraw.Draw(image).ellipse((200, 200, 290, 290), fill=(220, 30, 40))
    assert "monochrome" not in traits(image)


@pytest.mark.many
@pytest.mark.parametrize("name", PHOTOS)
def test_blurred(name: str) -> None:
    sharp = photo(name)
    assert "blurred" not in traits(sharp)
    assert "blurred" in traits(sharp.filter(ImageFilter.GaussianBlur(4)))
    half = sharp.filter(ImageFilter.GaussianBlur(6))
    half.paste(sharp.crop((0, 0, sharp.width // 2, sharp.height)), (0, 0))
    assert "blurred" not in traits(half)  # a background may be
    assert "blurred" not in traits(Image.new("RGB", sharp.size, (90, 120, 200)))  # nothing to see is not blurred


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_what_is_blurred_more_stays_blurred(name: str) -> None:
    sharp = photo(name)
    for radius in (4, 8, 16, 24):
        assert "blurred" in traits(as_jpeg(sharp.filter(ImageFilter.GaussianBlur(radius)), 60)), radius
    tiny = sharp.resize((24, 24 * sharp.height // sharp.width))
    assert "blurred" in traits(as_jpeg(tiny.resize(sharp.size, Image.Resampling.BICUBIC)))
    pixels = np.asarray(sharp).astype(np.float32)
    shaken = np.mean([np.roll(pixels, place, axis=1) for place in range(40)], axis=0)
    assert "blurred" in traits(Image.fromarray(shaken.astype(np.uint8)))


def test_smooth_subjects_are_not_blurred() -> None:
    sky = Image.linear_gradient("L").resize((600, 400)).convert("RGB")
    assert "blurred" not in traits(as_jpeg(sky))
    night = Image.new("RGB", (600, 400), (6, 8, 14))
    for place in range(30):
        night.putpixel((20 + place * 18, 15 + place * 97 % 370), (250, 250, 240))
    assert "blurred" not in traits(as_jpeg(night, 95))
    macro = photo("astronaut").filter(ImageFilter.GaussianBlur(12))
    macro.paste(photo("astronaut").crop((150, 20, 310, 180)), (150, 20))
    assert "blurred" not in traits(macro)


def test_dark_and_bright() -> None:
    coffee = photo("coffee")
    assert {"dark", "bright"} & traits(coffee) == set()
    assert "dark" in traits(coffee.point(lambda value: value // 4))
    assert "bright" in traits(coffee.point(lambda value: 255 - (255 - value) // 4))


@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        ("black", (10, 10, 12)), ("white", (250, 250, 248)), ("gray", (128, 128, 128)), ("red", (200, 25, 30)),
        ("orange", (245, 140, 20)), ("yellow", (250, 215, 30)), ("green", (40, 140, 50)), ("teal", (20, 160, 165)),
        ("blue", (30, 70, 200)), ("purple", (130, 40, 160)), ("pink", (245, 140, 175)), ("brown", (120, 70, 30)),
        ("blue", (0, 0, 255)), ("blue", (0, 0, 128)), ("purple", (128, 0, 128)), ("purple", (138, 43, 226)),
    ],
)  # fmt: skip
def test_colours(name: str, rgb: tuple[int, int, int]) -> None:
    image = Image.new("RGB", (300, 200), (250, 250, 250))
    image.paste(rgb, (0, 0, 150, 200))
    assert colors(as_jpeg(image)) == {name, "white"}
    small = Image.new("RGB", (300, 200), (128, 128, 128))
    small.paste(rgb, (0, 0, 40, 40))
    assert colors(as_jpeg(small)) == {"gray"}


@pytest.mark.parametrize(
    ("rgb", "named", "not_named"),
    [
        ((255, 255, 0), "yellow", "green"), ((255, 20, 147), "pink", "red"), ((255, 192, 203), "pink", "red"),
        ((222, 184, 135), None, "yellow"), ((205, 160, 110), None, "orange"), ((240, 230, 200), None, "green"),
        ((150, 75, 45), "brown", "red"), ((170, 165, 150), None, "gray"), ((150, 160, 165), None, "blue"),
        ((128, 128, 128), "gray", "blue"), ((85, 107, 47), "green", "brown"), ((135, 206, 235), None, "teal"),
    ],
)  # fmt: skip
def test_colours_that_people_would_not_name_so(rgb: tuple[int, int, int], named: str | None, not_named: str) -> None:
    """Tan is not yellow, skin not orange, paper not green, pure yellow not green."""
    found = colors(Image.new("RGB", (300, 200), rgb))
    assert not_named not in found
    assert named is None or named in found


def test_brown_and_grey_need_more_of_a_picture_than_red() -> None:
    """They are in most photographs."""
    colour_of = {"brown": (120, 70, 30), "gray": (128, 128, 128), "red": (200, 25, 30)}
    for name, share in (("brown", 0.27), ("gray", 0.5), ("red", 0.15)):
        for least, is_much in ((share - 0.05, False), (share + 0.05, True)):
            image = Image.new("RGB", (300, 200), (90, 60, 160))
            image.paste(colour_of[name], (0, 0, round(300 * least), 200))
            assert (name in colors(image)) is is_much, (name, least)


def test_a_product_on_white_has_the_colour_of_the_product() -> None:
    for rgb, name in (((15, 15, 15), "black"), ((120, 70, 30), "brown"), ((200, 25, 30), "red")):
        image = Image.new("RGB", (300, 300), "white")
        image.paste(rgb, (80, 80, 230, 220))  # 23 % of the picture
        assert colors(as_jpeg(image)) == {name, "white"}
    stamp = Image.new("RGB", (300, 300), "white")
    stamp.paste((200, 25, 30), (200, 200, 270, 270))  # 5 %
    assert colors(as_jpeg(stamp)) == {"white"}


@pytest.mark.many
@pytest.mark.parametrize("size", [(1280, 800), (1170, 2532), (1000, 640)])
def test_screenshots(size: tuple[int, int]) -> None:
    window = text_page(size, (30, 32, 38), (225, 225, 225))
    ImageDraw.Draw(window).rectangle((0, 0, size[0], 40), fill=(70, 110, 200))
    assert "screenshot" in traits(window, lossless=True)
    if size != (1000, 640):
        assert "screenshot" in traits(as_jpeg(window))
        game = photo("rocket").resize(size)
        assert "screenshot" not in traits(game, lossless=True)  # a photograph, kept without loss
        for left in range(20, 220, 40):  # bars of what is left, as games draw
            ImageDraw.Draw(game).rectangle(
                (left, 20, left + 20, size[1] // 3), fill=(240, 200, 40), outline="black", width=6
            )
        assert "screenshot" in traits(game, lossless=True)
        assert "screenshot" not in traits(game, lossless=True, camera=True)
        assert "screenshot" not in traits(as_jpeg(game))


@pytest.mark.parametrize(
    "name",
    [
        "Screenshot 2023-05-01.png",
        "Bildschirmfoto 2022.jpg",
        "スクリーンショット.png",
        "截屏2023.png",
        "Capture d\u2019\u00e9cran 2024.png",
        "스크린샷 2024.png",
        "Skærmbillede 2024.png",
        "螢幕擷取畫面 1.png",
        "Képernyőkép.png",
    ],
)
def test_a_screenshot_by_its_name(name: str) -> None:
    for form in ("NFC", "NFD"):  # macOS takes letters apart
        found = appearance(photo("chelsea"), (451, 300), unicodedata.normalize(form, name))
        assert found.traits >> TRAITS.index("screenshot") & 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1240, 1754), (2480, 3508)])
def test_documents(size: tuple[int, int]) -> None:
    page = text_page(size, (248, 246, 240), (25, 25, 30))
    assert "document" in traits(page)
    assert "document" in traits(as_jpeg(page, 70))
    assert "document" in traits(as_jpeg(scanned(page)))


def test_drawings_and_products_on_white() -> None:
    rng, drawing = random.Random(2), Image.new("RGB", (900, 700), (250, 230, 180))
    draw = ImageDraw.Draw(drawing)
    for _ in range(14):
        x, y, r = rng.randrange(800), rng.randrange(600), rng.randrange(60, 250)
        draw.ellipse((x, y, x + r, y + r), fill=tuple(rng.randrange(256) for _ in range(3)), outline="black", width=4)
    assert "drawing" in traits(drawing)
    product = Image.new("RGB", (900, 700), "white")
    product.paste(photo("chelsea").resize((500, 400)), (200, 150))
    assert "photo" in traits(product)


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0, 45])
def test_an_engraving_is_no_document(angle: int) -> None:
    """Hatched all over, on paper, as its strokes go."""
    page = Image.new("RGB", (1200, 900), (246, 242, 232))
    draw, rng = ImageDraw.Draw(page), random.Random(3)
    for _ in range(5000):
        x, y, length = rng.gauss(600, 220), rng.gauss(450, 170), rng.randrange(10, 40)
        lean = math.radians(angle + rng.gauss(60, 25))
        draw.line((x, y, x + length * math.cos(lean), y + length * math.sin(lean)), fill=(30, 28, 25), width=2)
    assert "document" not in traits(page)
    assert "document" not in traits(as_jpeg(page))


def test_small_jpegs_are_photos() -> None:
    """Saved as JPEG, a product of 60 by 80 pixels is as flat and hard as a drawing."""
    wallet = Image.new("RGB", (60, 80), "white")
    ImageDraw.Draw(wallet).rectangle((8, 25, 52, 55), fill=(120, 60, 30), outline=(40, 20, 10))
    assert "photo" in traits(as_jpeg(wallet))
    assert "drawing" in traits(wallet.resize((240, 320), Image.Resampling.NEAREST), lossless=True)


@pytest.mark.parametrize("tone", [(200, 30, 60), (110, 50, 160), (220, 110, 20)])
def test_one_strong_hue_is_a_colour(tone: tuple[int, int, int]) -> None:
    """A product in one colour on white; and a scene in the light of a sunset, a red stage, or under water."""
    light = ImageOps.colorize(photo("astronaut").convert("L"), (0, 0, 0), tone)
    assert "monochrome" not in traits(as_jpeg(light))
    bag = Image.new("RGB", (300, 400), "white")
    bag.paste(light.resize((180, 180)), (60, 110))
    assert "monochrome" not in traits(as_jpeg(bag))


def test_transparency_is_of_the_file(tmp_path: Path) -> None:
    image = photo("coffee").convert("RGBA")
    image.save(tmp_path / "opaque.png")
    image.putalpha(ImageOps.invert(Image.radial_gradient("L")).resize(image.size))
    image.save(tmp_path / "see-through.png")
    for name, expected in (("opaque.png", False), ("see-through.png", True)):
        with PictureFile(tmp_path / name) as file:
            seen = file.decode(PREPROCESSING, look=True).appearance
        assert bool(seen.traits >> TRAITS.index("transparent") & 1) is expected
        with PictureFile(tmp_path / name) as file:
            assert file.decode(PREPROCESSING).appearance == NOT_SEEN


@pytest.mark.slow
def test_versions_of_a_picture_have_hashes_that_differ_in_few_bits() -> None:
    def bits(one: Image.Image, other: Image.Image) -> int:
        hashes = [appearance(image, image.size, "x").perceptual_hash for image in (one, other)]
        return ((hashes[0] ^ hashes[1]) & (2**64 - 1)).bit_count()

    for name in PHOTOS:
        image = photo(name)
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        assert bits(image, half) <= 4
        assert bits(image, as_jpeg(image, 40)) <= 4
        assert bits(image, image.point(lambda value: min(255, value * 115 // 100))) <= 8
    assert min(bits(photo(a), photo(b)) for a in PHOTOS for b in PHOTOS if a < b) > 16


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    values=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["noise", "plain", "rows"]),
)
def test_any_picture_has_an_appearance(size: tuple[int, int], values: int, kind: str) -> None:
    rng = np.random.default_rng(values)
    shape = {"noise": (size[1], size[0], 3), "plain": (1, 1, 3), "rows": (size[1], 1, 3)}[kind]
    pixels = np.broadcast_to(rng.integers(0, 256, shape, np.uint8), (size[1], size[0], 3))
    found = appearance(Image.fromarray(np.ascontiguousarray(pixels)), size, "x.png", lossless=True)
    told = {"traits": found.traits, "colors": found.colors, "perceptual_hash": found.perceptual_hash}
    assert Appearance.from_dict(told) == found
    made = {"screenshot", "document", "drawing", "photo"}
    assert sum(found.traits >> TRAITS.index(kind) & 1 for kind in made) == 1


@pytest.mark.parametrize("told", [{"traits": 2**20}, {"colors": -1}, {"perceptual_hash": 2**63}, {"traits": "x"}])
def test_what_a_decoder_tells_is_checked(told: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"appearance|invalid literal"):
        Appearance.from_dict({"traits": 1, "colors": 0, "perceptual_hash": 0, **told})


def test_an_index_keeps_and_filters_them(tmp_path: Path) -> None:
    photo("coffee").save(tmp_path / "coffee.jpg")
    photo("coffee").convert("L").save(tmp_path / "grey.jpg")
    Image.new("RGB", (100, 80), (20, 160, 165)).save(tmp_path / "teal.png")
    photo("coffee").resize((1200, 400)).save(tmp_path / "wide.jpg")
    encoder = FakeEncoder()
    index_folder(tmp_path, encoder)
    with Collection(tmp_path / ".clipsearch", encoder=encoder) as photos:
        for query, names in {
            "is:monochrome": ["grey.jpg"],
            "color:teal": ["teal.png"],
            "is:panorama": ["wide.jpg"],
            "is:photo not is:monochrome ext:jpg": ["coffee.jpg", "wide.jpg"],
        }.items():
            assert sorted(Path(hit.path).name for hit in photos.search(query)) == names, query
        assert photos.notices("is:monochrome") == []


def test_pictures_of_older_indexes_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("coffee").save(tmp_path / "old.jpg")
    encoder = FakeEncoder()
    monkeypatch.setattr("clipsearch.indexer.rows.asdict", lambda seen: {})
    index_folder(tmp_path, encoder)
    with Collection(tmp_path / ".clipsearch", encoder=encoder) as photos:
        assert photos.search("is:photo") == []
        (told,) = photos.notices("dog is:photo")
        assert told.startswith("1 of 1 pictures were indexed before") and "--reindex" in told
