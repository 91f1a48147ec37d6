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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any, ClassVar, Protocol

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.validation.arguments import check_float_weights
from numlstm.base.validation.arrays import as_dtype, real_array
from numlstm.module import Module
from numlstm.runtime.packed_weights import Panels, places

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_"]

Named = Mapping[str, Array]
PART = 1 << 14  # numbers that are updated at a time: what an update reads and writes then stays in the L2 cache


class TrainableModule(Protocol):
    """What an optimiser asks of a module: an LSTM, an LSTMCell, or a layer or `Sequential` of ``numlstm.nn``."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its parameters."""

    def state_dict(self) -> Mapping[str, Array]:
        """Copies of its parameters by name."""

    def load_state_dict(self, state_dict: Mapping[str, Array], strict: bool = True) -> Any:
        """Take parameters by name."""


class Parameters:
    """A module's parameters and what an optimiser remembers of them: an array each, in the order of the state dict.

    An update takes a few operations for all of them, and goes over large ones in parts that stay in a cache. The first
    number of each array is none of a parameter (see ``Panels.numbers``).
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.shapes = {name: array.shape for name, array in module.state_dict().items()}
        ends = list(accumulate((prod(shape) for shape in self.shapes.values()), initial=1))
        self.spans = dict(zip(self.shapes, pairwise(ends), strict=True))
        self.size = ends[-1]
        self.remembered: dict[str, Array] = {}
        self.steps = [0] * len(self.shapes)  # that each parameter has taken; 0: nothing is remembered
        owners: list[Any] = list(module._modules().values()) if hasattr(module, "_modules") else [module]
        counts = [sum(array.size for array in owner.state_dict().values()) for owner in owners]
        self._owners = list(zip(owners, pairwise(accumulate(counts, initial=1)), strict=True))  # and where theirs are
        self._panels: dict[int, Panels] = {}  # that each LSTM was given last, which the numbers are of
        self._numbers = np.empty(0)

    def numbers(self) -> Array:
        """The parameters as they are now. To be changed in place, and then assigned."""
        known, self._panels = self._panels, {}
        if self._numbers.dtype != self.module.dtype or not self._numbers.size:
            self._numbers, known = np.zeros(self.size, self.module.dtype), {}
        for n, (owner, (begin, end)) in enumerate(self._owners):
            if not isinstance(owner, Module):
                self._numbers[begin:end] = np.concatenate([array.reshape(-1) for array in owner.state_dict().values()])
            elif known.get(n) is not owner._panels:
                self._numbers[begin:end] = owner._panels.numbers()[1:]
        return self._numbers

    def assign(self, numbers: Array) -> None:
        """Give the module these parameters."""
        for n, (owner, (begin, end)) in enumerate(self._owners):
            own = np.array(numbers[begin - 1 : end])
            own[0] = 0
            if isinstance(owner, Module):
                owner._panels = self._panels[n] = owner._panels.with_numbers(own)
            else:
                shapes = {name: array.shape for name, array in owner.state_dict().items()}
                owner.load_state_dict(places(own, shapes), strict=False)

    def gradient(self, given: Named) -> Array:
        """One array of all gradients, with zeros for those that are not given.

        Raises
        ------
        TypeError, ValueError
            One of them cannot be right.
        """
        dtype = self.module.dtype
        parts = [np.zeros(1, dtype)]
        for name, shape in self.shapes.items():
            array = given.get(name)
            if array is not None:
                _check_gradient(name, array, shape, dtype)
            parts.append(np.zeros(prod(shape), dtype) if array is None else array.reshape(-1))
        flat = np.concatenate(parts)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(np.dot(flat, flat))  # at the speed of memory
        if not finite and (wrong := [name for name, array in places(flat, self.shapes).items() if not _finite(array)]):
            raise ValueError(
                f"the gradient of {wrong[0]} holds NaN or infinity, and would leave nothing of the parameter\n"
                "Nothing was changed. A smaller learning rate or clip_grad_norm_ before the step keeps gradients small."
            )
        return flat

    def parts(self, given: Named) -> Iterator[tuple[slice, int]]:
        """Where the given parameters are, cut into parts, and how many steps those of each part have taken."""
        runs: list[list[int]] = []
        for (name, (start, end)), done in zip(self.spans.items(), self.steps, strict=True):
            if given.get(name) is None:
                continue
            if runs and runs[-1][1] == start and runs[-1][2] == done:
                runs[-1][1] = end
            else:
                runs.append([start, end, done])
        for begin, stop, done in runs:
            for start in range(begin, stop, PART):
                yield slice(start, min(start + PART, stop)), done

    def count(self, given: Named) -> None:
        """Count a step of the given parameters."""
        self.steps = [
            steps + (given.get(name) is not None) for name, steps in zip(self.shapes, self.steps, strict=True)
        ]

    def remember(self, names: Iterable[str]) -> None:
        """Have room for what is remembered by these names, in the module's dtype."""
        for name in names:
            array = self.remembered.get(name)
            if array is None:
                self.remembered[name] = np.zeros(self.size, self.module.dtype)
            elif array.dtype != self.module.dtype:
                self.remembered[name] = as_dtype(array, self.module.dtype)


