"""The process in which engines run: it prepares them, checks their results, and takes their turns.

    python -m numlstm.bench.worker THREADS

reads requests, one JSON object a line, and answers each with a line. `measure` starts it with the environment variables
that set the number of threads, which engines read when they are imported.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from itertools import repeat
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.engines import ENGINES, Engine, LeftOutError, Setting, Task, results
from numlstm.bench.grid import Workload
from numlstm.bench.hardware.clock import settle
from numlstm.reference import lstm as reference

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}  # far above rounding errors, far below the error of a wrong gate
RESULTS = ("output", "h_n", "c_n")


def deviation(workload: Workload, found: tuple[Array, ...], expected: tuple[Array, ...]) -> float:
    """The largest error of a call's results.

    Raises
    ------
    LeftOutError
        The error is larger than rounding explains; the message says which result is wrong, and how.
    """
    worst = 0.0
    for name, got, want in zip(RESULTS, found, expected, strict=True):
        if not isinstance(got, np.ndarray) or got.shape != want.shape or got.dtype != workload.dtype:
            what = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else type(got).__name__
            raise LeftOutError(f"wrong result: {name} is {what}; it must be {workload.dtype} {want.shape}")
        error = float(np.max(np.abs(got - want)))
        if not error <= TOLERANCE[workload.dtype]:  # nor NaN
            raise LeftOutError(
                f"wrong result: {name} differs from the reference by up to {error:.2g}; "
                f"at most {TOLERANCE[workload.dtype]:.0e} is rounding"
            )
        worst = max(worst, error)
    return worst


class Prepared:
    """One engine, ready for its turns on one workload.

    It keeps the task alive: some engines hold only the addresses of its inputs.
    """

    def __init__(self, task: Task, expected: tuple[Array, ...], name: str, setting: Setting, seconds: float) -> None:
        self.task, self.expected, self.name, self.setting = task, expected, name, setting
        self.max_error = self.check()
        self.pace = self._warm(seconds)  # seconds a call
        self.calls = max(1, int(seconds / self.pace))

    def check(self) -> float:
        """The error of one call against the reference."""
        with self.setting.context():
            return deviation(self.task.workload, results(self.setting.call()), self.expected)

    def _warm(self, seconds: float) -> float:
        """Call for a while, so that everything is compiled, packed and allocated; seconds of the fastest call."""
        with self.setting.context():
            paces: list[float] = []
            begin = time.perf_counter()
            while len(paces) < 3 or time.perf_counter() - begin < seconds:
                start = time.perf_counter()
                self.setting.call()
                paces.append(time.perf_counter() - start)
        return min(paces[1:])

    def turn(self) -> tuple[int, int]:
        """Number of calls, and nanoseconds of all of them."""
        call, calls = self.setting.call, self.calls
        collecting = gc.isenabled()
        gc.disable()
        try:
            with self.setting.context():
                if calls > 1:
                    call()  # not timed: wakes the threads and brings the weights back into the caches
                start = time.perf_counter_ns()
                for _ in repeat(None, calls):
                    call()
                return calls, time.perf_counter_ns() - start
        finally:
            if collecting:
                gc.enable()


class Host:
    """Answers requests. ``engines`` is a parameter for tests, which plant their own."""

    def __init__(self, threads: int, engines: Mapping[str, Engine] = ENGINES) -> None:
        self.threads, self.engines = threads, engines
        self.prepared: dict[str, Prepared] = {}
        self.limits: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{"do": NAME, ...}`` is answered by the method ``do_NAME``."""
        reply: dict[str, Any] = getattr(self, f"do_{request.pop('do')}")(**request)
        return reply

    def do_expect(self, workload: dict[str, Any], path: str) -> dict[str, Any]:
        """Compute a workload with the reference in float64, and save its results."""
        asked = Workload(**workload)
        x, h_0, c_0 = asked.inputs()
        steps_first = x.swapaxes(0, 1) if asked.batch_first else x
        output, (h_n, c_n) = reference(asked.parameters(), steps_first, (h_0, c_0), dtype=np.float64)
        if asked.batch_first:
            output = output.swapaxes(0, 1)
        np.savez(path, output=output, h_n=h_n, c_n=c_n)
        return {}

    def do_prepare(
        self, engine: str, workload: dict[str, Any], style: str, path: str, seconds: float
    ) -> dict[str, Any]:
        """Check, warm up and time every setting of an engine, and keep the fastest."""
        asked = Workload(**workload)
        with np.load(path) as file:
            expected = tuple(file[name] for name in RESULTS)
        self.prepared.pop(engine, None)
        gc.collect()
        try:
            task = Task(asked, self.threads, style, asked.parameters(), asked.inputs())
            settings = self.engines[engine](task)
            ready = [Prepared(task, expected, name, setting, seconds) for name, setting in settings.items()]
        except LeftOutError as reason:
            return {"left_out": str(reason)}
        except Exception as error:
            return {"left_out": f"it failed with {type(error).__name__}: {str(error).strip() or 'no message'}"}
        fastest = self.prepared[engine] = min(ready, key=lambda prepared: prepared.pace)
        return {"setting": fastest.name, "max_error": fastest.max_error}

    def do_turn(self, engine: str) -> dict[str, Any]:
        """Time an engine's calls; answer when the process is idle again."""
        calls, nanoseconds = self.prepared[engine].turn()
        return {"calls": calls, "nanoseconds": nanoseconds, "idle": settle()}

    def do_check(self, engine: str) -> dict[str, Any]:
        """Check the results once more after all rounds, and drop the engine."""
        try:
            self.prepared.pop(engine).check()
        except LeftOutError as reason:
            return {"left_out": f"{reason} (after the last round; they were right before the first)"}
        return {}

    def do_train(self, workload: dict[str, Any], engines: list[str], rounds: int, seconds: float) -> dict[str, Any]:
        """Measure forward and backward passes; see `training`."""
        from numlstm.bench import training

        return training.measured(training.Training(**workload), engines, self.threads, rounds, seconds)

    def do_limits(self, seconds: float) -> dict[str, Any]:
        """Measure the machine's limits."""
        if self.limits is None:
            from numlstm.bench.hardware.limits import Limits

            self.limits = Limits(self.threads, seconds)
        start = time.perf_counter_ns()
        limits = self.limits.sample()
        return {"limits": limits, "nanoseconds": time.perf_counter_ns() - start, "idle": settle()}


def main() -> None:
    """Answer requests until the input ends."""
    # engines may print to stdout: send that to stderr, and keep the pipe for the answers
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        host = Host(int(sys.argv[1]))
        for request in sys.stdin:
            try:
                reply = host.answer(json.loads(request))
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            answers.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
