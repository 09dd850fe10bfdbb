"""The trained part: a head on each frozen backbone, into one space of 512 dimensions.

Each head is a linear map beside a small perceptron. The image side has a third branch: the classifier's
posterior over its 1,000 classes, times a vector for each class. That vector is what the text head makes of the
class's names, plus a learned correction, so what the backbone recognises by name stays findable by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .graph import Array, Graph
from .image_backbone import CLASSES

DIM = 512
IMAGE_HIDDEN = 1024
TEXT_HIDDEN = 1024
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

    def add_to(self, graph: Graph, x: str, name: str) -> str:
        """Add the head to a graph, with the standardisation folded into its weights."""
        scale, mean = self.scale.item(), self.mean
        enter = self.enter.weight / scale
        skip = self.skip.weight / scale
        hidden = graph.linear(x, _array(enter), _array(self.enter.bias - enter @ mean), name + "_enter")
        hidden = graph.gelu(hidden, name + "_gelu")
        perceptron = graph.linear(hidden, _array(self.leave.weight), _array(self.leave.bias), name + "_leave")
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
        class_names: Tensor,
        dropout: Dropout,
    ) -> None:
        """Take (mean, scale) of the image and text features, the classifier, and text features of its classes.

        Shapes: classifier weight (1000, 1280) and bias (1000,), class_names (1000, 384).
        """
        super().__init__()
        self.image = Head(*image, IMAGE_HIDDEN, dropout.image_input, dropout.hidden)
        self.text = Head(*text, TEXT_HIDDEN, dropout.text_input, dropout.hidden)
        self.register_buffer("class_weight", classifier[0])
        self.register_buffer("class_bias", classifier[1])
        self.register_buffer("class_names", class_names)
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

    def encode_text(self, features: Tensor) -> Tensor:
        """Return unit vectors. Shapes: features (B, 384), result (B, 512)."""
        return F.normalize(self.text(features), dim=1)

    @torch.no_grad()
    def add_image_to(self, graph: Graph, features: str) -> str:
        """Add the image head and the class branch to a graph."""
        sharpness = self.log_sharpness.exp()
        weight, bias = _array(self.class_weight * sharpness), _array(self.class_bias * sharpness)
        logits = graph.linear(features, weight, bias, "class_logits")
        posterior = graph.node("Softmax", [logits], "class_posterior", axis=-1)
        vectors = graph.half(_array(self.class_vectors()), "class_vectors")
        named = graph.node("MatMul", [posterior, vectors], "class_branch")
        total = graph.node("Add", [self.image.add_to(graph, features, "image_head"), named], "image_sum")
        return graph.unit(total, "embedding")

    @torch.no_grad()
    def add_text_to(self, graph: Graph, features: str) -> str:
        """Add the text head to a graph."""
        return graph.unit(self.text.add_to(graph, features, "text_head"), "embedding")


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of features and the one scale that makes their components' variance 1 on average."""
    features = features.float()
    mean = features.mean(dim=0)
    return mean, (features - mean).pow(2).mean().sqrt()


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().contiguous().numpy()
    return array
