"""The recurrent kernel: a whole forward pass, all layers and directions, over one plan.

Layout: weights are panels ``[block][k][gate][lane]``, k over the input features and then over h. One pass over a panel
gives the four gates of ``lanes`` hidden units, whose c and h are finished in registers. If the units of the last block
fit half a register, it has half the lanes, and two of its gates share a register. h goes straight to the output and is
read back from there a step later; c lives in c_n.

Loop order: groups of rows, cells (layer, direction), steps, blocks, tiles of rows. So a panel stays in cache while all
rows of a group pass over it. Steps are walked in serpentine order: odd ones take the blocks from the last to the first,
since of panels a little larger than a cache, those used last are still in it. ``parallel`` says what threads share.

Arithmetic, which is the specification: for each gate and unit X starts at b_ih + b_hh and adds x_k w_k, R starts
at 0 and adds h_k w_k, in order of k, one FMA each, the first 16 terms on the start value, each further K-block of 16
summed from 0 and then added (``K_BLOCK``). The gate is X + R. Rows, tiles and the hoisted projection only choose
which of these chains run side by side, never the order within one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .compiler import Kernel, inline, named
from .instructions import bump_counter, load_slot, record_at, smaller
from .int8 import steps
from .microkernel import PLAIN, Operands, Variant, cell_epilogue, recurrent_tile, step_by_k_blocks
from .packed import packed_runner
from .parallel import parallel_forward, serial_forward
from .plan_layout import KEPT, LEAST_HALVED, Cell, Header
from .projection import QUAD, chain_by_k_blocks, hidden_projection, input_projection
from .simd import Simd
from .tail_block import last_block
from .tile import Shapes, by_size, for_tiles, next_size, whole_blocks
from .work_queue import ForChunks, for_chunks, parallel_for, serial_for, waiting

HEADER, CELL = int(Header.LENGTH), int(Cell.LENGTH)


class Phases(NamedTuple):
    """What a cell does, phase by phase; each is a function of (plan, begin, end, ...)."""

    initial_states: Any  # rows; mypy would take a Kernel for a method
    input_projection: Any  # blocks
    step: Any  # blocks
    hidden_projection: Any  # groups of QUAD blocks
    final_states: Any  # rows


def forward_kernel(
    number: str,
    lanes: int,
    shapes: Shapes,
    fused: bool,
    pause: tuple[str | int, ...] | None,
    variant: Variant = PLAIN,
) -> Kernel:
    """The kernel ``forward(plan)`` for one number type and one kind of CPU.

    Without a ``pause`` instruction it is a smaller one, which shares no call and takes no packed sequence.
    """
    simd = Simd(number, lanes, fused)
    chain: Kernel | None = (steps.integer_chain if simd.rounds else chain_by_k_blocks)(simd, shapes)
    step, tile = cell_step(simd, shapes, chain, variant)
    project = (steps.rounded_input if simd.rounds else input_projection)(simd, shapes, chain, lanes >= LEAST_HALVED)
    project_hidden = hidden_projection(simd, shapes)
    if simd.rounds:
        step, tile = steps.on_rounded(simd, step, tile)
        project_hidden = steps.rounding_hidden(simd, project_hidden)
    phases = Phases(initial_states(simd), project, step, project_hidden, final_states(simd))
    run_cell = with_single_rows(
        cell_runner("cell", simd, phases, serial_for),
        row_runner(simd, phases),
        row_stepper(simd, phases, tile),
        shapes.nr[0] * lanes,
    )
    if pause is None:
        return serial_forward(any_cell(run_cell))
    wait, spin_wait = waiting(pause)
    chunks = for_chunks(wait)
    alone = any_sequence("cell", run_cell, serial_for(phases.initial_states))
    spread = parallel_for(chunks)
    run_together = cell_runner("cell_together", simd, phases, spread)
    together = any_sequence("cell_together", run_together, spread(phases.initial_states))
    return parallel_forward(alone, together, chunks, wait, spin_wait)


@inline
def cell_at(plan, n):
    """The record of the cell n."""
    return record_at(plan, HEADER + n * CELL)


def any_cell(run_cell: Kernel) -> Kernel:
    """``run(plan, n, first, rows, from_step, to_step, phase) -> next phase``: ``run_cell`` of the cell n."""

    @inline
    def run(plan, n, first, rows, from_step, to_step, phase):
        return run_cell(plan, cell_at(plan, n), first, rows, from_step, to_step, phase)

    return run


def any_sequence(name: str, run_cell: Kernel, set_states: Kernel) -> Kernel:
    """As ``any_cell``, also of a packed sequence, of which it runs all steps."""
    run_packed = packed_runner(f"{name}_packed", run_cell, set_states)

    @inline
    def run(plan, n, first, rows, from_step, to_step, phase):
        cell = cell_at(plan, n)
        if load_slot(plan, Header.PACKED) != 0:
            return run_packed(plan, cell, first, rows, phase)
        return run_cell(plan, cell, first, rows, from_step, to_step, phase)

    return run


def cell_runner(name: str, simd: Simd, phases: Phases, spread: ForChunks) -> Kernel:
    """``run_cell(plan, cell, first, rows, from_step, to_step, phase) -> next phase``.

    The steps [from_step, to_step) of a cell for the rows [first, first + rows). ``spread`` is ``serial_for``, or
    a ``parallel_for`` that shares the phases between threads.
    """
    pointer_at, moved, lanes, width = simd.pointer_at, simd.moved, simd.lanes, 4 * simd.lanes
    set_states, project_input, recur, project_hidden, put_states = map(spread, phases)
    if simd.rounds:
        project_input = steps.rounding_first(simd, project_input, spread)

    @named(name)
    def run_cell(plan, cell, first, rows, from_step, to_step, phase):
        outputs, units = load_slot(cell, Cell.OUTPUTS), load_slot(cell, Cell.UNITS)
        blocks, quads = (units + lanes - 1) // lanes, (outputs + lanes * QUAD - 1) // (lanes * QUAD)
        source = moved(pointer_at(plan, load_slot(cell, Cell.SOURCE)), load_slot(cell, Cell.SOURCE_AT))
        source = moved(source, first * load_slot(cell, Cell.SOURCE_ROW))
        target = moved(pointer_at(plan, load_slot(cell, Cell.TARGET)), load_slot(cell, Cell.TARGET_AT))
        target = moved(target, first * load_slot(cell, Cell.TARGET_ROW))
        h_n = moved(pointer_at(plan, Header.H_N), load_slot(cell, Cell.H_AT) + first * outputs)
        c = moved(pointer_at(plan, Header.C_N), load_slot(cell, Cell.C_AT) + first * units)
        gates, hidden = pointer_at(plan, Header.GATES), pointer_at(plan, Header.HIDDEN)
        hoist, projected = load_slot(cell, Cell.HOIST), load_slot(cell, Cell.PROJECTED) > 0
        if from_step == 0:
            phase = set_states(plan, phase, rows, cell, first)
        if units % lanes != 0:
            bump_counter(plan, Header.PART)
        chunk, done = 0, 0  # steps of the chunk of hoisted projection, and how many of them are done
        for step in range(from_step, to_step):
            x = moved(source, step * load_slot(cell, Cell.SOURCE_STEP))
            y = moved(target, step * load_slot(cell, Cell.TARGET_STEP))
            h, h_stride = h_n, outputs
            if step > 0:
                h, h_stride = moved(y, -load_slot(cell, Cell.TARGET_STEP)), load_slot(cell, Cell.TARGET_ROW)
            if hoist > 0 and done == chunk:
                chunk, done = smaller(hoist, to_step - step), 0
                bump_counter(plan, Header.HOISTED)
                phase = project_input(plan, phase, blocks, cell, x, chunk, rows)
            x_gates, gap = moved(gates, done * rows * width), chunk * rows * width
            done += 1
            of_step = load_slot(cell, Cell.TAPE_CELL) + step * load_slot(cell, Cell.TAPE_STEP)
            kept = moved(pointer_at(plan, Header.TAPE), of_step + first * load_slot(cell, Cell.TAPE_ROW))
            of = Operands(x, load_slot(cell, Cell.SOURCE_ROW), h, h_stride, hidden if projected else y, c,
                          x_gates, gap, kept, 0)  # fmt: skip
            phase = recur(plan, phase, blocks, cell, rows, step, of)
            if projected:
                bump_counter(plan, Header.PROJECTED)
                phase = project_hidden(plan, phase, quads, cell, y, rows)
        if to_step == load_slot(plan, Header.STEPS):
            y = moved(target, (to_step - 1) * load_slot(cell, Cell.TARGET_STEP))
            phase = put_states(plan, phase, rows, cell, h_n, y)
        return phase

    return run_cell


def with_single_rows(run_cell: Kernel, run_row: Kernel, step_in_tile: Kernel, most: int) -> Kernel:
    """``run_cell``, with ``run_row`` for a single row of a cell that is neither hoisted nor projected.

    With ``step_in_tile``, if it is one step of at most ``most`` units, which are a single tile.
    """

    @named("row")
    def steps_of_row(plan, cell, row, from_step, to_step):
        run_row(plan, cell, row, from_step, to_step)

    @named("row_step")
    def step_of_row(plan, cell):
        run_row(plan, cell, 0, 0, 1)

    @inline
    def run(plan, cell, first, rows, from_step, to_step, phase):
        if rows == 1 and load_slot(cell, Cell.HOIST) == 0 and load_slot(cell, Cell.PROJECTED) == 0:
            if not (first == 0 and from_step == 0 and to_step == 1):
                steps_of_row(plan, cell, first, from_step, to_step)
            elif load_slot(cell, Cell.UNITS) <= most and load_slot(cell, Cell.NR) > 2:
                step_in_tile(plan, cell)
            else:
                step_of_row(plan, cell)
            return phase
        return run_cell(plan, cell, first, rows, from_step, to_step, phase)

    return run


def row_runner(simd: Simd, phases: Phases) -> Kernel:
    """``run_row(plan, cell, row, from_step, to_step)``: some steps of one row.

    Inlined: it shrinks to what a call for one step needs.
    """
    pointer_at, moved, distance, lanes = simd.pointer_at, simd.moved, simd.distance, simd.lanes
    set_states, run_step, put_states = phases.initial_states, phases.step, phases.final_states

    @inline
    def run_row(plan, cell, row, from_step, to_step):
        units = load_slot(cell, Cell.UNITS)
        x_step, y_step = load_slot(cell, Cell.SOURCE_STEP), load_slot(cell, Cell.TARGET_STEP)
        x_at = load_slot(cell, Cell.SOURCE_AT) + row * load_slot(cell, Cell.SOURCE_ROW) + from_step * x_step
        y_at = load_slot(cell, Cell.TARGET_AT) + row * load_slot(cell, Cell.TARGET_ROW) + from_step * y_step
        x = moved(pointer_at(plan, load_slot(cell, Cell.SOURCE)), x_at)
        y = moved(pointer_at(plan, load_slot(cell, Cell.TARGET)), y_at)
        h_n = moved(pointer_at(plan, Header.H_N), load_slot(cell, Cell.H_AT) + row * units)
        c = moved(pointer_at(plan, Header.C_N), load_slot(cell, Cell.C_AT) + row * units)
        tape_step = load_slot(cell, Cell.TAPE_STEP)
        tape_at = load_slot(cell, Cell.TAPE_CELL) + row * load_slot(cell, Cell.TAPE_ROW) + from_step * tape_step
        kept = moved(pointer_at(plan, Header.TAPE), tape_at)
        h = h_n
        if from_step > 0:
            h = moved(y, -y_step)
        elif load_slot(plan, Header.H_0) != KEPT:
            set_states(plan, 0, 1, cell, row)
        if units % lanes != 0:
            bump_counter(plan, Header.PART)
        again = distance(y, h_n) if from_step == 0 and to_step == 1 else 0
        for step in range(from_step, to_step):
            run_step(
                plan, 0, (units + lanes - 1) // lanes, cell, 1, step, Operands(x, 0, h, 0, y, c, x, 0, kept, again)
            )
            h = y
            x, y, kept = moved(x, x_step), moved(y, y_step), moved(kept, tape_step)
        if again == 0 and to_step == load_slot(plan, Header.STEPS):
            put_states(plan, 0, 1, cell, h_n, h)

    return run_row


def row_stepper(simd: Simd, phases: Phases, tile: Kernel) -> Kernel:
    """``step(plan, cell)``: one step of one row in a single tile.

    As ``run_row``, but every store counts: see ``of_one_row``.
    """
    pointer_at, moved, distance, lanes = simd.pointer_at, simd.moved, simd.distance, simd.lanes
    set_states = phases.initial_states

    @named("row_step_in_tile")
    def step(plan, cell):
        if load_slot(plan, Header.H_0) != KEPT:
            set_states(plan, 0, 1, cell, 0)
        units = load_slot(cell, Cell.UNITS)
        if units % lanes != 0:
            bump_counter(plan, Header.PART)
        x = moved(pointer_at(plan, load_slot(cell, Cell.SOURCE)), load_slot(cell, Cell.SOURCE_AT))
        y = moved(pointer_at(plan, load_slot(cell, Cell.TARGET)), load_slot(cell, Cell.TARGET_AT))
        h_n = moved(pointer_at(plan, Header.H_N), load_slot(cell, Cell.H_AT))
        c = moved(pointer_at(plan, Header.C_N), load_slot(cell, Cell.C_AT))
        kept = moved(pointer_at(plan, Header.TAPE), load_slot(cell, Cell.TAPE_CELL))
        of = Operands(x, 0, h_n, 0, y, c, x, 0, kept, distance(y, h_n))
        tile((units + lanes - 1) // lanes, plan, 0, cell, 0, of)

    return step


def initial_states(simd: Simd) -> Kernel:
    """``(plan, begin, end, cell, first)``: h_0 and c_0 of some rows, or zeros, to where h and c are kept: h_n and c_n.

    The rows are [first + begin, first + end). Numbers that are too small to compute with fast become 0.
    """
    set_h, set_c = setter(simd, simd.flush_h), setter(simd, simd.flush_c)

    @named("set_states")
    def set_states(plan, begin, end, cell, first):
        outputs, units = load_slot(cell, Cell.OUTPUTS), load_slot(cell, Cell.UNITS)
        h_at = load_slot(cell, Cell.H_AT) + (first + begin) * outputs
        c_at = load_slot(cell, Cell.C_AT) + (first + begin) * units
        if load_slot(plan, Header.H_0) != KEPT:
            set_h(plan, Header.H_N, Header.H_0, h_at, (end - begin) * outputs)
            set_c(plan, Header.C_N, Header.C_0, c_at, (end - begin) * units)

    return set_states


def setter(simd: Simd, flush: Kernel) -> Kernel:
    """``(plan, kept, given, at, count)``: one state, from the address in one header slot to that in another."""
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    load_part, store_part, zeros = simd.load_part, simd.store_part, simd.splat(0)

    @inline
    def set_state(plan, kept, given, at, count):
        target, source = moved(pointer_at(plan, kept), at), moved(pointer_at(plan, given), at)
        if load_slot(plan, given) == 0:
            for k in range(0, count, lanes):
                store_part(target, k, zeros(), count - k)
        else:
            for k in range(0, count, lanes):
                store_part(target, k, flush(load_part(source, k, count - k)), count - k)

    return set_state


def final_states(simd: Simd) -> Kernel:
    """``(plan, begin, end, cell, h_n, y)``: the rows [begin, end) of the last output to h_n."""
    moved, copy = simd.moved, copier(simd)

    @inline
    def put_states(plan, begin, end, cell, h_n, y):
        outputs, stride = load_slot(cell, Cell.OUTPUTS), load_slot(cell, Cell.TARGET_ROW)
        for r in range(begin, end):
            copy(moved(h_n, r * outputs), moved(y, r * stride), outputs)

    return put_states


def copier(simd: Simd) -> Kernel:
    """``copy(target, source, count)``: whole registers, then halves of them, down to 16 bytes.

    The next step reads the target soon, and would wait long for a store with a mask.
    """
    load, store, moved, lanes = simd.load, simd.store, simd.moved, simd.lanes
    load_part, store_part = simd.load_part, simd.store_part

    @inline
    def copy_part(target, source, count):
        store_part(target, 0, load_part(source, 0, count), count)

    copy_tail = copier(simd.half) if lanes * simd.number.itemsize > 16 else copy_part

    @inline
    def copy(target, source, count):
        k, whole = 0, count & -lanes
        while k < whole:
            store(target, k, load(source, k))
            k += lanes
        if k < count:
            copy_tail(moved(target, k), moved(source, k), count - k)

    return copy


def cell_step(simd: Simd, shapes: Shapes, chain: Kernel | None, variant: Variant) -> tuple[Kernel, Kernel]:
    """Two kernels. ``(plan, begin, end, cell, rows, step, of)``: one step of some rows in the blocks [begin, end).

    ``(n, plan, r, cell, block, of)``: one step of the row r in a tile of the n blocks from ``block`` on.
    """
    epilogue, whole_of = cell_epilogue(simd, variant), whole_blocks(simd.lanes)
    of_single = cell_epilogue(simd, variant, single=True)

    @inline
    def tile(n, plan, r, cell, block, of):
        if block + n > whole_of(load_slot(cell, Cell.UNITS)):
            wide_tail(n, plan, r, cell, block, of)
        else:
            wide(n, plan, r, cell, block, of)

    single = recurrent_tile(simd, 1, 1, of_single)
    wide = by_size(shapes.nr, {n: recurrent_tile(simd, 1, n, of_single) for n in shapes.nr if n > 1} | {1: single})
    tall = {n: recurrent_tile(simd, n, 1, epilogue) for n in shapes.mr if n > 1}
    tiles = for_tiles(shapes.mr, next_size, tall | {1: single})
    # without tail blocks, these two are never called
    wide_tail, tail_tiles = last_block(simd, of_single, shapes) if simd.lanes >= LEAST_HALVED else (wide, tiles)
    row_step = row_after_row(simd, shapes, tile)
    in_turns = None if chain is None else step_by_k_blocks(simd, epilogue, shapes, chain)
    block_step = block_after_block(shapes, simd.lanes, tiles, tail_tiles, in_turns)

    @inline
    def run_step(plan, begin, end, cell, rows, step, of):
        whole = whole_of(load_slot(cell, Cell.UNITS))
        odd = (step + load_slot(plan, Header.SERPENTINE)) & 1 == 1
        if rows == 1 or load_slot(plan, Header.MR) == 1:
            row_step(plan, cell, rows, odd, begin, end, of)
        else:
            block_step(plan, cell, rows, odd, whole, begin, end, of)

    return run_step, tile


def row_after_row(simd: Simd, shapes: Shapes, tile: Kernel) -> Kernel:
    """One step in the blocks [begin, end), row after row, several blocks at once.

    Where h goes to h_n as well, the last tile stores it ``again``, for no other reads h_n then, and that of the tiles
    before is copied. To load what was just stored would make the next step wait.
    """
    tallest, blocks_of, lanes = shapes.nr[0], next_size(shapes.nr), simd.lanes
    moved, copy = simd.moved, copier(simd)

    @inline
    def row_step(plan, cell, rows, odd, begin, end, of):
        most = smaller(tallest, load_slot(cell, Cell.NR))
        for r in range(rows):
            done = begin
            while done < end:
                n = end - done
                if n > most:
                    n = blocks_of(n, most)
                block = begin + end - done - n if odd else done
                again = of.again if done + n == end else 0
                of_tile = Operands(of.x, of.x_stride, of.h, of.h_stride, of.y, of.c, of.gates, of.gap, of.kept, again)
                tile(n, plan, r, cell, block, of_tile)
                if again != 0:
                    first = n * lanes if odd else 0
                    count = load_slot(cell, Cell.UNITS) - first if odd else block * lanes
                    copy(moved(of.y, first + again), moved(of.y, first), count)
                done += n

    return row_step


def block_after_block(
    shapes: Shapes, lanes: int, tiles: Kernel, tail_tiles: Kernel, by_k_blocks: tuple[Kernel, Kernel] | None
) -> Kernel:
    """One step in the blocks [begin, end), block after block: all rows pass over a panel while it is in cache.

    Panels beyond L2 are prefetched, which only ``by_k_blocks`` does, so that it also serves a single tile of rows then.
    """
    tallest, sums_x = shapes.mr[0], shapes.side_by_side

    @inline
    def by_tiles(plan, cell, rows, odd, whole, begin, end, of):
        for n in range(begin, end):
            block = begin + end - 1 - n if odd else n
            if block >= whole:
                tail_tiles(plan, rows, cell, block, of)
            else:
                tiles(plan, rows, cell, block, of)

    if by_k_blocks is None:
        return by_tiles
    step, blocks_at_once = by_k_blocks

    @inline
    def block_step(plan, cell, rows, odd, whole, begin, end, of):
        in_turns = (
            (sums_x or load_slot(cell, Cell.HOIST) > 0)
            and (rows > tallest or load_slot(cell, Cell.BEYOND_L2) > 0)
            and load_slot(cell, Cell.OUTPUTS) >= load_slot(plan, Header.K_BLOCK_MIN)
        )
        onward, full, done = -1 if odd else 1, load_slot(cell, Cell.UNITS) // lanes, begin
        while done < end:
            block, blocks = begin + end - 1 - done if odd else done, 1
            if block >= whole:
                tail_tiles(plan, rows, cell, block, of)
            elif in_turns:
                if block < full:  # the last one may have fewer units, and is done by itself
                    blocks = blocks_at_once(cell, rows, end - done if odd else smaller(end, full) - done)
                step(plan, cell, block, blocks, onward, rows, of)
            else:
                tiles(plan, rows, cell, block, of)
            done += blocks

    return block_step
