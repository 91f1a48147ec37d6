"""Steps of a stream: beside the peers' calls, one by one, after a loud signal, and in a loop that Numba compiles."""

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
from numlstm.bench.grid import Line, find
from numlstm.bench.peers import ENGINES, PEERS, LeftOutError, Task
from numlstm.bench.worker import Prepared, settle
from numlstm.lstm import LSTM
from numlstm.reference import lstm as reference
from numlstm.sequences.stream import step_function

LINES = {line.name: line for line in (find("amp_step"), Line("H = 64", 64, 64, 1, 1, 1, 1), find("vad_step"))}
STEP, CALL, FORWARD = "stream.step()", "stream(x)", "lstm(x, (h, c))"
FADING = (0.9, 0.998)  # what a step without input keeps of c: an echo of seconds in audio is nearer to the second
BLOCK = 500  # steps that are timed together where two streams take turns


def ways(line: Line) -> dict[str, Callable[[], Any]]:
    """Every way in which numlstm makes a step, by name; the streams go on from call to call."""
    lstm, (x, h_0, c_0) = model(line), line.inputs()
    live, called = (lstm.stream(line.batch_size) for _ in range(2))
    step = x[0].copy()
    for stream in (live, called):
        stream.state = h_0, c_0
        stream.input[...] = step
    live.step()
    output, _ = lstm(x, (h_0, c_0))
    if not (np.array_equal(live.output, output[0]) and np.array_equal(called(step), output[0])):
        raise RuntimeError(f"a stream of line {line.name} and the LSTM itself give different results")
    return {STEP: live.step, CALL: partial(called, step), FORWARD: partial(lstm, x, (h_0, c_0))}


# ------------------------------------------------------------ beside the peers


@dataclass(frozen=True)
class Beside:
    """Microseconds of a step in every round, by the name of a way or a peer; peers that were left out, and why."""

    line: str
    rounds: dict[str, list[float]]
    left_out: dict[str, str]

    @property
    def peers(self) -> list[str]:
        """Those that took part."""
        return [name for name in self.rounds if name in PEERS]

    def median(self, name: str) -> float:
        """Of all rounds."""
        return float(np.median(self.rounds[name]))

    def ratio(self, way: str) -> float:
        """Time of the best peer over that of a way: the median of the rounds' ratios; NaN without a peer."""
        if not self.peers:
            return float("nan")
        best = np.min([self.rounds[name] for name in self.peers], axis=0)
        return float(np.median(best / np.array(self.rounds[way])))


def beside_peers(
    line: Line, names: Sequence[str] = PEERS, rounds: int = 15, seconds: float = 0.02, threads: int = 1
) -> Beside:
    """Let the ways and the peers take turns, each peer in its fastest setting, after its results were checked."""
    x, h_0, c_0 = inputs = line.inputs()
    output, (h_n, c_n) = reference(line.parameters(), x, (h_0, c_0), dtype=np.float64)
    turns: dict[str, Callable[[], float]] = {}
    left_out = {}
    for name, call in ways(line).items():
        turns[name] = partial(_turn, call, _calls(call, seconds))
    for name in names:
        task = Task(line, threads, "fresh", line.parameters(), inputs)
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
    return Beside(line.name, figures, left_out)


def _calls(call: Callable[[], Any], seconds: float) -> int:
    """How many calls fill the time, about; at least 100 are made to find out."""
    _turn(call, 100)
    return max(100, int(seconds * 1e6 / _turn(call, 100)))


