"""``memory="low"``: the passes of a tape that keeps h alone, and the states with which its segments begin.

The pass back runs the forward kernel that keeps over a segment of a cell, and then the backward kernel, which goes on
with the sums of the segment before. Both compute what they would have over the whole sequence, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numlstm.autodiff.plans import Segment, tape_row
from numlstm.autodiff.tape import Tape, forward_team
from numlstm.autodiff.teams import Runner, run_alone
from numlstm.base.typing import Array
from numlstm.kernels.loading.entry_points import Forward
from numlstm.kernels.plan_layout import Cell, Header, UniformRun
from numlstm.kernels.training.backward_layout import Back, BackCell, ChunkBack
from numlstm.runtime.object_layout import address
from numlstm.runtime.planner import uniform_runs
from numlstm.runtime.schedule import Schedule
from numlstm.runtime.workers import Team


class Segments:
    """Runs a forward kernel over segments of the cells of a tape.

    Parameters
    ----------
    tape : Tape
    kernel : callable
        The engine's, or the one that keeps.
    h_n, c_n : array
        Of all cells; what a segment ends with.
    dropped : array or None
        What dropout has left of the layer below.
    """

    def __init__(self, tape: Tape, kernel: Forward, h_n: Array, c_n: Array, dropped: Array | None) -> None:
        self.tape, self.kernel, self.held = tape, kernel, (tape, h_n, c_n, dropped)
        plan, self.shared = tape.plan, forward_team(tape.panels, tape.plan)
        size, bound = plan.forward_scratch, plan.forward
        if self.shared is not None:
            size, bound = self.shared.scratch, self.shared.slots
        self.scratch = tape.owner.lease(size)
        bases = tape.buffer, self.scratch, tape.panels.data, h_n, c_n
        self.slots = bound.at(*map(address, bases), 0 if dropped is None else address(dropped))
        sizes: Any = plan.sizes
        self.runs = uniform_runs(sizes)

    def end(self) -> None:
        """Give back the buffers."""
        self.tape.owner.give_back(self.scratch)

    def run(self, n: int, segment: Segment, states: tuple[int, int], gates: int = 0) -> None:
        """The steps of a segment in the cell n, from the states kept there on; ``gates`` is the address of TAPE."""
        behind = int(self.slots[Header.PACKED]) + Cell.LENGTH
        runs = self._runs_of(*segment.steps)
        slots = np.concatenate([self.slots[:behind], runs.ravel()])
        slots[Header.UNIFORM_RUN_COUNT] = len(runs)
        slots[Header.CELLS_FROM], slots[Header.CELLS_TO] = n, n + 1
        cell = Header.LENGTH + n * Cell.LENGTH
        for slot, at, of_cell in ((Header.H_0, states[0], Cell.H_AT), (Header.C_0, states[1], Cell.C_AT)):
            slots[slot] = address(self.tape.buffer) + (at - slots[cell + of_cell]) * self.tape.buffer.itemsize
        slots[Header.TAPE] = gates
        if self.shared is None:
            self.kernel(address(slots))
            return
        schedule = self.shared.plan.schedule
        with Team(schedule.num_threads - 1) as team:
            runner = Runner(team, self.kernel, self.tape.owner.run_forward, self.tape.panels.config.num_layers)
            runner.run(slots, schedule, self.scratch, self.shared.own, self.held)

    def _runs_of(self, begin: int, end: int) -> Array:
        """The uniform runs of some steps."""
        first = np.maximum(self.runs[:, UniformRun.BEGIN], begin)
        last = np.minimum(self.runs[:, UniformRun.BEGIN] + self.runs[:, UniformRun.STEPS], end)
        runs = self.runs.copy()
        runs[:, UniformRun.BEFORE] += (first - runs[:, UniformRun.BEGIN]) * runs[:, UniformRun.ROWS]
        runs[:, UniformRun.BEGIN], runs[:, UniformRun.STEPS] = first, last - first
        inside: Array = runs[last > first]
        return inside


def forward(
    kernel: Forward,
    tape: Tape,
    h_n: Array,
    c_n: Array,
    dropout: Callable[[Array], None] | None,
    mask_shape: tuple[int, ...],
) -> None:
    """The forward pass, by the engine's own kernel."""
    config, plan = tape.panels.config, tape.plan
    dropped = None if dropout is None else tape.owner.lease(plan.positions * config.num_directions * config.output_size)
    segments = Segments(tape, kernel, h_n, c_n, dropped)
    for n, (layer, direction, _) in enumerate(config.cells()):
        if layer > 0 and direction == 0 and dropout is not None and dropped is not None:
            mask = np.ones(mask_shape, tape.panels.dtype)
            dropout(mask)
            tape.masks.append(np.packbits(mask.reshape(-1) != 0))
            tape.scale = max(tape.scale, mask.max())
            _drop(tape, layer, mask, dropped)
        parts = list(zip(plan.tables[direction].segments, plan.layout.states[n], strict=True))[::-1]
        for k, (segment, states) in enumerate(parts):
            if k > 0:
                for at, state in zip(states, (h_n[n], c_n[n]), strict=True):
                    tape.part(at, *state.shape)[...] = state
            segments.run(n, segment, states)
    segments.end()
    if dropped is not None:
        tape.owner.give_back(dropped)


