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
# 32 registers: 6 rows x 4 gates + 4 weights + 1 splat
REGISTERS_32 = Shapes(rows=(6, 4, 3, 2, 1), together=(4, 3, 2, 1))


def next_size(sizes):
    """``(left, most) -> size of the next tile``, in rows or blocks: the largest that leaves no sliver of one or two."""
    first, rest = sizes[0], sizes[1:]
    if not rest:

        @inline
        def choose(left, most):
            return first

        return choose
    lower = next_size(rest)
    sliver = 2 if first > 4 else 1

    @inline
    def choose(left, most):
        if left >= first and most >= first and (left == first or left - first > sliver):
            return first
        return lower(left, most)

    return choose


def by_size(sizes, kernels):
    """One function for the kernels of several sizes: ``(size, ...) -> kernels[size](...)``."""
    first, rest = sizes[0], sizes[1:]
    kernel = kernels[first]
    if not rest:

        @inline
        def run(size, *args):
            kernel(*args)

        return run
    other = by_size(rest, kernels)

    @inline
    def run(size, *args):
        if size == first:
            kernel(*args)
        else:
            other(size, *args)

    return run
