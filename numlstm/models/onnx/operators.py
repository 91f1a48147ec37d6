"""The nodes of a chain: what each does to the axes of a value, and the layer that it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.validation.arguments import FLOAT32, FLOAT64
from numlstm.formats.budget import shown
from numlstm.lstm import LSTM
from numlstm.models.onnx.axes import Axes, regrouped
from numlstm.models.onnx.chain import Known, NotAChainError, PerFrame, Value, Walk, last_rows, words
from numlstm.models.onnx.steps import Step
from numlstm.nn.functions import log_softmax, relu, sigmoid, softmax, tanh
from numlstm.nn.layers import Embedding, LayerNorm, Linear

MOST = 1 << 30  # an end of a slice beyond all steps
AXES_OF_SOFTMAX = 13  # the opset from which Softmax works along one axis


# Each function takes the walk, the step and the first value that flows into it.


def _keep(walk: Walk, step: Step, value: Value) -> None:
    if step.node.op_type == "Dropout" and len(step.inputs) > 2 and walk.constant(step, 2):
        raise NotAChainError("it drops")
    walk.put(step, value, value.axes)


def _transpose(walk: Walk, step: Step, value: Value) -> None:
    order = step.node.perm or range(len(value.axes))[::-1]
    walk.put(step, value, tuple(value.axes[axis] for axis in order))


def _of_axes(walk: Walk, step: Step) -> list[int]:
    """The axes of a node, which is an input or, in older models, an attribute."""
    given = walk.constant(step, 1) if len(step.inputs) > 1 else getattr(step.node, "axes", None)
    if given is None:
        raise NotAChainError("it does not say which axes")
    return [int(axis) for axis in np.asarray(given).ravel()]


def _squeeze(walk: Walk, step: Step, value: Value) -> None:
    axes = {axis % len(value.axes) for axis in _of_axes(walk, step)}
    gone = "".join(value.axes[axis] for axis in axes)
    if any(letter != "D" for letter in gone):
        raise NotAChainError(f"it takes away an axis that holds {words(gone)}")
    walk.put(step, value, tuple(letter for axis, letter in enumerate(value.axes) if axis not in axes))


def _unsqueeze(walk: Walk, step: Step, value: Value) -> None:
    given = _of_axes(walk, step)
    axes = list(value.axes)
    for axis in sorted(axis % (len(axes) + len(given)) for axis in given):
        axes.insert(axis, "")
    walk.put(step, value, tuple(axes))


def _reshape(walk: Walk, step: Step, value: Value) -> None:
    sizes = walk.sizes | ({"D": len(value.rows)} if value.rows else {})
    axes = regrouped(value.axes, sizes, walk.known.values[step.outputs[0]].shape)
    if axes is None:
        raise NotAChainError("it mixes steps, rows and features")
    walk.put(step, value, axes)


def _gather(walk: Walk, step: Step, value: Value) -> None:
    axis = step.node.axis
    if step.inputs[1] in walk.named:
        table = walk.constant(step, 0)
        if axis or np.ndim(table) != 2 or table.dtype not in (FLOAT32, FLOAT64):
            raise NotAChainError("it is no lookup of vectors")
        walk.entered(value)
        layer = Embedding._from_parameters({"weight": table})
        walk.sizes["F"] = table.shape[1]
        walk.add(step, layer, (*value.axes, "F"))
        return
    index = np.asarray(walk.constant(step, 1, of_shapes=True))
    axis %= len(value.axes)
    if index.ndim:
        raise NotAChainError("it takes several indices")
    start = int(index)
    if step.inputs[1] not in walk.known.constants and value.axes[axis] == "T":  # one that is counted from the end
        start -= walk.sizes["T"]
    _select(walk, step, value, axis, start, start + 1 or None, drop=True)


def _slice(walk: Walk, step: Step, value: Value) -> None:
    if len(step.inputs) < 3:
        raise NotAChainError("its bounds are attributes")
    starts, ends, axes, steps = (walk.constant(step, at) for at in (1, 2, 3, 4))
    starts, ends = np.asarray(starts).ravel(), np.asarray(ends).ravel()
    if len(starts) != 1 or (steps is not None and np.asarray(steps).ravel()[0] != 1):
        raise NotAChainError("it takes more than a range along one axis")
    axis = 0 if axes is None else int(np.asarray(axes).ravel()[0])
    _select(walk, step, value, axis % len(value.axes), int(starts[0]), int(ends[0]), drop=False)


def _select(walk: Walk, step: Step, value: Value, axis: int, start: int, stop: int | None, drop: bool) -> None:
    """A part of an axis: of states some rows, of steps the last one."""
    letter, before, after = value.axes[axis], value.axes[:axis], value.axes[axis + 1 :]
    sizes = walk.sizes | {"D": len(value.rows) or walk.sizes.get("D", 1), "": 1}
    length = sizes[letter] if len(letter) < 2 else 0  # an axis of two letters is not cut
    taken = range(length)[start:stop]
    is_all = len(taken) == length > 0 and (
        letter not in ("B", "T") or (start == 0 and stop is not None and stop > MOST)
    )
    if is_all and not drop:
        walk.put(step, value, value.axes)
    elif letter == "D" and value.rows and len(taken):
        rows = tuple(value.rows[n] for n in taken)
        walk.named[step.outputs[0]] = value._replace(axes=(*before, *([] if drop else ["D"]), *after), rows=rows)
    elif letter == "" and len(taken) == 1:
        walk.put(step, value, before + after)
    elif letter == "T" and taken == range(length)[-1:] and (start < 0 or not walk.is_free("T")):
        walk.hide_last_step(step, value, before + after if drop else (*before, "", *after))
    else:
        raise NotAChainError("it takes a part of its input")


def _concat(walk: Walk, step: Step, value: Value) -> None:
    """States side by side: those of layers along "D", or those of two directions along the features."""
    found = [walk.named.get(name) for name in step.inputs]
    axis = step.node.axis % len(value.axes)
    if value.kind == "x" or any(each is None or (each.kind, each.axes) != value[1::-1] for each in found):
        raise NotAChainError("it joins several values")
    rows = tuple(row for each in found if each is not None for row in each.rows)
    if value.axes[axis] == "D":
        axes = value.axes
    elif value.axes[axis] == "F" and "D" not in value.axes:
        axes = (*value.axes[:axis], "DF", *value.axes[axis + 1 :])
    else:
        raise NotAChainError("it joins several values")
    walk.named[step.outputs[0]] = value._replace(axes=axes, rows=rows)


def _linear(walk: Walk, step: Step, value: Value) -> None:
    """MatMul by a matrix, and Gemm."""
    is_gemm = step.node.op_type == "Gemm"
    weight = walk.constant(step, 1)
    if step.inputs[0] not in walk.named or np.ndim(weight) != 2:
        raise NotAChainError("it is no product of frames and a matrix")
    value = walk.entered(value)
    walk.features(value, -1)
    parameters = {"weight": weight if is_gemm and step.node.transB else weight.T}
    if is_gemm:
        if (step.node.alpha, step.node.beta, step.node.transA) != (1, 1, 0):
            raise NotAChainError("it is no plain product")
        bias = walk.constant(step, 2)
        if bias is not None:
            parameters["bias"] = _bias(walk, value, bias, len(parameters["weight"]))
    walk.sizes["F"] = len(parameters["weight"])
    walk.add(step, Linear._from_parameters(parameters), (*value.axes[:-1], "F"))


def _bias(walk: Walk, value: Value, array: Any, size: int) -> Array:
    return np.broadcast_to(walk.frame_constant(value, array), (size,))


def _binary(walk: Walk, step: Step, value: Value) -> None:
    at = 0 if step.inputs[0] in walk.named else 1
    if step.inputs[1 - at] in walk.named:
        _add_input(walk, step)
        return
    value = walk.entered(value)
    constant = walk.frame_constant(value, walk.constant(step, 1 - at))
    name: str = next(reversed(walk.layers), "")
    layer: Any = walk.layers.get(name)
    is_bare = isinstance(layer, Linear) and layer.bias is None and walk.known.readers[step.inputs[at]] == 1
    if step.node.op_type == "Add" and is_bare and value.axes[-1] == "F":
        bias = np.broadcast_to(constant, (layer.out_features,))
        walk.layers[name] = Linear._from_parameters({"weight": layer.weight, "bias": bias})
        walk.after(step, value.axes)
        return
    if constant.ndim and constant.size != walk.known.values[step.outputs[0]].shape[-1]:
        raise NotAChainError("it makes more features than it takes")
    walk.add(step, PerFrame(step, at, [constant]), value.axes)


def _add_input(walk: Walk, step: Step) -> None:
    """What a model of an amplifier ends in: its input is added to its output."""
    first, second = (walk.named[name] for name in step.inputs)
    if step.node.op_type != "Add" or walk.data not in step.inputs or first.axes != second.axes or first is second:
        raise NotAChainError("it takes two values that depend on the input")
    value = walk.entered(second if step.inputs[0] == walk.data else first)
    shapes = {walk.known.values[name].shape for name in (*step.inputs, step.outputs[0])}
    if len(shapes) > 1 or value.axes[-1] != "F":
        raise NotAChainError("it adds the input, which has another shape")
    walk.skip = True
    walk.after(step, value.axes)


def _activation(layer: Any, has_axis: bool) -> Callable[[Walk, Step, Value], None]:
    def take(walk: Walk, step: Step, value: Value) -> None:
        value = walk.entered(value)
        if has_axis:
            axis = step.node.axis
            walk.features(value, axis)
            if walk.opset(step) < AXES_OF_SOFTMAX and axis % len(value.axes) != len(value.axes) - 1:
                raise NotAChainError("it works along several axes")
        walk.add(step, layer, value.axes)

    return take


def _cast(walk: Walk, step: Step, value: Value) -> None:
    before, after = (walk.known.values[name].dtype for name in (step.inputs[0], step.outputs[0]))
    are_indices = before.kind in "iu" and after.kind in "iu"
    (_keep if before == after or are_indices else _per_frame)(walk, step, value)


def _per_frame(walk: Walk, step: Step, value: Value) -> None:
    """A function of each number, whose other inputs are numbers."""
    value = walk.entered(value)
    others = [walk.constant(step, at) for at in range(1, len(step.inputs))]
    if step.node.op_type == "PRelu":
        others = [walk.frame_constant(value, others[0])]
    walk.add(step, PerFrame(step, 0, others), value.axes)


def _layer_norm(walk: Walk, step: Step, value: Value) -> None:
    value = walk.entered(value)
    walk.features(value, step.node.axis)
    if step.node.axis % len(value.axes) != len(value.axes) - 1 or len(step.outputs) > 1:
        raise NotAChainError("it normalises more than the features")
    parameters = {"weight": walk.constant(step, 1)}
    if (bias := walk.constant(step, 2)) is not None:
        parameters["bias"] = bias
    size = walk.known.values[step.outputs[0]].shape[-1]
    if any(np.shape(array) != (size,) for array in parameters.values()):
        raise NotAChainError("its weights are not those of the features")
    walk.add(step, LayerNorm._from_parameters(parameters, eps=float(step.node.epsilon)), value.axes)


def _lstm(walk: Walk, step: Step, value: Value) -> None:
    """An LSTM node: what flows is "x", and its states are "h" and "c"."""
    node = step.node
    if node.lstm is None or step.inputs[0] not in walk.named:
        raise NotAChainError("its weights are not constant" if node.lstm is None else "its input is constant")
    value = walk.entered(value)
    steps, batch, features = (1, 0, 2) if node.layout else (0, 1, 2)
    axes = value.axes
    if axes[steps] != "T" or axes[batch] not in ("B", "") or ("B" in walk.sizes) != (axes[batch] == "B"):
        raise NotAChainError("its input is not of steps, rows and features")
    walk.features(value, features)
    lengths = walk.constant(step, 4, of_shapes=True)
    is_stated = lengths is not None and step.inputs[4] in walk.known.constants and walk.is_free("T")
    if is_stated or (lengths is not None and (np.asarray(lengths) != walk.sizes["T"]).any()):
        raise NotAChainError("its sequences have several lengths")
    lstm = copy.copy(node.lstm)  # on the same packed weights
    lstm.batch_first = walk.batch_first
    name = step.name if step.name not in walk.layers else step.outputs[0]
    _begin(walk, step, name, lstm)
    directions = lstm._config.num_directions
    walk.sizes |= {"F": lstm._config.output_size, "D": directions}
    both = "D" if directions > 1 else ""
    rows = axes[batch]
    walk.add(step, lstm, ("T", both, rows, "F") if not node.layout else (rows, "T", both, "F"))
    for kind, output in zip(("h", "c"), step.outputs[1:3], strict=False):
        states = (rows, "D", "F") if node.layout else ("D", rows, "F")
        walk.named[output] = Value(states, kind, rows=last_rows(name, lstm))


def _begin(walk: Walk, step: Step, name: str, lstm: LSTM) -> None:
    """The states that an LSTM begins with: zeros, constants that are the same for all rows, or inputs of the graph."""
    named = [step.inputs[at] if at < len(step.inputs) else "" for at in (5, 6)]
    found = [walk.named.get(each) for each in named]
    if any(each is not None for each in found):
        rows = [each.rows if each is not None and each.kind == "given" else () for each in found]
        if any(len(own) != lstm._config.num_directions or step.node.layout for own in rows):
            raise NotAChainError("it begins with states that the graph computes")
        walk.given[name] = tuple(rows)
        return
    arrays = [walk.known.values[each] for each in named]
    if all(array is None or not np.any(array) for array in arrays):
        return
    axis = 0 if step.node.layout else 1
    states = []
    for array in arrays:
        if array is None:
            array = np.zeros_like(next(each for each in arrays if each is not None))
        if (array != array.take([0], axis)).any():
            raise NotAChainError("its rows begin with several states")
        states.append(np.ascontiguousarray(array.take(0, axis)))
    walk.initial[name] = states[0], states[1]


OPERATORS: dict[str, Callable[[Walk, Step, Value], None]] = {
    **dict.fromkeys(("Dropout", "Identity"), _keep),
    **dict.fromkeys(("Add", "Div", "Mul", "Pow", "Sub"), _binary),
    **dict.fromkeys(("Flatten", "Reshape"), _reshape),
    **dict.fromkeys(("Gemm", "MatMul"), _linear),
    **dict.fromkeys(("Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"), _per_frame),
    **dict.fromkeys(("LeakyRelu", "Log", "Mish", "Neg", "PRelu", "Reciprocal", "Selu", "Softplus"), _per_frame),
    **dict.fromkeys(("Softsign", "Sqrt", "Swish", "ThresholdedRelu"), _per_frame),
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _activation(log_softmax, has_axis=True),
    "Relu": _activation(relu, has_axis=False),
    "Sigmoid": _activation(sigmoid, has_axis=False),
    "Slice": _slice,
    "Softmax": _activation(softmax, has_axis=True),
    "Squeeze": _squeeze,
    "Tanh": _activation(tanh, has_axis=False),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _take(walk: Walk, step: Step) -> None:
    """Go on through a node; NotAChainError if it does not belong to a chain."""
    moving = [name for name in step.inputs if name in walk.named]
    if not moving or not is_known(step):
        raise NotAChainError(UNKNOWN)
    OPERATORS[step.node.op_type](walk, step, walk.named[moving[0]])


def is_known(step: Step) -> bool:
    """Whether a node may belong to a chain."""
    return step.node.op_type in OPERATORS and not step.node.onnx_node.domain


UNKNOWN = "it is no layer of a chain"


def walked(axes: Axes, data: str, states: Sequence[str], known: Known, steps: Sequence[Step]) -> Walk:
    """The walk through all nodes, if these are the axes of the input; NotAChainError says which one is in the way.

    ``data`` is the name of the input, ``states`` those of inputs that LSTMs begin with, and ``steps`` the nodes that
    depend on the numbers of inputs.
    """
    axes = tuple(
        "" if letter == "B" and size == 1 and at not in known.free else letter
        for at, (letter, size) in enumerate(zip(axes, known.values[data].shape, strict=True))
    )
    walk = Walk(axes, data, known)
    for name in states:
        array = known.values[name]
        if array.ndim != 3:
            raise NotAChainError(f"input {shown(name)!r} is no state of layers, rows and features")
        rows = tuple((name, row) for row in range(len(array)))
        walk.named[name] = Value(("D", "B" if "B" in axes else "", "F"), "given", rows=rows)
    for at, step in enumerate(steps):
        try:
            _take(walk, step)
        except NotAChainError as error:
            raise NotAChainError(f"node {shown(step.name)!r} ({step.node.op_type}): {error}", at) from None
    return walk
