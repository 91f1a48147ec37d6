"""A report as text: a heading, a Markdown table for each number of threads, and what was left out and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized

from numlstm.base.wording import counted
from numlstm.bench.hardware.machine import in_words
from numlstm.bench.results import LEVELS, OURS, Report, Result, pooled
from numlstm.bench.scaling import AT_MOST, exponents

NAMED = 10  # most workloads that a note names; if there are more, it has their number


def number(value: float) -> str:
    """Three digits, or more if the integer part has more.

    Examples
    --------
    >>> [number(value) for value in (0.98765, 13.6, 590.4, 10971.7)]
    ['0.988', '13.6', '590', '10,972']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def percent(fraction: float) -> str:
    """Two digits below ten.

    Examples
    --------
    >>> [percent(fraction) for fraction in (0.0027, 0.053, 0.854, 1.0)]
    ['0.27 %', '5.3 %', '85 %', '100 %']
    """
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.2g} %"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns, the first one left and the others right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(w) if at == 0 else cell.rjust(w) for at, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if at == 0 else "-" * (w + 1) + ":" for at, w in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def text(report: Report) -> str:
    """The whole report."""
    parts = [heading(report)]
    for threads, results in report.by_threads():
        alone = {} if threads == 1 else {r.workload.name: one for r in results if (one := report.of_one_thread(r))}
        summaries = [geometric_mean(results)]
        if report.kind == "sweep":
            results = by_speed_up(results)
            summaries.append(below(results))
        if report.kind == "scaling":
            summaries.append(growth(results))
        parts += [limits(threads, results), table(results, report.machine["caches"], alone)]
        parts += [summary for summary in (*summaries, notes(results)) if summary]
    return "\n\n".join(parts)


def growth(results: Sequence[Result]) -> str:
    """The exponents with which numlstm's time grows."""
    found = [f"{axis} {exponent:.2f} (at most {AT_MOST[axis]})" for axis, exponent in exponents(results, OURS).items()]
    return f"{OURS}'s time grows with these exponents: {', '.join(found)}." if found else ""


def by_speed_up(results: Sequence[Result]) -> list[Result]:
    """Sorted by speed-up over the best baseline; results without one come last."""
    return sorted(results, key=lambda result: math.inf if (lead := result.lead()) is None else lead)


def below(results: Sequence[Result]) -> str:
    """The workloads below 1.0. If their fastest rounds are above, other processes disturbed the run."""
    compared = [(result, lead) for result in results if (lead := result.lead()) is not None]
    slow = [
        f"- {result.workload.name}: {lead:.3f} (fastest rounds {result.of_fastest():.3f})"
        for result, lead in compared
        if lead < 1
    ]
    if not slow:
        return f"Below 1.0: none of {len(compared)} configurations." if compared else ""
    return "\n".join([f"Below 1.0: {len(slow)} of {len(compared)} configurations:", *slow])


