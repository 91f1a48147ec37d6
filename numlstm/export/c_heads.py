"""The heads of a model: where they lie in it, whether they are sound, and their records in a state."""

from typing import Any, NamedTuple

from numlstm.export.c_memory import address, rounded, within
from numlstm.export.model_layout import HEAD_BYTES, HEADER_BYTES, MOST_FEATURES, HeadWords, Model
from numlstm.kernels.compiler import inline, named
from numlstm.kernels.instructions import greater, load_slot, record_at, slots_at, store_slot
from numlstm.kernels.plan_layout import LINE, Activation, Head
from numlstm.kernels.plan_rules import Sizes

RECORD = -(-8 * int(Head.LENGTH) // LINE) * LINE  # bytes of the record of a head in a state


class HeadLayout(NamedTuple):
    """Functions for kernels."""

    heads_at: Any  # (model): the byte of the model where heads begin
    bias_at: Any  # (outputs, inputs): the number in the panels of a Linear layer where its bias begins
    head_bytes: Any  # (outputs, inputs, linear): those of a head


@inline
def sizes_of(model):
    """The sizes that a model's header names."""
    return Sizes(
        load_slot(model, Model.INPUT_SIZE),
        load_slot(model, Model.HIDDEN_SIZE),
        load_slot(model, Model.NUM_LAYERS),
        load_slot(model, Model.NUM_DIRECTIONS),
        load_slot(model, Model.PROJ_SIZE),
        load_slot(model, Model.CELL) & 1,
    )


def layout_of_heads(rules):
    """Where heads and their parts lie, for one number type and kind of CPU."""
    size, lanes, cell_layout = rules.itemsize, rules.lanes, rules.cell_layout

    @inline
    def heads_at(model):
        sizes, count = sizes_of(model), 0
        for n in range(sizes.layers * sizes.directions):
            count = cell_layout(sizes, n // sizes.directions, count).end
        return HEADER_BYTES + rounded(count * size)

    @inline
    def bias_at(outputs, inputs):
        return (outputs + lanes - 1) // lanes * lanes * inputs

    @inline
    def head_bytes(outputs, inputs, linear):
        numbers = linear * (bias_at(outputs, inputs) + bias_at(outputs, 1))
        return HEAD_BYTES + rounded(numbers * size) + LINE

    return HeadLayout(heads_at, bias_at, head_bytes)


def heads_check(rules):
    """``(model, at, features) -> whether the heads from the byte ``at`` on are sound``."""
    _, _, head_bytes = layout_of_heads(rules)

    @named("heads_fit")
    def heads_fit(model, at, features):
        """Whether the heads from the byte ``at`` on are within their limits, and the model ends behind the last one."""
        inputs, length = load_slot(model, Model.INPUT_SIZE), load_slot(model, Model.BYTES)
        for _ in range(load_slot(model, Model.HEADS)):
            if at + HEAD_BYTES > length:
                return False
            head = record_at(model, at >> 3)
            outputs, linear = load_slot(head, HeadWords.OUTPUTS), load_slot(head, HeadWords.LINEAR)
            if not (
                within(outputs, 1, MOST_FEATURES * 2)
                and within(load_slot(head, HeadWords.ACTIVATION), 0, Activation.SOFTMAX)
                and within(linear, 0, 1)
                and within(load_slot(head, HeadWords.SKIP), 0, 1)
            ):
                return False
            if linear == 0 and outputs != features:
                return False
            if load_slot(head, HeadWords.SKIP) == 1 and outputs > inputs:
                return False
            at += head_bytes(outputs, features, linear)
            features = outputs
        return at == length and load_slot(model, Model.OUTPUT_SIZE) == features

    return heads_fit


def widest_head(rules):
    """``(model) -> the most features that a head reads``, or those of h."""
    (heads_at, _, head_bytes), outputs_of = layout_of_heads(rules), rules.outputs_of

    @named("widest")
    def widest(model):
        """The most features that a head reads."""
        sizes = sizes_of(model)
        at, width = heads_at(model), sizes.directions * outputs_of(sizes)
        features = width
        for _ in range(load_slot(model, Model.HEADS)):
            head = record_at(model, at >> 3)
            width = greater(width, features)
            outputs = load_slot(head, HeadWords.OUTPUTS)
            at += head_bytes(outputs, features, load_slot(head, HeadWords.LINEAR))
            features = outputs
        return width

    return widest


def heads_writer(rules):
    """``(model, records, room, bytes)``: the records of all heads."""
    (heads_at, bias_at, head_bytes), outputs_of = layout_of_heads(rules), rules.outputs_of

    @named("write_heads")
    def write_heads(model, records, room, bytes):
        """The records of all heads, which read and write two buffers of so many bytes in turns."""
        sizes = sizes_of(model)
        at, features, count = heads_at(model), sizes.directions * outputs_of(sizes), load_slot(model, Model.HEADS)
        for n in range(count):
            head, record = record_at(model, at >> 3), slots_at(records + n * RECORD)
            outputs, linear = load_slot(head, HeadWords.OUTPUTS), load_slot(head, HeadWords.LINEAR)
            end = at + head_bytes(outputs, features, linear)
            store_slot(record, Head.INPUTS, features)
            store_slot(record, Head.OUTPUTS, outputs)
            store_slot(record, Head.PANELS, linear * (address(head) + HEAD_BYTES))
            store_slot(record, Head.BIAS, bias_at(outputs, features))
            store_slot(record, Head.ACTIVATION, load_slot(head, HeadWords.ACTIVATION))
            store_slot(record, Head.SKIP, load_slot(head, HeadWords.SKIP) * (address(model) + end - LINE))
            store_slot(record, Head.GIVEN_ROW, sizes.inputs)
            store_slot(record, Head.NEXT, 0)
            if n + 1 < count:
                store_slot(record, Head.NEXT, records + (n + 1) * RECORD)
            store_slot(record, Head.ROOM, room + (n + 1 & 1) * bytes)
            at, features = end, outputs

    return write_heads
