"""Single steps of a stream: throughput, latency, silence after a loud signal, and a loop that Numba compiles."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.bench.costs.overhead import model
from numlstm.bench.engines import BASELINES, ENGINES, LeftOutError, Task
from numlstm.bench.grid import Workload, find
from numlstm.bench.hardware.clock import settle
from numlstm.bench.worker import Prepared
from numlstm.lstm import LSTM
from numlstm.reference import lstm as reference
from numlstm.sequences.stream import step_function

WORKLOADS = {
    workload.name: workload for workload in (find("amp_step"), Workload("H = 64", 64, 64, 1, 1, 1, 1), find("vad_step"))
}
STEP, CALL, FORWARD = "stream.step()", "stream(x)", "lstm(x, (h, c))"
FADING = (0.9, 0.998)  # part of c that a step without input keeps; an echo of seconds in audio is nearer to the second
BLOCK = 500  # steps that are timed together when two streams take turns


def ways(workload: Workload) -> dict[str, Callable[[], Any]]:
    """Every way to make a step with numlstm, by name. The streams keep their state from call to call."""
    lstm, (x, h_0, c_0) = model(workload), workload.inputs()
    live, called = (lstm.stream(workload.batch_size) for _ in range(2))
    step = x[0].copy()
    for stream in (live, called):
        stream.state = h_0, c_0
        stream.input[...] = step
    live.step()
    output, _ = lstm(x, (h_0, c_0))
    if not (np.array_equal(live.output, output[0]) and np.array_equal(called(step), output[0])):
        raise RuntimeError(f"a stream of workload {workload.name} and the LSTM itself give different results")
    return {STEP: live.step, CALL: partial(called, step), FORWARD: partial(lstm, x, (h_0, c_0))}


# ------------------------------------------------------------ compared with the baselines


@dataclass(frozen=True)
class StepTimes:
    """Microseconds of a step in every round by way or baseline; which baselines were left out, and why."""

    workload: str
    rounds: dict[str, list[float]]
    left_out: dict[str, str]

    @property
    def baselines(self) -> list[str]:
        """Baselines that were measured."""
        return [name for name in self.rounds if name in BASELINES]

    def median(self, name: str) -> float:
        """Over the rounds."""
        return float(np.median(self.rounds[name]))

    def ratio(self, way: str) -> float:
        """Speed-up of a way over the best baseline: the median of the rounds' ratios, NaN without a baseline."""
        if not self.baselines:
            return float("nan")
        best = np.min([self.rounds[name] for name in self.baselines], axis=0)
        return float(np.median(best / np.array(self.rounds[way])))


def step_times(
    workload: Workload, names: Sequence[str] = BASELINES, rounds: int = 15, seconds: float = 0.02, threads: int = 1
) -> StepTimes:
    """Time the ways and the baselines in turns, each baseline in its fastest setting, after a check of its results."""
    x, h_0, c_0 = inputs = workload.inputs()
    output, (h_n, c_n) = reference(workload.parameters(), x, (h_0, c_0), dtype=np.float64)
    turns: dict[str, Callable[[], float]] = {}
    left_out = {}
    for name, call in ways(workload).items():
        turns[name] = partial(_turn, call, _calls(call, seconds))
    for name in names:
        task = Task(workload, threads, "fresh", workload.parameters(), inputs)
        try:
            settings = ENGINES[name](task).items()
            ready = [Prepared(task, (output, h_n, c_n), setting, how, seconds) for setting, how in settings]
        except LeftOutError as reason:
            left_out[name] = str(reason)
            continue
        fastest = min(ready, key=lambda prepared: prepared.pace)
        turns[name] = partial(_turn, fastest.setting.call, fastest.calls, fastest.setting.context)
    figures: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            figures[name].append(turn())
            settle(0.2)
    return StepTimes(workload.name, figures, left_out)


def _calls(call: Callable[[], Any], seconds: float) -> int:
    """Number of calls that take about `seconds`, at least 100."""
    _turn(call, 100)
    return max(100, int(seconds * 1e6 / _turn(call, 100)))


