"""A head: what follows an LSTM in each row by itself. A Linear layer, an activation, and the input added to the output.

``head(record, source, target, rows, given)`` reads ``source[row][input]`` and writes ``target[row][output]``, both
contiguous, as the record of ``Head`` slots says. ``given`` is the address of what is added, or 0. A record may name the
next one; then the results of all but the last stand in ``ROOM``.

Layout: panels ``[block][k][lane]`` of outputs, four blocks interleaved as ``[k][block][lane]`` as long as there are
four, as those of the hidden projection. Loop order: groups of rows, blocks, tiles of rows; then the activation of all.

Arithmetic: the sum of an output is that of X in ``recurrence``, from the bias. The activations are those of a cell,
each with a division of its own. What is added is scaled by an FMA. A softmax is e^(x - the largest x), each over their
sum, which adds K-blocks of 16 in order.
"""

from __future__ import annotations

from typing import Any

from numba import types

from ..activations import FLAT, FULL, activations
from ..compiler import Kernel, inline, named, standalone
from ..instructions import PLAN, instruction, load_slot, slots_at, smaller
from ..plan_layout import HEAD, Activation, Head
from ..projection import QUAD
from ..simd import Simd
from ..tile import K_BLOCK, Shapes, by_size, next_size, tile_of

GROUP = 192  # rows that pass over all panels together, while they stay in the second cache


def head_entry(run: Kernel) -> dict[str, Kernel]:
    """``head(record, source, target, rows, given)`` by C name; ``run`` is what ``heads`` makes."""

    def head(record, source, target, rows, given):
        run(record, source, target, rows, given)

    entry = standalone(head)
    entry.compile(types.void(PLAN, types.int64, types.int64, types.int64, types.int64))
    return {HEAD: entry}


def heads(simd: Simd, shapes: Shapes) -> Kernel:
    """``(record, source, target, rows, given)``: a head, and those that follow it."""
    run = head_kernel(simd, shapes)

    @named("heads")
    def all_heads(record, source, target, rows, given):
        while load_slot(record, Head.NEXT) != 0:
            room = load_slot(record, Head.ROOM)
            run(record, source, room, rows, given)
            source, record = room, slots_at(load_slot(record, Head.NEXT))
        run(record, source, target, rows, given)

    return all_heads


def head_kernel(simd: Simd, shapes: Shapes) -> Kernel:
    """``(record, source, target, rows, given)``: one head; all but the record are addresses and a number."""
    moved, numbers_at = simd.moved, pointer_of(simd)
    product, elementwise, add_given, softmax = (
        part(simd, shapes) for part in (linear, activation, skip_connection, softmax_of)
    )

    @inline
    def run(record, source, target, rows, given):
        inputs, outputs = load_slot(record, Head.INPUTS), load_slot(record, Head.OUTPUTS)
        kind, x, y = load_slot(record, Head.ACTIVATION), numbers_at(source), numbers_at(target)
        read = x
        if load_slot(record, Head.PANELS) != 0:
            for first in range(0, rows, GROUP):
                product(record, moved(x, first * inputs), moved(y, first * outputs), smaller(GROUP, rows - first))
            read = y
        if kind == Activation.SOFTMAX:
            for r in range(rows):
                softmax(moved(read, r * outputs), moved(y, r * outputs), outputs)
        elif kind != Activation.IDENTITY or load_slot(record, Head.PANELS) == 0:
            elementwise(kind, read, y, rows * outputs)
        if given != 0 and load_slot(record, Head.SKIP) != 0:
            add_given(record, numbers_at(given), y, rows)

    return run


def pointer_of(simd: Simd) -> Any:
    """``(address) -> pointer to numbers``."""
    element = simd.vector.element.as_pointer()

    @instruction(simd.pointer, types.int64)
    def numbers_at(builder, address):
        return builder.inttoptr(address, element)

    return numbers_at


def linear(simd: Simd, shapes: Shapes) -> Kernel:
    """``(record, source, target, rows)``: the sums of some rows in all blocks."""
    lanes = simd.lanes
    wide, narrow = (
        by_size(shapes.mr, {height: linear_tile(simd, height, columns) for height in shapes.mr})
        for columns in (QUAD, 1)
    )
    height_of, tallest = next_size(shapes.mr), shapes.mr[0]

    @named("linear")
    def product(record, source, target, rows):
        block, blocks = 0, (load_slot(record, Head.OUTPUTS) + lanes - 1) // lanes
        while block < blocks:
            is_wide, r = blocks - block >= QUAD, 0
            while r < rows:
                height = height_of(rows - r, tallest)
                if is_wide:
                    wide(height, r, record, block, source, target)
                else:
                    narrow(height, r, record, block, source, target)
                r += height
            block += QUAD if is_wide else 1

    return product


