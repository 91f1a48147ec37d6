"""One thread as a register of one lane: the instructions that ``kernels.activations`` is written with, on a GPU.

Every one is a single rounding to nearest, said so: CUDA's compilers make one FMA of a product and a sum that do
not say it. The simulator's are NumPy's, with the FMA of the CPU.
"""

from types import SimpleNamespace

import numba
import numpy as np

from numlstm.kernels.activations import FAINTEST, activations

from ..device import SIMULATED, cuda, inline


def simulated(number):
    """Instructions for the simulator."""
    from .exact import fused

    number = np.dtype(number).type
    integer = {4: np.int32, 8: np.int64}[np.dtype(number).itemsize]
    fma = fused(number)

    # Under errstate, since infinities are values here and a simulated thread has NumPy's default of warning.
    def quiet(operation):
        def instruction(a, b):
            with np.errstate(all="ignore"):
                return operation(a, b)

        return instruction

    return SimpleNamespace(
        add=quiet(lambda a, b: a + b),
        mul=quiet(lambda a, b: a * b),
        div=quiet(lambda a, b: a / b),
        fma=fma,
        to_bits=lambda x: x.view(integer),
        to_number=lambda i: i.view(number),
    )


def compiled(number):
    """Instructions for a device."""
    from numba.cuda import libdevice

    single = np.dtype(number).itemsize == 4
    adding, multiplying, dividing = (
        (libdevice.fadd_rn, libdevice.fmul_rn, libdevice.fdiv_rn)
        if single
        else (libdevice.dadd_rn, libdevice.dmul_rn, libdevice.ddiv_rn)
    )
    as_bits, as_number = (
        (libdevice.float_as_int, libdevice.int_as_float)
        if single
        else (libdevice.double_as_longlong, libdevice.longlong_as_double)
    )

    @inline
    def add(a, b):
        return adding(a, b)

    @inline
    def mul(a, b):
        return multiplying(a, b)

    @inline
    def div(a, b):
        return dividing(a, b)

    @inline
    def fma(a, b, c):
        return cuda.fma(a, b, c)

    @inline
    def to_bits(x):
        return as_bits(x)

    @inline
    def to_number(i):
        return as_number(i)

    return SimpleNamespace(add=add, mul=mul, div=div, fma=fma, to_bits=to_bits, to_number=to_number)


class Lane:
    """The instructions for one number type; the names and the bits are those of ``kernels.simd.Simd``."""

    inline = staticmethod(inline)

    def __init__(self, number):
        self.number = np.dtype(number)
        self.scalar = numba.from_dtype(self.number)
        self.zero = self.number.type(0)
        basic = simulated(number) if SIMULATED else compiled(number)
        self.add, self.mul, self.div, self.fma = basic.add, basic.mul, basic.div, basic.fma
        self.to_bits, self.to_number = basic.to_bits, basic.to_number
        self.integer = {4: np.int32, 8: np.int64}[self.number.itemsize]
        bits = self.number.itemsize * 8
        self.size_mask, self.sign_mask = self.integer(2 ** (bits - 1) - 1), self.integer(-(2 ** (bits - 1)))
        self._arithmetic()
        self._bits()
        self._flushes()
        self._epilogue()

    def splat(self, value):
        """A function that gives a constant of the number type."""
        constant = self.number.type(value)

        @inline
        def splat():
            return constant

        return splat

    def _arithmetic(self):
        @inline
        def neg(a):
            return -a

        @inline
        def at_most(x, high):
            """x limited from above; NaN stays."""
            return high if x > high else x

        @inline
        def unless_below(x, limit, value, otherwise):
            """``value``, and ``otherwise`` where x < limit (not where x is NaN)."""
            return otherwise if x < limit else value

        self.neg, self.at_most, self.unless_below = neg, at_most, unless_below

    def _bits(self):
        add, fma, to_bits, to_number = self.add, self.fma, self.to_bits, self.to_number
        integer, size_mask, sign_mask = self.integer, self.size_mask, self.sign_mask
        fraction = integer(np.finfo(self.number).nmant)
        # as in kernels.simd: the low bits become the rounded integer plus the exponent's bias
        magic = self.number.type(1.5 * 2.0 ** int(fraction) + np.finfo(self.number).maxexp - 1)
        minus_magic = -magic

        @inline
        def round_power(x, scale):
            """(n, 2**n) for n = x * scale rounded to an integer."""
            shifted = fma(x, scale, magic)
            return add(shifted, minus_magic), to_number(integer(to_bits(shifted) << fraction))

        @inline
        def magnitude(x):
            return to_number(integer(to_bits(x) & size_mask))

        @inline
        def with_sign(x, of):
            return to_number(integer((to_bits(x) & size_mask) | (to_bits(of) & sign_mask)))

        self.round_power, self.magnitude, self.with_sign = round_power, magnitude, with_sign

    def _flushes(self):
        to_bits, at_most, magnitude, with_sign = self.to_bits, self.at_most, self.magnitude, self.with_sign
        size_mask, zero = self.size_mask, self.zero
        faintest = self.number.type(FAINTEST[self.number.name])
        minus_faintest, audible = -faintest, faintest.view(self.integer)
        normal = np.finfo(self.number).tiny.view(self.integer)

        @inline
        def flush_c(x):
            """x, and 0 where its magnitude is below the smallest normal number; NaN stays."""
            return x if (to_bits(x) & size_mask) >= normal else zero

        @inline
        def flush_h(x):
            """x, and 0 where its magnitude is below ``FAINTEST``; NaN stays."""
            return x if (to_bits(x) & size_mask) >= audible else zero

        @inline
        def flushed(x, most):
            """(x, |x| limited to ``most``), both of the x that ``flush_c`` gives."""
            value = flush_c(x)
            return value, at_most(magnitude(value), most)

        @inline
        def flushed_with_sign(x, of):
            """``with_sign`` of the x that ``flush_h`` gives, for an x that is not positive."""
            return zero if x > minus_faintest else with_sign(x, of)

        self.flush_c, self.flush_h = flush_c, flush_h
        self.flushed, self.flushed_with_sign = flushed, flushed_with_sign

    def _epilogue(self):
        add, part = self.add, activations(self)
        to_c, to_h = part.to_c, part.to_h

        @inline
        def cell(i, f, g, o, c):
            """Gates before activation and c, to the new (h, c)."""
            c, size, denominator = to_c(i, f, g, o, c)
            return to_h(c, size, denominator), c

        @inline
        def epilogue(sums, r, gates, at, units, c_n, c_at):
            """The new h of a unit in row r of a tile; its c is set. R is in ``sums``, X in ``gates`` from ``at``."""
            hidden, c_n[c_at] = cell(
                add(gates[at], sums[0, r]),
                add(gates[at + units], sums[1, r]),
                add(gates[at + 2 * units], sums[2, r]),
                add(gates[at + 3 * units], sums[3, r]),
                c_n[c_at],
            )
            return hidden

        self.cell, self.epilogue = cell, epilogue
