"""LSTMs in what a PyTorch pickle builds: state dicts, checkpoints around them, and modules pickled whole.

The object is walked once, each part of it once however often it is referred to, without recursion. Tensors are named
as a state dict names them. Where two containers in a file hold a tensor of one name (``state_dict`` and
``ema``), both are told apart by the path to the container: ``ema/lstm.weight_ih_l0``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeVar

import numpy as np

from numlstm.formats import state_dict
from numlstm.formats.found import Contents, Found
from numlstm.formats.tensor import WIDTHS, Array, Tensor, widened
from numlstm.formats.unpickle import Object, Storage, View

Flags = dict[str, Any]
LSTM = "torch.nn.modules.rnn.LSTM"
SIZES = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size")
PARTS = ("_parameters", "_buffers", "_modules")
SEPARATOR = "/"
PACKED = "_all_weight_values"
DEPTH = 100  # containers in containers
NAMES = 1 << 24  # characters of all names; 10,000 tensors have about 500,000
REPEATED = 1 << 16  # numbers that a tensor may make of fewer by strides of 0
FOLLOWED = (dict, list, tuple, Object)
NORMED = ("weight_g", "weight_v", "original0", "original1")

Read = Callable[[Storage, str], Array]
Link = tuple[Any, ...]  # (link of the container around, key), or () at the top: a path, not yet joined
REBUILT = ("torch._utils.", "torch._tensor.", "tensor ", "torch.float", "torch.complex", "torch.int", "torch.uint")
Known = TypeVar("Known")


@dataclass
class Container:
    """What one state dict, or one module with all below it, holds by name."""

    path: str
    views: dict[str, View] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)  # a tensor that is not dense numbers, and what it is
    packed: list[str] = field(default_factory=list)  # what has quantised weights, a sentence each
    flags: dict[str, Flags] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)  # of modules that are an LSTM's subclass or may be


def contents(format: str, root: Any, read: Read, scripted: Callable[[str], Flags] = lambda name: {}) -> Contents:
    """Everything that a pickle's object holds.

    Parameters
    ----------
    format : str
        In words.
    root : object
        As `unpickle.Machine` builds it.
    read : callable
        Gives a storage's numbers, flat, in the number type of that name; bfloat16 as uint16.
    scripted : callable
        Gives the flags of an LSTM whose class has that name in TorchScript.

    Raises
    ------
    ValueError
        A tensor reaches beyond its storage.
    """
    containers = list(_walk(root, scripted))
    _name_apart(containers)
    tensors: dict[str, Tensor] = {}
    lstms: list[Found] = []
    others: list[str] = []
    cached = _Cache(read)
    for container in containers:
        own = {name: _tensor(view, cached) for name, view in container.views.items() if not _repeats(view)}
        repeated = {name: _repeats(view) for name, view in container.views.items() if name not in own}
        tensors |= own
        odd = {name: Tensor((), what, _unreadable) for name, what in (container.odd | repeated).items()}
        place = f"{format}, {container.path or 'its top'}"
        found, other = state_dict.find(own | odd, container.flags, place)
        lstms += [_said(one, container) for one in found]
        others += [*other, *container.packed]
    return Contents(format, tensors, tuple(lstms), tuple(others))


def _unreadable() -> Array:
    raise ValueError("it holds no dense numbers")


def _walk(root: Any, scripted: Callable[[str], Flags]) -> Iterator[Container]:
    """The containers in the order of the file."""
    seen: set[int] = set()
    room = NAMES
    waiting: list[tuple[Link, Any]] = [((), root)]
    while waiting:
        link, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        inner: list[tuple[Link, Any]] = []
        container = Container("")
        if _is_module(value):
            inner = [((link, key), item) for key, item in _module(container, value, seen, scripted)]
        else:
            for key, item in _items(value):
                if isinstance(item, View):
                    container.views[_free(key, container.views)] = item
                elif _is_odd(key, item):
                    container.odd[_free(key, container.odd)] = _what(item)
                elif isinstance(item, FOLLOWED):
                    inner.append(((link, key), item))
                    _note_packed(container, key)
        if container.views or container.odd or container.packed:
            container.path = _path(link)
            count = len(container.views) + len(container.odd)
            room -= sum(map(len, (*container.views, *container.odd))) + (count + 1) * len(container.path)
            if room < 0:
                raise ValueError(f"the names of its tensors take more than {NAMES} characters")
            yield container
        waiting += reversed(inner)


def _is_odd(key: str, item: Any) -> bool:
    """Whether an object stands for a tensor: PyTorch rebuilds it, or it has a parameter's name."""
    if not isinstance(item, Object) or _is_module(item):
        return False
    return item.name.startswith(REBUILT) or state_dict.NAME.fullmatch(key) is not None


