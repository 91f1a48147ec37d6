"""The plan: one flat array of int64 that a kernel is given the address of, and nothing else.

It starts with the header, whose slots are ``Header``; one record of ``Cell`` slots follows
for each layer and direction, in the order in which they run. Offsets and strides
are counted in numbers, addresses in bytes. One home for kernels, planner and tests.
"""

from enum import IntEnum
from itertools import count
from zlib import crc32

FORWARD, BIND, FASTCALL = "numlstm_forward", "numlstm_bind", "numlstm_fastcall"  # the entries of a kernel object
# those of the kernel object of training, beside FORWARD
BACKWARD, SMALL_VJP, SMALL_BACK = "numlstm_backward", "numlstm_small_vjp", "numlstm_small_back"
HEAD = "numlstm_head"  # what follows an LSTM
STEP, STREAM_ENTRY, EXCHANGE = "numlstm_step", "numlstm_stream", "numlstm_exchange"  # those of a stream
BFLOAT16 = "bfloat16"  # the number type of kernels whose weights are bfloat16 and whose other numbers are float32
INT8 = "int8"  # likewise, of int8; inputs and h are rounded to int8 before they are multiplied
LINE = 64  # bytes of a cache line; a register load that crosses two costs two
LINE_SLOTS = LINE // 8  # int64 of a cache line
TAPE_REGISTERS = 5  # registers of a row and block that training keeps: of the gates i, f, g, o, and c
PEEPHOLE_GATES = 3  # the gates that see c: i, f and o
LEAST_HALVED = 4  # numbers in a register from which on half of one can hold the units of a last block


def lanes_of_last(units: int, lanes: int) -> int:
    """Lanes of the last block: half of a register's where its units fit, so that two of its gates share one."""
    half = lanes // 2
    return half if lanes >= LEAST_HALVED and 0 < units % lanes <= half else lanes


def kernel_tag(name: str) -> int:
    """What tells a kernel from those of other number types and cells."""
    return crc32(name.encode())


KEPT = 1  # of Header.H_0: no address
CARRAY = 0x501  # NumPy's flags of an array that is contiguous, aligned and writeable
SELF_DATA = 16  # where the array that ``fastcall`` is bound to keeps the address of its numbers


class Slots(type):
    """A class of numbers by name. Kernels see an enum in it; an enum of them all would take 2 ms of a start."""


class Header(metaclass=Slots):
    """What holds for the whole call."""

    auto = count().__next__
    CELLS_FROM = auto()  # the cells to run: [CELLS_FROM, CELLS_TO)
    CELLS_TO = auto()
    STEPS_FROM = auto()  # the steps to run, in the order in which each direction takes them
    STEPS_TO = auto()
    ROWS_FROM = auto()  # the batch rows to run
    ROWS_TO = auto()
    STEPS = auto()  # T: after the step T - 1 the states are final
    ROWS = auto()  # B
    GROUP = auto()  # rows that pass through all layers together
    MR = auto()  # rows of the tallest tile that may be used
    K_BLOCK_MIN = auto()  # terms from which several tiles of rows take turns, K-block after K-block
    INPUT = auto()  # addresses; those up to PANELS are of the arrays of a call, in the order of ``bind``'s tuple
    H_0 = auto()  # 0: zeros; KEPT: both states are in H_N and C_N, as a kernel left them
    C_0 = auto()
    OUTPUT = auto()
    H_N = auto()
    C_N = auto()
    PANELS = auto()
    BELOW = auto()  # the sequence between two layers, where output cannot serve
    GATES = auto()  # the hoisted projection of a chunk: [block][step][row][gate][lane]
    HIDDEN = auto()  # h before W_hr: [row][unit]
    ROUNDED = auto()  # inputs and h of the rows of a step, rounded to int8; each thread has its own
    SERPENTINE = auto()  # 1: the kernel has run an odd number of steps of this plan, the last one forwards
    # how threads share a call; each thread has its own slots, which differ in THREAD_INDEX and in buffers
    PARTITION = auto()  # one of ``Partition``
    SHARE = auto()  # address of the record of ``Share``
    THREAD_INDEX = auto()  # 0 is the caller
    RANGES = auto()  # into which the chunks of a phase are divided; each thread starts with its own
    NUM_CHUNKS = auto()  # of a phase
    CHUNK_ROWS = auto()  # partition ROWS: rows of a chunk
    CHUNK_STEPS = auto()  # partition WAVEFRONT: steps of a chunk
    EPOCH = auto()  # address of a counter that the caller adds to when its kernel begins, or 0
    YIELD = auto()  # address of the system function that yields the core, or 0
    # counters of the paths taken, for tests
    TILES = auto()  # tiles of several rows
    MULTI_BLOCK = auto()  # several blocks of one row at once
    SINGLE_BLOCK = auto()  # one block of one row
    TALL = auto()  # rows of the tallest tile that ran
    PART = auto()  # tiles that end beyond the last unit
    HALF = auto()  # tiles of a last block with half the lanes
    HOISTED = auto()  # chunks of hoisted projection
    K_BLOCKS = auto()  # chains of several tiles of rows, summed together
    PROJECTED = auto()  # steps through W_hr
    GROUPS = auto()  # groups of rows
    UNIFORM_RUNS = auto()  # of packed sequences, for each layer, direction and group
    WORK_ITEMS = auto()  # chunks claimed by this thread
    STEALS = auto()  # of those, claimed from the range of another thread
    YIELDS = auto()  # times that the core was yielded
    PHASES = auto()  # barriers passed
    WAVEFRONT = auto()  # chunks of a layer that ran as a wavefront
    # for ``bind`` and ``fastcall``: where objects keep their parts, in bytes from their start; what arrays must be
    ITEMS_AT = auto()
    TYPE_AT = auto()
    DATA_AT = auto()
    NDIM_AT = auto()
    SIZES_AT = auto()
    STRIDES_AT = auto()
    DTYPE_AT = auto()
    NONE = auto()  # address of None
    TYPE = auto()  # address of the type that arrays must have
    DTYPE = auto()  # address of their dtype
    MISALIGNED = auto()  # bits that must not be set in the address of their numbers
    ARRAY_SPECS = auto()  # slot of the first of three ``ArraySpec`` records: input, h_0 and c_0
    # of a packed sequence
    PACKED = auto()  # slot of a ``Cell`` record, the kernel's own, with ``UniformRun`` records behind it; 0: not packed
    UNIFORM_RUN_COUNT = auto()
    # for a kernel that keeps what a backward pass needs
    TAPE = auto()  # address: [position][block][i f g o c][lane], a position being a row of a step
    LENGTH = auto()  # the header's own length


