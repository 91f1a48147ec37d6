"""lstm.save("model.onnx"): onnxruntime computes the same, and what is loaded again is the same to the bit."""

import itertools
import json

import numpy as np
import pytest
from judge import same_bits
from needs import need

import numlstm
from numlstm.formats import numlstm_config
from numlstm.formats.onnx import export as onnx_export
from numlstm.formats.onnx.gates import gates_ifgo, gates_iofc

onnx = need("onnx")

SIZES = ((1, 1), (5, 3), (9, 2))  # steps, batch
FLAGS = [
    {"num_layers": layers, "bias": bias, "bidirectional": bidirectional, "batch_first": batch_first}
    | {"proj_size": proj_size, "dtype": dtype, "dropout": 0.25 if layers > 1 else 0.0}
    for layers, bias, bidirectional, batch_first, proj_size, dtype in itertools.product(
        (1, 3), (True, False), (False, True), (False, True), (0, 2), ("float32", "float64")
    )
]
CLOSE = {"float32": 1e-6, "float64": 1e-14}


def named(flags):
    return "-".join(f"{value}" for value in flags.values())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def inputs(net, steps, batch):
    rng = np.random.default_rng(steps)
    cells = net.num_layers * (1 + net.bidirectional)
    ahead = (batch, steps) if net.batch_first else (steps, batch)
    shapes = {
        "input": (*ahead, net.input_size),
        "h_0": (cells, batch, net.proj_size or net.hidden_size),
        "c_0": (cells, batch, net.hidden_size),
    }
    return {name: rng.normal(size=shape).astype(net.dtype) for name, shape in shapes.items()}


