"""What sizes, inputs and states must be, and the sentences that say so.

Where ``torch.nn.LSTM`` raises, the type and the first line are those of PyTorch 2.13, and the checks run in its
order; below the first line stands what was received and what to do. A check changes nothing.
"""

from __future__ import annotations

import operator
import reprlib
import warnings
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any, NamedTuple, cast

import numpy as np
from numpy import ndarray

from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape, States

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
REAL_KINDS = "fiu"  # of np.dtype.kind: floats, signed and unsigned integers
CUDA_OF_DLPACK = (2, 13)  # DLPack's kinds of device: CUDA's own and its managed memory
OVERLAP_WORK = 10_000  # candidate solutions tried before two arrays count as overlapping
ARRAY_ATTRIBUTES = ("__array__", "__array_interface__", "__array_struct__", "__buffer__")


# ---------------------------------------------------------------- constructor


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
    flag("bias", bias)
    flag("batch_first", batch_first)
    _features("input_size", input_size)
    _features("hidden_size", hidden_size)
    layers = _count("num_layers", num_layers, _at_least_one)
    projection = _count("proj_size", proj_size, _zero_or_below(hidden_size))
    flag("bidirectional", bidirectional)
    return Config(int(input_size), int(hidden_size), layers, bias, batch_first, probability, bidirectional, projection)


def cell_config(input_size: Any, hidden_size: Any, bias: Any) -> Config:
    """The Config of an LSTMCell; sizes may be NumPy's integers, as in ``torch.nn.LSTMCell``."""
    flag("bias", bias)
    sizes = {"input_size": input_size, "hidden_size": hidden_size}
    for name, value in sizes.items():
        sizes[name] = int(value) if isinstance(value, np.integer) else value
        _features(name, sizes[name])
    return Config(int(sizes["input_size"]), int(sizes["hidden_size"]), bias=bias)


def dropout_probability(dropout: Any) -> float:
    """The dropout probability as a float."""
    try:
        probability = float(dropout)
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"{error}\ndropout must be a number in [0, 1], not {_show(dropout)}.") from None
    if not isinstance(dropout, Number) or isinstance(dropout, bool) or not 0 <= probability <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed\n"
            f"It is {_show(dropout)}, of type {type(dropout).__name__}."
        )
    return probability


def flag(name: str, value: Any) -> None:
    """A flag must be True or False itself."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} should be of type bool, got: {type(value).__name__}\n"
            f"{name} must be True or False, not {_show(value)}."
        )


def _features(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{name} should be of type int, got: {type(value).__name__}\n"
            f"{name} is a number of features: a positive int, not {_show(value)}."
        )
    if value <= 0:
        raise ValueError(
            f"{name} must be greater than zero\n{name} is a number of features: a positive int, not {value}."
        )


def _count(name: str, value: Any, bound: Callable[[Any], str | None]) -> int:
    """The value as an int; what Python itself says of a value that cannot be compared or count comes first."""
    try:
        fault = bound(value)
        count = 0 if fault else operator.index(value)
    except TypeError as error:
        raise TypeError(f"{error}\n{name} must be an int, not {_show(value)}, a {type(value).__name__}.") from None
    if fault:
        raise ValueError(f"{fault}\n{name} is {_show(value)}.")
    if isinstance(value, bool):
        raise TypeError(f"{name} should be of type int, got: bool\n{name} must be an int, not {value}.")
    return count


def _at_least_one(value: Any) -> str | None:
    return "num_layers must be greater than zero" if value <= 0 else None


def _zero_or_below(hidden_size: int) -> Callable[[Any], str | None]:
    def fault(value: Any) -> str | None:
        if value < 0:
            return "proj_size should be a positive integer or zero to disable projections"
        if value >= hidden_size:
            return f"proj_size has to be smaller than hidden_size\nhidden_size is {hidden_size}."
        return None

    return fault


def parameter_dtype(value: Any) -> np.dtype[Any]:
    """float32 or float64, from NumPy's names and types or from a ``torch.dtype``; None is float32."""
    if value is None:
        return FLOAT32
    given = str(value).removeprefix("torch.") if _is_torch(value, "dtype") else value
    if isinstance(given, str) or not isinstance(given, ndarray | np.generic):  # np.dtype would take an array's
        try:
            dtype = np.dtype(given)
        except (TypeError, ValueError):
            dtype = np.dtype(object)
        if dtype == FLOAT32:
            return FLOAT32
        if dtype == FLOAT64:
            return FLOAT64
    raise TypeError(
        f"dtype must be float32 or float64, not {_show(value)}\n"
        "An LSTM computes in one of these two, in the byte order of this machine; "
        "input of any other real dtype is converted."
    )


