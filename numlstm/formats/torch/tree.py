"""LSTMs in what a PyTorch pickle builds: state dicts, checkpoints around them, and modules pickled whole.

The object is walked once, each part of it once however often it is referred to, without recursion. Tensors are named
as a state dict names them. Where two containers in a file hold a tensor of one name (``state_dict`` and
``ema``), both are told apart by the path to the container: ``ema/lstm.weight_ih_l0``.
"""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats import state_dict
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents, Found
from numlstm.formats.tensor import TENSOR, Tensor, hold_numbers, widened, width
from numlstm.formats.torch.unpickle import WHAT, Object, Storage, View

Flags = dict[str, Any]
CLASS = "torch.nn.modules.rnn."
MANGLED = re.compile(r"^__torch__\.|___torch_mangle_\d+\.")  # what TorchScript puts into the name of a class
SIZES = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size")
PARTS = ("_parameters", "_buffers", "_modules")
SEPARATOR = "/"
PACKED = "_all_weight_values"
DEPTH = 100  # containers in containers
WAITING = 300  # bytes of memory for a container that is still to be walked, and for knowing it once it was
CONTAINER = 1500  # of one that holds tensors
CHARACTER = 4  # of a name's character, and of all copies of it
REPEATED = 1 << 16  # numbers that a tensor may make of fewer by strides of 0
FOLLOWED = (dict, list, tuple, Object)
OPTIMIZER = re.compile(r"optimi[sz]er|(^|[/._])optim($|[/._])", re.I)  # in the path to what is no model
NORMED = re.compile(  # what weight_norm and parametrize keep instead of a parameter
    r"(?P<prefix>.*?)(parametrizations\.)?(weight|bias)_(ih|hh|hr)(_l\d+)?(_reverse)?(_g|_v|_orig|\.original\d?)", re.S
)
ADVICE = (
    "its weights are normalised: torch.nn.utils.remove_weight_norm or parametrize.remove_parametrizations before "
    "saving gives plain ones"
)

Read = Callable[[Storage, str], Array]
Held = Callable[[Storage], int]
Link = tuple[Any, ...]  # (link of the container around, key), or () at the top: a path, not yet joined
REBUILT = ("torch._utils.", "torch._tensor.", "tensor ", "torch.float", "torch.complex", "torch.int", "torch.uint")
Known = TypeVar("Known")


@dataclass
class Container:
    """What one state dict, or one module with all below it, holds by name."""

    path: str
    views: dict[str, View] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)  # a tensor that is not dense numbers, and what it is
    packed: dict[str, None] = field(default_factory=dict)  # what has quantised weights, a sentence each
    flags: dict[str, Flags] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)  # of modules with an LSTM's parameters

    @property
    def is_optimizer(self) -> bool:
        """Whether it is an optimizer's, which may keep something for each parameter by the parameter's name."""
        return OPTIMIZER.search(self.path) is not None


def contents(
    format: str, root: Any, read: Read, held: Held, budget: Budget, scripted: Callable[[str], Flags] = lambda name: {}
) -> Contents:
    """Everything that a pickle's object holds.

    Parameters
    ----------
    format : str
        In words.
    root : object
        As `unpickle.Machine` builds it.
    read : callable
        Gives a storage's numbers, flat, in the number type of that name; bfloat16 as uint16.
    held : callable
        Gives the bytes that the file has for a storage.
    budget : Budget
        What is left of it once the pickle was read.
    scripted : callable
        Gives the flags of an LSTM whose class has that name in TorchScript.

    Raises
    ------
    ValueError
        A tensor reaches beyond its storage, or a storage beyond what the file has for it.
    """
    containers = list(_walk({"tensor": root} if isinstance(root, View) else root, scripted, budget))
    _name_apart(containers)
    tensors: dict[str, Tensor] = {}
    lstms: list[Found] = []
    others: list[str] = []
    views = [view for container in containers for view in container.views.values()]
    cached = _Cache(read, views)
    _hold(views, held)
    for container in containers:
        repeated = {name: what for name, view in container.views.items() if (what := _repeats(view))}
        own = {name: _tensor(view, cached) for name, view in container.views.items() if name not in repeated}
        tensors |= own
        odd = {name: Tensor((), what, _unreadable) for name, what in (container.odd | repeated).items()}
        place = f"{format}, {container.path or 'its top'}"
        found, other = state_dict.find(own | odd, container.flags, place)
        if found and container.is_optimizer:
            others.append(f"{container.path} has tensors named as an LSTM's, but is an optimizer's state")
            continue
        normed = {match["prefix"].rstrip(state_dict.SEPARATORS) for name in own if (match := NORMED.fullmatch(name))}
        lstms += [_said(one, container, one.name in normed) for one in found]
        if len(lstms) > state_dict.MOST:
            raise ValueError(f"it holds more than {state_dict.MOST} LSTMs")
        others += [*other, *container.packed]
        others += [f"{name or 'an LSTM'}: {ADVICE}" for name in sorted(normed - {one.name for one in found})]
    hold_numbers(budget, tensors.values())
    return Contents(format, tensors, tuple(lstms), tuple(others))


