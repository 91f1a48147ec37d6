"""The launches of a call: all layers and directions, one after the other, on one stream.

A layer and direction takes two launches for each chunk of steps: the input projection, and a recurrence over its steps.
If the planner chooses single steps, the recurrence takes one or two launches a step instead.
"""

from math import prod

from . import device, planner
from .arrays import Strided, whole
from .kernels.registry import HIGH, WIDE, launch
from .rows import Laid

GATES_BYTES = 256 << 20  # of the hoisted input projection at a time


class Layers:
    """The layers of an LSTM over the rows of one call, with the buffers of a workspace."""

    def __init__(self, config, weights, facts, space, rows, stream):
        self.config, self.weights, self.space, self.rows, self.stream = config, weights, space, rows, stream
        self.dtype = space.dtype
        self.table = space.table(rows, stream)
        self.plan = planner.plan(config.hidden_size, bool(config.proj_size), self.dtype.itemsize, rows.batch, *facts)

    def run(self, x, states, y, h_n, c_n, masks):
        """The whole pass: ``x`` and ``y`` are (T, B, features) or packed, states (cells, B, features)."""
        config, rows, space = self.config, self.rows, self.space
        results, kept = (h_n, c_n), [h_n, c_n]  # in the order of the caller, and by rows
        shapes = config.state_shapes(rows.batch)
        for state, shape in enumerate(shapes):
            source = states[state] if states is not None else Strided(space.zero(), 0, shape, (0, 0, 0))
            self._flush_copy(1 - state, source._replace(shape=shape), results[state], 0)
            if rows.order is not None:
                kept[state] = space.room(f"{'hc'[state]} by rows", prod(shape))
                self._arrange(rows.order_at, results[state], kept[state], shape)
        between = (rows.total, config.num_directions * config.output_size)
        belows = [space.room(f"below {n}", prod(between)) for n in range(min(2, config.num_layers - 1))]
        source, dropout = x, None
        for layer in range(config.num_layers):
            is_last = layer + 1 == config.num_layers
            target = y if is_last else whole(belows[layer % 2], between)
            for direction in range(config.num_directions):
                self._cell(layer, direction, source, target, *kept)
            if masks is not None and not is_last:
                host = space.host("below", prod(between))
                dropout = dropout or masks()  # after the last allocation
                self._drop(target, host, dropout)
            source = target
        if rows.order is not None:
            for result, by_rows, shape in zip(results, kept, shapes, strict=True):
                self._arrange(rows.back_at, by_rows, result, shape)

    def _drop(self, target, host, dropout):
        """Dropout between layers, on the host: the same numbers as on the CPU."""
        total, width = target.shape
        target.flat.copy_to_host(host, stream=self.stream)
        device.synchronize(self.stream)
        dropout(host.reshape(total, 1, width))
        target.flat.copy_to_device(host, stream=self.stream)
        device.synchronize(self.stream)

    def _cell(self, layer, direction, source, target, h_n, c_n):
        """One layer and direction over all steps, a chunk of them at a time."""
        config, rows, plan = self.config, self.rows, self.plan
        units, width = config.hidden_size, 4 * config.hidden_size
        cell = layer * config.num_directions + direction
        place = self.weights.places[cell]
        states = (h_n, cell * rows.batch * config.output_size, c_n, cell * rows.batch * units)
        x, y = Laid.of(source), Laid.of(target)
        y = y._replace(at=y.at + direction * config.output_size)
        chunks = list(rows.chunks(GATES_BYTES // (width * self.dtype.itemsize)))
        gates = self.space.room("gates", max(rows.starts[end] - rows.starts[begin] for begin, end in chunks) * width)
        for begin, end in reversed(chunks) if direction else chunks:
            count = rows.starts[end] - rows.starts[begin]
            # packed rows count as rows of one step
            self._project("project", count, count if x.start else rows.batch, source.shape[-1], width,
                          (x.flat, x.begin(rows, begin), x.step, x.row, x.feature), place.ih, place.bias,
                          (gates, 0, rows.batch * width, width))  # fmt: skip
            gates_at = -rows.starts[begin] * width  # the buffer begins with the rows of the chunk
            if plan.kernel == "step":
                self._steps(begin, end, direction, gates, gates_at, place, y, states)
                continue
            sizes = (end - begin, rows.batch, units) if plan.kernel == "stream" else (end - begin, rows.batch)
            tile = plan.rows if plan.kernel == "stream" else units
            self._launch(plan.kernel, tile, (plan.blocks,), plan.threads, plan.shared,
                         *sizes, self.table, begin, -1 if direction else 1, gates, gates_at, self.weights.flat,
                         place.hh, *y[:5], *states)  # fmt: skip

    def _steps(self, begin, end, direction, gates, gates_at, place, y, states):
        """Single steps. h of the step before is in the target, or in h_n where rows begin or may have ended."""
        config, plan = self.config, self.plan
        units, outputs = config.hidden_size, config.output_size
        h_n, h_at, c_n, c_at = states
        order = -1 if direction else 1
        for first, last, live in self.rows.between(begin, end)[::order]:
            grid = (-(-live // plan.rows), -(-units // plan.threads))
            before = (h_n, h_at, outputs)
            for step in range(first, last)[::order]:
                now = (y.flat, y.begin(self.rows, step), y.row)
                made = (self.space.room("hidden", self.rows.batch * units), 0, units) if config.proj_size else now
                self._launch("step", plan.rows, grid, plan.threads, 0, live, units, outputs,
                             gates, gates_at + self.rows.starts[step] * 4 * units, self.weights.flat, place.hh,
                             *before, c_n, c_at, *made)  # fmt: skip
                if config.proj_size:
                    self._project("project_hidden", live, live, units, outputs, (made[0], 0, 0, units, 1), place.hr, 0,
                                  (now[0], now[1], 0, y.row))  # fmt: skip
                before = now
            self._flush_copy(1, Strided(y.flat, before[1], (1, live, outputs), (0, y.row, 1)), h_n, h_at)

    # ------------------------------------------------------------ kernels

    def _launch(self, name, variant, grid, threads, shared, *arguments):
        launch(name, self.dtype.name, variant, grid, threads, shared, self.stream, *arguments)

    def _launch_over(self, count, name, variant, *arguments):
        """One thread for each of ``count`` numbers."""
        self._launch(name, variant, (-(-count // planner.THREADS),), planner.THREADS, 0, count, *arguments)

    def _flush_copy(self, of_h, source, target, target_at):
        """Copy states, flushing what would slow the arithmetic down."""
        _, rows, features = source.shape
        self._launch_over(prod(source.shape), "flush_copy", of_h,
                          rows, features, source.flat, source.at, *source.strides, target, target_at)  # fmt: skip

    def _arrange(self, index_at, source, target, shape):
        """Reorder states from the order of the sequences to that of the rows, or back."""
        self._launch_over(prod(shape), "arrange", 0, *shape[1:], self.table, index_at, source, target)

    def pad(self, name, packed, padded, steps):
        """Pack or unpack the first ``steps`` steps of a padded batch."""
        batch, features = padded.shape[1:]
        self._launch_over(steps * batch * features, name, 0, batch, features, self.table, self.rows.back_at,
                          packed.flat, padded.flat, padded.at, *padded.strides)  # fmt: skip

    def _project(self, name, count, batch, terms, width, source, weights_at, bias_at, target):
        """``count`` rows, ``batch`` of them a step; source and target are (flat, at, step, row)."""
        rows, columns = planner.DOWN * HIGH, planner.ACROSS * WIDE[self.dtype.itemsize]
        grid = (-(-count // rows), -(-width // columns))
        self._launch(name, 0, grid, planner.THREADS, 0,
                     count, batch, terms, width, *source, self.weights.flat, weights_at, bias_at, *target)  # fmt: skip
