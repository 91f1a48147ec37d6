"""The two projections: W_ih x for a chunk of steps ahead of the recurrence, and W_hr h after a step.

Hoisted input projection. Reads the panels ``[block][k][gate][lane]`` of a cell at k < INPUTS
and writes ``GATES[block][step][row][gate][lane]``: the chain X of every gate, from
the bias, in order of k, the same bits as in the recurrent tile.
Order: blocks, then tiles of rows, a row being one batch row at one step.

Hidden projection. Reads ``HIDDEN[row][unit]`` and panels ``[block][k][lane]``, four blocks
interleaved as ``[k][block][lane]`` as long as there are four; one chain from 0 in order of k,
flushed, straight into the output.
"""

from numba import types

from .compiler import inline, named
from .instructions import bump_counter, load_slot, smaller
from .plan_layout import Cell, Header
from .tile import FROM_BIAS, GO_ON, K_BLOCK, tile_of
from .tile_shapes import by_size, largest_size, next_size, whole_blocks

ROWS_AT_ONCE = 24  # whose sums are kept beside a panel: 6 KB with AVX-512
PAIRS = 2  # registers of a term in a block with half the lanes: i and f in one, g and o in the other
TURN = 8 << 10  # bytes of a panel that a tile passes over before the next tile does

QUAD = 4  # blocks of W_hr that are interleaved


def far_rows_at_once(simd):
    """The same for recurrent weights that no second cache holds, which are then read less often.

    Not with smaller registers: a library for Windows would need a function that probes a stack frame of over 4 KB.
    """
    return 2 * ROWS_AT_ONCE if simd.lanes * simd.number.itemsize >= 64 else ROWS_AT_ONCE


