"""Converts LSTMs of other libraries in memory, without importing those libraries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arguments import FLOAT32, cell_config, dropout_probability, lstm_config, parameter_dtype
from numlstm.base.validation.arrays import real_array
from numlstm.cell import LSTMCell
from numlstm.lstm import LSTM

TORCH_MODULES = "torch.nn.modules.rnn", "numlstm.torch.module"
LSTM_SIZES = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size")
WIDENED = ("torch.float16", "torch.bfloat16")  # to float32, which holds them exactly


def from_torch(module: Any) -> LSTM | Any:
    """Return an LSTM or LSTMCell with the sizes, flags and parameters of PyTorch's, in eval mode.

    Parameters
    ----------
    module : torch.nn.LSTM, torch.nn.LSTMCell, or a torch.nn.Module that holds exactly one of them
        On any device; its parameters are copied. Subclasses are accepted if they do not override ``forward``, and
        parametrised modules with the parameters' current values. Other parts of an enclosing module are ignored.

    Returns
    -------
    LSTM or LSTMCell
        float64 if the module is, else float32, which holds float16 and bfloat16 exactly.

    Raises
    ------
    TypeError
        The module is of another type, holds several of them, may compute something else, or has parameters of
        another dtype.
    ValueError
        A parameter's shape does not match the module's sizes.

    Examples
    --------
    >>> from_torch("model.pt")
    Traceback (most recent call last):
        ...
    TypeError: from_torch takes a torch.nn.LSTM or torch.nn.LSTMCell, not str
    numlstm.load reads a file.
    """
    module = _only_one(module)
    base = _base(module)
    kind = base.__name__
    if type(module).forward is not base.forward or "forward" in vars(module):
        raise TypeError(
            f"{type(module).__name__} has a forward of its own, which may compute something else than {kind}'s\n"
            f"If it does not, make a numlstm.{kind} of its sizes and load_state_dict() its parameters."
        )
    for hooks in ("_forward_pre_hooks", "_forward_hooks"):
        for hook in getattr(module, hooks, {}).values():
            is_pruned = type(hook).__module__ == "torch.nn.utils.prune"
            raise TypeError(
                f"the {kind} {'is pruned by' if is_pruned else 'has'} forward hooks, which numlstm cannot run\n"
                "Remove them first: torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm makes "
                "plain parameters. Or torch.save its state dict: numlstm.load understands these three."
            )
    if kind == "LSTM":
        config = lstm_config(**{name: getattr(module, name) for name in LSTM_SIZES}, dropout=0.0)
        config = config._replace(dropout=dropout_probability(module.dropout))
        return LSTM._from_parameters(config, *_parameters(module, config.parameter_shapes()))
    config = cell_config(module.input_size, module.hidden_size, module.bias)
    shapes = {name.removesuffix(LSTMCell._suffix): shape for name, shape in config.parameter_shapes().items()}
    return LSTMCell._from_parameters(config, *_parameters(module, shapes))


def _base(module: object) -> Any:
    """The PyTorch class that the module is an instance of, or None."""
    for base in type(module).__mro__:
        if base.__module__ in TORCH_MODULES and base.__name__ in ("LSTM", "LSTMCell"):
            return base
    return None


def _only_one(module: object) -> Any:
    """The LSTM or LSTMCell that a module is or holds; TypeError if it holds none or several."""
    if _base(module) is not None:
        return module
    inside = {}
    if hasattr(module, "named_modules") and not isinstance(module, type):
        inside = {name: child for name, child in module.named_modules() if _base(child) is not None}
    if len(inside) == 1:
        return next(iter(inside.values()))
    said = f"from_torch takes a torch.nn.LSTM or torch.nn.LSTMCell, not {type(module).__name__}"
    if inside:
        calls = "\n".join(f"  from_torch(module.get_submodule({name!r}))" for name in inside)
        said += f", which holds {len(inside)} of them\nPass one:\n{calls}"
    elif other := _in_a_file(module):
        said += f"\n{other}"
    elif isinstance(module, Mapping):
        said += "\nFor a state dict, make an LSTM of its sizes and call load_state_dict."
    elif isinstance(module, (str, os.PathLike)):
        said += "\nnumlstm.load reads a file."
    raise TypeError(said)


def _in_a_file(module: Any) -> str:
    """What `numlstm.load` reads of a module after quantisation or torch.jit, with its name; "" for others."""
    if not hasattr(module, "named_modules") or isinstance(module, type):
        return ""
    for name, child in module.named_modules():
        own = f"Its module {name!r}" if name else "It"
        if type(child).__module__.startswith("torch.ao.nn.quantized.dynamic") and type(child).__name__.startswith(
            "LSTM"
        ):
            return f"{own} is quantised: torch.save the model, and numlstm.load dequantises it."
        if getattr(child, "original_name", "") in ("LSTM", "LSTMCell"):
            return f"{own} is TorchScript: torch.jit.save the model, and numlstm.load reads it."
    return ""


def _parameters(module: object, shapes: Mapping[str, Shape]) -> tuple[np.dtype[Any], dict[str, Array]]:
    """The dtype of the module's parameters, and each parameter as an array, its shape checked."""
    tensors = {name: getattr(module, name) for name in shapes}
    dtypes = {str(tensor.dtype) for tensor in tensors.values()}
    if len(dtypes) > 1:
        raise TypeError(f"parameters must have one dtype, not {', '.join(sorted(dtypes))}")
    name = dtypes.pop()
    dtype = FLOAT32 if name in WIDENED else parameter_dtype(name.removeprefix("torch."))
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise TypeError(f"{name} is on the meta device, which holds no numbers\nGive the module parameters first.")
        arrays[name] = real_array(name, tensor.detach().cpu())
        if arrays[name].shape != shapes[name]:
            raise ValueError(
                f"{name} must have shape {shapes[name]} for the sizes that the module states, not {arrays[name].shape}"
            )
    return dtype, arrays
