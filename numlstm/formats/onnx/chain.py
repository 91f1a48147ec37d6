"""Layers of an ONNX graph that form one LSTM, and whether the batch comes first.

An LSTM node is one layer. Exporters write a stack as a chain of nodes, with Transpose, Reshape or Squeeze between. They
are not matched against patterns, but run on a probe of distinct numbers, and must move each to its place in
`torch.nn.LSTM`. Only operators that move numbers are run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.cell_options import CellOptions
from numlstm.base.typing import Array
from numlstm.formats.onnx.fold import Constants
from numlstm.formats.onnx.graph import Graph, Node, Value
from numlstm.formats.tensor import Tensor

MOVES = frozenset(
    (
        *("Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("Transpose", "Slice", "Split", "Concat", "Gather", "GatherND", "ReverseSequence"),
    )
)  # they move numbers and leave them as they are
SHAPES = frozenset(("Shape", "Cast", "Add", "Sub", "Mul", "Div", "Range", "Expand", "Tile"))  # they compute shapes
PASSED = MOVES | {"Cast"}  # what may lie between a layer and a node that reverses time
STEPS, BATCH = 7, 11  # of the probe, if the file states no sizes; unlikely in any shape
BETWEEN = 64  # operators between two layers
ABOVE = 8  # operators between a node that turns time around and where its lengths begin
BEHIND = 16  # operators after the last layer
WIDE = 64  # inputs of one of them
PROBE = 1 << 21  # numbers in a probe
SIZES = 6  # pairs of steps and batch that are tried


@dataclass(eq=False)
class Layer:
    """One LSTM node.

    Attributes
    ----------
    node : Node
    input_size, hidden_size : int
    direction : str
    batch_first : bool
        Its layout is 1.
    options : CellOptions
    weight_ih, weight_hh, bias, peepholes : Tensor
        W, R, B and P; the last two may be None.
    key : object
        Equal for two layers with the same parameters and flags.
    lengths : Value or None
        Its sequence_lens; None if every row has the full length.
    prefix : str or None
        Common prefix of the names of the tensors that its parameters are made of; "" if they differ, None if these are
        not named like parameters.
    """

    node: Node
    input_size: int
    hidden_size: int
    direction: str
    batch_first: bool
    options: CellOptions
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    peepholes: Tensor | None
    key: Any
    lengths: Value | None
    prefix: str | None

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.direction == "bidirectional" else 1

    def fits_on(self, below: Layer) -> bool:
        """Whether this could be the layer above that one in a stack."""
        alike = ("hidden_size", "direction", "batch_first", "lengths", "options")
        return (
            self.input_size == below.directions * below.hidden_size
            and all(getattr(self, name) == getattr(below, name) for name in alike)
            and (self.bias is None) == (below.bias is None)
            and self.weight_hh.dtype == below.weight_hh.dtype
        )


def chains(layers: list[Layer], graph: Graph, constants: Constants) -> list[list[Layer]]:
    """Group layers into stacks, in the order of the graph."""
    by_output = {graph.output_of(layer.node, 0): layer for layer in layers}
    after = graph.depend_on(layer.node for layer in layers)
    above: dict[Layer, Layer] = {}
    for layer in layers:
        found = _source(layer, by_output, graph)
        if found is None:
            continue
        below, between = found
        if (
            below not in above
            and below is not layer
            and layer.fits_on(below)
            and _used_only_in(Value(below.node.scope, below.node.outputs[0]), layer.node, between, graph)
            and _stacks(below, layer, between, graph, constants)
            and not _starts_from(layer, graph, after)
        ):
            above[below] = layer
    joined = set(above.values())
    stacks = []
    for layer in layers:
        if layer not in joined:
            stack = [layer]
            while stack[-1] in above:
                stack.append(above[stack[-1]])
            stacks.append(stack)
    return stacks


def _source(layer: Layer, by_output: dict[Value | None, Layer], graph: Graph) -> tuple[Layer, Collection[Node]] | None:
    """The one layer whose output becomes this one's input by moves alone, and the nodes that move it."""
    end = graph.input_of(layer.node, 0)
    found = None if end is None else _between(end, by_output.keys(), graph)
    if found is None or len(found[0]) != 1:
        return None
    return by_output[found[0].pop()], found[1]


