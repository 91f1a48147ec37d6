"""The layers of a model as what runs: a Linear layer and the activation behind it are one stage, a single kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array, States
from numlstm.kernels.plan_layout import Activation
from numlstm.lstm import LSTM
from numlstm.nn.functions import ACTIVATIONS, contiguous, last_state
from numlstm.nn.layers import Linear
from numlstm.runtime.head import Head

OUTPUT, STATE, HEAD, CALL = range(4)  # an LSTM's output or last state; a kernel of this package; any other layer


class Stage(NamedTuple):
    """A part of a model; ``activation`` and ``skip`` are those of a head."""

    name: str
    kind: int
    layer: Any
    activation: Activation = Activation.IDENTITY
    skip: float = 0.0

    def head(self) -> Head:
        """The head as it is now, packed for the kernel."""
        head: Head = self.layer.head(self.activation, self.skip)
        return head

    def packed(self, lanes: int) -> Head:
        """The head packed for registers of so many numbers."""
        parameters = self.layer.state_dict() if isinstance(self.layer, Linear) else {}
        return Head(
            self.layer.dtype, parameters.get("weight"), parameters.get("bias"), self.activation, self.skip, lanes
        )

    def run(self, value: Any, given: Array | None, lengths: Any = None, states: States | None = None) -> Any:
        """The stage's result.

        ``given`` is the model's input as `contiguous` gives it, for a head with a skip; an LSTM begins with ``states``.
        """
        layer = self.layer
        if self.kind == HEAD:
            return self.head()(layer.checked(value), given if self.skip else None)
        if self.kind == CALL:
            return layer(value)
        hx = None if states is None else initial(layer, value, states)
        result = layer(value, hx) if lengths is None else layer(value, hx, lengths=lengths)
        return result[0] if self.kind == OUTPUT else last_state(result)


def initial(lstm: LSTM, value: Any, states: States | None) -> States | None:
    """The states of each layer for every row of an input."""
    if states is None:
        return None
    shape = np.shape(value)
    if len(shape) != 3:
        return states
    rows = shape[0 if lstm.batch_first else 1]
    h, c = (np.repeat(state[:, None], rows, axis=1) for state in states)
    return h, c


class Alone:
    """Activations that follow no Linear layer."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    @cached_property
    def _heads(self) -> dict[tuple[Activation, float], Head]:
        return {}

    def head(self, activation: Activation, skip: float) -> Head:
        """The activation for the kernel."""
        key = activation, skip
        if key not in self._heads:
            self._heads[key] = Head(self.dtype, None, None, activation, skip)
        return self._heads[key]

    def checked(self, value: Any) -> Array:
        """The value as the kernel reads it."""
        return contiguous(value, self.dtype)


def stages_of(layers: Mapping[str, Any], skip: float, dtype: np.dtype[Any]) -> list[Stage]:
    """The stages of a model; the skip is the last one's."""
    stages = list(_merged(layers, dtype))
    if skip:
        last = stages[-1] if stages[-1].kind == HEAD else Stage(stages[-1].name, HEAD, Alone(dtype))
        stages = [*(stages[:-1] if stages[-1].kind == HEAD else stages), last._replace(skip=skip)]
    return stages


def _merged(layers: Mapping[str, Any], dtype: np.dtype[Any]) -> Iterator[Stage]:
    """A stage a layer, but for activations that follow a Linear layer, and `last_state`."""
    waiting: Stage | None = None
    for name, layer in layers.items():
        activation = ACTIVATIONS.get(layer) if layer.__hash__ else None
        if waiting is not None:
            if waiting.kind == HEAD and activation is not None:
                yield waiting._replace(activation=activation)
                waiting = None
                continue
            if layer is last_state:
                yield waiting._replace(kind=STATE)
                waiting = None
                continue
            yield waiting
            waiting = None
        if isinstance(layer, Linear):
            waiting = Stage(name, HEAD, layer)
        elif isinstance(layer, LSTM):
            waiting = Stage(name, OUTPUT, layer)
        elif activation is not None:
            yield Stage(name, HEAD, Alone(dtype), activation)
        else:
            yield Stage(name, CALL, layer)
    if waiting is not None:
        yield waiting
