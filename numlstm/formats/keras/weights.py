"""The weights of recurrent cells in a Keras file, converted to the parameters of ``torch.nn``.

There are two layouts. ``model.weights.h5``, alone or in a .keras file, has a group for each object at its place in the
model, with ``vars/0``, ``vars/1``, …. The older .h5 has a group for each outermost layer, whose attribute
``weight_names`` lists all weights within by name, in Keras' order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.keras.hdf5 import Hdf5, Text
from numlstm.formats.keras.layers import Cell, Layer
from numlstm.formats.tensor import FLOATS, Tensor

PEEPHOLES = tuple(f"{gate}_gate_peephole_weights" for gate in ("input", "forget", "output"))
KERNEL = re.compile(
    rf"(?P<cell>.*/)?(?P<own>kernel|recurrent_kernel|bias|{'|'.join(PEEPHOLES)})(?:_\d+)?(?::\d+)?", re.S
)
PLACE = re.compile(
    r"(?P<layer>.*?)(?:/(?P<direction>forward|backward)_layer)?/cell(?:/cells/(?P<cell>lstm_cell(?:_(?P<number>\d+))?))?",
    re.S,
)
WITHIN = re.compile(r"(?P<direction>forward|backward)_|stacked_rnn_cells|.*cell(_\d+)?$", re.S)
OPTIMIZER = ("optimizer", "optimizer_weights")  # moments have the shapes of the weights


def own_names(bias: bool, peepholes: bool) -> tuple[str, ...]:
    """The weights of a cell, in Keras' order."""
    return ("kernel", "recurrent_kernel", *("bias",) * bias, *PEEPHOLES * peepholes)


OWN = {len(own): own for own in map(own_names, (False, True) * 2, (False, False, True, True))}  # by their number

Parameters = dict[str, Tensor]  # by the names of torch.nn without suffix


@dataclass(frozen=True)
class Weights:
    """The weights of one cell.

    Attributes
    ----------
    group : str
        Their place in the file.
    tensors : dict of str to (str, Tensor)
        Path and tensor of ``kernel`` (features, 4H), ``recurrent_kernel`` (H, 4H), ``bias`` and `PEEPHOLES` (H,), of
        the last two if there are any.
    inner : str
        In the older layout, the path within the outermost layer.
    """

    group: str
    tensors: dict[str, tuple[str, Tensor]]
    inner: str = ""

    @property
    def gates(self) -> float:
        """Number of gates by the kernels' shapes: 4 in an LSTM, 3 in a GRU, 1 in a plain RNN."""
        shapes = [self.tensors[own][1].shape for own in ("kernel", "recurrent_kernel")]
        if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][1] != shapes[1][1]:
            return 0
        return shapes[1][1] / shapes[1][0]


def placed(file: Hdf5) -> dict[str, Weights]:
    """Weights that may be a recurrent cell's in ``model.weights.h5``, by their place in the model."""
    found = {}
    for path in file.attributes:
        if not path.endswith("/vars") or path.split("/")[0] in OPTIMIZER:
            continue
        place = path.removesuffix("/vars")
        own = OWN.get(next(number for number in count() if f"{path}/{number}" not in file.tensors), ())
        if own:
            tensors = {name: (f"{path}/{number}", file.tensors[f"{path}/{number}"]) for number, name in enumerate(own)}
            found[place] = Weights(place, tensors)
    return found


def listed(file: Hdf5, root: str) -> dict[str, list[Weights]]:
    """The weights of all recurrent cells in the older layout, in Keras' order, by the outermost layer."""
    found: dict[str, list[Weights]] = {}
    prefix = f"{root}/" if root else ""
    for path, attributes in file.attributes.items():
        layer = path.removeprefix(prefix)
        if not path.startswith(prefix) or not layer or "/" in layer or layer in OPTIMIZER:
            continue
        cells: dict[tuple[str, int], dict[str, tuple[str, Tensor]]] = {}
        met: Counter[tuple[str, str]] = Counter()
        for name in texts(attributes, "weight_names"):
            match = KERNEL.fullmatch(name)
            full = f"{path}/{name}"
            if match is not None and full in file.tensors:
                # in the oldest files two stacked cells have kernel:0 and kernel_1:0 in one place
                inner, own = match["cell"] or "", match["own"]
                cells.setdefault((inner, met[inner, own]), {})[own] = (full, file.tensors[full])
                met[inner, own] += 1
        found[layer] = [
            Weights(f"{path}/{inner}".rstrip("/"), tensors, inner)
            for (inner, _), tensors in cells.items()
            if "kernel" in tensors and "recurrent_kernel" in tensors
        ]
    return {layer: weights for layer, weights in found.items() if weights}


