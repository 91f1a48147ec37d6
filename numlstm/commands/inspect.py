"""``numlstm inspect``: the LSTMs of a model file as a table, and beneath it what the table has no room for."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import prod

from numlstm import formats
from numlstm.base.console import printable, shortened, size, table
from numlstm.base.wording import counted
from numlstm.formats import Contents, Found, Tensor

HEADER = ("name", "kind", "input", "hidden", "proj", "layers", "directions", "parameters", "dtype", "MB")
LEFT = ("name", "kind", "dtype", "shape")
NAME = 36  # columns of a name in the table; beneath it stands in full
UNNAMED = "(no name)"


def show(path: str | os.PathLike[str], tensors: bool = False, echo: Callable[[str], None] = print) -> bool:
    """Tell what a model file holds, and return whether there is an LSTM among it.

    Parameters
    ----------
    path : path
        As for `numlstm.load`. No number of its tensors is read.
    tensors : bool
        Whether to list the tensors that belong to no LSTM.
    echo : callable
        What a line of text is given to; it holds no control characters, whatever the file does.

    Raises
    ------
    OSError, ValueError, ImportError
        As `numlstm.load` raises them for the file itself.
    """
    with formats.opened(path) as contents:
        lines = _lines(path, contents, tensors)
    for line in lines:
        echo(printable(line))
    return bool(contents.lstms)


def _lines(path: str | os.PathLike[str], contents: Contents, tensors: bool) -> list[str]:
    lines = [f"{os.fspath(path)}: {contents.format}, {size(os.path.getsize(path))}", ""]
    if contents.lstms:
        lines += table(HEADER, [_row(found) for found in contents.lstms], LEFT)
        lines.append("")
        for found in contents.lstms:
            lines += _details(found)
    else:
        lines.append("It holds no LSTM.")
        lines += [f"  {_sentence(other)}" for other in contents.others]
    rest, besides = others(contents)
    what = "other tensor" if besides else "tensor"
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


def others(contents: Contents) -> tuple[dict[str, Tensor], bool]:
    """The tensors that are no LSTM's parameters, and whether that can be told.

    A format with a layout of its own makes the parameters from its tensors; then all of them are given, and False.
    """
    of_lstms = {id(tensor) for found in contents.lstms for tensor in found.parameters.values()}
    rest = {name: tensor for name, tensor in contents.tensors.items() if id(tensor) not in of_lstms}
    told = len(contents.tensors) - len(rest) == len(of_lstms)
    return (rest, bool(of_lstms)) if told else (dict(contents.tensors), False)


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
    """Where it is and what flags it has, then every note, each on a line of its own."""
    said = [f"in {found.where}"]
    if found.config is not None:
        flags = (("bias", True), ("batch_first", False), ("dropout", 0.0))
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
