"""What stands around an LSTM: layers, functions, the model that they make together, and losses to train it.

A layer's ``vjp`` gives its result and a function from the result's gradient to its own gradients, as that of an LSTM
does. A loss gives its value and its gradient at once. `Sequential` passes both through all of its layers; there is no
engine that traces what is called otherwise: hand each gradient on yourself, from the loss down.

In: arrays, gradients. Out: results, gradients.

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

from numlstm.nn.functions import last_state, layer_norm, log_softmax, relu, sigmoid, softmax, tanh
from numlstm.nn.layers import Dropout, Embedding, LayerNorm, Linear
from numlstm.nn.losses import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss
from numlstm.nn.sequential import Sequential

__all__ = [
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Sequential",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "l1_loss",
    "last_state",
    "layer_norm",
    "log_softmax",
    "mse_loss",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]
