"""Sequences of several lengths in one batch."""

from __future__ import annotations

import os
from dataclasses import replace

from numlstm import num_threads
from numlstm.bench.costs import packed

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"


class Packed:
    """Time of a batch with lengths from a hundredth of the longest to the longest, over that of a full batch."""

    params = (list(packed.WORKLOADS), list(packed.WAYS), [1, 2])
    param_names = ("workload", "way", "threads")
    timeout = 300.0

    def track_cost(self, workload: str, way: str, threads: int) -> float:
        sizes = packed.WORKLOADS[workload]
        if QUICK:
            sizes = replace(sizes, sequence_length=20)
        with num_threads(threads):
            return packed.cost(sizes, way, rounds=1 if QUICK else 5)

    track_cost.unit = "1 is a full batch with the same number of steps"  # type: ignore[attr-defined]
