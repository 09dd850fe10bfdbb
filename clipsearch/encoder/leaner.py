"""Graphs of vision transformers that compute the same with less work: for towers that are made anew (see `static`).

What PyTorch exports of open_clip's vision transformers moves data more than it must, and computes what nobody reads:

- Patches are cut by a convolution whose steps are as wide as its kernel. A product of matrices computes the same
  faster, above all in int8.
- Attention turns batches and tokens around, before and after, and cuts queries, keys and values out of one tensor.
  With a product for each, everything stays where it is.
- Only the first token of the last block becomes the vector. For the others, the block needs no more than keys and
  values: 10 of its 12 parts are left out (7 % of all products of a tower of 12 blocks).

ViT-B-32 in int8 on two AMD EPYC cores, in turns on a busy machine: 34 ms of processor time a picture instead of 42.

Patterns are matched as they are exported; what looks different stays as it is. Whoever uses the result is to compare
what both compute, for one that is matched by mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_OWN = "leaner"  # what names of our own start with
_MOVES = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Gather", "Shape", "Slice", "Concat", "Mul", "MatMul", "Add"}
_BY_TOKEN = {"Add", "Mul", "Div", "Sub", "Erf", "Sigmoid", "Tanh", "LayerNormalization", "MatMul"}


class _NotMatched(Exception):
    """This part of a graph is not what is looked for."""


class _Graph:
    """A graph that is being rewritten: its nodes, and who makes and uses what."""

    def __init__(self, graph: Any, folder: Path) -> None:
        self.graph = graph
        self._folder = folder
        self.weights = {value.name: value for value in graph.initializer}
        self.look()

    def look(self) -> None:
        """Find out again who makes and uses what."""
        self.maker = {name: node for node in self.graph.node for name in node.output}
        self.users: dict[str, list[Any]] = {output.name: [None] for output in self.graph.output}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def values(self, name: str) -> npt.NDArray[Any]:
        """A constant."""
        from onnx import numpy_helper

        if name not in self.weights:
            raise _NotMatched
        found: npt.NDArray[Any] = numpy_helper.to_array(self.weights[name], base_dir=str(self._folder))
        return found

    def made_by(self, name: str, kind: str) -> Any:
        """The node of that kind that makes a tensor."""
        node = self.maker.get(name)
        if node is None or node.op_type != kind:
            raise _NotMatched
        return node

    def next(self, node: Any, *kinds: str) -> Any:
        """The one node that uses what `node` makes."""
        users = self.users.get(node.output[0], [])
        if len(users) != 1 or users[0] is None or users[0].op_type not in kinds:
            raise _NotMatched
        return users[0]

    def keep(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add a constant. Returns its name."""
        from onnx import numpy_helper

        if name not in self.weights:
            self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
            self.weights[name] = self.graph.initializer[-1]
        return name

    def replace(self, last: Any, made: list[Any]) -> None:
        """Put nodes where `last` is, which make what it made. What only it needed goes in the end."""
        nodes = list(self.graph.node)
        at = next(number for number, node in enumerate(nodes) if node.output[0] == last.output[0])
        del self.graph.node[:]
        self.graph.node.extend([*nodes[:at], *made, *nodes[at + 1 :]])
        self.look()

    def clear(self) -> None:
        """Take out what nobody uses."""
        wanted = {output.name for output in self.graph.output}
        live = []
        for node in reversed(self.graph.node):
            if not wanted.isdisjoint(node.output):
                wanted.update(node.input)
                live.append(node)
        kept = [value for value in self.graph.initializer if value.name in wanted]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]  # these are shapes as they were
        self.graph.node.extend(reversed(live))
        self.graph.initializer.extend(kept)


def make_leaner(graph: Any, folder: Path) -> bool:
    """Rewrite a graph (an `onnx.GraphProto` whose constants are folded). Whether anything was matched.

    `folder`: where its weights are, if they are not in it.
    """
    found = _Graph(graph, folder)
    count = 0
    for rewrite, kind in ((_patches, "Conv"), (_attention, "Softmax"), (_first_token, "Gather")):
        for number, name in enumerate([node.output[0] for node in graph.node if node.op_type == kind]):
            if name in found.maker:
                try:
                    rewrite(found, found.maker[name], f"{_OWN}/{kind}-{number}")
                except _NotMatched:
                    continue
                count += 1
    found.clear()
    return count > 0


def makes_patches(node: Any) -> bool:
    """Whether a node of a graph that was made leaner multiplies patches, the pixels of a picture."""
    return bool(node.input[0].startswith(f"{_OWN}/Conv"))


