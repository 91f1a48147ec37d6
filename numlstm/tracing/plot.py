"""A trace as a picture: gates and states over time, and what each unit of it is like over all steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from numlstm.base import atomic
from numlstm.base.requirements import install
from numlstm.base.typing import Array
from numlstm.tracing.trace import CLOSED, OPEN, Trace

Order = Literal["half-life", "index"]

SUFFIXES = (".svg", ".png")
DENSEST = 72  # columns or lines of a heat map in an inch; more steps or units than that are put together
LINES = 4  # input features up to which they are lines
SHARE, SIGNED = "viridis", "RdBu_r"  # colour maps that every kind of sight can read: of 0 to 1, and around 0
# Okabe and Ito's colours, apart for every kind of sight
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
INK, GREY, PALE = "#222222", "#555555", "#ECECEC"
ROWS = {
    "f": "forget gate f: how much of c is kept",
    "i": "input gate i: how much of g is added",
    "o": "output gate o: how much is put out",
    "g": "candidate g: what there is to add",
    "c": "cell state c = f c + i g",
    "h": "output h = o tanh(c)",
}
# inches: of the figure's margins, between a heat map and what stands beside it, and between columns and rows
LEFT, RIGHT, TOP, BOTTOM, SIDE, GAP, BETWEEN, UNDER = 0.62, 0.85, 0.86, 0.48, 1.05, 0.1, 0.62, 0.34
TEXT: Any = {"font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "axes.linewidth": 0.6}


def plot_trace(
    trace: Trace,
    cells: str | Iterable[str] | None = None,
    *,
    row: int = 0,
    order: Order = "half-life",
    title: str | None = None,
) -> Any:
    """Draw gates and states of a trace over time.

    A column for each layer and direction. Heat maps have steps across and units down; beside them stands what holds for
    all steps: how often a gate is closed (below 0.05) and open (above 0.95), how long a unit remembers, and how much it
    puts out.

    Parameters
    ----------
    trace : Trace
        What `LSTM.trace` gave.
    cells : str or sequence of str, optional
        Names of layers and directions, such as ``"l0"``; all of them if left out.
    row : int
        Which row of the batch.
    order : "half-life" or "index"
        Order of the units from top to bottom: the longest half-life of the forget gate first (see
        `Trace.half_life`), or by number. Projected h, which has no units, is always by number.
    title : str, optional
        Stands above, before the sizes.

    Returns
    -------
    matplotlib.figure.Figure
        To be saved, shown in a notebook, or changed further. It belongs to no window. Its axes are labelled: ``l0.f``,
        ``l0.f.side`` beside it, ``colours.f``.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    KeyError
        There is no such cell.
    IndexError
        There is no such row.
    ValueError
        `order` is neither of the two, or no cell is named.

    Notes
    -----
    Where there are more steps or units than a map has room for, some share a place, as the labels of the axes say: what
    is shown is then the mean of the gates, and of g, c, h and the input the value farthest from 0. Shares, half-lives
    and the mean of abs(h) are always those of all steps. Where a number is NaN the map is hatched.

    Examples
    --------
    >>> import numpy as np
    >>> from numlstm import LSTM
    >>> trace = LSTM(6, 4, num_layers=2, seed=0).trace(np.ones((50, 6)))
    >>> plot_trace(trace, "l1").savefig("l1.png")  # doctest: +SKIP
    """
    names = [cells] if isinstance(cells, str) else list(trace if cells is None else cells)
    for name in names:
        trace[name]
    if not names:
        raise ValueError(f"cells names none; this trace has {', '.join(trace)}")
    if order not in ("half-life", "index"):
        raise ValueError(f"order must be 'half-life' or 'index', not {order!r}")
    if not -trace.rows <= row < trace.rows:
        raise IndexError(f"there is no row {row} in a batch of {trace.rows}")
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"plot_trace needs matplotlib: {install('plot')}") from None

    with matplotlib.rc_context(TEXT):
        panels = _Panels.of(trace, names, row % trace.rows, order)
        figure = Figure(figsize=panels.size())
        FigureCanvasAgg(figure)  # no window, no global state
        panels.draw(figure, title)
    return figure


def drawable(path: Path) -> None:
    """Raise where no picture could be drawn into this file.

    Raises
    ------
    ValueError
        For another suffix than those of `SUFFIXES`.
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


