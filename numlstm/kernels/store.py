"""Kernel -> C functions: shipped with the package, from the cache, or built and cached. The one door to the kernels.

Each way is tried only where the one before has nothing that fits, and imported only then: a shipped kernel needs
neither Numba nor llvmlite, a cached one llvmlite alone. Whatever goes wrong
with the cache, the kernel is built in memory, and the log says so once.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from functools import cache

from ..locks import fork_safe
from . import shipped
from .levels import Level, this_machine
from .loaded import Kernel

log = logging.getLogger("numlstm")
# Before a fork the locks are taken, the latest first: logging must have made its
# own by now, or a fork would take it and wait for this one, whose holder cannot go on while it must log.
BUILD_SPACE = 1 << 30  # bytes of address space that compiling takes: some 0.8 GB were measured
UNKEPT = "compiled for this process alone"  # how the origin of a kernel begins that no later process will find
_lock = fork_safe(threading.Lock())
_loaded: dict[str, Kernel] = {}


@cache
def level() -> Level:
    """The kind of CPU that kernels are loaded for in this process."""
    return this_machine()


def lanes(number: str) -> int:
    """Numbers of this type in one register of this process's kernels."""
    return level().lanes(number)


def kernel(number: str) -> Kernel:
    """The kernel for "float32" or "float64", loaded on first use. Safe from any number of threads.

    Raises
    ------
    ImportError
        If none fits that is there, and Numba or llvmlite, which could make one, cannot be imported or may not have
        the memory.
    """
    loaded = _loaded.get(number)
    if loaded is None:
        with _lock:
            loaded = _loaded.get(number)
            if loaded is None:
                loaded = _loaded[number] = _load(number, level())
    return loaded


def _load(number: str, level: Level) -> Kernel:
    begun = time.perf_counter()
    try:
        return shipped.load(number, level, begun)
    except shipped.Unfit as unfit:
        reason = str(unfit)
    from .linked import link

    log.info("numlstm: no shipped %s kernels are used: %s", number, reason)
    try:
        code, origin = object_code(number, level)
        return link(code, level, origin, begun)
    except (
        ImportError,
        OSError,
        MemoryError,
    ) as error:  # OSError is llvmlite's, whose library the system does not load
        raise ImportError(
            f"numlstm has no {number} kernels for this CPU, whose level is {level.name}, and cannot make them.\n"
            f"Shipped kernels: {reason}. To make some it needs numba and llvmlite: {error}.\n"
            "Install both (pip install numba) or a wheel of numlstm for this system; a limit of memory may be why."
        ) from error


def _check_room() -> None:
    """Refuse to compile under a limit of address space that LLVM would not be content with: it ends the process."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        with open("/proc/self/statm") as file:
            room = limit - int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # a system that sets no such limit, or does not tell
        return
    if limit != resource.RLIM_INFINITY and room < BUILD_SPACE:
        raise MemoryError(
            f"compiling takes {BUILD_SPACE >> 20} MB of address space, and the limit of this process (ulimit -v) "
            f"leaves {max(room, 0) >> 20} MB"
        )


def object_code(number: str, level: Level) -> tuple[bytes, str]:
    """The object of a number type and level, from the cache or else built and cached; and where it came from."""
    from . import cached

    unkept: OSError | None = None
    path = code = None
    with ExitStack() as held:
        try:
            path = cached.cache_folder() / cached.file_name(number, level)
            code = cached.read(path)
            if code is None:
                held.enter_context(cached.turn(path))
                code = cached.read(path)  # which another process may have made by now
        except OSError as error:
            unkept = error
            log.warning("numlstm: kernels are not cached, since %s; they are compiled for this process alone", error)
        if code is not None:
            return code, f"cache: {path}"
        log.info(
            "numlstm: compiling the %s kernels for %s; the next process finds them in %s", number, level.name, path
        )
        _check_room()
        from . import build

        code = build.object_code(number, level)
        if path is not None and unkept is None:
            try:
                cached.write(path, code)
            except OSError as error:
                unkept = error
                log.warning("numlstm: compiled kernels cannot be cached, since %s", error)
    return code, f"{UNKEPT}: {unkept}" if unkept else f"compiled in this process, and cached: {path}"
