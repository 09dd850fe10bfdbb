"""Captions and likelihoods of CoCa, held against open_clip's own passes. A small model with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytestmark = pytest.mark.torch

import torch  # noqa: E402

from clipsearch.encoder.captions import LEAST, LONGEST, Captioner  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder  # noqa: E402
from tests.support.open_clip_models import SMALL_COCA, SMALL_VIT, small_encoder, small_model  # noqa: E402


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    model = small_model(SMALL_COCA)
    return OpenClipEncoder.from_model(model, SMALL_COCA, name="coca", device="cpu", precision="fp32")


def captioner_of(encoder: OpenClipEncoder) -> Captioner:
    found = encoder.captioner()
    assert found is not None
    return found


def pixels(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def as_open_clip_takes_them(encoder: OpenClipEncoder, given: Any) -> torch.Tensor:
    side = encoder.preprocessing
    return torch.tensor((given / 255 - side.mean) / side.std, dtype=torch.float32).permute(0, 3, 1, 2)


def test_a_likelihood_is_what_open_clip_trains_with(encoder: OpenClipEncoder) -> None:
    given, text = pixels(3), "a dog on the beach!"
    ids = encoder.tokenizer([text] * 3)
    with torch.no_grad():
        out = encoder.model(as_open_clip_takes_them(encoder, given), ids)
        losses = torch.nn.functional.cross_entropy(
            out["logits"].permute(0, 2, 1), out["labels"], ignore_index=encoder.model.pad_id, reduction="none"
        )
    expected = -losses.sum(dim=1) / (out["labels"] != 0).sum(dim=1)
    found = captioner_of(encoder).likelihoods(given, text)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert found.dtype == np.float32 and len(set(found.tolist())) == 3
    assert captioner_of(encoder).likelihoods(given[:0], text).shape == (0,)


def test_a_caption_is_the_likeliest_word_after_each(encoder: OpenClipEncoder) -> None:
    captioner, given = captioner_of(encoder), pixels(1)
    tokenizer = encoder.tokenizer
    forbidden = [tokenizer.sot_token_id, encoder.model.pad_id]
    for (text, score), one in zip(captioner.captions(given), given, strict=True):
        image = as_open_clip_takes_them(encoder, one[None])
        ids, total = [tokenizer.sot_token_id], 0.0
        while len(ids) < LONGEST and ids[-1] != tokenizer.eot_token_id:
            with torch.no_grad():
                out = encoder.model(image, torch.tensor([ids]), output_labels=False)
            sure = out["logits"][0, -1].log_softmax(-1)
            sure[forbidden + ([tokenizer.eot_token_id] if len(ids) <= LEAST else [])] = -torch.inf
            ids.append(int(sure.argmax()))
            total += float(sure.max())
        assert text.split() == tokenizer.decode([one for one in ids if one < tokenizer.sot_token_id]).split()
        assert score == pytest.approx(np.exp(total / (len(ids) - 1)), rel=1e-3)


@pytest.mark.slow
def test_a_caption_ends_where_the_model_ends_it() -> None:
    model = small_model(SMALL_COCA)
    encoder = OpenClipEncoder.from_model(model, SMALL_COCA, name="coca", device="cpu", precision="fp32")
    end = encoder.tokenizer.eot_token_id
    with torch.no_grad():  # whatever is seen, the end is next
        model.text_decoder.ln_final.weight.zero_()
        model.text_decoder.ln_final.bias.fill_(1.0)
        model.text_decoder.text_projection.zero_()
        model.text_decoder.text_projection[:, end] = 1.0
        model.text_decoder.text_projection[:, 320] = 0.5
    ((text, score),) = captioner_of(encoder).captions(pixels(1))
    assert text == " ".join(["a"] * LEAST)  # 320 is "a</w>"
    assert 0 < score < 1


@pytest.mark.slow
def test_many_pictures_have_the_captions_of_few(encoder: OpenClipEncoder) -> None:
    captioner = captioner_of(encoder)
    captioner.pictures_per_call = 2
    given = pixels(3)
    together = captioner.captions(given)
    captioner.pictures_per_call = 3
    assert [text for text, _ in captioner.captions(given)] == [text for text, _ in together]
    assert captioner.captions(given[:0]) == []
    with pytest.raises(ValueError, match="uint8"):
        captioner.captions(given.astype(np.float32))


def test_other_models_write_none() -> None:
    assert small_encoder(SMALL_VIT).captioner() is None
