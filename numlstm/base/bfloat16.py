"""Float32 numbers as bfloat16, which NumPy lacks: their upper 16 bits, as uint16."""

from __future__ import annotations

import numpy as np

from numlstm.base.typing import Array


def rounded(value: Array) -> Array:
    """The bits of float32 numbers as bfloat16, rounded to nearest even; NaN stays NaN.

    Examples
    --------
    >>> widened(rounded(np.float32([1 + 2**-8, 1 + 3 * 2**-8, 1e-45, 3.4e38]))).tolist()
    [1.0, 1.015625, 0.0, inf]
    """
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(value), bits >> 16 | 0x40, nearest).astype(np.uint16)


def widened(bits: Array) -> Array:
    """The float32 numbers of such bits, exactly.

    Examples
    --------
    >>> widened(np.array([0x3F80, 0xC000, 0x7F80], np.uint16)).tolist()
    [1.0, -2.0, inf]
    """
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
