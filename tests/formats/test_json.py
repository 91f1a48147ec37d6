"""JSON of guitar amplifiers, and the index of weights in several files."""

import json
from pathlib import Path

import numpy as np
import pytest
from judge import close, equal

import numlstm

FOLDER = Path(__file__).parents[1] / "fixtures" / "json"


def computed(name):
    with np.load(FOLDER / "outputs.npz") as file:
        return file[f"{name}/input"], file[f"{name}/output"]


def model(name):
    return json.loads((FOLDER / name).read_text())


def test_a_state_dict_of_nested_lists():
    x, want = computed("guitarml.json")
    (found,) = numlstm.list_lstms(FOLDER / "guitarml.json")
    assert str(found) == "rec: LSTM(2, 3), float32" and any("(skip)" in note for note in found.notes)
    assert close(numlstm.load(FOLDER / "guitarml.json")(x)[0], want)
    assert numlstm.load_tensors(FOLDER / "guitarml.json")["lin.weight"].shape == (1, 3)


def test_layers_in_the_layout_of_keras():
    x, want = computed("rtneural.json")
    (found,) = numlstm.list_lstms(FOLDER / "rtneural.json")
    assert str(found) == "layers.0+layers.1: LSTM(2, 3, num_layers=2, batch_first=True), float32"
    assert close(numlstm.load(FOLDER / "rtneural.json")(x)[0], want)
    assert numlstm.load_tensors(FOLDER / "rtneural.json")["layers.2.kernel"].shape == (3, 1)


def test_one_list_of_weights():
    x, want = computed("amp.nam")
    with pytest.warns(UserWarning, match=r"begins with constant states, h_0_l0, c_0_l0, h_0_l1, c_0_l1: pass them"):
        net = numlstm.load(FOLDER / "amp.nam")
    assert repr(net) == "LSTM(1, 3, num_layers=2, batch_first=True)"
    tensors = numlstm.load_tensors(FOLDER / "amp.nam")
    states = tuple(
        np.broadcast_to(np.stack([tensors[f"{state}_l{n}"] for n in range(2)])[:, None], (2, 2, 3)).copy()
        for state in ("h_0", "c_0")
    )
    assert close(net(x, states)[0], want) and not close(net(x)[0], want)
    assert tensors["head.weight"].shape == (1, 3) and tensors["head.bias"].shape == (1,)


def changed(name, change):
    """The model with a change."""
    made = model(name)
    change(made)
    return made


TWICE = '{"state_dict": {"r.weight_ih_l0": [[1.0]], "r.weight_ih_l0": [[2.0]]}}'


def test_a_key_twice_is_refused(tmp_path):
    (tmp_path / "m.json").write_text(TWICE)
    with pytest.raises(ValueError, match=r"its text is no sound JSON: it has the key 'r\.weight_ih_l0' twice"):
        numlstm.load(tmp_path / "m.json")


WRONG = [
    ([1], "begins with b'\\[1\\]'"),
    ({"a": 1}, "it is JSON of 'a', which is no model that is known"),
    ({}, "it is JSON of nothing"),
    ({"state_dict": {"r.weight_ih_l0": [[1, 2], [3]]}}, "'r.weight_ih_l0' is a list of lists of several lengths"),
    ({"state_dict": {"r.weight_ih_l0": [["a"]]}}, "'r.weight_ih_l0' holds something other than numbers"),
    ({"state_dict": {"r.weight_ih_l0": [[1.0]]}}, "r cannot be loaded: r.weight_ih_l0 has shape"),
    (changed("rtneural.json", lambda m: m["layers"][0].update(activation="relu")), "its activation is 'relu'; only"),
    (changed("rtneural.json", lambda m: m["layers"][0]["weights"].pop()), "it holds 2 LSTMs"),
    ({"layers": [{"type": "lstm", "weights": [[[1.0]]]}]}, "it has no kernel and recurrent_kernel of two axes"),
    ({"layers": [{"type": "lstm", "weights": 1}]}, "it has no kernel and recurrent_kernel of two axes"),
    ({"layers": [{"type": "gru", "weights": []}, None, 1]}, "holds no LSTM: layers.0 is a GRU"),
    (changed("amp.nam", lambda m: m["weights"].pop()), "it has 159 weights; .* ask for 160"),
    (changed("amp.nam", lambda m: m.update(architecture="WaveNet")), "architecture 'WaveNet', not LSTM"),
    (changed("amp.nam", lambda m: m["config"].update(num_layers=0)), "not three positive numbers"),
    (changed("amp.nam", lambda m: m["config"].update(num_layers=5000)), "it has 5000 layers; 4096 is the limit"),
    (changed("amp.nam", lambda m: m.update(config=None)), "not three positive numbers"),
]


@pytest.mark.parametrize("made, says", WRONG, ids=[says[:40] for _, says in WRONG])
def test_what_does_not_fit_is_named(tmp_path, made, says):
    (tmp_path / "m.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=says):
        numlstm.load(tmp_path / "m.json")


@pytest.mark.parametrize("text", [b"{", b'{"a":', b'{"a": ' + b"[" * 100_000, b'{"\xff": 1}', b'{"a": 1e}'])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"is no sound JSON|nested deeper|no text|more memory"):
        numlstm.load(tmp_path / "m.json")


