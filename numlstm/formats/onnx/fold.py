"""Constants of an ONNX graph: tensors of the file, and values that a few operators compute from them.

Exporters reorder gates and stack directions in the graph, with Slice, Concat, Unsqueeze and the like. These operators
are run one by one by onnx's reference implementation. Only operators are run whose result's size follows from the sizes
of their inputs, and each result is charged before it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.budget import shown
from numlstm.formats.onnx.graph import MAIN, UNUSED, Graph, Node, Value
from numlstm.formats.onnx.tensors import DTYPES
from numlstm.formats.tensor import FLOATS, Tensor

OPERATORS = 1_000  # that compute one constant
RUN = 50  # steps charged for running an operator
ALWAYS = 1 << 20  # bytes that may be computed for any file
ONCE, IN_ALL = 8, 64  # limits of computed bytes, times the file's size, for one tensor and for all
SMALL = 64  # numbers in the inputs of an operator that computes a shape
LARGE = 16  # bytes of the widest number
SCALED = ("QuantizeLinear", "DequantizeLinear")


class NotConstant(ValueError):
    """A value depends on the model's input; the message says what computes it."""


class Folded(NamedTuple):
    """An array, its dtype in the file (bfloat16 is float32 in memory), and whether integers were dequantised for it."""

    array: Array
    dtype: str
    is_quantised: bool = False


def _same(arrays: list[Any], _: Node) -> int:
    return int(arrays[0].nbytes)


def _concat(arrays: list[Any], _: Node) -> int:
    return int(sum(array.nbytes for array in arrays))


def _wider(arrays: list[Any], _: Node) -> int:
    return int(arrays[0].size) * LARGE


def _cast(arrays: list[Any], node: Node) -> int:
    to = node.attributes()["to"].i if "to" in node.attributes() else 0
    if to not in DTYPES:
        raise ValueError(f"{node} makes numbers of type {to} of ONNX, which is not read")
    return _wider(arrays, node)


def _split(arrays: list[Any], node: Node) -> int:
    given = node.attributes().get("num_outputs")
    if given is not None and given.i > len(node.outputs):
        raise ValueError(f"{node} has num_outputs {given.i} and {len(node.outputs)} outputs")
    return _same(arrays, node)


def _rescaled(arrays: list[Any], node: Node) -> int:
    """Scales and zero points are repeated along an axis; that must not make more of them than there are numbers."""
    attributes = node.attributes()
    axis = attributes["axis"].i if "axis" in attributes else 1
    block = attributes["block_size"].i if "block_size" in attributes else 0
    shape = arrays[0].shape
    for array in arrays[1:]:
        if array.size != 1 and not _repeats(array.shape, shape, axis, block):
            raise ValueError(f"{node} has scales of shape {array.shape} for numbers of shape {shape}")
    return 4 * _wider(arrays, node)


