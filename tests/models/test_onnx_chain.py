"""ONNX graphs that are chains of layers run as `Sequential`, with the numbers of the evaluator; others stay with it."""

from pathlib import Path

import numpy as np
import pytest

import numlstm
from numlstm.models.onnx.axes import regrouped
from numlstm.nn import Sequential

onnx = pytest.importorskip("onnx", exc_type=ImportError)
FIXTURES = Path(__file__).parents[1] / "fixtures" / "models"
CHAINS = [
    f"{name}_{exporter}" for name in ("amplifier", "forecaster", "sentiment") for exporter in ("dynamo", "script")
]


def case(name):
    """A model of PyTorch, and its inputs."""
    arrays = np.load(FIXTURES / f"onnx_{name.rpartition('_')[0]}.npz")
    return numlstm.load_model(FIXTURES / f"{name}.onnx"), [arrays[key] for key in arrays if "input" in key]


def graph(text, opset=17, **weights):
    """The model of nodes in ONNX's notation, with weights from a generator; `inputs` and `outputs` come in the text."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model.SerializeToString()


rng = np.random.default_rng(5)


def numbers(*shape):
    return rng.standard_normal(shape, np.float32)


LSTM = {"W": numbers(1, 16, 3), "R": numbers(1, 16, 4), "B": numbers(1, 32)}
BOTH = {"W": numbers(2, 16, 3), "R": numbers(2, 16, 4), "B": numbers(2, 32)}
HEAD = {"K": numbers(4, 2), "b": numbers(2), "one": np.array([1]), "last": np.array(-1)}
X, Y = "(float[t, n, 3] x)", "{x}"


def compare(model, *inputs, is_chain):
    """The model's outputs are those of the evaluator, and the graph is a chain or is none."""
    given = model._given(inputs)
    expected = model._run(dict(given))
    found = model(*inputs)
    for have, want in zip(found if isinstance(found, list) else [found], expected, strict=True):
        assert have.shape == want.shape and have.dtype == want.dtype
        np.testing.assert_allclose(have, want, rtol=3e-6, atol=3e-6)
    assert (model._layered is not None) == is_chain
    return found


@pytest.mark.parametrize("name", CHAINS)
def test_graphs_of_both_exporters_are_chains(name):
    model, inputs = case(name)
    compare(model, *inputs, is_chain=True)
    assert isinstance(model.sequential(), Sequential)
    assert len(model.sequential().lstms) == (2 if "forecaster" in name else 1)


@pytest.mark.parametrize("name", CHAINS)
def test_a_stream_gives_the_outputs_of_a_call(name):
    model, inputs = case(name)
    if "amplifier" in name:  # its states are inputs, and a stream begins with zeros
        inputs = [inputs[0], *(np.zeros_like(state) for state in inputs[1:])]
    x = inputs[0]
    stream = model.stream(1 if "amplifier" in name else len(x))
    frames = list(x[0]) if "amplifier" in name else [x[:, step] for step in range(x.shape[1])]
    steps = [stream(frame) for frame in frames]
    whole = model(*inputs)
    if "amplifier" in name:
        np.testing.assert_array_equal(np.stack(steps), whole[0][0])
    else:
        np.testing.assert_array_equal(steps[-1], whole)
        if "script" in name:  # its steps are of any number
            np.testing.assert_allclose(steps[2], model(x[:, :3]), rtol=1e-6)


@pytest.mark.parametrize(
    "name, says",
    [
        ("reader_script", "node '/conv/Conv' (Conv): it is no layer of a chain"),
        ("attentive_dynamo", "node 'node_sum_1' (ReduceSum)"),
        ("translator_script", "its inputs 'input_0', 'input_1' are not one"),
    ],
)
def test_a_graph_that_cannot_stream_names_what_is_in_the_way(name, says):
    model, _ = case(name)
    with pytest.raises(ValueError, match="the graph cannot run step by step: ") as error:
        model.stream()
    assert says in str(error.value) and "numlstm.load(path).stream()" in str(error.value)


