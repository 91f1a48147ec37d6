"""The layers of a model as a table."""

from __future__ import annotations

from typing import NamedTuple

from numlstm.base.console import printable, table

HEADER = ("layer", "what", "output", "parameters")


class Row(NamedTuple):
    """A layer: its name, what it is, the shape of its output in words, and how many numbers its parameters have."""

    name: str
    kind: str
    output: str
    parameters: int


class Summary(tuple[Row, ...]):
    """The layers of a model in order. ``print(model.summary())`` shows them as a table.

    Examples
    --------
    >>> print(Summary([Row("lstm", "LSTM(2, 3)", "(..., 3)", 84), Row("head", "relu", "(..., 3)", 0)]))
    layer  what        output    parameters
    lstm   LSTM(2, 3)  (..., 3)          84
    head   relu        (..., 3)           0
    84 parameters
    """

    __slots__ = ()

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(row.parameters for row in self)

    def __str__(self) -> str:
        rows = [(printable(row.name), printable(row.kind), row.output, f"{row.parameters:,}") for row in self]
        lines = [*table(HEADER, rows, left=HEADER[:3]), f"{self.parameters:,} parameters"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)
