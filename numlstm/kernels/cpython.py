"""The entries for Python: arrays are taken as objects, checked where they lie, and their plan is run.

For ``call``, ``boxes`` is the address of the tuple (input, h_0, c_0, output, h_n, c_n, panels); h_0 and c_0 may both
be absent. The plan says where objects keep their parts and, if ``CHECKED``, what the first three must be. Nothing is
written before all is found right; the result is 0, or the number of the first array that is not what the plan is for.

``quick`` is what Python calls a built-in function (``METH_FASTCALL``), of input, hx and panels, bound to an array of
``Fastcall`` slots and a plan. Its result is (output, (h_n, c_n)), which it makes itself, or None where an
argument is not what the plan is for. It holds the GIL throughout: from the last look at the arrays to the end nothing
of Python runs, neither another thread nor the collector, so that the plan has one user at a time.
"""

from llvmlite import ir
from numba import types

from .compiler import inline, standalone
from .instructions import (
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
from .plan_layout import SELF_DATA, ArraySpec, Fastcall, Header

ARRAYS = 7
CHECKED_ARRAYS = 3
ARRAY_SPEC = int(ArraySpec.LENGTH)
FASTCALL = int(Fastcall.LENGTH)
INT32 = ir.IntType(32)


def _function(builder, address, *kinds):
    return builder.inttoptr(address, ir.FunctionType(INT64, kinds).as_pointer())


@instruction(types.int64, types.int64, types.int64)
def call_pointer(builder, function, argument):
    """Call the C function at an address with one word; where it returns nothing, so does this."""
    return builder.call(_function(builder, function, INT64), [argument])


@instruction(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64)
def new_array(builder, function, kind, dtype, ndim, sizes):
    """A new C-contiguous array, by ``PyArray_NewFromDescr``, which takes over a reference to the dtype."""
    null, none = INT64(0), INT32(0)
    function = _function(builder, function, INT64, INT64, INT32, INT64, INT64, INT64, INT32, INT64)
    return builder.call(function, [kind, dtype, builder.trunc(ndim, INT32), sizes, null, null, none, null])


@inline
def of_its_kind(plan, box):
    """Whether the object is an array of the expected type, dtype and alignment."""
    if word_at(box + load_slot(plan, Header.TYPE_AT)) != load_slot(plan, Header.TYPE):
        return False
    if word_at(box + load_slot(plan, Header.DTYPE_AT)) != load_slot(plan, Header.DTYPE):
        return False
    return word_at(box + load_slot(plan, Header.DATA_AT)) & load_slot(plan, Header.MISALIGNED) == 0


@inline
def fits(plan, box, want):
    """Whether it is one of the expected sizes and strides besides."""
    if not of_its_kind(plan, box):
        return False
    ndim = load_slot(want, ArraySpec.NDIM)
    if word_at(box + load_slot(plan, Header.NDIM_AT)) & 0xFFFFFFFF != ndim:
        return False
    sizes, strides = word_at(box + load_slot(plan, Header.SIZES_AT)), word_at(box + load_slot(plan, Header.STRIDES_AT))
    for k in range(ndim):
        size = load_slot(want, ArraySpec.SIZE_0 + k)
        if word_at(sizes + 8 * k) != size:
            return False
        if size != 1 and word_at(strides + 8 * k) != load_slot(want, ArraySpec.STRIDE_0 + k):
            return False
    return True


def boxed(forward):
    """``call(plan, boxes)`` and ``quick(self, arguments, count)`` for a kernel."""

    def call(plan, boxes):
        items, absent = boxes + load_slot(plan, Header.ITEMS_AT), load_slot(plan, Header.ABSENT)
        if load_slot(plan, Header.CHECKED) != 0:
            if (word_at(items + 8) == absent) != (word_at(items + 16) == absent):
                return 2
            for n in range(CHECKED_ARRAYS):
                box = word_at(items + 8 * n)
                want = record_at(plan, load_slot(plan, Header.ARRAY_SPECS) + n * ARRAY_SPEC)
                if (n == 0 or box != absent) and not fits(plan, box, want):
                    return n + 1
        for n in range(ARRAYS):
            box = word_at(items + 8 * n)
            data = 0
            if box != absent:
                data = word_at(box + load_slot(plan, Header.DATA_AT))
            store_slot(plan, Header.INPUT + n, data)
        forward(plan)
        return 0

    @inline
    def refused(record):
        """A new reference to None: the call must go another way."""
        none = load_slot(record, Fastcall.NONE)
        call_pointer(load_slot(record, Fastcall.KEEP), none)
        return none

    @inline
    def result(record, plan, n):
        """A new array for the result of that number, its numbers not set; or 0 and Python's error."""
        want, dtype = record_at(record, Fastcall.RESULTS + n * ARRAY_SPEC), load_slot(plan, Header.DTYPE)
        call_pointer(load_slot(record, Fastcall.KEEP), dtype)
        sizes, ndim = address_of(want, ArraySpec.SIZE_0), load_slot(want, ArraySpec.NDIM)
        return new_array(load_slot(record, Fastcall.NEW_ARRAY), load_slot(plan, Header.TYPE), dtype, ndim, sizes)

    @inline
    def pair(record, plan, first, second):
        """The tuple of two new objects, which it takes over; 0 and Python's error, where one is 0 too."""
        made = 0
        if first != 0 and second != 0:
            made = call_pointer(load_slot(record, Fastcall.NEW_TUPLE), 2)
        if made == 0:
            call_pointer(load_slot(record, Fastcall.DROP), first)
            call_pointer(load_slot(record, Fastcall.DROP), second)
            return 0
        items = made + load_slot(plan, Header.ITEMS_AT)
        set_word(items, first)
        set_word(items + 8, second)
        return made

    def fastcall(self, arguments, count):
        record = slots_at(word_at(self + SELF_DATA))
        plan = record_at(record, FASTCALL)
        if count != 3:
            return refused(record)
        x, hx, panels = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
        boxes, items, data = (
            load_slot(plan, Header.ARRAY_SPECS),
            load_slot(plan, Header.ITEMS_AT),
            load_slot(plan, Header.DATA_AT),
        )
        if not fits(plan, x, record_at(plan, boxes)):
            return refused(record)
        with_states = hx != load_slot(record, Fastcall.NONE)
        if with_states:
            if word_at(hx + load_slot(plan, Header.TYPE_AT)) != load_slot(record, Fastcall.TUPLE):
                return refused(record)
            if word_at(hx + load_slot(record, Fastcall.COUNT_AT)) != 2:
                return refused(record)
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
        right = fits(plan, x, record_at(plan, boxes))
        right = right and fits(plan, h_n, record_at(plan, boxes + ARRAY_SPEC))
        right = right and fits(plan, c_n, record_at(plan, boxes + 2 * ARRAY_SPEC))
        h_0, c_0 = 0, 0
        if with_states:
            h, c = word_at(hx + items), word_at(hx + items + 8)
            right = right and fits(plan, h, record_at(plan, boxes + ARRAY_SPEC))
            right = right and fits(plan, c, record_at(plan, boxes + 2 * ARRAY_SPEC))
            if right:
                h_0, c_0 = word_at(h + data), word_at(c + data)
        if not right:
            call_pointer(load_slot(record, Fastcall.DROP), results)
            return refused(record)
        store_slot(plan, Header.INPUT, word_at(x + data))
        store_slot(plan, Header.H_0, h_0)
        store_slot(plan, Header.C_0, c_0)
        store_slot(plan, Header.OUTPUT, word_at(y + data))
        store_slot(plan, Header.H_N, word_at(h_n + data))
        store_slot(plan, Header.C_N, word_at(c_n + data))
        store_slot(plan, Header.PANELS, word_at(panels + data))
        forward(plan)
        return results

    call, fastcall = standalone(call), standalone(fastcall)
    call.compile(types.int64(PLAN, types.int64))
    fastcall.compile(types.int64(types.int64, types.int64, types.int64))
    return call, fastcall
