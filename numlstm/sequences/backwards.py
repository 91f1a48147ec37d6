"""Calls of an LSTM that runs from the last step to the first, by calls of one that runs forward.

The steps of each sequence are turned around before the call. The output is turned back if the direction is "reverse".
An array is turned by its strides. Sequences of several lengths are copied, each turned within its length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array
from numlstm.base.validation.arrays import own_shape, real_array
from numlstm.base.validation.packed import checked_lengths, checked_parts
from numlstm.base.validation.shapes import lstm_call
from numlstm.sequences.packing import PackedSequence

Forward = Callable[[Any, Any, Any, Any], Any]  # input, hx, lengths and out of `LSTM.forward`
Turn = Callable[[Array], Array]


def run(forward: Forward, config: Config, input: Any, hx: Any, lengths: Any, out: Any) -> Any:
    """Run an LSTM from the last step to the first; the arguments and results are those of `LSTM.forward`.

    Parameters
    ----------
    forward : callable
        Runs the LSTM from the first step to the last.
    config : Config
        Its direction is "reverse" or "go_backwards".
    """
    if hasattr(input, "batch_sizes"):
        data, sizes, order, back = checked_parts(input)
        turn = _of_packed(sizes)
        turned: Any = PackedSequence(turn(real_array("data", data)), sizes, order, back)
    else:
        turned = own_shape(real_array("input", input))
        if turned.ndim not in (2, 3):
            return forward(turned, hx, lengths, out)  # which refuses it
        turn = _of_array(config, turned, hx, lengths)
        turned = turn(turned)
    output, states = forward(turned, hx, lengths, out)
    if config.direction == "reverse":
        array: Array = output.data if isinstance(output, PackedSequence) else output
        array[...] = turn(array).copy()
    return output, states


def _of_array(config: Config, array: Array, hx: Any, lengths: Any) -> Turn:
    """Turns the steps of an array around; the padding stays where it is."""
    axis = int(config.batch_first and array.ndim == 3)
    if lengths is None:
        return lambda steps: np.flip(steps, axis)
    counts = checked_lengths(lengths, lstm_call(config, array.shape, hx), array.shape)
    step = np.arange(array.shape[axis])[:, None]
    at = np.where(step < counts, counts - 1 - step, step)
    at = (at.T if axis else at)[..., None]
    return lambda steps: np.take_along_axis(steps, at, axis)


def _of_packed(sizes: Array) -> Turn:
    """Turns the steps of each packed sequence around.

    Examples
    --------
    >>> _of_packed(np.array([2, 2, 1]))(np.array([0, 10, 1, 11, 2])).tolist()
    [2, 11, 1, 10, 0]
    """
    begins, step = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    row = np.arange(len(step)) - begins[step]
    length = np.searchsorted(-sizes, -row)  # sizes above the row's number
    at = begins[length - 1 - step] + row
    return lambda data: data[at]
