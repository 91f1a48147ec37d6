"""The passes of an LSTM over tensors: NumPy reads their memory in place, and results are tensors over NumPy's."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from numlstm.autodiff import passes
from numlstm.base.config import Config
from numlstm.base.typing import Array
from numlstm.kernels.plan_layout import LINE
from numlstm.lstm import LSTM
from numlstm.module import Model
from numlstm.runtime.executor import Executor
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels, aligned_empty, places
from numlstm.sequences.packing import PackedSequence

DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
ENGINES_KEPT = 64  # sizes of models whose plans and buffers are kept

_compare = ctypes.CDLL(None).memcmp
_compare.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


class Packed:
    """An LSTM, and its weights as they were when they were packed."""

    def __init__(self, lstm: LSTM, copies: Sequence[Array]) -> None:
        self.lstm, self.copies = lstm, copies
        self.memory = [(address(copy), copy.nbytes) for copy in copies]

    def has(self, weights: Sequence[Tensor]) -> bool:
        """Whether the bits of these weights are still those."""
        for weight, (at, size) in zip(weights, self.memory, strict=True):
            if _compare(weight.data_ptr(), at, size):
                return False
        return True


# By their first tensor; gone when it is. Bits decide whether weights are packed again: writes through `.data`, NumPy or
# another process do not raise a tensor's version.
_packed = WeakTensorKeyDictionary()


class Engine:
    """What LSTMs of the same sizes and dtype share: plans and buffers.

    Parameters
    ----------
    config : Config
        With steps as the first axis, and without dropout.
    dtype : dtype
    """

    def __init__(self, config: Config, dtype: np.dtype[Any]) -> None:
        self.config, self.dtype = config, dtype
        self.executor = Executor(config, dtype)
        self.blank, self.zero = Panels(config, dtype), np.zeros(1, dtype)
        self.shapes = config.parameter_shapes()
        self.of_weights = list(self.shapes.values())

    def fits(self, weights: Sequence[Tensor]) -> bool:
        """Whether they have the shapes of the parameters, in the order of the state dict."""
        return [weight.shape for weight in weights] == self.of_weights

    def lstm(self, weights: Sequence[Tensor]) -> LSTM:
        """An LSTM with these weights, in eval mode."""
        packed: Packed | None = _packed.get(weights[0])
        plain = [weight if weight.is_contiguous() else weight.contiguous() for weight in weights]
        if packed is None or packed.lstm._config is not self.config or not packed.has(plain):
            numbers = np.concatenate([self.zero, *(_array(weight).reshape(-1) for weight in plain)])
            lstm = LSTM.__new__(LSTM)
            lstm._hold(self.config)
            lstm._model = Model(self.config, self.blank.with_numbers(numbers), self.executor)
            lstm.training = False
            packed = _packed[weights[0]] = Packed(lstm, [*places(numbers, self.shapes).values()])
        return packed.lstm

    def infer(
        self, weights: Sequence[Tensor], x: Tensor, hx: tuple[Tensor, Tensor] | None, sizes: Array | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, h_n and c_n.

        Parameters
        ----------
        weights : sequence of Tensor
        x : Tensor, (T, B, input_size), or packed (positions, input_size)
        hx : (h_0, c_0) or None
            (cells, B, features).
        sizes : array of int64, (T,), or None
            Of a packed sequence: the rows of each step.
        """
        given: Any = _array(x) if sizes is None else PackedSequence(_array(x), sizes, None, None)
        states = None if hx is None else (_array(hx[0]), _array(hx[1]))
        output, (h_n, c_n) = self.lstm(weights)(given, states)
        return tuple(map(torch.from_numpy, (output if sizes is None else output.data, h_n, c_n)))  # type: ignore[return-value]

    def forward(
        self,
        weights: Sequence[Tensor],
        x: Tensor,
        hx: tuple[Tensor, Tensor] | None,
        masks: Sequence[Tensor],
        sizes: Array | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, h_n, c_n, and the numbers that `backward` needs, a flat tensor.

        Parameters
        ----------
        weights, x, hx, sizes
            As for `infer`.
        masks : sequence of Tensor
            What the output of each layer but the last is multiplied by; none without dropout.
        """
        given, features = _array(x), self.config.num_directions * self.config.output_size
        steps, rows = _steps_and_rows(x, sizes)

        def fill(positions: Array) -> None:
            positions.reshape(given.shape)[...] = given

        drawn = iter(masks)

        def drop(mask: Array) -> None:
            mask.reshape(-1)[...] = _array(next(drawn)).reshape(-1)

        passed, tape = passes.forward(
            self.executor,
            self.lstm(weights)._panels,
            steps,
            rows,
            sizes,
            fill,
            None if hx is None else (_array(hx[0]), _array(hx[1])),
            drop if masks else None,
            (len(given), 1, features) if sizes is not None else (steps, rows, features),
        )
        output = passed.output.reshape(*x.shape[:-1], features).copy()
        results = output, passed.h_n, passed.c_n, np.asarray(KeptNumbers(tape))
        return tuple(map(torch.from_numpy, results))  # type: ignore[return-value]

    def backward(
        self,
        weights: Sequence[Tensor],
        kept: Tensor,
        masks: Sequence[Tensor],
        by_results: Sequence[Tensor | None],
        steps: int,
        rows: int,
        sizes: Array | None,
        input_grad: bool,
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the input, h_0, c_0 and the weights, of the shapes that ``forward`` was given.

        Parameters
        ----------
        weights, masks, sizes
            As for `forward`.
        kept : Tensor
            What `forward` has kept.
        by_results : (Tensor or None, ...)
            The gradients of output, h_n and c_n; None for zeros.
        steps, rows : int
            T and B.
        input_grad : bool
            Whether that of the input is wanted; else it is None.
        """
        config, panels = self.config, self.lstm(weights)._panels
        owner = passes.trainer(self.executor, panels)
        plan = owner.plan(panels, steps, rows, sizes, bool(masks))
        tape = Borrowed(owner, panels, plan, _on_cache_line(_array(kept)))
        tape.masks = [_array(mask).reshape(plan.positions, -1) for mask in masks]
        d_output, *by_states = by_results
        positions = None if d_output is None else _array(d_output.contiguous()).reshape(plan.positions, -1)
        d_h, d_c = (
            np.zeros(shape, self.dtype) if by_state is None else np.array(_array(by_state), order="C")
            for by_state, shape in zip(by_states, config.state_shapes(rows), strict=True)
        )
        d_input, named = passes.backward(tape, positions, d_h, d_c, input_grad)
        if d_input is not None and sizes is None:
            d_input = d_input.reshape(steps, rows, -1)
        return None if d_input is None else torch.from_numpy(d_input), *(
            torch.from_numpy(array) for array in (d_h, d_c, *(named[name] for name in self.shapes))
        )


@lru_cache(ENGINES_KEPT)
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


class KeptNumbers:
    """The numbers of a tape, as NumPy takes an object's memory: the tape lives as long as the array and its tensor."""

    def __init__(self, tape: passes.Tape) -> None:
        self.tape = tape
        self.__array_interface__ = tape.buffer[: tape.plan.kept].__array_interface__


class Borrowed(passes.Tape):
    """A tape whose memory is a tensor's."""

    def __del__(self) -> None:
        """Give nothing back."""


def _array(tensor: Tensor) -> Array:
    """The tensor's own memory."""
    array: Array = tensor.detach().numpy()
    return array


def _on_cache_line(array: Array) -> Array:
    """The array, or a copy of it that starts where kernels expect it: a tensor may have been copied since."""
    if address(array) % LINE == 0 and array.flags.c_contiguous:
        return array
    aligned = aligned_empty(array.size, array.dtype)
    aligned[:] = array
    return aligned


def _steps_and_rows(x: Tensor, sizes: Array | None) -> tuple[int, int]:
    return (x.shape[0], x.shape[1]) if sizes is None else (len(sizes), int(sizes[0]))
