"""Results as bits: a call with what the kernel counted in it, and a hash over many that any CPU with FMA must give."""

import hashlib

import numpy as np
from samples import data, make

from numlstm.kernels.plan_layout import Header
from numlstm.runtime import planner

# (hidden_size, proj_size): below, at and beyond one register, and in tails of every kind
SIZES = [(1, 0), (3, 2), (13, 0), (37, 5), (64, 0), (130, 70)]
DIGEST_OF_ALL = "287db20a4aad374029a349374d34421de2883fe33525528af2c2b06d1ce8b349"


def run(lstm, x, hx=None, **settings):
    """Results and the kernel's counters."""
    with planner.override(**settings):
        lstm(x[:1], hx)  # so that the workspace exists
        for workspace in lstm._model.executor.idle:
            workspace.plan = None
        output, (h_n, c_n) = lstm(x, hx)
        counts = lstm._model.executor.idle[-1].slots[: Header.LENGTH].copy()
    return (output, h_n, c_n), counts


def digest():
    """A hash over results of both dtypes, all flags and many sizes; the draws are of a generator that NumPy froze."""
    total = hashlib.sha256()
    for dtype in ("float32", "float64"):
        for hidden, proj in SIZES:
            draw = np.random.RandomState(hidden).standard_normal
            lstm = make(hidden, proj, dtype, num_layers=2, bidirectional=True)
            lstm.load_state_dict({name: draw(value.shape) / 8 for name, value in lstm.named_parameters()})
            for batch in (1, 7):
                x, hx = (
                    draw((6, batch, 5)).astype(dtype),
                    [draw(s.shape).astype(dtype) for s in data(lstm, 1, batch)[1]],
                )
                x[2] *= 1e3
                for array in run(lstm, x, tuple(hx))[0]:
                    total.update(array.tobytes())
    return total.hexdigest()
