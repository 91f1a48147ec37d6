"""Shapes of a call: of its input, its initial states and its results."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape, States
from numlstm.base.validation.arrays import real_array
from numlstm.base.wording import counted


class CallShapes(NamedTuple):
    """The shapes of one call as its user sees them, known from the input's shape alone."""

    output: Shape
    hidden: Shape  # of h_0 and h_n
    cell: Shape  # of c_0 and c_n
    batch: int  # rows; 1 for unbatched input
    swap: bool = False  # batch_first: the engine sees it transposed
    unbatched: bool = False


# ---------------------------------------------------------------- an LSTM


def lstm_call(config: Config, shape: Shape, hx: object) -> CallShapes:
    """The call for an input of that shape, or the first error that ``torch.nn.LSTM`` finds in it."""
    if len(shape) not in (2, 3):
        wanted = f"({'batch, steps' if config.batch_first else 'steps, batch'}, {config.input_size})"
        raise ValueError(
            f"LSTM: Expected input to be 2D or 3D, got {len(shape)}D instead\n"
            f"input must have shape {wanted}, or (steps, {config.input_size}) unbatched; received {shape}."
        )
    unbatched = len(shape) == 2
    swap = config.batch_first and not unbatched
    steps, batch = (shape[1], shape[0]) if swap else (shape[0], 1 if unbatched else shape[1])
    call = _lstm_call(config, shape, batch, hx, "input", swap, unbatched)
    if steps == 0:
        if hx is not None:
            lstm_states(call, hx, np.dtype(np.float32))
        raise no_steps(f"input has shape {shape}, which holds no step; an empty batch is fine, an empty sequence not.")
    return call


def packed_call(config: Config, shape: Shape, batch: int, hx: object) -> CallShapes:
    """The call for packed data of that shape with `batch` sequences; the texts are PyTorch's for a padded batch."""
    if len(shape) != 2:
        raise RuntimeError(
            f"input must have 2 dimensions, got {len(shape)}\n"
            f"The data of a packed sequence must have shape (sum of lengths, {config.input_size}); received {shape}."
        )
    return _lstm_call(config, shape, batch, hx, "data of the packed sequence")


def _lstm_call(
    config: Config, shape: Shape, batch: int, hx: object, name: str, swap: bool = False, unbatched: bool = False
) -> CallShapes:
    """The shapes; the axes of the states and the features of the input are checked."""
    output = (*shape[:-1], config.num_directions * config.output_size)
    call = CallShapes(output, *config.state_shapes(*[batch] * (not unbatched)), batch, swap, unbatched)
    if hx is not None:
        _check_axes(call, *_pair(hx))
    if shape[-1] != config.input_size:
        raise wrong_features(config, shape, name)
    return call


def wrong_features(config: Config, shape: Shape, name: str = "input", hint: str = "") -> RuntimeError:
    """The error for an array whose last axis does not hold `input_size` features."""
    size = config.input_size
    return RuntimeError(
        f"input.size(-1) must be equal to input_size. Expected {size}, got {shape[-1]}\n"
        + (hint or f"{name} has shape {shape}; its last axis must hold the {counted(size, 'feature')} of a step.")
    )


def no_steps(hint: str) -> RuntimeError:
    """The error for a sequence without steps."""
    return RuntimeError(f"Expected sequence length to be larger than 0 in RNN\n{hint}")


def check_no_lengths(lengths: object) -> None:
    """Raise TypeError for lengths of an input that is packed."""
    if lengths is not None:
        raise TypeError("lengths is for a padded batch, and the input is packed\nLeave lengths out.")


def lstm_states(call: CallShapes, hx: Any, dtype: np.dtype[Any]) -> States:
    """h_0 and c_0 as arrays of the shapes that the call asks for."""
    if _fits(call, hx, dtype):
        return hx  # type: ignore[no-any-return]
    h_0, c_0 = _pair(hx)
    _check_axes(call, h_0, c_0)
    for index, (state, expected) in enumerate(((h_0, call.hidden), (c_0, call.cell))):
        if state.shape != expected:
            got, wanted = state.shape, expected
            if call.unbatched:  # PyTorch speaks of the batch of one that it made of it
                got, wanted = (got[0], 1, got[1]), (expected[0], 1, expected[1])
            raise RuntimeError(
                f"Expected hidden[{index}] size {wanted}, got {list(got)}\n"
                f"{'hc'[index]}_0 must have shape {expected}: (num_layers * num_directions, "
                f"{'' if call.unbatched else 'batch, '}features); batch_first does not touch it."
            )
    _check_count("lstm", hx)
    return h_0, c_0


def _check_axes(call: CallShapes, h_0: Array, c_0: Array) -> None:
    dims = len(call.hidden)
    if h_0.ndim != dims or c_0.ndim != dims:
        raise RuntimeError(
            f"For {'unbatched 2-D' if call.unbatched else 'batched 3-D'} input, hx and cx should also be {dims}-D "
            f"but got ({h_0.ndim}-D, {c_0.ndim}-D) tensors\n"
            f"h_0 must have shape {call.hidden} and c_0 {call.cell}; received {h_0.shape} and {c_0.shape}."
        )


