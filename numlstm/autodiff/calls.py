"""``vjp`` of an LSTM and of an LSTMCell: from what a user gives to positions, and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from numlstm.autodiff import passes
from numlstm.autodiff.gradients import Gradients, checked_gradient
from numlstm.autodiff.small_calls import SmallShape, SmallTape, remember
from numlstm.base.config import Config
from numlstm.base.typing import Array, Result, Shape, States
from numlstm.base.validation.arrays import own_shape, real_array
from numlstm.base.validation.packed import checked_lengths, checked_parts
from numlstm.base.validation.shapes import (
    CallShapes,
    cell_call,
    cell_states,
    check_no_lengths,
    check_not_packed,
    lstm_call,
    lstm_states,
    packed_call,
    two_states,
)
from numlstm.runtime.conversion import convert
from numlstm.runtime.executor import Executor
from numlstm.runtime.packed_weights import Panels
from numlstm.sequences.packed_layout import longest_first, places, sizes_of
from numlstm.sequences.packing import PackedSequence

MakeMasks = Callable[[], passes.Masks | None]


class Backward:
    """The backward pass of one call: from gradients of its results to gradients of what it was given.

    It has the weights of the call, and its numbers in memory of its own: whatever is done to the model and to the
    arrays since, it gives the same, and may be called as often as one likes.
    """

    __slots__ = "__weakref__", "_call", "_closed", "_layout", "_panels", "_tape", "_with_hx"

    def __init__(
        self, tape: passes.Tape | None, call: CallShapes, panels: Panels, layout: Layout, with_hx: bool
    ) -> None:
        self._tape, self._call, self._panels, self._layout, self._with_hx = tape, call, panels, layout, with_hx
        self._closed = False

    def __repr__(self) -> str:
        return f"<backward pass of a call, {self._call.output} and states {self._call.hidden} and {self._call.cell}>"

    def __call__(self, d_output: Any = None, d_hx: Any = None, *, input_grad: bool = True) -> Gradients:
        """Backpropagate through time.

        Parameters
        ----------
        d_output : array_like, optional
            The gradient of a loss by the output, in its shape; packed if the output is. Zeros if left out.
        d_hx : (array_like, array_like), optional
            The gradients by h_n and c_n; zeros if left out. What a call that went on from these states gives as
            ``.hx``.
        input_grad : bool
            Whether the gradient by the input is wanted; without it ``.input`` is None, in less time.

        Returns
        -------
        Gradients
            ``.input``, ``.hx`` (None if the call was given no hx) and ``.parameters``: fresh arrays.

        Raises
        ------
        ValueError
            A gradient has not the shape of its result, or holds NaN.
        TypeError
            A gradient does not hold real numbers, or is packed where the output is not.
        RuntimeError
            The pass was closed.
        """
        if self._closed:
            raise RuntimeError(
                "the backward pass was closed, and its memory is gone\nCall vjp again, and close it later."
            )
        tape, call, panels, layout = self._tape, self._call, self._panels, self._layout
        if type(tape) is SmallTape:
            found = tape.back(d_output, d_hx, input_grad or None, self._with_hx or None)
            if found is not None:
                of_input, hx, arrays = found
                return Gradients(of_input, hx, layout.named(dict(zip(tape.owner.names, arrays, strict=True))))
        dtype = panels.dtype
        given = None if d_output is None else layout.positions_of(d_output, call, dtype)
        d_states = None if d_hx is None else self._state_gradients(d_hx)
        d_h, d_c = self._zeros() if d_states is None else layout.states_in(*d_states, call)
        if tape is None:
            shapes = panels.config.parameter_shapes().items()
            parameters = {name: np.zeros(shape, dtype) for name, shape in shapes}
            d_input: Array | None = np.empty((0, panels.config.input_size), dtype)
        else:
            d_input, parameters = passes.backward(tape, given, d_h, d_c, input_grad)
        hx = layout.states_out(d_h, d_c, call, d_states) if self._with_hx else None
        of_input = layout.input_of(d_input) if input_grad and d_input is not None else None
        return Gradients(of_input, hx, layout.named(parameters))

    def close(self) -> None:
        """Give the memory back now, not when the last reference goes; the pass cannot be run any more."""
        self._closed, self._tape = True, None

    def _zeros(self) -> States:
        """Gradients of h_n and c_n if none are given, rows as the positions have them."""
        config, rows, dtype = self._panels.config, self._layout.rows, self._panels.dtype
        cells = config.num_layers * config.num_directions
        return np.zeros((cells, rows, config.output_size), dtype), np.zeros((cells, rows, config.hidden_size), dtype)

    def _state_gradients(self, d_hx: Any) -> States:
        """The given gradients of h_n and c_n."""
        call, dtype = self._call, self._panels.dtype
        d_h, d_c = two_states(d_hx)
        d_h = checked_gradient("the gradient of h_n", d_h, call.hidden, dtype)
        d_c = checked_gradient("the gradient of c_n", d_c, call.cell, dtype)
        return d_h, d_c


def copy_numbers(into: Array, given: Array) -> None:
    """Copy an array of any real dtype; what is too large becomes infinite in silence, as in PyTorch."""
    if given.dtype == into.dtype:
        into[...] = given
    else:
        convert(into, given)


class Layout:
    """How positions are laid out in what a user sees; this one is a batch of one length."""

    def __init__(self, call: CallShapes, shape: Shape) -> None:
        self.call, self.shape = call, shape
        self.rows = call.batch  # that take a step

    def _laid_out(self, array: Array) -> Array:
        """(steps, rows, features) as the user sees it, or the other way round; a view."""
        if self.call.unbatched:
            of_one: Array = array[:, 0] if array.ndim == 3 else array[:, None]
            return of_one
        return array.swapaxes(0, 1) if self.call.swap else array

    def _steps_and_rows(self) -> Shape:
        first, second = self.shape[0], self.call.batch
        return (self.shape[1], second) if self.call.swap else (first, second)

    def fill(self, given: Array) -> Callable[[Array], None]:
        """What writes the input into an array of positions."""

        def fill(positions: Array) -> None:
            copy_numbers(positions.reshape(*self._steps_and_rows(), -1), self._laid_out(given))

        return fill

    def _user(self, positions: Array) -> Array:
        """A fresh array in the user's layout."""
        return np.array(self._laid_out(positions.reshape(*self._steps_and_rows(), positions.shape[1])), order="C")

    def output_of(self, positions: Array) -> Any:
        """The output."""
        return self._user(positions)

    def input_of(self, positions: Array) -> Any:
        """The gradient by the input."""
        return self._user(positions)

    def positions_of(self, d_output: Any, call: CallShapes, dtype: np.dtype[Any]) -> Array:
        """The gradient by the output, as positions."""
        checked = checked_gradient("d_output", _not_packed(d_output), call.output, dtype)
        return np.ascontiguousarray(self._laid_out(checked)).reshape(-1, call.output[-1])

    def states_in(self, h: Array, c: Array, call: CallShapes) -> States:
        """States as the passes have them: arrays that may be written to."""
        h, c = (np.array(state[:, None] if call.unbatched else state, order="C") for state in (h, c))
        return h, c

    def states_out(self, h: Array, c: Array, call: CallShapes, given: States | None) -> States:
        """States as the user sees them. A sequence without steps has those that were given, or zeros."""
        return (h[:, 0], c[:, 0]) if call.unbatched else (h, c)

    def named(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """Gradients of parameters by the names of the module."""
        return parameters


class CellLayout(Layout):
    """A single step of an LSTMCell."""

    def _laid_out(self, array: Array) -> Array:
        if array.ndim == 3:
            of_step: Array = array[0, 0] if self.call.unbatched else array[0]
            return of_step
        return array[None, None] if self.call.unbatched else array[None]

    def _steps_and_rows(self) -> Shape:
        return 1, self.call.batch

    def states_in(self, h: Array, c: Array, call: CallShapes) -> States:
        rows = call.batch
        return np.array(h, order="C").reshape(1, rows, -1), np.array(c, order="C").reshape(1, rows, -1)

    def states_out(self, h: Array, c: Array, call: CallShapes, given: States | None) -> States:
        return h.reshape(call.hidden), c.reshape(call.cell)

    def named(self, parameters: dict[str, Array]) -> dict[str, Array]:
        return {name.removesuffix("_l0"): array for name, array in parameters.items()}


class PackedLayout(Layout):
    """A packed sequence, whose rows are positions; states are in the order of the sequences."""

    def __init__(self, call: CallShapes, sizes: Array, order: Array | None, back: Array | None) -> None:
        super().__init__(call, ())
        self.sizes, self.order, self.back = sizes, order, back
        self.rows = int(sizes[0]) if len(sizes) else 0

    def fill(self, given: Array) -> Callable[[Array], None]:
        def fill(positions: Array) -> None:
            copy_numbers(positions, given)

        return fill

    def output_of(self, positions: Array) -> Any:
        return PackedSequence(positions.copy(), self.sizes, self.order, self.back)

    input_of = output_of

    def positions_of(self, d_output: Any, call: CallShapes, dtype: np.dtype[Any]) -> Array:
        if not hasattr(d_output, "batch_sizes"):
            raise TypeError(
                f"d_output must be packed as the output is, not a {type(d_output).__name__}\n"
                "Pack it: output._replace(data=gradient)."
            )
        data, sizes, *_ = checked_parts(d_output)
        if not np.array_equal(sizes, self.sizes):
            raise ValueError("d_output must have the batch_sizes of the output\nIt is packed from other lengths.")
        return np.ascontiguousarray(checked_gradient("d_output", data, call.output, dtype))

    def states_in(self, h: Array, c: Array, call: CallShapes) -> States:
        if self.order is not None:
            return np.take(h, self.order, axis=1), np.take(c, self.order, axis=1)
        return super().states_in(h, c, call)

    def states_out(self, h: Array, c: Array, call: CallShapes, given: States | None) -> States:
        if self.order is None:
            return h, c
        if given is None:
            given = np.zeros(call.hidden, h.dtype), np.zeros(call.cell, c.dtype)
        states = given[0].copy(), given[1].copy()
        for state, of_rows in zip(states, (h, c), strict=True):
            state[:, self.order] = of_rows
        return states


class PaddedLayout(PackedLayout):
    """A padded batch with lengths: the positions are those of the packed sequence; padding is not read."""

    def __init__(self, call: CallShapes, shape: Shape, lengths: Array) -> None:
        order = longest_first(lengths)
        super().__init__(call, sizes_of(lengths if order is None else lengths[order]), order, None)
        self.shape = shape
        self.at = places(self.sizes, order, shape[1] if call.swap else shape[0], call.batch, call.swap)

    def _gathered(self, padded: Array) -> Array:
        return np.take(np.ascontiguousarray(padded).reshape(-1, padded.shape[-1]), self.at, axis=0)

    def fill(self, given: Array) -> Callable[[Array], None]:
        return super().fill(self._gathered(given))

    def output_of(self, positions: Array) -> Any:
        padded = np.zeros((self.shape[0] * self.shape[1], positions.shape[1]), positions.dtype)
        padded[self.at] = positions
        return padded.reshape(*self.shape[:2], -1)

    input_of = output_of

    def positions_of(self, d_output: Any, call: CallShapes, dtype: np.dtype[Any]) -> Array:
        given = real_array("d_output", _not_packed(d_output))
        if given.shape != call.output:
            raise ValueError(f"d_output must have the shape of its result, {call.output}\nIts shape is {given.shape}.")
        of_positions = self._gathered(given)
        return np.ascontiguousarray(checked_gradient("d_output", of_positions, of_positions.shape, dtype))


def _not_packed(d_output: Any) -> Any:
    if hasattr(d_output, "batch_sizes"):
        raise TypeError("d_output must be an array, as the output is\nIt is packed.")
    return d_output


def lstm_vjp(
    executor: Executor,
    panels: Panels,
    config: Config,
    masks: MakeMasks,
    input: Any,
    hx: Any,
    lengths: Any,
    low: bool = False,
) -> tuple[Any, Backward]:
    """``LSTM.vjp``, whose docstring says what it takes and gives.

    Parameters
    ----------
    executor : Executor
        Of the model.
    panels : Panels
    config : Config
    masks : callable
        Gives the dropout that the engine takes; called once nothing can be refused any more.
    low : bool
        Whether to keep little, and to compute the gates again.
    """
    layout: Layout
    if hasattr(input, "batch_sizes"):
        check_no_lengths(lengths)
        data, sizes, order, back = checked_parts(input)
        given = real_array("data", data)
        call = packed_call(config, given.shape, int(sizes[0]), hx)
        layout = PackedLayout(call, sizes, order, back)
    else:
        is_own = type(input) is np.ndarray and input.dtype == panels.dtype
        given = own_shape(input if is_own else real_array("input", input))
        call = lstm_call(config, given.shape, hx)
        if lengths is None:
            layout = Layout(call, given.shape)
        else:
            each = checked_lengths(lengths, call, given.shape)
            layout = PaddedLayout(call, given.shape, each) if call.batch else Layout(call, given.shape)
    states = None if hx is None else lstm_states(call, hx, panels.dtype)
    return _run(executor, panels, layout, call, given, states, masks, low)


def cell_vjp(executor: Executor, panels: Panels, config: Config, input: Any, hx: Any) -> tuple[States, Backward]:
    """``LSTMCell.vjp``, whose docstring says what it takes and gives."""
    check_not_packed(input)
    given = own_shape(real_array("input", input))
    call = cell_call(config, given.shape, hx)
    states = None if hx is None else cell_states(call, hx, panels.dtype)
    layout = CellLayout(call, given.shape)
    (_, h_and_c), backward = _run(executor, panels, layout, call, given, states, lambda: None)
    return h_and_c, backward


def _run(
    executor: Executor,
    panels: Panels,
    layout: Layout,
    call: CallShapes,
    given: Array,
    hx: States | None,
    masks: MakeMasks,
    low: bool = False,
) -> tuple[Result, Backward]:
    """The forward pass over what the layout says."""
    if layout.rows == 0:
        nothing = np.empty((0, call.output[-1]), panels.dtype)
        zeros = np.zeros(call.hidden, panels.dtype), np.zeros(call.cell, panels.dtype)
        result = layout.output_of(nothing), zeros if hx is None else (hx[0].copy(), hx[1].copy())
        return result, Backward(None, call, panels, layout, hx is not None)
    states = None if hx is None else layout.states_in(*hx, call)
    dropout = masks()
    if isinstance(layout, PackedLayout):
        steps, rows, sizes = len(layout.sizes), int(layout.sizes[0]), layout.sizes
        mask_shape: Shape = (int(sizes.sum()), 1, call.output[-1])
    else:
        steps, rows = layout._steps_and_rows()
        sizes, mask_shape = None, (steps, rows, call.output[-1])
    passed, tape = passes.forward(
        executor, panels, steps, rows, sizes, layout.fill(given), states, dropout, mask_shape, low
    )
    result = layout.output_of(passed.output), layout.states_out(passed.h_n, passed.c_n, call, hx)
    if not isinstance(layout, PackedLayout) and not (call.swap or low or tape.plan.layout.drops):
        remember(tape, layout.shape, call[:3], lambda shape: partial(_small_vjp, shape, call, layout))
    return result, Backward(tape, call, panels, layout, hx is not None)


def _small_vjp(
    shape: SmallShape, call: CallShapes, layout: Layout, panels: Panels, input: Array, hx: Any
) -> tuple[Result, Backward] | None:
    """What `_run` gives for an input of that shape; None if it must be run otherwise."""
    found = shape.vjp(panels, input, hx)
    return found and (found[0], Backward(found[1], call, panels, layout, hx is not None))
