"""The entries of a stream: one step over states that are kept where they are.

A stream is an array of ``Live`` slots and a plan behind them, whose states before and after the step are the same
memory. ``step(stream)`` is for C and for Numba: 0, or 1 where another thread is in the stream, and then
nothing was done. ``live`` is what Python calls a built-in function bound to the array: without an argument
(``METH_NOARGS``) the same step, whose result is None; with an input (``METH_O``) a step over that, whose
result is a new array, or None where the input is not what the stream is for. Where another
thread is in the stream it raises what the slots say.

``exchange(flag, expected, value)`` is how Python keeps the stream to itself for longer: the flag as it was, and set if
that was expected. Who has set it to a value of his own can always put it back, and never another's.
"""

from llvmlite import ir
from numba import types

from .abi import SELF_DATA, Header, Live
from .call import BOX, address_of, call_pointer, fits, new_array, slots_at
from .compiler import inline, standalone
from .simd import INT64, PLAN, get, instruction, put, record_at, word_at
from .tickets import exchange as compare_and_set
from .tickets import publish

LIVE = int(Live.LENGTH)
MOST_AXES = 3


@instruction(types.int64, types.int64)
def ask_pointer(builder, function):
    """Call the C function at an address; it takes nothing and gives a word."""
    return builder.call(builder.inttoptr(function, ir.FunctionType(INT64, []).as_pointer()), [])


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
        return compare_and_set(address_of(stream, Live.BUSY), 0, 1) == 0

    @inline
    def leave(stream):
        publish(address_of(stream, Live.BUSY), 0)

    def step(stream):
        if not enter(stream):
            return 1
        forward(record_at(stream, LIVE))
        leave(stream)
        return 0

    @inline
    def axes_of(plan, box):
        """How many axes an array has; 0 for what is no array."""
        if word_at(box + get(plan, Header.TYPE_AT)) != get(plan, Header.TYPE):
            return 0
        return word_at(box + get(plan, Header.NDIM_AT)) & 0xFFFFFFFF

    @inline
    def result(stream, plan, axes):
        """A new array for the output of a step with so many axes, its numbers not set; or 0 and Python's error."""
        dtype, want = get(plan, Header.DTYPE), record_at(stream, Live.RESULTS + (axes - 1) * BOX)
        call_pointer(get(stream, Live.KEEP), dtype)
        kind, sizes = get(plan, Header.TYPE), address_of(want, 1)
        return new_array(get(stream, Live.NEW_ARRAY), kind, dtype, axes, sizes)

    def live(self, x):
        stream = slots_at(word_at(self + SELF_DATA))
        plan = record_at(stream, LIVE)
        made = get(stream, Live.NONE)
        given = False
        if x != 0:
            axes = axes_of(plan, x)
            given = 0 < axes <= MOST_AXES
            given = given and fits(plan, x, record_at(plan, get(plan, Header.BOXES) + (axes - 1) * BOX))
        if given:
            made = result(stream, plan, axes)
        else:
            call_pointer(get(stream, Live.KEEP), made)
        if made == 0 or given != (x != 0):
            return made
        if not enter(stream):
            call_pointer(get(stream, Live.DROP), made)
            set_error(get(stream, Live.RAISE), get(stream, Live.ERROR), get(stream, Live.TEXT))
            return 0
        if given:
            data = get(plan, Header.DATA_AT)
            put(plan, Header.INPUT, word_at(x + data))
            put(plan, Header.OUTPUT, word_at(made + data))
        save, thread = get(stream, Live.SAVE), 0
        if save != 0:
            thread = ask_pointer(save)
        forward(plan)
        if save != 0:
            call_pointer(get(stream, Live.RESTORE), thread)
        put(plan, Header.INPUT, get(stream, Live.INPUT))
        put(plan, Header.OUTPUT, get(stream, Live.OUTPUT))
        leave(stream)
        return made

    def exchange(flag, expected, value):
        return compare_and_set(flag, expected, value)

    step, live, exchange = standalone(step), standalone(live), standalone(exchange)
    step.compile(types.int64(PLAN))
    live.compile(types.int64(types.int64, types.int64))
    exchange.compile(types.int64(types.int64, types.int64, types.int64))
    return step, live, exchange
