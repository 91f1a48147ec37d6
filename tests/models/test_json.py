"""Models of guitar amplifiers in JSON: the LSTM, its head, and what surrounds them."""

import json
from pathlib import Path

import numpy as np
import pytest

import numlstm
from numlstm import nn

FOLDER = Path(__file__).parents[1] / "fixtures" / "json"


def given(name):
    """Input and output of the model's LSTM, by its framework; and the tensors of the file, in float64."""
    with np.load(FOLDER / "outputs.npz") as file:
        x, h = (file[f"{name}/{what}"].astype(np.float64) for what in ("input", "output"))
    return x, h, {key: array.astype(np.float64) for key, array in numlstm.load_tensors(FOLDER / name).items()}


def changed(tmp_path, name, change):
    """The path of a model with a change."""
    model = json.loads((FOLDER / name).read_text())
    change(model)
    path = tmp_path / name
    path.write_text(json.dumps(model))
    return path


def streamed(model, x):
    """The outputs for samples of one sequence, one by one."""
    stream = model.stream()
    return np.stack([stream(sample) for sample in x])


def test_guitarml_adds_its_input():
    x, h, tensors = given("guitarml.json")
    model = numlstm.load_model(FOLDER / "guitarml.json")
    want = h @ tensors["lin.weight"].T + tensors["lin.bias"] + x[..., :1]
    assert np.abs(model(x) - want).max() < 1e-6 and model.skip == 1
    assert (streamed(model, x[:, 0]) == model(x[:, 0])).all()
    assert isinstance(model.stream(), numlstm.Stream)
    assert [row.name for row in model.summary()] == ["rec", "lin"]


def test_rtneural_layers(tmp_path):
    x, h, tensors = given("rtneural.json")
    dense = h @ tensors["layers.2.kernel"] + tensors["layers.2.bias"]
    model = numlstm.load_model(FOLDER / "rtneural.json")
    assert np.abs(model(x) - dense).max() < 1e-6
    assert (streamed(model, x[0]) == model(x[0])).all()

    def with_tanh(model):
        model["layers"][-1]["activation"] = "tanh"
        model["layers"].append({"type": "activation", "activation": "relu"})

    model = numlstm.load_model(changed(tmp_path, "rtneural.json", with_tanh))
    assert list(model.layers) == ["layers.0+layers.1", "layers.2", "layers.2.tanh", "layers.3.relu"]
    assert np.abs(model(x) - np.maximum(np.tanh(dense), 0)).max() < 1e-6
    assert (streamed(model, x[0]) == model(x[0])).all()


@pytest.mark.parametrize("skip", [0, 1])
def test_the_gains_of_aida_x(skip, tmp_path):
    x, _, _ = given("rtneural.json")
    x = x[0]
    path = changed(tmp_path, "rtneural.json", lambda m: m.update(in_gain=6.0, out_gain=-12.0, in_skip=skip))
    gain_in, gain_out = 10 ** (6 / 20), 10 ** (-12 / 20)
    louder = x * [gain_in, 1]  # the other input is a parameter
    plain = numlstm.load_model(FOLDER / "rtneural.json")(louder)
    model = numlstm.load_model(path)
    assert np.abs(model(x) - gain_out * (plain + skip * louder[:, :1])).max() < 2e-6
    assert (streamed(model, x) == model(x)).all()


def test_neural_amp_modeler_begins_with_its_states(tmp_path):
    x, h, tensors = given("amp.nam")
    model = numlstm.load_model(FOLDER / "amp.nam")
    want = h @ tensors["head.weight"].T + tensors["head.bias"]
    assert np.abs(model(x) - want).max() < 1e-6
    assert (streamed(model, x[0]) == model(x[0])).all()
    stream = model.stream(2)
    first = stream(x[:, :3])
    assert (np.concatenate([first, stream(x[:, 3:])], axis=1) == model(x)).all()
    stream.reset([1])
    assert (stream(x[:, :3])[1] == first[1]).all() and (stream.reset() or (stream(x[:, :3]) == first).all())
    output, backward = model.vjp(x)
    assert np.abs(output - model(x)).max() < 1e-6 and backward(np.ones_like(output)).input.shape == x.shape
    with pytest.raises(ValueError, match="initial states cannot be saved; lstm has some"):
        model.save(tmp_path / "amp.safetensors")


@pytest.mark.parametrize(
    "name, change, says",
    [
        ("guitarml.json", lambda m: m["model_data"].update(skip=2), "its skip is 2; it can be 0 or the size"),
        ("guitarml.json", lambda m: m["state_dict"].pop("lin.weight"), "has an LSTM 'rec' and a head 'lin'"),
        (
            "guitarml.json",
            lambda m: m["state_dict"].update({"lin.bias": [1, 2]}),
            "those of no Dense",
        ),
        ("guitarml.json", lambda m: m.pop("model_data"), "holds weights, and does not say what its model computes"),
        ("rtneural.json", lambda m: m["layers"][-1].update(type="conv1d"), "'layers.2' is of the type 'conv1d'"),
        ("rtneural.json", lambda m: m["layers"][-1].update(activation="elu"), "activation of 'layers.2' is 'elu'"),
        ("rtneural.json", lambda m: m["layers"][-1].update(weights=[]), "layer 'layers.2' has no kernel"),
        ("rtneural.json", lambda m: m["layers"].append(3), "'layers.3' is of the type None"),
        ("rtneural.json", lambda m: m.update(in_gain="loud"), "its in_gain is 'loud', which is no number of decibels"),
        ("rtneural.json", lambda m: (m["layers"].pop(), m.update(out_gain=1)), "an out_gain behind 'layers.0"),
        ("rtneural.json", lambda m: m["layers"][0].update(activation="relu"), "its activation is 'relu'"),
        ("rtneural.json", lambda m: m.update(layers=[]), "at least one layer"),
    ],
)
def test_what_cannot_be_run_is_named(name, change, says, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: .*({says})"):
        numlstm.load_model(changed(tmp_path, name, change))


def test_the_skip_of_a_model_by_hand_is_that_of_the_file():
    x, _, _ = given("guitarml.json")
    tensors = numlstm.load_tensors(FOLDER / "guitarml.json")
    model = nn.Sequential({"rec": numlstm.LSTM(2, 3), "lin": nn.Linear(3, 1)}, skip=1).eval()
    model.load_state_dict(tensors)
    assert (model(x) == numlstm.load_model(FOLDER / "guitarml.json")(x)).all()
