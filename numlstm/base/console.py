"""Terminal output of the commands: printable text, tables, progress; and the end of a process by a signal."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from numlstm.base.log import watched

PATIENCE = 1.0  # seconds before a progress bar appears
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
AGAIN = 5.0  # seconds within which a repeated signal is ignored


def printable(text: str) -> str:
    r"""The text with non-printable characters escaped: names in files may contain control sequences.

    Examples
    --------
    >>> printable("lstm\x1b[2J\n")
    'lstm\\x1b[2J\\n'
    >>> printable("größe lstm")
    'größe lstm'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


def shortened(text: str, width: int) -> str:
    """The text in at most `width` columns; the middle of a longer one is left out.

    Examples
    --------
    >>> shortened("model.encoder.layers.0.lstm", 16)
    'model.e...0.lstm'
    """
    if len(text) <= width:
        return text
    tail = (width - 3) // 2
    return text[: width - 3 - tail] + "..." + text[len(text) - tail :]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> Iterator[str]:
    """The lines of a table. Columns named in `left` are left-aligned, others right-aligned.

    Examples
    --------
    >>> for line in table(["name", "MB"], [["a", "1.250"], ["lstm", "10.000"]], left=["name"]):
    ...     print(line)
    name      MB
    a      1.250
    lstm  10.000
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (
            cell.ljust(width) if name in left else cell.rjust(width)
            for cell, width, name in zip(line, widths, header, strict=True)
        )
        yield "  ".join(cells).rstrip()


def size(count: int) -> str:
    """A number of bytes as text.

    Examples
    --------
    >>> size(448), size(5_430_000)
    ('448 bytes', '5.4 MB')
    """
    return f"{count:,} bytes" if count < 100_000 else f"{count / 1e6:,.1f} MB"


@contextmanager
def encodable() -> Iterator[None]:
    """Within the context, print characters that stdout's encoding lacks as escapes, as stderr does."""
    stream = sys.stdout
    if getattr(stream, "errors", None) != "strict" or not hasattr(stream, "reconfigure"):
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors="strict")


class _Ended(BaseException):
    """A signal to terminate, by its number."""


@contextmanager
def tidy() -> Iterator[None]:
    """Within the context, SIGTERM and SIGHUP end the process only after temporary files are removed.

    Their default action ends it at once, and leaves unfinished temporary files on the disk. Handlers that are set
    already, such as by ``nohup``, are kept.
    """
    begun, ended, live = -math.inf, 0, True

    def end(number: int, frame: object) -> None:
        nonlocal begun, ended
        ended = ended or number
        now = time.monotonic()
        if live and now - begun > AGAIN:  # a closed terminal sends it twice; the second must not stop the cleanup
            begun = now
            raise _Ended(number)

    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in ENDING if main and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, end)
        yield
    except _Ended:
        pass
    finally:
        live = False
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        if ended:  # even if the exception was suppressed, so that the parent sees the signal
            os.kill(os.getpid(), ended)


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with every amount of work done. Shows a bar on stderr after a second, if that is a terminal.

    Parameters
    ----------
    total : int
        The sum of all amounts.
    """
    if not watched():
        yield lambda piece: None
        return
    import click

    begun, done = time.monotonic(), 0
    with ExitStack() as stack:
        bar = None

        def advance(piece: int) -> None:
            nonlocal bar, done
            done += piece
            if bar is not None:
                bar.update(piece)
            elif done < total and time.monotonic() - begun > PATIENCE:
                bar = stack.enter_context(click.progressbar(length=total, file=sys.stderr))
                bar.update(done)

        yield advance
