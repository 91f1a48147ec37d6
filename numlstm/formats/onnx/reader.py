"""``.onnx``: the LSTM nodes of a model, in any graph of it; stacks of nodes become one LSTM.

The operator: https://onnx.ai/onnx/operators/onnx__LSTM.html. What its cell has beyond that of `torch.nn.LSTM` becomes
`CellOptions`. Things that the graph does around the node (reversed time,
lengths, constant states) are in a warning. Parameters that the graph computes from constants are computed here as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import sha256
from math import prod
from typing import Any, BinaryIO

import numpy as np

from numlstm.base.config import Config
from numlstm.base.requirements import install
from numlstm.base.typing import Array, Path
from numlstm.base.wording import counted
from numlstm.formats import numlstm_config, state_dict
from numlstm.formats.budget import Budget, shown
from numlstm.formats.detected import Contents, Found, Kind
from numlstm.formats.onnx.cells import completed
from numlstm.formats.onnx.chain import Layer, Turned, batch_first, chains, turned
from numlstm.formats.onnx.fold import Constants, NotConstant
from numlstm.formats.onnx.gates import gates_ifgo, gates_ifo
from numlstm.formats.onnx.graph import Graph, Node, Scope, Value
from numlstm.formats.onnx.options import cell_options
from numlstm.formats.onnx.tensors import CONSTANT, LONGEST, Beside, charge_messages, tensor_of
from numlstm.formats.tensor import FLOATS, Quantised, Tensor, widest

IR_VERSION = 0x08  # tag of ModelProto's first field
NEXT = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"  # tags of those that may follow
OLDEST = 7  # opset; older ones have another LSTM
ATTRIBUTES = frozenset(
    (
        *("activations", "activation_alpha", "activation_beta", "clip"),
        *("direction", "hidden_size", "input_forget", "layout"),
    )
)
DIRECTIONS = ("forward", "reverse", "bidirectional")
QUANTISED = ("com.microsoft", "DynamicQuantizeLSTM")  # domain and operator
OTHERS = {"GRU": "a GRU", "RNN": "a plain RNN"}
CELL = {"Sigmoid": "Sigmoid", "Tanh": "Tanh", "MatMul": "product", "Gemm": "product"}  # what a cell is written out in
WRITTEN_OUT = (
    "a step at a time; numlstm reads LSTM nodes. tf2onnx writes such a graph for a layer behind Masking, or with "
    "activations of its own: load the Keras file itself, or convert the model without Masking",
    "step after step; numlstm reads LSTM nodes. Load the file that it was exported from, or export the model with its "
    "LSTM as a layer (Keras: unroll=False; PyTorch: nn.LSTM, not nn.LSTMCell in a loop)",
)  # in a Loop or Scan; in any other graph
LENGTHS = 8  # in a message
ALIKE = 4  # nodes in a note
FOUND, NAMED = 4_000, 300  # bytes of memory for the description of an LSTM node, and of another one
OWN = re.compile(r"(^|/)LSTM(_\d+)?$")  # TorchScript's exporter calls a node /path/LSTM_1
SCOPES = "pkg.torch.onnx.name_scopes"  # a node's metadata by torch's newer exporter: a list that ends in its own name


def looks_like(start: bytes) -> bool:
    """Whether a file that begins with these bytes may be one: the IR version, then another field of a model."""
    return len(start) > 2 and start[0] == IR_VERSION and 0 < start[1] < 128 and start[2] in NEXT


def read(file: BinaryIO, path: Path | None, size: int) -> Contents:
    """Every tensor, and the LSTMs. See `numlstm.formats`."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise ImportError(f"{path or 'the file'} is an ONNX model; reading it takes: {install('onnx')}") from None
    if size > LONGEST:
        raise ValueError(f"it has {size} bytes; {LONGEST} is the limit of an ONNX file without external data")
    data = file.read()
    budget = Budget(size)
    charge_messages(data, onnx.ModelProto.DESCRIPTOR, budget)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"it is no ONNX model, or damaged: {error}") from None
    del data
    if not model.graph.node and not model.graph.initializer:
        raise ValueError("it is an ONNX model without a graph, or no ONNX model")
    return _contents(model, budget, path)


