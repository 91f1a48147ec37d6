"""Both passes as functions of weights and arrays alone, for libraries that differentiate functions.

What a forward pass keeps is an array of its own, which such a library stores and gives back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from numlstm.autodiff import passes
from numlstm.autodiff.plans import kept_layout
from numlstm.autodiff.small_calls import SmallTape, remember
from numlstm.autodiff.tape import Tape, trainer
from numlstm.base.config import Config
from numlstm.base.typing import Array, Shape, States
from numlstm.base.validation.shapes import CallShapes, lstm_call, lstm_states
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import LINE
from numlstm.runtime.call import Call
from numlstm.runtime.executor import Executor
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import Panels, aligned_empty, places

compare = ctypes.CDLL(None).memcmp  # 0 if the bytes at two addresses are the same
compare.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
PASSES_KEPT = 64  # sizes of models whose plans and buffers are kept
SECOND = (
    "numlstm has no second derivatives of an LSTM (double backward)\n"
    "Use the LSTM of {} where gradients of gradients are wanted."
)


def config_of(shapes: Mapping[str, Shape]) -> Config:
    """The sizes of an LSTM, by the shapes of its parameters.

    Raises
    ------
    ValueError
        They are not those of an LSTM.

    Examples
    --------
    >>> config_of({"weight_ih_l0": (16, 6), "weight_hh_l0": (16, 4)}) == Config(6, 4, bias=False)
    True
    """
    try:
        (rows, inputs), (_, outputs) = shapes["weight_ih_l0"], shapes["weight_hh_l0"]
    except (KeyError, ValueError):
        raise ValueError(
            "parameters must have the names of a state dict, and weight_ih_l0 and weight_hh_l0 two axes\n"
            f"They are {dict(shapes)}."
        ) from None
    config = Config(
        inputs,
        rows // 4,
        num_layers=sum(name.startswith("weight_ih") and not name.endswith("_reverse") for name in shapes),
        bias="bias_ih_l0" in shapes,
        bidirectional="weight_ih_l0_reverse" in shapes,
        proj_size=outputs if "weight_hr_l0" in shapes else 0,
    )
    expected = config.parameter_shapes()
    for name in expected | dict(shapes):
        if name not in expected:
            raise ValueError(
                f"{name} is no parameter of an LSTM of these sizes\nIts parameters are {', '.join(expected)}."
            )
        if name not in shapes:
            raise ValueError(f"{name} is missing among the parameters\nThey are {', '.join(shapes)}.")
        if tuple(shapes[name]) != expected[name]:
            raise ValueError(
                f"{name} must have shape {expected[name]}, by those of layer 0\nIts shape is {shapes[name]}."
            )
    return config


def checked_call(config: Config, shape: Shape, hx: Any, dtype: np.dtype[Any]) -> CallShapes:
    """The call for an input of that shape; of the states, only shapes are looked at.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        Input or states do not fit; as from an LSTM. ValueError also for an empty batch.
    """
    if isinstance(hx, tuple | list):
        hx = tuple(np.broadcast_to(np.zeros((), dtype), np.shape(state)) for state in hx)
    call = lstm_call(config, shape, hx)
    if hx is not None:
        lstm_states(call, hx, dtype)
    if call.batch == 0:
        raise ValueError(f"the batch must hold a sequence\nThe input has shape {shape}.")
    return call


def run_in_layout(run: Callable[[Any, Any], Any], call: CallShapes, input: Any, hx: Any) -> tuple[Any, tuple[Any, Any]]:
    """Run a call with steps as the first axis and a batch, and lay its results out as the input is.

    Arrays may be those of any library, or what it records in their place.
    """
    if call.unbatched:
        output, h_n, c_n = run(input[:, None], None if hx is None else tuple(state[:, None] for state in hx))
        return output[:, 0], (h_n[:, 0], c_n[:, 0])
    output, h_n, c_n = run(input.swapaxes(0, 1) if call.swap else input, hx)
    return output.swapaxes(0, 1) if call.swap else output, (h_n, c_n)


def kept_size(config: Config, dtype: np.dtype[Any], positions: int, rows: int, drops: bool) -> int:
    """How many numbers a forward pass keeps. Positions and rows may be symbols that stand for ints."""
    return kept_layout(config, registry.lanes(dtype.name), dtype.itemsize, positions, rows, drops).size


class Passes:
    """The passes of LSTMs of the same sizes and dtype, which share plans and buffers.

    Parameters
    ----------
    config : Config
        With steps as the first axis, and without dropout.
    dtype : dtype
        float32 or float64.
    """

    def __init__(self, config: Config, dtype: np.dtype[Any]) -> None:
        self.config, self.dtype = config, dtype
        self.executor = Executor(config, dtype)
        self.shapes = config.parameter_shapes()
        self._blank, self._zero = Panels(config, dtype), np.zeros(1, dtype)
        self._last: tuple[Array, Panels] | None = None
        self._lent: WeakValueDictionary[int, SmallTape] = WeakValueDictionary()  # by the address of what it keeps

    def numbers(self, weights: Sequence[Array]) -> Array:
        """Weights in the order of the state dict as one array, as `Panels.numbers` gives them."""
        return np.concatenate([self._zero, *(weight.reshape(-1) for weight in weights)])

    def packed(self, numbers: Array) -> Panels:
        """Panels of these numbers."""
        return self._blank.with_numbers(numbers)

    def panels(self, weights: Sequence[Array]) -> Panels:
        """Panels of these weights: those of the last call if no bit has changed since."""
        numbers, last = self.numbers(weights), self._last
        if last is not None and not compare(address(numbers), address(last[0]), numbers.nbytes):
            return last[1]
        panels = self.packed(numbers)
        self._last = numbers, panels
        return panels

    def views(self, numbers: Array) -> list[Array]:
        """The parameters in an array of their numbers."""
        return [*places(numbers, self.shapes).values()]

    def infer(self, panels: Panels, x: Array, hx: States) -> tuple[Array, Array, Array]:
        """Output, h_n and c_n, as `forward` gives them."""
        features = self.config.num_directions * self.config.output_size
        output, (h_n, c_n) = np.empty((*x.shape[:2], features), self.dtype), map(np.empty_like, hx)
        self.executor.run(Call(panels, x, *hx, output, h_n, c_n))
        return output, h_n, c_n

    def forward(
        self,
        panels: Panels,
        x: Array,
        hx: States | None = None,
        masks: Sequence[Array] = (),
        sizes: Array | None = None,
    ) -> tuple[Array, Array, Array, Array]:
        """Output, h_n, c_n, and the numbers that `backward` needs, a flat array.

        Parameters
        ----------
        panels : Panels
        x : array, (T, B, input_size), or packed (positions, input_size)
            Of any strides.
        hx : (h_0, c_0) or None
            (cells, B, features).
        masks : sequence of array
            What the output of each layer but the last is multiplied by; none without dropout.
        sizes : array of int64, (T,), or None
            Of a packed sequence: the rows of each step.
        """
        is_plain = sizes is None and len(masks) == 0
        if is_plain and (found := self._small_forward(panels, x, hx)) is not None:
            return found
        features = self.config.num_directions * self.config.output_size
        steps, rows = x.shape[:2] if sizes is None else (len(sizes), int(sizes[0]))
        drawn: Iterator[Array] = iter(masks)

        def fill(positions: Array) -> None:
            positions.reshape(x.shape)[...] = x

        def drop(mask: Array) -> None:
            mask.reshape(-1)[...] = next(drawn).reshape(-1)

        mask_shape = (steps, rows, features) if sizes is None else (len(x), 1, features)
        dropout = drop if len(masks) > 0 else None
        passed, tape = passes.forward(self.executor, panels, steps, rows, sizes, fill, hx, dropout, mask_shape)
        output = passed.output.reshape(*x.shape[:-1], features).copy()
        if is_plain:
            remember(tape, x.shape, (output.shape, passed.h_n.shape, passed.c_n.shape), lambda shape: shape.vjp)
        return output, passed.h_n, passed.c_n, np.asarray(KeptNumbers(tape))

    def _small_forward(self, panels: Panels, x: Array, hx: States | None) -> tuple[Array, Array, Array, Array] | None:
        """`forward` of a small call; None if it is none."""
        run = trainer(self.executor, panels).small.get(x.shape)
        found = run and run(panels, x, hx)
        if found is None:
            return None
        (output, (h_n, c_n)), tape = found
        kept = np.asarray(KeptNumbers(tape))
        self._lent[address(kept)] = tape
        return output, h_n, c_n, kept

    def backward(
        self,
        panels: Panels,
        kept: Array,
        by_results: Sequence[Array | None],
        steps: int,
        rows: int,
        masks: Sequence[Array] = (),
        sizes: Array | None = None,
        input_grad: bool = True,
    ) -> tuple[Array | None, ...]:
        """Gradients of the input, h_0, c_0 and the weights, of the shapes that `forward` was given.

        Parameters
        ----------
        panels, masks, sizes
            As for `forward`.
        kept : array
            What `forward` has kept.
        by_results : (array or None, ...)
            The gradients of output, h_n and c_n; None for zeros.
        steps, rows : int
            T and B.
        input_grad : bool
            Whether that of the input is wanted; else it is None.
        """
        tape = self._lent.get(address(kept))  # None where kept is a copy
        if tape is not None and tape.panels is panels:
            by_output, by_h, by_c = by_results
            d_hx = None if by_h is None and by_c is None else self._states(by_h, by_c, rows)
            found = tape.back(by_output, d_hx, input_grad or None, True)
            if found is not None:
                d_input, (d_h, d_c), of_weights = found
                return d_input, d_h, d_c, *of_weights
        owner = trainer(self.executor, panels)
        plan = owner.plan(panels, steps, rows, sizes, len(masks) > 0)
        borrowed = Borrowed(owner, panels, plan, _on_cache_line(kept))
        borrowed.masks = [mask.reshape(plan.positions, -1) for mask in masks]
        d_output, by_h, by_c = by_results
        positions = None if d_output is None else np.ascontiguousarray(d_output).reshape(plan.positions, -1)
        d_h, d_c = (np.array(state, order="C") for state in self._states(by_h, by_c, rows))
        d_input, named = passes.backward(borrowed, positions, d_h, d_c, input_grad)
        if d_input is not None and sizes is None:
            d_input = d_input.reshape(steps, rows, -1)
        return d_input, d_h, d_c, *(named[name] for name in self.shapes)

    def _states(self, d_h: Array | None, d_c: Array | None, rows: int) -> States:
        """Gradients of h_n and c_n; zeros for None."""
        h, c = self.config.state_shapes(rows)
        return (
            np.zeros(h, self.dtype) if d_h is None else d_h,
            np.zeros(c, self.dtype) if d_c is None else d_c,
        )


@lru_cache(PASSES_KEPT)
def passes_of(config: Config, dtype: np.dtype[Any]) -> Passes:
    """The passes for these sizes."""
    return Passes(config, dtype)


class KeptNumbers:
    """The numbers of a tape, as NumPy takes an object's memory: the tape lives as long as an array of them."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self.__array_interface__ = tape, tape.interface


class Borrowed(Tape):
    """A tape whose memory is someone else's."""

    def __del__(self) -> None:
        """Give nothing back."""


def _on_cache_line(array: Array) -> Array:
    """The array, or a copy of it that starts where kernels expect it: the array may be a copy itself."""
    if address(array) % LINE == 0 and array.flags.c_contiguous:
        return array
    aligned = aligned_empty(array.size, array.dtype)
    aligned[:] = array
    return aligned
