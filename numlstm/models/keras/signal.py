"""An array between two layers with the mask that travels with it, and the functions of layers that take these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.lstm import LSTM

Json = dict[str, Any]
Weights = dict[str, Array]


class Signal(NamedTuple):
    """An array, and which of its steps count: (batch, steps) of bool, or None for all."""

    array: Array
    mask: Array | None = None


Signals = Any  # a Signal, or lists and tuples of them
Function = Callable[..., Signals]
OfArray = Callable[[Array], Array]


class Context(NamedTuple):
    """What layers must know of the whole model."""

    dtype: np.dtype[Any]  # of weights and results
    version: tuple[int, int]  # of the Keras that wrote the file; (3, 99) if it does not say

    @property
    def merges_by_all(self) -> bool:
        """Whether a merging layer's mask needs all of its inputs' masks; since Keras 3.3 one is enough."""
        return self.version < (3, 3)


@dataclass(eq=False)
class Layer:
    """A layer of a model, ready to be called.

    Attributes
    ----------
    name, kind : str
        Its own name, and the name of its class.
    function : callable
        From signals to signals.
    parameters : int
        How many numbers it has in the file.
    lstms : list of LSTM
    steps : bool
        Whether a step of its output needs that step of its input alone.
    stream : callable or None
        Of an LSTM: makes its function for the steps of so many rows, which go on from call to call.
    sequences : bool
        Of an LSTM: whether it returns all steps.
    reset : callable or None
        Of a stateful LSTM: forgets its state.
    parts : callable or None
        Makes the layers of `numlstm.nn` that it is, by what their names end in, if it is some.
    """

    name: str
    kind: str
    function: Function
    parameters: int = 0
    lstms: list[LSTM] = field(default_factory=list)
    steps: bool = False
    stream: Callable[[int], Function] | None = None
    sequences: bool = False
    reset: Callable[[], None] | None = None
    parts: Callable[[], dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"{self.kind}({self.name!r})"


def keeping(function: OfArray) -> Function:
    """The function of a layer that hands the mask on."""
    return lambda x, mask=None: Signal(function(x.array), x.mask)


def dropping(function: OfArray) -> Function:
    """The function of a layer that does not."""
    return lambda x, mask=None: Signal(function(x.array))


def arrays(signals: Signals) -> Any:
    """The same structure with arrays alone."""
    if type(signals) is Signal:
        return signals.array
    if isinstance(signals, list | tuple):
        return [arrays(each) for each in signals]
    return signals
