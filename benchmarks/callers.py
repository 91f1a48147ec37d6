"""Eight Python threads that call one LSTM at once."""

from __future__ import annotations

import os

from numlstm.bench.costs import callers

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"


class Callers:
    """Calls a second of eight threads together, over those of one thread that has all cores to itself."""

    params = tuple(callers.LINES)
    param_names = ("line",)
    timeout = 120.0

    def track_eight_over_one(self, line: str) -> float:
        return callers.ratio(callers.LINES[line], seconds=0.05 if QUICK else 0.3, rounds=1 if QUICK else 5)

    track_eight_over_one.unit = "1 is as much"  # type: ignore[attr-defined]
