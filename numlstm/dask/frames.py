"""DataFrames of sequences through an LSTM: a row is a step, a column says which sequence it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import dask.dataframe as dd
import numpy as np
import pandas as pd

from numlstm.base.wording import counted
from numlstm.dask import model
from numlstm.lstm import LSTM
from numlstm.sequences.packing import PackedSequence

Per = Literal["sequence", "step"]


def forward_frame(
    lstm: LSTM,
    frame: Any,
    *,
    group: str,
    order: str,
    features: Sequence[str] | None = None,
    per: Per = "sequence",
    whole: bool = False,
) -> Any:
    """Run an LSTM over sequences of any lengths in a Dask DataFrame, lazily.

    Parameters
    ----------
    lstm : LSTM
        Not in train mode with dropout. Its parameters are those at the time of this call.
    frame : dask DataFrame
        A row for each step, in any order.
    group : str
        The column that says which sequence a row belongs to.
    order : str
        The column that orders the steps of a sequence: times or numbers, no two of a sequence the same.
    features : sequence of str, optional
        The columns of the input, in the order of the LSTM's features. All others if left out.
    per : {"sequence", "step"}
        What a row of the result is for.
    whole : bool
        Every sequence lies in one partition already, so nothing needs to be shuffled.

    Returns
    -------
    dask DataFrame
        The column `group`, `order` too if `per` is "step", and ``output_0``, ``output_1``, … of the LSTM's dtype: h of
        the last layer, of both directions if there are two. For a step it is h after that step; for a sequence, after
        the last step that each direction takes (``h_n`` of the last layer). Within a partition rows are sorted by
        `group` and `order`.

    Raises
    ------
    ValueError
        A column is not there, is named twice, or is a key with the name of an output; or the number of features is not
        the LSTM's ``input_size``; or the LSTM is in train mode with dropout. And, once it is computed, if a key is
        missing, two steps of a sequence have the same `order`, or a sequence lies in several partitions in spite of
        `whole` (within one task's sight).
    TypeError
        A feature column does not hold real numbers.

    Examples
    --------
    >>> frame = pd.DataFrame({"machine": ["b", "a", "b"], "hour": [2, 1, 1], "heat": [0.5, 0.1, 0.2]})
    >>> lstm = LSTM(1, 2, seed=0).eval()
    >>> result = forward_frame(lstm, dd.from_pandas(frame, npartitions=1), group="machine", order="hour")
    >>> result.compute()["machine"].tolist()
    ['a', 'b']
    >>> b = np.array([[0.2], [0.5]], np.float32)
    >>> bool((result.compute().iloc[1, 1:] == lstm(b)[0][-1]).all())
    True
    """
    model.check(lstm)
    if not isinstance(frame, dd.DataFrame):
        raise TypeError(
            f"frame is of type {type(frame).__name__}, not a Dask DataFrame\n"
            "dask.dataframe.from_pandas(frame, npartitions=...) makes one of a pandas DataFrame."
        )
    if per not in ("sequence", "step"):
        raise ValueError(f'per must be "sequence" or "step", not {per!r}')
    chosen = chosen_columns(lstm, frame.dtypes, group, order, features)
    if not whole and frame.npartitions > 1:
        frame = frame.shuffle(on=group)
    arguments = {"group": group, "order": order, "features": chosen, "per": per}
    size = (2 if lstm.bidirectional else 1) * (lstm.proj_size or lstm.hidden_size)
    keys = frame._meta[[group] if per == "sequence" else [group, order]].reset_index(drop=True)
    outputs = _named(np.empty((0, size), lstm.dtype))
    for name in keys.columns:
        if name in outputs.columns:
            raise ValueError(f"the column {name!r} has the name of an output; rename it")
    meta = pd.concat([keys, outputs], axis=1)
    return frame.map_partitions(frame_piece, model.sent(lstm), **arguments, meta=meta)


def chosen_columns(lstm: LSTM, dtypes: Any, group: str, order: str, features: Sequence[str] | None) -> list[str]:
    """The feature columns, all found right."""
    keys = [group, order]
    chosen = [name for name in dtypes.index if name not in keys] if features is None else list(features)
    named = [*keys, *chosen]
    for name in named:
        if name not in dtypes.index:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(map(repr, dtypes.index))}")
        if named.count(name) > 1:
            raise ValueError(f"the column {name!r} is named twice, of group, order and features")
    if len(chosen) != lstm.input_size:
        raise ValueError(
            f"there are {len(chosen)} feature columns ({', '.join(map(repr, chosen))}), and the LSTM's input_size is "
            f"{lstm.input_size}\nName those that are its input, by features."
        )
    for name in chosen:
        if not (pd.api.types.is_numeric_dtype(dtypes[name]) and not pd.api.types.is_complex_dtype(dtypes[name])):
            raise TypeError(f"the column {name!r} must hold real numbers, not {dtypes[name]}")
        if pd.api.types.is_bool_dtype(dtypes[name]):
            raise TypeError(f"the column {name!r} must hold real numbers, not bool")
    return chosen


def frame_piece(frame: Any, lstm: Any, *, group: str, order: str, features: list[str], per: Per) -> pd.DataFrame:
    """What `forward_frame` gives for one partition, as pandas."""
    model.share_cores()
    for name in (group, order):
        if frame[name].isna().any():
            raise ValueError(f"the column {name!r} lacks a value in {counted(int(frame[name].isna().sum()), 'row')}")
    frame = frame.sort_values([group, order], kind="stable", ignore_index=True)
    keys = frame[group].to_numpy()
    new = np.ones(len(frame), bool)  # where a sequence begins
    new[1:] = keys[1:] != keys[:-1]
    again = ~new[1:] & (frame[order].to_numpy()[1:] == frame[order].to_numpy()[:-1])
    if again.any():
        row = int(again.argmax())
        key, step = (frame[name].iloc[row] for name in (group, order))  # of a whole row, numbers have one type
        raise ValueError(f"two rows have {group} {key} and {order} {step}: which step comes first?")
    begins = np.flatnonzero(new)
    lengths = np.diff(begins, append=len(frame))
    result = frame[[group]] if per == "sequence" else frame[[group, order]]
    result = result.iloc[begins].reset_index(drop=True) if per == "sequence" else result
    with np.errstate(over="ignore"):  # as in a call, where a number beyond the dtype's range is infinity
        steps = frame[features].to_numpy(lstm.dtype)
    outputs = _outputs(lstm, steps, lengths, per)
    return pd.concat([result, _named(outputs)], axis=1)


def _named(outputs: Any) -> pd.DataFrame:
    return pd.DataFrame(outputs, columns=[f"output_{n}" for n in range(outputs.shape[1])])


def _outputs(lstm: LSTM, steps: Any, lengths: Any, per: Per) -> Any:
    """h of the last layer, a row for each sequence or step of rows that hold one sequence after another."""
    sizes = lstm.proj_size or lstm.hidden_size
    directions = 2 if lstm.bidirectional else 1
    if len(steps) == 0:
        return np.empty((0, directions * sizes), lstm.dtype)
    rank = np.empty(len(lengths), np.int64)
    longest_first = np.argsort(-lengths, kind="stable")
    rank[longest_first] = np.arange(len(lengths))
    of_row = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(len(steps)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    packed = np.lexsort((rank[of_row], step))  # rows in the order of a packed sequence
    output, (h_n, _) = lstm(PackedSequence(steps[packed], np.bincount(step)))
    if per == "sequence":
        return np.concatenate(list(h_n[-directions:]), axis=1)[rank]
    result = np.empty((len(steps), directions * sizes), lstm.dtype)
    result[packed] = output.data
    return result
