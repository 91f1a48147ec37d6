"""Models in JSON: of guitar amplifiers, and the index of weights in several files.

==================================  ===================================================================================
GuitarML, NeuralPi, Proteus         ``state_dict``: PyTorch's names and layout, as nested lists. Source: save_model in
                                    CoreAudioML/networks.py of Automated-GuitarAmpModelling.
RTNeural, AIDA-X                    ``layers``: Keras' layout; gates i, f, c, o in the columns. Source:
                                    python/model_utils.py of RTNeural.
Neural Amp Modeler (.nam), LSTM     ``weights``: one list. A layer is [W_ih, W_hh] by rows, the sum of both biases, h_0
                                    and c_0; then the head. Gates i, f, g, o. Source: nam/models/recurrent.py.
Hugging Face (.index.json)          ``weight_map``: the file of each tensor, beside the index.
==================================  ===================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from numlstm.base import opening
from numlstm.base.config import Config
from numlstm.base.typing import Array
from numlstm.formats import state_dict
from numlstm.formats.beside import size_below
from numlstm.formats.budget import Budget, shown
from numlstm.formats.detected import Contents, Found
from numlstm.formats.keras import reader as keras
from numlstm.formats.keras.layers import Cell, Layer
from numlstm.formats.keras.weights import Weights
from numlstm.formats.tensor import AXES, TENSOR, Tensor
from numlstm.formats.text import parsed_json

Json = dict[str, Any]
LONGEST = 1 << 29  # bytes; weights of half a gigabyte are in no JSON
SHARDS = 1000
SIZES = ("input_size", "hidden_size", "num_layers")
AROUND = ("in_skip", "in_gain", "out_gain")  # of AIDA-X: the input is added to the output; decibels
KERNELS = ("kernel", "recurrent_kernel", "bias")
Open = Callable[[BinaryIO, int], Contents]


def looks_like(start: bytes) -> bool:
    """Whether a file that begins with these bytes may be JSON: an object."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def read(
    file: BinaryIO, size: int, path: str | os.PathLike[str] | None, stack: ExitStack, open_shard: Open
) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`.

    Parameters
    ----------
    file : binary file
    size : int
    path : path or None
        Of the file, if it has one: an index refers to files beside it.
    stack : ExitStack
        Closes the files that are opened.
    open_shard : callable
        Reads one of those.
    """
    if size > LONGEST:
        raise ValueError(f"it is JSON of {size} bytes; {LONGEST} is the limit")
    budget = Budget(size)
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it begins as JSON, but is no text: {error}") from None
    model = parsed_json(text, budget, "its text")
    del text
    if isinstance(model.get("state_dict"), dict):
        return _state_dict(model, budget)
    if isinstance(model.get("layers"), list):
        return _layers(model, budget)
    if isinstance(model.get("weights"), list) and "architecture" in model:
        return _amp_modeler(model, budget)
    if isinstance(model.get("weight_map"), dict):
        return _index(model["weight_map"], path, stack, open_shard)
    names = ", ".join(repr(shown(name)) for name in list(model)[:4]) + (", …" if len(model) > 4 else "")
    raise ValueError(
        f"it is JSON of {names or 'nothing'}, which is no model that is known: GuitarML's, RTNeural's, Neural Amp "
        "Modeler's, or an index of weights"
    )


def _array(value: Any, name: str) -> Array:
    """Nested lists of numbers as an array in float32, in which the programs that read these files compute."""
    shape: list[int] = []
    level = [value]
    while level and all(type(part) is list for part in level) and len(shape) < AXES:
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise ValueError(f"its {shown(name)!r} is a list of lists of several lengths")
        shape += lengths
        level = list(chain.from_iterable(level))
    if not set(map(type, level)) <= {int, float}:  # NumPy would make numbers of texts, and of None
        raise ValueError(f"its {shown(name)!r} holds something other than numbers")
    with np.errstate(over="ignore"):
        try:
            return np.array(level, np.float64).astype(np.float32).reshape(shape)
        except OverflowError:
            raise ValueError(f"its {shown(name)!r} holds an integer beyond all floating-point numbers") from None


def _tensors(values: Mapping[str, Any], budget: Budget) -> dict[str, Tensor]:
    """Tensors by name; entries that are no lists are left out."""
    found = {}
    for name, value in values.items():
        if isinstance(value, list):
            budget.hold(TENSOR + len(name), "its tensors")
            found[name] = Tensor.of(_array(value, name))
    return found


def _state_dict(model: Json, budget: Budget) -> Contents:
    """GuitarML's: the state dict of a recurrent layer ``rec``, whose steps come first, and a Linear layer ``lin``."""
    tensors = _tensors(model["state_dict"], budget)
    data = model.get("model_data")
    if not isinstance(data, dict):
        return Contents("JSON of a state dict", tensors, *state_dict.find(tensors, place="state_dict"))
    lstms, others = state_dict.find(tensors, {"rec": {"batch_first": False}}, "state_dict")
    stated = {name: data[name] for name in SIZES if name in data}
    note = "the model adds its input to the output of its head (skip)"
    checked = []
    for found in lstms:
        if found.config is not None and not stated.items() <= found.config._asdict().items():
            problem = f"its model_data has {shown(str(stated))}, which does not fit its tensors: {found.sizes()}"
            found = found._replace(config=None, parameters={}, problem=problem)
        checked.append(found._replace(notes=(*found.notes, note)) if data.get("skip") in (1, True) else found)
    return Contents("GuitarML's JSON", tensors, tuple(checked), others, data)


def _layers(model: Json, budget: Budget) -> Contents:
    """RTNeural's: a list of layers, each with the weights of Keras' layer of that type."""
    tensors: dict[str, Tensor] = {}
    parts: list[keras.Part] = []
    others: list[str] = []
    before = ""
    specs = [spec if isinstance(spec, dict) else {} for spec in model["layers"]]
    for number, spec in enumerate(specs):
        name, kind, given = f"layers.{number}", spec.get("type"), spec.get("weights")
        names = KERNELS if kind in ("lstm", "gru") else ("kernel", "bias")
        arrays = dict(zip((f"{name}.{own}" for own in names), given if isinstance(given, list) else (), strict=False))
        own = _tensors(arrays, budget)
        tensors |= own
        if kind != "lstm":
            before = ""
            if kind == "gru":
                others.append(f"{name} is a GRU, not an LSTM")
            continue
        weights = {key.rpartition(".")[2]: (key, tensor) for key, tensor in own.items()}
        parts += _rtneural_lstm(spec, name, before, Weights(name, weights))
        before = name
    contents = keras.contents("RTNeural's JSON", tensors, parts, others, budget)
    given = [f"{name} {model[name]!r}" for name in AROUND if model.get(name)]
    notes = [f"the model has {shown(each)} around its layers" for each in given]
    lstms = tuple(each._replace(notes=(*each.notes, *notes)) for each in contents.lstms)
    described = [{key: spec.get(key) for key in ("type", "activation")} for spec in specs]
    around = {name: model[name] for name in AROUND if name in model}
    return contents._replace(lstms=lstms, model={"layers": described, **around})


def _rtneural_lstm(spec: Json, name: str, before: str, weights: Weights) -> list[keras.Part]:
    recurrent = weights.tensors.get("recurrent_kernel")
    if "kernel" not in weights.tensors or recurrent is None or len(recurrent[1].shape) != 2:
        return [keras.Part(Layer(name, ()), name, problem="it has no kernel and recurrent_kernel of two axes")]
    problem = ""
    if spec.get("activation") not in ("tanh", "", None):
        problem = f"its activation is {shown(repr(spec['activation']))}; only 'tanh' is supported"
    cell = Cell(recurrent[1].shape[0], "bias" in weights.tensors, name, True, problem)
    layer = Layer(name, (cell,), follows=before, sequences=True, problem=problem)
    return keras.parts_of(layer, {id(cell): weights}, "layers", problem)


def _amp_modeler(model: Json, budget: Budget) -> Contents:
    """Neural Amp Modeler's: one list of numbers."""
    architecture, config = model["architecture"], model.get("config")
    if architecture != "LSTM":
        raise ValueError(f"it is a model of Neural Amp Modeler of architecture {shown(repr(architecture))}, not LSTM")
    sizes: list[Any] = [config.get(name) if isinstance(config, dict) else None for name in SIZES]
    if not all(type(size) is int and 0 < size < 1 << 20 for size in sizes):
        raise ValueError(f"its config has {', '.join(SIZES)} of {shown(repr(sizes))}, not three positive numbers")
    inputs, units, layers = sizes
    if problem := state_dict.too_many_layers(layers):
        raise ValueError(problem)
    numbers = _array(model["weights"], "weights").ravel()
    expected = sum(4 * units * (width + units + 1) + 2 * units for width in (inputs, *[units] * (layers - 1)))
    if numbers.size != expected + units + 1:
        asks = f"LSTM({inputs}, {units}, num_layers={layers}) and its head ask for {expected + units + 1}"
        raise ValueError(f"it has {numbers.size} weights; {asks}")
    budget.hold(TENSOR * 6 * layers, "its tensors")
    parameters = {name: Tensor.of(array) for name, array in _amp_parameters(numbers, inputs, units, layers)}
    own = Config(inputs, units, layers, batch_first=True)
    tensors = parameters | {
        "head.weight": Tensor.of(numbers[-units - 1 : -1].reshape(1, units)),
        "head.bias": Tensor.of(numbers[-1:]),
    }
    states = [name for name in parameters if name.startswith(("h_0", "c_0")) and parameters[name].read().any()]
    warning = ""
    if states:
        some = ", ".join(states[:4]) + (", …" if len(states) > 4 else "")
        warning = f"the model begins with constant states, {some}: pass them, from numlstm.load_tensors"
    named = {name: parameters[name] for name in own.parameter_shapes()}
    found = Found("", "LSTM", own, "float32", "weights", warning=warning, parameters=named)
    return Contents("Neural Amp Modeler", tensors, (found,), (), config)


def _amp_parameters(numbers: Array, inputs: int, units: int, layers: int) -> Iterator[tuple[str, Array]]:
    """The parameters of each layer, and its initial states."""
    at = 0

    def take(*shape: int) -> Array:
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return numbers[at - count : at].reshape(shape)

    for layer in range(layers):
        width = units if layer else inputs
        both = take(4 * units, width + units)
        yield f"weight_ih_l{layer}", both[:, :width]
        yield f"weight_hh_l{layer}", both[:, width:]
        yield f"bias_ih_l{layer}", take(4 * units)
        yield f"bias_hh_l{layer}", np.zeros(4 * units, np.float32)
        yield f"h_0_l{layer}", take(units)
        yield f"c_0_l{layer}", take(units)


def _index(files: Json, path: str | os.PathLike[str] | None, stack: ExitStack, open_shard: Open) -> Contents:
    """Tensors in files beside the index."""
    if path is None:
        raise ValueError("it is an index of weights in other files: load it by its path")
    locations = dict.fromkeys(files.values())
    if len(locations) > SHARDS or not all(isinstance(location, str) for location in locations):
        raise ValueError(f"its weight_map must name the file of each tensor, {SHARDS} files at most")
    folder, format = Path(path).parent, ""
    tensors: dict[str, Tensor] = {}
    for location in locations:
        said = f"its index refers to {shown(location)!r}"
        size_below(folder, location, said)
        file = stack.enter_context(opening.regular(folder / location, "a file of weights"))
        shard = open_shard(file, opening.size(file))
        format = shard.format
        tensors |= {name: tensor for name, tensor in shard.tensors.items() if files.get(name) == location}
    missing = [name for name in files if name not in tensors]
    if missing:  # layers of an LSTM may be among them
        raise ValueError(f"{shown(missing[0])!r} is not in {shown(files[missing[0]])!r}, where its index has it")
    return Contents(f"{format} in {len(locations)} files", tensors, *state_dict.find(tensors))
