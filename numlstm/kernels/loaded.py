"""A kernel that can be called: three addresses of machine code as C functions, however they came into memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .abi import CALL, FORWARD, QUICK
from .levels import Level

Forward = Callable[[int], None]
Call = Callable[[int, int], int]
Bind = Callable[[object], Any]
ENTRIES = FORWARD, CALL, QUICK
METHOD_FASTCALL = 0x80  # a built-in function that takes its arguments as a C array


class Kernel(NamedTuple):
    """A loaded kernel: its C functions, and where it came from.

    ``forward`` takes the address of a plan, ``call`` that of a plan and that of the tuple of arrays. ``quick`` takes
    the array of ``abi.Quick`` slots and gives the built-in function that is bound to it.
    """

    forward: Forward
    call: Call
    quick: Bind
    level: Level
    origin: str
    seconds: float
    keep: object  # what owns the code's memory


def callable_kernel(address: Mapping[str, int], level: Level, origin: str, begun: float, keep: object) -> Kernel:
    """The C functions at the addresses of ``ENTRIES``. They drop the GIL, as every ctypes call does."""
    forward = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address[FORWARD])
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(address[CALL])
    return Kernel(forward, call, _binder(address[QUICK], keep), level, origin, time.perf_counter() - begun, keep)


class _Method(ctypes.Structure):
    """``PyMethodDef`` of Python's stable interface."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def _binder(address: int, code: object) -> Bind:
    """What makes built-in functions of the machine code at an address: they hold the GIL, and cost less than ctypes."""
    method = _Method(b"numlstm_quick", address, METHOD_FASTCALL, None)
    kinds = ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p

    def bind(bound_to: object) -> Any:
        for needed in (method, code):  # never let go, since a function may be called until Python has ended
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(needed))
        new = ctypes.PYFUNCTYPE(*kinds)(("PyCFunction_NewEx", ctypes.pythonapi))
        return new(ctypes.addressof(method), bound_to, None)

    return bind
