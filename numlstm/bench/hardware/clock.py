"""Microseconds of a call that is measured alone, the fastest of a few tries; and waiting until nothing runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

TRIES = 7


def microseconds(call: Callable[[], Any], seconds: float = 0.003) -> float:
    """Of one call, the fastest of `TRIES`: the others may have lost the core to another process.

    Parameters
    ----------
    call : callable
        Called once before, because the first call may compile or allocate.
    seconds : float
        Approximate duration of a try; it has at least one call.
    """
    call()
    calls = max(1, int(seconds / _seconds(call, 1)))
    return min(_seconds(call, calls) for _ in range(TRIES)) * 1e6


def _seconds(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in repeat(None, calls):
        call()
    return max(1, time.perf_counter_ns() - start) / calls / 1e9


def settle(seconds: float = 1.0) -> bool:
    """Wait until this process uses no CPU: thread pools spin after a call, and would slow down the next engine.

    Returns
    -------
    bool
        Whether it became idle within `seconds`: less than a tenth of 2 ms of CPU time, twice in a row.
    """
    deadline, quiet = time.perf_counter() + seconds, 0
    while time.perf_counter() < deadline:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(0.002)
        quiet = quiet + 1 if time.process_time() - used < 0.1 * (time.perf_counter() - start) else 0
        if quiet == 2:
            return True
    return False
