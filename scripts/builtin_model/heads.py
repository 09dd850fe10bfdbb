"""The trained part: a head on each frozen backbone, into one space of 512 dimensions.

Each head is a linear map beside a small perceptron. The text head reads the mean of the token states and, for
each of its detectors, the strongest answer among the tokens, so that a single word can decide. The image side has
a third branch: the classifier's posterior over its 1,000 classes, times a vector for each class. That vector is
what the text head makes of the class's names, plus a learned correction, so what the backbone recognises by name
stays findable by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import Array, Graph
from .image_backbone import CLASSES
from .text_backbone import WIDTH, Tokens

DIM = 512
IMAGE_HIDDEN = 1024
TEXT_HIDDEN = 1024
DETECTORS = 512
ABSENT = -10_000.0  # what a detector answers to padding
CLASS_STRENGTH = 30.0  # of the class branch at the start; the rest of the image head is about 13 long


@dataclass(frozen=True, slots=True)
class Dropout:
    """Probabilities of dropping a unit while training."""

    image_input: float = 0.2
    text_input: float = 0.1
    hidden: float = 0.5


class Head(nn.Module):
    """A linear map plus a perceptron with one hidden layer, on standardised input."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, hidden: int, drop_input: float, drop_hidden: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.skip = nn.Linear(len(mean), DIM, bias=False)
        self.enter = nn.Linear(len(mean), hidden)
        self.leave = nn.Linear(hidden, DIM)
        self.drop_input = drop_input
        self.drop_hidden = drop_hidden

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (B, features), result (B, 512), not normalised."""
        x = F.dropout((x - self.mean) / self.scale, self.drop_input, self.training)
        hidden = F.dropout(F.gelu(self.enter(x)), self.drop_hidden, self.training)
        return torch.add(self.skip(x), self.leave(hidden))

    def add_to(self, graph: Graph, x: str, name: str, kept: Tensor) -> str:
        """Add the head to a graph, the standardisation and the projection on `kept` folded into its weights."""
        scale, mean = self.scale, self.mean
        enter = self.enter.weight / scale
        skip = self.skip.weight / scale
        hidden = graph.linear(x, _array(enter), _array(self.enter.bias - enter @ mean), name + "_enter")
        hidden = graph.gelu(hidden, name + "_gelu")
        perceptron = graph.linear(
            hidden, _array(kept @ self.leave.weight), _array(kept @ self.leave.bias), name + "_leave"
        )
        skip = kept @ skip
        linear = graph.linear(x, _array(skip), _array(-skip @ mean), name + "_skip")
        return graph.node("Add", [perceptron, linear], name)


class DualHeads(nn.Module):
    """Both heads, the class branch and the learned temperature."""

    class_weight: Tensor
    class_bias: Tensor
    class_names: Tensor

    def __init__(
        self,
        image: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor],
        classifier: tuple[Tensor, Tensor],
        dropout: Dropout,
    ) -> None:
        """Take (mean, scale) of the image features and of the mean token states, and the classifier.

        Shapes: classifier weight (1000, 1280) and bias (1000,).
        """
        super().__init__()
        self.image = Head(*image, IMAGE_HIDDEN, dropout.image_input, dropout.hidden)
        self.detect = nn.Linear(WIDTH, DETECTORS)
        self.detect.weight.data.mul_(2.0)
        mean, scale = text
        text_mean = torch.cat([mean, torch.zeros(DETECTORS)])
        text_scale = torch.cat([scale.expand(WIDTH), torch.ones(DETECTORS)])
        self.text = Head(text_mean, text_scale, TEXT_HIDDEN, dropout.text_input, dropout.hidden)
        self.register_buffer("class_weight", classifier[0])
        self.register_buffer("class_bias", classifier[1])
        # Text features of the classes' names: the caller sets them, as the detectors that they depend on are trained.
        self.register_buffer("class_names", torch.zeros(CLASSES, WIDTH + DETECTORS))
        self.class_correction = nn.Parameter(torch.zeros(CLASSES, DIM))
        self.class_strength = nn.Parameter(torch.tensor(CLASS_STRENGTH))
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))

    @property
    def score_scale(self) -> float:
        """What a cosine is multiplied with before a softmax."""
        return math.exp(self.log_scale.item())

    def class_vectors(self) -> Tensor:
        """Return what the class branch adds to a picture of each class, (1000, 512)."""
        return self.class_strength * (self.encode_text(self.class_names) + self.class_correction)

    def encode_image(self, features: Tensor, logit_noise: float = 0.0) -> Tensor:
        """Return unit vectors. Shapes: features (B, 1280), result (B, 512)."""
        logits = features @ self.class_weight.T + self.class_bias
        if logit_noise:
            logits = logits + logit_noise * torch.randn_like(logits)
        posterior = (logits * self.log_sharpness.exp()).softmax(dim=1)
        return F.normalize(self.image(features) + posterior @ self.class_vectors(), dim=1)

    def pool_text(self, states: Tensor, is_token: Tensor) -> Tensor:
        """Return text features. Shapes: states (B, T, 384), is_token (B, T) bool, result (B, 384 + detectors)."""
        mask = is_token[:, :, None].to(states.dtype)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
        answers = F.gelu(self.detect(states)).masked_fill(~is_token[:, :, None], ABSENT)
        return torch.cat([mean.float(), answers.amax(dim=1).float()], dim=1)

    def encode_text(self, features: Tensor) -> Tensor:
        """Return unit vectors. Shapes: features (B, 384 + detectors), result (B, 512)."""
        return F.normalize(self.text(features), dim=1)


class Ensemble:
    """Several heads trained from different seeds, as one: a score is the mean of the members' scores.

    Each member's vectors are cut to the directions that hold most of them, made unit length, and put side by side.
    """

    def __init__(self, members: list[DualHeads], directions: list[Tensor]) -> None:
        """Take the members and their directions, each (512 / members, 512) with orthonormal rows."""
        self.members = members
        self.directions = directions

    @property
    def score_scale(self) -> float:
        """What a cosine is multiplied with before a softmax."""
        return sum(member.score_scale for member in self.members) / len(self.members)

    @torch.no_grad()
    def add_image_to(self, graph: Graph, features: str) -> str:
        """Add the image heads and the class branch to a graph."""
        first = self.members[0]
        logits = graph.linear(features, _array(first.class_weight), _array(first.class_bias), "class_logits")
        vectors = []
        for member, kept in zip(self.members, self.directions, strict=True):
            sharp = graph.node("Mul", [logits, graph.constant(float(member.log_sharpness.exp()))], "sharp_logits")
            posterior = graph.node("Softmax", [sharp], "class_posterior", axis=-1)
            nothing = np.zeros(len(kept), np.float32)
            named = graph.linear(posterior, _array(kept @ member.class_vectors().T), nothing, "class_branch")
            total = graph.node("Add", [member.image.add_to(graph, features, "image_head", kept), named], "image_sum")
            vectors.append(graph.unit(total, "image_vector"))
        return graph.unit(graph.node("Concat", vectors, "vectors", axis=1), "embedding")

    @torch.no_grad()
    def add_text_to(self, graph: Graph, tokens: Tokens) -> str:
        """Add the pooling and the text heads to a graph. `tokens`: what the whole backbone makes of the text."""
        axes = graph.constant([1], "axes")
        mask = graph.node("Unsqueeze", [tokens.mask, graph.constant([2], "axes")], "token_mask")
        total = graph.node("ReduceSum", [graph.node("Mul", [tokens.states, mask], "masked"), axes], keepdims=0)
        mean = graph.node("Div", [total, graph.node("ReduceSum", [mask, axes], "count", keepdims=0)], "mean_state")
        missing = graph.node("Sub", [mask, graph.constant(1.0)], "missing_token")
        absent = graph.node("Mul", [missing, graph.constant(-ABSENT)], "absent")
        strongest = []
        for member in self.members:
            answers = graph.linear(tokens.states, _array(member.detect.weight), _array(member.detect.bias), "detect")
            answers = graph.node("Add", [graph.gelu(answers, "detect_gelu"), absent], "answers")
            strongest.append(graph.node("ReduceMax", [answers], "strongest", axes=[1], keepdims=0))
        # All in one tensor, where the graph can be cut: before it the backbone, after it what is learned from pairs.
        features = graph.node("Concat", [mean, *strongest], "text_features", axis=1)
        vectors = []
        for index, (member, kept) in enumerate(zip(self.members, self.directions, strict=True)):
            start = WIDTH + index * DETECTORS
            own = graph.node(
                "Slice",
                [features, graph.constant([start], "start"), graph.constant([start + DETECTORS], "end"), axes],
                "own_detectors",
            )
            states = graph.node(
                "Slice", [features, graph.constant([0], "start"), graph.constant([WIDTH], "end"), axes], "states"
            )
            joined = graph.node("Concat", [states, own], "own_features", axis=1)
            vectors.append(graph.unit(member.text.add_to(graph, joined, "text_head", kept), "text_vector"))
        return graph.unit(graph.node("Concat", vectors, "vectors", axis=1), "embedding")


def principal_directions(vectors: Tensor, count: int) -> Tensor:
    """Return the directions that hold most of the vectors' products. Shapes: vectors (N, D), result (count, D)."""
    directions: Tensor = torch.linalg.eigh(vectors.T @ vectors).eigenvectors
    return directions.T[-count:].flip(0).contiguous()


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of features and the one scale that makes their components' variance 1 on average."""
    features = features.float()
    mean = features.mean(dim=0)
    return mean, (features - mean).pow(2).mean().sqrt()


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().contiguous().numpy()
    return array
