"""The entries for Python: addresses of arrays are read from the objects, and built-in functions check them too.

``bind(plan, arrays)`` takes the address of the tuple (input, h_0, c_0, output, h_n, c_n, panels) and writes the
addresses of their numbers into the plan; h_0 and c_0 may be None.

``fastcall`` is the C function of a built-in function (``METH_FASTCALL``) of input, hx and panels, bound to an array of
``Fastcall`` slots with a plan behind them. It checks the arrays, makes the results and returns (output, (h_n, c_n)), or
None if an argument is not what the plan is for. Between the last check and the kernel nothing of Python runs, neither
another thread nor the collector. A short call holds the GIL to its end, so that its plan has one user at a time. A long
one drops the GIL while the kernel runs; ``BUSY`` makes it return None in another thread meanwhile.
"""

from numba import types

from ..compiler import Kernel, inline, standalone
from ..instructions import PLAN, address_of, load_slot, record_at, set_word, slots_at, store_slot, word_at
from ..plan_layout import BIND, FASTCALL, SELF_DATA, ArraySpec, Fastcall, Header
from ..work_queue import exchange as compare_and_set
from ..work_queue import publish
from .objects import ARRAY_SPEC, ask_pointer, axes_of, call_pointer, data_of, new_array, of_its_kind, spec

ARRAYS = 7
RECORD = int(Fastcall.LENGTH)


def fastcall_entries(forward: Kernel) -> dict[str, Kernel]:
    """``bind(plan, arrays)`` and ``fastcall(self, arguments, count)`` of a kernel, by C name."""
    return {BIND: bind_entry(), FASTCALL: fastcall_entry(forward)}


def bind_entry() -> Kernel:
    """``bind(plan, arrays)``."""

    def bind(plan, arrays):
        items, none = arrays + load_slot(plan, Header.ITEMS_AT), load_slot(plan, Header.NONE)
        for n in range(ARRAYS):
            array = word_at(items + 8 * n)
            data = 0
            if array != none:
                data = data_of(plan, array)
            store_slot(plan, Header.INPUT + n, data)

    entry = standalone(bind)
    entry.compile(types.void(PLAN, types.int64))
    return entry


def fastcall_entry(forward: Kernel) -> Kernel:
    """``fastcall(self, arguments, count)``."""
    run = long_or_short(forward)

    def fastcall(self, arguments, count):
        record = slots_at(word_at(self + SELF_DATA))
        plan = record_at(record, RECORD)
        if count != 3:
            return declined(record, plan)
        x, hx, panels = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
        if not fits(plan, x, spec(plan, 0)):
            return declined(record, plan)
        with_states = hx != load_slot(plan, Header.NONE)
        if with_states and not is_pair(record, plan, hx):
            return declined(record, plan)
        y, h_n, c_n, results = new_results(record, plan)
        if results == 0:
            return 0
        # All checked only now: a new tuple may set off the collector, and with it code that changes an array, be it
        # one of the new states, which the collector knows of by their tuple.
        right = fits(plan, x, spec(plan, 0)) and states_fit(plan, h_n, c_n)
        h_0, c_0 = 0, 0
        if with_states:
            items = hx + load_slot(plan, Header.ITEMS_AT)
            h, c = word_at(items), word_at(items + 8)
            right = right and states_fit(plan, h, c)
            if right:
                h_0, c_0 = data_of(plan, h), data_of(plan, c)
        if right and load_slot(record, Fastcall.SAVE_THREAD) != 0:
            right = compare_and_set(address_of(record, Fastcall.BUSY), 0, 1) == 0
        if not right:
            call_pointer(load_slot(record, Fastcall.DECREF), results)
            return declined(record, plan)
        store_slot(plan, Header.INPUT, data_of(plan, x))
        store_slot(plan, Header.H_0, h_0)
        store_slot(plan, Header.C_0, c_0)
        store_slot(plan, Header.OUTPUT, data_of(plan, y))
        store_slot(plan, Header.H_N, data_of(plan, h_n))
        store_slot(plan, Header.C_N, data_of(plan, c_n))
        store_slot(plan, Header.PANELS, data_of(plan, panels))
        run(record, plan)
        return results

    entry = standalone(fastcall)
    entry.compile(types.int64(types.int64, types.int64, types.int64))
    return entry


