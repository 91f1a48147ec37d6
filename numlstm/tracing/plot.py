"""A trace as a picture, and the files that pictures are written to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numlstm.base import atomic
from numlstm.base.requirements import install
from numlstm.tracing.figure import FONT, Order, Panels
from numlstm.tracing.trace import Trace

SUFFIXES = (".svg", ".png")


def plot_trace(
    trace: Trace,
    cells: str | Iterable[str] | None = None,
    *,
    row: int = 0,
    order: Order = "half-life",
    title: str | None = None,
) -> Any:
    """Draw gates and states of a trace over time.

    There is a column for each layer and direction. Heat maps have steps across and units down. Beside them are numbers
    over all steps: how often a gate is closed (below 0.05) and open (above 0.95), how long a unit remembers, and how
    much it puts out.

    Parameters
    ----------
    trace : Trace
        From `LSTM.trace`.
    cells : str or sequence of str, optional
        Names of layers and directions, such as ``"l0"``; all of them if left out.
    row : int
        Which row of the batch.
    order : "half-life" or "index"
        Order of the units from top to bottom: the longest half-life of the forget gate first (see
        `Trace.half_life`), or by number. Projected h, which has no units, is always by number.
    title : str, optional
        Printed above, before the sizes.

    Returns
    -------
    matplotlib.figure.Figure
        To save, to show in a notebook, or to change further. It belongs to no window. Its axes have labels: ``l0.f``,
        ``l0.f.side`` beside it, ``colours.f``.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    KeyError, IndexError
        There is no such cell or row.
    ValueError
        `order` is neither of the two, or no cell is named.

    Notes
    -----
    If a map has no room for all steps or units, several share a place, and the labels of the axes say so. The map then
    shows the mean of the gates, and of g, c, h and the input the value farthest from 0. Shares, half-lives and the mean
    of abs(h) are always over all steps. NaN is hatched.

    Examples
    --------
    >>> import numpy as np
    >>> from numlstm import LSTM
    >>> trace = LSTM(6, 4, num_layers=2, seed=0).trace(np.ones((50, 6)))
    >>> plot_trace(trace, "l1").savefig("l1.png")  # doctest: +SKIP
    """
    names = [cells] if isinstance(cells, str) else list(trace if cells is None else cells)
    return _figure(trace, names, _checked(trace, names, row, order), order, title)


def _checked(trace: Trace, names: list[str], row: int, order: str) -> int:
    """The row as a number from 0 on, after the arguments of `plot_trace` were checked."""
    for name in names:
        trace[name]
    if not names:
        raise ValueError(f"cells names none; this trace has {', '.join(trace)}")
    if order not in ("half-life", "index"):
        raise ValueError(f"order must be 'half-life' or 'index', not {order!r}")
    if not -trace.rows <= row < trace.rows:
        raise IndexError(f"there is no row {row} in a batch of {trace.rows}")
    return row % trace.rows


def _figure(trace: Trace, names: list[str], row: int, order: Order, title: str | None) -> Any:
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"plot_trace needs matplotlib: {install('plot')}") from None
    with matplotlib.rc_context(FONT):
        panels = Panels.of(trace, names, row, order)
        figure = Figure(figsize=panels.size())
        FigureCanvasAgg(figure)  # no window, no global state
        panels.draw(figure, title)
    return figure


def drawable(path: Path) -> None:
    """Raise an error if no picture can be drawn into this file.

    Raises
    ------
    ValueError
        The suffix is not one of `SUFFIXES`.
    ImportError
        matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the picture is to be {path.name!r}; its suffix must be {' or '.join(SUFFIXES)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ImportError(f"--plot needs matplotlib: {install('plot')}") from None


def save(figure: Any, path: Path) -> None:
    """Write a figure to an SVG or PNG file, whole or not at all; the same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "numlstm", "svg.fonttype": "none"}), atomic.replacing(path) as file:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(file, format=path.suffix[1:], dpi=130, metadata=metadata)