def _path(link: Link) -> str:
    """The path that a chain of keys is."""
    keys: list[str] = []
    while link:
        link, key = link
        keys.append(key)
        if len(keys) > DEPTH:
            raise ValueError(f"its containers are nested more than {DEPTH} deep")
    return SEPARATOR.join(reversed(keys))


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or where 1 and "1" are two keys of one dict, one that is not taken."""
    return name if name not in taken else f"{name}#{len(taken)}"


def _note_packed(container: Container, key: str) -> None:
    """Dynamic quantisation keeps an LSTM's weights packed, under names of its own."""
    name, found, _ = key.partition(PACKED)
    said = f"{name.rstrip('.') or 'an LSTM'} has quantised weights, which are not supported: save it unquantised"
    if found and said not in container.packed:
        container.packed.append(said)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of a container; of an object, those of its state and arguments."""
    if isinstance(value, dict):
        for number, (key, item) in enumerate(value.items()):
            yield (str(key) if isinstance(key, str | int) else f"?{number}"), item
    elif isinstance(value, list | tuple):
        yield from ((str(number), item) for number, item in enumerate(value))
    elif isinstance(value, Object):
        yield from _items(value.state) if isinstance(value.state, dict) else [("state", value.state)]
        yield from (("arguments", value.arguments), ("items", value.items))


def _is_module(value: Any) -> bool:
    """Whether an object is a module: PyTorch's has its parts in dicts, TorchScript's is a class of the archive."""
    if not isinstance(value, Object) or not isinstance(value.state, dict):
        return False
    return isinstance(value.state.get("_parameters"), dict) or value.name.startswith("__torch__.")


def _module(
    container: Container, root: Object, seen: set[int], scripted: Callable[[str], Flags]
) -> list[tuple[str, Any]]:
    """Fill a container with a module and all below it; what else its attributes hold is returned, to be walked."""
    rest: list[tuple[str, Any]] = []
    room = NAMES
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        state = module.state
        name = prefix.removesuffix(".")
        if module.name.startswith("__torch__."):
            parts: list[Mapping[Any, Any]] = [state]
            flags = scripted(module.name)
            if flags:
                container.flags[name] = flags
        else:
            parts = [state[part] for part in PARTS if isinstance(state.get(part), dict)]
            own = {flag: state[flag] for flag in (*SIZES, "batch_first", "dropout") if flag in state}
            if state.get("mode") == "LSTM":
                container.flags[name] = own
                container.classes[name] = module.name
            for key, item in state.items():
                if isinstance(item, View):
                    container.views[_free(f"{prefix}{key}", container.views)] = item
                elif key not in PARTS:
                    rest.append((f"{prefix}{key}", item))
        below = []
        for part in parts:
            for key, item in part.items():
                full = f"{prefix}{key}"
                if isinstance(item, View):
                    container.views[full] = item
                elif _is_module(item):
                    if id(item) not in seen:
                        seen.add(id(item))
                        below.append((f"{full}.", item))
                elif isinstance(item, Object) and state_dict.NAME.fullmatch(full):
                    container.odd[full] = _what(item)
                elif part is state:
                    rest.append((full, item))
        waiting += reversed(below)
        room -= len(prefix) * (1 + sum(map(len, parts)))
        if room < 0:
            raise ValueError(f"the names of its tensors take more than {NAMES} characters")
    # `_flat_weights` and the like hold the same tensors once more
    return [(at, item) for at, item in rest if isinstance(item, FOLLOWED) and not at.rpartition(".")[2].startswith("_")]


def _what(item: Object) -> str:
    """What a tensor is that is not dense numbers."""
    kinds = {"qtensor": "quantised integers", "sparse": "a sparse tensor", "meta": "a tensor without numbers (meta)"}
    for part, kind in kinds.items():
        if part in item.name:
            return f"{kind} ({item.name})"
    return f"a {item.name}"


def _name_apart(containers: list[Container]) -> None:
    """Put the path before the names of containers that share a name."""
    counts: dict[str, int] = {}
    for container in containers:
        for name in (*container.views, *container.odd):
            counts[name] = counts.get(name, 0) + 1
    for container in containers:
        if container.path and any(counts[name] > 1 for name in (*container.views, *container.odd)):
            before = f"{container.path}{SEPARATOR}"
            container.views = {before + name: view for name, view in container.views.items()}
            container.odd = {before + name: what for name, what in container.odd.items()}
            container.flags = _before(before, container.flags)
            container.classes = _before(before, container.classes)


def _before(prefix: str, known: Mapping[str, Known]) -> dict[str, Known]:
    return {(prefix + name).rstrip(state_dict.SEPARATORS): value for name, value in known.items()}


def _said(found: Found, container: Container) -> Found:
    """An LSTM with what its module says of it held against its tensors."""
    flags = container.flags.get(found.name, {})
    if found.config is None:
        normed = [name for name in container.views if name.rpartition("_")[2] in "gv" or name.endswith(NORMED)]
        if any(name.startswith(found.name) for name in normed):
            advice = (
                "its weights are normalised: torch.nn.utils.remove_weight_norm or parametrize.remove_parametrizations"
            )
            found = replace(found, problem=f"{found.problem}; {advice} before saving gives plain ones")
        return found
    for name in SIZES:
        own = getattr(found.config, name)
        if name in flags and (type(flags[name]) is not type(own) or flags[name] != own):
            said = f"its module says {name} is {reprlib.repr(flags[name])}, its tensors say {own!r}"
            return replace(found, config=None, parameters={}, problem=said)
    for name, sound in (("batch_first", _is_flag), ("dropout", _is_probability)):
        if name in flags and not sound(flags[name]):
            said = f"its module says {name} is {reprlib.repr(flags[name])}"
            return replace(found, config=None, parameters={}, problem=said)
    kind = container.classes.get(found.name, LSTM)
    if kind != LSTM:
        said = f"its class is {kind}, whose forward may compute something else than torch.nn.LSTM's"
        found = replace(found, notes=(*found.notes, said))
    return found


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_probability(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


class _Cache:
    """The storage that was read last: views of one storage mostly follow each other."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.key: tuple[str, str] | None = None
        self.numbers: Array | None = None

    def __call__(self, storage: Storage, dtype: str) -> Array:
        if self.key != (storage.key, dtype) or self.numbers is None:
            self.numbers = None  # before the next is read
            self.numbers, self.key = self.read(storage, dtype), (storage.key, dtype)
        return self.numbers


