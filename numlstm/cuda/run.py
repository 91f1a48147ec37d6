"""Runs an LSTM on the device: checks, copies where the caller's arrays are the host's, and the launches of a call.

A layer and direction is two launches for a chunk of steps: the input projection, and a recurrence over all of them;
or, by the planner's choice, a launch or two a step. States are settled into h_n and c_n, where kernels keep them.
"""

import threading
from collections import OrderedDict

import numpy as np

from .. import checks
from . import device, planner
from .arrays import Strided, caller_stream, contiguous, of_kind, on_device, strided, whole
from .kernels import HIGH, WIDE, launch
from .streams import chosen
from .weights import Weights

GATES_BYTES = 256 << 20  # of the hoisted input projection at a time
WORKSPACES = 4  # kept, the latest used


class Workspace:
    """Every buffer that calls of one (T, B) and stream write besides their results."""

    def __init__(self, dtype):
        self.dtype, self.buffers = dtype, {}

    def room(self, name, count):
        """The buffer of that name on the device."""
        if name not in self.buffers:
            self.buffers[name] = device.empty(max(1, count), self.dtype)
        return self.buffers[name]

    def host(self, name, shape):
        """The buffer of that name in host memory that the device copies by itself."""
        if name not in self.buffers:
            self.buffers[name] = device.pinned(shape, self.dtype)
        return self.buffers[name]


