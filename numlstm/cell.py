"""LSTMCell: ``torch.nn.LSTMCell`` in NumPy, for inference and training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import empty, ndarray

from numlstm.autodiff.gradients import Gradients
from numlstm.base.cell_options import CellOptions
from numlstm.base.typing import States, StatesLike
from numlstm.base.validation.arguments import cell_config, check_cpu, check_plain, checked_options, parameter_dtype
from numlstm.base.validation.arrays import own_shape, real_array
from numlstm.base.validation.shapes import cell_call, cell_states, check_not_packed
from numlstm.module import Module
from numlstm.runtime.call import Call

if TYPE_CHECKING:
    from numlstm.parameter_types import CellParameters
else:
    CellParameters = Module


class LSTMCell(CellParameters):
    """One step of one LSTM layer, with the interface and the conventions of ``torch.nn.LSTMCell``.

    The results have the same bits as those of an `LSTM` of one layer over one step.

    Parameters
    ----------
    input_size : int
        Features of the input.
    hidden_size : int
        Hidden units.
    bias : bool
        Whether there are ``bias_ih`` and ``bias_hh``; otherwise both are None.
    device : None or "cpu"
        Only the CPU is supported.
    dtype : dtype, optional
        float32 (the default) or float64, of parameters and results.
    seed : int, optional
        Or anything else that `numpy.random.default_rng` takes. The same seed gives the same parameters.
    cell_options : CellOptions, optional
        Other activations, peepholes and more, as of an `LSTM`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : ndarray
        Parameters of shapes (4 * hidden_size, input_size), (4 * hidden_size, hidden_size) and twice
        (4 * hidden_size,), with gate blocks in the order i, f, g, o. Reading one gives a read-only copy. Assign an
        array to change one.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value.
    NotImplementedError
        A device other than the CPU.

    Examples
    --------
    >>> import numpy as np
    >>> cell = LSTMCell(10, 20, seed=0)
    >>> cell
    LSTMCell(10, 20)
    >>> h, c = np.zeros((3, 20)), np.zeros((3, 20))
    >>> for step in np.ones((2, 3, 10)):
    ...     h, c = cell(step, (h, c))
    >>> h.shape, h.dtype
    ((3, 20), dtype('float32'))
    """

    _suffix = "_l0"
    _kind = "LSTMCell"
    _closed = True
    _fixed = Module._fixed | {"cell_options"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: object = None,
        dtype: object = None,
        *,
        seed: Any = None,
        cell_options: CellOptions | None = None,
    ) -> None:
        config = cell_config(input_size, hidden_size, bias)._replace(cell_options=checked_options(cell_options))
        check_cpu(device, "LSTMCell")
        self._start(config, parameter_dtype(dtype), seed)

    def _found(self, name: str) -> Any:
        if name in ("bias_ih", "bias_hh") and "_model" in self.__dict__ and not self.bias:
            return None
        return super()._found(name)

    def extra_repr(self) -> str:
        """The text between the parentheses of the repr."""
        text = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else f", bias={self.bias}")
        return text if self.cell_options.plain else f"{text}, cell_options={self.cell_options!r}"

    @property
    def cell_options(self) -> CellOptions:
        """Activations and other variants of the cell."""
        return self._config.cell_options

    def forward(self, input: np.typing.ArrayLike, hx: StatesLike | None = None) -> States:
        """Run one step.

        Parameters
        ----------
        input : array_like
            (batch, input_size), or unbatched (input_size,). Any real dtype, byte order and strides.
        hx : (array_like, array_like), optional
            h_0 and c_0 of shape (batch, hidden_size), or unbatched (hidden_size,). Zeros by default.

        Returns
        -------
        (h_1, c_1) : tuple of ndarray
            The states after the step, shaped like h_0 and c_0: new arrays that share no memory.

        Raises
        ------
        ValueError
            The input or a state is not 1-D or 2-D.
        RuntimeError
            Sizes of input or states do not fit, with PyTorch's text.
        TypeError
            An array does not hold real numbers, or `hx` is not a tuple.
        IndexError
            `hx` has fewer than two items, or its arrays have too few axes.
        AttributeError
            The input is a packed sequence, with PyTorch's text.
        """
        model = self._model
        panels, executor = model.panels, model.executor
        fast_call = executor.inline_cache[0]
        results = None if fast_call is None else fast_call(input, hx, panels.data)
        if results is None:
            results = executor.dispatch(0, input, hx, panels.data)
        if results is not None:
            states: States = results[1]
            return states
        dtype = panels.dtype
        if type(input) is ndarray and input.dtype is dtype:
            x = input
        else:
            check_not_packed(input)
            x = real_array("input", input)
        x = own_shape(x)
        shapes = self._seen.get(x.shape)
        if shapes is None:
            shapes = cell_call(model.config, x.shape, hx)
            self._remember(shapes, x.shape)
        axes = (None, None) if shapes.unbatched else (None,)  # one step, and a batch of one
        h_0, c_0 = (None, None) if hx is None else cell_states(shapes, hx, dtype)
        if h_0 is not None and c_0 is not None:
            h_0, c_0 = h_0[axes], c_0[axes]
        output, h_1, c_1 = empty(shapes.hidden, dtype), empty(shapes.hidden, dtype), empty(shapes.cell, dtype)
        call = Call(panels, x[axes], h_0, c_0, output[axes], h_1[axes], c_1[axes])
        executor.run(call)
        executor.install_fast_call(call, 0, x.shape, (shapes.hidden, shapes.hidden, shapes.cell))
        return h_1, c_1

    __call__ = forward

    def vjp(self, input: np.typing.ArrayLike, hx: Any = None) -> tuple[States, Callable[..., Gradients]]:
        """Run one step as `forward` does, and return its backward pass too, for training.

        Parameters
        ----------
        input, hx
            As for `forward`. Copied, and never written to.

        Returns
        -------
        (h_1, c_1) : tuple of ndarray
            What `forward` returns, to the bit.
        backward : callable
            ``backward(d_output=None, d_hx=None, *, input_grad=True)`` as that of `LSTM.vjp`: ``d_hx`` are the
            gradients by h_1 and c_1, ``d_output`` one by h_1 that is added to them.

        Raises
        ------
        ValueError, RuntimeError, TypeError, IndexError, AttributeError
            As `forward` raises them.
        NotImplementedError
            The cell has options.

        Examples
        --------
        >>> import numpy as np
        >>> cell = LSTMCell(2, 3, seed=0)
        >>> (h, c), backward = cell.vjp(np.ones((4, 2)))
        >>> grads = backward(d_hx=(np.ones_like(h), np.zeros_like(c)))
        >>> grads.input.shape, grads.hx, sorted(grads.parameters)
        ((4, 2), None, ['bias_hh', 'bias_ih', 'weight_hh', 'weight_ih'])
        """
        model = self._model
        training = model.executor.training
        if training is not None and type(input) is np.ndarray and (small := training.small.get(input.shape)):
            found = small(model.panels, input, hx)
            if found is not None:
                (_, h_and_c), backward = found
                return h_and_c, backward
        check_plain("vjp", self)
        from numlstm.autodiff import calls

        return calls.cell_vjp(model.executor, model.panels, model.config, input, hx)