def _repeats(scales: tuple[int, ...], shape: tuple[int, ...], axis: int, block: int) -> bool:
    """Whether there is a scale for each index along the axis, or for each block of them."""
    if not -len(shape) <= axis < len(shape):
        return False
    if block == 0:
        return prod(scales) == shape[axis]
    if len(scales) != len(shape) or not 0 < block <= shape[axis]:
        return False
    others = [pair for place, pair in enumerate(zip(scales, shape, strict=True)) if place != axis % len(shape)]
    return -(-shape[axis] // block) == scales[axis] and all(scale in (1, length) for scale, length in others)


def _gather(arrays: list[Any], node: Node) -> int:
    data, indices = arrays[0], arrays[1]
    axis = node.attributes()["axis"].i if "axis" in node.attributes() else 0
    if not -data.ndim <= axis < data.ndim:
        raise ValueError(f"{node} has axis {axis} for {counted(data.ndim, 'axis', 'axes')}")
    others = prod(data.shape[:axis]) * prod(data.shape[axis:][1:])
    return int(indices.size) * int(others) * int(data.itemsize)


def _gather_nd(arrays: list[Any], node: Node) -> int:
    data, indices = arrays[0], arrays[1]
    return prod(indices.shape[:-1]) * prod(data.shape[indices.shape[-1] :]) * int(data.itemsize) if indices.ndim else 0


def _filled(arrays: list[Any], _: Node) -> int:
    return _product(arrays[0]) * LARGE


def _range(arrays: list[Any], node: Node) -> int:
    numbers = [int(array.item()) for array in arrays if array.size == 1 and array.dtype.kind in "iu"]
    if len(numbers) != 3 or not numbers[2]:
        raise ValueError(f"{node} has no three integers")
    return max(0, -((numbers[0] - numbers[1]) // numbers[2])) * LARGE


def _expanded(arrays: list[Any], _: Node) -> int:
    return _product(np.maximum(arrays[1], 1)) * int(arrays[0].size) * int(arrays[0].itemsize)


def _tiled(arrays: list[Any], _: Node) -> int:
    return _product(arrays[1]) * int(arrays[0].size) * int(arrays[0].itemsize)


def _product(shape: Any) -> int:
    if shape.size > SMALL or (shape < 0).any():
        raise ValueError(f"{shape[:SMALL].tolist()} is no shape")
    return prod(int(length) for length in shape.ravel())


def _short(arrays: list[Any], node: Node) -> int:
    if any(array.size > SMALL for array in arrays) or any(array.dtype.kind not in "iu" for array in arrays):
        raise NotConstant(f"{node} computes it")
    return SMALL * LARGE


RESULT: dict[str, Callable[[list[Any], Node], int]] = {
    **dict.fromkeys(("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"), _same),
    "ReverseSequence": _same,
    "Range": _range,
    "Split": _split,
    "Concat": _concat,
    "Cast": _cast,
    **dict.fromkeys(SCALED, _rescaled),
    "Gather": _gather,
    "GatherND": _gather_nd,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Tile": _tiled,
    "Shape": lambda arrays, _: LARGE * int(arrays[0].ndim),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _short),
}  # the operators that are run, with an upper bound of the result's bytes
FIRST = {
    "QuantizeLinear": 19,
    "DequantizeLinear": 19,
}  # first opset of the reference implementation; older ones have the same meaning
KEEPS_ZERO = RESULT.keys() - {
    *(*SCALED, "Shape", "Range", "Add", "Sub", "Mul", "Div", "ConstantOfShape", "Concat")
}  # their output is zero if their first input is
SHAPED_BY = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Gather", "Split"), (1,)),
    "Slice": (1, 2, 3, 4),
    **dict.fromkeys(("ReverseSequence", "GatherND"), (1,)),
    "ConstantOfShape": (0,),
}  # inputs that say where numbers go, and are none of them
ANY = 11  # the length of an axis that the file leaves open, to compute shapes with
OWN_DTYPE = (
    "Cast",
    "QuantizeLinear",
    "DequantizeLinear",
    "ConstantOfShape",
    "Shape",
)  # the others keep the dtype of their input


class Constants:
    """The constants of a graph.

    Parameters
    ----------
    graph : Graph
    tensors : mapping of Value to Tensor
        The initializers and Constant nodes.
    """

    def __init__(self, graph: Graph, tensors: Mapping[Value, Tensor]) -> None:
        self.graph, self.tensors, self.budget = graph, tensors, graph.budget
        self.left = ALWAYS + IN_ALL * self.budget.size
        self._outer = set(graph.owners.values())  # nodes with graphs in them, which may read anything
        self._zero: dict[Value, bool] = {}
        self._extremes: dict[Value, tuple[int, int]] = {}
        self._origins: dict[Value, list[Value] | None] = {}
        self._shapes: dict[Value, tuple[int | None, ...] | None] = {}

    def fold(self, value: Value, given: Mapping[Value, Array] | None = None) -> Folded:
        """Compute a value.

        Parameters
        ----------
        value : Value
        given : mapping of Value to ndarray, optional
            Values to assume, such as a probe.

        Raises
        ------
        NotConstant
            It depends on the model's input.
        ValueError
            The operators do not fit their inputs, or compute too much.
        """
        known = {each: Folded(array, array.dtype.name) for each, array in (given or {}).items()}
        left = [min(ALWAYS + ONCE * self.budget.size, self.budget.memory)]
        self._spend(sum(array.nbytes for array in (given or {}).values()), left)
        for each in list(self.graph.sources_first([value], self._sources(known))):
            if each in known:
                continue
            tensor = self.tensors.get(each)
            if tensor is not None:
                self._spend(tensor.nbytes * (2 if tensor.dtype == "bfloat16" else 1), left)
                known[each] = Folded(tensor.read(), tensor.dtype)
                continue
            node = self.graph.maker(each)
            assert node is not None, "checked by _sources"
            self._apply(node, known, left)
            if each not in known:
                raise ValueError(f"{node} does not make {shown(each.name)!r}")
        return known[value]

    def _sources(self, known: Mapping[Value, Folded]) -> Callable[[Value], Iterator[Value]]:
        """A function that gives the inputs of the operator behind a value; it raises if that cannot be run."""
        operators = 0

        def sources(value: Value) -> Iterator[Value]:
            nonlocal operators
            if value in known or value in self.tensors:
                return iter(())
            node = self.graph.maker(value)
            if node is None:
                raise NotConstant(f"{shown(value.name)!r} is an input of its graph")
            if node.op not in RESULT or node.domain not in MAIN:
                raise NotConstant(f"{node} computes it")
            operators += 1
            if operators > OPERATORS:
                raise NotConstant(f"more than {OPERATORS} operators compute it")
            return self.graph.inputs_of(node)

        return sources

    def _apply(self, node: Node, known: dict[Value, Folded], left: list[int]) -> None:
        """Run one operator on known values, and keep its outputs."""
        sources = [self.graph.input_of(node, index) for index in range(len(node.inputs))]
        read = [None if source is None else known[source] for source in sources]
        if not read or read[0] is None:
            raise ValueError(f"{node} has no input")
        if node.op == "Dropout" and len(read) == 3 and read[2] is not None and read[2].array.any():
            raise NotConstant(f"{node} is in training mode")
        arrays = [each.array for each in read if each is not None]
        self._spend(RESULT[node.op](arrays, node), left)
        self.budget.step(RUN)
        made = _run(node, [None if each is None else each.array for each in read])
        for index, array in enumerate(made):
            output = self.graph.output_of(node, index)
            if output is not None:
                dtype = array.dtype.name if node.op in OWN_DTYPE else read[0].dtype
                was_quantised = any(each.is_quantised for each in read if each is not None)
                known[output] = Folded(array, dtype, was_quantised or node.op == "DequantizeLinear")

    def _spend(self, nbytes: int, left: list[int]) -> None:
        left[0] -= nbytes
        self.left -= nbytes
        if min(left[0], self.left) < 0:
            raise ValueError(f"its constants take more than {ONCE} times its {self.budget.size} bytes to compute")

    def origins(self, value: Value) -> list[Value] | None:
        """The tensors of the file whose numbers a value is made of; None if others take part, such as the input."""
        if value not in self._origins:
            self._origins[value] = self._origins_of(value)
        return self._origins[value]

    def _origins_of(self, value: Value) -> list[Value] | None:
        found = []
        for count, each in enumerate(self.graph.walk([value], self._numbers_before)):
            node = self.graph.maker(each)
            if each in self.tensors:
                if self.tensors[each].dtype in FLOATS:
                    found.append(each)
            elif node is None or node in self._outer or not any(node.inputs) or count > OPERATORS:
                return None
        return found

    def _numbers_before(self, value: Value) -> Iterable[Value]:
        """The values whose numbers take part in this one's; an operator's shape is none of them."""
        node = None if value in self.tensors else self.graph.maker(value)
        if node is None or node.op in UNUSED:
            return ()
        shapes = SHAPED_BY.get(node.op, ()) if node.domain in MAIN else ()
        inputs = (self.graph.input_of(node, index) for index in range(len(node.inputs)) if index not in shapes)
        return [each for each in inputs if each is not None]

    def shape(self, value: Value) -> tuple[int | None, ...] | None:
        """The shape of a value, as far as the file states or implies it; None for an axis of any length."""
        if value not in self._shapes:
            self._shapes[value] = self._shape_of(value)
        return self._shapes[value]

    def _shape_of(self, value: Value) -> tuple[int | None, ...] | None:
        if value in self.tensors:
            return self.tensors[value].shape
        stated = self.graph.shape(value)
        if stated is not None:
            return stated
        given: dict[Value, Array] = {}
        for count, each in enumerate(self.graph.walk([value], self.inputs_of)):
            node = self.graph.maker(each)
            if count > OPERATORS or (node is not None and node.op not in RESULT and each not in self.tensors):
                return None
            source = None if node is None or node.op != "Shape" else self.graph.input_of(node, 0)
            dims = None if source is None else self.graph.shape(source)
            if dims is not None and node is not None:
                part = slice(
                    *(node.attributes()[end].i if end in node.attributes() else None for end in ("start", "end"))
                )
                given[each] = np.array([ANY if length is None else length for length in dims[part]], np.int64)
        try:
            return tuple(None if length == ANY else length for length in self.fold(value, given).array.shape)
        except ValueError:
            return None

    def inputs_of(self, value: Value) -> Iterable[Value]:
        """The values that one is computed from, but for those whose shape alone counts."""
        node = None if value in self.tensors else self.graph.maker(value)
        return () if node is None or node.op == "Shape" else self.graph.inputs_of(node)

    def extremes(self, value: Value) -> tuple[int, int]:
        """The least and the largest number of a tensor of integers; (0, 0) if it is empty."""
        if value not in self._extremes:
            array = self.tensors[value].read()
            self._extremes[value] = (int(array.min()), int(array.max())) if array.size else (0, 0)
        return self._extremes[value]

    def is_zero(self, value: Value | None) -> bool:
        """Whether a value is zero, even if its shape depends on the batch."""
        if value is None:
            return True
        for each in self.graph.sources_first([value], self._zero_if):
            if each not in self._zero:
                self._zero[each] = self._is_zero(each)
        return self._zero[value]

    def _zero_if(self, value: Value) -> Iterable[Value]:
        """The values that must be zero for this one to be zero."""
        node = self.graph.maker(value)
        if value in self._zero or value in self.tensors or node is None or node.domain not in MAIN:
            return ()
        if node.op == "Concat":
            return self.graph.inputs_of(node)
        first = self.graph.input_of(node, 0) if node.op in KEEPS_ZERO else None
        return () if first is None else (first,)

    def _is_zero(self, value: Value) -> bool:
        """Whether it is zero, given the answers for its sources."""
        if value in self.tensors:
            tensor = self.tensors[value]
            self._spend(tensor.nbytes, [self.budget.size + ALWAYS])
            return not tensor.read().any()
        node = self.graph.maker(value)
        if node is None or node.domain not in MAIN:
            return False
        if node.op == "ConstantOfShape":
            filled = node.attributes().get("value")
            return filled is None or not _constant(filled.t).any()
        if node.op == "Concat":
            return all(self._zero[each] for each in self.graph.inputs_of(node))
        first = self.graph.input_of(node, 0)
        return node.op in KEEPS_ZERO and (first is None or self._zero[first])


def _constant(proto: Any) -> Array:
    from onnx import numpy_helper

    if prod(proto.dims) > 1 or proto.data_type not in DTYPES or proto.data_location:
        raise ValueError("a ConstantOfShape node has more than one value")
    array: Array = numpy_helper.to_array(proto)
    return array


def _run(node: Node, arrays: list[Array | None]) -> list[Array]:
    """Run one operator by the reference implementation of its opset."""
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
    except Exception as error:  # the reference implementation raises anything
        raise ValueError(f"{node} does not fit its inputs: {type(error).__name__}: {error}") from None
    return [made.get(name, np.empty(0)) for name in outputs]
