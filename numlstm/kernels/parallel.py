"""A whole call, and how threads share it.

Loop order: groups of rows, cells (layer, direction), steps. The rows of a group pass through all layers together.
Threads share one of these loops, which ``Partition`` names: the chunks of a phase are rows, the two directions of a
layer, some steps of a layer (a wavefront), or blocks of a step.
"""

from __future__ import annotations

from numba import types

from .compiler import Kernel, inline, named
from .instructions import PLAN, bump_counter, greater, load_slot, smaller, store_slot
from .plan_layout import LINE_SLOTS, Header, Partition, Share
from .work_queue import ForChunks, count_up, publish, shared


def for_groups(body: Kernel) -> Kernel:
    """``(plan, row, end, phase) -> next phase``: ``body(plan, first, rows, phase)`` for the groups of [row, end)."""

    @inline
    def loop(plan, row, end, phase):
        first = row
        while first < end:  # a range would divide to count its steps
            rows = smaller(load_slot(plan, Header.GROUP), end - first)
            bump_counter(plan, Header.GROUPS)
            phase = body(plan, first, rows, phase)
            first += rows
        return phase

    return loop


def for_cells(run: Kernel, stride: int = 1) -> Kernel:
    """``(plan, first, rows, phase) -> next phase``: all steps of the rows of a group, in every ``stride``-th cell."""

    @inline
    def loop(plan, first, rows, phase):
        from_step, to_step = load_slot(plan, Header.STEPS_FROM), load_slot(plan, Header.STEPS_TO)
        for n in range(load_slot(plan, Header.CELLS_FROM), load_slot(plan, Header.CELLS_TO), stride):
            phase = run(plan, n, first, rows, from_step, to_step, phase)
        return phase

    return loop


@inline
def turn_around(plan):
    """Let the next call continue the serpentine order."""
    store_slot(plan, Header.SERPENTINE, (load_slot(plan, Header.SERPENTINE) + load_slot(plan, Header.STEPS_TO)) & 1)


def serial_forward(run: Kernel) -> Kernel:
    """``forward(plan)`` on one thread."""
    run_rows = named_loop("rows", for_groups(for_cells(run)))

    @inline
    def forward_alone(plan):
        rows, steps = load_slot(plan, Header.ROWS_TO), load_slot(plan, Header.STEPS_TO)
        if rows == 1 and steps == 1 and load_slot(plan, Header.CELLS_TO) == 1:  # the rest as constants
            run(plan, 0, 0, 1, 0, 1, 0)
        else:
            run_rows(plan, load_slot(plan, Header.ROWS_FROM), rows)
        turn_around(plan)

    forward_alone.compile(types.void(PLAN))
    return forward_alone


def parallel_forward(
    run_alone: Kernel, run_together: Kernel, for_chunks: ForChunks, wait: Kernel, spin_wait: Kernel
) -> Kernel:
    """``forward(plan)`` for each thread of a team; ``run_together`` shares the blocks of a step."""
    all_rows = named_loop("rows", for_groups(for_cells(run_alone)))
    by_rows = rows_in_chunks(all_rows, for_chunks)
    by_directions = named_loop("by_directions", for_groups(for_cells(direction_a_chunk(run_alone, for_chunks), 2)))
    by_layers = named_loop("wavefront", for_groups(wavefront(run_alone, for_chunks, wait)))
    by_blocks = named_loop("by_blocks", for_groups(for_cells(run_together)))

    @named("forward")
    def forward(plan):
        partition = load_slot(plan, Header.PARTITION)
        row, end = load_slot(plan, Header.ROWS_FROM), load_slot(plan, Header.ROWS_TO)
        is_caller = partition != Partition.SPIN and load_slot(plan, Header.THREAD_INDEX) == 0
        if is_caller and load_slot(plan, Header.EPOCH) != 0:
            count_up(load_slot(plan, Header.EPOCH))
        if partition == Partition.SERIAL:
            all_rows(plan, row, end)
        elif partition == Partition.ROWS:
            by_rows(plan, 0, row, end)
        elif partition == Partition.DIRECTIONS:
            by_directions(plan, row, end)
        elif partition == Partition.WAVEFRONT:
            by_layers(plan, row, end)
        elif partition == Partition.BLOCKS:
            by_blocks(plan, row, end)
        else:
            spin_wait(plan)
        turn_around(plan)

    forward.compile(types.void(PLAN))
    return forward


