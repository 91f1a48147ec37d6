"""A tensor in a file: what is known of it before its numbers are read, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats.budget import Budget

Order = Literal["<", ">"]  # little or big endian

FLOATS = ("float16", "bfloat16", "float32", "float64")
AXES = 64  # of an array of NumPy's at most
TENSOR = 1500  # bytes of memory for a tensor that is described, its names, and the LSTM that it may belong to
NUMBERS = 5  # halves of the numbers in float32 at least: them, the copy in an LSTM, and a part that is converted
WIDTHS = {"bfloat16": 2}  # bytes of what NumPy has no dtype for


class Tensor(NamedTuple):
    """A tensor that is still in its file.

    Parameters
    ----------
    shape : tuple of int
        Checked by the format's reader against the bytes that the file has for it.
    dtype : str
        Name of the number type: NumPy's, or ``"bfloat16"``.
    read : callable
        Gives the numbers as an array of this shape, in NumPy's dtype of that name and the machine's byte order;
        bfloat16 as float32, which holds every bfloat16 exactly. Only while the file is open.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]

    def __reduce__(self) -> tuple[Any, ...]:
        return Tensor, (self.shape, self.dtype, _left_behind)

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype!r})"

    @property
    def nbytes(self) -> int:
        """Bytes that its numbers take in the file."""
        return prod(self.shape) * width(self.dtype)

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """One whose numbers are already in memory."""
        return cls(array.shape, array.dtype.name, lambda: array)


def _left_behind() -> Array:
    """What reads the numbers of a pickle or a copy."""
    raise ValueError(
        "a tensor that was pickled or copied left its numbers in the file\nnumlstm.load_tensors reads them there."
    )


def hold_numbers(budget: Budget, tensors: Iterable[Tensor]) -> None:
    """Charge what the numbers of these tensors take once they are read."""
    nbytes = sum(prod(tensor.shape) * max(4, width(tensor.dtype)) for tensor in tensors)
    budget.hold(nbytes * NUMBERS // 2, "the numbers of its tensors", "Trained weights are not: save them anew.")


def width(dtype: str) -> int:
    """Bytes of a number of the type of that name, as in `Tensor`.

    Examples
    --------
    >>> width("bfloat16"), width("float64")
    (2, 8)
    """
    return WIDTHS.get(dtype) or np.dtype(dtype).itemsize


def widened(bits: Array) -> Array:
    """float32 numbers from the bits of bfloat16, which are their upper halves.

    Parameters
    ----------
    bits : ndarray of uint16
        In the machine's byte order.

    Examples
    --------
    >>> widened(np.array([0x3F80, 0xC000, 0x7F80], np.uint16)).tolist()
    [1.0, -2.0, inf]
    """
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def decoded(
    data: bytes | bytearray | memoryview, dtype: str, shape: tuple[int, ...], byte_order: Literal["<", ">"] = "<"
) -> Array:
    """The array that these bytes are, without copying them where the byte order allows.

    Parameters
    ----------
    data : bytes-like
        Exactly the numbers, in C order.
    dtype : str
        As in `Tensor`.
    shape : tuple of int
    byte_order : "<" or ">"
        Little or big endian.

    Examples
    --------
    >>> decoded(bytes([0, 1, 0, 2]), "uint16", (2,), ">").tolist()
    [1, 2]
    """
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder(byte_order)
    if len(data) != prod(shape) * stored.itemsize:
        raise ValueError(f"{len(data)} bytes are not the {dtype} numbers of shape {shape}")
    array = np.frombuffer(data, stored).reshape(shape)
    array = array.astype(stored.newbyteorder("="), copy=False)
    return widened(array) if dtype == "bfloat16" else array
