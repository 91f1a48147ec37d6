"""Kernels by what decides their code, made once; and their launch, which holds the budgets."""

import functools

from . import planner
from .device import SIMULATED, kernel
from .lane import Lane
from .project import project_kernel
from .recur import register_kernel, stream_kernel
from .step import settle_kernel, step_kernel

HIGH, WIDE = 4, {4: 4, 8: 2}  # sums of a thread that projects: rows, and columns by the bytes of a number
launches = {}  # how often each kernel was launched


@functools.cache
def lane(dtype):
    """The instructions for a number type, by its name."""
    return Lane(dtype)


def source(name, dtype, rows):
    """(Python function, threads of a block at most) of a kernel: ``rows`` are the units of "register"."""
    of = lane(dtype)
    if name in ("project", "project_hidden"):
        wide = WIDE[of.number.itemsize]
        function = project_kernel(of, planner.ACROSS, planner.DOWN, HIGH, wide, name == "project_hidden")
        return function, planner.THREADS
    if name == "stream":
        return stream_kernel(of, rows), planner.MOST_THREADS
    if name == "register":
        return register_kernel(of, rows), 4 * rows
    if name == "step":
        return step_kernel(of, rows), planner.THREADS
    return settle_kernel(of), planner.THREADS


@functools.cache
def made(name, dtype, rows=0):
    """The kernel, ready to be launched."""
    return kernel(*source(name, dtype, rows))


def launch(name, dtype, rows, grid, threads, shared, stream, *arguments):
    """Run a kernel over a grid of blocks."""
    assert 1 <= threads <= planner.MOST_THREADS and threads <= source_threads(name, rows), (name, threads)
    assert 0 <= shared <= planner.SHARED, (name, shared)
    assert all(1 <= size for size in grid) and grid[-1] <= planner.GRID_Y or len(grid) == 1, (name, grid)
    launches[name] = launches.get(name, 0) + 1
    made(name, dtype, rows)[grid, threads, stream, shared](*arguments)


def source_threads(name, rows):
    """Threads of a block that the kernel was compiled for."""
    return {"stream": planner.MOST_THREADS, "register": 4 * rows}.get(name, planner.THREADS)


__all__ = ["SIMULATED", "launch", "launches", "made", "source"]
