"""The derivatives of a cell: from the gradients of its new h and c to those of its gates and of its old c.

The forward pass has kept e^-i, e^-f, e^-o and e^-2|g| with the sign of g, not the gates. A sigmoid s is
1 / (1 + E), and its derivative (E s) s keeps all digits where the gate is saturated, as s (1 - s) would not. tanh(g)
is (1 - E) / (1 + E), its derivative 4 (E r) r with r = 1 / (1 + E). Only e^-2|c| is computed anew.
"""

import numpy as np

from ..activations import activations
from ..compiler import inline


def cell_derivatives(simd):
    """``(e_i, e_f, e_g, e_o, c, c_before, dm, dc) -> d_i, d_f, d_g, d_o, dc, m``.

    ``dm`` is the gradient of m = o tanh(c), ``dc`` that of c from the step after it.
    """
    add, mul, div, fma, neg = simd.add, simd.mul, simd.div, simd.fma, simd.neg
    at_most, unless_below, magnitude, with_sign = simd.at_most, simd.unless_below, simd.magnitude, simd.with_sign
    flush_c, flush_h = simd.flush_c, simd.flush_h
    exp_and_less_one = activations(simd).exp_and_less_one
    # what a gate of 0 has kept is infinite, and (E s) s would be NaN
    most = simd.splat(float(np.finfo(simd.number).max) / 4)
    one, two, four = simd.splat(1), simd.splat(2), simd.splat(4)
    half, quarter = simd.splat(0.5), simd.splat(0.25)

    @inline
    def sigmoid_parts(e):
        """s and s (1 - s) of a sigmoid: 1 - s is E s where s is near 1, and else a subtraction, with less rounding."""
        s = div(one(), add(one(), e))
        return s, mul(s, unless_below(e, half(), add(one(), neg(s)), mul(e, s)))

    @inline
    def tanh_derivative(e, r, tanh):
        """Likewise: 4 (E r) r where tanh is near 1 or -1, and else 1 - tanh^2."""
        return unless_below(e, quarter(), fma(neg(tanh), tanh, one()), mul(four(), mul(mul(e, r), r)))

    @inline
    def derive(e_i, e_f, e_g, e_o, c, c_before, dm, dc):
        i, of_i = sigmoid_parts(at_most(e_i, most()))
        f, of_f = sigmoid_parts(at_most(e_f, most()))
        o, of_o = sigmoid_parts(at_most(e_o, most()))
        sign, e_g = e_g, magnitude(e_g)
        e_c, less_one = exp_and_less_one(magnitude(c))
        r_g, r_c = div(one(), add(one(), e_g)), div(one(), add(less_one, two()))
        g = with_sign(mul(add(one(), neg(e_g)), r_g), sign)
        tanh_c = with_sign(mul(less_one, r_c), c)
        dc = fma(mul(dm, o), tanh_derivative(e_c, r_c, tanh_c), dc)
        d_i, d_f = mul(mul(dc, g), of_i), mul(mul(dc, c_before), of_f)
        d_g, d_o = mul(mul(dc, i), tanh_derivative(e_g, r_g, g)), mul(mul(dm, tanh_c), of_o)
        return flush_h(d_i), flush_h(d_f), flush_h(d_g), flush_h(d_o), flush_c(mul(dc, f)), mul(tanh_c, o)

    return derive
