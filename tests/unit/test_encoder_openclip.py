"""OpenClipEncoder: weights, checkpoints, fingerprints. Small models with random weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytestmark = pytest.mark.torch

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from clipsearch.encoder import names  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder, set_batch_first, weights_checksum  # noqa: E402
from clipsearch.errors import InvalidModel, ModelNotFound  # noqa: E402
from tests.support.open_clip_models import SMALL_VIT, small_encoder, small_model  # noqa: E402


def pixels(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_vectors_are_those_of_open_clip() -> None:
    model = small_model(SMALL_VIT)
    encoder = OpenClipEncoder.from_model(model, SMALL_VIT, name="small", device="cpu", precision="fp32")
    given = pixels(5)
    side = encoder.preprocessing
    floats = torch.tensor((given / 255 - side.mean) / side.std, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.encode_image(floats, normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_images(given), expected, atol=1e-5)
    with torch.no_grad():
        expected = model.encode_text(encoder.tokenizer(["a dog", "x" * 900]), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_texts(["a dog", "x" * 900]), expected, atol=1e-5)
    assert encoder.encode_images(given[:0]).shape == (0, 64)
    assert encoder.encode_texts([]).shape == (0, 64)


def test_texts_are_counted_in_the_tokens_of_the_model() -> None:
    encoder = small_encoder(SMALL_VIT)
    texts = ["", "a dog", "A  DOG &amp; a cat", "ein Hündchen 東京", "dog " * 200]
    lengths, limit = encoder.text_lengths(texts)
    assert limit == 77
    assert lengths[:4] == [int((row != 0).sum()) for row in encoder.tokenizer(texts[:4])]  # 0 fills up
    assert lengths[4] == 202


def test_many_inputs_are_the_same_as_few() -> None:
    encoder = OpenClipEncoder.from_model(small_model(SMALL_VIT), SMALL_VIT, name="x", device="cpu", precision="fp32")
    given = pixels(40)
    np.testing.assert_allclose(encoder.encode_images(given)[33:], encoder.encode_images(given[33:]), atol=1e-5)


def test_the_order_of_axes_inside_does_not_matter() -> None:
    model = small_model(SMALL_VIT)
    encoder = OpenClipEncoder.from_model(model, SMALL_VIT, name="small", device="cpu", precision="fp32")
    images, texts = encoder.encode_images(pixels(3)), encoder.encode_texts(["a dog", ""])
    set_batch_first(model, False)
    assert not model.visual.transformer.batch_first
    np.testing.assert_allclose(encoder.encode_images(pixels(3)), images, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(["a dog", ""]), texts, atol=1e-5)


def test_bfloat16_is_close_and_of_the_same_space() -> None:
    model = small_model(SMALL_VIT)
    exact = OpenClipEncoder.from_model(model, SMALL_VIT, name="small", device="cpu", precision="fp32")
    expected_images, expected_texts = exact.encode_images(pixels(4)), exact.encode_texts(["a dog", "a red cat"])
    fast = OpenClipEncoder.from_model(model, SMALL_VIT, name="small", device="cpu", precision="bf16")
    assert (expected_images * fast.encode_images(pixels(4))).sum(axis=1).min() > 0.999
    assert (expected_texts * fast.encode_texts(["a dog", "a red cat"])).sum(axis=1).min() > 0.999
    assert exact.fingerprint == fast.fingerprint


def test_fingerprint_is_of_the_image_tower_and_its_preprocessing() -> None:
    encoder = small_encoder(SMALL_VIT)
    before = encoder.fingerprint
    assert small_encoder(SMALL_VIT).fingerprint == before
    assert small_encoder(SMALL_VIT, seed=1).fingerprint != before
    with torch.no_grad():
        encoder.model.token_embedding.weight += 1
    assert OpenClipEncoder.from_model(encoder.model, SMALL_VIT, name="x", device="cpu").fingerprint == before
    encoder.model.visual.preprocess_cfg = {"size": 64, "resize_mode": "squash"}
    assert OpenClipEncoder.from_model(encoder.model, SMALL_VIT, name="x", device="cpu").fingerprint != before


def test_checksum_does_not_depend_on_the_stored_precision_of_exact_values() -> None:
    layer = torch.nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.to(torch.bfloat16))
        layer.bias.zero_()
    before = weights_checksum(layer)
    assert weights_checksum(layer.to(torch.bfloat16)) == before


@pytest.fixture
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make open_clip know the small model under a name."""
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "Small-ViT", SMALL_VIT)
    return "Small-ViT"


