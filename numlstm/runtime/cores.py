"""Which cores this process may use: CPU affinity, the quota of its control group, and the core a thread is on."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable

MOST = 1024  # threads that may be asked for


def usable_cores() -> int:
    """Cores that this process may use: CPU affinity, and the quota of its control group, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, MOST, quota())))


def quota(root: str | os.PathLike[str] = "/sys/fs/cgroup", own: str | os.PathLike[str] = "/proc/self/cgroup") -> float:
    """Cores' worth of time that the control groups allow (Linux: Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``).

    Parameters
    ----------
    root : path
        Where control groups are mounted.
    own : path
        The file that names those of this process.

    Returns
    -------
    float
        Infinity if nothing limits it.
    """
    least = math.inf
    groups = [line.split(":", 2) for line in _text(own).splitlines()]
    for _, kinds, path in (group for group in groups if len(group) == 3):
        if kinds == "":  # version 2: every group above limits it too; in a container the path is often not visible
            names = [name for name in path.split("/") if name]
            for depth in range(len(names) + 1):
                limit = _words(os.path.join(root, *names[:depth], "cpu.max"))
                least = min(least, _ratio(*limit) if len(limit) == 2 else math.inf)
        elif "cpu" in kinds.split(","):  # version 1
            for folder in (os.path.join(root, "cpu", path.lstrip("/")), os.path.join(root, "cpu")):
                limit = _words(f"{folder}/cpu.cfs_quota_us") + _words(f"{folder}/cpu.cfs_period_us")
                least = min(least, _ratio(*limit) if len(limit) == 2 else math.inf)
    return least


def _text(path: str | os.PathLike[str]) -> str:
    try:
        with open(path) as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def _words(path: str) -> list[str]:
    return _text(path).split()


def _ratio(allowed: str, period: str) -> float:
    """Cores' worth of a quota; ``max`` and -1 mean no limit."""
    if not allowed.isdigit() or not period.isdigit() or int(period) == 0:
        return math.inf
    return int(allowed) / int(period)


def _yield_address() -> int:
    """Address of the system's function that offers the core to other threads; 0 if there is none."""
    try:
        windows = getattr(ctypes, "windll", None)
        function = windows.kernel32.SwitchToThread if windows else ctypes.CDLL(None).sched_yield
        return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
    except (OSError, AttributeError):
        return 0


def _current_core() -> Callable[[], int] | None:
    """The function that tells the calling thread's core; None if the system has none, or cannot pin threads."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        core: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
        return core if core() in os.sched_getaffinity(0) else None
    except (OSError, AttributeError):
        return None


YIELD = _yield_address()
current_core = _current_core()
