"""An LSTM or a model over DataFrames of sequences: a row is a step, a column names the sequence it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import dask.dataframe as dd
import numpy as np
import pandas as pd

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.dask import model
from numlstm.lstm import LSTM
from numlstm.models.batches import Batches
from numlstm.sequences.packing import PackedSequence

Per = Literal["sequence", "step"]


def forward_frame(
    lstm: Any,
    frame: dd.DataFrame,
    *,
    group: str,
    order: str,
    features: Sequence[str] | None = None,
    per: Per | None = None,
    whole: bool = False,
) -> dd.DataFrame:
    """Run an LSTM or a model over sequences of any lengths in a Dask DataFrame, lazily.

    Parameters
    ----------
    lstm : LSTM, or a model of `numlstm.load_model` or `numlstm.nn.Sequential`
        Not in train mode with dropout. Its current parameters are used. A model has one input and one output.
    frame : dask DataFrame
        A row for each step, in any order.
    group, order : str
        The column that names the sequence of a row, and the column of times or numbers that orders its steps, without
        ties.
    features : sequence of str, optional
        The input columns, in the order of the LSTM's features; default: all others.
    per : {"sequence", "step"}, optional
        Whether the result has a row for each sequence or for each step; default: of an LSTM for each sequence, of a
        model for what it gives.
    whole : bool
        Every sequence already lies in one partition: skip the shuffle.

    Returns
    -------
    dask DataFrame
        The column `group`, for steps also `order`, and ``output_0``, ``output_1``, … of the LSTM's dtype. For a step:
        h of the last layer, of both directions. For a sequence: ``h_n`` of the last layer. Of a model: its output.
        Sorted by `group` and `order` within a partition.

    Raises
    ------
    ValueError
        A column is missing, named twice, or a key named like an output; the number of features is not the LSTM's
        ``input_size``; the LSTM is in train mode with dropout; or the model gives no row for each `per`. When computed:
        a key is missing, or two steps of a sequence have the same `order`.
    TypeError
        A feature column does not hold real numbers.

    Examples
    --------
    >>> frame = pd.DataFrame({"machine": ["b", "a", "b"], "hour": [2, 1, 1], "heat": [0.5, 0.1, 0.2]})
    >>> lstm = LSTM(1, 2, seed=0).eval()
    >>> result = forward_frame(lstm, dd.from_pandas(frame, npartitions=1), group="machine", order="hour")
    >>> result.compute()["machine"].tolist()
    ['a', 'b']
    """
    _check(lstm, frame, per)
    per = per_of(lstm, per)
    chosen = chosen_columns(lstm, frame.dtypes, group, order, features)
    if not whole and frame.npartitions > 1:
        frame = frame.shuffle(on=group)
    meta = _empty_result(lstm, frame, [group] if per == "sequence" else [group, order])
    options = {"group": group, "order": order, "features": chosen, "per": per}
    return frame.map_partitions(frame_piece, model.sent(lstm), **options, meta=meta)


def _check(lstm: Any, frame: object, per: str | None) -> None:
    model.check_model(lstm)
    if not isinstance(frame, dd.DataFrame):
        raise TypeError(
            f"frame is of type {type(frame).__name__}, not a Dask DataFrame\n"
            "dask.dataframe.from_pandas(frame, npartitions=...) makes one of a pandas DataFrame."
        )
    if per not in ("sequence", "step", None):
        raise ValueError(f'per must be "sequence" or "step", not {per!r}')


STEPS = (3, 8, 64)  # with which a model is tried


def per_of(lstm: Any, per: Per | None) -> Per:
    """What a row of the result stands for; ValueError if the model gives none for that."""
    if isinstance(lstm, LSTM):
        return per or "sequence"
    gives: Per = "step" if _tried(lstm).ndim == 3 else "sequence"
    if per not in (gives, None):
        raise ValueError(f'the model gives a row for each {gives}, so per must be "{gives}", not {per!r}')
    return gives


def _tried(lstm: Any) -> Array:
    """The output of a model for one sequence of zeros."""
    batches = Batches(lstm)
    for steps in STEPS:
        try:
            return batches(np.zeros((1, batches.length or steps, batches.features or 1), batches.dtype))
        except ValueError as error:
            problem = error
    raise problem


def _empty_result(lstm: Any, frame: dd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The columns of the result, which Dask wants to know ahead."""
    if isinstance(lstm, LSTM):
        outputs = _named(np.empty((0, lstm._config.num_directions * lstm._config.output_size), lstm.dtype))
    else:
        y = _tried(lstm)
        outputs = _named(np.empty((0, y.shape[-1]), y.dtype))
    for name in keys:
        if name in outputs.columns:
            raise ValueError(f"the column {name!r} has the name of an output; rename it")
    return pd.concat([frame._meta[keys].reset_index(drop=True), outputs], axis=1)


