"""From an entry of a configuration to a layer that runs: its weights are asked for first, and then it is made.

The older layout lists the weights of an outermost layer with all that is in it. So `prepare` walks down a layer,
collects the slots of its weights and returns what makes the layer once they are filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from numlstm.formats.budget import Budget, shown
from numlstm.formats.keras import layers as configuration
from numlstm.formats.keras.weights import own_names
from numlstm.models.keras import attention, convolution  # noqa: F401  they enter their layers into the table
from numlstm.models.keras.chain import parts_of
from numlstm.models.keras.graph import Graph
from numlstm.models.keras.layers import TABLE
from numlstm.models.keras.operations import is_operation, operation
from numlstm.models.keras.recurrent import Recurrent, lstms_of
from numlstm.models.keras.signal import Context, Function, Json, Layer, Signal, Signals
from numlstm.models.keras.weights import Slot

FROZEN = ("moving_mean", "moving_variance", "mean", "variance", "count")
MODELS = ("Sequential", "Functional", "Model")
TAKES = {
    "GRU": "numlstm has LSTMs alone: train the model with LSTM in its place",
    "SimpleRNN": "numlstm has LSTMs alone: train the model with LSTM in its place",
    "Lambda": "it holds Python code, which is not run: write what it computes with layers or keras.ops",
    "TextVectorization": "it takes text: save the part of the model behind it, and give that the numbers of the words",
    "StringLookup": "it takes text: save the part of the model behind it, and give that the numbers of the words",
}
UNKNOWN = (
    "it would take a function in numlstm/models/keras/layers.py; without it, load the LSTM alone with numlstm.load and "
    "compute the rest from numlstm.load_tensors"
)
Finish = Callable[[], Layer]


@dataclass(frozen=True)
class Place:
    """Where a layer is.

    Attributes
    ----------
    name : str
        The names of the models around it and its own, for messages.
    group : str
        Its group in ``model.weights.h5``.
    trainable : bool
        Whether it and all around it are.
    slots : list of Slot
        Of its outermost layer.
    """

    name: str
    group: str
    trainable: bool
    slots: list[Slot]

    def inside(self, spec: Json, group: str) -> Place:
        """The place of a layer within this one."""
        trainable = self.trainable and (spec.get("config") or {}).get("trainable") is not False
        return Place(f"{self.name}/{configuration.name_of(spec)}".lstrip("/"), group, trainable, self.slots)


class NotThere(ValueError):
    """A layer that cannot be run."""


@contextmanager
def _naming(place: Place) -> Iterator[None]:
    """Say which layer cannot be run."""
    try:
        yield
    except NotThere:
        raise
    except ValueError as error:
        raise NotThere(f"its layer {shown(place.name)!r} cannot be run: {error}") from error


def prepare(spec: Json, place: Place, context: Context) -> Finish:
    """Collect the slots of a layer's weights; return what makes it once they are filled.

    Raises
    ------
    ValueError
        The layer cannot be run; the message names it and says what it would take.
    """
    with _naming(place):
        make = _prepared(spec, place, context)

    def finish() -> Layer:
        with _naming(place):
            return make()

    return finish


def _prepared(spec: Json, place: Place, context: Context) -> Finish:
    kind = configuration.kind_of(spec)
    config = spec.get("config")
    if configuration.entries_of(config):
        return _model(spec, kind, place, context)
    config = config if isinstance(config, dict) else {}
    if is_operation(spec):
        function = operation(kind, config, context)
        return lambda: Layer(place.name, kind, function)
    if not configuration.is_own(spec):
        own = shown(repr(spec.get("registered_name") or spec.get("class_name")))
        raise ValueError(f"it is of the class {own}, of which the file holds no code")
    if kind == "TimeDistributed":
        return _time_distributed(spec, place, context)
    if kind in ("LSTM", "RNN", "Bidirectional", "CuDNNLSTM"):
        return _recurrent(spec, kind, place, context)
    if kind not in TABLE:
        raise ValueError(f"it is a {shown(kind)}, which is not there; {TAKES.get(kind, UNKNOWN)}")
    return _plain(kind, config, place, context)


def _plain(kind: str, config: Json, place: Place, context: Context) -> Finish:
    """A layer of the table."""
    found = TABLE[kind]
    slots: list[Slot] = []
    counts: dict[str, int] = {}
    for name in found.weights:
        group, _, own = name.rpartition("/")
        optional, own = own.startswith("?"), own.removeprefix("?")
        flag, _, own = own.rpartition(":")
        if flag and not config.get(flag, True):
            continue
        inner = f"{place.group}/{group}" if group else place.group
        full = f"{group}/{own}".lstrip("/")
        index = counts.get(inner, 0)
        counts[inner] = index + 1
        slots.append(Slot(inner, index, full, place.name, place.group, place.trainable and own not in FROZEN, optional))
    place.slots.extend(slots)

    def finish() -> Layer:
        weights = {slot.name: slot.array(context.dtype) for slot in slots if slot.tensor is not None}
        function = found.make({**config, "class_name": kind}, weights, context)
        if not found.integers:
            function = _of_dtype(function, context)
        parts = parts_of(kind, config, weights)
        return Layer(place.name, kind, function, _numbers(slots), steps=found.steps, parts=parts)

    return finish


def _numbers(slots: list[Slot]) -> int:
    """How many numbers the weights have."""
    return sum(prod(slot.tensor.shape) for slot in slots if slot.tensor is not None)


def _of_dtype(function: Function, context: Context) -> Function:
    """The function for inputs of any dtype."""

    def convert(given: Any) -> Any:
        if type(given) is Signal:
            array = given.array
            if array.dtype == context.dtype or array.dtype.kind not in "iuf":
                return given
            return Signal(array.astype(context.dtype), given.mask)
        return [convert(each) for each in given] if isinstance(given, list | tuple) else given

    def apply(x: Any, *more: Any, **named: Any) -> Signals:
        if type(x) is Signal and x.array.dtype == context.dtype:
            return function(x, *more, **named)
        return function(convert(x), *map(convert, more), **named)

    return apply


def _recurrent(spec: Json, kind: str, place: Place, context: Context) -> Finish:
    """A layer of LSTM cells."""
    config = spec["config"]
    layer, others = configuration.single(spec, Budget(1 << 20), context.version)
    if layer is None:
        said = "; ".join(others).partition(" is ")[2] or "no layer of LSTM cells"
        raise ValueError(f"it is {said}; {TAKES['GRU']}")
    if layer.problem:
        raise ValueError(layer.problem)
    cells = (*layer.forward, *layer.backward)
    slots: dict[int, list[Slot]] = {}
    for cell in cells:
        names = own_names(cell.bias, cell.options.peepholes)
        group = f"{place.group}{cell.place}"
        own = [
            Slot(group, at, name, place.name, place.group, place.trainable and cell.trainable)
            for at, name in enumerate(names)
        ]
        slots[id(cell)] = own
        place.slots.extend(own)
    inner = config["layer"]["config"] if kind == "Bidirectional" else config

    def finish() -> Layer:
        lstms = lstms_of(layer, slots)
        function = Recurrent(lstms, config, inner, (len(layer.forward), len(layer.backward)), context)
        numbers = sum(_numbers(own) for own in slots.values())
        return Layer(
            place.name,
            kind,
            _of_dtype(function, context),
            numbers,
            lstms,
            stream=function.stream,
            sequences=function.sequences,
            reset=function.reset,
            parts=function.parts,
        )

    return finish


def _time_distributed(spec: Json, place: Place, context: Context) -> Finish:
    """A layer for each step: the steps are merged into the batch."""
    inner = spec["config"].get("layer")
    if not isinstance(inner, dict):
        raise ValueError("it has no layer within")
    make = prepare(inner, place.inside(inner, f"{place.group}/layer"), context)

    def finish() -> Layer:
        layer = make()

        def apply(x: Signal, mask: Signal | None = None) -> Signals:
            kept = x.mask if mask is None else mask.array.astype(bool)
            batch, steps = x.array.shape[:2]
            rows = Signal(
                x.array.reshape(-1, *x.array.shape[2:]),
                kept.reshape(-1, *kept.shape[2:]) if kept is not None and kept.ndim > 2 else None,
            )
            outer = kept
            if kept is not None and kept.ndim > 2:
                outer = np.asarray(kept.reshape(batch, steps, -1).any(axis=-1))

            def apart(found: Signals) -> Signals:
                if type(found) is Signal:
                    return Signal(found.array.reshape(batch, steps, *found.array.shape[1:]), outer)
                return [apart(each) for each in found]

            return apart(layer.function(rows))

        kind = f"TimeDistributed({layer.kind})"
        inner_parts = None if layer.lstms else layer.parts  # they work on features alone
        return Layer(place.name, kind, apply, layer.parameters, layer.lstms, steps=not layer.lstms, parts=inner_parts)

    return finish


def _model(spec: Json, kind: str, place: Place, context: Context) -> Finish:
    """A model within a model."""
    graph = Graph(spec, kind)
    makes = {name: prepare(entry, inner, context) for name, entry, inner in places(graph, place)}

    def finish() -> Layer:
        layers = {name: make() for name, make in makes.items()}
        function = graph.function(layers)
        lstms = [lstm for layer in layers.values() for lstm in layer.lstms]
        numbers = sum(layer.parameters for layer in layers.values())
        return Layer(place.name, kind, function, numbers, lstms)

    return finish


def places(graph: Graph, place: Place) -> Iterator[tuple[str, Json, Place]]:
    """Name, specification and place of each layer of a model, in the order of the file."""
    prefix = f"{place.group}/layers" if place.group else "layers"
    counts: dict[str, int] = {}
    for name, entry in graph.entries.items():
        if is_operation(entry):
            yield name, entry, place.inside(entry, "")
            continue
        key = configuration.snake(configuration.kind_of(entry))
        number = counts.get(key, 0)
        counts[key] = number + 1
        if configuration.kind_of(entry) != "InputLayer":
            yield name, entry, place.inside(entry, f"{prefix}/{key}_{number}" if number else f"{prefix}/{key}")
