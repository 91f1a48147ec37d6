"""The entries of a stream: one step on states that are kept in place.

A stream is an array of ``StreamSlots`` slots with a plan behind them, whose states before and after a step are the same
memory. ``step(stream)`` is for C and Numba. It returns 0. If another thread is in the stream, it returns 1, and if the
stream is another kernel's, 2; then it does nothing.

``stream`` is the C function of two built-in functions bound to the array. Without an argument (``METH_NOARGS``) it
runs one step and returns None. With an input (``METH_O``) it runs all its steps and returns a new array, or None if the
input has another kind, shape or too many steps; the plan's three ``ArraySpec`` records are for inputs of one, two and
three axes. If another thread is in the stream, it raises the exception in the slots.

``exchange(flag, expected, value)`` lets Python keep the stream to itself for longer: it sets the flag if that was as
expected, and returns the value before. A caller that sets a value of its own can always reset it, and never another's.
"""

from numba import types

from ..compiler import Kernel, inline, standalone
from ..instructions import PLAN, address_of, load_slot, record_at, slots_at, store_slot, word_at
from ..plan_layout import EXCHANGE, KEPT, SELF_DATA, STEP, STREAM_ENTRY, ArraySpec, Header, StreamSlots
from ..work_queue import exchange as compare_and_set
from ..work_queue import publish
from .objects import ask_pointer, axes_of, call_pointer, data_of, new_array, of_its_kind, set_error, spec

RECORD = int(StreamSlots.LENGTH)
MOST_AXES = 3


def stream_entries(forward: Kernel, run_heads: Kernel, tag: int) -> dict[str, Kernel]:
    """``step(stream)``, ``stream(self, input)`` and ``exchange(flag, expected, value)``, by C name."""
    run = one_step(forward, run_heads)
    return {STEP: step_entry(run, tag), STREAM_ENTRY: stream_entry(run), EXCHANGE: exchange_entry()}


def one_step(forward: Kernel, run_heads: Kernel) -> Kernel:
    """``run(stream, plan, target)``: a step; where a head follows, from ``OUTPUT`` to the address ``target``."""

    @inline
    def run(stream, plan, target):
        forward(plan)
        store_slot(plan, Header.H_0, KEPT)
        head = load_slot(stream, StreamSlots.HEAD)
        if head != 0:
            source, given = load_slot(plan, Header.OUTPUT), load_slot(plan, Header.INPUT)
            run_heads(slots_at(head), source, target, load_slot(plan, Header.ROWS), given)

    return run


def step_entry(run: Kernel, tag: int) -> Kernel:
    """``step(stream)``."""

    def step(stream):
        if load_slot(stream, StreamSlots.KERNEL) != tag:
            return 2
        if not enter(stream):
            return 1
        plan = record_at(stream, RECORD)
        run(stream, plan, load_slot(stream, StreamSlots.OUTPUT))
        leave(stream)
        return 0

    entry = standalone(step)
    entry.compile(types.int64(PLAN))
    return entry


def stream_entry(run_step: Kernel) -> Kernel:
    """``stream(self, input)``."""
    run = steps_in_turn(run_step)

    def stream_call(self, x):
        stream = slots_at(word_at(self + SELF_DATA))
        plan = record_at(stream, RECORD)
        made, axes, steps = load_slot(plan, Header.NONE), 0, 0
        if x != 0 and of_its_kind(plan, x):
            axes = axes_of(plan, x)
            if 0 < axes <= MOST_AXES:
                steps = steps_of(stream, plan, x, axes)
        if steps > 0:
            made = result(stream, plan, axes)
        else:
            call_pointer(load_slot(stream, StreamSlots.INCREF), made)
        if made == 0 or (x != 0 and steps == 0):
            return made
        if not enter(stream):
            call_pointer(load_slot(stream, StreamSlots.DECREF), made)
            raise_busy(stream)
            return 0
        if x != 0:
            own = load_slot(plan, Header.OUTPUT)
            store_slot(plan, Header.INPUT, data_of(plan, x))
            run(stream, plan, steps, data_of(plan, made))
            store_slot(plan, Header.INPUT, load_slot(stream, StreamSlots.INPUT))
            store_slot(plan, Header.OUTPUT, own)
        else:
            run(stream, plan, 1, load_slot(stream, StreamSlots.OUTPUT))
        leave(stream)
        return made

    entry = standalone(stream_call)
    entry.compile(types.int64(types.int64, types.int64))
    return entry


