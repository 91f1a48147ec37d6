"""numlstm and the baselines, each in its fastest documented setting.

An engine is a function that takes a task and returns its settings: ways to make the same call. If the fastest of them
depends on the sizes, the worker times them all and keeps the fastest.

A call takes NumPy arrays (input, h_0, c_0) and returns NumPy arrays. In the style "fresh" it returns new arrays, as
``lstm(input, (h_0, c_0))`` does; in the style "reuse" it may write to buffers that the engine keeps, as
``lstm.forward(input, (h_0, c_0), out=out)`` does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.grid import Workload
from numlstm.bench.onnx_model import onnx_model

STYLES = ("fresh", "reuse")


class LeftOutError(Exception):
    """An engine that cannot be measured; the message says why."""


@dataclass(frozen=True)
class Setting:
    """One way to make the call.

    ``call()`` returns ``output, h_n, c_n`` as NumPy arrays, flat or as ``output, (h_n, c_n)``. It runs inside
    ``context()``, which is entered once a round, before the clock starts.
    """

    call: Callable[[], Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Task:
    """What an engine is given. A call must not write to the inputs: all calls read the same arrays."""

    workload: Workload
    threads: int
    style: str
    parameters: Mapping[str, Array]
    inputs: tuple[Array, Array, Array]


Engine = Callable[[Task], dict[str, Setting]]


def results(returned: Any) -> tuple[Array, Array, Array]:
    """``output, h_n, c_n`` of a call, nested or not."""
    if len(returned) == 2:
        output, (h_n, c_n) = returned
    else:
        output, h_n, c_n = returned
    return output, h_n, c_n


def package_version(name: str) -> str:
    """The installed version, or a LeftOutError that says how to install it."""
    try:
        return version(name)
    except PackageNotFoundError:
        raise LeftOutError(f"{name} is not installed (pip install {name})") from None


def numlstm(task: Task) -> dict[str, Setting]:
    """This package."""
    from numlstm.lstm import LSTM
    from numlstm.runtime.threads import set_num_threads

    set_num_threads(task.threads)
    workload, config = task.workload, task.workload.config
    lstm = LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        batch_first=config.batch_first,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        dtype=workload.dtype,
    )
    lstm.load_state_dict(task.parameters)
    lstm.eval()
    x, h_0, c_0 = task.inputs
    if task.style == "reuse":
        out = tuple(np.empty_like(array) for array in results(lstm(x, (h_0, c_0))))
        return {"lstm.forward with out=": Setting(partial(lstm.forward, x, (h_0, c_0), out=out))}
    return {"lstm(input, (h_0, c_0))": Setting(partial(lstm, x, (h_0, c_0)))}


def torch(task: Task) -> dict[str, Setting]:
    """PyTorch in inference mode, with tensors that share the memory of the arrays.

    Its LSTM has two implementations: oneDNN's, which packs the weights in every call, and its own, which is faster for
    single steps. The switch between them is global, and so is the number of threads: both are set for a round and then
    restored. ``torch.compile`` does not compile an LSTM; measured, it only adds the overhead of its own call.
    """
    package_version("torch")
    import torch

    config = task.workload.config
    lstm = torch.nn.LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        batch_first=config.batch_first,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        dtype=getattr(torch, task.workload.dtype),
    )
    lstm.load_state_dict({name: torch.from_numpy(value) for name, value in task.parameters.items()})
    lstm.eval()
    backends: Any = torch.backends
    x, h_0, c_0 = (torch.from_numpy(array) for array in task.inputs)

    def call() -> tuple[Any, Any, Any]:
        output, (h_n, c_n) = lstm(x, (h_0, c_0))
        return output.numpy(), h_n.numpy(), c_n.numpy()

    @contextmanager
    def inference(onednn: bool) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the switch also sets TF32, and warns if there is no GPU
            switch = backends.mkldnn.flags(enabled=onednn)
            switch.__enter__()
        threads = torch.get_num_threads()
        torch.set_num_threads(task.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(threads)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                switch.__exit__(None, None, None)

    own = {"inference_mode, own kernels": Setting(call, partial(inference, False))}
    if not backends.mkldnn.is_available() or task.workload.dtype != "float32" or task.workload.proj_size:
        return own  # oneDNN's LSTM has neither float64 nor a projection
    return {"inference_mode, oneDNN": Setting(call, partial(inference, True)), **own}


def onnxruntime(task: Task) -> dict[str, Setting]:
    """ONNX Runtime with all optimisations, sequential: ``session.run``, or in the style "reuse" an I/O binding."""
    package_version("onnxruntime")
    package_version("onnx")
    _only_what_onnx_has(task.workload, "onnxruntime", ("float32",))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = onnx_model(task.workload, task.parameters)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = ["output", "h_n", "c_n"]
    feeds = dict(zip(("input", "h_0", "c_0"), task.inputs, strict=True))
    if task.style == "fresh":
        return {"session.run": Setting(partial(session.run, names, feeds))}
    out = [np.empty_like(array) for array in session.run(names, feeds)]
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name, array in zip(names, out, strict=True):
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def call() -> list[Array]:
        session.run_with_iobinding(binding)
        return out

    return {"io_binding": Setting(call)}


def openvino(task: Task) -> dict[str, Setting]:
    """OpenVINO on the CPU: latency hint, static shape, input tensors that share the memory of the arrays.

    The precision is set to float32, because the default is bfloat16 on a CPU that has such instructions. The results
    are buffers of the request, which the next call overwrites: the style "fresh" copies them. Setting the tensors once
    was measured to be faster than ``infer(inputs, share_inputs=True)``, ``share_outputs`` and ``start_async``.
    """
    package_version("openvino")
    package_version("onnx")
    _only_what_onnx_has(task.workload, "openvino", ("float32",))
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": task.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(onnx_model(task.workload, task.parameters)), "CPU", settings)
    request = request.create_infer_request()
    for at, array in enumerate(task.inputs):
        request.set_input_tensor(at, openvino.Tensor(array, shared_memory=True))

    def fresh() -> list[Array]:
        request.infer()
        return [request.get_output_tensor(at).data.copy() for at in range(3)]

    def reuse() -> list[Array]:
        request.infer()
        return [request.get_output_tensor(at).data for at in range(3)]

    return {"preset tensors": Setting(fresh if task.style == "fresh" else reuse)}


def _only_what_onnx_has(workload: Workload, engine: str, dtypes: tuple[str, ...]) -> None:
    if workload.proj_size:
        raise LeftOutError(f"ONNX's LSTM, which {engine} reads, has no proj_size")
    if workload.dtype not in dtypes:
        raise LeftOutError(f"{engine}'s LSTM on the CPU computes in {' or '.join(dtypes)}, not in {workload.dtype}")


ENGINES: dict[str, Engine] = {"numlstm": numlstm, "torch": torch, "onnxruntime": onnxruntime, "openvino": openvino}
BASELINES = tuple(name for name in ENGINES if name != "numlstm")


def save_with_torch(path: str | os.PathLike[str], parameters: Mapping[str, Array]) -> None:
    """Write a state dict as PyTorch does."""
    package_version("torch")
    import torch

    torch.save({name: torch.from_numpy(value) for name, value in parameters.items()}, path)
