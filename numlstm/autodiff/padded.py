"""Both passes over a padded batch with lengths, as functions of weights and arrays. The padding is not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numlstm.autodiff.stateless import Passes
from numlstm.base.typing import Array, States
from numlstm.base.validation.packed import check_range
from numlstm.runtime.packed_weights import Panels
from numlstm.sequences.packed_layout import places, sizes_of


class Padded:
    """Where the sequences of a padded batch, with steps as the first axis, have their positions.

    Parameters
    ----------
    lengths : array of int, (B,)
        From 0 to T, in any order.
    steps, rows : int
        T and B.

    Raises
    ------
    ValueError, RuntimeError
        A length is out of range.
    """

    def __init__(self, lengths: Array, steps: int, rows: int) -> None:
        lengths = lengths.astype(np.int64)
        check_range(lengths, 0, steps)
        self.order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        self.sizes = sizes_of(lengths[self.order])
        self.at, self.steps, self.rows = places(self.sizes, self.order, steps, rows, False), steps, rows

    def packed(self, padded: Array) -> Array:
        """The rows of a padded array that are none of padding."""
        return padded.reshape(-1, padded.shape[-1])[self.at]

    def spread(self, packed: Array) -> Array:
        """A padded array of them, with zeros in the padding."""
        padded = np.zeros((self.steps * self.rows, packed.shape[-1]), packed.dtype)
        padded[self.at] = packed
        return padded.reshape(self.steps, self.rows, -1)

    def of_rows(self, states: Sequence[Array]) -> States:
        """States of the sequences that take a step, the longest first."""
        h, c = (np.ascontiguousarray(state[:, self.order]) for state in states)
        return h, c

    def of_batch(self, found: Sequence[Array], before: Sequence[Array]) -> States:
        """States of the batch: those found, and those before of sequences that take no step."""
        h, c = (np.array(state) for state in before)
        h[:, self.order], c[:, self.order] = found
        return h, c


def run_padded(
    passes: Passes, panels: Panels, x: Array, hx: States, masks: Array | None, padded: Padded | None
) -> tuple[Array, Array, Array, Array]:
    """`Passes.forward` of a batch whose sequences may have lengths; masks are (layers - 1, T, B, features)."""
    drawn = [] if masks is None else list(masks)
    if padded is None:
        return passes.forward(panels, x, hx, drawn)
    if not len(padded.order):
        features = passes.config.num_directions * passes.config.output_size
        return np.zeros((*x.shape[:2], features), x.dtype), *hx, np.zeros(0, x.dtype)
    drawn = [padded.packed(mask) for mask in drawn]
    output, h_n, c_n, kept = passes.forward(panels, padded.packed(x), padded.of_rows(hx), drawn, padded.sizes)
    return padded.spread(output), *padded.of_batch((h_n, c_n), hx), kept


def back_padded(
    passes: Passes,
    panels: Panels,
    kept: Array,
    by_results: tuple[Array, Array, Array],
    masks: Array | None,
    padded: Padded | None,
) -> tuple[Array, ...]:
    """`Passes.backward` of that call."""
    drawn, (d_output, *by_states) = [] if masks is None else list(masks), by_results
    steps, rows, _ = d_output.shape
    found: Any
    if padded is None:
        found = passes.backward(panels, kept, by_results, steps, rows, drawn)
        return tuple(found)
    if not len(padded.order):
        d_input = np.zeros((steps, rows, passes.config.input_size), kept.dtype)
        return d_input, *by_states, *(np.zeros(shape, kept.dtype) for shape in passes.shapes.values())
    drawn, given = [padded.packed(mask) for mask in drawn], (padded.packed(d_output), *padded.of_rows(by_states))
    steps, rows = len(padded.sizes), int(padded.sizes[0])
    found = passes.backward(panels, kept, given, steps, rows, drawn, padded.sizes)
    d_input, d_h, d_c, *of_weights = found
    return padded.spread(d_input), *padded.of_batch((d_h, d_c), by_states), *of_weights