def device(value: Any) -> str:
    """Which of "cpu" and "cuda" a value names: None is the CPU, "cuda:0" and 0 are the first CUDA device."""
    name = str(value) if _is_torch(value, "device") else value
    if name is None or (isinstance(name, str) and name in ("cpu", "cpu:0")):
        return "cpu"
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise TypeError(f"device must be None, 'cpu' or 'cuda', not {_show(value)}, a {type(value).__name__}")
    if name in ("cuda", "cuda:0", 0):
        return "cuda"
    if isinstance(name, int) or name.startswith("cuda:"):
        advice = "Of several CUDA devices the first is used; CUDA_VISIBLE_DEVICES says which that is."
    else:
        advice = "An LSTM runs on the CPU, or on an NVIDIA GPU by CUDA."
    raise NotImplementedError(f"device must be None, 'cpu' or 'cuda', not {_show(value)}\n{advice}")


def cpu_only(value: Any, kind: str) -> None:
    """What is built for the CPU alone."""
    if device(value) != "cpu":
        raise NotImplementedError(
            f"device must be None or 'cpu' for {kind}, not {_show(value)}\nOnly an LSTM runs on CUDA."
        )


def target(first: Any, dtype: Any) -> tuple[Any, Any]:
    """The device and the dtype that the arguments of ``to`` name: the first may be either, or an array to be like."""
    if isinstance(first, ndarray) or _is_torch_tensor(first):
        first, given = getattr(first, "device", None), first.dtype
    elif _names_device(first):
        return first, dtype
    else:
        first, given = None, first
    if dtype is not None:
        raise TypeError(f"to() takes a device before a dtype, not {_show(given)} before {_show(dtype)}")
    return first, given


def _names_device(value: Any) -> bool:
    if value is None or _is_torch(value, "device") or isinstance(value, int):
        return True
    if isinstance(value, str):
        try:
            np.dtype(value)
        except TypeError:
            return True
    return False


# ---------------------------------------------------------------- arrays


def real_array(name: str, value: Any) -> Array:
    """The value as a plain ndarray of its own real dtype; shares memory with it wherever NumPy can."""
    array = any_array(name, value)
    if array.dtype.kind not in REAL_KINDS:
        raise TypeError(
            f"{name} must hold real numbers, not {array.dtype}\n"
            "Floats and integers of any width and byte order are converted; complex, bool, object, text and dates "
            f"are not. Received: a {type(value).__name__} of shape {array.shape}."
        )
    return array


def any_array(name: str, value: Any) -> Array:
    """The value as a plain ndarray of whatever dtype it has; shares memory with it wherever NumPy can."""
    if not isinstance(value, ndarray):
        return _from_foreign(name, value)
    if np.any(getattr(value, "mask", False)):
        raise TypeError(
            f"{name} must have no masked elements: an LSTM has no rule for them\nFill them first: {name}.filled(…)."
        )
    return value if type(value) is ndarray else ndarray.view(value, ndarray)


def on_device(value: Any) -> bool:
    """Whether the value is an array in the memory of a CUDA device; nothing is imported to know it."""
    if isinstance(value, ndarray):
        return False
    if _is_torch_tensor(value):  # one of the CPU raises what is no AttributeError when asked for the interface
        return bool(value.is_cuda)
    if getattr(value, "__cuda_ndarray__", False) or getattr(value, "__cuda_array_interface__", None) is not None:
        return True
    return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) in CUDA_OF_DLPACK


def device_shape(value: Any) -> Shape:
    """The shape of an array that is on a device."""
    interface = getattr(value, "__cuda_array_interface__", None)
    return tuple(value.shape if interface is None else interface["shape"])


def to_host(name: str, value: Any) -> Any:
    """What is on a device copied from there, as its library does it; all else as it is."""
    if not on_device(value):
        return value
    for how in ("copy_to_host", "cpu", "get"):  # of Numba, PyTorch and CuPy
        if hasattr(value, how):
            return getattr(value, how)()
    raise TypeError(
        f"{name} is on a CUDA device, and a {type(value).__name__} has no way to the CPU's memory\n"
        "It has none of the methods copy_to_host, cpu and get; copy it first."
    )


def _from_foreign(name: str, value: Any) -> Array:
    """Nested lists, and the arrays of other libraries through ``__array__`` or DLPack."""
    try:
        if _is_torch_tensor(value):
            return _from_torch_tensor(value)
        if hasattr(value, "__dlpack__") and not any(hasattr(value, how) for how in ARRAY_ATTRIBUTES):
            return np.from_dlpack(value)
        return np.asarray(value)
    except Exception as error:  # whatever the foreign object raises
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"{name} must be an array of real numbers in the CPU's memory; "
            f"this {type(value).__name__} could not be read as one\n{type(error).__name__}: {error}"
        ) from error


