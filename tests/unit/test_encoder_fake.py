"""The fake encoder keeps the encoder's contract."""

from __future__ import annotations

import numpy as np

from clipsearch.encoder import Encoder
from tests.support.fake_encoder import COLOURS, FakeEncoder, plain_pixels


def test_it_is_an_encoder() -> None:
    encoder: Encoder = FakeEncoder()
    assert encoder.encode_texts([]).shape == (0, 64)
    assert encoder.encode_images(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 64)
    vectors = encoder.encode_texts(["red", "a dog", ""])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert FakeEncoder(seed=1).fingerprint != encoder.fingerprint
    np.testing.assert_array_equal(FakeEncoder().encode_texts(["a dog"]), encoder.encode_texts(["a dog"]))


def test_colour_words_find_pictures_of_that_colour() -> None:
    encoder = FakeEncoder()
    colours = [colour for colour in COLOURS if colour != "gray"]
    pictures = encoder.encode_images(np.stack([plain_pixels(colour) for colour in colours]))
    texts = encoder.encode_texts([f"a {colour} thing" for colour in colours])
    assert (texts @ pictures.T).argmax(axis=1).tolist() == list(range(len(colours)))