def of_node(node: Any, inputs: Mapping[str, Array], opset: int) -> Found:
    """The LSTM of one node, whose weights are these arrays by the names of its inputs."""
    import onnx

    weights = [onnx.numpy_helper.from_array(array, name) for name, array in inputs.items()]
    x = onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "node", [x], [], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return _contents(model, Budget(model.ByteSize()), None).lstms[0]


def _contents(model: Any, budget: Budget, path: Path | None) -> Contents:
    graph = Graph(model, budget)
    beside = Beside(path, budget)
    unique = Unique()
    tensors: dict[Value, Tensor] = {}
    named: dict[str, Tensor] = {}
    seen = set()
    for value, proto, tensor in _tensors(graph, beside):
        tensors[value] = tensor
        if id(proto) not in seen:  # a function that is called twice has its constants once
            seen.add(id(proto))
            named[unique(value.name)] = tensor
    constants = Constants(graph, tensors)
    finder = Finder(graph, constants)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    lstms, others = finder.found(metadata)
    parameters, unclear = completed(named, graph, tensors)
    by_name, other_names = state_dict.find(
        {name: tensor for name, tensor in parameters.items() if not _belongs(name, finder.leaves)}, place="initializers"
    )
    if numlstm_config.KEY not in metadata:
        by_name = tuple(_by_name(found, unclear) for found in by_name)
    unique = Unique()
    all_of_them = []
    for found in (*lstms, *by_name):
        name = found.name or ("LSTM" if len(lstms) + len(by_name) > 1 else "")
        all_of_them.append(found._replace(name=unique(shown(name))))
    contents = numlstm_config.contents("ONNX", named, metadata, tuple(all_of_them), (*others, *other_names))
    return contents._replace(model=(model, path))


def _tensors(graph: Graph, beside: Beside) -> Any:
    """(value, message, tensor) for every tensor of the file."""
    for scope in graph.scopes:
        for name, proto in scope.initializers.items():
            tensor = tensor_of(proto, name, beside)
            if tensor is not None:
                yield Value(scope, name), proto, tensor
    for node in graph.nodes:
        if node.op == "Constant" and not node.domain and node.outputs:
            graph.budget.hold(CONSTANT, "its constants")
            tensor = _constant(node, beside)
            if tensor is not None:
                yield Value(node.scope, node.outputs[0]), node.proto, tensor


def _constant(node: Node, beside: Beside) -> Tensor | None:
    """The tensor of a Constant node; None for text and sparse tensors."""
    attributes = node.attributes()
    for name, kind in (("value_float", "f"), ("value_floats", "floats"), ("value_int", "i"), ("value_ints", "ints")):
        if name in attributes:
            return Tensor.of(np.array(getattr(attributes[name], kind), np.float32 if "float" in name else np.int64))
    return tensor_of(attributes["value"].t, node.outputs[0], beside) if "value" in attributes else None