def texts(attributes: dict[str, Text], name: str) -> list[str]:
    """A list of texts; Keras splits a long one into several attributes."""
    found = attributes.get(name)
    if isinstance(found, list):
        return found
    whole: list[str] = []
    for number in range(len(attributes)):
        part = attributes.get(f"{name}{number}")
        if not isinstance(part, list):
            break
        whole += part
    return whole


def parameters(cell: Cell, weights: Weights, features: int | None) -> Parameters | str:
    """The parameters of a cell in the layout of ``torch.nn``, or a sentence on the weight that does not fit.

    Keras' order of gates i, f, c, o is PyTorch's i, f, g, o. Its kernels are transposed, and its one bias is the sum of
    PyTorch's two. The peepholes of i and f read c before the step, that of o after it, as those of `CellOptions`.
    CuDNNLSTM has two biases, and kernels in cuDNN's layout, (H, features) for each gate. Sources:
    keras/src/layers/rnn/lstm.py of Keras 3, keras/layers/rnn/cudnn_lstm.py and saving/legacy of Keras 2,
    PeepholeLSTMCell in keras/layers/rnn/lstm_v1.py of Keras 2.8 and in tensorflow_addons/rnn/peephole_lstm_cell.py.
    """
    wide = 4 * cell.units
    shapes = {"kernel": (features or "features", wide), "recurrent_kernel": (cell.units, wide), "bias": (wide,)}
    shapes |= dict.fromkeys(PEEPHOLES, (cell.units,))
    for own, (path, tensor) in weights.tensors.items():
        shape, expected = tensor.shape, shapes[own]
        if tensor.dtype not in FLOATS:
            return f"{path} holds {tensor.dtype}, not floating-point numbers"
        fits = len(shape) == len(expected) and all(
            want in (have, "features") for have, want in zip(shape, expected, strict=True)
        )
        if (not fits and (own, shape) != ("bias", (2 * wide,))) or 0 in shape:
            asks = counted(cell.units, "unit") + (
                f" after {counted(features, 'feature')}" if features and own == "kernel" else ""
            )
            want = ", ".join(map(str, expected)) + "," * (len(expected) == 1)
            return f"{path} has shape {shape}; {asks} ask for ({want})"
    if cell.bias != ("bias" in weights.tensors):
        said = "has a bias, but the file holds none" if cell.bias else "has no bias, but the file holds one"
        return f"the layer {said}, in {weights.group}"
    if [own for own in PEEPHOLES if own in weights.tensors] != list(PEEPHOLES * cell.options.peepholes):
        said = (
            "has peepholes, but the file lacks some" if cell.options.peepholes else "has no peepholes, but the file has"
        )
        return f"the layer {said}, in {weights.group}"
    tensors = {own: tensor for own, (_, tensor) in weights.tensors.items()}
    kernel, recurrent, bias = tensors["kernel"], tensors["recurrent_kernel"], tensors.get("bias")
    cudnn = bias is not None and bias.shape != (wide,)
    turned = (_cudnn_kernel, _cudnn_recurrent) if cudnn else (_transposed, _transposed)
    found = {
        "weight_ih": Tensor(kernel.shape[::-1], kernel.dtype, partial(turned[0], kernel)),
        "weight_hh": Tensor(recurrent.shape[::-1], recurrent.dtype, partial(turned[1], recurrent)),
    }
    if bias is not None:
        halves = (slice(0, wide), slice(wide, 2 * wide))
        for name, half in zip(("bias_ih", "bias_hh"), halves, strict=True):
            found[name] = Tensor((wide,), bias.dtype, partial(_half, bias, half))
    if cell.options.peepholes:
        each = [tensors[own] for own in PEEPHOLES]
        found["weight_ch"] = Tensor((3 * cell.units,), each[0].dtype, partial(_joined, each))
    return found


