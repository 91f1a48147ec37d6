"""The two passes over positions: forward with what its gradients need, and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from numlstm.autodiff import recomputing
from numlstm.autodiff.plans import ForwardTeam, TrainingPlan
from numlstm.autodiff.tape import Tape, Trainer, Transposed, forward_team, trainer
from numlstm.autodiff.teams import Runner, run_alone, schedule_back
from numlstm.base.typing import Array, States
from numlstm.kernels.activations import FAINTEST
from numlstm.kernels.plan_layout import Header
from numlstm.kernels.training.backward_layout import Back
from numlstm.runtime.executor import Executor
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels
from numlstm.runtime.schedule import Schedule
from numlstm.runtime.threads import get_num_threads
from numlstm.runtime.workers import Team

__all__ = ["Masks", "Passed", "Tape", "backward", "forward", "trainer"]
Masks = Callable[[Array], None]


class Passed(NamedTuple):
    """The results of a forward pass: output of all positions, and final states, rows in order of the positions."""

    output: Array
    h_n: Array
    c_n: Array


def forward(  # noqa: PLR0913, PLR0917 (what makes a call)
    executor: Executor,
    panels: Panels,
    steps: int,
    rows: int,
    sizes: Array | None,
    fill: Callable[[Array], None],
    hx: States | None,
    dropout: Masks | None,
    mask_shape: tuple[int, ...],
    low: bool = False,
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
    low : bool
        Whether to keep h alone, and to compute the gates again.
    """
    owner, config = trainer(executor, panels), panels.config
    plan = owner.plan(panels, steps, rows, sizes, dropout is not None, low)
    tape = Tape(owner, panels, plan, owner.lease(plan.kept))
    fill(tape.part(0, plan.positions, config.input_size))
    cells = config.num_layers * config.num_directions
    h_0, c_0 = (
        tape.part(at, cells, rows, size)
        for at, size in zip(plan.layout.initial, (config.output_size, config.hidden_size), strict=True)
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
    if low:
        recomputing.forward(executor.kernel.forward, tape, h_n, c_n, dropout, mask_shape)
    elif shared is None:
        _forward(tape, h_n, c_n, dropout, mask_shape, None, None)
    else:
        with Team(shared.plan.schedule.num_threads - 1) as team:
            runs = team.workers and not (team.fresh and shared.plan.brief)
            _forward(tape, h_n, c_n, dropout, mask_shape, team if runs else None, shared)
    return Passed(tape.sequence(plan.layout.hidden[-1]), h_n, c_n), tape


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
    slots = bound.at(*map(address, (tape.buffer, scratch, panels.data, h_n, c_n)), 0)

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
                    below = tape.sequence(plan.layout.hidden[layer - 1])
                    np.multiply(below, tape.masks[-1], out=tape.sequence(plan.layout.dropped[layer - 1]))
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
    slots = plan.backward.at(*(0 if base is None else address(base) for base in bases), 0)
    slots[Back.TRANSPOSE] = weights.of is not panels
    held = tape, scratch, weights, d_h, d_c, flat, d_output, d_input

    def below(layer: int) -> None:
        """The gradient by what the layer below has put out, from that by what dropout has left of it."""
        sequence = scratch[plan.between[(layer - 1) % 2] :][
            : plan.positions * config.num_directions * config.output_size
        ]
        mask = recomputing.mask_of(tape, layer - 1) if plan.tape else tape.masks[layer - 1]
        sequence *= mask.reshape(-1)

    schedule = back_schedule(panels, plan)
    if plan.tape:
        recomputing.backward(tape, slots, schedule, below, held)
    elif schedule is None:
        _backward(tape, slots, below, lambda: run_alone(owner.run_backward, slots))
    else:
        with Team(schedule.num_threads - 1) as team:
            runner = Runner(team, owner.run_backward, owner.run_forward, config.num_layers)
            _backward(tape, slots, below, lambda: runner.run(slots, schedule, None, (), held))
    weights.of = panels
    owner.transposed.append(weights)
    owner.give_back(scratch)
    named: dict[str, Array] = {}
    for name, begin, end, shape, same in owner.places:
        named[name] = flat[begin:end].reshape(shape) if same is None else named[same].copy()
    return d_input, named


def back_schedule(panels: Panels, plan: TrainingPlan) -> Schedule | None:
    """How threads share the pass back of a plan, as many as may compute now; None for one alone."""
    limit = get_num_threads()
    if limit not in plan.schedules:
        rows = -(-plan.positions // plan.steps)
        plan.schedules[limit] = schedule_back(panels.config, plan.steps, rows, panels.dtype.itemsize, limit)
    return plan.schedules[limit]


def _backward(tape: Tape, slots: Array, below: Callable[[int], None], run: Callable[[], None]) -> None:
    """Run the layers: at once, or one by one with dropout in between."""
    directions = tape.panels.config.num_directions
    if not tape.masks:
        run()
        return
    for layer in range(tape.panels.config.num_layers)[::-1]:
        slots[Header.CELLS_FROM], slots[Header.CELLS_TO] = layer * directions, (layer + 1) * directions
        run()
        if layer > 0:
            below(layer)


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
