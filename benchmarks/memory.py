"""Memory of a call: linear in steps and rows, and within the promise beyond its results.

The promise, including the conversion of the input: 16 MB, and one sequence of the hidden size per direction if there
are several layers.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from numlstm.base.config import Config
from numlstm.bench.costs.memory import extra_bytes, promised_bytes

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
SCALE = 4 if QUICK else 1
CONFIGS = {
    "one layer": Config(64, 64),
    "three layers": Config(64, 64, 3),
    "two layers, both directions": Config(64, 64, 2, bidirectional=True),
}
SHAPES = [  # (steps, rows): twice the steps, twice the rows
    f"{steps // SCALE},{rows}" for steps, rows in ((4000, 32), (8000, 32), (4000, 64))
]


def model(config: Config) -> Any:
    """An LSTM that has made one small call, so that its kernels are loaded."""
    import numlstm

    lstm = numlstm.LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        bidirectional=config.bidirectional,
        seed=0,
    ).eval()
    lstm(np.zeros((1, 1, config.input_size), np.float32))
    return lstm


def sequence(shape: str, dtype: str, features: int) -> np.ndarray[Any, Any]:
    """An input. Every page is touched."""
    steps, rows = map(int, shape.split(","))
    return np.ones((steps, rows, features), dtype)


class Resident:
    """The process's high-water mark after the call, and without the call as a baseline."""

    params = (list(CONFIGS), SHAPES)
    param_names = ("model", "steps,rows")
    timeout = 300.0

    def setup_cache(self) -> None:
        """Build the kernels in another process, so that their compilation is not measured."""
        model(CONFIGS["one layer"])

    def setup(self, name: str, shape: str) -> None:
        """The model and its input."""
        self.lstm, self.x = model(CONFIGS[name]), sequence(shape, "float32", CONFIGS[name].input_size)

    def peakmem_baseline(self, name: str, shape: str) -> None:
        """Without a call."""

    def peakmem_call(self, name: str, shape: str) -> None:
        """With one call; its results included."""
        self.lstm(self.x)

    def peakmem_ten_calls(self, name: str, shape: str) -> None:
        """No more than with one: each call's results are let go before the next."""
        for _ in range(10):
            self.lstm(self.x)


class Extra:
    """Bytes of a call beyond input, output and weights, and that figure as a part of what is promised."""

    params = (list(CONFIGS), SHAPES, ["float32", "float16"])
    param_names = ("model", "steps,rows", "input")
    timeout = 300.0

    def setup(self, name: str, shape: str, dtype: str) -> None:
        """Measure one call."""
        config = CONFIGS[name]
        lstm, x = model(config), sequence(shape, dtype, config.input_size)
        self.extra = extra_bytes(lambda: lstm(x))
        self.promised = promised_bytes(config, x.shape[0], x.shape[1], 4)

    def track_extra(self, name: str, shape: str, dtype: str) -> int:
        return self.extra

    def track_part_of_promise(self, name: str, shape: str, dtype: str) -> float:
        return self.extra / self.promised

    track_extra.unit = "bytes"  # type: ignore[attr-defined]
    track_part_of_promise.unit = "1 is the promise"  # type: ignore[attr-defined]
