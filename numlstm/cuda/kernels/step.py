"""One step of a layer and direction in one launch, its units spread over the whole device; and states as they are read.

For streams, for W_hh so large that one multiprocessor would take too long over it, and for projected states, whose
W_hr is another launch. No shared memory and no limit on sizes.
"""

from numlstm.kernels.tile import K_BLOCK

from ..device import cuda


def step_kernel(lane, rows):
    """The kernel for tiles of ``rows`` batch rows and as many units as a block has threads."""
    scalar, zero = lane.scalar, lane.zero
    fma, add, epilogue = lane.fma, lane.add, lane.epilogue

    def step(batch, units, terms, gates, gates_at, weights, weights_at, h, h_at, h_row, c_n, c_at,
             target, target_at, target_row):  # fmt: skip
        value = cuda.local.array((4, rows), scalar)
        part = cuda.local.array((4, rows), scalar)
        first, width = cuda.blockIdx.x * rows, 4 * units
        unit = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if unit < units:
            for begin in range(0, terms, K_BLOCK):
                for gate in range(4):
                    for r in range(rows):
                        part[gate, r] = zero
                for k in range(begin, min(begin + K_BLOCK, terms)):
                    for r in range(rows):
                        given = h[h_at + min(first + r, batch - 1) * h_row + k]
                        for gate in range(4):
                            weight = weights[weights_at + k * width + gate * units + unit]
                            part[gate, r] = fma(weight, given, part[gate, r])
                for gate in range(4):
                    for r in range(rows):
                        value[gate, r] = part[gate, r] if begin == 0 else add(value[gate, r], part[gate, r])
            for r in range(rows):
                row = first + r
                if row < batch:
                    at = gates_at + row * width + unit
                    c_place = c_at + row * units + unit
                    target[target_at + row * target_row + unit] = epilogue(value, r, gates, at, units, c_n, c_place)

    return step


def flush_copy_kernel(lane, of_h=False):
    """The kernel that copies states of any strides, one thread a number, without those that are made 0."""
    flush = lane.flush_h if of_h else lane.flush_c

    def flush_copy(count, rows, features, source, at, cell_stride, row_stride, feature_stride, target, target_at):
        place = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if place < count:
            feature, row = place % features, place // features % rows
            cell = place // (features * rows)
            number = source[at + cell * cell_stride + row * row_stride + feature * feature_stride]
            target[target_at + place] = flush(number)

    return flush_copy
