"""The kernels of training, compiled into an object of their own: a forward pass that keeps, and the pass back.

``backward`` has the whole pass, ``derivatives`` those of a cell, ``products`` the sums, ``transposing`` the weights as
the pass back reads them, ``backward_layout`` its plan. ``calls`` has what Python calls for small calls.

In: what the kernels of the engine are made of. Out: functions to compile.
"""
