"""LSTMs in the object of a PyTorch pickle: state dicts, checkpoints with one inside, and pickled modules.

The object is walked without recursion, each part once, however often it is referred to. Tensors get the names of a
state dict. If two containers of a file hold a tensor of the same name (``state_dict`` and ``ema``), names start with
the path to the container: ``ema/lstm.weight_ih_l0``.
"""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, TypeGuard, TypeVar

import numpy as np

from numlstm.base.bfloat16 import widened
from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats import state_dict
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents, Found
from numlstm.formats.tensor import TENSOR, Quantised, Tensor, hold_numbers, width
from numlstm.formats.torch.packed import in_layers, unpacked
from numlstm.formats.torch.script import FLAGS, SIZES
from numlstm.formats.torch.unpickle import WHAT, Inline, NumpyArray, Object, QuantisedView, Storage, View

Flags = dict[str, Any]
CLASS = "torch.nn.modules.rnn."
QUANTISED = "torch.ao.nn.quantized.dynamic.modules.rnn."
MANGLED = re.compile(r"^__torch__\.|___torch_mangle_\d+\.")  # added by TorchScript to the name of a class
PARTS = ("_parameters", "_buffers", "_modules")
SEPARATOR = "/"
DEPTH = 100  # containers in containers
WAITING = 300  # bytes of memory for a container in the queue, and for its mark once it was walked
CONTAINER = 1500  # bytes of memory for one that holds tensors
CHARACTER = 4  # bytes of memory for a character of a name, with all its copies
REPEATED = 1 << 16  # numbers that strides of 0 may make of fewer
FOLLOWED = (dict, list, tuple, Object)
OPTIMIZER = re.compile(r"optimi[sz]er|(^|[/._])optim($|[/._])", re.I)  # in the path of an optimizer's state

Read = Callable[[Storage, str], Array]
Stored = Callable[[Storage], int]
Scripted = Callable[[str], Flags]
Link = tuple[Any, ...]  # (link of the outer container, key), or () at the top: a path, not yet joined
REBUILT = ("torch._utils.", "torch._tensor.", "tensor ", "torch.float", "torch.complex", "torch.int", "torch.uint")
Known = TypeVar("Known")


@dataclass
class Container:
    """The tensors of one state dict, or of one module with all below it, by name."""

    path: str
    views: dict[str, View] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)  # tensors that are not dense numbers, and what they are
    packed: dict[str, View] = field(default_factory=dict)  # quantised weights; a plain bias beside them is stale
    problems: list[str] = field(default_factory=list)  # sentences on quantised LSTMs that are not clear
    flags: dict[str, Flags] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)  # of modules with an LSTM's parameters

    @property
    def is_optimizer(self) -> bool:
        """Whether it is an optimizer's state, which may use the names of the parameters."""
        return OPTIMIZER.search(self.path) is not None


def contents(
    format: str,
    root: object,
    read: Read,
    stored: Stored,
    budget: Budget,
    scripted: Scripted = lambda name: {},
    flags: Mapping[str, Flags] = MappingProxyType({}),
) -> Contents:
    """Return the tensors and LSTMs in the object of a pickle.

    Parameters
    ----------
    format : str
        In words.
    root : object
        As `unpickle.Machine` builds it.
    read : callable
        Returns the numbers of a storage, flat, in the number type of that name; bfloat16 as uint16.
    stored : callable
        Returns the size of a storage in the file, in bytes.
    budget : Budget
        Of the file, after reading the pickle.
    scripted : callable
        Returns the flags of an LSTM by the name of its class in TorchScript.
    flags : mapping of str to dict
        The flags of an LSTM by its name in the outermost container.

    Raises
    ------
    ValueError
        A tensor reaches beyond its storage, or a storage is larger than its data in the file.
    """
    containers = list(_walk({"tensor": root} if _is_tensor(root) else root, scripted, budget))
    for container in containers:
        if not container.path:
            container.flags.update(flags)
        container.views, container.problems = in_layers(container.views | container.packed, container.flags)
    _name_apart(containers)
    tensors: dict[str, Tensor] = {}
    lstms: list[Found] = []
    others: list[str] = []
    views = [part for container in containers for view in container.views.values() for part in _parts(view)]
    cached = _Cache(lambda of, dtype: of.read(dtype) if isinstance(of, Inline) else read(of, dtype), views)
    _check_sizes(views, stored)
    for container in containers:
        repeated = {name: what for name, view in container.views.items() if (what := _repeats(view))}
        own = {name: _tensor(view, cached) for name, view in container.views.items() if name not in repeated}
        tensors |= own
        odd = {name: Tensor.unreadable(what) for name, what in (container.odd | repeated).items()}
        place = f"{format}, {container.path or 'its top'}"
        found, other = state_dict.find(own | odd, container.flags, place)
        if found and container.is_optimizer:
            others.append(f"{container.path} has tensors named like an LSTM's, but is an optimizer's state")
            continue
        lstms += [_checked(one, container) for one in found]
        if len(lstms) > state_dict.MOST:
            raise ValueError(f"it holds more than {state_dict.MOST} LSTMs, the limit of a file")
        others += [*other, *container.problems]
    hold_numbers(budget, tensors.values())
    return Contents(format, tensors, tuple(lstms), tuple(others))