# ---------------------------------------------------------------- the pair (h_0, c_0)


def _fits(call: CallShapes, hx: object, dtype: np.dtype[Any]) -> bool:
    """Whether hx is a pair of ndarrays as the call wants them: in a loop, the last call's own result."""
    if type(hx) is not tuple or len(hx) != 2:
        return False
    h_0, c_0 = hx
    return (
        type(h_0) is ndarray
        and type(c_0) is ndarray
        and h_0.dtype is dtype
        and c_0.dtype is dtype
        and h_0.shape == call.hidden
        and c_0.shape == call.cell
    )


def two_states(hx: object) -> tuple[Any, Any]:
    """The items for h_0 and c_0 of `hx`, not converted."""
    states = _sequence(hx)
    _check_count("", states)
    return states[0], states[1]


def _pair(hx: object) -> States:
    h_0, c_0 = two_states(hx)
    return real_array("h_0", h_0), real_array("c_0", c_0)


def _sequence(hx: object) -> tuple[Any, ...] | list[Any]:
    if not isinstance(hx, tuple | list):
        raise TypeError(
            f"hx must be a tuple (h_0, c_0), not {type(hx).__name__}\n"
            "Both states are needed; leave hx out to start from zeros."
        )
    return hx


def _check_count(kind: str, hx: tuple[Any, ...] | list[Any], at_least_two: bool = True) -> None:
    """Raise PyTorch's RuntimeError unless hx has two items, or its IndexError for fewer."""
    detail = f"hx must be (h_0, c_0), but it has {counted(len(hx), 'item')}."
    if at_least_two and len(hx) < 2:
        raise IndexError(f"{'tuple' if isinstance(hx, tuple) else 'list'} index out of range\n{detail}")
    if kind and len(hx) != 2:
        raise RuntimeError(f"{kind} expects two hidden states\n{detail}")


# ---------------------------------------------------------------- an LSTMCell


def cell_call(config: Config, shape: Shape, hx: object) -> CallShapes:
    """The call of an LSTMCell for an input of that shape, or the first error that ``torch.nn.LSTMCell`` finds."""
    if len(shape) not in (1, 2):
        raise ValueError(
            f"LSTMCell: Expected input to be 1D or 2D, got {len(shape)}D instead\n"
            f"input must have shape (batch, {config.input_size}), or ({config.input_size},) unbatched; "
            f"received {shape}."
        )
    unbatched = len(shape) == 1
    state = (*shape[:-1], config.hidden_size)
    call = CallShapes(state, state, state, 1 if unbatched else shape[0], unbatched=unbatched)
    if hx is not None:
        _cell_pair(call, hx)
    if shape[-1] != config.input_size:
        raise RuntimeError(
            f"input has inconsistent input_size: got {shape[-1]} expected {config.input_size}\n"
            f"input has shape {shape}; its last axis must hold {counted(config.input_size, 'feature')}."
        )
    return call


def check_not_packed(input: object) -> None:
    """Raise PyTorch's AttributeError for a packed sequence in place of a step."""
    if hasattr(input, "batch_sizes"):
        raise AttributeError(
            f"'{type(input).__name__}' object has no attribute 'dim'\n"
            "An LSTMCell takes one step of a batch; an LSTM takes packed sequences."
        )


def cell_states(call: CallShapes, hx: Any, dtype: np.dtype[Any]) -> States:
    """h_0 and c_0 of an LSTMCell as arrays of the shape that the call asks for."""
    if _fits(call, hx, dtype):
        return hx  # type: ignore[no-any-return]
    h_0, c_0 = _cell_pair(call, hx)
    _check_cell_state(call, 0, h_0)
    _check_cell_state(call, 1, c_0)
    return h_0, c_0


def _cell_pair(call: CallShapes, hx: object) -> list[Array]:
    given = _sequence(hx)
    states = [real_array(f"hx[{index}]", value) for index, value in enumerate(given)]
    for index, state in enumerate(states):
        if state.ndim not in (1, 2):
            raise ValueError(
                f"LSTMCell: Expected hx[{index}] to be 1D or 2D, got {state.ndim}D instead\n"
                f"hx must be (h_0, c_0), both of shape {call.hidden}."
            )
    _check_count("lstm_cell", given, at_least_two=call.unbatched)
    return states


def _check_cell_state(call: CallShapes, index: int, state: Array) -> None:
    """PyTorch first compares the batch, then the features, of the batch of one that it makes of unbatched states."""
    if state.shape == call.hidden:
        return
    shape = (1, *state.shape) if call.unbatched else state.shape
    units = call.hidden[-1]
    wanted = f"\n{'hc'[index]}_0 must have shape {call.hidden}; received {state.shape}."
    if shape[0] != call.batch:
        raise RuntimeError(f"Input batch size {call.batch} doesn't match hidden{index} batch size {shape[0]}" + wanted)
    if len(shape) < 2:
        raise IndexError("Dimension out of range (expected to be in range of [-1, 0], but got 1)" + wanted)
    if shape[1] != units:
        raise RuntimeError(f"hidden{index} has inconsistent hidden_size: got {shape[1]}, expected {units}" + wanted)
    raise RuntimeError(f"hx[{index}] is batched, but input is not" + wanted)
