"""Products of int8 weights and int8 inputs, summed in int32. Such sums are exact, so all instructions give one result.

Layout: a matrix with n input features has ceil(n / 4) + ``BEHIND`` terms in a panel. A term is a number of 32 bits for
each lane: first four weights each, of four features one after the other; then the scales, float32; last -128 times the
sums of the weights, int32. A rounded row has as many numbers: four inputs each, then its scale, then an unused one.

One instruction multiplies bytes without a sign by bytes with one (VNNI). It is given inputs + 128, and its sums start
at the last term. Other CPUs get inputs as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ..compiler import inline
from ..instructions import INT64

BEHIND = 2  # terms behind the weights of a matrix: scales and offsets
VNNI_LANES, AVX2_LANES = 16, 8  # only levels with these instructions have registers of so many lanes

Values = Sequence[ir.Value]
BYTE, SHORT, WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)


@inline
def rounded_terms(features):
    """Terms of a panel, and numbers of a rounded row."""
    return ((features + 3) >> 2) + BEHIND


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """Call one of LLVM's functions."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


class Vnni:
    """With AVX-512 and VNNI: four products a lane are added to its sum by one instruction."""

    flip = 0x80  # what turns the bits of an input into those of input + 128

    def __init__(self, lanes: int) -> None:
        self.words = ir.VectorType(WORD, lanes)

    def spread(self, builder: ir.IRBuilder, packed: ir.Value, of_input: bool) -> Any:
        return packed

    def add_products(self, builder: ir.IRBuilder, sums: ir.Value, weights: Any, inputs: Any) -> ir.Value:
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", self.words, [sums, inputs, weights])


class Avx2:
    """With AVX2: |input| times weight with the sign of the input. The sum of two never exceeds 2 x 127 x 127 < 2^15."""

    flip = 0

    def __init__(self, lanes: int) -> None:
        self.bytes, self.shorts = ir.VectorType(BYTE, 4 * lanes), ir.VectorType(SHORT, 2 * lanes)
        self.words = ir.VectorType(WORD, lanes)
        self.ones = ir.Constant(self.shorts, [1] * (2 * lanes))

    def spread(self, builder: ir.IRBuilder, packed: ir.Value, of_input: bool) -> Any:
        packed = builder.bitcast(packed, self.bytes)
        if not of_input:
            return packed
        return packed, call(builder, f"llvm.abs.v{self.bytes.count}i8", self.bytes, [packed, ir.IntType(1)(0)])

    def add_products(self, builder: ir.IRBuilder, sums: ir.Value, weights: Any, inputs: Any) -> ir.Value:
        signs, sizes = inputs
        signed = call(builder, "llvm.x86.avx2.psign.b", self.bytes, [weights, signs])
        pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", self.shorts, [sizes, signed])
        return builder.add(sums, call(builder, "llvm.x86.avx2.pmadd.wd", self.words, [pairs, self.ones]))


class Pairs:
    """On any CPU: bytes are widened to 16 bits, and products of two added, which LLVM finds an instruction for."""

    flip = 0

    def __init__(self, lanes: int) -> None:
        self.shorts, self.wide = ir.VectorType(SHORT, 2 * lanes), ir.VectorType(WORD, 2 * lanes)
        self.halves = [ir.Constant(ir.VectorType(WORD, lanes), list(range(n, 2 * lanes, 2))) for n in range(2)]

    def spread(self, builder: ir.IRBuilder, packed: ir.Value, of_input: bool) -> Any:
        """The bytes of even and those of odd places."""
        shorts, eight = builder.bitcast(packed, self.shorts), ir.Constant(self.shorts, [8] * self.shorts.count)
        return builder.ashr(builder.shl(shorts, eight), eight), builder.ashr(shorts, eight)

    def add_products(self, builder: ir.IRBuilder, sums: ir.Value, weights: Any, inputs: Any) -> ir.Value:
        for both in zip(weights, inputs, strict=True):
            products = builder.mul(*(builder.sext(each, self.wide) for each in both))
            for half in self.halves:
                sums = builder.add(sums, builder.shuffle_vector(products, products, half))
        return sums


