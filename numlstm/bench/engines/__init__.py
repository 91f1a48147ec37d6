"""numlstm and the baselines, each in its fastest documented setting.

An engine is a function that takes a task and returns its settings: ways to make the same call. If the fastest of them
depends on the sizes, the worker times them all and keeps the fastest.

A call takes NumPy arrays (input, h_0, c_0) and returns NumPy arrays. In the style "fresh" it returns new arrays, as
``lstm(input, (h_0, c_0))`` does; in the style "reuse" it may write to buffers that the engine keeps, as
``lstm.forward(input, (h_0, c_0), out=out)`` does.
"""

from numlstm.bench.engines.litert_interpreter import litert
from numlstm.bench.engines.numpy_loop import numpy
from numlstm.bench.engines.onnx_readers import mnn, onnxruntime, openvino
from numlstm.bench.engines.own import numlstm
from numlstm.bench.engines.pytorch import onednn, save_with_torch, torch
from numlstm.bench.engines.task import STYLES, Engine, LeftOutError, Setting, Task, package_version, results

__all__ = [
    "BASELINES",
    "ENGINES",
    "STYLES",
    "Engine",
    "LeftOutError",
    "Setting",
    "Task",
    "numlstm",
    "package_version",
    "results",
    "save_with_torch",
    "torch",
]

ENGINES: dict[str, Engine] = {
    "numlstm": numlstm,
    "torch": torch,
    "onednn": onednn,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "litert": litert,
    "mnn": mnn,
    "numpy": numpy,
}
BASELINES = tuple(name for name in ENGINES if name != "numlstm")
