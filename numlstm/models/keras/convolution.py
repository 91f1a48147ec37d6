"""Convolutions and pooling over one axis or two, by views of the windows.

A convolution is a matrix product with the windows of the input side by side: simple, and fast for the few filters in
front of an LSTM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from numlstm.base.typing import Array
from numlstm.models.keras.activations import activation
from numlstm.models.keras.layers import layer
from numlstm.models.keras.signal import Context, Function, Json, Weights, dropping


def _each(value: Any, count: int) -> tuple[int, ...]:
    """A setting for each axis."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count


def _windows(x: Array, size: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]) -> Array:
    """(batch, ..., channels, *size): the windows of an array with the channels last."""
    axes = tuple(range(1, 1 + len(size)))
    spans = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    if any(x.shape[axis] < span for axis, span in zip(axes, spans, strict=True)):
        raise ValueError(f"its window takes {spans} steps; its input has {x.shape[1:-1]}")
    view = sliding_window_view(x, spans, axis=axes)
    outer = tuple(slice(None, None, stride) for stride in strides)
    inner = tuple(slice(None, None, each) for each in dilation)
    found: Array = view[(slice(None), *outer, slice(None), *inner)]
    return found


def _padding(
    x: Array, config: Json, size: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """How many steps each axis is given in front and behind."""
    widths = [(0, 0)]
    for axis, (k, stride, d) in enumerate(zip(size, strides, dilation, strict=True), 1):
        if config.get("padding") == "causal":
            widths.append(((k - 1) * d, 0))
        elif config.get("padding") == "same":
            span = (k - 1) * d + 1
            length = x.shape[axis]
            total = max((-(-length // stride) - 1) * stride + span - length, 0)
            widths.append((total // 2, total - total // 2))
        else:
            widths.append((0, 0))
    return [*widths, (0, 0)]


def _channels_last(config: Json, rank: int, function: Callable[[Array], Array]) -> Function:
    def apply(x: Array) -> Array:
        if x.ndim != rank + 2:
            raise ValueError(f"its input must have {rank + 2} axes; the shape is {x.shape}")
        if config.get("data_format") == "channels_first":
            return np.moveaxis(function(np.moveaxis(x, 1, -1)), -1, 1)
        return function(x)

    return dropping(apply)


@layer("Conv1D", "Convolution1D", "Conv2D", "Convolution2D", weights=("kernel", "use_bias:bias"))
def _convolution(config: Json, weights: Weights, context: Context) -> Function:
    kernel, bias, after = weights["kernel"], weights.get("bias"), activation(config.get("activation"), context)
    size = kernel.shape[:-2]
    rank, groups = len(size), config.get("groups", 1)
    strides, dilation = (_each(config.get(key, 1), rank) for key in ("strides", "dilation_rate"))
    channels = kernel.shape[-2] * groups
    # (channels, *size, filters), as the windows are laid out
    flat = np.moveaxis(kernel, -2, 0).reshape(-1, kernel.shape[-1])

    def convolve(x: Array) -> Array:
        if x.shape[-1] != channels:
            raise ValueError(f"its input must have {channels} channels; the shape is {x.shape}")
        windows = _windows(np.pad(x, _padding(x, config, size, strides, dilation)), size, strides, dilation)
        places = windows.shape[: rank + 1]
        if groups == 1:
            y = windows.reshape(-1, len(flat)) @ flat
        else:
            inputs = np.split(windows, groups, axis=rank + 1)
            filters = np.split(flat, groups, axis=1)
            y = np.concatenate(
                [each.reshape(-1, len(flat)) @ own for each, own in zip(inputs, filters, strict=True)], axis=1
            )
        y = y.reshape(*places, -1)
        if bias is not None:
            y += bias
        return y if after is None else after(y)

    return _channels_last(config, rank, convolve)


@layer("DepthwiseConv1D", "DepthwiseConv2D", weights=("kernel", "use_bias:bias"))
def _depthwise(config: Json, weights: Weights, context: Context) -> Function:
    after = activation(config.get("activation"), context)
    return _channels_last(
        config, weights["kernel"].ndim - 2, _of_depth(config, weights["kernel"], weights.get("bias"), after)
    )


def _of_depth(
    config: Json, kernel: Array, bias: Array | None, after: Callable[[Array], Array] | None
) -> Callable[[Array], Array]:
    size = kernel.shape[:-2]
    rank = len(size)
    strides, dilation = (_each(config.get(key, 1), rank) for key in ("strides", "dilation_rate"))
    letters = "xy"[:rank]

    def convolve(x: Array) -> Array:
        if x.shape[-1] != kernel.shape[-2]:
            raise ValueError(f"its input must have {kernel.shape[-2]} channels; the shape is {x.shape}")
        windows = _windows(np.pad(x, _padding(x, config, size, strides, dilation)), size, strides, dilation)
        y: Array = np.einsum(f"...c{letters},{letters}cm->...cm", windows, kernel)
        y = y.reshape(*y.shape[:-2], -1)
        if bias is not None:
            y = y + bias
        return y if after is None else after(y)

    return convolve


@layer(
    *("SeparableConv1D", "SeparableConv2D", "SeparableConvolution1D", "SeparableConvolution2D"),
    weights=("depthwise_kernel", "pointwise_kernel", "use_bias:bias"),
)
def _separable(config: Json, weights: Weights, context: Context) -> Function:
    first = _of_depth(config, weights["depthwise_kernel"], None, None)
    pointwise, bias = weights["pointwise_kernel"], weights.get("bias")
    after = activation(config.get("activation"), context)
    rank = pointwise.ndim - 2
    second = pointwise.reshape(pointwise.shape[-2:])

    def convolve(x: Array) -> Array:
        y: Array = first(x) @ second
        if bias is not None:
            y += bias
        return y if after is None else after(y)

    return _channels_last(config, rank, convolve)


def _pooling(rank: int, is_max: bool) -> Callable[[Json, Weights, Context], Function]:
    def make(config: Json, weights: Weights, context: Context) -> Function:
        size = _each(config["pool_size"], rank)
        strides = _each(config.get("strides") or size, rank)
        axes = tuple(range(-rank, 0))

        def pool(x: Array) -> Array:
            widths = _padding(x, config, size, strides, (1,) * rank)
            if not any(map(any, widths)):
                windows = _windows(x, size, strides, (1,) * rank)
                return np.asarray(windows.max(axis=axes) if is_max else windows.mean(axis=axes))
            if is_max:
                padded = np.pad(x, widths, constant_values=-np.inf)
                return np.asarray(_windows(padded, size, strides, (1,) * rank).max(axis=axes))
            counts = np.pad(np.ones((1, *x.shape[1:-1], 1), x.dtype), widths)  # padding does not count
            total = _windows(np.pad(x, widths), size, strides, (1,) * rank).sum(axis=axes)
            mean: Array = total / _windows(counts, size, strides, (1,) * rank).sum(axis=axes)
            return mean

        return _channels_last(config, rank, pool)

    return make


for _rank in (1, 2):
    layer(f"MaxPooling{_rank}D", f"MaxPool{_rank}D")(_pooling(_rank, True))
    layer(f"AveragePooling{_rank}D", f"AvgPool{_rank}D")(_pooling(_rank, False))


def _sides(value: Any, rank: int) -> list[tuple[int, int]]:
    """Steps in front and behind for each axis, from a number, a pair, or pairs."""
    if isinstance(value, int):
        return [(value, value)] * rank
    if rank == 1:
        return [(value[0], value[-1])]
    return [(each, each) if isinstance(each, int) else (each[0], each[1]) for each in value]


@layer("ZeroPadding1D", "ZeroPadding2D")
def _zero_padding(config: Json, weights: Weights, context: Context) -> Function:
    rank = int(config["class_name"][-2])
    sides = _sides(config["padding"], rank)
    return _channels_last(config, rank, lambda x: np.pad(x, [(0, 0), *sides, (0, 0)]))


@layer("Cropping1D", "Cropping2D")
def _cropping(config: Json, weights: Weights, context: Context) -> Function:
    rank = int(config["class_name"][-2])
    sides = _sides(config["cropping"], rank)

    def crop(x: Array) -> Array:
        kept = [slice(front, length - behind) for length, (front, behind) in zip(x.shape[1:], sides, strict=False)]
        return x[(slice(None), *kept)]

    return _channels_last(config, rank, crop)


@layer("UpSampling1D")
def _up_sampling(config: Json, weights: Weights, context: Context) -> Function:
    return dropping(lambda x: np.repeat(x, config["size"], axis=1))
