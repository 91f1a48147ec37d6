"""Many live sequences on one model: whoever is present at a step is computed as one batch.

States are kept as [cell][slot][unit]; a session owns a slot. A step reads the states of the slots that are present,
where they lie if the slots follow each other and gathered otherwise, computes new ones elsewhere, and writes them
back when all is done: until then nothing has changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from threading import get_ident
from types import TracebackType
from typing import Any, NoReturn, Self, overload
from weakref import ref

import numpy as np
from numpy import empty, ndarray
from numpy.typing import ArrayLike, NDArray

from numlstm import checks, engine
from numlstm.module import Module
from numlstm.panels import aligned_empty

Array = NDArray[Any]
Slots = NDArray[np.intp]
LEAST = 16  # slots of a pool that grows, to begin with


class Session:
    """One live sequence of a `Pool`, which makes them: its state from one step to the next.

    It may be left out of any step, and goes on where it was at the next one that it is part of. As a context manager
    it is closed at the end.

    Examples
    --------
    >>> import numlstm
    >>> pool = numlstm.LSTM(2, 3, seed=0).eval().pool()
    >>> with pool.open() as session:
    ...     output = pool.step({session: [1, 2]})[session]
    ...     h, c = session.state
    >>> output.shape, h.shape, bool((h[-1] == output).all()), session.closed
    ((3,), (1, 3), True, True)
    """

    __slots__ = ("__weakref__", "_closed", "_pool", "_slot")

    def __init__(self, pool: Pool, slot: int) -> None:
        self._pool, self._slot, self._closed = pool, slot, False

    @property
    def pool(self) -> Pool:
        """Where it belongs."""
        return self._pool

    @property
    def slot(self) -> int:
        """The number by which the array form of `Pool.step` knows it, as long as it is open."""
        return self._open_slot()

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    @property
    def state(self) -> tuple[Array, Array]:
        """Copies of h, (num_layers, proj_size or hidden_size), and c, (num_layers, hidden_size)."""
        return self._pool._read(self)

    def reset(self) -> None:
        """Begin again with zeros."""
        self._pool._write(self, None)

    def snapshot(self) -> dict[str, Any]:
        """The state as plain arrays with sizes and dtype, to pickle or save, for `restore` on any machine."""
        return self._pool._snapshot(self)

    def restore(self, snapshot: Mapping[str, ArrayLike]) -> None:
        """Go on from a snapshot of any session or stream of the same sizes and dtype.

        Raises
        ------
        TypeError, ValueError
            It is no snapshot, or one of other sizes or another dtype. Nothing was changed.
        """
        self._pool._write(self, self._pool._from_snapshot(snapshot))

    def close(self) -> None:
        """End it; its slot is for the next one. To close it again does nothing."""
        self._pool._close(self)

    def _open_slot(self) -> int:
        if self._closed:
            raise ValueError(f"the session of slot {self._slot} is closed; open another one with pool.open()")
        return self._slot

    def __enter__(self) -> Self:
        self._open_slot()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {self._slot}{' (closed)' if self._closed else ''} of {self._pool!r}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a session cannot be copied or pickled\nIts state can: session.snapshot().")


class Pool:
    """Sessions on one LSTM, made by its ``pool``: each has a state of its own, and those present are one batch.

    A session's results are the bits that it would have alone. Sessions join, pause and leave between any two steps,
    from any thread; a step is one thread's at a time.

    Parameters
    ----------
    lstm : LSTM
        In one direction; in eval mode if it has dropout between layers.
    capacity : int, optional
        Sessions that may be open at once; memory for all of them is taken now. If left out, it doubles when needed.

    Raises
    ------
    ValueError
        The LSTM is bidirectional, or applies dropout.
    TypeError, ValueError
        The capacity is no positive int.
    MemoryError
        There is no memory for as many states.

    Notes
    -----
    The pool keeps the weights that it began with, whatever is assigned to the LSTM; `refresh` adopts the new ones.

    Slots that follow each other, in rising order, are computed where they are. Others cost two copies of their states.

    Examples
    --------
    >>> import numpy as np
    >>> import numlstm
    >>> pool = numlstm.LSTM(2, 3, seed=0).eval().pool()
    >>> anna, bert = pool.open(), pool.open()
    >>> outputs = pool.step({anna: [1, 2], bert: [3, 4]})
    >>> outputs = pool.step({bert: [5, 6]})  # anna pauses
    >>> {session.slot: output.shape for session, output in outputs.items()}
    {1: (3,)}
    >>> pool.step(np.array([bert.slot, anna.slot]), np.ones((2, 2))).shape
    (2, 3)
    """

    def __init__(self, lstm: Module, capacity: int | None = None) -> None:
        config = lstm._config
        if config.bidirectional:
            raise ValueError(
                "a bidirectional LSTM has no pool: its second direction begins at the end of a sequence, "
                "and a live one has no end yet\nRun whole sequences with lstm(input)."
            )
        if lstm.training and config.dropout > 0 and config.num_layers > 1:
            raise ValueError(
                f"a pool applies no dropout, but the LSTM is in train mode with dropout={config.dropout}\n"
                "Call lstm.eval() first."
            )
        self._bound = None if capacity is None else _capacity(capacity)
        self._lstm = lstm
        self._config = config
        self._panels = lstm._panels
        self._free: list[int] = []  # slots that were closed, the lowest first
        self._unused = 0  # slots from here on were never open
        self._lock = threading.Lock()
        self._holder = 0  # the thread that has the lock
        self._stepping = False
        self._h = self._c = empty((config.num_layers, 0, 0), self.dtype)
        self._is_open = np.zeros(0, np.bool_)
        self._make_room(self._bound or LEAST)
        _pools.add(ref(self, _pools.discard))

    @property
    def lstm(self) -> Module:
        """Whose weights `refresh` adopts."""
        return self._lstm

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64, of states and outputs."""
        return self._panels.dtype

    @property
    def capacity(self) -> int:
        """Sessions for which there is memory at the moment."""
        return int(self._is_open.size)

    @property
    def slots(self) -> Slots:
        """Slots of the open sessions, in rising order."""
        return np.flatnonzero(self._is_open)

    def __len__(self) -> int:
        """How many sessions are open."""
        return int(np.count_nonzero(self._is_open))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Pool of {len(self)} sessions on {self._lstm!r}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a pool cannot be copied or pickled\nThe LSTM can, and session.snapshot() of each session.")

    # ------------------------------------------------------------ sessions come and go

    def open(self) -> Session:
        """A new session, which begins with zeros.

        Raises
        ------
        RuntimeError
            As many sessions are open as the capacity allows.
        MemoryError
            There is no memory for more. Those that are open go on.
        """
        with self._turn():
            if not self._free and self._unused == self.capacity:
                if self._bound is not None:
                    raise RuntimeError(
                        f"the pool is full: {self._bound} sessions are open, and its capacity is {self._bound}\n"
                        "Close one, or make the pool with a larger capacity or none."
                    )
                self._make_room(2 * self.capacity)
            slot = self._free[0] if self._free else self._unused
            self._put(slot, 0, 0)
            session = Session(self, slot)
            if self._free:
                heappop(self._free)
            else:
                self._unused += 1
            self._is_open[slot] = True
            return session

    def _close(self, session: Session) -> None:
        with self._turn():
            if not session._closed:
                session._closed = True
                self._is_open[session._slot] = False
                heappush(self._free, session._slot)

    def refresh(self) -> None:
        """Compute with the weights that the LSTM has now; states stay.

        Raises
        ------
        RuntimeError
            The LSTM has become one of another dtype. Nothing was changed.
        """
        panels = self._lstm._panels
        if panels.dtype != self.dtype:
            raise RuntimeError(
                f"the pool computes in {self.dtype}, but the LSTM has become {panels.dtype}\n"
                "Make a new pool: lstm.pool()."
            )
        with self._turn():
            self._panels = panels

    def _make_room(self, capacity: int) -> None:
        """More slots, and as many rows to compute in; nothing changes before there is memory for all of it."""
        config, have = self._config, self.capacity
        sizes = [(config.num_layers, capacity, size) for size in (config.output_size, config.hidden_size)]
        try:
            arrays = [aligned_empty(int(np.prod(size)), self.dtype).reshape(size) for size in sizes * 2]
            is_open = np.zeros(capacity, np.bool_)
            places = empty(capacity, np.intp)
        except (MemoryError, ValueError) as error:  # ValueError: larger than any array may be
            raise MemoryError(f"there is no memory for the states of {capacity} sessions: {error}") from None
        for array, old in zip(arrays, (self._h, self._c), strict=False):
            if have:
                array[:, :have] = old
        is_open[:have] = self._is_open
        self._h, self._c, self._new_h, self._new_c = arrays
        self._kept = engine.Memory(self.dtype)  # plans know where the states of a cell begin
        self._places, self._is_open = places, is_open

    # ------------------------------------------------------------ steps

    @overload
    def step(self, slots: Mapping[Session, ArrayLike]) -> dict[Session, Array]: ...

    @overload
    def step(self, slots: Sequence[int] | NDArray[np.integer[Any]], input: ArrayLike) -> Array: ...

    def step(self, slots: Any, input: Any = None) -> Any:
        """One step, or several, of the sessions that are present; the others stay as they are.

        Parameters
        ----------
        slots : dict of Session to array_like, or array_like of int
            The input of each session, (input_size,), or (steps, input_size) with as many steps for each. Or the
            slots, (n,), no two of them the same.
        input : array_like, optional
            With slots: (n, input_size), a row for each of them, or (steps, n, input_size). Any real dtype, byte order
            and strides.

        Returns
        -------
        dict of Session to ndarray, or ndarray
            h of the last layer: for each session (proj_size or hidden_size,), or (steps, …); those of a step are
            rows of one array. With slots: (n, …) or (steps, n, …).

        Raises
        ------
        ValueError
            A session or a slot is closed, comes twice, or is of another pool; or shapes are wrong.
        RuntimeError
            An input has another size than the LSTM's, with PyTorch's text; or another thread is in a step.
        TypeError
            Slots are not integers, or an input does not hold real numbers.
        IndexError
            There is no such slot.

        Notes
        -----
        All of this is checked before anything changes, and after an interruption either no session or each of them
        has done the step.
        """
        if isinstance(slots, Mapping):
            if input is not None:
                raise TypeError("step takes a dict of inputs by session, or slots and their inputs, not both")
            return self._step_sessions(slots)
        if input is None:
            raise TypeError(
                f"step takes a dict of inputs by session, or slots and their inputs; received a {type(slots).__name__} "
                "alone"
            )
        given = _slot_numbers(slots)
        x = checks.real_array("input", input)
        x = self._as_input(x, given.size)
        with self._step():
            self._check_slots(given)
            output = self._advance(given, x if x.ndim == 3 else x[None])
        return output if x.ndim == 3 else output[0]

    def _step_sessions(self, inputs: Mapping[Session, ArrayLike]) -> dict[Session, Array]:
        sessions = list(inputs)
        for session in sessions:
            self._own(session)
        rows = [_row(session, inputs[session]) for session in sessions]
        if not rows:
            return {}
        # in the order of slots: those that follow each other need not be gathered
        order = sorted(range(len(sessions)), key=[session._slot for session in sessions].__getitem__)
        x, chunk = self._together(sessions, rows, order)
        with self._step():
            for session in sessions:
                session._open_slot()
            output = self._advance(np.array([sessions[k]._slot for k in order], np.intp), x)
        outputs = list(output.swapaxes(0, 1) if chunk else output[0])
        found = dict(zip([sessions[k] for k in order], outputs, strict=True))
        return {session: found[session] for session in sessions}

    def _together(self, sessions: list[Session], rows: list[Array], order: list[int]) -> tuple[Array, bool]:
        """One array (steps, rows, input_size) of the sessions' inputs in that order, and whether they are chunks."""
        first = rows[0].shape
        chunk = len(first) == 2
        for session, row in zip(sessions, rows, strict=True):
            if row.shape != first or row.ndim not in (1, 2) or row.shape[-1] != self._config.input_size:
                self._wrong_row(session, row, first)
        if chunk and first[0] == 0:
            raise RuntimeError(
                "Expected sequence length to be larger than 0 in RNN\n"
                f"the inputs have shape {first}, which holds no step."
            )
        x = empty((first[0] if chunk else 1, len(rows), first[-1]), self.dtype)
        if not chunk and all(row.dtype is self.dtype for row in rows):
            np.concatenate([rows[k] for k in order], out=x.reshape(-1))
        else:
            for at, k in enumerate(order):
                engine.convert(x[:, at], rows[k])
        return x, chunk

    def _wrong_row(self, session: Session, row: Array, first: checks.Shape) -> NoReturn:
        size = self._config.input_size
        if row.ndim not in (1, 2):
            raise ValueError(f"the input of {session!r} must have shape ({size},), or (steps, {size}), not {row.shape}")
        if row.shape[-1] != size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {size}, got {row.shape[-1]}\n"
                f"the input of {session!r} has shape {row.shape}; its last axis must hold {size} features."
            )
        raise ValueError(
            f"the inputs of a step must have one shape, but that of {session!r} has {row.shape}, "
            f"and an earlier one {first}"
        )

    def _as_input(self, x: Array, count: int) -> Array:
        """(count, input_size), or (steps, count, input_size): contiguous, of the pool's dtype."""
        size = self._config.input_size
        if x.ndim not in (2, 3) or x.shape[-2] != count:
            raise ValueError(
                f"input must have shape ({count}, {size}), or (steps, {count}, {size}), not {x.shape}: "
                f"there are {count} slots"
            )
        if x.shape[-1] != size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {size}, got {x.shape[-1]}\n"
                f"input has shape {x.shape}; its last axis must hold the {size} features of a step."
            )
        if x.shape[0] == 0 and x.ndim == 3:
            raise RuntimeError(
                f"Expected sequence length to be larger than 0 in RNN\ninput has shape {x.shape}, which holds no step."
            )
        if x.dtype == self.dtype and x.flags.c_contiguous and x.flags.aligned:
            return x[...]  # a view, whose shape nobody else can set
        converted = empty(x.shape, self.dtype)
        engine.convert(converted, x)
        return converted

    def _check_slots(self, slots: Slots) -> None:
        """All are open, and no two the same."""
        if slots.size == 0:
            return
        if slots.min() < 0 or slots.max() >= self.capacity:
            wrong = next(slot for slot in slots.tolist() if not 0 <= slot < self.capacity)
            raise IndexError(f"there is no slot {wrong}: slots are numbers from 0 to {self.capacity - 1}")
        if not self._is_open[slots].all():
            wrong = next(slot for slot in slots.tolist() if not self._is_open[slot])
            raise ValueError(f"slot {wrong} is closed; pool.slots has those that are open")
        rising = np.arange(slots.size)
        self._places[slots] = rising
        last = self._places[slots]
        if not (last == rising).all():
            first = int(np.argmax(last != rising))
            raise ValueError(
                f"slot {int(slots[first])} comes twice, at {first} and {int(last[first])}\n"
                "A session has one input a step; for several steps pass (steps, n, input_size)."
            )

    def _advance(self, slots: Slots, x: Array) -> Array:
        """Steps of these slots, which have been checked; x and the result are (steps, rows, features)."""
        count, new_h, new_c = slots.size, self._new_h, self._new_c
        output = empty((*x.shape[:2], self._config.output_size), self.dtype)
        if count == 0:
            return output
        first, at = int(slots[0]), slots
        if slots[-1] - first == count - 1 and (count == 1 or bool((slots[1:] - slots[:-1] == 1).all())):
            at = slice(first, first + count)  # type: ignore[assignment]
            hx = self._h[0, first:], self._c[0, first:]
        else:
            for states, gathered in ((self._h, new_h), (self._c, new_c)):
                for of_cell, rows in zip(states, gathered, strict=True):
                    np.take(of_cell, slots, axis=0, out=rows[:count], mode="clip")  # "raise" would copy once more
            hx = new_h, new_c
        engine.forward_rows(self._panels, self._kept, x, hx, output, new_h, new_c, self.capacity)
        self._put(at, new_h[:, :count], new_c[:, :count])
        return output

    # ------------------------------------------------------------ states

    def _put(self, at: Any, h: Any, c: Any) -> None:
        """New states: if interrupted, by a signal's exception, both are there all the same."""
        try:
            self._put_once(at, h, c)
        except BaseException:
            self._put_once(at, h, c)
            raise

    def _put_once(self, at: Any, h: Any, c: Any) -> None:
        for states, given in ((self._h, h), (self._c, c)):
            if isinstance(given, ndarray):
                for of_cell, rows in zip(states, given, strict=True):
                    of_cell[at] = rows
            else:
                states[:, at] = given

    def _read(self, session: Session) -> tuple[Array, Array]:
        with self._turn():
            slot = session._open_slot()
            return self._h[:, slot].copy(), self._c[:, slot].copy()

    def _write(self, session: Session, state: tuple[Array, Array] | None) -> None:
        h, c = (0, 0) if state is None else state
        with self._turn():
            self._put(session._open_slot(), h, c)

    def _own(self, session: Any) -> None:
        if not isinstance(session, Session):
            raise TypeError(f"a step takes sessions of pool.open(), not a {type(session).__name__}")
        if session._pool is not self:
            raise ValueError(f"{session!r} is of another pool")
        session._open_slot()

    def _snapshot(self, session: Session) -> dict[str, Any]:
        h, c = self._read(session)
        return {"h": h, "c": c} | self._sizes()

    def _sizes(self) -> dict[str, Any]:
        config = self._config
        return {
            "input_size": config.input_size,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "proj_size": config.proj_size,
            "dtype": str(self.dtype),
        }

    def _from_snapshot(self, snapshot: Any) -> tuple[Array, Array]:
        raise NotImplementedError

    # ------------------------------------------------------------ one thread at a time

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Alone with the states. Who is in a step, a signal handler say, must not come back for more."""
        if self._holder == get_ident():
            raise RuntimeError("the pool is busy with this very thread, whose step or change this call interrupts")
        with self._lock:
            self._holder = get_ident()
            try:
                yield
            finally:
                self._holder = 0

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Alone with the states, unless another step is under way."""
        if self._stepping:
            raise RuntimeError(
                "the pool is busy: another thread is in a step, and a pool does one at a time\n"
                "Gather what is present in one thread and make one step of it."
            )
        with self._turn():
            self._stepping = True
            try:
                yield
            finally:
                self._stepping = False


