"""Heads packed for the kernel: a Linear layer, an activation, and the input added to the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import Activation
from numlstm.kernels.plan_layout import Head as Slots
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import aligned_zeros

BLOCKS = 4  # of a group in the panels


class Head:
    """A Linear layer, or an activation by itself, as ``kernels/entries/head.py`` reads it. Immutable.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    weight : ndarray, (outputs, inputs), or None
        None for an activation by itself.
    bias : ndarray, (outputs,), or None
    activation : Activation
    skip : float
        This much of another array is added to the output.
    lanes : int
        Numbers in a register; by default those of this process's kernels.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        weight: Array | None = None,
        bias: Array | None = None,
        activation: Activation = Activation.IDENTITY,
        skip: float = 0.0,
        lanes: int = 0,
    ) -> None:
        self.dtype, self.activation, self.skip = np.dtype(dtype), activation, skip
        self.lanes = lanes or registry.lanes(self.dtype.name)
        sizes: tuple[int, ...] = (0, 0) if weight is None else weight.shape
        self.outputs, self.inputs = sizes
        self.panels, self.bias_at = _packed(self.dtype, weight, bias, self.lanes)
        self.scale = aligned_zeros(self.lanes, self.dtype)
        self.scale[:] = skip

    def record(self, features: int = 0, given: int = 0) -> Array:
        """The slots that the kernel reads; for an activation by itself with its number of features.

        ``given`` is the number of features of what `skip` adds. The head must outlive the record.
        """
        record = np.zeros(int(Slots.LENGTH), np.int64)
        record[Slots.INPUTS], record[Slots.OUTPUTS] = self.inputs or features, self.outputs or features
        record[Slots.PANELS] = address(self.panels) if self.inputs else 0
        record[Slots.BIAS], record[Slots.ACTIVATION] = self.bias_at, self.activation
        record[Slots.SKIP], record[Slots.GIVEN_ROW] = address(self.scale) if self.skip else 0, given
        return record

    @cached_property
    def _run(self) -> Callable[[int, int, int, int, int], None]:
        return registry.kernel(self.dtype.name).head

    def __call__(self, x: Array, given: Array | None = None) -> Array:
        """Apply the head to a C-contiguous array of its dtype, (..., inputs); `given` has as many rows."""
        features = x.shape[-1]
        output = np.empty((*x.shape[:-1], self.outputs or features), self.dtype)
        if x.size:
            width, source = (0, 0) if given is None else (given.shape[-1], address(given))
            record, at = self._record(features, width)
            self._run(at, address(x), address(output), x.size // features, source)
            del record  # alive until here, whatever another thread does to the records
        return output

    def _record(self, features: int, given: int) -> tuple[Array, int]:
        """The record of a call and its address, kept for the next call of these sizes."""
        known = self._records.get((features, given))
        if known is None:
            if len(self._records) >= 64:
                self._records.clear()
            record = self.record(features, given)
            known = self._records[features, given] = record, address(record)
        return known

    @cached_property
    def _records(self) -> dict[tuple[int, int], tuple[Array, int]]:
        return {}


def _packed(dtype: np.dtype[Any], weight: Array | None, bias: Array | None, lanes: int) -> tuple[Array, int]:
    """The panels, and where the bias begins in them."""
    if weight is None:
        return aligned_zeros(0, dtype), 0
    outputs, inputs = weight.shape
    blocks = -(-outputs // lanes)
    at = blocks * lanes * inputs
    panels = aligned_zeros(at + blocks * lanes, dtype)
    group = BLOCKS * lanes
    grouped = blocks // BLOCKS * group  # outputs of the blocks that are interleaved
    rows = np.zeros((blocks * lanes, inputs), dtype)
    rows[:outputs] = weight
    for first, last, width in ((0, grouped, group), (grouped, blocks * lanes, lanes)):
        part = rows[first:last].reshape(-1, width, inputs).transpose(0, 2, 1)
        panels[first * inputs : last * inputs].reshape(part.shape)[...] = part
    if bias is not None:
        panels[at : at + outputs] = bias
    return panels, at


def chain(heads: Sequence[Head], features: int, given: int, rows: int) -> tuple[Array, list[object]]:
    """The first record of heads that follow one another in so many rows, and what must be kept alive for it."""
    records, alive = [], list[object](heads)
    for head in heads:
        records.append(head.record(features, given))
        features = head.outputs or features
        room = np.empty(rows * features, head.dtype)
        records[-1][Slots.ROOM] = address(room)
        alive.append(room)
    for record, after in pairwise(records):
        record[Slots.NEXT] = address(after)
    return records[0], [*alive, *records]
