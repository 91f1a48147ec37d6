"""The entries for Python: both passes of a small call as built-in functions, over memory that the call has leased.

``vjp`` and ``back`` are the C functions of built-in functions (``METH_FASTCALL``) bound to an array of ``SmallCall``
slots. Either checks its arguments and makes its results; it returns None if an argument is not what the plans are for.

``vjp(input, hx, panels)`` copies the input and the states into what is kept, runs the pass that keeps, and returns
(output, (h_n, c_n)). hx may be None.

``back(d_output, d_hx, with_input, with_hx)`` returns (d_input, (d_h_0, d_c_0), gradients of parameters), the last a
tuple of views of one array. Each argument may be None: no gradient is given, or none is wanted. It returns None too if
there is NaN in a gradient that it is given.

All tuples are made before all arrays, and arrays are checked after that: between the last check and the kernel nothing
of Python runs. Both hold the GIL to their ends, so that the buffers have one user at a time.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from ..compiler import Kernel, inline, named, standalone
from ..entries.fastcall import declined, fits, is_pair, new_results, states_fit
from ..entries.head import pointer_of
from ..entries.objects import call_pointer, data_of, function_at, new_array, spec
from ..instructions import INT64, address_of, instruction, load_slot, record_at, set_word, slots_at, store_slot, word_at
from ..plan_layout import CARRAY, SELF_DATA, SMALL_BACK, SMALL_VJP, ArraySpec, Fastcall, Header
from ..simd import Simd
from .backward_layout import OWN_RECORD, Back, BackCell, SmallCall, SmallGradient

INT32 = ir.IntType(32)
CELLS, CELL, GRADIENTS, GRADIENT = (
    int(Back.LENGTH), int(BackCell.LENGTH), int(SmallCall.LENGTH), int(SmallGradient.LENGTH)
)  # fmt: skip


def small_call_entries(number: str, lanes: int, fused: bool, forward: Kernel, backward: Kernel) -> dict[str, Kernel]:
    """``vjp`` and ``back``, by C name, of the two kernels."""
    simd = Simd(number, lanes, fused)
    return {SMALL_VJP: vjp_entry(simd, forward), SMALL_BACK: back_entry(simd, backward)}


@instruction(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64)
def new_view(builder, function, kind, dtype, ndim, sizes, data):
    """A new array over another's numbers, by ``PyArray_NewFromDescr``, which takes a reference to the dtype."""
    null = INT64(0)
    function = function_at(builder, function, INT64, INT64, INT32, INT64, INT64, INT64, INT32, INT64)
    return builder.call(function, [kind, dtype, builder.trunc(ndim, INT32), sizes, null, data, INT32(CARRAY), null])


@instruction(types.int64, types.int64, types.int64, types.int64)
def set_base(builder, function, view, base):
    """Let a view own an array, by ``PyArray_SetBaseObject``, which takes a reference; 0, or Python's error."""
    return builder.zext(builder.call(function_at(builder, function, INT64, INT64, result=INT32), [view, base]), INT64)


@inline
def made(record, plan, want):
    """A new array of the sizes in an ``ArraySpec``, its numbers not set; or 0 and Python's error."""
    dtype = load_slot(plan, Header.DTYPE)
    call_pointer(load_slot(record, Fastcall.INCREF), dtype)
    sizes, ndim = address_of(want, ArraySpec.SIZE_0), load_slot(want, ArraySpec.NDIM)
    return new_array(load_slot(record, Fastcall.NEW_ARRAY), load_slot(plan, Header.TYPE), dtype, ndim, sizes)


def copies(simd: Simd) -> tuple[Kernel, ...]:
    """``copy``, ``copy_h`` and ``copy_c``: (source, target, count), the last two as the kernels flush h and c."""
    lanes, load_part, store_part, numbers_at = simd.lanes, simd.load_part, simd.store_part, pointer_of(simd)

    @inline
    def same(value):
        return value

    def made_of(name, change):
        @named(name)
        def copy(source, target, count):
            x, y = numbers_at(source), numbers_at(target)
            for k in range(0, count, lanes):
                store_part(y, k, change(load_part(x, k, count - k)), count - k)

        return copy

    return made_of("copy", same), made_of("copy_h", simd.flush_h), made_of("copy_c", simd.flush_c)


