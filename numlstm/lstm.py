"""LSTM: ``torch.nn.LSTM`` in NumPy, for inference and training.

A call whose shapes were seen before is a fast call (``runtime/fast_call.py``): machine code checks its arrays.
Otherwise `LSTM._run` checks them, names them in a `Call`, and hands that to the executor (``runtime/executor.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy import empty, ndarray

from numlstm import lazy
from numlstm.base.cell_options import CellOptions
from numlstm.base.config import Config
from numlstm.base.typing import Array, Result, States, StatesLike
from numlstm.base.validation.arguments import (
    check_direction,
    check_flag,
    check_float_weights,
    check_plain,
    checked_options,
    device_name,
    dropout_probability,
    lstm_config,
    parameter_dtype,
    weights_kind,
)
from numlstm.base.validation.arrays import own_shape, real_array
from numlstm.base.validation.out import out_arrays
from numlstm.base.validation.shapes import check_no_lengths, lstm_call, lstm_states
from numlstm.kernels.plan_layout import INT8
from numlstm.module import Model, Module, changing
from numlstm.runtime.call import Call, Dropout

if TYPE_CHECKING:
    from numlstm.parameter_types import LSTMParameters
else:
    LSTMParameters = Module


MASK_SIZE = 2**17  # numbers of a dropout mask drawn at a time: 1 MB


def _cuda() -> Any:
    """The module that runs calls on CUDA, or an error that says what is missing."""
    from numlstm.cuda import presence

    presence.require()
    from numlstm.cuda import runner

    return runner


class LSTM(LSTMParameters):
    """A stack of long short-term memory layers, with the interface and the conventions of ``torch.nn.LSTM``.

    For each step t of the input, each layer computes::

        i = sigmoid(W_ii x_t + b_ii + W_hi h + b_hi)      input gate
        f = sigmoid(W_if x_t + b_if + W_hf h + b_hf)      forget gate
        g = tanh(W_ig x_t + b_ig + W_hg h + b_hg)         cell candidate
        o = sigmoid(W_io x_t + b_io + W_ho h + b_ho)      output gate
        c = f * c + i * g
        h = o * tanh(c)                                   or W_hr (o * tanh(c)) with proj_size

    (Hochreiter and Schmidhuber 1997, Gers et al. 1999; the projection is that of Sak et al. 2014.)

    Parameters
    ----------
    input_size : int
        Features of a step's input.
    hidden_size : int
        Hidden units, of each layer and direction.
    num_layers : int
        Layers; each reads the output of the one below.
    bias : bool
        Whether there are ``bias_ih`` and ``bias_hh``.
    batch_first : bool
        Whether input and output are (batch, steps, features) rather than (steps, batch, features). It does not
        affect the states.
    dropout : float
        Probability of zeroing a number between layers, in train mode only. The others are divided by 1 - dropout.
    bidirectional : bool
        Whether a second direction runs from the last step to the first. Its output follows that of the first.
    proj_size : int
        Size of the projection of h, smaller than hidden_size; 0 for none.
    device : None, "cpu" or "cuda"
        Where calls run. CUDA needs the extra ``cuda12`` or ``cuda13``; see ``docs/cuda.md``.
    dtype : dtype, optional
        float32 (the default) or float64, of parameters and results.
    seed : int, optional
        Or anything else that `numpy.random.default_rng` takes. The same seed gives the same parameters and dropout.
    cell_options : CellOptions, optional
        Other activations, peepholes and more: another cell than PyTorch's. See `CellOptions` and
        ``docs/differences.md``.

    Attributes
    ----------
    weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}, weight_hr_l{k} : ndarray
        Parameters of layer k, of shapes (4 * hidden_size, in), (4 * hidden_size, out), (4 * hidden_size,),
        (4 * hidden_size,) and (proj_size, hidden_size), with gate blocks in the order i, f, g, o. The names of the
        second direction end in ``_reverse``. Reading one gives a read-only copy. Assign an array to change one.
    training : bool
        Whether dropout is applied; True for a new LSTM.
    batch_first, dropout
        As above; both can be changed.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or value; with PyTorch's text.
    NotImplementedError
        The device is not supported.
    RuntimeError
        CUDA's driver, device or extra is missing.

    See Also
    --------
    LSTMCell : One step of one layer.
    from_torch : An LSTM with the parameters of a ``torch.nn.LSTM``.

    Notes
    -----
    Every difference from ``torch.nn.LSTM`` is listed in ``docs/differences.md``.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = LSTM(6, 4, num_layers=2, seed=0)
    >>> lstm
    LSTM(6, 4, num_layers=2)
    >>> x = np.ones((5, 1, 6), np.float32)
    >>> output, (h_n, c_n) = lstm(x)
    >>> output.shape, h_n.shape, c_n.shape
    ((5, 1, 4), (2, 1, 4), (2, 1, 4))
    >>> bool((output[-1] == h_n[-1]).all())
    True
    """

    mode = "LSTM"
    _closed = True
    _fixed = Module._fixed | {"num_layers", "bidirectional", "proj_size", "mode", "cell_options", "weights"}

    def __init__(  # noqa: PLR0913, PLR0917 (the arguments of torch.nn.LSTM)
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: object = None,
        dtype: object = None,
        *,
        seed: Any = None,
        cell_options: CellOptions | None = None,
    ) -> None:
        config = lstm_config(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        config = config._replace(cell_options=checked_options(cell_options))
        if device_name(device) == "cuda":  # before parameters are drawn for nothing
            _cuda()
        self._start(config, parameter_dtype(dtype), seed)
        self._place(device)

    # ------------------------------------------------------------ sizes and flags

    @property
    def num_layers(self) -> int:
        """Layers."""
        return self._config.num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether there is a second direction."""
        return self._config.bidirectional

    @property
    def proj_size(self) -> int:
        """Size to which h is projected; 0 for no projection."""
        return self._config.proj_size

    @property
    def batch_first(self) -> bool:
        """Whether the batch is the first axis of input and output."""
        return self._config.batch_first

    @batch_first.setter
    def batch_first(self, value: bool) -> None:
        check_flag("batch_first", value)
        self._change(batch_first=value)

    @property
    def direction(self) -> str:
        """The order of the steps: "forward", or "reverse" or "go_backwards" for LSTMs of ONNX and Keras files.

        With "reverse", the LSTM runs from the last step to the first, and each output is at the step that it belongs
        to. "go_backwards" is the same, but the output has the order in which it was computed, as in Keras. In a packed
        or padded batch, each sequence is turned around within its length.
        """
        return self._config.direction

    @direction.setter
    def direction(self, value: str) -> None:
        check_direction(self._config, value)
        if value != "forward":
            self._cpu_only(f"direction={value!r}")
        self._change(direction=value)

    @property
    def cell_options(self) -> CellOptions:
        """Activations and other variants of the cell."""
        return self._config.cell_options

    @property
    def weights(self) -> str:
        """The number type of the weight matrices: `dtype`'s, "bfloat16" or "int8"; see `quantize_weights`."""
        return self._config.number(self.dtype)

    @property
    def dropout(self) -> float:
        """Probability of zeroing a number between layers, in train mode."""
        return self._config.dropout

    @dropout.setter
    def dropout(self, value: float) -> None:
        self._change(dropout=dropout_probability(value))

    def _change(self, **flags: Any) -> None:
        with changing:
            self._model = self._model.replace(config=self._config._replace(**flags))

    @property
    def _gpu(self) -> Any:
        return self._model.gpu

    def extra_repr(self) -> str:
        """The text between the parentheses of the repr: the sizes, and each flag that differs from its default."""
        config = self._config
        text = f"{config.input_size}, {config.hidden_size}"
        if config.proj_size != 0:
            text += f", proj_size={config.proj_size}"
        if config.num_layers != 1:
            text += f", num_layers={config.num_layers}"
        if not config.bias:
            text += f", bias={config.bias}"
        if config.batch_first:
            text += f", batch_first={config.batch_first}"
        if config.dropout != 0:
            text += f", dropout={config.dropout}"
        if config.bidirectional:
            text += f", bidirectional={config.bidirectional}"
        if config.direction != "forward":
            text += f", direction={config.direction!r}"
        if not config.cell_options.plain:
            text += f", cell_options={config.cell_options!r}"
        if config.weights:
            text += f", weights={config.weights!r}"
        return text

    def quantize_weights(self, weights: str) -> LSTM:
        """Return an LSTM whose weight matrices have fewer bits. Input, states, biases and results stay float32.

        With "bfloat16", each weight is rounded to the nearest number of 8 significant bits, and half as much memory is
        read at a step. The result has the bits of a float32 LSTM with the rounded weights. `numlstm.reference`
        computes the same, since `state_dict` returns the rounded weights as float32.

        With "int8", each row of a weight matrix becomes integers from -127 to 127 and a scale. Input and h are rounded
        in the same way at each step, and products are summed as integers. See ``docs/quantization.md``.

        Parameters
        ----------
        weights : {"bfloat16", "int8", "float32"}
            "float32" returns an LSTM of the present weights, rounded or not.

        Returns
        -------
        LSTM
            A new one, on the CPU, in the mode of this one.

        Raises
        ------
        ValueError
            Another kind of weights, the LSTM is not in float32, or a weight is not finite and has no int8.

        Examples
        --------
        >>> lstm = LSTM(128, 128, seed=0).eval()
        >>> quantized = lstm.quantize_weights("bfloat16")
        >>> quantized
        LSTM(128, 128, weights='bfloat16')
        >>> x = np.ones((10, 1, 128), np.float32)
        >>> bool(np.abs(quantized(x)[0] - lstm(x)[0]).max() < 0.01)
        True
        """
        config = self._config._replace(weights=weights_kind(weights, self.dtype))
        made = LSTM._from_parameters(config, self.dtype, self._parameters())
        return made.train(self.training)

    @property
    def all_weights(self) -> list[list[Array]]:
        """The parameters as read-only arrays, one list for each layer and direction."""
        panels = self._panels
        return [
            [panels.parameter(name + suffix) for name in self._config.cell_shapes(layer)]
            for layer, _, suffix in self._config.cells()
        ]

    def flatten_parameters(self) -> None:
        """Do nothing: parameters are always packed. PyTorch has the method."""

    def pool(self, capacity: int | None = None) -> lazy.Pool:
        """Return a pool: many live sequences with a state each. Those present at a step run as one batch.

        It keeps the current weights until `Pool.refresh`, and runs without dropout.

        Parameters
        ----------
        capacity : int, optional
            How many sessions can be open at once; their memory is allocated now. By default it doubles when needed.

        Raises
        ------
        ValueError
            The LSTM is bidirectional, or the capacity is below 1.
        TypeError
            The capacity is not an int.
        MemoryError
            There is not enough memory for the states.

        Examples
        --------
        >>> pool = LSTM(2, 3, seed=1).pool()
        >>> session = pool.open()
        >>> pool.step({session: [0.5, 1.0]})[session].shape
        (3,)
        """
        self._cpu_only("pool")
        return lazy.Pool(self._config, self._panels, capacity, lambda: self._panels)

    # ------------------------------------------------------------ the device

    def _place(self, device: object) -> None:
        on_cuda = device_name(device) == "cuda"
        if on_cuda == (self._gpu is not None):
            return
        if on_cuda:
            self._forward_only("CUDA")
            check_plain("CUDA", self)
            if self.weights == INT8:
                raise NotImplementedError(f"weights in int8 run on the CPU alone, and this is {self!r}")
        gpu = _cuda().Runner() if on_cuda else None
        with changing:
            self._model = self._model.replace(gpu=gpu)

    @property
    def device(self) -> str:
        """Where calls run: "cpu" or "cuda"."""
        return "cpu" if self._gpu is None else "cuda"

    def _cpu_only(self, what: str) -> None:
        if self._gpu is not None:
            raise NotImplementedError(
                f"{what} is built for the CPU alone, and {self!r} is on CUDA\nCall to('cpu') first."
            )

    def _forward_only(self, what: str) -> None:
        if self.direction != "forward":
            raise NotImplementedError(
                f"{what} is built for LSTMs that run forward, and {self!r} begins at the last step\n"
                "Set direction to 'forward', and reverse the time axis of the input."
            )

    def _twin(self) -> LSTM:
        twin = super()._twin()
        if self._gpu is not None:
            twin._place("cuda")
        return twin

    # ------------------------------------------------------------ a call

    @overload
    def forward(
        self,
        input: lazy.PackedSequence,
        hx: StatesLike | None = None,
        *,
        lengths: None = None,
        out: Sequence[Array] | None = None,
    ) -> tuple[lazy.PackedSequence, States]: ...

    @overload
    def forward(
        self,
        input: np.typing.ArrayLike,
        hx: StatesLike | None = None,
        *,
        lengths: np.typing.ArrayLike | None = None,
        out: Sequence[Array] | None = None,
    ) -> Result: ...

    def forward(
        self, input: Any, hx: Any = None, *, lengths: Any = None, out: Any = None
    ) -> Result | tuple[lazy.PackedSequence, States]:
        """Run the LSTM over whole sequences.

        Parameters
        ----------
        input : array_like or PackedSequence
            (steps, batch, input_size), or (batch, steps, input_size) with ``batch_first``, or unbatched
            (steps, input_size). Any real dtype, byte order and strides; converted to the LSTM's dtype, never
            written to. The batch may be empty, the sequence may not. Sequences of different lengths may be packed.
        hx : (array_like, array_like), optional
            h_0 of shape (num_layers * num_directions, batch, proj_size or hidden_size) and c_0 of shape
            (num_layers * num_directions, batch, hidden_size), both without batch for unbatched input. Zeros by
            default.
        lengths : array_like of int, (batch,), optional
            Steps of each sequence of a padded batch, in any order. The padding is not read. The results have the
            same bits as those of the packed sequences. A sequence of length 0 has no output but zeros, and keeps its
            state.
        out : (ndarray, ndarray, ndarray), optional
            Arrays for output, h_n and c_n: C-contiguous, of the LSTM's dtype and the shapes below. They share no
            memory with each other, the input or the states, except that h_n may be the array passed as h_0, and c_n
            the one passed as c_0. For a packed input, the first is for the data of the output.

        Returns
        -------
        output : ndarray or PackedSequence
            h of the last layer at every step: (steps, batch, num_directions * (proj_size or hidden_size)), with
            axes as in the input; packed if the input is. With `lengths`, zeros behind the end of a sequence.
        (h_n, c_n) : tuple of ndarray
            The states after the last step of each sequence (the first step, in the second direction), shaped like
            h_0 and c_0, in the order of the batch before packing. The results are the arrays of `out`, or new ones
            that share no memory.

        Raises
        ------
        ValueError
            The input is not 2-D or 3-D, or unbatched with `lengths`; or `out` has the wrong shape, is not
            C-contiguous or writeable, or overlaps another array.
        RuntimeError
            Sizes of input or states do not fit, or there is no step; with PyTorch's text. Or a length is below 0 or
            above the steps of the input, or the parts of a packed sequence do not fit together.
        TypeError
            An array does not hold real numbers, a length is not a whole number, `hx` is not a tuple, `out` has the
            wrong type or dtype, or `lengths` are given for a packed input.
        IndexError
            `hx` has fewer than two items.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(2, 3, seed=1)
        >>> x = np.arange(8).reshape(4, 2)
        >>> whole, _ = lstm(x)
        >>> first, state = lstm(x[:3])
        >>> last, _ = lstm(x[3:], state)
        >>> bool((np.concatenate([first, last]) == whole).all())
        True

        A batch of two sequences, one of four steps and one of two:

        >>> output, (h_n, c_n) = lstm(np.stack([x, x], axis=1), lengths=[4, 2])
        >>> bool((output[:, 0] == whole).all() and (h_n[0, 1] == whole[1]).all() and (output[2:, 1] == 0).all())
        True
        """
        model = self._model  # for the whole call, whatever is assigned meanwhile
        if out is None and lengths is None and model.gpu is None and not (model.drops and self.training):
            fast_call, data = model.executor.inline_cache[model.order], model.panels.data
            results: Result | None = None if fast_call is None else fast_call(input, hx, data)
            if results is None:
                results = model.executor.dispatch(model.order, input, hx, data)
            if results is not None:
                return results
        return self._run(model, input, hx, lengths, out)

    __call__ = forward

    def _run(
        self, model: Model, input: Any, hx: Any, lengths: Any, out: Any
    ) -> Result | tuple[lazy.PackedSequence, States]:
        """`forward` without a fast call: check the arguments, and let the executor run the call."""
        config, panels, executor, gpu = model.config, model.panels, model.executor, model.gpu
        if config.direction != "forward":
            from numlstm.sequences import backwards

            ahead = model.replace(config=config._replace(direction="forward"))
            turned: Result = backwards.run(partial(self._run, ahead), config, input, hx, lengths, out)
            return turned
        if gpu is not None:
            drops = self.training and model.drops
            on_device: Result = gpu.forward(
                panels, config, input, hx, lengths, out, partial(self._masks, config) if drops else None
            )
            return on_device
        is_array, dtype = type(input) is ndarray and lengths is None, panels.dtype
        if not is_array and (lengths is not None or hasattr(input, "batch_sizes")):
            from numlstm.sequences import ragged

            masks = partial(self._dropout, config)
            if not hasattr(input, "batch_sizes"):
                return ragged.run_padded(executor, panels, config, masks, input, hx, lengths, out)
            check_no_lengths(lengths)
            return ragged.run_packed(executor, panels, config, masks, input, hx, out)
        given = input if is_array and input.dtype is dtype else real_array("input", input)
        # Read flags and shapes once: reading the states may run code that changes them.
        x = own_shape(given)
        shape, key = x.shape, (config.batch_first, x.shape)
        shapes = self._seen.get(key)
        if shapes is None:
            shapes = lstm_call(config, shape, hx)
            self._remember(shapes, key)
        h_0, c_0 = (None, None) if hx is None else lstm_states(shapes, hx, dtype)
        if out is None:
            output, h_n, c_n = empty(shapes.output, dtype), empty(shapes.hidden, dtype), empty(shapes.cell, dtype)
            results = output, h_n, c_n
        else:
            output, h_n, c_n = out_arrays(out, shapes, dtype, given, hx)
            results = out
        if shapes.unbatched:  # a batch of one
            x, output, h_n, c_n = x[:, None], output[:, None], h_n[:, None], c_n[:, None]
            if h_0 is not None and c_0 is not None:
                h_0, c_0 = h_0[:, None], c_0[:, None]
        elif shapes.swap:
            x, output = x.transpose(1, 0, 2), output.transpose(1, 0, 2)
        call = Call(panels, x, h_0, c_0, output, h_n, c_n, self._dropout(config) if model.drops else None)
        executor.run(call)
        if out is None:
            executor.install_fast_call(call, model.order, shape, (shapes.output, shapes.hidden, shapes.cell))
        return results[0], (results[1], results[2])

    def vjp(self, input: Any, hx: Any = None, *, lengths: Any = None, memory: str = "all") -> tuple[Any, lazy.Backward]:
        """Run the LSTM as `forward` does, and return its backward pass too, for training.

        Parameters
        ----------
        input, hx, lengths
            As for `forward`. Copied, and never written to.
        memory : "all" or "low"
            What is kept for the backward pass. With "all", everything that spares it work: some 24 bytes a step, row
            and hidden unit in float32. With "low", some 4.3 bytes: the gates are computed again, which takes as long
            as another forward pass. The gradients have the same bits.

        Returns
        -------
        result : (output, (h_n, c_n))
            What `forward` returns, to the bit; in train mode with dropout, for the same state of the generator.
        backward : callable
            ``backward(d_output=None, d_hx=None, *, input_grad=True)`` gives ``.input``, ``.hx`` and ``.parameters``,
            the gradients of a loss by what the call was given, from those by its results. See `Backward`.

        Raises
        ------
        ValueError, RuntimeError, TypeError, IndexError
            As `forward` raises them.
        NotImplementedError
            The LSTM is on CUDA, runs from the last step to the first, or has cell options or rounded weights.

        Notes
        -----
        Gradients of input and states have the same bits in any batch and however a sequence is cut; those of
        parameters are sums over all steps and rows, whose bits depend on the cut. A row with NaN or infinity spoils
        its own gradients, and those of the parameters.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(2, 3, seed=1)
        >>> x = np.arange(8).reshape(4, 2)
        >>> (output, _), backward = lstm.vjp(x)
        >>> grads = backward(np.ones_like(output))
        >>> grads.input.shape, sorted(grads.parameters)
        ((4, 2), ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0'])
        """
        model = self._model  # for the whole call, whatever is assigned meanwhile
        if type(input) is np.ndarray and lengths is None and memory == "all" and not (model.order or model.drops):
            training = None if model.gpu is not None else model.executor.training
            small = None if training is None else training.small.get(input.shape)
            found: tuple[Any, lazy.Backward] | None = small and small(model.panels, input, hx)
            if found is not None:
                return found
        if memory not in {"all", "low"}:
            raise ValueError(f"memory must be 'all' or 'low'\nIt is {memory!r}.")
        self._cpu_only("vjp")
        self._forward_only("vjp")
        check_plain("vjp", self)
        check_float_weights("vjp", self)
        from numlstm.autodiff import calls

        masks = partial(self._dropout, model.config)
        return calls.lstm_vjp(model.executor, model.panels, model.config, masks, input, hx, lengths, memory == "low")

    def stream(self, batch_size: int = 1) -> lazy.Stream:
        """Return a stream: the LSTM with a state of its own that continues from call to call, step by step.

        It keeps the current weights until `Stream.refresh`, starts from zeros, and runs without dropout. The stream of
        an LSTM on CUDA has its state and its buffers there.

        Parameters
        ----------
        batch_size : int
            Sequences that run side by side.

        Raises
        ------
        ValueError
            The LSTM is bidirectional, or `batch_size` is below 1.
        TypeError
            `batch_size` is not an int.

        Examples
        --------
        >>> stream = LSTM(2, 3, seed=1).stream()
        >>> stream([0.5, 1.0]).shape
        (3,)
        """
        if self._gpu is not None:
            from numlstm.cuda import lstm_stream

            make: Any = lstm_stream.Stream
            stream: lazy.Stream = make(self._config, self._panels, batch_size, lambda: self._panels, self._gpu.weights)
            return stream
        return lazy.Stream(self._config, self._panels, batch_size, lambda: self._panels, self._model.executor)

    def trace(self, input: np.typing.ArrayLike, hx: StatesLike | None = None) -> lazy.Trace:
        """Run the LSTM as `forward` does, and record gates and states of every layer and direction at every step.

        Parameters
        ----------
        input, hx
            As for `forward`. Never written to; the trace holds copies.

        Returns
        -------
        Trace
            ``trace["l0"].f`` is the forget gate of the first layer, ``trace["l0_reverse"].c`` the cell state of its
            second direction; ``output``, ``h_n`` and ``c_n`` are the results of the call. Arrays have the axes of the
            input, also with ``batch_first`` and without a batch. Step t is at index t in both directions.

        Raises
        ------
        ValueError, RuntimeError, TypeError, IndexError
            As in `forward`; TypeError also for a packed sequence.

        See Also
        --------
        plot_trace : Draws a trace.

        Notes
        -----
        h, c, output, h_n and c_n have the bits of a `forward` call (in train mode with dropout: of one with the same
        state of the generator). The kernel never holds i, f, g and o as numbers. They are computed separately from
        the x and h of each step by the equations of this class, in float64 for float32 and in longdouble for float64,
        and rounded once. Their error is half a unit in the last place plus the error of the wider dtype. As in the
        kernel, a sigmoid of less than -87 (float32) or -708 (float64) is 0.

        A trace runs on one thread, takes 6 to 70 times the time of a call, and needs the memory of six arrays of
        (steps, batch, hidden_size) for each layer and direction. See ``docs/trace.md``.

        Examples
        --------
        >>> import numpy as np
        >>> lstm = LSTM(2, 3, seed=1)
        >>> x = np.arange(8).reshape(4, 2)
        >>> trace = lstm.trace(x)
        >>> trace["l0"].f.shape, bool((trace["l0"].h == lstm(x)[0]).all())
        ((4, 3), True)
        """
        self._cpu_only("trace")
        self._forward_only("trace")
        from numlstm.tracing import record

        panels, config = self._panels, self._config
        if hasattr(input, "batch_sizes"):
            raise TypeError(
                f"input must be an array, not a {type(input).__name__}\n"
                "Trace each sequence by itself, cut to its length."
            )
        given = own_shape(real_array("input", input))
        call = lstm_call(config, given.shape, hx)
        if hx is not None:
            hx = lstm_states(call, hx, panels.dtype)
        return record.record(self._model.executor, panels, call, given, hx, self._dropout(config))

    def _dropout(self, config: Config) -> Dropout | None:
        """The dropout of one call; None if it has none."""
        return self._masks(config) if self.training and config.dropout > 0 else None

    def _masks(self, config: Config) -> Callable[[Array], None] | None:
        """The function that zeroes numbers between layers. It draws one seed a call, so that threads do not mix."""
        if config.num_layers == 1:
            return None
        keep = 1 - config.dropout
        rng = np.random.default_rng(self._rng.integers(2**63))

        def drop(sequence: Array) -> None:
            scale = sequence.dtype.type(1) / sequence.dtype.type(keep) if keep > 0 else 0
            steps, batch, features = sequence.shape
            rows = max(1, MASK_SIZE // max(1, features))  # drawn in the order of memory, however it is cut
            many = max(1, rows // max(1, batch))
            for step in range(0, steps, many):
                for row in range(0, batch, rows):
                    part = sequence[step : step + many, row : row + rows]
                    with np.errstate(invalid="ignore"):  # infinity times 0 is NaN, as in PyTorch
                        part *= np.where(rng.random(part.shape) < keep, scale, 0).astype(part.dtype, copy=False)

        return drop
