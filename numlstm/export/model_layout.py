"""The format of a model file, and the states and error codes of an exported library.

A model is one piece of memory: the words of ``Model``, zeros up to ``HEADER_BYTES``, then the panels, all
little-endian. For each head follow the words of ``HeadWords``, zeros up to ``HEAD_BYTES``, its panels, and a cache line
that begins with a register of the factor of the input that is added. It holds sizes and weights but no offsets: what is
not in the file cannot be wrong in it.
"""

import zlib
from enum import IntEnum
from itertools import count

from numlstm.base.cell_options import CellOptions
from numlstm.kernels.plan_layout import Slots

MAGIC = int.from_bytes(b"numlstm\n", "little")
VERSION = 3  # of the layout
OTHER_CELL = 1 << 16  # added to it in models whose cell has options, so that older libraries refuse them
HEADER_BYTES = 128  # two cache lines; the panels begin on one if the model does
HEAD_BYTES = 64
# values of the word LEVEL; both kinds of WebAssembly read the same models
LEVELS = {"x86-64": 1, "x86-64-v3": 2, "x86-64-v4": 3, "aarch64": 4, "wasm32": 5, "wasm32-relaxed": 5}

# limits of sizes, so that no product of them needs more than 64 bits
MOST_FEATURES = 1 << 20  # input_size, hidden_size, proj_size
MOST_LAYERS = 1 << 10
MOST_HEADS = 1 << 6
MOST_ROWS = 1 << 20
MOST_STEPS = 1 << 32
MOST_NUMBERS = 1 << 52  # of a buffer


class Model(metaclass=Slots):
    """The words of a model's header, int64 each."""

    auto = count().__next__
    MAGIC = auto()
    VERSION = auto()
    BYTES = auto()  # length of the whole
    CHECKSUM = auto()  # CRC-32 (that of zlib) of all bytes after this word
    NUMBER = auto()  # bytes of a weight: 2 (bfloat16), 4 or 8
    LEVEL = auto()  # one of LEVELS: the panels are packed for its registers
    INPUT_SIZE = auto()
    HIDDEN_SIZE = auto()
    NUM_LAYERS = auto()
    NUM_DIRECTIONS = auto()
    PROJ_SIZE = auto()  # 0 for none
    CELL = auto()  # `cell_number` of its options
    HEADS = auto()  # how many follow the LSTM
    OUTPUT_SIZE = auto()  # numbers of a row's output in one step
    LENGTH = auto()


class HeadWords(metaclass=Slots):
    """The words of a head in a model, int64 each."""

    auto = count().__next__
    OUTPUTS = auto()
    ACTIVATION = auto()  # one of ``Activation``
    LINEAR = auto()  # 0: no Linear layer, the activation alone; its panels are empty
    SKIP = auto()  # 1: the model's input is added, times the factor
    LENGTH = auto()


class State(metaclass=Slots):
    """The words at the start of a state."""

    auto = count().__next__
    SELF = auto()  # MAGIC changed, and the state's own address: a state that was moved is refused
    MODEL = auto()  # address
    ROWS = auto()
    STEPS = auto()  # that are run at once, at most
    H = auto()  # addresses; c follows h
    C = auto()
    END = auto()  # of c
    STEP_PLAN = auto()  # addresses of two plans: for one step, and for up to STEPS
    PLAN = auto()
    HEAD = auto()  # address of the record of the first head, or 0
    ROOM = auto()  # of what the heads read
    LENGTH = auto()


class Code(IntEnum):
    """Return values of the library's functions."""

    OK = 0
    NULL = 1
    MISALIGNED = 2
    TRUNCATED = 3
    NOT_A_MODEL = 4
    VERSION = 5
    DAMAGED = 6
    NUMBER = 7
    LEVEL = 8
    CPU = 9
    SIZES = 10
    MEMORY = 11
    STATE = 12
    STEPS = 13
    BIDIRECTIONAL = 14
    CELL = 15


TEXTS = {
    Code.OK: "no error",
    Code.NULL: "a pointer is null",
    Code.MISALIGNED: "memory is not aligned: a model to 8 bytes, input and output to the size of a number",
    Code.TRUNCATED: "the length is not that of the model: it was cut, or something follows it",
    Code.NOT_A_MODEL: "this is no model that numlstm export wrote",
    Code.VERSION: "the model is of another version of the format than this library",
    Code.DAMAGED: "the model is damaged: its checksum is wrong",
    Code.NUMBER: "the model has numbers of another type (float, double, weights in bfloat16) than this library",
    Code.LEVEL: "the model was exported for another kind of CPU than this library",
    Code.CPU: "this CPU lacks instructions that the library was built for",
    Code.SIZES: "the model's sizes are beyond the limits, or are not those of its weights",
    Code.MEMORY: "the memory for the state is smaller than the state needs",
    Code.STATE: "this is no initialised state, or it was moved",
    Code.STEPS: "steps or batch are out of range: of a bidirectional model, no more steps than the state has room for",
    Code.BIDIRECTIONAL: "a bidirectional model needs whole sequences and takes no single steps",
    Code.CELL: "the model has other activations or options of its cell than this library was built for",
}


def cell_number(options: CellOptions) -> int:
    """The word CELL of a model: its lowest bit says whether there are peepholes, a checksum of all options is above it.

    0 is the plain cell.
    """
    return 0 if options.plain else zlib.crc32(options.kernel("").encode()) << 1 | options.peepholes


def version(options: CellOptions) -> int:
    """The word VERSION of a model."""
    return VERSION if options.plain else VERSION + OTHER_CELL
