"""A SIMD register as a Numba type, and the instructions that kernels are written with.

Numba's vectoriser does not find the gate loop of an LSTM: four reductions that share one broadcast operand. So kernels
handle registers themselves. A value of type ``Register(float32, 8)`` is an LLVM ``<8 x float>``, and ``Simd`` has the
instructions on it for one number type and register width. Pointers are to numbers, indices count numbers.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import register_model
from numba.np.numpy_support import from_dtype

from .activations import FAINTEST
from .compiler import inline
from .instructions import INT64, PLAN, instruction
from .int8.products import rounded_terms
from .plan_layout import BFLOAT16, INT8, LINE

BYTE = ir.IntType(8)


@inline
def all_features(features):
    """Terms of a panel: one for each feature."""
    return features


class Register(types.Type):
    """``lanes`` numbers of one scalar type in a SIMD register."""

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Register({dtype}, {lanes})")


@register_model(Register)
class RegisterModel(models.PrimitiveModel):
    """How LLVM sees a register: a first-class vector value."""

    def __init__(self, manager: Any, register: Register) -> None:
        scalar = manager.lookup(register.dtype).get_value_type()
        super().__init__(manager, register, ir.VectorType(scalar, register.lanes))


class Simd:
    """The instructions for registers of ``lanes`` numbers.

    ``fused`` says that the CPU has a fused multiply-add. Without one,
    ``fma`` is a multiplication and an addition: other bits, and documented so.
    With ``number`` "bfloat16", weights are bfloat16 and all else is float32. With "int8", a number of a panel is four
    weights, as ``int8/products.py`` describes.
    """

    def __init__(self, number: np.typing.DTypeLike, lanes: int, fused: bool = True) -> None:
        self.paired = number == BFLOAT16  # whether two weights share the memory of a number
        self.rounds = number == INT8  # whether weights are int8, and inputs are rounded to int8
        self.number: np.dtype[Any] = np.dtype(np.float32 if self.paired or self.rounds else number)
        self.terms = rounded_terms if self.rounds else all_features
        self.lanes, self.fused = lanes, fused
        self.inline = inline
        self.scalar = from_dtype(self.number)
        self.register = Register(self.scalar, lanes)
        self.pointer = types.CPointer(self.scalar)
        self.bits = self.number.itemsize * 8
        self.vector = ir.VectorType(ir.FloatType() if self.bits == 32 else ir.DoubleType(), lanes)
        self.integers = ir.VectorType(ir.IntType(self.bits), lanes)
        self._pointers()
        self._memory()
        self._arithmetic()
        self._bits()
        self._flushes()
        self._halves()

    @cached_property
    def half(self) -> Simd:
        """The instructions for registers of half the lanes."""
        return Simd(self.number, self.lanes // 2, self.fused)

    def in_memory(self, columns: int) -> int:
        """Registers of memory that hold ``columns`` registers of weights."""
        return -(-columns // 2) if self.paired else columns

    # What the instructions are made of ------------------------------------------------------------------------

    def constant(self, value: float) -> ir.Value:
        """``value`` in every lane."""
        return ir.Constant(self.vector, [float(self.number.type(value))] * self.lanes)

    def integer(self, value: int) -> ir.Value:
        """An integer as wide as the number type, in every lane."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def address(self, builder: ir.IRBuilder, pointer: ir.Value, index: ir.Value) -> ir.Value:
        """The address of ``pointer[index]``, as that of a register."""
        return builder.bitcast(builder.gep(pointer, [index]), self.vector.as_pointer())

    def emit_load(self, builder: ir.IRBuilder, pointer: ir.Value, index: ir.Value) -> ir.Value:
        return builder.load(self.address(builder, pointer, index), align=self.number.itemsize)

    def emit_weights(self, builder: ir.IRBuilder, panel: ir.Value, index: ir.Value, apart: bool) -> list[ir.Value]:
        """The weights in a register of memory: one of them, or of pairs the lower halves and the upper ones.

        Each half is widened in a register of its own. Where they are ``apart``, each is loaded by itself, two bytes
        from the other: a tall tile then needs no register for both at once. The last load of a panel ends two bytes
        behind it, where the bias is, or zeros.
        """
        if not self.paired:
            return [self.emit_load(builder, panel, index)]
        halves, start = self.integers.as_pointer(), builder.bitcast(builder.gep(panel, [index]), BYTE.as_pointer())
        words = [builder.load(builder.bitcast(builder.gep(start, [INT64(at)]), halves), align=2)
                 for at in ((0, 2) if apart else (0,))]  # fmt: skip
        lower = builder.shl(words[0], self.integer(16))
        upper = builder.shl(words[1], self.integer(16)) if apart else builder.and_(words[0], self.integer(0xFFFF0000))
        return [builder.bitcast(half, self.vector) for half in (lower, upper)]

    def emit_splat(self, builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
        return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))

    def emit_fma(self, builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        if not self.fused:
            return builder.fadd(builder.fmul(a, b), c)
        # llvm.fma, never llvm.fmuladd, which may round twice
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}f{self.bits}"
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [a, b, c])

    def emit_mask(self, builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
        """Lanes below ``count``, as a vector of one bit each."""
        narrow = ir.IntType(32)
        wide = ir.VectorType(narrow, self.lanes)
        undefined = ir.Constant(wide, ir.Undefined)
        one = builder.insert_element(undefined, builder.trunc(count, narrow), narrow(0))
        limit = builder.shuffle_vector(one, undefined, ir.Constant(wide, None))
        return builder.icmp_signed("<", ir.Constant(wide, list(range(self.lanes))), limit)

    def emit_prefetch(self, builder: ir.IRBuilder, pointer: ir.Value) -> None:
        """Prefetch a cache line. It is a hint, and never faults."""
        byte, narrow = ir.IntType(8).as_pointer(), ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [byte, narrow, narrow, narrow])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(function, [builder.bitcast(pointer, byte), narrow(0), narrow(3), narrow(1)])

    def masked(self, builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
        signature = ir.FunctionType(result, [a.type for a in arguments])
        name = f"llvm.masked.{name}.v{self.lanes}f{self.bits}.p0"
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)

    def bits_of(self, value: float) -> int:
        """The bits of a number, as an integer."""
        return int(np.array(value, self.number).view(f"u{self.number.itemsize}"))

    def emit_size(self, builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
        """The bits of |x|."""
        return builder.and_(builder.bitcast(x, self.integers), self.integer((1 << (self.bits - 1)) - 1))

    def emit_signed(self, builder: ir.IRBuilder, size: ir.Value, of: ir.Value) -> ir.Value:
        """The bits of |size| with the sign of another number."""
        signs = builder.and_(builder.bitcast(of, self.integers), self.integer(1 << (self.bits - 1)))
        return builder.or_(self.emit_size(builder, size), signs)

    def emit_at_least(self, builder: ir.IRBuilder, x: ir.Value, least: float) -> ir.Value:
        """Whether |x| >= ``least``; true for NaN."""
        return builder.icmp_signed(">", self.emit_size(builder, x), self.integer(self.bits_of(least) - 1))

    # Instructions ---------------------------------------------------------------------------------------------

    def _pointers(self) -> None:
        P, at = self.pointer, types.int64

        @instruction(P, PLAN, at)
        def pointer_at(builder, plan, slot):
            """The address in ``plan[slot]`` as a pointer to numbers."""
            return builder.inttoptr(builder.load(builder.gep(plan, [slot])), self.vector.element.as_pointer())

        @instruction(P, P, at)
        def moved(builder, pointer, index):
            """``pointer + index``."""
            return builder.gep(pointer, [index])

        @instruction(at, P, P)
        def distance(builder, a, b):
            """From a to b, in numbers."""
            begin, end = (builder.ptrtoint(pointer, INT64) for pointer in (a, b))
            return builder.sdiv(builder.sub(end, begin), INT64(self.number.itemsize), flags=["exact"])

        self.pointer_at, self.moved, self.distance = pointer_at, moved, distance

    def _memory(self) -> None:
        V, P, at = self.register, self.pointer, types.int64
        alignment, lanes = ir.IntType(32)(self.number.itemsize), self.lanes

        @instruction(V, P, at)
        def load(builder, pointer, index):
            return self.emit_load(builder, pointer, index)

        @instruction(types.void, P, at, V)
        def store(builder, pointer, index, value):
            builder.store(value, self.address(builder, pointer, index), align=self.number.itemsize)

        @instruction(V, P, at, at)
        def load_masked(builder, pointer, index, count):
            where = self.address(builder, pointer, index)
            mask = self.emit_mask(builder, count)
            return self.masked(builder, "load", self.vector, [where, alignment, mask, self.constant(0)])

        @instruction(types.void, P, at, V, at)
        def store_masked(builder, pointer, index, value, count):
            where = self.address(builder, pointer, index)
            mask = self.emit_mask(builder, count)
            self.masked(builder, "store", ir.VoidType(), [value, where, alignment, mask])

        @inline
        def load_part(pointer, at, count):
            """The first ``count`` lanes from memory, zero in the rest; nothing beyond them is touched."""
            if count >= lanes:
                return load(pointer, at)
            return load_masked(pointer, at, count)

        @inline
        def store_part(pointer, at, value, count):
            """Store the first ``count`` lanes."""
            if count >= lanes:
                store(pointer, at, value)
            else:
                store_masked(pointer, at, value, count)

        self.load, self.store, self.load_part, self.store_part = load, store, load_part, store_part
        self.load_masked, self.store_masked = load_masked, store_masked

    def scratch(self, count: int) -> Any:
        """An instruction that gives room for ``count`` numbers on the stack."""

        @instruction(self.pointer)
        def scratch(builder):
            with builder.goto_entry_block():  # where it is one room, and not one more each time
                room = builder.alloca(ir.ArrayType(self.vector, -(-count // self.lanes)))
            room.align = LINE
            return builder.bitcast(room, self.vector.element.as_pointer())

        return scratch

    def prefetch(self, lines: int) -> Any:
        """An instruction that prefetches so many cache lines from an address on."""

        @instruction(types.void, self.pointer, types.int64)
        def prefetch(builder, pointer, index):
            for n in range(lines):
                where = builder.add(index, INT64(n * LINE // self.number.itemsize))
                self.emit_prefetch(builder, builder.gep(pointer, [where]))

        return prefetch

    def prefetch_rows(self, rows: int, lines: int) -> Any:
        """The same at ``rows`` addresses, ``stride`` numbers apart."""

        @instruction(types.void, self.pointer, types.int64)
        def prefetch_rows(builder, pointer, stride):
            for r in range(rows):
                at = builder.mul(stride, INT64(r))
                for n in range(lines):
                    where = builder.add(at, INT64(n * LINE // self.number.itemsize))
                    self.emit_prefetch(builder, builder.gep(pointer, [where]))

        return prefetch_rows

    def splat(self, value: float) -> Any:
        """An instruction that gives ``value`` in every lane."""

        @instruction(self.register)
        def constant(builder):
            return self.constant(value)

        return constant

    def _arithmetic(self) -> None:
        V = self.register

        @instruction(V, V, V)
        def add(builder, a, b):
            return builder.fadd(a, b)

        @instruction(V, V, V)
        def mul(builder, a, b):
            return builder.fmul(a, b)

        @instruction(V, V, V)
        def div(builder, a, b):
            return builder.fdiv(a, b)

        @instruction(V, V, V, V)
        def fma(builder, a, b, c):
            """a * b + c in one rounding."""
            return self.emit_fma(builder, a, b, c)

        @instruction(V, V)
        def neg(builder, a):
            return builder.fneg(a)

        @instruction(V, V, V)
        def at_most(builder, x, high):
            """x limited from above. NaN stays: an ordered comparison is false for it."""
            return builder.select(builder.fcmp_ordered(">", x, high), high, x)

        @instruction(V, V, V, V, V)
        def unless_below(builder, x, limit, value, otherwise):
            """``value``, and ``otherwise`` where x < limit (not where x is NaN)."""
            return builder.select(builder.fcmp_unordered(">=", x, limit), value, otherwise)

        self.add, self.mul, self.div, self.fma, self.neg = add, mul, div, fma, neg
        self.at_most, self.unless_below = at_most, unless_below

    def _halves(self) -> None:
        V, lanes, half = self.register, self.lanes, self.lanes // 2
        H = Register(self.scalar, half)
        low, high = range(half), range(half, lanes)

        def taken(builder, a, b, lanes):
            """So many lanes of two registers behind each other."""
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), [*lanes]))

        @instruction(types.UniTuple(H, 2), V)
        def halves(builder, x):
            return [taken(builder, x, x, low), taken(builder, x, x, high)]

        @instruction(V, H, H)
        def joined(builder, a, b):
            return taken(builder, a, b, range(lanes))

        @instruction(V, V, V)
        def lower(builder, a, b):
            """The lower halves of two registers in one."""
            return taken(builder, a, b, [*low, *range(lanes, lanes + half)])

        @instruction(V, V, V)
        def upper(builder, a, b):
            """The upper halves."""
            return taken(builder, a, b, [*high, *range(lanes + half, 2 * lanes)])

        self.halves, self.joined, self.lower, self.upper = halves, joined, lower, upper

    def _bits(self) -> None:
        V, fraction = self.register, np.finfo(self.number).nmant
        # Adding it leaves the rounded integer plus the exponent's bias in the low bits. It is odd, so that halves would
        # go the other way; but there are none: log2(e) has too many bits for x log2(e) to be one in this range.
        magic = self.constant(1.5 * 2.0**fraction + np.finfo(self.number).maxexp - 1)

        @instruction(types.UniTuple(V, 2), V, V)
        def round_power(builder, x, scale):
            """(n, 2**n) for n = x * scale rounded to an integer in the range of normal exponents, or just above it.

            By integer arithmetic on the bits, since converting NaN to an integer is undefined in LLVM.
            """
            shifted = self.emit_fma(builder, x, scale, magic)
            exponent = builder.shl(builder.bitcast(shifted, self.integers), self.integer(fraction))
            return [builder.fsub(shifted, magic), builder.bitcast(exponent, self.vector)]

        @instruction(V, V)
        def magnitude(builder, x):
            """|x|; NaN stays."""
            return builder.bitcast(self.emit_size(builder, x), self.vector)

        @instruction(V, V, V)
        def with_sign(builder, x, of):
            """|x| with the sign of another number."""
            return builder.bitcast(self.emit_signed(builder, x, of), self.vector)

        self.round_power, self.magnitude, self.with_sign = round_power, magnitude, with_sign

    def _flushes(self) -> None:
        V, zero = self.register, self.constant(0)
        normal, faintest = np.finfo(self.number).tiny, FAINTEST[self.number.name]

        @instruction(V, V)
        def flush_c(builder, x):
            """x, and 0 where its magnitude is below the smallest normal number; NaN stays."""
            return builder.select(self.emit_at_least(builder, x, normal), x, zero)

        @instruction(V, V)
        def flush_h(builder, x):
            """x, and 0 where its magnitude is below ``FAINTEST``; NaN stays."""
            return builder.select(self.emit_at_least(builder, x, faintest), x, zero)

        @instruction(types.UniTuple(V, 2), V, V)
        def flushed(builder, x, most):
            """(x, |x| limited to ``most``), both of the x that ``flush_c`` gives."""
            size, stays = (
                builder.bitcast(self.emit_size(builder, x), self.vector),
                self.emit_at_least(builder, x, normal),
            )
            limited = builder.select(builder.fcmp_ordered(">", size, most), most, size)
            return [builder.select(stays, y, zero) for y in (x, limited)]

        @instruction(V, V, V)
        def flushed_with_sign(builder, x, of):
            """``with_sign`` of the x that ``flush_h`` gives, for an x that is not positive."""
            stays = builder.fcmp_unordered("<=", x, self.constant(-faintest))
            signed = self.emit_signed(builder, x, of)
            return builder.bitcast(builder.select(stays, signed, self.integer(0)), self.vector)

        self.flush_c, self.flush_h = flush_c, flush_h
        self.flushed, self.flushed_with_sign = flushed, flushed_with_sign


# what ``activations`` needs beside ``fma`` and ``splat``
OPERATIONS = ("add", "mul", "div", "neg", "at_most", "unless_below", "round_power", "magnitude", "with_sign", "flushed",
              "flushed_with_sign")  # fmt: skip


class SideBySide:
    """The instructions of ``simd`` that ``activations`` needs, each on ``count`` registers.

    An operand or a result is a tuple of registers; in memory each has an index of its own. LLVM saves registers: of
    several long chains it emits one after the other, and a core that looks ahead by less than a chain waits for
    latencies. A fence behind every FMA keeps them side by side, and is no instruction.
    """

    add: Any  # as all of ``OPERATIONS``

    def __init__(self, simd: Simd, count: int) -> None:
        self.simd, self.count, self.number, self.inline = simd, count, simd.number, inline
        self.type = types.UniTuple(simd.register, count)
        for name in OPERATIONS:
            setattr(self, name, self.of_each(getattr(simd, name)))
        self.fma = self.of_each(simd.fma, fenced=True)
        self.load, self.store = self.of_each(simd.load), self.of_each(simd.store)
        load_masked, store_masked = self.of_each(simd.load_masked), self.of_each(simd.store_masked)
        load, store, lanes = self.load, self.store, simd.lanes

        @inline
        def load_part(pointer, places, count):
            """``load`` of the first ``count`` lanes of every register."""
            if count >= lanes:
                return load(pointer, places)
            return load_masked(pointer, places, count)

        @inline
        def store_part(pointer, places, values, count):
            if count >= lanes:
                store(pointer, places, values)
            else:
                store_masked(pointer, places, values, count)

        self.load_part, self.store_part = load_part, store_part

    def splat(self, value: float) -> Any:
        return self.of_each(self.simd.splat(value))

    def fence(self, builder: ir.IRBuilder, values: list[ir.Value]) -> list[ir.Value]:
        """The values as they are; no operation on one of them is moved before the last of them."""
        kinds = [self.simd.vector] * self.count
        signature = ir.FunctionType(ir.LiteralStructType(kinds), kinds)
        tied = ["=x"] * self.count + [str(n) for n in range(self.count)]
        fenced = builder.asm(signature, "", ",".join(tied), values, False)
        return [builder.extract_value(fenced, n) for n in range(self.count)]

    def of_each(self, single: Any, fenced: bool = False) -> Any:
        """The instruction ``single`` on every register; a pointer and a count of lanes are the same for all of them."""
        many = {self.simd.register: self.type, types.int64: types.UniTuple(types.int64, self.count)}
        pair = types.UniTuple(self.simd.register, 2)
        result = types.UniTuple(self.type, 2) if single.result == pair else many.get(single.result, single.result)
        names = list(inspect.signature(single.emit).parameters)
        arguments = [kind if name == "count" else many.get(kind, kind)
                     for name, kind in zip(names[1:], single.arguments, strict=True)]  # fmt: skip

        def emit(builder, *values):
            def own(n):
                return [builder.extract_value(value, n) if isinstance(kind, types.UniTuple) else value
                        for value, kind in zip(values, arguments, strict=True)]  # fmt: skip

            results = [single.emit(builder, *own(n)) for n in range(self.count)]
            if single.result == pair:
                return [cgutils.pack_array(builder, part) for part in zip(*results, strict=True)]
            return self.fence(builder, results) if fenced else results

        return instruction(result, *arguments)(with_parameters(emit, names))


def with_parameters(emit: Any, names: list[str]) -> Any:
    """``emit`` with parameters of these names."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    emit.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return emit
