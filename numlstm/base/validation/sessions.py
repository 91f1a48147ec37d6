"""Streams and pools: batch sizes, inputs, states, rows, slots and snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape, States
from numlstm.base.validation.arguments import positive_count
from numlstm.base.validation.arrays import real_array
from numlstm.base.validation.shapes import CallShapes, lstm_states, no_steps, two_states, wrong_features
from numlstm.base.wording import counted, shown

BUSY = (
    "the stream is in use by another thread, and nothing was done\n"
    "A stream has one user at a time. Let each thread have a stream of its own (fork() gives one with the same state), "
    "or put a lock around the steps."
)
PICKLED = (
    "a stream cannot be pickled, since it lives on the memory of its process\n"
    "Pickle the LSTM and stream.snapshot(); a stream of the former takes over the latter by restore()."
)
UNCHANGED = "The state is unchanged."
FIXED = ("address", "batch_size", "input", "output", "step")  # attributes of a stream that cannot be replaced
SNAPSHOT = ("input_size", "hidden_size", "num_layers", "proj_size", "batch_size", "dtype")

Rows = np.ndarray[Any, np.dtype[np.intp]]


# ---------------------------------------------------------------- sizes


def stream_batch_size(config: Config, batch_size: object) -> int:
    """The batch size of a stream, whose LSTM must run in one direction."""
    _check_one_direction(config, "a stream", "a stream")
    return positive_count("batch_size", batch_size, "the sequences that go on side by side")


def pool_capacity(config: Config, capacity: object) -> int | None:
    """The capacity of a pool, whose LSTM must run in one direction; None where it grows."""
    _check_one_direction(config, "a pool of sessions", "a session")
    if capacity is None:
        return None
    return positive_count("capacity", capacity, "the sessions that may be open at once", "None or an int")


def _check_one_direction(config: Config, what: str, part: str) -> None:
    if config.direction != "forward":
        raise ValueError(
            f"an LSTM with direction={config.direction!r} cannot run as {what}: it begins at the last step, which "
            f"{part} has not seen yet\nCall the LSTM on whole sequences."
        )
    if config.bidirectional:
        raise ValueError(
            f"a bidirectional LSTM cannot run as {what}: its reverse direction begins at the last step, which {part} "
            "has not seen yet\nCall the LSTM on whole sequences, or train one with bidirectional=False."
        )


def stream_memory_error(rows: int, error: BaseException) -> MemoryError:
    """The error for a stream of so many rows that does not fit in memory."""
    return MemoryError(
        f"there is no memory for a stream of batch_size={rows}: {error}\nTake fewer rows, or several streams."
    )


def check_not_replaced(held: object, name: str) -> None:
    """Raise AttributeError for an attribute that a stream has already: machine code knows the buffers' addresses."""
    if name in FIXED and hasattr(held, name):
        said = f"{name} of a stream is not to be replaced: step() goes on with what it had\n"
        if name in ("input", "output"):
            raise AttributeError(said + f"Write into the buffer: stream.{name}[...] = values.")
        raise AttributeError(said + "Make a new stream.")


def check_same_dtype(lstm: np.dtype[Any], kind: str, dtype: np.dtype[Any]) -> None:
    """Raise RuntimeError if the LSTM has no longer the dtype of the stream or pool."""
    if lstm != dtype:
        raise RuntimeError(
            f"the LSTM has become {lstm}, and the {kind} is {dtype}\nMake a new {kind}, and set its states."
        )


def sizes_text(kind: str, config: Config, **more: object) -> str:
    """The repr of a stream or a pool: the sizes of its LSTM, and what else tells it apart."""
    sizes = {"proj_size": config.proj_size or None, "num_layers": config.num_layers if config.num_layers > 1 else None}
    named = "".join(f", {name}={value!r}" for name, value in (sizes | more).items() if value is not None)
    return f"{kind}({config.input_size}, {config.hidden_size}{named})"


# ---------------------------------------------------------------- inputs


class Piece(NamedTuple):
    """The input of a stream: one step, or a chunk of steps."""

    output: Shape
    steps: int
    place: tuple[Any, ...]  # indexes it as (steps, batch, features), but for ``swap``
    swap: bool


def stream_input(value: object) -> Array:
    """A step or a chunk as a plain ndarray of its own real dtype."""
    if hasattr(value, "batch_sizes"):
        raise TypeError(
            f"input of a stream must be an array, not a {type(value).__name__}\n"
            "All rows of a stream have the same steps; a sequence that ends early can have a stream of its own."
        )
    return real_array("input", value)


