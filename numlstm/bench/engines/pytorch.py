"""PyTorch, and the oneDNN that it contains."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from numlstm.base.typing import Array
from numlstm.bench.engines.task import LeftOutError, Setting, Task, check_supported, package_version
from numlstm.bench.grid import Workload


def model(workload: Workload, parameters: Mapping[str, Array]) -> Any:
    """The ``torch.nn.LSTM`` of a workload, in train mode."""
    package_version("torch")
    import torch

    config = workload.config
    lstm = torch.nn.LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        batch_first=config.batch_first,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        dtype=getattr(torch, workload.dtype),
    )
    lstm.load_state_dict({name: torch.from_numpy(value) for name, value in parameters.items()})
    return lstm


def torch(task: Task) -> dict[str, Setting]:
    """PyTorch in inference mode, with tensors that share the memory of the arrays.

    Its LSTM has two implementations: oneDNN's, which packs the weights in every call, and its own, which is faster for
    single steps. The switch between them is global, and so is the number of threads: both are set for a round and then
    restored. ``torch.compile`` does not compile an LSTM; measured, it only adds the overhead of its own call.
    """
    lstm = model(task.workload, task.parameters).eval()
    import torch

    x, h_0, c_0 = (torch.from_numpy(array) for array in task.inputs)

    def call() -> tuple[Any, Any, Any]:
        output, (h_n, c_n) = lstm(x, (h_0, c_0))
        return output.numpy(), h_n.numpy(), c_n.numpy()

    backends: Any = torch.backends
    own = {"inference_mode, own kernels": Setting(call, partial(_inference, task.threads, False))}
    if not backends.mkldnn.is_available() or task.workload.dtype != "float32" or task.workload.proj_size:
        return own  # oneDNN's LSTM has neither float64 nor a projection
    return {"inference_mode, oneDNN": Setting(call, partial(_inference, task.threads, True)), **own}


def onednn(task: Task) -> dict[str, Setting]:
    """oneDNN with weights that are packed once, by operators that ``torch.compile`` uses for a frozen LSTM.

    PyTorch's LSTM packs them in every call. The operators run one layer and direction, and have no documentation.
    """
    package_version("torch")
    check_supported(task.workload, "onednn", batch_first=False)
    import torch

    backends: Any = torch.backends
    if not backends.mkldnn.is_available():
        raise LeftOutError("this PyTorch was built without oneDNN")
    pack: Any = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight
    layer: Any = torch.ops.aten.mkldnn_rnn_layer.default
    hidden_size, directions = task.workload.hidden_size, task.workload.directions
    parameters = {name: torch.from_numpy(value) for name, value in task.parameters.items()}
    x, h_0, c_0 = (torch.from_numpy(array) for array in task.inputs)
    shape = task.workload.sequence_length, task.workload.batch_size
    cells = []
    with _inference(task.threads, True):
        for _, _, suffix in task.workload.config.cells():
            kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            w_ih, w_hh, b_ih, b_hh = (parameters[f"{kind}{suffix}"] for kind in kinds)
            reverse = suffix.endswith("reverse")
            packed = pack(w_ih, w_hh, hidden_size, reverse, True, False, [*shape, w_ih.shape[1]])
            cells.append((*packed, b_ih, b_hh, reverse))

    def call() -> tuple[Any, Any, Any]:
        below, states = x, []
        for first in range(0, len(cells), directions):
            outputs = []
            for at in range(first, first + directions):
                *weights, reverse = cells[at]
                # reverse, batch sizes, mode (2: LSTM), layers, bias, bidirectional, batch first, training
                options: tuple[Any, ...] = reverse, [], 2, hidden_size, 1, True, False, False, False
                output, *state, _ = layer(below, *weights, h_0[at], c_0[at], *options)
                outputs.append(output)
                states.append(state)
            below = outputs[0] if directions == 1 else torch.cat(outputs, 2)
        h_n, c_n = (torch.stack(each).reshape(h_0.shape) for each in zip(*states, strict=True))
        return below.numpy(), h_n.numpy(), c_n.numpy()

    return {"weights packed once": Setting(call, partial(_inference, task.threads, True))}


@contextmanager
def _inference(threads: int, onednn: bool) -> Iterator[None]:
    """Inference mode with a number of threads, and with or without oneDNN; restores both."""
    import torch

    with torch_setting(threads, onednn), torch.inference_mode():
        yield


@contextmanager
def torch_setting(threads: int, onednn: bool) -> Iterator[None]:
    """A number of threads, with or without oneDNN; restores both."""
    import torch

    backends: Any = torch.backends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch also sets TF32, and warns if there is no GPU
        switch = backends.mkldnn.flags(enabled=onednn)
        switch.__enter__()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            switch.__exit__(None, None, None)


def save_with_torch(path: str | os.PathLike[str], parameters: Mapping[str, Array]) -> None:
    """Write a state dict as PyTorch does."""
    package_version("torch")
    import torch

    torch.save({name: torch.from_numpy(value) for name, value in parameters.items()}, path)
