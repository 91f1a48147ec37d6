"""The backward pass of an LSTM over one plan: backpropagation through time.

With m = o tanh(c), h = W_hr m (or m), and ``da`` the gradients of the sums of the four gates before activation:

    dm = W_hr^T dh;  dc += dm o tanh'(c)
    di = dc g s'(i);  df = dc c_before s'(f);  dg = dc i tanh'(g);  do = dm tanh(c) s'(o)
    dh_before = W_hh^T da;  dc_before = dc f;  dx = W_ih^T da;  dW = sum over positions of da (x) [h_before, x]

Order: layers from the top, directions, steps against the direction. A chunk is some steps: each gives its da, and dh
for the step before it; then come the gradients of weights and dx of the whole chunk. Threads share the rows of a
chunk's steps, or the outputs of each step's products (``Partition`` ROWS or BLOCKS), and then tiles of the sums. Each
number is made by one thread alone, so that any number of threads gives the same bits.

Arithmetic, which is the specification: dh, dx and dm start at 0 and add their terms in the order of gates, then
units (of outputs, for dm), one FMA each, in K-blocks of 16 as in the forward pass. Gradients of weights add
positions, the last step first and rows in order, one FMA each. A run is as many whole steps as have at most 64
positions; a step of more rows is cut every 64. A run is summed from 0, in K-blocks of 16 too, and then added.
Derivatives pass straight through what the forward pass flushes; da and dh are flushed as h is, and dc as c.
"""

from numba import types

from ..compiler import Kernel, inline, named
from ..instructions import PLAN, load_slot, record_at, slots_at, smaller
from ..plan_layout import TAPE_REGISTERS, Header, Partition
from ..simd import Simd
from ..tile import K_BLOCK, Shapes, tile_of
from ..work_queue import ForChunks, count_up, for_chunks, parallel_for, waiting
from .backward_layout import Back, BackCell, ChunkBack, StepBack
from .derivatives import cell_derivatives
from .products import QUAD, gradient_sums, items_of, panel_product
from .transposing import cell_sizes, panel_columns, registers_transposed, weights_transposed

CELLS, CELL, STEP, CHUNK = int(Back.LENGTH), int(BackCell.LENGTH), int(StepBack.LENGTH), int(ChunkBack.LENGTH)


def sizes_for(lanes: int) -> tuple[Kernel, Kernel]:
    """``registers_of(count)`` and ``filled(count)``: whole registers for so many numbers, and how many they hold."""

    @inline
    def registers_of(count):
        return (count + lanes - 1) // lanes

    @inline
    def filled(count):
        return (count + lanes - 1) // lanes * lanes

    return registers_of, filled


def gates_kernel(simd: Simd) -> Kernel:
    """``gates_back(plan, cell, position, before, row, chunk_row, dm, d_output)``: da of one row of a step."""
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    load, store, load_part, store_part, add = simd.load, simd.store, simd.load_part, simd.store_part, simd.add
    flush_h, derive = simd.flush_h, cell_derivatives(simd)
    registers_of, _ = sizes_for(lanes)

    @named("gates_back")
    def gates_back(plan, cell, position, before, row, chunk_row, dm, d_output):
        """One row of a step; its position, that of its step before or -1, and its place in the chunk."""
        units, blocks = load_slot(cell, BackCell.UNITS), registers_of(load_slot(cell, BackCell.UNITS))
        kept = moved(pointer_at(plan, Header.TAPE), load_slot(cell, BackCell.TAPE_AT))
        own = moved(kept, position * blocks * TAPE_REGISTERS * lanes)
        earlier = moved(kept, before * blocks * TAPE_REGISTERS * lanes)
        da = moved(pointer_at(plan, Back.DA), chunk_row * load_slot(plan, Back.DA_ROW))
        dc, c_0 = moved(pointer_at(cell, BackCell.D_C), row * units), pointer_at(cell, BackCell.C_0)
        with_output, projected = load_slot(cell, BackCell.D_OUTPUT) != 0, load_slot(cell, BackCell.PROJECTED) > 0
        for block in range(blocks):
            unit, at = block * lanes, block * TAPE_REGISTERS * lanes
            left = units - unit
            if before >= 0:
                c_before = load_part(earlier, at + 4 * lanes, left)
            else:
                c_before = load_part(c_0, row * units + unit, left)
            of_m = load(dm, unit)
            if with_output and not projected:
                of_m = add(of_m, load_part(d_output, unit, left))
            d_i, d_f, d_g, d_o, of_c, m = derive(
                load_part(own, at, left), load_part(own, at + lanes, left), load_part(own, at + 2 * lanes, left),
                load_part(own, at + 3 * lanes, left), load_part(own, at + 4 * lanes, left), c_before, of_m,
                load_part(dc, unit, left),
            )  # fmt: skip
            store_part(da, unit, d_i, left)
            store_part(da, units + unit, d_f, left)
            store_part(da, 2 * units + unit, d_g, left)
            store_part(da, 3 * units + unit, d_o, left)
            store_part(dc, unit, of_c, left)
            if projected:
                quad = block // QUAD * QUAD
                width = QUAD * lanes if blocks - quad >= QUAD else (blocks - quad) * lanes
                target = moved(pointer_at(plan, Back.M), quad * load_slot(plan, Back.CHUNK_ROWS) * lanes)
                store(target, chunk_row * width + (block - quad) * lanes, flush_h(m))

    return gates_back


