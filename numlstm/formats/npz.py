"""``.npz``: a zip archive with a ``.npy`` file for each tensor. Arrays of Python objects are pickles, and refused."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats import numlstm_config, other_names
from numlstm.formats.budget import Budget, shown
from numlstm.formats.detected import Contents
from numlstm.formats.tensor import AXES, TENSOR, Tensor, hold_numbers
from numlstm.formats.zips import DAMAGED

SUFFIX = ".npy"
HEADER = 1 << 16  # bytes in which an array's header must end
TEXT = 1 << 16  # bytes of the longest text that is read


class Objects(ValueError):
    """An array holds Python objects."""


def looks_like(names: list[str]) -> bool:
    """Whether a zip archive with these entries is one."""
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def read(archive: zipfile.ZipFile, budget: Budget) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    unread: dict[str, Tensor] = {}
    tensors, metadata = read_arrays(archive, budget, unread)
    hold_numbers(budget, tensors.values())
    lstms, others = other_names.find(tensors | unread)
    others += tuple(f"its array {shown(name)!r} holds {what.dtype}" for name, what in list(unread.items())[:1])
    return numlstm_config.contents("NumPy archive", tensors, metadata, lstms, others)


def read_arrays(
    archive: zipfile.ZipFile, budget: Budget, unread: dict[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every array of numbers, and every text, by name. Arrays of objects are refused, or put into `unread`."""
    tensors, metadata = {}, {}
    for entry in archive.infolist():
        budget.hold(TENSOR, "its arrays")
        name = entry.filename.removesuffix(SUFFIX)
        try:
            shape, dtype = _header(archive, entry, budget)
        except Objects:
            if unread is None:
                raise
            unread[name] = Tensor.unreadable("Python objects, which are pickles")
            continue
        if dtype.kind == "U" and shape == () and entry.file_size <= TEXT:
            budget.hold(4 * entry.file_size, "its arrays")
            metadata[name] = str(_array(archive, entry.filename)[()])
        elif dtype.kind in "fiub" and dtype.name != "longdouble":
            tensors[name] = Tensor(shape, dtype.name, partial(_array, archive, entry.filename))
    return tensors, metadata


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: Budget) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an entry, checked against its size."""
    try:
        with archive.open(entry) as file:
            start = io.BytesIO(file.read(HEADER))
        shape, _, dtype = header(start, entry.file_size)
    except (ValueError, *DAMAGED) as error:
        kind = Objects if isinstance(error, Objects) else ValueError
        raise kind(f"its entry {entry.filename!r} is no sound .npy file: {error}") from None
    # parsing takes time in proportion to the header, which deflate may have made of far fewer bytes
    budget.step(start.tell(), "the headers of its arrays are longer")
    return shape, dtype


def header(file: BinaryIO, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a ``.npy`` file of that size: shape, whether in Fortran order, dtype.

    Raises
    ------
    ValueError
        It is damaged, states another size, or holds Python objects.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of the format is unknown")
    try:
        shape, fortran, dtype = readers[version](file)
    except (ValueError, EOFError):
        raise
    except Exception as error:  # NumPy uses Python's tokenizer and parser, which raise errors of their own
        raise ValueError(f"its header is damaged: {type(error).__name__}: {error}") from error
    if len(shape) > AXES:
        raise ValueError(f"it states {len(shape)} axes; {AXES} are the most")
    if dtype.hasobject:
        raise Objects(
            "it is an array of Python objects, which are pickles, and no pickle is run\n"
            "Save arrays of numbers: np.asarray(value, np.float32)."
        )
    held = size - file.tell()
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"it states shape {shape} of {dtype}, but has {held} bytes")
    return shape, fortran, dtype


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    """The numbers of an entry whose header was checked."""
    try:
        with archive.open(name) as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
            file.read()  # zipfile compares the checksum at the end of the entry
    except DAMAGED as error:
        raise ValueError(f"its entry {name!r} is damaged: {error}") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def dump(parameters: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file with these arrays and this metadata, which becomes 0-d arrays of text."""
    into = io.BytesIO()
    arrays: dict[str, Any] = {**parameters, **{name: np.array(text) for name, text in metadata.items()}}
    np.savez(into, **arrays)
    return into.getvalue()
