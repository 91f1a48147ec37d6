"""The phases of a cell with int8 weights: inputs and h are rounded, then the phases of ``recurrence`` take place.

Layout: at ROUNDED the rows of x of a step, unless they are hoisted, and behind them those of h; before W_hr those of
the hidden h. Behind the hoisted gates the rows of x of all their steps, ``[step][row]``.
"""

from __future__ import annotations

from ..compiler import Kernel, inline, named
from ..instructions import load_slot
from ..microkernel import Operands
from ..plan_layout import Cell, Header
from ..projection import line_projection
from ..simd import Simd
from ..tile import FROM_BIAS, Shapes, by_size, next_size, tile_of, whole_blocks
from ..work_queue import ForChunks
from .rounding import row_rounder


def on_rounded(simd: Simd, run_step: Kernel, tile: Kernel) -> tuple[Kernel, Kernel]:
    """The two kernels of ``cell_step``, which round x and h first. Threads that share a step each round all of it."""
    pointer_at, moved, terms_of, round_rows = simd.pointer_at, simd.moved, simd.terms, row_rounder(simd)

    @inline
    def rounded(plan, cell, rows, of):
        inputs, outputs = load_slot(cell, Cell.INPUTS), load_slot(cell, Cell.OUTPUTS)
        x = pointer_at(plan, Header.ROUNDED)
        h = moved(x, rows * terms_of(inputs))
        if load_slot(cell, Cell.HOIST) == 0:
            round_rows(of.x, of.x_stride, rows, inputs, x)
        round_rows(of.h, of.h_stride, rows, outputs, h)
        return Operands(x, terms_of(inputs), h, terms_of(outputs), of.y, of.c, of.gates, of.gap, of.kept, of.again)

    @inline
    def step(plan, begin, end, cell, rows, step, of):
        run_step(plan, begin, end, cell, rows, step, rounded(plan, cell, rows, of))

    @inline
    def single_tile(n, plan, r, cell, block, of):
        tile(n, plan, r, cell, block, rounded(plan, cell, 1, of))

    return step, single_tile


def rounded_input(simd: Simd, shapes: Shapes, chain: Kernel | None, halved: bool) -> Kernel:
    """``input_projection`` of rows that are rounded already, one behind the other."""
    pointer_at, moved, terms_of, width = simd.pointer_at, simd.moved, simd.terms, 4 * simd.lanes
    whole_of, line = whole_blocks(simd.lanes), line_projection(simd, shapes, chain, halved)

    @inline
    def project(plan, begin, end, cell, source, steps, rows):
        whole, count = whole_of(load_slot(cell, Cell.UNITS)), steps * rows
        gates, terms = pointer_at(plan, Header.GATES), terms_of(load_slot(cell, Cell.INPUTS))
        for block in range(begin, end):
            target = moved(gates, block * count * width)
            line(plan, cell, block, block >= whole, source, terms, count, target, width)

    return project


def rounding_first(simd: Simd, project: Kernel, spread: ForChunks) -> Kernel:
    """``(plan, phase, blocks, cell, x, steps, rows) -> next phase``: a phase that rounds all rows, then ``project``."""
    pointer_at, moved, terms_of, width = simd.pointer_at, simd.moved, simd.terms, 4 * simd.lanes
    round_rows = row_rounder(simd)

    @inline
    def round(plan, begin, end, cell, x, target, rows):
        inputs = load_slot(cell, Cell.INPUTS)
        step, row = load_slot(cell, Cell.SOURCE_STEP), load_slot(cell, Cell.SOURCE_ROW)
        for n in range(begin, end):
            of_step = n // rows
            source = moved(x, of_step * step + (n - of_step * rows) * row)
            round_rows(source, 0, 1, inputs, moved(target, n * terms_of(inputs)))

    round_all = spread(round)

    @inline
    def run(plan, phase, blocks, cell, x, steps, rows):
        rounded = moved(pointer_at(plan, Header.GATES), blocks * steps * rows * width)
        phase = round_all(plan, phase, steps * rows, cell, x, rounded, rows)
        return project(plan, phase, blocks, cell, rounded, steps, rows)

    return run


def rounding_hidden(simd: Simd, project: Kernel) -> Kernel:
    """``hidden_projection``, which rounds the rows of the hidden h first."""
    pointer_at, lanes, round_rows = simd.pointer_at, simd.lanes, row_rounder(simd)

    @inline
    def run(plan, begin, end, cell, target, rows):
        units = load_slot(cell, Cell.UNITS)
        padded = (units + lanes - 1) // lanes * lanes
        round_rows(pointer_at(plan, Header.HIDDEN), padded, rows, units, pointer_at(plan, Header.ROUNDED))
        project(plan, begin, end, cell, target, rows)

    return run


def integer_chain(simd: Simd, shapes: Shapes) -> Kernel | None:
    """``chain`` of ``chain_by_k_blocks`` with int8 weights, tile after tile of rows. A quarter of a panel is read fast.

    None for tiles that have an epilogue of their own.
    """
    if not shapes.side_by_side:
        return None
    moved, height_of = simd.moved, next_size(shapes.mr)
    run = by_size(shapes.mr, {height: sums_kernel(simd, height) for height in shapes.mr})

    @inline
    def chain(plan, far, begin, bias, sums, sums_stride, panel, following, terms, source, stride, rows, all, last):
        r = 0
        while r < rows:
            height = height_of(rows - r, load_slot(plan, Header.MR))
            target = moved(sums, r * sums_stride)
            run(height, panel, terms, moved(source, r * stride), stride, target, sums_stride, bias, begin)
            r += height

    return chain


def sums_kernel(simd: Simd, height: int) -> Kernel:
    """``(panel, terms, source, stride, sums, sums_stride, bias, begin)``: the sums of some rows in a block."""
    tile = tile_of(simd, height, 4)
    zero, start, dot, store = tile.zero, tile.start, tile.dot, tile.store

    @named(f"integer_sums_{height}")
    def kernel(panel, terms, source, stride, sums, sums_stride, bias, begin):
        value = zero()
        if begin == FROM_BIAS:
            value = start(bias, 0, 0)
        store(sums, 0, sums_stride, dot(value, panel, 0, 0, 0, terms, source, stride))

    return kernel
