"""Kernels by what decides their code, made once; and their launch, which holds the budgets."""

import functools
from collections import Counter

from .. import planner
from ..device import kernel
from .lane import Lane
from .padding import arrange_kernel, padding_kernel
from .projection import project_kernel
from .recurrence import register_kernel, stream_kernel
from .step import flush_copy_kernel, step_kernel

HIGH, WIDE = 4, {4: 4, 8: 2}  # sums of a thread that projects: rows, and columns by the bytes of a number
launches: Counter[str] = Counter()  # of each kernel, for tests


@functools.cache
def lane(dtype):
    """The instructions for a number type, by its name."""
    return Lane(dtype)


def source(name, dtype, rows):
    """(Python function, threads of a block at most) of a kernel; for "register", ``rows`` are the units.

    For "flush_copy" they are 1 for h and 0 for c.
    """
    of = lane(dtype)
    if name in ("project", "project_hidden"):
        wide, flushed = WIDE[of.number.itemsize], name == "project_hidden"
        function = project_kernel(of, planner.ACROSS, planner.DOWN, HIGH, wide, flushed)
    elif name == "flush_copy":
        function = flush_copy_kernel(of, rows == 1)
    elif name in ("pack", "unpack"):
        function = padding_kernel(of, name == "unpack")
    elif name == "arrange":
        function = arrange_kernel()
    else:
        function = {"stream": stream_kernel, "register": register_kernel, "step": step_kernel}[name](of, rows)
    return function, threads_of(name, rows)


@functools.cache
def made(name, dtype, rows=0):
    """The kernel, ready to be launched."""
    return kernel(*source(name, dtype, rows))


def threads_of(name, rows):
    """Threads of a block that the kernel is compiled for."""
    return {"stream": planner.MOST_THREADS, "register": 4 * rows}.get(name, planner.THREADS)


def launch(name, dtype, rows, grid, threads, shared, stream, *arguments):
    """Run a kernel over a grid of blocks; what exceeds a budget is a fault of the planner."""
    assert 1 <= threads <= threads_of(name, rows), f"{name}: {threads} threads"
    assert 0 <= shared <= planner.SHARED, f"{name}: {shared} bytes of shared memory"
    assert all(size >= 1 for size in grid) and max((0, *grid[1:])) <= planner.GRID_Y, f"{name}: grid {grid}"
    launches[name] += 1
    made(name, dtype, rows)[grid, threads, stream, shared](*arguments)
