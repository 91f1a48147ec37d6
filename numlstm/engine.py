"""Runs a plan: converts what must be converted, leases a workspace, calls the kernel."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from . import plan as planning
from .kernels import store
from .kernels.abi import Cell, Header
from .panels import Array, Panels, aligned_empty
from .plan import Plan, Plans

KEEP_BYTES = 16 << 20  # a buffer up to this size is kept however little of it the next call needs

Dropout = Callable[[Array], None]
States = tuple[Array, Array]

# NumPy's C interface fixes where an array object holds the address of its numbers: right behind the object header.
# The kernel reads it there, which takes a nanosecond where ``array.ctypes.data`` takes most of one thousand.
BOX = object.__basicsize__


def address(array: Array) -> int:
    """The address of an array's first number."""
    return int(ctypes.c_ssize_t.from_address(id(array) + BOX).value)


_probe = np.empty(3)
if address(_probe) != _probe.ctypes.data:
    raise ImportError("numlstm knows where CPython and NumPy keep an array's address; this Python keeps it elsewhere")


class Workspace:
    """Every buffer that a call writes besides its results, and the plan's slots. One call at a time has it."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.plan: Plan | None = None
        self.buffers: dict[str, Array] = {}

    def room(self, name: str, count: int) -> Array:
        """The buffer of that name, with room for ``count`` numbers; a large one that is not needed is given back."""
        have = self.buffers.get(name)
        if have is None or count > have.size or (count < have.size // 4 and have.nbytes > KEEP_BYTES):
            self.buffers.pop(name, None)  # given back before the new one is taken
            have = self.buffers[name] = aligned_empty(count, self.dtype)
        return have

    def adopt(self, plan: Plan) -> None:
        """Make room for a plan and take over its slots."""
        slots = plan.slots.copy()
        for slot, name in ((Header.BELOW, "below"), (Header.GATES, "gates"), (Header.HIDDEN, "hidden")):
            slots[slot] = address(self.room(name, getattr(plan, name)))
        self.slots, self.buffer = slots, slots.data
        self.address = address(slots)
        self.plan = plan


class Memory:
    """What a model remembers between calls: plans by shape, and the workspaces that no call uses at the moment."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.plans = Plans()
        self.idle: list[Workspace] = []
        self.run = store.kernel(dtype.name).forward

    def lease(self, plan: Plan) -> Workspace:
        """A workspace of the caller's own, ready for the plan; to be given back by ``idle.append``."""
        try:
            workspace = self.idle.pop()
        except IndexError:
            workspace = Workspace(self.dtype)
        if workspace.plan is not plan:
            workspace.adopt(plan)
        return workspace


_ADDRESSES = struct.Struct("8q")  # BOXED, INPUT, H_0, C_0, OUTPUT, H_N, C_N, PANELS
_ADDRESSES_AT = 8 * int(Header.BOXED)


def memory(panels: Panels) -> Memory:
    """What the model of these panels remembers."""
    if panels.memo is None:
        panels.memo = Memory(panels.dtype)
    kept: Memory = panels.memo
    return kept


def forward(
    panels: Panels,
    x: Array,
    hx: States | None,
    output: Array,
    h_n: Array,
    c_n: Array,
    dropout: Dropout | None = None,
) -> None:
    """One forward pass. All checking has been done.

    Parameters
    ----------
    panels : Panels
    x : array, (T, B, input_size)
        Any real dtype, any strides; never written.
    hx : (h_0, c_0) or None
        (num_layers * num_directions, B, output size) and (…, B, hidden_size), any real dtype and
        strides; None for zeros.
    output : array, (T, B, num_directions * output size)
        Of the panels' dtype, numbers of a step adjacent.
    h_n, c_n : array
        As h_0 and c_0, C-contiguous, of the panels' dtype. May be the arrays h_0 and c_0 themselves.
    dropout : callable or None
        Applied in place to what each layer but the last puts out, as (T, B, features).
    """
    kept = panels.memo or memory(panels)
    key = (x.shape, x.strides, output.strides)
    plan = kept.plans.by_shape.get(key) or kept.plans.make(panels, *key)
    if dropout is not None or not plan.direct or x.dtype != panels.dtype or not x.flags.aligned:
        direct = plan.direct and x.dtype == panels.dtype and x.flags.aligned
        _forward_in_pieces(panels, kept, x, direct, hx, output, h_n, c_n, dropout)
        return
    workspace = kept.lease(plan)
    h_0, c_0 = (0, 0) if hx is None else (id(_state(hx[0], h_n)), id(_state(hx[1], c_n)))
    _ADDRESSES.pack_into(
        workspace.buffer, _ADDRESSES_AT, BOX, id(x), h_0, c_0, id(output), id(h_n), id(c_n), id(panels.data)
    )  # fmt: skip
    kept.run(workspace.address)
    kept.idle.append(workspace)


