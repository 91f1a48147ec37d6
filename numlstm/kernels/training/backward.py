"""The backward pass of an LSTM over one plan: backpropagation through time.

With m = o tanh(c), h = W_hr m (or m), and ``da`` the gradients of the sums of the four gates before activation:

    dm = W_hr^T dh;  dc += dm o tanh'(c)
    di = dc g s'(i);  df = dc c_before s'(f);  dg = dc i tanh'(g);  do = dm tanh(c) s'(o)
    dh_before = W_hh^T da;  dc_before = dc f;  dx = W_ih^T da;  dW = sum over positions of da (x) [h_before, x]

Order: layers from the top, directions, steps against the direction. A chunk is some steps: each gives its da, and dh
for the step before it; then come the gradients of weights and dx of the whole chunk.

Arithmetic, which is the specification: dh, dx and dm start at 0 and add their terms in the order of gates, then
units (of outputs, for dm), one FMA each, in K-blocks of 16 as in the forward pass. Gradients of weights add
positions, the last step first and rows in order, one FMA each. A run is as many whole steps as have at most 64
positions; a step of more rows is cut every 64. A run is summed from 0, in K-blocks of 16 too, and then added.
Derivatives pass straight through what the forward pass flushes; da and dh are flushed as h is, and dc as c.
"""

from numba import types

from ..compiler import Kernel, inline, named
from ..instructions import PLAN, load_slot, record_at, slots_at, smaller, store_slot
from ..plan_layout import TAPE_REGISTERS
from ..simd import Simd
from ..tile import K_BLOCK, Shapes, tile_of
from .backward_layout import RUN, Back, BackCell, StepBack
from .derivatives import cell_derivatives
from .products import QUAD, gradient_sums, panel_product
from .transposing import cell_sizes, panel_columns, weights_transposed

CELLS, CELL, STEP = int(Back.LENGTH), int(BackCell.LENGTH), int(StepBack.LENGTH)


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
        kept = moved(pointer_at(plan, Back.TAPE), load_slot(cell, BackCell.TAPE_AT))
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


def step_kernel(simd: Simd, product: Kernel) -> Kernel:
    """``step_back(plan, cell, step, chunk_row)``: da of all rows of a step, and dh of the step before it."""
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

    @named("step_back")
    def step_back(plan, cell, step, chunk_row):
        units, outputs = load_slot(cell, BackCell.UNITS), load_slot(cell, BackCell.OUTPUTS)
        rows, begin, rows_before = (
            load_slot(step, StepBack.ROWS),
            load_slot(step, StepBack.BEGIN),
            load_slot(step, StepBack.ROWS_BEFORE),
        )
        dh, gradient = pointer_at(plan, Back.DH), pointer_at(cell, BackCell.D_OUTPUT)
        dm, dm_row = dh, filled(outputs)
        if load_slot(cell, BackCell.PROJECTED) > 0:
            for r in range(rows):
                total_back(plan, cell, r, chunk_row + r,
                           moved(gradient, (begin + r) * load_slot(cell, BackCell.D_OUTPUT_ROW)))  # fmt: skip
            dm, dm_row = pointer_at(plan, Back.DM), filled(units)
            product(moved(pointer_at(plan, Back.TRANSPOSED), load_slot(cell, BackCell.HR_TRANSPOSED)), outputs,
                    registers_of(units), moved(pointer_at(plan, Back.DT), chunk_row * filled(outputs)),
                    filled(outputs), rows, dm, dm_row)  # fmt: skip
        for r in range(rows):
            before = -1
            if r < rows_before:
                before = load_slot(step, StepBack.BEFORE) + r
            gates_back(plan, cell, begin + r, before, r, chunk_row + r, moved(dm, r * dm_row),
                       moved(gradient, (begin + r) * load_slot(cell, BackCell.D_OUTPUT_ROW)))  # fmt: skip
            keep_sources(plan, cell, begin + r, before, r, chunk_row + r)
        da_row = load_slot(plan, Back.DA_ROW)
        product(moved(pointer_at(plan, Back.TRANSPOSED), load_slot(cell, BackCell.HH_TRANSPOSED)), 4 * units,
                registers_of(outputs), moved(pointer_at(plan, Back.DA), chunk_row * da_row), da_row, rows,
                dh, filled(outputs))  # fmt: skip

    return step_back


