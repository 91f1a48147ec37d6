"""For the sizes of a call: the plans of the pass that keeps and of the pass back, and what memory they take.

Sequences are positions: the rows of all steps, one step after the other. Every buffer is a part of a flat array of
numbers: ``kept`` lives as long as the call's gradients may be asked for, ``scratch`` for a pass.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array
from numlstm.kernels.plan_layout import LINE, TAPE_REGISTERS, Cell, Header, Partition
from numlstm.kernels.training.backward_layout import OWN_RECORD, RUN, Back, BackCell, ChunkBack, StepBack
from numlstm.runtime.packed_weights import Panels
from numlstm.runtime.planner import Plan, PlanKey, TeamPlan, make_plan, make_team_plan
from numlstm.runtime.schedule import Schedule

CHUNK_BYTES = 256 << 10  # of the gradients of gates in a chunk: what stays in a second-level cache
CHUNK_MOST = 256  # positions of a chunk, of steps of fewer rows
SEGMENT_BYTES = 1 << 20  # of the gates of a segment, which ``memory="low"`` computes again at once
QUAD = 4  # registers of a panel of the pass back


OPTIONAL = {"d_output", "d_input"}  # bases that a call may have nothing for


class Room:
    """Parts of a flat array, each beginning on a cache line."""

    def __init__(self, itemsize: int) -> None:
        self.line = LINE // itemsize
        self.size = 0

    def take(self, count: int) -> int:
        """The offset of a new part of so many numbers."""
        at = self.size
        self.size = -(-(at + count) // self.line) * self.line
        return at


class Slots:
    """The slots of a plan; those that hold addresses hold offsets until a call says from where."""

    def __init__(self, values: Array, *bases: str) -> None:
        self.values, self.bases = values, bases
        self.base_of = np.zeros(len(values), np.intp)  # 0: none
        self.optional: list[tuple[int, Array]] = []

    def put(self, base: str, slot: int, offset: int) -> None:
        """A slot for the address of the number at an offset in what the call has by the name of ``base``."""
        self.values[slot], self.base_of[slot] = offset, self.bases.index(base) + 1

    def finish(self, itemsize: int) -> None:
        """Count offsets in bytes from here on."""
        self.values[self.base_of > 0] *= itemsize
        self.optional = [
            (n, np.flatnonzero(self.base_of == n + 1)) for n, base in enumerate(self.bases) if base in OPTIONAL
        ]

    def at(self, *addresses: int) -> Array:
        """A plan to run, with the bases at these addresses; an OPTIONAL one may be 0, as its slots then are."""
        values: Array = self.values + np.array((0, *addresses)).take(self.base_of)
        for n, places in self.optional:
            if addresses[n] == 0:
                values[places] = 0
        return values


class TrainingPlan(NamedTuple):
    """What the passes over positions of some sizes need."""

    steps: int
    rows: int
    positions: int
    sizes: Array | None
    layout: KeptLayout
    forward: Slots
    backward: Slots
    forward_scratch: int
    backward_scratch: int
    transposed: int
    between: tuple[int, ...]  # where in the scratch the gradients of what a layer reads are, in turns
    tables: list[StepTables]  # of each direction; the slots have their addresses
    tape: int  # with ``memory="low"``: numbers of the gates of a segment; else 0
    long: bool  # whether a forward pass has enough work for more than one thread
    teams: dict[int, ForwardTeam | None]  # by the limit of threads, made on first use; None for one thread
    schedules: dict[int, Schedule | None]  # likewise for the pass back

    @property
    def kept(self) -> int:
        """Numbers that live on; the input comes first."""
        return self.layout.size


class ForwardTeam(NamedTuple):
    """How threads share a forward pass."""

    slots: Slots
    scratch: int
    own: tuple[int, ...]  # slots of buffers of which each thread has its own
    plan: TeamPlan


class Segment(NamedTuple):
    """Chunks whose gates are in memory at once: ranges of chunks in the order of the pass back, steps and positions."""

    chunks: tuple[int, int]
    steps: tuple[int, int]
    positions: tuple[int, int]


class StepTables:
    """The steps of one direction in the order of the pass back, and how they make chunks and runs.

    Parameters
    ----------
    sizes : array of int64, (T,)
        How many rows take each step.
    reverse : bool
        Whether the direction runs from the last step to the first.
    chunk_rows : int
        Positions that a chunk may have, at least those of a run.
    segment_rows : int
        Positions that a segment may have, at least those of a chunk; 0 for a single one. Each begins with states that
        are kept, as a sequence by itself does.

    Attributes
    ----------
    steps, chunks : array of int64
        Records of ``StepBack`` and of ``ChunkBack``.
    segments : list of Segment
    """

    def __init__(self, sizes: Array, reverse: bool, chunk_rows: int, segment_rows: int = 0) -> None:
        begins, order = np.cumsum(sizes) - sizes, np.arange(len(sizes))[:: 1 if reverse else -1]
        earlier = order + (1 if reverse else -1)
        there = (earlier >= 0) & (earlier < len(sizes))
        before, rows = np.where(there, earlier, 0), sizes[order]
        ends, done = run_ends(rows, chunk_rows), np.cumsum(rows)
        last = np.flatnonzero(ends == 2)  # of each chunk
        first = np.concatenate([[0], last[:-1] + 1])
        positions = np.diff(done[last], prepend=0)
        self.steps = np.empty((len(sizes), StepBack.LENGTH), np.int64)
        self.steps[:, StepBack.ROWS], self.steps[:, StepBack.BEGIN] = rows, begins[order]
        self.steps[:, StepBack.BEFORE] = begins[before]
        self.steps[:, StepBack.ROWS_BEFORE] = np.where(there, np.minimum(sizes[before], rows), 0)
        self.steps[:, StepBack.CHUNK_ROW] = done - rows - np.repeat(done[last] - positions, last + 1 - first)
        runs, begun = [], 0
        for end in done[ends > 0].tolist():  # a step of more rows than a run may have is several
            runs += [*range(begun + RUN, end, RUN), end]
            begun = end
        stops = np.array(runs)
        chunk_of = np.searchsorted(done[last], stops)
        counts = np.bincount(chunk_of, minlength=len(last))
        # of each chunk a 0, and then where its runs end
        self.runs = np.insert(stops - (done[last] - positions)[chunk_of], np.cumsum(counts) - counts, 0)
        self.chunks = np.empty((len(last), ChunkBack.LENGTH), np.int64)
        self.chunks[:, ChunkBack.FIRST], self.chunks[:, ChunkBack.STEPS] = first, last + 1 - first
        self.chunks[:, ChunkBack.POSITIONS] = positions
        self.chunks[:, ChunkBack.ROWS] = np.maximum.reduceat(rows, first)
        at = np.cumsum(counts + 1) - (counts + 1)
        self.chunks[:, ChunkBack.RUNS] = self.runs.ctypes.data + self.runs.itemsize * at
        self.chunks[:, ChunkBack.RUN_COUNT] = counts
        self.segments: list[Segment] = []
        begin = held = 0
        for n, count in enumerate(positions.tolist()):
            held += count
            is_last = n + 1 == len(positions)
            if is_last or (segment_rows and held + positions[n + 1] > segment_rows):
                steps = sorted((int(order[first[begin]]), int(order[last[n]])))
                to = int(begins[steps[1]] + sizes[steps[1]])
                self.segments.append(Segment((begin, n + 1), (steps[0], steps[1] + 1), (int(begins[steps[0]]), to)))
                self.steps[last[n], StepBack.ROWS_BEFORE] = 0
                begin, held = n + 1, 0

    @property
    def positions(self) -> int:
        """Those of the largest chunk."""
        return int(self.chunks[:, ChunkBack.POSITIONS].max())


def run_ends(rows: Array, chunk_rows: int) -> Array:
    """1 where a run ends, 2 where a chunk does: a run is as many whole steps as have at most RUN rows.

    >>> run_ends(np.array([30, 30, 30, 30, 30]), 130).tolist()
    [0, 1, 0, 2, 2]
    """
    ends = np.zeros(len(rows), np.int64)
    if len(rows) and rows[0] == rows[-1]:  # of one size, for packed ones only fall or only rise
        of_run = max(1, RUN // int(rows[0]))
        ends[of_run - 1 :: of_run] = 1
        runs = max(1, chunk_rows // (of_run * int(rows[0])))
        ends[runs * of_run - 1 :: runs * of_run] = 2
    else:
        of_run = of_chunk = 0
        for n, count in enumerate(rows.tolist()):
            if n and of_run + count > RUN:
                ends[n - 1], of_chunk, of_run = 1, of_chunk + of_run, 0
                if of_chunk + RUN > chunk_rows:
                    ends[n - 1], of_chunk = 2, 0
            of_run += count
    ends[-1:] = 2
    return ends


class KeptLayout(NamedTuple):
    """Where the parts of what a forward pass keeps begin; the input is at 0."""

    hidden: tuple[int, ...]  # the sequence that each layer puts out
    dropped: tuple[int, ...]  # and what the next one reads, where dropout makes that another one
    initial: tuple[int, int]  # h_0 and c_0
    gates: list[int]  # of each cell
    size: int
    drops: bool
    # with ``memory="low"``: for each cell, the states with which its segments begin, in the order of the pass back
    states: list[list[tuple[int, int]]]


def kept_layout(config: Config, lanes: int, itemsize: int, positions: int, rows: int, drops: bool) -> KeptLayout:
    """Lay out what a forward pass keeps. Positions and rows may be symbols that stand for ints."""
    cells = config.num_layers * config.num_directions
    kept, hidden, initial = _sequences(config, itemsize, positions, rows)
    features = config.num_directions * config.output_size
    dropped = tuple(kept.take(positions * features) for _ in hidden[:-1]) if drops else hidden[:-1]
    of_cell = positions * tape_row(config, lanes)
    gates = [kept.take(of_cell) for _ in range(cells)]
    return KeptLayout(hidden, dropped, initial, gates, kept.size, drops, [])


def low_layout(
    config: Config, itemsize: int, positions: int, rows: int, drops: bool, tables: list[StepTables]
) -> KeptLayout:
    """The same with ``memory="low"``: gates and what dropout leaves are made again, each in a buffer of its own."""
    kept, hidden, initial = _sequences(config, itemsize, positions, rows)
    states = []
    for n, (_, direction, _) in enumerate(config.cells()):
        of_cell = [
            (kept.take(rows * config.output_size), kept.take(rows * config.hidden_size))
            for _ in tables[direction].segments[:-1]
        ]
        first = initial[0] + n * rows * config.output_size, initial[1] + n * rows * config.hidden_size
        states.append([*of_cell, first])
    dropped = (0,) * len(hidden[:-1]) if drops else hidden[:-1]
    return KeptLayout(hidden, dropped, initial, [0] * len(states), kept.size, drops, states)


def _sequences(
    config: Config, itemsize: int, positions: int, rows: int
) -> tuple[Room, tuple[int, ...], tuple[int, int]]:
    """Room for the input, what each layer puts out, and the initial states."""
    features, cells = config.num_directions * config.output_size, config.num_layers * config.num_directions
    kept = Room(itemsize)
    kept.take(positions * config.input_size)
    hidden = tuple(kept.take(positions * features) for _ in range(config.num_layers))
    return kept, hidden, (kept.take(cells * rows * config.output_size), kept.take(cells * rows * config.hidden_size))


def tape_row(config: Config, lanes: int) -> int:
    """Numbers of a position in TAPE."""
    return -(-config.hidden_size // lanes) * TAPE_REGISTERS * lanes


def make_training_plan(
    panels: Panels, steps: int, rows: int, sizes: Array | None, drops: bool, low: bool = False
) -> TrainingPlan:
    """The plan for a batch of one length, or for as many rows a step as ``sizes`` says.

    Parameters
    ----------
    panels : Panels
    steps, rows : int
        Of the longest sequence, and of the first step.
    sizes : array of int64, (steps,), or None
    drops : bool
        Whether what a layer reads is not what the one below has put out.
    low : bool
        Whether gates are computed again, segment by segment.
    """
    config, lanes, itemsize = panels.config, panels.lanes, panels.dtype.itemsize
    if low and sizes is None:
        sizes = np.full(steps, rows)  # a packed sequence, of which some steps can be run
    every = np.full(steps, rows) if sizes is None else sizes
    positions, row = int(every.sum()), tape_row(config, lanes)
    chunk = min(CHUNK_MOST, max(RUN, CHUNK_BYTES // (4 * config.hidden_size * itemsize)))
    segment = max(1, SEGMENT_BYTES // (row * itemsize)) if low else 0
    tables = [StepTables(every, bool(direction), chunk, segment) for direction in range(config.num_directions)]
    if low:
        layout = low_layout(config, itemsize, positions, rows, drops, tables)
        largest = max(part.positions[1] - part.positions[0] for of_one in tables for part in of_one.segments)
    else:
        layout, largest = kept_layout(config, lanes, itemsize, positions, rows, drops), 0
    single = make_plan(panels, *_forward_key(panels, steps, rows, sizes), sizes=sizes)
    forward, forward_scratch = _forward_slots(panels, single, rows, sizes, layout)
    backward = _BackwardPlan(panels, rows, positions, layout, tables)
    return TrainingPlan(
        steps, rows, positions, sizes, layout, forward, backward.slots, forward_scratch, backward.scratch.size,
        backward.transposed.size, backward.between, tables, largest * row, single.long, {}, {},
    )  # fmt: skip


def make_forward_team(panels: Panels, plan: TrainingPlan, limit: int) -> ForwardTeam | None:
    """How at most ``limit`` threads share the forward pass of a plan; None if one is to run it alone."""
    key, part = _forward_key(panels, plan.steps, plan.rows, plan.sizes), panels.config
    if plan.tape:
        part = part._replace(num_layers=1, bidirectional=False)
    elif plan.layout.drops:
        part = part._replace(num_layers=1)
    shared = make_team_plan(panels, key, limit, plan.sizes, part)
    if shared is None:
        return None
    slots, scratch = _forward_slots(panels, shared.caller, plan.rows, plan.sizes, plan.layout)
    together = shared.schedule.partition == Partition.BLOCKS
    return ForwardTeam(slots, scratch, () if together else (Header.GATES, Header.HIDDEN), shared)


def _forward_key(panels: Panels, steps: int, rows: int, sizes: Array | None) -> PlanKey:
    """What the engine's plan is made for: sequences of positions without a gap."""
    config, itemsize = panels.config, panels.dtype.itemsize
    strides, output_strides = (
        (0 if sizes is not None else rows * width * itemsize, width * itemsize, itemsize)
        for width in (config.input_size, config.num_directions * config.output_size)
    )
    return (steps, rows, config.input_size), strides, output_strides, 0


