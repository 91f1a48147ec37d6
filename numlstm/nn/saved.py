"""A `Sequential` as a ``.safetensors`` file: the tensors of its state dict, and its layers in the metadata.

The metadata holds what tensors do not say: the kind and the flags of each layer. Sizes are those of the tensors.
`numlstm.models.saved` reads the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from os import PathLike
from typing import Any

from numlstm.base.atomic import replacing
from numlstm.base.typing import Array
from numlstm.formats import numlstm_config, safetensors
from numlstm.formats.numlstm_config import FLAGS, MODEL
from numlstm.lstm import LSTM
from numlstm.nn.functions import FUNCTIONS
from numlstm.nn.layers import Dropout, Embedding, LayerNorm, Linear


def write(path: str | PathLike[str], layers: Mapping[str, Any], skip: float, state_dict: Mapping[str, Array]) -> None:
    """Write a model, as `Sequential.save` says."""
    if os.path.splitext(path)[1].lower() != ".safetensors":
        raise ValueError(f"{os.fspath(path)}: a model is saved as .safetensors, and the suffix must say so")
    described = [{"name": name} | _described(name, layer) for name, layer in layers.items()]
    metadata = {"format": "np", MODEL: json.dumps({"layers": described, "skip": skip})}
    configs = [layer._config for layer in layers.values() if isinstance(layer, LSTM)]
    if len(configs) == 1:  # so that numlstm.load finds its flags
        metadata |= numlstm_config.metadata("LSTM", configs[0])
    data = safetensors.dump(state_dict, metadata)
    with replacing(path) as file:
        file.write(data)


def _described(name: str, layer: Any) -> dict[str, Any]:
    """The kind of a layer and its flags."""
    if isinstance(layer, LSTM):
        flags = {flag: getattr(layer._config, flag) for flag in FLAGS if flag not in ("cell_options", "weights")}
        if not layer.cell_options.plain:
            flags["cell_options"] = layer.cell_options._asdict()
        if layer._config.weights:
            flags["weights"] = layer.weights
        return {"kind": "LSTM"} | flags
    if isinstance(layer, Embedding):
        return {"kind": "Embedding", "padding_idx": layer.padding_idx}
    if isinstance(layer, LayerNorm):
        return {"kind": "LayerNorm", "eps": layer.eps}
    if isinstance(layer, Linear):
        return {"kind": "Linear"}
    if isinstance(layer, Dropout):
        return {"kind": "Dropout", "p": layer.p}
    own = getattr(layer, "__name__", "")
    if FUNCTIONS.get(own) is layer:
        return {"kind": own}
    raise ValueError(
        f"layer {name!r} cannot be saved: it is {layer!r}\nA file holds LSTMs, and layers and functions of numlstm.nn."
    )
