"""Constants of an ONNX graph: tensors of the file, and what a few operators make of them.

Exporters reorder gates and stack directions with Slice, Concat, Unsqueeze and the like, in the graph. The operators are
run one by one by onnx's own reference implementation. None is on the list whose result cannot be foreseen from the
sizes of what it reads, and each result is counted before it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numlstm.checks import counted
from numlstm.formats.onnx_graph import MAIN, Graph, Node, Value
from numlstm.formats.onnx_tensors import DTYPES
from numlstm.formats.tensor import Array, Tensor

DEPTH = 200  # operators one after the other
ALWAYS = 1 << 20  # bytes that may be folded whatever the size of the file
ONCE, IN_ALL = 8, 64  # how many times the file's size may be folded for one tensor, and for everything
SMALL = 64  # numbers in what computes a shape
LARGE = 8  # bytes of the widest number


class NotConstant(ValueError):
    """A value is not known before the model runs; the message says what makes it."""


class Folded(NamedTuple):
    """An array, and the dtype that the file has for it: bfloat16 is float32 in memory."""

    array: Array
    dtype: str


def _same(arrays: list[Any], _: Node) -> int:
    return int(arrays[0].nbytes)


def _concat(arrays: list[Any], _: Node) -> int:
    return int(sum(array.nbytes for array in arrays))


def _wider(arrays: list[Any], _: Node) -> int:
    return int(arrays[0].size) * LARGE


def _gather(arrays: list[Any], node: Node) -> int:
    data, indices = arrays[0], arrays[1]
    axis = node.attributes()["axis"].i if "axis" in node.attributes() else 0
    if not -data.ndim <= axis < data.ndim:
        raise ValueError(f"{node} has axis {axis} for {counted(data.ndim, 'axis', 'axes')}")
    others = prod(data.shape[:axis]) * prod(data.shape[axis:][1:])
    return int(indices.size) * int(others) * int(data.itemsize)


def _filled(arrays: list[Any], _: Node) -> int:
    return _product(arrays[0]) * LARGE


def _expanded(arrays: list[Any], _: Node) -> int:
    return _product(np.maximum(arrays[1], 1)) * int(arrays[0].size) * int(arrays[0].itemsize)


def _product(shape: Any) -> int:
    if shape.size > SMALL or (shape < 0).any():
        raise ValueError(f"{shape[:SMALL].tolist()} is no shape")
    return prod(int(length) for length in shape.ravel())


def _short(arrays: list[Any], node: Node) -> int:
    if any(array.size > SMALL for array in arrays) or any(array.dtype.kind not in "iu" for array in arrays):
        raise NotConstant(f"{node} computes it")
    return SMALL * LARGE


RESULT: dict[str, Callable[[list[Any], Node], int]] = {
    **dict.fromkeys(
        ("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"), _same
    ),
    "Concat": _concat,
    "Cast": _wider,
    "DequantizeLinear": _wider,
    "Gather": _gather,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Shape": lambda arrays, _: LARGE * int(arrays[0].ndim),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _short),
}  # bytes of the result, at most, of every operator that is run
FIRST = {"DequantizeLinear": 19}  # opsets that the reference implementation begins with; before, the same was meant
OWN_DTYPE = ("Cast", "DequantizeLinear", "ConstantOfShape", "Shape")  # these make one of their own; the others keep it


class Constants:
    """What is constant in a graph.

    Parameters
    ----------
    graph : Graph
    tensors : mapping of Value to Tensor
        The initializers and Constant nodes.
    size : int
        Bytes of the file and of its external data.
    """

    def __init__(self, graph: Graph, tensors: Mapping[Value, Tensor], size: int) -> None:
        self.graph, self.tensors, self.size = graph, tensors, size
        self.left = ALWAYS + IN_ALL * size

    def fold(self, value: Value, given: Mapping[Value, Array] | None = None) -> Folded:
        """The numbers of a value.

        Parameters
        ----------
        value : Value
        given : mapping of Value to ndarray, optional
            Values that are known for the sake of the argument, as a probe.

        Raises
        ------
        NotConstant
            It is not known before the model runs.
        ValueError
            The operators do not fit what they read, or make too much of it.
        """
        known = {each: Folded(array, array.dtype.name) for each, array in (given or {}).items()}
        return self._fold(value, known, [ALWAYS + ONCE * self.size], 0)

    def _fold(self, value: Value, known: dict[Value, Folded], left: list[int], depth: int) -> Folded:
        if value in known:
            return known[value]
        if depth > DEPTH:
            raise NotConstant(f"more than {DEPTH} operators in a row compute it, or it is computed from itself")
        tensor = self.tensors.get(value)
        if tensor is not None:
            self._spend(tensor.nbytes * (2 if tensor.dtype == "bfloat16" else 1), left)
            known[value] = Folded(tensor.read(), tensor.dtype)
            return known[value]
        node = self.graph.maker(value)
        if node is None:
            raise NotConstant(f"{value.name!r} is an input of its graph")
        if node.op not in RESULT or node.domain not in MAIN:
            raise NotConstant(f"{node} computes it")
        read: list[Folded | None] = []
        for index, name in enumerate(node.inputs):
            source = self.graph.input_of(node, index)
            read.append(self._fold(source, known, left, depth + 1) if name and source is not None else None)
        if not read or read[0] is None:
            raise ValueError(f"{node} has no input")
        if node.op == "Dropout" and len(read) == 3 and read[2] is not None and read[2].array.any():
            raise NotConstant(f"{node} is in training mode")
        arrays = [each.array for each in read if each is not None]
        self._spend(RESULT[node.op](arrays, node), left)
        made = _run(node, [None if each is None else each.array for each in read])
        for index, array in enumerate(made):
            output = self.graph.output_of(node, index)
            if output is not None:
                dtype = array.dtype.name if node.op in OWN_DTYPE else read[0].dtype
                known[output] = Folded(array, dtype)
        if value not in known:
            raise ValueError(f"{node} does not make {value.name!r}")
        return known[value]

    def _spend(self, nbytes: int, left: list[int]) -> None:
        left[0] -= nbytes
        self.left -= nbytes
        if min(left[0], self.left) < 0:
            raise ValueError(f"its operators make more of its constants than {ONCE} times its {self.size} bytes")

    def is_zero(self, value: Value | None) -> bool:
        """Whether a value is zero, whatever its shape, which may depend on the batch."""
        for _ in range(DEPTH):
            if value is None:
                return True
            if value in self.tensors:
                tensor = self.tensors[value]
                self._spend(tensor.nbytes, [self.size + ALWAYS])
                return not tensor.read().any()
            node = self.graph.maker(value)
            if node is None or node.domain not in MAIN:
                return False
            if node.op == "ConstantOfShape":
                filled = node.attributes().get("value")
                return filled is None or not _constant(filled.t).any()
            if node.op == "Concat":
                return len(node.inputs) <= SMALL and all(
                    self._plain_zero(self.graph.input_of(node, index)) for index in range(len(node.inputs))
                )
            if node.op not in RESULT or node.op in ("Shape", "DequantizeLinear", "Add", "Sub", "Mul", "Div"):
                return False
            value = self.graph.input_of(node, 0)
        return False

    def _plain_zero(self, value: Value | None) -> bool:
        """As `is_zero`, one step: what a Concat reads is no Concat itself where exporters wrote it."""
        node = None if value is None else self.graph.maker(value)
        return (node is None or node.op != "Concat") and self.is_zero(value)


def _constant(proto: Any) -> Array:
    from onnx import numpy_helper

    if prod(proto.dims) > 1 or proto.data_type not in DTYPES or proto.data_location:
        raise ValueError("a ConstantOfShape node has more than one value")
    array: Array = numpy_helper.to_array(proto)
    return array


def _run(node: Node, arrays: list[Array | None]) -> list[Array]:
    """One operator, by the reference implementation of its version."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    if node.op in ("Identity", "Dropout"):
        assert arrays[0] is not None, "checked"
        return [arrays[0]]
    inputs = ["" if array is None else f"i{index}" for index, array in enumerate(arrays)]
    outputs = [name and f"o{index}" for index, name in enumerate(node.outputs)]
    proto = helper.make_node(node.op, inputs, outputs)
    for name, attribute in node.attributes().items():
        given = proto.attribute.add()
        given.CopyFrom(attribute)
        given.name, given.ref_attr_name = name, ""
    wanted = [name for name in outputs if name]
    named = [name for name in inputs if name]
    version = max(node.scope.opset, FIRST.get(node.op, 1))
    function = helper.make_function("numlstm", "one", named, wanted, [proto], [helper.make_opsetid("", version)])
    feeds = {name: array for name, array in zip(inputs, arrays, strict=True) if name}
    try:
        made = dict(zip(wanted, ReferenceEvaluator(function).run(None, feeds, attributes={}), strict=True))
    except (NotConstant, MemoryError):
        raise
    except Exception as error:  # whatever a reference implementation trips over
        raise ValueError(f"{node} does not fit what it reads: {type(error).__name__}: {error}") from None
    return [made.get(name, np.empty(0)) for name in outputs]
