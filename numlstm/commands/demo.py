"""``numlstm demo``: what `numlstm.demo` shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from numlstm import demo
from numlstm.commands.messages import reports_errors
from numlstm.commands.options import OUTPUT
from numlstm.demo.forecast import Forecaster, Record
from numlstm.tracing.plot import drawable


@click.command("demo")
@click.option(
    "--plot", type=OUTPUT, help="Draw the forecast to this .png or .svg file with matplotlib.  [default: a text chart]"
)
@click.option("--train", is_flag=True, help="Train the model here first, which takes a second, and show the loss.")
@reports_errors
def command(plot: Path | None, train: bool) -> None:
    """Time a small model and forecast atmospheric CO2.

    Also checks that the results are bitwise reproducible, and compares times and results with PyTorch if that is
    installed. The forecast is for years that the model was not trained on.
    """
    if plot:
        drawable(plot)  # fail before the measurements, not after them
    if train:
        trained, losses = _trained()
        demo.run(plot, trained=trained, losses=losses)
    else:
        demo.run(plot)


def _trained() -> tuple[Forecaster, list[float]]:
    """The model, trained while a bar shows how far it is; and the losses of its epochs."""
    from numlstm.demo.training import Recipe, trained_again

    record, metadata = Record.load(), Forecaster.load().metadata
    losses: list[float] = []
    epochs = Recipe.from_metadata(metadata).epochs
    bar: Any
    with click.progressbar(length=epochs, label="training", item_show_func=_loss, file=sys.stderr) as bar:

        def told(epoch: int, loss: float) -> None:
            losses.append(loss)
            bar.update(1, loss)

        return trained_again(record, metadata, told), losses


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"loss {loss:.3f}"
