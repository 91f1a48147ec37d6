"""What stands around an LSTM in training: a linear head, an embedding, and losses.

A layer's ``vjp`` gives its result and a function from the result's gradient to its own gradients, as that of an LSTM
does. A loss gives its value and its gradient at once. There is no engine that traces what is called in between: hand
each gradient on yourself, from the loss down.

In: arrays, gradients. Out: results, gradients. Nothing here knows LSTMs or kernels.

Examples
--------
>>> import numpy as np
>>> import numlstm
>>> from numlstm import optim
>>> lstm, head = numlstm.LSTM(1, 8, seed=0), Linear(8, 1, seed=0)
>>> optimiser = optim.Adam([lstm, head], lr=0.05)
>>> wave = np.sin(np.arange(40.0)).reshape(40, 1, 1)
>>> for _ in range(100):
...     (output, _), lstm_backward = lstm.vjp(wave[:-1])
...     prediction, head_backward = head.vjp(output)
...     value, d_prediction = mse_loss(prediction, wave[1:])
...     of_head = head_backward(d_prediction)
...     of_lstm = lstm_backward(of_head.input)
...     optimiser.step([of_lstm.parameters, of_head.parameters])
>>> value < 0.01
True
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
