"""The grid: the workloads that are measured, their data, and the arithmetic of each.

From one step of a small cell to a language model of two layers. They follow the uses of an LSTM, not the strengths of
an engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array

DTYPES = ("float32", "float64")
WORDS = (*DTYPES, "batch_first")  # words that may follow the sizes of a workload


@dataclass(frozen=True)
class Workload:
    """An LSTM and the shape of its input.

    Parameters
    ----------
    name : str
        Of the workload.
    input_size, hidden_size, num_layers : int
        As in ``torch.nn.LSTM``.
    directions : int
        2 for a bidirectional LSTM, else 1.
    sequence_length, batch_size : int
        The input is (sequence_length, batch_size, input_size), or batch first.
    proj_size : int
        As in ``torch.nn.LSTM``.
    dtype : str
        ``"float32"`` or ``"float64"``.
    batch_first : bool
        As in ``torch.nn.LSTM``.

    Examples
    --------
    >>> Workload("tiny", 6, 4, 2, 1, 5, 1).fmas
    1440
    """

    name: str
    input_size: int
    hidden_size: int
    num_layers: int
    directions: int
    sequence_length: int
    batch_size: int
    proj_size: int = 0
    dtype: str = "float32"
    batch_first: bool = False

    def __post_init__(self) -> None:
        at_least = {
            "input_size": 1, "hidden_size": 1, "num_layers": 1, "directions": 1,
            "sequence_length": 1, "batch_size": 1, "proj_size": 0,
        }  # fmt: skip
        for size, least in at_least.items():
            if (value := getattr(self, size)) < least:
                raise ValueError(f"{size} of workload {self.name!r} is {value}; it must be at least {least}")
        if self.directions > 2:
            raise ValueError(f"directions of workload {self.name!r} is {self.directions}; it must be 1 or 2")
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size of workload {self.name!r} is {self.proj_size}; "
                f"it must be below hidden_size {self.hidden_size}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype of workload {self.name!r} is {self.dtype!r}; it must be 'float32' or 'float64'")

    @classmethod
    def parse(cls, text: str, dtype: str = "float32") -> Workload:
        """A workload from ``I,H,L,D,T,B``: input, hidden, layers, directions, steps, batch; then maybe proj_size.

        The words ``batch_first``, ``float32`` and ``float64`` may follow.

        Examples
        --------
        >>> Workload.parse("8,64,2,1,168,64").hidden_size
        64
        >>> Workload.parse("8,64,2,1,168,64,batch_first,float64").dtype
        'float64'
        """
        parts = text.split(",")
        batch_first = "batch_first" in parts
        dtype = next((part for part in parts if part in DTYPES), dtype)
        try:
            sizes = [int(part) for part in parts if part not in WORDS]
        except ValueError:
            sizes = []
        if len(sizes) not in (6, 7) or len(parts) - len(sizes) > batch_first + any(part in DTYPES for part in parts):
            raise ValueError(
                f"sizes are {text!r}; they must be six whole numbers I,H,L,D,T,B (input, hidden, layers, directions, "
                "steps, batch), or seven with proj_size, and perhaps the words batch_first and float64 or float32, once"
            )
        input_size, hidden_size, num_layers, directions, sequence_length, batch_size, *projected = sizes
        proj_size = projected[0] if projected else 0
        shape = sequence_length, batch_size, proj_size
        return cls(text, input_size, hidden_size, num_layers, directions, *shape, dtype, batch_first)

    @property
    def sizes(self) -> str:
        """The text that `parse` reads.

        Examples
        --------
        >>> Workload("small", 6, 4, 2, 1, 5, 1, batch_first=True).sizes
        '6,4,2,1,5,1,batch_first'
        """
        sizes = [self.input_size, self.hidden_size, self.num_layers, self.directions]
        sizes += [self.sequence_length, self.batch_size, *([self.proj_size] if self.proj_size else [])]
        words = [*(["batch_first"] if self.batch_first else []), *(["float64"] if self.dtype == "float64" else [])]
        return ",".join([*map(str, sizes), *words])

    @property
    def config(self) -> Config:
        """The LSTM's sizes and flags."""
        return Config(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            batch_first=self.batch_first,
            bidirectional=self.directions == 2,
            proj_size=self.proj_size,
        )

    @property
    def fmas(self) -> int:
        """Multiply-adds of the matrix products of a call, the same in every engine; activations are not counted."""
        config = self.config
        row = sum(
            4 * config.hidden_size * (config.layer_input_size(layer) + config.output_size)
            + config.proj_size * config.hidden_size
            for layer, _, _ in config.cells()
        )
        return row * self.sequence_length * self.batch_size

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weight matrices, without biases."""
        shapes = self.config.parameter_shapes().items()
        return sum(int(np.prod(shape)) for name, shape in shapes if name.startswith("weight")) * self.itemsize

    @property
    def recurrent_bytes(self) -> int:
        """Bytes of one cell's recurrent weights (W_hh, and W_hr if projected), which every step reads again."""
        return (4 * self.config.output_size + self.proj_size) * self.hidden_size * self.itemsize

    @property
    def held_bytes(self) -> int:
        """Bytes that are read repeatedly: the recurrent weights of a cell, or all weights if a call is one step."""
        return self.weight_bytes if self.sequence_length == 1 else self.recurrent_bytes

    @property
    def bytes_read(self) -> int:
        """Bytes of weights that a call reads if each step reads `held_bytes` once, for all rows of the batch."""
        if self.sequence_length == 1:
            return self.weight_bytes
        return self.recurrent_bytes * self.num_layers * self.directions * self.sequence_length

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    def named(self, name: str) -> Self:
        """The same workload under another name."""
        return replace(self, name=name)

    def shortened(self, fmas: int) -> Self:
        """The same workload with fewer steps, so that a call stays within `fmas`; at least one step."""
        step = self.fmas // self.sequence_length
        return replace(self, sequence_length=max(1, min(self.sequence_length, fmas // step)))

    def parameters(self) -> dict[str, Array]:
        """Weights as of a new LSTM, U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)); the same in every call."""
        random = np.random.default_rng(0)
        bound = self.hidden_size**-0.5
        return {
            name: random.uniform(-bound, bound, shape).astype(self.dtype)
            for name, shape in self.config.parameter_shapes().items()
        }

    def inputs(self) -> tuple[Array, Array, Array]:
        """``input``, ``h_0`` and ``c_0``; the same in every call."""
        random = np.random.default_rng(1)
        cells = self.num_layers * self.directions
        shape = (self.sequence_length, self.batch_size)
        return (
            random.standard_normal((*(shape[::-1] if self.batch_first else shape), self.input_size)).astype(self.dtype),
            random.uniform(-1, 1, (cells, self.batch_size, self.config.output_size)).astype(self.dtype),
            random.standard_normal((cells, self.batch_size, self.hidden_size)).astype(self.dtype),
        )


GRID = (
    Workload("seed", 6, 4, 2, 1, 5, 1),
    Workload("amp_step", 1, 40, 1, 1, 1, 1),
    Workload("amp_block", 1, 40, 1, 1, 2048, 1),
    Workload("vad_step", 128, 128, 1, 1, 1, 1),
    Workload("forecast", 8, 64, 2, 1, 168, 64),
    Workload("tagger", 100, 256, 1, 2, 50, 1),
    Workload("voice", 40, 256, 3, 1, 160, 8),
    Workload("speech", 80, 512, 3, 2, 200, 1),
    Workload("lm", 1024, 1024, 2, 1, 64, 16),
    Workload("lm_step", 1024, 1024, 2, 1, 1, 1),
)


def find(name: str) -> Workload:
    """The workload of that name.

    Examples
    --------
    >>> find("voice").num_layers
    3
    """
    for workload in GRID:
        if workload.name == name:
            return workload
    raise ValueError(f"no workload is called {name!r}; there are {', '.join(workload.name for workload in GRID)}")
