"""An LSTM and data for it, for tests without special needs."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

import numlstm

Array = np.ndarray[Any, np.dtype[Any]]

# input, hidden, and what else: whole and tail blocks, few and many, each kind of last group of W_hr
SIZES: tuple[tuple[int, int, dict[str, Any]], ...] = (
    (1, 40, {}),
    (6, 4, {"num_layers": 2}),
    (5, 7, {"bidirectional": True}),
    (3, 24, {"bias": False}),
    (10, 50, {"num_layers": 2, "bidirectional": True, "proj_size": 20}),
    (40, 136, {"proj_size": 70}),
)
CALLS = ((1, 1), (5, 1), (4, 2), (6, 3), (3, 7), (9, 30))  # steps, rows


def make(hidden: int = 37, proj_size: int = 0, dtype: str = "float32", **flags: Any) -> numlstm.LSTM:
    """An LSTM in eval mode of 5 features. Its 37 units fill no register of any CPU."""
    return numlstm.LSTM(5, hidden, proj_size=proj_size, dtype=dtype, seed=hidden, **flags).eval()


def data(lstm: Any, steps: int = 9, batch: int = 7, seed: int = 0) -> tuple[Array, tuple[Array, Array]]:
    """Input of shape (steps, batch, features), and h_0 and c_0."""
    rng = np.random.default_rng(seed)
    cells = lstm.num_layers * (2 if lstm.bidirectional else 1)
    shapes = (
        (steps, batch, lstm.input_size),
        (cells, batch, lstm.proj_size or lstm.hidden_size),
        (cells, batch, lstm.hidden_size),
    )
    x, h_0, c_0 = (rng.standard_normal(shape).astype(lstm.dtype) for shape in shapes)
    return x, (h_0, c_0)


def quietly(path: Path, name: str | None = None) -> Any:
    """The LSTM of a file, whatever loading it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return numlstm.load(path, name)
