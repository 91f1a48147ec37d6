"""Gates and states of every step: recorded beside a call, kept as a `Trace`, drawn.

In: a checked call. Out: a `Trace`, and pictures of it. `record` makes a `trace`, `plot` draws it as a `figure`.
"""
