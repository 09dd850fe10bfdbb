"""What `heads` learns: for each tower a residual on its vectors, read from its pooled features, and a gate.

    vector' = unit(vector + strength * gate(features) * residual(features))

The residual is a linear map beside a small perceptron, both zero at the start, so training begins at the base model
exactly. The gate is not learned by gradients but fitted: a Gaussian with a low-rank covariance (probabilistic PCA,
Tipping & Bishop 1999) on the features of the pairs says how usual an input is, and inputs less usual than nearly all
of the pairs are left as the base model has them. So what the pairs say nothing about keeps its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsearch.encoder.origins import forget_origins
from clipsearch.training.graph_cut import load_graph, main_output

HIDDEN = 1024
MOST_COMPONENTS = 256
PAIRS_PER_COMPONENT = 30  # fewer would describe these pairs and not their kind
GATE_QUANTILE = 0.98  # of the pairs lie inside
GATE_SOFTNESS = 0.15  # of the threshold
LEAST_VARIANCE, LEAST_THRESHOLD = 1e-2, 0.5  # where 1 is usual: below, rounding would open and shut the gate
INLINE_BYTES = 1_500_000_000  # one protobuf message ends at 2 GB


@dataclass(frozen=True, slots=True)
class GateFit:
    """A fitted gate. Shapes: directions (F, K), precisions (K,), the rest scalars; on standardised features."""

    directions: Tensor
    precisions: Tensor
    rest: float
    threshold: float


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of features (F,), and the one scale that makes their components' variance 1 on average."""
    mean = features.mean(dim=0)
    return mean, (features - mean).pow(2).mean().sqrt().clamp_min(1e-6)


