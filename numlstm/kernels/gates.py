"""The activations of an LSTM cell on SIMD registers: five of them with three divisions.

Everything rests on e^x kept as the pair (2^n, e^x - 2^n), so that e^x and e^x - 1
both keep their last bits: a small signal stays one, where 1 - 2 / (e^2x + 1) would
cancel. With t = e^-2|x| - 1, |tanh(x)| is -t / (t + 2); sigmoid(x) is 1 / (1 + e^-x).

- A gate (i, f, o) whose argument is below -87 (float32) or -708 (float64) is exactly 0: the whole numbers next to
  the logarithm of the smallest normal number.
- The forget gate has a division of its own, so that sigmoid(f) c is right over the
  full exponent range of c down to that argument.
- NaN stays NaN through every clamp and every conversion.
"""

from types import SimpleNamespace

import numpy as np

from .compiler import inline

# (2**r - 1) / r on [-1/2, 1/2]: the polynomial of least maximal relative error (Remez exchange at 60 digits),
# lowest power first. 2**-26.5 in float32, 2**-61.9 in float64.
POLYNOMIAL = {
    "float32": (
        0.69314718792663120759,
        0.24022649794877507036,
        0.055503574337768430631,
        0.0096182375081245758265,
        0.0013390735442414510899,
        0.00015403508466107703532,
    ),
    "float64": (
        0.69314718055994530926,
        0.24022650695910071286,
        0.055504108664821626543,
        0.0096181291076284369478,
        0.0013333558146406629814,
        0.0001540353039346616866,
        0.000015252733841378435545,
        1.321548672135834599e-6,
        1.0178057169303353815e-7,
        7.054932271678973996e-9,
        4.4558047518588098532e-10,
        2.5678429013719152067e-11,
    ),
}
# log2(e) in two parts: the number nearest to it, and the number nearest to what is left
LOG2_E = {
    "float32": (1.4426950216293335, 1.9259629911266175e-08),
    "float64": (1.4426950408889634, 2.0355273740931033e-17),
}
# e**FULL and e**-FULL are normal numbers; a gate whose argument is below -FULL is 0
FULL = {"float32": 87.0, "float64": 708.0}
# below e**-FLAT, -t / (t + 2) rounds to 1
FLAT = {"float32": 20.0, "float64": 40.0}


def activations(simd):
    """``cell(i, f, g, o, c) -> (h, c)`` for the registers of ``simd``."""
    add, mul, div, fma, neg = simd.add, simd.mul, simd.div, simd.fma, simd.neg
    clamp, below, round_power, flush = simd.clamp, simd.below, simd.round_power, simd.flush
    minus_abs, with_sign = simd.minus_abs, simd.with_sign
    name = simd.number.name
    one, two, minus_one, infinity = simd.splat(1), simd.splat(2), simd.splat(-1), simd.splat(np.inf)
    full, minus_full = simd.splat(FULL[name]), simd.splat(-FULL[name])
    minus_flat = simd.splat(-FLAT[name])
    log2_e, log2_e_rest = (simd.splat(part) for part in LOG2_E[name])

    def horner(coefficients):
        """``(r) -> polynomial`` by one FMA a coefficient, highest power first."""
        lowest = simd.splat(coefficients[0])
        if len(coefficients) == 1:

            @inline
            def polynomial(r):
                return lowest()

        else:
            rest = horner(coefficients[1:])

            @inline
            def polynomial(r):
                return fma(rest(r), r, lowest())

        return polynomial

    polynomial = horner(POLYNOMIAL[name])

    @inline
    def exp_parts(x):
        """(2**n, e**x - 2**n) for |x| <= FULL."""
        n, power = round_power(x, log2_e())
        r = fma(x, log2_e_rest(), fma(x, log2_e(), neg(n)))
        return power, mul(mul(polynomial(r), r), power)

    @inline
    def one_and_exp_of_minus(x):
        """1 + e**-x, the denominator of sigmoid(x): infinite where the gate is to be 0."""
        power, rest = exp_parts(neg(clamp(x, minus_full(), full())))
        return below(x, minus_full(), infinity(), add(add(one(), power), rest))

    @inline
    def exp_minus_one(x):
        """t = e**(-2|x|) - 1, limited where tanh is flat: |tanh(x)| is -t / (t + 2).

        Of |x| and not of x, for t + 2 is then at most 2, and its product with another denominator never overflows.
        """
        x = mul(minus_abs(x), two())
        power, rest = exp_parts(below(x, minus_flat(), minus_flat(), x))
        return add(rest, add(power, minus_one()))

    @inline
    def cell(i, f, g, o, c):
        """Gates before activation and the cell state, to the new h and c."""
        t = exp_minus_one(g)
        new = div(with_sign(t, g), mul(one_and_exp_of_minus(i), add(t, two())))
        c = flush(add(div(c, one_and_exp_of_minus(f)), new))
        t = exp_minus_one(c)
        h = flush(div(with_sign(t, c), mul(one_and_exp_of_minus(o), add(t, two()))))
        return h, c

    return SimpleNamespace(cell=cell)
