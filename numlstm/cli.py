"""The command ``numlstm``: a group that imports a command when it is used, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

# Module in numlstm.commands: first sentence of its help
COMMANDS = {
    "bench": "Compare the speed with PyTorch and other baselines.",
    "check": "Check the LSTM of MODEL against the reference.",
    "convert": "Save the LSTM of model file IN as OUT, in another format.",
    "demo": "Time a small model and forecast atmospheric CO2.",
    "export": "Write the model in MODEL as a library for C, C++, Rust and JavaScript.",
    "info": "Show versions, the CPU, and which kernels run on it.",
    "inspect": "List the LSTMs in a model FILE.",
    "run": "Run the model or the LSTM of MODEL over the sequences in INPUT.",
    "trace": "Show what the gates of MODEL do over the sequences in INPUT.",
    "warmup": "Compile and cache the kernels ahead of time, those of training too.",
}


class Commands(click.Group):
    """The commands of `COMMANDS`, each the object ``command`` of its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, without an import."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"numlstm.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in the help, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as click does, but report that stdout cannot be written: --help and --version write to it as well."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if not kwargs.get("standalone_mode", True):
                raise
            from numlstm.commands.messages import reason

            click.echo(f"Error: {reason(error)}", err=True)
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="numlstm", message="%(package)s %(version)s")
def main() -> None:
    """An LSTM engine for the CPU with the interface of torch.nn.LSTM."""
