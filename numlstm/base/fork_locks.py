"""Locks that a forked child finds free."""

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
PATIENCE = 1.0  # seconds: a fork takes milliseconds; one that waits for the very thread that waits for it, for ever
_forks: dict[int, list[Lock]] = {}  # by the thread that forks: the locks that it has taken for that


def fork_safe(lock: L) -> L:
    """The lock, which a fork waits for: else a child forked while another thread holds it would wait for ever.

    A fork that had begun by now knows nothing of it, and releases it no more than it has taken it. In its child the
    lock is free all the same: whoever holds it there is another thread, which has taken it for a fork of its own.
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
            with suppress(RuntimeError):  # nobody holds it
                lock.release()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=take, after_in_parent=give, after_in_child=free)
    return lock


def let_forks_pass() -> None:
    """Wait for the forks that other threads have begun, before a lock is used that was made since then."""
    until = time.monotonic() + PATIENCE
    for fork in list(_forks.values()):
        while any(fork is under_way for under_way in list(_forks.values())) and time.monotonic() < until:
            time.sleep(0.001)


def _forget_others() -> None:
    """In a forked child: of forks that other threads had begun, none goes on."""
    for thread in list(_forks):
        if thread != get_ident():
            del _forks[thread]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_others)
