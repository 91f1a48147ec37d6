"""``numlstm run``: a model, or an LSTM over sequences in a file in pieces: input and results may exceed the memory.

A piece is some rows of the batch and some steps. Rows are independent, and a sequence in one direction may be cut
anywhere if the state is passed on, so the results have the same bits as those of one call.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from numlstm import files
from numlstm.base import atomic, console
from numlstm.base.config import Config
from numlstm.base.typing import States
from numlstm.base.validation.arrays import real_array
from numlstm.base.validation.shapes import CallShapes, lstm_call, lstm_states
from numlstm.commands import sequence_files
from numlstm.commands.disk_array import DiskArray
from numlstm.commands.messages import one_line, reports_errors, say
from numlstm.commands.models import running
from numlstm.commands.options import BATCH_FIRST, FILE, NAME, STATE, Finite
from numlstm.lstm import LSTM
from numlstm.models import loading


class OneInput(click.Command):
    """A command with one INPUT. Several usually mean that the shell expanded an unquoted pattern: say so."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, but explain additional arguments."""
        ctx.allow_extra_args = True
        super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            given = [str(ctx.params["input"]), *ctx.args]
            shown = one_line(", ".join(given[:3])) + (", ..." if len(given) > 3 else "")
            message = f"INPUT is one file, folder or pattern, and {len(given)} were given: {shown}"
            if all(name.lower().endswith(".parquet") for name in given):
                message += "; write a pattern in quotes, 'data/*.parquet', or the shell puts the names in its place"
            ctx.fail(message)
        return ctx.args


@click.command("run", cls=OneInput)
@click.argument("model", type=FILE)
@click.argument("input", type=FILE)
@click.option(
    "-o", "--out", type=FILE, required=True, help="The .npz or .csv file for the results; for Parquet, a folder."
)
@click.option("--hidden", is_flag=True, help="Of a whole model run the LSTM alone: output, h_n and c_n.")
@STATE
@NAME
@BATCH_FIRST
@click.option(
    "--chunk",
    metavar="MB",
    type=Finite(min=0, min_open=True),
    default=64.0,
    show_default=True,
    help="Memory for each piece of the work. The results do not depend on it.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Parquet: address of a Dask scheduler, or local.  [default: local]"
)
@click.option("--group", metavar="COLUMN", help="Tables: the column that says which sequence a row belongs to.")
@click.option("--order", metavar="COLUMN", help="Tables: the column that orders the steps of a sequence.")
@click.option(
    "--features",
    metavar="COLUMNS",
    help="Tables: the columns of the input, separated by commas.  [default: all others]",
)
@click.option(
    "--per",
    type=click.Choice(["sequence", "step"]),
    help="Parquet: write a row per sequence or per step.  [default: sequence, or what a whole model gives]",
)
@click.option("--whole", is_flag=True, help="Parquet: no sequence spans two files, so rows need no shuffle.")
@reports_errors
def command(
    *,
    model: Path,
    input: Path,
    out: Path,
    hidden: bool,
    state: Path | None,
    name: str | None,
    batch_first: bool | None,
    chunk: float,
    **of_tables: Any,
) -> None:
    """Run the model or the LSTM of MODEL over the sequences in INPUT.

    Where MODEL describes a whole model, as Keras, ONNX and JSON of amplifiers do, OUT is what the model gives. There,
    --hidden, --state, --name and --batch-first ask for its LSTM. Where MODEL has weights alone, OUT has output, h_n and
    c_n of the LSTM. An OUT that ends in .csv is a table.

    INPUT is a .npy file of shape (steps, batch, features), or (batch, steps, features) if the batch comes first, or
    (steps, features); a .npz file with such an array named input, or arrays by the names of a model's inputs, and
    optionally h_0 and c_0; or a .csv file with one row per step, of several sequences with --group and --order. For an
    LSTM a .npy file may be larger than memory.

    INPUT may also be Parquet with one row per step: a file, a folder, or a quoted pattern (extra dask). OUT is then a
    folder. To resume a job, give the same command again.
    """
    grouped = of_tables["group"] or of_tables["order"]
    if input.suffix.lower() == ".parquet" or (input.is_dir() and grouped):
        for option, value in (("--state", state), ("--batch-first", batch_first)):
            if value is not None:
                raise click.UsageError(f"{option} is not for Parquet")
        run_parquet(model, input, out, name, hidden, **of_tables)
        return
    is_csv = input.suffix.lower() == ".csv"
    of_csv = ("group", "order", "features") if is_csv else ()
    if unused := [f"--{option}" for option, value in of_tables.items() if value and option not in of_csv]:
        raise click.UsageError(f"{', '.join(unused)}: for Parquet files, and INPUT is none: {input}")
    if is_csv and any(of_tables[option] for option in of_csv) and not (of_tables["group"] and of_tables["order"]):
        raise click.UsageError("--group and --order belong together: which sequence a row belongs to, and which step")
    asks_lstm = hidden or state is not None or name is not None or batch_first is not None
    whole = None if asks_lstm else loading.whole_model(model)
    if whole is not None or grouped or out.suffix.lower() == ".csv":
        if whole is None and state is not None:
            raise click.UsageError("--state is for a .npz file as OUT, without --group")
        atomic.apart("OUT", out, "MODEL", model)
        group, order, features = (of_tables[option] for option in ("group", "order", "features"))
        running.run(whole or running.lstm_model(model, name, batch_first), input, out, group, order, features)
        return
    run_file(model, input, out, state, name, batch_first, int(min(chunk * 1e6, 1e18)))


