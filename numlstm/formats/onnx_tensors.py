"""Tensors of ONNX: protobuf messages, or ranges of a file beside the model, each checked before it is believed.

A message of two bytes takes a hundred and fifty once it is parsed, so fields are counted before. The format:
https://github.com/onnx/onnx/blob/main/docs/IR.md and docs/ExternalData.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from numlstm import opening
from numlstm.formats.tensor import Array, Tensor, decoded, widened, width
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
}  # TensorProto.DataType; text, 4 and 8 bit floats are in no LSTM and in no dtype of NumPy's
FIELDS = {
    "float32": "float_data",
    "complex64": "float_data",
    "float64": "double_data",
    "complex128": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
}  # where numbers are that are not raw; the rest is in int32_data, float16 and bfloat16 as their bits
EXTERNAL = 1  # TensorProto.DataLocation
FEW, MANY = 100_000, 1_000_000  # fields that any file may have, and that none may exceed
DENSE = 4  # bytes a field at least, beyond FEW; a model without weights has 10
VARINT = 10  # bytes at most


def count_fields(data: bytes, descriptor: Any) -> int:
    """How many fields the messages in these bytes have, to the innermost; read from the wire, nothing is built.

    Parameters
    ----------
    data : bytes
        A serialised message.
    descriptor : google.protobuf.descriptor.Descriptor
        Its type.

    Raises
    ------
    ValueError
        It is no message, or has more fields than a model of its size.
    """
    limit = min(FEW + len(data) // DENSE, MANY)
    inside: dict[str, dict[int, Any]] = {}

    def messages(of: Any) -> dict[int, Any]:
        if of.full_name not in inside:
            inside[of.full_name] = {field.number: field.message_type for field in of.fields if field.message_type}
        return inside[of.full_name]

    count, at, end, known = 0, 0, len(data), messages(descriptor)
    around: list[tuple[int, dict[int, Any]]] = []  # end and fields of the messages that this one is in
    while True:
        while at == end and around:
            end, known = around.pop()
        if at == end:
            return count
        count += 1
        if count > limit:
            raise ValueError(f"it has more than {limit} fields in {len(data)} bytes, which no model has")
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind == 2:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError(f"it is damaged or cut short: a field ends at byte {at + length}, beyond {end}")
            inner = known.get(tag >> 3)
            if inner is None:
                at += length
            elif length:
                around.append((end, known))
                end, known = at + length, messages(inner)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise ValueError(f"it is damaged or cut short: a field ends at byte {at}, beyond {end}")
        else:
            raise ValueError(f"it is no ONNX model, or damaged: a field of wire type {kind} at byte {at}")


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
    """The tensor that a TensorProto is, or None where its numbers are of no dtype that is known.

    Parameters
    ----------
    proto : onnx.TensorProto
    shown : str
        Its name, for messages.
    beside : Beside
        Where its external data would be.

    Raises
    ------
    ValueError
        Its sizes do not fit its numbers, or its external data is not where it may be.
    """
    dtype = DTYPES.get(proto.data_type)
    if dtype is None:
        return None
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
        raise ValueError(f"its tensor {shown!r} has shape {shape}, but {have} numbers in {field}")
    return Tensor(shape, dtype, partial(_listed, proto, field, dtype, shape))


def _listed(proto: Any, field: str, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "bfloat16":  # onnx gives another dtype for it in each of its versions
        return widened(np.array(proto.int32_data, np.int32).astype(np.uint16)).reshape(shape)
    from onnx import numpy_helper

    array: Array = numpy_helper.to_array(proto)
    return array


class Beside:
    """The files beside a model that hold numbers of its tensors: in its folder and nowhere else.

    Attributes
    ----------
    nbytes : int
        What those that a tensor named have in all.
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self.folder = Path(model).parent
        self.sizes: dict[str, int] = {}

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values())

    def place(self, where: Mapping[str, str], nbytes: int, shown: str) -> tuple[Path, int]:
        """The file of a tensor's numbers, and where in it they begin."""
        location = where.get("location", "")
        said = f"its tensor {shown!r} has its numbers in {location!r}"
        path = self.folder / location
        if location not in self.sizes:
            self.sizes[location] = _size(path, location, self.folder, said)
        size = self.sizes[location]
        try:
            offset, length = whole(where.get("offset", "0")), whole(where.get("length", str(nbytes)))
        except ValueError:
            raise ValueError(f"{said}, at an offset or of a length that is no number: {dict(where)}") from None
        if offset < 0 or length != nbytes or offset + length > size:
            raise ValueError(f"{said}, {length} bytes from {offset}; {nbytes} are expected, and the file has {size}")
        return path, offset


def _size(path: Path, location: str, folder: Path, said: str) -> int:
    """The size of a file below the folder, once it is found to be one."""
    parts = location.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or ":" in parts[0] or "\0" in location:
        raise ValueError(f"{said}, which is no path below the model's folder; nothing else is read")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{said}, a link out of the model's folder; put the file itself there")
    try:
        with opening.regular(path, "a file of numbers") as file:
            return opening.size(file)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{said}, which cannot be read ({reason}); it belongs beside the model") from None


def _outside(path: Path, offset: int, nbytes: int, dtype: str, shape: tuple[int, ...]) -> Array:
    with opening.regular(path, "a file of numbers") as file:
        file.seek(offset)
        return decoded(file.read(nbytes), dtype, shape)
