"""``.pt2`` of torch.export: raw weights, their names and shapes in one JSON text, the graph in another.

Source: torch/export/pt2_archive and torch/_export/serde/schema.py of PyTorch 2.13.
"""

from __future__ import annotations

import re
import zipfile
from typing import Any

from numlstm.base.typing import Array
from numlstm.formats.budget import Budget, shown
from numlstm.formats.detected import Contents
from numlstm.formats.reparametrized import OWN
from numlstm.formats.tensor import Order, width
from numlstm.formats.text import parsed_json
from numlstm.formats.torch import tree
from numlstm.formats.torch.archive import ENTRY, byte_order
from numlstm.formats.torch.unpickle import Object, Storage, View, flat
from numlstm.formats.zips import entry_bytes

WEIGHTS = re.compile(r"(?P<top>[^/]+)/data/weights/(?P<model>[^/]+)_weights_config\.json")
DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}  # ScalarType of torch/_export/serde/schema.py
LSTM = "torch.ops.aten.lstm.input"
OWNED = re.compile(rf"(?P<prefix>.*?)(?:parametrizations\.)?{OWN}(?:[._].*)?", re.S)  # a parameter, or a part of one
FLAGS = {"batch_first": "as_bool", "dropout": "as_float"}


def looks_like(names: list[str]) -> bool:
    """Whether a zip archive with these entries is one."""
    return any(WEIGHTS.fullmatch(name) for name in names)


def read(archive: zipfile.ZipFile, budget: Budget) -> Contents:
    """Every tensor, and the LSTMs among them. See `numlstm.formats`."""
    names = archive.namelist()
    budget.hold(ENTRY * len(names), "its entries")
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    configs = [match for name in names if (match := WEIGHTS.fullmatch(name))]
    if len(configs) > 1:
        raise ValueError(f"it holds {len(configs)} models; a file of one is read")
    top, model = configs[0]["top"], configs[0]["model"]
    order: Order = byte_order(archive, f"{top}/byteorder", sizes)
    config = _json(archive, configs[0][0], budget, "the list of its weights").get("config")
    if not isinstance(config, dict):
        raise ValueError("the list of its weights has no config")

    def stored(storage: Storage) -> int:
        if storage.key not in sizes:
            raise ValueError(f"its weights {shown(storage.key)!r} are missing")
        return sizes[storage.key]

    def numbers(storage: Storage, dtype: str) -> Array:
        return flat(entry_bytes(archive, storage.key), dtype, order)

    root = {name: _tensor(name, entry, f"{top}/data/weights/", sizes) for name, entry in config.items()}
    graph = f"{top}/models/{model}.json"
    flags = _flags(_json(archive, graph, budget, "its graph")) if graph in sizes else {}
    return tree.contents("torch.export", root, numbers, stored, budget, flags=flags)


def _json(archive: zipfile.ZipFile, name: str, budget: Budget, what: str) -> dict[str, Any]:
    text = entry_bytes(archive, name)
    budget.hold(2 * len(text), what)
    found = parsed_json(text.decode("utf-8", "replace"), budget, what)
    if not isinstance(found, dict):
        raise ValueError(f"{what} is no JSON object")
    return found


def _tensor(name: str, entry: Any, folder: str, sizes: dict[str, int]) -> View | Object:
    """The view of one weight's storage, or a record of one that is not raw numbers."""
    try:
        meta = entry["tensor_meta"]
        dtype = DTYPES.get(meta["dtype"])
        if entry["use_pickle"] or dtype is None:
            return Object("torch._utils._rebuild_pickled")
        shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        key, offset = folder + entry["path_name"], meta["storage_offset"]["as_int"]
        numbers = [offset, *shape, *strides]
        if len(shape) == len(strides) <= 64 and all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
            return View(
                Storage(dtype, key, sizes.get(key, 0) // width(dtype)), dtype, offset, tuple(shape), tuple(strides)
            )
    except (KeyError, TypeError):
        pass
    raise ValueError(f"its weight {shown(name)!r} has no shape, strides and number type that are understood")


def _flags(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """batch_first and dropout by the name of an LSTM, from the nodes of the graph that read its parameters.

    What is computed from a parameter has its name, as a parameter that weight_norm stores.
    """
    found: dict[str, dict[str, Any]] = {}
    try:
        graph = model["graph_module"]
        inputs = [spec["parameter"] for spec in graph["signature"]["input_specs"] if "parameter" in spec]
        names = {spec["arg"]["name"]: spec["parameter_name"] for spec in inputs}
        for node in graph["graph"]["nodes"]:
            given = {part["name"]: part["arg"] for part in node["inputs"]}
            if node["target"] == LSTM:
                read = (names.get(each["name"], "") for each in given["params"]["as_tensors"])
                match = next(filter(None, map(OWNED.fullmatch, read)), None)
                if match is not None:
                    found[match["prefix"].rstrip(".")] = {flag: given[flag][kind] for flag, kind in FLAGS.items()}
                continue
            tensors = (arg["as_tensor"]["name"] for arg in given.values() if "as_tensor" in arg)
            name = next(filter(None, map(names.get, tensors)), None)
            for output in node["outputs"] if name is not None else ():
                if "as_tensor" in output:
                    names[output["as_tensor"]["name"]] = name
    except (KeyError, TypeError, IndexError, AttributeError):
        return {}  # the graph is of another version: the flags are left open
    return found
