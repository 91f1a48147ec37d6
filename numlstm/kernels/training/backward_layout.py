"""The plan of a backward pass: a header, then a record for each layer and direction, all int64.

Offsets and strides count numbers. A position is one row of one step: the steps of a sequence follow each other with as
many rows as take each of them, so that a batch of one length and a packed sequence look alike.
"""

from itertools import count

from ..plan_layout import LINE_SLOTS, ArraySpec, Fastcall, Header, Share, Slots

OWN_RECORD = Share.NEXT_CHUNK + LINE_SLOTS  # slots behind a plan of the pass back: what a thread shares with itself
RUN = 64  # positions whose part of a weight's gradient is summed by itself


class Back(metaclass=Slots):
    """What holds for the whole pass, behind a `Header` of which these slots are used.

    CELLS_FROM and CELLS_TO, the cells to run, the last one first; ROWS, PANELS and TAPE; and those of threads that
    share a call, of which PARTITION is ROWS or BLOCKS.
    """

    auto = count(Header.LENGTH).__next__
    DIRECTIONS = auto()
    TRANSPOSE = auto()  # 1: TRANSPOSED is to be filled from PANELS first
    CLEAR = auto()  # 1: sums of gradients begin at 0
    FINISH = auto()  # 1: they end here, and go out as the gradients of parameters
    BIAS = auto()  # 1: there are biases
    CHUNK_ROWS = auto()  # positions that the buffers of a chunk hold
    TRANSPOSED = (
        auto()
    )  # address of the weights as panels whose terms are gates: [4 registers][gate, unit][register][lane]
    DA = auto()  # gradients of the sums of gates in a chunk: [position][gate, unit], DA_ROW apart
    DA_ROW = auto()
    SOURCES = auto()  # what they were sums of: [4 registers][position][register][lane] of h, then x
    SUMS = auto()  # gradients of weights: [4 registers][gate, unit][register][lane] of h, then x
    BIAS_SUMS = auto()  # [gate, unit]
    DX_SUMS = auto()  # gradient of x in a chunk: [position][feature], filled up to whole registers
    DH = auto()  # gradient of h that runs back: [row][output], filled up
    DT = auto()  # with a projection: gradient of h in a chunk, [position][output], filled up
    DM = auto()  # gradient of h before the projection in a step: [row][unit], filled up
    M = auto()  # h before the projection in a chunk: [4 registers][position][register][lane]
    M_SUMS = auto()  # gradient of W_hr: [4 registers][output][register][lane] of units
    LENGTH = auto()


class BackCell(metaclass=Slots):
    """One layer in one direction."""

    auto = count().__next__
    INPUTS = auto()
    OUTPUTS = auto()
    UNITS = auto()
    PROJECTED = auto()
    PANEL = auto()  # offsets in PANELS
    HR_PANEL = auto()
    IH_TRANSPOSED = auto()  # offsets in TRANSPOSED
    HH_TRANSPOSED = auto()
    HR_TRANSPOSED = auto()
    STEP_TABLE = auto()  # address of ``StepBack`` records, in the order in which the pass takes the steps
    CHUNK_TABLE = auto()  # address of the ``ChunkBack`` records of the chunks to run
    CHUNKS = auto()
    TAPE_AT = auto()  # offset in TAPE
    X = auto()  # addresses of what the cell has read and written, and from position to position
    X_ROW = auto()
    H = auto()
    H_ROW = auto()
    H_0 = auto()  # of all rows, flushed as the forward pass has them
    C_0 = auto()
    D_OUTPUT = auto()  # 0: zeros
    D_OUTPUT_ROW = auto()
    D_INPUT = auto()  # 0: not wanted
    D_INPUT_ROW = auto()
    D_INPUT_ADDED = auto()  # 1: added to what is there
    D_H = auto()  # gradients of the final states, which become those of the initial ones
    D_C = auto()
    D_WEIGHT_IH = auto()  # as the parameters are laid out
    D_WEIGHT_HH = auto()
    D_BIAS = auto()
    D_WEIGHT_HR = auto()
    LENGTH = auto()


class StepBack(metaclass=Slots):
    """A step of the pass."""

    auto = count().__next__
    ROWS = auto()
    BEGIN = auto()  # position of the first of them
    BEFORE = auto()  # position of the first row of the step that the cell took before
    ROWS_BEFORE = auto()  # so many rows took that step; the others begin here
    CHUNK_ROW = auto()  # place of the first of them in the chunk
    LENGTH = auto()


class ChunkBack(metaclass=Slots):
    """Some steps of the pass, whose gradients of gates are in memory at once."""

    auto = count().__next__
    FIRST = auto()  # the first of them in the table of steps
    STEPS = auto()
    POSITIONS = auto()
    ROWS = auto()  # the most that take one of them
    RUNS = auto()  # address of int64: where in the chunk runs begin, and the last one ends
    RUN_COUNT = auto()
    LENGTH = auto()


class SmallCall(metaclass=Slots):
    """What the built-in functions of small calls need, behind a ``Fastcall``; the plans of both passes follow.

    All addresses in the plans are set, but those of the arrays that a call takes and makes.
    """

    auto = count(Fastcall.LENGTH).__next__
    FORWARD = auto()  # slots of the two plans
    BACK = auto()
    INPUT = auto()  # addresses in what the call keeps, and how many numbers are there
    INPUT_COUNT = auto()
    OUTPUT = auto()
    OUTPUT_COUNT = auto()
    H_0 = auto()
    H_COUNT = auto()
    C_0 = auto()
    C_COUNT = auto()
    D_H = auto()  # addresses of the gradients of states and of parameters, as the pass back makes them
    D_C = auto()
    GRADIENTS = auto()
    TRANSPOSED = auto()  # 1: the pass back has transposed the weights of this call
    LAYERS = auto()
    SET_BASE = auto()  # address of PyArray_SetBaseObject
    FLAT = auto()  # an ``ArraySpec`` of the array of all gradients
    PARAMETERS = FLAT + ArraySpec.LENGTH  # how many ``SmallGradient`` records follow
    LENGTH = PARAMETERS + 1


class SmallGradient(metaclass=Slots):
    """The gradient of a parameter: its array, a view, and where the pass back has made its numbers."""

    SHAPE = 0  # an ``ArraySpec``, without strides
    SOURCE = ArraySpec.LENGTH  # the first of them in GRADIENTS
    AT = SOURCE + 1  # and in the array of all gradients
    COUNT = SOURCE + 2
    LENGTH = SOURCE + 3
