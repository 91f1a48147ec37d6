"""What stands around an LSTM in training: a linear head, an embedding, and losses.

A layer's ``vjp`` gives its result and a function from the result's gradient to its own gradients, as that of an LSTM
does. A loss gives its value and its gradient at once. There is no engine that traces what is called in between: hand
each gradient on yourself, from the loss down.

Examples
--------
>>> import numpy as np
>>> head = Linear(2, 1, dtype=np.float64, seed=0)
>>> x, y = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [2.0], [3.0]])
>>> for _ in range(200):
...     prediction, backward = head.vjp(x)
...     value, d_prediction = mse_loss(prediction, y)
...     for name, gradient in backward(d_prediction).parameters.items():
...         setattr(head, name, getattr(head, name) - 0.5 * gradient)
>>> round(value, 6), head([[2.0, 2.0]]).round(3).tolist()
(0.0, [[6.0]])
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from numlstm.autodiff.gradients import Gradients, check_numbers, checked_gradient
from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arguments import check_flag, parameter_dtype, positive_count
from numlstm.base.validation.arrays import as_dtype, loadable_parameters, parameter_array, real_array
from numlstm.module import IncompatibleKeys

__all__ = [
    "Embedding",
    "Linear",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "l1_loss",
    "mse_loss",
]

Loss = tuple[float, Array]


class Layer:
    """Parameters by name: what `Linear` and `Embedding` share, and what an optimiser asks of a module."""

    def __init__(self, dtype: Any, seed: Any, drawn: Callable[[np.random.Generator], dict[str, Array]]) -> None:
        self._dtype = parameter_dtype(dtype)
        arrays = drawn(np.random.default_rng(seed))
        self._parameters = {name: self._own(as_dtype(array, self._dtype)) for name, array in arrays.items()}

    @staticmethod
    def _own(array: Array) -> Array:
        array = np.array(array, order="C")
        array.flags.writeable = False
        return array

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and results: float32 or float64."""
        return self._dtype

    @property
    def weight(self) -> Array:
        """The weight, read-only. Assign an array to change it."""
        return self._parameters["weight"]

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        self._assign("weight", value)

    def _assign(self, name: str, value: ArrayLike) -> None:
        array = parameter_array(name, value, self._parameters[name].shape, self._dtype)
        self._parameters[name] = self._own(array)

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """Yield names and read-only parameters, in the order of the state dict."""
        yield from self._parameters.items()

    def parameters(self) -> Iterator[Array]:
        """Yield the parameters, read-only."""
        yield from self._parameters.values()

    def state_dict(self) -> OrderedDict[str, Array]:
        """Return every parameter by name, as PyTorch names them: writable copies."""
        return OrderedDict((name, array.copy()) for name, array in self._parameters.items())

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike], strict: bool = True) -> IncompatibleKeys:
        """Take parameters from a state dict: all of them or, on an error, none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Arrays of any real dtype; tensors of PyTorch do as well.
        strict : bool
            Whether a missing or unexpected key is an error.

        Raises
        ------
        RuntimeError
            A key is missing or unexpected while `strict`, or a shape is wrong.
        """
        shapes = {name: array.shape for name, array in self._parameters.items()}
        arrays, missing, unexpected = loadable_parameters(type(self).__name__, state_dict, shapes, self._dtype, strict)
        self._parameters |= {name: self._own(array) for name, array in arrays.items()}
        return IncompatibleKeys(missing, unexpected)


