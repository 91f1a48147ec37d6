"""Single steps of a stream: throughput, latency, silence after a loud signal, and a loop that Numba compiles."""

from __future__ import annotations

import os

from numlstm.bench import streaming

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
STEPS = 2_000 if QUICK else 100_000
WAYS = [streaming.STEP, streaming.CALL, streaming.FORWARD]


class Step:
    """Every way to make a step; median, 99th percentile and maximum of 1e5 steps that are timed one by one."""

    params = (list(streaming.WORKLOADS), WAYS)
    param_names = ("workload", "way")
    timeout = 120.0

    def setup(self, workload: str, way: str) -> None:
        """Make the step once."""
        self.call = streaming.ways(streaming.WORKLOADS[workload])[way]
        self.call()

    def time_step(self, workload: str, way: str) -> None:
        self.call()

    def track_median(self, workload: str, way: str) -> float:
        return streaming.latency(self.call, STEPS).median

    def track_p99(self, workload: str, way: str) -> float:
        return streaming.latency(self.call, STEPS).p99

    def track_max(self, workload: str, way: str) -> float:
        return streaming.latency(self.call, STEPS).most

    track_median.unit = track_p99.unit = track_max.unit = "us"  # type: ignore[attr-defined]


class Baselines:
    """Speed-up of a step over the best baseline, in turns; the aim for amp_step by ``step()`` is 25."""

    params = (list(streaming.WORKLOADS), WAYS)
    param_names = ("workload", "way")
    timeout = 300.0

    def setup_cache(self) -> dict[str, dict[str, float]]:
        """Measure every workload once, all ways in turns."""
        rounds, seconds = (3, 0.002) if QUICK else (15, 0.02)
        found = {}
        for name, workload in streaming.WORKLOADS.items():
            times = streaming.step_times(workload, rounds=rounds, seconds=seconds)
            found[name] = {way: times.ratio(way) for way in WAYS}
        return found

    def track_times_faster(self, found: dict[str, dict[str, float]], workload: str, way: str) -> float:
        return found[workload][way]

    track_times_faster.unit = "times as fast as the fastest baseline"  # type: ignore[attr-defined]


class Silence:
    """Exact zeros after a loud signal, over usual steps: 1.2 is the aim."""

    params = (list(streaming.WORKLOADS), list(streaming.FADING))
    param_names = ("workload", "kept")
    timeout = 120.0

    def track_zeros(self, workload: str, kept: float) -> float:
        return streaming.silence(streaming.WORKLOADS[workload], kept, STEPS)[0]

    def track_slowest_tenth(self, workload: str, kept: float) -> float:
        return streaming.silence(streaming.WORKLOADS[workload], kept, STEPS)[1]

    track_zeros.unit = track_slowest_tenth.unit = "of a usual step"  # type: ignore[attr-defined]


class Loop:
    """A loop over steps inside Numba, over one forward call for the same steps: 3 is the promise."""

    params = tuple(streaming.WORKLOADS)
    param_names = ("workload",)
    timeout = 120.0

    def track_over_kernel(self, workload: str) -> float:
        return streaming.loop_over_kernel(streaming.WORKLOADS[workload], max(500, STEPS // 5), 3 if QUICK else 9)

    track_over_kernel.unit = "of the kernel alone"  # type: ignore[attr-defined]
