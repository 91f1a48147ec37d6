"""The LSTM operator: numlstm's LSTM in the place of the evaluator's own.

https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numlstm import files
from numlstm.base.typing import Array, States
from numlstm.formats.onnx.reader import of_node
from numlstm.lstm import LSTM


def lstm_operator() -> Any:
    """The class of the LSTM operator, which is one of the evaluator's own."""
    from onnx.reference.op_run import OpRun

    class LSTMOperator(OpRun):
        """An LSTM node. It keeps its LSTM packed as long as its weights stay the same."""

        op_domain = ""
        layout: int | None  # set by the evaluator, as all attributes

        @classmethod
        def op_schema_name(cls) -> str:
            return "LSTM"

        def __init__(self, onnx_node: Any, run_params: Any, schema: Any = None) -> None:
            super().__init__(onnx_node, run_params, schema)
            self.lstm: LSTM | None = None
            self._weights: tuple[Array | None, ...] = ()

        def pack(self, *weights: Array | None) -> LSTM:
            """The LSTM of weights W, R, B and P; ValueError if it does what no LSTM here does."""
            if self.lstm is None or not all(map(_equal, weights, self._weights)):
                given = zip((1, 2, 3, 7), weights, strict=True)
                named = {self.onnx_node.input[at]: np.asarray(array) for at, array in given if array is not None}
                found = of_node(_alone(self.onnx_node), named, self.run_params["opsets"][""])
                if found.problem:
                    raise ValueError(found.problem)
                self.lstm, self._weights = files.as_lstm(files.built(found)[0]), weights
                self.lstm.batch_first = False
            return self.lstm

        def _run(self, *inputs: Any, **_: Any) -> tuple[Array, ...]:
            return self.compute(*inputs)

        def compute(
            self,
            X: Array,
            W: Array,
            R: Array,
            B: Array | None = None,
            sequence_lens: Array | None = None,
            initial_h: Array | None = None,
            initial_c: Array | None = None,
            P: Array | None = None,
        ) -> tuple[Array, ...]:
            """The results of the node for its inputs."""
            layout = self.layout
            lstm = self.pack(W, R, B, P)
            states = _states(initial_h, initial_c, layout)
            x = X.swapaxes(0, 1) if layout else X
            steps, batch = x.shape[:2]
            if sequence_lens is None or (sequence_lens == steps).all():
                y, (h, c) = lstm(x, states)
            else:
                y, (h, c) = _of_lengths(lstm, x, states, sequence_lens)
            y = y.reshape(steps, batch, len(h), -1)
            results = [y.swapaxes(0, 1), h.swapaxes(0, 1), c.swapaxes(0, 1)] if layout else [y.swapaxes(1, 2), h, c]
            return tuple(each.astype(X.dtype, copy=False) for each in results[: len(self.onnx_node.output)])

    LSTMOperator.__name__ = "LSTM"
    return LSTMOperator


def _states(h: Array | None, c: Array | None, layout: int | None) -> States | None:
    """The initial states, steps first; one that is not given is zeros."""
    if h is None and c is None:
        return None
    h, c = (np.zeros_like(other) if each is None else each for each, other in ((h, c), (c, h)))
    return (h.swapaxes(0, 1), c.swapaxes(0, 1)) if layout else (h, c)


def _of_lengths(lstm: LSTM, x: Array, states: States | None, lengths: Array) -> tuple[Array, States]:
    """The results for rows of these lengths. As in ONNX Runtime, the last states of a row without steps are zeros."""
    y, (h, c) = lstm(x, states, lengths=lengths)
    h[:, lengths == 0], c[:, lengths == 0] = 0, 0
    return y, (h, c)


def _equal(now: Array | None, then: Array | None) -> bool:
    return now is then or (now is not None and then is not None and np.array_equal(now, then))


def _alone(node: Any) -> Any:
    """The node without the inputs that are no weights."""
    copy = type(node)()
    copy.CopyFrom(node)
    for index in range(len(copy.input)):
        if index in (4, 5, 6):
            copy.input[index] = ""
    return copy
