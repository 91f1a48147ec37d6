"""A Keras model that is called with arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from numlstm.base.validation.arrays import real_array
from numlstm.base.wording import counted
from numlstm.formats import Contents
from numlstm.formats.budget import shown
from numlstm.formats.keras import layers as configuration
from numlstm.formats.keras.reader import Described
from numlstm.lstm import LSTM
from numlstm.models.batches import RunsFrames
from numlstm.models.keras.building import Place, places, prepare
from numlstm.models.keras.chain import sequential_of
from numlstm.models.keras.graph import Graph, Input, refs_in
from numlstm.models.keras.signal import Context, Layer, Signal
from numlstm.models.keras.stream import KerasStream, returned
from numlstm.models.keras.weights import dtype_of, fill
from numlstm.nn.sequential import Sequential
from numlstm.nn.summary import Row, Summary


def build(contents: Contents) -> KerasModel:
    """The model of a Keras file, with all of its weights read."""
    described: Described = contents.model
    spec = described.config
    kind = configuration.kind_of(spec)
    if not configuration.entries_of(spec.get("config")):
        own = shown(repr(spec.get("registered_name") or spec.get("class_name")))
        raise ValueError(
            f"its model is of the class {own}, of which the file holds no code\n"
            "Save a Sequential or Functional model that calls the same layers."
        )
    context = Context(dtype_of(described), described.version)
    graph = Graph(spec, kind)
    layers = {}
    for name, entry, place in places(graph, Place("", "", True, [])):
        place = replace(place, slots=[])
        make = prepare(entry, place, context)
        fill(described, name, place.slots)
        layers[name] = make()
    order = dict.fromkeys([call.layer for call in graph.calls] + list(layers))
    layers = {name: layers[name] for name in order}
    return KerasModel(configuration.name_of(spec), graph, layers, context)


LARGEST = 1 << 20  # numbers of an input that a summary makes up


class KerasModel(RunsFrames):
    """A Keras model in eval mode: call it with arrays, as the model of Keras.

    Attributes
    ----------
    name : str
    dtype : dtype
        float64 if a weight is, else float32.
    batch_axis : int
        The axis of inputs that holds the rows of a batch: the first.
    inputs : list of Input
        Name and shape of each.
    """

    batch_axis = 0

    def __init__(self, name: str, graph: Graph, layers: dict[str, Layer], context: Context) -> None:
        self.name, self.dtype, self.inputs = name, context.dtype, graph.inputs
        self._graph, self._layers = graph, layers
        self._run = graph.function(layers)
        self._is_one = len(graph.inputs) == 1

    def __repr__(self) -> str:
        return f"KerasModel({self.name!r}, {counted(len(self._layers), 'layer')})"

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The layers by name, in the order in which they run."""
        return dict(self._layers)

    @property
    def lstms(self) -> list[LSTM]:
        """The LSTMs among them; a layer whose cells do not fit into one LSTM has several."""
        return [lstm for layer in self._layers.values() for lstm in layer.lstms]

    def __call__(self, *inputs: Any) -> Any:
        """Run the model.

        Parameters
        ----------
        *inputs : array_like
            One for each input of the model, the batch first. Or a dict of arrays by the names of inputs.

        Returns
        -------
        ndarray, or a list or dict of these
            As Keras returns them.

        Raises
        ------
        ValueError
            The number of inputs or a shape is wrong; the message names the input or the layer.
        IndexError
            An index beyond the vocabulary of an Embedding.
        """
        given = self._given(inputs)
        signals = [self._checked(each, array) for each, array in zip(self.inputs, given, strict=True)]
        return returned(self._run(signals))

    def _given(self, inputs: tuple[Any, ...]) -> list[Any]:
        """An array for each input."""
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            names = _names(self._graph)
            if set(inputs[0]) != set(names):
                raise ValueError(
                    f"its inputs are {', '.join(map(repr, names))}; given are {', '.join(map(repr, inputs[0]))}"
                )
            return [inputs[0][name] for name in names]
        if len(inputs) == 1 and isinstance(inputs[0], list | tuple) and len(inputs[0]) == len(self.inputs) > 1:
            return list(inputs[0])
        if len(inputs) != len(self.inputs):
            said = ", ".join(repr(each.name) for each in self.inputs)
            raise ValueError(f"the model takes {counted(len(self.inputs), 'input')}, {said}; {len(inputs)} are given")
        return list(inputs)

    def _checked(self, expected: Input, given: Any) -> Signal:
        array = real_array(f"input {expected.name!r}", given)
        if array.dtype.kind == "f" and array.dtype != self.dtype:
            array = array.astype(self.dtype)
        shape = expected.shape
        if shape is not None and array.ndim != len(shape):  # as Keras does, for an axis of one feature
            if array.ndim == len(shape) - 1 and shape[-1] == 1:
                array = array[..., None]
            elif array.ndim == len(shape) + 1 and array.shape[-1] == 1:
                array = array[..., 0]
        if shape is not None and (
            array.ndim != len(shape)
            or any(want not in (None, have) for want, have in zip(shape[1:], array.shape[1:], strict=True))
        ):
            name, wanted = shown(expected.name), _words(shape)
            raise ValueError(f"input {name!r} must have shape {wanted}, the batch first\nIts shape is {array.shape}.")
        return Signal(array)

    def stream(self, batch_size: int = 1) -> KerasStream:
        """Return the model with a state of its own, which runs step by step.

        Its outputs are those of the model for all steps so far: of each new step, or of the last one after an LSTM that
        returns the last alone.

        Parameters
        ----------
        batch_size : int
            Sequences that run side by side.

        Raises
        ------
        ValueError
            A layer needs later steps, or all at once; or the model has several inputs. The message names the layer.
        """
        return KerasStream(self._graph, self._layers, batch_size, self.inputs[0], self._checked)

    def sequential(self) -> Sequential:
        """The model as a `numlstm.nn.Sequential` of the same weights, if it is a chain of layers.

        Its numbers are those of the model within rounding. `numlstm export` makes a C library of it.

        Raises
        ------
        ValueError
            A layer does what no layer of a `Sequential` does, such as one that makes a mask. The message names it.
        """
        return sequential_of(self._graph, self._layers)

    def reset_state(self) -> None:
        """Set the states that stateful layers keep from call to call to zeros, as Keras' reset_state."""
        for layer in self._layers.values():
            if layer.reset is not None:
                layer.reset()

    def summary(self) -> Summary:
        """The layers in order, with output shapes and numbers of parameters."""
        shapes = self._shapes()
        rows = [Row(each.name, "Input", _words(each.shape), 0) for each in self.inputs]
        rows += [
            Row(name, layer.kind, shapes.get(layer.name, "?"), layer.parameters) for name, layer in self._layers.items()
        ]
        return Summary(rows)

    def _shapes(self) -> dict[str, str]:
        """The shape of each layer's output in words, found by running the model twice, with other sizes."""
        if any(each.shape is None for each in self.inputs):
            return {}
        found: list[dict[str, Any]] = []
        for batch, steps in ((2, 48), (3, 60)):
            seen: dict[str, Any] = {}
            if sum(prod(steps if n is None else n for n in (each.shape or ())[1:]) for each in self.inputs) > LARGEST:
                return {}
            run = self._graph.function(self._layers, seen.__setitem__)
            given = [
                np.ones([batch, *(steps if n is None else n for n in (each.shape or ())[1:])], int)
                for each in self.inputs
            ]
            try:
                run([Signal(array) for array in given])
            except (ValueError, IndexError):  # it needs other sizes
                return {}
            finally:
                self.reset_state()
            found.append(seen)
        return {name: _shape_words(first, found[1][name]) for name, first in found[0].items()}


def _names(graph: Graph) -> list[str]:
    """The names by which a dict gives the inputs."""
    structure = graph.input_structure
    return list(structure) if isinstance(structure, dict) else [each.layer for each in refs_in(structure)]


def _words(shape: tuple[int | None, ...] | None) -> str:
    return "?" if shape is None else f"({', '.join('any' if n is None else str(n) for n in (None, *shape[1:]))})"


def _shape_words(first: Any, second: Any) -> str:
    """A shape with "any" for axes that differ."""
    if type(first) is not Signal:
        return ", ".join(_shape_words(a, b) for a, b in zip(first, second, strict=True))
    return _words(tuple(a if a == b else None for a, b in zip(first.array.shape, second.array.shape, strict=True)))
