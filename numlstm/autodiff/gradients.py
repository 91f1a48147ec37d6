"""What a backward pass gives, and what is asked of the gradients that it is given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arrays import as_dtype, real_array


class Gradients(NamedTuple):
    """The gradients of a loss, by what a call was given.

    Attributes
    ----------
    input : ndarray or None
        By the input, in its shape; None if it was not asked for.
    hx : (ndarray, ndarray) or None
        By h_0 and c_0; None where none were given.
    parameters : dict of str to ndarray
        By the parameters, by their names in the state dict.
    """

    input: Any
    hx: tuple[Array, Array] | None
    parameters: dict[str, Array]


def checked_gradient(name: str, value: object, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """A gradient of a result as an array of the right dtype.

    Raises
    ------
    ValueError
        The shape is not that of the result, or there is NaN in it.
    TypeError
        It does not hold real numbers.
    """
    given = value if type(value) is np.ndarray and value.dtype == dtype else real_array(name, value)
    if given.shape != shape:
        raise ValueError(f"{name} must have the shape of its result, {shape}\nIts shape is {given.shape}.")
    array = as_dtype(given, dtype) if given.dtype != dtype else given
    check_numbers(name, array)
    return array


def check_numbers(name: str, array: Array) -> None:
    """Raise ValueError if there is NaN in the array, and say where."""
    flat = array.reshape(-1)
    square = np.dot(flat, flat)  # NaN as soon as one is there, at the speed of memory
    if array.dtype.kind == "f" and np.isnan(square) and (wrong := np.argwhere(np.isnan(array))).size:
        at = tuple(int(k) for k in wrong[0])
        raise ValueError(f"{name} holds NaN\nThere are {len(wrong)} in {array.size} numbers, the first at {at}.")
