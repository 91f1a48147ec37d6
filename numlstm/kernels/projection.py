"""The two projections: W_ih x for a chunk of steps ahead of the recurrence, and W_hr h after a step.

Hoisted input projection. Reads the panels ``[block][k][gate][lane]`` of a cell at k < INPUTS
and writes ``GATES[block][step][row][gate][lane]``: the chain X of every gate, from
the bias, in order of k, the same bits as in the recurrent tile.
Order: blocks, then tiles of rows, a row being one batch row at one step.

Hidden projection. Reads ``HIDDEN[row][unit]`` and panels ``[block][k][lane]``, four blocks
interleaved as ``[k][block][lane]`` as long as there are four; one chain from 0 in order of k,
flushed, straight into the output.
"""

from __future__ import annotations

from numba import types

from .compiler import Kernel, inline, named
from .instructions import bump_counter, load_slot, smaller
from .plan_layout import Cell, Header
from .simd import Simd
from .tile import (
    FROM_BIAS,
    GO_ON,
    K_BLOCK,
    SPREAD,
    Shapes,
    by_size,
    for_tiles,
    largest_size,
    next_size,
    tile_of,
    whole_blocks,
)

ROWS_AT_ONCE = 24  # whose sums are kept beside a panel: 6 KB with AVX-512
PAIRS = 2  # registers of a term in a block with half the lanes: i and f in one, g and o in the other
TURN = 8 << 10  # bytes of a panel that a tile passes over before the next tile does

QUAD = 4  # blocks of W_hr that are interleaved


def far_rows_at_once(simd: Simd) -> int:
    """The same for weights beyond L2, which are then read less often.

    Not with smaller registers: a library for Windows would need a function that probes a stack frame of over 4 KB.
    """
    return 2 * ROWS_AT_ONCE if simd.lanes * simd.number.itemsize >= 64 else ROWS_AT_ONCE


