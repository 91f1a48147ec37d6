"""The rows of each step, for launches and kernels. Rows are sorted by decreasing length, so a step has the first rows.

In a dense call every row takes all steps. In the gates and in packed data, rows of a step are contiguous.
"""

from bisect import bisect_right
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from numlstm.sequences.packed_layout import inverse, lengths_of, sizes_of


class Rows:
    """The number of rows of each step, and a table of them for kernels.

    Parameters
    ----------
    sizes : ndarray of int64, (steps,)
        Rows of each step: positive and not increasing.
    order, back : ndarray of int64, (batch,), or None
        The sequence in each row, and its inverse; None if they are in order.
    padded : int
        Steps of the padded batch to pack and unpack; 0 if there is none.
    """

    def __init__(self, sizes, order=None, back=None, padded=0):
        self.sizes, self.order, self.padded = sizes, order, padded
        self.steps, self.batch = len(sizes), int(sizes[0])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self.starts = starts.tolist()
        self.total = self.starts[-1]
        parts = [lengths_of(sizes), starts]
        if order is not None:
            parts += [order, back]
        self.table = np.concatenate(parts).astype(np.int64, copy=False)
        self.order_at = self.batch + self.steps + 1  # where the table has the sequence of each row
        self.back_at = self.order_at + self.batch  # and where the row of each sequence
        self.segments = list(pairwise([0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), self.steps]))

    @classmethod
    def dense(cls, steps, batch):
        """Rows that all take every step."""
        return cls(np.full(steps, batch))

    @classmethod
    def of_lengths(cls, each, padded):
        """The rows of a padded batch of so many steps, with sequences of these lengths."""
        order = np.argsort(-each, kind="stable")
        return cls(sizes_of(each[order]), order, inverse(order), padded)

    def chunks(self, most):
        """(begin, end) of runs of steps with at most so many rows in total, or of a single step."""
        begin = 0
        while begin < self.steps:
            end = max(begin + 1, bisect_right(self.starts, self.starts[begin] + most) - 1)
            yield begin, end
            begin = end

    def between(self, begin, end):
        """(begin, end, rows) of uniform runs, whose steps have the same rows, between ``begin`` and ``end``."""
        return [
            (max(first, begin), min(last, end), int(self.sizes[first]))
            for first, last in self.segments
            if first < end and last > begin
        ]


class Laid(NamedTuple):
    """The layout of rows in a flat array: row r of step t is at ``at + t * step + starts[t] * start + r * row``."""

    flat: Any
    at: int
    step: int
    start: int
    row: int
    feature: int

    @classmethod
    def of(cls, array):
        """A `Strided` of (steps, rows, features), or a packed one of (all rows, features)."""
        if len(array.shape) == 2:
            row, feature = array.strides
            return cls(array.flat, array.at, 0, row, row, feature)
        step, row, feature = array.strides
        return cls(array.flat, array.at, step, 0, row, feature)

    def begin(self, rows, step):
        """The position of a step's first row."""
        return self.at + step * self.step + rows.starts[step] * self.start
