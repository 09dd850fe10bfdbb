"""Trains the heads with the symmetric contrastive loss.

A prototype stands in for a photo of one of the classifier's classes: the class's row of the classifier,
rescaled to the features' spread, on top of the residual of a random real picture, so that it is as cluttered
as a picture is. Its text names or describes the class.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import DIM, Dropout, DualHeads, Ensemble, principal_directions, standardisation
from .text_layers import TokenStates

TEXT_CHUNK = 320
ROWS_AT_ONCE = 4000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that can be turned."""

    steps: int = 500
    batch: int = 1024  # pictures with a caption
    prototypes: int = 256  # added to every batch
    prototype_strength: tuple[float, float] = (0.3, 1.0)  # times the features' spread
    clutter: tuple[float, float] = (0.0, 1.0)  # of a real picture's residual, added to a prototype
    logit_noise: float = 1.0
    learning_rate: float = 1e-3
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.2
    shortened: float = 0.15  # share of captions that are shown shortened
    dropped_tokens: float = 0.1  # share of a text's tokens hidden from the text head
    names_every: int = 20  # steps after which the classes' names are encoded again
    teachers: int = 2  # heads trained first, whose scores of all views the shipped heads learn as well
    taught: float = 0.5  # weight of that beside the contrastive loss
    dropout: Dropout = field(default_factory=Dropout)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Features of everything that is trained on.

    Shapes: pictures (views, N, 1280), captions 2 T texts, T as written, those of a picture side by side, then the same
    shortened, caption_counts (N,) how many it has, shown (N,) how often an epoch shows it, class_texts M texts,
    class_labels (M,) int64, class_chances (M,), class_names (1000, names) rows of class_texts, class_weight
    (1000, 1280), class_bias (1000,).
    """

    pictures: Tensor
    captions: TokenStates
    caption_counts: Tensor
    shown: Tensor
    class_texts: TokenStates
    class_labels: Tensor
    class_chances: Tensor
    class_names: Tensor
    class_weight: Tensor
    class_bias: Tensor


@dataclass(frozen=True, slots=True)
class Teacher:
    """What trained heads make of the training set. Shapes: pictures (N, D), the mean of all views, captions (2 T, D),
    both unit L2; scale: what their products are multiplied with."""

    pictures: Tensor
    captions: Tensor
    scale: float


class _Order:
    """The pictures and captions to be shown next. A picture that is shown again has its next caption."""

    def __init__(self, data: TrainingSet) -> None:
        self._shown, self._counts = data.shown, data.caption_counts
        self._starts = data.caption_counts.cumsum(0) - data.caption_counts
        self._left = torch.empty(2, 0, dtype=torch.long)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return pictures and captions, each (count,)."""
        while self._left.shape[1] < count:
            self._left = torch.cat([self._left, self._epoch()], dim=1)
        drawn, self._left = self._left[:, :count], self._left[:, count:]
        return drawn[0], drawn[1]

    def _epoch(self) -> Tensor:
        pictures = torch.arange(len(self._shown)).repeat_interleave(self._shown)
        before = (self._shown.cumsum(0) - self._shown)[pictures]
        time = torch.arange(len(pictures)) - before
        first = torch.randint(1000, (len(self._shown),))[pictures]
        captions = self._starts[pictures] + (first + time) % self._counts[pictures]
        return torch.stack([pictures, captions])[:, torch.randperm(len(pictures))]


def train(data: TrainingSet, recipe: Recipe, teacher: Teacher | None = None) -> DualHeads:
    """Return heads trained from scratch; the same arguments give the same heads on the same machine."""
    torch.manual_seed(recipe.seed)
    views, count, _ = data.pictures.shape
    image = standardisation(data.pictures[0])
    captions = int(data.caption_counts.sum())
    text = standardisation(_mean_states(data.captions, captions))
    classifier = (data.class_weight, data.class_bias)
    heads = DualHeads(image, text, classifier, recipe.dropout)
    prototypes = _Prototypes(data, recipe, *image)
    decayed = [value for value in heads.parameters() if value.ndim > 1]
    free = [value for value in heads.parameters() if value.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    steps, order = recipe.steps, _Order(data)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup))
    for step in range(steps):
        if step % recipe.names_every == 0:
            _encode_names(heads, data)
        heads.train()
        pictures, rows = order.draw(recipe.batch)
        view = torch.randint(views, (len(rows),))
        rows = rows + captions * (torch.rand(len(rows)) < recipe.shortened)
        prototype_features, prototype_texts, labels = prototypes.draw()
        images = torch.cat([data.pictures[view, pictures].float(), prototype_features])
        # What a row shows: the picture's number, or the class's after all pictures.
        identity = torch.cat([pictures, count + labels])
        # bfloat16 where the processor has it; the loss and the weights stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            image_vectors = heads.encode_image(images, recipe.logit_noise)
            caption_features = pool_texts(heads, data.captions, rows, recipe.dropped_tokens)
            class_features = pool_texts(heads, data.class_texts, prototype_texts, recipe.dropped_tokens)
            text_vectors = heads.encode_text(torch.cat([caption_features, class_features]))
        scale = heads.log_scale.exp().clamp(max=100.0)
        loss = contrastive_loss(image_vectors.float(), text_vectors.float(), identity, scale)
        if teacher is not None:
            seen, said = image_vectors[: len(rows)].float(), text_vectors[: len(rows)].float()
            lesson = _imitation_loss(scale * seen @ said.T, teacher, pictures, rows)
            loss = (1 - recipe.taught) * loss + recipe.taught * lesson
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            log.info("step %d of %d, loss %.3f", step, steps, loss.item())
    _encode_names(heads, data)
    return heads


