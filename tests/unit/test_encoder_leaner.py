"""Vision transformers that are rewritten to compute the same with less work, as PyTorch exports them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.encoder import static
from clipsearch.encoder.int8 import fold_constants
from clipsearch.encoder.layout import VISUAL_MODEL, ModelDirectory, read_model_directory
from clipsearch.encoder.leaner import make_leaner, makes_patches
from clipsearch.records import FloatArray, PixelArray
from tests.support.layered_models import write_layered_model

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from clipsearch.encoder.export import export  # noqa: E402
from clipsearch.encoder.openclip import OpenClipEncoder  # noqa: E402
from tests.support.open_clip_models import SMALL_VIT, small_model  # noqa: E402

BLOCKS, TOKENS = 2, 17  # of a picture of 64 by 64, in patches of 16 by 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """A small tower, exported. None of its numbers is 0 or 1, which the exporter would leave out."""
    config = SMALL_VIT | {"text_cfg": SMALL_VIT["text_cfg"] | {"layers": 1}}
    whole = small_model(config)
    with torch.no_grad():
        for values in whole.visual.parameters():
            values += torch.randn_like(values) * 0.1
    path = tmp_path_factory.mktemp("vit") / "out"
    export(OpenClipEncoder.from_model(whole, config, name="small", device="cpu"), path, licence="MIT")
    return read_model_directory(path)


@pytest.fixture
def folded(model: ModelDirectory, tmp_path: Path) -> Path:
    fold_constants(model.path / VISUAL_MODEL, tmp_path / "folded.onnx")
    return tmp_path / "folded.onnx"


def noise(count: int = 3) -> PixelArray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


def computed(file: Path, names: list[str] | None = None) -> list[FloatArray]:
    session = static._session(file)
    scaled = (noise().transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    return [np.asarray(values) for values in session.run(names, {session.get_inputs()[0].name: scaled})]


def kinds(graph: Any) -> list[str]:
    return [node.op_type for node in graph.node]


def test_it_computes_the_same_with_fewer_steps(folded: Path) -> None:
    tower = onnx.load(folded)
    before = kinds(tower.graph)
    assert make_leaner(tower.graph, folded.parent)
    file = folded.with_name("leaner.onnx")
    onnx.save(tower, file)
    np.testing.assert_allclose(computed(file)[0], computed(folded)[0], rtol=1e-4, atol=1e-5)
    after = kinds(tower.graph)
    assert "Conv" in before
    assert "Conv" not in after
    assert len(after) < 0.7 * len(before)
    assert after.count("Transpose") == 1 + 4 * BLOCKS
    assert after.count("Softmax") == BLOCKS


def test_of_the_last_block_only_keys_and_values_are_of_all_tokens(folded: Path) -> None:
    tower = onnx.load(folded)
    make_leaner(tower.graph, folded.parent)
    products = [node for node in tower.graph.node if node.op_type == "MatMul"]
    names = [node.output[0] for node in products]
    tower.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    file = folded.with_name("watched.onnx")
    onnx.save(tower, file)
    constant = {value.name for value in tower.graph.initializer}
    shapes = [
        values.shape[1]
        for node, values in zip(products, computed(file, names), strict=True)
        if node.input[1] in constant and values.ndim == 3
    ]
    patches, block, last = [TOKENS - 1], [TOKENS] * 6, [1, TOKENS, TOKENS, 1, 1, 1]
    assert shapes == patches + block * (BLOCKS - 1) + last


def test_what_is_no_such_transformer_stays_as_it_is(tmp_path: Path) -> None:
    tower = onnx.load(write_layered_model(tmp_path / "model") / VISUAL_MODEL)
    before = tower.graph.SerializeToString(deterministic=True)
    assert not make_leaner(tower.graph, tmp_path)
    assert tower.graph.SerializeToString(deterministic=True) == before


def test_a_tower_in_which_something_else_is_found_stays_as_it_is(model: ModelDirectory, folded: Path) -> None:
    tower = onnx.load(folded)  # queries with a factor for each token, where one for all is looked for
    (softmax, *_) = [node for node in tower.graph.node if node.op_type == "Softmax"]
    (scores,) = [node for node in tower.graph.node if softmax.input[0] in node.output]
    factors = onnx.numpy_helper.from_array(np.linspace(1, 2, TOKENS, dtype=np.float32)[:, None], "factors")
    tower.graph.initializer.append(factors)
    scaled = onnx.helper.make_node("Mul", [scores.input[0], "factors"], ["scaled"])
    scores.input[0] = "scaled"
    tower.graph.node.insert([node.output[0] for node in tower.graph.node].index(scores.output[0]), scaled)
    odd = folded.with_name("odd.onnx")
    onnx.save(tower, odd)
    assert len(computed(odd)[0]) == 3
    with pytest.raises(ValueError, match="scalar"):
        make_leaner(tower.graph, folded.parent)
    used, file = static._leaner(model, odd, noise())
    assert file == odd
    assert "Conv" in kinds(used.graph)


def test_what_is_matched_by_mistake_is_not_used(model: ModelDirectory, folded: Path) -> None:
    as_it_is, leaner = static._leaner(model, folded, noise())
    assert leaner != folded
    assert makes_patches(static._layers(as_it_is.graph)[0])

    tower = onnx.load(folded)  # values that are doubled: a factor that the rewriting takes for one of queries and keys
    (softmax, *_) = [node for node in tower.graph.node if node.op_type == "Softmax"]
    (mixed,) = [node for node in tower.graph.node if softmax.output[0] in node.input]
    factor = onnx.numpy_helper.from_array(np.array([2], np.float32), "two")
    tower.graph.initializer.append(factor)
    doubled = onnx.helper.make_node("Mul", [mixed.input[1], "two"], ["doubled"])
    mixed.input[1] = "doubled"
    at = [node.output[0] for node in tower.graph.node].index(mixed.output[0])
    tower.graph.node.insert(at, doubled)
    odd = folded.with_name("odd.onnx")
    onnx.save(tower, odd)
    assert make_leaner(tower.graph, folded.parent)
    used, file = static._leaner(model, odd, noise())
    assert file == odd
    assert "Conv" in kinds(used.graph)