def _capacity(value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"capacity must be None or a positive int, not {value!r}, a {type(value).__name__}")
    if value < 1:
        raise ValueError(f"capacity must be None or a positive int, not {value}")
    return int(value)


def _slot_numbers(slots: Any) -> Slots:
    """A copy of the slots, which nobody else changes."""
    numbers = np.array(slots)
    if numbers.size == 0 and not isinstance(slots, ndarray):
        numbers = numbers.astype(np.intp)  # an empty list
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"slots must be integers, not {numbers.dtype}; session.slot is the number of a session")
    if numbers.ndim != 1:
        raise ValueError(f"slots must have shape (n,), not {numbers.shape}")
    return numbers.astype(np.intp, copy=False)


def _row(session: Session, value: Any) -> Array:
    if type(value) is ndarray and value.dtype.kind in checks.REAL_KINDS:
        return value
    return checks.real_array(f"the input of {session!r}", value)


# Forks wait for steps, so that a child has whole states and locks that are free.
_pools: set[ref[Pool]] = set()
_forking = threading.Lock()
_held: list[Pool] = []


def _before_fork() -> None:
    _forking.acquire()
    _held[:] = [pool for known in list(_pools) if (pool := known()) is not None and pool._holder != get_ident()]
    for pool in _held:
        pool._lock.acquire()


def _after_fork() -> None:
    for pool in _held:
        pool._lock.release()
    _held.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
