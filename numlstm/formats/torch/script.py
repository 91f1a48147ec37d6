"""The source text in a TorchScript archive: the flags of LSTMs, and the constants of a frozen module.

Nothing is run: a few lines are recognised. A scripted module has its flags as constants of its class, a traced one as
arguments of ``torch.lstm``. ``torch.jit.freeze`` makes of parameters nameless constants, ``CONSTANTS.c0`` and so on, of
which each call has a list: W_ih, W_hh, b_ih, b_hh and W_hr of each cell, layer by layer. Source: the schema of
``aten::lstm`` in aten/src/ATen/native/native_functions.yaml of PyTorch 2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from numlstm.formats.budget import Budget
from numlstm.formats.text import decimal, whole

SIZES = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size")
FLAGS = (*SIZES, "batch_first", "dropout")
FINAL = re.compile(r"^  (\w+) : Final\[\w+\] = ([\w.\"-]+)$", re.M)
CALL = re.compile(r"^[\w, ]* = torch\.(?:quantized_)?(lstm|lstm_cell)\((.*)\)$", re.M)
ARGUMENT = re.compile(r"\[[^\]]*\]|[^,\[\]]+")
CONSTANT = re.compile(r"CONSTANTS\.c([0-9]{1,6})\b")
LIST = re.compile(r"^ *(\w+) = (\[CONSTANTS\.c[^\]\n]*\])$", re.M)
APPENDED = re.compile(r"torch\.append\((\w+), (CONSTANTS\.c[0-9]{1,6})\)$", re.M)
OWN = re.compile(r"self_(\w+?)__flat_weights")  # freezing calls a list self_encoder__flat_weights
ENTRY = 400  # bytes of memory for a name
WORDS = {"True": True, "False": False}
PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


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
        return {flag: _value(constants[flag]) for flag in FLAGS if flag in constants}
    calls = [flags for kind, given in CALL.findall(text) if kind == "lstm" and (flags := _call(given)[1])]
    return calls[0] if calls and all(flags == calls[0] for flags in calls) else {}


def _call(text: str) -> tuple[str, dict[str, Any]]:
    """The weights and the flags among the arguments of a call; no flags if these are not constants.

    (input, states, weights, bias, layers, dropout, training, bidirectional, batch_first), or for a packed sequence
    (data, batch_sizes, states, ...) without the last.
    """
    given = [part.strip() for part in ARGUMENT.findall(text) if part.strip()]
    at = next((at for at, word in enumerate(given) if word in WORDS), 0)
    words = [_value(word) for word in given[at : at + 6]]
    if at < 3 or len(words) < 5 or [type(word) for word in words[:5]] != [bool, int, float, bool, bool]:
        return "", {}
    flags = dict(zip(("bias", "num_layers", "dropout", "", "bidirectional", "batch_first"), words, strict=False))
    del flags[""]
    if type(flags.get("batch_first", True)) is not bool or "=" in given[at + 5 : at + 6]:
        del flags["batch_first"]
    return given[at - 1], flags


def frozen(text: str, constants: Sequence[Any], budget: Budget) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The constants of a frozen module by the names of a state dict, and the flags of each LSTM.

    Parameters
    ----------
    text : str
        The source of the module.
    constants : sequence
        What its names stand for, tensors or packed parameters.
    budget : Budget
    """
    lists = {name: _numbers(given) for name, given in LIST.findall(text)}
    for name, constant in APPENDED.findall(text):
        lists.setdefault(name, []).extend(_numbers(constant))
    named: dict[str, Any] = {}
    flags: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for kind, given in CALL.findall(text):
        weights, known = _call(given) if kind == "lstm" else (given, {"num_layers": 1, "bias": True})
        numbers = lists[weights] if weights in lists else _numbers(weights)
        if not known or not numbers or max(numbers) >= len(constants):
            continue
        own = OWN.fullmatch(weights)
        name = _free((own and own[1]) or kind, taken)
        taken.add(name)
        if kind == "lstm":
            flags[name] = known
        budget.hold(ENTRY * len(numbers), "its constants")
        tensors = [constants[number] for number in numbers]
        named |= {f"{name}.{key}": tensor for key, tensor in _keys(kind, known, tensors).items()}
    used = set(map(id, named.values()))
    rest = {f"CONSTANTS.c{number}": each for number, each in enumerate(constants) if id(each) not in used}
    return named | rest, flags


def _numbers(text: str) -> list[int]:
    return [int(number) for number in CONSTANT.findall(text)]


def _free(name: str, taken: set[str]) -> str:
    return (
        name
        if name not in taken
        else next(free for n in range(2, len(taken) + 3) if (free := f"{name}_{n}") not in taken)
    )


def _keys(kind: str, flags: Mapping[str, Any], tensors: Sequence[Any]) -> dict[str, Any]:
    """Names for the weights of a call, in their order."""
    if kind == "lstm_cell":
        return dict(zip(PARTS, tensors, strict=False))
    cells = flags["num_layers"] * (1 + flags["bidirectional"])
    if len(tensors) == cells:  # packed, by quantize_dynamic
        return {f"_all_weight_values.{cell}.param": tensor for cell, tensor in enumerate(tensors)}
    parts = (*PARTS[: 4 if flags["bias"] else 2], "weight_hr")
    each = max(len(tensors) // max(cells, 1), 1)
    found = {}
    for number, tensor in enumerate(tensors):
        cell, part = divmod(number, each)
        layer, reverse = divmod(cell, 1 + flags["bidirectional"])
        found[f"{parts[min(part, len(parts) - 1)]}_l{layer}{'_reverse' * reverse}"] = tensor
    return found


def _value(word: str) -> Any:
    if word in WORDS:
        return WORDS[word]
    for number in (whole, decimal):
        try:
            return number(word)
        except ValueError:
            pass
    return word
