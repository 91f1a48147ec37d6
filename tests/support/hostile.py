"""Files that are made to take more time or memory than their size justifies, of any size: ONNX, Keras, HDF5.

Each is a function of a number, to which the size of the file is about proportional, and gives the bytes of a file. What
it attacks stands in its docstring.
"""

import io
import json
import struct
import zipfile

import numpy as np

FLOAT, INT, STRING, GRAPH = 1, 2, 3, 5  # of AttributeProto


class Model:
    """An ONNX model, a few calls a node."""

    def __init__(self):
        import onnx

        self.proto = onnx.ModelProto(ir_version=8)
        self.proto.opset_import.add().version = 17
        self.proto.graph.name = "g"
        self.graph = self.proto.graph

    def node(self, op, inputs=(), outputs=(), name="", domain="", into=None, **attributes):
        node = (self.graph if into is None else into).node.add(op_type=op, name=name, domain=domain)
        node.input.extend(inputs)
        node.output.extend(outputs)
        for key, value in attributes.items():
            attribute = node.attribute.add(name=key)
            if isinstance(value, str):
                attribute.s, attribute.type = value.encode(), STRING
            elif isinstance(value, int):
                attribute.i, attribute.type = value, INT
            else:
                attribute.ints.extend(value)
                attribute.type = 7
        return node

    def tensor(self, name, array, into=None):
        from onnx import numpy_helper

        (self.graph if into is None else into).initializer.append(numpy_helper.from_array(np.asarray(array), name))

    def weights(self, w="W", r="R", hidden=1, features=1):
        self.tensor(w, np.ones((1, 4 * hidden, features), "f4"))
        self.tensor(r, np.ones((1, 4 * hidden, hidden), "f4"))

    def function(self, name, inputs=(), outputs=()):
        function = self.proto.functions.add(name=name, domain="d")
        function.input.extend(inputs)
        function.output.extend(outputs)
        return function

    def inner(self, op, into=None, name="", **more):
        attribute = self.node(op, into=into, name=name, **more).attribute.add(name="body", type=GRAPH)
        attribute.g.name = "g"
        return attribute.g

    def done(self):
        return self.proto.SerializeToString()


def empty_nodes(n):
    """Two bytes a node."""
    model = Model()
    model.tensor("z", np.zeros(0, "f4"))
    for _ in range(n):
        model.graph.node.add()
    return model.done()


def empty_tensors(n):
    """A few bytes a tensor."""
    model = Model()
    for k in range(n):
        model.graph.initializer.add(name=f"{k:x}", data_type=1, raw_data=b"").dims.append(0)
    return model.done()


def constants(n):
    """Nodes that are tensors."""
    model = Model()
    for k in range(n):
        attribute = model.node("Constant", (), [f"{k:x}"]).attribute.add(name="value_int", type=INT)
        attribute.i = 1
    return model.done()


def empty_graphs(n):
    """Subgraphs of nothing."""
    model = Model()
    attribute = model.node("If").attribute.add(name="x", type=10)
    for _ in range(n):
        attribute.graphs.add()
    return model.done()


def empty_functions(n):
    """Functions that nobody calls."""
    model = Model()
    model.tensor("z", np.zeros(0, "f4"))
    for k in range(n):
        model.function(f"{k:x}")
    return model.done()


def many_inputs(n):
    """One node that reads many values, each of its own name."""
    model = Model()
    model.node("Concat", [f"{k:x}" for k in range(n)], ["y"])
    return model.done()


def many_outputs(n):
    """One node that makes many values."""
    model = Model()
    model.node("Split", ["x"], [f"{k:x}" for k in range(n)])
    return model.done()


def many_states(n):
    """Names of inputs, outputs and types that nobody uses."""
    model = Model()
    model.tensor("z", np.zeros(0, "f4"))
    for k in range(n):
        model.graph.value_info.add(name=f"{k:x}")
        model.graph.input.add(name=f"i{k:x}")
    return model.done()


def one_name_in_many_graphs(n):
    """Names are made unique by counting."""
    model = Model()
    attribute = model.node("If").attribute.add(name="x", type=10)
    for _ in range(n):
        attribute.graphs.add().initializer.add(name="a", data_type=1, raw_data=b"").dims.append(0)
    return model.done()


