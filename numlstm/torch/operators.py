"""The LSTM as torch.compile and torch.export see it: an operator of PyTorch, and one for its backward pass.

They are for graphs alone: torch.func would find a derivative of zero where `functions` raise an error.
"""

from typing import Any

import torch
from torch import Tensor

from numlstm.autodiff.stateless import kept_size
from numlstm.kernels.loading import registry
from numlstm.torch.engine import DTYPES, Engine, engine

# What is kept has another size at another level of the CPU. With the level in the names, a graph that was compiled at
# one level is not taken out of inductor's cache at another.
LEVEL = registry.level().name.replace("-", "_")


def _engine(weights: list[Tensor], num_layers: int, bidirectional: bool) -> Engine:
    """The engine for weights of these shapes."""
    gates, inputs, outputs = (int(size) for size in (*weights[0].shape, weights[1].shape[1]))  # never symbols
    bias = len(weights) // (num_layers * (2 if bidirectional else 1)) > 3
    proj_size = 0 if outputs == gates // 4 else outputs
    of_sizes = engine(inputs, gates // 4, num_layers, bias, bidirectional, proj_size, weights[0].dtype)
    if not of_sizes.fits(weights):
        raise RuntimeError(
            f"weights must have shapes {of_sizes.shapes}\nTheirs are {[tuple(weight.shape) for weight in weights]}."
        )
    return of_sizes


@torch.library.custom_op(f"numlstm::lstm_{LEVEL}", mutates_args=(), device_types="cpu")
def lstm(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    masks: list[Tensor],
    weights: list[Tensor],
    num_layers: int,
    bidirectional: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, h_n, c_n, and what is kept for the backward pass, which is empty without ``keep``."""
    of_sizes = _engine(weights, num_layers, bidirectional)
    hx = None if h_0 is None or c_0 is None else (h_0, c_0)
    if keep or masks:
        output, h_n, c_n, kept = of_sizes.forward(of_sizes.packed(weights), x, hx, masks, None)
        return output, h_n, c_n, kept if keep else x.new_empty(0)
    return *of_sizes.infer(weights, x, hx, None), x.new_empty(0)


@lstm.register_fake
def _(
    x: Tensor, h_0: Any, c_0: Any, masks: Any, weights: list[Tensor], num_layers: int, bidirectional: bool, keep: bool
) -> tuple[Tensor, ...]:
    (steps, rows, _), config = x.shape, _engine(weights, num_layers, bidirectional).config
    size = kept_size(config, DTYPES[x.dtype], steps * rows, rows, bool(masks)) if keep else 0
    output = x.new_empty(steps, rows, config.num_directions * config.output_size)
    return output, *(x.new_empty(shape) for shape in config.state_shapes(rows)), x.new_empty(size)


@torch.library.custom_op(f"numlstm::lstm_backward_{LEVEL}", mutates_args=(), device_types="cpu")
def lstm_backward(
    kept: Tensor,
    masks: list[Tensor],
    weights: list[Tensor],
    d_output: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    num_layers: int,
    bidirectional: bool,
) -> list[Tensor]:
    """The gradients of x, h_0, c_0 and the weights."""
    (steps, rows, _), by_results = d_output.shape, (d_output, d_h, d_c)
    of_sizes = _engine(weights, num_layers, bidirectional)
    gradients: list[Any] = [
        *of_sizes.backward(of_sizes.packed(weights), kept, masks, by_results, steps, rows, None, True)
    ]
    return gradients


@lstm_backward.register_fake
def _(
    kept: Tensor,
    masks: Any,
    weights: list[Tensor],
    d_output: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    num_layers: int,
    bidirectional: bool,
) -> list[Tensor]:
    shapes = (*d_output.shape[:2], weights[0].shape[1]), d_h.shape, d_c.shape, *(weight.shape for weight in weights)
    return [kept.new_empty(shape) for shape in shapes]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, h_0, _, masks, weights, ctx.num_layers, ctx.bidirectional, _ = inputs
    ctx.with_hx, ctx.count = h_0 is not None, len(masks)
    ctx.save_for_backward(output[3], *masks, *weights)


def _differentiate(ctx: Any, d_output: Tensor, d_h: Tensor, d_c: Tensor, _: Any) -> tuple[Any, ...]:
    kept, *rest = ctx.saved_tensors
    masks, weights = rest[: ctx.count], rest[ctx.count :]
    d_input, d_h_0, d_c_0, *d_weights = lstm_backward(
        kept, masks, weights, d_output, d_h, d_c, ctx.num_layers, ctx.bidirectional
    )
    states = (d_h_0, d_c_0) if ctx.with_hx else (None, None)
    return d_input, *states, [None] * ctx.count, d_weights, None, None, None


lstm.register_autograd(_differentiate, setup_context=_save)
