"""A model over a pandas DataFrame of sequences: a row is a step, a column names the sequence it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted


def forward_frame(
    model: Callable[[Array], Array],
    frame: Any,
    *,
    group: str,
    order: str,
    features: Sequence[str] | None,
    batch_first: bool,
    indices: bool,
) -> Any:
    """The results of a model, as `numlstm.nn.Sequential.forward_frame` says.

    Sequences of the same length run as one batch, so that none is padded. With `indices`, the one feature column holds
    what an embedding looks up, and the input has no axis of features.
    """
    import pandas as pd

    chosen = _columns(frame, group, order, features)
    if indices and len(chosen) != 1:
        raise ValueError(f"the model begins with an Embedding, which takes one feature column, not {len(chosen)}")
    frame = frame.sort_values([group, order], kind="stable")
    _check_keys(frame, group, order)
    numbers, names = pd.factorize(frame[group])
    x = frame[chosen[0]].to_numpy() if indices else frame[chosen].to_numpy()
    begins = np.flatnonzero(np.r_[True, np.diff(numbers) != 0]) if len(frame) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[begins, len(frame)])
    places, outputs, by_step = [], [], True
    for length in np.unique(lengths):
        rows = begins[lengths == length, None] + np.arange(length)  # (sequences, steps)
        y = model(x[rows] if batch_first else x[rows.T])
        by_step = y.ndim == 3
        if by_step:
            y = (y if batch_first else y.swapaxes(0, 1)).reshape(-1, y.shape[-1])
        places.append(rows.ravel() if by_step else numbers[rows[:, 0]])
        outputs.append(y)
    if not outputs:
        raise ValueError("the frame has no rows")
    at, of_all = np.concatenate(places), np.concatenate(outputs)
    result = np.empty_like(of_all)
    result[at] = of_all
    keys = frame[[group, order]].reset_index(drop=True) if by_step else pd.DataFrame({group: names})
    named = pd.DataFrame(result, columns=[f"output_{n}" for n in range(result.shape[1])])
    return pd.concat([keys, named], axis=1)


def _columns(frame: Any, group: str, order: str, features: Sequence[str] | None) -> list[str]:
    """The names of the feature columns."""
    if not hasattr(frame, "sort_values"):
        raise TypeError(f"frame is of type {type(frame).__name__}, not a pandas DataFrame")
    names = list(frame.columns)
    chosen = [name for name in names if name not in (group, order)] if features is None else list(features)
    for name in (group, order, *chosen):
        if name not in names:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(map(repr, names))}")
    return chosen


def _check_keys(frame: Any, group: str, order: str) -> None:
    """Raise ValueError where a key lacks a value, or two steps of a sequence have the same place."""
    for name in (group, order):
        if lacking := int(frame[name].isna().sum()):
            raise ValueError(f"the column {name!r} lacks a value in {counted(lacking, 'row')}")
    if (twice := frame.duplicated([group, order])).any():
        row = frame[twice].iloc[0]
        raise ValueError(f"the sequence {row[group]!r} has two rows of {order} {row[order]}")
