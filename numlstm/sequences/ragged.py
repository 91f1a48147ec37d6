"""Calls with sequences of several lengths: packed as in PyTorch, or padded with their lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import empty

from numlstm.base.config import Config
from numlstm.base.typing import Array, States
from numlstm.base.validation.arrays import own_shape, real_array
from numlstm.base.validation.out import out_arrays
from numlstm.base.validation.packed import checked_lengths, checked_parts
from numlstm.base.validation.shapes import CallShapes, lstm_call, lstm_states, packed_call
from numlstm.runtime.call import Call, Dropout
from numlstm.runtime.conversion import readable
from numlstm.runtime.executor import Executor
from numlstm.runtime.packed_weights import Panels
from numlstm.sequences.packed_layout import gathered, longest_first, places, sizes_of
from numlstm.sequences.packing import PackedSequence

Masks = Callable[[], Dropout | None]


def run_packed(
    executor: Executor, panels: Panels, config: Config, masks: Masks, input: Any, hx: Any, out: Any
) -> tuple[PackedSequence, States]:
    """Run an LSTM over a packed sequence, also PyTorch's own.

    Parameters
    ----------
    executor : Executor
    panels : Panels
    config : Config
    masks : callable
        Draws the dropout of a `Call`; called after all checks.
    input : PackedSequence
    hx, out
        As `LSTM.forward` takes them.

    Returns
    -------
    output : PackedSequence
        Packed as the input is.
    (h_n, c_n) : tuple of ndarray
        The states after the last step of each sequence, in the order before packing.
    """
    data, sizes, order, back = checked_parts(input)
    data = real_array("data", data)
    call = packed_call(config, data.shape, int(sizes[0]), hx)
    results, given = _results(panels, call, data, hx, out)
    _run(executor, panels, masks(), data, sizes, order, given, results)
    output, h_n, c_n = results if out is None else out
    return PackedSequence(output, sizes, order, back), (h_n, c_n)


def run_padded(
    executor: Executor, panels: Panels, config: Config, masks: Masks, input: Any, hx: Any, lengths: Any, out: Any
) -> tuple[Array, States]:
    """Run an LSTM over a padded batch, each sequence up to its length; the output behind it is zeros.

    Parameters
    ----------
    executor, panels, config, masks
        As for `run_packed`.
    input, hx, lengths, out
        As `LSTM.forward` takes them.

    Returns
    -------
    output : ndarray
    (h_n, c_n) : tuple of ndarray
    """
    array = own_shape(real_array("input", input))
    call = lstm_call(config, array.shape, hx)
    counts = checked_lengths(lengths, call, array.shape)
    results, given = _results(panels, call, array, hx, out)
    if call.batch > 0:
        _over_padded(executor, panels, call, masks(), array, counts, given, results)
    output, h_n, c_n = results if out is None else out
    return output, (h_n, c_n)


def _over_padded(
    executor: Executor,
    panels: Panels,
    call: CallShapes,
    dropout: Dropout | None,
    array: Array,
    counts: Array,
    hx: States | None,
    results: tuple[Array, ...],
) -> None:
    """Run a padded batch: in place if lengths decrease, packed otherwise."""
    output, h_n, c_n = results
    x, y = (array.swapaxes(0, 1), output.swapaxes(0, 1)) if call.swap else (array, output)
    order = longest_first(counts)
    if order is None and dropout is None and readable(x, panels.dtype) and x.strides[0] != 0:
        sizes, (h_0, c_0) = sizes_of(counts), hx or (None, None)
        executor.run(Call(panels, x, h_0, c_0, y, h_n, c_n, sizes=sizes))
        begins = np.flatnonzero(np.diff(sizes, prepend=0)).tolist()
        for begin, end in zip(begins, [*begins[1:], len(sizes)], strict=True):
            y[begin:end, sizes[begin] :] = 0
        y[len(sizes) :] = 0
        return
    sizes = sizes_of(counts if order is None else counts[order])
    at = places(sizes, order, len(x), call.batch, call.swap)
    packed = empty((len(at) + 1, call.output[-1]), panels.dtype)
    _run(executor, panels, dropout, gathered(array, at), sizes, order, hx, (packed[:-1], h_n, c_n))
    packed[-1] = 0  # the padding
    where = np.full(len(x) * call.batch, len(at))
    where[at] = np.arange(len(at))
    np.take(packed, where, axis=0, out=output.reshape(-1, call.output[-1]), mode="clip")


def _results(
    panels: Panels, call: CallShapes, input: Array, hx: object, out: object
) -> tuple[tuple[Array, ...], States | None]:
    """The arrays for output, h_n and c_n, and the initial states."""
    dtype = panels.dtype
    given = None if hx is None else lstm_states(call, hx, dtype)
    if out is None:
        return (empty(call.output, dtype), empty(call.hidden, dtype), empty(call.cell, dtype)), given
    return out_arrays(out, call, dtype, input, given), given


def _run(
    executor: Executor,
    panels: Panels,
    dropout: Dropout | None,
    data: Array,
    sizes: Array,
    order: Array | None,
    hx: States | None,
    results: tuple[Array, ...],
) -> None:
    """Run packed rows; states are in the order of the sequences. Those of a sequence without steps stay as they are."""
    output, h_n, c_n = results
    h_0, c_0 = hx or (None, None)
    if order is None:
        executor.run(Call(panels, data, h_0, c_0, output, h_n, c_n, dropout, sizes))
        return
    if len(order) < h_n.shape[1]:
        h_n[...], c_n[...] = hx or (0, 0)
    if not len(order):
        return
    if h_0 is not None and c_0 is not None:
        h_0, c_0 = h_0[:, order], c_0[:, order]
    h, c = (empty((len(state), len(order), state.shape[-1]), panels.dtype) for state in (h_n, c_n))
    executor.run(Call(panels, data, h_0, c_0, output, h, c, dropout, sizes))
    h_n[:, order], c_n[:, order] = h, c
