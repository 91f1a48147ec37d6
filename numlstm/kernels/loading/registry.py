"""Kernel -> C functions: shipped with the package, from the cache, or built and cached. The one door to the kernels.

Each way is tried only where the one before has nothing that fits, and imported only then: a shipped kernel needs
neither Numba nor llvmlite, a cached one llvmlite alone.
"""

from __future__ import annotations

import os
import threading
import time
from functools import cache

from numlstm.base.fork_locks import fork_safe, let_forks_pass

from . import prebuilt
from .entry_points import Kernel
from .levels import Level, this_machine

if not os.path.isdir(prebuilt.FOLDER):  # whoever makes kernels imports it, where a fork could come amid that
    import logging  # noqa: F401
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
        begun, reason = time.perf_counter(), ""
        with _lock:
            loaded = _loaded.get(number)
            if loaded is None:
                try:
                    loaded = _loaded[number] = prebuilt.load(number, level(), begun)
                except prebuilt.Unfit as unfit:
                    reason = str(unfit)
                    # under the lock, since a child that is forked amid an import waits for the end of it for ever
                    from . import jit
    if loaded is None:
        let_forks_pass()  # those that waited for the import would not wait for the lock that came with it
        with jit.lock:
            loaded = _loaded.get(number)
            if loaded is None:
                loaded = _loaded[number] = jit.kernel(number, level(), reason, begun)
    return loaded
