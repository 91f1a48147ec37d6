"""The model of a ``.safetensors`` file that `numlstm.nn.Sequential.save` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from numlstm.base.cell_options import CellOptions
from numlstm.base.validation.arguments import weights_kind
from numlstm.formats import Contents, Found
from numlstm.formats.numlstm_config import FLAGS, MODEL
from numlstm.lstm import LSTM
from numlstm.nn.functions import FUNCTIONS
from numlstm.nn.layers import Dropout, Embedding, Layer, LayerNorm, Linear
from numlstm.nn.sequential import Sequential

KINDS: dict[str, type[Layer]] = {"Linear": Linear, "Embedding": Embedding, "LayerNorm": LayerNorm}
LETTERS = 1 << 20  # of the metadata; parsed JSON may take many times its text


def build(contents: Contents) -> Sequential:
    """The model of a file, in eval mode; ValueError where the metadata does not fit the tensors."""
    text = contents.model
    try:
        known = json.loads(text) if len(text) <= LETTERS else None
    except RecursionError:
        known = None
    if not isinstance(known, dict) or not isinstance(known.get("layers"), list):
        raise ValueError(f"its metadata {MODEL} is no list of layers: {text[:200]!r}")
    lstms = {found.name: found for found in contents.lstms}
    layers: dict[str, Any] = {}
    for spec in known["layers"]:
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str) or spec["name"] in layers:
            raise ValueError(f"its metadata {MODEL} has a layer without a name of its own: {str(spec)[:200]}")
        flags = {key: value for key, value in spec.items() if key not in ("name", "kind")}
        try:
            layers[spec["name"]] = _layer(spec["name"], spec.get("kind"), flags, contents, lstms)
        except TypeError as error:
            raise ValueError(f"layer {spec['name']!r} has flags that do not fit it, {flags}: {error}") from None
    skip = known.get("skip", 0.0)
    if type(skip) not in (int, float):
        raise ValueError(f"its metadata {MODEL} has skip={skip!r}, which is no number")
    return Sequential(layers, skip=skip).eval()


def _layer(name: str, kind: object, flags: dict[str, Any], contents: Contents, lstms: Mapping[str, Found]) -> Any:
    """The layer of that name."""
    if kind == "LSTM":
        return _lstm(name, flags, lstms)
    if kind == "Dropout":
        return Dropout(**flags)
    if isinstance(kind, str) and kind in FUNCTIONS:
        return FUNCTIONS[kind]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"layer {name!r} is of the kind {kind!r}, which this release of numlstm does not have")
    prefix = f"{name}."
    tensors = {key.removeprefix(prefix): tensor for key, tensor in contents.tensors.items() if key.startswith(prefix)}
    axes = {"weight": 1 if kind == "LayerNorm" else 2, "bias": 1}
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    sound = "weight" in shapes and all(len(shapes[key]) == axes.get(key) and all(shapes[key]) for key in shapes)
    if not sound or ("bias" in shapes and (kind == "Embedding" or shapes["bias"][0] != shapes["weight"][0])):
        raise ValueError(f"layer {name!r} is of the kind {kind}, which its tensors do not fit: {shapes}")
    return KINDS[kind]._from_parameters({key: tensor.read() for key, tensor in tensors.items()}, **flags)


def _lstm(name: str, flags: dict[str, Any], lstms: Mapping[str, Found]) -> LSTM:
    found = lstms.get(name)
    if found is None or found.config is None or found.kind != "LSTM":
        raise ValueError(f"layer {name!r} is an LSTM, whose tensors the file lacks" if found is None else found.problem)
    config, given = found.config, flags.pop("cell_options", {})
    if given:
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        config = config._replace(cell_options=CellOptions(**options))
    arrays = {key: tensor.read() for key, tensor in found.parameters.items()}
    dtype = arrays["weight_hh_l0"].dtype
    if "weights" in flags:
        config = config._replace(weights=weights_kind(flags.pop("weights"), dtype))
    lstm = LSTM._from_parameters(config, dtype, arrays)
    for flag in FLAGS:  # by the setters, which check them
        if flag in flags:
            setattr(lstm, flag, flags[flag])
    return lstm
