"""Arrays of other dtypes and strides: which of them a kernel can read in place, and how the rest is converted."""

from __future__ import annotations

import numpy as np

from numlstm.base.typing import Array


def readable(x: Array, dtype: np.dtype[np.floating]) -> bool:
    """Whether a kernel can read an input where it is: aligned, of its dtype, the features of a row adjacent."""
    return x.dtype == dtype and x.flags.aligned and (x.strides[-1] == x.itemsize or x.shape[-1] == 1)


def readable_state(given: Array, final: Array) -> Array:
    """The array to read an initial state from: itself, or the final state's array, into which it is converted."""
    if given.dtype == final.dtype and given.flags.carray:
        return given
    convert(final, given)
    return final


def convert(into: Array, given: Array) -> None:
    """Copy numbers of another dtype. Values beyond its range become infinite without a warning, as in PyTorch."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(into, given, casting="unsafe")