def _from_torch_tensor(value: Any) -> Array:
    tensor = value.detach().resolve_neg()
    if "float" in str(tensor.dtype) and tensor.dtype.itemsize <= 2 and str(tensor.dtype) != "torch.float16":
        tensor = tensor.float()  # NumPy has no bfloat16 and no float8; float32 holds every one of them
    return np.asarray(tensor)


def _is_torch(value: Any, name: str) -> bool:
    """Whether the value is ``torch.<name>``, without importing torch."""
    kind = type(value)
    return kind.__module__ == "torch" and kind.__qualname__ == name


def _is_torch_tensor(value: Any) -> bool:
    return any(kind.__module__ == "torch" and kind.__qualname__ == "Tensor" for kind in type(value).__mro__)


def parameter(name: str, value: Any, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """An array for the parameter of that name, converted to its dtype."""
    array = real_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}\nNothing was assigned.")
    return as_dtype(array, dtype)


def as_dtype(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in that dtype; what is too large becomes infinite, silently as in PyTorch."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def loadable(
    owner: str, state_dict: Any, shapes: Mapping[str, Shape], dtype: np.dtype[Any], strict: bool
) -> tuple[dict[str, Array], list[str], list[str]]:
    """What of a state dict can be loaded, the missing keys and the unexpected ones."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"Expected state_dict to be dict-like, got {type(state_dict)}.\n"
            "Pass a mapping of parameter names to arrays, such as the result of state_dict()."
        )
    missing = [name for name in shapes if name not in state_dict]
    unexpected = [key for key in state_dict if key not in shapes]
    errors, arrays = [], {}
    if strict and missing:
        errors.append("Missing key(s) in state_dict: {}. ".format(", ".join(f'"{key}"' for key in missing)))
    if strict and unexpected:
        errors.append("Unexpected key(s) in state_dict: {}. ".format(", ".join(f'"{key}"' for key in unexpected)))
    for name, shape in shapes.items():
        if name not in state_dict:
            continue
        value = state_dict[name]
        try:
            array = real_array(name, value)
        except (TypeError, ValueError) as error:
            errors.append(
                f'While copying the parameter named "{name}", expected torch.Tensor or Tensor-like object from '
                f"checkpoint but received {type(value)}: {error}"
            )
            continue
        if array.shape == shape:
            arrays[name] = as_dtype(array, dtype)
        else:
            errors.append(
                f"size mismatch for {name}: copying a param with shape torch.Size({list(array.shape)}) from "
                f"checkpoint, the shape in current model is torch.Size({list(shape)})."
            )
    if errors:
        raise RuntimeError(
            f"Error(s) in loading state_dict for {owner}:\n\t" + "\n\t".join(errors) + "\nNothing was loaded."
        )
    return arrays, missing, unexpected


# ---------------------------------------------------------------- a call


class Call(NamedTuple):
    """The shapes of one call as its user sees them, known from the input's shape alone."""

    output: Shape
    hidden: Shape  # of h_0 and h_n
    cell: Shape  # of c_0 and c_n
    batch: int  # rows; 1 for unbatched input
    swap: bool  # batch_first: the engine sees it transposed
    unbatched: bool


def lstm_call(config: Config, shape: Shape, hx: Any) -> Call:
    """The call for an input of that shape, or the first error that ``torch.nn.LSTM`` finds in it."""
    if len(shape) not in (2, 3):
        raise ValueError(
            f"LSTM: Expected input to be 2D or 3D, got {len(shape)}D instead\n"
            f"input must have shape {_wanted_input(config)}, or (steps, {config.input_size}) unbatched; "
            f"received {shape}."
        )
    unbatched = len(shape) == 2
    swap = config.batch_first and not unbatched
    steps = shape[1] if swap else shape[0]
    batch = 1 if unbatched else shape[0] if swap else shape[1]
    output = (*shape[:-1], config.num_directions * config.output_size)
    call = Call(output, *config.state_shapes(*[batch] * (not unbatched)), batch, swap, unbatched)
    if hx is not None:
        _state_dims(call, *_pair(hx))
    if shape[-1] != config.input_size:
        raise wrong_features(config, shape)
    if steps == 0:
        if hx is not None:
            lstm_states(call, hx, FLOAT32)
        raise no_steps(f"input has shape {shape}, which holds no step; an empty batch is fine, an empty sequence not.")
    return call


def wrong_features(config: Config, shape: Shape, name: str = "input", hint: str = "") -> RuntimeError:
    """The error for an array whose last axis does not hold `input_size` features."""
    size = config.input_size
    return RuntimeError(
        f"input.size(-1) must be equal to input_size. Expected {size}, got {shape[-1]}\n"
        + (hint or f"{name} has shape {shape}; its last axis must hold the {counted(size, 'feature')} of a step.")
    )


