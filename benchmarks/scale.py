"""An LSTM on Dask: steps a second by number of workers, and what is paid for a task."""

from __future__ import annotations

import os

from numlstm.bench import scale

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
WORK = scale.Work(chunks=8 if QUICK else 64, rows=64 if QUICK else 256)
TINY = scale.Work(chunks=100 if QUICK else 1000, rows=1)


class Workers:
    """Throughput against the same work in one process without Dask."""

    params = ((1, 2),)
    param_names = ("workers",)
    timeout = 600.0

    def setup(self, workers: int) -> None:
        """Measure each once, after one that loads the kernels."""
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise NotImplementedError("the extra dask is not installed") from None
        lstm = scale.model()
        with scale.cluster(workers) as client:
            scale.seconds(client, WORK, lstm)
            self.taken = min(scale.seconds(client, WORK, lstm) for _ in range(1 if QUICK else 3))
            self.tiny = min(scale.seconds(client, TINY, lstm) for _ in range(1 if QUICK else 3))
        self.alone = scale.alone(WORK, lstm)

    def track_steps(self, workers: int) -> float:
        return WORK.steps / self.taken

    def track_over_one_process(self, workers: int) -> float:
        return self.alone / self.taken

    def track_task(self, workers: int) -> float:
        return self.tiny / (TINY.chunks * scale.TASKS) * 1e6

    def track_overhead(self, workers: int) -> float:
        return max(0.0, self.taken - self.alone / workers) / WORK.megabytes * 1e3

    track_steps.unit = "steps/s"  # type: ignore[attr-defined]
    track_over_one_process.unit = "times one process without Dask"  # type: ignore[attr-defined]
    track_task.unit = "us a task"  # type: ignore[attr-defined]
    track_overhead.unit = "ms a MB of input"  # type: ignore[attr-defined]