def chain_by_runs(simd, shapes):
    """``chain(plan, begin, bias, sums, sums_stride, panel, following, terms, ...)`` for several tiles of rows at once.

    The tiles take turns, a few runs of K_BLOCK terms each, so that a panel that the first cache does not hold is read
    once for all ``rows`` (ROWS_AT_ONCE, or those above), and at an even pace. The sums wait in memory, where those of a
    tall tile would be at the end of a run in any case. Meanwhile what is needed next is asked for: if the rows are
    ``all`` there are, the panel a turn ahead; else, for the ``last`` of them, the panel that is ``following``.
    """
    moved, width = simd.moved, 4 * simd.lanes
    half = width // 2
    turn = max(1, TURN // (K_BLOCK * width * simd.number.itemsize)) * K_BLOCK  # in terms

    def run_kernel(height):
        run = tile_of(simd, height, 4).run

        @named(f"run_{height}")
        def kernel(panel, ahead, count, source, stride, sums, sums_stride, bias, begin):
            run(panel, ahead, count, source, stride, sums, sums_stride, bias, begin)

        return kernel

    height_of = next_size(shapes.mr)
    run = by_size(shapes.mr, {height: run_kernel(height) for height in shapes.mr})

    @inline
    def chain(plan, begin, bias, sums, sums_stride, panel, following, terms, source, stride, rows, all, last):
        bump_counter(plan, Header.K_BLOCKS)
        for k in range(0, terms, turn):
            count = smaller(turn, terms - k)
            later = k + turn
            ahead = moved(panel, later * width)
            if all and later >= terms:
                ahead = moved(following, (later - terms) * width)
            if last and not all:
                ahead = moved(following, k * width)
            r, part = 0, 0
            while r < rows:
                height = height_of(rows - r, load_slot(plan, Header.MR))
                run(height, moved(panel, k * width), moved(ahead, part), count, moved(source, r * stride + k), stride,
                    moved(sums, r * sums_stride), sums_stride, bias, begin)  # fmt: skip
                r += height
                part = half - part
            begin = GO_ON

    return chain


def input_projection(simd, shapes, chain, halved):
    """``(plan, begin, end, cell, source, steps, rows)``: the chain X of ``steps`` x ``rows`` of some blocks.

    The blocks are [begin, end). ``source`` is the input of the first step.
    Kernels that are ``halved`` have a tail block with half the lanes.
    """
    pointer_at, moved, width = simd.pointer_at, simd.moved, 4 * simd.lanes
    tallest, whole_of = shapes.mr[0], whole_blocks(simd.lanes)

    def tile_kernel(height, columns=4):
        tile = tile_of(simd, height, columns)
        start, dot, store = tile.start, tile.dot, tile.store

        @named(f"project_{height}" if columns == 4 else f"project_{height}_half")
        def kernel(plan, cell, block, source, stride, gates, gates_stride):
            inputs = load_slot(cell, Cell.INPUTS)
            panels = pointer_at(plan, Header.PANELS)
            panel = load_slot(cell, Cell.PANEL) + block * (inputs + load_slot(cell, Cell.OUTPUTS)) * width
            value = start(panels, load_slot(cell, Cell.BIAS) + block * width, 0)
            store(gates, 0, gates_stride, dot(value, panels, panel, 0, inputs, source, stride))

        return kernel

    height_of = next_size(shapes.mr)
    run_tile = by_size(shapes.mr, {height: tile_kernel(height) for height in shapes.mr})
    half_tile, half_height_of = run_tile, height_of
    if halved:
        half_tile = by_size(shapes.row_pairs, {height: tile_kernel(height, PAIRS) for height in shapes.row_pairs})
        half_height_of = largest_size(shapes.row_pairs)

    @named("project_runs")
    def by_runs(plan, cell, block, source, stride, count, gates, gates_stride):
        inputs, panels = load_slot(cell, Cell.INPUTS), pointer_at(plan, Header.PANELS)
        panel_gap = (inputs + load_slot(cell, Cell.OUTPUTS)) * width
        panel = moved(panels, load_slot(cell, Cell.PANEL) + block * panel_gap)
        bias = moved(panels, load_slot(cell, Cell.BIAS) + block * width)
        done = 0
        while done < count:
            rows = smaller(ROWS_AT_ONCE, count - done)
            sums = moved(gates, done * gates_stride)
            chain(plan, FROM_BIAS, bias, sums, gates_stride, panel, moved(panel, panel_gap), inputs,
                  moved(source, done * stride), stride, rows, rows == count, done + rows == count)  # fmt: skip
            done += rows

    @inline
    def line(plan, cell, whole, block, source, stride, count, gates, gates_stride):
        """``count`` rows that stand ``stride`` apart."""
        r = 0
        if block >= whole:
            while r < count:
                height = half_height_of(count - r, load_slot(plan, Header.MR))
                half_tile(height, plan, cell, block, moved(source, r * stride), stride,
                          moved(gates, r * gates_stride), gates_stride)  # fmt: skip
                r += height
        elif count > tallest and load_slot(cell, Cell.INPUTS) >= load_slot(plan, Header.K_BLOCK_MIN):
            by_runs(plan, cell, block, source, stride, count, gates, gates_stride)
            r = count
        while r < count:
            height = height_of(count - r, load_slot(plan, Header.MR))
            run_tile(height, plan, cell, block, moved(source, r * stride), stride,
                     moved(gates, r * gates_stride), gates_stride)  # fmt: skip
            r += height

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
                line(plan, cell, whole, block, moved(source, n * outer_source), inner_source, inner,
                     target, inner_gates)  # fmt: skip

    return project


def hidden_projection(simd, shapes):
    """``(plan, begin, end, cell, target, rows)``: h of ``rows`` rows through W_hr into the output.

    In the groups [begin, end) of ``QUAD`` blocks, the last of which may have fewer.
    """
    pointer_at, moved, lanes = simd.pointer_at, simd.moved, simd.lanes
    flush, store_part = simd.flush_h, simd.store_part

    @inline
    def finish_1(a, r, j, target, stride, count):
        store_part(target, r * stride, flush(a), count)

    @inline
    def finish_4(a, b, c, d, r, j, target, stride, count):
        store_part(target, r * stride, flush(a), lanes)
        store_part(target, r * stride + lanes, flush(b), lanes)
        store_part(target, r * stride + 2 * lanes, flush(c), lanes)
        store_part(target, r * stride + 3 * lanes, flush(d), count - 3 * lanes)

    finish = {1: finish_1, 4: finish_4}

    def tile_kernel(height, columns):
        tile = tile_of(simd, height, columns)
        zero, dot = tile.zero, tile.dot
        store = tile.each(finish[columns], simd.pointer, types.int64, types.int64)

        @named(f"hidden_{height}x{columns}")
        def kernel(plan, cell, block, r, target):
            units = load_slot(cell, Cell.UNITS)
            padded = (units + lanes - 1) // lanes * lanes
            panels, hidden = pointer_at(plan, Header.PANELS), pointer_at(plan, Header.HIDDEN)
            panel = load_slot(cell, Cell.HR_PANEL) + block * units * lanes
            value = dot(zero(), panels, panel, 0, units, moved(hidden, r * padded), padded)
            at, stride = block * lanes, load_slot(cell, Cell.TARGET_ROW)
            store(value, moved(target, r * stride + at), stride, load_slot(cell, Cell.OUTPUTS) - at)

        return kernel

    height_of = next_size(shapes.mr)
    wide = by_size(shapes.mr, {height: tile_kernel(height, 4) for height in shapes.mr})
    narrow = by_size(shapes.mr, {height: tile_kernel(height, 1) for height in shapes.mr})

    @inline
    def project(plan, begin, end, cell, target, rows):
        block = begin * QUAD
        end = smaller(end * QUAD, (load_slot(cell, Cell.OUTPUTS) + lanes - 1) // lanes)
        while block < end:
            r = 0
            while r < rows:
                height = height_of(rows - r, load_slot(plan, Header.MR))
                if end - block >= QUAD:
                    wide(height, plan, cell, block, r, target)
                else:
                    narrow(height, plan, cell, block, r, target)
                r += height
            block += QUAD if end - block >= QUAD else 1

    return project
