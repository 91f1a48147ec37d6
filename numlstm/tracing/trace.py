"""Trace: the gates and states of every step, as ``LSTM.trace`` returns them, and its file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from numlstm.base import atomic, opening
from numlstm.base.typing import Array
from numlstm.base.wording import counted

GATES = ("i", "f", "g", "o")
CALL_ARRAYS = ("input", "h_0", "c_0", "output", "h_n", "c_n")
CLOSED, OPEN = 0.05, 0.95  # a gate below the one counts as closed, above the other as open


@dataclass(frozen=True, eq=False)
class CellTrace:
    """Gates and states of one layer in one direction.

    All have a number for each step, row and hidden unit, with steps and rows as in the input. Index t belongs to step t
    of the input, in both directions: a reverse direction begins at the last one.

    Attributes
    ----------
    i, f, o : ndarray
        Input, forget and output gate, 0 to 1.
    g : ndarray
        Candidate for the cell, -1 to 1.
    c : ndarray
        The cell's state after the step.
    h : ndarray
        The output of the cell at the step; proj_size numbers in place of hidden_size if that is set.
    """

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


class Cells(Mapping[str, CellTrace]):
    """The cells of a trace by name: read-only, and unlike a ``MappingProxyType`` it can be pickled and copied."""

    def __init__(self, cells: Mapping[str, CellTrace]) -> None:
        self._cells = dict(cells)

    def __getitem__(self, name: str) -> CellTrace:
        return self._cells[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)

    def __repr__(self) -> str:
        return f"Cells({self._cells!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Everything that an LSTM computed in one call: a `CellTrace` for each layer and direction, and the call's arrays.

    ``trace["l0"]`` is the first layer, ``trace["l0_reverse"]`` its second direction: names are the suffixes of the
    parameters' names. Iterating gives the names.

    Attributes
    ----------
    cells : mapping of str to CellTrace
        In the order of the state dict.
    input, h_0, c_0 : ndarray
        The arguments of the call, in the LSTM's dtype; zeros for states that were left out.
    output, h_n, c_n : ndarray
        Its results.
    batch_first : bool
        Whether rows come before steps in input, output and the arrays of the cells.

    See Also
    --------
    LSTM.trace : Makes one.
    plot_trace : Draws one.

    Examples
    --------
    >>> import numpy as np
    >>> from numlstm import LSTM
    >>> trace = LSTM(6, 4, bidirectional=True, seed=0).trace(np.ones((5, 2, 6)))
    >>> trace
    Trace(l0, l0_reverse: 4 units; 5 steps, 2 rows, float32)
    >>> trace["l0_reverse"].f.shape
    (5, 2, 4)
    >>> trace.half_life("l0").shape
    (2, 4)
    """

    cells: Mapping[str, CellTrace]
    input: Array
    h_0: Array
    c_0: Array
    output: Array
    h_n: Array
    c_n: Array
    batch_first: bool = False

    def __getitem__(self, name: str) -> CellTrace:
        if name not in self.cells:
            raise KeyError(f"there is no {name!r} in this trace; it has {', '.join(self.cells)}")
        return self.cells[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def unbatched(self) -> bool:
        """Whether the input was one sequence without a batch axis."""
        return self.input.ndim == 2

    @property
    def steps(self) -> int:
        """Length of the sequences."""
        return int(self.input.shape[1 if self.batch_first else 0])

    @property
    def rows(self) -> int:
        """Size of the batch; 1 for unbatched input."""
        return 1 if self.unbatched else int(self.input.shape[0 if self.batch_first else 1])

    @property
    def hidden_size(self) -> int:
        """Hidden units of a cell."""
        return int(self.c_n.shape[-1])

    @property
    def output_size(self) -> int:
        """Size of h: proj_size, or hidden_size if that is 0."""
        return int(self.h_n.shape[-1])

    def __repr__(self) -> str:
        units, steps, rows = counted(self.hidden_size, "unit"), counted(self.steps, "step"), counted(self.rows, "row")
        return f"Trace({', '.join(self.cells)}: {units}; {steps}, {rows}, {self.output.dtype})"

    def steps_first(self, array: Array) -> Array:
        """A view (steps, rows, features) of the input, the output or an array of a cell, from any layout."""
        if self.unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def half_life(self, name: str) -> Array:
        """Steps in which the forget gate alone halves the cell state of a unit: ln 2 / -(mean of ln f over the steps).

        Parameters
        ----------
        name : str
            Of the cell.

        Returns
        -------
        ndarray of float64, (rows, hidden_size)
            Infinite if f is 1 at every step, 0 if it is 0 at any, NaN if it is NaN at any. Without rows for unbatched
            input.
        """
        f = self.steps_first(self[name].f)
        total = np.zeros(f.shape[1:])
        with np.errstate(divide="ignore"):
            for step in f:  # in float64, without a copy of everything
                total -= np.log(step, dtype=np.float64)
            life: Array = np.log(2) * len(f) / total
        return life[0] if self.unbatched else life

    def saturation(self, name: str, gate: str) -> tuple[Array, Array]:
        """Share of the steps at which a gate is closed, below 0.05, and open, above 0.95.

        Parameters
        ----------
        name : str
            Of the cell.
        gate : "i", "f", "g" or "o"
            For g: below -0.95 and above 0.95.

        Returns
        -------
        closed, open : ndarray of float64, (rows, hidden_size)
            0 to 1; NaN counts as neither. Without rows for unbatched input.
        """
        if gate not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}, not {gate!r}")
        values = self.steps_first(getattr(self[name], gate))
        closed = (values < (-OPEN if gate == "g" else CLOSED)).mean(axis=0)
        opened = (values > OPEN).mean(axis=0)
        return (closed[0], opened[0]) if self.unbatched else (closed, opened)

    # ------------------------------------------------------------ its file

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.npz`` file, whole or not at all.

        It holds ``i_l0``, ``f_l0``, ``g_l0``, ``o_l0``, ``c_l0``, ``h_l0`` and the same of every other cell, ``input``,
        ``h_0``, ``c_0``, ``output``, ``h_n``, ``c_n`` and ``batch_first``: arrays that `numpy.load` reads. So it can
        also be an input of ``numlstm run``, or its ``--state``.

        Parameters
        ----------
        path : path
            Ends in ``.npz``. An existing file is replaced.

        Raises
        ------
        ValueError
            The suffix is another one.
        OSError
            The file cannot be written.
        """
        writable(path)
        arrays: dict[str, Any] = self._arrays() | {"batch_first": self.batch_first}
        with atomic.replacing(path) as file:
            np.savez(file, **arrays)

    def _arrays(self) -> dict[str, Array]:
        """All arrays under their names in the file."""
        arrays = {name: getattr(self, name) for name in CALL_ARRAYS}
        for suffix, cell in self.cells.items():
            arrays |= {f"{field.name}_{suffix}": getattr(cell, field.name) for field in fields(cell)}
        return arrays

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote.

        Raises
        ------
        OSError
            It cannot be opened, or is not a regular file.
        ValueError
            It is damaged, or is not a trace; the message says what is missing or does not fit. No code in it is run.

        Examples
        --------
        >>> import tempfile
        >>> from numlstm import LSTM
        >>> path = os.path.join(tempfile.mkdtemp(), "trace.npz")
        >>> LSTM(3, 2, num_layers=2, proj_size=1).trace([[0.0] * 3] * 4).save(path)
        >>> Trace.load(path)
        Trace(l0, l1: 2 units; 4 steps, 1 row, float32)
        """
        from numlstm.formats import npz, zips
        from numlstm.formats.budget import Budget

        with opening.regular(path, "a trace's file") as file:
            try:
                archive = zips.open_zip(file, opening.size(file))
                tensors, _ = npz.read_arrays(archive, Budget(opening.size(file)))
                return cls._from_arrays({name: tensor.read() for name, tensor in tensors.items()})
            except (ValueError, zipfile.BadZipFile) as error:
                raise ValueError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def _from_arrays(cls, arrays: dict[str, Array]) -> Self:
        """The trace with these arrays, if they fit together."""
        call = {name: _find(arrays, name) for name in CALL_ARRAYS}
        batch_first = _find(arrays, "batch_first")
        names = sorted((name[2:] for name in arrays if name.startswith("f_l")), key=_layer_and_direction)
        if not names:
            raise ValueError("it holds no gates, such as f_l0")
        cells = {
            name: CellTrace(*(_find(arrays, f"{field.name}_{name}") for field in fields(CellTrace))) for name in names
        }
        if batch_first.dtype != bool or batch_first.shape != ():
            raise ValueError(f"batch_first must be True or False, but it is {batch_first.dtype} of {batch_first.shape}")
        trace = cls(Cells(cells), **call, batch_first=bool(batch_first))
        trace._check()
        return trace

    def _check(self) -> None:
        """Check that the arrays fit together."""
        if self.input.ndim not in (2, 3):
            raise ValueError(f"input has {counted(self.input.ndim, 'axis', 'axes')}; 2 or 3 are expected")
        if self.h_n.ndim != self.input.ndim or self.c_n.ndim != self.input.ndim:
            raise ValueError(f"h_n and c_n have {self.h_n.ndim} and {self.c_n.ndim} axes; input has {self.input.ndim}")
        directions = 2 if "l0_reverse" in self.cells else 1
        expected = [f"l{n // directions}{'_reverse' if n % directions else ''}" for n in range(len(self.cells))]
        if list(self.cells) != expected:
            raise ValueError(f"its cells are {', '.join(self.cells)}; {', '.join(expected)} are expected")
        lead, rows = self.input.shape[:-1], () if self.unbatched else (self.rows,)
        of_hidden, of_output = (len(self), *rows, self.hidden_size), (len(self), *rows, self.output_size)
        shapes = {"input": self.input.shape, "output": (*lead, directions * self.output_size)}
        shapes |= {"h_0": of_output, "c_0": of_hidden, "h_n": of_output, "c_n": of_hidden}
        for name, array in self._arrays().items():
            of_cell = (*lead, self.output_size if name.startswith("h_") else self.hidden_size)
            shape = shapes.get(name, of_cell)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; {shape} is expected")
            if array.dtype != self.output.dtype or array.dtype.name not in ("float32", "float64"):
                raise ValueError(f"{name} is of {array.dtype}; float32 or float64 is expected, one for all")


def writable(path: str | os.PathLike[str]) -> None:
    """Raise an error if a trace cannot be saved there: ValueError for its suffix, OSError for its folder."""
    if os.path.splitext(path)[1].lower() != ".npz":
        raise ValueError(f"{os.fspath(path)}: a trace is many arrays, so its name must end in .npz")
    atomic.ready(path)


def _find(arrays: dict[str, Array], name: str) -> Array:
    if name not in arrays:
        raise ValueError(f"it is not a trace: it holds no {name}")
    return arrays[name]


def _layer_and_direction(name: str) -> tuple[int, bool]:
    layer, _, direction = name.removeprefix("l").partition("_")
    if not layer.isdecimal() or direction not in ("", "reverse"):
        raise ValueError(f"there is no layer and direction named {name!r}")
    return int(layer), bool(direction)
