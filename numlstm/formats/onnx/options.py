"""The attributes of an LSTM node that change its cell: activations, clip, input_forget.

``activations`` names f, g and h of each direction, in any case. ``activation_alpha`` and ``activation_beta`` have a
number for each of them that takes one, in their order; ONNX Runtime reads them so. Where numbers are left out, the
usual ones hold (https://onnx.ai/onnx/operators/onnx__LSTM.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from numlstm.base.cell_options import ACTIVATIONS, PLAIN, CellOptions
from numlstm.formats.budget import shown

USUAL = ("Sigmoid", "Tanh", "Tanh")
NUMBERS = ("activation_alpha", "activation_beta")
LARGEST = float(np.finfo(np.float32).max)  # such a clip has no effect
SHOWN = 8  # numbers in a message


def cell_options(attributes: Mapping[str, Any], directions: int, peepholes: bool) -> CellOptions:
    """The options of a node.

    Raises
    ------
    ValueError
        They cannot be those of one LSTM; the text goes on after "the node: ".
    """
    names = list(USUAL) * directions
    if "activations" in attributes:
        given = attributes["activations"].strings[: len(names) + 1]
        names = [each.decode("ascii", "replace") for each in given]
        if len(names) != 3 * directions:
            raise ValueError(f"its activations are {shown(', '.join(names))}; it needs {3 * directions}")
    known = {name.lower(): name for name in ACTIVATIONS}
    unknown = [name for name in names if name.lower() not in known]
    if unknown:
        raise ValueError(f"its activation {shown(unknown[0])!r} is none of ONNX's: {', '.join(ACTIVATIONS)}")
    names = [known[name.lower()] for name in names]
    numbers = [_numbers(attributes, names, position) for position in range(len(NUMBERS))]
    activations = [(name, *_of_one(name, each)) for name, *each in zip(names, *numbers, strict=True)]
    if activations[:3] != activations[-3:]:
        raise ValueError("its two directions have different activations, which one LSTM cannot have")
    clip = attributes["clip"].f if "clip" in attributes else LARGEST
    if not clip > 0:
        raise ValueError(f"its clip is {clip:g}; it must be above 0")
    coupled = "input_forget" in attributes and bool(attributes["input_forget"].i)
    f, g, h = activations[:3]
    return CellOptions(f, g, h, np.inf if clip >= LARGEST else _decimal(clip), peepholes, coupled)


def attributes_of(options: CellOptions, directions: int) -> dict[str, Any]:
    """The attributes of a node with these options; none where they are the usual ones."""
    attributes: dict[str, Any] = {}
    functions = options[:3] * directions
    if options[:3] != PLAIN[:3]:
        attributes["activations"] = [name for name, *_ in functions]
    for position, attribute in enumerate(NUMBERS):
        numbers = [function[1 + position] for function in functions if len(function) > 1 + position]
        if numbers:
            attributes[attribute] = numbers
    if options.clip < np.inf:
        attributes["clip"] = options.clip
    if options.input_forget:
        attributes["input_forget"] = 1
    return attributes


def _numbers(attributes: Mapping[str, Any], names: Sequence[str], position: int) -> list[float | None]:
    """The alpha (position 0) or beta of each activation, or None."""
    attribute = NUMBERS[position]
    given = [float(number) for number in attributes[attribute].floats[:SHOWN]] if attribute in attributes else []
    takes = [len(ACTIVATIONS[name]) > position for name in names]
    count = sum(takes)
    in_place = [number for number, taken in zip(given, takes, strict=False) if taken]  # one for each activation
    if any(given[count:]) and not (len(given) == len(names) and in_place == given[:count]):
        whose = ", ".join(dict.fromkeys(names))
        raise ValueError(f"its {attribute} is {given}; {whose} have {count or 'none'}")
    left = iter(given)
    return [next(left, None) if taken else None for taken in takes]


def _of_one(name: str, given: Sequence[float | None]) -> list[float]:
    """Alpha and beta of an activation, as far as it has them."""
    found = []
    for usual, number, attribute in zip(ACTIVATIONS[name], given, NUMBERS, strict=False):
        value = usual if number is None else _decimal(number)
        if value is None:
            raise ValueError(f"its activation {name} has no {attribute}, of which ONNX states no usual value for it")
        found.append(value)
    return found


def _decimal(number: float) -> float:
    """The shortest decimal number that is this one in float32, as in the file: 0.2 for 0.20000000298."""
    return float(str(np.float32(number)))
