"""Eight Python threads that call one LSTM at once."""

from __future__ import annotations

import os

from numlstm.bench.costs import callers

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"


class Callers:
    """Calls a second of eight threads together, over those of one thread that may use all cores."""

    params = tuple(callers.WORKLOADS)
    param_names = ("workload",)
    timeout = 120.0

    def track_eight_over_one(self, workload: str) -> float:
        return callers.ratio(callers.WORKLOADS[workload], seconds=0.05 if QUICK else 0.3, rounds=1 if QUICK else 5)

    track_eight_over_one.unit = "1 is the same"  # type: ignore[attr-defined]
