"""What a model file may be given as: a path, bytes, or a binary file object."""

import io
from pathlib import Path

import numpy as np
import pytest
from judge import equal
from needs import need

import numlstm

ONNX = Path(__file__).parents[1] / "fixtures" / "onnx"
FORMATS = (".safetensors", ".npz", ".onnx")
AS = {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview, "file": io.BytesIO}


def parameters(*sizes, prefix=""):
    return {prefix + name: array for name, array in numlstm.LSTM(*sizes, seed=1).state_dict().items()}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", AS)
def test_bytes_and_binary_files_are_read_as_the_file_is(kind, suffix, tmp_path):
    if suffix == ".onnx":
        need("onnx")
    net = numlstm.LSTM(3, 4, num_layers=2, batch_first=True, seed=0)
    path = tmp_path / f"model{suffix}"
    net.save(path)

    def source():
        return AS[kind](path.read_bytes())

    assert equal(numlstm.load(source()).parameters(), net.parameters())
    assert [str(found) for found in numlstm.list_lstms(source())] == [str(found) for found in numlstm.list_lstms(path)]
    assert list(numlstm.load_tensors(source())) == list(numlstm.load_tensors(path))


def test_a_cell_is_read_from_bytes(tmp_path):
    numlstm.LSTMCell(3, 4).save(tmp_path / "cell.npz")
    assert repr(numlstm.load_cell((tmp_path / "cell.npz").read_bytes())) == "LSTMCell(3, 4)"


def test_a_file_object_is_read_from_its_position_and_named_in_messages(tmp_path):
    path = tmp_path / "model.npz"
    numlstm.LSTM(3, 4).save(path)
    path.write_bytes(b"header" + path.read_bytes())
    with open(path, "rb") as file:
        file.seek(6)
        assert repr(numlstm.load(file)) == "LSTM(3, 4)"
        file.seek(0)
        with pytest.raises(ValueError, match=r"model\.npz: it begins with b'headerPK'"):
            numlstm.load(file)
        with pytest.raises(ValueError, match=r"model\.npz: it is empty"):
            numlstm.load(file)
    with pytest.raises(ValueError, match="<bytes>: it begins with b'hello'"):
        numlstm.load(b"hello")
    with pytest.raises(ValueError, match="<BytesIO>: it is empty"):
        numlstm.list_lstms(io.BytesIO())


@pytest.mark.parametrize("source", [io.StringIO("text"), 3, None, {}], ids=lambda source: type(source).__name__)
def test_other_objects_are_refused(source):
    for read in (numlstm.load, numlstm.list_lstms, numlstm.load_tensors):
        with pytest.raises(TypeError, match="must be a path, bytes or a binary file, not"):
            read(source)


def test_numbers_beside_a_model_need_its_path():
    need("onnx")
    data = (ONNX / "external.onnx").read_bytes()
    with pytest.raises(ValueError, match="beside the model: load it by its path"):
        numlstm.load(data)


def test_a_warning_names_the_file_object():
    into = io.BytesIO()
    np.savez(into, **{name: array * np.nan for name, array in parameters(3, 2).items()})
    with pytest.warns(UserWarning, match="<bytes>: NaN or infinity"):
        numlstm.load(into.getvalue())


def test_a_name_may_be_a_unique_ending(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, **parameters(3, 2, prefix="encoder.rnn."), **parameters(3, 4, prefix="decoder.rnn."))
    assert repr(numlstm.load(path, "encoder.rnn")) == repr(numlstm.load(path, name="encoder.rnn")) == "LSTM(3, 2)"
    with pytest.raises(ValueError, match=r"it holds 2 LSTMs whose names end in 'rnn'; it has:\n  encoder.rnn: "):
        numlstm.load(path, "rnn")
    with pytest.raises(ValueError, match="it holds no LSTM named 'nn'"):
        numlstm.load(path, "nn")
    np.savez(path, **parameters(3, 2, prefix="encoder.rnn."), **parameters(3, 4, prefix="rnn."))
    assert repr(numlstm.load(path, "rnn")) == "LSTM(3, 4)"  # a whole name comes first
    np.savez(path, **parameters(3, 2, prefix="encoder.rnn."), **parameters(3, 4, prefix="decoder.lstm."))
    assert repr(numlstm.load(path, "lstm")) == "LSTM(3, 4)"
