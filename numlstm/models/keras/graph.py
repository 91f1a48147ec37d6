"""Who feeds whom in a Keras model: Sequential in order, Functional by the calls that it lists.

Keras 3 writes a call as its arguments, with a ``keras_history`` for each array, and Keras 2 as a list of [layer, call,
output, further arguments]. Both become a `Call`, and the calls run in an order in which each follows its sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.wording import counted
from numlstm.formats.budget import shown
from numlstm.formats.keras import layers as configuration
from numlstm.models.keras.signal import Function, Json, Layer, Signal, Signals

CONSTANT = "_CONSTANT_VALUE"  # the name of a layer that Keras 2 puts in the place of a number
SLICE, TENSOR = "__slice__", "__keras_tensor__"


class Ref(NamedTuple):
    """An output of a call."""

    layer: str
    call: int
    output: int


class Call(NamedTuple):
    """A call of a layer, whose arguments are `Ref`, lists, and what else Keras takes."""

    layer: str
    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Input(NamedTuple):
    """An input of a model.

    Attributes
    ----------
    name : str
    shape : tuple of int or None
        The batch comes first; None if the model does not state a shape.
    """

    name: str
    shape: tuple[int | None, ...] | None


class Graph:
    """The calls of a model.

    Attributes
    ----------
    entries : dict of str to dict
        The specifications of its layers by name.
    inputs : list of Input
    output : structure of Ref
    calls : list of Call
        In an order in which they can run.
    """

    def __init__(self, spec: Json, kind: str) -> None:
        config: Any = spec["config"]
        entries = [entry for entry in configuration.entries_of(config) if isinstance(entry, dict)]
        self.entries = {configuration.name_of(entry): entry for entry in entries}
        if len(self.entries) != len(entries):
            raise ValueError("it has two layers of one name")
        if kind == "Sequential" or isinstance(config, list):
            self._sequential()
        elif any("inbound_nodes" in entry for entry in entries):
            self._functional(config)
        else:
            raise ValueError(
                f"it is a {shown(kind)}, a class of its own whose calls the file does not describe; save a Functional "
                "model that calls the same layers"
            )

    def _sequential(self) -> None:
        names = list(self.entries)
        is_given = configuration.kind_of(self.entries[names[0]]) == "InputLayer"
        first = names.pop(0) if is_given else "input"
        shape = _shape(next(iter(self.entries.values())).get("config"))
        self.inputs = [Input(first, shape)]
        self.input_structure: Any = Ref(first, 0, 0)
        self.calls = []
        for before, name in zip([first, *names], names, strict=False):
            self.calls.append(Call(name, 0, (Ref(before, 0, 0),), {}))
        self.output: Any = Ref(names[-1] if names else first, 0, 0)

    def _functional(self, config: Json) -> None:
        calls = []
        for name, entry in self.entries.items():
            nodes = entry.get("inbound_nodes")
            for number, node in enumerate(nodes if isinstance(nodes, list) else []):
                if configuration.kind_of(entry) != "InputLayer":
                    calls.append(Call(name, number, *self._arguments(node)))
        self.input_structure = self._refs(config.get("input_layers"))
        self.output = self._refs(config.get("output_layers"))
        self.calls = self._ordered(self._numbered(calls))
        refs = refs_in(self.input_structure)
        self.inputs = [Input(ref.layer, _shape(self.entries[ref.layer].get("config"))) for ref in refs]

    def _refs(self, value: Any) -> Any:
        """The structure of inputs or outputs."""
        if self._is_ref(value):
            return Ref(*value[:3])
        if isinstance(value, dict):
            return {key: self._refs(each) for key, each in value.items()}
        found = [self._refs(each) for each in value or ()]
        return found[0] if len(found) == 1 else found

    def _is_ref(self, value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and len(value) >= 3
            and isinstance(value[0], str)
            and value[0] in self.entries
            and type(value[1]) is int
            and type(value[2]) is int
        )

    def _arguments(self, node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call."""
        if isinstance(node, dict):
            kwargs = {key: self._value(each) for key, each in node.get("kwargs", {}).items()}
            return tuple(self._value(each) for each in node.get("args", ())), _meant(kwargs)
        sources, kwargs = [], {}
        for each in node:
            sources.append(each[2] if each[0] == CONSTANT else Ref(*each[:3]))
            if len(each) > 3 and isinstance(each[3], dict):
                kwargs |= {key: self._value(value) for key, value in each[3].items()}
        return (sources[0] if len(sources) == 1 else sources,), _meant(kwargs)

    def _value(self, value: Any) -> Any:
        """An argument, with a `Ref` for each array of the model."""
        if self._is_ref(value):
            return Ref(*value[:3])
        if isinstance(value, dict) and "class_name" in value:
            config = value.get("config")
            if value["class_name"] == TENSOR and isinstance(config, dict):
                return Ref(*config["keras_history"][:3])
            if value["class_name"] == SLICE and isinstance(config, dict):
                return slice(config.get("start"), config.get("stop"), config.get("step"))
            if value["class_name"] in ("__tensor__", "__numpy__") and isinstance(config, dict):
                return Signal(np.asarray(config["value"], config.get("dtype")))
            return value
        if isinstance(value, list):
            return [self._value(each) for each in value]
        return value

    def _numbered(self, calls: list[Call]) -> list[Call]:
        """With the numbers by which Keras refers to calls: for a model within, Keras 2 begins with 1."""
        most: dict[str, int] = {}
        for ref in refs_in([self.output, *[[call.args, call.kwargs] for call in calls]]):
            most[ref.layer] = max(most.get(ref.layer, 0), ref.call)
        counts: dict[str, int] = {}
        for call in calls:
            counts[call.layer] = counts.get(call.layer, 0) + 1
        shift = {name: max(0, most.get(name, 0) + 1 - count) for name, count in counts.items()}
        return [call._replace(number=call.number + shift[call.layer]) for call in calls]

    def _ordered(self, calls: list[Call]) -> list[Call]:
        """In an order in which each call follows its sources."""
        by_key = {(call.layer, call.number): call for call in calls}
        waits = {
            key: {(ref.layer, ref.call) for ref in refs_in([call.args, call.kwargs])} & by_key.keys()
            for key, call in by_key.items()
        }
        after: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for key, sources in waits.items():
            for source in sources:
                after.setdefault(source, []).append(key)
        ready = [key for key, sources in waits.items() if not sources]
        ordered = []
        for key in ready:  # grows
            ordered.append(by_key[key])
            for reader in after.get(key, ()):
                waits[reader].discard(key)
                if not waits[reader]:
                    ready.append(reader)
        if len(ordered) < len(calls):
            raise ValueError("it has layers that depend on each other in a cycle")
        return ordered

    def function(self, layers: Mapping[str, Layer], seen: Callable[[str, Any], None] | None = None) -> Function:
        """The function of the model, from the signals of its inputs to those of its outputs."""
        plan = [
            (layers[call.layer], (call.layer, call.number), _filler([*call.args], call.kwargs)) for call in self.calls
        ]
        names = [(each.name, 0) for each in self.inputs]

        def run(given: Any, mask: Signal | None = None, **_: Any) -> Signals:
            flat = _flat(given)
            if len(flat) != len(names):
                raise ValueError(f"it takes {counted(len(names), 'input')}; {len(flat)} are given")
            if mask is not None:
                flat = [signal._replace(mask=mask.array.astype(bool)) for signal in flat]
            values: dict[tuple[str, int], Any] = {key: [each] for key, each in zip(names, flat, strict=True)}
            for layer, key, fill in plan:
                args, kwargs = fill(values)
                try:
                    found = layer.function(*args, **kwargs)
                except (ValueError, IndexError, TypeError, RuntimeError) as error:
                    raise told(layer, error) from error
                values[key] = [found] if type(found) is Signal else found
                if seen is not None:
                    seen(layer.name, found)
            return _filled(self.output, values)

        return run


