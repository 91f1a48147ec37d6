"""The activations of an LSTM cell: five of them with three divisions, on SIMD registers or in the threads of a GPU.

A cell with other options has `other_cell`, made of `functions` by ONNX's names.

Everything rests on e^x kept as the pair (2^n, e^x - 2^n), so that e^x and e^x - 1
both keep their last bits: a small signal stays one, where 1 - 2 / (e^2x + 1) would
cancel. With t = e^-2|x| - 1, |tanh(x)| is -t / (t + 2); sigmoid(x) is 1 / (1 + e^-x).

- A gate (i, f, o) whose argument is below -87 (float32) or -708 (float64) is exactly 0: the whole numbers next to
  the logarithm of the smallest normal number.
- The forget gate has a division of its own, so that sigmoid(f) c is right over the
  full exponent range of c down to that argument.
- NaN stays NaN through every clamp and every conversion.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from numlstm.base.cell_options import Activation, CellOptions

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
# 2 atanh(s) / s as a polynomial of s**2 for s <= 1/3, found likewise: 2**-27.9 and 2**-59.5
LOG_POLYNOMIAL = {
    "float32": (
        2.0000000079210485097,
        0.66666314681864812378,
        0.40024910287361399338,
        0.27960602678833875117,
        0.28178335246428486094,
    ),
    "float64": (
        2.0000000000000000025,
        0.66666666666666134238,
        0.4000000000019032509,
        0.28571428544925157454,
        0.22222224111772141936,
        0.18181739787751805759,
        0.15386635453768495418,
        0.13300102515887725506,
        0.12112248959493535734,
        0.083156843071811262012,
        0.17060062608429468209,
    ),
}
STEEP = {"float32": 2.0**26, "float64": 2.0**55}  # x / (1 + x) of this and more rounds to 1


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
    def c_and_power_of_denominators(under_i, under_f, g, c):
        """`c_of_denominators` in the same bits, and +-e**-2|g|."""
        e_g, t = exp_and_less_one(magnitude(g))
        new = div(with_sign(t, g), mul(under_i, add(t, two())))
        c, size = flushed(add(div(c, under_f), new), flat())
        return c, size, with_sign(e_g, g)

    @inline
    def to_c_and_powers(i, f, g, o, c):
        """`to_c` in the same bits, and what a backward pass needs of the gates: e**-i, e**-f, +-e**-2|g|, e**-o."""
        under_i, e_i = denominator_and_exp(i)
        under_f, e_f = denominator_and_exp(f)
        under_o, e_o = denominator_and_exp(o)
        c, size, e_g = c_and_power_of_denominators(under_i, under_f, g, c)
        return c, size, under_o, e_i, e_f, e_g, e_o

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
        denominator_and_exp=denominator_and_exp,
        c_and_power_of_denominators=c_and_power_of_denominators,
        to_c_and_powers=to_c_and_powers,
        exp_and_less_one=exp_and_less_one,
    )


def functions(simd: Any, name: str, *numbers: float) -> Any:
    """``(x) -> activation``, by its name in ONNX and its alpha and beta. NaN stays NaN."""
    make: Any = {
        "Sigmoid": _sigmoid,
        "Tanh": _tanh,
        "ScaledTanh": _tanh,
        "Elu": _elu,
        "Softsign": _softsign,
        "Softplus": _softplus,
    }.get(name, _straight)
    return make(simd, name, *numbers)


def _straight(simd: Any, name: str, alpha: float = 0.0, beta: float = 0.0) -> Any:
    """Those that are straight lines: Relu, LeakyRelu, ThresholdedRelu, HardSigmoid, Affine."""
    inline, fma, mul, at_most, unless_below = simd.inline, simd.fma, simd.mul, simd.at_most, simd.unless_below
    a, b, zero, one = simd.splat(alpha), simd.splat(beta), simd.splat(0), simd.splat(1)
    above = simd.splat(float(np.nextafter(simd.number.type(alpha), simd.number.type(np.inf))))

    @inline
    def relu(x):
        return unless_below(x, zero(), x, zero())

    @inline
    def leaky(x):
        return unless_below(x, zero(), x, mul(a(), x))

    @inline
    def thresholded(x):
        return unless_below(x, above(), x, zero())

    @inline
    def affine(x):
        return fma(a(), x, b())

    @inline
    def hard(x):
        return at_most(relu(affine(x)), one())

    return {"Relu": relu, "LeakyRelu": leaky, "ThresholdedRelu": thresholded, "Affine": affine, "HardSigmoid": hard}[
        name
    ]


def _sigmoid(simd: Any, name: str) -> Any:
    div, one, denominator = simd.div, simd.splat(1), activations(simd).one_and_exp_of_minus

    @simd.inline
    def sigmoid(x):
        return div(one(), denominator(x))

    return sigmoid


def tanh_parts(simd: Any, alpha: float = 1.0, beta: float = 1.0) -> Any:
    """``(x) -> numerator, denominator`` of alpha tanh(beta x): one division serves it and a factor."""
    inline, add, mul, with_sign = simd.inline, simd.add, simd.mul, simd.with_sign
    at_most, magnitude, exp_minus_one = simd.at_most, simd.magnitude, activations(simd).exp_minus_one
    a, b, two, flat = simd.splat(alpha), simd.splat(beta), simd.splat(2), simd.splat(FLAT[simd.number.name] / 2)

    @inline
    def parts(x):
        t = exp_minus_one(at_most(magnitude(x), flat()))
        return with_sign(t, x), add(t, two())

    @inline
    def scaled_parts(x):
        numerator, denominator = parts(mul(b(), x))
        return mul(a(), numerator), denominator

    return parts if (alpha, beta) == (1.0, 1.0) else scaled_parts


def _tanh(simd: Any, name: str, alpha: float = 1.0, beta: float = 1.0) -> Any:
    div, parts = simd.div, tanh_parts(simd, alpha, beta)

    @simd.inline
    def tanh(x):
        numerator, denominator = parts(x)
        return div(numerator, denominator)

    return tanh


def _elu(simd: Any, name: str, alpha: float) -> Any:
    mul, at_most, magnitude, unless_below = simd.mul, simd.at_most, simd.magnitude, simd.unless_below
    a, zero, half, flat = simd.splat(alpha), simd.splat(0), simd.splat(0.5), simd.splat(FLAT[simd.number.name] / 2)
    exp_minus_one = activations(simd).exp_minus_one

    @simd.inline
    def elu(x):
        return unless_below(x, zero(), x, mul(a(), exp_minus_one(at_most(mul(half(), magnitude(x)), flat()))))

    return elu


def _softsign(simd: Any, name: str) -> Any:
    add, div, with_sign, at_most, magnitude = simd.add, simd.div, simd.with_sign, simd.at_most, simd.magnitude
    one, steep = simd.splat(1), simd.splat(STEEP[simd.number.name])

    @simd.inline
    def softsign(x):
        size = at_most(magnitude(x), steep())  # so that of infinity it is 1
        return div(with_sign(size, x), add(one(), size))

    return softsign


def _softplus(simd: Any, name: str) -> Any:
    """max(x, 0) + log(1 + y) with y = e^-|x|: log(1 + y) = 2 atanh(s) with s = y / (2 + y) <= 1/3."""
    add, mul, div, magnitude, unless_below = simd.add, simd.mul, simd.div, simd.magnitude, simd.unless_below
    two, zero, half, minus_full = simd.splat(2), simd.splat(0), simd.splat(0.5), simd.splat(-FULL[simd.number.name])
    exp = activations(simd).exp_and_less_one
    polynomial = horner(simd, LOG_POLYNOMIAL[simd.number.name])

    @simd.inline
    def softplus(x):
        y, _ = exp(mul(half(), magnitude(x)))
        s = div(y, add(two(), y))
        log = mul(s, polynomial(mul(s, s)))
        return unless_below(x, minus_full(), add(unless_below(x, zero(), x, zero()), log), zero())

    return softplus


def limiter(simd: Any, clip: float) -> Any:
    """``(x) -> x`` between -clip and clip."""
    inline, at_most, unless_below, high, low = (
        simd.inline,
        simd.at_most,
        simd.unless_below,
        simd.splat(clip),
        simd.splat(-clip),
    )

    @inline
    def limited(x):
        return at_most(unless_below(x, low(), x, low()), high())

    @inline
    def unlimited(x):
        return x

    return unlimited if clip == np.inf else limited


def quotient_of(simd: Any, gate: Activation, other: Activation) -> tuple[Any, Any]:
    """``parts(x)`` of the function ``other``, and ``product(of_gate, *parts)``, its product with a gate.

    A gate of sigmoid is given by its denominator, and tanh has one too: the product takes a single division.
    """
    inline, mul, div, (name, *numbers) = simd.inline, simd.mul, simd.div, other
    divided, value = gate[0] == "Sigmoid", functions(simd, name, *numbers)

    @inline
    def whole(x):
        y = value(x)
        return y, y

    @inline
    def product(of_gate, numerator, denominator):
        return mul(of_gate, numerator)

    @inline
    def by_gate(of_gate, numerator, denominator):
        return div(numerator, of_gate)

    @inline
    def by_other(of_gate, numerator, denominator):
        return div(mul(of_gate, numerator), denominator)

    @inline
    def by_both(of_gate, numerator, denominator):
        return div(numerator, mul(of_gate, denominator))

    if name in ("Tanh", "ScaledTanh"):
        return tanh_parts(simd, *numbers), by_both if divided else by_other
    return whole, by_gate if divided else product


@cache
def other_cell(simd: Any, options: CellOptions) -> SimpleNamespace:
    """``to_c`` and ``to_h`` of a cell with options; otherwise as those of `activations`.

    ``to_c`` takes the peepholes of i, f and o besides, which it does not look at if there are none.
    """
    inline, add, div, fma, neg, one = simd.inline, simd.add, simd.div, simd.fma, simd.neg, simd.splat(1)
    flush_c, flush_h, limited = simd.flush_c, simd.flush_h, limiter(simd, options.clip)
    is_sigmoid, seen, coupled = options.f[0] == "Sigmoid", options.peepholes, options.input_forget
    # of sigmoid, the denominator stands for the gate
    gate = activations(simd).one_and_exp_of_minus if is_sigmoid else functions(simd, *options.f)
    g_parts, i_times_g = quotient_of(simd, options.f, options.g)
    h_parts, o_times_h = quotient_of(simd, options.f, options.h)

    @inline
    def sums(x, peephole, c):
        return limited(fma(peephole, c, x) if seen else x)

    @inline
    def rest(x, of_i):
        """1 - i."""
        return gate(neg(x)) if is_sigmoid else add(one(), neg(of_i))

    @inline
    def to_c(i, f, g, o, c, p_i, p_f, p_o):
        i = sums(i, p_i, c)
        of_i = gate(i)
        of_f = rest(i, of_i) if coupled else gate(sums(f, p_f, c))
        numerator, denominator = g_parts(limited(g))
        new = i_times_g(of_i, numerator, denominator)
        c = flush_c(add(div(c, of_f), new) if is_sigmoid else fma(of_f, c, new))
        return c, c, gate(sums(o, p_o, c))

    @inline
    def to_h(c, same, of_o):
        numerator, denominator = h_parts(c)
        return flush_h(o_times_h(of_o, numerator, denominator))

    return SimpleNamespace(to_c=to_c, to_h=to_h)
