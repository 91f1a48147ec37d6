"""Keras files: what each layer computed in Keras, what is refused by name, and files that are not models."""

import io
import json
import os
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from needs import need
from samples import quietly as load

import numlstm
from numlstm import reference
from numlstm.formats.budget import Budget
from numlstm.formats.keras import layers as keras_config
from numlstm.formats.keras import reader as keras
from numlstm.formats.keras import weights as keras_weights
from numlstm.formats.keras.hdf5 import Hdf5
from numlstm.formats.tensor import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras"
ZOOS = [f"keras{version}_zoo.{suffix}" for version in (2, 3) for suffix in ("keras", "h5")]
STACKS = [f"keras{version}_stack.{suffix}" for version in (2, 3) for suffix in ("keras", "h5")]
ALONE = ["keras2_stack_weights.h5", "keras2_stack.weights.h5", "keras3_stack.weights.h5"]
CLOSE = 3e-7  # of float32; the outputs are below 1


def found(path, name):
    (one,) = [one for one in numlstm.list_lstms(path) if one.name == name]
    return one


def kept(file):
    """What Keras was given, and what it computed."""
    with np.load(FIXTURES / file) as arrays:
        return {name: arrays[name] for name in arrays.files}


# Every layer against Keras


def last(path, name, x):
    return load(path, name)(x)[1][0][-1]


def whole(path, name, x):
    return load(path, name)(x)[0]


def both_last(path, name, x):
    return np.concatenate(load(path, name)(x)[1][0], axis=-1)


def added(path, name, x):
    output, _ = load(path, name)(x)
    return output[..., :2] + output[..., 2:]


def uneven(path, name, x):
    forward, _ = load(path, f"{name}/forward")(x)
    backward, _ = load(path, f"{name}/backward")(x)
    return np.concatenate([forward, backward], axis=-1)


def one_after_the_other(path, name, x):
    return load(path, f"{name}/1")(load(path, f"{name}/0")(x)[0])[0]


def joined(path, name, x):
    return load(path, "nested/low+nested/high")(x)[1][0][-1]


def two(path, name, x):
    return load(path, "frozen/moves")(load(path, "frozen/still")(x)[0])[1][0][-1]


def each_step(path, name, x):
    (inner,) = [one.name for one in numlstm.list_lstms(path) if one.name.startswith("timed/")]
    _, (h, _) = load(path, inner)(x.reshape(-1, x.shape[2], 1))
    return h[-1].reshape(*x.shape[:2], -1)


def decoded(path, name, x):
    output, states = load(path, "encoder")(x)
    return load(path, name)(output, states)[0]


WAYS = {
    "plain": last,
    "both": whole,
    "last": both_last,
    "sum": added,
    "uneven": uneven,
    "back": whole,
    "cell": whole,
    "cells": whole,
    "steps": one_after_the_other,
    "nested": joined,
    "frozen": two,
    "masked": whole,
    "timed": each_step,
    "decoder": decoded,
}


@pytest.mark.parametrize("file", ZOOS)
@pytest.mark.parametrize("layer", WAYS)
def test_each_layer_gives_what_keras_gave(file, layer):
    known = kept(file.replace(".keras", ".npz").replace(".h5", ".npz"))
    x = known["x"].astype(np.float32)
    got = WAYS[layer](FIXTURES / file, layer, x)
    assert got.shape == known[layer].shape
    assert np.abs(got - known[layer]).max() < CLOSE
    assert np.abs(known[layer]).max() > 0.1  # a comparison of zeros would say nothing


def test_every_layer_of_the_zoo_is_compared_or_refused():
    known = set(kept("keras3_zoo.npz")) | set(kept("keras2_zoo.npz"))
    assert known == {*WAYS, "x", "hard", "relu", "gru"}


def test_layers_that_run_from_the_end_say_so():
    found = {one.name: str(one) for one in numlstm.list_lstms(FIXTURES / "keras3_zoo.keras")}
    assert found["back"] == "back: LSTM(3, 2, bias=False, batch_first=True, direction='go_backwards'), float32"
    assert found["uneven/backward"].endswith("LSTM(3, 3, batch_first=True, direction='reverse'), float32")
    assert repr(load(FIXTURES / "keras3_zoo.keras", "back")) == found["back"][6:-9]


