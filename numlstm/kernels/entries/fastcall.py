"""The entries for Python: addresses of arrays are read from the objects, and built-in functions check them too.

``bind(plan, arrays)`` takes the address of the tuple (input, h_0, c_0, output, h_n, c_n, panels) and writes the
addresses of their numbers into the plan; h_0 and c_0 may be None.

``fastcall`` is the C function of a built-in function (``METH_FASTCALL``) of input, hx and panels, bound to an array of
``Fastcall`` slots with a plan behind them. It checks the arrays, makes the results and returns (output, (h_n, c_n)), or
None if an argument is not what the plan is for. Between the last check and the kernel nothing of Python runs, neither
another thread nor the collector. A short call holds the GIL to its end, so that its plan has one user at a time. A long
one drops the GIL while the kernel runs; ``BUSY`` makes it return None in another thread meanwhile.
"""

from llvmlite import ir
from numba import types

from ..compiler import Kernel, inline, standalone
from ..instructions import (
    INT64,
    PLAN,
    address_of,
    instruction,
    load_slot,
    record_at,
    set_word,
    slots_at,
    store_slot,
    word_at,
)
from ..plan_layout import SELF_DATA, ArraySpec, Fastcall, Header
from ..work_queue import exchange as compare_and_set
from ..work_queue import publish

ARRAYS = 7
ARRAY_SPEC = int(ArraySpec.LENGTH)
FASTCALL = int(Fastcall.LENGTH)
INT32 = ir.IntType(32)


def _function(builder, address, *kinds):
    return builder.inttoptr(address, ir.FunctionType(INT64, kinds).as_pointer())


@instruction(types.int64, types.int64, types.int64)
def call_pointer(builder, function, argument):
    """Call the C function at an address with one word."""
    return builder.call(_function(builder, function, INT64), [argument])


@instruction(types.int64, types.int64)
def ask_pointer(builder, function):
    """Call the C function at an address without arguments; its result is a word."""
    return builder.call(_function(builder, function), [])


@instruction(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64)
def new_array(builder, function, kind, dtype, ndim, sizes):
    """A new C-contiguous array, by ``PyArray_NewFromDescr``, which takes a reference to the dtype."""
    null, none = INT64(0), INT32(0)
    function = _function(builder, function, INT64, INT64, INT32, INT64, INT64, INT64, INT32, INT64)
    return builder.call(function, [kind, dtype, builder.trunc(ndim, INT32), sizes, null, null, none, null])


@inline
def of_its_kind(plan, array):
    """Whether the object is an array of the expected type, dtype and alignment."""
    if word_at(array + load_slot(plan, Header.TYPE_AT)) != load_slot(plan, Header.TYPE):
        return False
    if word_at(array + load_slot(plan, Header.DTYPE_AT)) != load_slot(plan, Header.DTYPE):
        return False
    return word_at(array + load_slot(plan, Header.DATA_AT)) & load_slot(plan, Header.MISALIGNED) == 0


@inline
def fits(plan, array, want):
    """Whether the object is such an array with the expected sizes and strides."""
    if not of_its_kind(plan, array):
        return False
    ndim = load_slot(want, ArraySpec.NDIM)
    if word_at(array + load_slot(plan, Header.NDIM_AT)) & 0xFFFFFFFF != ndim:
        return False
    sizes, strides = (
        word_at(array + load_slot(plan, Header.SIZES_AT)),
        word_at(array + load_slot(plan, Header.STRIDES_AT)),
    )
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


def python_entries(forward: Kernel) -> tuple[Kernel, Kernel]:
    """``bind(plan, arrays)`` and ``fastcall(self, arguments, count)`` for a kernel."""

    def bind(plan, arrays):
        items, none = arrays + load_slot(plan, Header.ITEMS_AT), load_slot(plan, Header.NONE)
        for n in range(ARRAYS):
            array = word_at(items + 8 * n)
            data = 0
            if array != none:
                data = word_at(array + load_slot(plan, Header.DATA_AT))
            store_slot(plan, Header.INPUT + n, data)

    @inline
    def run(record, plan):
        """Run the kernel, without the GIL if the call is long."""
        save_thread = load_slot(record, Fastcall.SAVE_THREAD)
        if save_thread == 0:
            forward(plan)
        else:
            thread = ask_pointer(save_thread)
            forward(plan)
            publish(address_of(record, Fastcall.BUSY), 0)
            call_pointer(load_slot(record, Fastcall.RESTORE_THREAD), thread)

    def fastcall(self, arguments, count):
        record = slots_at(word_at(self + SELF_DATA))
        plan = record_at(record, FASTCALL)
        if count != 3:
            return declined(record, plan)
        x, hx, panels = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
        specs, items, data = (
            load_slot(plan, Header.ARRAY_SPECS),
            load_slot(plan, Header.ITEMS_AT),
            load_slot(plan, Header.DATA_AT),
        )
        if not fits(plan, x, record_at(plan, specs)):
            return declined(record, plan)
        with_states = hx != load_slot(plan, Header.NONE)
        if with_states:
            if word_at(hx + load_slot(plan, Header.TYPE_AT)) != load_slot(record, Fastcall.TUPLE):
                return declined(record, plan)
            if word_at(hx + load_slot(record, Fastcall.COUNT_AT)) != 2:
                return declined(record, plan)
        y = result(record, plan, 0)
        h_n, c_n = 0, 0
        if y != 0:
            h_n = result(record, plan, 1)
        if h_n != 0:
            c_n = result(record, plan, 2)
        results = pair(record, plan, y, pair(record, plan, h_n, c_n))
        if results == 0:
            return 0
        # All checked only now: a new tuple may set off the collector, and with it code that changes an array, be it
        # one of the new states, which the collector knows of by their tuple.
        right = fits(plan, x, record_at(plan, specs))
        right = right and fits(plan, h_n, record_at(plan, specs + ARRAY_SPEC))
        right = right and fits(plan, c_n, record_at(plan, specs + 2 * ARRAY_SPEC))
        h_0, c_0 = 0, 0
        if with_states:
            h, c = word_at(hx + items), word_at(hx + items + 8)
            right = right and fits(plan, h, record_at(plan, specs + ARRAY_SPEC))
            right = right and fits(plan, c, record_at(plan, specs + 2 * ARRAY_SPEC))
            if right:
                h_0, c_0 = word_at(h + data), word_at(c + data)
        if right and load_slot(record, Fastcall.SAVE_THREAD) != 0:
            right = compare_and_set(address_of(record, Fastcall.BUSY), 0, 1) == 0
        if not right:
            call_pointer(load_slot(record, Fastcall.DECREF), results)
            return declined(record, plan)
        store_slot(plan, Header.INPUT, word_at(x + data))
        store_slot(plan, Header.H_0, h_0)
        store_slot(plan, Header.C_0, c_0)
        store_slot(plan, Header.OUTPUT, word_at(y + data))
        store_slot(plan, Header.H_N, word_at(h_n + data))
        store_slot(plan, Header.C_N, word_at(c_n + data))
        store_slot(plan, Header.PANELS, word_at(panels + data))
        run(record, plan)
        return results

    bind, fastcall = standalone(bind), standalone(fastcall)
    bind.compile(types.void(PLAN, types.int64))
    fastcall.compile(types.int64(types.int64, types.int64, types.int64))
    return bind, fastcall
