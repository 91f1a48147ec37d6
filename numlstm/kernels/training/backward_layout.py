"""The plan of a backward pass: a header, then a record for each layer and direction, all int64.

Offsets and strides count numbers. A position is one row of one step: the steps of a sequence follow each other with as
many rows as take each of them, so that a batch of one length and a packed sequence look alike.
"""

from itertools import count

from ..plan_layout import Slots

RUN = 64  # positions whose part of a weight's gradient is summed by itself


class Back(metaclass=Slots):
    """What holds for the whole pass."""

    auto = count().__next__
    CELLS_FROM = auto()  # the cells to run: [CELLS_FROM, CELLS_TO), the last one first
    CELLS_TO = auto()
    DIRECTIONS = auto()
    STEPS = auto()
    ROWS = auto()  # B
    TRANSPOSE = auto()  # 1: TRANSPOSED is to be filled from PANELS first
    BIAS = auto()  # 1: there are biases
    CHUNK_ROWS = auto()  # positions that the buffers of a chunk hold
    PANELS = auto()  # addresses from here on: the weights as the forward pass has them
    TRANSPOSED = auto()  # the weights as panels whose terms are gates: [4 registers][gate, unit][register][lane]
    TAPE = auto()  # what the forward pass has kept: [position][block][i f g o c][lane]
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
    RUNS = auto()  # where runs of a chunk begin and end: int64
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
    ENDS = auto()  # 1: a run ends with this step, 2: a chunk as well
    LENGTH = auto()
