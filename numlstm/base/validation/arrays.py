"""Values as arrays: of lists, NumPy, and other libraries, on the CPU or a CUDA device; and state dicts of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from numlstm.base.typing import Array, Shape

REAL_KINDS = "fiu"  # of np.dtype.kind: floats, signed and unsigned integers
CUDA_OF_DLPACK = (2, 13)  # DLPack's device types for CUDA memory and CUDA managed memory
ARRAY_ATTRIBUTES = ("__array__", "__array_interface__", "__array_struct__", "__buffer__")


def real_array(name: str, value: object) -> Array:
    """The value as a plain ndarray of its own real dtype; shares memory with it wherever NumPy can."""
    array = any_array(name, value)
    if array.dtype.kind not in REAL_KINDS:
        raise TypeError(
            f"{name} must hold real numbers, not {array.dtype}\n"
            "Floats and integers of any width and byte order are converted; complex, bool, object, text and dates "
            f"are not. Received: a {type(value).__name__} of shape {array.shape}."
        )
    return array


def any_array(name: str, value: object) -> Array:
    """The value as a plain ndarray of whatever dtype it has; shares memory with it wherever NumPy can."""
    if not isinstance(value, ndarray):
        return _from_foreign(name, value)
    if np.any(getattr(value, "mask", False)):
        raise TypeError(
            f"{name} must have no masked elements: an LSTM has no rule for them\nFill them first: {name}.filled(…)."
        )
    return value if type(value) is ndarray else ndarray.view(value, ndarray)


def _from_foreign(name: str, value: object) -> Array:
    """Nested lists, and the arrays of other libraries through ``__array__`` or DLPack."""
    try:
        if is_torch_tensor(value):
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


def is_torch_tensor(value: object) -> bool:
    """Whether the value is a ``torch.Tensor`` or of a subclass; torch is not imported."""
    return any(kind.__module__ == "torch" and kind.__qualname__ == "Tensor" for kind in type(value).__mro__)


def as_dtype(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in that dtype; what is too large becomes infinite, silently as in PyTorch."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def own_shape(array: Array, expected: Shape | None = None) -> Array:
    """A view whose shape and strides nobody else can set while the call runs, as ``array.shape = ...`` does."""
    view = array[...]
    if expected is not None and view.shape != expected:
        raise RuntimeError(f"an array of shape {expected} was given the shape {view.shape} while it was in use")
    return view


# ---------------------------------------------------------------- arrays on a CUDA device


def on_device(value: Any) -> bool:
    """Whether the value is an array in the memory of a CUDA device. Imports nothing."""
    if isinstance(value, ndarray):
        return False
    if is_torch_tensor(value):  # on the CPU, __cuda_array_interface__ raises an error that hasattr does not catch
        return bool(value.is_cuda)
    if getattr(value, "__cuda_ndarray__", False) or getattr(value, "__cuda_array_interface__", None) is not None:
        return True
    return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) in CUDA_OF_DLPACK


def device_shape(value: Any) -> Shape:
    """The shape of an array that is on a device."""
    interface = getattr(value, "__cuda_array_interface__", None)
    return tuple(value.shape if interface is None else interface["shape"])


def to_host(name: str, value: object) -> Any:
    """A device array copied to the CPU's memory by its own library; any other value unchanged."""
    if not on_device(value):
        return value
    for how in ("copy_to_host", "cpu", "get"):  # of Numba, PyTorch and CuPy
        if hasattr(value, how):
            return getattr(value, how)()
    raise TypeError(
        f"{name} is on a CUDA device, and a {type(value).__name__} has no way to the CPU's memory\n"
        "It has none of the methods copy_to_host, cpu and get; copy it first."
    )


# ---------------------------------------------------------------- parameters


def parameter_array(name: str, value: object, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """An array for the parameter of that name, converted to its dtype."""
    array = real_array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}\nNothing was assigned.")
    return as_dtype(array, dtype)


def loadable_parameters(
    owner: str, state_dict: object, shapes: Mapping[str, Shape], dtype: np.dtype[Any], strict: bool
) -> tuple[dict[str, Array], list[str], list[str]]:
    """The arrays of a state dict that can be loaded, the missing keys and the unexpected ones."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"Expected state_dict to be dict-like, got {type(state_dict)}.\n"
            "Pass a mapping of parameter names to arrays, such as the result of state_dict()."
        )
    missing = [name for name in shapes if name not in state_dict]
    unexpected = [key for key in state_dict if key not in shapes]
    errors, arrays = [], {}
    for what, keys in (("Missing", missing), ("Unexpected", unexpected)):
        if strict and keys:
            quoted = ", ".join(f'"{key}"' for key in keys)
            errors.append(f"{what} key(s) in state_dict: {quoted}. ")
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
