"""Optimisers: SGD, Adam and AdamW, with the formulas, defaults and state dicts of ``torch.optim``.

Examples
--------
>>> import numpy as np
>>> from numlstm.nn import Linear, mse_loss
>>> head = Linear(2, 1, seed=0)
>>> optimiser = Adam(head, lr=0.1)
>>> x, y = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [2.0], [3.0]])
>>> for _ in range(300):
...     prediction, backward = head.vjp(x)
...     value, d_prediction = mse_loss(prediction, y)
...     optimiser.step(backward(d_prediction).parameters)
>>> round(value, 4)
0.0
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.validation.arrays import as_dtype, real_array

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_"]

Named = Mapping[str, Array]


class TrainableModule(Protocol):
    """What an optimiser asks of a module: an LSTM, an LSTMCell, or a layer of ``numlstm.nn``."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its parameters."""

    def state_dict(self) -> Mapping[str, Array]:
        """Copies of its parameters by name."""

    def load_state_dict(self, state_dict: Mapping[str, Array], strict: bool = True) -> Any:
        """Take parameters by name."""


class Optimizer:
    """What the optimisers share. A state dict is that of ``torch.optim``, in arrays, and is taken from there too.

    Parameters are numbered through all modules in order, as torch numbers them.

    Attributes
    ----------
    param_groups : list of one dict
        The options, which may be changed between steps: ``optimiser.param_groups[0]["lr"] = 1e-4``.
    state : dict
        By the number of a parameter, what the optimiser remembers of it.
    """

    def __init__(self, modules: TrainableModule | Iterable[TrainableModule], **options: Any) -> None:
        self._single = hasattr(modules, "load_state_dict")
        self._modules: list[Any] = [modules] if self._single else list(modules)  # type: ignore[arg-type]
        for module in self._modules:
            if not hasattr(module, "load_state_dict"):
                raise TypeError(
                    f"an optimiser is given a module or a list of modules, not a {type(module).__name__}\n"
                    "Pass the LSTM itself, and not its parameters: Adam([lstm, head])."
                )
        if not self._modules:
            raise ValueError("optimizer got an empty parameter list\nPass a module, or a list of at least one.")
        if len({id(module) for module in self._modules}) < len(self._modules):
            raise ValueError("a module is in the list twice\nGive each once: it has a single dictionary of gradients.")
        self._names = [(n, name) for n, module in enumerate(self._modules) for name in module.state_dict()]
        self.param_groups: list[dict[str, Any]] = [{**options, "params": list(range(len(self._names)))}]
        self.state: dict[int, dict[str, Any]] = {}
        self._check_options(self.param_groups[0])

    def __repr__(self) -> str:
        options = {name: value for name, value in self.param_groups[0].items() if name != "params"}
        return f"{type(self).__name__} ({', '.join(f'{name}={options[name]!r}' for name in sorted(options))})"

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that make no sense, with PyTorch's text."""
        checks = {"lr": "learning rate", "weight_decay": "weight_decay value"}
        for name, what in (checks | self._checked_options).items():
            if not options[name] >= 0:
                raise ValueError(f"Invalid {what}: {options[name]}\nIt must be a number of at least 0.")

    _checked_options: ClassVar[dict[str, str]] = {}

    def _updated(self, options: Mapping[str, Any], parameter: Array, gradient: Array, state: dict[str, Any]) -> Array:
        """The new parameter; `state` is a copy, whose arrays are replaced and never written to."""
        raise NotImplementedError

    def step(self, grads: Named | Sequence[Named]) -> None:
        """Change the parameters against their gradients.

        Parameters
        ----------
        grads : sequence of (mapping of str to array)
            A dictionary of gradients for each module, in their order, as ``.parameters`` of what a backward pass
            gives; that dictionary itself if the optimiser was given a single module. A parameter without one stays.

        Raises
        ------
        ValueError
            There are more or fewer dictionaries than modules, or a gradient is of another shape than its parameter,
            or holds NaN or infinity.
        KeyError
            A gradient is for a parameter that the module does not have.
        TypeError
            A gradient is of another dtype than its module.

        Notes
        -----
        On an error nothing is changed.
        """
        given = self._checked(grads)
        options, state = self.param_groups[0], dict(self.state)
        held = [module.state_dict() for module in self._modules]
        changed: list[dict[str, Array]] = [{} for _ in held]
        with np.errstate(under="ignore"):
            for number, (n, name) in enumerate(self._names):
                gradient = given[n].get(name)
                if gradient is None:
                    continue
                self._check(f"the gradient of {name}", gradient, held[n][name])
                state[number] = dict(state.get(number, {}))
                changed[n][name] = self._updated(options, held[n][name], gradient, state[number])
        for module, arrays in zip(self._modules, changed, strict=True):
            module.load_state_dict(arrays, strict=False)
        self.state = {number: of_parameter for number, of_parameter in state.items() if of_parameter}

    def _checked(self, grads: Named | Sequence[Named]) -> list[Named]:
        """A dictionary a module."""
        each = [grads] if isinstance(grads, Mapping) else list(grads)
        if isinstance(grads, Mapping) and not self._single:
            raise ValueError("step is given a list of dictionaries, one for each module\nIt was given a single one.")
        if len(each) != len(self._modules):
            raise ValueError(
                f"step is given a dictionary of gradients for each of {len(self._modules)} modules\n"
                f"It was given {len(each)}."
            )
        for n, (module, gradients) in enumerate(zip(self._modules, each, strict=True)):
            if not isinstance(gradients, Mapping):
                raise TypeError(
                    f"gradients are a dictionary of arrays by name, not a {type(gradients).__name__}\n"
                    "Pass .parameters of what a backward pass gives."
                )
            names = [name for of, name in self._names if of == n]
            if unknown := [name for name in gradients if name not in names]:
                raise KeyError(f"{module!r} has no parameter {unknown[0]!r}; its parameters are {', '.join(names)}")
        return each

    @staticmethod
    def _check(what: str, gradient: Any, parameter: Array) -> None:
        if not isinstance(gradient, np.ndarray) or gradient.dtype != parameter.dtype:
            kind = gradient.dtype if isinstance(gradient, np.ndarray) else type(gradient).__name__
            raise TypeError(
                f"{what} must be an array of {parameter.dtype}, as its module is\nIt is {kind}. "
                "A module that was converted needs another pass."
            )
        if gradient.shape != parameter.shape:
            raise ValueError(f"{what} must have the shape {parameter.shape}\nIts shape is {gradient.shape}.")
        if not np.isfinite(gradient).all():
            raise ValueError(
                f"{what} holds NaN or infinity, and would leave nothing of the parameter\n"
                "Nothing was changed. A smaller learning rate or clip_grad_norm_ before the step keeps gradients small."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return state and options as ``torch.optim`` lays them out: copies."""
        state = {
            number: {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in of.items()}
            for number, of in self.state.items()
        }
        groups = [{**group, "params": list(group["params"])} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take state and options of an optimiser of this kind, numlstm's or torch's.

        Parameters
        ----------
        state_dict : mapping
            What `state_dict` returns; tensors of PyTorch are converted.

        Raises
        ------
        ValueError
            It is for another number of groups or of parameters, or a shape is wrong. Nothing is changed.
        """
        groups = state_dict["param_groups"]
        if len(groups) != 1:
            raise ValueError(
                f"loaded state dict has a different number of parameter groups\nIt has {len(groups)}; here there is 1."
            )
        if len(groups[0]["params"]) != len(self._names):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group\n"
                f"It has {len(groups[0]['params'])} parameters; here there are {len(self._names)}."
            )
        options = {**self.param_groups[0], **groups[0], "params": list(range(len(self._names)))}
        self._check_options(options)
        number_of = {key: n for n, key in enumerate(groups[0]["params"])}
        held = [module.state_dict() for module in self._modules]
        state: dict[int, dict[str, Any]] = {}
        for key, of_parameter in state_dict["state"].items():
            number = number_of[key]
            n, name = self._names[number]
            state[number] = {}
            for what, value in of_parameter.items():
                if value is None:
                    continue
                array = real_array(f"{what} of {name}", value)
                if what == "step":
                    state[number][what] = np.array(array, np.float32)
                    continue
                if array.shape != held[n][name].shape:
                    raise ValueError(
                        f"{what} of {name} must have the shape {held[n][name].shape}\nIts shape is {array.shape}."
                    )
                state[number][what] = np.array(as_dtype(array, held[n][name].dtype))
        self.param_groups, self.state = [options], state


