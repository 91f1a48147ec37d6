"""DynamicQuantizeLSTM of ONNX Runtime: an LSTM whose weights are integers, which are turned into floats once.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats.budget import shown
from numlstm.formats.onnx.reader import QUANTISED

WEIGHTS = ((1, 8), (2, 10))  # the inputs W and R, and their scales; zero points follow these


def dequantise(graph: Any) -> None:
    """Replace such nodes by LSTM nodes with float weights, in place; ValueError if the weights are not constant."""
    from onnx import numpy_helper

    held = {each.name: each for each in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                dequantise(inner)
        if (node.domain, node.op_type) != QUANTISED:
            continue
        for at, scale_at in WEIGHTS:
            names = [node.input[at], node.input[scale_at], node.input[scale_at + 1]]
            if any(name not in held for name in names):
                raise ValueError(
                    f"its node {shown(node.name)!r} (DynamicQuantizeLSTM) has weights that are not constant"
                )
            made = numpy_helper.from_array(_floats(*(numpy_helper.to_array(held[name]) for name in names)))
            made.name = f"numlstm: {node.input[at]} of {node.output[0] or node.name}"
            graph.initializer.append(made)
            node.input[at] = made.name
        del node.input[8:]
        node.domain, node.op_type = "", "LSTM"
        warnings.warn(
            f"the weights of node {shown(node.name or node.output[0])!r} are quantised: they run as float32, so that "
            "results differ from ONNX Runtime's, which rounds the inputs too",
            stacklevel=5,
        )


def _floats(weight: Array, scale: Array, zero: Array) -> Array:
    """Weights of an LSTM node, (directions, 4 * hidden, features), of integers (directions, features, 4 * hidden).

    Scales and zero points are one a direction, or one for each row.
    """
    along = (*scale.shape[:1], 1, *(scale.shape[1:] or (1,))) if scale.ndim else ()
    values = (weight.astype(np.float32) - zero.astype(np.float32).reshape(along)) * scale.reshape(along)
    return np.ascontiguousarray(values.swapaxes(1, 2), np.float32)
