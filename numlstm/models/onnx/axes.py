"""What the axes of a value in a graph hold, as a letter for each.

"T" steps, "B" rows of the batch, "D" directions or layers of states, "F" features. An axis that holds two things after
a Reshape has both letters, the outer one first; an axis of size 1 that holds nothing has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from numlstm.base.typing import Array

Axes = tuple[str, ...]
# what the axes of an input may be, by their number
ROLES: dict[int, tuple[Axes, ...]] = {
    1: (("T",),),
    2: (("B", "T"), ("T", "B"), ("T", "F")),
    3: (("B", "T", "F"), ("T", "B", "F"), ("B", "F", "T")),
}


def regrouped(axes: Axes, sizes: Mapping[str, int], target: Sequence[int]) -> Axes | None:
    """The axes after a Reshape to these sizes; None if it cuts through what an axis holds.

    Examples
    --------
    >>> regrouped(("T", "B", "D", "F"), {"T": 5, "B": 7, "D": 2, "F": 3}, (5, 7, 6))
    ('T', 'B', 'DF')
    >>> regrouped(("T", "B", "F"), {"T": 5, "B": 7, "F": 3}, (35, 1, 3))
    ('TB', '', 'F')
    >>> regrouped(("T", "F"), {"T": 5, "F": 6}, (5, 2, 3)) is None
    True
    """
    letters = "".join(axes)
    made = []
    for size in target:
        count = 0
        while prod(sizes[letter] for letter in letters[:count]) < size and count < len(letters):
            count += 1
        if size == 1 and letters and sizes[letters[0]] == 1:
            count = 1
        if prod(sizes[letter] for letter in letters[:count]) != size:
            return None
        made.append(letters[:count])
        letters = letters[count:]
    return tuple(made) if all(sizes[letter] == 1 for letter in letters) else None


def taking(axes: Axes, canonical: str) -> Callable[[Array], Array] | None:
    """What turns an input into the order of a model's axes; None if it has that order."""
    kept = [letter for letter in axes if letter]
    order = [kept.index(letter) for letter in canonical]
    index: Any = tuple(slice(None) if letter else 0 for letter in axes)
    is_whole, is_in_order = all(axes), order == list(range(len(order)))
    if is_whole and is_in_order:
        return None

    def take(x: Array) -> Array:
        if not is_whole:
            x = x[index]
        return x if is_in_order else x.transpose(order)

    return take


def giving(canonical: str, axes: Axes, directions: int) -> Callable[[Array], Array] | None:
    """What turns a model's output into an output of the graph; None if it is that.

    ``canonical`` are the letters of the model's output, whose features lie direction by direction.
    """
    groups = list(axes) if "D" in canonical else [axis.replace("DF", "F") for axis in axes]
    letters = "".join(groups)
    is_split = "D" in letters and "D" not in canonical
    if is_split:
        canonical = canonical.replace("F", "DF")
    if sorted(letters) != sorted(canonical):
        raise ValueError(f"an output holds {letters or 'nothing'}, where the layers give {canonical}")
    order = [canonical.index(letter) for letter in letters]
    is_grouped, is_expanded = any(len(group) > 1 for group in groups), not all(groups)
    index: Any = tuple(slice(None) if group else None for group in groups)
    is_in_order = order == list(range(len(order)))
    if is_in_order and not is_split and not is_grouped and not is_expanded:
        return None

    def give(y: Array) -> Array:
        if is_split:
            y = y.reshape(*y.shape[:-1], directions, -1)
        sizes = dict(zip(canonical, y.shape, strict=True)) if is_grouped else {}
        if not is_in_order:
            y = y.transpose(order)
        if is_grouped:
            return y.reshape([prod(sizes[letter] for letter in group) for group in groups])
        return y[index] if is_expanded else y

    return give
