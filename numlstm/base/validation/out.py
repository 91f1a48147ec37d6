"""The arrays of ``out=``: type, dtype, shape, layout, and no memory shared with anything else of the call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy import ndarray

from numlstm.base.typing import Array, States
from numlstm.base.validation.arrays import own_shape
from numlstm.base.validation.shapes import CallShapes
from numlstm.base.wording import counted

OVERLAP_WORK = 10_000  # candidate solutions tried before two arrays count as overlapping
NAMES = ("output", "h_n", "c_n")


def out_arrays(out: Any, call: CallShapes, dtype: np.dtype[Any], input: Array, hx: States | None) -> tuple[Array, ...]:
    """The three arrays of ``out=`` as plain ndarrays that the call may write."""
    check_three(out)
    plain = []
    for name, given, shape in zip(NAMES, out, (call.output, call.hidden, call.cell), strict=True):
        array = given
        if type(given) is not ndarray:
            _check_type(name, given, dtype)
            array = ndarray.view(given, ndarray)  # a subclass may misreport its own shape or dtype
        if array.dtype is not dtype:
            _check_type(name, array, dtype)
        if array.shape != shape:
            raise ValueError(f"{name} in out must have shape {shape}, not {array.shape}")
        if not array.flags.carray:
            raise _layout_error(name, array)
        plain.append(array)
    check_no_overlap(plain, input, hx)
    plain[0] = own_shape(plain[0], call.output)
    return tuple(plain)


def check_three(out: object) -> None:
    """Raise TypeError unless `out` is a tuple or list of three."""
    if not isinstance(out, tuple | list) or len(out) != 3:
        what = counted(len(out), "item") if isinstance(out, tuple | list) else type(out).__name__
        raise TypeError(f"out must be a tuple (output, h_n, c_n), not {what}")


def _check_type(name: str, array: object, dtype: np.dtype[Any]) -> None:
    if not isinstance(array, ndarray) or hasattr(array, "mask"):
        raise TypeError(f"{name} in out must be a numpy.ndarray, not {type(array).__name__}")
    if array.dtype != dtype:
        raise TypeError(f"{name} in out must have dtype {dtype}, not {array.dtype}\nResults are not converted.")


def _layout_error(name: str, array: Array) -> ValueError:
    if not array.flags.c_contiguous:
        return ValueError(f"{name} in out must be C-contiguous\nIts strides are {array.strides}.")
    if not array.flags.writeable:
        return ValueError(f"{name} in out must be writeable, but it is read-only")
    return ValueError(f"{name} in out must be aligned to its {array.itemsize}-byte numbers")


def check_no_overlap(out: Sequence[Array], input: Array, hx: States | None) -> None:
    """Raise ValueError for results that share memory with each other or with what the call reads.

    The arrays' numbers are not read. One overlap is allowed: h_n may be h_0 itself, and c_n may be c_0.
    """
    held = (*out, *(hx or ()))
    same = 0 if hx is None else (out[1] is hx[0]) + (out[2] is hx[1])
    ids = set(map(id, held))
    different = len(ids) + same == len(held) and _own_their_memory(held)
    if different and id(input) not in ids and input.flags.owndata:
        return
    results = dict(zip(NAMES, out, strict=True))
    if different:  # from each other: only the input is searched
        hx = None
    else:
        for one, other in combinations(NAMES, 2):
            _check_apart(one, results[one], other, results[other])
    for name, array in results.items():
        _check_apart(name, array, "input", input)
        for start, state, end in zip(("h_0", "c_0"), hx or (), ("h_n", "c_n"), strict=False):
            if name != end or not _same_numbers(array, state):
                _check_apart(name, array, start, state)


def _own_their_memory(arrays: tuple[Array, ...]) -> bool:
    for array in arrays:  # noqa: SIM110 (all() takes three times as long)
        if not array.flags.owndata:
            return False
    return True


def _check_apart(name: str, array: Array, other_name: str, other: Array) -> None:
    if not np.may_share_memory(array, other):
        return
    try:
        shared = np.shares_memory(array, other, max_work=OVERLAP_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        shared = True
    if shared:
        raise ValueError(
            f"{name} in out shares memory with {other_name}\n"
            "Only h_n may be the very array passed as h_0, and c_n that passed as c_0."
        )


def _same_numbers(array: Array, other: Array) -> bool:
    """Whether two arrays are views of the same numbers in the same order."""
    return (
        array.dtype == other.dtype
        and array.shape == other.shape
        and array.strides == other.strides
        and array.__array_interface__["data"][0] == other.__array_interface__["data"][0]
    )