def _forward_slots(panels: Panels, plan: Plan, rows: int, sizes: Array | None, layout: KeptLayout) -> tuple[Slots, int]:
    """The engine's own plan for these sizes, but that every layer writes a sequence of its own, and keeps."""
    config, itemsize, scratch = panels.config, panels.dtype.itemsize, Room(panels.dtype.itemsize)
    row, steps = tape_row(config, panels.lanes), plan.slots[Header.STEPS]
    slots = Slots(plan.slots.copy(), "kept", "scratch", "panels", "h_n", "c_n", "dropped")
    for n, (layer, direction, _) in enumerate(config.cells()):
        cell = Header.LENGTH + n * Cell.LENGTH
        if layer > 0:  # both are read and written through BELOW, which is where the kept numbers begin
            apart = layout.drops and layout.states
            slots.values[cell + Cell.SOURCE] = Header.OUTPUT if apart else Header.BELOW
            slots.values[cell + Cell.SOURCE_AT] += layout.dropped[layer - 1]
        slots.values[cell + Cell.TARGET] = Header.BELOW
        slots.values[cell + Cell.TARGET_AT] += layout.hidden[layer]
        slots.values[cell + Cell.TAPE_ROW] = row
        slots.values[cell + Cell.TAPE_CELL] = layout.gates[n]
        if sizes is None:
            last = (steps - 1) * rows * row if direction else 0
            slots.values[cell + Cell.TAPE_CELL] += last
            slots.values[cell + Cell.TAPE_STEP] = -rows * row if direction else rows * row
    for slot in (Header.INPUT, Header.BELOW, Header.TAPE):
        slots.put("kept", slot, 0)
    for slot, base, offset in (
        (Header.H_0, "kept", layout.initial[0]),
        (Header.C_0, "kept", layout.initial[1]),
        (Header.H_N, "h_n", 0),
        (Header.C_N, "c_n", 0),
        (Header.PANELS, "panels", 0),
        (Header.OUTPUT, "dropped", 0),
    ):
        slots.put(base, slot, offset)
    slots.put("scratch", Header.GATES, scratch.take(plan.gates))
    slots.put("scratch", Header.HIDDEN, scratch.take(plan.hidden))
    slots.finish(itemsize)
    return slots, scratch.size


