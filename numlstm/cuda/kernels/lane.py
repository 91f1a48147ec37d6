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
        vars(self).update(vars(basic))
        self._special()
        part = activations(self)
        to_c, to_h = part.to_c, part.to_h

        @inline
        def cell(i, f, g, o, c):
            """Gates before activation and c, to the new (h, c)."""
            c, size, denominator = to_c(i, f, g, o, c)
            return to_h(c, size, denominator), c

        self.cell = cell

    def splat(self, value):
        """A function that gives a constant of the number type."""
        constant = self.number.type(value)

        @inline
        def splat():
            return constant

        return splat

    def _special(self):
        add, fma, to_bits, to_number = self.add, self.fma, self.to_bits, self.to_number
        real, bits = self.number.type, self.number.itemsize * 8
        integer = {32: np.int32, 64: np.int64}[bits]
        fraction = integer(np.finfo(self.number).nmant)
        # as in kernels.simd: the low bits become the rounded integer plus the exponent's bias
        magic = real(1.5 * 2.0 ** int(fraction) + np.finfo(self.number).maxexp - 1)
        minus_magic, zero = -magic, real(0)
        size_mask, sign_mask = integer(2 ** (bits - 1) - 1), integer(-(2 ** (bits - 1)))
        faintest = real(FAINTEST[self.number.name])
        minus_faintest, audible = -faintest, faintest.view(integer)
        normal = np.finfo(self.number).tiny.view(integer)

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

        self.neg, self.at_most, self.unless_below, self.round_power = neg, at_most, unless_below, round_power
        self.magnitude, self.with_sign = magnitude, with_sign
        self.flush_c, self.flush_h = flush_c, flush_h
        self.flushed, self.flushed_with_sign = flushed, flushed_with_sign
