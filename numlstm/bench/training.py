"""Forward and backward pass: numlstm and the frameworks that train on a CPU, in turns.

Each engine's gradients are first compared with those of the reference in float64. All engines share a process, whose
number of threads is fixed when it starts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

from numlstm import reference
from numlstm.base.typing import Array
from numlstm.bench import measure, sweep, table
from numlstm.bench.engines.task import LeftOutError
from numlstm.bench.engines.training import BASELINES, ENGINES, Passes, Task, own_model, packed
from numlstm.bench.grid import Workload, find
from numlstm.bench.hardware import machine
from numlstm.bench.hardware.clock import settle
from numlstm.bench.results import OURS
from numlstm.sequences.packing import pack_padded_sequence

__all__ = ["BASELINES", "WORKLOADS", "Training", "configurations", "failures", "measured", "run", "text"]

TOLERANCE = {"float32": 1e-4, "float64": 1e-11}  # of the largest entry of a gradient
FORWARD, INFERENCE = "vjp", "inference"  # turns of numlstm: the first pass alone, and a call that keeps nothing
SWEEP_FMAS = 500_000_000  # of a forward pass; that back takes twice as many


@dataclass(frozen=True)
class Training(Workload):
    """A workload whose sequences may be packed: of a quarter of the steps to all of them."""

    packed: bool = False

    @classmethod
    def parse(cls, text: str, dtype: str = "float32") -> Training:
        """A workload from ``I,H,L,D,T,B`` as `Workload.parse` reads it; the word ``packed`` may follow.

        Examples
        --------
        >>> Training.parse("40,64,1,1,400,16,packed").packed
        True
        """
        words = text.split(",")
        sizes = Workload.parse(",".join(word for word in words if word != "packed"), dtype)
        return of(sizes.named(text), "packed" in words)

    def data(self) -> tuple[Array, Array, Array | None]:
        """Input, gradient of the output, and lengths if they are packed; the same in every call."""
        random, config = np.random.default_rng(2), self.config
        x = self.inputs()[0]
        d_output = random.standard_normal((*x.shape[:2], self.directions * config.output_size)).astype(self.dtype)
        if not self.packed:
            return x, d_output, None
        lengths = np.sort(random.integers(self.sequence_length // 4, self.sequence_length + 1, self.batch_size))[::-1]
        lengths = np.maximum(lengths, 1)
        lengths[0] = self.sequence_length
        return x, d_output, lengths

    def task(self, threads: int) -> Task:
        """What an engine is given."""
        return Task(self, threads, self.parameters(), *self.data())


def of(workload: Workload, packed: bool = False) -> Training:
    """The same workload for training."""
    if packed and workload.batch_first:
        raise ValueError(f"workload {workload.name!r} is packed and batch_first; packed sequences have the steps first")
    return Training(**asdict(workload), packed=packed)


WORKLOADS = {
    workload.name: workload
    for workload in (
        of(find("seed")),
        Training("amp", 1, 40, 1, 1, 2048, 8),
        of(find("forecast")),
        of(find("forecast").named("forecast, packed"), packed=True),
        Training("packed", 40, 64, 1, 1, 400, 16, packed=True),
        of(replace(find("tagger"), batch_size=16)),
        of(find("voice")),
        of(replace(find("lm"), sequence_length=32)),
    )
}


def configurations(count: int, seed: int = 0) -> list[Training]:
    """`count` random workloads, the same for the same arguments."""
    return [of(workload) for workload in sweep.configurations(count, seed, SWEEP_FMAS)]


# ------------------------------------------------------------ in the worker


def expected(task: Task) -> dict[str, Array]:
    """The gradients of the reference, in float64, by ``input`` and the names of parameters."""
    steps_first = (1, 0, 2) if task.workload.batch_first else (0, 1, 2)
    x, d_output = task.input.transpose(steps_first), task.d_output.transpose(steps_first)
    _, backward = reference.vjp(task.parameters, x, lengths=task.lengths, dtype=np.float64)
    d_input, _, parameters = backward(d_output)
    of_input = d_input.transpose(steps_first)
    if task.lengths is not None:
        of_input = pack_padded_sequence(of_input, task.lengths).data
    return {"input": of_input, **parameters}


def error(found: Mapping[str, Array], wanted: Mapping[str, Array], dtype: str) -> float:
    """The largest error of a gradient, as a part of its largest entry.

    Raises
    ------
    LeftOutError
        It is larger than rounding explains.
    """
    worst = 0.0
    for name, want in wanted.items():
        got = found.get(name)
        if got is None or got.shape != want.shape or got.dtype != dtype:
            what = "missing" if got is None else f"{got.dtype} {got.shape}"
            raise LeftOutError(f"wrong result: the gradient of {name} is {what}; it must be {dtype} {want.shape}")
        of_this = float(np.abs(got - want).max() / max(np.abs(want).max(), np.finfo(dtype).tiny))
        if not of_this <= TOLERANCE[dtype]:  # nor NaN
            raise LeftOutError(
                f"wrong result: the gradient of {name} differs from the reference by up to {of_this:.2g} of its "
                f"largest entry; at most {TOLERANCE[dtype]:.0e} is rounding"
            )
        worst = max(worst, of_this)
    return worst


class Turns:
    """A call that takes turns: as many calls as take some time, timed together."""

    def __init__(
        self, call: Callable[[], Any], context: Callable[[], AbstractContextManager[Any]], seconds: float
    ) -> None:
        self.call, self.context = call, context
        with context():
            call()
            paces = [self._seconds(1) for _ in range(2)]
        self.pace = min(paces)
        self.calls = max(1, int(seconds / self.pace))

    def _seconds(self, calls: int) -> float:
        start = time.perf_counter_ns()
        for _ in repeat(None, calls):
            self.call()
        return (time.perf_counter_ns() - start) / 1e9

    def take(self) -> float:
        """Milliseconds of a call."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            with self.context():
                if self.calls > 1:
                    self.call()  # not timed: wakes the threads and brings the weights back into the caches
                return self._seconds(self.calls) / self.calls * 1e3
        finally:
            if collecting:
                gc.enable()
            settle(0.2)


