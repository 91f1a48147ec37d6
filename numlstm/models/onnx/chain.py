"""A graph that is a chain of layers, found among the transposes and reshapes that exporters put around them.

Each value carries what its axes hold (`axes`), so that steps and features are known wherever they stand. Any graph that
is not surely a chain raises `NotAChainError`, which names the node, and stays with the evaluator.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.lstm import LSTM
from numlstm.models.onnx.axes import Axes
from numlstm.models.onnx.steps import Step
from numlstm.nn.functions import last_state
from numlstm.nn.layers import Embedding

FEATURES = ("F", "DF")


Rows = tuple[tuple[str, int], ...]


class NotAChainError(ValueError):
    """The graph is not a chain of layers. ``at`` counts the nodes before the one in the way."""

    def __init__(self, says: str, at: int = 0) -> None:
        super().__init__(says)
        self.at = at


class Value(NamedTuple):
    """What is known of a value in the graph.

    Attributes
    ----------
    axes : tuple of str
    kind : str
        "x" for what flows from layer to layer, "h" and "c" for states that LSTMs return, "given" for states that the
        graph is given.
    version : int
        Of the chain when an "x" was made: it is the output of the last layer if that is the chain's version now.
    rows : tuple of (str, int)
        Of states: the LSTM or the input, and which of its rows, along "D".
    """

    axes: Axes
    kind: str = "x"
    version: int = 0
    rows: Rows = ()


class Known(NamedTuple):
    """What is known of a graph.

    Attributes
    ----------
    values : mapping
        All values of one call.
    constants : collection of str
        The names of those that do not depend on the call.
    readers : mapping of str to int
        How many nodes and outputs take a value.
    free : set of int
        The axes of the input that may have any size.
    """

    values: Mapping[str, Any]
    constants: Container[str]
    readers: Mapping[str, int]
    free: frozenset[int]


class PerFrame:
    """An operator that takes each frame by itself, as the evaluator computes it."""

    def __init__(self, step: Step, at: int, others: list[Any]) -> None:
        self.__name__: str = step.node.op_type
        assert step.function is not None
        self._function, self._at, self._others = step.function, at, others

    def __call__(self, x: Array) -> Array:
        """The result for frames of features, which lie along the last axis."""
        found = self._function(*self._others[: self._at], x, *self._others[self._at :])[0]
        return np.asarray(found, x.dtype if self.__name__ != "Cast" else None)

    def __repr__(self) -> str:
        return self.__name__


class Walk:
    """The way through a graph, for one meaning of the axes of its input.

    Attributes
    ----------
    layers : dict of str to layer
        Of a `numlstm.nn.Sequential`, by the names of nodes.
    named : dict of str to Value
        Those that depend on the numbers of inputs, by name.
    sizes : dict of str to int
        Of the letters of axes, in the call whose values are known.
    initial : dict of str to (ndarray, ndarray)
        Constant states that are not zeros, by LSTM.
    given : dict of str to (rows, rows)
        Which rows of which inputs an LSTM begins with.
    skip : bool
        Whether the graph's input is added to the output.
    """

    def __init__(self, axes: Axes, data: str, known: Known) -> None:
        self.known, self.data, self.axes = known, data, axes
        self.layers: dict[str, Any] = {}
        self.named = {data: Value(axes)}
        self.sizes = {letter: size for letter, size in zip(axes, known.values[data].shape, strict=True) if letter}
        self.initial: dict[str, tuple[Array, Array]] = {}
        self.given: dict[str, Any] = {}
        self.skip, self.version, self.adds_axis = False, 0, False
        self.batch_first = "B" in axes and axes.index("B") < axes.index("T")

    def constant(self, step: Step, at: int, of_shapes: bool = False) -> Any:
        """An input that is constant, or depends on the shapes of the graph's inputs alone; None if it is left out."""
        name = step.inputs[at] if at < len(step.inputs) else ""
        if name in self.named:
            raise NotAChainError("it takes two values that depend on the input")
        if name not in self.known.constants and not of_shapes:
            raise NotAChainError("it takes numbers that depend on the shape of the input")
        return self.known.values[name]

    def entered(self, value: Value) -> Value:
        """A value that the next layer takes; states become those of the last LSTM."""
        if value.kind != "x":
            value = self._last_states(value)
        if self.skip or value.version != self.version:
            raise NotAChainError("it does not take the output of the layer before it")
        return value

    def _last_states(self, value: Value) -> Value:
        name = next(reversed(self.layers), "")
        lstm = self.layers.get(name)
        is_last = value.kind == "h" and isinstance(lstm, LSTM) and value.rows == last_rows(name, lstm)
        if not is_last or ("D" in "".join(value.axes) and len(value.rows) > 1 and "DF" not in value.axes):
            raise NotAChainError("it does not take the last state of the LSTM before it")
        self.layers[f"{name}: last state"] = last_state
        self.version += 1
        axes = value.axes if len(value.rows) > 1 else tuple(axis.replace("D", "") for axis in value.axes)
        return Value(axes, version=self.version)

    def add(self, step: Step, layer: Any, axes: Axes) -> None:
        """Add the layer of a node."""
        name = step.name if step.name not in self.layers else step.outputs[0]
        self.layers[name] = layer
        self.after(step, axes)

    def after(self, step: Step, axes: Axes) -> None:
        """The output of a node is that of the chain so far."""
        self.version += 1
        self.named[step.outputs[0]] = Value(axes, version=self.version)

    @staticmethod
    def opset(step: Step) -> int:
        """The version of ONNX's operators."""
        return int(step.node.run_params["opsets"][""])

    def is_free(self, letter: str) -> bool:
        """Whether steps or rows may be of any number."""
        return letter in self.axes and self.axes.index(letter) in self.known.free

    def put(self, step: Step, value: Value, axes: Axes) -> None:
        """A node that only turns or reshapes: the value has these axes now."""
        self.named[step.outputs[0]] = value._replace(axes=axes)

    def features(self, value: Value, axis: int) -> None:
        """Check that an axis holds the features."""
        axes = value.axes
        if axes[axis] in FEATURES:
            return
        if axes[axis] == "" and axis % len(axes) == len(axes) - 1 and not any("F" in each for each in axes):
            if any(isinstance(layer, Embedding) for layer in self.layers.values()):
                raise NotAChainError("its input has no axis of features")
            self.adds_axis = True
            self.sizes["F"] = 1
            return
        raise NotAChainError(f"it works along an axis that holds {words(axes[axis])}, not features")

    def frame_constant(self, value: Value, array: Any) -> Any:
        """A constant that is the same for all steps and rows, as frames take it."""
        array = np.asarray(array)
        if array.size == 1 and array.ndim <= len(value.axes):
            return array.reshape(())
        is_last = array.ndim and array.shape[-1] == array.size and array.ndim <= len(value.axes)
        if not is_last or value.axes[-1] not in FEATURES:
            raise NotAChainError("it takes a constant that is not the same for all steps")
        return array.reshape(-1)

    def hide_last_step(self, step: Step, value: Value, axes: Axes) -> None:
        """Go on from the last step alone: the state of the last LSTM, if each layer behind it takes each step alone."""
        value = self.entered(value)
        name = next((name for name in reversed(self.layers) if isinstance(self.layers[name], LSTM)), "")
        if not name or self.layers[name]._config.needs_whole_sequences or last_state in self.layers.values():
            raise NotAChainError("it takes the last step, which is no last state of a forward LSTM")
        layers = {}
        for each, layer in self.layers.items():
            layers[each] = layer
            if each == name:
                layers[f"{name}: last state"] = last_state
        self.layers = layers
        self.after(step, axes)


def words(letters: str) -> str:
    """What an axis holds, in words."""
    names = {"T": "steps", "B": "the batch", "D": "directions", "F": "features"}
    return " and ".join(names[letter] for letter in letters) or "nothing"


def last_rows(name: str, lstm: LSTM) -> Rows:
    """The rows of an LSTM's last states."""
    return tuple((name, row) for row in range(lstm._config.num_directions))
