"""Dask arrays through an LSTM: a task for each chunk of the batch and of the steps."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from numlstm.base.validation.arrays import real_array
from numlstm.base.validation.shapes import lstm_call, lstm_states, two_states
from numlstm.dask import model
from numlstm.lstm import LSTM

Arrays = tuple[da.Array, tuple[da.Array, da.Array]]


def forward(lstm: LSTM, array: Any, hx: Any = None) -> Arrays:
    """Run an LSTM over a Dask array of sequences, lazily.

    A chunk of the batch is a chain of tasks, one for each chunk of the steps, along which the state flows; chains do
    not know of one another. Results have the bits of one call of `lstm` over everything.

    Parameters
    ----------
    lstm : LSTM
        Not in train mode with dropout. Its parameters are those at the time of this call, and travel once
        to each worker.
    array : dask array
        What `LSTM.forward` takes as `input`: (steps, batch, input_size), (batch, steps, input_size) with
        ``batch_first``, or (steps, input_size). The features are in one chunk; so are the steps, if the LSTM is
        bidirectional, since its second direction begins at the last one.
    hx : (array, array), optional
        h_0 and c_0, Dask or NumPy arrays, shaped as for `LSTM.forward`; zeros if left out.

    Returns
    -------
    output : dask array
        Shaped as that of `LSTM.forward`, and chunked as `array` is.
    (h_n, c_n) : tuple of dask array
        The states after the last step, chunked over the batch as `array` is.

    Raises
    ------
    ValueError
        A chunk holds only some of the features, or only some of the steps of a bidirectional LSTM; or sizes of chunks
        are unknown; or the LSTM is in train mode with dropout. And what `LSTM.forward` raises.
    TypeError, RuntimeError
        As `LSTM.forward` raises them.

    Examples
    --------
    >>> lstm = LSTM(3, 4, seed=0).eval()
    >>> x = np.random.default_rng(0).standard_normal((6, 4, 3), np.float32)
    >>> output, (h_n, c_n) = forward(lstm, da.from_array(x, chunks=(2, 3, 3)))
    >>> bool((output.compute() == lstm(x)[0]).all())
    True
    """
    model.check(lstm)
    if not isinstance(array, da.Array):
        raise TypeError(
            f"array is of type {type(array).__name__}, not a Dask array\n"
            "dask.array.from_array(array, chunks=...) makes one of a NumPy array; lstm(array) takes that itself."
        )
    config = lstm._config
    given = _stand_in("array", array)
    real_array("input", given[:0])
    states = None if hx is None else tuple(da.asarray(state) for state in two_states(hx))
    plain = None if states is None else tuple(_stand_in(f"hx[{n}]", state) for n, state in enumerate(states))
    call = lstm_call(config, given.shape, plain)
    if plain is not None:
        lstm_states(call, plain, lstm.dtype)
    of_steps, of_rows = (1, 0) if config.batch_first else (0, 1)
    if call.unbatched:  # a batch of one
        array = array[None] if of_rows == 0 else array[:, None]
        states = None if states is None else tuple(state[:, None] for state in states)
    _check_chunks(array, of_steps, config.bidirectional, call.unbatched)
    if states is not None:
        states = tuple(state.rechunk({0: -1, 1: array.chunks[of_rows], 2: -1}) for state in states)
    output, h_n, c_n = _graph(lstm, array, states, of_steps, of_rows)
    if call.unbatched:
        output, h_n, c_n = output[0] if of_rows == 0 else output[:, 0], h_n[:, 0], c_n[:, 0]
    return output, (h_n, c_n)


def _stand_in(name: str, array: da.Array) -> np.ndarray[Any, np.dtype[Any]]:
    """A NumPy array of the same shape and dtype that takes no memory, for the checks of a call."""
    if any(np.isnan(size) for size in array.shape):
        raise ValueError(f"{name} has chunks of unknown sizes: {array.shape}; call {name}.compute_chunk_sizes() first")
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _check_chunks(array: da.Array, of_steps: int, bidirectional: bool, unbatched: bool) -> None:
    if array.numblocks[2] > 1:
        axis = 1 if unbatched else 2  # as the caller counts them
        raise ValueError(
            f"the {array.shape[2]} features of a step lie in chunks of {array.chunks[2]}; a step needs all of them\n"
            f"Rechunk: array.rechunk({{{axis}: -1}})."
        )
    if bidirectional and array.numblocks[of_steps] > 1:
        raise ValueError(
            f"the {array.shape[of_steps]} steps lie in {array.numblocks[of_steps]} chunks, and the second direction "
            "of a bidirectional LSTM begins at the last step: no chunk can be computed before all are there\n"
            f"Rechunk: array.rechunk({{{of_steps}: -1}}), and make the chunks of the batch smaller instead."
        )


def _graph(lstm: LSTM, array: da.Array, states: Any, of_steps: int, of_rows: int) -> list[da.Array]:
    """The three results, as views of the tasks that make them."""
    config, dtype = lstm._config, lstm.dtype
    sent = model.sent(lstm)
    token = tokenize(sent.key, array, states)
    names = {part: f"numlstm-{part}-{token}" for part in ("piece", "output", "h_n", "c_n")}
    layers: dict[str, dict[Any, Any]] = {name: {} for name in names.values()}
    chunks, many_rows = array.numblocks[of_steps], array.numblocks[of_rows]
    for row in range(many_rows):
        state: Any = None if states is None else (tuple, [(state.name, 0, row, 0) for state in states])
        for step in range(chunks):
            at = (step, row, 0) if of_steps == 0 else (row, step, 0)
            piece, after = (names["piece"], step, row), (names["piece"], step, row, "state")
            layers[names["piece"]] |= {piece: (model.run, sent.key, (array.name, *at), state), after: (_item, piece, 1)}
            layers[names["output"]][names["output"], *at] = (_item, piece, 0)
            state = after
        for n, part in enumerate(("h_n", "c_n")):
            layers[names[part]][names[part], 0, row, 0] = (_item, state, n)
    sources = [array, sent, *(states or ())]
    base = HighLevelGraph.from_collections(names["piece"], layers[names["piece"]], dependencies=sources)
    cells, rows = (config.num_layers * config.num_directions,), array.chunks[of_rows]
    of_parts: dict[str, Any] = {
        "output": (*array.chunks[:2], (config.num_directions * config.output_size,)),
        "h_n": (cells, rows, (config.output_size,)),
        "c_n": (cells, rows, (config.hidden_size,)),
    }
    results = []
    for part, sizes in of_parts.items():
        name = names[part]
        graph = HighLevelGraph({**base.layers, name: layers[name]}, {**base.dependencies, name: {names["piece"]}})
        results.append(da.Array(graph, name, sizes, dtype))
    return results


def _item(items: Any, n: int) -> Any:
    return items[n]
