"""The library that ``numlstm export`` writes: the forward kernel, and the C functions around it.

They are written as the kernels are, for then one back end makes them for every target and no C compiler is needed.
Nothing is allocated and nothing is global: a model is read only, and all that is written lies in the memory of a
state. A model holds sizes and weights; the plan is made here, by the rules of ``runtime/planner.py`` (the tests compare
the two slot by slot), so that no file, damaged or forged, can make the kernel touch what is not its own.

A library is two objects: ``kernel_object`` for the level asked for, and ``glue_object`` for any CPU of the family,
which looks whether the CPU has what the level needs before the other is ever entered.
"""

import zlib
from dataclasses import dataclass, replace

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock

from numlstm.export.model_layout import (
    HEADER_BYTES,
    LEVELS,
    MAGIC,
    MOST_FEATURES,
    MOST_LAYERS,
    MOST_NUMBERS,
    MOST_ROWS,
    MOST_STEPS,
    TEXTS,
    VERSION,
    Code,
    Model,
    State,
    Tuning,
)
from numlstm.kernels.compiler import inline, named
from numlstm.kernels.instructions import (
    INT64,
    LINE,
    PLAN,
    greater,
    instruction,
    load_slot,
    record_at,
    slots_at,
    smaller,
    store_slot,
)
from numlstm.kernels.loading.build import bare_module, optimise, target_machine
from numlstm.kernels.loading.levels import Level
from numlstm.kernels.plan_layout import Cell, Header
from numlstm.kernels.recurrence import forward_kernel
from numlstm.kernels.tail_block import whole_blocks
from numlstm.kernels.tile_shapes import REGISTERS_16, REGISTERS_32

HEADER, CELL = int(Header.LENGTH), int(Cell.LENGTH)
STATE_BYTES = 128
STATE_MAGIC = MAGIC ^ 0x5A5A5A5A
INT32, BYTE = ir.IntType(32), ir.IntType(8)
EAX, EBX, ECX = range(3)


@dataclass(frozen=True)
class Needs:
    """What CPUID must say, as bits of the registers of its leaves, and XGETBV of what the system saves."""

    leaf_1_ecx: int
    leaf_7_ebx: int
    extended_1_ecx: int
    saved: int


def _bits(*places: int) -> int:
    return sum(1 << place for place in places)


# Intel's manual, volume 2, CPUID; the levels are those of the x86-64 psABI
_V3 = Needs(
    # SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C
    leaf_1_ecx=_bits(0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29),
    leaf_7_ebx=_bits(3, 5, 8),  # BMI1, AVX2, BMI2
    extended_1_ecx=_bits(0, 5),  # LAHF, LZCNT
    saved=_bits(1, 2),  # XMM, YMM
)
NEEDS = {
    "x86-64-v3": _V3,
    # AVX512F, DQ, CD, BW, VL; opmask, ZMM
    "x86-64-v4": replace(_V3, leaf_7_ebx=_V3.leaf_7_ebx | _bits(16, 17, 28, 30, 31), saved=_bits(1, 2, 5, 6, 7)),
}
# void cpuid(int32 leaf, int32 subleaf, int32 registers[4]) and int32 xgetbv(), for either calling convention: as bytes,
# since LLVM's parser of assembly is there for the machine that builds alone
_TO_RAX = {
    False: "89f8 89f1 4989d0",  # mov eax, edi; mov ecx, esi; mov r8, rdx
    True: "89c8 89d1",  # Windows: mov eax, ecx; mov ecx, edx
}
_CPUID = "4989d9 {} 0fa2 418900 41895804 41894808 4189500c 4c89cb c3"  # rbx waits in r9; registers to [r8]; ret
_XGETBV = "31c9 0f01d0 c3"  # xor ecx, ecx; xgetbv; ret


def cpu_functions(prefix: str, triple: str) -> llvm.ModuleRef:
    """A module of the two functions: machine code where LLVM puts a function's prologue."""
    code = {"cpuid": _CPUID.format(_TO_RAX["windows" in triple]), "xgetbv": _XGETBV}
    types_of = {"cpuid": ("void", "i32, i32, ptr", "ret void"), "xgetbv": ("i32", "", "ret i32 0")}
    hidden = "" if "windows" in triple else "hidden "
    lines = [f'target triple = "{triple}"']
    for name, (result, arguments, end) in types_of.items():
        text = bytes.fromhex(code[name])
        constant = "".join(f"\\{byte:02x}" for byte in text)
        lines.append(
            f"define {hidden}{result} @{prefix}_{name}({arguments}) noinline nounwind "
            f'prologue [{len(text)} x i8] c"{constant}" {{ {end} }}'
        )
    return llvm.parse_assembly("\n".join(lines))


