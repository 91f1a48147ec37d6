"""Runs an LSTM on the device: validates a call, copies between host and device, and has the layers launched."""

import threading
from collections import OrderedDict
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.config import Config
from numlstm.base.validation.arrays import device_shape, on_device, real_array
from numlstm.base.validation.out import NAMES, check_no_overlap, check_three, out_arrays
from numlstm.base.validation.packed import checked_lengths, checked_parts
from numlstm.base.validation.shapes import CallShapes, check_no_lengths, lstm_call, lstm_states, packed_call
from numlstm.sequences.packed_layout import gathered, places
from numlstm.sequences.packing import PackedSequence

from . import device
from .arrays import caller_stream, contiguous, of_kind, place, shaped, strided, whole
from .layers import Layers
from .rows import Rows
from .streams import chosen
from .weights import Weights
from .workspace import Workspace

WORKSPACES = 4  # most recently used ones that are kept for single steps, and as many for other calls


class Request(NamedTuple):
    """A validated call."""

    panels: Any
    config: Config
    call: CallShapes
    steps: int
    rows: Rows | None  # None for a dense call
    like: Any  # the caller's input
    x: Any  # an ndarray, or a `Strided` on the device
    hx: Any
    out: Any
    masks: Any
    stream: Any
    handle: int


class Runner:
    """The state of an LSTM on the device besides its parameters: packed weights and workspaces."""

    def __init__(self):
        self.dtype = None
        self.facts = device.facts()
        self.weights = None
        self.workspaces = OrderedDict()
        self.busy = threading.Lock()  # launches of two threads must not share a workspace
        self.holder = 0  # the thread that has the lock
        self.allocations = 0  # workspaces made so far

    def forward(self, panels, config, input, hx, lengths, out, masks):
        """``LSTM.forward``, with results of the kind that the input is.

        ``masks`` returns the dropout between layers, or is None. It is called after validation, when all memory has
        been allocated.
        """
        parts, name = None, "input"
        if hasattr(input, "batch_sizes"):
            check_no_lengths(lengths)
            parts, name = checked_parts(input, anywhere=True), "data"
            input = parts.data
        dtype = panels.dtype  # of this call: other threads, or code that reading arrays runs, may convert the LSTM
        there = on_device(input)
        handle = chosen()
        if handle is None:
            handle = caller_stream(input) if there else 0
        stream = device.stream_of(handle)
        x = strided(name, input, dtype, stream) if there else real_array(name, input)
        states, rows = _stand_ins(hx, there, dtype), None
        if parts is not None:
            rows = Rows(*parts[1:])
            steps = rows.steps
            call = packed_call(config, x.shape, rows.batch, states)
        else:
            call = lstm_call(config, x.shape, states)
            steps = x.shape[1] if call.swap else x.shape[0]
            if lengths is not None:
                each = checked_lengths(lengths, call, x.shape)
                if not each.all():
                    raise NotImplementedError(
                        "lengths of 0 are built for the CPU alone\nLeave out the sequences without steps."
                    )
                rows = Rows.of_lengths(each, steps) if call.batch else None
        if hx is not None:
            states = lstm_states(call, states, dtype)
        request = Request(
            panels, config, call, steps, rows, input, x, hx if there else states, out, masks, stream, handle
        )
        output, after = self._usable()._exclusive(there, request)
        if masks is not None and call.batch == 0 and lengths is None:
            masks()  # nothing is dropped, but the generator must advance as on the CPU
        return (output if parts is None else PackedSequence(output, *parts[1:])), after

    def _usable(self):
        """This runner; or another one for a call within a call, as by a signal handler, which would deadlock."""
        if self.holder != threading.get_ident():
            return self
        runner = Runner()
        runner.dtype, runner.weights = self.dtype, self.weights
        return runner

    def _exclusive(self, there, request):
        """Run a call while no other thread has the workspaces."""
        own, dtype = threading.get_ident(), request.panels.dtype
        with self.busy:
            self.holder = own  # no call in between, so that no signal handler finds the lock without its holder
            try:
                if self.dtype is None or dtype != self.dtype:  # None would compare as float64
                    self.dtype, self.weights = dtype, None
                    self.workspaces.clear()
                return self._on_device(request) if there else self._on_host(request)
            finally:
                self.holder = 0

    # ------------------------------------------------------------ arrays of the host

    def _on_host(self, request):
        call, out = request.call, request.out
        if out is None:
            returned = results = [np.empty(shape, self.dtype) for shape in (call.output, call.hidden, call.cell)]
        else:
            results, returned = out_arrays(out, call, self.dtype, request.x, request.hx), out
        if call.batch:
            self._compute_on_host(request, *results)
        return returned[0], (returned[1], returned[2])

    def _compute_on_host(self, request, output, *states):
        """Copy the input to the device, run the layers, and copy the results back."""
        config, call, stream = request.config, request.call, request.stream
        space, rows = self.workspace(request.steps, call.batch, request.rows, request.handle)
        shapes = (
            (rows.total, config.num_directions * config.output_size),
            *config.state_shapes(call.batch),
        )
        at = None
        if rows.padded:
            at = places(rows.sizes, rows.order, rows.padded, call.batch, call.swap)
            steps = gathered(request.x, at)
        else:
            steps = _steps_first(request.x, call)
        x = space.upload("x", steps, stream)
        hx = request.hx and [
            space.upload(name, np.reshape(state, shape), stream)
            for name, state, shape in zip(("h_0", "c_0"), request.hx, shapes[1:], strict=True)
        ]
        made, hosts = (
            [room(name, prod(shape)) for name, shape in zip(NAMES, shapes, strict=True)]
            for room in (space.room, space.host)
        )
        layers = self.layers(request.panels, config, space, rows, stream)
        layers.run(x, hx, whole(made[0], shapes[0]), *made[1:], request.masks)
        for there, here in zip(made, hosts, strict=True):
            there.copy_to_host(here, stream=stream)
        device.synchronize(stream)
        if at is None:
            target = _steps_first(output, call)
            np.copyto(target, hosts[0].reshape(target.shape))
        else:
            output[...] = 0  # the padding
            output.reshape(-1, shapes[0][1])[at] = hosts[0].reshape(shapes[0])
        for state, here in zip(states, hosts[1:], strict=True):
            np.copyto(state, here.reshape(state.shape))

    # ------------------------------------------------------------ arrays on the device

    def _on_device(self, request):
        call, stream = request.call, request.stream
        shapes = (call.output, call.hidden, call.cell)
        hx = request.hx and [
            strided(f"{'hc'[n]}_0", state, self.dtype, stream) for n, state in enumerate(request.hx[:2])
        ]
        if request.out is None:
            flats = [device.empty(max(1, prod(shape)), self.dtype, stream) for shape in shapes]
            returned = [of_kind(request.like, shaped(flat, shape)) for flat, shape in zip(flats, shapes, strict=True)]
        else:
            check_three(request.out)
            flats = [contiguous(*of, self.dtype, stream) for of in zip(NAMES, request.out, shapes, strict=True)]
            results = [place(whole(*of), self.dtype) for of in zip(flats, shapes, strict=True)]
            read = hx and tuple(place(state, self.dtype) for state in hx)
            check_no_overlap(results, place(request.x, self.dtype), read)
            returned = request.out
        if call.batch:
            self._compute_on_device(request, hx, *flats)
        return returned[0], (returned[1], returned[2])

    def _compute_on_device(self, request, hx, output, h_n, c_n):
        call = request.call
        space, rows = self.workspace(request.steps, call.batch, request.rows, request.handle)
        x, y = request.x, whole(output, call.output)
        if call.unbatched:
            x, y = x.expanded(1), y.expanded(1)
            hx = hx and [state.expanded(1) for state in hx]
        elif call.swap:
            x, y = x.reordered(1, 0, 2), y.reordered(1, 0, 2)
        layers = self.layers(request.panels, request.config, space, rows, request.stream)
        if not rows.padded:
            layers.run(x, hx, y, h_n, c_n, request.masks)
            return
        packed_x, packed_y = (
            whole(space.room(name, rows.total * array.shape[2]), (rows.total, array.shape[2]))
            for name, array in (("x", x), ("output", y))
        )
        layers.pad("pack", packed_x, x, rows.steps)
        layers.run(packed_x, hx, packed_y, h_n, c_n, request.masks)
        layers.pad("unpack", packed_y, y, rows.padded)

    # ------------------------------------------------------------ what calls share

    def layers(self, panels, config, space, rows, stream):
        """The layers for one call; the weights are packed if they have changed."""
        if self.weights is None or self.weights.panels is not panels:
            self.weights = Weights(panels)
        return Layers(config, self.weights, self.facts, space, rows, stream)

    def workspace(self, steps, batch, rows, handle):
        """The workspace and the rows of a dense call of these sizes, or of a call with several lengths."""
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


def _stand_ins(hx, there, dtype):
    """The states for validation: for each array on the device one of its shape that takes no memory."""
    if not isinstance(hx, tuple | list):
        return hx
    states = []
    for index, state in enumerate(hx):
        if on_device(state) != there:
            places = ("the device", "the CPU's memory") if there else ("the CPU's memory", "the device")
            raise RuntimeError(
                "Input and hidden tensors are not at the same device\n"
                f"input is in {places[0]} and hx[{index}] in {places[1]}; pass both in one place."
            )
        states.append(np.broadcast_to(np.zeros((), dtype), device_shape(state)) if there else state)
    return type(hx)(states)


def _steps_first(array, call):
    """A host array as (steps, rows, features)."""
    if call.unbatched:
        return array[:, None]
    return array.transpose(1, 0, 2) if call.swap else array