def test_weights_in_another_order_are_noticed():
    """The comparison can fail: with two gates swapped, it does."""
    known = kept("keras3_zoo.npz")
    lstm = load(FIXTURES / "keras3_zoo.keras", "plain")
    state = lstm.state_dict()
    swapped = np.roll(state["weight_ih_l0"].reshape(4, 2, 3), 1, axis=0).reshape(8, 3)
    lstm.load_state_dict({**state, "weight_ih_l0": swapped})
    _, (h, _) = lstm(known["x"].astype(np.float32))
    assert np.abs(h[-1] - known["plain"]).max() > 1e-2


@pytest.mark.parametrize("file", STACKS)
def test_layers_that_follow_each_other_are_one_lstm(file):
    known = kept(file.replace(".keras", ".npz").replace(".h5", ".npz"))
    lstm = load(FIXTURES / file)
    assert repr(lstm) == "LSTM(3, 3, num_layers=2, batch_first=True, bidirectional=True)"
    assert not lstm.training
    output, _ = lstm(known["x"].astype(np.float32))
    tensors = numlstm.load_tensors(FIXTURES / file)
    kernel, bias = (next(a for n, a in tensors.items() if "optim" not in n and a.shape == s) for s in ((6, 2), (2,)))
    assert np.abs(output @ kernel + bias - known["head"]).max() < 1e-6


@pytest.mark.parametrize("file", ALONE)
def test_weights_alone_are_found_by_their_shapes(file):
    first, second = numlstm.list_lstms(FIXTURES / file)
    assert all("the activations tanh and sigmoid" in one.warning for one in (first, second))
    with pytest.warns(UserWarning, match="without a configuration: the activations tanh and sigmoid, .* are assumed"):
        numlstm.load(FIXTURES / file, first.name)
    whole = load(FIXTURES / f"{file[:6]}_stack.h5")
    x = kept(f"{file[:6]}_stack.npz")["x"].astype(np.float32)
    output = x
    for one in (first, second):
        assert (one.config.bidirectional, one.config.batch_first) == (True, True)
        output, _ = load(FIXTURES / file, one.name)(output)
    assert np.array_equal(output, whole(x)[0])


def test_float64_stays_float64():
    for version in (2, 3):
        known = kept(f"keras{version}_float64.npz")
        lstm = load(FIXTURES / f"keras{version}_float64.keras")
        assert lstm.dtype == np.float64
        assert np.abs(lstm(known["x"])[1][0][-1] - known["lstm"]).max() < 1e-15


def test_a_mixed_policy_is_noted():
    for version in (2, 3):
        (one,) = numlstm.list_lstms(FIXTURES / f"keras{version}_mixed.h5")
        assert one.dtype == "float32" and any("mixed_float16" in note for note in one.notes)


def test_time_major_is_not_batch_first():
    (one,) = numlstm.list_lstms(FIXTURES / "keras2_time_major.h5")
    assert not one.config.batch_first


def test_cudnn_layouts():
    known = kept("keras2_cudnn.npz")
    lstm = load(FIXTURES / "keras2_cudnn.h5")
    assert np.abs(lstm(known["x"].astype(np.float32))[1][0][-1] - known["lstm"]).max() < CLOSE
    assert lstm.bias_hh_l0.any()


def test_the_one_bias_is_bias_ih():
    lstm = load(FIXTURES / "keras3_zoo.keras", "plain")
    assert lstm.bias_ih_l0.any() and not lstm.bias_hh_l0.any()
    assert not load(FIXTURES / "keras3_zoo.keras", "back").bias


# What is said of them


@pytest.mark.parametrize("file", ZOOS)
@pytest.mark.parametrize("name", ["hard", "relu"])
def test_other_activations_give_what_keras_gave(file, name):
    """By the equations; tests/test_cell_options.py has the kernels."""
    known = kept(file.replace(".keras", ".npz").replace(".h5", ".npz"))
    lstm = load(FIXTURES / file, name)
    slope = 0.2 if "keras2" in file else 1 / 6
    wanted = {"hard": {"f": ("HardSigmoid", slope, 0.5)}, "relu": {"g": "Relu", "h": "Relu"}}[name]
    assert lstm.cell_options == numlstm.CellOptions(**wanted)
    (_, (h, _)), (_, (other, _)) = (
        reference.lstm(lstm.state_dict(), known["x"], batch_first=True, options=options)
        for options in (lstm.cell_options, numlstm.CellOptions())
    )
    assert np.abs(h[-1] - known[name]).max() < CLOSE < np.abs(other[-1] - known[name]).max()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", ["plain", "sigmoid", "both", "cells", "mixed"])
