"""Sequences in DataFrames and Parquet files: rows of any order and length, jobs that are stopped and go on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import need

import numlstm

need("dask")
need("distributed")
need("pyarrow")
import dask.dataframe as dd  # noqa: E402
import pandas as pd  # noqa: E402

from numlstm.dask import forward_frame, frames, job  # noqa: E402

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
        ({"machine": None}, "the column 'machine' lacks a value in 1 rows"),
        ({"hour": None}, "the column 'hour' lacks a value in 1 rows"),
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


# Jobs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(table, tmp_path):
    """A model and a folder of Parquet files."""
    lstm = numlstm.LSTM(3, 5, seed=1).eval()
    lstm.save(tmp_path / "model.safetensors")
    folder = tmp_path / "data"
    folder.mkdir()
    for n, part in enumerate(np.array_split(np.arange(len(table)), 4)):
        table.iloc[part].to_parquet(folder / f"{n}.parquet", index=False)
    return tmp_path, lstm


def numlstm_run(folder, *arguments):
    command = [sys.executable, "-m", "numlstm", "run", "model.safetensors", *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=300)


COLUMNS = ("--group", "machine", "--order", "hour", "--features", ",".join(FEATURES))


def test_the_command_gives_the_bits_of_each_sequence_alone(data, table):
    folder, lstm = data
    per = "step"
    done = numlstm_run(folder, "data/*.parquet", "-o", "out", "--scheduler", "local", *COLUMNS, "--per", per)
    assert done.returncode == 0, done.stderr
    found, got = sorted_result(pd.read_parquet(folder / "out"), per)
    keys, values = known(lstm, table, per)
    assert found == keys
    assert got.tobytes() == values.tobytes()
    again = numlstm_run(folder, "data", "-o", "out", *COLUMNS, "--per", per)
    assert again.returncode == 0, again.stderr
    assert "4 of 4 parts are there already" in again.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.assign(hour=0), "which step comes first?"),
        (lambda table: table.rename(columns={FEATURES[0]: "other"}), f"KeyError: \"['{FEATURES[0]}'] not in index\""),
        (lambda table: table.assign(**{FEATURES[0]: 1e300}), None),  # infinity in float32, as in a call
    ],
)
def test_what_fails_on_a_worker_is_one_line(data, table, change, says):
    folder, _ = data
    change(table).to_parquet(folder / "data" / "9.parquet", index=False)
    done = numlstm_run(folder, "data", "-o", "out", *COLUMNS, "--whole")
    assert done.returncode == (0 if says is None else 1)
    if says is None:
        assert done.stderr == ""
    else:
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ") and says in line


def run_job(folder, **changes):
    said = []
    arguments = {"scheduler": "local", "group": "machine", "order": "hour", "features": FEATURES} | changes
    job.run(folder / "model.safetensors", str(folder / "data"), folder / "out", echo=said.append, **arguments)
    return said


def in_this_process(monkeypatch, write=job.write):
    """Run tasks here, one after another, so that a test may count and break them."""

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def compute(self, tasks):
            return [Future(task) for task in tasks]

    class Future:
        def __init__(self, task):
            self.task = task

        def result(self):
            return self.task.compute(scheduler="sync")

    monkeypatch.setattr(job, "_client", lambda scheduler: Client())
    monkeypatch.setattr(job, "write", write)


def test_a_job_goes_on_where_it_was_stopped(data, monkeypatch):
    folder, _ = data
    written, write = [], job.write

    def broken(piece, path):
        if len(written) == 2:
            raise OSError("the disk is full")
        written.append(path)
        write(piece, path)

    in_this_process(monkeypatch, broken)
    with pytest.raises(OSError, match="the disk is full"):
        run_job(folder)
    assert len(written) == 2
    assert sorted(name for name in os.listdir(folder / "out") if name != job.MANIFEST) == sorted(
        os.path.basename(path) for path in written
    )
    first = {path: Path(path).read_bytes() for path in written}

    def counted(piece, path):
        written.append(path)
        write(piece, path)

    in_this_process(monkeypatch, counted)
    assert "2 of 4 parts are there already" in run_job(folder)[0]
    assert len(written) == len(set(written)) == 4
    assert all(Path(path).read_bytes() == content for path, content in first.items())


def test_a_part_is_there_whole_or_not_at_all(data, tmp_path, monkeypatch):
    class Piece:
        def to_parquet(self, into, index):
            into.write(b"half")
            raise OSError("killed")

    path = tmp_path / "part.parquet"
    with pytest.raises(OSError, match="killed"):
        job.write(Piece(), str(path))
    assert not path.exists()


@pytest.mark.parametrize(
    "changes, says",
    [({"per": "step"}, "per"), ({"order": "load", "features": ["heat", "hour", "noise"]}, "features, order")],
)
def test_another_job_in_the_same_folder_is_refused(data, monkeypatch, changes, says):
    folder, _ = data
    in_this_process(monkeypatch)
    run_job(folder)
    before = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    with pytest.raises(ValueError, match=f"holds parts of another job, with another {says}"):
        run_job(folder, **changes)
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == before
    assert json.loads(before[job.MANIFEST])["per"] == "sequence"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe{}"])
def test_a_damaged_note_of_the_job_is_an_error(data, monkeypatch, content):
    folder, _ = data
    in_this_process(monkeypatch)
    run_job(folder)
    (folder / "out" / job.MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=r"job\.json is damaged"):
        run_job(folder)
    assert (folder / "out" / job.MANIFEST).read_bytes() == content


def test_changed_input_or_model_is_another_job(data, table, monkeypatch):
    folder, _ = data
    in_this_process(monkeypatch)
    run_job(folder)
    table.iloc[:9].to_parquet(folder / "data" / "0.parquet", index=False)
    with pytest.raises(ValueError, match="with another input"):
        run_job(folder)
    numlstm.LSTM(3, 5, seed=2).save(folder / "model.safetensors")
    with pytest.raises(ValueError, match="with another input, model"):
        run_job(folder)


def test_a_folder_with_other_things_and_no_input_are_refused(data):
    folder, _ = data
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and no job began there"):
        run_job(folder)
    with pytest.raises(ValueError, match="there is no such file"):
        job.run(
            folder / "model.safetensors", str(folder / "*.pq"), folder / "new", scheduler="local", group="a", order="b"
        )
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("data/*.parquet", "-o", "out"), "Parquet needs --group and --order"),
        (("data", "-o", "out", *COLUMNS, "--state", "s.npz"), "--state is not for Parquet"),
        (
            ("data", "-o", "model.safetensors", *COLUMNS),
            "model.safetensors is no folder. The name of a folder is expected",
        ),
        (
            (*(f"data/{n}.parquet" for n in range(4)), "-o", "out", *COLUMNS),
            "and 4 were given: data/0.parquet, data/1.parquet, data/2.parquet, ...; write a pattern in quotes",
        ),
        (("x.npy", "-o", "out.npz", "--group", "machine"), "--group: for Parquet files, and INPUT is none: x.npy"),
        (("data", "-o", "out", *COLUMNS, "--scheduler", "tcp://127.0.0.1:9"), "127.0.0.1:9"),
    ],
)
def test_the_command_says_what_is_wrong(data, arguments, says):
    done = numlstm_run(data[0], *arguments)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
