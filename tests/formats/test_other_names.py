"""Parameters named as Flax, Haiku and MLX name them, and PyTorch's names in HDF5: what those libraries computed."""

import re
from pathlib import Path

import numpy as np
import pytest
from judge import equal
from needs import need

import numlstm

FOLDER = Path(__file__).parents[1] / "fixtures" / "names"
FILES = {
    "flax.npz": ("params/cell", "LSTM(3, 4)", "Flax's LSTMCell"),
    "flax_optimized.npz": ("params/cell", "LSTM(3, 4)", "Flax's LSTMCell"),
    "flax_h5.h5": ("params/cell", "LSTM(3, 4)", "Flax's LSTMCell"),
    "nnx.npz": ("", "LSTM(3, 4)", "Flax's LSTMCell"),
    "nnx_optimized.npz": ("", "LSTM(3, 4)", "Flax's OptimizedLSTMCell"),
    "haiku.npz": ("lstm", "LSTM(3, 4)", "Haiku's LSTM"),
    "mlx.npz": ("layers.0", "LSTM(3, 4, batch_first=True)", "MLX's LSTM"),
    "mlx_no_bias.npz": ("layers.0", "LSTM(3, 4, bias=False, batch_first=True)", "MLX's LSTM"),
}


def arrays(name):
    with np.load(FOLDER / name) as file:
        return dict(file)


def saved(path, tensors):
    np.savez(path, **tensors)
    return path


@pytest.mark.parametrize("name", FILES)
def test_it_computes_what_the_library_computed(name):
    lstm = numlstm.load(FOLDER / name)
    (found,) = numlstm.list_lstms(FOLDER / name)
    prefix, called, by = FILES[name]
    assert found.name == prefix and repr(lstm) == called
    assert f"named as {by} names its parameters" in found.notes
    lstm.batch_first = False
    outputs = arrays("outputs.npz")
    np.testing.assert_allclose(lstm(outputs["input"])[0], outputs[Path(name).stem], atol=5e-7)


def test_a_state_dict_of_paddle():
    lstm, outputs = numlstm.load(FOLDER / "paddle.pdparams", batch_first=False), arrays("outputs.npz")
    assert repr(lstm) == "LSTM(3, 4, num_layers=2, bidirectional=True)"
    np.testing.assert_allclose(lstm(outputs["input"])[0], outputs["paddle"], atol=5e-7)


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_keeps_its_name_and_layout(name):
    tensors = numlstm.load_tensors(FOLDER / name)
    want = arrays(name.replace("_h5.h5", ".npz"))
    assert tensors.keys() == want.keys()
    assert all(np.array_equal(tensors[key], want[key]) for key in want)


@pytest.mark.parametrize("name", ["flax.npz", "haiku.npz", "mlx.npz"])
def test_the_same_names_in_safetensors(name, tmp_path):
    from safetensors.numpy import save_file

    save_file(arrays(name), tmp_path / "m.safetensors")
    assert equal(numlstm.load(tmp_path / "m.safetensors").parameters(), numlstm.load(FOLDER / name).parameters())


def test_float16_gets_its_forget_bias_in_float32(tmp_path):
    """1 + 2**-13 is no number of float16."""
    half = {name: array.astype(np.float16) for name, array in arrays("haiku.npz").items()}
    half["lstm/linear/b"][:] = 2.0**-13
    bias = numlstm.load(saved(tmp_path / "m.npz", half)).bias_ih_l0
    assert (bias.reshape(4, 4) == np.float32([[2**-13], [1 + 2**-13], [2**-13], [2**-13]])).all()


def test_float64_stays(tmp_path):
    wide = {name: array.astype(np.float64) + 1e-12 for name, array in arrays("flax.npz").items()}
    lstm = numlstm.load(saved(tmp_path / "m.npz", wide))
    assert lstm.dtype == np.float64
    assert np.array_equal(lstm.weight_ih_l0[4:8], wide["params/cell/if/kernel"].T)  # i, f, g, o


