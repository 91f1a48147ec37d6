"""The recurrent layers in a Keras configuration: JSON, of which nothing is built or run.

Keras 2 and 3 nest the same few things: a model (Sequential, Functional or the user's class) has ``layers``, a wrapper
(Bidirectional, TimeDistributed) has a ``layer``, an RNN has a ``cell``, a stack of cells has ``cells``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.formats.budget import Budget, shown
from numlstm.formats.keras.activations import HARD_SIGMOID, NAMES, activation
from numlstm.formats.state_dict import MOST
from numlstm.formats.text import parsed_json

DEPTH = 32  # models in models and wrappers in wrappers
NAME = 1024  # characters in the path of a layer
NO_OPS = {  # layers that do nothing in inference
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "InputLayer",
    "SpatialDropout1D",
}
OF_KERAS = ("keras", "tf_keras", "tensorflow")  # packages of its own classes
PEEPHOLES = "PeepholeLSTMCell"  # of tf.keras.experimental, and of TensorFlow Addons after that
LSTMS = ("LSTM", "LSTMCell", "CuDNNLSTM", PEEPHOLES)
ENTRY, CALL = 700, 250  # bytes of memory for a layer in a model, and for each reference to one
LAYER, CELL, SENTENCE = 1_000, 500, 300  # bytes of memory for a recurrent layer, a cell, a sentence on one
BETWEEN = 16  # no-ops between two layers that are joined

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """A recurrent cell, of an LSTM or of another kind.

    Attributes
    ----------
    units : int
    bias : bool
    place : str
        Its group in ``model.weights.h5``.
    trainable : bool
        Older files list trainable weights first.
    problem : str
        Why it cannot be loaded, a sentence; "" if it can be.
    options : CellOptions
        Its activations, and whether it has peepholes.
    """

    units: int
    bias: bool
    place: str
    trainable: bool
    problem: str = ""
    options: CellOptions = PLAIN


@dataclass(frozen=True, slots=True)
class Layer:
    """A recurrent layer of LSTM cells, or one that claims to be.

    Attributes
    ----------
    name : str
        The names of the models around it and its own, joined by "/".
    forward, backward : tuple of Cell
        The cells of each direction, from input to output; ``backward`` is empty in a layer of one direction.
    place : str
        Its group in ``model.weights.h5``.
    follows : str
        The layer that it alone reads, with nothing but no-ops between; "" if there is none.
    sequences, time_major : bool
        Whether it returns every step; whether time is the first axis.
    direction : str
        As in `numlstm.base.config.Config`.
    notes : tuple of str
    warning, problem : str
        As in `numlstm.formats.Found`.
    """

    name: str
    forward: tuple[Cell, ...]
    backward: tuple[Cell, ...] = ()
    place: str = ""
    follows: str = ""
    sequences: bool = False
    time_major: bool = False
    direction: str = "forward"
    notes: tuple[str, ...] = ()
    warning: str = ""
    problem: str = ""


@dataclass
class Network:
    """The recurrent layers of a model.

    Attributes
    ----------
    layers : list of Layer
        Those of LSTM cells, in the order of the file.
    cells : dict of str to list of Cell
        Every recurrent cell, of any kind, by the outermost layer around it.
    others : list of str
        As in `numlstm.formats.Contents`.
    budget : Budget
        Of its file.
    version : (int, int) or None
        The version of Keras that wrote it, if the file says so.
    config : dict or None
        The configuration; None if the file has none.
    """

    budget: Budget
    version: tuple[int, int] | None = None
    layers: list[Layer] = field(default_factory=list)
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    config: Json | None = None


@dataclass(frozen=True, slots=True)
class _Around:
    """The surroundings of a layer."""

    names: tuple[str, ...] = ()
    place: str = ""
    trainable: bool = True
    masked: str = ""
    masking: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    follows: str = ""
    depth: int = 0

    @property
    def name(self) -> str:
        return "/".join(self.names)


def parsed(text: str, budget: Budget | None = None, version: tuple[int, int] | None = None) -> Network:
    """Parse the recurrent layers of a configuration.

    Parameters
    ----------
    text : str
    budget : Budget, optional
        Of its file; by default one for the size of the text.
    version : (int, int), optional
        That of Keras that wrote it.

    Raises
    ------
    ValueError
        It is no JSON, or not the configuration of a model.

    Examples
    --------
    >>> import json
    >>> lstm = {"class_name": "LSTM", "config": {"name": "lstm", "units": 4, "recurrent_activation": "gelu"}}
    >>> (layer,) = parsed(json.dumps({"class_name": "Sequential", "config": {"layers": [lstm]}})).layers
    >>> print(layer.name, layer.forward[0].units, layer.forward[0].problem.split(";")[0])
    lstm 4 its recurrent_activation is 'gelu'
    """
    budget = budget or Budget(len(text))
    config = parsed_json(text, budget, "its configuration")
    if not isinstance(config, dict) or "class_name" not in config:
        raise ValueError("its configuration is not that of a Keras model: it has no class_name")
    network = Network(budget, version, config=config)
    _layer(network, config, _Around(masking=_masking(config)))
    return network


def single(spec: Json, budget: Budget, version: tuple[int, int]) -> tuple[Layer | None, list[str]]:
    """One recurrent layer of a configuration of this version of Keras, its cells at places within its own.

    Also sentences on what else it is.
    """
    network = Network(budget, version)
    _layer(network, spec, _Around((name_of(spec),), trainable=_trainable(spec.get("config"), _Around())))
    return (network.layers[0] if len(network.layers) == 1 else None), network.others


def _layer(network: Network, spec: Json, around: _Around) -> None:
    """Visit a layer of any kind: a model, a wrapper, a recurrent layer, or another."""
    if around.depth > DEPTH:
        raise ValueError(f"its configuration nests more than {DEPTH} models and wrappers")
    kind, config = kind_of(spec), spec.get("config")
    inner = [entry for entry in entries_of(config) if isinstance(entry, dict)]
    if inner:
        _model(network, kind, config, inner, around)
    elif not isinstance(config, dict):
        return
    elif kind == "Bidirectional" and is_own(spec):
        _bidirectional(network, config, around)
    elif kind in ("LSTM", "CuDNNLSTM", "RNN") or _claims_lstm(config):
        _recurrent(network, spec, around)
    elif "recurrent_activation" in config or "recurrent_initializer" in config:
        _say(network, f"{around.name!r} is a {shown(kind)}, not an LSTM")
        _keep(network, around, [Cell(0, True, f"{around.place}/cell", _trainable(config, around), f"it is a {kind}")])
    elif isinstance(config.get("layer"), dict):
        note = f"it is in a {shown(kind)}"
        if kind == "TimeDistributed":
            note += ", which applies it to each step of another time axis: merge that axis into the batch"
        inside = config["layer"]
        _layer(network, inside, _inside(around, inside, f"{around.place}/layer", notes=(*around.notes, note)))
    elif any(kind_of(part) in LSTMS for part in _parts(config)):
        _say(network, f"{around.name or 'the model'!r} is of the class {shown(kind)!r}, which has an LSTM within it")


def _say(network: Network, sentence: str) -> None:
    """Keep a sentence on a layer that is no LSTM."""
    network.budget.hold(SENTENCE + len(sentence), "the descriptions of its layers")
    network.others.append(sentence)


def kind_of(spec: Json) -> str:
    """The name of its class, without the package that registered it."""
    return str(spec.get("class_name")).rpartition(">")[2]


def is_own(spec: Json) -> bool:
    """Whether its class is one of Keras' own or the cell of TensorFlow Addons, not just of that name."""
    registered = f"{spec.get('class_name')}{spec.get('registered_name') or ''}"
    if f"Addons>{PEEPHOLES}" in registered:
        return True
    module = spec.get("module")
    return ">" not in registered and (module is None or str(module).partition(".")[0] in OF_KERAS)


