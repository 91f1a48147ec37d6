"""``.safetensors``: a header in JSON, then the numbers of every tensor, little endian.

The header is held against the file before anything of it is believed, by the rules of the safetensors library, whose
README has the format. The library itself reads from a map of the file, which ends the process where the file is cut
short meanwhile. The numbers are read from where the header says, one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any, BinaryIO, NamedTuple

from numlstm.base.typing import Array
from numlstm.formats import numlstm_config, state_dict
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents
from numlstm.formats.tensor import AXES, Tensor, decoded, width

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
LENGTH = 8  # bytes before the header, which state its length
HEADER = 100_000_000  # bytes of the longest header, as in the library
JSON = 32  # bytes of memory that a byte of it takes at most once it is parsed, with the tensors that it describes
METADATA = "__metadata__"
FIELDS = ("dtype", "shape", "data_offsets")


class Entry(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int  # among the numbers
    end: int


def looks_like(start: bytes) -> bool:
    """Whether a file that begins with these 9 bytes or more may be one: a length, and the brace that opens JSON."""
    return len(start) > LENGTH and start[LENGTH] == ord("{") and int.from_bytes(start[:LENGTH], "little") < 1 << 40


def read(file: BinaryIO, size: int) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    try:
        entries, metadata, begin = _header(file, size)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no sound safetensors file: {error}") from None
    tensors = {}
    for name, entry in entries.items():
        dtype = DTYPES.get(entry.dtype)
        if dtype is not None:  # 4 and 8 bit floats are in no LSTM and in no dtype of NumPy's
            numbers = partial(_numbers, file, begin + entry.begin, entry.end - entry.begin, dtype, entry.shape)
            tensors[name] = Tensor(entry.shape, dtype, numbers)
    return numlstm_config.contents("safetensors", tensors, metadata, *state_dict.find(tensors))


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Entry], dict[str, str], int]:
    """What the header says of every tensor, in their order; the metadata; and where the numbers begin."""
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH), "little")
    begin = LENGTH + length
    if length > min(HEADER, size - LENGTH):
        raise ValueError(f"its header states {length} bytes; the file has {size}, and {HEADER} are the most")
    Budget(size).hold(JSON * length, "its header")
    text = file.read(length)
    if len(text) < length:
        raise ValueError(f"it was cut short while it was read: {len(text)} of {length} bytes of its header are left")
    header = json.loads(text.decode(), object_pairs_hook=_object)
    if type(header) is not dict:
        raise ValueError("its header is that of one tensor")
    metadata = header.pop(METADATA, None) or {}
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise ValueError(f"its {METADATA} is not text by name")
    for name, entry in header.items():
        name.encode()  # half of a character beyond 16 bits is none
        if type(entry) is not Entry:
            raise ValueError(f"its tensor {name!r} has no {', '.join(FIELDS)}")
    end = 0
    entries = dict(sorted(header.items(), key=lambda item: item[1][2:]))
    for name, entry in entries.items():
        if entry.begin != end:
            raise ValueError(f"its tensor {name!r} begins at byte {entry.begin} of the numbers; {end} is expected")
        end = entry.end
        dtype = DTYPES.get(entry.dtype)
        if end < entry.begin or (dtype and end - entry.begin != prod(entry.shape) * width(dtype)):
            raise ValueError(
                f"its tensor {name!r} of shape {entry.shape} in {entry.dtype} lies from byte {entry.begin} to {end}"
            )
    if begin + end != size:
        raise ValueError(f"its tensors end at byte {begin + end}, and the file at {size}")
    return entries, metadata, begin


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Entry:
    """An object of the header: a tensor's entry, checked, or another with each name once."""
    known = dict(pairs)
    if len(known) < len(pairs):
        raise ValueError(f"its header has a name twice among {', '.join(map(repr, list(known)[:4]))}")
    dtype, shape, offsets = map(known.get, FIELDS)
    if type(dtype) is not str or type(shape) is not list or type(offsets) is not list:
        return known
    if len(shape) > AXES or len(offsets) != 2 or not all(_is_size(number) for number in (*shape, *offsets)):
        raise ValueError(f"a tensor of {len(shape)} axes has the shape {shape[:4]} and lies at {offsets[:4]}")
    return Entry(dtype, tuple(shape), *offsets)


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


def _numbers(file: BinaryIO, begin: int, size: int, dtype: str, shape: tuple[int, ...]) -> Array:
    file.seek(begin)
    return decoded(file.read(size), dtype, shape)


def dump(parameters: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The file of these arrays and this metadata."""
    from safetensors.numpy import save

    return save(dict(parameters), dict(metadata))
