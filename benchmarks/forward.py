"""A forward call on every workload of the grid, and the limits of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from numlstm.bench import engines, grid

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
FMAS = 50_000_000  # of a call in the quick mode
WORKLOADS = {workload.name: workload.shortened(FMAS) if QUICK else workload for workload in grid.GRID}
THREADS = [1, 2]
Found = dict[int, dict[str, float]]  # limits by number of threads


class Forward:
    """``lstm(input, (h_0, c_0))``, and the same with ``out=``."""

    params = (list(WORKLOADS), THREADS)
    param_names = ("workload", "threads")
    timeout = 300.0

    def setup(self, workload: str, threads: int) -> None:
        """Make both calls once, because the first one may compile and allocate."""
        self.fresh, self.reuse = (self.call(workload, threads, style) for style in ("fresh", "reuse"))

    @staticmethod
    def call(workload: str, threads: int, style: str) -> Callable[[], Any]:
        """The same call that ``numlstm bench`` times."""
        sizes = WORKLOADS[workload]
        task = engines.Task(sizes, threads, style, sizes.parameters(), sizes.inputs())
        (setting,) = engines.numlstm(task).values()
        setting.call()
        return setting.call

    def time_call(self, workload: str, threads: int) -> None:
        """New arrays in every call."""
        self.fresh()

    def time_call_with_out(self, workload: str, threads: int) -> None:
        """Results written to the same arrays."""
        self.reuse()


class Machine:
    """Limits to compare the times above with: the fastest of a few short measurements."""

    params = (THREADS,)
    param_names = ("threads",)
    timeout = 300.0

    def setup_cache(self) -> Found:
        """Measure all limits at each number of threads."""
        from numlstm.bench.hardware.limits import Limits

        found = {}
        for threads in THREADS:
            limits = Limits(threads)
            samples = [limits.sample() for _ in range(5)]
            found[threads] = {name: max(sample[name] for sample in samples) for name in samples[0]}
        return found

    @staticmethod
    def peak(best: dict[str, float], dtype: str) -> float:
        """Of the register width that gives most."""
        return max(value for name, value in best.items() if name.startswith(f"fma_{dtype}_"))

    def track_fma_peak_float32(self, found: Found, threads: int) -> float:
        return self.peak(found[threads], "float32")

    def track_fma_peak_float64(self, found: Found, threads: int) -> float:
        return self.peak(found[threads], "float64")

    def track_read_L2(self, found: Found, threads: int) -> float:
        return found[threads]["read_L2"]

    def track_read_L3(self, found: Found, threads: int) -> float:
        return found[threads]["read_L3"]

    def track_read_memory(self, found: Found, threads: int) -> float:
        return found[threads]["read_memory"]

    track_fma_peak_float32.unit = track_fma_peak_float64.unit = "GF/s"  # type: ignore[attr-defined]
    track_read_L2.unit = track_read_L3.unit = track_read_memory.unit = "GB/s"  # type: ignore[attr-defined]
