"""``numlstm convert``: an LSTM out of any model file into one of the formats that numlstm writes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from numlstm import files, formats
from numlstm.base import atomic
from numlstm.base.console import size
from numlstm.base.typing import Path
from numlstm.base.wording import counted
from numlstm.commands import inspect


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
        What `target` is to state where `source` does not say; what `source` states is not to be contradicted.
    echo : callable
        What a line of text is given to.

    Raises
    ------
    OSError, ValueError, ImportError
        As `numlstm.load` and `LSTM.save` raise them; or both paths are the same file.

    Warns
    -----
    UserWarning
        As `numlstm.load` does; or `source` does not say whether the batch comes first, and `batch_first` is left out.
    """
    formats.suffix_written(target)  # said before a large file is read for nothing
    atomic.ready(target)
    atomic.apart("OUT", target, "IN", source)
    module = files.load(source, name, batch_first=batch_first)
    if dtype is not None:
        module.to(dtype=dtype)
    module.save(target)
    echo(f"{os.fspath(target)}: {module}, {module.dtype}, {size(os.path.getsize(target))}")
    with formats.opened(source) as contents:
        found = files.pick(contents, name)
        rest, told = inspect.others(contents)
        more = len(contents.lstms) - 1
    if found.kind == "LSTM" and found.batch_first is None and batch_first is None:
        warnings.warn(
            f"{os.fspath(source)} does not say whether the batch comes first, and {os.fspath(target)} states "
            "batch_first=False now: --batch-first or --steps-first says which it is",
            stacklevel=2,
        )
    if more:
        echo(f"{counted(more, 'more LSTM')} of {os.fspath(source)} stayed behind")
    if rest and told:
        echo(f"{counted(len(rest), 'other tensor')} of {os.fspath(source)} stayed behind")
