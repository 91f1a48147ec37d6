"""Stream: an LSTM that keeps its state between calls. A step allocates nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape, States
from numlstm.base.validation.arguments import parameter_dtype, weights_kind
from numlstm.base.validation.arrays import own_shape
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
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import LINE, Header, StreamSlots, kernel_tag
from numlstm.kernels.plan_rules import CACHE_L1
from numlstm.runtime import fast_call, object_layout
from numlstm.runtime.call import Call
from numlstm.runtime.conversion import convert
from numlstm.runtime.executor import STEP_WORK, Executor
from numlstm.runtime.head import Head, chain
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels, aligned_record
from numlstm.runtime.planner import Plan, make_plan, with_array_specs
from numlstm.sequences.state import Stateful

T = TypeVar("T")

# A chunk that runs step by step may have this many times the work of a chunk that holds the GIL.
STEPWISE_FACTOR = 16

_busy_text = ctypes.create_string_buffer(BUSY.encode())  # read by machine code


class _Record(np.ndarray[Any, Any]):
    """The slots that the built-in functions of a stream are bound to. It keeps alive what its addresses point to."""

    keepalive: Any

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(PICKLED)


_Record.__name__ = _Record.__qualname__ = "Stream"  # Python's messages name the owner of ``step`` by it


class Stream(Stateful):
    """A sequence that continues from call to call: the state is kept here. `LSTM.stream` makes one.

    The steps of a stream have the bits of one forward call over all of them, however they are cut. A stream runs as in
    eval mode: without dropout, whatever the LSTM's mode. It keeps the weights that the LSTM had when the stream was
    made, until `refresh`.

    Attributes
    ----------
    batch_size : int
        Sequences that advance side by side: the rows of a step.
    dtype : dtype
        Of states and results.
    input : ndarray, (batch_size, input_size)
        What `step` reads. Write into it, ``stream.input[:] = x``; it cannot be replaced.
    output : ndarray, (batch_size, proj_size or hidden_size)
        What `step` wrote. The next step overwrites it. A stream of a model with a head has the head's features.
    step : callable
        ``step()`` runs one step from `input` to `output`. It takes no lock and allocates nothing. If it has more than
        about ten microseconds of work, it lets other threads of Python run meanwhile.
    address : int
        The argument of the C function of `step_function`, valid as long as the stream lives.

    Notes
    -----
    A stream has one user at a time. If another thread is using it, a call raises a RuntimeError and changes nothing.
    In a child of ``os.fork``, a stream that another thread was using at that moment stays in use: its step never ends
    there.

    Streams cannot be pickled; snapshots can. Copying a stream is `fork`.

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
        "_c",
        "_call",
        "_config",
        "_current_heads",
        "_current_panels",
        "_exchange",
        "_executor",
        "_h",
        "_heads",
        "_panels",
        "_record",
        "_states",
        "address",
        "batch_size",
        "input",
        "output",
        "step",
    )

    input: Array
    output: Array
    step: Callable[[], None]
    _record: _Record

    def __init__(
        self,
        config: Config,
        panels: Panels,
        batch_size: int,
        present: Callable[[], Panels],
        executor: Executor,
        present_heads: Callable[[], Sequence[Head]] = tuple,
    ) -> None:
        rows = stream_batch_size(config, batch_size)
        self._current_heads, self._heads = present_heads, tuple(present_heads())
        self._config, self._panels, self._current_panels, self._executor = config, panels, present, executor
        self.batch_size = rows
        try:
            plan = self._plan()
            self._allocate(plan)
        except (MemoryError, OverflowError, ValueError) as error:  # the last two: larger than any array may be
            raise stream_memory_error(rows, error) from None
        self._bind(plan)

    if not TYPE_CHECKING:  # a type checker that saw this would accept any name

        def __setattr__(self, name: str, value: object) -> None:
            check_not_replaced(self, name)
            object.__setattr__(self, name, value)

    def _plan(self) -> Plan:
        """The plan of one step, for a kernel that checks the input itself."""
        config, rows, dtype = self._config, self.batch_size, self._panels.dtype
        read, written = (
            (rows * features * dtype.itemsize, features * dtype.itemsize, dtype.itemsize)
            for features in (config.input_size, config.output_size)
        )
        plan = make_plan(self._panels, (1, rows, config.input_size), read, written)
        return with_array_specs(plan, dtype, self._shapes(config.input_size))

    def _shapes(self, features: int) -> tuple[Shape, ...]:
        """Input shapes that the kernel accepts, by number of axes: 0 stands for any number of steps, () for none.

        Only steps that follow each other in memory.
        """
        rows, batch_first = self.batch_size, self._config.batch_first
        if rows == 1:
            return (features,), (0, features), (1, 0, features) if batch_first else (0, 1, features)
        return (), (rows, features), (rows, 1, features) if batch_first else (0, rows, features)

    def _allocate(self, plan: Plan) -> None:
        """Allocate slots, states and buffers in one piece of memory, and point the slots at them."""
        config, panels, rows = self._config, self._panels, self.batch_size
        h_count, c_count = map(prod, config.state_shapes(rows))
        of_line = LINE // panels.dtype.itemsize
        head = int(StreamSlots.LENGTH) + plan.slots.size
        slots, buffers = aligned_record(
            head,
            panels.dtype,
            below=plan.below,
            gates=plan.gates,
            hidden=plan.hidden,
            rounded=plan.rounded,
            states=-(-h_count // of_line) * of_line + c_count,  # so that c begins on a line
            input=rows * config.input_size,
            output=rows * self._features,
            h_of_heads=rows * config.output_size if self._heads else 0,
        )
        self._states = buffers["states"]
        self._h, self._c = self._views(self._states)
        self.input, self.output = buffers["input"].reshape(rows, -1), buffers["output"].reshape(rows, -1)
        slots[StreamSlots.INPUT], slots[StreamSlots.OUTPUT] = address(self.input), address(self.output)
        header = slots[StreamSlots.LENGTH :]
        header[:] = plan.slots
        for slot, array in {
            Header.INPUT: self.input,
            Header.OUTPUT: buffers["h_of_heads"] if self._heads else self.output,
            Header.H_0: self._h,
            Header.H_N: self._h,
            Header.C_0: self._c,
            Header.C_N: self._c,
            Header.PANELS: panels.data,
            Header.BELOW: buffers["below"],
            Header.GATES: buffers["gates"],
            Header.HIDDEN: buffers["hidden"],
            Header.ROUNDED: buffers["rounded"],
        }.items():
            header[slot] = address(array)
        self._record, self.address = slots.view(_Record), address(slots)
        self._record[StreamSlots.HEAD], followed = self._chained(self._heads)
        self._record.keepalive = panels, *followed

    @property
    def _features(self) -> int:
        """Features of an output: of the last head that changes them, or of h."""
        return next((head.outputs for head in self._heads[::-1] if head.outputs), self._config.output_size)

    def _chained(self, heads: Sequence[Head]) -> tuple[int, list[object]]:
        """The address of the record of heads that follow each step, or 0; and what must be kept alive for it."""
        if not heads:
            return 0, []
        first, alive = chain(heads, self._config.output_size, self._config.input_size, self.batch_size)
        return address(first), alive

    def _views(self, states: Array) -> States:
        """h and c in an array that holds both."""
        h, c = self._config.state_shapes(self.batch_size)
        return states[: prod(h)].reshape(h), states[states.size - prod(c) :].reshape(c)

    def _bind(self, plan: Plan) -> None:
        """Make ``step``, and the built-in function that a call tries first."""
        slots, config = self._record, self._config
        number, options = config.number(self.dtype), config.cell_options
        kernel, slots[StreamSlots.KERNEL] = registry.kernel(number, options), kernel_tag(config.kernel(self.dtype))
        self._exchange = kernel.exchange
        functions = object_layout.functions
        if functions is None:
            self.step, self._call = _step_by_ctypes(kernel.step, slots, self.address), _declines
            return
        weights = self._panels.data.size + sum(head.panels.size for head in self._heads)
        work = self.batch_size * (weights + STEP_WORK * config.num_layers)
        held_steps = max(0, fast_call.GIL_WORK // work)
        for slot, value in {
            StreamSlots.NEW_ARRAY: functions.new_array,
            StreamSlots.INCREF: functions.incref,
            StreamSlots.DECREF: functions.decref,
            StreamSlots.RAISE: functions.set_error,
            StreamSlots.ERROR: id(RuntimeError),
            StreamSlots.TEXT: ctypes.addressof(_busy_text),
            StreamSlots.INPUT_STEP: self.input.nbytes,
            StreamSlots.OUTPUT_STEP: self.output.nbytes,
            StreamSlots.OUTPUTS: self._features,
            StreamSlots.SAVE_THREAD: functions.save_thread,
            StreamSlots.RESTORE_THREAD: functions.restore_thread,
            StreamSlots.HELD_STEPS: held_steps,
            # Step after step through all layers is as fast as layer after layer if the panels fit the L1 cache.
            StreamSlots.MOST_STEPS: max(
                1, held_steps * (STEPWISE_FACTOR if self._panels.data.nbytes <= CACHE_L1 else 1)
            ),
        }.items():
            slots[slot] = value
        self.step = kernel.stream_step(slots)
        # if threads may share a single step, the executor runs it
        self._call = _declines if plan.long else kernel.stream_call(slots)

    def __call__(self, input: np.typing.ArrayLike) -> Array:
        """Run the next steps.

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
            its own. It has the LSTM's dtype and shares memory with nothing.

        Raises
        ------
        ValueError
            The input has the wrong number of axes.
        RuntimeError
            Its sizes do not fit, or another thread is using the stream.
        TypeError
            It does not hold real numbers.

            After any error the state is unchanged.
        """
        output: Array | None = self._call(input)
        return self._general_call(input) if output is None else output

    def _general_call(self, input: object) -> Array:
        """A call with an input that the built-in function declined."""
        array = own_shape(stream_input(input))
        piece = stream_piece(self._config, self.batch_size, array.shape)
        if piece.steps == 1:
            converted = np.empty(array.shape, self.dtype)
            convert(converted, array)
            done: Array | None = self._call(converted)
            if done is not None:
                return done
        x = array[piece.place]
        output = np.empty(piece.output, self.dtype)
        y = output[piece.place]
        if piece.swap:
            x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)

        def run(states: Array, h: Array, c: Array) -> None:
            self._executor.run(Call(self._panels, x, self._h, self._c, y, h, c))

        self._replace(run)
        if self._heads:
            given = np.empty(array.shape, self.dtype)
            convert(given, array)
            for head in self._heads:
                output = head(output, given)
        return output

    def _replace(self, write: Callable[[Array, Array, Array], None]) -> None:
        """Let ``write(states, h, c)`` fill new states in memory of their own, h and c being views; then adopt them.

        So an error or an interruption leaves the old states, and a worker that an interruption left behind writes to
        no stream.
        """
        states = np.empty_like(self._states)

        def work() -> None:
            write(states, *self._views(states))
            self._record[StreamSlots.LENGTH + Header.H_0] = address(self._h)  # the next step reads them as new ones
            np.copyto(self._states, states)

        self._exclusive(work)

    def _exclusive(self, work: Callable[[], T]) -> T:
        """Do something while no other thread uses the stream."""
        exchange, flag, mark = self._exchange, self.address, object()
        own = id(mark)
        try:
            # Interrupted anywhere, the last line clears the flag if this call has set it, and else leaves it. Python
            # looks for signals after each call, so no call may come before the exchange.
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

    def _facts(self) -> tuple[Config, int, np.dtype[Any]]:
        return self._config, self.batch_size, self.dtype

    def _get(self) -> States:
        return self._exclusive(lambda: (self._h.copy(), self._c.copy()))

    def _set(self, h: Array, c: Array) -> None:
        def write(states: Array, new_h: Array, new_c: Array) -> None:
            convert(new_h, h)
            convert(new_c, c)

        self._replace(write)

    def reset(self, rows: object = None) -> None:
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
            Another thread is using the stream.
        """
        if rows is None:
            self._exclusive(lambda: self._states.fill(0))
            return
        picked = stream_rows(rows, self.batch_size)

        def clear(states: Array, h: Array, c: Array) -> None:
            np.copyto(states, self._states)
            h[:, picked] = c[:, picked] = 0

        self._replace(clear)

    def fork(self) -> Stream:
        """Return an independent stream with the same weights, state and buffer contents.

        Raises
        ------
        RuntimeError
            Another thread is using the stream.
        """

        def copied() -> Stream:
            parts = self._config, self._panels, self.batch_size, self._current_panels, self._executor
            twin = Stream(*parts, lambda: self._heads)
            twin._current_heads = self._current_heads
            twin._states[:], twin.input[:], twin.output[:] = self._states, self.input, self.output
            return twin

        return self._exclusive(copied)

    def refresh(self) -> None:
        """Continue with the weights that the LSTM has now.

        Raises
        ------
        RuntimeError
            The LSTM has another dtype now, or another thread is using the stream. Nothing was changed.
        """
        panels, heads = self._current_panels(), tuple(self._current_heads())
        check_same_dtype(panels.dtype, "stream", self.dtype)
        slot, at = int(StreamSlots.LENGTH) + int(Header.PANELS), address(panels.data)

        def adopt() -> None:
            record = self._record
            head, followed = self._chained(heads)
            # an interruption in between leaves nothing dangling
            record.keepalive = *record.keepalive, panels, *followed
            record[slot], record[StreamSlots.HEAD] = at, head
            self._panels, self._heads = panels, heads
            record.keepalive = panels, *followed

        self._exclusive(adopt)

    # ------------------------------------------------------------ text, copies, pickles

    def __repr__(self) -> str:
        return sizes_text("Stream", self._config, batch_size=self.batch_size)

    def __copy__(self) -> Stream:
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> Stream:
        return self.fork()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(PICKLED)


def step_function(
    dtype: object = None, *, cell_options: CellOptions = PLAIN, weights: str | None = None
) -> Callable[[int], int]:
    """Return the C function that runs a step of a stream: ``int64_t step(int64_t stream)``.

    It takes `Stream.address` and does what `Stream.step` does, from `Stream.input` to `Stream.output`. It returns 0.
    If another thread is using the stream, it returns 1, and if the stream is of another dtype, cell or kind of weights,
    2; then it does nothing. Call it from functions that Numba compiles (with ``nogil=True`` or without), through
    ctypes, which lets other Python threads run meanwhile, or from any other language by its address,
    ``ctypes.cast(step, ctypes.c_void_p).value``.

    Parameters
    ----------
    dtype : dtype, optional
        That of the stream: float32 (the default) or float64.
    cell_options : CellOptions
        Those of the stream's LSTM: another cell has another function.
    weights : {"bfloat16", "int8", "float32", "float64"}, optional
        `LSTM.weights` of the stream's LSTM; by default the dtype.

    Returns
    -------
    ctypes function

    Raises
    ------
    TypeError
        Another dtype.
    ValueError
        The weights are unknown, or do not go with that dtype.

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
    number = parameter_dtype(dtype)
    return registry.kernel(weights_kind(weights or number.name, number) or number.name, cell_options).step


def _step_by_ctypes(run: Callable[[int], int], record: _Record, at: int) -> Callable[[], None]:
    """``step`` where machine code cannot be called as a built-in function."""

    def step() -> None:
        if run(at):
            raise RuntimeError(BUSY)

    step.__qualname__ = "Stream.step"
    step.__dict__["record"] = record  # kept alive
    return step


def _declines(_: object) -> None:
    """In place of the built-in call: leaves every input to the general way."""
