"""The demo's plot: a picture by matplotlib, or a text chart without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from numlstm.base import atomic
from numlstm.base.typing import Array
from numlstm.demo.forecast import HORIZONS, Record, mean_absolute

LEAD_IN = 12  # months shown before the first forecast
COLOURS = {"LSTM": "#d1495b", "seasonal-naive": "#8d99ae", "+ drift": "#30638e", "+ mean rise": "#6a994e"}
ROWS, YEARS = 17, 3  # of the chart in text
COLUMNS = 40  # most epochs in a chart of losses


def yearly(unseen: Array) -> Array:
    """Every twelfth origin, counted from the last: their forecasts follow each other without gaps or overlaps."""
    return np.flatnonzero(unseen)[::-HORIZONS][::-1]


def draw(record: Record, forecasts: Mapping[str, Array], unseen: Array, path: str) -> None:
    """Write a picture: the record with a year's forecast from every twelfth origin, and the errors of all origins.

    The file appears whole or not at all.

    Parameters
    ----------
    record : Record
        The measurements.
    forecasts : mapping of str to ndarray, shape (origins, HORIZONS)
        By name, ``"LSTM"`` and ``"seasonal-naive"`` among them, in ppm.
    unseen : ndarray of bool, shape (origins,)
        The origins to show.
    path : str
        The file: SVG if its suffix says so, otherwise PNG.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    OSError
        The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.2), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no global state
    above, below = figure.subplots(2, 1, height_ratios=[2, 1])

    _draw_record(above, record, forecasts, yearly(unseen))
    _draw_errors(below, record, forecasts, unseen)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    with atomic.replacing(path) as file:
        figure.savefig(file, dpi=130, format="svg" if path.lower().endswith(".svg") else "png")


def _draw_record(axes: Any, record: Record, forecasts: Mapping[str, Array], origins: Array) -> None:
    """The record, and from each origin a year of forecasts."""
    first, last = record.origins[origins[0]] - LEAD_IN, record.origins[origins[-1]] + HORIZONS
    shown = (record.months >= first) & (record.months <= last)
    axes.plot(record.months[shown], record.ppm[shown], color="#222222", linewidth=1.6, label="measured")
    for at in origins:
        ahead = record.origins[at] + np.arange(HORIZONS + 1)
        start = record.ppm[record.months == record.origins[at]]
        for name, style in (("seasonal-naive", (0, (2, 2))), ("LSTM", "solid")):
            line = np.concatenate([start, forecasts[name][at]])
            label = f"{name}, a year from each dot" if name == "LSTM" else name
            axes.plot(
                ahead,
                line,
                color=COLOURS[name],
                linestyle=style,
                linewidth=1.5,
                label=label if at == origins[0] else None,
            )
        axes.plot(ahead[:1], start, "o", color=COLOURS["LSTM"], markersize=5, zorder=5)
    axes.set_ylabel("CO$_2$, ppm")
    axes.set_title("CO$_2$ at Mauna Loa: years that the LSTM has not seen, monthly means")
    axes.legend(frameon=False, loc="upper left")


def _draw_errors(axes: Any, record: Record, forecasts: Mapping[str, Array], unseen: Array) -> None:
    """The mean absolute error of each forecast at every horizon."""
    measured = record.measured()[unseen]
    horizons = np.arange(1, HORIZONS + 1)
    for name, forecast in forecasts.items():
        error = mean_absolute(forecast[unseen] - measured)
        label = f"seasonal-naive {name}" if name.startswith("+") else name
        width = 2.4 if name == "LSTM" else 1.5
        axes.plot(horizons, error, "o-", color=COLOURS[name], linewidth=width, markersize=4, label=label)
    axes.set_xticks(horizons)
    axes.set_xlabel("months ahead")
    axes.set_ylabel("mean absolute error, ppm")
    axes.set_ylim(bottom=0)
    axes.set_title(f"error over all {len(measured)} origins", fontsize=10)
    axes.legend(frameon=False, ncols=2)


def text_chart(record: Record, forecast: Array, unseen: Array) -> Iterator[str]:
    """A text chart of the last years, two columns a month: measurements, and forecasts from every twelfth origin."""
    origins = yearly(unseen)[-YEARS:]
    months = record.origins[origins[0]] + np.arange(1, YEARS * HORIZONS + 1)
    at = np.searchsorted(record.months, months)
    yield "ppm     . measured   o LSTM, a year from each December   @ both"
    yield from _rows({".": record.ppm[at], "o": forecast[origins].ravel()})
    yield "       +" + "".join("|-" if month.astype(int) % 12 == 0 else "--" for month in months)
    yield "        " + "".join(f"{str(month)[:4]:24}" for month in months[::12]).rstrip()


def text_losses(losses: Sequence[float]) -> Iterator[str]:
    """A text chart of the error after each epoch of a training, at most `COLUMNS` of them, two columns each."""
    shown = np.unique(np.linspace(0, len(losses) - 1, min(len(losses), COLUMNS)).round().astype(int))
    yield "ppm     o root of the loss of an epoch"
    yield from _rows({"o": np.sqrt(np.array(losses)[shown])})
    yield "       +" + "--" * len(shown)
    yield f"        epoch {shown[0] + 1} to {shown[-1] + 1}"


def _rows(series: Mapping[str, Array]) -> Iterator[str]:
    """Numbers by the mark that stands for them, from the largest down, two columns each; where two meet, an @."""
    high, low = (float(of([of(values) for values in series.values()])) for of in (np.max, np.min))
    count = max(map(len, series.values()))
    digits = 1 if high - low > 2 else 2
    grid, columns = np.full((ROWS, 2 * count), " "), 2 * np.arange(count)
    for mark, values in series.items():
        rows = np.rint((high - values) / max(high - low, 1e-9) * (ROWS - 1)).astype(int)
        grid[rows, columns] = np.where(grid[rows, columns] == " ", mark, "@")
    for row, line in enumerate(grid):
        label = f"{high - (high - low) * row / (ROWS - 1):6.{digits}f}" if row % 4 == 0 else ""
        yield f"{label:>6} |{''.join(line)}".rstrip()
