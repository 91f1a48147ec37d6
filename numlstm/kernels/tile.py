"""A tile of sums in SIMD registers, the instructions on it, and how rows and blocks are cut into tiles.

Layout of a tile: ``[row][block][column]``, a register each. A column is a gate of a panel, or a register of outputs
of the hidden projection. LLVM keeps the whole tile in registers, if the register file holds it (``Shapes``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .compiler import Kernel, inline
from .instructions import INT64, fixed_intrinsic, instruction, load_slot, smaller
from .int8.products import IntegerDot
from .plan_layout import LEAST_HALVED, LINE, Header
from .simd import Simd

# Terms of a sum before the next sub-total. Without them 31 of 200 random LSTMs have a larger error than PyTorch's and
# a rounding of 1.0, with 16 none; docs/arithmetic.md has the figures.
K_BLOCK = 16
SPREAD = 4  # tiles over which prefetching is spread, if there are many
FROM_BIAS, FROM_ZERO, GO_ON = range(3)  # how ``Tile.k_blocks`` begins: sums start at the bias, at 0, or are in memory

Values = Sequence[ir.Value]


@dataclass(frozen=True)
class Shapes:
    """Tile shapes for one kind of CPU.

    ``mr``: heights of tiles of several rows x one block, tallest first, 1 last.
    ``nr``: how many blocks of one row run side by side: every number from the most to 1.
    ``row_pairs``: heights of tiles of a block with half the lanes, whose rows are finished two by two; even, but 1
    last.
    ``side_by_side``: whether several tiles have one epilogue, with the chains of several rows side by side. 16
    registers take few rows in a tile, whose epilogue then waits for latencies.
    """

    mr: tuple[int, ...]
    nr: tuple[int, ...]
    row_pairs: tuple[int, ...]
    side_by_side: bool = False


# 16 registers: 3 rows x 4 gates + 3 splats + 1 weight; one row x 3 blocks x 4 gates, weights from memory
REGISTERS_16 = Shapes(mr=(3, 2, 1), nr=(3, 2, 1), row_pairs=(6, 4, 2, 1), side_by_side=True)
# 32 registers: 6 rows x 4 gates + 4 weights + 1 splat
REGISTERS_32 = Shapes(mr=(6, 4, 3, 2, 1), nr=(4, 3, 2, 1), row_pairs=(12, 6, 4, 2, 1))
# the same with weights of bfloat16: a third block would leave no register to widen them in
REGISTERS_16_BFLOAT16 = replace(REGISTERS_16, nr=(2, 1))
# WebAssembly: a browser's compiler loads all weights of a term before the first FMA, and spills those of a third block
WEBASSEMBLY = replace(REGISTERS_16_BFLOAT16, side_by_side=False)
# with int8 an input takes two registers, and products take one before they are added
REGISTERS_16_INT8 = replace(REGISTERS_16, mr=(2, 1), nr=(2, 1), row_pairs=(4, 2, 1))
# sums of integers wait for few cycles, so that few shapes serve
REGISTERS_32_INT8 = Shapes(mr=(6, 2, 1), nr=(2, 1), row_pairs=(6, 2, 1))


def emit_loop(
    builder: ir.IRBuilder,
    begin: ir.Value,
    end: ir.Value,
    step: int,
    state: Values,
    body: Callable[[ir.Value, Values], Values],
) -> Values:
    """The values of ``state`` after ``body(k, state)`` for every k of ``range(begin, end, step)``."""
    before, function = builder.basic_block, builder.function
    head, inside, after = (function.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    k, *values = (builder.phi(first.type) for first in (begin, *state))
    builder.cbranch(builder.icmp_signed("<", k, end), inside, after)
    builder.position_at_end(inside)
    changed = [builder.add(k, INT64(step)), *body(k, values)]
    for value, first, then in zip((k, *values), (begin, *state), changed, strict=True):
        value.add_incoming(first, before)
        value.add_incoming(then, builder.basic_block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def emit_chain(
    builder: ir.IRBuilder, zero: ir.Value, count: ir.Value, sums: Values, term: Callable[[ir.Value, Values], Values]
) -> Values:
    """``count`` terms added to sums in order of k; ``term(k, sums)`` adds one to each.

    The first K-block goes on from ``sums``. Every later one is summed from 0 and then added. This is emitted as LLVM's
    IR: as a Python function, Numba would type it anew for every tile, which took most of a build.
    """

    def at_most(last: ir.Value) -> ir.Value:
        return builder.select(builder.icmp_signed("<", last, count), last, count)

    def k_block(first: ir.Value, sums: Values) -> Values:
        part = emit_loop(builder, first, at_most(builder.add(first, INT64(K_BLOCK))), 1, [zero] * len(sums), term)
        return [builder.fadd(a, b) for a, b in zip(sums, part, strict=True)]

    sums = emit_loop(builder, INT64(0), at_most(INT64(K_BLOCK)), 1, sums, term)
    return emit_loop(builder, INT64(K_BLOCK), count, K_BLOCK, sums, k_block)


def emit_integers(builder: ir.IRBuilder, dots: Sequence[IntegerDot], sums: Values) -> Values:
    """``sums`` of tiles with int8 weights, one behind the other, plus their products with a rounded row."""
    sizes = [dot.tile.size for dot in dots]

    def parts(values: Values) -> Iterator[tuple[IntegerDot, Values]]:
        at = 0
        for dot, size in zip(dots, sizes, strict=True):
            yield dot, values[at : at + size]
            at += size

    def term(k: ir.Value, integers: Values) -> Values:
        return [each for dot, part in parts(integers) for each in dot.term(k, part)]

    integers = emit_loop(builder, INT64(0), dots[0].terms, 1, [each for dot in dots for each in dot.starts()], term)
    of_sums = (part for _, part in parts(sums))
    return [each for (dot, part), own in zip(parts(integers), of_sums, strict=True) for each in dot.finished(part, own)]


class Tile:
    """The instructions on a tile of ``rows`` batch rows x ``blocks`` panels x ``columns`` registers.

    Every index, ``gap`` (from a block to the next) and ``stride`` (from a row to the next) counts numbers. Weights are
    prefetched ``ahead`` bytes before their use, unless that is 0. In a panel of bfloat16, a register of memory holds
    two columns: the even one in the lower halves of its words, the odd one in the upper halves.

    Of memory: ``zero``, ``start``, ``load``, ``store``, ``add``. Of products: ``fma`` adds a term to every sum, ``dot``
    a whole chain of them, ``k_blocks`` a chain whose sums stay in memory. ``each`` calls a function for every row and
    block.
    """

    def __init__(self, simd: Simd, rows: int, columns: int, blocks: int = 1, ahead: int = 0) -> None:
        self.simd, self.rows, self.columns, self.blocks, self.ahead = simd, rows, columns, blocks, ahead
        self.size = rows * blocks * columns
        self.type = types.UniTuple(simd.register, self.size)
        self.places = [(j, k) for j in range(blocks) for k in range(columns)]  # of the registers of a row
        self.panel_columns = simd.in_memory(columns)
        self.panel_places = [(j, k) for j in range(blocks) for k in range(self.panel_columns)]
        self._memory()
        self._products()
        self._k_blocks()

    # What the instructions are made of ------------------------------------------------------------------------

    def unpacked(self, builder: ir.IRBuilder, value: ir.Value) -> list[ir.Value]:
        return [builder.extract_value(value, n) for n in range(self.size)]

    def column_at(self, builder: ir.IRBuilder, index: ir.Value, gap: ir.Value, j: int, k: int) -> ir.Value:
        """Index of column k of block j."""
        return builder.add(builder.add(index, builder.mul(gap, INT64(j))), INT64(k * self.simd.lanes))

    def row_at(self, builder: ir.IRBuilder, index: ir.Value, stride: ir.Value, r: int) -> ir.Value:
        return builder.add(index, builder.mul(stride, INT64(r)))

    def emit_prefetch(self, builder: ir.IRBuilder, panel: ir.Value, index: ir.Value, gap: ir.Value) -> None:
        """Prefetch the weights that are used ``ahead`` bytes later; once for every cache line of them."""
        size = self.simd.number.itemsize
        for j, k in self.panel_places:
            if k * self.simd.lanes * size % LINE == 0:
                where = builder.add(self.column_at(builder, index, gap, j, k), INT64(self.ahead // size))
                self.simd.emit_prefetch(builder, builder.gep(panel, [where]))

    def emit_term(
        self,
        builder: ir.IRBuilder,
        sums: Values,
        panel: ir.Value,
        index: ir.Value,
        gap: ir.Value,
        source: ir.Value,
        first: ir.Value,
        stride: ir.Value,
    ) -> list[ir.Value]:
        """Every sum plus ``panel[index + block * gap + column * lanes + lane] * source[first + row * stride]``.

        Of weights in pairs, ``column`` counts registers of memory.
        """
        simd, width = self.simd, len(self.places)

        def splat(r: int) -> ir.Value:
            number = builder.load(builder.gep(source, [self.row_at(builder, first, stride, r)]))
            return simd.emit_splat(builder, number)

        def weights() -> Iterator[ir.Value]:
            for j, k in self.panel_places:
                where = self.column_at(builder, index, gap, j, k)
                yield from simd.emit_weights(builder, panel, where, apart=self.rows > 2)[: self.columns]

        if self.ahead:
            self.emit_prefetch(builder, panel, index, gap)
        sums = list(sums)
        # The longer side stays in registers and the shorter passes by one at a time: 12 sums, 3 splats and
        # 1 weight fill the 16 registers of AVX2; 24 sums, 4 weights and 1 splat leave 3 of 32.
        # In pairs, two weights come at once, and two rows leave registers for all four.
        if self.rows <= width and not (simd.paired and self.rows == 2):
            splats = [splat(r) for r in range(self.rows)]
            for n, passing in enumerate(weights()):
                for r in range(self.rows):
                    sums[r * width + n] = simd.emit_fma(builder, passing, splats[r], sums[r * width + n])
        else:
            staying = list(weights())
            for r in range(self.rows):
                passing = splat(r)
                for n in range(width):
                    sums[r * width + n] = simd.emit_fma(builder, staying[n], passing, sums[r * width + n])
        return sums

    def term_at(self, builder: ir.IRBuilder, index: ir.Value, k: ir.Value) -> ir.Value:
        """Index of the weights of term k."""
        return builder.add(index, builder.mul(k, INT64(self.panel_columns * self.simd.lanes)))

    # Instructions ---------------------------------------------------------------------------------------------

    def _memory(self) -> None:
        simd, tile, P, at = self.simd, self.type, self.simd.pointer, types.int64
        rows, columns, places = self.rows, self.columns, self.places

        @instruction(tile)
        def zero(builder):
            return [simd.constant(0)] * self.size

        @instruction(tile, P, at, at)
        def start(builder, bias, index, gap):
            """Every row starts with the same registers: the bias."""
            return [simd.emit_load(builder, bias, self.column_at(builder, index, gap, j, k)) for j, k in places] * rows

        @instruction(tile, P, at, at, at)
        def load(builder, pointer, index, stride, gap):
            of_rows = [self.row_at(builder, index, stride, r) for r in range(rows)]
            return [
                simd.emit_load(builder, pointer, self.column_at(builder, of_row, gap, j, k))
                for of_row in of_rows
                for j, k in places
            ]

        @instruction(types.void, P, at, at, tile)
        def store(builder, pointer, index, stride, value):
            """Of one block."""
            for n, register in enumerate(self.unpacked(builder, value)):
                r, k = divmod(n, columns)
                where = self.column_at(builder, self.row_at(builder, index, stride, r), INT64(0), 0, k)
                builder.store(register, simd.address(builder, pointer, where), align=simd.number.itemsize)

        @instruction(tile, tile, tile)
        def add(builder, a, b):
            pairs = zip(self.unpacked(builder, a), self.unpacked(builder, b), strict=True)
            return [builder.fadd(*pair) for pair in pairs]

        self.zero, self.start, self.load, self.store, self.add = zero, start, load, store, add

    def _products(self) -> None:
        simd, tile, P, at = self.simd, self.type, self.simd.pointer, types.int64

        @instruction(tile, tile, P, at, at, P, at, at)
        def fma(builder, value, panel, index, gap, source, first, stride):
            """Add one term to every sum, as ``emit_term`` says."""
            return self.emit_term(builder, self.unpacked(builder, value), panel, index, gap, source, first, stride)

        @instruction(tile, tile, P, at, at, at, at, P, at)
        def dot(builder, value, panel, index, gap, first, count, source, stride):
            """``count`` terms in order of k, whose weights are those of ``first`` + k in the panel at ``index``."""
            index = self.term_at(builder, index, first)
            if simd.rounds:
                integers = IntegerDot(builder, self, panel, index, gap, source, stride, count)
                return emit_integers(builder, [integers], self.unpacked(builder, value))

            def term(k, sums):
                where = self.term_at(builder, index, k)
                return self.emit_term(builder, sums, panel, where, gap, source, k, stride)

            return emit_chain(builder, simd.constant(0), count, self.unpacked(builder, value), term)

        self.fma, self.dot = fma, dot

    def _k_blocks(self) -> None:
        term = self.panel_columns * self.simd.lanes  # numbers of a panel for one k
        self.k_blocks, self.k_blocks_spread = self.k_blocks_at(term), self.k_blocks_at(term // SPREAD)

    def k_blocks_at(self, pace: int) -> Kernel:
        term = self.panel_columns * self.simd.lanes
        zero, start, load, store, add, fma = self.zero, self.start, self.load, self.store, self.add, self.fma
        prefetch = self.simd.prefetch(max(1, term * self.blocks * self.simd.number.itemsize // LINE // 2))

        @inline
        def k_blocks(panel, ahead, count, source, stride, sums, sums_stride, bias, begin):
            """``dot`` with the sums in memory, K-block after K-block; ``begin`` says where the first one starts.

            With every term, half as many cache lines from ``ahead`` on are prefetched as the term has weights; with the
            next term, those from ``pace`` numbers further on.
            """
            for first in range(0, count, K_BLOCK):
                value = zero()
                if begin == FROM_BIAS:
                    value = start(bias, 0, 0)
                for k in range(first, smaller(first + K_BLOCK, count)):
                    prefetch(ahead, k * pace)
                    value = fma(value, panel, k * term, 0, source, k, stride)
                if begin == GO_ON:
                    value = add(load(sums, 0, sums_stride, 0), value)
                store(sums, 0, sums_stride, value)
                begin = GO_ON

        return k_blocks

    def each(self, function: Any, *kinds: types.Type, then: Any = None) -> Any:
        """An instruction that calls ``function(*registers, r, j, *more)`` for every row r and block j of the tile.

        ``registers`` are the ``columns`` of that row and block, ``kinds`` the types of ``more``. With a second part,
        ``then(result, r, j, *more)`` is called after the first parts of all rows and blocks: a CPU looks ahead by
        about a hundred instructions, and finds more independent ones in this order.
        """
        columns, at = self.columns, types.int64
        places = [(INT64(r), INT64(j)) for r in range(self.rows) for j in range(self.blocks)]

        def resolved(typing_context, function, *given):
            callee = types.Dispatcher(function)
            return callee, typing_context.resolve_function_type(callee, [*given, at, at, *kinds], {})

        def each(typing_context, value, *more):
            first = resolved(typing_context, function, *[self.simd.register] * columns)
            second = then and resolved(typing_context, then, first[1].return_type)

            def codegen(context, builder, _, values):
                registers, more = self.unpacked(builder, values[0]), values[1:]
                call, results = context.get_function(*first), []
                for n, place in enumerate(places):
                    results.append(call(builder, [*registers[n * columns :][:columns], *place, *more]))
                if then:
                    call = context.get_function(*second)
                    for result, place in zip(results, places, strict=True):
                        call(builder, [result, *place, *more])
                return context.get_dummy_value()

            return types.void(self.type, *kinds), codegen

        return fixed_intrinsic(each, ["value", *(f"more_{n}" for n in range(len(kinds)))])


@lru_cache
def tile_of(simd: Simd, rows: int, columns: int, blocks: int = 1, ahead: int = 0) -> Tile:
    """A ``Tile``, made once, so that kernels share its instructions."""
    return Tile(simd, rows, columns, blocks, ahead)


class TileAndTail:
    """A tile of one row, and the tail block behind its blocks, with the instructions of one tile; the sums are a pair.

    The chains of both run side by side.
    """

    def __init__(self, tile: Tile, tail: Tile) -> None:
        self.tile, self.tail = tile, tail
        self.rows, self.blocks = 1, tile.blocks + 1
        self.type = types.Tuple([tile.type, tail.type])
        self._memory()
        self._products()

    def _memory(self) -> None:
        blocks, tile, tail = self.tile.blocks, self.tile, self.tail
        zero_tile, start_tile, load_tile, add_tile = tile.zero, tile.start, tile.load, tile.add
        zero_tail, start_tail, load_tail, add_tail = tail.zero, tail.start, tail.load, tail.add

        @inline
        def zero():
            return zero_tile(), zero_tail()

        @inline
        def start(bias, index, gap):
            return start_tile(bias, index, gap), start_tail(bias, index + blocks * gap, gap)

        @inline
        def load(pointer, index, stride, gap):
            return load_tile(pointer, index, stride, gap), load_tail(pointer, index + blocks * gap, stride, gap)

        @inline
        def add(a, b):
            return add_tile(a[0], b[0]), add_tail(a[1], b[1])

        self.zero, self.start, self.load, self.add = zero, start, load, add

    def _products(self) -> None:
        tile, tail = self.tile, self.tail
        P, at = tile.simd.pointer, types.int64

        def packed(builder, sums):
            return [cgutils.pack_array(builder, part) for part in (sums[: tile.size], sums[tile.size :])]

        @instruction(self.type, self.type, P, at, at, at, at, P, at)
        def dot(builder, value, panel, index, gap, first, count, source, stride):
            behind = builder.add(index, builder.mul(gap, INT64(tile.blocks)))
            index, behind = tile.term_at(builder, index, first), tail.term_at(builder, behind, first)
            whole, ending = (builder.extract_value(value, n) for n in range(2))
            sums = [*tile.unpacked(builder, whole), *tail.unpacked(builder, ending)]
            if tile.simd.rounds:
                dots = [IntegerDot(builder, part, panel, at, gap, source, stride, count)
                        for part, at in ((tile, index), (tail, behind))]  # fmt: skip
                return packed(builder, emit_integers(builder, dots, sums))

            def term(k, sums):
                of_tile, of_tail = tile.term_at(builder, index, k), tail.term_at(builder, behind, k)
                return [
                    *tile.emit_term(builder, sums[: tile.size], panel, of_tile, gap, source, k, stride),
                    *tail.emit_term(builder, sums[tile.size :], panel, of_tail, gap, source, k, stride),
                ]

            return packed(builder, emit_chain(builder, tile.simd.constant(0), count, sums, term))

        self.dot = dot


def whole_blocks(lanes: int) -> Kernel:
    """``(units) -> number of whole blocks``, before a tail block of half the lanes, as ``lanes_of_last`` defines it."""
    half = lanes // 2 if lanes >= LEAST_HALVED else 0

    @inline
    def whole_of(units):
        blocks = units // lanes
        return blocks if units - blocks * lanes <= half else blocks + 1

    return whole_of


def next_size(sizes: tuple[int, ...]) -> Any:
    """``(left, most) -> size of the next tile``, in rows or blocks: the largest that leaves no sliver of one or two."""
    return _choice(sizes, lambda size: 2 if size > 4 else 1)


def largest_size(sizes: tuple[int, ...]) -> Any:
    """``(left, most) -> size of the next tile``: the largest there is room for."""
    return _choice(sizes, lambda size: 0)


def _choice(sizes: tuple[int, ...], sliver: Callable[[int], int]) -> Any:
    """The first size that fits, and leaves either nothing or more than its ``sliver``; else the last."""

    @instruction(types.int64, types.int64, types.int64)
    def choose(builder, left, most):
        chosen = INT64(sizes[-1])
        for size in reversed(sizes[:-1]):
            rest = builder.sub(left, INT64(size))
            enough = builder.icmp_signed(">", rest, INT64(sliver(size)))
            leaves = builder.or_(builder.icmp_signed("==", rest, INT64(0)), enough)
            fits = builder.and_(leaves, builder.icmp_signed(">=", most, INT64(size)))
            chosen = builder.select(fits, INT64(size), chosen)
        return chosen

    return choose


def by_size(sizes: tuple[int, ...], kernels: dict[int, Kernel]) -> Any:
    """One function for the kernels of several sizes: ``(size, ...) -> kernels[size](...)``; the last for any other."""

    def run(typing_context, size, *given):
        given = [types.unliteral(kind) for kind in given]
        callees = {n: types.Dispatcher(kernels[n]) for n in sizes}
        signatures = {n: typing_context.resolve_function_type(callees[n], given, {}) for n in sizes}

        def codegen(context, builder, _, values):
            blocks = {n: builder.append_basic_block(f"of_{n}") for n in sizes}
            after = builder.append_basic_block("after")
            switch = builder.switch(values[0], blocks[sizes[-1]])
            for n in sizes:
                if n != sizes[-1]:
                    switch.add_case(INT64(n), blocks[n])
                builder.position_at_end(blocks[n])
                context.get_function(callees[n], signatures[n])(builder, values[1:])
                builder.branch(after)
            builder.position_at_end(after)
            return context.get_dummy_value()

        return types.void(types.int64, *given), codegen

    names = list(inspect.signature(kernels[sizes[0]].py_func).parameters)
    return fixed_intrinsic(run, ["size", *names])


def for_tiles(sizes: tuple[int, ...], choice: Callable[[tuple[int, ...]], Any], kernels: dict[int, Kernel]) -> Kernel:
    """``(plan, rows, *given)``: cut the rows into tiles, and call ``kernels[height](plan, r, *given)`` for each.

    r is the first row of the tile; ``choice`` is ``next_size`` or ``largest_size``.
    """
    run, height_of = by_size(sizes, kernels), choice(sizes)

    @inline
    def loop(plan, rows, *given):
        r = 0
        while r < rows:
            height = height_of(rows - r, load_slot(plan, Header.MR))
            run(height, plan, r, *given)
            r += height

    return loop
