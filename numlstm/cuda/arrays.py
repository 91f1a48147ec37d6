"""The caller's device arrays, read in place, and results as arrays of the same library.

By ``__cuda_array_interface__`` (Numba, CuPy, PyTorch, JAX) or else DLPack; nothing passes through the host.
"""

import sys
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.validation.arrays import on_device

from . import device
from .capsule import taken_apart


class Strided(NamedTuple):
    """A view of a flat array: offset and strides, counted in numbers."""

    flat: Any
    at: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def reordered(self, *axes):
        """The view with its axes in another order."""
        return self._replace(shape=tuple(self.shape[a] for a in axes), strides=tuple(self.strides[a] for a in axes))

    def expanded(self, axis):
        """The view with an additional axis of size 1."""
        shape, strides = list(self.shape), list(self.strides)
        shape.insert(axis, 1)
        strides.insert(axis, 0)
        return self._replace(shape=tuple(shape), strides=tuple(strides))


def whole(flat, shape):
    """A flat Numba array as a C-contiguous view of this shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return Strided(flat, 0, tuple(shape), tuple(reversed(strides)))


def strided(name, value, dtype, stream):
    """A caller's array as a `Strided`, checked to have the LSTM's dtype."""
    interface = device.interface(value)
    if interface is not None:
        given = np.dtype(interface["typestr"])
        shape, strides = tuple(interface["shape"]), interface.get("strides")
        pointer, owner = interface["data"][0], value
        if interface.get("mask") is not None:
            raise TypeError(f"{name} must have no masked elements: an LSTM has no rule for them")
        in_numbers = None
        if strides is not None:
            if any(stride % given.itemsize for stride in strides):
                raise ValueError(f"{name} must have strides of whole numbers, not {tuple(strides)} bytes")
            in_numbers = tuple(stride // given.itemsize for stride in strides)
    else:
        pointer, given, shape, in_numbers, owner = taken_apart(name, value, getattr(stream, "handle", stream))
    if given != dtype:
        other = f", or convert the LSTM with to(dtype='{given}')" if given in (np.float32, np.float64) else ""
        raise TypeError(
            f"{name} must have dtype {dtype}, not {given}\n"
            f"Arrays on the device are read in place and not converted: pass {name} in {dtype}{other}."
        )
    if in_numbers is None:
        in_numbers = whole(None, shape).strides
    reach = [(size - 1) * stride for size, stride in zip(shape, in_numbers, strict=True)]
    if 0 in shape:
        return Strided(device.empty(1, dtype), 0, shape, in_numbers)
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    flat = device.memory_at(int(pointer) + low * given.itemsize, high - low + 1, dtype, owner)
    return Strided(flat, -low, shape, in_numbers)


def place(array, dtype):
    """An ndarray at the same address, for checks of overlap. Its numbers must not be read: they are on the device."""
    pointer = device.interface(array.flat)["data"][0] or 0
    strides = tuple(stride * dtype.itemsize for stride in array.strides)
    return device.addressed(pointer + array.at * dtype.itemsize, array.shape, strides, dtype)


def caller_stream(value):
    """The current stream of an array's library; 0 if unknown."""
    module = sys.modules.get("torch")
    if module is not None and isinstance(value, module.Tensor):
        return int(module.cuda.current_stream(value.device).cuda_stream)
    module = sys.modules.get("cupy")
    if module is not None and isinstance(value, module.ndarray):
        return int(module.cuda.get_current_stream().ptr)
    interface = None if device.SIMULATED and device.is_own(value) else device.interface(value)
    stream = (interface or {}).get("stream")
    return 0 if stream is None else int(stream)


def of_kind(like, result):
    """The device array ``result`` as an array of ``like``'s library; as a Numba array if that is unknown."""
    if device.is_own(like):
        return result
    name = type(like).__module__.partition(".")[0]
    if name in ("cupy", "torch"):
        module = sys.modules[name]
        return module.asarray(result) if name == "cupy" else module.as_tensor(result, device=like.device)
    if hasattr(like, "__array_namespace__"):
        namespace = like.__array_namespace__()
        if hasattr(namespace, "asarray"):
            return namespace.asarray(result)
    return result


def contiguous(name, value, shape, dtype, stream):
    """A device array of ``out=`` as a flat one, checked to have this shape and to be C-contiguous."""
    if not on_device(value):
        raise TypeError(f"{name} in out must be on the device, as the input is, not a {type(value).__name__}")
    array = strided(f"{name} in out", value, dtype, stream)
    if array.shape != tuple(shape):
        raise ValueError(f"{name} in out must have shape {tuple(shape)}, not {array.shape}")
    wanted = whole(None, shape).strides
    if any(a != b for a, b, size in zip(array.strides, wanted, shape, strict=True) if size > 1):
        raise ValueError(f"{name} in out must be C-contiguous\nIts strides are {array.strides} numbers.")
    return array.flat


def shaped(flat, shape):
    """The first numbers of a flat device array, as an array of this shape."""
    return flat[: prod(shape)].reshape(shape)
