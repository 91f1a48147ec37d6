"""Pickles as data: an unpickler that builds tensors and plain containers, and calls nothing that a pickle names.

Python's own unpickler imports and calls whatever a pickle names. Here a name becomes a `Name`, and a call of it an
`Object` that records name, arguments and state. A few names of PyTorch and of the standard library stand for tensors
and containers; these are not looked up either.

The opcodes are those of the standard library's unpickler in Python (``pickle._Unpickler``); the one in C allocates
memory for any memo index that a pickle claims. Replaced here are the opcodes that call, import, hash nested objects, or
allocate by a length before its bytes are read. Each opcode charges its upper bound to a `Budget` before it runs.

Sources for the calls in PyTorch's pickles: torch/_utils.py, torch/serialization.py and torch/jit/_pickle.py of PyTorch
2.13.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, ClassVar

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.budget import Budget
from numlstm.formats.tensor import AXES, Order, decoded
from numlstm.formats.text import decimal, whole

TEXT = 1 << 16  # bytes of the longest text or bytes object that is kept; longer ones are no names, and are skipped
NAME = 1000  # characters of the longest name
ARGUMENTS = 16  # of a call in KNOWN
WHOLE = 1 << 60  # larger integers are no keys: any number of them can have the same hash
MOST = 64  # bytes of the longest integer
PLAIN = (str, bool, bytes, type(None))  # keys that are hashed as fast as they are read

WHAT = "what its pickle makes"

# upper bounds of the memory that an opcode takes, in bytes
SLOT = 24  # a place on the stack, or in a list
NUMBER = 56  # and a number
OBJECT = 80  # and a container, a text or a name
CALL = 200  # the record of a call, with the list of what is put into it
ITEM = 110  # of a dict
FIRST = 240  # of a dict's first item


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class or function that a pickle names; it is not looked up."""

    name: str


@dataclass(eq=False, repr=False, slots=True)
class Object:
    """The record of a call of a name, which does not take place."""

    name: str
    arguments: Any = ()
    state: Any = None
    items: list[Any] | None = None

    def extend(self, items: list[Any]) -> None:
        """Record items that are put into it."""
        if self.items is None:
            self.items = []
        self.items += items


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Flat numbers that tensors are views of. The format knows where they are."""

    dtype: str  # "" for bytes whose type each tensor states
    key: str
    count: int  # numbers, or bytes where dtype is ""
    start: int = 0  # its first number among those of that key


@dataclass(frozen=True, eq=False, slots=True)
class Raw:
    """Bytes of the pickle that were skipped; as text, each character is one of them."""

    file: BinaryIO
    at: int
    count: int
    is_text: bool

    def read(self) -> bytes:
        """Return the bytes."""
        self.file.seek(self.at)
        data = self.file.read(self.count)
        return data.decode("utf-8", "replace").encode("latin-1", "replace") if self.is_text else data


@dataclass(frozen=True, eq=False, slots=True)
class Inline(Storage):
    """Numbers within the pickle itself."""

    raw: bytes | Raw = b""
    order: Order = "<"

    @property
    def nbytes(self) -> int:
        """Its size in the pickle, in bytes; of text at least the size of the numbers."""
        return self.raw.count if isinstance(self.raw, Raw) else len(self.raw)

    def read(self, dtype: str) -> Array:
        """Return the numbers, flat, in native byte order; bfloat16 as its bits."""
        return flat(self.raw.read() if isinstance(self.raw, Raw) else self.raw, dtype, self.order)


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """A tensor: a storage with an offset, a shape and strides, all counted in numbers."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class NumpyArray(View):
    """An array of NumPy's. It has no numbers until its state is set, or if they are of a type that is not read."""

    __slots__ = ()

    @property
    def has_numbers(self) -> bool:
        """Whether it has numbers."""
        return bool(self.dtype)

    def fill(self, state: Any) -> None:
        """Take the state of a pickled array: (version, shape, dtype, whether in Fortran order, bytes)."""
        try:
            _, shape, dtype, is_fortran, raw = state
        except (TypeError, ValueError):
            raise ValueError("its pickle has an array of NumPy without a shape and numbers") from None
        view = _of_numpy(raw, dtype, shape, is_fortran is True)
        if view is not None:
            for name in ("storage", "dtype", "shape", "strides"):
                object.__setattr__(self, name, getattr(view, name))


