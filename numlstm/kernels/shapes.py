"""Which tiles a register file holds, and how rows and blocks are cut into them."""

from dataclasses import dataclass

from .compiler import inline


@dataclass(frozen=True)
class Shapes:
    """Tile shapes for one kind of CPU.

    ``rows``: heights of tiles of several rows x one block, tallest first, 1 last.
    ``together``: how many blocks of one row run side by side, most first, 1 last.
    """

    rows: tuple[int, ...]
    together: tuple[int, ...]


# 16 registers: 3 rows x 4 gates + 3 splats + 1 weight; one row x 3 blocks x 4 gates, weights from memory
REGISTERS_16 = Shapes(rows=(3, 2, 1), together=(3, 2, 1))
# 32 registers: 6 rows x 4 gates + 6 splats + 1 weight
REGISTERS_32 = Shapes(rows=(6, 4, 3, 2, 1), together=(4, 3, 2, 1))


def next_height(heights):
    """``(left, tallest) -> rows of the next tile``: the tallest that does not leave a sliver of one or two rows."""
    first, rest = heights[0], heights[1:]
    if not rest:

        @inline
        def choose(left, tallest):
            return first

        return choose
    lower = next_height(rest)
    sliver = 2 if first > 4 else 1

    @inline
    def choose(left, tallest):
        if left >= first and tallest >= first and (left == first or left - first > sliver):
            return first
        return lower(left, tallest)

    return choose


def by_height(heights, kernels):
    """One function for the kernels of several heights: ``(height, ...) -> kernels[height](...)``."""
    first, rest = heights[0], heights[1:]
    kernel = kernels[first]
    if not rest:

        @inline
        def run(height, *args):
            kernel(*args)

        return run
    other = by_height(rest, kernels)

    @inline
    def run(height, *args):
        if height == first:
            kernel(*args)
        else:
            other(height, *args)

    return run
