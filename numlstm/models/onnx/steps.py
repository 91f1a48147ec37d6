"""The nodes of a graph as functions from values to values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats.budget import shown


class Step:
    """A node that runs at each call.

    Attributes
    ----------
    node : OpRun
        Of the evaluator.
    name : str
    inputs, outputs : list of str
    is_shape : bool
        Whether its results depend on the shapes of the model's inputs alone.
    """

    def __init__(self, node: Any, name: str) -> None:
        self.node, self.name = node, name
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.is_shape = False
        self.function = _function(node)

    def __repr__(self) -> str:
        return f"{self.node.op_type}({self.name!r})"

    def __call__(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The results of the node."""
        given = [values[name] for name in self.inputs]
        found = self._in_context(given, values) if self.function is None else self.function(*given)
        return found if type(found[0]) is np.ndarray else [_array(each) for each in found]

    def _in_context(self, given: list[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        """The results of a node with graphs within, which may read any value."""
        if self.node.op_type == "Loop" and given[1] is None:  # onnx 1.23 takes no condition for a false one
            given[1] = np.array(True)
        found: Sequence[Any] = self.node.run(*given, context=values)
        return found


def told(step: Step, error: Exception) -> Exception:
    """The error of a node, with its name."""
    kind = IndexError if isinstance(error, IndexError) else ValueError
    return kind(f"node {shown(step.name)!r} ({step.node.op_type}): {error}")


def _array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value


def _function(node: Any) -> Callable[..., Sequence[Any]] | None:
    """What computes a node; None if it needs all values so far."""
    from onnx.reference.op_run import OpRun

    if node.need_context():
        return None
    slow: Callable[..., Sequence[Any]] = node.run
    if type(node).run is OpRun.run and not node.has_subgraph and not node.has_linked_attribute:
        slow = partial(node._run, **{key: getattr(node, key) for key in node.attributes_names_})
    make = FAST.get(node.op_type) if not node.onnx_node.domain else None
    return slow if make is None else make(node, slow)


# What takes the evaluator several microseconds, in NumPy's own functions. What they do not cover
# is left to the evaluator.


def _transpose(node: Any, slow: Any) -> Any:
    perm = node.perm
    return slow if perm is None else lambda x: (x.transpose(perm),)


def _gather(node: Any, slow: Any) -> Any:
    axis = node.axis
    return lambda x, indices: (x.take(indices, axis),)


def _gemm(node: Any, slow: Any) -> Any:
    if (node.alpha, node.beta, node.transA) != (1, 1, 0):
        return slow
    is_turned = node.transB

    def gemm(a: Array, b: Array, c: Array | None = None) -> tuple[Array]:
        y: Array = a @ (b.T if is_turned else b)
        if c is not None:
            y += c
        return (y,)

    return gemm


def _softmax(node: Any, slow: Any) -> Any:
    axis = node.axis
    if node.run_params["opsets"][""] < 13:  # it had two axes
        return slow

    def softmax(x: Array) -> tuple[Array]:
        e = np.exp(x - x.max(axis, keepdims=True))
        e /= e.sum(axis, keepdims=True)
        return (e,)

    return softmax


def _reshape(node: Any, slow: Any) -> Any:
    def reshape(x: Array, shape: Array) -> Sequence[Any]:
        sizes = shape.tolist()
        if 0 in sizes:
            if getattr(node, "allowzero", 0):  # since version 14
                found: Sequence[Any] = slow(x, shape)
                return found
            sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
        return (x.reshape(sizes),)

    return reshape


def _squeeze(node: Any, slow: Any) -> Any:
    # before version 13 the axes are an attribute, which `slow` has
    return lambda x, axes=None: slow(x) if axes is None else (x.squeeze(tuple(axes.tolist())),)


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Any, Any], Any]:
    return lambda node, slow: lambda a, b: (function(a, b),)


FAST: dict[str, Callable[[Any, Any], Any]] = {
    "Add": _binary(np.add),
    "Gather": _gather,
    "Gemm": _gemm,
    "LSTM": lambda node, slow: node.compute,
    "Identity": lambda node, slow: lambda x: (x,),
    "MatMul": _binary(np.matmul),
    "Mul": _binary(np.multiply),
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Tanh": lambda node, slow: lambda x: (np.tanh(x),),
    "Transpose": _transpose,
}
