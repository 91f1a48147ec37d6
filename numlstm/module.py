"""The base of LSTM and LSTMCell: parameters, state dicts, modes, dtype, copies and pickles.

Parameters are stored only in panels, which are immutable. A change makes new panels, so that a call in progress keeps
those that it started with.
"""

from __future__ import annotations

import copy
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from numlstm.base.config import Config
from numlstm.base.fork_locks import fork_safe
from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arguments import check_cpu, device_and_dtype, parameter_dtype, weights_kind
from numlstm.base.validation.arrays import as_dtype, loadable_parameters, parameter_array
from numlstm.base.validation.shapes import CallShapes
from numlstm.runtime.executor import Executor
from numlstm.runtime.packed_weights import Panels

# Held while new panels are made from old ones, so that no concurrent assignment is lost. One lock serves all LSTMs,
# since it is held briefly. It is reentrant, since reading an assigned value may run code that assigns.
changing = fork_safe(threading.RLock())
PARAMETER_NAME = re.compile(r"(weight|bias)_(ih|hh|hr|ch)(_l\d+(_reverse)?)?")


class IncompatibleKeys(NamedTuple):
    """The result of `load_state_dict`: missing keys of the state dict, and keys that belong to no parameter."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def _call_forward(self: Any, *arguments: Any, **named: Any) -> Any:
    """Run the ``forward`` of the object's own class."""
    return self.forward(*arguments, **named)


class Model:
    """All that a call needs of its module. It is replaced as a whole, so that no call sees half of a change.

    One attribute holds it, since reading an attribute of a class with ``__getattr__`` takes several percent of a small
    call. It has slots, which Python reads faster than the fields of a NamedTuple.
    """

    __slots__ = ("config", "drops", "executor", "gpu", "order", "panels")

    def __init__(self, config: Config, panels: Any = None, executor: Any = None, gpu: Any = None) -> None:
        self.config = config
        self.panels: Panels = panels  # it and the executor are None while parameters are being packed at first
        self.executor: Executor = executor
        self.gpu = gpu  # on CUDA: the runner of calls there
        self.order = int(config.batch_first) if config.direction == "forward" else 2  # as the executor's tables count
        self.drops = config.dropout > 0

    def replace(self, **parts: Any) -> Model:
        """A copy with some parts replaced."""
        return Model(
            **{"config": self.config, "panels": self.panels, "executor": self.executor, "gpu": self.gpu} | parts
        )