@dataclass(frozen=True, eq=False, slots=True)
class QuantisedView(View):
    """A tensor of integers, with its scales and zero points, as in `numlstm.formats.tensor.Quantised`."""

    scales: float | View
    zero_points: int | View
    axis: int


@dataclass(eq=False, slots=True)
class NumpyType:
    """A dtype of NumPy's."""

    name: str
    order: Order = "<"


def _of_numpy(raw: Any, dtype: Any, shape: Any, is_fortran: bool) -> View | None:
    """The view of an array's bytes; None for one of objects or text."""
    kinds = {"f": "float", "i": "int", "u": "uint", "b": "bool", "c": "complex"}
    match = re.fullmatch(r"[<>|=]?([fiubc])([0-9]{1,2})", dtype.name) if isinstance(dtype, NumpyType) else None
    name = kinds[match[1]] + ("" if match[1] == "b" else str(8 * int(match[2]))) if match else ""
    if isinstance(raw, str):  # bytes of Python 2
        raw = raw.encode("utf-8", "surrogateescape")
    if name not in DTYPES or not isinstance(raw, bytes | Raw):
        return None
    numbers = shape if isinstance(shape, tuple | list) and len(shape) <= AXES else ("none",)
    if any(type(length) is not int or not 0 <= length < 1 << 62 for length in numbers):
        raise ValueError(f"its pickle has an array of NumPy of shape {_short(shape)}")
    sides, stride, strides = tuple(shape), 1, []
    for length in sides if is_fortran else sides[::-1]:
        strides.append(stride)
        stride *= length
    key = f"at {raw.at}" if isinstance(raw, Raw) else f"bytes {id(raw)}"
    storage = Inline(name, key, prod(sides), 0, raw, dtype.order)
    return View(storage, name, 0, sides, tuple(strides if is_fortran else strides[::-1]))


def _numpy_array(*given: Any) -> Any:
    return NumpyArray(Inline("", "", 0), "", 0, (0,), (1,))


def _numpy_type(*given: Any) -> Any:
    return NumpyType(given[0]) if isinstance(given[0], str) else Object("numpy.dtype", given)


def _numpy_frombuffer(*given: Any) -> Any:
    raw, dtype, shape, order = given
    return _of_numpy(raw, dtype, shape, order == "F") or Object("array of NumPy without numbers")


def _encoded(*given: Any) -> Any:
    """Bytes that protocol 2 holds as text."""
    if isinstance(given[0], Raw):
        return Raw(given[0].file, given[0].at, given[0].count, True)
    return given[0].encode("latin-1")


STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
    "UntypedStorage": "",
}
DTYPES = {
    "float64": "float64",
    "double": "float64",
    "float32": "float32",
    "float": "float32",
    "float16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
    "int8": "int8",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
    "complex64": "complex64",
    "complex128": "complex128",
}


def storage(identity: Any) -> Storage | Object:
    """The storage of a persistent id of PyTorch: ("storage", type, key, location, count).

    One of an unknown type, such as integers of 4 bits, becomes an `Object`.
    """
    try:
        tag, kind, key, _, count = identity[:5]
        if tag == "storage" and isinstance(kind, Name) and isinstance(key, str) and type(count) is int and count >= 0:
            own = kind.name.rpartition(".")[2]
            return Storage(STORAGES[own], key, count) if own in STORAGES else Object(kind.name, (key, count))
    except (TypeError, ValueError):
        pass
    raise ValueError("its pickle refers to something that is no storage of PyTorch")


def flat(data: bytes | bytearray, dtype: str, order: Order) -> Array:
    """The numbers of a storage, in native byte order; bfloat16 as its bits, uint16."""
    stored = "uint16" if dtype == "bfloat16" else dtype
    count = len(data) // np.dtype(stored).itemsize
    return decoded(memoryview(data)[: count * np.dtype(stored).itemsize], stored, (count,), order)


