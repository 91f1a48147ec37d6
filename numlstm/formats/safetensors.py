"""``.safetensors``: a header in JSON, then the numbers of every tensor, little endian.

The safetensors library checks the header against the file before anything of it is believed (its README has the
format and the checks). The numbers are read from where the header says, one tensor at a time: the library
would map the file, give them twice, and has no bfloat16 for NumPy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from numlstm.formats import numlstm_config, state_dict
from numlstm.formats.found import Contents
from numlstm.formats.tensor import Array, Tensor, decoded

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


def looks_like(start: bytes) -> bool:
    """Whether a file that begins with these 9 bytes or more may be one: a length, and the brace that opens JSON."""
    return len(start) > LENGTH and start[LENGTH] == ord("{") and int.from_bytes(start[:LENGTH], "little") < 1 << 40


def read(file: BinaryIO, path: str | os.PathLike[str]) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    try:
        with safe_open(path, framework="np") as checked:
            names, metadata = set(checked.keys()), checked.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"it is no sound safetensors file: {error}") from None
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    if set(header) != names:
        raise ValueError("its header changed while it was read")
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = DTYPES.get(entry["dtype"])
        if dtype is not None:  # 4 and 8 bit floats are in no LSTM and in no dtype of NumPy's
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            numbers = partial(_numbers, file, LENGTH + length + begin, end - begin, dtype, shape)
            tensors[name] = Tensor(shape, dtype, numbers)
    return numlstm_config.contents("safetensors", tensors, metadata, *state_dict.find(tensors))


def _numbers(file: BinaryIO, begin: int, size: int, dtype: str, shape: tuple[int, ...]) -> Array:
    file.seek(begin)
    return decoded(file.read(size), dtype, shape)


def dump(parameters: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The file of these arrays and this metadata."""
    from safetensors.numpy import save

    return save(dict(parameters), dict(metadata))
