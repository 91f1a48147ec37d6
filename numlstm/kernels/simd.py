"""A SIMD register as a Numba type, and the instructions that kernels are written with.

Numba's own vectoriser does not find the gate loop of an LSTM (four reductions
that share one broadcast operand), so kernels say what they mean: a value of type
``Register(float32, 8)`` is an LLVM ``<8 x float>``, and a tile is a tuple of such
values that LLVM keeps in registers. ``Simd(number, lanes, fused)`` holds the
instructions for one number type and register width.
"""

import inspect
from functools import cached_property, lru_cache
from types import SimpleNamespace

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model
from numba.np.numpy_support import from_dtype

from .activations import FAINTEST
from .compiler import STANDALONE, inline, standalone

# Terms of a sum before the next sub-total. Without them 31 of 200 random LSTMs have a larger error than PyTorch's and
# a rounding of 1.0, with 16 none; docs/arithmetic.md has the figures.
K_BLOCK = 16
FROM_BIAS, FROM_ZERO, GO_ON = range(3)  # how a run of terms whose sums are in memory begins
INT64 = ir.IntType(64)
LINE = 64  # bytes of a cache line
PLAN = types.CPointer(types.int64)


class Register(types.Type):
    """``lanes`` numbers of one scalar type in a SIMD register."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Register({dtype}, {lanes})")


@register_model(Register)
class RegisterModel(models.PrimitiveModel):
    """How LLVM sees a register: a first-class vector value."""

    def __init__(self, manager, register):
        scalar = manager.lookup(register.dtype).get_value_type()
        super().__init__(manager, register, ir.VectorType(scalar, register.lanes))


def fixed_intrinsic(definition, names):
    """``definition(typing_context, *arguments)`` as an intrinsic whose arguments have these names."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    definition.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in ["typing_context", *names]])
    return intrinsic(definition)


def instruction(result, *arguments):
    """Make ``emit(builder, *values)`` a function for kernels, of a fixed signature.

    A result that is a tuple type is given back by ``emit`` as a list of LLVM values.
    """

    def decorate(emit):
        def definition(typing_context, *_):
            def codegen(context, builder, _, values):
                value = emit(builder, *values)
                if isinstance(result, types.UniTuple):
                    return cgutils.pack_array(builder, value)
                return context.get_dummy_value() if result is types.void else value

            return result(*arguments), codegen

        definition.__name__ = emit.__name__
        return fixed_intrinsic(definition, list(inspect.signature(emit).parameters)[1:])

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


def named(name):
    """A decorator for a kernel of its own symbol: ``name`` is found again in the machine code, never inlined away."""

    def decorate(function):
        function.__name__ = function.__qualname__ = STANDALONE + name
        return standalone(function)

    return decorate


