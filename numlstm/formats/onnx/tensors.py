"""Tensors of ONNX: protobuf messages, or ranges of a file beside the model, checked before use.

A message of two bytes takes 150 bytes once it is parsed, so fields are counted first. The format:
https://github.com/onnx/onnx/blob/main/docs/IR.md and docs/ExternalData.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numlstm.base import opening
from numlstm.base.bfloat16 import widened
from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.beside import size_below
from numlstm.formats.budget import Budget
from numlstm.formats.tensor import Tensor, decoded, width
from numlstm.formats.text import whole

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
}  # TensorProto.DataType, without text and the floats of 4 and 8 bits
FIELDS = {
    "float32": "float_data",
    "complex64": "float_data",
    "float64": "double_data",
    "complex128": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
}  # fields of numbers that are not raw; the rest is in int32_data, float16 and bfloat16 as their bits
NUMBERS = {
    "float_data": np.float32,
    "double_data": np.float64,
    "int32_data": np.int32,
    "int64_data": np.int64,
    "uint64_data": np.uint64,
}
CONSTANT = 900  # bytes of memory for a Constant node
LONGEST = (1 << 31) - 1  # bytes of a message, protobuf's own limit
EXTERNAL = 1  # TensorProto.DataLocation
NESTED = 200  # messages within each other; protobuf's own limit is 100
MESSAGE, FIELD, NUMBER = 200, 30, 24  # bytes of memory for a message, another field, each number in a packed one
COSTS: dict[str, int] = {
    "NodeProto": 800,
    "TensorProto": 1_500,
    "GraphProto": 1_600,
    "FunctionProto": 1_500,
    "NodeProto.input": 350,
    "NodeProto.output": 300,
    "TensorProto.dims": 60,
}  # bytes of memory for those that take more, with what a reader makes of them
ABOVE_127 = bytes(range(128, 256))  # those that do not end a number
VARINT = 10  # bytes at most
AXES = 32
SHARED = 4  # limit of the tensors in a file beside the model, times its size; they may overlap


class _Field(NamedTuple):
    """The memory that a field takes, and the type of the message in it, if any."""

    cost: int
    inner: Any = None
    number: int = 0  # bytes of memory for each number in it, if they may be packed


def charge_messages(data: bytes, descriptor: Any, budget: Budget) -> None:
    """Charge the memory that a serialised message will take, with all messages in it; nothing is built.

    Parameters
    ----------
    data : bytes
        A serialised message.
    descriptor : google.protobuf.descriptor.Descriptor
        Its type.
    budget : Budget

    Raises
    ------
    ValueError
        It is no message, or takes more memory than its size justifies.
    """
    known: dict[str, dict[int, _Field]] = {}

    def fields(of: Any) -> dict[int, _Field]:
        if of.full_name not in known:
            known[of.full_name] = {field.number: _field(field) for field in of.fields}
        return known[of.full_name]

    at, end, inside = 0, len(data), fields(descriptor)
    around: list[tuple[int, dict[int, _Field]]] = []  # end and fields of the messages around this one
    other = _Field(FIELD)
    while True:
        while at == end and around:
            end, inside = around.pop()
        if at == end:
            return
        tag, at = _varint(data, at, end)
        if not tag >> 3:  # a sparse file may have gigabytes of zeros
            raise ValueError(f"it is no ONNX model, or damaged: a field of number 0 before byte {at}")
        field = inside.get(tag >> 3, other)
        budget.hold(field.cost, "its messages")
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError(f"it is damaged or cut short: a field ends at byte {at + length}, beyond {end}")
            if field.inner is not None and length:
                around.append((end, inside))
                end, inside = at + length, fields(field.inner)
                if len(around) > NESTED:
                    raise ValueError(f"it is no ONNX model, or damaged: {NESTED} messages are nested")
                continue
            if field.number:
                packed = data[at : at + length].translate(None, ABOVE_127)
                budget.hold(len(packed) * field.number, "its messages")
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise ValueError(f"it is damaged or cut short: a field ends at byte {at}, beyond {end}")
        else:
            raise ValueError(f"it is no ONNX model, or damaged: a field of wire type {kind} at byte {at}")


def _field(field: Any) -> _Field:
    """A field's memory, by its descriptor."""
    name = f"{field.containing_type.name}.{field.name}"
    inner = field.message_type
    cost = COSTS.get(name) or (COSTS.get(inner.name, MESSAGE) if inner else FIELD)
    is_varint = field.cpp_type not in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE, field.CPPTYPE_STRING)
    return _Field(cost, inner, NUMBER if inner is None and is_varint else 0)


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at < end and data[at] < 128:
        return data[at], at + 1
    value = 0
    for count in range(VARINT):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, at
    raise ValueError(f"it is damaged or cut short: a number does not end at byte {at}")


