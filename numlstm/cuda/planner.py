"""Chooses the kernel and the tile for a layer, from its sizes and the device's limits. Plain Python, no CUDA.

Shared memory and threads are exact, and asserted at each launch; ``gate`` checks with the compilers that registers
suffice. The speeds are published limits. They choose between kernels with the same bits; none was measured.
"""

from __future__ import annotations

from typing import NamedTuple

SHARED = 48 << 10  # bytes a block; numba-cuda cannot request more
REGISTER_FILE = 64 << 10  # of a multiprocessor, from compute capability 3.0 on
THREAD_REGISTERS = 255
WARP = 32
OLDEST = (5, 0)  # the oldest compute capability that numba-cuda compiles for
GRID_Y = 65535

THREADS = 128  # a block of the projection, of single steps and of copies
ACROSS, DOWN = 16, 8  # the same threads as columns and rows of a projection
MOST_THREADS = 256  # a block of "stream"
# Batch rows of a block of "stream" or "step", by the bytes of a number. Larger tiles do not fit in registers, and two
# rows of float64 make ptxas spill on compute capabilities 7.5 and 8.0.
TILES = {4: (8, 4, 2, 1), 8: (4, 1)}
REGISTER_UNITS = {4: 64, 8: 32}  # hidden units up to which W_hh stays in registers
LAUNCH = 10e-6  # seconds for a launch from Python, at least
L2_OF_ONE = 64e9  # bytes a second from L2 to one multiprocessor
L2_OF_ALL = 1e12  # and to all of a small device


class Plan(NamedTuple):
    """How a layer and direction runs."""

    kernel: str  # "register", "stream" or "step"
    rows: int  # batch rows of a block
    threads: int  # of a block
    blocks: int
    shared: int  # bytes of dynamic shared memory of a block
    static: int  # bytes of static shared memory


def plan(units: int, projected: bool, itemsize: int, batch: int, capability: tuple[int, int], processors: int) -> Plan:
    """The plan for a layer of so many hidden units.

    Parameters
    ----------
    units : int
        hidden_size.
    projected : bool
        Whether proj_size is not 0.
    itemsize : int
        Bytes of a number: 4 or 8.
    batch : int
        Rows.
    capability : (int, int)
        Compute capability of the device.
    processors : int
        Multiprocessors of the device.

    Raises
    ------
    RuntimeError
        The device is too old.
    """
    if capability < OLDEST:
        raise RuntimeError(
            f"the device has compute capability {capability[0]}.{capability[1]}, and numba-cuda compiles for "
            f"{OLDEST[0]}.{OLDEST[1]} and later\nUse device='cpu', or a newer device."
        )
    if not projected and units <= REGISTER_UNITS[itemsize]:
        return Plan("register", 1, 4 * units, batch, 0, 5 * units * itemsize)
    if not projected:
        shared = [rows for rows in TILES[itemsize] if 2 * units * rows * itemsize <= SHARED]
        if shared:
            rows = _rows(shared, batch, processors)
            blocks = -(-batch // rows)
            threads = min(MOST_THREADS, -(-units // WARP) * WARP)
            weights = 4 * units * units * itemsize
            waves = -(-blocks // processors)
            if weights * waves / L2_OF_ONE <= LAUNCH + weights / L2_OF_ALL:
                return Plan("stream", rows, threads, blocks, 2 * units * rows * itemsize, 0)
    # one warp a block if larger blocks would leave multiprocessors idle
    threads = THREADS if batch * -(-units // THREADS) >= processors else WARP
    parts = -(-units // threads)
    rows = _rows(list(TILES[itemsize]), batch, max(1, processors // parts))
    return Plan("step", rows, threads, -(-batch // rows) * parts, 0, 0)


def _rows(tiles: list[int], batch: int, processors: int) -> int:
    """The smallest tile with which there is a multiprocessor for every block, or the largest tile."""
    enough = [rows for rows in tiles if -(-batch // rows) <= processors]
    return min(enough) if enough else max(tiles)
