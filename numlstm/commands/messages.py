"""What commands print, and how they end when something is wrong: one line and an exit code, never a traceback."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import click

from numlstm.base.console import encodable, printable, tidy
from numlstm.base.log import watched

P = ParamSpec("P")


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn exceptions that the user can do something about into one line and exit code 1.

    Warnings of the library become a line each. Control characters from a file are escaped. A signal that ends the
    command leaves no unfinished file.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with tidy(), warnings.catch_warnings(), encodable():
                warnings.showwarning = _warn  # type: ignore[assignment]
                command(*args, **kwargs)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise  # click handles these
        except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
            raise click.ClickException(reason(error)) from error
        except MemoryError as error:
            raise click.ClickException(f"out of memory: {one_line(str(error))}".rstrip(": ")) from error

    return wrapped


def reason(error: Exception) -> str:
    """What an exception says, on one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return one_line(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """Join the lines of a message, each ended as a sentence; control characters are escaped.

    Examples
    --------
    >>> one_line("it holds 2 LSTMs\\npass a name")
    'it holds 2 LSTMs. pass a name'
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    ended = [line if line[-1] in ".:;,!?" else f"{line}." for line in lines[:-1]]
    return printable(" ".join([*ended, *lines[-1:]]))


def say(text: str) -> None:
    """Print a message as one line."""
    click.echo(one_line(text))


def status(text: str) -> None:
    """Overwrite the current line of the terminal; print nothing if stderr is not a terminal."""
    if watched():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def _warn(message: Warning | str, *where: Any) -> None:
    click.echo(f"Warning: {one_line(str(message))}", err=True)
