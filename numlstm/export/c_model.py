"""The library's functions of a model: load, sizes, and the texts of error codes.

A model is read only. It holds sizes and weights and no plan, so that no file, damaged or forged, can make the kernel
touch what is not its own.
"""

import zlib

from llvmlite import ir
from numba import types

from numlstm.export.c_heads import heads_check, layout_of_heads, sizes_of
from numlstm.export.c_memory import address, constant, give, within
from numlstm.export.cpu_check import cpu_check
from numlstm.export.model_layout import (
    HEADER_BYTES,
    LEVELS,
    MAGIC,
    MOST_FEATURES,
    MOST_HEADS,
    MOST_LAYERS,
    TEXTS,
    Code,
    Model,
    cell_number,
    version,
)
from numlstm.kernels.compiler import named
from numlstm.kernels.instructions import INT64, PLAN, instruction, load_slot

BYTE, INT32 = ir.IntType(8), ir.IntType(32)


def crc_tables() -> list[int]:
    """Eight tables of 256: the CRC-32 of zlib for a byte that so many bytes of zero follow."""
    first = [zlib.crc32(bytes([n])) ^ zlib.crc32(b"\0") for n in range(256)]
    tables = [first]
    for _ in range(7):
        tables.append([(before >> 8) ^ first[before & 255] for before in tables[-1]])
    return [number for table in tables for number in table]


@instruction(types.int64, types.int64)
def remainder(builder, index):
    """A number of `crc_tables`."""
    table = constant(builder.module, "crc_tables", ir.Constant(ir.ArrayType(INT32, 2048), crc_tables()))
    return builder.zext(builder.load(builder.gep(table, [INT64(0), index])), INT64)


@instruction(PLAN, types.int64)
def text(builder, code):
    longest = max(map(len, TEXTS.values())) + 1
    kind = ir.ArrayType(BYTE, longest)
    said = [*(TEXTS[code] for code in Code), "an unknown error"]
    texts = [ir.Constant(kind, bytearray(line.encode().ljust(longest, b"\0"))) for line in said]
    table = constant(builder.module, "texts", ir.Constant(ir.ArrayType(kind, len(texts)), texts))
    known = builder.icmp_unsigned("<", code, INT64(len(Code)))
    place = builder.select(known, code, INT64(len(Code)))
    return builder.bitcast(builder.gep(table, [INT64(0), place]), INT64.as_pointer())


@named("checksum")
def checksum(words, first, end):
    """CRC-32 of whole words, eight bytes at a time (slicing by 8)."""
    crc = 0xFFFFFFFF
    for k in range(first, end):
        x = load_slot(words, k) ^ crc
        crc = 0
        for n in range(8):
            crc ^= remainder((7 - n) * 256 + (x >> 8 * n & 255))
    return crc ^ 0xFFFFFFFF


def loader(options, level, prefix, rules):
    """``load(model, length, result)`` for a cell and a kind of CPU."""
    cell, version_number = cell_number(options), version(options)
    weight_bytes, level_number = rules.weight_bytes, LEVELS[level.name]
    outputs_of = rules.outputs_of
    cpu_fits, heads_at, heads_fit = cpu_check(prefix, level), layout_of_heads(rules).heads_at, heads_check(rules)

    @named("sizes_fit")
    def sizes_fit(model):
        """Whether the sizes are within their limits, and the model is as long as they say."""
        sizes = sizes_of(model)
        if not (
            within(sizes.inputs, 1, MOST_FEATURES)
            and within(sizes.units, 1, MOST_FEATURES)
            and within(sizes.layers, 1, MOST_LAYERS)
            and within(sizes.directions, 1, 2)
            and within(sizes.projected, 0, MOST_FEATURES)
            and within(load_slot(model, Model.HEADS), 0, MOST_HEADS)
        ):
            return False
        return heads_fit(model, heads_at(model), sizes.directions * outputs_of(sizes))

    def load(model, length, result):
        if address(model) == 0 or address(result) == 0:
            return Code.NULL
        if address(model) & 7 != 0:
            return Code.MISALIGNED
        if length < 8:
            return Code.TRUNCATED
        if load_slot(model, Model.MAGIC) != MAGIC:
            return Code.NOT_A_MODEL
        if length < HEADER_BYTES:
            return Code.TRUNCATED
        if load_slot(model, Model.CELL) != cell:
            return Code.CELL
        if load_slot(model, Model.VERSION) != version_number:
            return Code.VERSION
        if load_slot(model, Model.BYTES) != length or length & 7 != 0:
            return Code.TRUNCATED
        if load_slot(model, Model.CHECKSUM) != checksum(model, Model.CHECKSUM + 1, length >> 3):
            return Code.DAMAGED
        if load_slot(model, Model.NUMBER) != weight_bytes:
            return Code.NUMBER
        if load_slot(model, Model.LEVEL) != level_number:
            return Code.LEVEL
        if not cpu_fits():
            return Code.CPU
        if not sizes_fit(model):
            return Code.SIZES
        give(result, model)
        return Code.OK

    return load


def getter(slot):
    """A function that gives a word of the header."""

    def get(model):
        return load_slot(model, slot)

    return get


def model_functions(options, level, prefix, rules):
    """(function, signature) by name."""

    def error_text(code):
        return text(code)

    word = types.int64
    names = ("input_size", "hidden_size", "num_layers", "num_directions", "proj_size", "output_size")
    return {
        "load": (loader(options, level, prefix, rules), types.int32(PLAN, word, PLAN)),
        **{name: (getter(int(getattr(Model, name.upper()))), word(PLAN)) for name in names},
        "error_text": (error_text, PLAN(types.int32)),
    }
