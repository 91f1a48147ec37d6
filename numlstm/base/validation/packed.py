"""Checks of packed sequences, lengths and padding. Where PyTorch raises, the first line of the message is its own."""

from __future__ import annotations

import operator
from numbers import Complex
from reprlib import repr as show
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arrays import any_array, device_shape, on_device, own_shape, to_host
from numlstm.base.validation.shapes import CallShapes

Indices = np.ndarray[Any, np.dtype[np.int64]]
NUMBERS = "biufc"  # of np.dtype.kind: numbers of any kind, and bools
C_NAMES = {  # in PyTorch's messages; other integers are int8_t and so on
    "float16": "c10::Half",
    "float32": "float",
    "float64": "double",
    "complex64": "c10::complex<float>",
    "complex128": "c10::complex<double>",
    "int32": "int",
}


# ---------------------------------------------------------------- arrays


def number_array(name: str, value: object) -> Array:
    """The value as an array of numbers of any kind."""
    array = any_array(name, value)
    if array.dtype.kind not in NUMBERS:
        raise TypeError(
            f"{name} must hold numbers, not {array.dtype}\nReceived: a {type(value).__name__} of shape {array.shape}."
        )
    return array


def whole_numbers(name: str, value: object) -> Indices:
    """A copy of the value as int64, of any shape. Floats may be given if they are whole."""
    try:
        array = any_array(name, value)
    except ValueError as error:  # ragged lists
        raise TypeError(str(error)) from error
    if array.size == 0 and array.dtype.kind == "f":  # NumPy makes an empty list float64
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        wide = array.astype(np.float64)
        if (np.abs(wide) < 2**53).all() and (wide == np.floor(wide)).all():
            array = wide.astype(np.int64)
    if array.dtype.kind not in "iu" or (array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any()):
        raise TypeError(
            f"{name} must hold whole numbers, not {show(array.tolist())} of {array.dtype}\n"
            "Give integers of any width, or floats that are whole."
        )
    return array.astype(np.int64)  # a copy: nobody else can change it after it was checked


# ---------------------------------------------------------------- packed sequences


class Parts(NamedTuple):
    """The fields of a `PackedSequence`."""

    data: Array
    batch_sizes: Indices
    sorted_indices: Indices | None
    unsorted_indices: Indices | None


def checked_parts(sequence: Any, anywhere: bool = False) -> Parts:
    """The parts of a packed sequence, PyTorch's too, if they fit together.

    With `anywhere`, data on a device stay there.
    """
    sizes = whole_numbers("batch_sizes", sequence.batch_sizes)
    data = sequence.data
    if anywhere and on_device(data):
        shape = device_shape(data)
    else:
        data = own_shape(number_array("data", data))
        shape = data.shape
    _check_sizes(sizes, shape)
    order, back = (_row_indices(sequence, name, int(sizes[0])) for name in ("sorted_indices", "unsorted_indices"))
    if (order is None) != (back is None) or (order is not None and (order[back] != np.arange(sizes[0])).any()):
        raise RuntimeError(
            "unsorted_indices must be the inverse of sorted_indices\n"
            "Leave unsorted_indices out, and they are made from sorted_indices."
        )
    return Parts(data, sizes, order, back)


def _check_sizes(sizes: Indices, shape: Shape) -> None:
    """Check batch_sizes, also against the shape of the data."""
    if sizes.size == 0:
        raise RuntimeError("batch_sizes can not be empty\nA packed sequence has one step at least.")
    if sizes.ndim != 1:
        raise _not_1d("batch_sizes must have one axis; their", sizes)
    if sizes[-1] < 1 or (sizes[1:] > sizes[:-1]).any():
        raise RuntimeError(
            "batch_sizes must be positive and never larger than the one before\n"
            f"They are {show(sizes.tolist())}: how many rows take each step, the longest first."
        )
    wraps = int(sizes[0]) * sizes.size > np.iinfo(np.int64).max  # the first one is the largest
    total = sum(sizes.tolist()) if wraps else int(sizes.sum())
    if not shape or total != shape[0]:
        raise RuntimeError(
            f"batch_sizes must sum to the number of rows in data, not to {total}\ndata has shape {shape}."
        )


def _row_indices(sequence: object, name: str, batch: int) -> Indices | None:
    given = getattr(sequence, name, None)
    if given is None:
        return None
    rows = whole_numbers(name, to_host(name, given))
    if rows.shape != (batch,) or not is_permutation(rows):
        raise RuntimeError(
            f"{name} must hold each of the numbers from 0 to {batch - 1} once\n"
            f"They are {show(rows.tolist())}, and batch_sizes begin with {batch}."
        )
    return rows


