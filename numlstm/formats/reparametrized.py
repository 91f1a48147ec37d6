"""Parameters that a training library stores in another form: weight drop, pruning, weight and spectral norm.

================================  =====================  ===========================================================
beside or in place of ``name``    the parameter          written by
================================  =====================  ===========================================================
``name_raw``                      raw                    weight drop: fastai's WeightDropout, Salesforce's AWD-LSTM
``name_orig``, ``name_mask``      orig * mask            torch.nn.utils.prune
``name_mask``                     name * mask            other pruning libraries; with a warning
``name_g``, ``name_v``            g * v / norm(v)        torch.nn.utils.weight_norm
``name_orig``, ``_u``, ``_v``     orig / (u @ orig @ v)  torch.nn.utils.spectral_norm
``parametrizations.name.`` with   as ``_g``, ``_v``      torch.nn.utils.parametrizations.weight_norm
``original0``, ``original1``
with ``original``, ``0._u``,      as ``_orig``,          torch.nn.utils.parametrizations.spectral_norm
``0._v``                          ``_u``, ``_v``
================================  =====================  ===========================================================

A plain tensor beside these is stale: with dropout applied, or older than the last step of training. The formulas are
those of torch/nn/utils of PyTorch 2.13 in eval mode, and of fastai/text/models/awdlstm.py of fastai 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from numlstm.base.typing import Array, Shape
from numlstm.formats.tensor import FLOATS, Tensor, widest

OWN = r"(?:weight|bias)_(?:ih|hh|hr|ch)(?:_l[0-9]{1,6}(?:_reverse)?)?"
PLAIN = re.compile(rf"(?P<prefix>.*?){OWN}", re.S)
PART = re.compile(
    rf"(?P<prefix>.*?)(?:(?P<own>{OWN})_(?P<part>raw|orig|mask|[guv])"
    rf"|parametrizations\.(?P<new>{OWN})\.(?P<rest>.{{1,40}}))",
    re.S,
)
RENAMED = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}  # of parametrizations
MASKS = (*FLOATS, "bool", "uint8", "int8", "int16", "int32", "int64")
WITHIN = "module."  # fastai keeps the raw weight one level above the LSTM
ADVICE = "make the weights plain before saving: parametrize.remove_parametrizations or prune.remove"


class Form(NamedTuple):
    """A way to store a parameter: by whom, in which parts (the first has its shape), and how it is computed."""

    by: str
    parts: tuple[str, ...]  # "" is the plain tensor
    fit: Callable[..., bool]  # of the shapes of the parts
    compute: Callable[..., Array]


def _per_slice(weight: Shape, norms: Shape) -> bool:
    """Whether there is a norm for each slice along one axis, or a single one."""
    return not norms or (
        len(norms) == len(weight)
        and all(length in (1, whole) for length, whole in zip(norms, weight, strict=True))
        and sum(length != 1 for length in norms) <= 1
    )


def _normed(v: Array, g: Array) -> Array:
    axes = tuple(axis for axis in range(v.ndim) if not g.ndim or g.shape[axis] == 1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a slice of zeros makes NaN, as in PyTorch
        scale: Array = g / np.sqrt(np.einsum("...,...->...", v, v).sum(axes, keepdims=bool(g.ndim)))
    return v * scale


def _spectral(orig: Array, u: Array, v: Array) -> Array:
    """With dim=1, u and v are those of the transposed weight; in a square one u tells, which is along W v."""
    with np.errstate(invalid="ignore", divide="ignore"):
        both = [turned @ v for turned in (orig, orig.T) if turned.shape == (u.size, v.size)]
        weight: Array = orig / (u @ max(both, key=lambda product: u @ product / np.linalg.norm(product)))
    return weight


FORMS = (
    Form("weight drop", ("raw",), lambda raw: True, lambda raw: raw),
    Form("torch.nn.utils.prune", ("orig", "mask"), lambda orig, mask: orig == mask, np.multiply),
    Form("a mask", ("", "mask"), lambda whole, mask: whole == mask, np.multiply),
    Form("weight_norm", ("v", "g"), _per_slice, _normed),
    Form("spectral_norm", ("orig", "u", "v"), lambda w, u, v: w in ((*u, *v), (*v, *u)) and len(w) == 2, _spectral),
)


class Folded(NamedTuple):
    """Tensors with the plain names of the parameters that they make, and sentences by the LSTM's prefix."""

    tensors: Mapping[str, Tensor]
    problems: dict[str, str]
    forms: dict[str, dict[Form, list[str]]]  # the names of the parameters that were computed

    def said(self, prefix: str) -> tuple[tuple[str, ...], str]:
        """Notes and a warning on the LSTM of a prefix."""
        notes, warning = [], ""
        for form, names in self.forms.get(prefix, {}).items():
            some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            if not form.parts[0]:
                warning = f"there is a mask beside {some}, by which it is multiplied"
            elif form.parts == ("raw",):
                notes.append(f"raw weights, from before dropout: {some}")
            else:
                notes.append(f"computed from {form.by}'s {', '.join(form.parts)}: {some}")
        return tuple(notes), warning