def _unreadable() -> Array:
    raise ValueError("it holds no dense numbers")


def _walk(root: Any, scripted: Callable[[str], Flags], budget: Budget) -> Iterator[Container]:
    """The containers in the order of the file."""
    seen: set[int] = set()
    waiting: list[tuple[Link, Any]] = [((), root)]
    while waiting:
        link, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        inner: list[tuple[Link, Any]] = []
        container = Container("")
        if _is_module(value):
            inner = [((link, key), item) for key, item in _module(container, value, seen, scripted, budget)]
        else:
            for key, item in _items(value):
                if isinstance(item, View):
                    budget.hold(TENSOR, WHAT)
                    container.views[_free(key, container.views)] = item
                elif _is_odd(key, item):
                    budget.hold(TENSOR, WHAT)
                    container.odd[_free(key, container.odd)] = _what(item)
                elif isinstance(item, FOLLOWED):
                    budget.hold(WAITING, WHAT)
                    is_state = isinstance(value, Object) and item is value.state and isinstance(item, dict)
                    inner.append((link if is_state else (link, key), item))  # attributes are the object's own
                    _note_packed(container, key)
        if container.views or container.odd or container.packed:
            budget.hold(CONTAINER, WHAT)
            container.path = _path(link, budget)
            _take_names(budget, container.path, (*container.views, *container.odd))
            yield container
        waiting += reversed(inner)


def _is_odd(key: str, item: Any) -> bool:
    """Whether an object stands for a tensor: PyTorch rebuilds it, or it has a parameter's name."""
    if not isinstance(item, Object) or _is_module(item):
        return False
    return item.name.startswith(REBUILT) or state_dict.NAME.fullmatch(key) is not None


def _path(link: Link, budget: Budget) -> str:
    """The path that a chain of keys is."""
    keys: list[str] = []
    while link:
        link, key = link
        keys.append(key)
        _take_names(budget, "", (key,))
        if len(keys) > DEPTH:
            raise ValueError(f"its containers are nested more than {DEPTH} deep")
    return SEPARATOR.join(reversed(keys))