def step_kernels(simd: Simd, product: Kernel) -> tuple[Kernel, ...]:
    """What a step is made of, each a function of (plan, begin, end, cell, step).

    ``totals`` and ``dm`` of a projection, ``gates`` and ``dh``; the first and third of rows, the others of rows first,
    then of their product's items: ``(plan, begin, end, cell, step, first, rows)``.
    """
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    load, store, load_part, add = simd.load, simd.store, simd.load_part, simd.add
    gates_back, (put, _), (registers_of, filled) = gates_kernel(simd), panel_columns(simd), sizes_for(lanes)

    @named("total_back")
    def total_back(plan, cell, row, chunk_row, d_output):
        """With a projection: the gradient of h of one row, into DT."""
        outputs = load_slot(cell, BackCell.OUTPUTS)
        dh = moved(pointer_at(plan, Back.DH), row * filled(outputs))
        dt = moved(pointer_at(plan, Back.DT), chunk_row * filled(outputs))
        for k in range(0, outputs, lanes):
            value = load(dh, k)
            if load_slot(cell, BackCell.D_OUTPUT) != 0:
                value = add(value, load_part(d_output, k, outputs - k))
            store(dt, k, value)

    @named("keep_sources")
    def keep_sources(plan, cell, position, before, row, chunk_row):
        """What the sums of one row's gates were made of: h of the step before, then x."""
        inputs, outputs = load_slot(cell, BackCell.INPUTS), load_slot(cell, BackCell.OUTPUTS)
        rows, sources = load_slot(plan, Back.CHUNK_ROWS), pointer_at(plan, Back.SOURCES)
        registers = registers_of(inputs + outputs)
        if before >= 0:
            h = moved(pointer_at(cell, BackCell.H), before * load_slot(cell, BackCell.H_ROW))
            put(sources, registers, rows, chunk_row, 0, h, outputs)
        else:
            h_0 = moved(pointer_at(cell, BackCell.H_0), row * outputs)
            put(sources, registers, rows, chunk_row, 0, h_0, outputs)
        x = moved(pointer_at(cell, BackCell.X), position * load_slot(cell, BackCell.X_ROW))
        put(sources, registers, rows, chunk_row, outputs, x, inputs)

    @inline
    def of_output(cell, position):
        return moved(pointer_at(cell, BackCell.D_OUTPUT), position * load_slot(cell, BackCell.D_OUTPUT_ROW))

    @named("totals_back")
    def totals(plan, begin, end, cell, step):
        for r in range(begin, end):
            position, chunk_row = load_slot(step, StepBack.BEGIN) + r, load_slot(step, StepBack.CHUNK_ROW) + r
            total_back(plan, cell, r, chunk_row, of_output(cell, position))

    @named("dm_back")
    def dm(plan, begin, end, cell, step, first, rows):
        outputs, units = load_slot(cell, BackCell.OUTPUTS), load_slot(cell, BackCell.UNITS)
        panels = moved(pointer_at(plan, Back.TRANSPOSED), load_slot(cell, BackCell.HR_TRANSPOSED))
        chunk_row = load_slot(step, StepBack.CHUNK_ROW) + first
        product(panels, outputs, registers_of(units), moved(pointer_at(plan, Back.DT), chunk_row * filled(outputs)),
                filled(outputs), rows, moved(pointer_at(plan, Back.DM), first * filled(units)), filled(units),
                begin, end)  # fmt: skip

    @named("gates_of_rows")
    def gates(plan, begin, end, cell, step):
        dm, dm_row = pointer_at(plan, Back.DH), filled(load_slot(cell, BackCell.OUTPUTS))
        if load_slot(cell, BackCell.PROJECTED) > 0:
            dm, dm_row = pointer_at(plan, Back.DM), filled(load_slot(cell, BackCell.UNITS))
        for r in range(begin, end):
            position, chunk_row = load_slot(step, StepBack.BEGIN) + r, load_slot(step, StepBack.CHUNK_ROW) + r
            before = -1
            if r < load_slot(step, StepBack.ROWS_BEFORE):
                before = load_slot(step, StepBack.BEFORE) + r
            gates_back(plan, cell, position, before, r, chunk_row, moved(dm, r * dm_row), of_output(cell, position))
            keep_sources(plan, cell, position, before, r, chunk_row)

    @named("dh_back")
    def dh(plan, begin, end, cell, step, first, rows):
        outputs, units = load_slot(cell, BackCell.OUTPUTS), load_slot(cell, BackCell.UNITS)
        panels, da_row = pointer_at(plan, Back.TRANSPOSED), load_slot(plan, Back.DA_ROW)
        panels = moved(panels, load_slot(cell, BackCell.HH_TRANSPOSED))
        da = moved(pointer_at(plan, Back.DA), (load_slot(step, StepBack.CHUNK_ROW) + first) * da_row)
        product(panels, 4 * units, registers_of(outputs), da, da_row, rows,
                moved(pointer_at(plan, Back.DH), first * filled(outputs)), filled(outputs), begin, end)  # fmt: skip

    return totals, dm, gates, dh


