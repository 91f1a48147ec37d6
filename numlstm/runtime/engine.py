"""Runs a plan: converts what must be converted, leases a workspace, calls the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy import empty, ndarray

from numlstm.base.typing import Array, Shape, States
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import SELF_DATA, ArraySpec, Cell, Fastcall, Header, Partition, Share
from numlstm.runtime import object_layout
from numlstm.runtime import planner as planning
from numlstm.runtime.object_layout import ABSENT, address
from numlstm.runtime.packed_weights import Panels, aligned_empty, aligned_record
from numlstm.runtime.planner import PLANS_KEPT, Plan, PlanCache, TeamPlan, checked, make_plan, make_team_plan
from numlstm.runtime.threads import Team, get_num_threads

FAST_PATH_WORK = 1 << 18  # multiply-adds of a call that may hold the GIL: some ten microseconds
STEP_WORK = 1 << 11  # what a step of a layer takes besides, counted likewise
KEEP_BYTES = 16 << 20  # a buffer up to this size is kept however little of it the next call needs

Arrays = tuple[Array, Array | None, Array | None, Array, Array, Array, Array]
Dropout = Callable[[Array], None]
FastPath = Callable[[Any, Any, Array], tuple[Array, States] | None]
DispatchTable = dict[Shape | None, FastPath | None]


class Workspace:
    """Every buffer that a call writes besides its results, and the plan's slots. One call at a time has it."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.plan: Plan | None = None
        self.buffers: dict[str, Array] = {}

    def room(self, name: str, count: int) -> Array:
        """The buffer of that name, with room for ``count`` numbers; a large one that is not needed is given back."""
        have = self.buffers.get(name)
        if have is None or count > have.size or (count < have.size // 4 and have.nbytes > KEEP_BYTES):
            self.buffers.pop(name, None)  # given back before the new one is taken
            have = self.buffers[name] = aligned_empty(count, self.dtype)
        return have

    def adopt(self, plan: Plan) -> None:
        """Make room for a plan and take over its slots."""
        slots = plan.slots.copy()
        for slot, name in ((Header.BELOW, "below"), (Header.GATES, "gates"), (Header.HIDDEN, "hidden")):
            slots[slot] = address(self.room(name, getattr(plan, name)))
        self.slots = slots
        self.words = memoryview(slots.data)  # NumPy takes its time with a single number
        self.address = address(slots)
        self.plan = plan

    def run(self, kept: Executor, arrays: Arrays) -> None:
        """Run the plan on input, h_0, c_0, output, h_n, c_n and panels."""
        if object_layout.readable:
            boxed = tuple([ABSENT if array is None else array for array in arrays])
            kept.call(self.address, id(boxed))
        else:
            for slot, array in zip(range(Header.INPUT, Header.PANELS + 1), arrays, strict=True):
                self.words[slot] = 0 if array is None else address(array)
            kept.run(self.address)


class Executor:
    """What a model remembers between calls: plans by shape, and the workspaces that no call uses at the moment."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.plans = PlanCache()
        self.idle: list[Workspace] = []
        kernel = registry.kernel(dtype.name)
        self.run, self.call, self.fastcall = kernel.forward, kernel.call, kernel.fastcall
        self.dispatch_table: tuple[DispatchTable, DispatchTable] = self.plans.dispatch_table
        self.inline_cache: list[FastPath | None] = self.plans.inline_cache

    def lease(self, plan: Plan) -> Workspace:
        """A workspace of the caller's own, ready for the plan; to be given back by ``idle.append``."""
        workspace = None
        while workspace is None:
            idle = self.idle.copy()
            if not idle:
                workspace = Workspace(self.dtype)
                break
            workspace = next((other for other in reversed(idle) if other.plan is plan), idle[-1])
            try:
                self.idle.remove(workspace)
            except ValueError:  # another thread took it meanwhile
                workspace = None
        if workspace.plan is not plan:
            self.adopt(workspace, plan)
        return workspace

    def adopt(self, workspace: Workspace, plan: Plan) -> None:
        """Make a workspace ready for another plan."""
        self.inline_cache[:] = None, None  # so that the next short call comes by ``take``
        self.let_go()  # before more is taken
        workspace.adopt(plan)

    def dispatch(self, order: int, input: Any, hx: Any, data: Array) -> tuple[Array, States] | None:
        """What the short way for this input's shape gives, where the latest one gave nothing."""
        if type(input) is not ndarray:
            return None
        route = self.dispatch_table[order].get(input.shape)
        if route is None or route is self.inline_cache[order]:
            return None
        results = route(input, hx, data)
        if results is not None:
            self.inline_cache[order] = route
            self.let_go()
        return results

    def let_go(self) -> None:
        """Give up idle workspaces that are large, for they may stay idle."""
        for other in self.idle.copy():  # small ones stay in sight: who finds none makes another, which is kept too
            if sum(buffer.nbytes for buffer in other.buffers.copy().values()) > KEEP_BYTES:
                with suppress(ValueError):  # another thread took it meanwhile
                    self.idle.remove(other)


def executor(panels: Panels) -> Executor:
    """What the model of these panels remembers."""
    if panels.memo is None:
        panels.memo = Executor(panels.dtype)
    kept: Executor = panels.memo
    return kept


def forward(
    panels: Panels,
    x: Array,
    hx: States | None,
    output: Array,
    h_n: Array,
    c_n: Array,
    dropout: Dropout | None = None,
) -> None:
    """One forward pass. All checking has been done.

    Parameters
    ----------
    panels : Panels
    x : array, (T, B, input_size)
        Any real dtype, any strides; never written.
    hx : (h_0, c_0) or None
        (num_layers * num_directions, B, output size) and (…, B, hidden_size), any real dtype and
        strides; None for zeros.
    output : array, (T, B, num_directions * output size)
        Of the panels' dtype, numbers of a step adjacent.
    h_n, c_n : array
        As h_0 and c_0, C-contiguous, of the panels' dtype. May be the arrays h_0 and c_0 themselves.
    dropout : callable or None
        Applied in place to what each layer but the last puts out, as (T, B, features).
    """
    kept = panels.memo or executor(panels)
    key = (x.shape, x.strides, output.strides)
    plan = kept.plans.by_shape.get(key) or kept.plans.make(panels, *key)
    readable = plan.direct and x.dtype == panels.dtype and x.flags.aligned
    if dropout is not None or not (readable or x.size * panels.dtype.itemsize <= planning.settings.convert_bytes):
        _forward_in_pieces(panels, kept, x, readable, hx, output, h_n, c_n, dropout)
        return
    if not readable:
        converted = empty(x.shape, panels.dtype)
        convert(converted, x)
        x = converted
        key = (x.shape, x.strides, output.strides)
        plan = kept.plans.by_shape.get(key) or kept.plans.make(panels, *key)
    h_0, c_0 = (None, None) if hx is None else (_state(hx[0], h_n), _state(hx[1], c_n))
    _run(panels, kept, key, plan, (x, h_0, c_0, output, h_n, c_n, panels.data), x.shape[1])


def forward_rows(panels: Panels, kept: Executor, x: Array, output: Array, states: States, state_rows: int) -> None:
    """One forward pass whose states are rows of larger arrays and are replaced there. All checking has been done.

    Plans are for a few batch sizes in each octave, so that a batch that changes at every step needs no new one.

    Parameters
    ----------
    panels : Panels
    kept : Executor
        The caller's own, for it alone knows of these plans.
    x : array, (T, B, input_size)
        C-contiguous, aligned, of the panels' dtype.
    output : array, (T, B, output size)
        C-contiguous, of the panels' dtype.
    states : (h, c)
        Arrays that begin with the first row's state in the first layer; rows follow each other, and a layer's begin
        ``state_rows`` rows after those of the layer below. If the pass is interrupted, by a signal's exception, all of
        them are either as before or final.
    state_rows : int
    """
    steps, rows, features = x.shape
    outputs, size = output.shape[2], panels.dtype.itemsize
    planned, apart = (batch_size(rows), 1) if steps == 1 else (rows, rows)
    of_row, of_output = features * size, outputs * size
    key = ((steps, planned, features), (apart * of_row, of_row, size), (apart * of_output, of_output, size))
    plan = kept.plans.by_shape.get((*key, state_rows)) or kept.plans.make(panels, *key, state_rows)
    _run(panels, kept, key, plan, (x, *states, output, *states, panels.data), rows, state_rows)


def batch_size(rows: int) -> int:
    """The batch size to plan for so many rows: there are four in an octave.

    Examples
    --------
    >>> [batch_size(rows) for rows in (1, 7, 9, 17, 1000, 1025)]
    [1, 7, 10, 20, 1024, 1280]
    """
    unit = 1 << max(0, rows.bit_length() - 3)
    return -(-rows // unit) * unit


def _run(
    panels: Panels,
    kept: Executor,
    key: tuple[Shape, Shape, Shape],
    plan: Plan,
    arrays: Arrays,
    rows: int,
    state_rows: int = 0,
) -> None:
    """A pass over the first ``rows`` rows of a plan, by as many threads as it is worth.

    ``arrays`` are input, h_0, c_0, output, h_n, c_n and panels.
    """
    limit = get_num_threads() if plan.long else 1
    if limit not in plan.teams:
        plan.teams[limit] = make_team_plan(panels, key, limit, state_rows)
    _shared(kept, plan, plan.teams[limit], arrays, rows)


def forward_packed(
    panels: Panels,
    x: Array,
    sizes: Array,
    hx: States | None,
    output: Array,
    h_n: Array,
    c_n: Array,
    dropout: Dropout | None = None,
) -> None:
    """One forward pass over sequences of several lengths, packed. All checking has been done.

    Its plan is made for this call alone: lengths are seldom the same twice.

    Parameters
    ----------
    panels : Panels
    x : array, (sum of sizes, input_size) or (T, B, input_size)
        Packed, of any real dtype and strides; or padded, with rows by decreasing length, if `readable` says so. Never
        written.
    sizes : array of int64, (T,)
        How many rows take each step: positive, never more than before.
    hx : (h_0, c_0) or None
        As in `forward`, rows by decreasing length.
    output : array, (sum of sizes, num_directions * output size) or (T, B, num_directions * output size)
        Of the panels' dtype; packed and C-contiguous, or padded as in `forward`. What is padding is not written.
    h_n, c_n : array
        As in `forward`.
    dropout : callable or None
        As in `forward`, for (sum of sizes, 1, features); only where all is packed.
    """
    kept, config = panels.memo or executor(panels), panels.config
    if x.ndim == 2 and not (x.dtype == panels.dtype and x.flags.carray):
        converted = empty(x.shape, panels.dtype)
        convert(converted, x)
        x = converted
    strides, output_strides = ((0, *a.strides[-2:]) if a.ndim == 2 else a.strides for a in (x, output))
    key = ((len(sizes), int(sizes[0]), x.shape[-1]), strides, output_strides)
    plan = make_plan(panels, *key, sizes=sizes)
    h_0, c_0 = (None, None) if hx is None else (_state(hx[0], h_n), _state(hx[1], c_n))
    arrays = (x, h_0, c_0, output, h_n, c_n, panels.data)
    limit = get_num_threads() if plan.long else 1
    team_plan = make_team_plan(panels, key, limit, sizes=sizes)
    if dropout is None:
        _shared(kept, plan, team_plan, arrays, int(sizes[0]))
        return
    workspace = kept.lease(plan)
    try:
        for slot, array in zip(range(Header.INPUT, Header.PANELS + 1), arrays, strict=True):
            workspace.words[slot] = 0 if array is None else address(array)
        for layer in range(config.num_layers):
            first_cell = layer * config.num_directions
            if layer > 0:
                dropout(_between(workspace, first_cell, output)[:, None])
            workspace.words[Header.CELLS_FROM] = first_cell
            workspace.words[Header.CELLS_TO] = first_cell + config.num_directions
            kept.run(workspace.address)
    finally:
        workspace.plan = None  # its slots are no longer the plan's
        kept.idle.append(workspace)


def readable(panels: Panels, x: Array) -> bool:
    """Whether the kernel can read a padded batch, (T, B, features), where it is."""
    step, row, feature = x.strides
    size = panels.dtype.itemsize
    in_place = (feature == size or x.shape[2] == 1) and step % size == row % size == 0 and step != 0
    return x.dtype == panels.dtype and x.flags.aligned and in_place


def _between(workspace: Workspace, first_cell: int, output: Array) -> Array:
    """What the layer below that of the first cell has put out, shaped like the output."""
    if workspace.slots[Header.LENGTH + (first_cell - 1) * Cell.LENGTH + Cell.TARGET] == Header.OUTPUT:
        return output
    return workspace.buffers["below"][: output.size].reshape(output.shape)


def _shared(kept: Executor, plan: Plan, team_plan: TeamPlan | None, arrays: Arrays, rows: int) -> None:
    """The pass over the first rows by as many threads as the team is for and are free.

    A worker that has just been started may be late by more than a brief call takes: when a process begins, NumPy's own
    threads, among others, keep its cores busy. The call after this one finds it there.
    """
    if team_plan is None:
        _by_itself(kept, plan, arrays, rows)
        return
    with Team(team_plan.schedule.members - 1) as team:
        if team.workers and not (team.fresh and team_plan.brief):
            _in_company(kept, team_plan, team, arrays, rows)
        else:
            _by_itself(kept, plan, arrays, rows)


def _by_itself(kept: Executor, plan: Plan, arrays: Arrays, rows: int) -> None:
    """The pass by this thread alone."""
    workspace = kept.lease(plan)
    workspace.words[Header.ROWS_TO] = rows
    workspace.run(kept, arrays)
    kept.idle.append(workspace)


def _in_company(kept: Executor, team_plan: TeamPlan, team: Team, arrays: Arrays, rows: int) -> None:
    """The same pass by this thread and the workers that it has."""
    leader = kept.lease(team_plan.caller)
    leader.words[Header.ROWS_TO] = rows
    if team_plan.schedule.partition == Partition.ROWS:  # set for each call: the rows may differ
        planned = leader.words[Header.ROWS]
        leader.words[Header.CHUNK_ROWS] = (
            team_plan.schedule.chunk_rows if rows == planned else -(-rows // team_plan.schedule.num_chunks)
        )
    record = (ctypes.c_int64 * team_plan.record)()
    leader.words[Header.SHARE] = ctypes.addressof(record)
    # a worker that is late outlives the call: it holds all that a kernel may touch
    held = (arrays, leader, record)
    workspaces = [kept.lease(team_plan.worker) for _ in team.workers]
    tasks = [_task(kept, team_plan, n + 1, held, workspace) for n, workspace in enumerate(workspaces)]
    try:
        team.start(tasks, record, Share.LEAVE, kept.run)
        leader.run(kept, arrays)
    except BaseException:
        # states are being replaced: what is left of the call is done all the same
        if arrays[1] is arrays[4] and not team.abandoned:
            leader.run(kept, arrays)
        raise
    if arrays[1] is arrays[4] and team.abandoned:  # a worker may have replaced some before this thread began anew
        raise RuntimeError(
            "this process was forked in the midst of a call that replaces states, and they may be wrong here\n"
            "A signal's handler has forked, it seems. Set the states anew."
        )
    kept.idle.append(leader)
    for item, workspace in zip(team.assigned, workspaces, strict=True):
        if item.call_off():
            kept.idle.append(workspace)


def _task(
    kept: Executor, team_plan: TeamPlan, member: int, held: tuple[Arrays, Workspace, Any], workspace: Workspace
) -> Callable[[], None]:
    """What a worker does for a call; then it gives back its workspace."""
    arrays, leader, _ = held
    own, of_caller = workspace.words, leader.words
    own[Header.THREAD_INDEX] = member
    for slot in (Header.SHARE, Header.BELOW, Header.ROWS_TO, Header.CHUNK_ROWS):
        own[slot] = of_caller[slot]
    if team_plan.schedule.partition == Partition.BLOCKS:
        own[Header.GATES], own[Header.HIDDEN] = of_caller[Header.GATES], of_caller[Header.HIDDEN]

    def task(held: Any = held) -> None:
        workspace.run(kept, arrays)
        kept.idle.append(workspace)

    return task


def make_fast_path(
    kept: Executor, plan: Plan, work: int, input: Shape, output: Shape, hidden: Shape, cell: Shape
) -> FastPath:
    """A call whose shapes were seen before: machine code checks the arrays where they lie.

    Parameters
    ----------
    kept : Executor
        Of the model.
    plan : Plan
        As `plan.checked` makes it.
    work : int
        Multiply-adds of the call, about.
    input, output, hidden, cell : tuple of int
        Shapes of the input and of the results.

    Returns
    -------
    callable
        ``take(input, hx, panels.data)``: the results, or None where an argument is not of the kind that this
        way is for.
    """
    if object_layout.functions is not None and object_layout.DATA == SELF_DATA and work <= FAST_PATH_WORK:
        return make_fastcall(kept, plan, (output, hidden, cell))
    call, idle, dtype = kept.call, kept.idle, kept.dtype

    def dispatch(x: Any, hx: Any, data: Array) -> tuple[Array, States] | None:
        if type(x) is not ndarray or x.shape != input:
            return None
        h_0 = c_0 = ABSENT
        if hx is not None:
            if type(hx) is not tuple or len(hx) != 2:
                return None
            h_0, c_0 = hx
        y, h_n, c_n = empty(output, dtype), empty(hidden, dtype), empty(cell, dtype)
        try:
            workspace = idle.pop()
        except IndexError:
            workspace = Workspace(dtype)
        if workspace.plan is not plan:
            kept.adopt(workspace, plan)
        arrays = (x, h_0, c_0, y, h_n, c_n, data)
        refused = call(workspace.address, id(arrays))
        idle.append(workspace)
        return None if refused else (y, (h_n, c_n))

    return dispatch


def make_fastcall(kept: Executor, plan: Plan, results: tuple[Shape, Shape, Shape]) -> FastPath:
    """The same as a built-in function that is all machine code, for calls of microseconds: it holds the GIL.

    What a workspace has is here in the one array that the function is bound to.
    """
    length = int(Fastcall.LENGTH)
    slots, buffers = aligned_record(
        length + plan.slots.size, kept.dtype, below=plan.below, gates=plan.gates, hidden=plan.hidden
    )
    assert object_layout.functions is not None
    slots[Fastcall.NONE], slots[Fastcall.TUPLE], slots[Fastcall.COUNT_AT] = id(None), id(tuple), object_layout.COUNT
    slots[Fastcall.NEW_ARRAY : Fastcall.DROP + 1] = object_layout.functions
    for n, shape in enumerate(results):
        box = slots[Fastcall.RESULTS + n * ArraySpec.LENGTH :]
        box[ArraySpec.NDIM], box[ArraySpec.SIZE_0 : ArraySpec.SIZE_0 + len(shape)] = len(shape), shape
    header = slots[length:]
    header[:] = plan.slots
    header[[Header.BELOW, Header.GATES, Header.HIDDEN]] = [address(buffer) for buffer in buffers.values()]
    fastcall: FastPath = kept.fastcall(slots)
    return fastcall


def install_fast_path(
    panels: Panels, input: Shape, output: Shape, hidden: Shape, cell: Shape, batch_first: bool, step: bool = False
) -> None:
    """Remember the short way for a call of these shapes, as the user sees them: unbatched ones have an axis less.

    With ``step``, the input is a step of a sequence, not a sequence.
    """
    kept = executor(panels)
    dispatch_table = kept.dispatch_table[batch_first]
    if input in dispatch_table or not object_layout.readable or 0 in input:
        return
    size = panels.dtype.itemsize
    steps = (1,) if step else ()
    (shape, strides), (_, output_strides) = (_step_row((*steps, *s), batch_first, size) for s in (input, output))
    key = (shape, strides, output_strides)
    plan = kept.plans.by_shape.get(key) or kept.plans.make(panels, *key)
    if len(dispatch_table) >= PLANS_KEPT:
        dispatch_table.clear()
    if plan.long:  # a call whose cost is not in its beginning, and which threads may share
        dispatch_table[input] = None
        return
    of_a_step = panels.data.size + STEP_WORK * panels.config.num_layers * panels.config.num_directions
    plan = checked(plan, panels.dtype, (input, hidden, cell))
    dispatch_table[input] = make_fast_path(kept, plan, shape[0] * shape[1] * of_a_step, input, output, hidden, cell)


def _step_row(shape: Shape, batch_first: bool, size: int) -> tuple[Shape, Shape]:
    """Shape and strides, as (steps, rows, features), of a C-contiguous array that the user sees in this shape."""
    features = shape[-1]
    if len(shape) == 2:
        return (shape[0], 1, features), (features * size, features * size, size)
    outer, inner = (shape[1] * features * size, features * size)
    if batch_first:
        return (shape[1], shape[0], features), (inner, outer, size)
    return shape, (outer, inner, size)


def _state(given: Array, final: Array) -> Array:
    """The array to read an initial state from: itself, or after conversion the one of the final state."""
    if given.dtype == final.dtype and given.flags.carray:
        return given
    convert(final, given)
    return final


def convert(into: Array, given: Array) -> None:
    """Copy numbers of another dtype; what is too large becomes infinite in silence, as in PyTorch."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(into, given, casting="unsafe")


def _forward_in_pieces(
    panels: Panels,
    kept: Executor,
    x: Array,
    direct: bool,
    hx: States | None,
    output: Array,
    h_n: Array,
    c_n: Array,
    dropout: Dropout | None,
) -> None:
    """The same pass where Python must act in between: the input is converted piece by piece, or dropout applied.

    A piece is some steps of some rows, small enough to be converted into a buffer; the kernel is made to believe
    that the buffer is a part of the whole input.
    """
    config, size = panels.config, panels.dtype.itemsize
    steps, rows, features = x.shape
    if rows == 0:
        return
    piece_steps, chunk_rows, strides = steps, rows, x.strides
    if not direct:
        most = planning.settings.convert_bytes // (features * size)
        chunk_rows = max(1, min(rows, most))
        piece_steps = max(1, min(steps, most // chunk_rows))
        strides = (chunk_rows * features * size, features * size, size)
    key = (x.shape, strides, output.strides)
    workspace = kept.lease(kept.plans.by_shape.get(key) or kept.plans.make(panels, *key))
    try:
        slots = workspace.slots
        slots[Header.H_0] = slots[Header.C_0] = 0
        slots[Header.INPUT] = address(x)
        if hx is not None:
            slots[Header.H_0], slots[Header.C_0] = address(_state(hx[0], h_n)), address(_state(hx[1], c_n))
        results = (Header.OUTPUT, output), (Header.H_N, h_n), (Header.C_N, c_n), (Header.PANELS, panels.data)
        for slot, array in results:
            slots[slot] = address(array)

        def run(cells: tuple[int, int], of_rows: tuple[int, int], of_steps: tuple[int, int]) -> None:
            slots[[Header.CELLS_FROM, Header.CELLS_TO]] = cells
            slots[[Header.ROWS_FROM, Header.ROWS_TO]] = of_rows
            slots[[Header.STEPS_FROM, Header.STEPS_TO]] = of_steps
            kept.run(workspace.address)

        for first_row in range(0, rows, chunk_rows):
            of_rows = (first_row, min(first_row + chunk_rows, rows))
            for direction in range(config.num_directions):
                for done in range(0, steps, piece_steps):
                    of_steps = (done, min(done + piece_steps, steps))
                    if not direct:
                        # the reverse direction takes its first steps at the end of the sequence
                        begin, end = of_steps if direction == 0 else (steps - of_steps[1], steps - of_steps[0])
                        count = piece_steps * chunk_rows * features
                        buffer = workspace.room("piece", count)[:count]
                        piece = buffer.reshape(piece_steps, chunk_rows, features)
                        convert(piece[: end - begin, : of_rows[1] - first_row], x[begin:end, first_row : of_rows[1]])
                        # where the whole input would begin; only the piece's own part of it is ever read
                        slots[Header.INPUT] = address(buffer) - begin * strides[0] - first_row * strides[1]
                    run((direction, direction + 1), of_rows, of_steps)
        for layer in range(1, config.num_layers):
            first_cell = layer * config.num_directions
            if dropout is not None:
                dropout(_between(workspace, first_cell, output))
            run((first_cell, first_cell + config.num_directions), (0, rows), (0, steps))
    finally:
        workspace.plan = None  # its slots are no longer the plan's
        kept.idle.append(workspace)