def _view(of: Any, offset: Any, shape: Any, strides: Any, dtype: str | None = None) -> View:
    if not (isinstance(shape, tuple | list) and isinstance(strides, tuple | list)):
        raise ValueError("its pickle has a tensor without a shape")
    if len(shape) != len(strides) or len(shape) > AXES:
        raise ValueError(
            f"its pickle has a tensor of {counted(len(shape), 'axis', 'axes')} and {counted(len(strides), 'stride')}"
        )
    numbers = (offset, *shape, *strides)
    if not isinstance(of, Storage) or any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers):
        raise ValueError(f"its pickle has a tensor of shape {_short(shape)} and strides {_short(strides)}")
    dtype = dtype if dtype is not None else of.dtype or "uint8"
    return View(of, dtype, offset, tuple(shape), tuple(strides))


def _short(value: object) -> str:
    return str(value[:4]) if isinstance(value, tuple) and all(type(n) is int for n in value[:4]) else "no numbers"


def _tensor(*given: Any) -> Any:
    return _lazy(given[6:]) or _view(*given[:4])


def _tensor_v3(*given: Any) -> Any:
    of, offset, shape, strides, _, _, dtype = given[:7]
    own = DTYPES.get(dtype.name.removeprefix("torch."))
    return _lazy(given[7:]) or (_view(of, offset, shape, strides, own) if own else Object(dtype.name))


def _quantised(*given: Any) -> Any:
    """A tensor of integers; its quantizer is (kind, scale, zero point), or (kind, scales, zero points, axis)."""
    kind, scales, zero_points, *axis = given[4]
    parts: tuple[Any, ...] = (scales, zero_points, *(axis or [0]))
    types = {"torch.per_tensor_affine": (float, int, int), "torch.per_channel_affine": (View, View, int)}
    known = types.get(kind.name, ()) if isinstance(given[0], Storage) else ()
    if len(known) != len(parts) or not all(isinstance(*pair) for pair in zip(parts, known, strict=True)):
        return Object("torch._utils._rebuild_qtensor", given)
    view = _view(*given[:4])
    return QuantisedView(view.storage, view.dtype, view.offset, view.shape, view.strides, *parts)


def _lazy(metadata: tuple[Any, ...]) -> Object | None:
    """The record of a tensor that would have to be conjugated or negated when it is read; None for others."""
    bits = [bit for bit in ("conj", "neg") if metadata and isinstance(metadata[0], dict) and metadata[0].get(bit)]
    return Object(f"tensor whose {bits[0]} bit is set") if bits else None


def _from_type(*given: Any) -> Any:
    """A tensor of a subclass of Tensor, as a plain one."""
    function, _, arguments = given[:3]
    return _reduced(function, arguments) if KNOWN.get(function.name) in TENSORS else Object(function.name, arguments)


def _mapping(*given: Any) -> dict[Any, Any]:
    """A dict made from pairs, as an OrderedDict in old pickles."""
    into: dict[Any, Any] = {}
    for pair in _sequence(*given):
        _put(into, pair[0], pair[1])
    return into


def _first(*given: Any) -> Any:
    return given[0]


def _sequence(*given: Any) -> Any:
    """The argument itself: a pickle could have it copied any number of times."""
    return given[0] if given and isinstance(given[0], list | tuple) else []


# the calls that are understood, and the functions of this file that take their place
KNOWN: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch.tensor._rebuild_from_type_v2": _from_type,
    "torch.tensor._rebuild_from_type": _from_type,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.numeric._frombuffer": _numpy_frombuffer,
    "numpy._core.numeric._frombuffer": _numpy_frombuffer,
    "numpy.dtype": _numpy_type,
    "_codecs.encode": _encoded,
    "torch.Size": _sequence,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda *given: {},
    "collections.deque": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "builtins.list": _sequence,
    "builtins.tuple": _sequence,
    "builtins.dict": _mapping,
    "__builtin__.set": _sequence,
}
TENSORS = (_tensor, _tensor_v3, _quantised, _first)  # accepted within _from_type