def test_a_bidirectional_lstm_is_named():
    model = numlstm.load_model(
        graph(
            f"{X} => (float[t, n, 8] y) {{ h = LSTM<hidden_size=4, direction='bidirectional'>(x, W, R, B)\n"
            "turned = Transpose<perm=[0, 2, 1, 3]>(h)\ny = Reshape(turned, shape) }".replace("'", '"'),
            **BOTH,
            shape=np.array([0, 0, -1]),
        )
    )
    compare(model, numbers(6, 2, 3), is_chain=True)
    with pytest.raises(ValueError, match="begins with the last step"):
        model.stream()


SHAPES = {
    "steps first": (
        X,
        "(float[t, n, 2] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one) m = MatMul(z, K)"
        " y = Add(m, b) }",
    ),
    "a head over flat rows": (
        X,
        "(float[t, n, 2] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Reshape(h, flat) m = Gemm(z, K, b)"
        " r = Relu(m) s3 = Shape(x) tn = Slice(s3, zero, two) all = Concat<axis=0>(tn, two) y = Reshape(r, all) }",
    ),
    "no batch": (
        "(float[t, 3] x)",
        "(float[t, 2] y) { u = Unsqueeze(x, one) h, s, c = LSTM<hidden_size=4>(u, W, R, B) z = Reshape(h, flat)"
        " m = MatMul(z, K) y = Sigmoid(m) }",
    ),
    "the last state": (
        X,
        "(float[n, 2] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Gather<axis=0>(s, last) y = Gemm(z, K, b) }",
    ),
    "the last step behind the head": (
        X,
        "(float[n, 2] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one) m = MatMul(z, K)"
        " y = Gather<axis=0>(m, last) }",
    ),
    "states too": (
        X,
        "(float[t, n, 4] y, float[n, 4] z) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(c, zero)"
        " q = Squeeze(h, one) y = Tanh(q) }",
    ),
    "features turned behind the steps": (
        "(float[n, 3, t] x)",
        "(float[n, 2, t] y) { u = Transpose<perm=[2, 0, 1]>(x) h, s, c = LSTM<hidden_size=4>(u, W, R, B)"
        " z = Squeeze(h, one) m = MatMul(z, K) w = Add(m, b) e = Softmax<axis=2>(w) y = Transpose<perm=[1, 2, 0]>(e) }",
    ),
    "normalised in front": (
        X,
        "(float[t, n, 2] y) { u = Sub(x, mean) v = Div(u, half) h, s, c = LSTM<hidden_size=4>(v, W, R, B)"
        " z = Squeeze(h, one) m = MatMul(z, K) y = LeakyRelu(m) }",
    ),
}
MORE = {
    "zero": np.array([0]),
    "two": np.array([2]),
    "flat": np.array([-1, 4]),
    "half": np.array(0.5, np.float32),
    "mean": numbers(1, 1, 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_what_exporters_put_around_the_layers(name):
    given, body = SHAPES[name]
    model = numlstm.load_model(graph(f"{given} => {body}", **LSTM, **HEAD, **MORE))
    for steps, rows in ((6, 2), (1, 1), (9, 4)):
        shape = {"no batch": (steps, 3), "features turned behind the steps": (rows, 3, steps)}
        compare(model, numbers(*shape.get(name, (steps, rows, 3))), is_chain=True)
    model.stream()


NONE = {
    "a softmax over the steps": "(float[t, n, 4] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one)"
    " y = Softmax<axis=0>(z) }",
    "a product whose sum is used twice": "(float[t, n, 2] y, float[t, n, 2] m) {"
    " h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one) m = MatMul(z, K) y = Add(m, b) }",
    "a number that is the number of steps": "(float[t, n, 4] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B)"
    " z = Squeeze(h, one) sizes = Shape(x) steps = Gather(sizes, first) many = Cast<to=1>(steps) y = Div(z, many) }",
    "the first steps": "(float[5, n, 4] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one)"
    " y = Slice(z, zero, five, zero) }",
    "the fifth step": "(float[n, 4] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one)"
    " y = Gather<axis=0>(z, fourth) }",
    "a state that the head does not take last": "(float[1, n, 4] y, float[t, n, 4] w) {"
    " h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one) w = Tanh(z) y = Relu(s) }",
    "features added to rows": "(float[t, n, 4] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze(h, one)"
    " y = Add(z, column) }",
    "a skip around a layer of the middle": "(float[t, n, 4] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B)"
    " z = Squeeze(h, one) q = Tanh(z) y = Add(q, z) }",
}


def test_the_axis_of_the_batch_is_known():
    """So that `numlstm run` on a table, and frames, give a sequence as the graph wants it."""
    for name, axis in (("steps first", 1), ("features turned behind the steps", 0), ("no batch", 0)):
        given, body = SHAPES[name]
        assert numlstm.load_model(graph(f"{given} => {body}", **LSTM, **HEAD, **MORE)).batch_axis == axis
    assert case("attentive_script")[0].batch_axis == 0  # a graph that is no chain


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_chain_stays_with_the_evaluator(name):
    more = {"first": np.array(0), "fourth": np.array(4), "five": np.array([5]), "column": numbers(2, 1)}
    model = numlstm.load_model(graph(f"{X} => {NONE[name]}", **LSTM, **HEAD, **MORE, **more))
    compare(model, numbers(9, 2, 3), is_chain=False)
    compare(model, numbers(5, 2, 3), is_chain=False)
    with pytest.raises(ValueError, match="cannot run step by step"):
        model.stream()


def test_the_last_step_of_two_directions_is_no_last_state():
    text = (
        f'{X} => (float[n, 8] y) {{ h = LSTM<hidden_size=4, direction="bidirectional">(x, W, R, B)'
        " turned = Transpose<perm=[0, 2, 1, 3]>(h) z = Reshape(turned, shape) y = Gather<axis=0>(z, last) }"
    )
    model = numlstm.load_model(graph(text, **BOTH, shape=np.array([0, 0, -1]), last=np.array(-1)))
    compare(model, numbers(6, 2, 3), is_chain=False)


def test_constant_states_are_those_of_each_sequence():
    states = {"h0": np.repeat(numbers(1, 1, 4), 3, axis=1), "c0": np.repeat(numbers(1, 1, 4), 3, axis=1)}
    text = (
        "(float[t, 3, 3] x) => (float[t, 3, 4] y) { h, s, c = LSTM<hidden_size=4>(x, W, R, B, , h0, c0)"
        " z = Squeeze(h, one) y = Relu(z) }"
    )
    x = numbers(5, 3, 3)
    model = numlstm.load_model(graph(text, **LSTM, **HEAD, **states))
    whole = compare(model, x, is_chain=True)
    stream = model.stream(3)
    np.testing.assert_array_equal(np.stack([stream(frame) for frame in x]), whole)
    states["c0"] = numbers(1, 3, 4)  # one for each row
    compare(numlstm.load_model(graph(text, **LSTM, **HEAD, **states)), x, is_chain=False)


def test_an_index_from_the_end_is_what_onnx_says_it_is():
    """An Embedding of numlstm refuses it, so that the evaluator answers."""
    model, (words,) = case("sentiment_script")
    np.testing.assert_array_equal(model(words - 12), model._run(dict(model._given((words - 12,))))[0])
    with pytest.raises(IndexError, match=r"node '/table/Gather' \(Gather\)"):
        model(words + 12)


def test_models_before_opset_13_run():
    """Squeeze has its axes as an attribute, and Reshape knows no allowzero."""
    text = (
        f"{X} => (float[t, n, 2] y) {{ h, s, c = LSTM<hidden_size=4>(x, W, R, B) z = Squeeze<axes=[1]>(h)"
        " v = Reshape(z, keep) y = MatMul(v, K) }"
    )
    model = numlstm.load_model(graph(text, opset=11, **LSTM, **HEAD, keep=np.array([0, 0, -1])))
    compare(model, numbers(6, 2, 3), is_chain=True)


def test_an_axis_is_not_cut_by_a_reshape():
    sizes = {"T": 5, "B": 7, "D": 2, "F": 3}
    assert regrouped(("T", "D", "B", "F"), sizes, (5, 14, 3)) == ("T", "DB", "F")
    assert regrouped(("T", "B", "F"), sizes, (7, 5, 3)) is None
    assert regrouped(("T", "F"), {"T": 1, "F": 4}, (1, 1, 4)) == ("T", "", "F")