def _state(given: Array, final: Array) -> Array:
    """The array to read an initial state from: itself, or after conversion the one of the final state."""
    if given.dtype == final.dtype and given.flags.carray:
        return given
    convert(final, given)
    return final


def convert(into: Array, given: Array) -> None:
    """Copy numbers of another dtype; what is too large becomes infinite in silence, as in PyTorch."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(into, given, casting="unsafe")


def _forward_in_pieces(
    panels: Panels,
    kept: Memory,
    x: Array,
    direct: bool,
    hx: States | None,
    output: Array,
    h_n: Array,
    c_n: Array,
    dropout: Dropout | None,
) -> None:
    """The same pass where Python must act in between: the input is converted piece by piece, or dropout applied.

    A piece is some steps of some rows, small enough to be converted into a buffer; the kernel is made to believe
    that the buffer is a part of the whole input.
    """
    config, size = panels.config, panels.dtype.itemsize
    steps, rows, features = x.shape
    if rows == 0:
        return
    piece_steps, piece_rows, strides = steps, rows, x.strides
    if not direct:
        most = planning.settings.convert_bytes // (features * size)
        piece_rows = max(1, min(rows, most))
        piece_steps = max(1, min(steps, most // piece_rows))
        strides = (piece_rows * features * size, features * size, size)
    key = (x.shape, strides, output.strides)
    workspace = kept.lease(kept.plans.by_shape.get(key) or kept.plans.make(panels, *key))
    try:
        slots = workspace.slots
        slots[Header.BOXED] = slots[Header.H_0] = slots[Header.C_0] = 0
        slots[Header.INPUT] = address(x)
        if hx is not None:
            slots[Header.H_0], slots[Header.C_0] = address(_state(hx[0], h_n)), address(_state(hx[1], c_n))
        results = (Header.OUTPUT, output), (Header.H_N, h_n), (Header.C_N, c_n), (Header.PANELS, panels.data)
        for slot, array in results:
            slots[slot] = address(array)

        def run(cells: tuple[int, int], of_rows: tuple[int, int], of_steps: tuple[int, int]) -> None:
            slots[[Header.CELLS_FROM, Header.CELLS_TO]] = cells
            slots[[Header.ROWS_FROM, Header.ROWS_TO]] = of_rows
            slots[[Header.STEPS_FROM, Header.STEPS_TO]] = of_steps
            kept.run(workspace.address)

        for first_row in range(0, rows, piece_rows):
            of_rows = (first_row, min(first_row + piece_rows, rows))
            for direction in range(config.num_directions):
                for done in range(0, steps, piece_steps):
                    of_steps = (done, min(done + piece_steps, steps))
                    if not direct:
                        # the reverse direction takes its first steps at the end of the sequence
                        begin, end = of_steps if direction == 0 else (steps - of_steps[1], steps - of_steps[0])
                        count = piece_steps * piece_rows * features
                        buffer = workspace.room("piece", count)[:count]
                        piece = buffer.reshape(piece_steps, piece_rows, features)
                        convert(piece[: end - begin, : of_rows[1] - first_row], x[begin:end, first_row : of_rows[1]])
                        slots[Header.INPUT] = address(buffer) - begin * strides[0] - first_row * strides[1]
                    run((direction, direction + 1), of_rows, of_steps)
        for layer in range(1, config.num_layers):
            first_cell = layer * config.num_directions
            if dropout is not None:
                at_output = slots[Header.LENGTH + (first_cell - 1) * Cell.LENGTH + Cell.TARGET] == Header.OUTPUT
                below = workspace.buffers["below"][: output.size]
                dropout(output if at_output else below.reshape(output.shape))
            run((first_cell, first_cell + config.num_directions), (0, rows), (0, steps))
    finally:
        workspace.plan = None  # its slots are no longer the plan's
        kept.idle.append(workspace)