def _joined(each: list[Tensor]) -> Array:
    return np.concatenate([tensor.read() for tensor in each])


def _transposed(kernel: Tensor) -> Array:
    return np.ascontiguousarray(kernel.read().T)


def _cudnn_kernel(kernel: Tensor) -> Array:
    features, wide = kernel.shape
    gates = [gate.reshape(wide // 4, features) for gate in np.split(kernel.read(), 4, axis=1)]
    return np.concatenate(gates)


def _cudnn_recurrent(kernel: Tensor) -> Array:
    return np.concatenate(np.split(kernel.read(), 4, axis=1))


def _half(bias: Tensor, half: slice) -> Array:
    array = bias.read()
    return array[half].copy() if half.start < array.size else np.zeros_like(array)


# Weights without a configuration


def undescribed(
    file: Hdf5, by_place: dict[str, Weights], by_layer: dict[str, list[Weights]], warning: str
) -> tuple[list[tuple[Layer, dict[int, Weights]]], list[str]]:
    """LSTM layers from shapes and places alone, with the weights of their cells; and sentences on other cells."""
    groups: dict[str, dict[str, list[tuple[int, Weights]]]] = {}
    others = []
    for weights, layer, direction, number in (*_by_place(by_place), *_by_layer(by_layer)):
        if weights.gates == 4:
            groups.setdefault(layer, {}).setdefault(direction, []).append((number, weights))
        elif weights.gates in (1, 3):
            others.append(f"{weights.group} has the weights of a {'GRU' if weights.gates == 3 else 'plain RNN'}")
    found, names = [], set()
    for place, directions in groups.items():
        name = file.attributes.get(f"{place}/vars", {}).get("name", place)
        name = name if isinstance(name, str) and name not in names else place
        names.add(name)
        of: dict[int, Weights] = {}
        cells = {}
        for direction, numbered in directions.items():
            ordered = [weights for _, weights in sorted(numbered, key=lambda pair: pair[0])]
            cells[direction] = tuple(_measured(weights) for weights in ordered)
            of |= {id(cell): weights for cell, weights in zip(cells[direction], ordered, strict=True)}
        forward, backward = cells.get("forward", ()), cells.get("backward", ())
        if not forward:
            forward, backward = backward, ()
        said = ("the outputs of both directions are taken to lie side by side",) if backward else ()
        found.append((Layer(name, forward, backward, place=place, notes=said, warning=warning), of))
    return found, others


def _measured(weights: Weights) -> Cell:
    units = weights.tensors["recurrent_kernel"][1].shape[0]
    options = CellOptions(peepholes=True) if PEEPHOLES[0] in weights.tensors else PLAIN
    return Cell(units, "bias" in weights.tensors, weights.group, True, options=options)


def _by_place(by_place: dict[str, Weights]) -> Iterable[tuple[Weights, str, str, int]]:
    """(weights, place of the layer, direction, number in a stack of cells)."""
    for place, weights in by_place.items():
        match = PLACE.fullmatch(place)
        if match is not None:
            yield weights, match["layer"], match["direction"] or "forward", int(match["number"] or 0)
        elif weights.gates == 4 and "bias" in weights.tensors and "lstm" in place.rpartition("/")[2]:
            yield weights, place, "forward", 0  # a single cell, or a CuDNNLSTM


def _by_layer(by_layer: dict[str, list[Weights]]) -> Iterable[tuple[Weights, str, str, int]]:
    for layer, all_weights in by_layer.items():
        for number, weights in enumerate(all_weights):
            kept, direction = [layer], "forward"
            for part in weights.inner.split("/"):
                match = WITHIN.match(part)
                if part in ("", layer):
                    continue
                if match is not None:
                    direction = match["direction"] or "forward"
                    break
                kept.append(part)
            yield weights, "/".join(kept), direction, number