def test_peepholes_give_what_tensorflow_addons_gave(name, suffix):
    """By the equations; of the weights alone too, whose activations are assumed to be those."""
    path, known = FIXTURES / f"keras2_peepholes.{suffix}", kept("keras2_peepholes.npz")

    def run(name, x):
        lstm = load(path, name)
        assert lstm.cell_options.peepholes == (name != "mixed/1")
        return reference.lstm(lstm.state_dict(), x, batch_first=True, options=lstm.cell_options)[0]

    got = run("mixed/1", run("mixed/0", known["x"])) if name == "mixed" else run(name, known["x"])
    assert np.abs(got - known[name]).max() < CLOSE < np.abs(known[name]).max()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_whole_model_has_peepholes(suffix):
    known = kept("keras2_peepholes.npz")
    model = numlstm.load_model(FIXTURES / f"keras2_peepholes.{suffix}")
    got = model(known["x"].astype(np.float32))
    for one in ("plain", "both", "cells", "mixed"):
        assert np.abs(got[one] - known[one]).max() < CLOSE


def test_peepholes_without_a_configuration(tmp_path):
    h5py = need("h5py")
    path = tmp_path / "alone.h5"
    path.write_bytes((FIXTURES / "keras2_peepholes.h5").read_bytes())
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    with pytest.warns(UserWarning, match="weights without a configuration"):
        lstm = numlstm.load(path, "sigmoid")
    assert numlstm.load(FIXTURES / "keras2_peepholes.h5", "sigmoid").state_dict().keys() == lstm.state_dict().keys()
    with h5py.File(path, "a") as file:
        cell = next(iter(file["model_weights/sigmoid/sigmoid"].values()))
        del cell["output_gate_peephole_weights:0"]
    with pytest.raises(ValueError, match="has peepholes, but the file lacks some"):
        numlstm.load(path, "sigmoid")


@pytest.mark.parametrize("file", ZOOS)
@pytest.mark.parametrize(
    "name, says",
    [
        ("sum", "merge_mode 'sum'.*hidden_size:"),
        ("masked", "masks.*pass lengths"),
        ("decoder", "further inputs, from 'encoder'.*h_0"),
    ],
)
def test_load_warns_of_what_the_caller_must_do(file, name, says):
    with pytest.warns(UserWarning, match=says) as caught:
        numlstm.load(FIXTURES / file, name)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert str(FIXTURES / file) in str(caught[0].message)


def test_load_warns_of_nothing_else():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("plain", "both", "last", "back", "uneven/backward", "cell", "cells", "nested/low+nested/high"):
            numlstm.load(FIXTURES / "keras3_zoo.keras", name)


def test_notes():
    notes = {one.name: " ".join(one.notes) for one in numlstm.list_lstms(FIXTURES / "keras3_zoo.keras")}
    assert "return_sequences is False" in notes["plain"] and "h_n[-1]" in notes["plain"]
    assert "dropout 0.1" in notes["plain"] and "recurrent_dropout 0.2" in notes["plain"]
    assert "return_state" in notes["encoder"]
    assert "h_n[-2] and h_n[-1]" in notes["last"]
    assert "TimeDistributed" in next(note for name, note in notes.items() if name.startswith("timed"))
    assert "2 layers of Keras, joined" in notes["nested/low+nested/high"]


def test_a_class_of_its_own_is_refused_by_name():
    with pytest.raises(ValueError, match="own cannot be loaded: it is of the class 'own>Own'"):
        numlstm.load(FIXTURES / "keras3_own.keras")


def test_a_model_whose_configuration_is_silent():
    (one,) = numlstm.list_lstms(FIXTURES / "keras3_subclassed.keras")
    assert (one.name, str(one)) == ("inner", "inner: LSTM(3, 2, batch_first=True), float32")
    assert "the file holds weights without a configuration" in one.warning


