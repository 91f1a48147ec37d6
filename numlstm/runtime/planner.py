"""Make plans for calls by their sizes, and keep them.

A plan is the array that ``kernels/plan_layout.py`` describes, without addresses, and the sizes of its buffers. A call
copies it into the workspace that it leases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape
from numlstm.kernels.plan_layout import LINE_SLOTS, ArraySpec, Cell, Header, Partition, Share, UniformRun
from numlstm.kernels.plan_rules import CallSizes, Forced
from numlstm.runtime import object_layout
from numlstm.runtime.cores import YIELD
from numlstm.runtime.packed_weights import Panels, model_sizes
from numlstm.runtime.schedule import START_WORTH, USUAL, Overrides, Schedule, choose, microseconds
from numlstm.runtime.workers import EPOCH

# for kernels that take arrays out of a tuple: the slots from ITEMS_AT to NONE
OBJECTS = np.array(
    [
        object_layout.ITEMS,
        object_layout.TYPE,
        object_layout.DATA,
        object_layout.NDIM,
        object_layout.SIZES,
        object_layout.STRIDES,
        object_layout.DTYPE,
        id(None),
    ],
    np.int64,
)


class Settings(NamedTuple):
    """Choices that tests force, so that every path runs at small sizes. Results never depend on them."""

    hoist: bool | None = None  # None: where it pays
    hoist_steps: int = 0  # steps of a chunk; 0: as many as fit a cache
    beyond_l2: bool | None = None  # whether panels are too big for the second cache; None: by their size
    mr: int = 1 << 30  # rows of the tallest tile
    k_block_min: int = 0  # terms from which tiles of rows take turns at a panel; 0: by the first cache
    group: int = 0  # rows that pass through all layers together; 0: as many as fit a cache
    convert_bytes: int = 4 << 20  # bytes of a foreign input that are converted at once
    schedule: Overrides = USUAL  # how threads share a call

    def forced(self) -> Forced:
        """The choices that a plan's rules take."""
        hoist, beyond_l2 = (-1 if choice is None else int(choice) for choice in (self.hoist, self.beyond_l2))
        return Forced(self.group, hoist, self.hoist_steps, beyond_l2, self.mr, self.k_block_min)


settings = Settings()
PlanKey = tuple[Shape, Shape, Shape, int]  # shape, strides, output_strides and state_rows of `make_plan`


class Plan(NamedTuple):
    """The slots for one shape, and how many numbers each buffer of the workspace holds."""

    slots: Array
    below: int
    gates: int
    hidden: int
    long: bool  # whether there is enough work for more than one thread
    # by the limit of threads, made on first use; None where one thread is to run the call
    teams: dict[int, TeamPlan | None]
    rounded: int = 0  # of x and h in int8


class TeamPlan(NamedTuple):
    """How threads share a call: a plan for the caller, and one for each worker."""

    schedule: Schedule
    caller: Plan
    worker: Plan
    record: int  # slots of the record that they share
    brief: bool  # whether the call ends before a newly started thread could help


class Clearable(Protocol):
    """What depends on the settings, and is cleared when they change."""

    def clear(self) -> None: ...


dependents: WeakSet[Clearable] = WeakSet()


@contextmanager
def override(**changes: Any) -> Iterator[None]:
    """Change the settings for a while (for tests; not safe from several threads)."""
    global settings
    before = settings
    try:
        settings = before._replace(**changes)
        _clear_dependents()
        yield
    finally:
        settings = before
        _clear_dependents()


def _clear_dependents() -> None:
    for dependent in list(dependents):
        dependent.clear()


def make_team_plan(
    panels: Panels, key: PlanKey, limit: int, sizes: Array | None = None, part: Config | None = None
) -> TeamPlan | None:
    """How at most ``limit`` threads share the call that `make_plan` plans for these shapes, strides and sizes.

    ``part``: the layers and directions that are run at once, if not all of them.
    """
    config, rows = panels.config, key[0][1]
    chosen = _choose(part or config, key[0], sizes, panels.dtype.itemsize, limit)
    if chosen is None:
        return None
    # threads with gates and a hidden h of their own share what one thread may take
    apart = 1 if chosen.partition == Partition.BLOCKS else chosen.num_threads
    shared = make_plan(panels, *key, most_rows=chosen.chunk_rows or rows, apart=apart, sizes=sizes)
    for slot, value in (
        (Header.PARTITION, chosen.partition),
        (Header.RANGES, chosen.ranges),
        (Header.NUM_CHUNKS, chosen.num_chunks),
        (Header.CHUNK_ROWS, chosen.chunk_rows),
        (Header.CHUNK_STEPS, chosen.chunk_steps),
        (Header.YIELD, YIELD),
        (Header.EPOCH, EPOCH),
    ):
        shared.slots[slot] = value
    # threads that share blocks work on the caller's gates and hidden h
    worker = shared._replace(below=0)
    if chosen.partition == Partition.BLOCKS:
        worker = worker._replace(gates=0, hidden=0)
    record = Share.NEXT_CHUNK + LINE_SLOTS * (chosen.ranges + config.num_layers)
    brief = settings.schedule.partition is None and _alone(config, key[0], sizes, panels.dtype.itemsize) < START_WORTH
    return TeamPlan(chosen, shared, worker, record, brief)