class Unique:
    """Makes names unique by numbers."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}  # with the last number tried for each

    def __call__(self, name: str) -> str:
        """Return the name, with a number if it was taken."""
        free, count = name, self.taken.get(name, 1)
        while free in self.taken:
            count += 1
            free = f"{name}_{count}"
        self.taken[name] = count
        self.taken.setdefault(free, 1)
        return free


def _by_name(found: Found, unclear: Mapping[str, str]) -> Found:
    """An LSTM that is known by the names of its tensors alone, with what that leaves open."""
    found = found._replace(notes=(*found.notes, "found by the names of its tensors alone: no LSTM node uses them"))
    if found.config is not None and not found.config.bias and found.name in unclear:
        warning = f"it has no bias by name, and the graph does not show whether one is added to {unclear[found.name]}"
        found = found._replace(warning="; ".join(filter(None, (found.warning, warning))))
    return found


def _belongs(name: str, leaves: set[str]) -> bool:
    """Whether a tensor of this name is a parameter of a node that was found."""
    match = state_dict.NAME.fullmatch(name)
    return match is not None and match["prefix"] in leaves


class Refused(ValueError):
    """Why an LSTM node cannot be loaded."""


class Finder:
    """Finds the LSTMs of a graph.

    Attributes
    ----------
    leaves : set of str
        Prefixes, as in a state dict, of the tensors that recurrent nodes read.
    """

    def __init__(self, graph: Graph, constants: Constants) -> None:
        self.graph, self.constants, self.budget = graph, constants, graph.budget
        self.leaves: set[str] = set()
        self._prefixes: dict[Value, str | None] = {}
        self._folded: dict[Value, tuple[Tensor, Any] | str] = {}
        self._zeros: dict[Any, bool] = {}

    def found(self, metadata: Mapping[str, str]) -> tuple[list[Found], list[str]]:
        """Return every LSTM, and a sentence for each other recurrent node."""
        layers: list[Layer] = []
        problems: dict[Node, Found] = {}
        others = []
        order: dict[Node, int] = {}
        for node in self.graph.nodes:
            is_ours = not node.domain
            if is_ours and node.op in OTHERS:
                self._prefix(node)
                others.append(f"{node} is {OTHERS[node.op]}, not an LSTM")
                self.budget.hold(NAMED, "the descriptions of its recurrent nodes")
            if not node.op.endswith("LSTM"):
                continue
            order[node] = len(order)
            if len(order) > state_dict.MOST:
                raise ValueError(f"it has more than {state_dict.MOST} LSTM nodes, the limit of a file")
            self.budget.hold(FOUND, "the descriptions of its LSTM nodes")
            prefix = self._prefix(node)
            try:
                if not is_ours and (node.domain, node.op) != QUANTISED:
                    raise Refused(f"it is a {shown(node.op)} of {shown(node.domain)}")
                if is_ours and node.op != "LSTM":
                    continue
                layers.append(self._layer(node, prefix))
            except Refused as refused:
                problems[node] = Found(self._name(node, prefix), "LSTM", None, "", _where(node), problem=str(refused))
        if not order:
            others += self._written_out()
        found = {order[node]: each for node, each in problems.items()}
        alike: dict[Any, list[Node]] = {}  # the same LSTM in the other branch of an If
        stacks: dict[Any, tuple[list[Layer], Turned]] = {}
        for stack in chains(layers, self.graph, self.constants):
            time = turned(stack, self.graph, self.constants)
            key = (_direction(stack[0], time)[0], *(layer.key for layer in stack))
            alike.setdefault(key, []).append(stack[0].node)
            stacks.setdefault(key, (stack, time))
        for key, (stack, time) in stacks.items():
            found[order[stack[0].node]] = self._stack(stack, time, alike[key][1:])
        lstms = [each for _, each in sorted(found.items())]
        if numlstm_config.KEY in metadata and len(lstms) == 1 and not lstms[0].problem:
            lstms = [_as_saved(lstms[0], metadata[numlstm_config.KEY])]
        return lstms, others

    def _written_out(self) -> list[str]:
        """Sentences on graphs with the operators of a cell, as for a Keras layer behind Masking, or unrolled."""
        counts: dict[Scope, Counter[str]] = {}
        for node in self.graph.nodes:
            if node.op in CELL and not node.domain:
                counts.setdefault(node.scope, Counter())[CELL[node.op]] += 1
        said = []
        for scope, found in counts.items():
            if found["product"] and found["Sigmoid"] >= 3 and found["Tanh"] >= 2:
                owner = self.graph.owners.get(scope)
                some = f"{found['Sigmoid']} Sigmoid and {found['Tanh']} Tanh nodes after matrix products"
                said.append(
                    f"{owner or 'its graph'} has {some}, which may be an LSTM written out, {WRITTEN_OUT[owner is None]}"
                )
        return said[:ALIKE]

    def _prefix(self, node: Node) -> str | None:
        """The prefix of a node's parameters, as in `Layer`; each value is visited once for all nodes."""
        read = [self.graph.input_of(node, index) for index in range(1, len(node.inputs)) if index not in (4, 5, 6)]
        starts = [value for value in read if value is not None]
        for value in self.graph.sources_first(starts, self._before):
            if value not in self._prefixes:
                self._prefixes[value] = self._prefix_of(value)
        named = (
            read[:2] if node.op.endswith("LSTM") else starts
        )  # a bias may be shared, and have the name of another cell
        return _one_of(self._prefixes[value] for value in named if value is not None)

    def _before(self, value: Value) -> Iterable[Value]:
        node = None if value in self._prefixes or value in self.constants.tensors else self.graph.maker(value)
        return () if node is None else self.graph.inputs_of(node)

    def _prefix_of(self, value: Value) -> str | None:
        if value in self.constants.tensors:
            match = state_dict.NAME.fullmatch(value.name)
            if match is None:
                return None
            self.leaves.add(match["prefix"])
            return match["prefix"].rstrip(state_dict.SEPARATORS)
        node = self.graph.maker(value)
        return None if node is None else _one_of(self._prefixes[each] for each in self.graph.inputs_of(node))

    def _layer(self, node: Node, prefix: str | None) -> Layer:
        """The layer of one LSTM node; raises Refused."""
        direction, hidden_size, is_batch_first = _flags(node)
        directions = 2 if direction == "bidirectional" else 1
        weight_ih, key_ih = self._weight(node, 1, "W")
        weight_hh, key_hh = self._weight(node, 2, "R")
        bias, key_b = self._parameter(node, 3, "B") if self.graph.input_of(node, 3) else (None, None)
        _fits(weight_ih, weight_hh, bias, directions, hidden_size)
        peepholes, key_p = self._peepholes(node, directions, weight_hh.shape[2])
        try:
            options = cell_options(node.attributes(), directions, peepholes is not None)
        except ValueError as error:
            raise Refused(str(error)) from None
        self._check_states(node, directions, weight_hh.shape[2], is_batch_first)
        lengths = self._lengths(node, is_batch_first)
        key = (direction, is_batch_first, lengths, options, key_ih, key_hh, key_b, key_p)
        hidden_size, features = weight_hh.shape[2], weight_ih.shape[2]
        return Layer(
            node, features, hidden_size, direction, is_batch_first, options, weight_ih, weight_hh, bias, peepholes, key,
            lengths, prefix,
        )  # fmt: skip

    def _peepholes(self, node: Node, directions: int, hidden_size: int) -> tuple[Tensor | None, Any]:
        """P and its key, as of `_parameter`; None if it is zeros, or is not there."""
        if not self.graph.input_of(node, 7):
            return None, None
        peepholes, key = self._parameter(node, 7, "P")
        if peepholes.shape != (directions, 3 * hidden_size):
            raise Refused(f"its P has shape {peepholes.shape}; its R asks for ({directions}, {3 * hidden_size})")
        if key not in self._zeros:
            self._zeros[key] = not peepholes.read().any()
        return (None, None) if self._zeros[key] else (peepholes, key)

    def _weight(self, node: Node, index: int, what: str) -> tuple[Tensor, Any]:
        """As `_parameter`; of a quantised node, whose weights are (directions, features, 4 * hidden_size).

        Its scales and zero points are one a direction, or one for each of its gates' rows.
        https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM
        """
        tensor, key = self._parameter(node, index, what)
        if node.op == "LSTM":
            return tensor, key
        scales, key_s = self._parameter(node, 6 + 2 * index, f"{what}_scale")
        zeros, key_z = self._parameter(node, 7 + 2 * index, f"{what}_zero_point")
        try:
            if len(tensor.shape) != 3 or "int" not in tensor.dtype or len(scales.shape) > 2:
                raise ValueError(f"{tensor.dtype} of shape {tensor.shape}, scales of shape {scales.shape}")
            along = (*scales.shape[:1], 1, *(scales.shape[1:] or (1,)))
            whole = Quantised(tensor, scales, zeros, along if scales.shape else ()).tensor()
        except ValueError as error:
            raise Refused(f"its {what} cannot be dequantised: {error}") from None
        turned = Tensor((whole.shape[0], *whole.shape[:0:-1]), "float32", lambda: whole.read().swapaxes(1, 2), True)
        return turned, (key, key_s, key_z)

    def _parameter(self, node: Node, index: int, what: str) -> tuple[Tensor, Any]:
        """A constant input of a node, and a key that is equal for equal inputs; raises Refused."""
        value = self.graph.input_of(node, index)
        if value is None:
            raise Refused(f"it has no {what}")
        tensor, key = self.constants.tensors.get(value), value
        if tensor is not None:
            return tensor, key
        if value not in self._folded:
            self._folded[value] = self._fold(value)
        found = self._folded[value]
        if isinstance(found, str):
            raise Refused(f"its {what} {found}")
        return found

    def _fold(self, value: Value) -> tuple[Tensor, Any] | str:
        """A value that the graph computes from constants, with a key; or a sentence if it cannot be computed."""
        try:
            array, dtype, is_quantised = self.constants.fold(value)
        except NotConstant as error:
            return f"is not constant: {error}"
        except ValueError as error:
            return f"cannot be computed: {error}"
        digest = sha256(np.ascontiguousarray(array).data).digest() if array.size else b""
        tensor = Tensor(array.shape, dtype, lambda: self.constants.fold(value).array, is_quantised)
        return tensor, (array.shape, dtype, digest)

    def _check_states(self, node: Node, directions: int, hidden_size: int, is_batch_first: bool) -> None:
        """Raise Refused if an initial state has another size, as in files of torch's newer exporter with proj_size."""
        for index, what in ((5, "initial_h"), (6, "initial_c")):
            value = self.graph.input_of(node, index)
            shape = None if value is None else self.constants.shape(value)
            if shape is None:
                continue
            axis = 1 if is_batch_first else 0
            if len(shape) != 3 or shape[axis] not in (None, directions) or shape[2] not in (None, hidden_size):
                asks = ("batch", directions, hidden_size) if is_batch_first else (directions, "batch", hidden_size)
                sizes = ", ".join("?" if length is None else str(length) for length in shape)
                raise Refused(f"its {what} has shape ({sizes}); its R asks for ({', '.join(map(str, asks))})")

    def _lengths(self, node: Node, is_batch_first: bool) -> Value | None:
        """The sequence_lens, or None if all are known to have the input's length."""
        value = self.graph.input_of(node, 4)
        if value is None or value not in self.constants.tensors:
            return value
        source = self.graph.input_of(node, 0)
        shape = None if source is None else self.graph.shape(source)
        axis = 1 if is_batch_first else 0
        steps = shape[axis] if shape is not None and axis < len(shape) else None
        return None if steps is not None and self.constants.extremes(value) == (steps, steps) else value

    def _stack(self, stack: list[Layer], time: Turned, alike: list[Node]) -> Found:
        """The LSTM of these layers; `alike` are the nodes that begin others with the same parameters."""
        first = stack[0]
        name = self._name(first.node, _one_of(layer.prefix for layer in stack))
        where = _where(first.node) + (f" and {len(stack) - 1} above it" if len(stack) > 1 else "")
        if problem := state_dict.too_many_layers(len(stack)):
            return Found(name, "LSTM", None, "", where, problem=problem)
        order, problem, said = _direction(first, time)
        if problem:
            return Found(name, "LSTM", None, "", where, problem=problem)
        is_batch_first, note = batch_first(stack, self.graph, self.constants, time)
        config = Config(
            first.input_size,
            first.hidden_size,
            num_layers=len(stack),
            bias=first.bias is not None,
            batch_first=is_batch_first,
            bidirectional=first.directions == 2,
            direction=order,
            cell_options=first.options,
        )
        parameters = {}
        for layer, direction, suffix in config.cells():
            each = stack[layer]
            parameters[f"weight_ih{suffix}"] = _part(each.weight_ih, direction, slice(None))
            parameters[f"weight_hh{suffix}"] = _part(each.weight_hh, direction, slice(None))
            if each.bias is not None:
                rows = 4 * first.hidden_size
                parameters[f"bias_ih{suffix}"] = _part(each.bias, direction, slice(0, rows))
                parameters[f"bias_hh{suffix}"] = _part(each.bias, direction, slice(rows, 2 * rows))
            if each.peepholes is not None:
                rows = 3 * first.hidden_size
                parameters[f"weight_ch{suffix}"] = _part(each.peepholes, direction, slice(0, rows), gates_ifo)
        dtype = widest(tensor.dtype for tensor in parameters.values())
        notes, warnings = self._around(stack)
        warnings = [*said, *warnings]
        notes = [*([note] if note else []), *notes]
        if time.is_before:
            notes.append(f"the graph turns time around by {time.before}; the LSTM's direction does the same")
        notes += [f"{node} and its like have the same parameters" for node in alike[:ALIKE]]
        if len(alike) > ALIKE:
            notes.append(f"so have {len(alike) - ALIKE} more")
        return Found(
            name, "LSTM", config, dtype, where, (*notes, *warnings), warning="; ".join(warnings), parameters=parameters
        )

    def _around(self, stack: list[Layer]) -> tuple[list[str], list[str]]:
        """Notes on the states that the model passes, and warnings of what the caller must do."""
        notes, warnings = [], []
        first = stack[0]
        if self.graph.is_rounded:
            warnings.append(
                "the file's model rounds inputs or outputs to 8 bits (QuantizeLinear), which numlstm does not"
            )
        if first.lengths is not None:
            lengths = repr(shown(first.lengths.name))
            tensor = self.constants.tensors.get(first.lengths)
            if tensor is not None and prod(tensor.shape) <= LENGTHS:
                lengths += f", {tensor.read().tolist()}"
            warnings.append(
                f"the file's model gives each row a length, the sequence_lens {lengths}; "
                "without lengths every row is as long as the input"
            )
        for index, state in ((5, "h_0"), (6, "c_0")):
            sources = [self.graph.input_of(layer.node, index) for layer in stack]
            if all(self.constants.is_zero(each) for each in sources):
                continue
            origins = [self.constants.origins(each) for each in sources if each is not None]
            made_of = [value for each in origins for value in each or ()]
            known = list(dict.fromkeys(repr(shown(each.name)) for each in made_of or sources if each is not None))
            names = ", ".join(known[:LENGTHS]) + (", …" if len(known) > LENGTHS else "")
            if made_of or [] in origins:  # a ConstantOfShape node has its number in an attribute
                whence = ", from numlstm.load_tensors" if made_of else ""
                warnings.append(f"the file's model has a constant {state} that is not zero, {names}: pass it{whence}")
            else:
                notes.append(f"the file's model passes {state}, from {names}")
        return notes, warnings

    def _name(self, node: Node, prefix: str | None) -> str:
        """The prefix of its parameters, or the name of its module, or of the node."""
        if prefix:
            return prefix
        proto = node.proto
        for entry in proto.metadata_props if hasattr(proto, "metadata_props") else ():
            scopes = re.findall(r"'([^']*)'", entry.value) if entry.key == SCOPES else []
            if len(scopes) > 1 and scopes[-2]:
                return str(scopes[-2])
        return OWN.sub("", proto.name).removeprefix("/")