def chunk_kernel(simd: Simd, product: Kernel) -> Kernel:
    """``chunk_back(plan, cell, runs, count, step, steps)``: gradients of weights, and dx, of the steps of a chunk."""
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    load, load_part, store_part, add, flush_h = simd.load, simd.load_part, simd.store_part, simd.add, simd.flush_h
    accumulate, (registers_of, filled), four = gradient_sums(simd), sizes_for(lanes), tile_of(simd, 1, QUAD)
    four_zero, four_load, four_store, four_add = four.zero, four.load, four.store, four.add

    @named("bias_sums")
    def bias_sums(plan, runs, count, gates):
        """To BIAS_SUMS is added, run after run, the sum of da over a run's positions."""
        da, row, sums = pointer_at(plan, Back.DA), load_slot(plan, Back.DA_ROW), pointer_at(plan, Back.BIAS_SUMS)
        for k in range(0, gates, QUAD * lanes):
            for n in range(count):
                value, end = four_zero(), load_slot(runs, n + 1)
                for first in range(load_slot(runs, n), end, K_BLOCK):
                    part = four_zero()
                    for position in range(first, smaller(first + K_BLOCK, end)):
                        part = four_add(part, four_load(da, position * row + k, 0, 0))
                    value = four_add(value, part)
                four_store(sums, k, 0, four_add(four_load(sums, k, 0, 0), value))

    @named("chunk_back")
    def chunk_back(plan, cell, runs, count, step, steps):
        """After the last of the ``steps`` steps of a chunk, which begin with ``step``."""
        inputs, outputs, units = cell_sizes(cell)
        rows, da, da_row = load_slot(runs, count), pointer_at(plan, Back.DA), load_slot(plan, Back.DA_ROW)
        apart = load_slot(plan, Back.CHUNK_ROWS)
        accumulate(pointer_at(plan, Back.SOURCES), apart, registers_of(inputs + outputs), runs, count,
                   da, da_row, 4 * units, pointer_at(plan, Back.SUMS))  # fmt: skip
        if load_slot(plan, Back.BIAS) > 0:
            bias_sums(plan, runs, count, 4 * units)
        if load_slot(cell, BackCell.PROJECTED) > 0:
            accumulate(pointer_at(plan, Back.M), apart, registers_of(units), runs, count, pointer_at(plan, Back.DT),
                       filled(outputs), outputs, pointer_at(plan, Back.M_SUMS))  # fmt: skip
        if load_slot(cell, BackCell.D_INPUT) != 0:
            sums, stride = pointer_at(plan, Back.DX_SUMS), filled(inputs)
            product(moved(pointer_at(plan, Back.TRANSPOSED), load_slot(cell, BackCell.IH_TRANSPOSED)), 4 * units,
                    registers_of(inputs), da, da_row, rows, sums, stride)  # fmt: skip
            added, chunk_row = load_slot(cell, BackCell.D_INPUT_ADDED) > 0, 0
            for n in range(steps):
                of_step = record_at(step, n * STEP)
                for r in range(load_slot(of_step, StepBack.ROWS)):
                    position = load_slot(of_step, StepBack.BEGIN) + r
                    dx = moved(pointer_at(cell, BackCell.D_INPUT), position * load_slot(cell, BackCell.D_INPUT_ROW))
                    source = moved(sums, (chunk_row + r) * stride)
                    for k in range(0, inputs, lanes):
                        value = load(source, k)
                        if added:
                            value = flush_h(add(load_part(dx, k, inputs - k), value))
                        store_part(dx, k, value, inputs - k)
                chunk_row += load_slot(of_step, StepBack.ROWS)

    return chunk_back


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


