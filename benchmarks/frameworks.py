"""Forward and backward pass of an LSTM inside PyTorch, numlstm.torch beside torch.nn.LSTM, and inside JAX.

    python benchmarks/frameworks.py              # all workloads, 10 rounds
    python benchmarks/frameworks.py seed -r 50   # one of them, 50 rounds
    python benchmarks/frameworks.py --jax seed   # numlstm.jax, called by XLA and by callbacks

Rounds of both modules are interleaved. Of each, the least time of the thread counts: a call, backpropagation from a
gradient of the output, and with "step" an SGD step, after which weights are packed again. All is on one thread. JAX has
threads of its own: there the clock on the wall counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

import numlstm

# input, hidden, layers, directions, steps, batch; and how many calls a round has
WORKLOADS = {
    "seed": (6, 4, 2, 1, 5, 1, 100),
    "amp": (1, 40, 1, 1, 2048, 8, 1),
    "forecast": (8, 64, 2, 1, 168, 64, 1),
    "packed": (40, 64, 1, 1, 400, 16, 1),
    "tagger": (100, 256, 1, 2, 50, 16, 1),
    "voice": (40, 256, 3, 1, 160, 8, 1),
}


def passes(ours: bool, name: str, step: bool) -> Callable[[], float]:
    """What makes a round and gives its seconds a call."""
    import torch

    from numlstm.torch import LSTM

    torch.set_num_threads(1)
    kind = LSTM if ours else torch.nn.LSTM
    inputs, hidden, layers, directions, steps, batch, repeats = WORKLOADS[name]
    torch.manual_seed(0)
    module = kind(inputs, hidden, layers, bidirectional=directions == 2)
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-6)
    x = torch.randn(steps, batch, inputs)
    d_output = torch.randn(steps, batch, directions * hidden)
    sizes = None
    if name == "packed":
        lengths = torch.randint(steps // 4, steps + 1, (batch,)).sort(descending=True).values
        (x, sizes, *_), (d_output, *_) = (torch.nn.utils.rnn.pack_padded_sequence(a, lengths) for a in (x, d_output))
    x.requires_grad_()

    def call() -> float:
        begun = time.thread_time()
        for _ in range(repeats):
            output, _ = module(x if sizes is None else torch.nn.utils.rnn.PackedSequence(x, sizes))
            (output if sizes is None else output.data).backward(d_output)
            if step:
                optimiser.step()
            x.grad = None
            module.zero_grad()
        return (time.thread_time() - begun) / repeats

    return call


def inside_jax(name: str, rounds: int) -> list[float]:
    """Milliseconds of both passes of numlstm.jax, called by XLA and then by callbacks; packed workloads are padded."""
    import jax

    from numlstm.jax import host_calls, lstm

    inputs, hidden, layers, directions, steps, batch, repeats = WORKLOADS[name]
    own = numlstm.LSTM(inputs, hidden, layers, bidirectional=directions == 2, seed=0)
    parameters, x = own.state_dict(), np.ones((steps, batch, inputs), np.float32)
    given = {name: jax.numpy.asarray(array) for name, array in parameters.items()}, jax.numpy.asarray(x)
    found = []
    for handled in (True, False):
        host_calls.has_handlers = lambda handled=handled: handled
        jax.clear_caches()
        gradients = jax.jit(jax.grad(lambda p, x: (lstm(p, x)[0] ** 2).sum(), (0, 1)))
        jax.block_until_ready(gradients(*given))
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(gradients(*given))
            times.append((time.perf_counter() - begun) / repeats * 1e3)
        found.append(min(times))
    return found


def main() -> None:
    """Time the workloads that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("-r", "--rounds", type=int, default=10)
    parser.add_argument("--jax", action="store_true", help="inside JAX, in place of PyTorch")
    arguments = parser.parse_args()
    numlstm.set_num_threads(1)
    if arguments.jax:
        print("ms                    by XLA   by callbacks   ratio")
        for name in arguments.workloads:
            handled, called = inside_jax(name, arguments.rounds)
            print(f"{name:18s} {handled:9.3f} {called:14.3f} {called / handled:7.2f}", flush=True)
        return
    print("ms                 numlstm.torch   torch.nn   ratio   with a step: numlstm.torch   torch.nn   ratio")
    for name in arguments.workloads:
        calls = [passes(ours, name, step) for step in (False, True) for ours in (True, False)]
        for call in calls:
            call()
        times = np.array([[call() for call in calls] for _ in range(arguments.rounds)]).min(axis=0) * 1e3
        own, theirs, of_own, of_theirs = times
        print(f"{name:18s} {own:13.3f} {theirs:10.3f} {theirs / own:7.2f} {of_own:26.3f} {of_theirs:10.3f}", end="")
        print(f" {of_theirs / of_own:7.2f}", flush=True)


if __name__ == "__main__":
    main()