def prepared(task: Task, passes: Mapping[str, Passes], wanted: Mapping[str, Array], seconds: float) -> Turns:
    """The fastest setting of an engine, after a check of the gradients of each.

    Raises
    ------
    LeftOutError
        A gradient is wrong.
    """
    ready = []
    for each in passes.values():
        with each.context():
            error(each.gradients(each.call()), wanted, task.workload.dtype)
        ready.append(Turns(each.call, each.context, seconds))
    return min(ready, key=lambda turns: turns.pace)


def measured(
    workload: Training,
    names: Sequence[str],
    threads: int,
    rounds: int,
    seconds: float,
    engines: Mapping[str, Callable[[Task], dict[str, Passes]]] = ENGINES,
) -> dict[str, Any]:
    """Milliseconds of every engine in every round, and why an engine was left out.

    The engines take turns, and each round begins with the next one.
    """
    task = workload.task(threads)
    wanted, turns, left_out = expected(task), {}, {}
    for name in names:
        try:
            turns[name] = prepared(task, engines[name](task), wanted, seconds)
        except LeftOutError as reason:
            left_out[name] = str(reason)
        except Exception as error:
            left_out[name] = f"it failed with {type(error).__name__}: {str(error).strip() or 'no message'}"
    if OURS in turns:
        lstm, (x, _) = own_model(task), packed(task)
        turns[FORWARD] = Turns(lambda: lstm.vjp(x), nullcontext, seconds)
        turns[INFERENCE] = Turns(lambda: lstm(x), nullcontext, seconds)
    times: dict[str, list[float]] = {name: [0.0] * rounds for name in turns}
    for number, name in measure.schedule(list(turns), rounds) if turns else ():
        times[name][number] = turns[name].take()
    return {"times": times, "left_out": left_out}


