"""The models of guitar amplifiers in JSON: an LSTM, its heads, and the input that is added to the output.

What surrounds the layers is that of the programs that play these files. GuitarML: ``forward`` of SimpleRNN in
CoreAudioML/networks.py. AIDA-X: ``applyModel``, of which the gains go into the weights here. Neural Amp Modeler: its
LSTM begins with the states of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.formats import Contents, Found
from numlstm.formats.budget import shown
from numlstm.lstm import LSTM
from numlstm.nn.functions import FUNCTIONS
from numlstm.nn.layers import Linear
from numlstm.nn.sequential import Sequential

ACTIVATIONS = ("tanh", "relu", "sigmoid", "softmax")
NOT_THERE = "A model of LSTM and Dense layers, with the activations tanh, relu, sigmoid and softmax, can be run."


def build(contents: Contents) -> Sequential:
    """The model of a JSON file, in eval mode."""
    makers = {"GuitarML's JSON": _guitarml, "RTNeural's JSON": _rtneural, "Neural Amp Modeler": _amp_modeler}
    return makers[contents.format](contents).eval()


def _lstm(found: Found, input_gain: float = 1.0) -> LSTM:
    """The LSTM, whose first input is multiplied by a gain first."""
    if found.config is None:
        raise ValueError(f"{found.name or 'its LSTM'} cannot be loaded: {found.problem}")
    arrays = {name: tensor.read() for name, tensor in found.parameters.items()}
    if input_gain != 1:
        weight = arrays["weight_ih_l0"] = np.array(arrays["weight_ih_l0"])
        weight[:, 0] *= weight.dtype.type(input_gain)
    return LSTM._from_parameters(found.config, np.dtype(np.float32), arrays)


def _linear(name: str, weight: Array, bias: Array | None) -> Linear:
    if weight.ndim != 2 or not weight.size or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = weight.shape, None if bias is None else bias.shape
        raise ValueError(f"the weights of {name!r} have shapes {shapes}, which are those of no Dense layer")
    return Linear._from_parameters({"weight": weight} | ({} if bias is None else {"bias": bias}))


def _guitarml(contents: Contents) -> Sequential:
    """``lin(rec(x))``, to which the first ``skip`` inputs are added."""
    lstms = {found.name: found for found in contents.lstms}
    if "rec" not in lstms or "lin.weight" not in contents.tensors:
        raise ValueError(f"a model of GuitarML has an LSTM 'rec' and a head 'lin'; its tensors are {_names(contents)}")
    bias = contents.tensors.get("lin.bias")
    head = _linear("lin", contents.tensors["lin.weight"].read(), None if bias is None else bias.read())
    skip = contents.model.get("skip", 1)  # as SimpleRNN has it
    if skip not in (0, head.out_features):
        raise ValueError(f"its skip is {shown(repr(skip))}; it can be 0 or the size of its output, {head.out_features}")
    return Sequential({"rec": _lstm(lstms["rec"]), "lin": head}, skip=float(bool(skip)))


def _rtneural(contents: Contents) -> Sequential:
    """The layers in order. AIDA-X: ``out_gain * (layers(x) + x)`` of x times ``in_gain``, both in decibels."""
    around = contents.model
    gains = [_gain(around, name) for name in ("in_gain", "out_gain")]
    layers = dict(_rtneural_layers(contents, gains[0]))
    if gains[0] != 1 and not isinstance(next(iter(layers.values()), None), LSTM):
        raise ValueError("it has an in_gain before a layer that is no LSTM\nSuch models cannot be run.")
    if gains[1] != 1:
        name, last = next(reversed(layers.items()))
        if not isinstance(last, Linear):
            raise ValueError(f"it has an out_gain behind {name!r}, which is no Dense layer without an activation")
        last.load_state_dict({key: array * gains[1] for key, array in last.state_dict().items()})
    return Sequential(layers, skip=gains[0] * gains[1] if around.get("in_skip") in (1, True) else 0.0)


def _gain(around: dict[str, Any], name: str) -> float:
    """The factor of a gain in decibels."""
    value = around.get(name) or 0
    if type(value) not in (int, float) or not -200 <= value <= 200:
        raise ValueError(f"its {name} is {shown(repr(value))}, which is no number of decibels")
    return float(10 ** (value / 20))


def _rtneural_layers(contents: Contents, input_gain: float) -> Iterator[tuple[str, Any]]:
    """The layers by name; LSTMs that fit together are one."""
    groups = {name: found for found in contents.lstms for name in found.name.split("+")}
    done: set[str] = set()
    for number, spec in enumerate(contents.model["layers"]):
        name, kind = f"layers.{number}", spec.get("type") if isinstance(spec, dict) else None
        if kind == "lstm":
            found = groups[name]
            if found.name not in done:
                yield found.name, _lstm(found, 1.0 if done else input_gain)
            done.add(found.name)
            continue
        if kind not in ("dense", "time-distributed-dense", "activation"):
            raise ValueError(f"its layer {name!r} is of the type {shown(repr(kind))}, which cannot be run\n{NOT_THERE}")
        if kind != "activation":
            tensors = [contents.tensors.get(f"{name}.{own}") for own in ("kernel", "bias")]
            if tensors[0] is None:
                raise ValueError(f"its layer {name!r} has no kernel")
            yield name, _linear(name, tensors[0].read().T, None if tensors[1] is None else tensors[1].read())
        activation = spec.get("activation") or "linear"
        if activation not in ("linear", *ACTIVATIONS):
            said = f"the activation of {name!r} is {shown(repr(activation))}, which cannot be run"
            raise ValueError(f"{said}\n{NOT_THERE}")
        if activation != "linear":
            yield f"{name}.{activation}", FUNCTIONS[activation]


def _amp_modeler(contents: Contents) -> Sequential:
    """The LSTM from the states of the file, and its head."""
    (found,) = contents.lstms
    tensors = {name: tensor.read() for name, tensor in contents.tensors.items()}
    lstm, head = _lstm(found), _linear("head", tensors["head.weight"], tensors["head.bias"])
    model = Sequential({"lstm": lstm, "head": head})
    layers = range(lstm.num_layers)
    model.initial_states["lstm"] = (
        np.stack([tensors[f"h_0_l{n}"] for n in layers]),
        np.stack([tensors[f"c_0_l{n}"] for n in layers]),
    )
    return model


def _names(contents: Contents) -> str:
    return ", ".join(list(contents.tensors)[:6])
