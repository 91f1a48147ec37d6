"""Whole models over DataFrames and in jobs: what each sequence gives alone."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from needs import need

import numlstm
from numlstm import LSTM, nn
from numlstm.cli import main

pytestmark = pytest.mark.slow

need("dask")
need("pyarrow")
need("onnx")
cloudpickle = need("cloudpickle")  # of Dask
import dask.array as da  # noqa: E402
import dask.dataframe as dd  # noqa: E402
import pandas as pd  # noqa: E402

import numlstm.dask  # noqa: E402
from numlstm.dask import forward_frame  # noqa: E402

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
KEYS = {"group": "machine", "order": "hour"}


def by_hand():
    lstm = LSTM(2, 3, seed=0)
    return nn.Sequential(lstm, nn.Linear(3, 2, seed=0), nn.tanh).eval()


def steps_first():
    """The last state of an LSTM whose steps come first, behind words."""
    return nn.Sequential(nn.Embedding(12, 3, seed=0), LSTM(3, 3, seed=0), nn.last_state).eval()


def of_file(name):
    return lambda: numlstm.load_model(MODELS / name)


CASES = {
    "by hand": (by_hand, "step"),
    "steps first": (steps_first, "sequence"),
    "sensor.keras": (of_file("sensor.keras"), "step"),
    "sentiment.keras": (of_file("sentiment.keras"), "sequence"),
    "sentiment_script.onnx": (of_file("sentiment_script.onnx"), "sequence"),
    "forecaster_script.onnx": (of_file("forecaster_script.onnx"), "sequence"),
}


def table(has_words):
    rng = np.random.default_rng(4)
    rows = []
    for machine, hours in enumerate(rng.integers(1, 9, 12)):
        places = rng.permutation(100)[:hours]
        for hour in places:
            numbers = [rng.integers(1, 12)] if has_words else rng.standard_normal(2)
            rows.append([f"m{machine:02}", hour, *numbers])
    names = ["word"] if has_words else ["heat", "load"]
    return pd.DataFrame(rows, columns=["machine", "hour", *names]).sample(frac=1, random_state=1), names


def alone(model, frame, names):
    """The outputs for each sequence by itself, one after another."""
    found = []
    for _, rows in frame.groupby("machine"):
        x = rows.sort_values("hour")[names].to_numpy()
        x = x[:, 0] if names == ["word"] else x.astype(np.float32)
        first = isinstance(model, nn.Sequential) and not any(lstm.batch_first for lstm in model.lstms)
        y = model(x[:, None] if first else x[None])
        found.append(y[:, 0] if first and y.ndim == 3 else y[0] if y.ndim == 3 else y)
    return np.concatenate(found)


@pytest.mark.parametrize("name", CASES)
def test_frames_of_dask_and_of_pandas_give_what_each_sequence_gives(name):
    make, per = CASES[name]
    model, has_words = make(), "sentiment" in name or "steps" in name
    frame, names = table(has_words)
    result = forward_frame(model, dd.from_pandas(frame, npartitions=3), **KEYS).compute()
    keys = ["machine", "hour"] if per == "step" else ["machine"]
    result = result.sort_values(keys).reset_index(drop=True)
    columns = [column for column in result.columns if column.startswith("output_")]
    assert list(result.columns) == keys + columns
    np.testing.assert_allclose(result[columns], alone(model, frame, names), rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(model.forward_frame(frame, **KEYS), result, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("name", CASES)
def test_a_model_comes_back_from_a_pickle(name):
    model = CASES[name][0]()
    again = pickle.loads(cloudpickle.dumps(model))
    x = np.ones((1, 4) if "sentiment" in name or "steps" in name else (1, 4, 2), np.int64)
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(
    "model, options, error, says",
    [
        (by_hand, {"per": "sequence"}, ValueError, 'the model gives a row for each step, so per must be "step"'),
        (lambda: by_hand().train(), {}, ValueError, "the model is in train mode"),
        (lambda: 3, {}, TypeError, "not an LSTM or a model"),
        (of_file("several.keras"), {}, ValueError, "the model has 2 inputs"),
        (by_hand, {"features": ["heat"]}, ValueError, "and the model's features are 2"),
    ],
)
def test_what_does_not_fit_is_named_at_once(model, options, error, says):
    frame = dd.from_pandas(table(False)[0], npartitions=1)
    with pytest.raises(error, match=says):
        forward_frame(model(), frame, **KEYS, **options)


@pytest.mark.parametrize("name", CASES)
def test_arrays_give_what_a_call_gives(name):
    model, has_words = CASES[name][0](), "sentiment" in name or "steps" in name
    rng = np.random.default_rng(3)
    x = rng.integers(1, 12, (6, 6)) if has_words else rng.standard_normal((6, 6, 2)).astype(np.float32)
    axis = 1 if name in ("by hand", "steps first") else 0
    result = numlstm.dask.forward(model, da.from_array(x, chunks={axis: 4}))
    expected = model(x)
    assert result.shape == expected.shape and result.dtype == expected.dtype and result.npartitions == 2
    np.testing.assert_allclose(result.compute(), expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=f"axis {1 - axis} lies in 3 chunks"):
        numlstm.dask.forward(model, da.from_array(x, chunks={1 - axis: 2}))
    with pytest.raises(ValueError, match="hx is for an LSTM"):
        numlstm.dask.forward(model, da.from_array(x), (x, x))


def test_other_columns_than_the_model_takes_are_named():
    frame, _ = table(False)
    for name in ("sentiment.keras", "forecaster_script.onnx"):
        with pytest.raises(ValueError, match=r"the model takes . feature columns; 3 are given"):
            numlstm.load_model(MODELS / name).forward_frame(frame.assign(more=1.0), **KEYS)


@pytest.mark.parametrize("whole", [False, True])
def test_a_job_runs_the_model_of_a_file(tmp_path, whole):
    frame, names = table(False)
    frame.to_parquet(tmp_path / "in.parquet", index=False)

    def run(out, *options):
        arguments = ["run", str(MODELS / "sensor.keras"), str(tmp_path / "in.parquet"), "-o", str(tmp_path / out)]
        done = CliRunner().invoke(main, [*arguments, "--group", "machine", "--order", "hour", *options])
        assert done.exit_code == 0, done.output
        return pd.read_parquet(tmp_path / out)

    options = ["--whole"] if whole else []
    result = run("out", *options).sort_values(["machine", "hour"])
    model = numlstm.load_model(MODELS / "sensor.keras")
    np.testing.assert_allclose(result[["output_0"]], alone(model, frame, names), rtol=1e-5, atol=1e-6)
    hidden = run("hidden", "--hidden", *options)
    assert [name for name in hidden if "output" in name] == [f"output_{n}" for n in range(4)]
    assert len(hidden) == frame["machine"].nunique()