def glue(number: str, level: Level, prefix: str, tuning: Tuning) -> dict:
    """The library's functions by name, for one number type and kind of CPU."""
    lanes = level.lanes(number)
    size = 4 if number == "float32" else 8
    width, half, whole_of = 4 * lanes, lanes // 2, whole_blocks(lanes)
    level_number = LEVELS[level.name]
    l1, l2 = tuning.first_cache, tuning.second_cache
    working_set, few_rows = tuning.working_set, tuning.few_rows
    gates_most, hidden_most = tuning.gates_most, tuning.hidden_most

    @instruction(types.int64, PLAN)
    def word(builder, pointer):
        return builder.ptrtoint(pointer, INT64)

    @instruction(types.void, PLAN, PLAN)
    def give(builder, where, pointer):
        """Write a pointer, as wide as the target has them."""
        builder.store(pointer, builder.bitcast(where, pointer.type.as_pointer()))

    @instruction(types.void, PLAN, types.int64)
    def clear_word(builder, pointer, index):
        """Atomic so that LLVM does not call memset for a loop of them: the library calls nothing."""
        builder.store_atomic(INT64(0), builder.gep(pointer, [index]), "monotonic", 8)

    @instruction(types.void, PLAN)
    def run_kernel(builder, plan):
        signature = ir.FunctionType(ir.VoidType(), [INT64.as_pointer()])
        builder.call(cgutils.get_or_insert_function(builder.module, signature, f"{prefix}_kernel"), [plan])

    @instruction(types.int64, types.int64)
    def remainder(builder, index):
        """A number of the eight tables that CRC-32 is made by."""
        table = _constant(builder.module, "crc_tables", ir.Constant(ir.ArrayType(INT32, 2048), crc_tables()))
        return builder.zext(builder.load(builder.gep(table, [INT64(0), index])), INT64)

    @instruction(PLAN, types.int64)
    def text(builder, code):
        longest = max(map(len, TEXTS.values())) + 1
        kind = ir.ArrayType(BYTE, longest)
        texts = [ir.Constant(kind, bytearray(TEXTS[code].encode().ljust(longest, b"\0"))) for code in Code]
        texts.append(ir.Constant(kind, bytearray(b"an unknown error".ljust(longest, b"\0"))))
        table = _constant(builder.module, "texts", ir.Constant(ir.ArrayType(kind, len(texts)), texts))
        known = builder.icmp_unsigned("<", code, INT64(len(Code)))
        place = builder.select(known, code, INT64(len(Code)))
        return builder.bitcast(builder.gep(table, [INT64(0), place]), INT64.as_pointer())

    @inline
    def rounded(count):
        """Bytes to the next cache line."""
        return (count + (LINE - 1)) & -LINE

    # The CPU ------------------------------------------------------------------------------------------------------

    cpu_fits = cpu_check(prefix, level)

    # The model ----------------------------------------------------------------------------------------------------

    @named("checksum")
    def checksum(words, first, end):
        """CRC-32 of whole words, eight bytes at a time (slicing by 8)."""
        crc = 0xFFFFFFFF
        for k in range(first, end):
            x = load_slot(words, k) ^ crc
            crc = (
                remainder(7 * 256 + (x & 255))
                ^ remainder(6 * 256 + (x >> 8 & 255))
                ^ remainder(5 * 256 + (x >> 16 & 255))
                ^ remainder(4 * 256 + (x >> 24 & 255))
                ^ remainder(3 * 256 + (x >> 32 & 255))
                ^ remainder(2 * 256 + (x >> 40 & 255))
                ^ remainder(256 + (x >> 48 & 255))
                ^ remainder(x >> 56 & 255)
            )
        return crc ^ 0xFFFFFFFF

    @inline
    def outputs_of(model):
        """Size of h."""
        projected = load_slot(model, Model.PROJ_SIZE)
        if projected > 0:
            return projected
        return load_slot(model, Model.HIDDEN_SIZE)

    @inline
    def inputs_of(model, layer):
        if layer == 0:
            return load_slot(model, Model.INPUT_SIZE)
        return load_slot(model, Model.NUM_DIRECTIONS) * outputs_of(model)

    @inline
    def blocks_of(units):
        return (units + (lanes - 1)) // lanes

    @inline
    def cells_of(model):
        return load_slot(model, Model.NUM_LAYERS) * load_slot(model, Model.NUM_DIRECTIONS)

    @inline
    def panel_numbers(model, layer):
        """Numbers of the gate panels of a cell; the bias follows them."""
        units = load_slot(model, Model.HIDDEN_SIZE)
        packed = blocks_of(units) * lanes - (blocks_of(units) - whole_of(units)) * half
        return packed * (inputs_of(model, layer) + outputs_of(model)) * 4

    @inline
    def cell_numbers(model, layer):
        """Numbers of all panels of a cell, as ``panels.cell_layouts`` lays them out."""
        units = load_slot(model, Model.HIDDEN_SIZE)
        end = panel_numbers(model, layer) + blocks_of(units) * width
        end += blocks_of(load_slot(model, Model.PROJ_SIZE)) * units * lanes
        return (end + 15) & -16

    @inline
    def within(value, least, most):
        return value >= least and value <= most

    @named("sizes_fit")
    def sizes_fit(model):
        """Whether the sizes are within their limits and the weights are as many as they say."""
        if not (
            within(load_slot(model, Model.INPUT_SIZE), 1, MOST_FEATURES)
            and within(load_slot(model, Model.HIDDEN_SIZE), 1, MOST_FEATURES)
            and within(load_slot(model, Model.NUM_LAYERS), 1, MOST_LAYERS)
            and within(load_slot(model, Model.NUM_DIRECTIONS), 1, 2)
            and within(load_slot(model, Model.PROJ_SIZE), 0, MOST_FEATURES)
        ):
            return False
        count = 0
        for layer in range(load_slot(model, Model.NUM_LAYERS)):
            count += load_slot(model, Model.NUM_DIRECTIONS) * cell_numbers(model, layer)
        return load_slot(model, Model.BYTES) == HEADER_BYTES + rounded(count * size)

    def load(model, length, result):
        if word(model) == 0 or word(result) == 0:
            return Code.NULL
        if word(model) & 7 != 0:
            return Code.MISALIGNED
        if length < 8:
            return Code.TRUNCATED
        if load_slot(model, Model.MAGIC) != MAGIC:
            return Code.NOT_A_MODEL
        if length < HEADER_BYTES:
            return Code.TRUNCATED
        if load_slot(model, Model.VERSION) != VERSION:
            return Code.VERSION
        if load_slot(model, Model.BYTES) != length or length & 7 != 0:
            return Code.TRUNCATED
        if load_slot(model, Model.CHECKSUM) != checksum(model, Model.CHECKSUM + 1, length >> 3):
            return Code.DAMAGED
        if load_slot(model, Model.NUMBER) != size:
            return Code.NUMBER
        if load_slot(model, Model.LEVEL) != level_number:
            return Code.LEVEL
        if not cpu_fits():
            return Code.CPU
        if not sizes_fit(model):
            return Code.SIZES
        give(result, model)
        return Code.OK

    def input_size(model):
        return load_slot(model, Model.INPUT_SIZE)

    def hidden_size(model):
        return load_slot(model, Model.HIDDEN_SIZE)

    def num_layers(model):
        return load_slot(model, Model.NUM_LAYERS)

    def num_directions(model):
        return load_slot(model, Model.NUM_DIRECTIONS)

    def proj_size(model):
        return load_slot(model, Model.PROJ_SIZE)

    def output_size(model):
        return load_slot(model, Model.NUM_DIRECTIONS) * outputs_of(model)

    # The plan: rules and names of runtime/planner.py ------------------------------------------------------------------

    @inline
    def group_of(model):
        """Rows that pass through all layers together."""
        units, outputs = load_slot(model, Model.HIDDEN_SIZE), outputs_of(model)
        group = greater(96, working_set // (size * (units + outputs)) // 12 * 12)
        if load_slot(model, Model.PROJ_SIZE) > 0:
            group = smaller(group, greater(1, hidden_most // (blocks_of(units) * lanes * size)))
        return group

    @inline
    def hoisted_steps(model, layer, rows, steps):
        inputs, outputs = inputs_of(model, layer), outputs_of(model)
        row_bytes = blocks_of(load_slot(model, Model.HIDDEN_SIZE)) * width * size
        of_term = width * size
        by_runs = smaller(inputs, outputs) * of_term >= l1
        if steps == 1:
            by_runs = by_runs and (inputs + outputs) * of_term > l2 // 4
        fits = gates_most // greater(row_bytes * rows, 1)
        pays = (rows < few_rows and (inputs + outputs) * row_bytes > l1) or by_runs
        if not (pays and steps * rows >= 3 and inputs >= 8 and fits >= 1):
            return 0
        gates_bytes = gates_most // 8
        if inputs * row_bytes > l2:
            gates_bytes = gates_most // 2
        most_rows = greater(48, gates_bytes // row_bytes)
        return greater(1, smaller(smaller(steps, fits), most_rows // rows))

    @inline
    def below_numbers(model, rows, steps):
        if load_slot(model, Model.NUM_LAYERS) == 1:
            return 0
        return steps * rows * output_size_of(model)

    @inline
    def output_size_of(model):
        return load_slot(model, Model.NUM_DIRECTIONS) * outputs_of(model)

    @named("gates_numbers")
    def gates_numbers(model, rows, steps):
        group_rows = smaller(group_of(model), rows)
        most = 0
        for layer in range(smaller(2, load_slot(model, Model.NUM_LAYERS))):  # the third is like the second
            hoist = hoisted_steps(model, layer, group_rows, steps)
            most = greater(most, hoist * group_rows * blocks_of(load_slot(model, Model.HIDDEN_SIZE)) * width)
        return most

    @inline
    def hidden_numbers(model, rows):
        if load_slot(model, Model.PROJ_SIZE) == 0:
            return 0
        return smaller(group_of(model), rows) * blocks_of(load_slot(model, Model.HIDDEN_SIZE)) * lanes

    @inline
    def plan_bytes(model):
        return rounded(8 * (HEADER + CELL * cells_of(model)))

    @named("write_plan")
    def write_plan(plan, model, rows, steps, h, c, gates):
        """Every slot of a plan; those of a call's input and output are left open."""
        units, outputs, directions = (
            load_slot(model, Model.HIDDEN_SIZE),
            outputs_of(model),
            load_slot(model, Model.NUM_DIRECTIONS),
        )
        layers = load_slot(model, Model.NUM_LAYERS)
        group = group_of(model)
        group_rows = smaller(group, rows)
        store_slot(plan, Header.CELLS_TO, layers * directions)
        store_slot(plan, Header.STEPS_TO, steps)
        store_slot(plan, Header.ROWS_TO, rows)
        store_slot(plan, Header.STEPS, steps)
        store_slot(plan, Header.ROWS, rows)
        store_slot(plan, Header.GROUP, group)
        store_slot(plan, Header.MR, 1 << 30)
        store_slot(plan, Header.K_BLOCK_MIN, l1 // (width * size))
        store_slot(plan, Header.H_0, h)
        store_slot(plan, Header.H_N, h)
        store_slot(plan, Header.C_0, c)
        store_slot(plan, Header.C_N, c)
        store_slot(plan, Header.PANELS, word(model) + HEADER_BYTES)
        store_slot(plan, Header.GATES, gates)
        store_slot(plan, Header.HIDDEN, gates + rounded(size * gates_numbers(model, rows, steps)))
        panel = 0
        for n in range(layers * directions):
            layer = n // directions
            direction = n - layer * directions
            cell = record_at(plan, HEADER + n * CELL)
            inputs = inputs_of(model, layer)
            # the last layer writes the output; below it, layers take turns so that one more sequence is enough
            writes_output = (layers - 1 - layer) % 2 == 0
            source, source_features = Header.INPUT, inputs
            if layer > 0:
                source = Header.BELOW if writes_output else Header.OUTPUT
            target, target_features = Header.OUTPUT if writes_output else Header.BELOW, directions * outputs
            store_slot(cell, Cell.SOURCE, source)
            store_slot(cell, Cell.SOURCE_ROW, source_features)
            store_slot(cell, Cell.TARGET, target)
            store_slot(cell, Cell.TARGET_ROW, target_features)
            store_slot(cell, Cell.TARGET_AT, direction * outputs)
            store_slot(cell, Cell.SOURCE_STEP, rows * source_features)
            store_slot(cell, Cell.TARGET_STEP, rows * target_features)
            if direction > 0:
                store_slot(cell, Cell.SOURCE_STEP, -rows * source_features)
                store_slot(cell, Cell.TARGET_STEP, -rows * target_features)
            store_slot(cell, Cell.INPUTS, inputs)
            store_slot(cell, Cell.OUTPUTS, outputs)
            store_slot(cell, Cell.UNITS, units)
            store_slot(cell, Cell.PROJECTED, load_slot(model, Model.PROJ_SIZE) > 0)
            store_slot(cell, Cell.PANEL, panel)
            store_slot(cell, Cell.BIAS, panel + panel_numbers(model, layer))
            store_slot(cell, Cell.HR_PANEL, panel + panel_numbers(model, layer) + blocks_of(units) * width)
            store_slot(cell, Cell.H_AT, n * rows * outputs)
            store_slot(cell, Cell.C_AT, n * rows * units)
            store_slot(cell, Cell.BEYOND_L2, panel_numbers(model, layer) * size > l2)
            store_slot(cell, Cell.HOIST, hoisted_steps(model, layer, group_rows, steps))
            store_slot(cell, Cell.HOIST_ROWS, group_rows)
            store_slot(cell, Cell.BACK, direction)
            panel += cell_numbers(model, layer)
        set_steps(plan, steps)

    @inline
    def set_steps(plan, steps):
        """The slots that depend on the length of a sequence."""
        store_slot(plan, Header.STEPS, steps)
        store_slot(plan, Header.STEPS_TO, steps)
        for n in range(load_slot(plan, Header.CELLS_TO)):
            cell = record_at(plan, HEADER + n * CELL)
            if load_slot(cell, Cell.TARGET_STEP) < 0:  # it begins at the end
                store_slot(cell, Cell.SOURCE_AT, (1 - steps) * load_slot(cell, Cell.SOURCE_STEP))
                store_slot(
                    cell,
                    Cell.TARGET_AT,
                    load_slot(cell, Cell.OUTPUTS) + (1 - steps) * load_slot(cell, Cell.TARGET_STEP),
                )

    # The state ----------------------------------------------------------------------------------------------------

    @inline
    def h_bytes(model, rows):
        return rounded(size * cells_of(model) * rows * outputs_of(model))

    @inline
    def c_bytes(model, rows):
        return rounded(size * cells_of(model) * rows * load_slot(model, Model.HIDDEN_SIZE))

    @named("bytes_of")
    def bytes_of(model, rows, steps):
        """Of a state; 0 where rows or steps are out of range."""
        if not (within(rows, 1, MOST_ROWS) and within(steps, 1, MOST_STEPS)):
            return 0
        if steps > MOST_NUMBERS // (rows * output_size_of(model)):
            return 0
        count = STATE_BYTES + LINE + 2 * plan_bytes(model) + h_bytes(model, rows) + c_bytes(model, rows)
        count += rounded(size * gates_numbers(model, rows, steps)) + rounded(size * hidden_numbers(model, rows))
        return count + rounded(size * below_numbers(model, rows, steps))

    def state_bytes(model, rows, steps):
        if word(model) == 0:
            return 0
        return bytes_of(model, rows, steps)

    @inline
    def clear(words, count):
        for k in range(count):
            clear_word(words, k)

    def state_init(model, rows, steps, memory, length, result):
        if word(model) == 0 or word(memory) == 0 or word(result) == 0:
            return Code.NULL
        needed = bytes_of(model, rows, steps)
        if needed == 0:
            return Code.STEPS
        if length < needed:
            return Code.MEMORY
        begin = rounded(word(memory))
        state = slots_at(begin)
        step_plan = begin + STATE_BYTES
        plan = step_plan + plan_bytes(model)
        h = plan + plan_bytes(model)
        c = h + h_bytes(model, rows)
        end = c + c_bytes(model, rows)
        clear(state, (end - begin) >> 3)
        store_slot(state, State.MODEL, word(model))
        store_slot(state, State.ROWS, rows)
        store_slot(state, State.STEPS, steps)
        store_slot(state, State.H, h)
        store_slot(state, State.C, c)
        store_slot(state, State.END, end)
        store_slot(state, State.STEP_PLAN, step_plan)
        store_slot(state, State.PLAN, plan)
        write_plan(slots_at(plan), model, rows, steps, h, c, end)
        # of a single step, the gates are no more than those of several
        below = load_slot(slots_at(plan), Header.HIDDEN) + rounded(size * hidden_numbers(model, rows))
        store_slot(slots_at(plan), Header.BELOW, below)
        write_plan(slots_at(step_plan), model, rows, 1, h, c, end)
        store_slot(slots_at(step_plan), Header.BELOW, below)
        store_slot(state, State.SELF, STATE_MAGIC ^ begin)
        give(result, state)
        return Code.OK

    @inline
    def usable(state):
        return word(state) != 0 and word(state) & 7 == 0 and load_slot(state, State.SELF) == STATE_MAGIC ^ word(state)

    @inline
    def arrays(input, output):
        """What is wrong with the arrays of a call."""
        if word(input) == 0 or word(output) == 0:
            return Code.NULL
        if (word(input) | word(output)) & (size - 1) != 0:
            return Code.MISALIGNED
        return Code.OK

    @inline
    def run(plan, input, output):
        store_slot(plan, Header.INPUT, input)
        store_slot(plan, Header.OUTPUT, output)
        run_kernel(plan)

    def step(state, input, output):
        if word(state) == 0:
            return Code.NULL
        if not usable(state):
            return Code.STATE
        wrong = arrays(input, output)
        if wrong != Code.OK:
            return wrong
        if load_slot(slots_at(load_slot(state, State.MODEL)), Model.NUM_DIRECTIONS) == 2:
            return Code.BIDIRECTIONAL
        run(slots_at(load_slot(state, State.STEP_PLAN)), word(input), word(output))
        return Code.OK

    def forward(state, steps, input, output):
        if word(state) == 0:
            return Code.NULL
        if not usable(state):
            return Code.STATE
        model, most = slots_at(load_slot(state, State.MODEL)), load_slot(state, State.STEPS)
        if steps < 0 or (steps > most and load_slot(model, Model.NUM_DIRECTIONS) == 2):
            return Code.STEPS
        if steps == 0:
            return Code.OK
        wrong = arrays(input, output)
        if wrong != Code.OK:
            return wrong
        features, outputs = load_slot(model, Model.INPUT_SIZE) * size, output_size_of(model) * size
        rows, done = load_slot(state, State.ROWS), 0
        while done < steps:
            count = smaller(most, steps - done)
            plan = slots_at(load_slot(state, State.PLAN) if count > 1 else load_slot(state, State.STEP_PLAN))
            set_steps(plan, count)
            run(plan, word(input) + done * rows * features, word(output) + done * rows * outputs)
            done += count
        return Code.OK

    def reset(state):
        if word(state) == 0:
            return Code.NULL
        if not usable(state):
            return Code.STATE
        clear(slots_at(load_slot(state, State.H)), (load_slot(state, State.END) - load_slot(state, State.H)) >> 3)
        return Code.OK

    def h(state):
        return slots_at(load_slot(state, State.H) if usable(state) else 0)

    def c(state):
        return slots_at(load_slot(state, State.C) if usable(state) else 0)

    def error_text(code):
        return text(code)

    word_type, code_type = types.int64, types.int32
    signatures = {
        load: code_type(PLAN, word_type, PLAN),
        **dict.fromkeys((input_size, hidden_size, num_layers, num_directions, proj_size, output_size), word_type(PLAN)),
        state_bytes: word_type(PLAN, word_type, word_type),
        state_init: code_type(PLAN, word_type, word_type, PLAN, word_type, PLAN),
        step: code_type(PLAN, PLAN, PLAN),
        forward: code_type(PLAN, word_type, PLAN, PLAN),
        reset: code_type(PLAN),
        h: PLAN(PLAN),
        c: PLAN(PLAN),
        error_text: PLAN(code_type),
    }
    entries = {}
    for function, signature in signatures.items():
        kernel = entries[f"{prefix}_{function.__name__}"] = inline(function)
        kernel.compile(signature)
    return entries


def cpu_check(prefix: str, level: Level):
    """``fits()``: whether the CPU has all that the level needs, and the system saves its registers."""
    needs = NEEDS.get(level.name)
    if needs is None:

        @inline
        def always():
            return True

        return always

    @instruction(types.int64, types.int64, types.int64, types.int64)
    def cpuid(builder, leaf, subleaf, which):
        signature = ir.FunctionType(ir.VoidType(), [INT32, INT32, INT32.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, signature, f"{prefix}_cpuid")
        with builder.goto_entry_block():
            registers = builder.alloca(ir.ArrayType(INT32, 4))
        first = builder.bitcast(registers, INT32.as_pointer())
        builder.call(function, [builder.trunc(leaf, INT32), builder.trunc(subleaf, INT32), first])
        return builder.zext(builder.load(builder.gep(first, [which])), INT64)

    @instruction(types.int64)
    def saved(builder):
        signature = ir.FunctionType(INT32, [])
        function = cgutils.get_or_insert_function(builder.module, signature, f"{prefix}_xgetbv")
        return builder.zext(builder.call(function, []), INT64)

    leaf_1, leaf_7, extended, registers = needs.leaf_1_ecx, needs.leaf_7_ebx, needs.extended_1_ecx, needs.saved

    @named("cpu_fits")
    def fits():
        if cpuid(0, 0, EAX) < 7 or cpuid(1, 0, ECX) & leaf_1 != leaf_1:
            return False
        if saved() & registers != registers or cpuid(7, 0, EBX) & leaf_7 != leaf_7:
            return False
        return cpuid(0x80000000, 0, EAX) >= 0x80000001 and cpuid(0x80000001, 0, ECX) & extended == extended

    return fits


def crc_tables() -> list[int]:
    """Eight tables of 256: the CRC-32 of zlib for a byte that so many bytes of zero follow."""
    first = [zlib.crc32(bytes([n])) ^ zlib.crc32(b"\0") for n in range(256)]
    tables = [first]
    for _ in range(7):
        tables.append([(before >> 8) ^ first[before & 255] for before in tables[-1]])
    return [number for table in tables for number in table]


def _constant(module: ir.Module, name: str, value: ir.Constant) -> ir.GlobalVariable:
    if name in module.globals:
        return module.globals[name]
    constant = ir.GlobalVariable(module, value.type, name)
    constant.global_constant, constant.linkage, constant.initializer = True, "internal", value
    return constant


@global_compiler_lock
def kernel_object(number: str, level: Level, prefix: str) -> bytes:
    """The object of ``void {prefix}_kernel(int64_t *plan)``, which runs a plan on the thread that calls."""
    shapes = REGISTERS_32 if level.registers >= 32 else REGISTERS_16
    name = f"{prefix}_kernel"
    module = bare_module({name: forward_kernel(number, level.lanes(number), shapes, level.fused, None)})
    return _object(module, level, (name,), hidden=(name,))


@global_compiler_lock
def glue_object(number: str, level: Level, prefix: str, tuning: Tuning) -> bytes:
    """The object of the C functions, for any CPU of the level's family."""
    functions = glue(number, level, prefix, tuning)
    module = bare_module(functions)
    checks = None
    if level.name in NEEDS:
        level, checks = level._replace(cpu="x86-64", features=""), cpu_functions(prefix, level.triple)
    return _object(module, level, tuple(functions), checks, (f"{prefix}_kernel",))


def _object(
    module: llvm.ModuleRef,
    level: Level,
    entries: tuple[str, ...],
    unoptimised: llvm.ModuleRef | None = None,
    hidden: tuple[str, ...] = (),
) -> bytes:
    """Optimised, and with what is not; ``hidden`` functions are of other objects of the library, or for them."""
    machine = target_machine(level)
    optimise(module, machine, entries)
    if unoptimised is not None:
        module.link_in(unoptimised)
    for function in module.functions:
        if function.name in hidden:
            function.visibility = "hidden"
    undefined = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")} - set(hidden)
    if undefined:
        raise RuntimeError(f"the code for {level.name} refers to {sorted(undefined)}, which nothing here provides")
    if "windows" in level.triple:  # LLVM refers to it in all that has floating point, and Microsoft's C library has it
        module.link_in(llvm.parse_assembly("$_fltused = comdat any\n@_fltused = weak_odr global i32 0, comdat"))
    return machine.emit_object(module)
