"""Pictures in runs through a PyTorch tower: order, memory that does not suffice, weights in the precision of the
arithmetic. On the processor; tests/unit/test_encoder_gpu.py does the same on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytestmark = pytest.mark.torch

import torch  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from clipsearch.encoder.openclip import ImageModel, OpenClipEncoder  # noqa: E402
from clipsearch.encoder.runs import Runs  # noqa: E402
from clipsearch.errors import InvalidModel, OutOfDeviceMemory  # noqa: E402
from tests.support.open_clip_models import SMALL_VIT, small_model  # noqa: E402

CPU = torch.device("cpu")


def pixels(count: int, side: int = 4) -> Any:
    return np.random.default_rng(0).integers(1, 256, (count, side, side, 3), dtype=np.uint8)


def flat(given: torch.Tensor) -> torch.Tensor:
    return given.reshape(len(given), -1)[:, :8].float()


def unit(given: Any) -> Any:
    rows = given.reshape(len(given), -1)[:, :8].astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(max_examples=30)
@given(count=st.integers(1, 40), run=st.integers(1, 17), holds=st.integers(1, 20))
def test_every_picture_has_its_vector_however_little_fits(count: int, run: int, holds: int) -> None:
    seen: list[int] = []

    def tower(given: torch.Tensor) -> torch.Tensor:
        seen.append(len(given))
        if len(given) > holds:
            raise torch.OutOfMemoryError("too many")
        return flat(given)

    runs = Runs(CPU, 8, Path("m"), run)
    np.testing.assert_allclose(runs.encode(tower, pixels(count)), unit(pixels(count)), atol=1e-6)
    assert max(seen) <= run
    tried = len(seen)
    runs.encode(tower, pixels(count))
    assert all(size <= holds for size in seen[tried:])  # what was learnt is remembered


def test_a_memory_for_not_even_one_picture_is_said() -> None:
    def tower(given: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too many")

    with pytest.raises(OutOfDeviceMemory, match="--device cpu"):
        Runs(CPU, 8, Path("m"), 16).encode(tower, pixels(20))


def test_what_is_no_vector_is_refused_and_the_next_call_works() -> None:
    runs = Runs(CPU, 8, Path("m"), 4)
    with pytest.raises(InvalidModel, match="not finite"):
        runs.encode(lambda given: flat(given) * torch.nan, pixels(9))
    np.testing.assert_allclose(runs.encode(flat, pixels(9)), unit(pixels(9)), atol=1e-6)


def converting(model: Any) -> tuple[OpenClipEncoder, ImageModel]:
    """An encoder on the processor that converts weights as one on a GPU does."""
    encoder = OpenClipEncoder.from_model(model, SMALL_VIT, name="small", device="cpu", precision="bf16")
    encoder._image_model = ImageModel(model, "bf16", CPU, convert=True)
    return encoder, encoder._image_model


def exact(model: Any, given: Any) -> Any:
    return OpenClipEncoder.from_model(model, SMALL_VIT, name="small", device="cpu", precision="fp32").encode_images(
        given
    )


def test_converted_weights_follow_those_that_are_trained() -> None:
    given = pixels(40, 64)
    model = small_model(SMALL_VIT)
    encoder, image_model = converting(model)
    before = encoder.encode_images(given)
    assert image_model._converted is not None
    assert next(image_model._converted.visual.parameters()).dtype == torch.bfloat16
    assert next(model.visual.parameters()).dtype == torch.float32
    assert (before * exact(model, given)).sum(axis=1).min() > 0.999
    first = image_model._converted
    encoder.encode_images(given)
    assert image_model._converted is first  # made once

    optimizer = torch.optim.SGD(model.visual.parameters(), lr=20.0)
    model.train()
    model.encode_image(torch.randn(4, 3, 64, 64)).pow(2).sum().backward()
    optimizer.step()
    after = encoder.encode_images(given)
    assert not model.training
    assert (after * exact(model, given)).sum(axis=1).min() > 0.999
    assert (after * before).sum(axis=1).min() < 0.99


class Fine(torch.nn.Module):
    """A tower whose weights are differences that bf16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = 64
        self.scale = torch.nn.Parameter(1 + 2e-3 * torch.randn(64, generator=torch.Generator().manual_seed(0)))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return (self.scale - 1) * (2 + given.mean(dim=(1, 2, 3)))[:, None]


def test_weights_that_lose_too_much_are_not_converted() -> None:
    model = small_model(SMALL_VIT)
    model.visual = Fine()
    given = pixels(40, 64)
    encoder, image_model = converting(model)
    vectors = encoder.encode_images(given)
    assert image_model._converted is None
    assert (vectors * exact(model, given)).sum(axis=1).min() > 0.999
    lossy = Fine().bfloat16()(torch.ones(1, 3, 64, 64)).float()
    assert torch.cosine_similarity(lossy, torch.from_numpy(vectors[:1])) < 0.99


def test_a_model_made_in_inference_mode_is_left_as_it_is() -> None:
    with torch.inference_mode():
        model = small_model(SMALL_VIT)
    encoder, image_model = converting(model)
    encoder.encode_images(pixels(3, 64))
    assert image_model._converted is None