def long_or_short(forward: Kernel) -> Kernel:
    """``run(record, plan)``: run the kernel, without the GIL if the call is long."""

    @inline
    def run(record, plan):
        save_thread = load_slot(record, Fastcall.SAVE_THREAD)
        if save_thread == 0:
            forward(plan)
        else:
            thread = ask_pointer(save_thread)
            forward(plan)
            publish(address_of(record, Fastcall.BUSY), 0)
            call_pointer(load_slot(record, Fastcall.RESTORE_THREAD), thread)

    return run


@inline
def fits(plan, array, want):
    """Whether the object is an array of the expected kind, sizes and strides."""
    if not of_its_kind(plan, array):
        return False
    ndim = load_slot(want, ArraySpec.NDIM)
    if axes_of(plan, array) != ndim:
        return False
    sizes = word_at(array + load_slot(plan, Header.SIZES_AT))
    strides = word_at(array + load_slot(plan, Header.STRIDES_AT))
    for k in range(ndim):
        size = load_slot(want, ArraySpec.SIZE_0 + k)
        if word_at(sizes + 8 * k) != size:
            return False
        if size != 1 and word_at(strides + 8 * k) != load_slot(want, ArraySpec.STRIDE_0 + k):
            return False
    return True


@inline
def declined(record, plan):
    """A new reference to None: the executor must run the call."""
    none = load_slot(plan, Header.NONE)
    call_pointer(load_slot(record, Fastcall.INCREF), none)
    return none


@inline
def result(record, plan, n):
    """A new array for the result of that number, its numbers not set; or 0 and Python's error."""
    want, dtype = record_at(record, Fastcall.RESULTS + n * ARRAY_SPEC), load_slot(plan, Header.DTYPE)
    call_pointer(load_slot(record, Fastcall.INCREF), dtype)
    sizes, ndim = address_of(want, ArraySpec.SIZE_0), load_slot(want, ArraySpec.NDIM)
    return new_array(load_slot(record, Fastcall.NEW_ARRAY), load_slot(plan, Header.TYPE), dtype, ndim, sizes)


@inline
def pair(record, plan, first, second):
    """The tuple of two new objects, which it takes over; 0 and Python's error, where one is 0 too."""
    made = 0
    if first != 0 and second != 0:
        made = call_pointer(load_slot(record, Fastcall.NEW_TUPLE), 2)
    if made == 0:
        call_pointer(load_slot(record, Fastcall.DECREF), first)
        call_pointer(load_slot(record, Fastcall.DECREF), second)
        return 0
    items = made + load_slot(plan, Header.ITEMS_AT)
    set_word(items, first)
    set_word(items + 8, second)
    return made


@inline
def states_fit(plan, h, c):
    """Whether h and c are arrays with the expected sizes and strides."""
    return fits(plan, h, spec(plan, 1)) and fits(plan, c, spec(plan, 2))


@inline
def is_pair(record, plan, value):
    """Whether the object is a tuple of two."""
    if word_at(value + load_slot(plan, Header.TYPE_AT)) != load_slot(record, Fastcall.TUPLE):
        return False
    return word_at(value + load_slot(record, Fastcall.COUNT_AT)) == 2


@inline
def new_results(record, plan):
    """New arrays output, h_n and c_n, and the tuple (output, (h_n, c_n)), which is 0 where Python has an error."""
    y = result(record, plan, 0)
    h_n, c_n = 0, 0
    if y != 0:
        h_n = result(record, plan, 1)
    if h_n != 0:
        c_n = result(record, plan, 2)
    return y, h_n, c_n, pair(record, plan, y, pair(record, plan, h_n, c_n))