def chosen_columns(lstm: Any, dtypes: pd.Series, group: str, order: str, features: Sequence[str] | None) -> list[str]:
    """The names of the feature columns, checked."""
    keys = [group, order]
    chosen = [name for name in dtypes.index if name not in keys] if features is None else list(features)
    named = [*keys, *chosen]
    for name in named:
        if name not in dtypes.index:
            raise missing_column(name, dtypes.index)
        if named.count(name) > 1:
            raise ValueError(f"the column {name!r} is named twice, of group, order and features")
    is_lstm = isinstance(lstm, LSTM)
    size = lstm.input_size if is_lstm else Batches(lstm).features
    if size not in (len(chosen), None):
        what = "LSTM's input_size is" if is_lstm else "model's features are"
        raise ValueError(
            f"there are {len(chosen)} feature columns ({', '.join(map(repr, chosen))}), and the {what} {size}\n"
            "Name those that are its input, by features."
        )
    for name in chosen:
        kinds = pd.api.types
        is_real = kinds.is_numeric_dtype(dtypes[name]) and not kinds.is_complex_dtype(dtypes[name])
        if not is_real or kinds.is_bool_dtype(dtypes[name]):
            raise TypeError(f"the column {name!r} must hold real numbers, not {dtypes[name]}")
    return chosen


def missing_column(name: str, names: Sequence[str]) -> ValueError:
    """The error for a column that a table does not have."""
    return ValueError(f"there is no column {name!r}; there are {', '.join(map(repr, names))}")


def check_keys(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise ValueError where a key has no value."""
    for name in names:
        if lacking := int(frame[name].isna().sum()):
            raise ValueError(f"the column {name!r} lacks a value in {counted(lacking, 'row')}")


def frame_piece(
    frame: pd.DataFrame, lstm: Any, *, group: str, order: str, features: list[str], per: Per
) -> pd.DataFrame:
    """The result of `forward_frame` for one partition."""
    model.share_cores()
    check_keys(frame, [group, order])
    frame = frame.sort_values([group, order], kind="stable", ignore_index=True)
    keys, times = frame[group].to_numpy(), frame[order].to_numpy()
    is_first = np.ones(len(frame), bool)  # step of its sequence
    is_first[1:] = keys[1:] != keys[:-1]
    ties = ~is_first[1:] & (times[1:] == times[:-1])
    if ties.any():
        row = int(ties.argmax())
        # read by column: a row of several columns would be converted to one dtype
        key, step = (frame[name].iloc[row] for name in (group, order))
        raise ValueError(f"two rows have {group} {key} and {order} {step}: which step comes first?")
    begins = np.flatnonzero(is_first)
    result = frame[[group]].iloc[begins].reset_index(drop=True) if per == "sequence" else frame[[group, order]]
    with np.errstate(over="ignore"):  # as in a call, numbers beyond the dtype's range become infinite
        steps = frame[features].to_numpy(lstm.dtype if isinstance(lstm, LSTM) else Batches(lstm).dtype)
    lengths = np.diff(begins, append=len(frame))
    outputs = _outputs(lstm, steps, lengths, per) if isinstance(lstm, LSTM) else _of_model(lstm, steps, lengths, per)
    return pd.concat([result, _named(outputs)], axis=1)


def _named(outputs: Array) -> pd.DataFrame:
    return pd.DataFrame(outputs, columns=[f"output_{n}" for n in range(outputs.shape[1])])


def _of_model(lstm: Any, steps: Array, lengths: Array, per: Per) -> Array:
    """The model's output for each sequence or step. Sequences of one length run as a batch, so that none is padded."""
    if len(steps) == 0:
        return np.asarray(_tried(lstm)[:0].reshape(0, _tried(lstm).shape[-1]))
    batches, begins = Batches(lstm), np.cumsum(lengths) - lengths
    places, found = [], []
    for length in np.unique(lengths):
        sequences = np.flatnonzero(lengths == length)
        rows = begins[sequences, None] + np.arange(length)
        y = batches(steps[rows])
        if (y.ndim == 3) != (per == "step") or (per == "step" and y.shape[1] != length):
            raise ValueError(f"the model gives an array of shape {y.shape} for {length} steps: no row for each {per}")
        places.append(rows.ravel() if per == "step" else sequences)
        found.append(y.reshape(-1, y.shape[-1]))
    at, outputs = np.concatenate(places), np.concatenate(found)
    result = np.empty_like(outputs)
    result[at] = outputs
    return result


def _outputs(lstm: LSTM, steps: Array, lengths: Array, per: Per) -> Array:
    """h of the last layer for each sequence or step; `steps` holds one sequence after another."""
    config = lstm._config
    result = np.empty((len(steps), config.num_directions * config.output_size), lstm.dtype)
    if len(steps) == 0:
        return result
    longest_first = np.argsort(-lengths, kind="stable")
    step = np.arange(len(steps)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    packed = np.lexsort((np.repeat(np.argsort(longest_first), lengths), step))  # rows in the order of packed data
    output, (h_n, _) = lstm(PackedSequence(steps[packed], np.bincount(step), longest_first))
    if per == "sequence":
        return np.concatenate(list(h_n[-config.num_directions :]), axis=1)
    result[packed] = output.data
    return result
