"""The one module that says ``from numba import cuda``: what another front end for CUDA would replace.

Numba's simulator stands in where ``NUMBA_ENABLE_CUDASIM=1`` was set before the first import of Numba. It rounds
``a * b + c`` twice, knows no libdevice, and runs functions as plain Python; ``lane`` has its instructions.
"""

import functools

import numpy as np
from numba import config, cuda

SIMULATED = bool(config.ENABLE_CUDASIM)


def inline(function):
    """Decorator: a function that disappears into the kernels that call it."""
    return function if SIMULATED else cuda.jit(device=True, forceinline=True)(function)


def kernel(function, threads):
    """A function as a kernel for at most so many threads a block."""
    # fastmath would turn divisions into approximations and flush what is to stay
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
    """An uninitialised array in host memory that the device copies from and to by itself."""
    return cuda.pinned_array(shape, dtype)


def upload(array, stream=0):
    """A copy on the device."""
    return cuda.to_device(np.ascontiguousarray(array), stream=stream)


def synchronize(stream):
    """Wait for all that was asked of a stream."""
    cuda.synchronize() if SIMULATED or not stream else stream.synchronize()


def stream_of(handle):
    """The stream of this handle; 0 is the default stream."""
    return 0 if SIMULATED or handle in (0, None) else cuda.external_stream(handle)


def memory_at(pointer, count, dtype, owner):
    """``count`` numbers that someone else owns on the device, as a flat array that keeps the owner alive."""
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
    """An array of NumPy's at an address, strides in bytes; whether its numbers may be touched the caller knows."""
    interface = {"shape": shape, "strides": strides, "typestr": dtype.str, "data": (pointer, False), "version": 3}
    return np.asarray(type("Holder", (), {"__array_interface__": interface, "owner": owner})())


def lacks_memory(error):
    """Whether the host or the device had no memory for what was asked for, or it is more than any array may have."""
    return isinstance(error, MemoryError | OverflowError | ValueError) or "OUT_OF_MEMORY" in str(error)


def is_own(value):
    """Whether the value is a device array of Numba's."""
    return bool(getattr(value, "__cuda_ndarray__", False))


def interface(value):
    """The ``__cuda_array_interface__`` of a value, or None; the simulator's arrays have NumPy's."""
    if SIMULATED and is_own(value):
        return value._ary.__array_interface__
    return getattr(value, "__cuda_array_interface__", None)
