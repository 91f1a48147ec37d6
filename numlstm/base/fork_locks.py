"""Locks that are free in a forked child."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from threading import get_ident
from typing import Protocol, TypeVar


class Lock(Protocol):
    """What ``threading.Lock`` and ``threading.RLock`` have in common."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


L = TypeVar("L", bound=Lock)
# Seconds to wait for a fork. Forks take milliseconds; without a bound, a fork that waits on this thread would deadlock.
PATIENCE = 1.0
_forks: dict[int, list[Lock]] = {}  # by forking thread: the locks that it has taken


def fork_safe(lock: L) -> L:
    """Make forks wait for the lock, and return it. A child forked while another thread held it would deadlock.

    A fork that has already begun neither takes nor releases the lock. It is free in that child too: if it is held
    there, then by another thread that took it for its own fork.
    """

    def take() -> None:
        taken = _forks.setdefault(get_ident(), [])
        lock.acquire()
        taken.append(lock)

    def give() -> None:
        taken = _forks.get(get_ident(), [])
        if lock in taken:
            taken.remove(lock)
            lock.release()
        if not taken:
            _forks.pop(get_ident(), None)

    def free() -> None:
        if lock in _forks.get(get_ident(), []):
            give()
        else:
            with suppress(RuntimeError):  # not held
                lock.release()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=take, after_in_parent=give, after_in_child=free)
    return lock


def let_forks_pass() -> None:
    """Wait for forks in progress in other threads, before a lock is used that they do not know."""
    until = time.monotonic() + PATIENCE
    for fork in list(_forks.values()):
        while any(fork is under_way for under_way in list(_forks.values())) and time.monotonic() < until:
            time.sleep(0.001)


def _forget_others() -> None:
    """In a forked child, drop the forks of other threads, which do not exist there."""
    for thread in list(_forks):
        if thread != get_ident():
            del _forks[thread]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_others)
