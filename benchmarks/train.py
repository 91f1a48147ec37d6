"""Forward and backward pass on the workloads of ``numlstm bench train``, and a step of an optimiser."""

from __future__ import annotations

import os

from numlstm import optim
from numlstm.bench import training
from numlstm.bench.engines.training import own_model, packed
from numlstm.bench.hardware.clock import microseconds

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
FMAS = 20_000_000  # of a forward pass in the quick mode
WORKLOADS = {name: workload.shortened(FMAS) if QUICK else workload for name, workload in training.WORKLOADS.items()}


class Train:
    """What a training step takes."""

    params = (list(WORKLOADS), [1, 2])
    param_names = ("workload", "threads")
    timeout = 300.0

    def setup(self, workload: str, threads: int) -> None:
        """Run everything once, because the first call may compile and allocate."""
        task = WORKLOADS[workload].task(threads)
        self.lstm, (self.x, self.d_output) = own_model(task), packed(task)
        self.optimiser = optim.Adam(self.lstm)
        self.time_passes(workload, threads)
        self.grads = self.lstm.vjp(self.x)[1](self.d_output).parameters
        self.time_optimiser(workload, threads)

    def time_passes(self, workload: str, threads: int) -> None:
        """Both passes, with the gradient of the input."""
        _, backward = self.lstm.vjp(self.x)
        backward(self.d_output)

    def time_optimiser(self, workload: str, threads: int) -> None:
        """A step of Adam, which makes new panels."""
        self.optimiser.step(self.grads)

    def track_forward_over_inference(self, workload: str, threads: int) -> float:
        """The pass that keeps what gradients need, over a call that keeps nothing."""
        return microseconds(lambda: self.lstm.vjp(self.x)) / microseconds(lambda: self.lstm(self.x))

    track_forward_over_inference.unit = "1 is a call"  # type: ignore[attr-defined]
