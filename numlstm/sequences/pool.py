"""Many live sequences on one model: the sessions present at a step are computed as one batch.

States are kept as [layer][slot][unit], and each session owns a slot. The kernel works in place on slots without a gap
between them. Other slots are gathered before the step and scattered after it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, overload
from weakref import ref

import numpy as np
from numpy import empty, ndarray

from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape, States
from numlstm.base.validation.arrays import REAL_KINDS, own_shape, real_array
from numlstm.base.validation.sessions import (
    check_same_dtype,
    pool_capacity,
    sizes_text,
    slot_numbers,
)
from numlstm.base.validation.shapes import no_steps, wrong_features
from numlstm.base.wording import counted
from numlstm.runtime.call import Call
from numlstm.runtime.conversion import convert
from numlstm.runtime.executor import Executor
from numlstm.runtime.packed_weights import Panels, aligned_empty
from numlstm.sequences.state import Stateful

Slots = np.ndarray[Any, np.dtype[np.intp]]
T = TypeVar("T")

MIN_CAPACITY = 16  # of a pool that grows


class Session(Stateful):
    """One live sequence of a `Pool`, made by its ``open``: a state that lasts from step to step.

    It may miss any step, and continues at the next one that it is part of. As a context manager it is closed at the
    end.

    Examples
    --------
    >>> import numlstm
    >>> pool = numlstm.LSTM(2, 3, seed=0).pool()
    >>> with pool.open() as session:
    ...     output = pool.step({session: [1, 2]})[session]
    ...     h, c = session.state
    >>> output.shape, h.shape, bool((h[-1] == output).all()), session.closed
    ((3,), (1, 1, 3), True, True)
    """

    __slots__ = ("__weakref__", "_closed", "_pool", "_slot")

    def __init__(self, pool: Pool, slot: int) -> None:
        self._pool, self._slot, self._closed = pool, slot, False

    @property
    def pool(self) -> Pool:
        """The pool that it belongs to."""
        return self._pool

    @property
    def slot(self) -> int:
        """Its number in the array form of `Pool.step`, while it is open."""
        return self._open_slot()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def _facts(self) -> tuple[Config, int, np.dtype[Any]]:
        return self._pool._config, 1, self._pool.dtype

    def _get(self) -> States:
        return self._pool._exclusive(self._pool._read, self)

    def _set(self, h: Array, c: Array) -> None:
        self._pool._exclusive(self._pool._write, self, h, c)

    def reset(self) -> None:
        """Set the state to zeros."""
        self._set(*self._pool._zeros)

    def close(self) -> None:
        """Close it, so that its slot can be reused. Closing it again does nothing."""
        self._pool._exclusive(self._pool._close, self)

    def _open_slot(self) -> int:
        if self._closed:
            raise ValueError(f"the session is closed (it had slot {self._slot})\nOpen another one: pool.open().")
        return self._slot

    def __enter__(self) -> Self:
        self._open_slot()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session({self._slot}{', closed' if self._closed else ''})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a session cannot be copied or pickled, since it is a place in a pool of its process\n"
            "Take session.snapshot(), and restore() it in another session."
        )


class Pool:
    """Live sequences on one LSTM: those present at a step are computed as one batch. `LSTM.pool` makes one.

    Each session gets the bits that it would get in a stream of its own. A pool runs as in eval mode: without dropout,
    whatever the LSTM's mode. It keeps the weights that the LSTM had when the pool was made, until `refresh`.

    Sessions join, pause and leave between any two steps. Any thread may open, close, read and set them, and waits
    while a step is under way. One thread at a time makes steps.

    Attributes
    ----------
    dtype : dtype
        Of states and results.
    capacity : int
        Sessions for which there is memory now.
    slots : ndarray of int
        Slots of the open sessions, in rising order.

    Notes
    -----
    States of slots without a gap between them are computed in place, without any copy if the slots rise. Other slots
    cost two copies of their states. A new session takes the lowest free slot, so those of a busy pool stay close
    together.

    A pool cannot be pickled or copied; `Session.snapshot` can.

    Examples
    --------
    >>> import numpy as np
    >>> import numlstm
    >>> pool = numlstm.LSTM(2, 3, seed=0).pool()
    >>> anna, bert = pool.open(), pool.open()
    >>> outputs = pool.step({anna: [1, 2], bert: [3, 4]})
    >>> outputs = pool.step({bert: [5, 6]})  # anna pauses
    >>> outputs[bert].shape
    (3,)
    >>> pool.step([bert.slot, anna.slot], np.ones((2, 2))).shape
    (2, 3)
    """

    _h: Array
    _c: Array

    def __init__(self, config: Config, panels: Panels, capacity: object, present: Callable[[], Panels]) -> None:
        self._bound = pool_capacity(config, capacity)
        self._config, self._panels, self._current_panels = config, panels, present
        self.dtype: np.dtype[Any] = panels.dtype
        self._zeros = tuple(np.zeros(shape, self.dtype) for shape in config.state_shapes(1))
        self._is_open = np.zeros(0, np.bool_)
        # Both are released by `with` alone: no exception of a signal comes between the block and the release.
        self._lock: Any = threading.RLock()  # an RLock knows its owner; nobody enters it twice
        self._stepping = threading.Lock()
        self._grow(MIN_CAPACITY if self._bound is None else self._bound)
        _pools.add(ref(self, _pools.discard))

    @property
    def capacity(self) -> int:
        return int(self._is_open.size)

    @property
    def slots(self) -> Slots:
        return np.flatnonzero(self._is_open)

    def __len__(self) -> int:
        """How many sessions are open."""
        return int(np.count_nonzero(self._is_open))

    def __bool__(self) -> bool:
        return True  # also without sessions

    def __repr__(self) -> str:
        return sizes_text("Pool", self._config, open=len(self))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a pool cannot be copied or pickled, since it lives on the memory of its process\n"
            "Pickle the LSTM, and session.snapshot() of each session; restore() them in sessions of another pool."
        )

    # ------------------------------------------------------------ sessions

    def open(self) -> Session:
        """Return a new session, whose state is zeros.

        Raises
        ------
        RuntimeError
            The pool is full.
        MemoryError
            There is no memory for more. The open sessions are unchanged.
        """
        return self._exclusive(self._open)

    def _open(self) -> Session:
        slot = int(self._is_open.argmin())  # the lowest free one, or 0 if there is none
        if self._is_open[slot]:
            if self._bound is not None:
                raise RuntimeError(
                    f"the pool is full: its capacity is {counted(self._bound, 'session')}\n"
                    "Close one, or make a pool with a larger capacity, or with none, which grows."
                )
            slot = self.capacity
            self._grow(2 * slot)
        session = Session(self, slot)
        self._write(session, *self._zeros)
        self._is_open[slot] = True
        return session

    def _close(self, session: Session) -> None:
        if not session._closed:
            session._closed = True
            self._is_open[session._slot] = False

    def refresh(self) -> None:
        """Continue with the weights that the LSTM has now.

        Raises
        ------
        RuntimeError
            The LSTM has another dtype now. Nothing is changed.
        """
        panels = self._current_panels()
        check_same_dtype(panels.dtype, "pool", self.dtype)
        self._exclusive(setattr, self, "_panels", panels)

    def _grow(self, capacity: int) -> None:
        """Make room for more sessions. Nothing changes before all the memory is there."""
        before = self.capacity
        try:
            h, c, batch_h, batch_c = (
                aligned_empty(layers * rows * size, self.dtype).reshape(layers, rows, size)
                for layers, rows, size in self._config.state_shapes(capacity) * 2
            )
            is_open, rank = np.zeros(capacity, np.bool_), empty(capacity, np.intp)
        except (MemoryError, ValueError, OverflowError) as error:  # the last two: larger than any array may be
            raise MemoryError(f"there is no memory for the states of {counted(capacity, 'session')}: {error}") from None
        if before:
            h[:, :before], c[:, :before], is_open[:before] = self._h, self._c, self._is_open
        self._h, self._c, self._is_open = h, c, is_open
        self._batch_h, self._batch_c, self._rank = batch_h, batch_c, rank  # where steps gather, and sort
        self._executor = Executor(self._config, self.dtype)  # plans depend on the distance between two layers' states

    # ------------------------------------------------------------ steps

    @overload
    def step(self, slots: Mapping[Session, np.typing.ArrayLike]) -> dict[Session, Array]: ...

    @overload
    def step(
        self, slots: Sequence[int] | np.ndarray[Any, np.dtype[np.integer[Any]]], input: np.typing.ArrayLike
    ) -> Array: ...

    def step(self, slots: object, input: object = None) -> Any:
        """Run the next step, or several, of each session that is present; the others are unchanged.

        Parameters
        ----------
        slots : dict of Session to array_like, or array_like of int
            The input of each session: (input_size,), or (steps, input_size) with as many steps for each. Or distinct
            slots, (n,).
        input : array_like, optional
            With slots: a row for each, (n, input_size); or a chunk, (steps, n, input_size), in the order of the LSTM's
            ``batch_first`` when the pool was made. Any real dtype, byte order and strides; never written to.

        Returns
        -------
        dict of Session to ndarray, or ndarray
            h of the last layer, shaped as the input with proj_size or hidden_size features in place of its own. The
            arrays of a dict are views of one array: copy those that you keep for long.

        Raises
        ------
        ValueError
            A session or a slot is closed, a slot comes twice, a session is of another pool, or the input has a wrong
            shape.
        RuntimeError
            The input has other features than the LSTM's, or no steps; or another thread is in a step.
        TypeError
            A slot is not an integer, a key is not a session, or the input does not hold real numbers.
        IndexError
            There is no such slot.

            After any error the states are unchanged.
        """
        if isinstance(slots, Mapping):
            if input is not None:
                raise TypeError("step takes a dict of inputs by session, or slots and their input, not both")
            step: Callable[..., Any] = self._step_sessions
            given: tuple[Any, Any] = list(slots), [_row(session, value) for session, value in slots.items()]
        else:
            if input is None:
                raise TypeError(
                    "step takes a dict of inputs by session, or slots and their input; "
                    f"received a {type(slots).__name__} alone"
                )
            step, numbers = self._step_slots, slot_numbers(slots)
            given = numbers, self._as_input(input, numbers.size)
        if self._stepping.locked():
            raise RuntimeError(
                "the pool is in use by another thread, and nothing was done\n"
                "A pool does one step at a time. Let one thread gather what is present and step it."
            )
        return self._exclusive(self._step, step, *given)

    def _step(self, step: Callable[..., T], *given: object) -> T:
        with self._stepping:
            return step(*given)

    def _step_slots(self, slots: Slots, x: Array) -> Array:
        self._check_slots(slots)
        output = self._advance(slots, x if x.ndim == 3 else x[None])
        if x.ndim == 2:
            return output.reshape(output.shape[1:])
        return output.swapaxes(0, 1) if self._config.batch_first else output

    def _step_sessions(self, sessions: list[Session], rows: list[Array]) -> dict[Session, Array]:
        if not sessions:
            return {}
        for session in sessions:
            if type(session) is not Session or session._pool is not self or session._closed:
                self._refuse(session)
        slots = np.array([session._slot for session in sessions], np.intp)
        if not _increasing(slots):
            order = np.argsort(slots).tolist()
            slots, sessions, rows = slots[order], [sessions[k] for k in order], [rows[k] for k in order]
        x = self._stack(sessions, rows)
        output = self._advance(slots, x)
        return dict(zip(sessions, output[0] if rows[0].ndim == 1 else output.swapaxes(0, 1), strict=True))

    def _refuse(self, session: object) -> NoReturn:
        if not isinstance(session, Session):
            raise TypeError(f"a step is for sessions of pool.open(), or for slots and their input, not for {session!r}")
        if session._pool is not self:
            raise ValueError(f"{session!r} is of another pool, {session._pool!r}")
        session._open_slot()
        raise TypeError(f"a session must be a Session itself, not a {type(session).__name__}")

    def _stack(self, sessions: list[Session], rows: list[Array]) -> Array:
        """The sessions' inputs as one array (steps, rows, input_size)."""
        first, size = rows[0].shape, self._config.input_size
        if len(first) not in (1, 2) or first[-1] != size or any(row.shape != first for row in rows):
            self._refuse_rows(sessions, rows)
        steps = 1 if len(first) == 1 else first[0]
        _check_steps(steps, first)
        x = empty((steps, len(rows), size), self.dtype)
        if len(first) == 1 and all(row.dtype is self.dtype for row in rows):
            np.concatenate(rows, out=x.reshape(-1))
        else:
            for n, row in enumerate(rows):
                convert(x[:, n], row)
        return x

    def _refuse_rows(self, sessions: list[Session], rows: list[Array]) -> NoReturn:
        size, first = self._config.input_size, rows[0].shape
        for session, row in zip(sessions, rows, strict=True):
            if row.ndim not in (1, 2):
                raise ValueError(
                    f"LSTM: Expected input of a session to be 1D or 2D, got {row.ndim}D instead\n"
                    f"input of {session!r} must have shape ({size},), or (steps, {size}); received {row.shape}."
                )
            if row.shape[-1] != size:
                raise wrong_features(self._config, row.shape, f"input of {session!r}")
        other = next(k for k, row in enumerate(rows) if row.shape != first)
        raise ValueError(
            f"inputs of a step must have one shape, but that of {sessions[other]!r} has {rows[other].shape}, and that "
            f"of {sessions[0]!r} {first}\nThe states are unchanged."
        )

    def _as_input(self, given: object, count: int) -> Array:
        """(count, input_size), or (steps, count, input_size): contiguous, of the pool's dtype."""
        x = given if type(given) is ndarray and given.dtype is self.dtype else real_array("input", given)
        x = own_shape(x)
        swap, size = self._config.batch_first and x.ndim == 3, self._config.input_size
        if x.ndim not in (2, 3) or x.shape[0 if swap else -2] != count:
            chunk = f"({count}, steps, {size})" if self._config.batch_first else f"(steps, {count}, {size})"
            raise ValueError(
                f"input must have shape ({count}, {size}) or {chunk}, for {counted(count, 'slot')}; "
                f"received {x.shape}\nThe states are unchanged."
            )
        if x.shape[-1] != size:
            raise wrong_features(self._config, x.shape)
        if swap:
            x = x.swapaxes(0, 1)
        _check_steps(1 if x.ndim == 2 else x.shape[0], x.shape)
        if x.dtype is self.dtype and x.flags.c_contiguous and x.flags.aligned:
            return x
        converted = empty(x.shape, self.dtype)
        convert(converted, x)
        return converted

    def _check_slots(self, slots: Slots) -> None:
        """Check that all are open and distinct."""
        if slots.size == 0:
            return
        if slots.view(np.uintp).max() >= self.capacity:  # as unsigned numbers, those below 0 are large
            wrong = next(slot for slot in slots.tolist() if not 0 <= slot < self.capacity)
            raise IndexError(f"there is no slot {wrong}: slots are numbers from 0 to {self.capacity - 1}")
        if not self._is_open[slots].all():
            wrong = next(slot for slot in slots.tolist() if not self._is_open[slot])
            raise ValueError(f"slot {wrong} is closed\nThe open ones are pool.slots.")
        if not _increasing(slots):
            position = np.arange(slots.size)
            self._rank[slots] = position  # the last one wins
            twice = slots[self._rank[slots] != position]
            if twice.size:
                raise ValueError(
                    f"slot {int(twice[0])} comes {np.count_nonzero(slots == twice[0])} times in a step\n"
                    "A session has one input a step; for several steps give a chunk."
                )

    def _advance(self, slots: Slots, x: Array) -> Array:
        """Run checked slots; x and the result are (steps, rows, features)."""
        count = slots.size
        output = empty((*x.shape[:2], self._config.output_size), self.dtype)
        if count == 0:
            return output
        first = int(slots.min())
        if slots.max() - first == count - 1:  # distinct, so without a gap
            rows = None if _increasing(slots) else slots - first
            if rows is not None:
                given, x = x, empty(x.shape, self.dtype)
                x[:, rows] = given
            self._run(x, self._h[0, first:], self._c[0, first:], output)
            return output if rows is None else output[:, rows]
        for states_of, batch in (self._h, self._batch_h), (self._c, self._batch_c):
            for layer, gathered in zip(states_of, batch, strict=True):
                np.take(layer, slots, axis=0, out=gathered[:count], mode="clip")  # mode="raise" would copy once more
        self._run(x, self._batch_h, self._batch_c, output)
        self._scatter(slots, self._batch_h[:, :count], self._batch_c[:, :count])
        return output

    def _run(self, x: Array, h: Array, c: Array, output: Array) -> None:
        """Run steps on states that are replaced in place."""
        self._executor.run(Call(self._panels, x, h, c, output, h, c, state_rows=self.capacity))

    # ------------------------------------------------------------ states

    def _scatter(self, slots: Slots | slice, h: Array, c: Array) -> None:
        """Store new states, all of them even if an exception of a signal interrupts it."""
        try:
            self._scatter_once(slots, h, c)
        except BaseException:
            self._scatter_once(slots, h, c)
            raise

    def _scatter_once(self, slots: Slots | slice, h: Array, c: Array) -> None:
        for states_of, given in (self._h, h), (self._c, c):
            for layer, rows in zip(states_of, given, strict=True):
                layer[slots] = rows

    def _read(self, session: Session) -> States:
        row = slice(slot := session._open_slot(), slot + 1)
        return self._h[:, row].copy(), self._c[:, row].copy()

    def _write(self, session: Session, h: Array, c: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self._scatter(slice(slot := session._open_slot(), slot + 1), h, c)

    def _exclusive(self, work: Callable[..., T], *given: object) -> T:
        """Do something while no other thread uses the states."""
        if self._lock._is_owned():  # a signal handler, for example; waiting would deadlock
            raise RuntimeError("the pool is in use by this very thread, which was interrupted, and nothing was done")
        with self._lock:
            return work(*given)


def _increasing(slots: Slots) -> bool:
    return slots.size == 1 or bool((slots[1:] > slots[:-1]).all())


def _check_steps(steps: int, shape: Shape) -> None:
    if steps == 0:
        raise no_steps(f"input has shape {shape}, which holds no step; the states are unchanged.")


def _row(session: object, value: object) -> Array:
    if type(value) is ndarray and value.dtype.kind in REAL_KINDS:
        return value
    return real_array(f"input of {session!r}", value)


# A fork waits until no pool is in use, so that the child gets complete states and free locks.
_pools: set[ref[Pool]] = set()
_forking = threading.Lock()
_held: list[Pool] = []


def _before_fork() -> None:
    _forking.acquire()
    _held[:] = [pool for known in list(_pools) if (pool := known()) is not None and not pool._lock._is_owned()]
    for pool in _held:
        pool._lock.acquire()


def _after_fork() -> None:
    for pool in _held:
        pool._lock.release()
    _held.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
