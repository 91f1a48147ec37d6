"""One step of a tile, from the sums of its gates to its c and h: some rows of a block, or some blocks of a row.

Memory: the panel of a block is ``[k][gate][lane]``, k over the input features and then over h; ``layer`` says the
rest. Order: terms, weights of a term, rows; or, where the panel is passed over by ``runs_of_block``, a few terms of
all tiles of rows before the next few.
"""

from numba import types

from .activations import activations
from .compiler import inline, named
from .instructions import bump_counter, greater, load_slot, smaller, store_slot
from .plan_layout import Cell, Header
from .projection import PAIRS, ROWS_AT_ONCE, far_rows_at_once
from .tile import FROM_ZERO, tile_of
from .tile_shapes import by_size, next_size

PREFETCH_DISTANCE = 1024  # bytes; 512 and 2048 were measured to be worse or equal


def cell_epilogue(simd):
    """``start`` and ``end``: c in place, then h, for row r and block j of a tile.

    ``count`` units are left from the tile's first one on; what lies beyond is not touched.
    """
    lanes, load_part, store_part = simd.lanes, simd.load_part, simd.store_part
    part = activations(simd)
    to_c, to_h = part.to_c, part.to_h

    @inline
    def start(i, f, g, o, r, j, c, c_stride, h, h_stride, count):
        at, left = r * c_stride + j * lanes, count - j * lanes
        new, size, denominator = to_c(i, f, g, o, load_part(c, at, left))
        store_part(c, at, new, left)
        return new, size, denominator

    @inline
    def end(parts, r, j, c, c_stride, h, h_stride, count):
        new, size, denominator = parts
        store_part(h, r * h_stride + j * lanes, to_h(new, size, denominator), count - j * lanes)

    return start, end


def by_distance(near, far):
    """``dot`` that asks for weights ahead of their use (``far``) where the plan says that no cache holds them."""
    if far is near:

        @inline
        def dot(cell, value, panels, panel, gap, count, source, stride):
            return near(value, panels, panel, gap, count, source, stride)

    else:

        @inline
        def dot(cell, value, panels, panel, gap, count, source, stride):
            if load_slot(cell, Cell.BEYOND_L2) > 0:
                return far(value, panels, panel, gap, count, source, stride)
            return near(value, panels, panel, gap, count, source, stride)

    return dot


