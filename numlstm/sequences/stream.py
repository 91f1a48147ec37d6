"""Stream: an LSTM that keeps its state between calls, and steps without allocating anything."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from numlstm.base import checks
from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape, States
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import SELF_DATA, Header, StreamSlots
from numlstm.runtime import engine, object_layout
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import LINE, Panels, aligned_empty
from numlstm.runtime.planner import CACHE_L1, Plan, checked, make_plan

T = TypeVar("T")

LONGER = 16  # a chunk that runs step by step may have so many times the work of one that holds the GIL

BUSY = checks.STREAM_BUSY
_busy_text = ctypes.create_string_buffer(BUSY.encode())  # where machine code finds it


class _Slots(np.ndarray[Any, Any]):
    """The stream's record, which built-in functions are bound to: it keeps what its addresses point to."""

    held: Any

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(checks.STREAM_PICKLED)


_Slots.__name__ = _Slots.__qualname__ = "Stream"  # what Python's messages call the owner of ``step``


class Stream:
    """A sequence that goes on from call to call: the state is kept here. `LSTM.stream` makes one.

    The steps of a stream have the bits of one forward call over all of them, however they are cut. It
    runs as in eval mode: without dropout, whatever the LSTM's mode. The weights are those that the LSTM had
    when the stream was made, until `refresh`.

    Attributes
    ----------
    batch_size : int
        Sequences that go on side by side: the rows of a step.
    dtype : dtype
        Of states and results.
    input : ndarray, (batch_size, input_size)
        What `step` reads; to be written in place, ``stream.input[:] = x``. It cannot be replaced.
    output : ndarray, (batch_size, proj_size or hidden_size)
        What `step` has written. The next step overwrites it.
    step : callable
        ``step()`` runs one step from `input` to `output`. It takes no lock and allocates nothing; with more
        than some ten microseconds of work it lets other threads of Python run meanwhile.
    address : int
        What the C function of `step_function` takes, valid as long as the stream lives.

    Notes
    -----
    A stream has one user at a time: whoever finds another thread in it gets a RuntimeError and has changed
    nothing. In a child of ``os.fork`` a stream that was in use at that moment stays so, for its step never ends there.

    Streams are not pickled; `snapshot` gives what can be. A copy is what `fork` gives.

    Examples
    --------
    >>> import numpy as np
    >>> import numlstm
    >>> lstm = numlstm.LSTM(2, 3, seed=0).eval()
    >>> x = np.arange(10, dtype=np.float32).reshape(5, 2)
    >>> whole, _ = lstm(x)
    >>> stream = lstm.stream()
    >>> pieces = [stream(x[0]), *stream(x[1:4])]
    >>> stream.input[:] = x[4]
    >>> stream.step()
    >>> pieces += [stream.output[0]]
    >>> bool((np.stack(pieces) == whole).all())
    True
    """

    __slots__ = (
        "__weakref__",
        "_both",
        "_c",
        "_call",
        "_config",
        "_exchange",
        "_h",
        "_panels",
        "_present",
        "_record",
        "address",
        "batch_size",
        "input",
        "output",
        "step",
    )

    input: Array
    output: Array
    step: Callable[[], None]
    _record: _Slots

    def __init__(self, config: Config, panels: Panels, batch_size: int, present: Callable[[], Panels]) -> None:
        rows = checks.stream_sizes(config, batch_size)
        self._config, self._panels, self._present = config, panels, present
        self.batch_size = rows
        try:
            self._lay_out()
        except (MemoryError, OverflowError, ValueError) as error:  # NumPy's words for what is too large
            raise checks.no_room(rows, error) from None

    if not TYPE_CHECKING:  # a type checker that saw this would take any name

        def __setattr__(self, name: str, value: Any) -> None:
            checks.once(self, name)
            object.__setattr__(self, name, value)

    def _lay_out(self) -> None:
        """Take one piece of memory for all that a step touches but the weights, and fill in the slots."""
        config, panels, dtype = self._config, self._panels, self._panels.dtype
        rows, size = self.batch_size, self._panels.dtype.itemsize
        inputs, outputs, units, layers = config.input_size, config.output_size, config.hidden_size, config.num_layers
        read, written = ((rows * features * size, features * size, size) for features in (inputs, outputs))
        plan = make_plan(panels, (1, rows, inputs), read, written)
        plan = checked(plan, dtype, self._shapes(inputs))
        head = int(StreamSlots.LENGTH) + plan.slots.size
        h_room = -(-layers * rows * outputs * size // LINE) * LINE // size  # so that c begins on a line
        counts = {
            "below": plan.below,
            "gates": plan.gates,
            "hidden": plan.hidden,
            "both": h_room + layers * rows * units,
            "input": rows * inputs,
            "output": rows * outputs,
        }
        begin = {"": 0}
        end = -(-head * 8 // LINE) * LINE
        for name, count in counts.items():
            begin[name] = end
            end += -(-count * size // LINE) * LINE
        memory = aligned_empty(end // 8, np.dtype(np.int64))
        memory[:] = 0
        numbers = memory.view(np.uint8)

        def part(name: str) -> Array:
            return numbers[begin[name] : begin[name] + counts[name] * size].view(dtype)

        self._both = part("both")
        self._h = self._both[: layers * rows * outputs].reshape(layers, rows, outputs)
        self._c = self._both[h_room:].reshape(layers, rows, units)
        self.input, self.output = part("input").reshape(rows, inputs), part("output").reshape(rows, outputs)
        slots = memory.view(_Slots)
        slots[StreamSlots.INPUT], slots[StreamSlots.OUTPUT] = address(self.input), address(self.output)
        slots[StreamSlots.LENGTH : head] = plan.slots
        header = slots[StreamSlots.LENGTH : head]
        for slot, value in {
            Header.INPUT: address(self.input),
            Header.OUTPUT: address(self.output),
            Header.H_0: address(self._h),
            Header.H_N: address(self._h),
            Header.C_0: address(self._c),
            Header.C_N: address(self._c),
            Header.PANELS: address(panels.data),
            Header.BELOW: address(part("below")),
            Header.GATES: address(part("gates")),
            Header.HIDDEN: address(part("hidden")),
        }.items():
            header[slot] = value
        self._record, self.address = slots, address(slots)
        self._record.held = panels
        self._bind(plan)

    def _shapes(self, features: int) -> tuple[Shape, ...]:
        """Shapes that machine code takes, by the number of axes: 0 stands for any number of steps, () for none.

        There the steps follow each other in memory.
        """
        rows, batch_first = self.batch_size, self._config.batch_first
        if rows == 1:
            return (features,), (0, features), (1, 0, features) if batch_first else (0, 1, features)
        return (), (rows, features), (rows, 1, features) if batch_first else (0, rows, features)

    def _bind(self, plan: Plan) -> None:
        """Make ``step``, and what a call tries first."""
        slots, kernel, config = self._record, registry.kernel(self.dtype.name), self._config
        self._exchange = kernel.exchange
        work = self.batch_size * (self._panels.data.size + engine.STEP_WORK * config.num_layers)
        if object_layout.functions is None or object_layout.DATA != SELF_DATA:
            self.step, self._call = _by_ctypes(kernel.step, slots, self.address), _nothing
            return
        new_array, _, keep, drop = object_layout.functions
        held = max(0, engine.FAST_PATH_WORK // work)
        for slot, value in {
            StreamSlots.NONE: id(None),
            StreamSlots.NEW_ARRAY: new_array,
            StreamSlots.KEEP: keep,
            StreamSlots.DROP: drop,
            StreamSlots.RAISE: _function("PyErr_SetString"),
            StreamSlots.ERROR: id(RuntimeError),
            StreamSlots.TEXT: ctypes.addressof(_busy_text),
            StreamSlots.INPUT_STEP: self.input.nbytes,
            StreamSlots.OUTPUT_STEP: self.output.nbytes,
            StreamSlots.OUTPUTS: config.output_size,
            StreamSlots.SAVE: _function("PyEval_SaveThread"),
            StreamSlots.RESTORE: _function("PyEval_RestoreThread"),
            StreamSlots.HELD_STEPS: held,
            # Step after step through all layers is as good as layer after layer where the first cache holds them all.
            StreamSlots.MOST_STEPS: max(1, held * (LONGER if self._panels.data.nbytes <= CACHE_L1 else 1)),
        }.items():
            slots[slot] = value
        self.step = kernel.stream_step(slots)
        # where threads may share the work of a single step, the engine has it
        self._call = _nothing if plan.long else kernel.stream_call(slots)

    def __call__(self, input: np.typing.ArrayLike) -> Array:
        """Run the steps that come next.

        Parameters
        ----------
        input : array_like
            One step of shape (batch_size, input_size), or a chunk of shape (steps, batch_size, input_size), in the
            order of the LSTM's ``batch_first`` when the stream was made. A stream of one row also takes both without
            the batch: (input_size,) and (steps, input_size), of which (1, input_size) is a step either way.
            Any real dtype, byte order and strides; never written to.

        Returns
        -------
        ndarray
            h of the last layer at every step, shaped as the input with proj_size or hidden_size features in place of
            its own; of the LSTM's dtype, and sharing memory with nothing.

        Raises
        ------
        ValueError
            The input has the wrong number of axes.
        RuntimeError
            Its sizes do not fit, or another thread is in the stream.
        TypeError
            It does not hold real numbers.

            After any error the state is unchanged.
        """
        output: Array | None = self._call(input)
        return self._piece(input) if output is None else output

    def _piece(self, input: Any) -> Array:
        """A call with an input that must be looked at first."""
        array = checks.own_shape(checks.stream_input(input))
        piece = checks.stream_piece(self._config, self.batch_size, array.shape)
        dtype = self.dtype
        if piece.steps == 1:
            converted = np.empty(array.shape, dtype)
            engine.convert(converted, array)
            done: Array | None = self._call(converted)
            if done is not None:
                return done
        x = array[piece.place]
        output = np.empty(piece.output, dtype)
        y = output[piece.place]
        if piece.swap:
            x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)

        def run() -> None:
            # into other memory: the state changes at once when all is done, and a worker that an interruption has
            # left behind writes to no stream
            both, h_n, c_n = self._room()
            engine.forward(self._panels, x, (self._h, self._c), y, h_n, c_n)
            np.copyto(self._both, both)

        self._alone(run)
        return output

    def _room(self) -> tuple[Array, Array, Array]:
        """Memory for another state: all of it, and h and c in it, whose numbers are not set."""
        both = np.empty(self._both.size, self.dtype)
        h = both[: self._h.size].reshape(self._h.shape)
        return both, h, both[both.size - self._c.size :].reshape(self._c.shape)

    def _alone(self, work: Callable[[], T]) -> T:
        """Do something while nobody else is in the stream."""
        exchange, flag, mark = self._exchange, self.address, object()
        own = id(mark)
        try:
            # Interrupted anywhere, what follows puts back the flag if it is this call's, and else leaves it. Python
            # looks for signals after each call, so that nothing may be called before it.
            if exchange(flag, 0, own) != 0:
                raise RuntimeError(BUSY)
            return work()
        finally:
            exchange(flag, own, 0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of states and results: float32 or float64."""
        return self._panels.dtype

    # ------------------------------------------------------------ the state

    @property
    def state(self) -> States:
        """Copies of h and c, as `LSTM.forward` returns them: (num_layers, batch_size, features) each.

        Assign a pair of real arrays of these shapes, as for ``hx``, to go on from there; of a stream of one row, the
        batch may be left out.
        """
        return self._alone(lambda: (self._h.copy(), self._c.copy()))

    @state.setter
    def state(self, states: Any) -> None:
        self._set(*checks.stream_states(self._config, self.batch_size, states, self.dtype))

    def _set(self, h: Array, c: Array) -> None:
        both, new_h, new_c = self._room()
        engine.convert(new_h, h)
        engine.convert(new_c, c)
        self._alone(lambda: np.copyto(self._both, both))

    def reset(self, rows: Any = None) -> None:
        """Set the state to zeros.

        Parameters
        ----------
        rows : int, slice, sequence of int or of bool, optional
            Which rows of the batch; all if left out.

        Raises
        ------
        IndexError
            There is no such row. Nothing was reset.
        RuntimeError
            Another thread is in the stream.
        """
        if rows is None:
            self._alone(lambda: self._both.fill(0))
            return
        picked = checks.stream_rows(rows, self.batch_size)

        def clear() -> None:
            both, h, c = self._room()
            np.copyto(both, self._both)
            h[:, picked] = c[:, picked] = 0
            np.copyto(self._both, both)

        self._alone(clear)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain values: to be pickled, saved by `numpy.savez`, or taken to another machine.

        Returns
        -------
        dict
            ``input_size``, ``hidden_size``, ``num_layers``, ``proj_size``, ``batch_size``, ``dtype`` (its name), and
            copies of ``h`` and ``c``. Weights are not in it.

        Raises
        ------
        RuntimeError
            Another thread is in the stream.
        """
        h, c = self.state
        return checks.snapshot_facts(self._config, self.batch_size, self.dtype) | {"h": h, "c": c}

    def restore(self, snapshot: Any) -> None:
        """Go on from a snapshot, with this stream's weights.

        Parameters
        ----------
        snapshot : mapping
            From a stream of the same sizes and dtype. All of it is checked before anything changes.

        Raises
        ------
        TypeError
            It is no mapping, or a state in it does not hold real numbers.
        ValueError
            Something in it is missing or does not fit.
        RuntimeError
            Another thread is in the stream.
        """
        self._set(*checks.snapshot_states(self._config, self.batch_size, self.dtype, snapshot))

    def fork(self) -> Stream:
        """Return an independent stream with the same weights, the same state and the same buffers' content.

        Raises
        ------
        RuntimeError
            Another thread is in the stream.
        """

        def copied() -> Stream:
            twin = Stream(self._config, self._panels, self.batch_size, self._present)
            twin._both[:], twin.input[:], twin.output[:] = self._both, self.input, self.output
            return twin

        return self._alone(copied)

    def refresh(self) -> None:
        """Go on with the weights that the LSTM has now.

        Raises
        ------
        RuntimeError
            The LSTM has another dtype by now, or another thread is in the stream. Nothing was changed.
        """
        panels = self._present()
        checks.same_dtype(panels.dtype, "stream", self.dtype)
        slot, at = int(StreamSlots.LENGTH) + int(Header.PANELS), address(panels.data)

        def adopt() -> None:
            record = self._record
            record.held = record.held, panels  # an interruption in between leaves nothing dangling
            record[slot] = at
            self._panels = panels
            record.held = panels

        self._alone(adopt)

    # ------------------------------------------------------------ text, copies, pickles

    def __repr__(self) -> str:
        return checks.sizes_text("Stream", self._config, batch_size=self.batch_size)

    def __copy__(self) -> Stream:
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> Stream:
        return self.fork()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(checks.STREAM_PICKLED)


def step_function(dtype: Any = None) -> Callable[[int], int]:
    """Return the C function that runs a step of a stream: ``int64_t step(int64_t stream)``.

    It takes `Stream.address` and does what `Stream.step` does, from `Stream.input` to `Stream.output`; the result is 0,
    or 1 where another thread is in the stream, and then nothing was done. It may be called from functions that Numba
    compiles (with ``nogil=True`` or without), through ctypes, which lets other threads of Python run meanwhile,
    and from any other language by its address, ``ctypes.cast(step, ctypes.c_void_p).value``.

    Parameters
    ----------
    dtype : dtype, optional
        That of the stream: float32 (the default) or float64.

    Returns
    -------
    ctypes function

    Raises
    ------
    TypeError
        Another dtype.

    Examples
    --------
    >>> import numpy as np
    >>> import numlstm
    >>> stream = numlstm.LSTM(2, 3, seed=0).stream()
    >>> step = numlstm.step_function(stream.dtype)
    >>> stream.input[:] = 1
    >>> step(stream.address)
    0
    >>> bool((stream.output == numlstm.LSTM(2, 3, seed=0)(np.ones((1, 2)))[0]).all())
    True
    """
    return registry.kernel(checks.parameter_dtype(dtype).name).step


@cache  # ctypes.cast leaves a cycle behind, for the collector
def _function(name: str) -> int:
    """The address of a function of Python's."""
    return int(ctypes.cast(ctypes.pythonapi[name], ctypes.c_void_p).value or 0)


def _by_ctypes(run: Callable[[int], int], slots: _Slots, at: int) -> Callable[[], None]:
    """``step`` where no machine code may be called as a built-in function."""

    def step() -> None:
        if run(at):
            raise RuntimeError(BUSY)

    step.__qualname__ = "Stream.step"
    step.__dict__["record"] = slots  # which it keeps
    return step


def _nothing(_: Any) -> None:
    """What stands for a built-in function that has nothing to give."""