def _one_of(prefixes: Iterable[str | None]) -> str | None:
    """The prefix that all have in common; "" if they differ, None if there is none."""
    known = {prefix for prefix in prefixes if prefix is not None}
    return known.pop() if len(known) == 1 else ("" if known else None)


def _flags(node: Node) -> tuple[str, int, bool]:
    """Direction, hidden_size (0 if not stated), and whether the layout is batch first; raises Refused."""
    if node.scope.opset < OLDEST:
        raise Refused(f"its opset is {node.scope.opset}; LSTM nodes are read from {OLDEST} on")
    attributes = node.attributes()
    unknown = sorted(set(attributes) - ATTRIBUTES)
    if unknown:
        raise Refused(f"its attribute {shown(unknown[0])} is not known")
    least, most = (3, 8) if node.op == "LSTM" else (12, 12)
    if not least <= len(node.inputs) <= most:
        raise Refused(f"it has {counted(len(node.inputs), 'input')}; a node of {node.op} has {least} to {most}")
    direction = attributes["direction"].s.decode("ascii", "replace") if "direction" in attributes else "forward"
    if direction not in DIRECTIONS:
        raise Refused(f"its direction is {shown(direction)!r}; it must be one of {', '.join(DIRECTIONS)}")
    layout = attributes["layout"].i if "layout" in attributes else 0
    if layout not in (0, 1):
        raise Refused(f"its layout is {layout}; it must be 0 or 1")
    return direction, attributes["hidden_size"].i if "hidden_size" in attributes else 0, layout == 1


