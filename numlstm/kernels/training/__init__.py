"""The kernels of training, compiled into an object of their own: a forward pass that keeps, and the pass back.

In: what the kernels of the engine are made of. Out: functions to compile.
"""
