"""Steps of a stream: beside the best peer, one by one, after a loud signal, and in a loop that Numba compiles."""

from __future__ import annotations

import os

from numlstm.bench import streaming

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
STEPS = 2_000 if QUICK else 100_000
WAYS = [streaming.STEP, streaming.CALL, streaming.FORWARD]


class Step:
    """Every way of making a step; of 1e5 that are timed one by one, the median, the 99th percentile and the worst."""

    params = (list(streaming.LINES), WAYS)
    param_names = ("line", "way")
    timeout = 120.0

    def setup(self, line: str, way: str) -> None:
        """Make the step once."""
        self.call = streaming.ways(streaming.LINES[line])[way]
        self.call()

    def time_step(self, line: str, way: str) -> None:
        self.call()

    def track_median(self, line: str, way: str) -> float:
        return streaming.latency(self.call, STEPS).median

    def track_p99(self, line: str, way: str) -> float:
        return streaming.latency(self.call, STEPS).p99

    def track_max(self, line: str, way: str) -> float:
        return streaming.latency(self.call, STEPS).most

    track_median.unit = track_p99.unit = track_max.unit = "us"  # type: ignore[attr-defined]


class Peers:
    """The best peer's time for a step over that of numlstm, in turns; 25 is the aim for amp_step by ``step()``."""

    params = (list(streaming.LINES), WAYS)
    param_names = ("line", "way")
    timeout = 300.0

    def setup_cache(self) -> dict[str, dict[str, float]]:
        """Measure every line once, all ways in turns."""
        rounds, seconds = (3, 0.002) if QUICK else (15, 0.02)
        found = {}
        for name, line in streaming.LINES.items():
            beside = streaming.beside_peers(line, rounds=rounds, seconds=seconds)
            found[name] = {way: beside.ratio(way) for way in WAYS}
        return found

    def track_times_faster(self, found: dict[str, dict[str, float]], line: str, way: str) -> float:
        return found[line][way]

    track_times_faster.unit = "times as fast as the fastest baseline"  # type: ignore[attr-defined]


class Silence:
    """Exact zeros after a loud signal, over usual steps: 1.2 is the aim."""

    params = (list(streaming.LINES), list(streaming.FADING))
    param_names = ("line", "kept")
    timeout = 120.0

    def track_zeros(self, line: str, kept: float) -> float:
        return streaming.silence(streaming.LINES[line], kept, STEPS)[0]

    def track_slowest_tenth(self, line: str, kept: float) -> float:
        return streaming.silence(streaming.LINES[line], kept, STEPS)[1]

    track_zeros.unit = track_slowest_tenth.unit = "of a usual step"  # type: ignore[attr-defined]


class Loop:
    """A loop over steps inside Numba, over one forward call for the same steps: 3 is the promise."""

    params = tuple(streaming.LINES)
    param_names = ("line",)
    timeout = 120.0

    def track_over_kernel(self, line: str) -> float:
        return streaming.loop_over_kernel(streaming.LINES[line], max(500, STEPS // 5), 3 if QUICK else 9)

    track_over_kernel.unit = "of the kernel alone"  # type: ignore[attr-defined]
