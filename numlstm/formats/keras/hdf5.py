"""HDF5 as data: the part of the format that h5py, and so Keras, writes by default.

Why not h5py: of a few thousand Keras files with some bytes changed, some crash HDF5 2.0 with a segmentation fault and
some make it loop forever. Why not pyfive: it allocates by the sizes that a file states, parses attributes before their
size is known, and needs numcodecs and fsspec.

This reader follows the HDF Group's "HDF5 File Format Specification", version 1.1, and needs only NumPy. Each read is
checked against the file's size, and the sum of all reads against twice that size, which ends any cycle. Allocations are
charged to the file's budget first. Everything else is refused by name: soft and external links, data in other files,
virtual datasets, filters other than gzip, shuffle and Fletcher32, and the layouts of ``libver="latest"``. Of these, a
group that lists up to 8 members in its header is read: the library makes one for each group with a name beyond ASCII.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, BinaryIO

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.budget import PACKED, Budget
from numlstm.formats.tensor import TENSOR, Order, Tensor, decoded

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 0xFFFF_FFFF_FFFF_FFFF  # the address of data that was never written
READ = 16  # bytes charged for a read, at least
REREADS = 2  # limit of all reads, times the file's size; h5py's structures are read once, most of them
SMALL = 1 << 16  # bytes of reads that any file may take, besides
DEPTH = 64  # groups in groups, and levels of a B-tree
NAME = 1024  # bytes of a name, and of a path
OBJECT, CHUNK, TEXT, IN_HEAP = 800, 500, 100, 250  # bytes of memory for each, without its characters
COPIES = 3  # of compressed numbers in memory, once they are unpacked
AGAIN = "Save it again with Keras' own model.save or save_weights, whose files are read."

Text = str | list[str]


@dataclass(frozen=True)
class Hdf5:
    """Tensors by path, and text attributes by the path of their group or dataset; "" is the root."""

    tensors: dict[str, Tensor]
    attributes: dict[str, dict[str, Text]]


@dataclass(frozen=True)
class _Type:
    """A number type by its name in NumPy and its byte order; ``text``; or ``""`` for one that is not read."""

    name: str
    size: int
    order: Order = "<"
    variable: bool = False


@dataclass
class _Header:
    """The messages of an object."""

    type: _Type | None = None
    shape: tuple[int, ...] | None = None
    layout: tuple[Any, ...] | None = None
    filters: tuple[int, ...] = ()
    group: tuple[int, int] | None = None
    links: list[tuple[str, int]] | None = None
    attributes: dict[str, Text] = field(default_factory=dict)


class _Source:
    """The file, read by address within its bounds and budgets."""

    def __init__(self, file: BinaryIO, size: int, budget: Budget) -> None:
        self.file, self.size, self.budget = file, size, budget
        self.bytes = REREADS * size + SMALL
        self.heaps: dict[int, dict[int, bytes]] = {}

    def spend(self, length: int) -> None:
        self.bytes -= max(length, READ)
        if self.bytes < 0:
            raise ValueError("its structures refer to each other more often than its size justifies")

    def at(self, address: int, length: int, what: str) -> bytes:
        if address + length > self.size:
            raise ValueError(f"{what} is placed at byte {address}, {length} long; the file has {self.size} bytes")
        self.spend(length)
        return self.data(address, length)

    def data(self, address: int, length: int) -> bytes:
        self.file.seek(address)
        data = self.file.read(length)
        if len(data) != length:
            raise ValueError(f"it ended at byte {address + len(data)} while it was read")
        return data

    def structure(self, address: int, length: int, signature: bytes, what: str) -> bytes:
        data = self.at(address, length, what)
        if not data.startswith(signature):
            raise ValueError(f"{what} at byte {address} begins with {data[:4]!r}, not {signature!r}")
        return data


def read(file: BinaryIO, size: int, budget: Budget | None = None) -> Hdf5:
    """Return every dataset of numbers, unread, and every text attribute.

    Parameters
    ----------
    file : binary file
    size : int
        Its size in bytes.
    budget : Budget, optional
        Of the outer file, if it is in one.

    Raises
    ------
    ValueError
        It is damaged, or uses a part of the format that is not read; the message says which.
    """
    source = _Source(file, size, budget or Budget(size))
    try:
        return _walk(source, _root(source))
    except struct.error as error:
        raise ValueError(f"it is damaged: {error}") from None


def _root(source: _Source) -> int:
    """The address of the root group."""
    start = source.structure(0, 9, SIGNATURE, "the file's signature")
    version = start[8]
    if version > 1:
        raise ValueError(f"it is an HDF5 file of superblock version {version}; 0 and 1 are read\n{AGAIN}")
    block = source.at(0, 100, "the superblock")
    if (block[13], block[14]) != (8, 8):
        raise ValueError(f"its addresses have {block[13]} bytes and its lengths {block[14]}; 8 and 8 are read")
    at = 24 + 4 * version
    base, _, end, _, _, root = struct.unpack_from("<6Q", block, at)
    if base:
        raise ValueError(f"its HDF5 part begins at byte {base}, not at 0")
    if end > source.size:
        raise ValueError(f"it is cut short: {end} bytes were written, {source.size} are there")
    return int(root)


def _walk(source: _Source, root: int) -> Hdf5:
    """Visit every group once, in the order of names, with its datasets."""
    tensors: dict[str, Tensor] = {}
    attributes: dict[str, dict[str, Text]] = {}
    extents: list[tuple[int, int, str]] = []
    groups: set[int] = set()
    waiting = [("", root, 0)]
    while waiting:
        path, address, depth = waiting.pop()
        source.spend(len(path))
        source.budget.hold(OBJECT + 2 * len(path), "its groups and datasets")
        header = _header(source, address, path)
        attributes[path] = header.attributes
        if header.group is not None or header.links is not None:
            if address in groups:
                raise ValueError(f"the group {path!r} has two names, or contains itself")
            if depth > DEPTH:
                raise ValueError(f"the group {path!r} is nested in more than {DEPTH} others")
            groups.add(address)
            members = sorted(header.links or ()) if header.group is None else _children(source, *header.group, path)
            children = [(f"{path}/{name}" if path else name, at) for name, at in members]
            longest = max((len(child) for child, _ in children), default=0)
            if longest > NAME:
                raise ValueError(f"a path in the group {path[:NAME]!r} has {longest} characters; {NAME} is the limit")
            waiting += [(child, at, depth + 1) for child, at in reversed(children)]
        elif header.layout is not None:
            source.budget.hold(TENSOR, "its datasets")
            tensor = _tensor(source, path, header, extents)
            if path in tensors:
                raise ValueError(f"it has two datasets named {path!r}")
            if tensor is not None:
                tensors[path] = tensor
        elif header.type is None:
            raise ValueError(f"{path or 'the root'} is neither a group nor a dataset that is read\n{AGAIN}")
    end, last = 0, ""
    for begin, stop, path in sorted(extents):
        if begin < end:
            raise ValueError(f"the numbers of {path!r} overlap those of {last!r}")
        end, last = stop, path
    return Hdf5(tensors, attributes)


# The messages of an object


def _header(source: _Source, address: int, path: str) -> _Header:
    what = f"the header of {path or 'the root'}"
    version, _, count, _, length = struct.unpack("<BBHII", source.at(address, 12, what))
    if version != 1:
        raise ValueError(f"{what} at byte {address} has version {version}; 1 is read\n{AGAIN}")
    header = _Header()
    blocks = [(address + 16, length)]
    for begin, size in blocks:  # grows while it is read
        block = source.at(begin, size, what)
        at = 0
        while at + 8 <= size and count > 0:
            kind, length, flags = struct.unpack_from("<HHB", block, at)
            body = block[at + 8 : at + 8 + length]
            if len(body) != length:
                raise ValueError(f"{what} has a message of {length} bytes, and {len(body)} are left")
            at += 8 + length
            count -= 1
            if kind == 0x10:
                blocks.append(struct.unpack_from("<QQ", body))
            else:
                _message(source, header, kind, flags, body, path)
    if count:
        raise ValueError(f"{what} ends {count} messages early")
    return header


def _message(source: _Source, header: _Header, kind: int, flags: int, body: bytes, path: str) -> None:
    if kind in (0x01, 0x03, 0x08, 0x0B, 0x0C) and flags & 2:
        raise ValueError(f"{path!r} refers to a type or space that is stored elsewhere, which is not read\n{AGAIN}")
    if kind == 0x01:
        header.shape = _shape(body, path)
    elif kind == 0x03:
        header.type = _type(body)
    elif kind == 0x08:
        header.layout = _layout(body, path)
    elif kind == 0x0B:
        header.filters = _filters(body, path)
    elif kind == 0x0C:
        _attribute(source, header, body, path)
    elif kind == 0x11:
        header.group = struct.unpack_from("<QQ", body)
    elif kind == 0x07:
        raise ValueError(f"the numbers of {path!r} are in another file; no other file is opened")
    elif kind == 0x02:
        _link_info(header, body, path)
    elif kind == 0x06:
        source.budget.hold(OBJECT, "its groups and datasets")
        header.links = [*(header.links or ()), _link(body, path)]
    elif kind == 0x15:
        raise ValueError(f"{path or 'the root'} is in the newer layout of HDF5 1.8, which is not read\n{AGAIN}")


def _link_info(header: _Header, body: bytes, path: str) -> None:
    """Check that the members of a group are in its header."""
    _, flags = struct.unpack_from("<BB", body)
    (heap,) = struct.unpack_from("<Q", body, 10 if flags & 1 else 2)
    if heap != UNDEFINED:
        raise ValueError(
            f"{path or 'the root'} is a group of HDF5 1.8 with more than 8 members, which is not read\n"
            "The library writes one where a name has letters beyond ASCII: rename these layers, or save as .keras."
        )
    header.links = header.links or []


def _link(body: bytes, path: str) -> tuple[str, int]:
    """Name and address of a member."""
    version, flags = struct.unpack_from("<BB", body)
    at = 2
    (kind,) = struct.unpack_from("<B", body, at) if flags & 8 else (0,)
    at += bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[at : at + width], "little")
    at += width
    name = body[at : at + length].decode()
    if version != 1 or kind != 0:
        what = {0: f"a link of version {version}", 1: "a soft link"}.get(kind, "an external link")
        raise ValueError(f"{name[:NAME]!r} in {path or 'the root'} is {what}, which no model has")
    if not name or "/" in name or length > NAME:
        raise ValueError(f"{path or 'the root'} has a member named {name[:NAME]!r}")
    (address,) = struct.unpack_from("<Q", body, at + length)
    return name, address


def _shape(body: bytes, path: str) -> tuple[int, ...]:
    version, rank, _, kind = struct.unpack_from("<4B", body)
    if version not in (1, 2) or rank > 32:
        raise ValueError(f"{path!r} has a shape of {counted(rank, 'axis', 'axes')} in version {version} of the format")
    if version == 2 and kind == 2:
        return (0,)  # an empty attribute
    return struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)


def _type(body: bytes) -> _Type:
    head, bits, _, _, size = struct.unpack_from("<4BI", body)
    kind = head & 15
    order: Order = ">" if bits & 1 else "<"
    if kind == 0 and size in (1, 2, 4, 8):
        offset, precision = struct.unpack_from("<HH", body, 8)
        if (offset, precision) == (0, 8 * size):
            return _Type(("int" if bits & 8 else "uint") + str(8 * size), size, order)
    elif kind == 1:
        known = {
            (2, 0, 16, 10, 5, 0, 10, 15): "float16",
            (2, 0, 16, 7, 8, 0, 7, 127): "bfloat16",
            (4, 0, 32, 23, 8, 0, 23, 127): "float32",
            (8, 0, 64, 52, 11, 0, 52, 1023): "float64",
        }
        name = known.get((size, *struct.unpack_from("<HH4BI", body, 8)), "")
        return _Type(name, size, order)
    elif kind == 3:
        return _Type("text", size)
    elif kind == 5 and size == 2:
        return _Type("bits", 2)  # of a bfloat16, if an attribute says so
    elif kind == 8 and size == 1:
        return _Type("bool", 1)  # an enumeration of False and True
    elif kind == 9 and bits & 15 == 1:
        return _Type("text", size, variable=True)
    return _Type("", size)


def _layout(body: bytes, path: str) -> tuple[Any, ...]:
    version, kind = struct.unpack_from("<BB", body)
    if version != 3 or kind > 2:
        what = "is virtual: its numbers are in other datasets" if kind == 3 else f"has a layout of version {version}"
        raise ValueError(f"{path!r} {what}, which is not read\n{AGAIN}")
    if kind == 0:
        (size,) = struct.unpack_from("<H", body, 2)
        return ("compact", body[4 : 4 + size])
    if kind == 1:
        return ("contiguous", *struct.unpack_from("<QQ", body, 2))
    rank = body[2]
    (tree,) = struct.unpack_from("<Q", body, 3)
    return ("chunked", tree, struct.unpack_from(f"<{rank}I", body, 11))


def _filters(body: bytes, path: str) -> tuple[int, ...]:
    version, count = struct.unpack_from("<BB", body)
    if version != 1:
        raise ValueError(f"{path!r} has a list of filters of version {version}; 1 is read\n{AGAIN}")
    at, found = 8, []
    for _ in range(count):
        number, name, _, values = struct.unpack_from("<4H", body, at)
        at += 8 + -(-name // 8) * 8 + 4 * (values + values % 2)
        if number not in (1, 2, 3):
            raise ValueError(
                f"{path!r} uses the HDF5 filter {number}; 1 (gzip), 2 (shuffle) and 3 (Fletcher32) are read, and no "
                f"plugin is loaded\n{AGAIN}"
            )
        found.append(number)
    return tuple(found)


def _attribute(source: _Source, header: _Header, body: bytes, path: str) -> None:
    """Keep an attribute that is text; numbers are not needed."""
    version, _, *lengths = struct.unpack_from("<BB3H", body)
    if version not in (1, 2, 3):
        raise ValueError(f"{path or 'the root'} has an attribute of version {version}")
    at, parts = (9 if version == 3 else 8), []
    for length in lengths:
        parts.append(body[at : at + length])
        at += -(-length // 8) * 8 if version == 1 else length
    name, kind, space = parts
    type = _type(kind)
    if type.name == "text":
        shape = _shape(space, path)
        text = _text(source, type, prod(shape), body[at:], f"the attribute {name!r} of {path or 'the root'}")
        header.attributes[name.rstrip(b"\0").decode()] = text if shape else text[0]


def _text(source: _Source, type: _Type, count: int, data: bytes, what: str) -> list[str]:
    if count * type.size > len(data):
        raise ValueError(f"{what} has {len(data)} bytes for {count} texts of {type.size}")
    if not type.size:
        return [""] * min(count, 1)
    source.budget.hold(count * TEXT + 4 * count * type.size, "its attributes")
    texts = []
    for at in range(0, count * type.size, type.size):
        text = data[at : at + type.size]
        if type.variable:
            length, heap, index = struct.unpack("<IQI", text)
            source.spend(length)
            source.budget.hold(4 * length, "its attributes")
            text = _heap_object(source, heap, index, what)[:length] if length else b""
        texts.append(text.rstrip(b"\0").decode())
    return texts


def _heap_object(source: _Source, address: int, index: int, what: str) -> bytes:
    """A text of variable length, from a heap that many share."""
    if address not in source.heaps:
        (size,) = struct.unpack_from("<Q", source.structure(address, 16, b"GCOL", f"the heap of {what}"), 8)
        block = source.at(address, size, f"the heap of {what}")
        objects, at = {}, 16
        while at + 16 <= size:
            number, length = struct.unpack_from("<H6xQ", block, at)
            if number == 0:  # free space, always last
                break
            source.budget.hold(IN_HEAP + length, "its texts")
            if at + 16 + length > size:
                raise ValueError(f"the heap at byte {address} ends within an object of {length} bytes")
            objects[number] = block[at + 16 : at + 16 + length]
            at += 16 + -(-length // 8) * 8
        source.heaps[address] = objects
    if index not in source.heaps[address]:
        raise ValueError(f"{what} refers to object {index} of the heap at byte {address}, which does not exist")
    return source.heaps[address][index]


# Groups


def _children(source: _Source, tree: int, heap: int, path: str) -> list[tuple[str, int]]:
    """Name and address of each member of a group."""
    shown = path or "the root"
    _, size, _, at = struct.unpack("<8s3Q", source.structure(heap, 32, b"HEAP", f"the names in {shown}"))
    names = source.at(at, size, f"the names in {shown}")
    children = []
    for node in _leaves(source, tree, 0, 8, shown):
        (count,) = struct.unpack_from("<6xH", source.structure(node[1], 8, b"SNOD", f"a list of {shown}"))
        entries = source.at(node[1] + 8, 40 * count, f"a list of {shown}")
        source.budget.hold(OBJECT * count, "its groups and datasets")
        for begin in range(0, 40 * count, 40):
            offset, address, kind = struct.unpack_from("<QQI", entries, begin)
            end = names.find(b"\0", offset, offset + NAME)
            if end < 0:
                raise ValueError(f"{shown} holds a name that does not end within {NAME} bytes")
            name = names[offset:end].decode()
            if kind == 2:
                raise ValueError(f"{name!r} in {shown} is a soft link, which no model has")
            if not name or "/" in name:
                raise ValueError(f"{shown} has a member named {name!r}")
            children.append((name, address))
    return children


def _leaves(source: _Source, root: int, kind: int, key: int, what: str) -> Iterator[tuple[bytes, int]]:
    """Key and address of each entry of a B-tree (version 1), in its order."""
    waiting: list[tuple[int, int | None]] = [(root, None)]
    while waiting:
        address, expected = waiting.pop()
        head = source.structure(address, 24, b"TREE", f"the tree of {what}")
        have, level, used = struct.unpack_from("<4xBBH", head)
        if have != kind or (level != expected if expected is not None else level > DEPTH):
            raise ValueError(f"the tree of {what} has a node of kind {have} and level {level} at byte {address}")
        body = source.at(address + 24, used * (key + 8), f"the tree of {what}")
        pairs = [
            (body[at : at + key], struct.unpack_from("<Q", body, at + key)[0]) for at in range(0, len(body), key + 8)
        ]
        if level:
            waiting += [(child, level - 1) for _, child in reversed(pairs)]
        else:
            yield from pairs


# Datasets


def _tensor(source: _Source, path: str, header: _Header, extents: list[tuple[int, int, str]]) -> Tensor | None:
    """The tensor of a dataset, once its size was checked; None if it holds no numbers."""
    type, shape = header.type, header.shape
    if type is None or shape is None or header.layout is None:
        raise ValueError(f"the dataset {path!r} has no type or no shape")
    dtype = type.name
    if dtype == "bits" and header.attributes.get("dtype") == "bfloat16":
        dtype = "bfloat16"
    if dtype in ("", "bits", "text"):
        return None
    length = prod(shape) * type.size
    kind, *rest = header.layout
    if length == 0:
        return Tensor(shape, dtype, partial(decoded, b"", dtype, shape))
    if kind == "compact":
        (data,) = rest
        if len(data) != length:
            raise ValueError(f"the dataset {path!r} of {dtype} {shape} takes {length} bytes; it has {len(data)}")
        return Tensor(shape, dtype, partial(decoded, data, dtype, shape, type.order))
    if kind == "contiguous":
        address, size = rest
        if address == UNDEFINED:
            raise ValueError(f"the dataset {path!r} of {dtype} {shape} was never written")
        if size != length or address + size > source.size or header.filters:
            raise ValueError(
                f"the dataset {path!r} of {dtype} {shape} takes {length} bytes; it states {size} at byte {address} "
                f"of the file's {source.size}"
            )
        extents.append((address, address + size, path))
        return Tensor(shape, dtype, partial(_contiguous, source, address, size, dtype, shape, type.order))
    tree, chunk = rest
    chunks = _chunks(source, path, shape, type, tree, chunk, bool(header.filters))
    extents += [(address, address + size, path) for _, address, size, _ in chunks]
    numbers = partial(_chunked, source, path, chunks, chunk[:-1], header.filters, dtype, shape, type)
    return Tensor(shape, dtype, numbers)


def _contiguous(source: _Source, address: int, size: int, dtype: str, shape: tuple[int, ...], order: Order) -> Array:
    return decoded(source.data(address, size), dtype, shape, order)


_Chunk = tuple[tuple[int, ...], int, int, int]  # its place in the array, address, bytes, mask of skipped filters


def _chunks(
    source: _Source,
    path: str,
    shape: tuple[int, ...],
    type: _Type,
    tree: int,
    chunk: tuple[int, ...],
    packed: bool,
) -> list[_Chunk]:
    """The chunks of a dataset, which together make up the whole."""
    sides = chunk[:-1]
    if len(sides) != len(shape) or not all(sides) or chunk[-1] != type.size:
        raise ValueError(f"the dataset {path!r} of shape {shape} has chunks of {chunk}")
    whole = prod(sides) * type.size
    count = prod(-(-length // side) for length, side in zip(shape, sides, strict=True))
    if packed:
        source.budget.hold(
            COPIES * whole * count,
            f"{path!r} of shape {shape} in chunks of {sides}, unpacked",
            PACKED,
        )
    elif whole * count > source.size:
        raise ValueError(f"the dataset {path!r} of shape {shape} in chunks of {sides} is larger than the file")
    if tree == UNDEFINED:
        raise ValueError(f"the dataset {path!r} of shape {shape} was never written")
    found: dict[tuple[int, ...], _Chunk] = {}
    for key, address in _leaves(source, tree, 1, 8 + 8 * len(chunk), path):
        source.budget.hold(CHUNK, "its chunks")
        size, left_out = struct.unpack_from("<II", key)
        begin = struct.unpack_from(f"<{len(sides)}Q", key, 8)
        if (
            any(at % side or at >= length for at, side, length in zip(begin, sides, shape, strict=True))
            or begin in found
            or address + size > source.size
            or (not packed and size != whole)
        ):
            raise ValueError(f"the dataset {path!r} of shape {shape} has a chunk at {begin} that has no place in it")
        found[begin] = (begin, address, size, left_out)
    if len(found) != count:
        raise ValueError(f"the dataset {path!r} of shape {shape} has {len(found)} of its {counted(count, 'chunk')}")
    return list(found.values())


def _chunked(
    source: _Source,
    path: str,
    chunks: list[_Chunk],
    sides: tuple[int, ...],
    filters: tuple[int, ...],
    dtype: str,
    shape: tuple[int, ...],
    type: _Type,
) -> Array:
    whole = prod(sides) * type.size
    array: Array = np.empty(shape, np.float32 if dtype == "bfloat16" else dtype)
    for begin, address, size, left_out in chunks:
        data = source.data(address, size)
        for place, number in reversed(list(enumerate(filters))):
            if not left_out >> place & 1:
                data = _unpacked(data, number, whole, type.size, path)
        part = decoded(data, dtype, sides, type.order)
        where = tuple(slice(at, at + side) for at, side in zip(begin, sides, strict=True))
        kept = array[where]
        kept[...] = part[tuple(slice(length) for length in kept.shape)]
    return array


def _unpacked(data: bytes, number: int, whole: int, size: int, path: str) -> bytes:
    if number == 1:
        try:
            data = zlib.decompressobj().decompress(data, whole + 4)  # a Fletcher32 checksum may follow the numbers
        except zlib.error as error:
            raise ValueError(f"a chunk of {path!r} is damaged: {error}") from None
    elif number == 2:
        if len(data) % size:
            raise ValueError(f"a chunk of {path!r} has {len(data)} bytes, which is no multiple of {size}")
        data = np.frombuffer(data, np.uint8).reshape(size, -1).T.tobytes()
    else:
        data = data[:-4]  # the checksum is not verified
    return data