# ------------------------------------------------------------ the report


@dataclass(frozen=True)
class Times:
    """What was measured of a workload at a number of threads: milliseconds in every round by name."""

    workload: Training
    threads: int
    times: dict[str, list[float]]
    left_out: dict[str, str]

    def median(self, name: str) -> float:
        """Milliseconds over the rounds."""
        return float(np.median(self.times[name]))

    def ratio(self, name: str, over: str) -> float:
        """How many times as long one takes as the other: the median of the rounds' ratios."""
        return float(np.median(np.array(self.times[name]) / np.array(self.times[over])))


def run(
    workloads: Sequence[Training],
    baselines: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    seconds: float,
    progress: measure.Progress,
) -> list[Times]:
    """Measure workloads in a process for each number of threads."""
    found = []
    for count in threads:
        with measure.Worker("all engines", count) as worker:
            for workload in workloads:
                progress(f"{workload.name}, {count} thread{'s' * (count > 1)}")
                asked = {"workload": asdict(workload), "engines": [OURS, *baselines]}
                found.append(Times(workload, count, **worker.ask(do="train", rounds=rounds, seconds=seconds, **asked)))
    return found


def text(found: Sequence[Times], baselines: Sequence[str], rounds: int) -> str:
    """The tables, and what was left out."""
    facts = machine.facts()
    lines = [
        f"{facts['cpu']} ({facts['cpu_model']}), {facts['system']}",
        ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        f"forward and backward pass, milliseconds: medians of {rounds} rounds; ratios are medians of each round's",
    ]
    shown = [name for name in baselines if any(name in each.times for each in found)]
    for threads in dict.fromkeys(each.threads for each in found):
        of_these = [each for each in found if each.threads == threads]
        head = ["workload", OURS, *shown, *(f"over {name}" for name in shown), "vjp over inference"]
        alone = {each.workload: each for each in found if each.threads == 1} if threads > 1 else {}
        rows = [_row(each, shown, alone) for each in of_these]
        title = f"{threads} thread" + ("" if threads == 1 else "s")
        lines += ["", title, "", table.markdown([*head, "over 1 thread"] if alone else head, rows)]
        for name in shown:
            ratios = {e.workload.name: e.ratio(name, OURS) for e in of_these if name in e.times and OURS in e.times}
            slow = [f"{workload} {ratio:.2f}" for workload, ratio in ratios.items() if ratio < 1]
            lines += ["", f"Below 1.0 over {name}: {', '.join(slow) or 'none'} of {len(ratios)}."]
    reasons: dict[str, list[str]] = {}
    for each in found:
        for name, reason in each.left_out.items():
            reasons.setdefault(f"{name}: left out: {reason}", []).append(each.workload.name)
    lines += ["", *(f"- {reason} ({len(names)} of {len(found)})" for reason, names in reasons.items())]
    return "\n".join(lines).rstrip()


def _row(each: Times, shown: Sequence[str], alone: Mapping[Training, Times]) -> list[str]:
    def cell(name: str, over: str | None = None) -> str:
        if name not in each.times or (over and over not in each.times):
            return "-"
        return f"{each.ratio(name, over):.2f}" if over else table.number(each.median(name))

    row = [each.workload.name, cell(OURS), *map(cell, shown), *(cell(name, OURS) for name in shown)]
    row.append(cell(FORWARD, INFERENCE))
    if alone:
        one = alone.get(each.workload)
        row.append(
            f"{one.median(OURS) / each.median(OURS):.2f}" if one and OURS in one.times and OURS in each.times else "-"
        )
    return row


def failures(found: Sequence[Times]) -> list[str]:
    """Where numlstm itself is wrong or fails."""
    return [f"{OURS} on {each.workload.name}: {each.left_out[OURS]}" for each in found if OURS in each.left_out]
