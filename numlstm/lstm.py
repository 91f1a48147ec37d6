"""LSTM: what ``torch.nn.LSTM`` is for inference, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy import empty, ndarray
from numpy.typing import ArrayLike, NDArray

from numlstm import checks, engine
from numlstm.config import Config
from numlstm.module import Module, changing

Array = NDArray[Any]
Result = tuple[Array, tuple[Array, Array]]

MASK_SIZE = 2**17  # numbers of a dropout mask drawn at a time: 1 MB


def _call_forward(self: LSTM, *arguments: Any, **named: Any) -> Any:
    """Run the ``forward`` of whatever class the object is of."""
    return self.forward(*arguments, **named)


def _cuda() -> Any:
    """The path of CUDA, or the error that says what it lacks here."""
    from numlstm.cuda import presence

    presence.require()
    from numlstm.cuda import run

    return run


class LSTM(Module):
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
        Whether input and output are (batch, steps, features) rather than (steps, batch, features). The states are
        not touched by it.
    dropout : float
        Probability with which a number is zeroed between layers, in train mode only; the rest is divided by
        1 - dropout.
    bidirectional : bool
        Whether a second direction runs from the last step to the first; its output stands behind the first one's.
    proj_size : int
        Size to which h is projected, smaller than hidden_size; 0 for no projection.
    device : None, "cpu" or "cuda"
        Where calls run. CUDA takes the extra ``cuda12`` or ``cuda13``; see ``docs/cuda.md``.
    dtype : dtype, optional
        float32 (the default) or float64, of parameters and results.
    seed : int, optional
        What `numpy.random.default_rng` takes. The same seed gives the same parameters and the same dropout.

    Attributes
    ----------
    weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}, weight_hr_l{k} : ndarray
        Parameters of layer k, of shapes (4 * hidden_size, in), (4 * hidden_size, out), (4 * hidden_size,),
        (4 * hidden_size,) and (proj_size, hidden_size), with gate blocks in the order i, f, g, o; the second
        direction's end in ``_reverse``. Reading one gives a read-only copy. Assign an array to change one.
    training : bool
        Whether dropout acts; True for a new LSTM.
    batch_first, dropout
        As above; they may be changed.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type or value, with PyTorch's text.
    NotImplementedError
        Another device.
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
    _gpu: Any = None  # on CUDA: what runs calls there
    _fixed = Module._fixed | {"num_layers", "bidirectional", "proj_size", "mode"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        seed: Any = None,
    ) -> None:
        config = checks.lstm_config(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size
        )
        if checks.device(device) == "cuda":  # before parameters are drawn for nothing
            _cuda()
        self._start(config, checks.parameter_dtype(dtype), seed)
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
        """Whether the batch stands before the steps in input and output."""
        return self._config.batch_first

    @batch_first.setter
    def batch_first(self, value: bool) -> None:
        checks.flag("batch_first", value)
        self._change(batch_first=value)

    @property
    def dropout(self) -> float:
        """Probability of zeroing a number between layers, in train mode."""
        return self._config.dropout

    @dropout.setter
    def dropout(self, value: float) -> None:
        self._change(dropout=checks.dropout_probability(value))

    def _change(self, **flags: Any) -> None:
        with changing:
            self._config = replace(self._config, **flags)

    def extra_repr(self) -> str:
        """What stands between the parentheses of the repr: the sizes, and each flag that is not at its default."""
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
        return text

    @property
    def all_weights(self) -> list[list[Array]]:
        """The parameters as read-only arrays, one list for each layer and direction."""
        panels = self._panels
        return [
            [panels.parameter(name + suffix) for name in self._config.cell_shapes(layer)]
            for layer, _, suffix in self._config.cells()
        ]

    def flatten_parameters(self) -> None:
        """Do nothing: parameters are always packed. It is there because PyTorch's is."""

    # ------------------------------------------------------------ the device

    def _place(self, device: Any) -> None:
        if checks.device(device) == "cpu":
            self.__dict__.pop("_gpu", None)
        elif self._gpu is None:
            self._gpu = _cuda().Runner()

    @property
    def device(self) -> str:
        """Where calls run: "cpu" or "cuda"."""
        return "cpu" if self._gpu is None else "cuda"

    def _twin(self) -> LSTM:
        twin = super()._twin()
        if self._gpu is not None:
            twin._place("cuda")
        return twin

    # ------------------------------------------------------------ a call

    def forward(self, input: ArrayLike, hx: Any = None, *, lengths: Any = None, out: Any = None) -> Result:
        """Run the LSTM over whole sequences.

        Parameters
        ----------
        input : array_like
            (steps, batch, input_size), or (batch, steps, input_size) with ``batch_first``, or unbatched
            (steps, input_size). Any real dtype, byte order and strides; converted to the LSTM's dtype, never
            written to. The batch may be empty, the sequence not.
        hx : (array_like, array_like), optional
            h_0 of shape (num_layers * num_directions, batch, proj_size or hidden_size) and c_0 of shape
            (num_layers * num_directions, batch, hidden_size), both without batch for unbatched input; zeros if
            left out.
        lengths : None
            Not built yet.
        out : (ndarray, ndarray, ndarray), optional
            Where to write output, h_n and c_n: C-contiguous, of the LSTM's dtype and the shapes below, sharing no
            memory with one another, the input or the states; but h_n may be the very array passed as h_0, and c_n
            that passed as c_0.

        Returns
        -------
        output : ndarray
            h of the last layer at every step: (steps, batch, num_directions * (proj_size or hidden_size)), laid
            out as the input is.
        (h_n, c_n) : tuple of ndarray
            The states after the last step, shaped like h_0 and c_0. They are the arrays of `out` if that is
            given, else fresh ones that share memory with nothing.

        Raises
        ------
        ValueError
            The input is not 2-D or 3-D; or `out` has the wrong shape, is not C-contiguous or writeable, or
            overlaps another array.
        RuntimeError
            Sizes of input or states do not fit, or there is no step, with PyTorch's text.
        TypeError
            An array does not hold real numbers, `hx` is no tuple, or `out` is of the wrong type or dtype.
        IndexError
            `hx` has fewer than two items.
        NotImplementedError
            `lengths` is given, or the input is a packed sequence.

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
        """
        panels = self._panels  # the weights of this call, whatever is assigned meanwhile
        config = self._config
        gpu = self._gpu
        if gpu is not None:
            masks = self._masks(config) if self.training and config.dropout > 0 else None
            results: Result = gpu.forward(panels, config, input, hx, lengths, out, masks)
            return results
        kept = panels.memo
        if kept is not None and out is None and lengths is None and not (config.dropout and self.training):
            routes = kept.routes[config.batch_first]
            latest = routes.get(None)
            quick: Result | None = None if latest is None else latest(input, hx, panels.data)
            if quick is None:
                quick = kept.take(routes, input, hx, panels.data)
            if quick is not None:
                return quick
        dtype = panels.dtype
        if type(input) is ndarray and input.dtype is dtype and lengths is None:
            given = input
        else:
            checks.not_built_yet(input, lengths)
            given = checks.real_array("input", input)
        # Flags and shapes are this call's from here to the end: reading the states may run code that changes them.
        array = checks.own_shape(given)
        key = (config.batch_first, array.shape)
        call = self._seen.get(key)
        if call is None:
            call = checks.lstm_call(config, array.shape, hx)
            self._call_for(call, key)
        if hx is not None:
            hx = checks.lstm_states(call, hx, dtype)
        if out is None:
            output, h_n, c_n = empty(call.output, dtype), empty(call.hidden, dtype), empty(call.cell, dtype)
        else:
            output, h_n, c_n = checks.out_arrays(out, call, dtype, given, hx)
        dropout = self._masks(config) if self.training and config.dropout > 0 else None
        if call.unbatched:  # a batch of one
            states = None if hx is None else (hx[0][:, None], hx[1][:, None])
            engine.forward(panels, array[:, None], states, output[:, None], h_n[:, None], c_n[:, None], dropout)
        elif call.swap:
            engine.forward(panels, array.transpose(1, 0, 2), hx, output.transpose(1, 0, 2), h_n, c_n, dropout)
        else:
            engine.forward(panels, array, hx, output, h_n, c_n, dropout)
        if out is not None:
            return out[0], (out[1], out[2])
        engine.add_route(panels, array.shape, call.output, call.hidden, call.cell, config.batch_first)
        return output, (h_n, c_n)

    __call__ = forward  # not a call of it: a step of a small LSTM takes little more than a call of Python's

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Let a call reach the ``forward`` of a subclass."""
        super().__init_subclass__(**arguments)
        if cls.forward is not LSTM.forward and cls.__call__ is LSTM.__call__:
            cls.__call__ = _call_forward  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "forward":
            raise AttributeError(
                f"forward of {self!r} cannot be replaced, since a call would not go through it\n"
                "Define forward in a subclass.",
                name=name,
                obj=self,
            )
        super().__setattr__(name, value)

    def _masks(self, config: Config) -> Callable[[Array], None] | None:
        """What zeroes numbers between layers in one call: one seed is drawn a call, so that threads do not mix."""
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