def tensor_of(proto: Any, shown: str, beside: Beside) -> Tensor | None:
    """Return the tensor of a TensorProto, or None if its number type is unknown.

    Parameters
    ----------
    proto : onnx.TensorProto
    shown : str
        Its name, for messages.
    beside : Beside
        The files with external data.

    Raises
    ------
    ValueError
        Its sizes do not fit its numbers, or its external data is missing or outside the model's folder.
    """
    dtype = DTYPES.get(proto.data_type)
    if dtype is None:
        return None
    if len(proto.dims) > AXES:
        raise ValueError(f"its tensor {shown!r} has {len(proto.dims)} axes; {AXES} are the most")
    shape = tuple(proto.dims)
    if any(length < 0 for length in shape):
        raise ValueError(f"its tensor {shown!r} has shape {shape}; no length can be negative")
    count = prod(shape)
    nbytes = count * width(dtype)
    if proto.data_location == EXTERNAL:
        where = {entry.key: entry.value for entry in proto.external_data}
        file, offset = beside.place(where, nbytes, shown)
        return Tensor(shape, dtype, partial(_outside, file, offset, nbytes, dtype, shape))
    if proto.HasField("raw_data"):
        have = len(proto.raw_data)
        if have != nbytes:
            raise ValueError(f"its tensor {shown!r} has shape {shape} of {dtype}, {nbytes} bytes, but holds {have}")
        return Tensor(shape, dtype, lambda: decoded(proto.raw_data, dtype, shape))
    field = FIELDS.get(dtype, "int32_data")
    have, asked = len(getattr(proto, field)), count * (2 if dtype.startswith("complex") else 1)
    if have != asked:
        raise ValueError(f"its tensor {shown!r} has shape {shape}, but {counted(have, 'number')} in {field}")
    return Tensor(shape, dtype, partial(_listed, proto, field, dtype, shape))


def _listed(proto: Any, field: str, dtype: str, shape: tuple[int, ...]) -> Array:
    listed = getattr(proto, field)
    numbers = np.fromiter(listed, NUMBERS[field], len(listed))  # a list would take 32 bytes for each number
    if dtype == "bfloat16":
        return widened(numbers.astype(np.uint16)).reshape(shape)
    if dtype == "float16":
        return numbers.astype(np.uint16).view(np.float16).reshape(shape)
    if dtype.startswith("complex"):
        return numbers.view(dtype).reshape(shape)
    return numbers.astype(dtype, copy=False).reshape(shape)


class Beside:
    """The files with external data, which must be in the model's folder.

    Parameters
    ----------
    model : path or None
        None for a model that is no file.
    budget : Budget
        Grows by the size of the tensors' data in these files.
    """

    def __init__(self, model: str | os.PathLike[str] | None, budget: Budget) -> None:
        self.folder = None if model is None else Path(model).parent
        self.budget = budget
        self.sizes: dict[str, int] = {}
        self.claimed: dict[str, int] = {}

    def place(self, where: Mapping[str, str], nbytes: int, shown: str) -> tuple[Path, int]:
        """Return the file of a tensor's numbers and their offset."""
        location = where.get("location", "")
        said = f"its tensor {shown!r} has its numbers in {location!r}"
        if self.folder is None:
            raise ValueError(f"{said}, beside the model: load it by its path")
        path = self.folder / location
        if location not in self.sizes:
            self.sizes[location] = size_below(self.folder, location, said)
        size = self.sizes[location]
        try:
            offset, length = whole(where.get("offset", "0")), whole(where.get("length", str(nbytes)))
        except ValueError:
            raise ValueError(f"{said}, at an offset or of a length that is no number: {dict(where)}") from None
        if offset < 0 or length != nbytes or offset + length > size:
            raise ValueError(f"{said}, {length} bytes from {offset}; {nbytes} are expected, and the file has {size}")
        self._claim(location, nbytes, size)
        return path, offset

    def _claim(self, location: str, nbytes: int, size: int) -> None:
        before = self.claimed.get(location, 0)
        self.claimed[location] = before + nbytes
        if self.claimed[location] > SHARED * size:
            raise ValueError(
                f"its tensors have {self.claimed[location]} bytes in {location!r}, which has {size}: they overlap, and "
                f"{SHARED} times is the limit"
            )
        self.budget.grow(min(self.claimed[location], size) - min(before, size))


def _outside(path: Path, offset: int, nbytes: int, dtype: str, shape: tuple[int, ...]) -> Array:
    with opening.regular(path, "a file of numbers") as file:
        file.seek(offset)
        return decoded(file.read(nbytes), dtype, shape)
