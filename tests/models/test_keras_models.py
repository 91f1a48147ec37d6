"""Whole Keras models give what Keras computed: its own outputs are beside each model's file."""

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

import numlstm

HERE = Path(__file__).parents[1] / "fixtures" / "models"
FILES = sorted(path for path in HERE.iterdir() if path.suffix in (".keras", ".h5"))


def case(path):
    """The inputs of a model, as a list or by name, and Keras' outputs by name."""
    arrays = np.load(HERE / f"keras_{path.stem}.npz")
    given = {key.removeprefix("input_"): arrays[key] for key in arrays if key.startswith("input_")}
    expected = {key.removeprefix("output_"): arrays[key] for key in arrays if key.startswith("output_")}
    return ([given] if "0" not in given else list(given.values())), expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_outputs_are_those_of_keras(path):
    model = numlstm.load_model(path)
    given, expected = case(path)
    found = model(*given)
    found = found if isinstance(found, dict) else dict(enumerate(found if isinstance(found, list) else [found]))
    assert {str(key) for key in found} == set(expected)
    for key, array in found.items():
        want = expected[str(key)]
        assert array.dtype == want.dtype and array.shape == want.shape
        limit = 1e-7 if array.dtype == np.float64 else 3e-6  # Keras 3.15 on PyTorch rounds a Dense to float32
        np.testing.assert_allclose(array, want, rtol=limit, atol=limit, err_msg=str(key))


def changed(name, change):
    """The bytes of a model's file with another configuration."""
    with zipfile.ZipFile(HERE / name) as archive:
        entries = {each: archive.read(each) for each in archive.namelist()}
    config = json.loads(entries["config.json"])
    change(config)
    entries["config.json"] = json.dumps(config).encode()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for each, content in entries.items():
            archive.writestr(each, content)
    return data.getvalue()


def layers_of(config):
    return config["config"]["layers"]


@pytest.mark.parametrize(
    "index, class_name, changes, says",
    [
        (1, "ConvLSTM1D", {}, "its layer 'lstm' cannot be run: it is a ConvLSTM1D, which is not there; it would take"),
        (
            2,
            "Lambda",
            {},
            "its layer 'dropout' cannot be run: it is a Lambda, which is not there; it holds Python code",
        ),
        (5, "Dense", {"activation": "sparsemax"}, "its layer 'dense' cannot be run: its activation 'sparsemax' is not"),
        (2, "mine>Dropout", {}, "it is of the class 'mine>Dropout', of which the file holds no code"),
        (5, "Embedding", {}, "the weights of 'dense' are not in the file: there is no layers/embedding/vars/0"),
        (2, "Dense", {}, "the weights of 'dropout'"),
    ],
)
def test_a_layer_that_cannot_be_run_is_named(index, class_name, changes, says):
    def change(config):
        spec = layers_of(config)[index]
        spec["class_name"] = class_name
        spec["config"] |= changes

    with pytest.raises(ValueError, match=re.escape(says)):
        numlstm.load_model(changed("forecast.keras", change))


def test_a_gru_is_named():
    def change(config):
        layers_of(config)[1] |= {"class_name": "GRU"}
        layers_of(config)[1]["config"].pop("unit_forget_bias")

    with pytest.raises(
        ValueError, match="its layer 'lstm' cannot be run: it is a GRU, which is not there; numlstm has"
    ):
        numlstm.load_model(changed("forecast.keras", change))


def test_a_model_of_a_class_of_its_own_is_refused():
    path = HERE.parent / "keras" / "keras3_subclassed.keras"
    with pytest.raises(ValueError, match=r"its model is of the class .*Subclassed.*, of which the file holds no code"):
        numlstm.load_model(path)