def is_permutation(rows: Indices) -> bool:
    """Whether these are the numbers from 0 on, each once."""
    return bool((np.sort(rows) == np.arange(len(rows))).all())


def _not_1d(whose: str, array: Indices) -> RuntimeError:
    return RuntimeError(
        f"'lengths' argument should be a 1D CPU int64 tensor, but got {array.ndim}D cpu Long tensor\n"
        f"{whose} shape is {array.shape}."
    )


# ---------------------------------------------------------------- lengths


def checked_lengths(lengths: object, call: CallShapes, shape: Shape) -> Indices:
    """One length for each sequence of a padded batch of that shape, from 0 to its number of steps."""
    if call.unbatched:
        raise ValueError(
            "lengths is for a batch, but the input is unbatched\n"
            f"Its shape is {shape}; cut the sequence to its length instead."
        )
    counts = one_length_each(lengths, call.batch)
    check_range(counts, 0, shape[1] if call.swap else shape[0])
    return counts


def one_length_each(lengths: object, batch: int) -> Indices:
    """One length for each sequence."""
    counts = whole_numbers("lengths", lengths)
    if counts.ndim != 1:
        raise _not_1d("lengths must have one axis; its", counts)
    if len(counts) != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(counts)} (batch_size={batch})\n"
            "There must be one length for each sequence."
        )
    return counts


def check_sorted(lengths: Indices) -> None:
    """Check that lengths decrease."""
    if lengths[-1] > 0 and (lengths[1:] > lengths[:-1]).any():
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if you "
            f"do not need ONNX exportability.\nlengths are {show(lengths.tolist())}."
        )


def check_range(lengths: Indices, least: int, steps: int) -> None:
    """Check that all lengths are from `least`, which is 0 or 1, to the number of steps."""
    if (lengths < least).any():
        said = "greater than 0, but found an element in 'lengths' that is <= 0"
        if least == 0:
            said = "at least 0, but found an element in 'lengths' that is < 0"
    elif (lengths > steps).any():
        said = f"at most {steps}, the number of steps, but found {lengths.max()} in 'lengths'"
    else:
        return
    raise RuntimeError(f"Length of all samples has to be {said}\nlengths are {show(lengths.tolist())}.")


# ---------------------------------------------------------------- other arguments


def check_flag(what: str, value: object) -> None:
    """Check an argument that PyTorch takes as a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be bool, not {type(value).__name__}\nIt is {show(value)}.")


def checked_count(what: str, value: Any) -> int:
    """An argument that PyTorch takes as an int."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be int, not {type(value).__name__}\nIt is {show(value)}.") from None


def checked_padding(what: str, value: object, data: Array) -> Any:
    """The padding value in the dtype of the data, if it is in range."""
    if not isinstance(value, Complex):
        raise TypeError(f"{what}, not {type(value).__name__}\nIt is {show(value)}.")
    kind, dtype = data.dtype.kind, data.dtype
    if kind == "b":
        return bool(value)
    number: Any = value if kind == "c" else value.real
    if kind in "fc":
        most = np.finfo(dtype).max
        overflows = any(abs(part) > most and abs(part) != float("inf") for part in (value.real, value.imag))
    else:
        bounds = np.iinfo(dtype)
        wraps = kind == "u" and isinstance(number, int | np.integer)  # PyTorch takes -1 for the largest
        overflows = not (-int(bounds.max) if wraps else int(bounds.min)) <= number <= int(bounds.max)  # nor is NaN
    if overflows or (kind != "c" and value.imag != 0):
        raise RuntimeError(
            f"value cannot be converted to type {C_NAMES.get(dtype.name, dtype.name + '_t')} without overflow\n"
            f"padding_value is {show(value)}, and the data are {dtype}."
        )
    return np.array(int(number) if kind in "iu" else number).astype(dtype)


def check_broadcast(n: int, shape: Shape, into: Shape) -> None:
    """Check that sequence `n` has the axes of the first, or ones that broadcast to them."""
    wide = (1,) * (len(shape) - len(into)) + into
    narrow = (1,) * (len(into) - len(shape)) + shape
    said = f"\nsequence {n} has shape {shape}, and those of the first have {into[1:]} behind the steps."
    for axis in range(len(wide) - 1, -1, -1):
        if wide[axis] != narrow[axis] and 1 not in (wide[axis], narrow[axis]):
            raise RuntimeError(
                f"The size of tensor a ({wide[axis]}) must match the size of tensor b ({narrow[axis]}) "
                f"at non-singleton dimension {axis}{said}"
            )
    both = [max(pair) if 0 not in pair else 0 for pair in zip(wide, narrow, strict=True)]
    if both != list(into):
        raise RuntimeError(f"output with shape {list(into)} doesn't match the broadcast shape {both}{said}")
