"""A step of a thousand live sessions of the size of vad_step on one model."""

from __future__ import annotations

import os

from numlstm.bench.costs import sessions
from numlstm.runtime.threads import num_threads

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
SESSIONS = 100 if QUICK else sessions.SESSIONS
ROUNDS = 1 if QUICK else 9
THREADS = [1] if QUICK else [1, 2]


class Step:
    """By the order of the slots, and how they are passed."""

    params = (list(sessions.WAYS), THREADS)
    param_names = ("way", "threads")
    timeout = 120.0

    def setup(self, way: str, threads: int) -> None:
        """Make the step once."""
        self.threads = num_threads(threads)
        self.threads.__enter__()
        self.step = sessions.steps(way, SESSIONS)
        self.step()

    def teardown(self, way: str, threads: int) -> None:
        """Restore the number of threads."""
        self.threads.__exit__(None, None, None)

    def time_step(self, way: str, threads: int) -> None:
        self.step()

    def track_of_peak(self, way: str, threads: int) -> float:
        return sessions.of_peak(way, SESSIONS, rounds=ROUNDS)

    def track_over_one_by_one(self, way: str, threads: int) -> float:
        return sessions.over_one_by_one(way, SESSIONS, rounds=ROUNDS)

    track_of_peak.unit = "of the FMA peak"  # type: ignore[attr-defined]
    track_over_one_by_one.unit = "times the steps a second"  # type: ignore[attr-defined]
