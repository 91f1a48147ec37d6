"""``numlstm convert``: an LSTM out of any model file into one of the formats that numlstm writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from numlstm import atomic, files, formats, listing
from numlstm.lstm import LSTM
from numlstm.terminal import size

Path = str | os.PathLike[str]


def convert(
    source: Path,
    target: Path,
    *,
    name: str | None = None,
    dtype: str | None = None,
    batch_first: bool | None = None,
    echo: Callable[[str], None] = print,
) -> None:
    """Load an LSTM and save it, and tell what was written and what stayed behind.

    Parameters
    ----------
    source : path
        As for `numlstm.load`.
    target : path
        As for `LSTM.save`. A file that is there is replaced, but not `source` itself, whose other tensors would be
        lost.
    name : str, optional
        Which LSTM, where there are several.
    dtype : "float32" or "float64", optional
        Of the parameters in `target`; as loaded if left out.
    batch_first : bool, optional
        What `target` is to state; what `source` states if left out.
    echo : callable
        What a line of text is given to.

    Raises
    ------
    OSError, ValueError, ImportError
        As `numlstm.load` and `LSTM.save` raise them; or both paths are the same file, or `batch_first` is given for
        an LSTMCell.
    """
    formats.suffix_written(target)  # said before a large file is read for nothing
    atomic.ready(target)
    atomic.apart("OUT", target, "IN", source)
    module: Any = files.load(source, name)
    if batch_first is not None:
        if not isinstance(module, LSTM):
            raise ValueError(f"{os.fspath(source)} holds an LSTMCell, which takes one step and has no batch_first")
        module.batch_first = batch_first
    if dtype is not None:
        module.to(dtype=dtype)
    module.save(target)
    echo(f"{os.fspath(target)}: {module}, {module.dtype}, {size(os.path.getsize(target))}")
    with formats.opened(source) as contents:
        rest, told = listing.others(contents)
        more = len(contents.lstms) - 1
    if more:
        echo(f"{more} more LSTM{'s' if more > 1 else ''} of {os.fspath(source)} stayed behind")
    if rest and told:
        echo(f"{len(rest)} other tensor{'s' if len(rest) > 1 else ''} of {os.fspath(source)} stayed behind")
