"""Between a padded batch and packed rows, and between sequences and rows in their order: copies, a thread a number.

``table`` is that of ``rows.Rows``.
"""

from ..device import cuda


def padding_kernel(lane, unpacks):
    """The kernel that packs, or with ``unpacks`` the one that pads with zeros; a thread has a padded number.

    At ``back_at`` in the table stands the row of each sequence.
    """
    zero = lane.zero

    def padding(count, batch, features, table, back_at, packed, padded, padded_at, step_stride, row_stride,
                feature_stride):  # fmt: skip
        place = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if place < count:
            feature, sequence = place % features, place // features % batch
            step, row = place // (features * batch), table[back_at + sequence]
            at = padded_at + step * step_stride + sequence * row_stride + feature * feature_stride
            if step < table[row]:
                packed_at = (table[batch + step] + row) * features + feature
                if unpacks:
                    padded[at] = packed[packed_at]
                else:
                    packed[packed_at] = padded[at]
            elif unpacks:
                padded[at] = zero

    return padding


def arrange_kernel():
    """The kernel that copies (cells, rows, features): row r comes from row ``table[index_at + r]`` of the source."""

    def arrange(count, rows, features, table, index_at, source, target):
        place = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if place < count:
            row = place // features % rows
            target[place] = source[place + (table[index_at + row] - row) * features]

    return arrange
