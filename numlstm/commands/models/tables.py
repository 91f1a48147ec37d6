"""Tables in ``.csv`` files: sequences by a column that says which one a row belongs to, and predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numlstm.base import atomic, opening
from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.formats.text import decimal


class Group(NamedTuple):
    """A sequence of a table: its name, what orders its steps, and its numbers, (steps, features)."""

    name: str
    steps: list[str]
    numbers: Array


def groups(path: Path, group: str, order: str, features: Sequence[str] | None) -> list[Group]:
    """The sequences of a table whose first line has the names of its columns.

    Raises
    ------
    ValueError
        A column is missing, a cell is no number, or two steps of a sequence have one place.
    """
    with opening.regular(path) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True))
    if not rows:
        raise ValueError(f"{path}: it holds no line below the names of its columns")
    columns = list(features or (name for name in rows[0] if name not in (group, order)))
    missing = [name for name in (group, order, *columns) if name not in rows[0]]
    if missing:
        raise ValueError(f"{path}: it has no column {', '.join(missing)}; it has {', '.join(map(str, rows[0]))}")
    found: dict[str, list[tuple[Any, str, list[float]]]] = {}
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{path}: line {line} has not {counted(len(rows[0]), 'column')}, as the first line has")
        try:
            numbers = [decimal(row[name]) for name in columns]
        except ValueError:
            raise ValueError(f"{path}: line {line} has a cell that is no number: {list(row.values())}") from None
        found.setdefault(row[group], []).append((_place(row[order]), row[order], numbers))
    return [_ordered(path, name, steps) for name, steps in found.items()]


def _place(text: str) -> tuple[int, float, str]:
    """What a step is ordered by: its number, or its text if it has none, such as a date."""
    try:
        return (0, decimal(text), "")
    except ValueError:
        return (1, 0.0, text)


def _ordered(path: Path, name: str, steps: list[tuple[Any, str, list[float]]]) -> Group:
    steps.sort(key=lambda step: step[0])
    for before, after in pairwise(steps):
        if before[0] == after[0]:
            raise ValueError(f"{path}: the sequence {name!r} has two steps {after[1]!r}")
    return Group(name, [text for _, text, _ in steps], np.array([numbers for _, _, numbers in steps]))


def columns_of(outputs: dict[str, Array]) -> tuple[list[str], Array]:
    """Names and numbers of the columns of outputs that have a row for each of the same things.

    Raises
    ------
    ValueError
        An output has more axes than a table, or another number of rows.
    """
    names: list[str] = []
    parts = []
    for name, array in outputs.items():
        if array.ndim > 2:
            raise ValueError(f"{name} has shape {array.shape}, too many axes for a .csv file: write a .npz file")
        part = array if array.ndim == 2 else array[:, None]
        names += [name] if part.shape[1] == 1 else [f"{name}_{column}" for column in range(part.shape[1])]
        parts.append(part)
    if len({len(part) for part in parts}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
        raise ValueError(f"its outputs have several numbers of rows, {shapes}: write a .npz file")
    return names, np.concatenate(parts, axis=1)


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, whole or not at all. A number has as many digits as its dtype needs."""
    with atomic.replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(header)
        table.writerows([str(cell) for cell in row] for row in rows)
        text.detach()
