"""How threads share a call: along which partition, in how many chunks, and whether it pays.

Results do not depend on it. Rows are independent, but every thread reads all weights. With hidden blocks, each thread
reads a part of the weights and keeps it in its cache, but there is a barrier after every step. Directions meet at the
end of every layer. In a wavefront, each layer follows the one below by a chunk of steps.
"""

from typing import NamedTuple

from numlstm.base.config import Config
from numlstm.kernels.plan_layout import Partition

WORTH = 200.0  # microseconds of work from which a second thread pays
START_WORTH = 20_000.0  # the same for a thread that must be started first
STEP_WORTH = 3.0  # microseconds per thread of a cell's step, from which a barrier after every step pays
ROWS_EACH = 12  # rows per thread from which it pays that all threads read all weights
LOW_ROWS = 3  # the same if no other partition pays: tiles have few rows then
TALL_ROWS = 24  # the same for large weights; also rows of a chunk that fills tiles well
UNITS = 16  # hidden units of a block with the widest registers
CACHE = 3 << 19  # bytes of recurrent weights that stay in the caches of one core
WAVEFRONT_STEPS = 32  # steps of a chunk, at most
FMAS_A_MICROSECOND, BYTES_A_MICROSECOND = 40_000, 60_000  # of one thread in float32, roughly


class Schedule(NamedTuple):
    """How threads share a call.

    Parameters
    ----------
    partition : Partition
    num_threads : int
        Including the caller.
    num_chunks : int
        Work items of a phase.
    ranges : int
        Into which the chunks of a phase are divided; each thread starts with its own.
    chunk_rows : int
        With rows: rows of a chunk.
    chunk_steps : int
        In a wavefront: steps of a chunk.
    """

    partition: Partition
    num_threads: int
    num_chunks: int
    ranges: int
    chunk_rows: int = 0
    chunk_steps: int = 0


class Overrides(NamedTuple):
    """What tests force, whether it pays or not; 0 and None for the usual choice."""

    partition: Partition | None = None
    num_chunks: int = 0  # with hidden blocks
    chunk_rows: int = 0
    chunk_steps: int = 0  # in a wavefront


USUAL = Overrides()


def choose(
    config: Config,
    steps: int,
    rows: int,
    itemsize: int,
    limit: int,
    overrides: Overrides = USUAL,
    packed_rows: int = 0,
) -> Schedule | None:
    """How at most ``limit`` threads share a call of these sizes; None if one thread is to run it alone.

    Parameters
    ----------
    config : Config
    steps, rows : int
        Length of the sequence and batch size.
    itemsize : int
        Bytes of a number.
    limit : int
        Threads, including the caller.
    overrides : Overrides
    packed_rows : int
        For a packed sequence: rows of its first step. ``rows`` then is the mean of a step, and no wavefront is chosen.

    Returns
    -------
    Schedule or None
    """
    if limit < 2 or rows == 0:
        return None
    partition, num_threads = overrides.partition, limit
    if partition is None:
        if microseconds(config, steps, rows, itemsize) < WORTH:
            return None
        partition, num_threads = _best(config, steps, rows, itemsize, limit, packed_rows > 0)
    if partition == Partition.ROWS and packed_rows:
        return _by_unequal_rows(packed_rows, num_threads, overrides.chunk_rows)
    if partition == Partition.ROWS:
        return _by_rows(rows, num_threads, overrides.chunk_rows)
    if partition == Partition.DIRECTIONS and config.bidirectional:
        return Schedule(Partition.DIRECTIONS, num_threads=2, num_chunks=2, ranges=2)
    if partition == Partition.WAVEFRONT and not config.bidirectional and config.num_layers > 1 and not packed_rows:
        chunk_steps = overrides.chunk_steps or max(1, min(WAVEFRONT_STEPS, steps // (8 * config.num_layers)))
        chunks = -(-steps // chunk_steps)
        return Schedule(
            Partition.WAVEFRONT,
            min(num_threads, config.num_layers),
            config.num_layers * chunks,
            ranges=1,
            chunk_steps=chunk_steps,
        )
    if partition == Partition.BLOCKS:
        return Schedule(Partition.BLOCKS, num_threads, overrides.num_chunks or num_threads, ranges=num_threads)
    return None


def microseconds(config: Config, steps: int, rows: int, itemsize: int) -> float:
    """About how long one thread takes: for multiply-adds or for reading the weights, and for the start of each step."""
    weights = sum(
        4 * config.hidden_size * (config.layer_input_size(layer) + config.output_size)
        + config.proj_size * config.hidden_size
        for layer, _, _ in config.cells()
    )
    computing = weights * rows * itemsize / 4 / FMAS_A_MICROSECOND
    reading = weights * itemsize / BYTES_A_MICROSECOND
    return steps * (max(computing, reading) + 0.1 * config.num_layers * config.num_directions)


def _by_rows(rows: int, limit: int, chunk_rows: int) -> Schedule | None:
    num_threads = min(limit, rows)
    if num_threads < 2:
        return None
    most_chunks = num_threads * max(1, rows // (num_threads * TALL_ROWS))  # several per thread while tiles stay full
    chunk_rows = chunk_rows or -(-rows // most_chunks)
    num_chunks = -(-rows // chunk_rows)
    num_threads = min(num_threads, num_chunks)
    return Schedule(Partition.ROWS, num_threads, num_chunks, ranges=num_threads, chunk_rows=chunk_rows)


def _by_unequal_rows(rows: int, limit: int, chunk_rows: int) -> Schedule | None:
    """Rows of a packed sequence, the longest first: many chunks in one range, so that the shortest come last."""
    num_threads = min(limit, rows)
    if num_threads < 2:
        return None
    if not chunk_rows:
        most = rows // (3 * num_threads)
        chunk_rows = most // ROWS_EACH * ROWS_EACH or max(LOW_ROWS, most // LOW_ROWS * LOW_ROWS)
    num_chunks = -(-rows // chunk_rows)
    return Schedule(Partition.ROWS, min(num_threads, num_chunks), num_chunks, ranges=1, chunk_rows=chunk_rows)


def _best(config: Config, steps: int, rows: int, itemsize: int, limit: int, packed: bool) -> tuple[Partition, int]:
    """The partition and number of threads with the largest expected speed-up: threads times their efficiency.

    Efficiencies are rounded from measurements with two threads.
    """
    step = microseconds(config, 1, rows, itemsize) / (config.num_layers * config.num_directions)  # of one cell
    large = 4 * config.hidden_size * config.output_size * itemsize > CACHE  # read again at every step
    deep = config.num_layers > 1 and not config.bidirectional and steps >= 8 * config.num_layers and not packed
    speedups = [(1.0, Partition.SERIAL, 1)]
    for partition, num_threads, efficiency in (
        (Partition.ROWS, rows // (TALL_ROWS if large else ROWS_EACH), 1.1),
        (Partition.BLOCKS, min(int(step / STEP_WORTH), -(-config.hidden_size // UNITS)), 1.05 if large else 0.8),
        (Partition.DIRECTIONS, config.num_directions, 0.9),
        (Partition.WAVEFRONT, config.num_layers if deep else 1, 0.95),
        (Partition.ROWS, max(rows // LOW_ROWS, min(rows, 2)), 0.6),
    ):
        num_threads = min(num_threads, limit)
        speedups.append((num_threads * efficiency, partition, num_threads))
    _, partition, num_threads = max(speedups)
    return partition, num_threads