class Partition(IntEnum):
    """How threads share a call."""

    SERIAL = 0
    ROWS = 1  # groups of batch rows, through all layers
    DIRECTIONS = 2  # the two directions of a layer
    WAVEFRONT = 3  # layers, each following the one below by a chunk of steps
    BLOCKS = 4  # hidden blocks of a step
    SPIN = 5  # no call: a worker looks CHUNK_STEPS times at the counter at EPOCH while it equals NUM_CHUNKS


class Share(metaclass=Slots):
    """The record that the threads of a call share: int64 counters, each on a cache line of its own.

    The counters of the ranges are followed by one for each layer: how many of its chunks are done.
    """

    DONE = 0  # chunks done
    LEAVE = LINE_SLOTS  # not 0: workers are to leave
    NEXT_CHUNK = 2 * LINE_SLOTS  # chunks claimed in the first range; one line for each further range


class ArraySpec(metaclass=Slots):
    """Axes, sizes and strides (in bytes) that an array must have. Size 0 of a stream's input stands for any size."""

    auto = count().__next__
    NDIM = auto()
    SIZE_0 = auto()
    SIZE_1 = auto()
    SIZE_2 = auto()
    STRIDE_0 = auto()
    STRIDE_1 = auto()
    STRIDE_2 = auto()
    LENGTH = auto()


class Fastcall(metaclass=Slots):
    """What ``fastcall`` needs besides the plan behind it: how to recognise and make objects."""

    auto = count().__next__
    BUSY = auto()  # 0: no thread is in it. Only calls that drop the GIL set it
    TUPLE = auto()  # address of the type of tuples
    COUNT_AT = auto()  # where a tuple keeps its length
    NEW_ARRAY = auto()  # addresses of functions: PyArray_NewFromDescr, PyTuple_New, Py_IncRef, Py_DecRef
    NEW_TUPLE = auto()
    INCREF = auto()
    DECREF = auto()
    SAVE_THREAD = auto()  # PyEval_SaveThread, PyEval_RestoreThread; 0: the call holds the GIL
    RESTORE_THREAD = auto()
    RESULTS = auto()  # the first of three ``ArraySpec`` records: sizes of output, h_n and c_n
    LENGTH = RESULTS + 3 * ArraySpec.LENGTH


