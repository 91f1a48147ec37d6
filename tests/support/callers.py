"""Threads that call at once, and take turns after a few instructions."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FOR_EVER = 120  # seconds: a bound on a hang


@contextmanager
def switching(seconds: float = 1e-6) -> Iterator[None]:
    """Python's threads take turns after so long."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(target: Callable[[int], None], count: int) -> None:
    """``target(n)`` in so many threads, to the end."""
    with switching():
        callers = [threading.Thread(target=target, args=(n,)) for n in range(count)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(FOR_EVER)
