"""Locks that a forked child finds free."""

from __future__ import annotations

import os
from typing import Protocol, TypeVar


class Lock(Protocol):
    """What ``threading.Lock`` and ``threading.RLock`` have in common."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


L = TypeVar("L", bound=Lock)


def fork_safe(lock: L) -> L:
    """The lock, which a fork waits for: else a child forked while another thread holds it would wait for ever."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