class _BackwardPlan:
    """Slots of a pass back, and the parts of its scratch."""

    def __init__(self, panels: Panels, rows: int, positions: int, layout: KeptLayout, tables: list[StepTables]) -> None:
        config, itemsize = panels.config, panels.dtype.itemsize
        self.panels, self.config, self.rows, self.tables = panels, config, rows, tables
        self.scratch, self.transposed = Room(itemsize), Room(itemsize)
        cells, features = config.num_layers * config.num_directions, config.num_directions * config.output_size
        self.slots = Slots(
            np.zeros(Back.LENGTH + cells * BackCell.LENGTH + OWN_RECORD, np.int64),
            "kept", "scratch", "panels", "transposed", "d_h", "d_c", "gradients", "d_output", "d_input", "dropped",
        )  # fmt: skip
        self._header(max(of_one.positions for of_one in tables))
        layers = config.num_layers
        self.between = tuple(self.scratch.take((layers > n) * positions * features) for n in (1, 2))
        gradients = 0
        for n, (layer, direction, _) in enumerate(config.cells()):
            cell = Back.LENGTH + n * BackCell.LENGTH
            self._sizes(cell, n, layer)
            put, inputs = self.slots.put, config.layer_input_size(layer)
            apart = layer > 0 and layout.drops and layout.states
            put("dropped" if apart else "kept", cell + BackCell.X, 0 if layer == 0 else layout.dropped[layer - 1])
            put("kept", cell + BackCell.H, layout.hidden[layer] + direction * config.output_size)
            put("kept", cell + BackCell.H_0, layout.initial[0] + n * rows * config.output_size)
            put("kept", cell + BackCell.C_0, layout.initial[1] + n * rows * config.hidden_size)
            put("d_h", cell + BackCell.D_H, n * rows * config.output_size)
            put("d_c", cell + BackCell.D_C, n * rows * config.hidden_size)
            at = direction * config.output_size
            if layer == config.num_layers - 1:
                put("d_output", cell + BackCell.D_OUTPUT, at)
            else:
                put("scratch", cell + BackCell.D_OUTPUT, self.between[layer % 2] + at)
            if layer == 0:
                put("d_input", cell + BackCell.D_INPUT, 0)
            else:
                put("scratch", cell + BackCell.D_INPUT, self.between[(layer - 1) % 2])
            values = self.slots.values
            values[cell + BackCell.TAPE_AT] = layout.gates[n]
            of_direction = tables[direction]
            values[cell + BackCell.STEP_TABLE] = of_direction.steps.ctypes.data
            values[cell + BackCell.CHUNK_TABLE] = of_direction.chunks.ctypes.data
            values[cell + BackCell.CHUNKS] = len(of_direction.chunks)
            values[cell + BackCell.X_ROW] = values[cell + BackCell.D_INPUT_ROW] = inputs
            values[cell + BackCell.H_ROW] = values[cell + BackCell.D_OUTPUT_ROW] = features
            values[cell + BackCell.D_INPUT_ADDED] = direction
            gradients = self._gradients(cell, layer, gradients)
        self.slots.finish(itemsize)

    def _gradients(self, cell: int, layer: int, at: int) -> int:
        """Where the gradients of a cell's parameters go, from ``at`` on; where those of the next one do."""
        of_name = {"weight_ih": BackCell.D_WEIGHT_IH, "weight_hh": BackCell.D_WEIGHT_HH}
        of_name |= {"bias_ih": BackCell.D_BIAS, "weight_hr": BackCell.D_WEIGHT_HR}
        for name, shape in self.config.cell_shapes(layer).items():
            if name in of_name:
                self.slots.put("gradients", cell + of_name[name], at)
            at += prod(shape)
        return at

    def _header(self, chunk: int) -> None:
        config, lanes = self.config, self.panels.lanes
        values, put, take = self.slots.values, self.slots.put, self.scratch.take

        def filled(count: int) -> int:
            return -(-count // lanes) * lanes

        inputs, outputs, units = (
            max(config.layer_input_size(layer) for layer in range(config.num_layers)),
            config.output_size,
            config.hidden_size,
        )
        values[Header.CELLS_TO] = config.num_layers * config.num_directions
        values[Header.ROWS], values[Back.DIRECTIONS] = self.rows, config.num_directions
        values[Back.CLEAR] = values[Back.FINISH] = 1
        values[Header.PARTITION], values[Header.NUM_CHUNKS], values[Header.RANGES] = Partition.ROWS, 1, 1
        values[Back.BIAS], values[Back.CHUNK_ROWS] = config.bias, chunk
        # an odd number of cache lines, so that the same number of many positions is not in the same set of a cache
        line = LINE // self.panels.dtype.itemsize
        da_row = -(-4 * units // (QUAD * lanes)) * QUAD * lanes
        da_row = (-(-da_row // line) | 1) * line
        values[Back.DA_ROW] = da_row
        put("panels", Header.PANELS, 0)
        put("transposed", Back.TRANSPOSED, 0)
        put("kept", Header.TAPE, 0)
        projected = config.proj_size > 0
        for slot, count in (
            (Back.DA, chunk * da_row),
            (Back.SOURCES, chunk * filled(inputs + outputs)),
            (Back.SUMS, 4 * units * filled(inputs + outputs)),
            (Back.BIAS_SUMS, da_row),
            (Back.DX_SUMS, chunk * filled(inputs)),
            (Back.DH, self.rows * filled(outputs)),
            (Back.DT, projected * chunk * filled(outputs)),
            (Back.DM, projected * self.rows * filled(units)),
            (Back.M, projected * chunk * filled(units)),
            (Back.M_SUMS, projected * outputs * filled(units)),
        ):
            put("scratch", slot, take(count))

    def _sizes(self, cell: int, n: int, layer: int) -> None:
        config, lanes, values = self.config, self.panels.lanes, self.slots.values
        inputs, outputs, units = config.layer_input_size(layer), config.output_size, config.hidden_size
        layout, take = self.panels.layout(n), self.transposed.take
        for slot, value in (
            (BackCell.INPUTS, inputs),
            (BackCell.OUTPUTS, outputs),
            (BackCell.UNITS, units),
            (BackCell.PROJECTED, config.proj_size > 0),
            (BackCell.PANEL, layout.panel),
            (BackCell.HR_PANEL, layout.hr_panel),
            (BackCell.IH_TRANSPOSED, take(4 * units * -(-inputs // lanes) * lanes)),
            (BackCell.HH_TRANSPOSED, take(4 * units * -(-outputs // lanes) * lanes)),
            (BackCell.HR_TRANSPOSED, take(config.proj_size * -(-units // lanes) * lanes)),
        ):
            values[cell + slot] = value


def gradient_places(config: Config) -> list[tuple[str, int, int, tuple[int, ...], str | None]]:
    """Of each parameter: name, begin and end in the array of all gradients, shape, and whose gradient is the same."""
    places, at = [], 0
    for name, shape in config.parameter_shapes().items():
        same = name.replace("_hh", "_ih") if name.startswith("bias_hh") else None
        places.append((name, at, at + prod(shape), shape, same))
        at += prod(shape)
    return places
