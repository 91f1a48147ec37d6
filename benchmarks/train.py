"""Forward and backward pass of an LSTM on one thread: numlstm beside PyTorch, where that is installed.

    python benchmarks/train.py                      # all workloads, 5 rounds
    python benchmarks/train.py amp forecast -r 20   # some of them, 20 rounds

The rounds of the two are interleaved, and the least time of the thread counts. Both give the gradients of the input
and of all parameters. Load on the other cores slows caches and memory down for both.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import numlstm


class Workload(NamedTuple):
    """Sizes of a model and of its input; ``packed`` sequences have a quarter of the steps to all of them."""

    inputs: int
    hidden: int
    layers: int
    directions: int
    steps: int
    batch: int
    packed: bool = False
    repeats: int = 1  # calls in a round


WORKLOADS = {
    "small": Workload(6, 4, 2, 1, 5, 1, repeats=200),
    "amp": Workload(1, 40, 1, 1, 2048, 8),
    "amp_single": Workload(1, 40, 1, 1, 2048, 1),
    "forecast": Workload(8, 64, 2, 1, 168, 64),
    "packed_forecast": Workload(8, 64, 2, 1, 168, 64, packed=True),
    "packed": Workload(40, 64, 1, 1, 400, 16, packed=True),
    "tagger": Workload(100, 256, 1, 2, 50, 16),
    "voice": Workload(40, 256, 3, 1, 160, 8),
    "lm": Workload(1024, 1024, 2, 1, 32, 16),
}
Passes = Callable[[], tuple[float, float]]  # seconds of the forward and of the backward pass


def drawn(of: Workload) -> tuple[numlstm.LSTM, Any, Any, np.ndarray | None]:
    """An LSTM, its input, a gradient of its output, and lengths."""
    rng = np.random.default_rng(0)
    lstm = numlstm.LSTM(of.inputs, of.hidden, of.layers, bidirectional=of.directions == 2, seed=0)
    x = rng.standard_normal((of.steps, of.batch, of.inputs)).astype(np.float32)
    d_output = rng.standard_normal((of.steps, of.batch, of.directions * of.hidden)).astype(np.float32)
    if not of.packed:
        return lstm, x, d_output, None
    lengths = np.sort(rng.integers(of.steps // 4, of.steps + 1, of.batch))[::-1].copy()
    lengths[0] = of.steps
    packed = [numlstm.pack_padded_sequence(array, lengths) for array in (x, d_output)]
    return lstm, *packed, lengths


def ours(of: Workload) -> tuple[Passes, Passes]:
    """The passes of training, and of inference, whose second time is 0."""
    lstm, x, d_output, _ = drawn(of)

    def train() -> tuple[float, float]:
        begun = time.thread_time()
        for _ in range(of.repeats):
            _, backward = lstm.vjp(x)
        between = time.thread_time()
        for _ in range(of.repeats):
            backward(d_output)
        return between - begun, time.thread_time() - between

    def infer() -> tuple[float, float]:
        begun = time.thread_time()
        for _ in range(of.repeats):
            lstm(x)
        return time.thread_time() - begun, 0.0

    return train, infer


def theirs(of: Workload) -> Passes:
    """Those of ``torch.nn.LSTM`` with the same weights."""
    import torch

    torch.set_num_threads(1)
    lstm, x, d_output, lengths = drawn(of)
    net = torch.nn.LSTM(of.inputs, of.hidden, of.layers, bidirectional=of.directions == 2)
    net.load_state_dict({name: torch.tensor(array) for name, array in lstm.state_dict().items()})
    data = torch.tensor(np.asarray(x.data if of.packed else x), requires_grad=True)
    gradient = torch.tensor(np.asarray(d_output.data if of.packed else d_output))
    sizes = torch.tensor(np.asarray(x.batch_sizes)) if lengths is not None else None

    def train() -> tuple[float, float]:
        forth = back = 0.0
        for _ in range(of.repeats):
            begun = time.thread_time()
            given = data if sizes is None else torch.nn.utils.rnn.PackedSequence(data, sizes)
            output, _ = net(given)
            between = time.thread_time()
            (output if sizes is None else output.data).backward(gradient)
            forth, back = forth + between - begun, back + time.thread_time() - between
            data.grad = None
            net.zero_grad()
        return forth, back

    return train


def main() -> None:
    """Time the workloads that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("-r", "--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with_torch = importlib.util.find_spec("torch") is not None
    numlstm.set_num_threads(1)
    print("ms".ljust(18), "forward  backward    sum   over inference   torch   ratio")
    for name in arguments.workloads:
        of = WORKLOADS[name]
        each = [*ours(of), *([theirs(of)] if with_torch else [])]
        for passes in each:
            passes()
        times = np.array([[passes() for passes in each] for _ in range(arguments.rounds)]) / of.repeats * 1e3
        (forth, back), (inference, _), *torch = times.min(axis=0)
        compared = f"{sum(torch[0]):10.3f} {sum(torch[0]) / (forth + back):7.2f}" if torch else ""
        line = f"{name:16s} {forth:9.3f} {back:9.3f} {forth + back:8.3f} {forth / inference:10.2f}"
        print(line, compared, flush=True)


if __name__ == "__main__":
    main()
