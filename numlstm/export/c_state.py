"""The library's functions of a state: memory, initialisation, step, forward.

Nothing is allocated: whatever is written lies in the memory of a state, in the order of ``Room``.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils

from numlstm.export.c_heads import RECORD, heads_writer, sizes_of, widest_head
from numlstm.export.c_memory import address, clear, give, rounded, within
from numlstm.export.model_layout import (
    HEADER_BYTES,
    MAGIC,
    MOST_NUMBERS,
    MOST_ROWS,
    MOST_STEPS,
    Code,
    Model,
    State,
)
from numlstm.kernels.compiler import inline, named
from numlstm.kernels.instructions import (
    INT64,
    PLAN,
    instruction,
    load_slot,
    record_at,
    slots_at,
    smaller,
    store_slot,
)
from numlstm.kernels.plan_layout import KEPT, LINE, Cell, Header
from numlstm.kernels.plan_rules import CallSizes, Forced

HEADER, CELL = int(Header.LENGTH), int(Cell.LENGTH)
STATE_BYTES = 128
STATE_MAGIC = MAGIC ^ 0x5A5A5A5A


class Room(NamedTuple):
    """Addresses of the parts of a state."""

    step_plan: int
    plan: int
    h: int
    c: int
    gates: int  # and where c ends
    hidden: int
    below: int
    heads: int
    room: int  # two buffers that heads read and write in turns
    end: int


def state_layout(rules):
    """``room(sizes, rows, steps, begin)``, and ``prepare(plan, model, steps, rows, room)``, which writes a plan."""
    size, free, outputs_of = rules.itemsize, Forced(), rules.outputs_of
    write, plan_slots = rules.write_plan, rules.plan_slots
    gates_numbers, hidden_numbers = rules.gates_numbers, rules.hidden_numbers

    @inline
    def call_of(sizes, rows, steps):
        """A call whose arrays are contiguous."""
        features = sizes.directions * outputs_of(sizes)
        return CallSizes(
            steps, rows, rows * sizes.inputs, sizes.inputs, rows * features, features, rows, 1 << 30, 1, False
        )

    widest = widest_head(rules)

    @inline
    def room_of(model, rows, steps, begin):
        sizes, heads = sizes_of(model), load_slot(model, Model.HEADS)
        cells, call = sizes.layers * sizes.directions, call_of(sizes, rows, steps)
        step_plan = begin + STATE_BYTES
        plan = step_plan + rounded(8 * plan_slots(sizes))
        h = plan + rounded(8 * plan_slots(sizes))
        c = h + rounded(size * cells * rows * outputs_of(sizes))
        gates = c + rounded(size * cells * rows * sizes.units)
        # a single step needs no larger buffers than several
        hidden = gates + rounded(size * gates_numbers(sizes, call, free))
        below = hidden + rounded(size * hidden_numbers(sizes, call, free))
        records = below
        if sizes.layers > 1:
            records += rounded(size * steps * rows * sizes.directions * outputs_of(sizes))
        room = records + heads * RECORD
        end = room
        if heads > 0:
            end += 2 * rounded(size * steps * rows * widest(model))
        return Room(step_plan, plan, h, c, gates, hidden, below, records, room, end)

    @named("write_plan")
    def write_plan(plan, model, rows, steps, room):
        """Every slot of a plan but the addresses of input and output."""
        sizes = sizes_of(model)
        write(plan, sizes, call_of(sizes, rows, steps), free)
        store_slot(plan, Header.H_0, KEPT)
        store_slot(plan, Header.H_N, room.h)
        store_slot(plan, Header.C_0, room.c)
        store_slot(plan, Header.C_N, room.c)
        store_slot(plan, Header.PANELS, address(model) + HEADER_BYTES)
        store_slot(plan, Header.GATES, room.gates)
        store_slot(plan, Header.HIDDEN, room.hidden)
        store_slot(plan, Header.BELOW, room.below)

    return room_of, write_plan


@named("set_steps")
def set_steps(plan, steps):
    """Shorten the sequence that a plan is for, or lengthen it."""
    store_slot(plan, Header.STEPS, steps)
    store_slot(plan, Header.STEPS_TO, steps)
    for n in range(load_slot(plan, Header.CELLS_TO)):
        cell = record_at(plan, HEADER + n * CELL)
        if load_slot(cell, Cell.BACK) > 0:
            end = load_slot(cell, Cell.OUTPUTS) + (1 - steps) * load_slot(cell, Cell.TARGET_STEP)
            store_slot(cell, Cell.SOURCE_AT, (1 - steps) * load_slot(cell, Cell.SOURCE_STEP))
            store_slot(cell, Cell.TARGET_AT, end)


@inline
def usable(state):
    return address(state) & 7 == 0 and load_slot(state, State.SELF) == STATE_MAGIC ^ address(state)


def state_setup(rules):
    """``state_bytes``, ``state_init`` and ``reset``."""
    (room_of, write_plan), widest, write_heads = state_layout(rules), widest_head(rules), heads_writer(rules)

    @named("bytes_of")
    def bytes_of(model, rows, steps):
        """Of a state; 0 where rows or steps are out of range."""
        if not (within(rows, 1, MOST_ROWS) and within(steps, 1, MOST_STEPS)):
            return 0
        if steps > MOST_NUMBERS // (rows * widest(model)):
            return 0
        return LINE + room_of(model, rows, steps, 0).end

    def state_bytes(model, rows, steps):
        if address(model) == 0:
            return 0
        return bytes_of(model, rows, steps)

    def state_init(model, rows, steps, memory, length, result):
        if address(model) == 0 or address(memory) == 0 or address(result) == 0:
            return Code.NULL
        needed = bytes_of(model, rows, steps)
        if needed == 0:
            return Code.STEPS
        if length < needed:
            return Code.MEMORY
        begin = rounded(address(memory))
        state, room = slots_at(begin), room_of(model, rows, steps, begin)
        clear(state, (room.gates - begin) >> 3)
        store_slot(state, State.MODEL, address(model))
        store_slot(state, State.ROWS, rows)
        store_slot(state, State.STEPS, steps)
        store_slot(state, State.H, room.h)
        store_slot(state, State.C, room.c)
        store_slot(state, State.END, room.gates)
        store_slot(state, State.STEP_PLAN, room.step_plan)
        store_slot(state, State.PLAN, room.plan)
        write_plan(slots_at(room.plan), model, rows, steps, room)
        write_plan(slots_at(room.step_plan), model, rows, 1, room)
        if load_slot(model, Model.HEADS) > 0:
            write_heads(model, room.heads, room.room, (room.end - room.room) >> 1)
            store_slot(state, State.HEAD, room.heads)
            store_slot(state, State.ROOM, room.room)
        store_slot(state, State.SELF, STATE_MAGIC ^ begin)
        give(result, state)
        return Code.OK

    def reset(state):
        if address(state) == 0:
            return Code.NULL
        if not usable(state):
            return Code.STATE
        clear(slots_at(load_slot(state, State.H)), (load_slot(state, State.END) - load_slot(state, State.H)) >> 3)
        return Code.OK

    return state_bytes, state_init, reset


def kernel_of(prefix):
    """``run(state, plan, rows, input, output)``, by the functions of the library's other object."""

    @instruction(types.void, PLAN)
    def run_kernel(builder, plan):
        signature = ir.FunctionType(ir.VoidType(), [INT64.as_pointer()])
        builder.call(cgutils.get_or_insert_function(builder.module, signature, f"{prefix}_kernel"), [plan])

    word = types.int64

    @instruction(types.void, PLAN, word, word, word, word)
    def run_head(builder, record, source, target, rows, given):
        signature = ir.FunctionType(ir.VoidType(), [INT64.as_pointer(), *[INT64] * 4])
        function = cgutils.get_or_insert_function(builder.module, signature, f"{prefix}_head")
        builder.call(function, [record, source, target, rows, given])

    @inline
    def run(state, plan, rows, input, output):
        """A plan for so many rows of all its steps together, and the heads."""
        store_slot(plan, Header.INPUT, input)
        head, room = load_slot(state, State.HEAD), load_slot(state, State.ROOM)
        if head == 0:
            store_slot(plan, Header.OUTPUT, output)
            run_kernel(plan)
        else:
            store_slot(plan, Header.OUTPUT, room)
            run_kernel(plan)
            run_head(slots_at(head), room, output, rows, input)

    return run


