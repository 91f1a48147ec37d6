"""LSTMs by the parameter names of Flax, Haiku and MLX, converted to those of ``torch.nn``.

============================  =========================================================================================
names                         layout, and its source
============================  =========================================================================================
``ii if ig io``, ``hi … ho``  Flax's LSTMCell and OptimizedLSTMCell: for each gate a ``kernel`` (features, H) or (H, H),
                              and a ``bias`` in ``hi … ho``. flax/linen/recurrent.py; nnx has ``if_``.
``i``, ``h``; ``dense_i``,    Flax's OptimizedLSTMCell in one piece: ``kernel`` (features, 4H) and (H, 4H), gates i, f,
``dense_h``                   g, o in the columns, and a ``bias`` in ``h``. flax/nnx/nn/recurrent.py.
``lstm/linear``               Haiku's LSTM: ``w`` (features + H, 4H) for the input and h, gates i, g, f, o in the
                              columns, and ``b``, to which the cell adds 1 for gate f. haiku/_src/recurrent.py.
``Wx``, ``Wh``, ``bias``      MLX's LSTM: (4H, features) and (4H, H), gates i, f, g, o in the rows; the batch comes
                              first. mlx/nn/layers/recurrent.py.
============================  =========================================================================================

None of them scales its weights or gates. Each cell is an LSTM of one layer. Haiku's has a name that any Linear layer
could have, so the module must be called ``lstm``, as it is unless its user names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats import state_dict
from numlstm.formats.budget import shown
from numlstm.formats.detected import Found
from numlstm.formats.tensor import FLOATS, Tensor, widest

ENDS = ("kernel", "bias", "Wx", "Wh", "/w", "/b", ".w", ".b")
PART = re.compile(
    r"(?P<prefix>(?:.*?[/.])??)"  # as short as can be: "bias" is a part as well
    r"(?P<part>(?:[ih][ifgo]_?|[ih]|dense_[ih])[/.](?:kernel|bias)|Wx|Wh|bias|linear[/.][wb])",
    re.S,
)
HAIKU = re.compile(r"(?:.*[/.])?lstm(?:_[0-9]+)?[/.](?:~[/.])?", re.S)  # prefixes
GATES = "ifgo"
Parts = dict[str, Tensor]  # by the names above, with a dot in the middle


class Form(NamedTuple):
    """A way to name and lay out parameters."""

    by: str
    required: frozenset[str]
    fits: Callable[[Parts], bool]
    converted: Callable[[Parts], dict[str, Tensor]]
    flags: Mapping[str, bool]  # what the library's class says besides


def find(tensors: Mapping[str, Tensor], place: str = "tensors") -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Find every LSTM among tensors, by these names or those of ``torch.nn``, as `state_dict.find` does.

    Examples
    --------
    >>> own = {"rnn.Wx": Tensor.of(np.ones((8, 3))), "rnn.Wh": Tensor.of(np.ones((8, 2)))}
    >>> (found,), _ = find(own)
    >>> print(found, found.notes)
    rnn: LSTM(3, 2, bias=False, batch_first=True), float64 ("named as MLX's LSTM names its parameters",)
    """
    converted: dict[str, Tensor] = {}
    flags: dict[str, Mapping[str, Any]] = {}
    notes: dict[str, str] = {}
    misfits = []
    used: set[int] = set()  # tensors that are converted
    for prefix, parts in _groups(tensors).items():
        form = next((form for form in FORMS if form.required <= parts.keys()), None)
        if form is None or (form is HAIKU_LSTM and HAIKU.fullmatch(prefix) is None):
            continue
        if not form.fits(parts):
            sizes = ", ".join(f"{name} {parts[name].shape}" for name in sorted(parts)[:8])
            misfits.append(f"{shown(prefix)}* is named as {form.by}, but its shapes do not fit: {sizes}")
        elif f"{prefix}weight_ih_l0" not in tensors:
            used |= {id(tensor) for tensor in parts.values()}
            converted |= {f"{prefix}{name}_l0": tensor for name, tensor in form.converted(parts).items()}
            name = prefix.rstrip(state_dict.SEPARATORS)
            flags[name], notes[name] = form.flags, f"named as {form.by} names its parameters"
    left = {name: tensor for name, tensor in tensors.items() if id(tensor) not in used} if used else tensors
    lstms, others = state_dict.find({**left, **converted}, flags, place)
    lstms = tuple(
        found._replace(notes=(*found.notes, notes[found.name])) if found.name in notes else found for found in lstms
    )
    return lstms, (*others, *misfits)


def _groups(tensors: Mapping[str, Tensor]) -> dict[str, Parts]:
    """Tensors that may be a part of such an LSTM, by prefix."""
    groups: dict[str, Parts] = {}
    for name, tensor in tensors.items():
        match = PART.fullmatch(name) if name.endswith(ENDS) and tensor.dtype in FLOATS else None
        if match is not None:
            part = match["part"].replace("/", ".").replace("_.", ".").removeprefix("dense_")
            groups.setdefault(match["prefix"], {})[part] = tensor
    return groups


def _tensor(shape: tuple[int, ...], of: list[Tensor], compute: Callable[..., Array], least: str = "float16") -> Tensor:
    """A tensor that is computed from others."""
    return Tensor(shape, widest([least, *(tensor.dtype for tensor in of)]), partial(_computed, compute, of))