def _repeats(view: View) -> str:
    """What a tensor is that strides of 0 make larger than its file has room for, or ""."""
    if 0 in view.shape or prod(view.shape) <= max(view.storage.count, REPEATED):
        return ""
    return f"a tensor of shape {view.shape} that repeats the {view.storage.count} numbers of its storage"


def _tensor(view: View, read: Read) -> Tensor:
    """A tensor that is read when asked for; its reach is held against its storage now."""
    storage = view.storage
    width = WIDTHS.get(view.dtype) or np.dtype(view.dtype).itemsize
    have = storage.count if storage.dtype else storage.count // width
    if storage.dtype and storage.dtype != view.dtype:
        raise ValueError(f"a tensor of {view.dtype} lies in a storage of {storage.dtype}")
    count = 1
    for length in view.shape:
        count *= length
    reach = view.offset + sum((length - 1) * stride for length, stride in zip(view.shape, view.strides, strict=True))
    if count and reach >= have:
        raise ValueError(f"a tensor of shape {view.shape} reaches to number {reach} of a storage of {have}")

    def numbers() -> Array:
        whole = read(storage, view.dtype)
        if not count:
            return np.zeros(view.shape, whole.dtype if view.dtype != "bfloat16" else np.float32)
        strides = tuple(stride * whole.itemsize for stride in view.strides)
        part: Array = np.lib.stride_tricks.as_strided(whole[view.offset :], view.shape, strides, writeable=False)
        return widened(part) if view.dtype == "bfloat16" else part

    return Tensor(view.shape, view.dtype, numbers)
