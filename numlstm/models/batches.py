"""A model over batches of sequences of one length, whatever the order of its input's axes: what tables need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.nn import frames
from numlstm.nn.layers import Embedding
from numlstm.nn.sequential import Sequential


class RunsFrames:
    """A model that runs over tables."""

    def forward_frame(self, frame: Any, *, group: str, order: str, features: Sequence[str] | None = None) -> Any:
        """Run the model over the sequences of a pandas DataFrame, as `numlstm.nn.Sequential.forward_frame` does.

        Parameters
        ----------
        frame : pandas.DataFrame
            A row for each step, in any order.
        group, order : str
            The column that names the sequence of a row, and the column that orders its steps, without ties.
        features : sequence of str, optional
            The input columns in order; default: all others.

        Returns
        -------
        pandas.DataFrame
            A row for each step, or for each sequence, whichever the model gives.

        Raises
        ------
        ValueError
            As `numlstm.nn.Sequential.forward_frame` raises it; or the model has several inputs or outputs.
        """
        return frames.forward_frame(
            Batches(self), frame, group=group, order=order, features=features, batch_first=True, indices=False
        )


class Batches:
    """A model of one input and one output that takes sequences.

    Attributes
    ----------
    features : int or None
        Numbers of a step; None if the model does not say it.
    length : int or None
        Steps of a sequence, where the model takes no other number.
    axis : int
        Of the input: that of the rows of a batch.
    dtype : dtype
        Of the input.

    Raises
    ------
    ValueError
        The model has several inputs, or one that holds no sequences.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.has_words = False
        self.features: int | None = None
        self.length: int | None = None
        self._rows: int | None = None
        if isinstance(model, Sequential):
            first = next(iter(model.layers.values()))
            self.has_words = isinstance(first, Embedding)
            self.features = 1 if self.has_words else _features(model)
            self.axis = 0 if any(lstm.batch_first for lstm in model.lstms) else 1
        else:
            shape = _shape(model)
            self.has_words = len(shape) == 2
            self.features = 1 if self.has_words else shape[2]
            self.axis = model.batch_axis
            self.length = shape[1 - self.axis]
            self._rows = shape[self.axis] if getattr(model, "output_names", None) else None
        self.dtype = np.dtype(getattr(model, "dtype", np.float32))

    def __call__(self, x: Array) -> Array:
        """The outputs for (sequences, steps, features): (sequences, steps, outputs), or (sequences, outputs).

        Raises
        ------
        ValueError
            The model has several outputs; or as it raises it.
        """
        if self.features not in (None, x.shape[-1]):
            raise ValueError(f"the model takes {self.features} feature columns; {x.shape[-1]} are given")
        if self.has_words:
            x = _whole(x[..., 0])
        if self._rows == 1 and len(x) > 1:  # the model is made for one sequence
            return np.concatenate([self._called(x[row : row + 1]) for row in range(len(x))])
        return self._called(x)

    def _called(self, x: Array) -> Array:
        found = self.model(x.swapaxes(0, 1) if self.axis == 1 else x)
        if not isinstance(found, np.ndarray):
            raise ValueError(f"the model gives {len(found)} outputs; a table takes a model of one output")
        y: Array = found
        if self.axis == 1 and y.ndim > 2 and y.shape[:2] == (x.shape[1], x.shape[0]):
            y = y.swapaxes(0, 1)
        if len(y) != len(x) or y.ndim > 3:
            raise ValueError(f"the model gives an array of shape {y.shape} for {len(x)} sequences, which is no table")
        return y[:, None] if y.ndim == 1 else y


def _features(model: Sequential) -> int | None:
    for layer in model.layers.values():
        size = getattr(layer, "input_size", None) or getattr(layer, "in_features", None)
        if size:
            return int(size)
    return None


def _shape(model: Any) -> tuple[int | None, ...]:
    names = ", ".join(repr(each.name) for each in model.inputs)
    if len(model.inputs) != 1:
        raise ValueError(f"the model has {len(model.inputs)} inputs, {names}; a table takes a model of one input")
    shape: tuple[int | None, ...] | None = model.inputs[0].shape
    if shape is None or len(shape) not in (2, 3):
        raise ValueError(f"the model's input {names} has shape {shape}, which is not (batch, steps, features)")
    return shape


def _whole(x: Array) -> Array:
    """Whole numbers as such."""
    whole = x.astype(np.int64)
    return whole if (whole == x).all() else x
