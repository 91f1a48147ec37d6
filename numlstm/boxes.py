"""Where CPython and NumPy keep the parts of a tuple and of an array, for kernels that read them there.

Asking an array for its address from Python takes most of a microsecond, and a step of a small LSTM no more. Both
layouts are part of the C interfaces (``PyTupleObject``; ``PyArrayObject_fields`` in NumPy's
``ndarraytypes.h``: data, nd, dimensions, strides, base, descr), and what is said here is
compared with what Python says, once, before it is relied on.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

HEAD = object.__basicsize__
TYPE = HEAD - 8  # the last word of every object's head
DATA, NDIM, SIZES, STRIDES, DTYPE = HEAD, HEAD + 8, HEAD + 16, HEAD + 24, HEAD + 40
ITEMS = tuple.__basicsize__  # the head of a tuple without its items

Array = np.ndarray[Any, np.dtype[Any]]
ABSENT = object()  # stands for states that are not given; None in a pair of states is a mistake of the caller's


def _word(at: int) -> int:
    return int(ctypes.c_int64.from_address(at).value)


def _as_expected() -> bool:
    """Whether this Python and this NumPy keep things where they are said to be."""
    array = np.empty((2, 3, 5), np.float32)[:, :, ::2]
    pair = (array, None)
    at = id(array)
    sizes, strides = _word(at + SIZES), _word(at + STRIDES)
    return (
        ctypes.sizeof(ctypes.c_void_p) == 8
        and (_word(id(pair) + ITEMS), _word(id(pair) + ITEMS + 8)) == (at, id(None))
        and _word(at + TYPE) == id(np.ndarray)
        and _word(at + DATA) == array.ctypes.data
        and _word(at + NDIM) & 0xFFFFFFFF == array.ndim
        and tuple(_word(sizes + 8 * k) for k in range(3)) == array.shape
        and tuple(_word(strides + 8 * k) for k in range(3)) == array.strides
        and _word(at + DTYPE) == id(array.dtype)
    )


try:
    readable = _as_expected()
except Exception:  # another Python: everything works without, a little slower
    readable = False


def address(array: Array) -> int:
    """The address of an array's first number."""
    return _word(id(array) + DATA) if readable else int(array.ctypes.data)
