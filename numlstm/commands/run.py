"""``numlstm run``: an LSTM over sequences in a file, in pieces: neither they nor the results need fit in memory.

A piece is some rows of the batch and some steps. Rows do not know of one another, and in one direction a sequence
may be cut anywhere if the state is handed on; so the results are, to the bit, those of one call.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from numlstm import files
from numlstm.base import atomic
from numlstm.base.config import Config
from numlstm.base.typing import Path, States
from numlstm.base.validation.arrays import real_array
from numlstm.base.validation.shapes import Call, lstm_call, lstm_states
from numlstm.commands import sequence_files
from numlstm.commands.disk_array import DiskArray
from numlstm.lstm import LSTM

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]

CHUNK = 64 << 20  # bytes that a piece takes in memory


@contextmanager
def silent(total: int) -> Iterator[Callable[[int], None]]:
    """The progress of which nothing is shown."""
    yield lambda piece: None


def run(
    model: Path,
    input: Path,
    out: Path,
    *,
    state: Path | None = None,
    name: str | None = None,
    batch_first: bool | None = None,
    chunk: int = CHUNK,
    progress: Progress = silent,
    echo: Callable[[str], None] = print,
) -> None:
    """Run the LSTM of a model file over a file of sequences, and write output, h_n and c_n.

    Parameters
    ----------
    model : path
        As for `numlstm.load`. A cell runs over all steps, as the LSTM of one layer that it is.
    input : path
        What `series.opened` takes, in the shapes that `LSTM.forward` takes.
    out : path
        A ``.npz`` file, whole or not at all; what it was is replaced. Its folder needs room for the results twice.
    state : path, optional
        A ``.npz`` file with the state to begin from: h_n and c_n of an earlier `out`, or h_0 and c_0. Zeros if left
        out, unless `input` holds h_0 and c_0. May be `out` itself.
    name : str, optional
        Which LSTM, where the model file holds several.
    batch_first : bool, optional
        Whether input and output are (batch, steps, features); what the model file states if left out, and not to be
        contradicted.
    chunk : int
        Bytes that a piece takes in memory. A bidirectional LSTM takes no less than a whole row.
    progress : callable
        Given the number of steps of all rows, a context whose function is told of those that are done.
    echo : callable
        What a line of text is given to.

    Raises
    ------
    OSError
        A file cannot be read or written.
    ValueError, RuntimeError, TypeError
        A file is not what it should be, or its arrays do not fit the LSTM; with PyTorch's text.
    """
    if FilePath(out).suffix.lower() != ".npz":
        raise ValueError(f"{os.fspath(out)}: the results are three arrays, so its name must end in .npz")
    atomic.ready(out)
    atomic.apart("OUT", out, "MODEL", model)
    atomic.apart("OUT", out, "INPUT", input)
    with prepared(model, input, state, name, batch_first) as (lstm, given, hx, call):
        config = lstm._config
        shapes = {"output": call.output, "h_n": call.hidden, "c_n": call.cell}
        with atomic.replacing(out) as file, ExitStack() as stack:
            results = {}
            for key, shape in shapes.items():
                three: Any = (shape[0], 1, shape[1]) if call.unbatched else shape
                results[key] = DiskArray.new(FilePath(out).parent, lstm.dtype, three)
                stack.callback(results[key].close)
            _run(lstm, config, given, hx, call, results, chunk, progress)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for key, shape in shapes.items():
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as into:
                        results[key].dump(into, shape)
                    results[key].close()  # its room is wanted for the next
    echo(f"{os.fspath(out)}: " + ", ".join(f"{key} {shape}" for key, shape in shapes.items()) + f", {lstm.dtype}")


@contextmanager
def prepared(
    model: Path, input: Path, state: Path | None, name: str | None, batch_first: bool | None
) -> Iterator[tuple[LSTM, sequence_files.Series, States | None, Call]]:
    """The LSTM, its open input, h_0 and c_0, and the shapes of the call: all checked. Arguments as for `run`."""
    module, found = files.read(model, name, batch_first)
    lstm = files.as_lstm(module)
    if batch_first is not None:
        lstm.batch_first = batch_first  # of a cell over all steps as well
    with sequence_files.opened(input) as given:
        hx = given.states
        if state is not None:
            if hx is not None:
                raise ValueError(f"{os.fspath(input)} holds h_0 and c_0 already; leave out --state, or these two")
            hx = sequence_files.states(state)
        real_array("input", np.broadcast_to(np.empty((), given.dtype), given.shape))
        call = lstm_call(lstm._config, given.shape, hx)
        if hx is not None:
            hx = lstm_states(call, hx, lstm.dtype)
        unstated = found.kind == "LSTM" and found.batch_first is None
        if unstated and batch_first is None and not call.unbatched:
            warnings.warn(
                f"{os.fspath(model)} does not say whether the batch comes first; input {given.shape} is taken as "
                "(steps, batch, features): --batch-first or --steps-first says which it is",
                stacklevel=2,
            )
        yield lstm, given, hx, call


def _run(
    lstm: LSTM,
    config: Config,
    given: sequence_files.Series,
    hx: States | None,
    call: Call,
    results: dict[str, DiskArray],
    chunk: int,
    progress: Progress,
) -> None:
    """Piece by piece: some rows, all their steps one after another with the state handed on, then the next rows."""
    lstm.batch_first = call.swap  # an unbatched sequence is a batch of one, steps first
    steps, rows = given.shape[call.swap], call.batch
    cells = config.num_layers * config.num_directions
    if hx is not None and call.unbatched:
        hx = hx[0][:, None], hx[1][:, None]
    many_rows, many_steps = cut(config, steps, rows, given.dtype.itemsize, lstm.dtype.itemsize, call.swap, chunk)
    with progress(steps * rows) as advance:
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

    Whole runs of the file where that is possible: all rows of some steps, or all steps of some rows if `rows_outside`.
    The second direction begins at the last step, so two directions take all steps.

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
    if config.bidirectional:
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