def run_parquet(
    model: Path,
    input: Path,
    out: Path,
    name: str | None,
    hidden: bool,
    *,
    group: str | None,
    order: str | None,
    scheduler: str | None,
    features: str | None,
    per: Any,
    whole: bool,
) -> None:
    """Run a Dask job over Parquet files; options as of the command."""
    if not (group and order):
        raise click.UsageError("Parquet needs --group and --order: which sequence a row belongs to, and which step")
    from numlstm.dask import job

    job.run(
        model,
        str(input),
        out,
        scheduler=scheduler or "local",
        group=group,
        order=order,
        features=features.split(",") if features else None,
        per=per,
        whole=whole,
        name=name,
        hidden=hidden,
        echo=say,
    )


def run_file(
    model: Path, input: Path, out: Path, state: Path | None, name: str | None, batch_first: bool | None, chunk: int
) -> None:
    """Run over the sequences of one file, in pieces of `chunk` bytes; options as of the command.

    `out` is replaced whole or not at all. Its folder needs room for the results twice. A cell runs over all steps, as
    an LSTM of one layer. A piece has at least one whole row if the LSTM begins with the last step.
    """
    if out.suffix.lower() != ".npz":
        raise ValueError(f"{out}: the results are three arrays, so its name must end in .npz")
    atomic.ready(out)
    atomic.apart("OUT", out, "MODEL", model)
    atomic.apart("OUT", out, "INPUT", input)
    with prepared(model, input, state, name, batch_first) as (lstm, given, hx, call):
        shapes = {"output": call.output, "h_n": call.hidden, "c_n": call.cell}
        with atomic.replacing(out) as file, _disk_arrays(out.parent, lstm, call, shapes) as results:
            _run(lstm, given, hx, call, results, chunk)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for key, shape in shapes.items():
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as into:
                        results[key].dump(into, shape)
                    results[key].close()  # frees its disk space for the next
    say(f"{out}: " + ", ".join(f"{key} {shape}" for key, shape in shapes.items()) + f", {lstm.dtype}")


@contextmanager
def prepared(
    model: Path, input: Path, state: Path | None, name: str | None, batch_first: bool | None
) -> Iterator[tuple[LSTM, sequence_files.Sequences, States | None, CallShapes]]:
    """The LSTM, its open input, h_0 and c_0, and the shapes of the call, all checked. Arguments as for `run`."""
    module, found, _ = files.read(model, name, batch_first)
    lstm = files.as_lstm(module)
    if batch_first is not None:
        lstm.batch_first = batch_first  # a cell runs over all steps too
    with sequence_files.opened(input) as given:
        hx = given.states
        if state is not None:
            if hx is not None:
                raise ValueError(f"{input} holds h_0 and c_0 already; leave out --state, or these two")
            hx = sequence_files.states(state)
        real_array("input", np.broadcast_to(np.empty((), given.dtype), given.shape))
        call = lstm_call(lstm._config, given.shape, hx)
        if hx is not None:
            hx = lstm_states(call, hx, lstm.dtype)
        unstated = found.kind == "LSTM" and found.batch_first is None
        if unstated and batch_first is None and not call.unbatched:
            warnings.warn(
                f"{model} does not say whether the batch comes first; input {given.shape} is taken as "
                "(steps, batch, features): --batch-first or --steps-first says which it is",
                stacklevel=2,
            )
        yield lstm, given, hx, call