def test_several_are_listed():
    with pytest.raises(ValueError, match=r"(?s)holds 20 LSTMs.*both: LSTM\(3, 2, batch_first=True, bidirectional"):
        numlstm.load(FIXTURES / "keras3_zoo.h5")


@pytest.mark.parametrize("file", ZOOS)
def test_a_gru_is_none_and_is_named(file):
    assert "gru" not in [one.name for one in numlstm.list_lstms(FIXTURES / file)]
    contents = keras_contents((FIXTURES / file).read_bytes())
    assert contents.others == ("'gru' is a GRU, not an LSTM",)


def keras_contents(data):
    file = io.BytesIO(data)
    return keras.read_zip(zipfile.ZipFile(file), Budget(len(data))) if data.startswith(b"PK") else keras.read_h5(file)


# Configurations, changed


def changed(change, file="keras3_stack.keras"):
    """What is found in a .keras file after a change to its configuration."""
    into = io.BytesIO()
    with zipfile.ZipFile(FIXTURES / file) as archive, zipfile.ZipFile(into, "w") as out:
        for name in archive.namelist():
            data = archive.read(name)
            if name == "config.json":
                config = json.loads(data)
                data = json.dumps(change(config) or config)
            out.writestr(name, data)
    return keras_contents(into.getvalue()).lstms


def layer(config, name):
    return next(entry for entry in config["config"]["layers"] if entry["config"]["name"] == name)


def test_units_that_the_weights_do_not_have():
    def change(config):
        layer(config, "first")["config"]["layer"]["config"]["units"] = 4

    first, second = changed(change)
    assert first.problem == (
        "layers/bidirectional/forward_layer/cell/vars/0 has shape (3, 12); 4 units ask for (features, 16)"
    )
    assert second.problem == ""


def test_use_bias_against_the_weights():
    def change(config):
        layer(config, "first")["config"]["layer"]["config"]["use_bias"] = False

    first, _ = changed(change)
    assert "no bias, but the file holds one" in first.problem


def test_a_layer_whose_place_holds_another():
    def change(config):
        layer(config, "first")["config"]["name"] = "another"

    one, _ = changed(change)
    assert one.problem == "its weights would be at layers/bidirectional, which holds those of 'first'"


def test_a_layer_without_weights():
    def change(config):
        config["config"]["layers"].append(
            {"class_name": "LSTM", "config": {"name": "third", "units": 3, "return_sequences": True}}
        )

    *_, third = changed(change)
    assert third.problem == "its weights are not in the file: there is no layers/lstm/cell/vars/0"


@pytest.mark.parametrize(
    "change, joined",
    [
        (lambda config: layer(config, "dropout").update(class_name="Dropout"), True),
        (lambda config: layer(config, "dropout").update(class_name="Activation"), False),
        (lambda config: layer(config, "first")["config"]["layer"]["config"].update(return_sequences=False), False),
        (lambda config: layer(config, "first")["config"].update(merge_mode="sum"), False),
        (lambda config: layer(config, "second")["config"].update(merge_mode="ave"), False),
    ],
)
def test_only_what_follows_exactly_is_joined(change, joined):
    def named(config):
        for entry in config["config"]["layers"]:
            if entry["class_name"] == "Dropout":
                entry["config"]["name"] = "dropout"
        change(config)

    names = [one.name for one in changed(named)]
    assert names == (["first+second"] if joined else ["first", "second"])


def functional(*layers, outputs):
    """The configuration of a functional model: (name, feeds) each."""
    entries = [
        {
            "class_name": "LSTM",
            "config": {"name": name, "units": 2, "return_sequences": True},
            "inbound_nodes": [[[feed, 0, 0, {}] for feed in feeds] for feeds in nodes],
        }
        for name, *nodes in layers
    ]
    entries.insert(0, {"class_name": "InputLayer", "config": {"name": "x"}, "inbound_nodes": []})
    config = {"layers": entries, "output_layers": [[name, 0, 0] for name in outputs]}
    return keras_config.parsed(json.dumps({"class_name": "Functional", "config": config}))


