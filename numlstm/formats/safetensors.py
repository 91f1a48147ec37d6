"""``.safetensors``: a header in JSON, then the numbers of every tensor, little endian.

The format: https://github.com/huggingface/safetensors#format. The header is checked against the file by the library's
own rules before any of it is used. The library is not used for reading: it maps the file into memory, and if the file
is truncated while it is mapped, the process dies. Numbers are read one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats import numlstm_config, other_names
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents
from numlstm.formats.tensor import AXES, FLOATS, Quantised, Tensor, decoded, width
from numlstm.formats.text import unique

DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
    "C64": "complex64",
}
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
}  # of a number of the types that NumPy lacks; such tensors are named, not read
LENGTH = 8  # bytes before the header, which state its length
HEADER = 100_000_000  # bytes of the longest header, as in the library
JSON = 32  # bytes of memory for each byte of the header once it is parsed, with the tensors that it describes
SCALE = "_scale"  # behind the name of an int8 tensor: that of its scales, (rows, 1), as in compressed-tensors
METADATA = "__metadata__"
FIELDS = ("dtype", "shape", "data_offsets")


class Entry(NamedTuple):
    """A tensor's entry in the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # among the numbers
    end: int


def looks_like(start: bytes) -> bool:
    """Whether a file may be one, by its first 9 bytes or more: a length, and the brace that opens JSON."""
    return len(start) > LENGTH and start[LENGTH] == ord("{") and int.from_bytes(start[:LENGTH], "little") < 1 << 40


def read(file: BinaryIO, size: int) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    try:
        entries, metadata, begin = _header(file, size)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no sound safetensors file: {error}") from None
    tensors, unread = {}, {}
    for name, entry in entries.items():
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            unread[name] = Tensor.unreadable(entry.dtype)
        else:
            numbers = partial(_numbers, file, begin + entry.begin, entry.end - entry.begin, dtype, entry.shape)
            tensors[name] = Tensor(entry.shape, dtype, numbers)
    whole = other_names.find(_dequantised(tensors) | unread)
    return numlstm_config.contents("safetensors", tensors, metadata, *whole)


def _dequantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with those in int8 that have scales as the numbers that they stand for."""
    whole, zero = dict(tensors), Tensor.of(np.zeros((), np.int8))
    for name, tensor in tensors.items():
        scales = tensors.get(name + SCALE)
        if tensor.dtype == "int8" and scales is not None and scales.dtype in FLOATS:
            rows = tensor.shape[:1]
            if scales.shape in ((*rows, 1), rows, (1,), ()):
                whole[name] = Quantised(tensor, scales, zero, (*rows, *[1] * (len(tensor.shape) - 1))).tensor()
                del whole[name + SCALE]
    return whole


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Entry], dict[str, str], int]:
    """Every tensor's entry in the order of their numbers, the metadata, and the position of the first number."""
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH), "little")
    begin = LENGTH + length
    if length > min(HEADER, size - LENGTH):
        raise ValueError(f"its header states {length} bytes; the file has {size}, and {HEADER} are the most")
    Budget(size).hold(JSON * length, "its header")
    text = file.read(length)
    if len(text) < length:
        raise ValueError(f"it was cut short while it was read: {len(text)} of the header's {length} bytes are left")
    header = json.loads(text.decode(), object_pairs_hook=_object)
    if type(header) is not dict:
        raise ValueError("its header describes one tensor without a name")
    metadata = header.pop(METADATA, None) or {}
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise ValueError(f"its {METADATA} must map names to text")
    for name, entry in header.items():
        name.encode()  # fails for half of a surrogate pair, which is no character
        if type(entry) is not Entry:
            raise ValueError(f"its tensor {name!r} has no {', '.join(FIELDS)}")
    end = 0
    entries = dict(sorted(header.items(), key=lambda item: item[1][2:]))
    for name, entry in entries.items():
        if entry.begin != end:
            raise ValueError(f"its tensor {name!r} begins at byte {entry.begin} of the numbers; {end} is expected")
        end = entry.end
        bits = 8 * width(DTYPES[entry.dtype]) if entry.dtype in DTYPES else BITS.get(entry.dtype)
        if end < entry.begin or (bits and 8 * (end - entry.begin) != prod(entry.shape) * bits):
            raise ValueError(
                f"its tensor {name!r} of shape {entry.shape} in {entry.dtype} lies from byte {entry.begin} to {end}"
            )
    if begin + end != size:
        raise ValueError(f"its tensors end at byte {begin + end}, and the file at {size}")
    return entries, metadata, begin


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Entry:
    """An object of the header, in which no name occurs twice; a tensor's as an `Entry`."""
    known = unique(pairs)
    dtype, shape, offsets = map(known.get, FIELDS)
    if type(dtype) is not str or type(shape) is not list or type(offsets) is not list:
        return known
    if len(shape) > AXES or len(offsets) != 2 or not all(_is_size(number) for number in (*shape, *offsets)):
        raise ValueError(f"a tensor of {len(shape)} axes has shape {shape[:4]} and data_offsets {offsets[:4]}")
    return Entry(dtype, tuple(shape), *offsets)


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


def _numbers(file: BinaryIO, begin: int, size: int, dtype: str, shape: tuple[int, ...]) -> Array:
    file.seek(begin)
    return decoded(file.read(size), dtype, shape)


def dump(parameters: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file with these arrays and this metadata; an array of uint16 holds the bits of bfloat16."""
    from safetensors.numpy import save

    data = save(dict(parameters), dict(metadata))
    numbers = LENGTH + int.from_bytes(data[:LENGTH], "little")
    header = data[LENGTH:numbers].replace(b'"dtype":"U16"', b'"dtype":"BF16"')  # a type that NumPy lacks
    header += b" " * (-len(header) % LENGTH)
    return len(header).to_bytes(LENGTH, "little") + header + data[numbers:]