def session(path, **options):
    runtime = need("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def agrees(net, path):
    """Whether onnxruntime gives what numlstm gives, at every length and batch."""
    runs = session(path)
    for steps, batch in SIZES:
        given = inputs(net, steps, batch)
        output, (h_n, c_n) = net(given["input"], (given["h_0"], given["c_0"]))
        for got, want in zip(runs.run(["output", "h_n", "c_n"], given), (output, h_n, c_n), strict=True):
            assert got.shape == want.shape and got.dtype == want.dtype
            if not np.abs(got - want).max() < CLOSE[net.dtype.name]:
                return False
    return True


def comes_back(path, net):
    got = numlstm.load(path)
    assert repr(got) == repr(net) and got.dtype == net.dtype and not got.training
    return all(same_bits(value, net.state_dict()[name]) for name, value in got.state_dict().items())


@pytest.mark.parametrize("flags", FLAGS, ids=named)
def test_onnxruntime_agrees(flags, path):
    net = numlstm.LSTM(6, 4, seed=1, **flags).eval()
    net.save(path)
    assert agrees(net, path)


@pytest.mark.parametrize("flags", FLAGS, ids=named)
def test_it_comes_back_to_the_bit(flags, path):
    net = numlstm.LSTM(6, 4, seed=1, **flags).eval()
    net.save(path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert comes_back(path, net)
    (found,) = numlstm.list_lstms(path)
    assert found.name == "" and found.notes == () and found.warning == ""


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
@pytest.mark.parametrize("flags", FLAGS[::3], ids=named)
def test_it_comes_back_after_onnxruntime_rewrote_it(flags, level, path, tmp_path):
    net = numlstm.LSTM(6, 4, seed=1, **flags).eval()
    net.save(path)
    rewritten = tmp_path / "rewritten.onnx"
    session(
        path,
        graph_optimization_level=getattr(need("onnxruntime").GraphOptimizationLevel, level),
        optimized_model_filepath=str(rewritten),
    )
    assert comes_back(rewritten, net)


def test_a_wrong_order_of_gates_would_be_seen(path, monkeypatch):
    net = numlstm.LSTM(6, 4, seed=1).eval()
    monkeypatch.setattr(onnx_export, "gates_iofc", lambda parameter: parameter)
    net.save(path)
    assert not agrees(net, path) and not comes_back(path, net)


def test_the_order_of_gates():
    gates = np.array([["i"], ["f"], ["g"], ["o"]])
    assert gates_iofc(gates).ravel().tolist() == ["i", "o", "f", "g"]
    assert gates_ifgo(gates_iofc(gates)).tolist() == gates.tolist()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cell(bias, dtype, path):
    cell = numlstm.LSTMCell(6, 4, bias=bias, dtype=dtype, seed=1)
    cell.save(path)
    assert comes_back(path, cell)
    runs = session(path)
    for batch in (1, 5):
        rng = np.random.default_rng(batch)
        shapes = {"input": (batch, 6), "h_0": (batch, 4), "c_0": (batch, 4)}
        given = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
        want = cell(given["input"], (given["h_0"], given["c_0"]))
        for got, right in zip(runs.run(["h_1", "c_1"], given), want, strict=True):
            assert got.shape == right.shape and np.abs(got - right).max() < CLOSE[dtype]


def test_time_and_batch_are_of_any_length(path):
    numlstm.LSTM(6, 4, num_layers=2, batch_first=True, bidirectional=True).save(path)
    graph = onnx.load(path).graph
    shapes = {
        each.name: tuple(dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim)
        for each in (*graph.input, *graph.output)
    }
    state = (4, "batch", 4)
    assert shapes == {
        "input": ("batch", "time", 6),
        "output": ("batch", "time", 8),
        **dict.fromkeys(("h_0", "c_0", "h_n", "c_n"), state),
    }


def test_without_its_metadata_it_is_still_the_same_lstm(path):
    net = numlstm.LSTM(6, 4, num_layers=2, batch_first=True, bidirectional=True, seed=1).eval()
    net.save(path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert comes_back(path, net)


def test_metadata_that_does_not_fit_is_refused(path):
    numlstm.LSTM(6, 4).save(path)
    model = onnx.load(path)
    (entry,) = (each for each in model.metadata_props if each.key == numlstm_config.KEY)
    entry.value = json.dumps(json.loads(entry.value) | {"hidden_size": 5})
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"its metadata numlstm\.config is .* which does not fit its tensors"):
        numlstm.load(path)


def test_metadata_hides_no_direction(path):
    numlstm.LSTM(6, 4).save(path)
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "direction":
                attribute.s = b"reverse"
    onnx.save(model, path)
    assert numlstm.load(path).direction == "reverse"


@pytest.mark.parametrize("direction", ["reverse", "go_backwards"])
@pytest.mark.parametrize(
    "flags", [{}, {"num_layers": 2, "batch_first": True}, {"proj_size": 2, "num_layers": 2}], ids=str
)
def test_a_direction_is_kept_and_computed_by_others(direction, flags, path):
    net = numlstm.LSTM(3, 4, seed=0, **flags).eval()
    net.direction = direction
    net.save(path)
    back = numlstm.load(path)
    assert repr(back) == repr(net)
    x = np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)
    rows = 5 if net.batch_first else 2
    zeros = np.zeros((net.num_layers, rows, net.proj_size or 4), "f4"), np.zeros((net.num_layers, rows, 4), "f4")
    session = need("onnxruntime").InferenceSession(path)
    made = session.run(["output", "h_n", "c_n"], {"input": x, "h_0": zeros[0], "c_0": zeros[1]})
    output, states = net(x)
    for got, want in zip((output, *states), made, strict=True):
        assert np.abs(got - want).max() < 1e-6


def test_more_than_a_file_can_hold_is_refused():
    huge = np.broadcast_to(np.float32(0), (4 << 14, 1 << 14))
    config = numlstm.base.config.Config(1 << 14, 1 << 14)
    with pytest.raises(ValueError, match=r"its parameters are \d+ bytes; an ONNX file holds at most 2147483647"):
        onnx_export.dump("LSTM", config, {"weight_ih_l0": huge, "weight_hh_l0": huge})


def test_without_onnx_the_error_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'onnx>="):
        numlstm.LSTM(2, 3).save(path)
    assert not path.exists()
