"""The entries of a stream: one step over states that are kept where they are.

A stream is an array of ``StreamSlots`` slots and a plan behind them, whose states before and after the step are the
same memory. ``step(stream)`` is for C and for Numba: 0, or 1 where another thread is in the stream, and then
nothing was done. ``live`` is what Python calls a built-in function bound to the array: without an argument
(``METH_NOARGS``) the same step, whose result is None; with an input (``METH_O``) as many steps as that has, whose
result is a new array, or None where the input is not what the stream is for or has too many. Where another
thread is in the stream it raises what the slots say. The plan's three ``ArraySpec`` records are what inputs of one, two
and three axes must be.

``exchange(flag, expected, value)`` is how Python keeps the stream to itself for longer: the flag as it was, and set if
that was expected. Who has set it to a value of his own can always put it back, and never another's.
"""

from llvmlite import ir
from numba import types

from .compiler import inline, standalone
from .cpython import ARRAY_SPEC, ask_pointer, call_pointer, new_array, of_its_kind
from .instructions import INT64, PLAN, address_of, instruction, load_slot, record_at, slots_at, store_slot, word_at
from .plan_layout import SELF_DATA, ArraySpec, Header, StreamSlots
from .work_queue import exchange as compare_and_set
from .work_queue import publish

STREAM_SLOTS = int(StreamSlots.LENGTH)
MOST_AXES = 3


@instruction(types.void, types.int64, types.int64, types.int64)
def set_error(builder, function, error, text):
    """Python's error, by ``PyErr_SetString``."""
    kind = ir.FunctionType(ir.VoidType(), [INT64, INT64]).as_pointer()
    builder.call(builder.inttoptr(function, kind), [error, text])


def streamed(forward):
    """``step(stream)``, ``live(self, input)`` and ``exchange(flag, expected, value)`` for a kernel."""

    @inline
    def enter(stream):
        """Whether nobody else is in the stream; from now on this thread is."""
        return compare_and_set(address_of(stream, StreamSlots.BUSY), 0, 1) == 0

    @inline
    def leave(stream):
        publish(address_of(stream, StreamSlots.BUSY), 0)

    def step(stream):
        if not enter(stream):
            return 1
        forward(record_at(stream, STREAM_SLOTS))
        leave(stream)
        return 0

    @inline
    def axes_of(plan, box):
        """How many axes an array that is right so far has, or 0."""
        if not of_its_kind(plan, box):
            return 0
        axes = word_at(box + load_slot(plan, Header.NDIM_AT)) & 0xFFFFFFFF
        return axes if axes <= MOST_AXES else 0

    @inline
    def steps_of(stream, plan, box, axes):
        """How many steps an array of so many axes has; 0 where its shape or its strides are wrong, or it has more."""
        want = record_at(plan, load_slot(plan, Header.ARRAY_SPECS) + (axes - 1) * ARRAY_SPEC)
        sizes, strides = (
            word_at(box + load_slot(plan, Header.SIZES_AT)),
            word_at(box + load_slot(plan, Header.STRIDES_AT)),
        )
        steps = 1
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
        """A new array of the sizes that ``steps_of`` has left, its numbers not set; or 0 and Python's error."""
        dtype = load_slot(plan, Header.DTYPE)
        call_pointer(load_slot(stream, StreamSlots.INCREF), dtype)
        sizes = address_of(stream, StreamSlots.SIZE_0)
        return new_array(load_slot(stream, StreamSlots.NEW_ARRAY), load_slot(plan, Header.TYPE), dtype, axes, sizes)

    @inline
    def run(stream, plan, steps):
        """So many steps, from ``INPUT`` to ``OUTPUT`` on."""
        let_go, thread = steps > load_slot(stream, StreamSlots.HELD_STEPS), 0
        if let_go:
            thread = ask_pointer(load_slot(stream, StreamSlots.SAVE_THREAD))
        while True:
            forward(plan)
            steps -= 1
            if steps == 0:
                break
            store_slot(plan, Header.INPUT, load_slot(plan, Header.INPUT) + load_slot(stream, StreamSlots.INPUT_STEP))
            store_slot(plan, Header.OUTPUT, load_slot(plan, Header.OUTPUT) + load_slot(stream, StreamSlots.OUTPUT_STEP))
        if let_go:
            call_pointer(load_slot(stream, StreamSlots.RESTORE_THREAD), thread)

    def live(self, x):
        stream = slots_at(word_at(self + SELF_DATA))
        plan = record_at(stream, STREAM_SLOTS)
        made, axes, steps = load_slot(plan, Header.NONE), 0, 0
        if x != 0:
            axes = axes_of(plan, x)
            if axes > 0:
                steps = steps_of(stream, plan, x, axes)
        if steps > 0:
            made = result(stream, plan, axes)
        else:
            call_pointer(load_slot(stream, StreamSlots.INCREF), made)
        if made == 0 or (x != 0 and steps == 0):
            return made
        if not enter(stream):
            call_pointer(load_slot(stream, StreamSlots.DECREF), made)
            set_error(
                load_slot(stream, StreamSlots.RAISE),
                load_slot(stream, StreamSlots.ERROR),
                load_slot(stream, StreamSlots.TEXT),
            )
            return 0
        if x != 0:
            data = load_slot(plan, Header.DATA_AT)
            store_slot(plan, Header.INPUT, word_at(x + data))
            store_slot(plan, Header.OUTPUT, word_at(made + data))
            run(stream, plan, steps)
            store_slot(plan, Header.INPUT, load_slot(stream, StreamSlots.INPUT))
            store_slot(plan, Header.OUTPUT, load_slot(stream, StreamSlots.OUTPUT))
        else:
            run(stream, plan, 1)
        leave(stream)
        return made

    def exchange(flag, expected, value):
        return compare_and_set(flag, expected, value)

    step, live, exchange = standalone(step), standalone(live), standalone(exchange)
    step.compile(types.int64(PLAN))
    live.compile(types.int64(types.int64, types.int64))
    exchange.compile(types.int64(types.int64, types.int64, types.int64))
    return step, live, exchange
