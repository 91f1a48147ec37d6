"""Many Python threads that call one LSTM at once: their throughput compared with that of a single caller."""

from __future__ import annotations

import threading
import time

import numpy as np

from numlstm.bench.costs.overhead import model
from numlstm.bench.grid import Workload, find
from numlstm.lstm import LSTM

WORKLOADS = {name: find(name) for name in ("vad_step", "tagger", "forecast", "voice")}


def throughput(lstm: LSTM, workload: Workload, callers: int, seconds: float) -> float:
    """Calls a second of `callers` threads together.

    Each thread calls until the time is over. Its last call counts, and so does the time until that returns.
    """
    x, h_0, c_0 = workload.inputs()
    counts = [0] * callers
    ready = threading.Barrier(callers + 1)

    def call(n: int) -> None:
        lstm(x, (h_0, c_0))
        ready.wait()
        while time.perf_counter() < deadline:
            lstm(x, (h_0, c_0))
            counts[n] += 1

    deadline = float("inf")
    threads = [threading.Thread(target=call, args=(n,)) for n in range(callers)]
    for thread in threads:
        thread.start()
    begin = time.perf_counter()
    deadline = begin + seconds + 60.0  # until all threads are ready
    ready.wait()
    begin = time.perf_counter()
    deadline = begin + seconds
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


def ratio(workload: Workload, callers: int = 8, seconds: float = 0.3, rounds: int = 5) -> float:
    """Throughput of many callers over that of one, which may use all cores: the median over rounds, in turns."""
    lstm = model(workload)
    alone_and_together = [
        (throughput(lstm, workload, 1, seconds), throughput(lstm, workload, callers, seconds)) for _ in range(rounds)
    ]
    return float(np.median([together / alone for alone, together in alone_and_together]))
