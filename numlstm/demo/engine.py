"""What the engine does with the demo's model: times compared with PyTorch, and bitwise equal results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench import engines
from numlstm.bench.grid import Workload
from numlstm.lstm import LSTM
from numlstm.runtime.threads import num_threads

ROWS = 64  # of the batch: enough for several threads
THREADS = (1, 2, 4)
CALLS, STEPS = 100, 1000  # timed


def shown(lstm: LSTM, x: Array) -> Iterator[str]:
    """Lines about times, PyTorch and bits.

    Parameters
    ----------
    lstm : LSTM
        In evaluation mode, one layer, steps first, float32.
    x : ndarray of float32, shape (steps, 1, features)
        A sequence.
    """
    steps = len(x)
    with num_threads(1):
        yield f"numlstm.{lstm}, {lstm.dtype}, one thread; medians"
        yield ""
        state = lstm(x)[1]
        own = {
            f"one call over {steps} steps": median_microseconds(lambda: lstm(x), CALLS),
            "one step, its state handed on": median_microseconds(lambda: lstm(x[-1:], state), STEPS),
        }
        try:
            theirs, largest = pytorch(lstm, x)
        except (
            engines.LeftOutError,
            ImportError,
            OSError,
        ) as error:  # OSError: its libraries, which the system refuses
            for what, time in own.items():
                yield f"{what:32}{time:9.1f} us"
            yield f"{'a step of that call':32}{own[f'one call over {steps} steps'] / steps:9.2f} us"
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield f"Not compared with PyTorch: {reason}."
        else:
            yield f"{'':32}{'numlstm':>12}{'PyTorch':>14}   {engines.package_version('torch')}"
            for (what, time), other in zip(own.items(), theirs, strict=True):
                yield f"{what:32}{time:9.1f} us{other:11.1f} us   {other / time:.1f} times as long"
            call, step = next(iter(own.values())) / steps, theirs[0] / steps
            yield f"{'a step of that call':32}{call:9.2f} us{step:11.2f} us"
            yield f"Largest difference between the two outputs: {largest:.1e}"
    yield ""
    yield from same_bits(lstm, x)
    yield ""


def pytorch(lstm: LSTM, x: Array) -> tuple[list[float], float]:
    """PyTorch's times of a call and of a step in its fastest setting, and the largest difference of its output.

    Raises
    ------
    LeftOutError, ImportError, OSError
        PyTorch is not installed, or cannot be imported.
    """
    _, states = lstm(x)
    zeros = np.zeros_like(states[0])
    times, largest = [], 0.0
    for given, hx, calls in ((x, (zeros, zeros), CALLS), (x[-1:], states, STEPS)):
        workload = Workload("demo", lstm.input_size, lstm.hidden_size, 1, 1, len(given), 1)
        task = engines.Task(workload, 1, "fresh", lstm.state_dict(), (given, *hx))
        expected = lstm(given, hx)[0]
        fastest = float("inf")
        for setting in engines.torch(task).values():
            with setting.context():
                output, _, _ = engines.results(setting.call())
                largest = max(largest, float(np.abs(output - expected).max()))
                fastest = min(fastest, median_microseconds(setting.call, calls))
        times.append(fastest)
    return times, largest


def same_bits(lstm: LSTM, x: Array) -> Iterator[str]:
    """Compute a sequence in several ways, and say whether all results have the same bits."""
    whole, _ = lstm(x)
    state, steps = None, []
    for t in range(len(x)):
        output, state = lstm(x[t : t + 1], state)
        steps.append(output)
    batch = np.concatenate([np.roll(x, row, axis=0) for row in range(ROWS)], axis=1)
    alone = np.concatenate([lstm(batch[:, row : row + 1])[0] for row in range(ROWS)], axis=1)
    by_threads = []
    for threads in THREADS:
        with num_threads(threads):
            by_threads.append(lstm(batch)[0])
    first, *others = by_threads
    yield f"{len(x)} single steps give {_verdict(whole, np.concatenate(steps))} the one call,"
    yield f"{ROWS} sequences in a batch give {_verdict(first, alone)} each of them alone,"
    yield f"{' and '.join(map(str, THREADS[1:]))} threads give {_verdict(first, *others)} one."


def _verdict(one: Array, *others: Array) -> str:
    same = all(np.array_equal(one.view(np.uint32), other.view(np.uint32)) for other in others)
    return "the same bits as" if same else "OTHER BITS THAN"


def median_microseconds(call: Callable[[], object], times: int) -> float:
    """Median duration of a call in microseconds, without the first call."""
    call()
    durations = []
    for _ in range(times):
        start = perf_counter()
        call()
        durations.append(perf_counter() - start)
    return median(durations) * 1e6
