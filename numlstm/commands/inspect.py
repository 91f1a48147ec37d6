"""``numlstm inspect``: the LSTMs of a model file as a table, with details and notes below it."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import click

from numlstm import formats
from numlstm.base.console import printable, shortened, size, table
from numlstm.base.wording import counted
from numlstm.commands.messages import reports_errors
from numlstm.commands.options import FILE
from numlstm.formats import Contents, Found, Tensor

HEADER = ("name", "kind", "input", "hidden", "proj", "layers", "directions", "parameters", "dtype", "MB")
LEFT = ("name", "kind", "dtype", "shape")
NAME = 36  # columns of a name in the table; the details have it in full
UNNAMED = "(no name)"


@click.command("inspect")
@click.argument("file", type=FILE)
@click.option("--tensors", is_flag=True, help="Also list the other tensors.")
@reports_errors
def command(file: Path, tensors: bool) -> None:
    """List the LSTMs in a model FILE.

    Prints their names, sizes and dtypes, where they are in the file, and what prevents loading them, if anything. The
    exit code is 1 if there is none. Of a whole model also prints the layers in order, with the shapes of their outputs.
    """
    with formats.opened(file) as contents:
        lines = _lines(file, contents, tensors)
    for line in lines:
        click.echo(printable(line))
    if not contents.lstms:
        raise click.exceptions.Exit(1)


def _lines(path: Path, contents: Contents, tensors: bool) -> list[str]:
    lines = [f"{path}: {contents.format}, {size(os.path.getsize(path))}", ""]
    if contents.lstms:
        lines += table(HEADER, [_row(found) for found in contents.lstms], LEFT)
        lines.append("")
        for found in contents.lstms:
            lines += _details(found)
    else:
        lines.append("It holds no LSTM.")
        lines += [f"  {_sentence(other)}" for other in contents.others]
    if contents.model is not None:
        lines += ["", *_summary(contents)]
    rest, known = others(contents)
    what = "other tensor" if known else "tensor"
    lines.append("")
    if not rest:
        lines.append(f"no {what}s")
        return lines
    bytes_ = size(sum(tensor.nbytes for tensor in rest.values()))
    lines.append(
        f"{counted(len(rest), what)}, {bytes_}"
        + ("" if tensors else f"; --tensors lists {'them' if len(rest) > 1 else 'it'}")
    )
    if tensors:
        lines.append("")
        rows = [(printable(name), str(tensor.shape), tensor.dtype, _mb(tensor.nbytes)) for name, tensor in rest.items()]
        lines += table(("name", "shape", "dtype", "MB"), rows, LEFT)
    return lines


def _summary(contents: Contents) -> list[str]:
    """The layers of a whole model, or why it cannot be run."""
    from numlstm.models.loading import summary

    try:
        return str(summary(contents)).splitlines()
    except Exception as error:  # the LSTMs are listed, whatever is wrong with the layers around them
        return [f"as a whole it cannot be run: {_sentence(str(error))}"]


def others(contents: Contents) -> tuple[dict[str, Tensor], bool]:
    """The tensors that are not parameters of an LSTM, and whether this is known.

    Readers of some formats make the parameters out of several tensors; then the result is all tensors, and False.
    """
    of_lstms = {id(tensor) for found in contents.lstms for tensor in found.parameters.values()}
    rest = {name: tensor for name, tensor in contents.tensors.items() if id(tensor) not in of_lstms}
    known = len(contents.tensors) - len(rest) == len(of_lstms)
    return (rest, bool(of_lstms)) if known else (dict(contents.tensors), False)


def _row(found: Found) -> list[str]:
    name = shortened(printable(found.name or UNNAMED), NAME)
    config = found.config
    if config is None:
        return [name, found.kind, "-", "-", "-", "-", "-", "-", found.dtype or "-", "-"]
    sizes = (config.input_size, config.hidden_size, config.proj_size or "-", config.num_layers, config.num_directions)
    count = sum(map(prod, config.parameter_shapes().values()))
    nbytes = sum(tensor.nbytes for tensor in found.parameters.values())
    return [name, found.kind, *map(str, sizes), f"{count:,}", found.dtype, _mb(nbytes) if nbytes else "-"]


def _details(found: Found) -> list[str]:
    """A line with its place in the file and its flags, then a line for each note."""
    said = [f"in {found.where}"]
    if found.config is not None:
        flags = (("bias", True), ("batch_first", False), ("dropout", 0.0), ("direction", "forward"))
        said += [
            f"{flag}={getattr(found.config, flag)}" for flag, usual in flags if getattr(found.config, flag) != usual
        ]
    lines = [f"{printable(found.name or UNNAMED)}: {', '.join(said)}"]
    if found.problem:
        lines.append(f"  cannot be loaded: {_sentence(found.problem)}")
    if found.warning:
        lines.append(f"  warning: {_sentence(found.warning)}")
    return lines + [f"  note: {_sentence(note)}" for note in found.notes]


def _sentence(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.3f}"