def folded(tensors: Mapping[str, Tensor]) -> Folded:
    """Compute each parameter that is stored in another form; it takes the place of a plain tensor of its name.

    Examples
    --------
    >>> weight = np.ones((8, 2), np.float32)
    >>> parts = {"lstm.weight_hh_l0_orig": Tensor.of(weight), "lstm.weight_hh_l0_mask": Tensor.of(weight * 0)}
    >>> bool(folded(parts).tensors["lstm.weight_hh_l0"].read().any())
    False
    """
    stored: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = PART.fullmatch(name)
        if match is not None:
            part = match["part"] or RENAMED.get(match["rest"], match["rest"])
            stored.setdefault((match["prefix"], match["own"] or match["new"]), {})[part] = tensor
    if not stored:
        return Folded(tensors, {}, {})
    plain = {match["prefix"] for match in map(PLAIN.fullmatch, tensors) if match is not None}
    made: dict[str, Tensor] = dict(tensors)
    found = Folded(made, {}, {})
    for (above, own), parts in stored.items():
        prefix = above + WITHIN if above not in plain and above + WITHIN in plain else above
        computed = _made(prefix + own, parts, tensors.get(prefix + own), prefix, found)
        if computed is not None:
            made[prefix + own] = computed
    return found


def _made(name: str, parts: Mapping[str, Tensor], whole: Tensor | None, prefix: str, found: Folded) -> Tensor | None:
    """One parameter, or None; what there is to say of it is added to `found`."""
    form = next((form for form in FORMS if {*form.parts} - {""} == parts.keys() and (whole or form.parts[0])), None)
    if form is None:
        found.problems[prefix] = f"{name} is stored as {', '.join(sorted(parts))[:100]}, which is not known: {ADVICE}"
        return None
    given = [parts[part] if part else whole for part in form.parts]
    tensors = [tensor for tensor in given if tensor is not None]
    for part, tensor in zip(form.parts, tensors, strict=True):
        if tensor.dtype not in (MASKS if part == "mask" else FLOATS):
            found.problems[prefix] = f"the {part} of {name} holds {tensor.dtype}: {ADVICE}"
            return None
    shapes = [tensor.shape for tensor in tensors]
    if not form.fit(*shapes):
        found.problems[prefix] = f"{name} is stored by {form.by}, in shapes that do not fit: {shapes}"
        return None
    found.forms.setdefault(prefix, {}).setdefault(form, []).append(name)
    dtype = widest(["float32", *(tensor.dtype for tensor in tensors if tensor.dtype in FLOATS)])
    return Tensor(shapes[0], dtype, partial(_read, form.compute, tensors, dtype))


def _read(compute: Callable[..., Array], parts: list[Tensor], dtype: str) -> Array:
    return np.ascontiguousarray(compute(*(tensor.read().astype(dtype, copy=False) for tensor in parts)))
