"""Write a model file: the sizes and weights of an LSTM in one piece of memory, for an exported library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from numlstm.base.typing import Array
from numlstm.export.model_layout import (
    HEAD_BYTES,
    HEADER_BYTES,
    LEVELS,
    MAGIC,
    MOST_FEATURES,
    MOST_HEADS,
    MOST_LAYERS,
    HeadWords,
    Model,
    cell_number,
    version,
)
from numlstm.kernels.loading.levels import Level
from numlstm.kernels.plan_layout import LINE
from numlstm.runtime.head import Head
from numlstm.runtime.packed_weights import Panels


def model_bytes(panels: Panels, level: Level, heads: Sequence[Head] = ()) -> bytes:
    """The content of a model file for the libraries of a level.

    Parameters
    ----------
    panels : Panels
        Of any register width.
    level : Level
    heads : sequence of Head
        What follows the LSTM, in order; packed for the level.

    Returns
    -------
    bytes
        As ``export/model_layout.py`` describes it.

    Raises
    ------
    ValueError
        A size is too large.
    """
    config, lanes = panels.config, level.lanes(panels.dtype.name)
    for name, value, most in (
        ("input_size", config.input_size, MOST_FEATURES),
        ("hidden_size", config.hidden_size, MOST_FEATURES),
        ("num_layers", config.num_layers, MOST_LAYERS),
        ("the number of heads", len(heads), MOST_HEADS),
        ("out_features", max((head.outputs for head in heads), default=0), MOST_FEATURES),
    ):
        if value > most:
            raise ValueError(f"{name} is {value}; an exported model has at most {most}")
    if panels.lanes != lanes:
        named = ((name, panels.parameter(name)) for name in config.parameter_shapes())
        panels = Panels.pack(config, panels.dtype, named, lanes)
    weights, features = _of_lines(panels.data), config.num_directions * config.output_size
    for head in heads:
        features = head.outputs or features
        weights += _head_bytes(head, features)
    words = [0] * (HEADER_BYTES // 8)
    for slot, value in (
        (Model.MAGIC, MAGIC),
        (Model.VERSION, version(config.cell_options)),
        (Model.BYTES, HEADER_BYTES + len(weights)),
        (Model.NUMBER, panels.rules.weight_bytes),
        (Model.LEVEL, LEVELS[level.name]),
        (Model.INPUT_SIZE, config.input_size),
        (Model.HIDDEN_SIZE, config.hidden_size),
        (Model.NUM_LAYERS, config.num_layers),
        (Model.NUM_DIRECTIONS, config.num_directions),
        (Model.PROJ_SIZE, config.proj_size),
        (Model.CELL, cell_number(config.cell_options)),
        (Model.HEADS, len(heads)),
        (Model.OUTPUT_SIZE, features),
    ):
        words[slot] = value
    after = struct.pack(f"<{len(words)}q", *words)[8 * (Model.CHECKSUM + 1) :]
    words[Model.CHECKSUM] = zlib.crc32(weights, zlib.crc32(after))
    return struct.pack(f"<{len(words)}q", *words) + weights


def _of_lines(array: Array) -> bytes:
    """Numbers, little-endian, and zeros up to the next cache line."""
    numbers = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return numbers + bytes(-len(numbers) % LINE)


def _head_bytes(head: Head, outputs: int) -> bytes:
    """A head of so many outputs: its words, its panels, and the factor of the input."""
    words = [0] * (HEAD_BYTES // 8)
    words[HeadWords.OUTPUTS], words[HeadWords.ACTIVATION] = outputs, int(head.activation)
    words[HeadWords.LINEAR], words[HeadWords.SKIP] = int(head.inputs > 0), int(head.skip != 0)
    return struct.pack(f"<{len(words)}q", *words) + _of_lines(head.panels) + _of_lines(head.scale)
