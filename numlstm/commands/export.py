"""``numlstm export``: what `numlstm.export` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from numlstm import files
from numlstm.commands.messages import reports_errors, say
from numlstm.commands.options import FILE, NAME
from numlstm.export import export


@click.command("export")
@click.argument("model", type=FILE)
@click.option("-o", "--out", "folder", type=FILE, required=True, metavar="DIR", help="The folder to write to.")
@click.option(
    "--target",
    default="host",
    show_default=True,
    help="Platform of the library: host, x86_64-linux, aarch64-linux, aarch64-macos, x86_64-macos or x86_64-windows.",
)
@click.option(
    "--level",
    metavar="LEVEL",
    help="Level of x86-64 instructions: x86-64-v3, x86-64-v4, or x86-64, whose results have other bits.  "
    "[default: x86-64-v3]",
)
@click.option(
    "--prefix",
    default="numlstm",
    show_default=True,
    help="Prefix of the library's names. Libraries that are linked together need different ones.",
)
@click.option("--shared", is_flag=True, help="Also link a shared library. Needs a C compiler or the package ziglang.")
@NAME
@reports_errors
def command(model: Path, name: str | None, **options: Any) -> None:
    """Write the LSTM of MODEL as a library for C, C++ and Rust.

    Writes a header, a static library, the model as a binary file and an example in C to DIR. Running them needs no
    Python, and making them needs no C compiler.
    """
    export(files.load(model, name), **options, echo=say)
