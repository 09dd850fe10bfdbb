"""The graph of the multilingual encoder computes what its definition says, on made-up weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("safetensors")
sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from builtin_model.graph import Graph  # noqa: E402
from builtin_model.multilingual_backbone import (  # noqa: E402
    BLOCKS,
    BRANCH,
    BRANCHES,
    WIDTH,
    MultilingualBackbone,
    TokenTable,
)
from builtin_model.quantisation import ProductCodes  # noqa: E402

Array = npt.NDArray[np.float64]
TEXTS = [[1, 7, 3, 2], [1, 2], [1, 5, 5, 9, 30, 4, 8, 11, 2]]
FREQUENT, TOKENS = 20, 34
WIDE = WIDTH + len(BRANCHES) * BRANCH


def write_weights(path: Path) -> None:
    """Weights of the sizes that are published, two rows in each block of tokens."""
    random = np.random.default_rng(3)

    def drawn(*shape: int) -> npt.NDArray[np.float32]:
        return np.asarray(random.standard_normal(shape) / np.sqrt(shape[0]), np.float32)

    state: dict[str, npt.NDArray[np.generic]] = {
        f"q{number}": random.integers(0, 256, (2, WIDTH), np.uint8) for number in range(1, BLOCKS + 1)
    }
    state["scale"], state["lo"] = 0.01 + 0.001 * np.arange(BLOCKS, dtype=np.float32), np.full(BLOCKS, -1.5, np.float32)
    for order, _ in BRANCHES:
        state |= {f"proj{order}": drawn(WIDTH, BRANCH), f"proj_b{order}": drawn(BRANCH)}
        state |= {f"ln_g{order}": 1 + drawn(BRANCH), f"ln_b{order}": drawn(BRANCH)}
        for layer in (1, 2):
            state |= {f"w{layer}_{order}": drawn(order * BRANCH, BRANCH), f"b{layer}_{order}": drawn(BRANCH)}
    state |= {"ln_g": 1 + drawn(WIDE), "ln_b": drawn(WIDE), "cnn_W": drawn(WIDE, WIDTH), "cnn_b": drawn(WIDTH)}
    state |= {name: drawn(WIDTH, WIDTH) for name in ("d0", "d1", "d2", "d3", "p1", "p3")}
    np.savez(path, allow_pickle=False, eps=np.float32(1e-6), **state)


def reference(weights: Path, table: Array, ids: list[int]) -> Array:
    """One text, token by token, in float64: n-gram convolutions over what is inside the text only, then a mean."""
    state = {name: value.astype(np.float64) for name, value in np.load(weights).items() if not name.startswith("q")}

    def normal(rows: Array, scale: Array, shift: Array) -> Array:
        centred = rows - rows.mean(axis=1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=1, keepdims=True) + state["eps"])
        return np.asarray(centred / spread * scale + shift)

    def convolved(rows: Array, layer: int, order: int, before: int) -> Array:
        windows = [
            np.concatenate(
                [rows[at] if 0 <= at < len(rows) else np.zeros(BRANCH) for at in range(first, first + order)]
            )
            for first in range(-before, len(rows) - before)
        ]
        found = np.stack(windows) @ state[f"w{layer}_{order}"] + state[f"b{layer}_{order}"]
        return np.asarray(np.maximum(found, 0) + rows)

    orders = [order for order, _ in BRANCHES]
    vectors = table[ids]
    entered = vectors @ np.hstack([state[f"proj{order}"] for order in orders])
    entered += np.hstack([state[f"proj_b{order}"] for order in orders])
    scale, shift = (np.hstack([state[f"{name}{order}"] for order in orders]) for name in ("ln_g", "ln_b"))
    branches = np.split(normal(entered, scale, shift), len(orders), axis=1)
    found = [vectors]
    for rows, (order, before) in zip(branches, BRANCHES, strict=True):
        found.append(convolved(convolved(rows, 1, order, before), 2, order, before))
    rows = normal(np.hstack(found), state["ln_g"], state["ln_b"]) @ state["cnn_W"] + state["cnn_b"]
    sentence = rows.sum(axis=0) / np.sqrt(len(ids))
    first = np.maximum(sentence @ state["d0"], 0)
    second = np.maximum(sentence @ state["p1"] + first @ state["d1"], 0)
    last = np.tanh(second @ state["p3"] + np.maximum(second @ state["d2"], 0) @ state["d3"])
    return np.asarray(last / np.linalg.norm(last))


@pytest.mark.slow
def test_texts_of_many_lengths_in_one_batch_are_encoded_as_each_alone_by_definition(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.npz")
    backbone = MultilingualBackbone(tmp_path / "weights.npz")
    published = backbone.vectors(np.arange(TOKENS))
    mean = published.mean(axis=0)

    def whole(rows: npt.NDArray[np.float32]) -> ProductCodes:
        """Codes that lose nothing: every row is a centroid of its own, in two pieces."""
        centroids = np.zeros((2, 256, WIDTH // 2), np.float32)
        centroids[:, : len(rows)] = rows.reshape(len(rows), 2, -1).transpose(1, 0, 2)
        return ProductCodes(np.repeat(np.arange(len(rows), dtype=np.uint8)[:, None], 2, axis=1), centroids)

    table = TokenTable(whole(published[:FREQUENT] - mean), whole(published[FREQUENT:] - mean), mean)
    np.testing.assert_allclose(table.decode(), published, atol=1e-6)
    graph = Graph("encoder")
    output = backbone.add_to(graph, table, "text")
    model = tmp_path / "model.onnx"
    graph.save(model, {"text": (onnx.TensorProto.INT32, ["batch", "context"])}, {output: ["batch", WIDTH]})

    ids = np.full((len(TEXTS), max(map(len, TEXTS)) + 2), table.pad_id, np.int32)
    for row, text in enumerate(TEXTS):
        ids[row, : len(text)] = text
    [vectors] = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"text": ids})
    expected = np.stack([reference(tmp_path / "weights.npz", published.astype(np.float64), text) for text in TEXTS])
    # The graph's matrices are stored as 8-bit integers.
    assert ((vectors * expected).sum(axis=1) > 0.999).all()
    assert np.abs(expected @ expected.T - np.eye(len(TEXTS))).max() < 0.99