def exchange_entry() -> Kernel:
    """``exchange(flag, expected, value)``."""

    def exchange(flag, expected, value):
        return compare_and_set(flag, expected, value)

    entry = standalone(exchange)
    entry.compile(types.int64(types.int64, types.int64, types.int64))
    return entry


def steps_in_turn(run_step: Kernel) -> Kernel:
    """``run(stream, plan, steps, target)``: some steps from ``INPUT`` to ``target`` on, without the GIL if many."""

    @inline
    def run(stream, plan, steps, target):
        drops_gil, thread = steps > load_slot(stream, StreamSlots.HELD_STEPS), 0
        if drops_gil:
            thread = ask_pointer(load_slot(stream, StreamSlots.SAVE_THREAD))
        while True:
            if load_slot(stream, StreamSlots.HEAD) == 0:
                store_slot(plan, Header.OUTPUT, target)
            run_step(stream, plan, target)
            steps -= 1
            if steps == 0:
                break
            store_slot(plan, Header.INPUT, load_slot(plan, Header.INPUT) + load_slot(stream, StreamSlots.INPUT_STEP))
            target += load_slot(stream, StreamSlots.OUTPUT_STEP)
        if drops_gil:
            call_pointer(load_slot(stream, StreamSlots.RESTORE_THREAD), thread)

    return run


@inline
def enter(stream):
    """Enter the stream; False if another thread is in it."""
    return compare_and_set(address_of(stream, StreamSlots.BUSY), 0, 1) == 0


@inline
def leave(stream):
    publish(address_of(stream, StreamSlots.BUSY), 0)


@inline
def raise_busy(stream):
    """Set the error that says that another thread is in the stream."""
    error, text = load_slot(stream, StreamSlots.ERROR), load_slot(stream, StreamSlots.TEXT)
    set_error(load_slot(stream, StreamSlots.RAISE), error, text)


@inline
def steps_of(stream, plan, array, axes):
    """Steps of an array of so many axes; 0 if its shape or strides are wrong, or there are too many steps."""
    want, steps = spec(plan, axes - 1), 1
    sizes = word_at(array + load_slot(plan, Header.SIZES_AT))
    strides = word_at(array + load_slot(plan, Header.STRIDES_AT))
    if load_slot(want, ArraySpec.NDIM) != axes:
        return 0
    for k in range(axes):
        size, wanted = word_at(sizes + 8 * k), load_slot(want, ArraySpec.SIZE_0 + k)
        if wanted == 0:
            steps = size
        elif size != wanted:
            return 0
        if size != 1 and word_at(strides + 8 * k) != load_slot(want, ArraySpec.STRIDE_0 + k):
            return 0
        store_slot(stream, StreamSlots.SIZE_0 + k, size)
    store_slot(stream, StreamSlots.SIZE_0 + axes - 1, load_slot(stream, StreamSlots.OUTPUTS))
    return steps if steps <= load_slot(stream, StreamSlots.MOST_STEPS) else 0


@inline
def result(stream, plan, axes):
    """A new uninitialised array of the sizes that ``steps_of`` has stored; or 0 and Python's error."""
    dtype = load_slot(plan, Header.DTYPE)
    call_pointer(load_slot(stream, StreamSlots.INCREF), dtype)
    sizes = address_of(stream, StreamSlots.SIZE_0)
    return new_array(load_slot(stream, StreamSlots.NEW_ARRAY), load_slot(plan, Header.TYPE), dtype, axes, sizes)
