"""Options and parameter types that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from numlstm.base.config import QUANTIZED

FILE = click.Path(path_type=Path)  # the code that reads or writes the file reports what is wrong with it
OUTPUT = click.Path(dir_okay=False, path_type=Path)

NAME = click.option("--name", help="Which LSTM to use if the file holds several: a name from inspect.")
BATCH_FIRST = click.option(
    "--batch-first/--steps-first", default=None, help="Which axis comes first, if the file does not say."
)
WEIGHTS = click.option("--weights", type=click.Choice(["float32", *QUANTIZED]), help="Number type of the weights.")
STATE = click.option("--state", type=FILE, help="Initial states: the .npz of an earlier run, or one with h_0 and c_0.")


class Finite(click.FloatRange):
    """A range without NaN and infinity, which pass the comparisons of click's own range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
