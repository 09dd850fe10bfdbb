"""Texts and pictures to vectors without an index, and by the model of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipsearch
from clipsearch.errors import ModelNotFound, UnreadablePicture
from clipsearch.search.embedding import encode_asked
from tests.support.collections import varied_index
from tests.support.fake_encoder import COLOURS, FakeEncoder


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (40, 30)) -> Path:
    image = Image.new("RGB", size, COLOURS[colour])
    image.putpixel((0, 0), (0, 255, 0))
    image.save(path)
    return path


def test_one_gives_a_vector_and_several_a_row_each(tmp_path: Path, encoder: FakeEncoder) -> None:
    model = clipsearch.Encoder(encoder)
    red, blue = picture(tmp_path / "red.png"), picture(tmp_path / "blue.png", "blue")
    assert model.encode_text("red").shape == (encoder.dim,)
    assert model.encode_text(["red"]).shape == (1, encoder.dim)
    assert model.encode_text([]).shape == model.encode_picture([]).shape == (0, encoder.dim)
    one = model.encode_picture(red)
    assert one.shape == (encoder.dim,)
    assert one.dtype == np.float32
    both = model.encode_picture([str(red), blue])
    np.testing.assert_array_equal(both[0], one)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    assert (both @ model.encode_text(["red", "blue"]).T).argmax(axis=1).tolist() == [0, 1]


def test_an_image_is_as_good_as_its_file(tmp_path: Path, encoder: FakeEncoder) -> None:
    model = clipsearch.Encoder(encoder)
    for size in ((40, 30), (300, 20), (20, 90)):
        path = picture(tmp_path / "a.png", "green", size)
        with Image.open(path) as image:
            np.testing.assert_allclose(model.encode_picture(image), model.encode_picture(path), atol=1e-5)
            assert image.size == size  # it stays as it was
    turned = Image.open(path)
    turned.getexif()[0x0112] = 6
    upright = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(model.encode_picture(turned), model.encode_picture(upright))


def test_many_pictures_are_read_a_batch_at_a_time(tmp_path: Path, encoder: FakeEncoder) -> None:
    path = picture(tmp_path / "a.png")
    calls: list[int] = []

    class Noting(FakeEncoder):
        pictures_per_call = 4

        def encode_images(self, pixels: np.ndarray) -> np.ndarray:
            calls.append(len(pixels))
            return super().encode_images(pixels)

    vectors = clipsearch.Encoder(Noting()).encode_picture(path for _ in range(10))
    assert calls == [4, 4, 2]
    assert vectors.shape == (10, encoder.dim)


def test_what_is_no_picture_is_named(tmp_path: Path, encoder: FakeEncoder) -> None:
    model = clipsearch.Encoder(encoder)
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    for missing in (tmp_path / "bad.jpg", tmp_path, tmp_path / "none.jpg", "nul\0.jpg", "x" * 5000):
        with pytest.raises(UnreadablePicture) as caught:
            model.encode_picture([picture(tmp_path / "good.png"), missing])
        assert str(caught.value.path) == str(missing)
    for nonsense in (5, None, b"bytes", np.zeros((4, 4, 3))):
        with pytest.raises(TypeError, match="a path or a PIL image"):
            model.encode_picture(nonsense)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_model_by_name_and_an_index_of_it(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        clipsearch.Encoder("no-such-model")
    model = clipsearch.Encoder("builtin")
    assert (model.name, model.dim) == ("builtin", clipsearch.load_encoder("builtin").dim)
    assert repr(model) == f"<Encoder builtin, {model.dim} dimensions>"
    red, dog = model.encode_text(["a red square", "a dog on a beach"])
    shown = model.encode_picture(picture(tmp_path / "red.png", size=(300, 300)))
    assert shown @ red > shown @ dog


def test_an_encoder_opens_an_index(tmp_path: Path, encoder: FakeEncoder) -> None:
    index = varied_index(tmp_path / "photos", encoder)
    model = clipsearch.Encoder(encoder)
    with clipsearch.open(index, encoder=model) as photos:
        assert photos.encoder is encoder
        np.testing.assert_array_equal(photos.encode_text(["red"]), model.encode_text(["red"]))
        path = picture(tmp_path / "a.png")
        np.testing.assert_array_equal(photos.encode_picture(path), model.encode_picture(path))


def test_an_article_before_a_single_word_does_not_matter(encoder: FakeEncoder) -> None:
    """A word is asked within a sentence as well, with and without an article; other texts are asked as they stand."""
    alike = ["bobsled", "a bobsled", "the bobsled", "an  bobsled"]
    others = ["a red bobsled", "a bobsled on ice", "a 4x4", "a", "bobsleds", "the"]
    found = encode_asked(encoder, [*alike, *others])
    assert encoder.texts_encoded == 10 + 4 + 3  # all at once; "a", "the" and "bobsleds" are words too
    for vector in found[1:4]:
        np.testing.assert_array_equal(vector, found[0])
    word, prompted = encoder.encode_texts(["bobsled", "a photo of bobsled"])
    np.testing.assert_allclose(found[0], (word + prompted) / np.linalg.norm(word + prompted), atol=1e-6)
    np.testing.assert_array_equal(np.stack(found[4:7]), encoder.encode_texts(others[:3]))
    assert all(np.linalg.norm(found[0] - vector) > 0.1 for vector in found[4:])
    assert encode_asked(encoder, []) == []


def test_what_is_found_and_how_sure_it_is_does_not_depend_on_an_article(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (32, 32), (40 * number % 256, 90 * number % 256, 30)).save(tmp_path / f"{number}.png")
    clipsearch.index(tmp_path, encoder=FakeEncoder())
    with clipsearch.Collection(tmp_path / ".clipsearch", encoder=FakeEncoder()) as photos:
        plain, with_article = (
            [(h.record.row_id, h.score, h.confidence) for h in photos.search(text, all=True)]
            for text in ("bobsled", "A bobsled")
        )
        assert plain == with_article and len(plain) == 8
        minus = [[h.score for h in photos.search(text, all=True)] for text in ("red - bobsled", "a red - the bobsled")]
        assert minus[0] == minus[1]
