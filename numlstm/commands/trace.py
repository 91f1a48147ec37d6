"""``numlstm trace``: the gates and states of an LSTM over sequences in a file, as a file and as a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath

import numpy as np

from numlstm.base import atomic
from numlstm.base.console import printable, shortened, size, table
from numlstm.base.typing import Path
from numlstm.commands import run
from numlstm.tracing import plot
from numlstm.tracing.trace import CLOSED, OPEN, Trace, writable


def trace(
    model: Path,
    input: Path,
    out: Path | None = None,
    *,
    picture: Path | None = None,
    row: int = 0,
    cells: Sequence[str] = (),
    state: Path | None = None,
    name: str | None = None,
    batch_first: bool | None = None,
    echo: Callable[[str], None] = print,
) -> None:
    """Trace the LSTM of a model file over a file of sequences, and tell how long its units remember.

    Parameters
    ----------
    model, input, state, name, batch_first
        As for `batch.run`; but the sequences must fit in memory, and what is computed of them too.
    out : path, optional
        The ``.npz`` file of `Trace.save`.
    picture : path, optional
        A ``.png`` or ``.svg`` file of what `plot_trace` draws.
    row, cells : int, sequence of str
        What is drawn: a row of the batch, layers and directions by name, all of them if left out.
    echo : callable
        What a line of text is given to.

    Raises
    ------
    OSError, ValueError, RuntimeError, TypeError
        As for `batch.run`; ValueError also if there is no such row or cell.
    ImportError
        `picture` is given, and matplotlib is not installed.
    """
    if out is not None:
        writable(out)
    if picture is not None:
        plot.drawable(FilePath(picture))  # before anything is computed that could not be drawn
        atomic.ready(picture)
    for option, path in (("OUT", out), ("--plot", picture)):
        if path is not None:
            atomic.apart(option, path, "MODEL", model)
            atomic.apart(option, path, "INPUT", input)
            if state is not None and option == "--plot":
                atomic.apart(option, path, "--state", state)
    with run.prepared(model, input, state, name, batch_first) as (lstm, given, hx, call):
        names = [suffix[1:] for _, _, suffix in lstm._config.cells()]
        for cell in cells:
            if cell not in names:
                raise ValueError(f"there is no cell {cell!r} in {os.fspath(model)}; it has {', '.join(names)}")
        if picture is not None and not 0 <= row < call.batch:
            raise ValueError(f"there is no row {row} in {os.fspath(input)}; it has {call.batch}, counted from 0")
        whole = given.read(slice(0, given.shape[0]), slice(0, 1 if call.unbatched else given.shape[1]))
        traced = lstm.trace(whole[:, 0] if call.unbatched else whole, hx)
    if out is not None:
        traced.save(out)
        echo(printable(f"{os.fspath(out)}: {traced!r}, {size(os.path.getsize(out))}"))
    if picture is not None:
        figure = plot.plot_trace(traced, cells or None, row=row, title=shortened(printable(FilePath(model).name), 60))
        plot.save(figure, FilePath(picture))
        echo(printable(f"{os.fspath(picture)}: {', '.join(cells or names)}, row {row}"))
    if out is None:
        echo(printable(f"{os.fspath(model)} over {os.fspath(input)}: {traced!r}"))
    echo("")
    for line in summary(traced):
        echo(line)


def summary(traced: Trace) -> list[str]:
    """The lines of a table: for each cell how long its units remember, and how many of its gates are closed or open."""
    header = ["cell", "shortest", "half-life", "longest"]
    header += [f"{gate}{bound}" for gate in "fio" for bound in (f"<{CLOSED:g}", f">{OPEN:g}")]
    rows = []
    for name in traced:
        life = traced.half_life(name).ravel()
        known = life[~np.isnan(life)]
        ends = (
            [f"{value:.3g}" for value in np.quantile(known, (0, 0.5, 1), method="nearest")] if known.size else ["-"] * 3
        )
        shares = [share for gate in "fio" for share in traced.saturation(name, gate)]
        rows.append([name, *ends, *(f"{share.mean():.1%}" if share.size else "-" for share in shares)])
    return list(table(header, rows, left=["cell"]))