def runners(prefix, rules):
    """``step`` and ``forward``."""
    size, run = rules.itemsize, kernel_of(prefix)

    @inline
    def arrays(input, output):
        """What is wrong with the arrays of a call."""
        if address(input) == 0 or address(output) == 0:
            return Code.NULL
        if (address(input) | address(output)) & (size - 1) != 0:
            return Code.MISALIGNED
        return Code.OK

    def step(state, input, output):
        if address(state) == 0:
            return Code.NULL
        if not usable(state):
            return Code.STATE
        wrong = arrays(input, output)
        if wrong != Code.OK:
            return wrong
        if load_slot(slots_at(load_slot(state, State.MODEL)), Model.NUM_DIRECTIONS) == 2:
            return Code.BIDIRECTIONAL
        plan = slots_at(load_slot(state, State.STEP_PLAN))
        run(state, plan, load_slot(state, State.ROWS), address(input), address(output))
        return Code.OK

    def forward(state, steps, input, output):
        if address(state) == 0:
            return Code.NULL
        if not usable(state):
            return Code.STATE
        model, most = slots_at(load_slot(state, State.MODEL)), load_slot(state, State.STEPS)
        sizes = sizes_of(model)
        if steps < 0 or (steps > most and sizes.directions == 2):
            return Code.STEPS
        if steps == 0:
            return Code.OK
        wrong = arrays(input, output)
        if wrong != Code.OK:
            return wrong
        rows, done = load_slot(state, State.ROWS), 0
        while done < steps:
            count = smaller(most, steps - done)
            plan = slots_at(load_slot(state, State.PLAN) if count > 1 else load_slot(state, State.STEP_PLAN))
            set_steps(plan, count)
            read, written = done * rows * sizes.inputs, done * rows * load_slot(model, Model.OUTPUT_SIZE)
            run(state, plan, rows * count, address(input) + read * size, address(output) + written * size)
            done += count
        return Code.OK

    return step, forward


def state_functions(prefix, rules):
    """(function, signature) by name."""

    @inline
    def share(state, slot):
        """The address of h or c, through which the caller may write numbers that the kernel must flush."""
        if address(state) == 0 or not usable(state):
            return 0
        store_slot(slots_at(load_slot(state, State.STEP_PLAN)), Header.H_0, load_slot(state, State.H))
        store_slot(slots_at(load_slot(state, State.PLAN)), Header.H_0, load_slot(state, State.H))
        return load_slot(state, slot)

    def h(state):
        return slots_at(share(state, State.H))

    def c(state):
        return slots_at(share(state, State.C))

    state_bytes, state_init, reset = state_setup(rules)
    step, forward = runners(prefix, rules)
    word, code = types.int64, types.int32
    return {
        "state_bytes": (state_bytes, word(PLAN, word, word)),
        "state_init": (state_init, code(PLAN, word, word, PLAN, word, PLAN)),
        "step": (step, code(PLAN, PLAN, PLAN)),
        "forward": (forward, code(PLAN, word, PLAN, PLAN)),
        "reset": (reset, code(PLAN)),
        "h": (h, PLAN(PLAN)),
        "c": (c, PLAN(PLAN)),
    }
