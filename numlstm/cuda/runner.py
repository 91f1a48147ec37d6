"""Runs an LSTM on the device: checks, copies where the caller's arrays are the host's, and the launches of a call.

A layer and direction is two launches for a chunk of steps: the input projection, and a recurrence over all of them;
or, by the planner's choice, a launch or two a step. States are settled into h_n and c_n, where kernels keep them.
"""

import threading
from collections import OrderedDict

import numpy as np

from numlstm.base.validation.arrays import real_array
from numlstm.base.validation.out import check_no_overlap, out_arrays
from numlstm.base.validation.packed import checked_lengths, checked_parts
from numlstm.base.validation.shapes import check_no_lengths, lstm_call, lstm_states, packed_call
from numlstm.sequences.packed_layout import gathered, places
from numlstm.sequences.packing import PackedSequence

from . import device, planner
from .arrays import Strided, caller_stream, contiguous, of_kind, on_device, place, strided, whole
from .kernels.registry import HIGH, WIDE, launch
from .rows import Laid, Rows
from .streams import chosen
from .weights import Weights

GATES_BYTES = 256 << 20  # of the hoisted input projection at a time
WORKSPACES = 4  # kept, the latest used: so many for single steps, and so many for all else


class Workspace:
    """Every buffer that calls of one (T, B) and stream write besides their results; or calls of any lengths.

    A buffer that is too small is replaced by one that is twice as large at least, so that calls of several lengths
    come to take none.
    """

    def __init__(self, dtype):
        self.dtype, self.buffers = dtype, {}
        self.dense = None  # the rows of a dense call
        self.table = self.table_there = None  # of the latest call's rows

    def room(self, name, count, dtype=None):
        """The buffer of that name on the device, of so many numbers."""
        return self._of_size(name, max(1, count), lambda size: device.empty(size, dtype or self.dtype))

    def host(self, name, count):
        """The buffer of that name in host memory that the device copies by itself."""
        return self._of_size(name, count, lambda size: device.pinned(size, self.dtype))

    def _of_size(self, name, count, make):
        kept = self.buffers.get(name)
        if kept is None or kept.size < count:
            kept = self.buffers[name] = make(count if kept is None else max(count, 2 * kept.size))
        return kept if kept.size == count else kept[:count]

    def sent(self, rows, stream):
        """The table of the rows on the device, sent there if it is not that of the call before."""
        if self.table is not rows.table and not np.array_equal(self.table, rows.table):
            self.table = None
            self.table_there = self.room("table", rows.table.size, np.int64)
            self.table_there.copy_to_device(rows.table, stream=stream)
            self.table = rows.table
        return self.table_there


