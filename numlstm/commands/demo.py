"""``numlstm demo``: what `numlstm.demo` shows."""

from __future__ import annotations

from pathlib import Path

import click

from numlstm import demo
from numlstm.commands.messages import reports_errors
from numlstm.commands.options import OUTPUT
from numlstm.tracing.plot import drawable


@click.command("demo")
@click.option(
    "--plot", type=OUTPUT, help="Draw the forecast to this .png or .svg file with matplotlib.  [default: a text chart]"
)
@reports_errors
def command(plot: Path | None) -> None:
    """Time a small model and forecast atmospheric CO2.

    Also checks that the results are bitwise reproducible, and compares times and results with PyTorch if that is
    installed. The forecast is for years that the model was not trained on.
    """
    if plot:
        drawable(plot)  # fail before the measurements, not after them
    demo.run(plot)