class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Parameters
    ----------
    modules : LSTM, LSTMCell or layer, or a list of them
        Whose parameters are changed.
    lr : float
        Learning rate.
    momentum, dampening : float
        The step is along a mean of gradients: ``momentum`` times the last one, and ``1 - dampening`` times the new.
    weight_decay : float
        This times the parameter is added to its gradient.
    nesterov : bool
        Whether to look ahead along the mean (Nesterov 1983).
    maximize : bool
        Whether to go along gradients, not against them.

    Examples
    --------
    >>> from numlstm.nn import Linear
    >>> head = Linear(1, 1, bias=False)
    >>> head.weight = [[1.0]]
    >>> SGD(head, lr=0.25).step({"weight": np.array([[2.0]], np.float32)})
    >>> head.weight.tolist()
    [[0.5]]
    """

    _checked_options: ClassVar[dict[str, str]] = {"momentum": "momentum value"}

    def __init__(
        self,
        modules: TrainableModule | Iterable[TrainableModule],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                f"Nesterov momentum requires a momentum and zero dampening\nThey are {momentum!r} and {dampening!r}."
            )
        super().__init__(
            modules,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=None,
            differentiable=False,
            fused=None,
        )

    def _updated(self, options: Mapping[str, Any], parameter: Array, gradient: Array, state: dict[str, Any]) -> Array:
        number = parameter.dtype.type
        if options["maximize"]:
            gradient = -gradient
        if options["weight_decay"]:
            gradient = gradient + parameter * number(options["weight_decay"])
        if options["momentum"]:
            if "momentum_buffer" in state:
                kept = state["momentum_buffer"] * number(options["momentum"])
                state["momentum_buffer"] = kept + gradient * number(1 - options["dampening"])
            else:
                state["momentum_buffer"] = np.array(gradient)
            mean = state["momentum_buffer"]
            gradient = gradient + mean * number(options["momentum"]) if options["nesterov"] else mean
        new: Array = parameter - gradient * number(options["lr"])
        return new


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014), as ``torch.optim.Adam``.

    Parameters
    ----------
    modules : LSTM, LSTMCell or layer, or a list of them
        Whose parameters are changed.
    lr : float
        Learning rate: about how far a parameter goes in a step.
    betas : (float, float)
        How much is kept of the means of gradients and of their squares.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        This times the parameter is added to its gradient.
    amsgrad : bool
        Whether the largest mean square so far is used (Reddi et al. 2018).
    maximize : bool
        Whether to go along gradients, not against them.

    Examples
    --------
    >>> from numlstm.nn import Linear
    >>> optimiser = Adam([Linear(3, 1), Linear(1, 1)], lr=1e-2)
    >>> optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["params"]
    (0.01, [0, 1, 2, 3])
    """

    _checked_options: ClassVar[dict[str, str]] = {"eps": "epsilon value"}
    _decoupled = False

    def __init__(
        self,
        modules: TrainableModule | Iterable[TrainableModule],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            modules,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=None,
            capturable=False,
            differentiable=False,
            fused=None,
            decoupled_weight_decay=self._decoupled,
        )

    def _check_options(self, options: Mapping[str, Any]) -> None:
        super()._check_options(options)
        for n, beta in enumerate(options["betas"]):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {n}: {beta}\nIt must be at least 0 and below 1.")

    def _updated(self, options: Mapping[str, Any], parameter: Array, gradient: Array, state: dict[str, Any]) -> Array:
        number, (beta1, beta2) = parameter.dtype.type, options["betas"]
        if options["maximize"]:
            gradient = -gradient
        if not state:
            state |= {"step": np.zeros((), np.float32)}
            state |= {"exp_avg": np.zeros_like(parameter), "exp_avg_sq": np.zeros_like(parameter)}
        state["step"] = step = state["step"] + np.float32(1)
        if options["weight_decay"] and self._decoupled:
            parameter = parameter * number(1 - options["lr"] * options["weight_decay"])
        elif options["weight_decay"]:
            gradient = gradient + parameter * number(options["weight_decay"])
        state["exp_avg"] = state["exp_avg"] + (gradient - state["exp_avg"]) * number(1 - beta1)
        state["exp_avg_sq"] = square = state["exp_avg_sq"] * number(beta2) + gradient * gradient * number(1 - beta2)
        if options["amsgrad"]:
            square = state["max_exp_avg_sq"] = np.maximum(state.get("max_exp_avg_sq", square), square)
        root = np.sqrt(square) / number((1 - beta2 ** float(step)) ** 0.5) + number(options["eps"])
        new: Array = parameter - state["exp_avg"] / root * number(options["lr"] / (1 - beta1 ** float(step)))
        return new


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017), as ``torch.optim.AdamW``.

    Parameters are those of `Adam`, but that a parameter is multiplied by ``1 - lr * weight_decay`` before each step.
    """

    _decoupled = True

    def __init__(
        self,
        modules: TrainableModule | Iterable[TrainableModule],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(modules, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


def clip_grad_norm_(
    grads: Named | Sequence[Named], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale gradients in place so that their common norm is at most so large; as ``torch.nn.utils.clip_grad_norm_``.

    Parameters
    ----------
    grads : mapping, or sequence of mappings, of str to ndarray
        As an optimiser's ``step`` takes them.
    max_norm : float
        The largest norm that they may have.
    norm_type : float
        The p of the norm; infinity for the largest magnitude.
    error_if_nonfinite : bool
        Whether a norm that is NaN or infinite is an error; if not, NaN is multiplied in as in PyTorch.

    Returns
    -------
    float
        The norm before.

    Examples
    --------
    >>> grads = {"weight": np.array([3.0, 4.0])}
    >>> clip_grad_norm_(grads, 1.0), grads["weight"].round(4).tolist()
    (5.0, [0.6, 0.8])
    """
    each = [grads] if isinstance(grads, Mapping) else list(grads)
    arrays = [array for of_module in each for array in of_module.values() if array is not None]
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not array.flags.writeable:
            raise TypeError("gradients must be arrays of floats that can be written to\nPass copies of them.")
    with np.errstate(all="ignore"):
        norms = [float(np.linalg.norm(array.reshape(-1), norm_type)) for array in arrays if array.size]
        total = float(np.linalg.norm(norms, norm_type)) if norms else 0.0
        if error_if_nonfinite and not np.isfinite(total):
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
                "clipped.\nNothing was changed."
            )
        factor = min(1.0, max_norm / (total + 1e-6)) if not np.isnan(total) else np.nan
        if factor != 1:
            for array in arrays:
                array *= array.dtype.type(factor)
    return total
