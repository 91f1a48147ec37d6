"""The last block where half a register is enough for its units: half the lanes, so that two gates share a register.

Memory: its panel is ``[k][gate][lane]`` with half the lanes, of which a register holds i and f, or g and o; a bias
likewise. The hoisted projection of a row takes as much room as that of any block, and the first half of it.

Order: one row has its chains beside those of the blocks before it. Several rows are taken two by two, so
that the epilogue has whole registers: a gate of the one and the same gate of the other.
"""

from __future__ import annotations

from typing import Any

from .compiler import Kernel, inline
from .microkernel import Epilogue, Variant, cell_epilogue, cell_of, counted, of_one_row, step_kernel
from .projection import PAIRS
from .simd import Simd
from .tile import Shapes, TileAndTail, by_size, for_tiles, largest_size, tile_of


def half_epilogue(simd: Simd, variant: Variant) -> Epilogue:
    """``cell_epilogue`` of a block with half the lanes, whose gates come two in a register: i and f, g and o."""
    start_halves, end, _ = cell_epilogue(simd.half, variant, simd.lanes, single=True)
    halves = simd.halves

    @inline
    def start(i_and_f, g_and_o, r, j, c, c_stride, h, h_stride, count, kept, kept_stride):
        i, f = halves(i_and_f)
        g, o = halves(g_and_o)
        return start_halves(i, f, g, o, r, j, c, c_stride, h, h_stride, count, kept, kept_stride)

    return Epilogue(start, end, variant)


def pair_epilogue(simd: Simd, variant: Variant) -> Epilogue:
    """``half_epilogue`` of the rows 2r and 2r + 1, whose halves fill a register of every gate."""
    load_half, store_half = simd.half.load, simd.half.store
    load_part, store_part = simd.half.load_part, simd.half.store_part
    lower, upper, joined, halves = simd.lower, simd.upper, simd.joined, simd.halves

    @inline
    def load(kept, at):
        """The same for both rows."""
        of_row = load_half(kept, at)
        return joined(of_row, of_row)

    @inline
    def store(kept, at, stride, register):
        of_row, of_next = halves(register)
        store_half(kept, at, of_row)
        store_half(kept, at + stride, of_next)

    gates, to_h = cell_of(simd, variant, simd.lanes, load, store)

    @inline
    def start(i_and_f, g_and_o, next_i_and_f, next_g_and_o, r, j, c, c_stride, h, h_stride, count, kept, kept_stride):
        at = 2 * r * c_stride
        i, f = lower(i_and_f, next_i_and_f), upper(i_and_f, next_i_and_f)
        g, o = lower(g_and_o, next_g_and_o), upper(g_and_o, next_g_and_o)
        before = joined(load_part(c, at, count), load_part(c, at + c_stride, count))
        new, size, denominator = gates(i, f, g, o, before, kept, 2 * r * kept_stride, kept_stride)
        of_row, of_next = halves(new)
        store_part(c, at, of_row, count)
        store_part(c, at + c_stride, of_next, count)
        return new, size, denominator

    @inline
    def end(parts, r, j, c, c_stride, h, h_stride, count, kept, kept_stride):
        new, size, denominator = parts
        of_row, of_next = halves(to_h(new, size, denominator))
        store_part(h, 2 * r * h_stride, of_row, count)
        store_part(h, (2 * r + 1) * h_stride, of_next, count)

    return Epilogue(start, end, variant)


def single_tail(simd: Simd, of_half: Epilogue) -> Kernel:
    """``step_kernel`` of one row in the tail block."""
    tile = tile_of(simd, 1, PAIRS)
    finish, count = of_half.on(tile), counted(1, half=True)
    return of_one_row(
        simd, step_kernel("recur_1x1_half", simd, tile, None, finish, count, of_half.variant, single=True)
    )


def tall_tail(simd: Simd, of_pair: Epilogue, height: int) -> Kernel:
    """``step_kernel`` of several rows in the tail block, finished two by two."""
    tile = tile_of(simd, height, PAIRS)
    of_pairs = tile_of(simd, height // 2, 4)  # the same registers, four of each pair
    finish, count = of_pair.on(of_pairs), counted(height, half=True)
    return step_kernel(f"recur_{height}x1_half", simd, tile, None, finish, count, of_pair.variant)


def wide_tail(simd: Simd, of_single: Epilogue, of_half: Epilogue, blocks: int) -> Kernel:
    """``step_kernel`` of one row in ``blocks`` blocks, the last of which is the tail block.

    The epilogue of that one runs around those of the others.
    """
    moved, others = simd.moved, (blocks - 1) * simd.lanes  # units
    tile, tail = tile_of(simd, 1, 4, blocks - 1), tile_of(simd, 1, PAIRS)
    finish_whole, (start, end, variant) = of_single.on(tile), of_half
    at_tail = (blocks - 1) * variant.registers * simd.lanes

    @inline
    def finish(sums, c, c_stride, h, h_stride, count, kept, kept_stride):
        of_whole, (i_and_f, g_and_o) = sums
        c_tail, h_tail, left, kept_tail = moved(c, others), moved(h, others), count - others, moved(kept, at_tail)
        parts = start(i_and_f, g_and_o, 0, 0, c_tail, 0, h_tail, 0, left, kept_tail, 0)
        finish_whole(of_whole, c, c_stride, h, h_stride, count, kept, kept_stride)
        end(parts, 0, 0, c_tail, 0, h_tail, h_stride, left, kept_tail, 0)

    both = TileAndTail(tile, tail)
    name, count = f"recur_1x{blocks}_half", counted(1, blocks, half=True)
    return of_one_row(simd, step_kernel(name, simd, both, None, finish, count, variant, single=True))


def last_block(simd: Simd, of_single: Epilogue, shapes: Shapes) -> tuple[Any, Kernel]:
    """For kernels with tail blocks: (kernels for one row by its number of blocks, a loop over tiles of rows)."""
    of_half, of_pair = half_epilogue(simd, of_single.variant), pair_epilogue(simd, of_single.variant)
    single = single_tail(simd, of_half)
    wide = {n: wide_tail(simd, of_single, of_half, n) for n in shapes.nr if n > 1}
    tall = {n: tall_tail(simd, of_pair, n) for n in shapes.row_pairs if n > 1}
    return by_size(shapes.nr, wide | {1: single}), for_tiles(shapes.row_pairs, largest_size, tall | {1: single})