def _direction(first: Layer, time: Turned) -> tuple[str, str, list[str]]:
    """The direction of a stack with what the graph does around it; a problem, and warnings of what is left to do."""
    before, after = time.before, time.after
    if before is not None and time.is_before is None:
        return "", f"the graph reverses an axis of its input by {before}, which cannot be followed", []
    if time.is_before and (first.directions == 2 or first.lengths is not None):
        what = "a bidirectional node" if first.directions == 2 else "a node with sequence_lens"
        return "", f"the graph reverses time by {before} before {what}, which numlstm cannot do", []
    is_back = first.direction == "reverse"
    order = is_back != bool(time.is_before), is_back != time.is_after
    said = []
    if before is not None and not time.is_before:
        said.append(
            f"the file's model reverses an axis of its input by {before}, not time: do the same before the call"
        )
    if after is not None and (order == (False, True) or (before is not None and not time.is_after)):
        said.append(f"the file's model reverses an axis of its output by {after}: do the same after the call")
    directions = {(True, True): "reverse", (True, False): "go_backwards"}
    return directions.get(order, "forward"), "", said


def _fits(weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, directions: int, hidden_size: int) -> None:
    """Raise Refused if shapes do not fit R, which gives the hidden size."""
    shape = weight_hh.shape
    if len(shape) != 3 or 0 in shape or shape[1] != 4 * shape[2] or shape[0] != directions:
        raise Refused(f"its R has shape {shape}; it must be ({directions}, 4 * hidden_size, hidden_size)")
    if hidden_size not in (0, shape[2]):
        raise Refused(f"its hidden_size is {hidden_size}, but its R has shape {shape}")
    if len(weight_ih.shape) != 3 or weight_ih.shape[:2] != shape[:2] or not weight_ih.shape[2]:
        raise Refused(f"its W has shape {weight_ih.shape}; its R asks for ({directions}, {shape[1]}, input_size)")
    if bias is not None and bias.shape != (directions, 2 * shape[1]):
        raise Refused(f"its B has shape {bias.shape}; its R asks for ({directions}, {2 * shape[1]})")
    for what, tensor in (("W", weight_ih), ("R", weight_hh), ("B", bias)):
        if tensor is not None and tensor.dtype not in FLOATS:
            raise Refused(f"its {what} holds {tensor.dtype}, not floating-point numbers")


