"""The package's logger, imported when there is something to say: a start has nothing to say, and no time for it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger


def log() -> Logger:
    """The logger "numlstm".

    Not for a thread that holds a lock which a fork waits for (`locks.fork_safe`). A fork takes locks in the reverse of
    the order in which they were made known, so logging's before ours if it is imported after them; and
    whoever holds ours could then neither log nor go on.
    """
    import logging

    return logging.getLogger("numlstm")


def watched() -> bool:
    """Whether stderr is a terminal. A process may have no stderr, a closed one, or another object in its place."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError, OSError):
        return False


def lengthy(message: str, *values: object) -> None:
    """Log at INFO that work of many seconds begins, and print it on stderr if that is a terminal.

    Where a handler of the log shows the record on a terminal already, nothing is printed.
    """
    logger = log()
    logger.info(message, *values)
    if watched() and not _shows_info(logger):
        with suppress(OSError):  # the terminal may have gone
            print(message % values, file=sys.stderr, flush=True)


def _shows_info(logger: Logger) -> bool:
    """Whether a record of level INFO reaches a handler that may write to a terminal: any but a file's or a buffer's."""
    import logging

    at: Logger | None = logger if logger.isEnabledFor(logging.INFO) else None
    while at is not None:
        for handler in at.handlers:
            stream = getattr(handler, "stream", None)
            elsewhere = isinstance(handler, logging.NullHandler | logging.FileHandler) or (
                stream is not None and not (hasattr(stream, "isatty") and stream.isatty())
            )
            if handler.level <= logging.INFO and not elsewhere:
                return True
        at = at.parent if at.propagate else None
    return False
