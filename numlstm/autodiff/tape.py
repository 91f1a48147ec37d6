"""What a model keeps for training between its calls, and what a call keeps for its pass back."""

from __future__ import annotations

from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from numlstm.autodiff.plans import ForwardTeam, TrainingPlan, gradient_places, make_forward_team, make_training_plan
from numlstm.base.typing import Array, Shape
from numlstm.kernels.loading import registry
from numlstm.runtime.executor import Executor
from numlstm.runtime.packed_weights import Panels, aligned_empty, aligned_zeros
from numlstm.runtime.threads import get_num_threads

PLANS_KEPT = 64  # shapes whose plans a model remembers


class Transposed:
    """A buffer of transposed weights, and the panels that it is of."""

    def __init__(self, count: int, dtype: np.dtype[Any]) -> None:
        self.numbers = aligned_empty(count, dtype)
        self.of: Panels | None = None


class Trainer:
    """What a model keeps between calls for training: plans by shape, and buffers that no call uses."""

    def __init__(self, panels: Panels) -> None:
        self.dtype, self.config = panels.dtype, panels.config
        self.kernel = registry.training_kernel(panels.dtype.name)
        self.run_forward, self.run_backward = self.kernel.forward, self.kernel.backward
        self.plans: dict[tuple[int, int, bool, bool], TrainingPlan] = {}
        self.small: dict[Shape, Any] = {}  # by the input's: a `SmallVjp`, or None
        self.names = tuple(panels.config.parameter_shapes())
        self.idle: list[Array] = []
        self.transposed: list[Transposed] = []
        self.places = gradient_places(panels.config)
        self.gradients = max(end for _, _, end, _, _ in self.places)

    def plan(
        self, panels: Panels, steps: int, rows: int, sizes: Array | None, drops: bool, low: bool = False
    ) -> TrainingPlan:
        """The plan for these sizes; that of a packed sequence is made for this call alone."""
        if sizes is not None:
            return make_training_plan(panels, steps, rows, sizes, drops, low)
        key = steps, rows, drops, low
        plan = self.plans.get(key)
        if plan is None:
            if len(self.plans) >= PLANS_KEPT:
                self.plans.clear()
            plan = self.plans[key] = make_training_plan(panels, steps, rows, None, drops, low)
        return plan

    def lease(self, count: int) -> Array:
        """A buffer with room for so many numbers: the smallest that is idle and fits. Its user gives it back."""
        found, least = -1, 4 * count + 4096
        for n, buffer in enumerate(self.idle.copy()):
            if count <= buffer.size <= least:
                found, least = n, buffer.size
        if found >= 0:
            with suppress(IndexError):  # another thread has taken it, or another one is in its place
                buffer = self.idle.pop(found)
                if buffer.size >= count:
                    return buffer
        return aligned_zeros(count, self.dtype)

    def give_back(self, buffer: Array) -> None:
        """Keep a buffer for calls to come, in place of the longest kept if there are many."""
        self.idle.append(buffer)
        if len(self.idle) > 4:
            with suppress(IndexError):
                self.idle.pop(0)


def trainer(executor: Executor, panels: Panels) -> Trainer:
    """What the model of this executor keeps."""
    if executor.training is None:
        executor.training = Trainer(panels)
    found: Trainer = executor.training
    return found


class Tape:
    """What a forward pass has kept; its memory goes back to the trainer with it."""

    def __init__(self, owner: Trainer, panels: Panels, plan: TrainingPlan, buffer: Array) -> None:
        self.owner, self.panels, self.plan, self.buffer = owner, panels, plan, buffer
        self.masks: list[Array] = []  # of the layers with dropout; with ``memory="low"`` a bit for each number
        self.scale: Any = 1  # what those were that are not 0

    def __del__(self) -> None:
        self.owner.give_back(self.buffer)

    @property
    def interface(self) -> dict[str, Any]:
        """The numbers kept, as NumPy takes an object's memory."""
        return self.buffer[: self.plan.kept].__array_interface__

    def part(self, at: int, *shape: int) -> Array:
        """Some of the numbers kept, in a shape."""
        return self.buffer[at : at + prod(shape)].reshape(shape)

    def sequence(self, at: int) -> Array:
        """One of the sequences kept."""
        config = self.panels.config
        return self.part(at, self.plan.positions, config.num_directions * config.output_size)


def forward_team(panels: Panels, plan: TrainingPlan) -> ForwardTeam | None:
    """How threads share the forward pass of a plan, as many as may compute now; None for one alone."""
    limit = get_num_threads() if plan.long else 1
    if limit < 2:
        return None
    if limit not in plan.teams:
        plan.teams[limit] = make_forward_team(panels, plan, limit)
    return plan.teams[limit]
