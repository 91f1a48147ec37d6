"""A product of matrices in the fixed order of additions: the input projection, and W_hr of a projected state.

``target[m][n]`` is the sum over k of ``source[m][k] weights[k][n]``, from the bias or from 0. A block of threads has
a tile of rows and columns, a thread ``HIGH`` x ``WIDE`` sums of it. A tile of terms in shared memory is one
K-block, so that the sub-totals of the specification cost nothing.
"""

from numlstm.kernels.tile import K_BLOCK

from ..device import cuda


def project_kernel(lane, across, down, high, wide, flushed):
    """The kernel for blocks of ``across`` x ``down`` threads with ``high`` x ``wide`` sums each.

    ``flushed`` says that the sums start at 0 and are flushed at the end; else they start at the bias.
    """
    scalar, zero = lane.scalar, lane.zero
    fma, add, flush = lane.fma, lane.add, lane.flush_h
    rows, columns = down * high, across * wide
    threads = across * down
    source_pad, source_shape, weight_shape = rows + 1, K_BLOCK * (rows + 1), K_BLOCK * columns

    def project(count, batch, terms, width, source, source_at, source_step, source_row, source_term,
                weights, weights_at, bias_at, target, target_at, target_step, target_row):  # fmt: skip
        source_tile = cuda.shared.array(source_shape, scalar)
        weight_tile = cuda.shared.array(weight_shape, scalar)
        value = cuda.local.array((high, wide), scalar)
        part = cuda.local.array((high, wide), scalar)
        thread = cuda.threadIdx.x
        column, row = thread % across, thread // across
        first_row, first_column = cuda.blockIdx.x * rows, cuda.blockIdx.y * columns
        for j in range(wide):
            n = first_column + column + across * j
            start = zero
            if not flushed and n < width:
                start = weights[bias_at + n]
            for i in range(high):
                part[i, j] = start  # the first K-block goes on from it
        for first in range(0, terms, K_BLOCK):
            count_here = min(K_BLOCK, terms - first)
            for place in range(thread, K_BLOCK * rows, threads):
                k, m = place % K_BLOCK, first_row + place // K_BLOCK
                number = zero
                if m < count and k < count_here:
                    at = source_at + (m // batch) * source_step + (m % batch) * source_row
                    number = source[at + (first + k) * source_term]
                source_tile[k * source_pad + place // K_BLOCK] = number
            for place in range(thread, K_BLOCK * columns, threads):
                k, n = place // columns, first_column + place % columns
                number = zero
                if n < width and k < count_here:
                    number = weights[weights_at + (first + k) * width + n]
                weight_tile[place] = number
            cuda.syncthreads()
            for k in range(count_here):
                for i in range(high):
                    given = source_tile[k * source_pad + row + down * i]
                    for j in range(wide):
                        part[i, j] = fma(weight_tile[k * columns + column + across * j], given, part[i, j])
            for i in range(high):
                for j in range(wide):
                    value[i, j] = part[i, j] if first == 0 else add(value[i, j], part[i, j])
                    part[i, j] = zero
            cuda.syncthreads()
        for i in range(high):
            m = first_row + row + down * i
            if m < count:
                at = target_at + (m // batch) * target_step + (m % batch) * target_row
                for j in range(wide):
                    n = first_column + column + across * j
                    if n < width:
                        if flushed:
                            target[at + n] = flush(value[i, j])
                        else:
                            target[at + n] = value[i, j]

    return project