class LayerError(Exception):
    """An error whose message names the layer."""


class LayerValueError(LayerError, ValueError):
    """An input that does not fit a layer."""


class LayerIndexError(LayerError, IndexError):
    """An index that a layer does not have."""


def told(layer: Layer, error: Exception) -> Exception:
    """The error of a layer, with its name."""
    if isinstance(error, LayerError):
        return error
    kind = LayerIndexError if isinstance(error, IndexError) else LayerValueError
    return kind(f"layer {shown(layer.name)!r} ({layer.kind}): {error}")


def _meant(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that change what a layer does in inference."""
    return {key: value for key, value in kwargs.items() if key not in ("training", "name") and value is not None}


def _shape(config: Any) -> tuple[int | None, ...] | None:
    """The shape of an input, with the batch first."""
    for key in ("batch_shape", "batch_input_shape"):
        if isinstance(config, dict) and isinstance(config.get(key), list):
            return tuple(config[key])
    return None


def refs_in(value: Any) -> list[Ref]:
    """All references within a structure, in order."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, Signal):
        return []
    if isinstance(value, dict):
        return [ref for each in value.values() for ref in refs_in(each)]
    return [ref for each in value for ref in refs_in(each)] if isinstance(value, list | tuple) else []


def _filled(value: Any, values: Mapping[tuple[str, int], Any]) -> Any:
    """The structure with signals in the place of references."""
    if isinstance(value, Ref):
        return values[value.layer, value.call][value.output]
    if isinstance(value, dict):
        return {key: _filled(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    return value


def _filler(args: list[Any], kwargs: dict[str, Any]) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
    """The arguments of a call from the values so far."""
    if len(args) == 1 and isinstance(args[0], Ref) and not kwargs:
        layer, call, output = args[0]
        key = layer, call
        return lambda values: ((values[key][output],), {})
    return lambda values: (_filled(args, values), _filled(kwargs, values))


def _flat(given: Any) -> list[Signal]:
    if type(given) is Signal:
        return [given]
    values = given.values() if isinstance(given, dict) else given
    return [signal for each in values for signal in _flat(each)]
