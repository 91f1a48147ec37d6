"""Rows of float32 numbers as int8 with a scale each."""

from __future__ import annotations

import numpy as np

from numlstm.base.typing import Array

MOST = np.float32(127)
LEAST = np.float32(2.0**-100)  # a row whose numbers are all smaller becomes zeros


def rounded(rows: Array) -> tuple[Array, Array]:
    """Integers from -127 to 127, and the scale of each row: the least of 16 significant bits that suffices.

    So an integer times its scale is a float32 without rounding, and rounded again it gives the same integers and scale.

    Parameters
    ----------
    rows : ndarray of float32, (rows, columns)
        Finite numbers.

    Returns
    -------
    integers : ndarray of int8, (rows, columns)
    scales : ndarray of float32, (rows,)

    Examples
    --------
    >>> rounded(np.float32([[254, -3, 1], [0, 0, 0]]))
    (array([[127,  -2,   0],
           [  0,   0,   0]], dtype=int8), array([2., 0.], dtype=float32))
    """
    most = np.abs(rows).max(axis=1, initial=0)
    scales = np.where(most < LEAST, np.float32(0), most / MOST).astype(np.float32)
    scales = (scales.view(np.uint32) + 0xFF & 0xFFFFFF00).view(np.float32)
    integers = np.rint(rows / np.where(scales == 0, np.float32(np.inf), scales)[:, None])
    return integers.astype(np.int8), scales


def rounded_inputs(rows: Array) -> Array:
    """Inputs or states as a cell with int8 weights reads them, in float64: each row has the scale m / 127.

    m is its largest magnitude. `docs/arithmetic.md` defines the rest.

    Examples
    --------
    >>> rounded_inputs(np.float32([[127, -2.6, 1.4]])).tolist()
    [[127.0, -3.0, 1.0]]
    """
    with np.errstate(all="ignore"):
        most = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
        integers = np.rint(rows * (MOST / most)).astype(np.float64) * (most / MOST)
        return np.where(most < LEAST, 0, np.where(np.isfinite(most), integers, np.nan))


def widened(integers: Array, scales: Array) -> Array:
    """The float32 numbers of such rows, exactly.

    Examples
    --------
    >>> widened(*rounded(np.float32([[254, -3, 1]]))).tolist()
    [[254.0, -4.0, 0.0]]
    """
    return integers * scales[:, None]
