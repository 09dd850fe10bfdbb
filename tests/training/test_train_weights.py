"""What a run writes can be used as it was trained: preprocessing, bias and temperature go with the weights."""

from __future__ import annotations

import json
import math
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from safetensors.torch import load_file, save_file  # noqa: E402

from clipsearch.encoder.layout import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder  # noqa: E402
from clipsearch.errors import InvalidModel  # noqa: E402
from clipsearch.pairs.reading import open_pairs  # noqa: E402
from clipsearch.records import FloatArray  # noqa: E402
from clipsearch.training.loop import Loop, ema_decay  # noqa: E402
from clipsearch.training.run_folder import WEIGHTS, RunFolder  # noqa: E402
from clipsearch.training.settings import Settings  # noqa: E402
from clipsearch.training.towers import TowersTrainee, write_weights  # noqa: E402
from clipsearch.training.views import WHOLE, view_of  # noqa: E402
from tests.support.open_clip_models import SMALL_SIGLIP, SMALL_VIT, small_encoder, small_model  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = pytest.mark.torch

CLIPA_VISION = {**SMALL_VIT["vision_cfg"], "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
CLIPA_TEXT = {**SMALL_VIT["text_cfg"], "context_length": 32, "pool_type": "last", "no_causal_mask": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "test-siglip": {
        **SMALL_SIGLIP, "embed_dim": 64,
        "vision_cfg": {**SMALL_SIGLIP["vision_cfg"], "image_size": 160, "timm_model_name": "test_vit"},
        "text_cfg": {**SMALL_SIGLIP["text_cfg"], "width": 64, "heads": 2},
    },
    "test-clipa": {"embed_dim": 64, "vision_cfg": CLIPA_VISION, "text_cfg": CLIPA_TEXT},
    "test-mobile": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64, "timm_model_name": "test_resnet", "timm_model_pretrained": False, "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": SMALL_VIT["text_cfg"],
    },
}  # fmt: skip
PREPROCESSING: dict[str, dict[str, Any]] = {
    "test-siglip": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    "test-clipa": {
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bilinear",
        "resize_mode": "squash",
    },
    "test-mobile": {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "resize_mode": "shortest"},
}  # fmt: skip


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let open_clip know the small models by name."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def encoder_of(name: str) -> OpenClipEncoder:
    model = small_model(CONFIGS[name])
    model.visual.preprocess_cfg = {
        **open_clip.transform.PreprocessCfg().__dict__,
        "size": model.visual.image_size,
        **PREPROCESSING[name],
    }
    return OpenClipEncoder.from_model(model, deepcopy(CONFIGS[name]), name=name, device="cpu", precision="fp32")


def vectors(encoder: OpenClipEncoder, folder: Path) -> FloatArray:
    pairs = open_pairs([folder])
    images = encoder.encode_images(np.stack([view_of(pair, WHOLE, 0, encoder.preprocessing) for pair in pairs]))
    return np.concatenate([images, encoder.encode_texts([pair.captions[0] for pair in pairs])])


