"""LSTMs among named tensors: parameters with one prefix, whose shapes must fit each other.

A name is only a claim. Sizes come from the shapes of layer 0, and every other tensor is checked against them. The names
are those of ``torch.nn``: ``weight_ih_l0`` in ``torch.nn.LSTM``, ``weight_ih`` in ``torch.nn.LSTMCell``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.base.config import Config
from numlstm.base.wording import counted
from numlstm.formats.detected import SEVERAL_DTYPES, UNSTATED, Found, Kind
from numlstm.formats.reparametrized import PART, folded
from numlstm.formats.tensor import FLOATS, Tensor, widest

NAME = re.compile(
    r"(?P<prefix>.*?)(?P<own>(?:weight|bias)_(?:ih|hh|hr|ch)(?P<suffix>_l(?P<layer>[0-9]{1,6})(?:_reverse)?)?)", re.S
)
SEPARATORS = "./_"
WITHIN = (".", "/")  # ends of the prefix of a module's parts
EXTRAS = 4  # names in a warning
NORM = re.compile("norm", re.I)
MOST = 4096  # LSTMs in a file
LAYERS = 4096  # more than anyone trains
GATES = {1: "a plain RNN", 3: "a GRU"}  # others with these names, by the number of gates in weight_hh

FLAGS = ("batch_first", "dropout")  # what tensors do not say
Group = dict[str, Tensor]  # by own name


def find(
    tensors: Mapping[str, Tensor], flags: Mapping[str, Mapping[str, Any]] | None = None, place: str = "tensors"
) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Find every LSTM among tensors, and what resembles one.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By name, as in a state dict: ``encoder.lstm.weight_ih_l0``.
    flags : mapping of str to mapping, optional
        By an LSTM's name, what the file says besides the tensors: ``batch_first``, ``dropout``.
    place : str
        What holds the tensors, in words.

    Returns
    -------
    (lstms, others)
        As in `Contents`.

    Examples
    --------
    >>> import numpy as np
    >>> shapes = {"weight_ih_l0": (8, 3), "weight_hh_l0": (8, 2), "bias_ih_l0": (8,), "bias_hh_l0": (8,)}
    >>> tensors = {f"model.rnn.{name}": Tensor.of(np.zeros(shape)) for name, shape in shapes.items()}
    >>> (found,), _ = find(tensors)
    >>> print(found)
    model.rnn: LSTM(3, 2), float64
    >>> tensors["model.rnn.bias_hh_l0"] = Tensor.of(np.zeros(6))
    >>> print(find(tensors)[0][0].problem)
    model.rnn.bias_hh_l0 has shape (6,); hidden_size 2, from weight_hh_l0, asks for (8,)
    """
    plain = folded(tensors)
    groups: dict[tuple[str, Kind], Group] = {}
    rest: list[str] = []  # names of other tensors
    for full, tensor in plain.tensors.items():
        match = NAME.fullmatch(full)
        if match is not None:
            kind: Kind = "LSTMCell" if match["suffix"] is None else "LSTM"
            groups.setdefault((match["prefix"], kind), {})[match["own"]] = tensor
            if len(groups) > MOST:
                raise ValueError(f"its tensors are named like those of more than {MOST} LSTMs, the limit of a file")
        elif PART.fullmatch(full) is None:
            rest.append(full)
    rest.sort()
    found: list[Found] = []
    others: list[str] = []
    taken: set[str] = set()
    for (prefix, kind), group in groups.items():
        name = prefix.rstrip(SEPARATORS)
        if name in taken:
            name = prefix + kind
        other = _other_than_lstm(prefix, kind, group)
        if other:
            others.append(other)
        else:
            taken.add(name)
            one = _one(name, prefix, kind, group, (flags or {}).get(name, {}), place)
            if problem := plain.problems.get(prefix, ""):
                one = one._replace(config=None, parameters={}, problem=problem)
            notes, warning = plain.said(prefix)
            if extras := _extras(rest, prefix):
                said = f"its module also has {extras}, so it is no plain torch.nn.{kind}; what these do is left out"
                notes, warning = (*notes, said), "; ".join(filter(None, (warning, said)))
            found.append(one._replace(notes=(*one.notes, *notes), warning=warning))
    known = {prefix for prefix, _ in groups}
    others += [f"{prefix}*: {problem}" for prefix, problem in plain.problems.items() if prefix not in known]
    return tuple(found), tuple(others)


def _extras(others: Sequence[str], prefix: str) -> str:
    """Tensors of the module with this prefix that are no parameters of an LSTM, such as those of layer norms.

    Without a prefix any tensor may be beside an LSTM, so these are the norms alone.
    """
    found = []
    if not prefix:
        found = [name for name in others if NORM.search(name)]
    elif prefix.endswith(WITHIN):
        begin = bisect_left(others, prefix)
        found = [name for name in others[begin : begin + EXTRAS + 1] if name.startswith(prefix)]
    return ", ".join(found[:EXTRAS]) + (", …" if len(found) > EXTRAS else "")


def _other_than_lstm(prefix: str, kind: Kind, group: Group) -> str:
    """A sentence on what these tensors are instead; "" if they may be an LSTM."""
    own = "weight_hh" if kind == "LSTMCell" else "weight_hh_l0"
    shape = group[own].shape if own in group else ()
    for blocks, what in GATES.items():
        if len(shape) == 2 and shape[1] > 0 and shape[0] == blocks * shape[1]:
            return f"{prefix}{own} of shape {shape} belongs to {what}, not to an LSTM, which has 4 gates"
    return ""


