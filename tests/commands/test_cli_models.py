"""run and inspect with whole models: predictions in tables and archives."""

from pathlib import Path

import numpy as np
import pytest
from commands import invoke

import numlstm
from numlstm import nn

MODELS = Path(__file__).parents[1] / "fixtures" / "models"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments):
    result = invoke(*arguments)
    assert result.exit_code, result.output
    return result.output


def table(path):
    header, *rows = (line.split(",") for line in Path(path).read_text().splitlines())
    return header, rows


ROWS = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)


def written(path, names, rows):
    Path(path).write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]))


def test_a_sequence_in_a_table_gives_a_row_a_step(folder):
    written("x.csv", ["a", "b"], ROWS)
    assert done("run", MODELS / "sensor.keras", "x.csv", "-o", "y.csv") == "y.csv: output (5, 1)\n"
    header, rows = table("y.csv")
    want = numlstm.load_model(MODELS / "sensor.keras")(ROWS[None])[0]
    assert header == ["output"]
    np.testing.assert_array_equal(np.array(rows, np.float32), want)
    done("run", MODELS / "sensor.keras", "x.csv", "-o", "y.npz")
    np.testing.assert_array_equal(np.load("y.npz")["output"], want)


def test_groups_are_sequences_whatever_the_order_of_their_rows(folder):
    lines = [["b", 10, *ROWS[1]], ["a", 1, *ROWS[2]], ["b", 9, *ROWS[0]], ["b", 11, *ROWS[3]]]
    written("x.csv", ["who", "when", "u", "v"], lines)
    options = ["--group", "who", "--order", "when"]
    done("run", MODELS / "sensor.keras", "x.csv", "-o", "y.csv", *options)
    header, rows = table("y.csv")
    model = numlstm.load_model(MODELS / "sensor.keras")
    assert header == ["who", "when", "output"] and [row[:2] for row in rows] == [
        *(["b", "9"], ["b", "10"], ["b", "11"], ["a", "1"])
    ]
    want = np.concatenate([model(ROWS[None, [0, 1, 3]])[0], model(ROWS[None, 2:3])[0]])
    np.testing.assert_array_equal(np.array([row[2:] for row in rows], np.float32), want)
    pytest.importorskip("onnx", exc_type=ImportError)
    done("run", MODELS / "forecaster_script.onnx", "x.csv", "-o", "last.csv", *options)  # a row for each sequence
    header, rows = table("last.csv")
    assert header == ["who", "output_0", "output_1"] and [row[0] for row in rows] == ["b", "a"]
    written("twice.csv", ["who", "when", "u", "v"], [["b", 1, 0, 0], ["b", 1.0, 0, 0]])
    assert "has two steps '1.0'" in refused("run", MODELS / "sensor.keras", "twice.csv", "-o", "z.csv", *options)
    assert not Path("z.csv").exists()


def test_groups_for_an_lstm_alone(folder):
    lstm = numlstm.LSTM(2, 3, seed=0).eval()
    lstm.save("m.npz")
    written("x.csv", ["who", "when", "u", "v"], [["a", 1, *ROWS[0]], ["a", 0, *ROWS[1]]])
    done("run", "m.npz", "x.csv", "-o", "y.csv", "--group", "who", "--order", "when")
    np.testing.assert_array_equal(np.array([row[2:] for row in table("y.csv")[1]], np.float32), lstm(ROWS[[1, 0]])[0])


def test_several_inputs_by_name_and_the_hidden_states(folder):
    given = {"text": np.array([[1, 2, 3, 4, 5]]), "side": np.ones((1, 3), np.float32)}
    np.savez("x.npz", **given)
    done("run", MODELS / "several.keras", "x.npz", "-o", "y.npz")
    want = numlstm.load_model(MODELS / "several.keras")(given)
    with np.load("y.npz") as found:
        assert set(found) == set(want) and all((found[key] == want[key]).all() for key in want)
    np.save("x.npy", ROWS[None])
    done("run", MODELS / "sensor.keras", "x.npy", "-o", "h.npz", "--hidden")
    with np.load("h.npz") as found:
        assert found["output"].shape == (1, 5, 4) and set(found) == {"output", "h_n", "c_n"}


def test_words_in_a_table(folder):
    model = nn.Sequential(nn.Embedding(9, 3, seed=0), numlstm.LSTM(3, 4, seed=0), nn.Linear(4, 2, seed=0)).eval()
    model.save("m.safetensors")
    written("x.csv", ["word"], [[4], [0], [8]])
    done("run", "m.safetensors", "x.csv", "-o", "y.csv")
    np.testing.assert_array_equal(np.array(table("y.csv")[1], np.float32), model(np.array([4, 0, 8])))
    done("run", MODELS / "generator.keras", "x.csv", "-o", "z.csv")
    assert len(table("z.csv")[1]) == 3


@pytest.mark.parametrize(
    "model, given, options, says",
    [
        ("caption.keras", "x.csv", [], "the model has 2 inputs, 'image', 'text': put them into a .npz file"),
        ("forecast.keras", "x.csv", [], "input 'input_layer' must have shape (any, 8, 1)"),
        ("sensor.keras", "x.csv", ["--group", "a"], "--group and --order belong together"),
        ("sensor.keras", "x.csv", ["--group", "c", "--order", "a"], "it has no column c; it has a, b"),
        ("sensor.keras", "x.csv", ["--per", "step"], "--per: for Parquet files"),
    ],
)
def test_what_is_refused(folder, model, given, options, says):
    written("x.csv", ["a", "b"], ROWS)
    assert says in " ".join(refused("run", MODELS / model, given, "-o", "y.csv", *options).split())
    assert not Path("y.csv").exists()


def test_inspect_shows_the_layers_in_order(folder):
    lines = done("inspect", MODELS / "forecast.keras").splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("layer "))
    assert [line.split()[1] for line in lines[at + 1 : at + 8]] == [
        *("Input", "LSTM", "Dropout", "LSTM", "Dropout", "Dense", "Dense")
    ]
    assert "(any, 8, 5)" in lines[at + 2] and lines[at + 8] == "319 parameters"
    assert "as a whole it cannot be run: its model is of the class" in done(
        "inspect", MODELS.parent / "keras" / "keras3_subclassed.keras"
    )