def test_a_checkpoint_can_be_named_in_one_word(tmp_path: Path, tiny_architecture: str) -> None:
    model = small_model(SMALL_VIT, seed=3)
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), str(file))
    encoder = names.load_encoder(f"open_clip:{tiny_architecture}", checkpoint=file, device="cpu")
    assert encoder.name == f"open_clip:{tiny_architecture}@{file}"
    assert encoder.fingerprint == small_encoder(SMALL_VIT, seed=3).fingerprint
    again = names.load_encoder(encoder.name, device="cpu")
    np.testing.assert_array_equal(again.encode_texts(["a dog"]), encoder.encode_texts(["a dog"]))
    with pytest.raises(ModelNotFound, match="leave out --checkpoint"):
        names.load_encoder(encoder.name, checkpoint=file)


def test_a_pickle_needs_the_flag(tmp_path: Path, tiny_architecture: str) -> None:
    file = tmp_path / "weights.pt"
    torch.save(small_model(SMALL_VIT).state_dict(), file)
    name = f"open_clip:{tiny_architecture}"
    with pytest.raises(InvalidModel, match="--allow-pickle"):
        names.load_encoder(name, checkpoint=file, device="cpu")
    assert names.load_encoder(name, checkpoint=file, device="cpu", allow_pickle=True).dim == 64


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def test_a_pickle_that_would_run_code_does_not(
    tmp_path: Path, tiny_architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "weights.pt")
    with pytest.raises(InvalidModel):
        OpenClipEncoder(tiny_architecture, checkpoint="weights.pt", device="cpu", allow_pickle=True)
    assert not (tmp_path / "exploded").exists()


def test_what_cannot_be_loaded_says_so(tmp_path: Path, tiny_architecture: str) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(InvalidModel, match=r"^the checkpoint .*bad\.safetensors cannot be used: it does not contain w"):
        OpenClipEncoder(tiny_architecture, checkpoint=tmp_path / "bad.safetensors")
    save_file({"x": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(InvalidModel, match="does not contain weights"):
        OpenClipEncoder(tiny_architecture, checkpoint=tmp_path / "other.safetensors")
    with pytest.raises(ModelNotFound, match="checkpoint file does not exist"):
        OpenClipEncoder(tiny_architecture, checkpoint=tmp_path / "nowhere.safetensors")
    with pytest.raises(ModelNotFound, match="did you mean ViT-B-32"):
        OpenClipEncoder("ViT-B-23", "openai")
    with pytest.raises(ModelNotFound, match="open_clip knows openai"):
        OpenClipEncoder("ViT-B-32", "opneai")
    with pytest.raises(ModelNotFound, match="needs weights"):
        OpenClipEncoder("ViT-B-32")
    with pytest.raises(ModelNotFound, match="only open_clip model names"):
        OpenClipEncoder("local-dir:/tmp", "x")
    with pytest.raises(ValueError, match="precision"):
        OpenClipEncoder.from_model(small_model(SMALL_VIT), SMALL_VIT, name="x", precision="int8")  # type: ignore[arg-type]


def test_a_tag_that_cannot_be_fetched_says_so() -> None:
    with pytest.raises(ModelNotFound, match="could not be downloaded"):
        OpenClipEncoder("ViT-B-32", "openai")


def test_listing_and_info() -> None:
    listed = {model.name: model for model in names.list_models(every_kind=True)}
    assert "laion2b_s34b_b79k" in listed["open_clip:ViT-B-32"].tags
    assert names.info("open_clip:ViT-B-32/openai").dim == 512


def test_without_the_extra_it_is_named() -> None:
    code = (
        "import sys; sys.modules['open_clip'] = None\n"
        "from clipsearch.encoder.names import load_encoder\n"
        "from clipsearch.errors import MissingExtra\n"
        "try: load_encoder('open_clip:ViT-B-32/openai')\n"
        "except MissingExtra as error: assert 'clipsearch[torch]' in str(error)\n"
        "else: raise SystemExit('loaded')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
