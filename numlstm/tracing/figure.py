"""The figure of a trace: gates and states over time, and statistics of each unit over all steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from numlstm.base.typing import Array
from numlstm.tracing.trace import CLOSED, OPEN, Trace

Order = Literal["half-life", "index"]

PER_INCH = 72  # columns or lines of a heat map at most; more steps or units share one
LINES = 4  # up to this many input features are drawn as lines
# colour maps for 0 to 1 and around 0, and colours of lines (Okabe and Ito), all safe for colour-blind readers
SHARE, SIGNED = "viridis", "RdBu_r"
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
INK, GREY, PALE = "#222222", "#555555", "#ECECEC"
GATES = ("f", "i", "o")
ROWS = {
    "f": "forget gate f: how much of c is kept",
    "i": "input gate i: how much of g is added",
    "o": "output gate o: how much is put out",
    "g": "candidate g: what there is to add",
    "c": "cell state c = f c + i g",
    "h": "output h = o tanh(c)",
}
# inches: margins of the figure, width of a side panel, gaps before a side panel, between columns and between rows
LEFT, RIGHT, TOP, BOTTOM, SIDE, GAP, BETWEEN, UNDER = 0.62, 0.85, 0.86, 0.48, 1.05, 0.1, 0.62, 0.34
FONT: Any = {"font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "axes.linewidth": 0.6}
TICKS: Any = {"length": 2, "width": 0.5}


@dataclass(frozen=True)
class Panels:
    """Draws one row of the batch: some cells, their units in order. A kind is a key of ROWS, or "input"."""

    trace: Trace
    names: list[str]
    row: int
    orders: dict[str, Array]  # units from top to bottom
    half_lives: dict[str, Array]  # by unit
    sorted_by_life: bool

    @classmethod
    def of(cls, trace: Trace, names: list[str], row: int, order: Order) -> Panels:
        lives = {name: trace.half_life(name).reshape(trace.rows, -1)[row] for name in names}
        orders = {
            # NaN is last in either direction
            name: np.argsort(-life, kind="stable") if order == "half-life" else np.arange(life.size)
            for name, life in lives.items()
        }
        return cls(trace, names, row, orders, lives, order == "half-life")

    # ------------------------------------------------------------ sizes

    @property
    def map_width(self) -> float:
        """Inches."""
        return 7.6 if len(self.names) == 1 else 4.6

    @property
    def steps_per_column(self) -> int:
        """Steps that share a column of a heat map."""
        return -(-self.trace.steps // int(PER_INCH * self.map_width))

    def per_line(self, count: int, kind: str) -> int:
        """Units or features that share a line of a heat map, of so many."""
        return -(-count // int(PER_INCH * self.heights()[0 if kind == "input" else 1]))

    def heights(self) -> list[float]:
        """Inches of the input's panel and of each row of heat maps."""
        features = self.trace.input.shape[-1]
        of_units = min(2.0, 0.8 + 0.012 * self.trace.hidden_size)
        of_input = 0.8 if features <= LINES else min(1.8, 0.7 + 0.012 * features)
        return [of_input, *[of_units] * len(ROWS)]

    def size(self) -> tuple[float, float]:
        """Inches of the figure."""
        columns, heights = len(self.names), self.heights()
        width = LEFT + columns * (self.map_width + GAP + SIDE) + (columns - 1) * BETWEEN + RIGHT
        return width, TOP + sum(heights) + (len(heights) - 1) * UNDER + BOTTOM

    def add_axes(self, figure: Any, left: float, width: float, rows: slice, **options: Any) -> Any:
        """Axes at so many inches from the left, as high as these rows."""
        (whole, high), heights = self.size(), self.heights()
        begin = TOP + sum(heights[: rows.start]) + rows.start * UNDER
        end = TOP + sum(heights[: rows.stop]) + (rows.stop - 1) * UNDER
        return figure.add_axes((left / whole, 1 - end / high, width / whole, (end - begin) / high), **options)

    @property
    def projected(self) -> bool:
        return self.trace.output_size != self.trace.hidden_size

    def values(self, kind: str, name: str) -> Array:
        """(columns, features) of the input or of an array of a cell, for the row that is shown."""
        array = self.trace.input if kind == "input" else getattr(self.trace[name], kind)
        return binned(self.trace.steps_first(array)[:, self.row], self.steps_per_column, signed=kind not in GATES)

    # ------------------------------------------------------------ the figure

    def draw(self, figure: Any, title: str | None) -> None:
        """Fill the figure."""
        width, height = self.size()
        figure.suptitle(self.headline(title), x=LEFT / width, y=1 - 0.12 / height, ha="left", va="top", fontsize=11,
                        fontweight="bold", color=INK, parse_math=False)  # fmt: skip
        figure.text(LEFT / width, 1 - 0.36 / height, self.subtitle(), ha="left", va="top", color=GREY)
        images: dict[str, Any] = {}  # of a row, for its colour bar
        limits = {kind: _limit([self.values(kind, name) for name in self.names]) for kind in ("c", "h")}
        for column, name in enumerate(self.names):
            images |= self.draw_column(figure, column, name, limits)
        self.draw_colour_bars(figure, images)

    def draw_column(self, figure: Any, column: int, name: str, limits: dict[str, float]) -> dict[str, Any]:
        """All panels of a cell; the images by kind."""
        from matplotlib.ticker import MaxNLocator

        images, first = {}, None
        left = LEFT + column * (self.map_width + GAP + SIDE + BETWEEN)
        for n, kind in enumerate(("input", *ROWS)):
            row = slice(n, n + 1)
            axes = self.add_axes(figure, left, self.map_width, row, sharex=first, label=f"{name}.{kind}")
            first = first or axes
            side = self.add_axes(figure, left + self.map_width + GAP, SIDE, row, label=f"{name}.{kind}.side")
            if kind == "input":
                image = self.draw_input(axes, side, name)
                self.draw_column_title(axes, name, column)
            else:
                image = self.draw_map(axes, kind, name, limits)
                if column == 0:
                    axes.set_title(self.caption(kind), loc="left", color=INK, pad=3)
                self.draw_side(side, kind, name)
            if image is not None:
                images[kind] = image
            axes.tick_params(axis="x", labelbottom=kind == "h", labelsize=7.5, **TICKS)
            axes.tick_params(axis="y", **TICKS)
        axes.set_xlim(-0.5, self.trace.steps - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
        axes.set_xlabel("step" if self.steps_per_column == 1 else f"step ({self.steps_per_column} a column)")
        return images

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
        shared_input = features > LINES and self.per_line(features, "input") > 1
        if self.steps_per_column > 1 or self.per_line(units, "f") > 1 or shared_input:
            said += " What shares a place in a map: the mean of a gate; of g, c, h and input the value farthest from 0."
        return said

    def caption(self, kind: str) -> str:
        return "output h = W$_{hr}$ (o tanh(c))" if kind == "h" and self.projected else ROWS[kind]

    def draw_column_title(self, axes: Any, name: str, column: int) -> None:
        """The layer and direction, if there are several."""
        text = "input" if column == 0 and name.startswith("l0") else ""
        if len(self.trace) > 1:
            layer, _, reverse = name.removeprefix("l").partition("_")
            direction = ", forward" if "l0_reverse" in self.trace else ""
            if reverse:
                direction = ", reverse: reads from right to left"
            text = f"{name}: layer {layer}{direction}"
        axes.set_title(text, loc="left", color=INK, pad=3, fontweight="bold" if len(self.trace) > 1 else "normal")

    # ------------------------------------------------------------ panels

    def draw_input(self, axes: Any, side: Any, name: str) -> Any:
        """The input above the first layer; above another one, the cells that it reads. Beside it the legend."""
        if name == self.names[0]:
            _draw_legend(side)
        side.set_axis_off()
        if not name.startswith("l0"):
            layer = int(name[1:].partition("_")[0])
            below = [other for other in self.trace if other.partition("_")[0] == f"l{layer - 1}"]
            axes.text(0.5, 0.5, f"reads h of {' and '.join(below)}", transform=axes.transAxes, ha="center", va="center",
                      color=GREY, fontsize=9)  # fmt: skip
            axes.set_axis_off()
            return None
        values = self.values("input", name)
        features = values.shape[1]
        if features <= LINES:
            self._lines(axes, values)
            return None
        norm = _scale(_limit([values]), signed=bool((values < 0).any()))
        return self._image(axes, "feature", "input", values, np.arange(features), **norm)

    def draw_map(self, axes: Any, kind: str, name: str, limits: dict[str, float]) -> Any:
        """One heat map: steps across, units down."""
        values = self.values(kind, name)
        projected = kind == "h" and self.projected
        order = np.arange(values.shape[1]) if projected else self.orders[name]
        norm = _scale(limits.get(kind, 1.0), signed=kind not in GATES)
        return self._image(axes, "feature" if projected else "unit", kind, values, order, **norm)

    def _lines(self, axes: Any, values: Array) -> None:
        """A line for each feature."""
        steps = np.arange(len(values)) * self.steps_per_column + (self.steps_per_column - 1) / 2
        features = values.shape[1]
        for feature in range(features):
            marker = "o" if len(values) == 1 else None
            axes.plot(steps, values[:, feature], color=LINE_COLOURS[feature], linewidth=0.9, marker=marker,
                      markersize=3, label=f"{feature}")  # fmt: skip
        if features > 1:
            axes.legend(frameon=False, ncols=features, fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.96),
                        handlelength=1, borderaxespad=0)  # fmt: skip
        axes.set_ylabel("value")
        axes.tick_params(labelsize=6.5)
        axes.spines[["top", "right"]].set_visible(False)

    def _image(self, axes: Any, line: str, kind: str, values: Array, order: Array, **norm: Any) -> Any:
        """A heat map of (columns, features), whose lines are the features in this order from top to bottom."""
        import matplotlib

        high = self.per_line(order.size, kind)
        axes.set_ylabel(line if high == 1 else f"{line} ({high} a line)")
        signed = norm["cmap"] == SIGNED
        shown = binned(values[:, order].T, high, signed)
        norm["cmap"] = matplotlib.colormaps[norm["cmap"]].with_extremes(bad=(0, 0, 0, 0))
        if np.isnan(shown).any():  # seen through the holes
            axes.patch.set(hatch="xxxxxx", facecolor="white", edgecolor="#999999", linewidth=0)
        image = axes.imshow(
            np.ma.masked_invalid(shown) if np.isnan(shown).any() else shown,
            aspect="auto", interpolation="nearest",
            extent=(-0.5, len(values) * self.steps_per_column - 0.5, len(shown) * high - 0.5, -0.5), **norm,
        )  # fmt: skip
        axes.set_ylim(order.size - 0.5, -0.5)
        ticks = range(0, order.size, max(1, -(-order.size // 8)))
        axes.set_yticks(ticks, [str(order[at]) for at in ticks], fontsize=6.5)
        axes.spines[:].set_visible(False)
        return image

    def draw_side(self, axes: Any, kind: str, name: str) -> None:
        """Beside a heat map: a number over all steps for each unit, on the lines of the map."""
        order = self.orders[name]
        axes.set_facecolor(PALE)
        if kind == "c":
            self._half_lives(axes, name)
        elif kind == "h":
            mean = np.abs(self.trace.steps_first(self.trace[name].h)[:, self.row]).mean(axis=0, dtype=np.float64)
            order = np.arange(mean.size) if self.projected else order
            self._bars(axes, mean[order], kind, GREY)
            axes.set_xlim(left=0)
            axes.xaxis.get_major_locator().set_params(nbins=2)
            axes.set_title("mean |h|", color=GREY, pad=3)
            if np.isnan(mean).all():
                _note(axes, "NaN")
        else:
            shares = [share.reshape(self.trace.rows, -1)[self.row] for share in self.trace.saturation(name, kind)]
            below, above = _ends(SIGNED if kind == "g" else SHARE)
            self._bars(axes, shares[0][order], kind, below)
            self._bars(axes, 1 - shares[1][order], kind, above, baseline=1)
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "", "1"] if kind == "g" else [""] * 3)
            axes.set_title({"f": "share of steps", "g": f"|g| > {OPEN:g}"}.get(kind, ""), color=GREY, pad=3)
            if not (shares[0].any() or shares[1].any()):
                _note(axes, "at no step")
        axes.set_ylim(order.size - 0.5, -0.5)
        axes.set_yticks([])
        axes.tick_params(labelsize=6.5, **TICKS)
        axes.spines[:].set_visible(False)

    def _bars(self, axes: Any, values: Array, kind: str, colour: Any, baseline: float = 0) -> None:
        """A bar for each line of the heat map: the mean of the units that share it."""
        high = self.per_line(values.size, kind)
        lines = binned(values, high, signed=False)
        edges = np.minimum(np.arange(lines.size + 1) * high, values.size) - 0.5
        axes.stairs(lines, edges, orientation="horizontal", fill=True, baseline=baseline, color=colour, linewidth=0)

    def _half_lives(self, axes: Any, name: str) -> None:
        """Half-lives as points on a logarithmic axis; 0 and infinity are marks at its ends."""
        life = self.half_lives[name][self.orders[name]]
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
            _note(axes, "NaN")

    def draw_colour_bars(self, figure: Any, images: dict[str, Any]) -> None:
        """The colour bars at the right: one for the three gates, one for each other row."""
        spans = {"input": slice(0, 1), "f": slice(1, 4), "g": slice(4, 5), "c": slice(5, 6), "h": slice(6, 7)}
        for kind, rows in spans.items():
            axes = self.add_axes(figure, self.size()[0] - RIGHT + 0.15, 0.11, rows, label=f"colours.{kind}")
            if kind not in images:
                axes.set_axis_off()
                continue
            bar = figure.colorbar(images[kind], cax=axes)
            bar.outline.set_visible(False)
            axes.tick_params(labelsize=6.5, **TICKS)
            if kind == "f":
                bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0 closed", "0.25", "0.5", "0.75", "1 open"])
            elif (signed := bar.norm.vmin < 0) or bar.norm.vmax > 0:
                ticks = _signed_ticks(bar.norm.vmax)
                bar.set_ticks(ticks if signed else ticks[len(ticks) // 2 :])
                bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
                bar.ax.yaxis.set_ticks([], minor=True)


def binned(values: Array, size: int, signed: bool) -> Array:
    """Bins of `size` values along the first axis; the last may be shorter, and a NaN makes its bin NaN.

    Parameters
    ----------
    values : ndarray
    size : int
    signed : bool
        Whether a bin is its number farthest from 0, or its mean.

    Examples
    --------
    >>> binned(np.array([1.0, -3.0, 2.0]), 2, signed=True).tolist()
    [-3.0, 2.0]
    >>> binned(np.array([1.0, -3.0, 2.0]), 2, signed=False).tolist()
    [-1.0, 2.0]
    """
    if size == 1:
        return values
    starts = np.arange(0, len(values), size)
    if signed:
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        return np.where(-low > high, low, high)
    counts = np.diff([*starts, len(values)]).reshape(-1, *[1] * (values.ndim - 1))
    mean: Array = np.add.reduceat(values, starts, dtype=np.float64) / counts
    return mean


def _limit(arrays: Sequence[Array]) -> float:
    """The largest finite magnitude; 1 if there is none."""
    most = max((float(np.abs(array[np.isfinite(array)]).max(initial=0)) for array in arrays), default=0)
    return most or 1.0


def _scale(limit: float, signed: bool) -> dict[str, Any]:
    """Colours from -limit or 0 to limit; above 2 on an asinh scale, so that small numbers show too."""
    from matplotlib.colors import AsinhNorm, Normalize

    low = -limit if signed else 0
    norm = AsinhNorm(0.5, low, limit) if limit > 2 else Normalize(low, limit)
    return {"cmap": SIGNED if signed else SHARE, "norm": norm}


def _ends(name: str) -> tuple[Any, Any]:
    """The colours of a map's two ends."""
    import matplotlib

    colours = matplotlib.colormaps[name]
    return colours(0.0), colours(1.0)


def _note(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=7)


def _draw_legend(axes: Any) -> None:
    """The legend of the bars beside the gates."""
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
    """A few round numbers from -limit to limit, also on an asinh scale."""
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
