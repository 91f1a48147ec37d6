"""The recurrence over many steps in one launch, a block of threads for a tile of batch rows.

``stream_kernel`` reads W_hh from the L2 cache at every step and keeps h of its rows in shared memory; a thread has
one unit after another. ``register_kernel`` keeps W_hh in registers, a thread for each gate of each unit, a row a block.

``gates`` holds X of every step and row as [gate][unit]; weights are [k][gate][unit]. h and c before the first
step and after the last are in ``h_n`` and ``c_n``, c all the time; there the states of rows that have ended stay, and
those of rows that begin later wait. ``table`` is that of ``rows.Rows``: the first ``batch`` numbers are the lengths of
the rows, never increasing, behind them stands where the rows of each step begin. A launch does at most ``steps`` of
them from ``begin`` on; ``sign`` is -1 in the reverse direction, where every row begins at its own end.
"""

from numlstm.kernels.tile import K_BLOCK

from ..device import cuda


def stream_kernel(lane, rows):
    """The kernel for tiles of ``rows`` batch rows; it takes 2 * units * rows numbers of shared memory."""
    scalar, zero = lane.scalar, lane.zero
    fma, add, epilogue = lane.fma, lane.add, lane.epilogue

    def stream(steps, batch, units, table, begin, sign, gates, gates_at, weights, weights_at,
               target, target_at, target_step, target_start, target_row, h_n, h_at, c_n, c_at):  # fmt: skip
        h = cuda.shared.array(0, scalar)  # two buffers [unit][row], read and written in turns
        value = cuda.local.array((4, rows), scalar)
        part = cuda.local.array((4, rows), scalar)
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        first = cuda.blockIdx.x * rows
        size, width = units * rows, 4 * units
        count = min(steps, table[first] - begin)  # the tile's first row is its longest
        first_step = begin if sign > 0 else begin + count - 1
        for place in range(thread, size, threads):
            row = first + place % rows
            if row < batch:
                h[place] = h_n[h_at + row * units + place // rows]
        cuda.syncthreads()
        now, then = 0, size
        for done in range(count):
            step = first_step + sign * done
            start = table[batch + step]
            live = table[batch + step + 1] - start
            for unit in range(thread, units, threads):
                for k_block in range(0, units, K_BLOCK):
                    for gate in range(4):
                        for r in range(rows):
                            part[gate, r] = zero
                    for k in range(k_block, min(k_block + K_BLOCK, units)):
                        for gate in range(4):
                            weight = weights[weights_at + k * width + gate * units + unit]
                            for r in range(rows):
                                part[gate, r] = fma(weight, h[now + k * rows + r], part[gate, r])
                    for gate in range(4):
                        for r in range(rows):
                            value[gate, r] = part[gate, r] if k_block == 0 else add(value[gate, r], part[gate, r])
                for r in range(rows):
                    row = first + r
                    if row < live:
                        at = gates_at + (start + row) * width + unit
                        c_place = c_at + row * units + unit
                        hidden = epilogue(value, r, gates, at, units, c_n, c_place)
                        at = target_at + step * target_step + start * target_start + row * target_row
                        target[at + unit] = hidden
                    else:  # that of a row without this step stays
                        hidden = h[now + unit * rows + r]
                    h[then + unit * rows + r] = hidden
            cuda.syncthreads()
            now, then = then, now
        for place in range(thread, size, threads):
            row = first + place % rows
            if row < batch:
                h_n[h_at + row * units + place // rows] = h[now + place]

    return stream


def register_kernel(lane, units):
    """The kernel for one number of units: 4 * units threads a block, a row each."""
    scalar, zero = lane.scalar, lane.zero
    fma, add, cell = lane.fma, lane.add, lane.cell
    width, head = 4 * units, min(K_BLOCK, units)

    def register(steps, batch, table, begin, sign, gates, gates_at, weights, weights_at,
                 target, target_at, target_step, target_start, target_row, h_n, h_at, c_n, c_at):  # fmt: skip
        h = cuda.shared.array(units, scalar)
        sums = cuda.shared.array(width, scalar)
        weight = cuda.local.array(units, scalar)
        thread, row = cuda.threadIdx.x, cuda.blockIdx.x
        count = min(steps, table[row] - begin)
        first_step = begin if sign > 0 else begin + count - 1
        for k in range(units):
            weight[k] = weights[weights_at + k * width + thread]
        c = zero
        if thread < units:
            h[thread] = h_n[h_at + row * units + thread]
            c = c_n[c_at + row * units + thread]
        cuda.syncthreads()
        for done in range(count):
            step = first_step + sign * done
            start = table[batch + step]
            value = zero
            for k in range(head):
                value = fma(weight[k], h[k], value)
            for k_block in range(K_BLOCK, units, K_BLOCK):
                part = zero
                for k in range(K_BLOCK):
                    if k_block + k < units:
                        part = fma(weight[k_block + k], h[k_block + k], part)
                value = add(value, part)
            sums[thread] = add(gates[gates_at + (start + row) * width + thread], value)
            cuda.syncthreads()
            if thread < units:
                hidden, c = cell(
                    sums[thread], sums[units + thread], sums[2 * units + thread], sums[3 * units + thread], c
                )
                h[thread] = hidden
                at = target_at + step * target_step + start * target_start + row * target_row
                target[at + thread] = hidden
            cuda.syncthreads()
        if thread < units:
            h_n[h_at + row * units + thread] = h[thread]
            c_n[c_at + row * units + thread] = c

    return register