def linear_tile(simd: Simd, height: int, columns: int) -> Kernel:
    """``(r, record, block, source, target)``: ``height`` rows from r on in ``columns`` blocks, which are 1 or QUAD."""
    pointer_at, moved, lanes, store_part = simd.pointer_at, simd.moved, simd.lanes, simd.store_part
    tile = tile_of(simd, height, columns)

    @inline
    def finish_1(a, r, j, target, stride, count):
        store_part(target, r * stride, a, count)

    @inline
    def finish_4(a, b, c, d, r, j, target, stride, count):
        store_part(target, r * stride, a, lanes)
        store_part(target, r * stride + lanes, b, lanes)
        store_part(target, r * stride + 2 * lanes, c, lanes)
        store_part(target, r * stride + 3 * lanes, d, count - 3 * lanes)

    start, dot = tile.start, tile.dot
    finish = tile.each({1: finish_1, QUAD: finish_4}[columns], simd.pointer, types.int64, types.int64)

    @named(f"linear_{height}x{columns}")
    def kernel(r, record, block, source, target):
        inputs, outputs, at = load_slot(record, Head.INPUTS), load_slot(record, Head.OUTPUTS), block * lanes
        panels = pointer_at(record, Head.PANELS)
        value = start(panels, load_slot(record, Head.BIAS) + at, 0)
        value = dot(value, panels, at * inputs, 0, 0, inputs, moved(source, r * inputs), inputs)
        finish(value, moved(target, r * outputs + at), outputs, outputs - at)

    return kernel


def activation(simd: Simd, shapes: Shapes) -> Kernel:
    """``(kind, source, target, count)``: one activation of so many numbers, which may be in place."""
    lanes, load_part, store_part, part = simd.lanes, simd.load_part, simd.store_part, activations(simd)
    add, div, zero, one, two = simd.add, simd.div, simd.splat(0), simd.splat(1), simd.splat(2)
    at_most, magnitude, with_sign, unless_below = simd.at_most, simd.magnitude, simd.with_sign, simd.unless_below
    denominator, exp_minus_one, flat = (
        part.one_and_exp_of_minus,
        part.exp_minus_one,
        simd.splat(FLAT[simd.number.name] / 2),
    )

    @inline
    def of(kind, x):
        if kind == Activation.RELU:
            return unless_below(x, zero(), x, zero())
        if kind == Activation.SIGMOID:
            return div(one(), denominator(x))
        if kind == Activation.TANH:
            t = exp_minus_one(at_most(magnitude(x), flat()))
            return with_sign(div(t, add(t, two())), x)
        return x

    @named("activation")
    def elementwise(kind, source, target, count):
        for k in range(0, count, lanes):
            store_part(target, k, of(kind, load_part(source, k, count - k)), count - k)

    return elementwise


def skip_connection(simd: Simd, shapes: Shapes) -> Kernel:
    """``(record, given, target, rows)``: the first numbers of each row of ``given``, scaled, are added."""
    lanes, moved, pointer_at, fma = simd.lanes, simd.moved, simd.pointer_at, simd.fma
    load, load_part, store_part = simd.load, simd.load_part, simd.store_part

    @named("skip")
    def add_given(record, given, target, rows):
        outputs, stride = load_slot(record, Head.OUTPUTS), load_slot(record, Head.GIVEN_ROW)
        scale = load(pointer_at(record, Head.SKIP), 0)
        for r in range(rows):
            x, y = moved(given, r * stride), moved(target, r * outputs)
            for k in range(0, outputs, lanes):
                left = outputs - k
                store_part(y, k, fma(load_part(x, k, left), scale, load_part(y, k, left)), left)

    return add_given


def softmax_of(simd: Simd, shapes: Shapes) -> Kernel:
    """``(source, target, count)``: the softmax of one row, which may be in place."""
    lanes, load_part, store_part = simd.lanes, simd.load_part, simd.store_part
    add, mul, div, neg, unless_below = simd.add, simd.mul, simd.div, simd.neg, simd.unless_below
    exp_and_less_one, zero, half = activations(simd).exp_and_less_one, simd.splat(0), simd.splat(0.5)
    least = simd.splat(-FULL[simd.number.name] / 2)

    @instruction(simd.register, simd.scalar)
    def in_every_lane(builder, number):
        return simd.emit_splat(builder, number)

    @instruction(simd.scalar, simd.pointer, types.int64)
    def number_at(builder, pointer, index):
        return builder.load(builder.gep(pointer, [index]))

    @instruction(simd.scalar, simd.scalar, simd.scalar)
    def plus(builder, a, b):
        return builder.fadd(a, b)

    @instruction(simd.scalar, simd.scalar, simd.scalar)
    def larger(builder, a, b):
        return builder.select(builder.fcmp_ordered(">", b, a), b, a)

    @inline
    def power(x):
        """e**x for x <= 0; 0 where that would not be a normal number."""
        x = mul(x, half())
        value, _ = exp_and_less_one(neg(x))
        return unless_below(x, least(), value, zero())

    @named("softmax")
    def softmax(source, target, count):
        largest = number_at(source, 0)
        for k in range(1, count):
            largest = larger(largest, number_at(source, k))
        shift = neg(in_every_lane(largest))
        for k in range(0, count, lanes):
            store_part(target, k, power(add(load_part(source, k, count - k), shift)), count - k)
        total = number_at(target, 0)
        for k in range(1, smaller(K_BLOCK, count)):
            total = plus(total, number_at(target, k))
        for first in range(K_BLOCK, count, K_BLOCK):
            part = number_at(target, first)
            for k in range(first + 1, smaller(first + K_BLOCK, count)):
                part = plus(part, number_at(target, k))
            total = plus(total, part)
        over = in_every_lane(total)
        for k in range(0, count, lanes):
            store_part(target, k, div(load_part(target, k, count - k), over), count - k)

    return softmax