def test_several_cells_are_told_apart(tmp_path):
    cell = arrays("nnx_optimized.npz")
    path = saved(tmp_path / "m.npz", {f"{name}.{key}": array for name in ("up", "down") for key, array in cell.items()})
    assert [found.name for found in numlstm.list_lstms(path)] == ["up", "down"]
    assert repr(numlstm.load(path, "down")) == "LSTM(3, 4)"


def test_two_biases_of_one_cell_are_both_used(tmp_path):
    cell = arrays("nnx_optimized.npz")
    lstm = numlstm.load(saved(tmp_path / "m.npz", {**cell, "dense_i.bias": np.arange(16, dtype="f4")}))
    assert np.array_equal(lstm.bias_ih_l0, np.arange(16)) and np.array_equal(lstm.bias_hh_l0, cell["dense_h.bias"])


@pytest.mark.parametrize("separator", ["/", "."])
def test_pytorchs_names_in_hdf5(separator, tmp_path):
    need("h5py")
    import h5py

    net = numlstm.LSTM(3, 4, num_layers=2, bidirectional=True, seed=0)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name, array in net.state_dict().items():
            file[f"encoder{separator}rnn{separator}{name}"] = array
        file["head"] = np.ones(3, "f4")
    lstm = numlstm.load(tmp_path / "m.h5")
    assert repr(lstm) == repr(net) and equal(lstm.parameters(), net.parameters())
    assert numlstm.list_lstms(tmp_path / "m.h5")[0].name == f"encoder{separator}rnn"
    assert "head" in numlstm.load_tensors(tmp_path / "m.h5")


def changed(name, **changes):
    tensors = {**arrays(name), **changes}
    return {key: array for key, array in tensors.items() if array is not None}


MISFITS = {
    "a gate's kernel": (
        changed("flax.npz", **{"params/cell/ig/kernel": np.ones((2, 4), "f4")}),
        "params/cell/* is named as Flax's LSTMCell, but its shapes do not fit: ",
    ),
    "a gate without a bias": (changed("flax.npz", **{"params/cell/hf/bias": None}), "but its shapes do not fit"),
    "another bias": (changed("flax.npz", **{"params/cell/ii/bias": np.ones(4, "f4")}), "but its shapes do not fit"),
    "a GRU": (
        {"i.kernel": np.ones((3, 12), "f4"), "h.kernel": np.ones((4, 12), "f4")},
        "weight_hh_l0 of shape (12, 4) belongs to a GRU",
    ),
    "a plain RNN": (
        {"Wx": np.ones((4, 3), "f4"), "Wh": np.ones((4, 4), "f4"), "bias": np.ones(4, "f4")},
        "weight_hh_l0 of shape (4, 4) belongs to a plain RNN",
    ),
    "kernels that are transposed": (
        {"Wx": np.ones((3, 16), "f4"), "Wh": np.ones((4, 16), "f4")},
        "* is named as MLX's LSTM, but its shapes do not fit: Wh (4, 16), Wx (3, 16)",
    ),
    "a bias of another size": (
        changed("mlx.npz", **{"layers.0.bias": np.ones(12, "f4")}),
        "layers.0.bias_ih_l0 has shape (12,); hidden_size 4",
    ),
    "no axes": (
        changed("flax.npz", **{f"params/cell/h{gate}/kernel": np.float32(1) for gate in "ifgo"}),
        "but its shapes do not fit",
    ),
    "Haiku's, too narrow": (
        {"lstm/linear/w": np.ones((4, 16), "f4"), "lstm/linear/b": np.ones(16, "f4")},
        "lstm/* is named as Haiku's LSTM, but its shapes do not fit: linear.b (16,), linear.w (4, 16)",
    ),
    "Haiku's Linear in another module": (
        {"mlp/linear/w": np.ones((7, 16), "f4"), "mlp/linear/b": np.ones(16, "f4")},
        "holds no LSTM; its tensors are mlp/linear/w",
    ),
    "integers": (
        {name: array.astype("i4") for name, array in arrays("mlx.npz").items()},
        "holds no LSTM; its tensors are layers.0.Wx",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named(case, tmp_path):
    tensors, says = MISFITS[case]
    with pytest.raises(ValueError, match=re.escape(says)):
        numlstm.load(saved(tmp_path / "m.npz", tensors))
