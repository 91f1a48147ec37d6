"""Sequences of several lengths: what a batch costs, beside as many steps of rows that all go to the end.

1 is work in proportion to the steps that there are. The lengths are spread evenly from a hundredth of the longest to
the longest, so that a padded batch is about twice the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numlstm.bench.costs.overhead import model
from numlstm.bench.grid import Line
from numlstm.bench.hardware.clock import microseconds
from numlstm.sequences.packing import pack_padded_sequence

LINES = {
    line.name: line
    for line in (
        Line("small", 32, 64, 1, 1, 1000, 64),
        Line("middle", 40, 128, 1, 1, 1000, 128),
        Line("both directions", 64, 64, 2, 2, 1000, 256),
        Line("large", 40, 256, 2, 1, 1000, 32),
    )
}
WAYS = ("packed", "lengths=, by length", "lengths=, in any order", "padded to the longest")


def lengths_of(line: Line) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A length for each row of the line's batch, by decreasing length.

    Examples
    --------
    >>> lengths_of(Line("", 1, 1, 1, 1, 1000, 4)).tolist()
    [1000, 670, 340, 10]
    """
    longest = line.sequence_length
    return np.linspace(longest, max(1, longest // 100), line.batch_size).round().astype(np.int64)


def calls(line: Line) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The call of a batch of one length with as many steps of rows, and every way of making it with lengths."""
    lstm, lengths = model(line), lengths_of(line)
    x, h_0, c_0 = line.inputs()
    whole = replace(line, sequence_length=max(1, round(int(lengths.sum()) / line.batch_size))).inputs()[0]
    mixed = np.random.default_rng(0).permutation(lengths)
    packed = pack_padded_sequence(x, lengths)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: lstm(packed, (h_0, c_0)),
        lambda: lstm(x, (h_0, c_0), lengths=lengths),
        lambda: lstm(x, (h_0, c_0), lengths=mixed),
        lambda: lstm(x, (h_0, c_0)),
    )
    return lambda: lstm(whole, (h_0, c_0)), dict(zip(WAYS, ways, strict=True))


def cost(line: Line, way: str, rounds: int = 5) -> float:
    """Time of that way over that of the same steps at the full batch's rate: the median over rounds, in turns."""
    whole, ways = calls(line)
    ratios = []
    for _ in range(rounds):
        full = microseconds(whole)
        ratios.append(microseconds(ways[way]) / full)
    steps = int(lengths_of(line).sum())
    # the batch of one length has a whole number of steps
    return float(np.median(ratios)) * max(1, round(steps / line.batch_size)) * line.batch_size / steps
