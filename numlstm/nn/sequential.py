"""Sequential: an LSTM with the layers around it, as one model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from numlstm import lazy
from numlstm.autodiff.gradients import Gradients, checked_gradient
from numlstm.base.typing import Array
from numlstm.base.validation.arrays import as_dtype, loadable_parameters, real_array
from numlstm.lstm import LSTM
from numlstm.module import IncompatibleKeys
from numlstm.nn.functions import contiguous, last_state
from numlstm.nn.layers import Dropout, Embedding, Layer, LayerNorm, Linear
from numlstm.nn.stages import Stage, initial, stages_of
from numlstm.nn.stream import SequentialStream, stream_of
from numlstm.nn.summary import Row, Summary


class Sequential:
    """Layers that run one after another, as ``torch.nn.Sequential``; an LSTM hands on its output.

    Parameters
    ----------
    *layers : layer, function, or a single mapping of str to these
        `LSTM`, `Embedding`, `Linear`, `LayerNorm`, `Dropout`, functions of `numlstm.nn`, or any function of an array.
        In a mapping each has a name; otherwise its number.
    skip : float
        This much of the input is added to the output, as in many models of guitar amplifiers: its first features, as
        many as the output has.

    Attributes
    ----------
    layers : dict of str to layer
        By name, in order.
    lstms : tuple of LSTM
    initial_states : dict of str to (ndarray, ndarray)
        By the name of an LSTM, h_0 and c_0 of each of its layers and directions, (layers, features), with which every
        sequence begins. Zeros where there are none.

    Raises
    ------
    ValueError
        There is no layer, two layers do not fit together, or they have several dtypes.
    TypeError
        A layer is no function.

    Examples
    --------
    >>> import numpy as np
    >>> from numlstm import LSTM, nn
    >>> tagger = nn.Sequential(nn.Embedding(100, 8, seed=0), LSTM(8, 16, seed=0), nn.Linear(16, 5, seed=0), nn.softmax)
    >>> words = np.array([[4], [17], [99]])
    >>> tagger(words).shape
    (3, 1, 5)
    >>> print(tagger.summary())
    layer  what                                               output     parameters
    0      Embedding(100, 8)                                  (..., 8)          800
    1      LSTM(8, 16)                                        (..., 16)       1,664
    2      Linear(in_features=16, out_features=5, bias=True)  (..., 5)           85
    3      softmax                                            (..., 5)            0
    2,549 parameters

    A classifier goes on from the last state:

    >>> rnn, fc = LSTM(3, 8, bidirectional=True), nn.Linear(16, 2)
    >>> classifier = nn.Sequential({"rnn": rnn, "last": nn.last_state, "fc": fc})
    >>> classifier(np.ones((10, 4, 3))).shape
    (4, 2)
    """

    def __init__(self, *layers: Any, skip: float = 0.0) -> None:
        given = layers[0] if len(layers) == 1 and isinstance(layers[0], Mapping) else None
        named = dict(given) if given is not None else {str(n): layer for n, layer in enumerate(layers)}
        self.layers: dict[str, Any] = {str(name): layer for name, layer in named.items()}
        self.skip = float(skip)
        self.initial_states: dict[str, tuple[Array, Array]] = {}
        self.training = True
        self._sizes = _output_sizes(self.layers)
        dtypes = {str(layer.dtype) for layer in self._modules().values()}
        if len(dtypes) > 1:
            raise ValueError(f"the layers have several dtypes: {', '.join(sorted(dtypes))}\nMake all with the same.")

    def _modules(self) -> dict[str, Any]:
        """The layers with parameters."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, LSTM | Layer)}

    @property
    def lstms(self) -> tuple[LSTM, ...]:
        """The LSTMs in order."""
        return tuple(layer for layer in self.layers.values() if isinstance(layer, LSTM))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and results."""
        return next((layer.dtype for layer in self._modules().values()), np.dtype(np.float32))

    def __repr__(self) -> str:
        lines = [f"  ({name}): {layer!r}" for name, layer in self.layers.items()]
        skip = [f"  skip={self.skip}"] if self.skip else []
        return "\n".join(["Sequential(", *lines, *skip, ")"])

    def summary(self) -> Summary:
        """The layers in order, with the shapes of their outputs and the numbers of their parameters."""
        rows = []
        for (name, layer), size in zip(self.layers.items(), self._sizes, strict=True):
            count = sum(array.size for array in layer.parameters()) if isinstance(layer, LSTM | Layer) else 0
            rows.append(Row(name, _kind(layer), f"(..., {size or '?'})", count))
        return Summary(rows)

    # ------------------------------------------------------------ a call

    def __call__(self, input: ArrayLike, *, lengths: ArrayLike | None = None) -> Array:
        """Run the model.

        Parameters
        ----------
        input : array_like
            What the first layer takes.
        lengths : array_like of int, (batch,), optional
            Steps of each sequence of a padded batch, as every LSTM takes them.

        Returns
        -------
        ndarray
            What the last layer gives; of a last LSTM its output.

        Raises
        ------
        ValueError, RuntimeError, TypeError, IndexError
            As the layers raise them.
        """
        given = contiguous(input, self.dtype) if self.skip else None
        value: Any = input
        for stage in self._stages:
            value = stage.run(value, given, lengths, self.initial_states.get(stage.name))
        output: Array = value
        return output

    @cached_property
    def _stages(self) -> list[Stage]:
        return stages_of(self.layers, self.skip, self.dtype)

    def forward_frame(self, frame: Any, *, group: str, order: str, features: Sequence[str] | None = None) -> Any:
        """Run the model over sequences of any lengths in a pandas DataFrame.

        Parameters
        ----------
        frame : pandas.DataFrame
            A row for each step, in any order.
        group, order : str
            The column that names the sequence of a row, and the column that orders its steps, without ties.
        features : sequence of str, optional
            The input columns in order; default: all others. A model that begins with an Embedding takes one.

        Returns
        -------
        pandas.DataFrame
            The columns `group` and `order`, and ``output_0``, ``output_1``, … of each step, sorted by both. Of a model
            with `last_state`: a row for each sequence, without `order`.

        Raises
        ------
        ValueError
            A column is missing, a key lacks a value, or two steps of a sequence have the same `order`.

        Examples
        --------
        >>> import pandas as pd
        >>> from numlstm import LSTM, nn
        >>> frame = pd.DataFrame({"machine": ["b", "a", "b"], "hour": [2, 1, 1], "heat": [0.5, 0.1, 0.2]})
        >>> model = nn.Sequential(LSTM(1, 4, seed=0), nn.Linear(4, 1, seed=0))
        >>> result = model.forward_frame(frame, group="machine", order="hour")
        >>> result[["machine", "hour"]].values.tolist(), list(result.columns)
        ([['a', 1], ['b', 1], ['b', 2]], ['machine', 'hour', 'output_0'])
        """
        from numlstm.nn import frames

        batch_first = next((lstm.batch_first for lstm in self.lstms), False)
        indices = isinstance(next(iter(self.layers.values())), Embedding)
        options: dict[str, Any] = {"group": group, "order": order, "features": features}
        return frames.forward_frame(self, frame, **options, batch_first=batch_first, indices=indices)

    def vjp(self, input: ArrayLike, *, lengths: ArrayLike | None = None) -> tuple[Array, Callable[..., Gradients]]:
        """Run the model, and return its backward pass too, for training.

        Parameters
        ----------
        input, lengths
            As for a call.

        Returns
        -------
        output : ndarray
        backward : callable
            ``backward(d_output, *, input_grad=True)`` gives ``.input``, the gradient by the input (None for indices),
            and ``.parameters``, by the names of the state dict.

        Raises
        ------
        TypeError
            A layer is a function without a derivative. The message names it.

        Examples
        --------
        >>> from numlstm import LSTM, nn
        >>> model = nn.Sequential(LSTM(2, 3, seed=0), nn.Linear(3, 1, seed=0))
        >>> output, backward = model.vjp([[0.5, 1.0], [1.0, 0.5]])
        >>> sorted(backward(np.ones_like(output)).parameters)[-2:]
        ['1.bias', '1.weight']
        """
        x: Any = real_array("input", input) if self.skip else input
        value: Any = x
        passes: list[tuple[str, Callable[..., Gradients]]] = []
        for name, layer in self.layers.items():
            if isinstance(value, tuple) and layer is not last_state:
                value = value[0]
            if not hasattr(layer, "vjp"):
                raise TypeError(f"layer {name!r} has no derivative: {layer!r}\nGive it a method vjp.")
            if isinstance(layer, LSTM):
                hx = initial(layer, value, self.initial_states.get(name))
                value, backward = layer.vjp(value, hx, lengths=lengths)
            else:
                value, backward = layer.vjp(value)
            passes.append((name, backward))
        output: Array = value[0] if isinstance(value, tuple) else value
        if self.skip:
            output = output + as_dtype(x[..., : output.shape[-1]], self.dtype) * self.dtype.type(self.skip)
        shape, dtype = output.shape, output.dtype

        def backward_all(d_output: ArrayLike, *, input_grad: bool = True) -> Gradients:
            d: Any = (checked_gradient("d_output", d_output, shape, dtype),)
            parameters: dict[str, Array] = {}
            for name, backward in reversed(passes):
                own = backward(*d, input_grad=input_grad or name != passes[0][0])
                parameters = {f"{name}.{key}": array for key, array in own.parameters.items()} | parameters
                d = own.input if isinstance(own.input, tuple) else (own.input,)
            of_input = d[0] if input_grad else None
            if of_input is not None and self.skip:
                of_input = np.array(of_input)
                of_input[..., : shape[-1]] += np.asarray(d_output, dtype) * dtype.type(self.skip)
            return Gradients(of_input, None, parameters)

        return output, backward_all

    def sequential(self) -> Self:
        """Return the model itself, as every model of `numlstm.load_model` that is a chain of layers does."""
        return self

    def stream(self, batch_size: int = 1) -> lazy.Stream | SequentialStream:
        """Return the model with a state of its own that continues from call to call, step by step.

        It keeps the current weights until its ``refresh``, starts from zeros, and runs as in eval mode. Its steps have
        the bits of one call over all of them; of `last_state` it gives that after each step.

        Parameters
        ----------
        batch_size : int
            Sequences that run side by side.

        Raises
        ------
        ValueError
            A layer needs later steps, such as a bidirectional LSTM. The message names it.

        Examples
        --------
        >>> from numlstm import LSTM, nn
        >>> model = nn.Sequential(LSTM(1, 8, seed=0), nn.Linear(8, 1, seed=0), nn.tanh).eval()
        >>> x = np.linspace(0, 1, 5)[:, None]
        >>> stream = model.stream()
        >>> bool((np.stack([stream(sample) for sample in x]) == model(x)).all())
        True
        """
        return stream_of(self._stages, batch_size, self.dtype, self.initial_states)

    # ------------------------------------------------------------ parameters, modes, files

    def train(self, mode: bool = True) -> Self:
        """Set train mode, in which dropout drops, for every layer; return the model itself."""
        for layer in self.layers.values():
            if isinstance(layer, LSTM):
                layer.train(mode)
            elif hasattr(layer, "training"):
                layer.training = mode
        self.training = mode
        return self

    def eval(self) -> Self:
        """Set eval mode, the same as ``train(False)``; return the model itself."""
        return self.train(False)

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """Yield names and read-only parameters, in the order of the state dict."""
        for name, layer in self._modules().items():
            for own, array in layer.named_parameters():
                yield f"{name}.{own}", array

    def parameters(self) -> Iterator[Array]:
        """Yield the parameters, read-only."""
        for _, array in self.named_parameters():
            yield array

    def state_dict(self) -> OrderedDict[str, Array]:
        """Return every parameter by its layer's name and its own, as PyTorch names them: writable copies."""
        return OrderedDict((name, np.array(array)) for name, array in self.named_parameters())

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike], strict: bool = True) -> IncompatibleKeys:
        """Take parameters from a state dict: all of them or, on an error, none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            By a layer's name and the parameter's own: ``1.weight_ih_l0``, or ``rnn.weight_ih_l0`` of a named layer.
            `numlstm.load_tensors` reads one from a file.
        strict : bool
            Whether a missing or unexpected key is an error.

        Raises
        ------
        RuntimeError
            A key is missing or unexpected while `strict`, or a shape is wrong; with PyTorch's text.
        """
        shapes = {name: array.shape for name, array in self.named_parameters()}
        arrays, missing, unexpected = loadable_parameters("Sequential", state_dict, shapes, self.dtype, strict)
        for name, layer in self._modules().items():
            own = {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
            layer.load_state_dict(own, strict=False)
        return IncompatibleKeys(missing, unexpected)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a ``.safetensors`` file, whole or not at all. `numlstm.load_model` reads it.

        The parameters have the names of the state dict; the metadata says which layers they belong to.

        Raises
        ------
        ValueError
            Another suffix; a layer is a function of yours, which no file can hold; or there are initial states.
        """
        from numlstm.nn import saved

        if self.initial_states:
            raise ValueError(f"a model with initial states cannot be saved; {', '.join(self.initial_states)} has some")
        saved.write(path, self.layers, self.skip, self.state_dict())


def _kind(layer: Any) -> str:
    """What a layer is, for a table."""
    own = isinstance(layer, LSTM | Layer | Dropout) or not hasattr(layer, "__name__")
    return repr(layer) if own else str(layer.__name__)


def _output_sizes(layers: Mapping[str, Any]) -> list[int]:
    """The size of the last axis after each layer, 0 where it is unknown; ValueError where two do not fit together."""
    if not layers:
        raise ValueError("a Sequential needs at least one layer")
    sizes: list[int] = []
    before, after_lstm = "", False
    for name, layer in layers.items():
        if not callable(layer):
            raise TypeError(
                f"layer {name!r} is a {type(layer).__name__}, which cannot be called\n"
                "A layer is an LSTM, a layer or function of numlstm.nn, or a function of an array."
            )
        size = sizes[-1] if sizes else 0
        takes = _input_size(layer)
        if takes and size and takes != size:
            raise ValueError(f"layer {name!r} takes {takes} features, and {before!r} gives {size}\nIt is {layer!r}.")
        if layer is last_state and not after_lstm:
            raise ValueError(f"layer {name!r} takes the last state of an LSTM, and does not follow one")
        sizes.append(_output_size(layer, size))
        before, after_lstm = name, isinstance(layer, LSTM)
    return sizes


def _input_size(layer: Any) -> int:
    """The features that a layer takes; 0 for any number."""
    if isinstance(layer, LSTM):
        return layer.input_size
    if isinstance(layer, Linear):
        return layer.in_features
    return layer.normalized_shape if isinstance(layer, LayerNorm) else 0


def _output_size(layer: Any, size: int) -> int:
    """The features that a layer gives for so many; 0 where they are unknown."""
    if isinstance(layer, LSTM):
        return layer._config.num_directions * layer._config.output_size
    if isinstance(layer, Linear):
        return layer.out_features
    if isinstance(layer, Embedding):
        return layer.embedding_dim
    known = isinstance(layer, Layer | Dropout) or layer is last_state or type(layer).__name__ == "Function"
    return size if known else 0
