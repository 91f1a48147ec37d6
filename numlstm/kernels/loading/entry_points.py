"""A kernel that can be called: C functions at the addresses of loaded machine code."""

import ctypes
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..plan_layout import (
    BACKWARD,
    BIND,
    EXCHANGE,
    FASTCALL,
    FORWARD,
    HEAD,
    SMALL_BACK,
    SMALL_VJP,
    STEP,
    STREAM_ENTRY,
)
from .levels import Level

Forward = Callable[[int], None]
Bind = Callable[[int, int], None]
Step = Callable[[int], int]
Exchange = Callable[[int, int, int], int]
RunHead = Callable[[int, int, int, int, int], None]
Bound = Callable[[object], Any]
ENTRIES = FORWARD, BIND, FASTCALL, STEP, STREAM_ENTRY, EXCHANGE, HEAD
TRAINING_ENTRIES = FORWARD, BACKWARD, SMALL_VJP, SMALL_BACK
METHOD_FASTCALL = 0x80  # a built-in function that takes its arguments as a C array
METHOD_NOARGS, METHOD_O = 0x4, 0x8  # one that takes none, or just one


class Kernel(NamedTuple):
    """A loaded kernel: its C functions, and where it came from.

    ``forward`` takes the address of a plan, ``bind`` that of a plan and that of the tuple of arrays. ``fastcall``
    binds a built-in function to an array of ``Fastcall`` slots, ``stream_step`` and ``stream_call`` to one of
    ``StreamSlots``. ``step`` takes the address of a stream, and ``exchange`` sets its flag. ``head`` takes addresses
    of a record, of what it reads and of what it writes, the number of rows, and the address of what is added, or 0.
    """

    forward: Forward
    bind: Bind
    fastcall: Bound
    step: Step
    stream_step: Bound
    stream_call: Bound
    exchange: Exchange
    head: RunHead
    level: Level
    origin: str
    seconds: float
    keep: object  # what owns the code's memory


class TrainingKernel(NamedTuple):
    """A loaded kernel for training: ``forward`` also keeps what ``backward`` needs; both take the address of a plan.

    ``small_vjp`` and ``small_back`` bind built-in functions to an array of ``SmallCall`` slots.
    """

    forward: Forward
    backward: Forward
    small_vjp: Bound
    small_back: Bound
    level: Level
    origin: str
    seconds: float
    keep: object


def callable_training(
    address: Mapping[str, int], level: Level, origin: str, begun: float, keep: object
) -> TrainingKernel:
    """The C functions at the addresses of ``TRAINING_ENTRIES``."""
    forward, backward = (ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address[name]) for name in (FORWARD, BACKWARD))
    forward.code = keep  # type: ignore[attr-defined]  # as that of the other kernel
    vjp, back = (_binder(address[name], keep, name.encode(), METHOD_FASTCALL) for name in (SMALL_VJP, SMALL_BACK))
    return TrainingKernel(forward, backward, vjp, back, level, origin, time.perf_counter() - begun, keep)


def callable_kernel(address: Mapping[str, int], level: Level, origin: str, begun: float, keep: object) -> Kernel:
    """The C functions at the addresses of ``ENTRIES``. They drop the GIL, but for ``bind``, which reads objects."""
    forward = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address[FORWARD])
    forward.code = keep  # type: ignore[attr-defined]  # a worker may still spin in it when the kernel is gone
    bind = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address[BIND])
    word = ctypes.c_int64
    return Kernel(
        forward,
        bind,
        _binder(address[FASTCALL], keep, b"numlstm_fastcall", METHOD_FASTCALL),
        ctypes.CFUNCTYPE(word, word)(address[STEP]),
        _binder(address[STREAM_ENTRY], keep, b"step", METHOD_NOARGS),
        _binder(address[STREAM_ENTRY], keep, b"numlstm_stream", METHOD_O),
        ctypes.CFUNCTYPE(word, word, word, word)(address[EXCHANGE]),
        ctypes.CFUNCTYPE(None, *[word] * 5)(address[HEAD]),
        level,
        origin,
        time.perf_counter() - begun,
        keep,
    )


class _Method(ctypes.Structure):
    """``PyMethodDef`` of Python's stable interface."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def _binder(address: int, code: object, name: bytes, kind: int) -> Bound:
    """Bind the machine code at an address as built-in functions: they hold the GIL and cost less than ctypes."""
    method = _Method(name, address, kind, None)
    kinds = ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p
    new = ctypes.PYFUNCTYPE(*kinds)(("PyCFunction_NewEx", ctypes.pythonapi))  # once: it makes a class

    def bind(bound_to: object) -> Any:
        for needed in (method, code):  # kept for good: a function may be called until Python ends
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(needed))
        return new(ctypes.addressof(method), bound_to, None)

    return bind
