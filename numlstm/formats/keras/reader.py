"""Keras' files: .keras, a zip archive of a configuration and weights, and .h5 with both or with weights alone.

The configuration says what a layer computes (`layers`). Its place or its name leads to its weights (`weights`), whose
shapes must fit the configuration. Consecutive layers that fit together become one LSTM of several layers.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

from numlstm.base.cell_options import CellOptions
from numlstm.base.config import Config
from numlstm.formats import other_names
from numlstm.formats.budget import PACKED, Budget
from numlstm.formats.detected import SEVERAL_DTYPES, Contents, Found
from numlstm.formats.keras import hdf5
from numlstm.formats.keras.layers import Json, Layer, Network, parsed
from numlstm.formats.keras.weights import Parameters, Weights, listed, parameters, placed, texts, undescribed
from numlstm.formats.state_dict import MOST, too_many_layers
from numlstm.formats.tensor import Tensor, widest
from numlstm.formats.zips import entry_bytes

PART = 4_000  # bytes of memory for a layer's descriptions
COPIES = 3  # of the weights in memory, once they are unpacked
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
FORMAT = "Keras or HDF5"
ASSUMED = (
    "the file holds weights without a configuration: the activations tanh and sigmoid, batch before time, and time "
    "forward are assumed"
)
NEWEST = (3, 99)  # taken for the version of a file that does not state one
HARD_BEFORE = (2, 3)  # the first version of Keras whose LSTM uses sigmoid by default


@dataclass(frozen=True)
class Described:
    """A whole model: its configuration, and the file that has its weights.

    Attributes
    ----------
    config : dict
    file : Hdf5
    root : str or None
        The group of the older layout; None for the layout of ``model.weights.h5``.
    version : (int, int)
        Of the Keras that wrote it; a recent one if the file does not say.
    """

    config: Json
    file: hdf5.Hdf5
    root: str | None
    version: tuple[int, int]


@dataclass(frozen=True)
class Part:
    """Cells that become layers of one LSTM; parameters by layer and direction."""

    layer: Layer
    where: str
    cells: tuple[tuple[Parameters, ...], ...] = ()
    problem: str = ""

    @property
    def units(self) -> int:
        return self.cells[0][0]["weight_hh"].shape[1]

    @property
    def features(self) -> int:
        return self.cells[0][0]["weight_ih"].shape[1]

    @property
    def shape(self) -> tuple[int, int, bool, bool, str, CellOptions]:
        """Everything that the layers of one LSTM have in common."""
        layer, cell = self.layer, self.cells[0]
        return (
            self.units,
            len(cell),
            "bias_ih" in cell[0],
            layer.time_major,
            layer.direction,
            layer.forward[0].options,
        )


def looks_like(names: list[str]) -> bool:
    """Whether a zip archive with these entries is one of Keras."""
    return CONFIG in names and (METADATA in names or any(name.startswith("model.weights.") for name in names))


def read_zip(archive: zipfile.ZipFile, budget: Budget) -> Contents:
    """Every tensor of a .keras file, and the LSTMs that its configuration describes."""
    names = archive.namelist()
    if WEIGHTS not in names:
        have = ", ".join(repr(name) for name in names[:6])
        raise ValueError(f"it is a Keras archive without {WEIGHTS!r}, which holds the weights; it has {have}")
    for name, copies in ((CONFIG, 2), (WEIGHTS, COPIES)):
        entry = archive.getinfo(name)
        beyond = max(0, entry.file_size - entry.compress_size)
        budget.hold(copies * beyond, f"its entry {name!r}, unpacked,", PACKED)
    metadata = json.loads(entry_bytes(archive, METADATA)) if METADATA in names else {}
    version = _version(metadata.get("keras_version") if isinstance(metadata, dict) else None)
    network = parsed(entry_bytes(archive, CONFIG).decode(), budget, version)
    data = entry_bytes(archive, WEIGHTS)
    file = hdf5.read(io.BytesIO(data), len(data), budget)
    described = Described(network.config or {}, file, None, version or NEWEST)
    return _of_places(file, network, WEIGHTS)._replace(model=described)


def read_h5(file: BinaryIO) -> Contents:
    """Every tensor of an HDF5 file, and the LSTMs.

    They are found by Keras' configuration or, without one, by the places and shapes of its weights. If it has none of
    Keras', they are found by the names of other libraries.
    """
    size = file.seek(0, io.SEEK_END)
    budget = Budget(size)
    h5 = hdf5.read(file, size, budget)
    contents = _of_h5(h5, budget)
    if contents.lstms:
        return contents
    lstms, others = other_names.find(h5.tensors)
    return contents._replace(lstms=lstms, others=(*contents.others, *others))


def _of_h5(h5: hdf5.Hdf5, budget: Budget) -> Contents:
    """Keras' LSTMs in an HDF5 file of any layout."""
    config = h5.attributes[""].get("model_config")
    if isinstance(config, str):
        version = _version(h5.attributes[""].get("keras_version"))
        network = parsed(config, budget, version)
        described = Described(network.config or {}, h5, "model_weights", version or NEWEST)
        return _of_names(h5, network, "model_weights")._replace(model=described)
    if texts(h5.attributes[""], "layer_names"):
        return _of_names(h5, Network(budget), "")
    if "model_weights" in h5.attributes:
        return _of_names(h5, Network(budget), "model_weights")
    return _of_places(h5, Network(budget), "")


