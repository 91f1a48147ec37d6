"""Reads DLPack capsules, for arrays without ``__cuda_array_interface__``.

The structures are those of DLPack 0.x, which ``__dlpack__`` returns unless a newer version is requested.
"""

import ctypes

import numpy as np

KINDS = {0: "i", 1: "u", 2: "f"}


class DLDevice(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class DLManagedTensor(ctypes.Structure):
    """A tensor, and the function to call when it is no longer needed."""


DLManagedTensor._fields_ = (
    ("tensor", DLTensor),
    ("context", ctypes.c_void_p),
    ("deleter", ctypes.CFUNCTYPE(None, ctypes.POINTER(DLManagedTensor))),
)


class Owner:
    """Keeps a tensor alive."""

    def __init__(self, managed, source):
        self.managed, self.source = managed, source

    def __del__(self):
        managed, self.managed = self.managed, None
        if managed is not None and managed.contents.deleter:
            managed.contents.deleter(managed)


def taken_apart(name, value, stream):
    """(pointer, dtype, shape, strides in numbers or None, owner) of an array with ``__dlpack__``."""
    # in DLPack, 1 is the legacy default stream, which is 0 in CUDA
    capsule = value.__dlpack__(stream=int(stream) if stream else 1)
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
    pointer = api.PyCapsule_GetPointer(capsule, b"dltensor")
    api.PyCapsule_SetName(capsule, b"used_dltensor")  # the tensor is now ours to delete
    managed = ctypes.cast(pointer, ctypes.POINTER(DLManagedTensor))
    owner, tensor = Owner(managed, value), managed.contents.tensor
    kind = tensor.dtype
    if kind.lanes != 1 or kind.code not in KINDS or kind.bits % 8:
        raise TypeError(f"{name} must hold real numbers, not DLPack's type {kind.code} of {kind.bits} bits")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    return (
        (tensor.data or 0) + tensor.byte_offset,
        np.dtype(f"{KINDS[kind.code]}{kind.bits // 8}"),
        shape,
        strides,
        owner,
    )
