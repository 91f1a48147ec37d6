"""Rows of float32 numbers rounded to int8, each by a scale of its own.

Layout of a rounded row: four inputs in each number, then the scale; see ``products``. Loop order: rows; in each, once
over its numbers for the largest, and once to round them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from ..activations import FAINTEST
from ..compiler import Kernel, inline, named
from ..instructions import instruction
from ..simd import Simd
from .products import BEHIND, BYTE, WORD, products_of, rounded_terms

MAGIC = 1.5 * 2.0**23  # adding it leaves the nearest integer, ties to even, in the low bits


def row_scales(simd: Simd) -> tuple[Any, Any]:
    """``largest(size, x)``, and ``scales(size) -> (127 / m, m / 127)`` with m the largest number in any lane of it.

    A row whose largest number is below ``FAINTEST`` counts as zeros. The scale of one with NaN or an infinity is NaN.
    """
    V, lanes, most = simd.register, simd.lanes, simd.constant(127)

    @instruction(V, V, V)
    def largest(builder, size, x):
        """The larger of |x| and ``size``, and NaN rather than a number: by bits as integers."""
        known, found = builder.bitcast(size, simd.integers), simd.emit_size(builder, x)
        return builder.bitcast(builder.select(builder.icmp_signed(">", found, known), found, known), simd.vector)

    @instruction(types.UniTuple(V, 2), V)
    def scales(builder, size):
        distance = lanes // 2
        while distance:
            turned = ir.Constant(ir.VectorType(WORD, lanes), [(n + distance) % lanes for n in range(lanes)])
            size = largest.emit(builder, size, builder.shuffle_vector(size, size, turned))
            distance //= 2
        stays, zero = simd.emit_at_least(builder, size, FAINTEST[simd.number.name]), simd.constant(0)
        # infinity less itself, or NaN, is NaN
        scale = builder.fadd(builder.fdiv(size, most), builder.fsub(size, size))
        return [builder.select(stays, each, zero) for each in (builder.fdiv(most, size), scale)]

    return largest, scales


def rounder(simd: Simd, flip: int) -> Kernel:
    """``round(target, source, count, inverse)``: the bytes of a row. With ``flip``, these bits of each are turned."""
    lanes, load, load_part, moved, halves = simd.lanes, simd.load, simd.load_part, simd.moved, simd.halves
    magic, bytes_of = simd.constant(MAGIC), ir.VectorType(BYTE, lanes)

    @instruction(types.void, simd.pointer, types.int64, simd.register, simd.register)
    def store(builder, target, index, x, inverse):
        bits = builder.bitcast(builder.fadd(builder.fmul(x, inverse), magic), simd.integers)
        low = builder.trunc(bits, bytes_of)
        if flip:
            low = builder.xor(low, ir.Constant(bytes_of, [flip] * lanes))
        builder.store(low, builder.bitcast(builder.gep(target, [index]), bytes_of.as_pointer()), align=4)

    if lanes > 4:
        narrow = rounder(simd.half, flip)

        @inline
        def tail(target, source, count, inverse):
            lower, _ = halves(inverse)
            narrow(target, source, count, lower)

    else:

        @inline
        def tail(target, source, count, inverse):
            store(target, 0, load_part(source, 0, count), inverse)

    @inline
    def round(target, source, count, inverse):
        k, whole = 0, count & -lanes
        while k < whole:
            store(target, k >> 2, load(source, k), inverse)
            k += lanes
        if k < count:
            tail(moved(target, k >> 2), moved(source, k), count - k, inverse)

    return round


def row_rounder(simd: Simd) -> Kernel:
    """``round_rows(source, stride, rows, features, target)``: rows that are ``stride`` apart, one behind the other."""
    lanes, load_part, moved, zeros = simd.lanes, simd.load_part, simd.moved, simd.splat(0)
    (largest, scales), round = row_scales(simd), rounder(simd, products_of(lanes).flip)

    @instruction(types.void, simd.pointer, types.int64, simd.register)
    def store_first(builder, target, index, value):
        builder.store(builder.extract_element(value, WORD(0)), builder.gep(target, [index]))

    @named("round_rows")
    def round_rows(source, stride, rows, features, target):
        terms = rounded_terms(features)
        for r in range(rows):
            x, row = moved(source, r * stride), moved(target, r * terms)
            size = zeros()
            for k in range(0, features, lanes):
                size = largest(size, load_part(x, k, features - k))
            inverse, scale = scales(size)
            round(row, x, features, inverse)
            store_first(row, terms - BEHIND, scale)

    return round_rows
