"""Keras' layers by the name of their class: the weights that each has, and its function.

Sources: keras/src/layers of Keras 3.15, and keras/layers of Keras 2.15 where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.typing import Array
from numlstm.models.keras.activations import LAYERS as ACTIVATION_LAYERS
from numlstm.models.keras.activations import activation, of_layer, softmax
from numlstm.models.keras.signal import Context, Function, Json, Signal, Signals, Weights, arrays, dropping, keeping
from numlstm.nn.layers import check_indices

Make = Callable[[Json, Weights, Context], Function]


class Kind(NamedTuple):
    """A class of layers.

    Attributes
    ----------
    make : callable
        The function of a layer, from its configuration and its weights.
    weights : tuple of str
        Their names in the order of the file, frozen ones last; "flag:name" for one that the configuration's flag
        switches, and "?name" for one that may be missing.
    steps : bool
        Whether a step of the output needs that step of the input alone, so that it can be streamed.
    integers : bool
        Whether it takes whole numbers as they are.
    """

    make: Make
    weights: tuple[str, ...] = ()
    steps: bool = False
    integers: bool = False


MOST = 1 << 32  # numbers that a layer makes of its input
TABLE: dict[str, Kind] = {}


def layer(
    *names: str, weights: tuple[str, ...] = (), steps: bool = False, integers: bool = False
) -> Callable[[Make], Make]:
    """Enter the layers of these names into the table."""

    def enter(make: Make) -> Make:
        TABLE.update(dict.fromkeys(names, Kind(make, weights, steps, integers)))
        return make

    return enter


def identity(signal: Signals, mask: Signal | None = None) -> Signals:
    """What does nothing in inference."""
    return signal


@layer(
    *("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    steps=True,
    integers=True,
)
def _nothing(config: Json, weights: Weights, context: Context) -> Function:
    return identity


@layer("Dense", weights=("kernel", "use_bias:bias"), steps=True)
def _dense(config: Json, weights: Weights, context: Context) -> Function:
    kernel, bias, after = weights["kernel"], weights.get("bias"), activation(config.get("activation"), context)

    def dense(x: Array) -> Array:
        if not x.ndim or x.shape[-1] != len(kernel):
            raise ValueError(f"the last axis of its input must be {len(kernel)}; the shape is {x.shape}")
        y: Array = x @ kernel
        if bias is not None:
            y += bias
        return y if after is None else after(y)

    return keeping(dense)


@layer("Embedding", weights=("embeddings",), steps=True, integers=True)
def _embedding(config: Json, weights: Weights, context: Context) -> Function:
    table, is_masking = weights["embeddings"], config.get("mask_zero") is True

    def embedding(signal: Signal) -> Signal:
        indices = signal.array
        if indices.dtype.kind not in "iu":
            whole = indices.astype(np.int64)
            if not (whole == indices).all():
                raise ValueError("its input must be whole numbers, the indices of vectors")
            indices = whole
        check_indices("input", indices, len(table), "input_dim")
        if indices.size and indices.min() < 0:
            raise IndexError(f"its input must be at least 0; it has {indices.min()}")
        return Signal(table[indices], indices != 0 if is_masking else None)

    return embedding


@layer("Masking")
def _masking(config: Json, weights: Weights, context: Context) -> Function:
    value = float(config.get("mask_value", 0))

    def masking(signal: Signal) -> Signal:
        mask = (signal.array != value).any(axis=-1)
        return Signal(signal.array * mask[..., None], mask)

    return masking


@layer("Activation", steps=True)
def _activation(config: Json, weights: Weights, context: Context) -> Function:
    function = activation(config.get("activation"), context)
    return identity if function is None else keeping(function)


@layer(*(name for name in ACTIVATION_LAYERS if name != "Softmax"), steps=True)
def _activation_layer(config: Json, weights: Weights, context: Context) -> Function:
    return keeping(of_layer(config["class_name"], config))


@layer("Softmax", steps=True)
def _softmax(config: Json, weights: Weights, context: Context) -> Function:
    axis = config.get("axis", -1)

    def apply(signal: Signal, mask: Signal | None = None) -> Signal:
        kept = mask.array if mask is not None else signal.mask
        if kept is None:
            return Signal(softmax(signal.array, axis))
        kept = kept.astype(bool)
        y = softmax(np.where(kept, signal.array, signal.array.dtype.type(-1e9)), axis)
        return Signal(np.where(kept, y, y.dtype.type(0)), signal.mask)

    return apply


@layer("PReLU", weights=("alpha",), steps=True)
def _prelu(config: Json, weights: Weights, context: Context) -> Function:
    alpha = weights["alpha"]
    return keeping(lambda x: np.maximum(x, 0) + alpha * np.minimum(x, 0))


@layer("Rescaling", steps=True)
def _rescaling(config: Json, weights: Weights, context: Context) -> Function:
    scale, offset = (np.asarray(config.get(key, usual), context.dtype) for key, usual in (("scale", 1), ("offset", 0)))
    return keeping(lambda x: x * scale + offset)


# Normalisation


@layer(
    "BatchNormalization",
    weights=("scale:gamma", "center:beta", "moving_mean", "moving_variance"),
    steps=True,
)
def _batch_normalization(config: Json, weights: Weights, context: Context) -> Function:
    inverse = 1 / np.sqrt(weights["moving_variance"] + context.dtype.type(config.get("epsilon", 1e-3)))
    scale = inverse * weights["gamma"] if "gamma" in weights else inverse
    offset = weights.get("beta", 0) - weights["moving_mean"] * scale
    axis = config.get("axis", -1)
    (axis,) = axis if isinstance(axis, list) else (axis,)

    def normalize(x: Array) -> Array:
        if x.shape[axis] != len(scale):
            raise ValueError(f"axis {axis} of its input must be {len(scale)}; the shape is {x.shape}")
        shape = [1] * x.ndim
        shape[axis] = -1
        y: Array = x * scale.reshape(shape) + offset.reshape(shape)
        return y

    return keeping(normalize)


@layer("LayerNormalization", weights=("scale:gamma", "center:beta"), steps=True)
def _layer_normalization(config: Json, weights: Weights, context: Context) -> Function:
    axis: Any = config.get("axis", -1)
    axis = tuple(axis) if isinstance(axis, list) else (axis,)
    epsilon = context.dtype.type(config.get("epsilon", 1e-3))
    rms = config.get("rms_scaling") is True

    def normalize(x: Array) -> Array:
        axes = tuple(each % x.ndim for each in axis)
        shape = [length if at in axes else 1 for at, length in enumerate(x.shape)]
        if not rms:
            x = x - x.mean(axis=axes, keepdims=True)
        y: Array = x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + epsilon)
        if "gamma" in weights:
            y *= weights["gamma"].reshape(shape)
        if "beta" in weights:
            y += weights["beta"].reshape(shape)
        return y

    return keeping(normalize)


@layer("UnitNormalization", steps=True)
def _unit_normalization(config: Json, weights: Weights, context: Context) -> Function:
    axis = config.get("axis", -1)
    axis = tuple(axis) if isinstance(axis, list) else axis
    return keeping(lambda x: x / np.sqrt(np.maximum((x * x).sum(axis=axis, keepdims=True), 1e-12)))


@layer("Normalization", weights=("?mean", "?variance", "?count"), steps=True)
def _normalization(config: Json, weights: Weights, context: Context) -> Function:
    mean, variance = (
        weights[key] if key in weights else np.asarray(config[key], context.dtype) for key in ("mean", "variance")
    )
    deviation = np.maximum(np.sqrt(variance), 1e-7).astype(context.dtype)
    axis = config.get("axis", -1)
    axes = axis if isinstance(axis, list | tuple) else () if axis is None else (axis,)
    invert = config.get("invert") is True

    def normalize(x: Array) -> Array:
        shape = [length if at in {each % x.ndim for each in axes} else 1 for at, length in enumerate(x.shape)]
        m, d = mean.reshape(shape), deviation.reshape(shape)
        y: Array = m + x * d if invert else (x - m) / d
        return y

    return keeping(normalize)


# Shapes


@layer("Flatten", integers=True)
def _flatten(config: Json, weights: Weights, context: Context) -> Function:
    def flatten(x: Array) -> Array:
        if config.get("data_format") == "channels_first" and x.ndim > 2:
            x = np.moveaxis(x, 1, -1)
        return x.reshape(len(x), -1) if x.ndim > 1 else x[:, None]

    return dropping(flatten)


@layer("Reshape", integers=True)
def _reshape(config: Json, weights: Weights, context: Context) -> Function:
    target = [-1 if each is None else each for each in config["target_shape"]]
    return dropping(lambda x: x.reshape(len(x), *target))


@layer("Permute", integers=True)
def _permute(config: Json, weights: Weights, context: Context) -> Function:
    return dropping(lambda x: x.transpose(0, *config["dims"]))


@layer("RepeatVector")
def _repeat_vector(config: Json, weights: Weights, context: Context) -> Function:
    def repeat(x: Array) -> Array:
        if x.ndim != 2:
            raise ValueError(f"its input must be (batch, features); the shape is {x.shape}")
        if not 0 <= config["n"] * x.size < MOST:
            raise ValueError(f"its n is {config['n']}, and {x.shape} that many times is more than memory may hold")
        return np.repeat(x[:, None], config["n"], axis=1)

    return dropping(repeat)


# Several inputs into one


def _merging(merge: Callable[[list[Array]], Array]) -> Make:
    def make(config: Json, weights: Weights, context: Context) -> Function:
        def apply(signals: list[Signal]) -> Signal:
            found = [signal.array for signal in signals]
            rank = max(array.ndim for array in found)
            if len({array.ndim for array in found}) > 1:  # axes of 1 after the batch
                found = [array.reshape(len(array), *[1] * (rank - array.ndim), *array.shape[1:]) for array in found]
            return Signal(merge(found), _merged_mask([signal.mask for signal in signals], context))

        return apply

    return make


def _merged_mask(masks: list[Array | None], context: Context) -> Array | None:
    have = [mask for mask in masks if mask is not None]
    if not have or (len(have) < len(masks) and not context.merges_by_all):
        return None
    merged = have[0]
    for mask in have[1:]:
        merged = merged & mask if context.merges_by_all else merged | mask
    return merged


def _folded(operation: Callable[[Array, Array], Array]) -> Callable[[list[Array]], Array]:
    def fold(found: list[Array]) -> Array:
        result = found[0]
        for each in found[1:]:
            result = operation(result, each)
        return result

    return fold


layer("Add", steps=True)(_merging(_folded(np.add)))
layer("Multiply", steps=True)(_merging(_folded(np.multiply)))
layer("Maximum", steps=True)(_merging(_folded(np.maximum)))
layer("Minimum", steps=True)(_merging(_folded(np.minimum)))
layer("Subtract", steps=True)(_merging(_folded(np.subtract)))
layer("Average", steps=True)(_merging(lambda found: _folded(np.add)(found) / len(found)))


@layer("Concatenate", steps=True)
def _concatenate(config: Json, weights: Weights, context: Context) -> Function:
    axis = config.get("axis", -1)

    def apply(signals: list[Signal]) -> Signal:
        joined = np.concatenate([signal.array for signal in signals], axis=axis)
        if all(signal.mask is None for signal in signals):
            return Signal(joined)
        masks = [
            np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask[..., None], x.shape) for x, mask in signals
        ]
        merged: Array = np.concatenate(masks, axis=axis)
        return Signal(joined, np.asarray((np.all if context.merges_by_all else np.any)(merged, axis=-1)))

    return apply


@layer("Dot")
def _dot(config: Json, weights: Weights, context: Context) -> Function:
    def dot(signals: list[Signal]) -> Signal:
        a, b = arrays(signals)
        axes = config["axes"]
        first, second = axes if isinstance(axes, list) else (axes, axes)
        if config.get("normalize"):
            a, b = (
                x / np.sqrt(np.maximum((x * x).sum(axis=axis, keepdims=True), 1e-12))
                for x, axis in ((a, first), (b, second))
            )
        a, b = np.moveaxis(a, first, -1), np.moveaxis(b, second, 1)
        y = a.reshape(len(a), -1, a.shape[-1]) @ b.reshape(len(b), b.shape[1], -1)
        shape = (len(a), *a.shape[1:-1], *b.shape[2:])
        return Signal(y.reshape(shape if len(shape) > 1 else (len(a), 1)))

    return dot


# Over all steps


@layer("GlobalAveragePooling1D", "GlobalAvgPool1D")
def _global_average(config: Json, weights: Weights, context: Context) -> Function:
    axis, keep = _steps_axis(config), config.get("keepdims") is True

    def average(signal: Signal, mask: Signal | None = None) -> Signal:
        x, own = signal
        kept = own if mask is None else mask.array
        if kept is None:
            return Signal(x.mean(axis=axis, keepdims=keep))
        kept = np.expand_dims(kept, 3 - axis).astype(x.dtype)
        x = x * kept if context.version < (3, 0) else np.where(kept != 0, x, x.dtype.type(0))
        with np.errstate(invalid="ignore"):  # a row without steps has no mean: NaN, as in Keras
            return Signal(x.sum(axis=axis, keepdims=keep) / kept.sum(axis=axis, keepdims=keep))

    return average


@layer("GlobalMaxPooling1D", "GlobalMaxPool1D")
def _global_max(config: Json, weights: Weights, context: Context) -> Function:
    axis, keep = _steps_axis(config), config.get("keepdims") is True
    return dropping(lambda x: x.max(axis=axis, keepdims=keep))


@layer("GlobalAveragePooling2D", "GlobalAvgPool2D")
def _global_average_2d(config: Json, weights: Weights, context: Context) -> Function:
    axes, keep = _plane_axes(config), config.get("keepdims") is True
    return dropping(lambda x: x.mean(axis=axes, keepdims=keep))


@layer("GlobalMaxPooling2D", "GlobalMaxPool2D")
def _global_max_2d(config: Json, weights: Weights, context: Context) -> Function:
    axes, keep = _plane_axes(config), config.get("keepdims") is True
    return dropping(lambda x: x.max(axis=axes, keepdims=keep))


def _steps_axis(config: Json) -> int:
    return 2 if config.get("data_format") == "channels_first" else 1


def _plane_axes(config: Json) -> tuple[int, int]:
    return (2, 3) if config.get("data_format") == "channels_first" else (1, 2)