def entries_of(config: object) -> list[Any]:
    """The layers of a model; the oldest files of Sequential have just the list."""
    found = config.get("layers") if isinstance(config, dict) else config
    return found if isinstance(found, list) else []


def name_of(spec: Json) -> str:
    config = spec.get("config")
    return str((config.get("name") if isinstance(config, dict) else None) or spec.get("name") or kind_of(spec))


def _trainable(config: object, around: _Around) -> bool:
    return around.trainable and not (isinstance(config, dict) and config.get("trainable") is False)


def _inside(around: _Around, spec: Json, place: str, **changes: Any) -> _Around:
    """The surroundings of a layer within this one, with the layer's own name."""
    names = (*around.names, name_of(spec))
    if sum(map(len, names)) > NAME or len(place) > NAME:  # every layer within repeats them
        raise ValueError(f"its configuration has a layer whose path takes more than {NAME} characters")
    return replace(
        around,
        names=names,
        place=place,
        trainable=_trainable(spec.get("config"), around),
        depth=around.depth + 1,
        **changes,
    )


def _parts(value: object) -> Iterator[Json]:
    """Every object within a piece of JSON."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


# Models: who feeds whom


class _Graph:
    """Which layer of a model is fed by which."""

    def __init__(self, kind: str, config: Any, entries: list[Json], budget: Budget) -> None:
        budget.hold(ENTRY * len(entries), "its layers")
        self.budget = budget
        names = [name_of(entry) for entry in entries]
        self.entries = dict(zip(names, entries, strict=True))
        self.sources: dict[str, list[str]] = {name: [] for name in names}
        self.readers: dict[str, list[str]] = {name: [] for name in names}
        self.calls = dict.fromkeys(names, 1)
        self.masks: dict[str, str] = {}  # who is given a mask, and by whom
        self.outputs: set[str] = set()
        if kind == "Sequential" or not any("inbound_nodes" in entry for entry in entries):
            if kind == "Sequential":
                for before, name in pairwise(names):
                    self._edge(before, name)
                self.outputs = {names[-1]}
        else:
            for name, entry in zip(names, entries, strict=True):
                nodes = entry.get("inbound_nodes")
                self.calls[name] = len(nodes) if isinstance(nodes, list) else 1
                for before, _, is_mask in _references(nodes):
                    if is_mask:
                        self.masks[name] = before
                    else:
                        self._edge(before, name)
            self._refuse_cycles()
            self.outputs = {name for name, _, _ in _references(config.get("output_layers"))}

    def _refuse_cycles(self) -> None:
        """Raise ValueError if calls of layers depend on each other in a cycle: a topological sort.

        A layer that is called twice may read its own output.
        """
        waits: dict[tuple[str, int], int] = {}
        after: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for name, entry in self.entries.items():
            nodes = entry.get("inbound_nodes")
            for number, node in enumerate(nodes if isinstance(nodes, list) else ()):
                self.budget.hold(CALL, "its layers")
                waits[name, number] = 0
                for before, of, _ in _references(node):
                    self.budget.hold(CALL, "its layers")
                    after.setdefault((before, of), []).append((name, number))
        for source, readers in after.items():
            for reader in readers if source in waits else ():
                waits[reader] += 1
        ready = [call for call, count in waits.items() if not count]
        passed = 0
        while ready:
            passed += 1
            for reader in after.get(ready.pop(), ()):
                waits[reader] -= 1
                if not waits[reader]:
                    ready.append(reader)
        if passed < len(waits):
            stuck = [repr(shown(name)) for (name, _), count in waits.items() if count]
            said = ", ".join(stuck[:4]) + (", …" if len(stuck) > 4 else "")
            raise ValueError(f"its configuration has layers that depend on each other in a cycle, among {said}")

    def _edge(self, before: str, name: str) -> None:
        if before in self.readers:
            self.sources[name].append(before)
            self.readers[before].append(name)

    def before(self, name: str) -> str:
        """The one layer that it reads, through no-ops, if no other layer reads that one; else ""."""
        for _ in range(BETWEEN):
            if self.calls[name] != 1 or len(self.sources[name]) != 1:
                return ""
            (name,) = self.sources[name]
            if len(self.readers[name]) != 1 or name in self.outputs:
                return ""
            if kind_of(self.entries[name]) not in NO_OPS:
                return name if self.calls[name] == 1 else ""
        return ""

    def masked(self, masking: frozenset[int]) -> dict[str, str]:
        """The layers that a mask reaches, and the layer that makes the mask."""
        reached: dict[str, str] = {}
        for name, entry in self.entries.items():
            if id(entry) in masking:
                self._spread(reached, name, name)
        for name, maker in self.masks.items():
            if name not in reached:
                reached[name] = maker
                self._spread(reached, name, maker)
        return reached

    def _spread(self, reached: dict[str, str], name: str, maker: str) -> None:
        waiting = [name]
        while waiting:
            for reader in self.readers[waiting.pop()]:
                if reader not in reached:
                    reached[reader] = maker
                    config = self.entries[reader].get("config")
                    if not (isinstance(config, dict) and config.get("return_sequences") is False):
                        waiting.append(reader)


def _references(value: object) -> Iterator[tuple[str, int, bool]]:
    """(layer, number of its call, whether as a mask) for each output that a part of the graph refers to.

    A reference is ["name", 0, 0], and more; in Keras 3 within a keras_history.
    """
    waiting = [(value, False)]
    while waiting:
        value, is_mask = waiting.pop()
        if isinstance(value, dict):
            waiting += [(inner, is_mask or key == "mask") for key, inner in reversed(value.items())]
        elif isinstance(value, list):
            if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int and type(value[2]) is int:
                yield value[0], value[1], is_mask
                value = value[3:]
            waiting += [(inner, is_mask) for inner in reversed(value)]


def _masking(config: Json) -> frozenset[int]:
    """The ids of the layers that mask steps, and of those with such a layer within."""
    found: set[int] = set()
    waiting: list[tuple[Any, tuple[int, ...]]] = [(config, ())]
    while waiting:
        entry, around = waiting.pop()
        if not isinstance(entry, dict) or len(around) > DEPTH:
            continue
        own: Any = entry.get("config")
        around = (*around, id(entry))
        if kind_of(entry) == "Masking" or (isinstance(own, dict) and own.get("mask_zero") is True):
            found.update(around)
        waiting += [(inner, around) for inner in entries_of(own)]
        if isinstance(own, dict):
            waiting.append((own.get("layer"), around))
    return frozenset(found)


def _model(network: Network, kind: str, config: object, entries: list[Json], around: _Around) -> None:
    graph = _Graph(kind, config, entries, network.budget)
    masked = graph.masked(around.masking)
    counts: dict[str, int] = {}
    prefix = f"{around.place}/layers" if around.place else "layers"
    if len(graph.entries) != len(entries):
        raise ValueError(f"the model {around.name!r} has two layers of one name")
    for name, entry in graph.entries.items():
        key = snake(kind_of(entry))
        number = counts.get(key, 0)
        counts[key] = number + 1
        place = f"{prefix}/{key}_{number}" if number else f"{prefix}/{key}"
        warnings = list(around.warnings)
        extra = graph.sources[name][1:] if graph.calls[name] == 1 else []
        if extra:
            given = ", ".join(repr(shown(source)) for source in list(dict.fromkeys(extra))[:4])
            warnings.append(f"Keras gives it further inputs, from {given}: pass initial states as (h_0, c_0)")
        before = graph.before(name)
        _layer(
            network,
            entry,
            _inside(
                around,
                entry,
                place,
                masked=around.masked or masked.get(name, ""),
                warnings=tuple(warnings),
                follows="/".join((*around.names, before)) if before else "",
                notes=around.notes + ((f"Keras calls it {graph.calls[name]} times",) if graph.calls[name] > 1 else ()),
            ),
        )


def snake(name: str) -> str:
    """The name of a class in the paths of ``model.weights.h5``.

    Examples
    --------
    >>> [snake(name) for name in ("LSTM", "TimeDistributed", "LSTMCell")]
    ['lstm', 'time_distributed', 'lstm_cell']
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