class Module:
    """Parameters by name, over panels; the base of `LSTM` and `LSTMCell`.

    `_suffix` of a subclass is what its parameter names lack of those in the panels. Its ``__call__`` is ``forward``
    itself, since another Python call would take nearly as long as a step of a small LSTM.
    """

    _suffix = ""
    _kind = "LSTM"  # its name in files
    _fixed = frozenset({"input_size", "hidden_size", "bias", "dtype", "device"})
    _closed = False  # whether objects of this class, but not of subclasses, refuse new attributes

    training: bool
    _model: Model
    _shapes: dict[str, Shape]
    _seen: dict[Any, CallShapes]  # by everything that decides a call's shapes

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Let a call reach the ``forward`` of a subclass of a subclass."""
        super().__init_subclass__(**arguments)
        run: Any = cls.__call__
        if run is not getattr(cls, "forward", None) and any(run is vars(base).get("forward") for base in cls.__mro__):
            cls.__call__ = _call_forward  # type: ignore[method-assign]

    def _start(self, config: Config, dtype: np.dtype[Any], seed: Any) -> None:
        """Begin with fresh parameters, in train mode."""
        try:
            rng = np.random.default_rng(seed)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{error}\nseed must be None, a non-negative int or what else numpy.random.default_rng takes, "
                f"not {seed!r}."
            ) from None
        self._hold(config)
        self._rng = rng
        self._panels = self._packed(dtype, self._drawn())
        self.training = True

    @classmethod
    def _from_parameters(cls, config: Config, dtype: np.dtype[Any], parameters: Mapping[str, Array]) -> Self:
        """A loaded module, in eval mode, with these parameters by the names of its state dict."""
        self = cls.__new__(cls)
        self._hold(config)
        self._panels = self._packed(dtype, parameters)
        self.training = False
        return self

    @cached_property
    def _rng(self) -> np.random.Generator:
        """Draws parameters and dropout. A loaded model that needs neither does not import numpy.random."""
        return np.random.default_rng()

    def _hold(self, config: Config) -> None:
        self._model = Model(config)
        self._shapes = {self._own(name): shape for name, shape in config.parameter_shapes().items()}
        self._seen = {}

    @property
    def _config(self) -> Config:
        return self._model.config

    @property
    def _panels(self) -> Panels:
        return self._model.panels

    @_panels.setter
    def _panels(self, panels: Panels) -> None:
        with changing:
            model = self._model
            if model.executor is None or model.executor.dtype != panels.dtype:
                model = model.replace(executor=Executor(model.config, panels.dtype))
            object.__setattr__(self, "_model", model.replace(panels=panels))  # known to be an attribute

    def _own(self, name: str) -> str:
        """The name in this module of a parameter of the panels."""
        return name.removesuffix(self._suffix)

    def _packed(self, dtype: np.dtype[Any], parameters: Mapping[str, Array]) -> Panels:
        # One at a time, and without a variable that keeps it alive: the mapping may read each array from a file when it
        # is asked for, and the next one then reuses its memory.
        named = ((name + self._suffix, as_dtype(parameters[name], dtype)) for name in parameters)
        return Panels.pack(self._config, dtype, named)

    def _parameter(self, name: str) -> Array:
        return self._panels.parameter(name + self._suffix)

    def _replace(self, parameters: Mapping[str, Array]) -> None:
        if parameters:
            with changing:
                named = {name + self._suffix: array for name, array in parameters.items()}
                self._panels = self._panels.replace(named)

    def _drawn(self) -> dict[str, Array]:
        """A fresh value for every parameter, in the order of the state dict."""
        try:
            bound = self._config.hidden_size**-0.5
            return {name: self._rng.uniform(-bound, bound, shape) for name, shape in self._shapes.items()}
        except (MemoryError, ValueError, OverflowError) as error:
            raise MemoryError(f"the parameters of {self!r} do not fit in memory: {error}") from None

    def _remember(self, shapes: CallShapes, key: object) -> None:
        """Remember the shapes of a call; there is room for as many as a program is likely to alternate between."""
        if len(self._seen) >= 1024:
            self._seen.clear()
        self._seen[key] = shapes

    # ------------------------------------------------------------ sizes and flags

    @property
    def input_size(self) -> int:
        """Features of a step's input."""
        return self._config.input_size

    @property
    def hidden_size(self) -> int:
        """Hidden units."""
        return self._config.hidden_size

    @property
    def bias(self) -> bool:
        """Whether there are biases."""
        return self._config.bias

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and results: float32 or float64."""
        return self._panels.dtype

    # ------------------------------------------------------------ parameters

    if not TYPE_CHECKING:  # a type checker that saw these would accept any name

        def __getattr__(self, name: str) -> Any:
            return self._found(name)

        def __setattr__(self, name: str, value: object) -> None:
            self._assign(name, value)

    def _found(self, name: str) -> Any:
        """An attribute that is not found elsewhere: a parameter."""
        if name in self.__dict__.get("_shapes", ()):
            return self._parameter(name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'", name=name, obj=self)

    def _assign(self, name: str, value: object) -> None:
        shapes = self.__dict__.get("_shapes", {})
        if name in shapes:
            with changing:
                self._replace({name: parameter_array(name, value, shapes[name], self.dtype)})
        elif name in self._fixed:
            raise AttributeError(
                f"{name} of {self!r} cannot be changed once it is made\n"
                f"Make another {type(self).__name__}, or use to() for its dtype and device.",
                name=name,
                obj=self,
            )
        elif name == "forward":
            raise AttributeError(
                f"forward of {self!r} cannot be replaced, since a call would not go through it\n"
                "Define forward in a subclass.",
                name=name,
                obj=self,
            )
        elif PARAMETER_NAME.fullmatch(name):
            raise AttributeError(
                f"{self!r} has no parameter '{name}'\nIts parameters are {', '.join(shapes)}.", name=name, obj=self
            )
        else:
            if vars(type(self)).get("_closed"):
                self._check_known(name, value)
            object.__setattr__(self, name, value)

    def _check_known(self, name: str, value: object) -> None:
        """Refuse an attribute that this class does not have, usually a misspelt one."""
        kind = type(self)
        if name[:2] == name[-2:] == "__":  # set by tools
            return
        if not hasattr(kind, name) and name not in Module.__annotations__:
            from difflib import get_close_matches

            public = [known for known in dir(self) if known[0] != "_"]
            close = get_close_matches(name, public, 1)
            raise AttributeError(
                f"'{kind.__name__}' object has no attribute '{name}', and takes no new one\n"
                + (f"Did you mean {close[0]}? " if close else "")
                + f"A subclass of {kind.__name__} may have attributes of its own."
            )
        if callable(getattr(kind, name, None)) and not callable(value):
            from reprlib import repr as shown

            raise AttributeError(
                f"{name} of '{kind.__name__}' object is a method, which {shown(value)} cannot replace\n"
                f"Call it: {name}(...).",
                name=name,
                obj=self,
            )

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_shapes", ()):
            raise AttributeError(f"parameter '{name}' of {self!r} cannot be deleted", name=name, obj=self)
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self.__dict__.get("_shapes", ())})

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Array]]:
        """Yield names and parameters, in the order of the state dict, as read-only arrays.

        Parameters
        ----------
        prefix : str
            Put before each name, with a dot.
        recurse, remove_duplicate : bool
            Without effect: there are no submodules and no parameter occurs twice.

        Yields
        ------
        (str, ndarray)
            A name and a copy of the parameter of that name.
        """
        for name in self._shapes:
            yield (f"{prefix}.{name}" if prefix else name), self._parameter(name)

    def parameters(self, recurse: bool = True) -> Iterator[Array]:
        """Yield the parameters, in the order of the state dict, as read-only arrays."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(
        self,
        *,
        destination: OrderedDict[str, Array] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> OrderedDict[str, Array]:
        """Return every parameter by name: writable copies, independent of this object.

        Parameters
        ----------
        destination : OrderedDict, optional
            Filled and returned in place of a new one.
        prefix : str
            Put before each name.
        keep_vars : bool
            Without effect: there are no gradients to keep.

        Returns
        -------
        OrderedDict of str to ndarray
            In the order and with the names of PyTorch's ``state_dict``.
        """
        into: OrderedDict[str, Array] = OrderedDict() if destination is None else destination
        for name, array in self._parameters().items():
            into[prefix + name] = array
        return into

    def _parameters(self) -> dict[str, Array]:
        """Writable copies by name, even if a subclass overrides `state_dict`."""
        panels = self._panels
        return {name: np.array(panels.parameter(name + self._suffix)) for name in self._shapes}

    def load_state_dict(self, state_dict: Mapping[str, np.typing.ArrayLike], strict: bool = True) -> IncompatibleKeys:
        """Load parameters from a state dict: all of them or, on an error, none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Arrays of any real dtype, converted to this object's. PyTorch's tensors work too.
        strict : bool
            Whether a missing or unexpected key is an error. If not, the parameters that are present are loaded.

        Returns
        -------
        IncompatibleKeys
            A named tuple of the lists ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        RuntimeError
            With `strict`, a key is missing or unexpected; a shape is wrong, or a value is not a real array; with
            PyTorch's text.
        TypeError
            `state_dict` is not a mapping.
        """
        owner = type(self).__name__
        with changing:
            arrays, missing, unexpected = loadable_parameters(owner, state_dict, self._shapes, self.dtype, strict)
            self._replace(arrays)
        return IncompatibleKeys(missing, unexpected)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters, sizes and flags to a file, completely or not at all.

        Parameters
        ----------
        path : path
            The suffix is the format. ``.safetensors`` and ``.npz`` hold all that `numlstm.load` needs to restore this
            object. ``.onnx`` (extra ``onnx``) is for other engines, with dynamic batch and time axes, inputs
            ``input``, ``h_0``, ``c_0`` and outputs ``output``, ``h_n``, ``c_n`` as here.

        Raises
        ------
        ValueError
            Another suffix.
        OSError
            The file cannot be written.
        ImportError
            The extra for the format is not installed.
        """
        from numlstm import formats

        kind: Any = type(self)._kind
        formats.written(path, kind, self._config, self._parameters())

    def reset_parameters(self) -> None:
        """Draw new parameters from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), with the object's generator."""
        drawn = self._drawn()
        with changing:
            self._panels = self._packed(self._panels.dtype, drawn)

    # ------------------------------------------------------------ modes, device, dtype

    def train(self, mode: bool = True) -> Self:
        """Set train mode, which applies dropout between layers, or with False eval mode; return the object itself."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean\nIt is {mode!r}.")
        self.training = mode
        return self

    def eval(self) -> Self:
        """Set eval mode, the same as ``train(False)``; return the object itself."""
        return self.train(False)

    def to(self, device: object = None, dtype: object = None) -> Self:
        """Convert the parameters in place, and return the object itself.

        Parameters
        ----------
        device : None, "cpu" or "cuda"
            Where an LSTM runs; an LSTMCell runs on the CPU only. None changes nothing. The first argument may also be
            a dtype, or an array, whose dtype and device are then used.
        dtype : dtype, optional
            float32 or float64; PyTorch's dtypes work too.

        Raises
        ------
        TypeError
            The dtype is not supported.
        NotImplementedError
            The device is not supported.
        RuntimeError
            CUDA's driver, device or extra is missing; nothing is changed.
        """
        device, dtype = device_and_dtype(device, dtype)
        wanted = None if dtype is None else parameter_dtype(dtype)
        if device is not None:
            self._place(device)
        if wanted is not None:
            with changing:
                if wanted != self._panels.dtype:
                    if self._config.weights:
                        weights_kind(self._config.weights, wanted)
                    self._panels = self._packed(wanted, {name: self._parameter(name) for name in self._shapes})
        return self

    def _place(self, device: object) -> None:
        """Run on this device from now on."""
        check_cpu(device, type(self).__name__)

    @property
    def device(self) -> str:
        """Where calls run: "cpu" or "cuda"."""
        return "cpu"

    def cpu(self) -> Self:
        """Run on the CPU from now on, and return the object itself."""
        return self.to("cpu")

    def cuda(self, device: object = None) -> Self:
        """Run on CUDA from now on, and return the object itself."""
        return self.to("cuda" if device is None else device)

    def float(self) -> Self:
        """Convert the parameters to float32 in place, and return the object itself."""
        return self.to(dtype=np.float32)

    def double(self) -> Self:
        """Convert the parameters to float64 in place, and return the object itself."""
        return self.to(dtype=np.float64)

    def half(self) -> Self:
        """Raise TypeError: there are no float16 kernels. Input in float16 is converted."""
        return self.to(dtype=np.float16)

    def bfloat16(self) -> Self:
        """Raise TypeError: there are no bfloat16 kernels. Input in bfloat16 is converted."""
        return self.to(dtype="bfloat16")

    # ------------------------------------------------------------ text, copies, pickles

    def extra_repr(self) -> str:
        """The text between the parentheses of the repr."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _apart(self) -> dict[str, Any]:
        """The attributes that are not derived and not tied to this process's memory."""
        derived = {"_model", "_shapes", "_seen"}
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __getstate__(self) -> dict[str, Any]:
        held = {"_config": self._config, "_parameters": self._parameters(), "_dtype": self.dtype.name}
        return self._apart() | {"_rng": self._rng} | held

    def __setstate__(self, state: dict[str, Any]) -> None:
        attributes = dict(state)
        parameters, dtype = attributes.pop("_parameters"), parameter_dtype(attributes.pop("_dtype"))
        self._hold(attributes.pop("_config"))
        self._panels = self._packed(dtype, parameters)
        self.__dict__.update(attributes)

    def _twin(self) -> Self:
        """Another object of this type on the same panels, which are immutable; its other attributes are not set yet."""
        twin = type(self).__new__(type(self))
        twin._hold(self._config)
        twin._rng = copy.deepcopy(self._rng)
        twin._panels = self._panels
        return twin

    def __copy__(self) -> Self:
        twin = self._twin()
        twin.__dict__.update({name: value for name, value in self._apart().items() if name != "_rng"})
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = twin = self._twin()
        rest = {name: value for name, value in self._apart().items() if name != "_rng"}
        twin.__dict__.update(copy.deepcopy(rest, memo))
        return twin