def test_dense_json_is_charged_before_it_is_parsed(tmp_path):
    (tmp_path / "m.json").write_bytes(b'{"weights": [' + b"0," * (4 << 20) + b"0]}")
    with pytest.raises(ValueError, match="its text would take more memory than 20 times"):
        numlstm.load(tmp_path / "m.json")


@pytest.mark.parametrize("element", ['"1.5"', "null", "true", "{}", "[]", "1" + "0" * 400])
def test_only_numbers_are_numbers(tmp_path, element):
    (tmp_path / "m.json").write_text('{"state_dict": {"r.bias_hh_l0": [1.5, ' + element + "]}}")
    with pytest.raises(ValueError, match=r"holds something other than numbers|an integer beyond all"):
        numlstm.load(tmp_path / "m.json")


def test_one_long_text_among_many_is_not_multiplied(tmp_path):
    """NumPy would take 4 GB for an array of these."""
    (tmp_path / "m.json").write_text(json.dumps({"state_dict": {"r.bias_hh_l0": ["a" * 10_000, *["b"] * 100_000]}}))
    with pytest.raises(ValueError, match="holds something other than numbers"):
        numlstm.load(tmp_path / "m.json")


def test_infinity_is_loaded_with_a_warning(tmp_path):
    made = changed("guitarml.json", lambda m: m["state_dict"]["rec.bias_hh_l0"].__setitem__(0, 1e300))
    (tmp_path / "m.json").write_text(json.dumps(made))
    with pytest.warns(UserWarning, match="NaN or infinity in bias_hh_l0"):
        numlstm.load(tmp_path / "m.json")


def test_the_order_of_axes_is_that_of_the_writer(tmp_path):
    assert numlstm.list_lstms(FOLDER / "guitarml.json")[0].batch_first is False
    with pytest.raises(ValueError, match="the file states batch_first=False"):
        numlstm.load(FOLDER / "guitarml.json", batch_first=True)
    plain = changed("guitarml.json", lambda m: m.pop("model_data"))
    (tmp_path / "m.json").write_text(json.dumps(plain))
    assert numlstm.list_lstms(tmp_path / "m.json")[0].batch_first is None


def test_stated_sizes_must_be_those_of_the_tensors(tmp_path):
    made = changed("guitarml.json", lambda m: m["model_data"].update(hidden_size=4))
    (tmp_path / "m.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=r"'hidden_size': 4.*, which does not fit its tensors: LSTM\(2, 3\)"):
        numlstm.load(tmp_path / "m.json")


def test_what_aida_x_does_around_its_layers_is_noted(tmp_path):
    made = changed("rtneural.json", lambda m: m.update(in_skip=1, in_gain=0, out_gain=-6.5))
    (tmp_path / "m.json").write_text(json.dumps(made))
    notes = numlstm.list_lstms(tmp_path / "m.json")[0].notes
    assert [note for note in notes if "around" in note] == [
        "the model has in_skip 1 around its layers",
        "the model has out_gain -6.5 around its layers",
    ]


# ---------------------------------------------------------------- an index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_several_files(tmp_path, suffix):
    net = numlstm.LSTM(3, 2, num_layers=2, seed=0)
    state = {f"rnn.{name}": value for name, value in net.state_dict().items()}
    files = {}
    for n in range(2):
        part = {name: value for name, value in state.items() if f"_l{n}" in name}
        name = f"model-{n}.{suffix}"
        if suffix == "bin":
            torch = pytest.importorskip("torch")
            torch.save({key: torch.from_numpy(value) for key, value in part.items()}, tmp_path / name)
        else:
            pytest.importorskip("safetensors.numpy").save_file(part, tmp_path / name)
        files |= dict.fromkeys(part, name)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    got = numlstm.load(index)
    assert repr(got) == repr(net) and equal(got.parameters(), net.parameters())
    with pytest.raises(ValueError, match="an index of weights in other files: load it by its path"):
        numlstm.load(index.read_bytes())
    index.write_text(json.dumps({"weight_map": dict.fromkeys(files, f"model-0.{suffix}")}))
    with pytest.raises(ValueError, match=f"'rnn.weight_ih_l1' is not in 'model-0.{suffix}', where its index has it"):
        numlstm.load(index)  # not the one layer that is there
    index.write_text(json.dumps({"weight_map": files}))
    (tmp_path / f"model-1.{suffix}").unlink()
    with pytest.raises(ValueError, match=f"its index refers to 'model-1.{suffix}', which cannot be read"):
        numlstm.load(index)


@pytest.mark.parametrize("location", ["../a.bin", "/etc/passwd", "", "a\0b", 1, None, "C:/a"])
def test_an_index_stays_in_its_folder(tmp_path, location):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.bin").write_bytes(b"PK")
    (tmp_path / "in" / "m.index.json").write_text(json.dumps({"weight_map": {"a": location}}))
    with pytest.raises(ValueError, match=r"no path below the model.s folder|must name the file|cannot be read"):
        numlstm.load(tmp_path / "in" / "m.index.json")


def test_an_index_of_other_files_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"something else")
    (tmp_path / "m.index.json").write_text(json.dumps({"weight_map": {"a": "a.bin"}}))
    with pytest.raises(ValueError, match=r"neither \.safetensors nor PyTorch.s"):
        numlstm.load(tmp_path / "m.index.json")
