"""``numlstm export``: what `numlstm.export` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from numlstm import files, formats
from numlstm.commands.messages import reports_errors, say
from numlstm.commands.options import FILE, NAME
from numlstm.export import export, parts
from numlstm.models import loading
from numlstm.nn.sequential import Sequential


@click.command("export")
@click.argument("model", type=FILE)
@click.option("-o", "--out", "folder", type=FILE, required=True, metavar="DIR", help="The folder to write to.")
@click.option(
    "--target",
    default="host",
    show_default=True,
    help="Platform of the library: host, x86_64-linux, aarch64-linux, aarch64-macos, x86_64-macos, x86_64-windows, or "
    "wasm32 for JavaScript.",
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
@click.option("--hidden", is_flag=True, help="Export the LSTM alone, without the layers behind it.")
@NAME
@reports_errors
def command(model: Path, name: str | None, hidden: bool, **options: Any) -> None:
    """Write the model in MODEL as a library for C, C++, Rust and JavaScript.

    That is its LSTM and, where MODEL describes a whole model, the Linear layers and activations behind it. Writes a
    header, a static library, the model as a binary file and an example in C to DIR. Running them needs no Python, and
    making them needs no C compiler.
    """
    module = None if hidden or name is not None else _whole(model)
    export(files.load(model, name) if module is None else module, **options, echo=say)


def _whole(path: Path) -> Sequential | None:
    """The model of a file, or None where its LSTM alone is exported, and says why if there are layers around it."""
    with formats.opened(path) as contents:
        is_alone = contents.format == "ONNX" and [found.name for found in contents.lstms] == [""]
        if contents.model is None or is_alone:
            return None
        if contents.format in loading.SEQUENTIAL:
            whole: Any = loading.build(contents)
            return cast(Sequential, whole)
        try:
            model = loading.build(contents).sequential()
            parts(model)
        except ValueError as error:
            why = str(error).partition("\n")[0]
            say(f"{path}: the LSTM alone is exported, without the layers around it: {why}")
            return None
        return model
