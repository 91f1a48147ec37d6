"""PyTorch's format from before 1.6: five pickles in a row, then each storage as a count and its numbers.

The pickles: a magic number, the version 1001, facts of the system (its byte order), the object, and the keys of the
storages in the order in which they follow (torch/serialization.py, ``_legacy_save``, of PyTorch 2.13).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents
from numlstm.formats.tensor import Order, width
from numlstm.formats.torch import tree
from numlstm.formats.torch.unpickle import Bounded, Machine, Storage, storage

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
COUNT = 8  # bytes before a storage, which state how many numbers it has


def read(file: BinaryIO, size: int) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    budget = Budget(size)
    source = Bounded(file, size, budget)
    widths: dict[str, int] = {}

    def of_identity(identity: Any) -> Any:
        """A storage, or a class; the id of a part of a storage ends in (key of the part, offset, count)."""
        if isinstance(identity, tuple) and identity[:1] == ("module",) and len(identity) == 4:
            return identity[1]  # a class, with its source text, which is not looked at
        whole = storage(identity)
        if not isinstance(whole, Storage):
            widths[identity[2]] = 4 if whole.name.endswith("QInt32Storage") else 1
            return whole
        widths[whole.key] = width(whole.dtype or "uint8")
        part = identity[5] if len(identity) > 5 else None
        if part is None:
            return whole
        if not (isinstance(part, tuple) and len(part) == 3 and all(type(n) is int and n >= 0 for n in part[1:])):
            raise ValueError(f"its storage {whole.key!r} has a part that is not (key, offset, count)")
        if not whole.dtype:  # its parts would be counted in bytes, its tensors in numbers; PyTorch writes none
            raise ValueError(f"its storage {whole.key!r} of no number type has a part")
        _, start, count = part
        if start + count > whole.count:
            raise ValueError(
                f"its storage {whole.key!r} of {counted(whole.count, 'number')} has a part up to {start + count}"
            )
        return replace(whole, start=start, count=count)

    first = Machine(source).load()
    if first != MAGIC or type(first) is not int:
        raise ValueError(
            "it is a Python pickle, but not one of PyTorch's\n"
            "What a pickle holds is known only to the program that wrote it: save the state dict with torch.save, "
            "or the arrays with numpy.savez."
        )
    if Machine(source).load() != VERSION:
        raise ValueError("it is a PyTorch file of a version of the format that is not known")
    system = Machine(source).load()
    little = system.get("little_endian", True) if isinstance(system, dict) else None
    if type(little) is not bool:
        raise ValueError("it is a PyTorch file that does not say its byte order")
    order: Order = "<" if little else ">"
    root = Machine(source, of_identity).load()
    keys = Machine(source).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError("it is a PyTorch file without a list of its storages")
    places: dict[str, tuple[int, int]] = {}
    at = file.tell()
    for key in keys:
        if key not in widths:
            raise ValueError(f"its storage {key!r} is not referred to, so that its number type is unknown")
        file.seek(at)
        stated = file.read(COUNT)
        count = int.from_bytes(stated, "little" if little else "big")
        begin, at = at + COUNT, at + COUNT + count * widths[key]
        if len(stated) < COUNT or at > size:
            raise ValueError(f"it is cut short: its storage {key!r} states {counted(count, 'number')}")
        places[key] = (begin, count)

    def numbers(of: Storage, dtype: str) -> Array:
        begin, count = places[of.key]
        stored = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        file.seek(begin)
        data = file.read(count * widths[of.key])
        numbers = np.frombuffer(data, stored.newbyteorder(order), len(data) // stored.itemsize)
        return numbers.astype(stored, copy=False)

    def held(of: Storage) -> int:
        if of.key not in places:
            raise ValueError(f"its storage {of.key!r} is missing")
        return places[of.key][1] * widths[of.key]

    return tree.contents("PyTorch (before 1.6)", root, numbers, held, budget)
