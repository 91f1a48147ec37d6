"""Backpropagation through time: the pass of a call that keeps what its gradients need, and the pass back.

In: arrays whose shapes are right, and packed weights. Out: gradients. Knows runtime and kernels; knows no LSTM.
"""
