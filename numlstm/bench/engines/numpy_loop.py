"""A loop over steps in NumPy, as one would write it without an engine: matrix products by its BLAS, the rest in place.

Gates are reordered to i, f, o, g, and the weights of the first three halved, so that sigmoid(x) = tanh(x / 2) / 2 + 1/2
and tanh take one call for all gates.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from numlstm.base.typing import Array, Result
from numlstm.bench.engines.task import LeftOutError, Setting, Task

ORDERS: tuple[Any, ...] = (
    "C",
    "F",
)  # of the weights, (inputs, gates): what is faster depends on the BLAS and the sizes


def numpy(task: Task) -> dict[str, Setting]:
    """The loop, with the input projected step by step or all steps at once."""
    if os.environ.get("OPENBLAS_NUM_THREADS") != str(task.threads):
        raise LeftOutError(f"its BLAS may use any number of threads; set OPENBLAS_NUM_THREADS={task.threads}")
    settings = {}
    for order in ORDERS:
        settings[f"x and h in one product, {order} order"] = Setting(Loop(task, order, hoist=False).call)
        settings[f"x projected beforehand, {order} order"] = Setting(Loop(task, order, hoist=True).call)
    return settings


class Loop:
    """The LSTM of a task. `hoist`: project the input of all steps at once."""

    def __init__(self, task: Task, order: Any, hoist: bool) -> None:
        self.task, self.directions = task, task.workload.directions
        cells = task.workload.config.cells()
        self.cells = [Cell(task, suffix, order, hoist) for _, _, suffix in cells]
        self.kept: Result | None = None

    def call(self) -> Result:
        """Run over the input of the task."""
        x, h_0, c_0 = self.task.inputs
        workload = self.task.workload
        below = x.swapaxes(0, 1) if workload.batch_first else x
        shape = (*below.shape[:2], self.directions * workload.config.output_size)
        output, (h_n, c_n) = self.kept or (np.empty(shape, x.dtype), (np.empty_like(h_0), np.empty_like(c_0)))
        for first in range(0, len(self.cells), self.directions):
            last = first + self.directions == len(self.cells)
            above = output if last else np.empty(shape, x.dtype)
            for at in range(first, first + self.directions):
                h_n[at], c_n[at] = h_0[at], c_0[at]
                part = np.split(above, self.directions, axis=2)[at - first] if self.directions == 2 else above
                self.cells[at].run(below, h_n[at], c_n[at], part)
            below = above
        made = output, (h_n, c_n)
        if self.task.style == "reuse":
            self.kept = made
        return (output.swapaxes(0, 1), made[1]) if workload.batch_first else made


class Cell:
    """One layer in one direction."""

    def __init__(self, task: Task, suffix: str, order: Any, hoist: bool) -> None:
        rows, units = task.workload.batch_size, task.workload.hidden_size
        self.w_ih, self.w_hh, self.bias = (
            _reordered(array)
            for array in (
                task.parameters[f"weight_ih{suffix}"],
                task.parameters[f"weight_hh{suffix}"],
                task.bias(suffix),
            )
        )
        self.w_hr = task.parameters[f"weight_hr{suffix}"].T if task.workload.proj_size else None
        self.hoist, self.reverse = hoist, suffix.endswith("reverse")
        self.features = 0 if hoist else self.w_ih.shape[1]
        weights = self.w_hh if hoist else np.concatenate([self.w_ih, self.w_hh], axis=1)
        self.weights = np.asarray(weights.T, order=order)
        self.inputs = np.empty((rows, self.weights.shape[0]), weights.dtype)  # of the product: x and h, or h
        self.gates = np.empty((rows, 4 * units), weights.dtype)
        self.product = (self.inputs, self.gates) if rows > 1 else (self.inputs[0], self.gates[0])
        self.sigmoids = self.gates[:, : 3 * units]
        self.i, self.f, self.o, self.g = (self.gates[:, k * units : (k + 1) * units] for k in range(4))
        self.unprojected = np.empty((rows, units), weights.dtype)

    def run(self, x: Array, h: Array, c: Array, output: Array) -> None:
        """All steps; h and c are updated."""
        projected = x @ self.w_ih.T + self.bias if self.hoist else None
        inputs, gates = self.product
        features, i, f, o, g = self.inputs[:, : self.features], self.i, self.f, self.o, self.g
        hidden, made = self.inputs[:, self.features :], self.unprojected
        hidden[...] = h
        for t in range(len(x) - 1, -1, -1) if self.reverse else range(len(x)):
            if not self.hoist:
                features[...] = x[t]
            np.dot(inputs, self.weights, out=gates)
            self.gates += self.bias if projected is None else projected[t]
            np.tanh(self.gates, out=self.gates)
            self.sigmoids *= 0.5
            self.sigmoids += 0.5
            c *= f
            np.multiply(i, g, out=i)
            c += i
            np.tanh(c, out=made)
            if self.w_hr is None:
                np.multiply(o, made, out=hidden)
            else:
                np.multiply(o, made, out=made)
                np.matmul(made, self.w_hr, out=hidden)
            output[t] = hidden
        h[...] = hidden


def _reordered(parameter: Array) -> Array:
    """Gates i, f, g, o as i, f, o, g, the first three halved."""
    i, f, g, o = np.split(parameter, 4)
    half = parameter.dtype.type(0.5)
    return np.concatenate([half * i, half * f, half * o, g])
