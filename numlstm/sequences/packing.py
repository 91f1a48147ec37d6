"""Sequences of several lengths in one batch: packed without padding, padded to one length, and back.

What ``torch.nn.utils.rnn`` is, in NumPy. In a packed sequence the rows stand by decreasing length, so that those that
take a step are always the first ones; step after step they stand behind one another without a gap.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Complex
from reprlib import repr as show
from typing import Any, NamedTuple, Self

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.validation.arguments import device_and_dtype, device_name
from numlstm.base.validation.arrays import any_array, as_dtype, device_shape, on_device, own_shape, to_host
from numlstm.base.validation.shapes import Call
from numlstm.base.wording import counted

Indices = np.ndarray[Any, np.dtype[np.int64]]
NUMBERS = "biufc"  # of np.dtype.kind: whatever can be counted with, and bools
C_NAMES = {  # of PyTorch's messages; other integers are int8_t and so on
    "float16": "c10::Half",
    "float32": "float",
    "float64": "double",
    "complex64": "c10::complex<float>",
    "complex128": "c10::complex<double>",
    "int32": "int",
}
SORTED = (
    "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
    "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if you do not "
    "need ONNX exportability."
)


class _Fields(NamedTuple):
    data: Array
    batch_sizes: Indices
    sorted_indices: Indices | None
    unsorted_indices: Indices | None


class PackedSequence(_Fields):
    """Sequences of several lengths, packed; a named tuple as in PyTorch.

    `pack_padded_sequence` and `pack_sequence` make them, and `LSTM.forward` takes and gives them. They can be made by
    hand too, also as ``PackedSequence((data, batch_sizes))``; what does not fit together is refused where it is used.

    Parameters
    ----------
    data : array_like, (sum of lengths, ...)
        Step after step the rows that take it, the longest sequence first. An array on a CUDA device stays there, for
        an LSTM that is on it; all else is on the CPU.
    batch_sizes : array_like of int, (steps,)
        How many rows take each step.
    sorted_indices : array_like of int, (batch,), optional
        Which of the sequences stands in each row; None if they were sorted.
    unsorted_indices : array_like of int, (batch,), optional
        In which row each sequence stands: the inverse of `sorted_indices`, and made from it if left out.

    Raises
    ------
    TypeError
        An array does not hold what it must.
    AssertionError
        Without `batch_sizes`, `data` is no tuple of two.

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
        places = inverse(rows) if back is None else back
        if not on_device(data):
            data = number_array("data", data)
        return super().__new__(cls, data, whole_numbers("batch_sizes", batch_sizes), rows, places)

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Return it with `data` of another dtype, or itself where nothing changes.

        Parameters
        ----------
        device : None, "cpu" or "cuda"
            The CPU, to which data on a device are copied; or the first CUDA device, for data that are there already.
            The first argument may be a dtype instead, or an array whose dtype is meant.
        dtype : dtype, optional
            NumPy's or PyTorch's.

        Raises
        ------
        NotImplementedError
            The device is another one, data in the CPU's memory were to move to CUDA, or data on a device were to have
            another dtype.
        """
        device, dtype = device_and_dtype(device, dtype)
        where = None if device is None else device_name(device)
        if self.is_cuda:
            if where == "cpu":
                return self.cpu().to(dtype=dtype)
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
        wanted = (
            self.data.dtype
            if dtype is None
            else np.dtype(str(dtype).removeprefix("torch.") if _torch(dtype) else dtype)
        )
        return self if wanted == self.data.dtype else self._replace(data=as_dtype(self.data, wanted))

    def cpu(self) -> Self:
        """Return it with `data` in the CPU's memory: itself, if they are there."""
        return self._replace(data=number_array("data", to_host("data", self.data))) if self.is_cuda else self

    def cuda(self, device: Any = None) -> Self:
        """Return it itself if `data` are on the first CUDA device; raise NotImplementedError if not, as `to` does."""
        return self.to("cuda" if device is None else device)

    def double(self) -> Self:
        """Return it in float64."""
        return self.to(dtype=np.float64)

    def float(self) -> Self:
        """Return it in float32."""
        return self.to(dtype=np.float32)

    def half(self) -> Self:
        """Return it in float16."""
        return self.to(dtype=np.float16)

    def long(self) -> Self:
        """Return it in int64."""
        return self.to(dtype=np.int64)

    def int(self) -> Self:
        """Return it in int32."""
        return self.to(dtype=np.int32)

    def short(self) -> Self:
        """Return it in int16."""
        return self.to(dtype=np.int16)

    def char(self) -> Self:
        """Return it in int8."""
        return self.to(dtype=np.int8)

    def byte(self) -> Self:
        """Return it in uint8."""
        return self.to(dtype=np.uint8)

    @property
    def is_cuda(self) -> bool:
        """Whether `data` are on a CUDA device."""
        return on_device(self.data)


