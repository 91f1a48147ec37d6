"""``numlstm trace``: the gates and states of an LSTM over the sequences of a file, as a table, a file and a picture."""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np

from numlstm.base import atomic
from numlstm.base.console import printable, shortened, size, table
from numlstm.commands import run
from numlstm.commands.messages import reports_errors
from numlstm.commands.options import BATCH_FIRST, FILE, NAME, STATE
from numlstm.tracing import plot
from numlstm.tracing.trace import CLOSED, OPEN, Trace, writable


@click.command("trace")
@click.argument("model", type=FILE)
@click.argument("input", type=FILE)
@click.option("-o", "--out", type=FILE, help="Write the gates and states of every step to this .npz file.")
@click.option("--plot", "picture", type=FILE, help="Draw them to this .png or .svg file.")
@click.option("--row", type=click.IntRange(min=0), default=0, show_default=True, help="The row of the batch to draw.")
@click.option(
    "--cell",
    "cells",
    multiple=True,
    metavar="NAME",
    help="Draw only this cell, such as l0 or l0_reverse. Repeatable.  [default: all]",
)
@STATE
@NAME
@BATCH_FIRST
@reports_errors
def command(
    *,
    model: Path,
    input: Path,
    out: Path | None,
    picture: Path | None,
    row: int,
    cells: tuple[str, ...],
    state: Path | None,
    name: str | None,
    batch_first: bool | None,
) -> None:
    """Show what the gates of MODEL do over the sequences in INPUT.

    INPUT is as for run, but not Parquet, and must fit in memory. For each layer and direction, the table has the
    median half-life of the units in steps (how long the forget gate takes to halve a cell's state), and the shares of
    gates that are closed (below 0.05) or open (above 0.95).
    """
    _check_outputs(model, input, state, out, picture)
    with run.prepared(model, input, state, name, batch_first) as (lstm, given, hx, call):
        names = [suffix[1:] for _, _, suffix in lstm._config.cells()]
        for cell in cells:
            if cell not in names:
                raise ValueError(f"there is no cell {cell!r} in {model}; it has {', '.join(names)}")
        if picture is not None and not 0 <= row < call.batch:
            raise ValueError(f"there is no row {row} in {input}; it has {call.batch}, counted from 0")
        whole = given.read(slice(0, given.shape[0]), slice(0, 1 if call.unbatched else given.shape[1]))
        traced = lstm.trace(whole[:, 0] if call.unbatched else whole, hx)
    if out is not None:
        traced.save(out)
        click.echo(printable(f"{out}: {traced!r}, {size(os.path.getsize(out))}"))
    if picture is not None:
        figure = plot.plot_trace(traced, cells or None, row=row, title=shortened(printable(model.name), 60))
        plot.save(figure, picture)
        click.echo(printable(f"{picture}: {', '.join(cells or names)}, row {row}"))
    if out is None:
        click.echo(printable(f"{model} over {input}: {traced!r}"))
    click.echo("")
    for line in summary(traced):
        click.echo(line)


def _check_outputs(model: Path, input: Path, state: Path | None, out: Path | None, picture: Path | None) -> None:
    """Raise if a file could not be written or is an input, before the work rather than after it."""
    if out is not None:
        writable(out)
    if picture is not None:
        plot.drawable(picture)
        atomic.ready(picture)
    for option, path in (("OUT", out), ("--plot", picture)):
        if path is not None:
            atomic.apart(option, path, "MODEL", model)
            atomic.apart(option, path, "INPUT", input)
            if state is not None and option == "--plot":
                atomic.apart(option, path, "--state", state)


def summary(traced: Trace) -> list[str]:
    """A table with a line for each cell: half-lives of its units, shares of its gates that are closed or open."""
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
