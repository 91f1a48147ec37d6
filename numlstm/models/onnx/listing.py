"""The nodes of an ONNX graph as a table, without a run of it."""

from __future__ import annotations

from contextlib import suppress
from math import prod
from typing import Any

from numlstm.nn.summary import Row, Summary

# what exporters put around the layers to know and change shapes
PLUMBING = frozenset(
    ("Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Gather", "Identity", "Range")
) | frozenset(("Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"))
LARGEST = 1 << 26  # bytes of a model whose shapes are inferred, which takes a copy


def summary_of(proto: Any) -> Summary:
    """The nodes in order, with the output shapes that ONNX infers. Nodes that only change shapes are left out."""
    from onnx import shape_inference

    if proto.ByteSize() < LARGEST:
        with suppress(RuntimeError, ValueError):  # what the file states will do
            proto = shape_inference.infer_shapes(proto)
    graph = proto.graph
    held = {each.name: prod(each.dims) for each in graph.initializer}
    stated = {each.name: each.type.tensor_type for each in (*graph.value_info, *graph.input, *graph.output)}
    rows = [Row(each.name, "Input", shape_words(stated[each.name]), 0) for each in graph.input if each.name not in held]
    for node in graph.node:
        count = sum(held.get(name, 0) for name in node.input)
        if node.op_type in PLUMBING and not (node.op_type == "Gather" and held.get(node.input[0], 0)):
            continue
        output = node.output[0] if node.output else ""
        shape = shape_words(stated[output]) if output in stated else "?"
        rows.append(Row(node.name or output, node.op_type, shape, count))
    return Summary(rows)


def shape_words(stated: Any) -> str:
    """A shape with "any" for an axis of any length."""
    if not stated.HasField("shape"):
        return "?"
    return words([dim.dim_value if dim.HasField("dim_value") else None for dim in stated.shape.dim])


def words(dims: list[int | None] | tuple[int | None, ...] | None) -> str:
    """A shape in words."""
    if dims is None:
        return "?"
    return f"({', '.join('any' if n is None else str(n) for n in dims)}{',' * (len(dims) == 1)})"
