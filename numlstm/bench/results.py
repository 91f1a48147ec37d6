"""What a run measured, kept raw, and the figures that follow from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from numlstm.base.typing import Array

from .grid import Line

FORMAT = "numlstm-bench"
VERSION = 1
MACHINE = "machine"  # whose turn it is when the limits are measured
OURS = "numlstm"
FACTS = ("cpu", "cpu_model", "cores", "caches", "load", "system", "python", "versions")  # of the machine, that are told
LEVELS = ("L1", "L2", "L3", "memory")


@dataclass(frozen=True)
class Turn:
    """One engine's turn in one round. The order of a list of turns is the order in which they were taken."""

    round: int
    engine: str
    calls: int
    nanoseconds: int
    idle: bool = True  # whether all its threads slept before the next turn began

    @property
    def microseconds(self) -> float:
        """Of one call."""
        return self.nanoseconds / self.calls / 1e3


@dataclass(frozen=True)
class Entry:
    """How an engine took part in a line, or why it did not."""

    setting: str = ""
    max_error: float = 0.0
    left_out: str = ""


@dataclass
class LineResult:
    """Everything about one line at one number of threads."""

    line: Line
    threads: int
    style: str
    entries: dict[str, Entry] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    limits: list[dict[str, float]] = field(default_factory=list)  # one a round

    @property
    def measured(self) -> list[str]:
        """Engines that took part."""
        return [name for name, entry in self.entries.items() if not entry.left_out]

    def microseconds(self, engine: str) -> Array:
        """One figure a round, in order of rounds."""
        turns = sorted((turn for turn in self.turns if turn.engine == engine), key=lambda turn: turn.round)
        return np.array([turn.microseconds for turn in turns])

    def median(self, engine: str) -> float:
        """Microseconds of a call: the median over rounds."""
        return float(np.median(self.microseconds(engine)))

    def best_peer(self) -> str | None:
        """The peer with the lowest median."""
        peers = [name for name in self.measured if name != OURS]
        return min(peers, key=self.median, default=None)

    def speed_up(self, peer: str) -> tuple[float, float]:
        """How many times faster than a peer: the median of the rounds' ratios, and the ratio of the medians."""
        ours, theirs = self.microseconds(OURS), self.microseconds(peer)
        return float(np.median(theirs / ours)), float(np.median(theirs) / np.median(ours))

    def lead(self) -> float | None:
        """The speed-up over the best peer, median of the rounds' ratios; None without numlstm or without a peer."""
        best = self.best_peer()
        return self.speed_up(best)[0] if best and OURS in self.measured else None

    def of_fastest(self) -> float:
        """The fastest round of any peer over numlstm's."""
        peers = (self.microseconds(name).min() for name in self.measured if name != OURS)
        return float(min(peers) / self.microseconds(OURS).min())

    def rate(self, engine: str) -> float:
        """GF/s, a multiply-add counted as two."""
        return 2e-3 * self.line.fmas / self.median(engine)

    def limit(self, name: str) -> float:
        """A limit of the machine: the median over rounds."""
        return float(np.median([limits[name] for limits in self.limits]))

    def widths(self, dtype: str) -> list[int]:
        """Register widths in bits whose peak was measured, widest first."""
        names = self.limits[0] if self.limits else {}
        return sorted((int(n.rsplit("_", 1)[1]) for n in names if n.startswith(f"fma_{dtype}_")), reverse=True)

    def peak(self) -> float:
        """FMA peak in GF/s for the line's dtype, of the register width that gave most."""
        return self.peak_of(self.line.dtype)

    def peak_of(self, dtype: str) -> float:
        """FMA peak in GF/s for a dtype."""
        return max(self.limit(f"fma_{dtype}_{width}") for width in self.widths(dtype))

    def bound(self, caches: dict[str, int]) -> tuple[str, float]:
        """What limits this line on this machine, and the microseconds that this limit allows.

        Either the FMA peak, or the bandwidth of the smallest cache that holds the weights which are needed again
        and again: one cell's recurrent weights at every step, or all weights at every call of a single step.
        """
        line = self.line
        needs = {"FMA peak": 2e-3 * line.fmas / self.peak()}
        level = next((level for level, size in caches.items() if line.held_bytes <= size), "memory")
        needs[level] = 1e-3 * line.bytes_read / self.limit(f"read_{level}")
        name = max(needs, key=needs.__getitem__)
        return name, needs[name]


def pooled(results: Sequence[LineResult]) -> LineResult:
    """A result that holds the limits of all rounds of all lines, and nothing else."""
    first = results[0]
    return LineResult(first.line, first.threads, first.style, limits=[each for r in results for each in r.limits])


@dataclass
class Report:
    """A run: the machine, when, how, and one result a line and number of threads.

    `kind` says what the lines are: ``"lines"`` of the grid or of one's own, a ``"sweep"`` of random ones, or
    ``"scaling"``, sizes that double.
    """

    machine: dict[str, Any]
    date: str
    rounds: int
    results: list[LineResult] = field(default_factory=list)
    kind: str = "lines"

    def of_one_thread(self, result: LineResult) -> LineResult | None:
        """The same line on one thread in this run."""
        same = (r for r in self.results if r.threads == 1 and r.line == result.line and r.style == result.style)
        return next(same, None)

    def by_threads(self) -> list[tuple[int, list[LineResult]]]:
        """Results grouped by number of threads, in the order of the run."""
        return [(threads, list(group)) for threads, group in groupby(self.results, key=lambda r: r.threads)]

    def to_json(self) -> str:
        """As text; `from_json` gives an equal report."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            For a text that is something else, of a later version, or not whole.
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
                LineResult(
                    line=Line(**result.pop("line")),
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
    """Raise where what figures are made of is missing: facts of the machine, turns, limits of the machine."""
    if missing := [fact for fact in FACTS if fact not in report.machine]:
        raise ValueError(f"the machine's {missing[0]} is missing")
    for result in report.results:
        for name in result.measured:
            turns = [turn for turn in result.turns if turn.engine == name]
            if not turns or any(min(turn.calls, turn.nanoseconds) < 1 for turn in turns):
                raise ValueError(f"turns of {name} on line {result.line.name!r} are missing, or without a call")
        if result.measured and not (result.limits and result.widths(result.line.dtype)):
            raise ValueError(f"limits of the machine at line {result.line.name!r} are missing")
        for level in LEVELS if result.measured else ():
            result.limit(f"read_{level}")
