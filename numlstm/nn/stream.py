"""A Sequential with a state of its own, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import ArrayLike

from numlstm.base.typing import Array
from numlstm.base.validation.arrays import real_array
from numlstm.lstm import LSTM
from numlstm.nn.functions import last_state
from numlstm.nn.layers import Dropout


class SequentialStream:
    """A model that continues from call to call. `Sequential.stream` makes one.

    `last_state` is the state after each step.

    Attributes
    ----------
    batch_size : int
        Sequences that run side by side.
    """

    def __init__(
        self, layers: Mapping[str, Any], batch_size: int, skipped: Callable[[Array], Array] | None = None
    ) -> None:
        self.batch_size, self._skipped = batch_size, skipped
        self._parts: list[Any] = []
        for name, layer in layers.items():
            if isinstance(layer, LSTM):
                if layer._config.needs_whole_sequences:
                    raise ValueError(
                        f"layer {name!r} begins with the last step, so the model cannot run step by step\n"
                        f"It is {layer!r}. Call the model with whole sequences."
                    )
                self._parts.append(layer.stream(batch_size))
            elif layer is not last_state and not isinstance(layer, Dropout):
                self._parts.append(layer)

    def __call__(self, input: ArrayLike) -> Array:
        """Run the next steps.

        Parameters
        ----------
        input : array_like
            One step, without the axis of steps, or a chunk of several, as `Stream` takes them.

        Returns
        -------
        ndarray
            The model's output for them.
        """
        value: Any = real_array("input", input)
        x = value
        for part in self._parts:
            value = part(value)
        output: Array = value if self._skipped is None else value + self._skipped(x)
        return output

    def reset(self, rows: object = None) -> None:
        """Set the states of all LSTMs to zeros, or those of some rows of the batch."""
        for part in self._parts:
            if hasattr(part, "reset"):
                part.reset(rows)
