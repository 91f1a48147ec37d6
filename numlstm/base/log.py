"""The package's logger. Logging is imported on first use, to keep the import of numlstm fast."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger


def log() -> Logger:
    """The logger "numlstm". Never call it while holding a lock of `fork_locks.fork_safe`.

    A fork takes locks in reverse order of registration. If logging is imported after our locks, the fork takes
    logging's lock first and then waits for ours, whose holder would wait for logging's.
    """
    import logging

    return logging.getLogger("numlstm")


def watched() -> bool:
    """Whether stderr is a terminal. It may be missing, closed, or replaced by another object."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError, OSError):
        return False


def lengthy(message: str, *values: object) -> None:
    """Log at INFO that work of many seconds begins. Also print it if stderr is a terminal and no log handler does."""
    logger = log()
    logger.info(message, *values)
    if watched() and not _shows_info(logger):
        with suppress(OSError):  # the terminal may be closed
            print(message % values, file=sys.stderr, flush=True)


def _shows_info(logger: Logger) -> bool:
    """Whether an INFO record reaches a handler that may write to a terminal, so not a file or a buffer."""
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
