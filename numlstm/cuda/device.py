"""All uses of ``numba.cuda``, so that another CUDA front end can replace it here.

Numba's simulator is used if ``NUMBA_ENABLE_CUDASIM=1`` was set before the first import of Numba. It rounds
``a * b + c`` twice, has no libdevice, and runs kernels as Python; ``lane`` has its instructions.
"""

import functools
from typing import Any

import numba
import numba.cuda
import numpy as np

cuda: Any = numba.cuda
SIMULATED = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]  # Numba sets it by name


def inline(function):
    """Decorator: a device function that is inlined into its callers."""
    return function if SIMULATED else cuda.jit(device=True, forceinline=True)(function)


def kernel(function, threads):
    """A function as a kernel, for at most so many threads a block."""
    # fastmath would approximate divisions and flush denormal numbers
    return cuda.jit(function) if SIMULATED else cuda.jit(launch_bounds=threads, fastmath=False)(function)


@functools.cache
def facts():
    """(compute capability, multiprocessors) of the device in use."""
    if SIMULATED:
        return (7, 5), 4
    current = cuda.get_current_device()
    return current.compute_capability, current.MULTIPROCESSOR_COUNT


def empty(shape, dtype, stream=0):
    """An uninitialised array on the device."""
    return cuda.device_array(shape, dtype, stream=stream)


def pinned(shape, dtype):
    """An uninitialised array in pinned host memory."""
    return cuda.pinned_array(shape, dtype)


def upload(array, stream=0):
    """A copy on the device."""
    return cuda.to_device(np.ascontiguousarray(array), stream=stream)


def synchronize(stream):
    """Wait for all work of a stream."""
    cuda.synchronize() if SIMULATED or not stream else stream.synchronize()


def stream_of(handle):
    """The stream with this handle; 0 is the default stream."""
    return 0 if SIMULATED or handle in (0, None) else cuda.external_stream(handle)


def memory_at(pointer, count, dtype, owner):
    """``count`` numbers on the device that another object owns, as a flat array that keeps the owner alive."""
    dtype = np.dtype(dtype)
    if SIMULATED:
        from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

        return FakeCUDAArray(addressed(pointer, (count,), None, dtype, owner))
    interface = {
        "shape": (count,),
        "typestr": dtype.str,
        "data": (pointer, False),
        "strides": None,
        "version": 3,
    }
    return cuda.from_cuda_array_interface(interface, owner=owner, sync=False)


def addressed(pointer, shape, strides, dtype, owner=None):
    """An ndarray at an address, with strides in bytes. The caller must know whether its numbers may be accessed."""
    interface = {"shape": shape, "strides": strides, "typestr": dtype.str, "data": (pointer, False), "version": 3}
    return np.asarray(type("Holder", (), {"__array_interface__": interface, "owner": owner})())


def lacks_memory(error):
    """Whether an error means that the host or the device has too little memory, or that an array would be too large."""
    return isinstance(error, MemoryError | OverflowError | ValueError) or "OUT_OF_MEMORY" in str(error)


def is_own(value):
    """Whether the value is a Numba device array."""
    return bool(getattr(value, "__cuda_ndarray__", False))


def interface(value):
    """The ``__cuda_array_interface__`` of a value, or None. Arrays of the simulator have NumPy's interface."""
    if SIMULATED and is_own(value):
        return value._ary.__array_interface__
    return getattr(value, "__cuda_array_interface__", None)
