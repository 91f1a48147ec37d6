"""What numlstm does not read is named, with the way to a file that it reads."""

import re

import numpy as np
import pytest
from hostile import Model
from needs import need

import numlstm


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number, content):
    """A field of a protocol buffer: bytes or a number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


FEATURE = field(1, b"image") + field(3, field(5, field(1, b"\x01")))
DESCRIPTION = field(1, FEATURE) + field(10, field(1, b"output"))
META_GRAPH = field(1, field(4, b"serve") + field(5, b"2.15.0"))
NODE = field(1, b"lstm/while/input_1") + field(2, b"Placeholder") + field(5, b"\x0a\x05dtype\x12\x020\x01")
SAVED_MODEL = field(1, 1) + field(2, META_GRAPH + bytes(3000))
FILES = {
    "Core ML": (field(1, 4) + field(2, DESCRIPTION) + field(500, bytes(900)), "a Core ML model (.mlmodel)\nLoad the"),
    "Core ML, long": (field(1, 7) + field(2, DESCRIPTION + field(100, bytes(500))), "a Core ML model (.mlmodel)\n"),
    "SavedModel": (SAVED_MODEL, "a TensorFlow SavedModel (saved_model.pb), or an old Core ML model\nIf Keras made it"),
    "frozen graph": (field(1, NODE) * 40, "a frozen TensorFlow graph\n"),
    "frozen graph, a long node": (field(1, NODE + bytes(1000)), "a frozen TensorFlow graph\n"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model\nLoad the Keras model"),
    "checkpoint's index": (b"\0\0\1\2" + bytes(200) + bytes.fromhex("57fb808b247547db"), "the index of a TensorFlow"),
    "checkpoint": (b'model_checkpoint_path: "model.ckpt-7"\n', "the list of TensorFlow's checkpoints\n"),
    "Flax's msgpack": (b"\x81\xa6params\x81\xa4cell\x80", "msgpack, as Flax writes it\nRead it with flax"),
}
FILES |= {
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS, in"),
    "web page": (b"\n<!DOCTYPE html><html>", "a web page\nDownload"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(60), "compressed by gzip\nDecompress"),
}
FOLDERS = {
    "saved_model.pb": "is a TensorFlow SavedModel\nIf Keras made it",
    "Manifest.json": "is a Core ML package (.mlpackage)\n",
    "coremldata.bin": "is a compiled Core ML model (.mlmodelc)\n",
    "checkpoint": "is a folder of TensorFlow checkpoints\n",
    "_CHECKPOINT_METADATA": "is a checkpoint of Orbax\n",
    "other": "is a directory; a model file is expected",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named(name, tmp_path):
    data, says = FILES[name]
    (tmp_path / "model").write_bytes(data)
    for read in (numlstm.load, numlstm.list_lstms, numlstm.load_tensors):
        for source in (tmp_path / "model", data):
            with pytest.raises(ValueError, match=re.escape(f": it is {says}")):
                read(source)


@pytest.mark.parametrize("inside", FOLDERS)
def test_a_folder_is_named(inside, tmp_path):
    (tmp_path / inside).write_bytes(b"")
    with pytest.raises(OSError, match=re.escape(f"{tmp_path} {FOLDERS[inside]}")):
        numlstm.load(tmp_path)


def test_an_onnx_model_is_none_of_these():
    """Its producer is a text in the place of Core ML's description."""
    need("onnx")
    for producer in ("pytorch", "tf2onnx", "R", "A" * 200, "keras2onnx"):
        model = Model()
        model.weights()
        model.proto.producer_name = producer
        model.node("LSTM", ["x", "W", "R"], ["Y"], hidden_size=1)
        assert repr(numlstm.load(model.done())) == "LSTM(1, 1, bias=False)"


# A cell that is written out


def step(model, into=None, steps=1):
    """The operators of a cell, as tf2onnx writes them out."""
    for n in range(steps):
        model.node("MatMul", ["xt", "K"], [f"a{n}"], into=into)
        model.node("Split", [f"a{n}"], [f"{gate}{n}" for gate in "ifgo"], into=into, axis=1)
        for gate in "ifo":
            model.node("Sigmoid", [f"{gate}{n}"], [f"s{gate}{n}"], into=into)
        model.node("Tanh", [f"g{n}"], [f"sg{n}"], into=into)
        model.node("Mul", [f"si{n}", f"sg{n}"], [f"c{n}"], into=into)
        model.node("Tanh", [f"c{n}"], [f"tc{n}"], into=into)
        model.node("Mul", [f"so{n}", f"tc{n}"], [f"h{n}"], into=into)


def written_out(op=""):
    need("onnx")
    model = Model()
    model.tensor("K", np.ones((3, 16), "f4"))
    if op:
        step(model, model.inner(op, name="while"))
    else:
        step(model, steps=5)
    return model


@pytest.mark.parametrize("op", ["Loop", "Scan"])
def test_a_loop_is_named(op):
    says = rf"holds no LSTM: .*{op}.* has 3 Sigmoid and 2 Tanh nodes after matrix products, .* behind Masking"
    with pytest.raises(ValueError, match=says):
        numlstm.load(written_out(op).done())


def test_an_unrolled_graph_is_named():
    says = "holds no LSTM: its graph has 15 Sigmoid and 10 Tanh nodes after matrix products, .*unroll=False"
    with pytest.raises(ValueError, match=says):
        numlstm.load(written_out().done())


def test_an_lstm_node_beside_is_loaded_without_a_word():
    model = written_out()
    model.weights()
    model.node("LSTM", ["x", "W", "R"], ["Y"], hidden_size=1)
    assert repr(numlstm.load(model.done())) == "LSTM(1, 1, bias=False)"


def test_a_network_of_dense_layers_is_not_taken_for_one():
    need("onnx")
    model = Model()
    model.tensor("K", np.ones((3, 3), "f4"))
    for n in range(4):
        model.node("MatMul", [f"y{n}", "K"], [f"a{n}"])
        model.node("Sigmoid", [f"a{n}"], [f"y{n + 1}"])
    with pytest.raises(ValueError, match="holds no LSTM; its tensors are K"):
        numlstm.load(model.done())