def emit_loop(builder, begin, end, step, state, body):
    """The values of ``state`` after ``body(k, state)`` for every k of ``range(begin, end, step)``."""
    before, function = builder.basic_block, builder.function
    head, inside, after = (function.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    k, *values = (builder.phi(first.type) for first in (begin, *state))
    builder.cbranch(builder.icmp_signed("<", k, end), inside, after)
    builder.position_at_end(inside)
    changed = [builder.add(k, INT64(step)), *body(k, values)]
    for value, first, then in zip((k, *values), (begin, *state), changed, strict=True):
        value.add_incoming(first, before)
        value.add_incoming(then, builder.basic_block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def emit_chain(builder, zero, count, sums, term):
    """``count`` terms added to sums, ``term(k, sums)`` each, in order of k.

    The first K_BLOCK of them go on from ``sums``; every K_BLOCK after them start from 0 and are added to it. Emitted
    at once: as a Python function, Numba would take most of a build to type it anew for every tile.
    """

    def at_most(last):
        return builder.select(builder.icmp_signed("<", last, count), last, count)

    def sub_total(first, sums):
        part = emit_loop(builder, first, at_most(builder.add(first, INT64(K_BLOCK))), 1, [zero] * len(sums), term)
        return [builder.fadd(a, b) for a, b in zip(sums, part, strict=True)]

    sums = emit_loop(builder, INT64(0), at_most(INT64(K_BLOCK)), 1, sums, term)
    return emit_loop(builder, INT64(K_BLOCK), count, K_BLOCK, sums, sub_total)


class Simd:
    """The instructions for registers of ``lanes`` numbers.

    ``fused`` says that the CPU has a fused multiply-add. Without one,
    ``fma`` is a multiplication and an addition: other bits, and documented so.
    """

    def __init__(self, number, lanes, fused=True):
        self.number, self.lanes, self.fused = np.dtype(number), lanes, fused
        self.inline = inline
        self.scalar = from_dtype(self.number)
        self.register = Register(self.scalar, lanes)
        self.pointer = types.CPointer(self.scalar)
        self.bits = self.number.itemsize * 8
        self.vector = ir.VectorType(ir.FloatType() if self.bits == 32 else ir.DoubleType(), lanes)
        self.integers = ir.VectorType(ir.IntType(self.bits), lanes)
        self._memory()
        self._arithmetic()
        self._special()
        self._halves()

    @cached_property
    def half(self):
        """The instructions for registers of half the lanes."""
        return Simd(self.number, self.lanes // 2, self.fused)

    # What the instructions are made of ------------------------------------------------------------------------

    def constant(self, value):
        """An LLVM constant with ``value`` in every lane."""
        return ir.Constant(self.vector, [float(self.number.type(value))] * self.lanes)

    def integer(self, value):
        """An LLVM constant of integers as wide as the number type."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def address(self, builder, pointer, index):
        """The address of ``pointer[index]``, as that of a register."""
        return builder.bitcast(builder.gep(pointer, [index]), self.vector.as_pointer())

    def emit_load(self, builder, pointer, index):
        return builder.load(self.address(builder, pointer, index), align=self.number.itemsize)

    def emit_splat(self, builder, scalar):
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
        return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))

    def emit_fma(self, builder, a, b, c):
        if not self.fused:
            return builder.fadd(builder.fmul(a, b), c)
        # llvm.fma, never llvm.fmuladd, which may round twice
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}f{self.bits}"
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [a, b, c])

    def emit_mask(self, builder, count):
        """Lanes below ``count``, as a vector of one bit each."""
        narrow = ir.IntType(32)
        wide = ir.VectorType(narrow, self.lanes)
        undefined = ir.Constant(wide, ir.Undefined)
        one = builder.insert_element(undefined, builder.trunc(count, narrow), narrow(0))
        limit = builder.shuffle_vector(one, undefined, ir.Constant(wide, None))
        return builder.icmp_signed("<", ir.Constant(wide, list(range(self.lanes))), limit)

    def emit_prefetch(self, builder, pointer):
        """Ask for a cache line that will be read soon; a hint, which never faults."""
        byte, narrow = ir.IntType(8).as_pointer(), ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [byte, narrow, narrow, narrow])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(function, [builder.bitcast(pointer, byte), narrow(0), narrow(3), narrow(1)])

    def masked(self, builder, name, result, arguments):
        signature = ir.FunctionType(result, [a.type for a in arguments])
        name = f"llvm.masked.{name}.v{self.lanes}f{self.bits}.p0"
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)

    # Instructions ---------------------------------------------------------------------------------------------

    def _memory(self):
        V, P, at = self.register, self.pointer, types.int64
        alignment = ir.IntType(32)(self.number.itemsize)

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

        @instruction(P, PLAN, at)
        def pointer_at(builder, plan, slot):
            """The address in ``plan[slot]`` as a pointer to numbers."""
            return builder.inttoptr(builder.load(builder.gep(plan, [slot])), self.vector.element.as_pointer())

        @instruction(P, P, at)
        def moved(builder, pointer, index):
            """``pointer + index`` in numbers."""
            return builder.gep(pointer, [index])

        def scratch(count):
            """An instruction that gives room for ``count`` numbers on the stack."""

            @instruction(P)
            def scratch(builder):
                with builder.goto_entry_block():  # where it is one room, and not one more each time
                    room = builder.alloca(ir.ArrayType(self.vector, -(-count // self.lanes)))
                room.align = LINE
                return builder.bitcast(room, self.vector.element.as_pointer())

            return scratch

        def prefetch(lines):
            """An instruction that asks for so many lines from an address on."""

            @instruction(types.void, P, at)
            def prefetch(builder, pointer, index):
                for n in range(lines):
                    where = builder.add(index, INT64(n * LINE // self.number.itemsize))
                    self.emit_prefetch(builder, builder.gep(pointer, [where]))

            return prefetch

        self.load, self.store, self.pointer_at, self.moved = load, store, pointer_at, moved
        self.scratch, self.prefetch = scratch, prefetch
        lanes = self.lanes

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

        self.load_part, self.store_part = load_part, store_part

    def _arithmetic(self):
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

    def _halves(self):
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

    def dot_of_two(self, tile, last):
        """``dot`` of a tile of one row and of the block after its own, whose chains run side by side."""
        P, at, simd = self.pointer, types.int64, self
        count_of_tile, both = tile.type.count, types.Tuple([tile.type, last.type])

        def dot(typing_context, *_):
            def codegen(context, builder, _, values):
                value, ending, panel, index, gap, last_index, count, source = values
                sums = [builder.extract_value(v, n) for v in (value, ending) for n in range(v.type.count)]

                def next_term(k, sums):
                    of_tile = tile.term(builder, k, sums[:count_of_tile], panel, index, gap, source, INT64(0))
                    of_last = last.term(builder, k, sums[count_of_tile:], panel, last_index, gap, source, INT64(0))
                    return [*of_tile, *of_last]

                sums = emit_chain(builder, simd.constant(0), count, sums, next_term)
                parts = [cgutils.pack_array(builder, part) for part in (sums[:count_of_tile], sums[count_of_tile:])]
                return context.make_tuple(builder, both, parts)

            return both(tile.type, last.type, P, at, at, at, at, P), codegen

        return fixed_intrinsic(dot, ["value", "ending", "panel", "index", "gap", "last_index", "count", "source"])

    def splat(self, value):
        """An instruction that gives ``value`` in every lane."""

        @instruction(self.register)
        def constant(builder):
            return self.constant(value)

        return constant

    def _special(self):
        V = self.register
        fraction = np.finfo(self.number).nmant
        bias = np.finfo(self.number).maxexp - 1
        # Adding it leaves the rounded integer plus the exponent's bias in the low bits. It is odd, so that halves would
        # go the other way; but there are none: log2(e) has too many bits for x log2(e) to be one in this range.
        magic = 1.5 * 2.0**fraction + bias
        sign = 1 << (self.bits - 1)
        faintest = FAINTEST[self.number.name]
        normal, audible = (
            int(np.array(least, self.number).view(f"u{self.number.itemsize}"))
            for least in (np.finfo(self.number).tiny, faintest)
        )

        def size_of(builder, x):
            return builder.and_(builder.bitcast(x, self.integers), self.integer(sign - 1))

        def signed(builder, size, of):
            """Bits of |size| and of the sign of another number."""
            signs = builder.and_(builder.bitcast(of, self.integers), self.integer(sign))
            return builder.or_(size_of(builder, size), signs)

        def at_least(builder, x, least):
            """Whether |x| is no smaller than a number, given by its bits; true for NaN."""
            return builder.icmp_signed(">", size_of(builder, x), self.integer(least - 1))

        @instruction(types.UniTuple(V, 2), V, V)
        def round_power(builder, x, scale):
            """(n, 2**n) for n = x * scale rounded to an integer in the range of normal exponents, or just above it.

            By integer arithmetic on the bits, since converting NaN to an integer is undefined in LLVM.
            """
            shifted = self.emit_fma(builder, x, scale, self.constant(magic))
            n = builder.fsub(shifted, self.constant(magic))
            exponent = builder.shl(builder.bitcast(shifted, self.integers), self.integer(fraction))
            return [n, builder.bitcast(exponent, self.vector)]

        @instruction(V, V)
        def flush_c(builder, x):
            """x, and 0 where its magnitude is below the smallest normal number; NaN stays."""
            return builder.select(at_least(builder, x, normal), x, self.constant(0))

        @instruction(V, V)
        def flush_h(builder, x):
            """x, and 0 where its magnitude is below ``FAINTEST``; NaN stays."""
            return builder.select(at_least(builder, x, audible), x, self.constant(0))

        @instruction(types.UniTuple(V, 2), V, V)
        def flushed(builder, x, most):
            """(x, |x| limited to ``most``), both of the x that ``flush_c`` gives."""
            size, stays = builder.bitcast(size_of(builder, x), self.vector), at_least(builder, x, normal)
            limited = builder.select(builder.fcmp_ordered(">", size, most), most, size)
            return [builder.select(stays, y, self.constant(0)) for y in (x, limited)]

        @instruction(V, V, V)
        def flushed_with_sign(builder, x, of):
            """``with_sign`` of the x that ``flush_h`` gives, for an x that is not positive."""
            stays = builder.fcmp_unordered("<=", x, self.constant(-faintest))
            return builder.bitcast(builder.select(stays, signed(builder, x, of), self.integer(0)), self.vector)

        @instruction(V, V)
        def magnitude(builder, x):
            """|x|; NaN stays."""
            return builder.bitcast(size_of(builder, x), self.vector)

        @instruction(V, V, V)
        def with_sign(builder, x, of):
            """|x| with the sign of another number."""
            return builder.bitcast(signed(builder, x, of), self.vector)

        self.round_power, self.magnitude, self.with_sign = round_power, magnitude, with_sign
        self.flush_c, self.flush_h = flush_c, flush_h
        self.flushed, self.flushed_with_sign = flushed, flushed_with_sign

    @lru_cache  # noqa: B019  (a Simd lives as long as a build)
    def tile(self, rows, columns, blocks=1, ahead=0):
        """The instructions on a tile of accumulators: ``rows`` batch rows x ``blocks`` panels x ``columns`` registers.

        Columns are the four gates of a panel, or registers of outputs of a projection. ``gap`` is
        the distance between two blocks in memory, in numbers. Weights are asked for ``ahead`` bytes before
        their use, where that is not 0.
        """
        simd, lanes, at = self, self.lanes, types.int64
        size = rows * blocks * columns
        P, tile = self.pointer, types.UniTuple(self.register, size)
        places = [(j, k) for j in range(blocks) for k in range(columns)]

        def column_at(builder, index, gap, j, k):
            return builder.add(builder.add(index, builder.mul(gap, INT64(j))), INT64(k * lanes))

        def row_at(builder, index, stride, r):
            return builder.add(index, builder.mul(stride, INT64(r)))

        @instruction(tile)
        def zero(builder):
            return [simd.constant(0)] * size

        @instruction(tile, P, at, at)
        def start(builder, bias, index, gap):
            """Every row starts with the same registers: the bias."""
            first = [simd.emit_load(builder, bias, column_at(builder, index, gap, j, k)) for j, k in places]
            return first * rows

        @instruction(tile, P, at, at, at)
        def load(builder, pointer, index, stride, gap):
            return [
                simd.emit_load(builder, pointer, column_at(builder, row_at(builder, index, stride, r), gap, j, k))
                for r in range(rows)
                for j, k in places
            ]

        @instruction(types.void, P, at, at, tile)
        def store(builder, pointer, index, stride, value):
            """Of one block."""
            for n in range(size):
                r, k = divmod(n, columns)
                where = builder.add(row_at(builder, index, stride, r), INT64(k * lanes))
                address = simd.address(builder, pointer, where)
                builder.store(builder.extract_value(value, n), address, align=simd.number.itemsize)

        @instruction(tile, tile, tile)
        def add(builder, a, b):
            return [builder.fadd(builder.extract_value(a, n), builder.extract_value(b, n)) for n in range(size)]

        def unpacked(builder, value):
            return [builder.extract_value(value, n) for n in range(size)]

        def term(builder, sums, panel, index, gap, source, first, stride):
            """Every sum plus ``panel[index + block * gap + column * lanes + lane] * source[first + row * stride]``."""

            def splat(r):
                number = builder.load(builder.gep(source, [row_at(builder, first, stride, r)]))
                return simd.emit_splat(builder, number)

            def weight(n):
                return simd.emit_load(builder, panel, column_at(builder, index, gap, *places[n]))

            for j, k in places if ahead else ():
                if k * lanes * simd.number.itemsize % LINE == 0:
                    where = builder.add(column_at(builder, index, gap, j, k), INT64(ahead // simd.number.itemsize))
                    simd.emit_prefetch(builder, builder.gep(panel, [where]))
            sums = list(sums)
            # The longer side stays in registers and the shorter passes by one at a time: 12 sums, 3 splats and
            # 1 weight fill the 16 registers of AVX2; 24 sums, 4 weights and 1 splat leave 3 of 32.
            if rows <= len(places):
                splats = [splat(r) for r in range(rows)]
                for n in range(len(places)):
                    passing = weight(n)
                    for r in range(rows):
                        at_sum = r * len(places) + n
                        sums[at_sum] = simd.emit_fma(builder, passing, splats[r], sums[at_sum])
            else:
                weights = [weight(n) for n in range(len(places))]
                for r in range(rows):
                    passing = splat(r)
                    for n in range(len(places)):
                        at_sum = r * len(places) + n
                        sums[at_sum] = simd.emit_fma(builder, weights[n], passing, sums[at_sum])
            return sums

        def each(function, *kinds, then=None):
            """An instruction that calls ``function(*registers, r, j, *more)`` for every row r and block j of the tile.

            ``registers`` are the ``columns`` of that row and block, ``kinds`` the types of ``more``. Where there is a
            second part, it is called as ``then(result, r, j, *more)`` after the first of all rows and blocks: a CPU
            looks ahead by about a hundred instructions, and finds more to do beside each other in this order.
            """

            def each(typing_context, value, *more):
                registers = [simd.register] * columns
                first = types.Dispatcher(function)
                first_signature = typing_context.resolve_function_type(first, [*registers, at, at, *kinds], {})
                if then:
                    second = types.Dispatcher(then)
                    given = [first_signature.return_type, at, at, *kinds]
                    second_signature = typing_context.resolve_function_type(second, given, {})

                def codegen(context, builder, _, values):
                    call, results = context.get_function(first, first_signature), []
                    for n in range(rows * blocks):
                        r, j = divmod(n, blocks)
                        taken = [builder.extract_value(values[0], n * columns + k) for k in range(columns)]
                        results.append((call(builder, [*taken, INT64(r), INT64(j), *values[1:]]), INT64(r), INT64(j)))
                    if then:
                        call = context.get_function(second, second_signature)
                        for result in results:
                            call(builder, [*result, *values[1:]])
                    return context.get_dummy_value()

                return types.void(tile, *kinds), codegen

            return fixed_intrinsic(each, ["value", *(f"more_{n}" for n in range(len(kinds)))])

        def term_at(builder, k, sums, panel, index, gap, source, stride):
            """The term k of a chain: its weights are ``columns * lanes`` behind those of the term before."""
            where = builder.add(index, builder.mul(k, INT64(columns * lanes)))
            return term(builder, sums, panel, where, gap, source, k, stride)

        @instruction(tile, tile, P, at, at, P, at, at)
        def fma(builder, value, panel, index, gap, source, first, stride):
            """``term`` as an instruction."""
            return term(builder, unpacked(builder, value), panel, index, gap, source, first, stride)

        @instruction(tile, tile, P, at, at, at, P, at)
        def dot(builder, value, panel, index, gap, count, source, stride):
            """``count`` terms in order of k: ``panel[index + k * columns * lanes ...] * source[k + row * stride]``."""

            def next_term(k, sums):
                return term_at(builder, k, sums, panel, index, gap, source, stride)

            return emit_chain(builder, simd.constant(0), count, unpacked(builder, value), next_term)

        prefetch = self.prefetch(max(1, size // rows * lanes * self.number.itemsize // LINE // 2))

        @inline
        def run(panel, ahead, count, source, stride, sums, sums_stride, bias, begin):
            """``dot`` with the sums in memory, run after run. Half as many lines are asked for meanwhile."""
            for first in range(0, count, K_BLOCK):
                value = zero()
                if begin == FROM_BIAS:
                    value = start(bias, 0, 0)
                for k in range(first, smaller(first + K_BLOCK, count)):
                    prefetch(ahead, k * columns * lanes)
                    value = fma(value, panel, k * columns * lanes, 0, source, k, stride)
                if begin == GO_ON:
                    value = add(load(sums, 0, sums_stride, 0), value)
                store(sums, 0, sums_stride, value)
                begin = GO_ON

        return SimpleNamespace(
            zero=zero,
            start=start,
            load=load,
            store=store,
            add=add,
            fma=fma,
            dot=dot,
            each=each,
            run=run,
            type=tile,
            term=term_at,
        )