def _patches(graph: _Graph, conv: Any, prefix: str) -> None:
    """A convolution that cuts a picture into patches, which become tokens."""
    from onnx import helper

    flat = graph.next(conv, "Reshape")
    turned = graph.next(flat, "Transpose")
    weights = graph.values(conv.input[1])
    (given,) = [value for value in graph.graph.input if value.name == conv.input[0]] or [None]
    if given is None or weights.ndim != 4 or _ints(turned, "perm") != [0, 2, 1]:
        raise _NotMatched
    width, channels, down, across = weights.shape
    size = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    is_plain = _ints(conv, "strides") == [down, across] and not any(_ints(conv, "pads")) and size[1] == channels
    if not is_plain or size[2] < down or size[3] < across or size[2] % down or size[3] % across:
        raise _NotMatched
    rows, columns = size[2] // down, size[3] // across
    parts = graph.keep(f"{prefix}/parts", np.array([-1, channels, rows, down, columns, across]))
    tokens = graph.keep(f"{prefix}/tokens", np.array([-1, rows * columns, channels * down * across]))
    matrix = graph.keep(f"{prefix}/weights", weights.reshape(width, -1).T)
    names = [f"{prefix}/{number}" for number in range(4)]
    made = [
        helper.make_node("Reshape", [conv.input[0], parts], [names[0]]),
        helper.make_node("Transpose", [names[0]], [names[1]], perm=[0, 2, 4, 1, 3, 5]),
        helper.make_node("Reshape", [names[1], tokens], [names[2]]),
        *_product(names[2], matrix, conv.input[2] if len(conv.input) > 2 else None, turned.output[0]),
    ]
    graph.replace(turned, made)


def _attention(graph: _Graph, softmax: Any, prefix: str) -> None:
    """`nn.MultiheadAttention` of a tensor to itself, tokens first inside, batches first outside."""
    from onnx import helper

    mixed = graph.next(softmax, "MatMul")
    back = graph.next(mixed, "Transpose")
    flat = graph.next(back, "Reshape")
    out = graph.next(flat, "Gemm")
    whole = graph.next(out, "Reshape")
    last = graph.next(whole, "Transpose")
    if mixed.input[0] != softmax.output[0] or _ints(back, "perm") != [2, 0, 1, 3] or _ints(last, "perm") != [1, 0, 2]:
        raise _NotMatched
    scores = graph.made_by(softmax.input[0], "MatMul")
    sources, sizes, scale = set(), [], 1.0
    for number, name in enumerate([*scores.input, mixed.input[1]]):  # queries, keys, values
        at_place = False
        for node in _until_product(graph, name):
            if node.op_type == "Gather" and graph.maker[node.input[0]].op_type == "Squeeze":
                at_place = graph.values(node.input[1]).tolist() == number
            elif node.op_type == "Mul":
                scale *= float(graph.values(node.input[1]).item())
            elif node.op_type == "Reshape" and node.input[1] in graph.weights:
                sizes.append(graph.values(node.input[1]).tolist())
            elif node.op_type == "Add":
                sources.add(node.output[0])
        if not at_place:
            raise _NotMatched
    (three,) = sources if len(sources) == 1 else [""]
    biased = graph.made_by(three, "Add")
    product = graph.made_by(biased.input[0], "MatMul")
    turned = graph.made_by(product.input[0], "Transpose")
    weights, bias = graph.values(product.input[1]), graph.values(biased.input[1])
    width = len(weights)
    shapes = [size[1:] for size in sizes if len(size) == 4 and size[1] * size[3] == width]
    is_square = weights.shape == (width, 3 * width) and bias.shape == (3 * width,)
    if not shapes or not is_square or _ints(turned, "perm") != [1, 0, 2]:
        raise _NotMatched
    heads, tokens, depth = shapes[0]
    split = graph.keep(f"{prefix}/split", np.array([-1, tokens, heads, depth]))
    joined = graph.keep(f"{prefix}/joined", np.array([-1, tokens, width]))
    made = []
    for number, (name, perm) in enumerate(
        (("queries", [0, 2, 1, 3]), ("keys", [0, 2, 3, 1]), ("values", [0, 2, 1, 3]))
    ):
        part, factor = slice(number * width, (number + 1) * width), np.float32(scale if number == 0 else 1)
        matrix = graph.keep(f"{prefix}/{name}/weights", weights[:, part] * factor)
        added = graph.keep(f"{prefix}/{name}/bias", bias[part] * factor)
        made += [
            *_product(turned.input[0], matrix, added, f"{prefix}/{name}/0"),
            helper.make_node("Reshape", [f"{prefix}/{name}/0", split], [f"{prefix}/{name}/1"]),
            helper.make_node("Transpose", [f"{prefix}/{name}/1"], [f"{prefix}/{name}"], perm=perm),
        ]
    is_turned = bool(next((given.i for given in out.attribute if given.name == "transB"), 0))
    joining = graph.values(out.input[1])
    matrix = graph.keep(f"{prefix}/out/weights", joining.T if is_turned else joining)
    made += [
        helper.make_node("MatMul", [f"{prefix}/queries", f"{prefix}/keys"], [f"{prefix}/scores"]),
        helper.make_node("Softmax", [f"{prefix}/scores"], [f"{prefix}/shares"], axis=-1),
        helper.make_node("MatMul", [f"{prefix}/shares", f"{prefix}/values"], [f"{prefix}/mixed"]),
        helper.make_node("Transpose", [f"{prefix}/mixed"], [f"{prefix}/heads"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"{prefix}/heads", joined], [f"{prefix}/joined/0"]),
        *_product(f"{prefix}/joined/0", matrix, out.input[2] if len(out.input) > 2 else None, last.output[0]),
    ]
    graph.replace(last, made)