def _computed(compute: Callable[..., Array], of: Iterable[Tensor]) -> Array:
    return np.ascontiguousarray(compute(*(tensor.read() for tensor in of)))


def _with_zeros(bias: Tensor) -> dict[str, Tensor]:
    """The one bias of a cell as the two of ``torch.nn``."""
    return {"bias_ih": bias, "bias_hh": _tensor(bias.shape, [bias], np.zeros_like)}


def _transposed(kernel: Tensor) -> Tensor:
    return _tensor(kernel.shape[::-1], [kernel], np.transpose)


def _stacked(parts: list[Tensor]) -> Tensor:
    """Kernels or biases of the gates as one, with the gates in the rows."""
    columns, *rows = parts[0].shape[::-1]
    return _tensor((len(parts) * columns, *rows), parts, lambda *arrays: np.concatenate([a.T for a in arrays]))


# Flax, a kernel for each gate


def _flax_fits(parts: Parts) -> bool:
    shapes = [{parts[f"{which}{gate}.kernel"].shape for gate in GATES} for which in "ih"]
    biases = [parts[f"h{gate}.bias"].shape for gate in GATES if f"h{gate}.bias" in parts]
    units = parts["hi.kernel"].shape[0] if parts["hi.kernel"].shape else 0
    return (
        len(shapes[0]) == 1
        and shapes[1] == {(units, units)}
        and len(parts["ii.kernel"].shape) == 2
        and parts["ii.kernel"].shape[1] == units
        and (not biases or biases == [(units,)] * len(GATES))
        and not any(f"i{gate}.bias" in parts for gate in GATES)
    )


def _from_flax(parts: Parts) -> dict[str, Tensor]:
    ahead, back = ([parts[f"{which}{gate}.kernel"] for gate in GATES] for which in "ih")
    biases = [parts[f"h{gate}.bias"] for gate in GATES if f"h{gate}.bias" in parts]
    return {
        "weight_ih": _stacked(ahead),
        "weight_hh": _stacked(back),
        **(_with_zeros(_stacked(biases)) if biases else {}),
    }


# The others; `state_dict.find` tells a GRU or a plain RNN with these names by its shapes


def _whole_gates(kernel: Tensor, rows: int) -> bool:
    """Whether a recurrent kernel is that of a whole number of gates, in the axis `rows`."""
    shape = kernel.shape
    return len(shape) == 2 and 0 not in shape and shape[rows] % shape[1 - rows] == 0


def _from_joined(parts: Parts) -> dict[str, Tensor]:
    biases = {f"bias_{which}h": parts[f"{which}.bias"] for which in "ih" if f"{which}.bias" in parts}
    if len(biases) == 1:
        biases = _with_zeros(*biases.values())
    return {
        "weight_ih": _transposed(parts["i.kernel"]),
        "weight_hh": _transposed(parts["h.kernel"]),
        **biases,
    }


def _from_mlx(parts: Parts) -> dict[str, Tensor]:
    bias = _with_zeros(parts["bias"]) if "bias" in parts else {}
    return {"weight_ih": parts["Wx"], "weight_hh": parts["Wh"], **bias}


def _haiku_fits(parts: Parts) -> bool:
    shape = parts["linear.w"].shape
    return len(shape) == 2 and shape[1] % 4 == 0 < shape[1] < 4 * shape[0] and parts["linear.b"].shape == shape[1:]


def _from_haiku(parts: Parts) -> dict[str, Tensor]:
    both, bias = parts["linear.w"], parts["linear.b"]
    columns = both.shape[1]
    features = both.shape[0] - columns // 4
    return {
        "weight_ih": _tensor((columns, features), [both], lambda array: _ifgo(array[:features].T)),
        "weight_hh": _tensor((columns, columns // 4), [both], lambda array: _ifgo(array[features:].T)),
        **_with_zeros(_tensor((columns,), [bias], _with_forget_bias, "float32")),
    }


def _with_forget_bias(bias: Array) -> Array:
    i, f, g, o = np.split(_ifgo(bias.astype(np.result_type(bias, np.float32))), 4)
    return np.concatenate([i, f + 1, g, o])


def _ifgo(rows: Array) -> Array:
    """Gates i, g, f, o along the first axis as i, f, g, o."""
    i, g, f, o = np.split(rows, 4)
    return np.concatenate([i, f, g, o])


HAIKU_LSTM = Form("Haiku's LSTM", frozenset(("linear.w", "linear.b")), _haiku_fits, _from_haiku, {})
FORMS = (
    Form(
        "Flax's LSTMCell",
        frozenset(f"{which}{gate}.kernel" for which in "ih" for gate in GATES),
        _flax_fits,
        _from_flax,
        {},
    ),
    Form(
        "Flax's OptimizedLSTMCell",
        frozenset(("i.kernel", "h.kernel")),
        lambda parts: _whole_gates(parts["h.kernel"], 1),
        _from_joined,
        {},
    ),
    HAIKU_LSTM,
    Form(
        "MLX's LSTM",
        frozenset(("Wx", "Wh")),
        lambda parts: _whole_gates(parts["Wh"], 0),
        _from_mlx,
        {"batch_first": True},
    ),
)