def no_steps(hint: str) -> RuntimeError:
    """The error for a sequence without steps."""
    return RuntimeError(f"Expected sequence length to be larger than 0 in RNN\n{hint}")


def lstm_states(call: Call, hx: Any, dtype: np.dtype[Any]) -> States:
    """h_0 and c_0 as arrays of the shapes that the call asks for."""
    if _are_results(hx, call, dtype):
        return cast("States", hx)
    h_0, c_0 = _pair(hx)
    _state_dims(call, h_0, c_0)
    for index, (state, expected) in enumerate(((h_0, call.hidden), (c_0, call.cell))):
        if state.shape != expected:
            got, wanted = state.shape, expected
            if call.unbatched:  # PyTorch speaks of the batch of one that it made of it
                got, wanted = (got[0], 1, got[1]), (expected[0], 1, expected[1])
            raise RuntimeError(
                f"Expected hidden[{index}] size {wanted}, got {list(got)}\n"
                f"{'hc'[index]}_0 must have shape {expected}: (num_layers * num_directions, "
                f"{'' if call.unbatched else 'batch, '}features); batch_first does not touch it."
            )
    if len(hx) != 2:
        raise RuntimeError(
            f"lstm expects two hidden states\nhx must be (h_0, c_0), but it has {counted(len(hx), 'item')}."
        )
    return h_0, c_0


def _are_results(hx: Any, call: Call, dtype: np.dtype[Any]) -> bool:
    """Whether `hx` is what a loop passes, the states that the last call returned: they need no further check."""
    if type(hx) is not tuple or len(hx) != 2:
        return False
    h_0, c_0 = hx
    return (
        type(h_0) is ndarray
        and type(c_0) is ndarray
        and h_0.dtype is dtype
        and c_0.dtype is dtype
        and h_0.shape == call.hidden
        and c_0.shape == call.cell
    )


def _wanted_input(config: Config) -> str:
    return f"({'batch, steps' if config.batch_first else 'steps, batch'}, {config.input_size})"


def _state_dims(call: Call, h_0: Array, c_0: Array) -> None:
    dims = len(call.hidden)
    if h_0.ndim != dims or c_0.ndim != dims:
        raise RuntimeError(
            f"For {'unbatched 2-D' if call.unbatched else 'batched 3-D'} input, hx and cx should also be {dims}-D "
            f"but got ({h_0.ndim}-D, {c_0.ndim}-D) tensors\n"
            f"h_0 must have shape {call.hidden} and c_0 {call.cell}; received {h_0.shape} and {c_0.shape}."
        )


def _tuple_or_list(hx: Any) -> None:
    if not isinstance(hx, tuple | list):
        raise TypeError(
            f"hx must be a tuple (h_0, c_0), not {type(hx).__name__}\n"
            "Both states are needed; leave hx out to start from zeros."
        )


def two_states(hx: Any) -> tuple[Any, Any]:
    """What stands for h_0 and c_0 in `hx`, as it is."""
    _tuple_or_list(hx)
    if len(hx) < 2:
        raise IndexError(
            f"{'tuple' if isinstance(hx, tuple) else 'list'} index out of range\n"
            f"hx must be (h_0, c_0), but it has {counted(len(hx), 'item')}."
        )
    return hx[0], hx[1]


def _pair(hx: Any) -> States:
    h_0, c_0 = two_states(hx)
    return real_array("h_0", h_0), real_array("c_0", c_0)


def cell_call(config: Config, shape: Shape, hx: Any) -> Call:
    """The call of an LSTMCell for an input of that shape, or the first error that ``torch.nn.LSTMCell`` finds."""
    if len(shape) not in (1, 2):
        raise ValueError(
            f"LSTMCell: Expected input to be 1D or 2D, got {len(shape)}D instead\n"
            f"input must have shape (batch, {config.input_size}), or ({config.input_size},) unbatched; "
            f"received {shape}."
        )
    unbatched = len(shape) == 1
    state = (*shape[:-1], config.hidden_size)
    call = Call(state, state, state, 1 if unbatched else shape[0], swap=False, unbatched=unbatched)
    if hx is not None:
        _cell_state_dims(call, hx)
    if shape[-1] != config.input_size:
        raise RuntimeError(
            f"input has inconsistent input_size: got {shape[-1]} expected {config.input_size}\n"
            f"input has shape {shape}; its last axis must hold {counted(config.input_size, 'feature')}."
        )
    return call