def _turn(
    call: Callable[[], Any], calls: int, context: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> float:
    """Microseconds of a call, the mean of many that are timed together."""
    with _no_collector(), context():
        call()
        start = time.perf_counter_ns()
        for _ in repeat(None, calls):
            call()
        return (time.perf_counter_ns() - start) / calls / 1e3


class _no_collector:
    """Without the garbage collector."""

    def __enter__(self) -> None:
        self.was = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.was:
            gc.enable()


# ------------------------------------------------------------ one by one


@dataclass(frozen=True)
class Latency:
    """Microseconds of single steps, including the reading of the clock (about 0.05)."""

    median: float
    p99: float
    most: float


def latency(call: Callable[[], Any], steps: int = 100_000) -> Latency:
    """Time many steps one by one."""
    times = np.empty(steps, np.int64)
    slots, clock = memoryview(times.data), time.perf_counter_ns  # NumPy is slow with single numbers
    with _no_collector():
        for _ in repeat(None, 1000):
            call()
        for n in range(steps):
            start = clock()
            call()
            slots[n] = clock() - start
    median, p99 = np.percentile(times, [50, 99]) / 1e3
    return Latency(float(median), float(p99), float(times.max()) / 1e3)


# ------------------------------------------------------------ after a loud signal


def fading(workload: Workload, keep: float) -> LSTM:
    """The workload's LSTM, changed so that a step without input keeps the part `keep` of c and adds little to it."""
    lstm = model(workload)
    parameters = lstm.state_dict()
    units = workload.hidden_size
    for name, array in parameters.items():
        if name.startswith("bias"):
            array[:] = 0
            array[units : 2 * units] = np.log(keep / (1 - keep)) / 2
        elif name.startswith("weight_hh"):
            array *= 0.3 * (1 - keep)
    lstm.load_state_dict(parameters)
    return lstm


def silence(workload: Workload, keep: float = 0.9, steps: int = 100_000) -> tuple[float, float]:
    """Time of zeros after a loud signal over time of noise: of all steps, and of the slowest tenth of the zeros.

    The states fade to 0 through subnormal numbers, for thousands of steps if forget gates ``keep`` 0.998. A CPU may
    take a hundred cycles for a product below the smallest normal number. Two streams take turns in blocks; the slowest
    hundredth of the blocks, in which the system did something else, does not count.
    """
    lstm = fading(workload, keep)
    noisy, silent = lstm.stream(workload.batch_size), lstm.stream(workload.batch_size)
    for stream in (noisy, silent):
        stream(np.full((200, workload.batch_size, workload.input_size), 30, workload.dtype))
    noisy.input[...] = workload.inputs()[0][0]
    silent.input[...] = 0
    blocks = [(_block(noisy.step), _block(silent.step)) for _ in range(max(1, steps // BLOCK))]
    usual, zeros = (np.sort(times)[: max(1, len(blocks) * 99 // 100)] for times in zip(*blocks, strict=True))
    return float(zeros.mean() / usual.mean()), float(np.percentile(zeros, 90) / np.median(usual))


def _block(step: Callable[[], Any]) -> int:
    with _no_collector():
        start = time.perf_counter_ns()
        for _ in repeat(None, BLOCK):
            step()
        return time.perf_counter_ns() - start


# ------------------------------------------------------------ inside Numba


def compiled_loop(dtype: str) -> Callable[[Array, Array, Array, Array, int], int]:
    """``loop(x, y, stream.input, stream.output, stream.address)``: steps without Python; 0 if there is no error."""
    import numba

    step = step_function(dtype)

    @numba.njit(nogil=True)
    def loop(x: Any, y: Any, live_input: Any, live_output: Any, address: Any) -> Any:
        for t in range(len(x)):
            live_input[:] = x[t]
            if step(address) != 0:
                return 1
            y[t] = live_output
        return 0

    run: Callable[[Array, Array, Array, Array, int], int] = loop
    return run


def loop_over_kernel(workload: Workload, steps: int = 20_000, rounds: int = 9) -> float:
    """Time of the compiled loop over that of one forward call for the same steps, median of the rounds' ratios."""
    lstm, loop = model(workload), compiled_loop(workload.dtype)
    stream = lstm.stream(workload.batch_size)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, workload.batch_size, workload.input_size)).astype(workload.dtype)
    y = np.empty((steps, workload.batch_size, workload.config.output_size), workload.dtype)
    given = (x, y, stream.input, stream.output, stream.address)
    out = (np.empty_like(y), *stream.state)
    loop(*given)
    lstm.forward(x, out=out)
    if not np.array_equal(y, out[0]):
        raise RuntimeError(f"the compiled loop over workload {workload.name} and one call give different results")
    return float(
        np.median(
            [_turn(partial(loop, *given), 1) / _turn(partial(lstm.forward, x, out=out), 1) for _ in range(rounds)]
        )
    )


# ------------------------------------------------------------ as text


def text(
    baselines: Sequence[str] = BASELINES, quick: bool = False, progress: Callable[[str], None] = lambda what: None
) -> str:
    """Measure all of it, and return the report. `progress` is told what is being done."""
    rounds, steps = (3, 5_000) if quick else (15, 100_000)
    written = []
    for name, workload in WORKLOADS.items():
        progress(f"{name}, {counted(rounds, 'round')} in turns")
        times = step_times(workload, baselines, rounds, 0.005 if quick else 0.02)
        calls = ways(workload)
        written += [f"{name} ({workload.sizes})"]
        for way in calls:
            progress(f"{name}, {steps:,} steps one by one: {way}")
            one = latency(calls[way], steps)
            faster = f"   {times.ratio(way):6.1f} times as fast as the fastest baseline" if times.baselines else ""
            written.append(
                f"  {way:16} {times.median(way):8.2f} us{faster}   "
                f"one by one: median {one.median:.2f}, p99 {one.p99:.2f}, most {one.most:.1f} us"
            )
        written += [f"  {baseline:16} {times.median(baseline):8.2f} us" for baseline in times.baselines]
        written += [f"  {baseline} is left out: {reason}" for baseline, reason in times.left_out.items()]
        for keep in FADING:
            progress(f"{name}, {steps:,} steps that fade by {keep}")
            total, slow = silence(workload, keep, steps)
            written.append(
                f"  zeros after a loud signal that fades by {keep} a step take {total:.2f} of a usual step, "
                f"{slow:.2f} in the slowest tenth"
            )
        progress(f"{name}, a loop in Numba")
        ratio = loop_over_kernel(workload, max(1000, steps // 5), rounds)
        written.append(f"  a loop in Numba takes {ratio:.2f} of one forward call over the same steps")
    return "\n".join(written)