def _between(end: Value, starts: Collection[Value | None], graph: Graph) -> tuple[set[Value], Collection[Node]] | None:
    """Which of these values are moved to `end`, and the nodes that do; None if other nodes take part."""
    reached: set[Value] = set()
    nodes: dict[Node, None] = {}

    def sources(value: Value) -> Iterable[Value]:
        node = None if value in starts else graph.maker(value)
        return () if node is None or node.op == "Constant" else graph.inputs_of(node)

    for value in graph.walk([end], sources):
        if value in starts:
            reached.add(value)
            continue
        node = graph.maker(value)
        if node is None or node.op == "Constant":
            if node is None and value.name not in value.scope.initializers:
                return None
            continue
        if node.op not in MOVES | SHAPES or node.domain or len(nodes) > BETWEEN or len(node.inputs) > WIDE:
            return None
        nodes[node] = None
    return reached, nodes


def _used_only_in(start: Value, end: Value | Node, between: Collection[Node], graph: Graph) -> bool:
    """Whether a layer's output is used at the end alone, a value or a node's input, through these nodes."""

    def moved(value: Value) -> Iterator[Value]:
        for use in () if value == end else graph.readers(value):
            if use.node in between and use.node is not None:
                yield from graph.outputs_of(use.node)

    for value in graph.walk([start], moved):
        for use in () if value == end else graph.readers(value):
            if use.node is end and use.place == 0:
                continue
            if use.node not in between or use.node is None or use.node.op not in MOVES:
                return False
    return True


def _starts_from(layer: Layer, graph: Graph, after: set[Node]) -> bool:
    """Whether a layer's initial state depends on another layer, so that one call cannot be given it."""
    states = (graph.input_of(layer.node, index) for index in (5, 6))
    return any(state is not None and graph.maker(state) in after for state in states)


def _probes(layer: Layer, nodes: Collection[Node], graph: Graph, constants: Constants) -> Iterator[tuple[Array, Array]]:
    """(output of an LSTM node, output of `torch.nn.LSTM`) in distinct numbers.

    The second has the layout of the file's batch_first. Steps and batch are those of a Reshape in `nodes`, if it states
    them.
    """
    sizes = [(STEPS, BATCH)]
    for node in nodes:
        target = graph.input_of(node, 1) if node.op == "Reshape" else None
        if target is not None and target in constants.tensors and constants.tensors[target].shape == (3,):
            first, second, _ = (int(length) for length in constants.tensors[target].read())
            sizes.append((first if first > 0 else STEPS, second if second > 0 else BATCH))
            sizes.append((second if second > 0 else STEPS, first if first > 0 else BATCH))
        sizes += [(count, BATCH) for count in _picked(node, graph, constants)]
    width = layer.directions * layer.hidden_size
    for steps, batch in list(dict.fromkeys(sizes))[:SIZES]:
        count = steps * batch * width
        if count > PROBE:
            continue
        numbers = np.arange(count, dtype=np.int32)
        if layer.batch_first:
            yield numbers.reshape(batch, steps, layer.directions, layer.hidden_size), numbers.reshape(batch, steps, -1)
        else:
            output = numbers.reshape(steps, layer.directions, batch, layer.hidden_size)
            yield output, output.transpose(0, 2, 1, 3).reshape(steps, batch, width)


def _stacks(below: Layer, layer: Layer, between: Collection[Node], graph: Graph, constants: Constants) -> bool:
    """Whether the nodes between two layers pass the output on as in a stack."""
    start, end = graph.output_of(below.node, 0), graph.input_of(layer.node, 0)
    assert start is not None and end is not None, "one was found from the other"
    return any(_gives(start, end, *probe, constants) for probe in _probes(below, between, graph, constants))


