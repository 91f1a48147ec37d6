"""The LSTM in plain NumPy at any precision: the judge of the engine, so it shares nothing with it.

Every line is an equation of Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (1999)
and the projection of Sak et al. (2014), in the conventions of ``torch.nn.LSTM``. Nothing is fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]


def lstm(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    hx: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    dtype: DTypeLike = np.longdouble,
    batch_first: bool = False,
    flush: DTypeLike | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Run an LSTM over whole sequences.

    Parameters
    ----------
    parameters : mapping of str to array_like
        As in the ``state_dict`` of ``torch.nn.LSTM``: ``weight_ih_l{k}`` of shape (4 * hidden_size, in),
        ``weight_hh_l{k}`` of (4 * hidden_size, out), ``bias_ih_l{k}`` and ``bias_hh_l{k}`` of (4 * hidden_size,)
        or none, ``weight_hr_l{k}`` of (proj_size, hidden_size) or none; the same with ``_reverse`` for a
        second direction. Gate blocks are in the order i, f, g, o. The names say how many layers and directions
        there are.
    x : array_like
        (T, B, input_size), or (B, T, input_size) with `batch_first`, or (T, input_size) unbatched; T >= 1.
    hx : (array_like, array_like), optional
        h_0 of shape (layers * directions, B, proj_size or hidden_size) and c_0 of (layers * directions, B,
        hidden_size), both without B if unbatched. Zeros if left out.
    dtype : dtype
        Precision of every operation: float32, float64 or longdouble.
    batch_first : bool
        Whether B comes before T in `x` and in the output.
    flush : dtype, optional
        The dtype of the engine that is judged, or None for pure mathematics; see `cell`.

    Returns
    -------
    output : ndarray
        h of the last layer at every step, (T, B, directions * out) or as `x` is laid out.
    (h_n, c_n) : tuple of ndarray
        The states after the last step, shaped like h_0 and c_0.

    Examples
    --------
    >>> weights = {"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.zeros((4, 1))}
    >>> output, (h_n, c_n) = lstm(weights, [[0.0], [1.0]], dtype=np.float64)
    >>> output.round(4).tolist(), h_n.round(4).tolist(), c_n.round(4).tolist()
    ([[0.0], [0.3696]], [[0.3696]], [[0.5568]])
    """
    seq = np.asarray(x).astype(dtype)
    if batch_first and seq.ndim == 3:
        seq = seq.swapaxes(0, 1)
    suffixes = [name.removeprefix("weight_ih") for name in parameters if name.startswith("weight_ih")]
    directions = 2 if "_l0_reverse" in suffixes else 1
    h_n, c_n = [], []
    for layer in range(len(suffixes) // directions):
        outputs = []
        for direction in range(directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            own = {
                name.removesuffix(suffix): np.asarray(value).astype(dtype)
                for name, value in parameters.items()
                if name.endswith(suffix)
            }
            at = layer * directions + direction
            state = None if hx is None else (np.asarray(hx[0])[at], np.asarray(hx[1])[at])
            steps = []
            for step in seq[::-1] if direction else seq:
                state = cell(own, step, state, dtype=dtype, flush=flush)
                steps.append(state[0])
            assert state is not None, "a sequence has at least one step"
            outputs.append(np.stack(steps[::-1] if direction else steps))
            h_n.append(state[0])
            c_n.append(state[1])
        seq = np.concatenate(outputs, axis=-1)
    if batch_first and seq.ndim == 3:
        seq = seq.swapaxes(0, 1)
    return seq, (np.stack(h_n), np.stack(c_n))


def cell(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    hx: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    dtype: DTypeLike = np.longdouble,
    flush: DTypeLike | None = None,
) -> tuple[Array, Array]:
    """Run one step of one layer in one direction.

    Parameters
    ----------
    parameters : mapping of str to array_like
        ``weight_ih``, ``weight_hh``, and where there are any ``bias_ih``, ``bias_hh``, ``weight_hr``;
        shapes as for `lstm`.
    x : array_like
        (B, in), or (in,) unbatched.
    hx : (array_like, array_like), optional
        h of shape (B, out) and c of (B, hidden_size), both without B if unbatched. Zeros if left out.
    dtype : dtype
        Precision of every operation.
    flush : dtype, optional
        None, or the dtype whose small numbers are to vanish as they do in the engine: c below its smallest
        normal number becomes 0, when read and when made, and so does h below 2**26 times that (with a projection:
        before it and after it); and a sigmoid whose argument is below -87 (float32) or -708 (float64), the whole
        number next to the logarithm of the smallest normal number, is 0.

    Returns
    -------
    h, c : ndarray
        The next states.
    """
    if hx is None:
        batch, (gates_size, output_size) = np.shape(x)[:-1], np.shape(parameters["weight_hh"])
        hx = (np.zeros((*batch, output_size)), np.zeros((*batch, gates_size // 4)))
    i, f, g, o = gates(parameters, x, hx[0], dtype=dtype, flush=flush)
    with np.errstate(all="ignore"):  # infinities, NaN and underflow are values here, not accidents
        c = _flushed_c(f * _flushed_c(np.asarray(hx[1], dtype), flush) + i * g, flush)
        h = _flushed_h(o * np.tanh(c), flush)
        if "weight_hr" in parameters:
            h = _flushed_h(h @ np.asarray(parameters["weight_hr"], dtype).T, flush)
        return h, c


def gates(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    h: ArrayLike,
    *,
    dtype: DTypeLike = np.longdouble,
    flush: DTypeLike | None = None,
) -> tuple[Array, Array, Array, Array]:
    """The gates i, f, g and o of one step of one layer in one direction, each (B, hidden_size) or without B.

    Parameters
    ----------
    parameters, x, dtype, flush
        As for `cell`.
    h : array_like
        Of the step before: (B, out), or (out,) unbatched.
    """
    p = {name: np.asarray(value, dtype) for name, value in parameters.items()}
    with np.errstate(all="ignore"):
        sums = np.asarray(x, dtype) @ p["weight_ih"].T + _flushed_h(np.asarray(h, dtype), flush) @ p["weight_hh"].T
        if "bias_ih" in p:
            sums = sums + (p["bias_ih"] + p["bias_hh"])
        i, f, g, o = np.split(sums, 4, axis=-1)
        return sigmoid(i, flush), sigmoid(f, flush), np.tanh(g), sigmoid(o, flush)


def sigmoid(x: Array, flush: DTypeLike | None = None) -> Array:
    """1 / (1 + e**-x) without overflow, to the last digits on both sides; `flush` as in `cell`.

    Examples
    --------
    >>> sigmoid(np.array([-np.inf, -100.0, 0.0, np.inf])).tolist()
    [0.0, 3.720075976020836e-44, 0.5, 1.0]
    >>> sigmoid(np.array([-100.0]), np.float32).tolist()
    [0.0]
    """
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        gate: Array = np.where(x < 0, e, 1) / (1 + e)
    return gate if flush is None else np.where(x < np.ceil(np.log(np.finfo(flush).tiny)), 0, gate)


def _flushed_c(c: Array, flush: DTypeLike | None) -> Array:
    """c with what is below the smallest normal number of `flush` made 0; NaN stays."""
    return c if flush is None else np.where(np.abs(c) < np.finfo(flush).tiny, 0, c)


def _flushed_h(h: Array, flush: DTypeLike | None) -> Array:
    """h with what is below 2**26 times the smallest normal number of `flush` made 0; NaN stays."""
    return h if flush is None else np.where(np.abs(h) < np.finfo(flush).tiny * 2**26, 0, h)