def long_aliases(n):
    """A value behind as many calls as there are readers of it."""
    model = Model()
    function = model.function("F", ["x"], ["x"])
    assert function.name
    before = "i"
    for k in range(n):
        model.node("F", [before], [f"y{k}"], domain="d")
        before = f"y{k}"
    model.node("Q", [before] * n)
    return model.done()


def many_before_many(n):
    """A row of operators makes a weight that each of many LSTM nodes reads."""
    model = Model()
    model.weights("w0")
    for k in range(n):
        model.node("Identity", [f"w{k}"], [f"w{k + 1}"])
    for k in range(n):
        model.node("LSTM", ["x", f"w{n}", "R"], [f"Y{k}"], hidden_size=1)
    return model.done()


def wide_before_many(n):
    """An operator of many inputs makes a weight that each of many LSTM nodes reads."""
    model = Model()
    model.weights()
    model.node("Concat", ["W"] * n, ["w"], axis=0)
    for k in range(n):
        model.node("LSTM", ["x", "w", "R"], [f"Y{k}"], hidden_size=1)
    return model.done()


def wide_input_of_many(n):
    """The input of many LSTM nodes is made of what many of them put out."""
    model = Model()
    model.weights()
    for k in range(n):
        model.node("LSTM", ["x", "W", "R"], [f"Y{k}"], hidden_size=1)
    model.node("Concat", [f"Y{k}" for k in range(n)], ["z"], axis=0)
    for k in range(n):
        model.node("LSTM", ["z", "W", "R"], [f"Z{k}"], hidden_size=1)
    return model.done()


def many_readers(n):
    """Many LSTM nodes read what one puts out, and as many other nodes."""
    model = Model()
    model.weights()
    model.tensor("one", np.array([1]))
    model.node("LSTM", ["x", "W", "R"], ["Y"], hidden_size=1)
    model.node("Squeeze", ["Y", "one"], ["z"])
    for k in range(n):
        model.node("LSTM", ["z", "W", "R"], [f"Z{k}"], hidden_size=1)
        model.node("Relu", ["z"], [f"r{k}"])
    return model.done()


def many_behind(n):
    """What many LSTM nodes put out is moved by many operators."""
    model = Model()
    model.weights()
    for k in range(n):
        model.node("LSTM", ["x", "W", "R"], [f"Y{k}"], hidden_size=1)
        model.node("Squeeze", [f"Y{k}"], [f"s{k}"])
    for k in range(n):
        model.node("Transpose", [f"s{k % 7}"], [f"t{k}"], perm=[1, 0, 2])
    return model.done()


def stacked(n):
    """A stack of many layers."""
    model = Model()
    model.weights()
    model.tensor("one", np.array([1]))
    x = "x"
    for k in range(n):
        model.tensor(f"W{k}", np.ones((1, 4, 1), "f4"))
        model.node("LSTM", [x, f"W{k}", "R"], [f"Y{k}"], hidden_size=1)
        model.node("Squeeze", [f"Y{k}", "one"], [f"x{k}"])
        x = f"x{k}"
    return model.done()


def long_state(n):
    """The initial state of many LSTM nodes is zero, behind a row of operators."""
    model = Model()
    model.weights()
    model.tensor("h0", np.zeros((1, 1, 1), "f4"))
    for k in range(n):
        model.node("Identity", [f"h{k}"], [f"h{k + 1}"])
    for k in range(n):
        model.node("LSTM", ["x", "W", "R", "", "", f"h{n}", f"h{n}"], [f"Y{k}"], hidden_size=1)
    return model.done()


def doubled_state(n):
    """The initial state of each LSTM node is the one before, twice."""
    model = Model()
    model.weights()
    for k in range(n):
        model.node("LSTM", ["x", "W", "R", "", "", f"h{n}", f"h{n}"], [f"Y{k}"], hidden_size=1)
        model.node("Concat", [f"h{k}"] * 2, [f"h{k + 1}"], axis=0)
    return model.done()


def state_of_a_graph(n):
    """Layers that would stack start from what a node with many nodes inside makes."""
    model = Model()
    model.weights()
    model.tensor("one", np.array([1]))
    body = model.inner("If", name="c")
    for k in range(n):
        model.node("Relu", ["x"], [f"r{k}"], into=body)
    model.graph.node[0].output.append("h")
    model.node("LSTM", ["x", "W", "R"], ["Y0"], hidden_size=1)
    for k in range(n):
        model.node("Squeeze", [f"Y{k}", "one"], [f"x{k}"])
        model.node("LSTM", [f"x{k}", "W", "R", "", "", "h"], [f"Y{k + 1}"], hidden_size=1)
    return model.done()


