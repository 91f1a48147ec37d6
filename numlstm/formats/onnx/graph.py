"""The graphs of an ONNX model: which node makes a value, and which read it, across subgraphs and functions.

A name belongs to a scope: a graph, whose names are visible in the bodies of If, Loop and Scan, or one call of a local
function, whose formal inputs are values of the caller. A `Value` is a name in the scope that defines it, so aliases of
one value are equal.

Every search goes through `Graph.walk` or `Graph.sources_first`, which visit each item once and charge each step to the
file's budget. A graph with a cycle is refused when it is built.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from weakref import ref

from numlstm.formats.budget import Budget, shown

MAIN = ("", "ai.onnx")  # two names of the domain of ONNX's own operators
DEPTH = 64  # nested scopes; protobuf's own limit allows 33 graphs
READERS = 256  # of a value; more are ignored
WHERE = 300  # characters in the description of a scope
MET, NAMED = 600, 250  # bytes of memory for a node of a called function, and for each of its names
UNUSED = ("Shape", "Size")  # operators that read the shape of a value, not its numbers

T = TypeVar("T", bound=Hashable)


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
    uses: dict[str, list[Use]] = field(default_factory=dict)

    def defines(self, name: str) -> bool:
        """Whether the name is defined in this very scope."""
        return name in self.made or name in self.initializers or name in self.aliases or name in self.inputs


class Value(NamedTuple):
    """A name in the scope that defines it."""

    scope: Scope
    name: str


@dataclass(eq=False, slots=True)
class Node:
    """A node in one scope.

    It refers to its scope weakly, because a reference cycle would keep the parsed file with all weights in memory until
    the next garbage collection. The graph keeps every scope alive.
    """

    proto: Any
    within: ref[Scope]
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    waits_for: int = 0  # sources that the topological sort has not passed yet

    @property
    def scope(self) -> Scope:
        """Its scope."""
        scope = self.within()
        assert scope is not None, "its graph is gone"
        return scope

    def attributes(self) -> dict[str, Any]:
        """By name; references of a function's body to the caller's attributes are resolved."""
        found = {}
        for attribute in self.proto.attribute:
            given = attribute
            if attribute.ref_attr_name:
                given = self.scope.attributes.get(attribute.ref_attr_name)
            if given is not None:
                found[attribute.name] = given
        return found

    def __str__(self) -> str:
        op, name = shown(self.op), shown(self.proto.name)
        return f"the {op} node {name!r}" if name else f"an unnamed {op} node"


class Use(NamedTuple):
    """A node that reads a value, and the index of that input.

    For an output of a graph, `node` is None and `owner` the node around the graph, if any.
    """

    node: Node | None
    place: int
    owner: Node | None = None


class _Function:
    """A local function, with everything that its calls share."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.inputs, self.outputs = tuple(proto.input), tuple(proto.output)
        self.names = frozenset(self.inputs)
        self.opset = _opset(proto.opset_import)
        self.defaults = {attribute.name: attribute for attribute in proto.attribute_proto}


