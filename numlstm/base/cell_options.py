"""What a cell computes other than the plain LSTM: activations, peepholes, clipped sums, coupled gates.

The names and the meaning are those of ONNX's operator: https://onnx.ai/onnx/operators/onnx__LSTM.html.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

Activation = tuple[Any, ...]  # a name of ACTIVATIONS, and its numbers

# by name, the usual numbers; None where ONNX and its engines have different ones, so that they must be given
ACTIVATIONS: dict[str, tuple[float | None, ...]] = {
    "Sigmoid": (),  # 1 / (1 + e^-x)
    "Tanh": (),
    "Relu": (),  # max(x, 0)
    "Softsign": (),  # x / (1 + |x|)
    "Softplus": (),  # log(1 + e^x)
    "LeakyRelu": (0.01,),  # x from 0 on, else alpha x
    "ThresholdedRelu": (None,),  # x above alpha, else 0
    "Elu": (1.0,),  # x from 0 on, else alpha (e^x - 1)
    "HardSigmoid": (0.2, 0.5),  # alpha x + beta between 0 and 1
    "Affine": (None, None),  # alpha x + beta
    "ScaledTanh": (None, None),  # alpha tanh(beta x)
}
_CANONICAL = {name.lower(): name for name in ACTIVATIONS}
_SIMPLE = {(name,) for name, numbers in ACTIVATIONS.items() if not numbers}
_NUMBERS = ("alpha", "beta")
SATURATED = 50.0  # e^-50 is far below the last bit of 1 in float64: sigmoid and tanh are flat there


def activation(given: Any) -> Activation:
    """The activation of a name, or of a name and its numbers.

    Raises
    ------
    TypeError, ValueError
        There is no such activation, or it has other numbers.

    Examples
    --------
    >>> activation("hardsigmoid"), activation(("Elu", 2)), activation("Relu")
    (('HardSigmoid', 0.2, 0.5), ('Elu', 2.0), ('Relu',))
    """
    name, *numbers = (given,) if isinstance(given, str) else given if isinstance(given, (tuple, list)) else (None,)
    if not isinstance(name, str):
        raise TypeError(f"an activation must be a name, or a tuple of a name and its numbers, not {given!r}")
    known = _CANONICAL.get(name.lower())
    if known is None:
        raise ValueError(f"there is no activation {name!r}; there are {', '.join(ACTIVATIONS)}")
    usual = ACTIVATIONS[known]
    if len(numbers) > len(usual):
        raise ValueError(f"{known} takes {len(usual)} numbers, not {len(numbers)}: {given!r}")
    whole = [*numbers, *usual[len(numbers) :]]
    if None in whole:
        asked = ", ".join(_NUMBERS[: len(usual)])
        raise ValueError(f"{known} has no usual {asked}; pass the tuple ({known!r}, {asked}), not {given!r}")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in whole):
        raise ValueError(f"the numbers of {known} must be finite, not {given!r}")
    return (known, *map(float, whole))


class _Fields(NamedTuple):
    f: Activation
    g: Activation
    h: Activation
    clip: float
    peepholes: bool
    input_forget: bool


class CellOptions(_Fields):
    """What the cells of an LSTM compute; by default the plain LSTM.

    With the activations f, g and h, and ``weight_ch`` as p, a step is::

        i = f(clip(W_ii x_t + b_ii + W_hi h + b_hi + p_i * c))
        f = f(clip(W_if x_t + b_if + W_hf h + b_hf + p_f * c))      or 1 - i with input_forget
        g = g(clip(W_ig x_t + b_ig + W_hg h + b_hg))
        c = f * c + i * g
        o = f(clip(W_io x_t + b_io + W_ho h + b_ho + p_o * c))
        h = o * h(c)

    Parameters
    ----------
    f, g, h : str or tuple
        Activations of the gates i, f and o, of the candidate g, and of c: a name, or a name and its numbers, as
        ``("HardSigmoid", 0.2, 0.5)``. There are Sigmoid, Tanh, Relu, Softsign, Softplus, LeakyRelu and
        ThresholdedRelu (alpha), Elu (alpha), HardSigmoid, Affine and ScaledTanh (alpha, beta).
    clip : float
        The sums before f and g are limited to [-clip, clip]. Infinite for none; a clip at which the activations are
        flat changes nothing and becomes infinite.
    peepholes : bool
        Whether the gates also see c, through the parameters ``weight_ch_l{k}`` of shape (3 * hidden_size,), in the
        order i, f, o.
    input_forget : bool
        Whether the forget gate is 1 - i. Its own weights are then not used.

    Raises
    ------
    TypeError, ValueError
        There is no such activation, or the clip is not positive.

    Examples
    --------
    >>> CellOptions(g="relu", h="relu")
    CellOptions(g='Relu', h='Relu')
    >>> CellOptions(f=("HardSigmoid", 1 / 6, 0.5), clip=60)
    CellOptions(f=('HardSigmoid', 0.16666666666666666, 0.5))
    >>> CellOptions(clip=3), CellOptions(clip=9999) == CellOptions()
    (CellOptions(clip=3.0), True)
    """

    __slots__ = ()

    def __new__(
        cls,
        f: Any = "Sigmoid",
        g: Any = "Tanh",
        h: Any = "Tanh",
        clip: float = math.inf,
        peepholes: bool = False,
        input_forget: bool = False,
    ) -> CellOptions:
        """Check the arguments."""
        for name, flag in (("peepholes", peepholes), ("input_forget", input_forget)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, not {flag!r}")
        if isinstance(clip, bool) or not isinstance(clip, (int, float)):
            raise TypeError(f"clip must be a number, not {clip!r}")
        if not clip > 0:
            raise ValueError(f"clip must be above 0, not {clip!r}")
        f, g, h = map(activation, (f, g, h))
        clip = math.inf if clip >= max(_flat_from(f), _flat_from(g)) else float(clip)
        return super().__new__(cls, f, g, h, clip, peepholes, input_forget)

    def __repr__(self) -> str:
        fields = {name: value[0] if value in _SIMPLE else value for name, value in self._asdict().items()}
        changed = [f"{name}={value!r}" for name, value in fields.items() if getattr(self, name) != getattr(PLAIN, name)]
        return f"CellOptions({', '.join(changed)})"

    @property
    def plain(self) -> bool:
        """Whether the cell is the plain LSTM."""
        return self == PLAIN

    def kernel(self, number: str) -> str:
        """The name of the kernel for a number type; part of a file's name.

        Examples
        --------
        >>> PLAIN.kernel("float32"), CellOptions(f="HardSigmoid", peepholes=True).kernel("float64")
        ('float32', 'float64,HardSigmoid_0.2_0.5,Tanh,Tanh,inf,1,0')
        """
        if self.plain:
            return number
        activations = ("_".join(map(str, each)) for each in self[:3])
        return ",".join((number, *activations, str(self.clip), str(int(self.peepholes)), str(int(self.input_forget))))


def of_kernel(name: str) -> tuple[str, CellOptions]:
    """The number type and the options of a kernel's name.

    Examples
    --------
    >>> of_kernel(CellOptions(g=("Affine", -2, 1e30)).kernel("float32"))
    ('float32', CellOptions(g=('Affine', -2.0, 1e+30)))
    """
    number, *parts = name.split(",")
    if not parts:
        return number, PLAIN
    f, g, h = ((each[0], *map(float, each[1:])) for each in (part.split("_") for part in parts[:3]))
    return number, CellOptions(f, g, h, float(parts[3]), parts[4] == "1", parts[5] == "1")


def _flat_from(f: Activation) -> float:
    """From where on, and below its negative, the function is constant."""
    name, *numbers = f
    if name in ("Sigmoid", "Tanh"):
        return SATURATED
    if name == "ScaledTanh":
        return SATURATED / abs(numbers[1]) if numbers[1] else 0.0
    if name == "HardSigmoid":
        alpha, beta = numbers
        return max(abs(1 - beta), abs(beta)) / abs(alpha) if alpha else 0.0
    return math.inf


PLAIN = CellOptions()
