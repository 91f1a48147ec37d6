"""numlstm itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.engines.task import Setting, Task, results
from numlstm.bench.grid import Workload


def model(workload: Workload, parameters: Mapping[str, Array], threads: int) -> Any:
    """The LSTM of a workload, in train mode, for calls on so many threads."""
    from numlstm.lstm import LSTM
    from numlstm.runtime.threads import set_num_threads

    set_num_threads(threads)
    config = workload.config
    lstm = LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        batch_first=config.batch_first,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        dtype=workload.dtype,
    )
    lstm.load_state_dict(parameters)
    return lstm


def numlstm(task: Task) -> dict[str, Setting]:
    """This package."""
    lstm = model(task.workload, task.parameters, task.threads).eval()
    x, h_0, c_0 = task.inputs
    if task.style == "reuse":
        out = tuple(np.empty_like(array) for array in results(lstm(x, (h_0, c_0))))
        return {"lstm.forward with out=": Setting(partial(lstm.forward, x, (h_0, c_0), out=out))}
    return {"lstm(input, (h_0, c_0))": Setting(partial(lstm, x, (h_0, c_0)))}
