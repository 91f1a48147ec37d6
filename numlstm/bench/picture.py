"""A report as a picture: numlstm's speed-up over each baseline, and a roofline.

A roofline (Williams, Waterman and Patterson 2009) plots GF/s against multiply-adds per byte of weights. The roofs are
the machine's limits, measured in the same run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numlstm.bench.results import OURS, Report, Result, pooled
from numlstm.bench.scaling import AT_MOST, exponents, times_by_axis
from numlstm.bench.table import by_speed_up, number
from numlstm.tracing.plot import drawable
from numlstm.tracing.plot import save as write

# Okabe and Ito's colours, which colour-blind readers can tell apart; hatches and markers differ as well
COLOURS = {
    OURS: "#000000", "torch": "#D55E00", "onednn": "#E69F00", "onnxruntime": "#56B4E9", "openvino": "#009E73",
    "litert": "#CC79A7", "mnn": "#F0E442", "numpy": "#0072B2",
}  # fmt: skip
HATCHES = {
    "torch": "", "onednn": "....", "onnxruntime": "////", "openvino": "\\\\\\\\", "litert": "----", "mnn": "xxxx",
    "numpy": "||||",
}  # fmt: skip
MARKERS = {
    OURS: "o", "torch": "^", "onednn": "v", "onnxruntime": "s", "openvino": "D", "litert": "P", "mnn": "X",
    "numpy": "*",
}  # fmt: skip
SHOWN = (OURS, "torch", "onnxruntime", "openvino", "ai-edge-litert", "mnn", "numpy")  # versions in the title
ROOFS = {"L1": "-", "L2": "--", "L3": "-.", "memory": ":"}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
GREY = "#555555"
COLUMN = 4.6  # inches; two columns fill the width of a page of the documentation
SMALL, SMALLEST = 9, 8  # points


def save(report: Report, path: Path) -> None:
    """Draw a report to an SVG or PNG file, whole or not at all. The same report gives the same bytes."""
    drawable(path)
    import matplotlib

    with matplotlib.rc_context({"hatch.linewidth": 0.5}):
        write(draw(report), path)


def draw(report: Report) -> Any:
    """The figure, with a column for each number of threads, or a row if the report is a scaling."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = report.by_threads()
    most = max(len(results) for _, results in groups)
    compared = any(result.lead() is not None for _, results in groups for result in results)
    names = {name for _, results in groups for result in results for name in result.measured}
    row = 0.14 * max(3, len(names - {OURS}))
    above = 4.0 if report.kind == "sweep" else 1.0 + row * max(4, most)
    heights = [above] * compared + [4.0]  # of the axes of a column
    if report.kind == "scaling":
        size, shape = (3 * COLUMN, 0.6 + 4.2 * len(groups)), (len(groups), 1)
    else:
        size, shape = (COLUMN * max(2, len(groups)), 1.0 + sum(heights)), (1, len(groups))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # no window, no global state
    figure.suptitle(_title(report), fontsize=SMALL, color=GREY)
    labels: list[Callable[[], None]] = []
    for part, (threads, results) in zip(figure.subfigures(*shape, squeeze=False).flat, groups, strict=True):
        part.suptitle(f"{threads} thread" + ("" if threads == 1 else "s"), fontweight="bold")
        if report.kind == "scaling":
            scaling(part.subplots(1, len(times_by_axis(results, OURS)), squeeze=False)[0], results)
            continue
        *above, below = part.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes in above:
            (ranking if report.kind == "sweep" else bars)(axes, results)
        labels.append(roofline(below, results, named=report.kind != "sweep"))
    figure.draw_without_rendering()  # the layout is final now, so that labels can avoid what is drawn
    figure.set_layout_engine("none")
    for label in labels:
        label()
    return figure


def _title(report: Report) -> str:
    machine = report.machine
    cpu = f"{machine['cpu']} ({machine['cpu_model']})" if machine["cpu_model"] else machine["cpu"]
    versions = [f"{name} {machine['versions'][name]}" for name in SHOWN if name in machine["versions"]]
    return f"{cpu}, {report.date[:10]}\n{', '.join(versions)}\nmedians of {report.rounds} interleaved rounds"


