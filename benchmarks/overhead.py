"""Calls so small that the overhead of the call dominates."""

from __future__ import annotations

from numlstm.bench.costs import overhead

WAYS = ["with states", "without states", "with out=", "unbatched", "batch first", "cell"]


class Call:
    """Every way to make the call."""

    params = (list(overhead.WORKLOADS), WAYS)
    param_names = ("workload", "way")
    timeout = 60.0

    def setup(self, workload: str, way: str) -> None:
        """Make the call once."""
        self.call = overhead.ways(overhead.WORKLOADS[workload])[way]
        self.call()

    def time_call(self, workload: str, way: str) -> None:
        self.call()


class Outside:
    """Microseconds of a call with states beyond its kernel."""

    params = tuple(overhead.WORKLOADS)
    param_names = ("workload",)
    timeout = 60.0

    def track_outside_kernel(self, workload: str) -> float:
        return overhead.outside(overhead.WORKLOADS[workload])

    track_outside_kernel.unit = "us"  # type: ignore[attr-defined]