class Linear(Layer):
    """``y = x W^T + b``, as ``torch.nn.Linear``.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of input and output.
    bias : bool
        Whether b is added.
    dtype : dtype, optional
        float32 (the default) or float64.
    seed : int, optional
        What `numpy.random.default_rng` takes.

    Attributes
    ----------
    weight : ndarray, (out_features, in_features)
    bias : ndarray, (out_features,), or None
        Drawn from U(-1/sqrt(in_features), 1/sqrt(in_features)). Assign an array to change one.

    Examples
    --------
    >>> head = Linear(3, 2, seed=0)
    >>> head, head(np.ones((5, 4, 3))).shape
    (Linear(in_features=3, out_features=2, bias=True), (5, 4, 2))
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = None, *, seed: Any = None
    ) -> None:
        self.in_features = positive_count("in_features", in_features, "the size of an input's last axis")
        self.out_features = positive_count("out_features", out_features, "the size of an output's last axis")
        check_flag("bias", bias)
        bound = self.in_features**-0.5
        shapes: dict[str, Shape] = {"weight": (self.out_features, self.in_features)}
        if bias:
            shapes["bias"] = (self.out_features,)
        super().__init__(
            dtype, seed, lambda rng: {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
        )

    def __repr__(self) -> str:
        has_bias = self.bias is not None
        return f"Linear(in_features={self.in_features}, out_features={self.out_features}, bias={has_bias})"

    @property
    def bias(self) -> Array | None:
        """The bias, read-only, or None. Assign an array to change it."""
        return self._parameters.get("bias")

    @bias.setter
    def bias(self, value: ArrayLike) -> None:
        if "bias" not in self._parameters:
            raise AttributeError(f"{self!r} has no bias\nMake it with bias=True.")
        self._assign("bias", value)

    def __call__(self, input: ArrayLike) -> Array:
        """Apply the layer to an array of any shape that ends in in_features."""
        return self._apply(self._checked(input))

    def _checked(self, input: ArrayLike) -> Array:
        array = real_array("input", input)
        if array.ndim == 0 or array.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of the input must be in_features={self.in_features}\nIts shape is {array.shape}."
            )
        return as_dtype(array, self._dtype)

    def _apply(self, x: Array) -> Array:
        y: Array = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        return y

    def vjp(self, input: ArrayLike) -> tuple[Array, Callable[..., Gradients]]:
        """Apply the layer, and return its backward pass too.

        Parameters
        ----------
        input : array_like, (..., in_features)

        Returns
        -------
        output : ndarray, (..., out_features)
        backward : callable
            ``backward(d_output, *, input_grad=True)`` gives ``.input``, the gradient by the input, and
            ``.parameters``, those by weight and bias. It has the input and the weights of this call.

        Examples
        --------
        >>> head = Linear(2, 1, dtype=np.float64, seed=0)
        >>> output, backward = head.vjp([[1.0, 2.0], [3.0, 4.0]])
        >>> grads = backward([[1.0], [1.0]])
        >>> grads.parameters["weight"].tolist(), grads.parameters["bias"].tolist()
        ([[4.0, 6.0]], [2.0])
        """
        x = np.array(self._checked(input))
        weight, has_bias = self.weight, self.bias is not None
        output = self._apply(x)

        def backward(d_output: ArrayLike, *, input_grad: bool = True) -> Gradients:
            d = checked_gradient("d_output", d_output, output_shape, weight.dtype)
            rows = d.reshape(-1, len(weight))
            parameters = {"weight": rows.T @ x.reshape(-1, weight.shape[1])}
            if has_bias:
                parameters["bias"] = rows.sum(axis=0)
            return Gradients(d @ weight if input_grad else None, None, parameters)

        output_shape = output.shape
        return output, backward


class Embedding(Layer):
    """A vector for each of a number of indices, as ``torch.nn.Embedding``.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        How many vectors there are, and their size.
    padding_idx : int, optional
        An index whose vector begins as zeros and gets no gradient.
    dtype : dtype, optional
        float32 (the default) or float64.
    seed : int, optional
        What `numpy.random.default_rng` takes.

    Attributes
    ----------
    weight : ndarray, (num_embeddings, embedding_dim)
        Drawn from N(0, 1). Assign an array to change it.

    Examples
    --------
    >>> table = Embedding(10, 3, seed=0)
    >>> table, table([[1, 2], [4, 5]]).shape
    (Embedding(10, 3), (2, 2, 3))
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: Any = None,
        *,
        seed: Any = None,
    ) -> None:
        self.num_embeddings = positive_count("num_embeddings", num_embeddings, "how many vectors there are")
        self.embedding_dim = positive_count("embedding_dim", embedding_dim, "the size of a vector")
        if padding_idx is not None:
            if not -self.num_embeddings <= padding_idx < self.num_embeddings:
                raise ValueError(
                    f"padding_idx must be within num_embeddings={self.num_embeddings}\nIt is {padding_idx}."
                )
            padding_idx %= self.num_embeddings
        self.padding_idx = padding_idx

        def drawn(rng: np.random.Generator) -> dict[str, Array]:
            weight = rng.standard_normal((self.num_embeddings, self.embedding_dim))
            if padding_idx is not None:
                weight[padding_idx] = 0
            return {"weight": weight}

        super().__init__(dtype, seed, drawn)

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{padding})"

    def __call__(self, input: ArrayLike) -> Array:
        """Look up the vectors of an array of indices of any shape."""
        return self.weight[self._checked(input)]

    def _checked(self, input: ArrayLike) -> Array:
        array = real_array("input", input)
        if array.dtype.kind == "f":
            raise TypeError(f"an Embedding is given whole numbers, not {array.dtype}\nConvert them: input.astype(int).")
        _check_indices("input", array, self.num_embeddings, "num_embeddings")
        return array

    def vjp(self, input: ArrayLike) -> tuple[Array, Callable[..., Gradients]]:
        """Look up vectors, and return the backward pass too.

        Parameters
        ----------
        input : array_like of int

        Returns
        -------
        output : ndarray, (..., embedding_dim)
        backward : callable
            ``backward(d_output)`` gives ``.parameters["weight"]``, in which the gradients of an index that occurs
            several times are added up. Its ``.input`` is None: indices have no gradient.

        Examples
        --------
        >>> output, backward = Embedding(3, 2, seed=0).vjp([2, 0, 2])
        >>> backward([[1, 2], [3, 4], [5, 6]]).parameters["weight"].tolist()
        [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]
        """
        indices = np.array(self._checked(input))
        output = self.weight[indices]
        shape, of_weight, dtype = output.shape, self.weight.shape, self._dtype

        def backward(d_output: ArrayLike, *, input_grad: bool = True) -> Gradients:
            d = checked_gradient("d_output", d_output, shape, dtype)
            gradient = np.zeros(of_weight, dtype)
            np.add.at(gradient, indices, d)
            if self.padding_idx is not None:
                gradient[self.padding_idx] = 0
            return Gradients(None, None, {"weight": gradient})

        return output, backward


