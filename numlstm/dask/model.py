"""An LSTM on its way to workers: its parameters travel once to each, and are packed there once."""

from __future__ import annotations

import pickle
from typing import Any

from dask.base import tokenize
from dask.delayed import Delayed, delayed

from numlstm.lstm import LSTM
from numlstm.runtime import threads


def check(lstm: Any) -> None:
    """Refuse what is no LSTM, and one whose results would be random."""
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm is of type {type(lstm).__name__}, not an LSTM; numlstm.load and from_torch give one")
    if lstm.training and lstm.dropout > 0 and lstm.num_layers > 1:
        raise ValueError(
            f"the LSTM is in train mode with dropout={lstm.dropout}: which numbers are dropped would depend on how the "
            "work is cut\nCall lstm.eval() first."
        )


def sent(lstm: LSTM) -> Delayed:
    """A task that makes the LSTM out of its pickle.

    The scheduler sees bytes alone; a worker that needs the LSTM gets it from another that has it.
    """
    token = tokenize(lstm._config, lstm.dtype.name, lstm.training, lstm._parameters())
    content = pickle.dumps(lstm, pickle.HIGHEST_PROTOCOL)
    return delayed(received, pure=True)(content, dask_key_name=f"numlstm-model-{token}")


def received(content: bytes) -> LSTM:
    """The LSTM on a worker."""
    lstm: LSTM = pickle.loads(content)
    return lstm


def run(lstm: LSTM, input: Any, hx: Any) -> Any:
    """One piece, on a worker."""
    share_cores()
    return lstm(input, hx)


def share_cores() -> None:
    """Let calls in a Dask worker use as many threads as it has, all of them together.

    Several workers on one machine share its cores by their numbers of threads; each by itself would take all of them.
    (Dask starts workers with ``OMP_NUM_THREADS=1``, for libraries whose threads multiply with its own.)
    """
    try:
        from distributed import get_worker

        count = get_worker().state.nthreads
    except (ImportError, ValueError):  # no worker: Dask's own threads in this process, which has all the cores
        return
    threads.suggest(count, "one for each thread of this Dask worker")
