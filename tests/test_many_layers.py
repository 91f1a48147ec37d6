"""What is done with an LSTM of many layers is in proportion to them: work is counted, not timed
(tests/support/work.py)."""

import copy
import pickle

import numpy as np
import pytest
from needs import need
from work import assert_linear

import numlstm
from numlstm import reference
from numlstm.base import config

FEW = 50
X = np.zeros((2, 1, 1), np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    """Large calls are planned once for each number of threads."""
    before = numlstm.get_num_threads()
    numlstm.set_num_threads(1)
    yield
    numlstm.set_num_threads(before)


def onnx(path, lstm):
    need("onnx")
    lstm.save(path / "m.onnx")


DONE = {
    "call": lambda lstm, path: lstm(X),
    "repr": lambda lstm, path: repr(lstm),
    "state_dict": lambda lstm, path: lstm.state_dict(),
    "load_state_dict": lambda lstm, path: lstm.load_state_dict(lstm.state_dict()),
    "parameters": lambda lstm, path: list(lstm.named_parameters()),
    "one parameter": lambda lstm, path: lstm.weight_hh_l1,
    "assignment": lambda lstm, path: setattr(lstm, "weight_hh_l1", np.ones((4, 1))),
    "double": lambda lstm, path: lstm.double(),
    "reset_parameters": lambda lstm, path: lstm.reset_parameters(),
    "deepcopy": lambda lstm, path: copy.deepcopy(lstm),
    "pickle": lambda lstm, path: pickle.loads(pickle.dumps(lstm)),
    "stream": lambda lstm, path: lstm.stream(1),
    "trace": lambda lstm, path: lstm.trace(X),
    "safetensors": lambda lstm, path: (lstm.save(path / "m.safetensors"), numlstm.load(path / "m.safetensors")),
    "npz": lambda lstm, path: (lstm.save(path / "m.npz"), numlstm.load(path / "m.npz")),
    "onnx": lambda lstm, path: onnx(path, lstm),
}


@pytest.mark.parametrize("what", DONE)
def test_work_is_linear_in_the_layers(what, tmp_path):
    DONE[what](numlstm.LSTM(1, 1, 2), tmp_path)  # what is imported and compiled at the first time

    def doing(n):
        lstm = numlstm.LSTM(1, 1, n)
        return lambda: DONE[what](lstm, tmp_path)

    assert_linear(doing, FEW)


@pytest.mark.parametrize("flags", [{}, {"bidirectional": True}, {"proj_size": 1}, {"bias": False}])
def test_work_of_making_one_is_linear_in_the_layers(flags):
    assert_linear(lambda n: lambda: numlstm.LSTM(2, 2, n, **flags), FEW)


def test_work_that_looks_at_every_layer_for_each_is_noticed(monkeypatch):
    """Planted: as the place of a parameter was found before."""
    real = config.Config.place

    def searched(name):
        for n in range(3 * count[0]):
            if n < 0:
                break
        return real(name)

    count = [0]
    monkeypatch.setattr(config.Config, "place", staticmethod(searched))

    def making(n):
        count[0] = n
        return lambda: numlstm.LSTM(1, 1, n)

    with pytest.raises(AssertionError, match="in proportion"):
        assert_linear(making, FEW)


def test_a_thousand_layers_compute_what_the_reference_does(tmp_path):
    lstm = numlstm.LSTM(1, 1, 1000, seed=0).eval()
    lstm.save(tmp_path / "m.safetensors")
    again = numlstm.load(tmp_path / "m.safetensors")
    assert repr(again) == "LSTM(1, 1, num_layers=1000)"
    x = np.ones((2, 1, 1), np.float32)
    output, (h_n, c_n) = again(x)
    want, (h_want, c_want) = reference.lstm(lstm.state_dict(), x)
    np.testing.assert_allclose(output, want, atol=1e-6)
    np.testing.assert_allclose(h_n, h_want, atol=1e-6)
    np.testing.assert_allclose(c_n, c_want, atol=1e-6)


@pytest.mark.parametrize("flags", [{}, {"bidirectional": True, "proj_size": 3}, {"bias": False}])
def test_the_place_of_every_parameter_is_where_the_layout_has_it(flags):
    sizes = config.Config(5, 4, num_layers=12, **flags)
    for layer, direction, suffix in sizes.cells():
        for own in sizes.cell_shapes(layer):
            assert sizes.place(own + suffix) == (layer, direction, own)


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path):
    """An operator is some hundred bytes of an ONNX file, and kilobytes of memory."""
    need("onnx")
    lstm = numlstm.LSTM(1, 1, 1000, dtype="float64")
    with pytest.raises(ValueError, match=r"its 1000 layers make an ONNX file that cannot be loaded again: use \.safe"):
        lstm.save(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    lstm = numlstm.LSTM(1, 1, 300, dtype="float64")
    lstm.save(tmp_path / "m.onnx")
    assert repr(numlstm.load(tmp_path / "m.onnx")).startswith("LSTM(1, 1, num_layers=300")