def _walk(root: object, scripted: Scripted, budget: Budget) -> Iterator[Container]:
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
                if _take(container, _free(key, container.views), item, budget):
                    continue
                if _is_odd(key, item):
                    budget.hold(TENSOR, WHAT)
                    container.odd[_free(key, container.odd)] = _what(item)
                elif isinstance(item, FOLLOWED):
                    budget.hold(WAITING, WHAT)
                    is_state = isinstance(value, Object) and item is value.state and isinstance(item, dict)
                    inner.append((link if is_state else (link, key), item))  # no key for an object's attributes
        if container.views or container.odd or container.packed:
            budget.hold(CONTAINER, WHAT)
            container.path = _path(link, budget)
            _take_names(budget, container.path, (*container.views, *container.odd, *container.packed))
            yield container
        waiting += reversed(inner)


def _is_tensor(item: object) -> TypeGuard[View]:
    """Whether an object is a tensor with numbers."""
    return isinstance(item, View) and not (isinstance(item, NumpyArray) and not item.has_numbers)


def _is_odd(key: str, item: object) -> bool:
    """Whether an object is a tensor: one of PyTorch's functions makes it, or it has a parameter's name."""
    if isinstance(item, NumpyArray):
        return True
    if not isinstance(item, Object) or _is_module(item):
        return False
    return item.name.startswith(REBUILT) or state_dict.NAME.fullmatch(key) is not None


def _path(link: Link, budget: Budget) -> str:
    """The path that a chain of keys makes."""
    keys: list[str] = []
    while link:
        link, key = link
        keys.append(key)
        _take_names(budget, "", (key,))
        if len(keys) > DEPTH:
            raise ValueError(f"its containers are nested more than {DEPTH} deep")
    return SEPARATOR.join(reversed(keys))


def _take_names(budget: Budget, prefix: str, names: Collection[str]) -> None:
    """Charge these names with this prefix, which a pickle may hold once and refer to many times."""
    budget.hold(CHARACTER * (sum(map(len, names)) + (len(names) + 1) * len(prefix)), WHAT)


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or one with a number if it is taken: 1 and "1" may be keys of one dict."""
    number = len(taken)
    free = name
    while free in taken:
        free, number = f"{name}#{number}", number + 1
    return free


def _take(container: Container, name: str, item: object, budget: Budget) -> bool:
    """Take a tensor, or the tensors of a packed item; whether it is one of these."""
    tensors = {name: item} if _is_tensor(item) else unpacked(name, item)
    into = container.views if _is_tensor(item) else container.packed
    for own, part in tensors.items():
        if _is_tensor(part):
            budget.hold(TENSOR, WHAT)
            into[own] = part
    return bool(tensors)


def _items(value: object) -> Iterator[tuple[str, Any]]:
    """Keys and values of a container; of an object, its state, arguments and items."""
    if isinstance(value, dict):
        for number, (key, item) in enumerate(value.items()):
            yield (str(key) if isinstance(key, str | int) else f"?{number}"), item
    elif isinstance(value, list | tuple):
        yield from ((str(number), item) for number, item in enumerate(value))
    elif isinstance(value, Object):
        yield from (("state", value.state), ("arguments", value.arguments), ("items", value.items))


def _is_module(value: object) -> bool:
    """Whether an object is a module: one of torch.nn has ``_parameters``, TorchScript's a class of the archive."""
    if not isinstance(value, Object) or not isinstance(value.state, dict):
        return False
    return isinstance(value.state.get("_parameters"), dict) or _is_scripted(value)


def _is_scripted(module: Object) -> bool:
    return module.name.startswith("__torch__.")


def _module(
    container: Container, root: Object, seen: set[int], scripted: Scripted, budget: Budget
) -> list[tuple[str, Any]]:
    """Fill a container with a module and all below it. Return its other attributes, which are walked later."""
    rest: list[tuple[str, Any]] = []
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module.state) in seen:  # in a pickle, two objects can share their state
            continue
        seen.add(id(module.state))
        name = prefix.removesuffix(".")
        state, parts = _attributes(container, name, module, seen, scripted)
        for part in (state, *parts):
            budget.hold(WAITING * len(part), WHAT)
            _take_names(budget, prefix, part)
        if any(state_dict.NAME.fullmatch(key) for part in parts for key in part):
            container.classes[name] = MANGLED.sub("", module.name)
        for key, item in state.items():
            if not _take(container, _free(f"{prefix}{key}", container.views), item, budget):
                rest.append((f"{prefix}{key}", item))
        below = []
        for key, item in ((key, item) for part in parts for key, item in part.items()):
            full = f"{prefix}{key}"
            if _take(container, full, item, budget):
                continue
            if _is_module(item):
                if id(item) not in seen:
                    seen.add(id(item))
                    below.append((f"{full}.", item))
            elif isinstance(item, Object) and state_dict.NAME.fullmatch(full):
                container.odd[full] = _what(item)
            elif _is_scripted(module):
                rest.append((full, item))
        waiting += reversed(below)
    # private attributes such as `_flat_weights` hold the same tensors again
    return [(at, item) for at, item in rest if isinstance(item, FOLLOWED) and not at.rpartition(".")[2].startswith("_")]


