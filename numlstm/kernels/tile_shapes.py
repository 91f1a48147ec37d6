"""Which tiles a register file holds, and how rows and blocks are cut into them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba.core import types

from .compiler import Kernel, inline
from .instructions import INT64, fixed_intrinsic, instruction, load_slot
from .plan_layout import LEAST_HALVED, Header


@dataclass(frozen=True)
class Shapes:
    """Tile shapes for one kind of CPU.

    ``mr``: heights of tiles of several rows x one block, tallest first, 1 last.
    ``nr``: how many blocks of one row run side by side, most first, 1 last.
    ``row_pairs``: heights of tiles of a block with half the lanes, whose rows are finished two by two; even, but 1
    last.
    """

    mr: tuple[int, ...]
    nr: tuple[int, ...]
    row_pairs: tuple[int, ...]


# 16 registers: 3 rows x 4 gates + 3 splats + 1 weight; one row x 3 blocks x 4 gates, weights from memory
REGISTERS_16 = Shapes(mr=(3, 2, 1), nr=(3, 2, 1), row_pairs=(6, 4, 2, 1))
# 32 registers: 6 rows x 4 gates + 4 weights + 1 splat
REGISTERS_32 = Shapes(mr=(6, 4, 3, 2, 1), nr=(4, 3, 2, 1), row_pairs=(12, 6, 4, 2, 1))


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