class Graph:
    """Every scope and node of a model, in the order of the file.

    Parameters
    ----------
    model : onnx.ModelProto
    budget : Budget
        Of its file; its own messages are charged to it.

    Raises
    ------
    ValueError
        Two values of one name in a scope; functions that call each other without end; a cycle.
    """

    def __init__(self, model: Any, budget: Budget) -> None:
        self.budget = budget
        self.functions = {(function.domain, function.name): _Function(function) for function in model.functions}
        self.nodes: list[Node] = []
        self.scopes: list[Scope] = []
        self.owners: dict[Scope, Node] = {}
        self._declared: dict[Scope, dict[str, Any]] = {}
        self._graph(model.graph, None, "", _opset(model.opset_import), 0, called=False)
        self.aliases = sum(len(scope.aliases) for scope in self.scopes)
        self.is_rounded = any(node.op == "DequantizeLinear" for node in self.nodes) and self._see_through_rounding()
        self._connect()
        self._refuse_cycles()

    def _graph(self, graph: Any, outer: Scope | None, where: str, opset: int, depth: int, called: bool) -> Scope:
        inputs = frozenset(each.name for each in graph.input)
        attributes = outer.attributes if outer is not None else {}
        scope = Scope(graph, outer, where, opset, attributes, inputs=inputs)
        for tensor in graph.initializer:
            if tensor.name in scope.initializers:
                raise ValueError(f"two of its tensors are named {shown(tensor.name)!r}{where}")
            scope.initializers[tensor.name] = tensor
        if called:
            self._charge(2 + len(scope.initializers) + len(inputs))
        self._fill(scope, graph, depth, called)
        return scope

    def _fill(self, scope: Scope, body: Any, depth: int, called: bool) -> None:
        if depth > DEPTH:
            raise ValueError(f"its graphs and functions are nested more than {DEPTH} deep")
        self.scopes.append(scope)
        within = ref(scope)
        for proto in body.node:
            if called:
                self._charge(len(proto.input) + len(proto.output) + len(proto.attribute))
            domain = "" if proto.domain in MAIN else proto.domain
            node = Node(proto, within, proto.op_type, domain, tuple(proto.input), tuple(proto.output))
            named: set[str] = set()
            for name in filter(None, node.outputs):
                if name in named or scope.defines(name):
                    raise ValueError(f"two of its values are named {shown(name)!r}{scope.where}")
                named.add(name)
            function = self.functions.get((proto.domain, proto.op_type))
            if function is not None:
                self._call(node, function, depth)
                continue
            scope.made.update((name, node) for name in node.outputs if name)
            self.nodes.append(node)
            for attribute in proto.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
                for graph in graphs:
                    where = _within(f"{scope.where}, in the {shown(attribute.name)} of {node}")
                    self.owners[self._graph(graph, scope, where, scope.opset, depth + 1, called)] = node

    def _charge(self, names: int) -> None:
        self.budget.hold(MET + NAMED * names, "its functions call each other so often that its nodes")

    def _call(self, node: Node, function: _Function, depth: int) -> None:
        given = {**function.defaults, **node.attributes()} if node.proto.attribute else function.defaults
        where = _within(f"{node.scope.where}, in the function {shown(function.proto.name)}")
        called = Scope(function.proto, None, where, function.opset or node.scope.opset, given, inputs=function.names)
        self._charge(2 + len(node.inputs) + len(node.outputs) + (len(given) if node.proto.attribute else 0))
        for formal, actual in zip(function.inputs, node.inputs, strict=False):
            if actual:
                called.aliases[formal] = Value(node.scope, actual)
        self._fill(called, function.proto, depth + 1, called=True)
        for name, inner in zip(node.outputs, function.outputs, strict=False):
            if name:
                node.scope.aliases[name] = Value(called, inner)

    def _see_through_rounding(self) -> bool:
        """Whether values that depend on the model's input are rounded to 8 bits; each becomes what it was before.

        A pair of QuantizeLinear and DequantizeLinear does that. One of constants is left to be computed.
        """
        varying: set[Value] = set()
        bypassed: set[Node] = set()
        for node in self.nodes:
            sources = list(self.inputs_of(node))
            if any(each in varying or self._is_input(each) for each in sources):
                varying.update(self.outputs_of(node))
            rounding = self.maker(sources[0]) if node.op == "DequantizeLinear" and sources else None
            if rounding is not None and rounding.op == "QuantizeLinear" and sources[0] in varying:
                before = self.input_of(rounding, 0)
                if before is not None:
                    node.scope.aliases[node.outputs[0]] = before
                    del node.scope.made[node.outputs[0]]
                    bypassed.add(node)
                    self.aliases += 1
        self.nodes = [node for node in self.nodes if node not in bypassed]
        read = {each for node in self.nodes for each in self.inputs_of(node)}
        self.nodes = [
            node
            for node in self.nodes
            if node.op != "QuantizeLinear" or any(each in read for each in self.outputs_of(node))
        ]
        return bool(bypassed)

    @staticmethod
    def _is_input(value: Value) -> bool:
        """Whether a value comes from outside; before opset 9, tensors of the file are listed as inputs too."""
        return value.name in value.scope.inputs and value.name not in value.scope.initializers

    def _connect(self) -> None:
        """Record the readers of every value, and the number of sources of every node."""
        for node in self.nodes:
            owner = self.owners.get(node.scope)
            if owner is not None:
                owner.waits_for += 1
            for place, name in enumerate(node.inputs):
                if name:
                    self._use(self.resolve(node.scope, name), Use(node, place))
        for scope in self.scopes:
            if hasattr(scope.proto, "initializer"):  # a function's outputs are used where its caller uses them
                for output in scope.proto.output:
                    self._use(self.resolve(scope, output.name), Use(None, 0, self.owners.get(scope)))

    def _use(self, value: Value, use: Use) -> None:
        value.scope.uses.setdefault(value.name, []).append(use)
        reader = use.node or use.owner
        if reader is not None and value.name in value.scope.made:
            reader.waits_for += 1

    def _refuse_cycles(self) -> None:
        """Raise ValueError if there is a cycle: a topological sort, which leaves the nodes on a cycle or behind it."""
        ready = [node for node in self.nodes if not node.waits_for]
        passed = 0
        while ready:
            node = ready.pop()
            passed += 1
            for reader in self._after(node):
                reader.waits_for -= 1
                if not reader.waits_for:
                    ready.append(reader)
        if passed < len(self.nodes):
            node = self._on_a_cycle()
            raise ValueError(f"its graph has a cycle, which no model can run: {node} depends on its own output")

    def _after(self, node: Node) -> Iterator[Node]:
        """The nodes that depend on a node, once for each value, and the node around its graph."""
        scope = node.scope
        for name in node.outputs:
            for use in scope.uses.get(name, ()) if name else ():
                reader = use.node or use.owner
                if reader is not None:
                    yield reader
        if scope in self.owners:
            yield self.owners[scope]

    def _on_a_cycle(self) -> Node:
        """A node of a cycle, if there is one: every node that waits has a source that waits."""
        waiting = {source: node for node in self.nodes if node.waits_for for source in self._after(node)}
        node = next(node for node in self.nodes if node.waits_for)
        seen: set[Node] = set()
        while node not in seen:
            seen.add(node)
            node = waiting[node]
        return node

    def resolve(self, scope: Scope, name: str) -> Value:
        """The value of a name in a scope."""
        passed: list[Value] = []
        while True:
            within: Scope | None = scope
            while within is not None and not within.defines(name):
                within = within.outer
            if within is None:
                found = Value(scope, name)
                break
            found = Value(within, name)
            if name not in within.aliases:
                break
            passed.append(found)
            if len(passed) > self.aliases:
                raise ValueError(f"its value {shown(name)!r} is defined by itself")
            scope, name = within.aliases[name]
        for within, name in passed:  # path compression
            within.aliases[name] = found
        return found

    def input_of(self, node: Node, index: int) -> Value | None:
        """The value of a node's input of that index, or None."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        return self.resolve(node.scope, node.inputs[index])

    def inputs_of(self, node: Node) -> Iterator[Value]:
        """All values that a node reads."""
        return (self.resolve(node.scope, name) for name in node.inputs if name)

    def output_of(self, node: Node, index: int) -> Value | None:
        """The value of a node's output of that index, or None."""
        if index >= len(node.outputs) or not node.outputs[index]:
            return None
        return Value(node.scope, node.outputs[index])

    def outputs_of(self, node: Node) -> Iterator[Value]:
        """All values that a node makes."""
        return (Value(node.scope, name) for name in node.outputs if name)

    def maker(self, value: Value) -> Node | None:
        """The node that makes a value; None for a tensor of the file, or an input."""
        return value.scope.made.get(value.name)

    def readers(self, value: Value) -> Iterator[Use]:
        """The first few uses of its numbers, without those that read its shape alone."""
        for use in value.scope.uses.get(value.name, ())[:READERS]:
            self.budget.step()
            if use.node is None or use.node.op not in UNUSED:
                yield use

    def walk(self, starts: Iterable[T], onward: Callable[[T], Iterable[T]]) -> Iterator[T]:
        """Everything reachable from these, each once, the nearest first."""
        seen: set[T] = set()
        waiting = deque(starts)
        while waiting:
            each = waiting.popleft()
            self.budget.step()
            if each not in seen:
                seen.add(each)
                yield each
                waiting.extend(onward(each))

    def sources_first(self, starts: Iterable[T], onward: Callable[[T], Iterable[T]]) -> Iterator[T]:
        """Everything reachable from these, each once, in topological order: sources first."""
        seen: set[T] = set()
        waiting = [(each, False) for each in starts]
        while waiting:
            each, is_ready = waiting.pop()
            self.budget.step()
            if is_ready:
                yield each
            elif each not in seen:
                seen.add(each)
                waiting.append((each, True))
                waiting.extend((source, False) for source in onward(each))

    def depend_on(self, nodes: Iterable[Node]) -> set[Node]:
        """These nodes and all that depend on their numbers, with the nodes around their graphs."""
        return set(self.walk(nodes, self._numbers_after))

    def _numbers_after(self, node: Node) -> Iterator[Node]:
        return (reader for reader in self._after(node) if reader.op not in UNUSED)

    def shape(self, value: Value) -> tuple[int | None, ...] | None:
        """The shape that the graph states for a value, with None for an axis of any length; None if it states none."""
        stated = self.declared(value)
        if stated is None or not stated.tensor_type.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in stated.tensor_type.shape.dim)

    def declared(self, value: Value) -> Any:
        """The type that the graph states for a value, or None."""
        proto = value.scope.proto
        if value.scope not in self._declared:
            stated = (*proto.input, *proto.value_info) if hasattr(proto, "initializer") else ()
            self._declared[value.scope] = {each.name: each.type for each in reversed(stated)}
        return self._declared[value.scope].get(value.name)


def _within(where: str) -> str:
    return where if len(where) <= WHERE else f", …{where[-WHERE:]}"


def _opset(imports: Any) -> int:
    """The version of ONNX's own operators."""
    return max((each.version for each in imports if each.domain in MAIN), default=0)
