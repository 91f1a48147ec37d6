"""Losses: their value, and their gradient by the input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from numlstm.autodiff.gradients import check_numbers
from numlstm.base.typing import Array
from numlstm.base.validation.arrays import as_dtype, real_array
from numlstm.nn.layers import check_indices

Loss = tuple[float, Array]


def mse_loss(input: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Loss:
    """The mean of squared differences, and its gradient by the input; as ``torch.nn.functional.mse_loss``.

    Parameters
    ----------
    input, target : array_like
        Of the same shape.
    reduction : "mean" or "sum"

    Returns
    -------
    value : float
    gradient : ndarray
        Of the input's shape and dtype.

    Raises
    ------
    ValueError
        The shapes differ, or an array holds NaN.

    Examples
    --------
    >>> value, gradient = mse_loss([1.0, 2.0], [0.0, 4.0])
    >>> value, gradient.tolist()
    (2.5, [1.0, -2.0])
    """
    x, y = _same_shapes(input, target)
    scale = _scale(reduction, x.size)
    difference = x - y
    return _loss(np.sum(difference * difference, dtype=np.float64) * scale, difference * _of(x, 2 * scale), x, y)


def l1_loss(input: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Loss:
    """The mean of absolute differences, and its gradient by the input; as ``torch.nn.functional.l1_loss``.

    Parameters, results and errors are those of `mse_loss`. Where input and target are equal the gradient is 0.

    Examples
    --------
    >>> value, gradient = l1_loss([1.0, 2.0], [0.0, 4.0])
    >>> value, gradient.tolist()
    (1.5, [0.5, -0.5])
    """
    x, y = _same_shapes(input, target)
    scale = _scale(reduction, x.size)
    difference = x - y
    return _loss(np.sum(np.abs(difference), dtype=np.float64) * scale, np.sign(difference) * _of(x, scale), x, y)


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Loss:
    """Cross entropy between logits and classes, and its gradient; as ``torch.nn.functional.cross_entropy``.

    Parameters
    ----------
    input : array_like, (C,), (N, C) or (N, C, d_1, ...)
        Logits. For the output of an LSTM, (T, B, C), give ``output.reshape(-1, C)``.
    target : array_like
        Classes: integers of the input's shape without its axis of classes. Or probabilities: floats of its shape.
    weight : array_like, (C,), optional
        How much each class counts.
    ignore_index : int
        A class that counts nothing, as of padding.
    reduction : "mean" or "sum"
        The mean is over those that count, by their weights; with probabilities over all.
    label_smoothing : float
        From 0 to 1: how much of each target is shared out among all classes.

    Returns
    -------
    value : float
    gradient : ndarray
        Of the input's shape and dtype.

    Raises
    ------
    ValueError
        Shapes do not fit, no target counts, or an array holds NaN.
    IndexError
        A class is not below C.

    Examples
    --------
    >>> value, gradient = cross_entropy([[2.0, 0.0, 0.0]], [0])
    >>> round(value, 4), gradient.round(4).tolist()
    (0.2395, [[-0.213, 0.1065, 0.1065]])
    """
    x, given = _floats("input", input), real_array("target", target)
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"the input must have an axis of classes, and not be empty\nIts shape is {x.shape}.")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0\nIt is {label_smoothing!r}.")
    axis = 0 if x.ndim == 1 else 1
    each = np.ones(x.shape[axis], x.dtype)
    if weight is not None:
        each = as_dtype(real_array("weight", weight), x.dtype)
        if each.shape != (x.shape[axis],):
            raise ValueError(
                f"weight must have the shape ({x.shape[axis]},), a number a class\nIts shape is {each.shape}."
            )
    each = np.expand_dims(each, [k for k in range(x.ndim) if k != axis])
    of_target = _probabilities if given.dtype.kind == "f" else _classes
    parts, total = of_target(x, given, each, axis, ignore_index, label_smoothing)
    parts = parts.astype(x.dtype) * _of(x, _scale(reduction, total))
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis=axis, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(axis=axis, keepdims=True)
        value = -np.sum(np.where(parts != 0, parts * (shifted - np.log(sums)), 0), dtype=np.float64)
        gradient = powers / sums * parts.sum(axis=axis, keepdims=True) - parts
    return _loss(value, gradient, x, given)


def _probabilities(
    x: Array, given: Array, each: Array, axis: int, ignore_index: int, smoothing: float
) -> tuple[Array, float]:
    """How much each logarithm of `cross_entropy` counts, and what a mean is over."""
    if given.shape != x.shape:
        raise ValueError(
            f"probabilities must have the input's shape {x.shape}\nTheir shape is {given.shape}. "
            "Classes are integers: target.astype(int)."
        )
    smooth = as_dtype(given, x.dtype) * (1 - smoothing) + smoothing / x.shape[axis]
    return smooth * each, x.size / x.shape[axis]


def _classes(
    x: Array, given: Array, each: Array, axis: int, ignore_index: int, smoothing: float
) -> tuple[Array, float]:
    """Likewise."""
    wanted = x.shape[:axis] + x.shape[axis + 1 :]
    if given.shape != wanted:
        raise ValueError(
            f"classes for an input of shape {x.shape} must have the shape {wanted}\nTheir shape is {given.shape}."
        )
    counts = np.expand_dims(given != ignore_index, axis)
    known = np.where(given == ignore_index, 0, given)
    check_indices("target", known, x.shape[axis], "C")
    hit = np.expand_dims(known, axis) == np.arange(x.shape[axis]).reshape(each.shape)
    parts = np.where(counts, each * ((1 - smoothing) * hit + smoothing / x.shape[axis]), 0)
    return parts, float(np.sum(np.where(counts & hit, each, 0), dtype=np.float64))


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> Loss:
    """Cross entropy between logits and probabilities of yes; as in ``torch.nn.functional``.

    Parameters
    ----------
    input, target : array_like
        Logits, and numbers from 0 to 1, of the same shape.
    weight, pos_weight : array_like, optional
        Factors of each term, and of the part of each that is for yes; they are broadcast.
    reduction : "mean" or "sum"

    Returns
    -------
    value : float
    gradient : ndarray
        Of the input's shape and dtype.

    Raises
    ------
    ValueError
        Shapes do not fit, or an array holds NaN.

    Examples
    --------
    >>> value, gradient = binary_cross_entropy_with_logits([0.0, 100.0], [1, 1])
    >>> round(value, 4), gradient.tolist()
    (0.3466, [-0.25, -1.860037988010418e-44])
    """
    x, y = _same_shapes(input, target)
    scale = _scale(reduction, x.size)
    factors = []
    for name, given in (("weight", weight), ("pos_weight", pos_weight)):
        factor = np.ones((), x.dtype) if given is None else as_dtype(real_array(name, given), x.dtype)
        try:
            factors.append(np.broadcast_to(factor, x.shape))
        except ValueError:
            raise ValueError(
                f"{name} must be one that broadcasts to the input's shape {x.shape}\nIts shape is {factor.shape}."
            ) from None
    each, positive = factors
    with np.errstate(all="ignore"):
        small = np.exp(-np.abs(x))
        tail = np.log1p(small)  # log(1 + e^-|x|)
        value = np.sum(each * ((1 - y) * (np.maximum(x, 0) + tail) + positive * y * (np.maximum(-x, 0) + tail)),
                       dtype=np.float64)  # fmt: skip
        yes, no = np.where(x < 0, small, 1) / (1 + small), np.where(x < 0, 1, small) / (1 + small)
        gradient = each * ((1 - y) * yes - positive * y * no) * _of(x, scale)
    return _loss(value * scale, gradient, x, y)


def _floats(name: str, value: ArrayLike) -> Array:
    """A real array in float64 if it is of that dtype, else in float32."""
    array = real_array(name, value)
    return as_dtype(array, np.dtype(np.float64 if array.dtype == np.float64 else np.float32))


def _same_shapes(input: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    x, y = _floats("input", input), real_array("target", target)
    if x.shape != y.shape:
        raise ValueError(
            f"input and target must have the same shape\nThey have {x.shape} and {y.shape}. "
            "Nothing is broadcast, since the mean would then be of something else."
        )
    return x, as_dtype(y, x.dtype)


def _scale(reduction: str, count: float) -> float:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum'\nIt is {reduction!r}.")
    if count == 0 and reduction == "mean":
        raise ValueError("a mean of nothing\nThe input is empty, or no target counts.")
    return 1 / count if reduction == "mean" else 1.0


def _of(x: Array, number: float) -> Any:
    """A number in the dtype of x, so that a product stays in it."""
    return x.dtype.type(number)


def _loss(value: Any, gradient: Array, input: Array, target: Array) -> Loss:
    if np.isnan(value):
        check_numbers("input", input)
        check_numbers("target", target)
    return float(value), gradient.astype(input.dtype, copy=False)