# Recurrent layers


def _claims_lstm(config: Json) -> bool:
    """Whether a layer of another class has arguments that only an LSTM has."""
    return "recurrent_activation" in config and "unit_forget_bias" in config and "filters" not in config


def _keep(network: Network, around: _Around, cells: list[Cell]) -> None:
    """Add cells to those of the outermost layer around them."""
    network.budget.hold(SENTENCE, "its layers")
    if around.names:
        network.cells.setdefault(around.names[0], []).extend(cells)


def _recurrent(network: Network, spec: Json, around: _Around) -> None:
    """A layer of one direction."""
    config = spec["config"]
    cells = _cells(network, spec, around.place, around)
    _keep(network, around, cells)
    if not _has_lstm(spec):
        _say(network, f"{around.name!r} is an RNN of a {shown(kind_of(_cell_of(config)))}, not of LSTM cells")
        return
    layer = _described(network, around, config, cells)
    if config.get("go_backwards") is True:
        layer = replace(layer, follows="", direction="go_backwards")
    network.layers.append(layer)


def _bidirectional(network: Network, config: Json, around: _Around) -> None:
    ahead = config.get("layer")
    if not isinstance(ahead, dict) or not isinstance(ahead.get("config"), dict):
        raise ValueError(f"the Bidirectional {around.name!r} has no layer")
    given = config.get("backward_layer")
    back = given if isinstance(given, dict) and isinstance(given.get("config"), dict) else ahead
    forward = _cells(network, ahead, f"{around.place}/forward_layer", around)
    backward = _cells(network, back, f"{around.place}/backward_layer", around)
    _keep(network, around, [*forward, *backward])
    if not (_has_lstm(ahead) or _has_lstm(back)):
        _say(network, f"{around.name!r} is a Bidirectional of a {shown(kind_of(ahead))}, not of an LSTM")
        return
    layer = replace(_described(network, around, ahead["config"], forward), backward=tuple(backward))
    problem = layer.problem or next((cell.problem for cell in backward if cell.problem), "")
    if ahead["config"].get("go_backwards") is True or (
        back is given and back["config"].get("go_backwards") is not True
    ):
        problem = (
            problem or "its forward layer runs backwards in time or its backward layer forwards, which is unsupported"
        )
    mode, warning, notes = config.get("merge_mode", "concat"), layer.warning, layer.notes
    if mode != "concat":
        what = {"sum": "adds", "ave": "takes the mean of", "mul": "multiplies", None: "returns separately"}
        doing = what.get(mode if isinstance(mode, str) else None, f"merges by {mode!r}")
        warning = _joined(
            warning,
            f"Keras {doing} the outputs of the two directions (merge_mode {mode!r}): they are "
            "output[..., :hidden_size] and output[..., hidden_size:]",
        )
    if not layer.sequences:
        notes = tuple(note for note in notes if not note.startswith("return_sequences"))
        notes += ("return_sequences is False: Keras' output is the last of each direction, h_n[-2] and h_n[-1]",)
    follows = layer.follows if mode == "concat" else ""
    network.layers.append(replace(layer, warning=warning, notes=notes, problem=problem, follows=follows))


