"""Trains the heads with the symmetric contrastive loss, on pictures with captions and on class prototypes.

A prototype stands in for a photo of one of the classifier's classes: the class's row of the classifier,
rescaled to the features' spread, on top of the residual of a random real picture, so that it is as cluttered
as a picture is. Its text names or describes the class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import Dropout, DualHeads, standardisation


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that can be turned."""

    epochs: int = 8  # over the captions
    batch: int = 1024  # pictures with a caption
    prototypes: int = 256  # added to every batch
    prototype_strength: tuple[float, float] = (0.3, 1.0)  # times the features' spread
    clutter: tuple[float, float] = (0.0, 1.0)  # of a real picture's residual, added to a prototype
    logit_noise: float = 1.0
    learning_rate: float = 1e-3
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.2
    dropout: Dropout = field(default_factory=Dropout)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Features of everything that is trained on.

    Shapes: pictures (views, N, 1280), captions (N, captions, 384), class_texts (M, 384),
    class_labels (M,) int64, class_chances (M,), class_names (1000, 384), class_weight (1000, 1280), class_bias (1000,).
    """

    pictures: Tensor
    captions: Tensor
    class_texts: Tensor
    class_labels: Tensor
    class_chances: Tensor
    class_names: Tensor
    class_weight: Tensor
    class_bias: Tensor


def train(data: TrainingSet, recipe: Recipe) -> DualHeads:
    """Return heads trained from scratch; the same arguments give the same heads on the same machine."""
    torch.manual_seed(recipe.seed)
    views, count, _ = data.pictures.shape
    captions = data.captions.shape[1]
    image = standardisation(data.pictures[0])
    text = standardisation(data.captions.flatten(0, 1))
    classifier = (data.class_weight, data.class_bias)
    heads = DualHeads(image, text, classifier, data.class_names, recipe.dropout)
    prototypes = _Prototypes(data, recipe, *image)
    decayed = [value for value in heads.parameters() if value.ndim > 1]
    free = [value for value in heads.parameters() if value.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    steps_per_epoch = count * captions // recipe.batch
    steps = recipe.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup))
    heads.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(count * captions)
        for step in range(steps_per_epoch):
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            pictures, caption = rows // captions, rows % captions
            view = torch.randint(views, (len(rows),))
            prototype_features, prototype_texts, labels = prototypes.draw()
            images = torch.cat([data.pictures[view, pictures].float(), prototype_features])
            texts = torch.cat([data.captions[pictures, caption], prototype_texts])
            # What a row shows: the picture's number, or the class's after all pictures.
            identity = torch.cat([pictures, count + labels])
            # bfloat16 where the processor has it; the loss and the weights stay float32.
            with torch.autocast("cpu", torch.bfloat16):
                image_vectors = heads.encode_image(images, recipe.logit_noise)
                text_vectors = heads.encode_text(texts)
            scale = heads.log_scale.exp().clamp(max=100.0)
            loss = contrastive_loss(image_vectors.float(), text_vectors.float(), identity, scale)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return heads.eval()


def contrastive_loss(images: Tensor, texts: Tensor, identity: Tensor, scale: Tensor) -> Tensor:
    """Return the mean cross-entropy of both directions; rows with equal identity are positives.

    Shapes: images and texts (B, D) unit L2, identity (B,).
    """
    logits = scale * images @ texts.T
    same = (identity[:, None] == identity[None, :]).float()
    target = same / same.sum(dim=1, keepdim=True)
    forth = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    back = -(target * logits.log_softmax(dim=0)).sum(dim=0).mean()
    return (forth + back) / 2


class _Prototypes:
    """Draws stand-ins for photos of the classes, and texts for them."""

    def __init__(self, data: TrainingSet, recipe: Recipe, mean: Tensor, scale: Tensor) -> None:
        self._data, self._recipe, self._mean = data, recipe, mean
        rows = data.class_weight - data.class_weight.mean(dim=0)
        self._rows = F.normalize(rows, dim=1) * scale * math.sqrt(rows.shape[1])
        labels = data.class_labels
        self._texts = [torch.nonzero(labels == label).squeeze(1) for label in range(len(rows))]
        self._chances = [data.class_chances[texts] for texts in self._texts]

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (P, 1280), text features (P, 384) and labels (P,)."""
        pictures, count = self._data.pictures, self._recipe.prototypes
        labels = torch.randint(len(self._rows), (count,))
        chosen = [int(self._texts[i][torch.multinomial(self._chances[i], 1)]) for i in labels.tolist()]
        strength = torch.empty(count, 1).uniform_(*self._recipe.prototype_strength)
        clutter = torch.empty(count, 1).uniform_(*self._recipe.clutter)
        view = torch.randint(pictures.shape[0], (count,))
        residual = pictures[view, torch.randint(pictures.shape[1], (count,))].float() - self._mean
        features = self._mean + strength * self._rows[labels] + clutter * residual
        # Features are means over ReLU6 outputs: never negative.
        return features.clamp(min=0.0), self._data.class_texts[chosen], labels


def _rate(step: int, steps: int, warmup: float) -> float:
    return min(1.0, (step + 1) / (warmup * steps)) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
