"""A Keras model that is a chain of layers, as a `numlstm.nn.Sequential`: what `numlstm export` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numlstm.formats.budget import shown
from numlstm.models.keras.graph import Graph, Ref
from numlstm.models.keras.signal import Json, Layer, Weights
from numlstm.nn.functions import log_softmax, relu, sigmoid, softmax, tanh
from numlstm.nn.layers import Embedding, LayerNorm, Linear
from numlstm.nn.sequential import Sequential

ACTIVATIONS = {"log_softmax": log_softmax, "relu": relu, "sigmoid": sigmoid, "softmax": softmax, "tanh": tanh}
Parts = dict[str, Any]  # layers by what their names end in


def sequential_of(graph: Graph, layers: Mapping[str, Layer]) -> Sequential:
    """The layers in order; ValueError names what is no layer of a chain."""
    if len(graph.inputs) != 1:
        raise ValueError(f"it has {len(graph.inputs)} inputs")
    found: Parts = {}
    before = Ref(graph.inputs[0].name, 0, 0)
    for call in graph.calls:
        layer = layers[call.layer]
        name = f"layer {shown(layer.name)!r} ({layer.kind})"
        if call.args != (before,) or call.kwargs:
            raise ValueError(f"{name} takes more than the output of the layer before it")
        before = Ref(call.layer, call.number, 0)
        if layer.parts is None:
            raise ValueError(f"{name} is no LSTM, Embedding, Dense, LayerNormalization or activation")
        try:
            found |= {f"{layer.name}{end}": part for end, part in layer.parts().items()}
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    if graph.output != before:
        raise ValueError("its output is not that of its last layer")
    return Sequential(found).eval()


def parts_of(kind: str, config: Json, weights: Weights) -> Callable[[], Parts] | None:
    """What makes the layers that a layer of Keras is, if it is such a one."""
    make = MAKERS.get(kind)
    return None if make is None else lambda: make(config, weights)


def _nothing(config: Json, weights: Weights) -> Parts:
    return {}


def _dense(config: Json, weights: Weights) -> Parts:
    bias = {"bias": weights["bias"]} if "bias" in weights else {}
    return {"": Linear._from_parameters({"weight": weights["kernel"].T} | bias)} | _activation(config, weights)


def _activation(config: Json, weights: Weights) -> Parts:
    name = config.get("activation")
    if name is None or name == "linear":
        return {}
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"has the activation {shown(repr(name))}, which is none of {', '.join(ACTIVATIONS)}")
    return {f".{name}": ACTIVATIONS[name]}


def _relu(config: Json, weights: Weights) -> Parts:
    if config.get("max_value") is not None or config.get("negative_slope") or config.get("threshold"):
        raise ValueError("is no plain relu")
    return {"": relu}


def _softmax(config: Json, weights: Weights) -> Parts:
    if config.get("axis", -1) not in (-1, [-1]):
        raise ValueError(f"works along axis {config['axis']}, which may not hold the features")
    return {"": softmax}


def _embedding(config: Json, weights: Weights) -> Parts:
    if config.get("mask_zero") is True:
        raise ValueError("hands on a mask")
    return {"": Embedding._from_parameters({"weight": weights["embeddings"]})}


def _layer_normalization(config: Json, weights: Weights) -> Parts:
    if config.get("axis", -1) not in (-1, [-1]) or config.get("rms_scaling") or "gamma" not in weights:
        raise ValueError("is none over the features alone, with a scale")
    parameters = {"weight": weights["gamma"]} | ({"bias": weights["beta"]} if "beta" in weights else {})
    return {"": LayerNorm._from_parameters(parameters, eps=float(config.get("epsilon", 1e-3)))}


MAKERS: dict[str, Callable[[Json, Weights], Parts]] = {
    **dict.fromkeys(
        ("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise"), _nothing
    ),
    **dict.fromkeys(("Identity", "SpatialDropout1D"), _nothing),
    "Activation": _activation,
    "Dense": _dense,
    "Embedding": _embedding,
    "LayerNormalization": _layer_normalization,
    "ReLU": _relu,
    "Softmax": _softmax,
}