def _attributes(
    container: Container, name: str, module: Object, seen: set[int], scripted: Scripted
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A module's plain attributes, and its parts: parameters, buffers, modules. The container takes its flags."""
    state = dict(_items(module.state))
    if state.get("mode") == "LSTM":
        container.flags[name] = {flag: state[flag] for flag in FLAGS if flag in state}
    if _is_scripted(module):
        if flags := scripted(module.name):
            container.flags[name] = flags
        return {}, [state]
    parts: list[dict[str, Any]] = []
    for kind in PARTS:
        of_kind = state.pop(kind, None)
        if isinstance(of_kind, dict) and id(of_kind) not in seen:
            seen.add(id(of_kind))
            parts.append(dict(_items(of_kind)))
    return state, parts


def _what(item: Object | NumpyArray) -> str:
    """What an object is that takes a tensor's place."""
    if isinstance(item, NumpyArray):
        return "an array of NumPy without numbers"
    kinds = {"qtensor": "quantised integers", "sparse": "a sparse tensor", "meta": "a tensor without numbers (meta)"}
    for part, kind in kinds.items():
        if part in item.name:
            return f"{kind} ({item.name})"
    return f"a {item.name}"


def _name_apart(containers: list[Container]) -> None:
    """Put the path before the names of containers that share a name. A model ignores the names of an optimizer."""
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


def _checked(found: Found, container: Container) -> Found:
    """An LSTM, once the flags of its module were checked against its tensors."""
    flags = container.flags.get(found.name, {})
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
    if kind not in (CLASS + found.kind, QUANTISED + found.kind):
        said = f"its class is {kind}, whose forward may differ from that of torch.nn.{found.kind}"
        warning = "; ".join(filter(None, (found.warning, said)))
        found = found._replace(notes=(*found.notes, said), warning=warning)
    return found


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_probability(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


class _Cache:
    """Storages that were read and that several tensors share; one of a single tensor is not kept."""

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


def _check_sizes(views: Iterable[View], stored: Stored) -> None:
    """Check the sizes of storages by the pickle against their data in the file."""
    seen: set[int] = set()
    for view in views:
        storage = view.storage
        if id(storage) not in seen:
            seen.add(id(storage))
            have = stored(storage) if storage.start + storage.count and not isinstance(storage, Inline) else 0
            have = storage.nbytes if isinstance(storage, Inline) else have
            asked = (storage.start + storage.count) * (width(storage.dtype) if storage.dtype else 1)
            if have < asked:
                raise ValueError(f"its storage {storage.key!r} holds {have} bytes, not {asked}")


def _repeats(view: View) -> str:
    """What a tensor is whose strides of 0 make it larger than its storage; "" for others."""
    if 0 in view.shape or prod(view.shape) <= max(view.storage.count, REPEATED):
        return ""
    return f"a tensor of shape {view.shape} that repeats the {counted(view.storage.count, 'number')} of its storage"


def _parts(view: View) -> list[View]:
    """A tensor, and the scales and zero points of its integers."""
    if not isinstance(view, QuantisedView):
        return [view]
    return [view, *(part for part in (view.scales, view.zero_points) if isinstance(part, View))]


def _tensor(view: View, read: Read) -> Tensor:
    """A tensor that is read on demand; its bounds are checked against its storage now."""
    if isinstance(view, QuantisedView):
        scales, zero_points = (
            _plain(part, read) if isinstance(part, View) else Tensor.of(np.array(part))
            for part in (view.scales, view.zero_points)
        )
        along = tuple(length if axis == view.axis else 1 for axis, length in enumerate(view.shape))
        return Quantised(_plain(view, read), scales, zero_points, along).tensor()
    return _plain(view, read)


def _plain(view: View, read: Read) -> Tensor:
    """As `_tensor`, of plain numbers."""
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
        if storage.start + reach >= whole.size:  # as_strided would read beyond the array
            raise ValueError(
                f"a tensor of shape {view.shape} reaches beyond the {counted(whole.size, 'number')} of its storage"
            )
        strides = tuple(stride * whole.itemsize for stride in view.strides)
        first = storage.start + view.offset
        part: Array = np.lib.stride_tricks.as_strided(whole[first:], view.shape, strides, writeable=False)
        return widened(part) if view.dtype == "bfloat16" else part

    return Tensor(view.shape, view.dtype, numbers)
