"""The rules of a plan, for Python and for kernels: where weights lie, what is hoisted, how rows are grouped.

All of it is integer arithmetic. The engine runs these functions as they are; an exported library has them compiled,
which makes its own plans.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import setitem
from types import SimpleNamespace
from typing import Any, NamedTuple

from numlstm.kernels.plan_layout import BFLOAT16, INT8, LINE, PEEPHOLE_GATES, Cell, Header, lanes_of_last

CACHE_L1 = 32 << 10
CACHE_L2 = 512 << 10  # the part of a second-level cache that can be counted on
WORKING_SET = 256 << 10  # bytes of h and c of a group of rows: they stay in a second-level cache beside the panels
GATES_MOST = 4 << 20  # bytes of the hoisted projection of a chunk
FEW_ROWS = 24  # fewer use a panel too briefly: their projection is hoisted
HIDDEN_MOST = 6 << 20  # bytes of h before W_hr, of all threads together

HEADER, RECORD = int(Header.LENGTH), int(Cell.LENGTH)

Int = int  # an int of Python's or of a kernel's


class Sizes(NamedTuple):
    """The sizes of a model."""

    inputs: int
    units: int
    layers: int
    directions: int
    projected: int  # proj_size; 0 for none
    peepholes: int = 0  # 1: there are


class CallSizes(NamedTuple):
    """The sizes of a call; strides are counted in numbers."""

    steps: int
    rows: int
    source_step: int
    source_row: int
    target_step: int
    target_row: int
    state_rows: int  # from a cell's states to those of the next one
    group_most: int = 1 << 30  # rows that pass through all layers together, at most
    apart: int = 1  # threads with buffers of their own, which share what one may take
    packed: bool = False  # a stride of steps is then 0 where steps stand behind one another without a gap


class Forced(NamedTuple):
    """Choices that tests force; by default each rule decides."""

    group: int = 0
    hoist: int = -1  # 0: never, 1: always
    hoist_steps: int = 0
    beyond_l2: int = -1
    mr: int = 1 << 30
    k_block_min: int = 0


class CellLayout(NamedTuple):
    """Where the parts of a cell begin, and where the last of them ends, counted in numbers."""

    panel: int
    bias: int
    peepholes: int
    hr_panel: int
    end: int


def plan_rules(operations: Any, lanes: int, itemsize: int, weights: str = "") -> SimpleNamespace:
    """The rules for registers of ``lanes`` numbers of ``itemsize`` bytes, and weights that may have fewer.

    ``operations`` are ``inline``, a decorator; ``smaller`` and ``greater`` of two ints; ``store_slot(plan, slot,
    value)``; and ``record_at(plan, slot)``, the part of a plan from a slot on.
    """
    columns = 2 if weights == BFLOAT16 else 4  # registers of memory that hold the weights of four gates
    rounds = weights == INT8
    layout = layout_rules(operations, lanes, columns, rounds)
    hoisting = hoisting_rules(operations, layout, lanes, itemsize, columns)
    buffers = buffer_rules(operations, layout, hoisting, lanes, rounds)
    writer = plan_writer(operations, layout, hoisting, lanes, itemsize)
    sizes = SimpleNamespace(itemsize=itemsize, weight_bytes={BFLOAT16: 2, INT8: 1}.get(weights, itemsize))
    return SimpleNamespace(**vars(sizes), **vars(layout), **vars(hoisting), **vars(buffers), **vars(writer))


def layout_rules(operations: Any, lanes: int, columns: int, rounds: bool) -> SimpleNamespace:
    """Where weights lie."""
    inline = operations.inline
    last_lanes, width = inline(lanes_of_last), 4 * lanes
    behind = 1 if columns < 4 else 0  # numbers that a load of weights in pairs may touch behind a panel

    @inline
    def one_each(features: Int) -> Int:
        return features

    @inline
    def four_each(features: Int) -> Int:
        return ((features + 3) >> 2) + 2

    terms_of = four_each if rounds else one_each  # terms of a panel, as ``Simd.terms``

    @inline
    def blocks_of(units: Int) -> Int:
        return (units + (lanes - 1)) // lanes

    @inline
    def outputs_of(sizes: Sizes) -> Int:
        """Features of h."""
        return sizes.projected if sizes.projected > 0 else sizes.units

    @inline
    def inputs_of(sizes: Sizes, layer: Int) -> Int:
        return sizes.inputs if layer == 0 else sizes.directions * outputs_of(sizes)

    @inline
    def cell_layout(sizes: Sizes, layer: Int, panel: Int) -> CellLayout:
        """Of a cell whose panels begin at ``panel``, as ``runtime/packed_weights.py`` describes them."""
        blocks = blocks_of(sizes.units)
        packed = (blocks - 1) * lanes + last_lanes(sizes.units, lanes)
        bias = panel + packed * (terms_of(inputs_of(sizes, layer)) + terms_of(outputs_of(sizes))) * columns
        peepholes = bias + blocks * width
        hr_panel, hr_blocks = peepholes + sizes.peepholes * blocks * PEEPHOLE_GATES * lanes, blocks_of(sizes.projected)
        end = hr_panel + (hr_blocks // 4 * columns + hr_blocks % 4) * terms_of(sizes.units) * lanes + behind
        return CellLayout(panel, bias, peepholes, hr_panel, (end + (LINE // 4 - 1)) & -(LINE // 4))

    return SimpleNamespace(
        blocks_of=blocks_of, outputs_of=outputs_of, inputs_of=inputs_of, cell_layout=cell_layout, terms_of=terms_of
    )


def hoisting_rules(operations: Any, layout: Any, lanes: int, itemsize: int, columns: int) -> SimpleNamespace:
    """How rows are grouped, and what is hoisted."""
    inline, smaller, greater = operations.inline, operations.smaller, operations.greater
    blocks_of, outputs_of, inputs_of = layout.blocks_of, layout.outputs_of, layout.inputs_of
    terms_of, width = layout.terms_of, 4 * lanes

    @inline
    def group_of(sizes: Sizes, call: CallSizes, forced: Forced) -> Int:
        """Rows that pass through all layers together."""
        group = greater(96, WORKING_SET // (itemsize * (sizes.units + outputs_of(sizes))) // 12 * 12)
        if forced.group > 0:
            group = forced.group
        group = smaller(group, call.group_most)
        if sizes.projected > 0:
            row_bytes = blocks_of(sizes.units) * lanes * itemsize
            group = smaller(group, greater(1, HIDDEN_MOST // call.apart // row_bytes))
        return group

    @inline
    def steps_hoisted(sizes: Sizes, call: CallSizes, forced: Forced, layer: Int, rows: Int) -> Int:
        """Steps of a chunk of the hoisted projection, or 0 where the recurrent tile does it as well.

        It pays where the panels are too big for the first cache, and the recurrence has too few rows to use them for
        long; or where a single panel is, for X and R are then summed as `chain_by_k_blocks` says.
        """
        features = inputs_of(sizes, layer)
        inputs, outputs = terms_of(features), terms_of(outputs_of(sizes))
        row_bytes = blocks_of(sizes.units) * width * itemsize
        term_bytes, gates_most = columns * lanes * itemsize, GATES_MOST // call.apart
        panels_bytes = blocks_of(sizes.units) * term_bytes  # of a feature
        by_k_blocks = smaller(inputs, outputs) * term_bytes >= CACHE_L1
        if call.steps == 1:  # X is used at once: storing it costs more, unless panels are larger still
            by_k_blocks = by_k_blocks and (inputs + outputs) * term_bytes > CACHE_L2 // 4
        fits = gates_most // greater(row_bytes * rows, 1)
        pays = (rows < FEW_ROWS and (inputs + outputs) * panels_bytes > CACHE_L1) or by_k_blocks
        wanted = pays and call.steps * rows >= 3 and features >= 8 and fits >= 1
        if forced.hoist >= 0:
            wanted = forced.hoist > 0
        if not wanted:
            return 0
        if forced.hoist_steps > 0:
            return smaller(forced.hoist_steps, call.steps)
        # panels beyond the second cache are streamed once a chunk: fewer, longer chunks
        gates_bytes = gates_most // 8
        if inputs * panels_bytes > CACHE_L2:
            gates_bytes = gates_most // 2
        most_rows = greater(48, gates_bytes // row_bytes)
        return greater(1, smaller(smaller(call.steps, fits), most_rows // rows))

    @inline
    def hoisted(sizes: Sizes, call: CallSizes, forced: Forced, layer: Int) -> tuple[Int, Int]:
        """Steps of a chunk, and the rows of a step up to which it is hoisted."""
        rows = smaller(group_of(sizes, call, forced), call.rows)
        steps = steps_hoisted(sizes, call, forced, layer, rows)
        if call.packed and steps == 0 and rows >= FEW_ROWS:  # towards the end rows are few
            rows = FEW_ROWS - 1
            steps = steps_hoisted(sizes, call, forced, layer, rows)
        return steps, rows

    return SimpleNamespace(group_of=group_of, hoisted=hoisted)


def buffer_rules(operations: Any, layout: Any, hoisting: Any, lanes: int, rounds: bool) -> SimpleNamespace:
    """The sizes of the buffers of a call."""
    inline, smaller, greater = operations.inline, operations.smaller, operations.greater
    blocks_of, group_of, hoisted = layout.blocks_of, hoisting.group_of, hoisting.hoisted
    terms_of, inputs_of, outputs_of = layout.terms_of, layout.inputs_of, layout.outputs_of
    width = 4 * lanes

    @inline
    def gates_numbers(sizes: Sizes, call: CallSizes, forced: Forced) -> Int:
        """Numbers of the buffer of hoisted projections."""
        most = 0
        for layer in range(smaller(2, sizes.layers)):  # the third is like the second
            steps, rows = hoisted(sizes, call, forced, layer)
            row = blocks_of(sizes.units) * width
            if rounds:
                row += terms_of(inputs_of(sizes, layer))
            most = greater(most, steps * rows * row)
        return most

    @inline
    def rounded_numbers(sizes: Sizes, call: CallSizes, forced: Forced) -> Int:
        """Numbers of the buffer of inputs and h in int8."""
        if not rounds:
            return 0
        row = terms_of(sizes.units)
        for layer in range(smaller(2, sizes.layers)):
            row = greater(row, terms_of(inputs_of(sizes, layer)) + terms_of(outputs_of(sizes)))
        return smaller(group_of(sizes, call, forced), call.rows) * row

    @inline
    def hidden_numbers(sizes: Sizes, call: CallSizes, forced: Forced) -> Int:
        """Numbers of the buffer of h before W_hr."""
        if sizes.projected == 0:
            return 0
        return smaller(group_of(sizes, call, forced), call.rows) * blocks_of(sizes.units) * lanes

    return SimpleNamespace(gates_numbers=gates_numbers, hidden_numbers=hidden_numbers, rounded_numbers=rounded_numbers)


def plan_writer(operations: Any, layout: Any, hoisting: Any, lanes: int, itemsize: int) -> SimpleNamespace:
    """``write_plan``, and ``plan_slots`` for its size."""
    inline, store_slot, group_of = operations.inline, operations.store_slot, hoisting.group_of
    term_bytes, write_cell = 4 * lanes * itemsize, cell_writer(operations, layout, hoisting, itemsize)

    @inline
    def plan_slots(sizes: Sizes) -> Int:
        return HEADER + RECORD * sizes.layers * sizes.directions

    @inline
    def write_header(plan: Any, sizes: Sizes, call: CallSizes, forced: Forced) -> None:
        store_slot(plan, Header.CELLS_TO, sizes.layers * sizes.directions)
        store_slot(plan, Header.STEPS_TO, call.steps)
        store_slot(plan, Header.ROWS_TO, call.rows)
        store_slot(plan, Header.STEPS, call.steps)
        store_slot(plan, Header.ROWS, call.rows)
        store_slot(plan, Header.GROUP, group_of(sizes, call, forced))
        store_slot(plan, Header.MR, forced.mr)
        # the epilogue of rows side by side pays with AVX2 for every chain, and the turns where L1 holds no panel
        k_block_min = 1 if lanes * itemsize == 32 else CACHE_L1 // term_bytes
        if forced.k_block_min > 0:
            k_block_min = forced.k_block_min
        store_slot(plan, Header.K_BLOCK_MIN, k_block_min)

    @inline
    def write_plan(plan: Any, sizes: Sizes, call: CallSizes, forced: Forced) -> None:
        """Every slot that sizes decide; addresses are left open."""
        write_header(plan, sizes, call, forced)
        panel = 0
        for n in range(sizes.layers * sizes.directions):
            panel = write_cell(plan, n, panel, sizes, call, forced)

    return SimpleNamespace(plan_slots=plan_slots, write_plan=write_plan)


def cell_writer(operations: Any, layout: Any, hoisting: Any, itemsize: int) -> Any:
    """``write_cell(plan, n, panel, sizes, call, forced)``."""
    inline, store_slot, record_at = operations.inline, operations.store_slot, operations.record_at
    outputs_of, inputs_of, cell_layout = layout.outputs_of, layout.inputs_of, layout.cell_layout
    hoisted = hoisting.hoisted

    @inline
    def write_place(cell: Any, slot: Any, buffer: Int, at: Int, step: Int, row: Int, steps_back: Int) -> None:
        """Four slots of where a cell reads or writes: buffer, first step, strides. In reverse it begins at the end."""
        if steps_back >= 0:
            at, step = at + steps_back * step, -step
        store_slot(cell, slot, buffer)
        store_slot(cell, slot + 1, at)
        store_slot(cell, slot + 2, step)
        store_slot(cell, slot + 3, row)

    @inline
    def write_cell(plan: Any, n: Int, panel: Int, sizes: Sizes, call: CallSizes, forced: Forced) -> Int:
        """The record of cell ``n``, whose panels begin at ``panel``; where those of the next cell do."""
        layer, outputs = n // sizes.directions, outputs_of(sizes)
        direction = n - layer * sizes.directions
        cell = record_at(plan, HEADER + n * RECORD)
        back = call.steps - 1 if direction > 0 and not call.packed else -1
        # the last layer writes the output; below it, layers take turns so that one more sequence is enough
        to_output = (sizes.layers - 1 - layer) % 2 == 0
        below_row = sizes.directions * outputs
        below_step = 0 if call.packed else call.rows * below_row
        if layer == 0:
            write_place(cell, Cell.SOURCE, Header.INPUT, 0, call.source_step, call.source_row, back)
        elif to_output:
            write_place(cell, Cell.SOURCE, Header.BELOW, 0, below_step, below_row, back)
        else:
            write_place(cell, Cell.SOURCE, Header.OUTPUT, 0, call.target_step, call.target_row, back)
        at = direction * outputs
        if to_output:
            write_place(cell, Cell.TARGET, Header.OUTPUT, at, call.target_step, call.target_row, back)
        else:
            write_place(cell, Cell.TARGET, Header.BELOW, at, below_step, below_row, back)
        placed = cell_layout(sizes, layer, panel)
        steps, rows = hoisted(sizes, call, forced, layer)
        panel_bytes = (placed.bias - panel) * itemsize
        beyond_l2 = panel_bytes > CACHE_L2
        # in serpentine order, those used last are still in the first cache: more of them if tiles are narrow
        blocks = 2 if panel_bytes > CACHE_L1 and panel_bytes <= CACHE_L2 // 2 else 1 << 30
        store_slot(cell, Cell.INPUTS, inputs_of(sizes, layer))
        store_slot(cell, Cell.OUTPUTS, outputs)
        store_slot(cell, Cell.UNITS, sizes.units)
        store_slot(cell, Cell.PROJECTED, sizes.projected > 0)
        store_slot(cell, Cell.PANEL, panel)
        store_slot(cell, Cell.BIAS, placed.bias)
        store_slot(cell, Cell.HR_PANEL, placed.hr_panel)
        store_slot(cell, Cell.PEEPHOLES, placed.peepholes)
        store_slot(cell, Cell.H_AT, n * call.state_rows * outputs)
        store_slot(cell, Cell.C_AT, n * call.state_rows * sizes.units)
        store_slot(cell, Cell.BEYOND_L2, beyond_l2 if forced.beyond_l2 < 0 else forced.beyond_l2 > 0)
        store_slot(cell, Cell.NR, blocks)
        store_slot(cell, Cell.HOIST, steps * rows if call.packed else steps)
        store_slot(cell, Cell.HOIST_ROWS, rows)
        store_slot(cell, Cell.BACK, direction)
        return placed.end

    return write_cell


def _same(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _record_at(plan: Any, slot: int) -> Any:
    return plan[slot:]


_PYTHON = SimpleNamespace(inline=_same, smaller=min, greater=max, store_slot=setitem, record_at=_record_at)


@lru_cache
def python_rules(lanes: int, itemsize: int, weights: str = "") -> SimpleNamespace:
    """The rules as functions of Python."""
    return plan_rules(_PYTHON, lanes, itemsize, weights)
