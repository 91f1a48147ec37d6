"""The input of ``numlstm run``: sequences from ``.npy``, ``.npz`` or ``.csv``, and states from ``.npz``."""

from __future__ import annotations

import csv
import io
import os
from array import array as flat_array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numlstm.base import opening
from numlstm.base.typing import Array, States
from numlstm.base.wording import counted
from numlstm.commands.disk_array import DiskArray
from numlstm.formats import npz, zips
from numlstm.formats.budget import Budget
from numlstm.formats.text import decimal

NPY = b"\x93NUMPY"
ZIP = b"PK"
LINE = 1 << 20  # characters of the longest line of a .csv file
STATES = (("h_n", "c_n"), ("h_0", "c_0"))  # of an earlier run's file the last states, not its initial ones


@dataclass(frozen=True)
class Sequences:
    """A sequence or a batch of sequences, in memory or on disk.

    Attributes
    ----------
    shape : tuple of int
        As in the file.
    dtype : dtype
    read : callable
        Returns the part given by a slice of the first axis and one of the second, with three axes: an unbatched
        sequence is a batch of one. Only while the file is open.
    states : (ndarray, ndarray) or None
        h_0 and c_0, if the file holds them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[slice, slice], Array]
    states: States | None = None

    @classmethod
    def of(cls, array: Array, states: States | None = None) -> Sequences:
        """Sequences in memory."""
        three = array[:, None] if array.ndim == 2 else array
        return cls(array.shape, array.dtype, lambda outer, inner: three[outer, inner], states)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Sequences]:
    """The sequences of a file, to be read inside the context.

    Parameters
    ----------
    path : path
        ``.npy``; ``.npz`` with an array ``input`` and perhaps ``h_0`` and ``c_0``; or ``.csv`` with a row for each step
        and a column for each feature, and perhaps a first line of names.

    Raises
    ------
    OSError
        It cannot be opened, or is no regular file.
    ValueError
        It is none of these, or damaged. The message begins with the path, and names the line of a ``.csv`` file.
    """
    shown = os.fspath(path)
    with opening.regular(path) as file:
        start = file.read(len(NPY))
        if start == NPY:
            yield _of_npy(path, file)
        elif start.startswith(ZIP):
            arrays = _arrays(path, file)
            if "input" not in arrays:
                raise ValueError(f"{shown}: it holds no array named input; it holds {_names(arrays)}")
            yield Sequences.of(arrays["input"], _pair(path, arrays, STATES[1:]))
        elif Path(path).suffix.lower() == ".csv":
            yield Sequences.of(_of_csv(path, file))
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
        It is not a ``.npz`` file, or holds neither pair.
    """
    with opening.regular(path) as file:
        arrays = _arrays(path, file)
    pair = _pair(path, arrays, STATES)
    if pair is None:
        raise ValueError(f"{os.fspath(path)}: it holds neither h_n and c_n nor h_0 and c_0, but {_names(arrays)}")
    return pair


def _of_npy(path: str | os.PathLike[str], file: io.BufferedReader) -> Sequences:
    shown = os.fspath(path)
    file.seek(0)
    try:
        shape, fortran, dtype = npz.header(file, opening.size(file))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{shown}: it is no sound .npy file: {error}") from error
    first, second, features = (*shape, 1, 1, 1)[:3] if len(shape) != 2 else (shape[0], 1, shape[1])
    on_disk = DiskArray(file, dtype, (first, second, features), file.tell(), "F" if fortran else "C")

    def read(outer: slice, inner: slice) -> Array:
        try:
            return on_disk.read(outer, inner)
        except ValueError as error:
            raise ValueError(f"{shown}: {error}") from error

    return Sequences(shape, dtype, read)


def _arrays(path: str | os.PathLike[str], file: io.BufferedReader) -> dict[str, Array]:
    """The arrays of a ``.npz`` file. Archives that declare more data than they hold, and pickles, are refused."""
    try:
        file.seek(0)
        if file.read(len(ZIP)) != ZIP:
            raise ValueError("it is no .npz file")
        archive = zips.open_zip(file, opening.size(file))
        if not npz.looks_like(archive.namelist()):
            raise ValueError("it is a zip archive, but not of .npy files")
        wanted = {"input", *STATES[0], *STATES[1]}
        tensors, _ = npz.read_arrays(archive, Budget(opening.size(file)))
        names = set(archive.namelist())
        for name in wanted:
            if f"{name}{npz.SUFFIX}" in names and name not in tensors:
                raise ValueError(f"its array {name} must hold real numbers, and holds complex ones, text or dates")
        return {name: tensor.read() if name in wanted else np.empty(0) for name, tensor in tensors.items()}
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _pair(path: str | os.PathLike[str], arrays: dict[str, Array], pairs: tuple[tuple[str, str], ...]) -> States | None:
    """The first pair that the file holds."""
    for h, c in pairs:
        if h in arrays and c in arrays:
            return arrays[h], arrays[c]
        if h in arrays or c in arrays:
            have, lacks = (h, c) if h in arrays else (c, h)
            raise ValueError(f"{os.fspath(path)}: it holds {have} but no {lacks}; both states are needed")
    return None


def _names(arrays: dict[str, Array]) -> str:
    return ", ".join(sorted(arrays)[:6]) + (", ..." if len(arrays) > 6 else "") or "nothing"


def _of_csv(path: str | os.PathLike[str], file: io.BufferedReader) -> Array:
    """(steps, features) in float64; reading takes eight bytes a number."""
    shown = os.fspath(path)
    numbers, width, rows, empty = flat_array("d"), 0, 0, 0
    try:
        file.seek(0)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        lines = csv.reader(_lines(text), strict=True)
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
                raise ValueError(f"line {line} has {counted(len(cells), 'column')}; the lines before it have {width}")
            try:
                numbers.extend(map(decimal, cells))
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


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a text, with a limit on their length: a file without line ends would be one line."""
    while line := text.readline(LINE):
        if len(line) == LINE:
            raise ValueError(f"it has a line of more than {LINE} characters")
        yield line


def _is_number(cell: str) -> bool:
    try:
        decimal(cell)
    except ValueError:
        return False
    return True
