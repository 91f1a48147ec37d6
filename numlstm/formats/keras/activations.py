"""Keras' activations as those of `CellOptions`.

Sources: keras/src/activations/activations.py and keras/src/backend of Keras 3, keras/activations.py of Keras 2. A name
may stand in an object, as a function does, or be a layer with its own configuration.
"""

from __future__ import annotations

from typing import Any

from numlstm.base.cell_options import Activation

NAMES: dict[str, Activation] = {
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "relu": ("Relu",),
    "linear": ("Affine", 1.0, 0.0),
    "elu": ("Elu", 1.0),
    "softsign": ("Softsign",),
    "softplus": ("Softplus",),
    "leaky_relu": ("LeakyRelu", 0.2),
}
HARD = {2: ("HardSigmoid", 0.2, 0.5), 3: ("HardSigmoid", 1 / 6, 0.5)}  # "hard_sigmoid" by the major version of Keras
# layers that are used as activations: the ONNX name, and its number by the names of Keras 3 and 2, or the default
LAYERS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "LeakyReLU": ("LeakyRelu", ("negative_slope", "alpha"), 0.3),
    "ELU": ("Elu", ("alpha",), 1.0),
    "ThresholdedReLU": ("ThresholdedRelu", ("theta",), 1.0),
}
HARD_SIGMOID = (
    "Keras 2 computes clip(0.2 x + 0.5, 0, 1) under that name and Keras 3 clip(x / 6 + 0.5, 0, 1), and the file does "
    "not say which version wrote it"
)


def activation(value: object, version: tuple[int, int] | None) -> Activation | str:
    """The activation of an argument in a configuration of this version of Keras, or what is wrong with it.

    Examples
    --------
    >>> activation("hard_sigmoid", (2, 3)), activation(None, None)
    (('HardSigmoid', 0.2, 0.5), ('Affine', 1.0, 0.0))
    >>> activation({"class_name": "ELU", "config": {"alpha": 2}}, None), activation("gelu", None)
    (('Elu', 2.0), 'gelu')
    """
    if value is None:
        return NAMES["linear"]
    name, config = value, None
    if isinstance(value, dict):
        name, config = value.get("class_name"), value.get("config")
        if isinstance(config, str):  # a function
            name, config = config, None
    if isinstance(config, dict):
        return _of_layer(str(name), config)
    if name == "hard_sigmoid":
        return HARD.get(version[0] if version else 0, "hard_sigmoid")
    return NAMES.get(str(name), str(name))


def _of_layer(kind: str, config: dict[str, Any]) -> Activation | str:
    if kind == "ReLU" and not any(config.get(argument) for argument in ("max_value", "threshold", "negative_slope")):
        return NAMES["relu"]
    if kind not in LAYERS:
        return kind
    name, arguments, usual = LAYERS[kind]
    given = [config[argument] for argument in arguments if argument in config]
    # Keras 2 wraps numbers of NumPy
    number = given[0]["value"] if given and isinstance(given[0], dict) and "value" in given[0] else (*given, usual)[0]
    return (name, float(number)) if type(number) in (int, float) and abs(number) < float("inf") else kind
