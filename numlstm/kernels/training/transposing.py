"""From the panels of the forward pass to those of the pass back, and from sums to gradients as parameters are laid out.

The weights of a cell are ``[block][k][gate][lane]``, lanes being units. Here terms are gates and lanes are what k
was: ``[4 registers][gate, unit][register][lane]``, so that W^T da is a product as the forward pass has them. A square
of lanes x lanes numbers is transposed in registers.
"""

from llvmlite import ir
from numba import types

from ..compiler import inline, named
from ..instructions import greater, instruction, load_slot, smaller
from ..plan_layout import LEAST_HALVED, Header
from ..tile import tile_of
from .backward_layout import Back, BackCell
from .products import QUAD


@inline
def cell_sizes(cell):
    """Inputs, outputs and units of a cell."""
    return load_slot(cell, BackCell.INPUTS), load_slot(cell, BackCell.OUTPUTS), load_slot(cell, BackCell.UNITS)


def registers_transposed(lanes):
    """``(cell) -> registers`` of the terms that a cell's weights have as columns of W^T da, and of W_hr^T dh."""

    @inline
    def registers(cell):
        inputs, outputs, units = cell_sizes(cell)
        projected = (units + lanes - 1) // lanes * load_slot(cell, BackCell.PROJECTED)
        return (inputs + lanes - 1) // lanes + (outputs + lanes - 1) // lanes + projected

    return registers


def square_transpose(simd):
    """An instruction on as many registers as each has lanes: rows become lanes."""
    lanes, square = simd.lanes, tile_of(simd, simd.lanes, 1).type

    @instruction(square, square)
    def transpose(builder, value):
        rows = [builder.extract_value(value, n) for n in range(lanes)]
        distance = 1
        while distance < lanes:
            low = [k if not k & distance else lanes + k - distance for k in range(lanes)]
            high = [k + distance if not k & distance else lanes + k for k in range(lanes)]
            choose = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), which) for which in (low, high)]
            for n in range(lanes):
                if not n & distance:
                    a, b = rows[n], rows[n + distance]
                    rows[n], rows[n + distance] = (builder.shuffle_vector(a, b, which) for which in choose)
            distance *= 2
        return rows

    return transpose


