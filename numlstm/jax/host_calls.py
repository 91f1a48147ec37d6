"""Functions of arrays as JAX's programs call them.

On the CPU a function is a handler of XLA's foreign function interface, over the memory of XLA's arrays: a C function
that ctypes makes, which reads addresses and sizes in the call frame. The frame is ``XLA_FFI_CallFrame`` of
``xla/ffi/api/c_api.h``, a file of every jaxlib; with the major version 0 of the interface its layout stays. Elsewhere,
``jax.pure_callback`` calls the function, which takes longer and copies arrays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import jax
import numpy as np

from numlstm.base.typing import Array

Function = Callable[..., Sequence[Array]]
EXTENSION, API, ARGUMENTS, RESULTS, FRAME = 1, 2, 5, 10, 15  # words of the frame, and how many are read
COUNT, POINTERS = 2, 4  # words behind ARGUMENTS and RESULTS
DTYPE, DATA, RANK, SIZES, BUFFER = 2, 3, 4, 5, 6  # words of what those point to
METADATA, OF_HANDLER, OF_API = 3, 3, 4  # words of the question for a version: of the extension, metadata, and table
MAKE_ERROR, INTERNAL, ERROR = 6, 13, 4  # a word of the table of functions; the code of an error, and its words
NUMBERS: dict[int, np.dtype[Any]] = {4: np.dtype(np.int32), 11: np.dtype(np.float32), 12: np.dtype(np.float64)}
_handlers: dict[str, Any] = {}  # by name, for good: a program may call them until Python ends


def call(name: str, function: Function, results: Sequence[jax.ShapeDtypeStruct], *arrays: Any) -> Any:
    """Call a function of NumPy's arrays in a program of JAX.

    Parameters
    ----------
    name : str
        Says what the function does, as JAX may keep a program for another process.
    function : callable
        Gives arrays of the shapes and dtypes of ``results``, and leaves its arguments as they are.
    results : sequence of jax.ShapeDtypeStruct
    *arrays : array
        Of float32, float64 or int32.
    """
    if jax.default_backend() == "cpu" and has_handlers():
        _register(name, function)
        return jax.ffi.ffi_call(name, results, vmap_method="sequential")(*arrays)

    def callback(*given: Any) -> tuple[Array, ...]:
        return tuple(function(*map(np.asarray, given)))

    return jax.pure_callback(callback, tuple(results), *arrays, vmap_method="sequential")


@cache
def has_handlers() -> bool:
    """Whether JAX has the interface, and a handler is seen to work."""
    if not hasattr(jax, "ffi"):  # before 0.5
        return False
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    try:
        with jax.ensure_compile_time_eval():
            _register("numlstm_probe", lambda x, y: (x + y, y[0]))
            shapes = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
            found = jax.jit(jax.ffi.ffi_call("numlstm_probe", shapes, vmap_method="sequential"))(x, x)
            return np.array_equal(found[0], 2 * x) and np.array_equal(found[1], x[0])
    except Exception:  # another layout, or another interface
        return False


def _register(name: str, function: Function) -> None:
    if name not in _handlers:
        _handlers[name] = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_handler(function))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(_handlers[name]), platform="cpu")


def _words(at: int, count: int) -> list[int]:
    return list((ctypes.c_int64 * count).from_address(at))


def _handler(function: Function) -> Callable[[int], int | None]:
    """What XLA calls with the address of a frame: it returns NULL, or an error that XLA owns."""

    def handler(at: int) -> int | None:
        frame = _words(at, FRAME)
        try:
            if frame[EXTENSION]:
                _tell_version(frame)
                return None
            given = _arrays(frame, ARGUMENTS)
            for into, array in zip(_arrays(frame, RESULTS), function(*given), strict=True):
                into[...] = array
        except BaseException as error:  # none may pass through XLA
            return _error(frame, f"{type(error).__name__}: {error}")
        return None

    return handler


class _Memory:
    """Numbers at an address, as NumPy takes an object's memory."""

    def __init__(self, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {"data": (at, False), "shape": shape, "typestr": dtype.str, "version": 3}


def _arrays(frame: list[int], at: int) -> list[Array]:
    arrays = []
    for pointer in _words(frame[at + POINTERS], frame[at + COUNT]):
        buffer = _words(pointer, BUFFER)
        shape, dtype = tuple(_words(buffer[SIZES], buffer[RANK])), NUMBERS[buffer[DTYPE] & 0xFFFFFFFF]
        memory: Any = _Memory(buffer[DATA], shape, dtype)
        arrays.append(np.asarray(memory) if prod(shape) else np.empty(shape, dtype))
    return arrays


def _tell_version(frame: list[int]) -> None:
    """Answer with the version that XLA has itself, as long as its frames are laid out as here."""
    version = _words(frame[API], OF_API + 1)[OF_API]
    if version & 0xFFFFFFFF:
        raise NotImplementedError("another version of XLA's foreign function interface")
    metadata = _words(frame[EXTENSION], METADATA + 1)[METADATA]
    ctypes.c_int64.from_address(metadata + 8 * OF_HANDLER).value = version


def _error(frame: list[int], text: str) -> int | None:
    make = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_words(frame[API], MAKE_ERROR + 1)[MAKE_ERROR])
    message = ctypes.create_string_buffer(text.encode())
    given = (ctypes.c_int64 * ERROR)(8 * ERROR - 4, 0, ctypes.addressof(message), INTERNAL)
    error: int | None = make(ctypes.addressof(given))
    return error
