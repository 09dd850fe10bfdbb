"""Towers trained in bf16, stopped, resumed, exported and indexed: everywhere the vectors that were measured.

One layer, for a quarter of the time: every layer is converted alike. CLIPSEARCH_LAYERS=12 has all.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

import clipsearch  # noqa: E402
from clipsearch.encoder.layout import copy_model_directory  # noqa: E402
from clipsearch.encoder.names import load_encoder  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder  # noqa: E402
from clipsearch.pairs.reading import open_pairs  # noqa: E402
from clipsearch.training.run import Request, Watch, resume, train  # noqa: E402
from clipsearch.training.run_folder import WEIGHTS  # noqa: E402
from clipsearch.training.settings import Method, Settings, TrainingInterrupted  # noqa: E402
from clipsearch.training.towers import TowersTrainee  # noqa: E402
from clipsearch.training.views import WHOLE, view_of  # noqa: E402
from tests.support.open_clip_models import SMALL_VIT, small_encoder  # noqa: E402
from tests.support.training_pairs import write_pairs  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

LAYERS = int(os.environ.get("CLIPSEARCH_LAYERS", "1"))
NAME = "test-bf16"
TOWERS: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {**SMALL_VIT["vision_cfg"], "layers": LAYERS, "width": 32, "head_width": 16, "patch_size": 32},
    "text_cfg": {**SMALL_VIT["text_cfg"], "layers": LAYERS, "width": 32, "context_length": 16},
}


@pytest.mark.few
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_in_bf16_ends_and_is_used_as_it_was_measured(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pairs(tmp_path / "pairs", 16)
    settings = Settings(method, precision="bf16", batch=8, max_steps=4, learning_rate=1e-3, views=1, checkpoint_steps=1)
    sources = [str(folder)]
    request = Request(sources, "", settings, dev=sources, anchor=sources, alpha=1.0, max_anchor_drop=100.0)
    steps: list[int] = []
    measured: list[Any] = []
    write_model = TowersTrainee.write_model

    def noted(trainee: TowersTrainee, target: Path, source: str) -> None:
        measured.extend(trainee.vectors("dev"))
        write_model(trainee, target, source)

    monkeypatch.setattr(TowersTrainee, "write_model", noted)
    watch = Watch(lambda stage, done, total: steps.append(done) if stage == "training" else None)
    run = tmp_path / "run"
    with pytest.raises(TrainingInterrupted, match="after step 2"):
        train(request, run, base=small_encoder(TOWERS), watch=replace(watch, interrupted=lambda: len(steps) == 2))
    report = resume(run, base=small_encoder(TOWERS), watch=watch)
    assert steps == [1, 2, 3, 4]
    assert report.steps == 4
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]

    pairs = open_pairs(sources)
    texts = [pair.captions[0] for pair in pairs]
    copy_model_directory(run / "model", tmp_path / "exported")  # what `models export RUN` does
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{NAME}.json").write_text(json.dumps(TOWERS))
    open_clip.add_model_config(tmp_path / "configs")
    start = small_encoder(TOWERS)
    used = [
        load_encoder(str(run), precision="fp32"),
        load_encoder(str(tmp_path / "exported"), precision="fp32"),
        OpenClipEncoder(NAME, checkpoint=run / WEIGHTS, device="cpu", precision="fp32"),
    ]
    pixels = np.stack([view_of(pair, WHOLE, 0, start.preprocessing) for pair in pairs])
    for encoder in used:
        np.testing.assert_allclose(encoder.encode_images(pixels), measured[0], atol=1e-6)
        np.testing.assert_allclose(encoder.encode_texts(texts), measured[1], atol=1e-6)
    assert np.abs(start.encode_images(pixels) - measured[0]).max() > 1e-3  # something was learned

    photos = write_pairs(tmp_path / "photos", 16)
    for made, model in ((16, run), (0, tmp_path / "exported")):
        indexed = clipsearch.index(photos, model=str(model), precision="fp32")
        assert (indexed.pictures, indexed.encoded) == (16, made)  # one model, by any of its names
    with clipsearch.open(photos) as collection:
        hits = sorted(collection.search(texts[3], 16, all=True), key=lambda hit: hit.path)
        stored = collection.vectors([hit.record.row_id for hit in hits])
        scores = [hit.score for hit in hits]
    np.testing.assert_allclose(stored, measured[0], atol=1e-3)  # kept as float16
    np.testing.assert_allclose(scores, measured[0] @ measured[1][3], atol=2e-3)
