"""Small calls, whose shapes were seen before: built-in functions run both passes over buffers that are kept for them.

Such a call takes microseconds, most of which Python would spend. ``kernels/training/calls.py`` has the machine code;
what it does not take, `passes` does.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from numlstm.autodiff.plans import TrainingPlan
from numlstm.autodiff.tape import PLANS_KEPT, Tape, Trainer
from numlstm.autodiff.teams import schedule_back
from numlstm.base.typing import Array, Result, Shape
from numlstm.kernels.plan_layout import ArraySpec, Fastcall, Header
from numlstm.kernels.training.backward_layout import OWN_RECORD, SmallCall, SmallGradient
from numlstm.runtime import object_layout
from numlstm.runtime.executor import FAST_CALL_BYTES, STEP_WORK
from numlstm.runtime.fast_call import GIL_WORK, describe_objects
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels, aligned_record
from numlstm.runtime.planner import Plan, specify, with_array_specs

SmallVjp = Callable[[Panels, Any, Any], Any]  # of panels, input and hx; None: run the call otherwise
IDLE = 4  # buffers of a shape that no call uses, at most


class Buffers:
    """The memory of a call and its two built-in functions; one call has it at a time.

    Attributes
    ----------
    vjp, back : callable
        As ``kernels/training/calls.py`` says.
    kept, interface
        What the forward pass keeps, and that as NumPy takes an object's memory.
    """

    __slots__ = "back", "interface", "kept", "vjp"

    def __init__(self, shape: SmallShape) -> None:
        owner, plan, config, dtype = shape.owner, shape.plan, shape.owner.config, shape.owner.dtype
        cells, rows = config.num_layers * config.num_directions, plan.rows
        counts = {"d_h": cells * rows * config.output_size, "d_c": cells * rows * config.hidden_size}
        start = int(SmallCall.LENGTH + len(owner.places) * SmallGradient.LENGTH)
        middle = start + plan.forward.values.size + 3 * int(ArraySpec.LENGTH)
        slots, parts = aligned_record(
            middle + plan.backward.values.size,
            dtype,
            kept=plan.kept,
            scratch=max(plan.forward_scratch, plan.backward_scratch),
            transposed=plan.transposed,
            gradients=owner.gradients,
            **counts,
        )
        kept, scratch, transposed, gradients, d_h, d_c = map(address, parts.values())
        forward = Plan(plan.forward.at(kept, scratch, 0, 0, 0, 0), 0, 0, 0, False, {})
        slots[start:middle] = with_array_specs(forward, dtype, (shape.input, *shape.results[1:])).slots
        slots[middle:] = plan.backward.at(kept, scratch, 0, transposed, d_h, d_c, gradients, 0, 0, 0)
        slots[middle + Header.SHARE] = address(slots) + 8 * (slots.size - OWN_RECORD)
        slots[SmallCall.FORWARD], slots[SmallCall.BACK] = start, middle
        slots[SmallCall.D_H], slots[SmallCall.D_C], slots[SmallCall.GRADIENTS] = d_h, d_c, gradients
        slots[SmallCall.H_COUNT], slots[SmallCall.C_COUNT] = counts.values()
        for slot, at in (
            (SmallCall.INPUT, 0),
            (SmallCall.OUTPUT, plan.layout.hidden[-1]),
            (SmallCall.H_0, plan.layout.initial[0]),
            (SmallCall.C_0, plan.layout.initial[1]),
        ):
            slots[slot] = kept + at * dtype.itemsize
        shape.describe(slots)
        self.kept = parts["kept"]
        self.interface = self.kept.__array_interface__
        self.vjp, self.back = owner.kernel.small_vjp(slots), owner.kernel.small_back(slots)


class SmallShape:
    """The small calls of one shape: their plan, and buffers that no call uses.

    Parameters
    ----------
    owner : Trainer
    plan : TrainingPlan
    input : tuple of int
        The shape of the input.
    results : (tuple of int, ...)
        Those of output, h_n and c_n.
    """

    def __init__(self, owner: Trainer, plan: TrainingPlan, input: Shape, results: tuple[Shape, Shape, Shape]) -> None:
        self.owner, self.plan, self.input, self.results = owner, plan, input, results
        self.idle: list[Buffers] = []

    def describe(self, slots: Array) -> None:
        """Say how objects are recognised and made."""
        functions, config, size = object_layout.functions, self.owner.config, self.owner.dtype.itemsize
        assert functions is not None
        describe_objects(slots, functions)
        slots[SmallCall.SET_BASE] = functions.set_base
        slots[SmallCall.INPUT_COUNT], slots[SmallCall.OUTPUT_COUNT] = prod(self.input), prod(self.results[0])
        slots[SmallCall.LAYERS], slots[SmallCall.PARAMETERS] = config.num_layers, len(self.owner.places)
        for n, result in enumerate(self.results):
            specify(slots[Fastcall.RESULTS + n * ArraySpec.LENGTH :], result, size)
        specify(slots[SmallCall.FLAT :], (self.owner.gradients,), size)
        begin_of = {name: begin for name, begin, *_ in self.owner.places}
        for n, (name, begin, end, shape, same) in enumerate(self.owner.places):
            of = slots[SmallCall.LENGTH + n * SmallGradient.LENGTH :]
            specify(of[SmallGradient.SHAPE :], shape, size)
            of[SmallGradient.SOURCE], of[SmallGradient.AT] = begin_of[same or name], begin
            of[SmallGradient.COUNT] = end - begin

    def vjp(self, panels: Panels, input: Any, hx: Any) -> tuple[Result, SmallTape] | None:
        """The results of a call and its tape; None if it must be run otherwise."""
        try:
            buffers = self.idle.pop()
        except IndexError:
            buffers = Buffers(self)
        results = buffers.vjp(input, hx, panels.data)
        if results is None:
            self.idle.append(buffers)
            return None
        return results, SmallTape(self, panels, buffers)


class SmallTape(Tape):
    """The tape of a small call, whose buffers go back with it."""

    def __init__(self, shape: SmallShape, panels: Panels, buffers: Buffers) -> None:
        self.owner, self.panels, self.plan, self.buffer = shape.owner, panels, shape.plan, buffers.kept
        self.masks, self.back, self.lent = [], buffers.back, (shape.idle, buffers)

    @property
    def interface(self) -> dict[str, Any]:
        return self.lent[1].interface

    def __del__(self) -> None:
        idle, buffers = self.lent
        if len(idle) < IDLE:
            idle.append(buffers)


def remember(
    tape: Tape, input: Shape, results: tuple[Shape, Shape, Shape], run: Callable[[SmallShape], SmallVjp]
) -> None:
    """Let the trainer know what runs small calls of a shape, after a call of it: ``run`` of them, or None."""
    owner = tape.owner
    if input not in owner.small:
        if len(owner.small) >= PLANS_KEPT:
            owner.small.clear()
        shape = SmallShape(owner, tape.plan, input, results)
        owner.small[input] = run(shape) if is_small(shape, tape.panels) else None


def is_small(shape: SmallShape, panels: Panels) -> bool:
    """Whether the calls may hold the GIL and buffers of their own, and this Python has all that they need."""
    owner, plan, config, size = shape.owner, shape.plan, panels.config, panels.dtype.itemsize
    numbers = plan.kept + max(plan.forward_scratch, plan.backward_scratch) + plan.transposed + 2 * owner.gradients
    work = plan.positions * (panels.data.size + STEP_WORK * config.num_layers * config.num_directions)
    if numbers * size > FAST_CALL_BYTES or work > GIL_WORK or plan.long or object_layout.functions is None:
        return False
    return schedule_back(config, plan.steps, plan.rows, size, 2) is None
