"""The last block where half a register is enough for its units: half the lanes, so that two gates share a register.

Memory: its panel is ``[k][gate][lane]`` with half the lanes, of which a register holds i and f, or g and o; a bias
likewise. The hoisted projection of a row takes as much room as that of any block, and the first half of it.

Order: one row has its chains beside those of the blocks before it. Several rows are taken two by two, so
that the epilogue has whole registers: a gate of the one and the same gate of the other.
"""

from numba import types

from .activations import activations
from .compiler import inline, named
from .instructions import bump_counter, load_slot
from .microkernel import cell_epilogue, count_tile, recurrent_tile
from .plan_layout import Cell, Header
from .projection import PAIRS
from .tile import dot_of_two, tile_of
from .tile_shapes import by_size, largest_size


def half_epilogue(simd):
    """``cell_epilogue`` of a block with half the lanes, whose gates come two in a register: i and f, g and o."""
    start_halves, end = cell_epilogue(simd.half)
    halves = simd.halves

    @inline
    def start(i_and_f, g_and_o, r, j, c, c_stride, h, h_stride, count):
        i, f = halves(i_and_f)
        g, o = halves(g_and_o)
        return start_halves(i, f, g, o, r, j, c, c_stride, h, h_stride, count)

    return start, end


def pair_epilogue(simd):
    """``half_epilogue`` of the rows 2r and 2r + 1, whose halves fill a register of every gate."""
    load_part, store_part = simd.half.load_part, simd.half.store_part
    lower, upper, joined, halves = simd.lower, simd.upper, simd.joined, simd.halves
    part = activations(simd)
    to_c, to_h = part.to_c, part.to_h

    @inline
    def start(i_and_f, g_and_o, next_i_and_f, next_g_and_o, r, j, c, c_stride, h, h_stride, count):
        at = 2 * r * c_stride
        i, f = lower(i_and_f, next_i_and_f), upper(i_and_f, next_i_and_f)
        g, o = lower(g_and_o, next_g_and_o), upper(g_and_o, next_g_and_o)
        before = joined(load_part(c, at, count), load_part(c, at + c_stride, count))
        new, size, denominator = to_c(i, f, g, o, before)
        of_row, of_next = halves(new)
        store_part(c, at, of_row, count)
        store_part(c, at + c_stride, of_next, count)
        return new, size, denominator

    @inline
    def end(parts, r, j, c, c_stride, h, h_stride, count):
        new, size, denominator = parts
        of_row, of_next = halves(to_h(new, size, denominator))
        store_part(h, 2 * r * h_stride, of_row, count)
        store_part(h, (2 * r + 1) * h_stride, of_next, count)

    return start, end


def wide_half_tile(simd, epilogue, of_half, others):
    """``recurrent_tile`` of one row in ``others`` blocks and the one after them, which has half the lanes.

    The chains of that one run beside those of the others, and its epilogue around theirs.
    """
    lanes, width, half_width = simd.lanes, 4 * simd.lanes, PAIRS * simd.lanes
    pointer_at, moved = simd.pointer_at, simd.moved
    tile, last = tile_of(simd, 1, 4, others), tile_of(simd, 1, PAIRS)
    zero, start, load, add, dot = tile.zero, tile.start, tile.load, tile.add, dot_of_two(tile, last)
    last_zero, last_start, last_load, last_add = last.zero, last.start, last.load, last.add
    first, second = epilogue
    finish = tile.each(first, simd.pointer, types.int64, simd.pointer, types.int64, types.int64, then=second)
    begin_last, end_last = of_half

    @named(f"recur_1x{others + 1}_half")
    def kernel(plan, cell, block, r, x, h, h_stride, y, gates, gap):
        inputs, outputs, units = (
            load_slot(cell, Cell.INPUTS),
            load_slot(cell, Cell.OUTPUTS),
            load_slot(cell, Cell.UNITS),
        )
        panels = pointer_at(plan, Header.PANELS)
        panel_gap = (inputs + outputs) * width
        panel = load_slot(cell, Cell.PANEL) + block * panel_gap
        last_panel = panel + others * panel_gap
        if load_slot(cell, Cell.HOIST) > 0:
            value, ending = load(gates, 0, width, gap), last_load(gates, others * gap, half_width, 0)
        else:
            bias = load_slot(cell, Cell.BIAS) + block * width
            value, ending = start(panels, bias, width), last_start(panels, bias + others * width, 0)
            value, ending = dot(value, ending, panels, panel, panel_gap, last_panel, inputs, x)
        rest, last_rest = dot(zero(), last_zero(), panels, panel + inputs * width, panel_gap,
                              last_panel + inputs * half_width, outputs, h)  # fmt: skip
        unit, of_last = block * lanes, (block + others) * lanes
        c_n, c_at = pointer_at(plan, Header.C_N), load_slot(cell, Cell.C_AT) + r * units
        c_last, y_last, left = moved(c_n, c_at + of_last), moved(y, of_last), units - of_last
        i_and_f, g_and_o = last_add(ending, last_rest)
        parts = begin_last(i_and_f, g_and_o, 0, 0, c_last, 0, y_last, 0, left)
        finish(add(value, rest), moved(c_n, c_at + unit), 0, moved(y, unit), 0, units - unit)
        end_last(parts, 0, 0, c_last, 0, y_last, 0, left)

    return kernel


def last_block(simd, epilogue, shapes):
    """For kernels with such blocks: ``last_tile`` and ``half_step``.

    ``last_tile`` is by the number of blocks of one row, the last of which is such a block; ``half_step`` a step of
    several rows of that one.
    """
    width, moved = 4 * simd.lanes, simd.moved
    of_half, of_pair = half_epilogue(simd), pair_epilogue(simd)
    single = recurrent_tile(simd, of_half, 1, 1, half=True)
    wide = {n: wide_half_tile(simd, epilogue, of_half, n - 1) for n in shapes.nr if n > 1}
    tall = {n: recurrent_tile(simd, of_pair, n, 1, half=True) for n in shapes.row_pairs if n > 1}
    last_tile, tall_tile = by_size(shapes.nr, wide | {1: single}), by_size(shapes.row_pairs, tall | {1: single})
    height_of = largest_size(shapes.row_pairs)

    @inline
    def half_step(plan, cell, block, first, rows, x, h, h_stride, y, y_stride, gates):
        r = 0
        while r < rows:
            height = height_of(rows - r, load_slot(plan, Header.MR))
            bump_counter(plan, Header.HALF)
            count_tile(plan, height)
            tall_tile(height, plan, cell, block, first + r, moved(x, r * load_slot(cell, Cell.SOURCE_ROW)),
                      moved(h, r * h_stride), h_stride, moved(y, r * y_stride), moved(gates, r * width), 0)  # fmt: skip
            r += height

    return last_tile, half_step


def no_half(wide_tile):
    """``last_block`` for registers that are too small to be halved; neither of the two is ever called."""

    @inline
    def half_step(plan, cell, block, first, rows, x, h, h_stride, y, y_stride, gates):
        pass

    return wide_tile, half_step
