"""What the library's functions do with memory: words, pointers, constants, and no call of another library."""

from llvmlite import ir
from numba import types

from numlstm.kernels.compiler import inline
from numlstm.kernels.instructions import INT64, PLAN, instruction
from numlstm.kernels.plan_layout import LINE


@instruction(types.int64, PLAN)
def address(builder, pointer):
    return builder.ptrtoint(pointer, INT64)


@instruction(types.void, PLAN, PLAN)
def give(builder, where, pointer):
    """Write a pointer, as wide as the target has them."""
    builder.store(pointer, builder.bitcast(where, pointer.type.as_pointer()))


@instruction(types.void, PLAN, types.int64)
def clear_word(builder, pointer, index):
    """Atomic, or LLVM would call memset for a loop of them."""
    builder.store_atomic(INT64(0), builder.gep(pointer, [index]), "monotonic", 8)


@inline
def clear(words, count):
    for k in range(count):
        clear_word(words, k)


@inline
def rounded(count):
    """Bytes to the next cache line."""
    return (count + (LINE - 1)) & -LINE


@inline
def within(value, least, most):
    return value >= least and value <= most


def constant(module: ir.Module, name: str, value: ir.Constant) -> ir.GlobalVariable:
    """A table of the module's own, made on first use."""
    if name in module.globals:
        return module.globals[name]
    made = ir.GlobalVariable(module, value.type, name)
    made.global_constant, made.linkage, made.initializer = True, "internal", value
    return made
