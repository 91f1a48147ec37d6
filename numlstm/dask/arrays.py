"""An LSTM over Dask arrays: one task for each chunk of the batch and of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph

from numlstm.base.typing import Array
from numlstm.base.validation.arrays import real_array
from numlstm.base.validation.shapes import lstm_call, lstm_states, two_states
from numlstm.dask import model
from numlstm.lstm import LSTM
from numlstm.models.batches import Batches


def forward(lstm: Any, array: da.Array, hx: Sequence[da.Array | Array] | None = None) -> Any:
    """Run an LSTM or a model over a Dask array of sequences, lazily.

    A chunk of the batch is a chain of tasks, one for each chunk of the steps, which passes the state on. Chains are
    independent. Results have the bits of a single call of `lstm`.

    Parameters
    ----------
    lstm : LSTM, or a model of `numlstm.load_model` or `numlstm.nn.Sequential`
        Not in train mode with dropout. Its current parameters are used, and sent to each worker once. A model has one
        input and one output, and all axes but the batch in one chunk.
    array : dask array
        The `input` of `LSTM.forward`: (steps, batch, input_size), (batch, steps, input_size) with ``batch_first``, or
        (steps, input_size). All features must be in one chunk; so must all steps, if the LSTM is bidirectional.
    hx : (array, array), optional
        h_0 and c_0, Dask or NumPy arrays, shaped as for `LSTM.forward`; zeros if left out.

    Returns
    -------
    output : dask array
        Shaped as by `LSTM.forward`, and chunked like `array`.
    (h_n, c_n) : tuple of dask array
        The states after the last step, chunked over the batch like `array`. A model gives its output alone.

    Raises
    ------
    ValueError
        Features, or steps of a bidirectional LSTM, are split into chunks; sizes of chunks are unknown; or the LSTM is
        in train mode with dropout. Other errors are those of `LSTM.forward`.

    Examples
    --------
    >>> lstm = LSTM(3, 4, seed=0).eval()
    >>> x = np.random.default_rng(0).standard_normal((6, 4, 3), np.float32)
    >>> output, (h_n, c_n) = forward(lstm, da.from_array(x, chunks=(2, 3, 3)))
    >>> bool((output.compute() == lstm(x)[0]).all())
    True
    """
    model.check_model(lstm)
    if not isinstance(array, da.Array):
        raise TypeError(
            f"array is of type {type(array).__name__}, not a Dask array\n"
            "dask.array.from_array(array, chunks=...) makes one of a NumPy array; lstm(array) takes that itself."
        )
    if not isinstance(lstm, LSTM):
        return _of_model(lstm, array, hx)
    config = lstm._config
    states = None if hx is None else tuple(da.asarray(state) for state in two_states(hx))
    unbatched = _check_call(lstm, array, states)
    step_axis, batch_axis = (1, 0) if config.batch_first else (0, 1)
    if unbatched:  # a batch of one
        array = array[None] if batch_axis == 0 else array[:, None]
        states = None if states is None else tuple(state[:, None] for state in states)
    _check_chunks(array, step_axis, config.needs_whole_sequences, unbatched)
    if states is not None:
        states = tuple(state.rechunk({0: -1, 1: array.chunks[batch_axis], 2: -1}) for state in states)
    output, h_n, c_n = _graph(lstm, array, states, step_axis, batch_axis)
    if unbatched:
        output, h_n, c_n = output[0] if batch_axis == 0 else output[:, 0], h_n[:, 0], c_n[:, 0]
    return output, (h_n, c_n)


def _of_model(whole: Any, array: da.Array, hx: object) -> da.Array:
    """A whole model, a task for each chunk of the batch."""
    if hx is not None:
        raise ValueError("hx is for an LSTM: a model begins with states of its own")
    axis = Batches(whole).axis
    split = [other for other in range(array.ndim) if other != axis and array.numblocks[other] > 1]
    if split:
        raise ValueError(
            f"axis {split[0]} lies in {array.numblocks[split[0]]} chunks; a model needs all but the batch in "
            f"one\nRechunk: array.rechunk({{{split[0]}: -1}})."
        )
    given = _stand_in("array", array)
    real_array("array", given[:0])
    sizes = [[rows if other == axis else size for other, size in enumerate(array.shape)] for rows in (1, 2)]
    one, two = (whole(np.zeros(shape, array.dtype)) for shape in sizes)
    if not isinstance(one, np.ndarray):
        raise ValueError(f"the model gives {len(one)} outputs; an array takes a model of one output")
    at = next(n for n, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b)
    task = model.sent(whole)
    parts = []
    for block, rows in zip(array.to_delayed().ravel(), array.chunks[axis], strict=True):
        shape = (*one.shape[:at], rows, *one.shape[at + 1 :])
        parts.append(da.from_delayed(delayed(model.run_whole)(task, block), shape, one.dtype))
    return da.concatenate(parts, axis=at)


def _check_call(lstm: LSTM, array: da.Array, states: tuple[da.Array, ...] | None) -> bool:
    """Check dtypes and shapes as a call does. Returns whether the input is unbatched."""
    given = _stand_in("array", array)
    real_array("input", given[:0])
    hx = None if states is None else tuple(_stand_in(f"hx[{n}]", state) for n, state in enumerate(states))
    call = lstm_call(lstm._config, given.shape, hx)
    if hx is not None:
        lstm_states(call, hx, lstm.dtype)
    return call.unbatched


def _stand_in(name: str, array: da.Array) -> Array:
    """A NumPy array of the same shape and dtype that takes no memory, for the checks of a call."""
    if any(np.isnan(size) for size in array.shape):
        raise ValueError(f"{name} has chunks of unknown sizes: {array.shape}; call {name}.compute_chunk_sizes() first")
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _check_chunks(array: da.Array, step_axis: int, whole: bool, unbatched: bool) -> None:
    if array.numblocks[2] > 1:
        axis = 1 if unbatched else 2  # of the caller's array
        raise ValueError(
            f"the {array.shape[2]} features of a step lie in chunks of {array.chunks[2]}; a step needs all of them\n"
            f"Rechunk: array.rechunk({{{axis}: -1}})."
        )
    if whole and array.numblocks[step_axis] > 1:
        raise ValueError(
            f"the {array.shape[step_axis]} steps lie in {array.numblocks[step_axis]} chunks, but the reverse direction "
            "of the LSTM begins at the last step and needs all of them\n"
            f"Rechunk: array.rechunk({{{step_axis}: -1}}), and make the chunks of the batch smaller instead."
        )


def _graph(
    lstm: LSTM, array: da.Array, states: tuple[da.Array, ...] | None, step_axis: int, batch_axis: int
) -> list[da.Array]:
    """output, h_n and c_n as views of the tasks that compute them."""
    config, sent = lstm._config, model.sent(lstm)
    token = tokenize(sent.key, array, states)
    calls, *names = (f"numlstm-{part}-{token}" for part in ("piece", "output", "h_n", "c_n"))
    layers: dict[str, dict[Any, Any]] = {name: {} for name in (calls, *names)}
    for row in range(array.numblocks[batch_axis]):
        state: Any = None if states is None else (tuple, [(state.name, 0, row, 0) for state in states])
        for step in range(array.numblocks[step_axis]):
            at = (step, row, 0) if step_axis == 0 else (row, step, 0)
            result, after = (calls, step, row), (calls, step, row, "state")
            layers[calls] |= {result: (model.run, sent.key, (array.name, *at), state), after: (getitem, result, 1)}
            layers[names[0]][names[0], *at] = (getitem, result, 0)
            state = after
        for n, name in enumerate(names[1:]):
            layers[name][name, 0, row, 0] = (getitem, state, n)
    sources = [array, sent, *(states or ())]
    base = HighLevelGraph.from_collections(calls, layers[calls], dependencies=sources)
    chunks = [(*array.chunks[:2], (config.num_directions * config.output_size,))]
    for cells, size in config.state_shapes():
        chunks.append(((cells,), array.chunks[batch_axis], (size,)))
    results = []
    for name, sizes in zip(names, chunks, strict=True):
        graph = HighLevelGraph({**base.layers, name: layers[name]}, {**base.dependencies, name: {calls}})
        results.append(da.Array(graph, name, sizes, lstm.dtype))
    return results