def _reduced(function: object, arguments: object) -> Any:
    """The result of a call: a tensor or container, else the record of the call."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("its pickle calls something that is no name")
    known = KNOWN.get(function.name)
    if known is None:
        return Object(function.name, arguments)
    if len(arguments) > ARGUMENTS:
        raise ValueError(f"its pickle gives {function.name} {counted(len(arguments), 'argument')}")
    try:
        return known(*arguments)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"its pickle calls {function.name} with arguments that do not fit: {error}") from None


def _put(into: object, key: object, value: object) -> None:
    """Put an item into a dict. A key that is not plain is replaced: hashing it may take time without bound."""
    if isinstance(into, dict):
        plain = type(key) in PLAIN or (type(key) is int and -WHOLE < key < WHOLE)
        into[key if plain else Object("key", key)] = value
    elif isinstance(into, Object):
        into.extend([(key, value)])
    else:
        raise ValueError("its pickle puts an item into something that is no dict")


class Bounded:
    """A file from its current position on; a read beyond its end fails before it allocates.

    Parameters
    ----------
    file : binary file
    size : int
        Its size in bytes.
    budget : Budget
        Of the whole file.
    """

    def __init__(self, file: BinaryIO, size: int, budget: Budget) -> None:
        self.file, self.left, self.budget = file, size - file.tell(), budget

    def read(self, count: int) -> bytes:
        """Read exactly so many bytes."""
        self._take(count)
        data = self.file.read(count)
        if len(data) < count:
            raise ValueError("its pickle was cut short while it was read")
        return data

    def skip(self, count: int) -> int:
        """Skip so many bytes, and return where they begin."""
        self._take(count)
        at = self.file.tell()
        self.file.seek(count, os.SEEK_CUR)
        return at

    def _take(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise ValueError(f"its pickle is cut short: it states {count} bytes, and {self.left} are left")
        self.left -= count

    def readline(self) -> bytes:
        """Read a line with its end."""
        line = self.file.readline(max(self.left, 0))  # of protocol 0, with an array's bytes
        self.left -= len(line)
        self.budget.hold(4 * len(line), WHAT)
        if not line.endswith(b"\n"):
            raise ValueError("its pickle is cut short within a line of text")
        return line


class Memo(dict[int, Any]):
    """Objects by number. Consecutive numbers, which all programs write, are kept in a list."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget
        self.row: list[Any] = []

    def __len__(self) -> int:
        return len(self.row) + super().__len__()

    def __setitem__(self, number: int, value: object) -> None:
        row = self.row
        if number == len(row):
            row.append(value)
            super().pop(number, None)
        elif 0 <= number < len(row):
            row[number] = value
        else:
            self.budget.hold(ITEM + OBJECT, WHAT)
            super().__setitem__(number, value)

    def __getitem__(self, number: int) -> Any:
        return self.row[number] if 0 <= number < len(self.row) else super().__getitem__(number)


Base: Any = pickle._Unpickler


