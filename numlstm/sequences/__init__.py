"""Sequences of several lengths, and sequences that go on from call to call.

In: packed weights, arrays. Out: results and states. `LSTM` imports from here; nothing here imports `LSTM`.
"""
