"""Dask: an LSTM on a cluster of processes on this machine, and the time of its scheduler for a task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from numlstm.lstm import LSTM

TASKS = 4  # of a chunk: its input, its results, its state, and h_n of that
STEPS, FEATURES, UNITS = 100, 40, 128


@dataclass(frozen=True)
class Work:
    """Sequences of 100 steps of 40 features, in chunks of `rows`."""

    chunks: int
    rows: int

    @property
    def steps(self) -> int:
        """Steps of all sequences."""
        return self.chunks * self.rows * STEPS

    @property
    def megabytes(self) -> float:
        """Of the input, in float32."""
        return self.steps * FEATURES * 4 / 1e6


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A client of a cluster of processes with one thread each."""
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as made,
        Client(made) as client,
    ):
        yield client


def lazy(work: Work, lstm: LSTM) -> Any:
    """The last states of sequences that the workers make themselves."""
    import dask.array as da

    from numlstm.dask import forward

    def made(of: float = time.time(), block_info: Any = None) -> Any:  # a new task in each call
        shape = [stop - start for start, stop in block_info[None]["array-location"]]
        return np.full(shape, 0.5, np.float32)

    chunks = ((STEPS,), (work.rows,) * work.chunks, (FEATURES,))
    x = da.map_blocks(made, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    return forward(lstm, x)[1][0]


def seconds(client: Any, work: Work, lstm: LSTM) -> float:
    """Seconds until the workers hold all results. The first call loads their kernels: call it twice."""
    from distributed import wait

    begun = time.perf_counter()
    wait(client.persist(lazy(work, lstm)))
    return time.perf_counter() - begun


def alone(work: Work, lstm: LSTM) -> float:
    """Seconds for the same work in this process without Dask, chunk by chunk on one thread."""
    from numlstm.runtime.threads import num_threads

    with num_threads(1):
        x = np.full((STEPS, work.rows, FEATURES), 0.5, np.float32)
        lstm(x)
        begun = time.perf_counter()
        for _ in range(work.chunks):
            x = np.full((STEPS, work.rows, FEATURES), 0.5, np.float32)
            lstm(x)
        return time.perf_counter() - begun


def model() -> LSTM:
    """The LSTM of these measurements."""
    return LSTM(FEATURES, UNITS, seed=0).eval()