def stream_piece(config: Config, rows: int, shape: Shape) -> Piece:
    """Steps and layout of an input of that shape, for a stream of so many rows."""
    every, detail = slice(None), _wanted_piece(config, rows, shape)
    place: tuple[Any, ...] = (every,)
    if len(shape) == 3:
        steps, batch = (shape[1], shape[0]) if config.batch_first else shape[:2]
    elif len(shape) == 2:
        # of one row: steps; a single one is the same as a batch of one
        steps, batch, place = (shape[0], 1, (every, None)) if rows == 1 else (1, shape[0], (None,))
    elif len(shape) == 1 and rows == 1:
        steps, batch, place = 1, 1, (None, None)
    else:
        raise ValueError(
            f"LSTM: Expected input of a stream to be {'1D, 2D or 3D' if rows == 1 else '2D or 3D'}, "
            f"got {len(shape)}D instead\n{detail}"
        )
    if shape[-1] != config.input_size:
        raise wrong_features(config, shape, hint=detail)
    if batch != rows:
        raise RuntimeError(f"input has {counted(batch, 'row')}, but the stream has {rows}\n{detail}")
    if steps == 0:
        raise no_steps(detail)
    output = (*shape[:-1], config.output_size)
    return Piece(output, steps, place, swap=config.batch_first and len(shape) == 3)


def _wanted_piece(config: Config, rows: int, shape: Shape) -> str:
    features = config.input_size
    chunk = f"({rows}, steps, {features})" if config.batch_first else f"(steps, {rows}, {features})"
    wanted = f"({rows}, {features}) or {chunk}"
    if rows == 1:
        wanted = f"({features},), or (steps, {features}), or {chunk}"
    return f"input must have shape {wanted}; received {shape}. {UNCHANGED}"


def slot_numbers(slots: object) -> Rows:
    """A copy of the slots of a step, so that no other thread can change them."""
    numbers = np.array([], np.intp) if _is_empty(slots) else np.array(slots)
    if numbers.dtype.kind not in "iu":
        raise TypeError(
            f"slots must be integers, not {numbers.dtype}; received {shown(slots)}\n"
            "The slot of a session is session.slot; sessions themselves come in a dict with their inputs."
        )
    if numbers.ndim != 1:
        raise ValueError(f"slots must have shape (n,), not {numbers.shape}")
    if numbers.dtype.kind == "u" and numbers.size and numbers.max() > np.iinfo(np.intp).max:
        raise IndexError(f"there is no slot {numbers.max()}: slots are numbers that a session has, session.slot")
    return numbers.astype(np.intp, copy=False)


def _is_empty(values: object) -> bool:
    return isinstance(values, list | tuple) and len(values) == 0


# ---------------------------------------------------------------- states


def stream_states(config: Config, rows: int, states: Any, dtype: np.dtype[Any]) -> States:
    """h and c for a stream of so many rows: (num_layers, rows, features), or without rows where there is one."""
    hidden, cell = config.state_shapes(rows)
    h, c = (real_array(name, state) for name, state in zip(("h_0", "c_0"), two_states(states), strict=True))
    if rows == 1 and h.ndim == c.ndim == 2:
        h, c = h[:, None], c[:, None]
    return lstm_states(CallShapes(hidden, hidden, cell, rows), (h, c, *states[2:]), dtype)


def stream_rows(rows: Any, batch_size: int) -> Rows:
    """Numbers of the rows that an index picks: an int, a slice, several ints, or a bool for each row."""
    try:
        picked = np.arange(batch_size)[np.asarray([], np.intp) if _is_empty(rows) else rows]
    except (IndexError, TypeError, ValueError) as error:
        raise IndexError(
            f"rows must pick from the {counted(batch_size, 'row')} of the stream: {error}\n"
            f"It is {shown(rows)}; an int, a slice, a list of ints or of {batch_size} bools is expected, or None for "
            f"all. {UNCHANGED}"
        ) from None
    return np.atleast_1d(np.asarray(picked, np.intp)).ravel()


def snapshot_facts(config: Config, batch_size: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The sizes and the dtype in which a snapshot and a stream must agree."""
    sizes = config.input_size, config.hidden_size, config.num_layers, config.proj_size, batch_size
    return dict(zip(SNAPSHOT, (*sizes, dtype.name), strict=True))


def snapshot_states(config: Config, batch_size: int, dtype: np.dtype[Any], snapshot: object) -> States:
    """h and c of a snapshot that fits."""
    wanted = f"A snapshot is what snapshot() gives, or the same saved by numpy.savez. {UNCHANGED}"
    if not isinstance(snapshot, Mapping):
        raise TypeError(f"a snapshot must be a mapping, not {shown(snapshot)}, a {type(snapshot).__name__}\n{wanted}")
    if missing := [name for name in (*SNAPSHOT, "h", "c") if name not in snapshot]:
        raise ValueError(f"the snapshot lacks {', '.join(missing)}\n{wanted}")
    for name, value in snapshot_facts(config, batch_size, dtype).items():
        found = np.asarray(snapshot[name])
        if found.ndim != 0 or found.item() != value:
            raise ValueError(
                f"{name} of the snapshot is {shown(snapshot[name])}, and that of the stream {value!r}\n"
                f"A snapshot goes on only in a stream of the same sizes and dtype. {UNCHANGED}"
            )
    states = []
    for name, shape in zip("hc", config.state_shapes(batch_size), strict=True):
        state = real_array(f"{name} of the snapshot", snapshot[name])
        if state.shape != shape or state.dtype.newbyteorder("=") != dtype:
            raise ValueError(
                f"{name} of the snapshot must be {dtype} of shape {shape}, not {state.dtype} of shape {state.shape}\n"
                f"{UNCHANGED}"
            )
        states.append(state)
    return states[0], states[1]
