"""Write a model file: the sizes and weights of an LSTM in one piece of memory, for an exported library."""

from __future__ import annotations

import struct
import zlib

from numlstm.export.model_layout import (
    HEADER_BYTES,
    LEVELS,
    MAGIC,
    MOST_FEATURES,
    MOST_LAYERS,
    Model,
    cell_number,
    version,
)
from numlstm.kernels.loading.levels import Level
from numlstm.kernels.plan_layout import LINE
from numlstm.runtime.packed_weights import Panels


def model_bytes(panels: Panels, level: Level) -> bytes:
    """The content of a model file for the libraries of a level.

    Parameters
    ----------
    panels : Panels
        Of any register width.
    level : Level

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
    ):
        if value > most:
            raise ValueError(f"{name} is {value}; an exported model has at most {most}")
    if panels.lanes != lanes:
        named = ((name, panels.parameter(name)) for name in config.parameter_shapes())
        panels = Panels.pack(config, panels.dtype, named, lanes)
    weights = panels.data.astype(panels.dtype.newbyteorder("<"), copy=False).tobytes()
    weights += bytes(-len(weights) % LINE)
    words = [0] * (HEADER_BYTES // 8)
    for slot, value in (
        (Model.MAGIC, MAGIC),
        (Model.VERSION, version(config.cell_options)),
        (Model.BYTES, HEADER_BYTES + len(weights)),
        (Model.NUMBER, panels.dtype.itemsize),
        (Model.LEVEL, LEVELS[level.name]),
        (Model.INPUT_SIZE, config.input_size),
        (Model.HIDDEN_SIZE, config.hidden_size),
        (Model.NUM_LAYERS, config.num_layers),
        (Model.NUM_DIRECTIONS, config.num_directions),
        (Model.PROJ_SIZE, config.proj_size),
        (Model.CELL, cell_number(config.cell_options)),
    ):
        words[slot] = value
    after = struct.pack(f"<{len(words)}q", *words)[8 * (Model.CHECKSUM + 1) :]
    words[Model.CHECKSUM] = zlib.crc32(weights, zlib.crc32(after))
    return struct.pack(f"<{len(words)}q", *words) + weights