@pytest.mark.parametrize(
    "name, inputs, error, says",
    [
        ("forecast", [np.zeros((2, 8, 3))], ValueError, "input 'input_layer' must have shape (any, 8, 1)"),
        ("forecast", [np.zeros((2, 7, 1))], ValueError, "Its shape is (2, 7, 1)."),
        ("forecast", [], ValueError, "the model takes 1 input, 'input_layer'; 0 are given"),
        ("generator", [[[1, 11]]], IndexError, "(Embedding): input must hold indices from 0 to input_dim - 1 = 10"),
        ("generator", [[[1, -1]]], IndexError, "It holds -1."),
        ("generator", [[[1, 0.5]]], ValueError, "(Embedding): its input must be whole numbers"),
        ("caption", [np.zeros((1, 6))], ValueError, "the model takes 2 inputs, 'image', 'text'; 1 are given"),
        ("several", [{"text": [[1]]}], ValueError, "its inputs are 'text', 'side'; given are 'text'"),
        ("sensor", [[["a"]]], TypeError, "input 'input_layer'"),
    ],
)
def test_a_wrong_input_is_named(name, inputs, error, says):
    model = numlstm.load_model(HERE / f"{name}.keras")
    with pytest.raises(error, match=re.escape(says)):
        model(*inputs)


def test_a_sequence_without_its_axis_of_one_feature_is_taken():
    model = numlstm.load_model(HERE / "forecast.keras")
    (given,), _ = case(HERE / "forecast.keras")
    np.testing.assert_array_equal(model(given[..., 0]), model(given))


@pytest.mark.parametrize("name", ["sensor", "generator", "forecast"])
def test_a_stream_gives_what_a_call_gives(name):
    """Of every step, or of the last where the model returns the last alone."""
    model = numlstm.load_model(HERE / f"{name}.keras")
    (given,), _ = case(HERE / f"{name}.keras")
    whole = model(given)
    stream = model.stream(len(given))
    pieces = [stream(given[:, 0]), stream(given[:, 1:3]), stream(given[:, 3])]
    if name == "forecast":
        last = [stream(given[:, step]) for step in range(4, given.shape[1])][-1]
        np.testing.assert_allclose(last, whole, rtol=1e-6, atol=1e-6)
        return
    found = np.concatenate([pieces[0][:, None], pieces[1], pieces[2][:, None]], axis=1)
    np.testing.assert_allclose(found, whole[:, :4], rtol=1e-6, atol=1e-6)
    stream.reset()
    np.testing.assert_array_equal(stream(given[:, 0]), pieces[0])
    alone = model.stream()
    np.testing.assert_allclose(alone(given[1, 0]), whole[1, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name, says",
    [
        ("sentiment", "cannot run step by step: it begins with the last step"),
        ("convolution", "layer 'conv1d' (Conv1D) needs later steps, or all at once"),
        ("caption", "a model of several inputs cannot run step by step"),
    ],
)
def test_a_model_that_needs_later_steps_has_no_stream(name, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        numlstm.load_model(HERE / f"{name}.keras").stream()


def test_a_summary_has_every_layer_in_order():
    model = numlstm.load_model(HERE / "sensor.keras")
    rows = [(row.kind, row.output, row.parameters) for row in model.summary()]
    assert rows == [
        ("Input", "(any, any, 2)", 0),
        ("LSTM", "(any, any, 4)", 4 * 4 * (2 + 4 + 1)),
        ("LayerNormalization", "(any, any, 4)", 8),
        ("BatchNormalization", "(any, any, 4)", 16),
        ("Dense", "(any, any, 3)", 15),
        ("LeakyReLU", "(any, any, 3)", 0),
        ("Dense", "(any, any, 1)", 4),
    ]
    assert [type(lstm) for lstm in model.lstms] == [numlstm.LSTM]


def test_a_stateful_layer_goes_on_where_it_was():
    def change(config):
        layers_of(config)[1]["config"]["stateful"] = True

    model = numlstm.load_model(changed("sensor.keras", change))
    (given,), expected = case(HERE / "sensor.keras")
    parts = [model(given[:, :3]), model(given[:, 3:])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected["0"], rtol=3e-6, atol=3e-6)
    model.reset_state()
    np.testing.assert_array_equal(model(given[:, :3]), parts[0])