def _of_places(file: hdf5.Hdf5, network: Network, where: str) -> Contents:
    """The layout of ``model.weights.h5``."""
    weights = placed(file)
    known = {cell.place for cells in network.cells.values() for cell in cells}
    parts: list[Part] = []
    for layer in network.layers:
        of, problem = {}, _moved(file, layer)
        for cell in (*layer.forward, *layer.backward):
            place = cell.place
            if place not in weights:  # the path in files of Keras 2.12 and 2.13
                place = place.replace("layers/", "_layer_checkpoint_dependencies/")
                known.add(place)
            if place in weights:
                of[id(cell)] = weights[place]
            elif not problem:
                problem = f"its weights are not in the file: there is no {cell.place}/vars/0"
        parts += parts_of(layer, of, where, problem)
    free = {place: found for place, found in weights.items() if place not in known}
    rest, others = undescribed(file, free, {}, ASSUMED)
    return _contents(file, parts, rest, [*network.others, *others], where, network.budget)


def _version(text: object) -> tuple[int, int] | None:
    """The version of Keras; None if the file does not say."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match is not None else None


def _moved(file: hdf5.Hdf5, layer: Layer) -> str:
    """The problem of a layer whose group states the name of another, as Keras 3 does; "" if there is none."""
    name = file.attributes.get(f"{layer.place}/vars", {}).get("name")
    if name in (None, layer.name.rpartition("/")[2]):
        return ""
    return f"its weights would be at {layer.place}, which holds those of {name!r}"


def _of_names(file: hdf5.Hdf5, network: Network, root: str) -> Contents:
    """The older layout."""
    weights = listed(file, root)
    known: dict[int, Weights] = {}
    wrong: dict[int, str] = {}
    for outermost, cells in network.cells.items():
        have = weights.pop(outermost, [])
        if len(have) == len(cells):
            # Keras lists trainable weights first
            order = sorted(cells, key=lambda cell: not cell.trainable)
            known |= {id(cell): found for cell, found in zip(order, have, strict=True)}
        else:
            said = f"the file has weights of {len(have)} recurrent cells for {outermost!r}; it has {len(cells)} cells"
            wrong |= dict.fromkeys(map(id, cells), said)
    parts: list[Part] = []
    for layer in network.layers:
        cells = [*layer.forward, *layer.backward]
        parts += parts_of(layer, known, root, next((wrong[id(cell)] for cell in cells if id(cell) in wrong), ""))
    rest, others = undescribed(file, {}, weights, _older(file, root) or ASSUMED)
    return _contents(file, parts, rest, [*network.others, *others], root, network.budget)


def _older(file: hdf5.Hdf5, root: str) -> str:
    """The warning for a file of weights alone that is older than the default of today; "" for others."""
    version = file.attributes.get(root, {}).get("keras_version")
    if (_version(version) or NEWEST) >= HARD_BEFORE:
        return ""
    return f"{ASSUMED}; but the default of Keras {version}, which wrote it, was 'hard_sigmoid' for recurrent_activation"


def _contents(
    file: hdf5.Hdf5,
    parts: list[Part],
    rest: Iterable[tuple[Layer, dict[int, Weights]]],
    others: list[str],
    where: str,
    budget: Budget,
) -> Contents:
    for layer, of in rest:
        parts += parts_of(layer, of, where, "")
    return contents(FORMAT, file.tensors, parts, others, budget)


def contents(format: str, tensors: dict[str, Tensor], parts: list[Part], others: list[str], budget: Budget) -> Contents:
    """Join consecutive parts to LSTMs."""
    if len(parts) > MOST:
        raise ValueError(f"it has {len(parts)} LSTM layers and cells; {MOST} is the limit of a file")
    budget.hold(PART * len(parts), "the descriptions of its layers")
    return Contents(format, tensors, tuple(found_of(chain) for chain in _chains(parts)), tuple(others))


def parts_of(layer: Layer, of: dict[int, Weights], where: str, problem: str) -> list[Part]:
    """The layer as one LSTM, or as several if the sizes of its cells do not fit into one."""
    problem = layer.problem or problem
    groups = [of[id(cell)].group for cell in (*layer.forward, *layer.backward) if id(cell) in of]
    place = (f"{where}, " if where == WEIGHTS else "") + ", ".join(groups)
    if problem:
        return [Part(layer, place, problem=problem)]
    directions: list[list[Parameters]] = []
    for cells in filter(None, (layer.forward, layer.backward)):
        features: int | None = None
        directions.append([])
        for cell in cells:
            found = parameters(cell, of[id(cell)], features)
            if isinstance(found, str):
                return [Part(layer, place, problem=found)]
            directions[-1].append(found)
            features = cell.units
    stack = tuple(zip(*directions, strict=False))
    shapes = {(cell.units, cell.bias, cell.options) for cell in (*layer.forward, *layer.backward)}
    inputs = {found["weight_ih"].shape for found in stack[0]}
    if (
        len(shapes) == 1
        and len(inputs) == 1
        and (len(directions) == 1 or len(layer.forward) == len(layer.backward) == 1)
    ):
        return [Part(layer, place, stack)]
    return _apart(layer, directions, of, where)


def _apart(layer: Layer, directions: list[list[Parameters]], of: dict[int, Weights], where: str) -> list[Part]:
    """Each cell as an LSTM of its own."""
    parts = []
    for direction, (cells, found) in enumerate(zip((layer.forward, layer.backward), directions, strict=False)):
        for number, (cell, own) in enumerate(zip(cells, found, strict=True)):
            name, notes = layer.name, layer.notes
            if len(directions) > 1:
                name += ("/forward", "/backward")[direction]
                notes += ("one of two directions that one LSTM cannot have together",)
            if len(cells) > 1:
                name += f"/{number}"
                notes += (f"cell {number} of {len(cells)}: each reads the output sequence of the one before",)
            order = "reverse" if direction else layer.direction
            one = replace(layer, name=name, forward=(cell,), notes=notes, direction=order, follows="", sequences=False)
            place = of[id(cell)].group
            parts.append(Part(one, f"{where}, {place}" if where == WEIGHTS else place, ((own,),)))
    return parts


def _chains(parts: list[Part]) -> Iterable[list[Part]]:
    """The parts that become one LSTM: consecutive ones with nothing between that agree in what its layers share."""
    chains: dict[str, list[Part]] = {}  # by the name of the last
    whole: list[list[Part]] = []
    for part in parts:
        chain = chains.pop(part.layer.follows, None) if part.layer.follows else None
        if chain is not None and _joins(chain[-1], part):
            chain.append(part)
        else:
            if chain is not None:
                chains[part.layer.follows] = chain
            chain = [part]
            whole.append(chain)
        chains[part.layer.name] = chain
    return whole


def _joins(before: Part, after: Part) -> bool:
    return (
        not (before.problem or after.problem)
        and before.layer.sequences
        and before.layer.warning == after.layer.warning
        and before.shape == after.shape
        and after.features == len(before.cells[0]) * before.units
    )


def found_of(chain: list[Part]) -> Found:
    """The LSTM of consecutive parts."""
    first = chain[0]
    name = "+".join(part.layer.name for part in chain)
    notes = tuple(dict.fromkeys(note for part in chain for note in part.layer.notes))
    if len(chain) > 1:
        notes = (f"{len(chain)} layers of Keras, joined: each reads the output sequence of the one before", *notes)
    where = ", ".join(part.where for part in chain)
    problem = too_many_layers(len(chain)) or first.problem
    if problem:
        return Found(name, "LSTM", None, "", where, notes, problem)
    cells = [cell for part in chain for cell in part.cells]
    units, directions, bias, time_major, order, options = first.shape
    config = Config(
        first.features,
        units,
        len(cells),
        bias,
        not time_major,
        bidirectional=directions == 2,
        direction=order,
        cell_options=options,
    )
    own = {
        f"{key}_l{number}{'_reverse' * direction}": tensor
        for number, pair in enumerate(cells)
        for direction, cell in enumerate(pair)
        for key, tensor in cell.items()
    }
    dtypes = {tensor.dtype for tensor in own.values()}
    if len(dtypes) > 1:
        notes += (SEVERAL_DTYPES,)
    return Found(
        name,
        "LSTM",
        config,
        widest(dtypes),
        where,
        notes,
        warning=first.layer.warning,
        parameters={key: own[key] for key in config.parameter_shapes()},
    )