@pytest.mark.parametrize(
    "layers, outputs, follows",
    [
        ([("a", ["x"]), ("b", ["a"])], ["b"], ["", "a"]),
        ([("a", ["x"]), ("b", ["a"])], ["a", "b"], ["", ""]),  # the output of a is wanted
        ([("a", ["x"]), ("b", ["a"]), ("c", ["a"])], ["b", "c"], ["", "", ""]),  # two read it
        ([("a", ["x"]), ("b", ["a", "x"])], ["b"], ["", ""]),  # an initial state
        ([("a", ["x"]), ("b", ["a"], ["x"])], ["b"], ["", ""]),  # called twice
        ([("a", ["x"], ["x"]), ("b", ["a"])], ["b"], ["", ""]),
        ([("a", ["x"], ["b"]), ("b", ["a"])], ["b"], ["", ""]),  # called on what was made of its own output
    ],
)
def test_who_follows_whom(layers, outputs, follows):
    assert [one.follows for one in functional(*layers, outputs=outputs).layers] == follows


@pytest.mark.parametrize(
    "layers", [[("a", ["a"])], [("a", ["b"]), ("b", ["a"])], [("a", ["x"], ["b"]), ("b", ["a", "b"])]]
)
def test_a_cycle_is_refused(layers):
    with pytest.raises(ValueError, match=r"has layers that depend on each other in a cycle, among '[ab]'"):
        functional(*layers, outputs=["a"])


def sequential(*entries):
    return keras_config.parsed(json.dumps({"class_name": "Sequential", "config": {"layers": list(entries)}}))


def lstm(**config):
    return {"class_name": "LSTM", "config": {"name": "lstm", "units": 2, **config}}


@pytest.mark.parametrize(
    "entry, problem",
    [
        (lstm(activation={"class_name": "function", "config": "gelu"}), "its activation is 'gelu'"),
        (lstm(activation=None), ""),
        (lstm(activation={"class_name": "ReLU", "config": {"max_value": 6.0}}), "its activation is 'ReLU'"),
        (lstm(activation={"class_name": "LeakyReLU", "config": {"alpha": "0.1"}}), "its activation is 'LeakyReLU'"),
        (lstm(recurrent_activation="hard_sigmoid"), "Keras 2 computes clip(0.2 x + 0.5, 0, 1) under that name"),
        (lstm(activation={"class_name": "ReLU", "config": {"max_value": None, "threshold": 0.0}}), ""),
        (lstm(recurrent_activation={"class_name": "Own>act", "config": {}}), "recurrent_activation is 'Own>act'"),
        (lstm(units=-1), "its units are -1"),
        (lstm(units="2"), "its units are '2'"),
        ({"class_name": "LSTM", "config": {"name": "a", "output_dim": 2}}, "Keras 1"),
        ({"class_name": "mine>LSTM", "config": {"name": "a", "units": 2}}, "class 'mine>LSTM'"),
        ({**lstm(), "module": "mine", "registered_name": "mine>LSTM"}, "class 'mine>LSTM'"),
        ({**lstm(), "module": "mine"}, "class 'LSTM'"),
        ({**lstm(), "module": "keras.src.layers"}, ""),
        ({**lstm(), "module": "tensorflow.keras.layers"}, ""),
        (
            {"class_name": "RNN", "config": {"cell": {"class_name": "Mine>PeepholeLSTMCell", "config": {"units": 2}}}},
            "Mine>PeepholeLSTMCell",
        ),
        (
            {
                "class_name": "RNN",
                "config": {"cell": {"class_name": "StackedRNNCells", "config": {"cells": [lstm(), {}]}}},
            },
            "class None",
        ),
        ({"class_name": "Bidirectional", "config": {"layer": lstm(go_backwards=True)}}, "or its backward layer"),
        (
            {"class_name": "Bidirectional", "config": {"layer": lstm(), "backward_layer": lstm()}},
            "its backward layer forwards",
        ),
        (
            {
                "class_name": "Bidirectional",
                "config": {"layer": lstm(), "backward_layer": lstm(go_backwards=True, activation="gelu")},
            },
            "its activation is 'gelu'",
        ),
    ],
)
def test_configurations_of_one_layer(entry, problem):
    (one,) = sequential(entry).layers
    assert problem in one.problem if problem else one.problem == ""


