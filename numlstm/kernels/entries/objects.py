"""Python's objects as machine code sees them: words at addresses, and functions that are called by address."""

from llvmlite import ir
from numba import types

from ..compiler import inline
from ..instructions import INT64, instruction, load_slot, record_at, word_at
from ..plan_layout import ArraySpec, Header

ARRAY_SPEC = int(ArraySpec.LENGTH)
INT32 = ir.IntType(32)


def function_at(builder: ir.IRBuilder, address: ir.Value, *kinds: ir.Type, result: ir.Type = INT64) -> ir.Value:
    """An address as that of a C function."""
    return builder.inttoptr(address, ir.FunctionType(result, kinds).as_pointer())


@instruction(types.int64, types.int64, types.int64)
def call_pointer(builder, function, argument):
    """Call the C function at an address with one word."""
    return builder.call(function_at(builder, function, INT64), [argument])


@instruction(types.int64, types.int64)
def ask_pointer(builder, function):
    """Call the C function at an address without arguments; its result is a word."""
    return builder.call(function_at(builder, function), [])


@instruction(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64)
def new_array(builder, function, kind, dtype, ndim, sizes):
    """A new C-contiguous array, by ``PyArray_NewFromDescr``, which takes a reference to the dtype."""
    null, none = INT64(0), INT32(0)
    function = function_at(builder, function, INT64, INT64, INT32, INT64, INT64, INT64, INT32, INT64)
    return builder.call(function, [kind, dtype, builder.trunc(ndim, INT32), sizes, null, null, none, null])


@instruction(types.void, types.int64, types.int64, types.int64)
def set_error(builder, function, error, text):
    """Set Python's error, by ``PyErr_SetString``."""
    builder.call(function_at(builder, function, INT64, INT64, result=ir.VoidType()), [error, text])


@inline
def data_of(plan, array):
    """The address of an array's numbers."""
    return word_at(array + load_slot(plan, Header.DATA_AT))


@inline
def axes_of(plan, array):
    """The number of an array's axes."""
    return word_at(array + load_slot(plan, Header.NDIM_AT)) & 0xFFFFFFFF


@inline
def of_its_kind(plan, array):
    """Whether the object is an array of the expected type, dtype and alignment."""
    if word_at(array + load_slot(plan, Header.TYPE_AT)) != load_slot(plan, Header.TYPE):
        return False
    if word_at(array + load_slot(plan, Header.DTYPE_AT)) != load_slot(plan, Header.DTYPE):
        return False
    return data_of(plan, array) & load_slot(plan, Header.MISALIGNED) == 0


@inline
def spec(plan, n):
    """The ``ArraySpec`` record n of the plan."""
    return record_at(plan, load_slot(plan, Header.ARRAY_SPECS) + n * ARRAY_SPEC)