def _gives(start: Value, end: Value, probe: Array, wanted: Array, constants: Constants) -> bool:
    try:
        got = constants.fold(end, {start: probe}).array
    except ValueError:
        return False
    return bool(got.shape == wanted.shape and (got == wanted).all())


def batch_first(stack: list[Layer], graph: Graph, constants: Constants, time: Turned) -> tuple[bool, str]:
    """Whether the batch comes first before and after the LSTM, and a sentence if only before."""
    if stack[0].batch_first:
        return True, ""
    value = graph.input_of(stack[0].node, 0)
    node = None if value is None else graph.maker(value)
    came_first = time.came_first or (node is not None and node.op == "Transpose" and _swaps(node))
    output = graph.output_of(stack[-1].node, 0)
    if output is None or not any(graph.readers(output)):
        return came_first, ""
    goes_first = time.goes_first if time.is_after else _leaves_batch_first(stack[-1], output, graph, constants)
    if came_first and not goes_first:
        return False, "the model has the batch first in its input, but not in its output; batch_first is False"
    return came_first and goes_first, ""


def _swaps(node: Node) -> bool:
    attribute = node.attributes().get("perm")
    return attribute is not None and list(attribute.ints) == [1, 0, 2]


def _leaves_batch_first(last: Layer, output: Value, graph: Graph, constants: Constants) -> bool:
    """Whether the output of the last layer is moved so that the batch comes first, before any other use."""
    nodes = dict.fromkeys(islice(_moved(output, graph), BEHIND))
    for probe, wanted in _probes(last, nodes, graph, constants):
        for node in nodes:
            end = graph.output_of(node, 0)
            if end is not None and _gives(output, end, probe, wanted.swapaxes(0, 1), constants):
                found = _between(end, {output}, graph)
                return found is not None and _used_only_in(output, end, found[1], graph)
    return False


def _moved(output: Value, graph: Graph) -> Iterator[Node]:
    """The nodes that only move a layer's output, the nearest first."""

    def movers(value: Value) -> Iterator[Node]:
        uses = (use.node for use in graph.readers(value))
        return (node for node in uses if node is not None and node.op in MOVES and not node.domain)

    def onward(node: Node) -> Iterator[Node]:
        moved = graph.output_of(node, 0)
        return iter(()) if moved is None else movers(moved)

    return graph.walk(movers(output), onward)


class Turned(NamedTuple):
    """What a graph does to the order of time around an LSTM.

    Attributes
    ----------
    before, after : Node or None
        The node that reverses an axis on the way to the first layer, and behind the last one.
    is_before : bool or None
        Whether the first turns time around, and nothing else; None if this cannot be told.
    is_after : bool
        Whether the second does, in all that reads the output.
    came_first, goes_first : bool
        Whether the batch comes first before the one, if it turns time around, and after the other.
    """

    before: Node | None = None
    after: Node | None = None
    is_before: bool | None = False
    is_after: bool = False
    came_first: bool = False
    goes_first: bool = False


def turned(stack: list[Layer], graph: Graph, constants: Constants) -> Turned:
    """How the graph turns time around a stack. As between layers, nodes are run on distinct numbers."""
    first, last = stack[0], stack[-1]
    end, output = graph.input_of(first.node, 0), graph.output_of(last.node, 0)

    def passes(node: Node | None) -> bool:
        return node is not None and not node.domain and node.op in PASSED

    def before(value: Value) -> Iterable[Value]:
        node = graph.maker(value)
        # more than are looked at would be resolved for nothing, of a node with thousands of inputs for each LSTM
        return islice(graph.inputs_of(node), BETWEEN) if node is not None and passes(node) else ()

    def after(value: Value) -> Iterator[Value]:
        for use in graph.readers(value):
            if use.node is not None and passes(use.node):
                yield from graph.outputs_of(use.node)

    found = []
    for start, onward in ((end, before), (output, after)):
        values = () if start is None else islice(graph.walk([start], onward), BETWEEN)
        makers = (graph.maker(value) for value in values)
        found.append(next((node for node in makers if node is not None and _reverses(node, graph, constants)), None))
    known = Turned(found[0], found[1])
    if known.before is not None and end is not None:
        is_before, came_first = _turns_input(known.before, end, first, graph, constants)
        known = known._replace(is_before=is_before, came_first=came_first)
    if known.after is not None and output is not None:
        is_after, goes_first = _turns_output(output, last, graph, constants)
        known = known._replace(is_after=is_after, goes_first=goes_first)
    return known