class StreamSlots(metaclass=Slots):
    """What a stream has before its plan: the flag that keeps it to one user at a time, and what its entry needs."""

    auto = count().__next__
    BUSY = auto()  # 0: no thread is in it. The first slot, so that the stream's address is that of the flag
    KERNEL = auto()  # the `kernel_tag` of the kernel that its plan is for
    INPUT = auto()  # addresses of the buffers that a step without an argument reads and writes
    OUTPUT = auto()
    NEW_ARRAY = auto()  # addresses of functions: PyArray_NewFromDescr, Py_IncRef, Py_DecRef
    INCREF = auto()
    DECREF = auto()
    RAISE = auto()  # PyErr_SetString, the exception's type and its text
    ERROR = auto()
    TEXT = auto()
    SAVE_THREAD = auto()  # PyEval_SaveThread, PyEval_RestoreThread
    RESTORE_THREAD = auto()
    HELD_STEPS = auto()  # at most so many hold the GIL
    INPUT_STEP = auto()  # bytes from a step to the next, in an input and in an output
    OUTPUT_STEP = auto()
    MOST_STEPS = auto()  # of a chunk
    OUTPUTS = auto()  # features of an output
    HEAD = auto()  # address of the record of a head that follows each step, or 0
    SIZE_0 = auto()  # sizes of the output; all but the last are those of the input
    SIZE_1 = auto()
    SIZE_2 = auto()
    LENGTH = auto()


class Activation(IntEnum):
    """What a head does with its sums."""

    IDENTITY = 0
    RELU = 1
    SIGMOID = 2
    TANH = 3
    SOFTMAX = 4


class Head(metaclass=Slots):
    """A Linear layer and an activation that follow an LSTM; see ``entries/head.py``."""

    auto = count().__next__
    INPUTS = auto()  # features read and written
    OUTPUTS = auto()
    PANELS = auto()  # address; 0: no Linear layer, the activation alone
    BIAS = auto()  # offset in PANELS of [block][lane]
    ACTIVATION = auto()  # one of ``Activation``
    SKIP = auto()  # address of a register that holds the factor of the input that is added; 0: none is
    GIVEN_ROW = auto()  # from a row of that input to the next
    NEXT = auto()  # address of the record of the head that follows, or 0
    ROOM = auto()  # address of the results, if another head follows
    LENGTH = auto()


class Cell(metaclass=Slots):
    """One layer in one direction."""

    auto = count().__next__
    SOURCE = auto()  # header slot that holds the address of what the cell reads: [step][row][feature]
    SOURCE_AT = auto()  # where the first step of this direction stands
    SOURCE_STEP = auto()  # from a step to the next one in this direction (negative in reverse)
    SOURCE_ROW = auto()
    TARGET = auto()  # likewise for what it writes
    TARGET_AT = auto()
    TARGET_STEP = auto()
    TARGET_ROW = auto()
    INPUTS = auto()  # features read
    OUTPUTS = auto()  # size of h: projected, or UNITS
    UNITS = auto()  # hidden units
    PROJECTED = auto()  # 1: h goes through W_hr
    PANEL = auto()  # offset in PANELS of [block][k][gate][lane], k over INPUTS, then OUTPUTS
    BIAS = auto()  # offset in PANELS of [block][gate][lane]
    HR_PANEL = auto()  # offset in PANELS of W_hr, as ``panels`` describes it
    H_AT = auto()  # offset of this cell in H_0 and H_N, and in C_0 and C_N
    C_AT = auto()
    BEYOND_L2 = auto()  # 1: the panels are too big to stay in the second cache
    NR = auto()  # blocks of one row that run side by side, at most
    HOIST = auto()  # steps of a chunk of the hoisted projection; 0: not hoisted. Packed: its steps times its rows
    # of a packed sequence; SOURCE_STEP and TARGET_STEP are then 0 where steps stand behind one another without a gap
    HOIST_ROWS = auto()  # rows of a step up to which it is hoisted
    BACK = auto()  # 1: in reverse
    PEEPHOLES = auto()  # offset in PANELS of [block][i f o][lane], for a kernel of a cell that has them
    TAPE_CELL = auto()  # offset in TAPE of the cell's first step, from a step to the next one, and from row to row
    TAPE_STEP = auto()
    TAPE_ROW = auto()
    LENGTH = auto()


class UniformRun(metaclass=Slots):
    """Consecutive steps of a packed sequence that have the same number of rows."""

    auto = count().__next__
    BEGIN = auto()  # the first of them
    STEPS = auto()
    ROWS = auto()
    BEFORE = auto()  # rows of all earlier steps together
    LENGTH = auto()