def _has_lstm(spec: Json) -> bool:
    """Whether the layer is an LSTM, or an RNN with a cell that is or may be one."""
    config = spec["config"]
    kind = kind_of(spec)
    if kind == "RNN":
        cell = _cell_of(config)
        stacked = cell["config"].get("cells") if isinstance(cell.get("config"), dict) else None
        cells = stacked if isinstance(stacked, list) else [cell]
        return any(isinstance(one, dict) and "lstm" in kind_of(one).lower() for one in cells)
    return kind in LSTMS or _claims_lstm(config)


def _cell_of(config: Json) -> Json:
    cell = config.get("cell")
    return cell if isinstance(cell, dict) else {}


def _cells(network: Network, spec: Json, place: str, around: _Around) -> list[Cell]:
    """The cells of a layer of one direction, from input to output."""
    network.budget.hold(CELL + len(place), "its cells")
    kind, config = kind_of(spec), spec["config"]
    if kind == "CuDNNLSTM":
        return [_cell(spec, place, around, network.version)]
    if kind != "RNN":
        return [_cell(spec, f"{place}/cell", around, network.version)]
    cell = _cell_of(config)
    stacked = cell["config"].get("cells") if isinstance(cell.get("config"), dict) else None
    if not isinstance(stacked, list):
        return [_cell(cell, f"{place}/cell", around, network.version)]
    network.budget.hold((CELL + len(place)) * len(stacked), "its cells")
    counts: dict[str, int] = {}
    cells = []
    for one in stacked:
        one = one if isinstance(one, dict) else {}
        key = snake(kind_of(one))
        number = counts.get(key, 0)
        counts[key] = number + 1
        within = f"{place}/cell/cells/{key}_{number}" if number else f"{place}/cell/cells/{key}"
        cells.append(_cell(one, within, around, network.version))
    return cells


