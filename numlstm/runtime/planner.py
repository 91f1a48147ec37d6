"""For the sizes of a call: which tiles, what is hoisted, how rows are grouped, and what memory it takes.

A plan is made once for a shape and kept. It is the flat array that ``kernels/plan_layout.py`` describes,
with addresses left open; a call copies it into the workspace that it leases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, ClassVar, NamedTuple
from weakref import WeakSet

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape
from numlstm.kernels.plan_layout import LINE_SLOTS, ArraySpec, Cell, Header, Partition, Share, UniformRun
from numlstm.runtime import object_layout
from numlstm.runtime.packed_weights import Panels
from numlstm.runtime.schedule import START_WORTH, USUAL, Overrides, Schedule, choose, microseconds
from numlstm.runtime.threads import EPOCH, YIELD

CACHE_L1 = 32 << 10
CACHE_L2 = 512 << 10  # what of a second-level cache can be counted on
WORKING_SET = 256 << 10  # bytes of h and c of a group of rows: what stays in a second-level cache beside the panels
GATES_MOST = 4 << 20  # bytes: the hoisted projection of a chunk may take no more
FEW_ROWS = 24  # fewer do not use the panels for long enough: their projection is hoisted
HIDDEN_MOST = 6 << 20  # bytes: likewise h before W_hr; all threads together, both of them


OBJECTS = {  # for kernels that take arrays out of a tuple
    Header.ITEMS_AT: object_layout.ITEMS,
    Header.TYPE_AT: object_layout.TYPE,
    Header.DATA_AT: object_layout.DATA,
    Header.NDIM_AT: object_layout.NDIM,
    Header.SIZES_AT: object_layout.SIZES,
    Header.STRIDES_AT: object_layout.STRIDES,
    Header.DTYPE_AT: object_layout.DTYPE,
    Header.ABSENT: id(object_layout.ABSENT),
}


class Settings(NamedTuple):
    """What tests force, so that every path runs at small sizes. Results never depend on it."""

    hoist: bool | None = None  # None: where it pays
    hoist_steps: int = 0  # steps of a chunk; 0: as many as fit a cache
    beyond_l2: bool | None = None  # whether panels are too big for the second cache; None: by their size
    mr: int = 1 << 30  # rows of the tallest tile
    k_block_min: int = 0  # terms from which tiles of rows take turns at a panel; 0: by the first cache
    group: int = 0  # rows that pass through all layers together; 0: as many as fit a cache
    convert_bytes: int = 4 << 20  # how much of a foreign input is converted at once
    schedule: Overrides = USUAL  # how threads share a call


settings = Settings()
PLANS_KEPT = 64  # shapes whose plans a model remembers


class Plan(NamedTuple):
    """The slots for one shape, and the numbers that each buffer of the workspace needs to hold."""

    slots: Array
    below: int
    gates: int
    hidden: int
    direct: bool  # whether the kernel can read an input of these strides where it is
    long: bool  # whether there is enough work for more than one thread
    # the same call by so many threads, made when it is first asked for; None where one alone is to do it
    teams: dict[int, TeamPlan | None]


class TeamPlan(NamedTuple):
    """What threads that share a call need: a plan for the one that calls, and one for each of the others."""

    schedule: Schedule
    caller: Plan
    worker: Plan
    record: int  # slots of the record that they share
    brief: bool  # whether it is over before a thread that is yet to be started would be of use


class PlanCache:
    """The plans of one model by shape; forgotten when the settings change.

    ``routes`` is for the engine's short ways by the shape of the input, without and with ``batch_first``, ``latest``
    for those that were of use last; they are forgotten with the plans.
    """

    _all: ClassVar[WeakSet[PlanCache]] = WeakSet()

    def __init__(self) -> None:
        self.by_shape: dict[Any, Plan] = {}
        self.dispatch_table: tuple[dict[Any, Any], dict[Any, Any]] = {}, {}
        self.inline_cache: list[Any] = [None, None]
        PlanCache._all.add(self)

    def make(self, panels: Panels, shape: Shape, strides: Shape, output_strides: Shape, state_rows: int = 0) -> Plan:
        """Make and remember the plan for an input of this shape and these strides, and an output of those."""
        plan = make_plan(panels, shape, strides, output_strides, state_rows)
        if len(self.by_shape) >= PLANS_KEPT:
            self.by_shape.clear()
        key = (shape, strides, output_strides)
        self.by_shape[(*key, state_rows) if state_rows else key] = plan
        return plan

    @staticmethod
    def forget_all() -> None:
        """Let every model plan anew."""
        for plans in list(PlanCache._all):
            plans.inline_cache[:] = None, None
            for remembered in (plans.by_shape, *plans.dispatch_table):
                remembered.clear()


@contextmanager
def override(**changes: Any) -> Iterator[None]:
    """Change the settings for a while (for tests; not safe from several threads)."""
    global settings
    before = settings
    settings = before._replace(**changes)
    PlanCache.forget_all()
    try:
        yield
    finally:
        settings = before
        PlanCache.forget_all()


def make_team_plan(
    panels: Panels, key: tuple[Shape, Shape, Shape], limit: int, state_rows: int = 0, sizes: Array | None = None
) -> TeamPlan | None:
    """How at most ``limit`` threads share the call that `make_plan` plans for these shapes, strides and sizes."""
    config, rows = panels.config, key[0][1]
    chosen = _choose(config, key[0], sizes, panels.dtype.itemsize, limit)
    if chosen is None:
        return None
    # each thread that has gates and a hidden h of its own takes its part of what one thread may
    apart = 1 if chosen.partition == Partition.BLOCKS else chosen.members
    shared = make_plan(panels, *key, state_rows, most_rows=chosen.chunk_rows or rows, apart=apart, sizes=sizes)
    for slot, value in (
        (Header.PARTITION, chosen.partition),
        (Header.RANGES, chosen.ranges),
        (Header.NUM_CHUNKS, chosen.num_chunks),
        (Header.CHUNK_ROWS, chosen.chunk_rows),
        (Header.CHUNK_STEPS, chosen.chunk_steps),
        (Header.YIELD, YIELD),
        (Header.EPOCH, EPOCH),
    ):
        shared.slots[slot] = value
    # of blocks, all threads work on the same gates and the same hidden h: those of the caller
    worker = shared._replace(below=0)
    if chosen.partition == Partition.BLOCKS:
        worker = worker._replace(gates=0, hidden=0)
    record = Share.NEXT_CHUNK + LINE_SLOTS * (chosen.ranges + config.num_layers)
    brief = settings.schedule.partition is None and _alone(config, key[0], sizes, panels.dtype.itemsize) < START_WORTH
    return TeamPlan(chosen, shared, worker, record, brief)


def make_plan(
    panels: Panels,
    shape: Shape,
    strides: Shape,
    output_strides: Shape,
    state_rows: int = 0,
    most_rows: int = 1 << 30,
    apart: int = 1,
    sizes: Array | None = None,
) -> Plan:
    """The plan for an input of this shape and these strides, and an output of those.

    Parameters
    ----------
    panels : Panels
    shape : (int, int, int)
        Length of the sequence, batch size, features.
    strides, output_strides : (int, int, int)
        In bytes, of steps, rows and features.
    state_rows : int
        Rows from a cell's states to those of the next one, where they are parts of larger arrays; 0: the batch size.
    most_rows : int
        Rows that pass through all layers together, at most.
    apart : int
        Threads with buffers of their own, which together may take no more than one.
    sizes : array of int64, (steps,), optional
        Of a packed sequence: how many rows take each step. A stride of steps is 0 where they stand behind one
        another without a gap.
    """
    size, (steps, rows, features), (step, row, feature) = panels.dtype.itemsize, shape, strides
    direct = (feature == size or features == 1) and step % size == 0 and row % size == 0
    source, target = (step // size, row // size), (output_strides[0] // size, output_strides[1] // size)
    config, lanes, itemsize = panels.config, panels.lanes, panels.dtype.itemsize
    directions, outputs, units = config.num_directions, config.output_size, config.hidden_size
    blocks = -(-units // lanes)
    slots = np.zeros(Header.LENGTH + Cell.LENGTH * config.num_layers * directions, np.int64)
    group = settings.group or max(96, WORKING_SET // (itemsize * (units + outputs)) // 12 * 12)
    group = min(group, most_rows)
    if config.proj_size:
        group = min(group, max(1, HIDDEN_MOST // apart // (blocks * lanes * itemsize)))
    header = {
        Header.CELLS_TO: config.num_layers * directions,
        Header.STEPS_TO: steps,
        Header.ROWS_TO: rows,
        Header.STEPS: steps,
        Header.ROWS: rows,
        Header.GROUP: group,
        Header.MR: settings.mr,
        Header.K_BLOCK_MIN: settings.k_block_min or CACHE_L1 // (4 * lanes * itemsize),
    }
    for slot, value in (header | OBJECTS).items():
        slots[slot] = value
    group_rows = min(group, rows)
    positions = steps * rows if sizes is None else int(sizes.sum())
    below = (rows * directions * outputs if sizes is None else 0, directions * outputs)
    gates = 0
    for n, (layer, direction, _) in enumerate(config.cells()):
        cell = slots[Header.LENGTH + n * Cell.LENGTH :][: Cell.LENGTH]
        # the last layer writes the output; below it, layers take turns so that one more sequence is enough
        writes_output = (config.num_layers - 1 - layer) % 2 == 0
        reads = (Header.INPUT, source) if layer == 0 else _place(not writes_output, target, below)
        writes = _place(writes_output, target, below)
        inputs = config.layer_input_size(layer)
        hoisted_rows, sizes_of = group_rows, (inputs, outputs, blocks, lanes, itemsize, GATES_MOST // apart)
        hoist = _hoisted_steps(steps, hoisted_rows, *sizes_of)
        if sizes is not None and not hoist and hoisted_rows >= FEW_ROWS:  # towards the end rows are few
            hoisted_rows = FEW_ROWS - 1
            hoist = _hoisted_steps(steps, hoisted_rows, *sizes_of)
        gates = max(gates, hoist * hoisted_rows * blocks * 4 * lanes)
        layout = panels.layout(n)
        panel_bytes = (layout.bias - layout.panel) * itemsize
        for slots_of, (base, (step, row)), at in (
            ((Cell.SOURCE, Cell.SOURCE_AT, Cell.SOURCE_STEP, Cell.SOURCE_ROW), reads, 0),
            ((Cell.TARGET, Cell.TARGET_AT, Cell.TARGET_STEP, Cell.TARGET_ROW), writes, direction * outputs),
        ):
            if direction and sizes is None:
                at, step = at + (steps - 1) * step, -step
            cell[list(slots_of)] = base, at, step, row
        cell[Cell.INPUTS], cell[Cell.OUTPUTS], cell[Cell.UNITS] = inputs, outputs, units
        cell[Cell.PROJECTED] = config.proj_size > 0
        cell[Cell.PANEL], cell[Cell.BIAS], cell[Cell.HR_PANEL] = layout.panel, layout.bias, layout.hr_panel
        cell[Cell.H_AT], cell[Cell.C_AT] = n * (state_rows or rows) * outputs, n * (state_rows or rows) * units
        cell[Cell.BEYOND_L2] = panel_bytes > CACHE_L2 if settings.beyond_l2 is None else settings.beyond_l2
        cell[Cell.HOIST] = hoist if sizes is None else hoist * hoisted_rows
        cell[Cell.HOIST_ROWS], cell[Cell.BACK] = hoisted_rows, direction
    if sizes is not None:
        slots = _with_uniform_runs(slots, sizes)
    return Plan(
        slots=slots,
        below=positions * directions * outputs if config.num_layers > 1 else 0,
        gates=gates,
        hidden=group_rows * blocks * lanes if config.proj_size else 0,
        direct=direct,
        long=_choose(config, shape, sizes, itemsize, 2) is not None,
        teams={},
    )


def _with_uniform_runs(slots: Array, sizes: Array) -> Array:
    """The slots of a packed sequence: behind them a record for the kernel, and one for all steps of the same rows."""
    begins = np.flatnonzero(np.diff(sizes, prepend=0))
    segments = np.empty((len(begins), UniformRun.LENGTH), np.int64)
    segments[:, UniformRun.BEGIN] = begins
    segments[:, UniformRun.STEPS] = np.diff(begins, append=len(sizes))
    segments[:, UniformRun.ROWS] = sizes[begins]
    segments[:, UniformRun.BEFORE] = (np.cumsum(sizes) - sizes)[begins]
    slots[Header.PACKED], slots[Header.UNIFORM_RUN_COUNT] = slots.size, len(begins)
    return np.concatenate([slots, np.zeros(Cell.LENGTH, np.int64), segments.ravel()])


def _choose(config: Config, shape: Shape, sizes: Array | None, itemsize: int, limit: int) -> Schedule | None:
    """How at most so many threads share a call."""
    steps, rows, _ = shape
    packed_rows = 0 if sizes is None else rows
    return choose(config, steps, _rows(shape, sizes), itemsize, limit, settings.schedule, packed_rows)


def _alone(config: Config, shape: Shape, sizes: Array | None, itemsize: int) -> float:
    """About how many microseconds one thread takes."""
    return microseconds(config, shape[0], _rows(shape, sizes), itemsize)


def _rows(shape: Shape, sizes: Array | None) -> int:
    """Of a step; of a packed sequence on average."""
    return shape[1] if sizes is None else -(-int(sizes.sum()) // shape[0])


def checked(plan: Plan, dtype: np.dtype[Any], shapes: Sequence[Shape]) -> Plan:
    """The same plan for a kernel that checks input, h_0 and c_0 itself: C-contiguous arrays of these shapes."""
    slots = np.concatenate([plan.slots, np.zeros(len(shapes) * ArraySpec.LENGTH, np.int64)])
    slots[Header.CHECKED], slots[Header.TYPE], slots[Header.DTYPE] = 1, id(np.ndarray), id(dtype)
    slots[Header.MISALIGNED], slots[Header.ARRAY_SPECS] = dtype.itemsize - 1, plan.slots.size
    for n, shape in enumerate(shapes):
        strides = [dtype.itemsize * prod(shape[k + 1 :]) for k in range(len(shape))]
        box = slots[plan.slots.size + n * ArraySpec.LENGTH :]
        box[ArraySpec.NDIM] = len(shape)
        box[ArraySpec.SIZE_0 : ArraySpec.SIZE_0 + len(shape)] = shape
        box[ArraySpec.STRIDE_0 : ArraySpec.STRIDE_0 + len(shape)] = strides
    return plan._replace(slots=slots)


def _place(output: bool, target: tuple[int, int], below: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    return (Header.OUTPUT, target) if output else (Header.BELOW, below)


def _hoisted_steps(
    steps: int, rows: int, inputs: int, outputs: int, blocks: int, lanes: int, itemsize: int, gates_most: int
) -> int:
    """Steps of a chunk of the hoisted projection, or 0 where the recurrent tile does it as well.

    It pays where the panels are too big for the first cache, and the recurrence has too few rows to use them for long;
    or where a single panel is, for X and R are then summed as `chain_by_runs` says. Exported libraries follow the same
    rules, in ``export/glue.py``; ``tests/export/test_export.py`` compares the two.
    """
    row_bytes = blocks * 4 * lanes * itemsize
    of_term = 4 * lanes * itemsize
    by_runs = min(inputs, outputs) * of_term >= CACHE_L1
    if steps == 1:  # X is used at once: to store it and read it back costs more, unless panels are larger still
        by_runs = by_runs and (inputs + outputs) * of_term > CACHE_L2 // 4
    fits = gates_most // max(row_bytes * rows, 1)
    wanted = settings.hoist
    if wanted is None:
        panel_bytes = (inputs + outputs) * row_bytes
        pays = (rows < FEW_ROWS and panel_bytes > CACHE_L1) or by_runs
        wanted = pays and steps * rows >= 3 and inputs >= 8 and fits >= 1
    if not wanted:
        return 0
    if settings.hoist_steps:
        return min(settings.hoist_steps, steps)
    # panels beyond the second cache are streamed once a chunk: fewer, longer chunks
    gates_bytes = gates_most // 2 if inputs * row_bytes > CACHE_L2 else gates_most // 8
    most_rows = max(48, gates_bytes // row_bytes)
    return max(1, min(steps, fits, most_rows // rows))
