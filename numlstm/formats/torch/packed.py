"""Weights that ``torch.ao.quantization.quantize_dynamic`` has packed, by the names of a state dict.

==================================  =================================================================================
``rnn._all_weight_values.N.param``  cell N of an LSTM: layer by layer, in each the forward before the reverse cell
``cell._packed_weight_ih``, ``hh``  the matrix and bias of an LSTMCell
``_packed_params._packed_params``   those of a Linear layer
==================================  =================================================================================

Each is the state of an object of C++. Gates and axes are those of ``torch.nn``. Sources: rnn.py and linear.py in
torch/ao/nn/quantized/dynamic/modules, and CellParamsBase in aten/src/ATen/native/RNN.cpp of PyTorch 2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numlstm.formats.torch.unpickle import Object, View

KEY = re.compile(
    r"(?P<prefix>.*?)(?:(?P<cell>_all_weight_values\.[0-9]{1,6}\.)param"
    r"|_packed_weight(?P<own>_ih|_hh)|_packed_params\._packed_params)",
    re.S,
)
CELL = re.compile(r"(?P<prefix>.*?)_all_weight_values\.(?P<cell>[0-9]{1,6})\.(?P<own>.*)", re.S)


def unpacked(key: str, item: object) -> dict[str, Any]:
    """The tensors in a packed item of a state dict, by name; a cell's begin with ``_all_weight_values.N.``."""
    match = KEY.fullmatch(key)
    if match is None:
        return {}
    prefix, parts = match["prefix"] + (match["cell"] or ""), _state(item)
    if not match["cell"]:
        weight, bias = parts if len(parts) == 2 else (None, None)
        return {f"{prefix}weight{match['own'] or ''}": weight, f"{prefix}bias{match['own'] or ''}": bias}
    matrices = [_state(each) for each in parts[4]] if len(parts) == 5 and isinstance(parts[4], list | tuple) else []
    if len(matrices) != 2 or not all(len(matrix) == 2 for matrix in matrices):
        return {}
    (weight_ih, bias_ih), (weight_hh, bias_hh) = matrices
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return dict(zip((prefix + name for name in names), (weight_ih, weight_hh, bias_ih, bias_hh), strict=True))


def _state(item: object) -> tuple[Any, ...] | list[Any]:
    """The state of an object of C++; in a state dict, a pair of it and the name of its class."""
    state = item.state if isinstance(item, Object) else item
    if isinstance(item, Object) and item.name == "torch.ScriptObject":
        state = state[0] if isinstance(state, tuple) and len(state) == 2 else ()
    return state if isinstance(state, tuple | list) else ()


def in_layers(views: Mapping[str, View], flags: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, View], list[str]]:
    """Tensors whose cells have the names of their layers, ``weight_ih_l0_reverse``, and what prevented that.

    Parameters
    ----------
    views : mapping of str to View
    flags : mapping of str to mapping
        By the name of an LSTM, what its module says. A state dict does not say whether it is bidirectional.
    """
    cells: dict[str, dict[int, dict[str, View]]] = {}
    for name, view in views.items():
        if match := CELL.fullmatch(name):
            cells.setdefault(match["prefix"], {}).setdefault(int(match["cell"]), {})[match["own"]] = view
    if not cells:
        return dict(views), []
    found = {name: view for name, view in views.items() if not CELL.fullmatch(name)}
    problems = []
    for prefix, numbered in cells.items():
        name = prefix.rstrip(".")
        stated = flags.get(name, {}).get("bidirectional")
        directions = [1 + stated] if isinstance(stated, bool) else _directions(numbered)
        if len(directions) == 2:
            problems.append(
                f"{name or 'an LSTM'} may have two layers or two directions, as far as its quantised state dict says: "
                "save the module itself (torch.save, or torch.jit.script)"
            )
            continue
        both = directions == [2]
        for cell, own in numbered.items():
            suffix = f"_l{cell // 2}{'_reverse' * (cell % 2)}" if both else f"_l{cell}"
            found |= {f"{prefix}{part}{suffix}": view for part, view in own.items()}
    return found, problems


def _directions(cells: Mapping[int, Mapping[str, View]]) -> list[int]:
    """The numbers of directions that the sizes of the cells allow."""
    widths = {cell: own["weight_ih"].shape[-1:] for cell, own in cells.items() if "weight_ih" in own}
    units = next((own["weight_hh"].shape[-1] for own in cells.values() if "weight_hh" in own), 0)
    return [
        count
        for count in (1, 2)
        if len(cells) % count == 0
        and all(width == (widths.get(0) if cell < count else (count * units,)) for cell, width in widths.items())
    ]
