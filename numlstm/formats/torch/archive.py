"""PyTorch's zip format since 1.6: ``data.pkl``, and an entry for each storage. TorchScript uses it too.

Sources: torch/serialization.py and caffe2/serialize/inline_container.h of PyTorch 2.13. Everything is in one folder.
TorchScript adds the folder ``code/``, whose text gives the flags of each LSTM.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from numlstm.base.typing import Array
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents
from numlstm.formats.tensor import Order
from numlstm.formats.torch import tree
from numlstm.formats.torch.script import frozen, script_flags
from numlstm.formats.torch.unpickle import Bounded, Machine, Storage, flat
from numlstm.formats.zips import entry_bytes

PICKLE = "/data.pkl"
ENTRY = 400  # bytes of memory for an entry of the archive, and for its names here
CODE = 1 << 20  # bytes of the longest source file of TorchScript that is searched


def looks_like(names: list[str]) -> bool:
    """Whether a zip archive with these entries is one."""
    return bool(_tops(names))


def _tops(names: list[str]) -> list[str]:
    """The top-level folders with a pickle."""
    return [name.removesuffix(PICKLE) for name in names if name.count("/") == 1 and name.endswith(PICKLE)]


def read(archive: zipfile.ZipFile, budget: Budget) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    names = archive.namelist()
    budget.hold(ENTRY * len(names), "its entries")
    tops = _tops(names)
    if len(tops) > 1:
        raise ValueError(f"it holds {len(tops)} pickles, {tops[0]}{PICKLE} and {tops[1]}{PICKLE}; a model has one")
    top = tops[0]
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    order = byte_order(archive, f"{top}/byteorder", sizes)

    code = f"{top}/code/"
    scripted = any(name.startswith(code) for name in names)

    def numbers(storage: Storage, dtype: str, folder: str = "data") -> Array:
        return flat(entry_bytes(archive, f"{top}/{folder}/{storage.key}"), dtype, order)

    def stored(storage: Storage, folder: str = "data") -> int:
        name = f"{top}/{folder}/{storage.key}"
        if name not in sizes:
            raise ValueError(f"its storage {storage.key!r} is missing: there is no entry {name!r}")
        return sizes[name]

    def unpickled(name: str) -> Any:
        budget.hold(2 * sizes[name], "its pickle")  # unpacked, and its copy in BytesIO
        return Machine(Bounded(io.BytesIO(entry_bytes(archive, name)), sizes[name], budget)).load()

    @cache
    def text(entry: str) -> str:
        if sizes.get(entry, CODE) >= CODE:
            return ""
        budget.hold(2 * sizes[entry], "its code")
        return entry_bytes(archive, entry).decode("utf-8", "replace")

    @cache
    def classes(path: str) -> dict[str, dict[str, Any]]:
        return script_flags(text(f"{code}{path.replace('.', '/')}.py"))

    def flags(name: str) -> dict[str, Any]:
        """The flags of the class ``__torch__.a.b.C``, which is in code/__torch__/a/b.py."""
        path, _, own = name.rpartition(".")
        return classes(path).get(own, {})

    root = unpickled(f"{top}{PICKLE}")
    contents = tree.contents("TorchScript" if scripted else "PyTorch", root, numbers, stored, budget, flags)
    constants = unpickled(pickled) if scripted and (pickled := f"{top}/constants.pkl") in sizes else ()
    if contents.lstms or not isinstance(constants, tuple | list):
        return contents
    source = "\n".join(text(name) for name in names if name.startswith(code) and name.endswith(".py"))
    named, known = frozen(source, constants, budget)
    own_numbers, own_stored = partial(numbers, folder="constants"), partial(stored, folder="constants")
    from_constants = tree.contents("frozen TorchScript", named, own_numbers, own_stored, budget, flags=known)
    return from_constants if from_constants.lstms or from_constants.others else contents


def byte_order(archive: zipfile.ZipFile, name: str, sizes: Mapping[str, int]) -> Order:
    """The byte order that the archive states; little endian if it states none."""
    if name not in sizes:
        return "<"
    stated = bytes(entry_bytes(archive, name)) if sizes[name] < CODE else b""
    orders: dict[bytes, Order] = {b"little": "<", b"big": ">"}
    if stated not in orders:
        raise ValueError(f"its byteorder is {stated[:20]!r}, neither little nor big")
    return orders[stated]
