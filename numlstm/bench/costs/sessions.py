"""A step of many live sessions on one model, compared with the FMA peak and with a stream for each session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numlstm.bench.costs.overhead import model
from numlstm.bench.grid import Workload, find
from numlstm.bench.hardware.clock import microseconds
from numlstm.bench.hardware.limits import Limits
from numlstm.runtime.threads import get_num_threads

WORKLOAD = find("vad_step")
SESSIONS = 1000
WAYS = ("in order", "in another order", "with gaps", "by session")  # order of the slots, and how they are passed


def steps(way: str, sessions: int = SESSIONS, workload: Workload = WORKLOAD) -> Callable[[], Any]:
    """A step of many sessions of a pool.

    Parameters
    ----------
    way : str
        One of `WAYS`: all slots in rising order, so that no state is copied; all slots in another order; the slots of a
        pool without every fifth session, in another order; or a dict of inputs by session.
    sessions : int
        Number of sessions in the step.
    workload : Workload
        The LSTM; its steps and batch are not used.
    """
    lstm, random = model(workload), np.random.default_rng(0)
    pool = lstm.pool(sessions * 5 // 4 if way == "with gaps" else sessions)
    there = [pool.open() for _ in range(pool.capacity)]
    present = np.array([slot for slot in range(pool.capacity) if way != "with gaps" or slot % 5 < 4])
    x = random.standard_normal((sessions, workload.input_size)).astype(workload.dtype)
    if way == "by session":
        inputs = dict(zip(there, x, strict=True))
        return lambda: pool.step(inputs)
    if way != "in order":
        present = random.permutation(present)
    return lambda: pool.step(present, x)


def one_by_one(sessions: int = SESSIONS, workload: Workload = WORKLOAD) -> Callable[[], Any]:
    """A step of the same number of sequences, each by a call of its own stream."""
    lstm, random = model(workload), np.random.default_rng(0)
    streams = [lstm.stream() for _ in range(sessions)]
    inputs = list(random.standard_normal((sessions, workload.input_size)).astype(workload.dtype))
    return lambda: [stream(x) for stream, x in zip(streams, inputs, strict=True)]


def of_peak(way: str, sessions: int = SESSIONS, workload: Workload = WORKLOAD, rounds: int = 9) -> float:
    """Part of the FMA peak of all threads that a step reaches: the median over rounds, with a peak for each."""
    limits, step = Limits(get_num_threads()), steps(way, sessions, workload)
    flops = 2 * replace(workload, sequence_length=1, batch_size=sessions).fmas
    found = []
    for _ in range(rounds):
        peak = max(value for name, value in limits.sample().items() if name.startswith(f"fma_{workload.dtype}_"))
        found.append(flops / microseconds(step) / 1e3 / peak)
    return float(np.median(found))


def over_one_by_one(way: str, sessions: int = SESSIONS, workload: Workload = WORKLOAD, rounds: int = 9) -> float:
    """Speed-up of a pool over streams one by one: the median over rounds, in turns."""
    step, streams = steps(way, sessions, workload), one_by_one(sessions, workload)
    return float(np.median([microseconds(streams) / microseconds(step) for _ in range(rounds)]))