def mask_of(tape: Tape, layer: int) -> Array:
    """The mask of what a layer has put out."""
    features = tape.panels.config.num_directions * tape.panels.config.output_size
    bits = np.unpackbits(tape.masks[layer], count=tape.plan.positions * features)
    mask: Array = bits * tape.scale
    return mask


def _drop(tape: Tape, layer: int, mask: Array, dropped: Array) -> None:
    """What the layer reads of the one below."""
    below = tape.sequence(tape.plan.layout.hidden[layer - 1]).reshape(-1)
    with np.errstate(invalid="ignore"):  # as in the engine, infinity times 0 is NaN
        np.multiply(below, mask.reshape(-1), out=dropped[: below.size])


def backward(
    tape: Tape, slots: Array, schedule: Schedule | None, below: Callable[[int], None], held: tuple[Any, ...]
) -> None:
    """The pass back over slots that are bound, but for the gates.

    Parameters
    ----------
    tape : Tape
    slots : array of int64
        For the backward kernel.
    schedule : Schedule or None
        How threads share its part; None for one thread.
    below : callable
        Applies the mask below a layer to the gradient by what that layer has read.
    held : tuple
        All that the slots have addresses of.
    """
    owner, panels, plan, config = tape.owner, tape.panels, tape.plan, tape.panels.config
    gates, itemsize, row = owner.lease(plan.tape), panels.dtype.itemsize, tape_row(config, panels.lanes)
    dropped = owner.lease(plan.positions * config.num_directions * config.output_size) if tape.masks else None
    h_n, c_n = (np.empty(shape, panels.dtype) for shape in config.state_shapes(plan.rows))
    segments = Segments(tape, owner.run_forward, h_n, c_n, dropped)
    transpose, slots[Back.DIRECTIONS] = slots[Back.TRANSPOSE], 1

    def run(n: int, segment: Segment, states: tuple[int, int], first: bool, last: bool) -> None:
        """A segment of the cell n; the gates of its first position are to be the first in their buffer."""
        at = address(gates) - segment.positions[0] * row * itemsize
        segments.run(n, segment, states, at)
        own, cell, (begin, end) = slots.copy(), Back.LENGTH + n * BackCell.LENGTH, segment.chunks
        own[Header.CELLS_FROM], own[Header.CELLS_TO], own[Header.TAPE] = n, n + 1, at
        own[Back.TRANSPOSE], own[Back.CLEAR], own[Back.FINISH] = transpose * first, first, last
        own[cell + BackCell.CHUNK_TABLE] += begin * ChunkBack.LENGTH * own.itemsize
        own[cell + BackCell.CHUNKS] = end - begin
        for slot, offset in zip((BackCell.H_0, BackCell.C_0), states, strict=True):
            own[cell + slot] = address(tape.buffer) + offset * itemsize
        if n >= config.num_directions and dropped is not None:
            own[cell + BackCell.X] = address(dropped)
        if schedule is None:
            run_alone(owner.run_backward, own)
            return
        with Team(schedule.num_threads - 1) as team:
            runner = Runner(team, owner.run_backward, owner.run_forward, config.num_layers)
            runner.run(own, schedule, None, (), (held, gates, dropped))

    for layer in range(config.num_layers)[::-1]:
        if layer > 0 and dropped is not None:
            _drop(tape, layer, mask_of(tape, layer - 1), dropped)
        for direction in range(config.num_directions):
            n, of_cell = layer * config.num_directions + direction, plan.tables[direction].segments
            for k, (segment, states) in enumerate(zip(of_cell, plan.layout.states[n], strict=True)):
                run(n, segment, states, k == 0, k + 1 == len(of_cell))
        if layer > 0 and tape.masks:
            below(layer)
    segments.end()
    owner.give_back(gates)
    if dropped is not None:
        owner.give_back(dropped)
