"""The passes of an LSTM over tensors: NumPy reads their memory in place, and results are tensors over NumPy's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from numlstm.autodiff.stateless import PASSES_KEPT, Passes, compare
from numlstm.base.config import Config
from numlstm.base.typing import Array
from numlstm.lstm import LSTM
from numlstm.module import Model
from numlstm.runtime.executor import Executor
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels
from numlstm.sequences.packing import PackedSequence

DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class Packed:
    """Weights in panels, and as they were when they were packed."""

    def __init__(self, config: Config, executor: Executor, panels: Panels, copies: Sequence[Array]) -> None:
        self.config, self.executor, self.panels, self.copies = config, executor, panels, copies
        self.memory = [(address(copy), copy.nbytes) for copy in copies]

    @cached_property
    def lstm(self) -> LSTM:
        """An LSTM with these weights, in eval mode."""
        lstm = LSTM.__new__(LSTM)
        lstm._hold(self.config)
        lstm._model = Model(self.config, self.panels, self.executor)
        lstm.training = False
        return lstm

    def has(self, weights: Sequence[Tensor]) -> bool:
        """Whether the bits of these weights are still those."""
        for weight, (at, size) in zip(weights, self.memory, strict=True):
            if compare(weight.data_ptr(), at, size):
                return False
        return True


# By their first tensor; gone when it is. Bits decide whether weights are packed again: writes through `.data`, NumPy or
# another process do not raise a tensor's version.
_packed = WeakTensorKeyDictionary()


class Engine:
    """What LSTMs of the same sizes and dtype share. Shapes are those of `Passes`."""

    def __init__(self, config: Config, dtype: np.dtype[Any]) -> None:
        self.config, self.passes = config, Passes(config, dtype)
        self.shapes = list(self.passes.shapes.values())

    def fits(self, weights: Sequence[Tensor]) -> bool:
        """Whether they have the shapes of the parameters, in the order of the state dict."""
        return [weight.shape for weight in weights] == self.shapes

    def packed(self, weights: Sequence[Tensor]) -> Packed:
        """These weights in panels: those of the last call if no bit has changed since."""
        packed: Packed | None = _packed.get(weights[0])
        plain = [weight if weight.is_contiguous() else weight.contiguous() for weight in weights]
        if packed is None or packed.config is not self.config or not packed.has(plain):
            numbers = self.passes.numbers([_array(weight) for weight in plain])
            panels, executor = self.passes.packed(numbers), self.passes.executor
            packed = _packed[weights[0]] = Packed(self.config, executor, panels, self.passes.views(numbers))
        return packed

    def infer(
        self, weights: Sequence[Tensor], x: Tensor, hx: tuple[Tensor, Tensor] | None, sizes: Array | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, h_n and c_n."""
        given: Any = _array(x) if sizes is None else PackedSequence(_array(x), sizes, None, None)
        states = None if hx is None else (_array(hx[0]), _array(hx[1]))
        output, (h_n, c_n) = self.packed(weights).lstm(given, states)
        return _tensor(output if sizes is None else output.data), _tensor(h_n), _tensor(c_n)

    def forward(
        self,
        packed: Packed,
        x: Tensor,
        hx: tuple[Tensor, Tensor] | None,
        masks: Sequence[Tensor],
        sizes: Array | None,
    ) -> tuple[Tensor, ...]:
        """Output, h_n, c_n, and the numbers that `backward` needs."""
        states = None if hx is None else (_array(hx[0]), _array(hx[1]))
        drawn = [_array(mask) for mask in masks]
        results = self.passes.forward(packed.panels, _array(x), states, drawn, sizes)
        return tuple(map(_tensor, results))

    def backward(
        self,
        packed: Packed,
        kept: Tensor,
        masks: Sequence[Tensor],
        by_results: Sequence[Tensor | None],
        steps: int,
        rows: int,
        sizes: Array | None,
        input_grad: bool,
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the input, h_0, c_0 and the weights."""
        gradients = self.passes.backward(
            packed.panels,
            _array(kept),
            [None if by_result is None else _array(by_result) for by_result in by_results],
            steps,
            rows,
            [_array(mask) for mask in masks],
            sizes,
            input_grad,
        )
        return tuple(None if gradient is None else _tensor(gradient) for gradient in gradients)


@lru_cache(PASSES_KEPT)
def engine(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    bidirectional: bool,
    proj_size: int,
    dtype: torch.dtype,
) -> Engine:
    """The engine for these sizes."""
    config = Config(input_size, hidden_size, num_layers, bias, bidirectional=bidirectional, proj_size=proj_size)
    return Engine(config, DTYPES[dtype])


def _array(tensor: Tensor) -> Array:
    """The tensor's own memory."""
    array: Array = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    return array


_tensor = torch.from_numpy  # over the array's memory