def cell_states(call: Call, hx: Any, dtype: np.dtype[Any]) -> States:
    """h_0 and c_0 of an LSTMCell as arrays of the shape that the call asks for."""
    if _are_results(hx, call, dtype):
        return cast("States", hx)
    states = _cell_state_dims(call, hx)
    for index, state in enumerate(states):
        _cell_state(call, index, state)
    return states[0], states[1]


def _cell_state_dims(call: Call, hx: Any) -> list[Array]:
    _tuple_or_list(hx)
    states = [real_array(f"hx[{index}]", value) for index, value in enumerate(hx)]
    for index, state in enumerate(states):
        if state.ndim not in (1, 2):
            raise ValueError(
                f"LSTMCell: Expected hx[{index}] to be 1D or 2D, got {state.ndim}D instead\n"
                f"hx must be (h_0, c_0), both of shape {call.hidden}."
            )
    if call.unbatched and len(states) < 2:
        raise IndexError(
            f"{'tuple' if isinstance(hx, tuple) else 'list'} index out of range\n"
            f"hx must be (h_0, c_0), but it has {counted(len(states), 'item')}."
        )
    if len(states) != 2:
        raise RuntimeError(f"lstm_cell expects two hidden states\nhx must be (h_0, c_0), but it has {len(states)}.")
    return states


def _cell_state(call: Call, index: int, state: Array) -> None:
    """PyTorch first compares the batch, then the features, of the batch of one that it makes of unbatched states."""
    if state.shape == call.hidden:
        return
    shape = (1, *state.shape) if call.unbatched else state.shape
    units = call.hidden[-1]
    wanted = f"\n{'hc'[index]}_0 must have shape {call.hidden}; received {state.shape}."
    if shape[0] != call.batch:
        raise RuntimeError(f"Input batch size {call.batch} doesn't match hidden{index} batch size {shape[0]}" + wanted)
    if len(shape) < 2:
        raise IndexError("Dimension out of range (expected to be in range of [-1, 0], but got 1)" + wanted)
    if shape[1] != units:
        raise RuntimeError(f"hidden{index} has inconsistent hidden_size: got {shape[1]}, expected {units}" + wanted)
    raise RuntimeError(f"hx[{index}] is batched, but input is not" + wanted)


def no_packed_sequence(input: Any) -> None:
    """Refuse a packed sequence where a step is wanted."""
    if hasattr(input, "batch_sizes"):
        raise AttributeError(
            f"'{type(input).__name__}' object has no attribute 'dim'\n"
            "An LSTMCell takes one step of a batch; an LSTM takes packed sequences."
        )


def packed_call(config: Config, shape: Shape, batch: int, hx: Any) -> Call:
    """The call for packed data of that shape, of so many rows; with the texts of PyTorch for a padded batch."""
    if len(shape) != 2:
        raise RuntimeError(
            f"input must have 2 dimensions, got {len(shape)}\n"
            f"The data of a packed sequence must have shape (sum of lengths, {config.input_size}); received {shape}."
        )
    output = (shape[0], config.num_directions * config.output_size)
    call = Call(output, *config.state_shapes(batch), batch, swap=False, unbatched=False)
    if hx is not None:
        _state_dims(call, *_pair(hx))
    if shape[1] != config.input_size:
        raise wrong_features(config, shape, "data of the packed sequence")
    return call


def no_lengths(lengths: Any) -> None:
    """Refuse lengths where the input is packed."""
    if lengths is not None:
        raise TypeError("lengths is for a padded batch, and the input is packed\nLeave lengths out.")


# ---------------------------------------------------------------- out=


def out_arrays(out: Any, call: Call, dtype: np.dtype[Any], input: Array, hx: States | None) -> tuple[Array, ...]:
    """The three arrays of ``out=`` as plain ones, fit to be written: nothing else of the call overlaps them."""
    if not isinstance(out, tuple | list) or len(out) != 3:
        what = counted(len(out), "item") if isinstance(out, tuple | list) else type(out).__name__
        raise TypeError(f"out must be a tuple (output, h_n, c_n), not {what}")
    plain = []
    for name, given, shape in zip(("output", "h_n", "c_n"), out, (call.output, call.hidden, call.cell), strict=True):
        array = given
        if type(given) is not ndarray:
            _out_type(name, given, dtype)
            array = ndarray.view(given, ndarray)  # a subclass may say of itself what is not so
        if array.dtype is not dtype:
            _out_type(name, array, dtype)
        if array.shape != shape:
            raise ValueError(f"{name} in out must have shape {shape}, not {array.shape}")
        if not array.flags.carray:
            _out_layout(name, array)
        plain.append(array)
    no_overlap(plain, input, hx)
    plain[0] = own_shape(plain[0], call.output)
    return tuple(plain)