class Runner:
    """What an LSTM on the device has beyond its parameters: weights there, and workspaces."""

    def __init__(self):
        self.dtype = None
        self.facts = device.facts()
        self.weights = None
        self.workspaces = OrderedDict()
        self.busy = threading.Lock()  # launches of two threads would mix in a workspace
        self.allocations = 0  # workspaces made, for tests and the curious

    def forward(self, panels, config, input, hx, lengths, out, dropout):
        """``LSTM.forward``; the same checks, and arrays of the kind that came in."""
        checks.not_on_cuda(input, lengths)
        if self.dtype is None or panels.dtype != self.dtype:  # None would be taken for float64
            with self.busy:
                self.dtype, self.weights = panels.dtype, None
                self.workspaces.clear()
        there = on_device(input)
        handle = chosen()
        if handle is None:
            handle = caller_stream(input) if there else 0
        stream = device.stream_of(handle)
        given = strided("input", input, self.dtype, stream) if there else checks.real_array("input", input)
        seen = _seen_by_checks(hx, there, self.dtype)
        call = checks.lstm_call(config, given.shape, seen)
        if hx is not None:
            seen = checks.lstm_states(call, seen, self.dtype)
        steps = given.shape[1] if call.swap else given.shape[0]
        arguments = (panels, config, call, steps, given, hx if there else seen, out, dropout, stream, handle)
        with self.busy:
            return self._on_device(input, *arguments) if there else self._on_host(*arguments)

    # ------------------------------------------------------------ a call from the host, and from the device

    def _on_host(self, panels, config, call, steps, given, hx, out, dropout, stream, handle):
        if out is None:
            results = tuple(np.empty(shape, self.dtype) for shape in (call.output, call.hidden, call.cell))
            returned = results
        else:
            results, returned = checks.out_arrays(out, call, self.dtype, given, hx), tuple(out)
        batch = call.batch
        if batch:
            space = self._workspace(steps, batch, handle)
            cells = config.num_layers * config.num_directions
            shapes = (
                (steps, batch, config.num_directions * config.output_size),
                (cells, batch, config.output_size),
                (cells, batch, config.hidden_size),
            )
            seq = _steps_first(given, call)
            x = self._sent(space, "x", seq, (steps, batch, config.input_size), stream)
            states = None
            if hx is not None:
                states = tuple(
                    self._sent(space, name, np.reshape(state, shape), shape, stream)
                    for name, state, shape in zip(("h_0", "c_0"), hx, shapes[1:], strict=True)
                )
            names = ("output", "h_n", "c_n")
            made = [space.room(name, int(np.prod(shape))) for name, shape in zip(names, shapes, strict=True)]
            self._run(panels, config, space, x, states, whole(made[0], shapes[0]), made[1], made[2], dropout, stream)
            hosts = [space.host(f"host {name}", int(np.prod(s))) for name, s in zip(names, shapes, strict=True)]
            for there, here in zip(made, hosts, strict=True):
                there.copy_to_host(here, stream=stream)
            device.synchronize(stream)
            for result, here, shape in zip(results, hosts, shapes, strict=True):
                target = _steps_first(result, call) if result is results[0] else result.reshape(shape)
                np.copyto(target, here.reshape(shape))
        return returned[0], (returned[1], returned[2])

    def _sent(self, space, name, array, shape, stream):
        """A host array in the LSTM's dtype on the device, through pinned memory."""
        count = int(np.prod(shape))
        here, there = space.host(f"host {name}", count), space.room(name, count)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(here.reshape(shape), array, casting="unsafe")
        there.copy_to_device(here, stream=stream)
        return whole(there, shape)

    def _on_device(self, input, panels, config, call, steps, given, hx, out, dropout, stream, handle):
        shapes = (call.output, call.hidden, call.cell)
        states = None
        if hx is not None:
            states = [strided(f"{'hc'[n]}_0", state, self.dtype, stream) for n, state in enumerate(hx[:2])]
        if out is None:
            flats = [device.empty(max(1, int(np.prod(shape))), self.dtype, stream) for shape in shapes]
            returned = [of_kind(input, _shaped(flat, shape)) for flat, shape in zip(flats, shapes, strict=True)]
        else:
            if not isinstance(out, tuple | list) or len(out) != 3:
                raise TypeError("out must be a tuple (output, h_n, c_n)")
            names = ("output", "h_n", "c_n")
            flats = [contiguous(*of, self.dtype, stream) for of in zip(names, out, shapes, strict=True)]
            returned = list(out)
        if call.batch:
            y = whole(flats[0], call.output)
            if call.unbatched:
                given, y = given.expanded(1), y.expanded(1)
                states = states and [state.expanded(1) for state in states]
            elif call.swap:
                given, y = given.reordered(1, 0, 2), y.reordered(1, 0, 2)
            space = self._workspace(steps, call.batch, handle)
            self._run(panels, config, space, given, states, y, flats[1], flats[2], dropout, stream)
        return returned[0], (returned[1], returned[2])

    def _workspace(self, steps, batch, handle):
        key = (steps, batch, handle)
        space = self.workspaces.get(key)
        if space is None:
            while len(self.workspaces) >= WORKSPACES:
                self.workspaces.popitem(last=False)
            space = self.workspaces[key] = Workspace(self.dtype)
            self.allocations += 1
        self.workspaces.move_to_end(key)
        return space

    # ------------------------------------------------------------ launches

    def _run(self, panels, config, space, x, states, y, h_n, c_n, dropout, stream):
        """The whole pass: ``x`` and ``y`` are (T, B, features), states (cells, B, features)."""
        if self.weights is None or self.weights.panels is not panels:
            self.weights = Weights(panels)
        steps, batch, _ = x.shape
        cells, units = config.num_layers * config.num_directions, config.hidden_size
        for state, target, size in ((0, h_n, config.output_size), (1, c_n, units)):
            shape = (cells, batch, size)
            source = states[state] if states is not None else Strided(self._zero(space), 0, shape, (0, 0, 0))
            self._settle(1 - state, source._replace(shape=shape), target, 0, stream)
        width = config.num_directions * config.output_size
        source = x
        for layer in range(config.num_layers):
            target = y
            if layer + 1 < config.num_layers:
                below = space.room(f"below {layer % 2}", steps * batch * width)
                target = whole(below, (steps, batch, width))
            for direction in range(config.num_directions):
                self._cell(config, space, layer, direction, source, target, h_n, c_n, stream)
            if dropout is not None and layer + 1 < config.num_layers:
                host = space.host("host below", steps * batch * width)
                below.copy_to_host(host, stream=stream)
                device.synchronize(stream)
                dropout(host.reshape(steps, batch, width))
                below.copy_to_device(host, stream=stream)
                device.synchronize(stream)
            source = target

    def _zero(self, space):
        if "zero" not in space.buffers:
            space.buffers["zero"] = device.upload(np.zeros(1, self.dtype))
            device.synchronize(0)
        return space.buffers["zero"]

    def _settle(self, of_h, source, target, target_at, stream):
        cells, rows, features = source.shape
        count = cells * rows * features
        grid = (-(-count // planner.THREADS),)
        launch("settle", self.dtype.name, of_h, grid, planner.THREADS, 0, stream,
               count, rows, features, source.flat, source.at, *source.strides, target, target_at)  # fmt: skip

    def _project(self, name, count, batch, terms, width, source, weights_at, bias_at, target, stream):
        """``count`` rows, ``batch`` of them a step; source and target are (flat, at, step, row)."""
        rows, columns = planner.DOWN * HIGH, planner.ACROSS * WIDE[self.dtype.itemsize]
        grid = (-(-count // rows), -(-width // columns))
        launch(name, self.dtype.name, 0, grid, planner.THREADS, 0, stream,
               count, batch, terms, width, *source, self.weights.flat, weights_at, bias_at, *target)  # fmt: skip

    def _cell(self, config, space, layer, direction, source, target, h_n, c_n, stream):
        """One layer and direction over all steps, a chunk of them at a time."""
        steps, batch, inputs = source.shape
        units, outputs, dtype = config.hidden_size, config.output_size, self.dtype.name
        plan = planner.plan(units, bool(config.proj_size), self.dtype.itemsize, batch, *self.facts)
        cell = layer * config.num_directions + direction
        place = self.weights.places[cell]
        h_at, c_at = cell * batch * outputs, cell * batch * units
        most = planner.steps_at_once(steps, batch, units, self.dtype.itemsize, GATES_BYTES)
        gates = space.room("gates", most * batch * 4 * units)
        gates_step = batch * 4 * units
        y_step, y_row, _ = target.strides
        y_at = target.at + direction * outputs
        x_step, x_row, x_feature = source.strides
        for done in range(0, steps, most):
            count = min(most, steps - done)
            begin = steps - done - count if direction else done  # the reverse direction starts at the end
            self._project("project", count * batch, batch, inputs, 4 * units,
                          (source.flat, source.at + begin * x_step, x_step, x_row, x_feature), place.ih, place.bias,
                          (gates, 0, gates_step, 4 * units), stream)  # fmt: skip
            first, sign = (count - 1, -1) if direction else (0, 1)
            of_gates = (gates, first * gates_step, sign * gates_step)
            of_target = (target.flat, y_at + (begin + first) * y_step, sign * y_step, y_row)
            of_states = (h_n, h_at, c_n, c_at)
            if plan.kernel == "step":
                self._steps(config, space, plan, count, batch, of_gates, place, of_target, of_states, stream)
                continue
            sizes = (count, batch, units) if plan.kernel == "stream" else (count, batch)
            rows = plan.rows if plan.kernel == "stream" else units
            launch(plan.kernel, dtype, rows, (plan.blocks,), plan.threads, plan.shared, stream,
                   *sizes, *of_gates, self.weights.flat, place.hh, *of_target, *of_states)  # fmt: skip

    def _steps(self, config, space, plan, count, batch, of_gates, place, of_target, of_states, stream):
        """Step by step: h of the step before is read in the target, of the first one in h_n."""
        units, outputs, dtype = config.hidden_size, config.output_size, self.dtype.name
        gates, gates_at, gates_step = of_gates
        target, target_at, target_step, target_row = of_target
        h_n, h_at, c_n, c_at = of_states
        grid = (-(-batch // plan.rows), -(-units // plan.threads))
        before = (h_n, h_at, outputs)
        for step in range(count):
            now = (target, target_at + step * target_step, target_row)
            made = (space.room("hidden", batch * units), 0, units) if config.proj_size else now
            launch("step", dtype, plan.rows, grid, plan.threads, 0, stream,
                   batch, units, outputs, gates, gates_at + step * gates_step, self.weights.flat, place.hh, *before,
                   c_n, c_at, *made)  # fmt: skip
            if config.proj_size:
                self._project("project_hidden", batch, batch, units, outputs, (made[0], 0, 0, units, 1), place.hr, 0,
                              (now[0], now[1], 0, target_row), stream)  # fmt: skip
            before = now
        self._settle(1, Strided(target, before[1], (1, batch, outputs), (0, target_row, 1)), h_n, h_at, stream)


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


def _shaped(flat, shape):
    return flat[: int(np.prod(shape))].reshape(shape)
