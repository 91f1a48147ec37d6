"""Arguments of constructors and of ``to``: sizes, flags, probabilities, dtypes and devices."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from numbers import Number
from typing import Any, SupportsIndex

import numpy as np
from numpy import ndarray

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.base.config import DIRECTIONS, QUANTIZED, Config
from numlstm.base.validation.arrays import is_torch_tensor
from numlstm.base.wording import shown

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)


# ---------------------------------------------------------------- sizes and flags


def check_direction(config: Config, direction: object) -> None:
    """Refuse a direction that is unknown, or that a bidirectional LSTM cannot have."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(map(repr, DIRECTIONS))}, not {direction!r}")
    if config.bidirectional and direction != "forward":
        raise ValueError(f"a bidirectional LSTM runs in both directions; direction cannot be {direction!r}")


def checked_options(given: object) -> CellOptions:
    """The options of a cell; the plain one for None."""
    if given is None:
        return PLAIN
    if not isinstance(given, CellOptions):
        raise TypeError(f"cell_options must be a numlstm.CellOptions, not {shown(given)}")
    return given


def weights_kind(weights: object, dtype: np.dtype[Any]) -> str:
    """The kind of weights of a configuration: empty for those of the LSTM's own dtype."""
    if weights == dtype.name:
        return ""
    if weights not in QUANTIZED:
        known = ", ".join(map(repr, (dtype.name, *QUANTIZED[:-1])))
        raise ValueError(f"weights must be {known} or {QUANTIZED[-1]!r}, not {shown(weights)}")
    if dtype != FLOAT32:
        raise ValueError(
            f"weights in {weights} go with float32 inputs, states and results, and the LSTM is in {dtype.name}\n"
            "Convert it first: to(dtype='float32')."
        )
    return str(weights)


def check_float_weights(what: str, module: Any) -> None:
    """Refuse quantized weights where they would have to change a little at a time."""
    if module.weights != module.dtype.name:
        raise NotImplementedError(
            f"{what} needs weights in {module.dtype.name}, and those of {module!r} are rounded\n"
            f"Use the LSTM that they were rounded from, or quantize_weights({module.dtype.name!r})."
        )


def check_plain(what: str, module: Any) -> None:
    """Refuse a cell with options where only the plain one is built."""
    if not module.cell_options.plain:
        raise NotImplementedError(
            f"{what} is built for the plain cell (sigmoid, tanh, no peepholes, no clip), and this is {module!r}\n"
            "Options of a cell run on the CPU, without gradients."
        )


def lstm_config(
    input_size: Any,
    hidden_size: Any,
    num_layers: Any,
    bias: Any,
    batch_first: Any,
    dropout: Any,
    bidirectional: Any,
    proj_size: Any,
) -> Config:
    """The Config of an LSTM, or the error that ``torch.nn.LSTM`` raises for these arguments."""
    probability = dropout_probability(dropout)
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=3,
        )
    check_flag("bias", bias)
    check_flag("batch_first", batch_first)
    _check_features("input_size", input_size)
    _check_features("hidden_size", hidden_size)
    layers = _count("num_layers", num_layers, (lambda n: n <= 0, "num_layers must be greater than zero"))
    projection = _count(
        "proj_size",
        proj_size,
        (lambda n: n < 0, "proj_size should be a positive integer or zero to disable projections"),
        (lambda n: n >= hidden_size, f"proj_size has to be smaller than hidden_size\nhidden_size is {hidden_size}."),
    )
    check_flag("bidirectional", bidirectional)
    return Config(int(input_size), int(hidden_size), layers, bias, batch_first, probability, bidirectional, projection)


def cell_config(input_size: Any, hidden_size: Any, bias: Any) -> Config:
    """The Config of an LSTMCell; sizes may be NumPy's integers, as in ``torch.nn.LSTMCell``."""
    check_flag("bias", bias)
    inputs, units = (int(size) if isinstance(size, np.integer) else size for size in (input_size, hidden_size))
    _check_features("input_size", inputs)
    _check_features("hidden_size", units)
    return Config(int(inputs), int(units), bias=bias)


def dropout_probability(dropout: Any) -> float:
    """The dropout probability as a float."""
    try:
        probability = float(dropout)
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"{error}\ndropout must be a number in [0, 1], not {shown(dropout)}.") from None
    if not isinstance(dropout, Number) or isinstance(dropout, bool) or not 0 <= probability <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed\n"
            f"It is {shown(dropout)}, of type {type(dropout).__name__}."
        )
    return probability


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless a flag is True or False itself."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} should be of type bool, got: {type(value).__name__}\n"
            f"{name} must be True or False, not {shown(value)}."
        )


