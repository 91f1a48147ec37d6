"""The recurrent kernel: a whole forward pass, all layers and directions, over one plan.

Memory: weights are panels ``[block][k][gate][lane]``, k over the input features and
then over h, so that one pass over a panel gives the four gates of ``lanes`` hidden
units, whose c and h are finished in registers. A last block whose units fit half a register has half the lanes, so
that two of its gates share a register. h goes straight to the output and is
read back from there a step later; c lives in c_n.

Order: groups of rows, cells (layer, direction), steps, blocks, tiles of rows: a panel
stays in cache while all the rows of a group pass over it. Odd steps take the blocks from the last to the first: of
panels a little larger than a cache, those used last are still in it. Threads that share a call (``Partition``) claim
rows, directions, chunks of a layer or blocks of a step from it; ``tickets`` says how.

Arithmetic, which is the specification: for each gate and unit X starts at b_ih + b_hh and adds x_k w_k, R starts
at 0 and adds h_k w_k, in order of k, one FMA each, the first 16 terms on the start value, each further run of 16
summed from 0 and then added (``K_BLOCK``). The gate is X + R. Rows, tiles and the hoisted projection only choose
which of these chains run side by side, never the order within one.
"""

from numba import types

from .compiler import inline, named
from .instructions import PLAN, bump_counter, greater, load_slot, record_at, smaller, store_slot
from .microkernel import cell_epilogue, count_tile, recurrent_tile, runs_of_block
from .plan_layout import LEAST_HALVED, LINE_SLOTS, Cell, Header, Partition, Share, UniformRun
from .projection import QUAD, chain_by_runs, hidden_projection, input_projection
from .simd import Simd
from .tail_block import last_block, no_half, whole_blocks
from .tile_shapes import by_size, next_size
from .work_queue import claim, count_up, parallel_for, publish, serial_for, shared, waiting

RECORDS, RECORD, UNIFORM_RUN = int(Header.LENGTH), int(Cell.LENGTH), int(UniformRun.LENGTH)


