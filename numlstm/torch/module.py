"""`LSTM`, which stands in for ``torch.nn.LSTM``, and `accelerate`, which puts it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from numlstm.base.typing import Array
from numlstm.torch import operators
from numlstm.torch.engine import DTYPES, Engine, engine
from numlstm.torch.functions import RunLSTM, is_transformed

States = tuple[Tensor, Tensor]
THEIRS: Any = nn.LSTM
KINDS, STRIDED = (nn.Parameter, Tensor), torch.strided


class LSTM(nn.RNNBase):
    """``torch.nn.LSTM``, run by numlstm's kernels.

    It takes the arguments of ``torch.nn.LSTM``, and has its parameters, state dict, results and exceptions. In train
    mode it draws the dropout that ``torch.nn.LSTM`` draws from the same seed.

    numlstm runs calls in float32 and float64 on the CPU. PyTorch runs all others: on another device, in half precision,
    with an empty batch or on tensors of a subclass. Under autocast, a call runs in the dtype of the parameters.

    Raises
    ------
    NotImplementedError
        A second derivative or a forward-mode derivative is asked for.

    Notes
    -----
    It is no subclass of ``torch.nn.LSTM``, since torch.compile refuses those: ``isinstance(module, torch.nn.LSTM)`` is
    False. The number of threads is numlstm's (`numlstm.set_num_threads`). Each call compares the parameters with those
    that it has packed, and packs them again if a bit has changed.

    Examples
    --------
    >>> import torch
    >>> lstm = LSTM(3, 4)
    >>> output, (h_n, c_n) = lstm(torch.ones(5, 2, 3))
    >>> output.sum().backward()
    >>> lstm.weight_ih_l0.grad.shape
    torch.Size([16, 3])
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__("LSTM", *args, **named)

    # What torch.nn.LSTM adds to its base class, for calls that PyTorch runs and refuses
    get_expected_cell_size = THEIRS.get_expected_cell_size
    check_forward_args = THEIRS.check_forward_args
    permute_hidden = THEIRS.permute_hidden

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, States]:
        """Run the LSTM, as ``torch.nn.LSTM`` does."""
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx)
        weights = [getattr(self, name) for name in self._flat_weights_names]
        if torch.is_autocast_enabled("cpu"):
            input, hx = _in_dtype_of(weights[0], input), _in_dtype_of(weights[0], hx)
        if not self._takes(input, hx, weights):
            return THEIRS.forward(self, input, hx)
        if input.dim() == 2:
            states = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            output, h_n, c_n = self._run(input.unsqueeze(1), states, weights, None)
            return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        if self.batch_first:
            output, h_n, c_n = self._run(input.transpose(0, 1), hx, weights, None)
            return output.transpose(0, 1), (h_n, c_n)
        output, h_n, c_n = self._run(input, hx, weights, None)
        return output, (h_n, c_n)

    @torch.compiler.disable
    def _run_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, States]:
        weights = [getattr(self, name) for name in self._flat_weights_names]
        data, batch_sizes, order, back = input
        if torch.is_autocast_enabled("cpu"):
            data, hx = _in_dtype_of(weights[0], data), _in_dtype_of(weights[0], hx)
        sizes = _checked_sizes(data, batch_sizes)
        if sizes is None or not self._takes(data, hx, weights, int(sizes[0])):
            return THEIRS.forward(self, PackedSequence(data, batch_sizes, order, back), hx)
        states = None if hx is None else self.permute_hidden(hx, order)
        output, h_n, c_n = self._run(data, states, weights, sizes)
        return PackedSequence(output, batch_sizes, order, back), self.permute_hidden((h_n, c_n), back)

    def _takes(self, x: Any, hx: Any, weights: Sequence[Any], packed_rows: int = 0) -> bool:
        """Whether numlstm runs a call; if not, PyTorch runs it or says what is wrong with it."""
        if not isinstance(x, Tensor) or x.dim() not in ((2,) if packed_rows else (2, 3)) or 0 in x.shape:
            return False
        states = () if hx is None else tuple(hx)
        dtype, rows = weights[0].dtype, packed_rows or (x.shape[0 if self.batch_first else 1] if x.dim() == 3 else 0)
        if x.shape[-1] != self.input_size or dtype not in DTYPES or len(states) not in (0, 2):
            return False
        for t in (x, *states, *weights):
            if type(t) not in KINDS or t.dtype is not dtype or not t.is_cpu or t.layout is not STRIDED:
                return False
        if not torch.compiler.is_compiling() and not self._engine(dtype).fits(weights):
            return False
        cells, of_rows = self.num_layers * (2 if self.bidirectional else 1), (rows,) if rows else ()
        sizes = self.proj_size or self.hidden_size, self.hidden_size
        return all(state.shape == (cells, *of_rows, size) for state, size in zip(states, sizes, strict=False))

    def _engine(self, dtype: torch.dtype) -> Engine:
        return engine(
            self.input_size, self.hidden_size, self.num_layers, self.bias, self.bidirectional, self.proj_size, dtype
        )

    def _run(
        self, x: Tensor, hx: States | None, weights: Sequence[Tensor], sizes: Array | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, h_n and c_n of a call whose steps are the first axis, or which is packed."""
        h_0, c_0 = (None, None) if hx is None else hx
        masks = []
        if self.training and self.dropout > 0:
            features = (2 if self.bidirectional else 1) * (self.proj_size or self.hidden_size)
            ones = x.new_ones(*x.shape[:-1], features)
            masks = [nn.functional.dropout(ones, self.dropout) for _ in range(self.num_layers - 1)]
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h_0, c_0, *weights) if t is not None)
        if torch.compiler.is_compiling():
            call = self.num_layers, self.bidirectional, keep
            output, h_n, c_n, _ = operators.lstm(x, h_0, c_0, masks, weights, *call)
            return output, h_n, c_n
        of_sizes = self._engine(weights[0].dtype)
        if keep or masks or is_transformed():
            output, h_n, c_n, _ = RunLSTM.call(of_sizes, weights, sizes, len(masks), x, h_0, c_0, *masks)
            return output, h_n, c_n
        return of_sizes.infer(weights, x, hx, sizes)


def _in_dtype_of(weight: Tensor, value: Any) -> Any:
    """Tensors under autocast in the dtype of the parameters."""
    if isinstance(value, Tensor):
        return value.to(weight.dtype) if value.is_floating_point() else value
    return tuple(_in_dtype_of(weight, item) for item in value) if isinstance(value, tuple) else value


def _checked_sizes(data: Any, batch_sizes: Any) -> Array | None:
    """The sizes of a packed sequence as an array, or None if they do not fit its data."""
    if not isinstance(data, Tensor) or not isinstance(batch_sizes, Tensor) or batch_sizes.dtype != torch.int64:
        return None
    sizes: Array = batch_sizes.numpy()
    falls = sizes.ndim == 1 and len(sizes) > 0 and sizes[-1] > 0 and bool((np.diff(sizes) <= 0).all())
    return sizes if falls and int(sizes.sum()) == len(data) else None


def accelerate(model: nn.Module) -> dict[str, str]:
    """Let numlstm run the LSTMs of a model: those in float32 and float64 on the CPU, in place.

    Each ``torch.nn.LSTM`` becomes a `numlstm.torch.LSTM`. It stays the same object with the same Parameter objects,
    hooks and mode, so that optimisers, tied weights and references to it stay valid.

    Parameters
    ----------
    model : torch.nn.Module
        Searched with all modules inside it. It may itself be a ``torch.nn.LSTM``.

    Returns
    -------
    dict of str to str
        The LSTMs that were left as they are, by their names in the model, and why.

    Raises
    ------
    TypeError
        It is not a module.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.ModuleDict({"encoder": nn.LSTM(3, 4), "decoder": nn.LSTM(3, 4).half()})
    >>> accelerate(model)
    {'decoder': 'its parameters are torch.float16, not float32 or float64'}
    >>> type(model["encoder"])
    <class 'numlstm.torch.module.LSTM'>
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate takes a torch.nn.Module, not {type(model).__name__}")
    skipped = {}
    for name, module in model.named_modules():
        kind = type(module)
        if kind is nn.LSTM:
            reason = _reason(module)
            if reason is None:
                module.__class__ = LSTM
            else:
                skipped[name] = reason
        elif isinstance(module, nn.LSTM):
            skipped[name] = (
                "it is parametrised: remove the parametrisation, accelerate, and parametrise again"
                if nn.utils.parametrize.is_parametrized(module)
                else f"it is a {kind.__name__}, which may compute something else than torch.nn.LSTM"
            )
        elif isinstance(module, torch.jit.ScriptModule) and module.original_name == "LSTM":
            skipped[name] = "it is TorchScript: accelerate the model before it is scripted"
        elif isinstance(module, nn.LSTMCell):
            skipped[name] = "it is an LSTMCell, which numlstm.torch does not run"
    return skipped


def _reason(module: nn.LSTM) -> str | None:
    """Why numlstm does not run an LSTM; None if it does."""
    if "forward" in vars(module):
        return "its forward was replaced"
    for weight in module.parameters():
        if weight.device.type != "cpu":
            return f"its parameters are on {weight.device}, not on the CPU"
        if weight.dtype not in DTYPES:
            return f"its parameters are {weight.dtype}, not float32 or float64"
    return None
