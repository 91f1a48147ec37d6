"""Rounds in which every engine takes a turn, so that a machine that slows down slows all of them.

With one thread all engines share a process. With more, each has a process of its own, because their thread pools
disturb each other. Only one process works at a time: the next one begins when the last one no longer uses the CPU. The
limits of the machine are measured in every round too.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from numlstm.bench.grid import Workload
from numlstm.bench.hardware import machine
from numlstm.bench.results import MACHINE, OURS, Entry, Report, Result, Turn

log = logging.getLogger(__name__)
PATIENCE = 900.0  # seconds until a worker that does not answer is killed
Progress = Callable[[str], None]


class BenchError(RuntimeError):
    """A run that cannot continue; the message is for the user."""


class Answers(Protocol):
    """A worker, or what a test puts in its place."""

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer."""


class Worker:
    """A process in which engines run; see `worker`."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        count = str(threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMLSTM_NUM_THREADS")
        package = str(Path(__file__).parents[2])  # the child must import this package, installed or not
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "numlstm.bench.worker", count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **dict.fromkeys(names, count), "PYTHONPATH": path},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer.

        Raises
        ------
        BenchError
            The process ended, failed, or took longer than `PATIENCE`.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        timer = threading.Timer(PATIENCE, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self.process.wait()
            raise BenchError(
                f"the process of {self.name} ended with code {self.process.returncode} at the request "
                f"{request['do']!r}{self._last_words()}"
            )
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            log.debug("%s", reply["traceback"])
            raise BenchError(f"the process of {self.name} failed at the request {request['do']!r}: {reply['error']}")
        return reply

    def _last_words(self) -> str:
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace").strip()
        return f"; its last words:\n{text[-2000:]}" if text else "; it said nothing"

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.process.kill()
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def schedule(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name) in the order of turns: every name once a round, and each round begins with the next name.

    Examples
    --------
    >>> [name for _, name in schedule("abc", 3)]
    ['a', 'b', 'c', 'b', 'c', 'a', 'c', 'a', 'b']
    """
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            yield number, name


def measure_workload(
    result: Result,
    engines: Sequence[str],
    workers: dict[str, Answers],
    expected: Path,
    *,
    rounds: int,
    seconds: float,
    progress: Progress = lambda _: None,
) -> None:
    """Fill a result: check every engine, then let them take turns.

    Parameters
    ----------
    result : Result
        With its workload, threads and style.
    engines : sequence of str
        Names.
    workers : dict of str to Answers
        By engine, and ``machine`` for the limits and the reference.
    expected : Path
        File of the reference's results; written if it does not exist.
    rounds : int
        Turns of every engine.
    seconds : float
        Approximate duration of a turn; it has at least one call.
    progress : callable
        Told what is being done.
    """
    workload, where = asdict(result.workload), f"{result.workload.name}, {_plural(result.threads, 'thread')}"
    if not expected.exists():
        progress(f"{where}: reference")
        workers[MACHINE].ask(do="expect", workload=workload, path=str(expected))
    for name in engines:
        progress(f"{where}: preparing {name}")
        prepare = {"workload": workload, "style": result.style, "path": str(expected), "seconds": seconds}
        result.entries[name] = Entry(**workers[name].ask(do="prepare", engine=name, **prepare))
    measured = result.measured
    for number, name in schedule([MACHINE, *measured], rounds):
        progress(f"{where}: round {number + 1} of {rounds}")
        if name == MACHINE:
            reply = workers[MACHINE].ask(do="limits", seconds=seconds / 10)
            result.limits.append(reply.pop("limits"))
            result.turns.append(Turn(number, name, 1, **reply))
        else:
            result.turns.append(Turn(number, name, **workers[name].ask(do="turn", engine=name)))
    for name in measured:
        if after := workers[name].ask(do="check", engine=name):
            result.entries[name] = Entry(**after)


def run(
    workloads: Sequence[Workload],
    engines: Sequence[str],
    *,
    threads: Sequence[int] = (1,),
    rounds: int = 15,
    seconds: float = 0.02,
    style: str = "fresh",
    kind: str = "workloads",
    progress: Progress = lambda _: None,
) -> Report:
    """Measure workloads.

    Parameters
    ----------
    workloads : sequence of Workload
        The workloads.
    engines : sequence of str
        Names in ``engines.ENGINES``.
    threads : sequence of int
        All workloads are measured at each number of threads.
    rounds : int
        Turns of every engine.
    seconds : float
        Approximate duration of a turn.
    style : str
        ``"fresh"``: every call returns new arrays; ``"reuse"``: engines write to buffers that they keep.
    kind : str
        Of the report.
    progress : callable
        Told what is being done.

    Returns
    -------
    Report
        With every raw sample.

    Raises
    ------
    BenchError
        A worker died.
    """
    report = Report(machine.facts(), datetime.now(UTC).isoformat(timespec="seconds"), rounds, kind=kind)
    with tempfile.TemporaryDirectory(prefix="numlstm-bench-") as folder:
        for count in threads:
            with ExitStack() as stack:
                # the limits have a process of their own: they import Numba, which the engines should not see
                workers: dict[str, Answers] = {MACHINE: stack.enter_context(Worker(MACHINE, count))}
                shared = stack.enter_context(Worker("all engines", count)) if count == 1 else None
                for name in engines:
                    workers[name] = shared or stack.enter_context(Worker(name, count))
                for at, workload in enumerate(workloads):
                    result = Result(workload, count, style)
                    report.results.append(result)
                    measure_workload(
                        result, engines, workers, Path(folder) / f"{at}.npz",
                        rounds=rounds, seconds=seconds, progress=progress,
                    )  # fmt: skip
    return report


def failures(report: Report) -> list[str]:
    """Sentences about workloads on which numlstm itself is wrong or fails: an error, not a missing column."""
    return [
        f"{OURS} on {result.workload.name} at {_plural(result.threads, 'thread')}: {entry.left_out}"
        for result in report.results
        if (entry := result.entries.get(OURS)) and entry.left_out and "not installed" not in entry.left_out
    ]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
