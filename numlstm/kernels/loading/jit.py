"""Kernels that are not shipped: from the cache, or built here and cached."""

from __future__ import annotations

import logging  # noqa: F401  # before the lock below
import threading

from numlstm.base.fork_locks import fork_safe
from numlstm.base.log import lengthy, log
from numlstm.base.requirements import install

from . import cache
from .entry_points import Kernel, TrainingKernel
from .fingerprint import of_training
from .levels import Level

BUILD_SPACE = 3 << 29  # bytes of address space that compiling takes: 1.2 GB were measured
# Held while a kernel is made, which logs. A fork takes all locks, the latest first. Logging must have made its own
# by now: else the fork would take it and wait for this one, whose holder waits for logging.
lock = fork_safe(threading.Lock())


def kernel(number: str, level: Level, reason: str, begun: float) -> Kernel | TrainingKernel:
    """The kernel of a number type and level; ``reason`` says why no shipped one is used.

    Raises
    ------
    ImportError
        None is cached, and Numba or llvmlite cannot be imported or may not have the memory to make one.
    """
    from .linker import link

    log().info("numlstm: no shipped %s kernels are used: %s", number, reason)
    try:
        code, origin = object_code(number, level)
        return link(code, level, origin, begun, of_training(number))
    except (ImportError, OSError, MemoryError) as error:  # OSError: llvmlite's library does not load
        raise ImportError(
            f"numlstm has no {number} kernels for this CPU, whose level is {level.name}, and cannot make them.\n"
            f"Shipped kernels: {reason}. To make some it needs numba and llvmlite: {error}.\n"
            f"Install both ({install('numba')}) or a wheel of numlstm for this system; a limit of memory may be why."
        ) from error


def _check_room() -> None:
    """Refuse to compile under too low a limit of address space, where LLVM would end the process."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        with open("/proc/self/statm") as file:
            room = limit - int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # a system without such a limit
        return
    if limit != resource.RLIM_INFINITY and room < BUILD_SPACE:
        raise MemoryError(
            f"compiling takes {BUILD_SPACE >> 20} MB of address space, and the limit of this process (ulimit -v) "
            f"leaves {max(room, 0) >> 20} MB"
        )


def object_code(number: str, level: Level) -> tuple[bytes, str]:
    """The object of a number type and level, from the cache or else built and cached; and where it came from."""

    def build_it(once: str) -> bytes:
        _check_room()
        lengthy("numlstm: compiling the %s kernels for %s, %s; some 15 seconds", number, level.name, once)
        from . import build

        return build.object_code(number, level)

    return cache.obtain(lambda: cache.file_name(number, level), build_it)
