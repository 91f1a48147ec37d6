"""The entry for Python: arrays are taken from a tuple, checked where they lie, and their plan is run.

``boxes`` is the address of the tuple (input, h_0, c_0, output, h_n, c_n, panels); h_0 and c_0 may both be absent. The
plan says where objects keep their parts and, if ``CHECKED``, what the first three must be. Nothing is
written before all is found right; the result is 0, or the number of the first array
that is not what the plan is for.
"""

from numba import types

from .abi import Box, Header
from .compiler import inline, standalone
from .simd import PLAN, get, put, record_at, word_at

ARRAYS = 7
CHECKED_ARRAYS = 3
BOX = int(Box.LENGTH)


def boxed(forward):
    """``call(plan, boxes)`` for a kernel."""

    @inline
    def fits(plan, box, want):
        """Whether the object is an array of the expected type, dtype, sizes, strides and alignment."""
        if word_at(box + get(plan, Header.TYPE_AT)) != get(plan, Header.TYPE):
            return False
        if word_at(box + get(plan, Header.DTYPE_AT)) != get(plan, Header.DTYPE):
            return False
        if word_at(box + get(plan, Header.DATA_AT)) & get(plan, Header.MISALIGNED) != 0:
            return False
        ndim = get(want, Box.NDIM)
        if word_at(box + get(plan, Header.NDIM_AT)) & 0xFFFFFFFF != ndim:
            return False
        sizes, strides = word_at(box + get(plan, Header.SIZES_AT)), word_at(box + get(plan, Header.STRIDES_AT))
        for k in range(ndim):
            size = get(want, Box.SIZE_0 + k)
            if word_at(sizes + 8 * k) != size:
                return False
            if size != 1 and word_at(strides + 8 * k) != get(want, Box.STRIDE_0 + k):
                return False
        return True

    def call(plan, boxes):
        items, absent = boxes + get(plan, Header.ITEMS_AT), get(plan, Header.ABSENT)
        if get(plan, Header.CHECKED) != 0:
            if (word_at(items + 8) == absent) != (word_at(items + 16) == absent):
                return 2
            for n in range(CHECKED_ARRAYS):
                box = word_at(items + 8 * n)
                want = record_at(plan, get(plan, Header.BOXES) + n * BOX)
                if (n == 0 or box != absent) and not fits(plan, box, want):
                    return n + 1
        for n in range(ARRAYS):
            box = word_at(items + 8 * n)
            data = 0
            if box != absent:
                data = word_at(box + get(plan, Header.DATA_AT))
            put(plan, Header.INPUT + n, data)
        forward(plan)
        return 0

    kernel = standalone(call)
    kernel.compile(types.int64(PLAN, types.int64))
    return kernel
