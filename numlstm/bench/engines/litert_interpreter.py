"""LiteRT (TensorFlow Lite): a model with its fused LSTM operator, written without TensorFlow.

The package has the classes of its file format (``schema_py_generated``), which flatbuffers packs. The operator,
UNIDIRECTIONAL_SEQUENCE_LSTM, is a layer over all steps. It keeps h and c in variable tensors, so that a call writes the
initial states to them and reads the last ones. Its gates are in PyTorch's order: i, f, g, o.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from numlstm.base.typing import Array, Shape
from numlstm.bench.engines.task import Setting, Task, check_supported, package_version

ABSENT = -1  # an optional tensor


def litert(task: Task) -> dict[str, Setting]:
    """LiteRT's interpreter: tensors copied by its methods, or by NumPy to and from their addresses."""
    package_version("ai-edge-litert")
    package_version("flatbuffers")
    check_supported(task.workload, "litert", batch_first=False, both_directions=False)
    from ai_edge_litert.interpreter import Interpreter

    model, states = litert_model(task)
    interpreter: Any = Interpreter(model_content=model, num_threads=task.threads)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    x, h_0, c_0 = task.inputs
    initial = [*zip(states[0], h_0, strict=True), *zip(states[1], c_0, strict=True)]

    def by_methods() -> tuple[Array, Array, Array]:
        interpreter.set_tensor(given["index"], x)
        for tensor, state in initial:
            interpreter.set_tensor(tensor, state)
        interpreter.invoke()
        h_n, c_n = (np.array([interpreter.get_tensor(tensor) for tensor in each]) for each in states)
        return interpreter.get_tensor(made["index"]), h_n, c_n

    source, result = _at_address(interpreter, given["index"]), _at_address(interpreter, made["index"])
    h, c = ([_at_address(interpreter, tensor) for tensor in each] for each in states)
    kept = np.empty_like(result), np.empty_like(h_0), np.empty_like(c_0)

    def by_address() -> tuple[Array, Array, Array]:
        source[...] = x
        for layer in range(len(h)):
            h[layer][...], c[layer][...] = h_0[layer], c_0[layer]
        interpreter.invoke()
        made = (np.empty_like(result), np.empty_like(h_0), np.empty_like(c_0)) if task.style == "fresh" else kept
        output, h_n, c_n = made
        output[...] = result
        for layer in range(len(h)):
            h_n[layer], c_n[layer] = h[layer], c[layer]
        return made

    if task.style == "reuse":
        return {"tensors by address": Setting(by_address)}
    return {"set_tensor and get_tensor": Setting(by_methods), "tensors by address": Setting(by_address)}


def _at_address(interpreter: Any, tensor: int) -> Array:
    """A view of a tensor that does not keep the interpreter from running, as a view of its own does."""
    view = interpreter.tensor(tensor)()
    numbers = (ctypes.c_float * view.size).from_address(view.ctypes.data)
    return np.frombuffer(numbers, np.float32).reshape(view.shape)


def litert_model(task: Task) -> tuple[bytes, tuple[list[int], list[int]]]:
    """The model, and the tensors of h and of c by layer."""
    import flatbuffers

    workload, writer = task.workload, _Writer()
    rows = workload.sequence_length, workload.batch_size
    below = writer.tensor((*rows, workload.input_size))
    writer.graph.inputs = [below]
    hidden, cells = [], []
    for layer in range(workload.num_layers):
        state = workload.batch_size, workload.hidden_size
        hidden.append(writer.tensor(state, variable=True))
        cells.append(writer.tensor(state, variable=True))
        w_ih, w_hh, bias = (
            [writer.constant(gate) for gate in np.split(parameter, 4)]
            for parameter in (
                task.parameters[f"weight_ih_l{layer}"],
                task.parameters[f"weight_hh_l{layer}"],
                task.bias(f"_l{layer}"),
            )
        )
        no_peepholes, no_projection, no_normalization = 3 * [ABSENT], 2 * [ABSENT], 4 * [ABSENT]
        parameters = [*w_ih, *w_hh, *no_peepholes, *bias, *no_projection]
        output = writer.tensor((*rows, workload.hidden_size))
        writer.lstm([below, *parameters, hidden[-1], cells[-1], *no_normalization], output)
        below = output
    writer.graph.outputs = [below]
    builder = flatbuffers.Builder()
    builder.Finish(writer.model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), (hidden, cells)


class _Writer:
    """Adds tensors and operators to a model."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.graph = self.schema.SubGraphT(name="main", tensors=[], operators=[])
        code = self.schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
        operator = self.schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code)
        empty = self.schema.BufferT()  # the format wants the first one to be empty
        self.model = self.schema.ModelT(version=3, operatorCodes=[operator], subgraphs=[self.graph], buffers=[empty])

    def tensor(self, shape: Shape, data: Any = None, variable: bool = False) -> int:
        """Add a float32 tensor; return its number."""
        self.model.buffers.append(self.schema.BufferT(data=data))
        number = len(self.graph.tensors)
        self.graph.tensors.append(
            self.schema.TensorT(
                name=f"tensor_{number}",
                shape=[*shape],
                type=self.schema.TensorType.FLOAT32,
                buffer=len(self.model.buffers) - 1,
                isVariable=variable,
            )
        )
        return number

    def constant(self, array: Array) -> int:
        """Add a tensor with these numbers."""
        return self.tensor(array.shape, np.frombuffer(array.astype("<f4").tobytes(), np.uint8))

    def lstm(self, inputs: list[int], output: int) -> None:
        """Add a layer, steps first."""
        options = self.schema.UnidirectionalSequenceLSTMOptionsT(
            fusedActivationFunction=self.schema.ActivationFunctionType.TANH, timeMajor=True
        )
        kind = self.schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
        self.graph.operators.append(
            self.schema.OperatorT(
                opcodeIndex=0, inputs=inputs, outputs=[output], builtinOptionsType=kind, builtinOptions=options
            )
        )
