"""An LSTM on Dask: steps a second by number of workers, and the time for a task."""

from __future__ import annotations

import importlib.util
import os
from typing import NamedTuple

from numlstm.bench.costs import scale

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
WORK = scale.Work(chunks=8 if QUICK else 64, rows=64 if QUICK else 256)
TINY = scale.Work(chunks=100 if QUICK else 1000, rows=1)


class Seconds(NamedTuple):
    """For the work on a cluster, for tiny chunks on a cluster, and for the work without Dask."""

    taken: float
    tiny: float
    alone: float


class Workers:
    """Throughput compared with the same work in one process without Dask."""

    params = ((1, 2),)
    param_names = ("workers",)
    timeout = 600.0

    def setup_cache(self) -> dict[int, Seconds] | None:
        """Measure at each number of workers, after a call that loads the kernels; None without the extra ``dask``."""
        if importlib.util.find_spec("distributed") is None:
            return None
        lstm, found = scale.model(), {}
        for workers in self.params[0]:
            with scale.cluster(workers) as client:
                scale.seconds(client, WORK, lstm)
                taken = min(scale.seconds(client, WORK, lstm) for _ in range(1 if QUICK else 3))
                tiny = min(scale.seconds(client, TINY, lstm) for _ in range(1 if QUICK else 3))
            found[workers] = Seconds(taken, tiny, scale.alone(WORK, lstm))
        return found

    def setup(self, found: dict[int, Seconds] | None, workers: int) -> None:
        """Select the measurement with that many workers."""
        if found is None:
            raise NotImplementedError("the extra dask is not installed")
        self.of = found[workers]

    def track_steps(self, found: object, workers: int) -> float:
        return WORK.steps / self.of.taken

    def track_over_one_process(self, found: object, workers: int) -> float:
        return self.of.alone / self.of.taken

    def track_task(self, found: object, workers: int) -> float:
        return self.of.tiny / (TINY.chunks * scale.TASKS) * 1e6

    def track_overhead(self, found: object, workers: int) -> float:
        return max(0.0, self.of.taken - self.of.alone / workers) / WORK.megabytes * 1e3

    track_steps.unit = "steps/s"  # type: ignore[attr-defined]
    track_over_one_process.unit = "times one process without Dask"  # type: ignore[attr-defined]
    track_task.unit = "us a task"  # type: ignore[attr-defined]
    track_overhead.unit = "ms a MB of input"  # type: ignore[attr-defined]