def long_lengths(n):
    """Many LSTM nodes have the same long lengths, and inputs whose types are stated."""
    model = Model()
    model.weights()
    model.tensor("l", np.full(n, 5, "i4"))
    for k in range(n):
        info = model.graph.value_info.add(name=f"x{k}")
        for length in (5, n, 1):
            info.type.tensor_type.shape.dim.add(dim_value=length)
        model.node("Relu", ["x"], [f"x{k}"])
        model.node("LSTM", [f"x{k}", "W", "R", "", "l"], [f"Y{k}"], hidden_size=1)
    return model.done()


def shared_peepholes(n):
    """Many LSTM nodes have the same long peepholes of zero."""
    model = Model()
    model.weights()
    model.tensor("P", np.zeros((1, n), "f4"))
    for k in range(n):
        model.node("LSTM", ["x", "W", "R", "", "", "", "", "P"], [f"Y{k}"], hidden_size=1)
    return model.done()


def long_shared_name(n):
    """What many nodes share has a long name, which a short one stands for in a function."""
    model = Model()
    w, r = (f"{'n' * 20 * n}.{own}" for own in ("weight_ih_l0", "weight_hh_l0"))
    model.weights(w, r)
    function = model.function("F", ["x", "w", "r"], [f"Y{k}" for k in range(n)])
    function.opset_import.add().version = 17
    for k in range(n):
        model.node("LSTM", ["x", "w", "r"], [f"Y{k}"], into=function, direction=f"{k}")
        model.node("GRU", ["x", "w", "r"], [f"G{k}"], into=function)
    model.node("F", ["x", w, r], domain="d")
    return model.done()


def long_state_name(n):
    """A state of a long name, which a short one stands for in a function, is read by many nodes."""
    model = Model()
    model.weights()
    function = model.function("F", ["x", "w", "r", "h"], [f"Y{k}" for k in range(n)])
    function.opset_import.add().version = 17
    for k in range(n):
        model.node("LSTM", ["x", "w", "r", "", "", "h"], [f"Y{k}"], into=function, hidden_size=1)
        model.tensor(f"w{k}", np.full((1, 4, 1), k, "f4"))
    model.node("F", ["x", "W", "R", "h" * 20 * n], domain="d")
    return model.done()


def long_whereabouts(n):
    """Many nodes in graphs within each other, whose owners have long names."""
    model = Model()
    model.weights()
    into = model.graph
    for _ in range(20):
        into = model.inner("If", into=into, name="n" * n)
    for k in range(n):
        model.node("LSTM", ["x", "w", "R"], [f"Y{k}"], into=into, hidden_size=1)
    return model.done()


def attributes_of_calls(n):
    """A function with many defaults is called often."""
    model = Model()
    function = model.function("F", ["x"], ["x"])
    for k in range(n):
        function.attribute_proto.add(name=f"a{k}", i=1, type=INT)
    for k in range(n):
        model.node("F", ["i"], [f"y{k}"], domain="d", own=1)
    return model.done()


def inputs_of_calls(n):
    """A function with many formal inputs is called often."""
    model = Model()
    model.function("F", [f"x{k}" for k in range(n)], [f"x{k}" for k in range(n)])
    for k in range(n):
        model.node("F", ["i"], [f"y{k}"], domain="d")
    return model.done()


def nodes_of_calls(n):
    """A function of many nodes is called often."""
    model = Model()
    function = model.function("F", ["x"], ["y"])
    for k in range(n):
        model.node("Relu", ["x"], [f"y{k}"], into=function)
    for k in range(n):
        model.node("F", ["i"], [f"y{k}"], domain="d")
    return model.done()


def names_of_calls(n):
    """A function whose one node has many inputs is called often."""
    model = Model()
    function = model.function("F", ["x"], ["y"])
    model.node("Concat", [f"i{k}" for k in range(n)], ["y"], into=function)
    for k in range(n):
        model.node("F", ["i"], [f"y{k}"], domain="d")
    return model.done()


def many_axes(n):
    """The product of many long axes is a long number."""
    model = Model()
    for k in range(4):
        model.graph.initializer.add(name=f"a{k}", data_type=1, raw_data=b"").dims.extend([1 << 62] * n)
    return model.done()


