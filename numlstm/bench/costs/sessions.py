"""Many live sessions on one model: what a step of all of them takes, beside the peak and beside a stream for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numlstm.bench.costs.overhead import model
from numlstm.bench.grid import Line, find
from numlstm.bench.hardware.clock import microseconds
from numlstm.bench.hardware.limits import Limits
from numlstm.runtime.threads import get_num_threads

LINE = find("vad_step")
SESSIONS = 1000
WAYS = ("in order", "in another order", "with gaps", "by session")  # who is present, and how the pool is told


def steps(way: str, sessions: int = SESSIONS, line: Line = LINE) -> Callable[[], Any]:
    """A step of so many sessions of a pool.

    Parameters
    ----------
    way : str
        One of `WAYS`: slots without a gap in rising order, so that no state is copied; the same slots in another order;
        slots of a pool of which every fifth session is absent, in another order; or a dict of inputs by session, all
        that there are.
    sessions : int
        Those that are present.
    line : Line
        The LSTM; its batch and its length do not matter.
    """
    lstm, random = model(line), np.random.default_rng(0)
    pool = lstm.pool(sessions * 5 // 4 if way == "with gaps" else sessions)
    there = [pool.open() for _ in range(pool.capacity)]
    present = np.array([slot for slot in range(pool.capacity) if way != "with gaps" or slot % 5 < 4])
    x = random.standard_normal((sessions, line.input_size)).astype(line.dtype)
    if way == "by session":
        inputs = dict(zip(there, x, strict=True))
        return lambda: pool.step(inputs)
    if way != "in order":
        present = random.permutation(present)
    return lambda: pool.step(present, x)


def one_by_one(sessions: int = SESSIONS, line: Line = LINE) -> Callable[[], Any]:
    """A step of as many sequences, each by a call of a stream of its own."""
    lstm, random = model(line), np.random.default_rng(0)
    streams = [lstm.stream() for _ in range(sessions)]
    inputs = list(random.standard_normal((sessions, line.input_size)).astype(line.dtype))
    return lambda: [stream(x) for stream, x in zip(streams, inputs, strict=True)]


def of_peak(way: str, sessions: int = SESSIONS, line: Line = LINE, rounds: int = 9) -> float:
    """The part of the FMA peak of all threads that a step reaches: the median over rounds, each with its own peak."""
    limits, step = Limits(get_num_threads()), steps(way, sessions, line)
    flops = 2 * replace(line, sequence_length=1, batch_size=sessions).fmas
    found = []
    for _ in range(rounds):
        peak = max(value for name, value in limits.sample().items() if name.startswith(f"fma_{line.dtype}_"))
        found.append(flops / microseconds(step) / 1e3 / peak)
    return float(np.median(found))


def over_one_by_one(way: str, sessions: int = SESSIONS, line: Line = LINE, rounds: int = 9) -> float:
    """How many times the steps of streams one by one a pool does: the median over rounds, in turns."""
    step, streams = steps(way, sessions, line), one_by_one(sessions, line)
    return float(np.median([microseconds(streams) / microseconds(step) for _ in range(rounds)]))
