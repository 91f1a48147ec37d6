"""The matrix products of a backward pass, as tiles in registers.

``product`` is that of rows with a transposed panel: sums over gates, in K-blocks as the forward pass has them.
``accumulate`` adds to the gradients of weights: sums over positions, a run of them at a time.
"""

from numba import types

from ..activations import FAINTEST
from ..compiler import inline, named
from ..instructions import INT64, instruction, load_slot, smaller
from ..tile import by_size, emit_chain, largest_size, next_size, tile_of

QUAD = 4  # registers of outputs in a panel; the last one may have fewer
GROUP = 24  # rows of a product that a thread takes at least, full tiles of any height
TALL = 1 << 30


def by_columns(kernels):
    """One function for the kernels of 1 to QUAD columns: ``(columns, height, ...)``."""
    one, two, three, four = (kernels[columns] for columns in range(1, QUAD + 1))

    @inline
    def run(columns, height, panel, begin, end, source, stride, target, target_stride):
        if columns == 4:
            four(height, panel, begin, end, source, stride, target, target_stride)
        elif columns == 3:
            three(height, panel, begin, end, source, stride, target, target_stride)
        elif columns == 2:
            two(height, panel, begin, end, source, stride, target, target_stride)
        else:
            one(height, panel, begin, end, source, stride, target, target_stride)

    return run


@inline
def items_of(registers, rows):
    """How many items a product is made of: a panel of 4 registers for GROUP rows each."""
    return (registers + QUAD - 1) // QUAD * ((rows + GROUP - 1) // GROUP)


@inline
def rows_of_items(begin, end, rows):
    """Of the items [begin, end): the panel of the first, its rows in this panel, and the item behind them."""
    groups = (rows + GROUP - 1) // GROUP
    panel = begin // groups
    last = smaller(end, (panel + 1) * groups)
    return panel, (begin - panel * groups) * GROUP, smaller((last - panel * groups) * GROUP, rows), last


def panel_product(simd, shapes):
    """``product(panels, terms, registers, source, stride, rows, target, target_stride, begin, end)``, flushed as h is.

    ``registers`` outputs of each of ``rows`` rows, filled up to whole registers in ``target``: the items [begin, end)
    of them.
    """
    lanes, moved, faintest = simd.lanes, simd.moved, FAINTEST[simd.number.name]

    def tile_kernel(height, columns):
        tile = tile_of(simd, height, columns)
        zero, dot, store = tile.zero, tile.dot, tile.store

        @instruction(tile.type, tile.type)
        def flushed(builder, value):
            return [
                builder.select(simd.emit_at_least(builder, x, faintest), x, simd.constant(0))
                for x in tile.unpacked(builder, value)
            ]

        @named(f"product_{height}x{columns}")
        def kernel(panel, begin, end, source, stride, target, target_stride):
            store(target, 0, target_stride, flushed(dot(zero(), panel, 0, 0, begin, end, source, stride)))

        return kernel

    height_of = next_size(shapes.mr)
    tile = by_columns(
        {n: by_size(shapes.mr, {height: tile_kernel(height, n) for height in shapes.mr}) for n in range(1, QUAD + 1)}
    )

    @named("product")
    def product(panels, terms, registers, source, stride, rows, target, target_stride, begin, end):
        item = begin
        while item < end:
            quad, r, last, item = rows_of_items(item, end, rows)
            first = quad * QUAD
            columns = smaller(QUAD, registers - first)
            while r < last:
                height = height_of(last - r, TALL)
                tile(columns, height, moved(panels, first * terms * lanes), 0, terms, moved(source, r * stride), stride,
                     moved(target, r * target_stride + first * lanes), target_stride)  # fmt: skip
                r += height

    return product


# rows of a tile of gradient sums by its columns: so few that a register file of 32 holds the sums of a K-block besides
GRADIENT_ROWS = {4: (3, 2, 1), 3: (4, 1), 2: (6, 4, 1), 1: (8, 4, 1)}


def gradient_sums(simd):
    """``accumulate(panels, rows_apart, registers, runs, count, source, stride, outputs, sums, begin, end)``.

    To ``sums[4 registers][output][register][lane]`` is added, run after run, the sum over a run's positions, in
    K-blocks, of ``source[position][output] * panels[4 registers][position][register][lane]``. The outputs are what
    the items [begin, end) have rows of.
    """
    lanes, moved, P, at = simd.lanes, simd.moved, simd.pointer, types.int64

    def tile_kernel(height, columns):
        tile, width = tile_of(simd, height, columns), columns * lanes
        load, store, add = tile.load, tile.store, tile.add

        @instruction(tile.type, P, at, at, P, at)
        def run_sum(builder, panel, begin, count, source, stride):
            def term(k, sums):
                position = builder.add(begin, k)
                of_panel, of_source = builder.mul(position, INT64(width)), builder.mul(position, stride)
                return tile.emit_term(builder, sums, panel, of_panel, INT64(0), source, of_source, INT64(1))

            zero = simd.constant(0)
            return emit_chain(builder, zero, count, [zero] * tile.size, term)

        @named(f"gradient_{height}x{columns}")
        def kernel(panel, begin, end, source, stride, target, target_stride):
            value = run_sum(panel, begin, end - begin, source, stride)
            store(target, 0, width, add(load(target, 0, width, 0), value))

        return kernel

    tile = by_columns(
        {
            columns: by_size(heights, {height: tile_kernel(height, columns) for height in heights})
            for columns, heights in GRADIENT_ROWS.items()
        }
    )
    of_four, of_three, of_two, of_one = (largest_size(GRADIENT_ROWS[columns]) for columns in (4, 3, 2, 1))

    @inline
    def height_of(columns, left):
        if columns == 4:
            return of_four(left, TALL)
        if columns == 3:
            return of_three(left, TALL)
        if columns == 2:
            return of_two(left, TALL)
        return of_one(left, TALL)

    @named("accumulate")
    def accumulate(panels, rows_apart, registers, runs, count, source, stride, outputs, sums, begin, end):
        item = begin
        while item < end:
            quad, from_output, to_output, item = rows_of_items(item, end, outputs)
            first = quad * QUAD
            columns = smaller(QUAD, registers - first)
            panel, target = moved(panels, first * rows_apart * lanes), moved(sums, first * outputs * lanes)
            for n in range(count):
                u = from_output
                while u < to_output:
                    height = height_of(columns, to_output - u)
                    tile(columns, height, panel, load_slot(runs, n), load_slot(runs, n + 1), moved(source, u), stride,
                         moved(target, u * columns * lanes), 0)  # fmt: skip
                    u += height

    return accumulate
