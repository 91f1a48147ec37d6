"""A Sequential with a state of its own, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from numlstm import lazy
from numlstm.base.typing import Array, States
from numlstm.nn.functions import contiguous
from numlstm.nn.layers import Dropout
from numlstm.nn.stages import CALL, HEAD, OUTPUT, STATE, Stage
from numlstm.runtime.head import Head


def stream_of(
    stages: Sequence[Stage], batch_size: int, dtype: np.dtype[Any], initial: Mapping[str, States]
) -> lazy.Stream | SequentialStream:
    """The stream of a model: of its LSTM itself where nothing but heads follow, which its steps then run too."""
    parts = list(_parts(stages, batch_size))
    if initial:
        streams = [part for part in parts if not isinstance(part, Stage)]
        lstms = [stage.name for stage in stages if stage.kind in (OUTPUT, STATE)]
        begin = [(stream, initial[name]) for stream, name in zip(streams, lstms, strict=True) if name in initial]
        return SequentialStream(parts, batch_size, dtype, begin)
    if len(parts) == 1 and not isinstance(parts[0], Stage):
        stream: lazy.Stream = parts[0]
        return stream
    return SequentialStream(parts, batch_size, dtype)


def _parts(stages: Sequence[Stage], batch_size: int) -> Any:
    """Streams of LSTMs with the heads behind them, and stages of their own."""
    stages = [stage for stage in stages if not isinstance(stage.layer, Dropout)]
    n = 0
    while n < len(stages):
        stage = stages[n]
        n += 1
        if stage.kind in (CALL, HEAD):
            yield stage
            continue
        lstm = stage.layer
        if lstm._config.needs_whole_sequences:
            raise ValueError(
                f"layer {stage.name!r} begins with the last step, so the model cannot run step by step\n"
                f"It is {lstm!r}. Call the model with whole sequences."
            )
        first, end = n, n
        # what a skip adds is the model's input, which only the first LSTM's stream has
        while end < len(stages) and stages[end].kind == HEAD and not (stages[end].skip and first > 1):
            end += 1
        n = end
        yield _with_heads(lstm, stages[first:end], batch_size)


def _with_heads(lstm: Any, heads: Sequence[Stage], batch_size: int) -> Any:
    if not heads:
        return lstm.stream(batch_size)
    lstm._cpu_only("a stream with a head")
    present = partial(_heads_of, tuple(heads))
    return lazy.Stream(lstm._config, lstm._panels, batch_size, lambda: lstm._panels, lstm._model.executor, present)


def _heads_of(stages: tuple[Stage, ...]) -> list[Head]:
    return [stage.head() for stage in stages]


class SequentialStream:
    """A model that continues from call to call, of several LSTMs or with layers before the first one.

    `Sequential.stream` makes one. Its steps have the bits of one call over all of them.

    Attributes
    ----------
    batch_size : int
        Sequences that run side by side.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        batch_size: int,
        dtype: np.dtype[Any],
        begin: Sequence[tuple[lazy.Stream, States]] = (),
    ) -> None:
        self.batch_size, self._parts, self._dtype, self._begin = batch_size, tuple(parts), dtype, begin
        self._skips = any(isinstance(part, Stage) and part.skip for part in parts)
        self.reset()

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
        given = contiguous(input, self._dtype) if self._skips else None
        value: Any = input
        for part in self._parts:
            value = part.run(value, given) if isinstance(part, Stage) else part(value)
        output: Array = value
        return output

    def reset(self, rows: Any = None) -> None:
        """Set the states of all LSTMs to those that they begin with, or those of some rows of the batch."""
        for part in self._parts:
            if not isinstance(part, Stage):
                part.reset(rows)
        for stream, states in self._begin:
            now = stream.state
            for state, first in zip(now, states, strict=True):
                state[:, slice(None) if rows is None else rows] = first[:, None]
            stream.state = now

    def refresh(self) -> None:
        """Continue with the weights that the model has now."""
        for part in self._parts:
            if not isinstance(part, Stage):
                part.refresh()
