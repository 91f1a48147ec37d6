"""The two passes over positions: forward with what its gradients need, and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numlstm.autodiff.plans import ForwardTeam, TrainingPlan, gradient_places, make_forward_team, make_training_plan
from numlstm.autodiff.teams import Runner, schedule_back
from numlstm.base.typing import Array, States
from numlstm.kernels.activations import FAINTEST
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import Header
from numlstm.kernels.training.backward_layout import Back
from numlstm.runtime.executor import Executor
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels, aligned_empty, aligned_zeros
from numlstm.runtime.threads import get_num_threads
from numlstm.runtime.workers import Team

PLANS_KEPT = 64  # shapes whose plans a model remembers
Masks = Callable[[Array], None]


class Transposed:
    """A buffer of transposed weights, and the panels that it is of."""

    def __init__(self, count: int, dtype: np.dtype[Any]) -> None:
        self.numbers = aligned_empty(count, dtype)
        self.of: Panels | None = None


class Trainer:
    """What a model keeps between calls for training: plans by shape, and buffers that no call uses."""

    def __init__(self, panels: Panels) -> None:
        self.dtype, self.config = panels.dtype, panels.config
        kernel = registry.training_kernel(panels.dtype.name)
        self.run_forward, self.run_backward = kernel.forward, kernel.backward
        self.plans: dict[tuple[int, int, bool], TrainingPlan] = {}
        self.idle: list[Array] = []
        self.transposed: list[Transposed] = []
        self.places = gradient_places(panels.config)
        self.gradients = sum(prod(shape) for _, shape in self.places.values())

    def plan(self, panels: Panels, steps: int, rows: int, sizes: Array | None, drops: bool) -> TrainingPlan:
        """The plan for these sizes; that of a packed sequence is made for this call alone."""
        if sizes is not None:
            return make_training_plan(panels, steps, rows, sizes, drops)
        key = steps, rows, drops
        plan = self.plans.get(key)
        if plan is None:
            if len(self.plans) >= PLANS_KEPT:
                self.plans.clear()
            plan = self.plans[key] = make_training_plan(panels, steps, rows, None, drops)
        return plan

    def lease(self, count: int) -> Array:
        """A buffer with room for so many numbers: the smallest that is idle and fits. Its user gives it back."""
        sizes = [buffer.size for buffer in self.idle.copy()]
        for size in sorted(sizes):
            if count <= size <= 4 * count + 4096:
                with suppress(IndexError):  # another thread has taken it
                    buffer = self.idle.pop(sizes.index(size))
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


class Passed(NamedTuple):
    """The results of a forward pass: output of all positions, and final states, rows in order of the positions."""

    output: Array
    h_n: Array
    c_n: Array


class Tape:
    """What a forward pass has kept; its memory goes back to the trainer with it."""

    def __init__(self, owner: Trainer, panels: Panels, plan: TrainingPlan, buffer: Array) -> None:
        self.owner, self.panels, self.plan, self.buffer = owner, panels, plan, buffer
        self.masks: list[Array] = []

    def __del__(self) -> None:
        self.owner.give_back(self.buffer)

    def part(self, at: int, *shape: int) -> Array:
        """Some of the numbers kept, in a shape."""
        return self.buffer[at : at + prod(shape)].reshape(shape)

    def sequence(self, at: int) -> Array:
        """One of the sequences kept."""
        config = self.panels.config
        return self.part(at, self.plan.positions, config.num_directions * config.output_size)


def forward(
    executor: Executor,
    panels: Panels,
    steps: int,
    rows: int,
    sizes: Array | None,
    fill: Callable[[Array], None],
    hx: States | None,
    dropout: Masks | None,
    mask_shape: tuple[int, ...],
) -> tuple[Passed, Tape]:
    """The forward pass.

    Parameters
    ----------
    executor : Executor
        Of the model.
    panels : Panels
    steps, rows, sizes
        As for `make_training_plan`.
    fill : callable
        Writes the input into the array of (positions, input_size) that it is given.
    hx : (h_0, c_0) or None
        Of any real dtype and strides; (cells, rows, features).
    dropout : callable or None
        As the engine takes it, which draws masks of ``mask_shape``.
    """
    owner, config = trainer(executor, panels), panels.config
    plan = owner.plan(panels, steps, rows, sizes, dropout is not None)
    tape = Tape(owner, panels, plan, owner.lease(plan.kept))
    fill(tape.part(0, plan.positions, config.input_size))
    cells = config.num_layers * config.num_directions
    h_0, c_0 = (
        tape.part(at, cells, rows, size)
        for at, size in zip(plan.initial, (config.output_size, config.hidden_size), strict=True)
    )
    if hx is None:
        h_0.fill(0)
        c_0.fill(0)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            h_0[...], c_0[...] = hx
        least = FAINTEST[panels.dtype.name], np.finfo(panels.dtype).tiny
        for state, smallest in zip((h_0, c_0), least, strict=True):
            state[np.abs(state) < smallest] = 0
    h_n, c_n = np.empty_like(h_0), np.empty_like(c_0)
    shared = forward_team(panels, plan)
    if shared is None:
        _forward(tape, h_n, c_n, dropout, mask_shape, None, None)
    else:
        with Team(shared.plan.schedule.num_threads - 1) as team:
            runs = team.workers and not (team.fresh and shared.plan.brief)
            _forward(tape, h_n, c_n, dropout, mask_shape, team if runs else None, shared)
    return Passed(tape.sequence(plan.hidden[-1]), h_n, c_n), tape


def forward_team(panels: Panels, plan: TrainingPlan) -> ForwardTeam | None:
    """How threads share the forward pass of a plan, as many as may compute now; None for one alone."""
    limit = get_num_threads() if plan.long else 1
    if limit < 2:
        return None
    if limit not in plan.teams:
        plan.teams[limit] = make_forward_team(panels, plan, limit)
    return plan.teams[limit]


def _forward(
    tape: Tape,
    h_n: Array,
    c_n: Array,
    dropout: Masks | None,
    mask_shape: tuple[int, ...],
    team: Team | None,
    shared: ForwardTeam | None,
) -> None:
    """Run the layers: at once, or one by one with dropout in between."""
    owner, panels, plan, config = tape.owner, tape.panels, tape.plan, tape.panels.config
    size, bound = plan.forward_scratch, plan.forward
    if team is not None and shared is not None:
        size, bound = shared.scratch, shared.slots
    scratch = owner.lease(size)
    slots = bound.at(*map(address, (tape.buffer, scratch, panels.data, h_n, c_n)))

    def run() -> None:
        if team is None or shared is None:
            owner.run_forward(address(slots))
        else:
            runner = Runner(team, owner.run_forward, owner.run_forward, config.num_layers)
            runner.run(slots, shared.plan.schedule, scratch, shared.own, (tape, h_n, c_n))

    if dropout is None:
        run()
    else:
        for layer in range(config.num_layers):
            slots[Header.CELLS_FROM] = layer * config.num_directions
            slots[Header.CELLS_TO] = (layer + 1) * config.num_directions
            if layer > 0:
                mask = np.ones(mask_shape, panels.dtype)
                dropout(mask)
                tape.masks.append(mask.reshape(plan.positions, -1))
                with np.errstate(invalid="ignore"):  # as in the engine, infinity times 0 is NaN
                    below = tape.sequence(plan.hidden[layer - 1])
                    np.multiply(below, tape.masks[-1], out=tape.sequence(plan.dropped[layer - 1]))
            run()
    owner.give_back(scratch)


def backward(
    tape: Tape, d_output: Array | None, d_h: Array, d_c: Array, input_grad: bool
) -> tuple[Array | None, dict[str, Array]]:
    """The pass back: the gradients by the input and by the parameters.

    Parameters
    ----------
    tape : Tape
    d_output : array, (positions, features), or None
        C-contiguous, of the panels' dtype.
    d_h, d_c : array
        Of h_n and c_n; replaced by the gradients of h_0 and c_0.
    input_grad : bool
        Whether that by the input is wanted.
    """
    owner, panels, plan, config = tape.owner, tape.panels, tape.plan, tape.panels.config
    scratch = owner.lease(plan.backward_scratch)
    weights = _transposed(owner, panels, plan.transposed)
    d_input = np.empty((plan.positions, config.input_size), panels.dtype) if input_grad else None
    flat = np.empty(owner.gradients, panels.dtype)
    bases = tape.buffer, scratch, panels.data, weights.numbers, d_h, d_c, flat, d_output, d_input
    slots = plan.backward.at(*(0 if base is None else address(base) for base in bases))
    slots[Back.TRANSPOSE] = weights.of is not panels
    schedule = schedule_back(config, plan.steps, -(-plan.positions // plan.steps), panels.dtype.itemsize)
    held = tape, scratch, weights, d_h, d_c, flat, d_output, d_input
    with Team(schedule.num_threads - 1) as team:
        runner = Runner(team, owner.run_backward, owner.run_forward, config.num_layers)
        if not tape.masks:
            runner.run(slots, schedule, None, (), held)
        else:
            features = config.num_directions * config.output_size
            for layer in range(config.num_layers)[::-1]:
                slots[Header.CELLS_FROM] = layer * config.num_directions
                slots[Header.CELLS_TO] = (layer + 1) * config.num_directions
                runner.run(slots, schedule, None, (), held)
                if layer > 0:
                    below = scratch[plan.between[(layer - 1) % 2] :][: plan.positions * features]
                    below *= tape.masks[layer - 1].reshape(-1)
    weights.of = panels
    owner.transposed.append(weights)
    owner.give_back(scratch)
    named: dict[str, Array] = {}
    for name, (at, shape) in owner.places.items():
        if name.startswith("bias_hh"):
            named[name] = named[name.replace("_hh", "_ih")].copy()
        else:
            named[name] = flat[at : at + prod(shape)].reshape(shape)
    return d_input, named


def _transposed(owner: Trainer, panels: Panels, count: int) -> Transposed:
    """A buffer for transposed weights, with those of the panels if there is one."""
    for weights in owner.transposed.copy():
        if weights.of is panels:
            with suppress(ValueError):
                owner.transposed.remove(weights)
                return weights
    with suppress(IndexError):
        return owner.transposed.pop()
    return Transposed(count, panels.dtype)
