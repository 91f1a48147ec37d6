"""Checks of what users pass in, and the messages that they get.

Where ``torch.nn.LSTM`` raises, the exception type and the first line of the message are those of PyTorch 2.13, and the
checks run in its order. The lines below say what was received and what to do. A check changes nothing.

``arguments``: sizes, flags, dtypes, devices. ``arrays``: conversion to ndarray, state dicts. ``shapes``: shapes of a
call and its states. ``out``: the arrays of ``out=``. ``sessions``: streams, pools and snapshots. ``packed``:
packed sequences, lengths, padding.
"""
