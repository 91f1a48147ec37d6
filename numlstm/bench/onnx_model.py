"""An LSTM as an ONNX model of static shape: one LSTM node a layer, all states as inputs and outputs.

For the peers that read ONNX. The format: https://onnx.ai/onnx/operators/onnx__LSTM.html. ONNX orders the gates
i, o, f, c where PyTorch has i, f, g, o; its LSTM gives (steps, directions, batch, hidden) where the next layer needs
(steps, batch, directions * hidden); it has no projection. Its `layout` for batches that come first is read by few, so
a line that has them gets a Transpose at either end, as PyTorch's exporter writes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.grid import Line
from numlstm.formats.onnx.gates import gates_iofc

OPSET = 14  # LSTM, Split and Reshape as used here; read by every release of the last years
IR_VERSION = 8


def onnx_model(line: Line, parameters: Mapping[str, Array]) -> bytes:
    """The model, serialised.

    Parameters
    ----------
    line : Line
        Sizes; proj_size must be 0.
    parameters : mapping of str to ndarray
        By the names of ``torch.nn.LSTM``, with biases.

    Returns
    -------
    bytes
        A model with inputs ``input``, ``h_0``, ``c_0`` and outputs ``output``, ``h_n``, ``c_n``, shaped as in PyTorch.
    """
    if line.proj_size:
        raise ValueError(f"proj_size is {line.proj_size}; ONNX's LSTM has no projection")
    import onnx
    from onnx import helper, numpy_helper

    suffixes = ("", "_reverse")[: line.directions]
    layers = range(line.num_layers)
    flat = line.sequence_length, line.batch_size, line.directions * line.hidden_size
    constants = {"flat": np.array(flat, np.int64)}
    nodes = []

    def stacked(name: str, layer: int) -> Array:
        return np.stack([gates_iofc(parameters[f"{name}_l{layer}{suffix}"]) for suffix in suffixes])

    def of_layer(name: str, layer: int) -> str:
        return name if line.num_layers == 1 else f"{name}_{layer}"

    if line.num_layers > 1:
        constants["cells"] = np.full(line.num_layers, line.directions, np.int64)
        for state in ("h_0", "c_0"):
            nodes.append(helper.make_node("Split", [state, "cells"], [of_layer(state, k) for k in layers], axis=0))
    below = "input"
    if line.batch_first:
        nodes.append(helper.make_node("Transpose", ["input"], ["steps_first"], perm=[1, 0, 2]))
        below = "steps_first"
    for k in layers:
        constants[f"W_{k}"] = stacked("weight_ih", k)
        constants[f"R_{k}"] = stacked("weight_hh", k)
        constants[f"B_{k}"] = np.concatenate([stacked("bias_ih", k), stacked("bias_hh", k)], axis=1)
        nodes.append(
            helper.make_node(
                "LSTM",
                [below, f"W_{k}", f"R_{k}", f"B_{k}", "", of_layer("h_0", k), of_layer("c_0", k)],
                [f"Y_{k}", of_layer("h_n", k), of_layer("c_n", k)],
                hidden_size=line.hidden_size,
                direction="bidirectional" if line.directions == 2 else "forward",
            )
        )
        sequence = f"Y_{k}"
        if line.directions == 2:  # with one direction the Reshape alone does it
            nodes.append(helper.make_node("Transpose", [sequence], [f"rows_{k}"], perm=[0, 2, 1, 3]))
            sequence = f"rows_{k}"
        below = "output" if k == line.num_layers - 1 and not line.batch_first else f"between_{k}"
        nodes.append(helper.make_node("Reshape", [sequence, "flat"], [below]))
    if line.batch_first:
        nodes.append(helper.make_node("Transpose", [below], ["output"], perm=[1, 0, 2]))
    if line.num_layers > 1:
        for state in ("h_n", "c_n"):
            nodes.append(helper.make_node("Concat", [of_layer(state, k) for k in layers], [state], axis=0))

    number = helper.np_dtype_to_tensor_dtype(np.dtype(line.dtype))
    states = line.num_layers * line.directions, line.batch_size, line.hidden_size
    outer = flat[1::-1] if line.batch_first else flat[:2]
    read = {"input": (*outer, line.input_size), "h_0": states, "c_0": states}
    made = {"output": (*outer, flat[2]), "h_n": states, "c_n": states}
    graph = helper.make_graph(
        nodes,
        "lstm",
        [helper.make_tensor_value_info(name, number, shape) for name, shape in read.items()],
        [helper.make_tensor_value_info(name, number, shape) for name, shape in made.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
