"""Keras' activations by name, in NumPy. Source: keras/src/activations/activations.py of Keras 3.15."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import erf, pi
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats.budget import shown
from numlstm.models.keras.signal import Context, Json, OfArray

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805  # of selu


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    with np.errstate(over="ignore"):
        y: Array = np.reciprocal(1 + np.exp(-x))
    return y


def softmax(x: Array, axis: Any = -1) -> Array:
    """exp(x) over its sum along an axis or several."""
    axis = tuple(axis) if isinstance(axis, list) else axis
    e: Array = np.exp(x - x.max(axis=axis, keepdims=True))
    e /= e.sum(axis=axis, keepdims=True)
    return e


def log_softmax(x: Array, axis: int = -1) -> Array:
    """The logarithm of softmax."""
    x = x - x.max(axis=axis, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=axis, keepdims=True))
    return x


def relu(x: Array, negative_slope: float = 0, max_value: float | None = None, threshold: float = 0) -> Array:
    """0 below the threshold, or sloped, and never above max_value."""
    if not (negative_slope or threshold) and max_value is None:
        return np.maximum(x, 0)
    below = negative_slope * (x - threshold) if negative_slope else np.zeros_like(x)
    y = np.where(x >= threshold, x, below).astype(x.dtype, copy=False)
    return y if max_value is None else np.minimum(y, max_value)


def leaky_relu(x: Array, negative_slope: float = 0.2) -> Array:
    """X, or a part of it below 0."""
    return np.where(x >= 0, x, negative_slope * x).astype(x.dtype, copy=False)


def elu(x: Array, alpha: float = 1) -> Array:
    """X, or alpha (exp(x) - 1) below 0."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))).astype(x.dtype, copy=False)


def celu(x: Array, alpha: float = 1) -> Array:
    """X, or alpha (exp(x / alpha) - 1) below 0."""
    y: Array = np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha)
    return y


def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    y: Array = np.logaddexp(x, x.dtype.type(0))
    return y


def gelu(x: Array, approximate: bool = False) -> Array:
    """X times the normal distribution function of x."""
    if approximate:
        share: Array = np.tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3))
    else:
        share = _erf(x * 0.5**0.5).astype(x.dtype)
    y: Array = 0.5 * x * (1 + share)
    return y


_erf = np.vectorize(erf, otypes=[np.float64])


def hard_sigmoid(x: Array, is_older: bool = False) -> Array:
    """A line between 0 and 1. Keras 2 has another slope."""
    return np.clip(0.2 * x + 0.5 if is_older else x / 6 + 0.5, 0, 1)


ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "celu": celu,
    "elu": elu,
    "exponential": np.exp,
    "gelu": gelu,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": lambda x: x * hard_sigmoid(x),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu": leaky_relu,
    "linear": lambda x: x,
    "log_sigmoid": lambda x: -softplus(-x),
    "log_softmax": log_softmax,
    "mish": lambda x: x * np.tanh(softplus(x)),
    "relu": relu,
    "relu6": lambda x: np.clip(x, 0, 6),
    "selu": lambda x: SCALE * elu(x, ALPHA),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "softmax": softmax,
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "tanh": np.tanh,
    "tanh_shrink": lambda x: x - np.tanh(x),
}
ACTIVATIONS |= {"swish": ACTIVATIONS["silu"], "hard_swish": ACTIVATIONS["hard_silu"]}
LAYERS = {"LeakyReLU": "leaky_relu", "ReLU": "relu", "ELU": "elu", "Softmax": "softmax"}  # also as activation=
RENAMED = {"alpha": "negative_slope", "theta": "threshold"}  # arguments in Keras 2
DEFAULTS = {"LeakyReLU": {"negative_slope": 0.3}}


def activation(value: object, context: Context) -> OfArray | None:
    """The function of an ``activation`` in a configuration; None for a linear one.

    Raises
    ------
    ValueError
        It has no function here; the message lists those that have.
    """
    if isinstance(value, dict):
        kind, config = value.get("class_name"), value.get("config")
        if kind in LAYERS and isinstance(config, dict):
            return of_layer(str(kind), config)
        value = config if isinstance(config, str) else kind
    if value is None or value == "linear":
        return None
    if value not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(f"its activation {shown(str(value))!r} is not one of {known}")
    if value in ("hard_sigmoid", "hard_silu", "hard_swish") and context.version < (3, 0):
        return partial(hard_sigmoid, is_older=True) if value == "hard_sigmoid" else ACTIVATIONS[str(value)]
    return ACTIVATIONS[str(value)]


def of_layer(kind: str, config: Json) -> OfArray:
    """The function of an activation that is a layer: LeakyReLU, ReLU, ELU or Softmax."""
    wanted = {"LeakyReLU": ("negative_slope",), "ELU": ("alpha",), "Softmax": ("axis",)}
    names = wanted.get(kind, ("negative_slope", "max_value", "threshold"))
    given: Json = dict(DEFAULTS.get(kind, {}))
    for key, value in config.items():
        key = RENAMED.get(key, key) if kind == "LeakyReLU" or key == "theta" else key
        if key in names:
            given[key] = float(value) if isinstance(value, int | float) and key != "axis" else value
    return partial(ACTIVATIONS[LAYERS[kind]], **given)