def small_numbers(n):
    """Numbers of one byte that take eight."""
    return _listed(8 * n, 5, i=("int64_data", 7), u=("uint64_data", 13), s=("int32_data", 6))


def middling_numbers(n):
    """Numbers of two bytes that take eight, and thirty as objects of Python's."""
    return _listed(10 * n, 5_000, a=("int64_data", 7))


def listed_floats(n):
    """Floats in a field of their own, not as raw bytes."""
    return _listed(10 * n, 0.5, a=("float_data", 1))


def _listed(count, value, **fields):
    """Initializers by name: the field that holds so many numbers, and the data type."""
    model = Model()
    for name, (field, kind) in fields.items():
        tensor = model.graph.initializer.add(name=name, data_type=kind)
        tensor.dims.append(count)
        getattr(tensor, field).extend([value] * count)
    return model.done()


def squared_scales(n):
    """A column and a row of scales make a square."""
    model = Model()
    model.weights()
    model.tensor("column", np.ones((n, 1), "i1"))
    model.tensor("row", np.ones(n, "f4"))
    model.node("DequantizeLinear", ["column", "row"], ["w"], axis=1)
    model.node("LSTM", ["x", "w", "R"], ["Y"], hidden_size=1)
    return model.done()


def huge_blocks(n):
    """One scale for a block of a million million numbers."""
    model = Model()
    model.proto.opset_import[0].version = 21
    model.weights()
    model.tensor("q", np.ones((n, 1), "i1"))
    model.tensor("scale", np.ones((1, 1), "f4"))
    model.node("DequantizeLinear", ["q", "scale"], ["w"], axis=0, block_size=1 << 40)
    model.node("LSTM", ["x", "w", "R"], ["Y"], hidden_size=1)
    return model.done()


def huge_split(n):
    """A million million outputs, of which one has a name."""
    model = Model()
    model.proto.opset_import[0].version = 18
    model.weights()
    model.tensor("s", np.ones(n, "f4"))
    model.node("Split", ["s"], ["w"], axis=0, num_outputs=1 << 40)
    model.node("LSTM", ["x", "w", "R"], ["Y"], hidden_size=1)
    return model.done()


def cast_to_text(n):
    """Each number becomes a text."""
    model = Model()
    model.weights()
    model.tensor("s", np.ones(10 * n, "f4"))
    model.node("Cast", ["s"], ["w"], to=8)
    model.node("LSTM", ["x", "w", "R"], ["Y"], hidden_size=1)
    return model.done()


def large_probes(n):
    """Each LSTM node is followed by a Reshape that states two million numbers."""
    model = Model()
    model.weights()
    model.tensor("to", np.array([1 << 10, 1 << 10, 1]))
    model.tensor("pad", np.zeros(50 * n, "f4"))
    for k in range(n):
        model.node("LSTM", ["x", "W", "R"], [f"Y{k}"], name=f"{k}", hidden_size=1)
        model.tensor(f"W{k}", np.full((1, 4, 1), k, "f4"))
        model.node("Reshape", [f"Y{k}", "to"], [f"z{k}"])
    return model.done()


def many_shapes(n):
    """Each LSTM node is followed by many Reshapes, of a shape each."""
    model = Model()
    model.weights()
    for k in range(16):
        model.tensor(f"to{k}", np.array([k + 1, k + 2, -1]))
    for k in range(n):
        model.node("LSTM", ["x", "W", "R"], [f"Y{k}"], hidden_size=1)
        for j in range(16):
            model.node("Reshape", [f"Y{k}", f"to{j}"], [f"z{k}_{j}"])
    return model.done()


def json_of_objects(n):
    """The metadata of an LSTM that numlstm saved is a text of empty objects."""
    model = Model()
    model.weights()
    model.node("LSTM", ["x", "W", "R"], ["Y"], hidden_size=1)
    model.proto.metadata_props.add(key="numlstm.config", value="[" + ",".join(["{}"] * 10 * n) + "]")
    return model.done()


def fields_of_nothing(n):
    """Fields that no message has."""
    body = b"\xa8\x06\x00" * n
    return b"\x08\x08\x12\x01a" + body + b"\x3a\x09\x2a\x07\x10\x01\x42\x01z\x08\x00"


