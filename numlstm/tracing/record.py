"""A forward pass that keeps every step: h and c from the engine, and the gates by the equations.

The kernel runs one layer, one direction and one step at a time, over the plan of the whole call. It holds c in ``c_n``
while it runs, so c is copied from there after each step. It never has the gates as numbers: ``c' = f c + i g`` is
computed from the sums before the activations, with one division for i and g together (docs/arithmetic.md). They are
computed here, in NumPy, from the same x and h that the kernel read.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from numlstm.base import int8
from numlstm.base.typing import Array, States
from numlstm.base.validation.shapes import CallShapes
from numlstm.kernels.plan_layout import INT8
from numlstm.reference import activated
from numlstm.runtime.call import Call, Dropout
from numlstm.runtime.conversion import convert
from numlstm.runtime.executor import Executor
from numlstm.runtime.packed_weights import Panels
from numlstm.tracing.trace import Cells, CellTrace, Trace

WIDER: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float64), "float64": np.dtype(np.longdouble)}
CHUNK = 1 << 20  # bytes of a chunk of x, h and sums in the wider dtype
# Multiply-adds up to which OpenBLAS (interface/gemm.c) wakes no threads of its own. On a busy machine they made small
# products a hundred times slower.
ONE_THREAD = 1 << 18
INPUT, FORGET, CANDIDATE, OUTPUT = range(4)  # the gates i, f, g, o
PEEPHOLES = {INPUT: 0, FORGET: 1, OUTPUT: 2}  # their places in weight_ch


def record(
    executor: Executor,
    panels: Panels,
    call: CallShapes,
    input: Array,
    hx: States | None,
    dropout: Dropout | None = None,
) -> Trace:
    """Run one forward pass and keep everything that it computed. The arguments are checked already.

    Parameters
    ----------
    executor : Executor
    panels : Panels
    call : CallShapes
        Its shapes.
    input : array
        Any real dtype, any strides; never written.
    hx : (h_0, c_0) or None
        Any real dtype and strides; None for zeros.
    dropout : callable or None
        As of a `Call`.
    """
    config, dtype, lead = panels.config, panels.dtype, input.shape[:-1]
    shapes = {"h_0": call.hidden, "c_0": call.cell, "output": call.output, "h_n": call.hidden, "c_n": call.cell}
    arrays = {"input": np.empty(input.shape, dtype)} | {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
    for name, given in (("input", input), *zip(("h_0", "c_0"), hx or (), strict=False)):
        convert(arrays[name], given)
    cells = {}
    for _, _, suffix in config.cells():
        sizes = [config.hidden_size] * 5 + [config.output_size]
        cells[suffix[1:]] = CellTrace(*(np.empty((*lead, size), dtype) for size in sizes))
    trace = Trace(Cells(cells), **arrays, batch_first=call.swap)
    if call.batch > 0:
        _fill(executor, panels, trace, dropout)
    return trace


def _fill(executor: Executor, panels: Panels, trace: Trace, dropout: Dropout | None) -> None:
    """Run the call, and fill the arrays of the trace."""
    config, steps = panels.config, trace.steps
    x, output = trace.steps_first(trace.input), trace.steps_first(trace.output)
    h_0, c_0, h_n, c_n = (
        state[:, None] if trace.unbatched else state for state in (trace.h_0, trace.c_0, trace.h_n, trace.c_n)
    )
    call = Call(panels, x, h_0, c_0, output, h_n, c_n)
    workspace = executor.lease(executor.plan(panels, call.plan_key))
    try:
        workspace.bind(call)
        source = x
        for n, ((layer, direction, suffix), cell) in enumerate(zip(config.cells(), trace.cells.values(), strict=True)):
            target = workspace.cell_output(n, output)
            c, h = trace.steps_first(cell.c), trace.steps_first(cell.h)
            for step in range(steps):
                workspace.run_part((n, n + 1), steps=(step, step + 1))
                c[steps - 1 - step if direction else step] = c_n[n]
            h[...] = target[..., direction * config.output_size :][..., : config.output_size]
            into = [trace.steps_first(gate) for gate in (cell.i, cell.f, cell.g, cell.o)]
            _gates(panels, suffix, source, (h, c), (h_0[n], c_0[n]), into, reverse=direction == 1)
            if direction == config.num_directions - 1:
                if dropout is not None and layer < config.num_layers - 1:
                    dropout(target)
                source = target
    finally:
        executor.idle.append(workspace)


def _gates(
    panels: Panels, suffix: str, x: Array, states: States, initial: States, gates: list[Array], reverse: bool
) -> None:
    """Compute the gates of one cell at every step, from its input and its own states, in a wider dtype; round once.

    Parameters
    ----------
    panels : Panels
    suffix : str
        Of the parameters' names.
    x : array, (T, B, features)
        Input of the cell at each step.
    states, initial : (array, array), (T, B, features) and (B, features)
        h and c at each step, and before the first.
    gates : list of array
        i, f, g and o, (T, B, hidden_size) each, to be filled.
    reverse : bool
        Whether it begins at the last step.
    """
    config, dtype, wide = panels.config, panels.dtype, WIDER[panels.dtype.name]
    units, (steps, rows, features) = config.hidden_size, x.shape
    smallest = np.finfo(dtype).tiny
    weights = [panels.parameter(f"weight_{kind}{suffix}") for kind in ("ih", "hh")]
    biases = [panels.parameter(f"bias_{kind}{suffix}") for kind in ("ih", "hh")] if config.bias else []
    options, (h, c), (h_0, c_0) = config.cell_options, states, initial
    first = np.where(np.abs(h_0) < smallest * 2**26, 0, h_0)  # as the engine reads it
    first_c = np.where(np.abs(c_0) < smallest, 0, c_0)
    peepholes = panels.parameter(f"weight_ch{suffix}").astype(wide).reshape(3, units) if options.peepholes else None
    fitting = max(1, CHUNK // (wide.itemsize * (features + config.output_size + 4 * units)))
    chunk_rows = min(rows, fitting)
    chunk_steps = max(1, fitting // chunk_rows)
    for index, gate in enumerate(gates):
        coupled = index == FORGET and options.input_forget
        n = INPUT if coupled else index
        part = slice(n * units, (n + 1) * units)
        w_x, w_h = (weight[part].astype(wide) for weight in weights)
        bias: Any = sum(bias[part].astype(wide) for bias in biases)
        for begin, row in product(range(0, steps, chunk_steps), range(0, rows, chunk_rows)):
            end, of_rows = min(begin + chunk_steps, steps), slice(row, row + chunk_rows)
            x_read = x[begin:end, of_rows].astype(wide, order="C")
            h_read = _previous(h[:, of_rows], first[of_rows], begin, end, reverse).astype(wide, order="C")
            if config.weights == INT8:
                x_read, h_read = (int8.rounded_inputs(read.astype(dtype)) for read in (x_read, h_read))
            with np.errstate(all="ignore"):  # infinities, NaN and underflow are values here, not accidents
                sums = _products(x_read.reshape(-1, features), w_x)
                sums += _products(h_read.reshape(-1, config.output_size), w_h)
                sums += bias
                sums = sums.reshape(*x_read.shape[:2], units)
                if peepholes is not None and n != CANDIDATE:
                    own = c[begin:end] if n == OUTPUT else _previous(c, first_c, begin, end, reverse)
                    sums += peepholes[PEEPHOLES[n]] * own[:, of_rows]
                sums = np.clip(sums, -options.clip, options.clip)
                value = activated(options.g if n == CANDIDATE else options.f, sums, dtype)
                gate[begin:end, of_rows] = 1 - value if coupled else value


def _previous(h: Array, h_0: Array, begin: int, end: int, reverse: bool) -> Array:
    """h of the step before each of these steps, in the order of the direction; h_0 before the first."""
    if reverse:
        return h[begin + 1 : end + 1] if end < len(h) else np.concatenate([h[begin + 1 :], h_0[None]])
    return h[begin - 1 : end - 1] if begin else np.concatenate([h_0[None], h[: end - 1]])


def _products(a: Array, b: Array) -> Array:
    """The products of all rows of a and b, in parts that BLAS computes on the calling thread."""
    side = max(1, math.isqrt(ONE_THREAD // a.shape[1]))
    width = min(side, len(b))
    height = max(1, ONE_THREAD // (a.shape[1] * width))
    into = np.empty((len(a), len(b)), a.dtype)
    for row in range(0, len(a), height):
        for column in range(0, len(b), width):
            part = slice(row, row + height), slice(column, column + width)
            into[part] = np.inner(a[part[0]], b[part[1]])
    return into