# ---------------------------------------------------------------- packed and padded


def pack_padded_sequence(
    input: np.typing.ArrayLike, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch.

    Parameters
    ----------
    input : array_like
        (steps, batch, ...), or (batch, steps, ...) with `batch_first`. Any number of further axes, also none; the
        dtype stays.
    lengths : array_like of int, (batch,)
        Steps of each sequence, from 1 to the steps of `input`; what stands behind them is padding.
    batch_first : bool
        Whether the batch stands before the steps.
    enforce_sorted : bool
        Whether `lengths` must be decreasing. If not, the sequences are sorted, those of equal length in their order,
        and the packed sequence remembers how.

    Returns
    -------
    PackedSequence

    Raises
    ------
    RuntimeError
        The input is empty, or a length is missing, too large, below 1, or larger than the one before with
        `enforce_sorted`; with PyTorch's text where PyTorch refuses it.
    IndexError
        The input has fewer than two axes.
    TypeError
        An argument is of the wrong type, or a length no whole number.

    Examples
    --------
    >>> padded = [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    >>> packed = pack_padded_sequence(padded, [2, 1, 3], batch_first=True, enforce_sorted=False)
    >>> packed.data.tolist(), packed.batch_sizes.tolist(), packed.sorted_indices.tolist()
    ([4, 1, 3, 5, 2, 6], [3, 2, 1], [2, 0, 1])
    """
    _flag("_pack_padded_sequence(): argument 'batch_first' (position 3)", batch_first)
    array = number_array("input", input)
    if array.size == 0:
        raise RuntimeError(f"Cannot pack empty tensors.\ninput has shape {array.shape}, which holds nothing.")
    if array.ndim < 2:
        said = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
        if array.ndim == 0 and not batch_first:
            said = "Dimension specified as 1 but tensor has no dimensions"
        raise IndexError(f"{said}\ninput must have an axis of steps and one of the batch; its shape is {array.shape}.")
    steps, batch = array.shape[1::-1] if batch_first else array.shape[:2]
    each = _one_each(lengths, batch)
    if enforce_sorted and each[-1] > 0 and (each[1:] > each[:-1]).any():
        raise RuntimeError(f"{SORTED}\nlengths are {show(each.tolist())}.")
    _within(each, 1, steps)
    order = None
    if not enforce_sorted:
        order = np.argsort(-each, kind="stable")
        each = each[order]
    sizes = sizes_of(each)
    return PackedSequence(gathered(array, places(sizes, order, steps, batch, batch_first)), sizes, order)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: complex = 0.0, total_length: int | None = None
) -> tuple[Array, Indices]:
    """Pad a packed batch: the inverse of `pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
        PyTorch's own does as well.
    batch_first : bool
        Whether the batch is to stand before the steps.
    padding_value : number
        What stands behind the end of a sequence.
    total_length : int, optional
        How many steps the result is to have; those of the longest sequence if left out.

    Returns
    -------
    padded : ndarray
        (steps, batch, ...), or (batch, steps, ...), in the order in which the sequences were before they were packed.
    lengths : ndarray of int64, (batch,)
        Steps of each.

    Raises
    ------
    ValueError
        `total_length` is less than the longest sequence has.
    AttributeError, RuntimeError, TypeError
        `sequence` is no packed one, its parts do not fit together, or another argument is of the wrong type.

    Examples
    --------
    >>> packed = pack_sequence([[1, 2, 3], [4]])
    >>> padded, lengths = pad_packed_sequence(packed, batch_first=True, padding_value=-1, total_length=4)
    >>> padded.tolist(), lengths.tolist()
    ([[1, 2, 3, -1], [4, -1, -1, -1]], [3, 1])
    """
    packed = checked_parts(sequence)
    data, sizes, order, back = packed
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, "
                f"but got total_length={total_length} and max sequence length being {steps}\n"
                "Leave total_length out for just as many steps."
            )
        steps = _count("_pad_packed_sequence(): argument 'total_length' (position 5)", total_length)
    _flag("_pad_packed_sequence(): argument 'batch_first' (position 3)", batch_first)
    value = _filler("_pad_packed_sequence(): argument 'padding_value' (position 4) must be Number", padding_value, data)
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
        As `pad_sequence` and `pack_padded_sequence` say.

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
        In the order in which they were before they were packed.

    Raises
    ------
    AttributeError, RuntimeError
        It is no packed sequence, or its parts do not fit together.

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
        Further axes are the same for all, or can be broadcast to those of the first, whose dtype the result has.
    batch_first : bool
        Whether the batch is to stand before the steps.
    padding_value : number
        What the sequences are filled up with.
    padding_side : "right" or "left"
        Where they are filled up.

    Returns
    -------
    ndarray
        (steps, batch, ...), or (batch, steps, ...).

    Raises
    ------
    RuntimeError
        There is no sequence, or their further axes do not fit; with PyTorch's text.
    TypeError
        An argument is of the wrong type.

    Examples
    --------
    >>> pad_sequence([[1, 2, 3], [4]], batch_first=True, padding_value=9, padding_side="left").tolist()
    [[1, 2, 3], [9, 9, 4]]
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}\n"
            "Give a list of arrays, one for each sequence."
        )
    arrays = [number_array(f"sequence {n}", given) for n, given in enumerate(sequences)]
    _flag("pad_sequence(): argument 'batch_first' (position 2)", batch_first)
    if not isinstance(padding_side, str):
        raise TypeError(
            f"pad_sequence(): argument 'padding_side' (position 4) must be str, not {type(padding_side).__name__}\n"
            "It is 'right' or 'left'."
        )
    if not arrays:
        raise RuntimeError("received an empty list of sequences\nGive one array at least.")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    for n, array in enumerate(arrays):
        if array.ndim == 0:
            raise RuntimeError(f"ArrayRef: invalid slice, N = 1; size = 0\nsequence {n} has no axis of steps.")
    first, steps = arrays[0], max(len(array) for array in arrays)
    value = _filler("pad_sequence(): argument 'padding_value' (position 3) must be float", padding_value, first)
    shape = (len(arrays), steps) if batch_first else (steps, len(arrays))
    padded = np.full((*shape, *first.shape[1:]), value, first.dtype)
    rows = padded if batch_first else padded.swapaxes(0, 1)
    for n, array in enumerate(arrays):
        start = steps - len(array) if padding_side == "left" else 0
        into = rows[n, start : start + len(array)]
        _fitting(n, array.shape, into.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(into, array.real if array.dtype.kind == "c" != into.dtype.kind else array, casting="unsafe")
    return padded


def unpad_sequence(padded_sequences: np.typing.ArrayLike, lengths: Any, batch_first: bool = False) -> list[Array]:
    """Cut a padded batch into one array a sequence: the inverse of `pad_sequence`.

    Parameters
    ----------
    padded_sequences : array_like
        (steps, batch, ...), or (batch, steps, ...) with `batch_first`. It is not changed.
    lengths : array_like of int, (batch,)
        Steps of each sequence, from 0 to the steps of `padded_sequences`.
    batch_first : bool
        Whether the batch stands before the steps.

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
        A length is no whole number.

    Examples
    --------
    >>> [array.tolist() for array in unpad_sequence([[1, 4], [2, 5], [3, 0]], [3, 2])]
    [[1, 2, 3], [4, 5]]
    """
    array = number_array("padded_sequences", padded_sequences)
    if array.ndim < 2:
        said = (
            "tuple index out of range"
            if batch_first
            else ("Dimension out of range (expected to be in range of [-1, 0], but got 1)")
        )
        raise IndexError(
            f"{said}\npadded_sequences must have an axis of steps and one of the batch; its shape is {array.shape}."
        )
    rows = array if batch_first else array.swapaxes(0, 1)
    each = whole_numbers("lengths", lengths)
    if each.ndim != 1 or len(each) != len(rows):
        raise ValueError(
            f"zip() argument 2 is {'shorter' if each.size < len(rows) else 'longer'} than argument 1\n"
            f"There must be one length for each of {counted(len(rows), 'sequence')}; "
            f"lengths has shape {each.shape}."
        )
    _within(each, 0, rows.shape[1])
    return [row[:length].copy() for row, length in zip(rows, each.tolist(), strict=True)]


# ---------------------------------------------------------------- where numbers stand


def sizes_of(lengths: Indices) -> Indices:
    """How many rows take each step, for decreasing lengths.

    >>> sizes_of(np.array([4, 2, 1])).tolist()
    [3, 2, 1, 1]
    """
    steps = int(lengths[0])
    return len(lengths) - np.cumsum(np.bincount(lengths, minlength=steps + 1)[:steps])


def lengths_of(sizes: Indices) -> Indices:
    """Steps of each row, for how many rows take each step.

    >>> lengths_of(np.array([3, 2, 1, 1])).tolist()
    [4, 2, 1]
    """
    return np.searchsorted(-sizes, -np.arange(sizes[0])).astype(np.int64)


def starts_of(sizes: Indices) -> Indices:
    """Where in the packed data each step begins."""
    return np.cumsum(sizes) - sizes


def places(sizes: Indices, order: Indices | None, steps: int, batch: int, batch_first: bool) -> Indices:
    """Where in a padded batch, its first two axes made one, each row of the packed data stands.

    Parameters
    ----------
    sizes : ndarray of int64
        How many rows take each step.
    order : ndarray of int64 or None
        Which of the sequences stands in each row; None where they stand in their order.
    steps, batch : int
        Of the padded batch.
    batch_first : bool
        Whether the batch stands before the steps.

    >>> places(np.array([2, 1]), np.array([1, 0]), 3, 2, False).tolist()
    [1, 0, 3]
    >>> places(np.array([2, 1]), np.array([1, 0]), 3, 2, True).tolist()
    [3, 0, 4]
    """
    row = np.arange(sizes.sum()) - np.repeat(starts_of(sizes), sizes)
    if order is not None:
        row = order[row]
    step = np.repeat(np.arange(len(sizes)), sizes)
    return row * steps + step if batch_first else step * batch + row


def gathered(padded: Array, at: Indices) -> Array:
    """The rows of a padded batch that stand at `at`, as `places` counts."""
    return np.take(np.ascontiguousarray(padded).reshape(-1, *padded.shape[2:]), at, axis=0)


def inverse(permutation: Indices | None) -> Indices | None:
    """The inverse of a permutation.

    >>> inverse(np.array([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    if permutation is None:
        return None
    if permutation.ndim != 1 or not _is_permutation(permutation):
        raise RuntimeError(
            f"sorted_indices must hold each of the numbers from 0 to {permutation.size - 1} once\n"
            f"They are {show(permutation.tolist())}."
        )
    result = np.empty_like(permutation)
    result[permutation] = np.arange(len(permutation))
    return result


# ---------------------------------------------------------------- checks


def checked_parts(sequence: Any, anywhere: bool = False) -> _Fields:
    """The parts of a packed sequence, PyTorch's own too, that are found to fit together.

    With `anywhere`, data on a device stay there.
    """
    sizes = whole_numbers("batch_sizes", sequence.batch_sizes)
    data = sequence.data
    if anywhere and on_device(data):
        shape = device_shape(data)
    else:
        data = own_shape(number_array("data", data))
        shape = data.shape
    if sizes.size == 0:
        raise RuntimeError("batch_sizes can not be empty\nA packed sequence has one step at least.")
    if sizes.ndim != 1:
        raise RuntimeError(
            f"'lengths' argument should be a 1D CPU int64 tensor, but got {sizes.ndim}D cpu Long tensor\n"
            f"batch_sizes must have one axis; their shape is {sizes.shape}."
        )
    if sizes[-1] < 1 or (sizes[1:] > sizes[:-1]).any():
        raise RuntimeError(
            "batch_sizes must be positive and never larger than the one before\n"
            f"They are {show(sizes.tolist())}: how many rows take each step, the longest first."
        )
    wraps = int(sizes[0]) * sizes.size > np.iinfo(np.int64).max  # the first is the largest
    total = sum(sizes.tolist()) if wraps else int(sizes.sum())
    if not shape or total != shape[0]:
        raise RuntimeError(
            f"batch_sizes must sum to the number of rows in data, not to {total}\ndata has shape {shape}."
        )
    batch = int(sizes[0])
    both = []
    for name in ("sorted_indices", "unsorted_indices"):
        given = getattr(sequence, name, None)
        rows = None if given is None else whole_numbers(name, to_host(name, given))
        if rows is not None and (rows.shape != (batch,) or not _is_permutation(rows)):
            raise RuntimeError(
                f"{name} must hold each of the numbers from 0 to {batch - 1} once\n"
                f"They are {show(rows.tolist())}, and batch_sizes begin with {batch}."
            )
        both.append(rows)
    order, back = both
    if (order is None) != (back is None) or (order is not None and (order[back] != np.arange(batch)).any()):
        raise RuntimeError(
            "unsorted_indices must be the inverse of sorted_indices\n"
            "Leave unsorted_indices out, and they are made from sorted_indices."
        )
    return _Fields(data, sizes, order, back)


def checked_lengths(lengths: Any, call: Call, shape: tuple[int, ...]) -> Indices:
    """One length for each sequence of a padded batch of that shape, from 1 to its number of steps."""
    if call.unbatched:
        raise ValueError(
            "lengths is for a batch, but the input is unbatched\n"
            f"Its shape is {shape}; cut the sequence to its length instead."
        )
    steps = shape[1] if call.swap else shape[0]
    each = _one_each(lengths, call.batch)
    _within(each, 1, steps)
    return each


def _one_each(lengths: Any, batch: int) -> Indices:
    each = whole_numbers("lengths", lengths)
    if each.ndim != 1:
        raise RuntimeError(
            f"'lengths' argument should be a 1D CPU int64 tensor, but got {each.ndim}D cpu Long tensor\n"
            f"lengths must have one axis; its shape is {each.shape}."
        )
    if len(each) != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(each)} (batch_size={batch})\n"
            "There must be one length for each sequence."
        )
    return each


def _within(lengths: Indices, least: int, most: int) -> None:
    if (lengths < least).any():
        said = (
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
            if least
            else "Length of all samples has to be at least 0, but found an element in 'lengths' that is < 0"
        )
        raise RuntimeError(f"{said}\nlengths are {show(lengths.tolist())}.")
    if (lengths > most).any():
        raise RuntimeError(
            f"Length of all samples has to be at most {most}, the number of steps, but found {lengths.max()} in "
            f"'lengths'\nlengths are {show(lengths.tolist())}."
        )


def whole_numbers(name: str, value: Any) -> Indices:
    """A copy of the value as int64, of any shape; floats do where they are whole."""
    try:
        array = any_array(name, value)
    except ValueError as error:  # ragged lists
        raise TypeError(str(error)) from error
    if array.size == 0 and array.dtype.kind == "f":  # what NumPy makes of an empty list
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        wide = array.astype(np.float64)
        if (np.abs(wide) < 2**53).all() and (wide == np.floor(wide)).all():
            array = wide.astype(np.int64)
    if array.dtype.kind not in "iu" or (array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any()):
        raise TypeError(
            f"{name} must hold whole numbers, not {show(array.tolist())} of {array.dtype}\n"
            "They count or say where; ints of any width do, and floats that are whole."
        )
    return array.astype(np.int64)  # nobody else can change it once it is checked


def number_array(name: str, value: Any) -> Array:
    """The value as an array of numbers of any kind."""
    array = any_array(name, value)
    if array.dtype.kind not in NUMBERS:
        raise TypeError(
            f"{name} must hold numbers, not {array.dtype}\nReceived: a {type(value).__name__} of shape {array.shape}."
        )
    return array


def _is_permutation(rows: Indices) -> bool:
    return bool((np.sort(rows) == np.arange(len(rows))).all())


def _flag(what: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be bool, not {type(value).__name__}\nIt is {show(value)}.")


def _count(what: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be int, not {type(value).__name__}\nIt is {show(value)}.") from None


def _filler(what: str, value: Any, data: Array) -> Any:
    """The padding value in the dtype of the data, which must have room for it."""
    if not isinstance(value, Complex):
        raise TypeError(f"{what}, not {type(value).__name__}\nIt is {show(value)}.")
    kind, dtype = data.dtype.kind, data.dtype
    if kind == "b":
        return bool(value)
    number: Any = value if kind == "c" else value.real
    parts = [part for part in (value.real, value.imag) if part != 0]
    if kind == "c":
        too_large = any(_beyond(part, np.finfo(dtype).max) for part in parts)
    elif value.imag != 0:
        too_large = True
    elif kind == "f":
        too_large = _beyond(number, np.finfo(dtype).max)
    else:
        bounds = np.iinfo(dtype)
        whole = isinstance(number, int | np.integer)
        least = -int(bounds.max) if kind == "u" and whole else int(bounds.min)
        too_large = not least <= number <= int(bounds.max)  # nor is NaN
    if too_large:
        raise RuntimeError(
            f"value cannot be converted to type {C_NAMES.get(dtype.name, dtype.name + '_t')} without overflow\n"
            f"padding_value is {show(value)}, and the data are {dtype}."
        )
    return np.array(int(number) if kind in "iu" else number).astype(dtype)


def _beyond(number: Any, most: Any) -> bool:
    return bool(abs(number) > most and abs(number) != float("inf"))


def _fitting(n: int, shape: tuple[int, ...], into: tuple[int, ...]) -> None:
    """A sequence must be of the axes of the first, or of fewer or shorter ones that are broadcast."""
    wide = (1,) * (len(shape) - len(into)) + into
    narrow = (1,) * (len(into) - len(shape)) + shape
    said = f"\nsequence {n} has shape {shape}, and those of the first have {into[1:]} behind the steps."
    for axis in range(len(wide) - 1, -1, -1):
        if wide[axis] != narrow[axis] and 1 not in (wide[axis], narrow[axis]):
            raise RuntimeError(
                f"The size of tensor a ({wide[axis]}) must match the size of tensor b ({narrow[axis]}) "
                f"at non-singleton dimension {axis}{said}"
            )
    both = [max(pair) if 0 not in pair else 0 for pair in zip(wide, narrow, strict=True)]
    if both != list(into):
        raise RuntimeError(f"output with shape {list(into)} doesn't match the broadcast shape {both}{said}")


def _torch(dtype: Any) -> bool:
    return type(dtype).__module__ == "torch"
