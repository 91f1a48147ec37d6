"""Sequences of several lengths in one batch: packed without padding, padded to one length, and back.

It is ``torch.nn.utils.rnn`` in NumPy. In a packed sequence the rows are sorted by decreasing length, so the rows that
take a step are always the first ones. Steps follow each other without a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.validation.arguments import device_and_dtype, device_name
from numlstm.base.validation.arrays import as_dtype, on_device, to_host
from numlstm.base.validation.packed import (
    Indices,
    Parts,
    check_broadcast,
    check_flag,
    check_range,
    check_sorted,
    checked_count,
    checked_padding,
    checked_parts,
    number_array,
    one_length_each,
    whole_numbers,
)
from numlstm.base.wording import counted
from numlstm.sequences.packed_layout import gathered, inverse, lengths_of, places, sizes_of, starts_of


def _converted_to(dtype: type) -> Callable[[PackedSequence], PackedSequence]:
    def convert(self: PackedSequence) -> PackedSequence:
        return self.to(dtype=dtype)

    convert.__doc__ = f"Return it in {dtype.__name__}."
    return convert


class PackedSequence(Parts):
    """Sequences of several lengths, packed; a named tuple as in PyTorch.

    `pack_padded_sequence` and `pack_sequence` make them, and `LSTM.forward` takes and returns them. They can be made by
    hand too, also as ``PackedSequence((data, batch_sizes))``. Whether the parts fit together is checked on use.

    Parameters
    ----------
    data : array_like, (sum of lengths, ...)
        Step after step, the rows that take it, the longest sequence first. An array on a CUDA device stays there, for
        an LSTM on it; the other parts are on the CPU.
    batch_sizes : array_like of int, (steps,)
        How many rows take each step.
    sorted_indices : array_like of int, (batch,), optional
        The sequence of each row; None if they were sorted.
    unsorted_indices : array_like of int, (batch,), optional
        The row of each sequence: the inverse of `sorted_indices`, and made from it if left out.

    Raises
    ------
    TypeError
        An array does not hold numbers, or indices or sizes are not whole.
    AssertionError
        Without `batch_sizes`, `data` is not a pair.

    Examples
    --------
    >>> packed = pack_sequence([[1, 2, 3], [4, 5], [6]])
    >>> packed.data.tolist(), packed.batch_sizes.tolist()
    ([1, 4, 6, 2, 5, 3], [3, 2, 1])
    """

    def __new__(
        cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> Self:
        if batch_sizes is None:
            if not isinstance(data, list | tuple) or len(data) != 2:
                raise AssertionError(
                    "Expected data to be a list or tuple of length 2\n"
                    "Give PackedSequence(data, batch_sizes), or PackedSequence((data, batch_sizes))."
                )
            data, batch_sizes = data
        rows, back = (
            None if given is None else whole_numbers(name, to_host(name, given))
            for name, given in (("sorted_indices", sorted_indices), ("unsorted_indices", unsorted_indices))
        )
        if back is None:
            back = inverse(rows)
        if not on_device(data):
            data = number_array("data", data)
        return super().__new__(cls, data, whole_numbers("batch_sizes", batch_sizes), rows, back)

    def to(self, device: object = None, dtype: Any = None) -> Self:
        """Return it with `data` of another dtype or on the CPU, or itself if nothing changes.

        Parameters
        ----------
        device : None, "cpu" or "cuda"
            The CPU, to which data on a device are copied; or the first CUDA device, for data that are there already.
            The first argument may be a dtype instead, or an array with the wanted dtype.
        dtype : dtype, optional
            NumPy's or PyTorch's.

        Raises
        ------
        NotImplementedError
            The device is another one; or data on the CPU would have to move to CUDA, or data on a device to be
            converted.
        """
        device, dtype = device_and_dtype(device, dtype)
        where = None if device is None else device_name(device)
        if self.is_cuda and where != "cpu":
            if dtype is not None:
                raise NotImplementedError(
                    "data on a CUDA device are not converted to another dtype\nConvert data, or call cpu() first."
                )
            return self
        if where == "cuda":
            raise NotImplementedError(
                "data of a packed sequence are not moved to CUDA\n"
                "An LSTM on CUDA takes the sequence as it is; or put data there, and packed._replace(data=...)."
            )
        packed = self.cpu()
        if dtype is None:
            return packed
        wanted = np.dtype(str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype)
        return packed if wanted == packed.data.dtype else packed._replace(data=as_dtype(packed.data, wanted))

    def cpu(self) -> Self:
        """Return it with `data` on the CPU: itself, if they are there."""
        return self._replace(data=number_array("data", to_host("data", self.data))) if self.is_cuda else self

    def cuda(self, device: object = None) -> Self:
        """Return it if `data` are on the first CUDA device; otherwise raise NotImplementedError, as `to` does."""
        return self.to("cuda" if device is None else device)

    double, float, half = _converted_to(np.float64), _converted_to(np.float32), _converted_to(np.float16)
    long, int, short = _converted_to(np.int64), _converted_to(np.int32), _converted_to(np.int16)
    char, byte = _converted_to(np.int8), _converted_to(np.uint8)

    @property
    def is_cuda(self) -> bool:
        """Whether `data` are on a CUDA device."""
        return on_device(self.data)


def pack_padded_sequence(
    input: np.typing.ArrayLike, lengths: object, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch.

    Parameters
    ----------
    input : array_like
        (steps, batch, ...), or (batch, steps, ...) with `batch_first`. Any number of further axes; the dtype stays.
    lengths : array_like of int, (batch,)
        Steps of each sequence, from 1 to the steps of `input`; the rest is padding.
    batch_first : bool
        Whether the batch comes before the steps.
    enforce_sorted : bool
        Whether `lengths` must be decreasing. If not, the sequences are sorted, equal lengths in their order, and the
        packed sequence remembers how.

    Returns
    -------
    PackedSequence

    Raises
    ------
    RuntimeError
        The input is empty, or a length is missing, below 1, too large, or with `enforce_sorted` larger than the one
        before.
    IndexError
        The input has fewer than two axes.
    TypeError
        An argument is of the wrong type, or a length is not a whole number.

    Examples
    --------
    >>> padded = [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    >>> packed = pack_padded_sequence(padded, [2, 1, 3], batch_first=True, enforce_sorted=False)
    >>> packed.data.tolist(), packed.batch_sizes.tolist(), packed.sorted_indices.tolist()
    ([4, 1, 3, 5, 2, 6], [3, 2, 1], [2, 0, 1])
    """
    check_flag("_pack_padded_sequence(): argument 'batch_first' (position 3)", batch_first)
    array = number_array("input", input)
    if array.size == 0:
        raise RuntimeError(f"Cannot pack empty tensors.\ninput has shape {array.shape}.")
    if array.ndim < 2:
        said = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
        if array.ndim == 0 and not batch_first:
            said = "Dimension specified as 1 but tensor has no dimensions"
        raise IndexError(f"{said}\ninput must have an axis of steps and one of the batch; its shape is {array.shape}.")
    steps, batch = array.shape[1::-1] if batch_first else array.shape[:2]
    counts = one_length_each(lengths, batch)
    if enforce_sorted:
        check_sorted(counts)
    check_range(counts, 1, steps)
    order = None
    if not enforce_sorted:
        order = np.argsort(-counts, kind="stable")
        counts = counts[order]
    sizes = sizes_of(counts)
    return PackedSequence(gathered(array, places(sizes, order, steps, batch, batch_first)), sizes, order)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: complex = 0.0, total_length: int | None = None
) -> tuple[Array, Indices]:
    """Pad a packed batch: the inverse of `pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
        Or PyTorch's own.
    batch_first : bool
        Whether the batch comes before the steps in the result.
    padding_value : number
        Fills the steps after the end of a sequence.
    total_length : int, optional
        Steps of the result; those of the longest sequence if left out.

    Returns
    -------
    padded : ndarray
        (steps, batch, ...), or (batch, steps, ...), in the order of the sequences before they were packed.
    lengths : ndarray of int64, (batch,)
        Steps of each.

    Raises
    ------
    ValueError
        `total_length` is less than the steps of the longest sequence.
    AttributeError, RuntimeError, TypeError
        `sequence` is not packed, its parts do not fit together, or another argument is of the wrong type.

    Examples
    --------
    >>> packed = pack_sequence([[1, 2, 3], [4]])
    >>> padded, lengths = pad_packed_sequence(packed, batch_first=True, padding_value=-1, total_length=4)
    >>> padded.tolist(), lengths.tolist()
    ([[1, 2, 3, -1], [4, -1, -1, -1]], [3, 1])
    """
    data, sizes, order, back = checked_parts(sequence)
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, "
                f"but got total_length={total_length} and max sequence length being {steps}\n"
                "Leave total_length out for exactly that many steps."
            )
        steps = checked_count("_pad_packed_sequence(): argument 'total_length' (position 5)", total_length)
    check_flag("_pad_packed_sequence(): argument 'batch_first' (position 3)", batch_first)
    what = "_pad_packed_sequence(): argument 'padding_value' (position 4) must be Number"
    value = checked_padding(what, padding_value, data)
    padded = np.full((steps * batch, *data.shape[1:]), value, data.dtype)
    padded[places(sizes, order, steps, batch, batch_first)] = data
    shape = (batch, steps) if batch_first else (steps, batch)
    lengths = lengths_of(sizes)
    return padded.reshape(*shape, *data.shape[1:]), lengths if back is None else lengths[back]


