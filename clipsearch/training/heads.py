"""The method `heads`, and `locked-image` for ONNX models: residuals on cached features (see `residual`)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clipsearch.encoder.layout import CONFIG, MULTILINGUAL, TEXTUAL_MODEL, VISUAL_MODEL
from clipsearch.evaluation.recall import Metrics, evaluate
from clipsearch.records import FloatArray, IntArray
from clipsearch.training.feature_cache import CachedPairs, Features
from clipsearch.training.frozen import FrozenModel
from clipsearch.training.grad_cache import Loaded, Part, Vectors
from clipsearch.training.licences import licence_note
from clipsearch.training.mining import Neighbourhood
from clipsearch.training.order import Draw
from clipsearch.training.residual import Residual, append_residual
from clipsearch.training.settings import Objective, Settings

MOST_FITTED = 50_000  # rows that standardisation and gate are fitted on
ROWS_AT_ONCE = 4096
LEARNING_RATE = 1e-3
GENERAL_AT_ONCE = 256  # sentences
SIGLIP_BIAS = -10.0  # where SigLIP begins (Zhai et al. 2023)


class HeadsTrainee:
    """Residuals of one or both towers of a model directory, on cached features of pairs."""

    def __init__(
        self,
        model: FrozenModel,
        train: CachedPairs,
        sets: dict[str, CachedPairs],
        settings: Settings,
        general: Features | None = None,
        device: torch.device | None = None,
    ) -> None:
        """`general`: sentences whose vectors are to stay where they are."""
        self.device = device or torch.device("cpu")
        self.micro_batch: int | None = None
        self.usual_rate = LEARNING_RATE
        self.learning_rate = self.usual_rate if settings.learning_rate is None else settings.learning_rate
        self.model = model
        self._train, self._sets, self._general = train, sets, general
        pictures, texts = train.same_pictures, train.same_texts
        self._same_pictures = np.arange(len(train.pairs)) if pictures is None else pictures
        self._same_texts = np.arange(len(train.texts.vectors)) if texts is None else texts
        self._settings = settings
        torch.manual_seed(settings.seed)
        whole = _fitted_on(train.views[0])
        self.image: Residual | None = None
        if settings.method != "locked-image":
            self.image = _residual(whole, model.dim, settings).to(self.device)
        self.text = _residual(_fitted_on(train.texts), model.dim, settings).to(self.device)
        self.log_scale = nn.Parameter(torch.tensor(math.log(model.score_scale), device=self.device))
        self.bias: nn.Parameter | None = None
        own_bias = getattr(model, "score_bias", None)
        self.objective: Objective = settings.objective or ("clip" if own_bias is None else "siglip")
        if self.objective == "siglip":
            start = SIGLIP_BIAS if own_bias is None else own_bias
            self.bias = nn.Parameter(torch.tensor(float(start), device=self.device))

    def groups(self, settings: Settings) -> list[tuple[float, dict[str, nn.Parameter]]]:
        """All parameters of the residuals, with one learning rate."""
        named = {f"text.{name}": value for name, value in self.text.named_parameters()}
        if self.image is not None:
            named |= {f"image.{name}": value for name, value in self.image.named_parameters()}
        return [(1.0, named)]

    def buffers(self) -> dict[str, Tensor]:
        """Nothing besides parameters changes."""
        return {}

    def load(self, draw: Draw) -> Loaded:
        """Features and vectors side by side, of one view for each picture."""
        views = draw.seeds % len(self._train.views)
        rows = self._train.captions[draw.captions]
        images = np.stack(
            [
                np.concatenate([self._train.views[view].features[row], self._train.views[view].vectors[row]])
                for view, row in zip(views, draw.pictures, strict=True)
            ]
        )
        loaded = Loaded(
            self._tensor(images),
            self._tensor(_side_by_side(self._train.texts, rows)),
            torch.from_numpy(self._same_pictures[draw.pictures]).to(self.device),
            torch.from_numpy(self._same_texts[rows]).to(self.device),
        )
        if self._train.wrong is None:
            return loaded
        wrong, counts = self._train.wrong.drawn(rows, draw.seeds)
        return loaded._replace(wrong=self._tensor(wrong), counts=self._tensor(counts))

    def look_ahead(self, draws: list[Draw]) -> None:
        """Features are in memory."""

    def encode(self, part: Part) -> Vectors:
        """Shapes: images (B, F + D), texts (B, F' + D)."""
        dim = self.model.dim
        image_features, image_vectors = part.images[:, :-dim], part.images[:, -dim:]
        given = part.texts if part.wrong is None else torch.cat([part.texts, part.wrong])
        text_features, text_vectors = given[:, :-dim], given[:, -dim:]
        keep = None
        if self.text.training and self.image is not None and self._settings.keep_texts:
            # Some captions stay where the base model has them, so that pictures do not move out of their reach.
            keep = (torch.rand(len(text_features), 1) >= self._settings.keep_texts).float().to(self.device)
        texts = self.text(text_features, text_vectors, keep)
        images = image_vectors if self.image is None else self.image(image_features, image_vectors)
        return (images, texts) if part.wrong is None else (images, texts[: len(images)], texts[len(images) :])

    def penalty(self, seed: int) -> Tensor | None:
        """How far general sentences have moved: the mean of 1 - cosine to where they were, weighted."""
        if self._general is None or not self._settings.keep_general:
            return None
        torch.manual_seed(seed)
        rows = np.random.default_rng(seed).integers(0, len(self._general.vectors), GENERAL_AT_ONCE)
        before = self._tensor(self._general.vectors[rows])
        after = self.text(self._tensor(self._general.features[rows]), before)
        moved: Tensor = (1 - (before * after).sum(dim=1)).mean()
        return self._settings.keep_general * moved

    def set_training(self, training: bool) -> None:
        """Dropout on or off."""
        for residual in self._residuals():
            residual.train(training)

    def set_strength(self, strength: float) -> None:
        """How much of what was learned counts: 0 is the base model."""
        for residual in self._residuals():
            residual.strength = strength

    def readable(self, name: str) -> IntArray:
        """Which pairs of a set have a picture that can be read: those that are measured."""
        return self._sets[name].pairs

    def measure(self, name: str) -> Metrics:
        """Retrieval on one of the sets, in float32."""
        pairs = self._sets[name]
        images, texts = self.vectors(name)
        return evaluate(images, texts[pairs.captions], pairs.owners, pairs.same_pictures)

    @torch.no_grad()
    def neighbourhood(self) -> Neighbourhood:
        """By pictures and captions, side by side."""
        self.set_training(False)
        train = self._train
        texts = self._changed(self.text, train.texts)[train.captions[train.first_caption[:-1]]]
        both = np.concatenate([self._changed(self.image, train.views[0]), texts], axis=1) / np.sqrt(np.float32(2))
        return Neighbourhood(both, self._same_pictures, self._same_texts[train.captions[train.first_caption[:-1]]])

    @torch.no_grad()
    def vectors(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Vectors of all pictures and of all different captions of a set."""
        self.set_training(False)
        pairs = self._sets[name]
        images = self._changed(self.image, pairs.views[0])
        return images, self._changed(self.text, pairs.texts)

    def write_model(self, target: Path, source: str) -> None:
        """Write the model directory with the residuals behind its towers, and compare it with the trained one.

        With a locked image tower, its files are copied and the fingerprint stays. Raises: InvalidModel, OSError.
        """
        base = self.model.directory
        # Without permissions: the embedded model may be read-only.
        # A text tower for other languages has learned nothing of these pairs, and would take captions like theirs from
        # the one that has.
        ignored = shutil.ignore_patterns("*.py", "__pycache__", "*.md", MULTILINGUAL)
        shutil.copytree(base, target, ignore=ignored, copy_function=shutil.copyfile)
        config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
        own = config.setdefault("clipsearch", {})
        towers = [(TEXTUAL_MODEL, self.model.text, self.text)]
        if self.image is not None:
            towers.append((VISUAL_MODEL, self.model.image, self.image))
            for name in ("image_fingerprint", "visual_checksum", "checked_precisions"):
                own.pop(name, None)
        own.pop("name", None)
        own["score_scale"] = round(float(self.log_scale.detach().exp()), 4)
        if self.bias is not None:
            own["score_bias"] = round(float(self.bias.detach()), 4)
        own["source"] = source
        note = licence_note(base)
        if note and not own.get("licence"):
            own["licence"] = note  # the card itself is not copied: it describes the base
        (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for relative, tower, residual in towers:
            folder = (target / relative).parent
            for file in folder.iterdir():
                if file.suffix not in (".json", ".txt"):
                    file.unlink()  # the old graph and its weights
            append_residual(base / relative, tower.features, residual.cpu(), target / relative)
            residual.to(self.device)

    def _changed(self, residual: Residual | None, given: Features) -> FloatArray:
        if residual is None:
            return given.vectors.astype(np.float32)
        parts = [
            residual(self._tensor(given.features[rows]), self._tensor(given.vectors[rows])).cpu().numpy()
            for rows in (slice(start, start + ROWS_AT_ONCE) for start in range(0, len(given.vectors), ROWS_AT_ONCE))
        ]
        return np.concatenate(parts)

    def _residuals(self) -> list[Residual]:
        return [residual for residual in (self.image, self.text) if residual is not None]

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)


def _side_by_side(given: Features, rows: IntArray) -> npt.NDArray[Any]:
    return np.concatenate([given.features[rows], given.vectors[rows]], axis=1)


def _residual(features: Tensor, dim: int, settings: Settings) -> Residual:
    return Residual(
        features,
        dim,
        gated=settings.gate,
        drop_features=settings.drop_features,
        drop_hidden=settings.drop_hidden,
    )


def _fitted_on(given: Features) -> Tensor:
    rows = np.linspace(0, len(given.features) - 1, min(MOST_FITTED, len(given.features))).astype(int)
    return torch.from_numpy(given.features[rows].astype(np.float32))
