"""``numlstm convert``: an LSTM out of any model file into one of the formats that numlstm writes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import click

from numlstm import files, formats
from numlstm.base import atomic
from numlstm.base.console import size
from numlstm.base.wording import counted
from numlstm.commands import inspect
from numlstm.commands.messages import reports_errors, say
from numlstm.commands.options import BATCH_FIRST, FILE, NAME, WEIGHTS


@click.command("convert")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@NAME
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Dtype of the saved parameters.  [default: as in IN]"
)
@BATCH_FIRST
@WEIGHTS
@reports_errors
def command(
    source: Path,
    target: Path,
    name: str | None,
    dtype: str | None,
    batch_first: bool | None,
    weights: str | None,
) -> None:
    """Save the LSTM of model file IN as OUT, in another format.

    The suffix of OUT selects the format: .safetensors, .npz or .onnx. Only the LSTM is saved. An existing OUT is
    replaced, unless an error occurs.
    """
    formats.suffix_written(target)  # fail before a large file is read
    atomic.ready(target)
    atomic.apart("OUT", target, "IN", source)
    loaded = files.read(source, name, batch_first)
    module, found = loaded.module, loaded.found
    if batch_first is not None:
        files.check_has_batch_first(source, found)
    rest, known = inspect.others(loaded.contents)
    more = len(loaded.contents.lstms) - 1
    if dtype is not None:
        module.to(dtype=dtype)
    if weights is not None:
        module = files.as_lstm(module).quantize_weights(weights)
    module.save(target)
    say(f"{target}: {module}, {module.dtype}, {size(os.path.getsize(target))}")
    if found.kind == "LSTM" and found.batch_first is None and batch_first is None:
        warnings.warn(
            f"{source} does not say whether the batch comes first, and {target} states "
            "batch_first=False now: --batch-first or --steps-first says which it is",
            stacklevel=2,
        )
    if more:
        say(f"{counted(more, 'more LSTM')} of {source} stayed behind")
    if rest and known:
        say(f"{counted(len(rest), 'other tensor')} of {source} stayed behind")
