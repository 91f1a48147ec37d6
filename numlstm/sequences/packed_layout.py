"""Where rows are in packed and in padded batches.

In a packed sequence the rows are sorted by decreasing length, so the rows that take a step are always the first ones.
Steps follow each other without a gap.
"""

from __future__ import annotations

from reprlib import repr as show

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.validation.packed import Indices, is_permutation


def sizes_of(lengths: Indices) -> Indices:
    """How many rows take each step, from decreasing lengths.

    >>> sizes_of(np.array([4, 2, 1])).tolist()
    [3, 2, 1, 1]
    """
    steps = int(lengths[0]) if len(lengths) else 0
    return len(lengths) - np.cumsum(np.bincount(lengths, minlength=steps + 1)[:steps])


def longest_first(lengths: Indices) -> Indices | None:
    """The sequences that take a step, the longest first; None if they are all, and in that order already.

    >>> longest_first(np.array([1, 0, 4])).tolist()
    [2, 0]
    """
    if (lengths[1:] <= lengths[:-1]).all() and lengths[-1] > 0:
        return None
    return np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]


def lengths_of(sizes: Indices) -> Indices:
    """The length of each row, from how many rows take each step.

    >>> lengths_of(np.array([3, 2, 1, 1])).tolist()
    [4, 2, 1]
    """
    return np.searchsorted(-sizes, -np.arange(sizes[0])).astype(np.int64)


def starts_of(sizes: Indices) -> Indices:
    """Where each step begins in the packed data."""
    return np.cumsum(sizes) - sizes


def places(sizes: Indices, order: Indices | None, steps: int, batch: int, batch_first: bool) -> Indices:
    """The place of each packed row in a padded batch whose first two axes are made one.

    Parameters
    ----------
    sizes : ndarray of int64
        How many rows take each step.
    order : ndarray of int64 or None
        The sequence of each row; None if they are in order.
    steps, batch : int
        Of the padded batch.
    batch_first : bool
        Whether the padded batch is (batch, steps, ...).

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
    """The rows of a padded batch at these `places`."""
    return np.take(np.ascontiguousarray(padded).reshape(-1, *padded.shape[2:]), at, axis=0)


def inverse(permutation: Indices | None) -> Indices | None:
    """The inverse of a permutation.

    >>> inverse(np.array([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    if permutation is None:
        return None
    if permutation.ndim != 1 or not is_permutation(permutation):
        raise RuntimeError(
            f"sorted_indices must hold each of the numbers from 0 to {permutation.size - 1} once\n"
            f"They are {show(permutation.tolist())}."
        )
    result = np.empty_like(permutation)
    result[permutation] = np.arange(len(permutation))
    return result