class Machine(Base):  # type: ignore[misc]
    """The standard library's unpickler, with the opcodes replaced that this file's docstring names.

    Parameters
    ----------
    source : Bounded
    of_identity : callable
        Returns the object of a persistent id.
    of_bytes : callable, optional
        Returns the storage in the bytes of a file of PyTorch, which a plain pickle has for each tensor.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(Base.dispatch)

    def __init__(
        self, source: Bounded, of_identity: Callable[[Any], Any] = storage, of_bytes: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(source, encoding="utf-8", errors="surrogateescape")
        self.source, self.of_identity, self.of_bytes, self.budget = source, of_identity, of_bytes, source.budget

    def load(self) -> Any:
        """Return the object of the pickle."""
        self.read, self.readline = self.source.read, self.source.readline
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.memo = Memo(self.budget)
        self.proto = 0
        hold, read, dispatch = self.budget.hold, self.read, self.dispatch
        try:
            while True:
                opcode = read(1)[0]
                hold(COSTS.get(opcode, OBJECT), WHAT)
                dispatch[opcode](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value
        except KeyError as error:
            raise ValueError(f"its pickle has an opcode or refers to an object that does not exist: {error}") from None
        except (IndexError, AttributeError, TypeError, pickle.UnpicklingError, OverflowError) as error:
            raise ValueError(f"its pickle is damaged: {error}") from None

    def find_class(self, module: str, name: str) -> Name:
        """Return the name; nothing is imported."""
        if len(module) + len(name) > NAME:
            raise ValueError(f"its pickle has a name of {len(module) + len(name)} characters: {module[:40]!r}…")
        self.budget.hold(4 * (len(module) + len(name)), WHAT)
        return Name(f"{module}.{name}")

    def persistent_load(self, identity: object) -> Any:
        """Return the storage of a persistent id."""
        return self.of_identity(identity)

    def get_extension(self, code: int) -> None:
        """Push a name for an extension code; the registry of the process is not asked."""
        self.append(Name(f"copyreg.extension.{code}"))

    # opcodes that would call

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Name):
            if function.name == "torch.storage._load_from_bytes" and self.of_bytes and isinstance(arguments, tuple):
                return self.of_bytes(arguments[0] if arguments else None)
            known = KNOWN.get(function.name)
            if known is _mapping:
                self.budget.hold(FIRST + ITEM * len(_sequence(*arguments[:1])), WHAT)
            elif known is _encoded:  # one text may be encoded many times
                self.budget.hold(sum(len(part) for part in arguments[:1] if isinstance(part, str)), WHAT)
            elif known in TENSORS or known is _from_type:  # shapes and strides are copied if they are lists
                given = arguments[2] if known is _from_type else arguments
                self.budget.hold(SLOT * sum(len(part) for part in given if isinstance(part, list)), WHAT)
        return _reduced(function, arguments)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _newobj_ex(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Object):
            target.state = state
        elif isinstance(target, NumpyArray):
            target.fill(state)
        elif isinstance(target, NumpyType):
            target.order = ">" if isinstance(state, tuple) and state[1:2] == (">",) else "<"
        elif not isinstance(target, dict | list | tuple | View | Name):
            raise ValueError("its pickle sets the state of something that has none")

    def _instance(self) -> None:
        module, name = (self.readline()[:-1].decode("utf-8", "replace") for _ in range(2))
        arguments = tuple(self.pop_mark())
        self.append(self._call(self.find_class(module, name), arguments))

    def _object(self) -> None:
        arguments = self.pop_mark()
        self.append(self._call(arguments[0], tuple(arguments[1:])))

    # opcodes that would hash, or append to any object with such a method

    def _append(self) -> None:
        value = self.stack.pop()
        self._into_list([value])

    def _appends(self) -> None:
        self._into_list(self.pop_mark())

    def _into_list(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list | Object):
            target.extend(values)
        else:
            raise ValueError("its pickle appends to something that is no list")

    def _item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._into_dict(self.stack[-1], [key, value])

    def _items(self) -> None:
        values = self.pop_mark()
        self._into_dict(self.stack[-1], values)

    def _dict(self) -> None:
        into: dict[Any, Any] = {}
        self._into_dict(into, self.pop_mark())
        self.append(into)

    def _into_dict(self, into: object, values: list[Any]) -> None:
        self.budget.hold((0 if into else FIRST) + ITEM * (len(values) // 2), WHAT)
        for at in range(0, len(values) - 1, 2):
            _put(into, values[at], values[at + 1])

    def _empty_set(self) -> None:
        self.append([])

    def _frozen(self) -> None:
        self.append(self.pop_mark())

    # opcodes that would allocate by a length

    def _frame(self) -> None:
        self.read(8)  # a frame only says how much may be read ahead

    def _long(self, width: int) -> None:
        count = int.from_bytes(self.read(width), "little", signed=width > 1)
        if not 0 <= count <= MOST:
            raise ValueError(f"its pickle has an integer of {count} bytes")
        self.append(int.from_bytes(self.read(count), "little", signed=True))

    def _bytes(self, width: int) -> None:
        self.append(self._kept(int.from_bytes(self.read(width), "little")))

    def _text(self, width: int) -> None:
        kept = self._kept(int.from_bytes(self.read(width), "little"))
        self.append(kept.decode("utf-8", self.errors) if isinstance(kept, bytes) else kept)

    def _kept(self, count: int) -> bytes | Raw:
        """So many bytes, or their place if they are many."""
        if count > TEXT:
            return Raw(self.source.file, self.source.skip(count), count, False)
        self.budget.hold(4 * count, WHAT)  # every character takes 4 bytes if one of them is beyond 16 bits
        return self.read(count)

    def _text_of_number(self) -> None:
        line = self.readline()[:-1].rstrip(b"L")
        if len(line) > MOST:
            raise ValueError(f"its pickle has an integer of {len(line)} digits")
        self.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else whole(line.decode()))

    def _text_of_float(self) -> None:
        self.append(decimal(self.readline()[:-1].decode()))

    def _get(self) -> None:
        self.append(self.memo[whole(self.readline()[:-1].decode())])

    def _put_memo(self) -> None:
        self.memo[whole(self.readline()[:-1].decode())] = self.stack[-1]


def _changed() -> dict[bytes, Callable[[Machine], None]]:
    return {
        pickle.REDUCE: Machine._reduce,
        pickle.NEWOBJ: Machine._reduce,
        pickle.NEWOBJ_EX: Machine._newobj_ex,
        pickle.BUILD: Machine._build,
        pickle.INST: Machine._instance,
        pickle.OBJ: Machine._object,
        pickle.APPEND: Machine._append,
        pickle.APPENDS: Machine._appends,
        pickle.ADDITEMS: Machine._appends,
        pickle.SETITEM: Machine._item,
        pickle.SETITEMS: Machine._items,
        pickle.DICT: Machine._dict,
        pickle.EMPTY_SET: Machine._empty_set,
        pickle.FROZENSET: Machine._frozen,
        pickle.FRAME: Machine._frame,
        pickle.INT: Machine._text_of_number,
        pickle.LONG: Machine._text_of_number,
        pickle.FLOAT: Machine._text_of_float,
        pickle.GET: Machine._get,
        pickle.PUT: Machine._put_memo,
        pickle.LONG1: lambda machine: machine._long(1),
        pickle.LONG4: lambda machine: machine._long(4),
        pickle.SHORT_BINBYTES: lambda machine: machine._bytes(1),
        pickle.BINBYTES: lambda machine: machine._bytes(4),
        pickle.BINBYTES8: lambda machine: machine._bytes(8),
        pickle.BYTEARRAY8: lambda machine: machine._bytes(8),
        pickle.SHORT_BINSTRING: lambda machine: machine._text(1),
        pickle.BINSTRING: lambda machine: machine._text(4),
        pickle.SHORT_BINUNICODE: lambda machine: machine._text(1),
        pickle.BINUNICODE: lambda machine: machine._text(4),
        pickle.BINUNICODE8: lambda machine: machine._text(8),
    }


Machine.dispatch.update({opcode[0]: act for opcode, act in _changed().items()})

LIGHT = (  # opcodes that make no new object
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.EMPTY_TUPLE, pickle.BININT1),
    *(pickle.POP, pickle.POP_MARK, pickle.DUP, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.PROTO, pickle.FRAME, pickle.STOP),
    *(pickle.APPEND, pickle.APPENDS, pickle.ADDITEMS, pickle.SETITEM, pickle.SETITEMS, pickle.BUILD),
)
CALLS = (pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.PERSID, pickle.BINPERSID)
NUMBERS = (pickle.BININT, pickle.BININT2, pickle.BINFLOAT)
COSTS = {opcode[0]: cost for opcodes, cost in ((LIGHT, SLOT), (NUMBERS, NUMBER), (CALLS, CALL)) for opcode in opcodes}
