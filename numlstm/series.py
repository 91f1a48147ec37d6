"""What ``numlstm run`` reads: a sequence from ``.npy``, ``.npz`` or ``.csv``, and states from ``.npz``."""

from __future__ import annotations

import csv
import os
import stat
from array import array as flat_array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from numlstm.checks import counted
from numlstm.formats import npz, zips
from numlstm.stored import Stored

Array = np.ndarray[Any, np.dtype[Any]]
States = tuple[Array, Array]

NPY = b"\x93NUMPY"
ZIP = b"PK"
STATES = (("h_n", "c_n"), ("h_0", "c_0"))  # an earlier run's last states go before the ones that it began with


@dataclass(frozen=True)
class Series:
    """A sequence or a batch of them, in memory or on disk.

    Attributes
    ----------
    shape : tuple of int
        As the file has it.
    dtype : dtype
    read : callable
        Given a slice of the first axis and one of the second, that part as three axes: an unbatched sequence is a
        batch of one. Only while the file is open.
    states : (ndarray, ndarray) or None
        h_0 and c_0, where the file holds them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[slice, slice], Array]
    states: States | None = None

    @classmethod
    def of(cls, array: Array, states: States | None = None) -> Series:
        """One whose numbers are in memory, or in a map."""
        three = array[:, None] if array.ndim == 2 else array
        return cls(array.shape, array.dtype, lambda outer, inner: three[outer, inner], states)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Series]:
    """The sequence that a file holds; one of ``.npy`` can be read inside the context.

    Parameters
    ----------
    path : path
        ``.npy``; ``.npz`` with an array ``input`` and perhaps ``h_0`` and ``c_0``; or ``.csv``, where a row is a step
        and a column a feature, with or without a line of names before.

    Raises
    ------
    OSError
        It cannot be opened, or is no regular file.
    ValueError
        It is none of these, or damaged; the message begins with the path, and has the line of a ``.csv`` file.
    """
    shown = os.fspath(path)
    regular(path)
    with open(path, "rb") as file:
        start = file.read(len(NPY))
        if start == NPY:
            yield _of_npy(path, file)
        elif start.startswith(ZIP):
            arrays = _arrays(path)
            if "input" not in arrays:
                raise ValueError(f"{shown}: it holds no array named input; it holds {_names(arrays)}")
            yield Series.of(arrays["input"], _pair(path, arrays, STATES[1:]))
        elif Path(path).suffix.lower() == ".csv":
            yield Series.of(_of_csv(path))
        else:
            raise ValueError(
                f"{shown} begins with {start!r}, which is neither a .npy nor a .npz file; text must be named .csv"
            )


def states(path: str | os.PathLike[str]) -> States:
    """h_n and c_n of an earlier run's results, or h_0 and c_0.

    Raises
    ------
    OSError
        It cannot be opened, or is no regular file.
    ValueError
        It is no ``.npz`` file, or holds neither pair.
    """
    regular(path)
    arrays = _arrays(path)
    pair = _pair(path, arrays, STATES)
    if pair is None:
        raise ValueError(f"{os.fspath(path)}: it holds neither h_n and c_n nor h_0 and c_0, but {_names(arrays)}")
    return pair


def regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError for a path that is no regular file: opening a pipe would wait for someone to write to it."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        kind = "a directory" if os.path.isdir(path) else "no regular file"
        raise OSError(f"{os.fspath(path)} is {kind}; a file is expected")


def _of_npy(path: str | os.PathLike[str], file: BinaryIO) -> Series:
    file.seek(0)
    try:
        shape, fortran, dtype = npz.header(file, os.fstat(file.fileno()).st_size)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{os.fspath(path)}: it is no sound .npy file: {error}") from error
    if fortran or len(shape) not in (2, 3):  # parts lie far from one another: one map, paged in and out by the system
        order: Any = "F" if fortran else "C"
        return Series.of(np.memmap(file, dtype, "r", file.tell(), shape, order).view(np.ndarray))
    three = shape if len(shape) == 3 else (shape[0], 1, shape[1])
    return Series(shape, dtype, Stored(file, dtype, three, file.tell()).read)


def _arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a ``.npz`` file; archives that claim too much, and pickles in them, are refused."""
    try:
        with open(path, "rb") as file:
            if file.read(len(ZIP)) != ZIP:
                raise ValueError("it is no .npz file")
            archive = zips.open_zip(file, os.fstat(file.fileno()).st_size)
            if not npz.looks_like(archive.namelist()):
                raise ValueError("it is a zip archive, but not of .npy files")
            wanted = {"input", *STATES[0], *STATES[1]}
            tensors = npz.read(archive).tensors
            for name in wanted:
                if f"{name}{npz.SUFFIX}" in archive.namelist() and name not in tensors:
                    raise ValueError(f"its array {name} must hold real numbers, and holds complex ones, text or dates")
            return {name: tensor.read() if name in wanted else np.empty(0) for name, tensor in tensors.items()}
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _pair(path: str | os.PathLike[str], arrays: dict[str, Array], pairs: tuple[tuple[str, str], ...]) -> States | None:
    """The first of the pairs that is there."""
    for h, c in pairs:
        if h in arrays and c in arrays:
            return arrays[h], arrays[c]
        if h in arrays or c in arrays:
            have, lacks = (h, c) if h in arrays else (c, h)
            raise ValueError(f"{os.fspath(path)}: it holds {have} but no {lacks}; both states are needed")
    return None


def _names(arrays: dict[str, Array]) -> str:
    return ", ".join(sorted(arrays)[:6]) + (", ..." if len(arrays) > 6 else "") or "nothing"


def _of_csv(path: str | os.PathLike[str]) -> Array:
    """(steps, features) in float64, eight bytes a number while it is read."""
    shown = os.fspath(path)
    numbers, width, rows, empty = flat_array("d"), 0, 0, 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            for cells in lines:
                line = lines.line_num
                if not any(cell.strip() for cell in cells):
                    empty = empty or line
                    continue
                if empty and rows:
                    raise ValueError(f"line {empty} is empty; a step cannot be left out")
                empty = 0
                if not width:
                    width = len(cells)
                    if not any(_is_number(cell) for cell in cells):
                        continue  # names of the columns
                if len(cells) != width:
                    raise ValueError(
                        f"line {line} has {counted(len(cells), 'column')}; the lines before it have {width}"
                    )
                try:
                    numbers.extend(map(float, cells))
                except ValueError:
                    column = next(at for at, cell in enumerate(cells) if not _is_number(cell))
                    raise ValueError(
                        f"line {line}, column {column + 1}: {cells[column][:40]!r} is not a number; "
                        "numbers have a decimal point, and commas stand between them"
                    ) from None
                rows += 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: it is no text in UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{shown}: {error}") from None
    if not rows:
        raise ValueError(f"{shown}: it holds no line of numbers")
    return np.frombuffer(numbers, np.float64).reshape(rows, width)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