def bars(axes: Any, results: Sequence[Result]) -> None:
    """The speed-up over each baseline on each workload."""
    baselines = [name for name in results[0].entries if any(name in r.measured for r in results) and name != OURS]
    height = 0.84 / len(baselines)
    least, most = 1.0, 1.0
    for which, baseline in enumerate(baselines):
        compared = [(at, r) for at, r in enumerate(results) if baseline in r.measured and r.lead() is not None]
        ratios = [result.speed_up(baseline)[0] for _, result in compared]
        places = [at + (which - (len(baselines) - 1) / 2) * height for at, _ in compared]
        axes.barh(
            places, [ratio - 1 for ratio in ratios], 0.92 * height, left=1, label=baseline, color=COLOURS[baseline],
            hatch=HATCHES[baseline], edgecolor="white", linewidth=0,
        )  # fmt: skip
        for place, ratio, (_, result) in zip(places, ratios, compared, strict=True):
            best = baseline == result.best_baseline()
            axes.annotate(
                number(ratio) if ratio >= 10 else f"{ratio:.2f}", (ratio, place),
                xytext=(3 if ratio >= 1 else -3, 0), textcoords="offset points", va="center",
                ha="left" if ratio >= 1 else "right", fontsize=SMALLEST, fontweight="bold" if best else "normal",
                color="black" if best else GREY,
            )  # fmt: skip
        least, most = min([least, *ratios]), max([most, *ratios])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(results)), [result.workload.name for result in results])
    axes.set_ylim(len(results) - 0.45, -0.55)
    _log_ratio(axes.xaxis, least, most)
    axes.set_xlabel("speed-up over each baseline (bold: the fastest)")
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.legend(title="numlstm against", frameon=False, fontsize=SMALLEST, title_fontsize=SMALLEST)
    axes.spines[["top", "right", "left"]].set_visible(False)


def ranking(axes: Any, results: Sequence[Result]) -> None:
    """The speed-ups of all configurations over the fastest baseline, sorted."""
    compared = [(result, lead) for result in by_speed_up(results) if (lead := result.lead()) is not None]
    for baseline, colour in COLOURS.items():
        points = [(at, lead) for at, (result, lead) in enumerate(compared) if result.best_baseline() == baseline]
        if points:
            label = f"fastest baseline: {baseline}"
            axes.plot(*zip(*points, strict=True), MARKERS[baseline], color=colour, label=label, markersize=5)
    slow = [result.workload.name for result, lead in compared if lead < 1]
    axes.axhline(1, color="black", linewidth=1)
    leads = [lead for _, lead in compared]
    _log_ratio(axes.yaxis, min(leads), max(leads))
    axes.set_xlabel("configurations, sorted")
    axes.set_ylabel("speed-up over the fastest baseline")
    axes.set_title(f"{len(slow)} of {len(compared)} below 1", fontsize=SMALL)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=SMALLEST, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def _log_ratio(axis: Any, least: float, most: float) -> None:
    """A logarithmic scale with plain numbers, and room for a label at both ends."""
    least, most = min(1.0, least), max(1.3, most)
    room = (most / least) ** 0.13
    limits = least / (room if least < 1 else room**0.2), most * room
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": limits})
    axis.set_ticks([tick for tick in TICKS if limits[0] <= tick <= limits[1]])
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_ticks([], minor=True)


