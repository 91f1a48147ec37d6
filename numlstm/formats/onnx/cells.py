"""Parameters of cells that a graph computes step by step, by the names that exporters keep: ``encoder.weight_ih``.

torch's exporters store equal tensors once: the second cell reads one with the first cell's name, directly or through
Identity. The newer exporter drops a bias of zeros. So a bias is what the graph adds to the product with the weight,
whatever its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from numlstm.formats.onnx.graph import MAIN, Graph, Node, Value
from numlstm.formats.state_dict import NAME, SEPARATORS
from numlstm.formats.tensor import FLOATS, Tensor

OTHER = {"ih": "hh", "hh": "ih"}


def completed(
    named: Mapping[str, Tensor], graph: Graph, tensors: Mapping[Value, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, with those that have the name of a parameter as the graph reads them.

    Parameters
    ----------
    named : mapping of str to Tensor
        The tensors of the file.
    graph : Graph
    tensors : mapping of Value to Tensor
        The initializers and Constant nodes.

    Returns
    -------
    (parameters, unclear)
        The second has, by the name of the LSTM, a weight whose bias, if any, the graph does not show.
    """
    values = {value.name: value for value in tensors if NAME.fullmatch(value.name)}
    found = dict(named)
    for node in graph.nodes:
        output = graph.output_of(node, 0) if node.op == "Identity" and node.domain in MAIN else None
        if output is not None and NAME.fullmatch(output.name) and output.name not in values:
            values[output.name] = output
            tensor = _constant(output, graph, tensors)
            if tensor is not None:
                found[output.name] = tensor
    unclear: dict[str, str] = {}
    zero: dict[str, str] = {}
    for name in [name for name in found if name in values]:
        match = NAME.fullmatch(name)
        own = match["own"] if match else ""
        if not own.startswith(("weight_ih", "weight_hh")):
            continue
        is_clear, bias = _bias(values[name], graph, tensors)
        bias_name = name.removesuffix(own) + own.replace("weight", "bias")
        if bias is not None:
            found[bias_name] = bias
        elif is_clear:
            found.pop(bias_name, None)
            zero[bias_name] = name.removesuffix(own) + f"bias_{OTHER[own[7:9]]}{own[9:]}"
        else:
            unclear.setdefault(name.removesuffix(own).rstrip(SEPARATORS), name)
    for name, other in zero.items():
        if other in found and found[other].dtype in FLOATS:  # torch.nn has both biases or none
            shape, dtype = found[other].shape, found[other].dtype
            found[name] = Tensor(shape, dtype, partial(np.zeros, shape, "float32" if dtype == "bfloat16" else dtype))
    return found, unclear


def _constant(value: Value | None, graph: Graph, tensors: Mapping[Value, Tensor]) -> Tensor | None:
    """The tensor of the file that a value is, by way of Identity."""
    while value is not None and value not in tensors:
        node = graph.maker(value)
        graph.budget.step()
        value = graph.input_of(node, 0) if node is not None and node.op == "Identity" else None
    return None if value is None else tensors[value]


def _bias(weight: Value, graph: Graph, tensors: Mapping[Value, Tensor]) -> tuple[bool, Tensor | None]:
    """Whether the graph shows what is added to the product with a weight, and the tensor that is added."""
    biases: dict[int, Tensor | None] = {}
    for use in graph.readers(weight):
        node = use.node
        if node is None or use.place != 1 or node.op not in ("Gemm", "MatMul") or node.domain not in MAIN:
            return False, None
        given = graph.input_of(node, 2)
        bias = _constant(given, graph, tensors)
        if given is None:
            is_clear, bias = _added(node, graph, tensors)
            if not is_clear:
                return False, None
        elif bias is None:
            return False, None
        biases[id(bias)] = bias
    return (True, biases.popitem()[1]) if len(biases) == 1 else (False, None)


def _added(product: Node, graph: Graph, tensors: Mapping[Value, Tensor]) -> tuple[bool, Tensor | None]:
    """As `_bias`, for a product without a bias of its own: a constant may be added next, but none after that."""
    output = graph.output_of(product, 0)
    for level in range(2):
        uses = [] if output is None else list(graph.readers(output))
        if len(uses) != 1 or uses[0].node is None or uses[0].node.op != "Add":
            return True, None
        node = uses[0].node
        bias = _constant(graph.input_of(node, 1 - uses[0].place), graph, tensors)
        if bias is not None:
            return level == 0, bias if level == 0 else None
        output = graph.output_of(node, 0)
    return False, None