def _one(name: str, prefix: str, kind: Kind, group: Group, flags: Mapping[str, Any], place: str) -> Found:
    """The LSTM with one prefix, or its problem."""
    where = f"{place}, {prefix}*" if prefix else place
    own = {key if kind == "LSTM" else f"{key}_l0": tensor for key, tensor in group.items()}
    names = {key: prefix + (key if kind == "LSTM" else key.removesuffix("_l0")) for key in own}
    dtypes = {tensor.dtype for tensor in own.values()}
    found = Found(name, kind, None, widest(dtypes), where)
    for key, tensor in own.items():
        if tensor.dtype not in FLOATS:
            problem = f"{names[key]} holds {tensor.dtype}, not floating-point numbers of 16 bits or more"
            if "int" in tensor.dtype:
                problem += "; quantised weights are not supported: save the model before it is quantised"
            elif "F8" in tensor.dtype or "float8" in tensor.dtype:
                problem += "; weights in float8 are not read: save them in float16, bfloat16 or float32"
            return found._replace(problem=problem)
    config = _sizes(prefix, kind, own)
    if isinstance(config, str):
        return found._replace(problem=config)
    said = _misfits(prefix, kind, config, own)
    if said:
        return found._replace(config=None, problem="; ".join(said))
    if kind == "LSTM":
        config = config._replace(**{flag: flags[flag] for flag in FLAGS if flag in flags})
    order = config.parameter_shapes()  # that of a state dict; a file may have another
    suffix = "" if kind == "LSTM" else "_l0"
    parameters = {key.removesuffix(suffix): own[key] for key in order}
    notes = []
    if kind == "LSTM" and "batch_first" not in flags:
        notes.append(UNSTATED)
    if len(dtypes) > 1:
        notes.append(SEVERAL_DTYPES)
    return found._replace(config=config, parameters=parameters, notes=tuple(notes))


def _sizes(prefix: str, kind: Kind, own: Group) -> Config | str:
    """The sizes by the tensors of layer 0, or what is wrong with those."""
    layers = {int(match["layer"]) for key in own if (match := NAME.fullmatch(key)) and match["layer"]}
    if layers != set(range(len(layers))):
        return (
            f"layers 0 to {max(layers)} are expected for {prefix}weight_ih_l{max(layers)}, "
            f"but {len(layers)} of them have tensors"
        )
    if problem := too_many_layers(len(layers)):
        return problem
    suffix = "" if kind == "LSTM" else "_l0"
    for key in ("weight_ih_l0", "weight_hh_l0"):
        shown = prefix + key.removesuffix(suffix)
        if key not in own:
            have = ", ".join(sorted(prefix + key.removesuffix(suffix) for key in own)[:6])
            return f"{shown} is missing; there are {have}" + (", …" if len(own) > 6 else "")
        shape = own[key].shape
        if len(shape) != 2 or 0 in shape or shape[0] % 4:
            return f"{shown} has shape {shape}; an LSTM's is (4 * hidden_size, features)"
    rows, outputs = own["weight_hh_l0"].shape
    projection = 0
    if "weight_hr_l0" in own:
        projection = outputs
    elif rows != 4 * outputs:
        return (
            f"{prefix}{'weight_hh_l0'.removesuffix(suffix)} has shape {(rows, outputs)}; an LSTM's is "
            f"({4 * outputs}, {outputs}), unless there is a weight_hr_l0 of shape ({outputs}, {rows // 4})"
        )
    return Config(
        input_size=own["weight_ih_l0"].shape[1],
        hidden_size=rows // 4,
        num_layers=len(layers),
        bias=any(key.startswith("bias") for key in own),
        bidirectional=any(key.endswith("_reverse") for key in own),
        proj_size=projection,
        cell_options=CellOptions(peepholes=True) if any(key.startswith("weight_ch") for key in own) else PLAIN,
    )


def _misfits(prefix: str, kind: Kind, config: Config, own: Group) -> list[str]:
    """What does not fit the sizes of layer 0, and what would, a sentence each."""
    shapes = config.parameter_shapes()
    suffix = "" if kind == "LSTM" else "_l0"

    def shown(key: str) -> str:
        return prefix + key.removesuffix(suffix)

    said = []
    for key, shape in shapes.items():
        if key not in own:
            said.append(f"{shown(key)} is missing; it would have shape {shape}")
        elif own[key].shape != shape:
            said.append(
                f"{shown(key)} has shape {own[key].shape}; hidden_size {config.hidden_size}, "
                f"from {'weight_hh_l0'.removesuffix(suffix)}, asks for {shape}"
            )
    said += [f"{shown(key)} has no place in an LSTM of these sizes" for key in own if key not in shapes]
    if len(said) > 4:
        said[4:] = [f"{counted(len(said) - 4, 'more tensor')} of another shape or place"]
    return said


def too_many_layers(count: int) -> str:
    """The problem of an LSTM with more than `LAYERS` layers; "" for fewer."""
    return f"it has {count} layers; {LAYERS} is the limit" if count > LAYERS else ""