def cleared(simd: Simd) -> Kernel:
    """``clear(target, count)``."""
    lanes, store_part, zeros, numbers_at = simd.lanes, simd.store_part, simd.splat(0), pointer_of(simd)

    @named("clear")
    def clear(target, count):
        y = numbers_at(target)
        for k in range(0, count, lanes):
            store_part(y, k, zeros(), count - k)

    return clear


def nan_found(simd: Simd) -> Kernel:
    """``holds_nan(array, count)``: a sum of squares is NaN if one of them is."""
    lanes, load_part, zeros, fma, numbers_at = simd.lanes, simd.load_part, simd.splat(0), simd.fma, pointer_of(simd)

    @instruction(types.int64, simd.register)
    def is_nan(builder, x):
        lanes_of = builder.bitcast(builder.fcmp_unordered("uno", x, x), ir.IntType(lanes))
        return builder.zext(builder.icmp_unsigned("!=", lanes_of, ir.IntType(lanes)(0)), INT64)

    @named("holds_nan")
    def holds_nan(array, count):
        x, total = numbers_at(array), zeros()
        for k in range(0, count, lanes):
            value = load_part(x, k, count - k)
            total = fma(value, value, total)
        return is_nan(total)

    return holds_nan


def vjp_entry(simd: Simd, forward: Kernel) -> Kernel:
    """``vjp(self, arguments, count)``."""
    copy, copy_h, copy_c = copies(simd)
    clear = cleared(simd)

    def vjp(self, arguments, count):
        record = slots_at(word_at(self + SELF_DATA))
        plan = record_at(record, load_slot(record, SmallCall.FORWARD))
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
        right, items = (
            fits(plan, x, spec(plan, 0)) and states_fit(plan, h_n, c_n),
            hx + load_slot(plan, Header.ITEMS_AT),
        )
        if with_states and not states_fit(plan, word_at(items), word_at(items + 8)):
            right = False
        if not right:
            call_pointer(load_slot(record, Fastcall.DECREF), results)
            return declined(record, plan)
        h_count, c_count = load_slot(record, SmallCall.H_COUNT), load_slot(record, SmallCall.C_COUNT)
        copy(data_of(plan, x), load_slot(record, SmallCall.INPUT), load_slot(record, SmallCall.INPUT_COUNT))
        if with_states:
            copy_h(data_of(plan, word_at(items)), load_slot(record, SmallCall.H_0), h_count)
            copy_c(data_of(plan, word_at(items + 8)), load_slot(record, SmallCall.C_0), c_count)
        else:
            clear(load_slot(record, SmallCall.H_0), h_count)
            clear(load_slot(record, SmallCall.C_0), c_count)
        store_slot(plan, Header.H_N, data_of(plan, h_n))
        store_slot(plan, Header.C_N, data_of(plan, c_n))
        store_slot(plan, Header.PANELS, data_of(plan, panels))
        store_slot(record_at(record, load_slot(record, SmallCall.BACK)), Header.PANELS, data_of(plan, panels))
        store_slot(record, SmallCall.TRANSPOSED, 0)
        forward(plan)
        copy(load_slot(record, SmallCall.OUTPUT), data_of(plan, y), load_slot(record, SmallCall.OUTPUT_COUNT))
        return results

    entry = standalone(vjp)
    entry.compile(types.int64(types.int64, types.int64, types.int64))
    return entry


@inline
def gradients_fit(record, plan, d_output, d_hx):
    """Whether gradients of results are None or arrays of the right kind and shape."""
    none = load_slot(plan, Header.NONE)
    if d_output != none and not fits(plan, d_output, record_at(record, Fastcall.RESULTS)):
        return False
    if d_hx == none:
        return True
    items = d_hx + load_slot(plan, Header.ITEMS_AT)
    return is_pair(record, plan, d_hx) and states_fit(plan, word_at(items), word_at(items + 8))


