"""The work of ``numlstm demo``: times of the engine, and a forecast by an LSTM that PyTorch trained, or numlstm itself.

In: a path for the picture. Out: lines of text, and the picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from numlstm.base.console import printable
from numlstm.base.requirements import install
from numlstm.base.typing import Array
from numlstm.demo import engine
from numlstm.demo.chart import draw, text_chart, text_losses
from numlstm.demo.forecast import (
    FEATURES,
    HORIZONS,
    Forecaster,
    Record,
    mean_absolute,
    root_mean_square,
    simple_forecasts,
)

__all__ = ["Forecaster", "Record", "run"]

PICTURE = "forecast.png"  # suggested name


def run(
    plot: str | os.PathLike[str] | None = None,
    echo: Callable[[str], None] = print,
    trained: Forecaster | None = None,
    losses: Sequence[float] = (),
) -> None:
    """Show what the engine does, then forecast the unseen years of the CO2 record and show the errors.

    Parameters
    ----------
    plot : path, optional
        File for a picture of the forecast: SVG if its suffix says so, otherwise PNG. By default, or without matplotlib,
        a text chart is printed.
    echo : callable
        Prints a line.
    trained : Forecaster, optional
        A model that was trained here, to be shown in the place of the one that ships.
    losses : sequence of float
        Of its epochs, in ppm squared.
    """
    record, forecaster = Record.load(), trained or Forecaster.load()
    for line in engine.shown(forecaster.lstm, forecaster.input(record)):
        echo(line)
    known = forecaster.metadata
    forecasts = {"LSTM": forecaster.forecast(record)} | simple_forecasts(record, known["train_to"])
    unseen = record.between(known["unseen_from"], known["unseen_to"])
    for line in description(record, forecaster):
        echo(line)
    if losses:
        for line in (*text_losses(losses), ""):
            echo(line)
    for line in every_horizon(record, forecasts, unseen):
        echo(line)
    for line in one_origin(record, forecasts, int(np.flatnonzero(unseen)[-1])):
        echo(line)
    path = None if plot is None else os.fspath(plot)
    if path is not None:
        shown = printable(path)
        try:
            draw(record, forecasts, unseen, path)
            echo(f"plot: {shown}")
            return
        except OSError as error:
            reason = f"{shown} cannot be written ({error.strerror})" if error.strerror else printable(str(error))
            echo(f"no plot: {reason}; --plot PATH puts it elsewhere.")
            return
        except ImportError:
            pass
    for line in text_chart(record, forecasts["LSTM"], unseen):
        echo(line)
    if path is not None:
        echo(f"matplotlib is not installed, so this is text; {install('plot')} for a picture.")
    else:
        echo(f"As a picture, with matplotlib: numlstm demo --plot {PICTURE}")


def description(record: Record, forecaster: Forecaster) -> Iterator[str]:
    """The model and the source of the data."""
    known = forecaster.metadata
    hidden = forecaster.lstm.hidden_size
    yield "CO2 in the air at Mauna Loa, Hawaii: twelve months ahead"
    yield ""
    yield f"data   {len(record.ppm)} monthly means, {record.months[0]} to {record.months[-1]}, in ppm; public domain."
    yield "       Keeling and Whorf 2004, SIO network, Carbon Dioxide Information Analysis Center; weekly values by"
    yield "       way of statsmodels.datasets.co2. numlstm/demo/data/README.md quotes notice and source in full."
    trainer = f"with PyTorch {known['torch']}" if "torch" in known else "here, by numlstm alone,"
    yield f"model  numlstm.{forecaster.lstm} and a Linear({hidden}, {HORIZONS}), trained {trainer}"
    yield f"       on the months to {known['train_to']}. It reads {len(FEATURES)} numbers a month and corrects the"
    yield "       seasonal-naive forecast of the next twelve, which is the same month of the year before."
    yield f"unseen {known['unseen_from']} to {known['unseen_to']}: fixed before training, and read neither in training"
    yield "       nor in choosing the model."
    yield ""


def every_horizon(record: Record, forecasts: dict[str, Array], unseen: Array) -> Iterator[str]:
    """Forecast, measurement and errors at every horizon, means over all origins of the unseen years."""
    measured = record.measured()[unseen]
    errors = {name: forecast[unseen] - measured for name, forecast in forecasts.items()}
    first, last = record.origins[unseen][[0, -1]]
    yield f"Mean over {len(measured)} origins, {first} to {last}, in ppm. Errors are mean absolute; * is the smallest."
    yield "+ drift: raised by the origin's rise over a year; + mean rise: by the mean rise of the training years."
    yield ""
    yield "months                        error of"
    yield "ahead   measured   forecast" + "".join(f"{name:>16}" for name in errors)
    absolute = np.array([mean_absolute(error) for error in errors.values()])
    for h in range(HORIZONS):
        yield (
            f"{h + 1:5}   {measured[:, h].mean():8.2f}   {forecasts['LSTM'][unseen, h].mean():8.2f}"
            + marked(absolute[:, h])
        )
    yield f"{'mean absolute error':27}" + marked(absolute.mean(axis=1))
    yield f"{'root mean square error':27}" + marked(np.array([root_mean_square(error) for error in errors.values()]))
    yield ""
    for name, row in zip(list(errors)[1:], absolute[1:], strict=True):
        label = "seasonal-naive " + name if name.startswith("+") else name
        yield (
            f"LSTM against {label}: {absolute[0].mean() / row.mean():.2f} of its error, smaller at "
            f"{(absolute[0] < row).sum()} of {HORIZONS} horizons"
        )
    yield ""


def marked(values: Array) -> str:
    """A row of numbers, the smallest marked with a star."""
    smallest = values.argmin()
    return "".join(f"{value:15.2f}{'*' if i == smallest else ' '}" for i, value in enumerate(values)).rstrip()


def one_origin(record: Record, forecasts: dict[str, Array], at: int) -> Iterator[str]:
    """All months that are forecast from one origin."""
    measured = record.measured()[at]
    ahead = record.origins[at] + np.arange(1, HORIZONS + 1)
    lstm, naive = forecasts["LSTM"][at], forecasts["seasonal-naive"][at]
    yield f"The last origin, {record.origins[at]}, in ppm:"
    yield ""
    yield "month     measured       LSTM    error   seasonal-naive    error"
    for month, truth, own, plain in zip(ahead, measured, lstm, naive, strict=True):
        row = f"{own:7.2f}   {own - truth:+6.2f}          {plain:7.2f}   {plain - truth:+6.2f}"
        yield f"{month}    {truth:7.2f}    {row}"
    yield ""