def _until_product(graph: _Graph, name: str) -> Iterator[Any]:
    """What makes a tensor, up to the addition behind a product with constant weights."""
    seen, waiting = set(), [name]
    while waiting:
        node = graph.maker.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.op_type not in _MOVES or len(seen) > 64:
            raise _NotMatched
        yield node
        if node.op_type != "Add":
            waiting += node.input


def _first_token(graph: _Graph, pick: Any, prefix: str) -> None:
    """What is computed of tokens of which only the first is used."""
    from onnx import helper

    axis = next((given.i for given in pick.attribute if given.name == "axis"), 0)
    if axis != 1 or graph.values(pick.input[1]).tolist() != 0:
        raise _NotMatched
    narrowed = {pick.output[0]}
    inside = []
    for node in reversed(graph.graph.node):
        users = graph.users.get(node.output[0], [None])
        is_alone = all(user is not None and user.output[0] in narrowed for user in users)
        if is_alone and _is_by_token(graph, node):
            narrowed.add(node.output[0])
            inside.append(node)
    if not inside:
        raise _NotMatched
    first = graph.keep(f"{prefix}/first", np.array([0]))
    gathered: dict[str, str] = {}
    for node in reversed(inside):
        for at, name in enumerate(node.input):
            if name in graph.weights:
                if node.op_type == "Reshape":  # the second number is that of the tokens
                    size = graph.values(name).copy()
                    size[1] = 1
                    node.input[at] = graph.keep(f"{name}/first", size)
            elif name not in narrowed and not (_is_of_queries(node) and at > 0):
                gathered.setdefault(name, f"{prefix}/{len(gathered)}")
                node.input[at] = gathered[name]
    nodes: list[Any] = []
    waiting = {name: helper.make_node("Gather", [name, first], [made], axis=1) for name, made in gathered.items()}
    for node in graph.graph.node:
        nodes += [waiting.pop(name) for name in list(waiting) if waiting[name].output[0] in node.input]
        nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    graph.look()


def _is_by_token(graph: _Graph, node: Any) -> bool:
    """Whether each token of what it makes is made of the same token alone."""
    if _is_of_queries(node):
        return True
    if node.op_type == "MatMul":
        return node.input[0] not in graph.weights and node.input[1] in graph.weights
    constants = [graph.weights[name].dims for name in node.input if name in graph.weights]
    return node.op_type in _BY_TOKEN and all(len(dims) < 2 for dims in constants)


def _is_of_queries(node: Any) -> bool:
    """Whether it is a step of an attention that `_attention` made, from the queries to what they find."""
    parts = node.output[0].split("/")
    if parts[0] != _OWN or not parts[1].startswith("Softmax"):
        return False
    return parts[2:] in (["queries", "1"], ["queries"], ["scores"], ["shares"], ["mixed"], ["heads"], ["joined", "0"])


def _product(given: str, matrix: str, bias: str | None, made: str) -> list[Any]:
    from onnx import helper

    if bias is None:
        return [helper.make_node("MatMul", [given, matrix], [made])]
    plain = f"{made}/without-bias"
    return [helper.make_node("MatMul", [given, matrix], [plain]), helper.make_node("Add", [plain, bias], [made])]


def _ints(node: Any, name: str) -> list[int]:
    return next((list(given.ints) for given in node.attribute if given.name == name), [])
