"""Reading takes time in proportion to a file, and memory of at most 20 times its size and 32 MB, for any content.

tests/support/hostile.py makes the files. Work is counted, not timed; memory is measured in a child.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import hostile
import numpy as np
import pytest
from needs import leave_out, need
from work import assert_linear

import numlstm
from numlstm.bench.costs.memory import sees_pages
from numlstm.formats.budget import ALWAYS, TIMES, Budget
from numlstm.formats.keras import hdf5
from numlstm.formats.keras import layers as keras_config
from numlstm.formats.onnx import graph as onnx_graph
from numlstm.formats.onnx import reader as onnx

CHILD = Path(__file__).parents[1] / "support" / "hostile_child.py"
FIXTURES = Path(__file__).parents[1] / "fixtures"
FIRST = 100  # the smallest of three sizes that are compared
FIRST_OF = {"names_of_calls": 400, "h5_varying_texts": 1_600, "h5_texts": 400}
LARGE = {  # sizes for memory, near to what is refused, and beyond
    **dict.fromkeys(hostile.FILES, (1_500, 6_000)),
    **dict.fromkeys(("empty_nodes", "many_inputs", "many_outputs", "many_states"), (30_000, 200_000)),
    **dict.fromkeys(("empty_tensors", "constants", "empty_graphs", "empty_functions"), (10_000, 100_000)),
    **dict.fromkeys(("small_numbers", "middling_numbers", "listed_floats"), (100_000, 400_000)),
    **dict.fromkeys(("fields_of_nothing", "json_of_objects", "nested_messages"), (100_000, 400_000)),
    **dict.fromkeys(hostile.JSON, (10_000, 100_000)),
    "keras_packed_twice": (1_500, 30_000),
    "cast_to_text": (20_000, 100_000),
    "h5_texts": (1_500, 4_000),
}
CHEAP = {
    *("empty_nodes", "one_name_in_many_graphs", "long_aliases", "many_before_many", "many_readers", "nodes_of_calls"),
    *("long_shared_name", "huge_blocks", "huge_split", "squared_scales", "json_of_objects"),
    *("json_objects", "keras_chain", "keras_masks", "keras_packed_twice", "h5_datasets", "h5_texts", "h5_tree"),
}  # the others are many more of the same kinds
LIGHT = {
    *("empty_nodes", "long_shared_name", "nodes_of_calls", "huge_blocks", "huge_split", "json_of_objects"),
    *("json_objects", "keras_packed_twice", "h5_texts"),
}  # as many as a quick run can measure
NAMES = [pytest.param(name, marks=[] if name in CHEAP else [pytest.mark.slow]) for name in hostile.FILES]


@pytest.fixture(scope="module", autouse=True)
def packages():
    need("onnx")
    need("h5py")


def reads(name, folder):
    """Given a size, what reads the file of that size."""

    def of(size):
        path = folder / f"{size}"
        path.write_bytes(hostile.FILES[name](size))

        def read():
            try:
                numlstm.load_tensors(path)
                numlstm.list_lstms(path)
            except ValueError:
                pass

        return read

    of(10)()  # every module is imported
    return of


@pytest.mark.parametrize("name", NAMES)
def test_work_is_linear_in_the_file(name, tmp_path):
    assert_linear(reads(name, tmp_path), FIRST_OF.get(name, FIRST))


def counted(of_unique, name):
    """As Unique, from the beginning each time."""
    free, count = name, 1
    while free in of_unique.taken:
        count += 1
        free = f"{name}_{count}"
    of_unique.taken[free] = 1
    return free


def resolved_anew(graph, scope, name):
    """As Graph.resolve, which keeps where it arrived."""
    while True:
        within = scope
        while within is not None and not within.defines(name):
            within = within.outer
        if within is None or name not in within.aliases:
            return onnx_graph.Value(within or scope, name)
        scope, name = within.aliases[name]


def spread_to_all(of_graph, reached, name, maker):
    """A walk over all layers from each that masks."""
    for other in of_graph.entries:
        reached.setdefault(other, maker)


class Forgetful(dict):
    def __setitem__(self, key, value):
        self.clear()
        super().__setitem__(key, value)


def forgetting(init):
    def forgets(finder, *arguments):
        init(finder, *arguments)
        finder._folded = type("Never", (Forgetful,), {"__contains__": lambda self, key: False})()

    return forgets


def looking_back(header):
    met = []

    def header_after_all_others(*arguments):
        met.append(arguments)
        for _ in met:
            pass
        return header(*arguments)

    return header_after_all_others


PLANTED = {
    "one_name_in_many_graphs": (onnx.Unique, "__call__", counted),
    "long_aliases": (onnx_graph.Graph, "resolve", resolved_anew),
    "many_before_many": (onnx.Finder, "__init__", forgetting(onnx.Finder.__init__)),
    "keras_masks": (keras_config._Graph, "_spread", spread_to_all),
    "h5_datasets": (hdf5, "_header", looking_back(hdf5._header)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_measure_of_work_sees_what_is_not_linear(name, tmp_path, monkeypatch):
    monkeypatch.setattr(*PLANTED[name])
    monkeypatch.setattr(Budget, "step", lambda self, count=1: None)
    with pytest.raises(AssertionError, match="in proportion"):
        assert_linear(reads(name, tmp_path), 30 if name == "many_before_many" else FIRST)


def measured(names, folder, plant=""):
    """What a child says of each of these files, at both sizes."""
    if not sees_pages():
        leave_out("needs a system that tells the high-water mark of resident memory")
    paths = []
    for name in names:
        for size in LARGE[name]:
            paths.append(folder / f"{name}-{size}")
            paths[-1].write_bytes(hostile.FILES[name](size))
    paths.sort(key=lambda path: path.stat().st_size)  # what one leaves behind is small beside what the next may take
    done = subprocess.run(
        [sys.executable, CHILD, *paths],
        env={**os.environ, "NUMLSTM_PLANTED": plant},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} ended the child with {done.returncode}:\n{done.stderr[-3000:]}"
    return [json.loads(line) for line in lines if line.startswith("{")]


def beyond(told):
    """The files that took more than they may, and how much."""
    return {Path(each["file"]).name: each["peak"] for each in told if each["peak"] > TIMES * each["size"] + ALWAYS}


@pytest.mark.parametrize(
    "names",
    [sorted(LIGHT), pytest.param(sorted({*hostile.FILES} - LIGHT), marks=pytest.mark.slow)],
    ids=["light", "the others"],
)
def test_memory_is_at_most_twenty_times_the_file_and_32_megabytes(names, tmp_path):
    assert beyond(measured(names, tmp_path)) == {}


def test_the_measure_of_memory_sees_what_is_not_charged(tmp_path):
    names = ("empty_nodes", "json_objects", "keras_packed_twice")
    found = beyond(measured(names, tmp_path, plant="free"))
    assert {name.partition("-")[0] for name in found} == {*names}


# Cycles


def squeezed(reads):
    model = hostile.Model()
    model.weights()
    model.node("LSTM", ["x", "W", "R"], ["Y"], hidden_size=1)
    model.node("Squeeze", reads, ["s"])
    return model.done()


def own_input():
    model = hostile.Model()
    model.weights()
    model.node("LSTM", ["Y", "W", "R"], ["Y"], hidden_size=1)
    return model.done()


def through_a_graph():
    """A node in the body of an If reads what the If makes."""
    model = hostile.Model()
    model.weights()
    body = model.inner("If", outputs=["Y"])
    model.node("LSTM", ["Y", "W", "R"], ["inside"], into=body, hidden_size=1)
    body.output.add(name="inside")
    return model.done()


def through_two_graphs():
    """Two Ifs that read what is computed from each other."""
    model = hostile.Model()
    model.weights()
    for own, other in (("a", "b"), ("b", "a")):
        body = model.inner("If", outputs=[own])
        model.node("Relu", [other], [f"{own}1"], into=body)
        body.output.add(name=f"{own}1")
    return model.done()


def through_an_output():
    """A graph that puts out what its own node makes."""
    model = hostile.Model()
    model.weights()
    model.inner("If", outputs=["Y"]).output.add(name="Y")
    return model.done()


def through_a_function(op="Relu"):
    model = hostile.Model()
    model.weights()
    function = model.function("F", ["x"], ["y"])
    model.node(op, ["x"], ["y"], into=function)
    model.node("F", ["a"], ["b"], domain="d")
    model.node("F", ["b"], ["a"], domain="d")
    return model.done()


def of_aliases():
    """A function that gives back what it is given, which is what it gave back."""
    model = hostile.Model()
    model.weights()
    model.function("F", ["x"], ["x"])
    model.node("F", ["a"], ["b"], domain="d")
    model.node("F", ["b"], ["a"], domain="d")
    model.node("Relu", ["a"], ["y"])
    return model.done()


def long_cycle():
    model = hostile.Model()
    model.weights()
    for k in range(3_000):
        model.node("Relu", [f"y{k}"], [f"y{(k + 1) % 3_000}"], name=f"n{k}")
    model.node("LSTM", ["y7", "W", "R"], ["Y"], hidden_size=1)
    return model.done()


CYCLES = {
    "itself": lambda: squeezed(["Y", "s"]),
    "itself twice": lambda: squeezed(["Y", "s", "s"]),
    "own input": own_input,
    "through a graph": through_a_graph,
    "through two graphs": through_two_graphs,
    "through an output": through_an_output,
    "through a function": through_a_function,
    "of aliases": of_aliases,
    "long": long_cycle,
}


@pytest.mark.parametrize("name", CYCLES)
def test_a_graph_with_a_cycle_is_refused(name, tmp_path):
    path = tmp_path / "cycle.onnx"
    path.write_bytes(CYCLES[name]())
    for read in (numlstm.load, numlstm.list_lstms, numlstm.load_tensors):
        with pytest.raises(ValueError, match=r"its graph has a cycle, which no model can run: |is defined by itself"):
            read(path)


def test_what_is_read_twice_at_each_of_forty_steps_is_no_cycle(tmp_path):
    """A walk that forgets where it was would take a million million steps."""
    model = hostile.Model()
    model.weights()
    model.node("LSTM", ["x", "W", "R"], ["s0"], hidden_size=1)
    for k in range(40):
        model.node("Squeeze", [f"s{k}", f"s{k}"], [f"s{k + 1}"])
    path = tmp_path / "twice.onnx"
    path.write_bytes(model.done())
    assert str(numlstm.load(path)) == "LSTM(1, 1, bias=False)"


# What real models have is far from the limits


def test_a_large_model_without_weights_is_read(tmp_path):
    """Ten thousand nodes with names as exporters give them; the weights are a file of another size."""
    model = hostile.Model()
    model.weights()
    before = "/encoder/layers/attention/input"
    for k in range(10_000):
        name = f"/encoder/layers.{k}/attention/Add"
        model.node("Add", [before, f"encoder.layers.{k}.attention.weight"], [f"{name}_output_0"], name=name)
        before = f"{name}_output_0"
    model.node("LSTM", [before, "W", "R"], ["Y"], hidden_size=1)
    path = tmp_path / "large.onnx"
    path.write_bytes(model.done())
    assert [str(found) for found in numlstm.list_lstms(path)] == ["(no name): LSTM(1, 1, bias=False), float32"]


def test_a_large_configuration_is_read():
    """A thousand layers of what Keras writes for each, in a file without a weight."""
    archive = zipfile.ZipFile(FIXTURES / "keras/keras3_stack.keras")
    parts = keras_config._parts(json.loads(archive.read("config.json")))
    one = next(part for part in parts if part.get("class_name") == "LSTM")
    many = [{**one, "config": {**one["config"], "name": f"l{k}"}} for k in range(1_000)]
    text = json.dumps({"class_name": "Functional", "config": {"name": "m", "layers": many}})
    assert len(keras_config.parsed(text).layers) == 1_000


@pytest.mark.slow
def test_a_large_file_of_weights_is_read(tmp_path):
    import h5py

    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        for k in range(20_000):
            file[f"layers/dense_{k}/vars/0"] = np.zeros(3, "f4")
    assert len(numlstm.load_tensors(path)) == 20_000