def pack_sequence(sequences: Iterable[np.typing.ArrayLike], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences of several lengths.

    Parameters
    ----------
    sequences : iterable of array_like, each (steps, ...)
        Further axes are the same for all; the dtype is that of the first.
    enforce_sorted : bool
        As in `pack_padded_sequence`.

    Returns
    -------
    PackedSequence

    Raises
    ------
    RuntimeError, IndexError, TypeError
        As in `pad_sequence` and `pack_padded_sequence`.

    Examples
    --------
    >>> pack_sequence([[6], [1, 2, 3], [4, 5]], enforce_sorted=False).sorted_indices.tolist()
    [1, 2, 0]
    """
    arrays = [number_array(f"sequence {n}", given) for n, given in enumerate(sequences)]
    for n, array in enumerate(arrays):
        if array.ndim == 0:
            raise IndexError(
                f"Dimension specified as 0 but tensor has no dimensions\nsequence {n} has no axis of steps."
            )
    padded = pad_sequence(arrays)
    return pack_padded_sequence(padded, [len(array) for array in arrays], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Array]:
    """Unpack into one array a sequence: the inverse of `pack_sequence`.

    Parameters
    ----------
    packed_sequences : PackedSequence

    Returns
    -------
    list of ndarray, each (steps, ...)
        In the order before they were packed.

    Raises
    ------
    AttributeError, RuntimeError
        It is not a packed sequence, or its parts do not fit together.

    Examples
    --------
    >>> [array.tolist() for array in unpack_sequence(pack_sequence([[1, 2, 3], [4, 5], [6]]))]
    [[1, 2, 3], [4, 5], [6]]
    """
    data, sizes, _, back = checked_parts(packed_sequences)
    starts, lengths = starts_of(sizes), lengths_of(sizes)
    rows = range(len(lengths)) if back is None else back.tolist()
    return [data[starts[: lengths[row]] + row] for row in rows]


def pad_sequence(
    sequences: Iterable[np.typing.ArrayLike],
    batch_first: bool = False,
    padding_value: complex = 0.0,
    padding_side: str = "right",
) -> Array:
    """Stack sequences of several lengths, padded to the longest.

    Parameters
    ----------
    sequences : iterable of array_like, each (steps, ...)
        Further axes are the same for all, or broadcast to those of the first, whose dtype the result has.
    batch_first : bool
        Whether the batch comes before the steps in the result.
    padding_value : number
        Fills the sequences up.
    padding_side : "right" or "left"
        Where they are filled up.

    Returns
    -------
    ndarray
        (steps, batch, ...), or (batch, steps, ...).

    Raises
    ------
    RuntimeError
        There is no sequence, or their further axes do not fit.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> pad_sequence([[1, 2, 3], [4]], batch_first=True, padding_value=9, padding_side="left").tolist()
    [[1, 2, 3], [9, 9, 4]]
    """
    arrays = _sequences(sequences, batch_first, padding_side)
    first, steps = arrays[0], max(len(array) for array in arrays)
    what = "pad_sequence(): argument 'padding_value' (position 3) must be float"
    value = checked_padding(what, padding_value, first)
    shape = (len(arrays), steps) if batch_first else (steps, len(arrays))
    padded = np.full((*shape, *first.shape[1:]), value, first.dtype)
    rows = padded if batch_first else padded.swapaxes(0, 1)
    for n, array in enumerate(arrays):
        start = steps - len(array) if padding_side == "left" else 0
        into = rows[n, start : start + len(array)]
        check_broadcast(n, array.shape, into.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(into, array.real if array.dtype.kind == "c" != into.dtype.kind else array, casting="unsafe")
    return padded


def _sequences(sequences: object, batch_first: object, padding_side: object) -> list[Array]:
    """The arrays that `pad_sequence` is to stack, after its arguments were checked."""
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}\n"
            "Give a list of arrays, one for each sequence."
        )
    arrays = [number_array(f"sequence {n}", given) for n, given in enumerate(sequences)]
    check_flag("pad_sequence(): argument 'batch_first' (position 2)", batch_first)
    if not isinstance(padding_side, str):
        raise TypeError(
            f"pad_sequence(): argument 'padding_side' (position 4) must be str, not {type(padding_side).__name__}\n"
            "It is 'right' or 'left'."
        )
    if not arrays:
        raise RuntimeError("received an empty list of sequences\nGive at least one array.")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    for n, array in enumerate(arrays):
        if array.ndim == 0:
            raise RuntimeError(f"ArrayRef: invalid slice, N = 1; size = 0\nsequence {n} has no axis of steps.")
    return arrays


def unpad_sequence(padded_sequences: np.typing.ArrayLike, lengths: object, batch_first: bool = False) -> list[Array]:
    """Cut a padded batch into one array a sequence: the inverse of `pad_sequence`.

    Parameters
    ----------
    padded_sequences : array_like
        (steps, batch, ...), or (batch, steps, ...) with `batch_first`.
    lengths : array_like of int, (batch,)
        Steps of each sequence, from 0 to the steps of `padded_sequences`.
    batch_first : bool
        Whether the batch comes before the steps.

    Returns
    -------
    list of ndarray, each (steps, ...)
        Copies.

    Raises
    ------
    IndexError
        There are fewer than two axes.
    ValueError
        There are more or fewer lengths than sequences.
    RuntimeError
        A length is negative or too large.
    TypeError
        A length is not a whole number.

    Examples
    --------
    >>> [array.tolist() for array in unpad_sequence([[1, 4], [2, 5], [3, 0]], [3, 2])]
    [[1, 2, 3], [4, 5]]
    """
    array = number_array("padded_sequences", padded_sequences)
    if array.ndim < 2:
        said = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
        if batch_first:
            said = "tuple index out of range"
        raise IndexError(
            f"{said}\npadded_sequences must have an axis of steps and one of the batch; its shape is {array.shape}."
        )
    rows = array if batch_first else array.swapaxes(0, 1)
    counts = whole_numbers("lengths", lengths)
    if counts.ndim != 1 or len(counts) != len(rows):
        raise ValueError(
            f"zip() argument 2 is {'shorter' if counts.size < len(rows) else 'longer'} than argument 1\n"
            f"There must be one length for each of {counted(len(rows), 'sequence')}; "
            f"lengths has shape {counts.shape}."
        )
    check_range(counts, 0, rows.shape[1])
    return [row[:length].copy() for row, length in zip(rows, counts.tolist(), strict=True)]
