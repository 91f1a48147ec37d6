"""Sequences of several lengths: time of a batch over that of a full batch with the same number of steps.

The ideal is 1. The lengths are evenly spaced from a hundredth of the longest to the longest, so that a padded batch
takes about twice the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numlstm.bench.costs.overhead import model
from numlstm.bench.grid import Workload
from numlstm.bench.hardware.clock import microseconds
from numlstm.sequences.packing import pack_padded_sequence

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small", 32, 64, 1, 1, 1000, 64),
        Workload("middle", 40, 128, 1, 1, 1000, 128),
        Workload("both directions", 64, 64, 2, 2, 1000, 256),
        Workload("large", 40, 256, 2, 1, 1000, 32),
    )
}
WAYS = ("packed", "lengths=, by length", "lengths=, in any order", "padded to the longest")


def lengths_of(workload: Workload) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A length for each row of the workload's batch, longest first.

    Examples
    --------
    >>> lengths_of(Workload("", 1, 1, 1, 1, 1000, 4)).tolist()
    [1000, 670, 340, 10]
    """
    longest = workload.sequence_length
    return np.linspace(longest, max(1, longest // 100), workload.batch_size).round().astype(np.int64)


def calls(workload: Workload) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The call of a full batch with the same number of steps, and every way to make a call with lengths."""
    lstm, lengths = model(workload), lengths_of(workload)
    x, h_0, c_0 = workload.inputs()
    whole = replace(workload, sequence_length=max(1, round(int(lengths.sum()) / workload.batch_size))).inputs()[0]
    mixed = np.random.default_rng(0).permutation(lengths)
    packed = pack_padded_sequence(x, lengths)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: lstm(packed, (h_0, c_0)),
        lambda: lstm(x, (h_0, c_0), lengths=lengths),
        lambda: lstm(x, (h_0, c_0), lengths=mixed),
        lambda: lstm(x, (h_0, c_0)),
    )
    return lambda: lstm(whole, (h_0, c_0)), dict(zip(WAYS, ways, strict=True))


def cost(workload: Workload, way: str, rounds: int = 5) -> float:
    """Time of a way over that of the same steps in a full batch: the median over rounds, in turns."""
    whole, ways = calls(workload)
    ratios = []
    for _ in range(rounds):
        full = microseconds(whole)
        ratios.append(microseconds(ways[way]) / full)
    steps = int(lengths_of(workload).sum())
    # correct for the full batch's whole number of steps
    return float(np.median(ratios)) * max(1, round(steps / workload.batch_size)) * workload.batch_size / steps