def products_of(lanes: int) -> Vnni | Avx2 | Pairs:
    """The instructions for registers of so many lanes."""
    if lanes == VNNI_LANES:
        return Vnni(lanes)
    return Avx2(lanes) if lanes == AVX2_LANES else Pairs(lanes)


class IntegerDot:
    """``dot`` of a `Tile` with int8 weights: where its integers start, a term of them, and what becomes of them.

    ``count`` includes the terms behind the weights. All other arguments are those of ``emit_term``, at term 0.
    """

    def __init__(
        self,
        builder: ir.IRBuilder,
        tile: Any,
        panel: ir.Value,
        index: ir.Value,
        gap: ir.Value,
        source: ir.Value,
        stride: ir.Value,
        count: ir.Value,
    ) -> None:
        self.builder, self.tile, self.simd = builder, tile, tile.simd
        self.panel, self.index, self.gap, self.source, self.stride = panel, index, gap, source, stride
        self.terms = builder.sub(count, INT64(BEHIND))
        self.products = products_of(self.simd.lanes)

    def registers(self, k: ir.Value, kind: ir.Type) -> list[ir.Value]:
        """The registers of a term of the panels."""
        builder, where = self.builder, self.tile.term_at(self.builder, self.index, k)
        at = [self.tile.column_at(builder, where, self.gap, *place) for place in self.tile.places]
        pointers = [builder.bitcast(builder.gep(self.panel, [each]), kind.as_pointer()) for each in at]
        return [builder.load(pointer, align=4) for pointer in pointers]

    def number(self, k: ir.Value, row: int, kind: ir.Type) -> ir.Value:
        """A number of a rounded row, in every lane."""
        builder = self.builder
        pointer = builder.gep(self.source, [self.tile.row_at(builder, k, self.stride, row)])
        number = builder.load(builder.bitcast(pointer, kind.element.as_pointer()))
        undefined = ir.Constant(kind, ir.Undefined)
        return builder.shuffle_vector(
            builder.insert_element(undefined, number, WORD(0)),
            undefined,
            ir.Constant(ir.VectorType(WORD, kind.count), None),
        )

    def starts(self) -> Values:
        """Where the integers start."""
        tile, integers = self.tile, self.simd.integers
        if not self.products.flip:
            return [ir.Constant(integers, [0] * self.simd.lanes)] * tile.size
        return self.registers(self.builder.add(self.terms, INT64(1)), integers) * tile.rows

    def term(self, k: ir.Value, sums: Values) -> Values:
        """Four products added to every sum."""
        builder, tile, simd, width = self.builder, self.tile, self.simd, len(self.tile.places)
        if tile.ahead:
            tile.emit_prefetch(builder, self.panel, tile.term_at(builder, self.index, k), self.gap)
        spread, add_products, sums = self.products.spread, self.products.add_products, list(sums)
        weights = self.registers(k, simd.integers)
        # the longer side stays in registers, as in ``emit_term``
        if tile.rows <= width:
            inputs = [spread(builder, self.number(k, r, simd.integers), True) for r in range(tile.rows)]
            for n in range(width):
                passing = spread(builder, weights[n], False)
                for r in range(tile.rows):
                    sums[r * width + n] = add_products(builder, sums[r * width + n], passing, inputs[r])
        else:
            staying = [spread(builder, each, False) for each in weights]
            for r in range(tile.rows):
                passing = spread(builder, self.number(k, r, simd.integers), True)
                for n in range(width):
                    sums[r * width + n] = add_products(builder, sums[r * width + n], staying[n], passing)
        return sums

    def finished(self, integers: Values, sums: Values) -> list[ir.Value]:
        """Every sum plus integer x scale of the row x scale of the weights, in this order."""
        builder, vector, width = self.builder, self.simd.vector, len(self.tile.places)
        of_weights = self.registers(self.terms, vector)
        of_rows = [self.number(self.terms, r, vector) for r in range(self.tile.rows)]
        results = []
        for n, (integer, sum) in enumerate(zip(integers, sums, strict=True)):
            r, place = divmod(n, width)
            scaled = builder.fmul(builder.sitofp(integer, vector), of_rows[r])
            results.append(builder.fadd(sum, builder.fmul(scaled, of_weights[place])))
        return results
