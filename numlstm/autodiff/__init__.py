"""Backpropagation through time: the pass of a call that keeps what its gradients need, and the pass back.

``calls`` has what ``vjp`` does, ``passes`` runs the kernels, ``plans`` lays out their plans and memory, ``gradients``
is what comes out.

In: arrays whose shapes are right, and packed weights. Out: gradients. Knows runtime and kernels; knows no LSTM.
"""
