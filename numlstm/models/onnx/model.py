"""An ONNX model that is called with arrays.

What depends on constants alone is computed when the model is loaded, and what depends on the shapes of the inputs alone
once for these shapes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arrays import real_array
from numlstm.base.wording import counted
from numlstm.formats import Contents
from numlstm.formats.budget import shown
from numlstm.lstm import LSTM
from numlstm.models.batches import RunsFrames
from numlstm.models.onnx.chain import NotAChainError
from numlstm.models.onnx.layered import Layered, input_axes
from numlstm.models.onnx.listing import summary_of, words
from numlstm.models.onnx.operator import lstm_operator
from numlstm.models.onnx.quantised import dequantise
from numlstm.models.onnx.steps import Step, told
from numlstm.nn.sequential import Sequential
from numlstm.nn.summary import Summary

Dims = list[int | None] | None  # None for no shape, and for an axis of any length

FAULTS = (ValueError, IndexError, TypeError, RuntimeError, NotImplementedError, AttributeError)  # of a node
HINT = "Call it with whole sequences, or stream the LSTM alone: numlstm.load(path).stream()."
KEPT = 8  # shapes of inputs whose values are kept
DRAWS = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
OF_DATA = frozenset(("Compress", "If", "Loop", "NonZero", "NonMaxSuppression", "Scan", "StringSplit", "Unique"))
# inputs that decide the shape of an output, by operator
SHAPING = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}


def build(contents: Contents) -> OnnxModel:
    """The model of an ONNX file."""
    proto, path = contents.model
    whole = type(proto)()
    whole.CopyFrom(_whole(proto, path))
    _name_outputs(whole.graph.node)
    dequantise(whole.graph)
    for function in whole.functions:
        _name_outputs(function.node)
    return OnnxModel(whole)


def _name_outputs(nodes: Any) -> None:
    """Give names to outputs without one: the evaluator takes such an output for the inputs that are left out."""
    for number, node in enumerate(nodes):
        for index, name in enumerate(node.output):
            if not name:
                node.output[index] = f"numlstm: unused output {index} of node {number}"
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _name_outputs(graph.node)


def _whole(proto: Any, path: Any) -> Any:
    """The model with the data of its external tensors, which stay as they are if there are none."""
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

    if any(uses_external_data(each) for each in proto.graph.initializer):
        if path is None:
            raise ValueError("its tensors are in other files: load it by its path")
        whole = type(proto)()
        whole.CopyFrom(proto)
        load_external_data_for_model(whole, os.path.dirname(os.path.abspath(os.fspath(path))))
        return whole
    return proto


class Input(NamedTuple):
    """An input of a graph."""

    name: str
    shape: tuple[int | None, ...] | None


class OnnxModel(RunsFrames):
    """An ONNX model: call it with arrays, in the order of the graph's inputs.

    Attributes
    ----------
    input_names, output_names : list of str
    """

    def __init__(self, proto: Any) -> None:
        from onnx.reference import ReferenceEvaluator

        try:
            session = ReferenceEvaluator(proto, new_ops=[lstm_operator()])
        except (RuntimeError, NotImplementedError, TypeError, ValueError, KeyError) as error:
            raise ValueError(f"its graph cannot be run: {error}") from error
        self._proto = proto
        self.output_names = list(session.output_names)
        constants: dict[str, Any] = {"": None, **session.rt_inits_}
        held = [each for each in proto.graph.input if each.name not in constants]
        self.input_names = [each.name for each in held]
        self._types = {each.name: _type(each.type.tensor_type) for each in held}
        self._steps = self._folded(session.rt_nodes_, constants)
        self._constants = constants
        self._is_static = self._mark_shapes()
        self._last_steps = [step for step in self._steps if not step.is_shape]
        self._of_shapes: dict[tuple[Shape, ...], dict[str, Any]] = {}  # constants and such values, by inputs' shapes
        for step in self._steps:  # what an LSTM cannot do is said now
            if step.node.op_type == "LSTM" and all(name in constants for name in (*step.inputs[1:4], *step.inputs[7:])):
                weights = [constants[step.inputs[at]] if at < len(step.inputs) else None for at in (1, 2, 3, 7)]
                try:
                    step.node.pack(*weights)
                except ValueError as error:
                    raise ValueError(f"its node {shown(step.name)!r} cannot be run: {error}") from error

    @staticmethod
    def _folded(nodes: list[Any], constants: dict[str, Any]) -> list[Step]:
        """The nodes that depend on inputs; the results of others become constants."""
        steps = []
        for node in nodes:
            proto = node.onnx_node
            step = Step(node, proto.name or (node.output[0] if node.output else node.op_type))
            is_constant = (
                all(name in constants for name in step.inputs)
                and not node.need_context()
                and node.op_type not in (*DRAWS, "LSTM")
            )
            if is_constant:
                try:
                    constants.update(zip(step.outputs, step(constants), strict=False))
                except FAULTS as error:
                    raise told(step, error) from error
            else:
                steps.append(step)
        return steps

    def _mark_shapes(self) -> bool:
        """Mark the steps that depend on the inputs' shapes alone; return whether shapes depend on shapes alone."""
        known = set(self._constants)
        for step in self._steps:
            if step.node.op_type in OF_DATA or step.node.need_context() or step.node.op_type in DRAWS:
                return False
            deciding = SHAPING.get(step.node.op_type, ())
            if any(at < len(step.inputs) and step.inputs[at] not in known for at in deciding):
                return False
            step.is_shape = step.node.op_type in ("Shape", "Size") or all(name in known for name in step.inputs)
            if step.is_shape:
                known.update(step.outputs)
        return True

    def __repr__(self) -> str:
        return f"OnnxModel({', '.join(self.input_names)} -> {', '.join(self.output_names)})"

    @property
    def inputs(self) -> list[Input]:
        """Name and shape of each input, with None for an axis of any length."""
        return [Input(name, None if dims is None else tuple(dims)) for name, (_, dims) in self._types.items()]

    @property
    def layers(self) -> Mapping[str, Any]:
        """The nodes that depend on the numbers of the inputs, by name."""
        return {step.name: step for step in self._steps if not step.is_shape}

    @property
    def lstms(self) -> list[LSTM]:
        """The LSTMs of its nodes, with the steps first. Where a graph computes their weights, after the first call."""
        found = [step.node.lstm for step in self._steps if step.node.op_type == "LSTM"]
        return [lstm for lstm in found if lstm is not None]

    def __call__(self, *inputs: Any) -> Any:
        """Run the model.

        Parameters
        ----------
        *inputs : array_like
            One for each input of the graph; or a dict of arrays by name.

        Returns
        -------
        ndarray, or a list of ndarray
            In the order of `output_names`.

        Raises
        ------
        ValueError
            The number of inputs, a dtype or a shape is wrong; the message names the input or the node.
        IndexError
            An index beyond the vocabulary.
        """
        given = self._given(inputs)
        found: list[Any] | None = None
        if self._layered is not None:
            with suppress(*FAULTS):  # the evaluator says which node it is
                found = self._layered(given)
        if found is None:
            found = self._run(given)
        return found[0] if len(found) == 1 else found

    @cached_property
    def _layered(self) -> Layered | None:
        """The graph as layers, None if it is no chain of them."""
        try:
            return self._chain()
        except NotAChainError:
            return None

    def _chain(self) -> Layered:
        return Layered(self._steps, self._constants, self._types, self._axis_names, self.output_names)

    @property
    def _axis_names(self) -> dict[str, list[str]]:
        return {
            each.name: [dim.dim_param for dim in each.type.tensor_type.shape.dim] for each in self._proto.graph.input
        }

    @cached_property
    def batch_axis(self) -> int:
        """The axis of the input that holds the rows of a batch; 0 where the graph does not say it."""
        axes = input_axes(self._steps, self._constants, self._types, self._axis_names) or ()
        return axes.index("B") if "B" in axes else axes.index("") if "" in axes else 0

    def __reduce__(self) -> Any:
        return _from_bytes, (self._proto.SerializeToString(),)

    def sequential(self) -> Sequential:
        """The graph as the `numlstm.nn.Sequential` that it is, with its weights; states begin with zeros.

        Raises
        ------
        ValueError
            The graph is no chain of layers. The message names the node in the way.
        """
        return (self._layered or self._chain()).model

    def _run(self, given: dict[str, Array]) -> list[Any]:
        key = tuple([array.shape for array in given.values()])
        kept = self._of_shapes.get(key)
        if kept is None:
            values = self._constants | given
            steps = self._steps
        else:
            values = kept | given
            steps = self._last_steps
        step: Step
        try:
            for step in steps:
                found = step(values)
                if len(step.outputs) == 1:
                    values[step.outputs[0]] = found[0]
                else:
                    values.update(zip(step.outputs, found, strict=False))
        except FAULTS as error:
            raise told(step, error) from error
        if kept is None and self._is_static:
            if len(self._of_shapes) >= KEPT:
                self._of_shapes.clear()
            made = [name for step in steps if step.is_shape for name in step.outputs]
            read = {name for step in self._last_steps for name in step.inputs} | {"", *self.output_names}
            self._of_shapes[key] = {
                name: values[name] for name in (*self._constants, *made) if name in read and name in values
            }
        return [values[name] for name in self.output_names]

    def _given(self, inputs: tuple[Any, ...]) -> dict[str, Array]:
        """The inputs by name, checked."""
        names = self.input_names
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            if set(inputs[0]) != set(names):
                raise ValueError(
                    f"its inputs are {', '.join(map(repr, names))}; given are {', '.join(map(repr, inputs[0]))}"
                )
            named = {name: inputs[0][name] for name in names}
        elif len(inputs) == len(names):
            named = dict(zip(names, inputs, strict=True))
        else:
            said = ", ".join(map(repr, names))
            raise ValueError(f"the model takes {counted(len(names), 'input')}, {said}; {len(inputs)} are given")
        return {name: self._checked(name, value) for name, value in named.items()}

    def _checked(self, name: str, value: Any) -> Array:
        dtype, dims = self._types[name]
        if isinstance(value, np.ndarray) and value.dtype == dtype and _fits(value.shape, dims):
            return value
        array = np.asarray(value) if dtype.kind in "bOU" else real_array(f"input {name!r}", value)
        if array.dtype != dtype:
            if dtype.kind in "iu" and array.dtype.kind == "f":
                raise ValueError(f"input {shown(name)!r} must hold whole numbers, {dtype}\nIt holds {array.dtype}.")
            array = array.astype(dtype)
        if not _fits(array.shape, dims):
            raise ValueError(f"input {shown(name)!r} must have shape {words(dims)}\nIts shape is {array.shape}.")
        return array

    def stream(self, batch_size: int = 1) -> Any:
        """Return the model with a state of its own, step by step: where its graph is a chain of layers.

        The stream is that of a `numlstm.nn.Sequential`: it takes the features of a step, and gives the model's output
        for it, which is that of the sequence so far if the model takes the last state. It begins with zeros, or with
        the states of the file, also where the graph is given states.

        Parameters
        ----------
        batch_size : int
            Sequences that run side by side.

        Raises
        ------
        ValueError
            The graph is no chain, or a layer needs later steps. The message names the node.
        """
        try:
            layered = self._layered or self._chain()
        except NotAChainError as error:
            raise ValueError(f"the graph cannot run step by step: {error}\n{HINT}") from None
        if not layered.gives_steps:
            raise ValueError(f"the graph cannot run step by step: its outputs are states alone\n{HINT}")
        return layered.model.stream(batch_size)

    def summary(self) -> Summary:
        """The nodes in order, with output shapes where the file states them, and numbers of parameters."""
        return summary_of(self._proto)


def _from_bytes(content: bytes) -> OnnxModel:
    """The model of a pickle."""
    from onnx import ModelProto

    return OnnxModel(ModelProto.FromString(content))


def _type(stated: Any) -> tuple[np.dtype[Any], Dims]:
    """The dtype of an input, and its shape with None for an axis of any length."""
    from onnx.helper import tensor_dtype_to_np_dtype

    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in stated.shape.dim]
    return tensor_dtype_to_np_dtype(stated.elem_type), dims if stated.HasField("shape") else None


def _fits(shape: Shape, dims: Dims) -> bool:
    if dims is None:
        return True
    if len(shape) != len(dims):
        return False
    for have, want in zip(shape, dims, strict=True):  # noqa: SIM110  half the time of all()
        if want is not None and want != have:
            return False
    return True