def train_ensemble(data: TrainingSet, recipe: Recipe, members: int) -> Ensemble:
    """Return heads of `members` seeds, from the recipe's on, as one. They learn from heads of other seeds."""
    teacher = None
    if recipe.teachers:
        first = recipe.seed + members
        log.info("teachers")
        teacher = _teacher([train(data, replace(recipe, seed=first + index)) for index in range(recipe.teachers)], data)
    log.info("heads")
    trained = [train(data, replace(recipe, seed=recipe.seed + index), teacher) for index in range(members)]
    return Ensemble(trained, [_directions(heads, data, DIM // members) for heads in trained])


@torch.no_grad()
def _directions(heads: DualHeads, data: TrainingSet, count: int) -> Tensor:
    """Return the directions that hold most of the vectors of the pictures and captions, which weigh the same."""
    images = _picture_vectors(heads, data.pictures[0])
    texts = _caption_vectors(heads, data, int(data.caption_counts.sum()))
    directions = principal_directions(torch.cat([images, texts * (len(images) / len(texts)) ** 0.5]), count)
    log.info("%d directions hold %.5f of the captions", count, (texts @ directions.T).pow(2).sum(dim=1).mean().item())
    return directions


@torch.no_grad()
def _teacher(members: list[DualHeads], data: TrainingSet) -> Teacher:
    """Return what the members make of the training set together, their vectors side by side."""
    views = [torch.cat([_picture_vectors(heads, view) for heads in members], dim=1) for view in data.pictures]
    texts = [_caption_vectors(heads, data, len(data.captions.lengths)) for heads in members]
    return Teacher(
        pictures=F.normalize(torch.stack(views).sum(dim=0), dim=1),
        captions=F.normalize(torch.cat(texts, dim=1), dim=1),
        scale=sum(heads.score_scale for heads in members) / len(members),
    )


def _picture_vectors(heads: DualHeads, features: Tensor) -> Tensor:
    heads.eval()
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([heads.encode_image(part.float()).float() for part in torch.split(features, ROWS_AT_ONCE)])


def _caption_vectors(heads: DualHeads, data: TrainingSet, count: int) -> Tensor:
    """Return the vectors of the first `count` captions."""
    heads.eval()
    parts = torch.split(torch.arange(count), ROWS_AT_ONCE)
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([heads.encode_text(pool_texts(heads, data.captions, rows)).float() for rows in parts])


def pool_texts(heads: DualHeads, texts: TokenStates, rows: Tensor, dropped: float = 0.0) -> Tensor:
    """Return the text features of some texts, each of their tokens but the first hidden with chance `dropped`."""
    parts, positions = [], []
    for places, states, is_token in texts.batches(rows, TEXT_CHUNK):
        seen = is_token
        if dropped:
            kept = torch.rand(is_token.shape) >= dropped
            kept[:, 0] = True
            seen = is_token & kept
        parts.append(heads.pool_text(states, seen))
        positions.append(places)
    return torch.cat(parts)[torch.cat(positions).argsort()]


@torch.no_grad()
def _encode_names(heads: DualHeads, data: TrainingSet) -> None:
    """Set the heads' features of the classes' names, the mean over each class's."""
    heads.eval()
    with torch.autocast("cpu", torch.bfloat16):
        features = pool_texts(heads, data.class_texts, data.class_names.flatten())
    heads.class_names.copy_(features.reshape(*data.class_names.shape, -1).mean(dim=1))


@torch.no_grad()
def _mean_states(texts: TokenStates, count: int) -> Tensor:
    """Return the mean token state of every 10th of the first `count` texts."""
    means = []
    for _, states, is_token in texts.batches(torch.arange(0, count, 10), TEXT_CHUNK):
        mask = is_token[:, :, None]
        means.append((states.float() * mask).sum(dim=1) / mask.sum(dim=1))
    return torch.cat(means)


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


def _imitation_loss(logits: Tensor, teacher: Teacher, pictures: Tensor, captions: Tensor) -> Tensor:
    """Return how far the scores of a batch, among each other, are from the teacher's, both ways: the Kullback-Leibler
    divergence. Shapes: logits (B, B), pictures and captions (B,)."""
    wanted = teacher.scale * teacher.pictures[pictures] @ teacher.captions[captions].T
    forth = F.kl_div(logits.log_softmax(dim=1), wanted.softmax(dim=1), reduction="batchmean")
    back = F.kl_div(logits.T.log_softmax(dim=1), wanted.T.softmax(dim=1), reduction="batchmean")
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
        """Return features (P, 1280), rows of the class texts (P,) and labels (P,)."""
        pictures, count = self._data.pictures, self._recipe.prototypes
        labels = torch.randint(len(self._rows), (count,))
        chosen = [int(self._texts[i][torch.multinomial(self._chances[i], 1)]) for i in labels.tolist()]
        strength = torch.empty(count, 1).uniform_(*self._recipe.prototype_strength)
        clutter = torch.empty(count, 1).uniform_(*self._recipe.clutter)
        view = torch.randint(pictures.shape[0], (count,))
        residual = pictures[view, torch.randint(pictures.shape[1], (count,))].float() - self._mean
        features = self._mean + strength * self._rows[labels] + clutter * residual
        # Features are means over ReLU6 outputs: never negative.
        return features.clamp(min=0.0), torch.tensor(chosen), labels


def _rate(step: int, steps: int, warmup: float) -> float:
    return min(1.0, (step + 1) / (warmup * steps)) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
