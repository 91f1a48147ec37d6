"""Small LSTMs that bring every CUDA kernel to run, and their comparison with the CPU bit by bit."""

from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from judge import equal, flat
from samples import data

import numlstm
from numlstm.cuda import device, planner
from numlstm.cuda.kernels import registry


class Case(NamedTuple):
    """Sizes, and what is forced on the planner so that this kernel runs."""

    kernel: str
    sizes: dict[str, Any]
    steps: int
    batch: int
    forced: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    lengths: tuple[int, ...] = ()  # of the sequences, where they differ
    there: bool = False  # whether the caller's arrays are on the device

    def __str__(self):
        return "-".join(str(part) for part in self if part not in ((), False))


BOTH = {"num_layers": 2, "bidirectional": True}
NO_REGISTERS = {"REGISTER_UNITS": {4: 0, 8: 0}}


def streamed(rows):
    return NO_REGISTERS | {"TILES": {4: (rows,), 8: (rows,)}, "LAUNCH": 1.0}


def stepped(rows):
    return NO_REGISTERS | {"TILES": {4: (rows,), 8: (rows,)}, "LAUNCH": -1.0}


# one for each kernel, as small as shows every barrier and every guard: also what mutants are tried on
SMALLEST = {
    "project": Case("step", {"input_size": 18, "hidden_size": 3, "proj_size": 2}, 2, 2, stepped(2)),
    "register": Case("register", {"input_size": 2, "hidden_size": 18}, 4, 2),
    "register of few units": Case("register", {"input_size": 2, "hidden_size": 3}, 2, 2),
    "stream": Case("stream", {"input_size": 2, "hidden_size": 19}, 4, 3, streamed(2)),
    "step": Case("step", {"input_size": 2, "hidden_size": 19}, 3, 3, stepped(2)),
    "register, lengths": Case("register", {"input_size": 2, "hidden_size": 3, **BOTH}, 4, 3, {}, (2, 4, 1)),
    "stream, lengths": Case("stream", {"input_size": 2, "hidden_size": 5, **BOTH}, 4, 3, streamed(2), (1, 4, 2)),
    "step, lengths": Case("step", {"input_size": 2, "hidden_size": 5, **BOTH}, 4, 3, stepped(2), (3, 1, 2), True),
    "project, lengths": Case(
        "step", {"input_size": 3, "hidden_size": 5, "proj_size": 2, **BOTH}, 3, 3, stepped(2), (2, 3, 3), True
    ),
}


def forced(settings):
    """With the planner's private settings."""
    return patch.multiple(planner, **settings) if settings else nullcontext()


def on_both(case, dtype):
    """Results on the CPU and on CUDA, and how often each kernel was launched."""
    net = numlstm.LSTM(**case.sizes, dtype=dtype, seed=1).eval()
    x, hx = data(net, case.steps, case.batch)
    more = {"lengths": case.lengths} if case.lengths else {}
    for sequence, length in enumerate(case.lengths):
        x[length:, sequence] = np.nan  # padding is not read
    want = flat(net(x, hx, **more))
    before = registry.launches.copy()
    with forced(case.forced):
        net.to("cuda")
        if case.there:
            there = net(device.upload(x), tuple(device.upload(state) for state in hx), **more)
            got = tuple(part.copy_to_host() for part in flat(there))
        else:
            got = flat(net(x, hx, **more))
    return want, got, registry.launches - before


def differs(case, dtype="float32"):
    """Whether a kernel gives other bits than the CPU, or fails."""
    try:
        want, got, _ = on_both(case, dtype)
    except Exception:
        return True
    return not equal(got, want)