def _turns_input(node: Node, end: Value, first: Layer, graph: Graph, constants: Constants) -> tuple[bool | None, bool]:
    """`Turned.is_before` and `came_first`. The probe is put before the node, or above, where its lengths come from."""
    is_known = None
    start = graph.input_of(node, 0)
    for _ in range(ABOVE):
        if start is None:
            break
        above = graph.maker(start)
        for probe in _probes_before(node, start, first, graph, constants):
            try:
                got = constants.fold(end, {start: probe}).array
            except ValueError:
                continue
            is_known = False
            back = np.flip(got, int(first.batch_first))
            if np.array_equal(back, probe):
                return True, first.batch_first or (above is not None and above.op == "Transpose" and _swaps(above))
            if np.array_equal(back, probe.swapaxes(0, 1)):
                return True, not first.batch_first
        start = graph.input_of(above, 0) if above is not None and above.op in PASSED else None
    return is_known, False


def _probes_before(node: Node, start: Value, first: Layer, graph: Graph, constants: Constants) -> Iterator[Array]:
    """Distinct numbers of three axes, with the sizes that the graph states, and the steps that a Gather picks."""
    stated = constants.shape(start) or (None,) * 3
    steps = next(iter(_picked(node, graph, constants)), STEPS)
    for sizes in ((steps, BATCH), (BATCH, steps)):
        if len(stated) == 3:
            shape = tuple(own or other for own, other in zip(stated, (*sizes, first.input_size), strict=True))
            if prod(shape) <= PROBE:
                yield np.arange(prod(shape), dtype=np.int32).reshape(shape)


def _picked(node: Node, graph: Graph, constants: Constants) -> list[int]:
    """How many steps a Gather picks, in a list; an empty one for other nodes and indices that vary."""
    indices = graph.input_of(node, 1) if node.op in ("Gather", "GatherND") else None
    return [prod(constants.tensors[indices].shape)] if indices is not None and indices in constants.tensors else []


def _turns_output(output: Value, last: Layer, graph: Graph, constants: Constants) -> tuple[bool, bool]:
    """`Turned.is_after` and `goes_first`."""
    nodes = dict.fromkeys(islice(_moved(output, graph), BEHIND))
    for probe, wanted in _probes(last, nodes, graph, constants):
        back = np.flip(wanted, int(last.batch_first))
        for each, goes_first in ((back.swapaxes(0, 1), not last.batch_first), (back, last.batch_first)):
            for node in nodes:
                end = graph.output_of(node, 0)
                if end is not None and _gives(output, end, probe, each, constants):
                    between = _between(end, {output}, graph)
                    return between is not None and _used_only_in(output, end, between[1], graph), goes_first
    return False, False


def _reverses(node: Node, graph: Graph, constants: Constants) -> bool:
    """Whether a node reverses an axis: by a negative step, by falling indices, or by name."""
    if node.op == "ReverseSequence":
        return True
    by = graph.input_of(node, {"Slice": 4, "Gather": 1, "GatherND": 1}.get(node.op, len(node.inputs)))
    if by is None:
        return False
    try:
        numbers = constants.fold(by).array
    except ValueError:  # indices may count down from the number of steps
        data = graph.input_of(node, 0)
        makers = (graph.maker(each) for each in islice(graph.walk([by], constants.inputs_of), BETWEEN))
        return (
            node.op != "Slice" and data not in constants.tensors and any(each and each.op == "Range" for each in makers)
        )
    return bool(
        numbers.size
        and ((numbers < 0).any() if node.op == "Slice" else numbers.size > 1 and (np.diff(numbers.ravel()) < 0).all())
    )