def test_other_recurrent_layers_are_no_lstms():
    network = sequential(
        {"class_name": "SimpleRNN", "config": {"name": "a", "units": 2, "recurrent_initializer": "zeros"}},
        {"class_name": "ConvLSTM2D", "config": {"name": "b", "filters": 2, "recurrent_activation": "sigmoid"}},
        {"class_name": "RNN", "config": {"name": "c", "cell": {"class_name": "GRUCell", "config": {"units": 2}}}},
        {"class_name": "Bidirectional", "config": {"name": "d", "layer": {"class_name": "GRU", "config": {}}}},
        {"class_name": "Mine", "config": {"name": "e", "inside": [lstm()]}},
        {"class_name": "Dense", "config": {"name": "f"}},
        {"class_name": "Lambda", "config": {"function": ["code", None, None]}},
    )
    assert network.layers == []
    assert [said.split("'")[1] for said in network.others] == ["a", "b", "c", "d", "e"]


def test_stateful_and_masks_are_told():
    embedding = {"class_name": "Embedding", "config": {"name": "words", "mask_zero": True}}
    one, two = sequential(embedding, lstm(stateful=True), {**lstm(), "config": {"name": "b", "units": 2}}).layers
    assert any("stateful" in note for note in one.notes)
    assert "'words' masks" in one.warning
    assert two.warning  # return_sequences is not said to be False


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "no sound JSON"),
        ("[]", "not that of a Keras model"),
        ("{}", "not that of a Keras model"),
        ('{"a":' * 100_000, "nested deeper|no sound JSON|more memory than"),
        ("[" * 1_000_000, "nested deeper|no sound JSON|more memory than"),
        ('{"class_name": "Sequential", "config": {"layers": [' * 50 + "1" + "]}}" * 50, "more than 32"),
        ('{"class_name": "W", "config": {"layer": ' * 50 + "1" + "}}" * 50, "more than 32"),
        (
            '{"class_name": "Sequential", "config": {"layers": [{"class_name": "A"}, {"class_name": "A"}]}}',
            "two layers of one name",
        ),
        (
            '{"class_name": "Sequential", "config": {"layers": [{"class_name": "Bidirectional", "config": {}}]}}',
            "no layer",
        ),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_no_configuration(text, says):
    with pytest.raises(ValueError, match=says):
        keras_config.parsed(text)


def test_a_long_chain_takes_no_long_time():
    entries = [{"class_name": "Dropout", "config": {"name": f"d{k}"}} for k in range(20_000)]
    network = sequential(lstm(return_sequences=True), *entries, {**lstm(), "config": {"name": "b", "units": 2}})
    assert [one.follows for one in network.layers] == ["", ""]  # a few no-ops are looked through, not thousands


def nested(inside, levels):
    for level in range(levels):
        inside = [{"class_name": "Sequential", "config": {"name": f"m{level}", "layers": inside}}]
    return inside[0]


@pytest.mark.parametrize(
    "config",
    [
        nested([{"class_name": "A", "config": {"name": str(k)}} for k in range(20_000)], 30),
        nested([{"class_name": "A", "config": {"name": "a", "junk": [{} for _ in range(200_000)]}}], 30),
        nested([{"class_name": "LSTM", "config": {"name": str(k), "units": 1}} for k in range(4000)], 30),
        {"class_name": "Sequential", "config": {"name": "n" * 500_000, "layers": [lstm()]}},
        nested([lstm() | {"config": {"name": "n" * 2000, "units": 1}}], 1),
        nested([{"class_name": "C" * 500_000, "config": {"name": "c", "layers": [lstm()]}}], 1),
    ],
    ids=["many layers deep", "much else deep", "many LSTMs deep", "long root", "long name", "long class"],
)
def test_a_configuration_takes_no_more_than_its_size_justifies(config):
    text = json.dumps(config)

    def parsed():
        try:
            keras_config.parsed(text)
        except ValueError as error:
            assert "characters" in str(error)

    begin = time.process_time()
    parsed()
    assert time.process_time() - begin < 2  # against what grows with the square: a fifth of a second is usual
    tracemalloc.start()
    parsed()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * len(text) + (1 << 20)