@inline
def new_tuples(record, plan, with_hx):
    """The tuple of results with the tuples in it; its address is 0 where Python has an error."""
    new_tuple, decref, items_at = (
        load_slot(record, Fastcall.NEW_TUPLE),
        load_slot(record, Fastcall.DECREF),
        load_slot(plan, Header.ITEMS_AT),
    )
    results, hx = call_pointer(new_tuple, 3), load_slot(plan, Header.NONE)
    if results == 0:
        return 0
    if with_hx:
        hx = call_pointer(new_tuple, 2)
    else:
        call_pointer(load_slot(record, Fastcall.INCREF), hx)
    set_word(results + items_at + 8, hx)
    views = call_pointer(new_tuple, load_slot(record, SmallCall.PARAMETERS))
    set_word(results + items_at + 16, views)
    if hx == 0 or views == 0:
        call_pointer(decref, results)
        return 0
    return results


@inline
def with_arrays(record, plan, results, with_input, with_hx):
    """Whether the tuples were filled with new arrays; else Python has an error."""
    items = results + load_slot(plan, Header.ITEMS_AT)
    if with_input:
        d_input = made(record, plan, spec(plan, 0))
        set_word(items, d_input)
        if d_input == 0:
            return False
    else:
        none = load_slot(plan, Header.NONE)
        call_pointer(load_slot(record, Fastcall.INCREF), none)
        set_word(items, none)
    if with_hx:
        states = word_at(items + 8) + load_slot(plan, Header.ITEMS_AT)
        for n in range(2):
            state = made(record, plan, spec(plan, 1 + n))
            set_word(states + 8 * n, state)
            if state == 0:
                return False
    return True


def views_kernel(simd: Simd) -> Kernel:
    """``with_views(record, plan, views) -> whether``: fill the tuple with views of one new array; else an error."""
    size = simd.number.itemsize

    @named("with_views")
    def with_views(record, plan, views):
        incref, decref = load_slot(record, Fastcall.INCREF), load_slot(record, Fastcall.DECREF)
        dtype, first = load_slot(plan, Header.DTYPE), views + load_slot(plan, Header.ITEMS_AT)
        flat, failed = made(record, plan, record_at(record, SmallCall.FLAT)), 0
        if flat == 0:
            return 0
        for n in range(load_slot(record, SmallCall.PARAMETERS)):
            of = record_at(record, GRADIENTS + n * GRADIENT)
            call_pointer(incref, dtype)
            view = new_view(load_slot(record, Fastcall.NEW_ARRAY), load_slot(plan, Header.TYPE), dtype,
                            load_slot(of, ArraySpec.NDIM), address_of(of, ArraySpec.SIZE_0),
                            data_of(plan, flat) + load_slot(of, SmallGradient.AT) * size)  # fmt: skip
            set_word(first + 8 * n, view)
            if view == 0:
                failed = 1
                break
            call_pointer(incref, flat)
            failed = set_base(load_slot(record, SmallCall.SET_BASE), view, flat)
            if failed != 0:
                break
        call_pointer(decref, flat)
        return failed == 0

    return with_views


def passing(simd: Simd, backward: Kernel) -> Kernel:
    """``run(record, plan, d_output, d_hx, d_input)``: the pass back over checked objects; 0 for those that are None."""
    size, (copy, _, _), clear = simd.number.itemsize, copies(simd), cleared(simd)

    @inline
    def run(record, plan, d_output, d_hx, d_input):
        back = record_at(record, load_slot(record, SmallCall.BACK))
        h, c = load_slot(record, SmallCall.D_H), load_slot(record, SmallCall.D_C)
        h_count, c_count = load_slot(record, SmallCall.H_COUNT), load_slot(record, SmallCall.C_COUNT)
        if d_hx != 0:
            items = d_hx + load_slot(plan, Header.ITEMS_AT)
            copy(data_of(plan, word_at(items)), h, h_count)
            copy(data_of(plan, word_at(items + 8)), c, c_count)
        else:
            clear(h, h_count)
            clear(c, c_count)
        of_input, of_output, directions = 0, 0, load_slot(back, Back.DIRECTIONS)
        if d_input != 0:
            of_input = data_of(plan, d_input)
        if d_output != 0:
            of_output = data_of(plan, d_output)
        for direction in range(directions):
            first = record_at(back, CELLS + direction * CELL)
            last = record_at(first, (load_slot(record, SmallCall.LAYERS) - 1) * directions * CELL)
            store_slot(first, BackCell.D_INPUT, of_input)
            store_slot(last, BackCell.D_OUTPUT, of_output)
            if d_output != 0:
                of_output += load_slot(last, BackCell.OUTPUTS) * size
        store_slot(back, Back.TRANSPOSE, 1 - load_slot(record, SmallCall.TRANSPOSED))
        store_slot(record, SmallCall.TRANSPOSED, 1)
        shared = slots_at(load_slot(back, Header.SHARE))
        for n in range(OWN_RECORD):
            store_slot(shared, n, 0)
        backward(back)

    return run


