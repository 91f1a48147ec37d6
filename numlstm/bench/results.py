"""The raw samples of a run, and the figures computed from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from numlstm.base.typing import Array

from .grid import Workload

FORMAT = "numlstm-bench"
VERSION = 1
MACHINE = "machine"  # takes the turns in which the limits are measured
OURS = "numlstm"
FACTS = ("cpu", "cpu_model", "cores", "caches", "load", "system", "python", "versions")  # of the machine, in a report
LEVELS = ("L1", "L2", "L3", "memory")


@dataclass(frozen=True)
class Turn:
    """One engine's turn in one round. The order of a list of turns is the order in which they were taken."""

    round: int
    engine: str
    calls: int
    nanoseconds: int
    idle: bool = True  # whether its threads were asleep before the next turn began

    @property
    def microseconds(self) -> float:
        """Of one call."""
        return self.nanoseconds / self.calls / 1e3


@dataclass(frozen=True)
class Entry:
    """How an engine was measured on a workload, or why it was not."""

    setting: str = ""
    max_error: float = 0.0
    left_out: str = ""


@dataclass
class Result:
    """The measurements of one workload at one number of threads."""

    workload: Workload
    threads: int
    style: str
    entries: dict[str, Entry] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    limits: list[dict[str, float]] = field(default_factory=list)  # a dict for each round

    @property
    def measured(self) -> list[str]:
        """Engines that were measured."""
        return [name for name, entry in self.entries.items() if not entry.left_out]

    def microseconds(self, engine: str) -> Array:
        """Of a call in each round."""
        turns = sorted((turn for turn in self.turns if turn.engine == engine), key=lambda turn: turn.round)
        return np.array([turn.microseconds for turn in turns])

    def median(self, engine: str) -> float:
        """Microseconds of a call: the median over rounds."""
        return float(np.median(self.microseconds(engine)))

    def best_baseline(self) -> str | None:
        """The baseline with the lowest median."""
        baselines = [name for name in self.measured if name != OURS]
        return min(baselines, key=self.median, default=None)

    def speed_up(self, baseline: str) -> tuple[float, float]:
        """numlstm's over a baseline: the median of the rounds' ratios, and the ratio of the medians."""
        ours, theirs = self.microseconds(OURS), self.microseconds(baseline)
        return float(np.median(theirs / ours)), float(np.median(theirs) / np.median(ours))

    def lead(self) -> float | None:
        """The speed-up over the best baseline; None if numlstm or every baseline was left out."""
        best = self.best_baseline()
        return self.speed_up(best)[0] if best and OURS in self.measured else None

    def of_fastest(self) -> float:
        """Speed-up by the fastest rounds of all baselines and of numlstm."""
        baselines = (self.microseconds(name).min() for name in self.measured if name != OURS)
        return float(min(baselines) / self.microseconds(OURS).min())

    def rate(self, engine: str) -> float:
        """GF/s, a multiply-add counted as two."""
        return 2e-3 * self.workload.fmas / self.median(engine)

    def limit(self, name: str) -> float:
        """A limit of the machine: the median over rounds."""
        return float(np.median([limits[name] for limits in self.limits]))

    def widths(self, dtype: str) -> list[int]:
        """Register widths in bits whose peak was measured, widest first."""
        names = self.limits[0] if self.limits else {}
        return sorted((int(n.rsplit("_", 1)[1]) for n in names if n.startswith(f"fma_{dtype}_")), reverse=True)

    def peak(self) -> float:
        """FMA peak in GF/s for the workload's dtype, of the fastest register width."""
        return self.peak_of(self.workload.dtype)

    def peak_of(self, dtype: str) -> float:
        """FMA peak in GF/s for a dtype."""
        return max(self.limit(f"fma_{dtype}_{width}") for width in self.widths(dtype))

    def bound(self, caches: dict[str, int]) -> tuple[str, float]:
        """The limit of this workload on this machine, and the microseconds of a call at that limit.

        Either the FMA peak, or the bandwidth of the smallest cache that holds the weights that are read repeatedly:
        the recurrent weights of one cell, or all weights if a call is one step.
        """
        workload = self.workload
        needs = {"FMA peak": 2e-3 * workload.fmas / self.peak()}
        level = next((level for level, size in caches.items() if workload.held_bytes <= size), "memory")
        needs[level] = 1e-3 * workload.bytes_read / self.limit(f"read_{level}")
        name = max(needs, key=needs.__getitem__)
        return name, needs[name]


def pooled(results: Sequence[Result]) -> Result:
    """A result with the limits of all rounds of all workloads, and nothing else."""
    first = results[0]
    return Result(first.workload, first.threads, first.style, limits=[each for r in results for each in r.limits])


@dataclass
class Report:
    """A run: machine, date, rounds, and a result for each workload and number of threads.

    `kind` is ``"workloads"`` for the grid or the user's own, ``"sweep"`` for random workloads, ``"scaling"`` for sizes
    that double.
    """

    machine: dict[str, Any]
    date: str
    rounds: int
    results: list[Result] = field(default_factory=list)
    kind: str = "workloads"

    def of_one_thread(self, result: Result) -> Result | None:
        """The same workload on one thread in this run."""
        same = (r for r in self.results if r.threads == 1 and r.workload == result.workload and r.style == result.style)
        return next(same, None)

    def by_threads(self) -> list[tuple[int, list[Result]]]:
        """Results grouped by number of threads, in the order of the run."""
        return [(threads, list(group)) for threads, group in groupby(self.results, key=lambda r: r.threads)]

    def to_json(self) -> str:
        """A text from which `from_json` makes an equal report."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read the text of `to_json`, also with the names of earlier versions.

        Raises
        ------
        ValueError
            The text is something else, of a later version, or not complete.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is not a file of results: it is not JSON ({error})") from None
        if not isinstance(data, dict) or (data.pop("format", None), data.pop("version", None)) != (FORMAT, VERSION):
            raise ValueError(
                f'this is not a file of results: it must be an object with "format": "{FORMAT}" and "version": '
                f"{VERSION}, as `numlstm bench --save` writes it"
            )
        try:
            results = [
                Result(
                    workload=Workload(**(result.pop("line", None) or result.pop("workload"))),
                    entries={name: Entry(**entry) for name, entry in result.pop("entries").items()},
                    turns=[Turn(**turn) for turn in result.pop("turns")],
                    **result,
                )
                for result in data.pop("results")
            ]
            report = cls(results=results, **data)
            _whole(report)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"this is not a whole file of results: {type(error).__name__}: {error}, where all that "
                "`numlstm bench --save` writes is expected"
            ) from None
        return report


def _whole(report: Report) -> None:
    """Raise if something that the figures need is missing: facts of the machine, turns, limits."""
    if missing := [fact for fact in FACTS if fact not in report.machine]:
        raise ValueError(f"the machine's {missing[0]} is missing")
    for result in report.results:
        for name in result.measured:
            turns = [turn for turn in result.turns if turn.engine == name]
            if not turns or any(min(turn.calls, turn.nanoseconds) < 1 for turn in turns):
                raise ValueError(f"turns of {name} on workload {result.workload.name!r} are missing, or without a call")
        if result.measured and not (result.limits and result.widths(result.workload.dtype)):
            raise ValueError(f"limits of the machine at workload {result.workload.name!r} are missing")
        for level in LEVELS if result.measured else ():
            result.limit(f"read_{level}")
