"""Which rows take which steps, for launches and kernels; rows stand by decreasing length, so that a step has the first.

A dense call is the one where every row takes all steps. Rows of a step stand behind one another without a gap, in the
gates and in packed data.
"""

from bisect import bisect_right
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from numlstm.sequences.packed_layout import inverse, lengths_of, sizes_of


class Rows:
    """How many rows take each step, and the table of it that kernels read.

    Parameters
    ----------
    sizes : ndarray of int64, (steps,)
        How many rows take each step: positive, never more than before.
    order, back : ndarray of int64, (batch,), or None
        Which of the sequences stands in each row, and its inverse; None where they stand in their order.
    padded : int
        Steps of the padded batch that is to be packed and unpacked; 0 if there is none.
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
        self.order_at = self.batch + self.steps + 1  # in the table: the sequence of each row
        self.back_at = self.order_at + self.batch  # and the row of each sequence
        self.segments = list(pairwise([0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), self.steps]))

    @classmethod
    def dense(cls, steps, batch):
        """Every row takes all steps."""
        return cls(np.full(steps, batch))

    @classmethod
    def of_lengths(cls, each, padded):
        """A padded batch of so many steps, whose sequences have these lengths."""
        order = np.argsort(-each, kind="stable")
        return cls(sizes_of(each[order]), order, inverse(order), padded)

    def chunks(self, most):
        """(begin, end) of the runs of steps that have at most so many rows together, or are one step."""
        begin = 0
        while begin < self.steps:
            end = max(begin + 1, bisect_right(self.starts, self.starts[begin] + most) - 1)
            yield begin, end
            begin = end

    def between(self, begin, end):
        """(begin, end, rows) of the runs of steps with the same rows, within those from ``begin`` to ``end``."""
        return [
            (max(first, begin), min(last, end), int(self.sizes[first]))
            for first, last in self.segments
            if first < end and last > begin
        ]


class Laid(NamedTuple):
    """Rows of every step in a flat array: row r of step t is at ``at + t * step + starts[t] * start + r * row``."""

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
        """Where the rows of a step begin."""
        return self.at + step * self.step + rows.starts[step] * self.start
