"""The FMA that the simulator lacks: LLVM's on the CPU, one rounding whether the CPU has the instruction or not."""

import functools

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _fma(typing_context, a, b, c):
    def codegen(context, builder, signature, values):
        kind = values[0].type
        bits = 32 if isinstance(kind, ir.FloatType) else 64
        name = f"llvm.fma.f{bits}"  # becomes a call of the C library's fma on a CPU without one
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(function, values)

    return a(a, a, a), codegen


@functools.cache
def fused(number):
    """``(a, b, c) -> a * b + c`` rounded once, on NumPy's scalars of this type."""
    kind = numba.from_dtype(np.dtype(number))
    real = np.dtype(number).type

    @numba.njit(kind(kind, kind, kind))
    def fma(a, b, c):
        return _fma(a, b, c)

    return lambda a, b, c: real(fma(a, b, c))  # a compiled function gives a float of Python's
