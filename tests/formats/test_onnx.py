"""ONNX files of other packages: what they computed is what numlstm computes, or the file says why not."""

import gc
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import hostile
import numpy as np
import pytest
from judge import close, same_bits
from needs import need

import numlstm
from numlstm import reference
from numlstm.formats import state_dict
from numlstm.formats.onnx.gates import gates_iofc

onnx = need("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FOLDER = Path(__file__).parents[1] / "fixtures" / "onnx"
FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def computed():
    """What the packages that wrote the fixtures gave, by model and name."""
    arrays = {}
    for file in ("outputs.npz", "keras.npz"):
        with np.load(FOLDER / file) as entries:
            arrays |= {name: entries[name] for name in entries.files}
    return arrays


# ---------------------------------------------------------------- what others wrote

FOUND = {
    "backend_defaults": "LSTM(2, 3, bias=False)",
    "backend_with_initial_bias": "LSTM(3, 4)",
    "backend_batchwise": "LSTM(2, 7, bias=False, batch_first=True)",
    "backend_bidirectional": "LSTM(2, 3, bias=False, bidirectional=True)",
    "torch_script_plain": "LSTM(3, 2)",
    "torch_dynamo_plain": "LSTM(3, 2)",
    "torch_script_two": "LSTM(3, 2, num_layers=2, bias=False, batch_first=True)",
    "torch_dynamo_two": "LSTM(3, 2, num_layers=2, bias=False, batch_first=True)",
    "torch_script_three": "LSTM(3, 2, num_layers=3, bidirectional=True)",
    "torch_dynamo_three": "LSTM(3, 2, num_layers=3, bidirectional=True)",
    "keras_stack": "LSTM(5, 3, num_layers=2, batch_first=True)",
    "keras_both": "LSTM(5, 3, batch_first=True, bidirectional=True)",
    "opset_7": "LSTM(4, 3)",
    "external": "LSTM(4, 3)",
    "function": "LSTM(4, 3)",
}


def agrees(net, computed, model):
    """Whether an LSTM gives what the model gave, in whatever of its outputs the file has."""
    own = {key.partition(":")[2]: array for key, array in computed.items() if key.startswith(f"{model}:")}
    states = (own["h_0"], own["c_0"]) if "h_0" in own else None
    output, (h_n, c_n) = net(own["input"], states)
    got = {"output": output, "h_n": h_n, "c_n": c_n, "Y_h": h_n, "Y_c": c_n}
    if "Y" in own:  # the operator's own shape
        cut = (*output.shape[:2], net.num_layers * (1 + net.bidirectional), net.hidden_size)
        got["Y"] = output.reshape(cut) if net.batch_first else output.reshape(cut).swapaxes(1, 2)
    if net.batch_first and "Y" in own:
        got |= {"Y_h": h_n.swapaxes(0, 1)}
    compared = [name for name in got if name in own]
    assert compared
    return all(close(got[name], own[name]) for name in compared)


@pytest.mark.parametrize("model", FOUND)
def test_it_computes_what_the_file_computed(model, computed):
    path = FOLDER / f"{model}.onnx"
    (found,) = numlstm.list_lstms(path)
    assert found.sizes() == f"{FOUND[model]}, float32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = numlstm.load(path)
    assert agrees(net, computed, model)
    state = net.state_dict()
    net.load_state_dict({name: np.roll(value, net.hidden_size, 0) for name, value in state.items()})
    # other gates give other numbers; all weights of the backend tests are the same number
    assert model.startswith("backend") or not agrees(
        net, computed, model
    )  # other gates give other numbers, where weights differ


def test_no_fixture_goes_unlooked_at():
    looked_at = {*FOUND, "backend_reverse", "backend_with_peepholes", "if", "loop"}
    looked_at |= {
        f"torch_{exporter}_{kind}" for exporter in ("script", "dynamo") for kind in ("tagger", "causal_tagger")
    }
    looked_at |= {
        f"torch_{exporter}_{kind}" for exporter in ("script", "dynamo") for kind in ("cells", "learned", "backwards")
    }
    looked_at |= {"torch_dynamo_projected", "torch_dynamo_projected_any"}
    assert {path.stem for path in FOLDER.glob("*.onnx")} == looked_at


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
def test_cells_that_share_parameters_are_whole(exporter, computed):
    """Exporters store equal biases once, under the name of the first cell, and leave out those of zeros."""
    path = FOLDER / f"torch_{exporter}_cells.onnx"
    own = numlstm.load_tensors(path)
    assert "second.bias_ih" not in own and "second.bias_hh" not in own
    given, wanted = (computed[f"{path.stem}:{name}"] for name in ("input", "output"))
    for name, want in zip(("first", "second", "third"), wanted, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cell = numlstm.load_cell(path, name)
        states = None
        for step in given:
            states = cell(step, states)
        assert close(states[0], want)


def by_hand(path, added):
    """One product for each weight of a cell, with constants added to each, to their sum, or to none."""
    rng = np.random.default_rng(3)
    arrays = {"c.weight_ih": rng.normal(size=(8, 3)), "c.weight_hh": rng.normal(size=(8, 2)), "other": np.ones(8)}
    nodes = [
        helper.make_node("Gemm", ["x", "c.weight_ih"], ["a"], transB=1),
        helper.make_node("Gemm", ["h", "c.weight_hh"], ["b"], transB=1),
    ]
    if added == "each":
        nodes += [helper.make_node("Add", ["other", name], [name + "1"]) for name in "ab"]
    ends = ["a1", "b1"] if added == "each" else ["a", "b"]
    nodes.append(helper.make_node("Add", ends, ["sum"]))
    nodes.append(helper.make_node("Add" if added == "sum" else "Mul", ["sum", "other"], ["gates"]))
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    infos = [helper.make_tensor_value_info(name, FLOAT, [2, k]) for name, k in (("x", 3), ("h", 2), ("gates", 8))]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", infos[:2], infos[2:], tensors)), path)


@pytest.mark.parametrize("added, bias", [("each", True), ("sum", False), ("none", False)])
def test_a_bias_is_what_the_graph_adds(added, bias, tmp_path):
    by_hand(tmp_path / "m.onnx", added)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cell = numlstm.load_cell(tmp_path / "m.onnx")
    assert cell.bias is bias and (not bias or (cell.bias_ih == 1).all())
    said = [str(warning.message) for warning in caught]
    assert len(said) == (added == "sum")
    assert added != "sum" or "the graph does not show whether one is added to c.weight_" in said[0]


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
def test_learned_states_that_the_graph_repeats_are_warned_of(exporter, computed):
    path = FOLDER / f"torch_{exporter}_learned.onnx"
    with pytest.warns(UserWarning, match="constant h_0 that is not zero, '.*constant c_0 that is not zero") as caught:
        net = numlstm.load(path)
    tensors = numlstm.load_tensors(path)
    names = re.findall(r"zero, '([^']+)': pass it", str(caught[0].message))
    given, want = (computed[f"{path.stem}:{name}"] for name in ("input", "output"))
    states = tuple(np.broadcast_to(tensors[name], (1, 4, 2)) for name in names)
    assert close(net(given, states)[0], want) and not close(net(given)[0], want)


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
def test_time_that_the_graph_reverses_around_a_node(exporter, computed):
    path = FOLDER / f"torch_{exporter}_backwards.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = numlstm.load(path)
    assert net.direction == "reverse"
    assert "the graph turns time around by the Slice node" in numlstm.list_lstms(path)[0].notes[-1]
    given, want = (computed[f"{path.stem}:{name}"] for name in ("input", "output"))
    assert close(net(given)[0], want)


def flips(x, y, axis, how):
    """Nodes that reverse an axis of x, and their tensors."""
    if how == "Slice":
        ends = {"from": [-1], "to": [-(2**62)], "axis": [axis], "step": [-1]}
        node = helper.make_node("Slice", [x, *(f"{y}.{name}" for name in ends)], [y])
        return [node], tensors_of({f"{y}.{name}": np.array(value) for name, value in ends.items()})
    if how == "Gather":
        node = helper.make_node("Gather", [x, f"{y}.picked"], [y], axis=axis)
        return [node], tensors_of({f"{y}.picked": np.arange(4, -1, -1)})
    steps, rows = {"start": axis, "end": axis + 1}, {"start": 1 - axis, "end": 2 - axis}
    nodes = [helper.make_node("Shape", [x], [f"{y}.n"], **steps), helper.make_node("Shape", [x], [f"{y}.b"], **rows)]
    if how == "ReverseSequence":  # as tf2onnx writes ReverseV2
        nodes.append(helper.make_node("Expand", [f"{y}.n", f"{y}.b"], [f"{y}.lengths"]))
        order = {"time_axis": axis, "batch_axis": 1 - axis}
        return [*nodes, helper.make_node("ReverseSequence", [x, f"{y}.lengths"], [y], **order)], []
    scalars = {"one": np.array(1), "minus": np.array(-1)}
    nodes += [
        helper.make_node("Squeeze", [f"{y}.n"], [f"{y}.steps"]),
        helper.make_node("Sub", [f"{y}.steps", f"{y}.one"], [f"{y}.last"]),
        helper.make_node("Range", [f"{y}.last", f"{y}.minus", f"{y}.minus"], [f"{y}.down"]),
        helper.make_node("Gather", [x, f"{y}.down"], [y], axis=axis),
    ]
    return nodes, tensors_of({f"{y}.{name}": value for name, value in scalars.items()})


@pytest.mark.parametrize("how", ["Slice", "Gather", "ReverseSequence", "Range"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("behind", [False, True])
def test_every_way_to_reverse_time(how, batch_first, direction, behind, saved):
    """A node that runs from the end, around which time is reversed, runs from the beginning."""
    ort = need("onnxruntime")
    net, axis = net_of(3, 2), int(batch_first)
    nodes, tensors = flips("x", "turned", axis, how)
    start, end = ("before", "Y_3") if batch_first else ("turned", "Y_3")
    if batch_first:
        nodes.append(helper.make_node("Transpose", ["turned"], ["before"], perm=[1, 0, 2]))
    nodes += [lstm(net, x=start, direction=direction), helper.make_node("Squeeze", ["Y", "second"], ["Y_3"])]
    tensors += [*tensors_of(stacked(net)), numpy_helper.from_array(np.array([1]), "second")]
    if batch_first:
        nodes.append(helper.make_node("Transpose", ["Y_3"], ["Y_b"], perm=[1, 0, 2]))
        end = "Y_b"
    if behind:
        more, own = flips(end, "back", axis, how)
        nodes, tensors, end = [*nodes, *more], [*tensors, *own], "back"
    path = saved(model(nodes, tensors, outputs=(end,), opset=15, x=[None, None, 3]))
    x = np.random.default_rng(0).standard_normal((4, 5, 3) if batch_first else (5, 4, 3)).astype("f4")
    options = ort.SessionOptions()  # ONNX Runtime makes of a Range down to 0 a Slice of nothing
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    (want,) = ort.InferenceSession(path, options).run(None, {"x": x})
    with warnings.catch_warnings():
        warnings.simplefilter("error" if direction == "forward" or behind else "ignore")
        got = numlstm.load(path)
    output = got(x)[0]
    if direction == "reverse" and not behind:  # forward, with its output reversed: the warning says so
        assert "reverses an axis of its output" in numlstm.list_lstms(path)[0].warning or got.direction == "forward"
        output = np.flip(output, axis)
    assert close(output, want) and got.batch_first is batch_first


def test_what_is_no_reversal_of_time_is_left_to_the_caller(saved):
    net = net_of(3, 2)
    for indices in ([0, 1, 2, 3], [1]):
        turn = helper.make_node("Gather", ["x", "indices"], ["turned"], axis=0)
        tensors = [*tensors_of(stacked(net)), numpy_helper.from_array(np.array(indices), "indices")]
        (found,) = numlstm.list_lstms(saved(model([turn, lstm(net, x="turned")], tensors)))
        assert found.warning == "" and found.config.direction == "forward"
    nodes, tensors = flips("x", "turned", 2, "Slice")
    (found,) = numlstm.list_lstms(saved(model([*nodes, lstm(net, x="turned")], [*tensors, *tensors_of(stacked(net))])))
    assert "an axis of its input by an unnamed Slice node, not time: do the same" in found.warning


@pytest.mark.parametrize("case", ["lengths", "bidirectional", "sequence_lens"])
def test_time_reversed_in_a_way_that_is_not_done_is_refused(case, saved):
    net = net_of(3, 2, bidirectional=case == "bidirectional")
    nodes, tensors = flips("x", "turned", 0, "Slice")
    inputs, more = ("x",), ()
    if case == "lengths":  # of each row, which the caller passes
        nodes = [helper.make_node("ReverseSequence", ["x", "rows"], ["turned"], time_axis=0, batch_axis=1)]
        inputs = ("x", "rows")
    if case == "sequence_lens":
        inputs, more = ("x", "rows"), ("rows",)
    path = saved(model([*nodes, lstm(net, x="turned", more=more)], [*tensors, *tensors_of(stacked(net))], inputs))
    says = {"lengths": "by an unnamed ReverseSequence node, which cannot be followed"}
    with pytest.raises(ValueError, match=says.get(case, "reverses time by an unnamed Slice node before a")):
        numlstm.load(path)


@pytest.mark.parametrize("name", ["torch_dynamo_projected", "torch_dynamo_projected_any"])
@pytest.mark.parametrize("stated", [True, False])
def test_states_that_do_not_fit_are_refused(name, stated, saved):
    """torch's newer exporter cuts the weights of an LSTM with proj_size; only the states tell."""
    proto = onnx.load(FOLDER / f"{name}.onnx")
    if not stated:
        del proto.graph.value_info[:]
    with pytest.raises(ValueError, match=r"its initial_c has shape \(1, (4|\?), 4\); its R asks for \(1, batch, 2\)"):
        numlstm.load(saved(proto))


@pytest.mark.parametrize("exporter", ["script", "dynamo"])
@pytest.mark.parametrize("kind", ["tagger", "causal_tagger"])
def test_what_is_around_the_lstm_comes_along(exporter, kind, computed):
    model = f"torch_{exporter}_{kind}"
    path = FOLDER / f"{model}.onnx"
    net, tensors = numlstm.load(path, "lstm"), numlstm.load_tensors(path)
    assert net.batch_first is (kind == "tagger")
    (head,) = [array for array in tensors.values() if array.shape == (2 * (1 + net.bidirectional), 5)]
    embedded = tensors["embedding.weight" if "embedding.weight" in tensors else "emb.weight"][
        computed[f"{model}:input"]
    ]
    assert close(net(embedded)[0] @ head + tensors["head.bias"], computed[f"{model}:output"])


def test_a_node_that_runs_backwards_says_so(computed):
    path = FOLDER / "backend_reverse.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = numlstm.load(path)
    assert repr(net) == "LSTM(2, 3, bias=False, direction='reverse')"
    _, (h_n, _) = net(computed["backend_reverse:input"])
    assert close(h_n, computed["backend_reverse:Y_h"])


def test_both_branches_of_an_if(computed):
    path = FOLDER / "if.onnx"
    with pytest.raises(ValueError, match=r"it holds 2 LSTMs; pass the name of one of them:\n  cell_else: LSTM\(4, 3\)"):
        numlstm.load(path)
    for name, chosen in (("cell", True), ("cell_else", False)):
        output, _ = numlstm.load(path, name)(computed["if:input"])
        assert close(output[:, None], computed[f"if:Y_{chosen}"])
        assert not close(output[:, None], computed[f"if:Y_{not chosen}"])


def test_the_body_of_a_loop(computed):
    net = numlstm.load(FOLDER / "loop.onnx")
    state = computed["loop:h_0"], computed["loop:c_0"]
    for _ in range(2):
        _, state = net(computed["loop:input"], state)
    assert close(state[0], computed["loop:h_n"]) and close(state[1], computed["loop:c_n"])


def test_peepholes(computed):
    """By the equations; tests/test_cell_options.py has the kernels."""
    net = numlstm.load(FOLDER / "backend_with_peepholes.onnx")
    assert repr(net) == "LSTM(4, 3, cell_options=CellOptions(peepholes=True))"
    own = {key.partition(":")[2]: value for key, value in computed.items() if key.startswith("backend_with_peepholes:")}
    _, (h_n, _) = reference.lstm(net.state_dict(), own["input"], options=net.cell_options)
    assert close(h_n, own["Y_h"])


def test_silero_vad():
    data = Path(need("silero_vad").__file__).parent / "data"
    names = {
        "silero_vad.onnx": [f"If_0_{branch}_branch__Inline_0__decoder.rnn" for branch in ("else", "then")],
        "silero_vad_half.onnx": ["decoder.rnn"],
        "silero_vad_16k_op15.onnx": ["model.decoder.rnn"],
        "silero_vad_16k_sequence.onnx": ["recurrent"],
        "silero_vad_op18_ifless.onnx": ["model.decoder.rnn", "model_8k.decoder.rnn"],  # a cell written out
    }
    for file, expected in names.items():
        found = numlstm.list_lstms(data / file)
        assert [each.name for each in found] == expected
        for each in found:
            assert each.config == numlstm.base.config.Config(128, 128)
            tensors, net = numlstm.load_tensors(data / file), numlstm.load(data / file, each.name)
            if f"{each.name}.weight_ih" in tensors:
                for name, value in net.state_dict().items():
                    assert same_bits(value, tensors[f"{each.name}.{name.removesuffix('_l0')}"])


# ---------------------------------------------------------------- one node, in every way to write it


def stacked(net, layer=0):
    """W, R and B of a layer."""
    state, suffixes = net.state_dict(), ("", "_reverse")[: 1 + net.bidirectional]

    def both(name):
        return np.stack([gates_iofc(state[f"{name}_l{layer}{suffix}"]) for suffix in suffixes])

    arrays = {"W": both("weight_ih"), "R": both("weight_hh")}
    return arrays | ({"B": np.concatenate([both("bias_ih"), both("bias_hh")], 1)} if net.bias else {})


def lstm(net, layer=0, x="x", read=("W", "R", "B"), outputs=("Y", "Y_h", "Y_c"), more=(), **attributes):
    direction = "bidirectional" if net.bidirectional else "forward"
    flags = {"hidden_size": net.hidden_size, "direction": direction} | attributes
    flags = {name: value for name, value in flags.items() if value is not None}
    suffix = f"_{layer}" if layer else ""
    inputs = [x, *(f"{name}{suffix}" if name else "" for name in read), *more]
    return helper.make_node("LSTM", inputs, [f"{name}{suffix}" for name in outputs], name=f"cell{suffix}", **flags)


def tensors_of(arrays, suffix=""):
    return [numpy_helper.from_array(array, name + suffix) for name, array in arrays.items()]


def model(nodes, tensors=(), inputs=("x",), outputs=("Y",), opset=17, functions=(), domains=(), **shapes):
    def infos(names):
        return [helper.make_tensor_value_info(name, FLOAT, shapes.get(name)) for name in names]

    graph = helper.make_graph(list(nodes), "graph", infos(inputs), infos(outputs), list(tensors))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    made.ir_version = 8
    return made


@pytest.fixture
def saved(tmp_path):
    def save(made, name="model.onnx"):
        path = tmp_path / name
        path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        return path

    return save


def holds(path, net, name=None):
    """Whether the file's LSTM is that one to the bit."""
    got = numlstm.load(path, name)
    assert repr(got) == repr(net)
    return all(same_bits(value, net.state_dict()[key]) for key, value in got.state_dict().items())


def net_of(*sizes, **flags):
    return numlstm.LSTM(*sizes, seed=3, **flags).eval()


def as_float_data(array, name):
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(name, kind, array.shape, array.ravel().tolist())


def test_numbers_raw_or_listed(saved):
    net = net_of(3, 2)
    assert holds(saved(model([lstm(net)], tensors_of(stacked(net)))), net)
    listed = [as_float_data(array, name) for name, array in stacked(net).items()]
    assert all(tensor.float_data and not tensor.raw_data for tensor in listed)
    assert holds(saved(model([lstm(net)], listed)), net)


def test_constant_nodes(saved):
    net = net_of(3, 2, bidirectional=True)
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors_of(stacked(net))]
    path = saved(model([*nodes, lstm(net)]))
    assert holds(path, net)
    assert list(numlstm.load_tensors(path)) == ["W", "R", "B"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("listed", [False, True])
def test_dtypes(bias, dtype, listed, saved):
    net = net_of(3, 2, bias=bias, dtype="float64" if dtype == "float64" else "float32")
    narrow = {}
    for name, array in net.state_dict().items():
        if dtype == "bfloat16":
            narrow[name] = (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
        else:
            narrow[name] = array.astype(dtype).astype(array.dtype)
    net.load_state_dict(narrow)
    tensors = []
    for name, array in stacked(net).items():
        if dtype == "bfloat16":
            words = (array.view(np.uint32) >> 16).astype(np.uint16)
            tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.BFLOAT16)
            if listed:
                tensor.int32_data.extend(words.ravel().tolist())
            else:
                tensor.raw_data = words.tobytes()
            tensors.append(tensor)
        else:
            tensors.append((as_float_data if listed else numpy_helper.from_array)(array.astype(dtype), name))
    path = saved(model([lstm(net, read=("W", "R", "B") if bias else ("W", "R"))], tensors))
    assert numlstm.list_lstms(path)[0].dtype == dtype
    assert holds(path, net)


FOLDED = {
    "Slice, Concat and Unsqueeze": lambda: [
        helper.make_node("Slice", ["weight", "at_0", "at_2", "at_0"], ["i"]),
        helper.make_node("Slice", ["weight", "at_2", "at_6", "at_0"], ["f_g"]),
        helper.make_node("Slice", ["weight", "at_6", "at_8", "at_0"], ["o"]),
        helper.make_node("Concat", ["i", "o", "f_g"], ["gates"], axis=0),
        helper.make_node("Unsqueeze", ["gates", "at_0"], ["W"]),
    ],
    "Split, Gather, Reshape, Identity and Cast": lambda: [
        helper.make_node("Cast", ["weight"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Split", ["wide"], ["i", "f", "g", "o"], axis=0),
        helper.make_node("Concat", ["o", "g", "f", "i"], ["turned"], axis=0),
        helper.make_node("Gather", ["turned", "order"], ["picked"]),
        helper.make_node("Reshape", ["picked", "shape"], ["stack"]),
        helper.make_node("Cast", ["stack"], ["narrow"], to=FLOAT),
        helper.make_node("Identity", ["narrow"], ["W"]),
    ],
    "Transpose and Squeeze": lambda: [
        helper.make_node("Transpose", ["turned_weight"], ["upright"], perm=[0, 2, 1]),
        helper.make_node("Squeeze", ["upright", "at_0"], ["flat"]),
        helper.make_node("Gather", ["flat", "order_ifgo"], ["picked"]),
        helper.make_node("Unsqueeze", ["picked", "at_0"], ["W"]),
    ],
}


@pytest.mark.parametrize("how", FOLDED)
def test_weights_that_the_graph_computes_from_constants(how, saved):
    net = net_of(3, 2)
    arrays = stacked(net)
    weight = net.state_dict()["weight_ih_l0"]
    constants = {
        "weight": weight,
        "turned_weight": weight.T[None],
        "order": np.array([6, 7, 0, 1, 4, 5, 2, 3]),
        "order_ifgo": np.array([0, 1, 6, 7, 2, 3, 4, 5]),
        "shape": np.array([1, 8, -1]),
        **{f"at_{k}": np.array([k]) for k in (0, 2, 6, 8)},
    }
    del arrays["W"]
    path = saved(model([*FOLDED[how](), lstm(net)], tensors_of(arrays | constants)))
    assert holds(path, net)


@pytest.mark.parametrize("opset", [7, 11, 13, 14, 17, 22])
def test_every_opset_folds_by_its_own_rules(opset, saved):
    net = net_of(3, 2)
    arrays = stacked(net)
    arrays["W"] = arrays["W"][0]
    new = opset >= 13  # axes became an input
    unsqueeze = helper.make_node(
        "Unsqueeze", ["W", "axes"] if new else ["W"], ["W_u"], **({} if new else {"axes": [0]})
    )
    arrays |= {"axes": np.array([0])} if new else {}
    path = saved(model([unsqueeze, lstm(net, read=("W_u", "R", "B"))], tensors_of(arrays), opset=opset))
    assert holds(path, net)


@pytest.mark.parametrize("stored", ["integers", "floats"])
def test_quantised_weights_that_are_dequantised_before_the_node(stored, saved):
    """Exactly as DequantizeLinear makes them; also if a QuantizeLinear is before it."""
    net = net_of(3, 2)
    arrays = stacked(net)
    numbers, scale = np.arange(-12, 12, dtype=np.int8).reshape(1, 8, 3), np.float32(0.125)
    net.load_state_dict(net.state_dict() | {"weight_ih_l0": gates_ifgo_of(numbers[0] * scale)})
    arrays |= {"W": numbers, "scale": np.array(scale), "zero": np.array(0, np.int8)}
    nodes = [helper.make_node("DequantizeLinear", ["W", "scale", "zero"], ["W_f"])]
    if stored == "floats":
        arrays["F"] = (arrays.pop("W") * scale + np.float32(0.01)).astype("f4")
        nodes.insert(0, helper.make_node("QuantizeLinear", ["F", "scale", "zero"], ["W"]))
    path = saved(model([*nodes, lstm(net, read=("W_f", "R", "B"))], tensors_of(arrays)))
    with pytest.warns(UserWarning, match="its weights are quantised and become float32 again") as warned:
        assert holds(path, net)
    assert len(warned) == 1


def test_values_that_are_rounded_on_the_way_are_seen_through(saved):
    """As quantize_static writes them: the layers are joined, and the batch comes first."""
    net = net_of(3, 2, num_layers=2, batch_first=True)

    def rounded(x, y):
        return [
            helper.make_node("QuantizeLinear", [x, "scale", "zero"], [f"{x}.q"]),
            helper.make_node("DequantizeLinear", [f"{x}.q", "scale", "zero"], [y]),
        ]

    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), *rounded("t", "in"), lstm(net, x="in")]
    nodes += [*rounded("Y", "Y_r"), *squeezed(0, "Y_r", "middle"), lstm(net, 1, "middle")]
    nodes += [
        *squeezed(1, "Y_1", "s"),
        *rounded("s", "s_r"),
        helper.make_node("Transpose", ["s_r"], ["out"], perm=[1, 0, 2]),
    ]
    tensors = [*tensors_of(stacked(net)), *tensors_of(stacked(net, 1), "_1")]
    extra = tensors_of({"scale": np.array(0.1, "f4"), "zero": np.array(0, np.int8), "one": np.array([1])})
    path = saved(model(nodes, [*tensors, *extra], outputs=("out",)))
    with pytest.warns(UserWarning, match="rounds inputs or outputs to 8 bits") as warned:
        assert holds(path, net)
    assert len(warned) == 1


def gates_ifgo_of(array):
    i, o, f, g = np.split(array, 4)
    return np.concatenate([i, f, g, o])


# ---------------------------------------------------------------- ONNX Runtime's tests of the operator


OPERATOR = json.loads((FOLDER / "onnx_runtime.json").read_text())


def operator_tests():
    """Those of another cell than torch.nn.LSTM's are slow: each kind compiles a kernel."""
    for case in OPERATOR["tests"]:
        is_plain = case.get("clip", 50) >= 50 and "P" not in case.get("uses", "") and "input_forget" not in case
        is_plain &= case.get("activations", ["sigmoid"])[0] == "sigmoid"
        yield pytest.param(case, id=case["name"], marks=[] if is_plain else [pytest.mark.slow])


@pytest.mark.parametrize("outputs", [("Y", "Y_h", "Y_c"), ("", "Y_h", "Y_c")], ids=["with Y", "without Y"])
@pytest.mark.parametrize("case", list(operator_tests()))
def test_the_operator_as_onnx_runtime_tests_it(case, outputs, saved):
    """Its own numbers and expectations, of five digits and more; Y is zero behind a row's length."""
    own, direction = OPERATOR["models"][case["model"]], case.get("direction", "forward")
    directions, units, width, batch = 1 + (direction == "bidirectional"), own["units"], own["features"], case["batch"]
    shapes = {"W": (4 * units, width), "R": (4 * units, units), "B": (8 * units,), "P": (3 * units,)}
    arrays = {
        name: np.broadcast_to(
            np.reshape(own[name], shapes[name] if np.ndim(own[name]) else ()), (directions, *shapes[name])
        )
        for name in ("W", "R", *case.get("uses", ""))
    }
    read = ("W", "R", *(name if name in case.get("uses", "") else "" for name in "B   P"))
    flags = {"hidden_size": units, "input_forget": case.get("input_forget", 0)}
    flags |= {"clip": float(case["clip"])} if "clip" in case else {}
    flags["activations"] = case.get("activations", ["sigmoid", "tanh", "tanh"] * directions)
    node = helper.make_node("LSTM", ["x", *read], outputs, direction=direction, **flags)
    held = {name: array.astype("f4") for name, array in arrays.items()}
    x = np.arange(1, 65) if case["X"] == "1 to 64" else case["X"]
    x = np.reshape(x, (2, batch, width)).astype("f4")
    path = saved(model([node], tensors_of(held), outputs=[name for name in outputs if name]))
    shape = (directions, batch, units)
    states = (np.reshape(case.get(name, 0), shape if name in case else ()) for name in ("h_0", "c_0"))
    hx = tuple(np.broadcast_to(state, shape).astype("f4") for state in states)
    net, lengths = numlstm.load(path), case.get("lengths")
    output, (h_n, c_n) = net(x, hx, lengths=lengths)
    made = {"Y": output.reshape(2, batch, directions, units).swapaxes(1, 2), "Y_h": h_n, "Y_c": c_n}
    for name in made.keys() & case.keys():
        want = np.broadcast_to(np.reshape(case[name], made[name].shape if case[name] else ()), made[name].shape)
        assert np.abs(made[name] - want).max() < 1e-4, name


# ---------------------------------------------------------------- stacks


def chain(net, between, **more):
    """One LSTM node a layer, and between them the nodes that `between` gives for (layer, from, to)."""
    nodes, tensors, x = [], [], "x"
    read = ("W", "R", "B") if net.bias else ("W", "R")
    for layer in range(net.num_layers):
        suffix = f"_{layer}" if layer else ""
        nodes.append(lstm(net, layer, x, read))
        tensors += tensors_of(stacked(net, layer), suffix)
        if layer < net.num_layers - 1:
            x = f"between_{layer}"
            nodes += between(layer, f"Y{suffix}", x)
    tensors += tensors_of({"one": np.array([1]), "joined": np.array([0, 0, -1]), "static": np.array([5, 4, 4])})
    last = f"Y_{net.num_layers - 1}"
    return model(nodes, tensors, outputs=[last, *more.get("outputs", ())])


def side_by_side(layer, y, x, shape="joined"):
    return [
        helper.make_node("Transpose", [y], [f"t_{layer}"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"t_{layer}", shape], [x]),
    ]


def squeezed(layer, y, x):
    return [helper.make_node("Squeeze", [y, "one"], [x])]


def split_and_joined(layer, y, x):
    return [
        helper.make_node("Split", [y], [f"f_{layer}", f"b_{layer}"], axis=1),
        helper.make_node("Squeeze", [f"f_{layer}", "one"], [f"fs_{layer}"]),
        helper.make_node("Squeeze", [f"b_{layer}", "one"], [f"bs_{layer}"]),
        helper.make_node("Concat", [f"fs_{layer}", f"bs_{layer}"], [x], axis=2),
    ]


STACKS = {
    "squeezed": ({"num_layers": 3}, squeezed),
    "transposed and reshaped": ({"num_layers": 3, "bidirectional": True}, side_by_side),
    "of static shape": ({"num_layers": 2, "bidirectional": True}, lambda *a: side_by_side(*a, shape="static")),
    "split and joined": ({"num_layers": 2, "bidirectional": True, "bias": False}, split_and_joined),
    "through Dropout": (
        {"num_layers": 2},
        lambda k, y, x: [*squeezed(k, y, "s"), helper.make_node("Dropout", ["s"], [x])],
    ),
    "there and back": (
        {"num_layers": 2},
        lambda k, y, x: [
            *squeezed(k, y, "s"),
            helper.make_node("Transpose", ["s"], ["t"], perm=[1, 0, 2]),
            helper.make_node("Transpose", ["t"], [x], perm=[1, 0, 2]),
        ],
    ),
}


@pytest.mark.parametrize("how", STACKS)
def test_layers_are_joined(how, saved):
    flags, between = STACKS[how]
    net = net_of(3, 2, **flags)
    assert holds(saved(chain(net, between)), net)


NOT_STACKS = {
    "Relu between": ({}, lambda k, y, x: [*squeezed(k, y, "s"), helper.make_node("Relu", ["s"], [x])]),
    "time and batch swapped": (
        {},
        lambda k, y, x: [*squeezed(k, y, "s"), helper.make_node("Transpose", ["s"], [x], perm=[1, 0, 2])],
    ),
    "steps reversed": (
        {},
        lambda k, y, x: [
            *squeezed(k, y, "s"),
            helper.make_node("Constant", [], ["back"], value_ints=[-1]),
            helper.make_node("Constant", [], ["end"], value_ints=[-100]),
            helper.make_node("Constant", [], ["axis"], value_ints=[0]),
            helper.make_node("Slice", ["s", "back", "end", "axis", "back"], [x]),
        ],
    ),
    "directions not side by side": (
        {"bidirectional": True},
        lambda k, y, x: [helper.make_node("Reshape", [y, "joined"], [x])],
    ),
    "directions exchanged": (
        {"bidirectional": True},
        lambda k, y, x: [
            *split_and_joined(k, y, "unused")[:-1],
            helper.make_node("Concat", [f"bs_{k}", f"fs_{k}"], [x], axis=2),
        ],
    ),
}


@pytest.mark.parametrize("how", NOT_STACKS)
def test_layers_with_something_else_between_stay_apart(how, saved):
    flags, between = NOT_STACKS[how]
    net = net_of(2, 2, num_layers=2, **flags)
    found = numlstm.list_lstms(saved(chain(net, between)))
    assert [(each.name, each.config.num_layers) for each in found] == [("cell", 1), ("cell_1", 1)]


def test_layers_stay_apart_where_an_output_between_is_used(saved):
    net = net_of(3, 2, num_layers=2)
    assert len(numlstm.list_lstms(saved(chain(net, squeezed)))) == 1
    for output in ("Y", "between_0"):
        assert len(numlstm.list_lstms(saved(chain(net, squeezed, outputs=[output])))) == 2
    assert (
        len(numlstm.list_lstms(saved(chain(net, squeezed, outputs=["Y_h", "Y_c", "Y_c_1"])))) == 1
    )  # h_n and c_n have these


def test_layers_stay_apart_where_one_starts_from_the_other(saved):
    net = net_of(3, 2, num_layers=2)
    for states, count in ((("h_0", "c_0"), 1), (("Y_h", "Y_c"), 2)):
        nodes = [
            lstm(net),
            *squeezed(0, "Y", "s"),
            lstm(net, 1, "s", more=("", *states)),
        ]
        tensors = [*tensors_of(stacked(net)), *tensors_of(stacked(net, 1), "_1"), *tensors_of({"one": np.array([1])})]
        path = saved(model(nodes, tensors, ["x", "h_0", "c_0"], ["Y_1"]))
        assert len(numlstm.list_lstms(path)) == count


def test_layers_of_other_sizes_or_directions_stay_apart(saved):
    for below, above, flags in (
        (net_of(3, 4), net_of(4, 2), {}),
        (net_of(3, 2), net_of(2, 2), {"direction": "reverse"}),
        (net_of(3, 2), net_of(2, 2, bidirectional=True), {}),
    ):
        second = lstm(above, 1, "s", **flags)
        second.input[1:] = ["W_1", "R_1", "B_1"]
        tensors = [*tensors_of(stacked(below)), *tensors_of(stacked(above), "_1"), *tensors_of({"one": np.array([1])})]
        assert (
            len(
                numlstm.list_lstms(
                    saved(model([lstm(below), *squeezed(0, "Y", "s"), second], tensors, outputs=["Y_1"]))
                )
            )
            == 2
        )


@pytest.mark.parametrize("swapped_in", [False, True])
@pytest.mark.parametrize("swapped_out", [False, True])
def test_batch_first_is_seen_where_both_ends_are_transposed(swapped_in, swapped_out, saved):
    net = net_of(3, 2)
    into = [helper.make_node("Transpose" if swapped_in else "Identity", ["x"], ["t"], perm=[1, 0, 2])]
    out = [helper.make_node("Transpose" if swapped_out else "Identity", ["s"], ["end"], perm=[1, 0, 2])]
    for node in (*into, *out):
        if node.op_type == "Identity":
            del node.attribute[:]
    tensors = [*tensors_of(stacked(net)), *tensors_of({"one": np.array([1])})]
    nodes = [*into, lstm(net, x="t"), *squeezed(0, "Y", "s"), *out]
    (found,) = numlstm.list_lstms(saved(model(nodes, tensors, outputs=["end"])))
    assert found.config.batch_first is (swapped_in and swapped_out)
    assert any("batch first" in note for note in found.notes) is (swapped_in and not swapped_out)


def test_layout_1_is_batch_first_and_joins(saved):
    net = net_of(3, 2, num_layers=2, bidirectional=True, batch_first=True)
    nodes = [
        lstm(net, layout=1),
        helper.make_node("Reshape", ["Y", "joined"], ["x_1"]),
        lstm(net, 1, "x_1", layout=1),
    ]
    tensors = [*tensors_of(stacked(net)), *tensors_of(stacked(net, 1), "_1")]
    assert holds(saved(model(nodes, [*tensors, *tensors_of({"joined": np.array([0, 0, -1])})], outputs=["Y_1"])), net)


# ---------------------------------------------------------------- what is refused, and what is said


def planted(saved, **attributes):
    net = net_of(3, 2)
    return saved(model([lstm(net, **attributes)], tensors_of(stacked(net))))


@pytest.mark.parametrize(
    "attributes, says",
    [
        ({"clip": -3.0}, "its clip is -3; it must be above 0"),
        ({"clip": float("nan")}, "its clip is nan; it must be above 0"),
        (
            {"activations": ["Gelu", "Tanh", "Tanh"]},
            "its activation 'Gelu' is none of ONNX's: Sigmoid, Tanh, Relu",
        ),
        ({"activations": ["Affine", "Tanh", "Tanh"]}, "its activation Affine has no activation_alpha, of which ONNX"),
        ({"activations": ["Sigmoid", "Tanh"]}, "its activations are Sigmoid, Tanh; it needs 3"),
        ({"activation_alpha": [0.5]}, r"its activation_alpha is \[0.5\]; Sigmoid, Tanh have none"),
        (
            {"activations": ["Sigmoid", "Elu", "Tanh"], "activation_alpha": [0.0, 0.5, 0.0]},
            r"its activation_alpha is \[0.0, 0.5, 0.0\]; Sigmoid, Elu, Tanh have 1",
        ),
        ({"activation_beta": [0.5]}, r"its activation_beta is \[0.5\]"),
        ({"layout": 2}, "its layout is 2; it must be 0 or 1"),
        ({"direction": "sideways"}, "its direction is 'sideways'; it must be one of forward, reverse, bidirectional"),
        (
            {"direction": "bidirectional"},
            r"its R has shape \(1, 8, 2\); it must be \(2, 4 \* hidden_size, hidden_size\)",
        ),
        ({"hidden_size": 5}, r"its hidden_size is 5, but its R has shape \(1, 8, 2\)"),
        ({"zoneout": 1}, "its attribute zoneout is not known"),
    ],
)
def test_what_is_refused_by_name(attributes, says, saved):
    path = planted(saved, **attributes)
    with pytest.raises(ValueError, match=f"cell cannot be loaded: {says}"):
        numlstm.load(path)
    (found,) = numlstm.list_lstms(path)
    assert found.config is None and found.problem


@pytest.mark.parametrize(
    "attributes",
    [
        {"clip": float("inf")},
        {"input_forget": 0},
        {"activations": ["sigmoid", "tanh", "TANH"]},
        {"activation_alpha": [0.0, 0.0, 0.0]},
        {"clip": 50.0},
        {"hidden_size": None},
        {"direction": None},
    ],
)
def test_what_says_nothing_new_is_taken(attributes, saved):
    assert holds(planted(saved, **attributes), net_of(3, 2))


@pytest.mark.parametrize(
    "name, array, says",
    [
        ("W", np.zeros((1, 12, 3), "f"), r"its W has shape \(1, 12, 3\); its R asks for \(1, 8, input_size\)"),
        ("W", np.zeros((8, 3), "f"), r"its W has shape \(8, 3\)"),
        ("W", np.zeros((1, 8, 0), "f"), r"its W has shape \(1, 8, 0\)"),
        ("R", np.zeros((1, 8, 3), "f"), r"its R has shape \(1, 8, 3\)"),
        ("R", np.zeros((1, 0, 0), "f"), r"its R has shape \(1, 0, 0\)"),
        ("B", np.zeros((1, 8), "f"), r"its B has shape \(1, 8\); its R asks for \(1, 16\)"),
        ("W", np.zeros((1, 8, 3), "i1"), "its W holds int8, not floating-point numbers"),
    ],
)
def test_parameters_that_do_not_fit(name, array, says, saved):
    net = net_of(3, 2)
    with pytest.raises(ValueError, match=says):
        numlstm.load(saved(model([lstm(net)], tensors_of(stacked(net) | {name: array}))))


def test_parameters_that_are_not_constant(saved):
    net = net_of(3, 2)
    arrays = stacked(net)
    del arrays["W"]
    with pytest.raises(ValueError, match="its W is not constant: 'W' is an input of its graph"):
        numlstm.load(saved(model([lstm(net)], tensors_of(arrays), inputs=["x", "W"])))
    made = helper.make_node("MatMul", ["x", "x"], ["W"], name="made")
    with pytest.raises(ValueError, match="its W is not constant: the MatMul node 'made' computes it"):
        numlstm.load(saved(model([made, lstm(net)], tensors_of(arrays))))


def test_an_old_opset_is_refused(saved):
    net = net_of(3, 2)
    with pytest.raises(ValueError, match="its opset is 6; LSTM nodes are read from 7 on"):
        numlstm.load(saved(model([lstm(net)], tensors_of(stacked(net)), opset=6)))


@pytest.mark.parametrize("scales", [(2,), (2, 8)])
def test_quantised_nodes(scales, saved):
    """DynamicQuantizeLSTM: weights with the gates last, scales of a direction or of each row."""
    ort = need("onnxruntime")
    net, rng = net_of(3, 2, bidirectional=True), np.random.default_rng(5)
    arrays, state = {"B": stacked(net)["B"]}, net.state_dict()
    for what, name, width in (("W", "weight_ih", 3), ("R", "weight_hh", 2)):
        integers = rng.integers(-128, 128, (2, width, 8), np.int8)
        scale = rng.uniform(0.002, 0.004, scales).astype("f4")
        zero = np.zeros(scales, np.int8)
        arrays |= {what: integers, f"{what}s": scale, f"{what}z": zero}
        whole = integers.astype("f4") * scale.reshape(2, 1, -1)
        for direction, suffix in enumerate(("_l0", "_l0_reverse")):
            state[f"{name}{suffix}"] = gates_ifgo_of(np.ascontiguousarray(whole[direction].T))
    net.load_state_dict(state)
    names = ["x", "W", "R", "B", "", "", "", "", "Ws", "Wz", "Rs", "Rz"]
    flags = {"hidden_size": 2, "direction": "bidirectional"}
    node = helper.make_node("DynamicQuantizeLSTM", names, ["Y"], domain="com.microsoft", **flags)
    path = saved(model([node], tensors_of(arrays), domains=["com.microsoft"], x=[None, None, 3]))
    with pytest.warns(UserWarning, match="its weights are quantised and become float32 again"):
        assert holds(path, net)
    x = rng.standard_normal((5, 4, 3)).astype("f4")
    (want,) = ort.InferenceSession(path).run(None, {"x": x})
    assert np.abs(net(x)[0] - want.swapaxes(1, 2).reshape(5, 4, 4)).max() < 5e-2
    for wrong, says in ((names[:3], "it has 3 inputs"), ([*names[:8], "B", *names[9:]], "cannot be dequantised")):
        node = helper.make_node("DynamicQuantizeLSTM", wrong, ["Y"], domain="com.microsoft", **flags)
        with pytest.raises(ValueError, match=says):
            numlstm.load(saved(model([node], tensors_of(arrays), domains=["com.microsoft"])))


def test_other_recurrent_nodes_are_named(saved):
    gru = helper.make_node("GRU", ["x", "W", "R"], ["Y"], name="memory", hidden_size=2)
    arrays = {"W": np.zeros((1, 6, 3), "f"), "R": np.zeros((1, 6, 2), "f")}
    with pytest.raises(ValueError, match="holds no LSTM: the GRU node 'memory' is a GRU, not an LSTM"):
        numlstm.load(saved(model([gru], tensors_of(arrays))))


def test_a_refused_node_is_not_found_again_by_the_names_of_its_weights(saved):
    net = net_of(3, 2)
    arrays = {f"rnn.{name}": value for name, value in net.state_dict().items()}
    named = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    found = numlstm.list_lstms(saved(model([helper.make_node("Identity", ["x"], ["Y"])], named)))
    assert [str(each) for each in found] == ["rnn: LSTM(3, 2), float32"]
    assert any("names of its tensors" in note for note in found[0].notes)
    nodes = [
        helper.make_node("Unsqueeze", ["rnn.weight_ih_l0", "zero"], ["W"]),
        helper.make_node("Unsqueeze", ["rnn.weight_hh_l0", "zero"], ["R"]),
        lstm(net, read=("W", "R"), clip=-1.0),
    ]
    found = numlstm.list_lstms(saved(model(nodes, [*named, *tensors_of({"zero": np.array([0])})])))
    assert [(each.name, bool(each.problem)) for each in found] == [("rnn", True)]


def test_states_and_lengths_of_the_models_own(saved):
    net = net_of(3, 2)
    arrays = stacked(net) | {"h_0": np.ones((1, 1, 2), "f"), "zero": np.zeros((1, 1, 2), "f")}
    arrays |= {"lengths": np.array([5, 3], np.int32), "whole": np.array([5, 5], np.int32)}

    def warned(*more, **shapes):
        path = saved(model([lstm(net, more=more)], tensors_of(arrays), inputs=["x", "ends", "c"], **shapes))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert holds(path, net)
        return "; ".join(str(each.message) for each in caught), numlstm.list_lstms(path)[0].notes

    said, _ = warned("", "h_0", "zero")
    assert "constant h_0 that is not zero, 'h_0': pass it, from numlstm.load_tensors" in said and "c_0" not in said
    assert warned("", "zero", "zero") == ("", ())
    shape = helper.make_node("ConstantOfShape", ["sizes"], ["h"], value=tensors_of({"": np.full(1, 0.5, "f")})[0])
    nodes = [shape, lstm(net, more=("", "h", "zero"))]
    path = saved(model(nodes, tensors_of(arrays | {"sizes": np.array([1, 1, 2])})))
    with pytest.warns(UserWarning, match="a constant h_0 that is not zero, 'h': pass it$"):
        assert holds(path, net)
    assert warned("", "zero", "c") == ("", ("the file's model passes c_0, from 'c'",))
    assert "the sequence_lens 'ends'; without lengths every row is as long as the input" in warned("ends")[0]
    assert "the sequence_lens 'lengths', [5, 3];" in warned("lengths", x=(5, 2, 3))[0]
    assert "the sequence_lens 'whole'" in warned("whole", x=("time", 2, 3))[0]
    assert warned("whole", x=(5, 2, 3)) == ("", ())


def test_peepholes_that_are_zero_say_nothing(saved):
    net = net_of(3, 2)
    arrays = stacked(net) | {"P": np.zeros((1, 6), "f")}
    assert holds(saved(model([lstm(net, more=("", "", "", "P"))], tensors_of(arrays))), net)


def test_one_lstm_in_two_places_is_found_once(saved):
    net, other = net_of(3, 2), numlstm.LSTM(3, 2, seed=4)
    tensors = [*tensors_of(stacked(net)), *tensors_of(stacked(other), "_1")]
    again, third = lstm(net, 2, read=("", "", "")), lstm(other, 1)
    again.input[1:] = ["W", "R", "B"]
    found = numlstm.list_lstms(saved(model([lstm(net), again, third], tensors, outputs=["Y", "Y_2", "Y_1"])))
    assert [each.name for each in found] == ["cell", "cell_1"]
    assert "the LSTM node 'cell_2' and its like have the same parameters" in found[0].notes
    again.input[0] = "turned"  # time turned around is another LSTM
    turn = helper.make_node("Slice", ["x", "last", "before", "axis", "last"], ["turned"])
    tensors += tensors_of({"last": np.array([-1]), "before": np.array([-(2**63)]), "axis": np.array([0])})
    path = saved(model([lstm(net), turn, again, third], tensors, outputs=["Y", "Y_2", "Y_1"]))
    assert [each.config.direction for each in numlstm.list_lstms(path)] == ["forward", "go_backwards", "forward"]


def test_names_are_unique(saved):
    nets = [numlstm.LSTM(3, 2, seed=seed) for seed in range(3)]
    nodes, tensors = [], []
    for k, net in enumerate(nets):
        node = lstm(net, k)
        node.name = "same"
        nodes.append(node)
        tensors += tensors_of(stacked(net), f"_{k}" if k else "")
    path = saved(model(nodes, tensors, outputs=["Y", "Y_1", "Y_2"]))
    assert [each.name for each in numlstm.list_lstms(path)] == ["same", "same_2", "same_3"]
    assert all(holds(path, net, name) for net, name in zip(nets, ("same", "same_2", "same_3"), strict=True))


def test_weights_through_functions_within_functions(saved):
    net = net_of(3, 2)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inner_node = lstm(net, x="a", read=("w", "R", "B"), outputs=("Y",), hidden_size=None)
    inner_node.input[:] = ["a", "w", "r", "b"]
    size = inner_node.attribute.add()
    size.name, size.ref_attr_name, size.type = "hidden_size", "size", onnx.AttributeProto.INT
    inner = helper.make_function("local", "Inner", ["a", "w", "r", "b"], ["Y"], [inner_node], imports, ["size"])
    call = helper.make_node("Inner", ["p", "q", "r", "s"], ["out"], domain="local", size=2)
    outer = helper.make_function("local", "Outer", ["p", "q", "r", "s"], ["out"], [call], imports)
    node = helper.make_node("Outer", ["x", "W", "R", "B"], ["Y"], domain="local")
    made = model([node], tensors_of(stacked(net)), functions=[inner, outer], domains=["local"])
    assert holds(saved(made), net)
    call.attribute[0].i = 7
    outer = helper.make_function("local", "Outer", ["p", "q", "r", "s"], ["out"], [call], imports)
    made = model([node], tensors_of(stacked(net)), functions=[inner, outer], domains=["local"])
    with pytest.raises(ValueError, match="its hidden_size is 7"):
        numlstm.load(saved(made))


# ---------------------------------------------------------------- external data


def outside(net, location, offset=0, length=None, name="W"):
    tensors = tensors_of(stacked(net))
    for tensor in tensors:
        if tensor.name == name:
            nbytes = len(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": location, "offset": offset, "length": length or nbytes}.items():
                tensor.external_data.add(key=key, value=str(value))
    return model([lstm(net)], tensors)


def test_external_data_is_read_from_where_it_is(saved, tmp_path):
    net = net_of(3, 2)
    numbers = stacked(net)["W"].tobytes()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "numbers.bin").write_bytes(b"?" * 10 + numbers + b"?")
    assert holds(saved(outside(net, "deep/numbers.bin", 10)), net)
    assert not holds(saved(outside(net, "deep/numbers.bin", 11)), net)


def test_external_data_stays_in_the_folder(saved, tmp_path):
    net, secret = net_of(3, 2), tmp_path / "secret"
    secret.write_bytes(bytes(4096))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "inner").symlink_to(tmp_path)
    (folder / "short").write_bytes(b"1234")
    os.mkfifo(folder / "pipe")
    for location, says in {
        "../secret": "no path below the model's folder",
        "inner/../../secret": "no path below the model's folder",
        str(secret): "no path below the model's folder",
        "..\\secret": "no path below the model's folder",
        "C:\\secret": "no path below the model's folder",
        "": "no path below the model's folder",
        "x\0y": "no path below the model's folder",
        "link": "a link out of the model's folder",
        "inner/secret": "a link out of the model's folder",
        "pipe": "no regular file",
        "missing": "cannot be read",
        "short": "and the file has 4",
        ".": "is a directory",
    }.items():
        with pytest.raises(ValueError, match=says):
            numlstm.load(saved(outside(net, location), "folder/model.onnx"))
    (folder / "link").unlink()
    (folder / "link").symlink_to(folder / "short")  # within the folder a link is a file
    with pytest.raises(ValueError, match="and the file has 4"):
        numlstm.load(saved(outside(net, "link"), "folder/model.onnx"))


@pytest.mark.parametrize(
    "offset, length",
    [(-1, None), (1 << 70, None), (0, 1 << 40), (0, 4), ("x", None), (64, None)]
    + [(odd, None) for odd in ("0_0", " 0", "0 ", "\u0660", "0x0", "0.0", "\uff10")]
    + [(0, odd) for odd in ("9_6", " 96", "\u0669\u0666")],
)
def test_external_ranges_are_held_against_the_file(offset, length, saved, tmp_path):
    net = net_of(3, 2)
    (tmp_path / "numbers").write_bytes(stacked(net)["W"].tobytes())
    assert holds(saved(outside(net, "numbers")), net)
    with pytest.raises(ValueError, match="its tensor 'W' has its numbers in 'numbers'"):
        numlstm.load(saved(outside(net, "numbers", offset, length)))


def test_external_ranges_may_be_shared_but_not_many_times(saved, tmp_path):
    """Or a small file would hold a thousand times itself, in what numlstm.load_tensors returns."""
    net = net_of(3, 2)
    (tmp_path / "numbers").write_bytes(stacked(net)["W"].tobytes())
    made = outside(net, "numbers")
    (tensor,) = (each for each in made.graph.initializer if each.name == "W")
    for count in range(1, 6):
        saved(made)
        if count <= 4:
            assert len(numlstm.load_tensors(tmp_path / "model.onnx")) == 2 + count
            made.graph.initializer.add().CopyFrom(tensor)
            made.graph.initializer[-1].name = f"again{count}"
    with pytest.raises(ValueError, match="they overlap, and 4 times is the limit"):
        numlstm.load_tensors(tmp_path / "model.onnx")


def test_a_stack_of_more_layers_than_anyone_trains_is_refused(saved, monkeypatch):
    monkeypatch.setattr(state_dict, "LAYERS", 25)
    (found,) = numlstm.list_lstms(saved(hostile.stacked(26)))
    assert found.problem == "it has 26 layers; 25 is the limit"
    (found,) = numlstm.list_lstms(saved(hostile.stacked(25)))
    assert found.config.num_layers == 25


# ---------------------------------------------------------------- a file is data


def with_graph(body):
    return b"\x08\x08\x3a" + hostile.varint(len(body)) + body


def bomb():
    """Doubled thirty times: a gigabyte from sixteen bytes."""
    nodes = [helper.make_node("Concat", [f"w{k}", f"w{k}"], [f"w{k + 1}"], axis=0) for k in range(30)]
    net = net_of(3, 2)
    return model([*nodes, lstm(net, read=("w30", "R", "B"))], tensors_of({"w0": np.zeros(4, "f")} | stacked(net)))


def filled(op, shape):
    net = net_of(3, 2)
    inputs = ["shape"] if op == "ConstantOfShape" else ["R", "shape"]
    node = helper.make_node(op, inputs, ["w"])
    return model([node, lstm(net, read=("w", "R", "B"))], tensors_of(stacked(net) | {"shape": np.array(shape)}))


def gathered():
    net = net_of(3, 2)
    node = helper.make_node("Gather", ["table", "index"], ["w"], axis=0)
    big = {"table": np.zeros((1, 30_000), "f"), "index": np.zeros(30_000, np.int64)}
    return model([node, lstm(net, read=("w", "R", "B"))], tensors_of(stacked(net) | big))


def circular():
    net = net_of(3, 2)
    nodes = [helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["b"], ["a"])]
    return model([*nodes, lstm(net, read=("a", "R", "B"))], tensors_of(stacked(net)))


def calling(times, depth):
    """A function that calls the next one several times, and so on."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    functions = []
    for k in range(depth):
        nodes = [helper.make_node(f"F{k + 1}", ["a"], [f"b{j}"], domain="local") for j in range(times)]
        functions.append(helper.make_function("local", f"F{k}", ["a"], ["b0"], nodes, imports))
    node = helper.make_node("F0", ["x"], ["Y"], domain="local")
    return model([node], functions=functions, domains=["local"])


def endless():
    imports = [helper.make_opsetid("local", 1)]
    node = helper.make_node("F", ["a"], ["b"], domain="local")
    function = helper.make_function("local", "F", ["a"], ["b"], [node], imports)
    return model([helper.make_node("F", ["x"], ["Y"], domain="local")], functions=[function], domains=["local"])


def claims(*dims, data=b"\0" * 16):
    net = net_of(3, 2)
    tensor = TensorProto(name="W", data_type=FLOAT, raw_data=data)
    tensor.dims.extend(dims)
    arrays = stacked(net)
    del arrays["W"]
    return model([lstm(net)], [tensor, *tensors_of(arrays)])


def listed(*dims, count=4):
    made = claims(*dims)
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].float_data.extend([0.0] * count)
    return made


def twice(what):
    net = net_of(3, 2)
    tensors = tensors_of(stacked(net))
    nodes = [lstm(net)]
    if what == "tensor":
        tensors.append(tensors[0])
    else:
        nodes.append(helper.make_node("Identity", ["x"], ["Y"]))
    return model(nodes, tensors)


def many_nodes_that_fold():
    """Each folds most of the file anew."""
    net = net_of(3, 2)
    zeros = tensors_of({"big": np.zeros(200_000, "f"), "axes": np.array([0])} | stacked(net))
    nodes = []
    for k in range(2_000):
        nodes.append(helper.make_node("Concat", ["big", "big"], [f"w{k}"], axis=0))
        nodes.append(helper.make_node("LSTM", ["x", f"w{k}", "R"], [f"Y{k}"], name=f"n{k}"))
    return model(nodes, zeros, outputs=["Y0"])


def long_row(length):
    net = net_of(3, 2)
    nodes = [helper.make_node("Identity", [f"w{k}"], [f"w{k + 1}"]) for k in range(length)]
    tensors = tensors_of(stacked(net) | {"w0": stacked(net)["W"]})
    return model([*nodes, lstm(net, read=(f"w{length}", "R", "B"))], tensors)


def ring(length=50):
    """LSTM nodes, each the input of the next."""
    net = net_of(2, 2)
    nodes = []
    for k in range(length):
        nodes.append(helper.make_node("Squeeze", [f"Y{(k - 1) % length}", "one"], [f"x{k}"]))
        nodes.append(helper.make_node("LSTM", [f"x{k}", "W", "R", "B"], [f"Y{k}"], name=f"n{k}"))
    return model(nodes, [*tensors_of(stacked(net)), *tensors_of({"one": np.array([1])})], outputs=[])


HOSTILE = {
    "five million empty nodes": (
        lambda: with_graph(b"\x0a\x00" * 5_000_000),
        "its messages would take more memory than 20 times its 10000007 bytes and 32 MB",
    ),
    "five million empty tensors": (
        lambda: with_graph(b"\x2a\x00" * 5_000_000),
        "its messages would take more memory than 20 times its 10000007 bytes and 32 MB",
    ),
    "deep nesting": (lambda: deep(3_000), "no ONNX model, or damaged"),
    "a hole in a sparse file": (
        lambda: b"\x08\x08\x12\x00" + bytes(60_000_000),
        "no ONNX model, or damaged: a field of number 0 before byte 5",
    ),
    "a hole within a graph": (lambda: with_graph(bytes(60_000_000)), "damaged: a field of number 0 before byte"),
    "a doubling bomb": (bomb, "its W cannot be computed: its constants take more than"),
    "a huge constant": (
        lambda: filled("ConstantOfShape", [1 << 20, 1 << 20]),
        "its W cannot be computed: its constants take",
    ),
    "a huge product": (
        lambda: filled("ConstantOfShape", [1 << 62] * 40),
        "its W cannot be computed: its constants take",
    ),
    "a huge expansion": (lambda: filled("Expand", [1 << 40, 8, 2]), "its W cannot be computed: its constants take"),
    "a negative shape": (lambda: filled("ConstantOfShape", [-5]), "its W cannot be computed: .* is no shape"),
    "a square of what it holds": (gathered, "its W cannot be computed: its constants take"),
    "a circle of values": (circular, "its graph has a cycle, which no model can run: an unnamed Identity node depends"),
    "a long row": (lambda: long_row(20_000), "more than 1000 operators compute it"),
    "functions that call many": (
        lambda: calling(10, 12),
        "its functions call each other so often that its nodes would take more memory",
    ),
    "functions without end": (endless, "nested more than 64 deep"),
    "huge dims": (lambda: claims(1 << 40, 1 << 40), "but holds 16"),
    "dims beyond 64 bits": (lambda: claims(*[1 << 62] * 8), "but holds 16"),
    "negative dims": (lambda: claims(-4, -1), r"has shape \(-4, -1\); no length can be negative"),
    "too little data": (lambda: claims(1, 8, 3), "has shape .1, 8, 3. of float32, 96 bytes, but holds 16"),
    "too few numbers": (lambda: listed(1, 8, 3), r"has shape \(1, 8, 3\), but 4 numbers in float_data"),
    "a tensor twice": (lambda: twice("tensor"), "two of its tensors are named 'W'"),
    "a value twice": (lambda: twice("value"), "two of its values are named 'Y'"),
    "an empty graph": (lambda: b"\x08\x08\x12\x00", "without a graph"),
    "folding without end": (many_nodes_that_fold, "cannot be computed|its W has shape"),
}


def deep(levels):
    body = b""
    for _ in range(levels):
        attribute = b"\x32" + hostile.varint(len(body)) + body
        node = b"\x2a" + hostile.varint(len(attribute)) + attribute
        body = b"\x0a" + hostile.varint(len(node)) + node
    return with_graph(body)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_bounded_time_and_memory(what, saved):
    make, says = HOSTILE[what]
    path = saved(make())
    numlstm.list_lstms(FOLDER / "keras_stack.onnx")  # everything is imported

    def refused():
        begin = time.process_time()
        with pytest.raises(ValueError, match=says):
            for found in numlstm.list_lstms(path)[:1]:
                numlstm.load(path, found.name)
        return time.process_time() - begin

    assert refused() < 20  # seconds of work: a limit against a hang, some twenty times what a busy machine takes
    tracemalloc.start()
    refused()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * path.stat().st_size + (16 << 20)


def test_a_file_that_was_read_is_let_go_at_once(saved):
    """Not when Python's collector comes by: what was parsed is in no circle."""
    path = saved(long_row(5_000))
    numlstm.list_lstms(path)
    gc.collect()
    gc.disable()
    try:
        numlstm.list_lstms(path)
        assert gc.collect() < 5_000  # a node each, where scope and nodes hold each other
    finally:
        gc.enable()


def test_a_ring_of_layers_is_no_stack(saved):
    with pytest.raises(ValueError, match=r"its graph has a cycle, which no model can run: an unnamed Squeeze node"):
        numlstm.list_lstms(saved(ring()))


def test_every_truncation_is_refused_or_whole(saved):
    data = (FOLDER / "torch_script_three.onnx").read_bytes()
    for end in [*range(0, len(data), 97), len(data) - 1]:
        with pytest.raises((ValueError, OSError)):
            numlstm.load(saved(data[:end]))


def test_memory_of_a_hostile_file_in_a_process_of_its_own(saved):
    code = (
        "import resource, sys, numlstm\n"
        "numlstm.list_lstms(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: numlstm.list_lstms(sys.argv[2])\n"
        "except ValueError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    path = saved(with_graph(b"\x0a\x00" * 5_000_000))
    done = subprocess.run(
        [sys.executable, "-c", code, FOLDER / "if.onnx", path], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 100_000, "kilobytes; parsed it would take 770,000"


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'onnx>="):
        numlstm.load(FOLDER / "if.onnx")
