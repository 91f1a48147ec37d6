"""Functions around an LSTM, of the field's names: each with its derivative.

``relu(x)`` gives the values, ``relu.vjp(x)`` also the function from their gradient to that of x, as a layer's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from numlstm.autodiff.gradients import Gradients, checked_gradient
from numlstm.base.typing import Array
from numlstm.base.validation.arguments import FLOAT32, FLOAT64
from numlstm.base.validation.arrays import as_dtype, real_array
from numlstm.kernels.plan_layout import Activation
from numlstm.runtime.head import Head


class Function:
    """A function of an array, with its derivative. It keeps the dtype of floats; integers become float32.

    Parameters
    ----------
    name : str
    values : callable
        From x to y.
    gradient : callable
        From (x, y, the gradient of y) to the gradient of x.
    formula : str
        The first line of help.
    """

    def __init__(
        self,
        name: str,
        values: Callable[[Array], Array],
        gradient: Callable[[Array, Array, Array], Array],
        formula: str,
    ) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__, self.__doc__ = __name__, formula
        self._values, self._gradient = values, gradient

    def __call__(self, input: ArrayLike) -> Array:
        """The values of the function."""
        return self._values(_floats(input))

    def vjp(self, input: ArrayLike) -> tuple[Array, Callable[..., Gradients]]:
        """The values, and a function from their gradient to ``.input``, the gradient by the input."""
        x = np.array(_floats(input))
        y = self(x)

        def backward(d_output: ArrayLike, *, input_grad: bool = True) -> Gradients:
            d = checked_gradient("d_output", d_output, y.shape, y.dtype)
            with np.errstate(over="ignore", under="ignore"):
                return Gradients(self._gradient(x, y, d) if input_grad else None, None, {})

        return y, backward

    def __repr__(self) -> str:
        return self.__name__

    def __reduce__(self) -> str:
        return self.__name__


def _floats(input: ArrayLike) -> Array:
    x = input if type(input) is np.ndarray else real_array("input", input)
    if x.dtype in (FLOAT32, FLOAT64):
        return x
    wide = x.dtype.kind == "f" and x.dtype.itemsize >= FLOAT64.itemsize
    return as_dtype(real_array("input", x), FLOAT64 if wide else FLOAT32)


def contiguous(input: Any, dtype: np.dtype[Any]) -> Array:
    """The input as a kernel reads it: a C-contiguous array of that dtype."""
    if type(input) is np.ndarray and input.dtype is dtype and input.flags.c_contiguous:
        return input
    array: Array = np.asarray(as_dtype(real_array("input", input), dtype), order="C")
    return array


def _by_kernel(activation: Activation) -> Callable[[Array], Array]:
    """The values of an activation that the kernel has: the same bits alone and behind a Linear layer."""
    heads = {dtype: cache(partial(Head, dtype, activation=activation)) for dtype in (FLOAT32, FLOAT64)}

    def values(x: Array) -> Array:
        return heads[x.dtype]()(np.ascontiguousarray(x)).reshape(x.shape)

    return values


def _log_softmax(x: Array) -> Array:
    shifted: Array = x - x.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


EPSILON = 1e-5  # of torch's layer_norm


def normalised(x: Array, eps: float) -> tuple[Array, Array]:
    """The numbers of the last axis less their mean, over their standard deviation; and one over that."""
    with np.errstate(over="ignore", invalid="ignore"):
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = 1 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
        centred *= scale
    return centred, scale


def normalised_gradient(y: Array, scale: Array, d: Array) -> Array:
    """The gradient of what was normalised, from that of the result y."""
    gradient: Array = scale * (d - d.mean(axis=-1, keepdims=True) - y * (d * y).mean(axis=-1, keepdims=True))
    return gradient


relu = Function("relu", _by_kernel(Activation.RELU), lambda x, y, d: d * (x > 0), "max(x, 0), as torch's relu.")
sigmoid = Function(
    "sigmoid",
    _by_kernel(Activation.SIGMOID),
    lambda x, y, d: d * y * (1 - y),
    "1 / (1 + exp(-x)), as torch's sigmoid.",
)
tanh = Function(
    "tanh",
    _by_kernel(Activation.TANH),
    lambda x, y, d: d * (1 - y * y),
    "The hyperbolic tangent, as torch's tanh.",
)
softmax = Function(
    "softmax",
    _by_kernel(Activation.SOFTMAX),
    lambda x, y, d: y * (d - (d * y).sum(axis=-1, keepdims=True)),
    "exp(x) over its sum along the last axis, as torch's softmax with dim=-1.",
)
log_softmax = Function(
    "log_softmax",
    _log_softmax,
    lambda x, y, d: d - np.exp(y) * d.sum(axis=-1, keepdims=True),
    "The logarithm of softmax, as torch's log_softmax with dim=-1.",
)
layer_norm = Function(
    "layer_norm",
    lambda x: normalised(x, EPSILON)[0],
    lambda x, y, d: normalised_gradient(y, normalised(x, EPSILON)[1], d),
    "x less its mean, over its standard deviation, along the last axis, as torch's layer_norm without weights.",
)
ACTIVATIONS = {
    relu: Activation.RELU,
    sigmoid: Activation.SIGMOID,
    tanh: Activation.TANH,
    softmax: Activation.SOFTMAX,
}  # that a kernel computes
FUNCTIONS: dict[str, Any] = {
    function.__name__: function for function in (relu, sigmoid, tanh, softmax, log_softmax, layer_norm)
}


class _LastState:
    """The last state of an LSTM's last layer, both directions side by side: ``last_state(lstm(x))``.

    In a `Sequential` it follows an LSTM. It is ``h_n[-1]`` in PyTorch, or ``cat([h_n[-2], h_n[-1]], -1)`` of a
    bidirectional LSTM, and what a Keras LSTM returns without return_sequences.
    """

    __name__ = "last_state"

    def __call__(self, result: tuple[Array, tuple[Array, Array]]) -> Array:
        """The state of (output, (h_n, c_n)): (batch, features), or (features,) without a batch."""
        output, (h_n, _) = result
        directions = output.shape[-1] // h_n.shape[-1]
        return h_n[-1] if directions == 1 else np.concatenate([h_n[-2], h_n[-1]], axis=-1)

    def vjp(self, result: tuple[Array, tuple[Array, Array]]) -> tuple[Array, Callable[..., Gradients]]:
        """The state, and a function from its gradient to ``.input``, the gradients of output and of (h_n, c_n)."""
        (output, (h_n, c_n)), y = result, self(result)
        directions = output.shape[-1] // h_n.shape[-1]

        def backward(d_output: ArrayLike, *, input_grad: bool = True) -> Gradients:
            d = checked_gradient("d_output", d_output, y.shape, y.dtype)
            d_h = np.zeros_like(h_n)
            d_h[-directions:] = np.stack(np.split(d, directions, axis=-1))
            return Gradients((None, (d_h, np.zeros_like(c_n))), None, {})

        return y, backward

    def __repr__(self) -> str:
        return self.__name__

    def __reduce__(self) -> str:
        return self.__name__


last_state = _LastState()
FUNCTIONS["last_state"] = last_state
