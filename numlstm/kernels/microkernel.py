"""One step of a tile, from the sums of its gates to its c and h: some rows of a block, or some blocks of a row.

Layout: the panel of a block is ``[k][gate][lane]``, k over the input features and then over h. Loop order: terms,
weights of a term, rows; in ``step_by_k_blocks``, some K-blocks of every tile of rows before the next ones.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import types

from numlstm.base import cell_options
from numlstm.base.cell_options import CellOptions

from .activations import activations, other_cell
from .compiler import Kernel, inline, named
from .instructions import bump_counter, greater, load_slot, smaller, store_slot
from .plan_layout import LINE, PEEPHOLE_GATES, TAPE_REGISTERS, Cell, Header
from .projection import ROWS_AT_ONCE, far_rows_at_once
from .simd import SideBySide, Simd
from .tile import FROM_BIAS, FROM_ZERO, Shapes, Tile, for_tiles, next_size, tile_of

PREFETCH_DISTANCE = 1024  # bytes; 512 and 2048 were measured to be worse or equal
ABREAST = 4  # rows whose c and h are computed side by side


class Operands(NamedTuple):
    """What one step of some rows reads and writes: where the first row stands, and the stride from row to row."""

    x: Any  # the input; in a kernel, all of these are pointers or int64
    x_stride: Any
    h: Any  # h of the step before
    h_stride: Any
    y: Any  # the new h; ``y_stride_of`` has the stride
    c: Any  # c, in place; its rows are UNITS apart
    gates: Any  # the hoisted X of the step: [block][row][gate][lane]
    gap: Any  # from a block of it to the next
    kept: Any  # where a kernel that keeps does so: [row][block][i f g o c][lane]; rows are TAPE_ROW apart
    again: Any  # numbers from y to where the h of a single row is stored once more; 0: nowhere


class Variant(NamedTuple):
    """Which cell a kernel computes."""

    keeps: bool = False  # whether what a backward pass needs is kept
    options: CellOptions = cell_options.PLAIN  # a cell with others keeps nothing

    @property
    def registers(self) -> int:
        """Registers of a block in ``kept``: what is kept, or the peepholes that are read."""
        return TAPE_REGISTERS if self.keeps else PEEPHOLE_GATES if self.options.peepholes else 0


PLAIN = Variant()


class Epilogue(NamedTuple):
    """From gates to states, for row r and block j of a tile, in two parts.

    ``count`` units are left from the tile's first one on; what lies beyond is not touched.
    """

    start: Kernel  # (*gates, r, j, c, c_stride, h, h_stride, count, kept, kept_stride): sets c
    end: Kernel  # (what start returns, r, j, ...): sets h
    variant: Variant

    def on(self, tile: Tile) -> Any:
        """``(sums, c, c_stride, h, h_stride, count, kept, kept_stride)``: both parts for all of a tile."""
        P, at = tile.simd.pointer, types.int64
        return tile.each(self.start, P, at, P, at, at, P, at, then=self.end)


def cell_of(simd: Simd, variant: Variant, apart: int, load: Kernel, store: Kernel) -> tuple[Kernel, Kernel]:
    """``(i, f, g, o, c, kept, at, stride) -> new c, |c|, denominator of o`` of gates before activation, and ``to_h``.

    A variant that keeps has e^-i, e^-f, +-e^-2|g|, e^-o and c go to ``kept[at]``, each ``apart`` numbers from the one
    before, by ``store(kept, at, stride, register)``. One with peepholes has them there, for ``load(kept, at)``.
    """
    part = activations(simd)
    to_c, to_c_and_powers = part.to_c, part.to_c_and_powers
    other = part if variant.options.plain else other_cell(simd, variant.options)
    other_to_c = other.to_c

    @inline
    def gates(i, f, g, o, c, kept, at, stride):
        return to_c(i, f, g, o, c)

    @inline
    def gates_kept(i, f, g, o, c, kept, at, stride):
        new, size, denominator, e_i, e_f, e_g, e_o = to_c_and_powers(i, f, g, o, c)
        store(kept, at, stride, e_i)
        store(kept, at + apart, stride, e_f)
        store(kept, at + 2 * apart, stride, e_g)
        store(kept, at + 3 * apart, stride, e_o)
        store(kept, at + 4 * apart, stride, new)
        return new, size, denominator

    @inline
    def gates_of_others(i, f, g, o, c, kept, at, stride):
        return other_to_c(i, f, g, o, c, c, c, c)

    @inline
    def gates_with_peepholes(i, f, g, o, c, kept, at, stride):
        return other_to_c(i, f, g, o, c, load(kept, at), load(kept, at + apart), load(kept, at + 2 * apart))

    if variant.keeps:
        return gates_kept, part.to_h
    if variant.options.plain:
        return gates, part.to_h
    return gates_with_peepholes if variant.options.peepholes else gates_of_others, other.to_h


def cell_epilogue(simd: Simd, variant: Variant, apart: int = 0, single: bool = False) -> Epilogue:
    """The epilogue of whole registers, one for each gate.

    Registers that are kept stand ``apart`` numbers from each other, as many as they have lanes if that is 0. The h of a
    ``single`` row is stored again ``h_stride`` numbers further, unless that is 0.
    """
    lanes, load_part, store_part, store_whole = simd.lanes, simd.load_part, simd.store_part, simd.store
    apart, registers = apart or lanes, variant.registers

    @inline
    def store(kept, at, stride, register):
        store_whole(kept, at, register)

    gates, to_h = cell_of(simd, variant, apart, simd.load, store)

    @inline
    def start(i, f, g, o, r, j, c, c_stride, h, h_stride, count, kept, kept_stride):
        at, left, at_kept = r * c_stride + j * lanes, count - j * lanes, r * kept_stride + j * registers * apart
        new, size, denominator = gates(i, f, g, o, load_part(c, at, left), kept, at_kept, kept_stride)
        store_part(c, at, new, left)
        return new, size, denominator

    @inline
    def end(parts, r, j, c, c_stride, h, h_stride, count, kept, kept_stride):
        new, size, denominator = parts
        store_part(h, r * h_stride + j * lanes, to_h(new, size, denominator), count - j * lanes)

    @inline
    def end_of_single(parts, r, j, c, c_stride, h, h_stride, count, kept, kept_stride):
        new, size, denominator = parts
        value, at, left = to_h(new, size, denominator), j * lanes, count - j * lanes
        store_part(h, at, value, left)
        if h_stride != 0:
            store_part(h, h_stride + at, value, left)

    return Epilogue(start, end_of_single if single else end, variant)


@cache
def kept_of(simd: Simd, variant: Variant) -> Kernel:
    """``(plan, cell, block, r, of)``: where a block of a row is kept, and the stride of rows.

    Of a cell with peepholes, where those of the block are, the same for all rows. Else anything.
    """
    moved, pointer_at, width = simd.moved, simd.pointer_at, variant.registers * simd.lanes

    @inline
    def nothing(plan, cell, block, r, of):
        return of.c, 0

    @inline
    def peepholes(plan, cell, block, r, of):
        return moved(pointer_at(plan, Header.PANELS), load_slot(cell, Cell.PEEPHOLES) + block * width), 0

    @inline
    def kept(plan, cell, block, r, of):
        stride = load_slot(cell, Cell.TAPE_ROW)
        return moved(of.kept, r * stride + block * width), stride

    return kept if variant.keeps else peepholes if variant.options.peepholes else nothing


@cache
def kept_prefetch(simd: Simd, variant: Variant, rows: int, blocks: int) -> Kernel:
    """``(plan, cell, block, r, of)``: prefetch where a tile is kept, so that its stores find the cache lines there."""
    find = kept_of(simd, variant)
    lines = -(-blocks * variant.registers * simd.lanes * simd.number.itemsize // LINE)
    prefetch = simd.prefetch_rows(rows, lines)

    @inline
    def nothing(plan, cell, block, r, of):
        pass

    @inline
    def prefetch_kept(plan, cell, block, r, of):
        kept, stride = find(plan, cell, block, r, of)
        prefetch(kept, stride)

    return prefetch_kept if variant.keeps else nothing


@cache
def y_stride_of(lanes: int) -> Kernel:
    """``(cell) -> numbers from a row of the new h to the next``.

    A tile asks when its sums are done. Passed to it, the stride would cost a spill in float64's tallest tile.
    """

    @inline
    def y_stride(cell):
        if load_slot(cell, Cell.PROJECTED) > 0:
            return (load_slot(cell, Cell.UNITS) + lanes - 1) // lanes * lanes
        return load_slot(cell, Cell.TARGET_ROW)

    return y_stride


@cache
def counted(height: int, blocks: int = 1, half: bool = False) -> Kernel:
    """``(plan)``: count a tile in the plan."""
    slot = int(Header.TILES if height > 1 else Header.MULTI_BLOCK if blocks > 1 else Header.SINGLE_BLOCK)

    @inline
    def count(plan):
        bump_counter(plan, slot)
        if height > 1:
            store_slot(plan, Header.TALL, greater(height, load_slot(plan, Header.TALL)))
        if half:
            bump_counter(plan, Header.HALF)

    return count


def by_distance(near: Any, far: Any) -> Kernel:
    """``dot`` of a tile; by ``far``, which prefetches the weights, where they are beyond L2."""

    @inline
    def dot(cell, value, panels, panel, gap, first, count, source, stride):
        return near(value, panels, panel, gap, first, count, source, stride)

    @inline
    def either(cell, value, panels, panel, gap, first, count, source, stride):
        if load_slot(cell, Cell.BEYOND_L2) > 0:
            return far(value, panels, panel, gap, first, count, source, stride)
        return near(value, panels, panel, gap, first, count, source, stride)

    return dot if far is None else either


def recurrent_tile(simd: Simd, height: int, blocks: int, epilogue: Epilogue) -> Kernel:
    """``step_kernel`` of ``height`` rows in ``blocks`` whole blocks.

    Several rows pass over a panel that is in cache by then; a single row waits for every line of it.
    """
    tile = tile_of(simd, height, 4, blocks)
    far = tile_of(simd, 1, 4, blocks, ahead=PREFETCH_DISTANCE).dot if height == 1 else None
    name, count = f"recur_{height}x{blocks}", counted(height, blocks)
    single = height == 1
    kernel = step_kernel(name, simd, tile, far, epilogue.on(tile), count, epilogue.variant, single)
    return of_one_row(simd, kernel) if single else kernel


def of_one_row(simd: Simd, kernel: Kernel) -> Kernel:
    """``kernel`` of one row, which is called with r = 0: LLVM drops arguments that are always 0.

    The stack of such a call matters: while the last h is computed, a core holds back all later stores, and waits when
    it has no room for more (64 in AMD's Zen 4).
    """
    moved, width, y_stride_in = simd.moved, 4 * simd.lanes, y_stride_of(simd.lanes)

    @inline
    def run(plan, r, cell, block, of):
        x, h, y = moved(of.x, r * of.x_stride), moved(of.h, r * of.h_stride), moved(of.y, r * y_stride_in(cell))
        c, gates = moved(of.c, r * load_slot(cell, Cell.UNITS)), moved(of.gates, r * width)
        kept = moved(of.kept, r * load_slot(cell, Cell.TAPE_ROW))
        kernel(plan, 0, cell, block, Operands(x, 0, h, 0, y, c, gates, of.gap, kept, of.again))

    return run


def step_kernel(
    name: str, simd: Simd, tile: Any, far: Any, finish: Any, count: Kernel, variant: Variant, single: bool = False
) -> Kernel:
    """``kernel(plan, r, cell, block, of)``: one step of the rows of a tile from r on, in its blocks from ``block`` on.

    ``tile`` has the instructions on the sums, ``far`` a ``dot`` that prefetches, or is None.
    """
    lanes, width, pointer_at, moved = simd.lanes, 4 * simd.lanes, simd.pointer_at, simd.moved
    panel_width, terms_of = simd.in_memory(4) * lanes, simd.terms
    zero, start, load, add, dot = tile.zero, tile.start, tile.load, tile.add, by_distance(tile.dot, far)
    y_stride_in, kept_in = y_stride_of(lanes), kept_of(simd, variant)
    prefetch_kept = kept_prefetch(simd, variant, tile.rows, tile.blocks)

    @named(name)
    def kernel(plan, r, cell, block, of):
        inputs, outputs = terms_of(load_slot(cell, Cell.INPUTS)), terms_of(load_slot(cell, Cell.OUTPUTS))
        units = load_slot(cell, Cell.UNITS)
        panels, gap = pointer_at(plan, Header.PANELS), (inputs + outputs) * panel_width
        panel = load_slot(cell, Cell.PANEL) + block * gap
        count(plan)
        prefetch_kept(plan, cell, block, r, of)
        if load_slot(cell, Cell.HOIST) > 0:
            value = load(of.gates, block * of.gap + r * width, width, of.gap)
        else:
            value = start(panels, load_slot(cell, Cell.BIAS) + block * width, width)
            value = dot(cell, value, panels, panel, gap, 0, inputs, moved(of.x, r * of.x_stride), of.x_stride)
        rest = dot(cell, zero(), panels, panel, gap, inputs, outputs, moved(of.h, r * of.h_stride), of.h_stride)
        unit = block * lanes
        y_stride = y_stride_in(cell)
        c, y = moved(of.c, r * units + unit), moved(of.y, r * y_stride + unit)
        kept, kept_stride = kept_in(plan, cell, block, r, of)
        finish(add(value, rest), c, units, y, of.again if single else y_stride, units - unit, kept, kept_stride)

    return kernel


def step_by_k_blocks(simd: Simd, epilogue: Epilogue, shapes: Shapes, chain: Kernel) -> tuple[Kernel, Kernel]:
    """Two kernels. ``(plan, cell, block, blocks, onward, rows, of)``: one step of all rows in blocks, by ``chain``.

    The first of them is ``block``, and the next one ``onward`` by 1 or -1. Where X is not hoisted, it is summed here,
    before R. ``(cell, rows, left)``: how many of the blocks that are ``left`` to take at once, so that few rows, too,
    have ``ABREAST`` chains for the epilogue.
    """
    lanes, width, pointer_at, moved = simd.lanes, 4 * simd.lanes, simd.pointer_at, simd.moved
    far_rows, y_stride_in, kept_in = far_rows_at_once(simd), y_stride_of(lanes), kept_of(simd, epilogue.variant)
    room, panel_width, terms_of = simd.scratch(far_rows * width), simd.in_memory(4) * lanes, simd.terms
    tallest = shapes.mr[0]
    prefetch_kept = kept_prefetch(simd, epilogue.variant, 1, 1)
    side_by_side = shapes.side_by_side and epilogue.variant.options.plain
    if side_by_side:
        of_rows, of_blocks = rows_side_by_side(simd, epilogue.variant.keeps)
    else:
        ends = {height: epilogue_kernel(simd, epilogue, height) for height in shapes.mr}
        of_tiles = for_tiles(shapes.mr, next_size, ends)

    @inline
    def most_rows(cell):
        """Rows for which there is room."""
        most = far_rows if load_slot(cell, Cell.BEYOND_L2) > 0 else ROWS_AT_ONCE
        return most if load_slot(cell, Cell.HOIST) > 0 else most // 2  # the other half of the room is for X

    @inline
    def blocks_at_once(cell, rows, left):
        if side_by_side and rows * ABREAST <= most_rows(cell) and left >= ABREAST:
            return smaller(most_rows(cell) // ABREAST // rows, left // ABREAST) * ABREAST
        return 1

    @named("step_by_k_blocks")
    def step(plan, cell, block, blocks, onward, rows, of):
        inputs, outputs = terms_of(load_slot(cell, Cell.INPUTS)), terms_of(load_slot(cell, Cell.OUTPUTS))
        units, hoisted = load_slot(cell, Cell.UNITS), load_slot(cell, Cell.HOIST) > 0
        terms, sums, panels = inputs + outputs, room(), pointer_at(plan, Header.PANELS)
        y_stride, far, most = y_stride_in(cell), load_slot(cell, Cell.BEYOND_L2) > 0, most_rows(cell)
        lowest, sums_row = block if onward > 0 else block - blocks + 1, blocks * width
        unit = lowest * lanes
        for first in range(0, rows, most):
            count = smaller(most, rows - first)
            gates, gap, gates_row = moved(of.gates, lowest * of.gap + first * width), of.gap, width
            if not hoisted:
                gates, gap, gates_row = moved(sums, most * width), width, sums_row
            h = moved(of.h, first * of.h_stride)
            for n in range(block, block + blocks * onward, onward):
                for r in range(first, first + count):
                    prefetch_kept(plan, cell, n, r, of)
                x_panel, at = moved(panels, load_slot(cell, Cell.PANEL) + n * terms * panel_width), n - lowest
                panel, following = moved(x_panel, inputs * panel_width), moved(x_panel, onward * terms * panel_width)
                if hoisted:
                    following = moved(following, inputs * panel_width)
                else:
                    bias = moved(panels, load_slot(cell, Cell.BIAS) + n * width)
                    chain(plan, far, FROM_BIAS, bias, moved(gates, at * gap), gates_row, x_panel, panel, inputs,
                          moved(of.x, first * of.x_stride), of.x_stride, count, count == rows, False)  # fmt: skip
                chain(plan, far, FROM_ZERO, panel, moved(sums, at * width), sums_row, panel, following, outputs,
                      h, of.h_stride, count, count == rows, first + count == rows)  # fmt: skip
            c, y = moved(of.c, first * units + unit), moved(of.y, first * y_stride + unit)
            kept, kept_stride = kept_in(plan, cell, lowest, first, of)
            if not side_by_side:
                of_tiles(plan, count, sums, gates, c, units, y, y_stride, units - unit, kept, kept_stride)
            else:
                bump_counter(plan, Header.TILES)
                height = smaller(count, smaller(tallest, load_slot(plan, Header.MR)))
                store_slot(plan, Header.TALL, greater(height, load_slot(plan, Header.TALL)))
                if blocks == 1:
                    of_rows(count, sums, gates, c, units, y, y_stride, units - unit, kept, kept_stride)
                else:
                    of_blocks(count, blocks, sums, gates, gates_row, gap, c, units, y, y_stride, kept, kept_stride)

    return step, blocks_at_once


def epilogue_kernel(simd: Simd, epilogue: Epilogue, height: int) -> Kernel:
    """``(plan, r, sums, gates, c, c_stride, y, y_stride, count, kept, kept_stride)``: that of the rows from r on.

    ``sums`` (of R) and ``gates`` (X) are ``[row][gate][lane]``.
    """
    tile, width, moved = tile_of(simd, height, 4), 4 * simd.lanes, simd.moved
    load, add, finish, count_tile = tile.load, tile.add, epilogue.on(tile), counted(height)

    @named(f"epilogue_{height}")
    def kernel(plan, r, sums, gates, c, c_stride, y, y_stride, count, kept, kept_stride):
        count_tile(plan)
        value = add(load(gates, r * width, width, 0), load(sums, r * width, width, 0))
        finish(value, moved(c, r * c_stride), c_stride, moved(y, r * y_stride), y_stride, count,
               moved(kept, r * kept_stride), kept_stride)  # fmt: skip

    return kernel


def rows_side_by_side(simd: Simd, keeps: bool) -> tuple[Kernel, Kernel]:
    """Two kernels, for all rows of a block, and for a few rows of some blocks: the epilogue, several chains at once.

    ``(rows, sums, gates, c, c_stride, y, y_stride, count, kept, kept_stride)``, and ``(rows, blocks, sums, gates,
    gates_row, gap, c, c_stride, y, y_stride, kept, kept_stride)``: ``sums`` (of R) are ``[row][block][gate][lane]``,
    and are changed. ``gates`` (X) are ``gates_row`` apart from row to row, and ``gap`` from block to block; those of
    one block are laid out as ``sums``.
    Loop order: three sigmoids of two chains at a time; then c, and last h, of four. Chains are those of rows, or else
    of the blocks of a row. Where fewer are left, the last one is computed again, to the same bits.
    """
    lanes, width, moved = simd.lanes, 4 * simd.lanes, simd.moved
    six, four = SideBySide(simd, 6), SideBySide(simd, ABREAST)
    of_six, part = activations(six), activations(four)
    denominator, denominator_and_exp = of_six.one_and_exp_of_minus, of_six.denominator_and_exp
    c_of, c_and_power_of, to_h = part.c_of_denominators, part.c_and_power_of_denominators, part.to_h
    load_six, store_six, add_six = six.load, six.store, six.add
    load, store, add, load_part, store_part = four.load, four.store, four.add, four.load_part, four.store_part
    i, f, g, o = (gate * lanes for gate in range(4))

    @inline
    def four_rows(r, last, stride, at):
        """Where the rows from r on stand."""
        return (r * stride + at, smaller(r + 1, last) * stride + at,
                smaller(r + 2, last) * stride + at, smaller(r + 3, last) * stride + at)  # fmt: skip

    @inline
    def of_two(r, last, stride):
        """Where i, f and o of two rows stand."""
        a, b = r * stride, smaller(r + 1, last) * stride
        return a + i, a + f, a + o, b + i, b + f, b + o

    @inline
    def finish(times, rows, sums, gates, gates_next, gates_stride, c, c_next, c_stride, y, y_next, y_stride, count,
               kept, kept_next, kept_stride):  # fmt: skip
        last = rows - 1
        for n in range(times):
            R, X, to = moved(sums, n * rows * width), moved(gates, n * gates_next), moved(kept, n * kept_next)
            for r in range(0, rows, 2):
                of_r = of_two(r, last, width)
                value = add_six(load_six(X, of_two(r, last, gates_stride)), load_six(R, of_r))
                if keeps:
                    under, powers = denominator_and_exp(value)
                    store_six(to, of_two(r, last, kept_stride), powers)
                else:
                    under = denominator(value)
                store_six(R, of_r, under)
        for n in range(times):
            R, X, at = moved(sums, n * rows * width), moved(gates, n * gates_next), moved(c, n * c_next)
            to = moved(kept, n * kept_next)
            for r in range(0, rows, ABREAST):
                of_i, of_f = four_rows(r, last, width, i), four_rows(r, last, width, f)
                of_g, of_c = four_rows(r, last, width, g), four_rows(r, last, c_stride, 0)
                gate = add(load(X, four_rows(r, last, gates_stride, g)), load(R, of_g))
                if keeps:
                    new, size, power = c_and_power_of(load(R, of_i), load(R, of_f), gate, load_part(at, of_c, count))
                    store(to, four_rows(r, last, kept_stride, g), power)
                    store(to, four_rows(r, last, kept_stride, 4 * lanes), new)
                else:
                    new, size = c_of(load(R, of_i), load(R, of_f), gate, load_part(at, of_c, count))
                store_part(at, of_c, new, count)
                store(R, of_i, new)
                store(R, of_g, size)
        for n in range(times):
            R, at = moved(sums, n * rows * width), moved(y, n * y_next)
            for r in range(0, rows, ABREAST):
                new, size = load(R, four_rows(r, last, width, i)), load(R, four_rows(r, last, width, g))
                h = to_h(new, size, load(R, four_rows(r, last, width, o)))
                store_part(at, four_rows(r, last, y_stride, 0), h, count)

    @named("epilogue_of_rows")
    def of_rows(rows, sums, gates, c, c_stride, y, y_stride, count, kept, kept_stride):
        finish(1, rows, sums, gates, 0, width, c, 0, c_stride, y, 0, y_stride, count, kept, 0, kept_stride)

    @named("epilogue_of_blocks")
    def of_blocks(rows, blocks, sums, gates, gates_row, gap, c, c_stride, y, y_stride, kept, kept_stride):
        finish(rows, blocks, sums, gates, gates_row, gap, c, c_stride, lanes, y, y_stride, lanes, lanes,
               kept, kept_stride, TAPE_REGISTERS * lanes)  # fmt: skip

    return of_rows, of_blocks
