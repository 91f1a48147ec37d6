"""Pack parameters into panels, the only copy of a model's weights, and unpack them.

The gate panels of a cell are ``[block][k][gate][lane]``: a block is ``lanes`` hidden units, k runs over the input
features and then over h, gates are i, f, g, o. A tail block has half the lanes (``lanes_of_last``). The bias is
b_ih + b_hh as ``[block][gate][lane]``, a tail block with the room of a whole one; peepholes follow it in the same way,
as ``[block][i f o][lane]``. W_hr is ``[block][k][lane]``; each
four blocks of outputs are interleaved as ``[k][block][lane]``, so that the tile of four gates serves there too. Lanes
beyond the last unit hold zeros.

Weights in bfloat16 are pairs in 32-bit words. Of four registers, the second shares the words of the first, and the
fourth those of the third: the even one is the lower half of each word. A tail block has two registers, and W_hr one
where fewer than four blocks are left, whose upper halves are zeros. Biases are float32.

Weights in int8 are four in a 32-bit word, of four features; `kernels/int8/products.py` says what stands behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numlstm.base import bfloat16, int8
from numlstm.base.config import Config
from numlstm.base.typing import Array
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import BFLOAT16, INT8, LINE, PEEPHOLE_GATES, lanes_of_last
from numlstm.kernels.plan_rules import CellLayout, Sizes, python_rules
from numlstm.runtime.object_layout import address

INDEXED = 1 << 18  # numbers of panels that are packed by an index; of more it would be a load on memory and caches


def aligned_empty(count: int, dtype: np.dtype[Any]) -> Array:
    """An uninitialised flat array that starts on a cache line."""
    return _aligned(np.empty(count * dtype.itemsize + LINE, np.uint8), count, dtype)


def aligned_zeros(count: int, dtype: np.dtype[Any]) -> Array:
    """The same of zeros, which the system supplies when a large array is first touched."""
    return _aligned(np.zeros(count * dtype.itemsize + LINE, np.uint8), count, dtype)


def aligned_record(slots: int, dtype: np.dtype[Any], **counts: int) -> tuple[Array, dict[str, Array]]:
    """Slots of int64 and, behind them in the same memory, buffers of so many numbers: zeros, each on a cache line."""
    sizes = [slots * 8, *(count * dtype.itemsize for count in counts.values())]
    starts = list(accumulate((-(-size // LINE) * LINE for size in sizes), initial=0))
    memory = aligned_zeros(starts[-1], np.dtype(np.uint8))
    parts = [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    return parts[0].view(np.int64), {name: part.view(dtype) for name, part in zip(counts, parts[1:], strict=True)}


def _aligned(room: Array, count: int, dtype: np.dtype[Any]) -> Array:
    start = -address(room) % LINE
    return room[start : start + count * dtype.itemsize].view(dtype)


def model_sizes(config: Config) -> Sizes:
    """The sizes that the rules of plans take."""
    directions, peepholes = config.num_directions, int(config.cell_options.peepholes)
    return Sizes(config.input_size, config.hidden_size, config.num_layers, directions, config.proj_size, peepholes)


class Index(NamedTuple):
    """How panels are made of `Panels.numbers`."""

    order: Array  # for each slot which number: 0, the zero, in lanes beyond the last unit, and b_ih in those of a bias
    bias_slots: Array  # where b_hh is added
    second: Array  # and which number that is
    biases: list[tuple[str, slice]]  # where each bias is


LARGEST = np.finfo(np.float32).max / 127  # scales below it give finite weights
MOST_FEATURES = 1 << 17  # whose products of integers, each at most 127 * 127, have a sum below 2**31
PAIRED = np.dtype("<u2")  # of the bits of weights in bfloat16


class Panels:
    """All weights of an LSTM, packed for one number type and register width. Immutable.

    Parameters
    ----------
    config : Config
    dtype : dtype
        float32 or float64.
    lanes : int
        Numbers in a register; by default those of this process's kernels.
    """

    __slots__ = ("_biases", "_index", "_layouts", "_paired", "config", "data", "dtype", "lanes", "rules")

    def __init__(self, config: Config, dtype: np.dtype[Any], data: Array | None = None, lanes: int = 0) -> None:
        self.config, self.dtype = config, np.dtype(dtype)
        self.lanes = lanes or registry.lanes(config.number(self.dtype))
        self._paired = config.weights == BFLOAT16
        if config.weights == INT8 and (most := max(config.input_size, 2 * config.hidden_size)) > MOST_FEATURES:
            raise ValueError(
                f"weights in int8 take at most {MOST_FEATURES} features, of which there may be {most} here"
            )
        self.rules = python_rules(self.lanes, self.dtype.itemsize, config.weights)
        sizes, size = model_sizes(config), 0
        self._layouts: list[CellLayout] = []
        for layer, _, _ in config.cells():
            self._layouts.append(self.rules.cell_layout(sizes, layer, size))
            size = self._layouts[-1].end
        if data is None:
            self.data = aligned_zeros(size, self.dtype)
        else:
            self.data = aligned_empty(size, self.dtype)
            self.data[:] = data
        self._biases: dict[str, Array] = {}
        self._index: Index | None = None

    @classmethod
    def pack(
        cls, config: Config, dtype: np.dtype[Any], parameters: Iterable[tuple[str, Array]], lanes: int = 0
    ) -> Panels:
        """Panels of all parameters of ``config.parameter_shapes()``, converted to ``dtype``."""
        panels = cls(config, dtype, lanes=lanes)
        panels._fill(parameters)
        return panels

    def replace(self, parameters: Mapping[str, Array]) -> Panels:
        """New panels with some parameters changed."""
        panels = Panels(self.config, self.dtype, self.data, self.lanes)
        panels._biases = dict(self._biases)
        panels._fill(parameters.items())
        return panels

    def numbers(self) -> Array:
        """A zero, and behind it all parameters, one after the other in the order of ``config.parameter_shapes()``."""
        return np.concatenate(
            [np.zeros(1, self.dtype), *(self.parameter(name).reshape(-1) for name in self.config.parameter_shapes())]
        )

    def with_numbers(self, numbers: Array) -> Panels:
        """New panels of other parameters, given as `numbers` gives them: the fast way to replace all of them."""
        if self.data.size > INDEXED:
            panels = self._of_these_sizes(aligned_zeros(self.data.size, self.dtype))
            panels._fill(places(numbers, self.config.parameter_shapes()).items())
            return panels
        if self._index is None:
            self._index = self._made_index()
        panels, index = self._of_these_sizes(aligned_empty(self.data.size, self.dtype)), self._index
        panels._index = index
        numbers.take(index.order, out=panels.data, mode="clip")
        panels.data[index.bias_slots] += numbers[index.second]
        panels._biases = {name: numbers[part].copy() for name, part in index.biases}
        return panels

    def _of_these_sizes(self, data: Array) -> Panels:
        """Panels over other data."""
        panels = object.__new__(Panels)
        for same in ("config", "lanes", "rules", "_layouts", "_paired"):
            setattr(panels, same, getattr(self, same))
        panels.data, panels.dtype, panels._biases, panels._index = data, data.dtype, {}, None
        return panels

    def _made_index(self) -> Index:
        """Made by packing the positions of `numbers` themselves."""
        shapes, found = self.config.parameter_shapes(), []
        counted = np.arange(1 + sum(map(prod, shapes.values())), dtype=np.intp)
        named = places(counted, shapes)
        for of_second in (False, True):
            panels = self._of_these_sizes(aligned_zeros(self.data.size, counted.dtype))
            panels._fill(
                (name, array if name.startswith("bias_hh") == of_second else np.zeros_like(array))
                for name, array in named.items()
            )
            found.append(panels.data)
        order, second = found
        slots = np.flatnonzero(second)
        biases = [(name, slice(int(at[0]), int(at[-1]) + 1)) for name, at in named.items() if name.startswith("bias")]
        return Index(order, slots, second[slots], biases)

    def parameter(self, name: str) -> Array:
        """One parameter, unpacked bit for bit into a new read-only array."""
        if name in self._biases:
            value = self._biases[name].copy()
        else:
            layer, _, own = self.config.place(name)
            value = np.empty(self.config.cell_shapes(layer)[own], self.dtype)
            of_gates = self._by_gates(name, value)
            for inner, outer in self._pieces(name):
                of_gates[outer] = self._unpacked(inner, of_gates[outer].shape)
        value.flags.writeable = False
        return value

    def layout(self, cell: int) -> CellLayout:
        """Where the parts of the cell lie in ``data``."""
        return self._layouts[cell]

    def _fill(self, parameters: Iterable[tuple[str, Array]]) -> None:
        filled = set()
        for name, value in parameters:
            filled.add(name)
            if name.startswith("bias"):
                self._biases[name] = np.array(value, self.dtype)
            else:
                of_gates = self._by_gates(name, value)
                for inner, outer in self._pieces(name):
                    if self.config.weights:
                        self._pack_into(inner, of_gates[outer], name)
                    else:
                        inner[...] = of_gates[outer]
                del of_gates
            del value  # before the next is read
        if self.config.bias:
            for cell, (_, _, suffix) in enumerate(self.config.cells()):
                if f"bias_ih{suffix}" in filled or f"bias_hh{suffix}" in filled:
                    self._fill_bias(cell, self._biases[f"bias_ih{suffix}"] + self._biases[f"bias_hh{suffix}"])

    def _pack_into(self, inner: Array, value: Array, name: str) -> None:
        """Write numbers into a view of the panel."""
        if inner.dtype == PAIRED:
            inner[...] = bfloat16.rounded(value)
        elif inner.ndim == 1 or self.config.weights != INT8:
            inner[...] = value
        else:
            pack_integers(inner.T, np.asarray(value, self.dtype), name)

    def _unpacked(self, inner: Array, shape: tuple[int, ...]) -> Array:
        """The numbers, of this shape, in a view of the panel."""
        if inner.dtype == PAIRED:
            return bfloat16.widened(inner)
        if inner.ndim == 1 or self.config.weights != INT8:
            return inner
        words = np.ascontiguousarray(inner.view(np.int32)[:, :-2])
        return int8.widened(words.view(np.int8)[:, : shape[1]], inner[:, -2])

    def _fill_bias(self, cell: int, bias: Array) -> None:
        start, width = self._layouts[cell].bias, 4 * self.lanes
        for gate, of_gate in enumerate(bias.reshape(4, -1)):
            for block, part, lanes in _gate_blocks(self.config.hidden_size, self.lanes):
                at = start + block * width + gate * lanes
                self.data[at : at + part.stop - part.start] = of_gate[part]

    def _by_gates(self, name: str, value: Array) -> Array:
        """A weight matrix, ``[gate][row]``. W_hr has one for all."""
        _, _, kind = self.config.place(name)
        gates = {"weight_hr": 1, "weight_ch": PEEPHOLE_GATES}.get(kind, 4)
        return value.reshape(gates, -1, *value.shape[1:])

    def _pieces(self, name: str) -> Iterator[tuple[Array, tuple[int | slice, slice]]]:
        """A weight matrix block by block: (view of the panel with rows first, its gate or all four, and rows).

        Of weights in bfloat16, the view has their bits as uint16; of int8, it has the words of four and what is behind.
        """
        config, lanes = self.config, self.lanes
        layer, direction, kind = config.place(name)
        cell = layer * config.num_directions + direction
        terms_of, outputs, units = self.rules.terms_of, config.output_size, config.hidden_size
        halves = 1 + self._paired
        input_terms, output_terms = terms_of(config.layer_input_size(layer)), terms_of(outputs)
        if kind == "weight_ch":
            for block, part in _blocks(units, lanes):
                for gate in range(PEEPHOLE_GATES):
                    at = self._layouts[cell].peepholes + (block * PEEPHOLE_GATES + gate) * lanes
                    yield self.data[at : at + part.stop - part.start], (gate, part)
            return
        if kind == "weight_hr":
            blocks = -(-outputs // lanes)
            at = self._layouts[cell].hr_panel
            for block, part in _blocks(outputs, lanes):
                group = block // 4 * 4
                columns, column = (4, block - group) if group + 4 <= blocks else (1, 0)
                panel = self._registers(at, terms_of(units), columns)
                yield panel[:, column // halves, column % halves, : part.stop - part.start].T, (0, part)
                if columns == 1 or column == 3:
                    at += terms_of(units) * self._in_memory(columns) * lanes
            return
        terms = input_terms + output_terms
        first, last = (0, input_terms) if kind == "weight_ih" else (input_terms, terms)
        for block, part, own in _gate_blocks(units, lanes):
            at = self._layouts[cell].panel + block * terms * self._in_memory(4) * lanes
            panel, size = self._registers(at, terms, 4 * own // lanes)[first:last], part.stop - part.start
            if own == lanes and not config.weights:  # one copy for all gates
                yield panel[:, :, 0, :size].transpose(1, 2, 0), (slice(None), part)
                continue
            for gate in range(4):
                column, lane = divmod(gate * own, lanes)
                yield panel[:, column // halves, column % halves, lane : lane + size].T, (gate, part)

    def _in_memory(self, columns: int) -> int:
        """Registers of memory that hold ``columns`` registers of weights."""
        return -(-columns // 2) if self._paired else columns

    def _registers(self, at: int, terms: int, columns: int) -> Array:
        """The panel at ``at``: ``[term][register of memory][half][lane]``, with two halves in bfloat16 and else one."""
        numbers = self.data[at : at + terms * self._in_memory(columns) * self.lanes]
        if not self._paired:
            return numbers.reshape(terms, columns, 1, self.lanes)
        return numbers.view(PAIRED).reshape(terms, -1, self.lanes, 2).swapaxes(2, 3)


def pack_integers(terms: Array, weights: Array, name: str) -> None:
    """Write rows of weights into the terms ``[k][row]`` of a panel: words of four, scales, and -128 times their sums.

    Raises
    ------
    ValueError
        A weight is not finite.
    """
    with np.errstate(invalid="ignore"):
        integers, scales = int8.rounded(weights)
    if not (scales < LARGEST).all():
        raise ValueError(
            f"{name} has numbers that are not finite or too large, and weights in int8 must be below 3.4e38\n"
            "Look for what made them NaN or infinite, or keep the weights in float32."
        )
    words = np.zeros((len(integers), 4 * (len(terms) - 2)), np.int8)
    words[:, : integers.shape[1]] = integers
    as_words = terms.view(np.int32)
    as_words[:-2] = words.view(np.int32).T
    terms[-2] = scales
    as_words[-1] = -128 * integers.sum(axis=1, dtype=np.int32)


def places(numbers: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Views of the parameters that stand one after the other behind a first number, by name."""
    views, at = {}, 1
    for name, shape in shapes.items():
        end = at + prod(shape)
        views[name], at = numbers[at:end].reshape(shape), end
    return views


def _gate_blocks(units: int, lanes: int) -> Iterator[tuple[int, slice, int]]:
    """(number, units, lanes) of every block of a panel."""
    for block, part in _blocks(units, lanes):
        yield block, part, lanes_of_last(units, lanes) if part.stop == units else lanes


def _blocks(size: int, lanes: int) -> Iterator[tuple[int, slice]]:
    """(number, units) of every block of ``lanes`` of ``size``."""
    for block, start in enumerate(range(0, size, lanes)):
        yield block, slice(start, min(start + lanes, size))
