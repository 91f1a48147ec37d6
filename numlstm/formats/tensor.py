"""A tensor in a file: what is known of it before its numbers are read, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from numlstm.base.bfloat16 import widened
from numlstm.base.typing import Array
from numlstm.formats.budget import PACKED, Budget

Order = Literal["<", ">"]  # little or big endian

FLOATS = ("float16", "bfloat16", "float32", "float64")
AXES = 64  # NumPy's own limit
TENSOR = 1500  # bytes of memory for a tensor's description, its names, and the LSTM that it may belong to
COPIES = 2.5  # of the numbers, in float32 or wider: as read, in the LSTM, and half for a part being converted


class Tensor(NamedTuple):
    """A tensor whose numbers are still in the file.

    Parameters
    ----------
    shape : tuple of int
        The format's reader has checked it against the size of the data.
    dtype : str
        Name of the number type: NumPy's, or ``"bfloat16"``.
    read : callable
        Returns the numbers as an array of this shape, in NumPy's dtype of that name and native byte order. bfloat16
        becomes float32, which is exact. It works only while the file is open.
    is_quantised : bool
        The file holds integers that these numbers are computed from.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]
    is_quantised: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Tensor, (self.shape, self.dtype, _left_behind, self.is_quantised)

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype!r})"

    @property
    def nbytes(self) -> int:
        """Size of its numbers in the file, in bytes."""
        return prod(self.shape) * width(self.dtype)

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """Return a tensor whose numbers are already in memory."""
        return cls(array.shape, array.dtype.name, lambda: array)

    @classmethod
    def unreadable(cls, what: str) -> Tensor:
        """Return a tensor that only has a name; `what` says what it holds in place of numbers that can be read."""
        return cls((), what, _unreadable)


class Quantised(NamedTuple):
    """Integers that stand for numbers: (integer - zero point) * scale, computed in float32.

    PyTorch's ``dequantize`` and ONNX's DequantizeLinear give the same bits. An engine that computes with integers would
    take them from here.

    Parameters
    ----------
    integers : Tensor
    scales, zero_points : Tensor
        One number, or as many as `along` has.
    along : tuple of int
        The shape in which they are repeated to that of the integers.
    """

    integers: Tensor
    scales: Tensor
    zero_points: Tensor
    along: tuple[int, ...] = ()

    def tensor(self) -> Tensor:
        """The numbers; ValueError if the parts do not fit each other."""
        shape, along = self.integers.shape, self.along
        fits = not along or len(along) == len(shape)
        fits &= all(length in (1, whole) for length, whole in zip(along, shape, strict=False))
        for part in (self.scales, self.zero_points):
            if not fits or prod(part.shape) not in (1, prod(along)):
                raise ValueError(
                    f"quantised integers of shape {shape} have scales or zero points of shape {part.shape}"
                )
        return Tensor(shape, "float32", self.read, is_quantised=True)

    def read(self) -> Array:
        """Compute the numbers.

        Examples
        --------
        >>> parts = (np.array([[2, 3], [4, 5]], np.int8), np.array([1.0, 0.5]), np.array(1))
        >>> Quantised(*map(Tensor.of, parts), (2, 1)).read().tolist()
        [[1.0, 2.0], [1.5, 2.0]]
        """
        with np.errstate(over="ignore", invalid="ignore"):  # as the scales of a damaged file
            scales, zero_points = (
                part.read().astype(dtype).reshape(self.along if prod(part.shape) > 1 else ())
                for part, dtype in ((self.scales, np.float32), (self.zero_points, np.int32))
            )
            numbers: Array = (self.integers.read().astype(np.int32) - zero_points).astype(np.float32)
            numbers *= scales
        return numbers


def _unreadable() -> Array:
    raise ValueError("it holds no numbers that can be read")


def _left_behind() -> Array:
    raise ValueError(
        "a pickled or copied Tensor has no numbers, which stay in the file\nnumlstm.load_tensors reads them."
    )


def hold_numbers(budget: Budget, tensors: Iterable[Tensor]) -> None:
    """Charge the memory for the numbers of these tensors, before they are read."""
    nbytes = sum(prod(tensor.shape) * max(4, width(tensor.dtype)) for tensor in tensors)
    budget.hold(int(nbytes * COPIES), "the numbers of its tensors", PACKED)


def widest(dtypes: Iterable[str]) -> str:
    """Return the widest of these number types; one that is not in `FLOATS` counts as narrower than all."""
    return max(dtypes, key=lambda dtype: FLOATS.index(dtype) if dtype in FLOATS else -1)


def width(dtype: str) -> int:
    """Size of a number of that type in bytes. The names are those of `Tensor`.

    Examples
    --------
    >>> width("bfloat16"), width("float64")
    (2, 8)
    """
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def decoded(data: bytes | bytearray | memoryview, dtype: str, shape: tuple[int, ...], byte_order: Order = "<") -> Array:
    """Return bytes as an array; they are copied only to swap bytes or to widen bfloat16.

    Parameters
    ----------
    data : bytes-like
        The numbers and nothing else, in C order.
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