def _part(tensor: Tensor, direction: int, rows: slice, order: Callable[[Array], Array] = gates_ifgo) -> Tensor:
    """One direction's part of W, R, B or P, in our order of gates."""
    count = len(range(*rows.indices(tensor.shape[1])))
    read = partial(_read_part, tensor, direction, rows, order)
    return Tensor((count, *tensor.shape[2:]), tensor.dtype, read, tensor.is_quantised)


def _read_part(tensor: Tensor, direction: int, rows: slice, order: Callable[[Array], Array]) -> Array:
    return order(tensor.read()[direction, rows])


def _where(node: Node) -> str:
    return f"{node}{node.scope.where}"


def _as_saved(found: Found, text: str) -> Found:
    """The LSTM of a file that numlstm wrote: without a name, and as a cell if it was one."""
    cell: Kind = "LSTMCell"
    notes = (found.warning,) if found.warning else ()  # without the note that the states are inputs
    if f'"kind": "{cell}"' not in text or found.config is None or found.config.num_layers > 1:
        return found._replace(name="", notes=notes)
    parameters = {name.removesuffix("_l0"): tensor for name, tensor in found.parameters.items()}
    config = found.config._replace(batch_first=False)
    return found._replace(name="", kind=cell, config=config, parameters=parameters, notes=notes)
