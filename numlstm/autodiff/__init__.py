"""Backpropagation through time: the pass of a call that keeps what its gradients need, and the pass back.

``calls`` has what ``vjp`` does, ``small_calls`` the short way of small ones, ``passes`` runs the kernels, ``plans``
lays out their plans and memory. ``tape`` is what a call keeps, ``gradients`` what comes out. ``recomputing`` has the
passes of ``memory="low"``, ``teams`` shares a pass between threads. ``stateless`` has both passes as functions of
weights and arrays, for other libraries.

In: arrays whose shapes are right, and packed weights. Out: gradients. Knows runtime and kernels; knows no LSTM.
"""
