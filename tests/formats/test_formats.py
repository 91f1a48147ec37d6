"""Loading and saving .safetensors and .npz, which need no framework; and what all formats share."""

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge import equal, same_bits
from needs import need
from safetensors.numpy import save_file

import numlstm
from numlstm import formats
from numlstm.base.bfloat16 import widened
from numlstm.base.config import Config
from numlstm.formats import budget, numlstm_config, safetensors, state_dict, zips
from numlstm.formats.tensor import Tensor, decoded

OWN = (".safetensors", ".npz")
FLAGS = [
    {},
    {"bias": False},
    {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.25},
    {"proj_size": 2, "num_layers": 2},
    {"dtype": "float64", "bidirectional": True},
]


def parameters(*sizes, prefix="", **flags):
    """A state dict of random numbers."""
    net = numlstm.LSTM(*sizes, seed=1, **flags)
    return {prefix + name: value for name, value in net.state_dict().items()}


def write_npz(path, arrays):
    np.savez(path, **arrays)
    return path


def safetensors_file(header, data=b""):
    """The bytes of a file with this header, whatever it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def same_parameters(got, want):
    return list(got.state_dict()) == list(want.state_dict()) and equal(got.parameters(), want.parameters())


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("suffix", OWN)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_what_is_saved_comes_back_to_the_bit(tmp_path, suffix, flags):
    net = numlstm.LSTM(5, 4, seed=2, **flags)
    net.save(tmp_path / f"model{suffix}")
    back = numlstm.load(tmp_path / f"model{suffix}")
    assert repr(back) == repr(net) and back.dtype == net.dtype
    assert not back.training and same_parameters(back, net)
    (found,) = numlstm.list_lstms(tmp_path / f"model{suffix}")
    assert found.config == net._config and found.dtype == net.dtype.name and not found.problem
    assert set(numlstm.load_tensors(tmp_path / f"model{suffix}")) == set(net.state_dict())


@pytest.mark.parametrize("suffix", OWN)
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_comes_back_as_a_cell(tmp_path, suffix, bias):
    cell = numlstm.LSTMCell(3, 5, bias=bias, seed=0)
    cell.save(tmp_path / f"cell{suffix}")
    back = numlstm.load(tmp_path / f"cell{suffix}")
    assert repr(back) == repr(cell) and same_parameters(back, cell)


def test_the_order_that_a_file_leaves_open_is_passed(tmp_path):
    lstm = numlstm.LSTM(3, 4, seed=0, batch_first=True).eval()
    np.savez(tmp_path / "open.npz", **lstm.state_dict())
    (found,) = numlstm.list_lstms(tmp_path / "open.npz")
    assert found.batch_first is None and "does not say whether the batch comes first" in found.notes[0]
    assert not numlstm.load(tmp_path / "open.npz").batch_first
    assert not numlstm.load(tmp_path / "open.npz", batch_first=False).batch_first
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    assert same_bits(numlstm.load(tmp_path / "open.npz", batch_first=True)(x)[0], lstm(x)[0])
    with pytest.raises(TypeError, match="batch_first should be of type bool, got: int"):
        numlstm.load(tmp_path / "open.npz", batch_first=1)
    with pytest.raises(TypeError, match=r"name must be None or a str, not True\nDid you mean batch_first=True\?"):
        numlstm.load(tmp_path / "open.npz", True)
    with pytest.raises(TypeError, match=r"name must be None or a str, not 0\nnumlstm.list_lstms lists the names"):
        numlstm.load_cell(tmp_path / "open.npz", 0)


@pytest.mark.parametrize("stated", [False, True])
def test_the_order_that_a_file_states_is_not_contradicted(tmp_path, stated):
    path = tmp_path / "stated.npz"
    numlstm.LSTM(3, 4, batch_first=stated).save(path)
    assert numlstm.list_lstms(path)[0].batch_first is stated
    for order in (None, stated):
        assert numlstm.load(path, batch_first=order).batch_first is stated
    with pytest.raises(
        ValueError, match=rf"stated\.npz: the file states batch_first={stated}, but .*={not stated} was"
    ):
        numlstm.load(path, batch_first=not stated)


def test_a_cell_has_no_order_and_a_function_of_its_own(tmp_path):
    numlstm.LSTMCell(3, 4, seed=0).save(tmp_path / "cell.npz")
    numlstm.LSTM(3, 4).save(tmp_path / "lstm.npz")
    assert numlstm.list_lstms(tmp_path / "cell.npz")[0].batch_first is None
    for order in (False, True):
        with pytest.raises(ValueError, match=r"cell\.npz: its content is an LSTMCell.*no batch_first"):
            numlstm.load(tmp_path / "cell.npz", batch_first=order)
    assert type(numlstm.load_cell(tmp_path / "cell.npz")) is numlstm.LSTMCell
    with pytest.raises(ValueError, match=r"lstm\.npz: its content is an LSTM, not an LSTMCell"):
        numlstm.load_cell(tmp_path / "lstm.npz")


@pytest.mark.parametrize("load", [numlstm.load, numlstm.load_cell])
def test_a_warning_points_at_the_caller(tmp_path, load):
    cell = numlstm.LSTMCell(3, 4)
    cell.bias_ih = np.full(16, np.nan)
    cell.save(tmp_path / "cell.npz")
    with pytest.warns(UserWarning, match="NaN or infinity in bias_ih") as caught:
        load(tmp_path / "cell.npz")
    assert caught[0].filename == __file__


def test_an_unknown_suffix_is_refused_and_writes_nothing(tmp_path):
    for name in ("model.h5", "model", "model.pt"):
        with pytest.raises(ValueError, match=r"suffix must be one of \.safetensors, \.npz, \.onnx, not"):
            numlstm.LSTM(2, 3).save(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_saving_replaces_a_file_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    numlstm.LSTM(2, 3, seed=0).save(path)
    before = path.read_bytes()

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        numlstm.LSTM(2, 3, seed=1).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.npz"]


def test_the_metadata_is_held_against_the_tensors(tmp_path):
    from safetensors.numpy import save_file

    net = parameters(5, 4)
    wrong = [
        numlstm_config.metadata("LSTM", Config(5, 3)),
        numlstm_config.metadata("LSTMCell", Config(5, 4)),
        {numlstm_config.KEY: "{"},
        {numlstm_config.KEY: "[1]"},
        {numlstm_config.KEY: '{"kind": "LSTM", "batch_first": 1}'},
        {numlstm_config.KEY: '{"kind": "LSTM", "dropout": 2}'},
        {numlstm_config.KEY: '{"kind": "LSTM", "dropout": NaN}'},
        {numlstm_config.KEY: '{"kind": "LSTM", "dropout": "0.5"}'},
        {numlstm_config.KEY: "[" * 100_000},
    ]
    for metadata in wrong:
        save_file(net, tmp_path / "model.safetensors", metadata)
        with pytest.raises(ValueError, match=r"its metadata numlstm\.config is .*does not fit its tensors"):
            numlstm.load(tmp_path / "model.safetensors")
    save_file(net, tmp_path / "model.safetensors", numlstm_config.metadata("LSTM", Config(5, 4)))
    assert same_parameters(numlstm.load(tmp_path / "model.safetensors"), numlstm.LSTM(5, 4, seed=1))


# ---------------------------------------------------------------- names and dtypes


@pytest.mark.parametrize("prefix", ["", "lstm.", "module.encoder.rnn.", "a/b/", "lstm_", "größe.", "x" * 300 + "."])
def test_any_prefix(tmp_path, prefix):
    path = write_npz(tmp_path / "m.npz", parameters(3, 2, prefix=prefix) | {"head.weight": np.ones((1, 2))})
    (found,) = numlstm.list_lstms(path)
    assert found.name == prefix.rstrip("./_")
    assert same_parameters(numlstm.load(path, found.name), numlstm.LSTM(3, 2, seed=1))
    assert numlstm.load_tensors(path)["head.weight"].tolist() == [[1.0, 1.0]]


def test_several_are_listed_and_a_name_picks_one(tmp_path):
    path = write_npz(
        tmp_path / "m.npz",
        parameters(3, 2, prefix="encoder.") | parameters(7, 5, num_layers=2, bidirectional=True, prefix="decoder."),
    )
    with pytest.raises(ValueError) as error:
        numlstm.load(path)
    assert str(error.value).startswith(f"{path}: it holds 2 LSTMs; pass the name of one of them:\n")
    assert "  encoder: LSTM(3, 2), float32" in str(error.value)
    assert "  decoder: LSTM(7, 5, num_layers=2, bidirectional=True), float32" in str(error.value)
    assert numlstm.load(path, "decoder").hidden_size == 5
    with pytest.raises(ValueError, match=r"it holds no LSTM named 'lstm'; it has:\n  encoder"):
        numlstm.load(path, "lstm")


def test_other_tensors_of_its_module_are_warned_of(tmp_path):
    """As of the cells with layer norms in PyTorch's benchmarks, whose parameters have the names of LSTMCell's."""
    cell = {name.removesuffix("_l0"): value for name, value in parameters(3, 2, prefix="rnn.").items()}
    more = {"rnn.layernorm_i.weight": np.ones(8, "f"), "fc.weight": np.ones(2, "f")}
    with pytest.warns(UserWarning, match=r"m.npz: its module also has rnn.layernorm_i.weight, so it is no plain torch"):
        numlstm.load(write_npz(tmp_path / "m.npz", cell | more))
    bare = {name.removeprefix("rnn."): value for name, value in (cell | more).items()}
    with pytest.warns(UserWarning, match=r"m.npz: its module also has layernorm_i.weight,"):
        numlstm.load(write_npz(tmp_path / "m.npz", bare))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numlstm.load(write_npz(tmp_path / "m.npz", cell | {"rnn_norm.weight": np.ones(8), "fc.weight": np.ones(2)}))
        numlstm.load(write_npz(tmp_path / "m.npz", parameters(3, 2) | {"fc.weight": np.ones(2)}))


def test_a_cell_and_an_lstm_of_one_prefix_are_two(tmp_path):
    cell = {name.removesuffix("_l0"): value for name, value in parameters(3, 2, prefix="rnn.").items()}
    path = write_npz(tmp_path / "m.npz", parameters(3, 2, prefix="rnn.") | cell)
    assert [(found.name, found.kind) for found in numlstm.list_lstms(path)] == [
        ("rnn", "LSTM"),
        ("rnn.LSTMCell", "LSTMCell"),
    ]
    assert isinstance(numlstm.load(path, "rnn.LSTMCell"), numlstm.LSTMCell)


@pytest.mark.parametrize(
    "stored, loaded", [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_number_types_of_safetensors(tmp_path, stored, loaded):
    header, data, wanted = {}, b"", {}
    for name, value in parameters(3, 2, prefix="lstm.").items():
        if stored == "bfloat16":
            bits = (value.view(np.uint32) >> 16).astype("<u2")
            wanted[name], raw = widened(bits), bits.tobytes()
        else:
            wanted[name] = value.astype(stored)
            raw = wanted[name].tobytes()
        dtype = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}[stored]
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file(header, data))
    net = numlstm.load(path)
    assert net.dtype == loaded and numlstm.list_lstms(path)[0].dtype == stored
    for name, value in net.state_dict().items():
        assert same_bits(value, wanted[f"lstm.{name}"].astype(loaded))
    got = numlstm.load_tensors(path)["lstm.weight_ih_l0"]
    assert got.dtype == ("float32" if stored == "bfloat16" else stored)


@pytest.mark.parametrize("dtype, bits", safetensors.BITS.items())
def test_a_number_type_that_numpy_lacks_is_named_and_checked(tmp_path, dtype, bits):
    """The safetensors library refuses a size that does not fit, and a part of a byte."""
    deserialize = pytest.importorskip("safetensors").deserialize
    path = tmp_path / "m.safetensors"

    def write(name, count, nbytes):
        arrays = parameters(3, 2) | {name: np.zeros(nbytes, np.uint8)}
        header, data = {}, b""
        for key, value in arrays.items():
            end = len(data) + value.nbytes
            is_odd = key == name
            shape = [count] if is_odd else list(value.shape)
            header[key] = {"dtype": dtype if is_odd else "F32", "shape": shape, "data_offsets": [len(data), end]}
            data += value.tobytes()
        path.write_bytes(safetensors_file(header, data))
        return path.read_bytes()

    deserialize(write("scale", 8, bits))
    assert numlstm.load(path).hidden_size == 2 and "scale" not in numlstm.load_tensors(path)
    write("bias_hh_l0", 8, bits)
    with pytest.raises(ValueError, match=rf"bias_hh_l0 holds {dtype}, not floating-point numbers of 16 bits or more"):
        numlstm.load(path)
    for count, nbytes in ((8, bits + 1), (8, bits - 1), (7, bits), *(((3, 3 * bits // 8),) if bits < 8 else ())):
        with pytest.raises(Exception, match="Error while deserializing"):
            deserialize(write("scale", count, nbytes))
        with pytest.raises(ValueError, match=rf"its tensor 'scale' of shape \({count},\) in {dtype} lies from byte"):
            numlstm.list_lstms(path)


@pytest.mark.parametrize("suffix", OWN)
def test_a_mask_beside_a_weight_is_applied_with_a_warning(tmp_path, suffix):
    arrays = parameters(3, 2, prefix="rnn.")
    mask = np.arange(16).reshape(8, 2) % 3 > 0
    arrays["rnn.weight_hh_l0_mask"] = mask
    path = tmp_path / f"m{suffix}"
    if suffix == ".npz":
        write_npz(path, arrays)
    else:
        pytest.importorskip("safetensors.numpy").save_file(arrays, path)
    with pytest.warns(UserWarning, match=r"there is a mask beside rnn\.weight_hh_l0, by which it is multiplied"):
        net = numlstm.load(path)
    assert same_bits(net.weight_hh_l0, arrays["rnn.weight_hh_l0"] * mask)
    assert same_bits(net.weight_ih_l0, arrays["rnn.weight_ih_l0"])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_weights_in_float8_are_named(tmp_path, dtype):
    """In a file that the library of the format writes."""
    need("ml_dtypes")
    state = {name: array.astype(dtype) for name, array in numlstm.LSTM(3, 4, seed=0).state_dict().items()}
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"holds F8_E\dM\d, .*float8 are not read: save them in float16"):
        numlstm.load(tmp_path / "m.safetensors")


W, H = np.ones((8, 3), np.float32), np.ones((8, 2), np.float32)


@pytest.mark.parametrize(
    "parts, says",
    [
        ({"weight_ih_l0_mask": W[:4]}, r"by a mask, in shapes that do not fit: \[\(8, 3\), \(4, 3\)\]"),
        ({"weight_ih_l0_orig": W, "weight_ih_l0_mask": W.T}, r"torch\.nn\.utils\.prune, in shapes that do not fit"),
        ({"weight_ih_l0_v": W, "weight_ih_l0_g": W}, "weight_norm, in shapes that do not fit"),
        ({"weight_ih_l0_v": W, "weight_ih_l0_g": W[:4, :1]}, "weight_norm, in shapes that do not fit"),
        ({"weight_ih_l0_v": W.astype(int), "weight_ih_l0_g": W[:, :1]}, "the v of l.weight_ih_l0 holds int64"),
        ({"weight_ih_l0_g": W[:, :1]}, "weight_ih_l0 is stored as g, which is not known: make the weights plain"),
        ({"weight_ih_l0_orig": W, "weight_ih_l0_u": W[:, 0], "weight_ih_l0_v": W[:, 1]}, "spectral_norm, in shapes"),
        ({"parametrizations.weight_ih_l0.original": W}, "is stored as orig, which is not known"),
        ({"parametrizations.weight_ih_l0.original": W, "parametrizations.weight_ih_l0.0.base": W}, "as 0.base, orig,"),
    ],
    ids=str,
)
def test_a_form_that_is_not_understood_is_no_weight(tmp_path, parts, says):
    """Also where a plain tensor lies beside it, which may be stale."""
    for plain in ({}, {"l.weight_ih_l0": W}):
        arrays = {"l.weight_hh_l0": H} | plain | {f"l.{name}": array for name, array in parts.items()}
        if plain or "weight_ih_l0_mask" not in parts or "weight_ih_l0_orig" in parts:
            with pytest.raises(ValueError, match=f"l cannot be loaded: .*{says}"):
                numlstm.load(write_npz(tmp_path / "m.npz", arrays))


# ---------------------------------------------------------------- files of other kinds


def test_objects_beside_the_weights_are_left_out(tmp_path):
    arrays = parameters(3, 2) | {"config": np.array({"units": 2}, object)}
    path = write_npz(tmp_path / "m.npz", arrays)
    assert same_parameters(numlstm.load(path), numlstm.LSTM(3, 2, seed=1))
    assert "config" not in numlstm.load_tensors(path)
    write_npz(path, arrays | {"bias_hh_l0": np.array([None] * 8, object)})
    with pytest.raises(ValueError, match="bias_hh_l0 holds Python objects, which are pickles, not floating-point"):
        numlstm.load(path)


def test_raw_weights_are_taken_wherever_they_are(tmp_path):
    """fastai's are one level above the LSTM, those of Salesforce's AWD-LSTM and of torchnlp in it."""
    plain = parameters(3, 2, prefix="rnns.0.module.")
    raw = plain["rnns.0.module.weight_hh_l0"] + 1
    for name, dropped in (("rnns.0.weight_hh_l0", True), ("rnns.0.module.weight_hh_l0", True), ("r", False)):
        name = name if dropped else "rnns.0.module.weight_hh_l0"
        arrays = plain | {f"{name}_raw": raw}
        if not dropped:
            del arrays[name]
        net = numlstm.load(write_npz(tmp_path / "m.npz", arrays), "rnns.0.module")
        assert same_bits(net.weight_hh_l0, raw) and same_bits(net.weight_ih_l0, plain["rnns.0.module.weight_ih_l0"])


def test_layers_that_are_not_there_are_missed(tmp_path):
    arrays = parameters(3, 2) | {name.replace("l0", "l7"): v for name, v in parameters(2, 2).items()}
    with pytest.raises(ValueError, match=r"layers 0 to 7 are expected for weight_ih_l7, but 2 of them have tensors"):
        numlstm.load(write_npz(tmp_path / "m.npz", arrays))
    with pytest.raises(ValueError, match=r"layers 0 to 7 are expected"):
        numlstm.load(write_npz(tmp_path / "m.npz", {name: v for name, v in arrays.items() if "l0" not in name}))


def test_a_name_twice_in_a_safetensors_header_is_refused(tmp_path):
    entry = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
    for text in (f'{{"a":{entry % (0, 8)},"a":{entry % (8, 16)}}}', '{"__metadata__":{"a":"1","a":"2"}}'):
        (tmp_path / "m.safetensors").write_bytes(safetensors_file(text.encode(), bytes(16)))
        with pytest.raises(ValueError, match="it has the key 'a' twice"):
            numlstm.list_lstms(tmp_path / "m.safetensors")


def test_mixed_dtypes_are_widened_and_noted(tmp_path):
    arrays = parameters(3, 2)
    arrays["bias_ih_l0"] = arrays["bias_ih_l0"].astype(np.float64)
    path = write_npz(tmp_path / "m.npz", arrays)
    (found,) = numlstm.list_lstms(path)
    assert found.dtype == "float64" and any("several dtypes" in note for note in found.notes)
    assert numlstm.load(path).dtype == np.float64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_weights_are_loaded_with_a_warning(tmp_path, value):
    arrays = parameters(3, 2)
    arrays["weight_hh_l0"][3, 1] = value
    path = write_npz(tmp_path / "m.npz", arrays)
    with pytest.warns(UserWarning, match=r"m\.npz: NaN or infinity in weight_hh_l0; results will hold it too"):
        net = numlstm.load(path)
    assert np.array_equal(net.weight_hh_l0[3, 1], value, equal_nan=True)
    write_npz(path, parameters(3, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numlstm.load(path)


# ---------------------------------------------------------------- shapes are held against each other


def without(name):
    return lambda arrays: arrays.pop(name)


def put(name, shape):
    return lambda arrays: arrays.__setitem__(name, np.zeros(shape, np.float32))


MISFITS = [
    (
        put("weight_hh_l0", (8, 3)),
        "weight_hh_l0 has shape (8, 3); an LSTM's is (12, 3), unless there is a weight_hr_l0 of shape (3, 2)",
    ),
    (put("weight_hh_l0", (7, 2)), "weight_hh_l0 has shape (7, 2); an LSTM's is (4 * hidden_size, features)"),
    (put("weight_hh_l0", (8,)), "weight_hh_l0 has shape (8,); an LSTM's is"),
    (put("weight_hh_l0", (0, 0)), "weight_hh_l0 has shape (0, 0); an LSTM's is"),
    (put("weight_ih_l0", (4, 3)), "weight_ih_l0 has shape (4, 3); hidden_size 2, from weight_hh_l0, asks for (8, 3)"),
    (put("bias_hh_l0", (6,)), "bias_hh_l0 has shape (6,); hidden_size 2, from weight_hh_l0, asks for (8,)"),
    (put("weight_ih_l1", (8, 3)), "weight_ih_l1 has shape (8, 3); hidden_size 2, from weight_hh_l0, asks for (8, 2)"),
    (put("weight_hr_l0", (1, 2)), "weight_hr_l0 has shape (1, 2)"),
    (without("weight_hh_l0"), "weight_hh_l0 is missing; there are "),
    (without("weight_ih_l0"), "weight_ih_l0 is missing; there are "),
    (without("bias_ih_l1"), "bias_ih_l1 is missing; it would have shape (8,)"),
    (put("weight_ih_l3", (8, 2)), "layers 0 to 3 are expected for weight_ih_l3, but 3 of them have tensors"),
    (put("weight_ih_l999999", (8, 2)), "layers 0 to 999999 are expected"),
    (put("weight_ih_l1_reverse", (8, 2)), "weight_ih_l0_reverse is missing"),
    (lambda arrays: arrays.update(weight_ih_l0=np.zeros((8, 3), np.int8)), "quantised weights are not supported"),
    (lambda arrays: arrays.update(weight_ih_l0=np.zeros((8, 3), bool)), "holds bool, not floating-point numbers"),
]


@pytest.mark.parametrize("change, says", MISFITS, ids=[says[:40] for _, says in MISFITS])
def test_a_tensor_that_does_not_fit_is_named_with_what_would(tmp_path, change, says):
    arrays = parameters(3, 2, num_layers=2)
    change(arrays)
    path = write_npz(tmp_path / "m.npz", arrays)
    (found,) = numlstm.list_lstms(path)
    assert says in found.problem and found.config is None
    with pytest.raises(ValueError) as error:
        numlstm.load(path)
    assert f"{path}: its LSTM cannot be loaded: " in str(error.value) and says in str(error.value)


def test_a_gru_and_a_plain_rnn_are_told_apart(tmp_path):
    gru = {"g.weight_ih_l0": np.zeros((6, 3)), "g.weight_hh_l0": np.zeros((6, 2))}
    rnn = {"r.weight_ih_l0": np.zeros((2, 3)), "r.weight_hh_l0": np.zeros((2, 2))}
    path = write_npz(tmp_path / "m.npz", gru | rnn)
    assert numlstm.list_lstms(path) == []
    with pytest.raises(
        ValueError, match=r"holds no LSTM: g\.weight_hh_l0 of shape \(6, 2\) belongs to a GRU.*a plain RNN"
    ):
        numlstm.load(path)
    write_npz(path, gru | parameters(3, 2, prefix="l."))
    assert numlstm.load(path).hidden_size == 2


def test_a_file_without_an_lstm_says_what_it_has(tmp_path):
    path = write_npz(tmp_path / "m.npz", {f"t{k}": np.zeros(1) for k in range(9)})
    with pytest.raises(ValueError, match=r"holds no LSTM; its tensors are t0, t1, t2, t3, t4, t5, …"):
        numlstm.load(path)


shapes = st.tuples(st.integers(0, 12), st.integers(0, 12))


@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"{kind}_{part}_l{k}{r}"
                for kind, part in (("weight", "ih"), ("weight", "hh"), ("bias", "ih"), ("bias", "hh"), ("weight", "hr"))
                for k in (0, 1)
                for r in ("", "_reverse")
            ]
        ),
        st.one_of(shapes, st.tuples(st.integers(0, 12))),
    )
)
def test_whatever_the_shapes_what_is_accepted_fits(given_shapes):
    """Either a problem or a config whose every parameter has the shape that it asks for; never an exception."""
    tensors = {name: Tensor.of(np.zeros(shape, np.float32)) for name, shape in given_shapes.items()}
    for found in state_dict.find(tensors)[0]:
        if found.problem:
            assert found.config is None and not found.parameters
        else:
            assert found.config.parameter_shapes() == {name: t.shape for name, t in found.parameters.items()}
            assert set(found.parameters) == set(tensors)


# ---------------------------------------------------------------- a file is data


def npy(header, data=b""):
    """An .npy entry with this header, whatever it claims."""
    text = repr(header).encode() if isinstance(header, dict) else header
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zipped(entries, method=zipfile.ZIP_STORED):
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of entries that have one name, on purpose
        for name, data in entries:
            archive.writestr(name, data)
    return into.getvalue()


def descr(dtype="<f4", shape=(2,)):
    return {"descr": dtype, "fortran_order": False, "shape": shape}


def overlapping():
    """Two directory entries for the bytes of one."""
    data = zipped([("a.npy", npy(descr(), b"\0" * 8)), ("b.npy", npy(descr(), b"\0" * 8))])
    at = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # the second entry of the directory
    return data[: at + 42] + b"\0\0\0\0" + data[at + 46 :]


BAD = {
    "empty": (b"", "it is empty"),
    "unknown": (b"GIF89a" + b"\0" * 100, "no format that is known"),
    "a short text": (b"x", "no format that is known"),
    "zip, cut": (zipped([("a.npy", npy(descr(), b"\0" * 8))])[:60], "damaged or cut short"),
    "zip, empty": (zipped([]), "is a zip archive of nothing"),
    "zip of something": (zipped([("a.txt", b"hello")]), "which is no model that is known"),
    "zip bomb": (
        zipped([("a.npy", npy(descr(shape=(10**7,)), bytes(4 * 10**7)))], zipfile.ZIP_DEFLATED),
        "32 times is the limit",
    ),
    "zip, a name twice": (zipped([("a.npy", b""), ("a.npy", b"")]), "two entries named 'a.npy'"),
    "zip, overlapping": (overlapping(), "overlaps the one before it"),
    "npz, huge": (zipped([("a.npy", npy(descr(shape=(10**15,)), b"\0" * 8))]), "states shape (1000000000000000,)"),
    "npz, negative": (zipped([("a.npy", npy(descr(shape=(-2, -1)), b"\0" * 8))]), "states shape (-2, -1)"),
    "npz, no array": (zipped([("a.npy", b"nothing")]), "no sound .npy file"),
    "npz, header cut": (zipped([("a.npy", npy(descr())[:20])]), "no sound .npy file"),
    "npz, header no dict": (zipped([("a.npy", npy(b"[1, 2]"))]), "no sound .npy file"),
    "npz, header deep": (zipped([("a.npy", npy(b"(" * 60_000))]), "no sound .npy file"),
    "npz, version": (zipped([("a.npy", b"\x93NUMPY\x09\x00" + bytes(100))]), "no sound .npy file"),
    "safetensors, header beyond": (struct.pack("<Q", 1 << 30) + b"{}" + b" " * 64, "no sound safetensors file"),
    "safetensors, header cut": (safetensors_file({"a": 1})[:-2], "no sound safetensors file"),
    "safetensors, no JSON": (safetensors_file(b"{a}"), "no sound safetensors file"),
    "safetensors, deep": (safetensors_file(b'{"a":' + b"[" * 100_000), "no sound safetensors file"),
    "safetensors, offsets overlap": (
        safetensors_file(
            {k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"},
            bytes(8),
        ),
        "no sound safetensors file",
    ),
    "safetensors, offsets beyond": (
        safetensors_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4)),
        "no sound safetensors file",
    ),
    "safetensors, huge shape": (
        safetensors_file({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)),
        "no sound safetensors file",
    ),
    "safetensors, negative shape": (
        safetensors_file({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, bytes(8)),
        "no sound safetensors file",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_clear_error(tmp_path, name):
    data, says = BAD[name]
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    for call in (numlstm.load, numlstm.list_lstms, numlstm.load_tensors):
        with pytest.raises(ValueError) as error:
            call(path)
        assert str(error.value).startswith(f"{path}: ") and says in str(error.value)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    path = write_npz(tmp_path / "m.npz", {"a": np.arange(100.0)})
    data = bytearray(path.read_bytes())
    data[400] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"its entry 'a\.npy' is .*: Bad CRC-32"):
        numlstm.load_tensors(path)


def test_what_holds_decides_not_the_name(tmp_path):
    numlstm.LSTM(3, 2, seed=1).save(tmp_path / "m.npz")
    os.rename(tmp_path / "m.npz", tmp_path / "m.safetensors")
    assert same_parameters(numlstm.load(tmp_path / "m.safetensors"), numlstm.LSTM(3, 2, seed=1))


def test_no_file_no_permission_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        numlstm.load(tmp_path / "missing.pt")
    with pytest.raises(OSError, match=r"is a directory; a model file is expected"):
        numlstm.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"pipe is no regular file"):
        numlstm.load(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no regular file"):
        numlstm.load("/dev/zero")
    with pytest.raises((ValueError, OSError)):
        numlstm.load("a\0b")


def test_no_permission(tmp_path):
    """Root may read everything, so a child without that right tries."""
    path = write_npz(tmp_path / "m.npz", parameters(3, 2))
    path.chmod(0)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys, numlstm\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: numlstm.load(sys.argv[1])\n"
        "except PermissionError as error: print('refused')"
    )
    # by a descriptor, since the folders above may be closed to the child
    folder = os.open(tmp_path, os.O_RDONLY)
    done = subprocess.run(
        [sys.executable, "-c", code, f"/proc/self/fd/{folder}/m.npz"],
        capture_output=True,
        text=True,
        timeout=60,
        pass_fds=(folder,),
        check=False,
    )
    os.close(folder)
    assert done.stdout == "refused\n", done.stderr


def test_a_reader_that_trips_says_damaged_and_out_of_memory_stays_what_it_is(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "m.npz", parameters(3, 2))
    for error, raised, says in (
        (KeyError("x"), ValueError, "it is damaged; reading it ended with KeyError: 'x'"),
        (RecursionError("deep"), ValueError, "it is damaged"),
        (
            MemoryError(),
            MemoryError,
            r"m\.npz: reading it took more memory than there is$",
        ),  # never hidden: no file may cause it, and the fuzz test would see it
    ):

        def trip(*arguments, error=error):
            raise error

        monkeypatch.setattr(formats, "_contents", trip)
        with pytest.raises(raised, match=says):
            numlstm.load(path)


def test_a_tensor_is_read_only_while_the_file_is_open(tmp_path):
    numlstm.LSTM(3, 2).save(tmp_path / "m.safetensors")
    (found,) = numlstm.list_lstms(tmp_path / "m.safetensors")
    assert found.parameters["weight_ih_l0"].shape == (8, 3)
    with pytest.raises(ValueError, match="closed file"):
        found.parameters["weight_ih_l0"].read()


def test_decoded_checks_the_number_of_bytes():
    assert decoded(b"\x00\x01\x00\x02", "int16", (2, 1), ">").tolist() == [[1], [2]]
    assert decoded(b"", "float32", (0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="5 bytes are not the float32 numbers"):
        decoded(b"12345", "float32", (1,))


def test_the_limit_of_a_bomb_is_what_refuses_it(tmp_path, monkeypatch):
    """The guard at work: without it the same file unpacks."""
    path = tmp_path / "m.npz"
    path.write_bytes(BAD["zip bomb"][0])
    monkeypatch.setattr(zips, "RATIO", 2000)
    with pytest.raises(ValueError, match="would take more memory"):
        numlstm.load(path)
    monkeypatch.setattr(budget, "TIMES", 4000)
    assert numlstm.load_tensors(path)["a"].shape == (10**7,)