def roofline(axes: Any, results: Sequence[Result], named: bool) -> Callable[[], None]:
    """GF/s of numlstm and of the fastest baseline against multiply-adds per byte, and the roofs.

    Returns
    -------
    callable
        Writes the names of the workloads. Call it when the layout is final.
    """
    limits = pooled(results)
    points = [(intensity(r), r.rate(OURS), r.workload.name) for r in results if OURS in r.measured]
    baselines = [(intensity(r), r.rate(best), best) for r in results if (best := r.best_baseline()) is not None]
    peaks = {dtype: limits.peak_of(dtype) for dtype in sorted({result.workload.dtype for result in results})}
    roofs = {level: limits.limit(f"read_{level}") for level in ROOFS}
    ridge = max(peaks.values()) / (2 * roofs["memory"])
    across = [x for x, _, _ in points + baselines]
    upwards = [y for _, y, _ in points + baselines]
    left, right = min([*across, ridge / 4]) / 8, 6 * max([*across, ridge])
    floor, ceiling = min([*upwards, 1.0]) / 2, 2 * max([*upwards, *peaks.values()])
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(floor, ceiling))

    top = max(peaks.values())
    for dtype, peak in peaks.items():
        axes.plot([peak / (2 * max(roofs.values())), right], [peak, peak], color=GREY, linewidth=1.2)
        axes.annotate(
            f"FMA peak, {dtype}: {number(peak)} GF/s", (right, peak), xytext=(-4, 3), textcoords="offset points",
            ha="right", fontsize=SMALLEST, color=GREY,
        )  # fmt: skip
    for level, bandwidth in roofs.items():
        end = top / (2 * bandwidth)
        start = max(left, floor / (2 * bandwidth))
        axes.plot([start, end], [2 * bandwidth * start, top], color=GREY, linewidth=1, linestyle=ROOFS[level])
        axes.text(
            1.1 * start, 1.2 * 2 * bandwidth * start, f"{level} {number(bandwidth)} GB/s", color=GREY,
            fontsize=SMALLEST, rotation=math.degrees(math.atan(2 * bandwidth)), rotation_mode="anchor",
            transform_rotates_text=True,
        )  # fmt: skip
    if named:
        for (x, ours, _), (_, theirs, _) in zip(points, baselines, strict=False):
            axes.plot([x, x], [ours, theirs], color="#BBBBBB", linewidth=1, zorder=2)
    size = 6 if named else 4
    for baseline, colour in COLOURS.items():
        of_baseline = [(x, y) for x, y, name in baselines if name == baseline]
        if of_baseline:
            axes.plot(
                *zip(*of_baseline, strict=True), MARKERS[baseline], color=colour, markersize=size, zorder=3,
                markerfacecolor="white", label=f"fastest baseline: {baseline}", linestyle="none",
            )  # fmt: skip
    if points:
        ours_x, ours_y, _ = zip(*points, strict=True)
        axes.plot(ours_x, ours_y, MARKERS[OURS], color=COLOURS[OURS], markersize=size, zorder=4, label=OURS)
    axes.set_xlabel("multiply-adds per byte of weights read")
    axes.set_ylabel("GF/s (a multiply-add counts as two)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False, fontsize=SMALLEST, loc="lower right")
    axes.grid(alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    return lambda: _name_points(axes, points, [(x, y) for x, y, _ in baselines]) if named else None


def intensity(result: Result) -> float:
    """Multiply-adds of a call per byte of weights that it reads."""
    return result.workload.fmas / result.workload.bytes_read


def _name_points(axes: Any, points: Sequence[tuple[float, float, str]], others: Sequence[tuple[float, float]]) -> None:
    """Write a name beside each point, where it overlaps neither a point nor another name."""
    from matplotlib.transforms import Bbox

    marks = axes.transData.transform([(x, y) for x, y, _ in points] + list(others))
    legend = axes.get_legend()
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in marks]
    taken.append(legend.get_window_extent())
    places = [(dx, dy, side) for dy in (0, 7, -7, 14, -14, 21, -21) for dx, side in ((7, "left"), (-7, "right"))]
    for x, y, name in sorted(points, key=lambda point: point[1], reverse=True):
        text = axes.annotate(
            name, (x, y), xytext=(0, 0), textcoords="offset points", va="center", fontsize=SMALLEST, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )  # fmt: skip
        for dx, dy, side in places:
            text.set(position=(dx, dy), horizontalalignment=side)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent())


def scaling(axes: Sequence[Any], results: Sequence[Result]) -> None:
    """Time against each size that doubles, and the exponent."""
    found = exponents(results, OURS)
    engines = [name for name in results[0].entries if any(name in result.measured for result in results)]
    for name in engines:
        for part, (sizes, times) in zip(axes, times_by_axis(results, name).values(), strict=False):
            part.plot(sizes, times, MARKERS[name] + "-", color=COLOURS[name], markersize=5, linewidth=1.2, label=name)
    for part, (axis, (sizes, times)) in zip(axes, times_by_axis(results, OURS).items(), strict=True):
        ideal = [times[-1] * (size / sizes[-1]) ** AT_MOST[axis] for size in sizes]
        part.plot(sizes, ideal, color="#BBBBBB", linewidth=1, linestyle="--", label=f"as {axis}$^{AT_MOST[axis]}$")
        part.set(xscale="log", yscale="log", xlabel=axis, ylabel="microseconds a call")
        part.set_title(f"numlstm: {axis}$^{{{found[axis]:.2f}}}$", fontsize=10)
        part.set_xticks(sizes, [str(size) for size in sizes])
        part.set_xticks([], minor=True)
        part.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        part.grid(alpha=0.25)
        part.legend(frameon=False, fontsize=SMALLEST)
        part.spines[["top", "right"]].set_visible(False)
