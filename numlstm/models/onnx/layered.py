"""A graph that is a chain of layers, run as a `numlstm.nn.Sequential`.

So it has the kernels for heads, a stream, and an export to C. Inputs of the graph are turned to the axes of the layers,
and their outputs back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats.budget import shown
from numlstm.models.onnx.axes import ROLES, Axes, giving, taking
from numlstm.models.onnx.chain import Known, NotAChainError, Rows, Value, Walk
from numlstm.models.onnx.operators import UNKNOWN, is_known, walked
from numlstm.models.onnx.steps import Step
from numlstm.nn.functions import contiguous, last_state
from numlstm.nn.sequential import Sequential
from numlstm.nn.stages import OUTPUT, STATE, initial

SIZES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)  # of axes that may have any
SMALL = 64  # numbers of a constant that may be a shape
Types = Mapping[str, tuple[np.dtype[Any], Any]]  # dtype and dims of the inputs, with None for any size


class Layered:
    """A graph as a chain of layers.

    Parameters
    ----------
    steps : sequence of Step
        All nodes that run at a call.
    constants : dict
        What does not depend on the call, by name.
    types : dict of str to (dtype, dims)
        Of the inputs.
    names : dict of str to sequence of str
        Of the axes of the inputs: those of one name have one size.
    outputs : sequence of str

    Attributes
    ----------
    model : Sequential
        The layers, by the names of their nodes.

    Raises
    ------
    NotAChainError
        The graph is none. The message names the node in the way.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        constants: Mapping[str, Any],
        types: Types,
        names: Mapping[str, Sequence[str]],
        outputs: Sequence[str],
    ) -> None:
        flow = [step for step in steps if not step.is_shape]
        for at, step in enumerate(flow):
            if not is_known(step):
                raise NotAChainError(f"node {shown(step.name)!r} ({step.node.op_type}): {UNKNOWN}", at)
        self.data, states = _inputs(flow, types)
        known = _known(steps, flow, constants, types, names, outputs, self.data)
        walk = _walk(known, self.data, states, flow)
        _end(walk, outputs)
        self.model = Sequential(walk.layers, skip=float(walk.skip)).eval()
        self.model.initial_states.update(walk.initial)
        self.dtype = self.model.dtype
        floats = [known.values[name] for name in (self.data, *states, *outputs)]
        if any(array.dtype.kind == "f" and array.dtype != self.dtype for array in floats):
            raise NotAChainError(f"its numbers are not all {self.dtype}")
        order = "T" if "B" not in walk.axes else "BT" if walk.batch_first else "TB"
        self._take = taking(walk.axes, order + "F" * ("F" in walk.axes))
        self._adds_axis, self._has_rows = walk.adds_axis, "B" in walk.axes
        self._given = {name: (_pieces(h), _pieces(c)) for name, (h, c) in walk.given.items()}
        self._outputs = [_Output(walk, walk.named[name], order) for name in outputs]
        self._is_simple = not self._given and all(output.kind == "x" for output in self._outputs)
        self.gives_steps = any(output.kind == "x" for output in self._outputs)

    def __call__(self, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of the graph for its inputs."""
        x = given[self.data]
        if self._take is not None:
            x = self._take(x)
        if self._adds_axis:
            x = x[..., None]
        if self._is_simple:
            y = self.model(x)
            return [output.give(y) if output.give is not None else y for output in self._outputs]
        y, states = self._run(x, given)
        return [output(y, states) for output in self._outputs]

    def _run(self, x: Array, given: Mapping[str, Array]) -> tuple[Any, dict[str, Any]]:
        """The last layer's output, and the last states of the LSTMs."""
        model = self.model
        added = contiguous(x, self.dtype) if model.skip else None
        states: dict[str, Any] = {}
        value: Any = x
        for stage in model._stages:
            if stage.kind not in (OUTPUT, STATE):
                value = stage.run(value, added)
                continue
            rows = self._given.get(stage.name)
            if rows is not None:
                hx: Any = tuple(_gathered(pieces, given) for pieces in rows)
                if not self._has_rows:
                    hx = hx[0][:, 0], hx[1][:, 0]
            else:
                hx = initial(stage.layer, value, model.initial_states.get(stage.name))
            result = stage.layer(value, hx)
            states[stage.name] = result[1]
            value = result[0] if stage.kind == OUTPUT else last_state(result)
        return value, states


class _Output:
    """How an output of the graph is made of that of the layers, or of their states."""

    def __init__(self, walk: Walk, value: Value, order: str) -> None:
        self.kind = value.kind
        self._pieces = _pieces(value.rows)
        if value.kind == "x":
            if value.version != walk.version:
                raise NotAChainError("it gives what is within the chain")
            canonical = (order.replace("T", "") if last_state in walk.layers.values() else order) + "F"
        elif value.kind in "hc":
            self._is_alone = len(value.rows) == 1 and "D" not in "".join(value.axes)
            canonical = "D" * (not self._is_alone) + "B" * ("B" in order) + "F"
        else:
            raise NotAChainError("it gives a state that it is given")
        try:
            self.give = giving(canonical, value.axes, walk.sizes.get("D", 1))
        except ValueError as error:
            raise NotAChainError(str(error)) from None

    def __call__(self, y: Any, states: Mapping[str, Any]) -> Array:
        """The output."""
        if self.kind != "x":
            at = "hc".index(self.kind)
            parts = [states[name][at][first:end] for name, first, end in self._pieces]
            y = parts[0][0] if self._is_alone else parts[0] if len(parts) == 1 else np.concatenate(parts)
        array: Array = y if self.give is None else self.give(y)
        return array


def _pieces(rows: Rows) -> list[tuple[str, int, int]]:
    """Rows of arrays as ranges: name, first, and end."""
    pieces: list[tuple[str, int, int]] = []
    for name, row in rows:
        if pieces and pieces[-1][0] == name and pieces[-1][2] == row:
            pieces[-1] = (name, pieces[-1][1], row + 1)
        else:
            pieces.append((name, row, row + 1))
    return pieces


def _gathered(pieces: Sequence[tuple[str, int, int]], arrays: Mapping[str, Array]) -> Array:
    parts = [arrays[name][first:end] for name, first, end in pieces]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _inputs(flow: Sequence[Step], types: Types) -> tuple[str, list[str]]:
    """The input that holds steps, and those that LSTMs begin with."""
    source = {step.outputs[0]: step.inputs[0] for step in flow if step.node.op_type in ("Identity", "Slice")}
    states = []
    for step in flow:
        for name in step.inputs[5:7] if step.node.op_type == "LSTM" else ():
            while name in source:
                name = source[name]
            if name in types and name not in states:
                states.append(name)
    data = [name for name in types if name not in states]
    if len(data) != 1 or types[data[0]][1] is None:
        said = ", ".join(repr(shown(name)) for name in data)
        raise NotAChainError(f"its inputs {said} are not one, of a known number of axes")
    return data[0], states


def input_axes(
    steps: Sequence[Step], constants: Mapping[str, Any], types: Types, names: Mapping[str, Sequence[str]]
) -> Axes | None:
    """What the axes of the one input hold, as far as the way to the first LSTM says it."""
    flow = [step for step in steps if not step.is_shape]
    first = next((at for at, step in enumerate(flow) if step.node.op_type == "LSTM"), None)
    if first is None:
        return None
    try:
        data, states = _inputs(flow, types)
        known = _known(steps, flow, constants, types, names, (), data)
        return _walk(known, data, states, flow[: first + 1]).axes
    except NotAChainError:
        return None


def _known(
    steps: Sequence[Step],
    flow: Sequence[Step],
    constants: Mapping[str, Any],
    types: Types,
    names: Mapping[str, Sequence[str]],
    outputs: Sequence[str],
    data: str,
) -> Known:
    """The values of a call whose axes of any size have sizes that occur nowhere else."""
    arrays = [array for array in constants.values() if isinstance(array, np.ndarray)]
    taken = {size for array in arrays for size in array.shape}
    taken |= {int(n) for array in arrays if array.dtype.kind in "iu" and array.size <= SMALL for n in array.ravel()}
    left = iter([size for size in SIZES if size not in taken])
    of_names: dict[str, int] = {}
    values: dict[str, Any] = dict(constants)
    try:
        for name, (dtype, dims) in types.items():
            shape = [
                size if size is not None else of_names.setdefault(own or f"{name} {at}", next(left))
                for at, (size, own) in enumerate(zip(dims, names[name], strict=True))
            ]
            if name == data and len(dims) == 3 and dims[2] is None:  # of features
                shape[2] = next(step.node.lstm.input_size for step in flow if step.node.op_type == "LSTM")
            values[name] = np.zeros(shape, dtype)
        with np.errstate(all="ignore"):
            for step in steps:
                values.update(zip(step.outputs, step(values), strict=False))
    except (StopIteration, ValueError, IndexError, TypeError, RuntimeError, AttributeError) as error:
        raise NotAChainError(f"a call of it with made-up sizes fails: {error}") from error
    readers = Counter([*outputs, *(name for step in flow for name in step.inputs)])
    free = frozenset(at for at, size in enumerate(types[data][1]) if size is None)
    return Known(values, frozenset(constants), readers, free)


def _walk(known: Known, data: str, states: Sequence[str], flow: Sequence[Step]) -> Walk:
    """The walk with the meaning of the input's axes that lets it reach the end."""
    rank = known.values[data].ndim
    furthest = NotAChainError(f"its input has {rank} axes, and no chain takes as many", -1)
    for axes in ROLES.get(rank, ()):
        try:
            return walked(axes, data, states, known, flow)
        except NotAChainError as error:
            furthest = max(furthest, error, key=lambda each: each.at)
    raise furthest


def _end(walk: Walk, outputs: Sequence[str]) -> None:
    """Check that outputs come from the chain; a single one that is a state becomes that of the last LSTM."""
    if any(name not in walk.named for name in outputs):
        raise NotAChainError("it has an output that does not depend on its input")
    if len(outputs) == 1 and walk.named[outputs[0]].kind == "h":
        before = dict(walk.layers)
        try:
            walk.named[outputs[0]] = walk.entered(walk.named[outputs[0]])
        except NotAChainError:
            walk.layers = before
    if not walk.layers:
        raise NotAChainError("it has no layers")
