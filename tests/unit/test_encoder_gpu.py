"""The same on a GPU as on the processor: vectors, memory that does not suffice, an index, training."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

import clipsearch  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder  # noqa: E402
from clipsearch.errors import ModelNotFound, OutOfDeviceMemory  # noqa: E402
from clipsearch.indexer.build import index_folder  # noqa: E402
from tests.support.open_clip_models import SMALL_RESNET, SMALL_SIGLIP, SMALL_VIT, small_model  # noqa: E402
from tests.support.pictures import scene  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def all_memory() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def pictures(count: int, side: int) -> Any:
    distinct = [np.asarray(scene(number, (side + 64, side + 64))) for number in range(min(count, 80))]
    places = [(number, 7 * (number // 80)) for number in range(count)]  # parts of them
    return np.stack([distinct[number % 80][at : at + side, at : at + side] for number, at in places])


def encoder_of(config: dict[str, Any], device: str, precision: Any = "auto") -> OpenClipEncoder:
    return OpenClipEncoder.from_model(small_model(config), config, name="small", device=device, precision=precision)


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET, SMALL_SIGLIP], ids=["vit", "resnet", "siglip"])
@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_vectors_are_those_of_the_processor(config: dict[str, Any], precision: str) -> None:
    exact, encoder = encoder_of(config, "cpu", "fp32"), encoder_of(config, "cuda", precision)
    given = pictures(700, exact.preprocessing.height)
    expected = exact.encode_images(given)
    for count in (700, 1, 3, 256, 257, 700):
        assert (encoder.encode_images(given[:count]) * expected[:count]).sum(axis=1).min() > 0.999
    texts = ["a dog", "two red boats", "x" * 900]
    assert (encoder.encode_texts(texts) * exact.encode_texts(texts)).sum(axis=1).min() > 0.999
    assert encoder.fingerprint == exact.fingerprint


def test_every_picture_has_its_own_vector_in_calls_of_any_size() -> None:
    encoder = encoder_of(SMALL_VIT, "cuda")
    encoder._runs.pictures = 16
    given = pictures(203, 64)
    whole = encoder.encode_images(given)
    alone = np.concatenate([encoder.encode_images(given[n : n + 1]) for n in range(len(given))])
    assert (whole * alone).sum(axis=1).min() > 0.9995
    nearest = (whole @ alone.T).argmax(axis=1)
    assert (nearest == np.arange(len(given))).mean() > 0.95  # some pictures are all but the same


def test_memory_that_does_not_suffice_halves_the_runs() -> None:
    encoder = encoder_of(SMALL_SIGLIP, "cuda")
    given = pictures(512, 224)
    expected = encoder.encode_images(given)
    encoder._runs._buffers = []
    gc.collect()
    torch.cuda.empty_cache()
    used, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    encoder._runs.pictures = 512
    torch.cuda.set_per_process_memory_fraction((used + (300 << 20)) / total)
    assert (encoder.encode_images(given) * expected).sum(axis=1).min() > 0.999
    assert encoder._runs.pictures < 512
    encoder._runs._buffers = []
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (1 << 20)) / total)
    with pytest.raises(OutOfDeviceMemory, match="--device"):
        encoder.encode_images(given)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert (encoder.encode_images(given) * expected).sum(axis=1).min() > 0.999


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(ModelNotFound, match="PyTorch finds"):
        encoder_of(SMALL_VIT, "cuda:99")


def test_an_index_made_on_a_gpu_is_that_of_the_processor(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(300):
        scene(number, (96, 72)).save(photos / f"{number:03}.png")
    found = {}
    for device in ("cpu", "cuda"):
        assert index_folder(photos, encoder_of(SMALL_VIT, device), index=tmp_path / device).encoded == 300
        with clipsearch.open(tmp_path / device) as opened:
            found[device] = {record.path: opened.vector(record.row_id) for record in opened}
    assert found["cpu"].keys() == found["cuda"].keys()
    assert min(float(vector @ found["cuda"][path]) for path, vector in found["cpu"].items()) > 0.999
