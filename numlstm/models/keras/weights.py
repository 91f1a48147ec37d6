"""The weights of Keras layers: by the place of a layer in the model, or in the order of its outermost layer's list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.keras.reader import Described
from numlstm.formats.keras.weights import Weights as CellWeights
from numlstm.formats.keras.weights import texts
from numlstm.formats.tensor import FLOATS, Tensor

EARLIER = ("layers/", "_layer_checkpoint_dependencies/")  # the path in files of Keras 2.12 and 2.13


@dataclass
class Slot:
    """A weight that a layer has by its configuration, and its tensor once it is found.

    Attributes
    ----------
    place : str
        The group of its layer in ``model.weights.h5``.
    index : int
        Its number there.
    name : str
    layer : str
        The name of its layer, behind those of the models around it.
    group : str
        The group of its layer, around that of a cell.
    trainable : bool
        The older layout lists trainable weights first.
    optional : bool
        Whether it may be missing.
    """

    place: str
    index: int
    name: str
    layer: str
    group: str
    trainable: bool
    optional: bool = False
    path: str = ""
    tensor: Tensor | None = None

    def array(self, dtype: np.dtype[np.floating]) -> Array:
        """Its numbers."""
        assert self.tensor is not None
        return np.ascontiguousarray(self.tensor.read().astype(dtype, copy=False))


def fill(described: Described, outermost: str, slots: list[Slot]) -> None:
    """Find the tensors of all weights of an outermost layer.

    Raises
    ------
    ValueError
        The file has another number of weights for it.
    """
    if described.root is None:
        _by_place(described, slots)
    else:
        _by_name(described, outermost, slots)


def _by_place(described: Described, slots: list[Slot]) -> None:
    tensors = described.file.tensors
    counts: dict[str, int] = {}
    for group, layer in dict.fromkeys((slot.group, slot.layer) for slot in slots):
        stated = described.file.attributes.get(f"{group}/vars", {}).get("name")
        if stated not in (None, layer.rpartition("/")[2]):  # Keras 3 states it
            raise ValueError(f"the weights of {layer!r} would be at {group}, which holds those of {stated!r}")
    for slot in slots:
        for place in (slot.place, slot.place.replace(*EARLIER)):
            path = f"{place}/vars/{slot.index}"
            if path in tensors:
                slot.path, slot.tensor = path, tensors[path]
                counts[place] = max(counts.get(place, 0), slot.index + 1)
                break
        else:
            if not slot.optional:
                raise ValueError(
                    f"the weights of {slot.layer!r} are not in the file: there is no {slot.place}/vars/{slot.index}"
                )
    for place, count in counts.items():
        if f"{place}/vars/{count}" in tensors:
            raise ValueError(f"{place}/vars has more weights than the {count} of its layer: it may be quantised")


def _by_name(described: Described, outermost: str, slots: list[Slot]) -> None:
    group = f"{described.root}/{outermost}" if described.root else outermost
    names = texts(described.file.attributes.get(group, {}), "weight_names")
    names = [name for name in names if "seed_generator" not in name]
    order = sorted(slots, key=lambda slot: not slot.trainable)
    if len(names) < len(order):
        order = [slot for slot in order if not slot.optional]
    if len(names) != len(order):
        raise ValueError(
            f"the file has {counted(len(names), 'weight')} for the layer {outermost!r}, which has {len(order)}"
        )
    for slot, name in zip(order, names, strict=True):
        slot.path = f"{group}/{name}"
        if slot.path not in described.file.tensors:
            raise ValueError(f"the weights of {slot.layer!r} are not in the file: there is no {slot.path}")
        slot.tensor = described.file.tensors[slot.path]


def of_cell(slots: list[Slot]) -> CellWeights:
    """The weights of a recurrent cell, for `numlstm.formats.keras.reader.parts_of`."""
    tensors = {slot.name: (slot.path, slot.tensor) for slot in slots if slot.tensor is not None}
    return CellWeights(slots[0].place, tensors)


def dtype_of(described: Described) -> np.dtype[np.floating]:
    """The dtype that the model computes in: float64 if a weight is, else float32."""
    dtypes = {tensor.dtype for tensor in described.file.tensors.values() if tensor.dtype in FLOATS}
    return np.dtype(np.float64 if "float64" in dtypes else np.float32)
