"""One forward pass by names: its arrays, checked, and what else decides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numlstm.base.typing import Array
from numlstm.runtime.packed_weights import Panels
from numlstm.runtime.planner import PlanKey

Dropout = Callable[[Array], None]


class Call(NamedTuple):
    """The arrays of one forward pass. All checking has been done.

    Parameters
    ----------
    panels : Panels
        The weights.
    x : array, (T, B, input_size); of a packed sequence also (sum of sizes, input_size)
        Any real dtype, any strides; never written.
    h_0, c_0 : array or None
        (num_layers * num_directions, B, output size) and (…, B, hidden_size), any real dtype and strides; both None
        for zeros.
    output : array, (T, B, num_directions * output size); packed as x is
        Of the panels' dtype, numbers of a step adjacent. Of a padded batch, padding is not written.
    h_n, c_n : array
        As h_0 and c_0, C-contiguous, of the panels' dtype. May be the arrays h_0 and c_0 themselves.
    dropout : callable or None
        Applied in place to the output of each layer but the last, as (T, B, features); packed as (sum of sizes, 1,
        features).
    sizes : array of int64, (T,), or None
        For a packed sequence: rows of each step, positive and never increasing. Rows of x and of the states stand by
        decreasing length. A padded x is read in place, and must be `readable`.
    state_rows : int
        If not 0, h_0, c_0, h_n and c_n are rows of larger arrays: they begin at the first row's state in the first
        layer, and a layer's states stand ``state_rows`` rows behind those of the layer below. All arrays then are
        C-contiguous, aligned and of the panels' dtype. If the pass is interrupted by a signal's exception, either all
        states are as before or all are final.
    """

    panels: Panels
    x: Array
    h_0: Array | None
    c_0: Array | None
    output: Array
    h_n: Array
    c_n: Array
    dropout: Dropout | None = None
    sizes: Array | None = None
    state_rows: int = 0

    @property
    def rows(self) -> int:
        """Rows of the first step."""
        return self.x.shape[1] if self.sizes is None else int(self.sizes[0])

    @property
    def plan_key(self) -> PlanKey:
        """The sizes and strides that a plan is made for."""
        x, output = self.x, self.output
        if self.sizes is not None:  # packed rows follow each other without a gap: a step has no stride
            strides, output_strides = ((0, *a.strides[-2:]) if a.ndim == 2 else a.strides for a in (x, output))
            return (len(self.sizes), self.rows, x.shape[-1]), strides, output_strides, 0
        if not self.state_rows:
            return x.shape, x.strides, output.strides, 0
        # Plans for a few batch sizes in each octave, so that a batch that changes at every step needs no new one.
        (steps, rows, features), size = x.shape, x.itemsize
        row, output_row = features * size, output.shape[2] * size
        planned, step_rows = (batch_size(rows), 1) if steps == 1 else (rows, rows)
        return (
            (steps, planned, features),
            (step_rows * row, row, size),
            (step_rows * output_row, output_row, size),
            self.state_rows,
        )


def batch_size(rows: int) -> int:
    """The batch size to plan for so many rows: there are four in an octave.

    Examples
    --------
    >>> [batch_size(rows) for rows in (1, 7, 9, 17, 1000, 1025)]
    [1, 7, 10, 20, 1024, 1280]
    """
    unit = 1 << max(0, rows.bit_length() - 3)
    return -(-rows // unit) * unit