def _check_indices(name: str, indices: Array, count: int, of: str) -> None:
    wrong = indices[(indices < 0) | (indices >= count)]
    if wrong.size:
        raise IndexError(f"{name} must hold indices from 0 to {of} - 1 = {count - 1}\nIt holds {wrong.flat[0]}.")


# Losses ------------------------------------------------------------------------------------------------------------


def mse_loss(input: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Loss:
    """The mean of squared differences, and its gradient by the input; as ``torch.nn.functional.mse_loss``.

    Parameters
    ----------
    input, target : array_like
        Of the same shape.
    reduction : "mean" or "sum"

    Returns
    -------
    value : float
    gradient : ndarray
        Of the input's shape and dtype.

    Raises
    ------
    ValueError
        The shapes differ, or an array holds NaN.

    Examples
    --------
    >>> value, gradient = mse_loss([1.0, 2.0], [0.0, 4.0])
    >>> value, gradient.tolist()
    (2.5, [1.0, -2.0])
    """
    x, y = _same_shapes(input, target)
    scale = _scale(reduction, x.size)
    difference = x - y
    return _loss(np.sum(difference * difference, dtype=np.float64) * scale, difference * _of(x, 2 * scale), x, y)


def l1_loss(input: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Loss:
    """The mean of absolute differences, and its gradient by the input; as ``torch.nn.functional.l1_loss``.

    Parameters, results and errors are those of `mse_loss`. Where input and target are equal the gradient is 0.

    Examples
    --------
    >>> value, gradient = l1_loss([1.0, 2.0], [0.0, 4.0])
    >>> value, gradient.tolist()
    (1.5, [0.5, -0.5])
    """
    x, y = _same_shapes(input, target)
    scale = _scale(reduction, x.size)
    difference = x - y
    return _loss(np.sum(np.abs(difference), dtype=np.float64) * scale, np.sign(difference) * _of(x, scale), x, y)


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Loss:
    """Cross entropy between logits and classes, and its gradient; as ``torch.nn.functional.cross_entropy``.

    Parameters
    ----------
    input : array_like, (C,), (N, C) or (N, C, d_1, ...)
        Logits. For the output of an LSTM, (T, B, C), give ``output.reshape(-1, C)``.
    target : array_like
        Classes: integers of the input's shape without its axis of classes. Or probabilities: floats of its shape.
    weight : array_like, (C,), optional
        How much each class counts.
    ignore_index : int
        A class that counts nothing, as of padding.
    reduction : "mean" or "sum"
        The mean is over those that count, by their weights; with probabilities over all.
    label_smoothing : float
        From 0 to 1: how much of each target is shared out among all classes.

    Returns
    -------
    value : float
    gradient : ndarray
        Of the input's shape and dtype.

    Raises
    ------
    ValueError
        Shapes do not fit, no target counts, or an array holds NaN.
    IndexError
        A class is not below C.

    Examples
    --------
    >>> value, gradient = cross_entropy([[2.0, 0.0, 0.0]], [0])
    >>> round(value, 4), gradient.round(4).tolist()
    (0.2395, [[-0.213, 0.1065, 0.1065]])
    """
    x, given = _floats("input", input), real_array("target", target)
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"the input must have an axis of classes, and not be empty\nIts shape is {x.shape}.")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0\nIt is {label_smoothing!r}.")
    axis = 0 if x.ndim == 1 else 1
    each = np.ones(x.shape[axis], x.dtype)
    if weight is not None:
        each = as_dtype(real_array("weight", weight), x.dtype)
        if each.shape != (x.shape[axis],):
            raise ValueError(
                f"weight must have the shape ({x.shape[axis]},), a number a class\nIts shape is {each.shape}."
            )
    each = np.expand_dims(each, [k for k in range(x.ndim) if k != axis])
    of_target = _probabilities if given.dtype.kind == "f" else _classes
    parts, total = of_target(x, given, each, axis, ignore_index, label_smoothing)
    parts = parts.astype(x.dtype) * _of(x, _scale(reduction, total))
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis=axis, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(axis=axis, keepdims=True)
        value = -np.sum(np.where(parts != 0, parts * (shifted - np.log(sums)), 0), dtype=np.float64)
        gradient = powers / sums * parts.sum(axis=axis, keepdims=True) - parts
    return _loss(value, gradient, x, given)


def _probabilities(
    x: Array, given: Array, each: Array, axis: int, ignore_index: int, smoothing: float
) -> tuple[Array, float]:
    """How much each logarithm of `cross_entropy` counts, and what a mean is over."""
    if given.shape != x.shape:
        raise ValueError(
            f"probabilities must have the input's shape {x.shape}\nTheir shape is {given.shape}. "
            "Classes are integers: target.astype(int)."
        )
    smooth = as_dtype(given, x.dtype) * (1 - smoothing) + smoothing / x.shape[axis]
    return smooth * each, x.size / x.shape[axis]


def _classes(
    x: Array, given: Array, each: Array, axis: int, ignore_index: int, smoothing: float
) -> tuple[Array, float]:
    """Likewise."""
    wanted = x.shape[:axis] + x.shape[axis + 1 :]
    if given.shape != wanted:
        raise ValueError(
            f"classes for an input of shape {x.shape} must have the shape {wanted}\nTheir shape is {given.shape}."
        )
    counts = np.expand_dims(given != ignore_index, axis)
    known = np.where(given == ignore_index, 0, given)
    _check_indices("target", known, x.shape[axis], "C")
    hit = np.expand_dims(known, axis) == np.arange(x.shape[axis]).reshape(each.shape)
    parts = np.where(counts, each * ((1 - smoothing) * hit + smoothing / x.shape[axis]), 0)
    return parts, float(np.sum(np.where(counts & hit, each, 0), dtype=np.float64))


def binary_cross_entropy_with_logits(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> Loss:
    """Cross entropy between logits and probabilities of yes; as in ``torch.nn.functional``.

    Parameters
    ----------
    input, target : array_like
        Logits, and numbers from 0 to 1, of the same shape.
    weight, pos_weight : array_like, optional
        Factors of each term, and of the part of each that is for yes; they are broadcast.
    reduction : "mean" or "sum"

    Returns
    -------
    value : float
    gradient : ndarray
        Of the input's shape and dtype.

    Raises
    ------
    ValueError
        Shapes do not fit, or an array holds NaN.

    Examples
    --------
    >>> value, gradient = binary_cross_entropy_with_logits([0.0, 100.0], [1, 1])
    >>> round(value, 4), gradient.tolist()
    (0.3466, [-0.25, -1.860037988010418e-44])
    """
    x, y = _same_shapes(input, target)
    scale = _scale(reduction, x.size)
    factors = []
    for name, given in (("weight", weight), ("pos_weight", pos_weight)):
        factor = np.ones((), x.dtype) if given is None else as_dtype(real_array(name, given), x.dtype)
        try:
            factors.append(np.broadcast_to(factor, x.shape))
        except ValueError:
            raise ValueError(
                f"{name} must be one that broadcasts to the input's shape {x.shape}\nIts shape is {factor.shape}."
            ) from None
    each, positive = factors
    with np.errstate(all="ignore"):
        small = np.exp(-np.abs(x))
        tail = np.log1p(small)  # log(1 + e^-|x|)
        value = np.sum(each * ((1 - y) * (np.maximum(x, 0) + tail) + positive * y * (np.maximum(-x, 0) + tail)),
                       dtype=np.float64)  # fmt: skip
        yes, no = np.where(x < 0, small, 1) / (1 + small), np.where(x < 0, 1, small) / (1 + small)
        gradient = each * ((1 - y) * yes - positive * y * no) * _of(x, scale)
    return _loss(value * scale, gradient, x, y)


def _floats(name: str, value: ArrayLike) -> Array:
    """A real array in float64 if it is of that dtype, else in float32."""
    array = real_array(name, value)
    return as_dtype(array, np.dtype(np.float64 if array.dtype == np.float64 else np.float32))


def _same_shapes(input: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    x, y = _floats("input", input), real_array("target", target)
    if x.shape != y.shape:
        raise ValueError(
            f"input and target must have the same shape\nThey have {x.shape} and {y.shape}. "
            "Nothing is broadcast, since the mean would then be of something else."
        )
    return x, as_dtype(y, x.dtype)


def _scale(reduction: str, count: float) -> float:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum'\nIt is {reduction!r}.")
    if count == 0 and reduction == "mean":
        raise ValueError("a mean of nothing\nThe input is empty, or no target counts.")
    return 1 / count if reduction == "mean" else 1.0


def _of(x: Array, number: float) -> Any:
    """A number in the dtype of x, so that a product stays in it."""
    return x.dtype.type(number)


def _loss(value: Any, gradient: Array, input: Array, target: Array) -> Loss:
    if np.isnan(value):
        check_numbers("input", input)
        check_numbers("target", target)
    return float(value), gradient.astype(input.dtype, copy=False)
