"""Python in a fresh process, and the command ``numlstm`` in this one and in its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result

from numlstm.cli import main

TESTS = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "numlstm"]


def child(
    *arguments: str | Path,
    timeout: float = 300,
    cwd: Path | None = None,
    path: Sequence[Path] = (),
    **environment: str | None,
) -> str:
    """What a fresh Python with these arguments prints; it must succeed.

    It imports from `path`, and the helpers of the tests. An environment variable given as None is unset.
    """
    given = {**os.environ, **environment}
    given["PYTHONPATH"] = os.pathsep.join(
        map(str, filter(None, (*path, os.environ.get("PYTHONPATH"), TESTS, TESTS / "support")))
    )
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={name: value for name, value in given.items() if value is not None},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    return done.stdout.strip()


def invoke(*arguments: Any) -> Result:
    """``numlstm`` with these arguments in this process, however it ends."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def process(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """``numlstm`` with these arguments in a process of its own, however it ends."""
    options = {"timeout": 300} | options
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def command_of(*words: str) -> click.Command:
    """The command of these words, such as ``"bench", "sweep"``."""
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"no such command: {word}"
        command = found
    return command


def command_names() -> list[tuple[str, ...]]:
    """The words of every command and of every command of a command."""
    names = [(name,) for name in main.list_commands(click.Context(main))]
    groups = [(words, group) for words in names if isinstance(group := command_of(*words), click.Group)]
    return names + [(*words, name) for words, group in groups for name in group.commands]
