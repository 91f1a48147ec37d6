"""Where CPython and NumPy keep the parts of a tuple and of an array, for kernels that read them there.

Asking an array for its address from Python takes most of a microsecond, as long as a step of a small LSTM. Both layouts
are part of the C interfaces (``PyTupleObject``; ``PyArrayObject_fields`` in NumPy's ``ndarraytypes.h``: data, nd,
dimensions, strides, base, descr). The offsets here are compared once with what Python says before they are used. The
functions that make objects, which NumPy's extensions find in the same way, are tried once too.
"""

from __future__ import annotations

import ctypes
import sys
from typing import NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.kernels.plan_layout import CARRAY, SELF_DATA

HEAD = object.__basicsize__
TYPE = HEAD - 8  # the last word of every object's head
DATA, NDIM, SIZES, STRIDES, DTYPE = HEAD, HEAD + 8, HEAD + 16, HEAD + 24, HEAD + 40
COUNT, ITEMS = HEAD, tuple.__basicsize__  # of a tuple: the last word of its head, and its items
NUMPY_ABI, ARRAY_TYPE, NEW_FROM_DESCR, SET_BASE = 0x2000000, 2, 94, 282  # version 2, and places in NumPy's table


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
        and _word(id(pair) + COUNT) == len(pair)
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


class Functions(NamedTuple):
    """Addresses of C functions that built-in functions of machine code call."""

    new_array: int  # PyArray_NewFromDescr
    set_base: int  # PyArray_SetBaseObject
    new_tuple: int  # PyTuple_New, Py_IncRef, Py_DecRef
    incref: int
    decref: int
    save_thread: int  # PyEval_SaveThread, PyEval_RestoreThread
    restore_thread: int
    set_error: int  # PyErr_SetString


def _functions() -> Functions:
    """The functions, once they were seen to work.

    Raises
    ------
    NotImplementedError
        Objects are laid out in another way, or this Python has no GIL, on which the built-in functions rely.
    """
    if not readable or sys.implementation.name != "cpython" or "free-threading" in sys.version or DATA != SELF_DATA:
        raise NotImplementedError
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]  # whence every extension has it

    word, pointer = ctypes.c_int64, ctypes.c_void_p
    capsule = ctypes.PYFUNCTYPE(pointer, ctypes.py_object, pointer)(("PyCapsule_GetPointer", ctypes.pythonapi))
    table = capsule(_multiarray_umath._ARRAY_API, None)
    if ctypes.PYFUNCTYPE(ctypes.c_uint)(_word(table))() != NUMPY_ABI or _word(table + 8 * ARRAY_TYPE) != id(np.ndarray):
        raise NotImplementedError
    new_array, set_base = _word(table + 8 * NEW_FROM_DESCR), _word(table + 8 * SET_BASE)
    names = "PyTuple_New", "Py_IncRef", "Py_DecRef", "PyEval_SaveThread", "PyEval_RestoreThread", "PyErr_SetString"
    of_python = (int(ctypes.cast(ctypes.pythonapi[name], pointer).value or 0) for name in names)
    functions = Functions(new_array, set_base, *of_python)
    ctypes.PYFUNCTYPE(None, ctypes.py_object)(functions.incref)(float32 := np.dtype(np.float32))  # the array takes it
    make = ctypes.PYFUNCTYPE(
        ctypes.py_object, pointer, pointer, ctypes.c_int, pointer, pointer, pointer, ctypes.c_int, pointer
    )(new_array)
    sizes = (word * 2)(3, 5)
    array = make(id(np.ndarray), id(float32), 2, ctypes.addressof(sizes), None, None, 0, None)
    if type(array) is not np.ndarray or array.dtype is not float32 or array.shape != (3, 5) or not array.flags.carray:
        raise NotImplementedError
    view_of = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.py_object)(functions.set_base)
    for taken in (float32, array):
        ctypes.PYFUNCTYPE(None, ctypes.py_object)(functions.incref)(taken)
    view = make(id(np.ndarray), id(float32), 2, ctypes.addressof(sizes), None, address(array), CARRAY, None)
    if view_of(view, array) != 0 or view.base is not array or view.shape != (3, 5) or not view.flags.carray:
        raise NotImplementedError
    return functions


try:
    functions: Functions | None = _functions()
except Exception:  # calls then go through the executor
    functions = None
