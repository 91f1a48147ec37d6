"""Sequences of several lengths, and sequences that continue from call to call.

In: packed weights, arrays. Out: results and states. `LSTM` imports from here; nothing here imports `LSTM`.

`packing`: packed and padded sequences, as in ``torch.nn.utils.rnn``; `packed_layout` has their index arithmetic,
`ragged` and `backwards` run them. `stream` and `pool` keep states between calls; `state` is what they share.
"""