class Runner:
    """What an LSTM on the device has beyond its parameters: weights there, and workspaces."""

    def __init__(self):
        self.dtype = None
        self.facts = device.facts()
        self.weights = None
        self.workspaces = OrderedDict()
        self.busy = threading.Lock()  # launches of two threads would mix in a workspace
        self.holder = 0  # the thread that has the lock
        self.allocations = 0  # workspaces made, for tests and the curious

    def forward(self, panels, config, input, hx, lengths, out, masks):
        """``LSTM.forward``; the same checks, and arrays of the kind that came in.

        ``masks`` gives what drops numbers between layers, or is None. It is called once nothing can be refused any more
        and all memory has been taken.
        """
        parts, name = None, "input"
        if hasattr(input, "batch_sizes"):
            check_no_lengths(lengths)
            parts, name = checked_parts(input, anywhere=True), "data"
            input = parts.data
        dtype = panels.dtype  # this call's, whatever other threads, or code that is run by reading, make of the LSTM
        there = on_device(input)
        handle = chosen()
        if handle is None:
            handle = caller_stream(input) if there else 0
        stream = device.stream_of(handle)
        given = strided(name, input, dtype, stream) if there else real_array(name, input)
        seen, rows = _seen_by_checks(hx, there, dtype), None
        if parts is not None:
            rows = Rows(*parts[1:])
            steps = rows.steps
            call = packed_call(config, given.shape, rows.batch, seen)
        else:
            call = lstm_call(config, given.shape, seen)
            steps = given.shape[1] if call.swap else given.shape[0]
            if lengths is not None:
                each = checked_lengths(lengths, call, given.shape)
                rows = Rows.of_lengths(each, steps) if call.batch else None
        if hx is not None:
            seen = lstm_states(call, seen, dtype)
        arguments = (panels, config, call, steps, rows, given, hx if there else seen, out, masks, stream, handle)
        runner = self
        if (
            self.holder == threading.get_ident()
        ):  # a signal handler in the midst of a call, say; to wait would be for ever
            runner = Runner()
            runner.dtype, runner.weights = self.dtype, self.weights
        work = runner._on_device if there else runner._on_host
        output, states = runner._in_turn(dtype, work, *((input,) if there else ()), *arguments)
        if masks is not None and call.batch == 0 and lengths is None:
            masks()  # nothing is dropped, but the next call is to drop what it drops on the CPU
        return (output if parts is None else PackedSequence(output, *parts[1:])), states

    def _in_turn(self, dtype, work, *given):
        """Do a call of this dtype while no other thread has the workspaces; the one before may have had another."""
        own = threading.get_ident()
        with self.busy:
            self.holder = own  # nothing is called in between, so that no signal finds the lock without its holder
            try:
                if self.dtype is None or dtype != self.dtype:  # None would be taken for float64
                    self.dtype, self.weights = dtype, None
                    self.workspaces.clear()
                return work(*given)
            finally:
                self.holder = 0

    # ------------------------------------------------------------ a call from the host, and from the device

    def _on_host(self, panels, config, call, steps, rows, given, hx, out, masks, stream, handle):
        if out is None:
            results = tuple(np.empty(shape, self.dtype) for shape in (call.output, call.hidden, call.cell))
            returned = results
        else:
            results, returned = out_arrays(out, call, self.dtype, given, hx), tuple(out)
        if call.batch:
            space, rows = self.workspace(steps, call.batch, rows, handle)
            cells = config.num_layers * config.num_directions
            shapes = (
                (rows.total, config.num_directions * config.output_size),
                (cells, call.batch, config.output_size),
                (cells, call.batch, config.hidden_size),
            )
            at = None
            if rows.padded:
                at = places(rows.sizes, rows.order, rows.padded, call.batch, call.swap)
                seq = gathered(given, at)
            else:
                seq = _steps_first(given, call)
            x = self.sent(space, "x", seq, stream)
            states = None
            if hx is not None:
                states = tuple(
                    self.sent(space, name, np.reshape(state, shape), stream)
                    for name, state, shape in zip(("h_0", "c_0"), hx, shapes[1:], strict=True)
                )
            names = ("output", "h_n", "c_n")
            made = [space.room(name, int(np.prod(shape))) for name, shape in zip(names, shapes, strict=True)]
            hosts = [space.host(f"host {name}", int(np.prod(s))) for name, s in zip(names, shapes, strict=True)]
            self.run(panels, config, space, rows, x, states, whole(made[0], shapes[0]), *made[1:], masks, stream)
            for there, here in zip(made, hosts, strict=True):
                there.copy_to_host(here, stream=stream)
            device.synchronize(stream)
            output, *after = results
            if at is None:
                target = _steps_first(output, call)
                np.copyto(target, hosts[0].reshape(target.shape))
            else:
                output[...] = 0  # the padding
                output.reshape(-1, shapes[0][1])[at] = hosts[0].reshape(shapes[0])
            for result, here in zip(after, hosts[1:], strict=True):
                np.copyto(result, here.reshape(result.shape))
        return returned[0], (returned[1], returned[2])

    def sent(self, space, name, array, stream):
        """A host array in the LSTM's dtype on the device, through pinned memory."""
        here, there = space.host(f"host {name}", array.size), space.room(name, array.size)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(here.reshape(array.shape), array, casting="unsafe")
        there.copy_to_device(here, stream=stream)
        return whole(there, array.shape)

    def _on_device(self, input, panels, config, call, steps, rows, given, hx, out, masks, stream, handle):
        shapes = (call.output, call.hidden, call.cell)
        states = None
        if hx is not None:
            states = [strided(f"{'hc'[n]}_0", state, self.dtype, stream) for n, state in enumerate(hx[:2])]
        if out is None:
            flats = [device.empty(max(1, int(np.prod(shape))), self.dtype, stream) for shape in shapes]
            returned = [of_kind(input, shaped(flat, shape)) for flat, shape in zip(flats, shapes, strict=True)]
        else:
            if not isinstance(out, tuple | list) or len(out) != 3:
                raise TypeError("out must be a tuple (output, h_n, c_n)")
            names = ("output", "h_n", "c_n")
            flats = [contiguous(*of, self.dtype, stream) for of in zip(names, out, shapes, strict=True)]
            results = [place(whole(*of), self.dtype) for of in zip(flats, shapes, strict=True)]
            read = states and tuple(place(state, self.dtype) for state in states)
            check_no_overlap(results, place(given, self.dtype), read)
            returned = list(out)
        if call.batch:
            space, rows = self.workspace(steps, call.batch, rows, handle)
            y = whole(flats[0], call.output)
            if call.unbatched:
                given, y = given.expanded(1), y.expanded(1)
                states = states and [state.expanded(1) for state in states]
            elif call.swap:
                given, y = given.reordered(1, 0, 2), y.reordered(1, 0, 2)
            x, target = given, y
            if rows.padded:
                x, target = (
                    whole(space.room(name, rows.total * array.shape[2]), (rows.total, array.shape[2]))
                    for name, array in (("x", given), ("output", y))
                )
                self._padding("pack", space, rows, x, given, rows.steps, stream)
            self.run(panels, config, space, rows, x, states, target, flats[1], flats[2], masks, stream)
            if rows.padded:
                self._padding("unpack", space, rows, target, y, rows.padded, stream)
        return returned[0], (returned[1], returned[2])

    def workspace(self, steps, batch, rows, handle):
        """That of a dense call's sizes with its rows, or the one for calls of several lengths."""
        key = (steps, batch, handle) if rows is None else (0, 0, handle)
        space = self.workspaces.get(key)
        if space is None:
            alike = [kept for kept in self.workspaces if (kept[0] == 1) == (key[0] == 1)]
            if len(alike) >= WORKSPACES:
                del self.workspaces[alike[0]]
            space = self.workspaces[key] = Workspace(self.dtype)
            self.allocations += 1
        self.workspaces.move_to_end(key)
        if rows is None:
            if space.dense is None:
                space.dense = Rows.dense(steps, batch)
            rows = space.dense
        return space, rows

    # ------------------------------------------------------------ launches

    def run(self, panels, config, space, rows, x, states, y, h_n, c_n, masks, stream):
        """The whole pass: ``x`` and ``y`` are (T, B, features) or packed, states (cells, B, features)."""
        if self.weights is None or self.weights.panels is not panels:
            self.weights = Weights(panels)
        batch, total = rows.batch, rows.total
        cells, units = config.num_layers * config.num_directions, config.hidden_size
        table = space.sent(rows, stream)
        results, kept = (h_n, c_n), [h_n, c_n]  # where they are to be in the end, and by rows
        for state, size in ((0, config.output_size), (1, units)):
            shape = (cells, batch, size)
            source = states[state] if states is not None else Strided(self._zero(space), 0, shape, (0, 0, 0))
            self._settle(1 - state, source._replace(shape=shape), results[state], 0, stream)
            if rows.order is not None:
                kept[state] = space.room(f"{'hc'[state]} by rows", cells * batch * size)
                self._arrange(rows, table, rows.order_at, results[state], kept[state], shape, stream)
        width = config.num_directions * config.output_size
        belows = [space.room(f"below {n}", total * width) for n in range(min(2, config.num_layers - 1))]
        source, dropout = x, None
        for layer in range(config.num_layers):
            target = y
            if layer + 1 < config.num_layers:
                below = belows[layer % 2]
                target = whole(below, (total, width))
            for direction in range(config.num_directions):
                self._cell(config, space, rows, layer, direction, source, target, *kept, stream)
            if masks is not None and layer + 1 < config.num_layers:
                host = space.host("host below", total * width)
                below.copy_to_host(host, stream=stream)
                device.synchronize(stream)
                dropout = dropout or masks()  # by now no layer takes more memory
                dropout(host.reshape(total, 1, width))
                below.copy_to_device(host, stream=stream)
                device.synchronize(stream)
            source = target
        if rows.order is not None:
            for result, by_rows, size in zip(results, kept, (config.output_size, units), strict=True):
                self._arrange(rows, table, rows.back_at, by_rows, result, (cells, batch, size), stream)

    def _zero(self, space):
        if "zero" not in space.buffers:
            zero = device.upload(np.zeros(1, self.dtype))
            device.synchronize(0)  # before another stream reads it
            space.buffers["zero"] = zero
        return space.buffers["zero"]

    def _settle(self, of_h, source, target, target_at, stream):
        cells, rows, features = source.shape
        count = cells * rows * features
        grid = (-(-count // planner.THREADS),)
        launch("settle", self.dtype.name, of_h, grid, planner.THREADS, 0, stream,
               count, rows, features, source.flat, source.at, *source.strides, target, target_at)  # fmt: skip

    def _arrange(self, rows, table, index_at, source, target, shape, stream):
        """States by rows from those by sequences, or back."""
        count = int(np.prod(shape))
        grid = (-(-count // planner.THREADS),)
        launch("arrange", self.dtype.name, 0, grid, planner.THREADS, 0, stream,
               count, *shape[1:], table, index_at, source, target)  # fmt: skip

    def _padding(self, name, space, rows, packed, padded, steps, stream):
        """Pack or unpack the first ``steps`` steps of a padded batch."""
        batch, features = padded.shape[1:]
        count = steps * batch * features
        grid = (-(-count // planner.THREADS),)
        launch(name, self.dtype.name, 0, grid, planner.THREADS, 0, stream,
               count, batch, features, space.sent(rows, stream), rows.back_at, packed.flat, padded.flat, padded.at,
               *padded.strides)  # fmt: skip

    def _project(self, name, count, batch, terms, width, source, weights_at, bias_at, target, stream):
        """``count`` rows, ``batch`` of them a step; source and target are (flat, at, step, row)."""
        rows, columns = planner.DOWN * HIGH, planner.ACROSS * WIDE[self.dtype.itemsize]
        grid = (-(-count // rows), -(-width // columns))
        launch(name, self.dtype.name, 0, grid, planner.THREADS, 0, stream,
               count, batch, terms, width, *source, self.weights.flat, weights_at, bias_at, *target)  # fmt: skip

    def _cell(self, config, space, rows, layer, direction, source, target, h_n, c_n, stream):
        """One layer and direction over all steps, a chunk of them at a time."""
        units, outputs, dtype = config.hidden_size, config.output_size, self.dtype.name
        inputs, width = source.shape[-1], 4 * units
        plan = planner.plan(units, bool(config.proj_size), self.dtype.itemsize, rows.batch, *self.facts)
        cell = layer * config.num_directions + direction
        place = self.weights.places[cell]
        of_states = (h_n, cell * rows.batch * outputs, c_n, cell * rows.batch * units)
        x, y = Laid.of(source), Laid.of(target)
        y = y._replace(at=y.at + direction * outputs)
        table = space.sent(rows, stream)
        chunks = list(rows.chunks(GATES_BYTES // (width * self.dtype.itemsize)))
        gates = space.room("gates", max(rows.starts[end] - rows.starts[begin] for begin, end in chunks) * width)
        for begin, end in reversed(chunks) if direction else chunks:
            count = rows.starts[end] - rows.starts[begin]
            # packed rows are as many of one step
            self._project("project", count, count if x.start else rows.batch, inputs, width,
                          (x.flat, x.begin(rows, begin), x.step, x.row, x.feature), place.ih, place.bias,
                          (gates, 0, rows.batch * width, width), stream)  # fmt: skip
            gates_at = -rows.starts[begin] * width  # the rows of the chunk are the first ones there
            if plan.kernel == "step":
                self._steps(config, space, rows, plan, begin, end, direction, gates, gates_at, place, y, of_states,
                            stream)  # fmt: skip
                continue
            sizes = (end - begin, rows.batch, units) if plan.kernel == "stream" else (end - begin, rows.batch)
            tile = plan.rows if plan.kernel == "stream" else units
            launch(plan.kernel, dtype, tile, (plan.blocks,), plan.threads, plan.shared, stream,
                   *sizes, table, begin, -1 if direction else 1, gates, gates_at, self.weights.flat, place.hh,
                   *y[:5], *of_states)  # fmt: skip

    def _steps(self, config, space, rows, plan, begin, end, direction, gates, gates_at, place, y, of_states, stream):
        """Step by step: h of the step before is read in the target, and in h_n where rows begin or may have ended."""
        units, outputs, dtype = config.hidden_size, config.output_size, self.dtype.name
        h_n, h_at, c_n, c_at = of_states
        turn = -1 if direction else 1
        for first, last, live in rows.between(begin, end)[::turn]:
            grid = (-(-live // plan.rows), -(-units // plan.threads))
            before = (h_n, h_at, outputs)
            for step in range(first, last)[::turn]:
                now = (y.flat, y.begin(rows, step), y.row)
                made = (space.room("hidden", rows.batch * units), 0, units) if config.proj_size else now
                launch("step", dtype, plan.rows, grid, plan.threads, 0, stream,
                       live, units, outputs, gates, gates_at + rows.starts[step] * 4 * units, self.weights.flat,
                       place.hh, *before, c_n, c_at, *made)  # fmt: skip
                if config.proj_size:
                    self._project("project_hidden", live, live, units, outputs, (made[0], 0, 0, units, 1), place.hr, 0,
                                  (now[0], now[1], 0, y.row), stream)  # fmt: skip
                before = now
            self._settle(1, Strided(y.flat, before[1], (1, live, outputs), (0, y.row, 1)), h_n, h_at, stream)


def _seen_by_checks(hx, there, dtype):
    """The states as the checks see them: for an array on the device one of its shape that takes no memory."""
    if not isinstance(hx, tuple | list):
        return hx
    seen = []
    for index, state in enumerate(hx):
        if on_device(state) != there:
            places = ("the device", "the CPU's memory") if there else ("the CPU's memory", "the device")
            raise RuntimeError(
                "Input and hidden tensors are not at the same device\n"
                f"input is in {places[0]} and hx[{index}] in {places[1]}; pass both in one place."
            )
        if there:
            shape = tuple((device.interface(state) or {}).get("shape") or state.shape)
            state = np.broadcast_to(np.zeros((), dtype), shape)
        seen.append(state)
    return type(hx)(seen)


def _steps_first(array, call):
    """The array of the host as (steps, rows, features)."""
    if call.unbatched:
        return array[:, None]
    return array.transpose(1, 0, 2) if call.swap else array


def shaped(flat, shape):
    return flat[: int(np.prod(shape))].reshape(shape)
