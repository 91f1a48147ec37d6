"""The graphs of an ONNX model: which node makes a value, and which use it, across subgraphs and functions.

A name means something in a scope: that of a graph, whose names the bodies of If, Loop and Scan in it see as well, or
that of one call of a local function, whose formal inputs are values of the caller. A `Value` is a name in the scope
that defines it, so that two names of one thing are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import ref

MAIN = ("", "ai.onnx")  # two names of the domain of ONNX's own operators
DEPTH = 64  # scopes within each other; protobuf's own limit allows 33 graphs
CALLS = 20_000  # nodes met by calling functions, beyond those that the file holds
ALIASES = 1_000


@dataclass(eq=False)
class Scope:
    """One graph, or one call of a function."""

    proto: Any
    outer: Scope | None
    where: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    initializers: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Node] = field(default_factory=dict)
    aliases: dict[str, Value] = field(default_factory=dict)
    inputs: frozenset[str] = frozenset()

    def defines(self, name: str) -> bool:
        """Whether the name is that of something in this very scope."""
        return name in self.made or name in self.initializers or name in self.aliases or name in self.inputs


class Value(NamedTuple):
    """A name in the scope that defines it."""

    scope: Scope
    name: str


@dataclass(eq=False)
class Node:
    """A node, as it is met in one scope.

    A scope holds its nodes, and they know it weakly: in a circle the parsed file, weights and all, would outlive
    its reading until Python's collector comes by. The graph keeps every scope alive.
    """

    proto: Any
    within: ref[Scope]
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    inner: list[Scope] = field(default_factory=list)

    @property
    def scope(self) -> Scope:
        """The scope that it is met in."""
        scope = self.within()
        assert scope is not None, "its graph is gone"
        return scope

    def attributes(self) -> dict[str, Any]:
        """By name; where a function's body refers to an attribute of its caller, that one."""
        found = {}
        for attribute in self.proto.attribute:
            given = attribute
            if attribute.ref_attr_name:
                given = self.scope.attributes.get(attribute.ref_attr_name)
            if given is not None:
                found[attribute.name] = given
        return found

    def __str__(self) -> str:
        return f"the {self.op} node {self.proto.name!r}" if self.proto.name else f"an unnamed {self.op} node"


class Use(NamedTuple):
    """A node that reads a value, and as its input of which place; no node where it is an output of its graph."""

    node: Node | None
    place: int


class Graph:
    """Every scope and node of a model, in the order of the file.

    Parameters
    ----------
    model : onnx.ModelProto
    fields : int
        How many fields it has, which bounds what is walked.

    Raises
    ------
    ValueError
        Two values of one name in a scope; functions that call each other without end.
    """

    def __init__(self, model: Any, fields: int) -> None:
        self.left = CALLS + fields
        self.functions = {(function.domain, function.name): function for function in model.functions}
        self.nodes: list[Node] = []
        self.scopes: list[Scope] = []
        self.main = self._graph(model.graph, None, "", _opset(model.opset_import), 0)
        self.uses: dict[Value, list[Use]] = {}
        for node in self.nodes:
            for index, name in enumerate(node.inputs):
                if name:
                    self.uses.setdefault(self.resolve(node.scope, name), []).append(Use(node, index))
        for scope in self.scopes:
            if hasattr(scope.proto, "initializer"):  # a function's outputs are used where its caller uses them
                for output in scope.proto.output:
                    self.uses.setdefault(self.resolve(scope, output.name), []).append(Use(None, 0))

    def _graph(self, graph: Any, outer: Scope | None, where: str, opset: int, depth: int) -> Scope:
        inputs = frozenset(each.name for each in graph.input)
        attributes = outer.attributes if outer is not None else {}
        scope = Scope(graph, outer, where, opset, attributes, inputs=inputs)
        for tensor in graph.initializer:
            if tensor.name in scope.initializers:
                raise ValueError(f"two of its tensors are named {tensor.name!r}{where}")
            scope.initializers[tensor.name] = tensor
        self._fill(scope, graph, depth)
        return scope

    def _fill(self, scope: Scope, body: Any, depth: int) -> None:
        if depth > DEPTH:
            raise ValueError(f"its graphs and functions lie more than {DEPTH} within each other")
        self.scopes.append(scope)
        for proto in body.node:
            self.left -= 1
            if self.left < 0:
                raise ValueError("its functions call each other more often than its size justifies")
            domain = "" if proto.domain in MAIN else proto.domain
            node = Node(proto, ref(scope), proto.op_type, domain, tuple(proto.input), tuple(proto.output))
            for name in node.outputs:
                if name and scope.defines(name):
                    raise ValueError(f"two of its values are named {name!r}{scope.where}")
            function = self.functions.get((proto.domain, proto.op_type))
            if function is not None:
                self._call(node, function, depth)
                continue
            scope.made.update((name, node) for name in node.outputs if name)
            self.nodes.append(node)
            for attribute in proto.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
                for graph in graphs:
                    where = f"{scope.where}, in the {attribute.name} of {node}"
                    node.inner.append(self._graph(graph, scope, where, scope.opset, depth + 1))

    def _call(self, node: Node, function: Any, depth: int) -> None:
        given = {attribute.name: attribute for attribute in function.attribute_proto} | node.attributes()
        where = f"{node.scope.where}, in the function {function.name}"
        called = Scope(function, None, where, _opset(function.opset_import) or node.scope.opset, given)
        for formal, actual in zip(function.input, node.inputs, strict=False):
            if actual:
                called.aliases[formal] = Value(node.scope, actual)
        called.inputs = frozenset(function.input)
        self._fill(called, function, depth + 1)
        for name, inner in zip(node.outputs, function.output, strict=False):
            if name:
                node.scope.aliases[name] = Value(called, inner)

    def resolve(self, scope: Scope, name: str) -> Value:
        """The value that a name means in a scope."""
        for _ in range(ALIASES):
            within: Scope | None = scope
            while within is not None and not within.defines(name):
                within = within.outer
            if within is None:
                return Value(scope, name)
            if name not in within.aliases:
                return Value(within, name)
            scope, name = within.aliases[name]
        raise ValueError(f"its value {name!r} is defined by itself")

    def input_of(self, node: Node, index: int) -> Value | None:
        """What a node reads as its input of that index, or None where it reads nothing."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        return self.resolve(node.scope, node.inputs[index])

    def output_of(self, node: Node, index: int) -> Value | None:
        """What a node makes as its output of that index, or None."""
        if index >= len(node.outputs) or not node.outputs[index]:
            return None
        return Value(node.scope, node.outputs[index])

    def maker(self, value: Value) -> Node | None:
        """The node that makes a value; None for a tensor of the file, or an input."""
        return value.scope.made.get(value.name)

    def readers(self, value: Value) -> list[Use]:
        """Where its numbers go; whoever asks for its shape alone is not among them."""
        return [use for use in self.uses.get(value, []) if use.node is None or use.node.op not in ("Shape", "Size")]

    def before(self, node: Node) -> Iterator[Value]:
        """The values that a node depends on directly, those that its inner graphs read with them."""
        pending: list[Node] = [node]
        while pending:
            each = pending.pop()
            yield from (self.resolve(each.scope, name) for name in each.inputs if name)
            for scope in each.inner:
                pending.extend(dict.fromkeys(scope.made.values()))
                for output in scope.proto.output:
                    yield self.resolve(scope, output.name)


def _opset(imports: Any) -> int:
    """Version of ONNX's own operators."""
    return max((each.version for each in imports if each.domain in MAIN), default=0)
