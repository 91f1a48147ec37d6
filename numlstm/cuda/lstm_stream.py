"""A stream on the device: its state stays there, and a step consists only of launches.

h and c are double-buffered: a step or chunk reads one pair and writes the other, and the pairs are swapped after the
last launch. An error before that leaves the state unchanged.
"""

from math import prod

import numpy as np

from numlstm.base.validation.arrays import on_device, own_shape, to_host
from numlstm.base.validation.sessions import (
    BUSY,
    PICKLED,
    check_not_replaced,
    check_same_dtype,
    sizes_text,
    stream_batch_size,
    stream_input,
    stream_memory_error,
    stream_piece,
    stream_rows,
)
from numlstm.sequences.state import Stateful

from . import device
from .arrays import caller_stream, of_kind, shaped, strided, whole
from .runner import Runner
from .streams import chosen
from .weights import Weights


class Stream(Stateful):
    """The `numlstm.Stream` of an LSTM on CUDA; ``LSTM.stream`` makes it there. The bits are the CPU's.

    Attributes
    ----------
    batch_size : int
        Sequences that advance together: the rows of a step.
    dtype : dtype
        Of states and results.
    device : str
        "cuda".
    input, output : device array of Numba, (batch_size, input_size) and (batch_size, proj_size or hidden_size)
        What `step` reads and writes, on the device.

    Notes
    -----
    One thread at a time: a second one gets a RuntimeError and changes nothing. Work runs on the CUDA stream of
    ``numlstm.cuda.streams.use``, else on that of the input's library, else on the default stream. The caller must order
    calls that run on different CUDA streams.
    """

    __slots__ = (
        "__weakref__",
        "_config",
        "_flat",
        "_pairs",
        "_panels",
        "_present",
        "_runner",
        "_shapes",
        "_stream",
        "_user",
        "batch_size",
        "input",
        "output",
    )
    device = "cuda"

    def __init__(self, config, panels, batch_size, present, weights=None):
        rows = self.batch_size = stream_batch_size(config, batch_size)
        self._config, self._panels, self._present = config, panels, present
        self._user = {}  # whoever is in the stream, under 0
        self._stream = 0  # of CUDA, that of the latest piece
        self._runner = Runner()
        self._runner.dtype = panels.dtype
        if weights is not None and weights.panels is panels:  # those of the LSTM are never changed, only replaced
            self._runner.weights = weights
        self._shapes = config.state_shapes(rows)
        shapes = (rows, config.input_size), (rows, config.output_size)
        try:
            self._pairs = tuple([self._zeros(shape) for shape in self._shapes] for _ in range(2))  # in use, and spare
            self._flat = [self._zeros(shape) for shape in shapes]
        except Exception as error:
            if not device.lacks_memory(error):
                raise
            raise stream_memory_error(rows, error) from None
        self.input, self.output = (shaped(flat, shape) for flat, shape in zip(self._flat, shapes, strict=True))
        device.synchronize(0)  # before another stream of CUDA touches them

    def __setattr__(self, name, value):
        check_not_replaced(self, name)
        object.__setattr__(self, name, value)

    def _zeros(self, shape):
        return device.upload(np.zeros(prod(shape), self.dtype))

    @property
    def dtype(self):
        """The dtype of states and results: float32 or float64."""
        return self._panels.dtype

    @property
    def address(self):
        """Raises RuntimeError: there is none."""
        raise RuntimeError(
            "a stream on CUDA has no address for step_function: its steps are launches\n"
            "Call step(), or make a stream of the LSTM on the CPU: to('cpu')."
        )

    # ------------------------------------------------------------ steps

    def step(self):
        """Run one step from `input` to `output`. It only launches: it does not wait, and allocates nothing.

        Raises
        ------
        RuntimeError
            Another thread is in the stream.
        """
        config, rows = self._config, self.batch_size
        x, y = (
            whole(flat, (1, rows, size))
            for flat, size in zip(self._flat, (config.input_size, config.output_size), strict=True)
        )
        self._alone(lambda: self._advance(x, y, chosen() or 0))

    def __call__(self, input):
        """Run the next steps.

        Parameters
        ----------
        input : array_like or device array
            Shaped as for ``numlstm.Stream``: a step, or a chunk of steps.

        Returns
        -------
        ndarray or device array
            h of the last layer at every step: NumPy's, and then the call waits for it, or on the device and of the kind
            that came in.

        Raises
        ------
        ValueError, RuntimeError, TypeError
            As ``numlstm.Stream``; TypeError also for an array on the device of another dtype. After any error the state
            is unchanged.
        """
        return self._alone(lambda: (self._on_device if on_device(input) else self._on_host)(input))

    def _on_host(self, input):
        array = own_shape(stream_input(input))
        piece = stream_piece(self._config, self.batch_size, array.shape)
        output = np.empty(piece.output, self.dtype)
        x, y = array[piece.place], output[piece.place]
        if piece.swap:
            x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
        handle = chosen() or 0
        stream = device.stream_of(handle)
        space, _ = self._workspace(piece.steps)
        there, here = space.room("output", y.size), space.host("output", y.size)

        def fetch():
            there.copy_to_host(here, stream=stream)
            device.synchronize(stream)

        self._advance(space.upload("x", x, stream), whole(there, y.shape), handle, fetch)
        np.copyto(y, here.reshape(y.shape))
        return output

    def _on_device(self, input):
        handle = chosen()
        handle = caller_stream(input) if handle is None else handle
        given = strided("input", input, self.dtype, device.stream_of(handle))
        piece = stream_piece(self._config, self.batch_size, given.shape)
        flat = device.empty(int(np.prod(piece.output)), self.dtype)
        x, y = (self._steps_first(array, piece.swap) for array in (given, whole(flat, piece.output)))
        self._advance(x, y, handle)
        return of_kind(input, shaped(flat, piece.output))

    def _steps_first(self, array, swap):
        """A `Strided` as (steps, batch, features)."""
        if len(array.shape) == 3:
            return array.reordered(1, 0, 2) if swap else array
        if len(array.shape) == 2:
            return array.expanded(1 if self.batch_size == 1 else 0)
        return array.expanded(0).expanded(0)

    def _advance(self, x, y, handle, after=lambda: None):
        """Launch the steps of ``x``; the new state takes effect if ``after`` succeeds as well."""
        runner, ((h, c), spare) = self._runner, self._pairs
        space, rows = self._workspace(x.shape[0])
        states = [whole(flat, shape) for flat, shape in zip((h, c), self._shapes, strict=True)]
        self._stream = device.stream_of(handle)
        runner.layers(self._panels, self._config, space, rows, self._stream).run(x, states, y, *spare, None)
        after()
        self._turn()

    def _workspace(self, steps):
        """The workspace of a chunk, and its rows. That of single steps is kept, whatever lengths chunks have."""
        # the same on every stream of CUDA, since pieces follow each other all the same
        return self._runner.workspace(steps, self.batch_size, None, 0)

    def _turn(self):
        self._pairs = self._pairs[::-1]  # one store: whatever interrupts finds the old state or the new one

    def _alone(self, work):
        """Do work while no other thread is in the stream."""
        user, mark = self._user, object()
        try:
            # Interrupted anywhere, what follows takes away the mark if it is this call's, and else leaves it. Python
            # looks for signals after each call, so that nothing may be called there before it is away.
            if user.setdefault(0, mark) is not mark:
                raise RuntimeError(BUSY)
            return work()
        finally:
            try:
                if user[0] is mark:
                    del user[0]
            except KeyError:  # interrupted before the mark was set
                pass

    # ------------------------------------------------------------ the state

    @Stateful.state.setter  # type: ignore[attr-defined]  # mypy takes a property of the base for its overloads
    def state(self, states):
        """As of ``numlstm.Stream``. Reading waits for the device; assign a pair on the host or on the device."""
        if isinstance(states, tuple | list):
            states = tuple(to_host(f"{'hc'[n % 2]} of the state", state) for n, state in enumerate(states))
        Stateful.state.fset(self, states)

    def _facts(self):
        return self._config, self.batch_size, self.dtype

    def _get(self):
        return self._alone(self._read)

    def _read(self):
        hosts = [flat.copy_to_host(stream=self._stream) for flat in self._pairs[0]]
        device.synchronize(self._stream)
        return tuple(host.reshape(shape) for host, shape in zip(hosts, self._shapes, strict=True))

    def _set(self, *states):
        with np.errstate(over="ignore", invalid="ignore"):
            flats = [np.ascontiguousarray(state, self.dtype).reshape(-1) for state in states]
        self._alone(lambda: self._write(flats))

    def _write(self, flats):
        for target, flat in zip(self._pairs[1], flats, strict=True):
            target.copy_to_device(flat, stream=self._stream)
        device.synchronize(self._stream)  # the arrays are the caller's again
        self._turn()

    def reset(self, rows=None):
        """Set the state to zeros, of all rows or some, as ``numlstm.Stream.reset`` does. It waits for the device."""
        picked = slice(None) if rows is None else stream_rows(rows, self.batch_size)

        def clear():
            states = self._read()
            for state in states:
                state[:, picked] = 0
            self._write([state.reshape(-1) for state in states])

        self._alone(clear)

    def fork(self):
        """An independent stream with the same weights, state and buffer contents."""

        def copied():
            twin = Stream(self._config, self._panels, self.batch_size, self._present, self._runner.weights)
            for target, source in zip((*twin._pairs[0], *twin._flat), (*self._pairs[0], *self._flat), strict=True):
                target.copy_to_device(source, stream=self._stream)
            device.synchronize(self._stream)
            return twin

        return self._alone(copied)

    def refresh(self):
        """Take over the LSTM's current weights; RuntimeError if its dtype has changed."""
        panels = self._present()
        check_same_dtype(panels.dtype, "stream", self.dtype)

        def adopt():
            if self._runner.weights is None or self._runner.weights.panels is not panels:
                self._runner.weights = Weights(panels)
            self._panels = panels

        self._alone(adopt)

    # ------------------------------------------------------------ text, copies, pickles

    def __repr__(self):
        return sizes_text("Stream", self._config, batch_size=self.batch_size, device="cuda")

    def __copy__(self):
        return self.fork()

    def __deepcopy__(self, memo):
        return self.fork()

    def __reduce_ex__(self, protocol):
        raise TypeError(PICKLED)
