"""LSTMs that PyTorch trains and numlstm runs: `LSTM`, a module like ``torch.nn.LSTM``, and `accelerate` for a model.

``module`` has both. ``functions`` is what autograd and torch.func see, ``operators`` what torch.compile sees, and
``engine`` runs the kernels on the memory of tensors.

In: tensors and modules. Out: tensors. Imports PyTorch, and nothing else of numlstm imports it.
"""

from numlstm.torch.module import LSTM, accelerate

__all__ = ["LSTM", "accelerate"]
