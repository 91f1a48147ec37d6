"""PyTorch's zip format since 1.6: ``data.pkl``, and an entry for each storage. TorchScript uses it too.

Sources: torch/serialization.py and caffe2/serialize/inline_container.h of PyTorch 2.13. Everything is in one folder.
TorchScript adds the folder ``code/``, whose text gives the flags of each LSTM.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from numlstm.base.typing import Array
from numlstm.formats.budget import Budget
from numlstm.formats.detected import Contents
from numlstm.formats.tensor import Order
from numlstm.formats.text import decimal, whole
from numlstm.formats.torch import tree
from numlstm.formats.torch.unpickle import Bounded, Machine, Storage, flat
from numlstm.formats.zips import entry_bytes

PICKLE = "/data.pkl"
ENTRY = 400  # bytes of memory for an entry of the archive, and for its names here
CODE = 1 << 20  # bytes of the longest source file of TorchScript that is searched
FINAL = re.compile(r"^  (\w+) : Final\[\w+\] = ([\w.\"-]+)$", re.M)
CALL = re.compile(  # input, states, weights, bias, layers, dropout, training, bidirectional, batch_first
    r"torch\.lstm\(\w+, \w+, \w+, (True|False), ([0-9]+), ([0-9.e-]+), \w+, (True|False), (True|False)\)"
)
WORDS = {"True": True, "False": False}


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

    def numbers(storage: Storage, dtype: str) -> Array:
        return flat(entry_bytes(archive, f"{top}/data/{storage.key}"), dtype, order)

    def stored(storage: Storage) -> int:
        name = f"{top}/data/{storage.key}"
        if name not in sizes:
            raise ValueError(f"its storage {storage.key!r} is missing: there is no entry {name!r}")
        return sizes[name]

    size = sizes[f"{top}{PICKLE}"]
    budget.hold(2 * size, "its pickle")  # unpacked, and its copy in BytesIO
    pickled = io.BytesIO(entry_bytes(archive, f"{top}{PICKLE}"))
    root = Machine(Bounded(pickled, size, budget)).load()
    code = f"{top}/code/"
    scripted = any(name.startswith(code) for name in names)

    @cache
    def classes(path: str) -> dict[str, dict[str, Any]]:
        entry = f"{code}{path.replace('.', '/')}.py"
        if sizes.get(entry, CODE) >= CODE:
            return {}
        budget.hold(sizes[entry], "its code")  # for the flags; the text itself is freed
        return script_flags(entry_bytes(archive, entry).decode("utf-8", "replace"))

    def flags(name: str) -> dict[str, Any]:
        """The flags of the class ``__torch__.a.b.C``, which is in code/__torch__/a/b.py."""
        path, _, own = name.rpartition(".")
        return classes(path).get(own, {})

    format = "TorchScript" if scripted else "PyTorch"
    contents = tree.contents(format, root, numbers, stored, budget, flags)
    if scripted and not contents.tensors:
        frozen = "a frozen module keeps its weights without their names: save it before torch.jit.freeze"
        return contents._replace(others=(*contents.others, frozen))
    return contents


def byte_order(archive: zipfile.ZipFile, name: str, sizes: Mapping[str, int]) -> Order:
    """The byte order that the archive states; little endian if it states none."""
    if name not in sizes:
        return "<"
    stated = bytes(entry_bytes(archive, name)) if sizes[name] < CODE else b""
    orders: dict[bytes, Order] = {b"little": "<", b"big": ">"}
    if stated not in orders:
        raise ValueError(f"its byteorder is {stated[:20]!r}, neither little nor big")
    return orders[stated]


def script_flags(text: str) -> dict[str, dict[str, Any]]:
    """The flags of LSTMs in TorchScript's source, by class: constants if scripted, a call if traced.

    Examples
    --------
    >>> scripted = 'class LSTM(Module):\\n  batch_first : Final[bool] = True\\n  mode : Final[str] = "LSTM"\\n'
    >>> script_flags(scripted)
    {'LSTM': {'batch_first': True}}
    >>> traced = "class LSTM(Module):\\n  y, _0, _1 = torch.lstm(x, h, w, True, 2, 0.5, False, False, True)\\n"
    >>> script_flags(traced)["LSTM"]
    {'bias': True, 'num_layers': 2, 'dropout': 0.5, 'bidirectional': False, 'batch_first': True}
    """
    known = {}
    for part in re.split(r"^class ", text, flags=re.M)[1:]:
        flags = _class_flags(part)
        if flags:
            known[part.partition("(")[0]] = flags
    return known


def _class_flags(text: str) -> dict[str, Any]:
    constants = dict(FINAL.findall(text))
    if constants.get("mode") == '"LSTM"':
        known = {flag: constants[flag] for flag in (*tree.SIZES, "batch_first", "dropout") if flag in constants}
        return {flag: _value(word) for flag, word in known.items()}
    calls = set(CALL.findall(text))
    if len(calls) != 1:
        return {}
    bias, layers, dropout, bidirectional, batch_first = calls.pop()
    return {
        "bias": WORDS[bias],
        "num_layers": _value(layers),
        "dropout": _value(dropout),
        "bidirectional": WORDS[bidirectional],
        "batch_first": WORDS[batch_first],
    }


def _value(word: str) -> Any:
    if word in WORDS:
        return WORDS[word]
    for number in (whole, decimal):
        try:
            return number(word)
        except ValueError:
            pass
    return word