def recurrent_tile(simd, epilogue, height, blocks, half=False):
    """``tile(plan, cell, block, r, x, h, h_stride, y, gates, gap)``: one step of ``height`` rows in ``blocks`` blocks.

    ``x``, ``h`` and ``y`` point to the first of the rows; ``gates`` to its hoisted X, whose blocks stand ``gap`` apart.
    A single block may have ``half`` the lanes; the epilogue of several rows is then for pairs of them.
    """
    columns = PAIRS if half else 4
    lanes, width, term = simd.lanes, 4 * simd.lanes, columns * simd.lanes
    pointer_at, moved = simd.pointer_at, simd.moved
    tile = tile_of(simd, height, columns, blocks)
    zero, start, load, add, near = tile.zero, tile.start, tile.load, tile.add, tile.dot
    # several rows pass over a panel that is in cache by then; a single row waits for every line of it
    waits = height == 1 and not half
    dot = by_distance(near, tile_of(simd, 1, 4, blocks, ahead=PREFETCH_DISTANCE).dot if waits else near)
    first, second = epilogue
    of_rows = tile_of(simd, height // 2, 4) if half and height > 1 else tile  # the same registers, four of each pair
    finish = of_rows.each(first, simd.pointer, types.int64, simd.pointer, types.int64, types.int64, then=second)

    @named(f"recur_{height}x{blocks}" + ("_half" if half else ""))
    def kernel(plan, cell, block, r, x, h, h_stride, y, gates, gap):
        inputs, outputs, units = (
            load_slot(cell, Cell.INPUTS),
            load_slot(cell, Cell.OUTPUTS),
            load_slot(cell, Cell.UNITS),
        )
        panels = pointer_at(plan, Header.PANELS)
        panel_gap = (inputs + outputs) * width
        panel = load_slot(cell, Cell.PANEL) + block * panel_gap
        if load_slot(cell, Cell.HOIST) > 0:
            value = load(gates, 0, width, gap)
        else:
            value = start(panels, load_slot(cell, Cell.BIAS) + block * width, width)
            value = dot(cell, value, panels, panel, panel_gap, inputs, x, load_slot(cell, Cell.SOURCE_ROW))
        rest = dot(cell, zero(), panels, panel + inputs * term, panel_gap, outputs, h, h_stride)
        unit = block * lanes
        c = moved(pointer_at(plan, Header.C_N), load_slot(cell, Cell.C_AT) + r * units + unit)
        if load_slot(cell, Cell.PROJECTED) > 0:
            target_stride = (units + lanes - 1) // lanes * lanes
        else:
            target_stride = load_slot(cell, Cell.TARGET_ROW)
        finish(add(value, rest), c, units, moved(y, unit), target_stride, units - unit)

    return kernel


@inline
def count_tile(plan, height):
    bump_counter(plan, Header.TILES if height > 1 else Header.SINGLE_BLOCK)
    store_slot(plan, Header.TALL, greater(height, load_slot(plan, Header.TALL)))


def runs_of_block(simd, epilogue, shapes, chain):
    """``runs(plan, cell, block, onward, first, rows, ...)``: a step of some rows through ``chain``.

    For a cell whose X is hoisted; ``gates`` points to that of the block. The next block is ``onward`` by 1 or -1.
    """
    lanes, width = simd.lanes, 4 * simd.lanes
    pointer_at, moved = simd.pointer_at, simd.moved
    far_rows = far_rows_at_once(simd)
    room = simd.scratch(far_rows * width)
    height_of = next_size(shapes.mr)

    def end_kernel(height):
        tile = tile_of(simd, height, 4)
        load, add = tile.load, tile.add
        first, second = epilogue
        finish = tile.each(first, simd.pointer, types.int64, simd.pointer, types.int64, types.int64, then=second)

        @named(f"end_{height}")
        def kernel(sums, gates, c, c_stride, y, y_stride, count):
            finish(add(load(gates, 0, width, 0), load(sums, 0, width, 0)), c, c_stride, y, y_stride, count)

        return kernel

    end = by_size(shapes.mr, {height: end_kernel(height) for height in shapes.mr})

    @named("runs")
    def runs(plan, cell, block, onward, first, rows, h, h_stride, y, y_stride, gates):
        inputs, outputs, units = (
            load_slot(cell, Cell.INPUTS),
            load_slot(cell, Cell.OUTPUTS),
            load_slot(cell, Cell.UNITS),
        )
        terms = inputs + outputs
        panel = moved(pointer_at(plan, Header.PANELS), load_slot(cell, Cell.PANEL) + (block * terms + inputs) * width)
        following = moved(panel, onward * terms * width)
        unit, tallest, sums = block * lanes, load_slot(plan, Header.MR), room()
        most = far_rows if load_slot(cell, Cell.BEYOND_L2) > 0 else ROWS_AT_ONCE
        done = 0
        while done < rows:
            count = smaller(most, rows - done)
            chain(plan, FROM_ZERO, panel, sums, width, panel, following, outputs,
                  moved(h, done * h_stride), h_stride, count, count == rows, done + count == rows)  # fmt: skip
            r = 0
            while r < count:
                height = height_of(count - r, tallest)
                row = done + r
                count_tile(plan, height)
                c = moved(pointer_at(plan, Header.C_N), load_slot(cell, Cell.C_AT) + (first + row) * units + unit)
                end(height, moved(sums, r * width), moved(gates, row * width), c, units,
                    moved(y, row * y_stride + unit), y_stride, units - unit)  # fmt: skip
                r += height
            done += count

    return runs