def steps_kernel(simd: Simd, product: Kernel, spread: ForChunks) -> Kernel:
    """``steps_back(plan, cell, chunk, phase) -> next phase``: da of all steps of a chunk, and dh from step to step."""
    totals, dm, gates, dh = step_kernels(simd, product)
    registers_of, _ = sizes_for(simd.lanes)

    @named("rows_back")
    def rows_back(plan, begin, end, cell, steps, count):
        """The rows [begin, end) of all steps, so far as there are so many."""
        units, outputs = registers_of(load_slot(cell, BackCell.UNITS)), registers_of(load_slot(cell, BackCell.OUTPUTS))
        for n in range(count):
            step = record_at(steps, n * STEP)
            last = smaller(end, load_slot(step, StepBack.ROWS))
            if begin < last:
                rows = last - begin
                if load_slot(cell, BackCell.PROJECTED) > 0:
                    totals(plan, begin, last, cell, step)
                    dm(plan, 0, items_of(units, rows), cell, step, begin, rows)
                gates(plan, begin, last, cell, step)
                dh(plan, 0, items_of(outputs, rows), cell, step, begin, rows)

    by_rows, share_totals, share_dm, share_gates, share_dh = map(spread, (rows_back, totals, dm, gates, dh))

    @named("steps_back")
    def steps_back(plan, cell, chunk, phase):
        steps = record_at(slots_at(load_slot(cell, BackCell.STEP_TABLE)), load_slot(chunk, ChunkBack.FIRST) * STEP)
        count = load_slot(chunk, ChunkBack.STEPS)
        if load_slot(plan, Header.PARTITION) == Partition.ROWS:
            return by_rows(plan, phase, load_slot(chunk, ChunkBack.ROWS), cell, steps, count)
        units, outputs = registers_of(load_slot(cell, BackCell.UNITS)), registers_of(load_slot(cell, BackCell.OUTPUTS))
        for n in range(count):
            step = record_at(steps, n * STEP)
            rows = load_slot(step, StepBack.ROWS)
            if load_slot(cell, BackCell.PROJECTED) > 0:
                phase = share_totals(plan, phase, rows, cell, step)
                phase = share_dm(plan, phase, items_of(units, rows), cell, step, 0, rows)
            phase = share_gates(plan, phase, rows, cell, step)
            phase = share_dh(plan, phase, items_of(outputs, rows), cell, step, 0, rows)
        return phase

    return steps_back


