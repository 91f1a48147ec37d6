"""numlstm: an LSTM engine for the CPU with the interface of ``torch.nn.LSTM``, without PyTorch.

Examples
--------
>>> import numlstm
>>> lstm = numlstm.LSTM(6, 4, num_layers=2, seed=0)
>>> output, (h_n, c_n) = lstm([[0.0] * 6] * 5)
>>> output.shape, h_n.shape, c_n.shape
((5, 4), (2, 4), (2, 4))
"""

import sys
from typing import TYPE_CHECKING, Any

from numlstm import lazy
from numlstm.files import list_lstms, load, load_cell, load_tensors
from numlstm.lstm import LSTM
from numlstm.runtime.threads import get_num_threads, num_threads, set_num_threads

if TYPE_CHECKING:
    from numlstm.base.cell_options import CellOptions
    from numlstm.cell import LSTMCell
    from numlstm.interop import from_torch
    from numlstm.models.loading import load_model
    from numlstm.sequences.packing import (
        PackedSequence,
        pack_padded_sequence,
        pack_sequence,
        pad_packed_sequence,
        pad_sequence,
        unpack_sequence,
        unpad_sequence,
    )
    from numlstm.sequences.pool import Pool, Session
    from numlstm.sequences.stream import Stream, step_function
    from numlstm.tracing.plot import plot_trace
    from numlstm.tracing.trace import Trace

    __version__: str

__all__ = [
    "LSTM",
    "CellOptions",
    "LSTMCell",
    "PackedSequence",
    "Pool",
    "Session",
    "Stream",
    "Trace",
    "from_torch",
    "get_num_threads",
    "list_lstms",
    "load",
    "load_cell",
    "load_model",
    "load_tensors",
    "num_threads",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "plot_trace",
    "set_num_threads",
    "step_function",
    "unpack_sequence",
    "unpad_sequence",
]

find, tensors = list_lstms, load_tensors  # deprecated names

# Imported on first access: a program may never need them.
_LATER = {
    **lazy.MODULES,
    "CellOptions": "base.cell_options",
    "Session": "sequences.pool",
    "from_torch": "interop",
    "load_model": "models.loading",
    "plot_trace": "tracing.plot",
    "step_function": "sequences.stream",
} | dict.fromkeys(
    (
        "pack_padded_sequence",
        "pack_sequence",
        "pad_packed_sequence",
        "pad_sequence",
        "unpack_sequence",
        "unpad_sequence",
    ),
    "sequences.packing",
)

if not TYPE_CHECKING:  # a type checker that saw this would accept any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":  # reads the installed package's metadata
            from importlib.metadata import version

            value: Any = version("numlstm")
        elif name in _LATER:
            from importlib import import_module

            value = getattr(import_module(f"numlstm.{_LATER[name]}"), name)
        else:
            raise AttributeError(f"module 'numlstm' has no attribute '{name}'", name=name, obj=sys.modules[__name__])
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name[:2] == name[-2:] == "__")})
