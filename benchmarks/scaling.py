"""How time grows with batch, steps and hidden size: ``numlstm bench scaling --plot FILE`` draws the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from numlstm.bench import engines, scaling
from numlstm.bench.hardware import clock

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
WORKLOADS = {workload.name: workload for workload in scaling.doubled()}
SIZES = {axis: sizes[:4] if QUICK else sizes for axis, sizes in scaling.SIZES.items()}


def call(name: str) -> Callable[[], Any]:
    """The call that ``numlstm bench`` times, made once."""
    workload = WORKLOADS[name]
    task = engines.Task(workload, 1, "fresh", workload.parameters(), workload.inputs())
    (setting,) = engines.numlstm(task).values()
    setting.call()
    return setting.call


class Doubled:
    """Each size."""

    params = tuple(f"{axis}={size}" for axis, sizes in SIZES.items() for size in sizes)
    param_names = ("size",)
    timeout = 60.0

    def setup(self, name: str) -> None:
        """Make the call once."""
        self.call = call(name)

    def time_call(self, name: str) -> None:
        self.call()


class Growth:
    """The exponent with which time grows: at most about 1 for batch and steps, and 2 for the hidden size."""

    params = tuple(SIZES)
    param_names = ("axis",)
    timeout = 300.0

    def track_exponent(self, axis: str) -> float:
        sizes = SIZES[axis]
        return scaling.exponent(sizes, [clock.microseconds(call(f"{axis}={size}")) for size in sizes])

    track_exponent.unit = "exponent of the size"  # type: ignore[attr-defined]