def own_shape(array: Array, expected: Shape | None = None) -> Array:
    """A view whose shape and strides nobody else can set while the call runs, as ``array.shape = ...`` does."""
    view = array[...]
    if expected is not None and view.shape != expected:
        raise RuntimeError(f"an array of shape {expected} was given the shape {view.shape} while it was in use")
    return view


def _out_type(name: str, array: Any, dtype: np.dtype[Any]) -> None:
    if not isinstance(array, ndarray) or hasattr(array, "mask"):
        raise TypeError(f"{name} in out must be a numpy.ndarray, not {type(array).__name__}")
    if array.dtype != dtype:
        raise TypeError(f"{name} in out must have dtype {dtype}, not {array.dtype}\nResults are not converted.")


def _out_layout(name: str, array: Array) -> None:
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} in out must be C-contiguous\nIts strides are {array.strides}.")
    if not array.flags.writeable:
        raise ValueError(f"{name} in out must be writeable, but it is read-only")
    raise ValueError(f"{name} in out must be aligned to its {array.itemsize}-byte numbers")


def no_overlap(out: Any, input: Array, hx: States | None) -> None:
    """Refuse results that share memory with each other or with what the call reads; their numbers are not looked at."""
    output, h_n, c_n = out
    held: tuple[Array, ...] = (output, h_n, c_n)
    twice = 0
    if hx is not None:
        held += hx
        twice = (h_n is hx[0]) + (c_n is hx[1])  # the one overlap that is allowed
    ids = set(map(id, held))
    if len(ids) + twice == len(held) and _own_their_memory(held):
        if id(input) in ids or not input.flags.owndata:
            for name, array in (("output", output), ("h_n", h_n), ("c_n", c_n)):
                _apart(name, array, "input", input)
        return  # different arrays that own their memory need no search
    _apart("output", output, "h_n", h_n)
    _apart("output", output, "c_n", c_n)
    _apart("h_n", h_n, "c_n", c_n)
    for name, array in (("output", output), ("h_n", h_n), ("c_n", c_n)):
        _apart(name, array, "input", input)
    if hx is not None:
        h_0, c_0 = hx
        _apart("output", output, "h_0", h_0)
        _apart("output", output, "c_0", c_0)
        _apart("h_n", h_n, "c_0", c_0)
        _apart("c_n", c_n, "h_0", h_0)
        if h_n is not h_0:
            _apart("h_n", h_n, "h_0", h_0, or_same=True)
        if c_n is not c_0:
            _apart("c_n", c_n, "c_0", c_0, or_same=True)


def _own_their_memory(arrays: tuple[Array, ...]) -> bool:
    for array in arrays:  # noqa: SIM110 (all() takes three times as long)
        if not array.flags.owndata:
            return False
    return True