def named_loop(name: str, loop: Kernel) -> Kernel:
    """``(plan, row, end)``: a loop over groups as a function of its own, from the first phase on."""

    @named(name)
    def run(plan, row, end):
        loop(plan, row, end, 0)

    return run


def rows_in_chunks(all_rows: Kernel, for_chunks: ForChunks) -> Kernel:
    """One phase, whose chunks are ``CHUNK_ROWS`` rows."""

    @inline
    def chunk_rows(plan, chunk, row, end):
        rows = load_slot(plan, Header.CHUNK_ROWS)
        first = row + chunk * rows
        all_rows(plan, first, smaller(first + rows, end))

    return for_chunks(chunk_rows)


def direction_a_chunk(run: Kernel, for_chunks: ForChunks) -> Kernel:
    """A phase for each layer, whose two chunks are directions."""

    @inline
    def direction(plan, chunk, n, first, rows, from_step, to_step):
        run(plan, n + chunk, first, rows, from_step, to_step, 0)

    directions = for_chunks(direction)

    @inline
    def layer(plan, n, first, rows, from_step, to_step, phase):
        return directions(plan, phase, n, first, rows, from_step, to_step)

    return layer


@inline
def place_in_wavefront(item, layers, chunks):
    """(layer, chunk of its steps) of a work item: diagonal by diagonal, the lowest layer of each first."""
    diagonal, lowest, left, count = 0, 0, item, 1
    while left >= count:
        left -= count
        diagonal += 1
        lowest = greater(0, diagonal - chunks + 1)
        count = smaller(diagonal, layers - 1) - lowest + 1
    return lowest + left, diagonal - lowest - left


def wavefront(run: Kernel, for_chunks: ForChunks, wait: Kernel) -> Kernel:
    """A phase for each group of rows, whose work items are chunks of ``CHUNK_STEPS`` steps of a layer.

    Each layer's line of the shared record counts the chunks that it has done, in all groups so far. A chunk waits for
    the one before in its layer, and for the same one in the layer below. It overwrites what the layer two below has
    put out, which must have been read: so that layer must have ended its next chunk. All of these were claimed earlier.
    """

    @inline
    def wait_for(plan, progress, layer, chunks):
        wait(plan, progress + 8 * LINE_SLOTS * layer, chunks, False)

    @inline
    def work_item(plan, item, first, rows, before, chunks):
        steps, length = load_slot(plan, Header.STEPS_TO), load_slot(plan, Header.CHUNK_STEPS)
        progress = shared(plan, Share.NEXT_CHUNK + LINE_SLOTS * load_slot(plan, Header.RANGES))
        layer, chunk = place_in_wavefront(item, load_slot(plan, Header.CELLS_TO), chunks)
        wait_for(plan, progress, layer, before + chunk)
        if layer > 0:
            wait_for(plan, progress, layer - 1, before + chunk + 1)
        if layer > 1:
            wait_for(plan, progress, layer - 2, before + smaller(chunk + 2, chunks))
        bump_counter(plan, Header.WAVEFRONT)
        run(plan, layer, first, rows, chunk * length, smaller((chunk + 1) * length, steps), 0)
        publish(progress + 8 * LINE_SLOTS * layer, before + chunk + 1)

    work_items = for_chunks(work_item)

    @inline
    def group(plan, first, rows, phase):
        steps, length = load_slot(plan, Header.STEPS_TO), load_slot(plan, Header.CHUNK_STEPS)
        chunks = (steps + length - 1) // length
        return work_items(plan, phase, first, rows, phase * chunks, chunks)

    return group
