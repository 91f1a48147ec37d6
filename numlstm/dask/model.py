"""An LSTM on Dask workers: its parameters are sent to each worker once, and packed there once."""

from __future__ import annotations

import pickle

from dask.base import tokenize
from dask.delayed import Delayed, delayed

from numlstm.base.typing import Array, Result, States
from numlstm.lstm import LSTM
from numlstm.runtime import threads


def check(lstm: object) -> None:
    """Raise TypeError for anything but an LSTM, and ValueError for one whose results would be random."""
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm is of type {type(lstm).__name__}, not an LSTM; numlstm.load and from_torch give one")
    if lstm.training and lstm.dropout > 0 and lstm.num_layers > 1:
        raise ValueError(
            f"the LSTM is in train mode with dropout={lstm.dropout}: results would depend on the chunks\n"
            "Call lstm.eval() first."
        )


def sent(lstm: LSTM) -> Delayed:
    """A task that unpickles the LSTM. The scheduler holds only bytes; workers pass the LSTM on to each other."""
    token = tokenize(lstm._config, lstm.dtype.name, lstm.training, lstm._parameters())
    content = pickle.dumps(lstm, pickle.HIGHEST_PROTOCOL)
    return delayed(received, pure=True)(content, dask_key_name=f"numlstm-model-{token}")


def received(content: bytes) -> LSTM:
    """The LSTM on a worker."""
    lstm: LSTM = pickle.loads(content)
    return lstm


def run(lstm: LSTM, input: Array, hx: States | None) -> Result:
    """One chunk, on a worker."""
    share_cores()
    return lstm(input, hx)


def share_cores() -> None:
    """Limit calls in a Dask worker to the worker's number of threads, in total.

    Otherwise each of several workers on a machine would use all cores. (Dask sets ``OMP_NUM_THREADS=1`` for workers,
    because the threads of most libraries multiply with its own.)
    """
    try:
        from distributed import get_worker

        count = get_worker().state.nthreads
    except (ImportError, ValueError):  # not in a worker: Dask's threads in this process may use all cores
        return
    threads.suggest(count, "one for each thread of this Dask worker")
