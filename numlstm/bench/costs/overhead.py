"""Time of a call of a small LSTM beyond its kernel: Python, checks, new arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.grid import Workload, find
from numlstm.bench.hardware.clock import microseconds
from numlstm.cell import LSTMCell
from numlstm.lstm import LSTM
from numlstm.runtime.call import Call

WORKLOADS = {name: find(name) for name in ("seed", "amp_step", "vad_step")}


def model(workload: Workload, batch_first: bool = False) -> LSTM:
    """A workload's LSTM."""
    lstm = LSTM(
        workload.input_size,
        workload.hidden_size,
        workload.num_layers,
        bidirectional=workload.directions == 2,
        batch_first=batch_first,
    )
    lstm.load_state_dict(workload.parameters())
    lstm.eval()
    return lstm


def ways(workload: Workload) -> dict[str, Callable[[], Any]]:
    """Every way to make the call, by name; the cell makes one step of the first layer."""
    x, h_0, c_0 = workload.inputs()
    lstm, first = model(workload), model(workload, batch_first=True)
    results = lstm(x, (h_0, c_0))
    out = (results[0].copy(), *(state.copy() for state in results[1]))
    swapped = np.ascontiguousarray(x.swapaxes(0, 1))
    row, states = np.ascontiguousarray(x[:, 0]), (h_0[:, 0].copy(), c_0[:, 0].copy())
    cell, step, cell_states = LSTMCell(workload.input_size, workload.hidden_size).eval(), x[0].copy(), (h_0[0], c_0[0])
    return {
        "with states": lambda: lstm(x, (h_0, c_0)),
        "without states": lambda: lstm(x),
        "with out=": lambda: lstm.forward(x, (h_0, c_0), out=out),
        "unbatched": lambda: lstm(row, states),
        "batch first": lambda: first(swapped, (h_0, c_0)),
        "cell": lambda: cell(step, cell_states),
    }


def kernel_alone(lstm: LSTM, x: Array, h_0: Array, c_0: Array) -> Callable[[], Any]:
    """The kernel's part of ``lstm(x, (h_0, c_0))``: the same plan, results always in the same arrays."""
    panels, executor = lstm._panels, lstm._model.executor
    output, (h_n, c_n) = lstm(x, (h_0, c_0))
    call = Call(panels, x, h_0, c_0, output, h_n, c_n)
    workspace = executor.lease(executor.plan(panels, call.plan_key))
    workspace.bind(call)
    forward, plan = executor.kernel.forward, workspace.address

    def run() -> tuple[Any, Any]:
        forward(plan)
        return workspace, call  # keeps alive what the plan points to

    return run


def outside(workload: Workload, rounds: int = 9) -> float:
    """Microseconds of ``lstm(x, (h_0, c_0))`` beyond its kernel: the median over rounds of the difference."""
    lstm, (x, h_0, c_0) = model(workload), workload.inputs()
    kernel = kernel_alone(lstm, x, h_0, c_0)
    differences = [microseconds(lambda: lstm(x, (h_0, c_0))) - microseconds(kernel) for _ in range(rounds)]
    return float(np.median(differences))
