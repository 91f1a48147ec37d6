"""Engines that read ONNX: ONNX Runtime, OpenVINO, MNN."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.engines.onnx_model import onnx_model
from numlstm.bench.engines.task import Setting, Task, check_supported, package_version

INPUTS, OUTPUTS = ["input", "h_0", "c_0"], ["output", "h_n", "c_n"]


def onnxruntime(task: Task) -> dict[str, Setting]:
    """ONNX Runtime with all optimisations, sequential: ``session.run``, or in the style "reuse" an I/O binding."""
    package_version("onnxruntime")
    package_version("onnx")
    check_supported(task.workload, "onnxruntime")
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
    check_supported(task.workload, "openvino")
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


def mnn(task: Task) -> dict[str, Setting]:
    """MNN: a module of its converter's model, with placeholders that are written before each call.

    With ``shape_mutable=False`` it takes longer for a step, and is wrong for a sequence.
    """
    package_version("mnn")
    package_version("onnx")
    check_supported(task.workload, "mnn")
    with _quiet():
        import _tools  # MNN's converter. Its Python wrapper, MNN.tools, would install a package that reports its use
        from MNN import expr, nn

        # without a manager of its own a step takes ten times as long
        manager = nn.create_runtime_manager(({"backend": "CPU", "numThread": task.threads, "precision": "high"},))
        with tempfile.TemporaryDirectory(prefix="numlstm-bench-") as folder:
            written, converted = Path(folder, "model.onnx"), Path(folder, "model.mnn")
            written.write_bytes(onnx_model(task.workload, task.parameters))
            files = ["--modelFile", str(written), "--MNNModel", str(converted)]
            _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "numlstm"])
            module = nn.load_module_from_file(
                str(converted), INPUTS, OUTPUTS, runtime_manager=manager, shape_mutable=True
            )
    placeholders = [expr.placeholder(array.shape, expr.NCHW, expr.float) for array in task.inputs]

    def call() -> list[Array]:
        for placeholder, array in zip(placeholders, task.inputs, strict=True):
            placeholder.write(array)
        return [result.read() for result in module.forward(placeholders)]

    def fresh() -> list[Array]:
        return [result.copy() for result in call()]

    return {"module, shape_mutable": Setting(fresh if task.style == "fresh" else call)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what a library prints to stdout to nowhere."""
    sys.stdout.flush()
    before = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(nowhere)
