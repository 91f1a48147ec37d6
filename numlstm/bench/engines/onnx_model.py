"""An LSTM as an ONNX model of static shape: an LSTM node for each layer, all states as inputs and outputs.

For the baselines that read ONNX. The format: https://onnx.ai/onnx/operators/onnx__LSTM.html. The gates are in the order
i, o, f, c, not i, f, g, o as in PyTorch. A node returns (steps, directions, batch, hidden), and the next one needs
(steps, batch, directions * hidden). There is no projection. Few engines read the attribute `layout` for a batch that
comes first, so such a workload gets a Transpose at either end, as PyTorch's exporter does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.grid import Workload
from numlstm.formats.onnx.gates import gates_iofc

OPSET = 14  # has LSTM, Split and Reshape as used here; recent releases of all engines read it
IR_VERSION = 8


def onnx_model(workload: Workload, parameters: Mapping[str, Array]) -> bytes:
    """The model, serialised.

    Parameters
    ----------
    workload : Workload
        Sizes; proj_size must be 0.
    parameters : mapping of str to ndarray
        By the names of ``torch.nn.LSTM``, with biases.

    Returns
    -------
    bytes
        A model with inputs ``input``, ``h_0``, ``c_0`` and outputs ``output``, ``h_n``, ``c_n``, shaped as in PyTorch.
    """
    if workload.proj_size:
        raise ValueError(f"proj_size is {workload.proj_size}; ONNX's LSTM has no projection")
    import onnx
    from onnx import helper, numpy_helper

    nodes, constants = _graph(workload, parameters)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(workload.dtype))
    states = workload.num_layers * workload.directions, workload.batch_size, workload.hidden_size
    outer = workload.sequence_length, workload.batch_size
    if workload.batch_first:
        outer = outer[::-1]
    inputs = {"input": (*outer, workload.input_size), "h_0": states, "c_0": states}
    outputs = {"output": (*outer, workload.directions * workload.hidden_size), "h_n": states, "c_n": states}
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info(name, number, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, number, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _graph(workload: Workload, parameters: Mapping[str, Array]) -> tuple[list[Any], dict[str, Array]]:
    """The nodes from ``input`` to ``output``, and their constants."""
    from onnx.helper import make_node

    flat = workload.sequence_length, workload.batch_size, workload.directions * workload.hidden_size
    constants = {"flat": np.array(flat, np.int64)}
    nodes = []
    layers = range(workload.num_layers)

    def of_layer(name: str, layer: int) -> str:
        return name if workload.num_layers == 1 else f"{name}_{layer}"

    if workload.num_layers > 1:
        constants["cells"] = np.full(workload.num_layers, workload.directions, np.int64)
        for state in ("h_0", "c_0"):
            nodes.append(make_node("Split", [state, "cells"], [of_layer(state, k) for k in layers], axis=0))
    below = "input"
    if workload.batch_first:
        nodes.append(make_node("Transpose", ["input"], ["steps_first"], perm=[1, 0, 2]))
        below = "steps_first"
    for k in layers:
        constants |= _weights(workload, parameters, k)
        nodes.append(
            make_node(
                "LSTM",
                [below, f"W_{k}", f"R_{k}", f"B_{k}", "", of_layer("h_0", k), of_layer("c_0", k)],
                [f"Y_{k}", of_layer("h_n", k), of_layer("c_n", k)],
                hidden_size=workload.hidden_size,
                direction="bidirectional" if workload.directions == 2 else "forward",
            )
        )
        sequence = f"Y_{k}"
        if workload.directions == 2:  # with one direction the Reshape is enough
            nodes.append(make_node("Transpose", [sequence], [f"rows_{k}"], perm=[0, 2, 1, 3]))
            sequence = f"rows_{k}"
        below = "output" if k == workload.num_layers - 1 and not workload.batch_first else f"between_{k}"
        nodes.append(make_node("Reshape", [sequence, "flat"], [below]))
    if workload.batch_first:
        nodes.append(make_node("Transpose", [below], ["output"], perm=[1, 0, 2]))
    if workload.num_layers > 1:
        for state in ("h_n", "c_n"):
            nodes.append(make_node("Concat", [of_layer(state, k) for k in layers], [state], axis=0))
    return nodes, constants


def _weights(workload: Workload, parameters: Mapping[str, Array], layer: int) -> dict[str, Array]:
    """The constants W, R and B of a layer: both directions, gates in ONNX's order."""

    def stacked(name: str) -> Array:
        suffixes = ("", "_reverse")[: workload.directions]
        return np.stack([gates_iofc(parameters[f"{name}_l{layer}{suffix}"]) for suffix in suffixes])

    bias = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    return {f"W_{layer}": stacked("weight_ih"), f"R_{layer}": stacked("weight_hh"), f"B_{layer}": bias}