def chain_by_k_blocks(simd: Simd, shapes: Shapes) -> Kernel:
    """``chain(plan, begin, bias, sums, sums_stride, panel, following, terms, ...)`` for several tiles of rows at once.

    The tiles take turns, some K-blocks each. So a panel that L1 does not hold is read once for all ``rows``
    (ROWS_AT_ONCE, or as many as above), and at an even pace. The sums wait in memory, where those of a tall tile
    would be at the end of a K-block in any case. Meanwhile the weights that are needed next are prefetched: if the
    rows are ``all`` there are, the panel a turn ahead; else, for the ``last`` of them, the panel ``following``. The
    first two tiles ask for all of it; where there are many, of weights beyond L2 (``far``), the first ``SPREAD`` do.
    """
    moved, width = simd.moved, simd.in_memory(4) * simd.lanes
    half, tallest = width // 2, shapes.mr[0]
    turn = max(1, TURN // (K_BLOCK * width * simd.number.itemsize)) * K_BLOCK  # in terms
    height_of = next_size(shapes.mr)
    run, run_spread = (
        by_size(shapes.mr, {height: k_blocks_kernel(simd, height, spread) for height in shapes.mr})
        for spread in (False, True)
    )

    @inline
    def chain(plan, far, begin, bias, sums, sums_stride, panel, following, terms, source, stride, rows, all, last):
        bump_counter(plan, Header.K_BLOCKS)
        spread = far and rows > SPREAD * tallest
        for k in range(0, terms, turn):
            count = smaller(turn, terms - k)
            later = k + turn
            ahead = moved(panel, later * width)
            if all and later >= terms:
                ahead = moved(following, (later - terms) * width)
            if last and not all:
                ahead = moved(following, k * width)
            r, part, turn_size = 0, 0, count * width
            while r < rows:
                height = height_of(rows - r, load_slot(plan, Header.MR))
                weights, asked, inputs = moved(panel, k * width), moved(ahead, part), moved(source, r * stride + k)
                target = moved(sums, r * sums_stride)
                if spread:
                    run_spread(height, weights, asked, count, inputs, stride, target, sums_stride, bias, begin)
                    part = (part + turn_size // SPREAD) % turn_size
                else:
                    run(height, weights, asked, count, inputs, stride, target, sums_stride, bias, begin)
                    part = half - part
                r += height
            begin = GO_ON

    return chain


def k_blocks_kernel(simd: Simd, height: int, spread: bool) -> Kernel:
    """``Tile.k_blocks`` of some rows, as a function of its own."""
    tile = tile_of(simd, height, 4)
    k_blocks = tile.k_blocks_spread if spread else tile.k_blocks

    @named(f"k_blocks_{height}_spread" if spread else f"k_blocks_{height}")
    def kernel(panel, ahead, count, source, stride, sums, sums_stride, bias, begin):
        k_blocks(panel, ahead, count, source, stride, sums, sums_stride, bias, begin)

    return kernel


def input_projection(simd: Simd, shapes: Shapes, chain: Kernel | None, halved: bool) -> Kernel:
    """``(plan, begin, end, cell, source, steps, rows)``: the chain X of ``steps`` x ``rows`` of some blocks.

    The blocks are [begin, end). ``source`` is the input of the first step.
    Kernels that are ``halved`` have a tail block with half the lanes.
    """
    pointer_at, moved, width = simd.pointer_at, simd.moved, 4 * simd.lanes
    whole_of, line = whole_blocks(simd.lanes), line_projection(simd, shapes, chain, halved)

    @inline
    def project(plan, begin, end, cell, source, steps, rows):
        whole = whole_of(load_slot(cell, Cell.UNITS))
        step, row = load_slot(cell, Cell.SOURCE_STEP), load_slot(cell, Cell.SOURCE_ROW)
        gates = pointer_at(plan, Header.GATES)
        # the longer axis is cut into tiles; both together where they are evenly spaced
        if rows == 1:
            outer, outer_source, outer_gates = 1, 0, 0
            inner, inner_source, inner_gates = steps, step, width
        elif step == rows * row:
            outer, outer_source, outer_gates = 1, 0, 0
            inner, inner_source, inner_gates = steps * rows, row, width
        elif rows >= steps:
            outer, outer_source, outer_gates = steps, step, rows * width
            inner, inner_source, inner_gates = rows, row, width
        else:
            outer, outer_source, outer_gates = rows, row, width
            inner, inner_source, inner_gates = steps, step, rows * width
        for block in range(begin, end):
            for n in range(outer):
                target = moved(gates, block * steps * rows * width + n * outer_gates)
                line(plan, cell, block, block >= whole, moved(source, n * outer_source), inner_source, inner,
                     target, inner_gates)  # fmt: skip

    return project


def line_projection(simd: Simd, shapes: Shapes, chain: Kernel | None, halved: bool) -> Kernel:
    """``(plan, cell, block, tail, source, stride, count, gates, gates_stride)``: X of rows that are evenly spaced."""
    tallest = shapes.mr[0]
    tiles = for_tiles(shapes.mr, next_size, {n: projection_tile(simd, n, 4) for n in shapes.mr})
    tail_tiles = tiles
    if halved:
        of_pairs = {n: projection_tile(simd, n, PAIRS) for n in shapes.row_pairs}
        tail_tiles = for_tiles(shapes.row_pairs, largest_size, of_pairs)

    @inline
    def line_by_tiles(plan, cell, block, tail, source, stride, count, gates, gates_stride):
        if tail:
            tail_tiles(plan, count, cell, block, source, stride, gates, gates_stride)
        else:
            tiles(plan, count, cell, block, source, stride, gates, gates_stride)

    if chain is None:
        return line_by_tiles
    by_k_blocks = projection_by_k_blocks(simd, chain)

    @inline
    def line(plan, cell, block, tail, source, stride, count, gates, gates_stride):
        if tail:
            tail_tiles(plan, count, cell, block, source, stride, gates, gates_stride)
        elif count > tallest and load_slot(cell, Cell.INPUTS) >= load_slot(plan, Header.K_BLOCK_MIN):
            by_k_blocks(plan, cell, block, source, stride, count, gates, gates_stride)
        else:
            tiles(plan, count, cell, block, source, stride, gates, gates_stride)

    return line


def projection_tile(simd: Simd, height: int, columns: int) -> Kernel:
    """``(plan, r, cell, block, source, stride, gates, gates_stride)``: X of ``height`` rows from r on in a block."""
    pointer_at, moved, width, tile = simd.pointer_at, simd.moved, 4 * simd.lanes, tile_of(simd, height, columns)
    start, dot, store, panel_width = tile.start, tile.dot, tile.store, simd.in_memory(4) * simd.lanes
    terms_of = simd.terms

    @named(f"project_{height}" if columns == 4 else f"project_{height}_half")
    def kernel(plan, r, cell, block, source, stride, gates, gates_stride):
        inputs, outputs = terms_of(load_slot(cell, Cell.INPUTS)), terms_of(load_slot(cell, Cell.OUTPUTS))
        panels = pointer_at(plan, Header.PANELS)
        panel = load_slot(cell, Cell.PANEL) + block * (inputs + outputs) * panel_width
        value = start(panels, load_slot(cell, Cell.BIAS) + block * width, 0)
        value = dot(value, panels, panel, 0, 0, inputs, moved(source, r * stride), stride)
        store(gates, r * gates_stride, gates_stride, value)

    return kernel


def projection_by_k_blocks(simd: Simd, chain: Kernel) -> Kernel:
    """``(plan, cell, block, source, stride, count, gates, gates_stride)``: X of some rows in a block."""
    pointer_at, moved, width = simd.pointer_at, simd.moved, 4 * simd.lanes
    panel_width, terms_of = simd.in_memory(4) * simd.lanes, simd.terms

    @named("project_by_k_blocks")
    def kernel(plan, cell, block, source, stride, count, gates, gates_stride):
        inputs, outputs = terms_of(load_slot(cell, Cell.INPUTS)), terms_of(load_slot(cell, Cell.OUTPUTS))
        panels, panel_gap = pointer_at(plan, Header.PANELS), (inputs + outputs) * panel_width
        panel = moved(panels, load_slot(cell, Cell.PANEL) + block * panel_gap)
        bias = moved(panels, load_slot(cell, Cell.BIAS) + block * width)
        for first in range(0, count, ROWS_AT_ONCE):
            rows = smaller(ROWS_AT_ONCE, count - first)
            far = load_slot(cell, Cell.BEYOND_L2) > 0
            chain(plan, far, FROM_BIAS, bias, moved(gates, first * gates_stride), gates_stride, panel,
                  moved(panel, panel_gap), inputs, moved(source, first * stride), stride, rows,
                  rows == count, first + rows == count)  # fmt: skip

    return kernel


def hidden_projection(simd: Simd, shapes: Shapes) -> Kernel:
    """``(plan, begin, end, cell, target, rows)``: h of ``rows`` rows through W_hr into the output.

    In the groups [begin, end) of ``QUAD`` blocks, the last of which may have fewer.
    """
    lanes = simd.lanes
    wide, narrow = (
        for_tiles(shapes.mr, next_size, {height: hidden_tile(simd, height, columns) for height in shapes.mr})
        for columns in (QUAD, 1)
    )

    @inline
    def project(plan, begin, end, cell, target, rows):
        block, end_block = begin * QUAD, smaller(end * QUAD, (load_slot(cell, Cell.OUTPUTS) + lanes - 1) // lanes)
        while block < end_block:
            if end_block - block >= QUAD:
                wide(plan, rows, cell, block, target)
                block += QUAD
            else:
                narrow(plan, rows, cell, block, target)
                block += 1

    return project


def hidden_tile(simd: Simd, height: int, columns: int) -> Kernel:
    """``(plan, r, cell, block, target)``: ``height`` rows from r on in ``columns`` blocks, which are 1 or ``QUAD``."""
    pointer_at, moved, lanes, quad = simd.pointer_at, simd.moved, simd.lanes, simd.in_memory(QUAD)
    terms_of, rounds = simd.terms, simd.rounds
    source_slot = int(Header.ROUNDED if rounds else Header.HIDDEN)
    flush, store_part, tile = simd.flush_h, simd.store_part, tile_of(simd, height, columns)

    @inline
    def finish_1(a, r, j, target, stride, count):
        store_part(target, r * stride, flush(a), count)

    @inline
    def finish_4(a, b, c, d, r, j, target, stride, count):
        store_part(target, r * stride, flush(a), lanes)
        store_part(target, r * stride + lanes, flush(b), lanes)
        store_part(target, r * stride + 2 * lanes, flush(c), lanes)
        store_part(target, r * stride + 3 * lanes, flush(d), count - 3 * lanes)

    zero, dot = tile.zero, tile.dot
    finish = tile.each({1: finish_1, QUAD: finish_4}[columns], simd.pointer, types.int64, types.int64)

    @named(f"hidden_{height}x{columns}")
    def kernel(plan, r, cell, block, target):
        units = load_slot(cell, Cell.UNITS)
        terms = terms_of(units)
        padded = terms if rounds else (units + lanes - 1) // lanes * lanes
        panels, hidden = pointer_at(plan, Header.PANELS), pointer_at(plan, source_slot)
        in_quads = block // QUAD * QUAD
        panel = load_slot(cell, Cell.HR_PANEL) + (in_quads // QUAD * quad + block - in_quads) * terms * lanes
        value = dot(zero(), panels, panel, 0, 0, terms, moved(hidden, r * padded), padded)
        at, stride = block * lanes, load_slot(cell, Cell.TARGET_ROW)
        finish(value, moved(target, r * stride + at), stride, load_slot(cell, Cell.OUTPUTS) - at)

    return kernel
