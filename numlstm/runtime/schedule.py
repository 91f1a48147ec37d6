"""How a call is split over threads: which partition, into how many tickets, and whether it is worth it.

Results do not depend on it. Rows need nothing of each other; of hidden blocks every thread reads a part of the weights,
and keeps it in its cache, but all meet after every step; directions meet after every layer; layers in
waves follow each other.
"""

from typing import NamedTuple

from numlstm.base.config import Config
from numlstm.kernels.plan_layout import Partition

WORTH = 200.0  # microseconds of work from which on a call has use for more than one thread
START_WORTH = 20_000.0  # the same for a thread that is yet to be started
STEP_WORTH = 3.0  # microseconds of a cell's step for each thread, from which on it pays to meet after every step
ROWS_EACH = 12  # rows for each thread, from which on it pays that all of them read all weights
LOW_ROWS = 3  # the same at worst, where there is no better partition: tiles are low then
TALL_ROWS = 24  # the same where weights are large; and rows of a ticket that fills tiles well
UNITS = 16  # hidden units of a block, where registers are widest
CACHE = 3 << 19  # bytes of recurrent weights that a core of its own keeps at hand
WAVEFRONT_STEPS = 32  # steps of a chunk, at most
FMAS_A_MICROSECOND, BYTES_A_MICROSECOND = 40_000, 60_000  # what one thread does of float32, roughly


class Schedule(NamedTuple):
    """How threads share a call.

    Parameters
    ----------
    partition : Partition
    members : int
        Threads, the caller among them.
    pieces : int
        Tickets of a phase.
    ranges : int
        Parts of a phase, each of which one thread begins with.
    chunk_rows : int
        By rows: rows of a ticket.
    chunk : int
        In waves: steps of a ticket.
    """

    partition: Partition
    members: int
    num_chunks: int
    ranges: int
    chunk_rows: int = 0
    chunk_steps: int = 0


class Overrides(NamedTuple):
    """What a test wants, whether it pays or not."""

    partition: Partition | None = None  # None: where it pays, and the best one
    num_chunks: int = 0  # tickets of a phase by blocks; 0: what is usual
    chunk_rows: int = 0  # rows of a ticket; 0: what is usual
    chunk_steps: int = 0  # steps of a ticket in waves; 0: what is usual


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
    """How ``limit`` threads at most share a call of these sizes; None where one thread is to do it alone.

    Parameters
    ----------
    config : Config
    steps, rows : int
        Length of the sequence and batch size.
    itemsize : int
        Bytes of a number.
    limit : int
        Threads, the caller among them.
    overrides : Overrides
        What a test wants.
    packed_rows : int
        Of a packed sequence: rows of its first step, and `rows` those of a step on average. Its layers do not go in
        waves.

    Returns
    -------
    Split or None
    """
    if limit < 2 or rows == 0:
        return None
    partition, members = overrides.partition, limit
    if partition is None:
        if microseconds(config, steps, rows, itemsize) < WORTH:
            return None
        partition, members = _best(config, steps, rows, itemsize, limit, packed_rows > 0)
    if partition == Partition.ROWS and packed_rows:
        return _by_unequal_rows(packed_rows, members, overrides.chunk_rows)
    if partition == Partition.ROWS:
        return _by_rows(rows, members, overrides.chunk_rows)
    if partition == Partition.DIRECTIONS and config.bidirectional:
        return Schedule(Partition.DIRECTIONS, members=2, num_chunks=2, ranges=2)
    if partition == Partition.WAVEFRONT and not config.bidirectional and config.num_layers > 1 and not packed_rows:
        chunk_steps = overrides.chunk_steps or max(1, min(WAVEFRONT_STEPS, steps // (8 * config.num_layers)))
        chunks = -(-steps // chunk_steps)
        return Schedule(
            Partition.WAVEFRONT,
            min(members, config.num_layers),
            config.num_layers * chunks,
            ranges=1,
            chunk_steps=chunk_steps,
        )
    if partition == Partition.BLOCKS:
        return Schedule(Partition.BLOCKS, members, overrides.num_chunks or members, ranges=members)
    return None


def microseconds(config: Config, steps: int, rows: int, itemsize: int) -> float:
    """About how long one thread takes: multiply-adds, or reading the weights, and something for every step."""
    weights = sum(
        4 * config.hidden_size * (config.layer_input_size(layer) + config.output_size)
        + config.proj_size * config.hidden_size
        for layer, _, _ in config.cells()
    )
    computing = weights * rows * itemsize / 4 / FMAS_A_MICROSECOND
    reading = weights * itemsize / BYTES_A_MICROSECOND
    return steps * (max(computing, reading) + 0.1 * config.num_layers * config.num_directions)


def _by_rows(rows: int, limit: int, of_a_ticket: int) -> Schedule | None:
    members = min(limit, rows)
    if members < 2:
        return None
    tickets = members * max(1, rows // (members * TALL_ROWS))  # more of them than threads, as long as they are tall
    of_a_ticket = of_a_ticket or -(-rows // tickets)
    num_chunks = -(-rows // of_a_ticket)
    return Schedule(
        Partition.ROWS, min(members, num_chunks), num_chunks, ranges=min(members, num_chunks), chunk_rows=of_a_ticket
    )


def _by_unequal_rows(rows: int, limit: int, of_a_ticket: int) -> Schedule | None:
    """Rows of a packed sequence, the longest first: many tickets in one range, so that the small ones come last."""
    members = min(limit, rows)
    if members < 2:
        return None
    if not of_a_ticket:
        most = rows // (3 * members)
        of_a_ticket = most // ROWS_EACH * ROWS_EACH or max(LOW_ROWS, most // LOW_ROWS * LOW_ROWS)
    num_chunks = -(-rows // of_a_ticket)
    return Schedule(Partition.ROWS, min(members, num_chunks), num_chunks, ranges=1, chunk_rows=of_a_ticket)


def _best(config: Config, steps: int, rows: int, itemsize: int, limit: int, packed: bool) -> tuple[Partition, int]:
    """The partition and the number of threads that promise most: the parts at work at once, and what of them remains.

    The factors are rounded from measurements with two threads.
    """
    step = microseconds(config, 1, rows, itemsize) / (config.num_layers * config.num_directions)  # of one cell
    large = 4 * config.hidden_size * config.output_size * itemsize > CACHE  # what every step needs again
    deep = config.num_layers > 1 and not config.bidirectional and steps >= 8 * config.num_layers and not packed
    promises = [(1.0, Partition.SERIAL, 1)]
    for partition, members, remains in (
        (Partition.ROWS, rows // (TALL_ROWS if large else ROWS_EACH), 1.1),
        (Partition.BLOCKS, min(int(step / STEP_WORTH), -(-config.hidden_size // UNITS)), 1.05 if large else 0.8),
        (Partition.DIRECTIONS, config.num_directions, 0.9),
        (Partition.WAVEFRONT, config.num_layers if deep else 1, 0.95),
        (Partition.ROWS, max(rows // LOW_ROWS, min(rows, 2)), 0.6),
    ):
        members = min(members, limit)
        promises.append((members * remains, partition, members))
    _, partition, members = max(promises)
    return partition, members