def heading(report: Report) -> str:
    """The machine, the date and the versions."""
    machine = report.machine
    cpu = f"{machine['cpu']} ({machine['cpu_model']})" if machine["cpu_model"] else machine["cpu"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = "" if machine["load"] is None else f", load average {machine['load']:.1f} before"
    style = "buffers kept" if any(result.style == "reuse" for result in report.results) else "new arrays at every call"
    return (
        f"{cpu}, {counted(machine['cores'], 'core')}, {in_words(machine['caches'])}\n"
        f"{machine['system']}, Python {machine['python']}\n{versions}\n"
        f"{report.date}{load}, {counted(report.rounds, 'round')}, {style}; "
        "microseconds a call: median over rounds (fastest round)"
    )


def limits(threads: int, results: Sequence[Result]) -> str:
    """The limits of the machine, medians over all rounds of all workloads."""
    every = pooled(results)
    peaks = [
        f"{dtype} " + ", ".join(f"{number(every.limit(f'fma_{dtype}_{w}'))} at {w} bits" for w in every.widths(dtype))
        for dtype in ("float32", "float64")
    ]
    reads = [f"{level} {number(every.limit(f'read_{level}'))}" for level in LEVELS]
    title = f"{threads} thread" + ("" if threads == 1 else "s")
    return f"{title}. FMA peak in GF/s: {'; '.join(peaks)}. Reading in GB/s: {', '.join(reads)}."


def table(results: Sequence[Result], caches: dict[str, int], alone: Mapping[str, Result] | None = None) -> str:
    """A row for each workload.

    `alone` has the results of the same run on one thread by name of the workload. If there are any, a last column has
    numlstm's speed-up over one thread.
    """
    engines = [name for name in results[0].entries if any(name in result.measured for result in results)]
    head = ["workload", *engines, "fastest baseline", "speed-up", "of medians", "GF/s", "of FMA peak", "of its limit"]
    rows = [_row(result, engines, caches) for result in results]
    if alone:
        head.append("over 1 thread")
        rows = [[*row, _over(result, alone)] for row, result in zip(rows, results, strict=True)]
    return markdown(head, rows)


def _over(result: Result, alone: Mapping[str, Result]) -> str:
    one = alone.get(result.workload.name)
    if one is None or OURS not in one.measured or OURS not in result.measured:
        return "-"
    return f"{one.median(OURS) / result.median(OURS):.2f}"


def _row(result: Result, engines: Sequence[str], caches: dict[str, int]) -> list[str]:
    row = [result.workload.name]
    for name in engines:
        if name in result.measured:
            row.append(f"{number(result.median(name))} ({number(float(result.microseconds(name).min()))})")
        else:
            row.append("left out")
    best = result.best_baseline()
    row.append(best or "-")
    if OURS not in result.measured:
        return [*row, "-", "-", "-", "-", "-"]
    row += [f"{ratio:.2f}" for ratio in result.speed_up(best)] if best else ["-", "-"]
    limit, allowed = result.bound(caches)
    ours = result.median(OURS)
    of_peak, of_limit = (percent(part) for part in (result.rate(OURS) / result.peak(), allowed / ours))
    return [*row, number(result.rate(OURS)), of_peak, f"{of_limit} of {limit}"]


def geometric_mean(results: Sequence[Result]) -> str:
    """Of the speed-ups over the best baseline, if there are several."""
    compared = [lead for result in results if (lead := result.lead()) is not None]
    if len(compared) < 2:
        return ""
    mean = math.exp(sum(map(math.log, compared)) / len(compared))
    return f"Geometric mean of the speed-ups over {counted(len(compared), 'workload')}: {mean:.2f}."


def notes(results: Sequence[Result]) -> str:
    """For each engine the fastest settings, why it was left out, and where its threads did not go to sleep."""
    lines = []
    for name in results[0].entries:
        settings: dict[str, list[str]] = {}
        reasons: dict[str, list[str]] = {}
        for result in results:
            entry = result.entries[name]
            kind, key = (reasons, entry.left_out) if entry.left_out else (settings, entry.setting)
            kind.setdefault(key, []).append(result.workload.name)
        restless = [
            result.workload.name for result in results if not all(t.idle for t in result.turns if t.engine == name)
        ]
        said = [f"{setting}{_where(where, results, settings)}" for setting, where in settings.items()]
        said += [f"left out{_where(where, results, reasons)}: {reason}" for reason, where in reasons.items()]
        if restless:
            where = _these(restless, results)
            said.append(f"still used the CPU a second after its turn{where}: do not trust its times")
        lines.append(f"- {name}: {'; '.join(said)}")
    return "\n".join(lines)


def _where(names: Sequence[str], results: Sequence[Result], kinds: Sized) -> str:
    """The workloads of a note, unless it is about all of them."""
    if len(names) == len(results) and len(kinds) == 1:
        return ""
    return _these(names, results)


def _these(names: Sequence[str], results: Sequence[Result]) -> str:
    if len(names) <= NAMED:
        return f" ({', '.join(names)})"
    return f" ({len(names)} of {counted(len(results), 'workload')})"
