"""Sequences in DataFrames: rows of any order and length."""

import re

import numpy as np
import pytest
from needs import need

import numlstm

pytestmark = pytest.mark.slow

need("dask")
need("pyarrow")
import dask.dataframe as dd  # noqa: E402
import pandas as pd  # noqa: E402

from numlstm.dask import forward_frame, frames  # noqa: E402

RNG = np.random.default_rng(0)
FEATURES = ["heat", "load", "noise"]


@pytest.fixture(scope="module")
def table():
    """40 machines of 1 to 30 hours each, all rows shuffled."""
    parts = [
        pd.DataFrame(RNG.standard_normal((hours, 3)), columns=FEATURES).assign(
            machine=f"m{n:02}", hour=RNG.permutation(1000)[:hours]
        )
        for n, hours in enumerate(RNG.integers(1, 31, 40))
    ]
    return pd.concat(parts).sample(frac=1, random_state=0).reset_index(drop=True)


def known(lstm, table, per):
    """Each sequence by itself, in an order of keys."""
    rows = []
    for machine, steps in table.groupby("machine"):
        steps = steps.sort_values("hour")
        output, (h_n, _) = lstm(steps[FEATURES].to_numpy(lstm.dtype))
        if per == "sequence":
            rows.append((machine, np.concatenate(list(h_n[-(2 if lstm.bidirectional else 1) :]))))
        else:
            rows += [((machine, hour), h) for hour, h in zip(steps["hour"], output, strict=True)]
    keys, values = zip(*rows, strict=True)
    return list(keys), np.stack(values)


def sorted_result(result, per):
    keys = ["machine"] if per == "sequence" else ["machine", "hour"]
    result = result.sort_values(keys)
    columns = [name for name in result.columns if name.startswith("output_")]
    assert list(result.columns) == keys + columns
    found = (
        result["machine"].tolist() if per == "sequence" else list(zip(result["machine"], result["hour"], strict=True))
    )
    return found, result[columns].to_numpy()


FLAGS = [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2, "dtype": "float64"}, {"batch_first": True}]


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("per", ["sequence", "step"])
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_every_sequence_has_the_bits_it_has_alone(table, flags, per, partitions):
    lstm = numlstm.LSTM(3, 5, seed=1, **flags).eval()
    frame = dd.from_pandas(table, npartitions=partitions)
    lazy = forward_frame(lstm, frame, group="machine", order="hour", features=FEATURES, per=per)
    result = lazy.compute(scheduler="sync")
    pd.testing.assert_frame_equal(lazy._meta, result.iloc[:0], check_index_type=False)
    keys, values = known(lstm, table, per)
    found, got = sorted_result(result, per)
    assert found == keys
    assert got.dtype == values.dtype
    assert got.tobytes() == values.tobytes()


def test_whole_sequences_are_not_shuffled(table):
    lstm = numlstm.LSTM(3, 5, seed=1).eval()
    halves = [table[table["machine"] < "m20"], table[table["machine"] >= "m20"]]
    frame = dd.from_map(lambda half: half, halves)
    lazy = forward_frame(lstm, frame, group="machine", order="hour", features=FEATURES, whole=True)
    found, got = sorted_result(lazy.compute(scheduler="sync"), "sequence")
    keys, values = known(lstm, table, "sequence")
    assert found == keys
    assert got.tobytes() == values.tobytes()
    assert not any("shuffle" in str(key) for key in lazy.__dask_graph__())


def test_the_order_of_steps_matters(table):
    """The comparison sees steps in the order in which rows happen to lie."""
    lstm = numlstm.LSTM(3, 5, seed=1).eval()
    arranged = {"group": "machine", "features": FEATURES, "per": "sequence"}
    right = frames.frame_piece(table, lstm, order="hour", **arranged)
    wrong = frames.frame_piece(table.assign(hour=range(len(table))), lstm, order="hour", **arranged)
    assert right["machine"].tolist() == wrong["machine"].tolist()
    assert not np.array_equal(right["output_0"], wrong["output_0"])


@pytest.mark.parametrize(
    "arguments, kind, says",
    [
        (
            {"group": "engine"},
            ValueError,
            "there is no column 'engine'; there are 'heat', 'load', 'noise', 'machine', 'hour'",
        ),
        ({"group": "hour"}, ValueError, "the column 'hour' is named twice"),
        ({"features": ["heat"]}, ValueError, "there are 1 feature columns ('heat'), and the LSTM's input_size is 3"),
        ({"features": ["heat", "heat", "load"]}, ValueError, "the column 'heat' is named twice"),
        ({"features": ["heat", "load", "name"]}, TypeError, "the column 'name' must hold real numbers, not"),
        ({"per": "row"}, ValueError, 'per must be "sequence" or "step", not \'row\''),
    ],
)
def test_what_does_not_fit_is_refused_at_once(table, arguments, kind, says):
    named = table.assign(name="x") if "name" in says and "named" not in says else table
    frame = dd.from_pandas(named, npartitions=2)
    with pytest.raises(kind, match=re.escape(says)):
        forward_frame(numlstm.LSTM(3, 5), frame, **({"group": "machine", "order": "hour"} | arguments))


@pytest.mark.parametrize("key, per", [("machine", "sequence"), ("machine", "step"), ("hour", "step")])
def test_a_key_with_the_name_of_an_output_is_refused_at_once(table, key, per):
    """Else the result would have two columns of that name, which no Parquet file holds."""
    keys = {"group": "machine", "order": "hour"}
    keys = {of: "output_1" if name == key else name for of, name in keys.items()}
    frame = dd.from_pandas(table.rename(columns={key: "output_1"}), npartitions=2)
    with pytest.raises(ValueError, match="the column 'output_1' has the name of an output"):
        forward_frame(numlstm.LSTM(len(table.columns) - 2, 4, seed=0).eval(), frame, per=per, **keys)


def test_numbers_that_cannot_be_ordered_are_named_as_they_are():
    """Not as the floats that they would be in a row with others."""
    twin = pd.DataFrame({"id": [2**60 + 1] * 2, "hour": [7, 7], "heat": [0.5, 0.1]})
    asked = {"group": "id", "order": "hour"}
    with pytest.raises(ValueError, match=f"two rows have id {2**60 + 1} and hour 7:"):
        forward_frame(numlstm.LSTM(1, 2, seed=0).eval(), dd.from_pandas(twin, npartitions=1), **asked).compute()


def test_a_pandas_frame_is_refused(table):
    with pytest.raises(TypeError, match="not a Dask DataFrame"):
        forward_frame(numlstm.LSTM(3, 5), table, group="machine", order="hour")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"machine": None}, "the column 'machine' lacks a value in 1 row"),
        ({"hour": None}, "the column 'hour' lacks a value in 1 row"),
        ({"hour": 7.0, "machine": "twin"}, "two rows have machine twin and hour 7.0: which step comes first?"),
    ],
)
def test_rows_that_cannot_be_ordered_are_an_error(table, change, says):
    extra = table.iloc[[0]].assign(**change)
    rows = [table, extra, extra] if change.get("machine") else [table, extra]
    frame = dd.from_pandas(pd.concat(rows), npartitions=1)
    lazy = forward_frame(numlstm.LSTM(3, 5).eval(), frame, group="machine", order="hour", features=FEATURES)
    with pytest.raises(ValueError, match=re.escape(says)):
        lazy.compute(scheduler="sync")