def _cell(spec: Json, place: str, around: _Around, version: tuple[int, int] | None) -> Cell:
    kind, config = kind_of(spec), spec.get("config")
    config = config if isinstance(config, dict) else {}
    units = config.get("units")
    problem = ""
    if kind not in LSTMS or not is_own(spec):
        own = shown(repr(spec.get("registered_name") or spec.get("class_name")))
        problem = f"it is of the class {own}, not Keras' own LSTM, and the file does not say what that computes"
    elif type(units) is not int or units < 1:
        problem = f"its units are {shown(repr(units))}, not a positive number" + (
            "; it has output_dim, as files of Keras 1, which are not read" if "output_dim" in config else ""
        )
    functions = {}
    for argument, usual in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        found = activation(config.get(argument, usual), version)
        functions[argument] = NAMES[usual] if isinstance(found, str) else found
        if isinstance(found, str) and not problem:
            problem = f"its {argument} is {shown(found)!r}; supported are {', '.join(NAMES)} and hard_sigmoid"
            if found == "hard_sigmoid":
                problem = f"its {argument} is {found!r}; {HARD_SIGMOID}"
    of_gates, of_cell = functions["recurrent_activation"], functions["activation"]
    options = CellOptions(of_gates, of_cell, of_cell, peepholes=kind == PEEPHOLES)
    units = units if type(units) is int and units > 0 else 0
    return Cell(units, config.get("use_bias", True) is not False, place, _trainable(config, around), problem, options)


