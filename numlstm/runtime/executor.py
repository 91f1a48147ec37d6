"""From a checked call to the kernel: plan, workspace, threads.

Two shortcuts lead around `Executor.run` to a kernel: a fast call, whose arrays machine code checks, and the entry of a
stream.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy import empty, ndarray

from numlstm.base.config import Config
from numlstm.base.typing import Array, Result, Shape
from numlstm.kernels.loading import registry
from numlstm.kernels.loading.entry_points import Kernel
from numlstm.kernels.plan_layout import Header, Partition
from numlstm.runtime import fast_call, planner
from numlstm.runtime.call import Call
from numlstm.runtime.conversion import convert, readable, readable_state
from numlstm.runtime.fast_call import FastCall
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels
from numlstm.runtime.planner import Plan, PlanKey, TeamPlan, make_plan, make_team_plan
from numlstm.runtime.threads import get_num_threads
from numlstm.runtime.workers import Team, Work
from numlstm.runtime.workspace import BUFFERS, KEEP_BYTES, Workspace

PLANS_KEPT = 64  # shapes whose plans, and fast calls, an executor remembers
FAST_CALL_BYTES = KEEP_BYTES // PLANS_KEPT  # buffers of a fast call, which it keeps to itself
STEP_WORK = 1 << 11  # what a step of a cell takes besides its products, in multiply-adds


class Executor:
    """Runs the calls of one model, and keeps between them: plans by shape, idle workspaces, fast calls.

    Parameters
    ----------
    config : Config
        The sizes of the model.
    dtype : dtype
        float32 or float64.
    """

    __slots__ = (
        "__weakref__",
        "_kernel",
        "config",
        "dispatch_table",
        "dtype",
        "idle",
        "inline_cache",
        "plans",
        "training",
    )

    def __init__(self, config: Config, dtype: np.dtype[Any]) -> None:
        self.config, self.dtype = config, dtype
        self.plans: dict[Any, Plan] = {}  # by PlanKey
        self.idle: list[Workspace] = []
        # fast calls by the input's shape, without and with batch_first, and of each the one used last; a model that
        # runs backwards has none
        self.dispatch_table: tuple[dict[Shape, FastCall | None], ...] = {}, {}, {}
        self.inline_cache: list[FastCall | None] = [None, None, None]
        self._kernel: Kernel | None = None
        self.training: Any = None  # what `autodiff.passes` keeps
        planner.dependents.add(self)

    @property
    def kernel(self) -> Kernel:
        """The kernel of this dtype, loaded by the first call."""
        if self._kernel is None:
            self._kernel = registry.kernel(self.config.number(self.dtype), self.config.cell_options)
        return self._kernel

    def clear(self) -> None:
        """Forget plans, fast calls and what training keeps."""
        self.inline_cache[:] = None, None, None
        self.training = None
        self.plans.clear()
        for table in self.dispatch_table:
            table.clear()

    # ------------------------------------------------------------ a call

    def run(self, call: Call) -> None:
        """Run one forward pass."""
        if call.state_rows:  # all arrays are as the kernel reads them
            self._run_shared(call)
            return
        x = call.x
        in_place = readable(x, self.dtype)
        if not in_place and (call.sizes is not None or x.size * self.dtype.itemsize <= planner.settings.convert_bytes):
            call, in_place = call._replace(x=empty(x.shape, self.dtype)), True
            convert(call.x, x)
        if call.h_0 is not None and call.c_0 is not None:
            h_0, c_0 = readable_state(call.h_0, call.h_n), readable_state(call.c_0, call.c_n)
            if h_0 is not call.h_0 or c_0 is not call.c_0:
                call = call._replace(h_0=h_0, c_0=c_0)
        if call.dropout is None and in_place:
            self._run_shared(call)
        else:
            self._run_by_layer(call, in_place)

    def _run_shared(self, call: Call) -> None:
        """Run the pass on as many threads as it is worth and as are free.

        A worker that has just been started may be late by more than a brief call takes: when a process begins, NumPy's
        own threads, among others, keep its cores busy. The call after this one finds it there.
        """
        key = call.plan_key
        plan = self.plan(call.panels, key, call.sizes)
        team_plan = None
        if plan.long:
            limit = get_num_threads()
            if limit not in plan.teams:
                plan.teams[limit] = make_team_plan(call.panels, key, limit, call.sizes)
            team_plan = plan.teams[limit]
        if team_plan is None:
            self._run_alone(plan, call)
            return
        with Team(team_plan.schedule.num_threads - 1) as team:
            if team.workers and not (team.fresh and team_plan.brief):
                self._run_on_team(team, team_plan, call)
            else:
                self._run_alone(plan, call)

    def _run_alone(self, plan: Plan, call: Call) -> None:
        workspace = self.lease(plan)
        workspace.bind(call)
        workspace.run()
        self.idle.append(workspace)

    def _run_on_team(self, team: Team, team_plan: TeamPlan, call: Call) -> None:
        """Run the pass on this thread and the team's workers."""
        leader = self.lease(team_plan.caller)
        leader.bind(call)
        schedule = team_plan.schedule
        if schedule.partition == Partition.ROWS:  # a plan serves several batch sizes
            as_planned = call.rows == leader.words[Header.ROWS]
            chunk_rows = schedule.chunk_rows if as_planned else -(-call.rows // schedule.num_chunks)
            leader.words[Header.CHUNK_ROWS] = chunk_rows
        record = (ctypes.c_int64 * team_plan.record)()
        leader.words[Header.SHARE] = ctypes.addressof(record)
        workspaces = [self.lease(team_plan.worker) for _ in team.workers]
        tasks: list[Work] = []
        for n, workspace in enumerate(workspaces):
            workspace.bind(call)
            workspace.follow(leader, n + 1, schedule.partition)
            # a late worker outlives the call: it holds all that a kernel may touch
            tasks.append(partial(self._run_worker, workspace, (call, leader, record)))
        try:
            team.start(tasks, record, self.kernel.forward)
            leader.run()
        except BaseException:
            if call.h_0 is call.h_n:  # states are being replaced: finish, so that all of them are final
                leader.run()
            raise
        self.idle.append(leader)
        for task, workspace in zip(team.tasks, workspaces, strict=True):
            if task.cancel():
                self.idle.append(workspace)

    def _run_worker(self, workspace: Workspace, held: object) -> None:
        """A worker's task: run its part of a call, and give back the workspace."""
        workspace.run()
        self.idle.append(workspace)

    def _run_by_layer(self, call: Call, in_place: bool) -> None:
        """Run the pass layer by layer on this thread: Python converts a large input, or applies dropout, in between."""
        directions, cells = self.config.num_directions, self.config.num_layers * self.config.num_directions
        chunk, key = call.x.shape, call.plan_key
        if not in_place:
            chunk = chunk_shape(call.x.shape, planner.settings.convert_bytes // self.dtype.itemsize)
            row = chunk[2] * self.dtype.itemsize
            key = key[0], (chunk[1] * row, row, self.dtype.itemsize), *key[2:]
        workspace = self.lease(self.plan(call.panels, key, call.sizes))
        try:
            workspace.bind(call)
            if in_place:
                workspace.run_part((0, directions))
            else:
                self._run_first_layer(workspace, call.x, chunk)
            for first in range(directions, cells, directions):
                if call.dropout is not None:
                    below = workspace.cell_output(first - 1, call.output)
                    call.dropout(below if below.ndim == 3 else below[:, None])
                workspace.run_part((first, first + directions))
        finally:
            self.idle.append(workspace)

    def _run_first_layer(self, workspace: Workspace, x: Array, chunk: Shape) -> None:
        """Run the first layer chunk by chunk of the input, each converted into a buffer.

        The kernel is made to believe that the buffer is a part of the whole input.
        """
        (steps, rows, _), (chunk_steps, chunk_rows, _) = x.shape, chunk
        buffer = workspace.room("chunk", prod(chunk))[: prod(chunk)].reshape(chunk)
        for first_row in range(0, rows, chunk_rows):
            last_row = min(first_row + chunk_rows, rows)
            for direction in range(self.config.num_directions):
                for first_step in range(0, steps, chunk_steps):
                    last_step = min(first_step + chunk_steps, steps)
                    # the reverse direction takes its first steps at the end of the sequence
                    begin, end = (steps - last_step, steps - first_step) if direction else (first_step, last_step)
                    convert(buffer[: end - begin, : last_row - first_row], x[begin:end, first_row:last_row])
                    # where the whole input would begin; only the chunk's own part of it is ever read
                    offset = begin * buffer.strides[0] + first_row * buffer.strides[1]
                    workspace.words[Header.INPUT] = address(buffer) - offset
                    workspace.run_part((direction, direction + 1), (first_row, last_row), (first_step, last_step))

    # ------------------------------------------------------------ plans and workspaces

    def plan(self, panels: Panels, key: PlanKey, sizes: Array | None = None) -> Plan:
        """The plan for these sizes and strides. Those of packed sequences are seldom the same twice, and not kept."""
        if sizes is not None:
            return make_plan(panels, *key, sizes=sizes)
        plan = self.plans.get(key)
        if plan is None:
            plan = make_plan(panels, *key)
            if len(self.plans) >= PLANS_KEPT:
                self.plans.clear()
            self.plans[key] = plan
        return plan

    def lease(self, plan: Plan) -> Workspace:
        """A workspace of the caller's own, ready for the plan; to be given back by ``idle.append``."""
        workspace = None
        while workspace is None:
            idle = self.idle.copy()
            if not idle:
                workspace = Workspace(self.kernel, self.dtype)
                break
            workspace = next((other for other in reversed(idle) if other.plan is plan), idle[-1])
            try:
                self.idle.remove(workspace)
            except ValueError:  # another thread has taken it meanwhile
                workspace = None
        if workspace.plan is not plan:
            self.inline_cache[:] = None, None, None  # so that the next fast call comes by `dispatch`, and lets go
            self.let_go()  # before more is taken
            workspace.adopt(plan)
        return workspace

    def let_go(self) -> None:
        """Give up idle workspaces that are large, since they may stay idle. Small ones are kept."""
        for other in self.idle.copy():
            if other.nbytes > KEEP_BYTES:
                with suppress(ValueError):  # another thread has taken it meanwhile
                    self.idle.remove(other)

    # ------------------------------------------------------------ fast calls

    def dispatch(self, order: int, input: object, hx: object, data: Array) -> Result | None:
        """The result of the fast call for this input's shape, if there is one and it takes these arrays."""
        if type(input) is not ndarray:
            return None
        run = self.dispatch_table[order].get(input.shape)
        if run is None or run is self.inline_cache[order]:
            return None
        results = run(input, hx, data)
        if results is not None:
            self.inline_cache[order] = run
            self.let_go()
        return results

    def install_fast_call(self, call: Call, order: int, input: Shape, results: tuple[Shape, Shape, Shape]) -> None:
        """Remember the fast call for C-contiguous arrays of the shapes that a caller has just used.

        Parameters
        ----------
        call : Call
            As it was run.
        order : int
            1 with batch_first.
        input, results
            Shapes of the caller's input, and of output, h_n and c_n.
        """
        table = self.dispatch_table[order]
        if input in table or 0 in input:
            return
        if len(table) >= PLANS_KEPT:
            table.clear()
        table[input] = None
        (steps, rows, features), size = call.x.shape, self.dtype.itemsize
        strides, output_strides = (
            (width * size, steps * width * size, size) if order else (rows * width * size, width * size, size)
            for width in (features, results[0][-1])
        )
        plan = self.plan(call.panels, ((steps, rows, features), strides, output_strides, 0))
        buffers = sum(getattr(plan, name) for name in BUFFERS.values()) * size
        if plan.long or buffers > FAST_CALL_BYTES:  # its start is not what it costs
            return
        cells = self.config.num_layers * self.config.num_directions
        work = steps * rows * (call.panels.data.size + STEP_WORK * cells)
        table[input] = fast_call.make(self.kernel, plan, self.dtype, work, input, results)


def chunk_shape(shape: Shape, numbers: int) -> Shape:
    """(steps, rows, features) of a chunk of an input: as many rows as fit, then as many steps; one of each at least."""
    steps, rows, features = shape
    fit = numbers // features
    chunk_rows = max(1, min(rows, fit))
    return max(1, min(steps, fit // chunk_rows)), chunk_rows, features