@pytest.mark.usefixtures("architectures")
@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_checkpoint_gives_the_vectors_of_the_run(name: str, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 4)
    pairs = open_pairs([folder])
    settings = Settings("full", epochs=1, batch=4, learning_rate=1e-3, views=1)
    trainee = TowersTrainee(encoder_of(name), settings, pairs, {"dev": pairs})
    assert trainee.objective == ("siglip" if name == "test-siglip" else "clip")
    run = RunFolder(tmp_path / "run")
    run.create({})
    Loop(trainee, trainee.order, settings, run).run()
    trained = trainee.trained_encoder("trained")
    write_weights(trained, run.path)
    found = OpenClipEncoder(name, checkpoint=run.path / "weights.safetensors", device="cpu", precision="fp32")
    assert found.preprocessing == trained.preprocessing
    assert found.fingerprint == trained.fingerprint
    np.testing.assert_allclose(vectors(found, folder), vectors(trained, folder), atol=1e-6)
    # Under the names that `models push` gives them, open_clip itself finds the weights.
    (tmp_path / "hub").mkdir()
    shutil.copy(run.path / WEIGHTS, tmp_path / "hub" / OPEN_CLIP_WEIGHTS)
    shutil.copy(run.path / OPEN_CLIP_CONFIG, tmp_path / "hub")
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'hub'}")
    tokens = trained.tokenizer(["a red boat and a tall hill"])
    with torch.no_grad():
        expected = trained.model.eval().encode_text(tokens)
        torch.testing.assert_close(theirs.eval().encode_text(tokens), expected, atol=1e-5, rtol=1e-4)
    assert tuple(preprocess.transforms[-1].mean) == trained.preprocessing.mean
    if trainee.bias is not None:
        assert float(trainee.bias.detach()) != pytest.approx(-10.0, abs=1e-5)
        assert float(found.model.logit_bias.detach()) == pytest.approx(float(trainee.bias.detach()), abs=1e-6)
    # The same from the file beside the weights, where the weights were saved again by something else; and from the
    # model directory of a run made before weights had either.
    save_file(load_file(run.path / "weights.safetensors"), run.path / "plain.safetensors")
    plain = OpenClipEncoder(name, checkpoint=run.path / "plain.safetensors", device="cpu", precision="fp32")
    assert plain.preprocessing == trained.preprocessing
    beside = run.path / "open_clip_config.json"
    (run.path / "model/visual").mkdir(parents=True)
    (run.path / "model/visual/preprocess_cfg.json").write_text(
        json.dumps(json.loads(beside.read_text())["preprocess_cfg"])
    )
    beside.unlink()
    old = OpenClipEncoder(name, checkpoint=run.path / "plain.safetensors", device="cpu", precision="fp32")
    assert old.preprocessing == trained.preprocessing
    beside.write_text('{"preprocess_cfg": {"mean": [0')
    with pytest.raises(InvalidModel, match="preprocessing"):
        OpenClipEncoder(name, checkpoint=run.path / "plain.safetensors", device="cpu")


def test_weights_from_elsewhere_get_the_preprocessing_of_all_published_ones() -> None:
    from clipsearch.encoder.openclip import _published_cfg

    cfg = _published_cfg("ViT-B-16-SigLIP", open_clip)
    assert cfg is not None
    assert tuple(cfg["mean"]) == (0.5, 0.5, 0.5)
    assert cfg["resize_mode"] == "squash"
    assert _published_cfg("ViT-B-32", open_clip) is None or "mean" in (_published_cfg("ViT-B-32", open_clip) or {})
    assert _published_cfg("not-published", open_clip) is None


def test_a_temperature_beyond_clips_bound_is_kept(tmp_path: Path) -> None:
    pairs = open_pairs([write_pairs(tmp_path / "pairs", 8)])
    for start, most in ((math.log(117.0), 117.0), (math.log(20.0), 100.0)):
        base = small_encoder(SMALL_VIT)
        with torch.no_grad():
            base.model.logit_scale.fill_(start)
        settings = Settings("full", epochs=1, batch=8, views=1)
        trainee = TowersTrainee(base, settings, pairs, {"dev": pairs})
        run = RunFolder(tmp_path / f"run{most}")
        run.create({})
        loop = Loop(trainee, trainee.order, settings, run)
        with torch.no_grad():
            trainee.log_scale.fill_(9.0)
        loop._step(0)
        assert float(trainee.log_scale.detach().exp()) == pytest.approx(most, rel=1e-4)


def test_averages_forget_the_start_of_a_short_run() -> None:
    average, value = 0.0, 1.0
    for step in range(100):
        average += (1 - ema_decay(0.9999, step)) * (value - average)
    assert average > 0.99
    assert ema_decay(0.9, 10_000) == 0.9