def forward_kernel(number, lanes, shapes, fused, pause):
    """The kernel ``forward(plan)`` for one number type and one kind of CPU.

    Without a ``pause`` it is a smaller one, which shares no call with other threads and takes no packed sequence.
    """
    simd = Simd(number, lanes, fused)
    pointer_at, moved = simd.pointer_at, simd.moved
    load_part, store_part = simd.load_part, simd.store_part
    width = 4 * lanes
    epilogue = cell_epilogue(simd)
    chain = chain_by_runs(simd, shapes)
    halved = lanes >= LEAST_HALVED
    project_input = input_projection(simd, shapes, chain, halved)
    project_hidden = hidden_projection(simd, shapes)
    height_of = next_size(shapes.mr)
    blocks_of = next_size(shapes.nr)
    most = shapes.nr[0]
    tallest = shapes.mr[0]
    zeros = simd.splat(0)
    runs = runs_of_block(simd, epilogue, shapes, chain)
    single = recurrent_tile(simd, epilogue, 1, 1)
    tall = {n: recurrent_tile(simd, epilogue, n, 1) for n in shapes.mr if n > 1}
    wide = {n: recurrent_tile(simd, epilogue, 1, n) for n in shapes.nr if n > 1}
    tall_tile, wide_tile = by_size(shapes.mr, tall | {1: single}), by_size(shapes.nr, wide | {1: single})
    last_tile, half_step = last_block(simd, epilogue, shapes) if halved else no_half(wide_tile)
    whole_of = whole_blocks(lanes)

    def flush_copying(flush):
        """``settle(target, at, source, count)``: states copied, without what ``flush`` makes 0."""

        @inline
        def flush_copy(target, at, source, count):
            for k in range(0, count, lanes):
                store_part(target, at + k, flush(load_part(source, at + k, count - k)), count - k)

        return flush_copy

    flush_copy_h, flush_copy_c = flush_copying(simd.flush_h), flush_copying(simd.flush_c)

    @inline
    def clear(target, at, count):
        for k in range(0, count, lanes):
            store_part(target, at + k, zeros(), count - k)

    @inline
    def states(plan, cell, first, rows):
        """Initial h and c of the rows [first, first + rows), where the kernel keeps them: in h_n and c_n."""
        outputs, units = load_slot(cell, Cell.OUTPUTS), load_slot(cell, Cell.UNITS)
        h, h_at = pointer_at(plan, Header.H_N), load_slot(cell, Cell.H_AT) + first * outputs
        c, c_at = pointer_at(plan, Header.C_N), load_slot(cell, Cell.C_AT) + first * units
        if load_slot(plan, Header.H_0) != 0:
            flush_copy_h(h, h_at, pointer_at(plan, Header.H_0), rows * outputs)
            flush_copy_c(c, c_at, pointer_at(plan, Header.C_0), rows * units)
        else:
            clear(h, h_at, rows * outputs)
            clear(c, c_at, rows * units)

    @inline
    def row_step(plan, cell, first, rows, odd, whole, begin, end, x, h, h_stride, y, y_stride, gates, gap):
        """One step in the blocks [begin, end), row after row, several blocks at once."""
        for r in range(rows):
            done = begin
            while done < end:
                n = blocks_of(end - done, most)
                block = begin + end - done - n if odd else done
                bump_counter(plan, Header.MULTI_BLOCK if n > 1 else Header.SINGLE_BLOCK)
                if block + n > whole:
                    bump_counter(plan, Header.HALF)
                    last_tile(n, plan, cell, block, first + r, moved(x, r * load_slot(cell, Cell.SOURCE_ROW)),
                              moved(h, r * h_stride), h_stride, moved(y, r * y_stride),
                              moved(gates, block * gap + r * width), gap)  # fmt: skip
                    done += n
                    continue
                wide_tile(n, plan, cell, block, first + r, moved(x, r * load_slot(cell, Cell.SOURCE_ROW)),
                          moved(h, r * h_stride), h_stride, moved(y, r * y_stride),
                          moved(gates, block * gap + r * width), gap)  # fmt: skip
                done += n

    @inline
    def block_step(plan, cell, first, rows, odd, whole, begin, end, x, h, h_stride, y, y_stride, gates, gap):
        """One step, block after block of [begin, end): every tile of rows passes over a panel while it is in cache.

        Panels that no cache holds are asked for ahead of their use by the chain that takes turns, even for one tile.
        """
        by_runs = (
            load_slot(cell, Cell.HOIST) > 0
            and (rows > tallest or load_slot(cell, Cell.BEYOND_L2) > 0)
            and load_slot(cell, Cell.OUTPUTS) >= load_slot(plan, Header.K_BLOCK_MIN)
        )
        onward = -1 if odd else 1
        for n in range(begin, end):
            r, block = 0, begin + end - 1 - n if odd else n
            if block >= whole:
                half_step(plan, cell, block, first, rows, x, h, h_stride, y, y_stride, moved(gates, block * gap))
                r = rows
            elif by_runs:
                runs(plan, cell, block, onward, first, rows, h, h_stride, y, y_stride, moved(gates, block * gap))
                r = rows
            while r < rows:
                height = height_of(rows - r, load_slot(plan, Header.MR))
                count_tile(plan, height)
                tall_tile(height, plan, cell, block, first + r, moved(x, r * load_slot(cell, Cell.SOURCE_ROW)),
                          moved(h, r * h_stride), h_stride, moved(y, r * y_stride),
                          moved(gates, block * gap + r * width), gap)  # fmt: skip
                r += height

    def cell_runner(name, spread):
        """``run_cell(plan, cell, first, rows, from_step, to_step, phase)``, and the next phase.

        Some steps of one layer and direction for the rows [first, first + rows). The blocks of a step,
        and rows where states are copied, are what ``spread`` says.
        """
        begin_part, more, bounds, barrier = spread.begin, spread.more, spread.bounds, spread.barrier

        @named(name)
        def run_cell(plan, cell, first, rows, from_step, to_step, phase):
            outputs, units = load_slot(cell, Cell.OUTPUTS), load_slot(cell, Cell.UNITS)
            blocks, quads = (units + lanes - 1) // lanes, (outputs + lanes * QUAD - 1) // (lanes * QUAD)
            whole = whole_of(units)
            source = moved(pointer_at(plan, load_slot(cell, Cell.SOURCE)), load_slot(cell, Cell.SOURCE_AT))
            source = moved(source, first * load_slot(cell, Cell.SOURCE_ROW))
            target = moved(pointer_at(plan, load_slot(cell, Cell.TARGET)), load_slot(cell, Cell.TARGET_AT))
            target = moved(target, first * load_slot(cell, Cell.TARGET_ROW))
            h_n = moved(pointer_at(plan, Header.H_N), load_slot(cell, Cell.H_AT) + first * outputs)
            gates, hidden = pointer_at(plan, Header.GATES), pointer_at(plan, Header.HIDDEN)
            hoist, projected = load_slot(cell, Cell.HOIST), load_slot(cell, Cell.PROJECTED) > 0
            if from_step == 0:
                part = begin_part(plan, phase)
                while part >= 0:
                    r, r_end = bounds(plan, part, rows)
                    states(plan, cell, first + r, r_end - r)
                    part = more(plan, phase)
                phase = barrier(plan, phase)
            if units % lanes != 0:
                bump_counter(plan, Header.PART)
            chunk, done = 0, 0  # steps of the chunk of hoisted projection, and how many of them are done
            for step in range(from_step, to_step):
                x = moved(source, step * load_slot(cell, Cell.SOURCE_STEP))
                y = moved(target, step * load_slot(cell, Cell.TARGET_STEP))
                h, h_stride = h_n, outputs
                if step > 0:
                    h, h_stride = moved(y, -load_slot(cell, Cell.TARGET_STEP)), load_slot(cell, Cell.TARGET_ROW)
                if hoist > 0:
                    if done == chunk:
                        chunk, done = smaller(hoist, to_step - step), 0
                        bump_counter(plan, Header.HOISTED)
                        part = begin_part(plan, phase)
                        while part >= 0:
                            b, b_end = bounds(plan, part, blocks)
                            project_input(plan, cell, x, chunk, rows, whole, b, b_end)
                            part = more(plan, phase)
                        phase = barrier(plan, phase)
                    x_gates, gap = moved(gates, done * rows * width), chunk * rows * width
                    done += 1
                else:
                    x_gates, gap = gates, 0
                h_new, h_new_stride = y, load_slot(cell, Cell.TARGET_ROW)
                if projected:
                    h_new, h_new_stride = hidden, blocks * lanes
                odd = (step + load_slot(plan, Header.SERPENTINE)) & 1 == 1
                part = begin_part(plan, phase)
                while part >= 0:
                    b, b_end = bounds(plan, part, blocks)
                    if rows == 1 or load_slot(plan, Header.MR) == 1:
                        row_step(plan, cell, first, rows, odd, whole, b, b_end,
                                 x, h, h_stride, h_new, h_new_stride, x_gates, gap)  # fmt: skip
                    else:
                        block_step(plan, cell, first, rows, odd, whole, b, b_end,
                                   x, h, h_stride, h_new, h_new_stride, x_gates, gap)  # fmt: skip
                    part = more(plan, phase)
                phase = barrier(plan, phase)
                if projected:
                    bump_counter(plan, Header.PROJECTED)
                    part = begin_part(plan, phase)
                    while part >= 0:
                        q, q_end = bounds(plan, part, quads)
                        project_hidden(plan, cell, y, rows, q * QUAD,
                                       smaller(q_end * QUAD, (outputs + lanes - 1) // lanes))  # fmt: skip
                        part = more(plan, phase)
                    phase = barrier(plan, phase)
            if to_step == load_slot(plan, Header.STEPS):
                y = moved(target, (to_step - 1) * load_slot(cell, Cell.TARGET_STEP))
                part = begin_part(plan, phase)
                while part >= 0:
                    r_from, r_end = bounds(plan, part, rows)
                    for r in range(r_from, r_end):
                        flush_copy_h(
                            moved(h_n, r * outputs), 0, moved(y, r * load_slot(cell, Cell.TARGET_ROW)), outputs
                        )
                    part = more(plan, phase)
                phase = barrier(plan, phase)
            return phase

        return run_cell

    @inline
    def place(uniform_run, back, cell, own, at_slot, step_slot, row_slot):
        """Where the cell's first step in a segment stands, and how far the next one is."""
        step = load_slot(cell, step_slot)
        if step == 0:
            step = load_slot(uniform_run, UniformRun.ROWS) * load_slot(cell, row_slot)
            at = load_slot(cell, at_slot) + load_slot(uniform_run, UniformRun.BEFORE) * load_slot(cell, row_slot)
        else:
            at = load_slot(cell, at_slot) + load_slot(uniform_run, UniformRun.BEGIN) * step
        if back:
            at += (load_slot(uniform_run, UniformRun.STEPS) - 1) * step
            step = -step
        store_slot(own, at_slot, at)
        store_slot(own, step_slot, step)

    def any_runner(name, spread):
        """``run(plan, n, first, rows, from_step, to_step, phase)``: as `cell_runner`, also of a packed sequence.

        All of its steps then: segment after segment, each as a sequence of its own. Between segments states are in
        h_n and c_n: there rows that have ended keep theirs, and those that begin later find their initial one.
        """
        begin_part, more, bounds, barrier = spread.begin, spread.more, spread.bounds, spread.barrier
        run_cell = cell_runner(name, spread)
        if pause is None:

            @inline
            def run_whole(plan, n, first, rows, from_step, to_step, phase):
                return run_cell(plan, cell_at(plan, n), first, rows, from_step, to_step, phase)

            return run_whole

        @named(name + "_packed")
        def run_packed(plan, cell, first, rows, phase):
            h_0, c_0, steps = load_slot(plan, Header.H_0), load_slot(plan, Header.C_0), load_slot(plan, Header.STEPS)
            part = begin_part(plan, phase)
            while part >= 0:
                r, r_end = bounds(plan, part, rows)
                states(plan, cell, first + r, r_end - r)
                part = more(plan, phase)
            phase = barrier(plan, phase)
            store_slot(plan, Header.H_0, load_slot(plan, Header.H_N))
            store_slot(plan, Header.C_0, load_slot(plan, Header.C_N))
            own = record_at(plan, load_slot(plan, Header.PACKED))
            for slot in range(RECORD):
                store_slot(own, slot, load_slot(cell, slot))
            back, count = load_slot(cell, Cell.BACK) > 0, load_slot(plan, Header.UNIFORM_RUN_COUNT)
            for n in range(count):
                at = count - 1 - n if back else n
                uniform_run = record_at(plan, load_slot(plan, Header.PACKED) + RECORD + at * UNIFORM_RUN)
                count_rows = smaller(rows, load_slot(uniform_run, UniformRun.ROWS) - first)
                if count_rows > 0:
                    bump_counter(plan, Header.UNIFORM_RUNS)
                    of_steps = load_slot(uniform_run, UniformRun.STEPS)
                    place(uniform_run, back, cell, own, Cell.SOURCE_AT, Cell.SOURCE_STEP, Cell.SOURCE_ROW)
                    place(uniform_run, back, cell, own, Cell.TARGET_AT, Cell.TARGET_STEP, Cell.TARGET_ROW)
                    hoist = 0
                    if count_rows <= load_slot(cell, Cell.HOIST_ROWS):
                        hoist = load_slot(cell, Cell.HOIST) // count_rows
                    store_slot(own, Cell.HOIST, hoist)
                    store_slot(plan, Header.STEPS, of_steps)
                    phase = run_cell(plan, own, first, count_rows, 0, of_steps, phase)
            store_slot(plan, Header.H_0, h_0)
            store_slot(plan, Header.C_0, c_0)
            store_slot(plan, Header.STEPS, steps)
            return phase

        @inline
        def run(plan, n, first, rows, from_step, to_step, phase):
            cell = cell_at(plan, n)
            if load_slot(plan, Header.PACKED) != 0:
                return run_packed(plan, cell, first, rows, phase)
            return run_cell(plan, cell, first, rows, from_step, to_step, phase)

        return run

    @inline
    def cell_at(plan, n):
        return record_at(plan, RECORDS + n * RECORD)

    run_alone = any_runner("cell", serial_for())

    @inline
    def group_rows(plan, first, end):
        """How many rows from ``first`` on pass through all layers together."""
        bump_counter(plan, Header.GROUPS)
        return smaller(load_slot(plan, Header.GROUP), end - first)

    @named("rows")
    def run_rows(plan, row, end):
        """The rows [row, end) through all cells, by this thread."""
        from_step, to_step = load_slot(plan, Header.STEPS_FROM), load_slot(plan, Header.STEPS_TO)
        for first in range(row, end, load_slot(plan, Header.GROUP)):
            rows = group_rows(plan, first, end)
            for n in range(load_slot(plan, Header.CELLS_FROM), load_slot(plan, Header.CELLS_TO)):
                run_alone(plan, n, first, rows, from_step, to_step, 0)

    if pause is None:

        @named("forward_alone")
        def forward_alone(plan):
            run_rows(plan, load_slot(plan, Header.ROWS_FROM), load_slot(plan, Header.ROWS_TO))

        forward_alone.compile(types.void(PLAN))
        return forward_alone
    wait, spin_wait = waiting(pause)
    shared_phases = parallel_for(wait)
    more, barrier = shared_phases.more, shared_phases.barrier
    run_together = any_runner("cell_together", shared_phases)

    @named("by_rows")
    def by_rows(plan):
        """One phase, whose tickets are rows."""
        of_a_ticket, end = load_slot(plan, Header.CHUNK_ROWS), load_slot(plan, Header.ROWS_TO)
        part = claim(plan, 0)
        while part >= 0:
            first = load_slot(plan, Header.ROWS_FROM) + part * of_a_ticket
            run_rows(plan, first, smaller(first + of_a_ticket, end))
            part = more(plan, 0)
        barrier(plan, 0)

    @named("by_directions")
    def by_directions(plan):
        """A phase for each layer, whose two tickets are directions."""
        phase, end = 0, load_slot(plan, Header.ROWS_TO)
        from_step, to_step = load_slot(plan, Header.STEPS_FROM), load_slot(plan, Header.STEPS_TO)
        for first in range(load_slot(plan, Header.ROWS_FROM), end, load_slot(plan, Header.GROUP)):
            rows = group_rows(plan, first, end)
            for n in range(load_slot(plan, Header.CELLS_FROM), load_slot(plan, Header.CELLS_TO), 2):
                part = claim(plan, phase)
                while part >= 0:
                    run_alone(plan, n + part, first, rows, from_step, to_step, 0)
                    part = more(plan, phase)
                phase = barrier(plan, phase)

    @inline
    def wave_wait(plan, progress, layer, least):
        wait(plan, progress + 8 * LINE_SLOTS * layer, least, False)

    @named("wavefront")
    def wavefront(plan):
        """A phase for each group of rows, whose tickets are chunks of steps of one layer, diagonal by diagonal.

        A chunk waits for the one before in its layer, and for the same one in the layer below. It overwrites what
        the layer two below has put out, so that one must have begun its next chunk from there: it waits until that is
        done. All of these have earlier tickets.
        """
        phase, end, layers = 0, load_slot(plan, Header.ROWS_TO), load_slot(plan, Header.CELLS_TO)
        steps, of_a_chunk = load_slot(plan, Header.STEPS_TO), load_slot(plan, Header.CHUNK_STEPS)
        chunks = (steps + of_a_chunk - 1) // of_a_chunk
        progress = shared(plan, Share.NEXT_CHUNK + LINE_SLOTS * load_slot(plan, Header.RANGES))
        for first in range(load_slot(plan, Header.ROWS_FROM), end, load_slot(plan, Header.GROUP)):
            rows = group_rows(plan, first, end)
            before = phase * chunks  # of the groups before
            part = claim(plan, phase)
            while part >= 0:
                diagonal, lowest, left = 0, 0, part
                count = 1
                while left >= count:
                    left -= count
                    diagonal += 1
                    lowest = greater(0, diagonal - chunks + 1)
                    count = smaller(diagonal, layers - 1) - lowest + 1
                layer = lowest + left
                chunk = diagonal - layer
                wave_wait(plan, progress, layer, before + chunk)
                if layer > 0:
                    wave_wait(plan, progress, layer - 1, before + chunk + 1)
                if layer > 1:
                    wave_wait(plan, progress, layer - 2, before + smaller(chunk + 2, chunks))
                bump_counter(plan, Header.WAVEFRONT)
                run_alone(plan, layer, first, rows,
                          chunk * of_a_chunk, smaller((chunk + 1) * of_a_chunk, steps), 0)  # fmt: skip
                publish(progress + 8 * LINE_SLOTS * layer, before + chunk + 1)
                part = more(plan, phase)
            phase = barrier(plan, phase)

    @named("by_blocks")
    def by_blocks(plan):
        """Every step of every cell is a phase, whose tickets are hidden blocks."""
        phase, end = 0, load_slot(plan, Header.ROWS_TO)
        from_step, to_step = load_slot(plan, Header.STEPS_FROM), load_slot(plan, Header.STEPS_TO)
        for first in range(load_slot(plan, Header.ROWS_FROM), end, load_slot(plan, Header.GROUP)):
            rows = group_rows(plan, first, end)
            for n in range(load_slot(plan, Header.CELLS_FROM), load_slot(plan, Header.CELLS_TO)):
                phase = run_together(plan, n, first, rows, from_step, to_step, phase)

    @named("forward")
    def forward(plan):
        partition = load_slot(plan, Header.PARTITION)
        is_caller = partition != Partition.SPIN and load_slot(plan, Header.THREAD_INDEX) == 0
        if is_caller and load_slot(plan, Header.EPOCH) != 0:
            count_up(load_slot(plan, Header.EPOCH))
        if partition == Partition.SERIAL:
            run_rows(plan, load_slot(plan, Header.ROWS_FROM), load_slot(plan, Header.ROWS_TO))
        elif partition == Partition.ROWS:
            by_rows(plan)
        elif partition == Partition.DIRECTIONS:
            by_directions(plan)
        elif partition == Partition.WAVEFRONT:
            wavefront(plan)
        elif partition == Partition.BLOCKS:
            by_blocks(plan)
        else:
            spin_wait(plan)
        store_slot(plan, Header.SERPENTINE, (load_slot(plan, Header.SERPENTINE) + load_slot(plan, Header.STEPS_TO)) & 1)

    forward.compile(types.void(PLAN))
    return forward