def _described(network: Network, around: _Around, config: Json, cells: list[Cell]) -> Layer:
    """A layer, with notes and warnings on its other arguments."""
    notes = list(around.notes)
    sequences = config.get("return_sequences") is True
    if not sequences:
        notes.append("return_sequences is False: Keras' output is that of the last step, h_n[-1]")
    if config.get("return_state") is True:
        notes.append("return_state: Keras also returns the states, h_n and c_n")
    if config.get("stateful") is True:
        notes.append("stateful: Keras keeps the states between calls: pass (h_n, c_n) into the next")
    for argument in ("dropout", "recurrent_dropout"):
        rates = [part[argument] for part in _parts(config) if type(part.get(argument)) in (int, float)]
        if any(rates):
            notes.append(f"{argument} {max(rates)}: only used in Keras' training, left out here")
    dtype, policy = _dtype(config.get("dtype"))
    if policy:
        notes.append(f"the dtype policy is {policy}: Keras computes in {dtype}, numlstm in float32 or wider")
    warning = _joined(*around.warnings)
    if around.masked:
        warning = _joined(
            warning,
            f"Keras skips the steps that {shown(around.masked)!r} masks, numlstm computes every step: pass lengths to "
            "skip the last steps, and cut off masked steps at the start",
        )
    network.budget.hold(LAYER + len(warning) + len(around.place) + 2 * len(around.name), "its layers")
    if len(network.layers) >= MOST:
        raise ValueError(f"it has more than {MOST} LSTM layers, the limit of a file")
    problem = next((cell.problem for cell in cells if cell.problem), "")
    if not cells:
        problem = "it has no cells"
    return Layer(
        around.name,
        tuple(cells),
        place=around.place,
        follows=around.follows,
        sequences=sequences,
        time_major=config.get("time_major") is True,
        notes=tuple(notes),
        warning=warning,
        problem=problem,
    )


def _joined(*sentences: str) -> str:
    return "; ".join(sentence for sentence in sentences if sentence)


def _dtype(value: object) -> tuple[str, str]:
    """The dtype that Keras computes in, and the policy if it differs from the weights' dtype."""
    if isinstance(value, dict):
        value = value.get("config")
        value = value.get("name") if isinstance(value, dict) else None
    name = value if isinstance(value, str) else ""
    if name.startswith("mixed_"):
        return name.removeprefix("mixed_"), name
    return name, name if name in ("float16", "bfloat16") else ""
