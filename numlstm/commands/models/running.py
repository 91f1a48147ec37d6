"""``numlstm run`` with a whole model: from sequences in a file to the model's output in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from numlstm import files
from numlstm.base import atomic, opening
from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.commands import sequence_files
from numlstm.commands.messages import say
from numlstm.commands.models import tables

Outputs = dict[str, Array]


def lstm_model(path: Path, name: str | None, batch_first: bool | None) -> Any:
    """The LSTM of a file as a model of one sequence, whose output is that of its last layer."""
    lstm = files.as_lstm(files.read(path, name, batch_first).module)
    return lambda x: lstm(x)[0]


def run(model: Any, input: Path, out: Path, group: str | None, order: str | None, features: str | None) -> None:
    """Run a model over the sequences of a file; options as of the command.

    A ``.csv`` file holds one sequence, or several by `group` and `order`. Arrays are given to the model as they are.
    """
    suffix = out.suffix.lower()
    if suffix not in (".npz", ".csv"):
        raise ValueError(f"{out}: the suffix must be .npz or .csv, not {out.suffix!r}\nIt selects the format.")
    atomic.ready(out)
    atomic.apart("OUT", out, "INPUT", input)
    if group and order:
        _run_groups(model, input, out, group, order, features.split(",") if features else None)
        return
    if input.suffix.lower() == ".csv":
        with sequence_files.opened(input) as given:
            outputs = _of_sequence(model, given.read(slice(None), slice(None))[:, 0])
        if suffix == ".csv":
            outputs = {name: array if array.ndim > 1 else array.reshape(1, -1) for name, array in outputs.items()}
    else:
        outputs = _named(model, model(*_arrays(model, input)))
    if suffix == ".npz":
        with atomic.replacing(out) as file:
            np.savez(file, **outputs)  # type: ignore[arg-type]
    else:
        names, numbers = tables.columns_of(outputs)
        tables.write(out, names, numbers)
    say(f"{out}: " + ", ".join(f"{name} {array.shape}" for name, array in outputs.items()))


def _run_groups(model: Any, input: Path, out: Path, group: str, order: str, features: list[str] | None) -> None:
    """Run over the sequences of a table, and write a row for each of their steps or for each of them."""
    if input.suffix.lower() != ".csv" or out.suffix.lower() != ".csv":
        raise ValueError(f"--group and --order take tables: INPUT and OUT must be .csv files, not {input} and {out}")
    rows: list[list[Any]] = []
    names: list[str] = []
    found = tables.groups(input, group, order, features)
    is_of_steps = False
    for each in found:
        outputs = _of_sequence(model, each.numbers)
        is_of_steps = all(array.ndim == 2 and len(array) == len(each.steps) for array in outputs.values())
        if not is_of_steps:
            outputs = {name: array.reshape(1, -1) for name, array in outputs.items()}
        names, numbers = tables.columns_of(outputs)
        places = [[each.name, step] for step in each.steps] if is_of_steps else [[each.name]]
        rows += [[*place, *row] for place, row in zip(places, numbers, strict=True)]
    tables.write(out, [group, *([order] if is_of_steps else []), *names], rows)
    say(f"{out}: {counted(len(rows), 'row')} for {counted(len(found), 'sequence')}")


def _of_sequence(model: Any, table: Array) -> Outputs:
    """The outputs for one sequence, (steps, features), without the axis of the batch."""
    turn, batch = _laid_out(model, table)
    outputs = _named(model, model(turn))
    return outputs if batch is None else {name: array.take(0, batch) for name, array in outputs.items()}


def _laid_out(model: Any, table: Array) -> tuple[Array, int | None]:
    """The sequence as the model takes it, and which axis of the outputs is the batch."""
    inputs = getattr(model, "inputs", None)
    if inputs is None:  # it takes a sequence without a batch
        return _words(table[:, 0]) if _takes_words(model) else table, None
    if len(inputs) > 1:
        names = ", ".join(repr(each.name) for each in inputs)
        raise ValueError(f"the model has {len(inputs)} inputs, {names}: put them into a .npz file by these names")
    shape = inputs[0].shape
    if shape is None or len(shape) == 3:
        return (table[:, None], 1) if model.batch_axis == 1 else (table[None], 0)
    if len(shape) == 2 and table.shape[1] == 1:
        words = _words(table[:, 0])
        return (words[:, None], 1) if model.batch_axis == 1 else (words[None], 0)
    return table, None  # a row of the table is a sample


def _takes_words(model: Any) -> bool:
    layers = list(getattr(model, "layers", {}).values())
    return bool(layers) and type(layers[0]).__name__ == "Embedding"


def _words(column: Array) -> Array:
    """Whole numbers as such."""
    whole = column.astype(np.int64)
    return whole if (whole == column).all() else column


def _arrays(model: Any, input: Path) -> list[Any]:
    """What the model is called with, from a ``.npy`` or ``.npz`` file."""
    with opening.regular(input, "an array file") as file:
        is_archive = file.read(2) == b"PK"
    if not is_archive:
        with sequence_files.opened(input) as given:
            whole = given.read(slice(None), slice(None))
            return [whole.reshape(given.shape)]
    with np.load(input, allow_pickle=False) as archive:
        arrays = dict(archive)
    names = [each.name for each in getattr(model, "inputs", ())]
    if names and set(names) <= set(arrays):
        return [arrays[name] for name in names]
    if "input" in arrays and len(names) < 2:
        return [arrays["input"]]
    raise ValueError(f"{input}: it has arrays {', '.join(arrays)}; the model takes {', '.join(names) or 'input'}")


def _named(model: Any, found: Any) -> Outputs:
    """The outputs by name."""
    if isinstance(found, dict):
        return {str(name): np.asarray(array) for name, array in found.items()}
    if isinstance(found, list | tuple):
        names = getattr(model, "output_names", None) or [f"output_{number}" for number in range(len(found))]
        return dict(zip(names, map(np.asarray, found), strict=True))
    return {"output": np.asarray(found)}