def _turn(
    call: Callable[[], Any], calls: int, context: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> float:
    """Microseconds of one call, of many that are timed together."""
    with _no_collector(), context():
        call()
        start = time.perf_counter_ns()
        for _ in repeat(None, calls):
            call()
        return (time.perf_counter_ns() - start) / calls / 1e3


class _no_collector:
    """The collector sleeps meanwhile."""

    def __enter__(self) -> None:
        self.was = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.was:
            gc.enable()


# ------------------------------------------------------------ one by one


@dataclass(frozen=True)
class Latency:
    """Microseconds of single steps, the reading of the clock (some 0.05) included."""

    median: float
    p99: float
    most: float


def latency(call: Callable[[], Any], steps: int = 100_000) -> Latency:
    """Every one of many steps timed by itself."""
    times = np.empty(steps, np.int64)
    slots, clock = memoryview(times.data), time.perf_counter_ns  # NumPy takes its time with a single number
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


def fading(line: Line, keep: float) -> LSTM:
    """The line's LSTM with forget gates that keep so much of c at a step without input, and little that drives it."""
    lstm = model(line)
    parameters = lstm.state_dict()
    units = line.hidden_size
    for name, array in parameters.items():
        if name.startswith("bias"):
            array[:] = 0
            array[units : 2 * units] = np.log(keep / (1 - keep)) / 2
        elif name.startswith("weight_hh"):
            array *= 0.3 * (1 - keep)
    lstm.load_state_dict(parameters)
    return lstm


def silence(line: Line, keep: float = 0.9, steps: int = 100_000) -> tuple[float, float]:
    """Zeros after a loud signal over noise: the ratio of their times, and the slowest tenth of the zeros over noise.

    Two streams take turns in blocks, of which the slowest hundredth, where the system did something else, is left
    out. On the way to 0 the states pass through small numbers, thousands of steps long where forget gates ``keep``
    0.998. Products below the smallest normal number would take a CPU a hundred cycles each.
    """
    lstm = fading(line, keep)
    noisy, silent = lstm.stream(line.batch_size), lstm.stream(line.batch_size)
    for stream in (noisy, silent):
        stream(np.full((200, line.batch_size, line.input_size), 30, line.dtype))
    noisy.input[...] = line.inputs()[0][0]
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
    """``loop(x, y, stream.input, stream.output, stream.address)``: step by step, without Python; 0 if all went well."""
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


def loop_over_kernel(line: Line, steps: int = 20_000, rounds: int = 9) -> float:
    """Time of the compiled loop over that of one forward call for the same steps: the median of the rounds' ratios."""
    lstm, loop = model(line), compiled_loop(line.dtype)
    stream = lstm.stream(line.batch_size)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, line.batch_size, line.input_size)).astype(line.dtype)
    y = np.empty((steps, line.batch_size, line.config.output_size), line.dtype)
    given = (x, y, stream.input, stream.output, stream.address)
    out = (np.empty_like(y), *stream.state)
    loop(*given)
    lstm.forward(x, out=out)
    if not np.array_equal(y, out[0]):
        raise RuntimeError(f"the compiled loop over line {line.name} and one call give different results")
    return float(
        np.median(
            [_turn(partial(loop, *given), 1) / _turn(partial(lstm.forward, x, out=out), 1) for _ in range(rounds)]
        )
    )


# ------------------------------------------------------------ as text


def text(peers: Sequence[str] = PEERS, quick: bool = False, progress: Callable[[str], None] = lambda what: None) -> str:
    """All of it, measured now; what is measured is told to `progress`."""
    rounds, steps = (3, 5_000) if quick else (15, 100_000)
    written = []
    for name, line in LINES.items():
        progress(f"{name}, {counted(rounds, 'round')} in turns")
        beside = beside_peers(line, peers, rounds, 0.005 if quick else 0.02)
        calls = ways(line)
        written += [f"{name} ({line.sizes})"]
        for way in calls:
            progress(f"{name}, {steps:,} steps one by one: {way}")
            one = latency(calls[way], steps)
            faster = f"   {beside.ratio(way):6.1f} times as fast as the fastest baseline" if beside.peers else ""
            written.append(
                f"  {way:16} {beside.median(way):8.2f} us{faster}   "
                f"one by one: median {one.median:.2f}, p99 {one.p99:.2f}, most {one.most:.1f} us"
            )
        written += [f"  {peer:16} {beside.median(peer):8.2f} us" for peer in beside.peers]
        written += [f"  {peer} is left out: {reason}" for peer, reason in beside.left_out.items()]
        for keep in FADING:
            progress(f"{name}, {steps:,} steps that fade by {keep}")
            total, slow = silence(line, keep, steps)
            written.append(
                f"  zeros after a loud signal that fades by {keep} a step take {total:.2f} of a usual step, "
                f"{slow:.2f} in the slowest tenth"
            )
        progress(f"{name}, a loop in Numba")
        ratio = loop_over_kernel(line, max(1000, steps // 5), rounds)
        written.append(f"  a loop in Numba takes {ratio:.2f} of one forward call over the same steps")
    return "\n".join(written)
