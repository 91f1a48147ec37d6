"""PyTorch's format before 1.6: five pickles, then each storage as a count and its numbers.

The pickles are a magic number, the version 1001, the system's byte order and type sizes, the object, and the keys of
the storages in their order. Source: ``_legacy_save`` in torch/serialization.py of PyTorch 2.13.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents
from numlstm.formats.tensor import Order, width
from numlstm.formats.torch import tree
from numlstm.formats.torch.unpickle import WHAT, Bounded, Inline, Machine, Raw, Storage, flat, storage

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
PADDLE = re.compile(r"(?:(?P<lstm>.*)\.)?\d+\.cell(?:_[fb]w)?", re.S)  # a cell that Paddle has twice, also in its LSTM
COUNT = 8  # bytes of the count before the numbers of a storage


def read(file: BinaryIO, size: int) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    budget = Budget(size)
    source = Bounded(file, size, budget)
    first = Machine(source, of_bytes=partial(_stored_in, budget)).load()
    if first != MAGIC or type(first) is not int:
        return _plain_pickle(first, budget)
    order = _preamble(source)
    widths: dict[str, int] = {}  # bytes of a number of each storage
    root = Machine(source, partial(_of_identity, widths)).load()
    keys = Machine(source).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError("it is a PyTorch file without a list of its storages")
    places = _places(file, size, keys, widths, order)

    def numbers(of: Storage, dtype: str) -> Array:
        begin, nbytes = places[of.key]
        file.seek(begin)
        return flat(file.read(nbytes), dtype, order)

    def stored(of: Storage) -> int:
        if of.key not in places:
            raise ValueError(f"its storage {of.key!r} is missing")
        return places[of.key][1]

    return tree.contents("PyTorch (before 1.6)", root, numbers, stored, budget)


def _plain_pickle(root: Any, budget: Budget) -> Contents:
    """A pickle that torch.save has not written: of a state dict, of arrays by name, or Paddle's."""

    def missing(of: Storage, dtype: str = "") -> Any:
        raise ValueError(f"its storage {of.key!r} is not in the pickle")

    contents = tree.contents("Python pickle", root, missing, missing, budget)
    names = {found.name for found in contents.lstms}
    matches = ((found, PADDLE.fullmatch(found.name)) for found in contents.lstms)
    lstms = tuple(found for found, match in matches if match is None or (match["lstm"] or "") not in names)
    contents = contents._replace(lstms=lstms)
    if contents.lstms or contents.others:
        return contents
    raise ValueError(
        "it is a Python pickle, but not one of PyTorch, and no state dict\n"
        "Only the program that wrote a pickle knows its layout: save the state dict with torch.save, or the arrays "
        "with numpy.savez."
    )


def _stored_in(budget: Budget, raw: Any) -> Any:
    """The storage in the bytes of a file of PyTorch that holds it alone."""
    if isinstance(raw, bytes):
        raw = Raw(io.BytesIO(raw), 0, len(raw), False)
    if not isinstance(raw, Raw):
        raise ValueError("its pickle has a storage that is no bytes")
    outer, back = raw.file, raw.file.tell()
    if raw.is_text:
        budget.hold(3 * raw.count, WHAT)  # as text, as bytes, and those again
        data = raw.read()
        raw = Raw(io.BytesIO(data), 0, len(data), False)
    file = raw.file
    file.seek(raw.at)
    source = Bounded(file, raw.at + raw.count, budget)
    if Machine(source).load() != MAGIC:
        raise ValueError("its pickle has a storage that is no file of PyTorch")
    widths: dict[str, int] = {}
    order = _preamble(source)
    found = Machine(source, partial(_of_identity, widths)).load()
    keys = Machine(source).load()
    if not isinstance(found, Storage) or keys != [found.key]:
        raise ValueError("its pickle has a storage that is no file of one storage")
    begin, nbytes = _places(file, raw.at + raw.count, keys, widths, order)[found.key]
    outer.seek(back)
    return Inline(found.dtype, f"at {begin} of {id(file)}", found.count, 0, Raw(file, begin, nbytes, False), order)


def _preamble(source: Bounded) -> Order:
    """Read the second and third pickle: the version and the byte order."""
    if Machine(source).load() != VERSION:
        raise ValueError("it is a PyTorch file of an unknown version of the format")
    system = Machine(source).load()
    little = system.get("little_endian", True) if isinstance(system, dict) else None
    if type(little) is not bool:
        raise ValueError("it is a PyTorch file that does not state its byte order")
    return "<" if little else ">"


def _of_identity(widths: dict[str, int], identity: Any) -> Any:
    """The object of a persistent id: a storage or part of one, whose id ends in (key, offset, count), or a class."""
    if isinstance(identity, tuple) and identity[:1] == ("module",) and len(identity) == 4:
        return identity[1]  # a class, with its source text, which is ignored
    whole = storage(identity)
    if not isinstance(whole, Storage):
        widths[identity[2]] = 1
        return whole
    widths[whole.key] = width(whole.dtype or "uint8")
    part = identity[5] if len(identity) > 5 else None
    if part is None:
        return whole
    if not (isinstance(part, tuple) and len(part) == 3 and all(type(n) is int and n >= 0 for n in part[1:])):
        raise ValueError(f"its storage {whole.key!r} has a part that is not (key, offset, count)")
    if not whole.dtype:  # is a part counted in bytes or in numbers? PyTorch writes none
        raise ValueError(f"its storage {whole.key!r} of no number type has a part")
    _, start, count = part
    if start + count > whole.count:
        raise ValueError(
            f"its storage {whole.key!r} of {counted(whole.count, 'number')} has a part up to {start + count}"
        )
    return replace(whole, start=start, count=count)


def _places(
    file: BinaryIO, size: int, keys: list[str], widths: dict[str, int], order: Order
) -> dict[str, tuple[int, int]]:
    """Position and size in bytes of the numbers of each storage."""
    places = {}
    at = file.tell()
    for key in keys:
        if key not in widths:
            raise ValueError(f"its storage {key!r} has no number type, since nothing refers to it")
        file.seek(at)
        stated = file.read(COUNT)
        count = int.from_bytes(stated, "little" if order == "<" else "big")
        begin, at = at + COUNT, at + COUNT + count * widths[key]
        if len(stated) < COUNT or at > size:
            raise ValueError(f"it is cut short: its storage {key!r} states {counted(count, 'number')}")
        places[key] = (begin, count * widths[key])
    return places
