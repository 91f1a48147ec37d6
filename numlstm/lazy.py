"""Classes that are imported on first use, to keep the import of numlstm fast.

Annotations can name them all the same: ``lazy.Stream``.
"""

from typing import TYPE_CHECKING, Any

MODULES = {
    "Backward": "autodiff.calls",
    "LSTMCell": "cell",
    "PackedSequence": "sequences.packing",
    "Pool": "sequences.pool",
    "Stream": "sequences.stream",
    "Trace": "tracing.trace",
}

# ruff: noqa: PLC0414
if TYPE_CHECKING:
    from numlstm.autodiff.calls import Backward as Backward
    from numlstm.cell import LSTMCell as LSTMCell
    from numlstm.sequences.packing import PackedSequence as PackedSequence
    from numlstm.sequences.pool import Pool as Pool
    from numlstm.sequences.stream import Stream as Stream
    from numlstm.tracing.trace import Trace as Trace
else:  # a type checker that saw this would accept any name

    def __getattr__(name: str) -> Any:
        if name not in MODULES:
            raise AttributeError(f"module 'numlstm.lazy' has no attribute '{name}'")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"numlstm.{MODULES[name]}"), name)
        return value