def _apart(name: str, array: Array, other_name: str, other: Array, *, or_same: bool = False) -> None:
    """The array must share no memory with the other, or with `or_same` be the very same array."""
    if not np.may_share_memory(array, other) or (or_same and _same_place(array, other)):
        return
    try:
        shared = np.shares_memory(array, other, max_work=OVERLAP_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        shared = True
    if shared:
        raise ValueError(
            f"{name} in out shares memory with {other_name}\n"
            "Only h_n may be the very array passed as h_0, and c_n that passed as c_0."
        )


def _same_place(array: Array, other: Array) -> bool:
    """Whether two arrays are views of the same numbers in the same order."""
    return (
        array.dtype == other.dtype
        and array.shape == other.shape
        and array.strides == other.strides
        and array.__array_interface__["data"][0] == other.__array_interface__["data"][0]
    )


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun, for a message.

    Examples
    --------
    >>> counted(1, "part"), counted(2, "part"), counted(0, "axis", "axes")
    ('1 part', '2 parts', '0 axes')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def _show(value: Any) -> str:
    return " ".join(reprlib.repr(value).split())


# ---------------------------------------------------------------- streams


STREAM_BUSY = (
    "the stream is in use by another thread, and nothing was done\n"
    "A stream has one user at a time. Let each thread have a stream of its own (fork() gives one with the same state), "
    "or put a lock around the steps."
)
STREAM_PICKLED = (
    "a stream cannot be pickled, since it lives on the memory of its process\n"
    "Pickle the LSTM and stream.snapshot(); a stream of the former takes over the latter by restore()."
)


class Piece(NamedTuple):
    """What a stream is given: one step, or a chunk of steps."""

    output: Shape
    steps: int
    place: tuple[Any, ...]  # indexes it as (steps, batch, features), but for ``swap``
    swap: bool


def stream_sizes(config: Config, batch_size: Any) -> int:
    """The batch size of a stream, whose LSTM must run in one direction."""
    if config.bidirectional:
        raise ValueError(
            "a bidirectional LSTM cannot run as a stream: its reverse direction begins at the last step, which a "
            "stream has not seen yet\nCall the LSTM on whole sequences, or train one with bidirectional=False."
        )
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__"):
        raise TypeError(f"batch_size must be an int, not {_show(batch_size)}, a {type(batch_size).__name__}")
    rows = operator.index(batch_size)
    if rows < 1:
        raise ValueError(f"batch_size must be at least 1, the sequences that go on side by side; it is {rows}")
    return rows


def once(held: Any, name: str) -> None:
    """Refuse to replace what a stream has under a public name: machine code has the address of its buffers."""
    if name in ("address", "batch_size", "input", "output", "step") and hasattr(held, name):
        said = f"{name} of a stream is not to be replaced: step() goes on with what it had\n"
        if name in ("input", "output"):
            raise AttributeError(said + f"Write into the buffer: stream.{name}[...] = values.")
        raise AttributeError(said + "Make a new stream.")


def no_room(rows: int, error: BaseException) -> MemoryError:
    """What a stream of so many rows fails with that there is no memory for."""
    return MemoryError(
        f"there is no memory for a stream of batch_size={rows}: {error}\nTake fewer rows, or several streams."
    )


def sizes_text(kind: str, config: Config, **more: Any) -> str:
    """The repr of a stream or a pool: the sizes of its LSTM, and what else tells it apart."""
    shown = {"proj_size": config.proj_size or None, "num_layers": config.num_layers if config.num_layers > 1 else None}
    named = "".join(f", {name}={value!r}" for name, value in (shown | more).items() if value is not None)
    return f"{kind}({config.input_size}, {config.hidden_size}{named})"


def same_dtype(lstm: np.dtype[Any], kind: str, dtype: np.dtype[Any]) -> None:
    """Refuse the weights of an LSTM whose dtype is no longer that of the stream or pool."""
    if lstm != dtype:
        raise RuntimeError(
            f"the LSTM has become {lstm}, and the {kind} is {dtype}\nMake a new {kind}, and set its states."
        )


def stream_input(value: Any) -> Array:
    """A step or a chunk as a plain ndarray of its own real dtype."""
    if hasattr(value, "batch_sizes"):
        raise TypeError(
            f"input of a stream must be an array, not a {type(value).__name__}\n"
            "All rows of a stream have the same steps; a sequence that ends early can have a stream of its own."
        )
    return real_array("input", value)


def stream_piece(config: Config, rows: int, shape: Shape) -> Piece:
    """What an input of that shape is to a stream of so many rows."""
    every, features = slice(None), config.input_size
    outer = (rows, None) if config.batch_first else (None, rows)
    if len(shape) == 3:
        steps, batch = (shape[1], shape[0]) if config.batch_first else shape[:2]
        place: tuple[Any, ...] = (every,)
    elif len(shape) == 2:
        # of one row: steps; a single one is the same as a batch of one
        steps, batch, place = (shape[0], 1, (every, None)) if rows == 1 else (1, shape[0], (None,))
    elif len(shape) == 1 and rows == 1:
        steps, batch, place = 1, 1, (None, None)
    else:
        raise ValueError(
            f"LSTM: Expected input of a stream to be {'1D, 2D or 3D' if rows == 1 else '2D or 3D'}, "
            f"got {len(shape)}D instead\n" + _wanted_piece(outer, rows, features, shape)
        )
    if shape[-1] != features:
        raise wrong_features(config, shape, hint=_wanted_piece(outer, rows, features, shape))
    if batch != rows:
        raise RuntimeError(
            f"input has {counted(batch, 'row')}, but the stream has {rows}\n"
            + _wanted_piece(outer, rows, features, shape)
        )
    if steps == 0:
        raise no_steps(_wanted_piece(outer, rows, features, shape))
    output = (*shape[:-1], config.output_size)
    return Piece(output, steps, place, swap=config.batch_first and len(shape) == 3)


def _wanted_piece(outer: tuple[int | None, int | None], rows: int, features: int, shape: Shape) -> str:
    chunk = ", ".join("steps" if size is None else str(size) for size in outer)
    step = f"({features},), or (steps, {features})" if rows == 1 else f"({rows}, {features})"
    wanted = f"{step} or ({chunk}, {features})" if rows > 1 else f"{step}, or ({chunk}, {features})"
    return f"input must have shape {wanted}; received {shape}. The state is unchanged."


def stream_states(config: Config, rows: int, states: Any, dtype: np.dtype[Any]) -> States:
    """h and c for a stream of so many rows: (num_layers, rows, features), or without rows where there is one."""
    hidden, cell = config.state_shapes(rows)
    call = Call(hidden, hidden, cell, rows, swap=False, unbatched=False)
    h, c = _pair(states)
    if rows == 1 and h.ndim == c.ndim == 2:
        h, c = h[:, None], c[:, None]
    h, c = lstm_states(call, (h, c, *states[2:]), dtype)[:2]
    return h, c


def stream_rows(rows: Any, batch_size: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Numbers of the rows that an index picks: an int, a slice, several ints, or a bool for each row."""
    try:
        picked = np.arange(batch_size)[np.asarray([], np.intp) if _is_empty(rows) else rows]
    except (IndexError, TypeError, ValueError) as error:
        raise IndexError(
            f"rows must pick from the {counted(batch_size, 'row')} of the stream: {error}\n"
            f"It is {_show(rows)}; an int, a slice, a list of ints or of {batch_size} bools is expected, or None for "
            "all. The state is unchanged."
        ) from None
    return np.atleast_1d(np.asarray(picked, np.intp)).ravel()


def _is_empty(rows: Any) -> bool:
    return isinstance(rows, list | tuple) and len(rows) == 0


SNAPSHOT = ("input_size", "hidden_size", "num_layers", "proj_size", "batch_size", "dtype")


def snapshot_facts(config: Config, batch_size: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """What must agree between a snapshot and the stream that takes it over."""
    sizes = config.input_size, config.hidden_size, config.num_layers, config.proj_size, batch_size
    return dict(zip(SNAPSHOT, (*sizes, dtype.name), strict=True))


def snapshot_states(config: Config, batch_size: int, dtype: np.dtype[Any], snapshot: Any) -> States:
    """h and c of a snapshot that fits."""
    expected = snapshot_facts(config, batch_size, dtype)
    wanted = "A snapshot is what snapshot() gives, or the same saved by numpy.savez. The state is unchanged."
    if not isinstance(snapshot, Mapping):
        raise TypeError(f"a snapshot must be a mapping, not {_show(snapshot)}, a {type(snapshot).__name__}\n{wanted}")
    if missing := [name for name in (*SNAPSHOT, "h", "c") if name not in snapshot]:
        raise ValueError(f"the snapshot lacks {', '.join(missing)}\n{wanted}")
    for name, value in expected.items():
        found = np.asarray(snapshot[name])
        if found.ndim != 0 or found.item() != value:
            raise ValueError(
                f"{name} of the snapshot is {_show(snapshot[name])}, and that of the stream {value!r}\n"
                "A snapshot goes on only in a stream of the same sizes and dtype. The state is unchanged."
            )
    states = []
    for name, shape in zip("hc", config.state_shapes(batch_size), strict=True):
        state = real_array(f"{name} of the snapshot", snapshot[name])
        if state.shape != shape or state.dtype.newbyteorder("=") != dtype:
            raise ValueError(
                f"{name} of the snapshot must be {dtype} of shape {shape}, not {state.dtype} of shape {state.shape}\n"
                "The state is unchanged."
            )
        states.append(state)
    return states[0], states[1]


# ---------------------------------------------------------------- pools


def pool_capacity(config: Config, capacity: Any) -> int | None:
    """The capacity of a pool, whose LSTM must run in one direction; None where it grows."""
    if config.bidirectional:
        raise ValueError(
            "a bidirectional LSTM cannot run as a pool of sessions: its reverse direction begins at the last step, "
            "which a session has not seen yet\nCall the LSTM on whole sequences, or train one with bidirectional=False."
        )
    if capacity is None:
        return None
    if isinstance(capacity, bool) or not hasattr(capacity, "__index__"):
        raise TypeError(f"capacity must be None or an int, not {_show(capacity)}, a {type(capacity).__name__}")
    bound = operator.index(capacity)
    if bound < 1:
        raise ValueError(f"capacity must be at least 1, the sessions that may be open at once; it is {bound}")
    return bound


def slot_numbers(slots: Any) -> np.ndarray[Any, np.dtype[np.intp]]:
    """A copy of the slots of a step, which nobody else changes."""
    numbers = np.array([], np.intp) if _is_empty(slots) else np.array(slots)
    if numbers.dtype.kind not in "iu":
        raise TypeError(
            f"slots must be integers, not {numbers.dtype}; received {_show(slots)}\n"
            "The slot of a session is session.slot; sessions themselves come in a dict with their inputs."
        )
    if numbers.ndim != 1:
        raise ValueError(f"slots must have shape (n,), not {numbers.shape}")
    if numbers.dtype.kind == "u" and numbers.size and numbers.max() > np.iinfo(np.intp).max:
        raise IndexError(f"there is no slot {numbers.max()}: slots are numbers that a session has, session.slot")
    return numbers.astype(np.intp, copy=False)
