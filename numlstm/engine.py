"""Runs a plan: converts what must be converted, leases a workspace, calls the kernel."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from .kernels import store
from .kernels.abi import Cell, Header
from .panels import Array, Panels, aligned_empty
from .plan import Plan, make_plan, settings

PLANS_KEPT = 64  # shapes whose plans are remembered
KEEP_BYTES = 16 << 20  # a buffer up to this size is kept however little of it the next call needs

Dropout = Callable[[Array], None]
States = tuple[Array, Array]

# NumPy's C interface fixes where an array keeps the address of its data: right behind the object header.
_DATA = object.__basicsize__
_read_address = ctypes.c_ssize_t.from_address


def address(array: Array) -> int:
    """The address of an array's first element; a tenth of the time of ``array.ctypes.data``."""
    return int(_read_address(id(array) + _DATA).value)


def _address_by_interface(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


_probe = np.empty(3)
if address(_probe) != _address_by_interface(_probe):  # another Python, another layout
    address = _address_by_interface  # type: ignore[assignment]  # noqa: F811


class Workspace:
    """Every buffer that a call writes besides its results, and the plan's slots. One call at a time has it."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.plan: Plan | None = None
        self.buffers = {name: aligned_empty(0, dtype) for name in ("below", "gates", "hidden")}

    def adopt(self, plan: Plan) -> None:
        """Make room for a plan and take over its slots."""
        slots = plan.slots.copy()
        for slot, name in ((Header.BELOW, "below"), (Header.GATES, "gates"), (Header.HIDDEN, "hidden")):
            need, have = getattr(plan, name), self.buffers[name].size
            if need > have or (need < have // 4 and have * self.dtype.itemsize > KEEP_BYTES):
                self.buffers[name] = aligned_empty(0, self.dtype)  # give back before taking
                self.buffers[name] = aligned_empty(need, self.dtype)
            slots[slot] = address(self.buffers[name])
        self.slots = slots
        self.address = address(slots)
        self.plan = plan


class Memory:
    """What a model remembers between calls: plans by shape, and the workspaces that no call uses at the moment."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.plans: dict[Any, Plan] = {}
        self.idle: list[Workspace] = []
        self.run = store.kernel(dtype.name).forward

    def plan(self, panels: Panels, x: Array, output: Array) -> Plan:
        """The plan for arrays of these shapes and strides."""
        key = (x.shape, x.strides, output.strides, settings)
        plan = self.plans.get(key)
        if plan is None:
            size = panels.dtype.itemsize
            source, target = (tuple(s // size for s in a.strides[:2]) for a in (x, output))
            plan = make_plan(panels, x.shape[0], x.shape[1], source, target)
            if len(self.plans) >= PLANS_KEPT:
                self.plans.pop(next(iter(self.plans)), None)
            self.plans[key] = plan
        return plan

    def lease(self, plan: Plan) -> Workspace:
        """A workspace of the caller's own, ready for the plan; to be given back by ``idle.append``."""
        try:
            workspace = self.idle.pop()
        except IndexError:
            workspace = Workspace(self.dtype)
        if workspace.plan is not plan:
            workspace.adopt(plan)
        return workspace


_ADDRESSES = struct.Struct("7q")  # INPUT, H_0, C_0, OUTPUT, H_N, C_N, PANELS
_ADDRESSES_AT = 8 * int(Header.INPUT)


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
    if dropout is not None or not _direct(x, panels.dtype):
        _forward_in_pieces(panels, kept, x, hx, output, h_n, c_n, dropout)
        return
    workspace = kept.lease(kept.plan(panels, x, output))
    h_0, c_0 = (0, 0) if hx is None else (_state(hx[0], h_n), _state(hx[1], c_n))
    _ADDRESSES.pack_into(
        workspace.slots, _ADDRESSES_AT,
        address(x), h_0, c_0, address(output), address(h_n), address(c_n), address(panels.data),
    )  # fmt: skip
    kept.run(workspace.address)
    kept.idle.append(workspace)


def _direct(x: Array, dtype: np.dtype[Any]) -> bool:
    """Whether the kernel can read the array where it is."""
    size = dtype.itemsize
    if x.dtype != dtype or not x.flags.aligned:
        return False
    step, row, feature = x.strides
    return (feature == size or x.shape[2] == 1) and step % size == 0 and row % size == 0


def _state(given: Array, final: Array) -> int:
    """The address of an initial state: its own, or after conversion that of the final state."""
    if given.dtype == final.dtype and given.flags.carray:
        return address(given)
    np.copyto(final, given, casting="unsafe")
    return address(final)


def _forward_in_pieces(
    panels: Panels,
    kept: Memory,
    x: Array,
    hx: States | None,
    output: Array,
    h_n: Array,
    c_n: Array,
    dropout: Dropout | None,
) -> None:
    """The same pass where Python must act in between: the input is converted piece by piece, or dropout applied."""
    config, size = panels.config, panels.dtype.itemsize
    steps, rows, features = x.shape
    directions = config.num_directions
    if rows == 0:
        return
    pieces = not _direct(x, panels.dtype)
    # a piece is some steps of some rows, small enough to be converted into a buffer
    piece_rows = max(1, min(rows, settings.convert_bytes // (features * size))) if pieces else rows
    piece_steps = max(1, min(steps, settings.convert_bytes // (features * size * piece_rows))) if pieces else steps
    buffer = np.empty((piece_steps, piece_rows, features) if pieces else (0, 0, 0), panels.dtype)
    stand_in = np.lib.stride_tricks.as_strided(buffer, x.shape, buffer.strides) if pieces else x
    workspace = kept.lease(kept.plan(panels, stand_in, output))
    slots = workspace.slots
    h_0, c_0 = (0, 0) if hx is None else (_state(hx[0], h_n), _state(hx[1], c_n))
    _ADDRESSES.pack_into(
        slots, _ADDRESSES_AT, address(x), h_0, c_0, address(output), address(h_n), address(c_n), address(panels.data)
    )

    def run(cells: tuple[int, int], of_rows: tuple[int, int], of_steps: tuple[int, int]) -> None:
        slots[[Header.CELLS_FROM, Header.CELLS_TO]] = cells
        slots[[Header.ROWS_FROM, Header.ROWS_TO]] = of_rows
        slots[[Header.STEPS_FROM, Header.STEPS_TO]] = of_steps
        kept.run(workspace.address)

    try:
        for first in range(0, rows, piece_rows):
            of_rows = (first, min(first + piece_rows, rows))
            for direction in range(directions):
                for done in range(0, steps, piece_steps):
                    of_steps = (done, min(done + piece_steps, steps))
                    if pieces:
                        begin, end = of_steps if direction == 0 else (steps - of_steps[1], steps - of_steps[0])
                        part = buffer[: end - begin, : of_rows[1] - first]
                        np.copyto(part, x[begin:end, of_rows[0] : of_rows[1]], casting="unsafe")
                        # where the whole input would begin, if the piece were a part of it
                        slots[Header.INPUT] = address(buffer) - begin * buffer.strides[0] - first * buffer.strides[1]
                    run((direction, direction + 1), of_rows, of_steps)
        for layer in range(1, config.num_layers):
            if dropout is not None:
                cell = Header.LENGTH + (layer - 1) * directions * Cell.LENGTH
                at_output = slots[cell + Cell.TARGET] == Header.OUTPUT
                count = steps * rows * output.shape[2]
                dropout(output if at_output else workspace.buffers["below"][:count].reshape(output.shape))
            run((layer * directions, (layer + 1) * directions), (0, rows), (0, steps))
    finally:
        workspace.plan = None  # its slots no longer are the plan's
        kept.idle.append(workspace)
