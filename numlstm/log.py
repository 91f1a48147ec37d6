"""The package's logger, imported when there is something to say: a start has nothing to say, and no time for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

# attribute of a record that tells of work of many seconds: the line for whoever waits at a terminal
LENGTHY = "lengthy"


def log() -> Logger:
    """The logger "numlstm".

    Not for a thread that holds a lock which a fork waits for (`locks.fork_safe`). A fork takes locks in the reverse of
    the order in which they were made known, so logging's before ours if it is imported after them; and
    whoever holds ours could then neither log nor go on.
    """
    import logging

    return logging.getLogger("numlstm")


def lengthy(line: str, message: str, *values: object) -> None:
    """Log, at INFO, that work of many seconds begins; the command line shows ``line`` of it (`terminal.telling`)."""
    log().info(message, *values, extra={LENGTHY: line})