# Old files, and archives that are none


def test_the_oldest_files_have_a_list_of_layers_alone():
    network = keras_config.parsed(json.dumps({"class_name": "Sequential", "config": [lstm()]}))
    assert [one.name for one in network.layers] == ["lstm"]


def test_the_oldest_files_have_the_cells_of_a_stack_in_one_place():
    shapes = {"kernel:0": (3, 8), "kernel_1:0": (2, 8), "recurrent_kernel:0": (2, 8), "recurrent_kernel_1:0": (2, 8)}
    tensors = {f"rnn/rnn/{name}": Tensor.of(np.zeros(shape)) for name, shape in shapes.items()}
    names = ["rnn/kernel:0", "rnn/recurrent_kernel:0", "rnn/kernel_1:0", "rnn/recurrent_kernel_1:0"]
    file = Hdf5(tensors, {"": {}, "rnn": {"weight_names": names}})
    first, second = keras_weights.listed(file, "")["rnn"]
    assert (first.tensors["kernel"][0], second.tensors["kernel"][0]) == ("rnn/rnn/kernel:0", "rnn/rnn/kernel_1:0")


def test_a_list_of_names_in_several_attributes():
    assert keras_weights.texts({"n0": ["a", "b"], "n1": ["c"], "n3": ["d"]}, "n") == ["a", "b", "c"]


def test_an_old_file_of_weights_alone_warns_of_hard_sigmoid(tmp_path):
    h5py = need("h5py")
    path = tmp_path / "old.h5"
    for version, says in (("2.2.4", True), ("2.3.0", False), ("2.15.0", False)):
        path.write_bytes((FIXTURES / "keras2_stack_weights.h5").read_bytes())
        with h5py.File(path, "a") as file:
            file.attrs["keras_version"] = version
        assert all(("default of Keras 2.2.4" in one.warning) is says for one in numlstm.list_lstms(path))


def test_a_keras_archive_without_its_parts(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    with pytest.raises(ValueError, match=r"without 'model\.weights\.h5'"):
        numlstm.list_lstms(path)
    assert keras.looks_like(["config.json", "model.weights.npz"])
    assert not keras.looks_like(["config.json"]) and not keras.looks_like([])


def test_hdf5_that_is_not_keras(tmp_path):
    h5py = need("h5py")
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["measurements/a"] = np.arange(6.0)
    with pytest.raises(ValueError, match="this Keras or HDF5 file holds no LSTM; its tensors are measurements/a"):
        numlstm.load(path)
    assert numlstm.load_tensors(path)["measurements/a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_nothing_of_a_configuration_is_run(tmp_path):
    mark = tmp_path / "ran"
    run = {"class_name": "__lambda__", "config": {"value": f"open({str(mark)!r}, 'w')"}}
    one = {
        "class_name": "Lambda",
        "module": "os",
        "registered_name": "system",
        "config": {"function": run, "name": "l"},
    }

    def change(config):
        config["config"]["layers"].append(one)

    assert changed(change)[0].name == "first+second" and not mark.exists()


# Keras itself, where it is installed

LIVE = """
import sys, os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
sys.path.insert(0, sys.argv[2])
from keras_models import filled, inputs, zoo
model = filled(zoo(keras), int(sys.argv[3]))
x = np.random.default_rng(9).standard_normal((4, 5, 3)).astype(np.float32)
for suffix in ("zoo.keras", "zoo.h5"):
    model.save(os.path.join(sys.argv[1], suffix))
np.savez(os.path.join(sys.argv[1], "out.npz"), x=x, **{k: keras.ops.convert_to_numpy(v) for k, v in model(x).items()})
"""


@pytest.mark.slow
def test_the_installed_keras_agrees(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # TensorFlow otherwise
    need("keras")
    need("torch")
    done = subprocess.run(
        [sys.executable, "-c", LIVE, tmp_path, FIXTURES.parent, "77"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "out.npz") as arrays:
        known = dict(arrays)
    for file in ("zoo.keras", "zoo.h5"):
        for name, way in WAYS.items():
            assert np.abs(way(tmp_path / file, name, known["x"]) - known[name]).max() < 5e-7, (file, name)
