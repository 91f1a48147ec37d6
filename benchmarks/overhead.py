"""Calls so small that the call itself is what takes time."""

from __future__ import annotations

from numlstm.bench.costs import overhead

WAYS = ["with states", "without states", "with out=", "unbatched", "batch first", "cell"]


class Call:
    """Every way of making the call."""

    params = (list(overhead.LINES), WAYS)
    param_names = ("line", "way")
    timeout = 60.0

    def setup(self, line: str, way: str) -> None:
        """Make the call once."""
        self.call = overhead.ways(overhead.LINES[line])[way]
        self.call()

    def time_call(self, line: str, way: str) -> None:
        self.call()


class Outside:
    """Microseconds of a call with states that its kernel, alone on the same plan, does not take."""

    params = tuple(overhead.LINES)
    param_names = ("line",)
    timeout = 60.0

    def track_outside_kernel(self, line: str) -> float:
        return overhead.outside(overhead.LINES[line])

    track_outside_kernel.unit = "us"  # type: ignore[attr-defined]