def fit_gate(standardised: Tensor, quantile: float = GATE_QUANTILE) -> GateFit:
    """Fit a gate on four fifths of the rows and set its threshold on the others. Shape: (N, F)."""
    count, width = standardised.shape
    held = torch.arange(count) % 5 == 4
    fitted, others = standardised[~held].double(), standardised[held].double()
    if len(others) == 0:
        others = fitted
    components = max(1, min(MOST_COMPONENTS, width - 1, len(fitted) // PAIRS_PER_COMPONENT))
    directions, leading, others_mean = _principal(fitted, components)
    leading = leading.clamp_min(LEAST_VARIANCE)  # a few captions that come again and again vary in few directions only
    rest = max(LEAST_VARIANCE, others_mean) if components < width else 1.0
    fit = GateFit(directions.float(), (1 / leading).float(), 1 / rest, 1.0)
    strangeness = _strangeness(others.float(), fit)
    threshold = max(LEAST_THRESHOLD, float(strangeness.quantile(quantile)))
    return GateFit(fit.directions, fit.precisions, fit.rest, threshold)


def _principal(rows: Tensor, components: int) -> tuple[Tensor, Tensor, float]:
    """The directions in which centred rows vary most, their variances, and the mean variance in the other directions.

    Of fewer rows (N, F) than features, the products of rows with rows have all variances but zeros: 60 rows of 1,408
    features take 3 ms instead of 700. Shapes: (F, K), (K,), a scalar.
    """
    count, width = rows.shape
    if count >= width:
        values, vectors = torch.linalg.eigh(rows.T @ rows / count)
        directions = vectors.flip(1)[:, :components]
    else:
        values, vectors = torch.linalg.eigh(rows @ rows.T / count)
        directions = F.normalize(rows.T @ vectors.flip(1)[:, :components], dim=0)
    values = values.flip(0).clamp_min(0)
    return directions, values[:components], float(values[components:].sum()) / max(1, width - components)


def _strangeness(x: Tensor, fit: GateFit) -> Tensor:
    """The Mahalanobis distance over the number of components; about 1 for what a gate was fitted on. Shape: (B, 1)."""
    along = (x @ fit.directions).pow(2)
    inside = (along * (fit.precisions - fit.rest)).sum(dim=1, keepdim=True)
    return (inside + fit.rest * x.pow(2).sum(dim=1, keepdim=True)) / x.shape[1]


class Residual(nn.Module):
    """The residual of one tower."""

    mean: Tensor
    scale: Tensor
    directions: Tensor
    precisions: Tensor
    gate_constants: Tensor

    def __init__(
        self,
        features: Tensor,
        dim: int,
        *,
        gated: bool = True,
        hidden: int = HIDDEN,
        drop_features: float = 0.0,
        drop_hidden: float = 0.0,
    ) -> None:
        """Take the features of the pairs to standardise by and to fit the gate on. Shape: (N, F).

        `drop_features` and `drop_hidden`: shares from 0 to 1 that dropout leaves out while training.
        """
        super().__init__()
        mean, scale = standardisation(features)
        width = features.shape[1]
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        fit = fit_gate((features - mean) / scale) if gated else GateFit(torch.zeros(width, 1), torch.zeros(1), 0.0, 0.0)
        self.gated = gated
        self.register_buffer("directions", fit.directions.contiguous())
        self.register_buffer("precisions", fit.precisions)
        self.register_buffer("gate_constants", torch.tensor([fit.rest, fit.threshold]))
        self.skip = nn.Linear(width, dim, bias=False)
        self.enter = nn.Linear(width, hidden)
        self.leave = nn.Linear(hidden, dim)
        for weight in (self.skip.weight, self.leave.weight, self.leave.bias):
            nn.init.zeros_(weight)
        self.drop_features, self.drop_hidden = drop_features, drop_hidden
        self.strength = 1.0

    def forward(self, features: Tensor, vectors: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the changed vectors, unit L2. Shapes: (B, F), (B, D); `keep` (B, 1): 0 leaves a row as it was."""
        x = (features - self.mean) / self.scale
        weight = self.strength * self.gate(x)
        if keep is not None:
            weight = weight * keep
        x = F.dropout(x, self.drop_features, self.training)
        hidden = F.dropout(F.gelu(self.enter(x)), self.drop_hidden, self.training)
        return F.normalize(vectors + weight * (self.skip(x) + self.leave(hidden)), dim=1)

    def gate(self, standardised: Tensor) -> Tensor:
        """1 for what is like the pairs, 0 for what is not. Shape: (B, 1)."""
        if not self.gated:
            return torch.ones(len(standardised), 1, device=standardised.device)
        rest, threshold = float(self.gate_constants[0]), float(self.gate_constants[1])
        strangeness = _strangeness(standardised, GateFit(self.directions, self.precisions, rest, threshold))
        return torch.sigmoid((threshold - strangeness) / (GATE_SOFTNESS * threshold))


@torch.no_grad()
def append_residual(source: Path, features: str, residual: Residual, target: Path) -> None:
    """Write the tower `source` with a residual behind it to `target`. Raises: InvalidModel, OSError."""
    import onnx

    model = load_graph(source)
    builder = _Appender(model, residual.skip.weight.shape[0])
    old = main_output(model)
    vectors = builder.unit(builder.node("Cast", [old], to=onnx.TensorProto.FLOAT))
    given = builder.node("Cast", [features], to=onnx.TensorProto.FLOAT)
    x = builder.node("Sub", [given, builder.weight(residual.mean)])
    x = builder.node("Mul", [x, builder.weight(1 / residual.scale)])
    hidden = builder.linear(x, residual.enter.weight, residual.enter.bias)
    hidden = builder.gelu(hidden)
    change = builder.linear(hidden, residual.leave.weight, residual.leave.bias)
    linear = builder.node("MatMul", [x, builder.weight(residual.skip.weight.T)])
    change = builder.node("Add", [change, linear])
    change = builder.node("Mul", [change, builder.weight(torch.tensor(residual.strength))])
    if residual.gated:
        change = builder.node("Mul", [change, builder.gate(x, residual)])
    result = builder.unit(builder.node("Add", [vectors, change]))
    output = next(value for value in model.graph.output if value.name == old)
    output.name = result
    output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    target.parent.mkdir(parents=True, exist_ok=True)
    forget_origins(model)
    if model.ByteSize() > INLINE_BYTES:
        onnx.save(model, str(target), save_as_external_data=True, location="weights.bin")
    else:
        target.write_bytes(model.SerializeToString(deterministic=True))


class _Appender:
    """Adds nodes and weights to a graph, under names that no earlier run has used."""

    def __init__(self, model: Any, dim: int) -> None:
        self._graph = model.graph
        self._dim = dim
        taken = {name for node in model.graph.node for name in node.output}
        run = 1
        while any(name.startswith(f"residual{run}_") for name in taken):
            run += 1
        self._prefix = f"residual{run}_"
        self._count = 0

    def node(self, op: str, inputs: list[str], **attributes: int) -> str:
        import onnx

        output = self._fresh(op.lower())
        self._graph.node.append(onnx.helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, value: Tensor) -> str:
        import onnx

        name = self._fresh("weight")
        array = np.ascontiguousarray(value.detach().cpu().float().numpy())
        self._graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, weight: Tensor, bias: Tensor) -> str:
        product = self.node("MatMul", [x, self.weight(weight.T)])
        return self.node("Add", [product, self.weight(bias)])

    def gelu(self, x: str) -> str:
        """x / 2 * (1 + erf(x / sqrt 2)), in the form that the runtime fuses."""
        erf = self.node("Erf", [self.node("Div", [x, self.weight(torch.tensor(2.0**0.5))])])
        one = self.node("Add", [erf, self.weight(torch.tensor(1.0))])
        return self.node("Mul", [self.node("Mul", [x, one]), self.weight(torch.tensor(0.5))])

    def unit(self, x: str) -> str:
        # A product with ones: the axes of ReduceSum are written differently from one opset to another.
        total = self.node("MatMul", [self.node("Mul", [x, x]), self.weight(torch.ones(self._dim, 1))])
        norm = self.node("Sqrt", [total])
        return self.node("Div", [x, self.node("Max", [norm, self.weight(torch.tensor(1e-12))])])

    def gate(self, x: str, residual: Residual) -> str:
        rest, threshold = float(residual.gate_constants[0]), float(residual.gate_constants[1])
        width = residual.directions.shape[0]
        along = self.node("MatMul", [x, self.weight(residual.directions)])
        along = self.node("Mul", [along, along])
        inside = self.node("MatMul", [along, self.weight((residual.precisions - rest)[:, None] / width)])
        square = self.node("MatMul", [self.node("Mul", [x, x]), self.weight(torch.full((width, 1), rest / width))])
        strangeness = self.node("Add", [inside, square])
        distance = self.node("Sub", [self.weight(torch.tensor(threshold)), strangeness])
        softness = self.weight(torch.tensor(GATE_SOFTNESS * threshold))
        return self.node("Sigmoid", [self.node("Div", [distance, softness])])

    def _fresh(self, name: str) -> str:
        self._count += 1
        return f"{self._prefix}{name}{self._count}"
