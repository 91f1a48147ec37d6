"""A forward call on a GPU, of numlstm and of PyTorch; without a GPU asv skips them."""

from __future__ import annotations

from typing import Any

import numpy as np

WORKLOADS = {
    "small": (8, 64, 2, 168, 64),  # input_size, hidden_size, num_layers, steps, batch
    "middle": (40, 256, 3, 160, 8),
    "large": (1024, 1024, 2, 64, 16),
    "step": (1024, 1024, 2, 1, 1),
}


class Cuda:
    """``lstm(input)`` with input and results on the device, until the results are complete."""

    params = (list(WORKLOADS), ["numlstm", "torch"])
    param_names = ("workload", "engine")
    timeout = 300.0

    def setup(self, workload: str, engine: str) -> None:
        """Make the call once, because the first one compiles."""
        from numlstm.cuda import presence

        if presence.look().missing is not None or presence.simulated():
            raise NotImplementedError("there is no GPU")  # asv skips the benchmark
        inputs, hidden, layers, steps, batch = WORKLOADS[workload]
        x = np.random.default_rng(0).standard_normal((steps, batch, inputs)).astype(np.float32)
        self.run = (
            self.numlstm(inputs, hidden, layers, x) if engine == "numlstm" else self.torch(inputs, hidden, layers, x)
        )
        self.run()

    @staticmethod
    def numlstm(inputs: int, hidden: int, layers: int, x: Any) -> Any:
        """A call of this engine."""
        from numba import cuda

        import numlstm

        net = numlstm.LSTM(inputs, hidden, layers, device="cuda").eval()
        there = cuda.to_device(x)
        output, (h_n, c_n) = net(there)
        out = (output, h_n, c_n)

        def run() -> None:
            net(there, out=out)
            cuda.synchronize()

        return run

    @staticmethod
    def torch(inputs: int, hidden: int, layers: int, x: Any) -> Any:
        """A call of PyTorch, which uses cuDNN, in float32 without TF32."""
        try:
            import torch
        except ImportError:
            raise NotImplementedError("there is no PyTorch") from None
        if not torch.cuda.is_available():
            raise NotImplementedError("this PyTorch has no CUDA")
        torch.backends.cudnn.allow_tf32 = False
        net, there = torch.nn.LSTM(inputs, hidden, layers, device="cuda").eval(), torch.as_tensor(x, device="cuda")

        def run() -> None:
            with torch.inference_mode():
                net(there)
            torch.cuda.synchronize()

        return run

    def time_call(self, workload: str, engine: str) -> None:
        """One call, waited for."""
        self.run()