@contextmanager
def _disk_arrays(
    folder: Path, lstm: LSTM, call: CallShapes, shapes: dict[str, tuple[int, ...]]
) -> Iterator[dict[str, DiskArray]]:
    """Arrays for the results, of three axes also without a batch."""
    with ExitStack() as stack:
        arrays = {}
        for name, shape in shapes.items():
            three: Any = (shape[0], 1, shape[1]) if call.unbatched else shape
            arrays[name] = DiskArray.new(folder, lstm.dtype, three)
            stack.callback(arrays[name].close)
        yield arrays


def _run(
    lstm: LSTM,
    given: sequence_files.Sequences,
    hx: States | None,
    call: CallShapes,
    results: dict[str, DiskArray],
    chunk: int,
) -> None:
    """Compute in pieces: some rows with all their steps, the state passed from piece to piece, then the next rows."""
    config = lstm._config
    lstm.batch_first = call.swap  # an unbatched sequence is a batch of one, steps first
    steps, rows = given.shape[call.swap], call.batch
    cells = config.num_layers * config.num_directions
    if hx is not None and call.unbatched:
        hx = hx[0][:, None], hx[1][:, None]
    many_rows, many_steps = cut(config, steps, rows, given.dtype.itemsize, lstm.dtype.itemsize, call.swap, chunk)
    with console.progress(steps * rows) as advance:
        for row in range(0, rows, many_rows):
            of_rows = slice(row, min(row + many_rows, rows))
            now: Any = None if hx is None else (hx[0][:, of_rows], hx[1][:, of_rows])
            for step in range(0, steps, many_steps):
                of_steps = slice(step, min(step + many_steps, steps))
                box = (of_rows, of_steps) if call.swap else (of_steps, of_rows)
                output, now = lstm(given.read(box[0], box[1]), now)
                results["output"].write(box[0], box[1], output)
                advance((of_steps.stop - of_steps.start) * (of_rows.stop - of_rows.start))
            results["h_n"].write(slice(0, cells), of_rows, now[0])
            results["c_n"].write(slice(0, cells), of_rows, now[1])


def cut(
    config: Config, steps: int, rows: int, given_size: int, size: int, rows_outside: bool, chunk: int
) -> tuple[int, int]:
    """Rows and steps of a piece that takes about `chunk` bytes.

    Contiguous in the file if possible: all rows of some steps, or all steps of some rows if `rows_outside`. The
    reverse direction begins at the last step, so two directions need all steps.

    Examples
    --------
    >>> small = Config(4, 4)
    >>> cut(small, steps=1000, rows=10, given_size=4, size=4, rows_outside=False, chunk=32_640)
    (10, 100)
    >>> cut(small, steps=1000, rows=10, given_size=4, size=4, rows_outside=True, chunk=65_000)
    (2, 1000)
    >>> cut(Config(4, 4, bidirectional=True), 1000, 10, 4, 4, False, 1000)
    (1, 1000)
    """
    output = config.num_directions * config.output_size * size
    one = config.input_size * given_size + output * (2 if config.num_layers > 1 else 1)
    state = 2 * config.num_layers * config.num_directions * (config.output_size + config.hidden_size) * size
    room = max(1, chunk)
    if config.needs_whole_sequences:
        many_steps = steps
        many_rows = room // (steps * one + state)
    elif rows_outside:
        many_steps = room // one
        many_steps = max(1, min(steps, many_steps))
        many_rows = room // (many_steps * one + state) if many_steps == steps else 1
    else:
        many_rows = max(1, min(rows, room // (one + state)))
        many_steps = (room - many_rows * state) // (many_rows * one)
    return max(1, min(rows, many_rows)), max(1, min(steps, many_steps))