def weights_transposed(simd):
    """``transpose(plan, begin, end, cell)``: fill what the cell has in TRANSPOSED, some registers of its terms.

    They are [begin, end) of the registers that ``registers_transposed`` counts.
    """
    lanes, moved, pointer_at = simd.lanes, simd.moved, simd.pointer_at
    load, load_part, store, zeros = simd.load, simd.load_part, simd.store, simd.splat(0)
    square = tile_of(simd, lanes, 1)
    load_square, store_square, transpose = square.load, square.store, square_transpose(simd)
    room = simd.scratch(lanes * lanes)
    half = lanes // 2 if lanes >= LEAST_HALVED else 0

    @named("transpose_square")
    def transpose_square(source, apart, rows, count, target, target_stride):
        """``rows`` x ``count`` numbers, rows ``apart``, to ``count`` whole registers."""
        square_of = room()
        for k in range(lanes):
            value = zeros()
            if k < rows:
                value = load_part(source, k * apart, count)
            store(square_of, k * lanes, value)
        store_square(square_of, 0, lanes, transpose(load_square(square_of, 0, lanes, 0)))
        for n in range(count):
            store(target, n * target_stride, load(square_of, n * lanes))

    @named("transpose_gates")
    def transpose_gates(panels, terms, first, columns, units, target, begin, end):
        """The terms [first, first + columns) of the panels of a cell, as so many columns of W^T da.

        Of their registers those in [begin, end).
        """
        registers, gates = (columns + lanes - 1) // lanes, 4 * units
        for register in range(greater(begin, 0), smaller(end, registers)):
            quad = register // QUAD * QUAD
            width = smaller(QUAD, registers - quad) * lanes
            of_register = moved(target, quad * gates * lanes + (register - quad) * lanes)
            for unit in range(0, units, lanes):
                own, count = lanes, smaller(lanes, units - unit)
                if count <= half:
                    own = half
                panel = moved(panels, unit * terms * 4 + (first + register * lanes) * 4 * own)
                for gate in range(4):
                    transpose_square(moved(panel, gate * own), 4 * own, columns - register * lanes, count,
                                     moved(of_register, (gate * units + unit) * width), width)  # fmt: skip

    @named("transpose_hidden")
    def transpose_hidden(panels, units, outputs, target, begin, end):
        """W_hr ``[block][unit][lane of outputs]``, four blocks interleaved, with outputs as terms."""
        registers, blocks = (units + lanes - 1) // lanes, (outputs + lanes - 1) // lanes
        for register in range(greater(begin, 0), smaller(end, registers)):
            quad = register // QUAD * QUAD
            width = smaller(QUAD, registers - quad) * lanes
            of_register = moved(target, quad * outputs * lanes + (register - quad) * lanes)
            for block in range(blocks):
                group = block // QUAD * QUAD
                apart, panel = lanes, moved(panels, block * units * lanes)
                if group + QUAD <= blocks:
                    apart, panel = QUAD * lanes, moved(panels, group * units * lanes + (block - group) * lanes)
                transpose_square(moved(panel, register * lanes * apart), apart, units - register * lanes,
                                 smaller(lanes, outputs - block * lanes),
                                 moved(of_register, block * lanes * width), width)  # fmt: skip

    @named("transpose_cell")
    def transpose_cell(plan, begin, end, cell):
        inputs, outputs, units = cell_sizes(cell)
        panels, target = pointer_at(plan, Header.PANELS), pointer_at(plan, Back.TRANSPOSED)
        panel, terms = moved(panels, load_slot(cell, BackCell.PANEL)), inputs + outputs
        of_x = (inputs + lanes - 1) // lanes
        of_h = of_x + (outputs + lanes - 1) // lanes
        transpose_gates(panel, terms, 0, inputs, units, moved(target, load_slot(cell, BackCell.IH_TRANSPOSED)),
                        begin, end)  # fmt: skip
        transpose_gates(panel, terms, inputs, outputs, units, moved(target, load_slot(cell, BackCell.HH_TRANSPOSED)),
                        begin - of_x, end - of_x)  # fmt: skip
        if load_slot(cell, BackCell.PROJECTED) > 0:
            panel, target = load_slot(cell, BackCell.HR_PANEL), moved(target, load_slot(cell, BackCell.HR_TRANSPOSED))
            transpose_hidden(moved(panels, panel), units, outputs, target, begin - of_h, end - of_h)

    return transpose_cell


def number_copy(simd):
    """``copy_number(target, to, source, at)``: a single one."""

    @instruction(types.void, simd.pointer, types.int64, simd.pointer, types.int64)
    def copy_number(builder, target, to, source, at):
        builder.store(builder.load(builder.gep(source, [at])), builder.gep(target, [to]))

    return copy_number


def panel_columns(simd):
    """``put(panels, registers, rows, row, column, source, count)`` and ``take(...)`` of numbers of a row.

    They stand side by side, from ``column`` on in the row of ``[4 registers][row][register][lane]``.
    """
    lanes, load_part, store_part = simd.lanes, simd.load_part, simd.store_part
    copy_number = number_copy(simd)
    quad_width = QUAD * lanes

    @inline
    def index(registers, rows, row, column):
        """Of a number of the row."""
        quad = column // quad_width
        width = smaller(quad_width, (registers - quad * QUAD) * lanes)
        return quad * quad_width * rows + row * width + column - quad * quad_width

    @named("put_columns")
    def put(panels, registers, rows, row, column, source, count):
        if column % lanes == 0:
            for k in range(0, count, lanes):
                at = index(registers, rows, row, column + k)
                store_part(panels, at, load_part(source, k, count - k), count - k)
        else:
            for k in range(count):
                copy_number(panels, index(registers, rows, row, column + k), source, k)

    @named("take_columns")
    def take(panels, registers, rows, row, column, target, count):
        if column % lanes == 0:
            for k in range(0, count, lanes):
                at = index(registers, rows, row, column + k)
                store_part(target, k, load_part(panels, at, count - k), count - k)
        else:
            for k in range(count):
                copy_number(target, k, panels, index(registers, rows, row, column + k))

    return put, take