def binned(values: Array, many: int, signed: bool) -> Array:
    """Runs of so many along the first axis (the last may be shorter) put together, NaN where one is NaN.

    Parameters
    ----------
    values : ndarray
    many : int
    signed : bool
        Whether of each run the number farthest from 0 is wanted, or the mean.

    Examples
    --------
    >>> binned(np.array([1.0, -3.0, 2.0]), 2, signed=True).tolist()
    [-3.0, 2.0]
    >>> binned(np.array([1.0, -3.0, 2.0]), 2, signed=False).tolist()
    [-1.0, 2.0]
    """
    if many == 1:
        return values
    begins = np.arange(0, len(values), many)
    if signed:
        low, high = np.minimum.reduceat(values, begins), np.maximum.reduceat(values, begins)
        return np.where(-low > high, low, high)
    counts = np.diff([*begins, len(values)]).reshape(-1, *[1] * (values.ndim - 1))
    mean: Array = np.add.reduceat(values, begins, dtype=np.float64) / counts
    return mean


@dataclass(frozen=True)
class _Panels:
    """What the figure shows: one row of the batch, some cells, their units in order."""

    trace: Trace
    names: list[str]
    row: int
    orders: dict[str, Array]  # units from top to bottom
    life: dict[str, Array]  # half-lives by unit
    sorted_by_life: bool

    @classmethod
    def of(cls, trace: Trace, names: list[str], row: int, order: Order) -> _Panels:
        lives = {name: trace.half_life(name).reshape(trace.rows, -1)[row] for name in names}
        orders = {
            # NaN is last in either direction
            name: np.argsort(-life, kind="stable") if order == "half-life" else np.arange(life.size)
            for name, life in lives.items()
        }
        return cls(trace, names, row, orders, lives, order == "half-life")

    @property
    def wide(self) -> int:
        """Steps that share a column of the heat maps."""
        return -(-self.trace.steps // int(DENSEST * self.across))

    @property
    def across(self) -> float:
        """Inches of a heat map's width."""
        return 7.6 if len(self.names) == 1 else 4.6

    def heights(self) -> list[float]:
        """Inches of the input's panel and of each row of heat maps."""
        features = self.trace.input.shape[-1]
        of_units = min(2.0, 0.8 + 0.012 * self.trace.hidden_size)
        of_input = 0.8 if features <= LINES else min(1.8, 0.7 + 0.012 * features)
        return [of_input, *[of_units] * len(ROWS)]

    def size(self) -> tuple[float, float]:
        """Inches of the figure."""
        columns = len(self.names)
        width = LEFT + columns * (self.across + GAP + SIDE) + (columns - 1) * BETWEEN + RIGHT
        heights = self.heights()
        return width, TOP + sum(heights) + (len(heights) - 1) * UNDER + BOTTOM

    def place(self, figure: Any, left: float, width: float, rows: slice, **options: Any) -> Any:
        """Axes at these inches from the left, as high as these rows."""
        (whole, high), heights = self.size(), self.heights()
        begin = TOP + sum(heights[: rows.start]) + rows.start * UNDER
        end = TOP + sum(heights[: rows.stop]) + (rows.stop - 1) * UNDER
        return figure.add_axes((left / whole, 1 - end / high, width / whole, (end - begin) / high), **options)

    def values(self, of: str, name: str) -> Array:
        """(steps or runs of them, features) of the input or of an array of a cell, of the row that is shown."""
        array = self.trace.input if of == "input" else getattr(self.trace[name], of)
        return binned(self.trace.steps_first(array)[:, self.row], self.wide, signed=of not in ("i", "f", "o"))

    def draw(self, figure: Any, title: str | None) -> None:
        """Fill the figure."""
        from matplotlib.ticker import MaxNLocator

        width, height = self.size()
        figure.suptitle(self.headline(title), x=LEFT / width, y=1 - 0.12 / height, ha="left", va="top", fontsize=11,
                        fontweight="bold", color=INK, parse_math=False)  # fmt: skip
        figure.text(LEFT / width, 1 - 0.36 / height, self.subtitle(), ha="left", va="top", color=GREY)
        bars: dict[str, Any] = {}
        bottom = None
        limits = {of: _limit([self.values(of, name) for name in self.names]) for of in ("c", "h")}
        for column, name in enumerate(self.names):
            first = None
            for at, of in enumerate(("input", *ROWS)):
                left, row = LEFT + column * (self.across + GAP + SIDE + BETWEEN), slice(at, at + 1)
                axes = self.place(figure, left, self.across, row, sharex=first, label=f"{name}.{of}")
                first = first or axes
                side = self.place(figure, left + self.across + GAP, SIDE, row, label=f"{name}.{of}.side")
                if of == "input":
                    mappable = self.draw_input(axes, side, name)
                    self.head(axes, name, column)
                else:
                    mappable = self.draw_map(axes, of, name, limits)
                    if column == 0:
                        axes.set_title(self.caption(of), loc="left", color=INK, pad=3)
                    self.draw_side(side, of, name)
                if mappable is not None:
                    bars[of] = mappable
                axes.tick_params(axis="x", labelbottom=of == "h", labelsize=7.5, length=2, width=0.5)
                axes.tick_params(axis="y", length=2, width=0.5)
                bottom = axes
            assert bottom is not None
            bottom.set_xlim(-0.5, self.trace.steps - 0.5)
            bottom.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
            bottom.set_xlabel("step" if self.wide == 1 else f"step ({self.wide} a column)")
        self.draw_bars(figure, bars, limits)

    # ------------------------------------------------------------ words

    def headline(self, title: str | None) -> str:
        trace = self.trace
        layers = len({name.partition("_")[0] for name in trace})
        model = f"LSTM({trace.input.shape[-1]}, {trace.hidden_size}"
        if self.projected:
            model += f", proj_size={trace.output_size}"
        model += f", num_layers={layers}" * (layers > 1) + ", bidirectional=True" * (len(trace) > layers) + ")"
        steps = f"{trace.steps:,} step{'s' if trace.steps != 1 else ''}"
        row = f", row {self.row} of {trace.rows}" if trace.rows > 1 else ""
        return (f"{title}: " if title else "") + f"{model}, {steps}{row}"

    def subtitle(self) -> str:
        said = "Units by number."
        if self.sorted_by_life:
            said = "Units from the longest half-life of the forget gate (top) to the shortest."
        units, features = self.trace.hidden_size, self.trace.input.shape[-1]
        if self.wide > 1 or self.high(units, "f") > 1 or (features > LINES and self.high(features, "input") > 1):
            said += " What shares a place in a map: the mean of a gate; of g, c, h and input the value farthest from 0."
        return said

    def head(self, axes: Any, name: str, column: int) -> None:
        """What stands above a column: its layer and direction, where there are several."""
        text = "input" if column == 0 and name.startswith("l0") else ""
        if len(self.trace) > 1:
            layer, _, reverse = name.removeprefix("l").partition("_")
            both = "l0_reverse" in self.trace
            way = ", reverse: reads from right to left" if reverse else ", forward" if both else ""
            text = f"{name}: layer {layer}{way}"
        axes.set_title(text, loc="left", color=INK, pad=3, fontweight="bold" if len(self.trace) > 1 else "normal")

    def caption(self, of: str) -> str:
        if of == "h" and self.projected:
            return "output h = W$_{hr}$ (o tanh(c))"
        return ROWS[of]

    @property
    def projected(self) -> bool:
        return self.trace.output_size != self.trace.hidden_size

    # ------------------------------------------------------------ panels

    def draw_input(self, axes: Any, side: Any, name: str) -> Any:
        """The input above the first layer; above another one, what it reads. Beside it what the bars below mean."""
        if name == self.names[0]:
            _legend(side)
        side.set_axis_off()
        if not name.startswith("l0"):
            below = [
                other for other in self.trace if other.partition("_")[0] == f"l{int(name[1:].partition('_')[0]) - 1}"
            ]
            axes.text(0.5, 0.5, f"reads h of {' and '.join(below)}", transform=axes.transAxes, ha="center", va="center",
                      color=GREY, fontsize=9)  # fmt: skip
            axes.set_axis_off()
            return None
        values = self.values("input", name)
        features = values.shape[1]
        if features <= LINES:
            at = np.arange(len(values)) * self.wide + (self.wide - 1) / 2
            for feature in range(features):
                marker = "o" if len(values) == 1 else None
                axes.plot(at, values[:, feature], color=LINE_COLOURS[feature], linewidth=0.9, marker=marker,
                          markersize=3, label=f"{feature}")  # fmt: skip
            if features > 1:
                axes.legend(frameon=False, ncols=features, fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.96),
                            handlelength=1, borderaxespad=0)  # fmt: skip
            axes.set_ylabel("value")
            axes.tick_params(labelsize=6.5)
            axes.spines[["top", "right"]].set_visible(False)
            return None
        norm = _scale(_limit([values]), signed=bool((values < 0).any()))
        image = self._image(axes, values, np.arange(features), self.high(features, "input"), **norm)
        axes.set_ylabel(self.line_label("feature", features, "input"))
        return image

    def draw_map(self, axes: Any, of: str, name: str, limits: dict[str, float]) -> Any:
        """One heat map: steps across, units down."""
        values = self.values(of, name)
        projected = of == "h" and self.projected
        order = np.arange(values.shape[1]) if projected else self.orders[name]
        norm = _scale(limits.get(of, 1.0), signed=of not in ("i", "f", "o"))
        image = self._image(axes, values, order, self.high(order.size, of), **norm)
        axes.set_ylabel(self.line_label("feature" if projected else "unit", order.size, of))
        return image

    def high(self, lines: int, of: str) -> int:
        """Units or features that share a line of a heat map."""
        return -(-lines // int(DENSEST * self.heights()[0 if of == "input" else 1]))

    def line_label(self, what: str, lines: int, of: str) -> str:
        high = self.high(lines, of)
        return what if high == 1 else f"{what} ({high} a line)"

    def _image(self, axes: Any, values: Array, order: Array, high: int, **norm: Any) -> Any:
        """A heat map of (columns, features), with the features in this order from top to bottom."""
        import matplotlib

        signed = norm["cmap"] == SIGNED
        shown = binned(values[:, order].T, high, signed)
        norm["cmap"] = matplotlib.colormaps[norm["cmap"]].with_extremes(bad=(0, 0, 0, 0))
        if np.isnan(shown).any():  # seen through the map
            axes.patch.set(hatch="xxxxxx", facecolor="white", edgecolor="#999999", linewidth=0)
        image = axes.imshow(
            np.ma.masked_invalid(shown) if np.isnan(shown).any() else shown,
            aspect="auto", interpolation="nearest",
            extent=(-0.5, len(values) * self.wide - 0.5, len(shown) * high - 0.5, -0.5), **norm,
        )  # fmt: skip
        axes.set_ylim(order.size - 0.5, -0.5)
        ticks = range(0, order.size, max(1, -(-order.size // 8)))
        axes.set_yticks(ticks, [str(order[at]) for at in ticks], fontsize=6.5)
        axes.spines[:].set_visible(False)
        return image

    def draw_side(self, axes: Any, of: str, name: str) -> None:
        """Beside a heat map: what holds for all steps, unit by unit, in the same order and on the same lines."""
        order = self.orders[name]
        axes.set_facecolor(PALE)
        if of == "c":
            self._half_lives(axes, name)
        elif of == "h":
            mean = np.abs(self.trace.steps_first(self.trace[name].h)[:, self.row]).mean(axis=0, dtype=np.float64)
            order = np.arange(mean.size) if self.projected else order
            self._bars(axes, mean[order], "h", GREY)
            axes.set_xlim(left=0)
            axes.xaxis.get_major_locator().set_params(nbins=2)
            axes.set_title("mean |h|", color=GREY, pad=3)
            if np.isnan(mean).all():
                self._say(axes, "NaN")
        else:
            shares = [share.reshape(self.trace.rows, -1)[self.row] for share in self.trace.saturation(name, of)]
            below, above = _ends(SIGNED if of == "g" else SHARE)
            self._bars(axes, shares[0][order], of, below)
            self._bars(axes, 1 - shares[1][order], of, above, baseline=1)
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "", "1"] if of == "g" else [""] * 3)
            axes.set_title({"f": "share of steps", "g": f"|g| > {OPEN:g}"}.get(of, ""), color=GREY, pad=3)
            if not (shares[0].any() or shares[1].any()):
                self._say(axes, "at no step")
        axes.set_ylim(order.size - 0.5, -0.5)
        axes.set_yticks([])
        axes.tick_params(length=2, width=0.5, labelsize=6.5)
        axes.spines[:].set_visible(False)

    def _bars(self, axes: Any, values: Array, of: str, colour: Any, baseline: float = 0) -> None:
        """A bar for each line of the heat map: where several units share it, their mean."""
        high = self.high(values.size, of)
        lines = binned(values, high, signed=False)
        edges = np.minimum(np.arange(lines.size + 1) * high, values.size) - 0.5
        axes.stairs(lines, edges, orientation="horizontal", fill=True, baseline=baseline, color=colour, linewidth=0)

    @staticmethod
    def _say(axes: Any, text: str) -> None:
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=7)

    def _half_lives(self, axes: Any, name: str) -> None:
        """Half-lives as points on a logarithmic axis; what is 0 or infinite stands at its ends."""
        life = self.life[name][self.orders[name]]
        finite = life[np.isfinite(life) & (life > 0)]
        low, high = (finite.min(), finite.max()) if finite.size else (1.0, 1.0)
        centre, half = math.sqrt(low * high), max(math.sqrt(high / low) * 1.3, 4.0)
        low, high = centre / half, centre * half
        units = np.arange(life.size)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        size = 3.2 if life.size <= 64 else 1.6
        axes.plot(np.clip(life, low, high), units, linestyle="none", marker="o", markersize=size, color=INK,
                  markeredgewidth=0, label="half-life")  # fmt: skip
        for at, mark in ((life == np.inf, ">"), (life == 0, "<")):
            edge = high if mark == ">" else low
            axes.plot(np.full(at.sum(), edge), units[at], linestyle="none", marker=mark, markersize=4, color="#D55E00",
                      clip_on=False, markeredgewidth=0)  # fmt: skip
        ticks = _log_ticks(low, high)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="x", color="white", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title("half-life, steps", color=GREY, pad=3)
        if np.isnan(life).all():
            self._say(axes, "NaN")

    def draw_bars(self, figure: Any, mappables: dict[str, Any], limits: dict[str, float]) -> None:
        """The colour bars at the right: one for the three gates, one for each other row."""
        where = {"input": slice(0, 1), "f": slice(1, 4), "g": slice(4, 5), "c": slice(5, 6), "h": slice(6, 7)}
        for of, rows in where.items():
            axes = self.place(figure, self.size()[0] - RIGHT + 0.15, 0.11, rows, label=f"colours.{of}")
            if mappables.get(of) is None:
                axes.set_axis_off()
                continue
            bar = figure.colorbar(mappables[of], cax=axes)
            bar.outline.set_visible(False)
            axes.tick_params(length=2, width=0.5, labelsize=6.5)
            if of == "f":
                bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0 closed", "0.25", "0.5", "0.75", "1 open"])
            elif (signed := bar.norm.vmin < 0) or bar.norm.vmax > 0:
                ticks = _signed_ticks(bar.norm.vmax)
                bar.set_ticks(ticks if signed else ticks[len(ticks) // 2 :])
                bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
                bar.ax.yaxis.set_ticks([], minor=True)


def _limit(arrays: Sequence[Array]) -> float:
    """How far from 0 the numbers go; 1 where there is none."""
    most = max((float(np.abs(array[np.isfinite(array)]).max(initial=0)) for array in arrays), default=0)
    return most or 1.0


def _scale(limit: float, signed: bool) -> dict[str, Any]:
    """Colours from -limit or 0 to limit; where that is above 2 as even as asinh, so that small numbers show too."""
    from matplotlib.colors import AsinhNorm, Normalize

    low = -limit if signed else 0
    norm = AsinhNorm(0.5, low, limit) if limit > 2 else Normalize(low, limit)
    return {"cmap": SIGNED if signed else SHARE, "norm": norm}


def _ends(name: str) -> tuple[Any, Any]:
    """The colours of a map's two ends."""
    import matplotlib

    colours = matplotlib.colormaps[name]
    return colours(0.0), colours(1.0)


def _legend(axes: Any) -> None:
    """What the bars beside the gates mean."""
    from matplotlib.patches import Patch

    closed, opened = _ends(SHARE)
    handles = [
        Patch(color=closed, label=f"closed, < {CLOSED:g}"),
        Patch(color=opened, label=f"open, > {OPEN:g}"),
        Patch(color=PALE, label="between"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=6.5, loc="center", borderaxespad=0, handlelength=1.0,
                labelspacing=0.3)  # fmt: skip


def _signed_ticks(limit: float) -> list[float]:
    """Round numbers from -limit to limit: a few, also on a scale like asinh."""
    power = math.floor(math.log10(limit))
    largest = next((digit * 10.0**power for digit in (8, 6, 5, 4, 3, 2, 1) if digit * 10.0**power <= limit), limit)
    inner = [largest / 2] if limit <= 2 else [10.0**at for at in range(0, power + 1) if 10.0**at <= largest / 2]
    upper = [0.0, *inner[-2:], largest]
    return [-tick for tick in upper[:0:-1]] + upper


def _log_ticks(low: float, high: float) -> list[float]:
    """Two or three round numbers on a logarithmic axis."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    if last - first >= 1:
        many = -(-(last - first + 1) // 3)
        return [10.0**power for power in range(first, last + 1, many)]
    between = [digit * 10.0**power for power in range(first - 1, last + 1) for digit in (1, 2, 5)]
    return [tick for tick in between if low <= tick <= high][:3]
