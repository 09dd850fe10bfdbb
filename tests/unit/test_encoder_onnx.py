"""OnnxEncoder: vectors, what it accepts and refuses, and that it loads no more than it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.encoder.arrays import scale_pixels
from clipsearch.encoder.onnx import OnnxEncoder
from clipsearch.errors import InvalidModel
from clipsearch.records import PixelArray
from tests.support.tiny_models import INT64, WORDS, write_model_directory


def pixels(count: int, size: int = 16) -> PixelArray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 70])
def test_image_vectors_are_unit_float32_rows_in_order(tmp_path: Path, count: int) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path), precision="fp32")
    given = pixels(70)[:count]
    vectors = encoder.encode_images(given)
    assert vectors.shape == (count, 8)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for row, picture in zip(vectors[-2:], given[-2:], strict=True):
        np.testing.assert_allclose(encoder.encode_images(picture[None])[0], row, atol=1e-6)


def test_image_vector_is_the_model_of_normalised_pixels(tmp_path: Path) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path, seed=3), precision="fp32")
    given = pixels(4)
    weights = np.random.default_rng(3).standard_normal((3, 8)).astype(np.float32)
    side = encoder.preprocessing
    expected = ((given / 255 - side.mean) / side.std).mean(axis=(1, 2)) @ weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_images(given), expected, atol=1e-5)


def test_scaling_is_within_float32_rounding_of_the_definition(tmp_path: Path) -> None:
    side = OnnxEncoder(write_model_directory(tmp_path)).preprocessing
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, None, :, None], (1, 1, 1, 3))
    expected = ((ramp.astype(np.float64) / 255 - side.mean) / side.std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(scale_pixels(ramp, side), expected, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 16, 16, 3), np.float32),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 3, 16, 16), np.uint8),
        np.zeros((2, 16, 17, 3), np.uint8),
        np.zeros((2, 16, 16, 4), np.uint8),
        [[1]],
    ],
)
def test_other_pixels_are_refused(tmp_path: Path, wrong: Any) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path))
    with pytest.raises(ValueError, match=r"uint8 \(B, 16, 16, 3\)"):
        encoder.encode_images(wrong)


def test_non_square_size_is_height_then_width(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    cfg = json.loads((directory / "visual/preprocess_cfg.json").read_text())
    (directory / "visual/preprocess_cfg.json").write_text(json.dumps({**cfg, "size": [12, 20]}))
    side = OnnxEncoder(directory).preprocessing
    assert (side.height, side.width) == (12, 20)


@pytest.mark.parametrize(
    "variant",
    [
        {"text_type": INT64},
        {"names": ("input", "input", "output")},
        {"external": True},
        {"fixed_batch": 1},
        {"fixed_batch": 4},
    ],
    ids=str,
)
def test_variants_of_published_exports_give_the_same_vectors(tmp_path: Path, variant: dict[str, Any]) -> None:
    plain = OnnxEncoder(write_model_directory(tmp_path / "plain"), precision="fp32")  # "auto" goes by the clock
    other = OnnxEncoder(write_model_directory(tmp_path / "other", **variant), precision="fp32")
    np.testing.assert_allclose(other.encode_images(pixels(6)), plain.encode_images(pixels(6)), atol=1e-6)
    texts = ["a dog", "the beach", "a red cat on the beach", "", "blue"]
    np.testing.assert_allclose(other.encode_texts(texts), plain.encode_texts(texts), atol=1e-6)


def expected_text_vector(words: list[str], seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    generator.standard_normal((3, 8))
    weights = generator.standard_normal((len(WORDS), 8)).astype(np.float32)
    mean = weights[[WORDS.index(word) for word in words]].mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_texts_are_padded_to_the_context_and_truncated_before_their_closing_token(tmp_path: Path) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path, context_length=6))
    vectors = encoder.encode_texts(["a dog", "a dog on the beach a red cat", "zebra"])
    expected = [
        ["<s>", "a", "dog", "</s>", "<pad>", "<pad>"],
        ["<s>", "a", "dog", "on", "the", "</s>"],
        ["<s>", "<unk>", "</s>", "<pad>", "<pad>", "<pad>"],
    ]
    np.testing.assert_allclose(vectors, [expected_text_vector(words) for words in expected], atol=1e-6)


def test_dynamic_context_pads_to_the_longest_text_only(tmp_path: Path) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path, own={"dynamic_context": True}))
    np.testing.assert_allclose(
        encoder.encode_texts(["dog"])[0], expected_text_vector(["<s>", "dog", "</s>"]), atol=1e-6
    )


def test_a_tower_with_a_fixed_length_decides_it(tmp_path: Path) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path, context_length=6, fixed_length=4))
    expected = expected_text_vector(["<s>", "a", "dog", "</s>"])
    np.testing.assert_allclose(encoder.encode_texts(["a dog on the beach"])[0], expected, atol=1e-6)


def test_many_texts_come_back_in_their_order(tmp_path: Path) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path, own={"dynamic_context": True}, context_length=12))
    texts = [" ".join(["dog", "cat", "beach", "red"][: 1 + index % 4]) for index in range(75)]
    vectors = encoder.encode_texts(texts)
    assert encoder.encode_texts([]).shape == (0, 8)
    for index in (0, 1, 2, 40, 74):
        words = ["<s>", *texts[index].split(), "</s>"]
        alone = expected_text_vector(words)
        assert float(vectors[index] @ alone) > 0.5  # padding differs, the words do not


def test_the_same_text_keeps_its_vector_when_the_session_is_loaded_again(tmp_path: Path) -> None:
    encoder = OnnxEncoder(write_model_directory(tmp_path))
    first, *rest = [encoder.encode_texts(["a red dog"]) for _ in range(5)]
    for again in rest:
        np.testing.assert_allclose(again, first, atol=1e-6)


def test_one_string_is_no_list_of_texts(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sequence"):
        OnnxEncoder(write_model_directory(tmp_path)).encode_texts("a dog")


@pytest.mark.slow
def test_a_text_query_needs_no_image_tower_and_the_other_way_round(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    (directory / "visual/model.onnx").write_bytes(b"broken")
    assert OnnxEncoder(directory).encode_texts(["a dog"]).shape == (1, 8)
    directory = write_model_directory(tmp_path)
    (directory / "textual/model.onnx").write_bytes(b"broken")
    (directory / "textual/tokenizer.json").unlink()
    assert OnnxEncoder(directory).encode_images(pixels(1)).shape == (1, 8)


def test_a_text_only_directory_names_its_image_tower(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path, visual=False, own={"image_fingerprint": "f" * 32})
    encoder = OnnxEncoder(directory)
    assert encoder.fingerprint == "f" * 32
    assert encoder.encode_texts(["a dog"]).shape == (1, 8)
    with pytest.raises(InvalidModel, match="only encode texts"):
        encoder.encode_images(pixels(1))
    with pytest.raises(InvalidModel, match="image_fingerprint"):
        OnnxEncoder(write_model_directory(tmp_path / "nameless", visual=False))


@pytest.mark.slow
def test_importing_the_encoder_loads_nothing_heavy(tmp_path: Path) -> None:
    directory = write_model_directory(tmp_path)
    code = (
        "import sys; import clipsearch.encoder, clipsearch.encoder.names\n"
        "from clipsearch.encoder.onnx import OnnxEncoder\n"
        f"encoder = OnnxEncoder({str(directory)!r}); encoder.fingerprint\n"
        "heavy = {'onnxruntime', 'tokenizers', 'torch', 'open_clip', 'huggingface_hub', 'transformers', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "encoder.encode_texts(['a dog'])\n"
        "heavy -= {'onnxruntime', 'tokenizers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def break_file(relative: str, content: bytes | None) -> Any:
    def change(directory: Path) -> None:
        if content is None:
            (directory / relative).unlink()
        else:
            (directory / relative).write_bytes(content)

    return change


def cut(relative: str) -> Any:
    def change(directory: Path) -> None:
        data = (directory / relative).read_bytes()
        (directory / relative).write_bytes(data[: len(data) // 2])

    return change


def set_config(**values: Any) -> Any:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, **values}))

    return change


def set_preprocess(**values: Any) -> Any:
    def change(directory: Path) -> None:
        file = directory / "visual/preprocess_cfg.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


@pytest.mark.many
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_file("config.json", None), "config.json is missing"),
        (break_file("config.json", b"{"), "config.json is not JSON"),
        (break_file("config.json", b"\xff\xfe"), "config.json is not JSON"),
        (break_file("config.json", b"[]"), "config.json is not a JSON object"),
        (set_config(embed_dim=None), "no embed_dim"),
        (set_config(embed_dim=9), "vectors of 8 dimensions, but config.json says 9"),
        (set_config(clipsearch={"score_scale": "x"}), "score_scale"),
        (set_config(text_cfg={"context_length": 1}), "context_length"),
        (set_config(text_cfg={"tokenizer_kwargs": {"clean": "harder"}}), "unknown text cleaning"),
        (set_config(text_cfg={"tokenizer_mode": "clips"}), "tokenizer mode"),
        (break_file("visual/preprocess_cfg.json", None), "preprocess_cfg.json is missing"),
        (set_preprocess(size=0), "invalid size"),
        (set_preprocess(size=[1, 2, 3]), "invalid size"),
        (set_preprocess(mean=[0.5]), "invalid mean"),
        (set_preprocess(std=[0.5, 0, 1]), "invalid std"),
        (set_preprocess(mode="BGR"), "invalid mode"),
        (set_preprocess(interpolation="magic"), "invalid interpolation"),
        (set_preprocess(resize_mode="magic"), "invalid resize_mode"),
        (break_file("visual/model.onnx", b""), "visual/model.onnx is empty"),
        (break_file("visual/model.onnx", b"junk that is no model"), "not an ONNX file"),
        (cut("visual/model.onnx"), "visual/model.onnx is cut short"),
        (cut("textual/model.onnx"), "textual/model.onnx is cut short"),
        (break_file("textual/model.onnx", None), "textual/model.onnx is missing"),
        (break_file("textual/tokenizer.json", None), "tokenizer.json is missing"),
        (break_file("textual/tokenizer.json", b"{}"), "tokenizer.json cannot be used"),
        (break_file("textual/tokenizer_config.json", b'{"pad_token": "<x>"}'), "does not know the padding token"),
    ],
)
def test_a_damaged_directory_says_what_is_wrong(tmp_path: Path, change: Any, message: str) -> None:
    directory = write_model_directory(tmp_path / "model")
    change(directory)
    with pytest.raises(InvalidModel, match=message) as caught:
        encoder = OnnxEncoder(directory)
        encoder.encode_images(pixels(1))
        encoder.encode_texts(["a dog"])
    assert caught.value.path == directory
    assert str(directory) in str(caught.value)


def test_missing_directory_and_missing_towers(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="does not exist"):
        OnnxEncoder(tmp_path / "nowhere")
    with pytest.raises(InvalidModel, match="neither"):
        OnnxEncoder(write_model_directory(tmp_path, visual=False, textual=False))


@pytest.mark.many
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_no_vector_is_not_returned(tmp_path: Path, value: float) -> None:
    directory = write_model_directory(tmp_path, external=True)
    (directory / "visual/weights.bin").write_bytes(np.full((3, 8), value, np.float32).tobytes())
    with pytest.raises(InvalidModel, match=r"zero vector|not finite"):
        OnnxEncoder(directory).encode_images(pixels(2))


def test_score_scale(tmp_path: Path) -> None:
    assert OnnxEncoder(write_model_directory(tmp_path / "a")).score_scale == 100
    assert OnnxEncoder(write_model_directory(tmp_path / "b", config={"init_logit_bias": -10})).score_scale == 115
    assert OnnxEncoder(write_model_directory(tmp_path / "c", own={"score_scale": 37.5})).score_scale == 37.5


def test_name_loads_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model_directory(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    encoder = OnnxEncoder("model")
    assert encoder.name == str(tmp_path / "model")
    assert OnnxEncoder("model", name="builtin").name == "builtin"