def _check_features(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{name} should be of type int, got: {type(value).__name__}\n"
            f"{name} is a number of features: a positive int, not {shown(value)}."
        )
    if value <= 0:
        raise ValueError(
            f"{name} must be greater than zero\n{name} is a number of features: a positive int, not {value}."
        )


def _count(name: str, value: Any, *faults: tuple[Callable[[Any], bool], str]) -> int:
    """The value as an int, unless one of the faults applies. Python's own TypeError of a comparison comes first."""
    try:
        fault = next((text for applies, text in faults if applies(value)), None)
        count = 0 if fault else operator.index(value)
    except TypeError as error:
        raise TypeError(f"{error}\n{name} must be an int, not {shown(value)}, a {type(value).__name__}.") from None
    if fault:
        raise ValueError(f"{fault}\n{name} is {shown(value)}.")
    if isinstance(value, bool):
        raise TypeError(f"{name} should be of type int, got: bool\n{name} must be an int, not {value}.")
    return count


def positive_count(name: str, value: object, meaning: str, kind: str = "an int") -> int:
    """The value as an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be {kind}, not {shown(value)}, a {type(value).__name__}")
    count = operator.index(value)
    if count < 1:
        raise ValueError(f"{name} must be at least 1, {meaning}; it is {count}")
    return count


# ---------------------------------------------------------------- dtypes and devices


def parameter_dtype(value: object) -> np.dtype[Any]:
    """float32 or float64, from NumPy's names and types or from a ``torch.dtype``; None is float32."""
    if value is None:
        return FLOAT32
    given: Any = str(value).removeprefix("torch.") if _is_torch(value, "dtype") else value
    if isinstance(given, str) or not isinstance(given, ndarray | np.generic):  # np.dtype would take an array's
        try:
            dtype = np.dtype(given)
        except (TypeError, ValueError):
            dtype = np.dtype(object)
        if dtype in (FLOAT32, FLOAT64):
            return FLOAT32 if dtype == FLOAT32 else FLOAT64
    raise TypeError(
        f"dtype must be float32 or float64, not {shown(value)}\n"
        "An LSTM computes in one of these two, in the byte order of this machine; "
        "input of any other real dtype is converted."
    )


def device_name(value: object) -> str:
    """Which of "cpu" and "cuda" a value names: None is the CPU, "cuda:0" and 0 are the first CUDA device."""
    name = str(value) if _is_torch(value, "device") else value
    if name is None or (isinstance(name, str) and name in ("cpu", "cpu:0")):
        return "cpu"
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise TypeError(f"device must be None, 'cpu' or 'cuda', not {shown(value)}, a {type(value).__name__}")
    if name in ("cuda", "cuda:0", 0):
        return "cuda"
    if isinstance(name, int) or name.startswith("cuda:"):
        advice = "Of several CUDA devices the first is used; CUDA_VISIBLE_DEVICES says which that is."
    else:
        advice = "An LSTM runs on the CPU, or on an NVIDIA GPU by CUDA."
    raise NotImplementedError(f"device must be None, 'cpu' or 'cuda', not {shown(value)}\n{advice}")


def check_cpu(value: object, kind: str) -> None:
    """Raise NotImplementedError unless the device is the CPU."""
    if device_name(value) != "cpu":
        raise NotImplementedError(
            f"device must be None or 'cpu' for {kind}, not {shown(value)}\nOnly an LSTM runs on CUDA."
        )


def device_and_dtype(first: Any, dtype: Any) -> tuple[Any, Any]:
    """The device and the dtype that the arguments of ``to`` name: the first may be either, or an array to be like."""
    if isinstance(first, ndarray) or is_torch_tensor(first):
        first, given = getattr(first, "device", None), first.dtype
    elif _names_device(first):
        return first, dtype
    else:
        first, given = None, first
    if dtype is not None:
        raise TypeError(f"to() takes a device before a dtype, not {shown(given)} before {shown(dtype)}")
    return first, given


def _names_device(value: object) -> bool:
    if value is None or _is_torch(value, "device") or isinstance(value, int):
        return True
    if isinstance(value, str):
        try:
            np.dtype(value)
        except TypeError:
            return True
    return False


def _is_torch(value: object, name: str) -> bool:
    """Whether the value is a ``torch.<name>``; torch is not imported."""
    kind = type(value)
    return kind.__module__ == "torch" and kind.__qualname__ == name