def giving(simd: Simd) -> Kernel:
    """``give(record, plan, results, with_hx)``: copy what the pass back has made into the new arrays."""
    size, (copy, _, _) = simd.number.itemsize, copies(simd)

    @inline
    def give(record, plan, results, with_hx):
        items_at = load_slot(plan, Header.ITEMS_AT)
        if with_hx:
            states = word_at(results + items_at + 8) + items_at
            copy(load_slot(record, SmallCall.D_H), data_of(plan, word_at(states)), load_slot(record, SmallCall.H_COUNT))
            copy(load_slot(record, SmallCall.D_C), data_of(plan, word_at(states + 8)),
                 load_slot(record, SmallCall.C_COUNT))  # fmt: skip
        views = word_at(results + items_at + 16) + items_at
        for n in range(load_slot(record, SmallCall.PARAMETERS)):
            of = record_at(record, GRADIENTS + n * GRADIENT)
            source = load_slot(record, SmallCall.GRADIENTS) + load_slot(of, SmallGradient.SOURCE) * size
            copy(source, data_of(plan, word_at(views + 8 * n)), load_slot(of, SmallGradient.COUNT))

    return give


def back_entry(simd: Simd, backward: Kernel) -> Kernel:
    """``back(self, arguments, count)``."""
    run, give, with_views, holds_nan = passing(simd, backward), giving(simd), views_kernel(simd), nan_found(simd)

    @inline
    def hold_nan(record, plan, d_output, d_hx):
        found = 0
        if d_output != 0:
            found = holds_nan(data_of(plan, d_output), load_slot(record, SmallCall.OUTPUT_COUNT))
        if d_hx != 0:
            items = d_hx + load_slot(plan, Header.ITEMS_AT)
            found |= holds_nan(data_of(plan, word_at(items)), load_slot(record, SmallCall.H_COUNT))
            found |= holds_nan(data_of(plan, word_at(items + 8)), load_slot(record, SmallCall.C_COUNT))
        return found != 0

    def back(self, arguments, count):
        record = slots_at(word_at(self + SELF_DATA))
        plan = record_at(record, load_slot(record, SmallCall.FORWARD))
        if count != 4:
            return declined(record, plan)
        d_output, d_hx, none = word_at(arguments), word_at(arguments + 8), load_slot(plan, Header.NONE)
        with_input, with_hx = word_at(arguments + 16) != none, word_at(arguments + 24) != none
        if not gradients_fit(record, plan, d_output, d_hx):
            return declined(record, plan)
        results, decref = new_tuples(record, plan, with_hx), load_slot(record, Fastcall.DECREF)
        if results == 0:
            return 0
        items = results + load_slot(plan, Header.ITEMS_AT)
        if (
            not with_arrays(record, plan, results, with_input, with_hx)
            or with_views(record, plan, word_at(items + 16)) == 0
        ):
            call_pointer(decref, results)
            return 0
        right, d_input = gradients_fit(record, plan, d_output, d_hx), 0
        d_output = 0 if d_output == none else d_output
        d_hx = 0 if d_hx == none else d_hx
        if not right or hold_nan(record, plan, d_output, d_hx):
            call_pointer(decref, results)
            return declined(record, plan)
        if with_input:
            d_input = word_at(items)
        run(record, plan, d_output, d_hx, d_input)
        give(record, plan, results, with_hx)
        return results

    entry = standalone(back)
    entry.compile(types.int64(types.int64, types.int64, types.int64))
    return entry
