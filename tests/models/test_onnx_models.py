"""Whole ONNX models give what the framework computed that they were exported from."""

import re
from pathlib import Path

import numpy as np
import pytest

import numlstm

pytest.importorskip("onnx", exc_type=ImportError)
FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = sorted((FIXTURES / "models").glob("*.onnx"))


def case(path):
    """Inputs and outputs in order."""
    arrays = np.load(FIXTURES / "models" / f"onnx_{path.stem.rpartition('_')[0]}.npz")
    return [arrays[key] for key in arrays if "input" in key], [arrays[key] for key in arrays if "output" in key]


def check(found, expected):
    found = found if isinstance(found, list) else [found]
    assert [array.shape for array in found] == [array.shape for array in expected]
    for array, want in zip(found, expected, strict=True):
        assert array.dtype == want.dtype
        np.testing.assert_allclose(array, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_outputs_are_those_of_torch(path):
    given, expected = case(path)
    model = numlstm.load_model(path)
    check(model(*given), expected)
    packed = [id(lstm) for lstm in model.lstms]
    check(model(dict(zip(model.input_names, given, strict=True))), expected)  # with what the first call kept
    assert packed and packed == [id(lstm) for lstm in model.lstms]
    assert model.lstms[0].num_layers == 1 and len(model.summary()) > len(model.input_names)


def test_other_shapes_are_other_calls():
    """What is kept for the shapes of one call is not used for others."""
    model = numlstm.load_model(FIXTURES / "models" / "sentiment_script.onnx")
    (words,), (expected,) = case(FIXTURES / "models" / "sentiment_script.onnx")
    whole = model(words)
    for rows in (1, 2, 3):
        np.testing.assert_allclose(model(words[:rows]), whole[:rows], rtol=1e-6)
    assert not np.allclose(model(words[:, :3]), expected)
    np.testing.assert_allclose(model(words), expected, rtol=2e-6)


OF_NODES = ("bidirectional", "defaults", "reverse", "with_initial_bias", "batchwise")


@pytest.mark.parametrize("name", OF_NODES)
def test_the_operator_is_that_of_onnx(name):
    arrays = np.load(FIXTURES / "onnx" / "outputs.npz")
    name = f"backend_{name}"
    model = numlstm.load_model(FIXTURES / "onnx" / f"{name}.onnx")
    expected = [arrays[f"{name}:{key}"] for key in model.output_names]
    check(model(arrays[f"{name}:input"]), expected)


@pytest.mark.parametrize("name", ["loop", "if", "function", "external"])
def test_graphs_within_graphs_are_run(name):
    arrays = np.load(FIXTURES / "onnx" / "outputs.npz")
    model = numlstm.load_model(FIXTURES / "onnx" / f"{name}.onnx")
    given = {key: arrays[f"{name}:{key}"] for key in model.input_names}
    names = [f"Y_{given['choose']}"] if name == "if" else model.output_names
    check(model(given), [arrays[f"{name}:{key}"] for key in names])


def one_node(lengths, layout=0):
    """A model of one bidirectional node with lengths and states as inputs."""
    import onnx
    from onnx import TensorProto, helper

    rng = np.random.default_rng(3)
    weights = {"W": (2, 12, 2), "R": (2, 12, 3), "B": (2, 24)}
    tensors = [
        onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    names = ["X", "W", "R", "B", "lengths", "h", "c"]
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], hidden_size=3, direction="bidirectional", layout=layout)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT, None)
        for name in ("X", "lengths", "h", "c")
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "Y_h", "Y_c")]
    graph = helper.make_graph([node], "one", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    given = [
        rng.standard_normal((4, 3, 2)).astype(np.float32),
        np.array(lengths, np.int32),
        *rng.standard_normal((2, 2, 3, 3)).astype(np.float32),
    ]
    return model.SerializeToString(), given


def test_lengths_and_states_are_those_of_onnxruntime():
    runtime = pytest.importorskip("onnxruntime")
    data, given = one_node([4, 2, 1])
    expected = runtime.InferenceSession(data).run(None, dict(zip(("X", "lengths", "h", "c"), given, strict=True)))
    check(numlstm.load_model(data)(*given), expected)
    first, _ = one_node([4, 2, 1], layout=1)
    turned = [given[0].swapaxes(0, 1), given[1], given[2].swapaxes(0, 1), given[3].swapaxes(0, 1)]
    y, h, c = numlstm.load_model(first)(*turned)
    check([y.transpose(1, 2, 0, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)], expected)


def test_an_output_without_a_name_is_no_input():
    """A second node, whose lengths and states are left out, must not read what the first one leaves without a name."""
    import onnx

    runtime = pytest.importorskip("onnxruntime")
    data, given = one_node([4, 2, 1])
    model = onnx.load_from_string(data)
    (node,) = model.graph.node
    second = model.graph.node.add()
    second.CopyFrom(node)
    second.input[4:] = ["", "", ""]
    second.output[:] = ["Y2"]
    node.output[:] = ["Y", "", "Y_c"]
    model.graph.output[0].name, model.graph.output[1].name = "Y2", "Y"
    data = model.SerializeToString()
    expected = runtime.InferenceSession(data).run(None, dict(zip(("X", "lengths", "h", "c"), given, strict=True)))
    check(numlstm.load_model(data)(*given), expected)


def test_a_node_that_no_lstm_is_like_is_named():
    with pytest.raises(ValueError, match=r"its node .* cannot be run: its attribute"):
        data, _ = one_node([1, 1, 1])
        import onnx

        model = onnx.load_from_string(data)
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("unheard_of", 1.0))
        numlstm.load_model(model.SerializeToString())


