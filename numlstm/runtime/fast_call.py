"""Built-in functions for calls whose shapes were seen before: machine code checks the arrays and makes the results.

A small call takes microseconds, most of which Python would spend on checks and addresses.
``kernels/entries/fastcall.py`` has the machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numlstm.base.typing import Array, Result, Shape
from numlstm.kernels.loading.entry_points import Kernel
from numlstm.kernels.plan_layout import ArraySpec, Fastcall
from numlstm.runtime import object_layout
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import aligned_record
from numlstm.runtime.planner import Plan, with_array_specs
from numlstm.runtime.workspace import BUFFERS

FastCall = Callable[[Any, Any, Array], Result | None]  # of input, hx and the panels' data; None: run the call otherwise

GIL_WORK = 1 << 18  # multiply-adds of a call that may hold the GIL: some ten microseconds


def make(
    kernel: Kernel, plan: Plan, dtype: np.dtype[Any], work: int, input: Shape, results: tuple[Shape, Shape, Shape]
) -> FastCall | None:
    """The fast call for a plan; None if this Python has none of the functions that it needs.

    Parameters
    ----------
    kernel : Kernel
    plan : Plan
        For a C-contiguous input and output.
    dtype : dtype
        That of all arrays.
    work : int
        Multiply-adds of the call, about. A long call drops the GIL while the kernel runs.
    input, results
        Shapes of the input, and of output, h_n and c_n, as the caller sees them.

    Returns
    -------
    callable or None
        ``run(input, hx, panels.data)``: the results, or None if an argument is not what the plan is for, or another
        thread is in a long call.
    """
    functions = object_layout.functions
    if functions is None:
        return None
    plan = with_array_specs(plan, dtype, (input, *results[1:]))
    length = int(Fastcall.LENGTH)
    slots, buffers = aligned_record(
        length + plan.slots.size, dtype, **{name: getattr(plan, name) for name in BUFFERS.values()}
    )
    describe_objects(slots, functions)
    if work > GIL_WORK:
        slots[Fastcall.SAVE_THREAD], slots[Fastcall.RESTORE_THREAD] = functions.save_thread, functions.restore_thread
    for n, shape in enumerate(results):
        spec = slots[Fastcall.RESULTS + n * ArraySpec.LENGTH :]
        spec[ArraySpec.NDIM], spec[ArraySpec.SIZE_0 : ArraySpec.SIZE_0 + len(shape)] = len(shape), shape
    header = slots[length:]
    header[:] = plan.slots
    header[list(BUFFERS)] = [address(buffer) for buffer in buffers.values()]
    run: FastCall = kernel.fastcall(slots)
    return run


def describe_objects(slots: Array, functions: object_layout.Functions) -> None:
    """Say in the slots of a built-in function how objects are recognised and made."""
    slots[Fastcall.TUPLE], slots[Fastcall.COUNT_AT] = id(tuple), object_layout.COUNT
    slots[Fastcall.NEW_ARRAY : Fastcall.DECREF + 1] = (
        functions.new_array,
        functions.new_tuple,
        functions.incref,
        functions.decref,
    )
