"""A packed sequence in one layer and direction: uniform runs, each of them a sequence of its own.

A uniform run is steps of the same number of rows; rows never increase. Layout: the rows of a step stand one behind the
other, and so do the steps. Between two uniform runs the states are in h_n and c_n: rows that have ended keep theirs
there, and in reverse, rows that begin later find their initial one.
"""

from __future__ import annotations

from .compiler import Kernel, inline, named
from .instructions import bump_counter, load_slot, record_at, smaller, store_slot
from .plan_layout import KEPT, Cell, Header, UniformRun

CELL, UNIFORM_RUN = int(Cell.LENGTH), int(UniformRun.LENGTH)


@inline
def place_steps(uniform_run, back, cell, own, at_slot, step_slot, row_slot):
    """Set where the first step of a uniform run stands, and the distance to the next one."""
    step = load_slot(cell, step_slot)
    if step == 0:
        step = load_slot(uniform_run, UniformRun.ROWS) * load_slot(cell, row_slot)
        at = load_slot(cell, at_slot) + load_slot(uniform_run, UniformRun.BEFORE) * load_slot(cell, row_slot)
    else:
        at = load_slot(cell, at_slot) + load_slot(uniform_run, UniformRun.BEGIN) * step
    if back:
        at += (load_slot(uniform_run, UniformRun.STEPS) - 1) * step
        step = -step
    store_slot(own, at_slot, at)
    store_slot(own, step_slot, step)


@inline
def set_cell(uniform_run, back, rows, cell, own):
    """Make ``own`` the record of the cell for one uniform run."""
    place_steps(uniform_run, back, cell, own, Cell.SOURCE_AT, Cell.SOURCE_STEP, Cell.SOURCE_ROW)
    place_steps(uniform_run, back, cell, own, Cell.TARGET_AT, Cell.TARGET_STEP, Cell.TARGET_ROW)
    place_steps(uniform_run, back, cell, own, Cell.TAPE_CELL, Cell.TAPE_STEP, Cell.TAPE_ROW)
    hoist = 0
    if rows <= load_slot(cell, Cell.HOIST_ROWS):
        hoist = load_slot(cell, Cell.HOIST) // rows
    store_slot(own, Cell.HOIST, hoist)


def packed_runner(name: str, run_cell: Kernel, initial_states: Kernel) -> Kernel:
    """``run_packed(plan, cell, first, rows, phase) -> next phase``: all steps of a cell, by ``run_cell``."""

    @named(name)
    def run_packed(plan, cell, first, rows, phase):
        h_0, steps = load_slot(plan, Header.H_0), load_slot(plan, Header.STEPS)
        phase = initial_states(plan, phase, rows, cell, first)
        store_slot(plan, Header.H_0, KEPT)
        own = record_at(plan, load_slot(plan, Header.PACKED))
        for slot in range(CELL):
            store_slot(own, slot, load_slot(cell, slot))
        back, count = load_slot(cell, Cell.BACK) > 0, load_slot(plan, Header.UNIFORM_RUN_COUNT)
        for n in range(count):
            at = count - 1 - n if back else n
            uniform_run = record_at(own, CELL + at * UNIFORM_RUN)
            rows_of_run = smaller(rows, load_slot(uniform_run, UniformRun.ROWS) - first)
            if rows_of_run > 0:
                bump_counter(plan, Header.UNIFORM_RUNS)
                set_cell(uniform_run, back, rows_of_run, cell, own)
                steps_of_run = load_slot(uniform_run, UniformRun.STEPS)
                store_slot(plan, Header.STEPS, steps_of_run)
                phase = run_cell(plan, own, first, rows_of_run, 0, steps_of_run, phase)
        store_slot(plan, Header.H_0, h_0)
        store_slot(plan, Header.STEPS, steps)
        return phase

    return run_packed