@pytest.mark.parametrize(
    "name, inputs, error, says",
    [
        ("sentiment", [], ValueError, "the model takes 1 input, 'input_0'; 0 are given"),
        ("sentiment", [[[0.5]]], ValueError, "input 'input_0' must hold whole numbers, int64"),
        ("sentiment", [[[99]]], IndexError, "(Gather)"),
        ("reader", [np.zeros((1, 4, 8))], ValueError, "input 'input_0' must have shape (any, 3, 8)"),
        ("reader", [{"x": 1}], ValueError, "its inputs are 'input_0'; given are 'x'"),
        ("attentive", [np.zeros((1, 2, 3)), [["a", "b"]]], TypeError, "input 'input_1'"),
    ],
)
def test_a_wrong_input_is_named(name, inputs, error, says):
    model = numlstm.load_model(FIXTURES / "models" / f"{name}_script.onnx")
    with pytest.raises(error, match=re.escape(says)):
        model(*inputs)


@pytest.mark.parametrize("per_row", [False, True])
def test_a_quantised_lstm_runs_with_its_weights_as_floats(per_row):
    import onnx

    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(2)
    hidden, features = 4, 3
    weights = {
        name: rng.normal(0, 0.5, (2, 4 * hidden, n)).astype(np.float32) for name, n in (("W", features), ("R", 4))
    }
    held = {"B": rng.normal(0, 0.1, (2, 8 * hidden)).astype(np.float32)}
    plain = dict(held)
    for name, weight in weights.items():
        scale = np.abs(weight).max(axis=2 if per_row else (1, 2)) / np.float32(127)
        along = scale[..., None] if per_row else scale[:, None, None]
        whole = np.rint(weight / along)
        held[name] = whole.astype(np.int8).swapaxes(1, 2).copy()
        held[f"{name}_scale"], held[f"{name}_zero"] = scale, np.zeros(scale.shape, np.int8)
        plain[name] = (whole * along).astype(np.float32)

    def content(op, domain, names, arrays):
        node = onnx.helper.make_node(op, names, ["Y"], "cell", domain=domain, hidden_size=4, direction="bidirectional")
        x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("X", "Y"))
        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
        graph = onnx.helper.make_graph([node], "g", [x], [y], tensors)
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

    names = ["X", "W", "R", "B", "", "", "", "", "W_scale", "W_zero", "R_scale", "R_zero"]
    data = content("DynamicQuantizeLSTM", "com.microsoft", names, held)
    x = rng.standard_normal((5, 2, features)).astype(np.float32)
    with pytest.warns(UserWarning, match="the weights of node 'cell' are quantised"):
        found = numlstm.load_model(data)(x)
    np.testing.assert_array_equal(found, numlstm.load_model(content("LSTM", "", names[:4], plain))(x))
    np.testing.assert_allclose(found, runtime.InferenceSession(data).run(None, {"X": x})[0], atol=0.02)
