"""How threads share a pass: a schedule for the pass back, and a team that runs the plans of either."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array
from numlstm.kernels.loading.entry_points import Forward
from numlstm.kernels.plan_layout import LINE_SLOTS, Header, Partition, Share
from numlstm.kernels.training.backward_layout import OWN_RECORD
from numlstm.runtime import planner
from numlstm.runtime.cores import YIELD
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import aligned_empty
from numlstm.runtime.schedule import STEP_WORTH, WORTH, Schedule, microseconds
from numlstm.runtime.workers import EPOCH, Team, Work

BACK = 2  # how much longer than the forward pass the pass back takes, about
PANEL_UNITS = 64  # outputs of a product's panel with the widest registers


def schedule_back(config: Config, steps: int, rows: int, itemsize: int, limit: int) -> Schedule | None:
    """How at most ``limit`` threads share a pass back; None if one is to run it alone.

    They share the rows of a chunk of steps, or the outputs of every step's products.

    The second has a barrier after every step, but each thread reads a part of the weights only. The sums of a
    chunk are shared in both.

    Parameters
    ----------
    config : Config
    steps, rows : int
        Length of the sequence, and how many rows take a step on average.
    itemsize : int
        Bytes of a number.
    limit : int
        Threads, including the caller.
    """
    overrides = planner.settings.schedule
    if limit < 2:
        return None
    partition = overrides.partition
    if partition is None:
        work = BACK * microseconds(config, steps, rows, itemsize)
        if work < WORTH:
            return None
        limit = min(limit, max(2, int(work / WORTH)))
        step = microseconds(config, 1, rows, itemsize) / (config.num_layers * config.num_directions)
        by_outputs = min(int(step / STEP_WORTH / 2), config.output_size // PANEL_UNITS) >= 2
        partition = Partition.BLOCKS if by_outputs else Partition.ROWS
    elif partition != Partition.BLOCKS:
        partition = Partition.ROWS
    return Schedule(partition, limit, num_chunks=overrides.num_chunks or limit, ranges=limit)


def run_alone(kernel: Forward, slots: Array) -> None:
    """Run a plan of the pass back on this thread: it shares the record behind its own slots."""
    record, at = len(slots) - OWN_RECORD, address(slots)
    slots[record:] = 0
    slots[Header.SHARE] = at + record * slots.itemsize
    kernel(at)


class Runner:
    """Runs plans on a team's threads.

    Parameters
    ----------
    team : Team
    kernel : callable
        Takes the address of a plan.
    spin_wait : callable
        The kernel in which a worker waits for the next call.
    layers : int
        Of the model.
    """

    def __init__(self, team: Team, kernel: Forward, spin_wait: Forward, layers: int) -> None:
        self.team, self.kernel, self.spin_wait, self.layers = team, kernel, spin_wait, layers

    def run(self, slots: Array, schedule: Schedule, scratch: Array | None, own: tuple[int, ...], held: object) -> None:
        """Run a plan.

        Parameters
        ----------
        slots : array of int64
            The caller's, changed here.
        schedule : Schedule
        scratch : array or None
        own : tuple of int
            Slots with addresses in ``scratch`` that every worker has its own memory for.
        held : object
            All that a kernel may touch: a late worker outlives the call.
        """
        record = np.zeros(Share.NEXT_CHUNK + LINE_SLOTS * (schedule.ranges + self.layers), np.int64)
        for slot, value in (
            (Header.PARTITION, schedule.partition),
            (Header.NUM_CHUNKS, schedule.num_chunks),
            (Header.RANGES, schedule.ranges),
            (Header.CHUNK_ROWS, schedule.chunk_rows),
            (Header.CHUNK_STEPS, schedule.chunk_steps),
            (Header.YIELD, YIELD),
            (Header.SHARE, address(record)),
        ):
            slots[slot] = value
        tasks: list[Work] = []
        for n, _ in enumerate(self.team.workers):
            of_worker = slots.copy()
            of_worker[Header.THREAD_INDEX] = n + 1
            room = None
            if scratch is not None and own:
                room = aligned_empty(scratch.size, scratch.dtype)
                of_worker[list(own)] += address(room) - address(scratch)
            tasks.append(partial(_run_worker, self.kernel, of_worker, (slots, record, scratch, room, held)))
        if tasks:
            slots[Header.EPOCH] = EPOCH
            self.team.start(tasks, record, self.spin_wait)
        self.kernel(address(slots))
        for task in self.team.tasks:
            task.cancel()


def _run_worker(kernel: Forward, slots: Array, held: Any) -> None:
    """A worker's task: its part of a pass."""
    kernel(address(slots))
