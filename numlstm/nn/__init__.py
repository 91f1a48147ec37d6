"""What stands around an LSTM in training: a linear head, an embedding, and losses.

A layer's ``vjp`` gives its result and a function from the result's gradient to its own gradients, as that of an LSTM
does. A loss gives its value and its gradient at once. There is no engine that traces what is called in between: hand
each gradient on yourself, from the loss down.

In: arrays, gradients. Out: results, gradients. Nothing here knows LSTMs or kernels.

Examples
--------
>>> import numpy as np
>>> head = Linear(2, 1, dtype=np.float64, seed=0)
>>> x, y = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [2.0], [3.0]])
>>> for _ in range(200):
...     prediction, backward = head.vjp(x)
...     value, d_prediction = mse_loss(prediction, y)
...     for name, gradient in backward(d_prediction).parameters.items():
...         setattr(head, name, getattr(head, name) - 0.5 * gradient)
>>> round(value, 6), head([[2.0, 2.0]]).round(3).tolist()
(0.0, [[6.0]])
"""

from numlstm.nn.layers import Embedding, Linear
from numlstm.nn.losses import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss

__all__ = [
    "Embedding",
    "Linear",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "l1_loss",
    "mse_loss",
]
