"""Time weights in bfloat16 and int8 against float32, on one thread.

    python benchmarks/weights.py [NAME ...]

Prints, for the workloads of ``numlstm bench``, the least CPU time of a call with each, how many times less time
bfloat16 and int8 take, and the largest change of the output by each. They take turns.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

import numlstm
from numlstm.bench.grid import GRID

ROUNDS = 3 if os.environ.get("NUMLSTM_BENCH_QUICK") else 30
KINDS = "bfloat16", "int8"
CALLS = 0.01  # seconds of a round, at least


def call_seconds(lstm: numlstm.LSTM, x: np.ndarray, calls: int) -> float:
    """CPU seconds of a call of this thread."""
    begun = time.thread_time()
    for _ in range(calls):
        lstm(x)
    return (time.thread_time() - begun) / calls


def main(names: list[str]) -> None:
    """Measure and print a table."""
    numlstm.set_num_threads(1)
    print(
        f"{'workload':12}{'float32 us':>12}"
        + "".join(f"{kind + ' us':>14}{'ratio':>8}{'change':>10}" for kind in KINDS)
    )
    for work in GRID:
        if names and work.name not in names:
            continue
        sizes, both_ways = (work.input_size, work.hidden_size, work.num_layers), work.directions == 2
        lstm = numlstm.LSTM(*sizes, bidirectional=both_ways, seed=0).eval()
        modules = lstm, *(lstm.quantize_weights(kind) for kind in KINDS)
        x = np.random.default_rng(0).standard_normal(
            (work.sequence_length, work.batch_size, work.input_size), np.float32
        )
        outputs = [module(x)[0] for module in modules]
        calls = max(1, round(CALLS / call_seconds(lstm, x, 1)))
        times = [[call_seconds(module, x, calls) * 1e6 for module in modules] for _ in range(ROUNDS)]
        whole, *rounded = map(min, zip(*times, strict=True))
        line = f"{work.name:12}{whole:12.2f}"
        for least, output in zip(rounded, outputs[1:], strict=True):
            line += f"{least:14.2f}{whole / least:8.2f}{np.abs(output - outputs[0]).max():10.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