def _finite(array: Array) -> bool:
    return bool(np.isfinite(array).all())


def _check_gradient(name: str, gradient: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(gradient, np.ndarray) or gradient.dtype != dtype:
        kind = gradient.dtype if isinstance(gradient, np.ndarray) else type(gradient).__name__
        raise TypeError(
            f"the gradient of {name} must be an array of {dtype}, as its module is\nIt is {kind}. "
            "A module that was converted needs another pass."
        )
    if gradient.shape != shape:
        raise ValueError(f"the gradient of {name} must have the shape {shape}\nIts shape is {gradient.shape}.")


class Optimizer:
    """What the optimisers share. A state dict is that of ``torch.optim``, in arrays, and is taken from there too.

    Parameters are numbered through all modules in order, as torch numbers them.

    Attributes
    ----------
    param_groups : list of one dict
        The options, which may be changed between steps: ``optimiser.param_groups[0]["lr"] = 1e-4``.
    """

    _checked_options: ClassVar[dict[str, str]] = {}
    _counts_steps: ClassVar[bool] = False  # whether the state of a parameter says how many

    def __init__(self, modules: TrainableModule | Iterable[TrainableModule], **options: Any) -> None:
        self._single = hasattr(modules, "load_state_dict")
        self._modules: list[Any] = [modules] if self._single else list(modules)  # type: ignore[arg-type]
        for module in self._modules:
            if not hasattr(module, "load_state_dict"):
                raise TypeError(
                    f"an optimiser is given a module or a list of modules, not a {type(module).__name__}\n"
                    "Pass the LSTM itself, and not its parameters: Adam([lstm, head])."
                )
            if isinstance(module, Module) and module._config.weights:
                check_float_weights(type(self).__name__, module)
        if not self._modules:
            raise ValueError("optimizer got an empty parameter list\nPass a module, or a list of at least one.")
        if len({id(module) for module in self._modules}) < len(self._modules):
            raise ValueError("a module is in the list twice\nGive each once: it has a single dictionary of gradients.")
        self._held = [Parameters(module) for module in self._modules]
        count = sum(len(held.shapes) for held in self._held)
        self.param_groups: list[dict[str, Any]] = [{**options, "params": list(range(count))}]
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

    @property
    def state(self) -> dict[int, dict[str, Array]]:
        """By the number of a parameter, what is remembered of it: views of the optimiser's own arrays."""
        found, number = {}, 0
        for held in self._held:
            views = {key: places(array, held.shapes) for key, array in held.remembered.items()}
            for n, name in enumerate(held.shapes):
                if held.steps[n]:
                    count = {"step": np.array(held.steps[n], np.float32)} if self._counts_steps else {}
                    found[number + n] = {**count, **{key: view[name] for key, view in views.items()}}
            number += len(held.shapes)
        return found

    def _remembered(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of what is remembered with these options."""
        raise NotImplementedError

    def _update(
        self, options: Mapping[str, Any], parameter: Array, gradient: Array, state: dict[str, Array], done: int
    ) -> None:
        """Change a part of the parameters and what is remembered of it, in place, after so many steps."""
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
        gradients = [held.gradient(named) for held, named in zip(self._held, given, strict=True)]
        options = self.param_groups[0]
        keys = self._remembered(options)
        with np.errstate(under="ignore"):
            for held, named, gradient in zip(self._held, given, gradients, strict=True):
                if not named:
                    continue
                held.remember(keys)
                numbers = held.numbers()
                for part, done in held.parts(named):
                    state = {key: held.remembered[key][part] for key in keys}
                    self._update(options, numbers[part], gradient[part], state, done)
                if keys:
                    held.count(named)
                held.assign(numbers)

    def _checked(self, grads: Named | Sequence[Named]) -> list[Named]:
        """A dictionary a module."""
        each = [grads] if isinstance(grads, Mapping) else list(grads)
        if isinstance(grads, Mapping) and not self._single:
            raise ValueError("step is given a list of dictionaries, one for each module\nIt was given a single one.")
        if len(each) != len(self._held):
            raise ValueError(
                f"step is given a dictionary of gradients for each of {len(self._held)} modules\n"
                f"It was given {len(each)}."
            )
        for held, gradients in zip(self._held, each, strict=True):
            if not isinstance(gradients, Mapping):
                raise TypeError(
                    f"gradients are a dictionary of arrays by name, not a {type(gradients).__name__}\n"
                    "Pass .parameters of what a backward pass gives."
                )
            if unknown := [name for name in gradients if name not in held.shapes]:
                raise KeyError(
                    f"{held.module!r} has no parameter {unknown[0]!r}; its parameters are {', '.join(held.shapes)}"
                )
        return each

    def state_dict(self) -> dict[str, Any]:
        """Return state and options as ``torch.optim`` lays them out: copies."""
        state = {number: {key: np.array(array) for key, array in of.items()} for number, of in self.state.items()}
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
        groups, count = state_dict["param_groups"], len(self.param_groups[0]["params"])
        if len(groups) != 1:
            raise ValueError(
                f"loaded state dict has a different number of parameter groups\nIt has {len(groups)}; here there is 1."
            )
        if len(groups[0]["params"]) != count:
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group\n"
                f"It has {len(groups[0]['params'])} parameters; here there are {count}."
            )
        options = {**self.param_groups[0], **groups[0], "params": list(range(count))}
        self._check_options(options)
        loaded = [Parameters(held.module) for held in self._held]
        numbered = [(held, n, name) for held in loaded for n, name in enumerate(held.shapes)]
        number_of = {key: n for n, key in enumerate(groups[0]["params"])}
        for key, of_parameter in state_dict["state"].items():
            held, n, name = numbered[number_of[key]]
            for what, value in of_parameter.items():
                if value is None:
                    continue
                held.steps[n] = max(held.steps[n], 1)
                array = real_array(f"{what} of {name}", value)
                if what == "step":
                    held.steps[n] = int(array)
                    continue
                if array.shape != held.shapes[name]:
                    raise ValueError(
                        f"{what} of {name} must have the shape {held.shapes[name]}\nIts shape is {array.shape}."
                    )
                held.remember([what])
                places(held.remembered[what], held.shapes)[name][...] = as_dtype(array, held.module.dtype)
        self.param_groups, self._held = [options], loaded


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

    def _remembered(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if options["momentum"] else ()

    def _update(
        self, options: Mapping[str, Any], parameter: Array, gradient: Array, state: dict[str, Array], done: int
    ) -> None:
        number = parameter.dtype.type
        if options["maximize"]:
            gradient = -gradient
        if options["weight_decay"]:
            gradient = gradient + parameter * number(options["weight_decay"])
        if options["momentum"]:
            mean = state["momentum_buffer"]
            if done:
                mean *= number(options["momentum"])
                mean += gradient * number(1 - options["dampening"])
            else:
                mean[...] = gradient
            gradient = gradient + mean * number(options["momentum"]) if options["nesterov"] else mean
        parameter -= gradient * number(options["lr"])


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
    _counts_steps = True
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

    def _remembered(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if options["amsgrad"] else [])

    def _update(
        self, options: Mapping[str, Any], parameter: Array, gradient: Array, state: dict[str, Array], done: int
    ) -> None:
        number, (beta1, beta2), step = parameter.dtype.type, options["betas"], done + 1
        if options["maximize"]:
            gradient = -gradient
        if options["weight_decay"] and self._decoupled:
            parameter *= number(1 - options["lr"] * options["weight_decay"])
        elif options["weight_decay"]:
            gradient = gradient + parameter * number(options["weight_decay"])
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean += (gradient - mean) * number(1 - beta1)
        square *= number(beta2)
        square += gradient * gradient * number(1 - beta2)
        if options["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            square = np.maximum(largest, square, out=largest)
        root = np.sqrt(square) / number((1 - beta2**step) ** 0.5) + number(options["eps"])
        parameter -= mean / root * number(options["lr"] / (1 - beta1**step))


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
