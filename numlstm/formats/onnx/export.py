"""Write an LSTM as an ONNX model: time and batch of any length, states as inputs and outputs, shapes as in PyTorch.

ONNX's LSTM operator has no projection, and onnxruntime runs it in float32 only. In other cases a layer is a Scan over
its steps, whose body holds the equations. Both keep every parameter as it is, to the bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from numlstm.base.cell_options import Activation
from numlstm.base.config import Config
from numlstm.base.requirements import install
from numlstm.base.typing import Array
from numlstm.formats import numlstm_config
from numlstm.formats.detected import Kind
from numlstm.formats.onnx.gates import gates_ifo, gates_iofc
from numlstm.formats.onnx.options import attributes_of
from numlstm.formats.onnx.tensors import LONGEST

OPSET = 14  # LSTM, Scan, Split, Squeeze and Reshape as used here; read by every release of the last years
IR_VERSION = 8
MANY = 32  # layers; a file with more is read again before it is written
TIME, BATCH = "time", "batch"


def dump(kind: Kind, config: Config, parameters: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file with an LSTM or a cell in eval mode.

    Parameters
    ----------
    kind : "LSTM" or "LSTMCell"
    config : Config
    parameters : mapping of str to ndarray
        A state dict; all of one dtype, float32 or float64.
    Returns
    -------
    bytes
        A model with inputs ``input``, ``h_0``, ``c_0`` and outputs ``output``, ``h_n``, ``c_n``; for a cell, outputs
        ``h_1``, ``c_1``.

    Raises
    ------
    ImportError
        onnx is not installed.
    ValueError
        There are more parameters than an ONNX file can hold, or more layers than can be read again.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise ImportError(f"an ONNX model is written with the package onnx: {install('onnx')}") from None
    arrays = {name: np.asarray(array) for name, array in parameters.items()}
    nbytes = sum(array.nbytes for array in arrays.values())
    if nbytes > LONGEST - (1 << 20):
        raise ValueError(f"its parameters are {nbytes} bytes; an ONNX file holds at most {LONGEST}: use .safetensors")
    writer = Writer(config, arrays)
    graph = writer.cell() if kind == "LSTMCell" else writer.lstm()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="numlstm")
    model.ir_version = IR_VERSION
    # the attributes of LSTM nodes are the options, in float32
    helper.set_model_props(model, numlstm_config.metadata(kind, config, options=not writer.own_operator))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    if config.num_layers > MANY:
        _check_readable(data, config)
    return data


def _check_readable(data: bytes, config: Config) -> None:
    """Raise ValueError if reading the file back would exceed its budget, as with thousands of tiny layers."""
    from numlstm.formats.onnx import reader

    try:
        reader.read(io.BytesIO(data), None, len(data))
    except ValueError as error:
        raise ValueError(
            f"its {config.num_layers} layers make an ONNX file that cannot be loaded again: use .safetensors\n{error}"
        ) from error


class Writer:
    """The nodes and tensors of one model."""

    def __init__(self, config: Config, parameters: Mapping[str, Array]) -> None:
        from onnx import helper

        self.config, self.parameters = config, parameters
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}
        dtype = next(iter(parameters.values())).dtype
        self.number = helper.np_dtype_to_tensor_dtype(dtype)
        self.own_operator = dtype == np.float32 and not config.proj_size
        self.direction = "forward" if config.direction == "forward" else "reverse"

    def node(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node."""
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", **attributes))

    def constant(self, name: str, array: Array) -> str:
        """Add a tensor, and return its name."""
        from onnx import numpy_helper

        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add a tensor of int64, and return its name."""
        return self.constant(name, np.array(values, np.int64))

    def number_of(self, name: str, value: float) -> str:
        """Add a number of the parameters' type, and return its name."""
        dtype = next(iter(self.parameters.values())).dtype
        return self.constant(name, np.array(value, dtype))

    def graph(self, inputs: Mapping[str, tuple[Any, ...]], outputs: Mapping[str, tuple[Any, ...]]) -> Any:
        """Make the graph, with inputs and outputs of these shapes."""
        from onnx import helper

        def infos(shapes: Mapping[str, tuple[Any, ...]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, self.number, shape) for name, shape in shapes.items()]

        return helper.make_graph(self.nodes, "numlstm", infos(inputs), infos(outputs), list(self.tensors.values()))

    def lstm(self) -> Any:
        """The graph of a stack of layers."""
        config, cells = self.config, self.config.num_layers * self.config.num_directions
        layers = range(config.num_layers)
        below = "input"
        if config.batch_first:
            self.node("Transpose", ["input"], ["steps"], perm=[1, 0, 2])
            below = "steps"
        for state in ("h_0", "c_0"):
            self._parts(state, [_of(state, config.num_layers, layer) for layer in layers])
        whole = "rows" if config.batch_first else "output"
        for layer in layers:
            states = [_of(state, config.num_layers, layer) for state in ("h_0", "c_0", "h_n", "c_n")]
            above = f"between_{layer}"
            if layer == config.num_layers - 1:  # at the steps that outputs belong to, as in ONNX
                above = "computed" if config.direction == "go_backwards" else whole
            (self._layer if self.own_operator else self._scans)(layer, below, above, states)
            below = above
        for state in ("h_n", "c_n"):
            if config.num_layers > 1:
                self.node("Concat", [_of(state, config.num_layers, layer) for layer in layers], [state], axis=0)
        if config.direction == "go_backwards":
            ends = [self.integers(name, value) for name, value in (("last", -1), ("start", -(1 << 62)), ("axis", 0))]
            self.node("Slice", ["computed", *ends, self.integers("step", -1)], [whole])
        if config.batch_first:
            self.node("Transpose", ["rows"], ["output"], perm=[1, 0, 2])
        ahead = (BATCH, TIME) if config.batch_first else (TIME, BATCH)
        hidden, cell = (cells, BATCH, config.output_size), (cells, BATCH, config.hidden_size)
        width = config.num_directions * config.output_size
        return self.graph(
            {"input": (*ahead, config.input_size), "h_0": hidden, "c_0": cell},
            {"output": (*ahead, width), "h_n": hidden, "c_n": cell},
        )

    def cell(self) -> Any:
        """The graph of one step, without a time axis."""
        config = self.config
        self.parameters = {f"{name}_l0": array for name, array in self.parameters.items()}
        if self.own_operator:
            first = self.integers("first", 0)
            for name in ("input", "h_0", "c_0"):
                self.node("Unsqueeze", [name, first], [f"{name}_row"])
            self._lstm_node(0, "input_row", ["h_0_row", "c_0_row"], ["", "h_1_row", "c_1_row"])
            for name in ("h_1", "c_1"):
                self.node("Squeeze", [f"{name}_row", first], [name])
        else:
            self._equations(self, "", "", "input", ["h_0", "c_0"], ["h_1", "c_1"])
        state = (BATCH, config.hidden_size)
        return self.graph(
            {"input": (BATCH, config.input_size), "h_0": state, "c_0": state}, {"h_1": state, "c_1": state}
        )

    def _parts(self, state: str, parts: list[str]) -> None:
        """Split a state by layers."""
        if len(parts) > 1:
            sizes = self.integers("cells", *[self.config.num_directions] * len(parts))
            self.node("Split", [state, sizes], parts, axis=0)

    # ------------------------------------------------------------ ONNX's own operator

    def _layer(self, layer: int, below: str, above: str, states: list[str]) -> None:
        """One LSTM node, and its output in the layout of the next layer."""
        made = f"Y_{layer}"
        self._lstm_node(layer, below, states[:2], [made, *states[2:]])
        if self.config.bidirectional:
            self.node("Transpose", [made], [f"apart_{layer}"], perm=[0, 2, 1, 3])
            self.node("Reshape", [f"apart_{layer}", self.integers("joined", 0, 0, -1)], [above])
        else:
            self.node("Squeeze", [made, self.integers("direction", 1)], [above])

    def _lstm_node(self, layer: int, below: str, states: list[str], outputs: list[str]) -> None:
        config = self.config

        def stacked(name: str, order: Callable[[Array], Array] = gates_iofc) -> Array:
            each = [self.parameters[f"{name}_l{layer}{suffix}"] for suffix in ("", "_reverse")[: config.num_directions]]
            return np.stack([order(parameter) for parameter in each])

        bias, peepholes = "", []
        if config.bias:
            both = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
            bias = self.constant(f"B_l{layer}", both)
        if config.cell_options.peepholes:
            peepholes = [self.constant(f"P_l{layer}", stacked("weight_ch", gates_ifo))]
        self.node(
            "LSTM",
            [
                below,
                self.constant(f"W_l{layer}", stacked("weight_ih")),
                self.constant(f"R_l{layer}", stacked("weight_hh")),
                bias,
                "",
                *states,
                *peepholes,
            ],
            outputs,
            hidden_size=config.hidden_size,
            direction="bidirectional" if config.bidirectional else self.direction,
            **attributes_of(config.cell_options, config.num_directions),
        )

    # ------------------------------------------------------------ the equations

    def _scans(self, layer: int, below: str, above: str, states: list[str]) -> None:
        """A Scan over the steps for each direction, and their outputs side by side."""
        directions = self.config.num_directions
        first = self.integers("first", 0)
        suffixes = [f"_l{layer}" + ("_reverse" if direction else "") for direction in range(directions)]
        apart = []
        for state in states[:2]:
            rows = [f"{state}{suffix}_row" for suffix in suffixes]
            if directions > 1:
                self.node("Split", [state, self.integers("directions", *[1] * directions)], rows, axis=0)
            else:
                rows = [state]
            apart.append(rows)
        for direction, suffix in enumerate(suffixes):
            for state, rows in zip(("h", "c"), apart, strict=True):
                self.node("Squeeze", [rows[direction], first], [f"{state}_start{suffix}"])
            self.node(
                "Scan",
                [f"h_start{suffix}", f"c_start{suffix}", below],
                [f"h_end{suffix}", f"c_end{suffix}", f"outputs{suffix}"],
                num_scan_inputs=1,
                scan_input_directions=[int(direction or self.direction == "reverse")],
                scan_output_directions=[int(direction or self.direction == "reverse")],
                body=self._body(layer, suffix),
            )
            for state in ("h", "c"):
                self.node("Unsqueeze", [f"{state}_end{suffix}", first], [f"{state}_end{suffix}_row"])
        for state, whole in zip(("h", "c"), states[2:], strict=True):
            self._beside([f"{state}_end{suffix}_row" for suffix in suffixes], whole, 0)
        self._beside([f"outputs{suffix}" for suffix in suffixes], above, 2)

    def _beside(self, parts: list[str], whole: str, axis: int) -> None:
        if len(parts) > 1:
            self.node("Concat", parts, [whole], axis=axis)
        else:
            self.node("Identity", parts, [whole])

    def _body(self, layer: int, suffix: str) -> Any:
        """One step of one cell; the parameters are in the outer graph."""
        from onnx import helper

        config = self.config
        body = Writer(config, self.parameters)
        h, c, out = f"h{suffix}", f"c{suffix}", f"h_out{suffix}"
        body._equations(self, suffix, suffix, f"x{suffix}", [h, c], [f"h_next{suffix}", f"c_next{suffix}"])
        body.node("Identity", [f"h_next{suffix}"], [out])
        hidden, cell = (BATCH, config.output_size), (BATCH, config.hidden_size)
        step = (BATCH, config.layer_input_size(layer))

        def infos(*pairs: tuple[str, tuple[Any, ...]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, self.number, shape) for name, shape in pairs]

        return helper.make_graph(
            body.nodes,
            f"step{suffix}",
            infos((h, hidden), (c, cell), (f"x{suffix}", step)),
            infos((f"h_next{suffix}", hidden), (f"c_next{suffix}", cell), (out, hidden)),
        )

    def _equations(self, holder: Writer, suffix: str, own: str, x: str, states: list[str], made: list[str]) -> None:
        """The gates and the next states; `holder` gets the parameters, by the names of the state dict."""
        stored = suffix or "_l0"

        def held(name: str) -> str:
            return holder.constant(f"{name}{suffix}", self.parameters[f"{name}{stored}"])

        bias = self.config.bias
        for read, name in ((x, "ih"), (states[0], "hh")):
            inputs = [read, held(f"weight_{name}"), *([held(f"bias_{name}")] if bias else [])]
            self.node("Gemm", inputs, [f"gates_{name}{own}"], transB=1)
        self.node("Add", [f"gates_ih{own}", f"gates_hh{own}"], [f"gates{own}"])
        gates = [f"gate_{gate}{own}" for gate in "ifgo"]
        sizes = holder.integers("gates_of", *[self.config.hidden_size] * 4)
        self.node("Split", [f"gates{own}", sizes], gates, axis=1)
        hidden, cell = made
        options, apart = self.config.cell_options, [f"{gate}_of_c{own}" for gate in "ifo"]
        if options.peepholes:
            parts = holder.integers("peepholes_of", *[self.config.hidden_size] * 3)
            self.node("Split", [held("weight_ch"), parts], apart, axis=0)

        def activated(gate: str, c: str) -> None:
            """The gate, which sees c."""
            function, sums = options.g if gate == "g" else options.f, f"gate_{gate}{own}"
            if options.peepholes and gate != "g":
                self.node("Mul", [f"{gate}_of_c{own}", c], [f"{sums}_seen"])
                self.node("Add", [sums, f"{sums}_seen"], [f"{sums}_whole"])
                sums += "_whole"
            if options.clip < np.inf:
                limits = [
                    holder.number_of(name, value) for name, value in (("least", -options.clip), ("most", options.clip))
                ]
                self.node("Clip", [sums, *limits], [f"{sums}_limited"])
                sums += "_limited"
            self._function(holder, function, sums, f"{gate}{own}")

        activated("i", states[1])
        if options.input_forget:
            self.node("Sub", [holder.number_of("one", 1), f"i{own}"], [f"f{own}"])
        else:
            activated("f", states[1])
        activated("g", states[1])
        self.node("Mul", [f"f{own}", states[1]], [f"kept{own}"])
        self.node("Mul", [f"i{own}", f"g{own}"], [f"new{own}"])
        self.node("Add", [f"kept{own}", f"new{own}"], [cell])
        activated("o", cell)
        self._function(holder, options.h, cell, f"tanh_c{own}")
        if self.config.proj_size:
            self.node("Mul", [f"o{own}", f"tanh_c{own}"], [f"whole{own}"])
            self.node("Gemm", [f"whole{own}", held("weight_hr")], [hidden], transB=1)
        else:
            self.node("Mul", [f"o{own}", f"tanh_c{own}"], [hidden])

    def _function(self, holder: Writer, function: Activation, read: str, made: str) -> None:
        """An activation by its ONNX name; those of LSTM nodes alone are written out."""
        name, *numbers = function
        if name == "Affine":
            alpha, beta = (holder.number_of(f"{made}_{n}", number) for n, number in enumerate(numbers))
            self.node("Mul", [alpha, read], [f"{made}_scaled"])
            self.node("Add", [f"{made}_scaled", beta], [made])
        elif name == "ScaledTanh":
            alpha, beta = (holder.number_of(f"{made}_{n}", number) for n, number in enumerate(numbers))
            self.node("Mul", [beta, read], [f"{made}_within"])
            self.node("Tanh", [f"{made}_within"], [f"{made}_tanh"])
            self.node("Mul", [alpha, f"{made}_tanh"], [made])
        else:
            self.node(name, [read], [made], **dict(zip(("alpha", "beta"), numbers, strict=False)))


def _of(state: str, layers: int, layer: int) -> str:
    return state if layers == 1 else f"{state}_{layer}"