def make_plan(
    panels: Panels,
    shape: Shape,
    strides: Shape,
    output_strides: Shape,
    state_rows: int = 0,
    most_rows: int = 1 << 30,
    apart: int = 1,
    sizes: Array | None = None,
) -> Plan:
    """The plan for an input and an output of these shapes and strides.

    Parameters
    ----------
    panels : Panels
    shape : (int, int, int)
        Length of the sequence, batch size, features.
    strides, output_strides : (int, int, int)
        In bytes, of steps, rows and features.
    state_rows : int
        Rows from a cell's states to those of the next one; 0: the batch size. Larger for parts of larger arrays.
    most_rows : int
        Rows that pass through all layers together, at most.
    apart : int
        Threads with buffers of their own, which share the memory that one may take.
    sizes : array of int64, (steps,), optional
        Of a packed sequence: the rows of each step. A stride of steps is 0 where steps follow each other without a
        gap.
    """
    config, size, (steps, rows, _) = panels.config, panels.dtype.itemsize, shape
    (step, row, _), packed = strides, sizes is not None
    rules, forced, model = panels.rules, settings.forced(), model_sizes(config)
    call = CallSizes(
        steps=steps,
        rows=rows,
        source_step=step // size,
        source_row=row // size,
        target_step=output_strides[0] // size,
        target_row=output_strides[1] // size,
        state_rows=state_rows or rows,
        group_most=most_rows,
        apart=apart,
        packed=packed,
    )
    slots = np.zeros(rules.plan_slots(model), np.int64)
    slots[Header.ITEMS_AT : Header.NONE + 1] = OBJECTS
    rules.write_plan(memoryview(slots.data), model, call, forced)
    positions = steps * rows if sizes is None else int(sizes.sum())
    if sizes is not None:
        slots = _with_uniform_runs(slots, sizes)
    return Plan(
        slots=slots,
        below=positions * config.num_directions * config.output_size if config.num_layers > 1 else 0,
        gates=rules.gates_numbers(model, call, forced),
        hidden=rules.hidden_numbers(model, call, forced),
        rounded=rules.rounded_numbers(model, call, forced),
        long=_choose(config, shape, sizes, size, 2) is not None,
        teams={},
    )


def _with_uniform_runs(slots: Array, sizes: Array) -> Array:
    """The slots of a packed sequence, followed by a record for the kernel and the records of its uniform runs."""
    runs = uniform_runs(sizes)
    slots[Header.PACKED], slots[Header.UNIFORM_RUN_COUNT] = slots.size, len(runs)
    return np.concatenate([slots, np.zeros(Cell.LENGTH, np.int64), runs.ravel()])


def uniform_runs(sizes: Array) -> Array:
    """The ``UniformRun`` records of a packed sequence of these sizes."""
    begins = np.flatnonzero(np.diff(sizes, prepend=0))
    segments = np.empty((len(begins), UniformRun.LENGTH), np.int64)
    segments[:, UniformRun.BEGIN] = begins
    segments[:, UniformRun.STEPS] = np.diff(begins, append=len(sizes))
    segments[:, UniformRun.ROWS] = sizes[begins]
    segments[:, UniformRun.BEFORE] = (np.cumsum(sizes) - sizes)[begins]
    return segments


def _choose(config: Config, shape: Shape, sizes: Array | None, itemsize: int, limit: int) -> Schedule | None:
    """How at most ``limit`` threads share a call."""
    steps, rows, _ = shape
    packed_rows = 0 if sizes is None else rows
    return choose(config, steps, _rows(shape, sizes), itemsize, limit, settings.schedule, packed_rows)


def _alone(config: Config, shape: Shape, sizes: Array | None, itemsize: int) -> float:
    """The microseconds that one thread takes, about."""
    return microseconds(config, shape[0], _rows(shape, sizes), itemsize)


def _rows(shape: Shape, sizes: Array | None) -> int:
    """Rows of a step; of a packed sequence the average."""
    return shape[1] if sizes is None else -(-int(sizes.sum()) // shape[0])


def with_array_specs(plan: Plan, dtype: np.dtype[Any], shapes: Sequence[Shape]) -> Plan:
    """The plan for machine code that checks input, h_0 and c_0: C-contiguous arrays of these shapes."""
    slots = np.concatenate([plan.slots, np.zeros(len(shapes) * ArraySpec.LENGTH, np.int64)])
    slots[Header.TYPE], slots[Header.DTYPE] = id(np.ndarray), id(dtype)
    slots[Header.MISALIGNED], slots[Header.ARRAY_SPECS] = dtype.itemsize - 1, plan.slots.size
    for n, shape in enumerate(shapes):
        specify(slots[plan.slots.size + n * ArraySpec.LENGTH :], shape, dtype.itemsize)
    return plan._replace(slots=slots)


def specify(spec: Array, shape: Shape, itemsize: int) -> None:
    """Fill in an ``ArraySpec`` for a C-contiguous array of this shape."""
    strides = [itemsize * prod(shape[k + 1 :]) for k in range(len(shape))]
    spec[ArraySpec.NDIM] = len(shape)
    spec[ArraySpec.SIZE_0 : ArraySpec.SIZE_0 + len(shape)] = shape
    spec[ArraySpec.STRIDE_0 : ArraySpec.STRIDE_0 + len(shape)] = strides
