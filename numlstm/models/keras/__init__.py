"""Keras models: the layers of a configuration as NumPy functions around numlstm's LSTMs.

`graph` follows who feeds whom, `layers` and its neighbours have a function for each class of layer, and `weights` leads
from a layer to its numbers. A mask travels with the array that it belongs to, as a `Signal`, and goes where Keras sends
it.

In: a configuration and the weights beside it, which a reader has checked. Out: a model; ValueError that names the layer
that cannot be run.
"""
