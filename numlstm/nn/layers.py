"""Layers around an LSTM: a linear head, an embedding, layer normalisation and dropout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from numlstm.autodiff.gradients import Gradients, checked_gradient
from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arguments import check_flag, dropout_probability, parameter_dtype, positive_count
from numlstm.base.validation.arrays import as_dtype, loadable_parameters, parameter_array, real_array
from numlstm.kernels.plan_layout import Activation
from numlstm.module import IncompatibleKeys
from numlstm.nn.functions import EPSILON, contiguous, normalised, normalised_gradient
from numlstm.runtime.head import Head


class Layer:
    """Parameters by name: what layers with parameters share, and what an optimiser asks of a module."""

    _hold: Callable[..., None]  # takes the sizes from the shape of the weight, and the flags

    def __init__(self, dtype: Any, seed: Any, drawn: Callable[[np.random.Generator], dict[str, Array]]) -> None:
        self._dtype = parameter_dtype(dtype)
        arrays = drawn(np.random.default_rng(seed))
        self._parameters = {name: self._own(as_dtype(array, self._dtype)) for name, array in arrays.items()}

    @classmethod
    def _from_parameters(cls, parameters: Mapping[str, Array], **flags: Any) -> Self:
        """A loaded layer with these parameters by name, which give its sizes and its dtype; nothing is drawn."""
        layer = cls.__new__(cls)
        layer._dtype = parameter_dtype(parameters["weight"].dtype)
        layer._parameters = {name: cls._own(as_dtype(array, layer._dtype)) for name, array in parameters.items()}
        layer._hold(parameters["weight"].shape, **flags)
        return layer

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
        self._replace({name: array})

    def _replace(self, arrays: Mapping[str, Array]) -> None:
        """Take these parameters, all at once."""
        self._parameters = self._parameters | {name: self._own(array) for name, array in arrays.items()}

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
        self._replace(arrays)
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
        in_features = positive_count("in_features", in_features, "the size of an input's last axis")
        out_features = positive_count("out_features", out_features, "the size of an output's last axis")
        self._hold((out_features, in_features))
        check_flag("bias", bias)
        bound = self.in_features**-0.5
        shapes: dict[str, Shape] = {"weight": (self.out_features, self.in_features)}
        if bias:
            shapes["bias"] = (self.out_features,)
        super().__init__(
            dtype, seed, lambda rng: {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
        )

    def _hold(self, shape: Shape) -> None:
        self.out_features, self.in_features = shape

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
        return self.head()(self.checked(input))

    def head(self, activation: Activation = Activation.IDENTITY, skip: float = 0.0) -> Head:
        """The layer and an activation, packed for the kernel."""
        parameters = self._parameters  # replaced whole when one changes
        known = self._heads.get((activation, skip))
        if known is not None and known[1] is parameters:
            return known[0]
        packed = Head(self._dtype, parameters["weight"], parameters.get("bias"), activation, skip)
        self._heads[activation, skip] = packed, parameters
        return packed

    @cached_property
    def _heads(self) -> dict[tuple[Activation, float], tuple[Head, dict[str, Array]]]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_heads"}

    def checked(self, input: ArrayLike) -> Array:
        """The input as the kernel reads it: C-contiguous, of the layer's dtype."""
        array = contiguous(input, self._dtype)
        if array.ndim == 0 or array.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of the input must be in_features={self.in_features}\nIts shape is {array.shape}."
            )
        return array

    def _product(self, x: Array) -> Array:
        """The layer by NumPy, for training: its weights change after each call, so that packing them is no gain."""
        y: Array = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        return y

    def vjp(self, input: ArrayLike) -> tuple[Array, Callable[..., Gradients]]:
        """Apply the layer, and return its backward pass too. The output is that of a call within rounding.

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
        x = np.array(self.checked(input))
        weight, has_bias = self.weight, self.bias is not None
        output = self._product(x)

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
        num_embeddings = positive_count("num_embeddings", num_embeddings, "how many vectors there are")
        embedding_dim = positive_count("embedding_dim", embedding_dim, "the size of a vector")
        self._hold((num_embeddings, embedding_dim), padding_idx=padding_idx)

        def drawn(rng: np.random.Generator) -> dict[str, Array]:
            weight = rng.standard_normal((self.num_embeddings, self.embedding_dim))
            if self.padding_idx is not None:
                weight[self.padding_idx] = 0
            return {"weight": weight}

        super().__init__(dtype, seed, drawn)

    def _hold(self, shape: Shape, *, padding_idx: int | None = None) -> None:
        self.num_embeddings, self.embedding_dim = shape
        if padding_idx is not None:
            if not -self.num_embeddings <= padding_idx < self.num_embeddings:
                raise ValueError(
                    f"padding_idx must be within num_embeddings={self.num_embeddings}\nIt is {padding_idx}."
                )
            padding_idx %= self.num_embeddings
        self.padding_idx = padding_idx

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{padding})"

    def __call__(self, input: ArrayLike) -> Array:
        """Look up the vectors of an array of indices of any shape."""
        return self.weight[self._checked(input)]

    def _checked(self, input: ArrayLike) -> Array:
        array = input if type(input) is np.ndarray and input.dtype == np.int64 else real_array("input", input)
        if array.dtype.kind == "f":
            raise TypeError(f"an Embedding is given whole numbers, not {array.dtype}\nConvert them: input.astype(int).")
        check_indices("input", array, self.num_embeddings, "num_embeddings")
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


class LayerNorm(Layer):
    """``layer_norm(x) * weight + bias``, as ``torch.nn.LayerNorm`` over the last axis.

    Parameters
    ----------
    normalized_shape : int
        Size of the last axis.
    eps : float
        Added to the variance.
    bias : bool
        Whether there is a bias.
    dtype : dtype, optional
        float32 (the default) or float64.

    Attributes
    ----------
    weight : ndarray, (normalized_shape,)
        Ones at first.
    bias : ndarray, (normalized_shape,), or None
        Zeros at first.

    Examples
    --------
    >>> norm = LayerNorm(4)
    >>> norm, norm([1.0, 1.0, 3.0, 3.0]).round(3).tolist()
    (LayerNorm(4), [-1.0, -1.0, 1.0, 1.0])
    """

    def __init__(self, normalized_shape: int, eps: float = EPSILON, bias: bool = True, dtype: Any = None) -> None:
        size = positive_count("normalized_shape", normalized_shape, "the size of an input's last axis")
        check_flag("bias", bias)
        self._hold((size,), eps=eps)
        drawn = {"weight": np.ones(size)} | ({"bias": np.zeros(size)} if bias else {})
        super().__init__(dtype, None, lambda rng: drawn)

    def _hold(self, shape: Shape, *, eps: float = EPSILON) -> None:
        (self.normalized_shape,) = shape
        self.eps = float(eps)

    def __repr__(self) -> str:
        eps = "" if self.eps == EPSILON else f", eps={self.eps!r}"
        bias = "" if self.bias is not None else ", bias=False"
        return f"LayerNorm({self.normalized_shape}{eps}{bias})"

    @property
    def bias(self) -> Array | None:
        """The bias, read-only, or None."""
        return self._parameters.get("bias")

    def __call__(self, input: ArrayLike) -> Array:
        """Apply the layer to an array of any shape that ends in normalized_shape."""
        return self._scaled(normalised(self._checked(input), self.eps)[0])

    def _scaled(self, y: Array) -> Array:
        return y * self.weight if self.bias is None else y * self.weight + self.bias

    def _checked(self, input: ArrayLike) -> Array:
        array = real_array("input", input)
        if array.ndim == 0 or array.shape[-1] != self.normalized_shape:
            raise ValueError(
                f"the last axis of the input must be normalized_shape={self.normalized_shape}\n"
                f"Its shape is {array.shape}."
            )
        return as_dtype(array, self._dtype)

    def vjp(self, input: ArrayLike) -> tuple[Array, Callable[..., Gradients]]:
        """Apply the layer, and return its backward pass too, as `Linear.vjp` does."""
        y, scale = normalised(self._checked(input), self.eps)
        weight, has_bias, shape = self.weight, self.bias is not None, y.shape

        def backward(d_output: ArrayLike, *, input_grad: bool = True) -> Gradients:
            d = checked_gradient("d_output", d_output, shape, weight.dtype)
            parameters = {"weight": (d * y).reshape(-1, len(weight)).sum(axis=0)}
            if has_bias:
                parameters["bias"] = d.reshape(-1, len(weight)).sum(axis=0)
            of_input = normalised_gradient(y, scale, d * weight) if input_grad else None
            return Gradients(of_input, None, parameters)

        return self._scaled(y), backward


class Dropout:
    """Zero some numbers in train mode, as ``torch.nn.Dropout``; in eval mode the input itself.

    Parameters
    ----------
    p : float
        Probability of zeroing a number. The others are divided by 1 - p.
    seed : int, optional
        What `numpy.random.default_rng` takes.

    Attributes
    ----------
    training : bool
        True at first. A model that is put into eval mode sets it to False.

    Examples
    --------
    >>> drop = Dropout(0.5, seed=0)
    >>> sorted(set(drop(np.ones(100)).tolist()))
    [0.0, 2.0]
    >>> drop.training = False
    >>> drop([1.0, 2.0])
    array([1., 2.])
    """

    def __init__(self, p: float = 0.5, *, seed: Any = None) -> None:
        self.p = dropout_probability(p)
        self.training = True
        self._seed = seed

    @cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self._seed)

    def __repr__(self) -> str:
        return f"Dropout(p={self.p})"

    def __call__(self, input: ArrayLike) -> Array:
        """Drop numbers of the input in train mode."""
        array = input if type(input) is np.ndarray else real_array("input", input)
        if not self.training or self.p == 0:
            return array
        return array * self._mask(array)

    def _mask(self, array: Array) -> Array:
        """What the input is multiplied with."""
        keep = self._rng.random(array.shape) >= self.p
        dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float32)
        mask: Array = np.multiply(keep, 1 / (1 - self.p) if self.p < 1 else 0, dtype=dtype)
        return mask

    def vjp(self, input: ArrayLike) -> tuple[Array, Callable[..., Gradients]]:
        """Drop numbers, and return the backward pass too: it drops those of the gradient."""
        array = real_array("input", input)
        mask = self._mask(array) if self.training and self.p > 0 else None
        output = array if mask is None else array * mask

        def backward(d_output: ArrayLike, *, input_grad: bool = True) -> Gradients:
            d = checked_gradient("d_output", d_output, output.shape, output.dtype)
            return Gradients(d if mask is None else d * mask, None, {})

        return output, backward


def check_indices(name: str, indices: Array, count: int, of: str) -> None:
    """Check that all are from 0 to below the count, which `of` names."""
    if indices.dtype == np.int64 and np.maximum.reduce(indices.view(np.uint64), axis=None, initial=0) < count:
        return
    wrong = indices[(indices < 0) | (indices >= count)]
    if wrong.size:
        raise IndexError(f"{name} must hold indices from 0 to {of} - 1 = {count - 1}\nIt holds {wrong.flat[0]}.")
