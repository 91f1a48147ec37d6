"""What an exported library and an exported model agree on: the layout of the file, and the error codes.

A model is one piece of memory: ``Model`` words, the rest of ``HEADER_BYTES`` zero, then the panels. All is
little-endian. It holds sizes and weights and no plan: an offset that is not in the file cannot be wrong in it.
One home for the writer of models, the library and the tests.
"""

from enum import IntEnum
from itertools import count

from numlstm.kernels.plan_layout import Slots

MAGIC = int.from_bytes(b"numlstm\n", "little")
VERSION = 2  # of the layout
HEADER_BYTES = 128  # two cache lines; the panels begin on one if the model does
LEVELS = {"x86-64": 1, "x86-64-v3": 2, "x86-64-v4": 3, "aarch64": 4}  # what the word LEVEL says

# what a size may be, so that no product of them leaves 64 bits
MOST_FEATURES = 1 << 20  # input_size, hidden_size, proj_size
MOST_LAYERS = 1 << 10
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
    NUMBER = auto()  # bytes of a number: 4 or 8
    LEVEL = auto()  # one of LEVELS: the panels are packed for its registers
    INPUT_SIZE = auto()
    HIDDEN_SIZE = auto()
    NUM_LAYERS = auto()
    NUM_DIRECTIONS = auto()
    PROJ_SIZE = auto()  # 0 for none
    LENGTH = auto()


class State(metaclass=Slots):
    """The words at the start of a state: what a stream of the library's keeps."""

    auto = count().__next__
    SELF = auto()  # MAGIC in another shape, with the state's own address: one that was moved is not taken
    MODEL = auto()  # address
    ROWS = auto()
    STEPS = auto()  # of the longest piece that is run at once
    H = auto()  # addresses; c follows h
    C = auto()
    END = auto()  # of c
    STEP_PLAN = auto()  # addresses of two plans: for one step, and for up to STEPS of them
    PLAN = auto()
    LENGTH = auto()


class Code(IntEnum):
    """What the library's functions return."""

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


TEXTS = {
    Code.OK: "no error",
    Code.NULL: "a pointer is null",
    Code.MISALIGNED: "memory is not aligned: a model to 8 bytes, input and output to the size of a number",
    Code.TRUNCATED: "the length is not that of the model: it was cut, or something follows it",
    Code.NOT_A_MODEL: "this is no model that numlstm export wrote",
    Code.VERSION: "the model is of another version of the format than this library",
    Code.DAMAGED: "the model is damaged: its checksum is wrong",
    Code.NUMBER: "the model has numbers of another type (float, double) than this library",
    Code.LEVEL: "the model was exported for another kind of CPU than this library",
    Code.CPU: "this CPU lacks instructions that the library was built for",
    Code.SIZES: "the model's sizes are beyond the limits, or are not those of its weights",
    Code.MEMORY: "the memory for the state is smaller than the state needs",
    Code.STATE: "this is no initialised state, or it was moved",
    Code.STEPS: "steps or batch are out of range: of a bidirectional model, no more steps than the state has room for",
    Code.BIDIRECTIONAL: "a bidirectional model needs whole sequences and takes no single steps",
}
