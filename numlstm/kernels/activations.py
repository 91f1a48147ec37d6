"""The activations of an LSTM cell: five of them with three divisions, on SIMD registers or in the threads of a GPU.

Everything rests on e^x kept as the pair (2^n, e^x - 2^n), so that e^x and e^x - 1
both keep their last bits: a small signal stays one, where 1 - 2 / (e^2x + 1) would
cancel. With t = e^-2|x| - 1, |tanh(x)| is -t / (t + 2); sigmoid(x) is 1 / (1 + e^-x).

- A gate (i, f, o) whose argument is below -87 (float32) or -708 (float64) is exactly 0: the whole numbers next to
  the logarithm of the smallest normal number.
- The forget gate has a division of its own, so that sigmoid(f) c is right over the
  full exponent range of c down to that argument.
- NaN stays NaN through every clamp and every conversion.
"""

from functools import cache
from types import SimpleNamespace

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
# h below this is 0: 26 powers of two above the smallest normal number, so that its products with weights are normal
# numbers, which a CPU multiplies a hundred times faster than those below
FAINTEST = {"float32": 2.0**-100, "float64": 2.0**-996}
# what stands for a smaller argument: its 2**n is infinite, and so is the sum with what is left of e**OVER
OVER = {"float32": 88.8, "float64": 709.9}
# below e**-FLAT, -t / (t + 2) rounds to 1
FLAT = {"float32": 20.0, "float64": 40.0}


def horner(simd, coefficients):
    """``(r) -> polynomial`` by one FMA a coefficient, highest power first."""
    inline, fma, lowest = simd.inline, simd.fma, simd.splat(coefficients[0])
    if len(coefficients) == 1:

        @inline
        def polynomial(r):
            return lowest()

    else:
        rest = horner(simd, coefficients[1:])

        @inline
        def polynomial(r):
            return fma(rest(r), r, lowest())

    return polynomial


@cache
def activations(simd):
    """``to_c`` and ``to_h``, the two parts of a cell for the registers of ``simd``, and what training needs besides.

    For a ``to_c`` in two passes: ``one_and_exp_of_minus`` of i, f and o, and ``c_of_denominators``. Whatever has these
    instructions gives the same bits: ``kernels.simd`` has them for a register and for several side by side, and
    ``cuda.kernels.lane`` for a thread.
    """
    inline = simd.inline
    add, mul, div, fma, neg = simd.add, simd.mul, simd.div, simd.fma, simd.neg
    at_most, unless_below = simd.at_most, simd.unless_below
    round_power, magnitude = simd.round_power, simd.magnitude
    with_sign, flushed, flushed_with_sign = simd.with_sign, simd.flushed, simd.flushed_with_sign
    name = simd.number.name
    one, two, minus_one = simd.splat(1), simd.splat(2), simd.splat(-1)
    full, minus_full, minus_over = simd.splat(FULL[name]), simd.splat(-FULL[name]), simd.splat(-OVER[name])
    flat, half_full = simd.splat(FLAT[name] / 2), simd.splat(FULL[name] / 2)
    minus_log2_e, minus_log2_e_rest = (simd.splat(-part) for part in LOG2_E[name])
    minus_twice_log2_e, minus_twice_log2_e_rest = (simd.splat(-2 * part) for part in LOG2_E[name])

    polynomial = horner(simd, POLYNOMIAL[name])

    @inline
    def power_parts(x, scale, scale_rest):
        """(2**n, p) with b**x = 2**n + 2**n p, for log2(b) in two parts and x log2(b) in the range of exponents."""
        n, power = round_power(x, scale)
        r = fma(x, scale_rest, fma(x, scale, neg(n)))
        return power, mul(polynomial(r), r)

    # 2**n p is exact, so that one FMA adds it to the rest in the same bits as a product and an addition do. (Below the
    # normal numbers it is not, but there it is added to 1.)

    @inline
    def one_and_exp_of_minus(x):
        """1 + e**-x, the denominator of sigmoid(x): infinite where the gate is to be 0."""
        x = unless_below(x, minus_full(), at_most(x, full()), minus_over())
        power, part = power_parts(x, minus_log2_e(), minus_log2_e_rest())
        return fma(part, power, add(one(), power))

    @inline
    def exp_minus_one(x):
        """t = e**-2x - 1 for 0 <= x <= FLAT / 2: tanh(x) is -t / (t + 2).

        Of |x| and not of x, for t + 2 is then at most 2, and its product with another denominator never overflows.
        """
        power, part = power_parts(x, minus_twice_log2_e(), minus_twice_log2_e_rest())
        return fma(part, power, add(power, minus_one()))

    @inline
    def exp_and_less_one(x):
        """e**-2x, and t, for x >= 0; t has the bits of ``exp_minus_one``, for both round to -1 beyond its range."""
        x = at_most(x, half_full())
        power, part = power_parts(x, minus_twice_log2_e(), minus_twice_log2_e_rest())
        return fma(part, power, power), fma(part, power, add(power, minus_one()))

    @inline
    def denominator_and_exp(x):
        """``one_and_exp_of_minus``, and e**-x itself."""
        x = unless_below(x, minus_full(), at_most(x, full()), minus_over())
        power, part = power_parts(x, minus_log2_e(), minus_log2_e_rest())
        return fma(part, power, add(one(), power)), fma(part, power, power)

    @inline
    def itself(denominator):
        return denominator

    def new_c(denominator):
        """``(i, f, g, c) -> (the new c, |c| limited)``; ``denominator`` makes sigmoid's of i and of f."""

        @inline
        def c_of(i, f, g, c):
            # c = i g + f c, where f c, the forget gate's part, is c / (1 + e**-f)
            t = exp_minus_one(at_most(magnitude(g), flat()))
            new = div(with_sign(t, g), mul(denominator(i), add(t, two())))
            return flushed(add(div(c, denominator(f)), new), flat())

        return c_of

    c_of, c_of_denominators = new_c(one_and_exp_of_minus), new_c(itself)

    @inline
    def to_c(i, f, g, o, c):
        """Gates before activation and the cell state, to the new c and what h is made of: |c| limited, and S(o)."""
        c, size = c_of(i, f, g, c)
        return c, size, one_and_exp_of_minus(o)

    @inline
    def to_c_and_powers(i, f, g, o, c):
        """`to_c` in the same bits, and what a backward pass needs of the gates: e**-i, e**-f, +-e**-2|g|, e**-o."""
        e_g, t = exp_and_less_one(magnitude(g))
        under_i, e_i = denominator_and_exp(i)
        under_f, e_f = denominator_and_exp(f)
        under_o, e_o = denominator_and_exp(o)
        new = div(with_sign(t, g), mul(under_i, add(t, two())))
        c, size = flushed(add(div(c, under_f), new), flat())
        return c, size, under_o, e_i, e_f, with_sign(e_g, g), e_o

    @inline
    def to_h(c, size, denominator):
        """The new h."""
        t = exp_minus_one(size)
        # t is never positive, so that flushing and the sign of c cost two instructions and not four
        return flushed_with_sign(div(t, mul(denominator, add(t, two()))), c)

    return SimpleNamespace(
        to_c=to_c,
        to_h=to_h,
        one_and_exp_of_minus=one_and_exp_of_minus,
        exp_minus_one=exp_minus_one,
        c_of_denominators=c_of_denominators,
        to_c_and_powers=to_c_and_powers,
        exp_and_less_one=exp_and_less_one,
    )
