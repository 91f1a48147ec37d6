"""An LSTM or a model on Dask workers: its parameters are sent to each worker once, and packed there once."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
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


def check_model(model: Any) -> None:
    """Raise TypeError for anything but an LSTM and a model, and ValueError for one whose results would be random."""
    if isinstance(model, LSTM):
        check(model)
    elif not callable(model) or not hasattr(model, "lstms"):
        raise TypeError(
            f"lstm is of type {type(model).__name__}, not an LSTM or a model\n"
            "numlstm.load and numlstm.load_model give one."
        )
    elif getattr(model, "training", False):
        raise ValueError("the model is in train mode: dropout would depend on the chunks\nCall model.eval() first.")


def sent(model: Any) -> Delayed:
    """A task that unpickles the model. The scheduler holds only bytes; workers pass the model on to each other."""
    if isinstance(model, LSTM):
        token = tokenize(model._config, model.dtype.name, model.training, model._parameters())
        content = pickle.dumps(model, pickle.HIGHEST_PROTOCOL)
    else:  # of Keras it consists of functions
        content = cloudpickle.dumps(model)
        token = hashlib.sha256(content).hexdigest()
    return delayed(received, pure=True)(content, dask_key_name=f"numlstm-model-{token}")


def received(content: bytes) -> Any:
    """The model on a worker."""
    return pickle.loads(content)


def run(lstm: LSTM, input: Array, hx: States | None) -> Result:
    """One chunk, on a worker."""
    share_cores()
    return lstm(input, hx)


def run_whole(model: Any, input: Array) -> Array:
    """A whole model over one chunk of the batch, on a worker."""
    share_cores()
    output: Array = model(input)
    return output


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
