"""Functions of ``keras.ops`` that a Functional graph may call between its layers, by the name of their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.models.keras.activations import ACTIVATIONS, softmax
from numlstm.models.keras.signal import Context, Function, Json, Signal, arrays


def is_operation(spec: Json) -> bool:
    """Whether an entry of a model is a function, and no layer. An .h5 file has no modules, and layers are trainable."""
    if "module" not in spec:
        config = spec.get("config")
        return spec.get("class_name") in OPERATIONS and isinstance(config, dict) and "trainable" not in config
    return str(spec["module"]).startswith(("keras.src.ops", "keras.ops"))


def _taken(x: Array, key: Any) -> Any:
    return x[tuple(key) if isinstance(key, list) else key]


def _axis(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Array, *, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Array:
        more = {} if initial is None else {"initial": initial}
        return np.asarray(function(x, axis=_axis(axis), keepdims=keepdims, **more))

    return reduce


def _split(x: Array, *, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    return list(np.split(x, indices_or_sections, axis=axis))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Absolute": np.abs,
    "Add": np.add,
    "Any": _reduced(np.any),
    "Cast": lambda x, *, dtype: x.astype(dtype),
    "Clip": lambda x, *, x_min, x_max: np.clip(x, x_min, x_max),
    "Concatenate": lambda xs, *, axis=0: np.concatenate(xs, axis=axis),
    "ConvertToTensor": lambda x: x,
    "Divide": np.divide,
    "Einsum": lambda *xs, subscripts: np.einsum(subscripts, *xs, optimize=True),
    "Equal": np.equal,
    "Exp": np.exp,
    "ExpandDims": lambda x, *, axis: np.expand_dims(x, _axis(axis)),
    "Flip": lambda x, *, axis=None: np.flip(x, _axis(axis)),
    "GetItem": _taken,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Log": np.log,
    "Log1p": np.log1p,
    "LogicalAnd": np.logical_and,
    "LogicalNot": np.logical_not,
    "LogicalOr": np.logical_or,
    "Matmul": np.matmul,
    "Max": _reduced(np.max),
    "Maximum": np.maximum,
    "Mean": _reduced(np.mean),
    "Min": _reduced(np.min),
    "Minimum": np.minimum,
    "Multiply": np.multiply,
    "Negative": np.negative,
    "NotEqual": np.not_equal,
    "Power": np.power,
    "Repeat": lambda x, *, repeats, axis=None: np.repeat(x, repeats, axis=axis),
    "Reshape": lambda x, *, newshape: x.reshape([-1 if each is None else each for each in newshape]),
    "Reverse": lambda x, *, axis: np.flip(x, _axis(axis)),
    "Softmax": lambda x, *, axis=-1: softmax(x, axis),
    "Split": _split,
    "Sqrt": np.sqrt,
    "Square": np.square,
    "Squeeze": lambda x, *, axis=None: np.squeeze(x, _axis(axis)),
    "Stack": lambda xs, *, axis=0: np.stack(xs, axis=axis),
    "Subtract": np.subtract,
    "Sum": _reduced(np.sum),
    "SwapAxes": lambda x, *, axis1, axis2: np.swapaxes(x, axis1, axis2),
    "Swapaxes": lambda x, *, axis1, axis2: np.swapaxes(x, axis1, axis2),
    "Tile": lambda x, *, repeats: np.tile(x, repeats),
    "Transpose": lambda x, *, axes=None: np.transpose(x, axes),
    "TrueDivide": np.true_divide,
    "Where": np.where,
    "ZerosLike": np.zeros_like,
    "OnesLike": np.ones_like,
}
_NAMED = {"Relu", "Sigmoid", "Tanh", "Silu", "Softplus", "Softsign", "Elu", "Gelu", "LeakyRelu", "LogSoftmax", "Selu"}
_SNAKE = {"LeakyRelu": "leaky_relu", "LogSoftmax": "log_softmax"}
OPERATIONS |= {name: ACTIVATIONS[_SNAKE.get(name, name.lower())] for name in _NAMED}
IGNORED = ("dtype", "name", "ragged", "sparse", "trainable")  # of a configuration or a call


def operation(kind: str, config: Json, context: Context) -> Function:
    """The function of an operation. Masks end here, as in Keras."""
    if kind not in OPERATIONS:
        raise ValueError(
            f"there is no function for keras.ops' {kind}; there is one for {', '.join(sorted(OPERATIONS))}"
        )
    function = OPERATIONS[kind]
    ignored = [key for key in IGNORED if not (kind == "Cast" and key == "dtype")]
    usual = {key: value for key, value in config.items() if key not in ignored}

    def apply(*given: Any, **named: Any) -> Any:
        named = {key: arrays(value) for key, value in named.items() if key not in ignored}
        found = function(*[arrays(each) for each in given], **usual | named)
        if isinstance(found, list):
            return [Signal(_own(each, context)) for each in found]
        return Signal(_own(found, context))

    return apply


def _own(array: Array, context: Context) -> Array:
    """Whole numbers that became float64 on the way get the model's dtype."""
    return array.astype(context.dtype, copy=False) if array.dtype.kind == "f" else array
