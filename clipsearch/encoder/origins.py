"""What an exporter notes in a graph about its origin: for each node the lines of code, with the folders they lie in.

Nobody who searches needs it, and a model may be given to others, who need not know where its maker's home is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def forget_origins(model: Any) -> None:
    """Empty the notes of an ONNX model, in place: metadata of nodes and values, and texts for people."""
    _forget(model.graph)
    for function in model.functions:
        _clear(function)
        for node in function.node:
            _clear(node)
    _clear(model)


def forget_origins_of(file: Path) -> None:
    """The same of a file. Weights in files beside it stay as they are. Raises: OSError."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    forget_origins(model)
    file.write_bytes(model.SerializeToString(deterministic=True))


def _forget(graph: Any) -> None:
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _clear(part)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _forget(inner)


def _clear(part: Any) -> None:
    part.ClearField("metadata_props")
    part.ClearField("doc_string")