def cell_kernel(simd: Simd, shapes: Shapes) -> Kernel:
    """``cell_back(plan, cell)``: the whole pass of one layer in one direction."""
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    store_part, zeros, copy_rows = simd.store_part, simd.splat(0), rows_kernel(simd)
    (_, take), (registers_of, filled) = panel_columns(simd), sizes_for(lanes)
    product = panel_product(simd, shapes)
    step_back, chunk_back = step_kernel(simd, product), chunk_kernel(simd, product)

    @inline
    def clear(target, count):
        for k in range(0, count, lanes):
            store_part(target, k, zeros(), count - k)

    @named("gradients_out")
    def gradients_out(plan, cell):
        """From sums to gradients as the parameters are laid out."""
        inputs, outputs, units = cell_sizes(cell)
        sums, gates, registers = pointer_at(plan, Back.SUMS), 4 * units, registers_of(inputs + outputs)
        of_x, of_h = pointer_at(cell, BackCell.D_WEIGHT_IH), pointer_at(cell, BackCell.D_WEIGHT_HH)
        for gate in range(gates):
            take(sums, registers, gates, gate, 0, moved(of_h, gate * outputs), outputs)
            take(sums, registers, gates, gate, outputs, moved(of_x, gate * inputs), inputs)
        if load_slot(plan, Back.BIAS) > 0:
            copy_rows(pointer_at(plan, Back.BIAS_SUMS), 0, pointer_at(cell, BackCell.D_BIAS), 0, 1, gates)
        if load_slot(cell, BackCell.PROJECTED) > 0:
            of_m = pointer_at(cell, BackCell.D_WEIGHT_HR)
            for output in range(outputs):
                take(pointer_at(plan, Back.M_SUMS), registers_of(units), outputs, output, 0,
                     moved(of_m, output * units), units)  # fmt: skip

    @named("cell_back")
    def cell_back(plan, cell):
        inputs, outputs, units = cell_sizes(cell)
        batch, d_h = load_slot(plan, Back.ROWS), pointer_at(cell, BackCell.D_H)
        clear(pointer_at(plan, Back.SUMS), registers_of(inputs + outputs) * lanes * 4 * units)
        if load_slot(plan, Back.BIAS) > 0:
            clear(pointer_at(plan, Back.BIAS_SUMS), (4 * units + QUAD * lanes - 1) // (QUAD * lanes) * QUAD * lanes)
        if load_slot(cell, BackCell.PROJECTED) > 0:
            clear(pointer_at(plan, Back.M_SUMS), registers_of(units) * lanes * outputs)
        copy_rows(d_h, outputs, pointer_at(plan, Back.DH), filled(outputs), batch, outputs)
        table, runs = slots_at(load_slot(cell, BackCell.STEP_TABLE)), slots_at(load_slot(plan, Back.RUNS))
        store_slot(runs, 0, 0)
        chunk_row, count, first = 0, 0, 0
        for n in range(load_slot(plan, Back.STEPS)):
            step = record_at(table, n * STEP)
            step_back(plan, cell, step, chunk_row)
            chunk_row += load_slot(step, StepBack.ROWS)
            ends = load_slot(step, StepBack.ENDS)
            if ends > 0:
                while chunk_row - load_slot(runs, count) > RUN:
                    store_slot(runs, count + 1, load_slot(runs, count) + RUN)
                    count += 1
                count += 1
                store_slot(runs, count, chunk_row)
            if ends > 1:
                chunk_back(plan, cell, runs, count, record_at(table, first * STEP), n + 1 - first)
                chunk_row, count, first = 0, 0, n + 1
        copy_rows(pointer_at(plan, Back.DH), filled(outputs), d_h, outputs, batch, outputs)
        gradients_out(plan, cell)

    return cell_back


def backward_kernel(number: str, lanes: int, shapes: Shapes, fused: bool) -> Kernel:
    """The kernel ``backward(plan)`` for one number type and one kind of CPU."""
    simd = Simd(number, lanes, fused)
    transpose, cell_back = weights_transposed(simd), cell_kernel(simd, shapes)

    @named("backward")
    def backward(plan):
        begin, end = load_slot(plan, Back.CELLS_FROM), load_slot(plan, Back.CELLS_TO)
        directions = load_slot(plan, Back.DIRECTIONS)
        for n in range(begin, end):
            if load_slot(plan, Back.TRANSPOSE) > 0:
                transpose(plan, record_at(plan, CELLS + n * CELL))
        layer = end - directions
        while layer >= begin:  # layers from the top, the first direction first
            for direction in range(directions):
                cell_back(plan, record_at(plan, CELLS + (layer + direction) * CELL))
            layer -= directions

    backward.compile(types.void(PLAN))
    return backward