def sums_kernel(simd: Simd, product: Kernel, spread: ForChunks) -> Kernel:
    """``sums_back(plan, cell, chunk, phase) -> next phase``: gradients of weights, and dx, of the steps of a chunk."""
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    accumulate, (registers_of, filled), four = gradient_sums(simd), sizes_for(lanes), tile_of(simd, 1, QUAD)
    four_zero, four_load, four_store, four_add = four.zero, four.load, four.store, four.add
    put_dx = dx_kernel(simd)

    @named("weight_sums")
    def weight_sums(plan, begin, end, cell, runs, count):
        inputs, outputs, units = cell_sizes(cell)
        accumulate(pointer_at(plan, Back.SOURCES), load_slot(plan, Back.CHUNK_ROWS), registers_of(inputs + outputs),
                   runs, count, pointer_at(plan, Back.DA), load_slot(plan, Back.DA_ROW), 4 * units,
                   pointer_at(plan, Back.SUMS), begin, end)  # fmt: skip

    @named("bias_sums")
    def bias_sums(plan, begin, end, runs, count):
        """To BIAS_SUMS is added, run after run, the sum of da over a run's positions; of 4 registers an item."""
        da, row, sums = pointer_at(plan, Back.DA), load_slot(plan, Back.DA_ROW), pointer_at(plan, Back.BIAS_SUMS)
        for item in range(begin, end):
            k = item * QUAD * lanes
            for n in range(count):
                value, last = four_zero(), load_slot(runs, n + 1)
                for first in range(load_slot(runs, n), last, K_BLOCK):
                    part = four_zero()
                    for position in range(first, smaller(first + K_BLOCK, last)):
                        part = four_add(part, four_load(da, position * row + k, 0, 0))
                    value = four_add(value, part)
                four_store(sums, k, 0, four_add(four_load(sums, k, 0, 0), value))

    @named("hidden_sums")
    def hidden_sums(plan, begin, end, cell, runs, count):
        outputs, units = load_slot(cell, BackCell.OUTPUTS), load_slot(cell, BackCell.UNITS)
        accumulate(pointer_at(plan, Back.M), load_slot(plan, Back.CHUNK_ROWS), registers_of(units), runs, count,
                   pointer_at(plan, Back.DT), filled(outputs), outputs, pointer_at(plan, Back.M_SUMS),
                   begin, end)  # fmt: skip

    @named("dx_back")
    def dx_back(plan, begin, end, cell, chunk):
        inputs, units = load_slot(cell, BackCell.INPUTS), load_slot(cell, BackCell.UNITS)
        rows, panels = load_slot(chunk, ChunkBack.POSITIONS), pointer_at(plan, Back.TRANSPOSED)
        product(moved(panels, load_slot(cell, BackCell.IH_TRANSPOSED)), 4 * units, registers_of(inputs),
                pointer_at(plan, Back.DA), load_slot(plan, Back.DA_ROW), rows, pointer_at(plan, Back.DX_SUMS),
                filled(inputs), begin, end)  # fmt: skip

    share_weights, share_bias, share_hidden, share_dx, share_put = map(
        spread, (weight_sums, bias_sums, hidden_sums, dx_back, put_dx)
    )

    @named("sums_back")
    def sums_back(plan, cell, chunk, phase):
        inputs, outputs, units = cell_sizes(cell)
        runs, count = slots_at(load_slot(chunk, ChunkBack.RUNS)), load_slot(chunk, ChunkBack.RUN_COUNT)
        phase = share_weights(plan, phase, items_of(registers_of(inputs + outputs), 4 * units), cell, runs, count)
        if load_slot(plan, Back.BIAS) > 0:
            phase = share_bias(plan, phase, (registers_of(4 * units) + QUAD - 1) // QUAD, runs, count)
        if load_slot(cell, BackCell.PROJECTED) > 0:
            phase = share_hidden(plan, phase, items_of(registers_of(units), outputs), cell, runs, count)
        if load_slot(cell, BackCell.D_INPUT) != 0:
            positions = load_slot(chunk, ChunkBack.POSITIONS)
            phase = share_dx(plan, phase, items_of(registers_of(inputs), positions), cell, chunk)
            phase = share_put(plan, phase, load_slot(chunk, ChunkBack.STEPS), cell, chunk)
        return phase

    return sums_back


def dx_kernel(simd: Simd) -> Kernel:
    """``put_dx(plan, begin, end, cell, chunk)``: dx of the steps [begin, end) of a chunk to its place."""
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    load, load_part, store_part, add, flush_h = simd.load, simd.load_part, simd.store_part, simd.add, simd.flush_h
    _, filled = sizes_for(lanes)

    @named("put_dx")
    def put_dx(plan, begin, end, cell, chunk):
        inputs, first = load_slot(cell, BackCell.INPUTS), pointer_at(cell, BackCell.D_INPUT)
        added, table = load_slot(cell, BackCell.D_INPUT_ADDED) > 0, slots_at(load_slot(cell, BackCell.STEP_TABLE))
        for n in range(begin, end):
            step = record_at(table, (load_slot(chunk, ChunkBack.FIRST) + n) * STEP)
            for r in range(load_slot(step, StepBack.ROWS)):
                dx = moved(first, (load_slot(step, StepBack.BEGIN) + r) * load_slot(cell, BackCell.D_INPUT_ROW))
                chunk_row = load_slot(step, StepBack.CHUNK_ROW) + r
                source = moved(pointer_at(plan, Back.DX_SUMS), chunk_row * filled(inputs))
                for k in range(0, inputs, lanes):
                    value = load(source, k)
                    if added:
                        value = flush_h(add(load_part(dx, k, inputs - k), value))
                    store_part(dx, k, value, inputs - k)

    return put_dx


def rows_kernel(simd: Simd) -> Kernel:
    """``copy_rows(source, source_row, target, target_row, rows, count)``."""
    lanes, load_part, store_part = simd.lanes, simd.load_part, simd.store_part

    @named("copy_rows")
    def copy_rows(source, source_row, target, target_row, rows, count):
        for r in range(rows):
            for k in range(0, count, lanes):
                value = load_part(source, r * source_row + k, count - k)
                store_part(target, r * target_row + k, value, count - k)

    return copy_rows


def ends_kernels(simd: Simd) -> tuple[Kernel, Kernel]:
    """``begin_cell`` and ``end_cell``, functions of (plan, begin, end, cell) for some gates and units.

    The first clears sums and takes the gradients of the final states; the second gives those of the initial ones, and
    those of parameters as they are laid out.
    """
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    store_part, zeros, copy_rows = simd.store_part, simd.splat(0), rows_kernel(simd)
    (_, take), (registers_of, filled) = panel_columns(simd), sizes_for(lanes)

    @inline
    def clear(target, begin, end):
        for k in range(begin, end, lanes):
            store_part(target, k, zeros(), end - k)

    @named("begin_cell")
    def begin_cell(plan, begin, end, cell):
        inputs, outputs, units = cell_sizes(cell)
        if load_slot(plan, Back.CLEAR) > 0:
            width = registers_of(inputs + outputs) * lanes
            clear(pointer_at(plan, Back.SUMS), begin * width, end * width)
        if begin == 0:
            if load_slot(plan, Back.CLEAR) > 0 and load_slot(plan, Back.BIAS) > 0:
                clear(pointer_at(plan, Back.BIAS_SUMS), 0, (registers_of(4 * units) + QUAD - 1) // QUAD * QUAD * lanes)
            if load_slot(plan, Back.CLEAR) > 0 and load_slot(cell, BackCell.PROJECTED) > 0:
                clear(pointer_at(plan, Back.M_SUMS), 0, filled(units) * outputs)
            copy_rows(pointer_at(cell, BackCell.D_H), outputs, pointer_at(plan, Back.DH), filled(outputs),
                      load_slot(plan, Header.ROWS), outputs)  # fmt: skip

    @named("end_cell")
    def end_cell(plan, begin, end, cell):
        inputs, outputs, units = cell_sizes(cell)
        sums, gates, registers = pointer_at(plan, Back.SUMS), 4 * units, registers_of(inputs + outputs)
        of_x, of_h = pointer_at(cell, BackCell.D_WEIGHT_IH), pointer_at(cell, BackCell.D_WEIGHT_HH)
        if begin == 0:
            copy_rows(pointer_at(plan, Back.DH), filled(outputs), pointer_at(cell, BackCell.D_H), outputs,
                      load_slot(plan, Header.ROWS), outputs)  # fmt: skip
        if load_slot(plan, Back.FINISH) == 0:
            return
        for gate in range(begin, end):
            take(sums, registers, gates, gate, 0, moved(of_h, gate * outputs), outputs)
            take(sums, registers, gates, gate, outputs, moved(of_x, gate * inputs), inputs)
        if begin == 0:
            if load_slot(plan, Back.BIAS) > 0:
                copy_rows(pointer_at(plan, Back.BIAS_SUMS), 0, pointer_at(cell, BackCell.D_BIAS), 0, 1, gates)
            if load_slot(cell, BackCell.PROJECTED) > 0:
                of_m = pointer_at(cell, BackCell.D_WEIGHT_HR)
                for output in range(outputs):
                    take(pointer_at(plan, Back.M_SUMS), registers_of(units), outputs, output, 0,
                         moved(of_m, output * units), units)  # fmt: skip

    return begin_cell, end_cell


def cell_kernel(simd: Simd, shapes: Shapes, spread: ForChunks) -> Kernel:
    """``cell_back(plan, cell, phase) -> next phase``: the whole pass of one layer in one direction."""
    product = panel_product(simd, shapes)
    steps_back, sums_back = steps_kernel(simd, product, spread), sums_kernel(simd, product, spread)
    transpose, begin_cell, end_cell = map(spread, (weights_transposed(simd), *ends_kernels(simd)))
    registers = registers_transposed(simd.lanes)

    @named("cell_back")
    def cell_back(plan, cell, phase):
        gates = 4 * load_slot(cell, BackCell.UNITS)
        if load_slot(plan, Back.TRANSPOSE) > 0:
            phase = transpose(plan, phase, registers(cell), cell)
        phase = begin_cell(plan, phase, gates, cell)
        for n in range(load_slot(cell, BackCell.CHUNKS)):
            chunk = record_at(slots_at(load_slot(cell, BackCell.CHUNK_TABLE)), n * CHUNK)
            phase = steps_back(plan, cell, chunk, phase)
            phase = sums_back(plan, cell, chunk, phase)
        return end_cell(plan, phase, gates, cell)

    return cell_back


def backward_kernel(number: str, lanes: int, shapes: Shapes, fused: bool, pause: tuple[str | int, ...]) -> Kernel:
    """The kernel ``backward(plan)`` of each thread of a team, for one number type and one kind of CPU."""
    wait, _ = waiting(pause)
    cell_back = cell_kernel(Simd(number, lanes, fused), shapes, parallel_for(for_chunks(wait)))

    @named("backward")
    def backward(plan):
        begin, directions = load_slot(plan, Header.CELLS_FROM), load_slot(plan, Back.DIRECTIONS)
        layer, phase = load_slot(plan, Header.CELLS_TO) - directions, 0
        if load_slot(plan, Header.THREAD_INDEX) == 0 and load_slot(plan, Header.EPOCH) != 0:
            count_up(load_slot(plan, Header.EPOCH))
        while layer >= begin:  # layers from the top, the first direction first
            for direction in range(directions):
                phase = cell_back(plan, record_at(plan, CELLS + (layer + direction) * CELL), phase)
            layer -= directions

    backward.compile(types.void(PLAN))
    return backward