def nested_messages(n):
    """Messages within each other."""
    body = b""
    for _ in range(n // 4):
        length = len(body)
        size = b""
        while True:
            size += bytes([length & 127 | (128 if length > 127 else 0)])
            length >>= 7
            if not length:
                break
        body = b"\x0a" + size + body
        if len(body) > 20 * n:
            break
    return b"\x08\x08\x3a" + varint(len(body)) + body


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


# Keras


def h5(make):
    import h5py

    into = io.BytesIO()
    with h5py.File(into, "w") as file:
        make(file)
    return into.getvalue()


def keras(config, weights=None, pad=0, compressed=True):
    """A .keras file; `pad` bytes that do not compress make room for what does."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("model.weights.h5", h5(lambda file: None) if weights is None else weights)
        if pad:
            archive.writestr("pad", np.random.default_rng(0).bytes(pad), zipfile.ZIP_STORED)
    return into.getvalue()


def _junk(piece):
    return lambda n: keras('{"class_name":"X","config":{"a":[' + ",".join([piece] * 10 * n) + "]}}", pad=2 * n)


json_objects, json_lists, json_texts, json_pairs = map(_junk, ("{}", "[[[]]]", '"ab"', '{"":0}'))
json_objects.__doc__ = "JSON of empty objects, which compress."


def sequence(*entries):
    return {"class_name": "Sequential", "config": {"name": "m", "layers": list(entries)}}


def lstm(name, **config):
    return {"class_name": "LSTM", "config": {"name": name, "units": 1, "return_sequences": True, **config}}


def keras_layers(n):
    """Many layers that follow each other."""
    return keras(sequence(*(lstm(f"l{k}") for k in range(n))), compressed=False)


def keras_one_name(n):
    """Many layers of one name."""
    return keras(sequence(*(lstm("l") for _ in range(n))), compressed=False)


def keras_cells(n):
    """One layer of many cells, of which nothing is said."""
    cells = {"class_name": "StackedRNNCells", "config": {"cells": [{}] * n}}
    rnn = {"class_name": "RNN", "config": {"name": "r" * 400, "cell": cells}}
    lstm_first = {"class_name": "LSTMCell"}
    cells["config"]["cells"][0] = lstm_first
    return keras(sequence(rnn), compressed=False)


def keras_masks(n):
    """Many layers that mask what all others read."""
    entries = [{"class_name": "Masking", "config": {"name": f"m{k}"}} for k in range(n)]
    return keras(sequence(*entries, *(lstm(f"l{k}") for k in range(n))), compressed=False)


def keras_deep(n):
    """Many layers within models within each other, with long names."""
    inside = [lstm(f"{k}") for k in range(n)]
    for level in range(25):
        inside = [{"class_name": "Sequential", "config": {"name": f"{level}" * 16, "layers": inside}}]
    return keras(inside[0], compressed=False)


def functional(n, feeds):
    entries = [{"class_name": "InputLayer", "name": "x", "config": {"name": "x"}, "inbound_nodes": []}]
    for k in range(n):
        entries.append({**lstm(f"l{k}"), "inbound_nodes": [[[feed, 0, 0, {}] for feed in feeds(k)]]})
    return keras({"class_name": "Functional", "config": {"name": "m", "layers": entries}}, compressed=False)


def keras_chain(n):
    """A functional model of a long row."""
    return functional(n, lambda k: [f"l{k - 1}" if k else "x"])


def keras_star(n):
    """Many layers read one, with the same initial states."""
    return functional(n, lambda k: ["x" if k < 2 else "l0", "l1", "l1"][: 1 if k < 2 else 3])


def keras_calls(n):
    """One layer is called many times, on what it put out."""
    nodes = [[["l", k - 1, 0, {}] if k else ["x", 0, 0, {}]] for k in range(n)]
    entries = [
        {"class_name": "InputLayer", "name": "x", "config": {"name": "x"}, "inbound_nodes": []},
        {**lstm("l"), "inbound_nodes": nodes},
    ]
    return keras({"class_name": "Functional", "config": {"name": "m", "layers": entries}}, compressed=False)


def keras_grus(n):
    """Many layers of another kind, in a model of a long name."""
    grus = [
        {"class_name": "GRU", "config": {"name": f"g{k}", "units": 1, "recurrent_activation": "sigmoid"}}
        for k in range(n)
    ]
    return keras({"class_name": "Sequential", "config": {"name": "m", "layers": grus}}, compressed=False)


def keras_weights(n):
    """Many layers with weights that no configuration describes."""

    def make(file):
        for k in range(n // 8):
            group = file.create_group(f"layers/lstm_{k}/cell/vars")
            for number, shape in enumerate(((1, 4), (1, 4), (4,))):
                group[str(number)] = np.ones(shape, "f4")

    return h5(make)


def keras_packed_twice(n):
    """Packed numbers in a packed entry."""
    weights = h5(
        lambda f: [
            f.create_dataset(f"{k}", data=np.zeros(25 * n, "f4"), compression="gzip", chunks=(25 * n,))
            for k in range(40)
        ]
    )
    return keras(sequence(lstm("l")), weights, pad=n)


# HDF5


def h5_datasets(n):
    """Many small datasets in one group."""
    return h5(lambda file: [file.create_dataset(f"{k}", data=np.zeros((), "i1")) for k in range(n)])


def h5_groups(n):
    """Many groups."""
    return h5(lambda file: [file.create_group(f"{k}") for k in range(n // 4)])


def h5_links(n):
    """One dataset of no bytes by many names."""

    def make(file):
        file["a"] = np.zeros(0, "f4")
        for k in range(n):
            file[f"{k}"] = file["a"]

    return h5(make)


def h5_texts(n):
    """Attributes of many short texts."""
    return h5(lambda file: [file.attrs.create(f"{k}", np.full(10_000, b"ab")) for k in range(n // 40)])


def h5_varying_texts(n):
    """Attributes of texts that lie in a heap."""
    return h5(lambda file: [file.attrs.create(f"{k}", ["ab"] * 1_000) for k in range(n // 200)])


def h5_attributes(n):
    """Many attributes of one group of a long name."""

    def make(file):
        group = file.create_group("g" * 900)
        for k in range(n):
            group.attrs[f"{k}"] = "x"

    return h5(make)


def h5_chunks(n):
    """A dataset in chunks of one byte."""
    return h5(lambda file: file.create_dataset("a", data=np.zeros(n, "i1"), chunks=(1,)))


def h5_deep(n):
    """Long paths."""

    def make(file):
        for _ in range(3):
            file = file.create_group("g" * 300)
        for k in range(n):
            file.create_group(f"{k}")

    return h5(make)


def h5_tree(n):
    """A tree whose nodes lead to each other again and again."""
    data = bytearray(h5(lambda file: [file.create_group(f"{k}") for k in range(n // 4)]))
    at = bytes(data).index(b"TREE")
    trees = [k for k in range(at, len(data) - 4, 8) if data[k : k + 4] == b"TREE" and data[k + 4] == 0]
    for level, where in enumerate(trees[:40]):
        data[where + 5] = min(40, len(trees)) - 1 - level
        if level + 1 < len(trees[:40]):
            struct.pack_into("<H", data, where + 6, 2)
            for child in range(2):
                struct.pack_into("<Q", data, where + 32 + 16 * child, trees[level + 1])
    return bytes(data)


ONNX = (
    *(empty_nodes, empty_tensors, constants, empty_graphs, empty_functions, many_inputs, many_outputs, many_states),
    *(one_name_in_many_graphs, long_aliases, many_before_many, wide_before_many, wide_input_of_many, many_readers),
    *(many_behind, stacked, long_state, doubled_state, state_of_a_graph, long_lengths, shared_peepholes),
    *(long_shared_name, long_state_name, long_whereabouts, attributes_of_calls, inputs_of_calls, nodes_of_calls),
    *(names_of_calls, many_axes, small_numbers, middling_numbers, listed_floats, squared_scales, huge_blocks),
    *(huge_split, cast_to_text, large_probes, many_shapes, json_of_objects, fields_of_nothing, nested_messages),
)
JSON = {"json_objects": json_objects, "json_lists": json_lists, "json_texts": json_texts, "json_pairs": json_pairs}
KERAS = (
    *(keras_layers, keras_one_name, keras_cells, keras_masks, keras_deep, keras_chain, keras_star, keras_calls),
    *(keras_grus, keras_weights, keras_packed_twice),
)
HDF5 = (*(h5_datasets, h5_groups, h5_links, h5_texts, h5_varying_texts, h5_attributes, h5_chunks, h5_deep, h5_tree),)
FILES = {make.__name__: make for make in (*ONNX, *KERAS, *HDF5)} | JSON
