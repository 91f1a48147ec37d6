"""The LSTM as autograd and torch.func see it: a function of tensors, and its backward pass, which is another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from numlstm.autodiff.stateless import SECOND
from numlstm.torch.engine import Engine

SECOND_OF_TORCH = SECOND.format("torch.nn.LSTM") + " On a CPU: under torch.backends.mkldnn.flags(enabled=False)."
AHEAD = (
    "numlstm has no forward-mode derivatives of an LSTM (jvp)\n"
    "Use reverse mode, torch.func.grad or vjp; torch.nn.LSTM has no jvp for every dtype either."
)


def is_transformed() -> bool:
    """Whether tensors may be more than they seem: in a function that torch.func transforms, or in forward mode."""
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


class RunLSTM(torch.autograd.Function):
    """Output, h_n, c_n, and what is kept for `Backward`."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        """Run the pass.

        The inputs are the engine, the weights in panels or None, sizes, number of masks, x, h_0, c_0, masks of
        dropout, and weights.
        """
        engine, packed, sizes, count, x, h_0, c_0, *rest = inputs
        hx = None if h_0 is None else (h_0, c_0)
        return engine.forward(packed or engine.packed(rest[count:]), x, hx, rest[:count], sizes)

    @classmethod
    def call(cls, engine: Engine, weights: Sequence[Tensor], *inputs: Any) -> Any:
        """Run the pass; where no function is transformed, without what ``apply`` does first for torch.func."""
        if is_transformed():
            return cls.apply(engine, None, *inputs, *weights)
        run: Any = super(torch.autograd.Function, cls)
        return run.apply(engine, engine.packed(weights), *inputs, *weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the weights, whose version is checked; the input and the states are among what is kept."""
        engine, packed, sizes, count, x, h_0, _, *rest = inputs
        steps, rows = x.shape[:2] if sizes is None else (len(sizes), int(sizes[0]))
        ctx.call, ctx.with_hx = (engine, packed, sizes, count, steps, rows), h_0 is not None
        ctx.save_for_backward(output[3], *rest)
        ctx.mark_non_differentiable(output[3])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *by_results: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of what `forward` was given."""
        count = ctx.call[3]
        run = Backward.apply if torch.is_grad_enabled() or is_transformed() else Backward.forward
        d_input, d_h, d_c, *d_weights = run(*ctx.call, ctx.needs_input_grad[4], *by_results[:3], *ctx.saved_tensors)
        states = (d_h, d_c) if ctx.with_hx else (None, None)
        return None, None, None, None, d_input, *states, *(None,) * count, *d_weights

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        """Forward-mode derivatives."""
        raise NotImplementedError(AHEAD)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
        """One call after the other."""
        return _each(RunLSTM, info.batch_size, in_dims, inputs)


class Backward(torch.autograd.Function):
    """The gradients of the input, h_0, c_0 and the weights."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor | None, ...]:
        """Backpropagate through time.

        The inputs are those of `RunLSTM.forward` up to the number of masks, T, B, whether the gradient of the input is
        wanted, the gradients of output, h_n and c_n, the numbers kept, masks, and weights.
        """
        engine, packed, sizes, count, steps, rows, input_grad, d_output, d_h, d_c, kept, *rest = inputs
        by_results, masks, weights = (d_output, d_h, d_c), rest[:count], rest[count:]
        gradients: tuple[Tensor | None, ...] = engine.backward(
            packed or engine.packed(weights), kept, masks, by_results, steps, rows, sizes, input_grad
        )
        return gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is saved."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> NoReturn:
        """Second derivatives."""
        raise NotImplementedError(SECOND_OF_TORCH)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        """Forward-mode derivatives of gradients."""
        raise NotImplementedError(AHEAD)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
        """One call after the other."""
        return _each(Backward, info.batch_size, in_dims, inputs)


def _each(function: Any, count: int, in_dims: Sequence[int | None], inputs: Sequence[Any]) -> tuple[Any, Any]:
    """The results of ``count`` calls, stacked; and along which axis they are."""
    given = tuple(zip(inputs, in_dims, strict=True))
    calls = [
        function.apply(*(value if dim is None else value.select(dim, n) for value, dim in given)) for n in range(count)
    ]
    results = [None if of_calls[0] is None else torch.stack(of_calls) for of_calls in zip(*calls, strict=True)]
    return tuple(results), tuple(None if result is None else 0 for result in results)
