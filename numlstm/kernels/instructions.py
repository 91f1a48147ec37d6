"""Instructions on integers, addresses and the plan, and how an instruction is made.

An instruction is a function for kernels that emits LLVM's IR. The plan, and every other record that a kernel reads, is
an array of int64; one of its numbers is a slot.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

INT64 = ir.IntType(64)
PLAN = types.CPointer(types.int64)


def fixed_intrinsic(definition: Any, names: list[str]) -> Any:
    """``definition(typing_context, *arguments)`` as an intrinsic whose arguments have these names."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    definition.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in ["typing_context", *names]])
    return intrinsic(definition)


def instruction(result: types.Type, *arguments: types.Type) -> Callable[[Any], Any]:
    """Make ``emit(builder, *values)`` a function for kernels, of a fixed signature.

    A result that is a tuple type is given back by ``emit`` as a list of LLVM values. ``emit``, ``result`` and
    ``arguments`` stay with the function, for instructions that are made of others.
    """

    def decorate(emit):
        def definition(typing_context, *_):
            def codegen(context, builder, _, values):
                value = emit(builder, *values)
                if isinstance(result, types.BaseTuple):
                    return context.make_tuple(builder, result, value)
                return context.get_dummy_value() if result is types.void else value

            return result(*arguments), codegen

        definition.__name__ = emit.__name__
        made = fixed_intrinsic(definition, list(inspect.signature(emit).parameters)[1:])
        made.emit, made.result, made.arguments = emit, result, arguments
        return made

    return decorate


@instruction(types.int64, PLAN, types.int64)
def load_slot(builder, plan, slot):
    """``plan[slot]``."""
    return builder.load(builder.gep(plan, [slot]))


@instruction(types.void, PLAN, types.int64)
def bump_counter(builder, plan, slot):
    """Add 1 to a counter in the plan."""
    where = builder.gep(plan, [slot])
    builder.store(builder.add(builder.load(where), INT64(1)), where)


@instruction(types.void, PLAN, types.int64, types.int64)
def store_slot(builder, plan, slot, value):
    """``plan[slot] = value``."""
    builder.store(value, builder.gep(plan, [slot]))


@instruction(types.int64, types.int64, types.int64)
def smaller(builder, a, b):
    """The smaller of two integers; Python's ``min`` would bring code of Numba's with it."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


@instruction(types.int64, types.int64, types.int64)
def greater(builder, a, b):
    """The greater of two integers."""
    return builder.select(builder.icmp_signed(">", a, b), a, b)


@instruction(types.int64, types.int64)
def word_at(builder, address):
    """The 64-bit word at an address."""
    return builder.load(builder.inttoptr(address, INT64.as_pointer()))


@instruction(PLAN, PLAN, types.int64)
def record_at(builder, plan, slot):
    """The part of the plan that begins at ``slot``."""
    return builder.gep(plan, [slot])


@instruction(PLAN, types.int64)
def slots_at(builder, address):
    """The slots at an address."""
    return builder.inttoptr(address, INT64.as_pointer())


@instruction(types.void, types.int64, types.int64)
def set_word(builder, address, value):
    """Write the 64-bit word at an address."""
    builder.store(value, builder.inttoptr(address, INT64.as_pointer()))


@instruction(types.int64, PLAN, types.int64)
def address_of(builder, plan, slot):
    """The address of ``plan[slot]``."""
    return builder.ptrtoint(builder.gep(plan, [slot]), INT64)