def _take_names(budget: Budget, prefix: str, names: Collection[str]) -> None:
    """Take what these names need once they are made with this prefix: a pickle has a long name once for many."""
    budget.hold(CHARACTER * (sum(map(len, names)) + (len(names) + 1) * len(prefix)), WHAT)


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or where 1 and "1" are two keys of one dict, one that is not taken."""
    number = len(taken)
    free = name
    while free in taken:
        free, number = f"{name}#{number}", number + 1
    return free


def _note_packed(container: Container, key: str) -> None:
    """Dynamic quantisation keeps an LSTM's weights packed, under names of its own."""
    name, found, _ = key.partition(PACKED)
    said = f"{name.rstrip('.') or 'an LSTM'} has quantised weights, which are not supported: save it unquantised"
    if found:
        container.packed[said] = None


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of a container; of an object, what it was made from."""
    if isinstance(value, dict):
        for number, (key, item) in enumerate(value.items()):
            yield (str(key) if isinstance(key, str | int) else f"?{number}"), item
    elif isinstance(value, list | tuple):
        yield from ((str(number), item) for number, item in enumerate(value))
    elif isinstance(value, Object):
        yield from (("state", value.state), ("arguments", value.arguments), ("items", value.items))


def _is_module(value: Any) -> bool:
    """Whether an object is a module: PyTorch's has its parts in dicts, TorchScript's is a class of the archive."""
    if not isinstance(value, Object) or not isinstance(value.state, dict):
        return False
    return isinstance(value.state.get("_parameters"), dict) or _is_scripted(value)


def _is_scripted(module: Object) -> bool:
    return module.name.startswith("__torch__.")


def _module(
    container: Container, root: Object, seen: set[int], scripted: Callable[[str], Flags], budget: Budget
) -> list[tuple[str, Any]]:
    """Fill a container with a module and all below it; what else its attributes hold is returned, to be walked."""
    rest: list[tuple[str, Any]] = []
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module.state) in seen:  # two objects have no state in common, but in a pickle they can
            continue
        seen.add(id(module.state))
        state = dict(_items(module.state))
        parts: list[dict[str, Any]] = []
        name = prefix.removesuffix(".")
        if _is_scripted(module):
            flags = scripted(module.name)
            if flags:
                container.flags[name] = flags
            parts, state = [state], {}
        else:
            for kind in PARTS:
                of_kind = state.pop(kind, None)
                if isinstance(of_kind, dict) and id(of_kind) not in seen:
                    seen.add(id(of_kind))
                    parts.append(dict(_items(of_kind)))
            own = {flag: state[flag] for flag in (*SIZES, "batch_first", "dropout") if flag in state}
            if state.get("mode") == "LSTM":
                container.flags[name] = own
        for part in (state, *parts):
            budget.hold(WAITING * len(part), WHAT)
            _take_names(budget, prefix, part)
        if any(state_dict.NAME.fullmatch(key) for part in parts for key in part):
            container.classes[name] = MANGLED.sub("", module.name)
        for key, item in state.items():
            if isinstance(item, View):
                budget.hold(TENSOR, WHAT)
                container.views[_free(f"{prefix}{key}", container.views)] = item
            else:
                rest.append((f"{prefix}{key}", item))
        below = []
        for part in parts:
            for key, item in part.items():
                full = f"{prefix}{key}"
                if isinstance(item, View):
                    budget.hold(TENSOR, WHAT)
                    container.views[full] = item
                elif _is_module(item):
                    if id(item) not in seen:
                        seen.add(id(item))
                        below.append((f"{full}.", item))
                elif isinstance(item, Object) and state_dict.NAME.fullmatch(full):
                    container.odd[full] = _what(item)
                elif _is_scripted(module):
                    rest.append((full, item))
        waiting += reversed(below)
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
    """Put the path before the names of containers that share a name; an optimizer's do not count against a model's."""
    counts = {is_optimizer: Counter[str]() for is_optimizer in (False, True)}
    for container in containers:
        counts[container.is_optimizer].update((*container.views, *container.odd))
    paths: dict[str, None] = {}
    for container in containers:
        names = (*container.views, *container.odd)
        shared = any(counts[False][name] + container.is_optimizer * counts[True][name] > 1 for name in names)
        if container.path and shared:
            path = _free(container.path, paths)
            paths[path] = None
            before = f"{path}{SEPARATOR}"
            container.views = {before + name: view for name, view in container.views.items()}
            container.odd = {before + name: what for name, what in container.odd.items()}
            container.flags = _before(before, container.flags)
            container.classes = _before(before, container.classes)


def _before(prefix: str, known: Mapping[str, Known]) -> dict[str, Known]:
    return {(prefix + name).rstrip(state_dict.SEPARATORS): value for name, value in known.items()}


def _said(found: Found, container: Container, is_normed: bool) -> Found:
    """An LSTM with what its module says of it held against its tensors."""
    flags = container.flags.get(found.name, {})
    if is_normed:  # where plain weights are there too, they may be those of before the last step of training
        problem = f"{found.problem}; {ADVICE}" if found.problem else ADVICE
        return found._replace(config=None, parameters={}, problem=problem)
    if found.config is None:
        return found
    for name in SIZES:
        own = getattr(found.config, name)
        if name in flags and (type(flags[name]) is not type(own) or flags[name] != own):
            said = f"its module says {name} is {reprlib.repr(flags[name])}, its tensors say {own!r}"
            return found._replace(config=None, parameters={}, problem=said)
    for name, sound in (("batch_first", _is_flag), ("dropout", _is_probability)):
        if name in flags and not sound(flags[name]):
            said = f"its module says {name} is {reprlib.repr(flags[name])}"
            return found._replace(config=None, parameters={}, problem=said)
    kind = container.classes.get(found.name, CLASS + found.kind)
    if kind != CLASS + found.kind:
        said = f"its class is {kind}, whose forward may compute something else than torch.nn.{found.kind}'s"
        found = found._replace(notes=(*found.notes, said))
    return found


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_probability(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


class _Cache:
    """Storages that several tensors are views of, once they are read; one of a single tensor is not kept."""

    def __init__(self, read: Read, views: Iterable[View]) -> None:
        self.read = read
        self.uses = Counter((view.storage.key, view.dtype) for view in views)
        self.kept: dict[tuple[str, str], Array] = {}

    def __call__(self, storage: Storage, dtype: str) -> Array:
        key = storage.key, dtype
        if self.uses[key] < 2:
            return self.read(storage, dtype)
        if key not in self.kept:
            self.kept[key] = self.read(storage, dtype)
        return self.kept[key]


def _hold(views: Iterable[View], held: Held) -> None:
    """Hold what the pickle says of storages against what the file has for them."""
    seen: set[int] = set()
    for view in views:
        storage = view.storage
        if id(storage) not in seen:
            seen.add(id(storage))
            have = held(storage) if storage.start + storage.count else 0
            asked = (storage.start + storage.count) * (width(storage.dtype) if storage.dtype else 1)
            if have < asked:
                raise ValueError(f"its storage {storage.key!r} holds {have} bytes, not {asked}")


def _repeats(view: View) -> str:
    """What a tensor is that strides of 0 make larger than its file has room for, or ""."""
    if 0 in view.shape or prod(view.shape) <= max(view.storage.count, REPEATED):
        return ""
    return f"a tensor of shape {view.shape} that repeats the {counted(view.storage.count, 'number')} of its storage"


def _tensor(view: View, read: Read) -> Tensor:
    """A tensor that is read when asked for; its reach is held against its storage now."""
    storage = view.storage
    have = storage.count if storage.dtype else storage.count // width(view.dtype)
    if storage.dtype and storage.dtype != view.dtype:
        raise ValueError(f"a tensor of {view.dtype} lies in a storage of {storage.dtype}")
    count = prod(view.shape)
    reach = view.offset + sum((length - 1) * stride for length, stride in zip(view.shape, view.strides, strict=True))
    if count and reach >= have:
        raise ValueError(f"a tensor of shape {view.shape} reaches to number {reach} of a storage of {have}")

    def numbers() -> Array:
        whole = read(storage, view.dtype)
        if not count:
            return np.zeros(view.shape, whole.dtype if view.dtype != "bfloat16" else np.float32)
        if storage.start + reach >= whole.size:  # beyond it lies memory that is not the file's
            raise ValueError(
                f"a tensor of shape {view.shape} reaches beyond the {counted(whole.size, 'number')} that were read"
            )
        strides = tuple(stride * whole.itemsize for stride in view.strides)
        first = storage.start + view.offset
        part: Array = np.lib.stride_tricks.as_strided(whole[first:], view.shape, strides, writeable=False)
        return widened(part) if view.dtype == "bfloat16" else part

    return Tensor(view.shape, view.dtype, numbers)
